"""Watching: figures of a worker, a look at the log, the screen on terminals of any width, metrics, pauses."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filling import films, held, made, own_log
from homes import until
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from test_cli import Shell

from knnex import screens_watch
from knnex.engines import Engine
from knnex.ingest import LANES, Event, RedisLog
from knnex.workers import Targets, drain
from knnex.workers.metrics import GAUGES, exposition, serve
from knnex.workers.pauses import by_hand
from knnex.workers.watch import Feed, IndexView, LaneView, View

DOCS = (Path(__file__).parent.parent / "docs" / "watching.md").read_text()


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 12)
    for index in opened.indexes():  # of a test that was cut off
        opened.forget(index)
    yield opened
    opened.forget(index_name)
    opened.close()


def film(index: str, number: int) -> Event:
    return Event(index, str(number), "upsert", {"id": str(number), "title": "the cat", "plot": f"sat {number}"})


# The screen


def some_view() -> View:
    films_lanes = (
        LaneView("live", 120, 512, 0.83, fresh=(0.41, 1.24), eta=0.5),
        LaneView("backfill", 981_022, 1_024, 723.0, fresh=(310.5, 702.0), eta=795.0),
        LaneView("updates", 0, 0, 0.0),
    )
    wiki_lanes = (
        LaneView("live", 10_000_000, 0, 259_200.0),
        LaneView("backfill", 0, 0, 0.0, paused="paused by hand: until the night"),
        LaneView("updates", 44, 0, 3.0),
    )
    reason = "wiki.meaning was filled under fingerprint 0123; \x1b[31mall-MiniLM-L6-v2\x1b[0m [here] has fedc"
    rows = (
        IndexView("films", films_lanes, 1234.4, 0.62, 0.83, 3, 2, 0, None, None, Feed(12, 1.2)),
        IndexView("wiki", wiki_lanes, 0.0, None, None, 0, 123_456, 1, reason, "429 rejected"),
        IndexView("docs", tuple(LaneView(lane, 0, 0, 0.0) for lane in LANES), 0.0),
    )
    facts = {
        "device": "cuda",
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "figures": {"films": {"documents": 820.0}},
    }
    return View("redis://127.0.0.1:6379/0", 1_795_261_064_918, rows, {"gpu-host-17-12345": facts, "[b]": {}})


def drawn(view: View, width: int, trouble: str = "") -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    console.print(screens_watch.screen(view, width, trouble))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [32, 40, 60, 80, 120, 200])
def test_the_screen_fits_a_terminal_of_any_width(width: int) -> None:
    said = drawn(some_view(), width, "no answer from Redis; trying again")
    assert max(map(len, said.splitlines())) <= width
    for word in ("films", "wiki", "docs", "live", "backfill", "updates"):
        assert word in said
    assert "\x1b" not in said


def test_a_screen_of_eighty_columns_has_everything() -> None:
    said = drawn(some_view(), 80)
    lines = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    assert ["lane", "waiting", "in hand", "lag", "fresh p50", "p95", "ETA"] in lines
    assert ["live", "120", "512", "0.8 s", "0.4 s", "1.2 s", "0.5 s"] in lines
    assert ["backfill", "981,022", "1,024", "12 min", "5 min", "12 min", "13 min"] in lines
    assert ["gpu-host-17-12345", "820.0", "cuda", "all-MiniLM-L6-v2"] in lines
    flat = " ".join(said.split())
    for told in (
        "1,234.4 documents/s encode 62%, write 38%",
        "83% of texts from the cache · 3 retried · 2 buried · change feed 12 behind (1.2 s ago)",
        "123,456 buried · 1 lost: somebody trimmed the log",
        "paused: wiki.meaning was filled",
        "rests: 429 rejected",
        "backfill: paused by hand: until the night",
        "nothing waits",
    ):
        assert told in flat


def test_a_narrow_screen_has_what_matters() -> None:
    lines = [re.split(r"\s{2,}", line.strip()) for line in drawn(some_view(), 40).splitlines()]
    assert ["lane", "waiting", "lag", "ETA"] in lines
    assert ["backfill", "982,046", "12 min", "13 min"] in lines


def test_a_log_without_events_and_workers() -> None:
    empty = View("redis://127.0.0.1:6379/0", 1_795_261_064_918, (), {})
    assert "No event was ever sent" in drawn(empty, 80)
    assert "`knnex worker`" in drawn(empty, 80)
    assert next(iter(screens_watch.lines(empty))).endswith("no event was ever sent to this log, 0 workers")


def test_without_a_terminal_each_index_is_a_line() -> None:
    first, second, third = screens_watch.lines(some_view())
    assert (
        "films: live 632 (lag 0.8 s), backfill 982,046 (lag 12 min), 1,234.4 documents/s, ETA 13 min, 2 buried" in first
    )
    assert "paused: wiki.meaning" in second
    assert "\x1b" not in second
    assert "docs: nothing waits" in third


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (7200, "2.0 h"),
        (259200, "3 d"),
    ],
)
def test_a_time_is_told_as_people_say_it(seconds: float, told: str) -> None:
    assert screens_watch.span(seconds) == told


# Metrics


def families(log: RedisLog) -> dict[str, dict[tuple[str, ...], float]]:
    body, kind = exposition(log)
    assert kind.startswith("text/plain")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_metrics_of_a_log(log: RedisLog, index_name: str) -> None:
    live = log.append([film(index_name, number) for number in range(5)])
    log.append([film(index_name, 9)], "backfill")
    log.pause(index_name, by_hand(), "backfill")
    log.settle(index_name, live[:2], counts={"written": 1, "stale": 1, "encoded": 3, "cached": 1})
    log.remember(index_name, "feed_lag", json.dumps({"behind": 4, "at": time.time()}))
    odd = 'a"worker\\of\nours'
    figures = {index_name: {"documents": 7.5, "settled": 8.0, "fresh": {"live": [0.5, 2.0]}}}
    log.announce(odd, {"rate": 0.01, "figures": figures}, 10)
    found = families(log)
    log.retire(odd)
    assert set(found) == {*GAUGES, "knnex_events_total", "knnex_texts_total"}
    assert found["knnex_workers"] == {(): 1}
    assert found["knnex_worker_documents_per_second"] == {(odd,): 7.5}
    assert found["knnex_events_waiting"][index_name, "live"] == 3
    assert found["knnex_events_waiting"][index_name, "backfill"] == 1
    assert 0 <= found["knnex_lag_seconds"][index_name, "live"] < 60
    assert found["knnex_lag_seconds"][index_name, "updates"] == 0
    assert [found["knnex_paused"][index_name, lane] for lane in LANES] == [0, 1, 0, 0]
    assert found["knnex_freshness_seconds"] == {(index_name, "live", "0.5"): 0.5, (index_name, "live", "0.95"): 2.0}
    assert found["knnex_events_total"][index_name, "stale"] == 1
    assert found["knnex_texts_total"] == {(index_name, "model"): 3, (index_name, "cache"): 1}
    assert found["knnex_cache_hit_ratio"] == {(index_name,): 0.25}
    assert found["knnex_feed_behind"] == {(index_name,): 4}
    # Four events, a hundredth of one a second by each worker, and a minute to be done with them.
    assert found["knnex_workers_wanted"] == {(index_name,): 7}


def test_metrics_are_served(log: RedisLog, index_name: str) -> None:
    log.append([film(index_name, 1)])
    with serve(log, "127.0.0.1", 0) as url:
        told = urllib.request.urlopen(url, timeout=60).read().decode()
        assert f'knnex_events_waiting{{index="{index_name}",lane="live"}} 1.0' in told
        log.append([film(index_name, 2)])
        assert 'lane="live"} 2.0' in urllib.request.urlopen(url, timeout=60).read().decode()


def test_a_scrape_fails_where_the_log_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with serve(RedisLog("redis://127.0.0.1:9/0"), "127.0.0.1", 0) as url:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, timeout=60)
        caught.value.close()
    assert caught.value.code == 500


def test_every_metric_is_explained() -> None:
    for name, (labels, _) in GAUGES.items():
        assert f"| `{name}` | {', '.join(f'`{label}`' for label in labels)}{' ' if labels else ''}|" in DOCS


# The commands


class Command:
    """`knnex` in this process, and, where it has to be interrupted, as a process of its own."""

    def __init__(self, engine_url: str, log: RedisLog, home: Path) -> None:
        self.shell = Shell(home, KNNEX_URL=engine_url, KNNEX_REDIS_URL=log.url)

    def __call__(self, *words: str, code: int = 0) -> str:
        done = self.shell(*words)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def begin(self, *words: str, **streams: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "knnex", *words]
        environment = {**os.environ, **self.shell.env, "COLUMNS": "80"}

        def heed() -> None:  # a suite that runs in the background hands on that Ctrl-C is ignored
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        return subprocess.Popen(command, env=environment, preexec_fn=heed, **streams)


@pytest.fixture
def knnex(engine_url: str, log: RedisLog, tmp_path: Path) -> Command:
    return Command(engine_url, log, tmp_path)


def test_status_tells_what_waits(knnex: Command, log: RedisLog, index_name: str) -> None:
    log.append([film(index_name, number) for number in range(3)])
    said = knnex("status")
    assert "Nothing is running here" in said
    assert re.search(rf"{index_name}\s+0\.0 documents/s", said)
    assert re.search(r"live\s+3\s+–", said)
    assert "No worker is running: events wait" in said
    found = json.loads(knnex("status", "--json"))
    assert found["servers"] == []
    assert found["log"]["indexes"][0]["lanes"][0]["waiting"] == 3


def test_status_where_no_log_is(knnex: Command) -> None:
    knnex.shell.env["KNNEX_REDIS_URL"] = "redis://127.0.0.1:9/0"
    assert "no answer from Redis" in knnex("status")
    assert json.loads(knnex("status", "--json"))["log"] is None


def test_watch_once(knnex: Command, log: RedisLog, index_name: str) -> None:
    log.append([film(index_name, 1)])
    assert f"{index_name}: live 1 (lag" in knnex("watch", "--once")
    assert json.loads(knnex("watch", index_name, "--once", "--json"))["indexes"][0]["name"] == index_name
    assert f"it holds {index_name}" in knnex("watch", "another", "--once", code=1)


def test_watch_prints_lines_where_there_is_no_terminal(knnex: Command, log: RedisLog, index_name: str) -> None:
    log.append([film(index_name, 1)])
    watching = knnex.begin("watch", "--every", "0.1", stdout=subprocess.PIPE)
    assert watching.stdout
    lines = [watching.stdout.readline().decode() for _ in range(3)]
    watching.send_signal(signal.SIGINT)
    watching.stdout.close()
    assert watching.wait(60) == 0
    assert all(f"{index_name}: live 1" in line for line in lines)


@pytest.mark.parametrize("end", ["Ctrl-C", "the terminal is closed"])
def test_watch_on_a_terminal_goes_on_to_the_end(knnex: Command, log: RedisLog, index_name: str, end: str) -> None:
    log.append([film(index_name, 1)])
    ours, theirs = pty.openpty()
    watching = knnex.begin("watch", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""

    def says(word: str) -> bool:
        nonlocal said
        said += os.read(ours, 65536)
        return word.encode() in said

    try:
        until(lambda: says("ETA"))
        log.append([film(index_name, number) for number in range(2, 779)])
        until(lambda: says("778"))
        if end == "Ctrl-C":
            watching.send_signal(signal.SIGINT)  # what a terminal makes of it
        else:
            os.close(ours)
        assert watching.wait(60) == 0 or end != "Ctrl-C"
    finally:
        watching.kill()
        watching.wait(60)
    if end == "Ctrl-C":
        os.close(ours)


def test_a_lane_is_paused_and_goes_on(
    knnex: Command, engine: Engine, log: RedisLog, index_name: str, tiny: Path
) -> None:
    """By hand: no worker lifts that, though it can open the index."""
    made(engine, films(index_name, str(tiny)))
    log.append([film(index_name, 1)])
    log.append([film(index_name, 2)], "backfill")
    assert "waits from now on" in knnex("pause", index_name, "--lane", "backfill", "--reason", "until tonight")
    targets = Targets(engine)
    assert drain(log, targets, consumer="me").written == 1
    assert set(held(engine, index_name)) == {"1"}
    knnex("pause", index_name)
    log.append([film(index_name, 3)])
    assert drain(log, targets, consumer="me").taken == 0
    assert "paused by hand" in knnex("status")
    assert "goes on" in knnex("resume", index_name)
    assert drain(log, targets, consumer="me").written == 2
    assert [log.paused(index_name, lane) for lane in (None, *LANES)] == [None] * 5


def test_what_cannot_be_paused(knnex: Command, log: RedisLog, index_name: str) -> None:
    log.append([film(index_name, 1)])
    assert "no lane 'fast'" in knnex("pause", index_name, "--lane", "fast", code=2)
    assert "holds no index 'another'" in knnex("pause", "another", code=1)
    assert "holds no index 'another'" in knnex("resume", "another", code=1)


def test_metrics_on_the_command_line(knnex: Command, log: RedisLog, index_name: str) -> None:
    log.append([film(index_name, 1)])
    assert f'knnex_events_waiting{{index="{index_name}",lane="live"}} 1.0' in knnex("metrics")
    serving = knnex.begin("metrics", "--port", "0", stderr=subprocess.PIPE)
    assert serving.stderr
    url = re.search(r"http://\S+", serving.stderr.readline().decode())
    assert url
    assert index_name in urllib.request.urlopen(url[0], timeout=60).read().decode()
    serving.send_signal(signal.SIGINT)
    serving.stderr.close()
    assert serving.wait(60) == 0


@pytest.mark.parametrize("command", ["status", "watch", "metrics", "pause", "resume"])
def test_every_command_is_explained(command: str) -> None:
    assert f"$ knnex {command}" in DOCS
