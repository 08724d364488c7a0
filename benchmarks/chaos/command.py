"""The command: which scenarios, on which engines, how large, from which seed; a table, and results on disk."""

from __future__ import annotations

import argparse
import secrets
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import bench

from . import links, logs, overload, poison, signals, soak
from .outcome import Outcome
from .stage import Stage, stage

Told = Callable[[str], None]


@dataclass(frozen=True)
class Scenario:
    """One way to try it: what it shows, and how to run it at a size."""

    shows: str
    run: Callable[[Stage, str, int, Told], Outcome]


SCENARIOS: dict[str, Scenario] = {
    "soak": Scenario("G1", lambda on, size, seed, told: soak.soak(on, soak.SOAK[size], seed, told)),
    "redelivery": Scenario(
        "G3", lambda on, size, seed, told: soak.redelivery(on, seed, told=told, **soak.REDELIVERY[size])
    ),
    "links": Scenario("G2", lambda on, size, seed, told: links.links(on, seed, told=told, **links.SIZES[size])),
    "poison": Scenario("G7", lambda on, size, seed, told: poison.poison(on, seed, told=told, **poison.SIZES[size])),
    "breaker": Scenario("G9", lambda on, size, seed, told: overload.overload(on, "breaker", overload.SIZES[size], seed, told)),
    "queue": Scenario("G9", lambda on, size, seed, told: overload.overload(on, "queue", overload.SIZES[size], seed, told)),
    "flood": Scenario("G9", lambda on, size, seed, told: overload.overload(on, "flood", overload.SIZES[size], seed, told)),
    "signals": Scenario("rows 3, 4", lambda on, size, seed, _: signals.signals(on, seed, **signals.SIZES[size])),
    "full": Scenario("row 9", lambda on, _, seed, __: logs.full(on, seed)),
    "crowded": Scenario("row 10", lambda on, _, seed, __: logs.crowded(on, seed)),
    "trimmed": Scenario("row 24", lambda on, _, seed, __: logs.trimmed(on, seed)),
    "clock": Scenario("row 22", lambda on, _, seed, __: logs.clock(on, seed)),
    "wiped": Scenario("row 23", lambda on, _, seed, __: logs.wiped(on, seed)),
    "endurance": Scenario("G16", lambda on, size, seed, told: soak.soak(on, soak.ENDURANCE[size], seed, told)),
}  # fmt: skip
ENGINES = ("elasticsearch", "opensearch")


def main() -> int:
    """Exit code 1 where a goal was missed."""
    options = _options()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    engines = ENGINES if options.engine == "both" else (options.engine,)
    print(f"seed {seed}", flush=True)
    rows: list[tuple[str, str, str, str]] = []
    for engine in engines:
        with stage(engine) as on:
            version = str(on.engine.dialect)
            for name in options.only or SCENARIOS:
                started = time.monotonic()
                outcome = _run(on, name, options.size, seed)
                took = round(time.monotonic() - started)
                rows.append((name, version, "passed" if outcome.passed else "MISSED", f"{took} s"))
                _tell(name, version, outcome, took)
                if options.keep or options.size == "full":
                    result = {"engine": version, "size": options.size, "seed": seed, "seconds": took}
                    result |= {
                        "shows": SCENARIOS[name].shows,
                        "passed": outcome.passed,
                        "missed": [*outcome.misses, *outcome.slow],
                    }
                    bench.keep(f"chaos-{name}-{engine}-{options.size}", result | outcome.figures)
    print(*(f"{a:<12} {b:<24} {c:<8} {d:>8}" for a, b, c, d in rows), f"seed {seed}", sep="\n")
    return int(any(row[2] != "passed" for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=[*SCENARIOS], metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}"
    )
    parser.add_argument("--engine", choices=[*ENGINES, "both"], default="both")
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--seed", type=int, help="to run it again as it was; without it, one by chance, which is told")
    parser.add_argument("--keep", action="store_true", help="keep the results of a small run too")
    return parser.parse_args()


def _run(on: Stage, name: str, size: str, seed: int) -> Outcome:
    print(f"{name} on {on.engine.dialect} ...", flush=True)
    try:
        return SCENARIOS[name].run(on, size, seed, lambda line: print(f"  {line}", flush=True))
    except Exception as error:  # one scenario that breaks must not end the others
        traceback.print_exc()
        return Outcome(misses=[f"{type(error).__name__}: {error}"])
    finally:
        on.revive()


def _tell(name: str, engine: str, outcome: Outcome, took: float) -> None:
    print(f"{name} on {engine}: {'passed' if outcome.passed else 'MISSED'} in {took} s", flush=True)
    for key, value in outcome.figures.items():
        if value or key in ("lost", "stale", "zombie", "duplicate"):
            print(f"    {key:<28} {value}")
    for miss in (*outcome.misses, *outcome.slow):
        print(f"    MISSED: {miss}")
