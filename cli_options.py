"""Options that many commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Url = Annotated[str | None, typer.Option("--url", help="The engine; else KNNEX_URL, else the one `knnex up` started.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
