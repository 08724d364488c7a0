"""What a query is made of: frozen data, one sentence each, the same for every engine.

A filter says which documents count, a scoring node says how those are ranked; every scoring node carries the filter it
obeys, so that a filter is always applied while the engine searches and never afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .node import NODES, And, Filter, Node, Not, Or, Scoring, both, node, size_of

__all__ = [
    "NODES",
    "And",
    "ByChild",
    "ByParent",
    "Everything",
    "Exists",
    "Filter",
    "HasChild",
    "HasParent",
    "Ids",
    "Knn",
    "Lookup",
    "Match",
    "Near",
    "Nested",
    "Node",
    "Not",
    "Nothing",
    "Or",
    "Prefix",
    "Range",
    "RawDsl",
    "Regexp",
    "Scoring",
    "Term",
    "Terms",
    "Wildcard",
    "WithinBox",
    "both",
    "node",
    "size_of",
]


@node
@dataclass(frozen=True, slots=True)
class Term(Filter):
    """The field holds exactly this value."""

    field: str
    value: Any

    def weight(self) -> int:
        """A number is looked for in two ways, of which the engine takes the cheaper one."""
        return 1 if isinstance(self.value, (str, bool)) else 2


@node
@dataclass(frozen=True, slots=True)
class Terms(Filter):
    """The field holds one of these values."""

    field: str
    values: tuple[Any, ...]

    def weight(self) -> int:
        """Numbers are looked for in two ways."""
        return 1 if all(isinstance(value, (str, bool)) for value in self.values[:1]) else 2


@node
@dataclass(frozen=True, slots=True)
class Range(Filter):
    """The field holds a value between these bounds; None leaves a side open.

    `format` reads bounds that are dates, where the field's own format cannot.
    """

    field: str
    gt: Any = None
    gte: Any = None
    lt: Any = None
    lte: Any = None
    format: str | None = None

    def weight(self) -> int:
        """Numbers and dates are looked for in two ways."""
        return 2

    def bounds(self) -> dict[str, Any]:
        """The bounds that are set."""
        every = {"gt": self.gt, "gte": self.gte, "lt": self.lt, "lte": self.lte}
        return {side: value for side, value in every.items() if value is not None}


@node
@dataclass(frozen=True, slots=True)
class Exists(Filter):
    """The field holds any value."""

    field: str


@node
@dataclass(frozen=True, slots=True)
class Prefix(Filter):
    """The field holds a value that starts so."""

    field: str
    value: str
    case_sensitive: bool = True


@node
@dataclass(frozen=True, slots=True)
class Wildcard(Filter):
    """The field holds a value of this form: `?` is any character, `*` any number of them, after a backslash itself."""

    field: str
    pattern: str
    case_sensitive: bool = True


@node
@dataclass(frozen=True, slots=True)
class Regexp(Filter):
    """The field holds a value that a regular expression matches from its first character to its last."""

    field: str
    pattern: str
    case_sensitive: bool = True


@node
@dataclass(frozen=True, slots=True)
class Near(Filter):
    """The field holds a place at most so many metres from a point."""

    field: str
    lat: float
    lon: float
    metres: float

    def weight(self) -> int:
        """Places are looked for in two ways."""
        return 2


@node
@dataclass(frozen=True, slots=True)
class WithinBox(Filter):
    """The field holds a place in a box, in degrees; one whose left is east of its right crosses the date line."""

    field: str
    top: float
    left: float
    bottom: float
    right: float

    def weight(self) -> int:
        """Places are looked for in two ways, on each side of the date line."""
        return 2 if self.left < self.right else 4


@node
@dataclass(frozen=True, slots=True)
class Ids(Filter):
    """The document is one of these."""

    values: tuple[str, ...]


@node
@dataclass(frozen=True, slots=True)
class Nothing(Filter):
    """No document: what a condition becomes that no value of its field can fulfil."""


@node
@dataclass(frozen=True, slots=True)
class Nested(Filter):
    """One of the objects at `path` fulfils the filter by itself."""

    path: str
    filter: Filter


@node
@dataclass(frozen=True, slots=True)
class HasParent(Filter):
    """The document's parent is of this name and fulfils the filter, if there is one."""

    parent: str
    filter: Filter | None = None


@node
@dataclass(frozen=True, slots=True)
class HasChild(Filter):
    """The document has a child of this name that fulfils the filter, if there is one."""

    child: str
    filter: Filter | None = None


@node
@dataclass(frozen=True, slots=True)
class Lookup(Filter):
    """The foreign key of the join leads to a document that fulfils the filter; becomes Terms before it is sent."""

    join: str
    filter: Filter | None = None
    #: The foreign key's field here, known once the join has been looked up in the spec.
    field: str = ""


@node
@dataclass(frozen=True, slots=True)
class RawDsl(Filter):
    """A clause in the engine's own DSL, passed on as it is."""

    body: Mapping[str, Any]


@node
@dataclass(frozen=True, slots=True)
class Knn(Scoring):
    """The `k` documents nearest to a vector, among those the filter lets through.

    `candidates` are looked at on every shard. With `path` the vectors lie in nested chunks: a document counts by its
    best chunk, and `passages` of its chunks are returned. `min_similarity` is in the metric's own units: a cosine or a
    dot product at least, a distance at most.
    """

    field: str
    vector: tuple[float, ...]
    k: int
    candidates: int
    similarity: str = "cosine"
    filter: Filter | None = None
    path: str | None = None
    passages: int = 0
    min_similarity: float | None = None
    #: Compared with every vector that the filter lets through.
    exact: bool = False
    #: So many times `k` are compared again by the full vectors, where quantized ones are searched.
    oversample: float | None = None
    quantized: bool = False


@node
@dataclass(frozen=True, slots=True)
class Match(Scoring):
    """Documents with the words of a text in one of the fields, ranked by BM25; a field counts by its boost.

    `type` says how several fields count, and whether the text is words, a phrase, the beginning of one, or has signs
    (`query_string`). A misspelt word, or the beginning of one, stands for at most `expansions` words of the index.
    """

    fields: tuple[tuple[str, float], ...]
    text: str
    filter: Filter | None = None
    type: str = "best_fields"
    operator: str = "or"
    fuzziness: str | None = None
    minimum: str | None = None
    slop: int = 0
    expansions: int = 50


@node
@dataclass(frozen=True, slots=True)
class Everything(Scoring):
    """Every document the filter lets through, all with score 1."""

    filter: Filter | None = None


@node
@dataclass(frozen=True, slots=True)
class ByChild(Scoring):
    """Documents ranked by their children of this name: of several children's scores `score` decides.

    `by` obeys a filter of its own, which is about children. `inner` of them are returned with each document, with
    these fields; all but vectors where there are none.
    """

    child: str
    by: Scoring
    score: str = "max"
    inner: int = 0
    source: Mapping[str, Any] | None = None
    filter: Filter | None = None


@node
@dataclass(frozen=True, slots=True)
class ByParent(Scoring):
    """Documents ranked by their parent of this name; `by` obeys a filter of its own, which is about parents."""

    parent: str
    by: Scoring
    inner: int = 0
    source: Mapping[str, Any] | None = None
    filter: Filter | None = None
