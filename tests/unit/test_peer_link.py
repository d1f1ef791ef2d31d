"""One link between servers, with a stand-in for the event loop's transport: whose memory is used when, what is sent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any, cast

import pytest
from xxhash import xxh3_64_intdigest

from fastzk.server._peer_link import KEEP_ALIVE, MAX_FRAME_BYTES, Bytes, FrameCallback, PeerLink

BUFFER_BYTES = 256 << 10


def framed(body: bytes) -> bytes:
    return struct.pack("<IQ", len(body), xxh3_64_intdigest(body)) + body


class Transport:
    """What a link needs of a transport; ``written`` is what it was given to send."""

    def __init__(self, tls: bool = False) -> None:
        self.tls = tls
        self.closing = False
        self.written = bytearray()
        self.waiting = 0

    def get_extra_info(self, name: str) -> object:
        return self.tls or None if name == "sslcontext" else None

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def writelines(self, parts: list[bytes]) -> None:
        for part in parts:
            self.written += part
            self.waiting += len(part)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def pause_reading(self) -> None:
        pass

    resume_reading = write_eof = close = pause_reading


class Side:
    """A link, its transport, and the other end of its socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, kind: int, tls: bool) -> None:
        self.loop = loop
        self.sock, self.other = socket.socketpair(socket.AF_UNIX, kind)
        self.sock.setblocking(False)
        self.other.setblocking(False)
        self.transport = Transport(tls)
        self.reasons: list[str] = []
        self.failures: list[BaseException] = []
        self.frames: list[bytes] = []
        self.link = PeerLink(
            loop,
            self.sock,
            on_closed=lambda link, reason: self.reasons.append(reason),
            on_failure=self.failures.append,
        )
        self.link.connection_made(cast(asyncio.BaseTransport, self.transport))

    def start(self, on_frame: FrameCallback | None = None) -> PeerLink:
        self.link.start(7, on_frame or (lambda peer, body: self.frames.append(bytes(body))))
        return self.link

    def feed(self, data: bytes, most: int = 1 << 30) -> None:
        """Have the link receive `data`, at most so much at a time, as the event loop does it."""
        while data:
            room = self.link.get_buffer(-1)
            assert len(room) > 0
            with memoryview(cast(bytearray, room)) as view:
                count = min(len(view), len(data), most)
                view[:count] = data[:count]
                self.link.buffer_updated(count)
            data = data[count:]

    def arrived(self) -> list[bytes]:
        """What the kernel took, by messages."""
        messages = []
        with contextlib.suppress(BlockingIOError):
            while message := self.other.recv(1 << 24):
                messages.append(message)
        return messages


@pytest.fixture
def sides() -> Iterator[Any]:
    """Makes a ``Side``; a socket of packets shows what left together."""
    loop = asyncio.new_event_loop()
    made: list[Side] = []

    def make(kind: int = socket.SOCK_SEQPACKET, tls: bool = False) -> Side:
        made.append(Side(loop, kind, tls))
        return made[-1]

    yield make
    for side in made:
        side.sock.close()
        side.other.close()
    loop.close()


# ---- reading


def test_frames_may_be_split_at_each_byte(sides: Any) -> None:
    bodies = [b"", b"x", b"y" * 30, b"", b"z" * 5]
    stream = b"".join(framed(body) + KEEP_ALIVE for body in bodies)
    for cut in range(len(stream) + 1):
        side = sides()
        side.start()
        side.feed(stream[:cut])
        side.feed(stream[cut:])
        assert side.frames == bodies
        assert side.link.unread == 0
    side = sides()
    side.start()
    side.feed(stream, 1)
    assert side.frames == bodies
    assert side.reasons == side.failures == []


def test_frames_larger_than_the_buffer(sides: Any) -> None:
    generator = random.Random(3)
    sizes = [BUFFER_BYTES - 13, BUFFER_BYTES - 12, BUFFER_BYTES - 11, BUFFER_BYTES, 10, 3 << 20, 10, 1 << 20]
    bodies = [generator.randbytes(size) for size in sizes]
    for most in (1 << 30, 65_537, 4095):
        side = sides()
        side.start()
        side.feed(b"".join(map(framed, bodies)), most)
        assert side.frames == bodies
        assert side.link.size <= (3 << 20) + 12


