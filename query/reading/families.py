"""has_child and has_parent that rank, read into `by_child()` and `by_parent()`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ...mappings import Spec
from ..nodes import And, Filter, HasChild, HasParent, Or, Term
from ..parts import Family, Semantic
from .filters import Clause, together
from .legs import Leg, Ranking, boost_of, cannot, only, read_query, reads


@reads("has_child")
def _has_child(body: Clause, spec: Spec | None) -> Ranking:
    only(body, "has_child", "type", "query", "score_mode", "inner_hits", "ignore_unmapped", "min_children")
    if body.get("min_children", 1) > 1:
        raise cannot("has_child.min_children", "under `filter` it is kept as it is")
    return _family("child", body["type"], body, spec)


@reads("has_parent")
def _has_parent(body: Clause, spec: Spec | None) -> Ranking:
    only(body, "has_parent", "parent_type", "query", "score", "inner_hits", "ignore_unmapped")
    return _family("parent", body["parent_type"], body, spec)


def _family(relation: Literal["child", "parent"], name: str, body: Clause, spec: Spec | None) -> Ranking:
    found = read_query(body["query"], spec)
    leg = found.legs[0] if len(found.legs) == 1 else None
    if leg is None or isinstance(leg.part, Family):
        raise cannot(f"has_{relation} {name!r} that does not rank by one part", "ask by_child() once for each")
    part = leg.part
    if isinstance(part, Semantic) and part.k is None:  # before 8.15 the candidates are what a clause finds
        part = replace(part, k=part.candidates)
    held = [one for one in (*leg.filters, *found.filters) if not (isinstance(one, Term) and one.value == name)]
    inner = body.get("inner_hits")
    size = int(inner.get("size", 3)) if isinstance(inner, Mapping) else 0
    family = Family(
        relation,
        name,
        part,
        together(held),
        body.get("score_mode", "max"),
        size,
        _selected(inner),
        3 if leg.passages is None else leg.passages,
    )
    return Ranking((Leg(family).times(boost_of(body)),))


def _selected(inner: Any) -> tuple[str, ...] | None:
    """The fields of relatives, where they are named."""
    source = inner.get("_source") if isinstance(inner, Mapping) else None
    if source is False:
        return ()
    if isinstance(source, Mapping):
        source = source.get("includes")
    return tuple([source] if isinstance(source, str) else source) if source and source is not True else None


def bare(family: Family, outer: Filter | None) -> Family:
    """Without the filters that a plan writes inside a family by itself: those of the document it belongs to."""
    where = family.where
    held = where.filters if isinstance(where, And) else () if where is None else (where,)
    left = tuple(one for one in held if not _document(one, outer))
    return replace(family, where=together(left))


def _document(one: Filter, outer: Filter | None) -> bool:
    if isinstance(one, Or):
        return all(_document(part, outer) for part in one.filters)
    return isinstance(one, (HasChild, HasParent)) and one.filter == outer
