"""How well the builder ranks: nDCG@10 on real judgments, by words, by meaning and by both, on both engines.

    make bench-relevance                                    # both engines, started here; minutes
    make bench-relevance ARGS="--elasticsearch http://127.0.0.1:9200 --opensearch http://127.0.0.1:9201"

The films of MSRD, and every 20th of its queries (814, by their ids). Vectors are compared exactly, except where it says
"by the graph". What nobody judged counts as wrong, and the judges saw only what
a BM25 search had found: so the figures of kNN are too low, which `judged` tells, and `condensed` leaves out what nobody
judged (Sakai, "Alternatives to Bpref", SIGIR 2007).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bench
import numpy as np
import search_corpus as corpus
from search_corpus import EMBEDDING, Matrix
from verify import engine_at

from knnex import Cluster, Query
from knnex.encoders import query_vectors
from knnex.engines import Engine
from knnex.evaluation import Judgments, ndcg, recall
from knnex.evaluation.ranking import judged
from knnex.mappings import Stored

K, DEPTH = 10, 100
FIELDS = ("title", "overview", "actors", "characters", "director")
#: Of the same fields by the standard analyzer, measured by others' requests; each of our own must come to it.
KNOWN = {"nDCG@10": 0.7168, "recall@100": 0.9566}
# Half of the third decimal, of figures that are rounded to the fourth.
SAME = 0.0005
CAVEAT = """The judged pools are the best 24 of a BM25 search: what nobody judged counts as wrong, so that kNN is scored too low, and
every hybrid by its share. `judged` is the share of the ten best that somebody judged; `condensed` is nDCG@10 of what
is left without those that nobody judged, which favours the run that finds few of the judged ones."""

# A graph finds nearly all of the nearest, and not the same ones twice: not held to the third decimal.
GRAPH = "kNN, by the graph"

Ask = Callable[[str, Sequence[float]], Query]


def _words(text: str, **more: Any) -> Query:
    return Query(text).lexical(*FIELDS, type="cross_fields", **more)


def _both(text: str, row: Sequence[float], share: float | None = None) -> Query:
    words, meaning = (None, None) if share is None else (round(1 - share, 2), share)
    query = _words(text, weight=words).semantic(EMBEDDING, vector=row, weight=meaning, exact=True)
    return query.fuse(window=DEPTH)


#: Ways of asking by a text and its vector.
WAYS: dict[str, Ask] = {
    "BM25": lambda text, _: _words(text),
    "BM25, best_fields": lambda text, _: Query(text).lexical(*FIELDS),
    "kNN": lambda _, row: Query().semantic(EMBEDDING, vector=row, exact=True),
    GRAPH: lambda _, row: Query().semantic(EMBEDDING, vector=row),
    "hybrid, rrf": _both,
    "hybrid, weighted 0.8 to 0.2": lambda text, row: _both(text, row, 0.2),
    "hybrid, weighted 0.5 to 0.5": lambda text, row: _both(text, row, 0.5),
}


def rank(engine: Engine, stored: Stored, texts: Sequence[str], rows: Matrix, way: Ask) -> list[list[str]]:
    """The best DEPTH of each query by one way; what scores alike is in the order of its id, which engines do not keep."""
    index, found = Cluster(engine).index(stored.spec.index), []
    for text, row in zip(texts, rows, strict=True):
        hits = index.search(way(text, row.tolist()).limit(DEPTH).select())
        found.append([hit.id for hit in sorted(hits, key=lambda hit: (-float(f"{hit.score:.5g}"), hit.id))])
    return found


def figures(rankings: Sequence[Sequence[str]], judgments: Judgments) -> dict[str, float]:
    """Means over the queries."""
    each = [(ranked, judgments.grades[name]) for ranked, name in zip(rankings, judgments.queries, strict=True)]
    known = [([one for one in ranked if one in grades], grades) for ranked, grades in each]
    return {
        "nDCG@10": _mean(ndcg(ranked, grades, K) for ranked, grades in each),
        "condensed": _mean(ndcg(ranked, grades, K) for ranked, grades in known),
        "recall@100": _mean(recall(ranked, grades, DEPTH) for ranked, grades in each),
        "judged": _mean(judged(ranked, grades, K) for ranked, grades in each),
    }


def _mean(values: Any) -> float:
    return round(float(np.mean(list(values))), 4)


def run(engine: Engine, films: Sequence[corpus.Film], judgments: Judgments, model: str) -> dict[str, dict[str, float]]:
    """The figures of every way on one engine."""
    texts = list(judgments.queries.values())
    with corpus.filled(engine, films, model) as stored:
        rows = query_vectors(stored, EMBEDDING, texts)
        return {name: figures(rank(engine, stored, texts, rows, way), judgments) for name, way in WAYS.items()}


def table(result: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A row for each way; engines beside each other, and how far they are apart."""
    engines = list(result)
    lines = [f"{'':<30}" + "".join(f" | {name:^42}" for name in engines) + (" | apart" if len(engines) > 1 else "")]
    lines.append(f"{'':<30}" + f" | {'nDCG@10':>9} {'condensed':>10} {'recall@100':>11} {'judged':>9}" * len(engines))
    for way in WAYS:
        row = f"{way:<30}"
        for name in engines:
            one = result[name][way]
            row += (
                f" | {one['nDCG@10']:>9.4f} {one['condensed']:>10.4f} {one['recall@100']:>11.4f} {one['judged']:>9.1%}"
            )
        lines.append(row + (f" | {apart(result, way):.4f}" if len(engines) > 1 else ""))
    return "\n".join(lines)


def apart(result: Mapping[str, Mapping[str, Mapping[str, float]]], way: str) -> float:
    """How far the engines' nDCG@10 of one way are apart."""
    values = [one[way]["nDCG@10"] for one in result.values()]
    return round(max(values) - min(values), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--elasticsearch", metavar="URL", help="one that runs already; else it is started here")
    parser.add_argument("--opensearch", metavar="URL", help="the same")
    parser.add_argument("--only", choices=["elasticsearch", "opensearch"], help="not both engines")
    parser.add_argument("--data", type=Path, default=corpus.DATA)
    parser.add_argument(
        "--step", type=int, default=20, help="every so-manieth query; the known figure is of every 20th"
    )
    parser.add_argument("--keep", action="store_true", help="keep the figures in benchmarks/results/")
    options = parser.parse_args()
    judgments, films = corpus.every(corpus.judged(options.data), options.step), corpus.films(options.data)
    print(f"{len(judgments)} queries, {len(films)} films", flush=True)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name in [options.only] if options.only else ["elasticsearch", "opensearch"]:
        with ExitStack() as stack:
            engine = stack.enter_context(engine_at(name, getattr(options, name)))
            result[str(engine.dialect)] = run(engine, films, judgments, corpus.minilm())
    print(table(result))
    print(f"\nBM25 of these fields, known: nDCG@10 {KNOWN['nDCG@10']}, recall@100 {KNOWN['recall@100']}\n{CAVEAT}")
    if options.keep:
        body = {"queries": len(judgments), "documents": len(films), "known": KNOWN, "caveat": " ".join(CAVEAT.split())}
        print(bench.keep("relevance", body | {"figures": result, "apart": {way: apart(result, way) for way in WAYS}}))
    far = [way for way in WAYS if way != GRAPH and apart(result, way) > SAME]
    if far:
        sys.exit(f"the engines rank differently by {', '.join(far)}")


if __name__ == "__main__":
    main()
