"""What vectors take and what encoding costs: on paper, against real indexes, and with a real encoder."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knnex.encoders import VectorCache, load_encoder, resolve
from knnex.engines import Engine, VectorField
from knnex.engines.elasticsearch import Elasticsearch
from knnex.engines.opensearch import OpenSearch
from knnex.ingest import ingest_inline, make_target
from knnex.ingest.costing import Cost, cost, forecast
from knnex.mappings import create, load_spec
from knnex.mappings.estimate import footprint, levels, links, vectors_in_source
from knnex.mappings.look import look
from knnex.mappings.plan import plan
from knnex.screens_plan import duration, size

ES, OS = Elasticsearch((9, 5, 0)), OpenSearch((3, 6, 0))
FIELD = VectorField(dims=384, similarity="cosine", m=16, ef_construction=100, quantization="none")


def test_levels_are_those_the_engine_has() -> None:
    assert [one.name for one in levels(1000, FIELD, ES)] == [
        "none", "int8", "int4", "binary", "none flat", "int8 flat", "int4 flat", "binary flat", "binary disk",
    ]  # fmt: skip
    assert [one.name for one in levels(1000, FIELD, OS)] == ["none", "int8", "binary"]
    assert [one.name for one in levels(1000, FIELD, replace(OS, embedded=True))] == ["none", "int8"]
    assert [one.name for one in levels(1000, FIELD, Elasticsearch((8, 13, 4)))] == [
        "none",
        "int8",
        "none flat",
        "int8 flat",
    ]
    faiss = [one.name for one in levels(1000, replace(FIELD, library="faiss"), OS)]
    assert faiss == ["none", "fp16", "int4", "binary"]


def test_bytes_of_a_vector() -> None:
    one = footprint(1000, replace(FIELD, quantization="int8"), ES)
    assert (one.raw, one.quantized, one.source) == (1000 * 384 * 4, 1000 * (384 + 16), 0)
    assert footprint(1000, replace(FIELD, quantization="int8"), OS).quantized == 1000 * (384 + 4)
    assert footprint(1000, replace(FIELD, quantization="binary"), ES).quantized == 1000 * (48 + 14)
    assert footprint(1000, replace(FIELD, element_type="bfloat16"), ES).raw == 1000 * 384 * 2
    assert one.disk == one.raw + one.quantized + one.graph + one.provenance
    assert one.memory == one.quantized + one.graph
    assert one.times(3).disk == 3 * one.disk
    assert footprint(1000, replace(FIELD, index="flat"), ES).graph == 0
    assert [vectors_in_source(Elasticsearch(version)) for version in ((9, 1, 0), (9, 2, 0))] == [True, False]
    assert footprint(1000, FIELD, Elasticsearch((8, 19, 21))).source > 1000 * 384 * 4


def test_a_graph_costs_more_where_numbers_are_larger_and_never_more_than_all_links() -> None:
    sizes = [links(10**power, 16) for power in range(1, 10)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < 2 * 16 * 5 + 40
    assert (links(0, 16), links(1, 16)) == (0, 0)
    assert links(10**6, 8) < links(10**6, 16)


def test_two_hundred_million_vectors_are_planned_on_paper() -> None:
    found = {one.name: one.memory / 1e9 for one in levels(200_000_000, FIELD, ES)}
    assert found["none"] > 300
    assert 20 < found["binary"] < 40
    assert [name for name, memory in found.items() if memory < 15] == ["binary flat", "binary disk"]


def test_sizes_and_durations_are_for_people() -> None:
    assert [size(count) for count in (0, 999, 1500, 15.4e9, 3e18)] == ["0 B", "999 B", "1.5 kB", "15.4 GB", "3000.0 PB"]
    assert [duration(seconds) for seconds in (40, 720, 12_600, 363_000)] == ["40 s", "12 min", "3.5 h", "4.2 days"]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, which is no part of the package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import sizes

    yield sizes
    del sys.modules["sizes"]


@pytest.mark.feature("An estimate of disk and memory for every level of quantization")
def test_the_estimate_is_near_what_a_real_index_takes(engine: Engine, sizes: Any) -> None:
    """With 2,000 vectors what an index takes by itself counts for more; benchmarks/sizes.py takes 20,000."""
    found = sizes.run(engine, sizes.vectors_of(2000, 128), 16, ["none", "int8", "binary"])
    assert found["levels"].keys() == (
        {"none", "int8", "binary"} if engine.dialect.product == "elasticsearch" else {"none", "int8"}
    )
    for name, row in found["levels"].items():
        assert abs(row["error_of_store"]) < 0.15, (name, row)
        assert row["bytes_per_vector"]["measured"]["raw"] == pytest.approx(512, abs=1)
        quantized = row["bytes_per_vector"]
        assert quantized["measured"]["quantized"] == pytest.approx(quantized["estimated"]["quantized"], abs=1)


def embedding_of(model: Path, **changes: Any) -> Any:
    body = {"source": "{title}", "encoder": str(model)} | changes
    return load_spec({"index": "x", "fields": {"title": {"type": "text"}}, "embeddings": {"v": body}}).embeddings["v"]


SAMPLE = [
    {"title": "the cat sat on the mat"},
    {"title": "a dog"},
    {"title": ""},
    {"title": {"an": "object"}},
    {},
    {"title": "a dog"},
]


def test_what_is_to_be_encoded_is_reckoned_from_the_sample(tiny: Path, tmp_path: Path) -> None:
    embedding = embedding_of(tiny)
    encoder = load_encoder(embedding)
    one = cost("v", embedding, encoder, 600, SAMPLE, None, rate=10)
    assert (one.documents, one.sampled, one.texts, one.tokens, one.cached) == (600, 6, 300, 1000, 0)
    assert one.seconds == pytest.approx(60)
    cache = VectorCache(tmp_path / "vectors")
    from knnex.encoders import encode_cached

    encode_cached(encoder, cache, ["a dog"])
    half = cost("v", embedding, encoder, 600, SAMPLE, cache, rate=10)
    assert half.cached == 150
    assert half.seconds == pytest.approx(30)


def test_speed_is_measured_on_the_sample(tiny: Path) -> None:
    embedding = embedding_of(tiny, chunk={"unit": "tokens", "max_tokens": 8, "overlap": 0})
    encoder = load_encoder(embedding)
    long = [{"title": "the cat sat on the mat " * 20}] * 8
    one = cost("v", embedding, encoder, 800, long, None, seconds=0.2)
    assert one.texts > 8 * 100
    assert one.rate
    assert one.seconds == pytest.approx(800 / one.rate)
    assert cost("v", embedding, encoder, 800, long, None, seconds=0).rate is None
    nothing = cost("v", embedding, encoder, 800, [], None)
    assert nothing == Cost("v", 800, 0, 0, 0, 0)


def test_what_a_plan_costs(engine: Engine, index_name: str, tiny: Path, tmp_path: Path) -> None:
    def spec_of(**changes: Any) -> Any:
        body = {"source": "{title}", "encoder": str(tiny)} | changes
        settings = {"number_of_shards": 1, "number_of_replicas": 0}
        fields = {"title": {"type": "text"}}
        return load_spec({"index": index_name, "fields": fields, "embeddings": {"v": body}, "settings": settings})

    spec = spec_of()
    cache = VectorCache(tmp_path / "vectors")
    stored, _ = engine.run(create(spec, engine.dialect, resolve(spec)))
    documents = [{"id": str(number), "title": f"the cat sat on {'a mat ' * (number % 5)}"} for number in range(40)]
    assert ingest_inline(engine, make_target(index_name, stored, cache), documents).complete
    engine.run(_refreshed(index_name))

    wanted = spec_of(source="a robot: {title}")
    encoders = {"v": load_encoder(wanted.embeddings["v"])}
    live = engine.run(look(index_name, wanted))
    assert live
    done = plan(wanted, resolve(wanted), live, engine.dialect)
    made = forecast(done, wanted, resolve(wanted), encoders, live, engine.dialect, cache, rate=100)
    (one,) = made.costs
    assert (one.documents, one.texts, one.cached) == (40, 40, 0)
    assert made.chosen["v"].vectors == 40
    assert made.disk >= made.chosen["v"].disk
    assert made.fits
    assert not replace(made, free=1).fits

    again = spec_of(hnsw={"m": 8})
    kept = plan(again, resolve(again), live, engine.dialect)
    copied = forecast(kept, again, resolve(again), encoders, live, engine.dialect, cache, rate=100)
    assert kept.new_version
    assert copied.costs == ()


def _refreshed(name: str) -> Any:
    from knnex.engines import Request

    yield Request("POST", f"/{name}/_refresh")


def test_vectors_of_the_benchmark_are_of_unit_length_and_always_the_same(sizes: Any) -> None:
    one, two = sizes.vectors_of(10, 16), sizes.vectors_of(10, 16)
    assert np.array_equal(one, two)
    assert np.allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)
