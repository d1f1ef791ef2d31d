"""The simulator finds what it should find: the protocol is broken on purpose, in one way at a time.

Each in a process of its own, where the broadcast's modules are interpreted (``mutate.py``): a compiled one cannot be
changed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .mutations import MUTATIONS

ROOT = Path(__file__).parents[2]


def found(name: str, by: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.mutate", name, by],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert done.stdout.startswith(f"{name}: "), done.stdout + done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("name", [each.name for each in MUTATIONS if each.seeds])
def test_seeds_find_it(name: str) -> None:
    assert found(name, "seeds")


@pytest.mark.parametrize("name", [each.name for each in MUTATIONS if each.scenario])
def test_a_scenario_finds_it(name: str) -> None:
    assert found(name, "scenario")


def test_nothing_is_found_where_nothing_is_broken() -> None:
    """What is interpreted passes the scenario as what is compiled does."""
    program = (
        "from tests.simulation import interpreted\n"
        "from tests.simulation.mutate import by_scenario, by_seeds\n"
        "from fastzk.server.zab import core\n"
        "assert core.__file__.endswith('.py')\n"
        "assert not by_scenario('ack_before_disk') and not by_seeds(list(range(1, 11)))\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=300)
