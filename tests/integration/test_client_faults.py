# ruff: noqa: ASYNC110 -- tests look again and again
"""Both clients under load while servers and networks fail.

Every call must end by its deadline, with a result or an error that says what happened; every callback must come; and
no thread, task or descriptor may be left.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support.servers import Server
from support.wire import poll

from fastzk import AsyncClient, Client, KeeperState
from fastzk.errors import (
    ConnectionLossError,
    NotReadOnlyError,
    OperationTimeoutError,
    SessionExpiredError,
    ZooKeeperError,
)
from fastzk.testing import EphemeralEnsemble, EphemeralServer, Link, expire_session

from .conftest import KIND, ServerFactory

#: Of each call, in seconds; and how much later it may end on a busy machine.
DEADLINE, GRACE = 4.0, 4.0
#: How a call may fail when something breaks.
KNOWN = (ConnectionLossError, OperationTimeoutError, SessionExpiredError)
THREADS, TASKS = 8, 100


class World:
    """A server, or several, and the network in front of the first."""

    def __init__(self, server: Server, link: Link) -> None:
        self.server = server
        self.link = link
        self.client: Any = None


def kill(world: World) -> None:
    world.server.kill9()
    world.server.start()


def restart(world: World) -> None:
    world.server.restart()


def pause(world: World) -> None:
    assert world.server.process is not None
    world.server.process.send_signal(19)
    time.sleep(1.0)
    world.server.process.send_signal(18)


def expire(world: World) -> None:
    expire_session(world.client, port=world.server.port)


def slow(world: World) -> None:
    for _ in range(10):
        world.link.hold_replies = True
        time.sleep(0.1)
        world.link.hold_replies = False
        time.sleep(0.02)


def silent(world: World) -> None:
    """Longer than a client waits for a sign of life."""
    world.link.hold_replies = True
    time.sleep(4.5)
    world.link.hold_replies = False


def cut(world: World) -> None:
    for _ in range(5):
        world.link.cut()
        time.sleep(0.1)


def half_close(world: World) -> None:
    world.link.half_close()


FAULTS: dict[str, Callable[[World], None]] = {
    each.__name__: each for each in (kill, restart, pause, expire, slow, silent, cut, half_close)
}


@pytest.fixture
def world(new_server: ServerFactory) -> Iterator[World]:
    server = new_server({"tickTime": "500"}).start()
    with Link(server.port) as link:
        yield World(server, link)


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def is_ours(thread: threading.Thread) -> bool:
    return thread.name in ("fastzk-helper", "fastzk-callbacks")


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread of a client, and no more descriptors than before, once the test's own fixtures are there."""
    if "world" in request.fixturenames:
        request.getfixturevalue("world")
    # The first event loop of a process makes a pipe for signals that stays.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))
    before = len(descriptors())
    yield
    poll(lambda: not any(is_ours(thread) for thread in threading.enumerate()), "threads end", 20)
    if "world" in request.fixturenames:
        until = time.monotonic() + 20
        while len(left := descriptors()) > before:
            assert time.monotonic() < until, f"{before} descriptors before, now {left}"
            time.sleep(0.05)


class Record:
    """What became of the calls."""

    def __init__(self) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.unknown: list[BaseException] = []
        self.late: list[float] = []

    def ended(self, began: float, error: BaseException | None) -> None:
        took = time.monotonic() - began
        if took > DEADLINE + GRACE:
            self.late.append(took)
        self.outcomes["ok" if error is None else type(error).__name__] += 1
        if error is not None and not isinstance(error, KNOWN):
            self.unknown.append(error)

    def check(self) -> None:
        assert not self.unknown, self.unknown
        assert not self.late, self.late
        assert self.outcomes["ok"] > 0, self.outcomes


@pytest.mark.parametrize("fault", FAULTS)
def test_threads(world: World, fault: str) -> None:
    record = Record()
    stop = threading.Event()
    made, called = collections.Counter[int](), collections.Counter[int]()

    def work(number: int) -> None:
        path = f"/w{number}"
        while not stop.is_set():
            began = time.monotonic()
            try:
                zk.set(path, b"x", timeout=DEADLINE)
                made[number] += 1
                # By one thread, the client's: so this needs no lock.
                zk.get_async(path, timeout=DEADLINE).add_done_callback(lambda _: called.update([number]))
                zk.get(path, timeout=DEADLINE)
            except ZooKeeperError as error:
                record.ended(began, error)
                time.sleep(0.01)
            else:
                record.ended(began, None)

    with Client(world.link.hosts, timeout=6) as zk:
        world.client = zk
        for number in range(THREADS):
            zk.create(f"/w{number}", b"")
        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        poll(lambda: record.outcomes["ok"] > 100, "the load is on", 30)
        FAULTS[fault](world)
        before = record.outcomes["ok"]
        poll(lambda: record.outcomes["ok"] > before + 100, "requests are answered again", 40)
        stop.set()
        for thread in threads:
            thread.join(DEADLINE + GRACE)
            assert not thread.is_alive()
        poll(lambda: called == made, "every callback came", 20)
    record.check()


