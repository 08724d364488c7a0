"""The shortest way to ask: a client's own open connection, written to and read from without the client's layers.

A kNN search takes a server half a millisecond, and the official clients add as much of the processor's time again: a
dozen copies of headers, URL parsing, retry objects, head and body in packets of their own, an email parser for the
answer's head, and JSON in Python. A read that may be repeated therefore goes straight over the socket that the client
opened, with its host, credentials, headers, TLS and timeout, and is read by llhttp (the parser of Node.js). Whatever
is out of the ordinary (no open connection yet, a connection that broke, an answer to be tried again, a warning,
somebody who listens: logs, traces, metrics) is left to the client, which asks from the beginning: retries, dead nodes
and sniffing stay its own.
"""

# What the methods of an Answer do is what the parser calls them.
# ruff: noqa: D102

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import orjson
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from .hops import CHOOSERS, Hop
from .wire import Request, Response

#: An answer, or None where the client has to be asked.
Ask = Callable[[Request], "Response | None"]

_RECEIVED = 1 << 16
# What POST only reads; `/_search/scroll` moves a cursor and is not among them.
_READS = ("/_search", "/_msearch", "/_count", "/_mget")
# An integer that orjson may not keep: it makes floats of those beyond 64 bits.
_ZEROS, _LONG = bytes.maketrans(b"123456789", b"0" * 9), b"0" * 19


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


class Answer:
    """An answer as its parts arrive; the methods are what the parser calls."""

    __slots__ = ("headers", "lasts", "parser", "parts", "status", "whole")

    def __init__(self) -> None:
        self.parser: HttpResponseParser | None = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []
        self.whole = False
        #: Whether the connection does.
        self.lasts = False

    def on_message_begin(self) -> None:
        if self.whole:  # of somebody else's request
            raise _Unusual

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.whole = True
        if self.parser is not None:  # which forgets both afterwards
            self.status = self.parser.get_status_code()
            # After an interim answer (1xx) the real one comes, to nobody.
            self.lasts = self.status >= 200 and self.parser.should_keep_alive()

    def read(self, sock: Any) -> None:
        """Read it whole. Raises HttpParserError for what is no answer, OSError."""
        parser = self.parser = HttpResponseParser(self)
        try:
            while not self.whole:
                received = sock.recv(_RECEIVED)
                if not received:
                    raise ConnectionResetError("it ended before the answer did")
                parser.feed_data(received)
        finally:
            self.parser = None  # it holds this one


def _exchanged(hop: Hop, request: Request, headers: Mapping[str, str], payload: bytes | None) -> Answer | None:
    from urllib3.exceptions import HTTPError

    try:
        connection = hop.pool._get_conn()
    except HTTPError:  # closed, or none is free: the client says so
        return None
    sock, answer = connection.sock, Answer()
    if sock is None or hop.pool.proxy is not None:  # the client connects, and the next request finds it open
        hop.pool._put_conn(connection)
        return None
    try:
        head = _head(hop, connection, request, headers, payload)
        sock.settimeout(hop.timeout)
        # At once: http.client sends head and body apart, for which the server waits twice.
        sock.sendall(head + payload if payload else head)
        answer.read(sock)
    except TimeoutError:
        if hop.late is not None:
            hop.late()
            raise
    except (OSError, ValueError, HttpParserError, HttpParserUpgrade, _Unusual):
        answer.lasts = False
        return None  # asked again by the client, which tells what is wrong if it still is
    finally:
        if not answer.lasts:
            connection.close()
        hop.pool._put_conn(connection)
    return answer if answer.whole else None


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


def _judged(hop: Hop, answer: Answer) -> Response | None:
    """The answer, unless the client does more with one like it than to hand it on."""
    status, headers = answer.status, answer.headers
    plain = b"content-encoding" not in headers and b"warning" not in headers
    if not plain or b"json" not in headers.get(b"content-type", b"") or not (status == 200 or status in hop.final):
        return None
    try:
        body = parsed(b"".join(answer.parts))
    except ValueError:
        return None
    hop.alive()
    return Response(status, body)


def parsed(body: bytes) -> Any:
    """JSON as the standard library reads it: integers of any length, lone surrogates, NaN. Raises ValueError."""
    if b'"_source"' not in body or _LONG not in body.translate(_ZEROS):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
    return json.loads(body.decode("utf-8", "surrogatepass"))
