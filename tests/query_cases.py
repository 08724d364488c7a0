"""Random filters, each with what it means in Python: the oracle that engines are compared with."""

from __future__ import annotations

import math
import re
from calendar import monthrange
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st
from query_corpus import AWARDS, GENRES, ODD, document

from knnex.query import F, Query
from knnex.query.hits import value_at
from knnex.query.nodes import Filter, Nested

Document = Mapping[str, Any]
# Lucene's, in metres (`SloppyMath`).
_RADIUS = 6_371_008.7714
#: Corpora are made of documents of these numbers.
NUMBERS = range(180)
_DOCUMENTS = [document(number) for number in NUMBERS]


@dataclass(frozen=True)
class Case:
    """A filter, and what it means."""

    filter: Filter
    holds: Callable[[Document], bool]


def values(document: Document, field: str) -> list[Any]:
    found = value_at(document, field)
    return [] if found is None else found if isinstance(found, list) else [found]


def some(field: str, condition: Callable[[Any], bool]) -> Callable[[Document], bool]:
    return lambda document: any(condition(value) for value in values(document, field))


YEARS = st.integers(1900, 2030)
HALVES = st.integers(-1, 12).map(lambda number: number / 2)
WIDE = st.sampled_from([2**31, -(2**40), 2**63, 2**70, 1980.5, 1e300])
NAMES = [*GENRES, "western", ""]


def leaves() -> st.SearchStrategy[Case]:
    return st.one_of(_keywords(), _numbers(), _patterns(), _places(), _dates(), _objects())


def _keywords() -> st.SearchStrategy[Case]:
    genre, city = st.sampled_from(NAMES), st.sampled_from(["Berlin", "Kyoto", "Paris"])
    return st.one_of(
        genre.map(lambda v: Case(F.genre == v, some("genre", lambda x: x == v))),
        genre.map(lambda v: Case(F.genre != v, lambda d: v not in values(d, "genre"))),
        st.lists(genre, max_size=3).map(lambda vs: Case(F.genre.isin(vs), some("genre", lambda x: x in vs))),
        city.map(lambda v: Case(F["address.city"] == v, some("address.city", lambda x: x == v))),
        st.sampled_from(["genre", "year", "seen", "title", "place", "shown", "cast"]).map(_exists),
        st.just(Case(Query().raw({"term": {"genre": "noir"}}).filters[0], some("genre", lambda x: x == "noir"))),
    )


def _exists(field: str) -> Case:
    return Case(F[field].exists(), some(field, lambda _: True))


def _numbers() -> st.SearchStrategy[Case]:
    number = st.one_of(YEARS, WIDE, YEARS.map(np.int32), YEARS.map(Decimal), YEARS.map(str))
    return st.one_of(
        number.map(lambda v: Case(F.year == v, some("year", lambda x: x == float(v)))),
        number.map(lambda v: Case(F.year < v, some("year", lambda x: x < float(v)))),
        number.map(lambda v: Case(F.year >= v, some("year", lambda x: x >= float(v)))),
        st.tuples(YEARS, YEARS).map(lambda v: Case(F.year.between(*v), some("year", lambda x: v[0] <= x <= v[1]))),
        st.tuples(YEARS, st.integers(0, 90)).map(
            lambda v: Case(F.year.isin(range(v[0], v[0] + v[1])), some("year", lambda x: 0 <= x - v[0] < v[1]))
        ),
        st.frozensets(YEARS, max_size=9).map(
            lambda vs: Case(F.year.isin(np.array(sorted(vs), dtype=np.int64)), some("year", lambda x: x in vs))
        ),
        HALVES.map(lambda v: Case(F.rating > v, some("rating", lambda x: x > v))),
        HALVES.map(lambda v: Case(F.rating <= np.float32(v), some("rating", lambda x: x <= v))),
        st.booleans().map(lambda v: Case(F.seen == v, some("seen", lambda x: x is v))),
    )


# Patterns


