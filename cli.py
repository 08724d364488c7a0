"""The command line: each command is one call of the library, and a screen."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from . import (
    cli_apply,
    cli_attach,
    cli_buried,
    cli_follow,
    cli_ingest,
    cli_plan,
    cli_schema,
    cli_serve,
    cli_verify,
    cli_versions,
    cli_watch,
    cli_worker,
    screens,
)
from .cli_options import Json, Url, Yes
from .errors import KnnexError, QueryError
from .screens import print_json as _print_json
from .settings import settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Semantic search for the Elasticsearch or OpenSearch cluster you already run.",
)


def main() -> None:
    """The console script: errors of ours become a message and exit code 1, Ctrl-C exit code 130."""
    for stream in (sys.stdout, sys.stderr):
        screens.bear(stream)
    try:
        app()
    except KnnexError as failure:
        screens.error(failure)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as failure:  # a full disk, a file that may not be read
        screens.error(KnnexError(str(failure), hint="look at space and permissions"))
        sys.exit(1)


@app.command()
def up(
    engine: Annotated[str | None, typer.Option(help="elasticsearch, opensearch, or redis for that alone.")] = None,
    version: Annotated[str | None, typer.Option(help="The engine's version.")] = None,
    heap: Annotated[str, typer.Option(help="Memory for the engine's Java.")] = "1g",
    as_json: Json = False,
) -> None:
    """Start an engine and Redis on this machine, or find them running; they run until `knnex down`."""
    from .engines.embedded import status as rows
    from .engines.embedded import up as start

    with screens.err.status("starting …") as busy:
        start(engine, version=version, heap=heap, progress=lambda line: busy.update(line))
    _servers(rows(), as_json)


@app.command()
def down(
    erase: Annotated[bool, typer.Option("--erase", help="Delete their data too.")] = False,
) -> None:
    """Stop what `knnex up` and `knnex worker --background` started here; the data stays."""
    from .engines.embedded import down as stop

    names = ", ".join(one.name for one in stop(erase=erase))
    screens.out.print(f"Stopped {names}." if names else "Nothing was running here.")


def _servers(rows: list[Any], as_json: bool) -> None:
    if as_json:
        _print_json([asdict(row) for row in rows])
    else:
        screens.servers(rows)


@app.command()
def create(spec: Annotated[Path, typer.Argument(help="A spec in YAML.")], url: Url = None) -> None:
    """Make the index of a spec, behind its alias, unless it is there already."""
    from .client import connect

    with connect(url) as cluster:
        index = cluster.create(spec)
        screens.out.print(f"Index [bold]{index.name}[/] is ready ({index.stored.index} on {cluster.engine.dialect}).")


@app.command()
def drop(
    index: str,
    yes: Yes = False,
    url: Url = None,
) -> None:
    """Delete an index that knnex made, with all its documents and former versions."""
    from .client import connect

    with connect(url) as cluster:
        held = ", ".join(one.name for one in cluster.versions(index))
        if not yes:
            typer.confirm(f"Delete {held} and all documents?", abort=True, err=True)
        cluster.drop(index)
    screens.out.print(f"Deleted {held}.")


@app.command()
def search(
    index: str,
    text: Annotated[str | None, typer.Argument(help="What you look for, in your own words.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="A strict filter: kind=function, year>=1980, genre!=drama.")
    ] = None,
    lexical: Annotated[list[str] | None, typer.Option(help="Also by words, in these fields: title^2.")] = None,
    image: Annotated[Path | None, typer.Option(help="By a picture, where the index has embeddings of them.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 5,
    console: Annotated[bool, typer.Option("--console", help="Print the request for Kibana Dev Tools instead.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Ask an index a question."""
    from .client import connect
    from .query import Query
    from .query.conditions import where as narrowed

    if text is None and image is None:
        raise typer.BadParameter("give a text, or --image FILE")
    with connect(url) as cluster:
        asked = cluster.index(index)
        spec = asked.spec
        query = Query(text).limit(limit)
        for name, embedding in spec.embeddings.items():
            if image and embedding.kind == "image":
                query = query.semantic(name, image=image)
            elif text is not None:
                query = query.semantic(name)
        if image and not any(embedding.kind == "image" for embedding in spec.embeddings.values()):
            raise QueryError(f"{index!r} has no embedding of pictures", hint="leave --image out, and give a text")
        if lexical:
            query = query.lexical(*lexical)
        for condition in where or ():
            query = narrowed(query, condition, spec)
        if console:
            typer.echo(asked.to_console(query))
            return
        found = asked.search(query)
    if as_json:
        _print_json([hit.to_dict() for hit in found])
    else:
        screens.hits(found, spec)


@app.command()
def doctor(index: Annotated[str | None, typer.Argument()] = None, as_json: Json = False, url: Url = None) -> None:
    """Look at engine, log, workers, models and indexes; exit code 1 when something is wrong."""
    from .client import connect
    from .engines.places import log_url
    from .ingest import open_log
    from .workers.doctor import examine

    found = examine(lambda: connect(url).engine, lambda: open_log(log_url(settings())), index)
    if as_json:
        every = list(found)
        _print_json([asdict(one) for one in every])
    else:
        every = screens.findings(found)
    if any(one.verdict == "wrong" for one in every):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    from . import __version__

    typer.echo(__version__)


for _commands in (
    cli_apply, cli_attach, cli_follow, cli_ingest, cli_plan, cli_schema, cli_serve, cli_verify, cli_versions, cli_watch,
    cli_worker,
):  # fmt: skip
    _commands.register(app)
app.add_typer(cli_buried.app, name="buried", rich_help_panel="Watching")

# In the order of `knnex --help`.
_PANELS = {
    "Servers on this machine": ("up", "down"),
    "Indexes": ("create", "drop", "search", "attach", "detach", "verify"),
    "Changing an index": ("plan", "check", "apply", "abort", "rollback", "versions"),
    "Documents": ("ingest", "update", "delete", "follow", "serve"),
    "Workers": ("worker", "workers", "alive", "pause", "resume"),
    "Watching": ("status", "watch", "metrics", "doctor"),
    "Other": ("schema", "version"),
}
_PLACES = {name: (panel, place) for place, (name, panel) in enumerate((n, p) for p, ns in _PANELS.items() for n in ns)}
for _command in app.registered_commands:
    _command.rich_help_panel = _PLACES[str(_command.name or getattr(_command.callback, "__name__", ""))][0]
app.registered_commands.sort(key=lambda one: _PLACES[str(one.name or getattr(one.callback, "__name__", ""))][1])
