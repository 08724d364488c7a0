"""Short runs of what `make chaos` runs at length: real workers and servers, killed in the middle, and an audit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from chaos import links, logs, overload, poison, signals, soak
from chaos.stage import Stage
from chaos.stage import stage as make_stage

SEED = 20261121


@pytest.fixture(scope="module")
def stage(engine_name: str) -> Iterator[Stage]:
    """Servers of our own: these are killed."""
    with make_stage(engine_name) as made:
        yield made


@pytest.fixture(scope="module")
def one_stage() -> Iterator[Stage]:
    """The same, of one engine: where the other makes no difference."""
    with make_stage("elasticsearch") as made:
        yield made


def test_killed_workers_lose_nothing_and_leave_nothing_stale(stage: Stage) -> None:
    outcome = soak.soak(stage, soak.SOAK["slice"], SEED)
    assert outcome.harmless, outcome.told()
    assert outcome.figures["child"] + outcome.figures["main"] == 6


def test_connections_cut_before_the_reply_lose_nothing(one_stage: Stage) -> None:
    outcome = links.links(one_stage, SEED, **links.SIZES["slice"])
    assert outcome.harmless, outcome.told()


def test_the_events_of_a_killed_worker_are_soon_done_by_another(one_stage: Stage) -> None:
    outcome = soak.redelivery(one_stage, SEED, **soak.REDELIVERY["slice"])
    assert outcome.harmless, outcome.told()
    assert outcome.figures["redelivery"]["kills"] == 2


def test_documents_that_kill_are_buried_and_no_others(one_stage: Stage) -> None:
    outcome = poison.poison(one_stage, SEED, **poison.SIZES["slice"])
    assert outcome.harmless, outcome.told()
    assert outcome.audit.buried == 2


def test_an_engine_that_takes_nothing_for_a_while_buries_nothing(stage: Stage) -> None:
    # Requests that are refused whole take two restarts of one of the engines: `make chaos` does that.
    ways: dict[str, list[overload.How]] = {"elasticsearch": ["flood"], "opensearch": ["breaker", "flood"]}
    for how in ways[stage.name]:
        outcome = overload.overload(stage, how, overload.SIZES["slice"], SEED)
        assert outcome.harmless, outcome.told()


def test_a_frozen_worker_and_one_told_to_stop_do_no_harm(one_stage: Stage) -> None:
    outcome = signals.signals(one_stage, SEED, **signals.SIZES["slice"])
    assert outcome.harmless, outcome.told()


@pytest.mark.parametrize("scenario", [logs.full, logs.trimmed, logs.clock, logs.wiped], ids=lambda one: one.__name__)
def test_a_log_that_goes_wrong_is_told_and_survived(one_stage: Stage, scenario: logs.Scenario) -> None:
    outcome = scenario(one_stage, SEED)
    assert outcome.harmless, outcome.told()
