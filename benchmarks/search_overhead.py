"""Row C10: a vector in, ids and scores out, beside the official client's own way of asking the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bench
import numpy as np
import orjson
from search_corpus import EMBEDDING, Matrix

from knnex import Cluster, Query
from knnex.engines import Engine, encode
from knnex.mappings import Stored

K, CANDIDATES = 10, 100
GOAL, STRETCH = 0.8, 0.7
# The fastest are those that nothing else on the machine disturbed.
PERCENT = (5, 50, 95)
# So many queries by one way, then as many by the next: a service asks by one way alone, which the processor's caches
# hold; in turn query by query, each way would find those of the others. The first ones of a block are not counted.
BLOCK, _AGAIN = 25, 5
Found = list[tuple[str, float]]
Way = Callable[[list[float]], Found]


def ways(engine: Engine, stored: Stored) -> dict[str, Way]:
    """The same search by knnex, by the official client, and by nothing but a pooled connection and orjson."""
    index = Cluster(engine).index(stored.spec.index)

    def ours(vector: list[float]) -> Found:
        query = Query().semantic(EMBEDDING, vector=vector, candidates=CANDIDATES).select()
        return [(hit.id, hit.score) for hit in index.search(query)]

    return {"knnex": ours, "official": official(engine, stored), "urllib3 and orjson": bare(engine, stored)}


def official(engine: Engine, stored: Stored) -> Way:
    """As somebody writes it with the engine's own client, made new and with its defaults."""
    name, client = stored.spec.index, fresh(engine)

    def elasticsearch(vector: list[float]) -> Found:
        knn = {"field": EMBEDDING, "query_vector": vector, "k": K, "num_candidates": CANDIDATES}
        return _pairs(client.search(index=name, knn=knn, source=False))

    def opensearch(vector: list[float]) -> Found:
        return _pairs(client.search(index=name, body=_opensearch(vector)))

    return elasticsearch if engine.dialect.product == "elasticsearch" else opensearch


def fresh(engine: Engine) -> Any:
    """A client of the engine's own package, for the address alone."""
    if engine.dialect.product == "elasticsearch":
        from elasticsearch import Elasticsearch

        client = Elasticsearch(engine.address)
        if engine.dialect.version < (9,):  # its client of 9 asks for what 8 refuses
            client = client.options(headers={"accept": engine.dialect.media_type.format("json")})
        return client
    from opensearchpy import OpenSearch

    return OpenSearch(engine.address)


def bare(engine: Engine, stored: Stored) -> Way:
    """What a library of HTTP and a fast one of JSON take: PERFORMANCE's measure of what can be had."""
    from urllib3 import PoolManager

    pool, url = PoolManager(), f"{engine.address}/{stored.spec.index}/_search"
    headers = {"content-type": "application/json", "accept": "application/json"}

    def ask(vector: list[float]) -> Found:
        row = np.asarray(vector, dtype=np.float32)
        knn = {"field": EMBEDDING, "query_vector": row, "k": K, "num_candidates": CANDIDATES}
        body = {"knn": knn, "_source": False} if engine.dialect.product == "elasticsearch" else _opensearch(row)
        return _pairs(orjson.loads(pool.request("POST", url, body=encode(body), headers=headers).data))

    return ask


def _opensearch(vector: Any) -> dict[str, Any]:
    # k is the breadth of the search there, of which the best `size` are returned.
    return {"size": K, "query": {"knn": {EMBEDDING: {"vector": vector, "k": CANDIDATES}}}, "_source": False}


def _pairs(body: Any) -> Found:
    return [(hit["_id"], hit["_score"]) for hit in body["hits"]["hits"]]


def agree(every: Mapping[str, Way], probes: Sequence[list[float]]) -> None:
    """All ways must find the same: only then are they asking the same. Raises RuntimeError."""
    for probe in probes:
        found = {name: way(probe) for name, way in every.items()}
        first = next(iter(found.values()))
        for name, pairs in found.items():
            if [one for one, _ in pairs] != [one for one, _ in first] or not np.allclose(
                [score for _, score in pairs], [score for _, score in first], rtol=1e-5
            ):
                raise RuntimeError(f"{name} finds other documents: {pairs} and {first}")


def measure(
    engine: Engine, stored: Stored, rows: Matrix, *, rounds: int = 7, per_round: int = 150, warm: int = 300
) -> dict[str, Any]:
    """Ask by each way in turn, a block of queries each, `per_round` in a round; milliseconds, and ratios by rounds."""
    every, probes = ways(engine, stored), [list(map(float, row)) for row in rows]
    agree(every, probes[:20])
    for number in range(warm):
        for way in every.values():
            way(probes[number % len(probes)])
    walls, cpus = _rounds(every, probes, rounds, per_round)
    result: dict[str, Any] = {"queries": rounds * per_round, "k": K, "candidates": CANDIDATES}
    for name in every:
        wall = np.concatenate(walls[name])
        result[name] = {
            "p5 ms": round(float(np.percentile(wall, 5)) * 1e3, 3),
            "p50 ms": round(float(np.percentile(wall, 50)) * 1e3, 3),
            "p95 ms": round(float(np.percentile(wall, 95)) * 1e3, 3),
            "client cpu ms": round(float(np.median(np.concatenate(cpus[name]))) * 1e3, 3),
        }
    for percent in PERCENT:
        ours, theirs = ([float(np.percentile(one, percent)) for one in walls[name]] for name in ("knnex", "official"))
        result[f"p{percent} knnex / official"] = bench.ratio(ours, theirs)
    result["goal"], result["stretch"] = GOAL, STRETCH
    return result


def _rounds(
    every: Mapping[str, Way], probes: Sequence[list[float]], rounds: int, per_round: int
) -> tuple[dict[str, list[list[float]]], dict[str, list[list[float]]]]:
    names = list(every)
    walls: dict[str, list[list[float]]] = {name: [] for name in names}
    cpus: dict[str, list[list[float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            walls[name].append([])
            cpus[name].append([])
        for start in range(0, per_round, BLOCK):
            turn = (number + start // BLOCK) % len(names)
            for name in names[turn:] + names[:turn]:
                for query in range(-_AGAIN, min(BLOCK, per_round - start)):
                    probe = probes[(number * per_round + start + query) % len(probes)]
                    cpu, wall = time.thread_time(), time.perf_counter()
                    every[name](probe)
                    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
                    if query >= 0:
                        walls[name][-1].append(wall)
                        cpus[name][-1].append(cpu)
    return walls, cpus


def table(result: Mapping[str, Any]) -> str:
    """The figures as people read them."""
    lines = [f"{'vector in, ids and scores out':<32} {'p5 ms':>8} {'p50 ms':>8} {'p95 ms':>8} {'client CPU ms':>14}"]
    for name, one in result.items():
        if isinstance(one, dict) and "p50 ms" in one:
            times = " ".join(f"{one[f'p{percent} ms']:>8.3f}" for percent in PERCENT)
            lines.append(f"{name:<32} {times} {one['client cpu ms']:>14.3f}")
    for percent in PERCENT:
        ratio = result[f"p{percent} knnex / official"]
        span = f"{ratio['least']:.2f} to {ratio['most']:.2f}"
        lines.append(f"p{percent}: knnex takes {ratio['median']:.2f} of the official client's time ({span} by rounds)")
    return "\n".join(lines)
