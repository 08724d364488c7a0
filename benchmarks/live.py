"""What the log and the worker cost, what an unchanged corpus costs, and how soon a document is found.

    make bench-live ARGS="--engine opensearch --documents 1500 --rounds 5"

Three ratios of one run: documents sent again unchanged beside their first time; through log and worker beside the same
code in this process; the time from accepting one document until a search finds it beside the index's refresh interval.
"""

from __future__ import annotations

import argparse
import statistics
import time
from uuid import uuid4

import bench

import ingest
from knnex import F, Query, connect
from knnex.client import Cluster
from knnex.ingest import Event

# Both engines' own, once somebody searches.
REFRESH = 1.0


def freshness(cluster: Cluster, name: str, count: int) -> list[float]:
    """Seconds from the moment the log has accepted a document until a search finds it, nobody asking for a refresh."""
    index, found = cluster.index(name), []
    for number in range(count):
        id_ = f"fresh-{uuid4().hex}"
        # At any moment of the interval, and not always after the last one's refresh.
        time.sleep((number * 0.37) % REFRESH)
        cluster.log.append([Event(name, id_, "upsert", {"id": id_, "text": f"document {id_}"})])
        started = time.perf_counter()
        while not index.search(Query().where(F.id == id_)):
            time.sleep(0.005)
        found.append(time.perf_counter() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=["elasticsearch", "opensearch"], default="elasticsearch")
    parser.add_argument("--texts", choices=["short", "mixed"], default="mixed")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--single", type=int, default=60, help="documents sent one by one for the freshness")
    options = parser.parse_args()
    texts = ingest.texts_of(options.texts, options.documents)
    with bench.servers(options.engine) as running, connect(running.engine_url, redis_url=running.redis_url) as cluster:
        work = ingest.Bench(cluster, texts)
        again: list[float] = []

        def twice(number: int) -> float:
            """The first time is the figure; the second is kept aside."""

            def both(name: str, documents: list[dict[str, str]]) -> None:
                nonlocal first
                started = time.perf_counter()
                work._complete(cluster.index(name).ingest(documents))
                first = time.perf_counter() - started
                report = cluster.index(name).ingest(documents)
                assert (report.complete, report.encoded) == (True, 0), report
                again.append(len(documents) / (time.perf_counter() - started - first))

            first = 0.0
            work.timed(number, both)
            return len(texts) / first

        ways = {"through log and worker": twice, "inline": work.inline}
        for way in ways.values():
            way(10**6)
        again.clear()
        figures, probes = bench.rounds(ways, options.rounds)
        cluster.create(work.spec("fresh"))
        freshness(cluster, "fresh", 5)
        seconds = freshness(cluster, "fresh", options.single)
        cluster.drop("fresh")
        engine = str(cluster.engine.dialect)
    ours = figures["through log and worker"]
    p50 = statistics.median(seconds)
    result = {
        "engine": engine,
        "texts": f"{len(texts)} {options.texts} docstrings",
        "rounds": options.rounds,
        "docs_per_second": {
            name: [round(one, 1) for one in each] for name, each in (figures | {"again": again}).items()
        },
        "ratios": {
            "C13 sent again unchanged / first time": bench.ratio(again, ours),
            "C14 log and worker / inline": bench.ratio(ours, figures["inline"]),
        },
        "freshness_seconds": {
            "p50": round(p50, 3),
            "p95": round(statistics.quantiles(seconds, n=20)[18], 3),
            "documents": len(seconds),
            "C15 p50 / refresh interval": round(p50 / REFRESH, 3),
        },
        "probe_spread": round(max(probes) / min(probes), 3),
    }
    print(*(f"{name:<45} {one}" for name, one in {**result["ratios"], **result["freshness_seconds"]}.items()), sep="\n")  # type: ignore[dict-item]
    print("kept:", bench.keep(f"live-{options.engine}-{options.texts}", result).name)


if __name__ == "__main__":
    main()
