"""Real servers without Docker: fetched once, started as ordinary processes, stopped with their owner."""

from __future__ import annotations

from .java import Java, find_java
from .nodes import start_elasticsearch, start_opensearch
from .redis import start_redis
from .server import EmbeddedServer
from .state import Running, ServerState, down, keep, running, status, up

__all__ = [
    "EmbeddedServer",
    "Java",
    "Running",
    "ServerState",
    "down",
    "find_java",
    "keep",
    "running",
    "start_elasticsearch",
    "start_opensearch",
    "start_redis",
    "status",
    "up",
]
