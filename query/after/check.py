"""What is wrong with the steps after retrieval, found before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import QueryError, UnknownField
from ...mappings import Spec
from ..check import words_of
from ..names import DATE, FLOATS, INTEGERS, Known, Names
from ..parts import Boost, Collapse, Diversify, Lexical, Rerank, Semantic
from ..query import Query
from ..values import check_text

MAX_TOP = 10_000
MAX_INNER = 100
_NUMBERS = frozenset({*INTEGERS, *FLOATS, "scaled_float"})
_GROUPS = _NUMBERS | DATE | {"keyword", "constant_keyword", "wildcard", "version", "ip", "boolean"}


def check(query: Query, names: Names) -> None:
    """Raises QueryError or UnknownField for the first thing that is wrong."""
    for boost in query.boosts:
        _check_boost(boost, names)
    if query.collapsed is not None:
        _check_collapse(query.collapsed, names)
    if query.reranked is not None:
        _check_rerank(query.reranked, query, names)
    if query.diversified is not None:
        _check_diversify(query.diversified, names)
    _check_sort(query)


def _check_boost(boost: Boost, names: Names) -> None:
    known = _field(boost.field, boost.kind, names)
    if boost.kind == "popularity" and known.type not in _NUMBERS:
        raise QueryError(
            f"popularity() needs a number, and {known.name} is of type {known.type}", hint=_those(names, _NUMBERS)
        )
    if boost.kind == "freshness" and known.type not in DATE:
        raise QueryError(
            f"freshness() needs a date, and {known.name} is of type {known.type}", hint=_those(names, DATE)
        )
    _check_number(boost.weight, f"the weight of {boost.kind}()", 0, inclusive=True)
    if boost.half is not None:
        _check_number(boost.half, "half" if boost.kind == "popularity" else "half_life", 0, inclusive=False)


def _check_collapse(given: Collapse, names: Names) -> None:
    known = _field(given.field, "collapse", names)
    if known.type not in _GROUPS:
        raise QueryError(
            f"collapse() groups by whole values, and {known.name} is of type {known.type}",
            hint="name a keyword, number, date or boolean field; a text field may have a keyword multi-field",
        )
    _check_whole(given.inner, "inner", 0, MAX_INNER)


def _check_rerank(given: Rerank, query: Query, names: Names) -> None:
    if isinstance(given.by, str):
        check_text(given.by, "the name of the cross-encoder")
    elif not callable(given.by):
        raise QueryError(
            f"rerank() cannot score by {given.by!r:.80}",
            hint="give a cross-encoder's name, or a function (text, texts)",
        )
    if given.text is not None:
        check_text(given.text, "the text for rerank()")
    elif words_of(query) is None:
        raise QueryError("rerank() has no text to score by", hint="give it one, text='...', or one to the query")
    for name in given.fields:
        _check_read(name, names)
    asked = [part for part in query.parts if isinstance(part, (Semantic, Lexical))]
    if not given.fields and not names.spec.embeddings and not any(isinstance(part, Lexical) for part in asked):
        raise QueryError("rerank() has no field to read", hint="name those with text: .rerank('MODEL', 'title')")
    _check_whole(given.top, "top of rerank()", 1, MAX_TOP)
    if given.deadline is not None:
        _check_number(given.deadline, "deadline", 0, inclusive=False)


def _check_read(name: str, names: Names) -> None:
    if name in names.spec.embeddings:
        raise UnknownField(
            f"{name!r} is an embedding, it has no text for rerank()", hint="name the fields it is made of"
        )
    head = name.partition(".")[0]
    known = names.field(name, head if names.is_nested(head) else None)
    if known.type in ("object", "nested"):
        raise QueryError(f"{name} is an object, no text for rerank()", hint=f"name a field in it: '{name}.FIELD'")


def _check_diversify(given: Diversify, names: Names) -> None:
    if given.embedding is not None:
        names.embedding(given.embedding)
    elif not names.spec.embeddings:
        raise QueryError(
            f"diversify() compares vectors, and index {names.spec.index!r} has none",
            hint="collapse('FIELD') leaves one hit of each kind",
        )
    _check_number(given.balance, "balance", 0, 1, inclusive=True)
    _check_whole(given.top, "top of diversify()", 1, MAX_TOP)


def _check_sort(query: Query) -> None:
    given = {"rerank": query.reranked, "diversify": query.diversified} | {one.kind: one for one in query.boosts}
    moved = [name for name, one in given.items() if one is not None]
    if query.sorted_by and moved:
        raise QueryError(f"sort() orders by fields, and {moved[0]}() by something else", hint="leave one of them out")


def _field(name: str, what: str, names: Names) -> Known:
    """A field whose values engines keep by column."""
    if name in names.spec.embeddings:
        raise UnknownField(f"{name!r} is an embedding, {what}() needs a field", hint="name a field of the spec")
    head = name.partition(".")[0]
    known = names.field(name, head if names.is_nested(head) else None)
    if known.nested is not None:
        raise QueryError(
            f"{known.name} lies in the nested objects {known.nested!r}: {what}() needs one value of a document",
            hint="name a field of the document itself",
        )
    if _mapping(names.spec, name).get("doc_values") is False:
        raise QueryError(
            f"{name} is mapped with doc_values: false, by which {what}() would read it", hint="map it with doc values"
        )
    return known


def _mapping(spec: Spec, name: str) -> Mapping[str, Any]:
    """How a field is mapped; its path may lead through objects and multi-fields."""
    for key, field in spec.fields.items():
        if name == key:
            return field.mapping()
        if name.startswith(f"{key}."):
            return _below(field.mapping(), name.removeprefix(f"{key}."))
    return {}


def _below(mapping: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    for key, inner in {**(mapping.get("fields") or {}), **(mapping.get("properties") or {})}.items():
        if path == key:
            return dict(inner)
        if path.startswith(f"{key}."):
            return _below(inner, path.removeprefix(f"{key}."))
    return {}


def _those(names: Names, types: frozenset[str]) -> str:
    found = [name for name, field in names.spec.fields.items() if field.mapping().get("type") in types]
    return f"of such a type are {', '.join(found)}" if found else "the index has no field of such a type"


def _check_whole(value: object, what: str, low: int, high: int) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not low <= value <= high:  # type: ignore[operator]
        raise QueryError(f"{what} is {value!r:.80}", hint=f"give a whole number from {low:,} to {high:,}")


def _check_number(value: object, what: str, low: float, high: float = math.inf, *, inclusive: bool) -> None:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high or (value == low and not inclusive):  # type: ignore[arg-type, operator]
        bounds = (
            f"from {low:g} to {high:g}" if high < math.inf else f"from {low:g} on" if inclusive else f"above {low:g}"
        )
        raise QueryError(f"{what} is {value!r:.80}", hint=f"give a number {bounds}")
