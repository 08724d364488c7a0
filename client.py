"""The front door: `connect()` to a cluster, take an index, put documents in, ask it questions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from .encoders import resolve
from .engines import (
    AsyncEngine,
    Engine,
    is_async,
    open_async_engine,
    open_engine,
    wrap,
    wrap_async,
)
from .engines.places import access as access_of
from .engines.places import engine_url
from .engines.places import log_url as default_log_url
from .errors import LogUnavailable, SettingsError
from .index import AsyncIndex, Index
from .ingest import EventLog, open_log
from .mappings import Spec, create, drop, find, load_spec
from .settings import settings

if TYPE_CHECKING:
    import elasticsearch
    import opensearchpy

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
    target: elasticsearch.AsyncElasticsearch | opensearchpy.AsyncOpenSearch,
    *,
    asynchronous: bool = True,
    **access: Any,
) -> AsyncCluster: ...
@overload
def connect(target: str | None = None, *, asynchronous: Literal[True], **access: Any) -> AsyncCluster: ...
def connect(target: Any = None, *, asynchronous: bool = False, **access: Any) -> Cluster | AsyncCluster:
    """Connect to Elasticsearch or OpenSearch.

    `target` is a URL, or a ready client of either engine, sync or async, which keeps its own settings. Without one:
    KNNEX_URL, else the embedded server of `knnex up`, else http://localhost:9200. For a URL, `api_key`, `username`
    and `password`, `ca_certs`, `verify_certs` and `timeout` (seconds) override the KNNEX_* variables of these names;
    `log_url` (or `redis_url`) is the event log's, KNNEX_LOG_URL without it. `asynchronous=True` makes an AsyncCluster
    of a URL.

    Raises SettingsError, EngineUnreachable, AccessDenied, EngineError.
    """
    redis_url = access.pop("redis_url", None)
    log_url = access.pop("log_url", None) or redis_url
    if target is not None and not isinstance(target, str):
        if access:
            raise SettingsError(f"a ready client takes no {', '.join(sorted(access))}", hint="set these on the client")
        return AsyncCluster(client=target, log_url=log_url) if is_async(target) else Cluster(wrap(target), log_url)
    url, options = target or engine_url(settings()), access_of(settings(), **access)
    if asynchronous:
        return AsyncCluster(engine=open_async_engine(url, options), log_url=log_url)
    return Cluster(open_engine(url, options), log_url)


class _Logged:
    """Opens the event log when it is needed first."""

    def __init__(self, log_url: str | None) -> None:
        self._log_url = log_url
        self._log: EventLog | None = None

    @property
    def log(self) -> EventLog:
        """The event log."""
        if self._log is None:
            self._log = open_log(self._log_url or default_log_url(settings()))
        return self._log

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()


class Cluster(_Logged):
    """An Elasticsearch or an OpenSearch, and the event log beside it."""

    def __init__(self, engine: Engine, log_url: str | None = None) -> None:
        super().__init__(log_url)
        self.engine = engine

    def __repr__(self) -> str:
        return f"<Cluster {self.engine.dialect} at {self.engine.address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

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
        self._close_log()


class AsyncCluster(_Logged):
    """An Elasticsearch or an OpenSearch, for asyncio, and the event log beside it."""

    def __init__(self, *, client: Any = None, engine: AsyncEngine | None = None, log_url: str | None = None) -> None:
        super().__init__(log_url)
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
        self._close_log()
