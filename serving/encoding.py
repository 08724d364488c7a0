"""`POST /encode`: texts and pictures become vectors here, for processes that have no model.

A document of a model of pictures is a reference: it is read here, under the settings of this process, as a worker here
would read it, and only for who may use the endpoint at all. A query leads nowhere.
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from functools import lru_cache

import anyio
import anyio.to_thread
import orjson
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..encoders import KINDS, Encoder, Vectors, encode_queries
from ..encoders.base import encode_readable
from ..encoders.remote import MOST_TEXTS, Ask, Told
from ..errors import QueryError
from ..mappings.embedding import Kind
from .answers import Declined
from .body import Budget, is_lines, read_body


# Who sends other prompts with each request must not fill the memory with encoders; their weights are shared.
@lru_cache(maxsize=64)
def _encoder(kind: Kind, name: str, query_prompt: str | None, document_prompt: str | None) -> Encoder:
    return KINDS[kind](name, query_prompt=query_prompt, document_prompt=document_prompt)


class Encoding:
    """The endpoint. Queries that arrive at once are encoded in one call; documents, which take long, by few threads."""

    def __init__(self, models: Collection[str], budget: Budget) -> None:
        self._models, self._budget = frozenset(models), budget
        self._reading, self._queries, self._documents = (anyio.CapacityLimiter(size) for size in (2, 32, 2))

    async def post(self, request: Request) -> Response:
        """Vectors, and the facts of their model; 403 for a model that is not served, 422 for texts it fails on."""
        if is_lines(request):
            raise Declined(415, "the body is NDJSON", "send one object as application/json")
        try:
            data = await read_body(request, self._budget)
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody hears
        try:
            ask = await anyio.to_thread.run_sync(self._read, data, limiter=self._reading)
            limiter = self._queries if ask.side == "query" else self._documents
            told = await anyio.to_thread.run_sync(_tell, ask, limiter=limiter)
        finally:
            self._budget.give_back(len(data))
        return Response(told, media_type="application/json")

    def _read(self, data: bytes) -> Ask:
        """Raises Declined (400, 403, 413)."""
        try:
            ask = Ask.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            raise Declined(400, f"{where}: {first['msg']}", "run the same version of knnex there and here") from None
        if ask.encoder not in self._models:
            raise Declined(
                403,
                f"this server does not encode with {ask.encoder!r:.200}",
                "name it in KNNEX_SERVED_MODELS where the server runs, as the spec does: '[\"MODEL\"]'",
            )
        if len(ask.texts) > MOST_TEXTS:
            raise Declined(413, f"there are more than {MOST_TEXTS} texts", "send them in several requests")
        return ask


def _tell(ask: Ask) -> bytes:
    """The answer, as JSON. Raises ModelUnavailable, EncoderError."""
    encoder = _encoder(ask.kind, ask.encoder, ask.query_prompt, ask.document_prompt)
    told = Told(revision=encoder.revision, identity=encoder.identity, dims=encoder.dims, max_tokens=encoder.max_tokens)
    if ask.side == "query":
        try:
            told.vectors = _packed(encode_queries(encoder, ask.query_prompt, ask.texts))
        except QueryError as error:
            told.unread = [(row, str(error)) for row in range(len(ask.texts))]
    elif ask.side == "document":
        vectors, unread = encode_readable(encoder, ask.texts)
        told.unread = list(unread.items())
        told.vectors = _packed(vectors[[row not in unread for row in range(len(vectors))]])
    else:
        told.offsets = [[list(span) for span in encoder.offsets(text)] for text in ask.texts]
    return orjson.dumps(told.model_dump())


def _packed(vectors: Vectors) -> str:
    return base64.b64encode(vectors.astype("<f4").tobytes()).decode()
