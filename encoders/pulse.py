"""A sign of life of who encodes, for who watches this thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_pulse: ContextVar[Callable[[], None] | None] = ContextVar("pulse", default=None)


@contextmanager
def watched(pulse: Callable[[], None]) -> Iterator[None]:
    """In this thread, `pulse` is called each time a model has answered: it does not hang, however long it takes."""
    before = _pulse.set(pulse)
    try:
        yield
    finally:
        _pulse.reset(before)


def beat() -> None:
    """Tell who watches this thread that it is at work."""
    if pulse := _pulse.get():
        pulse()
