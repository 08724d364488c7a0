"""A small corpus with vectors, written without any model, and what an exact search of it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import numpy as np

from knnex.engines import Dialect, Engine, Flow, Request
from knnex.mappings import Resolved, Stored, create, drop, find, load_spec
from knnex.query import Hits, Plan, Query, plan, search

DIMS = 8
RESOLVED = {name: Resolved(DIMS, "f" * 32) for name in ("v", "w", "c")}
GENRES = ("drama", "comedy", "sci-fi", "noir")
WORDS = ("robot", "moon", "ocean", "letter", "train", "winter", "detective", "garden", "piano", "desert")
# Values that patterns must not take for patterns.
ODD = ("A*b", "a?b", "back\\slash", 'say "x"', "née", "Ünder", "new\nline", "#@&<1-2>~", "")
AWARDS = ("oscar", "cesar", "bear")
STUDIOS = {"ufa": "DE", "rko": "US", "toho": "JP", "fox": "US"}


def unit(seed: object) -> np.ndarray[Any, Any]:
    """A direction that depends on `seed` alone, `(DIMS,) float32`."""
    row = np.random.default_rng(list(repr(seed).encode())).normal(size=DIMS)
    return (row / np.linalg.norm(row)).astype(np.float32)


def encode(name: str, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """The query side of an encoder that knows nothing of meaning."""
    return np.array([unit(text) for text in texts], dtype=np.float32).reshape(len(texts), DIMS)


def place(number: int) -> list[dict[str, float]]:
    """Where document `number` plays: all around the Earth, at both sides of the date line too; some at two places."""
    row = np.random.default_rng(number).uniform(-1, 1, size=4)
    first = {"lat": round(float(row[0]) * 85, 4), "lon": round(float(row[1]) * 180, 4)}
    if number % 3 == 0:
        first = {"lat": round(float(row[0]) * 20, 4), "lon": round((180 + float(row[1]) * 3 + 180) % 360 - 180, 4)}
    second = {"lat": round(50 + float(row[2]), 4), "lon": round(10 + float(row[3]), 4)}
    return [first, second] if number % 4 == 0 else [first]


def shown(number: int) -> datetime:
    """When document `number` was shown, to the millisecond, in one of three time zones."""
    zone = (UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8)))[number % 3]
    first = datetime(1970 + number % 50, 1 + number % 12, 1 + number % 28, tzinfo=zone)
    return first + timedelta(milliseconds=number * 1_234_567)


def _awards(number: int) -> list[dict[str, Any]]:
    return [{"name": AWARDS[(number + step) % 3], "year": 1950 + (number * step) % 40} for step in range(number % 3)]


def document(number: int) -> dict[str, Any]:
    """Document `number`; some lack fields, as documents do."""
    words = [WORDS[(number * step + step) % len(WORDS)] for step in (1, 3, 7)]
    whole: dict[str, Any] = {
        "title": f"The {words[0]} and the {words[1]}",
        "plot": " ".join([*words, WORDS[number % 3], f"number{number}"]),
        "genre": [GENRES[number % 4], GENRES[number % 3]] if number % 5 else GENRES[number % 4],
        "year": 1920 + (number * 7) % 90,
        "rating": (number % 9) / 2,
        "seen": number % 2 == 0,
        "released": f"{1920 + (number * 7) % 90}-0{1 + number % 9}-15",
        "studio": list(STUDIOS)[number % 4],
        "cast": [
            {
                "name": f"actor{(number + step) % 6}",
                "age": 20 + (number * step) % 40,
                "awards": _awards(number + step),
            }
            for step in (1, 2)
        ],
        "code": f"{'Ab'[number % 2]}{number % 7}-{number:02d}" if number % 4 else [ODD[number // 4 % len(ODD)], "x"],
        "place": place(number),
        "shown": shown(number).isoformat(timespec="milliseconds"),
        "day": f"{1 + number % 28:02d}/{1 + number % 12:02d}/{1970 + number % 50}",
        "address": {"city": ("Berlin", "Kyoto", "Rome")[number % 3]},
    }
    if number % 2:
        whole["before"] = f"d{number - 1:03d}"
    for position, field in enumerate(("genre", "year", "rating", "seen", "cast", "place", "shown")):
        if number % 11 == position + 1:
            del whole[field]
    return whole


def spec(index: str, studios: str, shards: int = 1) -> Any:
    """The spec of the corpus: a plain embedding under cosine, one under l2, one in chunks."""
    keyword = {"type": "keyword"}
    return load_spec(
        {
            "index": index,
            "fields": {
                "title": {"type": "text", "fields": {"raw": keyword}},
                "plot": {"type": "text"},
                "genre": keyword,
                "year": {"type": "integer"},
                "rating": {"type": "float"},
                "seen": {"type": "boolean"},
                "released": {"type": "date"},
                "shown": {"type": "date"},
                "day": {"type": "date", "format": "dd/MM/yyyy"},
                "code": keyword,
                "place": {"type": "geo_point"},
                "studio": keyword,
                "before": keyword,
                "address": {"type": "object", "properties": {"city": keyword}},
            },
            "settings": {"index.number_of_shards": shards},
            "embeddings": {
                "v": {"source": "{title}", "encoder": "tests/none"},
                "w": {"source": "{title}", "encoder": "tests/none", "similarity": "l2"},
                "c": {"source": "{plot}", "encoder": "tests/none", "chunk": {"unit": "paragraph"}},
            },
            "joins": {
                "cast": {
                    "kind": "nested",
                    "fields": {
                        "name": keyword,
                        "age": {"type": "integer"},
                        "awards": {"type": "nested", "properties": {"name": keyword, "year": {"type": "integer"}}},
                    },
                },
                "studios": {"kind": "lookup", "field": "studio", "key": "code", "index": studios},
                "sequel": {"kind": "lookup", "field": "before", "key": "id"},
                "same": {"kind": "lookup", "field": "studio", "key": "studio"},
            },
        }
    )


@dataclass(frozen=True, repr=False)
class Corpus:
    """An index that holds `documents`, and the vectors of each."""

    stored: Stored
    documents: Mapping[str, Mapping[str, Any]]
    plain: Mapping[str, np.ndarray[Any, Any]]
    chunks: Mapping[str, np.ndarray[Any, Any]]

    def __repr__(self) -> str:
        return f"Corpus({self.stored.index})"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Hypothesis prints every vector otherwise."""
        printer.text(repr(self))

    def plan(self, engine: Any, query: Query) -> Plan:
        return plan(query, self.stored, engine.dialect, encode)

    def search(self, engine: Engine, query: Query) -> Hits:
        return engine.run(search(self.plan(engine, query)))

    def matching(self, condition: Callable[[Mapping[str, Any]], bool]) -> set[str]:
        return {key for key, value in self.documents.items() if condition(value)}

    def nearest(
        self, vector: np.ndarray[Any, Any], among: Iterable[str], embedding: str = "v"
    ) -> list[tuple[str, float]]:
        """(id, score) of exact search, best first, on the engines' scale."""
        found = []
        for key in among:
            if embedding == "c":
                if key in self.chunks:
                    found.append((key, float((1 + (self.chunks[key] @ vector).max()) / 2)))
            elif key in self.plain:
                row = self.plain[key]
                distance = float(((row - vector) ** 2).sum())
                found.append((key, 1 / (1 + distance) if embedding == "w" else float((1 + row @ vector) / 2)))
        return sorted(found, key=lambda pair: -pair[1])


