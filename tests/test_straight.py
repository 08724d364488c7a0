"""The short way to an engine: the same answers as by the client, and left to the client whatever it does more for."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import proxy
import pytest
from httptools import HttpParserError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from knnex.engines import Access, Engine, Request, open_engine, path_of
from knnex.engines.clients import package_of, sender
from knnex.engines.hops import CHOOSERS
from knnex.engines.straight import Answer, parsed, straight
from knnex.errors import EngineUnreachable, IndexMissing, RequestRejected

CLIENTS = {"elasticsearch": ("elasticsearch", "Elasticsearch"), "opensearch": ("opensearchpy", "OpenSearch")}
LOGGERS = {"elasticsearch": "elastic_transport.transport", "opensearch": "opensearch"}


@pytest.fixture(scope="module")
def engine(engine_url: str) -> Iterator[Engine]:
    """One whose client nobody traces, whatever other tests of this process have set up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_PYTHON_INSTRUMENTATION_ELASTICSEARCH_ENABLED", "false")
        opened = open_engine(engine_url, Access())
        yield opened
        opened.close()


@pytest.fixture
def index(engine: Engine, index_name: str) -> Iterator[str]:
    """Three documents; the fixture of the name deletes only what knnex made."""
    lines: list[Any] = []
    for number in range(3):
        lines += [{"index": {"_id": str(number)}}, {"n": number, "title": f"döcument {number}"}]
    engine.send(Request("POST", path_of(index_name, "_bulk"), {"refresh": "true"}, tuple(lines)))
    yield index_name
    engine.send(Request("DELETE", path_of(index_name)))


def short(engine: Engine, request: Request) -> Any:
    """The answer on the short way alone; a first request has opened a connection."""
    engine.send(Request("GET", "/_cluster/health"))
    return straight(engine.client, package_of(engine.client), engine.dialect.media_type)(request)


def read(index: str) -> Request:
    return Request("POST", path_of(index, "_search"), body={"query": {"match_all": {}}, "sort": ["n"]})


def reads(index: str) -> Sequence[Request]:
    return (
        read(index),
        Request("POST", path_of(index, "_search"), {"size": "1", "filter_path": "hits.hits._id,took"}),
        Request(
            "POST", path_of(index, "_msearch"), body=({}, {"size": 1}, {}, {"query": {"match": {"title": "döcument"}}})
        ),
        Request("GET", path_of(index, "_mapping")),
        Request("GET", path_of(index, "_doc", "1")),
        Request("GET", path_of(index, "_doc", "none"), allow=frozenset({404})),
        Request("POST", path_of(index, "_count"), body={"query": {"range": {"n": {"gte": 1}}}}),
    )


def settled(body: Any) -> Any:
    """An answer without what differs from one time to the next."""
    if isinstance(body, dict):
        return {key: settled(value) for key, value in body.items() if key != "took"}
    return [settled(one) for one in body] if isinstance(body, list) else body


@pytest.mark.parametrize("number", range(7))
def test_the_answer_is_the_clients(engine: Engine, index: str, number: int) -> None:
    request = reads(index)[number]
    found = short(engine, request)
    assert found is not None
    client, headers = (
        engine.client,
        {"accept": "application/json", "content-type": f"application/{request.content_type}"},
    )
    perform = client.perform_request if package_of(client) == "elasticsearch" else client.transport.perform_request
    try:
        answer = perform(
            request.method, request.path, params=dict(request.params), headers=headers, body=request.payload()
        )
        theirs = (200, getattr(answer, "body", answer))
    except Exception as error:
        theirs = (404, getattr(error, "body", None) or error.info)  # type: ignore[attr-defined]
    assert (found.status, settled(found.body)) == (theirs[0], settled(theirs[1]))


def test_what_writes_is_left_to_the_client(engine: Engine, index: str) -> None:
    for request in (
        Request("POST", path_of(index, "_bulk"), body=({"index": {}}, {"n": 5})),
        Request("PUT", path_of(index, "_doc", "7"), body={"n": 7}),
        Request("DELETE", path_of(index, "_doc", "7")),
        Request("POST", path_of(index, "_search"), {"scroll": "1m"}),
        Request("POST", "/_search/scroll", body={"scroll_id": "x"}),
        Request("POST", path_of(index, "_refresh")),
        Request("HEAD", path_of(index)),
    ):
        assert short(engine, request) is None


