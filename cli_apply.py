"""`knnex apply` and its way back: make an index what its spec says, judge, swap, return, give up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import screens, screens_plan
from .cli_options import Json, Url, Yes

if TYPE_CHECKING:
    from .client import Cluster
    from .evaluation import Verdict
    from .ingest.reindex import Gate as Judge
    from .ingest.reindex import Report, Step
    from .ingest.reindex.applying import Applied
    from .mappings.plan import ChangePlan

Block = Annotated[
    bool | None,
    typer.Option("--block/--no-block", help="Refuse writes for a moment at the swap; else where others write too."),
]
Encode = Annotated[
    Literal["auto", "here", "workers"],
    typer.Option(help="Who makes vectors anew: this process, the workers, or these where any is running."),
]
Stall = Annotated[float, typer.Option(min=0.1, help="Seconds for which they may be refused at a time.")]

# Seconds between two lines where there is no terminal.
_APART = 5.0
_STEPS = {
    "announce": "waiting for writes accepted before",
    "copy": "copying documents",
    "compare": "comparing both versions",
    "gate": "judging by the gate",
    "swap": "swapping",
    "change": "changing the index",
    "rewrite": "writing documents again",
    "fill": "filling in vectors",
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (apply, abort, rollback):
        app.command()(command)


def apply(
    spec: Annotated[Path, typer.Argument(help="A spec in YAML.")],
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the requests, and change nothing.")] = False,
    gate: Annotated[
        Path | None, typer.Option(help="Judgments by which the new version must not be worse; see docs/verify.md.")
    ] = None,
    queries: Annotated[Path | None, typer.Option(help="The texts of the judged queries, id and text a line.")] = None,
    min_ndcg_delta: Annotated[float, typer.Option(help="How much nDCG@10 may change, such as -0.01.")] = 0.0,
    min_recall: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Recall against exact search that it must have.")
    ] = None,
    block: Block = None,
    stall: Stall = 2.0,
    encode: Encode = "auto",
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Make an index what its spec says, in place or by a new version; goes on where an earlier run stopped."""
    from .client import connect
    from .ingest.reindex import Options
    from .mappings import load_spec

    wanted = load_spec(spec)
    with connect(url) as cluster:
        planned = cluster.plan(wanted)
        if dry_run:
            _print_requests(planned, cluster, as_json)
            return
        if planned and not as_json:
            screens_plan.plan(planned, str(cluster.engine.dialect))
        judge = _gate(cluster, gate, queries, min_ndcg_delta, min_recall)
        if planned and not yes:
            typer.confirm("Do this?", abort=True, err=True)
        with progress(f"apply {wanted.index}") as show:
            done = cluster.apply(
                wanted, gate=judge, options=Options(block=block, stall=stall, encode=encode), progress=show
            )
    _finish(done, as_json)


def _gate(
    cluster: Cluster, judgments: Path | None, queries: Path | None, delta: float, recall: float | None
) -> Judge | None:
    """What judges a new version before the swap, and prints both figures."""
    if judgments is None and recall is None:
        return None
    from .evaluation import Gate, read_judgments

    given = read_judgments(judgments, queries) if judgments else None
    return Gate(min_ndcg_delta=delta, min_recall=recall).asking(cluster.engine, given, tell=_judged)


def _judged(verdict: Verdict) -> None:
    found = verdict.comparison
    for one in (found.old, found.new):
        ndcg = "" if one.ndcg is None else f"nDCG@{found.k} {one.ndcg:.4f}, "
        screens.err.print(f"{one.index}: {ndcg}recall@{found.depth} {one.recall:.4f}", markup=False)
    if verdict.passed:
        screens.err.print(f"the gate lets it pass: {verdict}", markup=False)


def abort(
    index: Annotated[str, typer.Argument(help="The index whose new version is given up.")],
    url: Url = None,
) -> None:
    """Give up the version that is being built, and delete it; the one that is searched stays as it is."""
    from .client import connect

    with connect(url) as cluster:
        gone = cluster.abort(index)
    screens.out.print(f"Gave up {gone}." if gone else f"Nothing is being built for {index}.", markup=False)


