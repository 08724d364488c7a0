"""The HTTP server as producers meet it: a real process, a real log, real sockets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from homes import open_home
from served import JSON, NDJSON, TOKEN, Server, film, first_lines, serving, taken

from knnex.engines import Engine
from knnex.engines.embedded import start_redis
from knnex.ingest import RedisLog


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ([film(1), {"op": "delete", "id": "2"}], JSON),
        (b'{"op":"upsert","document":{"id":"1","title":"Film 1"}}\n\n{"op":"delete","id":"2"}\n', NDJSON),
        (b'{"op":"upsert","document":{"id":"1","title":"Film 1"}}\r\n{"op":"delete","id":"2"}', JSON),
        (b'\xef\xbb\xbf[{"id":"1","title":"Film 1"},{"id":"2","__deleted":"true"}]', JSON),
        ({"records": [{"key": "1", "value": {"title": "Film 1"}}, {"key": "2", "value": None}]}, JSON),
    ],
    ids=["array", "lines", "lines-sent-as-json", "flattened-with-mark", "kafka"],
)
def test_events_are_in_the_log_when_they_are_acknowledged(
    server: Server, log: RedisLog, index: str, body: Any, headers: dict[str, str]
) -> None:
    told = server.post(index, body, **headers)
    assert (told.status, told.body["accepted"], told.body["refused"]) == (202, 2, [])
    events = taken(log, index)
    assert [(event.op, event.id) for event in events] == [("upsert", "1"), ("delete", "2")]
    assert events[0].document["title"] == "Film 1"
    assert [event.position for event in events] == told.body["positions"]


def test_one_event_and_its_trace(server: Server, log: RedisLog, index: str) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    assert server.post(index, film(1), traceparent=trace).status == 202
    assert server.post(index, film(2), traceparent="00-" + "z" * 32 + "-1-1").status == 202
    assert [event.trace for event in taken(log, index)] == [trace, None]


def test_a_request_is_applied_in_its_order_over_all_lanes(server: Server, log: RedisLog, index: str) -> None:
    def snapshot(row: Any) -> Any:
        return {"op": "r", "after": row, "source": {}}

    wanted = [
        snapshot({"id": "1", "title": "old"}),
        snapshot({"id": "2", "title": "old"}),
        {"op": "upsert", "document": {"id": "1", "title": "newer"}},
        {"op": "update", "document": {"id": "1", "year": 1999}},
        {"op": "upsert", "document": {"id": "1", "title": "newest"}},
        {"op": "delete", "id": "2"},
    ]
    told = server.post(index, wanted)
    assert told.status == 202
    assert [position[-1] in "bu" and position[-1] for position in told.body["positions"]][:4:3] == ["b", "u"]
    events = taken(log, index)
    assert [event.position for event in events if event.id == "1"] == [told.body["positions"][n] for n in (0, 2, 3, 4)]
    assert [event.op for event in events if event.id == "2"] == ["upsert", "delete"]


def test_what_may_not_go_in_is_named_and_the_rest_goes_in(server: Server, log: RedisLog, index: str) -> None:
    told = server.post(
        index, [film(1), {"op": "merge"}, {"op": "upsert", "document": {"id": ""}}, {"ts_ms": 4}, film(2)]
    )
    assert (told.status, told.body["accepted"], told.body["ignored"]) == (202, 2, 1)
    assert [one["place"] for one in told.body["refused"]] == [2, 3]
    assert "op 'merge' is unknown" in told.body["refused"][0]["reason"]
    assert "empty" in told.body["refused"][1]["reason"]
    lines = b'{"id":"3"}\nnonsense\n{"id":"x","_knnex":{}}\n'
    told = server.post(index, lines, **NDJSON)
    assert [(one["place"], one["id"]) for one in told.body["refused"]] == [(2, ""), (3, "x")]
    assert [event.id for event in taken(log, index)] == ["1", "2", "3"]


BAD_VALUES = [
    ({"op": "upsert", "document": {"title": "no id"}}, "'id' is missing"),
    ({"op": "upsert", "document": {"id": "x" * 600}}, "at most 512"),
    ({"op": "upsert", "document": {"id": True}}, "not a string or an integer"),
    ({"op": "merge", "document": {"id": "1"}}, "op 'merge' is unknown"),
    ({"op": "t", "source": {}}, "truncate"),
    (7, "not an object"),
    ("text", "not an object"),
    ({"op": "update", "document": {"id": "1"}}, "changes nothing"),
    ({"op": "upsert", "document": {"id": "1"}, "version": 3}, "names no field for versions"),
    (b'{"op":"upsert","document":{"id":"\\ud800"}}', "lone surrogate"),
    (b'{"op":"upsert","document":' + b'{"a":' * 600 + b"1" + b"}" * 600 + b"}", "no JSON form"),
]


@pytest.mark.parametrize(("body", "reason"), BAD_VALUES, ids=[reason for _, reason in BAD_VALUES])
def test_422_where_nothing_may_go_in(server: Server, log: RedisLog, index: str, body: Any, reason: str) -> None:
    told = server.post(index, body)
    assert told.status == 422, told.body
    assert reason in told.body["refused"][0]["reason"]
    assert reason in told.body["error"]
    assert told.body["hint"]
    assert log.backlog(index).total == 0


def test_half_characters_are_mended(server: Server, log: RedisLog, index: str) -> None:
    assert server.post(index, b'[{"id":"1","title":"half \\ud83d"}]').status == 202
    assert [event.document["title"] for event in taken(log, index)] == ["half \ufffd"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty"),
        (b" \n ", "the body is empty"),
        (b'{"op": "upsert", "document": {"id": "1",}}', "line 1, column"),
        (b'[{"id": "1"},\n {"id": 2,, }]', "line 2, column"),
        (b'{"id": "1", "year": NaN}', "line 1, column"),
        (b'[{"id": "\xff"}]', "UTF-8"),
        (b"[" * 5000, "no JSON"),
        (b"\x1f\x8b\x08\x00", "no JSON"),
    ],
    ids=["empty", "blank", "comma", "second-line", "nan", "latin-1", "deep", "gzip"],
)
def test_400_for_what_is_no_json(server: Server, log: RedisLog, index: str, body: bytes, said: str) -> None:
    told = server.post(index, body)
    assert told.status == 400, told.body
    assert said in told.body["error"]
    assert log.backlog(index).total == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("knnex-test-nowhere", "there is no index"),
        ("{index}-000001", "post to /indexes/{index}/events"),
        ("{index},other", "no name of an index"),
        ("{index}%2Cother", "no name of an index"),
        ("knnex-*", "no name of an index"),
        ("_all", "no name of an index"),
        ("..%2f{index}", "events are posted to"),
        ("%00", "no name of an index"),
    ],
)
def test_404_for_what_is_no_index(server: Server, index: str, name: str, said: str) -> None:
    told = server.post(name.format(index=index), film(1))
    assert told.status == 404, told.body
    assert said.format(index=index) in f"{told.body['error']} {told.body['hint']}"


@pytest.mark.parametrize(
    "path", ["/indexes/../events", "/indexes/%2e%2e/events", "/indexes/./events", "/indexes/.x/events"]
)
def test_404_for_what_leads_elsewhere(server: Server, path: str) -> None:
    answered = server.raw(first_lines("x", "content-length: 10", "connection: close", path=path) + b'{"id":"1"}')
    assert answered.startswith(b"HTTP/1.1 404")
    assert b"no name of an index" in answered


def test_404_for_an_index_that_knnex_did_not_make(server: Server, one_engine: Engine) -> None:
    name = f"knnex-test-{uuid4().hex[:12]}"
    one_engine.client.indices.create(index=name)
    try:
        told = server.post(name, film(1))
    finally:
        one_engine.client.indices.delete(index=name)
    assert (told.status, "knnex did not make" in told.body["error"]) == (404, True)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/indexes/{index}/events", {}, 405),
        ("PUT", "/indexes/{index}/events", {}, 405),
        ("OPTIONS", "/indexes/{index}/events", {"origin": "https://evil.example"}, 405),
        ("POST", "/health", {}, 405),
        ("GET", "/", {}, 404),
        ("POST", "/indexes/{index}", {}, 404),
        ("POST", "/indexes/{index}/events/", {}, 404),
        ("POST", "/indexes/{index}/events", {"content-type": "text/plain"}, 415),
        ("POST", "/indexes/{index}/events", {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/indexes/{index}/events", {"content-type": "application/cloudevents+json"}, 415),
        ("POST", "/indexes/{index}/events", {"content-type": ""}, 415),
        ("POST", "/indexes/{index}/events", {"content-encoding": "gzip"}, 415),
        ("POST", "/indexes/{index}/events", {"host": "evil.example"}, 403),
        ("POST", "/indexes/{index}/events", {"host": "evil.example:8088"}, 403),
        ("POST", "/indexes/{index}/events", {"host": "localhost:9"}, 202),
        ("POST", "/indexes/{index}/events", {"host": "[::1]:9"}, 202),
    ],
)
def test_other_requests(
    server: Server, log: RedisLog, index: str, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    told = server(method, path.format(index=index), b'{"id":"1"}', **headers)
    assert told.status == status, told.body
    assert status == 202 or told.body["error"]
    assert log.backlog(index).total == (status == 202)


def test_a_server_for_others_asks_for_its_token(guarded: Server, log: RedisLog, index: str) -> None:
    assert guarded.post(index, film(1)).status == 401
    assert guarded.post(index, film(1)).headers["www-authenticate"] == "Bearer"
    for wrong in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ", f"Basic {TOKEN}", TOKEN, "Bearer ümlaut"):
        told = guarded.post(index, film(1), authorization=wrong.encode("latin-1").decode("latin-1"))
        assert told.status == 403, wrong
        assert TOKEN not in json.dumps(told.body)
    assert guarded("GET", "/metrics").status == 401
    assert guarded("GET", "/nowhere").status == 401
    assert guarded("GET", "/health").status == 200
    assert log.backlog(index).total == 0
    assert guarded.post(index, film(1), authorization=f"Bearer {TOKEN}").status == 202
    assert guarded.post(index, film(2), authorization=f"bearer {TOKEN}", host="search.example").status == 202
    assert [event.id for event in taken(log, index)] == ["1", "2"]


def signed(body: bytes, key: bytes, at: float) -> dict[str, str]:
    """As https://github.com/standard-webhooks/standard-webhooks has it, and Debezium Server does it."""
    stamp = str(int(at))
    made = base64.b64encode(hmac.new(key, b"msg_1." + stamp.encode() + b"." + body, hashlib.sha256).digest())
    return {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": f"v1,{made.decode()}"}


def test_a_signature_stands_for_the_token(guarded: Server, log: RedisLog, index: str) -> None:
    body, key = json.dumps(film(1)).encode(), base64.b64decode(TOKEN)
    good = signed(body, key, time.time())
    assert guarded.post(index, body, **good).status == 202
    several = good | {"webhook-signature": f"v1a,AAAA v1,AAAA {good['webhook-signature']}"}
    assert guarded.post(index, body, **several).status == 202
    assert [event.id for event in taken(log, index)] == ["1", "1"]
    assert guarded.post(index, body + b" ", **good).status == 403
    assert guarded.post(index, body, **signed(body, b"x" * 24, time.time())).status == 403
    assert guarded.post(index, body, **signed(body, key, time.time() - 3600)).status == 403
    assert guarded.post(index, body, **(good | {"webhook-timestamp": "soon"})).status == 403
    assert guarded.post(index, body, **(good | {"webhook-timestamp": "9" * 5000})).status == 403
    assert log.backlog(index).total == 0


def test_no_secret_is_printed(home: Path, elasticsearch_url: str, index: str) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    with open_home() as place, ExitStack() as stack:
        redis = stack.enter_context(start_redis(home=place))
        RedisLog(redis.url).redis.config_set("requirepass", "canary-of-redis")
        url = redis.url.replace("redis://", "redis://:canary-of-redis@")
        given = {
            "KNNEX_URL": elasticsearch_url,
            "KNNEX_REDIS_URL": url,
            "KNNEX_TOKEN": TOKEN,
            "KNNEX_LOG_FORMAT": "json",
        }
        with serving(home, **given) as server:
            answers = [
                server.post(index, film(1), **bearer),
                server.post(index, film(1), authorization="Bearer canary"),
            ]
            stack.close()
            answers += [server.post(index, film(1), **bearer), server("GET", "/health")]
        printed = server.text
    assert [answer.status for answer in answers] == [202, 403, 503, 503]
    for text in (printed, *(json.dumps(answer.body) for answer in answers)):
        assert "canary" not in text
        assert TOKEN not in text
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert {"server_started", "refused_token", "request_failed", "unhealthy"} <= {line["action"] for line in lines}
