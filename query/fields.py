"""`F`: the fields of a document, and the filters that comparing them makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from ..errors import QueryError
from .geo import box, metres, point
from .given import all_of
from .nodes import Exists, Filter, Near, Nested, Not, Prefix, Range, Regexp, Term, Terms, Wildcard, WithinBox
from .values import MAX_VALUES

_METHODS = "between, isin, exists, startswith, matches, regexp, near, within_box, any"


_SEVERAL = (list, tuple, set, frozenset, range, Mapping, np.ndarray)


class Field:
    """A field by its name; comparing it makes a filter, and asks nothing."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"F.{self._name:.80}" if self._name.isidentifier() else f"F[{self._name!r:.80}]"

    def __hash__(self) -> int:
        return hash(self._name)

    def __bool__(self) -> bool:
        raise QueryError(
            f"{self!r} alone is no filter", hint=f"compare it: {self!r} == True, or {self!r}.exists() for any value"
        )

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        """The field holds this value; `== None`: it holds none."""
        return Not(Exists(self._name)) if value is None else Term(self._name, self._one(value))

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        """The field does not hold this value (or none at all); `!= None`: it holds any."""
        return Exists(self._name) if value is None else Not(Term(self._name, self._one(value)))

    def __lt__(self, value: object) -> Filter:
        return Range(self._name, lt=self._bound(value))

    def __le__(self, value: object) -> Filter:
        return Range(self._name, lte=self._bound(value))

    def __gt__(self, value: object) -> Filter:
        return Range(self._name, gt=self._bound(value))

    def __ge__(self, value: object) -> Filter:
        return Range(self._name, gte=self._bound(value))

    def __contains__(self, value: object) -> bool:
        raise QueryError(f"`in {self!r}` cannot be asked", hint=f"write {self!r} == {value!r}: it holds for lists too")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a field has no {name!r}: it has {_METHODS}; write F['{self._name}.{name}'] for a subfield"
        )

    def between(self, low: object, high: object) -> Filter:
        """Both bounds included; None leaves a side open."""
        if low is None and high is None:
            raise QueryError(f"{self!r}.between(None, None) excludes nothing", hint="give a bound, or use .exists()")
        return Range(
            self._name,
            gte=None if low is None else self._bound(low),
            lte=None if high is None else self._bound(high),
        )

    def isin(self, values: Iterable[object]) -> Filter:
        """The field holds one of `values`: a list, set, range, numpy array, ...; at most a million of them."""
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
            raise QueryError(
                f"{self!r}.isin() wants a list, not {values!r:.80}", hint=f"write {self!r} == {values!r:.80}"
            )
        listed = tuple(self._one(value) for value in islice(values, MAX_VALUES + 1))
        if len(listed) > MAX_VALUES:
            raise QueryError(
                f"{self!r}.isin() is given more than {MAX_VALUES:,} values",
                hint="use .between(), ask in several queries, or declare a lookup join and use where_lookup()",
            )
        return Terms(self._name, listed)

    def exists(self) -> Filter:
        """The field holds any value; for an embedding: the document has its vector."""
        return Exists(self._name)

    def startswith(self, prefix: str, *, case_sensitive: bool = True) -> Filter:
        """The field, a keyword, holds a value that starts with `prefix`."""
        return Prefix(self._name, self._text(prefix, "startswith"), case_sensitive)

    def matches(self, pattern: str, *, case_sensitive: bool = True) -> Filter:
        """The field, a keyword, holds a value of this form: `?` is one character, `*` any number of them.

        `\\*` and `\\?` are themselves. The whole value is compared. Without case, a to z equal A to Z and no others.
        """
        return Wildcard(self._name, self._text(pattern, "matches"), case_sensitive)

    def regexp(self, pattern: str, *, case_sensitive: bool = True) -> Filter:
        """The field, a keyword, holds a value that a regular expression matches as a whole.

        `. | ( ) [ ] ? * +`, `{2,3}`, `\\d`, `\\s` and `\\w` are known, and mean what they mean in Python.
        """
        return Regexp(self._name, self._text(pattern, "regexp"), case_sensitive)

    def near(self, lat: float, lon: float, distance: str | float) -> Filter:
        """The field, a geo_point, holds a place at most so far away: `near(52.5, 13.4, "10km")`, or metres.

        Degrees, on a sphere of the Earth's mean radius; units are m, km, mi, yd, ft, in, cm, mm, nmi.
        """
        return Near(self._name, *point(lat, lon, f"{self!r}.near()"), metres(distance, repr(self)))

    def within_box(self, *, top_left: tuple[float, float], bottom_right: tuple[float, float]) -> Filter:
        """The field, a geo_point, holds a place in a box of two corners, each (latitude, longitude) in degrees.

        A box whose left is east of its right crosses the date line. Its edges are as exact as engines keep places, to
        about a centimetre.
        """
        return WithinBox(self._name, *box(top_left, bottom_right, repr(self)))

    def any(self, *filters: Filter | Mapping[str, Any] | Any) -> Filter:
        """One object of this field, a nested one, fulfils every filter by itself; nested fields may hold others."""
        inner = all_of(filters)
        if inner is None:
            raise QueryError(f"{self!r}.any() has no filter", hint=f"for example {self!r}.any(F.name == 'x')")
        return Nested(self._name, inner)

    def _text(self, value: str, method: str) -> str:
        if not isinstance(value, str):
            raise QueryError(f"{self!r}.{method}() wants a string, not {value!r:.80}", hint="give text")
        return value

    def _one(self, value: object) -> object:
        if isinstance(value, Field):
            raise QueryError(f"{self!r} and {value!r} cannot be compared", hint="compare a field with a value")
        if value is None or isinstance(value, _SEVERAL):
            raise QueryError(
                f"{self!r} cannot equal {value!r:.80}", hint=f"use {self!r}.isin([...]) for several values"
            )
        return value

    def _bound(self, value: object) -> object:
        if isinstance(value, bool):
            raise QueryError(f"{self!r} cannot be more or less than {value}", hint=f"write {self!r} == {value}")
        return self._one(value)


class Fields:
    """`F.year`, or `F["cast.name"]` for a name with dots."""

    def __getattr__(self, name: str) -> Field:
        if name.startswith("__"):
            raise AttributeError(name)
        return Field(name)

    def __getitem__(self, name: str) -> Field:
        if not isinstance(name, str):
            raise QueryError(f"F[{name!r:.80}] is no field", hint="write F['NAME']")
        return Field(name)

    def __repr__(self) -> str:
        return "F"


#: The fields of a document: `F.year >= 1980`, `F.genre.isin(["drama", "sci-fi"])`, `F["cast.name"] == "Bogart"`.
F = Fields()