@pytest.mark.parametrize("fault", FAULTS)
def test_tasks(world: World, fault: str) -> None:
    record = Record()

    async def work(zk: AsyncClient, number: int, stop: asyncio.Event) -> None:
        path = f"/w{number}"
        while not stop.is_set():
            began = time.monotonic()
            try:
                await zk.set(path, b"x", timeout=DEADLINE)
                await zk.get(path, timeout=DEADLINE)
            except ZooKeeperError as error:
                record.ended(began, error)
                await asyncio.sleep(0.01)
            else:
                record.ended(began, None)

    async def until(condition: Callable[[], bool], what: str) -> None:
        for _ in range(4000):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"still not so: {what}")

    async def main() -> None:
        stop = asyncio.Event()
        async with AsyncClient(world.link.hosts, timeout=6) as zk:
            world.client = zk
            await asyncio.gather(*[zk.create(f"/w{number}", b"") for number in range(TASKS)])
            tasks = [asyncio.create_task(work(zk, number, stop)) for number in range(TASKS)]
            await until(lambda: record.outcomes["ok"] > 300, "the load is on")
            await asyncio.to_thread(FAULTS[fault], world)
            before = record.outcomes["ok"]
            await until(lambda: record.outcomes["ok"] > before + 300, "requests are answered again")
            stop.set()
            async with asyncio.timeout(DEADLINE + GRACE):
                await asyncio.gather(*tasks)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    record.check()


def test_a_thousand_threads_over_a_broken_connection(world: World) -> None:
    record = Record()

    def call(zk: Client) -> None:
        began = time.monotonic()
        try:
            zk.get("/", timeout=DEADLINE)
        except ZooKeeperError as error:
            record.ended(began, error)
        else:
            record.ended(began, None)

    size = threading.stack_size(256 << 10)
    try:
        with Client(world.link.hosts, timeout=10) as zk:
            threads = [threading.Thread(target=call, args=(zk,), daemon=True) for _ in range(1000)]
            for number, thread in enumerate(threads):
                thread.start()
                if number in (300, 700):
                    world.link.cut()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
    finally:
        threading.stack_size(size)
    assert sum(record.outcomes.values()) == 1000
    record.check()


def test_a_thousand_tasks_over_a_broken_connection(world: World) -> None:
    async def main() -> None:
        async with AsyncClient(world.link.hosts, timeout=10) as zk:
            world.link.hold_replies = True
            calls = [asyncio.ensure_future(zk.get("/", timeout=DEADLINE)) for _ in range(1000)]
            await asyncio.sleep(0.2)
            world.link.hold_replies = False
            world.link.cut()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, (tuple, *KNOWN)) for result in results)
            assert len(results) == 1000
            await zk.retry(zk.get, "/")

    asyncio.run(main())


# ---- a server that is none

_HANDSHAKE = struct.pack(">iiiq", 37, 0, 6000, 0x1234) + struct.pack(">i", 16) + bytes(16) + b"\0"
#: What comes instead of the reply to the first request.
RUBBISH = {
    "random bytes": bytes(range(7, 250)) * 10,
    "a huge length": struct.pack(">i", 0x7FFFFFFF) + b"x" * 1000,
    "a negative length": struct.pack(">i", -5) + b"x" * 1000,
    "an empty frame": struct.pack(">i", 0),
    "a short frame": struct.pack(">ii", 4, 1),
    "the xid of no request": struct.pack(">iiqi", 16, 99, 1, 0),
    "half a reply": struct.pack(">iiq", 200, 1, 1),
    "nothing": b"",
}


class FakeServer:
    """Answers one client: the handshake with ``handshake``, the first request with ``rubbish``; then it is gone."""

    def __init__(self, handshake: bytes, rubbish: bytes) -> None:
        self._answers = (handshake, rubbish)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.met = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._listener.close()
        self.met += 1
        with sock, contextlib.suppress(OSError):
            sock.settimeout(5)
            for answer in self._answers:
                if not sock.recv(65536):
                    break
                sock.sendall(answer)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_rubbish_for_threads(world: World, rubbish: str) -> None:
    with FakeServer(_HANDSHAKE, RUBBISH[rubbish]) as fake:
        hosts = f"127.0.0.1:{fake.port},{world.link.hosts}"
        with Client(hosts, timeout=6, randomize_hosts=False) as zk:
            began = time.monotonic()
            with pytest.raises(KNOWN):
                zk.get("/", timeout=DEADLINE)
            assert time.monotonic() - began < DEADLINE + GRACE
            # The session of the fake is unknown to the real one, so there is a new one first.
            poll(lambda: world.link.connections > 0 and zk.connected, "the next server is tried", 20)
            assert zk.retry(zk.exists, "/", timeout=DEADLINE) is not None


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_rubbish_for_tasks(world: World, rubbish: str) -> None:
    async def main() -> None:
        with FakeServer(_HANDSHAKE, RUBBISH[rubbish]) as fake:
            hosts = f"127.0.0.1:{fake.port},{world.link.hosts}"
            async with AsyncClient(hosts, timeout=6, randomize_hosts=False) as zk:
                with pytest.raises(KNOWN):
                    await zk.get("/", timeout=DEADLINE)
                async with asyncio.timeout(20):
                    while not (world.link.connections and zk.connected):
                        await asyncio.sleep(0.01)
                assert await zk.retry(zk.exists, "/", timeout=DEADLINE) is not None

    asyncio.run(main())


