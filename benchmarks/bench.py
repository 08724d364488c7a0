"""What benchmarks share: real servers and a worker, the machine in words, rounds, ratios, results on disk."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "sentence-transformers",
    "transformers",
    "elasticsearch",
    "opensearch-py",
    "celery",
    "redis",
    "orjson",
)


@dataclass(frozen=True)
class Servers:
    """An engine, a Redis, and a worker that waits for documents."""

    engine_url: str
    redis_url: str
    #: The processes of these two, which are nobody's children.
    pids: tuple[int, int]


@contextmanager
def servers(engine: str) -> Iterator[Servers]:
    """Start all three here, and end them by their own ids; nothing of the user's settings reaches them."""
    from knnex.engines.embedded import start_elasticsearch, start_opensearch, start_redis
    from knnex.ingest import RedisLog

    start = {"elasticsearch": start_elasticsearch, "opensearch": start_opensearch}[engine]
    with tempfile.TemporaryDirectory(prefix="knnex-bench-") as name:
        home = Path(name)
        with start(home=home, heap="1g") as node, start_redis(home=home) as redis:
            env = {
                key: value for key, value in os.environ.items() if not key.startswith("KNNEX_") or key == "KNNEX_MODELS"
            }
            env |= {"KNNEX_URL": node.url, "KNNEX_REDIS_URL": redis.url, "KNNEX_CACHE_DIR": str(home / "cache")}
            with (home / "worker.log").open("wb") as out:
                worker = subprocess.Popen([sys.executable, "-m", "knnex", "worker"], env=env, stdout=out, stderr=out)
                try:
                    log = RedisLog(redis.url)
                    while not log.workers():
                        if worker.poll() is not None:
                            raise RuntimeError((home / "worker.log").read_text())
                        time.sleep(0.1)
                    yield Servers(node.url, redis.url, (node.pid, redis.pid))
                finally:
                    worker.terminate()
                    worker.wait(60)


def machine() -> dict[str, object]:
    """Processor, cores, memory and versions."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _proc("cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((int(line.split()[1]) // 1024**2 for line in _proc("meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _proc(name: str) -> list[str]:
    path = Path("/proc") / name
    return path.read_text().splitlines() if path.exists() else []


def probe() -> float:
    """Seconds for a fixed piece of arithmetic: how busy the machine is with other things."""
    numbers = np.random.default_rng(0).random((600, 600), dtype=np.float32)
    started = time.perf_counter()
    for _ in range(40):
        numbers = np.tanh(numbers @ numbers / 300)
    return time.perf_counter() - started


def rounds(ways: Mapping[str, Callable[[int], float]], count: int) -> tuple[dict[str, list[float]], list[float]]:
    """Run every way in every round, the order turned by one each time; (figures by way, probes of the machine)."""
    names = list(ways)
    figures: dict[str, list[float]] = {name: [] for name in names}
    probes = [probe()]
    for number in range(count):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            figures[name].append(ways[name](number))
            print(f"round {number + 1}: {name:<34} {figures[name][-1]:10,.1f} docs/s", flush=True)
        probes.append(probe())
    return figures, probes


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median of the rounds' ratios, and their spread."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": round(statistics.median(each), 3), "least": round(min(each), 3), "most": round(max(each), 3)}


def keep(name: str, result: Mapping[str, object]) -> Path:
    """Write a result, with date and machine, to `results/`."""
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(UTC)
    path = RESULTS / f"{stamp:%Y-%m-%d}-{name}.json"
    body = {"benchmark": name, "date": f"{stamp:%Y-%m-%d %H:%M} UTC", "machine": machine(), **result}
    path.write_text(json.dumps(body, indent=2) + "\n")
    return path
