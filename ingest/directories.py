"""The files of a directory that somebody else may have filled: nothing leads out of it, and nothing is waited for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Inside:
    """Something found in a directory, by its path in there; `problem` says why it is not to be read."""

    path: str
    problem: str = ""


def files_in(root: str) -> Iterator[Inside]:
    """The files of a directory and of those in it, sorted by name; hidden ones are left out."""
    try:
        waiting = _listed(root)
    except OSError as error:
        yield Inside("", f"cannot be listed: {error.strerror}")
        return
    while waiting:
        entry = waiting.pop()
        path = os.path.relpath(entry.path, root)
        try:
            if entry.is_symlink():
                yield from _link(root, path)
            elif entry.is_dir(follow_symlinks=False):
                waiting += _listed(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield Inside(path)
            else:
                yield Inside(path, "is no file: a pipe, a socket or a device")
        except OSError as error:
            yield Inside(path, f"cannot be read: {error.strerror}")


def _listed(path: str) -> list[os.DirEntry[str]]:
    """What is in a directory, the last one first."""
    with os.scandir(path) as entries:
        return sorted((one for one in entries if not one.name.startswith(".")), key=_by_name, reverse=True)


def _by_name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _link(root: str, path: str) -> Iterator[Inside]:
    """What a link leads to inside is read under its own name, if it is not hidden."""
    try:
        end = Path(root, path).resolve()
    except RuntimeError:  # so says Python 3.11 of a link that leads to itself
        yield Inside(path, "is a symbolic link that leads to itself")
        return
    if not end.is_relative_to(Path(root).resolve()):
        yield Inside(path, "is a symbolic link that leads out of the directory")
    elif not end.exists():
        yield Inside(path, "is a symbolic link that leads to nothing")


def open_inside(root: str, path: str) -> int:
    """A descriptor of a regular file, reached from `root` without following any link. Raises OSError."""
    *folders, name = Path(path).parts
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        # Not to be kept waiting where a pipe took the file's place.
        found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise OSError("it is no regular file")
    return found
