"""The steps after retrieval by themselves: their formulas, cross-encoders, and work that a flow does in a thread."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from query_corpus import RESOLVED, encode, spec
from tiny import tiny_model, write_json

from knnex.encoders.reranker import Reranker, load_reranker
from knnex.engines import Flow, Request, Response, Work, adrive, drive
from knnex.engines.opensearch import OpenSearch
from knnex.errors import ModelUnavailable
from knnex.mappings import Stored
from knnex.query import F, Hit, Query, plan
from knnex.query.after import boosts, least, wanted
from knnex.query.after.diversify import mmr, relevance
from knnex.query.hits import without
from knnex.query.parts import Boost

SEEDED = settings(derandomize=True, max_examples=300, deadline=None)
NOW = datetime(2024, 5, 1, tzinfo=UTC)
STORED = Stored("i", spec("i", "s"), RESOLVED)


def likeness(a: Sequence[int] | None, b: Sequence[int] | None, metric: str) -> float:
    """How like two vectors are, by the definition."""
    if a is None or b is None:
        return 0.0
    if metric == "l2":
        return 1 / (1 + sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    lengths = [sum(x * x for x in one) ** 0.5 for one in (a, b)]
    if 0 in lengths:
        return 0.0
    return max(0.0, sum(x * y for x, y in zip(a, b, strict=True)) / lengths[0] / lengths[1])


rows = st.lists(st.integers(-3, 3), min_size=3, max_size=3)


@SEEDED
@given(
    st.lists(st.tuples(st.integers(0, 8), st.none() | rows), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
    st.sampled_from(["cosine", "dot_product", "l2", "max_inner_product"]),
    st.integers(1, 14),
)
def test_the_greedy_choice_is_the_definitions(
    hits: list[tuple[int, list[int] | None]], balance: float, metric: str, count: int
) -> None:
    scores = np.array([score / 8 for score, _ in hits])
    vectors = [row for _, row in hits]
    order = mmr(
        scores, [None if row is None else np.array(row, dtype=float) for row in vectors], metric, balance, count
    )
    assert sorted(order) == list(range(len(hits)))
    chosen, rest = order[:count], order[count:]
    assert rest == sorted(rest)

    def gain(one: int, before: Sequence[int]) -> float:
        nearest = max((likeness(vectors[one], vectors[other], metric) for other in before), default=0.0)
        return balance * scores[one] - (1 - balance) * nearest

    for place, one in enumerate(chosen):
        before = chosen[:place]
        gains = {other: gain(other, before) for other in range(len(hits)) if other not in before}
        assert gains[one] >= max(gains.values()) - 1.1e-6
        # Of equals the one that was better before.
        assert all(other >= one for other, value in gains.items() if abs(value - gains[one]) < 1e-12)


def test_a_duplicate_waits_until_all_else_was_shown() -> None:
    same, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert mmr(np.array([1.0, 0.99, 0.5]), [same, same, other], "cosine", 0.5, 3) == [0, 2, 1]
    assert mmr(np.array([1.0, 0.99, 0.5]), [same, same, other], "cosine", 0.99, 3) == [0, 1, 2]
    assert mmr(np.array([1.0, 0.99, 0.5]), [same, same, None], "l2", 0.5, 3) == [0, 2, 1]


def test_relevance_is_that_of_the_reranker_where_there_is_one() -> None:
    plain = [Hit("a", 3.0), Hit("b", 2.0), Hit("c", 1.0)]
    assert relevance(plain).tolist() == [1, 0.5, 0]
    assert relevance([Hit("a", 2.0), Hit("b", 2.0)]).tolist() == [1, 1]
    scored = [Hit("a", 1.0, parts={"rerank": -1.0}), Hit("b", 2.0, parts={"rerank": -3.0}), Hit("c", 9.0)]
    assert relevance(scored).tolist() == [1, 0, 0]


def test_a_boost_raises_scores_below_zero_too() -> None:
    hits = [Hit("a", 1.0), Hit("b", -1.0), Hit("c", -1.0), Hit("d", 0.0)]
    held = {"seen": {"a": (5,), "c": (5,), "d": (500,)}}
    found = boosts.boosted(hits, [("popularity", Boost("popularity", "seen", 1.0, 5.0))], held, NOW)
    assert [(hit.id, round(hit.score, 3)) for hit in found] == [("a", 1.5), ("d", 0.0), ("c", -0.667), ("b", -1.0)]


def test_without_any_popularity_nothing_moves_and_below_zero_is_zero() -> None:
    hits = [Hit("b", 1.0), Hit("a", 1.0)]
    for held in ({"seen": {}}, {"seen": {"a": (0,), "b": (-3,)}}):
        found = boosts.boosted(hits, [("popularity", Boost("popularity", "seen"))], held, NOW)
        assert [(hit.id, hit.score) for hit in found] == [("a", 1.0), ("b", 1.0)]


def test_the_newest_of_several_dates_counts() -> None:
    days = [(NOW - timedelta(days=age)).timestamp() * 1000 for age in (40, 10, 99)]
    boost = Boost("freshness", "day", 1.0, 10.0)
    (found,) = boosts.boosted([Hit("a", 2.0)], [("freshness", boost)], {"day": {"a": tuple(days)}}, NOW)
    assert found.score == pytest.approx(2 * 1.5)
    assert found.parts == {"freshness": pytest.approx(1.5)}


def test_how_many_candidates_are_needed() -> None:
    near = Query("a").semantic("v")
    assert not wanted(near.where(F.year > 1).limit(3))
    assert least(near.limit(3)) == 3
    for query in (near.popularity("x"), near.keep(bool), near.collapse("x"), near.rerank(len), near.diversify()):  # type: ignore[arg-type]
        assert wanted(query)
    assert least(near.popularity("rating")) == 50
    assert least(near.popularity("rating").limit(40)) == 120
    assert least(near.popularity("rating").fuse(window=20)) == 20
    assert least(near.diversify(top=300)) == 300
    assert least(near.collapse("studio")) == 200
    assert least(near.collapse("studio").fuse(window=60)) == 60
    assert least(near.collapse("studio").rerank("m", top=9_000)) == 10_000


def test_values_are_asked_for_by_name_and_dates_in_milliseconds() -> None:
    query = Query("a").semantic("v").popularity("rating").freshness("released", half_life=1).collapse("rating")
    made = plan(query, STORED, OpenSearch((3, 6, 0)), encode)
    from knnex.query.after import values

    body: Any = values.request(made, ["a", "b"]).body
    assert body["docvalue_fields"] == [{"field": "rating"}, {"field": "released", "format": "epoch_millis"}]
    assert body["size"] == 2
    assert body["_source"] is False


def test_hidden_fields_are_taken_out_by_their_path() -> None:
    source = {"a": 1, "b": {"c": 1, "d": 2}, "e": [{"f": 1}, {"f": 2, "g": 3}], "x.y": 1}
    assert without(source, "a") == {"b": {"c": 1, "d": 2}, "e": [{"f": 1}, {"f": 2, "g": 3}], "x.y": 1}
    assert without(source, "b.c")["b"] == {"d": 2}
    assert "b" not in without(without(source, "b.c"), "b.d")
    assert without(source, "e.f")["e"] == [{"g": 3}]
    assert "x.y" not in without(source, "x.y")
    assert without(source, "nothing.here") == source
    assert source["b"] == {"c": 1, "d": 2}


@pytest.fixture
def cross(tmp_path: Path) -> Path:
    return cross_encoder(tmp_path)


def cross_encoder(folder: Path, labels: int = 1) -> Path:
    """A cross-encoder of two layers and random weights, saved as transformers saves it."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model(folder / "base"))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=48, num_labels=labels, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(labels)
    BertForSequenceClassification(config).save_pretrained(folder / "cross")
    tokenizer.save_pretrained(folder / "cross")
    return folder / "cross"


