"""Figures for Prometheus, taken from the log when they are asked for: one scrape target is enough for a fleet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import SettingsError
from ..ingest import EventLog
from .figures import worker_rate
from .scaling import TARGET, rate_of, wanted_workers
from .watch import IndexView, View, Watcher

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

#: The counters of the log that only grow, as outcomes of `knnex_events_total`.
OUTCOMES = ("written", "stale", "deleted", "lost")
#: Every figure with its labels and its meaning, in the order in which they are told.
GAUGES: dict[str, tuple[tuple[str, ...], str]] = {
    "knnex_workers": ((), "Workers that live."),
    "knnex_worker_documents_per_second": (("worker",), "Documents a worker wrote each second of the last minute."),
    "knnex_events_waiting": (("index", "lane"), "Events accepted and not yet settled."),
    "knnex_lag_seconds": (("index", "lane"), "Age of the oldest event that is not settled."),
    "knnex_freshness_seconds": (
        ("index", "lane", "quantile"),
        "Time from accepted to written, of the last 1,000 events of the slowest worker.",
    ),
    "knnex_paused": (("index", "lane"), "1 where no worker works on a lane."),
    "knnex_buried": (("index",), "Documents that could not be embedded or written, and are kept."),
    "knnex_cache_hit_ratio": (("index",), "Share of texts found in the cache, in all the time of the log."),
    "knnex_feed_behind": (("index",), "Documents that the change feed has not yet seen."),
    "knnex_workers_wanted": (("index",), "Workers that would be done with the backlog in a minute."),
}


def exposition(log: EventLog) -> tuple[bytes, str]:
    """All figures in the text format of Prometheus, and its content type. Raises LogUnavailable, SettingsError."""
    registry = registry_of(log)
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return generate_latest(registry), CONTENT_TYPE_LATEST


@contextmanager
def serve(log: EventLog, host: str, port: int) -> Iterator[str]:
    """Answer scrapes at a URL, which is given, as long as the block lasts. Raises SettingsError for a port in use."""
    registry = registry_of(log)
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise SettingsError(
            f"{host}:{port} cannot be listened at: {error.strerror}", hint="take another --port"
        ) from None
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def registry_of(log: EventLog) -> CollectorRegistry:
    """A registry that looks at the log whenever it is collected; nothing of this process is in it.

    Raises SettingsError where the extra `metrics` is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as error:
        raise SettingsError(f"metrics need the package {error.name}", hint='pip install "knnex[metrics]"') from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(log))  # type: ignore[arg-type, unused-ignore]
    return registry


class _Collector:
    def __init__(self, log: EventLog) -> None:
        self._log = log

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        view = Watcher(self._log).look()
        gauges = {name: GaugeMetricFamily(name, text, labels=labels) for name, (labels, text) in GAUGES.items()}
        for name, labels, value in _samples(view):
            gauges[name].add_metric(labels, value)
        yield from gauges.values()
        events = CounterMetricFamily(
            "knnex_events", "Events settled, by what became of them.", labels=("index", "outcome")
        )
        texts = CounterMetricFamily("knnex_texts", "Texts encoded, and found in the cache.", labels=("index", "source"))
        for one in view.indexes:
            for outcome in OUTCOMES:
                events.add_metric((one.name, outcome), one.counts.get(outcome, 0))
            for source, counter in (("model", "encoded"), ("cache", "cached")):
                texts.add_metric((one.name, source), one.counts.get(counter, 0))
        yield from (events, texts)


Sample = tuple[str, tuple[str, ...], float]


def _samples(view: View) -> Iterator[Sample]:
    yield "knnex_workers", (), len(view.workers)
    for worker, facts in view.workers.items():
        yield "knnex_worker_documents_per_second", (worker,), worker_rate(facts)
    for index in view.indexes:
        yield from _of_index(index)
        wanted = 0 if index.paused else wanted_workers(index.waiting, rate_of(view.workers), TARGET)
        yield "knnex_workers_wanted", (index.name,), wanted


def _of_index(index: IndexView) -> Iterator[Sample]:
    name = index.name
    for lane in index.lanes:
        yield "knnex_events_waiting", (name, lane.lane), lane.waiting + lane.in_hand
        yield "knnex_lag_seconds", (name, lane.lane), lane.lag
        yield "knnex_paused", (name, lane.lane), float(bool(index.paused or lane.paused))
        for quantile, seconds in zip(("0.5", "0.95"), lane.fresh or (), strict=False):
            yield "knnex_freshness_seconds", (name, lane.lane, quantile), seconds
    yield "knnex_buried", (name,), index.buried
    encoded, cached = index.counts.get("encoded", 0), index.counts.get("cached", 0)
    if encoded + cached:
        yield "knnex_cache_hit_ratio", (name,), cached / (encoded + cached)
    if index.feed:
        yield "knnex_feed_behind", (name,), index.feed.behind
