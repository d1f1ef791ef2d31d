"""Clients that other people wrote, used as applications use them: kazoo and the C library."""

from __future__ import annotations

import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NoAuthError, NodeExistsError, NoNodeError, NotEmptyError
from kazoo.protocol.states import EventType, KazooState, WatchedEvent
from kazoo.retry import KazooRetry
from kazoo.security import make_digest_acl
from support.servers import Server, make_server, require
from support.wire import poll

C_SOURCE = Path(__file__).parent.parent / "conformance" / "c_client.c"

Connect = Callable[..., KazooClient]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Starts kazoo clients, and stops them after the test."""
    clients: list[KazooClient] = []

    def start(server: Server, chroot: str = "", **options: object) -> KazooClient:
        retry = KazooRetry(max_tries=-1, delay=0.05, backoff=1.5, max_delay=1.0)
        client = KazooClient(server.hosts + chroot, connection_retry=retry, **{"timeout": 10.0, **options})
        clients.append(client)
        client.start(timeout=20)
        return client

    yield start
    for client in clients:
        client.stop()
        client.close()


@pytest.fixture
def chroot(any_server: Server) -> str:
    """A znode for this test's clients to see as the root."""
    path = f"/clients-{uuid.uuid4().hex}"
    with any_server.session() as session:
        session.create(path)
    return path


