"""Fusion on the client beside fusion by the engine (OpenSearch's `hybrid`): the same order, and which takes longer."""

from __future__ import annotations

import time
from typing import Any

import bench
import numpy as np
from search_corpus import EMBEDDING

from knnex import Cluster, Query
from knnex.engines import Engine
from knnex.mappings import Stored

_WINDOW = 50
METHODS: dict[str, Any] = {"rrf": {"method": "rrf"}, "min_max": {"method": "weighted"}}


def measure(engine: Engine, stored: Stored, texts: list[str], *, rounds: int = 5) -> dict[str, Any]:
    """Each text by both ways in turn, vectors known; the ratio is ours to the engine's own."""
    index = Cluster(engine).index(stored.spec.index)
    for text in texts:
        index.search(Query(text).semantic(EMBEDDING))  # the vector is kept by then
    result: dict[str, Any] = {"texts": len(texts), "window": _WINDOW}
    for name, how in METHODS.items():
        walls: dict[bool, list[float]] = {True: [], False: []}
        same, overlap = 0, 0.0
        for turn in range(rounds):
            for text in texts:
                found = {}
                for native in (turn % 2 == 0, turn % 2 == 1):
                    query = Query(text).semantic(EMBEDDING, weight=0.6).lexical("title", "overview", weight=0.4)
                    query = query.fuse(window=_WINDOW, native=native, **how).select()
                    since = time.perf_counter()
                    found[native] = index.search(query).ids
                    walls[native].append(time.perf_counter() - since)
                if turn == 0:
                    same += found[True] == found[False]
                    overlap += len({*found[True]} & {*found[False]}) / max(1, len(found[False]))
        each = len(texts)
        medians = {
            one: [float(np.median(walls[one][k * each : (k + 1) * each])) for k in range(rounds)] for one in walls
        }
        result[name] = {
            "ours p50 ms": round(float(np.median(walls[False])) * 1e3, 2),
            "native p50 ms": round(float(np.median(walls[True])) * 1e3, 2),
            "ours / native": bench.ratio(medians[False], medians[True]),
            "same order": round(same / each, 3),
            "of the best ten in both": round(overlap / each, 3),
        }
    return result


def table(result: dict[str, Any]) -> str:
    """For people."""
    return "\n".join(f"{name:8} {result[name]}" for name in METHODS)
