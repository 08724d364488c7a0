"""Searching both engines: kNN against exact search, passages, BM25, fusion, examples, highlights, pages, async."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from query_corpus import Corpus, encode, indexed, unit

from knnex.engines import Access, Engine, open_async_engine, open_engine
from knnex.errors import QueryError
from knnex.query import F, Hits, Passage, Query, Text, search


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine) as made:
        yield made


@pytest.mark.feature("kNN")
@pytest.mark.parametrize("embedding", ["v", "w", "c"])
def test_a_text_finds_what_exact_search_of_its_vector_finds(engine: Engine, corpus: Corpus, embedding: str) -> None:
    found = corpus.search(engine, Query("a lonely robot").semantic(embedding).limit(20))
    exact = corpus.nearest(encode(embedding, ["a lonely robot"])[0], corpus.documents, embedding)
    assert list(found.ids) == [key for key, _ in exact[:20]]
    assert [hit.score for hit in found] == pytest.approx([score for _, score in exact[:20]], abs=1e-5)
    assert (found.total, found.total_relation) == (20, "eq")
    assert found[0].parts == {embedding: found[0].score}
    assert found[0].index == corpus.stored.index


def test_k_is_how_many_are_near_on_every_engine(engine: Engine, corpus: Corpus) -> None:
    near = Query().semantic("v", vector=unit(1), k=5)
    whole = corpus.search(engine, near)
    assert len(whole) == whole.total == 5
    assert corpus.search(engine, near.offset(3)).ids == whole.ids[3:]
    assert corpus.search(engine, near.offset(7)).ids == ()


@pytest.mark.feature("kNN")
def test_k_counts_for_the_whole_index_and_not_for_each_shard(engine: Engine) -> None:
    with indexed(engine, shards=3) as corpus:
        for embedding in ("v", "c"):
            query = Query().semantic(embedding, vector=unit(1), k=5).where(F.year > 1930).limit(20)
            found = corpus.search(engine, query)
            exact = corpus.nearest(unit(1), corpus.matching(lambda one: one.get("year", 0) > 1930), embedding)
            assert list(found.ids) == [key for key, _ in exact[:5]]
            assert found.total == 5
        examples = corpus.search(engine, Query().semantic("v").like("d001", "d002", "d003", "d004"))
        assert not {"d001", "d002", "d003", "d004"} & set(examples.ids)


@pytest.mark.feature("kNN with minimum similarity")
@pytest.mark.parametrize(("embedding", "least"), [("v", 0.3), ("w", 1.1), ("c", 0.5)])
def test_a_minimum_similarity_is_in_the_metrics_own_units(
    engine: Engine, corpus: Corpus, embedding: str, least: float
) -> None:
    query = Query().semantic(embedding, vector=unit(4), k=100, min_similarity=least).where(F.year > 1930).limit(100)
    exact = corpus.nearest(unit(4), corpus.matching(lambda one: one.get("year", 0) > 1930), embedding)
    score = 1 / (1 + least**2) if embedding == "w" else (1 + least) / 2
    assert list(corpus.search(engine, query).ids) == [key for key, value in exact if value >= score]


@pytest.mark.feature("Long texts in chunks, with passages and offsets")
def test_passages_are_the_best_chunks_with_their_offsets(engine: Engine, corpus: Corpus) -> None:
    for hit in corpus.search(engine, Query().semantic("c", vector=unit(7)).limit(10).passages(2)):
        scores = (1 + corpus.chunks[hit.id] @ unit(7)) / 2
        best = np.argsort(-scores)[:2]
        expected = [
            Passage(
                f"passage {step} of {int(hit.id[1:])}",
                100 * step,
                100 * step + 20,
                pytest.approx(scores[step], abs=1e-5),
            )
            for step in best
        ]
        assert list(hit.passages) == expected
        assert hit.score == pytest.approx(hit.passages[0].score, abs=1e-6)


def test_one_passage_or_none(engine: Engine, corpus: Corpus) -> None:
    query = Query().semantic("c", vector=unit(7))
    assert all(len(hit.passages) == 1 for hit in corpus.search(engine, query.passages(1)))
    assert all(hit.passages == () for hit in corpus.search(engine, query.passages(0)))
    assert corpus.search(engine, query.passages(0)).ids == corpus.search(engine, query).ids


@pytest.mark.feature("BM25")
def test_words_are_found_in_the_fields_named(engine: Engine, corpus: Corpus) -> None:
    found = corpus.search(engine, Query("robot").lexical("title^3", "plot").limit(100))
    assert set(found.ids) == corpus.matching(lambda one: "robot" in f"{one['title']} {one['plot']}".split())
    titled = corpus.matching(lambda one: "robot" in one["title"].split())
    assert set(found.ids[: len(titled)]) == titled
    assert corpus.search(engine, Query("noir").lexical("genre")).total == len(
        corpus.matching(lambda one: "noir" in one.get("genre", []))
    )


@pytest.mark.feature("Hybrid: kNN and BM25, fused")
@pytest.mark.parametrize("method", ["rrf", "weighted"])
def test_both_engines_give_the_same_fused_order(elasticsearch_url: str, opensearch_url: str, method: str) -> None:
    query = (
        Query("robot moon ocean")
        .semantic("v", weight=0.5)
        .semantic("c", weight=0.2)
        .lexical("title^2", "plot", weight=0.3)
    )
    query = query.where(F.year > 1925).fuse(method).limit(40)  # type: ignore[arg-type]
    answers = []
    for url in (elasticsearch_url, opensearch_url):
        engine = open_engine(url, Access())
        with indexed(engine) as corpus:
            answers.append(corpus.search(engine, query))
            assert set(answers[-1].ids) <= corpus.matching(lambda one: one.get("year", 0) > 1925)
        engine.close()
    one, other = answers
    assert len(one) == 40
    assert one.ids == other.ids
    assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=1e-5)
    assert one.total == other.total


@pytest.mark.feature("Hybrid: kNN and BM25, fused")
def test_a_hit_of_several_parts_has_each_ones_score(engine: Engine, corpus: Corpus) -> None:
    query = Query("robot").semantic("v", weight=0.6).semantic("c", weight=0.1).lexical("plot", weight=0.3)
    found = corpus.search(engine, query.limit(60))
    assert {name for hit in found for name in hit.parts} == {"v", "c", "lexical"}
    best = found[0]
    assert best.passages
    assert 0 < best.score <= 1
    twice = corpus.search(engine, Query("robot").lexical("plot").lexical("title"))
    assert {name for hit in twice for name in hit.parts} == {"lexical", "lexical_2"}
    assert twice[0].score <= 2 / 61


def test_pages_of_a_fused_ranking_join_up(engine: Engine, corpus: Corpus) -> None:
    query = Query("robot moon").semantic("v").lexical("plot").fuse(window=60)
    whole = corpus.search(engine, query.limit(30)).ids
    assert (
        tuple(id_ for start in (0, 10, 20) for id_ in corpus.search(engine, query.limit(10).offset(start)).ids) == whole
    )


def test_a_text_without_parts_asks_every_embedding(engine: Engine, corpus: Corpus) -> None:
    asked = Query("robot").semantic("v").semantic("w").semantic("c")
    assert corpus.search(engine, Query("robot")).ids == corpus.search(engine, asked).ids


@pytest.mark.feature("By example: like these, unlike those")
@pytest.mark.parametrize("embedding", ["v", "w", "c"])
def test_like_and_unlike_use_stored_vectors(engine: Engine, corpus: Corpus, embedding: str) -> None:
    def vector(key: str) -> np.ndarray:  # type: ignore[type-arg]
        return corpus.chunks[key].mean(axis=0) if embedding == "c" else corpus.plain[key]

    def direction(row: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return row if embedding == "w" else row / np.linalg.norm(row)

    liked = direction(np.mean([direction(vector("d001")), direction(vector("d002"))], axis=0))
    away = direction(vector("d003"))
    wanted = direction(liked + 0.5 * (liked - away) if embedding == "w" else liked - 0.5 * away)
    query = Query().semantic(embedding).like("d001", "d002").unlike("d003").limit(10)
    exact = corpus.nearest(wanted, set(corpus.documents) - {"d001", "d002", "d003"}, embedding)
    assert list(corpus.search(engine, query).ids) == [key for key, _ in exact[:10]]


@pytest.mark.feature("By example: like these, unlike those")
def test_texts_can_be_examples_and_a_query_can_lean_towards_one(engine: Engine, corpus: Corpus) -> None:
    texts = corpus.search(engine, Query().semantic("v").like(Text("a"), Text("b")).limit(5))
    middle = (unit("a") + unit("b")) / np.linalg.norm(unit("a") + unit("b"))
    assert list(texts.ids) == [key for key, _ in corpus.nearest(middle, corpus.documents)[:5]]
    leaning = corpus.search(engine, Query("a").semantic("v").like(Text("b")).limit(5))
    assert leaning.ids == texts.ids
    alone = corpus.search(engine, Query().like("d001").fuse("rrf"))
    assert "d001" not in alone.ids
    assert set(alone[0].parts) <= {"v", "w", "c"}


def test_examples_that_cannot_be_used(engine: Engine, corpus: Corpus) -> None:
    with pytest.raises(QueryError, match="has no document 'nobody', 'gone1'"):
        corpus.search(engine, Query().semantic("v").like("d001", "nobody", "gone1"))
    with pytest.raises(QueryError, match="document 'd012' has no v"):
        corpus.search(engine, Query().semantic("v").like("d012"))
    with pytest.raises(QueryError, match="cancel each other out"):
        corpus.search(engine, Query().semantic("v").like("d001").unlike("d001", share=1.0))


@pytest.mark.feature("Highlights")
def test_words_are_marked_whatever_found_the_document(engine: Engine, corpus: Corpus) -> None:
    for query in (
        Query("robot").lexical("title"),
        Query("robot").semantic("v", k=60),
        Query("robot").semantic("c").lexical("plot"),
    ):
        marked = corpus.search(engine, query.highlight("plot", "title").limit(60))
        assert marked.hits
        for hit in marked:
            expected = {name for name in ("plot", "title") if "robot" in hit[name].split()}
            assert set(hit.highlights) == expected
            assert all("<em>robot</em>" in text for texts in hit.highlights.values() for text in texts)


def test_hits_carry_fields_and_never_vectors(engine: Engine, corpus: Corpus) -> None:
    for query in (
        Query("robot").semantic("c"),
        Query("robot").semantic("v").lexical("plot"),
        Query().where(F.year > 1),
    ):
        for hit in corpus.search(engine, query):
            assert hit.source == corpus.documents[hit.id]
            assert list(hit.source)[:2] == ["title", "plot"]
            assert hit["address.city"] == hit.source["address"]["city"]
            assert hit.get("nothing", 3) == 3
    with pytest.raises(KeyError, match="did you mean 'title'"):
        _ = corpus.search(engine, Query().limit(1))[0]["titel"]


def test_only_the_fields_selected(engine: Engine, corpus: Corpus) -> None:
    chosen = corpus.search(engine, Query("robot").lexical("plot").select("title", "address.city"))
    assert all(set(hit.source) == {"title", "address"} for hit in chosen)
    assert all(hit.source == {} for hit in corpus.search(engine, Query("robot").semantic("v").select()))
    nested = corpus.search(engine, Query().where_nested("cast", F.name == "actor1").select("cast.name").limit(1))
    assert all(set(one) == {"name"} for one in nested[0]["cast"])
    whole = corpus.search(engine, Query().where_nested("cast", F.name == "actor1").select("cast").limit(1))
    assert [set(one) for one in whole[0]["cast"]] == [{"name", "age", "awards"}] * 2
    deep = corpus.search(engine, Query().select("cast.awards.name").where(F["cast.awards"].any(F.year > 1950)))
    assert {key for one in deep[0]["cast"] for award in one.get("awards", ()) for key in award} == {"name"}


def test_hits_are_a_sequence_that_reads_well(engine: Engine, corpus: Corpus) -> None:
    hits = corpus.search(engine, Query("robot").semantic("c").limit(3))
    assert len(hits) == 3
    assert list(hits) == [hits[0], hits[1], hits[2]]
    assert hits[:2] == (hits[0], hits[1])
    assert repr(hits).startswith("<3 Hits of 3, ")
    assert repr(hits[0]) == f"<Hit {hits[0].id!r} {hits[0].score:.4f} {hits[0].passages[0].text}>"
    assert hits[0].to_dict()["passages"][0]["start"] == hits[0].passages[0].start
    assert hits.took_ms >= 0


@pytest.mark.feature("Sync and async")
def test_async_gives_equal_hits(engine: Engine, engine_url: str, corpus: Corpus) -> None:
    queries = [
        Query("robot").semantic("c").limit(5),
        Query("robot").semantic("v", weight=0.7).lexical("plot", weight=0.3).highlight("plot"),
        Query().semantic("v").like("d001"),
        Query().where_lookup("studios", F.country == "US"),
    ]

    async def ask() -> list[Hits]:
        opened = await_engine = open_async_engine(engine_url, Access())
        try:
            return [await await_engine.run(search(corpus.plan(opened, query))) for query in queries]
        finally:
            await opened.close()

    for one, query in zip(asyncio.run(ask()), queries, strict=True):
        assert one.hits == corpus.search(engine, query).hits