def test_a_view_that_is_kept_never_shows_freed_memory(sides: Any) -> None:
    kept: list[memoryview] = []
    side = sides()

    def keep(peer: int, body: memoryview) -> None:
        kept.append(body)
        if bytes(body[:4]) == b"last":
            side.link.drop("enough")

    side.start(keep)
    side.feed(framed(b"first"))
    side.feed(framed(bytes(3 << 20)))  # a larger buffer
    side.link.check(0.0, 1e9, 1e9)
    side.link.check(0.0, 1e9, 1e9)  # and the usual one again
    assert side.link.size == BUFFER_BYTES
    side.feed(framed(b"last one") + framed(b"of nobody"))
    assert side.reasons == ["enough"]
    assert len(kept) == 3
    side.link.connection_lost(None)
    del side.link
    gc.collect()
    assert [bytearray(BUFFER_BYTES) for _ in range(20)]  # where the buffers were, if they are no more
    assert bytes(kept[0]) == bytes(5)  # of the second frame, which came to the same place
    assert bytes(kept[1]) == bytes(3 << 20)
    assert bytes(kept[2]) == b"last one"
    with pytest.raises(TypeError):
        kept[2][0] = 1


def test_the_event_loop_may_hold_a_buffer_that_is_no_more(sides: Any) -> None:
    side = sides()
    held = memoryview(side.link.get_buffer(-1))
    side.start()  # it has a larger one now
    gc.collect()
    held[:] = b"\xff" * len(held)
    side.feed(framed(b"x"))
    assert side.frames == [b"x"]
    held = memoryview(side.link.get_buffer(-1))
    size = len(held)
    side.link.drop("over")
    del side.link
    gc.collect()
    held[:] = b"\xff" * size
    assert held.obj is not None
    assert (held.format, held.itemsize, held.shape, held.strides) == ("B", 1, (size,), (1,))


def test_a_callback_may_send_and_end_the_link(sides: Any) -> None:
    for end in ("drop", "close"):
        side = sides()

        def answer(peer: int, body: memoryview, side: Side = side, end: str = end) -> None:
            side.frames.append(bytes(body))
            side.link.send((b"answer to ", body))
            side.link.flush()
            if bytes(body) == b"2":
                getattr(side.link, end)("the end")
                side.link.send((b"nothing",))
                side.link.flush()

        side.start(answer)
        side.feed(b"".join(map(framed, (b"1", b"2", b"3"))))
        assert side.frames == [b"1", b"2"]
        assert side.arrived() == [framed(b"answer to 1"), framed(b"answer to 2")]
        side.feed(framed(b"4"))
        assert side.frames == [b"1", b"2"]
        assert side.reasons == ["the end"]


# ---- writing


def test_all_frames_of_a_turn_leave_in_one_send(sides: Any) -> None:
    side = sides()
    link = side.start()
    small: list[tuple[Bytes, ...]] = [(b"a" * size, b"", b"b" * 3) for size in range(50)]
    for buffers in small:
        link.send(buffers)
    stream = b"".join(framed(b"".join(buffers)) for buffers in small)
    assert link.queued == link.pending == len(stream)
    assert side.arrived() == []
    link.flush()
    link.flush()
    assert side.arrived() == [stream]
    assert link.queued == link.pending == 0
    # With large buffers among them, too.
    large: list[tuple[Bytes, ...]] = [
        (b"head", b"x" * 30_000, b"tail"),
        (b"y" * 20_000,),
        (b"z",),
        (b"1" * 16_000, memoryview(b"2" * 16_000)),
    ]
    for buffers in large:
        link.send(buffers)
    link.flush()
    assert side.arrived() == [b"".join(framed(b"".join(buffers)) for buffers in large)]
    assert side.transport.written == b""


