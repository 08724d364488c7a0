"""Reading a mapping of others, judging what its fields hold, and the spec that is proposed for it."""

from __future__ import annotations

from typing import Any

import pytest
from attaching import META, SHOP, shop_body

from knnex.engines.elasticsearch import Elasticsearch
from knnex.errors import EngineBusy, SpecMismatch, UnsupportedByEngine
from knnex.mappings import Resolved, Stored, load_spec
from knnex.mappings.attach import check_fits, check_own_writes, requests
from knnex.mappings.attach_fields import leaves, named, settings_taken_over, taken_over, texts
from knnex.mappings.attach_find import Existing
from knnex.mappings.attach_refuse import check_attachable, why_not_in_place
from knnex.mappings.attach_spec import Lengths, choose, propose, source_of
from knnex.mappings.attach_text import Measured, measure

ES = Elasticsearch((9, 5, 0))
PROSE = [f"A {one} walks through the town and looks for {one} friends." for one in ("cat", "dog", "robot", "human")]


def existing(**changes: Any) -> Existing:
    body = shop_body("elasticsearch")
    held: dict[str, Any] = {"name": "shop", "index": "shop-v3", "mappings": body["mappings"], "settings": {}}
    return Existing(**held | changes)


def with_mapping(**mappings: Any) -> Existing:
    return existing(mappings={**SHOP, **mappings})


@pytest.mark.parametrize(
    ("path", "values", "kind"),
    [
        ("description", PROSE, "prose"),
        ("plot", ["Der Hund läuft über die Straße und bellt."] * 3, "prose"),
        ("plot", ["机器人想成为人类，他走过城市寻找朋友"], "prose"),
        ("plot", ["Робот мечтает стать человеком и любить."], "prose"),
        ("plot", [PROSE[0]] + [""] * 10, "prose"),
        ("title", ["Alien", "Heat", "The Thing"], "title"),
        ("movieTitle", ["Alien", "Heat"], "title"),
        ("maker.name", ["Acme", "Globex"], "title"),
        ("director", ["Ridley Scott", "Michael Mann"], "short"),
        ("status", ["in stock and ready to ship today", "sold out for a while it seems"] * 20, "labels"),
        ("sku", ["SKU-1042", "SKU-7"], "codes"),
        ("hash", ["a81f00c2e9", "b7d0e1aa01"], "codes"),
        ("uuid", ["1b4e28ba-2fa1-11d2-883f-0016d3cca427"], "codes"),
        ("when", ["2024-01-31", "2023-11-02T10:00:00Z"], "codes"),
        ("log", ["user_id=17 status=200 took=12ms", "user_id=18 status=500 took=9ms"], "codes"),
        ("url", ["https://a.example/b", "www.example.org/c"], "links"),
        ("mail", ["ann@example.org", "bob@example.org"], "links"),
        ("path", ["/usr/lib/python3", "/etc/hosts"], "links"),
        ("note", ["", "", ""], "empty"),
        ("note", [PROSE[0]] + [""] * 30, "empty"),
        ("note", [], "empty"),
    ],
)
def test_a_field_is_judged_by_its_values(path: str, values: list[str], kind: str) -> None:
    found = measure(path, values)
    assert found.kind == kind, found
    assert found.reason


def test_deep_fields_multi_fields_and_aliases_are_read() -> None:
    found = {leaf.path: leaf for leaf in leaves(existing())}
    assert found["maker.address.city"].type == "keyword"
    assert found["reviews.text"].nested == "reviews"
    assert found["theirs"].type == "dense_vector"
    assert [leaf.path for leaf in texts(existing())] == ["name", "description", "status", "link", "maker.name"]
    fielded = with_mapping(properties={"t": {"type": "keyword", "fields": {"en": {"type": "text"}}}})
    assert [leaf.path for leaf in texts(fielded)] == ["t"]


def test_fields_are_taken_over_with_all_their_options() -> None:
    fields, joins = taken_over(existing())
    assert fields["name"] == SHOP["properties"]["name"]
    assert fields["maker"]["type"] == "object"
    assert fields["maker"]["properties"]["address"]["properties"]["city"]["ignore_above"] == 64
    assert fields["brand"] == {"type": "alias", "path": "maker.name"}
    assert joins == {"reviews": {"kind": "nested", "fields": SHOP["properties"]["reviews"]["properties"]}}
    fields, joins = taken_over(existing(), ("reviews.text",))
    assert fields["reviews"]["type"] == "nested"
    assert not joins
    related = with_mapping(
        properties={"rel": {"type": "join", "relations": {"studio": ["film", "show"], "film": "cut"}}}
    )
    assert taken_over(related)[1] == {
        "studio": {"kind": "parent", "children": ["film", "show"], "field": "rel"},
        "film": {"kind": "parent", "children": ["cut"], "field": "rel"},
    }


