"""A scan of very many ids: documents a second, and the memory it takes, which may not grow with their number."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import psutil

from knnex import Cluster, Query
from knnex.engines import Engine, Request
from knnex.mappings import Stored, create, drop, load, load_spec

_BULK = 20_000


def filled(engine: Engine, count: int) -> Stored:
    """An index of so many documents of one number each."""
    name = f"knnex-bench-{uuid4().hex[:10]}"
    settings = {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"}
    spec = load_spec({"index": name, "fields": {"number": {"type": "integer"}}, "settings": settings})
    engine.run(create(spec, engine.dialect, {}))
    stored = engine.run(load(name))
    for start in range(0, count, _BULK):
        lines: list[dict[str, Any]] = []
        for number in range(start, min(count, start + _BULK)):
            lines += [{"index": {"_index": stored.index, "_id": str(number)}}, {"number": number}]
        engine.send(Request("POST", "/_bulk", body=tuple(lines)))
    engine.send(Request("POST", f"/{stored.index}/_refresh"))
    return stored


def measure(engine: Engine, count: int = 1_000_000, page: int = 10_000) -> dict[str, Any]:
    """Every id, once each; the memory of this process, looked at with each page, at its most up to a tenth of them and
    from there on."""
    stored = filled(engine, count)
    seen, most, tenth, process = bytearray(count), 0, 0, psutil.Process()
    try:
        started = time.perf_counter()
        for number, hit in enumerate(Cluster(engine).index(stored.spec.index).scan(Query().select(), page=page), 1):
            seen[int(hit.id)] += 1
            # What it holds now: its most ever would be that of whatever was measured before.
            if number % page == 0:
                most = max(most, process.memory_info().rss)
            if number == count // 10:
                tenth, most = most, 0
        seconds = time.perf_counter() - started
    finally:
        engine.run(drop(stored.spec.index))
    return {
        "documents": count,
        "each once": seen == b"\x01" * count,
        "ids/s": round(count / seconds),
        "MB up to a tenth": round(tenth / 2**20, 1),
        "MB from there on": round(most / 2**20, 1),
    }


def table(result: dict[str, Any]) -> str:
    """For people."""
    return (
        f"{result['documents']:,} ids, each once: {result['each once']}; {result['ids/s']:,} ids/s; "
        f"at most {result['MB up to a tenth']} MB of memory up to a tenth, {result['MB from there on']} MB from there on"
    )
