"""Processes we started, told apart from any other that has since got their number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import EngineStartFailed
from .place import server_user

_GUARD = Path(__file__).with_name("guard.py")
# Seconds a server has to end by itself before it is killed.
_GRACE = 20.0


@dataclass(frozen=True)
class Process:
    """A process, by its id and by when it was born, so that a later one with the same id is never taken for it."""

    pid: int
    born: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process of that id that runs now; one that has ended already never counts as alive."""
        return cls(pid, _born(pid))

    def alive(self) -> bool:
        """Whether it runs."""
        return bool(self.born) and _born(self.pid) == self.born

    def send(self, number: int) -> None:
        """Send a signal, unless the process has ended, even if another has its id now."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        until = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True


def _born(pid: int) -> str:
    """When that process started: on Linux in ticks since which boot, as a clock may be set; "" if it has ended."""
    if sys.platform != "linux":
        psutil = need_psutil()
        try:
            process = psutil.Process(pid)
            return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
        except psutil.NoSuchProcess:
            return ""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if state in "ZX" else f"{_boot()}:{fields[18]}"


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # some sandboxes have none; ticks alone still tell processes apart
        return ""


def need_psutil() -> Any:
    """The module psutil. Raises EngineStartFailed where it is not installed."""
    try:
        import psutil
    except ImportError:
        raise EngineStartFailed(
            "embedded servers need the package psutil, which is not installed", hint="pip install 'knnex[embedded]'"
        ) from None
    return psutil


@dataclass(frozen=True)
class Guarded:
    """A server and the guard that ends it when its owner ends (guard.py)."""

    guard: Process
    server: Process

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        remove: Path | None = None,
        *,
        unprivileged: bool = True,
    ) -> Guarded:
        """Start a server that this process owns; `remove` is deleted at its end. Raises EngineStartFailed."""
        user = server_user() if unprivileged else None
        order = {
            "command": list(command),
            "cwd": str(cwd),
            "log": str(log),
            "user": (user.uid, user.gid) if user else None,
            "remove": str(remove) if remove else None,
            "grace": _GRACE,
        }
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(_GUARD), json.dumps(order)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            env=dict(env),
            check=False,
        )
        answer: dict[str, Any] = (
            json.loads(done.stdout) if done.stdout else {"error": done.stderr.strip() or "the guard did not start"}
        )
        if "error" in answer:
            raise EngineStartFailed(f"the server cannot be run: {answer['error']}", hint=f"see {log}")
        return cls(Process.of(answer["guard"]), Process.of(answer["server"]))

    def alive(self) -> bool:
        """Whether the server runs."""
        return self.server.alive()

    def release(self) -> None:
        """Let the server outlive this process."""
        self.guard.send(signal.SIGUSR1)

    def end(self) -> None:
        """End the server and wait until it is gone."""
        self.guard.send(signal.SIGTERM)
        if not self.guard.wait(_GRACE + 15):
            self.guard.send(signal.SIGKILL)
        if self.server.alive():  # somebody killed its guard
            self.server.send(signal.SIGTERM)
            if not self.server.wait(_GRACE):
                self.server.send(signal.SIGKILL)
                self.server.wait(5)
