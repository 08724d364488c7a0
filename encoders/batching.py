"""Batches by tokens instead of by texts, and what to do when one does not fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import EncoderError
from .pulse import beat

log = logging.getLogger("knnex.encoders")


class Pass(NamedTuple):
    """One forward pass on a device: it reads at most `budget` tokens, and costs what `overhead` tokens more would."""

    budget: int
    overhead: int


def plan_batches(lengths: Sequence[int], device: Pass) -> Iterator[NDArray[np.intp]]:
    """Positions in batches of like length, longest first; rows times longest row of a batch is at most the budget.

    Where to cut costs least, padding and passes together: a whole budget of overhead makes as few passes as can be. A
    row longer than the budget is a batch of its own. Longest first: what does not fit shows at once.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    rows = _cheapest if device.overhead < device.budget else _fewest
    start = 0
    for count in rows([max(1, lengths[place]) for place in order], device):
        yield order[start : start + count]
        start += count


def _fewest(lengths: Sequence[int], device: Pass) -> Iterator[int]:
    start = 0
    while start < len(lengths):
        rows = min(len(lengths) - start, max(1, device.budget // lengths[start]))
        yield rows
        start += rows


def _cheapest(lengths: Sequence[int], device: Pass) -> Iterator[int]:
    """From the last row back: what all from here on cost, and how many the next batch then takes."""
    cost, rows = np.zeros(len(lengths) + 1), np.zeros(len(lengths), dtype=np.intp)
    for start in range(len(lengths) - 1, -1, -1):
        most = min(len(lengths) - start, max(1, device.budget // lengths[start]))
        costs = cost[start + 1 : start + 1 + most] + np.arange(1, most + 1) * lengths[start]
        rows[start] = best = int(costs.argmin()) + 1
        cost[start] = costs[best - 1] + device.overhead
    start = 0
    while start < len(lengths):
        yield int(rows[start])
        start += rows[start]


def run_batches(
    lengths: Sequence[int], device: Pass, dims: int, forward: Callable[[NDArray[np.intp]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """`forward` over all positions in planned batches; rows come back in the given order, `(n, dims) float32`.

    A batch that does not fit into memory is halved, down to one row; EncoderError when that does not fit either.
    """
    vectors = np.empty((len(lengths), dims), dtype=np.float32)
    waiting = list(plan_batches(lengths, device))[::-1]
    while waiting:
        batch = waiting.pop()
        try:
            rows = forward(batch)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise EncoderError(
                    f"out of memory with one text of {lengths[batch[0]]} tokens: {error}",
                    hint="use shorter chunks, a smaller model or another device (KNNEX_DEVICE)",
                ) from error
            half = len(batch) // 2
            log.warning("Out of memory with a batch of %d texts; trying %d", len(batch), half)
            waiting += [batch[half:], batch[:half]]
            _release()
        else:
            vectors[batch] = rows
            beat()
    return vectors


def out_of_memory(error: BaseException) -> bool:
    """Whether the error is the host's or the device's way to say that memory is full."""
    import torch

    # torch has a class for the device only; for the host it raises a RuntimeError of its allocator.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _release() -> None:
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
