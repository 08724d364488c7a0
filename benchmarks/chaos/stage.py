"""A stage: an engine and a Redis of our own, in a home of their own, that can be killed and come back."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filling import films, made

from knnex.engines import Access, Engine, Request, open_engine
from knnex.engines.embedded import down, nodes, status, up
from knnex.errors import EngineError, LogUnavailable
from knnex.ingest import RedisLog, Target
from knnex.mappings import Spec, drop, find

HEAP = "512m"


class Stage:
    """The servers of one run, and what is asked of them from outside."""

    def __init__(self, engine: str, home: Path) -> None:
        self.name, self.home = engine, home
        self.url = self.redis_url = ""
        self.revive()
        self.engine: Engine = open_engine(self.url, Access())
        self.log = RedisLog(self.redis_url)

    def model(self) -> str:
        """The directory of the tiny model, made when it is first needed."""
        from tiny import tiny_model

        folder = self.home / "tiny"
        return str(folder / "model" if folder.exists() else tiny_model(folder))

    def revive(self) -> None:
        """Start what does not run, where it was before."""
        found = up(self.name, home=self.home, heap=HEAP)
        before = self.url, self.redis_url
        self.url, self.redis_url = str(found.url), str(found.redis_url)
        if before not in (("", ""), (self.url, self.redis_url)):
            raise RuntimeError(f"a server came back elsewhere: {before} is now {self.url}, {self.redis_url}")

    def kill(self, name: str) -> None:
        """SIGKILL to the server `redis`, or to the engine."""
        (server,) = [one for one in status(self.home) if one.name == name and one.alive]
        os.kill(server.pid, signal.SIGKILL)
        await_state(lambda: not any(one.alive for one in status(self.home) if one.pid == server.pid), 30, "the kill")

    @contextmanager
    def engine_settings(self, **settings: str) -> Iterator[None]:
        """Run the engine with more lines in its configuration, which takes two restarts of it."""
        plain = dict(nodes._SETTINGS)
        nodes._SETTINGS.update({key.replace("__", "."): value for key, value in settings.items()})
        try:
            self.kill(self.name)
            self.revive()
            yield
        finally:
            nodes._SETTINGS.clear()
            nodes._SETTINGS.update(plain)
            self.kill(self.name)
            self.revive()

    def make(self, spec: Spec) -> Target:
        """The index of a spec, new and empty, in engine and log."""
        if self.engine.run(find(spec.index)):
            self.engine.run(drop(spec.index))
        self.log.forget(spec.index)
        return made(self.engine, spec)

    def films(self, index: str, **changes: Any) -> Target:
        """An index of films with one vector."""
        return self.make(films(index, self.model(), **changes))

    def ask(self, method: str, path: str, body: Any = None, params: Mapping[str, str] | None = None) -> Any:
        """One request to the engine, the body of its answer."""

        def flow() -> Any:
            return (yield Request(method, path, dict(params or {}), body)).body

        return self.engine.run(flow())

    def cluster(self, **settings: str | None) -> None:
        """Set, or with None unset, settings of the cluster; `__` stands for a dot."""
        named = {key.replace("__", "."): value for key, value in settings.items()}
        for number in range(100):  # what is being set may be what refuses the request
            try:
                self.ask("PUT", "/_cluster/settings", {"persistent": named})
                return
            except EngineError:
                if number == 99:
                    raise
                time.sleep(0.1)

    def config(self, name: str, value: object) -> None:
        """Set a setting of Redis."""
        self.log.redis.config_set(name, value)

    def total(self, *indexes: str) -> int:
        """Events that wait, or -1 where Redis does not answer."""
        try:
            return sum(self.log.backlog(index).total for index in indexes)
        except LogUnavailable:
            return -1

    def settled(self, *indexes: str) -> int:
        """How many events ended written, deleted, stale or buried so far, or -1 where Redis does not answer."""
        try:
            counts = [self.log.counts(index) for index in indexes]
        except LogUnavailable:
            return -1
        return sum(one.get(name, 0) for one in counts for name in ("written", "deleted", "stale", "buried"))

    def drained(self, *indexes: str, patience: float = 180.0) -> float:
        """Wait until nothing waits any more; the seconds that took."""
        started = time.monotonic()

        await_state(
            lambda: self.total(*indexes) == 0, patience, lambda: "; ".join(self.told(index) for index in indexes)
        )
        return time.monotonic() - started

    def told(self, index: str) -> str:
        """How it stands with an index in the log."""
        try:
            backlog, paused, resting = self.log.backlog(index), self.log.paused(index), self.log.resting(index)
            return f"{index}: {backlog}, paused: {paused}, resting: {resting}, {self.log.counts(index)}"
        except LogUnavailable as error:
            return f"{index}: {error}"

    def close(self) -> None:
        """End all of it, and remove it."""
        self.log.close()
        self.engine.close()
        down(self.home)
        shutil.rmtree(self.home, ignore_errors=True)


@contextmanager
def stage(engine: str) -> Iterator[Stage]:
    """Servers of our own; stopped and removed at the end, whatever happens."""
    home = Path(tempfile.mkdtemp(prefix="knnex-chaos-"))
    home.chmod(0o755)
    try:
        opened = Stage(engine, home)
        opened.model()
        yield opened
        opened.close()
    finally:
        down(home)
        shutil.rmtree(home, ignore_errors=True)


def await_state(state: Callable[[], bool], patience: float, told: str | Callable[[], str], every: float = 0.05) -> None:
    """Wait until it is true; TimeoutError with what is told if it takes too long."""
    end = time.monotonic() + patience
    while not state():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {patience:g} s: {told if isinstance(told, str) else told()}")
        time.sleep(every)
