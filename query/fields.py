"""`F`: the fields of a document, and the filters that comparing them makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import QueryError
from .nodes import Exists, Filter, Not, Prefix, Range, Term, Terms

_METHODS = "between, isin, exists, startswith"


class Field:
    """A field by its name; comparing it makes a filter, and asks nothing."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"F.{self.name}" if self.name.isidentifier() else f"F[{self.name!r}]"

    def __hash__(self) -> int:
        return hash(self.name)

    def __bool__(self) -> bool:
        raise QueryError(
            f"{self!r} alone is no filter", hint=f"compare it: {self!r} == True, or {self!r}.exists() for any value"
        )

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        """The field holds this value; `== None`: it holds none."""
        return Not(Exists(self.name)) if value is None else Term(self.name, self._one(value))

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        """The field does not hold this value (or none at all); `!= None`: it holds any."""
        return Exists(self.name) if value is None else Not(Term(self.name, self._one(value)))

    def __lt__(self, value: object) -> Filter:
        return Range(self.name, lt=self._bound(value))

    def __le__(self, value: object) -> Filter:
        return Range(self.name, lte=self._bound(value))

    def __gt__(self, value: object) -> Filter:
        return Range(self.name, gt=self._bound(value))

    def __ge__(self, value: object) -> Filter:
        return Range(self.name, gte=self._bound(value))

    def __contains__(self, value: object) -> bool:
        raise QueryError(f"`in {self!r}` cannot be asked", hint=f"write {self!r} == {value!r}: it holds for lists too")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a field has no {name!r}: it has {_METHODS}; write F['{self.name}.{name}'] for a subfield"
        )

    def between(self, low: object, high: object) -> Filter:
        """Both bounds included; None leaves a side open."""
        if low is None and high is None:
            raise QueryError(f"{self!r}.between(None, None) excludes nothing", hint="give a bound, or use .exists()")
        return Range(
            self.name,
            gte=None if low is None else self._bound(low),
            lte=None if high is None else self._bound(high),
        )

    def isin(self, values: Iterable[object]) -> Filter:
        """The field holds one of `values`, at most 65,536 of them."""
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise QueryError(f"{self!r}.isin() wants a list, not {values!r}", hint=f"write {self!r} == {values!r}")
        return Terms(self.name, tuple(self._one(value) for value in values))

    def exists(self) -> Filter:
        """The field holds any value; for an embedding: the document has its vector."""
        return Exists(self.name)

    def startswith(self, prefix: str) -> Filter:
        """The field, a keyword, holds a value that starts with `prefix`; upper and lower case differ."""
        if not isinstance(prefix, str):
            raise QueryError(f"{self!r}.startswith() wants a string, not {prefix!r}", hint="give the first characters")
        return Prefix(self.name, prefix)

    def _one(self, value: object) -> object:
        if isinstance(value, Field):
            raise QueryError(f"{self!r} and {value!r} cannot be compared", hint="compare a field with a value")
        if value is None or isinstance(value, (list, tuple, set, frozenset, dict)):
            raise QueryError(f"{self!r} cannot equal {value!r}", hint=f"use {self!r}.isin([...]) for several values")
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
