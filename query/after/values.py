"""The candidates' values of the fields that boosts and groups go by, as the engine has read them.

`_source` has a date in whatever format the mapping takes, a number perhaps as a string, and no multi-field at all; doc
values are what the engine itself sorts and groups by, alike on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...engines import Flow, Request
from ..again import by_ids
from ..answers import Missing, answered
from ..names import DATE, Names
from ..query import Query

if TYPE_CHECKING:
    from ..plan import Plan

#: Each document's values of one field, by its id; documents without any are not there.
Held = Mapping[str, tuple[Any, ...]]


def names(query: Query) -> tuple[str, ...]:
    """The fields that are asked for."""
    grouped = [query.collapsed.field] if query.collapsed is not None else []
    return tuple(dict.fromkeys([*(one.field for one in query.boosts), *grouped]))


def request(plan: Plan, ids: Sequence[str]) -> Request:
    """The search for the values of these documents; dates come as milliseconds since 1970."""
    known = Names.of(plan.stored.spec)
    found = [(name, known.field(name).type in DATE) for name in names(plan.query)]
    wanted = [{"field": name, "format": "epoch_millis"} if dated else {"field": name} for name, dated in found]
    return by_ids(plan, ids, values=wanted)


def fetch(plan: Plan, ids: Sequence[str], missing: Missing) -> Flow[Mapping[str, Held]]:
    """The values by field; nothing is asked where none are needed. Raises EngineError."""
    wanted = names(plan.query)
    if not wanted or not ids:
        return {name: {} for name in wanted}
    response = yield request(plan, ids)
    found = {hit["_id"]: hit.get("fields") or {} for hit in answered(response, missing)["hits"]["hits"]}
    return {name: {key: tuple(one[name]) for key, one in found.items() if one.get(name)} for name in wanted}
