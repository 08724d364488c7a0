"""`knnex follow`: give vectors to documents that others write straight into an index."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import screens
from .cli_options import Url
from .settings import settings
from .telemetry import formatter

if TYPE_CHECKING:
    from .ingest.feed_state import FeedReport

Json = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each batch.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("follow")(follow)


def follow(
    index: str,
    once: Annotated[bool, typer.Option("--once", help="One pass over what changed, and no more.")] = False,
    afresh: Annotated[bool, typer.Option("--afresh", help="Look at every document again.")] = False,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks at the index.")] = 1.0,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Find what others wrote straight into an index, and give it its vectors; runs until it is stopped."""
    from .client import connect
    from .engines.places import log_url
    from .errors import EngineBusy
    from .ingest import open_log
    from .ingest.feed_follow import follow as follow_on
    from .ingest.feed_follow import tend
    from .ingest.feed_state import forget_feed
    from .workers import Targets

    _configure_logging()
    events, lease = open_log(log_url(settings())), settings().lease

    def tell(report: FeedReport) -> None:
        _print(index, report, as_json)

    with _stopped_by_signals() as stop, connect(url) as cluster:
        events.check()
        if afresh:
            forget_feed(events, index)
        target_of = Targets(cluster.engine).source
        try:
            if not once:
                done = follow_on(cluster.engine, events, target_of, index, stop, interval, lease=lease, tell=tell)
            elif passed := tend(cluster.engine, events, target_of, index, stop, lease=lease, tell=tell):
                done = passed
            else:
                raise EngineBusy(f"another follower of {index} is at work", hint="it does what this one would do")
        finally:
            events.close()
    _print(index, done, as_json, "in all: ")


def _configure_logging() -> None:
    """Our warnings, and what the feed has to say, on standard error; clients print pages for a lost connection."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings()))
    ours = logging.getLogger(__package__)
    ours.addHandler(handler)
    ours.setLevel(logging.WARNING)
    ours.propagate = False
    logging.getLogger(f"{__package__}.ingest.feed_follow").setLevel(logging.INFO)


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C let the batch at hand be finished."""
    stop = threading.Event()
    former = {one: signal.signal(one, lambda *_: stop.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)


def _print(index: str, report: FeedReport, as_json: bool, what: str = "") -> None:
    if as_json:
        typer.echo(_line({"index": index, "total": bool(what), **asdict(report)}))
    else:
        screens.out.print(
            f"{index}: {what}{report.seen:,} seen, {report.enriched:,} enriched, {report.unchanged:,} unchanged, "
            f"{report.conflicts:,} changed meanwhile, {report.buried:,} buried; {report.behind:,} behind",
            highlight=False,
        )


def _line(row: dict[str, Any]) -> str:
    import orjson

    return orjson.dumps(row).decode()
