"""What the tests of embedded servers share."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from knnex.engines.embedded import down

PATIENCE = 120.0


@contextmanager
def open_home() -> Iterator[Path]:
    """A directory that any user can reach, unlike pytest's own; what runs in it at the end is stopped."""
    path = Path(tempfile.mkdtemp(prefix="knnex-test-"))
    path.chmod(0o755)
    yield path
    down(path)
    shutil.rmtree(path)


def until(true: Callable[[], bool]) -> None:
    """Wait until it is true; fail if that takes longer than PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
