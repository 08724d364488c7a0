"""`knnex buried`: documents that could not be embedded or written; the log keeps them to be retried or dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import screens
from .cli_options import Json, Yes
from .cli_watch import opened_log
from .errors import InputError

if TYPE_CHECKING:
    from .ingest import Buried, EventLog

app = typer.Typer(no_args_is_help=True, help="Documents that could not be embedded or written.")
Positions = Annotated[list[str] | None, typer.Argument(help="As `knnex buried list` has them.")]
All = Annotated[bool, typer.Option("--all", help="All of the index.")]

# Documents may be large: so many at a time.
_AT_ONCE = 100


@app.command("list")
def list_buried(
    index: str,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """Name the buried documents of an index, the oldest burial first, each with its reason."""
    with opened_log() as log:
        total, found = len(log.burials(index)), log.buried(index, limit=limit)
    if as_json:
        screens.print_json([_row(one) for one in found])
    else:
        screens.buried(index, found, total)


@app.command()
def show(index: str, position: str, as_json: Json = False) -> None:
    """Show one buried document as it was sent, and why it is buried."""
    with opened_log() as log:
        (one,) = _find(log, index, [position])
    row = _row(one) | {"document": dict(one.event.document) if one.event else None}
    if as_json:
        screens.print_json(row)
    else:
        screens.buried(index, [one], 1)
        screens.print_json(row["document"])


@app.command()
def retry(index: str, positions: Positions = None, every: All = False) -> None:
    """Put buried documents back into the log, under the version they had: a newer one is not overwritten."""
    with opened_log() as log:
        chosen = _choose(log, index, positions, every)
        done = sum(log.retry_buried(index, part) for part in _parts(chosen))
        working = bool(log.workers())
    screens.out.print(f"{_documents(done)} back in the log" + (", and workers are at it." if working else "."))
    if done < len(chosen):
        screens.out.print(f"{len(chosen) - done:,} could not be read and cannot be retried; they can be dropped.")
    if done and not working:
        screens.out.print("No worker is running: `knnex worker` starts one.")


@app.command()
def drop(
    index: str,
    positions: Positions = None,
    every: All = False,
    yes: Yes = False,
) -> None:
    """Forget buried documents for good."""
    with opened_log() as log:
        chosen = _choose(log, index, positions, every)
        if chosen and not yes:
            typer.confirm(f"Forget {_documents(len(chosen))} of {index} for good?", abort=True, err=True)
        done = sum(log.drop_buried(index, part) for part in _parts(chosen))
    screens.out.print(f"{_documents(done)} forgotten.")


def _documents(count: int) -> str:
    return f"{count:,} document{'' if count == 1 else 's'}"


def _choose(log: EventLog, index: str, positions: Sequence[str] | None, every: bool) -> list[str]:
    if bool(positions) == every:
        raise typer.BadParameter("name positions, as `knnex buried list` has them, or say --all")
    if every:
        return log.burials(index)
    return [one.position for part in _parts(list(dict.fromkeys(positions or ()))) for one in _find(log, index, part)]


def _find(log: EventLog, index: str, positions: Sequence[str]) -> list[Buried]:
    """The buried of these positions, every one of them. Raises InputError."""
    found = log.find_buried(index, positions)
    if absent := [position for position in positions if position not in found]:
        raise InputError(
            f"nothing of {index!r} is buried at {', '.join(absent[:5])}",
            hint=f"`knnex buried list {index}` names what is",
        )
    return list(found.values())


def _parts(positions: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(positions), _AT_ONCE):
        yield positions[start : start + _AT_ONCE]


def _row(one: Buried) -> dict[str, Any]:
    """A buried document for scripts; `op` is null where the event could not be read."""
    plain = asdict(one)
    event = plain.pop("event")
    return {"id": one.id, "op": event and event["op"], **plain}
