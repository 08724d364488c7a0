"""From spec to index, on real engines: explicit mappings, `_meta`, the alias, and what is refused."""

from __future__ import annotations

import json
from threading import Thread
from typing import Any

import numpy as np
import pytest

from knnex.engines import Engine, Request
from knnex.errors import IndexMissing, RequestRejected, SpecMismatch, UnsupportedByEngine
from knnex.mappings import META, Resolved, Stored, create, differing, drop, find, load, load_spec
from knnex.query import Query, plan, search

RESOLVED = {"v": Resolved(dims=64, fingerprint="f" * 32)}


def spec(name: str, **changes: Any) -> Any:
    embedding = {"source": "{title}", "encoder": "any"} | changes.pop("embedding", {})
    body = {
        "index": name,
        "fields": {"title": {"type": "text"}, "year": {"type": "integer"}},
        "embeddings": {"v": embedding},
    }
    return load_spec(body | changes)


def create_index(engine: Engine, name: str, **changes: Any) -> tuple[Stored, bool]:
    return engine.run(create(spec(name, **changes), engine.dialect, RESOLVED))


@pytest.mark.feature("Explicit HNSW mapping from a spec")
def test_the_mapping_is_written_out_in_full(engine: Engine, index_name: str) -> None:
    hnsw = {"m": 24, "ef_construction": 150}
    stored, made = create_index(engine, index_name, embedding={"hnsw": hnsw, "similarity": "l2"})
    assert made
    assert stored.index == f"{index_name}-000001"
    live = engine.send(Request("GET", f"/{index_name}/_mapping")).body[stored.index]["mappings"]["properties"]["v"]
    if engine.dialect.product == "elasticsearch":
        assert live["type"] == "dense_vector"
        assert live["similarity"] == "l2_norm"
        assert {"type": "hnsw", **hnsw}.items() <= live["index_options"].items()
    else:
        assert live["type"] == "knn_vector"
        assert (live["method"]["engine"], live["method"]["space_type"]) == ("lucene", "l2")
        assert live["method"]["parameters"] == hnsw


def test_the_spec_is_read_back_from_the_cluster(engine: Engine, index_name: str) -> None:
    joins = {"cast": {"kind": "nested", "fields": {"name": {"type": "keyword"}}}}
    stored, _ = create_index(engine, index_name, joins=joins, embedding={"chunk": {"unit": "tokens", "max_tokens": 64}})
    assert engine.run(load(index_name)) == stored
    assert stored.spec == spec(index_name, joins=joins, embedding={"chunk": {"unit": "tokens", "max_tokens": 64}})


def test_creating_twice_makes_one_index(engine: Engine, index_name: str) -> None:
    first, _ = create_index(engine, index_name)
    assert create_index(engine, index_name) == (first, False)


