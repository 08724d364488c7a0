"""Ingest for asyncio: the same code in a thread of its own, whose requests are sent by the event loop.

Whoever is cancelled waits until that thread has ended: what it sends is broken off, and no event is left half written.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ..engines import AsyncEngine, Engine, Request, Response

T = TypeVar("T")

# Documents of an async iterable that are handed over at once.
_AT_ONCE = 100


class Bridge:
    """The way from a thread to the event loop, until it is broken off."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._over = threading.Event()
        self._awaited: set[Future[Any]] = set()

    def wait_for(self, asked: Callable[[], Awaitable[T]]) -> T:
        """Let the loop do it. Raises asyncio.CancelledError once it is broken off."""

        async def answered() -> T:
            return await asked()

        self._check()
        future = asyncio.run_coroutine_threadsafe(answered(), self.loop)
        self._awaited.add(future)
        try:
            self._check()
            return future.result()
        except CancelledError:
            raise asyncio.CancelledError from None
        finally:
            future.cancel()
            self._awaited.discard(future)

    def sleep(self, seconds: float) -> None:
        """Sleep. Raises asyncio.CancelledError once it is broken off."""
        self._over.wait(seconds)
        self._check()

    def engine(self, engine: AsyncEngine) -> Engine:
        """An engine for the thread."""
        through = Engine(engine.client, engine.dialect)

        def send(request: Request) -> Response:
            return self.wait_for(lambda: engine.send(request))

        through.send = send
        return through

    def documents(self, documents: Iterable[Any] | AsyncIterable[Any]) -> Iterable[Any]:
        """Documents for the thread, sync ones as they are."""
        return self._drawn(aiter(documents)) if isinstance(documents, AsyncIterable) else documents

    def _drawn(self, documents: AsyncIterator[Any]) -> Iterator[Any]:
        async def some() -> list[Any]:
            found: list[Any] = []
            async for document in documents:
                found.append(document)
                if len(found) == _AT_ONCE:
                    break
            return found

        while found := self.wait_for(some):
            yield from found

    def break_off(self) -> None:
        """Let whatever the thread waits for end."""
        self._over.set()
        for future in list(self._awaited):
            future.cancel()

    def _check(self) -> None:
        if self._over.is_set():
            raise asyncio.CancelledError


async def in_thread(work: Callable[[Bridge], T]) -> T:
    """Do it in a thread of its own; the thread has ended when this returns or raises."""
    loop = asyncio.get_running_loop()
    bridge, context = Bridge(loop), contextvars.copy_context()
    with ThreadPoolExecutor(1, "knnex-ingest") as threads:
        done = loop.run_in_executor(threads, context.run, work, bridge)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            bridge.break_off()
            while not done.done():
                try:
                    await asyncio.wait([done])
                except asyncio.CancelledError:  # once is enough
                    continue
            if not done.cancelled():
                done.exception()  # it was asked for; nobody has to hear of it
            raise
