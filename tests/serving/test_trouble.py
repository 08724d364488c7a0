"""The HTTP server in trouble: slow, large and crooked requests, servers that are away, kills."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import urllib3
from filling import draining, films, held, made, settled
from homes import open_home, until
from proxy import gate
from served import FIELDS, Server, film, first_lines, rest, serving, taken

from knnex.engines import Engine
from knnex.engines.embedded import start_redis
from knnex.ingest import LANES, Event, RedisLog
from knnex.mappings import create, drop, load_spec


def _send_for_ever(opened: socket.socket, piece: bytes) -> None:
    while True:
        opened.sendall(piece)


def test_a_body_that_is_too_large_is_refused_and_never_held(server: Server, log: RedisLog, index: str) -> None:
    before = server.memory()
    told = server.post(index, b'[{"id":"1","title":"' + b"x" * 33_000_000 + b'"}]')
    assert (told.status, "32,000,000 bytes" in told.body["error"]) == (413, True)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as opened:
        opened.sendall(f"POST /indexes/{index}/events HTTP/1.1\r\n".encode())
        opened.sendall(b"host: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            _send_for_ever(opened, b"100000\r\n" + b"[" * 0x100000 + b"\r\n")
    head = f"POST /indexes/{index}/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    answered = server.raw(f"{head}expect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n".encode())
    assert answered.startswith(b"HTTP/1.1 413")
    assert server.memory() - before < 200_000_000
    assert log.backlog(index).total == 0
    assert server.post(index, film(1)).status == 202


def test_a_document_that_is_too_large_is_refused(server: Server, log: RedisLog, index: str) -> None:
    large = {"op": "upsert", "document": {"id": "1", "title": "x" * 10_000_001}}
    told = server.post(index, large)
    assert (told.status, "10,000,000 are allowed" in told.body["error"]) == (413, True)
    told = server.post(index, [large, film(2)])
    assert (told.status, told.body["refused"][0]["id"]) == (202, "1")
    told = server.post(index, [{"op": "delete", "id": str(number)} for number in range(10_001)])
    assert (told.status, "10,000 events" in told.body["error"]) == (413, True)
    assert [event.id for event in taken(log, index)] == ["2"]


@pytest.mark.parametrize(
    "data",
    [
        first_lines("INDEX", "transfer-encoding: chunked") + b'zz\r\n{"id":"1"}\r\n0\r\n\r\n',
        first_lines("INDEX", "transfer-encoding: chunked") + b'a\r\n{"id":"1"}XX0\r\n\r\n',
        first_lines("INDEX", "transfer-encoding: chunked", "transfer-encoding: identity") + b"0\r\n\r\n",
        first_lines("INDEX", "content-length: 10", "content-length: 11") + b'{"id":"1"}',
        first_lines("INDEX", "content-length: -1") + b'{"id":"1"}',
        first_lines("INDEX", "content-length: 10", "x: a\x00b") + b'{"id":"1"}',
        first_lines("INDEX", "x: " + "a" * 200_000)[:-4],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
    ],
    ids=[
        "chunk-size", "chunk-end", "two-encodings", "two-lengths", "negative-length", "null-byte", "long-head", "no-host",
        "tls",
    ],
)  # fmt: skip
def test_what_is_no_proper_http_is_refused(server: Server, log: RedisLog, index: str, data: bytes) -> None:
    answered = server.raw(data.replace(b"INDEX", index.encode()))
    assert answered.startswith(b"HTTP/1.1 4"), answered
    assert answered.count(b"HTTP/1.1") == 1
    assert log.backlog(index).total == 0


def test_no_second_request_hides_in_a_first(server: Server, log: RedisLog, index: str) -> None:
    """Length and chunks together: the length is not believed, and what lies between the two is not taken."""
    hidden = first_lines(index, "content-length: 10") + b'{"id":"9"}'
    outer = first_lines(index, f"content-length: {len(hidden) + 5}", "transfer-encoding: chunked", "connection: close")
    answered = server.raw(outer + b"0\r\n\r\n" + hidden)
    assert answered.count(b"HTTP/1.1") == 1
    assert b" 202 " not in answered
    assert log.backlog(index).total == 0


def test_a_client_that_goes_away_leaves_nothing(server: Server, log: RedisLog, index: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as opened:
        opened.sendall(first_lines(index, "content-length: 100") + b'{"id":"1"}')
    assert server.post(index, film(2)).status == 202
    assert [event.id for event in taken(log, index)] == ["2"]


@pytest.mark.timeout(120)
def test_who_is_slow_is_sent_away(server: Server, log: RedisLog, index: str) -> None:
    def trickle(opened: socket.socket, data: bytes) -> None:
        for byte in data:
            try:
                opened.sendall(bytes([byte]))
            except OSError:
                return
            time.sleep(0.2)

    with ExitStack() as stack:
        silent, half, body, head = (
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60)) for _ in range(4)
        )
        half.sendall(first_lines(index, "content-length: 10")[:40])
        body.sendall(first_lines(index, "content-length: 10") + b'{"id"')
        thread = threading.Thread(target=trickle, args=(head, first_lines(index, "x: " + "a" * 600)))
        thread.start()
        assert server.post(index, film(1)).status == 202, "meanwhile others are served"
        assert [rest(silent), rest(half), rest(head)] == [b"", b"", b""]
        assert b"408" in rest(body).splitlines()[0]
        thread.join()
    assert [event.id for event in taken(log, index)] == ["1"]


def test_more_than_may_wait_is_not_taken(home: Path, elasticsearch_url: str, log: RedisLog, index: str) -> None:
    given = {"KNNEX_URL": elasticsearch_url, "KNNEX_REDIS_URL": log.url, "KNNEX_MAX_WAITING": "5"}
    with serving(home, **given) as server:
        assert server.post(index, [film(number) for number in range(5)]).status == 202
        told = server.post(index, film(6))
        assert (told.status, int(told.headers["retry-after"]) > 0) == (429, True)
        assert "5 events" in told.body["error"]
        assert len(taken(log, index)) == 5
        until(lambda: server.post(index, film(6)).status == 202)


def test_an_index_long_at_rest_takes_no_more(server: Server, log: RedisLog, index: str) -> None:
    log.append([Event(index, "1", "upsert", {"id": "1"})])
    old = Event(index, "0", "upsert", {"id": "0"})
    taken(log, index)
    log.forget(index)
    stamp = log.now() - 600_000
    log.redis.xgroup_create(f"knnex:{{{index}}}:events", "workers", id="0", mkstream=True)
    for lane in LANES[1:]:
        log.redis.xgroup_create(f"knnex:{{{index}}}:{lane}", "workers", id="0", mkstream=True)
    log.redis.xadd(f"knnex:{{{index}}}:events", {"event": json.dumps({"id": old.id})}, id=f"{stamp}-0")
    assert server.post(index, film(1)).status == 202, "old events alone are a backlog like any other"
    log.pause(index, "its model is away")
    until(lambda: server.post(index, film(1)).status == 429)
    told = server.post(index, film(1))
    assert "its model is away" in told.body["error"]
    log.pause(index, None)
    until(lambda: server.post(index, film(1)).status == 202)


def test_metrics_and_health(server: Server, log: RedisLog, index: str) -> None:
    assert server.post(index, film(1)).status == 202
    told = server("GET", "/health")
    assert (told.status, told.body) == (200, {"log": "ok", "engine": "ok"})
    told = server("GET", "/metrics")
    assert told.status == 200, told.body
    assert told.headers["content-type"].startswith("text/plain")
    assert index.encode() in told.body


def _port() -> int:
    """One that is free."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_a_log_that_is_away(home: Path, elasticsearch_url: str, index: str) -> None:
    port = _port()
    url = f"redis://127.0.0.1:{port}/0"
    with open_home() as place, ExitStack() as stack:
        redis = stack.enter_context(start_redis(home=place, port=port, keep="redis"))
        server = stack.enter_context(serving(home, KNNEX_URL=elasticsearch_url, KNNEX_REDIS_URL=redis.url))
        assert server.post(index, film(1)).status == 202
        redis.stop()
        told = server.post(index, film(2))
        assert (told.status, int(told.headers["retry-after"]) > 0) == (503, True)
        assert f"127.0.0.1:{port}" in told.body["error"]
        told = server("GET", "/health")
        assert (told.status, told.body) == (503, {"log": "down", "engine": "ok"})
        stack.enter_context(start_redis(home=place, port=port, keep="redis"))
        assert server.post(index, film(3)).status == 202
        assert server("GET", "/health").status == 200
        assert [event.id for event in taken(RedisLog(url), index)] == ["1", "3"]


