"""Sessions: ids, passwords, attaching, and expiry neither early nor late."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import SECRET, Parts
from support import wire
from support.wire import Request

from fastzk.server import sessions as module
from fastzk.server.sessions import Sessions

MS = 1_000_000
TICK = 1000


class Clock:
    """Stands in for the monotonic clock."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000 * MS + 123_456

    def monotonic_ns(self) -> int:
        return self.now_ns

    def time(self) -> float:
        return 1_700_000_000.0


class Line:
    """What Sessions needs of a connection."""

    def __init__(self, clock: Clock, timeout_ms: int = 10_000) -> None:
        self.heard_ns = clock.now_ns
        self.timeout_ms = timeout_ms
        self.ended = 0
        self.local = False

    def end(self) -> None:
        self.ended += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def new_sessions(tick_ms: int = TICK, server_id: int = 1) -> Sessions:
    return Sessions(
        SECRET, server_id=server_id, tick_ms=tick_ms, min_timeout_ms=2 * tick_ms, max_timeout_ms=20 * tick_ms
    )


def test_ids_are_of_zookeepers_form_and_never_given_twice() -> None:
    for server_id in (0, 1, 0x7F, 0x80, 0xFF):
        table = new_sessions(server_id=server_id)
        found = [table.new_id() for _ in range(1000)]
        assert len(set(found)) == 1000
        assert {(number & (1 << 64) - 1) >> 56 for number in found} == {server_id}
        assert all(-(1 << 63) <= number < 1 << 63 for number in found)
    table = new_sessions()
    taken = table.new_id()
    table.on_transaction(taken + 1, 4000)
    assert table.new_id() == taken + 2


@pytest.mark.parametrize(("asked", "given"), [(-1, 2000), (0, 2000), (2500, 2500), (1 << 30, 20_000)])
def test_negotiation(asked: int, given: int) -> None:
    assert new_sessions().negotiate(asked) == given


def test_passwords_depend_on_session_and_secret() -> None:
    table = new_sessions()
    found = {table.password(number) for number in (0, 1, -1, 1 << 62, -(1 << 63))}
    assert len(found) == 5
    assert {len(password) for password in found} == {16}
    assert table.password(1) == new_sessions(server_id=9).password(1)
    other = Sessions(b"o" * 32, server_id=1, tick_ms=TICK, min_timeout_ms=2000, max_timeout_ms=20_000)
    assert other.password(1) != table.password(1)


def test_attach(clock: Clock) -> None:
    table = new_sessions()
    first, second, third = Line(clock), Line(clock, 4000), Line(clock)
    assert not table.attach(7, table.password(7), first)
    table.on_transaction(7, 10_000)
    table.attached(7, first)
    assert not table.attach(7, b"wrong".ljust(16), second)
    assert first.ended == 1  # as ZooKeeper does: the connection is closed even so
    assert table.attach(7, table.password(7), second)
    assert first.ended == 1
    assert table.attach(7, table.password(7), third)
    assert (second.ended, third.ended) == (1, 0)
    found = table.get(7)
    assert found is not None
    assert found.connection is third
    assert found.timeout_ms == 10_000
    table.detached(7, second)  # an old connection ends late: no matter
    assert found.connection is third
    table.detached(7, third)
    assert found.connection is None
    table.closing(7)
    assert not table.attach(7, table.password(7), first)
    table.on_transaction(7, None)
    assert table.get(7) is None
    assert not table.attach(7, table.password(7), first)


def test_encode_and_load(clock: Clock) -> None:
    table = new_sessions()
    for number in (1, -5, 1 << 60):
        table.on_transaction(number, 4000 + number % 7)
    again = new_sessions()
    again.load(table.encode())
    assert {(s.id, s.timeout_ms) for s in again} == {(s.id, s.timeout_ms) for s in table}
    assert len(again) == 3
    with pytest.raises(ValueError, match="11 bytes"):
        again.load(bytes(11))


