"""Where servers keep their files, and the user they run as.

Elasticsearch and OpenSearch refuse to run as root. Started by root they run as `nobody`, who cannot enter root's own
home directory (mode 700); what they need then lies under `/var/lib/knnex` instead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import EngineStartFailed
from ...settings import settings

_NOBODY = 65534


@dataclass(frozen=True)
class User:
    """An account, by its numbers."""

    uid: int
    gid: int


def server_user() -> User | None:
    """Who servers run as: `nobody` where we are root, else None, which is ourselves."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    import pwd

    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return User(_NOBODY, _NOBODY)
    return User(entry.pw_uid, entry.pw_gid)


def reachable(path: Path) -> bool:
    """Whether the servers' user may enter every directory down to `path`, and read it."""
    user = server_user()
    if user is None:
        return os.access(path, os.R_OK)
    path = path.resolve()
    if not path.exists():
        return False
    parents_open = all(_may(user, parent, stat.S_IXOTH) for parent in path.parents)
    return parents_open and _may(user, path, stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0))


def _may(user: User, path: Path, wanted: int) -> bool:
    info = path.stat()
    if info.st_uid == user.uid:
        return info.st_mode & (wanted << 6) == wanted << 6
    if info.st_gid == user.gid:
        return info.st_mode & (wanted << 3) == wanted << 3
    return info.st_mode & wanted == wanted


def home_dir(home: Path | None = None) -> Path:
    """The directory for data, logs and state, absolute and there. Raises EngineStartFailed if it cannot be made."""
    path = (home or settings().home).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if server_user() is not None and not any(path.iterdir()):
            path.chmod(path.stat().st_mode | 0o055)  # new, so ours to open
    except OSError as error:
        raise EngineStartFailed(
            f"the directory {path} cannot be made: {error.strerror}", hint="set KNNEX_HOME to a directory of yours"
        ) from None
    return path


def servers_dir(home: Path, *, passing: bool = False) -> Path:
    """Where the servers of `home` keep their data: in it, if their user can get there; `passing` data is soon gone."""
    if server_user() is None or reachable(home):
        return home
    if passing:
        return _made(_open_root() / "runs")
    tag = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    return _made(_open_root() / f"home-{tag}")


def store_dir() -> Path:
    """The cache of unpacked distributions: `settings().cache_dir`, if the servers' user can get there."""
    wanted = settings().cache_dir.expanduser().absolute()
    try:
        wanted.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineStartFailed(
            f"the cache directory {wanted} cannot be made: {error.strerror}", hint="set KNNEX_CACHE_DIR"
        ) from None
    return wanted if reachable(wanted) else _made(_open_root() / "cache")


def _open_root() -> Path:
    """A directory of root's that everybody can enter and nobody else can write."""
    base = Path("/var/lib")
    root = _made((base if os.access(base, os.W_OK) else Path(tempfile.gettempdir())) / "knnex")
    info = root.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != 0 or info.st_mode & 0o022:
        raise EngineStartFailed(f"{root} is not a directory of root's alone", hint=f"remove {root}")
    return root


def _made(path: Path) -> Path:
    if not path.is_dir():
        path.mkdir(mode=0o755, exist_ok=True)
        path.chmod(0o755)  # whatever the umask is
    return path


def shared(path: Path, name: str) -> Path:
    """`path`, or a copy of it in the cache, so that the servers' user can read it."""
    if reachable(path):
        return path
    copy = store_dir() / name
    with locked(store_dir() / f"{name}.lock"):
        if not copy.exists():
            with tempfile.TemporaryDirectory(dir=store_dir(), prefix=".copying-") as scratch:
                made = Path(scratch) / "copy"
                shutil.copytree(path, made) if path.is_dir() else shutil.copy2(path, made)
                open_to_all(made)
                made.rename(copy)
    return copy


def open_to_all(top: Path) -> None:
    """Everybody may read what is in `top`, and run what its owner may run."""
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            run = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if run else 0o644)


def give(top: Path) -> None:
    """`top` and all in it belongs to the servers' user."""
    user = server_user()
    if user is not None:
        for path in (top, *top.rglob("*")):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process at the latest; waits for whoever has it."""
    import fcntl

    try:
        file = path.open("a")
    except OSError as error:
        raise EngineStartFailed(
            f"{path} cannot be written: {error.strerror}",
            hint=f"make {path.parent} writable, or choose another directory",
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
