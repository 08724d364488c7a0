"""Keeping a claim on events while they are encoded and written."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from ..errors import LogUnavailable
from ..ingest import Delivered, EventLog

log = logging.getLogger(__name__)


class Heartbeat:
    """A thread that renews the claim on all batches at hand, three times in a lease."""

    def __init__(self, log: EventLog, consumer: str, lease: float) -> None:
        self._log, self._consumer, self._every = log, consumer, lease / 3
        self._held: dict[int, tuple[str, list[str]]] = {}
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

    def hold(self, index: str, batch: Sequence[Delivered]) -> None:
        """Renew the claim on this batch from now on."""
        self._held[id(batch)] = (index, [one.position for one in batch])

    def let_go(self, batch: Sequence[Delivered]) -> None:
        """Renew it no more."""
        self._held.pop(id(batch), None)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            for index, positions in list(self._held.values()):
                try:
                    owned = self._log.heartbeat(index, self._consumer, positions)
                except LogUnavailable as error:
                    log.warning("No heartbeat: %s", error, extra={"action": "heartbeat_failed", "index": index})
                    continue
                if len(owned) < len(positions):
                    # Harmless: what we still write of them is refused as stale where it is.
                    log.debug("%d events of %s are another's now", len(positions) - len(owned), index)
