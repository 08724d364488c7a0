"""What every cache of vectors promises, and the bytes it keeps of a vector."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from .base import Vectors

#: How the numbers of a vector are kept: float16 takes half the room and keeps three digits of each.
Width = Literal["float32", "float16"]
# Before numbers of two bytes: it makes the length odd, which that of numbers of four bytes never is.
_HALF = b"h"


class Cache(Protocol):
    """Vectors by the content they stand for; `hits` and `misses` count the keys this process asked for.

    A cache may lose vectors but never change one, and never stops the work: what it cannot do now is logged. How many
    texts of an index came from the cache is counted in the log, as `encoded` and `cached`.
    """

    hits: int
    misses: int

    def __len__(self) -> int: ...

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """The vectors there are among these keys, each `(dims,) float32` and read-only."""
        ...

    def put_many(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Keep these vectors, each `(dims,) float32`."""
        ...

    def close(self) -> None:
        """Close what is open; the next use opens it again."""
        ...


def pack(key: bytes, vector: Vectors, width: Width) -> bytes:
    """The vector as it is kept: its numbers, and the CRC-32 of these with the key.

    A vector with numbers beyond the range of float16 is kept as float32.
    """
    if width == "float16" and np.abs(vector).max(initial=0.0) <= np.finfo(np.float16).max:
        data = _HALF + np.ascontiguousarray(vector, dtype="<f2").tobytes()
    else:
        data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return data + _sum(key, data)


def unpack(key: bytes, stored: bytes) -> Vectors | None:
    """The vector of `pack` as `(dims,) float32` and read-only, or None for what is damaged or another key's."""
    data, checksum = stored[:-4], stored[-4:]
    if _sum(key, data) != checksum:
        return None
    if len(data) % 2:
        vector: Vectors = np.frombuffer(data, dtype="<f2", offset=1).astype(np.float32)
        vector.flags.writeable = False
        return vector
    return np.frombuffer(data, dtype="<f4") if len(data) % 4 == 0 else None


def _sum(key: bytes, data: bytes) -> bytes:
    return zlib.crc32(key + data).to_bytes(4, "little")
