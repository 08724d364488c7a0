"""`knnex ingest`, `knnex update` and `knnex delete`: documents go in, change, and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import screens
from .cli_options import Json, Url
from .errors import InputError

if TYPE_CHECKING:
    from .client import Cluster
    from .ingest import Files, Lane, Op, Report
    from .mappings import Spec

Inline = Annotated[bool, typer.Option("--inline", help="Encode and write here, without log and workers.")]

_NAMED = 5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (ingest, update, delete):
        app.command()(command)


def ingest(
    index: str,
    files: Annotated[
        list[str],
        typer.Argument(help="NDJSON, CSV, Parquet, JSON, packed or not; directories; `-` is NDJSON on standard input."),
    ],
    changes: Annotated[bool, typer.Option("--update", help="Documents hold only the fields that change.")] = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Send all again of files that an earlier run was killed in.")
    ] = False,
    unchanged: Annotated[
        bool, typer.Option("--unchanged", help="Send documents too that the index holds already as they are.")
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="Go before backfills, as single events do.")] = False,
    inline: Inline = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Send the documents of files into an index; exit code 1 when one did not go in."""
    from .client import connect
    from .ingest import read_files

    op: Op = "update" if changes else "upsert"
    lane: Lane = "live" if live else "backfill"
    with connect(url) as cluster:
        target = cluster.index(index)
        documents = read_files(files, target.spec)
        if not (inline or from_start):
            _tell_continued(cluster, index, documents, op, lane)
        with screens.progress(f"ingest {index}") as show:
            done = target.ingest(
                documents,
                inline=inline,
                op=op,
                lane=lane,
                resume=not from_start,
                unchanged=unchanged or from_start,
                progress=show,
            )
    _finish(done, as_json)


def update(
    index: str,
    id_: Annotated[str, typer.Argument(metavar="ID")],
    changes: Annotated[list[str], typer.Argument(help="FIELD=VALUE, such as year=1999; objects and lists as JSON.")],
    inline: Inline = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Change fields of one document, and encode it again where a vector is made of them."""
    from .client import connect

    with connect(url) as cluster:
        target = cluster.index(index)
        spec = target.spec
        done = target.update({**_fields(spec, changes), spec.id: id_}, inline=inline)
    _finish(done, as_json)


def delete(
    index: str,
    ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    inline: Inline = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Delete documents by id; what was sent before cannot bring them back."""
    from .client import connect

    with connect(url) as cluster:
        done = cluster.index(index).delete(*ids, inline=inline)
    if as_json or not done.complete:
        _finish(done, as_json)
    else:
        screens.out.print(f"{done.in_index:,} deleted.")


def _tell_continued(cluster: Cluster, index: str, documents: Files, op: Op, lane: Lane) -> None:
    from .ingest import half_read

    found = half_read(cluster.log, index, documents, op, lane)
    for name, count in found[:_NAMED]:
        screens.err.print(f"continuing after {count:,} documents of {name}; --from-start sends all again", markup=False)
    if more := found[_NAMED:]:
        screens.err.print(f"… and after {sum(count for _, count in more):,} of {len(more):,} more files")


def _fields(spec: Spec, changes: Sequence[str]) -> dict[str, Any]:
    """FIELD=VALUE, read as a cell of a CSV file would be, objects and lists of any field as JSON."""
    from .ingest.read_csv import object_of, parser_of

    fields: dict[str, Any] = {}
    for change in changes:
        name, sign, value = change.partition("=")
        if not sign or not name:
            raise InputError(f"{change!r} changes nothing", hint="write FIELD=VALUE, such as year=1999")
        try:
            parse = object_of if value.startswith(("{", "[")) else parser_of(spec, name)
            fields[name] = parse(value)
        except ValueError as error:
            raise InputError(
                f"{change}: {error}", hint=f"`knnex doctor {spec.index}` shows what its fields are"
            ) from None
    return fields


def _finish(done: Report, as_json: bool) -> None:
    if as_json:
        screens.print_json(asdict(done))
    else:
        screens.report(done)
    if not done.complete:
        raise typer.Exit(1)
