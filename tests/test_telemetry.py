"""Traces from event to index, log lines for machines, and that no secret is in anything we say."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filling import draining, films, made, own_log, settled
from homes import open_home, until
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from test_cli import Shell

from knnex import telemetry
from knnex.engines import Engine
from knnex.engines.embedded import start_redis
from knnex.ingest import Event, RedisLog
from knnex.ingest.traced import append_traced
from knnex.settings import Settings

ROOT = Path(__file__).parent.parent
CANARY = "cAnArY-7f3a"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="session")
def exporter() -> Iterator[InMemorySpanExporter]:
    """What keeps the spans of this process, which can have one provider in all its life."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    yield kept
    provider.shutdown()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 12)
    yield opened
    opened.forget(index_name)
    opened.close()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [one for one in spans.get_finished_spans() if one.name == name]


def film(index: str, id_: str) -> Event:
    return Event(index, id_, "upsert", {"id": id_, "title": "the cat", "plot": f"sat on the mat {id_}"})


def test_a_document_can_be_followed_from_event_to_index(
    engine: Engine, log: RedisLog, index_name: str, tiny: Path, spans: InMemorySpanExporter
) -> None:
    made(engine, films(index_name, str(tiny)))
    with telemetry.continued(TRACE):
        append_traced(log, [film(index_name, "1"), film(index_name, "2")])
    with draining(log, engine):
        until(lambda: settled(log, index_name))
    (accept,), (batch,) = named(spans, "knnex.accept"), named(spans, "knnex.drain.batch")
    assert f"{accept.context.trace_id:032x}" == TRACE.split("-")[1]
    assert accept.parent is not None
    assert accept.kind is trace.SpanKind.PRODUCER
    assert dict(accept.attributes or {}) == {
        "knnex.index": index_name, "knnex.lane": "live", "knnex.documents": 2
    }  # fmt: skip
    # All of one trace: the batch goes on in it.
    assert [link.context.span_id for link in batch.links] == [accept.context.span_id]
    assert batch.context.trace_id == accept.context.trace_id
    for name in ("knnex.encode", "knnex.bulk"):
        (part,) = named(spans, name)
        assert part.parent is not None
        assert part.parent.span_id == batch.context.span_id
        assert (part.attributes or {})["knnex.documents"] == 2
    assert accept.end_time < batch.end_time  # type: ignore[operator]


def test_a_batch_is_linked_to_all_who_sent_it(
    engine: Engine, log: RedisLog, index_name: str, tiny: Path, spans: InMemorySpanExporter
) -> None:
    made(engine, films(index_name, str(tiny)))
    append_traced(log, [film(index_name, "1")])
    append_traced(log, [film(index_name, "2")])
    log.append([film(index_name, "3")])
    with draining(log, engine):
        until(lambda: settled(log, index_name))
    accepts, (batch,) = named(spans, "knnex.accept"), named(spans, "knnex.drain.batch")
    assert {link.context.span_id for link in batch.links} == {one.context.span_id for one in accepts}
    assert batch.context.trace_id not in {one.context.trace_id for one in accepts}


def test_updates_are_traced_too(
    engine: Engine, log: RedisLog, index_name: str, tiny: Path, spans: InMemorySpanExporter
) -> None:
    made(engine, films(index_name, str(tiny)))
    append_traced(log, [film(index_name, "1"), Event(index_name, "1", "update", {"title": "a dog"})])
    with draining(log, engine):
        until(lambda: settled(log, index_name))
    assert {(one.attributes or {})["knnex.lane"] for one in named(spans, "knnex.drain.batch")} == {"live", "updates"}


def test_an_error_is_noted_in_the_span(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="no good"), telemetry.span("knnex.encode", index="films"):
        raise ValueError("no good")
    (one,) = named(spans, "knnex.encode")
    assert one.status.status_code is trace.StatusCode.ERROR


def test_a_span_keeps_no_more_links_than_it_may(spans: InMemorySpanExporter) -> None:
    parents = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 300)]
    with telemetry.span("knnex.drain.batch", links=parents):
        pass
    assert len(named(spans, "knnex.drain.batch")[0].links) == telemetry.MOST_LINKS


@pytest.mark.parametrize("sent", [None, "", "x", "00-0-0-01", f"00-{'0' * 32}-{'0' * 16}-01", "\x00" * 50])
def test_what_is_no_trace_is_ignored(sent: str | None, spans: InMemorySpanExporter) -> None:
    with telemetry.continued(sent), telemetry.span("knnex.accept", links=[sent]):
        assert telemetry.traceparent()
    (one,) = named(spans, "knnex.accept")
    assert one.parent is None
    assert not one.links


def test_without_opentelemetry_nothing_happens() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from knnex import telemetry\n"
        f"with telemetry.continued({TRACE!r}), telemetry.span('a', links=[{TRACE!r}], index='x') as one:\n"
        "    one.note(more=1)\n"
        "    print(telemetry.traceparent())\n"
        "begun = telemetry.begin('b'); begun.end()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "None\n", done.stderr


def lines_of(form: logging.Formatter, *records: logging.LogRecord) -> list[str]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(form)
    for record in records:
        handler.emit(record)
    return stream.getvalue().splitlines()


def record(message: str, *args: Any, error: bool = False, **extra: Any) -> logging.LogRecord:
    info = None
    if error:
        try:
            raise ValueError(f"at http://elastic:{CANARY}@host:9200")
        except ValueError:
            info = sys.exc_info()
    return logging.getLogger("knnex.tests").makeRecord(
        "knnex.tests", logging.WARNING, __file__, 1, message, args, info, "f", extra
    )