def test_errors_have_our_names(engine: Engine, index: str) -> None:
    with pytest.raises(IndexMissing):
        engine.send(read(f"{index}-nowhere"))
    with pytest.raises(RequestRejected, match="no_such_key"):
        engine.send(Request("POST", path_of(index, "_search"), body={"no_such_key": {}}))
    assert engine.send(read(index)).status == 200


def test_who_reads_the_clients_log_misses_nothing(
    engine: Engine, engine_name: str, index: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger=LOGGERS[engine_name]):
        assert short(engine, read(index)) is None
        caplog.clear()
        engine.send(read(index))
        assert any(f"{index}/_search" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("engine_name", ["elasticsearch"], indirect=True)
def test_who_collects_the_clients_spans_misses_none(
    engine: Engine, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    assert short(engine, read(index)) is not None
    monkeypatch.setattr(engine.client._otel, "enabled", True)
    monkeypatch.setattr(trace, "get_tracer_provider", TracerProvider)
    assert short(engine, read(index)) is None


@pytest.mark.parametrize("where", ["the class", "the object"])
def test_who_put_something_around_the_client_misses_nothing(
    engine: Engine, engine_url: str, index: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_engine(engine_url, Access())
    transport, seen = opened.client.transport, []
    original = type(transport).perform_request

    def around(self: Any, *args: Any, **more: Any) -> Any:
        seen.append(args)
        return original(self, *args, **more)

    assert short(opened, read(index)) is not None
    if where == "the class":
        monkeypatch.setattr(type(transport), "perform_request", around)
    else:
        monkeypatch.setattr(transport, "perform_request", lambda *args, **more: around(transport, *args, **more))
    opened.send(read(index))
    assert len(seen) == 1
    opened.close()


def test_clients_with_something_of_the_users_own_are_asked_as_they_are(
    engine_name: str, engine_url: str, index: str
) -> None:
    made = getattr(import_module(CLIENTS[engine_name][0]), CLIENTS[engine_name][1])
    special: dict[str, list[dict[str, Any]]] = {
        "elasticsearch": [{"http_compress": True}, {"sniff_before_requests": True}, {"node_class": "requests"}],
        "opensearch": [{"http_compress": True}, {"http_auth": lambda *_: {"x-signature": "1"}}],
    }
    for options in special[engine_name]:
        client = made(engine_url, **options)
        media = (
            "application/vnd.elasticsearch+{}; compatible-with=8"
            if engine_name == "elasticsearch"
            else "application/{}"
        )
        send = sender(client, media)
        assert send(read(index)).body["hits"]["total"]["value"] == 3
        assert straight(client, package_of(client), media)(read(index)) is None
        client.close()


def test_credentials_and_own_headers_go_the_short_way_too(engine: Engine, engine_url: str, index: str) -> None:
    with proxy.gate(engine_url, allow={proxy.basic("kim", "pässword")}) as url:
        opened = open_engine(url, Access(basic_auth=("kim", "pässword")))
        found = short(opened, read(index))
        assert found.body["hits"]["total"]["value"] == 3
        opened.close()


def test_tls_with_a_private_ca(engine_url: str, index: str, tmp_path: Any) -> None:
    tls, pem = proxy.private(tmp_path)
    with proxy.gate(engine_url, tls=tls) as url:
        opened = open_engine(url, Access(ca_certs=pem))
        assert short(opened, read(index)).body["hits"]["total"]["value"] == 3
        opened.close()


def test_a_reply_that_is_lost_is_asked_for_again(engine_url: str, index: str) -> None:
    with proxy.cable(engine_url) as (wire, url):
        opened = open_engine(url, Access(timeout=20))
        assert short(opened, read(index)) is not None
        fault = wire.lose(b"_SEARCH", close=True)
        assert opened.send(read(index)).body["hits"]["total"]["value"] == 3
        assert fault.happened.is_set()
        wire.cut()
        assert opened.send(read(index)).body["hits"]["total"]["value"] == 3
        opened.close()


def test_no_answer_in_time_is_waited_for_once(engine_url: str, index: str) -> None:
    with proxy.cable(engine_url) as (wire, url):
        opened = open_engine(url, Access(timeout=2))
        assert short(opened, read(index)) is not None
        fault = wire.lose(b"_SEARCH", close=False)
        started = time.monotonic()
        with pytest.raises(EngineUnreachable, match="(?i)timed out") as caught:
            opened.send(read(index))
        assert "KNNEX_TIMEOUT" in str(caught.value.hint)
        assert fault.happened.is_set()
        assert time.monotonic() - started < 4
        opened.close()


def test_threads_do_not_get_each_others_answers(engine: Engine, index: str) -> None:
    wrong: list[Any] = []

    def ask(number: int) -> None:
        body = {"query": {"term": {"n": number}}}
        for _ in range(30):
            hits = engine.send(Request("POST", path_of(index, "_search"), body=body)).body["hits"]["hits"]
            if [hit["_id"] for hit in hits] != [str(number)]:
                wrong.append(hits)

    threads = [threading.Thread(target=ask, args=(number % 3,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_side_by_side_keep_their_connections(engine_url: str) -> None:
    opened = open_engine(engine_url, Access())
    opened.send(Request("GET", "/_cluster/health"))
    choose = CHOOSERS[package_of(opened.client)](opened.client)
    hop = choose() if choose else None
    assert hop is not None
    rounds = []
    for _ in range(2):
        rounds.append([hop.pool._get_conn() for _ in range(10)])
        for one in rounds[-1]:
            hop.pool._put_conn(one)
    assert {id(one) for one in rounds[0]} == {id(one) for one in rounds[1]}
    opened.close()


def test_a_path_with_a_line_break_is_not_sent(engine: Engine) -> None:
    assert short(engine, Request("GET", "/_cluster/health HTTP/1.1\r\nx: y\r\n\r\nGET /_cat")) is None


def answered(raw: bytes, sizes: Sequence[int]) -> tuple[int, bytes]:
    """What is read of an answer that comes in pieces of these sizes."""
    here, there = socket.socketpair()

    def write() -> None:
        at = 0
        for size in (*sizes, len(raw)):
            if raw[at : at + size]:
                there.sendall(raw[at : at + size])
            at += size
        there.close()

    thread = threading.Thread(target=write)
    thread.start()
    here.settimeout(5)
    try:
        answer = Answer()
        answer.read(here)
    finally:
        thread.join()
        here.close()
    assert answer.lasts
    return answer.status, b"".join(answer.parts)


def chunked(body: bytes, cuts: Sequence[int]) -> bytes:
    pieces, at = [], 0
    for cut in (*cuts, len(body)):
        pieces.append(body[at : at + cut])
        at += cut
    sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + sent + b"0\r\n\r\n"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    some.binary(max_size=300),
    some.lists(some.integers(1, 40), max_size=9),
    some.lists(some.integers(1, 40), max_size=9),
)
def test_an_answer_comes_in_any_pieces(body: bytes, cuts: list[int], sizes: list[int]) -> None:
    whole = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    assert answered(whole, sizes) == (404, body)
    assert answered(chunked(body, cuts), sizes) == (200, body)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
def test_what_is_no_whole_answer_is_left_to_the_client(raw: bytes) -> None:
    with pytest.raises((OSError, HttpParserError)):
        answered(raw, ())


def test_after_an_interim_answer_a_connection_is_not_used_again() -> None:
    """What comes next is the answer to this request, and would be taken for that to the next one."""
    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
        answer = Answer()
        answer.read(here)
    assert (answer.status, answer.lasts) == (103, False)


@pytest.mark.parametrize(
    "text",
    [
        '{"_source": {"n": 123456789012345678901234567890, "m": -99999999999999999999999}}',
        '{"_source": {"n": 18446744073709551615, "x": 0.1234567890123456789012}}',
        '{"hits": "\\ud83d alone"}',
        '{"score": NaN}',
        '{"a": {"b": [1, 2.5, null, true, "\\u00fc"]}}',
    ],
)
def test_json_is_read_as_the_client_reads_it(text: str) -> None:
    assert repr(parsed(text.encode())) == repr(json.loads(text))
