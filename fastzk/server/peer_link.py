"""One framed connection between two servers.

A frame is u32 length of the body, u64 xxh3-64 of the body, body; little-endian. Frames of the length 0 may carry
the checksum ``KEEP_ALIVE`` instead of their own: these only say that the sender lives, and are delivered to nobody.

A link has two phases. In the first its owner asks for one frame after the other (``receive``), and the link
takes no more memory than ``HANDSHAKE_BYTES``; what this phase is good for is in peer_auth.py. ``start`` begins the
second: frames of up to ``MAX_FRAME_BYTES`` go to a callback, in place.

Reading: one buffer for each link. Frames are cut out of it as views. What is left of an incomplete one stays where
it is as long as there is room behind it, is moved to the front when there is not, and only when the buffer is
full with it the buffer doubles: a length that was merely claimed takes no memory.

Writing: small buffers are copied together at once, large ones are kept as they are until ``flush``, which makes one
``sendmsg`` of everything. What the kernel does not take is copied, because the memory belongs to somebody who
is going to use it again, and goes to the transport, which sends it when it can. With TLS all goes to the transport.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final, cast

from xxhash import xxh3_64, xxh3_64_intdigest

#: Before authentication: what a link keeps of what it received. No frame may be larger.
HANDSHAKE_BYTES: Final = 4096
#: The largest body of a frame.
MAX_FRAME_BYTES: Final = 64 << 20
#: The buffer of a link that has been started, until a frame needs more.
BUFFER_BYTES: Final = 256 << 10
#: A link keeps a buffer of this size for ever, a larger one while it is used.
KEPT_BUFFER_BYTES: Final = 2 << 20
#: Buffers up to this size are copied together, larger ones sent from where they are.
JOINED_BYTES: Final = 4096
#: When so much waits for the end of the turn it is sent before.
TURN_BYTES: Final = 1 << 20
#: An incomplete frame counts as a sign of life only by steps of this size. Were it every byte, the keep-alives
#: behind a length that was corrupted would feed the wrong frame, and nobody would notice.
PROGRESS_BYTES: Final = 16 << 10

_HEADER: Final = struct.Struct("<IQ")
_HEADER_BYTES: Final = _HEADER.size
#: Not the checksum of an empty body, which is a frame like others; and not 0, which zeroed memory would match.
_KEEP_ALIVE_CHECKSUM: Final = xxh3_64_intdigest(b"", 1)
KEEP_ALIVE: Final = _HEADER.pack(0, _KEEP_ALIVE_CHECKSUM)
#: Where the room behind an incomplete frame is less, it moves to the front.
_ROOM_BYTES: Final = 4096
_IOVECS: Final = 1000  # Linux takes 1024
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

FrameCallback = Callable[[int, memoryview], object]
#: What frames are made of. Views have items of one byte, and are contiguous.
Bytes = bytes | bytearray | memoryview


def tune(sock: socket.socket) -> None:
    """Make a socket fit for a link: it never blocks, never waits for company, and asks after a silent peer."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


