"""One index of a cluster, sync and async: put documents in, ask it questions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import Any, Protocol

from .asking import Asking, AsyncAsking
from .engines import AsyncEngine, Engine, Flow, Request, path_of
from .ingest import EventLog, Lane, Op, Progress, Report, Target, Unchanged, ingest, ingest_inline, make_target
from .ingest.audit import AuditReport, audit
from .ingest.threads import Bridge, in_thread
from .mappings import Spec, Stored
from .mappings.attach import check_own_writes
from .mappings.look import count

Document = Mapping[str, Any]
OnProgress = Callable[[Progress], None]


class _Cluster(Protocol):
    """What an index needs of its cluster."""

    @property
    def engine(self) -> Engine: ...
    @property
    def log(self) -> EventLog: ...


class _AsyncCluster(Protocol):
    @property
    def log(self) -> EventLog: ...
    async def engine(self) -> AsyncEngine: ...


class Index(Asking):
    """One index of a cluster."""

    _cluster: _Cluster

    def __init__(self, cluster: _Cluster, name: str, stored: Stored | None = None) -> None:
        super().__init__(name, stored)
        self._cluster = cluster

    @property
    def spec(self) -> Spec:
        """The spec, as the cluster holds it."""
        return self.stored.spec

    def ingest(
        self,
        documents: Iterable[Any],
        *,
        inline: bool = False,
        op: Op = "upsert",
        lane: Lane = "backfill",
        resume: bool = True,
        unchanged: bool = False,
        progress: OnProgress | None = None,
    ) -> Report:
        """Send documents (dicts, or `read_files`) through the log to the workers and wait until they are in the index.

        Live events go before those of the lane `backfill`. Files of which an earlier run was killed are read on where
        it stopped, unless `resume` is False. Of a backfill, what the index holds already as it is, with vectors of the
        present model, is not sent, unless `unchanged` is True. With op `update` documents hold the fields to change,
        with `delete` ids. `inline=True` encodes and writes in this process, without log and workers, and cannot be
        continued. A document that cannot go in stops no other; the report names it and says why.

        Raises LogUnavailable, IngestIncomplete, EngineError.
        """
        log = None if inline else self._cluster.log
        return _send(
            self.name,
            self._cluster.engine,
            self.stored,
            log,
            documents,
            op,
            lane,
            resume=resume,
            unchanged=unchanged,
            progress=progress,
        )

    def upsert(self, *documents: Document, inline: bool = False) -> Report:
        """Write documents, and wait until they are in the index; they go before any backfill."""
        return self.ingest(documents, inline=inline, lane="live")

    def update(self, *changes: Document, inline: bool = False) -> Report:
        """Change fields of documents: `update({"id": "1", "year": 1999})`; objects are merged, all else is replaced.

        An update waits until everything is written that was accepted before it, a running backfill included. One of a
        document that is not there is among the buried of the report.
        """
        return self.ingest(changes, inline=inline, op="update")

    def delete(self, *ids: Any, inline: bool = False) -> Report:
        """Delete documents by id; a write made before the delete cannot bring them back."""
        return self.ingest(ids, inline=inline, op="delete", lane="live")

    def count(self) -> int:
        """How many documents a search sees."""
        return self._cluster.engine.run(_count(self.name))

    def verify(
        self, *, sample: int | None = None, encode: int = 0, pictures: bool = False, repair: bool = False
    ) -> AuditReport:
        """Whether every vector belongs to its text and to the index's model, of all documents or a sample at random.

        `encode` so many texts again, and compare; read all `pictures` again; `repair` what can be. Raises InputError,
        ModelMismatch, EngineError.
        """
        return audit(
            self._cluster.engine,
            self.stored,
            alias=self.name,
            sample=sample,
            encode=encode,
            pictures=pictures,
            repair=repair,
        )

    def target(self) -> Target:
        """The index as a worker writes to it: with its encoders, and the cache of vectors. Raises ModelMismatch."""
        return make_target(self.name, self.stored)


class AsyncIndex(AsyncAsking):
    """One index of a cluster, for asyncio: encoding runs in a thread, requests are awaited."""

    _cluster: _AsyncCluster

    def __init__(self, cluster: _AsyncCluster, name: str) -> None:
        super().__init__(name)
        self._cluster = cluster
        self._asking = asyncio.Lock()

    async def ingest(
        self,
        documents: Iterable[Any] | AsyncIterable[Any],
        *,
        inline: bool = False,
        op: Op = "upsert",
        lane: Lane = "backfill",
        resume: bool = True,
        unchanged: bool = False,
        progress: OnProgress | None = None,
    ) -> Report:
        """`Index.ingest` of an iterable, which is then drawn from in a thread, or of an async one.

        `progress` is called in the event loop. Cancelling it breaks it off; what was accepted by then stays in the log.
        """
        engine, stored = await self._cluster.engine(), await self._held()
        log = None if inline else self._cluster.log
        loop = asyncio.get_running_loop()

        def show(now: Progress) -> None:
            if progress:
                loop.call_soon_threadsafe(progress, now)

        def work(bridge: Bridge) -> Report:
            through, given = bridge.engine(engine), bridge.documents(documents)
            return _send(
                self.name,
                through,
                stored,
                log,
                given,
                op,
                lane,
                resume=resume,
                unchanged=unchanged,
                progress=show,
                sleep=bridge.sleep,
            )

        return await in_thread(work)

    async def upsert(self, *documents: Document, inline: bool = False) -> Report:
        """Write documents, and wait until they are in the index; they go before any backfill."""
        return await self.ingest(documents, inline=inline, lane="live")

    async def update(self, *changes: Document, inline: bool = False) -> Report:
        """Change fields of documents, after all that was accepted before; see `Index.update`."""
        return await self.ingest(changes, inline=inline, op="update")

    async def delete(self, *ids: Any, inline: bool = False) -> Report:
        """Delete documents by id; a write made before the delete cannot bring them back."""
        return await self.ingest(ids, inline=inline, op="delete", lane="live")

    async def count(self) -> int:
        """How many documents a search sees."""
        return await (await self._cluster.engine()).run(_count(self.name))


def _send(
    name: str,
    engine: Engine,
    stored: Stored,
    log: EventLog | None,
    documents: Iterable[Any],
    op: Op,
    lane: Lane,
    *,
    resume: bool = True,
    unchanged: bool = False,
    progress: OnProgress | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Report:
    """Through the log, or without one here and now. Raises SpecMismatch for an index that others fill."""
    check_own_writes(stored)
    if log is None:
        return ingest_inline(engine, make_target(name, stored), documents, progress, op=op, sleep=sleep)
    look = op == "upsert" and lane == "backfill" and not unchanged
    changed = Unchanged(engine, stored, log).changed if look else None
    return ingest(
        engine, stored.spec, documents, log, progress, op=op, lane=lane, resume=resume, changed=changed, sleep=sleep
    )


def _count(index: str) -> Flow[int]:
    yield Request("POST", path_of(index, "_refresh"))
    return (yield from count(index))
