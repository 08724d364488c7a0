"""What requests are served from: the engine, the log, the specs of the indexes, and how much waits for them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from ..engines import Engine, Flow, open_engine
from ..engines import Request as Ask
from ..engines.places import access, engine_url, log_url
from ..errors import EngineBusy, EngineUnreachable, IndexMissing, SpecMismatch
from ..ingest import EventLog, Lane, open_log
from ..ingest.positions import split
from ..mappings import Spec, load
from ..mappings.attach import check_own_writes
from ..settings import Settings
from .answers import Declined

log = logging.getLogger(__name__)

# Seconds for which it is believed what the cluster holds, and how much waits in the log.
_FRESH, _COUNTED = 1.0, 0.5
# Seconds to wait for an engine that answers slowly, where it told the spec before.
_PATIENCE = 1.0
# Milliseconds: an index that rests or is paused keeps producers away once its oldest event has waited that long.
_LONG = 300_000
# Seconds after which a producer may come back: when workers have caught up a little, when an engine may be mended.
_CATCHING_UP, _RESTING = 5, 30


@dataclass(frozen=True, slots=True)
class _Known:
    spec: Spec
    asked: float


class Backend:
    """Engine and log of the settings, opened when they are first needed; all methods block, and are thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._engine: Engine | None = None
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, Future[Spec]] = {}
        self._counted: dict[str, tuple[float, int, str | None]] = {}
        self._threads = ThreadPoolExecutor(4, "knnex-specs")

    @cached_property
    def log(self) -> EventLog:
        """The event log."""
        return open_log(log_url(self.settings))

    def engine(self) -> Engine:
        """The engine. Raises EngineUnreachable, AccessDenied."""
        with self._opening:
            if self._engine is None:
                self._engine = open_engine(engine_url(self.settings), access(self.settings))
            return self._engine

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._engine is not None:
            self._engine.close()
        if "log" in self.__dict__:
            self.log.close()

    def ping(self) -> None:
        """Ask the engine for a sign of life. Raises EngineError."""
        self.engine().run(_ping())

    def spec(self, index: str) -> Spec:
        """The spec of an index, asked of the engine once a second.

        An engine that is away keeps nobody from sending events: what it told before holds until it is back.
        Raises IndexMissing, SpecMismatch, EngineError.
        """
        if not index[:1].isalnum():  # such as two dots, which clients would take for the way up
            raise IndexMissing(f"{index!r:.80} is no name of an index", hint="name one index, as its spec does")
        known = self._known.get(index)
        if known and time.monotonic() - known.asked < _FRESH:
            return known.spec
        with self._lock:
            asked = self._asking.get(index)
            if asked is None:
                asked = self._asking[index] = self._threads.submit(self._ask, index)
        try:
            return asked.result(_PATIENCE if known else None)
        except (TimeoutError, EngineUnreachable, EngineBusy) as failure:
            if known is None:
                raise
            self._known[index] = _Known(known.spec, time.monotonic())  # not asked again by every request
            log.debug("The spec of %s as it was: %s", index, failure, extra={"action": "spec_kept", "index": index})
            return known.spec

    def _ask(self, index: str) -> Spec:
        try:
            stored = self.engine().run(load(index))
            check_own_writes(stored)
            spec = stored.spec
            if spec.index != index:
                raise IndexMissing(
                    f"{index!r} is no name of its own: it is a version of the index {spec.index!r}",
                    hint=f"post to /indexes/{spec.index}/events",
                )
            self._known[index] = _Known(spec, time.monotonic())
            return spec
        except (IndexMissing, SpecMismatch):
            self._known.pop(index, None)
            raise
        finally:
            with self._lock:
                self._asking.pop(index, None)

    def check_room(self, index: str) -> None:
        """Keep producers waiting where too much waits already, or where an index has been at rest for long.

        Raises Declined (429), LogUnavailable.
        """
        waiting, oldest = self._waiting(index)
        most = self.settings.max_waiting
        if waiting >= most:
            raise Declined(
                429,
                f"{waiting:,} events of {index!r} wait to be embedded, and no more than {most:,} may",
                "send it again later; more workers are faster (`knnex worker`), KNNEX_MAX_WAITING allows more",
                {"Retry-After": str(_CATCHING_UP)},
            )
        if oldest and self.log.now() - split(oldest)[0] > _LONG and (reason := self._at_rest(index)):
            raise Declined(
                429,
                f"index {index!r} is not written at present: {reason}",
                "send it again later; `knnex doctor` says what is wrong",
                {"Retry-After": str(_RESTING)},
            )

    def count_in(self, index: str, more: int) -> None:
        """Note that events were appended, so that a crowd of producers is not let in on one old count."""
        with self._lock:
            if index in self._counted:
                at, waiting, oldest = self._counted[index]
                self._counted[index] = at, waiting + more, oldest

    def _waiting(self, index: str) -> tuple[int, str | None]:
        at, waiting, oldest = self._counted.get(index, (0.0, 0, None))
        if time.monotonic() - at > _COUNTED:
            backlog = self.log.backlog(index)
            at, waiting, oldest = time.monotonic(), backlog.total, backlog.low_water
            with self._lock:
                self._counted[index] = at, waiting, oldest
        return waiting, oldest

    def _at_rest(self, index: str) -> str | None:
        lanes: Collection[Lane] = ("live", "backfill", "updates")
        paused = self.log.paused(index) or next((why for lane in lanes if (why := self.log.paused(index, lane))), None)
        return paused or self.log.resting(index)


def _ping() -> Flow[None]:
    # Who may not ask for its health has an answer all the same.
    yield Ask("GET", "/_cluster/health", {"filter_path": "status"}, allow=frozenset({403}))
