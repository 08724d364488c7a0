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
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

from .. import telemetry
from ..engines import Engine
from ..errors import EncoderError, EngineError, KnnexError, LogUnavailable
from ..ingest import BatchReport, Delivered, Event, EventLog, Lane, Patience, Target
from ..ingest.apply import apply_updates, prepare_all, prepare_safely, write_prepared
from ..ingest.log import DRAINED, URGENT
from ..ingest.positions import split
from ..ingest.prepare import Prepared
from ..ingest.reindex.copying import Prepare
from ..ingest.reindex.orders import prepare_copies
from ..settings import settings
from .books import UNUSABLE, UNUSABLE_DELAY, Books, DrainReport
from .figures import Figures
from .heartbeat import Heartbeat
from .pauses import stays
from .quarantine import Quarantine
from .suspects import Suspects, set_apart

log = logging.getLogger(__name__)

# Seconds to wait for a suspect where there is nothing else to do.
SUSPECT_WAIT = 0.2
# Of what is not urgent, first a fourth of a batch is taken, and then what the model does in so many seconds, for which
# a worker that is told to stop may have to wait; but not so little that it would cost.
BATCH_SECONDS, SHARE, LEAST = 8.0, 4, 64
# While a backfill is encoded, seconds until it is looked again for what is urgent, or up to five times as many: looking
# may cost that share of the time.
LOOK, LOOKING = 0.2, 0.01
# Seconds: where there are enough suspects, others' events are left to others.
NEVER = 1e6


class Opens(Protocol):
    """What gives the target of an index: see targets.py."""

    engine: Engine

    def get(self, alias: str) -> Target:
        """The target of an alias, as it is now."""
        ...


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
    figures: Figures | None = None,
    quarantine: Quarantine | None = None,
    deadline: float | None = None,
    look: float = LOOK,
    lease_of: Callable[[str], float] | None = None,
) -> DrainReport:
    """Work until the log is empty, `seconds` have passed, or `stop` is set; the batch at hand is finished.

    `patience` is how long a busy engine is asked again before a batch is handed back; `lanes` are those worked on, in
    their order; `figures` are told of every batch. Without `heartbeat` and `writer` threads are started for these.
    Suspects are tried in `quarantine`, or in one for this drain alone. The model must answer within `deadline` seconds
    (KNNEX_DEADLINE), or the process ends. While a backfill is encoded, it is looked every `look` seconds for what is
    urgent, or less often where looking takes long. `lease_of` an index is how long its events are a silent worker's,
    where that is not the lease.

    Raises LogUnavailable.
    """
    deadline = settings().deadline if deadline is None else deadline
    with (
        heartbeat or Heartbeat(log, consumer, lease, deadline) as heartbeat,
        writer or ThreadPoolExecutor(1, "knnex-writer") as writer,
        nullcontext(quarantine) if quarantine else Quarantine() as cells,
    ):
        stop = stop or threading.Event()
        run = _Drain(
            log, targets, consumer, batch, lease, stop, patience, lanes, heartbeat, writer, cells, deadline, look,
            figures, lease_of or (lambda _: lease),
        )  # fmt: skip
        return run.until(time.monotonic() + seconds)


