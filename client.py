"""The front door: `connect()` to a cluster, take an index, put documents in, ask it questions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np

from .encoders import load_matching, resolve
from .engines import (
    AsyncEngine,
    Engine,
    Flow,
    Request,
    is_async,
    open_async_engine,
    open_engine,
    path_of,
    wrap,
    wrap_async,
)
from .engines.places import access as access_of
from .engines.places import engine_url, log_url
from .errors import LogUnavailable, QueryError
from .ingest import Progress, RedisLog, Report, Target, delete, delete_inline, ingest, ingest_inline, make_target
from .mappings import Spec, Stored, create, drop, find, load, load_spec
from .query import Hits, Plan, Query, plan, prepare, search
from .settings import settings

if TYPE_CHECKING:
    import elasticsearch
    import opensearchpy

Document = Mapping[str, Any]
SpecSource = str | Path | Mapping[str, Any] | Spec


@overload
def connect(
    target: str | elasticsearch.Elasticsearch | opensearchpy.OpenSearch | None = None,
    *,
    asynchronous: Literal[False] = False,
    **access: Any,
) -> Cluster: ...
@overload
def connect(
    target: elasticsearch.AsyncElasticsearch | opensearchpy.AsyncOpenSearch, *, asynchronous: bool = True
) -> AsyncCluster: ...
@overload
def connect(target: str | None = None, *, asynchronous: Literal[True], **access: Any) -> AsyncCluster: ...
def connect(target: Any = None, *, asynchronous: bool = False, **access: Any) -> Cluster | AsyncCluster:
    """Connect to Elasticsearch or OpenSearch.

    `target` is a URL, or a ready client of either engine, sync or async, which keeps its own settings. Without one:
    KNNEX_URL, else the embedded server of `knnex up`, else http://localhost:9200. For a URL, `api_key`, `username`
    and `password`, `ca_certs`, `verify_certs` and `timeout` (seconds) override the KNNEX_* variables of these names;
    `redis_url` is the event log's. `asynchronous=True` makes an AsyncCluster of a URL.

    Raises SettingsError, EngineUnreachable, AccessDenied, EngineError.
    """
    redis_url = access.pop("redis_url", None)
    if target is not None and not isinstance(target, str):
        if access:
            raise QueryError(f"a ready client takes no {', '.join(sorted(access))}", hint="set these on the client")
        return AsyncCluster(client=target) if is_async(target) else Cluster(wrap(target), redis_url)
    url, options = target or engine_url(settings()), access_of(settings(), **access)
    if asynchronous:
        return AsyncCluster(engine=open_async_engine(url, options))
    return Cluster(open_engine(url, options), redis_url)


class _Index:
    """What an index is, sync or async: its name, and how a query for it is planned."""

    def __init__(self, name: str, stored: Stored | None = None) -> None:
        self.name = name
        self._stored = stored

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @staticmethod
    def _query(query: Query | str, stored: Stored) -> Query:
        """A text alone asks every embedding of the index."""
        if isinstance(query, Query):
            return query
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


class Index(_Index):
    """One index of a cluster."""

    def __init__(self, cluster: Cluster, name: str, stored: Stored | None = None) -> None:
        super().__init__(name, stored)
        self._cluster = cluster

    @property
    def stored(self) -> Stored:
        """What the cluster holds: index version, spec, fingerprints. Raises IndexMissing."""
        if self._stored is None:
            self._stored = self._cluster.engine.run(load(self.name))
        return self._stored

    @property
    def spec(self) -> Spec:
        """The spec, as the cluster holds it."""
        return self.stored.spec

    def search(self, query: Query | str) -> Hits:
        """The best hits; a plain text asks every embedding. Raises QueryError, EncoderError, EngineError."""
        return self._cluster.engine.run(search(self.plan(query)))

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
        progress: Callable[[Progress], None] | None = None,
    ) -> Report:
        """Send documents (dicts) through the log to the workers and wait until they are in the index.

        `inline=True` encodes and writes in this process, without log and workers. A document that cannot go in stops
        no other; the report names it and says why. Raises LogUnavailable, IngestIncomplete, EngineError.
        """
        engine = self._cluster.engine
        if inline:
            return ingest_inline(engine, self.target(), documents, progress)
        return ingest(engine, self.spec, documents, self._cluster.log, progress)

    def upsert(self, document: Document, *, inline: bool = False) -> Report:
        """Write one document, and wait until it is in the index."""
        return self.ingest([document], inline=inline)

    def delete(self, *ids: str, inline: bool = False) -> Report:
        """Delete documents by id; a write made before the delete cannot bring them back."""
        if inline:
            return delete_inline(self._cluster.engine, self.target(), ids)
        return delete(self._cluster.engine, self.spec, ids, self._cluster.log)

    def count(self) -> int:
        """How many documents a search sees."""
        return self._cluster.engine.run(_count(self.name))

    def target(self) -> Target:
        """The index as a worker writes to it: with its encoders, and the cache of vectors. Raises ModelMismatch."""
        return make_target(self.name, self.stored)


class Cluster:
    """An Elasticsearch or an OpenSearch, and the event log beside it."""

    def __init__(self, engine: Engine, redis_url: str | None = None) -> None:
        self.engine = engine
        self._redis_url = redis_url
        self._log: RedisLog | None = None

    def __repr__(self) -> str:
        return f"<Cluster {self.engine.dialect} at {self.engine.address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def log(self) -> RedisLog:
        """The event log."""
        if self._log is None:
            self._log = RedisLog(self._redis_url or log_url(settings()))
        return self._log

    def index(self, name: str) -> Index:
        """An index by its name; that it exists is asked when it is used."""
        return Index(self, name)

    def create(self, spec: SpecSource) -> Index:
        """Make the index of a spec (a path, YAML, a dict or a Spec) unless it is there already, and return it.

        Raises SpecError, SpecMismatch where it exists with another spec, ModelUnavailable, UnsupportedByEngine.
        """
        loaded = load_spec(spec)
        stored, _ = self.engine.run(create(loaded, self.engine.dialect, resolve(loaded)))
        return Index(self, loaded.index, stored)

    def exists(self, name: str) -> bool:
        """Whether there is an index of that name, made by knnex."""
        return self.engine.run(find(name)) is not None

    def drop(self, name: str) -> None:
        """Delete an index that knnex made, with all its documents, and what waits for it in the log.

        Raises IndexMissing, SpecMismatch.
        """
        self.engine.run(drop(name))
        with suppress(LogUnavailable):  # without a log nothing waits for it
            self.log.forget(name)

    def close(self) -> None:
        """Close the connections."""
        self.engine.close()
        if self._log is not None:
            self._log.close()


class AsyncIndex(_Index):
    """One index of a cluster, for asyncio: encoding runs in a thread, requests are awaited."""

    def __init__(self, cluster: AsyncCluster, name: str) -> None:
        super().__init__(name)
        self._cluster = cluster

    async def search(self, query: Query | str) -> Hits:
        """The best hits; a plain text asks every embedding. Raises QueryError, EncoderError, EngineError."""
        planned = await self.plan(query)
        return await (await self._cluster.engine()).run(search(planned))

    async def plan(self, query: Query | str) -> Plan:
        """What would be sent, and what is done on the client: `.explain()`, `.to_dict()`, `.to_console()`."""
        engine = await self._cluster.engine()
        if self._stored is None:
            self._stored = await engine.run(load(self.name))
        return await asyncio.to_thread(self._plan, engine, query, self._stored)

    async def count(self) -> int:
        """How many documents a search sees."""
        return await (await self._cluster.engine()).run(_count(self.name))


class AsyncCluster:
    """An Elasticsearch or an OpenSearch, for asyncio."""

    def __init__(self, *, client: Any = None, engine: AsyncEngine | None = None) -> None:
        self._client = client
        self._engine = engine

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def engine(self) -> AsyncEngine:
        """The engine; what a ready client speaks to is asked on first use."""
        if self._engine is None:
            self._engine = await wrap_async(self._client)
        return self._engine

    def index(self, name: str) -> AsyncIndex:
        """An index by its name; that it exists is asked when it is used."""
        return AsyncIndex(self, name)

    async def close(self) -> None:
        """Close the connections."""
        await (self._engine.close() if self._engine else self._client.close())


def _count(index: str) -> Flow[int]:
    yield Request("POST", path_of(index, "_refresh"))
    response = yield Request("GET", path_of(index, "_count"))
    return int(response.body["count"])
