"""Links between servers, over real sockets: frames, faults of the network, strangers, membership, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hmac
import logging
import os
import random
import re
import secrets
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support import certificates
from support.certificates import Files
from xxhash import xxh3_64_intdigest

from fastzk.server import peer_dialer
from fastzk.server import peers as peers_module
from fastzk.server._peer_link import HANDSHAKE_BYTES, KEEP_ALIVE, MAX_FRAME_BYTES, PeerLink
from fastzk.server.peer_address import FRESH_SECONDS, Resolver, ip_address
from fastzk.server.peer_auth import VERSIONS, Credentials, certificate_names
from fastzk.server.peer_auth import dial as dial_handshake
from fastzk.server.peer_dialer import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Backoff
from fastzk.server.peers import Peers, PeerTls

HEADER = struct.Struct("<IQ")
SECRET = b"a secret that all of them share"
SECONDS = 20.0  # a deadline for what takes milliseconds


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test on the server's own event loop; no task of anybody may be left at its end."""

    async def whole() -> None:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async with asyncio.timeout(60):
            await main
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        gc.collect()  # futures whose exception nobody saw complain when they go
        await asyncio.sleep(0)
        assert not problems

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, and fail if it does not come true in time."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def bound(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock


def framed(body: bytes) -> bytes:
    return HEADER.pack(len(body), xxh3_64_intdigest(body)) + body


