"""The Celery side of a worker: a doorbell without content, and the threads around it.

Celery on Redis loses messages when connections are cut and redelivers late; so a message here carries nothing. It only
wakes a worker, which then looks into the log; a sweeper in every worker rings again where a doorbell got lost.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..encoders import VectorCache
from ..engines import Engine, open_engine
from ..engines.places import access, engine_url, log_url
from ..errors import KnnexError, LogUnavailable
from ..ingest import RedisLog
from ..settings import Settings
from .drain import DrainReport, drain
from .targets import Targets

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger(__name__)

TASK = "knnex.drain"
QUEUE = "knnex"
# Seconds: how often a worker says that it lives, for how long that is believed, how often the sweeper looks.
ANNOUNCE_EVERY, ANNOUNCE_TTL = 3.0, 10.0
SWEEP_EVERY, SHORTEST_SWEEP = 1.0, 0.02
# Events in another worker's hands need no doorbell, unless that worker died: look as often as that.
SWEEP_PENDING_EVERY = 5.0
_LOOK_IDLE = 0.1


class Worker:
    """One process that drains the log; connections and models are opened when they are first needed."""

    def __init__(self, settings: Settings, name: str | None = None) -> None:
        self.settings = settings
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        # Not where children are forked: neither threads nor a GPU survive that.
        self.preloads = True
        self.stop = threading.Event()
        self._draining = threading.Lock()
        self._since = time.strftime("%Y-%m-%d %H:%M:%S")

    @cached_property
    def log(self) -> RedisLog:
        """The event log."""
        return RedisLog(log_url(self.settings))

    @cached_property
    def engine(self) -> Engine:
        """The engine. Raises EngineUnreachable, AccessDenied."""
        return open_engine(engine_url(self.settings), access(self.settings))

    @cached_property
    def targets(self) -> Targets:
        """The indexes, with their models."""
        self.settings.cache_dir.mkdir(parents=True, exist_ok=True)
        return Targets(self.engine, VectorCache(self.settings.cache_dir / "vectors.sqlite"))

    def drain(self) -> DrainReport:
        """Drain the log; a second thread of this process leaves at once, since one model serves one thread best."""
        if not self._draining.acquire(blocking=False):
            return DrainReport()
        try:
            return drain(
                self.log,
                self.targets,
                # Of this very process, whatever it is called: claims on events are told apart by it.
                consumer=f"{socket.gethostname()}-{os.getpid()}",
                batch=self.settings.batch,
                lease=self.settings.lease,
                stop=self.stop,
            )
        finally:
            self._draining.release()

    def preload(self) -> None:
        """Load the models of the indexes in the log whenever nothing is to be drained, so that no batch has to wait."""
        for index in self.log.indexes():
            while self._draining.locked() and not self.stop.wait(_LOOK_IDLE):
                pass
            if self.stop.is_set():
                return
            try:
                self.targets.get(index)
            except KnnexError as error:  # a drain says so, should there be anything to do for this index
                log.debug("No model preloaded for %s: %s", index, error, extra={"action": "preload_failed"})

    def facts(self) -> dict[str, Any]:
        """What others may know of this worker."""
        known = self.targets.facts() if "targets" in self.__dict__ else {}
        here = {"device": self.settings.device or "", "model": ""} | known
        return here | {"pid": os.getpid(), "host": socket.gethostname(), "since": self._since}


def make_app(settings: Settings, name: str | None = None) -> Celery:
    """The Celery application: the task `knnex.drain` on the queue `knnex`, JSON only, no results, no retries."""
    from celery import Celery

    app = Celery("knnex", broker=log_url(settings), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue=QUEUE,
        # A doorbell may be lost: the sweeper rings again. One that is redelivered after a crash would crash again.
        task_acks_late=False,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 600,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 30,
            # For who rings; a worker reconnects for as long as it takes (broker_connection_max_retries).
            "max_retries": 1,
            "interval_start": 0.1,
        },
    )
    worker = Worker(settings, name)

    @app.task(name=TASK, shared=False)  # type: ignore[untyped-decorator, unused-ignore]
    def drain_log() -> None:
        drain_safely(worker)

    app.knnex_worker = worker
    _follow(app, worker)
    return app


def drain_safely(worker: Worker) -> None:
    """Drain; an error is logged and nothing is raised: Celery ends its process on a MemoryError, and events wait."""
    try:
        worker.drain()
    except KnnexError as error:
        log.error("%s", error, extra={"action": "drain_failed"})
    except Exception:
        log.exception("A drain failed; its events are tried again", extra={"action": "drain_failed"})


def preload_safely(worker: Worker) -> None:
    """Preload; what fails now fails again, and is told, when it is needed."""
    try:
        worker.preload()
    except Exception:
        log.debug("Models are loaded when they are needed", exc_info=True, extra={"action": "preload_failed"})


def ring(app: Celery) -> Callable[[], None]:
    """The doorbell: wakes a worker. Raises LogUnavailable where the broker does not answer."""

    def press() -> None:
        from kombu.exceptions import OperationalError

        try:
            app.send_task(TASK, ignore_result=True)
        except (OperationalError, OSError) as error:
            raise LogUnavailable(f"no doorbell: {error}") from None

    return press


def _follow(app: Celery, worker: Worker) -> None:
    """Start and stop the sweeper with Celery's own worker."""
    from celery.signals import worker_process_init, worker_ready, worker_shutting_down

    sweeper = Sweeper(worker, ring(app))

    def started(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "app", None) is app:
            sweeper.start()
            if worker.preloads:
                # No daemon: a process that ends while a library is being imported may crash.
                threading.Thread(target=preload_safely, args=(worker,), name="knnex-preload").start()

    def stopping(**_: Any) -> None:
        worker.stop.set()

    def forked(**_: Any) -> None:
        # Connections of the parent are of no use in a child of pool prefork.
        for name in ("engine", "log", "targets"):
            worker.__dict__.pop(name, None)

    worker_process_init.connect(forked, weak=False)
    worker_ready.connect(started, weak=False)
    worker_shutting_down.connect(stopping, weak=False)


