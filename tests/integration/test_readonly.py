"""Servers without a leader: what becomes of their clients, and read-only mode. Real processes.

``FASTZK_TEST_SERVER=zookeeper`` runs it against Apache ZooKeeper, but for what that does not promise.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import wire
from support.ensembles import Ensemble, eventually
from support.wire import Closed, Refused, Request, Session

KIND = os.environ.get("FASTZK_TEST_SERVER", "fastzk")
FASTZK_ONLY = KIND == "fastzk"
READ_ONLY = {"readonlymode.enabled": "true"}
LOCAL = {"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true"}
#: What ``Ensemble`` (the tests') sets as tickTime makes this the time that clients wait for a leader.
PATIENCE = 2.0
NOT_READ_ONLY = -119
NOT_SERVING = "This ZooKeeper instance is not currently serving requests\n"
CLOSE = Request(wire.CLOSE_SESSION, b"")
RECONFIG = Request(16, wire.text("") * 2 + wire.text("server.9=a:1:2") + struct.pack(">q", -1))
CREATE_CONTAINER = Request(19, wire.create("/c", flags=4).body)
DELETE_CONTAINER = Request(20, wire.text("/a"))
CREATE_TTL = Request(21, wire.create("/t", flags=5).body + struct.pack(">q", 1000))
GET_EPHEMERALS = Request(103, wire.text("/"))
MULTI_READ = Request(
    22, struct.pack(">i?i", wire.GET_DATA, False, -1) + wire.get_data("/a").body + struct.pack(">i?i", -1, True, -1)
)


@pytest.fixture(autouse=True)
def read_only_by_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-Dreadonlymode.enabled=true")  # ZooKeeper takes it from nowhere else


def wait_read_only(ensemble: Ensemble, member: int) -> None:
    eventually(lambda: ensemble.word(member, "isro") == "ro", f"server {member} serves read-only", ensemble)


def read_only_session(ensemble: Ensemble, member: int, session: Session | None = None) -> Session:
    if session is None:
        return ensemble.session(member, read_only=True, timeout=5.0)
    return ensemble.session(
        member, read_only=True, timeout=5.0, session_id=session.session_id, password=session.password
    )


class Alone:
    """Server 1 of three, alone and read-only."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        ensemble.start()
        with ensemble.session(1) as session:
            session.create("/a", b"1")
            session.create("/a/b")
            self.last_zxid = session.stat("/a/b").czxid
        #: One that does not end with the leader.
        self.session = ensemble.session(1)
        self.session.create("/e", flags=wire.EPHEMERAL)
        ensemble.kill9(2, 3)
        wait_read_only(ensemble, 1)

    def connect(self, session: Session | None = None) -> Session:
        return read_only_session(self.ensemble, 1, session)


@pytest.fixture(scope="module", params=["local", "global"] if FASTZK_ONLY else ["local"])
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JDK_JAVA_OPTIONS", "-Dreadonlymode.enabled=true")
        config = {**READ_ONLY, **LOCAL} if request.param == "local" else READ_ONLY
        with Ensemble(KIND, tmp_path_factory.mktemp("alone"), 3, config=config) as ensemble:
            yield Alone(ensemble)