def test_an_engine_that_is_away_keeps_no_event_out(
    home: Path, elasticsearch_url: str, log: RedisLog, index: str
) -> None:
    port = _port()
    with ExitStack() as stack:
        with gate(elasticsearch_url, port=port) as url:
            server = stack.enter_context(serving(home, KNNEX_URL=url, KNNEX_REDIS_URL=log.url))
            assert server.post(index, film(1)).status == 202
        until(lambda: server("GET", "/health").status == 503)
        assert server("GET", "/health").body == {"log": "ok", "engine": "down"}
        time.sleep(1.1)  # what the engine told is older than a second then
        assert server.post(index, film(2)).status == 202
        told = server.post("knnex-test-never-asked", film(1))
        assert (told.status, told.headers["retry-after"]) == (503, "5")
        with gate(elasticsearch_url, port=port):
            until(lambda: server("GET", "/health").status == 200)
            assert server.post(index, film(3)).status == 202
            assert server.post("knnex-test-nowhere", film(1)).status == 404
    assert [event.id for event in taken(log, index)] == ["1", "2", "3"]


def test_a_spec_that_changes_is_noticed(server: Server, one_engine: Engine, log: RedisLog, index: str) -> None:
    assert server.post(index, film(1)).status == 202
    one_engine.run(drop(index))
    until(lambda: server.post(index, film(1)).status == 404)
    spec = load_spec({"index": index, "fields": FIELDS | {"rev": {"type": "long"}}, "version": "rev"})
    one_engine.run(create(spec, one_engine.dialect, {}))
    until(lambda: server.post(index, film(1)).status == 422)
    assert server.post(index, film(1, rev=7)).status == 202
    assert 7 in [event.version for event in taken(log, index)]


