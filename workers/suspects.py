"""Events on which a worker may have died: they are tried where a death harms nobody, and the guilty are buried.

Most of them are innocent, since workers die of many things: some are tried together, and one by one only where that
is deadly too. Whoever kills does so three times at most: the worker that had it, and two processes of the quarantine.
That an event is being tried is noted in the log before, and taken back when it did no harm, so that this holds even
where the whole machine goes down with it: what is noted is tried alone. What only waited for its turn when its worker
died is as innocent as before. While a process starts, or one event takes long, others are served.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any

from ..engines import Engine
from ..errors import EncoderError, EngineError
from ..ingest import BatchReport, Delivered, Event, EventLog, Target
from ..ingest.apply import prepare_all, write_prepared
from ..ingest.prepare import Prepared
from ..ingest.reindex.orders import prepare_copies, whole_copy, write_copy
from ..ingest.updates import resolve_updates
from .books import Books
from .heartbeat import Heartbeat
from .quarantine import Outcome, Quarantine, Raised, Survived, Unjudged

log = logging.getLogger(__name__)

# An event whose worker died on it is suspect.
SUSPECT_FROM = 2
# So many are tried together: about as many tries as there are in a group find the guilty one in a batch.
GROUP = 16
# So many are kept at a time, since other workers may try the rest; from so many on no more are taken.
SUSPECTS_AT_ONCE, ENOUGH = 512, 256
# Seconds for which others wait for them.
SLICE = 2.0
# Two processes that died on one event alone: it is that event.
TRIES_ALONE = 2
# Seconds until those are looked at again for which there was no room; seconds a try may go on when the worker stops.
LATER, GRACE = 1.0, 5.0


def set_apart(taken: Sequence[Delivered]) -> tuple[Sequence[Delivered], Sequence[Delivered]]:
    """Suspects and the others. Updates have to stay in their order: where one is suspect, all are."""
    suspects = [one for one in taken if one.deliveries >= SUSPECT_FROM]
    if suspects and suspects[0].event.op == "update":
        return taken, []
    return suspects, [one for one in taken if one.deliveries < SUSPECT_FROM]


@dataclass(frozen=True)
class _Trial:
    """A try in the quarantine: of how many events; how often it was tried alone, if it is one; and since when."""

    count: int
    tries: int
    started: float


class Suspects:
    """The suspects that one drain has taken. Not for several threads."""

    def __init__(
        self,
        log: EventLog,
        engine: Engine,
        books: Books,
        heartbeat: Heartbeat,
        quarantine: Quarantine,
        *,
        deadline: float,
        stop: threading.Event,
        finish_writing: Callable[[], object],
        asking: Mapping[str, Any],
    ) -> None:
        self._log, self._engine, self._books, self._heartbeat = log, engine, books, heartbeat
        self._quarantine, self._deadline, self._stop = quarantine, deadline, stop
        self._finish_writing = finish_writing
        # How long a busy engine is asked again.
        self._asking = asking
        self._target: Target | None = None
        # In their order; the first one is being tried if there is a trial.
        self._left: Sequence[Delivered] = ()
        self._trial: _Trial | None = None
        # How many of the first ones are to be tried one by one, and whether trying them together was deadly.
        self._alone, self._deadly = 0, False
        # Those that were being tried when their worker died.
        self._doubted: set[str] = set()
        self.closing = False  #: Whether no more are kept.

    @property
    def waiting(self) -> bool:
        """Whether there are any."""
        return bool(self._left)

    @property
    def full(self) -> bool:
        """Whether there are enough."""
        return len(self._left) >= ENOUGH

    def add(self, target: Target, suspects: Sequence[Delivered]) -> None:
        """Keep suspects, to be tried by `step`, and their claims; those for which there is no room are handed back."""
        others = self._left and target != self._target
        room = 0 if self.closing or others else max(0, SUSPECTS_AT_ONCE - len(self._left))
        if suspects[room:]:
            self._books.give_back(target.alias, suspects[room:], LATER)
        if room:
            log.warning(
                "Trying %d of %d documents for %s apart from the others: their worker died or was cut off",
                *(min(room, len(suspects)), len(suspects), target.alias),
                extra={"action": "suspects_isolated", "index": target.alias},
            )
            if not self._left:
                self._target, self._alone, self._doubted = target, 0, set()
            again = [one.position for one in suspects[:room] if one.deliveries > SUSPECT_FROM]
            self._doubted |= self._log.doubted(target.alias, again)
            self._keep([*self._left, *suspects[:room]])

    def step(self, wait: float = 0.0) -> None:
        """Try suspects for some two seconds, or until one takes longer; then wait for it `wait` seconds at most. Raises
        LogUnavailable."""
        until = time.monotonic() + SLICE
        while self._target and self._left and time.monotonic() < until and not self._stop.is_set():
            if not self._go_on(self._target, self._left[0], wait):
                break

    def finish(self) -> None:
        """Bring a try that is under way to its end, for which there are some seconds where the worker stops."""
        began = time.monotonic()
        while self._target and self._trial:
            # Not `is_set`, which is true as well where a drain only gives way to another.
            if self._stop.wait(0) and time.monotonic() > began + GRACE:
                break
            self._hear(self._target, self._left[0], self._trial, GRACE / 10)

    def abandon(self) -> None:
        """Hand back what is left. A try that is cut short proves nothing."""
        if self._target and self._trial:
            self._quarantine.close()
            if self._trial.tries > 1:
                # Left to be reclaimed, since handing back takes back what was noted of it before.
                self._next()
            self._trial = None
        if self._target and self._left:
            self._books.give_back(self._target.alias, self._left, 0.0)
            self._keep(())

    def _go_on(self, target: Target, one: Delivered, wait: float) -> bool:
        """One more step; False where there is nothing to do but wait."""
        if self._trial:
            patience = max(wait, self._trial.started + SLICE - time.monotonic())
            return self._hear(target, one, self._trial, patience)
        if self._books.rests(target.alias):
            self._books.give_back(target.alias, self._left, LATER)
            self._keep(())
            return False
        ready = self._quarantine.open(target, wait)
        if ready == "starting":
            return False
        if ready == "ready" and len(together := self._together()) > 1:
            self._log.doubt(target.alias, [one.position for one in together])
            self._quarantine.begin([one.event for one in together], self._deadline)
            self._trial = _Trial(len(together), 0, time.monotonic())
            return True
        event = self._whole(target, one)
        if event is None:
            return True
        if ready == "impossible":  # before it is blamed: what fails of others is not its fault
            self._finish_writing()
        tries = self._log.blame(target.alias, one.position)
        if tries > TRIES_ALONE:
            self._bury(target, one, f"the worker died {TRIES_ALONE} times while it worked on this document alone")
        elif ready == "ready":
            self._quarantine.begin(event, self._deadline)
            self._trial = _Trial(1, tries, time.monotonic())
        else:
            self._judge(target, one, self._tried_here(target, event), tries)
        return True

    def _together(self) -> Sequence[Delivered]:
        """Those of the first ones that are tried together; updates have their order, and each reads what the one before
        made, and copies are read one by one as well."""
        whole = takewhile(lambda one: one.event.op not in ("update", "copy"), self._left[:GROUP])
        return [] if self._alone else list(takewhile(lambda one: one.position not in self._doubted, whole))

    def _whole(self, target: Target, one: Delivered) -> Event | None:
        """The event with the whole document; None for an update that comes to nothing, a copy without anything to
        encode, and what cannot be read for now."""
        if one.event.op in ("upsert", "delete"):
            return one.event
        try:
            if one.event.op == "copy":
                copy = whole_copy(self._engine, target, one.event, **self._asking)
                if copy is None:
                    self._settle(target, one, prepare_copies(self._engine, target, [one.event], **self._asking))
                return copy
            found = resolve_updates(self._engine, target, [one.event], **self._asking)
        except EngineError as error:
            self._settle(target, one, partial(_raise, error))
            return None
        if not found.whole:
            self._settle(target, one, lambda: BatchReport(stale=len(found.stale), buried=tuple(found.absent)))
            return None
        return found.whole[0]

    def _hear(self, target: Target, one: Delivered, trial: _Trial, wait: float) -> bool:
        """Whether there was a verdict."""
        outcome = self._quarantine.outcome(wait)
        if outcome is None:
            return False
        self._trial = None
        if trial.tries:
            self._judge(target, one, outcome, trial.tries)
        else:
            self._judge_all(target, self._left[: trial.count], outcome)
        return True

    def _judge_all(self, target: Target, every: Sequence[Delivered], outcome: Outcome) -> None:
        """What came of trying them together: all are innocent, or it has to be found out which is not."""
        if isinstance(outcome, Survived):
            self._log.acquit(target.alias, [one.position for one in every])
            write = partial(write_prepared, self._engine, target, outcome.prepared, **self._asking)
        elif isinstance(outcome, Raised) and outcome.broken:
            write = partial(_raise, EncoderError(outcome.reason, hint=outcome.hint))
        else:
            self._alone, self._deadly = len(every), not isinstance(outcome, (Raised, Unjudged))
            log.warning(
                "Trying %d documents for %s one by one: trying them together failed",
                *(len(every), target.alias),
                extra={"action": "suspects_isolated", "index": target.alias},
            )
            return
        try:
            self._books.guarded(target, every, write)
        finally:
            self._keep(self._left[len(every) :])

    def _tried_here(self, target: Target, event: Event) -> Outcome:
        """Try an event in this very process, which its death would end."""
        try:
            with self._heartbeat.encoding(target.alias):
                return Survived(prepare_all(target, [event]))
        except EncoderError as error:
            return Raised(str(error), True, error.hint)
        except Exception as error:  # whatever it is, this event alone brings it about
            log.exception("%s of %s fails", event.id, target.alias, extra={"action": "suspect_failed"})
            return Raised(f"{type(error).__name__}: {error}")

    def _judge(self, target: Target, one: Delivered, outcome: Outcome, tries: int) -> None:
        if isinstance(outcome, Survived):
            # The engine may keep us waiting now, and a worker that is killed meanwhile died of something else.
            self._log.acquit(target.alias, [one.position])
            self._settle(target, one, partial(self._write, target, one, outcome.prepared))
        elif isinstance(outcome, Raised) and outcome.broken:
            self._settle(target, one, partial(_raise, EncoderError(outcome.reason, hint=outcome.hint)))
        elif isinstance(outcome, Raised):
            self._bury(target, one, outcome.reason)
        elif isinstance(outcome, Unjudged):
            # It comes again, and is tried here then.
            if tries == 1:
                self._log.acquit(target.alias, [one.position])
        elif tries >= TRIES_ALONE or (self._alone and self._deadly) or one.deliveries > SUSPECT_FROM:
            self._bury(target, one, f"the process in which it was tried alone died: {outcome.how}")
        else:
            log.warning(
                "%s of %s killed the process in which it was tried: %s",
                *(one.event.id, target.alias, outcome.how),
                extra={"action": "suspect_killed", "index": target.alias},
            )

    def _write(self, target: Target, one: Delivered, prepared: Prepared) -> BatchReport:
        if one.event.op == "copy":
            return write_copy(self._engine, target, one.event, prepared, **self._asking)
        done = write_prepared(self._engine, target, prepared, **self._asking)
        if one.event.op != "update":
            return done
        # What is told, kept and tried again is the update, and not the document that it made.
        told: dict[str, Any] = {
            name: tuple(replace(each, event=one.event) for each in getattr(done, name))
            for name in ("buried", "failed", "refused_beside", "behind")
        }
        return replace(done, **told)

    def _settle(self, target: Target, one: Delivered, write: Callable[[], BatchReport]) -> None:
        try:
            self._books.guarded(target, [one], write)
        finally:
            self._next()

    def _bury(self, target: Target, one: Delivered, reason: str) -> None:
        self._books.bury(target, one, reason)
        self._next()

    def _next(self) -> None:
        self._trial, self._alone = None, max(0, self._alone - 1)
        self._keep(self._left[1:])

    def _keep(self, left: Sequence[Delivered]) -> None:
        """Renew the claims on these, and on no others."""
        self._heartbeat.let_go(self._left)
        self._left = left
        if left:
            self._heartbeat.hold(self._target.alias if self._target else "", left)


def _raise(error: EncoderError | EngineError) -> BatchReport:
    raise error
