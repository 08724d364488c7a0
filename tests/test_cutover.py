"""Refusing writes for a moment: those that were begun are done by then, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from feeding import Stranger

from knnex.engines import Engine, Flow, Request, Response
from knnex.engines.wire import drive
from knnex.errors import AccessDenied, EngineBusy
from knnex.ingest.reindex.cutover import block, cut_off, unblock

MANY = 30_000


@pytest.fixture
def begun(engine: Engine, index_name: str) -> Iterator[tuple[Stranger, Callable[[], int]]]:
    """An index, and a request of many documents that a shard of it is at; what is given back waits for its answer."""
    stranger = Stranger(engine, index_name)
    stranger.send("PUT", body={"settings": {"number_of_replicas": 0}})
    lines = tuple(line for number in range(MANY) for line in ({"index": {"_id": str(number)}}, {"text": "a cat" * 9}))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(stranger.send, "POST", "_bulk", body=lines)

        def written() -> int:
            return sum(one["index"]["status"] == 201 for one in answer.result()["items"])

        tasks = Request("GET", "/_tasks", {"actions": "indices:data/write/bulk[s]*", "detailed": "true"})
        while f"index[{index_name}]" not in str(engine.send(tasks).body):
            assert not answer.done(), "it was done before anybody could look"
        yield stranger, written
        answer.result()
    stranger.send("DELETE")


@pytest.mark.parametrize(
    "stop", [lambda index, dialect: block(index), lambda index, dialect: cut_off(index, index, dialect)]
)
def test_what_was_begun_is_done_when_writes_are_refused(
    engine: Engine, begun: tuple[Stranger, Callable[[], int]], stop: Callable[..., Flow[None]]
) -> None:
    stranger, written = begun
    engine.run(stop(stranger.index, engine.dialect))
    stranger.send("POST", "_refresh")
    there = stranger.send("GET", "_count")["count"]
    assert there == written() == MANY
    with pytest.raises(EngineBusy, match="block"):
        stranger.send("PUT", "_doc", "late", body={"text": "a dog"})
    assert stranger.send("GET", "_count")["count"] == there
    engine.run(unblock(stranger.index))
    stranger.send("PUT", "_doc", "later", body={"text": "a dog"})


def test_who_may_not_see_the_tasks_waits_for_the_engine_instead(engine: Engine, index_name: str) -> None:
    stranger, sent = Stranger(engine, index_name), list[str]()
    stranger.send("PUT", body={})

    def send(request: Request) -> Response:
        sent.append(request.path)
        if request.path == "/_tasks":
            raise AccessDenied("no permissions for [cluster:monitor/tasks/lists]")
        return engine.send(request)

    drive(cut_off(index_name, index_name, engine.dialect), send)
    assert sent[-1].endswith("/_block/write")
    with pytest.raises(EngineBusy, match="block"):
        stranger.send("PUT", "_doc", "late", body={"text": "a dog"})
    stranger.send("DELETE")
