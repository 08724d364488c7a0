"""Filters as people type them on a command line: `kind=function`, `year>=1980`, `genre!=drama`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from ..errors import QueryError
from ..mappings import Spec
from .fields import Field
from .names import FLOATS, INTEGERS, Known, Names
from .nodes import Filter

_FORM = re.compile(r"\s*(?P<name>[^=!<>]+?)\s*(?P<operator>!=|>=|<=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def parse_filter(text: str, spec: Spec) -> Filter:
    """The filter that a text stands for, its value read as the field's type. Raises QueryError, UnknownField.

    `genre=drama,comedy` is one of several, `genre=*` any value, `genre!=*` none.
    """
    found = _FORM.fullmatch(text)
    if found is None or not found["value"]:
        raise QueryError(f"{text!r} is no filter", hint="write kind=function, year>=1980 or genre!=drama")
    name, sign, written = found["name"], found["operator"], found["value"]
    known = Known(name, "keyword") if name == spec.id else Names(spec).field(name)
    field = Field(name)
    if written == "*" and sign in ("=", "!="):
        return field.exists() if sign == "=" else ~field.exists()
    if "," in written and sign in ("=", "!="):
        several = field.isin([_value(one.strip(), known) for one in written.split(",")])
        return several if sign == "=" else ~several
    made: Filter = _OPERATORS[sign](field, _value(written, known))
    return made


def _value(written: str, known: Known) -> Any:
    try:
        if known.type in INTEGERS:
            return int(written)
        if known.type in FLOATS:
            return float(written)
    except ValueError:
        raise QueryError(
            f"{known.name} is of type {known.type}: {written!r} is no number", hint="give a number"
        ) from None
    if known.type == "boolean":
        if written.lower() not in ("true", "false"):
            raise QueryError(f"{known.name} is true or false, not {written!r}", hint=f"write {known.name}=true")
        return written.lower() == "true"
    return written
