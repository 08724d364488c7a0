"""Lookup joins: a first query's keys become a filter, and what they lead to is put on the hits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..engines import Flow, Request
from ..errors import QueryError
from ..mappings import PROVENANCE, LookupJoin, Stored, load
from . import paging
from .answers import answered, asking
from .compile import Page, compiler_for
from .hits import Hit
from .names import DATE, TEXT, Known, Names
from .nodes import Everything, Filter, Ids, Lookup, Nothing, Or, Terms, both
from .resolve import Resolver
from .simplify import ALIVE, simplified
from .values import MAX_TERMS, plain, reachable

if TYPE_CHECKING:
    from .plan import Plan

#: The most keys one lookup may find: a search that sends so many takes a second longer.
MAX_KEYS = 1_000_000
_BATCH = 10_000


@dataclass(frozen=True)
class Side:
    """The other side of a lookup join: its index, the filter there, and the field its key is in."""

    stored: Stored
    join: LookupJoin
    filter: Filter | None

    @property
    def alias(self) -> str:
        """The name that is searched."""
        return self.stored.spec.index

    @property
    def by_id(self) -> bool:
        """Whether the key is the document's id, which is no field."""
        spec = self.stored.spec
        return self.join.key == "_id" or (self.join.key == spec.id and not Names.of(spec).has(spec.id))


def lookups_in(*given: Filter | None) -> list[Lookup]:
    """The lookups of filters, in order, each once."""
    found: list[Lookup] = []
    for one in chain.from_iterable(map(_walk, given)):
        if isinstance(one, Lookup) and one not in found:
            found.append(one)
    return found


def _walk(given: Filter | None) -> Iterable[Filter]:
    if given is not None:
        yield given
        for one in (*getattr(given, "filters", ()), getattr(given, "filter", None)):
            if not isinstance(given, Lookup):
                yield from _walk(one)


def replaced(given: Filter, lookups: Sequence[Lookup], found: Sequence[Filter]) -> Filter:
    """The filter with each of its lookups replaced by what it found."""
    if isinstance(given, Lookup):
        return found[lookups.index(given)]
    changed: dict[str, Any] = {}
    if hasattr(given, "filters"):
        changed["filters"] = tuple(replaced(one, lookups, found) for one in given.filters)
    elif getattr(given, "filter", None) is not None:
        changed["filter"] = replaced(given.filter, lookups, found)  # type: ignore[attr-defined]
    return simplified(replace(given, **changed)) if changed else given  # type: ignore[type-var]


def first_request(plan: Plan, lookup: Lookup, join: LookupJoin) -> Request:
    """The request for the first batch of keys, as it is shown before the other index's spec is known."""
    spec = plan.stored.spec.model_copy(update={"index": join.index or plan.alias})
    side = Side(Stored(spec.index, spec, {}), join, lookup.filter)
    return _keys_request(plan, replace(side, filter=_shown(plan, lookup, join)), None)


def _shown(plan: Plan, lookup: Lookup, join: LookupJoin) -> Filter | None:
    if lookup.filter is None or join.index not in (None, plan.alias):
        return lookup.filter
    return Resolver(Names.of(plan.stored.spec)).resolve(lookup.filter)


def keys(plan: Plan, lookup: Lookup, join: LookupJoin) -> Flow[tuple[Side, Filter]]:
    """The other side, and the filter that its keys make here. Raises QueryError for more than a million keys."""
    side = yield from _side(plan, lookup, join)
    known = Names.of(plan.stored.spec).field(lookup.field)
    found = yield from _ids(plan, side, lookup) if side.by_id else _distinct(plan, side, lookup)
    return side, _one_of(lookup.field, sorted((one for one in found if _held(one, known)), key=str))


def _one_of(field: str, keys: Sequence[Any]) -> Filter:
    """The field holds one of the keys: a clause for each 65,536 of them, which is all that engines take in one."""
    parts = tuple(Terms(field, tuple(keys[first : first + MAX_TERMS])) for first in range(0, len(keys), MAX_TERMS))
    return Or(parts) if len(parts) > 1 else parts[0] if parts else Nothing()


def _distinct(plan: Plan, side: Side, lookup: Lookup) -> Flow[list[Any]]:
    """The values of the key's field, a batch at a time."""
    found: list[Any] = []
    after: Any = None
    while True:
        response = yield _keys_request(plan, side, after)
        batch = answered(response)["aggregations"]["keys"]
        found += [bucket["key"]["key"] for bucket in batch["buckets"]]
        _check_count(found, side, lookup)
        after = batch.get("after_key")
        if len(batch["buckets"]) < _BATCH or after is None:
            return found


