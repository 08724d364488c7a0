"""100 injected faults of 10 kinds in 100,000 documents: how many `knnex verify` finds, how many it invents, how long.

    make bench-verify ARGS="--engine opensearch --documents 100000 --faults 100"

Then the repair, and an audit of what it left. Nobody else writes meanwhile, so that every fault that is told and was not
injected is a false one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import bench

from knnex.encoders import VectorCache, resolve
from knnex.engines import Access, Engine, open_engine
from knnex.ingest import Event, Target, apply_events, make_target
from knnex.ingest.audit import AuditReport
from knnex.ingest.audit import audit as audit_index
from knnex.mappings import create, drop

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

# Goal G11 of the design: all found, none invented, within a minute.
MOST_SECONDS = 60.0
# Distinct texts: each is encoded once.
TEXTS = 2_000
CHUNK = {"unit": "sentence", "max_tokens": 8, "overlap": 0}
PLOT = "a dog sat on the mat. the robot that longs to be human."


@contextmanager
def engine_at(name: str, url: str | None) -> Iterator[Engine]:
    """The engine at an address, or one started here."""
    if url:
        opened = open_engine(url, Access())
        yield opened
        opened.close()
        return
    from knnex.engines.embedded import start_elasticsearch, start_opensearch

    start = {"elasticsearch": start_elasticsearch, "opensearch": start_opensearch}[name]
    with tempfile.TemporaryDirectory(prefix="knnex-bench-") as home, start(home=Path(home), heap="1g") as node:
        opened = open_engine(node.url, Access())
        yield opened
        opened.close()


def fill(engine: Engine, target: Target, count: int, deleted: int) -> None:
    """Documents, then tombstones, as a worker writes them."""
    words = ("cat", "dog", "robot", "mat", "log", "human")

    def event(number: int) -> Event:
        if number >= count:
            return Event(target.alias, f"gone-{number - count}", "delete", {}, 10)
        place = number % TEXTS
        title = " ".join(words[int(digit) % 6] for digit in str(1_000_003 * (place + 1)))
        return Event(target.alias, str(number), "upsert", {"title": title, "plot": PLOT, "rev": number}, 10)

    for start in range(0, count + deleted, 2_000):
        report = apply_events(engine, target, [event(n) for n in range(start, min(start + 2_000, count + deleted))])
        if report.buried or report.failed:
            raise RuntimeError(str((*report.buried, *report.failed)[:3]))


def inject(engine: Engine, target: Target, count: int, deleted: int, faults: int, seed: int) -> set[tuple[str, str]]:
    """Faults of all kinds in turn, each in a document of its own; (kind, id) of each."""
    from spoiling import DEAD, LIVING, Spoiler

    chosen, kinds = random.Random(seed), (*LIVING, *DEAD)
    alive, dead = chosen.sample(range(count), faults), chosen.sample(range(deleted), faults)
    spoiler, made = Spoiler(engine, target), set[tuple[str, str]]()
    for number in range(faults):
        kind = kinds[number % len(kinds)]
        id_ = f"gone-{dead[number]}" if kind in DEAD else str(alive[number])
        spoiler.spoil(kind, id_)
        made.add((kind, id_))
    return made


def told(report: AuditReport) -> set[tuple[str, str]]:
    """Kind and id of each fault."""
    return {(fault.kind, fault.id) for fault in report.examples}


def measure(engine: Engine, target: Target, options: argparse.Namespace) -> dict[str, object]:
    deleted = options.documents // 10

    def audit(**more: bool) -> AuditReport:
        return audit_index(engine, target.stored, open_target=lambda: target, keep=1_000_000, **more)

    started = time.perf_counter()
    fill(engine, target, options.documents, deleted)
    print(f"filled in {time.perf_counter() - started:.1f} s", flush=True)
    clean = audit()
    injected = inject(engine, target, options.documents, deleted, options.faults, options.seed)
    found, repaired, after = audit(), audit(repair=True), audit()
    result: dict[str, object] = {
        "engine": str(engine.dialect),
        "documents": found.documents,
        "deleted": found.deleted,
        "chunked": options.chunked,
        "seed": options.seed,
        "injected": len(injected),
        "found": len(injected & told(found)),
        "missed": sorted(injected - told(found)),
        "false": sorted(told(found) - injected) + sorted(told(clean)),
        "seconds before": round(clean.seconds, 1),
        "seconds": round(found.seconds, 1),
        "documents per second": round((found.documents + found.deleted) / found.seconds),
        "goal, seconds": MOST_SECONDS,
        "repaired": repaired.repaired,
        "seconds with repair": round(repaired.seconds, 1),
        "left by the repair": [str(fault) for fault in repaired.left],
        "found after it": [str(fault) for fault in after.examples],
        "probe, seconds": round(bench.probe(), 2),
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--engine", choices=["elasticsearch", "opensearch"], default="elasticsearch")
    parser.add_argument("--url", help="an engine that runs already; else one is started here")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--chunked", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the figures in benchmarks/results/")
    options = parser.parse_args()
    from filling import films
    from tiny import tiny_model

    with engine_at(options.engine, options.url) as engine, tempfile.TemporaryDirectory() as home:
        model, cache = tiny_model(Path(home)), VectorCache(Path(home) / "vectors.sqlite")
        settings = {"number_of_shards": 3, "number_of_replicas": 0}
        changes = {"chunk": CHUNK} if options.chunked else {}
        spec = films(f"knnex-bench-{uuid4().hex[:8]}", str(model), settings=settings, embedding=changes)
        stored, _ = engine.run(create(spec, engine.dialect, resolve(spec)))
        try:
            result = measure(engine, make_target(spec.index, stored, cache), options)
        finally:
            engine.run(drop(spec.index))
            cache.close()
    for name, value in result.items():
        print(f"{name:<24} {value}")
    if options.keep:
        name = f"verify-{options.engine}{'-chunked' if options.chunked else ''}"
        print(bench.keep(name, result))
    if result["missed"] or result["false"] or result["left by the repair"] or result["found after it"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
