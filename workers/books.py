"""The books of a drain: what became of each batch, and how the log is told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from ..errors import AccessDenied, EncoderError, EngineError, IndexMissing, KnnexError, LogUnavailable, SpecError
from ..ingest import BatchReport, Buried, Delivered, EventLog, Target
from ..ingest.reindex.orders import as_look
from .figures import Figures
from .pauses import BURY_ANYWAY, Storm

log = logging.getLogger(__name__)

# Seconds until events are tried again whose index or model cannot be used, or whose engine is busy.
UNUSABLE_DELAY, BUSY_DELAY = 5.0, 1.0

# Seconds for which producers are told why an index has to wait, if nothing more is heard of it.
RESTING_TOLD = 60.0

#: Errors that do not pass by themselves: the index waits until somebody mends it.
UNUSABLE = (EncoderError, IndexMissing, SpecError, AccessDenied)


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


class Books:
    """What one drain has done, and does for each batch in the end; its writer is a thread of its own."""

    def __init__(self, log: EventLog, consumer: str, lease: float, figures: Figures | None) -> None:
        self.log, self.consumer, self.lease = log, consumer, lease
        self.figures = figures or Figures()
        self.report = DrainReport()
        self.resting: set[str] = set()
        self._storms: dict[str, Storm] = {}
        self._overridden: set[str] = set()
        self._adding = threading.Lock()

    def add(self, more: DrainReport) -> None:
        """Count."""
        with self._adding:
            self.report += more

    def drained(self, index: str) -> None:
        """Nothing waits any more: refused documents are watched again."""
        if index in self._overridden:
            self._overridden.discard(index)
            self.log.remember(index, BURY_ANYWAY, None)

    def guarded(
        self, target: Target, taken: Sequence[Delivered], write: Callable[[], BatchReport], encoding: float = 0.0
    ) -> None:
        """Write and settle; what could not be written for now is handed back."""
        began = time.monotonic()
        try:
            done = write()
            self._settle(target, taken, done, encoding, time.monotonic() - began)
        except (*UNUSABLE, EngineError) as error:
            self.put_off(target, taken, error)

    def put_off(self, target: Target, taken: Sequence[Delivered], error: KnnexError) -> None:
        """Hand back what could not be written; where the model or the index is unusable, that waits to be mended."""
        unusable = isinstance(error, UNUSABLE)
        (self.pause if unusable else self.rest)(target.alias, error)
        self.hand_back(target.alias, taken, UNUSABLE_DELAY if unusable else BUSY_DELAY)

    def _settle(
        self, target: Target, taken: Sequence[Delivered], done: BatchReport, encoding: float, writing: float
    ) -> None:
        storm = self._storms.setdefault(target.alias, Storm())
        # An update of a document that is not there says nothing about mapping or producer.
        refused = [one for one in done.buried if one.event.op != "update"]
        if storm.rises(len(refused), len(taken) - len(done.failed)):
            if self.log.recall(target.alias, BURY_ANYWAY):
                self._overridden.add(target.alias)
            else:
                self.pause(target.alias, KnnexError(storm.reason(refused[0].reason if refused else "")))
                self._storms[target.alias] = Storm()
                kept = [one for one in done.buried if one.event.op == "update"]
                done = replace(done, failed=(*done.failed, *refused), buried=tuple(kept))
        failed = {casualty.event.position for casualty in done.failed}
        behind = {casualty.event.position for casualty in done.behind}
        attempts = {one.position: one.deliveries for one in taken}
        buried = [
            Buried(at, casualty.event, casualty.reason, attempts.get(at, 1))
            for casualty in (*done.buried, *done.refused_beside)
            if (at := casualty.event.position)
        ]
        settled = [one.position for one in taken if one.position not in failed | behind]
        self.log.settle(target.alias, settled, buried, done.counts)
        self.figures.record(
            target.alias, settled, done, encode_seconds=encoding, write_seconds=writing, now=self.log.now()
        )
        self._tell(target.alias, done, len(taken), encoding + writing)
        if failed and target.alias not in self.resting:
            self.rest(target.alias, EngineError(done.failed[0].reason))
        if failed:
            self.hand_back(target.alias, [one for one in taken if one.position in failed], BUSY_DELAY)
        if behind:
            self.wait_beside(target, [one for one in taken if one.position in behind], done.behind[0].reason)
        self.add(
            DrainReport(
                written=done.written,
                stale=done.stale,
                deleted=done.deleted,
                buried=len(buried),
                encoded=done.encoded,
                cached=done.cached,
            )
        )

    def bury(self, target: Target, one: Delivered, reason: str) -> None:
        """Bury one event."""
        grave = Buried(one.position, as_look(one.event), reason, one.deliveries)
        self.log.settle(target.alias, [one.position], [grave])
        self.add(DrainReport(buried=1))
        log.warning("Buried %s of %s: %s", one.event.id, target.alias, reason, extra={"action": "buried"})

    def hand_back(self, index: str, taken: Sequence[Delivered], delay: float) -> None:
        """Hand events back that could not be written; this drain does nothing more about their index."""
        self.resting.add(index)
        self.figures.retried(index, len(taken))
        self.give_back(index, taken, delay)

    def rests(self, index: str) -> bool:
        """Whether nothing more is done about an index in this drain."""
        return index in self.resting

    def give_back(self, index: str, taken: Sequence[Delivered], delay: float) -> None:
        """Hand events back, to be taken again after `delay` seconds."""
        self.add(DrainReport(handed_back=len(taken)))
        try:
            self.log.release(index, self.consumer, taken, self.lease, delay)
        except LogUnavailable as error:  # then they are reclaimed when the lease is over
            log.warning("Could not hand back %d events of %s: %s", len(taken), index, error, extra={"action": "kept"})

    def pause(self, index: str, error: KnnexError) -> None:
        """Leave an index alone until what is wrong with it is mended."""
        reason = f"{error}" + (f" ({error.hint})" if error.hint else "")
        self.resting.add(index)
        if self.log.paused(index) != reason:
            log.error("Leaving %s alone: %s", index, reason, extra={"action": "index_paused", "index": index})
            self.log.pause(index, reason)

    def rest(self, index: str, error: KnnexError) -> None:
        """Leave an index alone for this drain: its engine has to catch its breath."""
        self.resting.add(index)
        if self.log.rest(index, str(error), RESTING_TOLD):
            log.warning("%s rests for a while: %s", index, error, extra={"action": "index_resting", "index": index})

    def wait_beside(self, target: Target, taken: Sequence[Delivered], reason: str) -> None:
        """Hand back what the index has and a version index beside it has not; the index itself goes on."""
        index = target.alias
        self.figures.retried(index, len(taken))
        self.give_back(index, taken, UNUSABLE_DELAY if target.shut else BUSY_DELAY)
        if self.log.rest(index, reason, RESTING_TOLD):
            log.warning(
                "%d documents of %s wait for its next version: %s",
                len(taken),
                index,
                reason,
                extra={"action": "beside_waits", "index": index},
            )

    @staticmethod
    def _tell(index: str, done: BatchReport, taken: int, took: float) -> None:
        for casualty in (*done.buried, *done.refused_beside):
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
                "buried": len(done.buried) + len(done.refused_beside),
                "encoded": done.encoded,
            },
        )
