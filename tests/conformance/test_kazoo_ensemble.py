"""kazoo's whole suite, which its wheel carries, with its own harness: three servers, observers, TLS, SASL, reconfig.

The harness starts ``java``, which is ``kazoo_java/java`` here: fastzk-server in place of ZooKeeper. No test is left
out; those skipped are skipped with ZooKeeper, too (``FASTZK_TEST_SERVER=zookeeper`` runs all of it on that).
Each module is a process of its own with ports of its own, so that several run at once.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import random
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.servers import ZooKeeperServer, require

from . import kazoo_run

HERE = Path(__file__).parent
KIND = os.environ.get("FASTZK_TEST_SERVER", "fastzk")
#: Below those from which other tests take theirs. The harness wants ten for each server.
PORTS = range(10_000, 14_900)
PORTS_WANTED = 50


class Expected(NamedTuple):
    """Of one module: tests that pass, at least, and tests that are skipped, at most."""

    passed: int
    skipped: int = 0


#: kazoo 2.11: 490 tests pass and 3 are skipped, for want of Kerberos and outside of kazoo's own CI.
MODULES: dict[str, Expected] = {
    # the long ones first, so that two processes end at about the same time
    "test_client": Expected(111),
    "test_eventlet_handler": Expected(100),
    "test_gevent_handler": Expected(73),
    "test_connection": Expected(11),
    "test_sasl": Expected(4, 2),
    "test_lock": Expected(31),
    "test_cache": Expected(17),
    "test_watchers": Expected(22),
    "test_lease": Expected(12),
    "test_queue": Expected(12),
    "test_barrier": Expected(8),
    "test_partitioner": Expected(8),
    "test_counter": Expected(5),
    "test_party": Expected(4),
    "test_election": Expected(2),
    "test_interrupt": Expected(1),
    "test_threading_handler": Expected(22),
    "test_paths": Expected(16),
    "test_utils": Expected(8),
    "test_retry": Expected(7),
    "test_selectors_select": Expected(5),
    "test_exceptions": Expected(4),
    "test_security": Expected(4),
    "test_hosts": Expected(3),
    "test_build": Expected(0, 1),
}


@pytest.fixture
def ports() -> Iterator[int]:
    """The first of some ports in a row that nobody uses, reserved among all test processes of the machine."""
    folder = Path(tempfile.gettempdir()) / f"fastzk-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    choices = list(PORTS[::PORTS_WANTED])
    random.SystemRandom().shuffle(choices)
    for first in choices:
        with (folder / f"{first}-kazoo").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for port in range(first, first + PORTS_WANTED):
                    with socket.socket() as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind(("", port))
            except OSError:
                continue
            yield first
            return
    raise RuntimeError("no free ports found")


def environment(first_port: int, folder: Path) -> dict[str, str]:
    """What kazoo's harness takes from the environment."""
    found = kazoo_run.environment(HERE.parent, without=["KRB5"])
    found["ZOOKEEPER_VERSION"] = "3.8.0"
    found["ZOOKEEPER_PORT_OFFSET"] = str(first_port)
    found["TMPDIR"] = str(folder)  # for the servers' directories
    if KIND == "zookeeper":
        jars = ZooKeeperServer.jars
        found["ZOOKEEPER_CLASSPATH"] = f"{jars}/zookeeper.jar:{jars}/slf4j-nop.jar:{jars}/*"
        # three of them, and two modules at once
        found["JDK_JAVA_OPTIONS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx256m"
    else:
        found["ZOOKEEPER_CLASSPATH"] = "unused"
        found["FASTZK_PYTHON"] = sys.executable
        found["PATH"] = os.pathsep.join([str(HERE / "kazoo_java"), found.get("PATH", os.defpath)])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_kazoo_module(module: str, ports: int, tmp_path: Path) -> None:
    require(
        all(map(importlib.util.find_spec, ("jks", "OpenSSL", "puresasl", "gevent", "eventlet", "objgraph"))),
        "kazoo's test requirements",
    )
    if KIND == "zookeeper":
        require(ZooKeeperServer.missing() is None, f"Apache ZooKeeper: {ZooKeeperServer.missing()}")
    options = ["-p", "conformance.kazoo_races"]
    outcome = kazoo_run.run([module], options, cwd=tmp_path, env=environment(ports, tmp_path), seconds=600)
    expected = MODULES[module]
    assert outcome.passed >= expected.passed, f"fewer tests than expected passed\n{outcome.report}"
    assert outcome.skipped <= expected.skipped, f"more tests than expected were skipped\n{outcome.report}"
