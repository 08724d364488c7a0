"""What people see in the terminal: hits, reports, servers, findings. Prints, and decides nothing."""

from __future__ import annotations

import codecs
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from .errors import KnnexError

if TYPE_CHECKING:
    from .engines.embedded import ServerState
    from .ingest import Buried, Refused, Report
    from .ingest import Progress as Done
    from .mappings import Spec
    from .query import Hit, Hits
    from .workers.doctor import Finding

# What goes into a file or a pipe is not broken into lines: a program reads it, or a person with another width.
out = Console(highlight=False, soft_wrap=not (sys.stdout and sys.stdout.isatty()))
err = Console(stderr=True, highlight=False, soft_wrap=not (sys.stderr and sys.stderr.isatty()))

_MARKS = {"ok": "[green]✓[/]", "absent": "[dim]–[/]", "warning": "[yellow]![/]", "wrong": "[red]✗[/]"}
_NAMED = 10
# What a terminal would obey: documents are of strangers.
_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), "\ufffd")


# Our own signs, for terminals that know none of them.
_ASCII = {"✓": "+", "✗": "x", "–": "-", "█": "#", "…": "..."}


def tame(text: str) -> str:
    """A text in which nothing is left that a terminal would obey."""
    return text.translate(_CONTROL)


def _plainer(failure: UnicodeError) -> tuple[str, int]:
    if not isinstance(failure, UnicodeEncodeError):
        raise failure
    lost = failure.object[failure.start : failure.end]
    return "".join(_ASCII.get(sign, "?") for sign in lost), failure.end


def bear(stream: object) -> None:
    """Let a stream write what it can where its encoding lacks a character, and not fail."""
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error("knnex", _plainer)
        stream.reconfigure(errors="knnex")


def error(failure: KnnexError) -> None:
    """An error, and the way out."""
    err.print(f"[bold red]error:[/] {escape(str(failure))}")
    if failure.hint:
        err.print(f"[bold]hint:[/]  {escape(failure.hint)}")


@contextmanager
def progress(label: str) -> Iterator[Callable[[Done], None]]:
    """A bar on a terminal, a line for every tenth elsewhere."""
    if not err.is_terminal:
        yield _plain(label)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[rate]}"), console=err) as bar:
        task = bar.add_task(label, total=None, rate="")

        def show(done: Done) -> None:
            rate = f"{done.encoded:,} encoded, {done.cached:,} from the cache"
            bar.update(task, completed=done.done, total=done.total, rate=rate)

        yield show


def _plain(label: str) -> Callable[[Done], None]:
    last = -1

    def show(done: Done) -> None:
        nonlocal last
        tenth = done.done * 10 // done.total if done.total else done.done // 1000
        if tenth != last:
            last = tenth
            of = f" of {done.total:,}" if done.total else ""
            err.print(f"{label}: {done.done:,}{of} documents, {done.encoded:,} encoded, {done.cached:,} from the cache")

    return show


def report(done: Report) -> None:
    """What became of the documents, and each one that did not go in."""
    rate = max(0, done.accepted - done.skipped) / done.seconds if done.seconds else 0.0
    out.print(
        f"[bold]{done.in_index:,}[/] of {done.read:,} documents are in the index "
        f"({done.encoded:,} texts encoded, {done.cached:,} from the cache; {done.seconds:.1f} s, {rate:,.0f}/s)"
    )
    if done.skipped:
        out.print(f"{done.skipped:,} of them were sent by an earlier run")
    if done.unchanged:
        out.print(f"{done.unchanged:,} of them were not sent, as the index held them unchanged")
    _named("refused", done.refused_count, done.refused)
    _named("buried", done.buried_count, done.buried)
    _named("in the index without a vector", done.without_vector_count, done.without_vector)


def _named(what: str, count: int, rows: Sequence[Refused]) -> None:
    if count:
        out.print(f"[yellow]{count:,} {what}:[/]")
    for one in rows[:_NAMED]:
        _indented(Text(str(one)), 2)
    if count > _NAMED:
        out.print(f"  … and {count - _NAMED:,} more (--json names them)")


