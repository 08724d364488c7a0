"""Encoding that never encodes the same text twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .base import Encoder, Vectors
from .cache import VectorCache
from .fingerprint import cache_key


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors `(n, dims) float32`, and how many distinct texts were found in the cache and how many were encoded."""

    vectors: Vectors
    hits: int
    encoded: int


def encode_cached(encoder: Encoder, cache: VectorCache | None, texts: Sequence[str]) -> Encoded:
    """The vectors of documents, each distinct text looked up or else encoded once. Raises what the encoder raises."""
    keys = [cache_key(encoder, text) for text in texts]
    distinct = dict(zip(keys, texts, strict=True))
    found = cache.get_many(list(distinct)) if cache is not None else {}
    known = {key: vector for key, vector in found.items() if vector.shape == (encoder.dims,)}
    missing = [key for key in distinct if key not in known]
    if missing:
        fresh = dict(zip(missing, encoder.encode_documents([distinct[key] for key in missing]), strict=True))
        if cache is not None:
            cache.put_many(fresh)
    else:
        fresh = {}
    vectors = np.empty((len(texts), encoder.dims), dtype=np.float32)
    for row, key in enumerate(keys):
        vectors[row] = known[key] if key in known else fresh[key]
    return Encoded(vectors, hits=len(known), encoded=len(missing))
