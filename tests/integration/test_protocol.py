"""What goes over the wire, byte for byte: our server, and the real ZooKeeper where it is installed.

Every expectation here was confirmed by ZooKeeper 3.8. The few deliberate differences ask ``any_server.kind``.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import time
from base64 import b64encode
from collections.abc import Callable, Iterator

import pytest
from support import wire
from support.servers import Server
from support.wire import (
    BAD_ARGUMENTS,
    BAD_VERSION,
    EPHEMERAL,
    INVALID_ACL,
    MARSHALLING,
    NO_AUTH,
    NO_CHILDREN_FOR_EPHEMERALS,
    NO_NODE,
    NODE_EXISTS,
    NOT_EMPTY,
    OPEN,
    PERM_ADMIN,
    PERM_ALL,
    PERM_CREATE,
    PERM_DELETE,
    PERM_READ,
    PERM_WRITE,
    RUNTIME_INCONSISTENCY,
    SEQUENTIAL,
    SESSION_EXPIRED,
    Acl,
    Event,
    MultiResult,
    Request,
    Session,
    ZkError,
    poll,
)

SYNC_CONNECTED = 3


@pytest.fixture
def zk(any_server: Server) -> Iterator[Session]:
    with any_server.session() as session:
        yield session


@pytest.fixture
def other(any_server: Server) -> Iterator[Session]:
    """A second session on the same server."""
    with any_server.session() as session:
        yield session


def changed(path: str) -> Event:
    return Event(wire.DATA_CHANGED, SYNC_CONNECTED, path)


def created(path: str) -> Event:
    return Event(wire.CREATED, SYNC_CONNECTED, path)


def deleted(path: str) -> Event:
    return Event(wire.DELETED, SYNC_CONNECTED, path)


def child(path: str) -> Event:
    return Event(wire.CHILDREN_CHANGED, SYNC_CONNECTED, path)


def digest_id(user: str, password: str) -> str:
    return f"{user}:{b64encode(hashlib.sha1(f'{user}:{password}'.encode()).digest()).decode()}"


def exists_without_read(server: Server) -> int:
    """What ``exists`` answers to who may not read: 3.8 told everybody, 3.9 and ours do not."""
    return NO_AUTH if server.kind == "fastzk" else 0


class TestHandshake:
    def test_new_session(self, any_server: Server) -> None:
        connection = any_server.connection()
        reply = connection.handshake()
        assert reply.protocol == 0
        assert reply.timeout_ms == 20_000
        assert reply.session_id != 0
        assert len(reply.password) == 16
        assert reply.password != wire.NO_PASSWORD
        assert reply.rest == b"\0"
        connection.drop()

    def test_without_the_read_only_byte_the_reply_has_none(self, any_server: Server) -> None:
        connection = any_server.connection()
        assert connection.handshake(wire.connect_request(read_only=None)).rest == b""
        connection.drop()

    def test_a_client_that_accepts_read_only_gets_a_full_server(self, any_server: Server) -> None:
        connection = any_server.connection()
        assert connection.handshake(wire.connect_request(read_only=True)).rest == b"\0"
        connection.drop()

    @pytest.mark.parametrize(
        ("asked", "given"), [(1, 2000), (0, 2000), (-5, 2000), (7654, 7654), (10**9, 20_000)]
    )
    def test_timeout_is_clamped_to_2_and_20_ticks(self, any_server: Server, asked: int, given: int) -> None:
        connection = any_server.connection()
        assert connection.handshake(wire.connect_request(timeout_ms=asked)).timeout_ms == given
        connection.drop()

    def test_passwords_and_ids_differ(self, any_server: Server) -> None:
        with any_server.session() as a, any_server.session() as b:
            assert a.session_id != b.session_id
            assert a.password != b.password

    def test_byte_by_byte(self, any_server: Server) -> None:
        connection = any_server.connection()
        body = wire.connect_request()
        for byte in struct.pack(">i", len(body)) + body:
            connection.send_bytes(bytes([byte]))
        assert struct.unpack_from(">iiq", connection.read_frame())[2] != 0
        for byte in Session.frame(1, wire.exists("/")):
            connection.send_bytes(bytes([byte]))
        assert wire.HEADER.unpack_from(connection.read_frame())[0::2] == (1, 0)
        connection.drop()

    def test_reattach_moves_the_session(self, any_server: Server, root: str) -> None:
        first = any_server.session()
        first.create(f"{root}/e", flags=EPHEMERAL)
        second = any_server.session(session_id=first.session_id, password=first.password)
        assert second.session_id == first.session_id
        assert second.password == first.password
        first.assert_closed()
        stat = second.exists(f"{root}/e")
        assert stat is not None
        assert stat.ephemeral_owner == second.session_id
        second.close()
        first.drop()

    def test_reattach_after_a_lost_connection(self, any_server: Server, root: str) -> None:
        first = any_server.session()
        first.create(f"{root}/e", flags=EPHEMERAL)
        first.drop()
        with any_server.session(session_id=first.session_id, password=first.password) as second:
            assert second.exists(f"{root}/e") is not None

    def test_reattach_negotiates_the_timeout_again(self, any_server: Server) -> None:
        first = any_server.session(timeout_ms=10_000)
        first.drop()
        with any_server.session(
            session_id=first.session_id, password=first.password, timeout_ms=5000
        ) as second:
            assert second.timeout_ms == 5000

    def assert_refused_as_expired(self, server: Server, session_id: int, password: bytes) -> None:
        connection = server.connection()
        reply = connection.handshake(wire.connect_request(session_id=session_id, password=password))
        assert reply == (0, 0, 0, bytes(16), b"\0")
        connection.assert_closed()
        connection.drop()

    def test_wrong_password(self, any_server: Server, root: str) -> None:
        owner = any_server.session()
        owner.create(f"{root}/e", flags=EPHEMERAL)
        self.assert_refused_as_expired(any_server, owner.session_id, b"x" * 16)
        # The attempt also closes the owner's connection, but the session itself lives.
        owner.assert_closed()
        owner.drop()
        with any_server.session(session_id=owner.session_id, password=owner.password) as again:
            assert again.exists(f"{root}/e") is not None

    def test_unknown_session(self, any_server: Server) -> None:
        self.assert_refused_as_expired(any_server, 0x1234567, b"x" * 16)

    def test_closed_session(self, any_server: Server) -> None:
        session = any_server.session()
        session.close()
        self.assert_refused_as_expired(any_server, session.session_id, session.password)

    def test_last_zxid_ahead_of_the_server_is_closed_without_a_word(self, any_server: Server) -> None:
        connection = any_server.connection()
        connection.send_frame(wire.connect_request(last_zxid=1 << 62))
        connection.assert_closed()
        connection.drop()

    def test_expiry(self, any_server: Server, root: str, zk: Session) -> None:
        mortal = any_server.session(timeout_ms=2000)
        mortal.create(f"{root}/e", flags=EPHEMERAL)
        assert zk.exists(f"{root}/e", watch=True) is not None
        mortal.drop()
        gone_after = time.monotonic()
        assert zk.event() == deleted(f"{root}/e")
        assert 1.0 < time.monotonic() - gone_after < 6.0
        assert zk.exists(f"{root}/e") is None
        self.assert_refused_as_expired(any_server, mortal.session_id, mortal.password)

    def test_a_silent_connected_client_expires_too_and_is_closed(self, any_server: Server) -> None:
        silent = any_server.session(timeout_ms=2000)
        silent.assert_closed()
        silent.drop()

    def test_pings_keep_a_session(self, any_server: Server) -> None:
        with any_server.session(timeout_ms=2000) as session:
            end = time.monotonic() + 5
            while time.monotonic() < end:
                session.ping()
                # quiet for a quarter of the timeout: this is the pace of the client, not synchronisation
                assert not session.has_input(0.5)
            assert session.stat("/") is not None


class TestHeaders:
    def test_ping(self, zk: Session) -> None:
        reply = zk.ping()
        assert (reply.xid, reply.err, reply.body) == (-2, 0, b"")
        assert reply.zxid >= 0

    def test_reply_of_a_write_carries_its_zxid(self, zk: Session, root: str) -> None:
        reply = zk.call(wire.set_data(root, b"x"))
        stat = wire.Reader(reply.body).stat()
        assert stat.mzxid == reply.zxid
        assert zk.call(wire.get_data(root)).zxid >= reply.zxid

    def test_zxids_of_writes_increase(self, zk: Session, root: str) -> None:
        zxids = [zk.call(wire.set_data(root, b"x")).zxid for _ in range(5)]
        assert zxids == sorted(set(zxids))

    def test_failed_writes_carry_the_error_and_no_body(self, zk: Session, root: str) -> None:
        reply = zk.call(wire.set_data(f"{root}/none", b""))
        assert (reply.err, reply.body) == (NO_NODE, b"")

    @pytest.mark.parametrize("xid", [0, 1, 77, 2**31 - 1])
    def test_xid_is_echoed(self, zk: Session, xid: int) -> None:
        assert zk.reserved(xid, wire.exists("/")).xid == xid

    def test_unknown_opcode(self, zk: Session) -> None:
        reply = zk.call(Request(999, b""))
        assert (reply.zxid, reply.err, reply.body) == (-1, wire.UNIMPLEMENTED, b"")
        zk.assert_closed()

    @pytest.mark.parametrize(
        "op",
        [
            wire.CREATE,
            wire.CREATE2,
            wire.DELETE,
            wire.EXISTS,
            wire.GET_DATA,
            wire.SET_DATA,
            wire.GET_ACL,
            wire.SET_ACL,
            wire.GET_CHILDREN,
            wire.GET_CHILDREN2,
            wire.SYNC,
            wire.MULTI,
            wire.SET_WATCHES,
        ],
    )
    @pytest.mark.parametrize(
        "body", [b"", b"\0\0", struct.pack(">i", 5) + b"/ab"], ids=["empty", "half", "short"]
    )
    def test_truncated_body_is_a_marshalling_error(self, zk: Session, op: int, body: bytes) -> None:
        assert zk.error(Request(op, body)) == MARSHALLING
        assert zk.stat("/") is not None

    def test_every_cut_of_a_create(self, zk: Session, root: str) -> None:
        whole = wire.create(f"{root}/x", b"data").body
        for end in range(len(whole)):
            assert zk.error(Request(wire.CREATE, whole[:end])) == MARSHALLING
        assert zk.children(root) == []
        assert zk.error(Request(wire.CREATE, whole)) == 0

    def test_trailing_bytes_are_ignored(self, zk: Session, root: str) -> None:
        op, body = wire.set_data(root, b"x")
        assert zk.error(Request(op, body + b"trailing")) == 0
        assert zk.get(root)[0] == b"x"

    def test_truncated_auth_closes(self, zk: Session) -> None:
        zk.send_bytes(Session.frame(wire.XID_AUTH, Request(wire.AUTH, b"\0\0")))
        zk.assert_closed()

    @pytest.mark.parametrize("length", [0, 3, 7, -1, -(2**31), 2**31 - 1, 0x100000])
    def test_impossible_frame_length_closes_silently(self, zk: Session, length: int) -> None:
        zk.send_bytes(struct.pack(">i", length) + bytes(max(0, min(length, 8))))
        zk.assert_closed()

    def test_close_session(self, zk: Session) -> None:
        reply = zk.call(Request(wire.CLOSE_SESSION, b""))
        assert (reply.err, reply.body) == (0, b"")
        zk.assert_closed()

    def test_requests_behind_a_close_session_do_nothing(self, zk: Session, other: Session, root: str) -> None:
        zk.send(Request(wire.CLOSE_SESSION, b""), wire.set_data(root, b"late"))
        assert zk.reply().err == 0
        # ZooKeeper answers "session expired" to what it has read already; either way the connection ends
        codes = set()
        with contextlib.suppress(wire.Closed):
            while True:
                codes.add(zk.reply().err)
        assert codes <= {SESSION_EXPIRED}
        assert other.get(root)[0] == b""


class TestCreate:
    def test_stat_of_a_new_znode(self, zk: Session, root: str) -> None:
        before = time.time() * 1000
        reply = zk.call(wire.create2(f"{root}/n", b"12345"))
        reader = wire.Reader(reply.body)
        assert reader.string() == f"{root}/n"
        stat = reader.stat()
        reader.end()
        assert stat == stat._replace(
            czxid=reply.zxid,
            mzxid=reply.zxid,
            pzxid=reply.zxid,
            mtime=stat.ctime,
            version=0,
            cversion=0,
            aversion=0,
            ephemeral_owner=0,
            data_length=5,
            num_children=0,
        )
        assert before - 2000 < stat.ctime < time.time() * 1000 + 2000
        assert zk.stat(f"{root}/n") == stat
        assert zk.get(f"{root}/n") == (b"12345", stat)
        assert zk.children2(f"{root}/n") == ([], stat)
        assert zk.get_acl(f"{root}/n") == (list(OPEN), stat)

    def test_create_answers_the_path_alone(self, zk: Session, root: str) -> None:
        reader = zk.ask(wire.create(f"{root}/n"))
        assert reader.string() == f"{root}/n"
        reader.end()

    def test_null_and_empty_data(self, zk: Session, root: str) -> None:
        zk.create(f"{root}/null", None)
        zk.create(f"{root}/empty", b"")
        assert zk.get(f"{root}/null")[0] is None
        assert zk.get(f"{root}/empty")[0] == b""
        assert zk.stat(f"{root}/null").data_length == 0
        zk.set(f"{root}/empty", None)
        zk.set(f"{root}/null", b"")
        assert zk.get(f"{root}/null")[0] == b""
        assert zk.get(f"{root}/empty")[0] is None

    def test_exists_already(self, zk: Session, root: str) -> None:
        assert zk.error(wire.create(root)) == NODE_EXISTS
        assert zk.error(wire.create("/")) == NODE_EXISTS

    def test_parent_missing(self, zk: Session, root: str) -> None:
        assert zk.error(wire.create(f"{root}/a/b")) == NO_NODE

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("", BAD_ARGUMENTS),
            ("nothing", BAD_ARGUMENTS),
            ("a/b", NO_NODE),
            ("R//q", NO_NODE),
            ("R/", BAD_ARGUMENTS),
            ("R/.", BAD_ARGUMENTS),
            ("R/..", BAD_ARGUMENTS),
            ("R/./q", NO_NODE),
            ("R/../q", NO_NODE),
            ("/missing/../x", NO_NODE),
            ("R/nul\0", BAD_ARGUMENTS),
            ("R/\x01", BAD_ARGUMENTS),
            ("R/\x1f", BAD_ARGUMENTS),
            ("R/\x7f", BAD_ARGUMENTS),
            ("R/\x9f", BAD_ARGUMENTS),
            ("R/\ue000", BAD_ARGUMENTS),
            ("R/\uf8ff", BAD_ARGUMENTS),
            ("R/\ufff0", BAD_ARGUMENTS),
            ("R/\uffff", BAD_ARGUMENTS),
            ("R/\U0001f600", BAD_ARGUMENTS),
            (b"R/\xff\xfe", BAD_ARGUMENTS),
            (b"R/\xc3", BAD_ARGUMENTS),
            ("R/\x20", 0),
            ("R/\xa0", 0),
            ("R/\uf900", 0),
            ("R/\uffef", 0),
            ("R/häß €", 0),
            ("R/...", 0),
            ("R/.a", 0),
            ("R/a.", 0),
            ("R/%2e", 0),
        ],
    )
    def test_path_rules(self, zk: Session, root: str, path: str | bytes, code: int) -> None:
        whole = path.replace("R", root, 1) if isinstance(path, str) else path.replace(b"R", root.encode(), 1)
        assert zk.error(wire.create(whole)) == code
        if code == 0:
            assert zk.error(wire.get_data(whole)) == 0

    def test_null_path(self, zk: Session) -> None:
        assert zk.error(wire.create(None)) in {MARSHALLING, BAD_ARGUMENTS}
        assert zk.stat("/") is not None

    @pytest.mark.parametrize("flags", [5, 6, 7, 100, -1])
    def test_flags_create_does_not_take(self, zk: Session, root: str, flags: int) -> None:
        assert zk.error(wire.create(f"{root}/n", flags=flags)) == BAD_ARGUMENTS
        assert zk.children(root) == []

    def test_flags_come_before_the_path(self, zk: Session) -> None:
        assert zk.error(wire.create("/no/such", flags=99)) == BAD_ARGUMENTS

    def test_invalid_acl_comes_before_the_parent(self, zk: Session) -> None:
        assert zk.error(wire.create("/no/such", acl=())) == INVALID_ACL

    def test_sequential_names(self, zk: Session, root: str) -> None:
        assert zk.create(f"{root}/s-", flags=SEQUENTIAL) == f"{root}/s-0000000000"
        assert zk.create(f"{root}/other", flags=SEQUENTIAL) == f"{root}/other0000000001"
        assert zk.create(f"{root}/", flags=SEQUENTIAL) == f"{root}/0000000002"
        zk.create(f"{root}/plain")
        assert zk.create(f"{root}/s-", flags=SEQUENTIAL) == f"{root}/s-0000000004"

    def test_deletes_do_not_move_the_sequence(self, zk: Session, root: str) -> None:
        zk.delete(zk.create(f"{root}/s-", flags=SEQUENTIAL))
        assert zk.create(f"{root}/s-", flags=SEQUENTIAL) == f"{root}/s-0000000001"

    def test_failed_creates_do_not_move_the_sequence(self, zk: Session, root: str) -> None:
        zk.create(f"{root}/a")
        assert zk.error(wire.create(f"{root}/a")) == NODE_EXISTS
        assert zk.create(f"{root}/s-", flags=SEQUENTIAL) == f"{root}/s-0000000001"

    def test_ephemeral(self, any_server: Server, zk: Session, root: str) -> None:
        owner = any_server.session()
        owner.create(f"{root}/e", b"", EPHEMERAL)
        name = owner.create(f"{root}/s-", b"", EPHEMERAL | SEQUENTIAL)
        assert name == f"{root}/s-0000000001"
        assert zk.stat(f"{root}/e").ephemeral_owner == owner.session_id
        assert zk.stat(name).ephemeral_owner == owner.session_id
        assert zk.error(wire.create(f"{root}/e/child")) == NO_CHILDREN_FOR_EPHEMERALS
        zk.children(root, watch=True)
        owner.close()
        assert zk.children(root) == []
        assert zk.pending_events() == [child(root)]

    def test_anybody_may_delete_an_ephemeral(self, any_server: Server, zk: Session, root: str) -> None:
        with any_server.session() as owner:
            owner.create(f"{root}/e", b"", EPHEMERAL)
            zk.delete(f"{root}/e")
            zk.create(f"{root}/e")
        assert zk.stat(f"{root}/e").ephemeral_owner == 0


class TestStat:
    def test_set_data(self, zk: Session, root: str) -> None:
        before = zk.stat(root)
        reply = zk.call(wire.set_data(root, b"abc"))
        after = wire.Reader(reply.body).stat()
        assert after == before._replace(mzxid=reply.zxid, mtime=after.mtime, version=1, data_length=3)
        assert after.mtime >= before.mtime
        assert zk.get(root) == (b"abc", after)

    def test_versions(self, zk: Session, root: str) -> None:
        assert zk.set(root, b"1", 0).version == 1
        assert zk.error(wire.set_data(root, b"2", 0)) == BAD_VERSION
        assert zk.get(root)[0] == b"1"
        assert zk.set(root, b"3", -1).version == 2
        assert zk.error(wire.set_data(root, b"4", -2)) == BAD_VERSION
        assert zk.error(wire.delete(root, 1)) == BAD_VERSION
        zk.delete(root, 2)

    def test_children_change_cversion_and_pzxid_of_the_parent(self, zk: Session, root: str) -> None:
        before = zk.stat(root)
        make = zk.call(wire.create(f"{root}/a"))
        stat = zk.stat(root)
        assert stat == before._replace(cversion=1, pzxid=make.zxid, num_children=1)
        zk.set(f"{root}/a", b"x")
        assert zk.stat(root) == stat
        remove = zk.call(wire.delete(f"{root}/a"))
        assert zk.stat(root) == before._replace(cversion=2, pzxid=remove.zxid)

    def test_cversion_is_twice_the_creates_less_the_children(self, zk: Session, root: str) -> None:
        for i in range(4):
            zk.create(f"{root}/c{i}")
        for i in range(3):
            zk.delete(f"{root}/c{i}")
        stat = zk.stat(root)
        assert (stat.cversion, stat.num_children) == (2 * 4 - 1, 1)

    def test_grandchildren_do_not_count(self, zk: Session, root: str) -> None:
        zk.create(f"{root}/a")
        before = zk.stat(root)
        zk.create(f"{root}/a/b")
        assert zk.stat(root) == before

    def test_set_acl_changes_only_aversion(self, zk: Session, root: str) -> None:
        before = zk.stat(root)
        after = zk.set_acl(root, OPEN, 0)
        assert after == before._replace(aversion=1)
        assert zk.error(wire.set_acl(root, OPEN, 0)) == BAD_VERSION
        assert zk.set_acl(root, OPEN, -1).aversion == 2

    def test_a_znode_made_again_starts_afresh(self, zk: Session, root: str) -> None:
        _, first = zk.create2(f"{root}/a")
        zk.set(f"{root}/a", b"x")
        zk.delete(f"{root}/a")
        _, second = zk.create2(f"{root}/a")
        assert second.version == 0
        assert second.czxid > first.czxid


class TestReadsAndDelete:
    def test_missing(self, zk: Session, root: str) -> None:
        path = f"{root}/none"
        for request in (
            wire.exists(path),
            wire.get_data(path),
            wire.get_children(path),
            wire.get_children2(path),
            wire.get_acl(path),
            wire.set_data(path, b""),
            wire.set_acl(path, OPEN),
            wire.delete(path),
        ):
            assert zk.error(request) == NO_NODE, request

    def test_children(self, zk: Session, root: str) -> None:
        names = {f"n{i}" for i in range(50)}
        for name in names:
            zk.create(f"{root}/{name}")
        found = zk.children(root)
        assert set(found) == names
        assert len(found) == len(names)
        listed, stat = zk.children2(root)
        assert set(listed) == names
        assert stat.num_children == 50

    def test_predefined_znodes(self, zk: Session) -> None:
        assert "zookeeper" in zk.children("/")
        assert {"config", "quota"} <= set(zk.children("/zookeeper"))
        assert zk.stat("/").ctime == 0

    def test_empty_path_reads_the_root(self, zk: Session) -> None:
        assert zk.stat("") == zk.stat("/")
        assert set(zk.children("")) == set(zk.children("/"))

    def test_delete(self, zk: Session, root: str) -> None:
        zk.create(f"{root}/a")
        assert zk.error(wire.delete(root)) == NOT_EMPTY
        reply = zk.call(wire.delete(f"{root}/a"))
        assert (reply.err, reply.body) == (0, b"")
        assert zk.error(wire.delete(f"{root}/a")) == NO_NODE

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("/", BAD_ARGUMENTS),
            ("/zookeeper", BAD_ARGUMENTS),
            ("/zookeeper/quota", BAD_ARGUMENTS),
            ("/zookeeper/config", BAD_ARGUMENTS),
            ("", BAD_ARGUMENTS),
            ("noslash", BAD_ARGUMENTS),
            ("/nul\0", BAD_ARGUMENTS),
            ("/..", NO_NODE),
            ("//", NO_NODE),
        ],
    )
    def test_delete_path_rules(self, zk: Session, path: str, code: int) -> None:
        assert zk.error(wire.delete(path)) == code

    def test_sync_echoes_the_path(self, zk: Session, root: str) -> None:
        assert zk.sync(root) == root
        assert zk.sync("/no/such") == "/no/such"

    def test_large_data(self, zk: Session, root: str) -> None:
        data = bytes(range(256)) * 4000
        zk.set(root, data)
        assert zk.get(root)[0] == data


class TestAcl:
    def test_digest(self, any_server: Server, zk: Session, other: Session, root: str) -> None:
        acl = [Acl(PERM_ALL, "digest", digest_id("joe", "secret"))]
        path = zk.create(f"{root}/d", b"x", acl=acl)
        for request in (
            wire.get_data(path),
            wire.set_data(path, b"y"),
            wire.get_children(path),
            wire.get_children2(path),
            wire.create(f"{path}/c"),
            wire.set_acl(path, OPEN),
            wire.get_acl(path),
            wire.multi([wire.set_data(path, b"y")]),
        ):
            if request.op == wire.MULTI:
                assert other.multi(wire.set_data(path, b"y")) == [MultiResult(-1, NO_AUTH, None)]
            else:
                assert other.error(request) == NO_AUTH, request
        assert other.error(wire.exists(path)) == exists_without_read(any_server)
        assert other.add_auth("digest", b"joe:wrong").err == 0
        assert other.error(wire.get_data(path)) == NO_AUTH
        assert other.add_auth("digest", b"joe:secret").err == 0
        assert other.get(path)[0] == b"x"
        other.set(path, b"y")
        assert other.get_acl(path)[0] == acl

    def test_auth_reply(self, zk: Session) -> None:
        reply = zk.add_auth("digest", b"a:b")
        assert reply == (-4, 0, 0, b"")

    def test_auth_scheme_becomes_the_ids_of_the_session(self, zk: Session, root: str) -> None:
        zk.add_auth("digest", b"ann:one")
        zk.add_auth("digest", b"bob:two")
        path = zk.create(f"{root}/a", acl=[Acl(PERM_ALL, "auth", "")])
        found = zk.get_acl(path)[0]
        assert sorted(found) == [
            Acl(PERM_ALL, "digest", digest_id("ann", "one")),
            Acl(PERM_ALL, "digest", digest_id("bob", "two")),
        ]

    def test_auth_scheme_without_authentication(self, zk: Session, root: str) -> None:
        assert zk.error(wire.create(f"{root}/a", acl=[Acl(PERM_ALL, "auth", "")])) == INVALID_ACL

    def test_ip(self, zk: Session, root: str) -> None:
        zk.create(f"{root}/mine", b"x", acl=[Acl(PERM_ALL, "ip", "127.0.0.1")])
        zk.create(f"{root}/net", b"x", acl=[Acl(PERM_ALL, "ip", "127.0.0.0/8")])
        zk.create(f"{root}/theirs", b"x", acl=[Acl(PERM_ALL, "ip", "10.0.0.0/8")])
        assert zk.get(f"{root}/mine")[0] == b"x"
        assert zk.get(f"{root}/net")[0] == b"x"
        assert zk.error(wire.get_data(f"{root}/theirs")) == NO_AUTH

    @pytest.mark.parametrize(
        "acl",
        [
            (),
            None,
            [Acl(PERM_ALL, "nosuch", "x")],
            [Acl(PERM_ALL, "world", "somebody")],
            [Acl(PERM_ALL, "digest", "nocolon")],
            [Acl(PERM_ALL, "digest", "a:b:c")],
            [Acl(PERM_ALL, "digest", "a:")],
            [Acl(PERM_ALL, "ip", "300.1.1.1")],
            [Acl(PERM_ALL, "ip", "127.0.0.1/33")],
            [Acl(PERM_ALL, "ip", "")],
            [OPEN[0], Acl(PERM_ALL, "nosuch", "x")],
        ],
    )
    def test_invalid(self, zk: Session, root: str, acl: list[Acl] | None) -> None:
        assert zk.error(wire.create(f"{root}/a", acl=acl)) == INVALID_ACL
        assert zk.error(wire.set_acl(root, acl)) == INVALID_ACL
        assert zk.stat(root).aversion == 0

    def test_permissions_one_by_one(self, any_server: Server, zk: Session, root: str) -> None:
        everyone = ("world", "anyone")
        paths = {}
        for perms in (PERM_READ, PERM_WRITE, PERM_CREATE, PERM_DELETE, PERM_ADMIN):
            path = paths[perms] = zk.create(f"{root}/p{perms}", b"x")
            zk.create(f"{path}/child")
            zk.set_acl(path, [Acl(perms, *everyone)])
        needs: list[tuple[int, Callable[[str], Request]]] = [
            (PERM_READ, wire.get_data),
            (PERM_READ, wire.get_children),
            (PERM_READ, wire.get_children2),
            (PERM_WRITE, lambda p: wire.set_data(p, b"y")),
            (PERM_CREATE, lambda p: wire.create(f"{p}/new")),
            (PERM_DELETE, lambda p: wire.delete(f"{p}/child")),
            (PERM_ADMIN, lambda p: wire.set_acl(p, [Acl(PERM_ADMIN, *everyone)])),
        ]
        for needed, request in needs:
            for perms, path in paths.items():
                expected = 0 if perms == needed else NO_AUTH
                assert zk.error(request(path)) == expected, (needed, perms)
        for perms, path in paths.items():
            # getACL wants READ or ADMIN
            assert zk.error(wire.get_acl(path)) == (0 if perms in {PERM_READ, PERM_ADMIN} else NO_AUTH)
            code = 0 if perms == PERM_READ else exists_without_read(any_server)
            assert zk.error(wire.exists(path)) == code

    def test_delete_permission_is_checked_before_existence(self, zk: Session, root: str) -> None:
        zk.set_acl(root, [Acl(PERM_READ, "world", "anyone")])
        assert zk.error(wire.delete(f"{root}/none")) == NO_AUTH

    def test_superuser(self, zk: Session, root: str) -> None:
        path = zk.create(f"{root}/closed", b"x", acl=[Acl(PERM_ALL, "digest", digest_id("nobody", "x"))])
        assert zk.error(wire.get_data(path)) == NO_AUTH
        assert zk.add_auth("digest", b"super:test").err == 0
        assert zk.get(path)[0] == b"x"
        zk.set_acl(path, OPEN)

    def test_get_acl_hides_the_hash_from_those_without_admin(self, zk: Session, root: str) -> None:
        acl = [Acl(PERM_ALL, "digest", digest_id("joe", "secret")), Acl(PERM_READ, "world", "anyone")]
        path = zk.create(f"{root}/d", acl=acl)
        assert zk.get_acl(path)[0] == [Acl(PERM_ALL, "digest", "joe:x"), acl[1]]
        zk.add_auth("digest", b"joe:secret")
        assert zk.get_acl(path)[0] == acl

    def test_duplicates_are_dropped(self, zk: Session, root: str) -> None:
        path = zk.create(f"{root}/d", acl=[OPEN[0], OPEN[0]])
        assert zk.get_acl(path)[0] == list(OPEN)

    def test_unknown_scheme_fails_and_closes(self, zk: Session) -> None:
        reply = zk.add_auth("nosuch", b"x")
        assert (reply.err, reply.body) == (wire.AUTH_FAILED, b"")
        zk.assert_closed()


class TestMulti:
    def test_all_kinds(self, zk: Session, root: str) -> None:
        zk.create(f"{root}/old", b"x")
        reply = zk.call(
            wire.multi(
                [
                    wire.check(root, 0),
                    wire.create(f"{root}/a", b"1"),
                    wire.create2(f"{root}/b", b"2"),
                    wire.set_data(f"{root}/a", b"3", 0),
                    wire.create(f"{root}/a/s-", flags=SEQUENTIAL),
                    wire.create(f"{root}/e", flags=EPHEMERAL),
                    wire.delete(f"{root}/old"),
                ]
            )
        )
        assert reply.err == 0
        results = wire.decode_multi(reply.body)
        stat = zk.stat(f"{root}/a")
        assert isinstance(results[3].value, wire.Stat)
        assert results == [
            MultiResult(wire.CHECK, 0, None),
            MultiResult(wire.CREATE, 0, f"{root}/a"),
            MultiResult(wire.CREATE, 0, f"{root}/b"),
            MultiResult(wire.SET_DATA, 0, results[3].value),
            MultiResult(wire.CREATE, 0, f"{root}/a/s-0000000000"),
            MultiResult(wire.CREATE, 0, f"{root}/e"),
            MultiResult(wire.DELETE, 0, None),
        ]
        assert results[3].value.version == 1
        assert (stat.czxid, stat.mzxid, stat.pzxid) == (reply.zxid,) * 3
        assert zk.stat(f"{root}/e").ephemeral_owner == zk.session_id
        assert set(zk.children(root)) == {"a", "b", "e"}
        assert zk.stat(root).cversion == 1 + 3 + 1

    @pytest.mark.parametrize(
        ("bad", "code"),
        [
            (lambda root: wire.check(root, 5), BAD_VERSION),
            (lambda root: wire.check(f"{root}/none"), NO_NODE),
            (wire.create, NODE_EXISTS),
            (lambda root: wire.create(f"{root}/new"), NODE_EXISTS),
            (lambda root: wire.set_data(f"{root}/none", b""), NO_NODE),
            (lambda root: wire.set_data(f"{root}/new", b"", 7), BAD_VERSION),
            (wire.delete, NOT_EMPTY),
            (lambda root: wire.delete(f"{root}/none"), NO_NODE),
            (lambda root: wire.create(f"{root}/x", acl=()), INVALID_ACL),
            (lambda root: wire.create(f"{root}/."), BAD_ARGUMENTS),
        ],
    )
    def test_failure_rolls_everything_back(
        self, zk: Session, root: str, bad: Callable[[str], Request], code: int
    ) -> None:
        before = zk.stat(root)
        reply = zk.call(
            wire.multi(
                [
                    wire.set_data(root, b"changed"),
                    wire.create(f"{root}/new"),
                    bad(root),
                    wire.create(f"{root}/later"),
                    wire.delete(f"{root}/none"),
                ]
            )
        )
        assert reply.err == 0
        codes = [0, 0, code, RUNTIME_INCONSISTENCY, RUNTIME_INCONSISTENCY]
        assert wire.decode_multi(reply.body) == [MultiResult(-1, c, None) for c in codes]
        assert zk.stat(root) == before
        assert zk.children(root) == []
        # a rolled back create takes no number of the sequence
        assert zk.create(f"{root}/s-", flags=SEQUENTIAL) == f"{root}/s-0000000000"

    def test_empty(self, zk: Session) -> None:
        assert zk.multi() == []

    def test_rolled_back_multi_fires_no_watch(self, zk: Session, root: str) -> None:
        zk.get(root, watch=True)
        zk.multi(wire.set_data(root, b"x"), wire.delete(f"{root}/none"))
        assert zk.pending_events() == []
        zk.set(root, b"y")
        assert zk.pending_events() == [changed(root)]

    def test_watches_fire_for_every_part(self, zk: Session, other: Session, root: str) -> None:
        other.exists(f"{root}/a", watch=True)
        other.children(root, watch=True)
        other.get(root, watch=True)
        zk.multi(wire.create(f"{root}/a"), wire.set_data(root, b"x"))
        assert sorted(other.pending_events()) == sorted([created(f"{root}/a"), child(root), changed(root)])

    def test_create_and_delete_in_one(self, zk: Session, root: str) -> None:
        zk.multi(wire.create(f"{root}/a"), wire.delete(f"{root}/a"))
        stat = zk.stat(root)
        assert (stat.cversion, stat.num_children) == (2, 0)

    def test_auth_inside(self, zk: Session, root: str) -> None:
        path = zk.create(f"{root}/d", acl=[Acl(PERM_READ, "world", "anyone")])
        results = zk.multi(wire.set_data(root, b"x"), wire.set_data(path, b"x"))
        assert [r.err for r in results] == [0, NO_AUTH]
        assert zk.get(root)[0] == b""


class TestWatches:
    def test_data_watch(self, zk: Session, other: Session, root: str) -> None:
        zk.get(root, watch=True)
        other.create(f"{root}/a")
        other.set(root, b"1")
        other.set(root, b"2")
        assert zk.pending_events() == [changed(root)]

    def test_data_watch_sees_the_delete(self, zk: Session, other: Session, root: str) -> None:
        zk.get(root, watch=True)
        other.delete(root)
        assert zk.pending_events() == [deleted(root)]

    def test_exists_watch(self, zk: Session, other: Session, root: str) -> None:
        assert zk.exists(f"{root}/a", watch=True) is None
        other.create(f"{root}/a")
        assert zk.pending_events() == [created(f"{root}/a")]
        assert zk.exists(f"{root}/a", watch=True) is not None
        other.set(f"{root}/a", b"")
        assert zk.pending_events() == [changed(f"{root}/a")]
        zk.exists(f"{root}/a", watch=True)
        other.delete(f"{root}/a")
        assert zk.pending_events() == [deleted(f"{root}/a")]
        other.create(f"{root}/a")
        assert zk.pending_events() == []

    @pytest.mark.parametrize("read", [wire.get_children, wire.get_children2])
    def test_child_watch(self, zk: Session, other: Session, root: str, read: Callable[..., Request]) -> None:
        zk.ask(read(root, True))
        other.set(root, b"not a child")
        other.create(f"{root}/a")
        other.create(f"{root}/b")
        assert zk.pending_events() == [child(root)]
        zk.ask(read(root, True))
        other.set(f"{root}/a", b"not my child list")
        other.create(f"{root}/a/grandchild")
        assert zk.pending_events() == []
        other.delete(f"{root}/b")
        assert zk.pending_events() == [child(root)]

    def test_child_watch_sees_its_own_deletion(self, zk: Session, other: Session, root: str) -> None:
        zk.children(root, watch=True)
        other.delete(root)
        assert zk.pending_events() == [deleted(root)]

    def test_data_and_child_watch_make_one_delete_event(self, zk: Session, other: Session, root: str) -> None:
        zk.get(root, watch=True)
        zk.children(root, watch=True)
        other.delete(root)
        assert zk.pending_events() == [deleted(root)]

    def test_set_twice_fires_once(self, zk: Session, other: Session, root: str) -> None:
        zk.get(root, watch=True)
        zk.exists(root, watch=True)
        zk.get(root, watch=True)
        other.set(root, b"x")
        assert zk.pending_events() == [changed(root)]

    def test_failed_get_leaves_no_watch(self, zk: Session, other: Session, root: str) -> None:
        assert zk.error(wire.get_data(f"{root}/a", True)) == NO_NODE
        assert zk.error(wire.get_children(f"{root}/a", True)) == NO_NODE
        other.create(f"{root}/a")
        other.delete(f"{root}/a")
        assert zk.pending_events() == []

    def test_set_acl_fires_nothing(self, zk: Session, other: Session, root: str) -> None:
        zk.get(root, watch=True)
        zk.children(root, watch=True)
        other.set_acl(root, OPEN)
        assert zk.pending_events() == []

    def test_any_true_bool_sets_the_watch(self, zk: Session, other: Session, root: str) -> None:
        zk.ask(Request(wire.GET_DATA, wire.text(root) + b"\x07"))
        other.set(root, b"x")
        assert zk.pending_events() == [changed(root)]

    def test_event_frame(self, any_server: Server, zk: Session, other: Session, root: str) -> None:
        zk.get(root, watch=True)
        write = other.call(wire.set_data(root, b"x"))
        event = zk.message()
        # 3.8 sends -1; ours sends the transaction's zxid, as 3.9 does
        zxid = write.zxid if any_server.kind == "fastzk" else -1
        assert (event.xid, event.zxid, event.err) == (-1, zxid, 0)
        assert event.body == struct.pack(">ii", wire.DATA_CHANGED, SYNC_CONNECTED) + wire.text(root)

    def test_event_comes_before_the_reply_of_ones_own_write(self, zk: Session, root: str) -> None:
        zk.send(wire.get_data(root, True), wire.set_data(root, b"x"), wire.get_data(root))
        kinds = [zk.message().xid for _ in range(4)]
        assert kinds[0] == zk.xid - 2
        assert kinds[1:] == [-1, zk.xid - 1, zk.xid]

    def test_event_comes_before_any_reply_that_shows_the_change(
        self, zk: Session, other: Session, root: str
    ) -> None:
        for round_number in range(30):
            data = str(round_number).encode()
            zk.get(root, watch=True)
            other.send(wire.set_data(root, data))
            seen_event = False
            while not seen_event:
                zk.send(*[wire.get_data(root)] * 8)
                replies = 0
                while replies < 8:
                    message = zk.message()
                    if message.xid == -1:
                        assert wire.decode_event(message) == changed(root)
                        seen_event = True
                    else:
                        replies += 1
                        shows = wire.Reader(message.body).buffer() == data
                        assert not shows or seen_event, "a reply showed the change before the event came"
            assert other.reply().err == 0

    def test_ephemerals_of_a_closing_session_fire(self, any_server: Server, zk: Session, root: str) -> None:
        owner = any_server.session()
        paths = [owner.create(f"{root}/e{i}", flags=EPHEMERAL) for i in range(20)]
        for path in paths:
            zk.exists(path, watch=True)
        zk.children(root, watch=True)
        owner.close()
        events = zk.pending_events()
        assert sorted(events) == sorted([*map(deleted, paths), child(root)])

    def test_watches_do_not_outlive_the_connection(
        self, any_server: Server, other: Session, root: str
    ) -> None:
        first = any_server.session()
        first.get(root, watch=True)
        first.drop()
        with any_server.session(session_id=first.session_id, password=first.password) as second:
            other.set(root, b"x")
            assert second.pending_events() == []


class TestSetWatches:
    def test_what_happened_meanwhile_fires_at_once(self, zk: Session, other: Session, root: str) -> None:
        for name in ("data", "gone", "parent", "gone-parent", "same"):
            zk.create(f"{root}/{name}")
        mark = zk.call(wire.set_data(root, b"mark")).zxid
        other.set(f"{root}/data", b"x")
        other.delete(f"{root}/gone")
        other.create(f"{root}/parent/c")
        other.delete(f"{root}/gone-parent")
        other.create(f"{root}/made")
        reply = zk.set_watches(
            mark,
            data=[f"{root}/data", f"{root}/gone", f"{root}/same"],
            exist=[f"{root}/made", f"{root}/never"],
            child=[f"{root}/parent", f"{root}/gone-parent", f"{root}/same"],
        )
        assert (reply.xid, reply.err, reply.body) == (-8, 0, b"")
        assert list(zk.events) == [
            changed(f"{root}/data"),
            deleted(f"{root}/gone"),
            created(f"{root}/made"),
            child(f"{root}/parent"),
            deleted(f"{root}/gone-parent"),
        ]

    def test_what_did_not_happen_yet_is_watched(self, zk: Session, other: Session, root: str) -> None:
        for name in ("data", "parent"):
            zk.create(f"{root}/{name}")
        mark = zk.call(wire.set_data(root, b"mark")).zxid
        zk.set_watches(mark, [f"{root}/data"], [f"{root}/never"], [f"{root}/parent"])
        assert zk.pending_events() == []
        other.set(f"{root}/data", b"x")
        other.create(f"{root}/never")
        other.create(f"{root}/parent/c")
        assert zk.pending_events() == [
            changed(f"{root}/data"),
            created(f"{root}/never"),
            child(f"{root}/parent"),
        ]
        other.set(f"{root}/data", b"x")
        assert zk.pending_events() == []

    def test_null_lists_are_a_marshalling_error(self, zk: Session) -> None:
        null = struct.pack(">i", -1)
        reply = zk.reserved(-8, Request(wire.SET_WATCHES, struct.pack(">q", 0) + null * 3))
        assert reply.err == MARSHALLING
        assert zk.stat("/") is not None


class TestSessionOrder:
    def test_reads_see_the_writes_before_them(self, zk: Session, root: str) -> None:
        count = 400
        requests = []
        for i in range(count):
            requests += [wire.set_data(root, str(i).encode()), wire.get_data(root)]
        xids = zk.send(*requests)
        for i in range(count):
            write, read = zk.reply(), zk.reply()
            assert (write.xid, read.xid) == (xids[2 * i], xids[2 * i + 1])
            assert wire.Reader(read.body).buffer() == str(i).encode()
            assert read.zxid >= write.zxid

    def test_errors_keep_their_place(self, zk: Session, root: str) -> None:
        requests = [
            wire.create(f"{root}/a"),
            wire.create(f"{root}/a"),
            wire.exists(f"{root}/a"),
            wire.delete(f"{root}/a"),
            wire.delete(f"{root}/a"),
            wire.exists(f"{root}/a"),
            Request(wire.CREATE, b""),
            wire.sync(root),
            wire.set_data(root, b"x", 9),
            wire.set_data(root, b"x", 0),
        ]
        xids = zk.send(*requests)
        replies = [zk.reply() for _ in requests]
        assert [r.xid for r in replies] == xids
        codes = [0, NODE_EXISTS, 0, 0, NO_NODE, NO_NODE, MARSHALLING, 0, BAD_VERSION, 0]
        assert [r.err for r in replies] == codes

    def test_a_create_after_a_pending_delete(self, zk: Session, root: str) -> None:
        requests = []
        for _ in range(200):
            requests += [wire.create(f"{root}/a"), wire.delete(f"{root}/a")]
        zk.send(*requests)
        assert [zk.reply().err for _ in requests] == [0] * 400
        stat = zk.stat(root)
        assert (stat.cversion, stat.num_children) == (400, 0)

    def test_two_sessions_contend(self, zk: Session, other: Session, root: str) -> None:
        """Of two conditional writes to one version exactly one wins, however they interleave."""
        for version in range(100):
            zk.send(wire.set_data(root, b"a", version))
            other.send(wire.set_data(root, b"b", version))
            codes = sorted([zk.reply().err, other.reply().err])
            assert codes == [BAD_VERSION, 0]

    def test_visible_to_others_after_sync(self, zk: Session, other: Session, root: str) -> None:
        zk.set(root, b"x")
        other.sync(root)
        assert other.get(root)[0] == b"x"

    def test_a_session_that_ended_leaves_nothing_behind(
        self, any_server: Server, zk: Session, root: str
    ) -> None:
        owner = any_server.session()
        owner.send(*[wire.create(f"{root}/e-", flags=EPHEMERAL | SEQUENTIAL) for _ in range(50)])
        owner.send(Request(wire.CLOSE_SESSION, b""))
        poll(lambda: zk.children(root) == [] and zk.stat(root).cversion == 100, "ephemerals gone")
        owner.drop()

    def test_error_raises_in_the_helper(self, zk: Session, root: str) -> None:
        with pytest.raises(ZkError) as caught:
            zk.get(f"{root}/none")
        assert caught.value.code == NO_NODE
