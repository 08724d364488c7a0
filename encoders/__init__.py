"""Encoders: text to vectors, with chunking, fingerprints and a cache. Models and torch load only when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Encoder, Vectors, check_vectors
from .cache import VectorCache
from .cached import Encoded, encode_cached
from .caches import open_cache
from .caching import Cache
from .chunking import Chunk, chunk
from .fingerprint import cache_key, fingerprint, input_hash
from .queries import QueryCache, encode_queries, query_cache, query_vectors
from .redis_cache import RedisVectorCache
from .registry import KINDS, load_encoder, load_matching, resolve

if TYPE_CHECKING:
    from .text import TextEncoder

__all__ = [
    "KINDS",
    "Cache",
    "Chunk",
    "Encoded",
    "Encoder",
    "QueryCache",
    "RedisVectorCache",
    "TextEncoder",
    "VectorCache",
    "Vectors",
    "cache_key",
    "check_vectors",
    "chunk",
    "encode_cached",
    "encode_queries",
    "fingerprint",
    "input_hash",
    "load_encoder",
    "load_matching",
    "open_cache",
    "query_cache",
    "query_vectors",
    "resolve",
]


def __getattr__(name: str) -> object:
    if name == "TextEncoder":
        from .text import TextEncoder

        return TextEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
