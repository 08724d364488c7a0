"""The change feed: documents that others write straight into an index get their vectors in place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from feeding import HASTY, Stranger, passed, wrong
from filling import FIELDS, draining, films, held, made, own_log

from knnex.encoders import resolve
from knnex.engines import Access, Engine, open_engine
from knnex.errors import EncoderError, EngineBusy, UnsupportedByEngine
from knnex.ingest import Event, RedisLog, Target, apply_events, make_target
from knnex.ingest.enrich import enrich, look_again, needed
from knnex.ingest.feed import Change, named, place_of
from knnex.ingest.feed_state import feed_state
from knnex.mappings import create, drop, index_body, load, load_spec


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 11)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture
def target(engine: Engine, index_name: str, tiny: Path) -> Target:
    return made(engine, films(index_name, str(tiny), settings={"number_of_shards": 3, "number_of_replicas": 0}))


@pytest.fixture
def stranger(engine: Engine, index_name: str) -> Stranger:
    return Stranger(engine, index_name)


def film(title: str, plot: str = "sat on the mat", **more: Any) -> dict[str, Any]:
    return {"title": title, "plot": plot, **more}


def ours(target: Target, id_: str, document: dict[str, Any], version: int, op: Any = "upsert") -> Event:
    return Event(target.alias, id_, op, {"id": id_, **document}, version)


def seen_now(engine: Engine, target: Target, *ids: str) -> list[Change]:
    return engine.run(named(target.stored.index, target.spec, ids))


@pytest.mark.feature("Vectors for what others write into an index")
def test_what_others_write_gets_its_vectors_and_nothing_else_of_it_changes(
    engine: Engine, target: Target, stranger: Stranger, log: RedisLog
) -> None:
    stranger.bulk((str(number), film(f"cat {number}", unknown={"a": [number, None]})) for number in range(40))
    Stranger(engine, target.stored.index).put("direct", film("robot", year=1999), refresh="true")
    report = passed(engine, log, target)
    assert (report.enriched, report.conflicts, report.buried, report.behind) == (41, 0, 0, 0)
    assert wrong(engine, target) == {}
    documents = held(engine, target.alias)
    assert len(documents) == 41
    for id_, document in documents.items():
        made_of = document.pop("_knnex")
        assert len(document.pop("plot_vector")) == 32
        assert made_of.keys() == {"vectors"}
        assert document == (
            film("robot", year=1999) if id_ == "direct" else film(f"cat {id_}", unknown={"a": [int(id_), None]})
        )
    # What was written here came by once more, within the same pass; and there is nothing left to be seen.
    assert (report.seen, report.unchanged) == (82, 41)
    assert passed(engine, log, target) == type(report)()
    assert log.counts(target.alias)["enriched"] == 41


def test_what_knnex_writes_is_let_pass(engine: Engine, target: Target, stranger: Stranger, log: RedisLog) -> None:
    apply_events(engine, target, [ours(target, str(number), film(f"dog {number}"), 7) for number in range(20)])
    apply_events(engine, target, [ours(target, "3", {}, 8, "delete"), ours(target, "empty", {"year": 1}, 8)])
    before = {id_: stranger.get(id_)["_seq_no"] for id_ in ("1", "3", "empty")}
    report = passed(engine, log, target)
    assert (report.seen, report.enriched, report.unchanged) == (20, 0, 20)
    assert {id_: stranger.get(id_)["_seq_no"] for id_ in before} == before


def test_a_changed_text_gets_another_vector_and_any_other_change_none(
    engine: Engine, target: Target, stranger: Stranger, log: RedisLog
) -> None:
    apply_events(engine, target, [ours(target, "1", film("cat", year=1), 7), ours(target, "2", film("dog"), 7)])
    stranger.change("1", {"title": "robot"})
    stranger.change("2", {"year": 5})
    assert wrong(engine, target).keys() == {"1"}
    assert passed(engine, log, target).enriched == 1
    assert wrong(engine, target) == {}
    assert held(engine, target.alias)["1"]["_knnex"]["version"] == 7
    # Later writes of knnex still win: the change was counted up from its version.
    assert apply_events(engine, target, [ours(target, "1", film("mat"), 1 << 20)]).written == 1


def test_a_vector_goes_with_its_text(engine: Engine, target: Target, stranger: Stranger, log: RedisLog) -> None:
    stranger.bulk([("1", film("cat")), ("2", film("dog"))])
    passed(engine, log, target)
    stranger.change("1", {"title": None, "plot": " "})
    assert passed(engine, log, target).enriched == 1
    assert stranger.count({"exists": {"field": "plot_vector"}}) == 1
    assert stranger.count({"match_all": {}}) == 2
    assert wrong(engine, target) == {}
    assert passed(engine, log, target).seen == 0


def test_a_document_that_was_read_without_its_vector_and_put_back_gets_it_again(
    engine: Engine, target: Target, stranger: Stranger, log: RedisLog
) -> None:
    apply_events(engine, target, [ours(target, "1", film("cat"), 7)])
    source = stranger.get("1")["_source"]
    source.pop("plot_vector", None)  # Elasticsearch 9.2 and later leave it out
    stranger.put("1", source)
    assert source["_knnex"]["vectors"]["plot_vector"]["input_hash"]
    assert stranger.count({"exists": {"field": "plot_vector"}}) == 0
    assert passed(engine, log, target).enriched == 1
    assert wrong(engine, target) == {}


def test_of_several_vectors_only_the_one_whose_text_changed_is_made_anew(
    engine: Engine, index_name: str, tiny: Path, stranger: Stranger, log: RedisLog
) -> None:
    vectors = {
        "plot_vector": {"source": ["plot"], "encoder": str(tiny)},
        "title_vector": {"source": ["title"], "encoder": str(tiny)},
        "passages": {"source": ["plot"], "encoder": str(tiny), "chunk": {"unit": "sentence", "max_tokens": 8, "overlap": 0}},
    }  # fmt: skip
    target = made(engine, load_spec({"index": index_name, "fields": FIELDS, "embeddings": vectors}))
    plot = "the cat sat on the mat. a dog sat on the log. a robot sat on the cat."
    stranger.put("1", film("robot", plot))
    assert (passed(engine, log, target).enriched, len(held(engine, index_name)["1"]["passages"])) == (1, 3)
    before = held(engine, index_name)["1"]
    stranger.change("1", {"title": "dog"})
    report = passed(engine, log, target)
    assert report.encoded + report.cached == 1
    after = held(engine, index_name)["1"]
    for name in ("plot_vector", "passages"):
        assert after[name] == before[name]
    assert after["title_vector"] != before["title_vector"]
    assert (wrong(engine, target), wrong(engine, target, "title_vector")) == ({}, {})
    chunks = {"nested": {"path": "passages", "query": {"exists": {"field": "passages.vector"}}}}
    assert (stranger.count(chunks), stranger.count({"exists": {"field": "title_vector"}})) == (1, 1)
    stranger.change("1", {"plot": None})
    assert passed(engine, log, target).enriched == 1
    assert (stranger.count(chunks), stranger.count({"exists": {"field": "title_vector"}})) == (0, 1)
    assert held(engine, index_name)["1"]["title_vector"] == after["title_vector"]
    assert passed(engine, log, target).seen == 0


def test_the_deleted_stay_so_and_what_others_make_anew_is_seen(
    engine: Engine, target: Target, stranger: Stranger, log: RedisLog
) -> None:
    apply_events(engine, target, [ours(target, str(number), film("cat"), 7) for number in range(4)])
    apply_events(engine, target, [ours(target, str(number), {}, 8, "delete") for number in (0, 1)])
    stranger.put("0", film("robot"))
    stranger.change("1", film("robot"))  # of a document that is deleted for knnex, and for a search
    stranger.delete("2")
    assert passed(engine, log, target).enriched == 1
    assert held(engine, target.alias).keys() == {"0", "3"}
    assert wrong(engine, target) == {}
    assert apply_events(engine, target, [ours(target, "1", film("late"), 6)]).stale == 1


def test_routing_is_kept_and_an_id_may_lie_in_two_shards(
    engine: Engine, target: Target, stranger: Stranger, log: RedisLog
) -> None:
    routings = [str(number) for number in range(12)]
    for routing in routings:
        stranger.put("same", film(f"cat {routing}"), routing=routing)
    count = stranger.count({"match_all": {}})
    assert count == 3
    assert passed(engine, log, target).enriched == count
    assert stranger.count({"exists": {"field": "plot_vector"}}) == stranger.count({"match_all": {}}) == count


def test_a_change_between_reading_and_writing_wins_and_a_delete_is_not_undone(
    engine: Engine, target: Target, stranger: Stranger, log: RedisLog
) -> None:
    stranger.bulk((str(number), film("cat")) for number in range(4))
    works = needed(target, seen_now(engine, target, "0", "1", "2", "3"))
    stranger.put("1", film("robot"))
    stranger.delete("2")
    stranger.delete("3")
    stranger.put("3", film("log"))
    done = enrich(engine, target, works, patience=HASTY)
    assert (done.enriched, done.conflicts, done.buried) == (1, 3, ())
    assert held(engine, target.alias).keys() == {"0", "1", "3"}
    assert passed(engine, log, target).enriched == 2
    assert wrong(engine, target) == {}


def test_a_document_that_cannot_be_enriched_is_buried_loses_its_old_vector_and_stops_no_other(
    engine: Engine, index_name: str, tiny: Path, stranger: Stranger, log: RedisLog
) -> None:
    fields = {"plot": {"type": "text"}, "about": {"type": "object", "enabled": False}}
    vector = {"plot_vector": {"source": ["about", "plot"], "encoder": str(tiny)}}
    target = made(engine, load_spec({"index": index_name, "fields": fields, "embeddings": vector}))
    stranger.bulk((str(number), {"about": f"cat {number}", "plot": "a dog"}) for number in range(5))
    assert passed(engine, log, target).enriched == 5
    stranger.change("2", {"about": {"an": "object"}})
    stranger.change("3", {"plot": "a log"})
    report = passed(engine, log, target)
    assert (report.enriched, report.buried, report.behind) == (1, 1, 0)
    assert stranger.count({"exists": {"field": "plot_vector"}}) == 4
    (buried,) = log.buried(index_name)
    assert (buried.id, "holds an object" in buried.reason) == ("2", True)
    assert passed(engine, log, target).seen == 0

    # A retry, whoever runs it, writes nothing of the document, not even if it is gone.
    before = stranger.get("2")
    assert log.retry_buried(index_name, [buried.position]) == 1
    with draining(log, engine):
        while log.backlog(index_name).total:
            pass
    assert stranger.get("2")["_source"] == before["_source"]
    log.drop_buried(index_name, log.burials(index_name))
    again = [replace(buried.event, position="1-1u")] if buried.event else []
    assert [one.reason for one in look_again(engine, target, again, patience=HASTY).buried] == [buried.reason]

    # What mends it ends its burial.
    log.settle(index_name, (), [buried])
    stranger.put("2", {"about": "a log"})
    assert look_again(engine, target, again, patience=HASTY).written == 1
    assert passed(engine, log, target).enriched == 0
    assert log.burials(index_name) == []
    assert stranger.count({"exists": {"field": "plot_vector"}}) == 5
    stranger.delete("2")
    assert look_again(engine, target, again, patience=HASTY).stale == 1
    assert stranger.get("2")["found"] is False


class Choosy:
    """The encoder of a target, which fails on some texts."""

    def __init__(self, encoder: Any, word: str) -> None:
        self._encoder, self._word = encoder, word

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: list[str]) -> Any:
        if any(self._word in text for text in texts):
            raise RuntimeError(f"no {self._word}, please")
        return self._encoder.encode_documents(texts)


def test_a_text_on_which_the_model_fails_is_buried_and_a_model_that_fails_on_all_stops_the_pass(
    engine: Engine, target: Target, stranger: Stranger, log: RedisLog
) -> None:
    stranger.bulk((str(number), film("cat" if number else "human")) for number in range(20))
    choosy = replace(target, cache=None, encoders={"plot_vector": Choosy(target.encoders["plot_vector"], "human")})
    report = passed(engine, log, choosy)
    assert (report.enriched, report.buried) == (19, 1)
    assert "no human, please" in log.buried(target.alias)[0].reason
    stranger.bulk((str(number), film("robot")) for number in range(20))
    broken = replace(target, cache=None, encoders={"plot_vector": Choosy(target.encoders["plot_vector"], "")})
    with pytest.raises(EncoderError, match="no document of"):
        passed(engine, log, broken)
    assert len(log.burials(target.alias)) == 1
    assert passed(engine, log, target).enriched == 20
    assert (wrong(engine, target), log.burials(target.alias)) == ({}, [])


def test_text_that_is_no_unicode_is_mended_for_the_model_alone(
    engine: Engine, target: Target, engine_url: str, log: RedisLog
) -> None:
    import urllib.request

    url = f"{engine_url}/{target.alias}/_doc/odd"
    body = b'{"title": "a \\ud800 cat", "plot": "dog"}'
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201
    report = passed(engine, log, target)
    assert (report.enriched, report.unchanged, report.buried) == (1, 1, 0)
    assert held(engine, target.alias)["odd"]["title"] == "a \ud800 cat"
    assert passed(engine, log, target).seen == 0


def test_another_history_or_another_index_version_is_looked_at_from_the_start(
    engine: Engine, target: Target, stranger: Stranger, log: RedisLog
) -> None:
    stranger.bulk((str(number), film("cat")) for number in range(6))
    assert passed(engine, log, target).enriched == 6
    engine.run(drop(target.alias))
    remade = made(engine, target.spec)
    assert remade.stored.index == target.stored.index
    stranger.put("1", film("dog"))
    assert passed(engine, log, remade).enriched == 1
    # A cursor of another index version, or of another knnex, counts for nothing.
    for kept in ('{"index": "other-000007", "shards": {"0": ["x", 99]}}', "{", "[]", '{"index": 1}'):
        log.remember(target.alias, "feed", kept)
        assert passed(engine, log, remade).seen == 1


def test_a_feed_that_dies_goes_on_where_it_was(
    engine: Engine, target: Target, stranger: Stranger, log: RedisLog
) -> None:
    stranger.bulk((str(number), film(f"cat {number}")) for number in range(40))
    pages: list[int] = []
    report = passed(engine, log, target, page=5, going=lambda: len(pages) < 3, tell=lambda one: pages.append(one.seen))
    done = sum(pages)
    # What was written here is to be seen too.
    assert (report.seen, report.enriched, report.behind) == (done, done, 40)
    state = feed_state(log, target.alias)
    assert state
    assert (state.behind, sum(state.shards.values()), state.caught_up) == (40, 40, None)
    report = passed(engine, log, target, page=5)
    assert (report.enriched, report.behind) == (40 - done, 0)
    state = feed_state(log, target.alias)
    assert state
    assert (state.behind, state.caught_up) == (0, state.at)
    assert wrong(engine, target) == {}


def test_a_blocked_index_is_waited_for(engine: Engine, target: Target, stranger: Stranger, log: RedisLog) -> None:
    stranger.bulk((str(number), film("cat")) for number in range(6))

    def block(on: bool) -> None:
        Stranger(engine, target.stored.index).send("PUT", "_settings", body={"index.blocks.write": on})

    block(True)
    with pytest.raises(EngineBusy, match="still lack their vectors: 403"):
        passed(engine, log, target)
    assert log.burials(target.alias) == []
    report = passed(engine, log, target, sleep=lambda _: block(False))
    assert (report.enriched, report.buried) == (6, 0)


def test_an_index_without_sequence_numbers_is_declined(elasticsearch_url: str, redis_url: str, tiny: Path) -> None:
    engine, log = open_engine(elasticsearch_url, Access()), own_log(redis_url, 11)
    name = "knnex-test-unnumbered"
    spec = films(name, str(tiny))
    body = index_body(spec, engine.dialect, resolve(spec)) | {"aliases": {name: {}}}
    body["settings"] = {"index.disable_sequence_numbers": True}  # which a spec is refused
    Stranger(engine, f"{name}-000001").send("PUT", body=body)
    target = make_target(name, engine.run(load(name)))
    try:
        Stranger(engine, name).put("1", film("cat"))
        with pytest.raises(UnsupportedByEngine, match="disable_sequence_numbers"):
            passed(engine, log, target)
    finally:
        engine.run(drop(name))
        log.forget(name)
        log.close()
        engine.close()


DEADLY = """
import os, sys
import numpy as np
from knnex.engines import Access, open_engine
from knnex.ingest import RedisLog, Target
from knnex.ingest.feed_follow import catch_up
from knnex.mappings import load

