"""Encoding by a `knnex serve` elsewhere, so that neither torch nor a model need be in this process."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import orjson
import urllib3
from pydantic import BaseModel, ConfigDict, ValidationError
from urllib3.exceptions import HTTPError, ProtocolError

from ..engines.wire import portions
from ..errors import BadVector, EncoderError, KnnexError, ModelMismatch, ModelUnavailable, QueryError, SettingsError
from ..mappings.embedding import Kind
from ..settings import settings
from ..telemetry import hide
from .base import Vectors, check_vectors, spread
from .fetching import tls_context
from .model import clean
from .together import Together

#: Texts of one request.
MOST_TEXTS = 256
# Characters of one request, beyond which a further text goes into the next: the server takes 32 MB.
_MOST_CHARACTERS = 2_000_000
# The model failed on these texts; with another status there is no model to ask.
_FAILED = (413, 422, 500)


class Ask(BaseModel):
    """What is posted to /encode: texts for one side of a model, or to be cut into its tokens."""

    model_config = ConfigDict(strict=True, extra="forbid")

    encoder: str
    kind: Kind = "text"
    query_prompt: str | None = None
    document_prompt: str | None = None
    side: Literal["query", "document", "tokens"]
    texts: list[str]


class Told(BaseModel):
    """What is answered: the model's facts as `Encoder` has them, and what was asked for.

    `vectors` is the base64 of `(n, dims)` little-endian float32, without the rows of `unread`: those of pictures that
    could not be read, and why. `offsets` has the character spans of each text's tokens.
    """

    model_config = ConfigDict(strict=True)

    revision: str
    identity: str
    dims: int
    max_tokens: int
    vectors: str = ""
    unread: list[tuple[int, str]] = []
    offsets: list[list[list[int]]] = []


class RemoteEncoder:
    """The model of that name where the URL leads. It is asked once what it is; from then on it has to stay that.

    Raises SettingsError for a URL that is none; ModelUnavailable where there is no answer, or none of a `knnex serve`
    that has this model; ModelMismatch where the model has been exchanged; EncoderError for texts it fails on.
    """

    def __init__(
        self,
        url: str,
        name: str,
        kind: Kind = "text",
        *,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> None:
        self.url, self.name, self.kind = _checked(url), name, kind
        self.query_prompt, self.document_prompt = query_prompt, document_prompt
        told = self._ask("query", [])
        self.revision, self.identity = told.revision, told.identity
        self.dims, self.max_tokens = told.dims, told.max_tokens
        self._queries = Together(self._encode_queries)

    def __repr__(self) -> str:
        return f"RemoteEncoder({self.url!r}, {self.name!r}, revision={self.revision!r}, dims={self.dims})"

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of documents, `(n, dims) float32`. Raises BadVector."""
        vectors, unread = self.encode_readable(texts)
        if unread:
            raise EncoderError(next(iter(unread.values())))
        return vectors

    def encode_readable(self, texts: Sequence[str]) -> tuple[Vectors, dict[int, str]]:
        """The vectors of documents, `(n, dims) float32`, and by row why a picture cannot be read there: all NaN."""
        return self._encode("document", texts)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of queries, `(n, dims) float32`; threads that ask at once share a request. Raises BadVector."""
        return self._queries(texts) if texts else np.empty((0, self.dims), dtype=np.float32)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span of each token, special ones not among them, however long the text."""
        told = self._same(self._ask("tokens", [text]))
        try:
            return [(start, end) for start, end in told.offsets[0]]
        except (IndexError, ValueError):
            raise self._nonsense("it told no tokens") from None

    def count_tokens(self, text: str) -> int:
        """The number of tokens of a text, special ones not counted."""
        return len(self.offsets(text))

    def _encode_queries(self, texts: Sequence[str]) -> Vectors:
        vectors, unread = self._encode("query", texts)
        if unread:
            raise QueryError(next(iter(unread.values())), hint=f"{self.name} at {self.url} says so")
        return vectors

    def _encode(self, side: Literal["query", "document"], texts: Sequence[str]) -> tuple[Vectors, dict[int, str]]:
        parts = [np.empty((0, self.dims), dtype=np.float32)]
        unread: dict[int, str] = {}
        start = 0
        for some in portions(texts, MOST_TEXTS, _MOST_CHARACTERS):
            told = self._same(self._ask(side, some))
            failed = dict(told.unread)
            if not failed.keys() <= set(range(len(some))):
                raise self._nonsense(f"it cannot read the texts {sorted(failed)} of {len(some)}")
            kept = [row for row in range(len(some)) if row not in failed]
            made = self._vectors(told, len(kept))
            parts.append(spread(made, kept, len(some)) if failed else made)
            unread |= {start + row: reason for row, reason in failed.items()}
            start += len(some)
        return np.concatenate(parts), unread

    def _vectors(self, told: Told, rows: int) -> Vectors:
        try:
            numbers = np.frombuffer(base64.b64decode(told.vectors, validate=True), dtype="<f4")
        except ValueError as error:
            raise self._nonsense(f"its vectors cannot be read: {error}") from None
        if told.dims != self.dims or numbers.size != rows * self.dims:
            raise BadVector(
                f"{self.url} gave {numbers.size} numbers of {told.dims} dims for {rows} texts of {self.dims} dims",
                hint="run the same version of knnex there and here",
            )
        return check_vectors(numbers.reshape(rows, self.dims).copy(), rows, self.dims, f"{self.name} at {self.url}")

    def _same(self, told: Told) -> Told:
        if told.identity != self.identity:
            raise ModelMismatch(
                f"{self.name} at {self.url} was exchanged: its identity was {self.identity} and is {told.identity}",
                hint="restart this process if it is meant to be so, else give that server the former model",
            )
        return told

    def _ask(self, side: Literal["query", "document", "tokens"], texts: Sequence[str]) -> Told:
        # Halves of characters have no form in JSON; a model would be given the same in their place.
        ask = Ask(
            encoder=self.name,
            kind=self.kind,
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            side=side,
            texts=[clean(text) for text in texts],
        )
        ours = settings()
        answer = _post(self.url, ask, ours.deadline if side == "document" else ours.timeout)
        if answer.status != 200:
            raise self._refused(answer)
        try:
            return Told.model_validate_json(answer.data)
        except ValidationError as error:
            raise self._nonsense(f"its answer is not one: {error.errors()[0]['msg']}") from None

    def _refused(self, answer: urllib3.BaseHTTPResponse) -> KnnexError:
        """The error for a status that is none of success."""
        try:
            body = orjson.loads(answer.data)
        except ValueError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("error"), str) or answer.status == 404:
            return self._nonsense(f"it answered {answer.status} {answer.reason or ''}".rstrip())
        hint = "set KNNEX_TOKEN here to what it is there" if answer.status == 401 else str(body.get("hint") or "")
        kind = EncoderError if answer.status in _FAILED else ModelUnavailable
        return kind(f"{self.url} does not encode with {self.name!r}: {body['error']}", hint=hint or "its log says more")

    def _nonsense(self, what: str) -> ModelUnavailable:
        return ModelUnavailable(
            f"{self.url} does not speak as `knnex serve` of this version does: {what}",
            hint="correct KNNEX_ENCODER_URL, or run the same version of knnex there and here",
        )


