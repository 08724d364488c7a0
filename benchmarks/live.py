"""What the log and the worker cost, what an unchanged corpus costs, and how soon a document is found.

    make bench-live ARGS="--engine opensearch --documents 1500 --rounds 5"
    make bench-live ARGS="--only overhead --rounds 15"

Ratios of one run: documents sent again unchanged beside their first time, at once and for the last of many times; the
same where all are sent all the same, and beside the writing of ready vectors, which that cannot save (each document
gets its new version); through log and worker beside the same code in this process; the time from accepting one
document until a search finds it beside the index's refresh interval. Processor seconds, of this process, worker, engine
and Redis together, say the same where other processes take the machine's time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import bench
import psutil

import ingest
from knnex import F, Query, connect
from knnex.client import Cluster
from knnex.ingest import Event, Item, Report, write
from knnex.ingest.bulk import Outcome

# Both engines' own, once somebody searches.
REFRESH = 1.0
THROUGH, INLINE, WRITING = "through log and worker", "inline", "writing alone"
AGAIN, ALL_AGAIN = "again", "again, with unchanged=True"
# A server that was just started compiles its reading of documents while it is measured; one in use has done so.
TIMES = 20
OFTEN = f"again, {TIMES} times over, the last"


@dataclass
class Meter:
    """Documents per second, and milliseconds of processor per document, by name, a figure for each round."""

    documents: int
    servers: Sequence[int]
    rates: dict[str, list[float]] = field(default_factory=dict)
    costs: dict[str, list[float]] = field(default_factory=dict)

    def run(self, name: str, work: Callable[[], object]) -> float:
        """Run it; its documents per second."""
        started, before = time.perf_counter(), processor(self.servers)
        work()
        rate = self.documents / (time.perf_counter() - started)
        self.rates.setdefault(name, []).append(rate)
        self.costs.setdefault(name, []).append((processor(self.servers) - before) / self.documents * 1000)
        return rate

    def clear(self) -> None:
        """Forget what was only for warming up."""
        self.rates.clear()
        self.costs.clear()


def processor(servers: Sequence[int]) -> float:
    """Seconds of processor time of this process, the servers, and all that they started, as far as they live."""
    whole = 0.0
    for one in (os.getpid(), *servers):
        for process in (psutil.Process(one), *psutil.Process(one).children(recursive=True)):
            with suppress(psutil.Error):
                whole += sum(process.cpu_times()[:2])
    return whole


class Live(ingest.Bench):
    """The ways of `ingest.py` that are asked for here, metered."""

    def __init__(self, cluster: Cluster, texts: list[str], servers: Sequence[int], again: bool = True) -> None:
        super().__init__(cluster, texts)
        self.meter, self.again = Meter(len(texts), servers), again

    def twice(self, number: int) -> float:
        """Through the log, and, where that is asked for, again and again unchanged; the first time is the figure."""

        def work(name: str, documents: list[dict[str, str]]) -> None:
            index = self.cluster.index(name)
            self.meter.run(THROUGH, lambda: self._complete(index.ingest(documents)))
            if not self.again:
                return
            self.meter.run(AGAIN, lambda: self._unchanged(index.ingest(documents), len(documents)))
            for _ in range(TIMES - 2):
                self._unchanged(index.ingest(documents), len(documents))
            self.meter.run(OFTEN, lambda: self._unchanged(index.ingest(documents), len(documents)))
            self.meter.run(ALL_AGAIN, lambda: self._unchanged(index.ingest(documents, unchanged=True), 0))

        self.timed(number, work)
        return self.meter.rates[THROUGH][-1]

    def here(self, number: int) -> float:
        """In this process, without a cache of earlier rounds, as every round has texts of its own."""

        def work(name: str, documents: list[dict[str, str]]) -> None:
            self.meter.run(INLINE, lambda: self._complete(self.cluster.index(name).ingest(documents, inline=True)))

        self.timed(number, work)
        return self.meter.rates[INLINE][-1]

    def ready_made(self, number: int) -> float:
        """The bulk writing of vectors that are there."""
        if number not in self.ready:
            self.encoding_alone(number)

        def work(name: str, documents: list[dict[str, str]]) -> None:
            items = [
                Item(one["id"], 1, {**one, "meaning": vector})
                for one, vector in zip(documents, self.ready[number], strict=True)
            ]
            self.meter.run(WRITING, lambda: self._written(write(self.cluster.engine, name, items)))

        self.timed(number, work)
        return self.meter.rates[WRITING][-1]

    @staticmethod
    def _written(outcomes: Sequence[Outcome]) -> None:
        assert all(one.status == "written" for one in outcomes)

    @staticmethod
    def _unchanged(report: Report, unchanged: int) -> None:
        assert (report.complete, report.encoded, report.unchanged) == (True, 0, unchanged), report


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


def summary(meter: Meter, seconds: Sequence[float]) -> dict[str, Any]:
    """The ratios, by time and by processor, of what was measured."""
    rates, costs = meter.rates, meter.costs
    made: dict[str, Any] = {
        "docs_per_second": {name: [round(one, 1) for one in each] for name, each in rates.items()},
        "processor_ms_per_document": {name: [round(one, 2) for one in each] for name, each in costs.items()},
        "ratios": {
            "C14 log and worker / inline": bench.ratio(rates[THROUGH], rates[INLINE]),
            "C14 the same, by processor": bench.ratio(costs[INLINE], costs[THROUGH]),
        },
    }
    if AGAIN in rates:
        made["ratios"] |= {
            "C13 sent again unchanged / first time": bench.ratio(rates[AGAIN], rates[THROUGH]),
            f"C13 the same, {TIMES} times over": bench.ratio(rates[OFTEN], rates[THROUGH]),
            "C13 the same, by processor": bench.ratio(costs[THROUGH], costs[AGAIN]),
            "all sent again / first time": bench.ratio(rates[ALL_AGAIN], rates[THROUGH]),
            "all sent again / writing alone": bench.ratio(rates[ALL_AGAIN], rates[WRITING]),
        }
    if seconds:
        p50 = statistics.median(seconds)
        made["freshness_seconds"] = {
            "p50": round(p50, 3),
            "p95": round(statistics.quantiles(seconds, n=20)[18], 3),
            "documents": len(seconds),
            "C15 p50 / refresh interval": round(p50 / REFRESH, 3),
        }
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=["elasticsearch", "opensearch"], default="elasticsearch")
    parser.add_argument("--texts", choices=["short", "mixed"], default="mixed")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--single", type=int, default=60, help="documents sent one by one for the freshness")
    parser.add_argument("--only", choices=["overhead"], help="log and worker beside inline, and nothing else: C14")
    options = parser.parse_args()
    texts = ingest.texts_of(options.texts, options.documents)
    with bench.servers(options.engine) as running, connect(running.engine_url, redis_url=running.redis_url) as cluster:
        whole = options.only is None
        work = Live(cluster, texts, running.pids, again=whole)
        ways = {THROUGH: work.twice, INLINE: work.here} | ({WRITING: work.ready_made} if whole else {})
        for way in ways.values():
            way(10**6)
        work.meter.clear()
        _, probes = bench.rounds(ways, options.rounds)
        seconds = []
        if whole:
            cluster.create(work.spec("fresh"))
            freshness(cluster, "fresh", 5)
            seconds = freshness(cluster, "fresh", options.single)
            cluster.drop("fresh")
        engine = str(cluster.engine.dialect)
    result: dict[str, Any] = {
        "engine": engine,
        "texts": f"{len(texts)} {options.texts} docstrings",
        "rounds": options.rounds,
        **summary(work.meter, seconds),
        "probe_spread": round(max(probes) / min(probes), 3),
    }
    print(
        *(
            f"{name:<50} {one}"
            for part in ("ratios", "freshness_seconds")
            for name, one in result.get(part, {}).items()
        ),
        sep="\n",
    )
    only = f"-{options.only}" if options.only else ""
    print("kept:", bench.keep(f"live-{options.engine}-{options.texts}{only}", result).name)


if __name__ == "__main__":
    main()
