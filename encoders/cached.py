"""Encoding that never encodes the same text twice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from .base import Encoder, Vectors, encode_readable
from .caching import Cache
from .fingerprint import cache_key
from .pulse import beat

# Texts given to the model at first, and the seconds that a call should take: a slow model is given fewer, so that what
# is encoded gets into the cache now and then, and that a slow model can be told from one that hangs.
_FIRST, _FEWEST, _SECONDS = 128, 8, 10.0
# By encoder, how many it is given next: like lengths go together, of more texts the better.
_counts: WeakKeyDictionary[Encoder, int] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors `(n, dims) float32`, and how many distinct texts were found in the cache and how many were encoded.

    `unread` has the references that could not be read, each with the reason; their rows are NaN.
    """

    vectors: Vectors
    hits: int
    encoded: int
    unread: Mapping[str, str] = field(default_factory=dict)


def encode_cached(encoder: Encoder, cache: Cache | None, texts: Sequence[str]) -> Encoded:
    """The vectors of documents, each distinct text looked up or else encoded once. Raises what the encoder raises.

    What is encoded is kept in the cache as it comes, so that a process that dies meanwhile did not work in vain.
    """
    keys = [cache_key(encoder, text) for text in texts]
    distinct = dict(zip(keys, texts, strict=True))
    found = cache.get_many(list(distinct)) if cache is not None else {}
    known = {key: vector for key, vector in found.items() if vector.shape == (encoder.dims,)}
    missing = {key: text for key, text in distinct.items() if key not in known}
    unread: dict[str, str] = {}
    for fresh, failed in _encoded(encoder, missing):
        if cache is not None and fresh:
            cache.put_many(fresh)
        known |= fresh
        unread |= {missing[key]: reason for key, reason in failed.items()}
    vectors = np.full((len(texts), encoder.dims), np.nan, dtype=np.float32)
    for row, key in enumerate(keys):
        if key in known:
            vectors[row] = known[key]
    return Encoded(vectors, len(distinct) - len(missing), len(missing) - len(unread), unread)


def _encoded(encoder: Encoder, missing: Mapping[bytes, str]) -> Iterator[tuple[dict[bytes, Vectors], dict[bytes, str]]]:
    """The vectors of texts by their keys, and why there is none, in parts made in a reasonable time."""
    keys, start, count = list(missing), 0, _counts.get(encoder, _FIRST)
    while start < len(keys):
        some = keys[start : start + count]
        began = time.monotonic()
        # Whatever the encoder is: a vector that no engine may hold must not get into the cache either.
        vectors, unread = encode_readable(encoder, [missing[key] for key in some])
        took = time.monotonic() - began
        beat()
        failed = {some[row]: reason for row, reason in unread.items()}
        yield {key: row for key, row in zip(some, vectors, strict=True) if key not in failed}, failed
        start += len(some)
        if took > _SECONDS:
            count = max(_FEWEST, count // 2)
        elif took < _SECONDS / 4 and len(some) == count:
            count *= 2
        _counts[encoder] = count
