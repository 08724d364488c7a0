"""What the tests of ingest and workers share: a small index, a log of their own, a thread that drains it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from knnex.encoders import VectorCache, resolve
from knnex.engines import Engine
from knnex.ingest import EventLog, RedisLog, Target, make_target
from knnex.mappings import Spec, create, load_spec
from knnex.workers import Targets, drain

# For what is the log's or the worker's alone, and the same with either engine.
one_engine = pytest.mark.parametrize("engine_name", ["elasticsearch"], indirect=True)

FIELDS: dict[str, Any] = {
    "title": {"type": "text"},
    "plot": {"type": "text"},
    "genre": {"type": "keyword"},
    "year": {"type": "integer"},
    "rev": {"type": "long"},
}


def films(index: str, model: str, **changes: Any) -> Spec:
    """A spec of films with one vector; `changes` replace keys of it, `embedding` those of the vector."""
    embedding = {"source": "{title}. {plot}", "encoder": model, **changes.pop("embedding", {})}
    return load_spec({"index": index, "fields": FIELDS, "embeddings": {"plot_vector": embedding}, **changes})


def made(engine: Engine, spec: Spec, cache: VectorCache | None = None) -> Target:
    """The index of a spec, created and open for writing."""
    stored, _ = engine.run(create(spec, engine.dialect, resolve(spec)))
    return make_target(spec.index, stored, cache)


def own_log(redis_url: str, database: int) -> RedisLog:
    """A log in a database of its own: a worker drains every index of the log that it finds."""
    return RedisLog(urlunsplit(urlsplit(redis_url)._replace(path=f"/{database}")))


@contextmanager
def draining(log: EventLog, engine: Engine, **options: Any) -> Iterator[None]:
    """A thread that does what a worker does."""
    stop = threading.Event()
    targets = Targets(engine, options.pop("cache", None))

    def work() -> None:
        while not stop.is_set():
            if not drain(log, targets, consumer="thread", stop=stop, **options).taken:
                log.wait(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def held(engine: Engine, index: str) -> dict[str, dict[str, Any]]:
    """All documents that a search of the alias sees, by id, with vectors."""
    from knnex.engines import Request, path_of

    def flow() -> Any:
        yield Request("POST", path_of(index, "_refresh"))
        source = engine.dialect.source_with_vectors(["*"])
        return (yield Request("POST", path_of(index, "_search"), {}, {"size": 1000, "_source": source})).body

    return {hit["_id"]: hit["_source"] for hit in engine.run(flow())["hits"]["hits"]}


def settled(log: EventLog, index: str) -> bool:
    """Whether the log holds nothing more of an index."""
    return log.backlog(index).total == 0
