"""What people see of a plan: operations with their reasons, drift, and what it costs. Prints, and decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table

from .screens import out, tame

if TYPE_CHECKING:
    from .ingest.costing import Cost, Forecast
    from .mappings.estimate import Footprint
    from .mappings.plan import ChangePlan

_COLORS = {"in place": "green", "backfill": "yellow", "new version": "red"}
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def plan(done: ChangePlan, where: str) -> None:
    """The operations of a plan, each with its kind and reason; drift and notes."""
    if not done:
        out.print(f"[green]{escape(done.alias)}[/] is as its spec says ({escape(where)}).")
    else:
        out.print(f"[bold]{escape(done.alias)}[/] ({escape(where)}): {_count(len(done.operations), 'change')}")
        rows = [(one.kind, tame(one.describe()), one.reason) for one in done.operations]
        columns(("how", "what", "why"), rows, [_COLORS[one.kind] for one in done.operations])
    if version := done.new_version:
        parts = [f"vectors made anew: {', '.join(version.encode)}" if version.encode else ""]
        parts += [f"copied: {', '.join(version.reuse)}" if version.reuse else ""]
        told = "; ".join(part for part in parts if part) or "no vectors"
        out.print(escape(f"{version.target} takes the place of {version.source}, with all changes ({told})."))
    for one in done.drift:
        out.print(f"[yellow]drift:[/] {escape(tame(str(one)))}")
    for note in done.notes:
        out.print(f"[dim]note:[/]  {escape(tame(note))}")


def forecast(made: Forecast) -> None:
    """What a plan costs."""
    for one in made.costs:
        out.print(escape(_cost(one)))
    for name, chosen in made.chosen.items():
        footprints(f"{name}: {chosen.vectors:,} vectors", made.others[name], chosen)
    if made.disk:
        free = "" if made.free is None else f"; {size(made.free)} are free on all nodes together"
        line = f"About {size(made.disk)} are written, replicas among them{free}."
        out.print(escape(line) if made.fits else f"[red]{escape(line)} There is no room for that.[/]")


def _cost(one: Cost) -> str:
    cached = f"{one.cached / one.texts:.0%} of them in the cache" if one.texts else "none of them in the cache"
    line = (
        f"To encode for {one.embedding}: {one.documents:,} documents, {one.texts:,} texts, {one.tokens:,} tokens, "
        f"{cached} (from {one.sampled:,} documents drawn at random)"
    )
    if one.seconds is None or one.rate is None:
        return f"{line}; no speed was measured (--docs-per-second)."
    return f"{line}; about {duration(one.seconds)} at {one.rate:,.1f} documents/s on this machine."


def footprints(title: str, levels: Sequence[Footprint], chosen: Footprint | None = None) -> None:
    """All ways of keeping vectors side by side; the chosen one is marked."""
    out.print(f"[bold]{escape(title)}[/]")
    rows, colors = [], []
    for one in levels:
        is_chosen = chosen is not None and one.name == chosen.name
        cells = (one.raw, one.quantized, one.graph, one.disk, one.memory)
        rows.append((f"{one.name}{' *' if is_chosen else ''}", *map(size, cells)))
        colors.append("bold" if is_chosen else "")
    columns(("level", "as they are", "quantized", "graph", "disk in all", "memory"), rows, colors)


def fitting(levels: Sequence[Footprint], memory: float) -> None:
    """Which levels a search can walk without reading from disk."""
    names = [one.name for one in levels if one.memory <= memory]
    out.print(f"Into {size(memory)} of page cache fit: {', '.join(names) if names else 'none of them'}.")


def columns(heads: Sequence[str], rows: Iterable[Sequence[str]], colors: Sequence[str]) -> None:
    """A table on a terminal, and columns of plain text elsewhere, where nothing may be cut or broken."""
    rows = list(rows)
    if out.is_terminal:
        first, *others = heads
        # What a line is about stays whole as long as there is room for anything.
        folding = (Column(head, overflow="fold") for head in others)
        table = Table(Column(first, no_wrap=True), *folding, box=None, pad_edge=False)
        for row, color in zip(rows, colors, strict=True):
            table.add_row(*map(escape, row), style=color or None)
        out.print(table)
        return
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    for row in (heads, *rows) if len(heads) > len(("how", "what", "why")) else rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        out.print("  " + "  ".join(cells).rstrip(), markup=False)


def size(count: float) -> str:
    """`15.4 GB`; a GB is 10^9 bytes."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `4.2 days`."""
    for unit, length, most in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds / length:.0f} {unit}" if unit != "h" else f"{seconds / length:.1f} h"
    return f"{seconds / 86_400:,.1f} days"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
