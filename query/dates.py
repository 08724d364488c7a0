"""Dates as people give them, read before an engine sees them: objects, ISO text, date maths, a field's own format.

Engines differ in what a number means: Elasticsearch takes it for milliseconds, OpenSearch reads it by the field's
format, where 2024 is a year. Here it is always milliseconds since 1970, and is sent as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np

from ..errors import QueryError
from .names import Known

#: The format that reads what `Moment.text` holds of objects, whatever the field's own format is.
ISO = "strict_date_optional_time"
_DEFAULT = f"{ISO}||epoch_millis"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_TICK = timedelta(microseconds=1)
#: What a `date_nanos` field can hold; beyond it engines answer with an error.
NANOS = (_EPOCH, datetime(2262, 4, 11, 23, 47, 16, 854775, tzinfo=UTC))

_ZONE = r"Z|[+-](?:0\d|1[0-8])(?::?[0-5]\d(?::?[0-5]\d)?)?"
_TIME = rf"T(?:(?P<H>\d\d)(?::(?P<m>\d\d)(?::(?P<s>\d\d)(?:[.,](?P<S>\d{{1,9}}))?)?)?(?P<zone>{_ZONE})?)?"
_ISO = re.compile(rf"(?P<y>-?\d{{4}})(?:-(?P<M>\d\d)(?:-(?P<d>\d\d)(?:{_TIME})?)?)?", re.ASCII)
_EPOCH_TEXT = re.compile(r"-?\d{1,18}(?:\.\d{1,6})?", re.ASCII)
# Years and months are few: with more of them engines leave what their calendar knows, and fail (status 500).
_STEP = r"[+-](?:\d{0,6}[yM]|\d{0,9}[wdhHms])|/[yMwdhHms]"
_MATHS = re.compile(rf"(?:now|(?P<anchor>.+?)\|\|)(?P<steps>(?:{_STEP})*)", re.ASCII | re.DOTALL)
_LONGEST = 100
# Numbers that are meant for years, and would be the first seconds of 1970.
_YEARS = range(1000, 3000)

_PARTS = re.compile(r"(?P<part>([yuMdHmsS])\2*)|'(?P<quoted>[^']*)'|(?P<literal>[-/.:_ ,])")
_DIGITS = {**dict.fromkeys(("yyyy", "uuuu"), r"\d{4}"), **dict.fromkeys("MdHms", r"\d\d?")}
_DIGITS |= dict.fromkeys(("MM", "dd", "HH", "mm", "ss"), r"\d\d") | {"S" * n: rf"\d{{{n}}}" for n in range(1, 10)}
_NAMED = {"basic_date": "yyyyMMdd", "strict_date": "yyyy-MM-dd", "strict_year_month_day": "yyyy-MM-dd"}


@dataclass(frozen=True, slots=True)
class Moment:
    """A date as it is sent, and the first and last instant it covers, where they are known."""

    text: str
    first: datetime | None = None
    last: datetime | None = None
    #: Whether the field's own format reads it, and not ISO alone.
    own: bool = False


def read(value: Any, known: Known) -> Moment:
    """The date that a value means. Raises QueryError for what is none, or what the field's format cannot read."""
    if isinstance(value, np.datetime64):
        value = _of_numpy(value, known)
    if isinstance(value, str):
        return _of_text(value, known)
    if isinstance(value, datetime):
        return _instant(value, known)
    if isinstance(value, date):
        day = datetime(value.year, value.month, value.day, tzinfo=UTC)
        return Moment(value.isoformat(), day, day + timedelta(days=1) - _TICK if day.date() < date.max else _LAST)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value in _YEARS:
            raise _wrong(value, known, f": a number is milliseconds since 1970, and the year is {str(value)!r}")
        return _instant(_of_milliseconds(value), known)
    raise _wrong(value, known)


def _wrong(value: Any, known: Known, why: str = "") -> QueryError:
    return QueryError(
        f"{known.name} is of type {known.type}: {value!r:.80} is no value of it{why}",
        hint="give a date or datetime, text such as 1999-12-31 or now-30d/d, or whole milliseconds since 1970",
    )


def _of_numpy(value: np.datetime64, known: Known) -> Any:
    if np.isnat(value):
        raise _wrong(value, known)
    days = np.datetime_data(value)[0] in ("Y", "M", "W", "D")
    found = value.astype("datetime64[D]" if days else "datetime64[us]").item()
    if isinstance(found, int):  # what Python's datetime cannot hold
        return _FIRST if found < 0 else _LAST
    return found


def _of_milliseconds(value: int) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=value)
    except OverflowError:
        return _FIRST if value < 0 else _LAST