def _patterns() -> st.SearchStrategy[Case]:
    literal = st.sampled_from(["A", "a", "b", "1", "-0", "\\*", "\\?", "\\\\", '"', "é", "ü", "x", "line", "#@", "\n"])
    wild = st.lists(st.one_of(st.just("*"), st.just("?"), literal), max_size=6).map("".join)
    regular = st.lists(
        st.sampled_from(
            ["A", "b", "[0-9]", "[^0-9]", ".", ".*", "-", "(A|b)", "\\d", "\\w+", "\\*", '"', "x?", "0{1,2}"]
        ),
        min_size=1,
        max_size=5,
    ).map("".join)
    starts = st.sampled_from(["The r", "The", "the", "The moon and the w"])
    return st.one_of(
        st.tuples(wild, st.booleans()).map(lambda v: _wildcard(*v)),
        st.tuples(regular, st.booleans()).map(lambda v: _regexp(*v)),
        starts.map(lambda v: Case(F["title.raw"].startswith(v), some("title", lambda x: x.startswith(v)))),
        starts.map(
            lambda v: Case(
                F["title.raw"].startswith(v, case_sensitive=False),
                some("title", lambda x: x.lower().startswith(v.lower())),
            )
        ),
        st.sampled_from(ODD).map(lambda v: Case(F.code == v, some("code", lambda x: x == v))),
    )


def _wildcard(pattern: str, case_sensitive: bool) -> Case:
    tokens = re.findall(r"\\.|.", pattern, re.DOTALL)
    made = "".join({"*": ".*", "?": "."}.get(token, re.escape(token[-1])) for token in tokens)
    return Case(F.code.matches(pattern, case_sensitive=case_sensitive), _fullmatch(made, case_sensitive))


def _regexp(pattern: str, case_sensitive: bool) -> Case:
    return Case(F.code.regexp(pattern, case_sensitive=case_sensitive), _fullmatch(pattern, case_sensitive))


def _fullmatch(pattern: str, case_sensitive: bool) -> Callable[[Document], bool]:
    """As engines do: `\\w` and the case of a letter are ASCII's."""
    lower = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")

    def matched(value: str) -> bool:
        if case_sensitive:
            return re.fullmatch(pattern, value, re.DOTALL | re.ASCII) is not None
        folded = re.sub(r"\\?[A-Z]", lambda found: found[0] if found[0][0] == "\\" else found[0].lower(), pattern)
        return re.fullmatch(folded, value.translate(lower), re.DOTALL | re.ASCII) is not None

    return some("code", matched)


# Places


def _places() -> st.SearchStrategy[Case]:
    lat, lon = st.floats(-89, 89).map(partial(round, ndigits=3)), st.floats(-180, 180).map(partial(round, ndigits=3))
    at_date_line = st.tuples(lat.map(lambda v: v / 4), st.sampled_from([179.5, -179.5, 180.0, -180.0]))
    point = st.one_of(st.tuples(lat, lon), at_date_line)
    unit = st.sampled_from([("km", 1000.0), ("mi", 1609.344), ("nmi", 1852.0)])
    near = st.tuples(point, st.integers(1, 12_000), unit)
    return st.one_of(
        near.filter(lambda v: not _is_borderline(v[0], v[1] * v[2][1])).map(lambda v: _near(v[0], v[1], *v[2])),
        st.tuples(lat, lat, lon, lon)
        .filter(lambda v: v[0] != v[1] and v[2] != v[3])
        .map(lambda v: _box(max(v[0], v[1]) + 0.00004, v[2] + 0.00004, min(v[0], v[1]) + 0.00004, v[3] - 0.00004))
        .filter(lambda made: made is not None)
        .map(lambda made: made or Case(F.id == "", lambda _: False)),
    )


def _metres(one: Mapping[str, float], point: tuple[float, float]) -> float:
    """On a sphere, by the haversine formula."""
    lat1, lat2 = math.radians(one["lat"]), math.radians(point[0])
    across = math.radians(point[1] - one["lon"])
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin(across / 2) ** 2
    return 2 * _RADIUS * math.asin(min(1.0, math.sqrt(half)))


def _is_borderline(point: tuple[float, float], radius: float) -> bool:
    """Engines keep places to about a centimetre, and their arithmetic differs in the last digits."""
    distances = (_metres(one, point) for document in _DOCUMENTS for one in document.get("place", ()))
    return any(abs(distance - radius) < 1 for distance in distances)


def _near(point: tuple[float, float], count: int, unit: str, metres: float) -> Case:
    return Case(F.place.near(*point, f"{count}{unit}"), some("place", lambda x: _metres(x, point) <= count * metres))


