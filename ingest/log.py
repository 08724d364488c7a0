"""The event log: what every implementation of it promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .events import Event
from .positions import WRITES, Lane, version_of

#: Updates where they are the oldest of all that is unsettled, then live events, then the backfill, then copies.
DRAINED: tuple[Lane, ...] = ("updates", "live", "backfill", "copies")
#: Lanes for which nothing else is kept waiting, and which workers with a GPU leave to no others.
URGENT = DRAINED[:2]


@dataclass(frozen=True, slots=True)
class Delivered:
    """An event handed to a worker; `deliveries` counts this time and every time whose worker died on it."""

    event: Event
    position: str
    deliveries: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the log still holds; `low_water` is the oldest position not settled, None when all are.

    Of an index it has those of its `lanes`, where anything was ever in them.
    """

    undelivered: int
    pending: int
    low_water: str | None
    lanes: Mapping[Lane, Backlog] = field(default_factory=dict, compare=False)

    @classmethod
    def over(cls, lanes: Mapping[Lane, Backlog]) -> Backlog:
        """That of all these lanes."""
        low = min((one.low_water for one in lanes.values() if one.low_water), key=version_of, default=None)
        undelivered = sum(one.undelivered for one in lanes.values())
        return cls(undelivered, sum(one.pending for one in lanes.values()), low, lanes)

    @property
    def total(self) -> int:
        """Events accepted and not yet settled."""
        return self.undelivered + self.pending

    def of(self, *lanes: Lane) -> Backlog:
        """What these lanes still hold."""
        return Backlog.over({lane: self.lanes[lane] for lane in lanes if lane in self.lanes})


