"""Who re-indexes an alias, and how far that is: one document for each alias in a small hidden index of the cluster.

It is changed only under the sequence number that was read, so that of two coordinators one goes on and the other stops.
The holder gives a sign of life; one that gives none for a while, or whose process is gone, may be taken over.
"""

from __future__ import annotations

import getpass
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from ...engines import Engine, Flow, Request, path_of
from ...errors import AlreadyRunning, DocumentChanged, EngineError, IndexMissing, ReindexStopped, RequestRejected
from .fencing import by, fence

CONTROL = "knnex-control"
#: Seconds without a sign of life after which a coordinator counts as gone.
TTL = 15.0

_MISSING = frozenset({404})
_BODY = {
    "settings": {"index": {"number_of_shards": 1, "auto_expand_replicas": "0-1", "hidden": True}},
    "mappings": {"dynamic": False, "properties": {}},
}

Checkpoints = Mapping[str, tuple[str, int]]


@dataclass(frozen=True)
class Quality:
    """How good a version was found to be, the telling figure first: `{"nDCG@10": 0.45, "recall@100": 0.8}`.

    `by` is what it was held against, such as the name of a file of judgments; `at` is in ms since 1970.
    """

    figures: Mapping[str, float]
    by: str
    queries: int
    at: int
    # When the version was made, in ms since 1970: an index that has its name after it is not meant.
    created: int = 0

    def __str__(self) -> str:
        name, value = next(iter(self.figures.items()))
        return f"{name} {value:.4f}"


@dataclass(frozen=True)
class Control:
    """What is kept of an alias: `step` is empty where nothing is under way."""

    alias: str
    owner: str = ""
    epoch: int = 0
    step: str = ""
    source: str = ""
    target: str = ""
    # How far each shard of the source was copied.
    cursors: Checkpoints = field(default_factory=dict)
    # Settings of the target that wait until it is filled.
    settings: Mapping[str, Any] = field(default_factory=dict)
    # Former versions, with the checkpoints of the one that took their place: what is newer they lack.
    kept: Mapping[str, Checkpoints] = field(default_factory=dict)
    # How good versions were found to be, by their names.
    quality: Mapping[str, Quality] = field(default_factory=dict)
    # How often the alias was moved.
    moves: int = 0
    seq_no: int = -1
    primary_term: int = 0

    @property
    def holder(self) -> str:
        """Who holds it, for people."""
        if not self.owner:
            return "somebody who has just ended"
        user, host, pid, *_ = self.owner.split(" ")
        return f"process {pid} of {user} on {host}"


def read(alias: str) -> Flow[Control]:
    """What is kept of an alias."""
    response = yield Request("GET", path_of(CONTROL, "_doc", alias), allow=_MISSING)
    if response.status == 404 or not response.body.get("found"):
        return Control(alias)
    body = _known(Control, response.body["_source"])
    body["quality"] = {name: Quality(**_known(Quality, one)) for name, one in body.get("quality", {}).items()}
    return Control(**body | {"seq_no": response.body["_seq_no"], "primary_term": response.body["_primary_term"]})


def _known(kind: type, body: Mapping[str, Any]) -> dict[str, Any]:
    """What this knnex knows of it: another one may have written more."""
    names = {one.name for one in fields(kind)}
    return {key: value for key, value in body.items() if key in names}


def write(control: Control) -> Flow[Control]:
    """Keep it, if nobody else has since it was read. Raises DocumentChanged."""
    if control.seq_no < 0:
        yield from _make()
        params = {"op_type": "create"}
    else:
        params = {"if_seq_no": str(control.seq_no), "if_primary_term": str(control.primary_term)}
    body = asdict(control)
    del body["seq_no"], body["primary_term"]
    response = yield Request("PUT", path_of(CONTROL, "_doc", control.alias), params, body)
    return replace(control, seq_no=response.body["_seq_no"], primary_term=response.body["_primary_term"])


def _make() -> Flow[None]:
    try:
        yield Request("PUT", path_of(CONTROL), body=_BODY)
    except RequestRejected as error:
        if "resource_already_exists_exception" not in str(error):
            raise


