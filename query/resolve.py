"""Filters as people write them, made into filters an engine can run: names checked, values fitted, paths filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import singledispatchmethod
from typing import Any

import orjson

from ..errors import QueryError
from ..mappings import PROVENANCE
from .names import DATE, KEYWORD, TEXT, Known, Names
from .nodes import (
    And,
    Exists,
    Filter,
    HasChild,
    HasParent,
    Ids,
    Lookup,
    Near,
    Nested,
    Not,
    Nothing,
    Or,
    Prefix,
    Range,
    RawDsl,
    Regexp,
    Term,
    Terms,
    Wildcard,
    WithinBox,
    size_of,
)
from .patterns import check_pattern, check_wildcard, regular
from .ranges import on, within
from .simplify import EVERYTHING, either, every, simplified
from .values import MAX_CLAUSES, MAX_K, MAX_TERMS, MAX_VALUES, check_unicode, plain, reachable, unwrapped

# Elasticsearch refuses 30 levels; one is the clause that carries the filter, and a join adds one of its own.
MAX_DEPTH = 26

# OpenSearch has no order on a wildcard field either.
_UNORDERED = frozenset({"boolean", "join", "flattened", "flat_object", "wildcard", "constant_keyword"})
_PLACES = frozenset({"geo_point", "geo_shape"})
_PATTERNED = frozenset({"keyword", "wildcard"})
# As what OpenSearch counts a condition on a wildcard field.
_WILDCARD = 5


class Resolver:
    """Resolves the filters of one query against the names of one index; counts their clauses."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._clauses = 0
        self._depth = 0
        # The nested objects whose fields are meant right now.
        self._nested: str | None = None

    def resolve(self, given: Filter) -> Filter:
        """The filter as it can be sent. Raises UnknownField, QueryError."""
        self._clauses += 1
        self._count()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise QueryError(
                f"the filter is nested more than {MAX_DEPTH} levels deep, which engines refuse",
                hint="flatten it: (a | b) | c is one level, F.x.isin([...]) replaces many |",
            )
        made = self._one(given)
        if not hasattr(given, "filters") and not hasattr(given, "filter"):
            self._clauses += size_of(made) - 1
            self._count()
        self._depth -= 1
        return made

    def _count(self) -> None:
        if self._clauses > MAX_CLAUSES:
            raise QueryError(
                f"the filter has more than {MAX_CLAUSES:,} clauses, which engines refuse",
                hint="F.x.isin([...]) takes many values in one clause; dates are a clause each",
            )

    def _inside(self, given: Filter, nested: str | None) -> Filter:
        """A filter that is about other documents, or about objects inside this one."""
        outer, self._nested = self._nested, nested
        made = self.resolve(given)
        self._nested = outer
        return made

    @singledispatchmethod
    def _one(self, given: Filter) -> Filter:
        return given

    def _field(self, name: str) -> Known:
        if self._is_id(name):
            raise QueryError(
                f"{name} is the document's id: it is only compared by == and isin()",
                hint=f"declare {name!r} as a keyword field for more",
            )
        if self._nested is None and self.names.is_nested(name):
            raise self._objects(name)
        known = self._inner(name) or self.names.field(name, self._nested)
        if known.nested != self._nested:
            raise QueryError(
                f"{known.name} lies in the nested objects {known.nested!r}",
                hint=f"ask for it with F[{known.nested!r}].any(...), or where_nested({known.nested!r}, ...)",
            )
        return known

    def _inner(self, name: str) -> Known | None:
        """The field of that name in objects that lie deeper than those that are meant right now."""
        if self._nested is None:
            return None
        full = name if name.startswith(f"{self._nested}.") else f"{self._nested}.{name}"
        known = self.names.field(full) if self.names.has(full) else None
        return known if known and known.nested != self._nested and known.type != "nested" else None

    def _objects(self, name: str) -> QueryError:
        nested = self.names.is_nested(name) or self.names.field(name).type == "nested"
        way = f"F[{name!r}].any(F.FIELD == ...)" if nested else f"F[{name + '.FIELD'!r}] == ..."
        return QueryError(f"{name} holds objects: their fields are compared", hint=f"write {way}")

    def _is_id(self, name: str) -> bool:
        """Whether the document's id is meant, which is no field, and which objects inside it have not."""
        if self._nested is not None:
            return False
        return name == "_id" or (name == self.names.spec.id and not self.names.has(name))

    def _ids(self, name: str, values: tuple[Any, ...]) -> Filter:
        # An empty one is refused by engines, and is no document's.
        ids = tuple(dict.fromkeys(str(unwrapped(value)) for value in values if value != ""))
        for one in ids:
            check_unicode(one, f"the value for {name}")
        return either(tuple(Ids(part) for part in _cut(ids, MAX_K, name)))

    def _exact(self, name: str) -> Known:
        known = self._field(name)
        if known.type in _PLACES:
            raise QueryError(
                f"{known.name} is of type {known.type}: places are not compared as a whole",
                hint=f"use F.{known.name}.near(lat, lon, '10km') or F.{known.name}.within_box(...)",
            )
        if known.type in ("object", "nested"):
            raise self._objects(known.name)
        if known.type == "wildcard":
            self._clauses += _WILDCARD - 1
        if known.type in TEXT:
            raise QueryError(
                f"{known.name} is of type {known.type}: it is searched by its words, not compared as a whole",
                hint=f".lexical({known.name!r}) ranks by them; give the field a keyword multi-field to filter by",
            )
        return known

    @_one.register
    def _(self, given: Term) -> Filter:
        if self._is_id(given.field):
            return self._ids(given.field, (given.value,))
        known = self._exact(given.field)
        if known.type in DATE:
            return on(known, (given.value,))
        value = plain(given.value, known)
        return Term(known.name, value) if reachable(value, known) else Nothing()

    @_one.register
    def _(self, given: Terms) -> Filter:
        if self._is_id(given.field):
            return self._ids(given.field, given.values)
        known = self._exact(given.field)
        if known.type in DATE:
            return on(known, given.values)
        values = dict.fromkeys(plain(value, known) for value in given.values)
        fitting = tuple(value for value in values if reachable(value, known))
        return either(tuple(Terms(known.name, part) for part in _cut(fitting, MAX_TERMS, known.name)))

    @_one.register
    def _(self, given: Range) -> Filter:
        known = self._exact(given.field)
        if known.type in _UNORDERED:
            raise QueryError(
                f"{known.name} is of type {known.type}: it has no order", hint=f"compare it by F.{known.name} == ..."
            )
        return within(known, given.bounds())

    @_one.register
    def _(self, given: Exists) -> Filter:
        if self._nested is None and given.field in self.names.spec.embeddings:
            return Exists(f"{PROVENANCE}.vectors.{given.field}.fingerprint")
        if self._nested is None and self.names.is_nested(given.field):
            return Nested(given.field, EVERYTHING)
        return Exists(self._field(given.field).name)

    @_one.register
    def _(self, given: Prefix) -> Filter:
        known = self._exact(given.field)
        if known.type not in KEYWORD:
            raise QueryError(
                f"{known.name} is of type {known.type}: only a keyword starts with something", hint="use .between()"
            )
        check_pattern(given.value, f"the prefix for {known.name}")
        return replace(given, field=known.name)

    @_one.register
    def _(self, given: Wildcard) -> Filter:
        known = self._patterned(given.field)
        check_wildcard(given.pattern, known.name)
        if not given.pattern:  # with which engines find nothing, and not what is empty
            return Term(known.name, "")
        return replace(given, field=known.name)

    @_one.register
    def _(self, given: Regexp) -> Filter:
        known = self._patterned(given.field)
        return replace(given, field=known.name, pattern=regular(given.pattern, known.name))

    def _patterned(self, name: str) -> Known:
        known = self._exact(name)
        if known.type not in _PATTERNED:
            raise QueryError(
                f"{known.name} is of type {known.type}: only a keyword field is compared with a pattern",
                hint="give it a keyword multi-field, or use .between() or == for a number",
            )
        return known

    @_one.register
    def _(self, given: Near) -> Filter:
        return replace(given, field=self._place(given.field).name)

    @_one.register
    def _(self, given: WithinBox) -> Filter:
        return replace(given, field=self._place(given.field).name)

    def _place(self, name: str) -> Known:
        known = self._field(name)
        if known.type not in _PLACES:
            raise QueryError(
                f"{known.name} is of type {known.type}: it holds no places", hint="declare it as a geo_point"
            )
        return known

    @_one.register
    def _(self, given: And) -> Filter:
        return every(tuple(self.resolve(one) for one in given.filters))

    @_one.register
    def _(self, given: Or) -> Filter:
        return either(tuple(self.resolve(one) for one in given.filters))

    @_one.register
    def _(self, given: Not) -> Filter:
        return simplified(Not(self.resolve(given.filter)))

    @_one.register
    def _(self, given: Nested) -> Filter:
        path = self._path(given.path)
        return simplified(Nested(path, self._inside(given.filter, path)))

    def _path(self, path: str) -> str:
        """The nested objects of that name; inside others, those that lie in them."""
        if self._nested is None:
            return self.names.nested(path)
        full = path if path.startswith(f"{self._nested}.") else f"{self._nested}.{path}"
        return self.names.nested(full if self.names.has(full) else path)

    @_one.register
    def _(self, given: HasParent) -> Filter:
        name = self.names.parent(given.parent)
        return simplified(HasParent(name, None if given.filter is None else self._inside(given.filter, None)))

    @_one.register
    def _(self, given: HasChild) -> Filter:
        name = self.names.child(given.child)
        return simplified(HasChild(name, None if given.filter is None else self._inside(given.filter, None)))

    @_one.register
    def _(self, given: Lookup) -> Filter:
        join = self.names.lookup(given.join)
        return replace(given, field=self._exact(join.field).name)

    @_one.register
    def _(self, given: RawDsl) -> Filter:
        ((name, said),) = given.body.items()
        if not isinstance(said, Mapping):
            raise QueryError(
                f"{given.body!r:.80} is no clause of the engine's DSL",
                hint=f"write F[{name!r}] == {said!r:.40}, or {{'term': {{{name!r}: {said!r:.40}}}}}",
            )
        try:
            orjson.dumps(given.body)
        except TypeError as error:
            raise QueryError(
                f"a raw clause has no JSON form: {error}", hint="use strings, numbers, lists and dicts"
            ) from None
        return Nothing() if dict(given.body) == {"match_none": {}} else given


def _cut(values: tuple[Any, ...], size: int, name: str) -> list[tuple[Any, ...]]:
    """A list of values in pieces that engines take. Raises QueryError for too many."""
    if len(values) > MAX_VALUES:
        raise QueryError(
            f"{name} is compared with {len(values):,} values; at most {MAX_VALUES:,} are taken",
            hint="ask in several queries, or declare a lookup join and use where_lookup",
        )
    return [values[start : start + size] for start in range(0, len(values), size)]