def _checked(url: str) -> str:
    """The URL without a slash at its end. Raises SettingsError."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(
            f"KNNEX_ENCODER_URL is no address of a server: {hide(url)!r}",
            hint="write http://HOST:8088, or https:// for a proxy before it; the secret goes into KNNEX_TOKEN",
        )
    return url.rstrip("/")


def _post(url: str, ask: Ask, patience: float) -> urllib3.BaseHTTPResponse:
    """The answer, whatever its status. Raises ModelUnavailable where there is none."""
    token = settings().token
    headers = {"content-type": "application/json"}
    if token is not None:
        headers["authorization"] = f"Bearer {token.get_secret_value()}"
    body = orjson.dumps(ask.model_dump(exclude_defaults=True))
    pool, timeout = _pool(), urllib3.Timeout(connect=min(patience, 10.0), read=patience)

    def send() -> urllib3.BaseHTTPResponse:
        return pool.request(
            "POST", f"{url}/encode", body=body, headers=headers, timeout=timeout, retries=False, redirect=False
        )

    try:
        try:
            return send()
        except ProtocolError:  # such as of a connection that rested, and that the server has closed meanwhile
            return send()
    except HTTPError as error:
        reason = str(error).split("): ", 1)[-1]
        raise ModelUnavailable(
            f"no answer from {url}/encode: {reason}",
            hint="see that `knnex serve` runs there and KNNEX_ENCODER_URL leads to it; KNNEX_TIMEOUT for slow ones",
        ) from None


@cache
def _pool() -> urllib3.PoolManager:
    """Connections that are kept open, over TLS only to who proves their name."""
    return urllib3.PoolManager(maxsize=8, ssl_context=tls_context())
