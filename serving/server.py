"""The server process: where it listens, and what it does about slow and many clients."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import SettingsError
from ..settings import Settings
from ..telemetry import formatter
from .app import make_app
from .backend import Backend

log = logging.getLogger(__name__)

PORT = 8088
# Seconds: for the head of a request, until a connection without one is closed, for requests at hand at the end.
HEAD_SECONDS, IDLE_SECONDS, END_SECONDS = 10.0, 30, 30
#: Connections at a time; one more is told to come back (503).
MAX_CONNECTIONS = 512
MAX_HEAD_BYTES = 32_768


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which by itself waits for ever for the first request of a connection, and for its end."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The head of a request has to come in time."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Data that completes no head does not lengthen the time for it."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._unwatch()
        elif self._deadline is None:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self.transport.close()


class QuietServer(uvicorn.Server):
    """uvicorn's server, which by itself ends by the signal that asked it to end, as if it had been killed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A first signal lets requests at hand finish, a second one does not."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    settings: Settings, host: str = "127.0.0.1", port: int = PORT, started: Callable[[str], object] = lambda _: None
) -> int:
    """Serve until SIGTERM or SIGINT, which lets requests at hand finish; the exit code.

    `started` is told the URL; port 0 is any free one. Raises SettingsError for an address that others can reach where
    there is no token, and for one that is in use; LogUnavailable for a log that is away, or could lose events.
    """
    check_reach(settings, host)
    backend = Backend(settings)
    backend.log.check()
    listening = _listen(host, port)
    _log_to_terminal(settings)
    server = QuietServer(
        uvicorn.Config(
            make_app(settings, backend),
            http=PatientProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            # The address of a client decides nothing here; nobody needs to be believed about it.
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=int(END_SECONDS),
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
    )
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listening.getsockname()[1]}"
    log.info("Takes events at %s, log at %s", url, backend.log.address, extra={"action": "server_started", "url": url})
    started(url)
    server.run(sockets=[listening])
    log.info("The server has stopped", extra={"action": "server_stopped"})
    return 0 if server.started else 1


def check_reach(settings: Settings, host: str) -> None:
    """Without a token only this machine may be served. Raises SettingsError."""
    if settings.token is not None:
        if not settings.token.get_secret_value().strip():
            raise SettingsError("KNNEX_TOKEN is empty", hint="give it a long random value, or unset it")
        return
    reached = {str(found[4][0]) for found in _resolve(host, 0)}
    if not all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in reached):
        raise SettingsError(
            f"anybody who reaches {host} could write to every index: there is no token",
            hint="set KNNEX_TOKEN, which producers send as `Authorization: Bearer TOKEN`, or use --host 127.0.0.1",
        )


def _resolve(host: str, port: int) -> list[Any]:
    try:
        return list(socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM))  # noqa: S104
    except OSError as error:
        raise SettingsError(f"{host!r} is no address to listen at: {error}", hint="try --host 127.0.0.1") from None


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = _resolve(host, port)[0]
    try:
        return socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise SettingsError(f"cannot listen at {host}, port {port}: {error}", hint="try another --port") from None


def _log_to_terminal(settings: Settings) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings))
    for name, level in (("knnex", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
