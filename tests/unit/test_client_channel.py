"""The client's channel with scripted bytes: what leaves, what replies settle, what a broken connection leaves."""

from __future__ import annotations

import contextlib
import gc
import pickle
import struct
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import wire

from fastzk.acl import ACL, OPEN_ACL_UNSAFE, Id
from fastzk.client import Children, Created, NodeACL, NodeData, ZnodeStat
from fastzk.client._call import Call
from fastzk.client._channel import Channel, ProtocolError, decode_stat, normal_path
from fastzk.client.operations import Leading, encode_acl
from fastzk.errors import (
    BadVersionError,
    ConnectionLossError,
    MaybeApplied,
    NoNodeError,
    NotReadOnlyError,
    NotSent,
    SessionExpiredError,
    ZooKeeperError,
)
from fastzk.protocol import OpCode

STAT = wire.Stat(11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)
RAW_STAT = wire.STAT.pack(*STAT)
GET = int(OpCode.GET_DATA)


class Delegate:
    """Takes down what the channel tells."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def on_handshake(self, timeout_ms: int, session_id: int, password: bytes, read_only: bool) -> None:
        self.told.append(("handshake", timeout_ms, session_id, password, read_only))

    def on_event(self, kind: int, state: int, path: str) -> None:
        self.told.append(("event", kind, state, path))

    def on_control(self, xid: int, err: int) -> None:
        self.told.append(("control", xid, err))

    def on_sasl(self, err: int, token: bytes | None) -> None:
        self.told.append(("sasl", err, token))

    def on_watch(self, op: int, missing: bool, path: str, watch: Any) -> None:
        self.told.append(("watch", op, missing, path, watch))


def frame(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


def reply(xid: int, body: bytes = b"", err: int = 0, zxid: int = 100) -> bytes:
    return frame(wire.HEADER.pack(xid, zxid, err) + body)


def frames(data: bytes) -> list[bytes]:
    found = []
    while data:
        (size,) = struct.unpack_from(">i", data)
        assert len(data) >= 4 + size, "half a frame"
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


HANDSHAKE = frame(struct.pack(">iiqi16s?", 0, 10_000, 77, 16, b"p" * 16, False))


def make(chroot: str = "", **options: Any) -> Channel:
    """A channel whose handshake is over."""
    channel = Channel(Delegate(), chroot, **options)
    channel.connect(frame(b"hello"))
    assert channel.take() == frame(b"hello")
    channel.receive(HANDSHAKE)
    channel.release()
    return channel


def told(channel: Channel) -> list[tuple[Any, ...]]:
    assert isinstance(channel.delegate, Delegate)
    return channel.delegate.told


# ---- requests


def test_nothing_but_the_handshake_leaves_before_its_answer() -> None:
    channel = Channel(Delegate())
    channel.read(GET, "/a", None, Call())
    channel.connect(frame(b"hello"))
    assert channel.take() == frame(b"hello")
    assert channel.unsent() == 0
    channel.receive(HANDSHAKE)
    assert told(channel) == [("handshake", 10_000, 77, b"p" * 16, False)]
    channel.control(frame(b"credentials"))
    channel.release()
    assert frames(channel.take()) == [b"credentials", struct.pack(">iii", 1, GET, 2) + b"/a\0"]


def test_requests_as_bytes() -> None:
    channel = make()
    acl = encode_acl(OPEN_ACL_UNSAFE)
    channel.read(OpCode.EXISTS, "/é", lambda event: None, Call())
    channel.about(OpCode.SYNC, "/", Call())
    channel.set("/a", b"xyz", 3, Call())
    channel.set("/a", None, -1, Call())
    channel.delete("/a", 9, Call())
    channel.create(OpCode.CREATE_TTL, "/t", b"", acl, 5, 1500, False, Call())
    channel.set_acl("/a", acl, 2, Call())
    channel.request(OpCode.WHO_AM_I, b"body", False, None, None, Call())
    expected = [
        (OpCode.EXISTS, wire.text("/é") + b"\1"),
        (OpCode.SYNC, wire.text("/")),
        (OpCode.SET_DATA, wire.text("/a") + wire.text(b"xyz") + struct.pack(">i", 3)),
        (OpCode.SET_DATA, wire.text("/a") + wire.text(None) + struct.pack(">i", -1)),
        (OpCode.DELETE, wire.text("/a") + struct.pack(">i", 9)),
        (OpCode.CREATE_TTL, wire.text("/t") + wire.text(b"") + wire.acls(wire.OPEN) + struct.pack(">iq", 5, 1500)),
        (OpCode.SET_ACL, wire.text("/a") + wire.acls(wire.OPEN) + struct.pack(">i", 2)),
        (OpCode.WHO_AM_I, b"body"),
    ]
    sent = frames(channel.take())
    assert sent == [struct.pack(">ii", xid, op) + body for xid, (op, body) in enumerate(expected, 1)]
    assert channel.count == len(expected)


@pytest.mark.parametrize(("given_path", "sent"), [("/", "/base"), ("/a", "/base/a"), ("a//b/", "/base/a/b")])
def test_paths_are_below_the_chroot(given_path: str, sent: str) -> None:
    channel = make("/base")
    channel.read(GET, given_path, None, Call())
    assert frames(channel.take()) == [struct.pack(">ii", 1, GET) + wire.text(sent) + b"\0"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a/b", "/a/b"), ("a", "/a"), ("//a//b//", "/a/b"), ("", "/"), ("/", "/"), ("/.a/..b", "/.a/..b")],
)
def test_paths_are_made_normal(path: str, expected: str) -> None:
    assert normal_path(path) == expected
    channel = make()
    channel.about(OpCode.SYNC, path, Call())
    assert frames(channel.take())[0][8:] == wire.text(expected)


@pytest.mark.parametrize("path", ["/a/../b", "/.", "..", "/a/./b", "./a", "/a/.."])
def test_relative_paths_are_refused(path: str) -> None:
    channel = make()
    with pytest.raises(ValueError, match="relative"):
        channel.read(GET, path, None, Call())
    assert (channel.count, channel.unsent()) == (0, 0)


def test_wrong_types_are_refused_and_leave_nothing() -> None:
    channel = make()
    with pytest.raises(TypeError):
        channel.read(GET, b"/a", None, Call())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        channel.set("/a", "text", -1, Call())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        channel.create(1, 5, b"", b"", 0, 0, False, Call())  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        channel.read(GET, "/\ud800", None, Call())
    with pytest.raises(TypeError):
        encode_acl(OPEN_ACL_UNSAFE[0])  # type: ignore[arg-type]
    assert (channel.count, channel.unsent()) == (0, 0)


def test_xids_wrap_within_the_positive_numbers() -> None:
    channel = make()
    for _ in range(3):
        channel.about(OpCode.SYNC, "/", Call())
    assert [struct.unpack_from(">i", each)[0] for each in frames(channel.take())] == [1, 2, 3]


# ---- replies


@pytest.mark.parametrize(
    ("make_request", "body", "value"),
    [
        (lambda c, s: c.read(GET, "/a", None, s), wire.text(b"xy") + RAW_STAT, NodeData(b"xy", ZnodeStat(*STAT))),
        (lambda c, s: c.read(GET, "/a", None, s), wire.text(None) + RAW_STAT, NodeData(None, ZnodeStat(*STAT))),
        (lambda c, s: c.read(OpCode.EXISTS, "/a", None, s), RAW_STAT, ZnodeStat(*STAT)),
        (lambda c, s: c.read(OpCode.GET_CHILDREN, "/a", None, s), wire.strings(["x", "ü"]), ["x", "ü"]),
        (lambda c, s: c.read(OpCode.GET_CHILDREN, "/a", None, s), b"\xff\xff\xff\xff", []),
        (
            lambda c, s: c.read(OpCode.GET_CHILDREN2, "/a", None, s),
            wire.strings([]) + RAW_STAT,
            Children([], ZnodeStat(*STAT)),
        ),
        (
            lambda c, s: c.about(OpCode.GET_ACL, "/a", s),
            wire.acls([wire.Acl(3, "digest", "u:h")]) + RAW_STAT,
            NodeACL([ACL(3, Id("digest", "u:h"))], ZnodeStat(*STAT)),
        ),
        (lambda c, s: c.about(OpCode.SYNC, "/a", s), wire.text("/base/a"), "/a"),
        (lambda c, s: c.set("/a", b"", -1, s), RAW_STAT, ZnodeStat(*STAT)),
        (lambda c, s: c.set_acl("/a", b"", -1, s), RAW_STAT, ZnodeStat(*STAT)),
        (lambda c, s: c.delete("/a", -1, s), b"", True),
        (lambda c, s: c.create(1, "/a", b"", b"", 2, 0, False, s), wire.text("/base/a0000000001"), "/a0000000001"),
        (
            lambda c, s: c.create(15, "/a", b"", b"", 0, 0, True, s),
            wire.text("/base/a") + RAW_STAT,
            Created("/a", ZnodeStat(*STAT)),
        ),
        (lambda c, s: c.create(19, "/a", b"", b"", 4, 0, False, s), wire.text("/base/a") + RAW_STAT, "/a"),
        (lambda c, s: c.request(103, b"", False, None, bytes.decode, s), b"abc", "abc"),
        (lambda c, s: c.request(106, b"", False, None, None, s), b"\0\0\0\0", None),
    ],
)
def test_replies_become_values(make_request: Any, body: bytes, value: object) -> None:
    channel = make("/base")
    call: Call[Any] = Call()
    make_request(channel, call)
    channel.take()
    channel.receive(reply(1, body))
    assert call.result(0) == value
    assert channel.count == 0


def test_a_reply_may_come_in_any_pieces() -> None:
    data = b"".join(reply(xid, wire.text(b"d" * 50) + RAW_STAT) for xid in range(1, 5))
    for step in (1, 2, 3, 7, 100, 149, 151):
        channel = make()
        calls: list[Call[Any]] = [Call() for _ in range(4)]
        for call in calls:
            channel.read(GET, "/a", None, call)
        channel.take()
        for start in range(0, len(data), step):
            channel.receive(data[start : start + step])
        assert all(call.result(0).data == b"d" * 50 for call in calls)


def test_errors_have_their_class_and_the_path() -> None:
    channel = make("/base")
    calls: list[Call[Any]] = [Call() for _ in range(3)]
    channel.read(GET, "/gone", None, calls[0])
    channel.set("/a", b"", 5, calls[1])
    channel.read(OpCode.EXISTS, "/gone", None, calls[2])
    channel.take()
    channel.receive(reply(1, err=-101) + reply(2, err=-103) + reply(3, err=-101))
    error = calls[0].exception(0)
    assert isinstance(error, NoNodeError)
    assert (error.path, error.code) == ("/gone", -101)
    assert isinstance(calls[1].exception(0), BadVersionError)
    assert calls[2].result(0) is None


def test_events_come_before_the_replies_behind_them() -> None:
    order: list[object] = []

    class Order(Delegate):
        def on_event(self, kind: int, state: int, path: str) -> None:
            order.append(path)

    class Sink:
        def done(self) -> bool:
            return False

        def set_result(self, value: object) -> None:
            order.append("reply")

        def set_exception(self, error: object) -> None:
            raise AssertionError(error)

    channel = Channel(Order(), "/base")
    channel.connect(b"")
    channel.receive(HANDSHAKE)
    channel.release()
    channel.delete("/x", -1, Sink())
    event = wire.HEADER.pack(-1, -1, 0) + struct.pack(">ii", 2, 3) + wire.text("/base/x")
    channel.take()
    channel.receive(frame(event) + reply(1))
    assert order == ["/x", "reply"]


def test_watches_are_told_once_the_server_watches() -> None:
    channel = make()
    watch = object()
    for op, answer in [
        (GET, {"body": wire.text(b"") + RAW_STAT}),
        (GET, {"err": -101}),
        (OpCode.EXISTS, {"err": -101}),
        (OpCode.EXISTS, {"body": RAW_STAT}),
        (OpCode.GET_CHILDREN, {"err": -102}),
    ]:
        channel.read(op, "/w", watch, Call())
        xid = struct.unpack_from(">i", frames(channel.take())[0])[0]
        channel.receive(reply(xid, **answer))  # type: ignore[arg-type]
    watches = [each for each in told(channel) if each[0] == "watch"]
    assert watches == [
        ("watch", GET, False, "/w", watch),
        ("watch", OpCode.EXISTS, True, "/w", watch),
        ("watch", OpCode.EXISTS, False, "/w", watch),
    ]


def test_reserved_xids_do_not_take_a_place_in_the_order() -> None:
    channel = make()
    call: Call[Any] = Call()
    channel.about(OpCode.SYNC, "/", call)
    channel.ping()
    assert frames(channel.take())[1] == struct.pack(">ii", -2, 11)
    channel.receive(reply(-2) + reply(-4, err=-115, zxid=0) + reply(-8) + reply(-16, wire.text(b"token")))
    assert told(channel)[1:] == [("control", -4, -115), ("control", -8, 0), ("sasl", 0, b"token")]
    assert not call.done()
    channel.receive(reply(1, wire.text("/")))
    assert call.result(0) == "/"


def test_the_newest_zxid_is_kept() -> None:
    channel = make()
    for _ in range(3):
        channel.about(OpCode.SYNC, "/", Call())
    channel.take()
    channel.receive(reply(1, wire.text("/"), zxid=7) + reply(2, wire.text("/"), zxid=5) + reply(3, err=-101, zxid=-1))
    assert channel.last_zxid == 7


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack(">i", -1),
        struct.pack(">i", 1 << 30),
        frame(b"short"),
        reply(2, wire.text("/")),
        reply(-3),
        reply(1, struct.pack(">i", 100) + b"cut"),
        frame(wire.HEADER.pack(-1, -1, 0) + b"\0\0"),
    ],
)
def test_garbage_ends_the_connection(garbage: bytes) -> None:
    channel = make()
    call: Call[Any] = Call()
    channel.read(GET, "/a", None, call)
    channel.take()
    with pytest.raises(ProtocolError):
        channel.receive(garbage)
    channel.disconnected()
    assert isinstance(call.exception(0), ConnectionLossError | ValueError)


def test_a_reply_nobody_asked_for() -> None:
    with pytest.raises(ProtocolError, match="not the next"):
        make().receive(reply(1))


def test_a_count_larger_than_the_frame_takes_no_memory() -> None:
    channel = make()
    channel.read(OpCode.GET_CHILDREN, "/a", None, Call())
    channel.take()
    with pytest.raises(ProtocolError):
        channel.receive(reply(1, struct.pack(">i", 0x7FFFFFFF)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_survived(data: bytes, shaken: bool) -> None:
    channel = make() if shaken else Channel(Delegate())
    if not shaken:
        channel.connect(b"")
    call: Call[Any] = Call()
    channel.read(GET, "/a", None, call)
    channel.take()
    with contextlib.suppress(ProtocolError):
        channel.receive(data)
    channel.disconnected()
    channel.fail(SessionExpiredError)
    assert call.done()


# ---- a call that is given up


def test_a_cancelled_call_does_not_disturb_the_others() -> None:
    channel = make()
    calls: list[Call[Any]] = [Call() for _ in range(3)]
    for call in calls:
        channel.about(OpCode.SYNC, "/", call)
    channel.take()
    assert calls[1].cancel()
    channel.receive(b"".join(reply(xid, wire.text("/")) for xid in (1, 2, 3)))
    assert (calls[0].result(0), calls[2].result(0)) == ("/", "/")
    assert calls[1].cancelled()


def test_a_cancelled_request_that_did_not_leave_never_does() -> None:
    channel = Channel(Delegate())
    calls: list[Call[Any]] = [Call() for _ in range(3)]
    for number, call in enumerate(calls):
        channel.set(f"/{number}", b"", -1, call)
    calls[1].cancel()
    channel.connect(b"")
    channel.receive(HANDSHAKE)
    channel.release()
    assert [each[12:14] for each in frames(channel.take())] == [b"/0", b"/2"]
    channel.receive(reply(1, RAW_STAT) + reply(3, RAW_STAT))
    assert all(calls[number].successful() for number in (0, 2))


# ---- the end of a connection


def test_what_becomes_of_requests_when_the_connection_breaks() -> None:
    channel = make()
    calls: list[Call[Any]] = [Call() for _ in range(4)]
    channel.set("/0", b"", -1, calls[0])
    channel.read(GET, "/1", None, calls[1])
    channel.take()
    channel.set("/2", b"", -1, calls[2])
    channel.ping()
    channel.read(GET, "/3", None, calls[3])
    channel.disconnected()
    assert type(calls[0].exception(0)) is MaybeApplied
    assert type(calls[1].exception(0)) is ConnectionLossError
    assert not calls[2].done()
    assert not calls[3].done()
    channel.connect(frame(b"again"))
    assert channel.take() == frame(b"again")
    channel.receive(HANDSHAKE)
    channel.release()
    sent = frames(channel.take())
    assert [struct.unpack_from(">ii", each) for each in sent] == [(3, OpCode.SET_DATA), (4, GET)]
    channel.receive(reply(3, RAW_STAT) + reply(4, wire.text(b"x") + RAW_STAT))
    assert calls[3].result(0).data == b"x"


def test_errors_say_what_became_of_the_request() -> None:
    assert issubclass(NotSent, ConnectionLossError)
    assert issubclass(MaybeApplied, ConnectionLossError)
    channel = make()
    call: Call[Any] = Call()
    channel.create(1, "/x", b"", b"", 0, 0, False, call)
    channel.take()
    channel.disconnected()
    error = call.exception(0)
    assert isinstance(error, MaybeApplied)
    assert (error.path, error.code) == ("/x", -4)


def test_everything_fails_with_the_session() -> None:
    channel = make()
    calls: list[Call[Any]] = [Call() for _ in range(2)]
    channel.about(OpCode.SYNC, "/sent", calls[0])
    channel.take()
    channel.about(OpCode.SYNC, "/unsent", calls[1])
    channel.fail(SessionExpiredError)
    for call in calls:
        error = call.exception(0)
        assert isinstance(error, SessionExpiredError)
        assert error.path in ("/sent", "/unsent")
    assert (channel.count, channel.unsent()) == (0, 0)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.booleans(), st.booleans()), max_size=120))
def test_many_requests_over_broken_connections(steps: list[tuple[int, bool, bool]]) -> None:
    """Every call is settled once, in order; nothing leaves twice; nothing is lost that did not leave."""
    channel = make()
    calls: dict[int, Call[Any]] = {}
    waiting: list[int] = []  # xids the "server" has and did not answer
    served: list[int] = []
    for number, (size, cut, cancel) in enumerate(steps, 1):
        call: Call[Any] = Call()
        channel.set("/x", b"d" * size, -1, call)
        calls[number] = call
        if cancel:
            call.cancel()
        if size % 3 == 0:
            xids = [struct.unpack_from(">i", each)[0] for each in frames(channel.take())]
            assert not set(xids) & set(served)
            waiting += xids
            served += xids
        if size % 5 == 0 and waiting:
            channel.receive(b"".join(reply(xid, RAW_STAT) for xid in waiting))
            assert all(calls[xid].done() for xid in waiting)
            waiting = []
        if cut:
            channel.disconnected()
            for xid in waiting:
                assert calls[xid].cancelled() or isinstance(calls[xid].exception(0), MaybeApplied)
            waiting = []
            channel.connect(b"")
            channel.receive(HANDSHAKE)
            channel.release()
    rest = [struct.unpack_from(">i", each)[0] for each in frames(channel.take())]
    channel.receive(b"".join(reply(xid, RAW_STAT) for xid in waiting + rest))
    assert channel.count == 0
    assert served + rest == sorted(served + rest)
    assert all(call.done() for call in calls.values())


# ---- a sync in front of a read


def linearizable_read(channel: Channel) -> Call[Any]:
    call: Call[Any] = Call()
    channel.about(OpCode.SYNC, "/a", Leading(call))
    channel.read(GET, "/a", None, call)
    return call


def test_a_sync_in_front_of_a_read() -> None:
    channel = make()
    call = linearizable_read(channel)
    assert [struct.unpack_from(">ii", each) for each in frames(channel.take())] == [(1, OpCode.SYNC), (2, GET)]
    channel.receive(reply(1, wire.text("/a")))
    assert not call.done()
    channel.receive(reply(2, wire.text(b"x") + RAW_STAT))
    assert call.result().data == b"x"


def test_a_read_fails_with_the_sync_in_front_of_it() -> None:
    channel = make()
    call = linearizable_read(channel)
    channel.take()
    channel.receive(reply(1, err=-119) + reply(2, wire.text(b"x") + RAW_STAT))
    with pytest.raises(NotReadOnlyError):
        call.result()


def test_a_read_is_not_made_without_the_sync_that_a_connection_took_with_it() -> None:
    channel = make()
    call = linearizable_read(channel)
    channel.disconnected()  # neither left: both are made by the next connection
    assert not call.done()
    channel.connect(frame(b"hello"))
    channel.take()
    channel.receive(HANDSHAKE)
    channel.release()
    assert [struct.unpack_from(">ii", each)[1] for each in frames(channel.take())] == [OpCode.SYNC, GET]
    channel.disconnected()
    with pytest.raises(ConnectionLossError):
        call.result()
    # Given up by its caller, neither is made again.
    call = linearizable_read(channel)
    call.cancel()
    channel.connect(frame(b"hello"))
    channel.take()
    channel.receive(HANDSHAKE)
    channel.release()
    assert channel.take() == b""


# ---- an observer, and memory


def test_an_observer_hears_of_every_end() -> None:
    channel = make()
    heard: list[tuple[int, str | None, int]] = []
    channel.observer = lambda op, path, err, seconds: heard.append((op, path, err)) if seconds >= 0 else None
    channel.read(GET, "/a", None, Call())
    channel.read(GET, "/b", None, Call())
    channel.delete("/c", -1, Call())
    channel.take()
    channel.receive(reply(1, wire.text(b"") + RAW_STAT) + reply(2, err=-101))
    channel.disconnected()
    assert heard == [(GET, "/a", 0), (GET, "/b", -101), (OpCode.DELETE, "/c", -4)]


class Tracer:
    """Gives each request a number, and takes down with which one it ended."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.heard: list[tuple[object, int, str | None, int]] = []

    def began(self, opcode: int) -> int:
        self.made.append(opcode)
        return len(self.made)

    def ended(self, token: object, opcode: int, path: str | None, error: int, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.heard.append((token, opcode, path, error))


def test_a_tracer_hears_of_both_ends_of_every_request() -> None:
    channel = make()
    channel.observer = tracer = Tracer()
    given_up: Call[Any] = Call()
    channel.read(GET, "/a", None, Call())
    channel.delete("/b", -1, given_up)
    channel.take()
    kept: Call[Any] = Call()
    channel.read(GET, "/c", None, kept)
    assert tracer.made == [GET, OpCode.DELETE, GET]
    channel.receive(reply(1, wire.text(b"") + RAW_STAT))
    assert tracer.heard == [(1, GET, "/a", 0)]
    given_up.cancel()
    channel.disconnected()
    # Nobody waits for it any more, but it ended.
    assert tracer.heard[1:] == [(2, OpCode.DELETE, "/b", -4)]
    channel.connect(frame(b"hello"))
    channel.take()
    channel.receive(HANDSHAKE)
    channel.release()
    channel.take()
    channel.receive(reply(3, wire.text(b"") + RAW_STAT))
    assert tracer.heard[2:] == [(3, GET, "/c", 0)]
    assert kept.result().data == b""


def test_a_tracer_that_fails_harms_no_request(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Tracer):
        def began(self, opcode: int) -> int:
            raise RuntimeError

        def ended(self, token: object, opcode: int, path: str | None, error: int, seconds: float) -> None:
            assert token is None
            raise RuntimeError

    channel = make()
    channel.observer = Broken()
    call: Call[Any] = Call()
    channel.read(GET, "/a", None, call)
    channel.take()
    channel.receive(reply(1, wire.text(b"") + RAW_STAT))
    assert call.result().data == b""
    assert [record.message for record in caplog.records] == ["the observer raised an exception"] * 2


def test_tokens_are_let_go() -> None:
    class Token:
        pass

    class Giver(Tracer):
        def __init__(self) -> None:
            super().__init__()
            self.tokens: weakref.WeakSet[Token] = weakref.WeakSet()

        def began(self, opcode: int) -> Any:
            token = Token()
            self.tokens.add(token)
            return token

        def ended(self, token: object, opcode: int, path: str | None, error: int, seconds: float) -> None:
            pass

    channel = make()
    channel.observer = giver = Giver()
    for _ in range(200):
        channel.read(GET, "/a", None, Call())
    channel.take()
    channel.receive(b"".join(reply(xid, wire.text(b"") + RAW_STAT) for xid in range(1, 101)))
    assert len(giver.tokens) == 100
    channel.disconnected()
    assert len(giver.tokens) == 0
    channel.read(GET, "/a", None, Call())
    assert len(giver.tokens) == 1
    del channel
    gc.collect()
    assert len(giver.tokens) == 0


def test_nothing_is_kept_of_requests_that_ended() -> None:
    class Sink:
        alive = 0

        def __init__(self) -> None:
            Sink.alive += 1

        def __del__(self) -> None:
            Sink.alive -= 1

        def done(self) -> bool:
            return False

        def set_result(self, value: object) -> None:
            pass

        def set_exception(self, error: object) -> None:
            pass

    channel = make()
    for _ in range(200):
        channel.read(GET, "/a", None, Sink())
    channel.take()
    channel.receive(b"".join(reply(xid, wire.text(b"") + RAW_STAT) for xid in range(1, 101)))
    assert Sink.alive == 100
    channel.disconnected()
    gc.collect()
    assert Sink.alive == 0
    channel.read(GET, "/a", None, Sink())
    del channel
    gc.collect()
    assert Sink.alive == 0


# ---- the stat


def test_a_stat_is_a_tuple_with_names() -> None:
    stat = ZnodeStat(*STAT)
    assert stat == tuple(STAT)
    assert stat == decode_stat(RAW_STAT)
    assert stat != ZnodeStat(1)
    assert hash(stat) == hash(decode_stat(RAW_STAT))
    assert (len(stat), stat[0], list(stat)) == (11, 11, list(STAT))
    assert pickle.loads(pickle.dumps(stat)) == stat
    assert (stat.created, stat.last_modified) == (0.013, 0.014)
    assert (stat.acl_version, stat.children_version, stat.data_length, stat.children_count) == (17, 16, 19, 20)
    assert (stat.owner_session_id, ZnodeStat().owner_session_id) == (18, None)
    assert (stat.creation_transaction_id, stat.last_modified_transaction_id) == (11, 12)
    assert "mzxid=12" in repr(stat)
    with pytest.raises(ProtocolError):
        decode_stat(RAW_STAT[:-1])


def test_errors_are_zookeeper_errors() -> None:
    assert issubclass(NotSent, ZooKeeperError)
