"""Filters put together, without what says nothing: so that one that no document fulfils is `Nothing()` and not sent."""

from __future__ import annotations

from ..mappings import PROVENANCE
from .nodes import And, Filter, HasChild, HasParent, Nested, Not, Nothing, Or, Term, both

#: What keeps deleted documents out where no alias does.
ALIVE = Not(Term(f"{PROVENANCE}.deleted", True))
#: What a filter becomes that every document fulfils.
EVERYTHING = Not(Nothing())


def every(filters: tuple[Filter, ...]) -> Filter:
    """A conjunction, without what every document fulfils; nothing where one of them lets nothing through."""
    if Nothing() in filters:
        return Nothing()
    left = tuple(one for one in filters if one != EVERYTHING)
    return both(left) if left else EVERYTHING


def either(filters: tuple[Filter, ...]) -> Filter:
    """A disjunction, without what lets nothing through; everything where one of them lets everything through."""
    if EVERYTHING in filters:
        return EVERYTHING
    left = tuple(one for one in filters if one != Nothing())
    return left[0] if len(left) == 1 else Or(left) if left else Nothing()


def simplified(one: Filter) -> Filter:
    """A filter whose parts are as simple as they can be, brought to that itself."""
    if isinstance(one, And):
        return every(one.filters)
    if isinstance(one, Or):
        return either(one.filters)
    if isinstance(one, Not):
        return one.filter.filter if isinstance(one.filter, Not) else one
    if isinstance(one, (Nested, HasParent, HasChild)):
        return Nothing() if one.filter == Nothing() else one
    return one
