"""Places as people give them: points, distances and boxes, checked before an engine sees them."""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from typing import Any

from ..errors import QueryError
from .values import is_number

#: Metres in each unit that both engines know.
UNITS = {
    **dict.fromkeys(("mm", "millimeters"), 0.001),
    **dict.fromkeys(("cm", "centimeters"), 0.01),
    **dict.fromkeys(("in", "inch"), 0.0254),
    **dict.fromkeys(("ft", "feet"), 0.3048),
    **dict.fromkeys(("yd", "yards"), 0.9144),
    **dict.fromkeys(("m", "meters"), 1.0),
    **dict.fromkeys(("km", "kilometers"), 1000.0),
    **dict.fromkeys(("mi", "miles"), 1609.344),
    **dict.fromkeys(("nmi", "NM", "nauticalmiles"), 1852.0),
}
_DISTANCE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", re.ASCII)
# No two places are farther apart than half of the Earth's girth.
_FARTHEST = 2.1e7


def metres(distance: Any, field: str) -> float:
    """A distance in metres, of "10km" or of a number of metres. Raises QueryError."""
    number, unit = distance, "m"
    if isinstance(distance, str):
        found = _DISTANCE.fullmatch(distance)
        if found is None:
            raise _no_distance(distance, field)
        number, unit = float(found[1]), found[2] or "m"
        if unit not in UNITS:
            close = get_close_matches(unit, UNITS, n=1, cutoff=0.5)
            raise QueryError(
                f"{field}.near(): {unit!r} is no unit" + (f"; did you mean {close[0]!r}?" if close else ""),
                hint="use m, km, mi, yd, ft, in, cm, mm or nmi",
            )
    if not is_number(number):
        raise _no_distance(distance, field)
    made = float(number) * UNITS[unit]
    if not math.isfinite(made) or made <= 0:
        raise _no_distance(distance, field)
    return min(made, _FARTHEST)


def _no_distance(distance: Any, field: str) -> QueryError:
    return QueryError(
        f"{field}.near(): {distance!r:.80} is no distance", hint='give "10km", or metres: a number above 0'
    )


def point(lat: Any, lon: Any, what: str) -> tuple[float, float]:
    """A latitude and a longitude in degrees. Raises QueryError."""
    for value, name, limit in ((lat, "latitude", 90), (lon, "longitude", 180)):
        if not is_number(value) or abs(value) > limit:
            raise QueryError(
                f"{what}: {value!r:.80} is no {name}",
                hint=f"a {name} is a number from -{limit} to {limit}; the latitude is first, the longitude second",
            )
    return float(lat), float(lon)


def corner(given: Any, what: str) -> tuple[float, float]:
    """A corner as (latitude, longitude). Raises QueryError."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise QueryError(f"{what}: {given!r:.80} is no corner", hint="give (latitude, longitude)")
    return point(given[0], given[1], what)


def box(top_left: Any, bottom_right: Any, field: str) -> tuple[float, float, float, float]:
    """Top, left, bottom and right in degrees; left may be east of right, across the date line. Raises QueryError."""
    top, left = corner(top_left, f"{field}.within_box(top_left)")
    bottom, right = corner(bottom_right, f"{field}.within_box(bottom_right)")
    if top <= bottom:
        raise QueryError(
            f"{field}.within_box(): its top, {top:g}, is not above its bottom, {bottom:g}",
            hint="top_left is the north-west corner; for one place use near()",
        )
    if left == right:
        raise QueryError(
            f"{field}.within_box(): its left and its right are both {left:g}",
            hint="for all longitudes write -180 and 180; for one place use near()",
        )
    return top, left, bottom, right
