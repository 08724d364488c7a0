"""`knnex schema`: what a spec may hold, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import screens


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(schema)


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to a file instead.")] = None,
) -> None:
    """Print the JSON Schema of a spec, for editors."""
    from .mappings.schema import json_schema

    if output is None:
        screens.print_json(json_schema())
        return
    import orjson

    output.write_bytes(orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    screens.err.print(f"Wrote {output}. An editor finds it by the spec's first line:")
    typer.echo(f"# yaml-language-server: $schema={output.name}")
