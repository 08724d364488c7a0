"""Connections to engines, what they can do, and how they differ. Only this package talks to a server."""

from __future__ import annotations

from .capabilities import Capabilities
from .connect import Access, open_async_engine, open_engine
from .dialect import Dialect, VectorField
from .engine import AsyncEngine, Engine, is_async, wrap, wrap_async
from .wire import Flow, Request, Response, Work, adrive, drive, encode, path_of

__all__ = [
    "Access",
    "AsyncEngine",
    "Capabilities",
    "Dialect",
    "Engine",
    "Flow",
    "Request",
    "Response",
    "VectorField",
    "Work",
    "adrive",
    "drive",
    "encode",
    "is_async",
    "open_async_engine",
    "open_engine",
    "path_of",
    "wrap",
    "wrap_async",
]
