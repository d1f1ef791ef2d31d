"""The life of a session, without a server: what a connection begins with, when pings and deadlines are due."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest
from support import wire

from fastzk.client import EventType, KeeperState, State, WatchedEvent
from fastzk.client._call import Call
from fastzk.client.hosts import parse
from fastzk.client.session import Dropped, Session
from fastzk.client.watches import CHUNK_BYTES
from fastzk.errors import (
    AuthFailedError,
    ConnectionClosedError,
    ConnectionLossError,
    NotSent,
    OperationTimeoutError,
    SessionExpiredError,
)
from fastzk.protocol import OpCode

SYNC = int(OpCode.SYNC)


class Face:
    """Takes down what a session tells its client."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.ready = 0
        self.notified: list[tuple[Any, WatchedEvent]] = []

    def on_state(self, state: State) -> None:
        self.states.append(state)

    def on_ready(self) -> None:
        self.ready += 1

    def notify(self, watcher: Any, event: WatchedEvent) -> object:
        self.notified.append((watcher, event))
        return None


class Clock:
    """time.monotonic under the tests' control."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fastzk.client.session.time", clock)
    return clock


def begun(hosts: str = "a:1,b:2", **options: Any) -> tuple[Session, Face]:
    face = Face()
    session = Session(face, parse(hosts), 9.0, **options)
    session.begin()
    return session, face


def frame(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


def answer(timeout_ms: int = 6000, session_id: int = 5, read_only: bool = False) -> bytes:
    return frame(struct.pack(">iiqi16s?", 0, timeout_ms, session_id, 16, b"s" * 16, read_only))


def reply(xid: int, body: bytes = b"", err: int = 0, zxid: int = 9) -> bytes:
    return frame(wire.HEADER.pack(xid, zxid, err) + body)


def event(kind: int, path: str) -> bytes:
    return frame(wire.HEADER.pack(-1, -1, 0) + struct.pack(">ii", kind, 3) + wire.text(path))


def frames(data: bytes) -> list[bytes]:
    found = []
    while data:
        (size,) = struct.unpack_from(">i", data)
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def attach(session: Session, **options: Any) -> list[bytes]:
    """Connect and answer the handshake; the frames that follow it."""
    session.connected()
    assert len(frames(session.channel.take())) == 1
    session.channel.receive(answer(**options))
    return frames(session.channel.take())


def header(request: bytes) -> tuple[int, int]:
    xid, op = struct.unpack_from(">ii", request)
    return xid, op


def test_the_handshake() -> None:
    session, face = begun()
    session.connected()
    (request,) = frames(session.channel.take())
    assert request == struct.pack(">iqiqi16s?", 0, 0, 9000, 0, 16, bytes(16), False)
    assert (session.state, face.ready) == (State.LOST, 0)
    session.channel.receive(answer())
    assert (session.session_id, session.password, session.timeout) == (5, b"s" * 16, 6.0)
    assert (face.states, face.ready, session.keeper_state) == ([State.CONNECTED], 1, KeeperState.CONNECTED)
    # Again, with the session and what it has seen.
    session.channel.last_zxid = 77
    session.lost("test")
    assert face.states == [State.CONNECTED, State.SUSPENDED]
    session.connected()
    (request,) = frames(session.channel.take())
    assert request == struct.pack(">iqiqi16s?", 0, 77, 9000, 5, 16, b"s" * 16, False)


def test_what_a_connection_begins_with() -> None:
    """Credentials, then watches, then requests; nothing before the handshake is answered."""
    session, _ = begun("a:1/base", auths=[("digest", "u:p")])
    attach(session)
    session.channel.receive(reply(-4))
    session.watches.add(OpCode.GET_DATA, False, "/d", print)
    session.watches.add(OpCode.EXISTS, True, "/e", print)
    session.watches.add(OpCode.GET_CHILDREN, False, "/", print)
    session.channel.last_zxid = 50
    session.lost("test")
    session.channel.about(SYNC, "/", Call())
    auth, watches, request = attach(session)
    assert auth == struct.pack(">iii", -4, OpCode.AUTH, 0) + wire.text("digest") + wire.text(b"u:p")
    expected = wire.strings(["/base/d"]) + wire.strings(["/base/e"]) + wire.strings(["/base"])
    assert watches == struct.pack(">iiq", -8, OpCode.SET_WATCHES, 50) + expected
    assert header(request)[1] == SYNC


def test_many_watches_are_set_in_several_frames() -> None:
    session, _ = begun()
    paths = [f"/{n:05d}{'x' * 100}" for n in range(4000)]
    for path in paths:
        session.watches.add(OpCode.GET_DATA, False, path, print)
    sent = attach(session)
    assert len(sent) == 4
    assert max(map(len, sent)) < CHUNK_BYTES + 1000
    found: list[str] = []
    for each in sent:
        assert header(each) == (-8, OpCode.SET_WATCHES)
        found += wire.Reader(each[16:]).strings()
    assert found == paths


class Listening:
    def __init__(self, recursive: bool) -> None:
        self.recursive = recursive
        self.events: list[tuple[EventType, str]] = []
        self.ended: list[KeeperState] = []

    def put(self, event: WatchedEvent) -> None:
        self.events.append((event.type, event.path))

    def end(self, event: WatchedEvent) -> None:
        self.ended.append(event.state)


def test_streams_hear_what_is_theirs() -> None:
    session, _ = begun("a:1/base")
    attach(session)
    node, tree = Listening(False), Listening(True)
    session.watches.add_stream("/a", node)
    session.watches.add_stream("/", tree)
    for kind, path in [(1, "/base/a"), (4, "/base/a"), (3, "/base/a/b"), (2, "/base/a"), (3, "/base")]:
        session.channel.receive(event(kind, path))
    assert node.events == [(EventType.CREATED, "/a"), (EventType.CHILD, "/a"), (EventType.DELETED, "/a")]
    assert tree.events == [
        (EventType.CREATED, "/a"),
        (EventType.CHANGED, "/a/b"),
        (EventType.DELETED, "/a"),
        (EventType.CHANGED, "/"),
    ]
    session.lost("test")
    (again,) = attach(session)
    assert header(again) == (-8, OpCode.SET_WATCHES2)
    assert again[16:] == wire.strings([]) * 3 + wire.strings(["/base/a"]) + wire.strings(["/base"])
    session.closed()
    assert node.ended == tree.ended == [KeeperState.CLOSED]


def test_an_expired_session() -> None:
    session, face = begun()
    attach(session)
    session.watches.add(OpCode.GET_DATA, False, "/d", print)
    call: Call[Any] = Call()
    session.channel.about(SYNC, "/x", call)
    session.lost("test")
    session.connected()
    session.channel.take()
    with pytest.raises(Dropped, match="expired"):
        session.channel.receive(answer(timeout_ms=0, session_id=0))
    session.lost("dropped")
    error = call.exception(0)
    assert isinstance(error, SessionExpiredError)
    assert error.path == "/x"
    assert face.states == [State.CONNECTED, State.SUSPENDED, State.LOST]
    assert face.notified == [(print, WatchedEvent(EventType.NONE, KeeperState.EXPIRED_SESSION, "/d"))]
    assert (session.session_id, session.live, len(session.watches)) == (0, True, 0)
    assert attach(session, session_id=6) == []
    assert (face.states[-1], session.session_id) == (State.CONNECTED, 6)


def test_refused_credentials_end_everything() -> None:
    session, face = begun()
    attach(session)
    calls: list[Call[Any]] = [Call(), Call()]
    session.add_auth("digest", "u:p", calls[0])
    session.channel.about(SYNC, "/", calls[1])
    session.channel.take()
    with pytest.raises(Dropped, match="authentication"):
        session.channel.receive(reply(-4, err=-115))
    assert isinstance(calls[0].exception(0), AuthFailedError)
    assert isinstance(calls[1].exception(0), ConnectionLossError)  # it had left already
    assert (session.live, face.states[-1]) == (False, State.LOST)
    assert isinstance(session.refusal(), AuthFailedError)


def test_credentials_whose_answer_was_lost_are_presented_again() -> None:
    session, _ = begun()
    attach(session)
    call: Call[Any] = Call()
    session.add_auth("digest", "u:p", call)
    assert len(frames(session.channel.take())) == 1
    session.lost("test")
    assert not call.done()
    assert [header(each) for each in attach(session)] == [(-4, OpCode.AUTH)]
    session.channel.receive(reply(-4))
    assert call.result(0) is True
    session.lost("test")
    assert len(attach(session)) == 1


def test_a_read_only_server() -> None:
    session, _ = begun(read_only=True)
    session.connected()
    assert frames(session.channel.take())[0][-1] == 1
    session.channel.receive(answer(read_only=True))
    assert session.keeper_state == KeeperState.CONNECTED_RO
    # The id it gave means nothing to other servers.
    session.lost("test")
    session.connected()
    assert struct.unpack_from(">q", frames(session.channel.take())[0], 16) == (0,)


def test_a_session_that_a_read_only_server_goes_on_with() -> None:
    session, _ = begun(read_only=True)
    for read_only in (False, True, False):
        session.connected()
        session.channel.take()
        session.channel.receive(answer(read_only=read_only))
        identity = session.session_id
        session.lost("test")
    session.connected()
    assert struct.unpack_from(">q", frames(session.channel.take())[0], 16) == (identity,)


def test_pings_and_silence(clock: Clock) -> None:
    session, _ = begun()
    attach(session)
    clock.now = time.monotonic()
    assert 1.9 < session.tick() <= 2.0  # a third of the timeout
    assert session.channel.unsent() == 0
    clock.now += 2.1
    session.tick()
    assert frames(session.channel.take()) == [struct.pack(">ii", -2, OpCode.PING)]
    clock.now += 2.0
    with pytest.raises(Dropped, match="nothing came"):
        session.tick()


def test_a_handshake_without_an_answer(clock: Clock) -> None:
    session, _ = begun()
    session.connected()
    clock.now = time.monotonic()
    left = session.tick()
    assert 0 < left <= session.connect_timeout
    clock.now += left + 0.01
    with pytest.raises(Dropped, match="nothing came"):
        session.tick()


def test_requests_without_a_connection_are_given_up(clock: Clock) -> None:
    session, _ = begun()
    call: Call[Any] = Call()
    session.channel.about(SYNC, "/x", call)
    clock.now += 8.9
    assert session.tick() <= 0.2
    assert not call.done()
    clock.now += 0.2
    session.tick()
    assert isinstance(call.exception(0), NotSent)


def test_deadlines(clock: Clock) -> None:
    session, _ = begun()
    attach(session)
    calls: list[Call[Any]] = [Call() for _ in range(3)]
    for call, after in zip(calls, (0.3, 0.1, 0.2), strict=True):
        session.channel.about(SYNC, "/x", call)
        session.expire_at(clock.now + after, call, "/x")
    assert session.tick() == pytest.approx(0.1)
    clock.now += 0.15
    assert session.tick() == pytest.approx(0.05)
    assert [call.done() for call in calls] == [False, True, False]
    error = calls[1].exception(0)
    assert isinstance(error, OperationTimeoutError)
    assert error.path == "/x"
    # A reply that comes too late is for nobody, and one in time ends the deadline.
    session.channel.take()
    session.channel.receive(b"".join(reply(xid, wire.text("/")) for xid in (1, 2, 3)))
    clock.now += 1.0
    session.tick()
    assert calls[0].result(0) == calls[2].result(0) == "/"


def test_closing() -> None:
    session, face = begun()
    attach(session)
    said: Call[Any] = Call()
    waiting: Call[Any] = Call()
    session.channel.about(SYNC, "/", waiting)
    session.channel.take()
    session.close(said)
    assert header(frames(session.channel.take())[0])[1] == OpCode.CLOSE_SESSION
    session.closed()
    assert isinstance(waiting.exception(0), ConnectionLossError)
    assert (session.live, face.states[-1], session.keeper_state) == (False, State.LOST, KeeperState.CLOSED)
    assert isinstance(session.refusal(), ConnectionClosedError)
    session.begin()
    assert attach(session, session_id=8) == []
    assert session.session_id == 8
