"""Whole ensembles under fire, by seed: nothing is lost, nothing is torn, and in peace all agree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .__main__ import run_seeds

SEEDS = 2_000
SHARD = 50
#: Seeds that once found something. What a seed does changes with the simulator, so each of them is a scenario, too.
REGRESSIONS = [147, 337, 1793, 2037, 2111, 2262]


@pytest.mark.parametrize("first", range(1, SEEDS, SHARD))
def test_seeds(first: int) -> None:
    statistics, failures = run_seeds(range(first, first + SHARD))
    assert not failures, failures[0][1]
    # A shard in which nothing happens proves nothing.
    for what in ("writes", "syncs", "crashes", "full states", "truncations", "memberships adopted", "rolls", "CUT OFF"):
        assert statistics[what] > 0, what


def test_seeds_that_failed_before() -> None:
    for seed in REGRESSIONS:
        _, failures = run_seeds(range(seed, seed + 1))
        assert not failures, failures[0][1]


@pytest.mark.parametrize("seed", [7, 12])
def test_a_seed_replays_exactly_in_another_process(seed: int) -> None:
    """Also where sets and dictionaries of strings come in another order."""
    texts = {
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--trace"],
            cwd=Path(__file__).parents[2],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(texts) == 1
    assert len(texts.pop().splitlines()) > 100
