"""Draining the log: take events, encode, write, settle. Knows no Celery.

While one batch is written, the next one is encoded. An event leaves the log only when it is written, superseded or
buried; whatever else happens to it, it is handed back or reclaimed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Protocol

from ..engines import Engine
from ..errors import AccessDenied, EncoderError, EngineError, IndexMissing, KnnexError, LogUnavailable, SpecError
from ..ingest import BatchReport, Buried, Delivered, EventLog, Lane, Patience, Target
from ..ingest.apply import apply_updates, prepare_safely, write_prepared
from ..ingest.log import DRAINED
from ..ingest.prepare import Prepared
from ..ingest.updates import resolve_updates
from .heartbeat import Heartbeat
from .pauses import BURY_ANYWAY, Storm, stays

log = logging.getLogger(__name__)

# Events whose worker died on them are tried one by one, to learn which of them it was.
SUSPECT_FROM = 2
# So many at a time, since other indexes wait meanwhile.
SUSPECTS_AT_ONCE = 64
# A worker that died twice on one event alone: it is that event.
TRIES_ALONE = 2
# Seconds until events are tried again whose index or model cannot be used, or whose engine is busy.
UNUSABLE_DELAY, BUSY_DELAY = 5.0, 1.0

# Seconds for which producers are told why an index has to wait, if nothing more is heard of it.
RESTING_TOLD = 60.0

#: Errors that do not pass by themselves: the index waits until somebody mends it.
UNUSABLE = (EncoderError, IndexMissing, SpecError, AccessDenied)


class Opens(Protocol):
    """What gives the target of an index: see targets.py."""

    engine: Engine

    def get(self, alias: str) -> Target:
        """The target of an alias, as it is now."""
        ...


@dataclass(frozen=True)
class DrainReport:
    """What one drain did, in events; `encoded` and `cached` count texts."""

    taken: int = 0
    written: int = 0
    stale: int = 0
    deleted: int = 0
    buried: int = 0
    handed_back: int = 0
    encoded: int = 0
    cached: int = 0

    def __add__(self, other: DrainReport) -> DrainReport:
        return DrainReport(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def drain(
    log: EventLog,
    targets: Opens,
    *,
    consumer: str,
    seconds: float = 30.0,
    batch: int = 512,
    lease: float = 15.0,
    stop: threading.Event | None = None,
    patience: Patience | None = None,
    lanes: Sequence[Lane] = DRAINED,
    heartbeat: Heartbeat | None = None,
    writer: Executor | None = None,
) -> DrainReport:
    """Work until the log is empty, `seconds` have passed, or `stop` is set; the batch at hand is finished.

    `patience` is how long a busy engine is asked again before a batch is handed back; `lanes` are those worked on, in
    their order. Without `heartbeat` and `writer` threads are started for these.

    Raises LogUnavailable.
    """
    with (
        heartbeat or Heartbeat(log, consumer, lease) as heartbeat,
        writer or ThreadPoolExecutor(1, "knnex-writer") as writer,
    ):
        run = _Drain(
            log, targets, consumer, batch, lease, stop or threading.Event(), patience, lanes, heartbeat, writer
        )
        return run.until(time.monotonic() + seconds)


class _Drain:
    def __init__(
        self,
        log: EventLog,
        targets: Opens,
        consumer: str,
        batch: int,
        lease: float,
        stop: threading.Event,
        patience: Patience | None,
        lanes: Sequence[Lane],
        heartbeat: Heartbeat,
        writer: Executor,
    ) -> None:
        self.log, self.targets, self.consumer, self.batch, self.lease = log, targets, consumer, batch, lease
        self.stop, self.patience, self.lanes, self.heartbeat, self.writer = stop, patience, lanes, heartbeat, writer
        self.storms: dict[str, Storm] = {}
        self.overridden: set[str] = set()
        self.report = DrainReport()
        self.resting: set[str] = set()
        self.writing: Future[None] | None = None

    def until(self, deadline: float) -> DrainReport:
        try:
            busy = True
            while busy and not self.stop.is_set() and time.monotonic() < deadline:
                # In turn, so that an index with a long backlog does not keep the others waiting.
                busy = False
                for index in self.log.indexes():
                    busy |= index not in self.resting and not self.stop.is_set() and self._step(index)
                # What was being written may have been what updates waited for.
                busy = busy or self._finish_writing()
        finally:
            self._finish_writing()
        return self.report

    def _step(self, index: str) -> bool:
        """Take and handle one batch of an index; whether there was any."""
        reason = self.log.paused(index)
        if stays(reason) or (reason and self._open(index) is None):
            return False
        lanes = [lane for lane in self.lanes if not self.log.paused(index, lane)]
        taken = self.log.take(index, self.consumer, self.batch, self.lease, lanes)
        if not taken:
            if index in self.overridden:
                self.overridden.discard(index)
                self.log.remember(index, BURY_ANYWAY, None)
            return False
        self.report += DrainReport(taken=len(taken))
        suspects = [one for one in taken if one.deliveries >= SUSPECT_FROM]
        fresh = [one for one in taken if one.deliveries < SUSPECT_FROM]
        # Held from now on: a model may have to be loaded first.
        with self.heartbeat.holding(index, taken):
            # Asked after the taking: whoever changes the index can then wait for all that was taken before.
            target = self._open(index)
            if target and fresh:
                (self._update if fresh[0].event.op == "update" else self._encode)(target, fresh)
        if target is None:
            self._hand_back(index, taken, UNUSABLE_DELAY)
            return False
        if suspects:
            self._one_by_one(target, suspects)
        return index not in self.resting

    def _open(self, index: str) -> Target | None:
        try:
            target = self.targets.get(index)
        except LogUnavailable:
            raise
        except EngineError as error:
            (self._pause if isinstance(error, UNUSABLE) else self._rest)(index, error)
        except KnnexError as error:
            self._pause(index, error)
        except Exception as error:  # a newer knnex may have made the index; it must not keep the others waiting
            log.debug("Opening %s failed", index, exc_info=True)
            self._pause(index, KnnexError(f"{type(error).__name__}: {error}", hint="update this worker"))
        else:
            if (reason := self.log.paused(index)) and not stays(reason):
                self.log.pause(index, None)
            return target
        return None

    def _encode(self, target: Target, taken: Sequence[Delivered]) -> None:
        """Encode a batch, while the one before is still being written."""
        self.heartbeat.hold(target.alias, taken)
        started = time.monotonic()
        try:
            prepared = prepare_safely(target, [one.event for one in taken])
        except BaseException as error:
            self.heartbeat.let_go(taken)
            if not isinstance(error, EncoderError):
                raise
            self._pause(target.alias, error)
            self._hand_back(target.alias, taken, UNUSABLE_DELAY)
            return
        self._finish_writing()
        self.writing = self.writer.submit(self._write, target, taken, prepared, started)

    def _update(self, target: Target, taken: Sequence[Delivered]) -> None:
        """Apply partial updates: each reads its document first, so that nothing is prepared ahead."""
        self._finish_writing()
        events = [one.event for one in taken]
        self._guarded(
            target,
            taken,
            lambda: apply_updates(self.targets.engine, target, events, patience=self.patience, sleep=self.stop.wait),
        )

    def _finish_writing(self) -> bool:
        """Whether there was something being written."""
        writing, self.writing = self.writing, None
        if writing:
            writing.result()
        return writing is not None

    def _write(self, target: Target, taken: Sequence[Delivered], prepared: Prepared, started: float) -> None:
        try:
            self._guarded(
                target,
                taken,
                lambda: write_prepared(
                    self.targets.engine, target, prepared, patience=self.patience, sleep=self.stop.wait
                ),
                started,
            )
        finally:
            self.heartbeat.let_go(taken)

    def _guarded(
        self, target: Target, taken: Sequence[Delivered], write: Callable[[], BatchReport], started: float | None = None
    ) -> None:
        """Write and settle; what could not be written for now is handed back."""
        began = time.monotonic() if started is None else started
        try:
            self._settle(target, taken, write(), time.monotonic() - began)
        except UNUSABLE as error:
            self._pause(target.alias, error)
            self._hand_back(target.alias, taken, UNUSABLE_DELAY)
        except EngineError as error:
            self._rest(target.alias, error)
            self._hand_back(target.alias, taken, BUSY_DELAY)

    def _settle(self, target: Target, taken: Sequence[Delivered], done: BatchReport, took: float) -> None:
        storm = self.storms.setdefault(target.alias, Storm())
        if storm.rises(done, len(taken)):
            if self.log.recall(target.alias, BURY_ANYWAY):
                self.overridden.add(target.alias)
            else:
                self._pause(target.alias, KnnexError(storm.reason([one.reason for one in done.buried])))
                self.storms[target.alias] = Storm()
                done = replace(done, failed=(*done.failed, *done.buried), buried=())
        failed = {casualty.event.position for casualty in done.failed}
        attempts = {one.position: one.deliveries for one in taken}
        buried = [
            Buried(at, casualty.event, casualty.reason, attempts.get(at, 1))
            for casualty in done.buried
            if (at := casualty.event.position)
        ]
        settled = [one.position for one in taken if one.position not in failed]
        self.log.settle(target.alias, settled, buried, done.counts)
        self._tell(target.alias, done, len(taken), took)
        if failed and target.alias not in self.resting:
            self._rest(target.alias, EngineError(done.failed[0].reason))
        if failed:
            self._hand_back(target.alias, [one for one in taken if one.position in failed], BUSY_DELAY)
        self.report += DrainReport(
            written=done.written,
            stale=done.stale,
            deleted=done.deleted,
            buried=len(buried),
            encoded=done.encoded,
            cached=done.cached,
        )

    def _one_by_one(self, target: Target, suspects: Sequence[Delivered]) -> None:
        """Try events alone whose worker died; one on which it dies again and again is buried."""
        self._finish_writing()
        log.warning(
            "Trying %d documents for %s one by one: their worker died or was cut off",
            len(suspects),
            target.alias,
            extra={"action": "suspects_isolated", "index": target.alias},
        )
        left = list(suspects)
        while left and not (self.stop.is_set() or target.alias in self.resting):
            if len(suspects) - len(left) == SUSPECTS_AT_ONCE:
                break
            with self.heartbeat.holding(target.alias, left):
                self._alone(target, left.pop(0))
        if left:
            self.report += DrainReport(handed_back=len(left))
            self.log.release(target.alias, self.consumer, left, self.lease, 0.0)

    def _alone(self, target: Target, one: Delivered) -> None:
        tries = self.log.blame(target.alias, one.position)
        if tries > TRIES_ALONE:
            self._bury(target, one, f"the worker died {TRIES_ALONE} times while it worked on this document alone")
            return
        try:
            updates = one.event.op == "update"
            whole = resolve_updates(self.targets.engine, target, [one.event]).whole if updates else [one.event]
            prepared = prepare_safely(target, whole)
            # The engine may keep us waiting now, and a worker that is killed meanwhile died of something else.
            self.log.acquit(target.alias, one.position)
            if updates:
                self._update(target, [one])
            else:
                self._write(target, [one], prepared, time.monotonic())
        except LogUnavailable:
            raise
        except EncoderError as error:  # the model fails on everything
            self._pause(target.alias, error)
            self._hand_back(target.alias, [one], UNUSABLE_DELAY)
        except EngineError as error:
            self._rest(target.alias, error)
            self._hand_back(target.alias, [one], BUSY_DELAY)
        except Exception as error:  # whatever it is, this event alone brings it about
            log.exception("Burying %s of %s", one.event.id, target.alias, extra={"action": "buried"})
            self._bury(target, one, f"{type(error).__name__}: {error}")

    def _bury(self, target: Target, one: Delivered, reason: str) -> None:
        self.log.settle(target.alias, [one.position], [Buried(one.position, one.event, reason, one.deliveries)])
        self.report += DrainReport(buried=1)
        log.warning("Buried %s of %s: %s", one.event.id, target.alias, reason, extra={"action": "buried"})

    def _hand_back(self, index: str, taken: Sequence[Delivered], delay: float) -> None:
        self.resting.add(index)
        self.report += DrainReport(handed_back=len(taken))
        try:
            self.log.release(index, self.consumer, taken, self.lease, delay)
        except LogUnavailable as error:  # then they are reclaimed when the lease is over
            log.warning("Could not hand back %d events of %s: %s", len(taken), index, error, extra={"action": "kept"})

    def _pause(self, index: str, error: KnnexError) -> None:
        reason = f"{error}" + (f" ({error.hint})" if error.hint else "")
        self.resting.add(index)
        if self.log.paused(index) != reason:
            log.error("Leaving %s alone: %s", index, reason, extra={"action": "index_paused", "index": index})
            self.log.pause(index, reason)

    def _rest(self, index: str, error: KnnexError) -> None:
        self.resting.add(index)
        if self.log.rest(index, str(error), RESTING_TOLD):
            log.warning("%s rests for a while: %s", index, error, extra={"action": "index_resting", "index": index})

    @staticmethod
    def _tell(index: str, done: BatchReport, taken: int, took: float) -> None:
        for casualty in done.buried:
            log.warning(
                "Buried %s of %s: %s",
                casualty.event.id,
                index,
                casualty.reason,
                extra={"action": "buried", "index": index},
            )
        for casualty in done.without_vector:
            log.info(
                "Wrote %s of %s without vector: %s",
                casualty.event.id,
                index,
                casualty.reason,
                extra={"action": "without_vector", "index": index},
            )
        log.info(
            "%s: wrote %d of %d documents, encoded %d texts, %d from the cache, in %.2f s",
            index,
            done.written + done.deleted,
            taken,
            done.encoded,
            done.cached,
            took,
            extra={
                "action": "bulk_written",
                "index": index,
                "wrote": done.written,
                "deleted": done.deleted,
                "stale": done.stale,
                "buried": len(done.buried),
                "encoded": done.encoded,
            },
        )
