"""kazoo's own tests, which its wheel carries, against one server of ours.

No failure is expected. What is deselected cannot work with a single server, and fails in the same way with
a single Apache ZooKeeper (``FASTZK_TEST_SERVER=zookeeper`` runs everything here against that; there
``test_request_queuing_session_recovered`` may fail too, since Java takes longer to come back than kazoo
waits).
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import ZooKeeperServer, require

TESTS = Path(__file__).parent.parent

#: What one server cannot do, with the reason: the first keeps a client connected while its server is
#: stopped, the second stops two of three servers and reads from the last.
NEED_MORE_SERVERS = ("test_update_host_list", "test_read_only")

#: TLS, SASL and changes of the ensemble are features of their own; the rest of the suite runs.
EXPRESSION = " and ".join(f"not {word}" for word in ("ssl", "SSL", "sasl", "reconfig", *NEED_MORE_SERVERS))

#: Modules of kazoo.tests that use a server, and how many of their tests must pass at least, lest a change
#: of names empties the selection unseen (kazoo 2.11 has a few more).
MODULES = {
    "test_client": 95,
    "test_connection": 8,
    "test_lock": 25,
    "test_watchers": 20,
    "test_cache": 15,
    "test_partitioner": 6,
    "test_election": 2,
    "test_queue": 10,
    "test_counter": 4,
    "test_barrier": 6,
    "test_party": 3,
    "test_lease": 10,
    "test_gevent_handler": 60,
    "test_eventlet_handler": 80,
    "test_interrupt": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_kazoo_module(module: str, tmp_path: Path) -> None:
    require(
        importlib.util.find_spec("jks") and importlib.util.find_spec("OpenSSL"), "kazoo's test requirements"
    )
    if os.environ.get("FASTZK_TEST_SERVER") == "zookeeper":
        require(ZooKeeperServer.missing() is None, f"Apache ZooKeeper: {ZooKeeperServer.missing()}")
    environment = dict(os.environ)
    for name in list(environment):
        # neither the options of the outer run nor an ensemble of somebody's own
        if name.startswith(("PYTEST_", "ZOOKEEPER_")):
            del environment[name]
    environment.pop("CI", None)  # kazoo would compare the server's version with ZOOKEEPER_VERSION
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), *sys.path]))
    command = [sys.executable, "-m", "pytest", "-p", "conformance.kazoo_plugin", "-p", "no:cacheprovider"]
    command += ["-q", "-rfE", "--tb=short", "--pyargs", f"kazoo.tests.{module}", "-k", EXPRESSION]
    # a session of its own, so that the servers it starts can be ended with it should it hang
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"kazoo.tests.{module} hangs\n{output[-20_000:]}")
    passed = re.search(r"(\d+) passed", output)
    report = output[-20_000:]
    assert process.returncode == 0, report
    assert passed is not None, report
    assert int(passed[1]) >= MODULES[module], f"fewer tests than expected ran\n{report}"
