"""The HTTP server: events from other services come in here, and texts to be encoded."""

from __future__ import annotations

from .app import make_app
from .server import serve

__all__ = ["make_app", "serve"]