class PeerLink:
    """The protocol of one connection; ``sock`` is the socket below it, which the transport will own.

    It is an ``asyncio.BufferedProtocol`` in all but name (``protocol``): a compiled class cannot inherit from that.
    ``on_closed`` (link, reason) is called once, at once, when the link is over, whoever ended it.
    ``on_failure`` gets what a callback for frames raised; the link is over then.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        on_closed: Callable[[PeerLink, str], object],
        on_failure: Callable[[BaseException], object],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._on_closed = on_closed
        self._on_failure = on_failure
        self._transport: asyncio.Transport | None = None
        self._direct = False  # whether sendmsg on the socket is right: not with TLS
        #: Done when the transport has let go of the socket.
        self.lost: asyncio.Future[None] = loop.create_future()
        #: Why the link is over; empty as long as it is not.
        self.reason = ""
        self.peer_id = -1
        #: The address the connection comes from; None if it was dialled.
        self.source: str | None = None
        # reading
        self._limit = HANDSHAKE_BYTES - _HEADER_BYTES
        self._on_frame: FrameCallback | None = None
        self._receiver: asyncio.Future[bytes] | None = None
        self._new_buffer(HANDSHAKE_BYTES)
        self._start = 0  # of the first byte that is in no delivered frame
        self._end = 0  # behind the last byte received
        self._large = False  # whether the size of the buffer was needed since the last check
        self._heard_at = 0.0
        self._progress = 0  # bytes of the incomplete frame that were taken for a sign of life
        # writing
        self._parts: list[Bytes] = []  # bytes and bytearrays are the link's own, all else is somebody's
        self._tail = bytearray()  # small buffers behind the parts
        #: Bytes of both: they wait for ``flush``.
        self.queued = 0
        #: Whether the kernel did not take everything at once lately: then there may be more in the transport.
        self.backlog = False
        self._sent_at = 0.0

    @property
    def protocol(self) -> asyncio.BufferedProtocol:
        """The same, as the event loop wants it to be called."""
        return cast(asyncio.BufferedProtocol, self)

    # -- what the event loop calls ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._direct = transport.get_extra_info("sslcontext") is None
        self._heard_at = self._sent_at = self._loop.time()
        if self.reason:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_life(f"connection lost: {exc}" if exc else "closed by the other side")
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)

    def eof_received(self) -> None:
        """The transport closes, and says so."""

    def pause_writing(self) -> None:
        """Whoever sends looks at ``pending``."""

    def resume_writing(self) -> None:
        """As above."""

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._end == len(self._view):
            # A started link always has room; before that, one frame is all that anybody may have under way.
            self.drop("it said more than a handshake needs")
            return memoryview(bytearray(_ROOM_BYTES))
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        if self.reason:
            return
        self._end += nbytes
        self._cut()

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport | None:
        """None before the connection is made and after it is lost."""
        return self._transport

    @property
    def pending(self) -> int:
        """Bytes sent here that the kernel has not taken."""
        transport = self._transport
        return self.queued + (transport.get_write_buffer_size() if transport is not None else 0)

    def drop(self, reason: str) -> None:
        """End the link now; what the kernel has not taken is lost. Later calls do nothing."""
        self._end_life(reason)
        if self._transport is not None:
            self._transport.abort()

    def close(self, reason: str) -> None:
        """End the link when what was sent is with the kernel; nothing is received any more."""
        if not self.reason:
            self.flush()
        self._end_life(reason)
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._direct:
            # Closing a socket that has unread bytes resets the connection, and what was sent may be lost on the
            # other side. So it is only told that nothing more comes; it closes, and then this side does.
            transport.write_eof()
            transport.resume_reading()
        else:
            transport.close()

    def _end_life(self, reason: str) -> None:
        if self.reason:
            return
        self.reason = reason
        self._parts, self._tail, self.queued = [], bytearray(), 0
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_exception(ConnectionResetError(reason))
        self._on_closed(self, reason)

    # -- reading ------------------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """The next frame of a link that has not been started. Raises ConnectionResetError when it is over."""
        assert self._on_frame is None
        assert self._receiver is None
        if self.reason:
            raise ConnectionResetError(self.reason)
        self._receiver = self._loop.create_future()
        try:
            self._cut()
            if not self._receiver.done() and self._transport is not None:
                self._transport.resume_reading()
            return await self._receiver
        finally:
            self._receiver = None

    def start(self, peer_id: int, on_frame: FrameCallback) -> None:
        """From now on every frame goes to ``on_frame`` (peer_id, body), those already received before this returns.

        The body is valid, and read-only, during that call.
        """
        assert self._on_frame is None
        if self.reason:
            return
        self.peer_id = peer_id
        self._on_frame = on_frame
        self._limit = MAX_FRAME_BYTES
        self._heard_at = self._loop.time()
        self._resize(BUFFER_BYTES)
        self._cut()
        if not self.reason and self._transport is not None:
            self._transport.resume_reading()

    def _new_buffer(self, size: int) -> None:
        self._view = memoryview(bytearray(size))
        self._frames = self._view.toreadonly()

    def _resize(self, size: int) -> None:
        old, start, end = self._view, self._start, self._end
        self._new_buffer(size)
        self._view[: end - start] = old[start:end]
        self._start, self._end = 0, end - start

    def _cut(self) -> None:
        """Deliver the whole frames in the buffer, and see to it that there is room for what follows."""
        start, end, frames, on_frame = self._start, self._end, self._frames, self._on_frame
        first = start
        while end - start >= _HEADER_BYTES:
            length, checksum = _HEADER.unpack_from(frames, start)
            if length > self._limit:
                self.drop(f"a frame of {length} bytes")
                return
            stop = start + _HEADER_BYTES + length
            if stop > end:
                break
            body = frames[start + _HEADER_BYTES : stop]
            if xxh3_64_intdigest(body) != checksum:
                if length or checksum != _KEEP_ALIVE_CHECKSUM:
                    self.drop(f"wrong checksum of a frame of {length} bytes")
                    return
            elif on_frame is None:
                if self._receiver is None or self._receiver.done():
                    # Nobody asked yet: it stays in the buffer, and all that follows in the kernel.
                    if self._transport is not None:
                        self._transport.pause_reading()
                    break
                self._receiver.set_result(bytes(body))
                # What follows may be large and is for who is going to call ``start``: it waits in the kernel.
                if self._transport is not None:
                    self._transport.pause_reading()
                start = stop
                break
            else:
                self._start = stop
                try:
                    on_frame(self.peer_id, body)
                except Exception as error:
                    self.drop(f"a frame could not be handled: {error!r}")
                    self._on_failure(error)
                if self.reason:
                    return
            start = stop
        self._start = start
        if start != first:
            self._heard_at = self._loop.time()
            self._progress = 0
        elif end - start - self._progress >= PROGRESS_BYTES:
            self._heard_at = self._loop.time()
            self._progress = end - start
        self._make_room()

    def _make_room(self) -> None:
        start, end, size = self._start, self._end, len(self._view)
        left = end - start
        if left == 0:
            self._start = self._end = 0
            return
        needed = _HEADER_BYTES
        if left >= _HEADER_BYTES:
            needed += _HEADER.unpack_from(self._frames, start)[0]
        if needed > KEPT_BUFFER_BYTES:
            self._large = True
        if start and (start + needed > size or size - end < _ROOM_BYTES):
            self._view[:left] = self._view[start:end]
            self._start, self._end = 0, left
        if self._end == size and needed > size:
            self._resize(min(needed, 2 * size))

    # -- writing ------------------------------------------------------------------------------------------------

    def send(self, buffers: tuple[Bytes, ...]) -> None:
        """Take one frame, made of all ``buffers``, for the next ``flush``; until that they must not change.

        Nothing happens on a link that is over. Raises ValueError if the frame is larger than ``MAX_FRAME_BYTES``.
        """
        if self.reason:
            return
        length = 0
        for buffer in buffers:
            length += len(buffer)
        if length <= JOINED_BYTES:
            body = buffers[0] if len(buffers) == 1 else b"".join(buffers)
            self._tail += _HEADER.pack(length, xxh3_64_intdigest(body))
            self._tail += body
        elif length > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {length} bytes: the limit is {MAX_FRAME_BYTES}")
        else:
            checksum = xxh3_64()
            for buffer in buffers:
                checksum.update(buffer)
            self._tail += _HEADER.pack(length, checksum.intdigest())
            for buffer in buffers:
                if len(buffer) <= JOINED_BYTES:
                    self._tail += buffer
                else:
                    self._parts.append(self._tail)
                    self._tail = bytearray()
                    self._parts.append(buffer if isinstance(buffer, bytes) else memoryview(buffer))
        self.queued += _HEADER_BYTES + length
        if self.queued >= TURN_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the kernel, or a copy of it to the transport."""
        if not self.queued:
            return
        parts, transport = self._parts, self._transport
        if self._tail:
            parts.append(self._tail)
        self._parts, self._tail, self.queued = [], bytearray(), 0
        if transport is None or transport.is_closing():
            return  # the event loop is about to tell us
        self._sent_at = self._loop.time()
        if self.backlog and not transport.get_write_buffer_size():
            self.backlog = False
        if self._direct and not self.backlog:
            try:
                if len(parts) == 1:
                    sent = self._sock.send(parts[0], _SEND_FLAGS)
                else:
                    sent = self._sock.sendmsg(parts[:_IOVECS], (), _SEND_FLAGS)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self.drop(f"connection lost: {error}")
                return
            else:
                parts = _behind(parts, sent)
                if not parts:
                    return
        self.backlog = True
        transport.writelines([part if isinstance(part, bytes | bytearray) else bytes(part) for part in parts])

    # -- by the clock -------------------------------------------------------------------------------------------

    def check(self, now: float, keep_alive: float, silence: float) -> None:
        """Send a keep-alive, give up a peer that is silent, give back memory. All times in seconds."""
        if self.reason:
            return
        if now - self._heard_at >= silence:
            self.drop(f"nothing heard for {(now - self._heard_at) * 1000:.0f} ms")
            return
        if now - self._sent_at >= keep_alive and not self.pending:
            self._tail += KEEP_ALIVE
            self.queued += _HEADER_BYTES
            self.flush()
        if self._start == self._end and len(self._view) > KEPT_BUFFER_BYTES and not self._large:
            self._new_buffer(BUFFER_BYTES)
            self._start = self._end = 0
        self._large = False

    def excuse(self, now: float, seconds: float) -> None:
        """This process itself did not run for so long: the peer is not to blame for that."""
        self._heard_at = min(self._heard_at + seconds, now)


def _behind(parts: list[Bytes], sent: int) -> list[Bytes]:
    """What follows the first ``sent`` bytes of ``parts``."""
    for index, part in enumerate(parts):
        length = len(part)
        if sent < length:
            rest = memoryview(part)[sent:]
            return [rest, *parts[index + 1 :]] if sent else parts[index:]
        sent -= length
    return []
