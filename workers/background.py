"""A worker that outlives the command that started it, and ends with `knnex down`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from ..engines.embedded import ServerState, keep, status
from ..engines.places import broker_url, engine_url, log_url
from ..errors import SettingsError
from ..ingest import open_log
from ..settings import Settings

NAME = "worker"
# Seconds until the first sign of life: it imports torch.
PATIENCE = 120.0


def start_background(settings: Settings, patience: float = PATIENCE, options: Sequence[str] = ()) -> ServerState:
    """Start a worker, or find it running, and return when it lives; `options` are those of `knnex worker`.

    Raises SettingsError, LogUnavailable.
    """
    log = open_log(log_url(settings))
    log.check()
    ours = {"KNNEX_URL": engine_url(settings), "KNNEX_LOG_URL": log_url(settings)}
    ours["KNNEX_BROKER_URL"] = broker_url(settings)
    ours["KNNEX_START_WAIT"] = "0"  # somebody waits to hear that it runs
    command = [sys.executable, "-m", "knnex", "worker", *options]
    worker = keep(NAME, command, {**os.environ, **ours}, home=settings.home)
    until = time.monotonic() + patience
    while not any(facts.get("pid") == worker.pid for facts in log.workers().values()):
        alive = any(one.alive for one in status(settings.home) if one.pid == worker.pid)
        if not alive or time.monotonic() > until:
            tail = worker.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise SettingsError(f"the worker did not start: {' / '.join(tail)}", hint=f"see {worker.log}")
        time.sleep(0.1)
    log.close()
    return worker
