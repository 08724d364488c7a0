"""What the tests of the HTTP server share: the server as a process, and what one says to it."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import urllib3
from homes import until

from knnex.ingest import Event, RedisLog

FIELDS = {"title": {"type": "text"}, "year": {"type": "integer"}}
TOKEN = base64.b64encode(b"canary-" + b"0123456789" * 3).decode()
DATABASE = 10
JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Any
    body: Any


class Server:
    """A process of `knnex serve` on a free port, and what it printed."""

    def __init__(self, home: Path, *words: str, **environment: str) -> None:
        self.printed = home / f"serve-{uuid4().hex[:6]}.txt"
        env = {name: value for name, value in os.environ.items() if not name.startswith("KNNEX_")} | environment
        with self.printed.open("wb") as out:
            command = [sys.executable, "-m", "knnex", "serve", "--port", "0", *words]
            self.process = subprocess.Popen(command, cwd=home, env=env, stdout=out, stderr=subprocess.STDOUT)
        until(lambda: self.process.poll() is not None or "/indexes/INDEX/events" in self.text)
        found = re.search(r"http://(\S+):(\d+)/indexes", self.text)
        assert found, self.text
        self.url, self.port = found[0].removesuffix("/indexes"), int(found[2])
        self.pool = urllib3.HTTPConnectionPool("127.0.0.1", self.port, maxsize=16, block=True, retries=False)

    @property
    def text(self) -> str:
        return self.printed.read_text()

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        given = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.pool.request(method, path, body=given, headers=(JSON if given is not None else {}) | named)
        told = answer.headers.get("content-type") == "application/json"
        return Answer(answer.status, answer.headers, json.loads(answer.data) if told else answer.data)

    def post(self, index: str, body: Any, **headers: str) -> Answer:
        return self("POST", f"/indexes/{index}/events", body, **headers)

    def raw(self, data: bytes, patience: float = 30) -> bytes:
        """All that is answered to these bytes, until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as opened:
            opened.sendall(data)
            return rest(opened)

    def memory(self) -> int:
        """Bytes of memory the process has."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.pool.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)


def rest(opened: socket.socket) -> bytes:
    read = b""
    try:
        while piece := opened.recv(65536):
            read += piece
    except ConnectionResetError:
        pass
    return read


@contextmanager
def serving(home: Path, *words: str, **environment: str) -> Iterator[Server]:
    server = Server(home, *words, **environment)
    try:
        yield server
    finally:
        server.stop()


def taken(log: RedisLog, index: str) -> list[Event]:
    """All events of an index, in their order; they are settled."""
    found: list[Event] = []
    while delivered := log.take(index, "reader", 10_000, 60):
        found += [one.event for one in delivered]
        log.settle(index, [one.position for one in delivered])
    return sorted(found, key=lambda event: event.order)


def film(number: int, **more: Any) -> dict[str, Any]:
    return {"op": "upsert", "document": {"id": str(number), "title": f"Film {number}", **more}}


def first_lines(index: str, *lines: str, path: str = "/indexes/{index}/events") -> bytes:
    told = [f"POST {path.format(index=index)} HTTP/1.1", "host: localhost", "content-type: application/json", *lines]
    return ("\r\n".join(told) + "\r\n\r\n").encode()