def hits(found: Hits, spec: Spec, *, width: int = 100) -> None:
    """Hits with a bar for the score, the title field and the best passage or highlight."""
    if not found:
        out.print("[yellow]Nothing found.[/]")
        return
    best = max(hit.score for hit in found) or 1.0
    console = Console(width=min(width, out.width), highlight=False) if out.is_terminal else out
    for rank, hit in enumerate(found, 1):
        line = Text(f"{rank:>2}  ")
        line.append(bar(hit.score / best), style="cyan")
        line.append(f" {hit.score:.3f}  ", style="dim")
        line.append(tame(hit.id), style="bold")
        console.print(line, soft_wrap=True)
        for body in _body(hit, spec):
            _indented(body, 4, console)
    hits = "1 hit" if len(found) == 1 else f"{len(found)} hits"
    console.print(f"[dim]{hits}, {found.took_ms} ms in the engine[/]")


def _indented(text: Text, by: int, console: Console = out) -> None:
    """A text that stays indented where a terminal wraps it."""
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, by), expand=False))
    else:
        console.print(Text(" " * by) + text)


def bar(share: float, cells: int = 8) -> str:
    """A bar of `cells` characters, filled by `share` (0 to 1) to an eighth of a cell."""
    eighths = round(max(0.0, min(1.0, share)) * cells * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(cells)


def _body(hit: Hit, spec: Spec) -> Iterator[Text]:
    """The texts that the vectors are made of, as far as two lines go, or the best passage."""
    names = [name for embedding in spec.embeddings.values() for name in embedding.source_fields]
    names += [name for name, field in spec.fields.items() if field.type == "text"]
    shown = [str(hit.source[name]) for name in dict.fromkeys(names) if name != spec.id and hit.source.get(name)][:2]
    if hit.passages:
        best = hit.passages[0].text
        shown = [*[text for text in shown if best not in text][:1], best]
    for text in shown:
        yield Text(_shorten(text))


def _shorten(text: str, limit: int = 240) -> str:
    flat = tame(" ".join(text.split()))
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def servers(rows: Sequence[ServerState]) -> None:
    """What `knnex up` and `knnex worker --background` have started."""
    if not rows:
        out.print("Nothing is running here; `knnex up` starts an engine and Redis.")
    for row in rows:
        mark, state = (_MARKS["ok"], f"process {row.pid}") if row.alive else (_MARKS["wrong"], "has ended")
        out.print(f"{mark} [bold]{f'{row.name} {row.version}':<22}[/] {row.url or '':<28} {state}", soft_wrap=True)
        out.print(f"  [dim]log: {escape(str(row.log))}[/]", soft_wrap=True)


def buried(index: str, rows: Sequence[Buried], total: int) -> None:
    """Documents that could not be embedded or written, each with its reason."""
    if not rows:
        out.print(f"Nothing is buried for {escape(index)}.")
    for one in rows:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.buried_at))
        name = f"id {one.id}" if one.event else "unreadable"
        name = escape(tame(name))
        out.print(f"[yellow]{escape(one.position)}[/]  [bold]{name}[/]  [dim]{at}[/]", soft_wrap=True)
        out.print(Padding(escape(tame(one.reason)), (0, 0, 0, 4)))
    if total > len(rows):
        out.print(f"… and {total - len(rows):,} more (--limit)")


def print_json(value: Any) -> None:
    """JSON; in ASCII where the output holds nothing else."""
    narrow = "utf" not in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    typer.echo(json.dumps(value, ensure_ascii=narrow, indent=2, default=str))


def findings(found: Iterator[Finding]) -> list[Finding]:
    """Findings line by line as they come; returns them all."""
    every, part = [], ""
    for finding in found:
        every.append(finding)
        if finding.part != part:
            part = finding.part
            out.print(f"[bold]{escape(part)}[/]")
        line = f"  {_MARKS[finding.verdict]} {escape(finding.name):<24} {escape(finding.detail)}"
        out.print(line, soft_wrap=True)
        if finding.hint and finding.verdict != "ok":
            out.print(f"      [bold]hint:[/] {escape(finding.hint)}")
    return every
