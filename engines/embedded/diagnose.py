"""Say in one error why a server did not start: the cause, a way out, and the lines of its log that show it."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import EngineStartFailed

_PORT = "its port is taken"


class PortTaken(EngineStartFailed):
    """The port that a server was told to listen on is taken."""


# What a log says, what that means, and what to do; the first that matches is the cause.
_CAUSES = (
    (
        r"Address already in use|Failed to bind to|BindException",
        _PORT,
        "choose another port, or none: a free one is found then",
    ),
    (
        r"failed to obtain node lock|Failed to lock NodeEnvironment|LockObtainFailed|Lock held by",
        "its data directory is in use by another server",
        "stop that one with `knnex down`, or use another KNNEX_HOME",
    ),
    (
        r"No space left on device",
        "the disk is full",
        "make room, or set KNNEX_HOME to another disk",
    ),
    (
        r"insufficient memory for the Java Runtime|Could not reserve enough space|Cannot allocate memory|errno=12",
        "the machine has too little free memory",
        "give it a smaller heap, or stop something else",
    ),
    (
        r"java.lang.OutOfMemoryError|(?:Too small|Invalid) (?:maximum|initial) heap|Initial heap size set to a larger",
        "its heap is too small",
        "give it a larger heap: 512m is enough for small indices",
    ),
    (
        r"UnsupportedClassVersionError|minimum required Java version|requires at least Java|Module \S+ not found",
        "this Java cannot run it",
        "set KNNEX_JAVA_HOME to a newer JDK",
    ),
    (
        r"bootstrap check failure|bootstrap checks failed",
        "a bootstrap check of the server failed",
        "the lines below name the setting of this machine to change",
    ),
    (
        r"cannot (?:up|down)grade a node|is not compatible with (?:node )?version|index created with version",
        "its data was written by another version",
        "use another KNNEX_HOME, or the version that wrote it",
    ),
    (
        r"Permission denied|AccessDeniedException|Operation not permitted",
        "it may not read or write a file it needs",
        "check the permissions of KNNEX_HOME and KNNEX_CACHE_DIR",
    ),
    (
        r"^knnex: the server ended by itself: signal 9",
        "the system killed it, probably for its memory",
        "give it a smaller heap, or stop something else",
    ),
)
_TELLING = re.compile(r"ERROR|FATAL|[Ee]xception|Caused by|[Ee]rror:|ailed|annot|^knnex: |^# ")
_NOISE = re.compile(r"^\s+at |^\s*\.\.\. \d+ more|^likely root cause|^\s*$|refer to the log at")
_SHOWN, _WIDTH = 6, 300


def start_failure(label: str, log: Path, port: int, otherwise: str) -> EngineStartFailed:
    """The error for a server that did not come up; `otherwise` is said where its log does not tell the cause."""
    text = log.read_text(errors="replace") if log.exists() else ""
    cause, way_out, pattern = otherwise, "the log tells more", None
    for expression, meaning, hint in _CAUSES:
        found = re.compile(expression, re.MULTILINE)
        if found.search(text):
            cause, way_out, pattern = meaning, hint, found
            break
    lines = "".join(f"\n  {line}" for line in _shown(text, pattern))
    kind = EngineStartFailed
    if cause == _PORT:
        kind = PortTaken
        cause = f"port {port} of 127.0.0.1 is taken" if port else cause
    return kind(f"{label} did not start: {cause}.{lines}\n  log: {log}", hint=way_out)


def _shown(text: str, cause: re.Pattern[str] | None) -> list[str]:
    """The few lines that matter: the one that shows the cause, and the last ones that complain."""
    lines = [line.rstrip() for line in text.splitlines() if not _NOISE.search(line)]
    first = next((line for line in lines if cause and cause.search(line)), None)
    telling = [line for line in lines if _TELLING.search(line) and line != first][-_SHOWN + 1 :]
    chosen = [first, *telling] if first else telling or lines[-_SHOWN:]
    return [line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…" for line in dict.fromkeys(chosen)]
