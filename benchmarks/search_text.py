"""Where the time of a question in words goes: encode, plan, the engine itself, the way there and back, parse."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from search_corpus import EMBEDDING

from knnex import Query
from knnex.encoders import load_matching
from knnex.engines import Engine, Request, Response
from knnex.mappings import Stored
from knnex.query import plan, search

PARTS = ("encode", "plan", "engine", "transport", "parse")


def measure(engine: Engine, stored: Stored, texts: Sequence[str], *, warm: int = 50) -> dict[str, Any]:
    """Milliseconds of each part of `Query(TEXT).semantic(...)`, ten hits with their fields; the first `warm` not counted.

    The engine tells its time (`took`) in whole milliseconds, rounded down: up to one of them counts as transport, which
    is the rest of a request: JSON both ways, the sockets, and the engine's own reading and writing of HTTP.
    """
    rows = [_once(engine, stored, text) for text in (*texts[:warm], *texts)][warm:] if texts else []
    result: dict[str, Any] = {"queries": len(rows)}
    total = [sum(row.values()) for row in rows]
    for part in PARTS:
        mean = float(np.mean([row[part] for row in rows]))
        result[part] = {"mean ms": round(mean * 1e3, 3), "share": round(mean / float(np.mean(total)), 3)}
    both = [row["engine"] + row["transport"] for row in rows]
    for name, seconds in (("engine and transport", both), ("total", total)):
        result[name] = {
            "p50 ms": round(float(np.percentile(seconds, 50)) * 1e3, 3),
            "p95 ms": round(float(np.percentile(seconds, 95)) * 1e3, 3),
        }
    return result


def _once(engine: Engine, stored: Stored, text: str) -> dict[str, float]:
    spent = dict.fromkeys(PARTS, 0.0)
    encoder = load_matching(stored, EMBEDDING)

    def encode(_: str, given: Sequence[str]) -> Any:
        started = time.perf_counter()
        rows = encoder.encode_queries(given)
        spent["encode"] += time.perf_counter() - started
        return rows

    def send(request: Request) -> Response:
        started = time.perf_counter()
        answer = engine.send(request)
        whole = time.perf_counter() - started
        took = min(whole, answer.body["took"] / 1e3)
        spent["engine"] += took
        spent["transport"] += whole - took
        return answer

    started = time.perf_counter()
    planned = plan(Query(text).semantic(EMBEDDING), stored, engine.dialect, encode)
    middle = time.perf_counter()
    spent["plan"] = middle - started - spent["encode"]
    flow = search(planned)
    request = next(flow)
    try:
        while True:
            request = flow.send(send(request))
    except StopIteration:
        spent["parse"] = time.perf_counter() - middle - spent["engine"] - spent["transport"]
    return spent


def table(result: Mapping[str, Any]) -> str:
    """The parts one below the other."""
    lines = [f"{'text in, ten hits out':<24} {'mean ms':>9} {'share':>7}"]
    lines += [f"{part:<24} {result[part]['mean ms']:>9.3f} {result[part]['share']:>7.1%}" for part in PARTS]
    total = result["total"]
    return "\n".join([*lines, f"{'total':<24} p50 {total['p50 ms']:.3f} ms, p95 {total['p95 ms']:.3f} ms"])
