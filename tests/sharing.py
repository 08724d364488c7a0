"""Engines that the processes of one run of the suite share (`pytest -n 2`): one of each, however many processes there are.

The first process of the run, which runs no test, starts an engine when a test of any process wants it. It owns them: they
end with it, however it ends. Redis and PostgreSQL are small, and what is in them is counted and deleted: each process has
its own.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

Start = Callable[[str], AbstractContextManager[str]]
_PATIENCE = 280.0


class Starter(threading.Thread):
    """Starts what is wanted: `NAME.wanted` in its folder is answered by `NAME.url`, or by `NAME.failed`."""

    def __init__(self, start: Start) -> None:
        super().__init__(name="starter of shared servers", daemon=True)
        self._begin, self._over, self._answered = start, threading.Event(), set[str]()
        self._folder = tempfile.TemporaryDirectory(prefix="knnex-test-")

    @property
    def folder(self) -> Path:
        return Path(self._folder.name)

    def run(self) -> None:
        with ExitStack() as running:
            while not self._over.wait(0.05):
                wanted = {wish.stem for wish in self.folder.glob("*.wanted")}
                for name in sorted(wanted - self._answered):
                    self._answer(name, running)

    def _answer(self, name: str, running: ExitStack) -> None:
        self._answered.add(name)
        try:
            _write(self.folder / f"{name}.url", running.enter_context(self._begin(name)))
        except Exception as error:  # whoever waits for it says so
            _write(self.folder / f"{name}.failed", f"{type(error).__name__}: {error}")

    def end(self) -> None:
        self._over.set()
        self.join()
        self._folder.cleanup()


@contextmanager
def shared(folder: Path, name: str) -> Iterator[str]:
    """The URL of the engine of that name that all processes of the run use."""
    url, failed = folder / f"{name}.url", folder / f"{name}.failed"
    until = time.monotonic() + _PATIENCE
    (folder / f"{name}.wanted").touch()
    while not url.exists():
        assert not failed.exists(), failed.read_text()
        assert time.monotonic() < until, f"{name} was not started within {_PATIENCE:.0f} s"
        time.sleep(0.05)
    yield url.read_text()


def _write(path: Path, text: str) -> None:
    """At once or not at all."""
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").rename(path)
