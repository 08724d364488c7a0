"""The oracle: what an index has to hold after all that was accepted, computed from the events alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knnex.ingest import Event
from knnex.ingest.updates import merge


@dataclass(frozen=True, slots=True)
class Expected:
    """What has to be there of one id: its version, and its document, None for a deleted one."""

    version: int
    document: Mapping[str, Any] | None


class Oracle:
    """Fed with every event and the position it was accepted at; the highest version of an id wins."""

    def __init__(self) -> None:
        self.events = 0
        self.indexes: dict[str, dict[str, Expected]] = {}
        self.buried: dict[str, set[str]] = {}
        self.overtaken: dict[str, set[str]] = {}
        # Positions that do not grow, where only the log's order tells versions.
        self.disorders = 0

    def of(self, index: str) -> dict[str, Expected]:
        """What has to be in an index, by id."""
        return self.indexes.setdefault(index, {})

    def fated(self, index: str) -> set[str]:
        """The ids of which something has to be buried."""
        return self.buried.setdefault(index, set())

    def excused(self, index: str) -> set[str]:
        """The ids of which something may be buried: a newer event may have come before it, which settles it too."""
        return self.overtaken.setdefault(index, set())

    def accepted(self, event: Event, position: str) -> None:
        """An event is in the log."""
        self.events += 1
        known = self.of(event.index).get(event.id)
        version = _order(event, position)
        if event.version is None and known and version <= known.version:
            self.disorders += 1
        if known and version <= known.version:
            return
        if event.op == "update":
            self._updated(event, known, version)
        else:
            document = None if event.op == "delete" else dict(event.document)
            if event.id in self.fated(event.index):
                self.fated(event.index).remove(event.id)
                self.excused(event.index).add(event.id)
            self.of(event.index)[event.id] = Expected(version, document)

    def doomed(self, event: Event) -> None:
        """An event that has to be buried, whatever happens."""
        self.events += 1
        self.fated(event.index).add(event.id)

    def alive(self, index: str) -> int:
        """How many documents a search has to see."""
        return sum(one.document is not None for one in self.of(index).values())

    def _updated(self, event: Event, known: Expected | None, version: int) -> None:
        if known is None or known.document is None:
            self.fated(event.index).add(event.id)
        else:
            self.of(event.index)[event.id] = Expected(version, merge(known.document, event.document))


def _order(event: Event, position: str) -> int:
    from knnex.ingest.positions import version_of

    return event.version if event.version is not None else version_of(position)
