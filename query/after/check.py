"""What is wrong with the steps after retrieval, found before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import QueryError, UnknownField
from ...mappings import Spec
from ..check import MAX_INNER, words_of
from ..names import DATE, FLOATS, INTEGERS, Known, Names
from ..parts import Boost, Collapse, Diversify, Lexical, Rerank, Semantic
from ..query import Query
from ..values import MAX_K, check_number, check_text, check_whole

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
    check_number(boost.weight, f"the weight of {boost.kind}()", 0)
    if boost.half is not None:
        check_number(boost.half, "half" if boost.kind == "popularity" else "half_life", 0, inclusive=False)


def _check_collapse(given: Collapse, names: Names) -> None:
    known = _field(given.field, "collapse", names)
    if known.type not in _GROUPS:
        raise QueryError(
            f"collapse() groups by whole values, and {known.name} is of type {known.type}",
            hint="name a keyword, number, date or boolean field; a text field may have a keyword multi-field",
        )
    check_whole(given.inner, "inner", 0, MAX_INNER)


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
    texts = any(one.kind == "text" for one in names.spec.embeddings.values())
    if not given.fields and not texts and not any(isinstance(part, Lexical) for part in asked):
        raise QueryError("rerank() has no field to read", hint="name those with text: .rerank('MODEL', 'title')")
    check_whole(given.top, "top of rerank()", 1, MAX_K)
    if given.deadline is not None:
        check_number(given.deadline, "deadline", 0, inclusive=False)


def _check_read(name: str, names: Names) -> None:
    if name in names.spec.embeddings:
        raise UnknownField(
            f"{name!r} is an embedding, it has no text for rerank()", hint="name the fields it is made of"
        )
    known = names.anywhere(name)
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
    check_number(given.balance, "balance", 0, 1)
    check_whole(given.top, "top of diversify()", 1, MAX_K)


def _check_sort(query: Query) -> None:
    given = {"rerank": query.reranked, "diversify": query.diversified} | {one.kind: one for one in query.boosts}
    moved = [name for name, one in given.items() if one is not None]
    if query.sorted_by and moved:
        raise QueryError(f"sort() orders by fields, and {moved[0]}() by something else", hint="leave one of them out")


def _field(name: str, what: str, names: Names) -> Known:
    """A field whose values engines keep by column."""
    if name in names.spec.embeddings:
        raise UnknownField(f"{name!r} is an embedding, {what}() needs a field", hint="name a field of the spec")
    known = names.anywhere(name)
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
