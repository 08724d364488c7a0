"""One index of a cluster, sync and async: put documents in, ask it questions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from .encoders import load_matching
from .engines import AsyncEngine, Engine, Flow, Request, path_of
from .errors import AccessDenied, EngineBusy, EngineError, EngineUnreachable, QueryError
from .ingest import EventLog, Lane, Op, Progress, Report, Target, ingest, ingest_inline, make_target
from .ingest.audit import AuditReport, audit
from .ingest.threads import Bridge, in_thread
from .mappings import Spec, Stored, check_name, load
from .mappings.attach import check_own_writes
from .query import Hits, Plan, Query, plan, prepare, search

Document = Mapping[str, Any]
OnProgress = Callable[[Progress], None]

# Seconds for which what the cluster holds is believed: it may be dropped and made again, with another spec or model.
_FRESH = 1.0


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


class _Index:
    """What an index is, sync or async: its name, and how a query for it is planned."""

    def __init__(self, name: str, stored: Stored | None = None) -> None:
        self.name = check_name(name)
        self._stored = stored
        self._asked = time.monotonic()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def _fresh(self) -> Stored | None:
        """What the cluster held a moment ago, if it was asked and is not known to have changed since."""
        return self._stored if time.monotonic() - self._asked < _FRESH else None

    def _learn(self, stored: Stored) -> Stored:
        # Kept as it is where nothing changed: its names are known by then.
        if self._stored != stored:
            self._stored = stored
        self._asked = time.monotonic()
        return self._stored or stored

    @staticmethod
    def _query(query: Query | str, stored: Stored) -> Query:
        """A text alone asks every embedding of the index."""
        if isinstance(query, Query):
            return query
        if not isinstance(query, str):
            raise QueryError(f"{query!r:.80} is no query", hint="give a text, Query(...), or Query().where(FILTER)")
        if not stored.spec.embeddings:
            raise QueryError(f"index {stored.spec.index!r} has no embedding", hint="ask with Query(...).lexical(FIELD)")
        asked = Query(query)
        for name in stored.spec.embeddings:
            asked = asked.semantic(name)
        return asked

    @staticmethod
    def _encode(stored: Stored, name: str, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """(n, dims) float32, by the model that filled the index. Raises ModelMismatch, ModelUnavailable."""
        vectors = load_matching(stored, name).encode_queries(texts)
        if stored.spec.embeddings[name].similarity == "dot_product" and len(vectors):
            # Defined for unit length only; documents are stored so too.
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors, dtype=np.float32)

    def _plan(self, engine: Engine | AsyncEngine, query: Query | str, stored: Stored) -> Plan:
        def encode(name: str, texts: Sequence[str]) -> np.ndarray[Any, Any]:
            return self._encode(stored, name, texts)

        return plan(self._query(query, stored), stored, engine.dialect, encode)

    def _send(
        self,
        engine: Engine,
        stored: Stored,
        log: EventLog | None,
        documents: Iterable[Any],
        op: Op,
        lane: Lane,
        *,
        resume: bool = True,
        progress: OnProgress | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> Report:
        """Through the log, or without one here and now. Raises SpecMismatch for an index that others fill."""
        check_own_writes(stored)
        if log is None:
            return ingest_inline(engine, make_target(self.name, stored), documents, progress, op=op, sleep=sleep)
        return ingest(engine, stored.spec, documents, log, progress, op=op, lane=lane, resume=resume, sleep=sleep)


class Index(_Index):
    """One index of a cluster."""

    def __init__(self, cluster: _Cluster, name: str, stored: Stored | None = None) -> None:
        super().__init__(name, stored)
        self._cluster = cluster

    @property
    def stored(self) -> Stored:
        """What the cluster holds: index version, spec, fingerprints; asked every second. Raises IndexMissing."""
        return self._fresh() or self._learn(self._cluster.engine.run(load(self.name)))

    @property
    def spec(self) -> Spec:
        """The spec, as the cluster holds it."""
        return self.stored.spec

    def search(self, query: Query | str) -> Hits:
        """The best hits; a plain text asks every embedding. Raises QueryError, EncoderError, EngineError."""
        while True:
            planned = self.plan(query)
            found = self._cluster.engine.run(_searched(planned))
            if found is not None:
                return found
            self._stored = None

    def plan(self, query: Query | str) -> Plan:
        """What would be sent, and what is done on the client: `.explain()`, `.to_dict()`, `.to_console()`."""
        return self._plan(self._cluster.engine, query, self.stored)

    def to_console(self, query: Query | str) -> str:
        """The query for Kibana's or OpenSearch Dashboards' Dev Tools, to be pasted as it is."""
        return self._cluster.engine.run(prepare(self.plan(query))).to_console()

    def ingest(
        self,
        documents: Iterable[Any],
        *,
        inline: bool = False,
        op: Op = "upsert",
        lane: Lane = "backfill",
        resume: bool = True,
        progress: OnProgress | None = None,
    ) -> Report:
        """Send documents (dicts, or `read_files`) through the log to the workers and wait until they are in the index.

        Live events go before those of the lane `backfill`. Files of which an earlier run was killed are read on where
        it stopped, unless `resume` is False. With op `update` documents hold the fields to change, with `delete` ids.
        `inline=True` encodes and writes in this process, without log and workers, and cannot be continued. A document
        that cannot go in stops no other; the report names it and says why.

        Raises LogUnavailable, IngestIncomplete, EngineError.
        """
        log = None if inline else self._cluster.log
        return self._send(self._cluster.engine, self.stored, log, documents, op, lane, resume=resume, progress=progress)

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

    def verify(self, *, sample: int | None = None, encode: int = 0, repair: bool = False) -> AuditReport:
        """Whether every vector belongs to its text and to the index's model, of all documents or a sample at random.

        `encode` so many texts again, and compare; `repair` what can be. Raises ModelMismatch, EngineError.
        """
        return audit(self._cluster.engine, self.stored, alias=self.name, sample=sample, encode=encode, repair=repair)

    def target(self) -> Target:
        """The index as a worker writes to it: with its encoders, and the cache of vectors. Raises ModelMismatch."""
        return make_target(self.name, self.stored)


class AsyncIndex(_Index):
    """One index of a cluster, for asyncio: encoding runs in a thread, requests are awaited."""

    def __init__(self, cluster: _AsyncCluster, name: str) -> None:
        super().__init__(name)
        self._cluster = cluster
        self._asking = asyncio.Lock()

    async def search(self, query: Query | str) -> Hits:
        """The best hits; a plain text asks every embedding. Raises QueryError, EncoderError, EngineError."""
        while True:
            planned = await self.plan(query)
            found = await (await self._cluster.engine()).run(_searched(planned))
            if found is not None:
                return found
            self._stored = None

    async def plan(self, query: Query | str) -> Plan:
        """What would be sent, and what is done on the client: `.explain()`, `.to_dict()`, `.to_console()`."""
        engine, stored = await self._cluster.engine(), await self._held()
        return await asyncio.to_thread(self._plan, engine, query, stored)

    async def _held(self) -> Stored:
        engine = await self._cluster.engine()
        async with self._asking:  # once for all who wait for it
            return self._fresh() or self._learn(await engine.run(load(self.name)))

    async def ingest(
        self,
        documents: Iterable[Any] | AsyncIterable[Any],
        *,
        inline: bool = False,
        op: Op = "upsert",
        lane: Lane = "backfill",
        resume: bool = True,
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
            return self._send(through, stored, log, given, op, lane, resume=resume, progress=show, sleep=bridge.sleep)

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


def _searched(planned: Plan) -> Flow[Hits | None]:
    """The hits of a plan; None where the alias has moved to another version since, which may have another model."""
    try:
        found = yield from search(planned)
    except (EngineUnreachable, EngineBusy, AccessDenied):
        raise
    except (QueryError, EngineError):
        if (yield from load(planned.alias)).index == planned.stored.index:
            raise
        return None
    if found.hits:
        moved = any(hit.index != planned.stored.index for hit in found)
    else:
        moved = (yield from load(planned.alias)).index != planned.stored.index
    return None if moved else found


def _count(index: str) -> Flow[int]:
    yield Request("POST", path_of(index, "_refresh"))
    response = yield Request("GET", path_of(index, "_count"))
    return int(response.body["count"])
