"""Requests and answers as data, and the flows that exchange them.

A flow is a generator that yields requests and is sent responses, so the same code serves sync and async callers
and no module above this one does I/O of its own:

    def count(index: str) -> Flow[int]:
        response = yield Request("GET", f"/{index}/_count")
        return response.body["count"]
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar, cast
from urllib.parse import quote

import orjson

from ..errors import InputError

T = TypeVar("T")
Measured = TypeVar("Measured", bound=Sized)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; `body` is JSON, or the lines of an NDJSON body when it is a tuple."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | tuple[Any, ...] | None = None
    # Statuses from 400 on that are an answer to this request, and no error.
    allow: frozenset[int] = frozenset()

    @property
    def content_type(self) -> str:
        """`json` or `x-ndjson`."""
        return "x-ndjson" if isinstance(self.body, tuple) else "json"

    def payload(self) -> bytes | None:
        """The body as bytes. Raises InputError for a value that JSON cannot hold."""
        if self.body is None:
            return None
        if isinstance(self.body, tuple):
            return b"".join(line + b"\n" for line in map(_line, self.body))
        return encode(self.body)


@dataclass(frozen=True, slots=True)
class Work:
    """A flow's own computation, answered as the body of a Response; async it runs in a thread, and the loop goes on."""

    do: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Response:
    """The status and the parsed body of an answer."""

    status: int
    body: Any


Flow = Generator[Request | Work, Response, T]


def encode(value: Any) -> bytes:
    """JSON as the engines want it: UTF-8, numpy arrays as float32. Raises InputError naming what does not fit."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise InputError(
            f"a value has no JSON form: {error}", hint="use strings, numbers, dates, lists and dicts"
        ) from None


def _line(value: Any) -> bytes:
    return value if isinstance(value, bytes) else encode(value)


def portions(items: Iterable[Measured], most: int, size: int) -> Iterator[list[Measured]]:
    """The items in order, in parts of at most `most` and of `size` together; a larger one is a part of its own."""
    part: list[Measured] = []
    held = 0
    for item in items:
        if part and (len(part) >= most or held + len(item) > size):
            yield part
            part, held = [], 0
        part.append(item)
        held += len(item)
    if part:
        yield part


def path_of(*parts: str) -> str:
    """`/a/b` with every part quoted, so that no name can reach another index."""
    return "/" + "/".join(map(_quoted, parts))


@lru_cache(1024)
def _quoted(part: str) -> str:
    return quote(part, safe=",*")


def drive(flow: Flow[T], send: Callable[[Request], Response]) -> T:
    """Run a flow to its end with `send`; what `send` raises is raised inside the flow, which may catch it."""
    try:
        request = next(flow)
        while True:
            try:
                response = Response(200, request.do()) if isinstance(request, Work) else send(request)
            except Exception as error:
                request = flow.throw(error)
            else:
                request = flow.send(response)
    except StopIteration as done:
        return cast(T, done.value)


async def adrive(flow: Flow[T], send: Callable[[Request], Awaitable[Response]]) -> T:
    """`drive` for an async `send`."""
    try:
        request = next(flow)
        while True:
            try:
                if isinstance(request, Work):
                    response = Response(200, await asyncio.to_thread(request.do))
                else:
                    response = await send(request)
            except Exception as error:
                request = flow.throw(error)
            else:
                request = flow.send(response)
    except StopIteration as done:
        return cast(T, done.value)
