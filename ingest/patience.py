"""How long a server that is busy or away is asked again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ..engines import Engine, Flow
from ..errors import EngineBusy, EngineUnreachable, KnnexError

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a busy engine is asked again: `attempts` times, after growing delays in seconds, with jitter."""

    attempts: int = 8
    first: float = 0.25
    longest: float = 10.0

    def delays(self) -> Iterator[float]:
        """The delay before each further attempt."""
        for attempt in range(self.attempts - 1):
            yield min(self.longest, self.first * 2**attempt) * random.uniform(0.5, 1.5)  # noqa: S311


def delays_within(seconds: float, first: float, longest: float) -> Iterator[float]:
    """Growing delays, in seconds, until so many have passed."""
    end, delay = time.monotonic() + seconds, first
    while (left := end - time.monotonic()) > 0:
        yield min(delay, left)
        delay = min(longest, delay * 2)


def ask_again(
    ask: Callable[[], T],
    errors: tuple[type[KnnexError], ...],
    delays: Iterable[float],
    tell: Callable[[KnnexError, float], object],
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Ask, again after each delay where it raises one of these errors, of which `tell` hears before, and of the delay.

    A `sleep` that gives a true answer was cut short. Raises what `ask` does, these errors after the last time.
    """
    for delay in delays:
        try:
            return ask()
        except errors as error:
            tell(error, delay)
            if sleep(delay):
                raise
    return ask()


def patiently(
    engine: Engine,
    flow: Callable[[], Flow[T]],
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Run a flow, again where the engine is busy or away. Raises what the flow does."""
    delays = (patience or Patience()).delays()
    return ask_again(lambda: engine.run(flow()), (EngineBusy, EngineUnreachable), delays, _tell, sleep)


def _tell(error: KnnexError, delay: float) -> None:
    log.info("The engine is asked again in %.1f s: %s", delay, error, extra={"action": "engine_busy"})
