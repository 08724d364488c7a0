"""The application: its routes, and what they share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from ..settings import Settings
from .answers import HANDLERS
from .backend import Backend
from .body import MAX_HELD_BYTES, Budget
from .encoding import Encoding
from .events import Events
from .guard import Guard
from .health import Health


def make_app(settings: Settings, backend: Backend | None = None) -> Starlette:
    """The server as an ASGI application; engine and log are those of the settings, and closed with it."""
    place, budget = backend or Backend(settings), Budget()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        place.close()

    events, encoding, health = Events(place, budget), Encoding(settings.served_models, budget), Health(place)
    token = settings.token.get_secret_value() if settings.token else None
    app = Starlette(
        routes=[
            Route("/indexes/{index}/events", events.post, methods=["POST"]),
            Route("/encode", encoding.post, methods=["POST"]),
            Route("/health", health.health, methods=["GET"]),
            Route("/metrics", health.metrics, methods=["GET"]),
        ],
        # Whoever has yet to prove that they know the token takes no room from those who did.
        middleware=[Middleware(Guard, token=token, budget=Budget(MAX_HELD_BYTES // 4))],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # it would send whoever asks to what the Host header says
    return app
