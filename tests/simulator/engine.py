"""An engine in memory: one shard, external versions, deletes that are forgotten at a restart, writes that overtake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson

from knnex.engines import Flow, Request, Response
from knnex.engines.elasticsearch import Elasticsearch
from knnex.engines.wire import drive
from knnex.errors import EngineBusy, EngineUnreachable

from .schedule import Schedule

T = TypeVar("T")
Document = dict[str, Any]


class MemoryEngine:
    """`send` answers the requests that knnex sends while it ingests; each item of a bulk is a step of its own."""

    def __init__(self, schedule: Schedule, index: str, faults: float) -> None:
        self.schedule, self.index, self.faults = schedule, index, faults
        self.dialect = Elasticsearch((9, 5, 0))
        self.documents: dict[str, Document] = {}
        self.searchable: dict[str, Document] = {}
        # Versions of hard deletes: kept in memory only, as engines do.
        self.deleted: dict[str, int] = {}
        self.next_seq_no = 0
        self.in_flight: set[int] = set()
        self.violations: list[str] = []
        # What others wrote last, None where they deleted.
        self.theirs: dict[str, Document | None] = {}
        self.written: dict[str, int] = {}

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        return drive(flow, self.send)

    def send(self, request: Request) -> Response:
        """One request, which may be lost before it is done, or its answer after."""
        verb = request.path.rsplit("/", 1)[-1]
        self.schedule.pause(verb)
        luck = self.schedule.chance.random()
        if luck < self.faults / 3:
            raise EngineUnreachable("the connection was cut before")
        if luck < self.faults * 2 / 3:
            raise EngineBusy("429")
        answer = getattr(self, verb)(request)
        if luck < self.faults:
            raise EngineUnreachable("the connection was cut after")
        return Response(200, answer)

    def restart(self) -> None:
        """Kill and start: what was acknowledged stays, what is only remembered is gone."""
        self.deleted.clear()
        self.searchable = dict(self.documents)

    @property
    def checkpoint(self) -> int:
        """All writes up to here are done: one that was begun earlier may still be under way."""
        return min(self.in_flight, default=self.next_seq_no) - 1

    def _refresh(self, _: Request) -> Document:
        self.searchable = dict(self.documents)
        return {}

    def _settings(self, _: Request) -> Document:
        return {self.index: {"settings": {"index": {"number_of_shards": "1"}}}}

    def docs(self, _: Request) -> Document:
        """`_stats/docs`: where the shard stands."""
        shard = {
            "routing": {"primary": True, "state": "STARTED"},
            "seq_no": {"max_seq_no": self.next_seq_no - 1, "global_checkpoint": self.checkpoint},
            "commit": {"user_data": {"history_uuid": "one"}},
        }
        return {"indices": {self.index: {"shards": {"0": [shard]}}}}

    def _mget(self, request: Request) -> Document:
        assert isinstance(request.body, Mapping)
        docs = []
        for one in request.body["docs"]:
            held = self.documents.get(one["_id"])
            docs.append({"_id": one["_id"], "found": held is not None} | (self._hit(one["_id"], held) if held else {}))
        return {"docs": docs}

    def _hit(self, id_: str, held: Document) -> Document:
        source = {key: value for key, value in held["source"].items() if key != "v"}
        return {"_id": id_, "_source": source, "_seq_no": held["seq_no"], "_primary_term": 1}

    def _search(self, request: Request) -> Document:
        """What the feed asks: a range of sequence numbers, in their order, and which documents have a vector."""
        assert isinstance(request.body, Mapping)
        bounds = request.body["query"]["bool"]["filter"][0]["range"]["_seq_no"]
        hits = [
            self._hit(id_, held) | {"matched_queries": ["v"] if held["source"].get("v") else []}
            for id_, held in self.searchable.items()
            if bounds["gt"] < held["seq_no"] <= bounds["lte"] and not held["source"].get("_knnex", {}).get("deleted")
        ]
        hits.sort(key=lambda hit: int(hit["_seq_no"]))
        return {"hits": {"hits": hits[: request.body["size"]]}}

    def _bulk(self, request: Request) -> Document:
        assert isinstance(request.body, tuple)
        lines = [orjson.loads(line) for line in request.body]
        items, place = [], 0
        while place < len(lines):
            ((op, action),) = lines[place].items()
            source = None if op == "delete" else lines[place + 1]
            place += 1 if op == "delete" else 2
            if self.schedule.chance.random() < 0.3:
                self.schedule.pause(f"{op} {action['_id']}")
            items.append({op: {"_id": action["_id"]} | getattr(self, f"_{op}")(action["_id"], action, source)})
        return {"errors": True, "items": items}

    def _index(self, id_: str, action: Document, source: Document) -> Document:
        held, version = self.documents.get(id_), action["version"]
        if version <= max(held["version"] if held else 0, self.deleted.get(id_, 0)):
            return {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "older"}}
        self._put(id_, version, source)
        return {"status": 200}

    def _delete(self, id_: str, action: Document, _: None = None) -> Document:
        held, version = self.documents.get(id_), action["version"]
        if version <= max(held["version"] if held else 0, self.deleted.get(id_, 0)):
            return {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "older"}}
        self.documents.pop(id_, None)
        self.deleted[id_] = version
        return {"status": 200}

    def _update(self, id_: str, action: Document, body: Document) -> Document:
        held = self.documents.get(id_)
        if held is None:
            if not body.get("doc_as_upsert"):
                return {"status": 404, "error": {"type": "document_missing_exception", "reason": "gone"}}
            self._put(id_, 1, body["doc"])
            return {"status": 201}
        if "if_seq_no" in action and action["if_seq_no"] != held["seq_no"]:
            return {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "changed"}}
        merged = dict(held["source"])
        for key, value in body["doc"].items():
            old = merged.get(key)
            merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        self._put(id_, held["version"] + 1, merged)
        return {"status": 200}

    def _put(self, id_: str, version: int, source: Document) -> None:
        ours, before = source.get("_knnex", {}), self.documents.get(id_)
        theirs = before["source"].get("_knnex", {}) if before else {}
        if ours.get("version", 0) < theirs.get("version", 0) and not self.foreign_here(before):
            self.violations.append(f"{id_} went back from version {theirs} to {ours}")
        self.documents[id_] = {"version": version, "source": source, "seq_no": self.next_seq_no}
        self.next_seq_no += 1

    @staticmethod
    def foreign_here(before: Document | None) -> bool:
        """Whether somebody who knows nothing of knnex wrote the document last."""
        return bool(before and "_knnex" not in before["source"])

    def foreign(self, id_: str, source: Document | None) -> None:
        """A write or a delete by somebody else, which is begun, and done some time later."""
        number = self.next_seq_no
        self.next_seq_no += 1
        self.in_flight.add(number)
        self.schedule.pause(f"writes {id_} as {number}")
        held = self.documents.get(id_)
        # Writes of one document do not overtake each other.
        if number > max(self.written.get(id_, -1), held["seq_no"] if held else -1):
            self.written[id_], self.theirs[id_] = number, source
            if source is None:
                self.documents.pop(id_, None)
            else:
                self.documents[id_] = {
                    "version": (held["version"] if held else 0) + 1,
                    "source": source,
                    "seq_no": number,
                }
        self.in_flight.discard(number)