def _box(top: float, left: float, bottom: float, right: float) -> Case | None:
    """Between the grid on which documents lie, so that no edge decides."""
    if not (-180 <= left <= 180 and -180 <= right <= 180 and left != right):
        return None

    def inside(x: Mapping[str, float]) -> bool:
        across = left <= x["lon"] <= right if left < right else x["lon"] >= left or x["lon"] <= right
        return bottom <= x["lat"] <= top and across

    return Case(F.place.within_box(top_left=(top, left), bottom_right=(bottom, right)), some("place", inside))


# Dates


_SIDES: dict[str, Callable[[Any, Any], Filter]] = {
    "gt": lambda field, value: field > value,
    "gte": lambda field, value: field >= value,
    "lt": lambda field, value: field < value,
    "lte": lambda field, value: field <= value,
}
_TICK = timedelta(milliseconds=1)


def _dates() -> st.SearchStrategy[Case]:
    day = st.dates(date(1960, 1, 1), date(2025, 12, 28))
    side = st.sampled_from(list(_SIDES))
    zone = st.sampled_from(
        [None, UTC, timezone(timedelta(hours=-8)), timezone(timedelta(hours=5, minutes=30, seconds=15))]
    )
    instant = st.datetimes(datetime(1968, 1, 1), datetime(2024, 1, 1))
    field = st.sampled_from(["released", "shown", "day"])
    step = st.sampled_from(["", "/d", "/M", "/y", "+1M", "-2y/M", "+40d", "-1w+3h", "/w", "+1M-1d/d", "-90m"])
    return st.one_of(
        st.tuples(side, field, day).map(lambda v: _compared(v[0], v[1], v[2], *_day(v[2]))),
        st.tuples(side, instant, zone).map(lambda v: _instant(v[0], "shown", v[1].replace(tzinfo=v[2]))),
        st.tuples(side, instant, zone).map(lambda v: _instant(v[0], "day", v[1].replace(tzinfo=v[2]))),
        st.tuples(side, instant).map(lambda v: _milliseconds(v[0], v[1])),
        st.tuples(side, st.sampled_from(["released", "shown"]), day, st.sampled_from(["%Y", "%Y-%m", "%Y-%m-%d"])).map(
            lambda v: _text(*v)
        ),
        st.tuples(side, day).map(lambda v: _compared(v[0], "day", v[1].strftime("%d/%m/%Y"), *_day(v[1]))),
        st.tuples(side, st.sampled_from(["released", "shown"]), day, step).map(
            lambda v: _maths(v[0], v[1], v[2], v[3])
        ),
        st.tuples(side, st.integers(1, 110)).map(lambda v: _since_now(*v)),
        st.lists(day, min_size=1, max_size=4).map(_one_of),
        st.tuples(day, day).map(_between),
    )


def read(value: str) -> datetime:
    """What a document holds."""
    if "/" in value:
        return datetime.strptime(value, "%d/%m/%Y").replace(tzinfo=UTC)
    found = datetime.fromisoformat(value)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _day(value: date) -> tuple[datetime, datetime]:
    first = datetime(value.year, value.month, value.day, tzinfo=UTC)
    return first, first + timedelta(days=1) - _TICK


def _compared(side: str, field: str, value: Any, first: datetime, last: datetime) -> Case:
    """Engines take the last instant of a day, month or year for `gt` and `lte`, the first for the others."""
    return Case(_SIDES[side](F[field], value), some(field, lambda x: _holds(side, read(x), first, last)))


def _holds(side: str, at: datetime, first: datetime, last: datetime) -> bool:
    return {"gt": at > last, "gte": at >= first, "lt": at < first, "lte": at <= last}[side]


