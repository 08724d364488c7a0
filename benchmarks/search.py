"""Searching: what a client adds, recall beside latency, and where the time of a question in words goes.

    make bench-search                                       # both engines, started here; minutes
    make bench-search ARGS="--engine opensearch --only overhead --url http://127.0.0.1:9200"

The films of MSRD with real embeddings (all-MiniLM-L6-v2). Machines are shared: what is compared is asked in turn, query
by query, in the same run; `probe_spread` tells how much else the machine did meanwhile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
import search_corpus as corpus
import search_fusion
import search_overhead
import search_paging
import search_recall
import search_text
from verify import engine_at

from knnex.encoders import query_vectors
from knnex.engines import Engine


@dataclass(frozen=True)
class Scene:
    """What a trial has: an engine, films to fill indexes with, texts to ask."""

    engine: Engine
    films: list[corpus.Film]
    texts: list[str]
    options: argparse.Namespace


def overhead(scene: Scene) -> dict[str, Any]:
    """C10: a vector in, ids and scores out."""
    with corpus.filled(scene.engine, scene.films, corpus.minilm()) as stored:
        rows = query_vectors(stored, corpus.EMBEDDING, scene.texts)
        result = search_overhead.measure(scene.engine, stored, rows, rounds=scene.options.rounds)
    print(search_overhead.table(result))
    return result


def recall(scene: Scene) -> dict[str, Any]:
    """C11 and C12: recall@10 and latency, unfiltered and filtered."""
    texts, rounds = scene.texts[:100], min(3, scene.options.rounds)
    result = search_recall.measure(scene.engine, scene.films, texts, corpus.minilm(), rounds=rounds)
    print(search_recall.table(result))
    return result


def text(scene: Scene) -> dict[str, Any]:
    """A question in words, from end to end, in its parts."""
    with corpus.filled(scene.engine, scene.films, corpus.minilm()) as stored:
        result = search_text.measure(scene.engine, stored, scene.texts)
    print(search_text.table(result))
    return result


def paging(scene: Scene) -> dict[str, Any]:
    """Every id of a large index, page after page."""
    result = search_paging.measure(scene.engine, scene.options.ids)
    print(search_paging.table(result))
    return result


def fusion(scene: Scene) -> dict[str, Any]:
    """Fusion on the client beside the engine's own, where it has one."""
    if scene.engine.dialect.product != "opensearch":
        print("its retrievers need an Enterprise licence")
        return {}
    with corpus.filled(scene.engine, scene.films, corpus.minilm()) as stored:
        result = search_fusion.measure(scene.engine, stored, scene.texts)
    print(search_fusion.table(result))
    return result


#: Trials by name; a further one is a function of a scene that prints its table and returns its figures.
TRIALS: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "overhead": overhead,
    "recall": recall,
    "text": text,
    "paging": paging,
    "fusion": fusion,
}


def run(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    """The trials that were asked for, on one engine."""
    queries = corpus.judged(options.data).limited(options.queries)
    films = corpus.films(options.data, options.documents)
    scene = Scene(engine, films, list(queries.queries.values()), options)
    result: dict[str, Any] = {"engine": str(engine.dialect), "documents": len(films), "texts": len(scene.texts)}
    probes = [bench.probe()]
    for name in options.only or TRIALS:
        print(f"\n{engine.dialect}: {(TRIALS[name].__doc__ or '').strip()}", flush=True)
        result[name] = TRIALS[name](scene)
        probes.append(bench.probe())
    result["probe_spread"] = round(max(probes) / min(probes), 2)
    print(f"probe_spread {result['probe_spread']}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--engine", choices=["elasticsearch", "opensearch"], help="one of them; else both")
    parser.add_argument("--url", help="an engine that runs already; else one is started here")
    parser.add_argument("--only", nargs="+", choices=list(TRIALS), help="not all trials")
    parser.add_argument("--data", type=Path, default=corpus.DATA)
    parser.add_argument("--documents", type=int, help="of 9,750 films")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--ids", type=int, default=1_000_000, help="of the trial `paging`")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", action="store_true", help="keep the figures in benchmarks/results/")
    options = parser.parse_args()
    for name in [options.engine] if options.engine else ["elasticsearch", "opensearch"]:
        with engine_at(name, options.url) as engine:
            result = run(engine, options)
            if options.keep:
                for trial in options.only or TRIALS:
                    figures = {key: value for key, value in result.items() if key not in TRIALS}
                    print(bench.keep(f"search-{trial}-{name}", figures | result[trial]))


if __name__ == "__main__":
    main()
