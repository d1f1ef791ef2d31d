"""The simulator finds what it should find: the protocol is broken on purpose, in one way at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from .mutations import MUTATIONS, Mutation
from .scenario import ScenarioError, play
from .simulation import Failed, Simulation

WITHIN = 1_000
SCENARIOS = Path(__file__).parent / "scenarios"


@pytest.mark.parametrize("mutation", [each for each in MUTATIONS if each.seeds], ids=lambda mutation: mutation.name)
def test_seeds_find_it(mutation: Mutation) -> None:
    with mutation.applied():
        for seed in [*mutation.seeds, *range(1, WITHIN + 1)]:
            try:
                Simulation(seed).run()
            except Failed:
                return
    pytest.fail(f"not found within {WITHIN} seeds")


@pytest.mark.parametrize("mutation", [each for each in MUTATIONS if each.scenario], ids=lambda mutation: mutation.name)
def test_a_scenario_finds_it(mutation: Mutation) -> None:
    assert mutation.scenario is not None
    with mutation.applied(), pytest.raises(ScenarioError):
        play(SCENARIOS / f"{mutation.scenario}.txt")