TEXTS = [
    "the cat sat on the mat",
    "a dog",
    "",
    "robot that longs to be human " * 40,
    "half \ud800",
    "cat",
    "robot",
    "log",
]


def test_scores_are_the_librarys(
    cross: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import CrossEncoder

    capfd.readouterr()
    with caplog.at_level(logging.INFO):
        model = load_reranker(str(cross))
        scores = model.score("a robot", TEXTS * 5)
    said = capfd.readouterr()
    assert said.out == said.err == ""
    assert not caplog.records
    assert scores.shape == (40,)
    assert len(set(scores.round(6).tolist())) == len(TEXTS)
    theirs = CrossEncoder(str(cross), device="cpu", local_files_only=True)
    expected = theirs.predict(
        [("a robot", text.replace("\ud800", "\ufffd")) for text in TEXTS], show_progress_bar=False
    )
    np.testing.assert_allclose(scores, np.tile(expected, 5), atol=1e-5)
    assert model.score("a robot", []).shape == (0,)
    assert load_reranker(str(cross)) is model


def test_one_that_the_library_saved_is_the_same(cross: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(cross), device="cpu", local_files_only=True).save(str(tmp_path / "saved"))
    saved = Reranker(tmp_path / "saved", "saved", "cpu")
    np.testing.assert_allclose(
        saved.score("cat", TEXTS), Reranker(cross, "cross", "cpu").score("cat", TEXTS), atol=1e-6
    )


def test_a_name_may_be_mapped_to_a_folder(cross: Path, fresh_settings: pytest.MonkeyPatch) -> None:
    fresh_settings.setenv("KNNEX_MODELS", f'{{"ours": "{cross}"}}')
    assert load_reranker("ours") is load_reranker(str(cross))


def refused(folder: Path) -> ModelUnavailable:
    with pytest.raises(ModelUnavailable) as caught:
        load_reranker(str(folder))
    assert str(folder) in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_another_kind_of_model_is_refused_for_its_scores_would_be_random(tmp_path: Path) -> None:
    assert "no cross-encoder: it is saved as SentenceTransformer" in str(refused(tiny_model(tmp_path)))


def test_a_bare_language_model_is_refused(cross: Path) -> None:
    write_json(cross / "config.json", lambda config: config | {"architectures": ["BertModel"]})
    assert "no cross-encoder: it is saved as BertModel" in str(refused(cross))


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path) -> None:
    assert "gives 3 numbers for a text and not one score" in str(refused(cross_encoder(tmp_path, labels=3)))