class TestReadOnly:
    def test_who_is_served(self, alone: Alone) -> None:
        port = alone.ensemble[1].port
        for read_only in (False, None):  # one that does not ask for it, one that does not know of it
            connection = wire.Connection(port)
            connection.send_frame(wire.connect_request(read_only=read_only))
            connection.assert_closed()
        with alone.connect() as session:
            assert session.read_only
            assert session.session_id >> 56 == 1
            assert session.password != wire.NO_PASSWORD
        connection = wire.Connection(port)
        connection.send_frame(wire.connect_request(read_only=True, last_zxid=alone.last_zxid + 1000))
        connection.assert_closed()

    def test_reads(self, alone: Alone) -> None:
        with alone.connect() as session:
            assert session.get("/a", watch=True)[0] == b"1"
            assert session.children("/a", watch=True) == ["b"]
            assert session.exists("/none", watch=True) is None
            assert session.get_acl("/a")[0] == list(wire.OPEN)
            assert session.stat("/e").ephemeral_owner == alone.session.session_id
            assert session.error(MULTI_READ) == 0
            assert session.error(GET_EPHEMERALS) == 0
            assert session.add_auth("digest", b"ada:secret").err == 0
            assert session.set_watches(alone.last_zxid, data=["/a"], exist=["/none"], child=["/a"]).err == 0
            assert session.ping().err == 0
            assert not session.events

    def test_writes(self, alone: Alone) -> None:
        with alone.connect() as session:
            for request in (
                wire.create("/x"),
                wire.create2("/x"),
                wire.create("/x", flags=wire.EPHEMERAL),
                wire.set_data("/a", b"2"),
                wire.delete("/a/b"),
                wire.set_acl("/a", wire.OPEN),
                wire.check("/a"),
                wire.multi([wire.check("/a")]),
                wire.sync("/a"),
                CREATE_CONTAINER,
                DELETE_CONTAINER,
                CREATE_TTL,
                RECONFIG,
            ):
                assert session.error(request) == NOT_READ_ONLY, request
            # in order, among reads
            session.send(wire.get_data("/a"), wire.set_data("/a", b"2"), wire.get_data("/a"), wire.sync("/a"))
            assert [session.reply().err for _ in range(4)] == [0, NOT_READ_ONLY, 0, NOT_READ_ONLY]
            assert session.get("/a")[0] == b"1"

    def test_its_end(self, alone: Alone) -> None:
        session = alone.connect()
        assert session.error(CLOSE) == 0
        session.assert_closed()
        with pytest.raises(Refused):
            alone.connect(session)

    def test_going_on_with_a_session(self, alone: Alone) -> None:
        first = alone.connect()
        again = alone.connect(first)
        assert (again.session_id, again.password, again.read_only) == (first.session_id, first.password, True)
        first.assert_closed()
        connection = wire.Connection(alone.ensemble[1].port)
        connection.send_frame(wire.connect_request(30_000, first.session_id, first.password, read_only=False))
        connection.assert_closed()
        reply = wire.Connection(alone.ensemble[1].port).handshake(
            wire.connect_request(30_000, first.session_id, b"wrong".ljust(16), read_only=True)
        )
        assert (reply.timeout_ms, reply.session_id, reply.rest) == (0, 0, b"\x01")
        again.drop()

    def test_a_session_of_the_ensemble_is_not_said_to_be_over(self, alone: Alone) -> None:
        """Only a leader can say that; it would be lost for nothing."""
        with pytest.raises(Closed):
            alone.connect(alone.session)

    def test_expiry(self, alone: Alone) -> None:
        session = alone.ensemble.session(1, read_only=True, timeout_ms=1000)
        assert session.timeout_ms == 1000
        began = time.monotonic()
        session.assert_closed()
        assert 0.9 < time.monotonic() - began < 10
        with pytest.raises(Refused):
            alone.connect(session)

    def test_four_letter_words(self, alone: Alone) -> None:
        word = alone.ensemble.word
        for command in ("srvr", "stat"):
            answer = word(1, command)
            assert "READ-ONLY mode; serving only read-only clients\n" in answer
            assert "Mode: read-only\n" in answer
        assert "zk_server_state\tread-only\n" in word(1, "mntr")
        before = word(1, "mntr")
        with alone.connect() as session:
            assert "zk_global_sessions\t1\n" in word(1, "mntr")
            assert count(word(1, "mntr"), "local_sessions") == count(before, "local_sessions") + 1
            dump = word(1, "dump")
            assert f"\t0x{session.session_id:x}\n" in dump
            assert f"Global Sessions(1):\n0x{alone.session.session_id:x}\t30000ms\n" in dump


def is_closed(session: Session) -> bool:
    """Whether the server has closed the connection, found out by a ping."""
    try:
        session.ping()
    except Closed:
        return True
    return False


def count(answer: str, key: str) -> int:
    """A number of ``mntr``."""
    return int(next(line.split("\t")[1] for line in answer.splitlines() if line.startswith(f"zk_{key}\t")))


def test_with_a_leader_everybody_is_read_write_again(tmp_path: Path) -> None:
    with Ensemble(KIND, tmp_path, 3, config={**READ_ONLY, **LOCAL}) as ensemble:
        ensemble.launch(1)
        wait_read_only(ensemble, 1)
        session = read_only_session(ensemble, 1)
        assert session.exists("/none", watch=True) is None
        ensemble.launch(2, 3)
        if FASTZK_ONLY:  # ZooKeeper does not always get to it
            session.assert_closed()  # it finds another session, which can write
        ensemble.wait_serving()
        assert [ensemble.word(i, "isro") for i in ensemble.ids] == ["rw"] * 3
        for member in ensemble.ids:
            with pytest.raises(Refused):
                read_only_session(ensemble, member, session)
            with ensemble.session(member, read_only=True) as fresh:  # whoever would do without a leader has one
                assert not fresh.read_only
                fresh.create(f"/{member}")


