"""One framed connection between two servers.

A frame is u32 length of the body, u64 xxh3-64 of the body, body; little-endian. Frames of the length 0 may carry
the checksum of ``KEEP_ALIVE`` instead of their own: these only say that the sender lives, and are delivered to nobody.

A link has two phases. In the first its owner asks for one frame after the other (``receive``), and the link
takes no more memory than ``HANDSHAKE_BYTES``; what this phase is good for is in peer_auth.py. ``start`` begins the
second: frames of up to ``MAX_FRAME_BYTES`` go to a callback, in place.

Reading: one buffer for each link. Frames are cut out of it as views. What is left of an incomplete one stays where
it is as long as there is room behind it, is moved to the front when there is not, and only when the buffer is
full with it the buffer doubles: a length that was merely claimed takes no memory. The buffer is the memory of a bytes
object that nobody else has seen: the event loop while it reads, and views of frames, hold on to that object. So
whatever becomes of the link meanwhile, and however long somebody keeps a view, its memory is not freed.

Writing: small buffers are copied together at once, and leave by one ``send`` past the transport. Frames with large ones
keep these as they are until ``flush``, which makes one ``sendmsg`` of everything. What the kernel does not take is
copied, because the memory belongs to somebody who is going to use it again, and goes to the transport, which sends
it when it can. With TLS all goes to the transport.
"""

import os
import socket
import struct
from collections.abc import Callable

from cpython.buffer cimport PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memmove

from xxhash import xxh3_64, xxh3_64_intdigest

from fastzk._codec cimport out_free, out_room
from fastzk._log_reader cimport digest, get32, get64, put32, put64
from fastzk.server._clients cimport fz_monotonic_ns

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void* data, size_t n, int flags) noexcept
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef enum:
    HEADER_BYTES = 12
    MAX_HANDSHAKE = 4096             # HANDSHAKE_BYTES and MAX_FRAME_BYTES, for C
    MAX_FRAME = 64 << 20
    BUFFER_BYTES = 256 << 10         # of a link that has been started, until a frame needs more
    KEPT_BUFFER_BYTES = 2 << 20      # a link keeps a buffer of this size for ever, a larger one while it is used
    ROOM_BYTES = 4096                # where the room behind an incomplete frame is less, it moves to the front
    JOINED_BYTES = 16 << 10          # frames, and buffers of larger ones, are copied up to this size
    KEPT_TAIL_BYTES = 64 << 10       # memory for what is copied that was larger is given back when it is empty
    TURN_BYTES = 1 << 20             # when so much waits for the end of the turn it is sent before
    # An incomplete frame counts as a sign of life only by steps of this size. Were it every byte, the keep-alives
    # behind a length that was corrupted would feed the wrong frame, and nobody would notice.
    PROGRESS_BYTES = 16 << 10
    IOVECS = 1000                    # Linux takes 1024

HANDSHAKE_BYTES = MAX_HANDSHAKE
MAX_FRAME_BYTES = MAX_FRAME

# Not the checksum of an empty body, which is a frame like others; and not 0, which zeroed memory would match.
cdef uint64_t KEEP_ALIVE_CHECKSUM = xxh3_64_intdigest(b"", 1)
KEEP_ALIVE = struct.pack("<IQ", 0, KEEP_ALIVE_CHECKSUM)

FrameCallback = Callable[[int, memoryview], object]
Bytes = bytes | bytearray | memoryview


