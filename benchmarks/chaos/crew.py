"""Workers as processes of their own, started again when they end, killed by their id.

`forked` ones come from a process that has imported torch already (what `knnex worker` runs, without the seconds for
importing); `command` ones are `python -m knnex worker` itself.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from knnex.errors import LogUnavailable

from .stage import Stage, await_state

How = Literal["forked", "command"]
PRELOADED = [
    "sentence_transformers",
    "celery.apps.worker",
    "kombu.transport.redis",
    "knnex.encoders.text",
    "knnex.workers",
]
_START = 120.0


def _work(pool: str, concurrency: int, environment: dict[str, str], output: str) -> None:
    """What a forked worker runs."""
    os.setsid()
    if sys.platform == "linux":  # it ends with who started it, however that ends
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    from knnex.workers import run_worker

    sys.exit(run_worker(pool=pool, concurrency=concurrency))


@dataclass
class Member:
    """One worker's place: the process that holds it now."""

    pool: str
    output: Path
    process: Any = None
    # Ended by us, or by itself: the supervisor lets it be.
    resting: bool = False
    # Every session a worker of this place ever had: its children may outlive it.
    sessions: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The id of the main process."""
        return int(self.process.pid)

    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode

    def children(self) -> list[int]:
        """The ids of the pool's processes."""
        with suppress(psutil.Error):
            return [one.pid for one in psutil.Process(self.pid).children()] if self.pool == "prefork" else []
        return []

    def rss(self) -> int:
        """Bytes of memory, children's included."""
        with suppress(psutil.Error):
            whole = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
            return sum(int(one.memory_info().rss) for one in whole)
        return 0


class Crew:
    """Some workers, `pools` naming the pool of each, and a supervisor that starts them again."""

    def __init__(
        self, stage: Stage, pools: Sequence[str], *, how: How = "forked", concurrency: int = 2, **settings: Any
    ) -> None:
        self.stage, self.how, self.concurrency = stage, how, concurrency
        ours = {"url": stage.url, "redis_url": stage.redis_url, "home": stage.home, "cache_dir": stage.home / "cache"}
        extra = dict(settings.pop("environment", {}))
        if "PYTHONPATH" in extra and (path := os.environ.get("PYTHONPATH")):
            extra["PYTHONPATH"] += os.pathsep + path
        self.environment = {f"KNNEX_{key.upper()}": str(value) for key, value in (ours | settings).items()}
        self.environment |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **extra}
        self.members = [Member(pool, stage.home / f"worker-{place}.log") for place, pool in enumerate(pools)]
        self.exits: Counter[str] = Counter()
        self._lock, self._stop = threading.RLock(), threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    def __enter__(self) -> Crew:
        try:
            for member in self.members:
                self.start(member)
            self._supervisor.start()
            self.ready(*self.members)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._supervisor.join()
        for member in self.members:
            self._signal(member.pid, signal.SIGTERM)
        end = time.monotonic() + 30
        while any(member.code() is None for member in self.members) and time.monotonic() < end:
            time.sleep(0.05)
        for member in self.members:
            if member.code() is None:
                self.exits["killed at the end"] += 1
                self._signal(member.pid, signal.SIGKILL)
        for pid in self.left():
            self._signal(pid, signal.SIGKILL)

    def start(self, member: Member) -> None:
        """Put a process into a place."""
        command = [
            sys.executable,
            "-m",
            "knnex",
            "worker",
            "--pool",
            member.pool,
            "--concurrency",
            str(self.concurrency),
        ]
        with self._lock:
            if self.how == "command":
                with member.output.open("ab") as file:
                    environment = {**os.environ, **self.environment}
                    member.process = subprocess.Popen(
                        command, env=environment, stdout=file, stderr=file, start_new_session=True, cwd=self.stage.home
                    )
            else:
                context = multiprocessing.get_context("forkserver")
                context.set_forkserver_preload(PRELOADED)
                arguments = (member.pool, self.concurrency, self.environment, str(member.output))
                process = context.Process(target=_work, args=arguments)
                process.start()
                member.process = process
            member.sessions.append(member.pid)
            member.resting = False

    def ready(self, *members: Member) -> None:
        """Wait until these live, as others see it."""

        def alive() -> bool:
            with suppress(LogUnavailable):
                return {member.pid for member in members} <= {
                    facts["pid"] for facts in self.stage.log.workers().values()
                }
            return False

        await_state(alive, _START, lambda: "workers that live\n" + "\n".join(self.tail(one) for one in members))

    def kill(self, member: Member) -> None:
        """SIGKILL to the main process, which is started again."""
        with self._lock:
            self._signal(member.pid, signal.SIGKILL)
            self._gone(member)
            self.start(member)

    def kill_child(self, pid: int) -> None:
        """SIGKILL to a process of the pool, which the main process replaces."""
        self._signal(pid, signal.SIGKILL)

    def end(self, member: Member) -> int:
        """SIGTERM; the exit code, once it ended. The place stays empty."""
        with self._lock:
            member.resting = True
        self._signal(member.pid, signal.SIGTERM)
        await_state(lambda: member.code() is not None, 60, lambda: f"a worker that ends\n{self.tail(member)}")
        return int(member.code() or 0)

    def halt(self, member: Member, seconds: float) -> None:
        """SIGSTOP for so many seconds, as a machine that swaps or a paused container does."""
        self.freeze(member)
        time.sleep(seconds)
        self.thaw(member)

    def freeze(self, member: Member) -> None:
        """SIGSTOP to all of it."""
        for pid in (member.pid, *member.children()):
            self._signal(pid, signal.SIGSTOP)

    def thaw(self, member: Member) -> None:
        """SIGCONT to all of it."""
        for pid in (member.pid, *member.children()):
            self._signal(pid, signal.SIGCONT)

    def tail(self, member: Member, lines: int = 15) -> str:
        """The end of what it wrote."""
        return "\n".join(member.output.read_text(errors="replace").splitlines()[-lines:])

    def written(self) -> str:
        """All that they wrote."""
        return "".join(one.output.read_text(errors="replace") for one in self.members if one.output.exists())

    def _supervise(self) -> None:
        while not self._stop.wait(0.2):
            with self._lock:
                for member in self.members:
                    if not member.resting and member.code() is not None:
                        self.exits[f"code {member.code()}"] += 1
                        self.start(member)

    def _gone(self, member: Member) -> None:
        if isinstance(member.process, subprocess.Popen):
            member.process.wait(30)
        else:
            member.process.join(30)

    def left(self) -> list[int]:
        """Processes that workers started and that outlived them."""
        sessions = {session for member in self.members for session in member.sessions}
        home = str(self.stage.home)
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                if os.getsid(process.pid) in sessions or process.environ().get("KNNEX_HOME") == home:
                    found.append(process.pid)
        return found

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
