"""Elasticsearch and OpenSearch as embedded servers: one family, so one recipe."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import EngineStartFailed
from .artifacts import Progress, silent, unpacked, without
from .java import Java, find_java
from .releases import ELASTICSEARCH, OPENSEARCH, VECTOR, Product, release
from .server import Command, EmbeddedServer, Recipe, Run, get, heap_bytes, start

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
# What OpenSearch's launcher (SystemJvmOptions) puts before the options of the file.
_SYSTEM_OPTIONS = (
    "-Xshare:auto",
    "-Dopensearch.networkaddress.cache.ttl=60",
    "-Dopensearch.networkaddress.cache.negative.ttl=10",
    "-Xss1m",
    "-Djava.awt.headless=true",
    "-Dfile.encoding=UTF-8",
    "-Djna.nosys=true",
    "-XX:-OmitStackTraceInFastThrow",
    "-XX:+ShowCodeDetailsInExceptionMessages",
    "-Dio.netty.noUnsafe=true",
    "-Dio.netty.noKeySetOptimization=true",
    "-Dio.netty.recycler.maxCapacityPerThread=0",
    "-Dio.netty.allocator.numDirectArenas=0",
    "-Dlog4j.shutdownHookEnabled=false",
    "-Dlog4j2.disable.jmx=true",
    "-Djava.locale.providers=SPI,CLDR",
)
_OPTION = re.compile(r"(?:(\d+)(-\d*)?:)?(-\S.*)")
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
        """Write the configuration."""
        (run.config / f"{self.product.name}.yml").write_text(self.settings(run))
        (run.config / "log4j2.properties").write_text(_LOGGING)
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(run.scratch),
            "LC_ALL": "C.UTF-8",  # or a JVM cannot open paths with letters beyond ASCII
        }
        command = self.elasticsearch if self.product is ELASTICSEARCH else self.opensearch
        arguments, own = command(run)
        return Command(arguments, environment | own, self.folder, int(self.port) if self.port.isdigit() else 0)

    def elasticsearch(self, run: Run) -> tuple[list[str], dict[str, str]]:
        (run.config / "jvm.options").write_text("\n".join([*self.jvm_options(), ""]))
        (run.config / "jvm.options.d").mkdir()
        own = {"ES_JAVA_HOME": self.java.home, "ES_PATH_CONF": run.config, "ES_TMPDIR": run.scratch}
        return [str(self.folder / "bin" / "elasticsearch")], {name: str(path) for name, path in own.items()}

    def opensearch(self, run: Run) -> tuple[list[str], dict[str, str]]:
        """What `bin/opensearch` comes to; that script starts four more JVMs, and breaks at a space in a path."""
        options = [option.replace("${OPENSEARCH_TMPDIR}", str(run.scratch)) for option in self.jvm_options()]
        options += [f"-XX:MaxDirectMemorySize={heap_bytes(self.heap) // 2}"]
        options += [f"-Dopensearch.path.home={self.folder}", f"-Dopensearch.path.conf={run.config}"]
        options += ["-Dopensearch.distribution.type=zip", "-Dopensearch.bundled_jdk=false"]
        java = str(self.java.home / "bin" / "java")
        return [
            java,
            *_SYSTEM_OPTIONS,
            *options,
            "-cp",
            f"{self.folder}/lib/*",
            "org.opensearch.bootstrap.OpenSearch",
        ], {}

    def settings(self, run: Run) -> str:
        own = {
            "http.port": self.port,
            "path.data": json.dumps(str(run.data)),
            "path.logs": json.dumps(str(run.scratch)),
        }
        return "".join(f"{key}: {value}\n" for key, value in (_SETTINGS | own | dict(self.product.settings)).items())

    def jvm_options(self) -> list[str]:
        """The options that the distribution gives for this Java, without those that are ours to choose."""
        lines = (self.folder / "config" / "jvm.options").read_text().splitlines()
        given = [match[3] for match in map(_OPTION.fullmatch, lines) if match and _covers(match, self.java.version)]
        kept = [option for option in given if not _NOT_OURS.search(option)]
        if VECTOR not in self.java.modules:
            kept = [option for option in kept if VECTOR not in option]
        # Memory is taken when it is used, and a JVM that breaks says so in the log.
        own = [f"-Xms{self.heap}", f"-Xmx{self.heap}", "-XX:-AlwaysPreTouch", "-XX:+ExitOnOutOfMemoryError"]
        return [*kept, *own, "-XX:-HeapDumpOnOutOfMemoryError", "-XX:+ErrorFileToStderr"]


def _covers(option: re.Match[str], java: int) -> bool:
    """`17:`, `17-21:` or `17-:` before an option names the versions of Java that it is for."""
    first, last = option[1], option[2]
    return first is None or int(first) <= java <= int(last.lstrip("-") or java if last is not None else first)


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


def java_for(product: Product, version: str | None = None) -> Java:
    """A Java for a release. Raises EngineStartFailed.

    Any Java of the right age runs OpenSearch; one with the vector module searches faster, so that is looked for first.
    """
    _, wanted = release(product, version)
    if wanted.modules:
        return find_java(wanted.java, wanted.modules)
    try:
        return find_java(wanted.java, {VECTOR})
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
