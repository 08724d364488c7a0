"""`knnex worker`: a thin front to `celery worker`, with lines a person reads."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ..errors import LogUnavailable, SettingsError
from ..settings import Settings, settings
from ..telemetry import formatter
from .app import make_app
from .queues import kind_of

log = logging.getLogger(__name__)

POOLS = ("solo", "threads", "prefork")


def run_worker(
    url: str | None = None,
    redis_url: str | None = None,
    *,
    name: str | None = None,
    pool: str = "solo",
    concurrency: int = 1,
    queues: Sequence[str] = (),
    device: str | None = None,
    beat: bool = False,
    celery: Sequence[str] = (),
    verbose: bool = False,
) -> int:
    """Run a worker until SIGTERM or SIGINT; its exit code. A first signal finishes the batch at hand.

    Engine and log are those of the settings where no URL is given. `queues` it listens to are else those of its device;
    `beat` also sends the jobs of the schedule; `celery` are further options of `celery worker`. Raises SettingsError,
    LogUnavailable for an unsafe or absent log, EngineUnreachable, AccessDenied.
    """
    if device:
        os.environ["KNNEX_DEVICE"] = device  # models look there, those in children too
        settings.cache_clear()
    given = {key: value for key, value in {"url": url, "redis_url": redis_url}.items() if value}
    ours = settings().model_copy(update=given)
    check_pool(pool, ours)
    _log_to_terminal(verbose, ours)
    app = make_app(ours, name)
    worker = app.knnex_worker
    worker.begin()
    app.knnex_began, app.knnex_beats = True, beat
    log.info(
        "Worker %s waits for documents: %s at %s, log at %s",
        worker.name,
        worker.engine.dialect,
        worker.engine.address,
        worker.log.address,
        extra={"action": "worker_started", "worker": worker.name},
    )
    options = ["--hostname", f"knnex@{worker.name}", "--pool", pool, "--concurrency", str(concurrency)]
    options += ["--queues", ",".join(queues)] if queues else []
    try:
        code = _celery_worker(app, [*options, *celery], verbose)
    finally:
        worker.stop.set()
        worker.quarantine.close()
        with suppress(LogUnavailable):  # then it is forgotten by itself
            worker.log.retire(worker.name)
    log.info("Worker %s has stopped", worker.name, extra={"action": "worker_stopped", "worker": worker.name})
    return code


def check_pool(pool: str, ours: Settings) -> None:
    """Raises SettingsError for a pool that is unknown, or cannot share a GPU between processes."""
    if pool not in POOLS:
        raise SettingsError(f"there is no pool {pool!r}", hint=f"choose one of {', '.join(POOLS)}")
    if pool == "prefork" and kind_of(ours) == "gpu":
        raise SettingsError("CUDA does not survive the fork of pool 'prefork'", hint="use --pool solo or threads")


def _celery_worker(app: Any, options: Sequence[str], verbose: bool) -> int:
    """`celery worker`; its exit code."""
    from celery.exceptions import SecurityWarning
    from celery.signals import setup_logging, worker_shutdown
    from click.exceptions import ClickException

    ended: list[Any] = []

    def remember(sender: Any = None, **_: Any) -> None:
        ended.append(sender)

    setup_logging.connect(_keep_logging, weak=False)
    worker_shutdown.connect(remember, weak=False)
    if not verbose:
        # That it runs as root is of no concern where nothing but JSON is accepted.
        warnings.filterwarnings("ignore", category=SecurityWarning)
    quiet = [] if verbose else ["--quiet"]
    level = ["--loglevel", "INFO" if verbose else "WARNING"]
    alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    try:
        code = app.start([*quiet, "worker", *level, *alone, *options])
    except ClickException as error:
        raise SettingsError(f"celery worker: {error.format_message()}", hint="see `celery worker --help`") from None
    finally:
        worker_shutdown.disconnect(remember)
    return int(code or (ended[0].exitcode if ended else 0) or 0)


def _keep_logging(**_: Any) -> None:
    """That somebody listens to this signal keeps Celery from setting up logging by itself."""


def _without_traces(record: logging.LogRecord) -> bool:
    """Where a connection breaks, Celery prints pages of its own and other libraries' lines; the message says it."""
    if not record.name.startswith("knnex") and record.exc_info:
        record.exc_info = record.exc_text = None
    return True


def _log_to_terminal(verbose: bool, ours: Settings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(ours))
    if not verbose:
        handler.addFilter(_without_traces)
    for name, level in (("knnex", logging.INFO), ("celery", logging.WARNING), ("kombu", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if verbose else level)
        logger.propagate = False
