"""Elasticsearch and OpenSearch as embedded servers: one family, so one recipe and a table of what differs."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import EngineStartFailed, SettingsError
from .artifacts import Artifact, Distribution, Progress, silent, unpacked, without
from .java import Java, find_java
from .server import Command, EmbeddedServer, Recipe, Run, get, heap_bytes, start

_VECTOR = "jdk.incubator.vector"
_ELASTIC = "org.elasticsearch.distribution.integ-test-zip"
_OPEN = "org.opensearch.distribution.integ-test-zip"


@dataclass(frozen=True)
class Release:
    """A version that can be embedded, and the Java it asks for."""

    distribution: Distribution
    java: int
    modules: frozenset[str]


@dataclass(frozen=True)
class Product:
    """What sets the two servers apart; the newest release comes first."""

    name: str
    title: str
    prefix: str
    releases: Mapping[str, Release]
    settings: Mapping[str, str]


ELASTICSEARCH = Product(
    "elasticsearch",
    "Elasticsearch",
    "ES",
    {
        "9.5.0": Release(
            Distribution(
                "elasticsearch-9.5.0",
                Artifact(
                    _ELASTIC,
                    "elasticsearch",
                    "9.5.0",
                    "db0e275fd790f723eca7bcde96069fd6fed304ad23afdb70c8c09553dd9e8b1b",
                    129_856_182,
                ),
            ),
            java=21,
            modules=frozenset({_VECTOR, "jdk.jdi"}),
        ),
        "8.19.21": Release(
            Distribution(
                "elasticsearch-8.19.21",
                Artifact(
                    _ELASTIC,
                    "elasticsearch",
                    "8.19.21",
                    "215d5f3dbf0609a149f6218a9e47b6ae2df34ebbff3c5754e35f15a5e5393c8a",
                    106_871_955,
                ),
            ),
            java=17,
            modules=frozenset({_VECTOR, "jdk.jdi"}),
        ),
    },
    {"xpack.security.enabled": "false"},
)
OPENSEARCH = Product(
    "opensearch",
    "OpenSearch",
    "OPENSEARCH",
    {
        "3.6.0": Release(
            Distribution(
                "opensearch-3.6.0",
                Artifact(
                    _OPEN,
                    "opensearch",
                    "3.6.0",
                    "a91faa1dc1cadc78cb278b4f63847e19e1627a4e9de698e14e7efc14ee37b286",
                    161_609_640,
                ),
                {
                    "opensearch-knn": Artifact(
                        "org.opensearch.plugin",
                        "opensearch-knn",
                        "3.6.0.0",
                        "ac392ca28a39b3bf290648a422ef30cb149dda2963a9d7feb26060e932341c9a",
                        6_015_541,
                    )
                },
            ),
            java=21,
            modules=frozenset(),
        )
    },
    {},
)
PRODUCTS = {product.name: product for product in (ELASTICSEARCH, OPENSEARCH)}

_SETTINGS = {
    "cluster.name": "knnex",
    "node.name": "knnex",
    "network.host": "127.0.0.1",
    "transport.port": "0",
    "discovery.type": "single-node",
    # An embedded server shares its disk with everything else; a nearly full one must not make indices read-only.
    "cluster.routing.allocation.disk.threshold_enabled": "false",
}
# One log, on standard output, which the guard writes to a file.
_LOGGING = """status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %marker%m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
logger.grpc.name = org.opensearch.transport.grpc
logger.grpc.level = warn
"""
# Files in the server's own directory, which it may not write.
_NOT_OURS = re.compile(r"-Xlog:gc|-Xloggc|HeapDump|ErrorFile|^-Xm[sx]|PrintGC|GCLogFile")
_LISTENS = re.compile(r"HttpServerTransport\s*\].*publish_address \{([^}]+)\}")


@dataclass(frozen=True)
class _Node:
    """One start of one release."""

    product: Product
    folder: Path
    java: Java
    heap: str
    port: str

    def prepare(self, run: Run) -> Command:
        name, prefix = self.product.name, self.product.prefix
        (run.config / f"{name}.yml").write_text(self.settings(run))
        (run.config / "log4j2.properties").write_text(_LOGGING)
        (run.config / "jvm.options").write_text(self.jvm_options())
        (run.config / "jvm.options.d").mkdir()
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(run.scratch),
            "LC_ALL": "C.UTF-8",  # or a JVM cannot open paths with letters beyond ASCII
            f"{prefix}_JAVA_HOME": str(self.java.home),
            f"{prefix}_PATH_CONF": str(run.config),
            f"{prefix}_TMPDIR": str(run.scratch),
        }
        port = int(self.port) if self.port.isdigit() else 0
        return Command([str(self.folder / "bin" / name)], env, self.folder, port)

    def settings(self, run: Run) -> str:
        own = {
            "http.port": self.port,
            "path.data": json.dumps(str(run.data)),
            "path.logs": json.dumps(str(run.scratch)),
        }
        return "".join(f"{key}: {value}\n" for key, value in (_SETTINGS | own | dict(self.product.settings)).items())

    def jvm_options(self) -> str:
        given = (self.folder / "config" / "jvm.options").read_text().splitlines()
        kept = [line for line in given if line.strip() and not line.startswith("#") and not _NOT_OURS.search(line)]
        if _VECTOR not in self.java.modules:
            kept = [line for line in kept if _VECTOR not in line]
        # Memory is taken when it is used, and a JVM that breaks says so in the log.
        own = [f"-Xms{self.heap}", f"-Xmx{self.heap}", "-XX:-AlwaysPreTouch", "-XX:+ExitOnOutOfMemoryError"]
        own += ["-XX:-HeapDumpOnOutOfMemoryError", "-XX:+ErrorFileToStderr"]
        return "\n".join([*kept, *own, ""])


def _url(log: str, _command: Command) -> str | None:
    match = _LISTENS.search(log)
    return f"http://{match[1]}" if match else None


class _Health:
    """Ready when every shard can be searched; one that is broken for good does not hold the start up for ever."""

    patience = 30.0

    def __init__(self) -> None:
        self.since: float | None = None

    def __call__(self, url: str) -> bool:
        status = get(url, "/_cluster/health?wait_for_status=yellow&timeout=1s", timeout=5)
        if status == 408 and self.since is None:
            self.since = time.monotonic()
        return status == 200 or (self.since is not None and time.monotonic() - self.since > self.patience)


def release(product: Product, version: str | None) -> tuple[str, Release]:
    """A release of a product, the newest by default. Raises SettingsError for one that cannot be embedded."""
    version = version or next(iter(product.releases))
    if version not in product.releases:
        raise SettingsError(
            f"{product.title} {version} cannot be embedded",
            hint=f"choose one of {', '.join(product.releases)}, or connect to a server of your own by its URL",
        )
    return version, product.releases[version]


def java_for(product: Product, version: str | None = None) -> Java:
    """A Java for a release. Raises EngineStartFailed.

    Any Java of the right age runs OpenSearch; one with the vector module searches faster, so that is looked for first.
    """
    _, wanted = release(product, version)
    if wanted.modules:
        return find_java(wanted.java, wanted.modules)
    try:
        return find_java(wanted.java, {_VECTOR})
    except EngineStartFailed:
        return find_java(wanted.java)


def choose() -> tuple[Product, str]:
    """The engine for this machine: the newest Elasticsearch that a Java here can run, else OpenSearch."""
    for version in ELASTICSEARCH.releases:
        try:
            java_for(ELASTICSEARCH, version)
        except EngineStartFailed:
            continue
        return ELASTICSEARCH, version
    return OPENSEARCH, next(iter(OPENSEARCH.releases))


def start_node(
    product: Product,
    version: str | None = None,
    *,
    home: Path | None = None,
    heap: str = "1g",
    port: str | int = 0,
    java: Java | None = None,
    keep: str | None = None,
    owner: bool = True,
    timeout: float = 240.0,
    progress: Progress = silent,
) -> EmbeddedServer:
    """Start a node and return when it answers; `heap` such as 512m, `port` a number, a range `19200-19299` or 0: any.

    Without `keep`, the name of a directory under `home`, its data goes when it stops. Raises EngineStartFailed.
    """
    version, wanted = release(product, version)
    memory = heap_bytes(heap)
    java = java or java_for(product, version)
    folder = unpacked(wanted.distribution, progress)
    # The small Java lacks the locale data that the Thai analyzer of this module asks for whenever an index is made.
    folder = without(folder, "analysis-common") if java.bundled else folder
    node = _Node(product, folder, java, heap, str(port))
    recipe = Recipe(product.name, product.title, version, memory, False, node.prepare, _url, _Health())
    return start(recipe, home=home, keep=keep, owner=owner, timeout=timeout, progress=progress)


start_elasticsearch = partial(start_node, ELASTICSEARCH)
start_opensearch = partial(start_node, OPENSEARCH)
