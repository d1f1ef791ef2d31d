"""The tests of the clients that make a server of their own, once more with Apache ZooKeeper in its place.

Those that share a server (``any_server``) run against both anyway.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import ZooKeeperServer, require

HERE = Path(__file__).parent
MODULES = ("test_client_sync", "test_client_async", "test_client_faults", "test_recipes")
#: Of the parametrized ones those whose server is named have run; the contention for a lock is about fastzk-server.
SELECTION = "not fastzk and not zookeeper and not never_both_inside"


@pytest.mark.slow
@pytest.mark.skipif("FASTZK_TEST_SERVER" in os.environ, reason="the server was chosen")
@pytest.mark.parametrize("module", MODULES)
def test_with_apache_zookeeper(module: str, tmp_path: Path) -> None:
    require(ZooKeeperServer.missing() is None, f"Apache ZooKeeper: {ZooKeeperServer.missing()}")
    options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "base"), "-k", SELECTION]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(HERE / f"{module}.py")],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=HERE.parents[1],
        env={**os.environ, "FASTZK_TEST_SERVER": "zookeeper"},
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