def _instant(value: datetime, known: Known) -> Moment:
    """An instant; without a zone it is UTC's. A `date` field holds milliseconds, and so is it compared."""
    try:
        instant = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError:
        instant = _FIRST if value.year == 1 else _LAST
    fine = known.type == "date_nanos"
    text = instant.isoformat(timespec="microseconds" if fine else "milliseconds")
    return Moment(text.replace("+00:00", "Z"), instant, instant)


def _of_text(value: str, known: Known) -> Moment:
    formats = (known.format or _DEFAULT).split("||")
    if maths := _MATHS.fullmatch(value):
        if len(value) > _LONGEST:
            raise _wrong(value, known, f": it has {len(value):,} characters")
        anchor = maths["anchor"]
        if anchor is not None and _covered(anchor, formats) is None:
            raise _wrong(value, known, _reason(anchor, known))
        return Moment(value, own=anchor is not None)
    found = _covered(value, formats)
    if found is None:
        raise _wrong(value, known, _reason(value, known))
    return Moment(value, *found, own=True)


def _reason(value: str, known: Known) -> str:
    if value.startswith("now") or "||" in value:
        return ": date maths is now-30d/d, or 2024-01-15||+1M/d; the units are y M w d h m s"
    return f", whose format is {known.format or _DEFAULT}"


_Covered = tuple[datetime | None, datetime | None]


def _covered(value: str, formats: Iterable[str]) -> _Covered | None:
    """The first and last instant of what one of the formats reads; None where none of them does.

    (None, None): it is read, or may be: the format is not known here.
    """
    for one in formats:
        if one in (ISO, f"{ISO}_nanos"):
            found = _iso(value)
        elif one in ("epoch_millis", "epoch_second"):
            found = _epoch(value, 1000 if one == "epoch_second" else 1)
        else:
            pattern = _pattern(_NAMED.get(one, one))
            read_as = pattern and pattern.fullmatch(value)
            found = (None, None) if pattern is None else _span(read_as) if read_as else None
        if found is not None:
            return found
    return None


def _epoch(value: str, scale: int) -> _Covered | None:
    if not _EPOCH_TEXT.fullmatch(value):
        return None
    instant = _of_milliseconds(int(float(value) * scale))
    return instant, instant


def _iso(value: str) -> _Covered | None:
    found = _ISO.fullmatch(value)
    return _span(found) if found else None


def _span(found: re.Match[str]) -> _Covered | None:
    """The instants that the parts of a date leave open; None for a day that is in no calendar."""
    held = {key: text for key, text in found.groupdict().items() if text}
    numbers = {key: int(held[key]) for key in "yMdHms" if key in held}
    names = {"y": "year", "M": "month", "d": "day", "H": "hour", "m": "minute", "s": "second"}
    if numbers["y"] < 1:  # before what Python's calendar knows
        return _FIRST, _FIRST
    try:
        first = datetime(**{"month": 1, "day": 1, **{names[key]: value for key, value in numbers.items()}}, tzinfo=UTC)
    except ValueError:
        return None
    first += timedelta(microseconds=int(held.get("S", "")[:6].ljust(6, "0")))
    last = first if "S" in held else _next(first, list(numbers)[-1])
    shift = _offset(held.get("zone", "Z"))
    try:
        return first - shift, last - shift
    except OverflowError:
        return first, last


def _next(first: datetime, finest: str) -> datetime:
    """The last instant of the day, hour, ... that begins there; a year or a month is its first day to engines."""
    steps = {"H": timedelta(hours=1), "m": timedelta(minutes=1), "s": timedelta(seconds=1)}
    try:
        return first + steps.get(finest, timedelta(days=1)) - _TICK
    except OverflowError:
        return _LAST


def _offset(zone: str) -> timedelta:
    if zone == "Z":
        return timedelta()
    digits = [int(one) for one in re.findall(r"\d\d", zone)]
    size = sum(value * unit for value, unit in zip(digits, (3600, 60, 1), strict=False))
    return timedelta(seconds=-size if zone[0] == "-" else size)


@cache
def _pattern(pattern: str) -> re.Pattern[str] | None:
    """A Java date pattern of plain numbers as a regular expression; None for any other."""
    made, position, seen = "", 0, set()
    while position < len(pattern):
        found = _PARTS.match(pattern, position)
        if found is None:
            return None
        part = found["part"]
        if part is None:
            made += re.escape(found["literal"] or found["quoted"] or "'")
        elif part not in _DIGITS or part[0] in seen:
            return None
        else:
            letter = "y" if part[0] == "u" else part[0]
            seen |= {letter, part[0]}
            made += f"(?P<{letter}>{_DIGITS[part]})"
        position = found.end()
    return re.compile(made, re.ASCII) if {"y"} <= seen else None
