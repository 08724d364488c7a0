"""An index of one shard: external versions, deletes that are forgotten at a restart, writes that overtake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .schedule import Schedule

Document = dict[str, Any]


class Refusal(Exception):
    """An answer of status 400 or above."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        self.status, self.body = status, {"error": {"type": kind, "reason": reason}, "status": status}
        super().__init__(reason)


class Shard:
    """What one index holds, and the items of a bulk done to it."""

    def __init__(self, schedule: Schedule, name: str, violations: list[str], body: Document | None = None) -> None:
        self.schedule, self.name, self.violations = schedule, name, violations
        self.mapping: Document = dict((body or {}).get("mappings", {}))
        self.settings: Document = {"index": {"number_of_shards": "1"}}
        self.documents: dict[str, Document] = {}
        self.searchable: dict[str, Document] = {}
        # Versions of hard deletes: kept in memory only, as engines do.
        self.deleted: dict[str, int] = {}
        self.next_seq_no, self.term = 0, 1
        self.in_flight: set[int] = set()
        self.bulks: set[str] = set()
        self.written: dict[str, int] = {}
        self.blocked = False
        #: What is wrong with a document that is written here.
        self.check: Callable[[str, Document], str] = lambda *_: ""

    def restart(self) -> None:
        """What was acknowledged stays, what is only remembered is gone."""
        self.deleted.clear()
        self.refresh()
        self.term += 1

    def refresh(self) -> None:
        """Make all visible."""
        self.searchable = dict(self.documents)

    @property
    def checkpoint(self) -> int:
        """All writes up to here are done: one that was begun earlier may still be under way."""
        return min(self.in_flight, default=self.next_seq_no) - 1

    @property
    def busy(self) -> bool:
        """Whether something is under way that was let in."""
        return bool(self.in_flight or self.bulks)

    def let_in(self) -> None:
        """Raises Refusal where writes are refused."""
        if self.blocked:
            raise Refusal(403, "cluster_block_exception", f"{self.name} blocked")

    def hit(self, id_: str, held: Document) -> Document:
        """A document as searches and gets give it, whole."""
        place = {"_seq_no": held["seq_no"], "_primary_term": held["term"], "_version": held["version"]}
        return {"_id": id_, "_source": held["source"]} | place

    def item(self, op: str, action: Document, source: Any) -> Document:
        """One item of a bulk that was let in."""
        return dict(getattr(self, f"_{op}")(action["_id"], action, source))

    def _index(self, id_: str, action: Document, source: Document) -> Document:
        held, version = self.documents.get(id_), action["version"]
        if version <= max(held["version"] if held else 0, self.deleted.get(id_, 0)):
            return _conflict("older")
        self._put(id_, version, source)
        return {"status": 200}

    def _delete(self, id_: str, action: Document, _: Any = None) -> Document:
        held = self.documents.get(id_)
        if "if_seq_no" in action:
            if held is None or not _unchanged(held, action):
                return _conflict("changed")
            version = held["version"] + 1
        else:
            version = action["version"]
            if version <= max(held["version"] if held else 0, self.deleted.get(id_, 0)):
                return _conflict("older")
        self._drop(id_, version)
        self.next_seq_no += 1
        return {"status": 200}

    def _update(self, id_: str, action: Document, body: Document) -> Document:
        held = self.documents.get(id_)
        if held is None:
            if not body.get("doc_as_upsert"):
                return {"status": 404, "error": {"type": "document_missing_exception", "reason": "gone"}}
            self._put(id_, 1, body["doc"])
            return {"status": 201}
        if "if_seq_no" in action and not _unchanged(held, action):
            return _conflict("changed")
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
            self.violations.append(f"{id_} of {self.name} went back from version {theirs} to {ours}")
        self._keep(id_, version, source, self.next_seq_no)
        self.next_seq_no += 1

    def _keep(self, id_: str, version: int, source: Document, number: int) -> None:
        self.documents[id_] = {"version": version, "source": source, "seq_no": number, "term": self.term}
        if wrong := self.check(id_, source):
            self.violations.append(f"{wrong} in {self.name}")

    def _drop(self, id_: str, version: int) -> None:
        self.documents.pop(id_, None)
        self.deleted[id_] = version

    @staticmethod
    def foreign_here(before: Document | None) -> bool:
        """Whether somebody who knows nothing of knnex wrote the document last."""
        return bool(before and "_knnex" not in before["source"])

    def foreign(self, id_: str, source: Document | None) -> bool:
        """A write or a delete by somebody else, which is begun, and done some time later; whether it was the last."""
        number = self.next_seq_no
        self.next_seq_no += 1
        self.in_flight.add(number)
        self.schedule.pause(f"writes {id_} as {number} of {self.name}")
        held = self.documents.get(id_)
        # Writes of one document do not overtake each other.
        last = number > max(self.written.get(id_, -1), held["seq_no"] if held else -1)
        if last:
            self.written[id_] = number
            version = max(held["version"] if held else 0, self.deleted.get(id_, 0)) + 1
            if source is not None:
                self._keep(id_, version, source, number)
            elif held:
                self._drop(id_, version)
        self.in_flight.discard(number)
        return last


def _conflict(reason: str) -> Document:
    return {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": reason}}


def _unchanged(held: Document, action: Document) -> bool:
    return bool(held["seq_no"] == action["if_seq_no"] and held["term"] == action["if_primary_term"])
