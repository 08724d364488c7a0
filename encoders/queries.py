"""The vectors of queries: by the model that filled the index, kept in memory for who asks the same again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from ..errors import ModelMismatch
from ..mappings import Stored
from ..settings import settings
from .base import Encoder, Vectors
from .fingerprint import query_keys
from .registry import load_matching
from .together import MOST


class QueryCache:
    """The vectors of the `most` texts that were asked last; `hits` and `misses` count the texts looked up. Thread-safe.

    A key is a hash of the model's content, the prompt and the text: of another model there is never a hit.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.hits = 0
        self.misses = 0
        self._held: OrderedDict[bytes, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"QueryCache({self.most}, held={len(self)}, hits={self.hits}, misses={self.misses})"

    def __len__(self) -> int:
        return len(self._held)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """The vectors there are among these keys, each `(dims,) float32` and read-only."""
        with self._lock:
            found = {key: self._held[key] for key in keys if key in self._held}
            for key in found:
                self._held.move_to_end(key)
            self.hits += len(found)
            self.misses += len(keys) - len(found)
            return found

    def put_many(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Keep these vectors, each `(dims,) float32`, and let go of those that were not asked for longest."""
        # Copies: a row would keep alive the whole matrix that it is of.
        rows = {key: vector.copy() for key, vector in vectors.items()}
        for row in rows.values():
            row.flags.writeable = False
        with self._lock:
            for key, row in rows.items():
                self._held[key] = row
                self._held.move_to_end(key)
            while len(self._held) > self.most:
                self._held.popitem(last=False)


@cache
def query_cache() -> QueryCache:
    """The cache of this process, of the size that KNNEX_QUERY_CACHE says."""
    return QueryCache(settings().query_cache)


def query_vectors(stored: Stored, name: str, texts: Sequence[str]) -> Vectors:
    """The vectors of an embedding's query side, `(n, dims) float32`, by the model that filled the index.

    For `dot_product`, which is defined for unit length, they have that, as documents have. Raises ModelMismatch,
    ModelUnavailable, EncoderError, SpecError.
    """
    embedding = stored.spec.embeddings[name]
    try:
        vectors = encode_queries(load_matching(stored, name), embedding.query_prompt, texts)
    except ModelMismatch:
        load_matching(stored, name, anew=True)  # exchanged while it was asked: this names both fingerprints
        raise
    if embedding.similarity == "dot_product":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def encode_queries(encoder: Encoder, prompt: str | None, texts: Sequence[str]) -> Vectors:
    """The vectors of texts under the query prompt `prompt`, `(n, dims) float32`, each looked up or else encoded once.

    `prompt` is what the encoder was made with; None is the model's own. Raises what the encoder raises.
    """
    held, keys = query_cache(), query_keys(encoder, prompt, texts)
    distinct = dict(zip(keys, texts, strict=True))
    known = held.get_many(list(distinct)) if held.most else {}
    missing = [key for key in distinct if key not in known]
    for start in range(0, len(missing), MOST):
        some = missing[start : start + MOST]
        fresh = dict(zip(some, encoder.encode_queries([distinct[key] for key in some]), strict=True))
        held.put_many(fresh)
        known |= fresh
    vectors = np.empty((len(texts), encoder.dims), dtype=np.float32)
    for row, key in enumerate(keys):
        vectors[row] = known[key]
    return vectors
