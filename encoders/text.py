"""Text encoders: any sentence-transformers model, by name or by path."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import EncoderError, ModelUnavailable
from .base import Vectors, check_vectors, digest
from .model import LoadedModel, Precision, Side
from .model_files import find_model
from .together import Together

_models: dict[tuple[Path, str | None, Precision], LoadedModel] = {}
_models_lock = threading.Lock()


class TextEncoder:
    """A sentence-transformers model with a prompt for each side; encoders of one model share its weights.

    Without a prompt a side has the one of the model's own configuration, which may be empty; "" is none. `bfloat16`
    halves the layers' precision (cosine to float32 above 0.9999), which is faster on processors that compute in it.
    Raises ModelUnavailable for a model that cannot be loaded, SettingsError for a device that is not there.
    """

    def __init__(
        self,
        name: str,
        *,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        precision: Precision = "float32",
        device: str | None = None,
    ) -> None:
        self.name = name
        self.precision = precision
        self.model = shared_model(name, device, precision)
        if "text" not in self.model.modalities:
            raise ModelUnavailable(
                f"model {name!r} reads no text, only {', '.join(sorted(map(str, self.model.modalities)))}",
                hint="write kind: image in the spec, or use a model of texts",
            )
        self.query_prompt = self.model.prompt("query") if query_prompt is None else query_prompt
        self.document_prompt = self.model.prompt("document") if document_prompt is None else document_prompt
        self.revision = self.model.revision
        self.dims = self.model.dims
        self.identity = digest("text", self.revision, self.document_prompt, precision, self.dims)
        self.max_tokens = self._room()
        self._queries = Together(lambda texts: self._encode(texts, "query", self.query_prompt))

    def __repr__(self) -> str:
        return f"TextEncoder({self.name!r}, revision={self.revision!r}, dims={self.dims}, device={self.model.device})"

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of documents, `(n, dims) float32`. A text is cut at the model's limit. Raises BadVector."""
        return self._encode(texts, "document", self.document_prompt)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of queries, `(n, dims) float32`; threads that ask at once share a call. Raises BadVector."""
        return self._queries(texts) if texts else np.empty((0, self.dims), dtype=np.float32)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span of each token, special ones not among them, however long the text."""
        return self.model.offsets(text)

    def count_tokens(self, text: str) -> int:
        """The number of tokens of a text, special ones not counted."""
        return self.model.count_tokens(text)

    def _encode(self, texts: Sequence[str], side: Side, prompt: str) -> Vectors:
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise EncoderError(f"{self.name}: input {row} is no text but {type(text).__name__}")
        return check_vectors(self.model.encode(texts, side, prompt), len(texts), self.dims, self.name)

    def _room(self) -> int:
        taken = self.model.special_tokens + (
            self.model.count_tokens(self.document_prompt) if self.document_prompt else 0
        )
        if taken >= self.model.limit:
            raise EncoderError(
                f"{self.name}: the document prompt fills the {self.model.limit} tokens that the model reads",
                hint="shorten document_prompt",
            )
        return self.model.limit - taken


def shared_model(name: str, device: str | None, precision: Precision) -> LoadedModel:
    """The model, loaded once in this process however often it is asked for."""
    directory = find_model(name)
    with _models_lock:
        key = (directory, device, precision)
        if key not in _models:
            _models[key] = LoadedModel(directory, name, device, precision)
        return _models[key]
