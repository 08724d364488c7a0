"""Queries encoded per second where many threads ask at once: each by a call of its own, together, and from the cache.

    .venv/bin/python benchmarks/query_encoding.py --threads 32 --seconds 4 --rounds 5

Every way is measured in each round, in an order that turns; figures are the median of the rounds' ratios to calls of
one's own, with the least and the most. Every text is a new one, but where the cache is measured.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count

from knnex.encoders import TextEncoder, Vectors, encode_queries

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
Ask = Callable[[Sequence[str]], Vectors]


def rate(ask: Ask, text_of: Callable[[int], str], threads: int, seconds: float) -> tuple[float, float]:
    """Queries per second, and the median of their times in milliseconds."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        for step in count():
            began = time.perf_counter()
            if began > end:
                return
            ask([text_of(step * threads + number)])
            took.append(time.perf_counter() - began)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(took) / (time.perf_counter() - began), 1000 * statistics.median(took)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, nargs="*", default=[1, 8, 32])
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    encoder = TextEncoder(MODEL)
    ways: dict[str, tuple[Ask, bool]] = {
        "alone": (lambda texts: encoder._encode(texts, "query", encoder.query_prompt), False),
        "together": (encoder.encode_queries, False),
        "cached": (lambda texts: encode_queries(encoder, None, texts), True),
    }
    salt = count()
    for threads in given.threads:
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(given.rounds + 1):
            for turn in range(len(ways)):
                name = list(ways)[(number + turn) % len(ways)]
                ask, known = ways[name]
                mark = "again" if known else f"{next(salt)}"
                found = rate(
                    ask,
                    lambda step, mark=mark, known=known: f"{mark} a film about robot {step % 500 if known else step}",  # type: ignore[misc]
                    threads,
                    given.seconds,
                )
                if number:  # the first round warms up
                    rounds[name].append(found)
        for name, found_ in rounds.items():
            ratios = [one[0] / base[0] for one, base in zip(found_, rounds["alone"], strict=True)]
            print(
                f"{threads:3} threads, {name:8}: {statistics.median(one[0] for one in found_):8.0f} queries/s, "
                f"{statistics.median(one[1] for one in found_):7.2f} ms each, "
                f"x {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )


if __name__ == "__main__":
    main()
