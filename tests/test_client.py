"""An index as a service holds it: asked from many tasks and threads, cut off, dropped and made again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import proxy
import pytest
from homes import until

from knnex import AsyncCluster, Cluster, F, Index, Query, connect
from knnex.errors import EngineUnreachable, IndexMissing, QueryError

WORDS = ("cat", "dog", "robot", "human")


def spec(name: str, model: Path, embedding: str = "v", **fields: str) -> dict[str, Any]:
    kinds = {"title": "text", **fields}
    return {
        "index": name,
        "fields": {field: {"type": kind} for field, kind in kinds.items()},
        "embeddings": {embedding: {"source": "{title}", "encoder": str(model)}},
    }


@pytest.fixture
def cluster(engine_url: str) -> Iterator[Cluster]:
    with connect(engine_url) as opened:
        yield opened


@pytest.fixture
def words(cluster: Cluster, index_name: str, tiny: Path) -> Index:
    index = cluster.create(spec(index_name, tiny))
    index.ingest([{"id": word, "title": word} for word in WORDS], inline=True)
    return index


def test_many_tasks_ask_at_once(words: Index, engine_url: str) -> None:
    async def ask(cluster: AsyncCluster) -> list[str]:
        index = cluster.index(words.name)
        found = await asyncio.gather(*(index.search(WORDS[number % 4]) for number in range(100)))
        return [hits.ids[0] for hits in found]

    async def main() -> list[str]:
        async with connect(engine_url, asynchronous=True) as cluster:
            return await ask(cluster)

    assert asyncio.run(main()) == [WORDS[number % 4] for number in range(100)]


def test_threads_share_a_cluster(words: Index) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: words.search(WORDS[number % 4]).ids[0], range(40)))
    assert found == [WORDS[number % 4] for number in range(40)]


def test_an_engine_that_comes_back_is_found_again(words: Index, engine_url: str) -> None:
    with proxy.gate(engine_url) as url:
        cluster = connect(url)
        index = cluster.index(words.name)
        assert index.search("cat").ids[0] == "cat"
    until(lambda: unreachable(index))
    with proxy.gate(engine_url, port=int(url.rsplit(":", 1)[1])):
        assert index.search("cat").ids[0] == "cat"
        cluster.close()


def unreachable(index: Index) -> bool:
    try:
        index.count()
    except EngineUnreachable:
        return True
    return False


def test_an_index_made_again_with_another_spec_is_noticed(words: Index, cluster: Cluster, tiny: Path) -> None:
    assert words.search("cat").ids
    cluster.drop(words.name)
    with pytest.raises(IndexMissing, match=words.name):
        words.search("cat")
    again = cluster.create(spec(words.name, tiny, "w", colour="keyword"))
    again.ingest([{"id": "1", "title": "cat", "colour": "red"}], inline=True)
    until(lambda: list(words.spec.embeddings) == ["w"])
    assert words.search(Query("cat").where(F.colour == "red")).ids == ("1",)


def test_what_the_cluster_holds_is_not_asked_for_every_query(words: Index) -> None:
    start = time.monotonic()
    first, second = words.stored, words.stored
    assert second is first or time.monotonic() - start >= 1
    until(lambda: words._fresh() is None)
    assert words.stored is first, "nothing changed, so what is known of it is kept"


@pytest.mark.parametrize("query", [None, 5, {"match_all": {}}, F.title == "a"])
def test_what_is_no_query(words: Index, query: Any) -> None:
    with pytest.raises(QueryError, match="is no query") as caught:
        words.search(query)
    assert "where" in str(caught.value.hint)


def test_what_is_no_name(cluster: Cluster) -> None:
    for name in ("", "a*", "a,b", None, 5):
        with pytest.raises(IndexMissing, match="is no name of an index"):
            cluster.index(name)  # type: ignore[arg-type]
