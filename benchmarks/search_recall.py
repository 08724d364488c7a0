"""Rows C11 and C12: recall@10 beside exact search, and latency beside the server's own default, with filters and without.

Asked by the same requests that a search sends, over one connection, so that latencies differ by what the server does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import bench
import numpy as np
import search_corpus as corpus
from search_corpus import EMBEDDING, Film, Held, Matrix

from knnex import F, Query
from knnex.encoders import query_vectors
from knnex.engines import Engine, Request, path_of
from knnex.mappings import Stored
from knnex.mappings.apply import write_alias
from knnex.query import plan

K = 10
DEFAULT = "server's default"
# What PERFORMANCE's row C11 holds latency against, where there is such an index.
REFERENCE = "int8_hnsw, 100 candidates, by hand"
#: Shares of the films that a filter lets through, in percent, and the recall that is to be reached.
SHARES: dict[int, float] = {100: 0.99, 10: 0.98, 1: 0.98}
# Two documents as near as this, as a share of the score, are equally right (as in `knnex.evaluation`).
_TIE = 1e-4
_PLAIN: dict[str, dict[str, Any]] = {
    "elasticsearch": {"type": "dense_vector", "similarity": "cosine"},
    # Without a method it would be faiss, whose native library an embedded server lacks.
    "opensearch": {
        "type": "knn_vector",
        "method": {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"},
    },
}
_WIDTH = {"elasticsearch": "dims", "opensearch": "dimension"}

#: (quantization, candidates, oversample): the ways of our own among which C11 and C12 are judged.
Way = tuple[str, int, float | None]
SWEEP: dict[str, tuple[Way, ...]] = {
    "elasticsearch": (
        *(("none", count, None) for count in (20, 100, 150, 200)),
        *(("int8", count, 2.0) for count in (100, 150, 200)),
        ("int8", 100, 3.0),
        *(("int4", count, 3.0) for count in (100, 200)),
        *(("binary", count, times) for times in (3.0, 5.0, 10.0) for count in (100, 200)),
    ),
    "opensearch": (
        *(("none", count, None) for count in (20, 50, 100, 200)),
        *(("int8", count, times) for times in (2.0, 3.0) for count in (20, 50, 100)),
    ),
}

Asked = Callable[[Matrix, int], Request]


@dataclass(frozen=True)
class Option:
    """A way of asking: how its index is built and how wide it looks; `request` of a vector and a share."""

    name: str
    request: Asked


def measure(
    engine: Engine, films: Sequence[Film], texts: Sequence[str], model: str, *, rounds: int = 3
) -> dict[str, Any]:
    """Recall and milliseconds of every option by the share that a filter lets through, and which of ours is the best."""
    sweep = SWEEP[engine.dialect.product]
    with options(engine, films, model, sweep) as (held, every, rows_of):
        rows = rows_of(texts)
        result: dict[str, Any] = {"queries": len(texts), "k": K, "rounds": rounds}
        for share, goal in SHARES.items():
            allowed = None if share == 100 else _allowed(held, films, share)
            kth, scores = held.best(rows, K, allowed)
            times, found = _ask(engine, every, rows, share, rounds)
            result[f"{share} %"] = {
                one.name: _figures(times, one.name, found[one.name], kth, scores, goal) for one in every
            }
    return result | {"best": best(result, [_name(*way) for way in sweep])}


def best(result: Mapping[str, Any], ours: Sequence[str]) -> dict[str, Any]:
    """Of our ways that reach the recall the fastest beside the reference: for each share, and for all of them at once."""
    shares = [f"{share} %" for share in SHARES]

    def slowest(name: str, among: Sequence[str]) -> float:
        return max(float(result[share][name]["latency / reference"]["median"]) for share in among)

    found: dict[str, Any] = {}
    for label, among in {**{share: [share] for share in shares}, "all of them": shares}.items():
        good = [one for one in ours if all(result[share][one]["right"] for share in among)]
        name = min(good, key=lambda one: slowest(one, among), default=None)
        found[label] = name and {"way": name, "latency / reference": slowest(name, among)}
    return found


def _name(quantization: str, candidates: int, oversample: float | None) -> str:
    again = "" if oversample is None else f", oversample {oversample:g}"
    return f"{quantization}, {candidates} candidates{again}"


@contextmanager
def options(
    engine: Engine, films: Sequence[Film], model: str, sweep: Sequence[Way]
) -> Iterator[tuple[Held, list[Option], Callable[[Sequence[str]], Matrix]]]:
    """Indexes of the same vectors: ours at each quantization, "none" among them, and the server's own default."""
    product = engine.dialect.product
    with ExitStack() as stack:
        made = {
            name: stack.enter_context(corpus.filled(engine, films, model, quantization=name))
            for name in dict.fromkeys(way[0] for way in sweep)
        }
        exact = made["none"]
        held = corpus.held(engine, exact)
        mapping = _PLAIN[product] | {_WIDTH[product]: held.rows.shape[1]}
        plain = stack.enter_context(corpus.plain(engine, mapping, held, films))
        every = [Option(DEFAULT, _plain(engine, plain))]
        if product == "elasticsearch":
            by_hand = mapping | {"index_options": {"type": "int8_hnsw", "m": 16, "ef_construction": 100}}
            name = stack.enter_context(corpus.plain(engine, by_hand, held, films))
            every.append(Option(REFERENCE, _plain(engine, name, 100)))
        every += [Option(_name(*way), _ours(engine, made[way[0]], *way[1:])) for way in sweep]
        past = replace(exact, spec=exact.spec.model_copy(update={"index": write_alias(exact.index)}))
        widest = max(count for name, count, _ in sweep if name == "none")
        every.append(Option(f"none, {widest}, tombstones not filtered", _ours(engine, past, widest, None)))
        yield held, every, partial(query_vectors, exact, EMBEDDING)


