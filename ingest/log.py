"""The event log: what every implementation of it promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .events import Event


@dataclass(frozen=True, slots=True)
class Delivered:
    """An event handed to a worker; `deliveries` counts this time and every time whose worker died on it."""

    event: Event
    position: str
    deliveries: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the log still holds; `low_water` is the oldest position not settled, None when all are."""

    undelivered: int
    pending: int
    low_water: str | None

    @property
    def total(self) -> int:
        """Events accepted and not yet settled."""
        return self.undelivered + self.pending


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


class EventLog(Protocol):
    """A durable, totally ordered, append-only log with one reading group per index.

    An event given to `append` stays until `settle` names its position, whatever dies in between: taken by a worker it
    is pending, and goes to another one once it has been silent for `lease` seconds. Every method raises LogUnavailable.
    """

    def check(self) -> tuple[str, ...]:
        """Refuse a log that could lose events; warnings about what could not be asked."""
        ...

    def indexes(self) -> tuple[str, ...]:
        """The indexes that ever had an event."""
        ...

    def append(self, events: Sequence[Event]) -> list[str]:
        """Append events, all or none of each index; their positions, growing."""
        ...

    def take(self, index: str, consumer: str, count: int, lease: float) -> list[Delivered]:
        """Up to `count` events: first those whose worker has been silent for `lease` seconds, then new ones."""
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
        """What is not settled yet."""
        ...

    def buried(self, index: str, after: str | None = None, limit: int = 100) -> list[Buried]:
        """Buried events in the order of their burial."""
        ...

    def find_buried(self, index: str, positions: Sequence[str]) -> dict[str, Buried]:
        """Those of the positions that are buried."""
        ...

    def counts(self, index: str) -> dict[str, int]:
        """The counters of an index: written, stale, deleted, buried, encoded, cached, without_vector."""
        ...

    def blame(self, index: str, position: str) -> int:
        """Note that this event is being tried alone; how often it has been, this time included."""
        ...

    def acquit(self, index: str, position: str) -> None:
        """Note that this event, tried alone, did no harm."""
        ...

    def pause(self, index: str, reason: str | None) -> None:
        """Record why no worker works on an index, or with None that it goes on."""
        ...

    def paused(self, index: str) -> str | None:
        """Why no worker works on an index."""
        ...

    def rest(self, index: str, reason: str, seconds: float) -> bool:
        """Record for `seconds` why an index has to wait, until something of it is settled; whether that is news."""
        ...

    def resting(self, index: str) -> str | None:
        """Why an index has to wait for its engine."""
        ...

    def announce(self, worker: str, facts: Mapping[str, Any], ttl: float) -> None:
        """Let others see that a worker lives, for `ttl` seconds."""
        ...

    def workers(self) -> dict[str, dict[str, Any]]:
        """The workers alive, with their facts."""
        ...