def test_two_processes_creating_at_once_make_one_index(engine: Engine, index_name: str) -> None:
    answers: list[tuple[Stored, bool]] = []
    threads = [Thread(target=lambda: answers.append(create_index(engine, index_name))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert sum(made for _, made in answers) == 1
    assert len({stored.index for stored, _ in answers}) == 1


def test_another_spec_under_the_same_name_is_refused_with_what_differs(engine: Engine, index_name: str) -> None:
    create_index(engine, index_name)
    with pytest.raises(SpecMismatch, match=r"fields\.extra"):
        create_index(engine, index_name, fields={"title": {"type": "text"}, "extra": {"type": "keyword"}})
    other = {"v": Resolved(dims=64, fingerprint="0" * 32)}
    with pytest.raises(SpecMismatch, match="fingerprint f{32} is now 0{32}"):
        engine.run(create(spec(index_name), engine.dialect, other))


def test_dims_that_do_not_match_name_both(engine: Engine, index_name: str) -> None:
    with pytest.raises(SpecMismatch, match="declares dims 32, but any makes 64"):
        create_index(engine, index_name, embedding={"dims": 32})


def test_dims_above_the_engines_limit(engine: Engine, index_name: str) -> None:
    wide = {"v": Resolved(dims=engine.dialect.max_dims + 1, fingerprint="f")}
    with pytest.raises(UnsupportedByEngine, match=f"at most {engine.dialect.max_dims} dims"):
        engine.run(create(spec(index_name), engine.dialect, wide))


@pytest.mark.feature("Vectors quantized to 8 bits")
def test_int8_quantization(engine: Engine, index_name: str) -> None:
    stored, _ = create_index(engine, index_name, embedding={"quantization": "int8"})
    live = engine.send(Request("GET", f"/{stored.index}/_mapping")).body[stored.index]["mappings"]["properties"]["v"]
    assert "int8_hnsw" in json.dumps(live) or '"bits": 7' in json.dumps(live)


@pytest.mark.feature("Vectors quantized to 1 bit")
@pytest.mark.never(
    "opensearch", reason="the embedded distribution lacks the native library; a full 3.6 has it", embedded=True
)
def test_binary_quantization(engine: Engine, index_name: str) -> None:
    create_index(engine, index_name, embedding={"quantization": "binary"})


@pytest.mark.feature("Inner products of vectors that are not of unit length")
def test_max_inner_product_scores_the_same_everywhere(engine: Engine, index_name: str) -> None:
    stored, _ = create_index(engine, index_name, embedding={"similarity": "max_inner_product"})
    for id_, length in (("short", 1.0), ("long", 3.0), ("opposite", -2.0)):
        body = {"title": id_, "v": [length] + [0.0] * 63}
        engine.send(Request("PUT", f"/{stored.index}/_doc/{id_}", {"refresh": "true"}, body))
    hits = engine.run(search(plan(Query().semantic("v", vector=[1.0] + [0.0] * 63), stored, engine.dialect, _no_texts)))
    assert [(hit.id, pytest.approx(hit.score)) for hit in hits] == [("long", 4.0), ("short", 2.0), ("opposite", 1 / 3)]


def _no_texts(name: str, texts: Any) -> Any:
    raise LookupError(f"nothing is encoded for {name}: {texts}")


@pytest.mark.feature("Small indexes without a graph")
@pytest.mark.never("opensearch", reason="its method flat compares vectors of 1 bit and is not exact")
def test_a_flat_index_is_exact(engine: Engine, index_name: str) -> None:
    stored, _ = create_index(engine, index_name, embedding={"index": "flat"})
    rows = np.random.default_rng(5).normal(size=(300, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    lines: list[Any] = []
    for position, row in enumerate(rows):
        lines += [{"index": {"_id": str(position)}}, {"v": row.tolist()}]
    engine.send(Request("POST", f"/{stored.index}/_bulk", {"refresh": "true"}, tuple(lines)))
    for query in rows[:5] + 0.1:
        hits = engine.run(search(plan(Query().semantic("v", vector=query), stored, engine.dialect, _no_texts)))
        assert [hit.id for hit in hits] == [str(one) for one in np.argsort(-rows @ query)[: len(hits)]]


@pytest.mark.feature("Vectors of 16-bit floats")
@pytest.mark.never("opensearch", reason="knn_vector has float; engine: faiss compresses to fp16")
def test_bfloat16(engine: Engine, index_name: str) -> None:
    stored, _ = create_index(engine, index_name, embedding={"element_type": "bfloat16"})
    live = engine.send(Request("GET", f"/{stored.index}/_mapping")).body[stored.index]["mappings"]["properties"]["v"]
    assert live["element_type"] == "bfloat16"


def test_settings_and_mapping_are_passed_on(engine: Engine, index_name: str) -> None:
    stored, _ = create_index(
        engine,
        index_name,
        settings={"number_of_shards": 2, "index": {"refresh_interval": "7s"}, "index.number_of_replicas": 0},
        mapping={"dynamic": "strict", "_routing": {"required": True}},
        fields={"id": {"type": "keyword"}, "title": {"type": "text"}},
    )
    live = engine.send(Request("GET", f"/{stored.index}", {"flat_settings": "true"})).body[stored.index]
    assert (
        stored.spec.index_settings().items()
        <= {name: int(value) if value.isdigit() else value for name, value in live["settings"].items()}.items()
    )
    assert (live["mappings"]["dynamic"], live["mappings"]["_routing"]) == ("strict", {"required": True})
    with pytest.raises(RequestRejected, match="routing is required"):
        engine.send(Request("PUT", f"/{stored.index}/_doc/1", body={"title": "x"}))
    with pytest.raises(RequestRejected, match="strict"):
        engine.send(Request("PUT", f"/{stored.index}/_doc/1", {"routing": "1"}, {"titel": "x"}))


def test_a_spec_stored_before_these_options_is_the_same_spec(engine: Engine, index_name: str) -> None:
    """The options that came later have defaults, which say what was so before."""
    stored, _ = create_index(engine, index_name)
    meta = engine.send(Request("GET", f"/{index_name}/_mapping")).body[stored.index]["mappings"]["_meta"][META]
    assert meta["spec"] == {
        "index": index_name,
        "fields": {"title": {"type": "text"}, "year": {"type": "integer"}},
        "embeddings": {"v": {"source": "{title}", "encoder": "any"}},
    }
    assert differing(stored, engine.run(load(index_name))) == []


@pytest.mark.feature("Parent and child documents")
@pytest.mark.never(
    "elasticsearch", reason="the embedded distribution lacks the join module; the full one has it", embedded=True
)
def test_a_parent_join(engine: Engine, index_name: str) -> None:
    stored, _ = create_index(engine, index_name, joins={"studio": {"kind": "parent", "children": ["movie"]}})
    live = engine.send(Request("GET", f"/{stored.index}/_mapping")).body[stored.index]["mappings"]["properties"]
    assert live["relation"]["relations"] == {"studio": "movie"}


def test_an_index_of_somebody_else_is_left_alone(engine: Engine, index_name: str) -> None:
    engine.send(Request("PUT", f"/{index_name}", body={"mappings": {"properties": {"a": {"type": "keyword"}}}}))
    try:
        with pytest.raises(SpecMismatch, match="knnex did not make"):
            create_index(engine, index_name)
        with pytest.raises(SpecMismatch, match="knnex did not make"):
            engine.run(drop(index_name))
    finally:
        engine.send(Request("DELETE", f"/{index_name}"))


def test_an_index_that_is_not_there(engine: Engine, index_name: str) -> None:
    assert engine.run(find(index_name)) is None
    with pytest.raises(IndexMissing, match=f"there is no index '{index_name}'"):
        engine.run(load(index_name))


def test_meta_survives_as_json(engine: Engine, index_name: str) -> None:
    stored, _ = create_index(engine, index_name)
    meta = engine.send(Request("GET", f"/{index_name}/_mapping")).body[stored.index]["mappings"]["_meta"][META]
    assert meta["embeddings"] == {"v": {"dims": 64, "fingerprint": "f" * 32}}
    assert meta["spec"]["index"] == index_name


@pytest.mark.parametrize("name", ["", "*", "_all", "-x", "a,b", "<a-{now}>", "{}*", 5])
def test_a_pattern_is_never_taken_for_an_index(engine: Engine, index_name: str, name: Any) -> None:
    create_index(engine, index_name)
    wide = name.format(index_name, now="{now}") if isinstance(name, str) else name
    for ask in (find, load, drop):
        with pytest.raises(IndexMissing, match="no name of an index"):
            engine.run(ask(wide))
    assert engine.run(find(index_name))


def test_a_spec_of_another_version_is_told(engine: Engine, index_name: str) -> None:
    stored, _ = create_index(engine, index_name)
    path = f"/{stored.index}/_mapping"
    meta = engine.send(Request("GET", path)).body[stored.index]["mappings"]["_meta"]
    newer = {META: meta[META] | {"spec": meta[META]["spec"] | {"shape": "round"}}}
    engine.send(Request("PUT", path, body={"_meta": newer}))
    with pytest.raises(SpecMismatch, match="the spec that .* holds cannot be read: Extra inputs"):
        engine.run(load(index_name))
    engine.send(Request("PUT", path, body={"_meta": meta}))
