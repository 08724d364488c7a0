"""Faults put into an index on purpose, past knnex: one method for each kind that `knnex verify` finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from feeding import Stranger

from knnex.engines import Engine
from knnex.ingest import Target
from knnex.mappings import PROVENANCE

#: Of documents, and of tombstones.
LIVING = ("missing", "lost", "unmarked", "stale", "mixed", "leftover", "orphan", "norm", "duplicate")
DEAD = ("zombie",)


class Spoiler:
    """Spoils documents of one index; `name` is its embedding, made of title and plot."""

    def __init__(self, engine: Engine, target: Target, name: str = "plot_vector") -> None:
        self.engine, self.target, self.name = engine, target, name
        self.stranger = Stranger(engine, target.stored.index)

    def spoil(self, kind: str, id_: str, **given: Any) -> None:
        """Put a fault of that kind into a document."""
        getattr(self, kind)(id_, **given)

    def change(self, id_: str, fields: Mapping[str, Any]) -> None:
        answer = self.stranger.change(id_, dict(fields))
        assert answer.get("result") == "updated", answer

    def note(self, id_: str, note: Any, name: str | None = None) -> None:
        self.change(id_, {PROVENANCE: {"vectors": {name or self.name: note}}})

    def held(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Documents with vectors."""
        self.stranger.send("POST", "_refresh")
        body = {
            "size": len(ids),
            "query": {"ids": {"values": list(ids)}},
            "_source": self.engine.dialect.source_with_vectors(["*"]),
        }
        return {hit["_id"]: hit["_source"] for hit in self.stranger.send("POST", "_search", body=body)["hits"]["hits"]}

    def missing(self, id_: str) -> None:
        self.change(id_, {self.name: None, PROVENANCE: {"vectors": {self.name: None}}})

    def lost(self, id_: str) -> None:
        self.change(id_, {self.name: None})

    def unmarked(self, id_: str) -> None:
        self.note(id_, None)

    def stale(self, id_: str) -> None:
        self.change(id_, {"title": f"the long log {id_}"})

    def mixed(self, id_: str) -> None:
        self.note(id_, {"fingerprint": "0" * 32})

    def leftover(self, id_: str) -> None:
        self.change(id_, {"title": " ", "plot": None})

    def orphan(self, id_: str) -> None:
        self.note(id_, {"fingerprint": "0" * 32, "input_hash": "1" * 32}, "old_vector")

    def norm(self, id_: str) -> None:
        """Of a length that both engines take under cosine, and cannot rank."""
        value = self.held([id_])[id_][self.name]
        self.change(id_, {self.name: _scaled(value, 1e-8)})

    def foreign(self, id_: str, other: str) -> None:
        """The vector of another document under the note of this one's text."""
        held = self.held([id_, other])
        ours, theirs = held[id_][self.name], held[other][self.name]
        if isinstance(ours[0], dict):
            theirs = [{**one, "vector": two["vector"]} for one, two in zip(ours, theirs, strict=True)]
        self.change(id_, {self.name: theirs})

    def chunks(self, id_: str) -> None:
        self.change(id_, {self.name: self.held([id_])[id_][self.name][:-1]})

    def zombie(self, id_: str) -> None:
        self.change(id_, {"title": "the risen cat"})

    def duplicate(self, id_: str) -> None:
        """An older copy in another shard."""
        document = self.held([id_])[id_]
        document[PROVENANCE]["version"] -= 1
        for number in count():
            answer = self.stranger.put(id_, document, routing=f"elsewhere-{number}", op_type="create")
            if answer.get("result") == "created":  # else it is the very document: the same shard
                return


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value[0], dict):
        return [{**one, "vector": _scaled(one["vector"], factor)} for one in value]
    return (np.asarray(value) * factor).tolist()
