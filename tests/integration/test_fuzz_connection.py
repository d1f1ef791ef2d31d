"""Arbitrary bytes on real connections: the server stays up, others notice nothing, and its log stays calm.

Examples are derived from a fixed seed; ``FASTZK_FUZZ_EXAMPLES`` asks for more of them.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import wire
from support.servers import Server, make_server
from support.wire import Request, Session

from .conftest import KIND

FUZZ = settings(
    max_examples=int(os.environ.get("FASTZK_FUZZ_EXAMPLES", "150")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

STATS = "/zookeeper/quota/fuzz/zookeeper_stats"
VALID = [
    wire.create("/fuzz/a", b"data"),
    wire.create2("/fuzz/b-", b"data", wire.EPHEMERAL | wire.SEQUENTIAL),
    wire.delete("/fuzz/a"),
    wire.exists("/fuzz/a", True),
    wire.get_data("/fuzz", True),
    wire.set_data("/fuzz", b"data", 3),
    wire.get_acl("/fuzz"),
    wire.set_acl("/fuzz/a", wire.OPEN),
    wire.get_children("/fuzz", True),
    wire.get_children2("/", True),
    wire.sync("/fuzz"),
    wire.check("/fuzz"),
    wire.multi(
        [wire.create("/fuzz/m"), wire.set_data("/fuzz/m", b"x"), wire.check("/fuzz"), wire.delete("/fuzz/m")]
    ),
    wire.auth("digest", b"user:password"),
    wire.auth("ip", b""),
    wire.set_watches(0, ["/fuzz"], ["/fuzz/none"], ["/fuzz"]),
    wire.create(STATS, b"count=x,bytes="),
    Request(wire.PING, b""),
    Request(wire.CLOSE_SESSION, b""),
    Request(16, wire.text("") * 3 + struct.pack(">q", -1)),
    Request(17, wire.text("/fuzz") + struct.pack(">i", 2)),
    Request(18, wire.text("/fuzz") + struct.pack(">i", 3)),
    wire.create("/fuzz/container", b"", 4, op=19),
    Request(20, wire.text("/fuzz/container")),
    Request(21, wire.create("/fuzz/ttl", b"", 5).body + struct.pack(">q", 1000)),
    Request(22, wire.multi([wire.get_data("/fuzz"), wire.get_children("/fuzz")]).body),
    Request(103, wire.text("/fuzz")),
    Request(104, wire.text("/fuzz")),
    Request(105, struct.pack(">q", 0) + wire.strings(["/fuzz"]) * 5),
    Request(106, wire.text("/fuzz") + struct.pack(">i", 1)),
    Request(107, b""),
]
XIDS = [1, 0, -1, -2, -4, -8, -100, 2**31 - 1, -(2**31)]
WORDS = [0, 1, -1, -2, 5, 127, 128, 255, 65536, 2**31 - 1, -(2**31), 0x00FFFFFF]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = make_server(KIND, tmp_path_factory.mktemp("victim"))
    server.start()
    with server.session() as zk:
        zk.create("/fuzz")
    yield server
    server.discard()


@pytest.fixture
def bystander(victim: Server) -> Iterator[Session]:
    """A session that must go on undisturbed, whatever the other connections send."""
    with victim.session(timeout_ms=40_000) as session:
        yield session
        assert victim.running
        log = victim.log_text()
        assert "Traceback" not in log, victim.log_tail(100)
        errors = re.findall(r"(?m)^.*\b(?:ERROR|CRITICAL|FATAL)\b.*$", log)
        assert not errors, errors[:5]


def assert_well(victim: Server, bystander: Session) -> None:
    assert victim.running, victim.explain("the server died")
    assert bystander.exists("/zookeeper") is not None, victim.log_tail()


@st.composite
def mutated_frames(draw: st.DrawFn) -> bytes:
    """A few valid frames, some of them damaged: cut, spliced, bytes and whole lengths replaced."""
    frames = bytearray()
    for _ in range(draw(st.integers(1, 4))):
        request = draw(st.sampled_from(VALID))
        if draw(st.booleans()):
            xid = draw(st.sampled_from(XIDS))
            op = draw(st.sampled_from([request.op, draw(st.integers(-12, 110))]))
            frame = bytearray(Session.frame(xid, Request(op, request.body)))
        else:
            frame = bytearray(Session.frame(draw(st.integers(1, 100)), request))
        for _ in range(draw(st.integers(0, 4))):
            # most of the damage leaves the outer length right, or little would get behind it
            at = draw(st.integers(4, len(frame) - 1)) if len(frame) > 5 else 0
            kind = draw(st.integers(0, 4))
            if kind == 0:
                frame[at] = draw(st.integers(0, 255))
            elif kind == 1:
                frame[at : at + 4] = struct.pack(">i", draw(st.sampled_from(WORDS)))
            elif kind == 2:
                frame[at:at] = draw(st.binary(max_size=20))
            elif kind == 3:
                del frame[at : at + draw(st.integers(1, 10))]
            else:
                frame += frame[at:]
        if draw(st.integers(0, 9)):
            frame[:4] = struct.pack(">i", len(frame) - 4)
        frames += frame
    return bytes(frames)


@FUZZ
@given(st.binary(max_size=300))
@example(b"")
@example(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
@example(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
@example(bytes(4))
@example(b"\xff" * 8)
@example(b"ru")
@example(b"zzzz")
def test_random_bytes_instead_of_a_handshake(victim: Server, bystander: Session, raw: bytes) -> None:
    connection = victim.connection()
    try:
        connection.send_bytes(raw)
        connection.finish()
    except wire.Closed:
        pass
    finally:
        connection.drop()
    assert_well(victim, bystander)


@FUZZ
@given(st.data())
def test_damaged_handshake(victim: Server, bystander: Session, data: st.DataObject) -> None:
    body = bytearray(wire.connect_request(read_only=data.draw(st.sampled_from([None, False, True]))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + 4] = struct.pack(">i", data.draw(st.sampled_from(WORDS)))
    body = body[: data.draw(st.integers(1, len(body)))]
    connection = victim.connection()
    try:
        connection.send_frame(bytes(body))
        connection.send_bytes(Session.frame(1, wire.exists("/")))
        connection.finish()
    except wire.Closed:
        pass
    finally:
        connection.drop()
    assert_well(victim, bystander)


@FUZZ
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_after_a_handshake(victim: Server, bystander: Session, raw: bytes, framed: bool) -> None:
    connection = victim.connection()
    connection.handshake(wire.connect_request(timeout_ms=4000))
    try:
        if framed:
            connection.send_frame(raw)
        else:
            connection.send_bytes(raw)
        connection.finish()
    except wire.Closed:
        pass
    finally:
        connection.drop()
    assert_well(victim, bystander)


@settings(FUZZ, max_examples=FUZZ.max_examples * 4)
@given(mutated_frames(), st.integers(0, 3))
def test_damaged_frames(victim: Server, bystander: Session, raw: bytes, pieces: int) -> None:
    connection = victim.connection()
    connection.handshake(wire.connect_request(timeout_ms=4000))
    try:
        size = max(1, len(raw) // (pieces + 1))
        for start in range(0, len(raw), size):
            connection.send_bytes(raw[start : start + size])
        connection.finish()
    except wire.Closed:
        pass
    finally:
        connection.drop()
    assert_well(victim, bystander)


def test_connections_cut_at_every_byte(victim: Server, bystander: Session) -> None:
    """The client vanishes after each number of bytes of a handshake, a write and a read."""
    body = wire.connect_request(timeout_ms=4000)
    raw = struct.pack(">i", len(body)) + body
    raw += Session.frame(1, wire.create("/fuzz/cut-", b"x", wire.SEQUENTIAL)) + Session.frame(
        2, wire.get_data("/fuzz")
    )
    for end in range(len(raw) + 1):
        connection = victim.connection()
        connection.send_bytes(raw[:end])
        connection.drop()
    assert_well(victim, bystander)


def test_the_server_is_whole_afterwards(victim: Server, bystander: Session) -> None:
    """Whatever got through, what is on disk can be read again."""
    bystander.create("/afterwards")
    count = len(bystander.children("/"))
    assert count >= 3
    victim.kill9()
    victim.start()
    with victim.session() as zk:
        assert zk.exists("/afterwards") is not None
        bystander_again = victim.session(session_id=bystander.session_id, password=bystander.password)
        bystander_again.ping()
        bystander_again.drop()
