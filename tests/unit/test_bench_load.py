"""The loop of the load generator against a server that answers, stalls, lies and hangs up as the test says."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fastzk.bench._load import Load
from fastzk.bench.frames import templates
from fastzk.bench.plan import KeyDistribution, Mix, Plan
from fastzk.bench.results import Operation
from fastzk.protocol import Error, OpCode

MILLISECOND = 1_000_000


class FakeServer:
    """Answers every request with an empty success, in one thread, unless told otherwise.

    :param stall_at: before which request (1 is the first of all) it falls silent for ``stall_for`` seconds.
    :param hang_up_at: which request it answers by closing the connection, once.
    :param mute_at: from which request on it answers nothing.
    :param code: of all replies.
    :param body: of all replies.
    :param pieces: bytes sent at a time; 0 for all at once.
    :param xid_shift: added to the xid of replies.
    :param forgets: whether it knows no session again.
    """

    def __init__(
        self,
        *,
        stall_at: int = 0,
        stall_for: float = 0.0,
        hang_up_at: int = 0,
        mute_at: int = 0,
        code: int = 0,
        body: bytes = b"",
        pieces: int = 0,
        xid_shift: int = 0,
        forgets: bool = False,
    ) -> None:
        self.stall_at, self.stall_for = stall_at, stall_for
        self.hang_up_at, self.mute_at = hang_up_at, mute_at
        self.code, self.body, self.pieces, self.xid_shift = code, body, pieces, xid_shift
        self.forgets = forgets
        self.requests = 0
        self.opcodes: Counter[int] = Counter()
        self.paths: Counter[bytes] = Counter()
        self.sessions: list[int] = []
        self._input: dict[socket.socket, bytes] = {}
        self._greeted: set[socket.socket] = set()
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = (int(socket.AF_INET), tuple(self._listener.getsockname()))
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping = True
        self._thread.join(10)
        assert not self._thread.is_alive()
        for sock in [*self._input, self._listener]:
            sock.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(0.02):
                if key.fileobj is self._listener:
                    sock, _ = self._listener.accept()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._input[sock] = b""
                    self._selector.register(sock, selectors.EVENT_READ)
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    try:
                        self._read(key.fileobj)
                    except OSError:
                        self._drop(key.fileobj)

    def _drop(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        del self._input[sock]
        self._greeted.discard(sock)
        sock.close()

    def _read(self, sock: socket.socket) -> None:
        chunk = sock.recv(65536)
        if not chunk:
            self._drop(sock)
            return
        data = self._input[sock] + chunk
        while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4]):
            end = 4 + int.from_bytes(data[:4])
            if not self._frame(sock, data[4:end]):
                return
            data = data[end:]
        self._input[sock] = data

    def _frame(self, sock: socket.socket, frame: bytes) -> bool:
        if sock not in self._greeted:
            self._greeted.add(sock)
            _, _, timeout, session, _, password, _ = struct.unpack(">iqiqi16s?", frame)
            self.sessions.append(session)
            if session:
                assert password == b"p" * 16
                if self.forgets:
                    timeout = 0
            sock.sendall(struct.pack(">iiiqi16s?", 37, 0, timeout, session or 7, 16, b"p" * 16, False))
            return True
        xid, opcode = struct.unpack_from(">ii", frame)
        if opcode == OpCode.CLOSE_SESSION:
            self._drop(sock)
            return False
        self.opcodes[opcode] += 1
        if opcode == OpCode.PING:
            sock.sendall(struct.pack(">iiqi", 16, xid, 0, 0))
            return True
        length = int.from_bytes(frame[8:12])
        self.paths[frame[12 : 12 + length]] += 1
        self.requests += 1
        if self.requests == self.stall_at:
            time.sleep(self.stall_for)
        if self.requests == self.hang_up_at:
            self._drop(sock)
            return False
        if not self.mute_at or self.requests < self.mute_at:
            reply = struct.pack(">iiqi", 16 + len(self.body), xid + self.xid_shift, 1, self.code) + self.body
            step = self.pieces or len(reply)
            for at in range(0, len(reply), step):
                sock.sendall(reply[at : at + step])
        return True


@contextlib.contextmanager
def serving(**behaviour: Any) -> Iterator[FakeServer]:
    server = FakeServer(**behaviour)
    try:
        yield server
    finally:
        server.close()


def connected(server: FakeServer, plan: Plan) -> Load:
    load = Load(
        plan, 0, [server.address], templates(plan.root, plan.keys, plan.value_size, plan.multi_size)
    )
    deadline = time.monotonic_ns() + 10_000 * MILLISECOND
    while load.ready < plan.sessions:
        assert time.monotonic_ns() < deadline, load.problem
        load.step(time.monotonic_ns() + 20 * MILLISECOND)
    return load


def carried(load: Load, seconds: float, drain: float = 5.0) -> dict[str, Operation]:
    """The load for so long, measured from its beginning; then its end."""
    start = time.monotonic_ns()
    end = start + round(seconds * 1e9)
    load.begin(start, start, end)
    give_up = end + round(drain * 1e9)
    while not load.drained and time.monotonic_ns() < give_up:
        load.step(min(give_up, time.monotonic_ns() + 20 * MILLISECOND))
    results = load.results()
    load.close()
    return results


def plan_of(mix: str = "get", connections: int = 1, **more: Any) -> Plan:
    return Plan(mix=Mix.parse(mix), connections=connections, keys=10, **more)


def test_an_open_loop_measures_from_when_a_request_was_due() -> None:
    # 1000 requests a second for a second, and the server is silent for 0.4 s of it: some 400 requests were due in
    # that time, and they waited from 0 to 0.4 s.
    with serving(stall_at=300, stall_for=0.4) as server:
        load = connected(server, plan_of(rate=1000.0, window=16))
        (counts,) = carried(load, 1.0).values()
    latency = counts.latency
    assert latency.count == 1000 == counts.answered
    assert latency.percentile(90) > 200 * MILLISECOND
    assert latency.percentile(75) > 50 * MILLISECOND
    assert load.longest_gap > 350 * MILLISECOND


def test_a_closed_loop_hides_a_stall_unless_it_is_corrected() -> None:
    with serving(stall_at=100, stall_for=0.4) as server:
        load = connected(server, plan_of(window=1))
        (counts,) = carried(load, 1.0).values()
    latency = counts.latency
    assert latency.most > 400 * MILLISECOND
    assert latency.count > 150
    # one request in all met the stall ...
    assert latency.percentile(99) < 200 * MILLISECOND
    # ... which lasted 40 % of the time
    corrected = Operation(latency=latency).corrected
    assert corrected.percentile(90) > 150 * MILLISECOND


def test_what_is_never_answered_counts_with_its_age() -> None:
    with serving(mute_at=11) as server:
        load = connected(server, plan_of(window=4))
        (counts,) = carried(load, 0.3, drain=0.2).values()
    assert counts.answered == 10
    assert counts.unanswered == 4
    assert counts.latency.count == 14
    assert counts.latency.most > 400 * MILLISECOND


def test_what_was_due_and_never_sent_counts_with_its_age_too() -> None:
    with serving(mute_at=1) as server:
        load = connected(server, plan_of(window=2, rate=100.0))
        (counts,) = carried(load, 0.3, drain=0.1).values()
    assert counts.sent == 2
    assert counts.unanswered == 30
    assert counts.latency.most > 350 * MILLISECOND


def test_errors_are_counted_by_code() -> None:
    with serving(code=Error.NO_NODE) as server:
        (counts,) = carried(connected(server, plan_of()), 0.1).values()
        assert counts.errors == {Error.NO_NODE: counts.answered}
        assert counts.answered == server.requests > 0


def test_replies_may_come_in_pieces_and_be_larger_than_the_buffer() -> None:
    with serving(body=b"x" * 700_000) as server:
        (counts,) = carried(connected(server, plan_of(connections=2, window=3)), 0.2).values()
        assert counts.answered == server.requests > 0
    with serving(body=b"x" * 30, pieces=7) as server:
        (counts,) = carried(connected(server, plan_of(connections=2, window=3)), 0.2).values()
        assert counts.answered == server.requests > 0
        assert not counts.errors


def test_a_lost_connection_is_counted_and_taken_up_again() -> None:
    with serving(hang_up_at=20) as server:
        load = connected(server, plan_of(window=4))
        (counts,) = carried(load, 0.4).values()
        assert (load.lost, load.opened, load.expired) == (1, 2, 0)
        assert server.sessions == [0, 7]
    assert 1 <= counts.errors[Error.CONNECTION_LOSS] <= 4
    assert counts.answered > 20
    assert counts.sent == counts.answered + counts.errors[Error.CONNECTION_LOSS]
    assert re.search("closed the connection|reset by peer", load.problem)


def test_an_expired_session_is_followed_by_a_new_one() -> None:
    with serving(hang_up_at=5, forgets=True) as server:
        load = connected(server, plan_of())
        (counts,) = carried(load, 0.4).values()
        assert (load.lost, load.opened, load.expired) == (1, 2, 1)
        assert server.sessions == [0, 7, 0]
    assert counts.answered > 5


def test_a_reply_to_another_request_ends_the_connection() -> None:
    with serving(xid_shift=1) as server:
        load = connected(server, plan_of())
        results = carried(load, 0.1, drain=0.1)
    assert results["get"].answered == 0
    assert load.lost > 0
    assert "not for the next request" in load.problem


def test_idle_sessions_are_kept_alive() -> None:
    with serving() as server:
        load = connected(server, plan_of(connections=3, session_timeout=0.3))
        deadline = time.monotonic() + 5
        while server.opcodes[OpCode.PING] < 6:
            assert time.monotonic() < deadline
            load.step(time.monotonic_ns() + 20 * MILLISECOND)
        load.close()
        assert load.lost == 0


def test_the_mix_is_sent_in_its_shares() -> None:
    with serving() as server:
        results = carried(connected(server, plan_of("get=60,set=30,exists=10", window=16)), 0.4)
        assert server.opcodes.total() == server.requests
        names = {OpCode.GET_DATA: "get", OpCode.SET_DATA: "set", OpCode.EXISTS: "exists"}
        shares = {"get": 0.6, "set": 0.3, "exists": 0.1}
        for opcode, name in names.items():
            assert results[name].sent == results[name].answered == server.opcodes[opcode]
            expected = shares[name] * server.requests
            assert abs(server.opcodes[opcode] - expected) < 5 * expected**0.5


def test_keys_follow_their_distribution() -> None:
    plan = plan_of("get", window=1, key_distribution=KeyDistribution.parse("sequential"))
    with serving() as server:
        carried(connected(server, plan), 0.2)
        assert set(server.paths) == {f"/fastzk-bench/k{key}".encode() for key in range(10)}
        assert max(server.paths.values()) - min(server.paths.values()) <= 1


def test_what_is_created_is_told_and_only_that_is_deleted() -> None:
    with serving() as server:
        load = connected(server, plan_of("create=1,delete=1,create-delete=1", connections=2, window=8))
        results = carried(load, 0.2)
        left = load.created
        created, deleted = results["create"].sent, results["delete"].sent
        assert sum(end - first for first, end in left.values()) == created - deleted
        assert set(left) == {0, 1}
        # every znode but the pair's is created once, and deleted at most once
        pairs = {b"/fastzk-bench/c000000/pair", b"/fastzk-bench/c000001/pair"}
        once_or_twice = [count for path, count in server.paths.items() if path not in pairs]
        assert max(once_or_twice) <= 2
        assert sum(once_or_twice) == created + deleted
        assert sum(server.paths[path] for path in pairs) == results["create-delete"].sent


def test_an_open_loop_keeps_its_rate_and_says_how_late_it_was() -> None:
    with serving() as server:
        load = connected(server, plan_of(connections=4, rate=500.0, window=64))
        (counts,) = carried(load, 0.5).values()
    assert counts.sent == 250 == load.lateness.count


def test_arrivals_by_poisson_are_as_many_on_average() -> None:
    with serving() as server:
        load = connected(server, plan_of(connections=4, rate=4000.0, poisson=True, window=1024))
        (counts,) = carried(load, 0.5).values()
    assert abs(counts.sent - 2000) < 5 * 2000**0.5


def test_ending_early_measures_what_there_was() -> None:
    with serving() as server:
        load = connected(server, plan_of(window=4))
        start = time.monotonic_ns()
        load.begin(start, start, start + 3600 * 1000 * MILLISECOND)
        while time.monotonic_ns() < start + 100 * MILLISECOND:
            load.step(start + 100 * MILLISECOND)
        load.end()
        while not load.drained:
            load.step(time.monotonic_ns() + 20 * MILLISECOND)
        counts = load.results()["get"]
        load.close()
    assert counts.latency.count == counts.answered == counts.sent > 0


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\nServer: another\r\n\r\n", b"\0\0\0\x01x" * 20])
def test_another_protocol_is_recognised(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plan = plan_of()
        load = Load(
            plan, 0, [(int(socket.AF_INET), tuple(listener.getsockname()))], templates(plan.root, 10, 10, 1)
        )
        load.step(time.monotonic_ns() + 20 * MILLISECOND)
        peer, _ = listener.accept()
        with peer:
            peer.sendall(greeting)
            deadline = time.monotonic() + 5
            while "no ZooKeeper protocol" not in load.problem:
                assert time.monotonic() < deadline, load.problem
                load.step(time.monotonic_ns() + 20 * MILLISECOND)
        load.close(0.1)
