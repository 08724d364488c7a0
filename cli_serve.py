"""`knnex serve`: the HTTP server that takes events from other services."""

from __future__ import annotations

from typing import Annotated

import typer

from . import screens
from .cli_options import Url
from .errors import SettingsError
from .settings import settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    host: Annotated[str, typer.Option(help="The address to listen at; others than this machine need KNNEX_TOKEN.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8088,
    url: Url = None,
) -> None:
    """Take events over HTTP, at POST /indexes/INDEX/events, until it is stopped."""
    try:
        from .serving import serve as run
    except ModuleNotFoundError as missing:
        raise SettingsError(f"the server needs {missing.name}", hint='pip install "knnex[http]"') from None
    ours = settings().model_copy(update={"url": url} if url else {})

    def started(address: str) -> None:
        screens.out.print(f"Takes events at {address}/indexes/INDEX/events")

    raise typer.Exit(run(ours, host, port, started))