@pytest.fixture(params=["fastzk", "zookeeper"])
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server that the test may stop and start."""
    server = make_server(request.param, tmp_path / "server")
    server.start()
    yield server
    server.discard()


class TestKazoo:
    def test_everyday_calls(self, any_server: Server, connect: Connect, chroot: str) -> None:
        zk = connect(any_server, chroot)
        assert zk.create("/a", b"1") == "/a"
        with pytest.raises(NodeExistsError):
            zk.create("/a")
        with pytest.raises(NoNodeError):
            zk.create("/x/y")
        assert zk.create("/x/y/z", b"deep", makepath=True) == "/x/y/z"
        data, stat = zk.get("/a")
        assert (data, stat.version, stat.data_length, stat.children_count) == (b"1", 0, 1, 0)
        assert zk.set("/a", b"22", version=0).version == 1
        with pytest.raises(BadVersionError):
            zk.set("/a", b"3", version=0)
        assert sorted(zk.get_children("/")) == ["a", "x"]
        children, stat = zk.get_children("/", include_data=True)
        assert sorted(children) == ["a", "x"]
        assert stat.numChildren == 2
        with pytest.raises(NotEmptyError):
            zk.delete("/x")
        zk.delete("/x", recursive=True)
        assert zk.exists("/x") is None
        assert zk.sync("/a") == "/a"
        name, stat = zk.create("/seq-", b"", sequence=True, include_data=True)
        assert name == "/seq-0000000002"
        assert stat.version == 0
        assert zk.create("/null") == "/null"

    def test_transaction(self, any_server: Server, connect: Connect, chroot: str) -> None:
        zk = connect(any_server, chroot)
        good = zk.transaction()
        good.create("/a", b"1")
        good.set_data("/a", b"2")
        good.check("/a", 1)
        good.create("/b-", sequence=True)
        results = good.commit()
        assert results[0] == "/a"
        assert results[1].version == 1
        assert results[2] is True
        assert results[3] == "/b-0000000001"
        bad = zk.transaction()
        bad.delete("/a")
        bad.check("/a", 7)
        bad.create("/c")
        kinds = [type(result).__name__ for result in bad.commit()]
        assert kinds == ["RolledBackError", "NoNodeError", "RuntimeInconsistency"]
        assert zk.exists("/a")

    def test_acl(self, any_server: Server, connect: Connect, chroot: str) -> None:
        owner = connect(any_server, chroot, auth_data=[("digest", "joe:secret")])
        stranger = connect(any_server, chroot)
        acl = make_digest_acl("joe", "secret", all=True)
        owner.create("/private", b"x", acl=[acl])
        assert owner.get("/private")[0] == b"x"
        assert owner.get_acls("/private")[0] == [acl]
        with pytest.raises(NoAuthError):
            stranger.get("/private")
        stranger.add_auth("digest", "joe:secret")
        assert stranger.get("/private")[0] == b"x"

    def test_watches(self, any_server: Server, connect: Connect, chroot: str) -> None:
        zk, other = connect(any_server, chroot), connect(any_server, chroot)
        events: list[WatchedEvent] = []
        assert zk.exists("/w", watch=events.append) is None
        other.create("/w")
        poll(lambda: len(events) == 1, "created")
        zk.get("/w", watch=events.append)
        other.set("/w", b"1")
        other.set("/w", b"2")
        poll(lambda: len(events) == 2, "changed")
        zk.get_children("/w", watch=events.append)
        other.create("/w/c")
        poll(lambda: len(events) == 3, "child")
        zk.get("/w/c", watch=events.append)
        other.delete("/w/c")
        poll(lambda: len(events) == 4, "deleted")
        kinds = [EventType.CREATED, EventType.CHANGED, EventType.CHILD, EventType.DELETED]
        assert [event.type for event in events] == kinds
        assert [event.path for event in events] == ["/w", "/w", "/w", "/w/c"]

    def test_data_and_children_watch_recipes(self, any_server: Server, connect: Connect, chroot: str) -> None:
        zk, other = connect(any_server, chroot), connect(any_server, chroot)
        other.create("/w", b"0")
        data: list[bytes] = []
        children: list[list[str]] = []
        zk.DataWatch("/w", lambda value, stat: data.append(value))
        zk.ChildrenWatch("/w", lambda names: children.append(sorted(names)))
        for i in range(1, 6):
            poll(lambda: data[-1:] == [str(i - 1).encode()], "data watch")  # noqa: B023
            other.set("/w", str(i).encode())
            other.create(f"/w/{i}")
        poll(lambda: data[-1] == b"5" and children[-1] == list("12345"), "last values")

    def test_lock(self, any_server: Server, connect: Connect, chroot: str) -> None:
        """Five clients add to a number that only the lock protects."""
        clients = [connect(any_server, chroot) for _ in range(5)]
        clients[0].create("/number", b"0")
        problems: list[BaseException] = []

        def work(client: KazooClient) -> None:
            try:
                for _ in range(10):
                    with client.Lock("/lock", "me"):
                        number = int(client.get("/number")[0])
                        client.set("/number", str(number + 1).encode())
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=work, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not problems
        assert clients[0].get("/number")[0] == b"50"
        assert clients[0].get_children("/lock") == []

    def test_counter(self, any_server: Server, connect: Connect, chroot: str) -> None:
        clients = [connect(any_server, chroot) for _ in range(4)]

        def work(client: KazooClient) -> None:
            counter = client.Counter("/counter")
            for _ in range(10):
                counter += 1

        threads = [threading.Thread(target=work, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert clients[0].Counter("/counter").value == 40

    def test_ephemerals_go_with_their_client(self, any_server: Server, connect: Connect, chroot: str) -> None:
        zk, other = connect(any_server, chroot), connect(any_server, chroot)
        other.create("/e", ephemeral=True)
        gone = threading.Event()
        assert zk.exists("/e", watch=lambda event: gone.set())
        other.stop()
        assert gone.wait(10)
        assert zk.exists("/e") is None

    def test_pipelined_async_calls(self, any_server: Server, connect: Connect, chroot: str) -> None:
        zk = connect(any_server, chroot)
        made = [zk.create_async(f"/n{i}", str(i).encode()) for i in range(500)]
        read = [zk.get_async(f"/n{i}") for i in range(500)]
        assert [result.get(30) for result in made] == [f"/n{i}" for i in range(500)]
        assert [int(result.get(30)[0]) for result in read] == list(range(500))

    @pytest.mark.parametrize("stop", [Server.terminate, Server.kill9], ids=["terminated", "killed"])
    def test_restart_of_the_server(
        self, own_server: Server, connect: Connect, stop: Callable[[Server], object]
    ) -> None:
        """The session and its ephemerals live on when the server comes back, and watches are set again."""
        zk, other = connect(own_server), connect(own_server)
        states: list[str] = []
        zk.add_listener(states.append)
        zk.create("/mine", b"1", ephemeral=True)
        other.create("/w", b"0")
        seen: list[bytes] = []
        zk.DataWatch("/w", lambda value, stat: seen.append(value))
        session = zk.client_id
        stop(own_server)
        poll(lambda: KazooState.SUSPENDED in states, "the loss is noticed")
        own_server.start()
        poll(lambda: zk.state == KazooState.CONNECTED, "connected again", 20)
        assert zk.client_id == session
        assert KazooState.LOST not in states
        assert zk.get("/mine")[1].ephemeralOwner == session[0]
        zk.set("/mine", b"2")
        poll(lambda: other.state == KazooState.CONNECTED, "the other one is back", 20)
        other.retry(other.set, "/w", b"1")
        poll(lambda: seen[-1] == b"1", "the recipe's watch works again")


@pytest.fixture(scope="session")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program, compiled."""
    require(shutil.which("gcc"), "no gcc")
    header = any(Path(folder, "zookeeper", "zookeeper.h").exists() for folder in ("/usr/include", "/usr/local/include"))
    require(header, "no zookeeper.h (Debian package libzookeeper-mt-dev)")
    program = tmp_path_factory.mktemp("c") / "c_client"
    command = [
        "gcc",
        "-Wall",
        "-Werror",
        "-O1",
        "-DTHREADED",
        str(C_SOURCE),
        "-o",
        str(program),
        "-lzookeeper_mt",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


class TestCLibrary:
    @pytest.mark.parametrize("scenario", ["basic", "watches", "multi", "acl", "async"])
    def test_scenario(self, any_server: Server, chroot: str, c_client: Path, scenario: str) -> None:
        command = [str(c_client), any_server.hosts + chroot, scenario]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, any_server.explain(done.stdout + done.stderr)
        assert done.stdout.endswith("ok\n")

    @pytest.mark.parametrize("stop", [Server.terminate, Server.kill9], ids=["terminated", "killed"])
    def test_reconnect(self, own_server: Server, c_client: Path, stop: Callable[[Server], object]) -> None:
        process = subprocess.Popen(
            [str(c_client), own_server.hosts, "reconnect"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            stop(own_server)
            own_server.start()
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, own_server.explain(output + errors)
        assert output.endswith("ok\n")
