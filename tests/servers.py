"""Where the suite's servers come from: given by URL, from Docker, or started here.

KNNEX_TEST_FULL=1 says that the servers given by URL are full distributions, with all their modules;
KNNEX_TEST_ELASTICSEARCH_VERSION runs the suite on another Elasticsearch than the newest, 8.19.21 for example.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HEAP = "768m"
_MEMORY, _ROOM = Path("/dev/shm"), 6 << 30
IMAGES = {
    "elasticsearch": "elasticsearch:9.5.0",
    "opensearch": "opensearchproject/opensearch:3.6.0",
    "redis": "redis:8",
}


def is_embedded(name: str) -> bool:
    """Whether the engine is one that is started here, and has the modules of that distribution alone."""
    given = f"KNNEX_TEST_{name.upper()}" in os.environ
    return os.environ.get("KNNEX_TEST_FULL") != "1" if given else os.environ.get("KNNEX_TEST_ENGINES") != "docker"


@contextmanager
def engine(name: str) -> Iterator[str]:
    """The URL of an Elasticsearch or an OpenSearch."""
    given = os.environ.get(f"KNNEX_TEST_{name.upper()}")
    if given:
        yield given
    elif os.environ.get("KNNEX_TEST_ENGINES") == "docker":
        with _container(name) as url:
            yield url
    else:
        with embedded(name, os.environ.get(f"KNNEX_TEST_{name.upper()}_VERSION")) as url:
            yield url


def given_alone(name: str) -> str | None:
    """The URL of a server that only one process of a run uses, where it is given: the first one's."""
    first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    return os.environ.get(f"KNNEX_TEST_{name.upper()}") if first else None


@contextmanager
def redis() -> Iterator[str]:
    """The URL of a Redis with an append-only file."""
    from knnex.engines.embedded import start_redis

    given = given_alone("redis")
    if given:
        yield given
    else:
        with _home() as home, start_redis(home=home) as server:
            yield server.url


@contextmanager
def embedded(name: str, version: str | None = None) -> Iterator[str]:
    """The URL of an engine that is started here."""
    from knnex.engines.embedded import start_elasticsearch, start_opensearch

    start = {"elasticsearch": start_elasticsearch, "opensearch": start_opensearch}[name]
    with _home() as home, start(version, home=home, heap=HEAP) as server:
        yield server.url


@contextmanager
def _home() -> Iterator[Path]:
    """Where a server that all tests share keeps its data: in memory, if there is room, since most tests make an index,
    and on a disk that takes twice as long. Servers that a test kills have homes of their own, on disk.
    """
    from knnex.engines.embedded.server import available_memory

    room = _MEMORY.is_dir() and min(shutil.disk_usage(_MEMORY).free, available_memory()) > _ROOM
    with tempfile.TemporaryDirectory(prefix="knnex-test-", dir=_MEMORY if room else None) as home:
        yield Path(home)


@contextmanager
def _container(name: str) -> Iterator[str]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    container = DockerContainer(IMAGES[name]).with_exposed_ports(9200).with_env("discovery.type", "single-node")
    off = {"elasticsearch": "xpack.security.enabled", "opensearch": "DISABLE_SECURITY_PLUGIN"}[name]
    container = container.with_env(off, "false" if name == "elasticsearch" else "true")
    container = container.waiting_for(HttpWaitStrategy(9200, "/_cluster/health").for_status_code(200))
    with container:
        yield f"http://{container.get_container_host_ip()}:{container.get_exposed_port(9200)}"
