"""A few seeds of the differential test; ``differential.py`` plays as many as wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.servers import ZooKeeperServer, require

from conformance.differential import Differential, workplace

pytestmark = pytest.mark.xdist_group("differential")

SEEDS = range(1000, 1006)
STEPS = 2000


@pytest.fixture(scope="module")
def differential() -> Iterator[Differential]:
    missing = ZooKeeperServer.missing()
    require(missing is None, f"Apache ZooKeeper: {missing}")
    with workplace() as directory:
        both = Differential(directory)
        try:
            yield both
        finally:
            both.stop()


@pytest.mark.parametrize("seed", SEEDS)
def test_same_answers(differential: Differential, seed: int) -> None:
    """Both servers answer the same random requests alike, and hold the same tree in the end."""
    found = differential.check(seed, STEPS, shrink_seconds=30)
    assert found is None, found
