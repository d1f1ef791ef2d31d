"""The way of a write on a server that follows: the leader decides it, this server applies and answers it.

A request takes an entry in a ring and a place in this turn's FORWARD frame (``_forward.pxd`` has the layout), which
leaves at the end of the turn. The leader's OUTCOME says, in the same order, what becomes of each: it has the
transaction number z, or it is answered with an error once transaction z is applied. Both come before the batch that
has the transaction, on the same connection, so whatever was committed finds its entry *marked*, if it has one here.

Committed batches are applied in order, transaction by transaction. One that is the oldest entry's is answered with
its result, as by the leader itself. Between two transactions those entries are answered whose turn has come. So a
client sees what it would see if it were connected to the leader, a moment later.

A sync's outcome comes late, after a quorum has confirmed the leader. Entries behind it wait for it, and with them the
first of their transactions: the batches from there on wait in ``batches``. What comes before is applied, since a sync
promises that its client sees no less than what was committed when it asked.

What must hold: entries are answered in the order of their arrival; a transaction whose entry is here is applied when
that entry is the oldest, never before; the transactions of entries are numbered in the order of the entries.
"""

from collections import deque

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.ref cimport Py_DECREF
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastzk._codec cimport (
    fz_load64, fz_store32, fz_store64, get_i32, get_i64, get_span, out_free, out_room, reader_init, Span,
)
from fastzk._constants cimport OP_CLOSE_SESSION, OP_CREATE_SESSION, OP_SYNC
from fastzk._log cimport LOG_HEADER_BYTES, Batch
from fastzk.server._apply import ApplyError
from fastzk.server._clients cimport fz_monotonic_ns, fz_wall_ms
from fastzk.server._forward cimport (
    FORWARD_HEADER_BYTES, FORWARD_LOCAL, OP_REVALIDATE, OUTCOME_ECHO, OUTCOME_ERROR, OUTCOME_MULTI_FAILED,
    OUTCOME_SYNC, OUTCOME_TXN,
    OUTCOME_TXN_PLANNED,
)
from fastzk.server._line cimport (
    KIND_ASKED, KIND_ECHO, KIND_ERROR, KIND_MULTI_FAILED, KIND_SYNC, KIND_SYNC_ASKED, KIND_TXN, is_greeting,
)

cdef enum:
    FRAME_BYTES = 256 << 10      # a frame leaves when it has so many, though the turn is not over
    KEEP_BYTES = 1 << 20
    TXN_MIN = 32                 # bytes of a transaction's header


