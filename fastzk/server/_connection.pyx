"""One client connection: bytes in, frames cut and dispatched, replies out.

The loop reads into one buffer that all connections share (``get_buffer``); ``buffer_updated`` uses the frames in
it in place and keeps only what is left over. A read is answered at once. A write goes to the pipeline; what the
same client asks behind it waits in its *backlog*, where a mark stands for each later write, so that each read
sees exactly the writes before it. Replies gather in ``out`` and leave by one ``send`` per callback, past the
transport unless that still holds earlier bytes.

A connection takes no frames while it is *blocked*: the client does not read, the server is full, and so on. Its
socket is then not read either, so the client is slowed down and nobody else.

No client keeps the others waiting: whoever has sent a lot gives way after a few milliseconds and goes on in the
next turn of the loop. And no client takes memory for what it only announces: an incomplete frame costs the bytes
that have come of it. Frames above jute.maxbuffer are refused, except setWatches, which a client cannot help
sending in one piece when it reconnects: those share one buffer's worth of memory and stand in line for it.
"""

import logging
from collections import deque
from hmac import compare_digest

from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_WRITE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.string cimport memcpy, memmove

from fastzk._codec cimport (
    Span, fz_load32, get_i32, get_i64, get_span, out_free, out_room, put_bytes, put_i32, put_i64, put_span,
    put_u8, reader_init,
)
from fastzk._constants cimport (
    ERR_AUTH_FAILED, ERR_OK, ERR_SESSION_CLOSED_REQUIRE_SASL_AUTH, ERR_UNIMPLEMENTED, OP_AUTH, OP_CHECK,
    OP_CHECK_NOT_EXISTS, OP_CLOSE_SESSION, OP_CREATE, OP_CREATE2, OP_CREATE_CONTAINER, OP_CREATE_IF_NOT_EXISTS,
    OP_CREATE_SESSION, OP_CREATE_TTL, OP_DELETE, OP_DELETE_CONTAINER, OP_FILTERED_LIST, OP_GET_ALL_CHILDREN_NUMBER,
    OP_GET_EPHEMERALS, OP_MULTI, OP_MULTI_READ, OP_RECONFIG, OP_REMOVE_RECURSIVE, OP_SASL, OP_SET_ACL, OP_SET_DATA,
    OP_SET_WATCHES, OP_SET_WATCHES2, OP_SYNC,
)
from fastzk.server._clients cimport OUT_LIMIT, begin_reply, end_reply, fz_monotonic_ns, fz_wall_ms, put_reply
from fastzk.server._prepare cimport asks_for_ephemeral
from fastzk.server._reads cimport is_read

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void* data, size_t n, int flags) noexcept
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef extern from * nogil:
    """
    /* In a checked build a handler that reads past its frame is caught, although the next frame is there. */
    #if defined(__SANITIZE_ADDRESS__)
    #include <sanitizer/asan_interface.h>
    #define fz_fence(p, n) __asan_poison_memory_region((p), (n))
    #define fz_unfence(p, n) __asan_unpoison_memory_region((p), (n))
    #else
    #define fz_fence(p, n) ((void)0)
    #define fz_unfence(p, n) ((void)0)
    #endif
    """
    void fz_fence(const void* p, size_t n) noexcept
    void fz_unfence(const void* p, size_t n) noexcept

cdef extern from * nogil:
    """
    #include <stdlib.h>
    #if defined(__GLIBC__)
    #include <malloc.h>
    #define fz_trim() malloc_trim(0)
    #else
    #define fz_trim() ((void)0)
    #endif
    """
    void fz_trim() noexcept

cdef enum:
    INPUT_BYTES = 256 << 10
    FLUSH_BYTES = 256 << 10          # replies are sent when so many gathered, whatever else is to do
    BACKLOG_BYTES = 1 << 20
    TLS_BUFFER_BYTES = 64 << 10
    KEEP_BYTES = 64 << 10            # a buffer that was larger is given back when it is empty
    IDENTITY_BYTES = 16 << 10        # of identities that one client may prove: every check of an ACL tries them all
    # A client has to send all its watches in setWatches when it reconnects, and it has no way to learn of a limit
    # (ZOOKEEPER-706): with ZooKeeper it loses its session. A million watches on paths of 60 bytes fit. It is the
    # limit of one such frame, and of all of them that are under way together.
    SET_WATCHES_BYTES = 64 << 20

    MANY_WATCHES = 100_000

cdef int64_t TURN_NS = 4_000_000             # how long one client is served before others have their turn
cdef int64_t DRAIN_NS = 1_000_000_000        # the same where it cannot be interrupted: then it has to go
cdef int64_t COMPLETE_NS = 20_000_000_000    # in what time a large setWatches has to be complete

