"""A producer: seeded events of two indexes, one ordered by the producer's versions and one by the log."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from knnex.errors import LogUnavailable
from knnex.ingest import Event

from .oracle import Oracle
from .stage import Stage

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "log", "robot", "that", "long", "to", "be", "human"]
DELETED, DUPLICATE, UPDATED, ABSENT, REORDER = 0.2, 0.1, 0.1, 0.05, 60
_LOOK_EVERY = 1000


def document(chance: random.Random, id_: str, mark: int) -> dict[str, Any]:
    """A small film; its text is made of words that the tiny model knows, so that texts differ in their vectors."""
    return {
        "id": id_,
        "title": " ".join(chance.choices(WORDS, k=4)),
        "plot": " ".join(chance.choices(WORDS, k=10)),
        "genre": f"g{mark % 17}",
        "year": mark,
    }


def versioned(index: str, count: int, seed: int) -> Iterator[Event]:
    """Events with versions of the producer's own, some sent twice, out of order within a window of 60."""
    chance = random.Random(f"{seed} versioned")
    revisions: dict[str, int] = {}
    window: list[Event] = []
    for number in range(count):
        if window and chance.random() < DUPLICATE:
            window.append(chance.choice(window))
        else:
            id_ = str(chance.randrange(max(1, count // 4)))
            revisions[id_] = revision = revisions.get(id_, 0) + 1
            if chance.random() < DELETED:
                window.append(Event(index, id_, "delete", {}, revision))
            else:
                window.append(Event(index, id_, "upsert", document(chance, id_, number) | {"rev": revision}, revision))
        if len(window) >= REORDER or number == count - 1:
            chance.shuffle(window)
            yield from window
            window = []


def ordered(index: str, count: int, seed: int) -> Iterator[Event]:
    """Events whose order in the log is their version: upserts, deletes, updates of some fields, some sent twice."""
    chance = random.Random(f"{seed} ordered")
    last: Event | None = None
    alive: list[str] = []
    for number in range(count):
        draw = chance.random()
        id_ = str(chance.randrange(max(1, count // 4)))
        if last and draw < DUPLICATE:
            yield last
            continue
        if draw < DUPLICATE + DELETED:
            last = Event(index, id_, "delete", {})
        elif draw < DUPLICATE + DELETED + UPDATED:
            # Seldom of a document that is not there: those have to be buried.
            id_ = chance.choice(alive[-20:] or [id_]) if chance.random() > ABSENT else id_
            changes = {"id": id_, "year": number} | ({"plot": document(chance, id_, 0)["plot"]} if number % 2 else {})
            last = Event(index, id_, "update", changes)
        else:
            last = Event(index, id_, "upsert", document(chance, id_, number))
            alive.append(id_)
        yield last


class Producer(threading.Thread):
    """Appends events as fast as it is `allowed`, again and again where the log does not answer."""

    def __init__(
        self, stage: Stage, oracle: Oracle, events: Iterator[Event], *, allowed: Callable[[], float], seed: int = 0,
        most: int = 100, most_waiting: int = 20_000, patience: float = 120.0,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self.stage, self.oracle, self.events, self.allowed = stage, oracle, events, allowed
        self.most, self.most_waiting, self.patience = most, most_waiting, patience
        self.chance = random.Random(f"{seed} producer")
        self.sent = self.refused = self._looked = 0
        self.error: Exception | None = None
        self.give_up = threading.Event()

    def run(self) -> None:
        """Until all is sent."""
        try:
            waiting: list[Event] = []
            size = self.chance.randint(1, self.most)
            for event in self.events:
                if waiting and (event.index != waiting[0].index or len(waiting) >= size):
                    self._send(waiting)
                    waiting, size = [], self.chance.randint(1, self.most)
                waiting.append(event)
            self._send(waiting)
        except Exception as error:  # told by who waits for us
            self.error = error

    def _send(self, events: list[Event]) -> None:
        while self.sent >= self.allowed() or self._full(events[0].index):
            if self.give_up.wait(0.02):
                return
        until = time.monotonic() + self.patience
        while True:
            try:
                positions = self.stage.log.append(events)
                break
            except LogUnavailable:  # accepted or not: nobody knows, so it is sent again
                self.refused += 1
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        for event, position in zip(events, positions, strict=True):
            self.note(event, position)
        self.sent += len(events)

    def note(self, event: Event, position: str) -> None:
        """It was accepted."""
        self.oracle.accepted(event, position)

    def _full(self, index: str) -> bool:
        if self.sent - self._looked < _LOOK_EVERY:
            return False
        if self.stage.total(index) > self.most_waiting:
            return True
        self._looked = self.sent
        return False

    def finish(self, patience: float) -> None:
        """Wait until all is sent."""
        self.join(patience)
        if self.error:
            raise self.error
        if self.is_alive():
            self.give_up.set()
            raise TimeoutError(f"the producer sent {self.sent} events in time, and not all")


def mixed(*sources: Iterator[Event]) -> Iterator[Event]:
    """Events of several sources in turn, 60 at a time."""
    left = list(sources)
    while left:
        for source in list(left):
            part = list(islice(source, REORDER))
            yield from part
            if not part:
                left.remove(source)
