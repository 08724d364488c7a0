"""`knnex buried` on a real log: list, show, retry, drop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from filling import held, own_log
from test_cli import Shell

from knnex.engines import Engine
from knnex.ingest import Buried, Event, RedisLog
from knnex.mappings import create, load_spec
from knnex.workers import Targets, drain


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 7)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture
def shell(tmp_path: Path, log: RedisLog) -> Shell:
    return Shell(tmp_path, KNNEX_REDIS_URL=log.url, KNNEX_URL="http://127.0.0.1:9")


@pytest.fixture
def graves(engine: Engine, index_name: str, log: RedisLog) -> list[str]:
    """Positions: of a document that the engine refuses, of one that it would take by now, of a damaged event."""
    fields = {"title": {"type": "text"}, "year": {"type": "integer"}}
    engine.run(create(load_spec({"index": index_name, "fields": fields}), engine.dialect, {}))
    bad, good, fine = log.append(
        [
            Event(index_name, "a\x1b[2J", "upsert", {"id": "a", "year": "soon"}),
            Event(index_name, "2", "upsert", {"id": "2", "title": "Heat"}),
            Event(index_name, "3", "upsert", {"id": "3", "title": "Alien"}),
        ]
    )
    taken = log.take(index_name, "broken", 3, 60)
    log.settle(index_name, [good], [Buried(good, taken[1].event, "the model was broken", 2)])
    log.release(index_name, "broken", [taken[0], taken[2]], 1, 0)
    damaged = log.redis.xadd(f"knnex:{{{index_name}}}:events", {"event": b"{"}).decode()
    drain(log, Targets(engine), consumer="a", lease=1)
    assert fine not in log.burials(index_name)
    return [bad, good, damaged]


@pytest.mark.feature("Buried documents")
def test_the_buried_are_listed_and_shown(shell: Shell, index_name: str, log: RedisLog, graves: list[str]) -> None:
    told = shell("buried", "list", index_name)
    assert told.returncode == 0, told.stderr
    assert all(position in told.stdout for position in graves)
    assert "the model was broken" in told.stdout
    assert "failed to parse field [year]" in " ".join(told.stdout.split())
    assert "unreadable" in told.stdout
    assert "\x1b" not in told.stdout
    told = shell("buried", "list", index_name, "--limit", "1")
    assert ("id 2" in told.stdout, "… and 2 more (--limit)" in told.stdout) == (True, True)
    rows = shell.json("buried", "list", index_name)
    assert {row["position"]: (row["id"], row["op"]) for row in rows} == {
        graves[0]: ("a\x1b[2J", "upsert"),
        graves[1]: ("2", "upsert"),
        graves[2]: ("", None),
    }
    shown = shell("buried", "show", index_name, graves[1])
    assert ("the model was broken" in shown.stdout, '"title": "Heat"' in shown.stdout) == (True, True)
    one = shell.json("buried", "show", index_name, graves[1])
    assert (one["document"], one["attempts"], one["reason"]) == (
        {"id": "2", "title": "Heat"},
        2,
        "the model was broken",
    )
    assert shell.json("buried", "show", index_name, graves[2])["document"] is None


def test_the_buried_are_retried_under_their_version(
    engine: Engine, shell: Shell, index_name: str, log: RedisLog, graves: list[str]
) -> None:
    log.append([Event(index_name, "2", "delete", {})])
    drain(log, Targets(engine), consumer="a")
    told = shell("buried", "retry", index_name, graves[1])
    assert "1 document back in the log" in told.stdout
    assert "`knnex worker` starts one" in told.stdout
    told = shell("buried", "retry", index_name, "--all")
    assert "1 document back in the log" in told.stdout
    assert "1 could not be read and cannot be retried" in told.stdout
    assert log.backlog(index_name).total == 2
    report = drain(log, Targets(engine), consumer="a")
    # What was deleted since does not come back; what the engine refuses is buried again.
    assert (report.stale, report.buried) == (1, 1)
    assert sorted(held(engine, index_name)) == ["3"]
    assert log.counts(index_name)["buried"] == len(log.burials(index_name)) == 2


def test_the_buried_are_dropped(shell: Shell, index_name: str, log: RedisLog, graves: list[str]) -> None:
    assert "1 document forgotten" in shell("buried", "drop", index_name, graves[0], "--yes").stdout
    assert shell("buried", "drop", index_name, "--all", give="n\n").returncode == 1
    assert log.burials(index_name) == graves[1:]
    assert "2 documents forgotten" in shell("buried", "drop", index_name, "--all", give="y\n").stdout
    assert log.burials(index_name) == []
    assert f"Nothing is buried for {index_name}" in shell("buried", "list", index_name).stdout
    assert json.loads(shell("buried", "list", index_name, "--json").stdout) == []
    assert log.counts(index_name).get("buried", 0) == 0


def test_wrong_positions_are_told_and_nothing_is_done(
    shell: Shell, index_name: str, log: RedisLog, graves: list[str]
) -> None:
    told = shell("buried", "retry", index_name, graves[0], "9-9")
    assert (told.returncode, f"nothing of '{index_name}' is buried at 9-9" in told.stderr) == (1, True)
    assert f"knnex buried list {index_name}" in " ".join(told.stderr.split())
    for words in (["retry", index_name], ["drop", index_name, graves[0], "--all"]):
        told = shell("buried", *words)
        assert (told.returncode, "or say --all" in " ".join(told.stderr.split())) == (2, True), told
    assert len(log.burials(index_name)) == 3
    assert log.backlog(index_name).total == 0
