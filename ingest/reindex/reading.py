"""Reading documents of a version index: whole, to be copied, or only their versions, to be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...engines import Dialect, Flow, Request, path_of
from ...errors import EngineBusy
from ...mappings import PROVENANCE, Spec
from ..feed import on_shard

_VERSION = f"{PROVENANCE}.version"

#: A document's id and routing: one id may lie in two shards, under two routings.
Place = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Held:
    """A document as an index holds it; `ours`: whether knnex wrote it last.

    `version` is the one that its copy elsewhere has, `written` the one it has here: as a copy, that of its original.
    """

    id: str
    routing: str | None
    version: int
    written: int
    seq_no: int
    primary_term: int
    source: Mapping[str, Any]
    ours: bool

    @property
    def place(self) -> Place:
        """Id and routing."""
        return self.id, self.routing


def page(
    index: str, spec: Spec, dialect: Dialect, shard: int, after: int, upto: int, size: int, left_out: list[str]
) -> Flow[list[Held]]:
    """The documents of one shard whose last change lies in (after, upto], by its number; tombstones too."""
    body = _within(after, upto, size) | {"_source": dialect.whole_source(left_out)}
    response = yield Request("POST", path_of(index, "_search"), on_shard(dialect, shard), body)
    return [_held(spec, hit) for hit in response.body["hits"]["hits"]]


def scan(index: str, spec: Spec, dialect: Dialect, shard: int, after: int, upto: int, size: int) -> Flow[list[Held]]:
    """The same without their contents, at most 10,000 at once."""
    body = _within(after, upto, size) | {"_source": False, "docvalue_fields": [_VERSION]}
    params = on_shard(dialect, shard) | {"filter_path": "hits.hits"}
    response = yield Request("POST", path_of(index, "_search"), params, body)
    return [_held(spec, hit) for hit in response.body.get("hits", {}).get("hits", ())]


def _within(after: int, upto: int, size: int) -> dict[str, Any]:
    return {
        "size": size,
        "query": {"bool": {"filter": [{"range": {"_seq_no": {"gt": after, "lte": upto}}}]}},
        "version": True,
        "seq_no_primary_term": True,
        "sort": [{"_seq_no": "asc"}],
        "track_total_hits": False,
    }


def fetch(index: str, spec: Spec, dialect: Dialect, places: Iterable[Place]) -> Flow[list[Held]]:
    """These documents as they are now, searchable yet or not; those that are gone are left out."""
    return (yield from _get(index, spec, places, dialect.get_with_vectors()))


def versions(index: str, spec: Spec, places: Iterable[Place]) -> Flow[dict[Place, Held]]:
    """The same without their contents."""
    held = yield from _get(index, spec, places, {"_source_includes": _VERSION})
    return {one.place: one for one in held}


def _get(index: str, spec: Spec, places: Iterable[Place], params: Mapping[str, str]) -> Flow[list[Held]]:
    docs = [{"_id": id_} if routing is None else {"_id": id_, "routing": routing} for id_, routing in places]
    if not docs:
        return []
    response = yield Request("POST", path_of(index, "_mget"), params, {"docs": docs})
    if failed := next((doc["error"] for doc in response.body["docs"] if "error" in doc), None):
        raise EngineBusy(f"not all documents of {index} could be read: {failed.get('reason') or failed}")
    return [_held(spec, doc) for doc in response.body["docs"] if doc.get("found")]


def _held(spec: Spec, found: Mapping[str, Any]) -> Held:
    source = found.get("_source") or {}
    given = found.get("fields", {}).get(_VERSION) if "fields" in found else _noted(source)
    noted = int(given[0]) if isinstance(given, list) else given
    return Held(
        found["_id"],
        found.get("_routing"),
        _version(spec, found, noted),
        int(found["_version"]),
        int(found["_seq_no"]),
        int(found["_primary_term"]),
        source,
        noted == int(found["_version"]),
    )


def _noted(source: Mapping[str, Any]) -> int | None:
    """The version that knnex noted in a document."""
    kept = source.get(PROVENANCE)
    version = kept.get("version") if isinstance(kept, Mapping) else None
    return version if isinstance(version, int) else None


def _version(spec: Spec, found: Mapping[str, Any], noted: int | None) -> int:
    """The version that the copy of a document has, which grows whenever the document changes.

    What knnex wrote has an external version, which an engine counts up where others change the document. A document
    that only others wrote has one that starts anew when it is made again after a delete; its place in the history of
    its shard does not, so that this serves (`_primary_term << 40 | _seq_no`).
    """
    version = int(found["_version"])
    if noted is not None or spec.version:
        return version
    return max(version, int(found["_primary_term"]) << 40 | int(found["_seq_no"]))


def distinct(found: Sequence[Held]) -> Iterable[list[Held]]:
    """In parts in which no id is twice."""
    left = list(found)
    while left:
        last = {one.id: one for one in left}
        yield list(last.values())
        left = [one for one in left if last[one.id] is not one]
