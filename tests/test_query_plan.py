"""What is sent is visible first: the plan's requests, in words, as data, and as text for Dev Tools that runs as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from query_corpus import RESOLVED, Corpus, encode, indexed, spec, unit

from knnex.engines import Engine, Request
from knnex.engines.elasticsearch import Elasticsearch
from knnex.engines.opensearch import OpenSearch
from knnex.errors import QueryError, UnknownField
from knnex.mappings import Stored
from knnex.query import F, Query, Text, plan, prepare, search
from knnex.query.conditions import where
from knnex.query.hits import parse_hit

STORED = Stored("movies-000001", spec("movies", "studios"), RESOLVED)
HYBRID = Query("robot").semantic("v", weight=0.7).lexical("title^2", "plot", weight=0.3).where(F.year > 1930)


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine) as made:
        yield made


def paste(text: str) -> Request:
    """The request as Dev Tools reads it: a line with method and path, then JSON, or lines of it."""
    assert "${" not in text  # Kibana would fill it in
    first, _, rest = text.partition("\n")
    method, path = first.split(" ")
    if path.endswith("_msearch"):
        return Request(method, path, body=tuple(json.loads(line) for line in rest.splitlines()))
    return Request(method, path, body=json.loads(rest))


@pytest.mark.feature("Requests for Dev Tools")
@pytest.mark.parametrize(
    "query",
    [
        HYBRID,
        Query("a ${robot}").semantic("c").highlight("plot"),
        Query("${robot} \"moon\" '''").lexical("plot").where_nested("cast", F.name == "actor1"),
        Query().where_lookup("studios", F.country == "US").limit(3),
        Query().semantic("v").like("d001").unlike("d002"),
    ],
    ids=["hybrid", "chunks", "words", "lookup", "examples"],
)
def test_what_is_pasted_into_dev_tools_finds_the_same(engine: Engine, corpus: Corpus, query: Query) -> None:
    ready = engine.run(prepare(corpus.plan(engine, query)))
    pasted = engine.send(paste(ready.to_console())).body
    bodies = pasted.get("responses", [pasted])
    hits = engine.run(search(ready))
    for leg, body in zip(ready.legs, bodies, strict=True):
        found = [parse_hit(raw, corpus.stored.spec, leg.name) for raw in body["hits"]["hits"]]
        assert found
        kept = {hit.id: hit for hit in hits}
        assert all(kept[one.id].parts[leg.name] == one.score for one in found if one.id in kept)
    if len(bodies) == 1:
        assert [hit["_id"] for hit in bodies[0]["hits"]["hits"]] == list(hits.ids)
    shown = ready.to_dict()
    assert engine.send(Request(shown["method"], shown["path"], body=_body(shown["body"]))).status == 200


def _body(body: Any) -> Any:
    return tuple(body) if isinstance(body, list) else body


def test_a_plan_that_waits_for_answers_says_so() -> None:
    waiting = plan(Query("a").semantic("v").where_lookup("studios"), STORED, Elasticsearch((9, 5, 0)), encode)
    assert not waiting.ready
    assert [request.path for request in waiting.requests] == ["/studios/_search"]
    assert waiting.to_dict()["body"]["query"]["knn"]["filter"] == {
        "bool": {"filter": [{"terms": {"studio": ["<keys of studios>"]}}]}
    }
    with pytest.raises(QueryError, match="depends on what lookups or examples answer"):
        waiting.to_console()


def test_explain_says_each_step_and_why() -> None:
    query = HYBRID.where_lookup("studios", F.country == "US").like("d001", Text("moon")).unlike("d002")
    steps = plan(query, STORED, OpenSearch((3, 6, 0)), encode).explain()
    assert [step.split(". ")[0] for step in steps] == list("1234567")
    text = "\n".join(steps)
    for part in (
        "encode",
        "where_lookup('studios')",
        "vectors of the examples",
        "1 given as texts",
        "OpenSearch 3.6.0",
        "ef_search=100",
        "title^2",
        "fuse",
    ):
        assert part in text
    assert "unranked" in plan(Query().where(F.year > 1), STORED, OpenSearch((3, 6, 0)), encode).explain()[0]


def test_a_text_is_encoded_once_for_every_encoder() -> None:
    asked: list[tuple[str, list[str]]] = []

    def counting(name: str, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        asked.append((name, list(texts)))
        return encode(name, texts)

    query = Query("a").semantic("v").semantic("w").semantic("c", text="b").like(Text("a"))
    plan(query, STORED, Elasticsearch((9, 5, 0)), counting)
    assert asked == [("v", ["a"]), ("w", []), ("c", ["b"])]
    asked.clear()
    plan(Query("a").semantic("v", vector=unit(1)).lexical("title"), STORED, Elasticsearch((9, 5, 0)), counting)
    assert asked == []


def test_fusion_is_weighted_where_a_weight_is_given() -> None:
    dialect = Elasticsearch((9, 5, 0))
    assert plan(HYBRID, STORED, dialect, encode).fusion == "weighted"
    assert plan(Query("a").semantic("v").lexical("title"), STORED, dialect, encode).fusion == "rrf"
    assert plan(HYBRID.fuse("rrf"), STORED, dialect, encode).fusion == "rrf"
    assert [plan(HYBRID.limit(n), STORED, dialect, encode).window for n in (10, 100, 9_000)] == [50, 300, 10_000]


@pytest.mark.parametrize(
    "condition", ["year>=1980", "genre=noir,drama", "studios.country=US", "cast.age>30", "seen=true", "rating=*"]
)
def test_conditions_of_the_command_line(engine: Engine, corpus: Corpus, condition: str) -> None:
    meaning: Any = {
        "year>=1980": lambda one: one.get("year", 0) >= 1980,
        "genre=noir,drama": lambda one: bool({"noir", "drama"} & set(np.atleast_1d(one.get("genre", [])).tolist())),
        "studios.country=US": lambda one: one["studio"] in ("rko", "fox"),
        "cast.age>30": lambda one: any(x["age"] > 30 for x in one.get("cast", [])),
        "seen=true": lambda one: one.get("seen") is True,
        "rating=*": lambda one: "rating" in one,
    }[condition]
    found = corpus.search(engine, where(Query().limit(60), condition, corpus.stored.spec))
    assert set(found.ids) == corpus.matching(meaning)


def test_a_condition_with_a_typo_names_the_closest() -> None:
    with pytest.raises(UnknownField, match="did you mean 'year'"):
        plan(where(Query(), "yer>1", STORED.spec), STORED, Elasticsearch((9, 5, 0)), encode)


@pytest.mark.parametrize(
    "inner",
    [
        {"_source": {"text": "a", "start": 1, "end": 2}},
        {"_source": {"c": {"text": "a", "start": 1, "end": 2}}},
    ],
    ids=["own source", "source by path"],
)
def test_a_passage_is_read_from_every_shape(inner: dict[str, Any]) -> None:
    raw = {"_id": "1", "_index": "i", "_score": 1.0, "inner_hits": {"c": {"hits": {"hits": [inner | {"_score": 0.5}]}}}}
    (passage,) = parse_hit(raw, STORED.spec, "c").passages
    assert (passage.text, passage.start, passage.end, passage.score) == ("a", 1, 2, 0.5)