cdef class Following(Line):
    """Forwards writes to the leader and applies what is committed."""

    def __cinit__(self, loop, Clients clients, Applier applier, int64_t limit, on_failure) -> None:
        self.loop = loop
        self.clients = clients
        self.applier = applier
        self.limit = limit
        self.on_failure = on_failure
        self.shared = True
        self.batches = deque()
        self.mask = 1023
        self.ring = <Entry*>calloc(self.mask + 1, sizeof(Entry))
        if self.ring == NULL:
            raise MemoryError("no memory for requests under way")
        self.head = self.tail = self.next_own = 1

    def __dealloc__(self) -> None:
        cdef Entry* entry
        if self.ring != NULL:
            while self.head != self.tail:
                entry = &self.ring[self.head & self.mask]
                free(entry.text)
                if entry.client != NULL:
                    Py_DECREF(<object>entry.client)
                self.head += 1
        free(self.ring)
        out_free(&self.frame)

    @property
    def unapplied(self) -> int:
        """Committed batches that wait for the answer to a sync before they can be applied."""
        return len(self.batches) + (self.batch is not None)

    # -- in -----------------------------------------------------------------------------------------------

    cdef Entry* enter(self, Client client, int32_t kind, int32_t op, int32_t xid, int64_t now_ns) except NULL:
        cdef Entry* moved
        cdef Entry* entry
        cdef uint64_t i
        cdef uint64_t mask
        if self.tail - self.head > self.mask:
            mask = self.mask * 2 + 1
            moved = <Entry*>calloc(mask + 1, sizeof(Entry))
            if moved == NULL:
                raise MemoryError("no memory for requests under way")
            for i in range(self.head, self.tail):
                moved[i & mask] = self.ring[i & self.mask]
            free(self.ring)
            self.ring = moved
            self.mask = mask
        entry = &self.ring[self.tail & self.mask]
        self.tail += 1
        self.fill(entry, client, kind, op, xid, now_ns)
        return entry

    cdef int ask(self, int64_t session, int32_t xid, int32_t op, const OutBuf* auth, const uint8_t* body,
                 size_t n) except -1:
        # The leader has to decide the request that took the last place in the line.
        cdef size_t n_auth = auth.n if auth != NULL else 0
        cdef uint8_t* p
        if self.frame.n == 0:
            self.number += 1
            p = out_room(&self.frame, FORWARD_HEADER_BYTES)
            fz_store64(p, <uint64_t>self.stream)
            fz_store64(p + 8, <uint64_t>self.number)
            self.frame.n = FORWARD_HEADER_BYTES
        p = out_room(&self.frame, 32 + n_auth + n)
        fz_store64(p, self.tail - 1)
        fz_store64(p + 8, <uint64_t>session)
        fz_store32(p + 16, <uint32_t>xid)
        fz_store32(p + 20, <uint32_t>op)
        fz_store32(p + 24, <uint32_t>n_auth)
        p += 28
        if n_auth:
            memcpy(p, auth.p, n_auth)
            p += n_auth
        fz_store32(p, <uint32_t>n)
        if n:
            memcpy(p + 4, body, n)
        self.frame.n += 32 + n_auth + n
        if self.frame.n >= FRAME_BYTES:
            self.send()
        return 0

    cdef int send(self) except -1:
        if self.frame.n:
            frame = (<const uint8_t*>self.frame.p)[:self.frame.n]
            self.frame.n = 0
            if self.frame.cap > KEEP_BYTES:
                out_free(&self.frame)
            self.send_forward(frame)
        return 0

    def end_of_turn(self) -> None:
        """Send the leader what was asked in this turn; the line has the loop call it."""
        self.scheduled = False
        try:
            self.send()
            self.resume()
            self.clients.flush()
        except Exception as error:
            self.on_failure(error)

    cdef int write(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t now_ns) except -1:
        cdef int64_t length = r.end - r.p + 8
        cdef Entry* entry
        if not self.active:
            return client.cut("there is no leader")
        entry = self.enter(client, KIND_ASKED, op, xid, now_ns)
        if length > self.large_threshold:
            entry.large = length
            self.large_bytes += length
        return self.ask(
            client.session_id, xid, op | FORWARD_LOCAL if client.local else op, &client.auth, r.p, r.end - r.p)

    cdef Entry* enter_sync(self, Client client, int32_t xid, int64_t now_ns) except NULL:
        self.enter(client, KIND_SYNC_ASKED, OP_SYNC, xid, now_ns)
        self.ask(
            client.session_id, xid, OP_SYNC | FORWARD_LOCAL if client.local else OP_SYNC, &client.auth, NULL, 0)
        return &self.ring[(self.tail - 1) & self.mask]

    cdef int sync(self, Client client, Reader* r, int32_t xid, int64_t now_ns) except -1:
        if not self.active:
            return client.cut("there is no leader")
        return Line.sync(self, client, r, xid, now_ns)

    cdef int close_session(self, Client client, int64_t session, int32_t xid, int64_t now_ns) except -1:
        if not self.active:
            self.on_close_refused([session])
            return client.cut("there is no leader")
        self.enter(client, KIND_ASKED, OP_CLOSE_SESSION, xid, now_ns)
        return self.ask(session, xid, OP_CLOSE_SESSION, &client.auth, NULL, 0)

    cdef int create_session(self, Client client, int64_t session, int32_t timeout) except -1:
        cdef uint8_t body[4]
        if not self.active:
            return client.refused()
        fz_store32(body, <uint32_t>timeout)
        self.enter(client, KIND_ASKED, OP_CREATE_SESSION, 0, fz_monotonic_ns())
        return self.ask(session, 0, OP_CREATE_SESSION, NULL, body, 4)

    cdef int revalidate(self, Client client, int64_t session, int32_t timeout) except -1:
        cdef uint8_t body[4]
        if not self.active:
            return client.cut("there is no leader")
        fz_store32(body, <uint32_t>timeout)
        self.enter(client, KIND_ASKED, OP_REVALIDATE, 0, fz_monotonic_ns())
        return self.ask(session, 0, OP_REVALIDATE, NULL, body, 4)

    # -- what the leader says -------------------------------------------------------------------------------

    def follow(self) -> None:
        """There is a leader, and everything up to its opening batch is applied: take requests from now on."""
        if self.active:
            raise RuntimeError("it follows already")
        self.active = True
        # Greater than the last one, also of this server's life before.
        self.stream = max(self.stream + 1, fz_wall_ms() << 10)
        self.number = 0

    cpdef outcome(self, frame, Py_ssize_t skip=0):
        """What the leader says of the requests. One of an earlier stretch of following is ignored."""
        cdef Py_buffer view
        PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
        try:
            if view.len <= skip:
                raise ValueError("an empty frame of outcomes")
            self.take_outcomes(<const uint8_t*>view.buf + skip, view.len - skip)
        finally:
            PyBuffer_Release(&view)

    cdef int take_outcomes(self, const uint8_t* p, Py_ssize_t n) except -1:
        cdef Reader r
        reader_init(&r, p, n)
        if get_i64(&r) != self.stream or not self.active:
            return 0
        if r.p == r.end:
            raise ValueError("a frame of outcomes is cut short")
        while r.p < r.end:
            self.take(&r)
        self.advance()
        self.settle()
        return 0

    cdef int take(self, Reader* r) except -1:
        # One outcome marks its entry.
        cdef uint64_t seq = <uint64_t>get_i64(r)
        cdef int32_t status = get_i32(r)
        cdef int64_t zxid = get_i64(r)
        cdef Entry* entry
        cdef Span text
        if r.bad:
            raise ValueError("a frame of outcomes is cut short")
        if seq < self.head or seq >= self.tail:
            raise ValueError(f"an outcome of request {seq}, those from {self.head} to {self.tail} are under way")
        entry = &self.ring[seq & self.mask]
        if entry.kind == KIND_SYNC_ASKED:
            if status != OUTCOME_SYNC and status != OUTCOME_ERROR:
                raise ValueError(f"an outcome of status {status} for a sync")
        elif entry.kind != KIND_ASKED or status == OUTCOME_SYNC:
            raise ValueError(f"an outcome of status {status} for an entry of kind {entry.kind}")
        if status == OUTCOME_TXN or status == OUTCOME_TXN_PLANNED:
            if zxid <= self.applier.zxid:
                raise ValueError(f"the outcome 0x{zxid:x} comes after its transaction")
            if status == OUTCOME_TXN_PLANNED:
                text = get_span(r)
                if text.n < 0:
                    raise ValueError("a frame of outcomes is cut short")
                self.keep_text(entry, text.p, text.n)
            entry.kind = KIND_TXN
        elif status == OUTCOME_ERROR:
            entry.err = get_i32(r)
            entry.kind = KIND_ERROR
        elif status == OUTCOME_MULTI_FAILED:
            entry.multi_count = get_i32(r)
            entry.multi_failed = get_i32(r)
            entry.err = get_i32(r)
            entry.kind = KIND_MULTI_FAILED
        elif status == OUTCOME_SYNC:
            entry.kind = KIND_SYNC
        elif status == OUTCOME_ECHO:
            text = get_span(r)
            if text.n < 0:
                raise ValueError("a frame of outcomes is cut short")
            self.keep_text(entry, text.p, text.n)
            entry.kind = KIND_ECHO
        else:
            raise ValueError(f"an outcome of the unknown status {status}")
        entry.zxid = zxid
        if r.bad:
            raise ValueError("a frame of outcomes is cut short")
        return 0

    def committed(self, batch) -> None:
        """Apply the next batch (one of the log, or its payload), which is committed, and answer."""
        self.batches.append(batch)
        self.advance()
        self.settle()

    # -- out ------------------------------------------------------------------------------------------------

    cdef bint next_batch(self) except -1:
        # Whether there is anything left to apply; then it is at `at`.
        cdef Batch batch
        while self.left == 0:
            self.batch = None
            self.view = None
            if not self.batches:
                return False
            self.batch = self.batches.popleft()
            if isinstance(self.batch, Batch):
                batch = self.batch
                self.at = batch.buf + LOG_HEADER_BYTES
                self.left = batch.length
            else:
                self.view = self.batch
                self.left = self.view.shape[0]
                if self.left:
                    self.at = &self.view[0]
        return True

    cdef const uint8_t* peek(self, uint32_t* n, int64_t* zxid) except? NULL:
        # The next transaction; NULL: there is none. What was applied before is left out.
        cdef int64_t applied = self.applier.zxid
        while self.next_batch():
            if self.left < 4:
                raise ApplyError("a committed batch is cut short")
            memcpy(n, self.at, 4)
            if n[0] < TXN_MIN or self.left - 4 < n[0]:
                raise ApplyError("a committed batch is cut short")
            zxid[0] = <int64_t>fz_load64(self.at + 16)
            if zxid[0] > applied:
                # The next one, or number 1 of a later epoch.
                if zxid[0] != applied + 1 and (<uint32_t>zxid[0] != 1 or zxid[0] >> 32 <= applied >> 32):
                    raise ApplyError(f"transaction 0x{zxid[0]:x} does not follow 0x{applied:x}")
                return self.at + 4
            self.left -= 4 + n[0]
            self.at += 4 + n[0]
        return NULL

    cdef int advance(self) except -1:
        # Answer whatever has its turn, apply whatever may be.
        cdef Entry* entry
        cdef const uint8_t* txn
        cdef uint32_t n
        cdef int64_t zxid
        cdef int64_t now_ns
        cdef bint own
        if self.advancing:
            return 0                                 # what is answered just now led here
        self.advancing = True
        now_ns = fz_monotonic_ns()
        try:
            while True:
                while self.head != self.tail:
                    entry = &self.ring[self.head & self.mask]
                    if (
                        entry.kind == KIND_ASKED or entry.kind == KIND_SYNC_ASKED or entry.kind == KIND_TXN
                        or entry.zxid > self.applier.zxid
                    ):
                        break
                    self.pop(NULL, 0, now_ns)
                txn = self.peek(&n, &zxid)
                if txn == NULL:
                    break
                # The first entry with a transaction. Nobody's outcome is overtaken by a batch but a sync's.
                while self.next_own != self.tail:
                    entry = &self.ring[self.next_own & self.mask]
                    if entry.kind == KIND_TXN or entry.kind == KIND_ASKED:
                        break
                    self.next_own += 1
                own = False
                if self.next_own != self.tail:
                    entry = &self.ring[self.next_own & self.mask]
                    own = entry.kind == KIND_TXN and entry.zxid == zxid
                    if entry.kind == KIND_TXN and entry.zxid < zxid:
                        raise ValueError(f"the leader announced transaction 0x{entry.zxid:x}, 0x{zxid:x} comes first")
                if own and self.next_own != self.head:
                    break                            # a sync before it is not answered
                self.left -= 4 + n
                self.at += 4 + n
                self.txns += 1
                if own:
                    self.pop(txn, n, now_ns)
                else:
                    self.applier.apply(txn, n, NULL)
                    self.clients.zxid = self.applier.zxid
        finally:
            self.advancing = False
        if self.pending == 0 and self.idle is not None:
            self.idle()
        return 0

    cdef int pop(self, const uint8_t* txn, uint32_t n, int64_t now_ns) except -1:
        # The oldest entry's turn has come; with its transaction, if it has one. It is copied: the ring may move when
        # clients go on.
        cdef Entry entry = self.ring[self.head & self.mask]
        cdef Client client = self.release(&entry)
        self.head += 1
        if self.next_own < self.head:
            self.next_own = self.head
        try:
            if txn != NULL:
                self.carry_out(&entry, client, txn, n, now_ns)
            elif client is not None and not client.closed:
                self.answer(&entry, client, now_ns)
        finally:
            free(entry.text)
        if client is not None and not client.closed and not is_greeting(entry.op):
            client.drain()
        return 0

    def close(self, reason: str) -> None:
        """There is no leader to ask any more: close the clients that wait for an answer, which is not known."""
        cdef Entry entry
        if self.advancing:
            raise RuntimeError("a line cannot be closed while it answers")
        self.active = False
        self.frame.n = 0
        ending = []
        while self.head != self.tail:
            entry = self.ring[self.head & self.mask]
            self.head += 1
            self.next_own = self.head
            if entry.op == OP_CLOSE_SESSION and entry.client != NULL:
                ending.append((<Client>entry.client).session_id)
            self.drop(&entry, reason)
        if ending:
            self.on_close_refused(ending)            # should it not come to that
        self.advance()                               # what is committed is applied, whoever asked for it
        self.release_stalled()
        self.clients.flush()
