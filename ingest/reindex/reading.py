"""Reading documents of a version index: whole, to be copied, or only their versions, to be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...engines import Dialect, Flow, Request, path_of
from ...mappings import PROVENANCE, Stored
from ..feed import on_shard, on_shards
from ..verify import documents

_VERSION = f"{PROVENANCE}.version"
# Versions from here on come from elsewhere: of copies, and of those who give their own. Nobody counts so far from one.
_GIVEN = 1 << 40
# Of one shard at least so many documents are read at once.
_LEAST = 100
# Bits for the places in the history of a shard between two moves of the alias; and how many moves there is room for
# below the versions of events, which count milliseconds in their upper bits.
_MOVE, _MOVES = 50, (1 << 10) - 1

#: A document's id and routing: one id may lie in two shards, under two routings.
Place = tuple[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """When a document of an index was written last: `written` is the version it has there."""

    id: str
    routing: str | None
    written: int
    seq_no: int
    primary_term: int

    @property
    def place(self) -> Place:
        """Id and routing."""
        return self.id, self.routing


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Written):
    """A document as an index holds it; `ours`: whether knnex wrote it last.

    `version` is the one that its copy elsewhere has, `written` the one it has here: as a copy, that of its original.
    `shard` is known of those that were searched for.
    """

    version: int
    source: Mapping[str, Any]
    ours: bool
    shard: int = -1


def page(
    stored: Stored,
    dialect: Dialect,
    shard: int,
    after: int,
    upto: int,
    size: int,
    left_out: list[str],
    moves: int = 0,
) -> Flow[list[Held]]:
    """The documents of one shard whose last change lies in (after, upto], by its number; tombstones too."""
    body = _within(after, upto, size) | {"_source": dialect.whole_source(left_out)}
    response = yield Request("POST", path_of(stored.index, "_search"), on_shard(dialect, shard), body)
    return [_held(stored, hit, moves, shard) for hit in response.body["hits"]["hits"]]


def scan(
    stored: Stored, dialect: Dialect, spans: Mapping[int, tuple[int, int]], size: int, moves: int = 0
) -> Flow[dict[int, list[Held]]]:
    """The same without their contents, of several shards at once: of each the first `size`, at most 10,000."""
    contents = {"_source": False, "docvalue_fields": [_VERSION]}
    asked = [(shard, _within(after, upto, size) | contents) for shard, (after, upto) in spans.items()]
    # Without the status an answer of no hits would be left out altogether.
    wanted = "responses.hits.hits,responses.error,responses.status"
    answers = yield from on_shards(stored.index, dialect, asked, filter_path=wanted)
    return {
        shard: [_held(stored, hit, moves, shard) for hit in answer.get("hits", {}).get("hits", ())]
        for shard, answer in zip(spans, answers, strict=True)
    }


def scanned(
    ask: Callable[[Callable[[], Flow[Any]]], Any],
    stored: Stored,
    dialect: Dialect,
    spans: Mapping[int, tuple[int, int]],
    size: int,
    moves: int = 0,
) -> Iterator[list[Held]]:
    """All of these spans, about `size` at a time of all shards together; `ask` runs a flow."""
    left = dict(spans)
    while left := {shard: (after, upto) for shard, (after, upto) in left.items() if after < upto}:
        each = max(_LEAST, size // len(left))
        found: dict[int, list[Held]] = ask(partial(scan, stored, dialect, left, each, moves))
        if any(found.values()):
            yield [one for held in found.values() for one in held]
        left = {shard: (held[-1].seq_no, left[shard][1]) for shard, held in found.items() if len(held) == each}


def _within(after: int, upto: int, size: int) -> dict[str, Any]:
    return {
        "size": size,
        "query": {"bool": {"filter": [{"range": {"_seq_no": {"gt": after, "lte": upto}}}]}},
        "version": True,
        "seq_no_primary_term": True,
        "sort": [{"_seq_no": "asc"}],
        "track_total_hits": False,
    }


def fetch(
    stored: Stored, dialect: Dialect, places: Iterable[Place], moves: int = 0, left_out: Sequence[str] = ()
) -> Flow[list[Held]]:
    """These documents as they are now, searchable yet or not; those that are gone are left out."""
    params = dialect.get_with_vectors() | ({"_source_excludes": ",".join(left_out)} if left_out else {})
    return [_held(stored, one, moves) for one in (yield from _get(stored, places, params))]


def versions(stored: Stored, places: Iterable[Place]) -> Flow[dict[Place, Written]]:
    """When these documents were written last, without what they hold."""
    # Not asked for, a routing is left out along with the source.
    found = yield from _get(stored, places, {"_source": "false", "stored_fields": "_routing"})
    every = [Written(**_written(one)) for one in found]
    return {one.place: one for one in every}


def _get(stored: Stored, places: Iterable[Place], params: Mapping[str, str]) -> Flow[list[Mapping[str, Any]]]:
    docs = [{"_id": id_} if routing is None else {"_id": id_, "routing": routing} for id_, routing in places]
    return (yield from documents(stored.index, docs, params)) if docs else []


def _written(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": found["_id"],
        "routing": found.get("_routing"),
        "written": int(found["_version"]),
        "seq_no": int(found["_seq_no"]),
        "primary_term": int(found["_primary_term"]),
    }


def _held(stored: Stored, found: Mapping[str, Any], moves: int, shard: int = -1) -> Held:
    source, version = found.get("_source") or {}, int(found["_version"])
    given = found.get("fields", {}).get(_VERSION) if "fields" in found else _noted(source)
    noted = int(given[0]) if isinstance(given, list) else given
    return Held(
        **_written(found),
        version=version if noted is not None or stored.spec.version else _version(found, moves),
        source=source,
        ours=noted == version,
        shard=shard,
    )


def _noted(source: Mapping[str, Any]) -> int | None:
    """The version that knnex noted in a document."""
    kept = source.get(PROVENANCE)
    version = kept.get("version") if isinstance(kept, Mapping) else None
    return version if isinstance(version, int) else None


def _version(found: Mapping[str, Any], moves: int) -> int:
    """The version that the copy of a document of others has, which grows whenever the document changes.

    What was copied here has an external version, which an engine counts up where others change the document. One that
    was made here has a version that starts anew when it is made again after a delete; its place in the history of its
    shard does not, so that this serves (`_primary_term << 40 | _seq_no`), above all that was copied here before.
    """
    version = int(found["_version"])
    if version >= _GIVEN:
        return version
    place = int(found["_primary_term"]) << 40 | int(found["_seq_no"])
    return max(version, (min(moves, _MOVES) << _MOVE) + place)


def distinct(found: Sequence[Held]) -> Iterable[list[Held]]:
    """In parts in which no id is twice."""
    left = list(found)
    while left:
        last = {one.id: one for one in left}
        yield list(last.values())
        left = [one for one in left if last[one.id] is not one]
