"""Opening an index for writing: its encoders, checked against those that filled it, and the cache of vectors."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..encoders import Cache, load_matching, open_cache
from ..mappings import Stored
from ..settings import settings
from .prepare import Target


def make_target(alias: str, stored: Stored, vectors: Cache | None = None) -> Target:
    """The index behind `alias` with its encoders loaded.

    Raises ModelUnavailable, and ModelMismatch where an encoder here is not the one that filled the index.
    """
    encoders = {name: load_matching(stored, name) for name in stored.spec.embeddings}
    return Target(alias, stored, encoders, _shared_cache(settings().cache_dir) if vectors is None else vectors)


@cache
def _shared_cache(_: Path) -> Cache:
    return open_cache(settings())