@dataclass(frozen=True, slots=True)
class Buried:
    """An event that could not be embedded or written, kept with its reason."""

    position: str
    event: Event | None
    reason: str
    attempts: int = 1
    buried_at: float = 0.0

    @property
    def id(self) -> str:
        """The document's id, where the event could be read."""
        return self.event.id if self.event else ""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a source of documents was read; noted in one step with the events, so that neither gets ahead."""

    source: str
    count: int


class EventLog(Protocol):
    """A durable, totally ordered, append-only log with one reading group per index.

    An event given to `append` stays until `settle` names its position, whatever dies in between: taken by a worker it
    is pending, and goes to another one once it has been silent for `lease` seconds. A position tells its lane; over all
    lanes of an index, what is appended later has a greater version. Every method raises LogUnavailable.
    """

    @property
    def address(self) -> str:
        """Where it is, for messages, without credentials."""
        ...

    def check(self) -> tuple[str, ...]:
        """Refuse a log that could lose events; warnings about what could not be asked."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...

    def now(self) -> int:
        """The log's clock, in milliseconds: that of its positions."""
        ...

    def indexes(self) -> tuple[str, ...]:
        """The indexes that ever had an event, sorted."""
        ...

    def append(self, events: Sequence[Event], lane: Lane = "live", mark: Mark | None = None) -> list[str]:
        """Append at most 10,000 events, all or none of each index; their positions, growing.

        Updates go to the lane `updates`, copies to `copies`, whatever is said. A mark is kept with the events of the
        first one's index.
        """
        ...

    def head(self, index: str) -> str | None:
        """The greatest position ever given to an event of an index, in any lane, settled or not; None before the first.

        Once the low-water mark is beyond it, all is settled that was appended before it was asked.
        """
        ...

    def take(
        self, index: str, consumer: str, count: int, lease: float, lanes: Sequence[Lane] = DRAINED
    ) -> list[Delivered]:
        """Up to `count` events of these lanes: first those whose worker was silent for `lease` seconds, then new ones.

        Either updates alone or none, and the same of copies. Updates are given out in their order, to one worker at a
        time, and each only when nothing that producers sent before it is unsettled, in any lane, but updates that are
        given out with it.
        """
        ...

    def heartbeat(self, index: str, consumer: str, positions: Sequence[str]) -> set[str]:
        """Say that `consumer` still works on these; the positions that are still its own."""
        ...

    def release(self, index: str, consumer: str, delivered: Sequence[Delivered], lease: float, delay: float) -> None:
        """Hand events back, to be taken again after `delay` seconds and not counted as deliveries."""
        ...

    def settle(
        self,
        index: str,
        positions: Sequence[str],
        buried: Sequence[Buried] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """In one step: drop these positions from the log, keep what is buried, add to the index's counters."""
        ...

    def backlog(self, index: str) -> Backlog:
        """What is not settled yet, and of that in each lane."""
        ...

    def unsettled(self, index: str, lane: Lane, after: str | None, most: int) -> list[tuple[str, str]]:
        """Position and document's id of what is not settled in a lane, beyond a position of it; at most so many."""
        ...

    def silent(self, index: str, seconds: float, lane: Lane | None = None) -> bool:
        """Whether a worker that has events, of one lane or of any, was not heard of for so long."""
        ...

    def wait(self, timeout: float) -> bool:
        """Block until an event is appended to any index, `timeout` seconds at most; whether one was."""
        ...

    def forget(self, index: str) -> None:
        """Drop all that the log holds of an index: for one that is gone."""
        ...

    def marks(self, index: str) -> dict[str, int]:
        """How far each source was read that was not read to its end."""
        ...

    def unmark(self, index: str, source: str) -> None:
        """Forget how far a source was read."""
        ...

    def buried(self, index: str, after: str | None = None, limit: int = 100) -> list[Buried]:
        """Buried events in the order of their burial."""
        ...

    def find_buried(self, index: str, positions: Sequence[str]) -> dict[str, Buried]:
        """Those of the positions that are buried."""
        ...

    def burials(self, index: str) -> list[str]:
        """The positions of all that is buried, in the order of their burial."""
        ...

    def retry_buried(self, index: str, positions: Sequence[str]) -> int:
        """Append buried events again, under the version they had; how many."""
        ...

    def drop_buried(self, index: str, positions: Sequence[str]) -> int:
        """Forget buried events; how many."""
        ...

    def counts(self, index: str) -> dict[str, int]:
        """The counters of an index: written, stale, deleted, buried, encoded, cached, without_vector."""
        ...

    def doubt(self, index: str, positions: Sequence[str]) -> None:
        """Note that these events are being tried, together."""
        ...

    def doubted(self, index: str, positions: Sequence[str]) -> set[str]:
        """Those of which it is noted that they were being tried, together or alone."""
        ...

    def blame(self, index: str, position: str) -> int:
        """Note that this event is being tried alone; how often it has been, this time included."""
        ...

    def acquit(self, index: str, positions: Sequence[str]) -> None:
        """Note that these events did no harm when they were tried."""
        ...

    def pause(self, index: str, reason: str | None, lane: Lane | None = None) -> None:
        """Record why no worker works on an index or one lane of it, or with None that it goes on."""
        ...

    def paused(self, index: str, lane: Lane | None = None) -> str | None:
        """Why no worker works on an index (not asking its lanes), or on one lane of it (not asking the index)."""
        ...

    def rest(self, index: str, reason: str, seconds: float) -> bool:
        """Record for `seconds` why an index has to wait, until something of it is settled; whether that is news."""
        ...

    def resting(self, index: str) -> str | None:
        """Why an index has to wait for its engine."""
        ...

    def remember(self, index: str, name: str, value: str | None) -> None:
        """Keep a small text about an index, such as how far its change feed was read; None forgets it."""
        ...

    def recall(self, index: str, name: str) -> str | None:
        """What was kept under a name."""
        ...

    def hold(self, name: str, owner: str, seconds: float) -> bool:
        """Become, or stay, the only holder of a name for so many seconds; whether `owner` holds it now."""
        ...

    def announce(self, worker: str, facts: Mapping[str, Any], ttl: float) -> None:
        """Let others see that a worker lives, for `ttl` seconds."""
        ...

    def retire(self, worker: str) -> None:
        """A worker says that it is going."""
        ...

    def workers(self) -> dict[str, dict[str, Any]]:
        """The workers alive, with their facts."""
        ...

    def tidy(self) -> int:
        """Drop the names of workers that are gone and hold nothing; how many."""
        ...


def unwritten(log: EventLog, index: str) -> Backlog:
    """Of what producers sent, what is not settled yet."""
    return log.backlog(index).of(*WRITES)
