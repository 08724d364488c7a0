"""What the benchmark of re-indexing plays on: films, people who write and read, and what must be there in the end."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any
from uuid import uuid4

import bench

from knnex import connect
from knnex.encoders import resolve
from knnex.engines import Engine, Flow, Request, path_of
from knnex.errors import EngineBusy
from knnex.ingest import RedisLog, feed
from knnex.ingest.reindex.reading import page
from knnex.mappings import Spec, create, drop, load, load_spec

WORDS = ("cat", "dog", "robot", "mat", "log", "human", "passage", "query")
SHARDS = {"number_of_shards": 2, "number_of_replicas": 0}
WRITERS = 6
# Seconds until who was refused tries again.
RETRY = 0.05


@dataclass
class On:
    """Where it is tried, and how large."""

    engine: Engine
    log: RedisLog
    urls: bench.Servers
    model: str
    documents: int
    events: int

    def spec(self, name: str, **changes: Any) -> Spec:
        """Films; `changes` are of the embedding."""
        embedding = {"source": "{title}. {plot}", "encoder": self.model, **changes}
        fields = {"title": {"type": "text"}, "plot": {"type": "text"}}
        embeddings = {"plot_vector": embedding}
        return load_spec({"index": name, "fields": fields, "embeddings": embeddings, "settings": SHARDS})

    @contextmanager
    def made(self, **changes: Any) -> Iterator[Spec]:
        """An index of films with a name of its own, which is dropped in the end."""
        spec = self.spec(f"knnex-bench-{uuid4().hex[:8]}", **changes)
        self.engine.run(create(spec, self.engine.dialect, resolve(spec)))
        yield spec
        self.engine.run(drop(spec.index))
        self.log.forget(spec.index)

    def ask(self, method: str, *path: str, body: Any = None, **params: str) -> Any:
        """One request; that something is not there is an answer."""
        return ask(self.engine, method, *path, body=body, **params)

    def titles(self, alias: str) -> dict[str, str]:
        """The titles of all documents that are not deleted, by id."""
        stored = self.engine.run(load(alias))
        heads = self.engine.run(feed.heads(stored.index))
        self.engine.run(feed.refresh(stored.index))
        found: dict[str, str] = {}
        for shard, head in heads.items():
            after = -1
            while part := self.engine.run(
                page(stored, self.engine.dialect, shard, after, head.checkpoint, 5000, ["plot_vector"])
            ):
                after = part[-1].seq_no
                found |= {
                    one.id: one.source["title"] for one in part if not one.source.get("_knnex", {}).get("deleted")
                }
        return found


def words(chance: random.Random) -> str:
    """A title: few of them in all, so that few texts have to be encoded."""
    return " ".join(chance.choices(WORDS, k=3))


def judged(found: dict[str, str], expected: dict[str, str | None]) -> dict[str, int]:
    """How many documents are lost, stale, or there though they were deleted."""
    there = {id_: title for id_, title in expected.items() if title is not None}
    return {
        "lost": len(there.keys() - found.keys()),
        "stale": sum(found[id_] != there[id_] for id_ in there.keys() & found.keys()),
        "zombie": len(found.keys() - there.keys()),
    }


class Reader(threading.Thread):
    """Searches all the time; errors, empty answers and hits of two versions are trouble."""

    def __init__(self, url: str, index: str) -> None:
        super().__init__(daemon=True)
        self.url, self.index, self.over = url, index, threading.Event()
        self.searches, self.trouble = 0, list[str]()

    def run(self) -> None:
        """Until it is over."""
        with connect(self.url) as cluster:
            index = cluster.index(self.index)
            while not self.over.is_set():
                try:
                    hits = index.search("a cat sat on the mat")
                    self.searches += 1
                    if len({hit.index for hit in hits}) != 1:
                        self.trouble.append(f"hits of {sorted({hit.index for hit in hits})}")
                except Exception as error:  # whatever a reader sees
                    self.trouble.append(f"{type(error).__name__}: {error}")


def settle(on: On, index: str) -> None:
    """Wait until all that was accepted is written."""
    while on.log.backlog(index).total:
        on.log.wait(0.1)


@dataclass
class Wrote:
    """What people have written in the end, by id; how often; and for how long each was refused, in seconds."""

    expected: dict[str, str | None]
    writes: int
    stalls: list[float]


@contextmanager
def strangers(on: On, index: str) -> Iterator[Wrote]:
    """People who write all the time, in a process of their own as people do; told of when they have ended."""
    forked = multiprocessing.get_context("forkserver")
    here, there = forked.Pipe()
    process = forked.Process(target=_write, args=(on.urls.engine_url, index, on.documents, there))
    process.start()
    here.recv()
    wrote = Wrote({}, 0, [])
    yield wrote
    here.send("enough")
    wrote.expected, wrote.writes, wrote.stalls = here.recv()
    process.join()


def _write(url: str, index: str, documents: int, pipe: Connection) -> None:
    with connect(url) as cluster:
        over = threading.Event()
        every = [Stranger(cluster.engine, index, documents, number, over) for number in range(WRITERS)]
        for one in every:
            one.start()
        pipe.send("begun")
        pipe.recv()
        over.set()
        expected: dict[str, str | None] = {}
        for one in every:
            one.join()
            expected |= one.expected
        pipe.send((expected, sum(one.writes for one in every), sorted(stall for one in every for stall in one.stalls)))


class Stranger(threading.Thread):
    """Writes through the alias and knows nothing of knnex; refused, it tries again soon."""

    def __init__(self, engine: Engine, index: str, documents: int, number: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.engine, self.index, self.documents, self.number, self.over = engine, index, documents, number, over
        self.expected: dict[str, str | None] = {}
        self.stalls: list[float] = []
        self.writes = 0

    def run(self) -> None:
        """Until it is over."""
        chance = random.Random(self.number)
        while not self.over.is_set():
            id_ = f"{chance.randrange(self.documents // WRITERS) * WRITERS + self.number}"
            title = None if chance.random() < 0.3 else words(chance)
            began, refused = time.monotonic(), False
            while True:
                try:
                    if title is None:
                        ask(self.engine, "DELETE", self.index, "_doc", id_)
                    else:
                        body = {"title": title, "plot": "sat on the mat"}
                        ask(self.engine, "PUT", self.index, "_doc", id_, body=body)
                    break
                except EngineBusy:
                    refused = True
                    time.sleep(RETRY)
            self.expected[id_] = title
            self.writes += 1
            if refused:
                self.stalls.append(time.monotonic() - began)


def ask(engine: Engine, method: str, *path: str, body: Any = None, **params: str) -> Any:
    """One request; that something is not there is an answer."""

    def flow() -> Flow[Any]:
        return (yield Request(method, path_of(*path), params, body, frozenset({404, 409}))).body

    return engine.run(flow())
