"""The cache of vectors that the settings ask for."""

from __future__ import annotations

from ..settings import Settings
from .cache import VectorCache
from .caching import Cache
from .redis_cache import RedisVectorCache

_FILE = "vectors.sqlite"


def open_cache(settings: Settings) -> Cache:
    """The Redis of KNNEX_CACHE_URL, or else a file in KNNEX_CACHE_DIR. Raises SettingsError for what is neither."""
    if settings.cache_url:
        return RedisVectorCache(settings.cache_url.get_secret_value(), dtype=settings.cache_dtype)
    return VectorCache(settings.cache_dir / _FILE, max_bytes=settings.cache_bytes, dtype=settings.cache_dtype)