def test_frames_of_all_sizes(sides: Any) -> None:
    generator = random.Random(5)
    sizes = [0, 1, 4096, 16383, 16384, 16385, 65535, 65536, 65537, 100_000]
    for size in sizes + [generator.randrange(40_000) for _ in range(200)]:
        body = generator.randbytes(size)
        cuts = sorted(generator.randrange(size + 1) for _ in range(generator.randrange(4)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
        kinds = (bytes, bytearray, memoryview)
        side = sides(socket.SOCK_STREAM)
        side.start()
        side.link.send(tuple(generator.choice(kinds)(piece) for piece in pieces))
        side.link.flush()
        assert b"".join(side.arrived()) + side.transport.written == framed(body)
        side.sock.close()
        side.other.close()


def test_memory_of_small_buffers_is_free_at_once_of_large_ones_after_the_flush(sides: Any) -> None:
    side = sides(socket.SOCK_STREAM)
    link = side.start()
    small, large = bytearray(b"s" * 16_000), bytearray(b"l" * (2 << 20))
    link.send((small,))
    small[:] = bytes(len(small))
    link.send((memoryview(large), b"."))
    link.flush()
    large[:] = bytes(len(large))
    large.append(0)  # nobody has a buffer of it any more
    assert link.backlog
    assert side.transport.written
    stream = b"".join(side.arrived()) + side.transport.written
    assert stream == framed(b"s" * 16_000) + framed(b"l" * (2 << 20) + b".")


def test_what_the_kernel_does_not_take_goes_through_the_transport_in_order(sides: Any) -> None:
    for size in (1000, 30_000):
        side = sides(socket.SOCK_STREAM)
        link = side.start()
        body, count = b"x" * size, 0
        while not link.backlog:
            link.send((body,))
            link.flush()
            count += 1
        assert link.pending == side.transport.waiting > 0
        received = b"".join(side.arrived())  # the kernel has room again, but what waits comes first
        link.send((b"behind",))
        link.flush()
        assert side.arrived() == []
        received += side.transport.written
        assert received == framed(body) * count + framed(b"behind")
        side.transport.waiting = 0
        side.transport.written.clear()
        link.send((b"past it",))
        link.flush()
        assert not link.backlog
        assert side.arrived() == [framed(b"past it")]
        assert side.transport.written == b""


def test_a_link_whose_transport_closes_sends_nothing(sides: Any) -> None:
    for body in (b"x", b"x" * 100_000):
        side = sides()
        link = side.start()
        link.send((body,))
        side.transport.closing = True
        link.flush()
        assert link.queued == 0
        assert side.arrived() == []
        assert side.transport.written == b""
        assert side.reasons == []  # the event loop says it


def test_a_link_that_is_over_does_not_touch_the_number_of_its_socket(sides: Any) -> None:
    for end in ("drop", "connection_lost", "close"):
        side = sides()
        link = side.start()
        link.send((b"unsent",))
        if end == "connection_lost":
            link.connection_lost(None)
        else:
            getattr(link, end)("over")
        side.arrived()
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with first, second:
            os.dup2(first.fileno(), side.sock.fileno())  # the number is somebody else's now
            second.setblocking(False)
            for body in (b"x", b"x" * 100_000):
                link.send((body,))
                link.flush()
            link.check(0.0, 0.0, 1e9)
            assert link.queued == 0
            with pytest.raises(BlockingIOError):
                second.recv(1)


def test_a_connection_that_is_gone_ends_the_link(sides: Any) -> None:
    for buffers in ((b"x",), (b"x" * 100_000, b"y")):
        side = sides(socket.SOCK_STREAM)
        link = side.start()
        side.other.close()
        link.send(buffers)
        link.flush()
        assert side.reasons == ["connection lost: [Errno 32] Broken pipe"]
        assert side.transport.closing
        assert link.queued == 0


def test_with_tls_all_goes_to_the_transport(sides: Any) -> None:
    side = sides(tls=True)
    link = side.start()
    link.send((b"x",))
    link.send((b"y" * 100_000, b"z"))
    link.flush()
    link.send((b"more",))
    link.flush()
    assert side.arrived() == []
    assert side.transport.written == framed(b"x") + framed(b"y" * 100_000 + b"z") + framed(b"more")


def test_a_frame_that_cannot_be_sent_leaves_no_trace(sides: Any) -> None:
    side = sides()
    link = side.start()
    link.send((b"before",))
    wide = memoryview(bytearray(16)).cast("q")
    for buffers in ((b"x", wide), (b"x", memoryview(b"abcdef")[::2]), (memoryview(b"x" * 50_000)[::2],)):
        with pytest.raises((ValueError, BufferError)):
            link.send(cast(tuple[Bytes, ...], buffers))
    with pytest.raises(ValueError, match="limit"):
        link.send((bytes(MAX_FRAME_BYTES), b"x"))
    with pytest.raises(TypeError):
        link.send(cast(tuple[Bytes, ...], (b"x", 1)))
    link.send((b"behind",))
    assert link.queued == len(framed(b"before") + framed(b"behind"))
    link.flush()
    assert side.arrived() == [framed(b"before") + framed(b"behind")]


def test_a_keep_alive_where_nothing_was_sent(sides: Any) -> None:
    side = sides()
    link = side.start()
    link.excuse(1e9, 1e9)  # it was heard of at that time
    link.check(1e9, 0.5, 4.0)
    assert side.arrived() == [KEEP_ALIVE]
    link.check(1e9 + 0.49, 0.5, 4.0)
    assert side.arrived() == []
    link.check(1e9 + 0.5, 0.5, 4.0)
    assert side.arrived() == [KEEP_ALIVE]
    link.check(1e9 + 3.9, 9.0, 4.0)
    assert side.reasons == []
    link.check(1e9 + 4.1, 9.0, 4.0)
    assert side.reasons == ["nothing heard for 4100 ms"]
