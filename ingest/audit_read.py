"""Reading an index for the audit: every document with its vectors and every tombstone, a page at a time.

As the change feed does, a shard is read by `_seq_no` up to its global checkpoint, so that nothing is kept but a page,
and what is written meanwhile is left to the next audit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..engines import Engine, Flow, Request, Response, path_of
from ..errors import EngineError, RequestRejected
from ..mappings import PROVENANCE, Stored
from . import feed
from .feed import Change, Head, object_in
from .patience import Patience, patiently

T = TypeVar("T")

_FIRST, _MOST = 128, 2_000
# Floats of vectors in one answer: about 10 MB of JSON.
_FLOATS = 1_000_000
# Sequence numbers looked through by one search.
_SPAN = 20_000
_STRICT = {"allow_partial_search_results": "false"}
_DELETED = {"term": {f"{PROVENANCE}.deleted": True}}
_VECTOR_TYPES = frozenset({"dense_vector", "knn_vector"})


@dataclass(frozen=True, slots=True)
class Looked:
    """A document as it was found. `values` holds vectors, or chunks, by embedding."""

    change: Change
    version: int | None
    deleted: bool
    values: Mapping[str, Any]
    # Embeddings that the spec has not: those noted, and those of which there is a vector.
    noted: frozenset[str] = frozenset()
    strays: frozenset[str] = frozenset()
    # What a tombstone should not carry.
    remains: tuple[str, ...] = ()
    # The join field, which a tombstone keeps.
    relation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str | None]:
        """A document's name: the same id may lie in two shards, under two routings."""
        return self.change.id, self.change.routing


@dataclass(frozen=True, slots=True)
class Layout:
    """What the mapping has: the width of each embedding's vector, and vectors of embeddings that the spec has not."""

    dims: Mapping[str, int]
    strays: Mapping[str, str]
    shards: int


def layout(stored: Stored) -> Flow[Layout]:
    """Ask the live mapping. The paths of stray vectors are those under a name that `_knnex.vectors` knows."""
    response = yield Request("GET", path_of(stored.index))
    holder = response.body[stored.index]
    properties, spec = holder["mappings"].get("properties", {}), stored.spec
    dims = {name: width for name in spec.embeddings if (width := _width(properties, spec.vector_path(name)))}
    known = properties.get(PROVENANCE, {}).get("properties", {}).get("vectors", {}).get("properties", {})
    named = {*spec.embeddings, *spec.fields, *spec.joins}
    paths = {name: path for name in known for path in (name, f"{name}.vector") if _width(properties, path)}
    strays = {name: path for name, path in paths.items() if name not in named}
    return Layout(dims, strays, int(holder["settings"]["index"]["number_of_shards"]))


def _width(properties: Mapping[str, Any], path: str) -> int:
    found: Mapping[str, Any] = {"properties": properties}
    for part in path.split("."):
        found = found.get("properties", {}).get(part, {})
    return int(found.get("dims") or found.get("dimension") or 0) if found.get("type") in _VECTOR_TYPES else 0


