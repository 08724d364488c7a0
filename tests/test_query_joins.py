"""Joins: parent and child, nested objects, and lookups by foreign key; strict, and never through a tombstone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from query_corpus import DIMS, STUDIOS, Corpus, encode, indexed, unit

from knnex.engines import Engine, Flow, Request
from knnex.errors import QueryError, RequestRejected, UnknownField, UnsupportedByEngine
from knnex.mappings import Resolved, Stored, create, drop, find, load_spec
from knnex.query import F, Hits, Query, plan, prepare, search

FAMILY = {
    "fields": {
        "name": {"type": "keyword"},
        "country": {"type": "keyword"},
        "year": {"type": "integer"},
        "title": {"type": "text"},
    },
    "embeddings": {
        "v": {"source": "{name}", "encoder": "tests/none"},
        "c": {"source": "{name}", "encoder": "tests/none", "chunk": {"unit": "paragraph"}},
    },
    "joins": {"studio": {"kind": "parent", "children": ["movie"]}},
}


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine) as made:
        yield made


def family(engine: Engine, index: str) -> Flow[Stored]:
    """Two studios, one that was deleted, and movies of each."""
    resolved = {name: Resolved(DIMS, "f" * 32) for name in ("v", "c")}
    stored, _ = yield from create(load_spec(FAMILY | {"index": index}), engine.dialect, resolved)
    lines: list[Any] = []
    for studio, country in (("rko", "US"), ("ufa", "DE"), ("gone", None)):
        body: dict[str, Any] = {"relation": "studio", "_knnex": {"version": 1, "deleted": country is None}}
        lines += [
            {"index": {"_index": index, "_id": studio}},
            body | ({"name": studio, "country": country} if country else {}),
        ]
        for number in range(4):
            key = f"{studio}{number}"
            lines.append({"index": {"_index": index, "_id": key, "routing": studio}})
            vector = unit(key).tolist()
            chunk = {"text": key, "start": 0, "end": len(key), "vector": vector}
            movie = {
                "name": key,
                "year": 1930 + number,
                "title": f"a film by {studio}",
                "relation": {"name": "movie", "parent": studio},
            }
            lines.append(movie | {"v": vector, "c": [chunk], "_knnex": {"version": 1, "deleted": False}})
    response = yield Request("POST", "/_bulk", {"refresh": "true"}, tuple(lines))
    assert not response.body["errors"], response.body
    return stored


@contextmanager
def related(engine: Engine) -> Iterator[Stored]:
    name = f"knnex-test-{uuid4().hex[:12]}"
    try:
        yield engine.run(family(engine, name))
    finally:
        if engine.run(find(name)):
            engine.run(drop(name))


def ask(engine: Engine, stored: Stored, query: Query) -> Hits:
    return engine.run(search(plan(query, stored, engine.dialect, encode)))


@pytest.mark.feature("Parent and child documents")
@pytest.mark.never(
    "elasticsearch", reason="the embedded distribution lacks the join module; the full one has it", embedded=True
)
@pytest.mark.parametrize("part", ["v", "c", "lexical", "filter"])
def test_a_filter_on_the_parent_is_strict_in_every_part(engine: Engine, part: str) -> None:
    base = {
        "v": Query().semantic("v", vector=unit(1)),
        "c": Query().semantic("c", vector=unit(1)),
        "lexical": Query("film").lexical("title"),
        "filter": Query(),
    }[part]
    with related(engine) as stored:
        american = ask(engine, stored, base.where_parent("studio", F.country == "US").limit(4))
        assert american.ids
        assert {hit["name"][:3] for hit in american} == {"rko"}
        if part in ("v", "c"):
            assert len(american) == 4  # as many as fulfil it, though nearer ones do not
        narrowed = ask(engine, stored, base.where_parent("studio", F.country == "US").where(F.year > 1931))
        assert all(hit["year"] > 1931 for hit in narrowed)
        elsewhere = ask(engine, stored, base.where_parent("studio", F.country != "US").limit(20))
        assert {hit["name"][:3] for hit in elsewhere} <= {"ufa"}
        orphans = ask(engine, stored, base.where(~Query().where_parent("studio").filters[0]).limit(20))
        assert not {hit.id[:3] for hit in orphans if hit["relation"] != "studio"} & {"rko", "ufa"}


@pytest.mark.feature("Parent and child documents")
@pytest.mark.never(
    "elasticsearch", reason="the embedded distribution lacks the join module; the full one has it", embedded=True
)
def test_a_filter_on_children(engine: Engine) -> None:
    with related(engine) as stored:
        found = ask(engine, stored, Query().where_child("movie", F.name == "ufa2"))
        assert found.ids == ("ufa",)
        assert set(ask(engine, stored, Query().where_child("movie")).ids) == {"rko", "ufa"}
        assert ask(engine, stored, Query().where_child("movie", F.year > 2000)).ids == ()
        with pytest.raises(UnknownField, match="has no parent 'studios'; did you mean 'studio'"):
            ask(engine, stored, Query().where_parent("studios"))
        with pytest.raises(UnknownField, match="has no child 'films'"):
            ask(engine, stored, Query().where_child("films"))


def test_an_engine_without_the_join_module_says_what_to_do_instead(engine: Engine, index_name: str) -> None:
    """As seen by a query, for an index that was made where the module is there."""
    without = {key: value for key, value in FAMILY.items() if key != "joins"} | {"index": index_name}
    resolved = {name: Resolved(DIMS, "f" * 32) for name in ("v", "c")}
    engine.run(create(load_spec(without), engine.dialect, resolved))
    stored = Stored(f"{index_name}-000001", load_spec(FAMILY | {"index": index_name}), resolved)
    american = F.country == "US"
    for asked in (
        Query("x").semantic("v").where_parent("studio", american),
        Query("x").semantic("v").lexical("name").where_parent("studio", american),
        Query("x").by_child("movie", Query().semantic("v")),
        Query("x").lexical("title").by_parent("studio", Query().lexical("name")),
    ):
        if engine.capabilities.parent_join:
            with pytest.raises(RequestRejected, match="no join field has been configured"):
                ask(engine, stored, asked)
        else:
            with pytest.raises(UnsupportedByEngine, match="lacks the join module") as caught:
                ask(engine, stored, asked)
            assert "where_lookup()" in str(caught.value.hint)


@pytest.mark.feature("Nested objects")
def test_one_object_must_fulfil_all_of_a_nested_filter(engine: Engine, corpus: Corpus) -> None:
    query = Query("x").semantic("v").where_nested("cast", F.name == "actor1", F.age > 30).limit(60)
    expected = corpus.matching(lambda one: any(x["name"] == "actor1" and x["age"] > 30 for x in one.get("cast", [])))
    assert set(corpus.search(engine, query).ids) == expected & set(corpus.plain)
    with pytest.raises(QueryError, match="lies in the nested objects 'cast'") as caught:
        corpus.search(engine, Query().where(F["cast.name"] == "actor1"))
    assert "where_nested('cast', ...)" in str(caught.value.hint)
    with pytest.raises(UnknownField, match=r"no field 'title' in cast"):
        corpus.search(engine, Query().where_nested("cast", F.title.exists()))


@pytest.mark.feature("Lookup join by foreign key")
@pytest.mark.parametrize("part", ["v", "c", "lexical", "filter", "several"])
def test_a_lookup_is_strict_and_brings_the_other_side(engine: Engine, corpus: Corpus, part: str) -> None:
    base = {
        "v": Query().semantic("v", vector=unit(1)),
        "c": Query().semantic("c", vector=unit(1)),
        "lexical": Query("robot").lexical("plot"),
        "filter": Query(),
        "several": Query("robot").semantic("v").lexical("plot"),
    }[part]
    found = corpus.search(engine, base.where_lookup("studios", F.country == "US").limit(20))
    assert len(found) > 5
    for hit in found:
        assert hit["studio"] in ("rko", "fox")
        assert hit.joined["studios"] == {"code": hit["studio"], "country": "US", "name": f"{hit['studio']} pictures"}
    assert corpus.search(engine, base.where_lookup("studios", F.country == "FR")).ids == ()


@pytest.mark.feature("Lookup join by foreign key")
def test_lookups_combine_and_may_stay_in_the_same_index(engine: Engine, corpus: Corpus) -> None:
    query = Query().where_lookup("same", F.id == "d001").where(F.year > 1950).select("title").limit(60)
    found = corpus.search(engine, query)
    expected = corpus.matching(lambda one: one["studio"] == "rko" and one.get("year", 0) > 1950)
    assert set(found.ids) == expected
    assert all(set(hit.source) == {"title"} for hit in found)
    assert all(hit.joined["same"]["title"] == corpus.documents["d001"]["title"] for hit in found)
    negated = ~Query().where_lookup("studios", F.country == "US").filters[0]
    assert set(corpus.search(engine, Query().where(negated).limit(60)).ids) == corpus.matching(
        lambda one: STUDIOS[one["studio"]] != "US"
    )


@pytest.mark.feature("Lookup join by foreign key")
def test_a_key_may_be_the_documents_id(engine: Engine, corpus: Corpus) -> None:
    found = corpus.search(engine, Query().semantic("v", vector=unit(1)).where_lookup("sequel", F.year > 1980).limit(60))
    assert set(found.ids) <= set(corpus.plain)
    for hit in found:
        assert hit.joined["sequel"] == corpus.documents[hit["before"]]
        assert hit.joined["sequel"]["year"] > 1980
    expected = corpus.matching(lambda one: "before" in one and corpus.documents[one["before"]].get("year", 0) > 1980)
    assert set(found.ids) == expected & set(corpus.plain)


def test_a_lookup_by_wrong_names(engine: Engine, corpus: Corpus) -> None:
    with pytest.raises(UnknownField, match="has no lookup join 'studio'; did you mean 'studios'"):
        corpus.search(engine, Query().where_lookup("studio"))
    with pytest.raises(UnknownField, match=r"-studios' has no field 'contry'; did you mean 'country'"):
        corpus.search(engine, Query().where_lookup("studios", F.contry == "US"))


@pytest.mark.feature("Lookup join by foreign key")
def test_keys_come_in_batches_and_are_limited(engine: Engine, index_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {
        "index": index_name,
        "fields": {"code": {"type": "integer"}, "of": {"type": "integer"}, "low": {"type": "boolean"}},
        "joins": {"self": {"kind": "lookup", "field": "of", "key": "code"}},
    }
    stored, _ = engine.run(create(load_spec(body), engine.dialect, {}))
    lines: list[Any] = []
    for number in range(70):  # a key in a list is a key too
        codes = list(range(1000 * number, 1000 * number + 1000))
        lines += [{"index": {"_index": index_name}}, {"code": codes, "of": 69_999 - number, "low": number < 25}]
        lines += [{"index": {"_index": index_name}}, {"of": [number, 24_000 + number, 69_999]}]
    engine.send(Request("POST", "/_bulk", {"refresh": "true"}, tuple(lines)))
    low = Query().where_lookup("self", F.low == True).limit(100)  # noqa: E712
    found = ask(engine, stored, low)
    assert sorted(hit["of"] for hit in found) == [[number, 24_000 + number, 69_999] for number in range(70)]
    assert all([min(one["code"]) for one in hit.joined["self"]] == [0, 24_000] for hit in found)
    every = plan(Query().where_lookup("self").limit(200), stored, engine.dialect, encode)
    clauses = engine.run(prepare(every)).to_dict()["body"]["query"]["constant_score"]["filter"]["bool"]["filter"]
    assert [len(one["terms"]["of"]) for one in clauses[0]["bool"]["should"]] == [65_536, 4_464]
    assert len(engine.run(search(every))) == 140
    with monkeypatch.context() as patch:
        patch.setattr("knnex.query.lookup.MAX_KEYS", 69_999)
        with pytest.raises(QueryError, match="more than 69,999 keys"):
            ask(engine, stored, Query().where_lookup("self"))


@pytest.mark.feature("Lookup join by foreign key")
def test_ids_are_keys_beyond_what_one_search_returns(
    engine: Engine, index_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {
        "index": index_name,
        "settings": {"index.number_of_shards": 2},
        "fields": {"up": {"type": "keyword"}, "low": {"type": "boolean"}},
        "joins": {"parent": {"kind": "lookup", "field": "up", "key": "id"}},
    }
    stored, _ = engine.run(create(load_spec(body), engine.dialect, {}))
    count = 10_500
    lines: list[Any] = []
    for number in range(count):
        gone = {"_knnex": {"version": 1, "deleted": number % 100 == 7}}
        one = {"low": number < 10_200, "up": [f"d{number + 1}", f"d{number + 2}"]} | gone
        lines += [{"index": {"_index": index_name, "_id": f"d{number}"}}, one]
    engine.send(Request("POST", "/_bulk", {"refresh": "true"}, tuple(lines)))
    query = Query().where_lookup("parent", F.low == True)  # noqa: E712
    assert ask(engine, stored, query.limit(1)).total_relation == "gte"
    found = ask(engine, stored, query.where(F.id.isin([f"d{number}" for number in range(10_190, count)])).limit(1000))
    expected = {f"d{number}" for number in range(10_190, 10_199) if number % 100 != 7}
    assert set(found.ids) == expected
    assert all(1 <= len(hit.joined["parent"]) <= 2 for hit in found)
    everything = ask(engine, stored, query.limit(10_000))  # they lead to more ids than one search returns
    assert sum(len(hit.joined["parent"]) for hit in everything) == sum(
        one % 100 != 7 and one < 10_200 for hit in everything for one in (int(up[1:]) for up in hit["up"])
    )
    with monkeypatch.context() as patch:
        patch.setattr("knnex.query.lookup.MAX_KEYS", 10_050)
        with pytest.raises(QueryError, match="more than 10,050 keys"):
            ask(engine, stored, query)


def test_keys_that_the_foreign_key_cannot_hold_lead_nowhere(engine: Engine, index_name: str) -> None:
    body = {
        "index": index_name,
        "fields": {"of": {"type": "integer"}, "made": {"type": "date"}},
        "joins": {
            "up": {"kind": "lookup", "field": "of", "key": "id"},
            "day": {"kind": "lookup", "field": "of", "key": "made"},
        },
    }
    stored, _ = engine.run(create(load_spec(body), engine.dialect, {}))
    lines: list[Any] = []
    for key, of in (("7", 8), ("a/b c", 7)):
        lines += [{"index": {"_index": index_name, "_id": key}}, {"of": of}]
    engine.send(Request("POST", "/_bulk", {"refresh": "true"}, tuple(lines)))
    found = ask(engine, stored, Query().where_lookup("up"))
    assert [(hit.id, hit.joined["up"]) for hit in found] == [("a/b c", {"of": 8})]
    with pytest.raises(QueryError, match="the key made of .* is of type date"):
        ask(engine, stored, Query().where_lookup("day"))


@pytest.mark.parametrize(
    ("query", "message", "hint"),
    [
        (Query().where_parent("studios", F.country == "US"), "no parent 'studios'", "where_lookup('studios', ...)"),
        (Query().where_child("cast", F.age > 1), "no child 'cast'", "where_nested('cast', ...)"),
        (Query().where_lookup("cast", F.age > 1), "no lookup join 'cast'", "where_nested('cast', ...)"),
        (Query().where_nested("same", F.year > 1), "no nested join 'same'", "where_lookup('same', ...)"),
    ],
)
def test_a_join_of_another_kind_says_how_it_is_asked(
    engine: Engine, corpus: Corpus, query: Query, message: str, hint: str
) -> None:
    with pytest.raises(UnknownField, match=message) as caught:
        corpus.plan(engine, query)
    assert hint in str(caught.value.hint)
