"""The processes in which a document is tried on which a worker may have died; their other end is quarantine.py.

The keeper is a fresh interpreter, with its models on the CPU and on one thread: a fork of the worker would inherit its
threads and its GPU, neither of which survives that. It has the models in memory and never looks into a document, which
it hands on to a fork of itself, the cell. So whatever a document does, the next cell is there in milliseconds, and not
after the many seconds that loading a model takes. The end of the worker ends the keeper.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from ..encoders import PROBE, Cache, Encoder, load_matching
from ..encoders.pulse import watched
from ..errors import EncoderError
from ..ingest import Event, Target
from ..ingest.apply import prepare_all
from ..ingest.prepare import Prepared
from ..mappings import Stored

# What goes over the connection: one byte, then whatever belongs to it. To the keeper: open a target (a recipe), try an
# event (8 bytes of milliseconds, the event). From it: what became of the target, or of the event; that it is at work.
OPEN, TRY = b"O", b"T"
READY, IMPOSSIBLE, DIED, TOLD, ALIVE = b"R", b"I", b"D", b"A", b"."
# Seconds for the first sign of life of a cell, which tries each model on a plain word.
_PATIENCE = 120.0
# Seconds between two looks whether the worker lives.
_LOOK = 0.5


@dataclass(frozen=True)
class Recipe:
    """How to open a target in another process: encoders that are not `given` are loaded as a worker loads them."""

    alias: str
    stored: Stored
    given: Mapping[str, Encoder]
    cache: Cache | None
    beside: tuple[Recipe, ...] = ()

    def target(self) -> Target:
        """The target. Raises ModelUnavailable, ModelMismatch, and whatever the unpickling of encoders does."""
        names = self.stored.spec.embeddings
        encoders = {name: self.given.get(name) or load_matching(self.stored, name) for name in names}
        return Target(self.alias, self.stored, encoders, self.cache, tuple(one.target() for one in self.beside))


@dataclass(frozen=True)
class Survived:
    """The event did no harm: its documents, with vectors."""

    prepared: Prepared


@dataclass(frozen=True)
class Raised:
    """Preparing it failed with an error; `broken` when the model fails on a plain word too."""

    reason: str
    broken: bool = False
    hint: str | None = None


@dataclass(frozen=True)
class Died:
    """The process ended, or was ended since it gave no answer."""

    how: str


@dataclass(frozen=True)
class Unjudged:
    """The event was not tried: no process could be had."""

    why: str


Outcome = Survived | Raised | Died | Unjudged


def keep(handle: int, idle: float, max_bytes: int | None, worker: int) -> None:
    """Serve the worker, a process, at the other end of a socket until it ends or closes it, or is silent for `idle`
    seconds."""
    threading.Thread(target=_end_with, args=(worker,), daemon=True).start()
    logging.disable(logging.CRITICAL)  # the worker tells what became of a document
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the worker; here they would look like a document's doing
        signal.signal(number, signal.SIG_IGN)
    keeper = _Keeper(Connection(handle), max_bytes)
    try:
        while keeper.parent.poll(idle):
            keeper.answer(keeper.parent.recv_bytes())
    except (EOFError, OSError):
        pass  # the worker is gone
    finally:
        keeper.end_cell()


def _end_with(worker: int) -> None:
    """End with the worker even while models are loaded: where workers die one after the other, the keepers of the dead
    would take the processor from those that live."""
    while os.getppid() == worker:
        time.sleep(_LOOK)
    os._exit(0)


class _Keeper:
    def __init__(self, parent: Connection, max_bytes: int | None) -> None:
        self.parent, self.max_bytes = parent, max_bytes
        self.target: Target | None = None
        self.cell: tuple[int, Connection] | None = None

    def answer(self, message: bytes) -> None:
        """Do what a message asks."""
        if message[:1] == OPEN:
            self.parent.send_bytes(self._open(message[1:]))
        else:
            self.parent.send_bytes(self._try(int.from_bytes(message[1:9], "big") / 1000, message[9:]))

    def end_cell(self, kill: bool = True) -> str:
        """Wait for the end of the cell, or bring it about; how it ended."""
        if self.cell is None:
            return ""
        pid, connection = self.cell
        self.cell = None
        connection.close()
        if kill:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return _how(os.waitpid(pid, 0)[1])

    def _open(self, recipe: bytes) -> bytes:
        self.end_cell()
        try:
            self.target = pickle.loads(recipe).target()  # noqa: S301 - from the worker that started this process
        except Exception as error:  # whatever it is, the worker has to do without
            return IMPOSSIBLE + f"{type(error).__name__}: {error}".encode(errors="replace")
        return READY if self._has_cell() else IMPOSSIBLE + b"the model does not work in a forked process"

    def _try(self, seconds: float, event: bytes) -> bytes:
        if not self._has_cell() or self.cell is None:
            return IMPOSSIBLE + b"no process could be forked any more"
        _, cell = self.cell
        try:
            cell.send_bytes(event)
            while cell in wait([cell, self.parent], seconds):
                answer = cell.recv_bytes()
                if answer != ALIVE:
                    return TOLD + answer
                self.parent.send_bytes(ALIVE)
        except (EOFError, OSError):
            return DIED + self.end_cell(kill=False).encode()
        self.end_cell()
        return DIED + f"it gave no answer within {seconds:g} s".encode()

    def _has_cell(self) -> bool:
        """Whether there is a cell, forked now if need be; one that dies before it saw a document is none."""
        if self.cell and self.cell[1].poll(0):  # it has nothing to say by itself but that it is gone
            self.end_cell()
        if self.cell is None and self.target is not None:
            self.cell = _fork(self.target, self.parent, self.max_bytes)
            _, cell = self.cell
            try:
                alive = cell in wait([cell, self.parent], _PATIENCE) and cell.recv_bytes() == ALIVE
            except (EOFError, OSError):
                alive = False
            if not alive:
                self.end_cell()
        return self.cell is not None


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"it ended with code {code}"
    with suppress(ValueError):
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it was ended by signal {-code}"


def _fork(target: Target, parent: Connection, max_bytes: int | None) -> tuple[int, Connection]:
    ours, theirs = Pipe()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    code = 1
    try:
        parent.close()  # or the worker would not see the end of the keeper
        ours.close()
        _serve(theirs, target, max_bytes)
        code = 0
    except (EOFError, OSError):
        code = 0
    finally:
        os._exit(code)


def _serve(connection: Connection, target: Target, max_bytes: int | None) -> None:
    """The life of a cell."""
    _die_first()
    for encoder in (encoder for one in (target, *target.beside) for encoder in one.encoders.values()):
        with suppress(Exception):  # told when a document needs it
            encoder.encode_documents([PROBE])
    if max_bytes is not None:
        _limit_memory(max_bytes)
    connection.send_bytes(ALIVE)
    while True:
        events = pickle.loads(connection.recv_bytes())  # noqa: S301 - from the worker that started this process
        with watched(lambda: connection.send_bytes(ALIVE)):
            outcome = _prepared(target, events)
        connection.send_bytes(pickle.dumps(outcome))


def _prepared(target: Target, events: Sequence[Event]) -> Outcome:
    try:
        return Survived(prepare_all(target, events))
    except EncoderError as error:
        return Raised(str(error), True, error.hint)
    except Exception as error:  # whatever it is, this event alone brings it about
        return Raised(f"{type(error).__name__}: {error}")


def _die_first() -> None:
    """Where memory is short it is this process that the kernel ends, and it goes with the keeper."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _limit_memory(max_bytes: int) -> None:
    """So many bytes more than now; where the kernel does not tell how many these are, nothing is limited."""
    import resource

    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + max_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
