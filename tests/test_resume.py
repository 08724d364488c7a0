"""A producer that is killed goes on where it stopped: no document is lost, and none is sent twice."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from filling import draining, held, own_log
from homes import until
from typer.testing import CliRunner

from knnex import cli_ingest
from knnex.engines import Engine, Request, path_of
from knnex.errors import IngestIncomplete
from knnex.ingest import Event, EventLog, Lane, Mark, RedisLog, Report, half_read, ingest, open_log, read_files
from knnex.mappings import Spec, create, load_spec
from knnex.settings import settings

DATABASE = 8


class Died(BaseException):
    """What a killed process leaves undone is left undone by this too."""


class Dying:
    """A log whose producer dies at an append: just before the Nth, or just after it."""

    def __init__(self, log: EventLog, at: int, after: bool) -> None:
        self._log, self.left, self.after = log, at, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, events: Sequence[Event], lane: Lane = "live", mark: Mark | None = None) -> list[str]:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Died
        positions = self._log.append(events, lane, mark)
        if self.left == 0:
            raise Died
        return positions


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, DATABASE)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture(params=["redis", "sqlite"])
def any_log(request: pytest.FixtureRequest, log: RedisLog, tmp_path: Path) -> Iterator[EventLog]:
    if request.param == "redis":
        yield log
    else:
        opened = open_log(f"sqlite:///{tmp_path}/log.sqlite")
        yield opened
        opened.close()


@pytest.fixture
def spec(engine: Engine, index_name: str) -> Spec:
    """An index without vectors: it is the way of the documents that counts here."""
    loaded = load_spec({"index": index_name, "fields": {"title": {"type": "text"}, "year": {"type": "integer"}}})
    engine.run(create(loaded, engine.dialect, {}))
    return loaded


def count(engine: Engine, index: str) -> int:
    def flow() -> Any:
        yield Request("POST", path_of(index, "_refresh"))
        return (yield Request("GET", path_of(index, "_count"))).body["count"]

    return int(engine.run(flow()))


def sent(log: EventLog, index: str) -> int:
    """How many events the log ever had that are settled now."""
    counts = log.counts(index)
    return counts.get("written", 0) + counts.get("stale", 0) + counts.get("buried", 0)


def lines(path: Path, numbers: Sequence[int], bad: Sequence[int] = ()) -> Path:
    rows = ["{bad" if n in bad else json.dumps({"id": str(n), "title": f"film {n}"}) for n in numbers]
    path.write_text("\n".join(rows) + "\n")
    return path


def die(engine: Engine, spec: Spec, log: EventLog, at: int, files: Sequence[Path], *, after: bool = True) -> None:
    with pytest.raises(Died):
        ingest(engine, spec, read_files(files, spec), Dying(log, at, after), most_waiting=10_000)


def three_kinds(folder: Path) -> list[Path]:
    first = lines(folder / "a.ndjson", range(9000), bad=(5, 2000, 8999))
    second, third = folder / "b.csv.gz", folder / "c.parquet"
    second.write_bytes(gzip.compress(b"id,title\n" + b"".join(b"%d,film %d\n" % (n, n) for n in range(9000, 15000))))
    rows = [{"id": str(n), "title": f"film {n}"} for n in range(15000, 20000)]
    pq.write_table(pa.Table.from_pylist(rows), third, row_group_size=700)
    return [first, second, third]


@pytest.mark.feature("File ingest that goes on where it was killed")
def test_a_process_killed_again_and_again_sends_each_document_once(
    engine: Engine, engine_url: str, spec: Spec, log: RedisLog, tmp_path: Path
) -> None:
    three_kinds(tmp_path)
    words = [sys.executable, "-m", "knnex", "ingest", spec.index, "a.ndjson", "b.csv.gz", "c.parquet", "--json"]
    # It is never far ahead of those who drain here: wherever this process is held up, it waits.
    environment = {**os.environ, "KNNEX_URL": engine_url, "KNNEX_REDIS_URL": log.url, "KNNEX_MAX_WAITING": "1000"}
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE}
    reached: list[int] = []
    with draining(log, engine):
        for goal in (1, 5000, 10_000, 17_000):
            with subprocess.Popen(words, **options) as process:
                until(lambda goal=goal: sum(log.marks(spec.index).values()) >= goal)  # type: ignore[misc]
                process.kill()
                assert process.wait() == -9
            reached.append(sum(log.marks(spec.index).values()))
        assert reached == sorted(reached)
        assert reached[-1] < 20_000, "it was to be killed in the middle"
        done = subprocess.run(words, check=False, timeout=120, **options)
    report = json.loads(done.stdout)
    assert (done.returncode, report["refused_count"], report["missing"]) == (1, 3, [])
    assert (report["read"], report["accepted"], report["in_index"]) == (20_000, 19_997, 19_997)
    assert report["skipped"] == reached[-1]
    assert sent(log, spec.index) == 19_997 == count(engine, spec.index)
    assert log.marks(spec.index) == {}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_whatever_moment_it_dies_nothing_is_lost_or_sent_twice(
    engine: Engine, spec: Spec, any_log: EventLog, tmp_path: Path, after: bool
) -> None:
    files = [
        lines(tmp_path / "a.ndjson", range(1100), bad=(499, 1099)),
        lines(tmp_path / "b.ndjson", range(2000, 2700)),
    ]
    with draining(any_log, engine):
        for _ in range(5 if after else 4):  # windows of 500: three of the first file, two of the second
            die(engine, spec, any_log, 1 if after else 2, files, after=after)
        report = ingest(engine, spec, read_files(files, spec), any_log)
    assert (report.read, report.in_index, report.refused_count, report.missing_count) == (1800, 1798, 2, 0)
    assert sent(any_log, spec.index) == 1798 == count(engine, spec.index)


def test_what_was_sent_is_said_and_can_be_sent_again(
    engine: Engine, engine_url: str, spec: Spec, log: RedisLog, tmp_path: Path, fresh_settings: pytest.MonkeyPatch
) -> None:
    fresh_settings.setenv("KNNEX_URL", engine_url)
    fresh_settings.setenv("KNNEX_REDIS_URL", log.url)
    settings.cache_clear()
    path = lines(tmp_path / "films.ndjson", range(1200))
    app = typer.Typer()
    cli_ingest.register(app)
    with draining(log, engine):
        die(engine, spec, log, 2, [path])
        assert half_read(log, spec.index, read_files([path], spec)) == [(str(path), 1000)]
        again = CliRunner().invoke(app, ["ingest", spec.index, str(path), "--from-start"])
        assert (again.exit_code, "continuing" in again.output) == (0, False)
        assert sent(log, spec.index) == 2200
        die(engine, spec, log, 1, [path])
        more = CliRunner().invoke(app, ["ingest", spec.index, str(path)])
        assert more.exit_code == 0, more.output
        assert f"continuing after 500 documents of {path}; --from-start sends all again" in more.output
        assert "700 of them were not sent, as the index held them unchanged" in more.output
        assert sent(log, spec.index) == 2700
        all_again = CliRunner().invoke(app, ["ingest", spec.index, str(path), "--unchanged"])
        assert (all_again.exit_code, "not sent" in all_again.output) == (0, False)
    assert sent(log, spec.index) == 3900


def test_a_file_that_changed_is_read_from_its_start(engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path) -> None:
    path = lines(tmp_path / "films.ndjson", range(1200))
    with draining(log, engine):
        die(engine, spec, log, 2, [path])
        lines(path, range(1100))
        assert half_read(log, spec.index, read_files([path], spec)) == []
        report = ingest(engine, spec, read_files([path], spec), log)
        assert (report.read, report.skipped, report.complete) == (1100, 0, True)
    assert log.marks(spec.index) == {}


def test_a_directory_goes_on_in_the_file_where_it_stopped(
    engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(("a.ndjson", "sub/b.ndjson", "sub/c.ndjson", "z.ndjson")):
        lines(tmp_path / name, range(number * 10, number * 10 + 10))
    with draining(log, engine):
        die(engine, spec, log, 3, [tmp_path])
        assert [(Path(name).name, so_far) for name, so_far in half_read(log, spec.index, read_files([tmp_path], spec))] == [
            ("a.ndjson", 10), ("b.ndjson", 10), ("c.ndjson", 10)
        ]  # fmt: skip
        report = ingest(engine, spec, read_files([tmp_path], spec), log)
    assert (report.read, report.skipped, report.in_index, report.complete) == (40, 30, 40, True)
    assert sent(log, spec.index) == 40


def test_a_file_of_updates_goes_on_too(engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path) -> None:
    path = lines(tmp_path / "films.ndjson", range(1200))
    years = tmp_path / "years.csv"
    years.write_text("id,year\n" + "".join(f"{n},{1900 + n}\n" for n in range(1210)))
    with draining(log, engine):
        assert ingest(engine, spec, read_files([path], spec), log).complete
        with pytest.raises(Died):
            ingest(engine, spec, read_files([years], spec), Dying(log, 2, True), op="update")
        assert half_read(log, spec.index, read_files([years], spec)) == []
        report = ingest(engine, spec, read_files([years], spec), log, op="update")
    assert (report.read, report.skipped, report.in_index, report.buried_count) == (1210, 1000, 1200, 10)
    assert sent(log, spec.index) == 1200 + 1210
    assert {one["year"] - int(id_) for id_, one in held(engine, spec.index).items()} == {1900}


def test_the_same_file_twice_is_two_files(engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path) -> None:
    path = lines(tmp_path / "films.ndjson", range(10))
    with draining(log, engine):
        die(engine, spec, log, 2, [path, path])
        report = ingest(engine, spec, read_files([path, path], spec), log)
    assert (report.read, report.skipped, report.in_index) == (20, 20, 20)
    assert sent(log, spec.index) == 20


def test_what_was_buried_of_an_earlier_run_is_named(engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path) -> None:
    path = tmp_path / "films.ndjson"
    rows = [{"id": n, "title": f"film {n}"} for n in range(1000)]
    rows[3] |= {"year": "never"}
    rows[7] |= {"year": "never"}
    rows[8] |= {"id": 7}  # what was wrong of 7 is good in its next form
    path.write_text("\n".join(map(json.dumps, rows)))
    with draining(log, engine, batch=4):
        die(engine, spec, log, 1, [path])
        report = ingest(engine, spec, read_files([path], spec), log)
    assert (report.read, report.skipped, report.missing_count) == (1000, 500, 0)
    assert [(one.id, "failed to parse" in one.reason) for one in report.buried] == [("3", True)]
    assert (report.in_index, report.complete) == (999, False)


def test_what_an_earlier_run_sent_and_is_gone_since_is_told(
    engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path
) -> None:
    path = lines(tmp_path / "films.ndjson", range(600))

    def lose() -> Any:
        stored = next(iter((yield Request("GET", path_of("_alias", spec.index))).body))
        yield Request("DELETE", path_of(stored, "_doc", "17"), {"refresh": "true"})

    with draining(log, engine):
        die(engine, spec, log, 1, [path])
        until(lambda: log.backlog(spec.index).total == 0)
        engine.run(lose())
        with pytest.raises(IngestIncomplete, match=r"1 of 600 accepted documents .*: 17\n") as caught:
            ingest(engine, spec, read_files([path], spec), log)
        assert "Send these documents again" in str(caught.value.hint)
        assert ingest(engine, spec, read_files([path], spec), log).complete
    assert count(engine, spec.index) == 600


def test_what_cannot_be_read_twice_is_not_continued(engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path) -> None:
    with draining(log, engine):
        with pytest.raises(Died):
            ingest(engine, spec, ({"id": n} for n in range(600)), Dying(log, 1, True))
        assert log.marks(spec.index) == {}
        pipe = tmp_path / "pipe.ndjson"
        os.mkfifo(pipe)
        with subprocess.Popen(["/bin/sh", "-c", 'seq 700 | sed \'s/.*/{"id": &}/\' > "$0"', str(pipe)]) as writer:
            report: Report = ingest(engine, spec, read_files([pipe], spec), log)
            assert writer.wait() == 0
        assert (report.read, report.complete, log.marks(spec.index)) == (700, True, {})


def test_backfills_keep_out_of_the_way_of_live_events(
    engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path
) -> None:
    path = lines(tmp_path / "films.ndjson", range(3))
    for lane, documents in (("backfill", read_files([path], spec)), ("live", [{"id": "live", "title": "x"}])):
        with pytest.raises(IngestIncomplete, match="no worker is running"):
            ingest(engine, spec, documents, log, lane=lane, patience=0.1)
    assert [(one, log.backlog(spec.index).of(one).total) for one in ("live", "backfill", "updates")] == [
        ("live", 1), ("backfill", 3), ("updates", 0)
    ]  # fmt: skip
    assert [one.event.id for one in log.take(spec.index, "me", 10, 60.0)] == ["live", "0", "1", "2"]
