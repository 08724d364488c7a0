"""Encoding and writing in the producer's process, without log and workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..engines import Engine
from ..errors import IngestIncomplete
from .apply import BatchReport, apply_events
from .beside import renewed
from .events import Op
from .inline_updates import update_events
from .patience import Patience
from .prepare import Target
from .report import Report
from .sources import Files, length_of
from .tally import OnProgress, Tally, Window
from .windows import CHECK_AT_ONCE, WINDOW, WINDOW_BYTES, cut, tombstones

log = logging.getLogger(__name__)


def ingest_inline(
    engine: Engine,
    target: Target,
    documents: Iterable[Any],
    progress: OnProgress | None = None,
    *,
    op: Op = "upsert",
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Report:
    """Encode and write in this process, without log and workers; the same documents end the same way.

    An update is applied to the document as the index holds it, and again if that changes meanwhile. What lies behind
    the alias, and is announced beside it, is asked again from time to time.

    Raises IngestIncomplete where the engine stays busy, or a version index beside does not take what the index has;
    EncoderError where the model fails on everything.
    """
    tally = Tally(engine, target.spec, progress, length_of(documents))
    clock = Clock()
    windows: list[Window] = []
    buried: dict[str, str] = {}

    def reasons(_: Sequence[str]) -> dict[str, str]:
        return buried

    if op == "delete" and not isinstance(documents, Files):
        documents = tombstones(engine, target.spec, documents)
    for events in cut(tally.accept(documents, op), WINDOW, WINDOW_BYTES):
        target = renewed(engine, target, patience=patience, sleep=sleep)
        stamped = [event if event.version else replace(event, version=clock.next()) for event in events]
        if op == "update" and not target.spec.version:
            done, stamped = update_events(engine, target, stamped, patience=patience, sleep=sleep)
        else:
            done = apply_events(engine, target, stamped, patience=patience, sleep=sleep)
        _refuse_failed(target, done)
        _tell_refused(target, done)
        tally.encoded += done.encoded
        tally.cached += done.cached
        buried.update({casualty.event.id: casualty.reason for casualty in done.buried})
        windows.append(Window.of(stamped))
        if len(windows) >= CHECK_AT_ONCE:
            tally.check(windows, reasons)
            windows = []
            buried.clear()
        tally.show()
    tally.total = tally.read
    tally.check(windows, reasons)
    return tally.report()


def delete_inline(engine: Engine, target: Target, ids: Iterable[Any], progress: OnProgress | None = None) -> Report:
    """`delete` without log and workers."""
    return ingest_inline(engine, target, ids, progress, op="delete")


class Clock:
    """Versions where no log gives any: milliseconds << 20, and in any case more than the last."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """The next version."""
        self._last = max(self._last + 1, time.time_ns() // 1_000_000 << 20)
        return self._last


def _refuse_failed(target: Target, done: BatchReport) -> None:
    if done.failed:
        raise IngestIncomplete(
            f"{len(done.failed)} documents could not be written to {target.alias!r}: {done.failed[0].reason}",
            hint="the engine is overloaded or blocked: `knnex doctor`; then send the documents again",
        )
    if done.behind:
        raise IngestIncomplete(
            f"{len(done.behind)} documents are in {target.alias!r}, but not in its next version: "
            f"{done.behind[0].reason}",
            hint="send the documents again; or give up the next version, if it is not wanted any more",
        )


def _tell_refused(target: Target, done: BatchReport) -> None:
    for one in done.refused_beside:
        log.warning(
            "%s is in %s, but %s",
            one.event.id,
            target.alias,
            one.reason,
            extra={"action": "refused_beside", "index": target.alias},
        )
