"""Keeping the memory of one batch for the next."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

# Of glibc's malloc.h: what is larger comes from the system and goes back to it when it is freed; what is free at the
# end of the heap, if it is more than so much, goes back as well.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Bytes. The first is the most that glibc takes; a forward pass on a CPU needs some 50 MB.
_LARGE, _KEPT = 32 << 20, 128 << 20
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_memory() -> None:
    """Let this process and those forked of it keep freed memory, 128 MB at most, where the C library is glibc.

    Otherwise each forward pass on a CPU asks the system for the same pages again, which have to be made and cleared.
    Whoever has set malloc by the environment is left alone.
    """
    if not any(name in os.environ for name in _SET_BY_USER):
        with suppress(AttributeError, OSError, TypeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, _LARGE)
            mallopt(_M_TRIM_THRESHOLD, _KEPT)
