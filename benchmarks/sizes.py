"""What vectors take on disk, measured for every level of quantization, beside what `knnex plan` estimates.

    make bench-sizes ARGS="--engine opensearch --documents 20000"

For each level the same documents go into a new index with one shard, which is merged to one segment. The estimate is that
of `knnex.mappings.estimate`, plus what the same documents take without vectors. Two errors are told: of the whole store,
and of what the vectors alone add, from which no document distracts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import bench
import numpy as np

from knnex.encoders import input_hash
from knnex.engines import Access, Engine, Request, VectorField, open_engine
from knnex.mappings import Resolved, create, drop, load_spec
from knnex.mappings.estimate import Footprint, levels

FINGERPRINT = "0123456789abcdef" * 2
BULK = 500
# The files of Lucene by what the estimate calls them.
PARTS = {
    "raw": ("vec",),
    "quantized": ("veq", "veb", "clivf", "cenivf"),
    "graph": ("vex",),
}


@dataclass(frozen=True)
class Measured:
    """Bytes of one index: all, and the parts of its vectors where the engine tells them."""

    store: int
    parts: dict[str, int]
    seconds: float


def vectors_of(count: int, dims: int) -> np.ndarray[Any, Any]:
    """Unit vectors in clusters of low dimension, as those of texts are; always the same."""
    rng = np.random.default_rng(20)
    centres, basis = rng.standard_normal((200, dims)), rng.standard_normal((30, dims))
    spread = rng.standard_normal((count, 30)) @ basis
    made = 0.7 * centres[rng.integers(0, 200, count)] + 0.2 * spread + 0.2 * rng.standard_normal((count, dims))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def measure(engine: Engine, vectors: np.ndarray[Any, Any], embedding: dict[str, Any] | None) -> Measured:
    """Fill an index of one shard, merge it to one segment, and weigh it."""
    name = f"knnex-sizes-{uuid4().hex[:8]}"
    spec = load_spec(
        {
            "index": name,
            "fields": {"title": {"type": "keyword"}},
            "embeddings": {"v": embedding | {"source": "{title}", "encoder": "any"}} if embedding else {},
            "settings": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"},
        }
    )
    resolved = {"v": Resolved(vectors.shape[1], FINGERPRINT)} if embedding else {}
    stored, _ = engine.run(create(spec, engine.dialect, resolved))
    started = time.perf_counter()
    try:
        for start in range(0, len(vectors), BULK):
            lines = tuple(_lines(vectors, start, bool(embedding)))
            answer = engine.send(
                Request("POST", f"/{stored.index}/_bulk", {"filter_path": "errors,items.*.error"}, lines)
            )
            assert not answer.body["errors"], answer.body["items"][0]
        engine.send(Request("POST", f"/{stored.index}/_forcemerge", {"max_num_segments": "1"}))
        engine.send(Request("POST", f"/{stored.index}/_flush", {"force": "true"}))
        engine.send(Request("POST", f"/{stored.index}/_refresh"))
        return _weighed(engine, stored.index, time.perf_counter() - started)
    finally:
        engine.run(drop(name))


def _lines(vectors: np.ndarray[Any, Any], start: int, with_vectors: bool) -> Iterator[Any]:
    for number in range(start, min(start + BULK, len(vectors))):
        title = f"document {number}"
        noted: dict[str, Any] = {"version": (1_795_000_000_000 << 20) + number, "deleted": False}
        document: dict[str, Any] = {"id": str(number), "title": title, "_knnex": noted}
        if with_vectors:
            document["v"] = vectors[number]
            noted["vectors"] = {"v": {"fingerprint": FINGERPRINT, "input_hash": input_hash(title)}}
        yield {"index": {"_id": str(number)}}
        yield document


def _weighed(engine: Engine, index: str, seconds: float) -> Measured:
    """What the engine says of its files; Elasticsearch tells the parts as off-heap bytes, OpenSearch by file."""
    stats = engine.send(Request("GET", f"/{index}/_stats", {"include_segment_file_sizes": "true"})).body
    primaries = stats["_all"]["primaries"]
    assert primaries["segments"]["count"] == 1, primaries["segments"]
    off_heap = primaries.get("dense_vector", {}).get("off_heap", {})
    files = {name: one["size_in_bytes"] for name, one in primaries["segments"].get("file_sizes", {}).items()}
    files |= {
        name.split("_")[1]: size for name, size in off_heap.items() if name.startswith("total_v") or "ivf" in name
    }
    parts = {part: sum(files.get(name, 0) for name in names) for part, names in PARTS.items()}
    return Measured(primaries["store"]["size_in_bytes"], parts, seconds)


def compare(one: Footprint, found: Measured, rest: int) -> dict[str, Any]:
    """One level: measured, estimated, and how far apart."""
    estimated = rest + one.disk
    return {
        "measured_store": found.store,
        "estimated_store": estimated,
        "error_of_store": round(estimated / found.store - 1, 4),
        "error_of_vectors": round(one.disk / (found.store - rest) - 1, 4),
        "bytes_per_vector": {
            "measured": {name: round(size / one.vectors, 1) for name, size in found.parts.items()},
            "estimated": {name: round(getattr(one, name) / one.vectors, 1) for name in found.parts},
        },
        "seconds": round(found.seconds, 1),
    }


@contextmanager
def opened(product: str, version: str | None, url: str | None) -> Iterator[Engine]:
    """The engine of a URL, or one that is started here and ended."""
    from knnex.engines.embedded import start_elasticsearch, start_opensearch

    access = Access(timeout=1800)
    if url:
        yield open_engine(url, access)
        return
    start = {"elasticsearch": start_elasticsearch, "opensearch": start_opensearch}[product]
    with tempfile.TemporaryDirectory(prefix="knnex-bench-") as home, start(version, home=Path(home), heap="1g") as node:
        yield open_engine(node.url, access)


def run(engine: Engine, vectors: np.ndarray[Any, Any], m: int, only: list[str] | None = None) -> dict[str, Any]:
    """Every level that the engine has."""
    count, dims = vectors.shape
    field = VectorField(dims=dims, similarity="cosine", m=m, ef_construction=100, quantization="none")
    rest = measure(engine, vectors, None).store
    print(f"{'without vectors':<16} {rest / count:9.1f} bytes a document", flush=True)
    rows = {}
    # What is started here lacks parts of a distribution.
    dialect = replace(engine.dialect, embedded=True)
    for one in levels(count, field, dialect):
        # An index on disk refuses documents without a licence for it.
        if one.index == "disk" or (only and one.name not in only):
            continue
        embedding: dict[str, Any] = {"index": one.index, "quantization": one.quantization}
        if one.index == "hnsw":
            embedding["hnsw"] = {"m": m, "ef_construction": 100}
        rows[one.name] = row = compare(one, measure(engine, vectors, embedding), rest)
        print(
            f"{one.name:<16} {row['measured_store'] / count:9.1f} measured {row['estimated_store'] / count:9.1f} estimated "
            f"{row['error_of_store']:+7.1%} store {row['error_of_vectors']:+7.1%} vectors  {row['bytes_per_vector']}",
            flush=True,
        )
    return {"without_vectors": rest, "levels": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=["elasticsearch", "opensearch"], default="elasticsearch")
    parser.add_argument("--version", help="another than the newest that can be embedded: 8.19.21")
    parser.add_argument("--url", help="one that runs already, with nothing else to do")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--vectors", type=Path, help="real ones, a NumPy file of (n, dims) float32")
    parser.add_argument("--level", action="append", help="only these")
    options = parser.parse_args()
    vectors = np.load(options.vectors) if options.vectors else vectors_of(options.documents, options.dims)
    with opened(options.engine, options.version, options.url) as engine:
        found = run(engine, vectors, options.m, options.level)
        name = str(engine.dialect)
    errors = [abs(row[key]) for row in found["levels"].values() for key in ("error_of_store", "error_of_vectors")]
    result = {
        "engine": name,
        "vectors": f"{len(vectors)} of {vectors.shape[1]} dims, m {options.m}, "
        f"{options.vectors.name if options.vectors else 'synthetic clusters'}",
        "largest_error": max(errors),
        **found,
    }
    print(
        "largest error",
        f"{max(errors):.1%}",
        "kept:",
        bench.keep(f"sizes-{options.engine}{'-' + options.version if options.version else ''}", result).name,
    )


if __name__ == "__main__":
    main()
