"""`make demo`: search Python's own documentation by meaning, on a real engine, in one command.

Starts Elasticsearch (or OpenSearch), Redis and a worker on this machine, sends the standard library's docstrings
through the log, and asks questions in words that the docstrings do not use.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corpus import documents
from questions import MORE, QUESTIONS, SLICE, Question
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from knnex import Hit, Hits, Index, KnnexError, connect
from knnex.engines import embedded
from knnex.screens import bar
from knnex.screens import error as show_error
from knnex.settings import settings
from knnex.workers.background import start_background

SPEC = Path(__file__).with_name("spec.yaml")
WIDTH = 100
ENGINES = ("elasticsearch", "opensearch")


def main() -> int:
    """Run the demo; 0, or 1 where something went wrong or an expectation did not hold."""
    options = _options()
    console = Console(no_color=options.plain or None, force_terminal=False if options.plain else None, highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    try:
        return Demo(console, options).run()
    except KnnexError as failure:
        show_error(failure)
        return 1
    except KeyboardInterrupt:
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Search Python's own documentation by meaning.")
    parser.add_argument("--engine", choices=ENGINES, help="else what the Java here can run")
    parser.add_argument("--modules", metavar="A,B,...", help="only these modules; `slice` for a small choice")
    parser.add_argument("--no-keep", action="store_true", help="stop everything at the end")
    parser.add_argument("--assert", dest="check", action="store_true", help="exit code 1 unless the answers are right")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a picture of some answers")
    parser.add_argument("--plain", action="store_true", help="no colours, no moving parts")
    return parser.parse_args()


class Demo:
    """The steps, in the order in which they are seen."""

    def __init__(self, console: Console, options: argparse.Namespace) -> None:
        self.console = console
        self.options = options
        self.wrong: list[str] = []

    def run(self) -> int:
        """All of it."""
        self.console.print(Rule("[bold]Python's standard library, searched by meaning[/]"))
        try:
            running, worker = self._start()
            with connect(running.url, redis_url=running.redis_url) as cluster:
                with self._step("model, and index python-stdlib"):
                    index = cluster.create(SPEC)
                self._fill(index)
                self._ask(index)
                if self.options.svg:
                    self._draw(index)
            if not self.options.no_keep:
                self._farewell(running, worker)
        finally:
            if self.options.no_keep:
                embedded.down()
        return self._verdict()

    def _start(self) -> tuple[embedded.Running, embedded.ServerState]:
        """Engine, Redis and worker, each used where it runs already."""
        wanted = self.options.engine
        alive = {server.name for server in embedded.status() if server.alive}
        if wanted and alive & set(ENGINES) - {wanted}:
            with self._step("stopping the other engine, and its worker"):
                embedded.down()
        with self._step("engine and Redis") as say:
            running = embedded.up(wanted, progress=say)
        with self._step("worker"):
            places = {"url": running.url, "redis_url": running.redis_url}
            worker = start_background(settings().model_copy(update=places))
        return running, worker

    @contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str], None]]:
        started = time.monotonic()
        with self.console.status(f"{name} …") as status:
            yield lambda line: status.update(f"{name}: {line}")
        self.console.print(f"[green]✓[/] {name} [dim]({time.monotonic() - started:.1f} s)[/]")

    def _fill(self, index: Index) -> None:
        chosen = self.options.modules
        modules = SLICE if chosen == "slice" else chosen.split(",") if chosen else None
        corpus = list(documents(modules=modules))
        with self._progress(len(corpus)) as show:
            report = index.ingest(corpus, progress=show)
        self.console.print(
            f"[green]✓[/] {report.in_index:,} of {report.read:,} documents are in the index "
            f"[dim]({report.encoded:,} texts encoded, {report.cached:,} already known, {report.seconds:.1f} s)[/]"
        )
        for lost in (*report.refused, *report.buried, *report.without_vector):
            self.wrong.append(f"{lost.id}: {lost.reason}")
        if report.in_index != len(corpus):
            self.wrong.append(f"{report.in_index:,} documents are in the index, not {len(corpus):,}")

    @contextmanager
    def _progress(self, total: int) -> Iterator[Callable[[Any], None]]:
        """A bar on a terminal, a line for every tenth elsewhere."""
        if not self.console.is_terminal:
            seen: set[int] = set()

            def line(done: Any) -> None:
                tenth = done.done * 10 // max(total, 1)
                if tenth not in seen:
                    seen.add(tenth)
                    self.console.print(f"  {done.done:,} of {total:,} documents")

            yield line
            return
        columns = (TextColumn("  encoding"), BarColumn(40), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[known]}"), console=self.console, transient=True) as progress:
            task = progress.add_task("encoding", total=total, known="")
            yield lambda done: progress.update(task, completed=done.done, known=f"{done.cached:,} already known")

    def _ask(self, index: Index) -> None:
        asked = (*QUESTIONS, *MORE) if self.options.check else QUESTIONS
        modules = {one["id"]: one for one in documents() if one["kind"] == "module"}
        index.search(asked[0].query)  # loads the model
        for question in asked:
            started = time.monotonic()
            hits = index.search(question.query)
            wrong = list(_wrong(question, hits, modules))
            self.wrong += wrong
            self._show(question, hits, (time.monotonic() - started) * 1000, not wrong)

    def _draw(self, index: Index) -> None:
        """One question of each kind with its three best hits, as a picture."""
        screen, self.console = self.console, Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
        for question in (QUESTIONS[3], *QUESTIONS[4:]):
            started = time.monotonic()
            hits = index.search(question.query.limit(3))
            self._show(question, hits, (time.monotonic() - started) * 1000, True)
        drawn = self.console.export_svg(title="make demo")
        # A picture must not fetch fonts from elsewhere.
        self.options.svg.write_text(re.sub(r"@font-face {.*?}\s*", "", drawn, flags=re.DOTALL))
        self.console = screen

    def _show(self, question: Question, hits: Hits, took_ms: float, right: bool) -> None:
        title = Text.assemble("\n", (f"“{question.text}”", "bold"))
        if self.options.check:
            title.append("  ✓ as expected" if right else "  ✗ not as expected", "green" if right else "red")
        self.console.print(title)
        self.console.print(Text(f"  {question.how}, {took_ms:.0f} ms", "dim italic"))
        scores = [hit.score for hit in hits]
        rows = Table.grid(padding=(0, 2, 0, 0), expand=True)
        rows.add_column(width=8, no_wrap=True)
        rows.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for hit in hits:
            rows.add_row(Text(bar(_share(hit.score, scores)), "cyan"), _name(hit, hit.id in question.answers))
            rows.add_row(Text(f"{hit.score:8.3f}", "dim"), Text(str(hit["first_line"]), "dim"))
        self.console.print(Padding(rows, (0, 0, 0, 2)))

    def _farewell(self, running: embedded.Running, worker: embedded.ServerState) -> None:
        knnex = _relative(Path(sys.executable).with_name("knnex"))
        rows = Table.grid(padding=(0, 2, 0, 0))
        rows.add_column(style="dim", no_wrap=True)
        rows.add_column(overflow="fold")
        for server in running.servers:
            if server.pid != worker.pid:
                rows.add_row("running", f"{server.name} {server.version} at {server.url}")
        rows.add_row("", f"a worker, process {worker.pid}; its log is {_relative(worker.log)}")
        rows.add_row("ask", f'[bold]{knnex} search python-stdlib "show a month as a grid of days"[/]')
        rows.add_row("", f'{knnex} search python-stdlib "how alike are two texts" --where kind=class')
        rows.add_row("look", f"{knnex} doctor python-stdlib")
        rows.add_row("stop", f"{knnex} down   [dim](what is indexed stays, and nothing is encoded twice)[/]")
        self.console.print()
        self.console.print(Panel(rows, title="[bold]It keeps running[/]", title_align="left", border_style="green"))

    def _verdict(self) -> int:
        for line in self.wrong:
            self.console.print(f"[red]✗[/] {line}", markup=True)
        return 1 if self.wrong and self.options.check else 0


def _wrong(question: Question, hits: Sequence[Hit], modules: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    found = [hit.id for hit in hits]
    if not question.answers & set(found):
        yield f"“{question.text}” found {', '.join(found) or 'nothing'}, none of {', '.join(sorted(question.answers))}"
    for hit in hits:
        if not question.holds({"id": hit.id} | dict(hit.source), modules.get(str(hit["module"]), {})):
            yield f"“{question.text}” found {hit.id}, which its filter excludes"


def _name(hit: Hit, right: bool) -> Text:
    """`functools.lru_cache` in bold, its arguments beside it; a hit that counts as right has a mark."""
    called = str(hit["signature"]).removeprefix(str(hit["name"])) if hit["kind"] != "module" else ""
    mark = ("✓ ", "bold green") if right else ("", "")
    return Text.assemble(mark, (hit.id, "bold"), called, (f"  {hit['kind']}", "dim"))


def _share(score: float, scores: Sequence[float]) -> float:
    """The best hit fills its bar, the last one a quarter: scores of one answer lie close together."""
    low, high = min(scores), max(scores)
    return 0.25 + 0.75 * (score - low) / (high - low) if high > low else 1.0


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
