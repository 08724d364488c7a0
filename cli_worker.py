"""`knnex worker`, `knnex workers`, `knnex alive`: thin, as all of the command line."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from . import screens
from .cli_watch import opened_log
from .screens import print_json
from .settings import settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(worker)
    app.command()(workers)
    app.command()(alive)


def worker(
    celery: Annotated[
        list[str] | None,
        typer.Argument(help="After `--`: options of `celery worker`, such as --max-tasks-per-child 50."),
    ] = None,
    pool: Annotated[str, typer.Option(help="Celery's pool: solo, threads or prefork.")] = "solo",
    concurrency: Annotated[int, typer.Option(min=1, help="Threads or processes of the pool.")] = 1,
    queues: Annotated[str, typer.Option(help="Queues it listens to, with commas; else those of its device.")] = "",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; else the best there is.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name; else host and process.")] = None,
    beat: Annotated[bool, typer.Option("--beat", help="Also send the jobs of the schedule.")] = False,
    background: Annotated[bool, typer.Option("--background", help="Return, and run until `knnex down`.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Celery's own messages too.")] = False,
    url: Annotated[str | None, typer.Option("--url", help="The engine; else KNNEX_URL, else `knnex up`'s.")] = None,
) -> None:
    """Run a worker: it encodes what the log holds, and writes it to the index."""
    from .workers import run_worker
    from .workers.background import start_background

    if background:
        options = ["--pool", pool, "--concurrency", str(concurrency)]
        options += [
            word
            for key, one in (("queues", queues), ("device", device), ("name", name))
            if one
            for word in (f"--{key}", one)
        ]
        options += ["--beat"] * beat + ["--verbose"] * verbose + (["--", *celery] if celery else [])
        with screens.err.status("starting a worker …"):
            started = start_background(settings().model_copy(update={"url": url} if url else {}), options=options)
        screens.out.print(f"A worker runs as process {started.pid}; its log is {started.log}.")
        return
    code = run_worker(
        url,
        name=name,
        pool=pool,
        concurrency=concurrency,
        queues=[one.strip() for one in queues.split(",") if one.strip()],
        device=device,
        beat=beat,
        celery=celery or (),
        verbose=verbose,
    )
    raise typer.Exit(code)


def workers(
    target: Annotated[float, typer.Option(min=1, help="Seconds within which what waits ought to be written.")] = 60.0,
    most: Annotated[int, typer.Option(min=1, help="The most workers to ask for.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Show the workers alive, and how many it would take to write what waits in time."""
    from .workers.scaling import scale

    with opened_log() as log:
        found, alive_now = scale(log, target, most), log.workers()
    if as_json:
        print_json(asdict(found) | {"alive": alive_now})
        return
    for name, facts in sorted(alive_now.items()):
        rate = f"{facts['rate']:,} documents/s" if facts.get("rate") else "no rate yet"
        screens.out.print(f"{name}  {facts.get('device') or facts.get('kind', '')}  {rate}  since {facts.get('since')}")
    screens.out.print(
        f"{found.workers} workers; {found.backlog:,} documents wait; {found.wanted} would write them in {target:g} s."
    )


def alive(
    name: Annotated[str | None, typer.Argument(help="A worker's name; else any worker of this host.")] = None,
    announced: Annotated[bool, typer.Option("--announced", help="Ask the log instead of this machine.")] = False,
) -> None:
    """Exit code 0 where a worker of this machine lives, else 1: for probes."""
    from .workers.alive import announced as known
    from .workers.alive import lives

    raise typer.Exit(0 if (known if announced else lives)(settings(), name) else 1)
