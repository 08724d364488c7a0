"""Planning against real engines: nothing to do after a create, each change as it is, and nothing ever changed by looking."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from knnex.engines import Engine, Request, Response
from knnex.engines.wire import drive
from knnex.errors import KnnexError, SpecMismatch
from knnex.mappings import META, Resolved, Spec, create, load_spec
from knnex.mappings.in_place import field_option_is_dynamic, setting_is_dynamic, why_not_forward
from knnex.mappings.look import Live, look
from knnex.mappings.plan import ChangePlan, plan

RESOLVED = {"v": Resolved(dims=64, fingerprint="f" * 32), "c": Resolved(dims=64, fingerprint="c" * 32)}
FIELDS: dict[str, Any] = {
    "title": {"type": "text", "index": True, "fields": {"raw": {"type": "keyword", "ignore_above": 256}}},
    "year": {"type": "integer", "doc_values": True},
    "maker": {
        "type": "object",
        "properties": {"name": {"type": "keyword"}, "since": {"type": "date", "format": "yyyy"}},
    },
}


def spec_of(name: str, **changes: Any) -> Spec:
    embeddings = {
        "v": {"source": "{title}", "encoder": "any"} | changes.pop("v", {}),
        "c": {"source": ["title"], "encoder": "any", "chunk": {"unit": "tokens"}},
    }
    body: dict[str, Any] = {
        "index": name,
        "fields": FIELDS,
        "embeddings": embeddings,
        "joins": {"cast": {"kind": "nested", "fields": {"name": {"type": "keyword"}}}},
        "settings": {"number_of_shards": 1, "refresh_interval": "5s", "index": {"max_result_window": 20000}},
    }
    return load_spec(body | changes)


class Watched:
    """An engine that notes what it is asked, and refuses what is not a question."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.asked: list[str] = []

    def send(self, request: Request) -> Response:
        assert request.method == "GET" or request.path.endswith(("/_search", "/_count")), request
        self.asked.append(f"{request.method} {request.path}")
        return self.engine.send(request)

    def look(self, name: str, spec: Spec | None = None) -> Live | None:
        return drive(look(name, spec), self.send)


@pytest.fixture
def made(engine: Engine, index_name: str) -> str:
    engine.run(create(spec_of(index_name), engine.dialect, RESOLVED))
    return index_name


def planned(engine: Engine, spec: Spec, resolved: Any = RESOLVED) -> ChangePlan:
    return plan(spec, resolved, Watched(engine).look(spec.index, spec), engine.dialect)


def send(engine: Engine, method: str, path: str, body: Any = None, **params: str) -> Any:
    return engine.send(Request(method, path, params, body)).body


def put_documents(engine: Engine, name: str, *documents: Any) -> None:
    for number, document in enumerate(documents):
        send(engine, "PUT", f"/{name}/_doc/{number}", document)
    send(engine, "POST", f"/{name}/_refresh")


def apply(engine: Engine, done: ChangePlan) -> None:
    for one in done.in_place:
        for request in one.requests(engine.dialect):
            engine.send(request)


@pytest.mark.feature("A plan of what a changed spec takes, before anything is changed")
def test_after_a_create_there_is_nothing_to_do(engine: Engine, made: str) -> None:
    done = planned(engine, spec_of(made))
    assert (done.operations, done.drift, done.notes) == ((), (), ())


def test_nothing_is_there_yet(engine: Engine, index_name: str) -> None:
    done = planned(engine, spec_of(index_name))
    assert [one.describe() for one in done.operations] == [f"make index {index_name}-000001 behind alias {index_name}"]
    apply(engine, done)
    assert not planned(engine, spec_of(index_name))