class Lock:
    """The right to re-index one alias. `sleep` is asked to wait; without `beats` the caller gives the signs of life."""

    def __init__(
        self,
        engine: Engine,
        alias: str,
        *,
        ttl: float = TTL,
        beats: bool = True,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.engine, self.ttl, self.beats, self.sleep = engine, ttl, beats, sleep
        self.control = Control(alias)
        self._owner = f"{_place()} {uuid4().hex[:8]}"
        self._changing = threading.Lock()
        self._lost = ""

    @contextmanager
    def held(self) -> Iterator[Control]:
        """Take it, keep it, give it back. Raises AlreadyRunning."""
        self._take()
        over = threading.Event()
        thread = threading.Thread(target=self._beat, args=(over,), name="knnex-reindex-lock", daemon=True)
        if self.beats:
            thread.start()
        try:
            yield self.control
        except (IndexMissing, RequestRejected, ReindexStopped):
            # What another coordinator keeps us from fails in many ways: it says so.
            with suppress(EngineError):
                self.save()
            raise
        finally:
            over.set()
            if self.beats:
                thread.join()
            self._give_back()

    def fence(self, index: str) -> None:
        """From here on no coordinator before this one changes an index. Raises ReindexStopped, EngineError."""
        self.engine.run(fence(index, self.control.epoch))
        # One that has taken over before that did not see it, and may not meet it.
        self.save()

    def by(self, index: str) -> str:
        """The name by which this coordinator changes an index that it has fenced."""
        return by(index, self.control.epoch)

    def save(self, **changes: Any) -> Control:
        """Keep changes. Raises ReindexStopped where another coordinator has taken over."""
        with self._changing:
            if self._lost:
                raise _taken(self._lost)
            try:
                self.control = self.engine.run(write(replace(self.control, **changes)))
            except DocumentChanged:
                self._recover(changes)
            return self.control

    def _recover(self, changes: Mapping[str, Any]) -> None:
        """An answer may have been lost after the write was done: then it is our own."""
        now = self.engine.run(read(self.control.alias))
        if now.owner != self._owner:
            self._lost = f"{now.holder if now.owner else 'somebody else'} has taken over the re-index of {now.alias}"
            raise _taken(self._lost)
        self.control = self.engine.run(write(replace(now, **changes)))

    def _take(self) -> None:
        alias = self.control.alias
        found = self.engine.run(read(alias))
        if found.owner and found.owner != self._owner and not _dead(found.owner):
            found = self._watched(found)
        try:
            self.control = self.engine.run(write(replace(found, owner=self._owner, epoch=found.epoch + 1)))
        except DocumentChanged:
            now = self.engine.run(read(alias))
            if now.owner != self._owner:
                raise _running(now) from None
            self.control = now

    def _watched(self, found: Control) -> Control:
        """The same once more when its holder gave no sign of life; clocks of other machines are not believed."""
        waited, step = 0.0, self.ttl / 20
        while waited < self.ttl:
            self.sleep(step)
            waited += step
            now = self.engine.run(read(found.alias))
            if not now.owner:
                return now
            if now.seq_no != found.seq_no:
                raise _running(now)
        return found

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(self.ttl / 5):
            try:
                self.save()
            except EngineError:  # it is tried again; whether it was too late shows then
                continue
            except ReindexStopped:
                return

    def _give_back(self) -> None:
        try:
            self.save(owner="")
        except (ReindexStopped, EngineError, IndexMissing):
            return  # it is another's now, or will be once no sign of life comes


def _taken(lost: str) -> ReindexStopped:
    return ReindexStopped(lost, hint="see how far it is with `knnex versions`")


def _running(now: Control) -> AlreadyRunning:
    return AlreadyRunning(
        f"{now.alias} is being re-indexed by {now.holder}, at the step {now.step or 'start'!r}",
        hint="wait for it, or stop that process; what it did is kept and taken up",
    )


def _place() -> str:
    """User, host and process; on Linux the host's boot and process namespace too, without which a pid says little."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
        where = f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        where = ""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user id without a name
        user = str(os.getuid())
    return f"{user.replace(' ', '_')} {socket.gethostname()} {os.getpid()} {where}".rstrip()


def _dead(owner: str) -> bool:
    """Whether it was a process of this very machine that is gone."""
    mine, theirs = _place().split(" "), owner.split(" ")
    if len(mine) < 4 or theirs[1:2] + theirs[3:4] != mine[1:2] + mine[3:4] or theirs[2] == mine[2]:
        return False
    try:
        os.kill(int(theirs[2]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False
