"""What is wrong with what a query wants returned, found before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from ..errors import QueryError, UnknownField
from .names import TEXT, Names
from .parts import Semantic, own
from .query import Query
from .values import check_number

_NORMALISERS = ("min_max", "z_score", "l2", "none")
# Engines take ten of them at most times k.
_MOST_OVERSAMPLE = 10.0
_UNSORTED = {
    "_score": "leave sort() out: the best come first where anything ranks; to move scores by a field, popularity()",
    "_doc": "leave sort() out where the order is nothing to you; to read everything, index.scan()",
}
_NO_ORDER = frozenset({"join", "flattened", "flat_object", "geo_point", "geo_shape", "object", "nested"})


def check_results(query: Query, names: Names) -> None:
    """Raises QueryError or UnknownField for the first thing that is wrong."""
    if query.normaliser not in _NORMALISERS:
        raise QueryError(
            f"fuse() does not know normalise={query.normaliser!r:.40}", hint=f"use one of {', '.join(_NORMALISERS)}"
        )
    for part in query.parts:
        if isinstance(by := own(part), Semantic):
            _check_breadth(by)
    if query.deadline is not None:
        check_number(query.deadline, "the time of within(), in seconds,", 0, inclusive=False)
    _check_aggregations(query.aggregations)
    for one in query.sorted_by:
        _check_order(one.field, names)
    if query.sorted_by and (len(query.parts) > 1 or any(isinstance(part, Semantic) for part in query.parts)):
        raise QueryError(
            "sort() orders all that match, and vectors rank every document",
            hint="sort by fields what where() or one lexical() finds; of the nearest, sorted(hits, key=...)",
        )


def _check_breadth(part: Semantic) -> None:
    if part.exact and part.candidates is not None:
        raise QueryError(
            f"{part.embedding} is asked exactly and for {part.candidates} candidates",
            hint="leave candidates out: an exact search looks at every vector",
        )
    if part.oversample is not None:
        check_number(part.oversample, "oversample", 1, _MOST_OVERSAMPLE)


def _check_aggregations(given: Mapping[str, object]) -> None:
    for name, body in given.items():
        if not isinstance(body, Mapping) or not body:
            raise QueryError(
                f"aggregation {name!r:.40} is {body!r:.60}", hint="give the engine's DSL: {'terms': {'field': 'genre'}}"
            )
        try:
            orjson.dumps(body)
        except TypeError as error:
            raise QueryError(
                f"aggregation {name!r:.40} has no JSON form: {error}", hint="use strings, numbers, lists and dicts"
            ) from None


def _check_order(name: str, names: Names) -> None:
    if name in ("_score", "_doc"):
        raise QueryError(f"sort() orders by fields, and {name} is none", hint=_UNSORTED[name])
    if name in (names.spec.id, "_id") and not names.has(name):
        raise QueryError(f"{name} is the document's id, which has no order", hint="declare it as a keyword field")
    if name in names.spec.embeddings:
        raise QueryError(f"{name} is an embedding, by which nothing is sorted", hint=f"rank by it: .semantic({name!r})")
    if (parts := name.replace(":", " ").split()) != [name] and names.has(parts[0] if parts else ""):
        raise QueryError(
            f"{name!r} is no field", hint=f'sort("{parts[0]}") is ascending, sort("-{parts[0]}") descending'
        )
    known = names.field(name)
    if known.type in TEXT or known.type in _NO_ORDER:
        raise UnknownField(
            f"{name} is of type {known.type}: it has no order", hint="name a number, a date or a keyword to sort by"
        )
    if known.nested is not None:
        raise QueryError(f"{name} lies in the nested objects {known.nested!r}", hint="sort by a field of the document")
