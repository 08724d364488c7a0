"""Ingest from asyncio: the same as from anywhere else, beside searches, and broken off at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from filling import draining, held, own_log
from homes import until

from knnex import connect
from knnex.engines import Engine
from knnex.errors import IngestIncomplete, LogUnavailable
from knnex.ingest import Progress, RedisLog, read_files
from knnex.mappings import create, load_spec


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 8)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture
def name(engine: Engine, index_name: str) -> str:
    spec = load_spec({"index": index_name, "fields": {"title": {"type": "text"}, "year": {"type": "integer"}}})
    engine.run(create(spec, engine.dialect, {}))
    return index_name


async def stream(count: int, pause: float = 0.0) -> AsyncIterator[dict[str, Any]]:
    for number in range(count):
        await asyncio.sleep(pause)
        yield {"id": str(number), "title": f"film {number}"}


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("knnex-ingest")]


@pytest.mark.feature("Sync and async")
@pytest.mark.parametrize("inline", [False, True], ids=["log", "inline"])
def test_documents_go_in_change_and_go(
    engine: Engine, engine_url: str, name: str, log: RedisLog, inline: bool, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    (tmp_path / "more.csv").write_text("id,title\n2000,file\n")

    async def main() -> None:
        async with connect(engine_url, asynchronous=True, log_url=log.url) as cluster:
            index = cluster.index(name)
            report = await index.ingest(stream(700), inline=inline, progress=seen.append)
            assert (report.read, report.in_index, report.complete) == (700, 700, True)
            assert (await index.ingest(({"id": n, "title": "sync"} for n in range(3)), inline=inline)).complete
            spec = load_spec({"index": name, "fields": {"title": {"type": "text"}}})
            assert (await index.ingest(read_files([tmp_path / "more.csv"], spec), inline=inline)).complete
            assert (
                await index.upsert({"id": "3", "title": "one"}, {"id": "4", "title": "more"}, inline=inline)
            ).complete
            assert (await index.update({"id": "3", "year": 1999}, inline=inline)).complete
            told = await index.update({"id": "none", "year": 1999}, inline=inline)
            assert [one.reason for one in told.buried] == ["there is no document 'none' to update"]
            assert (await index.delete("5", 6, inline=inline)).in_index == 2
            assert await index.count() == 699

    with draining(log, engine):
        asyncio.run(main())
    found = held(engine, name)
    assert (found["0"]["title"], found["2000"]["title"], found["4"]["title"]) == ("sync", "file", "more")
    assert (found["3"]["title"], found["3"]["year"]) == ("one", 1999)
    assert seen[-1].done == 700
    assert ours() == []


def test_many_at_once_beside_searches(engine: Engine, engine_url: str, name: str, log: RedisLog) -> None:
    async def main() -> int:
        async with connect(engine_url, asynchronous=True, log_url=log.url) as cluster:
            index = cluster.index(name)
            reports = await asyncio.gather(*(index.upsert({"id": n, "title": "x"}) for n in range(20)))
            assert all(report.complete for report in reports)
            return await index.count()

    with draining(log, engine):
        assert asyncio.run(main()) == 20


def test_what_the_documents_raise_comes_out(engine: Engine, engine_url: str, name: str, log: RedisLog) -> None:
    async def broken() -> AsyncIterator[dict[str, Any]]:
        async for document in stream(150):
            yield document
        raise LookupError("the source is gone")

    async def main() -> None:
        async with connect(engine_url, asynchronous=True, log_url=log.url) as cluster:
            with pytest.raises(LookupError, match="the source is gone"):
                await cluster.index(name).ingest(broken())
            log.pause(name, "by hand")
            with pytest.raises(IngestIncomplete, match="leave them alone: by hand"):
                await cluster.index(name).upsert({"id": "1", "title": "x"})

    asyncio.run(main())
    assert ours() == []


def test_a_log_that_is_not_there(engine_url: str, name: str) -> None:
    async def main() -> None:
        async with connect(engine_url, asynchronous=True, redis_url="redis://127.0.0.1:1/0") as cluster:
            with pytest.raises(LogUnavailable, match=r"127.0.0.1:1"):
                await cluster.index(name).upsert({"id": "1"})

    asyncio.run(main())


@pytest.mark.parametrize("moment", ["reading", "waiting", "inline"])
def test_cancelling_leaves_nothing_hanging(engine_url: str, name: str, log: RedisLog, moment: str) -> None:
    """While the next document is awaited, while no worker comes, and while it writes by itself."""

    async def endless() -> AsyncIterator[dict[str, Any]]:
        async for document in stream(1200):
            yield document
        reached.set()
        await asyncio.Event().wait()

    reached = threading.Event()

    async def main() -> None:
        async with connect(engine_url, asynchronous=True, log_url=log.url) as cluster:
            index = cluster.index(name)
            given = stream(700) if moment == "waiting" else endless()
            task = asyncio.create_task(index.ingest(given, inline=moment == "inline"))
            while not (reached.is_set() or log.backlog(name).total == 700):
                await asyncio.sleep(0.01)
            start = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - start < 10
            assert await index.count() >= 0, "the engine can be asked as before"

    asyncio.run(main())
    until(lambda: ours() == [])
    assert log.backlog(name).total in {"reading": (1000,), "waiting": (700,), "inline": (0,)}[moment]