class Reader:
    """Reads an index version; `laid` is what its mapping has."""

    def __init__(
        self, engine: Engine, stored: Stored, laid: Layout, patience: Patience, sleep: Callable[[float], object]
    ) -> None:
        self.engine, self.stored, self.laid = engine, stored, laid
        self.patience, self.sleep = patience, sleep
        self._joins = {join.field for join in stored.spec.parents().values()}

    def ask(self, flow: Callable[[], Flow[T]]) -> T:
        """Run a flow, again where the engine is busy. Raises EngineBusy, EngineUnreachable."""
        return patiently(self.engine, flow, self.patience, self.sleep)

    def heads(self) -> dict[int, Head]:
        """Where the shards stand; all up to there can be found then."""
        heads = self.ask(lambda: feed.heads(self.stored.index))
        self.refresh()
        return heads

    def refresh(self) -> None:
        """Make all changes visible."""
        self.ask(lambda: feed.refresh(self.stored.index))

    def everything(self, heads: Mapping[int, Head]) -> Iterator[list[Looked]]:
        """All documents and tombstones, in pages. Raises UnsupportedByEngine for an index without sequence numbers."""
        for shard, head in heads.items():
            for deleted in (False, True):
                yield from self._shard(shard, head.checkpoint, deleted)

    def _shard(self, shard: int, upto: int, deleted: bool) -> Iterator[list[Looked]]:
        params = feed.on_shard(self.engine.dialect, shard)
        after, size = -1, _FIRST
        while after < upto:
            # In steps: a search sorts all that it is asked for.
            end = min(upto, after + _SPAN)
            found = self._page({"range": {"_seq_no": {"gt": after, "lte": end}}}, params, size, deleted)
            if not found:
                after = end
                continue
            yield found
            after = found[-1].change.seq_no
            size = min(_MOST, max(16, len(found) * _FLOATS // max(1, sum(map(self._floats, found)))))

    def _floats(self, one: Looked) -> int:
        return sum(
            self.stored.resolved[name].dims * (len(value) if self.stored.spec.embeddings[name].chunk else 1)
            for name, value in one.values.items()
            if isinstance(value, list)
        )

    def named(self, ids: Sequence[str]) -> list[Looked]:
        """The documents and tombstones of these ids as they are now, each under all its routings."""
        found: list[Looked] = []
        for start in range(0, len(ids), _FIRST):
            clause = {"ids": {"values": list(ids[start : start + _FIRST])}}
            for deleted in (False, True):
                found += self._page(clause, _STRICT, 10 * _FIRST, deleted)
        return found

    def random(self, count: int) -> list[str]:
        """The ids of so many documents at most, at random, tombstones among them."""
        body = {
            "size": count,
            "query": {"function_score": {"random_score": {}, "boost_mode": "replace"}},
            "_source": False,
            "track_total_hits": False,
        }
        hits = self.ask(lambda: _search(self.stored.index, _STRICT, body)).body["hits"]["hits"]
        return list(dict.fromkeys(hit["_id"] for hit in hits))

    def copies(self, ids: Sequence[str]) -> dict[str, list[Looked]]:
        """The documents and tombstones of ids, without vectors, by id."""
        body = self._body({"ids": {"values": list(ids)}}, 10_000) | {"_source": [PROVENANCE]}
        hits = self.ask(lambda: _search(self.stored.index, _STRICT, body)).body["hits"]["hits"]
        found: dict[str, list[Looked]] = {}
        for hit in hits:
            found.setdefault(hit["_id"], []).append(self._looked(hit))
        return found

    def _page(self, clause: Mapping[str, Any], params: Mapping[str, str], size: int, deleted: bool) -> list[Looked]:
        attempts = 0

        def ask() -> Flow[Response]:
            nonlocal attempts
            # Fewer with each attempt: it may be the size of the answer that the engine cannot bear.
            part, attempts = max(1, size >> attempts), attempts + 1
            body = self._body(clause, part if "preference" in params else size)
            body["query"]["bool"]["filter" if deleted else "must_not"].append(_DELETED)
            if deleted:
                body["_source"] = True
            return _search(self.stored.index, params, body)

        try:
            response = self.ask(ask)
        except RequestRejected as error:
            if "sequence_numbers" not in str(error):
                raise
            raise self.engine.dialect.decline(
                f"a full pass over {self.stored.index}",
                "the index was made with index.disable_sequence_numbers",
                "verify a sample (--sample), or make the index without it",
            ) from error
        return [self._looked(hit) for hit in response.body["hits"]["hits"]]

    def _body(self, clause: Mapping[str, Any], size: int) -> dict[str, Any]:
        spec = self.stored.spec
        fields = {name for embedding in spec.embeddings.values() for name in embedding.source_fields}
        # OpenSearch gives a 1 for the vector of a chunk where the path of it is not named too.
        paths = {spec.vector_path(name) for name in spec.embeddings}
        wanted = [PROVENANCE, *sorted({*fields, *self._joins, *spec.embeddings, *paths})]
        return {
            "size": size,
            "query": {
                "bool": {
                    "filter": [clause],
                    "must_not": [],
                    # Not told by `_source`, which may have been put back without the vectors.
                    "should": [
                        *(feed._has_vector(spec, name) for name in spec.embeddings),
                        *(_has_stray(name, path) for name, path in self.laid.strays.items()),
                    ],
                    "minimum_should_match": 0,
                }
            },
            "_source": self.engine.dialect.source_with_vectors(wanted),
            "seq_no_primary_term": True,
            "sort": [{"_seq_no": "asc"}],
            "track_total_hits": False,
        }

    def _looked(self, hit: Mapping[str, Any]) -> Looked:
        spec, source = self.stored.spec, dict(hit.get("_source") or {})
        held = object_in(source.get(PROVENANCE))
        values = {name: value for name in spec.embeddings if (value := source.pop(name, None)) is not None}
        deleted, version = held.get("deleted") is True, held.get("version")
        matched = frozenset(hit.get("matched_queries", ()))
        noted = frozenset(name for name, one in object_in(held.get("vectors")).items() if one is not None)
        remains = self._remains(source, matched | noted) if deleted else ()
        return Looked(
            feed._change(spec, {**hit, "_source": source}),
            version if isinstance(version, int) else None,
            deleted,
            values,
            noted=noted - spec.embeddings.keys(),
            strays=matched - spec.embeddings.keys(),
            remains=remains,
            relation={name: source[name] for name in self._joins if name in source},
        )

    def _remains(self, source: Mapping[str, Any], vectors: frozenset[str]) -> tuple[str, ...]:
        kept = {PROVENANCE, *self._joins}
        texts = [name for name, value in source.items() if name not in kept and value not in (None, [], {})]
        return (*texts, *sorted(vectors))


def _has_stray(name: str, path: str) -> dict[str, Any]:
    exists: dict[str, Any] = {"exists": {"field": path}}
    if path == name:
        exists["exists"]["_name"] = name
        return exists
    return {"nested": {"path": name, "query": exists, "score_mode": "none", "_name": name, "ignore_unmapped": True}}


def _search(index: str, params: Mapping[str, str], body: Mapping[str, Any]) -> Flow[Response]:
    response = yield Request("POST", path_of(index, "_search"), params, body)
    if response.body.get("timed_out"):
        raise EngineError(f"the engine gave up on a search of {index}")
    return response
