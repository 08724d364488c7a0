"""`knnex verify`: look at every document's vectors, or at a sample, and mend what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import screens
from .cli_options import Json, Url

if TYPE_CHECKING:
    from .ingest.audit import AuditProgress, AuditReport


_NAMED = 20
# Seconds between two lines where there is no terminal.
_APART = 5.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify")(verify)


def verify(
    index: str,
    sample: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="So many documents at random instead of all.")
    ] = None,
    encode: Annotated[
        int, typer.Option(min=0, help="Encode the texts of about so many documents again, and compare.")
    ] = 0,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Read every picture again: can it still be had?")
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Give documents their vectors again.")] = False,
    named: Annotated[int, typer.Option(min=0, help="How many faults are named.")] = _NAMED,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Check that every vector belongs to its text and to the index's model; exit code 1 when something is wrong."""
    from .client import connect
    from .ingest.audit import audit

    with connect(url) as cluster, _progress(f"verify {index}") as show:
        stored = cluster.index(index).stored
        done = audit(
            cluster.engine,
            stored,
            alias=index,
            sample=sample,
            encode=encode,
            pictures=pictures,
            repair=repair,
            keep=named,
            tell=show,
        )
    if as_json:
        screens.print_json(done.to_dict())
    else:
        _print(index, done)
        if not (pictures or encode) and any(one.kind == "image" for one in stored.spec.embeddings.values()):
            screens.out.print("  its pictures were not read again: --pictures reads them")
    if not done.clean:
        raise typer.Exit(1)


@contextmanager
def _progress(label: str) -> Iterator[Callable[[AuditProgress], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    if not screens.err.is_terminal:
        yield _plain(label)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rest = (TimeRemainingColumn(), TextColumn("{task.fields[faults]:,} faults"))
    with Progress(*columns, *rest, console=screens.err) as bar:
        task = bar.add_task(label, total=None, faults=0)
        yield lambda now: bar.update(task, completed=now.done, total=max(now.total, now.done), faults=now.faults)


def _plain(label: str) -> Callable[[AuditProgress], None]:
    told = time.monotonic()

    def show(now: AuditProgress) -> None:
        nonlocal told
        if time.monotonic() - told > _APART:
            told = time.monotonic()
            screens.err.print(f"{label}: {now.done:,} of {now.total:,} documents, {now.faults:,} faults")

    return show


def _print(index: str, done: AuditReport) -> None:
    from .ingest.audit_checks import KINDS

    what = f"{done.documents:,} documents and {done.deleted:,} deleted ones"
    how = "all of them" if done.sample is None else f"a sample of {done.sample:,}"
    screens.out.print(f"[bold]{escape(index)}[/] ({escape(done.index)}): {what} in {done.seconds:.1f} s, {how}")
    for name, count in sorted(done.without_text.items()):
        without = f", {count:,} without text for one" if count else ""
        screens.out.print(f"  {escape(name)}: {done.vectors.get(name, 0):,} have a vector{without}")
    if done.compared:
        screens.out.print(f"  {done.compared:,} documents were encoded again and compared")
    if done.pictures is not None:
        screens.out.print(f"  {done.pictures:,} pictures were read again")
    for kind, count in sorted(done.faults.items(), key=lambda one: -one[1]):
        screens.out.print(f"[red]✗[/] {count:,} {kind}: {KINDS[kind]}")
    for fault in done.examples if done.repaired is None else ():
        screens.out.print(f"    {escape(screens.tame(str(fault)))}")
    _print_end(done)


def _print_end(done: AuditReport) -> None:
    found = sum(done.faults.values())
    if done.repaired is not None and found:
        screens.out.print(f"{done.repaired:,} documents were repaired, {done.left_count:,} faults are left")
    for fault in done.left[:_NAMED]:
        screens.out.print(f"    {escape(screens.tame(str(fault)))}")
    if done.clean:
        screens.out.print("[green]✓[/] nothing is wrong" + (" any more" if found else ""))
    elif done.repaired is None:
        named = f"{len(done.examples):,} named"
        screens.out.print(f"[red]✗[/] {found:,} faults ({named}); --repair mends what can be mended")