def test_without_read_only_mode_nobody_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JDK_JAVA_OPTIONS")
    with Ensemble(KIND, tmp_path, 3) as ensemble:
        ensemble.start()
        quiet, busy = ensemble.session(1), ensemble.session(1)
        zxid = busy.stat("/").mzxid
        ensemble.kill9(2, 3)
        quiet.assert_closed()
        eventually(lambda: is_closed(busy), "a busy client's connection is closed, too", ensemble)
        connection = wire.Connection(ensemble[1].port)
        connection.send_frame(wire.connect_request(read_only=True, last_zxid=zxid))
        connection.assert_closed()
        assert ensemble.word(1, "ruok") == "imok"
        assert ensemble.word(1, "isro") == "null"
        for word in ("srvr", "stat", "mntr", "cons", "dump", "wchs"):
            assert ensemble.word(1, word) == NOT_SERVING, word
        ensemble.launch(2, 3)
        ensemble.wait_serving()
        for session in (quiet, busy):
            ensemble.attach_soon(session, 2).close()


@pytest.mark.skipif(not FASTZK_ONLY, reason="ZooKeeper closes its clients at once")
def test_clients_wait_for_a_new_leader_for_a_moment(tmp_path: Path) -> None:
    """Connections outlive a change of the leader; without one they are closed when the moment is over."""
    with Ensemble(KIND, tmp_path, 3) as ensemble:
        ensemble.start()
        leader = ensemble.leader()
        followers = ensemble.followers()
        sessions = [ensemble.session(member) for member in followers]
        sessions[0].create("/a", b"1")
        ensemble.kill9(leader)
        for session in sessions:
            assert session.ping().err == 0  # waits, and then goes on
            session.sync("/a")
            assert session.get("/a")[0] == b"1"
        ensemble.leader(other_than=leader)
        sessions[0].set("/a", b"2")
        began = time.monotonic()
        ensemble.kill9(followers[0])
        sessions[1].assert_closed()
        assert time.monotonic() - began > PATIENCE
        assert "no leader, connections closed count=1" in ensemble[followers[1]].log_text()


def test_a_client_that_has_seen_more_is_refused_until_the_server_is_as_far(tmp_path: Path) -> None:
    with Ensemble(KIND, tmp_path, 3, config={**READ_ONLY, **LOCAL}) as ensemble:
        ensemble.start()
        behind = ensemble.followers()[0]
        others = [member for member in ensemble.ids if member != behind]
        ensemble.terminate(behind)
        with ensemble.session(others[0]) as session:
            session.create("/later")
            seen = session.stat("/later").czxid
        ensemble.kill9(*others)
        ensemble.launch(behind)
        wait_read_only(ensemble, behind)
        with pytest.raises(Closed):
            ensemble.session(behind, read_only=True, last_zxid=seen)
        with ensemble.session(behind, read_only=True) as session:
            assert session.exists("/later") is None
        ensemble.launch(*others)
        ensemble.wait_serving()

        def as_far() -> bool:
            try:
                with ensemble.session(behind, last_zxid=seen) as session:
                    assert session.exists("/later") is not None
            except Closed:
                return False
            return True

        eventually(as_far, "the server has caught up", ensemble)


def test_kazoo(tmp_path: Path) -> None:
    """A client of others goes read-only and comes back."""
    from kazoo.client import KazooClient
    from kazoo.exceptions import NotReadOnlyCallError
    from kazoo.protocol.states import KazooState, KeeperState

    with Ensemble(KIND, tmp_path, 3, config={**READ_ONLY, **LOCAL}) as ensemble:
        ensemble.start()
        with ensemble.session(1) as session:
            session.create("/a", b"1")
        ensemble.kill9(2, 3)
        wait_read_only(ensemble, 1)
        client = KazooClient(hosts=",".join(f"127.0.0.1:{port}" for port in ensemble.ports), read_only=True)
        connected = threading.Event()
        client.add_listener(lambda state: connected.set() if state == KazooState.CONNECTED else None)
        client.start(timeout=30)
        try:
            assert client.client_state == KeeperState.CONNECTED_RO
            assert client.get("/a")[0] == b"1"
            assert client.get_children("/") == ["a", "zookeeper"]
            for write in (lambda: client.set("/a", b"2"), lambda: client.create("/b"), lambda: client.sync("/a")):
                with pytest.raises(NotReadOnlyCallError):
                    write()
            ensemble.launch(2, 3)
            eventually(lambda: client.client_state == KeeperState.CONNECTED, "the client can write", ensemble, 60)
            client.retry(client.set, "/a", b"3")
            assert client.get("/a")[0] == b"3"
        finally:
            client.stop()
            client.close()
