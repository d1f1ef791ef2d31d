"""fastzk.Client where gevent or eventlet has patched the standard library: greenlets take the place of threads."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import Server, require

ROOT = Path(__file__).parents[2]

#: Patched before anything else is imported, as these libraries want it.
PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all(); from gevent import joinall, sleep, spawn",
    "eventlet": (
        "import eventlet; eventlet.monkey_patch(); from eventlet import spawn, sleep\n"
        "def joinall(spawned): return [each.wait() for each in spawned]"
    ),
}
PROGRAM = """
import sys, threading, time
from fastzk import Client, State
from fastzk.errors import OperationTimeoutError

hosts = sys.argv[1]
with Client(hosts) as zk:
    # Others run while one waits: they count while requests are under way.
    turns = []
    stopped = threading.Event()

    def count():
        while not stopped.is_set():
            turns.append(1)
            sleep(0.001)

    counting = spawn(count)
    zk.create("/g")

    def work(number):
        path = zk.create("/g/%d" % number, b"0")
        for n in range(1, 21):
            data, stat = zk.get(path)
            assert data == b"%d" % (n - 1), data
            assert zk.set(path, b"%d" % n, version=stat.version).version == n
        with zk.Lock("/g-lock", str(number)):
            inside.append(number)
            assert len(inside) == 1
            sleep(0)
            inside.remove(number)
        done.append(number)

    inside, done = [], []
    joinall([spawn(work, number) for number in range(50)])
    assert sorted(done) == list(range(50)), done
    assert len(turns) > 5, turns

    heard = []
    zk.DataWatch("/g", lambda data, stat: heard.append(data))
    calls = [zk.set_async("/g", b"%d" % n) for n in range(1000)]
    assert calls[-1].get(timeout=20).version == 1000
    until = time.monotonic() + 20
    while heard[-1] != b"999":
        assert time.monotonic() < until, heard
        sleep(0.01)
    try:
        zk.Lock("/g-lock", "x").acquire(timeout=0.05) and zk.Lock("/g-lock", "y").acquire(timeout=0.05)
    except OperationTimeoutError:
        pass
    zk.delete("/g", recursive=True)
    stopped.set()
    joinall([counting])
assert zk.state == State.LOST
print("done")
"""


@pytest.mark.parametrize("library", PATCH)
def test_greenlets(any_server: Server, root: str, library: str) -> None:
    require(importlib.util.find_spec(library), f"the package {library}")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PATCH[library] + PROGRAM, any_server.hosts + root],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stdout + done.stderr
