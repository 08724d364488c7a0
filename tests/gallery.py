"""Pictures drawn on the spot, the same in every way to refer to them, and a server that says what it was asked."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image


def drawn(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture of a few large patches of colour, others for each number."""
    patches = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.NEAREST)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def plain(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{plain(data)}"


class Web:
    """A server on this machine: `/picture`, and paths that are trouble; `asked` has the paths, in order."""

    def __init__(self, picture: bytes) -> None:
        self.picture = picture
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                web.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(asked.path)
        path, given = parts.path, parse_qs(parts.query)
        trouble: dict[str, tuple[int, dict[str, str]]] = {
            "/to": (302, {"Location": given.get("url", [""])[0]}),
            "/round": (302, {"Location": "/round"}),
            "/nowhere": (301, {}),
            "/flaky": (200 if self.asked.count(asked.path) > 2 else 503, {}),
            "/claims": (200, {"Content-Length": "999999999"}),
            "/short": (200, {"Content-Length": str(len(self.picture) + 10)}),
            "/endless": (200, {"Content-Length": ""}),
            "/drip": (200, {"Content-Length": ""}),
        }
        status, headers = trouble.get(path, (200, {}))
        if path.startswith("/status/"):
            status = int(path.rpartition("/")[2])
        asked.send_response(status)
        for name, value in ({"Content-Length": str(len(self.picture))} | headers).items():
            if value:
                asked.send_header(name, value)
        asked.end_headers()
        with suppress(OSError):  # it has heard enough
            for piece in self.pieces(path):
                asked.wfile.write(piece)

    def pieces(self, path: str) -> Iterator[bytes]:
        while path == "/endless":
            yield b"x" * 65536
        if path != "/drip":
            yield self.picture
            return
        for byte in self.picture:
            yield bytes([byte])
            time.sleep(0.05)


@contextmanager
def web(picture: bytes) -> Iterator[Web]:
    made = Web(picture)
    Thread(target=made.server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
