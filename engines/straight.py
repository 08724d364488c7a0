"""The shortest way to ask: a client's own open connection, written to and read from without the client's layers.

A kNN search takes a server half a millisecond, and the official clients add as much of the processor's time again: a
dozen copies of headers, URL parsing, retry objects, an email parser for the answer's head, and JSON in Python. A read
that may be repeated therefore goes straight over the socket that the client opened, with its host, credentials,
headers, TLS and timeout. Whatever is out of the ordinary (no open connection yet, a connection that broke, an answer to
be tried again, a warning, somebody who listens: logs, traces, metrics) is left to the client, which asks from the
beginning: retries, dead nodes and sniffing stay its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson

from .hops import CHOOSERS, Hop
from .wire import Request, Response

#: An answer, or None where the client has to be asked.
Ask = Callable[[Request], "Response | None"]

_RECEIVED = 1 << 16
_LONGEST_HEAD = 1 << 16
# What POST only reads; `/_search/scroll` moves a cursor and is not among them.
_READS = ("/_search", "/_msearch", "/_count", "/_mget")
# An integer that orjson may not keep: it makes floats of those beyond 64 bits.
_LONG = re.compile(rb"\d{19}")


class _Unusual(Exception):
    """The client has to deal with this."""


def straight(client: Any, package: str, media_type: str) -> Ask:
    """A function that answers reads over the client's open connections, and gives None where the client must.

    It raises InputError for what has no JSON form, and TimeoutError where no answer came in the client's time.
    """
    choose = CHOOSERS[package](client)
    accept = {"accept": media_type.format("json")}

    def ask(request: Request) -> Response | None:
        if choose is None or not _only_reads(request) or (hop := choose()) is None:
            return None
        payload = request.payload()
        headers = {**hop.headers, **accept}
        if payload is not None:
            headers["content-type"] = media_type.format(request.content_type)
        answer = _exchanged(hop, request, headers, payload)
        return None if answer is None else _judged(hop, answer)

    return ask


def _only_reads(request: Request) -> bool:
    reads = request.method == "GET" or (request.method == "POST" and request.path.endswith(_READS))
    return reads and "scroll" not in request.params


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


def _exchanged(hop: Hop, request: Request, headers: Mapping[str, str], payload: bytes | None) -> _Answer | None:
    from urllib3.exceptions import HTTPError

    try:
        connection = hop.pool._get_conn()
    except HTTPError:  # closed, or none is free: the client says so
        return None
    sock, answer = connection.sock, None
    if sock is None or hop.pool.proxy is not None:  # the client connects, and the next request finds it open
        hop.pool._put_conn(connection)
        return None
    try:
        head = _head(hop, connection, request, headers, payload)
        sock.settimeout(hop.timeout)
        sock.sendall(head + payload if payload else head)
        answer = _read(sock)
    except TimeoutError:
        if hop.late is not None:
            hop.late()
            raise
    except (OSError, ValueError, _Unusual):
        pass  # asked again by the client, which tells what is wrong if it still is
    finally:
        if answer is None or answer.headers.get(b"connection", b"").lower() == b"close":
            connection.close()
        hop.pool._put_conn(connection)
    return answer


def _head(hop: Hop, connection: Any, request: Request, headers: Mapping[str, str], payload: bytes | None) -> bytes:
    """The head of the request as http.client writes it."""
    host = f"[{connection.host}]" if ":" in connection.host else connection.host
    host = host if connection.port == connection.default_port else f"{host}:{connection.port}"
    every = {"host": host, "accept-encoding": "identity", **headers}
    if payload is not None:
        every["content-length"] = str(len(payload))
    query = f"?{urlencode(request.params)}" if request.params else ""
    lines = [f"{request.method} {hop.prefix}{request.path}{query} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in every.items()]
    written = "\r\n".join(lines)
    if written.count("\n") != len(every) or written.count("\r") != len(every) or lines[0].count(" ") != 2:
        raise _Unusual  # a header or a path with a line break or a space in it
    return f"{written}\r\n\r\n".encode("latin-1")


def _read(sock: Any) -> _Answer:
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > _LONGEST_HEAD:
            raise _Unusual
        _receive(sock, data)
    first, *lines = bytes(data[:end]).split(b"\r\n")
    if not first.startswith(b"HTTP/1.1 "):
        raise _Unusual
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = _chunks(sock, data, end + 4)
    else:
        stop = end + 4 + int(headers.get(b"content-length", b"none"))
        while len(data) < stop:
            _receive(sock, data)
        body = bytes(data[end + 4 : stop])
        _nothing_after(data, stop)
    return _Answer(int(first[9:12]), headers, body)


def _chunks(sock: Any, data: bytearray, at: int) -> bytes:
    parts: list[bytes] = []
    while True:
        while (end := data.find(b"\r\n", at)) < 0:
            _receive(sock, data)
        size = int(data[at:end], 16)
        stop = end + 2 + size
        while len(data) < stop + 2:
            _receive(sock, data)
        if size < 0 or data[stop : stop + 2] != b"\r\n":  # trailers too
            raise _Unusual
        if size == 0:
            _nothing_after(data, stop + 2)
            return b"".join(parts)
        parts.append(bytes(data[end + 2 : stop]))
        at = stop + 2


def _receive(sock: Any, data: bytearray) -> None:
    received = sock.recv(_RECEIVED)
    if not received:
        raise _Unusual
    data += received


def _nothing_after(data: bytearray, stop: int) -> None:
    if len(data) != stop:
        raise _Unusual


def _judged(hop: Hop, answer: _Answer) -> Response | None:
    """The answer, unless the client does more with one like it than to hand it on."""
    kind = answer.headers.get(b"content-type", b"")
    plain = b"content-encoding" not in answer.headers and b"warning" not in answer.headers
    if not plain or b"json" not in kind or not (answer.status == 200 or answer.status in hop.final):
        return None
    try:
        body = parsed(answer.body)
    except ValueError:
        return None
    hop.alive()
    return Response(answer.status, body)


def parsed(body: bytes) -> Any:
    """JSON as the standard library reads it: integers of any length, lone surrogates, NaN. Raises ValueError."""
    if b'"_source"' not in body or not _LONG.search(body):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
    return json.loads(body.decode("utf-8", "surrogatepass"))
