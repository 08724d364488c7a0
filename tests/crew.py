"""Worker processes for tests: `run_worker` or the `celery` command, each with settings of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from knnex.ingest import EventLog, RedisLog

WORKER = "import sys; from knnex.workers import run_worker; sys.exit(run_worker({}))"


def celery(*arguments: str, app: str = "knnex.workers.celery") -> list[str]:
    """The command `celery -A APP ...`."""
    return [sys.executable, "-m", "celery", "-A", app, *arguments]


class Process:
    """A worker as a process of its own; `command` is else that of `run_worker` with these arguments."""

    def __init__(
        self,
        engine_url: str,
        log: EventLog,
        home: Path,
        *,
        command: Sequence[str] = (),
        arguments: str = "",
        **settings: Any,
    ) -> None:
        self.log = log
        self.output = home / f"worker-{uuid4().hex[:6]}.log"
        environment = {"URL": engine_url, "HOME": home, "CACHE_DIR": home, **settings}
        if isinstance(log, RedisLog):
            environment.setdefault("REDIS_URL", log.url)
        ours = {f"KNNEX_{key}": str(value) for key, value in environment.items()}
        found = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH", "")]))
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [*(command or [sys.executable, "-c", WORKER.format(arguments)])],
                env={**os.environ, "PYTHONPATH": found, **ours},
                stdout=file,
                stderr=file,
                cwd=home,
            )

    def facts(self) -> dict[str, Any]:
        """What the worker tells of itself; empty while it is not there."""
        return next((one for one in self.log.workers().values() if one["pid"] == self.process.pid), {})

    def ready(self) -> Process:
        self.until(lambda: bool(self.facts()))
        return self

    def until(self, state: Callable[[], bool], seconds: float = 200) -> None:
        """Await a state of the world, as long as the worker lives."""
        deadline = time.monotonic() + seconds
        while not state():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.01)

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(120)


@contextmanager
def running(*args: Any, **settings: Any) -> Iterator[Process]:
    worker = Process(*args, **settings)
    try:
        yield worker.ready()
    finally:
        if worker.process.poll() is None:
            worker.end(signal.SIGKILL)
