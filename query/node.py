"""What every node of a query is, and how filters are combined."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, TypeVar

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

    def weight(self) -> int:
        """How many clauses OpenSearch counts for it, what is inside it left out."""
        return 1

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


def size_of(one: Filter) -> int:
    """How many clauses engines count in a filter, at most."""
    inner = (*getattr(one, "filters", ()), getattr(one, "filter", None))
    return one.weight() + sum(size_of(part) for part in inner if part is not None)


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
