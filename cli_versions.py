"""`knnex versions`: what versions of an index there are, how large and how good; measure them, or delete one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import screens, screens_plan
from .cli_options import Json, Url, Yes

if TYPE_CHECKING:
    from .client import Cluster
    from .ingest.reindex import Quality, Version


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(versions)


def versions(
    index: str,
    drop: Annotated[str | None, typer.Option(help="Delete this former version.")] = None,
    judge: Annotated[
        Path | None, typer.Option(help="Measure each version by judgments, and keep the figures; see docs/verify.md.")
    ] = None,
    queries: Annotated[Path | None, typer.Option(help="The texts of the judged queries, id and text a line.")] = None,
    recall: Annotated[
        bool, typer.Option("--recall", help="Measure each version's graph beside exact search, and keep the figures.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """List the versions of an index, with sizes, models and quality; measure them, or delete one."""
    from .client import connect

    if judge and recall:
        raise typer.BadParameter("--judge or --recall: what is kept of a version is one of them")
    if queries and not judge:
        raise typer.BadParameter("--queries goes with --judge")
    with connect(url) as cluster:
        if drop:
            if not yes:
                typer.confirm(f"Delete {drop} and all its documents?", abort=True, err=True)
            cluster.drop_version(index, drop)
            screens.out.print(f"Deleted {drop}.", markup=False)
            return
        found = _measured(cluster, index, judge, queries) if judge or recall else cluster.versions(index)
    if as_json:
        screens.print_json([_row(one) for one in found])
    else:
        _print(index, found)


def _measured(cluster: Cluster, index: str, judgments: Path | None, queries: Path | None) -> list[Version]:
    from .evaluation import read_judgments

    given = read_judgments(judgments, queries) if judgments else None
    with screens.err.status("measuring …"):
        return cluster.measure(index, given)


def _row(one: Version) -> dict[str, Any]:
    resolved, embeddings = (one.stored.resolved, one.stored.spec.embeddings) if one.stored else ({}, {})
    return {
        "name": one.name,
        "state": one.state,
        "documents": one.documents,
        "bytes": one.bytes,
        "created": one.created,
        "fingerprints": {name: made.fingerprint for name, made in resolved.items()},
        "encoders": {name: each.encoder for name, each in embeddings.items()},
        "quality": _figures(one.quality) if one.quality else None,
    }


def _figures(found: Quality) -> dict[str, Any]:
    return {"figures": found.figures, "by": found.by, "queries": found.queries, "at": found.at}


def _print(index: str, found: Sequence[Version]) -> None:
    """What fits a line of 80 characters as a table, and below it what versions have in common."""
    rows = []
    for one in found:
        made = _time(one.created) if one.created else "-"
        size, quality = screens_plan.size(one.bytes), str(one.quality) if one.quality else "-"
        rows.append((one.name, one.state, f"{one.documents:,}", size, made, quality))
    heads = ("version", "state", "documents", "size", "made", "quality")
    screens_plan.columns(heads, rows, ["green" if one.state == "live" else "" for one in found])
    _shared(found, _vectors)
    _shared(found, _measurement)
    if not all(one.quality for one in found):
        how = f"`knnex versions {index} --judge JUDGMENTS` does, or --recall"
        screens.out.print(f"-: nobody has measured it; {how}", style="dim", markup=False)


def _vectors(one: Version) -> Iterator[str]:
    row = _row(one)
    for name, encoder in row["encoders"].items():
        # Of a model's directory the last names tell enough.
        yield f"{name}: {'/'.join(encoder.split('/')[-2:])} ({row['fingerprints'][name][:12]})"


def _measurement(one: Version) -> Iterator[str]:
    if found := one.quality:
        asked = f"{found.queries:,} queries on {_time(found.at)[:10]}"
        yield f"{next(iter(found.figures))}: held against {found.by} by {asked}"


def _shared(found: Sequence[Version], texts: Callable[[Version], Iterator[str]]) -> None:
    """What is to be said of versions, once for all of which it is true."""
    names: dict[str, list[str]] = {}
    for one in found:
        for text in texts(one):
            names.setdefault(text, []).append(one.name)
    for text, held in names.items():
        where = "" if len(found) == 1 else " in all" if len(held) == len(found) else f" in {', '.join(held)}"
        screens.out.print(text + where, markup=False)


def _time(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ms / 1000))
