"""Servers that outlive the process that started them: `knnex up`, `knnex down`, `knnex status`.

What runs is written to `state.json` under the home directory, replaced whole at every change. A process in it counts
only while its id still belongs to the process that was started, told by its creation time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...errors import SettingsError
from ...settings import settings
from .artifacts import Progress, silent
from .nodes import choose, start_node
from .place import home_dir, locked, servers_dir
from .process import Guarded, Process
from .redis import start_redis
from .releases import PRODUCTS, Product, release
from .server import EmbeddedServer

REDIS = "redis"
# Where `up` looks for ports, so that an address is likely to be the same next time; away from the servers' own
# defaults, so that nobody reaches an embedded server by accident.
_PORTS, _REDIS_PORTS = range(19200, 19300), range(16379, 16479)
_STATE = "state.json"


@dataclass(frozen=True)
class ServerState:
    """A server that was started with `up`, and whether it is still there."""

    name: str
    version: str
    url: str
    pid: int
    alive: bool
    data: Path
    log: Path


@dataclass(frozen=True)
class Running:
    """What runs in a home: the engine that was asked for last, Redis if there is one, and every server."""

    engine: str | None
    url: str | None
    redis_url: str | None
    servers: tuple[ServerState, ...]


def up(
    engine: str | None = None,
    *,
    home: Path | None = None,
    version: str | None = None,
    redis: bool = True,
    heap: str = "1g",
    progress: Progress = silent,
) -> Running:
    """Start an engine and Redis, or find them running, and leave them running when this process ends.

    `engine` is `elasticsearch`, `opensearch`, or `redis` for Redis alone; without it, the engine that runs, else the
    newest Elasticsearch that a Java here can run, else OpenSearch. Data is kept under `home` from one time to the next.
    Raises SettingsError, EngineStartFailed.
    """
    home = home_dir(home)
    with locked(home / "state.lock"):
        book = _Book(home)
        if engine != REDIS:
            product, chosen = _wanted(book, engine, version)
            node = partial(start_node, product, chosen, heap=heap, keep=f"{product.name}-{chosen}")
            own = partial(node, home=home, progress=progress)
            _ensure(book, product.name, chosen, lambda last: own(port=_range(_from(last, _PORTS))))
        if redis or engine == REDIS:
            ours = partial(start_redis, home=home, keep=REDIS, progress=progress)
            _ensure(book, REDIS, None, lambda last: ours(near=_from(last, _REDIS_PORTS)))
        if engine != REDIS:
            book.put_last(product.name, chosen)
        return _running(book)


def keep(name: str, command: Sequence[str], env: Mapping[str, str], *, home: Path | None = None) -> ServerState:
    """Run a command of ours, such as a worker, until `down`; one of that name that runs already is left as it is.

    It runs as the present user, in the present directory; its output goes to `NAME.log`. Raises EngineStartFailed.
    """
    home = home_dir(home)
    with locked(home / "state.lock"):
        book = _Book(home)

        def start(_: int | None) -> EmbeddedServer:
            log = home / "logs" / f"{name}.log"
            log.parent.mkdir(exist_ok=True)
            log.touch()
            process = Guarded.start(command, env, Path.cwd(), log, unprivileged=False)
            return EmbeddedServer(name, "", "", process, home, log)

        _ensure(book, name, None, start)
        return next(known.state for known in book.servers() if known.state.name == name)


def down(home: Path | None = None, *, erase: bool = False) -> list[ServerState]:
    """Stop what `up` started in this home and nothing else, and say what that was; with `erase`, delete its data."""
    home = _place(home)
    if not home.is_dir():
        return []
    with locked(home / "state.lock"):
        book = _Book(home)
        # What was started last, a worker perhaps, may still need what was started before.
        servers = sorted(book.servers(), key=lambda known: known.state.name in (*PRODUCTS, REDIS))
        stopped = [server.state for server in servers if server.state.alive]
        for server in servers:
            server.process.end()
            book.remove(server.state)
        if erase:
            _erase(home)
    return stopped


def status(home: Path | None = None) -> list[ServerState]:
    """Every server that was started and not stopped; one that is not alive ended by itself, and its log says why."""
    return [server.state for server in _Book(_place(home)).servers()]


def running(home: Path | None = None, engine: str | None = None) -> Running | None:
    """What runs in a home: the engine started last, or the one named; None if nothing does. Asks no server."""
    book = _Book(_place(home))
    found = _running(book, engine) if book.entries else None
    return found if found and (found.url or found.redis_url) else None


def _place(home: Path | None) -> Path:
    return (home or settings().home).expanduser().absolute()


@dataclass(frozen=True)
class _Known:
    state: ServerState
    process: Guarded


class _Book:
    """The state file of a home; the newest server is last. Written only under the lock."""

    def __init__(self, home: Path) -> None:
        self.path = home / _STATE
        self.entries: list[dict[str, Any]] = []
        try:
            self.entries = json.loads(self.path.read_bytes())["servers"]
            list(self.servers())
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{self.path} cannot be read: {error}", hint="delete it, after ending the servers that it was about"
            ) from None

    def servers(self) -> Iterator[_Known]:
        for entry in list(self.entries):
            yield _known(entry)

    def add(self, server: EmbeddedServer) -> None:
        self.entries.append(
            {
                "name": server.name,
                "version": server.version,
                "url": server.url,
                "data": str(server.data),
                "log": str(server.log),
                "process": asdict(server.process),
            }
        )
        self.write()

    def remove(self, state: ServerState) -> None:
        self.entries = [entry for entry in self.entries if _known(entry).state.pid != state.pid]
        self.write()

    def put_last(self, name: str, version: str) -> None:
        self.entries.sort(key=lambda entry: (entry["name"], entry["version"]) == (name, version))
        self.write()

    def write(self) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"servers": self.entries}, indent=2))
        fresh.replace(self.path)


def _known(entry: Mapping[str, Any]) -> _Known:
    process = Guarded(Process(**entry["process"]["guard"]), Process(**entry["process"]["server"]))
    state = ServerState(
        name=entry["name"],
        version=entry["version"],
        url=entry["url"],
        pid=process.server.pid,
        alive=process.alive(),
        data=Path(entry["data"]),
        log=Path(entry["log"]),
    )
    return _Known(state, process)


def _wanted(book: _Book, engine: str | None, version: str | None) -> tuple[Product, str]:
    if engine is None:
        alive = [known.state for known in book.servers() if known.state.alive and known.state.name in PRODUCTS]
        if alive and version in (None, alive[-1].version):
            return PRODUCTS[alive[-1].name], alive[-1].version
        product, chosen = choose()
        return product, release(product, version)[0] if version else chosen
    if engine not in PRODUCTS:
        raise SettingsError(f"{engine!r} is no engine", hint=f"choose {', '.join(PRODUCTS)} or {REDIS}")
    product = PRODUCTS[engine]
    return product, release(product, version)[0]


def _from(last: int | None, ports: range) -> range:
    return range(last, ports.stop) if last is not None and last in ports else ports


def _range(ports: range) -> str:
    return f"{ports.start}-{ports.stop - 1}"


def _ensure(book: _Book, name: str, version: str | None, start: Callable[[int | None], EmbeddedServer]) -> None:
    """Have that server run: the one in the book if it is alive, else a new one, which is then let go.

    `start` is told the port of one that died: whoever was connected to it looks for it there.
    """
    last: int | None = None
    for known in book.servers():
        if known.state.name == name and version in (None, known.state.version):
            if known.state.alive:
                return
            known.process.end()
            book.remove(known.state)
            last = urlsplit(known.state.url).port
    server = start(last)
    book.add(server)
    server.process.release()


def _running(book: _Book, engine: str | None = None) -> Running:
    alive = tuple(known.state for known in book.servers() if known.state.alive)
    nodes = [state for state in alive if state.name in PRODUCTS and engine in (None, state.name)]
    redis = next((state.url for state in alive if state.name == REDIS), None)
    newest = nodes[-1] if nodes else None
    return Running(newest.name if newest else None, newest.url if newest else None, redis, alive)


def _erase(home: Path) -> None:
    names = [f"{product.name}-{version}" for product in PRODUCTS.values() for version in product.releases]
    top = servers_dir(home)
    for name in (*names, REDIS):
        if (top / name).exists():
            shutil.rmtree(top / name)
    if top != home and not any(top.iterdir()):
        top.rmdir()
