"""`knnex worker`: a thin front to Celery's own worker, with lines a person reads."""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from contextlib import suppress
from typing import Any

from ..errors import LogUnavailable, SettingsError
from ..settings import Settings, settings
from .app import QUEUE, make_app

log = logging.getLogger(__name__)

POOLS = ("solo", "threads", "prefork")


def run_worker(
    url: str | None = None,
    redis_url: str | None = None,
    *,
    name: str | None = None,
    pool: str = "solo",
    concurrency: int = 1,
    verbose: bool = False,
) -> int:
    """Run a worker until SIGTERM or SIGINT; its exit code. A first signal finishes the batch at hand.

    Engine and log are those of the settings where no URL is given. Raises SettingsError, LogUnavailable for an unsafe
    or absent Redis, EngineUnreachable, AccessDenied.
    """
    given = {key: value for key, value in {"url": url, "redis_url": redis_url}.items() if value}
    ours = settings().model_copy(update=given)
    check_pool(pool, ours)
    _log_to_terminal(verbose)
    app = make_app(ours, name)
    worker = app.knnex_worker
    worker.preloads = pool != "prefork"
    worker.log.check()
    engine = worker.engine
    for index in worker.log.indexes():
        worker.log.pause(index, None)  # perhaps this worker can do what another could not
    celery = _celery_worker(app, pool, concurrency, verbose)
    log.info(
        "Worker %s waits for documents: %s at %s, log at %s",
        worker.name,
        engine.dialect,
        engine.address,
        worker.log.address,
        extra={"action": "worker_started", "worker": worker.name},
    )
    try:
        celery.start()
    finally:
        worker.stop.set()
        with suppress(LogUnavailable):  # then it is forgotten by itself
            worker.log.retire(worker.name)
    log.info("Worker %s has stopped", worker.name, extra={"action": "worker_stopped", "worker": worker.name})
    return int(celery.exitcode or 0)


def check_pool(pool: str, ours: Settings) -> None:
    """Raises SettingsError for a pool that is unknown, or cannot share a GPU between processes."""
    if pool not in POOLS:
        raise SettingsError(f"there is no pool {pool!r}", hint=f"choose one of {', '.join(POOLS)}")
    # Asking torch would itself initialise CUDA, after which no child process could use it.
    gpu = (ours.device or "").startswith("cuda") or (ours.device is None and shutil.which("nvidia-smi"))
    if pool == "prefork" and gpu:
        raise SettingsError("CUDA does not survive the fork of pool 'prefork'", hint="use --pool solo or threads")


def _celery_worker(app: Any, pool: str, concurrency: int, verbose: bool) -> Any:
    from celery.exceptions import SecurityWarning
    from celery.signals import setup_logging

    setup_logging.connect(_keep_logging, weak=False)
    if not verbose:
        # That it runs as root is of no concern where nothing but JSON is accepted.
        warnings.filterwarnings("ignore", category=SecurityWarning)
    return app.Worker(
        hostname=f"knnex@{app.knnex_worker.name}",
        pool=pool,
        concurrency=concurrency,
        queues=[QUEUE],
        loglevel="INFO" if verbose else "WARNING",
        quiet=not verbose,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )


def _keep_logging(**_: Any) -> None:
    """That somebody listens to this signal keeps Celery from setting up logging by itself."""


def _without_traces(record: logging.LogRecord) -> bool:
    """Where a connection breaks, Celery prints pages of its own and other libraries' lines; the message says it."""
    if not record.name.startswith("knnex") and record.exc_info:
        record.exc_info = record.exc_text = None
    return True


def _log_to_terminal(verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    if not verbose:
        handler.addFilter(_without_traces)
    for name, level in (("knnex", logging.INFO), ("celery", logging.WARNING), ("kombu", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if verbose else level)
        logger.propagate = False
