"""An encoder on which certain words have the effect that documents have on real ones, now and then."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from knnex.encoders import Encoder
from knnex.engines import Engine
from knnex.ingest import Target
from knnex.mappings import Resolved, Spec, Stored, load, load_spec


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(3600)


def _spin() -> None:
    sum(range(10**13))  # in C, under the lock of the interpreter


def _hog() -> None:
    np.ones(4 << 30, dtype=np.uint8)


def _fail() -> None:
    raise RuntimeError("no device")


EFFECTS: dict[str, Callable[[], Any]] = {
    "KILL": _kill, "HANG": _hang, "SPIN": _spin, "HOG": _hog, "LEAVE": lambda: sys.exit(3), "FAIL": _fail,
}  # fmt: skip


class Deadly:
    """Vectors of four numbers; a line in `notes` for each text that has an effect."""

    name, revision, identity, dims, max_tokens = "deadly", "1", "deadly", 4, 100

    def __init__(self, notes: Path | None = None, broken: bool = False) -> None:
        self.notes, self.broken = notes, broken

    def encode_documents(self, texts: Sequence[str]) -> Any:
        if self.broken:
            _fail()
        for text in texts:
            for word in EFFECTS.keys() & text.split():
                if self.notes:
                    with self.notes.open("a") as file:
                        file.write(f"{text} {os.getpid()}\n")
                EFFECTS[word]()
        return np.array([[len(text), 1, 2, 3] for text in texts], dtype=np.float32)


def deadly_spec(index: str) -> Spec:
    embedding = {"source": ["title"], "encoder": "deadly"}
    fields = {"title": {"type": "text"}, "year": {"type": "integer"}, "month": {"type": "integer"}}
    return load_spec({"index": index, "fields": fields, "embeddings": {"v": embedding}})


RESOLVED = {"v": Resolved(4, "f")}


def deadly_target(index: str = "films", encoder: Any = None, stored: Stored | None = None) -> Target:
    stored = stored or Stored(index, deadly_spec(index), RESOLVED)
    return Target(index, stored, {"v": cast(Encoder, encoder or Deadly())}, None)


class DeadlyTargets:
    """What a worker's targets are, with the deadly encoder in all of them."""

    def __init__(self, engine: Engine, notes: Path | None = None) -> None:
        self.engine, self.notes = engine, notes
        self._open: dict[str, Target] = {}

    def get(self, alias: str) -> Target:
        if alias not in self._open:
            self._open[alias] = deadly_target(alias, Deadly(self.notes), self.engine.run(load(alias)))
        return self._open[alias]
