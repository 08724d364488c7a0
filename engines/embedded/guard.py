"""Run a server, and end it when its owner ends, however the owner ends.

Started as a script, `python -I -S guard.py ORDER`, where ORDER is a JSON object; only the standard library is imported,
so it starts at once and stays small. It detaches itself, starts the server in a session of its own, reports both
process ids in one line of JSON, and waits. SIGTERM ends the server; SIGUSR1 sets it free of its owner.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Owner:
    """The process that asked for the server."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self.handle = os.pidfd_open(pid)
        except (AttributeError, OSError):  # no Linux, or one that forbids it: look every second
            self.handle = -1

    def gone(self) -> bool:
        """Whether it has ended."""
        if self.handle >= 0:
            return bool(select.select([self.handle], [], [], 0)[0])
        try:
            os.kill(self.pid, 0)
        except OSError:
            return True
        return False


def main(order: dict[str, Any]) -> None:
    """Carry out one order: command, cwd, log, user, remove, grace (seconds)."""
    owner = Owner(os.getppid())
    if owner.pid != os.getppid():  # it ended while we looked
        return
    if os.fork():
        os._exit(0)
    os.setsid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that what a server leaves behind is ours to wait for
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    wanted: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, lambda received, _frame: wanted.add(received))
    server = _start(order)
    try:
        _watch(server, owner, wanted, read)
    finally:
        _end(server, order["grace"])
        if order["remove"] and signal.SIGUSR1 not in wanted:
            shutil.rmtree(order["remove"], ignore_errors=True)


def _start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    account: dict[str, Any] = {}
    if order["user"]:
        uid, gid = order["user"]
        account = {"user": uid, "group": gid, "extra_groups": []}
    with open(order["log"], "ab") as log:  # noqa: PTH123  (pathlib is not worth its import here)
        try:
            server = subprocess.Popen(
                order["command"],
                cwd=order["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_guard,
                **account,
            )
        except (OSError, subprocess.SubprocessError) as error:
            _report({"error": f"{order['command'][0]}: {error}"})
            if order["remove"]:
                shutil.rmtree(order["remove"], ignore_errors=True)
            raise SystemExit(1) from None
        _report({"guard": os.getpid(), "server": server.pid})
        os.dup2(log.fileno(), 2)
    return server


def _report(line: dict[str, Any]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)


def _watch(server: subprocess.Popen[bytes], owner: Owner, wanted: set[int], wake: int) -> None:
    while server.poll() is None and signal.SIGTERM not in wanted:
        free = signal.SIGUSR1 in wanted
        if not free and owner.gone():
            return
        watched = [wake] if free or owner.handle < 0 else [wake, owner.handle]
        ready, _, _ = select.select(watched, [], [], 1.0 if owner.handle < 0 and not free else None)
        if wake in ready:
            os.read(wake, 512)


def _end(server: subprocess.Popen[bytes], grace: float) -> None:
    """End the server's whole process group: politely, then for certain."""
    if server.poll() is not None:
        code = server.returncode
        sys.stderr.write(
            f"knnex: the server ended by itself: {f'signal {-code}' if code < 0 else f'exit status {code}'}\n"
        )
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + seconds
        while _some_left(server) and time.monotonic() < until:
            time.sleep(0.05)


def _some_left(server: subprocess.Popen[bytes]) -> bool:
    server.poll()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(server.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _prctl(option: int, value: int) -> None:
    if _libc is not None:
        _libc.prctl(option, value, 0, 0, 0)


def _die_with_guard() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
