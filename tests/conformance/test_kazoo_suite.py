"""kazoo's own tests, which its wheel carries, against one server: all modules that have to do with a server.

No failure is expected. What is deselected cannot work with a single server, and fails in the same way with
a single Apache ZooKeeper (``FASTZK_TEST_SERVER=zookeeper`` runs everything here against that; there
``test_request_queuing_session_recovered`` may fail too, since Java takes longer to come back than kazoo
waits). ``test_kazoo_ensemble.py`` runs the whole suite against three servers.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from support.servers import ZooKeeperServer, require

from . import kazoo_run

TESTS = Path(__file__).parent.parent

#: What one server cannot do, with the reason: the first keeps a client connected while its server is
#: stopped, the second stops two of three servers and reads from the last.
NEED_MORE_SERVERS = ("test_update_host_list", "test_read_only")

#: Kerberos needs a realm, changes of the ensemble need an ensemble; the rest of the suite runs.
LEFT_OUT = ["gssapi", "reconfig", *NEED_MORE_SERVERS]
#: Apache ZooKeeper takes the JAAS file and Netty, which its TLS needs, from Java's options.
LEFT_OUT_OF_ZOOKEEPER = ["ssl", "sasl"]

#: Modules of kazoo.tests, and how many of their tests must pass at least, lest a change
#: of names empties the selection unseen (kazoo 2.11 has a few more).
MODULES = {
    "test_client": 96,
    "test_eventlet_handler": 80,
    "test_gevent_handler": 60,
    "test_connection": 8,
    "test_lock": 25,
    "test_cache": 15,
    "test_watchers": 20,
    "test_lease": 10,
    "test_queue": 10,
    "test_partitioner": 6,
    "test_barrier": 6,
    "test_sasl": 4,
    "test_counter": 4,
    "test_party": 3,
    "test_election": 2,
    "test_interrupt": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_kazoo_module(module: str, tmp_path: Path) -> None:
    require(
        all(importlib.util.find_spec(name) for name in ("jks", "OpenSSL", "puresasl")),
        "kazoo's test requirements",
    )
    left_out = list(LEFT_OUT)
    if os.environ.get("FASTZK_TEST_SERVER") == "zookeeper":
        if module == "test_sasl":
            pytest.skip("these need fastzk")
        left_out += LEFT_OUT_OF_ZOOKEEPER
        require(ZooKeeperServer.missing() is None, f"Apache ZooKeeper: {ZooKeeperServer.missing()}")
    chosen = " and ".join(f"not {word}" for word in left_out)
    outcome = kazoo_run.run(
        [module],
        ["-p", "conformance.kazoo_plugin", "-p", "conformance.kazoo_races", "-k", chosen],
        cwd=tmp_path,
        env=kazoo_run.environment(TESTS),
        seconds=300,
    )
    assert outcome.passed >= MODULES[module], f"fewer tests than expected ran\n{outcome.report}"
