"""Trying one event in another process, which may die of it: the worker's end; the other one is keeper.py."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Literal

from ..ingest import Event, Target
from .keeper import ALIVE, DIED, IMPOSSIBLE, OPEN, READY, TRY, Died, Outcome, Raised, Recipe, Survived, Unjudged

__all__ = ["Died", "Outcome", "Quarantine", "Raised", "Readiness", "Survived", "Unjudged"]

log = logging.getLogger(__name__)

Readiness = Literal["ready", "starting", "impossible"]

# Seconds: until a process that loads a model is given up, until one that does not keep a deadline itself is ended, and
# after which one that has nothing to do ends; how long a target stays refused that could not be opened there.
_START, _GRACE, _IDLE, _REFUSED = 300.0, 30.0, 60.0, 600.0
# Its environment: on the CPU, and with one thread, since others would not survive its forks.
_ENVIRONMENT = {
    "KNNEX_DEVICE": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_CODE = "from knnex.workers.keeper import keep; keep({handle}, {idle}, {max_bytes}, {worker})"


def _recipe(target: Target) -> Recipe:
    """Encoders that knnex loads by name go by name: their weights need no journey."""
    from ..encoders import TextEncoder

    given = {name: encoder for name, encoder in target.encoders.items() if not isinstance(encoder, TextEncoder)}
    beside = tuple(_recipe(other) for other in target.beside)
    return Recipe(target.alias, target.stored, given, target.cache, beside)


class Quarantine:
    """A process in which events are tried alone; started when it is first needed, ended when it is idle or closed.

    `max_bytes` bounds the memory that it may take beyond that of the models (RLIMIT_AS). For one thread.
    Encoders that knnex loads by name are loaded there in the same way; others travel by pickle, and where one cannot,
    or where the process cannot be started, `open` answers "impossible".
    """

    def __init__(self, max_bytes: int | None = None, *, idle: float = _IDLE) -> None:
        self._max_bytes, self._idle = max_bytes, idle
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        # What is open or being opened there, whether it is, and since when; and what cannot be opened.
        self._target: Target | None = None
        self._state: Readiness = "starting"
        self._since = 0.0
        self._refused: dict[int, tuple[Target, float]] = {}
        self._patience = self._until = 0.0
        self._opening = threading.Lock()

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def open(self, target: Target, wait: float = 0.0) -> Readiness:
        """Whether events of a target can be tried, after `wait` seconds at most; asked again until it is no more
        "starting", which takes as long as loading the models."""
        with self._opening:
            if self._is_refused(target):
                return "impossible"
            if self._target == target and self._state == "ready" and self._lost():
                self._end()
            # Two threads may have opened the same target, each for itself: what is being started serves both.
            if self._target != target:
                self._begin_opening(target)
            if self._state == "starting":
                self._hear_of_opening(wait)
            return "impossible" if self._is_refused(target) else self._state

    def warm(self, target: Target) -> None:
        """Start the process, if there is none, where it may soon be needed; from any thread."""
        with self._opening:
            if self.pid is None and not self._is_refused(target):
                self._begin_opening(target)

    def begin(self, events: Event | Sequence[Event], seconds: float) -> None:
        """Try an event, or several at once. The model must answer within so many seconds, each time it is asked.

        After `open` is ready.
        """
        self._patience = seconds + _GRACE
        self._until = time.monotonic() + self._patience
        self._send(
            TRY
            + int(seconds * 1000).to_bytes(8, "big")
            + pickle.dumps([events] if isinstance(events, Event) else list(events))
        )

    def outcome(self, wait: float) -> Outcome | None:
        """What became of the event, after `wait` seconds at most; None while it is still tried."""
        connection = self._connection
        if connection is None:
            return Died("its process could not be reached")
        try:
            if not connection.poll(wait):
                return self._overdue()
            answer = connection.recv_bytes()
        except (EOFError, OSError):
            self._end()
            return Died("the process that keeps the models ended with it")
        kind, body = answer[:1], answer[1:]
        if kind == ALIVE:
            self._until = time.monotonic() + self._patience
            return None
        if kind == DIED:
            return Died(body.decode(errors="replace"))
        if kind == IMPOSSIBLE:
            return self._unjudged(body.decode(errors="replace"))
        outcome: Outcome = pickle.loads(body)  # noqa: S301 - from the process that we started
        return outcome

    def close(self) -> None:
        """End the process, whatever it does."""
        self._end()

    def _unjudged(self, why: str) -> Unjudged:
        if self._target:
            self._refuse(self._target, why)
        return Unjudged(why)

    def _overdue(self) -> Died | None:
        """The process keeps the deadline, unless something is wrong with itself."""
        if time.monotonic() < self._until:
            return None
        self._end()
        return Died("its process gave no answer")

    def _is_refused(self, target: Target) -> bool:
        refused = self._refused.get(id(target))
        return refused is not None and time.monotonic() < refused[1]

    def _begin_opening(self, target: Target) -> None:
        try:
            recipe = pickle.dumps(_recipe(target))
        except Exception as error:  # what a foreign encoder's pickling raises is its own business
            self._refuse(target, f"its encoders cannot be pickled: {error}")
            return
        if self._lost() or (self._target and self._state == "starting"):
            self._end()
        try:
            if self._process is None:
                self._start()
        except (OSError, ValueError) as error:
            self._refuse(target, f"no process could be started: {error}")
            return
        self._target, self._state, self._since = target, "starting", time.monotonic()
        self._send(OPEN + recipe)

    def _hear_of_opening(self, wait: float) -> None:
        if self._connection is None or self._target is None:
            return
        try:
            if not self._connection.poll(wait):
                if time.monotonic() - self._since > _START:
                    self._refuse(self._target, f"it was not ready after {_START:g} s")
                return
            answer = self._connection.recv_bytes()
        except (EOFError, OSError):
            self._refuse(self._target, "the process ended")
            return
        if answer[:1] == READY:
            self._state = "ready"
        else:
            self._refuse(self._target, answer[1:].decode(errors="replace"))

    def _refuse(self, target: Target, reason: str) -> None:
        log.warning(
            "Documents for %s that may kill are tried in the worker itself: %s",
            target.alias,
            reason,
            extra={"action": "no_quarantine", "index": target.alias},
        )
        # Kept, so that its id is not another's.
        self._refused[id(target)] = (target, time.monotonic() + _REFUSED)
        self._end()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            handle = theirs.fileno()
            code = _CODE.format(handle=handle, idle=self._idle, max_bytes=self._max_bytes, worker=os.getpid())
            path = os.pathsep.join(entry for entry in sys.path if entry)
            # A session of its own, so that Ctrl-C, meant for the worker, does not look like a document's doing.
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", code],
                env={**os.environ, "PYTHONPATH": path, **_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[handle],
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        log.info(
            "Trying documents in process %d",
            self._process.pid,
            extra={"action": "quarantine_started", "pid": self._process.pid},
        )

    def _send(self, message: bytes) -> None:
        if self._connection:
            with suppress(OSError):  # that it is gone shows where its answer is read
                self._connection.send_bytes(message)

    def _lost(self) -> bool:
        """Whether the process ended by itself, such as for being idle."""
        if self._connection is None:
            return self._process is not None
        try:
            # Nothing is asked, so that the only thing to be read is the end.
            return self._connection.poll(0)
        except OSError:
            return True

    def _end(self) -> None:
        process, connection = self._process, self._connection
        self._process = self._connection = self._target = None
        self._state = "starting"
        if connection:
            connection.close()
        if process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.kill()
            process.wait()