def _ids(plan: Plan, side: Side, lookup: Lookup) -> Flow[list[Any]]:
    """The ids: the hits of one search, or of one page after another where there are more than it returns."""
    response = yield _keys_request(plan, side, None)
    hits = answered(response)["hits"]
    if hits["total"]["value"] <= len(hits["hits"]) and hits["total"]["relation"] == "eq":
        return [hit["_id"] for hit in hits["hits"]]
    since, way_out = paging.SHARD_DOC[plan.dialect.product], f"declare {side.join.key!r} as a keyword field there"
    plan.dialect.require(since, f"a lookup of more than {_BATCH:,} ids", "_shard_doc", way_out)
    response = yield plan.dialect.open_pit(side.stored.index, paging.KEEP)
    pit = plan.dialect.pit_of(response.body)
    # The point in time is the version's own, which the filter of the alias does not reach.
    body = compiler_for(plan.dialect).search(
        Everything(ALIVE if side.filter is None else both((ALIVE, side.filter))),
        Page(size=_BATCH, source=False, count=False),
    ) | {"pit": {"id": pit, "keep_alive": paging.KEEP}, "sort": [{"_shard_doc": "asc"}]}
    found: list[Any] = []
    page: list[Any] = [None]
    while page and len(found) <= MAX_KEYS:
        page = answered((yield Request("POST", "/_search", body=body)))["hits"]["hits"]
        found += [hit["_id"] for hit in page]
        body |= {"search_after": page[-1]["sort"]} if page else {}
    yield plan.dialect.close_pit(pit)
    _check_count(found, side, lookup)
    return found


def _check_count(found: Sequence[Any], side: Side, lookup: Lookup) -> None:
    if len(found) > MAX_KEYS:
        raise QueryError(
            f"where_lookup({lookup.join!r}) finds more than {MAX_KEYS:,} keys in {side.alias!r}",
            hint="narrow it by more filters, or keep what you filter by in the documents themselves",
        )


def _held(key: Any, known: Known) -> bool:
    """Whether the foreign key's field can hold that key: a number leads to no document whose id is a word."""
    try:
        return reachable(plain(key, known), known)
    except QueryError:
        return False


def _side(plan: Plan, lookup: Lookup, join: LookupJoin) -> Flow[Side]:
    stored = plan.stored
    if join.index not in (None, plan.alias):
        stored = yield from load(str(join.index))
    given = None if lookup.filter is None else Resolver(Names.of(stored.spec)).resolve(lookup.filter)
    if lookups_in(given):
        raise QueryError(f"where_lookup({lookup.join!r}) has a lookup inside", hint="one query follows one foreign key")
    side = Side(stored, join, given)
    if not side.by_id:
        known = Names.of(stored.spec).field(join.key)
        if known.type in TEXT or known.type in DATE or known.type == "boolean":
            raise QueryError(
                f"the key {join.key} of {side.alias!r} is of type {known.type}", hint="declare it as a keyword"
            )
    return side


def _keys_request(plan: Plan, side: Side, after: Any) -> Request:
    """A batch of distinct keys; ids cannot be aggregated and come as hits, the first batch of them here."""
    page = Page(size=_BATCH if side.by_id else 0, source=False)
    body = compiler_for(plan.dialect).search(Everything(side.filter), page)
    if not side.by_id:
        composite: dict[str, Any] = {"size": _BATCH, "sources": [{"key": {"terms": {"field": side.join.key}}}]}
        if after is not None:
            composite["after"] = after
        body |= {"track_total_hits": False, "aggs": {"keys": {"composite": composite}}}
    return asking(side.alias, body)


def join(plan: Plan, name: str, sides: Sequence[Side], hits: Sequence[Hit]) -> Flow[list[Hit]]:
    """The hits, each with the document its foreign key leads to as `joined[name]`."""
    side = sides[0]
    values = sorted({value for hit in hits for value in _values(hit, side.join)}, key=str)
    given = tuple(one.filter for one in sides if one.filter is not None)
    found: dict[str, Any] = {}
    for first in range(0, len(values), _BATCH):
        batch = values[first : first + _BATCH]
        known: Filter = Ids(tuple(map(str, batch))) if side.by_id else Terms(side.join.key, tuple(batch))
        response = yield _joined_request(plan, side, both((known, *given)), batch)
        found |= _documents(side, answered(response))
    return [replace(hit, joined={**hit.joined, name: _joined(hit, side.join, found)}) for hit in hits]


def _joined_request(plan: Plan, side: Side, given: Filter, values: list[Any]) -> Request:
    """One document for each key: by ids as hits, else as the first of the key's bucket, for keys may repeat."""
    source = {"excludes": [*side.stored.spec.embeddings, PROVENANCE]}
    page = Page(size=len(values) if side.by_id else 0, source=source)
    body = compiler_for(plan.dialect).search(Everything(given), page)
    if not side.by_id:
        buckets = {"field": side.join.key, "include": values, "size": len(values)}
        first = {"first": {"top_hits": {"size": 1, "_source": source}}}
        body |= {"track_total_hits": False, "aggs": {"keys": {"terms": buckets, "aggs": first}}}
    return asking(side.alias, body)


def _documents(side: Side, answer: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    if side.by_id:
        return [(hit["_id"], hit["_source"]) for hit in answer["hits"]["hits"]]
    buckets = answer["aggregations"]["keys"]["buckets"]
    return [(str(one["key"]), one["first"]["hits"]["hits"][0]["_source"]) for one in buckets]


def _values(hit: Hit, join: LookupJoin) -> list[Any]:
    value = hit.get(join.field)
    return value if isinstance(value, list) else [] if value is None else [value]


def _joined(hit: Hit, join: LookupJoin, found: Mapping[str, Any]) -> Any:
    several = isinstance(hit.get(join.field), list)
    there = [found[str(value)] for value in _values(hit, join) if str(value) in found]
    return there if several else (there[0] if there else {})
