"""The front door: `connect()` to a cluster, take an index, put documents in, ask it questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from .ingest.attach import attach, detach, examine, fill
from .ingest.feed_state import FeedReport
from .ingest.reindex import Gate, Options, Step, Version, abort, drop_version, note_quality, roll_back, versions
from .ingest.reindex import Report as MoveReport
from .ingest.reindex.applying import Applied, apply, planned
from .mappings import Spec, create, drop, find, load_spec
from .mappings.attach_spec import DEFAULT_ENCODER
from .mappings.plan import ChangePlan
from .settings import settings

if TYPE_CHECKING:
    import elasticsearch
    import opensearchpy

    from .evaluation import Judgments

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

    def attach(
        self, name: str, spec: SpecSource | None = None, *, fields: Sequence[str] = (), encoder: str = DEFAULT_ENCODER
    ) -> Index:
        """Add vectors to an index that others made and go on writing; `fill` then makes them.

        Without a spec one is proposed by its mapping and a sample of its documents, of `fields` if they are named.
        Raises IndexMissing, SpecMismatch for what cannot be attached, ModelUnavailable, UnsupportedByEngine where its
        documents would have to be copied.
        """
        found = examine(self.engine, name, spec=load_spec(spec) if spec else None, fields=fields, encoder=encoder)
        if found.must_copy:
            raise self.engine.dialect.decline(f"attach({name!r})", found.must_copy, "copy it: see docs/attach.md")
        return Index(self, name, attach(self.engine, name, found.proposal.spec))

    def fill(self, name: str) -> FeedReport | None:
        """Give all documents of an attached index the vectors they lack; None where a follower is at it already.

        Raises LogUnavailable, EncoderError, EngineError; what is done by then stays.
        """
        return fill(self.engine, self.log, name)

    def detach(self, name: str) -> None:
        """Leave an attached index alone from now on; vectors stay in its documents. Raises SpecMismatch."""
        detach(self.engine, self.log, name)

    def plan(self, spec: SpecSource) -> ChangePlan:
        """What `apply` would do to the index of this spec, each with its reason; changes nothing.

        Raises SpecError, SpecMismatch for what cannot be reached, ModelUnavailable, UnsupportedByEngine.
        """
        return planned(self.engine, load_spec(spec))

    def apply(
        self,
        spec: SpecSource,
        *,
        gate: Gate | None = None,
        options: Options | None = None,
        progress: Callable[[Step], object] = lambda _: None,
    ) -> Applied:
        """Make an index what its spec says, in place or by a new version, or go on where an earlier run stopped.

        `gate(old, new)`, such as `evaluation.Gate().asking(...)`, may stop a new version before it takes the place of
        the old one: by ReindexStopped, or by a `Judged`, whose figures `versions` tells. Raises what `plan` raises,
        ReindexStopped, AlreadyRunning, EncoderError, LogUnavailable, EngineError.
        """
        return apply(self.engine, self.log, load_spec(spec), gate=gate, options=options, tell=progress)

    def rollback(
        self,
        name: str,
        to: str | None = None,
        *,
        options: Options | None = None,
        progress: Callable[[Step], object] = lambda _: None,
    ) -> MoveReport:
        """Return to a former version of an index, with all that was written since. Raises what `apply` raises."""
        return roll_back(self.engine, self.log, name, to, options=options, tell=progress)

    def versions(self, name: str) -> list[Version]:
        """The versions of an index, oldest first. Raises IndexMissing, SpecMismatch."""
        return self.engine.run(versions(name))

    def measure(self, name: str, judgments: Judgments | None = None) -> list[Version]:
        """Measure each version of an index, by judgments or by its graph's recall, for `versions` to tell from now on.

        Raises AlreadyRunning while a new version is being built, ModelMismatch, QueryError, EngineError.
        """
        from .evaluation import measure

        held = [(one.name, one.stored) for one in self.versions(name) if one.state != "building"]
        found = {version: measure(self.engine, stored, judgments) for version, stored in held if stored}
        note_quality(self.engine, name, found)
        return self.versions(name)

    def drop_version(self, name: str, version: str) -> None:
        """Delete a former version of an index. Raises ReindexStopped for the one in use, IndexMissing."""
        drop_version(self.engine, name, version)

    def abort(self, name: str) -> str:
        """Give up the version that is being built, and delete it; its name, or an empty text. Raises AlreadyRunning."""
        return abort(self.engine, name)

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