class Producer(threading.Thread):
    """Posts one document over and over, and notes what was acknowledged: its numbers, and their positions."""

    def __init__(self, server: Server, index: str, name: str, count: int) -> None:
        super().__init__()
        self.server, self.index, self.id, self.count = server, index, name, count
        self.acknowledged: dict[int, list[str]] = {}

    def run(self) -> None:
        for number in range(self.count):
            body = [{"op": "upsert", "document": {"id": f"{self.id}-{part}", "year": number}} for part in range(3)]
            try:
                told = self.server.post(self.index, body)
            except urllib3.exceptions.HTTPError:  # the server was killed
                return
            assert told.status == 202, told.body
            self.acknowledged[number] = told.body["positions"]


def test_many_producers_at_a_time(server: Server, log: RedisLog, index: str) -> None:
    producers = [Producer(server, index, f"p{number}", 40) for number in range(8)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    events = taken(log, index)
    assert len(events) == 8 * 40 * 3
    for producer in producers:
        positions = [position for number in range(40) for position in producer.acknowledged[number]]
        mine = [event for event in events if event.id.startswith(f"{producer.id}-")]
        assert [event.position for event in mine] == positions, "in the order in which they were sent"
        assert [event.document["year"] for event in mine] == [number for number in range(40) for _ in range(3)]


def test_what_was_acknowledged_survives_kill_9(home: Path, elasticsearch_url: str, log: RedisLog, index: str) -> None:
    acknowledged: dict[str, tuple[str, int]] = {}
    for turn in range(3):
        server = Server(home, KNNEX_URL=elasticsearch_url, KNNEX_REDIS_URL=log.url)
        producers = [Producer(server, index, f"t{turn}p{number}", 1_000_000) for number in range(6)]
        for producer in producers:
            producer.start()
        until(lambda mine=producers: sum(len(one.acknowledged) for one in mine) > 60)  # type: ignore[misc]
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        for producer in producers:
            producer.join()
            for number, positions in producer.acknowledged.items():
                acknowledged |= {at: (f"{producer.id}-{part}", number) for part, at in enumerate(positions)}
    found = {event.position: (event.id, event.document["year"]) for event in taken(log, index)}
    assert len(acknowledged) > 3 * 60 * 3
    assert {at: found.get(at) for at in acknowledged} == acknowledged


def test_a_stop_lets_requests_at_hand_finish(home: Path, elasticsearch_url: str, log: RedisLog, index: str) -> None:
    with serving(home, KNNEX_URL=elasticsearch_url, KNNEX_REDIS_URL=log.url) as server:
        assert server.post(index, film(0)).status == 202
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as opened:
            opened.sendall(first_lines(index, "content-length: 10") + b'{"id":')
            assert server.post(index, film(1)).status == 202, "by now the server has the head of the other"
            server.process.send_signal(signal.SIGTERM)
            until(lambda: _refuses(server.port))
            opened.sendall(b'"1"}')
            assert rest(opened).startswith(b"HTTP/1.1 202")
        assert server.stop() == 0
        assert "The server has stopped" in server.text
    assert [event.id for event in taken(log, index)] == ["0", "1", "1"]


def _refuses(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return False
    except OSError:
        return True


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["--host", "0.0.0.0"], {}, "set KNNEX_TOKEN"),
        (["--host", "::"], {}, "set KNNEX_TOKEN"),
        (["--host", ""], {}, "set KNNEX_TOKEN"),
        (["--host", "0.0.0.0"], {"KNNEX_TOKEN": " "}, "KNNEX_TOKEN is empty"),
        (["--host", "no.such.host.invalid"], {}, "no address to listen at"),
        (["--port", "{port}"], {}, "try another --port"),
        ([], {"KNNEX_REDIS_URL": "redis://127.0.0.1:9/0"}, "no answer from Redis"),
    ],
)
def test_it_does_not_start(
    server: Server, log: RedisLog, tmp_path: Path, words: list[str], environment: dict[str, str], said: str
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("KNNEX_")}
    env |= {"KNNEX_REDIS_URL": log.url, "COLUMNS": "400"} | environment
    command = [sys.executable, "-m", "knnex", "serve", *[word.format(port=server.port) for word in words]]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout
    assert said in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.feature("Events over HTTP")
