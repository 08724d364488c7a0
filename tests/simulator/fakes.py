"""What stands in for threads in a schedule: a writer and a heartbeat without threads, a stop that sleeps no time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, nullcontext
from typing import Any

from knnex.encoders.pulse import watched

from .schedule import Schedule


class Writer(Executor):
    """Each call becomes a task of the same process."""

    def __init__(self, schedule: Schedule, process: str) -> None:
        self._schedule, self._process, self._count = schedule, process, 0

    def submit(self, work: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        self._count += 1
        future = Awaited(self._schedule)

        def call() -> None:
            try:
                future.set_result(work(*args, **options))
            except Exception as error:
                future.set_exception(error)

        self._schedule.start(f"{self._process}-writer-{self._count}-{self._schedule.steps}", call, self._process)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        return


class Awaited(Future[Any]):
    """A future whose waiting is a pause."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule

    def result(self, timeout: float | None = None) -> Any:
        self._schedule.until(self.done, "waits for its writer")
        return super().result(timeout)


class Heartbeat:
    """Says nothing: whether a lease ends is the schedule's to choose."""

    def __enter__(self) -> Heartbeat:
        return self

    def __exit__(self, *_: object) -> None:
        return

    @contextmanager
    def holding(self, index: str, batch: Sequence[Any], **_: Any) -> Iterator[None]:
        yield

    @contextmanager
    def encoding(self, index: str, between: Callable[[], None] | None = None) -> Iterator[None]:
        with watched(between) if between else nullcontext():
            yield

    def hold(self, index: str, batch: Sequence[Any], **_: Any) -> None:
        return

    def let_go(self, batch: Sequence[Any]) -> None:
        return


class NoQuarantine:
    """Suspects are tried in the worker itself, where the schedule can kill it."""

    def open(self, target: Any, wait: float = 0.0) -> str:
        return "impossible"

    def close(self) -> None:
        return


class Stop(threading.Event):
    """Sleeping is a pause."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule

    def wait(self, timeout: float | None = None) -> bool:
        self._schedule.pause("sleeps")
        return self.is_set()