def _instant(side: str, field: str, value: datetime) -> Case:
    exact = value if value.tzinfo else value.replace(tzinfo=UTC)
    at = exact.replace(microsecond=exact.microsecond // 1000 * 1000)
    return _compared(side, field, value, at, at)


def _milliseconds(side: str, value: datetime) -> Case:
    at = value.replace(microsecond=0, tzinfo=UTC)
    return _compared(side, "shown", int(at.timestamp()) * 1000, at, at)


def _text(side: str, field: str, value: date, form: str) -> Case:
    """A year or a month is its first day."""
    first = date(value.year, value.month if "m" in form else 1, value.day if "d" in form else 1)
    return _compared(side, field, value.strftime(form), *_day(first))


def _maths(side: str, field: str, value: date, steps: str) -> Case:
    first, _ = _day(value)
    begin, end = _stepped(first, steps)
    return _compared(side, field, f"{value.isoformat()}||{steps}", begin, end)


def _since_now(side: str, years: int) -> Case:
    begin, end = _stepped(datetime.now(UTC), f"-{years}y/M")
    return _compared(side, "released", f"now-{years}y/M", begin, end)


def _stepped(at: datetime, steps: str) -> tuple[datetime, datetime]:
    """The first and last instant that date maths leads to."""
    last = at
    for sign, count, unit in re.findall(r"([+-/])(\d*)([yMwdhm])", steps):
        if sign == "/":
            at, last = _rounded(at, unit)
            continue
        number = int(count or 1) * (1 if sign == "+" else -1)
        at = last = _moved(at, number, unit)
    return at, last


def _moved(at: datetime, number: int, unit: str) -> datetime:
    if unit in "yM":
        months = at.year * 12 + at.month - 1 + number * (12 if unit == "y" else 1)
        year, month = divmod(months, 12)
        return at.replace(year=year, month=month + 1, day=min(at.day, monthrange(year, month + 1)[1]))
    return at + number * {"w": timedelta(weeks=1), "d": timedelta(days=1), "h": timedelta(hours=1)}.get(
        unit, timedelta(minutes=1)
    )


def _rounded(at: datetime, unit: str) -> tuple[datetime, datetime]:
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "w":
        day -= timedelta(days=day.weekday())
        return day, day + timedelta(weeks=1) - _TICK
    if unit == "d":
        return day, day + timedelta(days=1) - _TICK
    first = day.replace(day=1) if unit == "M" else day.replace(month=1, day=1)
    return first, _moved(first, 1, unit) - _TICK


def _one_of(days: list[date]) -> Case:
    spans = [_day(one) for one in days]
    held = some("day", lambda x: any(first <= read(x) <= last for first, last in spans))
    return Case(F.day.isin(days), held)


def _between(days: tuple[date, date]) -> Case:
    first, last = _day(days[0])[0], _day(days[1])[1]
    return Case(F.shown.between(*days), some("shown", lambda x: first <= read(x) <= last))


# Objects inside documents


def _objects() -> st.SearchStrategy[Case]:
    name, age = st.integers(0, 6).map("actor{}".format), st.integers(15, 60)
    award, year = st.sampled_from([*AWARDS, "lion"]), st.integers(1945, 1995)
    return st.one_of(
        st.tuples(name, age).map(
            lambda v: Case(
                Nested("cast", (F.name == v[0]) & (F["cast.age"] > v[1])),
                some("cast", lambda x: x["name"] == v[0] and x["age"] > v[1]),
            )
        ),
        st.tuples(name, award, year).map(
            lambda v: Case(
                F.cast.any(F.name == v[0], F.awards.any(F.name == v[1], F.year >= v[2])),
                some("cast", lambda x: x["name"] == v[0] and _won(x, v[1], v[2])),
            )
        ),
        st.tuples(name, award, year).map(
            lambda v: Case(
                F.cast.any((F.name == v[0]) | ~F.awards.any(F.name == v[1], F["cast.awards.year"] >= v[2])),
                some("cast", lambda x: x["name"] == v[0] or not _won(x, v[1], v[2])),
            )
        ),
        st.tuples(award, year).map(
            lambda v: Case(
                F["cast.awards"].any(F.name == v[0], F.year >= v[1]),
                some("cast", lambda x: _won(x, v[0], v[1])),
            )
        ),
    )


def _won(actor: Mapping[str, Any], name: str, since: int) -> bool:
    return any(one["name"] == name and one["year"] >= since for one in actor["awards"])


def combined(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    pair = st.tuples(inner, inner)
    return st.one_of(
        pair.map(lambda p: Case(p[0].filter & p[1].filter, lambda d: p[0].holds(d) and p[1].holds(d))),
        pair.map(lambda p: Case(p[0].filter | p[1].filter, lambda d: p[0].holds(d) or p[1].holds(d))),
        inner.map(lambda one: Case(~one.filter, lambda d: not one.holds(d))),
    )


CASES = st.recursive(leaves(), combined, max_leaves=6)