def test_analyzers_and_shards_are_taken_over_and_what_only_this_index_has_is_not() -> None:
    held = {
        "index.uuid": "x",
        "index.number_of_shards": "3",
        "index.analysis.analyzer.mine.type": "standard",
        "index.analysis.analyzer.mine.stopwords": ["a", "the"],
        "index.blocks.write": "false",
    }
    assert settings_taken_over(existing(settings=held)) == {
        "number_of_shards": "3",
        "analysis": {"analyzer": {"mine": {"type": "standard", "stopwords": ["a", "the"]}}},
    }


def test_what_the_mapping_has_beside_its_fields_is_taken_over() -> None:
    strict = with_mapping(dynamic="strict", _routing={"required": True}, _meta=META)
    spec = propose(strict, [measured("description", "prose")], [], Lengths.of([9], 254)).spec
    assert spec.mapping == {
        "dynamic": "strict",
        "dynamic_templates": SHOP["dynamic_templates"],
        "_routing": {"required": True},
    }


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (("description",), ["description"]),
        (("brand",), ["maker.name"]),
        (("name.raw", "name"), ["name"]),
        (("sku", "reviews.text"), ["sku", "reviews.text"]),
    ],
)
def test_named_fields_are_found(names: tuple[str, ...], paths: list[str]) -> None:
    assert [leaf.path for leaf in named(existing(), names)] == paths


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("descripton", "did you mean 'description'"),
        ("name.nope", "no field 'name.nope'"),
        ("maker", "of type object"),
        ("reviews", "of type nested"),
        ("theirs", "of type dense_vector"),
    ],
)
def test_a_name_of_no_text_is_refused(name: str, said: str) -> None:
    with pytest.raises(SpecMismatch, match=said) as failure:
        named(existing(), (name,))
    assert failure.value.hint


def measured(path: str, kind: Any, present: float = 1.0, words: float = 9) -> Measured:
    return Measured(path, kind, 100, present, 0.9, words)


def test_titles_come_first_and_a_hole_makes_a_list() -> None:
    title, plot, rare = measured("title", "title", words=2), measured("plot", "prose"), measured("x", "prose", 0.5)
    assert choose([plot, measured("sku", "codes"), title]) == [title, plot]
    assert source_of([title, plot]) == "{title}. {plot}"
    assert source_of([title, plot, rare]) == ["title", "plot", "x"]
    assert source_of([rare]) == "{x}"
    short = measured("director", "short", words=2)
    assert choose([measured("sku", "codes"), short]) == [short]
    assert choose([measured("sku", "codes")]) == []


@pytest.mark.parametrize(
    ("counts", "chunk"),
    [([], None), ([20] * 100, None), ([20] * 97 + [900] * 3, None), ([20] * 50 + [900] * 50, 254)],
)
def test_documents_longer_than_the_encoder_reads_are_cut_into_chunks(counts: list[int], chunk: int | None) -> None:
    found = propose(existing(), [measured("description", "prose")], [], Lengths.of(counts, 254))
    embedding = found.spec.embeddings["description_vector"]
    assert (embedding.chunk and embedding.chunk.max_tokens) == chunk
    assert "tokens" in found.to_yaml() or not counts


def test_the_proposal_says_why_and_is_read_back_equal() -> None:
    title, plot = measured("name", "title", words=2), measured("description", "prose")
    found = propose(
        existing(), [title, plot], [measured("sku", "codes")], Lengths.of([12] * 9, 254), notes=["Proposed for shop"]
    )
    text = found.to_yaml()
    assert load_spec(text) == found.spec
    assert (found.spec.index, found.spec.id) == ("shop", "_id")
    assert found.spec.embeddings["description_vector"].source == "{name}. {description}"
    for said in ("# Proposed for shop", "# name: a title", "# left out: sku: codes", "_id, which is no field"):
        assert said in text


