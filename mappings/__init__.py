"""The spec, and the way from it to an index in the cluster."""

from __future__ import annotations

from .apply import (
    Stored,
    check_name,
    create,
    differing,
    drop,
    find,
    load,
    next_version,
    version_name,
    version_number,
    write_alias,
)
from .compile import ALIVE, META, SEARCHED, Resolved, index_body, vector_of
from .parse import dump_yaml, load_spec
from .schema import json_schema
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
    "SEARCHED",
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
    "json_schema",
    "load",
    "load_spec",
    "next_version",
    "vector_of",
    "version_name",
    "version_number",
    "write_alias",
]
