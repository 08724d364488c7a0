"""Partial updates, by the log and without it: what changes changes, the rest stays, and races lose nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from filling import draining, films, held, made, own_log
from typer.testing import CliRunner

from knnex import Cluster, Index, cli_ingest
from knnex.encoders import VectorCache, input_hash
from knnex.engines import Engine, Request, path_of
from knnex.errors import EngineBusy, IngestIncomplete, InputError, KnnexError
from knnex.ingest import Event, Op, Patience, RedisLog, Report, Target, ingest, ingest_inline, make_target, read_files
from knnex.ingest.updates import resolve_updates
from knnex.mappings import Spec, load

Send = Callable[..., Report]

FILMS: list[dict[str, Any]] = [
    {"id": "1", "title": "Solaris", "plot": "A planet that thinks.", "year": 1971},
    {"id": "2", "title": "Stalker", "plot": "A room that grants wishes.", "year": 1979},
]


@pytest.fixture
def cache(tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path / "vectors.sqlite")


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 9)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture(params=["log", "inline"])
def send(request: pytest.FixtureRequest, engine: Engine, log: RedisLog, cache: VectorCache) -> Iterator[Send]:
    """Sends by either way: both must do the same."""

    def inline(spec: Spec, documents: Iterable[Any], op: Op = "upsert") -> Report:
        return ingest_inline(engine, make_target(spec.index, engine.run(load(spec.index)), cache), documents, op=op)

    def logged(spec: Spec, documents: Iterable[Any], op: Op = "upsert") -> Report:
        return ingest(engine, spec, documents, log, op=op)

    if request.param == "inline":
        yield inline
    else:
        with draining(log, engine, cache=cache):
            yield logged


@pytest.mark.feature("Partial updates")
def test_what_changes_changes_and_the_rest_stays(engine: Engine, index_name: str, minilm: str, send: Send) -> None:
    spec = films(index_name, minilm, joins={"cast": {"kind": "nested", "fields": {"name": {"type": "text"}}}})
    made(engine, spec)
    send(spec, [FILMS[0] | {"cast": [{"name": "Banionis"}]}, FILMS[1]])
    before = held(engine, index_name)
    report = send(spec, [{"id": "1", "year": 1972}, {"id": "2", "plot": "A zone.", "genre": None}], op="update")
    assert (report.read, report.accepted, report.in_index, report.encoded, report.complete) == (2, 2, 2, 1, True)
    after = held(engine, index_name)
    assert {name: value for name, value in after["1"].items() if before["1"].get(name) != value}.keys() == {
        "year", "_knnex"
    }  # fmt: skip
    assert after["1"]["plot_vector"] == before["1"]["plot_vector"]
    assert after["2"]["_knnex"]["vectors"]["plot_vector"]["input_hash"] == input_hash("Stalker. A zone.")
    assert after["2"]["genre"] is None
    assert all(after[id_]["_knnex"]["version"] > before[id_]["_knnex"]["version"] for id_ in "12")


def test_several_changes_of_a_document_are_all_made_in_their_order(
    engine: Engine, index_name: str, minilm: str, send: Send
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    send(spec, FILMS)
    changes = [{"id": "1", "year": 1}, {"id": "1", "genre": "drama"}, {"id": "1", "year": 2}, {"id": 2, "year": 3}]
    report = send(spec, changes, op="update")
    assert (report.in_index, report.complete) == (4, True)
    found = held(engine, index_name)
    assert (found["1"]["year"], found["1"]["genre"], found["1"]["title"], found["2"]["year"]) == (
        2,
        "drama",
        "Solaris",
        3,
    )


@pytest.mark.feature("Partial updates")
def test_what_cannot_be_updated_is_named_and_stops_no_other(
    engine: Engine, index_name: str, minilm: str, send: Send
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    send(spec, FILMS)
    send(spec, ["2"], op="delete")
    changes: list[Any] = [
        {"id": "1", "year": 5},
        {"id": "1", "year": "never"},
        {"id": "2", "year": 5},
        {"id": "none", "year": 5},
        {"id": "1"},
        {"year": 5},
        {"id": "1", "plot_vector": [1.0]},
    ]
    report = send(spec, changes, op="update")
    assert [one.reason.split(":")[0].split(";")[0] for one in report.refused] == [
        "it changes nothing",
        "the id field 'id' is missing",
        "field 'plot_vector' is written by knnex",
    ]
    buried = {one.id: one.reason for one in report.buried}
    assert buried.keys() - {"1"} == {"2", "none"}
    assert buried["none"] == "there is no document 'none' to update"
    assert buried["2"] == "there is no document '2' to update"
    assert "failed to parse field [year]" in buried["1"]
    assert not report.complete
    assert {id_: one["year"] for id_, one in held(engine, index_name).items()} == {"1": 5}


def test_the_producers_versions_decide(engine: Engine, index_name: str, minilm: str, send: Send) -> None:
    spec = films(index_name, minilm, version="rev")
    made(engine, spec)
    send(spec, [FILMS[0] | {"rev": 5}])
    report = send(spec, [{"id": "1", "rev": 4, "year": 4}, {"id": "1", "rev": 6, "genre": "x"}], op="update")
    assert (report.in_index, report.complete) == (2, True)
    assert send(spec, [{"id": "1", "genre": "y"}], op="update").refused[0].reason.startswith("the version field 'rev'")
    found = held(engine, index_name)["1"]
    assert (found["year"], found["genre"], found["rev"]) == (1971, "x", 6)


@pytest.mark.feature("Parent and child documents")
@pytest.mark.never(
    "elasticsearch", reason="the embedded distribution lacks the join module; the full one has it", embedded=True
)
def test_a_child_is_updated_where_it_lies(engine: Engine, index_name: str, minilm: str, send: Send) -> None:
    joins = {"studio": {"kind": "parent", "children": ["movie"]}}
    spec = films(index_name, minilm, joins=joins, settings={"number_of_shards": 3})
    made(engine, spec)
    studio = {"id": "s", "title": "Mosfilm", "relation": "studio"}
    send(spec, [studio, *({**film, "relation": {"name": "movie", "parent": "s"}} for film in FILMS)])
    assert send(spec, [{"id": "1", "year": 1972}, {"id": "s", "title": "Lenfilm"}], op="update").complete
    found = held(engine, index_name)
    assert (sorted(found), found["1"]["year"], found["s"]["title"]) == (["1", "2", "s"], 1972, "Lenfilm")
    assert found["1"]["relation"] == {"name": "movie", "parent": "s"}


def test_updates_at_the_same_time_lose_none(engine: Engine, index_name: str, minilm: str, cache: VectorCache) -> None:
    """Without a log there is no order but that of the writes: each reads what the one before has written."""
    target = made(engine, films(index_name, minilm), cache)
    ingest_inline(engine, target, FILMS)
    start = threading.Barrier(6)

    def change(number: int) -> Report:
        start.wait()
        return ingest_inline(engine, target, [{"id": "1", f"n{number}": number}], op="update")

    with ThreadPoolExecutor(6) as pool:
        assert all(report.complete for report in pool.map(change, range(6)))
    found = held(engine, index_name)["1"]
    assert {name: found[name] for name in found if name.startswith("n")} == {f"n{n}": n for n in range(6)}


def test_an_update_of_what_others_keep_writing_gives_up_in_the_end(
    engine: Engine, index_name: str, minilm: str, cache: VectorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knnex.ingest.inline_updates._ATTEMPTS", 3)
    target = made(engine, films(index_name, minilm), cache)
    ingest_inline(engine, target, FILMS)
    other = Target(target.alias, target.stored, {"plot_vector": Meddling(engine, target)}, cache)
    with pytest.raises(IngestIncomplete, match="changes all the time"):
        ingest_inline(engine, other, [{"id": "1", "title": "x"}], op="update", patience=Patience(attempts=1))
    assert held(engine, index_name)["1"]["title"] != "x"


class Meddling:
    """A real encoder; while it encodes, somebody else writes the document."""

    def __init__(self, engine: Engine, target: Target) -> None:
        self._engine, self._target, self._encoder = engine, target, target.encoders["plot_vector"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: list[str]) -> Any:
        title = f"meddled {threading.get_ident()} {len(texts)}"
        vectors = self._encoder.encode_documents(texts)
        plots = [film | {"title": f"{title} {vectors.sum()}", "plot": texts[0]} for film in FILMS[:1]]
        assert ingest_inline(self._engine, self._target, plots).complete
        return vectors


def test_a_document_that_somebody_else_changed_is_updated_as_it_is(
    engine: Engine, index_name: str, minilm: str, cache: VectorCache
) -> None:
    target = made(engine, films(index_name, minilm), cache)
    ingest_inline(engine, target, FILMS)

    def change() -> Any:
        body = {"doc": {"genre": "drama"}}
        yield Request("POST", path_of(target.stored.index, "_update", "1"), {"refresh": "true"}, body)
        yield Request("PUT", path_of(target.stored.index, "_doc", "theirs"), {"refresh": "true"}, {"title": "theirs"})

    engine.run(change())
    changes = [{"id": "1", "year": 1972}, {"id": "theirs", "year": 1}]
    assert ingest_inline(engine, target, changes, op="update").complete
    found = held(engine, index_name)
    assert (found["1"]["genre"], found["1"]["year"], found["theirs"]["year"]) == ("drama", 1972, 1)


def test_a_shard_that_is_away_is_not_a_document_that_is_not_there(
    engine: Engine, index_name: str, minilm: str, cache: VectorCache
) -> None:
    target = made(engine, films(index_name, minilm), cache)
    update = Event(index_name, "1", "update", {"id": "1", "year": 1972}, 1 << 62)
    index, only_on = path_of(target.stored.index), "index.routing.allocation.require._name"

    def made_again_without_a_node() -> Any:
        (was,) = (yield Request("GET", index)).body.values()
        yield Request("DELETE", index)
        knn = {"index.knn": True} if engine.dialect.product == "opensearch" else {}
        body = {"mappings": was["mappings"], "aliases": was["aliases"], "settings": {only_on: "nobody", **knn}}
        yield Request("PUT", index, {"wait_for_active_shards": "0"}, body=body)

    def given_a_node() -> Any:
        yield Request("PUT", f"{index}/_settings", body={only_on: None})
        yield Request("GET", f"/_cluster/health{index}", {"wait_for_status": "yellow"})

    engine.run(made_again_without_a_node())
    with pytest.raises(EngineBusy, match="not all documents of .* could be read"):
        resolve_updates(engine, target, [update], patience=Patience(attempts=1))
    engine.run(given_a_node())
    assert [one.event for one in resolve_updates(engine, target, [update]).absent] == [update]


def test_an_update_waits_for_the_backfill_before_it(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache, tmp_path: Path
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    with pytest.raises(IngestIncomplete, match="no worker"):
        ingest(engine, spec, FILMS, log, patience=0.1)
    (tmp_path / "years.csv").write_text("id,year\n1,2001\n2,2002\n")
    log.pause(index_name, "by hand", "backfill")
    with pytest.raises(IngestIncomplete, match="2 documents .* leave them alone: by hand"):
        ingest(engine, spec, read_files([tmp_path / "years.csv"], spec), log, op="update", patience=0.1)
    log.pause(index_name, None, "backfill")
    with draining(log, engine, cache=cache):
        report = ingest(engine, spec, [{"id": "1", "genre": "drama"}], log, op="update")
    assert report.complete
    found = held(engine, index_name)
    assert [(found[id_]["year"], found[id_].get("genre")) for id_ in "12"] == [(2001, "drama"), (2002, None)]


def test_the_index_updates_one_or_many(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    made(engine, films(index_name, minilm))
    index = Index(Cluster(engine, log.url), index_name)
    with draining(log, engine, cache=cache):
        assert index.upsert(*FILMS).complete
        assert index.update({"id": "1", "year": 1972}).complete
        assert index.update(*({"id": id_, "genre": "drama"} for id_ in "12"), inline=True).complete
        assert index.delete("2").complete
    assert [(one["year"], one["genre"]) for one in held(engine, index_name).values()] == [(1972, "drama")]
    index._cluster.log.close()


@pytest.fixture
def command(engine_url: str, log: RedisLog, fresh_settings: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """`knnex WORDS`, in this process: exit code and output."""
    fresh_settings.setenv("KNNEX_URL", engine_url)
    fresh_settings.setenv("KNNEX_REDIS_URL", log.url)
    app = typer.Typer()
    cli_ingest.register(app)

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, words)
        if isinstance(done.exception, KnnexError):
            raise done.exception
        return done.exit_code, done.output

    return run


@pytest.mark.feature("The command line")
def test_updating_and_deleting_from_the_command_line(
    engine: Engine, index_name: str, minilm: str, cache: VectorCache, tmp_path: Path, command: Any
) -> None:
    target = made(engine, films(index_name, minilm), cache)
    ingest_inline(engine, target, FILMS)
    code, told = command("update", index_name, "1", "year=1972", "title=Solyaris", 'genre=["sf", "drama"]', "--inline")
    assert (code, "1 of 1 documents are in the index" in told) == (0, True), told
    found = held(engine, index_name)["1"]
    assert (found["year"], found["title"], found["genre"]) == (1972, "Solyaris", ["sf", "drama"])
    code, told = command("update", index_name, "none", "year=1", "--inline", "--json")
    assert (code, json.loads(told)["buried"][0]["reason"]) == (1, "there is no document 'none' to update")
    for words, message in {
        ("year",): "'year' changes nothing",
        ("year=soon",): "'soon' is no integer",
        ("=1",): "'=1' changes nothing",
        ("genre=[1,",): "not JSON",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            command("update", index_name, "1", *words, "--inline")
        assert caught.value.hint
    (tmp_path / "years.csv").write_text("id,year\n1,2001\n2,2002\n")
    assert command("ingest", index_name, str(tmp_path / "years.csv"), "--update", "--inline")[0] == 0
    assert {id_: one["year"] for id_, one in held(engine, index_name).items()} == {"1": 2001, "2": 2002}
    assert command("delete", index_name, "2", "--inline") == (0, "1 deleted.\n")
    assert sorted(held(engine, index_name)) == ["1"]