# What a changed spec asks for, and what is then done: "kind: description" for each operation.
CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a field more": (
        {"fields": FIELDS | {"lang": {"type": "keyword"}}},
        ["in place: field lang: absent -> keyword"],
    ),
    "a field more that documents hold": (
        {"fields": FIELDS | {"held": {"type": "keyword"}}},
        ["backfill: field held: absent -> keyword"],
    ),
    "a field in an object": (
        {"fields": FIELDS | {"maker": {"type": "object", "properties": FIELDS["maker"]["properties"] | {"x": {"type": "long"}}}}},
        ["in place: field maker.x: absent -> long"],
    ),
    "a field in a nested join": (
        {"joins": {"cast": {"kind": "nested", "fields": {"name": {"type": "keyword"}, "role": {"type": "keyword"}}}}},
        ["in place: field cast.role: absent -> keyword"],
    ),
    "a sub-field more": (
        {"fields": FIELDS | {"title": {"type": "text", "fields": FIELDS["title"]["fields"] | {"x": {"type": "keyword"}}}}},
        ["backfill: field title: fields.x absent -> keyword"],
    ),
    "a sub-field less": (
        {"fields": FIELDS | {"title": {"type": "text"}}},
        ["new version: field title.raw: removed"],
    ),
    "an option written out that is the default": (
        {"fields": FIELDS | {"title": {"type": "text", "norms": True, "fields": {"raw": {"type": "keyword", "ignore_above": 256, "store": False}}}}},
        [],
    ),
    "an option that may change": (
        {"fields": FIELDS | {"year": {"type": "integer", "doc_values": True, "ignore_malformed": True}}},
        ["in place: field year: ignore_malformed false -> true"],
    ),
    "an option that may not": (
        {"fields": FIELDS | {"year": {"type": "integer", "doc_values": False}}},
        ["new version: field year: doc_values"],
    ),
    "another type": (
        {"fields": FIELDS | {"year": {"type": "keyword"}}},
        ["new version: field year: type integer -> keyword"],
    ),
    "a field less": ({"fields": {"title": FIELDS["title"], "year": FIELDS["year"]}}, ["new version: field maker: removed"]),
    "a lookup": (
        {"joins": {"cast": {"kind": "nested", "fields": {"name": {"type": "keyword"}}}, "m": {"kind": "lookup", "field": "year", "key": "id"}}},
        [],
    ),
    "settings of live indexes": (
        {"settings": {"number_of_shards": 1, "refresh_interval": "9s", "number_of_replicas": 0}},
        ["in place: setting refresh_interval: 5s -> 9s", "in place: setting number_of_replicas: 1 -> 0", "in place: setting max_result_window: 20000 -> default"],
    ),
    "a setting that is fixed": (
        {"settings": {"number_of_shards": 2, "refresh_interval": "5s", "max_result_window": "20000"}},
        ["new version: setting number_of_shards: 1 -> 2"],
    ),
    "a query prompt": ({"v": {"query_prompt": "query: "}}, []),
    "dims written out": ({"v": {"dims": 64}}, []),
    "another similarity": ({"v": {"similarity": "l2"}}, ["new version: embedding v: similarity cosine -> l2"]),
    "a smaller graph": ({"v": {"hnsw": {"m": 8}}}, ["new version: embedding v: hnsw"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_each_change_is_told_and_done(engine: Engine, made: str, case: str) -> None:
    put_documents(engine, made, {"title": "a", "held": "x", "_knnex": {"version": 1, "deleted": False}})
    changes, expected = CHANGES[case]
    wanted = spec_of(made, **changes)
    done = planned(engine, wanted)
    assert not done.drift
    told = [f"{one.kind}: {one.describe()}" for one in done.operations if one.op != "update meta"]
    assert len(told) == len(expected), told
    assert all(line.startswith(start) for line, start in zip(told, expected, strict=True)), told
    assert [one.op for one in done.operations][-1] == "update meta"
    assert bool(done.new_version) == any(line.startswith("new version") for line in expected)
    apply(engine, done)
    again = planned(engine, wanted)
    assert bool(again) == bool(done.new_version), "in place means that it is done"
    assert not again.drift


def test_a_new_embedding_is_added_in_place(engine: Engine, made: str) -> None:
    wanted = spec_of(made)
    more = wanted.model_copy(update={"embeddings": {**wanted.embeddings, "w": wanted.embeddings["v"]}})
    resolved = RESOLVED | {"w": Resolved(32, "w" * 32)}
    done = planned(engine, more, resolved)
    assert [(one.op, one.kind) for one in done.operations] == [
        ("add embedding", "backfill"),
        ("update meta", "in place"),
    ]
    assert done.backfill == ("w",)
    apply(engine, done)
    assert not planned(engine, more, resolved)
    put_documents(engine, made, {"title": "a", "w": [1.0] * 32})


def test_a_forward_step_of_the_graph(engine: Engine, made: str) -> None:
    wanted = spec_of(made, v={"quantization": "int8"})
    done = planned(engine, wanted)
    if engine.dialect.product == "elasticsearch":
        assert [one.op for one in done.operations] == ["change index options", "update meta"]
        assert "_forcemerge" in done.notes[0]
        apply(engine, done)
        assert not planned(engine, wanted)
        back = planned(engine, spec_of(made))
        assert back.new_version, "there is no way back in place"
        assert (back.new_version.encode, back.new_version.reuse) == ((), ("v", "c"))
    else:
        assert done.new_version
        assert (done.new_version.encode, done.new_version.reuse) == ((), ("v", "c"))


def test_another_model_is_a_new_version(engine: Engine, made: str) -> None:
    done = planned(engine, spec_of(made), RESOLVED | {"v": Resolved(32, "0" * 32)})
    assert done.new_version
    assert (done.new_version.target, done.new_version.encode) == (f"{made}-000002", ("v",))
    assert "the model behind any" in done.operations[0].describe() or "dims 64 -> 32" in done.operations[0].describe()


def test_drift_is_what_others_changed(engine: Engine, made: str) -> None:
    index = f"{made}-000001"
    send(
        engine,
        "PUT",
        f"/{index}/_mapping",
        {"properties": {"title": {"type": "text", "fields": {"raw": {"type": "keyword", "ignore_above": 9}}}}},
    )
    send(engine, "PUT", f"/{index}/_settings", {"index.refresh_interval": "1s"})
    send(engine, "POST", "/_aliases", {"actions": [{"add": {"index": index, "alias": made}}]})
    done = planned(engine, spec_of(made))
    assert {one.path.split(".")[0] for one in done.drift} == {
        "title",
        "setting refresh_interval",
        f"alias {made} filter",
    }
    assert [one.op for one in done.operations] == ["change setting", "change field", "restore alias"]
    apply(engine, done)
    again = planned(engine, spec_of(made))
    assert (again.operations, again.drift) == ((), ())


def test_documents_of_others_are_counted_and_what_cannot_be_promised_is_said(engine: Engine, made: str) -> None:
    put_documents(engine, made, {"title": "theirs"}, {"title": "ours", "_knnex": {"version": 1, "deleted": False}},
                  {"title": "gone", "_knnex": {"version": 2, "deleted": True}})  # fmt: skip
    live = Watched(engine).look(made)
    assert live is not None
    assert (live.documents, live.deleted, live.foreign, len(live.sample)) == (2, 1, 1, 2)
    assert {document["title"] for document in live.sample} == {"theirs", "ours"}
    assert live.store_bytes > 0
    assert live.free_bytes
    done = planned(engine, spec_of(made, v={"similarity": "l2"}))
    assert "1 of 3 documents were not written through knnex" in " ".join(done.notes)
    assert "403" in " ".join(done.notes)


def test_what_is_not_ours_is_named_with_the_way_out(engine: Engine, index_name: str) -> None:
    send(engine, "PUT", f"/{index_name}", {"mappings": {"properties": {"a": {"type": "keyword"}}}})
    try:
        with pytest.raises(SpecMismatch, match="a concrete index that knnex did not make") as raised:
            planned(engine, spec_of(index_name))
        assert "knnex attach" in str(raised.value.hint)
    finally:
        send(engine, "DELETE", f"/{index_name}")


def test_an_alias_on_two_indexes(engine: Engine, made: str) -> None:
    send(engine, "PUT", f"/{made}-other", {"aliases": {made: {}}})
    try:
        with pytest.raises(SpecMismatch, match="points at"):
            planned(engine, spec_of(made))
    finally:
        send(engine, "DELETE", f"/{made}-other")


def test_a_closed_index(engine: Engine, made: str) -> None:
    send(engine, "POST", f"/{made}-000001/_close")
    with pytest.raises(SpecMismatch, match="is closed") as raised:
        planned(engine, spec_of(made))
    assert f"POST /{made}-000001/_open" in str(raised.value.hint)


@pytest.mark.parametrize("block", ["write", "read_only", "read_only_allow_delete"])
def test_a_blocked_index_is_told_before_anything_is_sent(engine: Engine, made: str, block: str) -> None:
    send(engine, "PUT", f"/{made}-000001/_settings", {f"index.blocks.{block}": True})
    try:
        assert not planned(engine, spec_of(made)), "without a change there is nothing to complain of"
        with pytest.raises(SpecMismatch, match=f"index.blocks.{block} is set"):
            planned(engine, spec_of(made, v={"query_prompt": "q: "}))
    finally:
        send(engine, "PUT", f"/{made}-000001/_settings", {f"index.blocks.{block}": None})


def test_a_field_with_the_name_of_a_new_embedding(engine: Engine, made: str) -> None:
    send(engine, "PUT", f"/{made}-000001/_mapping", {"properties": {"w": {"type": "keyword"}}})
    wanted = spec_of(made)
    more = wanted.model_copy(update={"embeddings": {**wanted.embeddings, "w": wanted.embeddings["v"]}})
    with pytest.raises(SpecMismatch, match="has a field of that name already, of type keyword"):
        planned(engine, more, RESOLVED | {"w": Resolved(32, "w" * 32)})


def test_other_keys_of_the_mappings_meta_are_left_alone(engine: Engine, made: str) -> None:
    path = f"/{made}-000001/_mapping"
    held = send(engine, "GET", path)[f"{made}-000001"]["mappings"]["_meta"]
    send(engine, "PUT", path, {"_meta": held | {"owner": "them", META: held[META] | {"kept": 1}}})
    apply(engine, planned(engine, spec_of(made, v={"query_prompt": "q: "})))
    meta = send(engine, "GET", path)[f"{made}-000001"]["mappings"]["_meta"]
    assert (meta["owner"], meta[META]["kept"]) == ("them", 1)
    assert meta[META]["spec"]["embeddings"]["v"]["query_prompt"] == "q: "


def accepts(engine: Engine, path: str, body: Any) -> bool:
    try:
        send(engine, "PUT", path, body)
    except KnnexError:
        return False
    return True


def test_the_table_of_graphs_is_the_engines(engine: Engine, index_name: str) -> None:
    """Every step from one type of graph to another, told by the table and tried on the engine."""
    if engine.dialect.product == "opensearch":
        body = {"type": "knn_vector", "dimension": 8}
        assert (
            why_not_forward(engine.dialect, body, body | {"method": {}}) == "OpenSearch updates nothing of a knn_vector"
        )
        return
    types = ["flat", "int8_flat", "int4_flat", "hnsw", "int8_hnsw", "int4_hnsw", "bbq_flat", "bbq_hnsw"]
    types += ["bbq_disk"] if engine.dialect.version >= (9, 2) else []

    def field(kind: str) -> dict[str, Any]:
        return {"type": "dense_vector", "dims": 64, "similarity": "cosine", "index_options": {"type": kind}}

    pairs = [(was, wanted) for was in types for wanted in types if was != wanted]
    properties = {f"{was}_to_{wanted}": field(was) for was, wanted in pairs}
    send(
        engine, "PUT", f"/{index_name}", {"settings": {"number_of_replicas": 0}, "mappings": {"properties": properties}}
    )
    try:
        tried = {
            pair: accepts(engine, f"/{index_name}/_mapping", {"properties": {"_to_".join(pair): field(pair[1])}})
            for pair in pairs
        }
    finally:
        send(engine, "DELETE", f"/{index_name}")
    told = {(was, wanted): why_not_forward(engine.dialect, field(was), field(wanted)) is None for was, wanted in pairs}
    assert told == tried


# A value that differs from the default, for each setting; what one engine does not know it refuses, too.
SETTINGS: dict[str, Any] = {
    "number_of_replicas": 0, "refresh_interval": "5s", "max_result_window": 20000, "max_ngram_diff": 3,
    "highlight.max_analyzed_offset": 1000, "routing.allocation.enable": "all", "gc_deletes": "2m", "hidden": True,
    "translog.durability": "async", "merge.policy.max_merged_segment": "2gb", "mapping.total_fields.limit": 2000,
    "search.slowlog.threshold.query.warn": "5s", "number_of_shards": 2, "codec": "best_compression",
    "query.parse.allow_unmapped_fields": False, "mapping.coerce": False, "soft_deletes.enabled": False,
    "analysis.analyzer.a.type": "standard", "routing_partition_size": 2, "store.preload": ["vec"],
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "keyword": {"ignore_above": 20, "meta": {"a": "b"}, "null_value": "x", "doc_values": False, "index": False, "store": True},
    "text": {"search_analyzer": "keyword", "fielddata": True, "analyzer": "keyword", "index_phrases": True},
    "integer": {"coerce": False, "ignore_malformed": True, "null_value": 3},
}  # fmt: skip


def test_the_tables_of_settings_and_options_are_the_engines(engine: Engine, index_name: str) -> None:
    properties = {f"{kind}_{option}": {"type": kind} for kind, options in OPTIONS.items() for option in options}
    send(engine, "PUT", f"/{index_name}", {"mappings": {"properties": properties}})
    try:
        settings = {
            name: accepts(engine, f"/{index_name}/_settings", {f"index.{name}": value})
            for name, value in SETTINGS.items()
        }
        options = {
            (kind, option): accepts(
                engine, f"/{index_name}/_mapping", {"properties": {f"{kind}_{option}": {"type": kind, option: value}}}
            )
            for kind, values in OPTIONS.items()
            for option, value in values.items()
        }
    finally:
        send(engine, "DELETE", f"/{index_name}")
    assert settings == {name: setting_is_dynamic(name) for name in SETTINGS}
    assert options == {(kind, option): field_option_is_dynamic(option) for kind, option in options}


def test_a_re_index_under_way_is_told_and_hinders_nothing(engine: Engine, made: str) -> None:
    live = Watched(engine).look(made)
    assert live is not None
    blocked = replace(
        live, stored=replace(live.stored, also=(f"{made}-000002",)), settings={**live.settings, "blocks.write": "true"}
    )
    done = plan(spec_of(made, v={"similarity": "l2"}), RESOLVED, blocked, engine.dialect)
    assert f"{made}-000002 is being built beside" in done.notes[0]
