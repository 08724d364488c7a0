"""Encoders: text and pictures to vectors, with chunking, fingerprints and a cache.

Models and torch load only when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import PROBE, Encoder, Vectors, check_vectors
from .cache import VectorCache
from .cached import Encoded, encode_cached
from .caches import open_cache
from .caching import Cache
from .chunking import Chunk, chunk
from .fingerprint import cache_key, fingerprint, input_hash
from .loading import import_libraries
from .memory import keep_memory
from .queries import QueryCache, encode_queries, query_cache, query_vectors
from .redis_cache import RedisVectorCache
from .registry import KINDS, load_encoder, load_matching, resolve

if TYPE_CHECKING:
    from .image import ImageEncoder
    from .text import TextEncoder

__all__ = [
    "KINDS",
    "PROBE",
    "Cache",
    "Chunk",
    "Encoded",
    "Encoder",
    "ImageEncoder",
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
    "import_libraries",
    "input_hash",
    "keep_memory",
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
    if name == "ImageEncoder":
        from .image import ImageEncoder

        return ImageEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