@pytest.mark.parametrize("seed", range(20))
def test_expiry_is_never_early_and_at_most_two_ticks_late(clock: Clock, seed: int) -> None:
    """Sessions with and without connections, heard of at any time, looked at every tick (and a bit)."""
    rng = random.Random(seed)
    tick_ns = TICK * MS
    table = new_sessions()
    lines: dict[int, Line] = {}
    heard: dict[int, int] = {}
    timeouts: dict[int, int] = {}
    for number in range(1, 60):
        timeouts[number] = rng.randrange(2000, 20_000)
        table.on_transaction(number, timeouts[number])
        heard[number] = clock.now_ns
        lines[number] = Line(clock, timeouts[number])
        if rng.random() < 0.7:
            table.attached(number, lines[number])
    next_look = clock.now_ns
    gone: set[int] = set()
    while len(gone) < 59:
        clock.now_ns += rng.randrange(1, tick_ns // 4)
        for number in rng.sample(sorted(heard), 5):
            session = table.get(number)
            if session is None or session.closing or clock.now_ns > (5_000_000 + 60_000) * MS:
                continue
            if session.connection is lines[number]:
                lines[number].heard_ns = heard[number] = clock.now_ns
                if rng.random() < 0.1:
                    table.detached(number, lines[number])
            elif rng.random() < 0.3:
                lines[number] = Line(clock, timeouts[number])
                assert table.attach(number, table.password(number), lines[number])
                heard[number] = clock.now_ns
        if clock.now_ns >= next_look:
            next_look = clock.now_ns + tick_ns - tick_ns // 4  # a look never comes later than a tick after the last
            for number in table.expired():
                assert number not in gone
                late = clock.now_ns - heard[number] - timeouts[number] * MS
                assert 0 <= late <= 2 * tick_ns, number
                gone.add(number)
                table.on_transaction(number, None)
        for number, since in heard.items():
            if number not in gone:
                assert clock.now_ns - since <= timeouts[number] * MS + 2 * tick_ns, number
    assert len(table) == 0
    assert len(table._deadlines) == 0


def test_reopened_sessions_are_tried_again(clock: Clock) -> None:
    table = new_sessions()
    table.on_transaction(7, 2000)
    clock.now_ns += 10_000 * MS
    assert table.expired() == [7]
    clock.now_ns += 10_000 * MS
    assert table.expired() == []
    table.reopen([7, 8])
    clock.now_ns += 2 * TICK * MS
    assert table.expired() == [7]


def test_renew_gives_the_full_timeout_again(clock: Clock) -> None:
    table = new_sessions()
    table.on_transaction(7, 4000)
    clock.now_ns += 3900 * MS
    table.renew()
    clock.now_ns += 3900 * MS
    assert table.expired() == []
    session = table.get(7)
    assert session is not None
    assert table.expiry_ms(session) == 1_700_000_000_100
    clock.now_ns += 2 * TICK * MS
    assert table.expired() == [7]


# -- with connections -----------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with Parts(tmp_path, tick_ms=20) as made:
        yield made
        made.check()


def test_reattach_moves_a_session(parts: Parts) -> None:
    first = parts.peer()
    first.greet(timeout_ms=400)
    parts.settle()
    (raw,) = first.frames()
    _, timeout, session = struct.unpack_from(">iiq", raw)
    assert timeout == 400
    first.send(wire.create("/e", flags=wire.EPHEMERAL))
    parts.settle()
    second = parts.peer()
    second.greet(timeout_ms=300, session_id=session, password=raw[20:36])
    (again,) = second.frames()
    assert struct.unpack_from(">iiq", again) == (0, 300, session)
    assert again[20:36] == raw[20:36]
    assert first.closed
    parts.turn()
    second.send(wire.exists("/e"), wire.create("/e2", flags=wire.EPHEMERAL))
    parts.settle()
    assert [reply.err for reply in second.replies()] == [0, 0]
    assert len(parts.tree.ephemeral_paths(session)) == 2


def test_wrong_passwords_and_unknown_sessions(parts: Parts) -> None:
    peer = parts.session()
    for session in (peer.connection.session_id, 12345):
        intruder = parts.peer()
        intruder.greet(session_id=session, password=b"?" * 16)
        (raw,) = intruder.frames()
        assert raw == struct.pack(">iiqi", 0, 0, 0, 16) + bytes(17)
        assert intruder.closed
    assert peer.closed


def test_nothing_of_a_session_is_left_behind_its_end(parts: Parts) -> None:
    """Its client wakes up between the proposal of its end and the end: what it asks then must not be made."""
    sleeper, other = parts.session(timeout_ms=40), parts.session()
    session = sleeper.connection.session_id
    sleeper.send(wire.create("/e", flags=wire.EPHEMERAL))
    parts.settle()
    expired: list[int] = []

    def expire() -> bool:
        other.send(wire.exists("/"))
        expired.extend(parts.sessions.expired())
        return session in expired

    wire.poll(expire, "the session expires")
    parts.pipeline.expire_session(session)
    sleeper.send(wire.create("/late", flags=wire.EPHEMERAL))
    parts.settle()
    assert sleeper.closed
    assert parts.sessions.get(session) is None
    assert parts.tree.ephemeral_count == 0
    assert parts.tree.children(b"/") == [b"zookeeper"]


def test_connections_that_end_while_their_session_is_made(parts: Parts) -> None:
    peer = parts.peer()
    peer.greet(timeout_ms=40)
    peer.drop()
    parts.settle()
    (session,) = parts.sessions
    assert session.connection is None
    began = time.monotonic()
    wire.poll(lambda: parts.sessions.expired() == [session.id], "the session expires")
    assert time.monotonic() - began < 5


def test_limits_of_connections(tmp_path: Path) -> None:
    with Parts(tmp_path, max_per_host=2, max_clients=3) as parts:
        first, _second = parts.session(), parts.session()
        assert parts.peer().closed
        parts.turn()
        assert parts.service.hosts == {"127.0.0.1": 2}
        first.drop()
        assert parts.service.hosts == {"127.0.0.1": 1}
        assert not parts.peer().closed
        assert len(parts.clients) == 2


def test_requests_right_behind_the_connect_request(parts: Parts) -> None:
    """A client need not wait for its session: what it sends at once is answered in order."""
    peer = parts.peer()
    peer.greet()
    assert peer.transport.paused
    peer.send(wire.create("/a", b"1"), wire.get_data("/a"), wire.set_data("/a", b"2"), wire.get_data("/a"))
    parts.settle()
    peer.feed(b"")
    parts.settle()
    replies = peer.frames()[1:]
    assert [struct.unpack_from(">i", raw)[0] for raw in replies] == [1, 2, 3, 4]
    assert [struct.unpack_from(">i", raw, 12)[0] for raw in replies] == [0] * 4


def test_a_client_ahead_of_the_server_is_refused(parts: Parts) -> None:
    peer = parts.peer()
    peer.greet(last_zxid=1 << 40)
    assert peer.closed
    assert peer.frames() == []


def test_four_letter_words_and_garbage_before_a_session(parts: Parts) -> None:
    asking = parts.peer()
    asking.feed(b"ruok")
    assert asking.read() == b"imok"
    assert asking.closed
    for garbage in (b"GET / HT", struct.pack(">i", -1) + bytes(8), struct.pack(">i", 0) + bytes(8), bytes(12)):
        peer = parts.peer()
        peer.feed(garbage)
        assert peer.closed
        assert peer.read() == b""
    peer = parts.session()
    peer.send(Request(77, b""))
    (reply,) = peer.replies()
    assert (reply.zxid, reply.err) == (-1, wire.UNIMPLEMENTED)
    assert peer.closed


def test_local_sessions_cost_nobody_else_anything(clock: Clock) -> None:
    table = new_sessions(server_id=3)
    line = Line(clock, 4000)
    number = table.open_local(4000)
    assert number >> 56 == 3
    table.attached(number, line)
    assert line.local
    assert (len(table), table.local_count, list(table), table.encode()) == (0, 1, [], b"")
    assert table.heard_since(0) == []
    clock.now_ns += 3000 * MS
    table.detached(number, line)
    assert table.expire_local() == []
    clock.now_ns += 5000 * MS
    assert table.expired() == []
    assert table.expire_local() == [number]
    assert table.get(number) is None
    assert not table.attach(number, table.password(number), line)
    assert len(table._local_deadlines) == 0


def test_a_local_session_becomes_one_of_all_servers(clock: Clock) -> None:
    table = new_sessions()
    line = Line(clock)
    number = table.open_local(10_000)
    table.attached(number, line)
    table.on_transaction(number, 10_000)
    found = table.get(number)
    assert found is not None
    assert found.connection is line
    assert (line.local, line.ended, len(table), table.local_count) == (False, 0, 1, 0)
    table.on_transaction(number, 8000)  # asked for twice: it stays what it is
    assert table.get(number) is found
    assert (found.connection, found.timeout_ms) == (line, 8000)
    clock.now_ns += 60_000 * MS
    assert table.expire_local() == []
    assert table.expired() == [number]
    assert line.ended == 1
    table.on_transaction(number, None)
    assert table.get(number) is None


def test_read_only_sessions_end_when_there_is_a_leader(clock: Clock) -> None:
    table = new_sessions()
    kept, over, line = table.open_local(4000), table.open_local(4000, read_only=True), Line(clock)
    lasting = table.open_local(20_000, read_only=True)
    table.attached(lasting, line)
    clock.now_ns += 6000 * MS
    line.heard_ns = clock.now_ns
    assert sorted(table.expire_local()) == sorted([kept, over])
    assert not table.may_be_elsewhere(over)  # it is known to have ended
    assert not table.may_be_elsewhere(lasting)
    assert table.may_be_elsewhere(kept - 1)
    table.end_read_only()
    assert (line.ended, table.local_count) == (1, 0)
    assert table.may_be_elsewhere(over)
