"""Many connections, many watches, readers that do not read, and the limits that are configured."""

from __future__ import annotations

import contextlib
import resource
import statistics
import struct
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from support import wire
from support.servers import Server, require
from support.wire import EPHEMERAL, Request, Session

from .conftest import ServerFactory

CONNECTIONS = 2000
WATCHES = 10_000


@pytest.fixture
def many_files() -> None:
    """Room for all those sockets, here and in the server, which inherits the limit."""
    wanted = 2 * CONNECTIONS + 500
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    require(hard == resource.RLIM_INFINITY or hard >= wanted, f"RLIMIT_NOFILE below {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.fixture
def crowd(many_files: None, server: Server) -> Iterator[list[Session]]:
    sessions: list[Session] = []
    for _ in range(CONNECTIONS):
        sessions.append(server.session(timeout_ms=40_000, timeout=60))
    yield sessions
    for session in sessions:
        session.drop()


@pytest.mark.slow
def test_connections_at_once(many_files: None, server: Server) -> None:
    """All handshakes are sent before the first answer is read."""
    connections = [server.connection(timeout=60) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.send_frame(wire.connect_request(40_000))
    ids = set()
    for connection in connections:
        ids.add(struct.unpack_from(">iiq", connection.read_frame())[2])
    assert len(ids) == CONNECTIONS
    for connection in connections:
        request = wire.create("/e-", b"", EPHEMERAL | wire.SEQUENTIAL)
        connection.send_bytes(Session.frame(1, request) + Session.frame(2, wire.exists("/")))
    for connection in connections:
        assert [wire.HEADER.unpack_from(connection.read_frame())[0::2] for _ in range(2)] == [(1, 0), (2, 0)]
    with server.session(timeout=60) as zk:
        assert zk.stat("/").num_children == CONNECTIONS + 1
        owners = {zk.stat(f"/{name}").ephemeral_owner for name in zk.children("/") if name.startswith("e-")}
        assert owners == ids
        for connection in connections:
            connection.send_bytes(Session.frame(3, Request(wire.CLOSE_SESSION, b"")))
        for connection in connections:
            assert wire.HEADER.unpack_from(connection.read_frame())[0::2] == (3, 0)
            connection.drop()
        assert zk.stat("/").num_children == 1


@pytest.mark.slow
def test_watchers_of_one_znode(server: Server, crowd: list[Session]) -> None:
    """Every session watches one znode in every way; each gets each event once and before the change."""
    with server.session(timeout=60) as writer:
        writer.create("/watched", b"old")
        for session in crowd:
            session.send(
                wire.get_data("/watched", True),
                wire.exists("/watched", True),
                wire.get_children("/watched", True),
            )
        for session in crowd:
            assert [session.reply().err for _ in range(3)] == [0, 0, 0]
        writer.set("/watched", b"new")
        for session in crowd:
            session.send(wire.get_data("/watched", True))
        for session in crowd:
            event, reply = session.message(), session.message()
            assert wire.decode_event(event) == (wire.DATA_CHANGED, 3, "/watched")
            assert wire.Reader(reply.body).buffer() == b"new"
        writer.create("/watched/child")
        writer.delete("/watched/child")
        for session in crowd:
            assert wire.decode_event(session.message()) == (wire.CHILDREN_CHANGED, 3, "/watched")
            session.send(wire.get_children("/watched", True))
        for session in crowd:
            assert session.reply().err == 0
        writer.delete("/watched")
        for session in crowd:
            session.send(wire.exists("/watched"))
        for session in crowd:
            assert wire.decode_event(session.message()) == (wire.DELETED, 3, "/watched")
            reply = session.message()
            assert (reply.xid, reply.err) == (session.xid, wire.NO_NODE)
            assert not session.has_input()


@pytest.mark.slow
def test_watches_of_one_session(server: Server) -> None:
    paths = [f"/watched/n{i}" for i in range(WATCHES)]
    with server.session(timeout=60) as zk, server.session(timeout=60) as writer:
        writer.create("/watched")
        for start in range(0, WATCHES, 500):
            chunk = paths[start : start + 500]
            writer.send(*[wire.create(path, b"x") for path in chunk])
            assert {writer.reply().err for _ in chunk} == {0}
            zk.send(*[wire.get_data(path, True) for path in chunk])
            assert {zk.reply().err for _ in chunk} == {0}
        zk.children("/watched", watch=True)
        assert not zk.events
        for start in range(0, WATCHES, 500):
            chunk = paths[start : start + 500]
            writer.send(*[wire.delete(path) for path in chunk])
            assert {writer.reply().err for _ in chunk} == {0}
        # an exists of the last one shows its deletion: all events must have come before that reply
        assert zk.exists(paths[-1]) is None
        events = list(zk.events)
        assert Counter(events).most_common(1)[0][1] == 1
        assert [e.path for e in events if e.type == wire.DELETED] == paths
        assert [e.path for e in events if e.type == wire.CHILDREN_CHANGED] == ["/watched"]
        assert len(events) == WATCHES + 1
        zk.events.clear()
        assert zk.pending_events() == []


def test_slow_reader(server: Server) -> None:
    """One connection asks for 1.8 GB and reads nothing: its neighbours and the memory must not notice."""
    with server.session() as zk:
        zk.create("/big", bytes(900_000))
        zk.create("/small", b"x")
        for _ in range(50):
            zk.get("/big")
        before = server.rss_bytes
        slow = server.session(rcvbuf=16_384, timeout=60)
        slow.send(*[wire.get_data("/big")] * 2000)
        times = []
        end = time.monotonic() + 3
        while time.monotonic() < end:
            began = time.perf_counter()
            zk.get("/small")
            zk.set("/small", b"y")
            times.append(time.perf_counter() - began)
        assert statistics.median(times) < 0.05, f"median {statistics.median(times) * 1000:.1f} ms"
        assert max(times) < 2.0, f"worst {max(times) * 1000:.0f} ms"
        grown = server.rss_bytes - before
        assert grown < 64 << 20, f"memory grew by {grown >> 20} MB"
        # it was paused, not dropped: what it asked for comes, in order
        for i in range(1, 31):
            reply = slow.reply()
            assert (reply.xid, reply.err, len(reply.body)) == (i, 0, 4 + 900_000 + wire.STAT.size)
        slow.drop()
        zk.ping()


def test_slow_readers_of_events(server: Server) -> None:
    """Watch events for a connection that does not read must not stall the writer."""
    with server.session() as zk:
        zk.create("/w")
        slow = [server.session(rcvbuf=4096) for _ in range(20)]
        for session in slow:
            session.send(*[wire.exists(f"/w/{'x' * 500}{i}", True) for i in range(200)])
        for session in slow:
            for _ in range(200):
                session.reply()
        began = time.monotonic()
        for i in range(200):
            zk.create(f"/w/{'x' * 500}{i}")
        assert time.monotonic() - began < 10
        for session in slow:
            paths = [session.event().path for _ in range(200)]
            assert paths == [f"/w/{'x' * 500}{i}" for i in range(200)]
            session.drop()


def test_frames_above_jute_maxbuffer_close_only_their_connection(new_server: ServerFactory) -> None:
    limit = 50_000
    server = new_server({"jute.maxbuffer": str(limit)})
    if server.kind == "zookeeper":
        pytest.skip("a Java property there, not a key of zoo.cfg")
    server.start()
    with server.session() as zk:
        zk.create("/a")
        overhead = len(Session.frame(1, wire.set_data("/a", b""))) - 4
        big = server.session()
        big.set("/a", bytes(limit - overhead))
        big.send_bytes(Session.frame(2, wire.set_data("/a", bytes(limit - overhead + 1))))
        big.assert_closed()
        big.drop()
        assert len(zk.get("/a")[0] or b"") == limit - overhead
        # the length alone is enough: nobody waits for the bytes, or makes room for them
        claims = [server.connection() for _ in range(50)]
        for connection in claims:
            connection.handshake()
            connection.send_bytes(struct.pack(">i", 0x7FFFFFF0) + bytes(100))
        for connection in claims:
            connection.assert_closed()
            connection.drop()
        zk.ping()
        assert server.rss_bytes < 300 << 20


def test_a_reply_may_exceed_jute_maxbuffer(new_server: ServerFactory) -> None:
    """With ``maxReplyBytes=0``, as in ZooKeeper, the limit is for requests: a long list of children is answered."""
    server = new_server({"maxReplyBytes": "0"})
    server.start()
    with server.session() as zk:
        zk.create("/parent")
        for start in range(0, 6000, 500):
            zk.send(*[wire.create(f"/parent/{'n' * 190}{i:06d}") for i in range(start, start + 500)])
            assert {zk.reply().err for _ in range(500)} == {0}
        assert len(zk.children("/parent")) == 6000


def test_max_client_cnxns(new_server: ServerFactory) -> None:
    server = new_server({"maxClientCnxns": "5"})
    server.start()
    with contextlib.ExitStack() as stack:

        def one_more() -> Session | None:
            try:
                return stack.enter_context(server.session(timeout=5))
            except (wire.Closed, ConnectionError):
                return None

        # the connection with which the harness looked whether the server is up may not be gone yet
        sessions: list[Session] = []

        def five() -> bool:
            while len(sessions) < 5 and (session := one_more()):
                sessions.append(session)
            return len(sessions) == 5

        wire.poll(five, "five sessions")
        assert one_more() is None
        for session in sessions:
            session.ping()
        sessions[0].close()
        wire.poll(lambda: one_more() is not None, "a place is free again")
        assert one_more() is None


def test_connections_that_say_nothing(server: Server) -> None:
    silent = [server.connection() for _ in range(300)]
    began = time.monotonic()
    with server.session() as zk:
        zk.create("/a")
    assert time.monotonic() - began < 5
    for connection in silent:
        connection.drop()
    with server.session() as zk:
        assert zk.exists("/a") is not None
