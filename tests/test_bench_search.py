"""What the benchmarks of searching measure is right: a slice of each, whose times nobody looks at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knnex.encoders import VectorCache, query_vectors
from knnex.engines import Engine
from knnex.evaluation import Judgments

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import relevance
import search_corpus as corpus
import search_overhead
import search_recall
import search_text

WORDS = ("cat", "dog", "robot", "mat", "log", "human")
TEXTS = ["the cat sat on the mat", "a robot that longs to be human", "a dog"]


@pytest.fixture(scope="module")
def films() -> list[corpus.Film]:
    """Sixty, of which every tenth is in the share that a filter lets through."""
    return [
        {
            "id": str(number),
            "title": " ".join(WORDS[int(digit) % 6] for digit in str(1_003 * (number + 1))),
            "overview": f"{WORDS[number % 6]} on the {WORDS[number // 6 % 6]}",
            "actors": [WORDS[number % 6]],
            "year": 1960 + number,
            "share": 0 if number % 10 == 0 else 50,
        }
        for number in range(60)
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> VectorCache:
    return VectorCache(tmp_path_factory.mktemp("cache") / "vectors.sqlite")


def test_each_way_of_a_vector_search_asks_the_same(
    engine: Engine, films: list[corpus.Film], tiny: Path, cache: VectorCache
) -> None:
    with corpus.filled(engine, films, str(tiny), cache) as stored:
        rows = query_vectors(stored, corpus.EMBEDDING, TEXTS)
        found = search_overhead.measure(engine, stored, rows, rounds=2, per_round=3, warm=2)
        every = search_overhead.ways(engine, stored)
        assert set(every) == {"knnex", "official", "urllib3 and orjson"}
        assert found["queries"] == 6
        assert all(found[name]["p5 ms"] <= found[name]["p50 ms"] <= found[name]["p95 ms"] for name in every)
        ratio = found["p50 knnex / official"]
        assert 0 < ratio["least"] <= ratio["median"] <= ratio["most"]
        assert "official" in search_overhead.table(found)
        wrong = {**every, "wrong": lambda vector: every["knnex"]([-value for value in vector])}
        with pytest.raises(RuntimeError, match="wrong finds other documents"):
            search_overhead.agree(wrong, rows.tolist())


def test_recall_is_that_of_exact_search(
    engine: Engine, films: list[corpus.Film], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_recall, "K", 3)
    sweep = (("none", 60, None), ("int8", 60, 4.0))
    with search_recall.options(engine, films, str(tiny), sweep) as (held, every, rows_of):
        rows = rows_of(TEXTS)
        ours = ["none, 60 candidates", "int8, 60 candidates, oversample 4"]
        assert {search_recall.DEFAULT, *ours, "none, 60, tombstones not filtered"} <= {one.name for one in every}
        assert held.rows.shape == (60, 32)
        allowed = search_recall._allowed(held, films, 10)
        assert {one for one, there in zip(held.ids, allowed, strict=True) if there} == {
            "0",
            "10",
            "20",
            "30",
            "40",
            "50",
        }
        kth, scores = held.best(rows, 3, allowed)
        times, found = search_recall._ask(engine, every, rows, 10, 1)
        for name, ranked in found.items():
            assert all(int(one) % 10 == 0 for ids in ranked for one in ids)
            figures = search_recall._figures(times, name, ranked, kth, scores, 0.98)
            assert figures["recall"] == 1.0
        assert len(times[search_recall.DEFAULT]) == 1


def test_the_table_of_recall_names_the_best(
    engine: Engine, films: list[corpus.Film], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_recall, "K", 3)
    monkeypatch.setattr(search_recall, "SWEEP", {engine.dialect.product: (("none", 60, None),)})
    found = search_recall.measure(engine, films, TEXTS, str(tiny), rounds=1)
    assert found["best"]["all of them"]["way"] == "none, 60 candidates"
    assert "the best of ours, all of them let through: none, 60 candidates" in search_recall.table(found)


def test_the_best_way_is_the_fastest_of_those_that_find_enough() -> None:
    def figures(right: bool, latency: float) -> dict[str, Any]:
        return {"right": right, "latency / reference": {"median": latency}}

    ways = {"a": (True, 1.2), "b": (True, 1.1), "c": (False, 0.5)}
    all_, tenth, hundredth = ({name: figures(*one) for name, one in ways.items()} for _ in range(3))
    tenth["b"] = figures(True, 1.4)
    hundredth = {name: figures(False, 1.0) for name in ways}
    found = search_recall.best({"100 %": all_, "10 %": tenth, "1 %": hundredth}, list(ways))
    assert found == {
        "100 %": {"way": "b", "latency / reference": 1.1},
        "10 %": {"way": "a", "latency / reference": 1.2},
        "1 %": None,
        "all of them": None,
    }


def test_what_scores_like_the_last_one_is_as_right() -> None:
    scores = {"a": 0.9, "b": 0.8, "c": 0.8 - 1e-7, "d": 0.5}
    assert search_recall.right(["a", "c"], scores, 0.8) == 2 / search_recall.K
    assert search_recall.right(["a", "d"], scores, 0.8) == 1 / search_recall.K


def test_the_parts_of_a_question_in_words_are_all_of_it(
    engine: Engine, films: list[corpus.Film], tiny: Path, cache: VectorCache
) -> None:
    with corpus.filled(engine, films, str(tiny), cache) as stored:
        spent = search_text._once(engine, stored, TEXTS[0])
        assert set(spent) == set(search_text.PARTS)
        assert all(seconds >= 0 for seconds in spent.values())
        assert spent["encode"] > 0
        found = search_text.measure(engine, stored, TEXTS, warm=1)
        assert found["queries"] == 3
        assert sum(found[part]["share"] for part in search_text.PARTS) == pytest.approx(1, abs=0.01)
        assert "transport" in search_text.table(found)


def test_relevance_is_the_same_on_every_engine(
    engine: Engine, films: list[corpus.Film], tiny: Path, cache: VectorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rankings of exact vectors and of words, held against those of the same data by hand and in memory."""
    queries = {str(number): text for number, text in enumerate(TEXTS)}
    judgments = Judgments(queries, {name: {"0": 1.0, "12": 1.0, "33": 0.0} for name in queries})
    with corpus.filled(engine, films, str(tiny), cache) as stored:
        rows, held = query_vectors(stored, corpus.EMBEDDING, TEXTS), corpus.held(engine, stored)
        ranked = relevance.rank(engine, stored, TEXTS, rows, relevance.WAYS["kNN"])
        kth, scores = held.best(rows, 10)
        for ids, one, least in zip(ranked, scores, kth, strict=True):
            assert all(one[id_] >= least - 1e-5 for id_ in ids[:10])
        words = relevance.rank(engine, stored, TEXTS, rows, relevance.WAYS["BM25"])
        assert all("dog" in films[int(one)]["title"] + films[int(one)]["overview"] for one in words[2])
        figures = relevance.figures(words, judgments)
        assert 0 <= figures["nDCG@10"] <= figures["condensed"] <= 1
    result: Any = {"one": dict.fromkeys(relevance.WAYS, figures), "two": dict.fromkeys(relevance.WAYS, figures)}
    assert relevance.apart(result, "BM25") == 0
    assert "judged" in relevance.table(result)


def test_figures_of_rankings_are_what_they_are_by_hand() -> None:
    judgments = Judgments({"q": "a question"}, {"q": {"right": 1.0, "wrong": 0.0}})
    found = relevance.figures([["unseen", "right", "wrong"]], judgments)
    assert found == {
        "nDCG@10": pytest.approx(1 / np.log2(3), abs=1e-4),
        "condensed": 1.0,
        "recall@100": 1.0,
        "judged": pytest.approx(2 / 3, abs=1e-4),
    }


def test_every_so_manieth_query_is_taken_by_its_id() -> None:
    names = ["qid:9", "qid:10", "qid:1", "qid:2"]
    judgments = Judgments({name: name for name in names}, {name: {"1": 1.0} for name in names})
    assert list(corpus.every(judgments, 2).queries) == ["qid:1", "qid:2"]
