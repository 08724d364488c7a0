"""From the tree of a query to the body of a request, in the dialect of each engine."""

from __future__ import annotations

from ...engines import Dialect
from .base import Body, Compiler, Decline, Page
from .elasticsearch import ElasticsearchCompiler
from .opensearch import OpenSearchCompiler, tells_width

COMPILERS: dict[str, type[Compiler]] = {"elasticsearch": ElasticsearchCompiler, "opensearch": OpenSearchCompiler}


def compiler_for(dialect: Dialect) -> Compiler:
    """The compiler of an engine at its version."""
    return COMPILERS[dialect.product](dialect)


__all__ = ["COMPILERS", "Body", "Compiler", "Decline", "Page", "compiler_for", "tells_width"]
