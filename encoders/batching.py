"""Batches by tokens instead of by texts, and what to do when one does not fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import EncoderError

log = logging.getLogger("knnex.encoders")


def plan_batches(lengths: Sequence[int], budget: int) -> Iterator[NDArray[np.intp]]:
    """Positions in batches of like length, longest first; rows times longest row of a batch is at most `budget` tokens.

    A row longer than the budget is a batch of its own. Longest first: what does not fit shows at once.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def run_batches(
    lengths: Sequence[int], budget: int, dims: int, forward: Callable[[NDArray[np.intp]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """`forward` over all positions in planned batches; rows come back in the given order, `(n, dims) float32`.

    A batch that does not fit into memory is halved, down to one row; EncoderError when that does not fit either.
    """
    vectors = np.empty((len(lengths), dims), dtype=np.float32)
    waiting = list(plan_batches(lengths, budget))[::-1]
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
