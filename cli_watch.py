"""`knnex status`, `knnex watch`, `knnex metrics`, and `knnex pause` and `resume`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from . import screens, screens_watch
from .cli_options import Json
from .errors import InputError, LogUnavailable
from .settings import settings

if TYPE_CHECKING:
    from .ingest import EventLog, Lane
    from .workers.watch import View, Watcher

OneLane = Annotated[str | None, typer.Option("--lane", help="live, backfill, updates or copies; else the whole index.")]

# Seconds between two looks: on a terminal, and where each look is a line of a file.
_EVERY, _EVERY_LINE = 0.5, 5.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (status, watch, metrics, pause, resume):
        app.command()(command)


@contextmanager
def opened_log() -> Iterator[EventLog]:
    """The log of the settings, closed in the end."""
    from .engines.places import log_url
    from .ingest import open_log

    log = open_log(log_url(settings()))
    try:
        yield log
    finally:
        log.close()


def status(as_json: Json = False) -> None:
    """Show the servers `knnex up` started, what waits in the log, and the workers."""
    from .engines.embedded import status as rows
    from .workers.watch import Watcher

    servers, view, trouble = rows(), None, ""
    with opened_log() as log:
        try:
            view = Watcher(log).look()
        except LogUnavailable as error:
            trouble = str(error)
    if as_json:
        screens.print_json({"servers": [asdict(row) for row in servers], "log": view and asdict(view)})
        return
    screens.servers(servers)
    screens.out.print()
    if view:
        screens_watch.plain(view, screens.out)
    else:
        screens.out.print(f"[dim]No log to be seen: {escape(trouble)}[/]")


def watch(
    index: Annotated[str | None, typer.Argument(help="This index only.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    every: Annotated[float | None, typer.Option(min=0.1, help="Seconds between two looks.")] = None,
    as_json: Json = False,
) -> None:
    """Watch events being written: lag, rates, freshness and ETA by index and lane; until Ctrl-C."""
    from .workers.watch import Watcher

    with opened_log() as log:
        watcher = Watcher(log, index)
        first = watcher.look()
        if index is not None:
            _known(log, index)
        if once:
            _show(first, as_json)
            return
        try:
            if as_json or not screens.out.is_terminal:
                _follow_lines(watcher, first, every or _EVERY_LINE, as_json)
            else:
                _follow_live(watcher, first, every or _EVERY)
        except KeyboardInterrupt:  # how one ends it
            return


def _show(view: View, as_json: bool) -> None:
    if as_json:
        screens.print_json(asdict(view))
    elif screens.out.is_terminal:
        screens_watch.plain(view, screens.out)
    else:
        for line in screens_watch.lines(view):
            typer.echo(line)


def _follow_lines(watcher: Watcher, view: View, every: float, as_json: bool) -> None:
    while True:
        _show(view, as_json)
        time.sleep(every)
        view = _next(watcher, view)[0]


def _follow_live(watcher: Watcher, view: View, every: float) -> None:
    from rich.live import Live

    trouble = ""
    with Live(console=screens.out, screen=True, auto_refresh=False) as live:
        try:
            # A terminal that was closed is none any more, and nobody watches.
            while screens.out.is_terminal:
                live.update(screens_watch.screen(view, screens.out.width, trouble), refresh=True)
                time.sleep(every)
                view, trouble = _next(watcher, view)
        except KeyboardInterrupt:
            live.stop()
            # The screen is gone with what it showed: the last look stays.
            screens_watch.plain(view, screens.out)


def _next(watcher: Watcher, last: View) -> tuple[View, str]:
    """Another look; where the log does not answer the last one, and why."""
    try:
        return watcher.look(), ""
    except LogUnavailable as error:
        return last, f"{error}; trying again"


def metrics(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Serve them at this port until Ctrl-C.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
) -> None:
    """Print the figures for Prometheus, or serve them at /metrics."""
    from .workers.metrics import exposition, serve

    with opened_log() as log:
        if port is None:
            typer.echo(exposition(log)[0].decode(), nl=False)
            return
        log.check()
        with serve(log, host, port) as url:
            screens.err.print(f"Figures for Prometheus at {url} until Ctrl-C.")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                return


def pause(
    index: str,
    lane: OneLane = None,
    reason: Annotated[str, typer.Option(help="What others are told.")] = "",
) -> None:
    """Let events of an index, or of one lane of it, wait in the log until `knnex resume`."""
    from .workers.pauses import by_hand

    with opened_log() as log:
        _known(log, index)
        log.pause(index, by_hand() + (f": {reason}" if reason else ""), _lane(lane))
    screens.out.print(f"{_named(index, lane)} waits from now on; `knnex resume {index}` lets it go on.")


def resume(
    index: str,
    lane: OneLane = None,
    bury: Annotated[
        bool, typer.Option("--bury", help="Bury the documents that are refused, however many they are.")
    ] = False,
) -> None:
    """Let a paused index go on, with all its lanes, or one lane of it."""
    from .ingest import LANES
    from .workers.pauses import BURY_ANYWAY

    chosen = _lane(lane)
    with opened_log() as log:
        _known(log, index)
        if bury:
            log.remember(index, BURY_ANYWAY, "yes")
        for one in (chosen,) if chosen else (None, *LANES):
            log.pause(index, None, one)
    screens.out.print(f"{_named(index, lane)} goes on.")


def _named(index: str, lane: str | None) -> str:
    return f"Lane {lane} of {index}" if lane else index


def _lane(name: str | None) -> Lane | None:
    from .ingest import LANES

    for lane in LANES:
        if name == lane:
            return lane
    if name is not None:
        raise typer.BadParameter(f"there is no lane {name!r}; the lanes are {', '.join(LANES)}")
    return None


def _known(log: EventLog, index: str) -> None:
    names = log.indexes()
    if index not in names:
        raise InputError(
            f"the log at {log.address} holds no index {index!r}",
            hint=f"it holds {', '.join(names[:8]) or 'none'}; an index is in the log from its first event on",
        )
