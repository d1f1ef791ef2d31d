"""Break the protocol as one mutation says, and look whether the simulator notices: an exit code of 0 says that it does.

    python -m tests.simulation.mutate NAME seeds|scenario
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import interpreted  # noqa: F401 - before anything that imports the broadcast
from .mutations import MUTATIONS
from .scenario import ScenarioError, play
from .simulation import Failed, Simulation

WITHIN = 1_000
SCENARIOS = Path(__file__).parent / "scenarios"


def by_seeds(seeds: list[int]) -> str:
    """The first of the seeds that fails; empty if none does."""
    for seed in seeds:
        try:
            Simulation(seed).run()
        except Failed:
            return f"seed {seed}"
    return ""


def by_scenario(name: str) -> str:
    """The scenario, if it fails."""
    try:
        play(SCENARIOS / f"{name}.txt")
    except ScenarioError:
        return f"scenario {name}"
    return ""


def main() -> int:
    """Returns the exit code."""
    mutation = next(each for each in MUTATIONS if each.name == sys.argv[1])
    with mutation.applied():
        if sys.argv[2] == "seeds":
            found = by_seeds([*mutation.seeds, *range(1, WITHIN + 1)])
        else:
            assert mutation.scenario is not None
            found = by_scenario(mutation.scenario)
    print(f"{mutation.name}: {'found by ' + found if found else 'not found'}")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
