"""The spec, and the way from it to an index in the cluster."""

from __future__ import annotations

from .apply import Stored, check_name, create, differing, drop, find, load, version_name, write_alias
from .compile import ALIVE, META, Resolved, index_body
from .parse import dump_yaml, load_spec
from .spec import (
    PROVENANCE,
    Chunking,
    Embedding,
    Hnsw,
    LookupJoin,
    NestedJoin,
    ParentJoin,
    SourceField,
    Spec,
)

__all__ = [
    "ALIVE",
    "META",
    "PROVENANCE",
    "Chunking",
    "Embedding",
    "Hnsw",
    "LookupJoin",
    "NestedJoin",
    "ParentJoin",
    "Resolved",
    "SourceField",
    "Spec",
    "Stored",
    "check_name",
    "create",
    "differing",
    "drop",
    "dump_yaml",
    "find",
    "index_body",
    "load",
    "load_spec",
    "version_name",
    "write_alias",
]
