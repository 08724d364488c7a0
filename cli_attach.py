"""`knnex attach` and `knnex detach`: vectors for an index that others made and go on writing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import screens
from .cli_options import Json, Url, Yes
from .mappings.attach_spec import DEFAULT_ENCODER
from .settings import settings

if TYPE_CHECKING:
    from .client import Cluster
    from .ingest import EventLog
    from .ingest.attach import Prospect
    from .ingest.feed_state import FeedReport


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (attach, detach):
        app.command()(command)


def attach(
    index: Annotated[str, typer.Argument(help="An index, or an alias of one, that others made.")],
    spec: Annotated[
        Path | None,
        typer.Option("--spec", help="A spec in YAML; if there is no such file, the proposal goes there."),
    ] = None,
    embed: Annotated[list[str] | None, typer.Option("--embed", help="A field to make the vector of.")] = None,
    encoder: Annotated[str, typer.Option("--encoder", help="The model.")] = DEFAULT_ENCODER,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and change nothing.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Add vectors to an index that others made and go on writing: propose a spec, add its fields, fill them in."""
    from .client import connect
    from .errors import SpecError
    from .ingest.attach import attach as add_fields
    from .ingest.attach import examine
    from .mappings import load_spec

    given = load_spec(spec) if spec and spec.exists() else None
    if given and embed:
        raise SpecError(f"{spec} says what is embedded, and --embed too", hint="leave one of them out")
    with connect(url) as cluster:
        engine = cluster.engine
        found = examine(engine, index, spec=given, fields=tuple(embed or ()), encoder=encoder)
        if not as_json and not found.given:
            typer.echo(found.proposal.to_yaml())
        if spec and not found.given and (dry_run or found.must_copy):
            _write(spec, found)
        if found.must_copy:
            raise engine.dialect.decline(f"`knnex attach {index}`", found.must_copy, _copying(index, found, spec))
        if dry_run:
            _print_requests(cluster, found, as_json)
            return
        log = _open_log()
        try:
            if not (yes or found.existing.known):
                asked = f"Add these vectors to {found.existing.index}, {found.documents:,} documents?"
                typer.confirm(asked, abort=True, err=True)
            if spec and not found.given:
                _write(spec, found)
            add_fields(engine, index, found.proposal.spec)
            done = _fill(cluster, log, index, found.documents)
        finally:
            log.close()
    _finish(index, found, done, as_json)


def detach(index: str, yes: Yes = False, as_json: Json = False, url: Url = None) -> None:
    """Leave an attached index alone from now on; the vectors stay in its documents."""
    from .client import connect
    from .ingest.attach import detach as take_off

    with connect(url) as cluster:
        held = cluster.index(index).stored
        fields = [*held.spec.embeddings, "_knnex"]
        if not yes and held.attached:
            typer.confirm(f"Detach from {held.index}?", abort=True, err=True)
        log = _open_log()
        try:
            take_off(cluster.engine, log, index)
        finally:
            log.close()
    if as_json:
        screens.print_json({"index": index, "concrete": held.index, "fields_left": fields})
        return
    screens.out.print(
        f"Detached from {held.index}. The fields {', '.join(fields)} stay in its mapping and documents: engines remove "
        "none; an index made anew has none of them."
    )


def _open_log() -> EventLog:
    from .engines.places import log_url
    from .ingest import open_log

    log = open_log(log_url(settings()))
    log.check()
    return log


def _write(path: Path, found: Prospect) -> None:
    path.write_text(found.proposal.to_yaml(), encoding="utf-8")
    screens.err.print(f"The proposal is in {path}.", markup=False)


def _copying(index: str, found: Prospect, path: Path | None) -> str:
    """What to do where documents must be copied into an index of knnex's own."""
    copy = found.proposal.spec.index if not found.given else f"{found.existing.index}-knnex"
    file = path or "SPEC"
    return (
        f"copy it: `knnex create {file}`, with `index: {copy}` in it, then POST /_reindex "
        f'{{"source": {{"index": "{index}"}}, "dest": {{"index": "{copy}"}}}} and `knnex follow {copy}`'
    )


def _print_requests(cluster: Cluster, found: Prospect, as_json: bool) -> None:
    from .encoders import resolve
    from .mappings.attach import check_fits, requests

    sent = []
    if not found.existing.known:
        spec = found.proposal.spec
        check_fits(found.existing, spec)
        sent = requests(found.existing, spec, resolve(spec), cluster.engine.dialect)
    if as_json:
        rows = [{"method": one.method, "path": one.path, "body": one.body} for one in sent]
        spec_as_it_is = found.proposal.spec.model_dump(mode="json", exclude_defaults=True)
        screens.print_json({"index": found.proposal.spec.index, "spec": spec_as_it_is, "requests": rows})
        return
    for one in sent:
        typer.echo(f"{one.method} {one.path}")
        screens.print_json(one.body)
    what = f"then the vectors of {found.documents:,} documents" if sent else "nothing but vectors that are missing"
    screens.err.print(f"… {what}", markup=False)


def _fill(cluster: Cluster, log: EventLog, index: str, total: int) -> FeedReport | None:
    from .ingest.attach import fill

    with screens.progress(f"attach {index}") as show:
        return fill(cluster.engine, log, index, total=total, progress=show, lease=settings().lease)


def _finish(index: str, found: Prospect, done: FeedReport | None, as_json: bool) -> None:
    if as_json:
        body: dict[str, Any] = {
            "index": index,
            "concrete": found.existing.index,
            "new": not found.existing.known,
            "spec": found.proposal.spec.model_dump(mode="json", exclude_defaults=True),
            "filled": asdict(done) if done else None,
        }
        screens.print_json(body)
    elif done is None:
        screens.out.print(f"{index}: a follower is at work, and fills in the vectors.", markup=False)
    else:
        screens.out.print(
            f"{index}: {done.enriched:,} documents were given vectors ({done.encoded:,} texts encoded, {done.cached:,} "
            f"from the cache), {done.buried:,} buried, {done.behind:,} changes behind.\n"
            f"`knnex follow {index}` keeps them true while others write.",
            markup=False,
        )
    if done and done.buried:
        screens.err.print(f"`knnex buried list {index}` says which documents have no vector, and why.", markup=False)
