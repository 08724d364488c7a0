"""What begins and ends with Celery's own worker: checks before it, the sweeper beside it, a farewell after it.

Signals of Celery, so that it is the same for `knnex worker`, for `celery -A knnex.workers.celery worker` and for
workers of other applications that listen to our queues; in those that do not, nothing of this happens.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import Any

from ..encoders import import_libraries, keep_memory
from ..errors import KnnexError, LogUnavailable
from .alive import Pulse, beat_name
from .app import Bell, in_memory, worker_of
from .queues import DRAINING, INGEST, TASK, queue_of
from .sweeper import Sweeper
from .worker import Worker, preload_safely

log = logging.getLogger(__name__)

_PULSE_EVERY = 5.0
# Seconds for which the end of the sweeper is awaited; longer only where the log does not answer.
_LAST_LOOK = 5.0

#: What runs in this process: of each Celery application its worker and the sweeper.
_running: dict[int, tuple[Worker, Sweeper]] = {}


def connect() -> None:
    """Follow Celery's signals; doing it twice changes nothing."""
    from celery import signals

    signals.worker_init.connect(_starting, dispatch_uid="knnex", weak=False)
    signals.worker_ready.connect(_started, dispatch_uid="knnex", weak=False)
    signals.worker_process_init.connect(_forked, dispatch_uid="knnex", weak=False)
    signals.task_received.connect(_received, dispatch_uid="knnex", weak=False)
    signals.worker_shutting_down.connect(_stopping, dispatch_uid="knnex", weak=False)
    signals.beat_init.connect(_beating, dispatch_uid="knnex", weak=False)
    signals.worker_shutdown.connect(_stopped, dispatch_uid="knnex", weak=False)


def queues_heard(app: Any) -> frozenset[str]:
    """Those of our queues of doorbells that a worker of this application listens to."""
    return DRAINING & set(app.amqp.queues.consume_from)


def pool_name(pool: object) -> str:
    """`prefork`, `threads` or `solo`, of a name, a class or a pool that runs."""
    name = pool if isinstance(pool, str) else getattr(pool, "__module__", type(pool).__module__)
    last = str(name).rpartition(".")[2].partition(":")[0]
    return {"thread": "threads", "processes": "prefork"}.get(last, last)


def _starting(sender: Any = None, **_: Any) -> None:
    """Celery swallows exceptions here, but not this one, which ends the process."""
    app = sender.app
    if not queues_heard(app):
        return
    keep_memory()
    worker = worker_of(app)
    worker.preloads = pool_name(sender.pool_cls) != "prefork"
    if not worker.preloads:  # models are loaded by the children, and again by each one that takes the place of another
        import_libraries()
    if getattr(app, "knnex_began", False):
        return
    try:
        check_pool(pool_name(sender.pool_cls), worker)
        worker.begin()
    except KnnexError as error:
        log.critical("%s%s", error, f" ({error.hint})" if error.hint else "", extra={"action": "not_started"})
        raise SystemExit(1) from None


def check_pool(pool: str, worker: Worker) -> None:
    """Raises SettingsError for a pool that cannot share a GPU between processes."""
    from .run import check_pool as check

    check(pool, worker.settings)


def _started(sender: Any = None, **_: Any) -> None:
    app, consumer = sender.app, sender
    if not queues_heard(app) or id(app) in _running:
        return
    worker = worker_of(app)
    limit = int(getattr(consumer.pool, "limit", 1) or 1)
    worker.gives_way = limit == 1 or pool_name(consumer.pool) == "prefork"
    own = queue_of(worker.kind)
    heard = queues_heard(app)
    bell = Bell(app, own if own in heard else sorted(heard)[0])
    sweeper = Sweeper(worker, bell, Pulse(worker.settings, worker.name).beat)
    _running[id(app)] = worker, sweeper
    sweeper.start()
    if worker.preloads:
        # No daemon: a process that ends while a library is being imported may crash.
        threading.Thread(target=preload_safely, args=(worker,), name="knnex-preload").start()
    if getattr(app, "knnex_beats", False):
        from celery.beat import EmbeddedService

        app.knnex_beat = EmbeddedService(app, thread=True, scheduler_cls="celery.beat:Scheduler")
        app.knnex_beat.start()
    log.debug("Listening to %s, memory %s", ", ".join(sorted(heard)), in_memory(app))


def _beating(sender: Any = None, **_: Any) -> None:
    """`celery beat` has no sweeper, only a pulse."""
    worker = getattr(sender.app, "knnex_worker", None)
    if worker is None:  # somebody else's
        return
    pulse = Pulse(worker.settings, beat_name())

    def run() -> None:
        while not worker.stop.wait(_PULSE_EVERY):
            pulse.beat()

    pulse.beat()
    threading.Thread(target=run, name="knnex-pulse", daemon=True).start()


def _forked(**_: Any) -> None:
    """In a child of pool prefork, and, where Celery knows no children, in the process itself."""
    from billiard.process import current_process  # type: ignore[import-untyped, unused-ignore]

    slot = int(getattr(current_process(), "index", 0) or 0) + 1
    for worker in _every_worker():
        worker.forked(slot)


def _every_worker() -> list[Worker]:
    """Those of all applications in this process: a pool forks before its worker is ready."""
    from celery._state import _get_active_apps

    return [worker for app in _get_active_apps() if (worker := app.__dict__.get("knnex_worker"))]


def _received(sender: Any = None, request: Any = None, **_: Any) -> None:
    if found := _running.get(id(getattr(sender, "app", None))):
        worker, sweeper = found
        if request.name == TASK:
            sweeper.heard()
        elif request.name == INGEST and worker.gives_way:
            worker.stop.give_way(True)


def _stopping(**_: Any) -> None:
    for worker, _sweeper in _running.values():
        worker.stop.set()


def _stopped(sender: Any = None, **_: Any) -> None:
    found = _running.pop(id(getattr(sender, "app", None)), None)
    if found:
        worker, sweeper = found
        worker.stop.set()
        sweeper.join(_LAST_LOOK)  # what it says after the farewell would be believed
        if beat := getattr(sender.app, "knnex_beat", None):
            beat.service.stop()
        Pulse(worker.settings, worker.name).end()
        with suppress(LogUnavailable):  # then it is forgotten by itself
            worker.log.retire(worker.name)