def rollback(
    index: str,
    to: Annotated[str | None, typer.Argument(help="The version; else the one before.")] = None,
    yes: Yes = False,
    block: Block = None,
    stall: Stall = 2.0,
    encode: Encode = "auto",
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Return to a former version, with all that was written since."""
    from .client import connect
    from .ingest.reindex import Options

    with connect(url) as cluster:
        if not yes:
            typer.confirm(f"Return {index} to {to or 'the version before'}?", abort=True, err=True)
        with progress(f"rollback {index}") as show:
            done = cluster.rollback(index, to, options=Options(block=block, stall=stall, encode=encode), progress=show)
    if as_json:
        screens.print_json(asdict(done))
    else:
        _print_moved(done)


@contextmanager
def progress(label: str) -> Iterator[Callable[[Step], None]]:
    """A bar for each step on a terminal, a line now and then elsewhere."""
    if not screens.err.is_terminal:
        yield _plain(label)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=screens.err) as bar:
        tasks: dict[str, Any] = {}

        def show(step: Step) -> None:
            if step.name not in tasks:
                tasks[step.name] = bar.add_task(_STEPS.get(step.name, step.name), total=None)
            said = step.note or _STEPS.get(step.name, step.name)
            bar.update(tasks[step.name], description=said, completed=step.done, total=step.total or None)

        yield show


def _plain(label: str) -> Callable[[Step], None]:
    told, name = 0.0, ""

    def show(step: Step) -> None:
        nonlocal told, name
        if step.name == name and time.monotonic() - told < _APART:
            return
        told, name = time.monotonic(), step.name
        count = f" {step.done:,} of {step.total:,}" if step.total else ""
        screens.err.print(f"{label}: {step.note or _STEPS.get(name, name)}{count}", markup=False)

    return show


def _print_requests(planned: ChangePlan, cluster: Cluster, as_json: bool) -> None:
    rows = planned.rows(cluster.engine.dialect)
    if as_json:
        screens.print_json(rows)
        return
    for row in rows["operations"]:
        for request in row["requests"]:
            typer.echo(f"{request['method']} {request['path']}")
            screens.print_json(request["body"])
    if not planned:
        screens.out.print("Nothing has to be done.")
    elif planned.new_version:
        screens_plan.plan(planned, str(cluster.engine.dialect))


def _finish(done: Applied, as_json: bool) -> None:
    if as_json:
        moved, filled = done.moved and asdict(done.moved), done.filled and asdict(done.filled)
        screens.print_json({"index": done.index, "rewritten": done.rewritten, "filled": filled, "moved": moved})
    elif done.moved:
        _print_moved(done.moved)
    elif done.plan:
        screens.out.print(f"[green]✓[/] {done.index} is what its spec says.")
        if done.filled:
            screens.out.print(
                f"{done.filled.enriched:,} documents were given vectors ({done.filled.encoded:,} texts encoded, "
                f"{done.filled.cached:,} from the cache), {done.filled.buried:,} buried."
            )
    else:
        screens.out.print(f"{done.index} is what its spec says; nothing had to be done.", markup=False)


def _print_moved(done: Report) -> None:
    copied = done.copied
    screens.out.print(f"[green]✓[/] {done.alias} is {done.target} now; {done.source} is kept.")
    by_workers = f", {copied.handed:,} documents by workers" if copied.handed else ""
    screens.out.print(
        f"{copied.copied:,} documents copied, {copied.reused:,} vectors taken over, {copied.encoded:,} texts encoded, "
        f"{copied.cached:,} from the cache{by_workers}; {done.compared.seen:,} compared, "
        f"{done.compared.differences:,} mended."
    )
    if copied.without:
        screens.out.print(
            f"{len(copied.without):,} or more documents lie there without a vector, such as:", markup=False
        )
        for id_, reason in list(copied.without.items())[:5]:
            screens.out.print(f"  {screens.tame(id_)}: {screens.tame(reason)}", markup=False)
    if done.stalls:
        screens.out.print(f"Writes were refused for {', '.join(f'{one:.2f}' for one in done.stalls)} s.", markup=False)
    screens.out.print(
        f"`knnex rollback {done.alias}` returns to {done.source}; `knnex versions {done.alias} --drop {done.source}` "
        "deletes it.",
        markup=False,
    )
