"""Having workers encode and copy, by events in the log: the coordinator's end; that of the workers is orders.py.

They only make it faster: a page that they do not get done is copied here, and what else they left out is found when
both indexes are compared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ...errors import LogUnavailable, ReindexStopped
from ..log import EventLog
from ..patience import patiently
from ..positions import version_of
from .copying import Copied, Copier
from .fencing import copies_by
from .orders import Order
from .reading import Held, Place, fetch
from .report import Options

log = logging.getLogger(__name__)

# Seconds between two looks at the log.
_LOOK = 0.05
# Of the time for which a log may make no headway, how much where an index has to wait for its engine or its model.
_RESTING = 10
# Pages copied here before workers that did not get on are tried again.
_PAGES_HERE = 20


@dataclass(frozen=True)
class Handed:
    """A page, of which workers have a part."""

    copied: Copied
    places: Sequence[Place] = ()
    positions: Sequence[str] = ()


class Handing:
    """Offers workers what must be encoded; `open_copies` lets them copy."""

    def __init__(
        self,
        events: EventLog,
        alias: str,
        copier: Copier,
        epoch: int,
        options: Options,
        sleep: Callable[[float], object],
        open_copies: Callable[[], object],
    ) -> None:
        self.events, self.alias, self.copier, self.options, self.sleep = events, alias, copier, options, sleep
        into = copier.target.stored.index
        self.order = Order(into, copies_by(into, epoch), copier.moves)
        self._open = open_copies
        self.opened = False
        #: Workers at it, none where documents are encoded here.
        self.workers = 0
        self._here = 0

    def work(self, found: Sequence[Held], *, looking: bool = False) -> Handed:
        """Copy a page, but for what workers take. Raises what copying does, ReindexStopped where none may be encoded
        here."""
        places: list[Place] = []
        positions: list[str] = []

        def hand(theirs: Sequence[Held]) -> bool:
            given = self._handed([one.place for one in theirs])
            places.extend([one.place for one in theirs] if given else ())
            positions.extend(given)
            return bool(given)

        return Handed(self.copier.copy(found, looking=looking, hand=hand), places, positions)

    def _handed(self, places: Sequence[Place]) -> list[str]:
        """Append the copies of documents to the log; nothing where no worker is there for them."""
        try:
            if reason := self._hindrance():
                self._encode_here(reason)
                return []
            if not self.opened:
                self._open()
                self.opened = True
            return self.events.append([self.order.event(self.alias, place) for place in places], "copies")
        except LogUnavailable as error:
            self._encode_here(str(error))
            return []

    def _hindrance(self) -> str:
        """Why workers are not asked."""
        if self._here:
            self._here -= 1
            return "they were tried"
        if reason := self._idle():
            return reason
        return "" if self.options.encode == "workers" else self.events.resting(self.alias) or ""

    def _idle(self) -> str:
        """Why nobody works on copies."""
        if paused := self.events.paused(self.alias) or self.events.paused(self.alias, "copies"):
            return paused
        self.workers = len(self.events.workers())
        return "" if self.workers else "no worker is running"

    def _encode_here(self, reason: str) -> None:
        self.workers = 0
        if self.options.encode == "workers":
            raise ReindexStopped(
                f"workers do not encode the documents of {self.alias!r}: {reason}",
                hint="see `knnex status`; start workers and run this again, or with --encode here",
            )

    def wait(self, page: Handed) -> Handed:
        """Wait for the workers to be done with a page; its places are then those that `take_back` is to copy."""
        last = max(version_of(at) for at in page.positions)
        places = dict(zip(page.positions, page.places, strict=True))
        try:
            reason = "they were tried" if self._here else self._wait(last)
            buried = self.events.find_buried(self.alias, page.positions)
            if reason:
                # Nobody needs them any more; who has one at hand may end it.
                self.events.settle(self.alias, page.positions)
        except LogUnavailable as error:
            reason, buried = str(error), {}
        self.copier.spared |= {places[at]: one.reason for at, one in buried.items()}
        if reason:
            self._give_up(reason, len(places))
        left = list(places.values()) if reason else [places[at] for at in buried]
        copied = replace(page.copied, handed=page.copied.handed - len(left))
        # The texts of what lies there without a vector are nobody's to count.
        return Handed(copied + Copied(without={places[at][0]: one.reason for at, one in buried.items()}), left)

    def _give_up(self, reason: str, count: int) -> None:
        if not self._here:
            log.warning(
                "Encoding %d documents of %s here, where workers were to do it: %s",
                count,
                self.alias,
                reason,
                extra={"action": "copies_taken_back", "index": self.alias},
            )
        self._here = _PAGES_HERE
        self._encode_here(reason)

    def _wait(self, last: int) -> str:
        """Until nothing up to a version is unsettled; why that is given up, if it is."""
        waited, before = 0.0, (-1, "")
        while True:
            backlog = self.events.backlog(self.alias).of("copies")
            if backlog.low_water is None or version_of(backlog.low_water) > last:
                return ""
            if reason := self._idle():
                return reason
            now = (backlog.total, backlog.low_water)
            waited, before = (0.0 if now != before else waited + _LOOK), now
            resting = self.events.resting(self.alias)
            if waited > self.options.headway / (_RESTING if resting else 1):
                return resting or f"{backlog.total:,} documents wait, and none was done for {waited:.0f} s"
            self.sleep(_LOOK)

    def take_back(self, page: Handed) -> Copied:
        """Copy here what workers did not get done, and what they buried without the vectors it lacks."""
        engine, copier = self.copier.engine, self.copier
        flow = partial(fetch, copier.source, engine.dialect, page.places, copier.moves, copier.left_out)
        found: list[Held] = patiently(engine, flow, self.options.patience, self.sleep)
        return page.copied + copier.copy(found, looking=True)
