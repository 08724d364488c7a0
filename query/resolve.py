"""Filters as people write them, made into filters an engine can run: names checked, values fitted, paths filled in."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatchmethod
from typing import Any

import orjson

from ..errors import QueryError
from ..mappings import PROVENANCE
from .names import KEYWORD, TEXT, Known, Names
from .nodes import (
    And,
    Exists,
    Filter,
    HasChild,
    HasParent,
    Ids,
    Lookup,
    Nested,
    Not,
    Nothing,
    Or,
    Prefix,
    Range,
    RawDsl,
    Term,
    Terms,
)
from .values import MAX_IDS, MAX_TERMS, beyond, check_unicode, plain, reachable

# Elasticsearch refuses 30 levels; one is the clause that carries the filter, and a join adds one of its own.
MAX_DEPTH = 26
# OpenSearch refuses more than 1,024 clauses in one query.
MAX_CLAUSES = 1_000
# Elasticsearch refuses a longer prefix (`index.max_regex_length`).
MAX_PREFIX = 1_000

_UNORDERED = frozenset({"boolean", "join", "flattened", "flat_object", "geo_point", "geo_shape", "object", "nested"})


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
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise QueryError(
                f"the filter is nested more than {MAX_DEPTH} levels deep, which engines refuse",
                hint="flatten it: (a | b) | c is one level, F.x.isin([...]) replaces many |",
            )
        if self._clauses > MAX_CLAUSES:
            raise QueryError(
                f"the filter has more than {MAX_CLAUSES:,} clauses, which engines refuse",
                hint=f"F.x.isin([...]) takes up to {MAX_TERMS:,} values in one clause",
            )
        made = self._one(given)
        self._depth -= 1
        return made

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
        known = self.names.field(name, self._nested)
        if known.nested is not None and self._nested is None:
            raise QueryError(
                f"{known.name} lies in the nested objects {known.nested!r}",
                hint=f"ask for it with where_nested({known.nested!r}, ...)",
            )
        return known

    def _is_id(self, name: str) -> bool:
        """Whether the document's id is meant, which is no field, and which objects inside it have not."""
        if self._nested is not None:
            return False
        return name == "_id" or (name == self.names.spec.id and not self.names.has(name))

    def _ids(self, name: str, values: tuple[Any, ...]) -> Filter:
        if len(values) > MAX_IDS:
            raise QueryError(
                f"{name} is compared with {len(values):,} ids; engines take {MAX_IDS:,}",
                hint=f"ask in several queries, or declare {name!r} as a keyword field",
            )
        ids = tuple(map(str, values))
        for one in ids:
            check_unicode(one, f"the value for {name}")
        return Ids(ids) if ids else Nothing()

    def _exact(self, name: str) -> Known:
        known = self._field(name)
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
        value = plain(given.value, known)
        return Term(known.name, value) if reachable(value, known) else Nothing()

    @_one.register
    def _(self, given: Terms) -> Filter:
        if self._is_id(given.field):
            return self._ids(given.field, given.values)
        known = self._exact(given.field)
        if len(given.values) > MAX_TERMS:
            raise QueryError(
                f"{known.name} is compared with {len(given.values):,} values; engines take {MAX_TERMS:,}",
                hint="ask in several queries, or declare a lookup join and use where_lookup",
            )
        values = dict.fromkeys(plain(value, known) for value in given.values)
        fitting = tuple(value for value in values if reachable(value, known))
        return Terms(known.name, fitting) if fitting else Nothing()

    @_one.register
    def _(self, given: Range) -> Filter:
        known = self._exact(given.field)
        if known.type in _UNORDERED:
            raise QueryError(
                f"{known.name} is of type {known.type}: it has no order", hint=f"compare it by F.{known.name} == ..."
            )
        left: dict[str, object] = {}
        for side, bound in given.bounds().items():
            value = plain(bound, known)
            where = beyond(value, known)
            if where == 0:
                left[side] = value
            elif (where > 0) == side.startswith("g"):
                return Nothing()
        return Range(known.name, **left) if left else Exists(known.name)

    @_one.register
    def _(self, given: Exists) -> Filter:
        if self._nested is None and given.field in self.names.spec.embeddings:
            return Exists(f"{PROVENANCE}.vectors.{given.field}.fingerprint")
        return Exists(self._field(given.field).name)

    @_one.register
    def _(self, given: Prefix) -> Filter:
        known = self._exact(given.field)
        if known.type not in KEYWORD:
            raise QueryError(
                f"{known.name} is of type {known.type}: only a keyword starts with something", hint="use .between()"
            )
        check_unicode(given.value, f"the prefix for {known.name}")
        if len(given.value) > MAX_PREFIX:
            raise QueryError(
                f"the prefix for {known.name} has {len(given.value):,} characters; engines take {MAX_PREFIX:,}",
                hint="a shorter one finds these documents too",
            )
        return Prefix(known.name, given.value)

    @_one.register
    def _(self, given: And) -> Filter:
        return And(tuple(self.resolve(one) for one in given.filters))

    @_one.register
    def _(self, given: Or) -> Filter:
        return Or(tuple(self.resolve(one) for one in given.filters))

    @_one.register
    def _(self, given: Not) -> Filter:
        return Not(self.resolve(given.filter))

    @_one.register
    def _(self, given: Nested) -> Filter:
        path = self.names.nested(given.path)
        return Nested(path, self._inside(given.filter, path))

    @_one.register
    def _(self, given: HasParent) -> Filter:
        inner = None if given.filter is None else self._inside(given.filter, None)
        return HasParent(self.names.parent(given.parent), inner)

    @_one.register
    def _(self, given: HasChild) -> Filter:
        inner = None if given.filter is None else self._inside(given.filter, None)
        return HasChild(self.names.child(given.child), inner)

    @_one.register
    def _(self, given: Lookup) -> Filter:
        join = self.names.lookup(given.join)
        return replace(given, field=self._exact(join.field).name)

    @_one.register
    def _(self, given: RawDsl) -> Filter:
        try:
            orjson.dumps(given.body)
        except TypeError as error:
            raise QueryError(
                f"a raw clause has no JSON form: {error}", hint="use strings, numbers, lists and dicts"
            ) from None
        return given
