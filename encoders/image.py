"""Image encoders: any sentence-transformers model that reads pictures; text asks for them where it reads both."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..errors import EncoderError, InputError, ModelUnavailable, QueryError
from .base import Vectors, check_vectors, digest, spread
from .model import Side
from .pictures import Pictures, bytes_of, decoded, is_data_uri, shown
from .pulse import beat
from .text import shared_model
from .together import Together

if TYPE_CHECKING:
    from PIL.Image import Image

_BOTH = "sentence-transformers/clip-ViT-B-32"


class ImageEncoder:
    """A model of pictures; encoders of one model share its weights, with those of text too.

    A document is a reference to a picture: a `data:` URI, base64, an http(s) URL, or a path in KNNEX_IMAGES. A query is
    a picture as a `data:` URI, or else text, which leads nowhere. Raises ModelUnavailable for a model that cannot be
    loaded or reads no pictures, SettingsError for a device that is not there.
    """

    #: Of text, which a picture has none of.
    max_tokens = 0

    def __init__(
        self,
        name: str,
        *,
        query_prompt: str | None = None,
        device: str | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        if importlib.util.find_spec("PIL") is None:
            raise ModelUnavailable(f"model {name!r} needs the package pillow", hint='pip install "knnex[image]"')
        self.name = name
        self.model = shared_model(name, device, "float32")
        if "image" not in self.model.modalities:
            raise ModelUnavailable(
                f"model {name!r} reads no pictures, only {', '.join(sorted(map(str, self.model.modalities)))}",
                hint=f"leave out kind: image, or use a model of pictures, such as {_BOTH}",
            )
        self.pictures = pictures or Pictures.by_settings()
        self._again = partial(ImageEncoder, name, query_prompt=query_prompt, device=device, pictures=pictures)
        self.query_prompt = self.model.prompt("query") if query_prompt is None else query_prompt
        self.revision, self.dims = self.model.revision, self.model.dims
        self.identity = digest("image", self.revision, self.dims)
        self._queries = Together(self._encode_queries)

    def __repr__(self) -> str:
        return f"ImageEncoder({self.name!r}, revision={self.revision!r}, dims={self.dims}, device={self.model.device})"

    def __reduce__(self) -> tuple[Callable[[], ImageEncoder], tuple[()]]:
        # In another process it is loaded anew, by its name.
        return self._again, ()

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of referenced pictures, `(n, dims) float32`. Raises EncoderError for one that cannot be read."""
        vectors, unread = self.encode_readable(texts)
        if unread:
            raise EncoderError(next(iter(unread.values())))
        return vectors

    def encode_readable(self, texts: Sequence[str]) -> tuple[Vectors, dict[int, str]]:
        """The vectors of referenced pictures, `(n, dims) float32`, and by row why one cannot be read: all NaN."""
        parts = [np.empty((0, self.dims), dtype=np.float32)]
        unread: dict[int, str] = {}
        start = 0
        for window in self.pictures.windows(texts):
            kept = []
            for row, found in enumerate(window):
                if isinstance(found, InputError):
                    unread[start + row] = unreadable(texts[start + row], found)
                else:
                    kept.append(row)
            made = self._encode_images([found for found in window if not isinstance(found, InputError)], "document")
            parts.append(spread(made, kept, len(window)))
            start += len(window)
            beat()
        return np.concatenate(parts), unread

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of texts and of pictures as `data:` URIs, `(n, dims) float32`; threads share a call.

        Raises QueryError for a picture that cannot be read, and for text where the model reads none.
        """
        return self._queries(texts) if texts else np.empty((0, self.dims), dtype=np.float32)

    def offsets(self, text: str) -> list[tuple[int, int]]:  # noqa: ARG002
        """None: a picture has no tokens of text."""
        return []

    def count_tokens(self, text: str) -> int:  # noqa: ARG002
        """0: a picture has no tokens of text."""
        return 0

    def _encode_queries(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), self.dims), dtype=np.float32)
        seen = [row for row, text in enumerate(texts) if is_data_uri(text)]
        words = [row for row, text in enumerate(texts) if not is_data_uri(text)]
        if words and "text" not in self.model.modalities:
            raise QueryError(
                f"{self.name} reads pictures and no text",
                hint=f"search by a picture, .semantic('EMBEDDING', image=...), or use a model of both, such as {_BOTH}",
            )
        vectors[seen] = self._encode_images([self._asked(texts[row]) for row in seen], "query")
        if words:
            made = self.model.encode([texts[row] for row in words], "query", self.query_prompt)
            vectors[words] = check_vectors(made, len(words), self.dims, self.name)
        return vectors

    def _encode_images(self, images: Sequence[Image], side: Side) -> Vectors:
        if not images:
            return np.empty((0, self.dims), dtype=np.float32)
        return check_vectors(self.model.encode_images(images, side), len(images), self.dims, self.name)

    def _asked(self, uri: str) -> Image:
        try:
            return decoded(bytes_of(uri))
        except InputError as error:
            raise QueryError(f"the picture {shown(uri)} cannot be read: {error}", hint=error.hint) from None


def unreadable(reference: str, error: InputError) -> str:
    """Why a document has no vector, with the way out."""
    return f"the picture {shown(reference)} cannot be read: {error}" + (f" ({error.hint})" if error.hint else "")
