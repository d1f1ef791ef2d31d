"""kazoo's own tests, which its wheel carries, against one server of ours: the modules in which the server matters.

The whole suite runs against an ensemble: see ``test_kazoo_ensemble.py``.

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

#: Kerberos needs a realm, changes of the ensemble need an ensemble; the rest of the suite runs.
LEFT_OUT = ["gssapi", "reconfig", *NEED_MORE_SERVERS]
#: Apache ZooKeeper takes the JAAS file and Netty, which its TLS needs, from Java's options.
LEFT_OUT_OF_ZOOKEEPER = ["ssl", "sasl"]

#: Modules of kazoo.tests, and how many of their tests must pass at least, lest a change
#: of names empties the selection unseen (kazoo 2.11 has a few more).
MODULES = {
    "test_client": 96,
    "test_connection": 8,
    "test_lock": 25,
    "test_watchers": 20,
    "test_sasl": 4,
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
    environment = dict(os.environ)
    for name in list(environment):
        # neither the options of the outer run nor an ensemble of somebody's own
        if name.startswith(("PYTEST_", "ZOOKEEPER_")):
            del environment[name]
    environment.pop("CI", None)  # kazoo would compare the server's version with ZOOKEEPER_VERSION
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), *sys.path]))
    command = [sys.executable, "-m", "pytest", "-p", "conformance.kazoo_plugin", "-p", "no:cacheprovider"]
    command += ["-q", "-rfE", "--tb=short", "--pyargs", f"kazoo.tests.{module}"]
    command += ["-k", " and ".join(f"not {word}" for word in left_out)]
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