def test_from_a_request_to_a_document(
    home: Path, engine: Engine, engine_url: str, log: RedisLog, index_name: str, minilm: str
) -> None:
    made(engine, films(index_name, minilm))
    source = {"connector": "postgresql", "lsn": 24023128}
    heat = {"id": 7, "title": "Heat", "plot": "A detective hunts a thief.", "year": 1995}
    steps: list[Any] = [
        [{"before": None, "after": heat, "source": source, "op": "r"}, {"op": "upsert", "document": heat | {"id": 8}}],
        {"before": {"id": 7}, "after": heat | {"year": 1996}, "source": source, "op": "u", "ts_ms": 1},
        {"op": "update", "document": {"id": "8", "genre": "crime"}},
        {"key": {"id": 9}, "value": {"schema": {}, "payload": heat | {"id": 9, "__op": "c", "__deleted": "false"}}},
    ]
    try:
        with serving(home, KNNEX_URL=engine_url, KNNEX_REDIS_URL=log.url) as server, draining(log, engine):
            for step in steps:
                assert server.post(index_name, step).status == 202
            until(lambda: settled(log, index_name))
            found = held(engine, index_name)
            assert {id_: (one["year"], one.get("genre")) for id_, one in found.items()} == {
                "7": (1996, None),
                "8": (1995, "crime"),
                "9": (1995, None),
            }
            assert all(len(one["plot_vector"]) == 384 for one in found.values())
            gone = [{"before": {"id": 7}, "after": None, "source": source, "op": "d"}, {"key": 9, "value": None}]
            assert server.post(index_name, gone).status == 202
            until(lambda: settled(log, index_name))
            assert set(held(engine, index_name)) == {"8"}
    finally:
        log.forget(index_name)
