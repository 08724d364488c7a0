"""An embedded server: prepared, started, waited for, stopped."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from ...errors import EngineStartFailed, SettingsError
from .artifacts import Progress
from .diagnose import PortTaken, start_failure
from .place import give, home_dir, servers_dir
from .process import Guarded, need_psutil

# What a server needs besides its heap, and on its data disk at the least (bytes).
_BESIDE_HEAP = 384 << 20
_DISK = 256 << 20
_TRIES = 5


@dataclass(frozen=True)
class Run:
    """The directories of one run; all but `log` belong to the server's user."""

    top: Path
    log: Path

    @property
    def data(self) -> Path:
        """What it keeps."""
        return self.top / "data"

    @property
    def config(self) -> Path:
        """Written anew at every start."""
        return self.top / "config"

    @property
    def scratch(self) -> Path:
        """Temporary files."""
        return self.top / "tmp"


@dataclass(frozen=True)
class Command:
    """How to run it: arguments, whole environment, working directory, and the port it was told (0: it chooses)."""

    arguments: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    port: int


@dataclass(frozen=True)
class Recipe:
    """What is particular to one kind of server.

    `prepare` writes its configuration; `url` gives its address once its log tells that it listens; `answers` says
    whether it is ready for work. `memory` is what it is going to use (bytes). With `retries_ports`, another free port
    is tried when the one it was given is taken.
    """

    name: str
    title: str
    version: str
    memory: int
    retries_ports: bool
    prepare: Callable[[Run], Command]
    url: Callable[[str, Command], str | None]
    answers: Callable[[str], bool]

    @property
    def label(self) -> str:
        """As people write it."""
        return f"{self.title} {self.version}"


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that runs; a context manager that stops it."""

    name: str
    version: str
    url: str
    process: Guarded
    data: Path
    log: Path

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self.process.server.pid

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process.alive()

    def stop(self) -> None:
        """End it and wait until it is gone; a run without a name takes its data with it, the log stays."""
        self.process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(
    recipe: Recipe, *, home: Path | None, keep: str | None, owner: bool, timeout: float, progress: Progress
) -> EmbeddedServer:
    """Start a server and return when it answers.

    Its data lies in a directory of its own under `home`, which is deleted at the end, or in the directory `keep` of
    `home`, which stays. It ends when this process ends, unless `owner` is False. Raises EngineStartFailed.
    """
    if os.name != "posix":
        raise EngineStartFailed(
            "embedded servers run on Linux and macOS", hint="start the engine with docker-compose.yml, or work in WSL"
        )
    home = home_dir(home)
    _enough(recipe, servers_dir(home, passing=keep is None))
    for attempt in range(_TRIES):
        run = _run(recipe, home, keep)
        try:
            process, url = _attempt(recipe, run, keep is None, timeout, progress)
        except PortTaken:
            if not recipe.retries_ports or attempt == _TRIES - 1:
                raise
            continue
        if not owner:
            process.release()
        return EmbeddedServer(recipe.name, recipe.version, url, process, run.data, run.log)
    raise AssertionError("unreachable")


def _attempt(recipe: Recipe, run: Run, passing: bool, timeout: float, progress: Progress) -> tuple[Guarded, str]:
    try:
        command = recipe.prepare(run)
        give(run.top)
    except OSError as error:
        raise EngineStartFailed(
            f"{recipe.label} did not start: {error.filename}: {error.strerror}",
            hint="check the permissions of KNNEX_HOME",
        ) from None
    if command.port and not listenable(command.port):
        raise PortTaken(
            f"{recipe.label} did not start: port {command.port} of 127.0.0.1 is taken",
            hint="choose another port, or none: a free one is found then",
        )
    progress(f"starting {recipe.label}")
    process = Guarded.start(command.arguments, command.env, command.cwd, run.log, run.top if passing else None)
    try:
        return process, _ready(recipe, command, process, run, timeout)
    except BaseException:
        process.end()
        raise


def _ready(recipe: Recipe, command: Command, process: Guarded, run: Run, timeout: float) -> str:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        alive = process.alive()  # asked first, so that the log of one that ended is complete when it is read
        url = recipe.url(run.log.read_text(errors="replace"), command)
        if url and alive and recipe.answers(url):
            return url
        if not alive:
            process.guard.wait(5)  # it writes how the server ended
            raise start_failure(recipe.label, run.log, command.port, "it ended before it answered")
        time.sleep(0.05)
    raise start_failure(recipe.label, run.log, command.port, f"it did not answer within {timeout:.0f} s")


def _run(recipe: Recipe, home: Path, keep: str | None) -> Run:
    try:
        logs = home / "logs"
        top = servers_dir(home, passing=keep is None)
        logs.mkdir(exist_ok=True)
        folder = top / keep if keep else Path(tempfile.mkdtemp(dir=top, prefix=f"{recipe.name}-{recipe.version}-"))
        run = Run(folder, logs / f"{folder.name}.log")
        shutil.rmtree(run.config, ignore_errors=True)
        for directory in (run.data, run.config, run.scratch):
            directory.mkdir(parents=True, exist_ok=True)
        if run.log.exists():
            run.log.replace(run.log.with_suffix(".old.log"))
        run.log.touch()
    except OSError as error:
        raise EngineStartFailed(
            f"{error.filename} cannot be written: {error.strerror}", hint="set KNNEX_HOME to a directory of yours"
        ) from None
    return run


def _enough(recipe: Recipe, folder: Path) -> None:
    free = available_memory()
    needed = recipe.memory + _BESIDE_HEAP if recipe.memory else 0
    if free < needed:
        raise EngineStartFailed(
            f"{recipe.label} did not start: it needs {needed >> 20} MB of memory, and {free >> 20} MB are free",
            hint="give it a smaller heap, or stop something else",
        )
    room = shutil.disk_usage(folder).free
    if room < _DISK:
        raise EngineStartFailed(
            f"{recipe.label} did not start: it needs {_DISK >> 20} MB in {folder}, and {room >> 20} MB are free",
            hint="make room, or set KNNEX_HOME to another disk",
        )


def available_memory() -> int:
    """Bytes that a new process can use: of the machine, and of the control group that we run in."""
    free = int(need_psutil().virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # no control group, or one without a limit ("max")
        return free
    return min(free, limit - used + (int(cached[1]) if cached else 0))


def heap_bytes(heap: str) -> int:
    """`512m` or `2g` in bytes. Raises SettingsError."""
    match = re.fullmatch(r"(\d+)([kmg])", heap.strip().lower())
    if not match:
        raise SettingsError(f"{heap!r} is no heap size", hint="write a number and k, m or g, such as 512m or 2g")
    return int(match[1]) << {"k": 10, "m": 20, "g": 30}[match[2]]


def listenable(port: int) -> bool:
    """Whether a server could listen on that port of 127.0.0.1 just now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a server does: old connections do not matter
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def get(url: str, path: str, timeout: float) -> int | None:
    """The status of a GET at an embedded server, None if it does not answer; no proxy is in the way."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