def test_a_rubbish_handshake(world: World) -> None:
    for handshake in (b"HTTP/1.1 400 Bad Request\r\n\r\n", struct.pack(">i", 0x7FFFFFFF), b"\0" * 4, b"\0\0\0\5hello"):
        with FakeServer(handshake, b"") as fake:
            hosts = f"127.0.0.1:{fake.port},{world.link.hosts}"
            with Client(hosts, timeout=6, randomize_hosts=False) as zk:
                assert zk.exists("/", timeout=DEADLINE) is not None
            assert fake.met


def test_a_session_moves_to_another_server() -> None:
    """The server a client is connected to dies; the session goes on with the others."""
    if KIND != "fastzk":
        pytest.skip("an ensemble of fastzk")
    with EphemeralEnsemble(3) as ensemble:
        for server in ensemble.servers:
            with Client(f"{server.hosts},{ensemble.hosts}", timeout=10, randomize_hosts=False) as zk:
                zk.create("/e", ephemeral=True)
                identity = zk.client_id
                watched = threading.Event()
                zk.exists("/e", lambda _, watched=watched: watched.set())  # type: ignore[misc]
                server.kill()
                assert zk.retry(zk.exists, "/e") is not None
                assert zk.client_id == identity
                zk.retry(zk.delete, "/e")
                assert watched.wait(20)
            server.start()


@pytest.fixture
def read_only_and_another() -> Iterator[tuple[EphemeralServer, EphemeralServer]]:
    """A server that lacks its ensemble and one that is alone; the latter does not run yet."""
    if KIND != "fastzk":
        pytest.skip("an ensemble of fastzk")
    ensemble, alone = EphemeralEnsemble(3, {"readonlymode.enabled": "true"}), EphemeralServer()
    try:
        ensemble.servers[0].launch()
        yield ensemble.servers[0], alone
    finally:
        ensemble.close()
        alone.close()


def test_threads_leave_a_read_only_server(read_only_and_another: tuple[EphemeralServer, EphemeralServer]) -> None:
    read_only, alone = read_only_and_another
    zk = Client(f"{read_only.hosts},{alone.hosts}", read_only=True)
    zk.start(60)
    try:
        assert zk.client_state == KeeperState.CONNECTED_RO
        with pytest.raises(NotReadOnlyError):
            zk.create("/a")
        with pytest.raises(NotReadOnlyError):
            zk.get("/", linearizable=True)
        alone.start()
        poll(lambda: zk.client_state == KeeperState.CONNECTED, "the client can write", 30)
        assert zk.retry(zk.create, "/a") == "/a"
    finally:
        zk.stop()


def test_tasks_leave_a_read_only_server(read_only_and_another: tuple[EphemeralServer, EphemeralServer]) -> None:
    read_only, alone = read_only_and_another

    async def main() -> None:
        zk = AsyncClient(f"{read_only.hosts},{alone.hosts}", read_only=True)
        await zk.start(60)
        assert zk.client_state == KeeperState.CONNECTED_RO
        await asyncio.to_thread(alone.start)
        async with asyncio.timeout(30):
            while zk.client_state != KeeperState.CONNECTED:
                await asyncio.sleep(0.01)
        assert await zk.retry(zk.create, "/a") == "/a"
        await zk.close()

    asyncio.run(main())


# ---- who is inside a lock


def test_kazoo_and_fastzk_are_never_both_inside(new_server: ServerFactory, tmp_path: Path) -> None:
    """For some seconds, or as many as FASTZK_CONTEND_SECONDS says, while the server is killed again and again."""
    seconds = float(os.environ.get("FASTZK_CONTEND_SECONDS", "6"))
    server = new_server().start()
    program = Path(__file__).parents[1] / "support" / "contender.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), kind, server.hosts, str(tmp_path / "inside"), str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for kind in ("kazoo", "fastzk", "fastzk")
    ]
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until - 1.5:
            time.sleep(1.5)
            server.kill9()
            server.start()
        for process in processes:
            output, errors = process.communicate(timeout=seconds + 90)
            assert process.returncode == 0, (output, errors)
            assert int(output.split()[-1]) > 0, (output, errors)
            print(process.args[2], "was inside", output.split()[-1], "times")  # type: ignore[index]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
