"""Waiting for workers, as long as there is something to wait for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ..errors import EngineBusy, EngineUnreachable, IngestIncomplete, LogUnavailable
from ..settings import settings
from .log import Backlog, EventLog
from .patience import ask_again, delays_within
from .positions import WRITES, Lane, version_of
from .tally import Tally

T = TypeVar("T")
log = logging.getLogger(__name__)

_SHORTEST, _LONGEST = 0.01, 0.2
# Seconds without movement after which it is asked what holds it up, and again after so many.
_CHECK = 1.0
# Seconds without movement after which an engine is given up, and a living worker taken for hung.
_BLOCKED, _HUNG = 300.0, 900.0
# How often `patience` a server may need for being started again.
_RESTART = 4


class Waiting:
    """Watches the backlog of a lane of an index on behalf of one producer."""

    def __init__(
        self,
        log: EventLog,
        index: str,
        tally: Tally,
        patience: float,
        lane: Lane = "live",
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.log, self.index, self.tally, self.patience, self.lane, self.sleep = (
            log,
            index,
            tally,
            patience,
            lane,
            sleep,
        )
        self.before = log.counts(index)
        self._told: str | None = None

    def steadily(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer, as long as a log or an engine may need to come up again."""
        away = (LogUnavailable, EngineUnreachable, EngineBusy)
        delays = delays_within(_RESTART * self.patience, _LONGEST, _LONGEST)
        return ask_again(ask, away, delays, lambda error, _: self.tell(str(error)), self.sleep)

    def tell(self, reason: str) -> None:
        """Say why it takes longer, once."""
        if reason != self._told:
            self._told = reason
            log.warning("Waiting: %s", reason, extra={"action": "ingest_waiting", "index": self.index})

    def for_room(self, enough: Callable[[Backlog], bool]) -> Backlog:
        """Wait until the lane has room for more, and the index no more events than KNNEX_MAX_WAITING."""
        most = settings().max_waiting

        def done(mine: Backlog, whole: Backlog) -> bool:
            if whole.total > most:
                self.tell(f"more than {most:,} events of {self.index!r} are in the log (KNNEX_MAX_WAITING)")
            return enough(mine) and whole.total <= most

        return self.until(done)

    def until(self, done: Callable[[Backlog, Backlog], bool]) -> Backlog:
        """Wait for a state of the backlog, of the lane and of the whole index; the lane's.

        Raises IngestIncomplete where nobody works on it.
        """
        state: Backlog | None = None
        moved, checked = time.monotonic(), 0.0
        while True:
            mine, whole = self.steadily(self._look)
            if done(mine, whole):
                self._show(mine)
                return mine
            # A lane may stand still for long while workers are busy with the others, which go before it.
            if whole != state:
                state, moved = whole, time.monotonic()
                self._show(mine)
            now = time.monotonic()
            idle = now - moved
            if now - max(moved, checked) >= min(_CHECK, self.patience):
                checked = now
                self.steadily(partial(self._check, mine if mine.total else whole, idle))
            # A fourth of the time that nothing moved: what comes then is not waited for much longer than it took.
            self.sleep(min(_LONGEST, max(_SHORTEST, idle / 4)))

    def _look(self) -> tuple[Backlog, Backlog]:
        whole = self.log.backlog(self.index)
        return whole.of(self.lane), whole

    def _show(self, backlog: Backlog) -> None:
        now = self.steadily(lambda: self.log.counts(self.index))
        self.tally.encoded = now.get("encoded", 0) - self.before.get("encoded", 0)
        self.tally.cached = now.get("cached", 0) - self.before.get("cached", 0)
        self.tally.show(backlog.total)

    def _check(self, backlog: Backlog, idle: float) -> None:
        waiting = f"{backlog.total} documents for {self.index!r} wait in the log"
        reason = self._paused()
        if reason:
            raise IngestIncomplete(
                f"{waiting}, and workers leave them alone: {reason}", hint="`knnex doctor` says more"
            )
        if idle > self.patience and not self.log.workers():
            raise IngestIncomplete(
                f"{waiting}, and no worker is running",
                hint="start one with `knnex worker`; nothing is lost, it writes what waits",
            )
        if idle > self.patience and (reason := self.log.resting(self.index)):
            self.tell(reason)
            if idle > _BLOCKED:
                raise IngestIncomplete(
                    f"{waiting}, and the engine does not take them: {reason}",
                    hint="nothing is lost: workers write what waits as soon as it does",
                )
        if idle > _HUNG:
            raise IngestIncomplete(
                f"{waiting}, and its workers have done nothing for {idle:.0f} s", hint="restart them"
            )

    def _paused(self) -> str | None:
        """Why workers leave alone what we wait for: the index, its lane, or what has to be settled before an update."""
        held = self.log.backlog(self.index).lanes if self.lane == "updates" else {}
        before = [lane for lane in WRITES if lane in held and held[lane].total]
        reasons = [self.log.paused(self.index), *(self.log.paused(self.index, lane) for lane in [self.lane, *before])]
        return next((reason for reason in reasons if reason), None)


def passed(position: str | None, low_water: str | None) -> bool:
    """Whether everything up to `position` is settled."""
    return position is None or low_water is None or version_of(low_water) > version_of(position)