class Sweeper(threading.Thread):
    """Says that the worker lives, and rings where events wait and no doorbell does."""

    def __init__(self, worker: Worker, press: Callable[[], None]) -> None:
        super().__init__(name="knnex-sweeper", daemon=True)
        self._worker, self._press = worker, press
        self._announced = self._looked = 0.0
        self._cut_off = False

    def run(self) -> None:
        """Until the worker stops."""
        while not self._worker.stop.is_set():
            try:
                self.sweep()
                if self._cut_off:
                    log.warning("%s answers again", self._worker.log.address, extra={"action": "log_back"})
                    self._cut_off = False
                # A stream of appends would otherwise keep this loop spinning.
                self._worker.stop.wait(SHORTEST_SWEEP if self._worker.log.wait(SWEEP_EVERY) else 0)
            except LogUnavailable as error:
                log.log(logging.DEBUG if self._cut_off else logging.WARNING, "%s", error, extra={"action": "cut_off"})
                self._cut_off = True
                self._worker.stop.wait(SWEEP_EVERY)
            except Exception:  # without the sweeper a worker would look dead and hear no lost doorbell
                log.exception("A look into the log failed", extra={"action": "sweep_failed"})
                self._worker.stop.wait(SWEEP_EVERY)

    def sweep(self) -> None:
        """One look."""
        now = time.monotonic()
        if now - self._announced >= ANNOUNCE_EVERY:
            self._worker.log.announce(self._worker.name, self._worker.facts(), ANNOUNCE_TTL)
            self._announced = now
        if self._waiting(now) and not self._worker.log.redis.llen(QUEUE):
            self._press()

    def _waiting(self, now: float) -> bool:
        backlogs = [self._worker.log.backlog(index) for index in self._worker.log.indexes()]
        if any(backlog.undelivered for backlog in backlogs):
            return True
        if now - self._looked >= SWEEP_PENDING_EVERY:
            self._looked = now
            return any(backlog.pending for backlog in backlogs)
        return False
