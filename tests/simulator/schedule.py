"""A deterministic schedule: tasks that are switched, frozen and killed at every call to the log and the engine."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet


class Gone(GreenletExit):
    """What a killed task meets wherever it tries to go on: a dead process does nothing more, not even clean up."""


class Endless(Exception):
    """A world that does not come to rest."""


class Schedule:
    """Tasks, of which a seeded chance chooses the next one to go on; each call to the outside world is a `pause`."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.steps = 0
        self._hub = getcurrent()
        self._tasks: dict[str, greenlet] = {}
        self._owner: dict[greenlet, str] = {}
        # Kept to the end: collecting one would run its `finally` blocks, which no SIGKILL does.
        self._dead: list[greenlet] = []
        self.killed: set[str] = set()
        self.frozen: dict[str, int] = {}
        self.trace: list[str] = []

    def start(self, name: str, work: Callable[[], Any], process: str | None = None) -> None:
        """A task of a process; a process is killed and frozen as a whole."""
        task = greenlet(work, parent=self._hub)
        self._tasks[name] = task
        self._owner[task] = process or name

    def pause(self, what: str) -> None:
        """Let others go on; where the process was killed meanwhile, never return."""
        task = getcurrent()
        if task not in self._owner:
            return
        if self._owner[task] in self.killed:
            raise Gone
        self.trace.append(f"{self._owner[task]}: {what}")
        self._hub.switch()

    @property
    def process(self) -> str:
        """The process whose task is running."""
        return self._owner.get(getcurrent(), "")

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Pause until something is so."""
        while not done():
            self.pause(what)

    def kill(self, process: str) -> None:
        """As SIGKILL does: what was sent is on its way, and nothing more comes."""
        self.trace.append(f"kill {process}")
        self.killed.add(process)
        for name, task in list(self._tasks.items()):
            if self._owner[task] == process:
                self._dead.append(self._tasks.pop(name))

    def freeze(self, process: str, steps: int) -> None:
        """As SIGSTOP does, for so many steps of the others."""
        self.trace.append(f"freeze {process} for {steps} steps")
        self.frozen[process] = self.steps + steps

    def processes(self, prefix: str) -> list[str]:
        """The living ones of this name."""
        return sorted({self._owner[task] for task in self._tasks.values() if self._owner[task].startswith(prefix)})

    def run(self, done: Callable[[], bool], between: Callable[[], None], most: int = 20_000) -> None:
        """Until `done`, calling `between` before each step. Raises what a task raises."""
        while not done():
            self.steps += 1
            if self.steps > most:
                raise Endless(f"no end after {most} steps: {self.trace[-20:]}")
            between()
            ready = [name for name, task in self._tasks.items() if self.frozen.get(self._owner[task], 0) <= self.steps]
            if not ready:
                self.frozen.clear()
                continue
            name = self.chance.choice(ready)
            task = self._tasks[name]
            task.switch()
            if task.dead:
                self._tasks.pop(name, None)
