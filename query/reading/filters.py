"""Filter clauses of a request body, read into filters; one that is not known stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..nodes import (
    And,
    Exists,
    Filter,
    HasChild,
    HasParent,
    Ids,
    Nested,
    Not,
    Nothing,
    Or,
    Prefix,
    Range,
    RawDsl,
    Term,
    Terms,
    both,
)
from ..simplify import ALIVE

Clause = Mapping[str, Any]
_BOUNDS = {"gt", "gte", "lt", "lte"}
_OCCURS = {"filter", "must", "must_not", "should", "minimum_should_match"}
# They change no filter.
_IDLE = {"boost", "_name"}


def read_filters(given: Any) -> tuple[Filter, ...]:
    """The filters of a clause or a list of them; those of a conjunction one by one, without what lets all through."""
    clauses = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    found = [one for clause in clauses if clause for one in _conjunction(read_filter(clause))]
    # Plans keep deleted documents out by themselves.
    return tuple(one for one in found if one not in (ALIVE, _EVERYTHING))


def _conjunction(one: Filter) -> tuple[Filter, ...]:
    return one.filters if isinstance(one, And) else (one,)


def together(filters: Sequence[Filter]) -> Filter | None:
    """The conjunction of filters, if there are any."""
    return both(tuple(filters)) if filters else None


def read_filter(clause: Clause) -> Filter:
    """One clause as a filter; as raw DSL where only the engine's own words say what it does."""
    ((name, body),) = clause.items() if len(clause) == 1 else [("", None)]
    reader = _READERS.get(name)
    made = reader(body) if reader is not None and isinstance(body, Mapping) else None
    return RawDsl(copy.deepcopy(dict(clause))) if made is None else made


_EVERYTHING = RawDsl({"match_all": {}})


def one_field(body: Clause) -> tuple[str, Any] | None:
    """The field of a clause that has one, and what is said of it."""
    named = [(key, value) for key, value in body.items() if key not in _IDLE]
    return named[0] if len(named) == 1 else None


def _value(said: Any, key: str = "value") -> Any:
    """The value, written short or long; None where there is more than a value."""
    if not isinstance(said, Mapping):
        return said
    return said[key] if key in said and not said.keys() - {key, *_IDLE} else None


def _term(body: Clause) -> Filter | None:
    found = one_field(body)
    value = None if found is None else _value(found[1])
    return None if found is None or value is None or isinstance(value, (list, dict)) else Term(found[0], value)


def _terms(body: Clause) -> Filter | None:
    found = one_field(body)
    if found is None or not isinstance(found[1], Sequence) or isinstance(found[1], str):
        return None
    return Terms(found[0], tuple(found[1])) if all(isinstance(one, (str, int, float)) for one in found[1]) else None


def _range(body: Clause) -> Filter | None:
    found = one_field(body)
    if found is None or not isinstance(found[1], Mapping):
        return None
    bounds = {key: value for key, value in found[1].items() if key not in _IDLE and value is not None}
    return Range(found[0], **bounds) if bounds and not bounds.keys() - _BOUNDS else None


def _exists(body: Clause) -> Filter | None:
    return Exists(body["field"]) if "field" in body and not body.keys() - {"field", *_IDLE} else None


def _prefix(body: Clause) -> Filter | None:
    found = one_field(body)
    value = None if found is None else _value(found[1])
    return Prefix(found[0], value) if found is not None and isinstance(value, str) else None


def _ids(body: Clause) -> Filter | None:
    values = body.get("values")
    return Ids(tuple(map(str, values))) if isinstance(values, list) and values else None


def _nested(body: Clause) -> Filter | None:
    if body.keys() - {"path", "query", "score_mode", *_IDLE}:
        return None
    inner = together(read_filters(body["query"]))
    return None if inner is None else Nested(body["path"], inner)


def _has_parent(body: Clause) -> Filter | None:
    if body.keys() - {"parent_type", "query", "score", *_IDLE}:
        return None
    return HasParent(body["parent_type"], together(read_filters(body["query"])))


def _has_child(body: Clause) -> Filter | None:
    if body.keys() - {"type", "query", "score_mode", *_IDLE}:
        return None
    return HasChild(body["type"], together(read_filters(body["query"])))


def _constant_score(body: Clause) -> Filter | None:
    return read_filter(body["filter"]) if "filter" in body and not body.keys() - {"filter", *_IDLE} else None


def occurring(body: Clause, occur: str) -> list[Clause]:
    """The clauses of a bool under `must`, `should`, `filter` or `must_not`: one, or a list of them."""
    given = body.get(occur)
    return list(given) if isinstance(given, Sequence) else [given] if given else []


def _bool(body: Clause) -> Filter | None:
    if body.keys() - _OCCURS - _IDLE:
        return None
    held = list(_held(body))
    if should := occurring(body, "should"):
        needed = body.get("minimum_should_match", 0 if held else 1)
        if needed not in (0, 1):
            return None
        if needed:
            held.append(Or(tuple(read_filter(clause) for clause in should)))
    held = [one for one in held if one not in (ALIVE, _EVERYTHING)]
    return both(tuple(held)) if held else _EVERYTHING


def _held(body: Clause) -> Iterator[Filter]:
    for occur in ("must", "filter"):
        yield from (read_filter(clause) for clause in occurring(body, occur))
    yield from (Not(read_filter(clause)) for clause in occurring(body, "must_not"))


_READERS: dict[str, Callable[[Clause], Filter | None]] = {
    "term": _term,
    "terms": _terms,
    "range": _range,
    "exists": _exists,
    "prefix": _prefix,
    "ids": _ids,
    "nested": _nested,
    "has_parent": _has_parent,
    "has_child": _has_child,
    "constant_score": _constant_score,
    "bool": _bool,
    "match_none": lambda body: Nothing(),  # noqa: ARG005
}
