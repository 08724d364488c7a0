"""Embedded servers: started, stopped with their owner, and clear about why one does not start."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis as redis_client
from homes import PATIENCE, open_home, until

from knnex.engines.embedded import down, running, start_elasticsearch, start_redis, status, up
from knnex.engines.embedded.diagnose import start_failure
from knnex.engines.embedded.place import reachable, server_user
from knnex.engines.embedded.process import Process
from knnex.engines.embedded.server import available_memory, heap_bytes
from knnex.errors import EngineStartFailed, SettingsError


@pytest.fixture
def home() -> Iterator[Path]:
    with open_home() as path:
        yield path


# --- One server ---------------------------------------------------------------------------------------------------


def ask(url: str, *command: str) -> Any:
    with redis_client.Redis.from_url(url, decode_responses=True) as client:
        return client.execute_command(*command)


def test_a_redis_keeps_what_it_acknowledged_and_leaves_nothing_but_its_log(home: Path) -> None:
    with start_redis(home=home) as server:
        assert server.alive()
        assert ask(server.url, "CONFIG", "GET", "appendonly") == {"appendonly": "yes"}
        assert ask(server.url, "CONFIG", "GET", "maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert ask(server.url, "CONFIG", "GET", "bind") == {"bind": "127.0.0.1"}
        assert server.data.is_relative_to(home)
    assert not server.alive()
    assert [path.name for path in home.iterdir()] == ["logs"]
    assert "Ready to accept connections" in server.log.read_text()


def test_a_server_never_runs_as_root(home: Path) -> None:
    with start_redis(home=home) as server:
        user = server_user()
        assert psutil.Process(server.pid).uids().effective == (user.uid if user else os.geteuid()) != 0
        assert server.data.stat().st_uid != 0


def test_a_home_that_the_server_may_not_enter_is_replaced(home: Path) -> None:
    if server_user() is None:  # we are not root, so the server is us, and may enter what we may
        assert reachable(home)
        return
    closed = home / "closed"
    inner = closed / "inner"
    inner.mkdir(parents=True)
    closed.chmod(0o700)
    with start_redis(home=inner) as server:
        assert not server.data.is_relative_to(home)
        assert server.log.is_relative_to(inner)
        assert ask(server.url, "SET", "a", "1")
    assert not server.data.parent.exists()
    kept = up("redis", home=inner).servers[0]
    assert not kept.data.is_relative_to(home)
    down(inner, erase=True)
    assert not kept.data.parent.parent.exists()


def test_two_at_once_have_ports_and_data_of_their_own(home: Path) -> None:
    with start_redis(home=home) as one, start_redis(home=home) as two:
        assert one.url != two.url
        assert one.data != two.data
        ask(one.url, "SET", "a", "1")
        assert ask(two.url, "GET", "a") is None


def test_a_taken_port_is_said(home: Path) -> None:
    with start_redis(home=home) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        for start in (start_redis, functools.partial(start_elasticsearch, heap="256m")):
            with pytest.raises(EngineStartFailed, match=f"did not start: port {port} of 127.0.0.1 is taken") as caught:
                start(home=home, port=port)
            assert "choose another port" in (caught.value.hint or "")
        assert server.alive()


def test_a_log_that_tells_of_a_taken_port_is_understood(home: Path) -> None:
    # Somebody may take the port between our look and the server's own.
    log = home / "redis.log"
    log.write_text("Configuration loaded\nbind: Address already in use\n  at some.stack.trace\n")
    failure = start_failure("Redis 6.2.14", log, 7000, "it ended before it answered")
    assert str(failure).splitlines() == [
        "Redis 6.2.14 did not start: port 7000 of 127.0.0.1 is taken.",
        "  bind: Address already in use",
        f"  log: {log}",
    ]


def test_too_small_a_heap_is_said_with_the_lines_that_show_it(home: Path) -> None:
    with pytest.raises(EngineStartFailed, match="Elasticsearch .* did not start: its heap is too small") as caught:
        start_elasticsearch(home=home, heap="1m")
    assert "Too small maximum heap" in str(caught.value)
    assert str(home / "logs") in str(caught.value)
    assert "larger heap" in (caught.value.hint or "")
    assert [path.name for path in home.iterdir()] == ["logs"]


def test_too_little_memory_is_said_before_anything_starts(home: Path) -> None:
    with pytest.raises(EngineStartFailed, match=r"needs \d+ MB of memory, and \d+ MB are free"):
        start_elasticsearch(home=home, heap="900g")
    assert 0 < available_memory() < heap_bytes("900g")


@pytest.mark.parametrize("heap", ["", "1", "lots", "1.5g", "-1g"])
def test_a_heap_that_is_no_size_is_refused(heap: str) -> None:
    with pytest.raises(SettingsError, match="is no heap size"):
        heap_bytes(heap)


def test_a_version_that_cannot_be_embedded_is_refused_with_those_that_can(home: Path) -> None:
    with pytest.raises(SettingsError, match=r"Elasticsearch 1\.0 cannot be embedded") as caught:
        start_elasticsearch("1.0", home=home)
    assert "9.5.0" in (caught.value.hint or "")


def test_a_home_that_cannot_be_made_is_said(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(EngineStartFailed, match="file/inner cannot be made") as caught:
        start_redis(home=home / "file" / "inner")
    assert "KNNEX_HOME" in (caught.value.hint or "")


# --- Ownership ----------------------------------------------------------------------------------------------------


def owner_of(code: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """A process that starts a server by that code, tells of it, and goes on; and what it told."""
    told = "print(json.dumps([s.url, s.pid, s.process.guard.pid, str(s.data)]), flush=True)"
    script = f"import json, sys\nfrom pathlib import Path\n{code}\n{told}\nsys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, dict(zip(("url", "pid", "guard", "data"), json.loads(process.stdout.readline()), strict=True))


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=PATIENCE)


def test_a_server_ends_with_an_owner_that_is_killed(home: Path) -> None:
    owner, server = owner_of(
        f"from knnex.engines.embedded import start_redis\ns = start_redis(home=Path({str(home)!r}))"
    )
    process, guard = Process.of(server["pid"]), Process.of(server["guard"])
    assert process.alive()
    killed(owner)
    until(lambda: not process.alive() and not guard.alive())
    assert not Path(server["data"]).exists()


def test_a_server_ends_with_an_owner_that_forgot_it(home: Path) -> None:
    owner, server = owner_of(
        f"from knnex.engines.embedded import start_redis\ns = start_redis(home=Path({str(home)!r}))"
    )
    process, guard = Process.of(server["pid"]), Process.of(server["guard"])
    owner.communicate(timeout=PATIENCE)
    assert owner.returncode == 0
    until(lambda: not process.alive() and not guard.alive())


def test_a_server_without_owner_lives_on_and_ends_when_told(home: Path) -> None:
    owner, server = owner_of(
        f"from knnex.engines.embedded import start_redis\ns = start_redis(home=Path({str(home)!r}), owner=False)"
    )
    process, guard = Process.of(server["pid"]), Process.of(server["guard"])
    killed(owner)
    assert ask(server["url"], "PING")
    assert process.alive()
    guard.send(signal.SIGTERM)
    until(lambda: not process.alive() and not guard.alive())


def test_stop_ends_a_server_whose_guard_was_killed(home: Path) -> None:
    with start_redis(home=home) as server:
        server.process.guard.send(signal.SIGKILL)
        until(lambda: not server.process.guard.alive())
    assert not server.alive()


def test_stop_ends_a_server_that_does_not_react(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knnex.engines.embedded.process._GRACE", 0.5)
    with start_redis(home=home) as server:
        server.process.server.send(signal.SIGSTOP)
    assert not server.alive()


def test_a_process_that_has_got_the_id_of_an_ended_one_is_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        real = Process.of(other.pid)
        former = Process(other.pid, real.born + "0")
        assert real.alive()
        assert not former.alive()
        former.send(signal.SIGKILL)
        assert former.wait(0)
        assert other.poll() is None
        other.communicate(b"\n")
    assert other.returncode == 0
    assert not real.alive()
    assert not Process.of(other.pid).alive()


def test_opensearch_runs_on_the_java_of_the_package_and_ends_with_its_owner(home: Path) -> None:
    # What a machine without any Java gets.
    owner, server = owner_of(
        "from knnex.engines.embedded import start_opensearch, find_java\n"
        "from knnex.engines.embedded.java import java_candidates\n"
        "java = find_java(21, set(), [one for one in java_candidates() if one.bundled])\n"
        f"s = start_opensearch(home=Path({str(home)!r}) / 'mes données', heap='512m', java=java)"
    )
    process, guard = Process.of(server["pid"]), Process.of(server["guard"])
    request = urllib.request.Request(
        f"{server['url']}/shelf",
        method="PUT",
        headers={"Content-Type": "application/json"},
        data=json.dumps(
            {
                "settings": {"index.knn": True},
                "mappings": {"properties": {"relation": {"type": "join", "relations": {"author": "book"}}}},
            }
        ).encode(),
    )
    with urllib.request.urlopen(request) as response:
        assert json.load(response)["acknowledged"]
    killed(owner)
    until(lambda: not process.alive() and not guard.alive())


# --- Servers that outlive us --------------------------------------------------------------------------------------


def test_up_finds_what_runs_and_down_stops_only_that(home: Path) -> None:
    with start_redis(home=home) as other:
        first = up("redis", home=home)
        again = up("redis", home=home)
        assert first == again
        assert first.redis_url
        ask(first.redis_url, "SET", "kept", "yes")
        assert [state.pid for state in down(home)] == [first.servers[0].pid]
        assert other.alive()
    assert running(home) is None
    assert status(home) == []
    assert down(home) == []
    back = up("redis", home=home)
    assert back.redis_url
    assert ask(back.redis_url, "GET", "kept") == "yes"
    down(home, erase=True)
    assert not back.servers[0].data.exists()


def test_a_server_that_died_is_shown_and_replaced(home: Path) -> None:
    died = up("redis", home=home).servers[0]
    Process.of(died.pid).send(signal.SIGKILL)
    until(lambda: not status(home)[0].alive)
    assert running(home) is None
    until(lambda: "the server ended by itself: signal 9" in died.log.read_text())
    assert up("redis", home=home).servers[0].pid != died.pid
    assert len(status(home)) == 1


def test_a_server_that_died_comes_back_where_it_was(home: Path) -> None:
    with open_home() as other:
        up("redis", home=other)
        died = up("redis", home=home)
    Process.of(died.servers[0].pid).send(signal.SIGKILL)
    until(lambda: not status(home)[0].alive)
    # The ports below are free now; whoever was connected looks here.
    assert up("redis", home=home).redis_url == died.redis_url


def test_a_stale_state_never_ends_somebody_elses_process(home: Path) -> None:
    up("redis", home=home)
    state = home / "state.json"
    book = json.loads(state.read_text())
    down(home)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        for process in book["servers"][0]["process"].values():
            process["pid"] = other.pid
            assert process["born"]
        state.write_text(json.dumps(book))
        assert [one.alive for one in status(home)] == [False]
        assert down(home) == []
        assert other.poll() is None
        other.communicate(b"\n")


def test_two_ups_at_once_start_one_server(home: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom knnex.engines.embedded import up\n"
    code += "print(up('redis', home=Path(sys.argv[1])).servers[0].pid)"
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    pids = {int(process.communicate(timeout=PATIENCE)[0]) for process in both}
    assert pids == {status(home)[0].pid}


def test_a_state_that_cannot_be_read_is_said(home: Path) -> None:
    (home / "state.json").write_text("{")
    with pytest.raises(SettingsError, match="state.json cannot be read"):
        running(home)
    (home / "state.json").unlink()


def test_nothing_runs_where_nothing_was_started(home: Path) -> None:
    nowhere = home / "nowhere"
    assert running(nowhere) is None
    assert status(nowhere) == []
    assert down(nowhere) == []
    assert not nowhere.exists()


def test_an_engine_that_does_not_exist_is_refused(home: Path) -> None:
    with pytest.raises(SettingsError, match="'solr' is no engine") as caught:
        up("solr", home=home)
    assert "elasticsearch" in (caught.value.hint or "")


def test_up_starts_the_engine_for_this_machine_and_redis(home: Path) -> None:
    told: list[str] = []
    found = up(home=home, heap="512m", progress=told.append)
    assert {state.name for state in found.servers} == {found.engine, "redis"}
    assert [line for line in told if line.startswith("starting")][-1].startswith("starting Redis")
    with urllib.request.urlopen(f"{found.url}/_cluster/health") as response:
        assert json.load(response)["number_of_nodes"] == 1
    assert running(home) == found == up(home=home)
    assert running(home, "solr") is not None  # Redis is there
    assert {state.name for state in down(home)} == {found.engine, "redis"}
    assert running(home) is None
