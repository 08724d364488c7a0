"""What stands between us and a real server: a gate with TLS and credentials, and a wire that can be cut."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import trustme

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


@contextmanager
def gate(
    upstream: str, *, allow: set[str] | None = None, tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[str]:
    """The URL of a server that forwards to `upstream` what carries one of the `allow`ed Authorization headers."""

    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if allow is not None and self.headers.get("authorization") not in allow:
                self.answer(401, b'{"error":{"type":"security_exception","reason":"unable to authenticate"}}', {})
                return
            connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=60)
            headers = {key: value for key, value in self.headers.items() if key.lower() not in _HOP}
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            self.answer(answer.status, answer.read(), {key.title(): value for key, value in answer.getheaders()})
            connection.close()

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response_only(status)
            for key, value in {"Content-Type": "application/json", **headers}.items():
                if key.lower() not in _HOP:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = forward

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        for connection in connections:
            with suppress(OSError):  # closed by the client already
                connection.shutdown(socket.SHUT_RDWR)


def private(folder: Path) -> tuple[ssl.SSLContext, str]:
    """What a server with a certificate of its own needs, and the file of the authority that vouches for it."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    return tls, str(folder / "ca.pem")


def basic(user: str, password: str) -> str:
    """The Authorization header of basic auth."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class Fault:
    """A fault waiting for its moment: the reply to one of these commands, if it is longer than `size` bytes."""

    commands: Sequence[bytes]
    # Close the connection, or go on swallowing all that comes, as a black hole does.
    close: bool
    size: int
    happened: threading.Event = field(default_factory=threading.Event)


class Wire:
    """A TCP proxy before any server; replies get lost on it, after the server has done what it was asked to do."""

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, *commands: bytes, close: bool, size: int = 64) -> Fault:
        """Have the next long reply to one of these commands lost."""
        fault = Fault(commands, close, size)
        with self._lock:
            self._faults.append(fault)
        return fault

    def cut(self) -> int:
        """Close every connection now; how many there were."""
        with self._lock:
            found = list(self._open)
        for one in found:
            _shut(one)
        return len(found) // 2

    def close(self) -> None:
        """Close all of it."""
        _shut(self.listener)
        self.listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.upstream, 5)
            except OSError:  # the server is down: so are we
                client.close()
                continue
            server.settimeout(None)
            link = _Link(self, client, server)
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=link.forth, daemon=True).start()
            threading.Thread(target=link.back, daemon=True).start()

    def strikes(self, command: bytes, reply: bytes) -> Fault | None:
        """The fault whose moment this is, which is then over."""
        with self._lock:
            for fault in self._faults:
                if len(reply) > fault.size and any(one in command for one in fault.commands):
                    self._faults.remove(fault)
                    return fault
        return None

    def forget(self, *sockets: socket.socket) -> None:
        """These are closed."""
        with self._lock:
            self._open -= set(sockets)


@contextmanager
def cable(upstream: str) -> Iterator[tuple[Wire, str]]:
    """A wire before the server of that URL, and the URL on this side of it."""
    parts = urlsplit(upstream)
    wire = Wire(str(parts.hostname), int(parts.port or 0))
    try:
        yield wire, f"http://127.0.0.1:{wire.port}"
    finally:
        wire.close()


class _Link:
    def __init__(self, wire: Wire, client: socket.socket, server: socket.socket) -> None:
        self.wire, self.client, self.server = wire, client, server
        # The head of the request that has had no reply yet; its body may come in a packet of its own.
        self.command = b""
        self.answered = False
        self.hole = False

    def forth(self) -> None:
        """From the client to the server."""
        with suppress(OSError):
            while data := self.client.recv(1 << 16):
                if not self.hole:
                    if self.answered:
                        self.command, self.answered = b"", False
                    self.command = (self.command + data.upper())[:4096]
                    self.server.sendall(data)
        self._end()

    def back(self) -> None:
        """From the server to the client."""
        with suppress(OSError):
            while data := self.server.recv(1 << 16):
                self.answered = True
                fault = None if self.hole else self.wire.strikes(self.command, data)
                if fault:
                    self.hole = not fault.close
                    fault.happened.set()
                    if fault.close:
                        break
                if not self.hole:
                    self.client.sendall(data)
        self._end()

    def _end(self) -> None:
        for one in (self.client, self.server):
            _shut(one)
            one.close()
        self.wire.forget(self.client, self.server)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):  # closed already
        one.shutdown(socket.SHUT_RDWR)