class _Drain(Books):
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
        quarantine: Quarantine,
        deadline: float,
        look: float,
        figures: Figures | None,
        lease_of: Callable[[str], float],
    ) -> None:
        super().__init__(log, consumer, lease, figures)
        self.targets, self.batch, self.look = targets, batch, look
        self.stop, self.lanes, self.heartbeat, self.writer = stop, lanes, heartbeat, writer
        self.asking: dict[str, Any] = {"patience": patience, "sleep": stop.wait}
        self.lease_of = lease_of
        # When it is looked for again, and for how long it was served, in seconds.
        self.look_at = self.away = 0.0
        # By index, how many are taken next of what is not urgent.
        self.counts: dict[str, int] = {}
        self.writing: Future[None] | None = None
        self.suspects = Suspects(
            log, targets.engine, self, heartbeat, quarantine, deadline=deadline, stop=stop,
            finish_writing=self.finish_writing, asking=self.asking,
        )  # fmt: skip

    def until(self, deadline: float) -> DrainReport:
        try:
            busy = True
            while (busy or self.suspects.waiting) and not self.stop.is_set():
                # Suspects at hand are tried to their end, and others served meanwhile.
                self.suspects.closing = time.monotonic() >= deadline
                if self.suspects.closing and not self.suspects.waiting:
                    break
                # In turn, so that an index with a long backlog does not keep the others waiting.
                busy = False
                for index in self.log.indexes():
                    busy |= index not in self.resting and not self.stop.is_set() and self._step(index)
                # What was being written may have been what updates waited for.
                busy = busy or self.finish_writing()
                self.suspects.step(0.0 if busy else SUSPECT_WAIT)
            self.suspects.finish()
        finally:
            self.suspects.abandon()
            self.finish_writing()
        return self.report

    def _step(self, index: str, only: Sequence[Lane] | None = None) -> bool:
        """Take and handle one batch of an index, of all lanes or of these; whether there was any."""
        reason = self.log.paused(index)
        if stays(reason) or (reason and self._open(index) is None):
            return False
        lanes = [lane for lane in (self.lanes if only is None else only) if not self.log.paused(index, lane)]
        taken = self._take(index, lanes)
        if not taken:
            if only is None:
                self.drained(index)
            return False
        self.add(DrainReport(taken=len(taken)))
        suspects, fresh = set_apart(taken)
        # Held from now on: a model may have to be loaded first.
        with self.heartbeat.holding(index, taken):
            # Asked after the taking: whoever changes the index can then wait for all that was taken before.
            target = self._open(index)
        if target is None:
            self.hand_back(index, taken, UNUSABLE_DELAY)
            return False
        if suspects:
            self.suspects.add(target, suspects)
        if fresh:
            (self._update if fresh[0].event.op == "update" else self._encode)(target, fresh)
        return bool(fresh) and index not in self.resting

    def _take(self, index: str, lanes: Sequence[Lane]) -> list[Delivered]:
        """What is urgent, and else one of the other lanes: what is urgent would wait for all that came with it."""
        urgent = [lane for lane in lanes if lane in URGENT]
        lease = NEVER if self.suspects.full else self.lease_of(index)
        taken = self.log.take(index, self.consumer, self.batch, lease, urgent) if urgent else []
        count = min(self.batch, self.counts.get(index, max(LEAST, self.batch // SHARE)))
        for lane in lanes:
            if lane not in URGENT and not taken:
                taken = self.log.take(index, self.consumer, count, lease, (lane,))
        return taken

    def _open(self, index: str) -> Target | None:
        try:
            target = self.targets.get(index)
        except LogUnavailable:
            raise
        except EngineError as error:
            (self.pause if isinstance(error, UNUSABLE) else self.rest)(index, error)
        except KnnexError as error:
            self.pause(index, error)
        except Exception as error:  # a newer knnex may have made the index; it must not keep the others waiting
            log.debug("Opening %s failed", index, exc_info=True)
            self.pause(index, KnnexError(f"{type(error).__name__}: {error}", hint="update this worker"))
        else:
            if (reason := self.log.paused(index)) and not stays(reason):
                self.log.pause(index, None)
            return target
        return None

    def _encode(self, target: Target, taken: Sequence[Delivered]) -> None:
        """Encode a batch, while the one before is still being written."""
        self.heartbeat.hold(target.alias, taken)
        started, away, span = time.monotonic(), self.away, self._begun(target, taken)
        self.look_at = started + self.look
        between = None if split(taken[0].position)[2] in URGENT else self._serve
        try:
            with span.inside():
                write = self._ready(target, [one.event for one in taken], partial(self._prepare, between=between))
        except BaseException as error:
            span.end()
            self.heartbeat.let_go(taken)
            if not isinstance(error, (EncoderError, EngineError)):
                raise
            self.put_off(target, taken, error)
            return
        encoding = time.monotonic() - started - (self.away - away)
        if between:
            self.counts[target.alias] = max(LEAST, int(len(taken) / max(encoding, 0.001) * BATCH_SECONDS))
        self.finish_writing()
        self.writing = self.writer.submit(self._write, target, taken, write, encoding, span)

    @staticmethod
    def _begun(target: Target, taken: Sequence[Delivered]) -> telemetry.Span:
        """The span of a batch, which serves all who sent its events."""
        lane, traces = split(taken[0].position)[2], [one.event.trace for one in taken]
        return telemetry.begin(
            "knnex.drain.batch", kind="consumer", links=traces, index=target.alias, lane=lane, documents=len(taken)
        )

    def _serve(self) -> None:
        """What is urgent goes in while something else is encoded, and does not wait for the end of it."""
        began = time.monotonic()
        if began < self.look_at or self.stop.is_set():
            return
        urgent = [lane for lane in self.lanes if lane in URGENT]
        try:
            for index in self.log.indexes():
                if index not in self.resting and self.log.backlog(index).of(*urgent).total:
                    self._step(index, urgent)
        except Exception:  # none of it is the fault of what is being encoded; what was taken comes again
            log.debug("What is urgent could not be served", exc_info=True, extra={"action": "look_failed"})
        took = time.monotonic() - began
        self.away += took
        self.look_at = began + took + max(self.look, min(5 * self.look, took / LOOKING))

    def _ready(
        self, target: Target, events: Sequence[Event], prepare: Callable[..., Prepared]
    ) -> Callable[[], BatchReport]:
        """Encode; what is given back writes it."""
        engine = self.targets.engine
        if events[0].op == "copy":
            safely = partial(prepare, prepare=prepare_safely)
            return prepare_copies(engine, target, events, prepare=safely, **self.asking)
        return partial(write_prepared, engine, target, prepare(target, events), **self.asking)

    def _prepare(
        self,
        target: Target,
        events: Sequence[Event],
        prepare: Prepare = prepare_all,
        between: Callable[[], object] | None = None,
    ) -> Prepared:
        with self.heartbeat.encoding(target.alias, between):
            return prepare(target, events)

    def _update(self, target: Target, taken: Sequence[Delivered]) -> None:
        """Apply partial updates: each reads its document first, so that nothing is prepared ahead."""
        self.finish_writing()
        events, span = [one.event for one in taken], self._begun(target, taken)
        apply = partial(apply_updates, self.targets.engine, target, events, prepare=self._prepare, **self.asking)
        try:
            with span.inside(), self.heartbeat.holding(target.alias, taken):
                self.guarded(target, taken, apply)
        finally:
            span.end()

    def finish_writing(self) -> bool:
        """Wait until nothing is being written; whether there was something."""
        writing, self.writing = self.writing, None
        if writing:
            writing.result()
        return writing is not None

    def _write(
        self,
        target: Target,
        taken: Sequence[Delivered],
        write: Callable[[], BatchReport],
        encoding: float,
        span: telemetry.Span,
    ) -> None:
        try:
            with span.inside():
                self.guarded(target, taken, write, encoding)
        finally:
            span.end()
            self.heartbeat.let_go(taken)
