"""`GET /health` and `GET /metrics`."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from ..errors import KnnexError, SettingsError
from .answers import Declined, answer
from .backend import Backend

log = logging.getLogger(__name__)

# Seconds after which a part that does not answer is taken for down.
_PATIENCE = 5.0


class Health:
    """What a load balancer and a Prometheus ask."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._asking = anyio.CapacityLimiter(4)

    async def health(self, _: Request) -> Response:
        """200 when log and engine answer, else 503 with which does not; the reason is in the server's own log."""
        found = {"log": "down", "engine": "down"}
        async with anyio.create_task_group() as group:
            for part, ask in (("log", self._ask_log), ("engine", self._backend.ping)):
                group.start_soon(self._look, part, ask, found)
        well = set(found.values()) == {"ok"}
        return answer(found, 200 if well else 503, {} if well else {"Retry-After": "5"})

    async def metrics(self, _: Request) -> Response:
        """The figures of log and workers, in the text format of Prometheus."""
        from ..workers.metrics import exposition

        try:
            body, kind = await anyio.to_thread.run_sync(exposition, self._backend.log, limiter=self._asking)
        except SettingsError as missing:  # the library that writes them
            raise Declined(501, str(missing), missing.hint) from None
        return Response(body, headers={"content-type": kind})

    async def _look(self, part: str, ask: Callable[[], object], found: dict[str, str]) -> None:
        with anyio.move_on_after(_PATIENCE):
            try:
                await anyio.to_thread.run_sync(ask, limiter=self._asking, abandon_on_cancel=True)
                found[part] = "ok"
            except KnnexError as error:
                log.warning("%s", error, extra={"action": "unhealthy", "part": part})

    def _ask_log(self) -> None:
        self._backend.log.now()
