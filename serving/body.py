"""The body of a request: read with limits, as JSON or as NDJSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

import orjson
from starlette.requests import Request

from ..ingest import Origin, Refused
from ..ingest.events import MAX_DOCUMENT_BYTES
from .answers import CLOSE, COME_BACK, Declined

MAX_BODY_BYTES = 32_000_000
#: Seconds for a whole body, and for the next piece of it.
BODY_SECONDS, PIECE_SECONDS = 120.0, 15.0
#: Bytes of all bodies that are being read or worked on at one time.
MAX_HELD_BYTES = 256_000_000
# So much of a body that is too large is still read, so that its sender hears the answer instead of a broken pipe.
_LINGER_BYTES = 2 * MAX_BODY_BYTES
_JSON = ("application/json", "application/vnd.kafka.json.v2+json")
_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")


class Budget:
    """The bytes that all requests together hold."""

    def __init__(self, most: int = MAX_HELD_BYTES) -> None:
        self.most, self.held = most, 0

    def take(self, more: int) -> None:
        """Raises Declined (503)."""
        if self.held + more > self.most:
            raise Declined(
                503, "too many large requests at a time", "send it again later", CLOSE | {"Retry-After": str(COME_BACK)}
            )
        self.held += more

    def give_back(self, some: int) -> None:
        """When a request is done."""
        self.held -= some


def is_lines(request: Request) -> bool:
    """Whether NDJSON is announced; whatever is no JSON at all is declined (415).

    Browsers send other types to any address without asking first: what a page can make them send is not taken.
    """
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind not in (*_JSON, *_LINES) or request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Declined(
            415,
            f"the body is {kind or 'of no type'}"[:100] if kind not in (*_JSON, *_LINES) else "the body is compressed",
            "send plain JSON as application/json, or a line for each event as application/x-ndjson",
        )
    return kind in _LINES


async def read_body(request: Request, budget: Budget) -> bytes:
    """The body; at most MAX_BODY_BYTES of it are ever held. Raises Declined (408, 413, 503), ClientDisconnect."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > _LINGER_BYTES:
        _too_large()
    pieces: list[bytes] = []
    seen = held = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in _pieces(request):
                seen += len(piece)
                if seen <= MAX_BODY_BYTES:
                    budget.take(len(piece))
                    held += len(piece)
                    pieces.append(piece)
                elif seen > _LINGER_BYTES:
                    break
    except TimeoutError:
        budget.give_back(held)
        raise Declined(408, "the body came too slowly", "send less in one request", CLOSE) from None
    except BaseException:
        budget.give_back(held)
        raise
    if seen > MAX_BODY_BYTES:
        budget.give_back(held)
        _too_large()
    return b"".join(pieces)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(PIECE_SECONDS):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        yield piece


def _too_large() -> NoReturn:
    raise Declined(
        413,
        f"the body has more than {MAX_BODY_BYTES:,} bytes",
        f"send it in several requests; a document may have {MAX_DOCUMENT_BYTES:,} bytes",
        CLOSE,
    )


def read_values(data: bytes, lines: bool) -> Iterator[tuple[Origin | None, Any] | Refused]:
    """The JSON values of a body, with their lines where it is NDJSON; a line that is no JSON is refused.

    Raises Declined (400) for a body of which nothing can be read.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise Declined(400, "the body is empty", "send an event, an array of events, or a line for each")
    if not lines:
        try:
            value = _parse(data)
        except ValueError as error:
            if not _starts_with_line(data):
                raise Declined(400, f"the body is no JSON: {error}", "nothing of it was taken") from None
        else:
            yield None, value
            return
    yield from _read_lines(data)


def _read_lines(data: bytes) -> Iterator[tuple[Origin | None, Any] | Refused]:
    start = number = 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        line, start, number = data[start:end], end + 1, number + 1
        if line.strip():
            origin = Origin("", number)
            try:
                yield origin, _parse(line)
            except ValueError as error:
                yield Refused(origin, "", f"not JSON: {error}")


def _starts_with_line(data: bytes) -> bool:
    """Whether the body is NDJSON that was sent as JSON: its first line is an object of its own."""
    first, _, rest = data.lstrip().partition(b"\n")
    try:
        return bool(rest.strip()) and isinstance(_parse(first), dict)
    except ValueError:
        return False


def _parse(data: bytes) -> Any:
    """Raises ValueError, whose message has the place but nothing of the text."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "surrogate" not in error.msg:
            raise ValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    try:
        # Halves of characters, which many languages write, are JSON all the same; `accept` mends them.
        return json.loads(data.decode(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
