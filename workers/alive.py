"""Whether the worker on this machine lives, for probes: `python -m knnex.workers.alive`, or `knnex alive`.

A worker's sweeper touches a file every second, and once in a while even where the log does not answer: a probe that
asked the log would have all workers restarted when Redis is. `--announced` asks the log, for who wants to know that;
`--beat` means `celery beat` instead of a worker.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from ..engines.places import log_url
from ..errors import KnnexError
from ..ingest import open_log
from ..settings import Settings, settings

#: Seconds of silence after which a worker is taken for hung; a log that does not answer keeps it busy for 45.
SILENT = 90.0
_FORGOTTEN = 86_400.0


def folder(settings: Settings) -> Path:
    """Where the files lie."""
    return settings.cache_dir / "alive"


class Pulse:
    """The file of one worker."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._file = folder(settings) / re.sub(r"[^\w.-]", "_", name)

    def beat(self) -> None:
        """The worker lives. Where the file cannot be written, only the probe is wrong."""
        with suppress(OSError):
            if not self._file.exists():
                self._file.parent.mkdir(parents=True, exist_ok=True)
                for old in self._file.parent.iterdir():  # of workers that were killed
                    if old.stat().st_mtime < time.time() - _FORGOTTEN:
                        old.unlink()
            self._file.write_text(str(os.getpid()))

    def end(self) -> None:
        """The worker has stopped."""
        self._file.unlink(missing_ok=True)


def beat_name() -> str:
    """Under what name `celery beat` of this host is known here."""
    return f"beat-{socket.gethostname()}"


def lives(settings: Settings, name: str | None = None, silent: float = SILENT) -> bool:
    """Whether a worker of this host, or the one of that name, has been heard of in the last `silent` seconds."""
    pattern = re.sub(r"[^\w.-]", "_", name) if name else f"{socket.gethostname()}-*"
    found = folder(settings).glob(pattern) if folder(settings).is_dir() else ()
    return any(one.stat().st_mtime > time.time() - silent for one in found)


def announced(settings: Settings, name: str | None = None) -> bool:
    """Whether the log knows a worker of this host, or the one of that name, as alive. Raises LogUnavailable."""
    log = open_log(log_url(settings))
    try:
        names = log.workers()
    finally:
        log.close()
    return name in names if name else any(one.startswith(f"{socket.gethostname()}-") for one in names)


def main(arguments: list[str]) -> int:
    """The exit code of a probe."""
    names = [one for one in arguments if not one.startswith("-")] + [beat_name()] * ("--beat" in arguments)
    ask = announced if "--announced" in arguments else lives
    try:
        return 0 if ask(settings(), names[0] if names else None) else 1
    except KnnexError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