cdef uint32_t WRITE_MARK = 0xFFFFFFFFu

logger = logging.getLogger("fastzk.server.connection")


cdef inline bint is_write(int32_t op) noexcept nogil:
    return op in (
        OP_SET_DATA, OP_CREATE, OP_DELETE, OP_CREATE2, OP_MULTI, OP_SET_ACL, OP_CHECK, OP_CREATE_CONTAINER,
        OP_CREATE_TTL, OP_DELETE_CONTAINER, OP_RECONFIG, OP_CHECK_NOT_EXISTS, OP_CREATE_IF_NOT_EXISTS,
        OP_REMOVE_RECURSIVE,
    )


cdef inline bint is_slow(const uint8_t* frame, int64_t n) noexcept nogil:
    # Requests of which few may take long: those that may walk through all there is, and long ones.
    cdef int32_t op = <int32_t>fz_load32(frame + 4)
    return n > 4096 or op >= OP_FILTERED_LIST or op in (
        OP_MULTI, OP_MULTI_READ, OP_GET_EPHEMERALS, OP_GET_ALL_CHILDREN_NUMBER, OP_SET_WATCHES, OP_SET_WATCHES2,
    )


cdef class Service:
    """What the connections of a server share. Made once, by ``app``."""

    def __cinit__(self, Clients clients, Watches watches, Line pipeline, Reads reads, sessions, authenticate,
                  four_letter, on_failure, *, int64_t max_frame, int max_per_host, int max_clients) -> None:
        self.clients = clients
        self.watches = watches
        self.pipeline = pipeline
        self.reads = reads
        self.sessions = sessions
        self.authenticate = authenticate
        self.four_letter = four_letter
        self.on_failure = on_failure
        self.max_frame = max_frame
        self.max_per_host = max_per_host
        self.max_clients = max_clients
        pipeline.on_close_refused = sessions.reopen
        self.hosts = {}
        self.newcomers = set()
        self.leaving = set()
        self.large = set()
        self.large_queue = deque()
        self.turn_ns = TURN_NS
        out_room(&self.input, INPUT_BYTES)
        self.input_view = PyMemoryView_FromMemory(<char*>self.input.p, INPUT_BYTES, PyBUF_WRITE)

    def __dealloc__(self) -> None:
        out_free(&self.input)

    def connection(self) -> Connection:
        """A protocol for one accepted connection."""
        return Connection(self)

    def stop(self) -> None:
        """Take no more frames; what is under way is still answered."""
        self.stopping = True
        for client in self.clients:
            (<Connection>client).block(BLOCK_STOPPING)

    def suspend(self, reason: str) -> None:
        """There is no leader: nobody is served until ``serve``. Clients that wait for an answer are closed."""
        cdef Connection client
        self.end_read_only()
        self.leaderless = True
        for item in self.clients:
            client = <Connection>item
            if client.state != STATE_NEW:            # those may still have a four-letter word to say
                client.block(BLOCK_LEADERLESS)
        self.pipeline.close(reason)
        self.clients.flush()

    def serve(self, Line pipeline) -> None:
        """There is a leader, this server or another: go on, with writes going through ``pipeline``."""
        cdef Connection client
        self.end_read_only()
        self.pipeline = pipeline
        pipeline.on_close_refused = self.sessions.reopen
        self.leaderless = False
        for item in self.clients:
            client = <Connection>item
            client.unblock(BLOCK_LEADERLESS)
        self.clients.flush()

    def dismiss(self) -> int:
        """Close all connections that have a session or ask for one; how many those were."""
        cdef Connection client
        count = 0
        for item in self.clients:
            client = <Connection>item
            if not client.closed and (client.state == STATE_CONNECTING or client.state == STATE_OPEN):
                client.leave()
                count += 1
        return count

    def serve_read_only(self, Line pipeline) -> None:
        """There is still no leader: serve those who want to read no matter what, until ``serve``."""
        self.serve(pipeline)
        self.read_only = True

    cdef int end_read_only(self) except -1:
        if self.read_only:
            self.read_only = False
            self.dismiss()
            self.sessions.end_read_only()
        return 0

    def close_late(self, int64_t limit_ns) -> None:
        """Close those who take their time: to ask for a session, to take their last replies (both ``limit_ns``
        nanoseconds), and to send a large setWatches. Called by the clock."""
        cdef Connection client
        cdef int64_t now = fz_monotonic_ns()
        for item in [item for item in self.newcomers if (<Connection>item).began_ns < now - limit_ns]:
            client = <Connection>item
            client.reject("it has not asked for a session in time")
        for item in [item for item in self.leaving if (<Connection>item).since_ns < now - limit_ns]:
            client = <Connection>item
            client.reject("it has not read its last replies in time")
        for item in [item for item in self.large if (<Connection>item).since_ns < now - COMPLETE_NS]:
            client = <Connection>item
            if not client.blocked:
                client.reject(f"a setWatches of {client.large_bytes} bytes that does not end")
        for item in self.large_queue:
            client = <Connection>item
            if not client.closed:
                client.heard_ns = now                # it is the server that does not listen

    def admit(self) -> None:
        """Let those who wait to send a large setWatches go on, as far as there is room."""
        cdef Connection client
        try:
            while self.large_queue:
                client = <Connection>self.large_queue[0]
                if not client.closed and not self.reserve(client):
                    return
                self.large_queue.popleft()
                client.unblock(BLOCK_LARGE)
            self.clients.flush()
        except Exception as error:
            self.on_failure(error)

    cdef bint reserve(self, Connection client) except -1:
        if self.large_bytes + client.large_bytes > SET_WATCHES_BYTES:
            return False
        self.large_bytes += client.large_bytes
        self.large.add(client)
        client.since_ns = fz_monotonic_ns()
        return True

    cdef int give_back(self, Connection client) except -1:
        if client in self.large:
            self.large.remove(client)
            self.large_bytes -= client.large_bytes
            if self.large_queue:
                self.pipeline.loop.call_soon(self.admit)
        client.large_bytes = 0
        return 0


