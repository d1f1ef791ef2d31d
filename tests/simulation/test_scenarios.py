"""Every scenario comes out as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from .scenario import play

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    scenario = play(path)
    assert scenario.world.checker.committed
