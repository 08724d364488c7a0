"""The real code of workers, feed and re-index in 100,000 seeded schedules of kills, stops, cuts and restarts.

    make simulate ARGS="--schedules 100000 --first 0"

The same worlds that `tests/test_simulator.py` runs a few hundred of. Prints what broke and under which seed; a seed is a
world, so that `--scenario log --first SEED --schedules 1` shows it again, step by step.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import bench
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
PART = 500


def part(name: str, first: int, count: int) -> list[tuple[int, list[str], list[str]]]:
    """What breaks in some schedules of a scenario: seed, what is wrong, the steps."""
    from test_simulator import SCENARIOS, build

    broken = []
    for seed in range(first, first + count):
        world = build(seed, SCENARIOS[name])
        if wrong := world.play():
            broken.append((seed, wrong, world.schedule.trace))
    return broken


def bugs(first: int, most: int) -> dict[str, int | None]:
    """For each broken protocol the number of schedules until it was found."""
    from test_simulator import BUGS, first_failure

    found: dict[str, int | None] = {}
    for bug in BUGS:
        with pytest.MonkeyPatch.context() as patch:
            failed = first_failure(bug(patch), range(first, first + most))
        found[bug.__name__] = failed[0] - first + 1 if failed else None
    return found


def main() -> None:
    from test_simulator import SCENARIOS, cost

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--schedules", type=int, default=100_000, help="over all scenarios")
    parser.add_argument("--scenario", choices=list(SCENARIOS), help="this one alone")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    names = [options.scenario] if options.scenario else list(SCENARIOS)
    whole = sum(1 / cost(SCENARIOS[name]) for name in names)
    shares = {name: math.ceil(options.schedules / cost(SCENARIOS[name]) / whole) for name in names}
    logging.getLogger("knnex").setLevel(logging.CRITICAL)
    started, broken = time.perf_counter(), 0
    with ProcessPoolExecutor(options.processes) as pool:
        runs = [
            (name, pool.submit(part, name, options.first + start, min(PART, share - start)))
            for name, share in shares.items()
            for start in range(0, share, PART)
        ]
        for done, (name, run) in enumerate(runs, start=1):
            for seed, wrong, trace in run.result():
                broken += 1
                print(f"{name}, seed {seed}: {wrong}", *(trace if options.schedules == 1 else ()), sep="\n")
            if done % 20 == 0 or done == len(runs):
                print(f"{done} of {len(runs)} parts, {broken} broken", flush=True)
    result = {
        "schedules": sum(shares.values()),
        "scenarios": shares,
        "first_seed": options.first,
        "broken": broken,
        "seconds": round(time.perf_counter() - started, 1),
        "broken_protocols_found_after": bugs(options.first, 2000),
    }
    print(*(f"{key}: {value}" for key, value in result.items()), sep="\n")
    if options.schedules >= 10_000:
        print("kept:", bench.keep("simulator", result).name)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
