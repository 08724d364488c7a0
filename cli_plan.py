"""`knnex plan` and `knnex check`: what a spec asks of the cluster, what that costs, and whether all is in order."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import screens, screens_plan
from .cli_options import Json, Url
from .errors import SettingsError

if TYPE_CHECKING:
    from .engines import Dialect, Engine
    from .ingest.costing import Forecast
    from .mappings import Resolved, Spec
    from .mappings.look import Live
    from .mappings.plan import ChangePlan


# Exit code of a plan with something to do; 1 is an error, as everywhere.
_TO_DO = 2
# Versions for a plan on paper: those that are embedded.
_PAPER = {"elasticsearch": (9, 5, 0), "opensearch": (3, 6, 0)}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (plan, check):
        app.command()(command)


def plan(
    spec: Annotated[Path | None, typer.Argument(help="A spec in YAML; none for vectors on paper.")] = None,
    docs_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="The encoder's speed; else it is measured here.")
    ] = None,
    sample: Annotated[int, typer.Option(min=0, max=10_000, help="Documents to look at for the estimate.")] = 500,
    estimate: Annotated[bool, typer.Option(help="Say what it costs; loads the cache and runs the model.")] = True,
    documents: Annotated[int | None, typer.Option(min=1, help="On paper, without a server: so many vectors.")] = None,
    dims: Annotated[int, typer.Option(min=1, help="On paper: their dims.")] = 384,
    m: Annotated[int, typer.Option(min=2, max=512, help="On paper: links of the graph.")] = 16,
    memory: Annotated[float | None, typer.Option(min=0, help="On paper: GB of page cache to fit into.")] = None,
    engine: Annotated[Literal["elasticsearch", "opensearch"], typer.Option(help="On paper: the engine.")] = (
        "elasticsearch"
    ),
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Tell what a spec would change, how, and what it costs; exit code 2 when there is something to do.

    Nothing is changed by it.
    """
    if documents is not None and spec is None:
        _on_paper(documents, dims, m, engine, memory, as_json)
        return
    if spec is None or documents is not None:
        raise SettingsError(
            "a plan is of a spec, or of vectors on paper"
            if spec is None
            else "a spec is planned for the live documents",
            hint="knnex plan SPEC, or knnex plan --documents N --dims D",
        )
    from .client import connect

    with connect(url) as cluster:
        made = _Planned(cluster.engine, spec, sample)
        costs = made.forecast(docs_per_second) if estimate else None
    if as_json:
        screens.print_json(made.row() | ({"estimate": _forecast_row(costs)} if costs else {}))
    else:
        screens_plan.plan(made.plan, made.where)
        if costs:
            screens_plan.forecast(costs)
    if made.plan:
        raise typer.Exit(_TO_DO)


def check(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC...", help="Specs in YAML.")],
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Exit code 1 where a spec and the cluster differ, or somebody changed an index by hand; for CI."""
    from .client import connect

    with connect(url) as cluster:
        made = [_Planned(cluster.engine, spec, sample=100) for spec in specs]
    if as_json:
        screens.print_json([one.row() for one in made])
    else:
        for one in made:
            screens_plan.plan(one.plan, one.where)
    if any(one.plan or one.plan.drift for one in made):
        raise typer.Exit(1)


class _Planned:
    """A spec, what is there, and the plan that leads from one to the other."""

    def __init__(self, engine: Engine, path: Path, sample: int) -> None:
        from .encoders import resolve
        from .mappings import load_spec
        from .mappings.look import look
        from .mappings.plan import plan as compare

        self.spec: Spec = load_spec(path)
        self.resolved: dict[str, Resolved] = resolve(self.spec)
        self.dialect: Dialect = engine.dialect
        self.live: Live | None = engine.run(look(self.spec.index, self.spec, sample=sample))
        self.plan: ChangePlan = compare(self.spec, self.resolved, self.live, self.dialect)

    @property
    def where(self) -> str:
        """The index and its engine."""
        return f"{self.live.index} on {self.dialect}" if self.live else str(self.dialect)

    def forecast(self, rate: float | None) -> Forecast | None:
        """What the plan costs; None where there are no documents yet."""
        if self.live is None or not self.live.documents or not self.plan:
            return None
        from .encoders import load_encoder, open_cache
        from .ingest.costing import forecast
        from .settings import settings

        encoders = {name: load_encoder(embedding) for name, embedding in self.spec.embeddings.items()}
        cache = open_cache(settings())
        try:
            return forecast(self.plan, self.spec, self.resolved, encoders, self.live, self.dialect, cache, rate=rate)
        finally:
            cache.close()

    def row(self) -> dict[str, Any]:
        """For scripts."""
        live = self.live
        seen = live and {
            "index": live.index,
            "versions": list(live.versions),
            "documents": live.documents,
            "deleted": live.deleted,
            "foreign": live.foreign,
            "store_bytes": live.store_bytes,
            "free_bytes": live.free_bytes,
        }
        return self.plan.rows(self.dialect) | {"engine": str(self.dialect), "live": seen}


def _forecast_row(made: Forecast) -> dict[str, Any]:
    return {
        "encode": [{**asdict(one), "seconds": one.seconds} for one in made.costs],
        "vectors": {
            name: {"chosen": one.row(), "levels": [each.row() for each in made.others[name]]}
            for name, one in made.chosen.items()
        },
        "disk": made.disk,
        "free": made.free,
        "fits": made.fits,
    }


def _on_paper(documents: int, dims: int, m: int, engine: str, memory: float | None, as_json: bool) -> None:
    from .engines import VectorField
    from .engines.engine import DIALECTS
    from .mappings.estimate import levels

    dialect = DIALECTS[engine](_PAPER[engine])
    field = VectorField(dims=dims, similarity="cosine", m=m, ef_construction=100, quantization="none")
    dialect.check_dims(field)
    found = list(levels(documents, field, dialect))
    if as_json:
        screens.print_json(
            {"engine": str(dialect), "vectors": documents, "dims": dims, "m": m, "levels": [one.row() for one in found]}
        )
    else:
        screens_plan.footprints(f"{documents:,} vectors of {dims} dims, m {m}, on {dialect}, one copy", found)
        if memory is not None:
            screens_plan.fitting(found, memory * 1e9)