class Encoder:
    name = identity = revision = "deadly"
    dims, max_tokens = 4, 100
    def encode_documents(self, texts):
        if any("KILLME" in text for text in texts):
            os._exit(9)
        return np.ones((len(texts), 4), dtype=np.float32)

url, redis, index = sys.argv[1:]
engine, log = open_engine(url, Access()), RedisLog(redis)
target = Target(index, engine.run(load(index)), {"v": Encoder()})
catch_up(engine, log, lambda _: target, index)
"""


def test_a_document_that_kills_its_follower_is_found_out_and_buried(
    engine: Engine, engine_url: str, index_name: str, tiny: Path, stranger: Stranger, log: RedisLog
) -> None:
    from knnex.mappings import Resolved

    spec = load_spec(
        {"index": index_name, "fields": FIELDS, "embeddings": {"v": {"source": ["title"], "encoder": "x"}}}
    )
    engine.run(create(spec, engine.dialect, {"v": Resolved(4, "f" * 32)}))
    stranger.bulk((str(number), film("KILLME" if number == 3 else "cat")) for number in range(8))
    deaths = 0
    command = [sys.executable, "-c", DEADLY, engine_url, log.url, index_name]
    while code := subprocess.run(command, env=dict(os.environ), check=False).returncode:
        assert (code, deaths < 12) == (9, True)
        deaths += 1
    assert deaths == 5  # with 8 documents, 4, 2, and twice alone
    assert stranger.count({"exists": {"field": "v"}}) == 7
    (buried,) = log.buried(index_name)
    assert (buried.id, "died 2 times" in buried.reason) == ("3", True)
    # Another change of it does not kill again, another text of it is another matter.
    stranger.change("3", {"year": 3})
    assert subprocess.run(command, env=dict(os.environ), check=False).returncode == 0
    stranger.change("3", {"title": "dog"})
    assert subprocess.run(command, env=dict(os.environ), check=False).returncode == 0
    assert (stranger.count({"exists": {"field": "v"}}), log.burials(index_name)) == (8, [])


def test_places_of_documents_are_none_of_the_logs_own() -> None:
    places = {place_of(str(number), routing) for number in range(500) for routing in (None, "", "a")}
    assert len(places) == 1000  # no routing is the empty routing
    assert all(int(place.split("-")[0]) < 1_100_000_000_000 for place in places)