def test_an_embedding_takes_the_name_of_no_field_but_that_of_an_earlier_attach() -> None:
    properties = {**SHOP["properties"], "description_vector": {"type": "float"}}
    plot = [measured("description", "prose")]
    lengths = Lengths.of([9], 254)
    assert list(propose(with_mapping(properties=properties), plot, [], lengths).spec.embeddings) == [
        "description_vector_2"
    ]
    ours = {"properties": {"vectors": {"properties": {"description_vector": {}}}}}
    again = propose(with_mapping(properties={**properties, "_knnex": ours}), plot, [], lengths).spec
    assert list(again.embeddings) == ["description_vector"]
    assert "description_vector" not in again.fields


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"index": ".kibana_1"}, UnsupportedByEngine, "engine's own"),
        ({"attributes": frozenset({"open", "system"})}, UnsupportedByEngine, "engine's own"),
        ({"attributes": frozenset({"closed"})}, SpecMismatch, "is closed"),
        ({"attributes": frozenset({"frozen"})}, UnsupportedByEngine, "is frozen"),
        ({"settings": {"index.store.type": "snapshot"}}, UnsupportedByEngine, "mounted from a snapshot"),
        ({"settings": {"index.store.type": "remote_snapshot"}}, UnsupportedByEngine, "mounted from a snapshot"),
        ({"settings": {"index.xpack.ccr.following_index": "true"}}, UnsupportedByEngine, "another cluster"),
        ({"settings": {"index.blocks.read_only": "true"}}, SpecMismatch, "read-only"),
        ({"settings": {"index.blocks.write": "true"}}, SpecMismatch, "closed to writes"),
        ({"settings": {"index.blocks.metadata": "true"}}, SpecMismatch, "changes of its mapping"),
        ({"settings": {"index.blocks.read_only_allow_delete": "true"}}, EngineBusy, "disk is full"),
        ({"settings": {"index.mode": "time_series"}}, UnsupportedByEngine, "time_series"),
        ({"settings": {"index.mode": "columnar"}}, UnsupportedByEngine, "columnar"),
        ({"settings": {"index.mapping.source.mode": "synthetic"}}, SpecMismatch, "puts _source together"),
        ({"settings": {"index.derived_source.enabled": "true"}}, SpecMismatch, "puts _source together"),
        ({"mappings": {"_source": {"enabled": False}}}, SpecMismatch, "keeps no _source"),
        ({"mappings": {"_source": {"excludes": ["theirs"]}}}, SpecMismatch, "excludes: theirs"),
        ({"mappings": {"_source": {"includes": ["name"]}}}, SpecMismatch, "includes: name"),
        ({"mappings": {"_source": {"mode": "synthetic"}}}, SpecMismatch, "puts _source together"),
        ({"mappings": {"subobjects": False}}, UnsupportedByEngine, "subobjects"),
        ({"mappings": {"properties": {"_knnex": {"type": "text"}}}}, SpecMismatch, "not of knnex"),
        ({"aliases": {"shop-v3-w": {"filter": {"term": {"a": 1}}}}}, SpecMismatch, "somebody's own"),
    ],
)
def test_an_index_that_cannot_take_vectors_is_declined(changes: dict[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said) as failure:
        check_attachable(existing(**changes))
    assert failure.value.hint


def test_an_ordinary_index_is_taken() -> None:
    held = {"index.knn": "true", "index.blocks.write": "false", "index.mode": "standard"}
    check_attachable(existing(settings=held, aliases={"shop": {}, "shop-v3-w": {"is_hidden": True}}))
    assert not why_not_in_place(existing(settings=held), ES)
    assert "sequence" in why_not_in_place(existing(settings={"index.disable_sequence_numbers": "true"}), ES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"index": "other"}, "index is 'other'"),
        ({"fields": {"description": {"type": "keyword"}}}, "of type text, and not keyword"),
        ({"fields": {"description": {"type": "text"}, "more": {"type": "text"}}}, "'more' is not in the mapping"),
        ({"embeddings": {"name": {"source": "{description}", "encoder": "m"}}}, "'name' has the name of a field"),
        ({"embeddings": {}}, "no embedding"),
    ],
)
def test_a_spec_of_another_index_does_not_fit(changes: dict[str, Any], said: str) -> None:
    spec: dict[str, Any] = {
        "index": "shop",
        "id": "_id",
        "fields": {"description": {"type": "text"}},
        "embeddings": {"v": {"source": "{description}", "encoder": "m"}},
    }
    check_fits(existing(), load_spec(spec))
    with pytest.raises(SpecMismatch, match=said):
        check_fits(existing(), load_spec(spec | changes))


def test_what_is_sent_adds_fields_and_keeps_what_others_noted() -> None:
    spec = propose(existing(), [measured("description", "prose")], [], Lengths.of([9], 254)).spec
    made = {"description_vector": Resolved(8, "f")}
    alias, mapping = requests(existing(), spec, made, ES)
    assert alias.body == {"actions": [{"add": {"index": "shop-v3", "alias": "shop-v3-w", "is_hidden": True}}]}
    assert mapping.path == "/shop-v3/_mapping"
    assert mapping.body["properties"].keys() == {"description_vector", "_knnex"}
    assert mapping.body.keys() == {"_meta", "properties"}
    assert {key: mapping.body["_meta"][key] for key in META} == META
    assert mapping.body["_meta"]["knnex"]["attached"] is True
    assert [one.method for one in requests(existing(aliases={"shop-v3-w": {}}), spec, made, ES)] == ["PUT"]


def test_documents_of_others_are_not_written() -> None:
    spec = load_spec({"index": "shop", "fields": {}})
    check_own_writes(Stored("shop-000001", spec, {}))
    with pytest.raises(SpecMismatch, match="only adds vectors") as failure:
        check_own_writes(Stored("shop-v3", spec, {}, attached=True))
    assert "knnex follow shop" in str(failure.value.hint)
