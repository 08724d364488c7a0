"""What a query is made of: frozen data, one sentence each, the same for every engine.

A filter says which documents count, a scoring node says how those are ranked; every scoring node carries the filter it
obeys, so that a filter is always applied while the engine searches and never afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from ..errors import QueryError

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")

#: Every node there is; a compiler compiles or declines each of them.
NODES: list[type[Node]] = []


class Node:
    """A part of a query."""

    __slots__ = ()
    #: The node's name as compilers have it: HasParent is `visit_has_parent`.
    verb: ClassVar[str]


class Filter(Node):
    """A condition that a document fulfils or not; combined by `&`, `|` and `~`."""

    __slots__ = ()

    def __and__(self, other: object) -> Filter:
        return both((self, _filter(other, "&")))

    def __or__(self, other: object) -> Filter:
        parts = (*_parts(self, Or), *_parts(_filter(other, "|"), Or))
        return Or(parts)

    def __invert__(self) -> Filter:
        return self.filter if isinstance(self, Not) else Not(self)

    def __bool__(self) -> bool:
        raise QueryError(
            "a filter has no truth value until the engine has seen a document",
            hint="write & for and, | for or, ~ for not, each side in parentheses; "
            "F.year.between(1980, 1999) for a chained comparison; F.genre.isin([...]) for `in`",
        )


class Scoring(Node):
    """A way of ranking the documents that its `filter` lets through."""

    __slots__ = ()
    filter: Filter | None


Made = TypeVar("Made", bound=type[Node])


def node(cls: Made) -> Made:
    """Enter a node into NODES."""
    cls.verb = _CAPITAL.sub("_", cls.__name__).lower()
    NODES.append(cls)
    return cls


@node
@dataclass(frozen=True, slots=True)
class Term(Filter):
    """The field holds exactly this value."""

    field: str
    value: Any


@node
@dataclass(frozen=True, slots=True)
class Terms(Filter):
    """The field holds one of these values."""

    field: str
    values: tuple[Any, ...]


@node
@dataclass(frozen=True, slots=True)
class Range(Filter):
    """The field holds a value between these bounds; None leaves a side open."""

    field: str
    gt: Any = None
    gte: Any = None
    lt: Any = None
    lte: Any = None

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
class And(Filter):
    """All of these hold."""

    filters: tuple[Filter, ...]


@node
@dataclass(frozen=True, slots=True)
class Or(Filter):
    """At least one of these holds."""

    filters: tuple[Filter, ...]


@node
@dataclass(frozen=True, slots=True)
class Not(Filter):
    """This does not hold; a document without the field passes."""

    filter: Filter


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


@node
@dataclass(frozen=True, slots=True)
class Match(Scoring):
    """Documents with the words of a text in one of the fields, ranked by BM25; a field counts by its boost."""

    fields: tuple[tuple[str, float], ...]
    text: str
    filter: Filter | None = None


@node
@dataclass(frozen=True, slots=True)
class Everything(Scoring):
    """Every document the filter lets through, all with score 1."""

    filter: Filter | None = None


def both(filters: tuple[Filter, ...]) -> Filter:
    """The conjunction of filters, without a level of its own for one that is a conjunction already."""
    parts = tuple(part for one in filters for part in _parts(one, And))
    return parts[0] if len(parts) == 1 else And(parts)


def _parts(one: Filter, kind: type[And] | type[Or]) -> tuple[Filter, ...]:
    return one.filters if isinstance(one, kind) else (one,)


def _filter(other: object, operator: str) -> Filter:
    if not isinstance(other, Filter):
        raise QueryError(
            f"{operator} wants a filter on each side, not {other!r}",
            hint=f"put comparisons in parentheses: (F.year > 1980) {operator} (F.genre == 'drama')",
        )
    return other
