"""Keeping a claim on events while they are encoded and written, and ending a worker whose model hangs."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from ..encoders.pulse import watched
from ..errors import LogUnavailable
from ..ingest import Delivered, EventLog

log = logging.getLogger(__name__)

#: With this code a worker ends itself, to be started again: EX_SOFTWARE of sysexits.h.
HUNG = 70


class Heartbeat:
    """A thread that renews the claim on all batches at hand, five times in a lease.

    Where the model has not answered for `deadline` seconds, it ends the process with code 70 and without clearing up:
    nothing else ends a thread that hangs. Whoever supervises the worker starts it again, and another one reclaims its
    events, as suspects. Time that passes while the engine is waited for does not count.
    """

    def __init__(self, log: EventLog, consumer: str, lease: float, deadline: float | None = None) -> None:
        self._log, self._consumer, self._deadline = log, consumer, deadline
        self._every = min(lease / 5, deadline / 2) if deadline else lease / 5
        self._held: dict[int, tuple[str, list[str]]] = {}
        # By thread, the index whose texts are at the model, and when it was last heard of.
        self._encoding: dict[int, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="knnex-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def holding(self, index: str, batch: Sequence[Delivered]) -> Iterator[None]:
        """Hold a batch as long as the block lasts; for two threads see `hold` and `let_go`."""
        self.hold(index, batch)
        try:
            yield
        finally:
            self.let_go(batch)

    @contextmanager
    def encoding(self, index: str, between: Callable[[], object] | None = None) -> Iterator[None]:
        """What this thread does in the block is done by the model, which must answer within the deadline; not so what
        is done `between` two of its answers."""
        thread = threading.get_ident()

        def pulse() -> None:
            self._encoding.pop(thread, None)
            if between:
                between()
            self._encoding[thread] = (index, time.monotonic())

        pulse()
        try:
            with watched(pulse):
                yield
        finally:
            self._encoding.pop(thread, None)

    def hold(self, index: str, batch: Sequence[Delivered]) -> None:
        """Renew the claim on this batch from now on."""
        self._held[id(batch)] = (index, [one.position for one in batch])

    def let_go(self, batch: Sequence[Delivered]) -> None:
        """Renew it no more."""
        self._held.pop(id(batch), None)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._look_at_model()
            self._renew()

    def _look_at_model(self) -> None:
        for index, heard in list(self._encoding.values()):
            silent = time.monotonic() - heard
            if self._deadline and silent > self._deadline:
                log.error(
                    "The model of %s has not answered for %.0f s (KNNEX_DEADLINE): this worker ends, and its supervisor"
                    " should start it again",
                    index,
                    silent,
                    extra={"action": "encoder_hung", "index": index},
                )
                os._exit(HUNG)

    def _renew(self) -> None:
        for index, positions in list(self._held.values()):
            try:
                owned = self._log.heartbeat(index, self._consumer, positions)
            except LogUnavailable as error:
                log.warning("No heartbeat: %s", error, extra={"action": "heartbeat_failed", "index": index})
                continue
            if len(owned) < len(positions):
                # Harmless: what we still write of them is refused as stale where it is.
                log.debug("%d events of %s are another's now", len(positions) - len(owned), index)
