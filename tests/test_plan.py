"""Planning as a pure function: what differs, on which engine and version, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnex.engines import Engine
from knnex.engines.dialect import Dialect
from knnex.engines.elasticsearch import Elasticsearch
from knnex.engines.opensearch import OpenSearch
from knnex.errors import SpecMismatch, UnsupportedByEngine
from knnex.ingest import Target
from knnex.ingest.reindex.copying import Copier
from knnex.mappings import ALIVE, Resolved, Spec, Stored, index_body, load_spec
from knnex.mappings.compare import change, flat, same, with_defaults
from knnex.mappings.in_place import setting_is_dynamic, why_not_forward
from knnex.mappings.look import Live
from knnex.mappings.plan import ChangePlan, plan

ES, OS = Elasticsearch((9, 5, 0)), OpenSearch((3, 6, 0))
RESOLVED = {"v": Resolved(64, "f" * 32)}
BASE: dict[str, Any] = {
    "index": "films",
    "fields": {"title": {"type": "text"}, "year": {"type": "integer"}},
    "embeddings": {"v": {"source": "{title}", "encoder": "any"}},
}


def spec_of(**changes: Any) -> Spec:
    vector = changes.pop("v", {})
    body = BASE | {"embeddings": {"v": BASE["embeddings"]["v"] | vector}}
    return load_spec(body | changes)


def live_of(spec: Spec, dialect: Dialect, resolved: Any = None, **changes: Any) -> Live:
    """An index as it would be, had `spec` been applied to it."""
    body = index_body(spec, dialect, resolved or RESOLVED)
    version = f"{spec.index}-000001"
    made = Live(
        alias=spec.index,
        stored=Stored(version, spec, resolved or RESOLVED),
        mapping=body["mappings"],
        properties=with_defaults(body["mappings"]["properties"], {}),
        settings={"number_of_shards": "1", "number_of_replicas": "1", **flat(body["settings"])},
        aliases={spec.index: {"filter": ALIVE, "is_write_index": True}},
        versions=(version,),
        documents=10,
    )
    return replace(made, **changes)


def planned(before: Spec, after: Spec, dialect: Dialect = ES, resolved: Any = None, **changes: Any) -> ChangePlan:
    return plan(after, resolved or RESOLVED, live_of(before, dialect, **changes), dialect)


@pytest.mark.parametrize("dialect", [ES, OS, Elasticsearch((8, 19, 21)), OpenSearch((2, 19, 0))], ids=str)
def test_a_spec_against_itself_is_nothing(dialect: Dialect) -> None:
    done = planned(spec_of(), spec_of(), dialect)
    assert (done.operations, done.drift, bool(done)) == ((), (), False)


def test_without_an_index_it_is_made() -> None:
    done = plan(spec_of(), RESOLVED, None, ES)
    (one,) = done.operations
    (request,) = one.requests(ES)
    assert (request.method, request.path) == ("PUT", "/films-000001")
    body: Any = request.body
    assert body["aliases"]["films"]["is_write_index"] is True


# What changes in the embedding, and what is said of it: kind, a part of the description, whether vectors are made anew.
EMBEDDINGS: dict[str, tuple[dict[str, Any], dict[str, Any], Dialect, str, str, bool | None]] = {
    "another model": ({}, {"encoder": "other"}, ES, "new version", "encoder any -> other", True),
    "another template": ({}, {"source": "{title} {year}"}, ES, "new version", "source {title} -> {title} {year}", True),
    "another prompt": ({}, {"document_prompt": "p: "}, ES, "new version", "document_prompt absent -> p: ", True),
    "chunks": ({}, {"chunk": {"max_tokens": 64}}, ES, "new version", "chunk absent -> (unit paragraph, max_tokens 64", True),
    "similarity": ({}, {"similarity": "l2"}, ES, "new version", "similarity cosine -> l2", True),
    "of unit length": ({"similarity": "dot_product"}, {}, OS, "new version", "similarity dot_product -> cosine", False),
    "engine": ({}, {"engine": "faiss"}, OS, "new version", "engine absent -> faiss", True),
    "from unit length": ({"similarity": "dot_product"}, {"similarity": "l2"}, ES, "new version", "similarity", True),
    "to unit length": ({}, {"similarity": "dot_product"}, OS, "new version", "similarity cosine -> dot_product", True),
    "int8": ({}, {"quantization": "int8"}, ES, "in place", "quantization none -> int8", None),
    "int8 on OpenSearch": ({}, {"quantization": "int8"}, OS, "new version", "quantization none -> int8", False),
    "no quantization": ({"quantization": "int8"}, {}, ES, "new version", "quantization int8 -> none", False),
    "binary, before it could": ({}, {"quantization": "binary"}, Elasticsearch((8, 17, 4)), "new version", "quantization", False),
    "more links": ({}, {"hnsw": {"m": 32}}, ES, "in place", "hnsw.m 16 -> 32", None),
    "fewer links": ({}, {"hnsw": {"m": 8}}, ES, "new version", "hnsw.m 16 -> 8", False),
    "more links on OpenSearch": ({}, {"hnsw": {"m": 32}}, OS, "new version", "hnsw.m 16 -> 32", False),
    "more candidates": ({}, {"hnsw": {"ef_construction": 50}}, ES, "in place", "hnsw.ef_construction 100 -> 50", None),
    "rescoring": ({"quantization": "int8"}, {"quantization": "int8", "oversample": 2}, ES, "in place", "oversample", None),
    "no rescoring": ({"quantization": "int8", "oversample": 2}, {"quantization": "int8"}, ES, "in place", "oversample", None),
    "smaller elements": ({}, {"element_type": "bfloat16"}, ES, "new version", "element_type float -> bfloat16", True),
}  # fmt: skip


@pytest.mark.parametrize("case", EMBEDDINGS)
def test_what_changes_of_an_embedding(case: str) -> None:
    was, now, dialect, kind, told, encode = EMBEDDINGS[case]
    vectors = {"encoder", "source", "document_prompt", "chunk"} & (was.keys() | now.keys())
    resolved = {"v": Resolved(64, "0" * 32)} if vectors else RESOLVED
    done = planned(spec_of(v=was), spec_of(v=now), dialect, resolved)
    first, last = done.operations
    assert (first.kind, last.op) == (kind, "update meta")
    assert told in first.describe()
    assert getattr(first, "encode", None) is encode
    assert bool(done.new_version) == (kind == "new version")
    assert done.encode == (("v",) if encode else ())
    assert bool(done.in_place) != bool(done.new_version)


@pytest.mark.parametrize("case", EMBEDDINGS)
def test_what_is_copied_is_what_the_plan_says(case: str) -> None:
    was, now, dialect, *_ = EMBEDDINGS[case]
    vectors = {"encoder", "source", "document_prompt", "chunk"} & (was.keys() | now.keys())
    resolved = {"v": Resolved(64, "0" * 32)} if vectors else RESOLVED
    # A field of another type asks for a new version by itself.
    before, after = spec_of(v=was), spec_of(v=now, fields=BASE["fields"] | {"year": {"type": "long"}})
    version = planned(before, after, dialect, resolved).new_version
    assert version
    source, target = Stored("films-000001", before, RESOLVED), Stored(version.target, after, resolved)
    copier = Copier(cast(Engine, None), source, Target(version.target, target, {}))
    assert (sorted(copier.kept), sorted(version.encode)) == (sorted(version.reuse), sorted({"v"} - copier.kept))


@pytest.mark.parametrize("change", [{"query_prompt": "q: "}, {"dims": 64}])
def test_what_changes_no_vector_is_only_noted(change: dict[str, Any]) -> None:
    done = planned(spec_of(), spec_of(v=change))
    (one,) = done.operations
    assert (one.op, one.kind, done.new_version) == ("update meta", "in place", None)
    (request,) = one.requests(ES)
    assert (request.method, request.path, set(request.body or ())) == ("PUT", "/films-000001/_mapping", {"_meta"})


def test_the_model_behind_a_name_may_change() -> None:
    done = planned(spec_of(), spec_of(), resolved={"v": Resolved(64, "0" * 32)})
    assert "the model behind any (fingerprint ffff" in done.operations[0].describe()
    assert done.new_version
    assert done.new_version.encode == ("v",)


def test_vectors_that_did_not_change_are_copied() -> None:
    both = {"v": Resolved(64, "f" * 32), "w": Resolved(32, "w" * 32)}
    embeddings = BASE["embeddings"] | {"w": BASE["embeddings"]["v"]}
    before = spec_of(embeddings=embeddings)
    after = load_spec(BASE | {"embeddings": embeddings | {"w": embeddings["w"] | {"encoder": "other"}}})
    done = plan(after, both | {"w": Resolved(32, "0" * 32)}, live_of(before, ES, both), ES)
    assert done.new_version
    assert (done.new_version.encode, done.new_version.reuse) == (("w",), ("v",))
    gone = plan(spec_of(), RESOLVED, live_of(before, ES, both), ES)
    assert [one.op for one in gone.operations] == ["drop embedding", "update meta"]
    assert gone.new_version
    assert gone.new_version.reuse == ("v",)


def test_the_next_version_has_the_next_number() -> None:
    done = planned(spec_of(), spec_of(v={"similarity": "l2"}), versions=("films-000001", "films-000007"))
    assert done.new_version
    assert (done.new_version.source, done.new_version.target) == ("films-000001", "films-000008")


def test_an_index_without_knn_cannot_get_a_vector_in_place() -> None:
    before = load_spec(BASE | {"embeddings": {}})
    live = live_of(before, OS, {})
    done = plan(spec_of(), RESOLVED, replace(live, settings=dict(live.settings) | {"knn": "false"}), OS)
    assert {one.op: one.kind for one in done.operations} == {
        "change setting": "new version",
        "add embedding": "backfill",
        "update meta": "in place",
    }
    assert done.new_version
    assert done.in_place == ()


@pytest.mark.parametrize("key", ["id", "version"])
def test_ids_and_versions_are_what_documents_were_written_under(key: str) -> None:
    with pytest.raises(SpecMismatch, match=f"{key} of 'films' is 'title'"):
        planned(spec_of(), spec_of(**{key: "title"}))
    assert planned(spec_of(), spec_of(**{key: "title"}), documents=0).operations[0].op == "update meta"


def test_dims_above_the_limit() -> None:
    with pytest.raises(UnsupportedByEngine, match="at most 4096 dims"):
        planned(spec_of(), spec_of(), resolved={"v": Resolved(5000, "0" * 32)})


def test_a_concrete_index_cannot_be_replaced() -> None:
    live = live_of(spec_of(), ES)
    concrete = replace(live, stored=replace(live.stored, index="films"), versions=())
    assert plan(spec_of(v={"quantization": "int8"}), RESOLVED, concrete, ES).operations[0].kind == "in place"
    with pytest.raises(SpecMismatch, match="is a concrete index, whose place no other can take"):
        plan(spec_of(v={"similarity": "l2"}), RESOLVED, concrete, ES)


def attached() -> Live:
    """An index that others made: fields knnex does not know of, and an alias of theirs."""
    live = live_of(spec_of(), ES)
    theirs = {**live.properties, "author": {"type": "object", "properties": {"name": {"type": "keyword"}}}}
    return replace(
        live,
        stored=replace(live.stored, attached=True),
        mapping={**live.mapping, "dynamic": "strict"},
        properties=theirs,
        settings={"number_of_shards": "3"},
        aliases={"films": {}},
        versions=(),
        foreign=10,
    )


def test_of_an_index_that_others_made_only_vectors_are_ours() -> None:
    done = plan(spec_of(), RESOLVED, attached(), ES)
    assert (done.operations, done.drift) == ((), ())
    more = spec_of(fields=BASE["fields"] | {"author.name": {"type": "keyword"}})
    assert [one.op for one in plan(more, RESOLVED, attached(), ES).operations] == ["update meta"]
    for name, field, message in [
        ("nope", "keyword", "is not in the mapping"),
        ("year", "keyword", "is of type integer"),
    ]:
        with pytest.raises(SpecMismatch, match=message):
            plan(spec_of(fields=BASE["fields"] | {name: {"type": field}}), RESOLVED, attached(), ES)
    with pytest.raises(SpecMismatch, match="was made by others") as raised:
        plan(spec_of(v={"encoder": "other"}), {"v": Resolved(64, "0" * 32)}, attached(), ES)
    assert "one more embedding under another name" in str(raised.value.hint)
    dropped = plan(load_spec(BASE | {"embeddings": {}}), {}, attached(), ES)
    assert [(one.op, one.kind) for one in dropped.operations] == [
        ("drop embedding", "in place"),
        ("update meta", "in place"),
    ]


def test_joins_grow_in_place_and_shrink_not() -> None:
    small, large = ({"studio": {"kind": "parent", "children": children}} for children in (["film"], ["film", "short"]))
    grown = planned(spec_of(joins=small), spec_of(joins=large), OS)
    assert [(one.op, one.kind) for one in grown.operations] == [
        ("change field", "in place"),
        ("update meta", "in place"),
    ]
    assert "relations.studio" in grown.operations[0].describe()
    shrunk = planned(spec_of(joins=large), spec_of(joins=small), OS)
    assert shrunk.operations[0].kind == "new version"


def test_a_mapping_as_a_whole() -> None:
    done = planned(
        spec_of(),
        spec_of(mapping={"dynamic": "strict", "dynamic_templates": [{"a": {"match": "x*"}}]}, id="title"),
        documents=0,
    )
    assert [(one.op, one.kind) for one in done.operations[:2]] == [("change mapping", "in place")] * 2
    routed = planned(spec_of(), spec_of(mapping={"_routing": {"required": True}}))
    assert routed.operations[0].kind == "new version"


def test_meta_keeps_what_others_wrote() -> None:
    live = live_of(spec_of(), ES)
    held = live.mapping["_meta"]
    mixed = {**live.mapping, "_meta": held | {"owner": "them", "knnex": held["knnex"] | {"also": ["films-000002"]}}}
    done = plan(spec_of(v={"query_prompt": "q"}), RESOLVED, replace(live, mapping=mixed), ES)
    (request,) = done.operations[-1].requests(ES)
    body: Any = request.body
    meta = body["_meta"]
    assert meta["owner"] == "them"
    assert meta["knnex"]["also"] == ["films-000002"]
    assert meta["knnex"]["spec"]["embeddings"]["v"]["query_prompt"] == "q"


def test_rows_are_json() -> None:
    import orjson

    done = planned(spec_of(), spec_of(v={"similarity": "l2"}, fields=BASE["fields"] | {"x": {"type": "long"}}))
    rows = orjson.loads(orjson.dumps(done.rows(ES)))
    assert [row["op"] for row in rows["operations"]] == ["add field", "change embedding", "update meta"]
    assert rows["operations"][0]["requests"] == [
        {"method": "PUT", "path": "/films-000001/_mapping", "body": {"properties": {"x": {"type": "long"}}}}
    ]
    assert rows["new_version"]["target"] == "films-000002"


def test_echoes_are_recognised() -> None:
    assert same(
        {"a": True, "b": 1, "c": ["x"], "data_type": "float"},
        {"a": "true", "b": "1", "c": "x", "data_type": "FLOAT", "d": 1},
    )
    assert not same({"a": {"b": 1}}, {"a": {}})
    assert not same(["x"], ["x", "y"])
    assert same(0.0, "0")
    assert not same("a", None)
    assert change("o", {"m": 1, "n": 2}, {"m": 3, "n": 2}) == "o.m 1 -> 3"


NAMES = st.sampled_from(["a", "b", "c", "d"])
TYPES = st.sampled_from(
    [{"type": "keyword"}, {"type": "text"}, {"type": "long"}, {"type": "keyword", "ignore_above": 9}]
)
FIELD_SETS = st.dictionaries(NAMES, TYPES)


@given(FIELD_SETS, FIELD_SETS)
def test_any_change_of_fields_is_told_exactly_once(before: dict[str, Any], after: dict[str, Any]) -> None:
    title = {"title": {"type": "text"}}
    done = planned(spec_of(fields=title | before), spec_of(fields=title | after))
    told = [getattr(one, "path", None) for one in done.operations if one.op != "update meta"]
    assert sorted(map(str, told)) == sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    possible = all(after.get(name, {}).get("type") == field["type"] for name, field in before.items())
    assert (done.new_version is None) == possible
    again = planned(spec_of(fields=title | after), spec_of(fields=title | after))
    assert not again


@pytest.mark.parametrize("version", [(8, 12, 0), (8, 14, 3), (8, 15, 0), (8, 17, 4), (9, 0, 0)])
def test_older_servers_take_fewer_steps(version: tuple[int, ...]) -> None:
    def field(kind: str) -> dict[str, Any]:
        return {"type": "dense_vector", "dims": 64, "index_options": {"type": kind}}

    dialect = Elasticsearch(version)
    assert (why_not_forward(dialect, field("hnsw"), field("int8_hnsw")) is None) == (version >= (8, 15))
    assert (why_not_forward(dialect, field("int8_hnsw"), field("int4_hnsw")) is None) == (version >= (8, 17))
    assert why_not_forward(dialect, field("int8_hnsw"), field("bbq_hnsw"))


def test_of_a_setting_that_is_not_known_a_live_index_is_spared() -> None:
    assert not setting_is_dynamic("something.new")
    assert setting_is_dynamic("search.slowlog.threshold.query.warn")