def tune(sock) -> None:
    """Make a socket fit for a link: it never blocks, never waits for company, and asks after a silent peer."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


cdef inline double seconds() noexcept:
    # By the clock of the event loop, which reads it once in a turn.
    return fz_monotonic_ns() * 1e-9


cdef int copy(uint8_t* to, object buffer) except -1:
    # To where there is room for len(buffer) bytes.
    cdef Py_buffer view
    if type(buffer) is bytes:
        memcpy(to, PyBytes_AS_STRING(buffer), PyBytes_GET_SIZE(buffer))
        return 0
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if view.len != len(buffer):
            raise ValueError("a buffer whose items are larger than one byte")
        memcpy(to, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return 0


cdef list behind(list parts, Py_ssize_t sent):
    # What follows the first `sent` bytes of `parts`.
    cdef Py_ssize_t length
    for index, part in enumerate(parts):
        length = len(part)
        if sent < length:
            rest = memoryview(part)[sent:]
            return [rest, *parts[index + 1:]] if sent else parts[index:]
        sent -= length
    return []


cdef class Window:
    """Memory that the link shows to who takes buffers only."""

    def __len__(self) -> int:
        return self.n

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        buffer.obj = self.owner
        buffer.buf = <void*>self.p
        buffer.len = self.n
        buffer.itemsize = 1
        buffer.readonly = False
        buffer.ndim = 1
        buffer.format = NULL                         # bytes, that is
        buffer.shape = &buffer.len if flags & PyBUF_ND else NULL
        buffer.strides = &buffer.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        buffer.suboffsets = NULL
        buffer.internal = NULL


cdef class PeerLink:
    """The protocol of one connection (``asyncio.BufferedProtocol``)."""

    def __cinit__(self, loop, sock, *, on_closed, on_failure) -> None:
        self.loop = loop
        self.sock = sock
        self.on_closed = on_closed
        self.on_failure = on_failure
        self.lost = loop.create_future()
        self.reason = ""
        self.peer_id = -1
        self.fd = -1
        self.limit = MAX_HANDSHAKE - HEADER_BYTES
        self.room = Window()
        self.new_buffer(MAX_HANDSHAKE)
        self.parts = []

    def __dealloc__(self) -> None:
        out_free(&self.tail)

    @property
    def protocol(self):
        return self

    # -- what the event loop calls ------------------------------------------------------------------------------

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.direct = transport.get_extra_info("sslcontext") is None
        self.heard_at = self.sent_at = seconds()
        if self.reason:
            transport.abort()
        elif self.direct:
            self.fd = self.sock.fileno()

    def connection_lost(self, error) -> None:
        self.fd = -1                                 # the transport closes it now
        self.end_life(f"connection lost: {error}" if error else "closed by the other side")
        self.transport = None
        if not self.lost.done():
            self.lost.set_result(None)

    def eof_received(self) -> None:
        """The transport closes, and says so."""

    def pause_writing(self) -> None:
        """Whoever sends looks at ``pending``."""

    def resume_writing(self) -> None:
        """As above."""

    def get_buffer(self, sizehint):
        if self.end == self.size:
            # A started link always has room; before that, one frame is all that anybody may have under way.
            self.drop("it said more than a handshake needs")
            return bytearray(ROOM_BYTES)
        self.room.p = self.p + self.end
        self.room.n = self.size - self.end
        return self.room

    def buffer_updated(self, Py_ssize_t nbytes) -> None:
        if self.reason:
            return
        self.end += nbytes
        self.cut()

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        return self.queued + (self.transport.get_write_buffer_size() if self.transport is not None else 0)

    @property
    def unread(self) -> int:
        return self.end - self.taken

    cpdef drop(self, str reason):
        self.end_life(reason)
        if self.transport is not None:
            self.transport.abort()

    def close(self, str reason) -> None:
        if not self.reason:
            self.flush()
        self.end_life(reason)
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self.direct:
            # Closing a socket that has unread bytes resets the connection, and what was sent may be lost on the
            # other side. So it is only told that nothing more comes; it closes, and then this side does.
            transport.write_eof()
            transport.resume_reading()
        else:
            transport.close()

    cdef int end_life(self, str reason) except -1:
        if self.reason:
            return 0
        self.reason = reason
        self.fd = -1
        self.forget_queued()
        if self.receiver is not None and not self.receiver.done():
            self.receiver.set_exception(ConnectionResetError(reason))
        self.on_closed(self, reason)
        return 0

    # -- reading ------------------------------------------------------------------------------------------------

    async def receive(self):
        assert self.on_frame is None
        assert self.receiver is None
        if self.reason:
            raise ConnectionResetError(self.reason)
        self.receiver = self.loop.create_future()
        try:
            self.cut()
            if not self.receiver.done() and self.transport is not None:
                self.transport.resume_reading()
            return await self.receiver
        finally:
            self.receiver = None

    def start(self, peer_id, on_frame) -> None:
        assert self.on_frame is None
        if self.reason:
            return
        self.peer_id = peer_id
        self.on_frame = on_frame
        self.limit = MAX_FRAME
        self.heard_at = seconds()
        self.resize(BUFFER_BYTES)
        self.cut()
        if not self.reason and self.transport is not None:
            self.transport.resume_reading()

    cdef int new_buffer(self, Py_ssize_t size) except -1:
        self.memory = PyBytes_FromStringAndSize(NULL, size)
        self.p = <uint8_t*>PyBytes_AS_STRING(self.memory)
        self.size = size
        self.frames = memoryview(self.memory)
        self.room.owner = self.memory
        return 0

    cdef int resize(self, Py_ssize_t size) except -1:
        cdef bytes before = self.memory
        cdef Py_ssize_t left = self.end - self.taken
        self.new_buffer(size)
        memcpy(self.p, PyBytes_AS_STRING(before) + self.taken, left)
        self.taken = 0
        self.end = left
        return 0

    cdef int cut(self) except -1:
        # Deliver the whole frames in the buffer, and see to it that there is room for what follows.
        cdef Py_ssize_t first = self.taken, start = first, stop, length
        cdef const uint8_t* head
        cdef uint64_t expected
        while self.end - start >= HEADER_BYTES:
            head = self.p + start
            length = get32(head)
            expected = get64(head + 4)
            if length > self.limit:
                self.drop(f"a frame of {length} bytes")
                return 0
            stop = start + HEADER_BYTES + length
            if stop > self.end:
                break
            if digest(head + HEADER_BYTES, length) != expected:
                if length or expected != KEEP_ALIVE_CHECKSUM:
                    self.drop(f"wrong checksum of a frame of {length} bytes")
                    return 0
            elif self.on_frame is None:
                # If nobody asked yet, it stays in the buffer. What follows may be large and is for who is going to
                # call `start`: in either case all that comes waits in the kernel.
                if self.transport is not None:
                    self.transport.pause_reading()
                if self.receiver is not None and not self.receiver.done():
                    self.receiver.set_result(bytes(self.frames[start + HEADER_BYTES:stop]))
                    start = stop
                break
            else:
                self.taken = stop
                try:
                    self.on_frame(self.peer_id, self.frames[start + HEADER_BYTES:stop])
                except Exception as error:
                    self.drop(f"a frame could not be handled: {error!r}")
                    self.on_failure(error)
                if self.reason:
                    return 0
            start = stop
        self.taken = start
        if start != first:
            self.heard_at = seconds()
            self.progress = 0
        elif self.end - start - self.progress >= PROGRESS_BYTES:
            self.heard_at = seconds()
            self.progress = self.end - start
        if start == self.end:
            self.taken = self.end = 0
            return 0
        return self.make_room()

    cdef int make_room(self) except -1:
        # Behind an incomplete frame, or one that nobody asked for yet.
        cdef Py_ssize_t left = self.end - self.taken, needed = HEADER_BYTES
        if left >= HEADER_BYTES:
            needed += get32(self.p + self.taken)
        if needed > KEPT_BUFFER_BYTES:
            self.large = True
        if self.taken and (self.taken + needed > self.size or self.size - self.end < ROOM_BYTES):
            memmove(self.p, self.p + self.taken, left)
            self.taken = 0
            self.end = left
        if self.end == self.size and needed > self.size:
            self.resize(min(needed, 2 * self.size))
        return 0

    # -- writing ------------------------------------------------------------------------------------------------

    cpdef send(self, tuple buffers):
        cdef Py_ssize_t length = 0
        cdef uint8_t* head
        cdef uint8_t* at
        if self.reason:
            return
        for buffer in buffers:
            length += len(buffer)
        if length > JOINED_BYTES:
            self.send_large(buffers, length)
        else:
            head = out_room(&self.tail, HEADER_BYTES + length)
            at = head + HEADER_BYTES
            for buffer in buffers:
                copy(at, buffer)
                at += len(buffer)
            put32(head, length)
            put64(head + 4, digest(head + HEADER_BYTES, length))
            self.tail.n += HEADER_BYTES + length
        self.queued += HEADER_BYTES + length
        if self.queued >= TURN_BYTES:
            self.flush()

    cdef int send_large(self, tuple buffers, Py_ssize_t length) except -1:
        cdef uint8_t* head
        if length > MAX_FRAME:
            raise ValueError(f"a frame of {length} bytes: the limit is {MAX_FRAME}")
        whole = xxh3_64()
        for buffer in buffers:
            whole.update(buffer)
        head = out_room(&self.tail, HEADER_BYTES)
        put32(head, length)
        put64(head + 4, whole.intdigest())
        self.tail.n += HEADER_BYTES
        for buffer in buffers:
            if len(buffer) <= JOINED_BYTES:
                copy(out_room(&self.tail, len(buffer)), buffer)
                self.tail.n += len(buffer)
            else:
                self.tail_to_parts()
                self.parts.append(buffer if isinstance(buffer, bytes) else memoryview(buffer))
        return 0

    cdef int tail_to_parts(self) except -1:
        if self.tail.n:
            self.parts.append(PyBytes_FromStringAndSize(<char*>self.tail.p, self.tail.n))
            self.tail.n = 0
        return 0

    cdef int forget_queued(self) except -1:
        if self.parts:
            self.parts = []
        self.queued = self.tail.n = 0
        if self.tail.cap > KEPT_TAIL_BYTES:
            out_free(&self.tail)
        return 0

    cpdef flush(self):
        cdef ssize_t sent
        cdef int error
        if not self.queued:
            return
        if self.transport is None or self.transport.is_closing():
            self.forget_queued()                     # the event loop is about to tell us
            return
        self.sent_at = seconds()
        if self.backlog and not self.transport.get_write_buffer_size():
            self.backlog = False
        if self.fd < 0 or self.backlog or self.parts:
            self.flush_parts(0, self.fd >= 0 and not self.backlog)
            return
        sent = c_send(self.fd, self.tail.p, self.tail.n, MSG_DONTWAIT | MSG_NOSIGNAL)
        error = errno
        if sent == self.queued:
            self.forget_queued()
        elif sent >= 0 or error == EAGAIN or error == EINTR:
            self.flush_parts(max(sent, 0), False)
        else:
            self.drop(f"connection lost: {OSError(error, os.strerror(error))}")

    cdef int flush_parts(self, Py_ssize_t sent, bint direct) except -1:
        # What is behind the first `sent` bytes; `direct`: the kernel may take more of it.
        cdef list parts
        self.tail_to_parts()
        parts = self.parts
        self.parts = []
        self.forget_queued()
        if direct:
            try:
                sent = self.sock.sendmsg(parts[:IOVECS], (), MSG_DONTWAIT | MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self.drop(f"connection lost: {error}")
                return 0
        parts = behind(parts, sent)
        if parts:
            self.backlog = True
            # Bytes do not change, all else is somebody's.
            self.transport.writelines([part if isinstance(part, bytes) else bytes(part) for part in parts])
        return 0

    # -- by the clock -------------------------------------------------------------------------------------------

    def check(self, double now, double keep_alive, double silence) -> None:
        if self.reason:
            return
        if now - self.heard_at >= silence:
            self.drop(f"nothing heard for {(now - self.heard_at) * 1000:.0f} ms")
            return
        if now - self.sent_at >= keep_alive and not self.pending:
            copy(out_room(&self.tail, HEADER_BYTES), KEEP_ALIVE)
            self.tail.n += HEADER_BYTES
            self.queued += HEADER_BYTES
            self.flush()
            self.sent_at = now                       # not later: the next one is due by the same clock
        if self.taken == self.end and self.size > KEPT_BUFFER_BYTES and not self.large:
            self.new_buffer(BUFFER_BYTES)
            self.taken = self.end = 0
        self.large = False

    def excuse(self, double now, double seconds) -> None:
        self.heard_at = min(self.heard_at + seconds, now)