cdef class Connection(Client):
    """The protocol object of one client's socket (``asyncio.BufferedProtocol``)."""

    def __cinit__(self, Service service) -> None:
        self.service = service
        self.fd = -1
        self.reading = True
        self.closed = True
        self.last_zxid = -1

    def __dealloc__(self) -> None:
        out_free(&self.inbox)
        out_free(&self.backlog)

    # -- the event loop's side ------------------------------------------------------------------------------

    def connection_made(self, transport) -> None:
        """Called by the event loop."""
        cdef Service service = self.service
        self.transport = transport
        peer = transport.get_extra_info("peername") or ("", 0)
        self.host = peer[0].split("%", 1)[0]
        if self.host.startswith("::ffff:") and "." in self.host:
            self.host = self.host[7:]                # IPv4 through a socket for both
        self.port = peer[1]
        self.began_ns = self.heard_ns = fz_monotonic_ns()
        self.began_wall_ms = fz_wall_ms()
        self.closed = False
        connected = service.hosts.get(self.host, 0)
        service.hosts[self.host] = connected + 1
        service.clients.add(self)
        if service.max_per_host and connected >= service.max_per_host:
            logger.warning("connection refused address=%s reason=%s", self.host,
                           f"maxClientCnxns={service.max_per_host} reached for this address")
            self.abort()
            return
        if service.max_clients and service.clients.count > service.max_clients:
            logger.warning("connection refused address=%s reason=%s", self.host,
                           f"maxCnxns={service.max_clients} reached")
            self.abort()
            return
        service.newcomers.add(self)
        self.add_identity("ip", self.host)
        self.unproven = service.required is not None
        if transport.get_extra_info("sslcontext") is None:
            transport.set_write_buffer_limits(high=0)
            self.fd = transport.get_extra_info("socket").fileno()
        else:
            # Not 0: the transport pauses at the limit, and bytes of TLS itself may be in its buffer now.
            transport.set_write_buffer_limits(high=TLS_BUFFER_BYTES, low=0)
            if not service.identify(self, transport.get_extra_info("ssl_object")):
                self.abort()
                return
        if service.stopping:
            self.abort()

    def connection_lost(self, error) -> None:
        """Called by the event loop."""
        cdef Service service = self.service
        if self.slot == 0:
            return
        self.closed = True
        self.state = STATE_CLOSED
        self.fd = -1
        service.newcomers.discard(self)
        service.leaving.discard(self)
        if self.large_bytes:
            service.give_back(self)
        self.forget_watches()
        service.clients.remove(self)
        left = service.hosts[self.host] - 1
        if left:
            service.hosts[self.host] = left
        else:
            del service.hosts[self.host]
        out_free(&self.out)
        out_free(&self.inbox)
        out_free(&self.backlog)
        if self.session_id:
            service.sessions.detached(self.session_id, self)
        self.transport = None

    def get_buffer(self, int sizehint):
        """Called by the event loop: where to read to. Used at once, so one buffer serves everybody."""
        return self.service.input_view

    def buffer_updated(self, Py_ssize_t n) -> None:
        """Called by the event loop: ``n`` bytes are in the shared buffer."""
        try:
            self.take(self.service.input.p, n)
            self.service.clients.flush()
            if self.service.pipeline.spinner is not None:
                self.service.pipeline.spinner.touch(self.heard_ns)
        except Exception as error:
            self.service.on_failure(error)

    def eof_received(self) -> bool:
        """Called by the event loop: the client sends no more. What it asked is not answered any more either."""
        return False

    def pause_writing(self) -> None:
        """Called by the event loop: the client does not read as fast as it asks."""
        self.block(BLOCK_UNREAD)

    def resume_writing(self) -> None:
        """Called by the event loop: everything given to the transport was sent."""
        try:
            self.blocked &= ~BLOCK_UNREAD
            self.flush()
            if self.pending == 0:
                self.drain()                         # reads that waited behind a write, and then for this
            if not self.blocked & BLOCK_UNREAD:
                self.unblock(0)
            self.service.clients.flush()
        except Exception as error:
            self.service.on_failure(error)

    # -- frames -----------------------------------------------------------------------------------------------

    cdef int take(self, const uint8_t* p, size_t n) except -1:
        cdef size_t used
        self.heard_ns = fz_monotonic_ns()
        if self.closed or self.state == STATE_CLOSING:
            return 0
        if self.inbox.n == 0:
            used = self.consume(p, n)
            if used < n and not self.closed:
                put_bytes(&self.inbox, p + used, n - used)
            return 0
        put_bytes(&self.inbox, p, n)
        return self.use_inbox()

    cdef int use_inbox(self) except -1:
        cdef size_t used = self.consume(self.inbox.p, self.inbox.n)
        cdef OutBuf rest
        if self.closed or self.inbox.p == NULL:
            return 0
        if used == self.inbox.n:
            self.inbox.n = 0
            if self.inbox.cap > KEEP_BYTES:
                out_free(&self.inbox)
        elif used:
            if self.inbox.cap > INPUT_BYTES * 4 and self.inbox.n - used <= INPUT_BYTES:
                # A large frame is done: its memory goes back at once.
                rest.p = NULL
                rest.n = rest.cap = 0
                put_bytes(&rest, self.inbox.p + used, self.inbox.n - used)
                out_free(&self.inbox)
                self.inbox = rest
                return 0
            memmove(self.inbox.p, self.inbox.p + used, self.inbox.n - used)
            self.inbox.n -= used
        return 0

    cdef size_t consume(self, const uint8_t* p, size_t n) except? 0xFFFFFFFFFFFFFFFF:
        # Use the whole frames in p[:n]; how many bytes that were.
        cdef Line pipeline = self.service.pipeline
        cdef size_t at = 0
        cdef int64_t length
        cdef int64_t began = fz_monotonic_ns()
        cdef uint32_t count = 0
        cdef bint slow
        while n - at >= 4 and not self.blocked and self.state < STATE_CLOSING:
            length = <int32_t>fz_load32(p + at)
            if self.state == STATE_NEW and length > self.service.max_frame:
                self.received += 1                   # before it is answered: `cons` shows the asking one, too
                answer = self.service.four_letter((p + at)[:n - at if n - at < 12 else 12])
                if answer is not None:
                    self.service.newcomers.discard(self)
                    put_bytes(&self.out, <const uint8_t*><bytes>answer, len(answer))
                    self.finish()
                    return n
                self.received -= 1
            if length < 8 or length > self.service.max_frame:
                if not self.is_large(p + at, n - at, length):
                    self.reject(f"a frame of {length} bytes, jute.maxbuffer is {self.service.max_frame}")
                    return n
                if n - at > <size_t>self.service.max_frame and not self.may_grow(length):
                    break
            if length > pipeline.large_threshold and pipeline.large_bytes + length > pipeline.large_max:
                self.reject(f"a request of {length} bytes above the {pipeline.large_bytes} bytes of large requests "
                            "in progress")
                return n
            if n - at - 4 < <size_t>length:
                break
            if length > self.service.max_frame and self.pending:
                self.block(BLOCK_BACKLOG)            # too much to put aside until its writes are answered
                break
            slow = is_slow(p + at + 4, length)
            fz_fence(p + at + 4 + length, n - at - 4 - length)
            if self.state == STATE_OPEN:
                self.frame(p + at + 4, length)
            else:
                self.handshake(p + at + 4, length)
            fz_unfence(p + at + 4 + length, n - at - 4 - length)
            at += 4 + length
            if self.large_bytes:
                self.service.give_back(self)
            if self.out.n > FLUSH_BYTES:
                self.flush()
            count += 1
            if (slow or count & 15 == 0) and n > at and fz_monotonic_ns() - began > self.service.turn_ns:
                self.give_way()
        return at

    cdef bint is_large(self, const uint8_t* p, size_t n, int64_t length) noexcept:
        # Whether a frame above jute.maxbuffer may be, as far as can be said yet.
        if length <= self.service.max_frame or length > SET_WATCHES_BYTES or self.state != STATE_OPEN or self.unproven:
            return False
        return n < 12 or <int32_t>fz_load32(p + 8) in (OP_SET_WATCHES, OP_SET_WATCHES2)

    cdef bint may_grow(self, int64_t length) except -1:
        # More has come than of any other frame: from here on it needs its part of what there is for large ones.
        # What it is granted is what it announces, so that those who have begun can end.
        if self.large_bytes:
            return True
        self.large_bytes = length
        if not self.service.large_queue and self.service.reserve(self):
            return True
        self.service.large_queue.append(self)
        self.block(BLOCK_LARGE)
        return False

    cdef int give_way(self) except -1:
        # Others first; the rest in the next turn of the loop.
        if not self.blocked & BLOCK_TURN:
            self.block(BLOCK_TURN)
            self.service.pipeline.loop.call_soon(self.go_on)
        return 0

    def go_on(self) -> None:
        """It has given way, and goes on."""
        try:
            self.blocked &= ~BLOCK_TURN
            if self.pending == 0:
                self.drain()
            self.unblock(0)
            self.service.clients.flush()
        except Exception as error:
            self.service.on_failure(error)

    cdef int frame(self, const uint8_t* p, size_t n) except -1:
        # One request of an open session.
        cdef Service service = self.service
        cdef Line pipeline = service.pipeline
        cdef Reader r
        cdef int32_t xid = <int32_t>fz_load32(p)
        cdef int32_t op = <int32_t>fz_load32(p + 4)
        cdef int64_t now
        cdef bint waiting = self.pending > 0
        self.received += 1
        service.clients.received += 1
        if self.unproven and op != OP_AUTH and op != OP_SASL and not self.prove(xid):
            return 0
        if is_read(op) and (op < OP_FILTERED_LIST or service.reads.extensions):
            if waiting:
                return self.defer(p, <uint32_t>n)
            reader_init(&r, p + 8, n - 8)
            service.reads.serve(self, xid, op, &r)
            service.clients.account(self, op, xid, service.clients.zxid, self.heard_ns, self.heard_ns)
            return service.clients.mark(self)
        reader_init(&r, p + 8, n - 8)
        if op == OP_AUTH:
            return self.add_auth(xid, &r)
        if op == OP_SASL:
            return self.sasl(xid, &r)
        now = self.heard_ns
        if is_write(op) and (op < OP_FILTERED_LIST or service.reads.extensions):
            if self.local and service.upgrade_sessions and asks_for_ephemeral(op, r):
                self.local = False                   # one of all servers, from this request on
                pipeline.create_session(self, self.session_id, self.timeout_ms)
            pipeline.write(self, op, &r, xid, now)
        elif op == OP_SYNC:
            pipeline.sync(self, &r, xid, now)
        elif op == OP_CLOSE_SESSION:
            self.closing_session = True
            service.sessions.closing(self.session_id)
            self.block(BLOCK_CONNECT)                # nothing comes after it
            if self.local:
                service.sessions.end_local(self.session_id)
                pipeline.refuse(self, op, xid, ERR_OK, now)
            else:
                pipeline.close_session(self, self.session_id, xid, now)
        else:
            logger.info("connection closed address=%s session=0x%x reason=%s", self.host, self.session_id,
                        f"unknown request type {op}")
            put_reply(self, xid, -1, ERR_UNIMPLEMENTED)
            return self.finish()
        if self.closed:
            return 0                                 # it was cut off
        if waiting:
            self.defer(NULL, WRITE_MARK)
        if pipeline.full():
            self.block(BLOCK_FULL)
            pipeline.stall(self)
        return 0

    cdef int defer(self, const uint8_t* p, uint32_t n) except -1:
        # A read waits for this session's writes; a mark stands for a write among them.
        if self.backlog_at > KEEP_BYTES and self.backlog_at > self.backlog.n / 2:
            self.backlog.n -= self.backlog_at        # a client may never let it run empty
            memmove(self.backlog.p, self.backlog.p + self.backlog_at, self.backlog.n)
            self.backlog_at = 0
        cdef uint8_t* at = out_room(&self.backlog, 4 + (0 if n == WRITE_MARK else n))
        memcpy(at, &n, 4)
        self.backlog.n += 4
        if n != WRITE_MARK:
            memcpy(at + 4, p, n)
            self.backlog.n += n
        if self.backlog.n - self.backlog_at > BACKLOG_BYTES or n != WRITE_MARK and is_slow(p, n):
            self.block(BLOCK_BACKLOG)
        return 0

    cdef int drain(self) except -1:
        # The oldest of its writes is answered: what waited for that goes on. Called once for each, since it uses
        # up a mark. Reads behind the last one wait, besides, for the client to read; those before another write
        # cannot, for its reply comes next.
        cdef Service service = self.service
        cdef uint32_t n
        cdef Reader r
        cdef const uint8_t* p
        cdef int64_t began = 0
        cdef int64_t now
        if self.closed or self.blocked & BLOCK_TURN and self.pending == 0:
            return 0
        while self.backlog_at < self.backlog.n:
            if self.out.n > FLUSH_BYTES:
                self.flush()
                if self.closed:
                    return 0
                if self.blocked & BLOCK_UNREAD and self.pending == 0:
                    return 0
            p = self.backlog.p + self.backlog_at
            memcpy(&n, p, 4)
            self.backlog_at += 4
            if n == WRITE_MARK:
                if self.pending:
                    break
                continue
            self.backlog_at += n
            reader_init(&r, p + 12, n - 8)
            fz_fence(p + 4 + n, self.backlog.n - self.backlog_at)
            service.reads.serve(self, <int32_t>fz_load32(p + 4), <int32_t>fz_load32(p + 8), &r)
            fz_unfence(p + 4 + n, self.backlog.n - self.backlog_at)
            now = fz_monotonic_ns()
            service.clients.account(
                self, <int32_t>fz_load32(p + 8), <int32_t>fz_load32(p + 4), service.clients.zxid, self.heard_ns, now)
            service.clients.mark(self)
            if began == 0:
                began = now
            elif now - began > service.turn_ns and self.pending == 0:
                return self.give_way()
            elif now - began > DRAIN_NS and service.turn_ns < DRAIN_NS:
                return self.reject(f"reads behind its own writes that take more than {DRAIN_NS // 1_000_000} ms")
        if self.backlog_at == self.backlog.n:
            self.backlog.n = self.backlog_at = 0
            if self.backlog.cap > KEEP_BYTES:
                out_free(&self.backlog)
        if self.blocked & BLOCK_BACKLOG and self.backlog.n - self.backlog_at <= BACKLOG_BYTES:
            self.unblock(BLOCK_BACKLOG)
        return 0

    cdef int resume(self) except -1:
        return self.unblock(BLOCK_FULL)

    # -- flow control ---------------------------------------------------------------------------------------

    cdef int block(self, int why) except -1:
        self.blocked |= why
        if self.reading and self.transport is not None:
            self.reading = False
            self.transport.pause_reading()
        return 0

    cdef int unblock(self, int why) except -1:
        self.blocked &= ~why
        if self.blocked or self.closed or self.state >= STATE_CLOSING:
            return 0
        if self.inbox.n:
            self.use_inbox()
        if not self.blocked and not self.closed and not self.reading:
            self.reading = True
            self.transport.resume_reading()
        return 0

    cdef int flush(self) except -1:
        cdef ssize_t sent = 0
        if self.closed:
            self.out.n = 0
            return 0
        if self.overrun or self.blocked & BLOCK_UNREAD and self.out.n > OUT_LIMIT:
            return self.reject(f"{self.out.n} bytes of replies and events are unread")
        if self.blocked & BLOCK_UNREAD:
            return 0
        if self.out.n:
            if self.fd >= 0:
                sent = c_send(self.fd, self.out.p, self.out.n, MSG_DONTWAIT | MSG_NOSIGNAL)
                if sent < 0:
                    if errno != EAGAIN and errno != EINTR:
                        self.abort()
                        return 0
                    sent = 0
            if <size_t>sent < self.out.n:
                # The transport keeps the rest and calls pause_writing.
                self.transport.write((<const uint8_t*>self.out.p + sent)[:self.out.n - sent])
            self.out.n = 0
            if self.out.cap > KEEP_BYTES:
                out_free(&self.out)
        if self.state == STATE_CLOSING and self.transport is not None:
            self.transport.close()
        return 0

    cdef int finish(self) except -1:
        # Close once everything is sent. No event follows the last reply.
        self.state = STATE_CLOSING
        self.since_ns = fz_monotonic_ns()
        self.service.leaving.add(self)
        self.forget_watches()
        self.service.clients.mark(self)
        return 0

    cdef int forget_watches(self) except -1:
        cdef bint many = self.watch_count > MANY_WATCHES
        self.service.watches.forget(self)
        if many:
            fz_trim()                                # so many small pieces the allocator keeps, if it is not told
        return 0

    cdef int cut(self, str reason) except -1:
        if self.closed:
            return 0
        logger.info("connection closed address=%s session=0x%x reason=%s", self.host, self.session_id, reason)
        return self.leave()

    cdef int leave(self) except -1:
        # Close, behind what it was answered before.
        self.flush()
        if self.blocked & BLOCK_UNREAD:
            self.abort()                             # it would take for ever to tell it
        else:
            self.close()
        return 0

    cdef int reject(self, str reason) except -1:
        logger.warning("connection closed address=%s session=0x%x reason=%s", self.host, self.session_id, reason)
        self.abort()
        return 0

    def close(self) -> None:
        """Close once everything given to the transport is sent."""
        self.closed = True
        self.state = STATE_CLOSED
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close now; unsent replies are lost."""
        self.closed = True
        self.state = STATE_CLOSED
        if self.transport is not None:
            self.transport.abort()

    def end(self) -> None:
        """The session ended otherwise than by this connection's own request: close."""
        if not self.closing_session and not self.closed:
            self.finish()

    # -- sessions ---------------------------------------------------------------------------------------------

    cdef int handshake(self, const uint8_t* p, size_t n) except -1:
        # ConnectRequest: protocolVersion, lastZxidSeen, timeOut, sessionId, passwd, and since 3.4 readOnly.
        cdef Service service = self.service
        cdef Reader r
        cdef int64_t seen, session
        cdef int32_t timeout
        cdef Span password
        reader_init(&r, p, n)
        get_i32(&r)
        seen = get_i64(&r)
        timeout = get_i32(&r)
        session = get_i64(&r)
        password = get_span(&r)
        if r.bad:
            return self.reject("a malformed connect request")
        if service.leaderless or service.throttle is not None and not service.throttle(session != 0):
            self.abort()
            return 0
        self.has_read_only = r.p < r.end
        if service.read_only and not (self.has_read_only and r.p[0]):
            logger.info("connection closed address=%s session=0x%x reason=%s", self.host, session,
                        "there is no leader, and the client has not asked for a read-only server")
            self.abort()
            return 0
        service.newcomers.discard(self)
        self.received += 1
        service.clients.received += 1
        if seen > service.clients.zxid:
            return self.reject(f"the client has seen zxid 0x{seen:x}, "
                               f"this server's last one is 0x{service.clients.zxid:x}")
        self.timeout_ms = service.sessions.negotiate(timeout)
        if session == 0 and (service.local_sessions or service.read_only):
            return self.open_local()
        if session == 0:
            self.session_id = service.sessions.new_id()
            self.state = STATE_CONNECTING
            self.block(BLOCK_CONNECT)
            return service.pipeline.create_session(self, self.session_id, self.timeout_ms)
        proof = password.p[:password.n] if password.n > 0 else b""
        known = service.sessions.get(session)
        if known is not None and known.local:
            return self.go_on_with(session, proof)
        if service.read_only and (
            known is not None
            or compare_digest(proof, service.sessions.password(session)) and service.sessions.may_be_elsewhere(session)
        ):
            # It may go on where there is a leader. "Expired" would be wrong, and is for a leader to say.
            logger.info("connection closed address=%s session=0x%x reason=%s", self.host, session,
                        "there is no leader to go on with this session")
            self.abort()
            return 0
        if service.pipeline.shared and compare_digest(proof, service.sessions.password(session)):
            # The leader knows whether it has ended, and has to know where its client is.
            self.session_id = session
            self.state = STATE_CONNECTING
            self.block(BLOCK_CONNECT)
            return service.pipeline.revalidate(self, session, self.timeout_ms)
        return self.go_on_with(session, proof)

    cdef int open_local(self) except -1:
        # A session of this server alone; nobody is asked.
        cdef Service service = self.service
        self.session_id = service.sessions.open_local(self.timeout_ms, read_only=service.read_only)
        service.sessions.attached(self.session_id, self)
        self.state = STATE_OPEN
        return self.put_session(True)

    cdef int go_on_with(self, int64_t session, bytes proof) except -1:
        # With a session that another connection had.
        if not self.service.sessions.attach(session, proof, self):
            logger.info("session refused address=%s session=0x%x reason=%s", self.host, session,
                        "expired, closed or wrong password")
            self.put_session(False)
            return self.finish()
        self.session_id = session
        self.state = STATE_OPEN
        return self.put_session(True)

    cdef int revalidated(self, bint valid) except -1:
        if self.state != STATE_CONNECTING:
            return 0
        self.go_on_with(self.session_id, self.service.sessions.password(self.session_id) if valid else b"")
        return self.unblock(BLOCK_CONNECT)

    cdef int opened(self) except -1:
        if self.state != STATE_CONNECTING:
            return 0
        self.state = STATE_OPEN
        self.service.sessions.attached(self.session_id, self)
        self.put_session(True)
        return self.unblock(BLOCK_CONNECT)

    cdef int refused(self) except -1:
        # No answer but a closed connection: the client tries the next server.
        if self.state == STATE_OPEN:
            self.local = True                        # its upgrade failed: it stays as it is
            return 0
        return self.reject("no space to record its session")

    cdef int put_session(self, bint valid) except -1:
        # ConnectResponse; without the readOnly byte for clients that do not know it.
        cdef OutBuf* out = &self.out
        cdef bytes password = self.service.sessions.password(self.session_id) if valid else bytes(16)
        put_i32(out, 37 if self.has_read_only else 36)
        put_i32(out, 0)
        put_i32(out, self.timeout_ms if valid else 0)
        put_i64(out, self.session_id if valid else 0)
        put_span(out, <const uint8_t*>password, 16)
        if self.has_read_only:
            put_u8(out, self.service.read_only)
        self.service.clients.account(self, OP_CREATE_SESSION, 0, self.service.clients.zxid, self.heard_ns,
                                     fz_monotonic_ns())
        return self.service.clients.mark(self)

    cdef int add_auth(self, int32_t xid, Reader* r) except -1:
        # AuthPacket: type, scheme, auth. Answered at once, before what is under way, as ZooKeeper does.
        cdef Span scheme
        cdef Span data
        cdef bint ok
        get_i32(r)
        scheme = get_span(r)
        data = get_span(r)
        if r.bad:
            return self.reject("a malformed auth request")
        ok = self.service.authenticate(
            self,
            (scheme.p[:scheme.n] if scheme.n > 0 else b"").decode("utf-8", "replace"),
            data.p[:data.n] if data.n >= 0 else None)
        if self.auth.n > IDENTITY_BYTES:
            return self.reject(f"{self.auth.n} bytes of identities, {IDENTITY_BYTES} are allowed")
        put_reply(self, xid, 0, ERR_OK if ok else ERR_AUTH_FAILED)
        if not ok:
            return self.finish()
        return self.service.clients.mark(self)

    cdef int sasl(self, int32_t xid, Reader* r) except -1:
        # GetSASLRequest: a token. Answered at once like auth; a token of None is an answer, too.
        cdef Span token
        cdef bytes answer
        cdef int32_t err
        cdef size_t start
        token = get_span(r)
        if r.bad or token.n < 0:
            return self.reject("a malformed SASL request")
        answer, self.negotiation, err = self.service.sasl(
            self, self.negotiation, token.p[:token.n] if token.n > 0 else b"")
        start = begin_reply(self, xid, 0, err)
        put_span(&self.out, <const uint8_t*>answer if answer is not None else NULL,
                 <int32_t>len(answer) if answer is not None else -1)
        end_reply(self, start)
        if err != ERR_OK:
            return self.finish()
        return self.service.clients.mark(self)

    cdef bint prove(self, int32_t xid) except -1:
        # Whether the client has one of the required schemes; if not it is told so, and closed.
        cdef frozenset required = self.service.required
        schemes = [scheme for scheme, _ in self.identities()]
        if not required.isdisjoint(schemes):
            self.unproven = False
            return True
        reason = f"it has authenticated by {', '.join(schemes)} only, needed is {' or '.join(sorted(required))}"
        logger.warning(
            "connection closed address=%s session=0x%x reason=%s", self.host, self.session_id, reason)
        put_reply(self, xid, 0, ERR_SESSION_CLOSED_REQUIRE_SASL_AUTH)
        self.finish()
        return False

    # -- what four-letter words show ----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the connection has a session."""
        return self.state == STATE_OPEN

    @property
    def is_reading(self) -> bool:
        """Whether the server takes more of it."""
        return self.blocked == 0

    @property
    def queued(self) -> int:
        """Bytes of replies that the client has not taken."""
        return self.out.n + (self.transport.get_write_buffer_size() if self.transport is not None else 0)
