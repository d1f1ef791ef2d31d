"""kazoo's own tests, which its wheel carries, with fastzk.Client behind kazoo's name.

``FASTZK_TEST_SERVER=zookeeper`` runs them against Apache ZooKeeper instead of fastzk-server.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from support.servers import ZooKeeperServer, require

from .. import kazoo_run
from .differences import DIFFERENT, NEED_ENSEMBLE

TESTS = Path(__file__).parents[2]
#: The modules that go into one process each, and how many of their tests must pass at least.
GROUPS = {
    "client": (("test_client",), 98),
    "locks": (("test_lock", "test_election", "test_party", "test_watchers"), 58),
    "others": (("test_partitioner", "test_cache", "test_queue", "test_counter", "test_barrier", "test_lease"), 53),
}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_kazoo_with_our_client(group: str, tmp_path: Path) -> None:
    require(
        all(importlib.util.find_spec(name) for name in ("jks", "OpenSSL", "objgraph")),
        "kazoo's test requirements",
    )
    options = ["-p", "conformance.kazoo_client.plugin", "-W", "ignore"]
    modules, least = GROUPS[group]
    if os.environ.get("FASTZK_TEST_SERVER") == "zookeeper":
        require(ZooKeeperServer.missing() is None, f"Apache ZooKeeper: {ZooKeeperServer.missing()}")
        # Apache ZooKeeper takes the key stores for TLS from Java's options.
        options += ["-k", "not SSL"]
        least -= 1
    outcome = kazoo_run.run(modules, options, cwd=tmp_path, env=kazoo_run.environment(TESTS), seconds=400)
    assert outcome.passed >= least, f"fewer tests than expected ran\n{outcome.report}"


def test_at_least_nine_of_ten_pass() -> None:
    passing = sum(least for _, least in GROUPS.values())
    assert passing / (passing + len(DIFFERENT)) >= 0.9
    assert passing / (passing + len(DIFFERENT) + len(NEED_ENSEMBLE)) >= 0.9


def test_every_difference_is_explained() -> None:
    text = (TESTS.parent / "docs" / "from-kazoo.md").read_text()
    for test in DIFFERENT:
        assert f"`{test.rpartition('::')[2]}`" in text, test