def build(
    dialect: Dialect, index: str, studios: str, numbers: Sequence[int] = range(60), shards: int = 1
) -> Flow[Corpus]:
    """Make both indexes, write the documents as workers do, tombstones among them, and wait for them."""
    other = {
        "index": studios,
        "fields": {"code": {"type": "keyword"}, "country": {"type": "keyword"}, "name": {"type": "text"}},
    }
    yield from create(load_spec(other), dialect, {})
    stored, _ = yield from create(spec(index, studios, shards), dialect, RESOLVED)
    documents: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    chunks: dict[str, Any] = {}
    lines: list[Any] = []
    for number in numbers:
        key = f"d{number:03d}"
        body = documents[key] = document(number)
        vectors: dict[str, Any] = {}
        if number % 13 != 12:  # the others have not been embedded
            plain[key] = unit(("plain", number))
            chunks[key] = np.array([unit(("chunk", number, step)) for step in range(1 + number % 4)])
            vectors = {"v": plain[key].tolist(), "w": plain[key].tolist(), "c": _chunks(number, chunks[key])}
        made_by = {name: {"fingerprint": "f" * 32, "input_hash": "0" * 32} for name in vectors}
        provenance = {"version": number + 1, "deleted": False, "vectors": made_by}
        lines += [{"index": {"_index": index, "_id": key}}, body | vectors | {"_knnex": provenance}]
    for number in range(5):
        lines += [{"index": {"_index": index, "_id": f"gone{number}"}}, {"_knnex": {"version": 9, "deleted": True}}]
    for code, country in STUDIOS.items():
        body = {
            "code": code,
            "country": country,
            "name": f"{code} pictures",
            "_knnex": {"version": 1, "deleted": False},
        }
        lines += [{"index": {"_index": studios, "_id": code}}, body]
    response = yield Request("POST", "/_bulk", {"refresh": "true"}, tuple(lines))
    assert not response.body["errors"], response.body
    return Corpus(stored, documents, plain, chunks)


def _chunks(number: int, rows: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    return [
        {"text": f"passage {step} of {number}", "start": 100 * step, "end": 100 * step + 20, "vector": row.tolist()}
        for step, row in enumerate(rows)
    ]


@contextmanager
def indexed(engine: Engine, shards: int = 1, numbers: Sequence[int] = range(60)) -> Iterator[Corpus]:
    """The corpus in indexes of its own, which are deleted afterwards, and nothing else."""
    name = f"knnex-test-{uuid4().hex[:12]}"
    try:
        yield engine.run(build(engine.dialect, name, f"{name}-studios", numbers, shards))
    finally:
        for one in (name, f"{name}-studios"):
            if engine.run(find(one)):
                engine.run(drop(one))
