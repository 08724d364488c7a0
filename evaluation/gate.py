"""The gate before a swap: whether a new version is good enough to take the place of the old one, and if not, why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..engines import Engine
from ..ingest.reindex import Judged
from ..mappings import Stored
from .compare import Comparison, compare
from .judgments import Judgments


@dataclass(frozen=True)
class Verdict:
    """Whether the new version may go in, and a line for each reason why, or why not."""

    passed: bool
    reasons: tuple[str, ...]
    comparison: Comparison

    def __str__(self) -> str:
        return "; ".join(self.reasons)


@dataclass(frozen=True)
class Gate:
    """What the new version has to reach: deltas are new less old, so that -0.01 lets it be worse by 0.01.

    `min_ndcg_delta` holds with judgments, `min_recall_delta` with both; `min_recall` is absolute, of the graph beside
    exact search, and `min_judged` the share of the new version's best k that somebody judged: a model that finds what
    the judges never saw is not worse for that.
    """

    min_ndcg_delta: float = -0.01
    min_recall_delta: float | None = None
    min_recall: float | None = None
    min_judged: float | None = None

    def asking(
        self,
        engine: Engine,
        given: Judgments | Sequence[str] | None = None,
        *,
        tell: Callable[[Verdict], object] = lambda _: None,
    ) -> Callable[[Stored, Stored], Judged]:
        """The gate of a re-index: it compares both versions as `compare` does. `tell` hears the verdict."""

        def judge(old: Stored, new: Stored) -> Judged:
            verdict = self.judge(compare(engine, old, new, given))
            tell(verdict)
            return Judged(verdict.comparison.quality(), "" if verdict.passed else str(verdict))

        return judge

    def judge(self, found: Comparison) -> Verdict:
        """Hold a comparison against the gate."""
        checks = [*self._deltas(found), *self._least(found)]
        passed = all(good for good, _ in checks)
        return Verdict(passed, tuple(reason for good, reason in checks if good == passed), found)

    def _deltas(self, found: Comparison) -> list[tuple[bool, str]]:
        low, high = found.interval
        span = f"95 % interval {low:+.4f} to {high:+.4f}, {found.queries:,} queries"
        checks = []
        if found.old.ndcg is not None and found.new.ndcg is not None:
            names = f"nDCG@{found.k} {found.old.ndcg:.4f} -> {found.new.ndcg:.4f} ({found.delta['ndcg']:+.4f}, {span})"
            checks.append(_check(names, found.delta["ndcg"], self.min_ndcg_delta))
        least = self.min_recall_delta
        if least is None and found.new.ndcg is None:
            least = self.min_ndcg_delta
        if least is not None:
            what = f"recall@{found.depth} {found.old.recall:.4f} -> {found.new.recall:.4f}"
            change = f"{found.delta['recall']:+.4f}" + ("" if found.new.ndcg is not None else f", {span}")
            checks.append(_check(f"{what} ({change})", found.delta["recall"], least))
        return checks

    def _least(self, found: Comparison) -> list[tuple[bool, str]]:
        checks = []
        if self.min_recall is not None and found.by == "exact search":
            checks.append(_check(f"recall@{found.k} {found.new.recall:.4f}", found.new.recall, self.min_recall))
        if self.min_judged is not None and found.new.judged is not None:
            what = f"{found.new.judged:.0%} of the best {found.k} are judged"
            checks.append(_check(what, found.new.judged, self.min_judged))
        return checks


def _check(what: str, value: float, least: float) -> tuple[bool, str]:
    # Figures of floats: what is printed as equal is equal.
    good = value >= least - 1e-9
    return good, f"{what}, at least {least:g} was asked for"
