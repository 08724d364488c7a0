"""What a worker's main process and its forked children tell each other: flags and rates in shared memory, no locks.

A lock could be held by a child in the moment it is killed, and would then stop all others.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time

_STOP, _GIVE_WAY = 0, 1
_RATES, _SLOTS = 8, 256
_LOOK = 0.05


class Signals(threading.Event):
    """The event that a worker is to stop, for `drain`; set in the main process, it is seen by children that it forked.

    `give_way` also ends a drain, after its batch, but not the worker: something else waits to be done. Each child has
    a slot for its rate.
    """

    def __init__(self) -> None:
        super().__init__()
        self._memory = mmap.mmap(-1, _RATES + 8 * _SLOTS)
        self._owner = os.getpid()

    @property
    def stopping(self) -> bool:
        """Whether the worker is to stop."""
        return self._memory[_STOP] == 1

    def set(self) -> None:
        """The worker is to stop."""
        self._memory[_STOP] = 1
        super().set()

    def is_set(self) -> bool:
        """Whether a drain is to end after the batch at hand."""
        return self.stopping or self._memory[_GIVE_WAY] == 1

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the worker is to stop, `timeout` seconds at most; whether it is."""
        if os.getpid() == self._owner:
            return super().wait(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        while not self.stopping and (until is None or time.monotonic() < until):
            time.sleep(_LOOK if until is None else max(0.0, min(_LOOK, until - time.monotonic())))
        return self.stopping

    def give_way(self, to_others: bool) -> None:
        """Ask a drain to end after its batch, or, as it begins, take that back."""
        self._memory[_GIVE_WAY] = to_others

    def note_rate(self, slot: int, rate: float) -> None:
        """The documents per second of one child while it works; the main process has slot 0."""
        struct.pack_into("d", self._memory, _RATES + 8 * (slot % _SLOTS), rate)

    @property
    def rate(self) -> float:
        """The documents per second of all together, while they work."""
        return float(sum(struct.unpack_from(f"{_SLOTS}d", self._memory, _RATES)))