def test_a_line_of_json_has_all_that_is_known(spans: InMemorySpanExporter) -> None:
    form = telemetry.JsonLines()
    with telemetry.span("knnex.bulk"):
        (traced,) = lines_of(form, record("x"))
    plain, odd = lines_of(
        form,
        record("wrote %d\nof %s", 3, "films", action="bulk_written", index="films", wrote=3, took=0.5),
        record("odd", level="mine", share=math.nan, path=Path("a"), seen={"b": [1, None, {2}]}, error=True),
    )
    found = json.loads(plain)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {
        "level": "warning",
        "logger": "knnex.tests",
        "message": "wrote 3\nof films",
        "action": "bulk_written",
        "index": "films",
        "wrote": 3,
        "took": 0.5,
    }
    found = json.loads(odd)
    assert (found["level"], found["share"], found["path"]) == ("warning", "nan", "a")
    assert found["seen"] == {"b": [1, None, [2]]}
    assert "ValueError" in found["error"]
    assert json.loads(traced)["trace"].startswith("00-")


def secretive(log_format: str) -> Settings:
    return Settings(
        url=f"http://elastic:{CANARY}1@host:9200",
        redis_url=f"redis://:{CANARY}%2F2@host:6379/0",
        log_url=SecretStr(f"postgresql+psycopg://knnex:{CANARY}3@host/db"),
        api_key=SecretStr(f"{CANARY}4"),
        password=SecretStr(f"{CANARY}5"),
        token=SecretStr(f"{CANARY}6"),
        log_format=log_format,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_line_holds_a_secret(log_format: str) -> None:
    settings = secretive(log_format)
    form = telemetry.formatter(settings)
    known = (f"{CANARY}/2", f"{CANARY}4", f"{CANARY}5", f"{CANARY}6")
    lines = lines_of(
        form,
        record("no answer from %s", settings.url, error=True, url=settings.redis_url),
        record("key %s, password %s, token %s", *known[1:]),
        record("unquoted", redis=known[0], nested={known[1]: [known[2]]}),
        record("of another's: amqp://guest:%s9@host//", CANARY),
    )
    assert CANARY not in "\n".join(lines)
    assert any("host:9200" in line for line in lines)


@pytest.fixture(scope="module")
def guarded_redis() -> Iterator[str]:
    """The URL of a Redis that wants a password."""
    with open_home() as home, start_redis(home=home) as server:
        RedisLog(str(server.url)).redis.config_set("requirepass", CANARY)
        yield str(server.url).replace("redis://", f"redis://:{CANARY}@")


def test_no_command_tells_a_secret(
    engine: Engine, engine_url: str, guarded_redis: str, index_name: str, tiny: Path, tmp_path: Path
) -> None:
    """Everything that a worker and its commands print, with passwords that are right and passwords that are wrong."""
    made(engine, films(index_name, str(tiny)))
    log = RedisLog(guarded_redis)
    log.append([film(index_name, "1"), Event(index_name, "2", "upsert", {"id": "2", "year": "no year"})])
    ours = {
        "KNNEX_URL": engine_url.replace("http://", f"http://elastic:{CANARY}@"),
        "KNNEX_REDIS_URL": guarded_redis,
        "KNNEX_API_KEY": CANARY,
        "KNNEX_CACHE_DIR": str(tmp_path),
        "KNNEX_LOG_FORMAT": "json",
    }
    shell, said = Shell(tmp_path, **ours), tmp_path / "worker.log"
    command = [sys.executable, "-m", "knnex", "worker"]
    with said.open("wb") as file:
        worker = subprocess.Popen(command, env={**os.environ, **shell.env}, stdout=file, stderr=file)
    try:
        until(lambda: settled(log, index_name) or worker.poll() is not None)
        assert settled(log, index_name), said.read_text()
        commands = [
            ("doctor", index_name),
            ("status",),
            ("watch", "--once"),
            ("metrics",),
            ("buried", "list", index_name),
        ]
        told = [shell(*words) for words in commands]
        wrong = Shell(tmp_path, **ours | {"KNNEX_REDIS_URL": guarded_redis.replace(CANARY, f"{CANARY}x")})
        told.append(wrong("watch", "--once"))
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        log.forget(index_name)
        log.close()
    whole = "".join(one.stdout + one.stderr for one in told)
    assert "refused the credentials" in told[-1].stderr
    assert index_name in whole
    assert CANARY not in said.read_text() + whole
    # Celery says by itself that it is going.
    lines = [json.loads(line) for line in said.read_text().splitlines() if line and not line.startswith("worker: ")]
    assert {"worker_started", "bulk_written", "buried"} <= {line["action"] for line in lines}
    assert next(line for line in lines if line["action"] == "bulk_written")["index"] == index_name


def test_every_action_is_explained() -> None:
    """The table of docs/watching.md names the actions that the code logs, all of them and no others."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", "*.py"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    code = [name for name in names if name.split("/")[0] not in ("tests", "benchmarks", "examples", "docs")]
    logged = {
        action
        for name in code
        if (ROOT / name).is_file()
        for action in re.findall(r"\"action\": \"(\w+)\"", (ROOT / name).read_text())
    }
    page = (ROOT / "docs" / "watching.md").read_text()
    told = re.findall(r"^\| `(\w+)` \|", page[page.index("| action |") :], re.MULTILINE)
    assert sorted(told) == told
    assert set(told) == logged
