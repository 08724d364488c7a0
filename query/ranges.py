"""Bounds of numbers and dates, fitted to what their field can hold; those that no value fulfils are found out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import QueryError
from .dates import ISO, NANOS, Moment, read
from .names import DATE, FLOATS, INTEGERS, Known
from .nodes import Exists, Filter, Nothing, Or, Range
from .values import beyond, plain, unwrapped


def within(known: Known, bounds: Mapping[str, Any]) -> Filter:
    """The values between bounds (`gt`, `gte`, `lt`, `lte`). Raises QueryError."""
    if known.type in DATE:
        return _dates(known, {side: read(unwrapped(bound), known) for side, bound in bounds.items()})
    left: dict[str, Any] = {}
    for side, bound in bounds.items():
        value = plain(bound, known)
        where = beyond(value, known)
        if where == 0:
            left[side] = value
        elif (where > 0) == side.startswith("g"):
            return Nothing()
    if (known.type in INTEGERS or known.type in FLOATS) and _is_empty(left, whole=known.type in INTEGERS):
        return Nothing()
    return Range(known.name, **left) if left else Exists(known.name)


def on(known: Known, values: Iterable[Any]) -> Filter:
    """The dates that equal one of these, or lie in it: a day, a month. Engines read a list of them as ranges too."""
    moments = dict.fromkeys(read(unwrapped(value), known) for value in values)
    made = tuple(one for one in (_dates(known, {"gte": at, "lte": at}) for at in moments) if one != Nothing())
    return made[0] if len(made) == 1 else Or(made) if made else Nothing()


def _is_empty(bounds: Mapping[str, Any], *, whole: bool) -> bool:
    """Whether no number lies between the bounds; of whole numbers none lies between 3 and 4."""
    low, high = -math.inf, math.inf
    for side, bound in bounds.items():
        if side.startswith("g"):
            low = max(low, (math.floor(bound) + 1 if side == "gt" else math.ceil(bound)) if whole else bound)
        else:
            high = min(high, (math.ceil(bound) - 1 if side == "lt" else math.floor(bound)) if whole else bound)
    strict = not whole and ("gt" in bounds or "lt" in bounds)
    return low > high or (strict and low == high)


def _dates(known: Known, bounds: Mapping[str, Moment]) -> Filter:
    left: dict[str, Moment] = {}
    for side, moment in bounds.items():
        where = _beyond(moment, side, known)
        if where == 0:
            left[side] = moment
        elif (where > 0) == side.startswith("g"):
            return Nothing()
    lows = [_edge(moment, side) for side, moment in left.items() if side.startswith("g")]
    highs = [_edge(moment, side) for side, moment in left.items() if side.startswith("l")]
    if any(low > high for low in lows for high in highs if low and high):
        return Nothing()
    if not left:
        return Exists(known.name)
    return Range(known.name, **{side: moment.text for side, moment in left.items()}, format=_format(known, left))


def _edge(moment: Moment, side: str) -> Any:
    """The instant that decides: engines take the last one of a day for `gt` and `lte`, the first for the others."""
    return moment.last if side in ("gt", "lte") else moment.first


def _beyond(moment: Moment, side: str, known: Known) -> int:
    """Where a bound lies: 0 within what the type can hold, 1 above it, -1 below."""
    edge = _edge(moment, side)
    if known.type != "date_nanos" or edge is None:
        return 0
    return -1 if edge < NANOS[0] else int(edge > NANOS[1])


def _format(known: Known, moments: Mapping[str, Moment]) -> str | None:
    """What reads these dates: the field's own format where it was written for them, else ISO. Raises QueryError."""
    if known.format is None:
        return None
    own = [moment.own for moment in moments.values()]
    maths = [moment.text.startswith("now") for moment in moments.values()]
    if all(is_own or is_now for is_own, is_now in zip(own, maths, strict=True)):
        return None
    if any(own):
        raise QueryError(
            f"{known.name} is compared with a date object and with text in its own format, {known.format}",
            hint="give both bounds as dates, or both as text",
        )
    return ISO
