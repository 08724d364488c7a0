"""What goes wrong while documents go in, and how it is told: poison, broken models, no worker, lost documents."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filling import draining, films, held, made, own_log

from knnex.encoders import VectorCache
from knnex.engines import Access, Engine, Request, open_engine, path_of
from knnex.errors import EncoderError, EngineUnreachable, IngestIncomplete, LogUnavailable, ModelMismatch
from knnex.ingest import (
    Patience,
    Progress,
    RedisLog,
    Target,
    ingest,
    ingest_inline,
    make_target,
)
from knnex.ingest.tally import Tally
from knnex.ingest.wait import Waiting
from knnex.mappings import Spec

FILMS: list[dict[str, Any]] = [
    {"id": 1, "title": "Solaris", "plot": "A planet that thinks.", "year": 1972},
    {"id": 2, "title": "Stalker", "plot": "A room that grants wishes.", "year": 1979},
    {"id": 3, "title": "Mirror", "year": 1975},
]


@pytest.fixture
def cache(tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path / "vectors.sqlite")


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 2)
    yield opened
    opened.forget(index_name)
    opened.close()


class Stumbling:
    """A real encoder that fails on texts with a certain word, as a model does on a poison document."""

    def __init__(self, encoder: Any, error: type[Exception], word: str = "poison") -> None:
        self._encoder, self._error, self._word = encoder, error, word

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: list[str]) -> Any:
        if any(self._word in text for text in texts):
            raise self._error("no more memory")
        return self._encoder.encode_documents(texts)


def stumbling(engine: Engine, spec: Spec, error: type[Exception], cache: VectorCache) -> Target:
    target = made(engine, spec, cache)
    broken = Stumbling(target.encoders["plot_vector"], error)
    return Target(target.alias, target.stored, {"plot_vector": broken}, cache)


def poisoned() -> list[dict[str, Any]]:
    return [{"id": str(n), "title": "poison" if n in (5, 11) else f"film {n}"} for n in range(20)]


def out_of_gpu_memory() -> type[Exception]:
    import torch

    return torch.OutOfMemoryError


@pytest.mark.parametrize("error", [MemoryError, out_of_gpu_memory, ValueError], ids=["memory", "gpu", "value"])
def test_a_poison_document_is_buried_and_its_neighbours_go_in(
    engine: Engine, index_name: str, minilm: str, cache: VectorCache, error: Any
) -> None:
    raised = error() if error is out_of_gpu_memory else error
    target = stumbling(engine, films(index_name, minilm), raised, cache)
    report = ingest_inline(engine, target, poisoned())
    assert [one.id for one in report.buried] == ["11", "5"]
    assert all(f"failed: {raised.__name__}: no more memory" in one.reason for one in report.buried)
    assert (report.in_index, report.encoded) == (18, 18)
    assert sorted(held(engine, index_name), key=int) == [str(n) for n in range(20) if n not in (5, 11)]


def test_many_poison_documents_are_no_fault_of_a_model_that_does_others(
    engine: Engine, index_name: str, minilm: str, cache: VectorCache
) -> None:
    target = stumbling(engine, films(index_name, minilm), RuntimeError, cache)
    documents = [{"id": n, "title": f"poison {n}" if n < 9 else f"film {n}"} for n in range(20)]
    for encoded in (11, 0):  # the second time the others are in the cache
        report = ingest_inline(engine, target, documents)
        assert (len(report.buried), report.in_index, report.encoded) == (9, 11, encoded)


@pytest.mark.parametrize("count", [1, 3])
def test_a_model_that_encodes_not_even_a_word_buries_nothing(
    engine: Engine, index_name: str, minilm: str, cache: VectorCache, count: int
) -> None:
    target = made(engine, films(index_name, minilm), cache)
    broken = Stumbling(target.encoders["plot_vector"], RuntimeError, word="")
    target = Target(target.alias, target.stored, {"plot_vector": broken}, cache)
    with pytest.raises(EncoderError, match=f"no document of {count} could be encoded"):
        ingest_inline(engine, target, [{"id": n, "title": f"film {n}"} for n in range(count)])


def test_a_document_whose_newest_form_is_refused_keeps_the_one_before(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, minilm)
    target = made(engine, spec, cache)
    forms = [
        {"id": 1, "title": "first"},
        {"id": 1, "title": "second"},
        {"id": 1, "title": "third", "year": "bad"},
        {"id": 2, "title": "other"},
    ]
    with draining(log, engine, cache=cache):
        told = [ingest(engine, spec, forms, log), ingest_inline(engine, target, forms)]
    for report in told:
        assert [one.id for one in report.buried] == ["1"]
        assert {id_: one["title"] for id_, one in held(engine, index_name).items()} == {"1": "second", "2": "other"}


def test_a_model_that_fails_on_everything_buries_nothing(
    engine: Engine, index_name: str, minilm: str, cache: VectorCache
) -> None:
    target = stumbling(engine, films(index_name, minilm), RuntimeError, cache)
    with pytest.raises(EncoderError, match="no document of 9 could be encoded"):
        ingest_inline(engine, target, [{"id": n, "title": f"poison {n}"} for n in range(9)])


def test_without_a_worker_it_says_so_and_loses_nothing(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    with pytest.raises(
        IngestIncomplete, match=r"3 documents for .* wait in the log, and no worker is running"
    ) as caught:
        ingest(engine, spec, FILMS, log, patience=0.1)
    assert "knnex worker" in str(caught.value.hint)
    with draining(log, engine, cache=cache):
        assert ingest(engine, spec, [], log).complete
        assert ingest(engine, spec, FILMS[:1], log).complete
    assert len(held(engine, index_name)) == 3


def test_an_index_that_workers_leave_alone_is_told_with_the_reason(
    engine: Engine, index_name: str, minilm: str, log: RedisLog
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    log.pause(index_name, "it was filled by another model")
    with pytest.raises(IngestIncomplete, match="leave them alone: it was filled by another model"):
        ingest(engine, spec, FILMS, log, patience=0.1)


def test_an_engine_that_takes_nothing_is_told_with_its_reason(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knnex.ingest.wait._BLOCKED", 0.2)
    spec = films(index_name, minilm)
    made(engine, spec)
    log.announce(index_name, {}, 60)
    log.rest(index_name, "429 flood-stage watermark", 60)
    with pytest.raises(IngestIncomplete, match="the engine does not take them: 429 flood-stage") as caught:
        ingest(engine, spec, FILMS, log, patience=0.1)
    assert "nothing is lost" in str(caught.value.hint)
    log.retire(index_name)


def test_reading_pauses_where_too_many_bytes_wait(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["knnex.ingest.ingest"], "MOST_WAITING_BYTES", 100_000)
    spec = films(index_name, minilm)
    made(engine, spec)
    read: list[int] = []

    def documents() -> Iterator[dict[str, Any]]:
        for number in range(2000):
            read.append(number)
            yield {"id": number, "title": "x" * 1000}

    with pytest.raises(IngestIncomplete, match="no worker is running"):
        ingest(engine, spec, documents(), log, patience=0.1)
    assert len(read) == 500


def test_a_server_that_is_started_again_is_waited_for(
    engine: Engine, engine_url: str, index_name: str, minilm: str, log: RedisLog, caplog: pytest.LogCaptureFixture
) -> None:
    tally = Tally(engine, films(index_name, minilm), None, None)
    addresses = ["http://127.0.0.1:1", "http://127.0.0.1:1", engine_url]
    waiting = Waiting(log, index_name, tally, patience=15)
    waiting.steadily(lambda: open_engine(addresses.pop(0), Access())).close()
    assert caplog.text.count("Waiting: no answer from http://127.0.0.1:1") == 1
    with pytest.raises(EngineUnreachable):
        Waiting(log, index_name, tally, patience=0.01).steadily(lambda: open_engine("http://127.0.0.1:1", Access()))


def test_an_unreachable_log_takes_nothing(engine: Engine, index_name: str, minilm: str) -> None:
    with pytest.raises(LogUnavailable, match="no answer from Redis"):
        ingest(engine, films(index_name, minilm), FILMS, RedisLog("redis://127.0.0.1:1/0"))


def test_documents_that_vanish_are_found_missing(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, minilm)
    stored = made(engine, spec).stored

    def vanish() -> Any:
        yield Request("DELETE", path_of(stored.index, "_doc", "2"), {"refresh": "true"})

    def progress(now: Progress) -> None:
        if now.done == 3 and "2" in held(engine, index_name):
            engine.run(vanish())

    with (
        draining(log, engine, cache=cache),
        pytest.raises(IngestIncomplete, match=r"1 of 3 accepted documents .*: 2\n"),
    ):
        ingest(engine, spec, FILMS, log, progress)


def test_an_engine_that_stays_blocked_is_told(engine: Engine, index_name: str, minilm: str, cache: VectorCache) -> None:
    target = made(engine, films(index_name, minilm), cache)

    def block() -> Any:
        yield Request("PUT", path_of(target.stored.index, "_block", "write"))

    engine.run(block())
    with pytest.raises(IngestIncomplete, match="3 documents could not be written"):
        ingest_inline(engine, target, FILMS, patience=Patience(attempts=2, first=0.01))


def test_another_model_than_the_indexs_is_refused(engine: Engine, index_name: str, minilm: str) -> None:
    target = made(engine, films(index_name, minilm))
    other = films(index_name, minilm, embedding={"document_prompt": "film: "})
    stored = type(target.stored)(target.stored.index, other, target.stored.resolved)
    with pytest.raises(ModelMismatch, match=f"{index_name}.plot_vector was filled under fingerprint"):
        make_target(index_name, stored)
