"""Asking an index, sync and async: one query, many at once, all hits there are, and where the time goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

from .encoders import query_vectors
from .engines import AsyncEngine, Engine, Flow
from .errors import AccessDenied, EngineBusy, EngineError, EngineUnreachable, QueryError
from .mappings import Stored, check_name, load
from .query import Hit, Hits, Plan, Profile, Query, paging, plan, prepare, profiled, search_all

T = TypeVar("T")
# Seconds for which what the cluster holds is believed: it may be dropped and made again, with another spec or model.
_FRESH = 1.0


class _Reached(Protocol):
    """What asking needs of a cluster."""

    @property
    def engine(self) -> Engine: ...


class _AsyncReached(Protocol):
    async def engine(self) -> AsyncEngine: ...


class Named:
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
    def _query(query: Query | str) -> Query:
        """A text alone asks every embedding of the index."""
        if isinstance(query, str):
            return Query(query)
        if not isinstance(query, Query):
            raise QueryError(f"{query!r:.80} is no query", hint="give a text, Query(...), or Query().where(FILTER)")
        return query

    @staticmethod
    def _several(queries: Sequence[Query | str]) -> list[Query | str]:
        if isinstance(queries, (str, Query)):
            raise QueryError(f"search_many() wants a list of queries, not {queries!r:.80}", hint="use search() for one")
        return list(queries)

    def _plan(self, engine: Engine | AsyncEngine, query: Query | str, stored: Stored) -> Plan:
        return plan(self._query(query), stored, engine.dialect, partial(query_vectors, stored))


class Asking(Named):
    """An index that can be asked."""

    _cluster: _Reached

    @property
    def stored(self) -> Stored:
        """What the cluster holds: index version, spec, fingerprints; asked every second. Raises IndexMissing."""
        return self._fresh() or self._learn(self._cluster.engine.run(load(self.name)))

    def search(self, query: Query | str) -> Hits:
        """The best hits; a plain text asks every embedding. Raises QueryError, EncoderError, EngineError."""
        return self.search_many([query])[0]

    def search_many(self, queries: Sequence[Query | str]) -> list[Hits]:
        """The hits of each query, asked in one round trip (`_msearch`); one that is wrong fails all of them."""
        given = self._several(queries)
        return self._current(lambda: _searched([self.plan(query) for query in given]))

    def scan(self, query: Query | str | None = None, *, page: int = 1000) -> Iterator[Hit]:
        """Every hit of a filter or of words, `page` at a time, as of one point in time and in constant memory.

        In the query's order: by its `sort`, by score where words rank, else as the engine has them. Raises QueryError
        for a query with vectors, which rank every document.
        """
        planned = self._cluster.engine.run(prepare(self.plan(Query() if query is None else query)))
        return self._scan(paging.Scan(planned, page))

    def _scan(self, scan: paging.Scan) -> Iterator[Hit]:
        run = self._cluster.engine.run
        run(scan.opened())
        try:
            while not scan.over:
                yield from run(scan.page())
        finally:
            run(scan.closed())

    def plan(self, query: Query | str) -> Plan:
        """What would be sent, and what is done on the client: `.explain()`, `.to_dict()`, `.to_console()`."""
        return self._plan(self._cluster.engine, query, self.stored)

    def explain(self, query: Query | str) -> list[str]:
        """A line for each step of a search: what is sent where, what is done here, and why. Sends nothing."""
        return self.plan(query).explain()

    def profile(self, query: Query | str) -> Profile:
        """Search once, and tell where the time went; printed it is a table."""
        since = time.perf_counter()
        planned = self.plan(query)
        return self._cluster.engine.run(profiled(planned, (time.perf_counter() - since) * 1000))

    def to_console(self, query: Query | str) -> str:
        """The query for Kibana's or OpenSearch Dashboards' Dev Tools, to be pasted as it is."""
        return self._cluster.engine.run(prepare(self.plan(query))).to_console()

    def _current(self, flow: Callable[[], Flow[T | None]]) -> T:
        """What a flow answers; asked again while the alias moves to another version in between."""
        while True:
            found = self._cluster.engine.run(flow())
            if found is not None:
                return found
            self._stored = None


class AsyncAsking(Named):
    """An index that can be asked, for asyncio: encoding runs in a thread, requests are awaited."""

    _cluster: _AsyncReached
    _asking: asyncio.Lock

    async def _held(self) -> Stored:
        engine = await self._cluster.engine()
        async with self._asking:  # once for all who wait for it
            return self._fresh() or self._learn(await engine.run(load(self.name)))

    async def search(self, query: Query | str) -> Hits:
        """The best hits; a plain text asks every embedding. Raises QueryError, EncoderError, EngineError."""
        return (await self.search_many([query]))[0]

    async def search_many(self, queries: Sequence[Query | str]) -> list[Hits]:
        """The hits of each query, asked in one round trip (`_msearch`); one that is wrong fails all of them."""
        given = self._several(queries)
        while True:
            planned = [await self.plan(query) for query in given]
            found = await (await self._cluster.engine()).run(_searched(planned))
            if found is not None:
                return found
            self._stored = None

    async def scan(self, query: Query | str | None = None, *, page: int = 1000) -> AsyncIterator[Hit]:
        """`Index.scan`; close it (`aclosing`) where it is not read to its end."""
        run = (await self._cluster.engine()).run
        planned = await run(prepare(await self.plan(Query() if query is None else query)))
        scan = paging.Scan(planned, page)
        await run(scan.opened())
        try:
            while not scan.over:
                for hit in await run(scan.page()):
                    yield hit
        finally:
            await run(scan.closed())

    async def plan(self, query: Query | str) -> Plan:
        """What would be sent, and what is done on the client: `.explain()`, `.to_dict()`, `.to_console()`."""
        engine, stored = await self._cluster.engine(), await self._held()
        return await asyncio.to_thread(self._plan, engine, query, stored)

    async def explain(self, query: Query | str) -> list[str]:
        """A line for each step of a search: what is sent where, what is done here, and why. Sends nothing."""
        return (await self.plan(query)).explain()

    async def profile(self, query: Query | str) -> Profile:
        """Search once, and tell where the time went; printed it is a table."""
        since = time.perf_counter()
        planned = await self.plan(query)
        took = (time.perf_counter() - since) * 1000
        return await (await self._cluster.engine()).run(profiled(planned, took))

    async def to_console(self, query: Query | str) -> str:
        """The query for Kibana's or OpenSearch Dashboards' Dev Tools, to be pasted as it is."""
        return (await (await self._cluster.engine()).run(prepare(await self.plan(query)))).to_console()


def _searched(planned: Sequence[Plan]) -> Flow[list[Hits] | None]:
    """The hits of plans; None where the alias has moved to another version since, which may have another model."""
    if not planned:
        return []
    alias, index = planned[0].alias, planned[0].stored.index
    try:
        found = yield from search_all(planned)
    except (EngineUnreachable, EngineBusy, AccessDenied):
        raise
    except (QueryError, EngineError):
        if (yield from load(alias)).index == index:
            raise
        return None
    shown = [hit for hits in found for hit in hits]
    if shown:
        moved = any(hit.index != index for hit in shown)
    else:  # where nothing was sent, nothing can have come from elsewhere
        moved = any(not one.hopeless for one in planned) and (yield from load(alias)).index != index
    return None if moved else found
