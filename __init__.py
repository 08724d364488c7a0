"""knnex: semantic search for the Elasticsearch or OpenSearch cluster you already run, and vectors that stay true."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import AsyncCluster, Cluster, connect
    from .errors import KnnexError
    from .index import AsyncIndex, Index
    from .mappings import Spec, load_spec
    from .query import F, Hit, Hits, Passage, Picture, Query, Text

__version__ = "0.1.0"

# Where each public name lives; it is imported on first use, so that `import knnex` costs next to nothing.
_HOMES = {
    "AsyncCluster": ".client",
    "AsyncIndex": ".index",
    "Cluster": ".client",
    "F": ".query",
    "Hit": ".query",
    "Hits": ".query",
    "Index": ".index",
    "KnnexError": ".errors",
    "Passage": ".query",
    "Picture": ".query",
    "Query": ".query",
    "Spec": ".mappings",
    "Text": ".query",
    "connect": ".client",
    "load_spec": ".mappings",
}

__all__ = [
    "AsyncCluster",
    "AsyncIndex",
    "Cluster",
    "F",
    "Hit",
    "Hits",
    "Index",
    "KnnexError",
    "Passage",
    "Picture",
    "Query",
    "Spec",
    "Text",
    "connect",
    "load_spec",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'knnex' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
