"""Unpacking `.gz`, `.bz2`, `.xz` and `.zst` while reading, within bounds: few bytes can stand for endlessly many."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import IO, Any

from ..errors import InputError

#: JSON of machines packs to a hundredth of its size at times; what is made to burst, to a thousandth and less.
MAX_RATIO = 250
#: Up to so many bytes the ratio says nothing yet.
RATIO_FROM = 64 << 20
MAX_UNPACKED_BYTES = 1 << 40
_BUFFER = 1 << 17

# Opens the unpacked stream; and what that raises, beside OSError, where the file is damaged.
_Opened = tuple[Any, tuple[type[Exception], ...]]


class _Counted:
    """A file of which is known how much was read; pipes cannot tell."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.count = file, 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self.count += len(data)
        return data


class Unpacked(io.RawIOBase):
    """The bytes of a packed file; damage of any kind is an OSError."""

    def __init__(self, file: IO[bytes], opener: Callable[[Any], _Opened]) -> None:
        self._packed = _Counted(file)
        self._stream, self._damage = opener(self._packed)
        self._count = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read on. Raises OSError where the file is cut or damaged, or unpacks to more than it may."""
        try:
            data = self._stream.read(len(buffer))
        except self._damage as error:
            raise OSError(str(error) or "it is cut") from None
        self._count += len(data)
        if self._count > MAX_UNPACKED_BYTES:
            raise OSError(f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
        if self._count > RATIO_FROM and self._count > MAX_RATIO * self._packed.count:
            raise OSError(f"it unpacks to more than {MAX_RATIO} times its size")
        buffer[: len(data)] = data
        return len(data)


def unpacked(file: IO[bytes], suffix: str) -> io.BufferedReader:
    """The unpacked bytes of a file that is packed as its suffix says."""
    return io.BufferedReader(Unpacked(file, PACKED[suffix]), _BUFFER)


def check_packed(path: str, suffix: str) -> None:
    """Raises InputError where this Python cannot unpack such a file."""
    if suffix == ".zst":
        try:
            _zstd()
        except ImportError:
            raise InputError(f"reading {path} needs Zstandard", hint="pip install 'knnex[zstd]'") from None


def _zstd() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14
    except ImportError:
        from backports import zstd  # type: ignore[no-redef, unused-ignore]
    return zstd


def _gz(file: Any) -> _Opened:
    return gzip.GzipFile(fileobj=file, mode="rb"), (EOFError, zlib.error)


def _bz2(file: Any) -> _Opened:
    return bz2.BZ2File(file), (EOFError, ValueError)


def _xz(file: Any) -> _Opened:
    return lzma.LZMAFile(file), (EOFError, lzma.LZMAError)


def _zst(file: Any) -> _Opened:
    zstd = _zstd()
    return zstd.ZstdFile(file), (EOFError, zstd.ZstdError)


PACKED: Mapping[str, Callable[[Any], _Opened]] = {".gz": _gz, ".bz2": _bz2, ".xz": _xz, ".zst": _zst}
