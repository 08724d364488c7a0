"""The vectors of queries: kept in memory, encoded together where many ask at once, and only of the index's own model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from homes import until
from tiny import TEXTS, tiny_model

from knnex import Cluster, Query, connect, load_spec
from knnex.encoders import QueryCache, TextEncoder, Vectors, encode_queries, query_cache, query_vectors, resolve
from knnex.encoders.model import LoadedModel
from knnex.encoders.together import MOST, Together
from knnex.errors import BadVector, EncoderError, ModelMismatch, ModelUnavailable
from knnex.mappings import Stored
from knnex.settings import settings

NAME = "acme/words"


class Calls:
    """What the model is asked, call by call; the first call is held until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, hold: bool = False) -> None:
        self.texts: list[list[str]] = []
        self.began, self.release = threading.Event(), threading.Event()
        if not hold:
            self.release.set()
        encode = LoadedModel.encode

        def counted(model: LoadedModel, texts: Sequence[str], *rest: Any) -> Any:
            self.texts.append(list(texts))
            self.began.set()
            assert self.release.wait(60)
            return encode(model, texts, *rest)

        monkeypatch.setattr(LoadedModel, "encode", counted)


@pytest.fixture
def held(fresh_settings: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An empty cache, of the size that the settings say; and models loaded for this test alone."""
    fresh_settings.setattr("knnex.encoders.registry._loaded", {})
    query_cache.cache_clear()
    yield fresh_settings
    query_cache.cache_clear()


def stored(model: str, **embedding: Any) -> Stored:
    """An index as the cluster would hold it, filled by this model."""
    declared = {"source": "{title}", "encoder": model, **embedding}
    spec = load_spec({"index": "words", "fields": {"title": {"type": "text"}}, "embeddings": {"v": declared}})
    return Stored("words-000001", spec, resolve(spec))


def row(number: int) -> Vectors:
    return np.full(3, number, dtype=np.float32)


# ---- the cache ----


def test_those_not_asked_for_longest_go_first() -> None:
    cache = QueryCache(3)
    keys = [bytes([number]) for number in range(5)]
    cache.put_many({key: row(number) for number, key in enumerate(keys[:3])})
    assert cache.get_many([keys[0]])[keys[0]].tolist() == [0, 0, 0]
    cache.put_many({keys[3]: row(3)})
    assert (len(cache), list(cache.get_many(keys))) == (3, [keys[0], keys[2], keys[3]])
    cache.put_many({key: row(9) for key in keys})
    assert (len(cache), cache.hits, cache.misses) == (3, 4, 2)
    assert repr(cache) == "QueryCache(3, held=3, hits=4, misses=2)"


def test_what_is_kept_is_a_copy_that_nobody_can_write_to() -> None:
    cache, matrix = QueryCache(2), np.ones((2, 3), dtype=np.float32)
    cache.put_many({b"k": matrix[0]})
    matrix[:] = 5
    found = cache.get_many([b"k"])[b"k"]
    assert (found.tolist(), found.base) == ([1, 1, 1], None)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 7


def test_threads_share_the_cache() -> None:
    cache = QueryCache(50)

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 100, 2000).tolist():
            found = cache.get_many([bytes([number])])
            assert all(vector[0] == number for vector in found.values())
            cache.put_many({bytes([number]): row(number)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert (len(cache), cache.hits + cache.misses) == (50, 16_000)


def test_a_text_is_encoded_once(tiny: Path, held: pytest.MonkeyPatch) -> None:
    index = stored(str(tiny))
    calls = Calls(held)
    first = query_vectors(index, "v", ["cat", "dog", "cat"])
    again = query_vectors(index, "v", ["dog", "robot"])
    assert calls.texts == [["cat", "dog"], ["robot"]]
    assert (query_cache().hits, query_cache().misses, len(query_cache())) == (1, 3, 3)
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(first[1], again[0])
    again[:] = 0
    assert np.array_equal(query_vectors(index, "v", ["dog"])[0], first[1]), "what is given away is the caller's"


def test_the_cache_is_as_large_as_the_settings_say(tiny: Path, held: pytest.MonkeyPatch) -> None:
    held.setenv("KNNEX_QUERY_CACHE", "2")
    index = stored(str(tiny))
    query_vectors(index, "v", ["cat", "dog", "robot"])
    assert len(query_cache()) == 2


def test_a_cache_of_nothing_is_off(tiny: Path, held: pytest.MonkeyPatch) -> None:
    held.setenv("KNNEX_QUERY_CACHE", "0")
    index, calls = stored(str(tiny)), Calls(held)
    assert np.array_equal(query_vectors(index, "v", ["cat"]), query_vectors(index, "v", ["cat"]))
    assert (calls.texts, len(query_cache())) == ([["cat"], ["cat"]], 0)


def test_no_vector_outlives_its_model_or_its_prompt(tmp_path: Path, held: pytest.MonkeyPatch) -> None:
    """One name, other weights: what was encoded before is of no use, and is not used."""
    found: list[Vectors] = []
    for seed in (0, 1):
        model = tiny_model(tmp_path / str(seed), seed=seed)
        held.setenv("KNNEX_MODELS", json.dumps({NAME: str(model)}))
        held.setattr("knnex.encoders.registry._loaded", {})
        settings.cache_clear()
        for prompt in (None, "query : "):
            alone = TextEncoder(str(model), query_prompt=prompt).encode_queries(TEXTS)
            found.append(query_vectors(stored(NAME, query_prompt=prompt), "v", TEXTS))
            assert np.abs(found[-1] - alone).max() < 1e-5
    assert (len(query_cache()), query_cache().hits) == (4 * len(TEXTS), 0)
    assert min(np.abs(one - other).max() for row_, one in enumerate(found) for other in found[:row_]) > 1e-3


def test_a_dot_product_is_of_unit_vectors(tmp_path: Path, held: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(tiny_model(tmp_path)), device="cpu")
    SentenceTransformer(modules=[library[0], library[1]], device="cpu").save(str(tmp_path / "long"))
    index = stored(str(tmp_path / "long"), similarity="dot_product")
    for _ in range(2):  # from the model and from the cache
        assert np.abs(np.linalg.norm(query_vectors(index, "v", ["cat", "dog"]), axis=1) - 1).max() < 1e-6
    longer = query_vectors(stored(str(tmp_path / "long"), similarity="l2"), "v", ["cat"])
    assert query_cache().misses == 2
    assert abs(np.linalg.norm(longer) - 1) > 0.1
    assert query_vectors(index, "v", []).shape == (0, 32)


def test_half_characters_and_very_long_texts(tiny: Path, held: pytest.MonkeyPatch) -> None:
    index, texts = stored(str(tiny)), ["cat \ud800", "cat " * 250_000, "\x00", ""]
    first = query_vectors(index, "v", texts)
    assert np.array_equal(query_vectors(index, "v", texts), first)
    assert query_cache().hits == 4


# ---- many at once ----


def ask_at_once(
    encoder: TextEncoder, calls: Calls, questions: Sequence[Any], ask: Callable[[Any], Vectors] | None = None
) -> list[Future[Vectors]]:
    """All questions from threads of their own: the first is being encoded while the others come."""
    waiting = encoder._queries._waiting
    with ThreadPoolExecutor(len(questions)) as pool:
        futures = [pool.submit(ask or encoder.encode_queries, questions[0])]
        assert calls.began.wait(60)
        for number, question in enumerate(questions[1:], 1):
            futures.append(pool.submit(ask or encoder.encode_queries, question))
            until(lambda number=number: len(waiting) == number)  # type: ignore[misc]
        calls.release.set()
    return futures


def test_who_asks_meanwhile_shares_the_next_call(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(str(tiny))
    questions = [[f"cat {'sat ' * number}"] for number in range(32)]
    alone = [encoder.encode_queries(question) for question in questions]
    calls = Calls(monkeypatch, hold=True)
    answers = [future.result() for future in ask_at_once(encoder, calls, questions)]
    assert [len(texts) for texts in calls.texts] == [1, 31]
    assert max(np.abs(one - other).max() for one, other in zip(answers, alone, strict=True)) < 1e-5


def test_a_call_is_bounded_and_holds_a_text_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(str(tiny))
    questions = [["first"], *([f"{number} {half}" for half in range(25)] for number in range(6)), ["cat"], ["cat"]]
    calls = Calls(monkeypatch, hold=True)
    answers = ask_at_once(encoder, calls, questions)
    assert [len(texts) for texts in calls.texts] == [1, 50, 50, 51]
    assert max(map(len, calls.texts)) <= MOST
    assert [len(future.result()) for future in answers] == [1, *[25] * 6, 1, 1]
    assert np.array_equal(answers[-1].result(), answers[-2].result())


def test_who_is_alone_waits_for_nobody(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = TextEncoder(str(tiny)), Calls(monkeypatch)
    for text in ("cat", "dog", "cat"):
        encoder.encode_queries([text])
    assert calls.texts == [["cat"], ["dog"], ["cat"]]
    long = [f"cat {number}" for number in range(3 * MOST)]
    assert len(encoder.encode_queries(long)) == 3 * MOST
    assert len(calls.texts) == 4


def test_a_bad_text_fails_for_who_sent_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = TextEncoder(str(tiny)), Calls(monkeypatch, hold=True)
    answers = ask_at_once(encoder, calls, [["the"], ["cat"], ["dog", 5], ["robot"]])
    for future, text in zip(answers, ("the", "cat", None, "robot"), strict=True):
        if text is None:
            with pytest.raises(EncoderError, match="input 1 is no text but int"):
                future.result()
        else:
            assert np.abs(future.result() - encoder.encode_queries([text])).max() < 1e-5


def test_a_model_that_is_gone_is_not_asked_again_for_each(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = TextEncoder(str(tiny)), Calls(monkeypatch, hold=True)
    encode = LoadedModel.encode

    def gone(model: LoadedModel, texts: Sequence[str], *rest: Any) -> Any:
        encode(model, texts, *rest)
        raise ModelUnavailable("no answer")

    monkeypatch.setattr(LoadedModel, "encode", gone)
    answers = ask_at_once(encoder, calls, [["cat"]] * 9)
    assert [str(future.exception()) for future in answers] == ["no answer"] * 9
    assert len(calls.texts) == 2


def test_a_vector_that_no_engine_may_hold_fails_for_its_text(tiny: Path, held: pytest.MonkeyPatch) -> None:
    encode = LoadedModel.encode

    def broken(model: LoadedModel, texts: Sequence[str], *rest: Any) -> Any:
        vectors = encode(model, texts, *rest)
        vectors[[text == "dog" for text in texts]] = np.nan
        return vectors

    encoder, calls = TextEncoder(str(tiny)), Calls(held, hold=True)
    counted = LoadedModel.encode
    held.setattr(LoadedModel, "encode", lambda model, texts, *rest: (counted(model, texts, *rest), broken(model, texts, *rest))[1])  # fmt: skip
    answers = ask_at_once(
        encoder, calls, [["the"], ["cat"], ["dog"]], lambda texts: encode_queries(encoder, None, texts)
    )
    assert [type(future.exception()) for future in answers] == [type(None), type(None), BadVector]
    assert len(query_cache()) == 2, "and is not kept"


def test_who_is_interrupted_leaves_nobody_waiting() -> None:
    began, go = threading.Event(), threading.Event()

    def encode(texts: Sequence[str]) -> Vectors:
        if not began.is_set():
            began.set()
            assert go.wait(60)
            return np.ones((len(texts), 1), dtype=np.float32)
        if "stop" in texts and not done:
            done.append(True)
            raise KeyboardInterrupt
        return np.ones((len(texts), 1), dtype=np.float32)

    done: list[bool] = []
    together = Together(encode)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(together, ["first"])]
        assert began.wait(60)
        for number in range(1, 6):
            futures.append(pool.submit(together, ["stop" if number == 1 else "go"]))
            until(lambda number=number: len(together._waiting) == number)  # type: ignore[misc]
        go.set()
        failed = [future.exception(60) for future in futures]
    assert [type(error) for error in failed].count(KeyboardInterrupt) == 1
    assert together(["last"]).tolist() == [[1]]


@pytest.mark.parametrize("seed", range(3))
def test_everyone_gets_their_own_vectors(tiny: Path, held: pytest.MonkeyPatch, seed: int) -> None:
    """Random questions from many threads, some known and most not, through a cache that is too small."""
    held.setenv("KNNEX_QUERY_CACHE", "40")
    index = stored(str(tiny))
    texts = [f"{' '.join(TEXTS[number % 7].split()[: number % 11])} the {'s' * number}" for number in range(90)]
    alone = dict(zip(texts, TextEncoder(str(tiny)).encode_documents(texts), strict=True))

    def work(start: int) -> float:
        random = np.random.default_rng([seed, start])
        worst = 0.0
        for _ in range(25):
            some = random.choice(texts, random.integers(1, 9)).tolist()
            expected = np.stack([alone[text] for text in some])
            worst = max(worst, float(np.abs(query_vectors(index, "v", some) - expected).max()))
        return worst

    with ThreadPoolExecutor(16) as pool:
        assert max(pool.map(work, range(16))) < 1e-5


# ---- from a search ----


@pytest.fixture
def cluster(engine_url: str) -> Iterator[Cluster]:
    with connect(engine_url) as opened:
        yield opened


def words(name: str, model: str, **embedding: Any) -> dict[str, Any]:
    declared = {"source": "{title}", "encoder": model, **embedding}
    return {"index": name, "fields": {"title": {"type": "text"}}, "embeddings": {"v": declared}}


def test_a_search_asks_under_the_query_prompt(
    cluster: Cluster, engine_name: str, index_name: str, tiny: Path, held: pytest.MonkeyPatch
) -> None:
    index = cluster.create(words(index_name, str(tiny), query_prompt="query : ", document_prompt="passage : "))
    index.upsert({"id": "1", "title": "cat"}, inline=True)
    body = json.dumps(index.plan("cat").to_dict(), default=list)
    encoder = TextEncoder(str(tiny), query_prompt="query : ", document_prompt="passage : ")
    (asked,), (written,) = encoder.encode_queries(["cat"]), encoder.encode_documents(["cat"])
    sent = np.array(longest(json.loads(body)))
    assert np.abs(sent - asked).max() < 1e-5
    assert np.abs(sent - written).max() > 1e-3
    (hit,) = index.search(Query("cat").semantic("v"))
    assert hit.score == pytest.approx((1 + float(asked @ written)) / 2, abs=1e-4)


def longest(value: Any) -> list[float]:
    """The longest list of numbers somewhere in a body: the query's vector."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return []
    return value if value and isinstance(value[0], float) else max(map(longest, value), key=len, default=[])


def test_many_tasks_share_calls(
    cluster: Cluster, engine_url: str, index_name: str, tiny: Path, held: pytest.MonkeyPatch
) -> None:
    index = cluster.create(words(index_name, str(tiny)))
    index.upsert({"id": "1", "title": "cat"}, inline=True)
    questions = [f"cat {'sat ' * number}" for number in range(16)]
    calls = Calls(held)

    async def main() -> int:
        async with connect(engine_url, asynchronous=True) as opened:
            found = await asyncio.gather(*(opened.index(index_name).search(text) for text in questions * 4))
        return sum(len(hits) for hits in found)

    assert asyncio.run(main()) == 64
    asked = [text for texts in calls.texts for text in texts]
    assert sorted(set(asked)) == sorted(questions)
    assert query_cache().hits + query_cache().misses == 64


def test_an_index_of_another_model_is_not_asked(
    cluster: Cluster, engine_url: str, index_name: str, tmp_path: Path, held: pytest.MonkeyPatch
) -> None:
    """The name in the spec means other weights here than where the index was filled; a vector that is known is not used."""
    first, second = (tiny_model(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    held.setenv("KNNEX_MODELS", json.dumps({NAME: str(first)}))
    index = cluster.create(words(index_name, NAME))
    index.upsert({"id": "1", "title": "cat"}, inline=True)
    assert index.search("cat").ids == ("1",)
    theirs = index.stored.resolved["v"].fingerprint
    held.setenv("KNNEX_MODELS", json.dumps({NAME: str(second)}))
    held.setattr("knnex.encoders.registry._loaded", {})
    settings.cache_clear()
    ours = resolve(index.spec)["v"].fingerprint

    async def ask() -> None:
        async with connect(engine_url, asynchronous=True) as opened:
            await opened.index(index_name).search("cat")

    for search in (lambda: index.search("cat"), lambda: asyncio.run(ask())):
        with pytest.raises(ModelMismatch) as caught:
            search()
        assert {theirs, ours} <= set(str(caught.value).replace(";", " ").split())
        assert "KNNEX_MODELS" in str(caught.value.hint)