def test_code_and_pickles_are_refused(cross: Path, tmp_path: Path) -> None:
    shutil.copytree(cross, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    assert "pickle" in str(refused(tmp_path / "pickled"))
    write_json(cross / "config.json", lambda config: config | {"auto_map": {"AutoModel": "modeling_evil.Model"}})
    assert "modeling_evil.Model" in str(refused(cross))


def test_a_damaged_model_is_refused(cross: Path) -> None:
    (cross / "model.safetensors").write_bytes(b"nothing")
    assert "cannot be loaded" in str(refused(cross))


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert "no such directory" in str(refused(tmp_path / "nowhere"))


def flow(work: Any) -> Flow[tuple[Any, Any]]:
    computed = (yield Work(work)).body
    response = yield Request("GET", "/")
    return computed, response.body


def test_work_is_done_here_and_requests_are_sent() -> None:
    sent: list[Request] = []

    def send(request: Request) -> Response:
        sent.append(request)
        return Response(200, "answer")

    assert drive(flow(threading.get_ident), send) == (threading.get_ident(), "answer")
    assert sent == [Request("GET", "/")]


def test_async_work_is_done_in_a_thread() -> None:
    async def send(request: Request) -> Response:
        return Response(200, "answer")

    thread, answer = asyncio.run(adrive(flow(threading.get_ident), send))
    assert thread != threading.get_ident()
    assert answer == "answer"


def test_what_work_raises_is_raised_inside_the_flow() -> None:
    def failing() -> None:
        raise ValueError("no")

    def patient() -> Iterator[Any]:
        try:
            yield Work(failing)
        except ValueError as error:
            return str(error)

    async def asend(request: Request) -> Response:
        raise AssertionError(request)

    def send(request: Request) -> Response:
        raise AssertionError(request)

    assert drive(patient(), send) == "no"  # type: ignore[arg-type]
    assert asyncio.run(adrive(patient(), asend)) == "no"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no"):
        drive(flow(failing), send)