class Node:
    """A server's links, and all that was heard of them."""

    def __init__(self, my_id: int, host: str = "127.0.0.1", port: int = 0, **settings: Any) -> None:
        self.id = my_id
        self.listener = bound(host, port)
        self.port: int = self.listener.getsockname()[1]
        self.host = host
        self.frames: list[tuple[int, bytes]] = []
        self.events: list[tuple[str, int]] = []
        self.reasons: list[str] = []
        self.failures: list[BaseException] = []
        self.up: set[int] = set()
        self.on_frame: Callable[[int, memoryview], object] = lambda peer, body: self.frames.append((peer, bytes(body)))
        self.peers = Peers(
            asyncio.get_running_loop(),
            my_id,
            self.listener,
            on_frame=self._frame,
            on_connected=self._connected,
            on_disconnected=self._disconnected,
            on_failure=self.failures.append,
            **{"keep_alive_ms": 50, "silence_ms": 5000, "secret": SECRET, **settings},
        )

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def _frame(self, peer: int, body: memoryview) -> None:
        assert peer in self.up
        self.on_frame(peer, body)

    def _connected(self, peer: int) -> None:
        assert peer not in self.up
        self.up.add(peer)
        self.events.append(("up", peer))

    def _disconnected(self, peer: int, reason: str) -> None:
        assert reason
        self.up.remove(peer)
        self.events.append(("down", peer))
        self.reasons.append(reason)

    def start(self, members: Mapping[int, tuple[str, int]]) -> None:
        self.peers.set_members(members)
        self.peers.start()

    async def stop(self) -> None:
        self.peers.close()
        assert not self.up
        await self.peers.wait_closed()
        for peer in {peer for _, peer in self.events}:
            mine = [event for event, other in self.events if other == peer]
            assert mine == ["up", "down"] * (len(mine) // 2)
        assert self.failures == []


@asynccontextmanager
async def pair(first: dict[str, Any] | None = None, second: dict[str, Any] | None = None, **both: Any) -> Any:
    """Servers 1 and 2 with a link; the second one dials."""
    one, two = Node(1, **{**both, **(first or {})}), Node(2, **{**both, **(second or {})})
    members = {1: one.address, 2: two.address}
    one.start(members)
    two.start(members)
    try:
        await until(lambda: one.up and two.up)
        yield one, two
    finally:
        await two.stop()
        await one.stop()


class Proxy:
    """A TCP proxy before a server. ``chunk``: bytes passed on at once; ``alter`` (up, bytes) may change them."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.chunk = 1 << 16
        self.alter: Callable[[bool, bytes], bytes] = lambda up, data: data
        self.stalled = {True: False, False: False}
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            their_reader, their_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        self.writers += [writer, their_writer]
        await asyncio.gather(self._pass(True, reader, their_writer), self._pass(False, their_reader, writer))
        writer.transport.abort()
        their_writer.transport.abort()

    async def _pass(self, up: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(self.chunk):
                while self.stalled[up] and not writer.is_closing():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                writer.write(self.alter(up, data))
                await writer.drain()
                if self.chunk < 100:
                    await asyncio.sleep(0)
        except (OSError, RuntimeError):  # uvloop raises the latter for a transport that is gone
            pass
        finally:
            writer.close()


@asynccontextmanager
async def proxied(**settings: Any) -> Any:
    """Servers 1 and 2, the second one behind a proxy to the first."""
    one, two = Node(1, **settings), Node(2, **settings)
    async with Proxy(one.address) as proxy:
        try:
            yield one, two, proxy
        finally:
            await two.stop()
            await one.stop()


def link_through(one: Node, two: Node, proxy: Proxy) -> None:
    one.start({1: one.address, 2: two.address})
    two.start({1: proxy.address, 2: two.address})


# ---- frames


def test_frames_of_all_sizes_in_both_directions() -> None:
    async def main() -> None:
        generator = random.Random(1)
        sizes = [0, 1, 11, 12, 13, 4083, 4084, 4095, 4096, 4097, 65536, (256 << 10) - 12, 256 << 10, 1 << 20, 8 << 20]
        sizes += [generator.randrange(300) for _ in range(3000)] + [1 << 20, 8 << 20, 0, 5]
        bodies = [generator.randbytes(size) for size in sizes]
        async with pair() as (one, two):
            for body in bodies:
                for node, other in ((one, 2), (two, 1)):
                    cut = generator.randrange(len(body) + 1)
                    node.peers.send(other, body[:cut], memoryview(body)[cut:])
            await until(lambda: len(one.frames) == len(two.frames) == len(bodies))
            assert one.frames == [(2, body) for body in bodies]
            assert two.frames == [(1, body) for body in bodies]
            assert one.peers.pending(2) == two.peers.pending(1) == 0

    run(main())


def test_frames_through_a_proxy_that_splits_them_anywhere() -> None:
    async def main() -> None:
        generator = random.Random(2)
        bodies = [generator.randbytes(generator.choice([0, 1, 5, 40, 300])) for _ in range(40)]
        for chunk in (1, 7):
            async with proxied() as (one, two, proxy):
                proxy.chunk = chunk
                link_through(one, two, proxy)
                await until(lambda: one.up and two.up)
                for body in bodies:
                    one.peers.send(2, body)
                    two.peers.send(1, body)
                await until(lambda: len(one.frames) == len(two.frames) == len(bodies))
                assert [body for _, body in one.frames] == [body for _, body in two.frames] == bodies

    run(main())


class Idle(asyncio.Transport):
    """A transport that has nothing to do."""

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def test_all_frames_of_a_turn_leave_in_one_send_and_memory_is_free_after_flush() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            payload = bytearray(6 << 20)  # more than the kernel takes at once
            for round_number in range(5):
                payload[:] = bytes([round_number]) * len(payload)
                two.peers.send(1, b"head", memoryview(payload))
                two.peers.flush()
                payload[:] = b"\xff" * len(payload)
            await until(lambda: len(one.frames) == 5)
            assert [body for _, body in one.frames] == [b"head" + bytes([n]) * len(payload) for n in range(5)]
            for _ in range(10):
                two.peers.send(1, b"x" * 100)
            await until(lambda: len(one.frames) == 15)
            # A socket of packets shows what was sent together.
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            link = two.peers._link(ours)
            with theirs:
                ours.setblocking(False)
                theirs.setblocking(False)
                link.connection_made(Idle())
                two.peers._links[3] = link
                for _ in range(10):
                    two.peers.send(3, b"x" * 100)
                assert link.queued == 10 * 112
                with pytest.raises(BlockingIOError):
                    theirs.recv(1)
                await until(lambda: link.queued == 0)
                packets = [theirs.recv(10_000)]
                with contextlib.suppress(BlockingIOError):
                    packets += [theirs.recv(10_000) for _ in range(100)]
                assert [len(packet) for packet in packets if len(packet) > 12] == [10 * 112]
                del two.peers._links[3]
                ours.close()

    run(main())


def test_what_is_sent_along_waits_for_company() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            link: PeerLink = two.peers._links[1]
            two.peers.send_along(1, b"a", b"long")
            two.peers.post(1, (b"this, ", b"too"), True)
            for _ in range(5):
                await asyncio.sleep(0)
            two.peers.hurry()
            assert link.queued == 2 * 12 + 14
            two.peers.post(7, (b"to nobody",))  # but company
            await until(lambda: len(one.frames) == 2)
            two.peers.send_along(1, b"3")
            two.peers.send(1, b"4")
            two.peers.hurry()
            assert link.queued == 0
            await until(lambda: len(one.frames) == 4)
            assert one.frames == [(2, b"along"), (2, b"this, too"), (2, b"3"), (2, b"4")]

    run(main())


def test_frames_right_behind_the_handshake() -> None:
    async def main() -> None:
        for first in (1, 5000, 300_000):
            one, two = Node(1), Node(2)
            bodies = [bytes(first), b"x", bytes(1 << 20)]
            told = one.peers._on_connected

            def send_at_once(peer: int) -> None:
                told(peer)  # noqa: B023
                for body in bodies:  # noqa: B023
                    one.peers.send(peer, body)  # noqa: B023
                one.peers.flush()  # noqa: B023

            one.peers._on_connected = send_at_once
            members = {1: one.address, 2: two.address}
            one.start(members)
            two.start(members)
            await until(lambda: len(two.frames) == 3)  # noqa: B023
            assert [body for _, body in two.frames] == bodies
            assert two.reasons == []
            await asyncio.gather(one.stop(), two.stop())

    run(main())


def test_the_body_is_a_view_that_cannot_be_written() -> None:
    async def main() -> None:
        seen: list[tuple[bool, type]] = []
        async with pair() as (one, two):
            one.on_frame = lambda peer, body: seen.append((body.readonly, type(body)))
            two.peers.send(1, b"x")
            await until(lambda: seen)
            assert seen == [(True, memoryview)]

    run(main())


def test_frames_are_limited() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            with pytest.raises(ValueError, match="limit"):
                two.peers.send(1, b"x", memoryview(bytearray(MAX_FRAME_BYTES)))
            two.peers.send(7, b"to nobody")
            assert two.peers.pending(7) == 0
            two.peers.send(1, b"goes on")
            await until(lambda: one.frames)

    run(main())


def test_a_claimed_length_takes_no_memory_and_a_used_buffer_is_given_back() -> None:
    async def main() -> None:
        async with pair() as (one, two):
            link: PeerLink = two.peers._links[1]
            transport = link.transport
            assert transport is not None
            transport.write(HEADER.pack(MAX_FRAME_BYTES, 1) + b"x" * 1000)
            reader: PeerLink = one.peers._links[2]
            await until(lambda: reader.unread == 1012)
            assert reader.size <= 256 << 10
        async with pair() as (one, two):
            reader = one.peers._links[2]
            two.peers.send(1, bytes(8 << 20))
            await until(lambda: one.frames)
            assert reader.size <= 8 << 20 | 12
            await until(lambda: reader.size == 256 << 10)
            two.peers.send(1, b"goes on")
            await until(lambda: len(one.frames) == 2)

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_what_was_corrupted_is_never_delivered(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(peer_dialer, "LASTING_SECONDS", 0.0)  # short lives are what this test makes
        generator = random.Random(seed)
        async with proxied(silence_ms=300, keep_alive_ms=30) as (one, two, proxy):
            armed = {True: False, False: False}

            def corrupt(up: bool, data: bytes) -> bytes:
                if not armed[up]:
                    return data
                armed[up] = False
                offset = generator.randrange(min(len(data), 2000))
                flipped = data[offset] ^ (1 << generator.randrange(8))
                return data[:offset] + bytes([flipped]) + data[offset + 1 :]

            proxy.alter = corrupt
            link_through(one, two, proxy)
            allowed = {generator.randbytes(generator.randrange(1, 200)) for _ in range(20)}
            for round_number in range(25):
                await until(lambda: one.up and two.up)
                for body in allowed:
                    one.peers.send(2, body)
                    two.peers.send(1, body)
                downs = len(one.reasons) + len(two.reasons)
                while len(one.reasons) + len(two.reasons) == downs:
                    # Once is enough, but a slow machine may make a new connection just then: it gets no further
                    # than the handshake, which leaves no trace here.
                    armed[bool(round_number % 2)] = True
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await until(lambda: len(one.reasons) + len(two.reasons) > downs)  # noqa: B023
            await until(lambda: one.up and two.up)
            assert {body for _, body in one.frames + two.frames} <= allowed
            words = ("checksum", "a frame of", "nothing heard", "closed", "connection lost", "replaced")
            assert all(any(word in reason for word in words) for reason in one.reasons + two.reasons)

    run(main())


def test_a_callback_that_fails_is_told_and_ends_the_link() -> None:
    async def main() -> None:
        one, two = Node(1), Node(2)
        members = {1: one.address, 2: two.address}
        one.start(members)
        two.start(members)
        await until(lambda: one.up and two.up)

        def fail(peer: int, body: memoryview) -> None:
            raise RuntimeError("no such message")

        one.on_frame = fail
        two.peers.send(1, b"x")
        await until(lambda: one.failures)
        assert str(one.failures.pop()) == "no such message"
        await until(lambda: ("down", 2) in one.events)
        await two.stop()
        await one.stop()

    run(main())


# ---- the network fails


def test_a_link_that_was_cut_is_made_anew() -> None:
    async def main() -> None:
        async with proxied() as (one, two, proxy):
            link_through(one, two, proxy)
            for round_number in range(5):
                await until(lambda: one.up and two.up)
                two.peers.send(1, b"%d" % round_number)
                await until(lambda: len(one.frames) == round_number + 1)  # noqa: B023
                proxy.cut()
                await until(lambda: one.events.count(("down", 2)) == round_number + 1)  # noqa: B023
                await until(lambda: two.events.count(("down", 1)) == round_number + 1)  # noqa: B023

    run(main())


def test_half_a_connection_is_none() -> None:
    async def main() -> None:
        async with proxied() as (one, two, proxy):
            link_through(one, two, proxy)
            await until(lambda: one.up and two.up)
            proxy.writers[1].write_eof()
            await until(lambda: two.events[:2] == [("up", 1), ("down", 1)])
            await until(lambda: one.events[:2] == [("up", 2), ("down", 2)])
            await until(lambda: one.up and two.up)

    run(main())


@pytest.mark.parametrize("direction", [True, False])
def test_a_link_that_carries_nothing_any_more_is_noticed(direction: bool) -> None:
    async def main() -> None:
        async with proxied(silence_ms=300, keep_alive_ms=50) as (one, two, proxy):
            link_through(one, two, proxy)
            await until(lambda: one.up and two.up)
            deaf = one if direction else two
            proxy.stalled[direction] = True
            await until(lambda: any("nothing heard" in reason for reason in deaf.reasons))
            proxy.stalled[direction] = False
            await until(lambda: one.up and two.up)

    run(main())


def test_keep_alives_keep_an_idle_link_and_reach_nobody() -> None:
    async def main() -> None:
        async with pair(silence_ms=200, keep_alive_ms=20) as (one, two):
            await asyncio.sleep(0.8)
            assert one.events == [("up", 2)]
            assert two.events == [("up", 1)]
            assert one.frames == two.frames == []

    run(main())


def test_keep_alives_within_a_wrong_frame_are_no_sign_of_life() -> None:
    async def main() -> None:
        async with pair(silence_ms=300, keep_alive_ms=20) as (one, two):
            transport = two.peers._links[1].transport
            transport.write(HEADER.pack(MAX_FRAME_BYTES, 1))
            await until(lambda: any("nothing heard" in reason for reason in one.reasons))

    run(main())


def test_a_process_that_did_not_run_does_not_blame_its_peers() -> None:
    async def main() -> None:
        async with pair(silence_ms=300, keep_alive_ms=20) as (one, two):
            deadline = asyncio.get_running_loop().time() + 0.6
            # Both ends are in this process: neither ran.
            os.read(pause(0.6), 1)
            await until(lambda: asyncio.get_running_loop().time() > deadline + 0.2)
            assert one.reasons == two.reasons == []

    run(main())


def pause(seconds: float) -> int:
    """A descriptor that becomes readable after so long."""
    import threading

    end, other = os.pipe()
    threading.Timer(seconds, lambda: (os.write(other, b"x"), os.close(other))).start()
    return end


def test_a_peer_that_reads_nothing_is_given_up_at_the_limit() -> None:
    async def main() -> None:
        async with proxied(max_pending=4 << 20) as (one, two, proxy):
            link_through(one, two, proxy)
            await until(lambda: one.up and two.up)
            proxy.stalled[True] = True
            block = bytes(256 << 10)
            highest = 0
            while ("down", 1) not in two.events:
                two.peers.send(1, block)
                assert two.peers.pending(1) <= 4 << 20
                highest = max(highest, two.peers.pending(1))
                await asyncio.sleep(0)
            assert highest > 3 << 20
            assert "bytes unsent" in two.reasons[0]
            proxy.stalled[True] = False
            await until(lambda: one.up and two.up)

    run(main())


def test_callbacks_do_not_come_from_within_send() -> None:
    async def main() -> None:
        async with pair(max_pending=1 << 20) as (_, two):
            for _ in range(3):
                two.peers.send(1, bytes(30 << 20))
            assert two.up == {1}  # it is over, and was not told yet
            assert two.peers.pending(1) == 0
            await until(lambda: two.events[:3] == [("up", 1), ("down", 1), ("up", 1)])

    run(main())


def test_both_restart_at_once() -> None:
    async def main() -> None:
        one, two = Node(1), Node(2)
        members = {1: one.address, 2: two.address}
        for _ in range(5):
            one.start(members)
            two.start(members)
            await until(lambda: one.up and two.up)  # noqa: B023
            await asyncio.gather(one.stop(), two.stop())
            one, two = Node(1, port=members[1][1]), Node(2, port=members[2][1])
        await asyncio.gather(one.stop(), two.stop())

    run(main())


def test_five_servers_under_churn() -> None:
    async def main() -> None:
        generator = random.Random(5)
        nodes = {number: Node(number) for number in range(1, 6)}
        members = {number: node.address for number, node in nodes.items()}
        for node in nodes.values():
            node.start(members)

        def whole() -> bool:
            return all(node.up == nodes.keys() - {node.id} for node in nodes.values())

        await until(whole)
        for _ in range(60):
            victim = generator.choice(list(nodes.values()))
            others = sorted(victim.up)
            if others and generator.random() < 0.6:
                victim.peers.drop(generator.choice(others), "for the test")
            else:
                await victim.stop()
                nodes[victim.id] = Node(victim.id, port=members[victim.id][1])
                nodes[victim.id].start(members)
            for node in nodes.values():
                for other in members:
                    node.peers.send(other, bytes([node.id]) * generator.randrange(1, 100))
            await asyncio.sleep(generator.random() * 0.02)
        await until(whole)
        before = {number: len(node.frames) for number, node in nodes.items()}
        for node in nodes.values():
            for other in members:
                node.peers.send(other, bytes([node.id]))
        await until(lambda: all(len(node.frames) >= before[number] + 4 for number, node in nodes.items()))
        for node in nodes.values():
            assert all(set(body) == {peer} for peer, body in node.frames)
        await asyncio.gather(*(node.stop() for node in nodes.values()))

    run(main())


def test_pauses_between_attempts_grow_to_a_limit_and_differ() -> None:
    backoff = Backoff()
    pauses = [backoff.next() for _ in range(12)]
    for number, pause_seconds in enumerate(pauses):
        longest = min(FIRST_PAUSE_SECONDS * 2**number, LONGEST_PAUSE_SECONDS)
        assert longest / 2 <= pause_seconds <= longest
    backoff.reset()
    assert backoff.next() <= FIRST_PAUSE_SECONDS
    assert len({Backoff().next() for _ in range(10)}) > 1


# ---- strangers


class Stranger:
    """A connection to a server's port that speaks frames by hand."""

    def __init__(self, node: Node) -> None:
        self.sock = socket.create_connection(node.address)
        self.sock.setblocking(False)

    async def __aenter__(self) -> Stranger:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    async def receive(self) -> bytes:
        header = await self._exactly(HEADER.size)
        length, checksum = HEADER.unpack(header)
        body = await self._exactly(length)
        assert xxh3_64_intdigest(body) == checksum
        return body

    async def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = await asyncio.get_running_loop().sock_recv(self.sock, count - len(data))
            if not more:
                raise EOFError(data)
            data += more
        return data

    def send(self, buffers: tuple[bytes]) -> None:
        self.sock.sendall(framed(b"".join(buffers)))

    def flush(self) -> None:
        """Nothing is kept back."""

    async def all(self) -> bytes:
        """Everything until the other side closes."""
        data = b""
        try:
            while more := await asyncio.get_running_loop().sock_recv(self.sock, 65536):
                data += more
        except ConnectionError:
            pass
        return data


async def refused(node: Node, act: Callable[[Stranger], Awaitable[None]]) -> None:
    """A stranger gets a nonce and a closed connection for what it does, and nothing changes."""
    before = list(node.events), list(node.frames), set(node.up)
    async with Stranger(node) as stranger:
        challenge = await stranger.receive()
        assert len(challenge) == 32
        stranger.challenge = challenge  # type: ignore[attr-defined]
        await act(stranger)
        async with asyncio.timeout(SECONDS):
            assert await stranger.all() == b""
    assert (node.events, node.frames, node.up) == before


def hello(
    challenge: bytes,
    *,
    dialer: int = 2,
    acceptor: int = 1,
    secret: bytes = SECRET,
    ensemble: str = "",
    versions: tuple[int, int] = VERSIONS,
) -> bytes:
    text = struct.pack("<4sHHqq32s", b"fzkP", *versions, dialer, acceptor, secrets.token_bytes(32))
    said = b"fastzk peers: dialer\0" + challenge + text + ensemble.encode()
    return text + hmac.digest(secret, said, "sha256")


def say(make: Callable[[bytes], bytes]) -> Callable[[Stranger], Awaitable[None]]:
    """A stranger that answers the challenge with a frame, and some more behind it."""

    async def act(stranger: Stranger) -> None:
        stranger.sock.sendall(framed(make(stranger.challenge)) + framed(b"a message"))  # type: ignore[attr-defined]

    return act


def test_strangers_learn_and_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        generator = random.Random(6)
        async with pair() as (one, two):
            lines = {
                "another one": [
                    say(lambda challenge: hello(challenge, secret=b"x" * 20)),
                    say(lambda challenge: hello(challenge, ensemble="another")),
                    say(lambda challenge: hello(bytes(32))),  # a proof for another challenge
                    say(lambda challenge: hello(challenge)[:-1] + b"\0"),
                    say(lambda challenge: hello(challenge, secret=b"")),
                ],
                "is no member": [say(lambda challenge: hello(challenge, dialer=9))],
                "which is this one": [say(lambda challenge: hello(challenge, dialer=1))],
                "lower id": [say(lambda challenge: hello(challenge, dialer=-4))],
                "looks for server 3": [say(lambda challenge: hello(challenge, acceptor=3))],
                "not a server's handshake": [
                    say(lambda challenge: b""),
                    say(lambda challenge: hello(challenge) + b"x"),
                    say(lambda challenge: b"X" + hello(challenge)[1:]),
                ],
            }
            one.peers.set_members({1: one.address, 2: two.address, -4: two.address})
            for expected, acts in lines.items():
                for act in acts:
                    caplog.clear()
                    one.peers._refused_until = 0.0
                    await refused(one, act)
                    assert expected in caplog.text
                    assert "a secret that" not in caplog.text
            one.peers.set_members({1: one.address, 2: two.address})
            for _ in range(50):
                junk = generator.randbytes(generator.choice([1, 11, 12, 13, 100, 5000, 100_000]))

                async def act(stranger: Stranger, junk: bytes = junk) -> None:
                    try:
                        stranger.sock.sendall(junk)
                        stranger.sock.shutdown(socket.SHUT_WR)
                    except OSError:
                        pass

                await refused(one, act)
            two.peers.send(1, b"still here")
            await until(lambda: one.frames)
            assert one.events == [("up", 2)]

    caplog.set_level(logging.INFO)
    run(main())


def test_a_recorded_handshake_is_worth_nothing() -> None:
    async def main() -> None:
        async with proxied() as (one, two, proxy):
            recorded = b""

            def record(up: bool, data: bytes) -> bytes:
                nonlocal recorded
                if up:
                    recorded += data
                return data

            proxy.alter = record
            link_through(one, two, proxy)
            await until(lambda: one.up and two.up)
            two.peers.send(1, b"the first message")
            await until(lambda: one.frames)

            async def replay(stranger: Stranger) -> None:
                stranger.sock.sendall(recorded)

            await refused(one, replay)

    run(main())


def test_a_dialer_that_recorded_an_acceptor_is_not_fooled(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody listens in the place of server 1, and does not know the secret."""

    async def main() -> None:
        said: list[bytes] = []

        async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(framed(b"c" * 32))
            said.append(await reader.readexactly(12 + 56 + 32))
            welcome = struct.pack("<4sHHH", b"fzkP", VERSIONS[1], *VERSIONS)
            writer.write(framed(welcome + bytes(32)) + framed(b"a message"))
            said.append(await reader.read())
            writer.close()

        server = await asyncio.start_server(impostor, "127.0.0.1", 0)
        two = Node(2)
        two.start({1: server.sockets[0].getsockname()[:2], 2: two.address})
        await until(lambda: len(said) >= 4)
        assert {said[1], said[3]} == {b""}
        assert two.events == two.frames == []
        assert "not server 1, or its secret" in caplog.text
        await two.stop()
        server.close()
        await server.wait_closed()

    caplog.set_level(logging.INFO)
    run(main())


def test_strangers_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(peers_module, "HANDSHAKE_SECONDS", 2 * SECONDS)
        one, two = Node(1, max_strangers=8), Node(2)
        members = {1: one.address, 2: two.address}
        one.start(members)
        socks = [socket.create_connection(one.address) for _ in range(50)]
        await until(lambda: one.peers._accepted == 50)
        assert len(one.peers._strangers) <= 8
        await until(lambda: len(one.peers._tasks) <= 8)
        # With all places taken a server still gets through.
        two.start(members)
        await until(lambda: one.up and two.up)
        # Those who are silent, or say half of something, are gone in time; those who say too much at once.
        monkeypatch.setattr(peers_module, "HANDSHAKE_SECONDS", 0.5)
        talkers = [socket.create_connection(one.address) for _ in range(16)]
        for sock in talkers:
            sock.sendall(HEADER.pack(HANDSHAKE_BYTES - 12, 1))
            sock.sendall(b"x" * 100)
        loud = socket.create_connection(one.address)
        loud.setblocking(False)
        loud.send(HEADER.pack(HANDSHAKE_BYTES, 1))
        await until(lambda: len(one.peers._strangers) <= 7)
        assert all(link.size <= HANDSHAKE_BYTES for link in one.peers._strangers.values())
        await until(lambda: not one.peers._strangers)
        assert one.up == {2}
        for sock in [*socks, *talkers, loud]:
            sock.close()
        await asyncio.gather(one.stop(), two.stop())

    run(main())


def test_refusals_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        one = Node(1)
        one.start({1: one.address, 2: ("127.0.0.1", 1)})
        for _ in range(60):
            await refused(one, say(lambda challenge: b"junk"))
        assert len(caplog.records) == 20
        one.peers._refused_until = 0.0
        await refused(one, say(lambda challenge: b"junk"))
        assert "count=40 and not logged each" in caplog.text
        await one.stop()

    caplog.set_level(logging.WARNING)
    run(main())


def test_the_handshake_by_hand_makes_a_link_that_replaces_the_one_before() -> None:
    async def main() -> None:
        one = Node(1)
        one.start({1: one.address, 2: ("127.0.0.1", 1)})
        own = Credentials(2, SECRET)
        async with Stranger(one) as slow, Stranger(one) as first, Stranger(one) as second:
            challenge = await slow.receive()
            await dial_handshake(first, own, 1)
            await until(lambda: one.up)
            await dial_handshake(second, own, 1)
            await until(lambda: len(one.events) == 3)
            assert one.events == [("up", 2), ("down", 2), ("up", 2)]
            assert await first.all() == b""
            # A connection made earlier that ends its handshake only now is an old one.
            slow.sock.sendall(framed(hello(challenge)))
            await slow.receive()
            assert await slow.all() == b""
            assert len(one.events) == 3
            second.send((b"hello",))
            await until(lambda: one.frames == [(2, b"hello")])
        await one.stop()

    run(main())


def test_versions_are_negotiated_or_the_lack_of_one_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with pair({"versions": (1, 3)}, {"versions": (2, 5)}):
            agreed = re.findall(r"server connected server=(\d) .* version=(\d)", caplog.text)
            assert sorted(agreed) == [("1", "3"), ("2", "3")]
        one, two = Node(1, versions=(1, 2)), Node(2, versions=(3, 4))
        members = {1: one.address, 2: two.address}
        one.start(members)
        two.start(members)
        await until(lambda: "no common version: server 1 speaks 1 to 2, this server 3 to 4" in caplog.text)
        assert "no common version: server 2 speaks 3 to 4, this server 1 to 2" in caplog.text
        assert not one.events
        assert not two.events
        await asyncio.gather(one.stop(), two.stop())

    caplog.set_level(logging.INFO)
    run(main())


def test_secrets_are_never_shown_and_must_be_long_enough() -> None:
    assert "a secret" not in repr(Credentials(1, SECRET))
    with pytest.raises(ValueError, match="16"):
        Credentials(1, b"short")
    with pytest.raises(ValueError, match="versions"):
        Credentials(1, SECRET, versions=(2, 1))


# ---- without a secret: addresses


class Names:
    """A name server."""

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []
        self.down = False

    async def lookup(self, host: str, port: int, **_: Any) -> list[tuple[Any, Any, Any, Any, Any]]:
        self.asked.append(host)
        if self.down:
            raise socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution")
        return [
            (socket.AF_INET6 if ":" in text else socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port))
            for text in self.addresses[host]
        ]


def test_without_a_secret_the_address_decides(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        names = Names(one=["127.0.0.1"], two=["127.0.0.2"])
        loop = asyncio.get_running_loop()
        one = Node(1, secret=None, resolver=Resolver(loop, names.lookup))
        two = Node(2, secret=None, resolver=Resolver(loop, names.lookup))
        members = {1: ("one", one.port), 2: ("two", two.port)}
        one.start(members)
        await refused(one, say(lambda challenge: hello(challenge, secret=b"")))
        assert "but two has another address" in caplog.text
        for _ in range(20):
            await refused(one, say(lambda challenge: hello(challenge, secret=b"")))
        # Not one look-up for each of them.
        assert names.asked.count("two") < 10
        # The server comes from its own address.
        two.start(members)
        await until(lambda: one.up and two.up)
        await asyncio.gather(one.stop(), two.stop())

    caplog.set_level(logging.INFO)
    run(main())


def test_with_a_secret_the_address_does_not_matter() -> None:
    async def main() -> None:
        names = Names(one=["127.0.0.1"], two=["192.0.2.1"])
        loop = asyncio.get_running_loop()
        one = Node(1, resolver=Resolver(loop, names.lookup))
        two = Node(2, resolver=Resolver(loop, names.lookup))
        members = {1: ("one", one.port), 2: ("two", two.port)}
        one.start(members)
        two.start(members)
        await until(lambda: one.up and two.up)
        await asyncio.gather(one.stop(), two.stop())

    run(main())


def test_names_are_looked_up_at_every_attempt_and_all_addresses_tried(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        names = Names(one=["127.0.0.3"], two=["127.0.0.1"])
        loop = asyncio.get_running_loop()
        one = Node(1)
        two = Node(2, resolver=Resolver(loop, names.lookup))
        one.start({1: one.address, 2: two.address})
        two.start({1: ("one", one.port), 2: two.address})
        await until(lambda: names.asked.count("one") > 3)
        assert caplog.text.count("server not reached") == 1
        names.addresses["one"] = ["127.0.0.3", "::1", "127.0.0.1"]
        await until(lambda: one.up and two.up)
        names.down = True
        one.peers.drop(2, "for the test")
        await until(lambda: one.events.count(("up", 2)) == 2)
        assert "its last addresses hold" in caplog.text
        await asyncio.gather(one.stop(), two.stop())

    caplog.set_level(logging.INFO)
    run(main())


def test_addresses_are_fresh_for_a_moment_only_and_looked_up_once_at_a_time() -> None:
    async def main() -> None:
        names = Names(host=["192.0.2.1", "::ffff:192.0.2.2"])
        resolver = Resolver(asyncio.get_running_loop(), names.lookup)
        found = await asyncio.gather(*(resolver.addresses("host") for _ in range(10)))
        assert found == [frozenset({ip_address("192.0.2.1"), ip_address("192.0.2.2")})] * 10
        assert names.asked == ["host"]
        names.addresses["host"] = ["2001:db8::1"]
        await asyncio.sleep(FRESH_SECONDS + 0.05)
        assert await resolver.addresses("host") == {ip_address("2001:db8::1%eth0")}
        resolver.forget(set())
        names.down = True
        with pytest.raises(OSError, match="host: "):
            await resolver.addresses("host")

    run(main())


def test_ipv6() -> None:
    async def main() -> None:
        async with pair(host="::1", secret=None) as (one, two):
            two.peers.send(1, b"x")
            await until(lambda: one.frames == [(2, b"x")])

    try:
        bound("::1").close()
    except OSError:
        pytest.skip("no IPv6 here")
    run(main())


# ---- membership


def test_links_follow_the_members() -> None:
    async def main() -> None:
        nodes = [Node(number) for number in (1, 2, 3)]
        one, two, three = nodes
        members = {node.id: node.address for node in nodes}
        for node in nodes:
            node.start({number: members[number] for number in (1, 2)} if node is not three else {3: members[3]})
        await until(lambda: one.up == {2} and two.up == {1})
        for node in nodes:
            node.peers.set_members(members)
        await until(lambda: one.up == {2, 3} and two.up == {1, 3} and three.up == {1, 2})
        assert one.events.count(("up", 2)) == 1
        for node in (one, two):
            node.peers.set_members({1: members[1], 2: members[2]})
        await until(lambda: one.up == {2} and two.up == {1})
        assert "it is no member any more" in one.reasons
        # Server 1 moves to another port.
        moved = Node(1)
        moved.start({1: moved.address, 2: members[2]})
        two.peers.set_members({1: moved.address, 2: members[2]})
        await until(lambda: two.events.count(("up", 1)) == 2 and moved.up == {2} and not one.up)
        assert "its address changed" in two.reasons
        await asyncio.gather(*(node.stop() for node in [*nodes, moved]))

    run(main())


def test_close_lets_what_was_sent_arrive_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(peers_module, "CLOSE_SECONDS", SECONDS)
        one, two = Node(1), Node(2)
        members = {1: one.address, 2: two.address}
        one.start(members)
        two.start(members)
        await until(lambda: one.up and two.up)
        one.peers.send(2, bytes(20 << 20))  # nobody is going to read this
        two.peers.send(1, bytes(20 << 20))
        await two.stop()
        two.peers.close()
        await until(lambda: one.frames)
        assert len(one.frames[0][1]) == 20 << 20
        await one.stop()
        monkeypatch.setattr(peers_module, "CLOSE_SECONDS", 1.0)
        async with proxied() as (one, two, proxy):
            link_through(one, two, proxy)
            await until(lambda: one.up and two.up)
            proxy.stalled[True] = True
            two.peers.send(1, bytes(60 << 20))
            two.peers.flush()
            began = asyncio.get_running_loop().time()
            await two.stop()
            assert 0.5 < asyncio.get_running_loop().time() - began < 5

    run(main())


def test_settings_that_make_no_sense() -> None:
    async def main() -> None:
        for settings in ({"keep_alive_ms": 300, "silence_ms": 500}, {"secret": b"x"}):
            with pytest.raises(ValueError):  # noqa: PT011
                Node(1, **settings)
        with pytest.raises(ValueError, match="both sides"):
            PeerTls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    run(main())


# ---- TLS


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return certificates.write_files(tmp_path_factory.mktemp("peers"))


def tls(files: Files, name: str = "client", *, authority: Path | None = None, verify_host: bool = True) -> PeerTls:
    contexts = []
    for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(side)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority or files.authority_file)
        context.load_cert_chain(files.certificate_of(name), files.key_of(name))
        contexts.append(context)
    return PeerTls(contexts[0], contexts[1], verify_host)


@pytest.mark.parametrize("secret", [None, SECRET])
def test_frames_over_tls(files: Files, secret: bytes | None) -> None:
    async def main() -> None:
        generator = random.Random(8)
        bodies = [generator.randbytes(size) for size in (70_000, 1, 100, 5000, 1 << 20, 8 << 20, 0, 3)]
        one, two = Node(1, tls=tls(files), secret=secret), Node(2, tls=tls(files), secret=secret)
        members = {1: one.address, 2: two.address}
        # Frames right behind the handshake, more than it may take.
        one._connected = lambda peer: (  # type: ignore[method-assign]
            Node._connected(one, peer),
            [one.peers.send(2, body) for body in bodies],
        )
        one.peers._on_connected = one._connected
        one.start(members)
        two.start(members)
        await until(lambda: one.up and two.up)
        payload = bytearray(2 << 20)
        two.peers.send(1, b"head", memoryview(payload))
        two.peers.flush()
        payload[:] = b"\xff" * len(payload)
        for body in bodies:
            two.peers.send(1, body)
        await until(lambda: len(one.frames) == len(bodies) + 1 and len(two.frames) == len(bodies))
        assert [body for _, body in one.frames] == [b"head" + bytes(2 << 20), *bodies]
        assert [body for _, body in two.frames] == bodies
        plain = Node(3)
        with pytest.raises(ValueError, match="without TLS"):
            plain.peers.set_tls(tls(files))
        await plain.stop()
        two.peers.set_tls(tls(files))
        one.peers.drop(2, "for the test")
        await until(lambda: two.events.count(("up", 1)) == 2)
        await asyncio.gather(one.stop(), two.stop())

    run(main())


@pytest.mark.parametrize("who", ["a stranger dials", "a stranger accepts", "plain text dials", "plain text accepts"])
def test_without_the_right_certificate_there_is_no_link(
    files: Files, caplog: pytest.LogCaptureFixture, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(peers_module, "HANDSHAKE_SECONDS", 0.5)
        wrong = None if "plain" in who else tls(files, "stranger")
        ones, twos = (wrong, tls(files)) if "accepts" in who else (tls(files), wrong)
        one, two = Node(1, tls=ones), Node(2, tls=twos)
        members = {1: one.address, 2: two.address}
        one.start(members)
        two.start(members)
        await until(lambda: caplog.text.count("refused") >= 2 and "server not reached" in caplog.text)
        assert one.events == two.events == []
        await asyncio.gather(one.stop(), two.stop())

    caplog.set_level(logging.INFO)
    run(main())


@pytest.mark.parametrize("wrong", [1, 2])
def test_a_certificate_is_for_the_host_of_its_server(
    files: Files, caplog: pytest.LogCaptureFixture, wrong: int
) -> None:
    async def main() -> None:
        names = Names(localhost=["127.0.0.1"], elsewhere=["127.0.0.1"])
        loop = asyncio.get_running_loop()
        for verify_host in (True, False):
            one, two = (
                Node(number, tls=tls(files, verify_host=verify_host), resolver=Resolver(loop, names.lookup))
                for number in (1, 2)
            )
            hosts = {number: "elsewhere" if number == wrong else "localhost" for number in (1, 2)}
            members = {1: (hosts[1], one.port), 2: (hosts[2], two.port)}
            one.start(members)
            two.start(members)
            if verify_host:
                await until(lambda: f"its certificate is not for elsewhere, server {wrong}" in caplog.text)
                assert one.events == two.events == []
            else:
                await until(lambda: one.up and two.up)  # noqa: B023
            await asyncio.gather(one.stop(), two.stop())

    caplog.set_level(logging.INFO)
    run(main())


def test_names_in_certificates() -> None:
    def certificate(**alternatives: list[str]) -> dict[str, Any]:
        kinds = {"dns": "DNS", "ip": "IP Address"}
        return {
            "subject": ((("commonName", "by-subject.example"),),),
            "subjectAltName": tuple((kinds[kind], name) for kind, names in alternatives.items() for name in names),
        }

    named = certificate(dns=["Zk1.Example.", "*.zk.example", "*.com"], ip=["192.0.2.1", "2001:DB8::1"])
    for host in ("zk1.example", "a.zk.example", "192.0.2.1", "2001:db8:0::1"):
        assert certificate_names(named, host)
    for host in ("zk2.example", "zk.example", "a.b.zk.example", "x.com", "192.0.2.2", "by-subject.example", ""):
        assert not certificate_names(named, host)
    assert certificate_names(certificate(), "by-subject.example")
    assert not certificate_names(certificate(ip=["192.0.2.1"]), "by-subject.example")
    assert not certificate_names({}, "any")


def test_keep_alive_is_not_a_frame_anybody_could_mean() -> None:
    assert framed(b"") != KEEP_ALIVE
    assert bytes(12) != KEEP_ALIVE
