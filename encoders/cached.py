"""Encoding that never encodes the same text twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from .base import Encoder, Vectors, encode_readable
from .caching import Cache
from .fingerprint import cache_key

# Texts given to the model at first, and the seconds that a call should take: a slow model is given fewer, so that what
# is encoded gets into the cache now and then, and that a slow model can be told from one that hangs.
_FIRST, _FEWEST, _SECONDS = 128, 8, 10.0

_pulse: ContextVar[Callable[[], None] | None] = ContextVar("pulse", default=None)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors `(n, dims) float32`, and how many distinct texts were found in the cache and how many were encoded.

    `unread` has the references that could not be read, each with the reason; their rows are NaN.
    """

    vectors: Vectors
    hits: int
    encoded: int
    unread: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def watched(pulse: Callable[[], None]) -> Iterator[None]:
    """In this thread, `pulse` is called each time a model has answered: it does not hang, however long it takes."""
    before = _pulse.set(pulse)
    try:
        yield
    finally:
        _pulse.reset(before)


def beat() -> None:
    """Tell who watches this thread that it is at work."""
    if pulse := _pulse.get():
        pulse()


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
    keys, start, count = list(missing), 0, _FIRST
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
        count = max(_FEWEST, count // 2) if took > _SECONDS else count * 2 if took < _SECONDS / 4 else count
