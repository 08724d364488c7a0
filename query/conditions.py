"""Filters as people type them on a command line: `kind=function`, `year>=1980`, `name~=W?ld*`, `studio.country=US`."""

from __future__ import annotations

import re

from ..errors import QueryError
from ..mappings import NestedJoin, ParentJoin, Spec
from .fields import F
from .names import Names
from .nodes import Filter, Nested
from .query import Query

_CONDITION = re.compile(r"\s*([\w.@-]+?)\s*(!=|~=|>=|<=|==?|>|<)\s*(.*?)\s*", re.DOTALL)
_WHOLE = {"byte", "short", "integer", "long", "unsigned_long"}
_REAL = {"half_float", "float", "double", "scaled_float"}


def where(query: Query, condition: str, spec: Spec) -> Query:
    """`query` with one more condition; a name before the dot may be that of a join. Raises QueryError.

    `=` with several values, separated by commas, holds for each of them, and `=*` for any; `!=` for none. `~=` compares
    with a pattern: `?` is one character, `*` any number of them.
    """
    found = _CONDITION.fullmatch(condition)
    if not found or not found[3]:
        raise QueryError(f"{condition!r} is no condition", hint="write FIELD=VALUE; = != ~= < <= > >= are known")
    name, operator, value = found[1], found[2].replace("==", "="), found[3]
    head, _, tail = name.partition(".")
    join = spec.joins.get(head) if tail and head not in spec.fields else None
    if join is None:
        return query.where(_filter(name, operator, value, spec))
    if isinstance(join, NestedJoin):
        return query.where(Nested(_path(name, head, spec), _filter(name, operator, value, spec)))
    inner = _filter(tail, operator, value, spec)
    return query.where_parent(head, inner) if isinstance(join, ParentJoin) else query.where_lookup(head, inner)


def _path(name: str, join: str, spec: Spec) -> str:
    """The nested objects in which a field lies: those of the join, or deeper ones."""
    names = Names.of(spec)
    return (names.field(name).nested if names.has(name) else None) or join


def _filter(name: str, operator: str, value: str, spec: Spec) -> Filter:
    field = F[name]
    if value == "*" and operator in ("=", "!="):
        return field.exists() if operator == "=" else ~field.exists()
    if operator in ("=", "!="):
        values = [_typed(name, one.strip(), spec) for one in value.split(",")]
        held = field.isin(values) if len(values) > 1 else field == values[0]
        return held if operator == "=" else ~held
    if operator == "~=":
        return field.matches(value)
    bound = _typed(name, value, spec)
    return {">": field > bound, ">=": field >= bound, "<": field < bound, "<=": field <= bound}[operator]


def _typed(name: str, value: str, spec: Spec) -> object:
    declared = spec.fields.get(name)
    kind = declared.type if declared else "keyword"
    try:
        if kind in _WHOLE:
            return int(value)
        if kind in _REAL:
            return float(value)
        if kind == "boolean":
            return {"true": True, "false": False}[value.lower()]
    except (ValueError, KeyError):
        raise QueryError(f"{name} is {kind}, and {value!r} is none", hint=f"give a value of type {kind}") from None
    return value
