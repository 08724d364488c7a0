"""What `knnex status` and `knnex watch` show of the log: lanes, rates, workers. Prints, and decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .screens import tame

if TYPE_CHECKING:
    from .workers.watch import IndexView, LaneView, View

# Columns of a terminal from which on there is room for the less important columns.
_WIDE, _MEDIUM = 76, 56
_PIPED = 400


def screen(view: View, width: int, trouble: str = "") -> RenderableType:
    """Everything at a glance, within so many columns; `trouble` is what keeps us from looking again."""
    parts: list[RenderableType] = [_title(view), Text(trouble, style="red")] if trouble else [_title(view)]
    for index in view.indexes:
        parts += [Text(""), *_index(index, width)]
    if not view.indexes:
        parts.append(Text("No event was ever sent to this log.", style="yellow"))
    parts += [Text(""), *_workers(view, width)]
    return Group(*parts)


def lines(view: View) -> Iterator[str]:
    """A line for each index, for where there is no terminal."""
    at = time.strftime("%H:%M:%S", time.localtime(view.at / 1000))
    for one in view.indexes:
        lanes = ", ".join(f"{lane.lane} {_count(lane)} (lag {span(lane.lag)})" for lane in one.lanes if _count(lane))
        facts = [f"{at} {one.name}: {lanes or 'nothing waits'}", f"{one.documents_per_second:,.1f} documents/s"]
        done = max((lane.eta or 0.0 for lane in one.lanes), default=0.0)
        facts += [f"ETA {span(done)}"] if done else []
        facts += [f"{one.buried:,} buried"] if one.buried else []
        facts += [f"paused: {one.paused}"] if one.paused else [f"rests: {one.resting}"] if one.resting else []
        yield tame(", ".join([*facts, _workers_count(view)]))
    if not view.indexes:
        yield f"{at} no event was ever sent to this log, {_workers_count(view)}"


def span(seconds: float) -> str:
    """A time as people say it: 0.4 s, 12 s, 3 min, 5.2 h, 4 d."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for most, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.1f} {name}" if name == "h" else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:,.0f} d"


def _title(view: View) -> Text:
    at = time.strftime("%H:%M:%S", time.localtime(view.at / 1000))
    line = Text.assemble(("knnex", "bold"), f"  {at}  {_workers_count(view)}  ", (view.address, "dim"))
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _workers_count(view: View) -> str:
    return f"{len(view.workers)} worker{'' if len(view.workers) == 1 else 's'}"


def _count(lane: LaneView) -> str:
    return f"{lane.waiting + lane.in_hand:,}" if lane.waiting + lane.in_hand else ""


def _index(one: IndexView, width: int) -> Iterator[RenderableType]:
    head = Text.assemble((one.name, "bold"), "  ", (f"{one.documents_per_second:,.1f} documents/s", "cyan"))
    if one.encode_share is not None:
        head.append(f"  encode {one.encode_share:.0%}, write {1 - one.encode_share:.0%}", style="dim")
    yield head
    if any(_count(lane) or lane.fresh for lane in one.lanes):
        yield Padding(_lanes(one, width - 2), (0, 0, 0, 2), expand=False)
    else:
        yield _under(Text("nothing waits", style="dim"))
    remarks = [Text(words, style=style) for words, style in _remarks(one)]
    if remarks:
        yield _under(Text(" · ", style="dim").join(remarks))
    for reason, style in ((one.paused, "red"), (one.resting, "yellow")):
        if reason:
            word = "paused" if style == "red" else "rests"
            why = reason if reason.startswith("paused") else f"{word}: {reason}"
            yield _under(Text(tame(why), style=style))
    for lane in one.lanes:
        if lane.paused:
            yield _under(Text(tame(f"{lane.lane}: {lane.paused}"), style="yellow"))


def _under(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2), expand=False)


def _remarks(one: IndexView) -> Iterator[tuple[str, str]]:
    if one.cache_share is not None:
        yield f"{one.cache_share:.0%} of texts from the cache", "dim"
    if one.retries:
        yield f"{one.retries:,} retried", "yellow"
    if one.buried:
        yield f"{one.buried:,} buried", "yellow"
    if one.lost:
        yield f"{one.lost:,} lost: somebody trimmed the log", "red"
    if one.feed:
        yield f"change feed {one.feed.behind:,} behind ({span(one.feed.age)} ago)", "dim"


def _lanes(one: IndexView, width: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("lane", no_wrap=True)
    names = ["waiting", "in hand", "lag", "fresh p50", "p95", "ETA"]
    shown = names if width >= _WIDE - 2 else [name for name in names if name != "in hand"]
    shown = shown if width >= _MEDIUM - 2 else ["waiting", "lag", "ETA"]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for lane in one.lanes:
        if lane.lane == "copies" and not (_count(lane) or lane.fresh or lane.paused):  # most of the time
            continue
        cells = _cells(lane)
        if "in hand" not in shown:
            cells["waiting"] = _number(lane.waiting + lane.in_hand)
        style = "dim" if lane.paused else ""
        table.add_row(lane.lane, *(cells[name] for name in shown), style=style)
    return table


def _cells(lane: LaneView) -> dict[str, str]:
    held = bool(lane.waiting + lane.in_hand)
    fresh = [span(one) for one in lane.fresh] if lane.fresh else ["–", "–"]
    return {
        "waiting": _number(lane.waiting),
        "in hand": _number(lane.in_hand),
        "lag": span(lane.lag) if held else "–",
        "fresh p50": fresh[0],
        "p95": fresh[1],
        "ETA": "paused" if lane.paused else span(lane.eta) if lane.eta is not None else "–",
    }


def _number(count: int) -> str:
    return f"{count:,}" if count else "–"


def _workers(view: View, width: int) -> Iterator[RenderableType]:
    if not view.workers:
        waits = any(one.waiting for one in view.indexes)
        told = "No worker is running" + (": events wait." if waits else ".") + " `knnex worker` starts one."
        yield Text(told, style="red" if waits else "yellow")
        return
    from .workers.figures import worker_rate

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("worker", overflow="ellipsis", no_wrap=True)
    table.add_column("docs/s", justify="right", no_wrap=True)
    for name in ("device", "model") if width >= _MEDIUM else ():
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for name, facts in sorted(view.workers.items()):
        rate = worker_rate(facts)
        more = [str(facts.get(key, "")).rpartition("/")[2] for key in ("device", "model")]
        table.add_row(Text(name), f"{rate:,.1f}", *(Text(one) for one in more if width >= _MEDIUM))
    yield table


def plain(view: View, console: Console) -> None:
    """The same once; what is piped is not cut to a width."""
    width = console.width if console.is_terminal else _PIPED
    console.print(screen(view, width), width=width)
