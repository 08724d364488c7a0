"""A gate before a real engine: TLS, and credentials that it asks for, as a production set-up has them."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

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


def basic(user: str, password: str) -> str:
    """The Authorization header of basic auth."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
