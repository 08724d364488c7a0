"""The change feed of an index: which documents were written since, by whoever it was.

Engines number the changes of each shard (`_seq_no`), and concurrent ones become visible out of order: who goes on from
the highest number seen loses some. Here a shard is read up to its global checkpoint, asked for before the refresh that
makes all up to it visible: below it there is no gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ..engines import Dialect, Flow, Request, Response, path_of
from ..engines.gate import part
from ..errors import EngineBusy, EngineError, RequestRejected
from ..mappings import PROVENANCE, Spec
from .positions import MAX_SEQUENCE, position_of

_STATS = {
    "level": "shards",
    "filter_path": "indices.*.shards.*.routing.primary,indices.*.shards.*.routing.state,"
    "indices.*.shards.*.commit.user_data.history_uuid,indices.*.shards.*.seq_no.global_checkpoint",
}
# With OpenSearch's segment replication a refresh does not reach the replicas. Elasticsearch has neither that nor this.
_COPY = {"opensearch": "|_primary"}


@dataclass(frozen=True, slots=True)
class Head:
    """Where a shard stands: all changes up to `checkpoint` are kept by all its copies; another history starts anew."""

    history: str
    checkpoint: int


@dataclass(frozen=True, slots=True)
class Change:
    """A document as it was found: the fields its vectors are made of, and which vectors it has."""

    id: str
    routing: str | None
    seq_no: int
    primary_term: int
    document: Mapping[str, Any]
    # By embedding: what knnex noted about the vector, and those there is one of.
    made: Mapping[str, Mapping[str, Any]]
    vectors: frozenset[str]

    @property
    def position(self) -> str:
        """Where the log keeps it if it is buried, see `place_of`."""
        return place_of(self.id, self.routing)


def place_of(id_: str, routing: str | None) -> str:
    """A position in the log that stands for one document of the index; no event has one so small."""
    name = f"{routing or ''}\0{id_}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(blake2b(name, digest_size=8).digest())
    return position_of(number >> 24, number % MAX_SEQUENCE, "updates")


def heads(index: str) -> Flow[dict[int, Head]]:
    """Where the shards of a concrete index stand. Raises EngineBusy where one is not there."""
    settings = yield Request("GET", path_of(index, "_settings"), {"filter_path": "*.settings.index.number_of_shards"})
    count = int(settings.body[index]["settings"]["index"]["number_of_shards"])
    response = yield Request("GET", path_of(index, "_stats", "docs"), _STATS)
    shards = response.body.get("indices", {}).get(index, {}).get("shards", {})
    found: dict[int, Head] = {}
    for number in range(count):
        copies = [one for one in shards.get(str(number), ()) if one["routing"]["primary"]]
        if not copies or copies[0]["routing"]["state"] not in ("STARTED", "RELOCATING"):
            raise EngineBusy(
                f"shard {number} of {index} is not there", hint="it is being recovered, or its node is gone"
            )
        history = copies[0].get("commit", {}).get("user_data", {}).get("history_uuid", "")
        found[number] = Head(history, int(copies[0]["seq_no"]["global_checkpoint"]))
    return found


def refresh(index: str) -> Flow[None]:
    """Make all changes visible. Raises EngineBusy where a copy did not do so."""
    response = yield Request("POST", path_of(index, "_refresh"))
    if response.body.get("_shards", {}).get("failed"):
        raise EngineBusy(f"not every shard of {index} could be refreshed")


def on_shard(dialect: Dialect, shard: int) -> dict[str, str]:
    """The parameters of a search of one shard, all of it."""
    return {"preference": f"_shards:{shard}{_COPY.get(dialect.product, '')}", "allow_partial_search_results": "false"}


def on_shards(
    index: str, dialect: Dialect, asked: Sequence[tuple[int, Mapping[str, Any]]], **params: str
) -> Flow[list[Mapping[str, Any]]]:
    """Searches of one shard each, in one request; their answers in the same order."""
    lines = tuple(line for shard, body in asked for line in (on_shard(dialect, shard), body))
    response = yield Request("POST", path_of(index, "_msearch"), params, lines)
    return [part(answer) for answer in response.body["responses"]]


def changes(
    index: str, spec: Spec, dialect: Dialect, shard: int, after: int, upto: int, size: int
) -> Flow[list[Change]]:
    """The documents of one shard whose last change lies in (after, upto], by its number; deleted ones are left out.

    Raises UnsupportedByEngine where the index has no sequence numbers.
    """
    within = {"range": {"_seq_no": {"gt": after, "lte": upto}}}
    try:
        response = yield Request("POST", path_of(index, "_search"), on_shard(dialect, shard), _body(spec, within, size))
    except RequestRejected as error:
        if "sequence_numbers" not in str(error):
            raise
        raise dialect.decline(
            f"the change feed of {index}",
            "the index was made with index.disable_sequence_numbers, so that changes cannot be told apart",
            "make the index without it, or send all changes through knnex",
        ) from error
    return _hits(spec, response)


def named(index: str, spec: Spec, ids: Sequence[str]) -> Flow[list[Change]]:
    """The documents of these ids, as they are now; those that are gone are left out."""
    yield from refresh(index)
    body = _body(spec, {"ids": {"values": list(ids)}}, len(ids))
    # An id may lie in two shards, under two routings.
    body["size"] = min(10_000, 2 * len(ids))
    response = yield Request("POST", path_of(index, "_search"), {"allow_partial_search_results": "false"}, body)
    return _hits(spec, response)


def _body(spec: Spec, clause: Mapping[str, Any], size: int) -> dict[str, Any]:
    fields = {field for embedding in spec.embeddings.values() for field in embedding.source_fields}
    return {
        "size": size,
        "query": {
            "bool": {
                "filter": [clause],
                "must_not": [{"term": {f"{PROVENANCE}.deleted": True}}],
                # Not told by `_source`: who reads a document and puts it back may take the vector out unknowingly.
                "should": [_has_vector(spec, name) for name in spec.embeddings],
                "minimum_should_match": 0,
            }
        },
        "_source": {"includes": [PROVENANCE, *sorted(fields)]},
        "seq_no_primary_term": True,
        "sort": [{"_seq_no": "asc"}],
        "track_total_hits": False,
    }


def _has_vector(spec: Spec, name: str) -> dict[str, Any]:
    exists: dict[str, Any] = {"exists": {"field": spec.vector_path(name)}}
    if spec.embeddings[name].chunk:
        return {"nested": {"path": name, "query": exists, "score_mode": "none", "_name": name}}
    exists["exists"]["_name"] = name
    return exists


def _hits(spec: Spec, response: Response) -> list[Change]:
    if response.body.get("timed_out"):
        raise EngineError("the engine gave up on a search of the change feed")
    return [_change(spec, hit) for hit in response.body["hits"]["hits"]]


def _change(spec: Spec, hit: Mapping[str, Any]) -> Change:
    document = dict(hit.get("_source") or {})
    # Others write here too: whatever is not as knnex writes it counts as not there.
    noted = object_in(object_in(document.pop(PROVENANCE, None)).get("vectors"))
    made = {name: one for name in spec.embeddings if (one := object_in(noted.get(name)))}
    vectors = frozenset(hit.get("matched_queries", ())) & spec.embeddings.keys()
    return Change(
        hit["_id"], hit.get("_routing"), int(hit["_seq_no"]), int(hit["_primary_term"]), document, made, vectors
    )


def object_in(value: Any) -> Mapping[str, Any]:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}