def _ours(engine: Engine, stored: Stored, candidates: int, oversample: float | None) -> Asked:
    def request(row: Matrix, share: int) -> Request:
        part = Query().semantic(EMBEDDING, vector=row.tolist(), candidates=candidates, oversample=oversample)
        query = part.limit(K).select()
        query = query if share == 100 else query.where(F.share < share)
        return plan(query, stored, engine.dialect, lambda _, texts: np.empty((len(texts), 0))).requests[0]

    return request


def _plain(engine: Engine, name: str, candidates: int | None = None) -> Asked:
    """The least that somebody writes who knows the engine's documentation."""
    wide = {} if candidates is None else {"num_candidates": candidates}

    def request(row: Matrix, share: int) -> Request:
        inside = {} if share == 100 else {"filter": {"range": {"share": {"lt": share}}}}
        if engine.dialect.product == "elasticsearch":
            body: dict[str, Any] = {"knn": {"field": EMBEDDING, "query_vector": row, "k": K, **wide, **inside}}
        else:
            body = {"size": K, "query": {"knn": {EMBEDDING: {"vector": row, "k": K, **inside}}}}
        return Request("POST", path_of(name, "_search"), body=body | {"_source": False})

    return request


def _allowed(held: Held, films: Sequence[Film], share: int) -> Matrix:
    shares = {film["id"]: film["share"] for film in films}
    return np.array([shares[one] < share for one in held.ids])


def _ask(
    engine: Engine, every: Sequence[Option], rows: Matrix, share: int, rounds: int
) -> tuple[dict[str, list[list[float]]], dict[str, list[list[str]]]]:
    """Seconds of each option, by round, and what it found in the last; the first round warms up and is not counted."""
    times: dict[str, list[list[float]]] = {one.name: [] for one in every}
    found: dict[str, list[list[str]]] = {}
    asked = [[option.request(row, share) for option in every] for row in rows]
    order = random.Random(0)
    for number in range(rounds + 1):
        here: dict[str, list[float]] = {one.name: [] for one in every}
        found = {one.name: [] for one in every}
        for requests in asked:
            # In an order of its own each time: who follows a search of the same graph finds it in the caches.
            for place in order.sample(range(len(every)), len(every)):
                started = time.perf_counter()
                answer = engine.send(requests[place])
                here[every[place].name].append(time.perf_counter() - started)
                found[every[place].name].append([hit["_id"] for hit in answer.body["hits"]["hits"]])
        if number:
            for name, seconds in here.items():
                times[name].append(seconds)
    return times, found


def _figures(
    times: Mapping[str, Sequence[Sequence[float]]],
    name: str,
    found: Sequence[Sequence[str]],
    kth: Matrix,
    scores: Sequence[Mapping[str, float]],
    goal: float,
) -> dict[str, Any]:
    shares = [right(ids, one, float(least)) for ids, one, least in zip(found, scores, kth, strict=True)]
    ours, default = ([float(np.median(one)) for one in times[key]] for key in (name, DEFAULT))
    reference = [float(np.median(one)) for one in times.get(REFERENCE, times[DEFAULT])]
    figures = {
        "recall": round(float(np.mean(shares)), 4),
        "least": round(min(shares), 2),
        "p50 ms": round(float(np.median(np.concatenate(times[name]))) * 1e3, 3),
        "latency / default": bench.ratio(ours, default),
        "latency / reference": bench.ratio(ours, reference),
    }
    enough = figures["recall"] >= goal
    return figures | {"right": enough, "reached": enough and figures["latency / reference"]["median"] <= 1.0}


def right(found: Sequence[str], scores: Mapping[str, float], least: float) -> float:
    """The share of the exact best K that was found; what scores like the K-th is as right as it."""
    return min(1.0, sum(scores.get(one, -1.0) >= least - _TIE * abs(least) for one in found) / K)


def table(result: Mapping[str, Any]) -> str:
    """A row for each option, its recall and latency by the share that is let through, and which are the best."""
    shares = [f"{share} %" for share in SHARES]
    head = "".join(f" | {share + ' let through':>26}" for share in shares)
    lines = [f"{'recall@10, p50 ms, by the reference':<40}{head}"]
    for name in result[shares[0]]:
        cells = []
        for share in shares:
            one = result[share][name]
            cells.append(f"{one['recall']:.4f} {one['p50 ms']:>7.3f} ms {one['latency / reference']['median']:>6.2f}")
        lines.append(f"{name:<40}" + "".join(f" | {cell:>26}" for cell in cells))
    for label, one in result["best"].items():
        said = f"{one['way']}: {one['latency / reference']:.2f} of the reference" if one else "none reaches the recall"
        lines.append(f"the best of ours, {label} let through: {said}")
    return "\n".join(lines)
