"""The way of a write: prepare, log, apply, answer.

A request that needs the log is validated and encoded at once into the *open round*: a log batch and, in the
same order, the entries of those who wait for it. Rounds close when the log becomes free, so a batch is as
large as the disk is slow: group commit without timers. While the log thread works, the next round fills. When
a batch is durable its transactions are applied one by one, each answered before the next is applied, and the
replies of one round leave in one write per client.

An error, a failed multi or a sync also takes an entry: it was decided on changes that may not be durable yet,
and its reply keeps its place in the session's order. With nothing under way it is answered at once.

What must hold: an entry of kind TXN has exactly one record in its round's batch, in the same order; rounds are
finished in the order in which they were submitted; nothing is applied before it is durable; a client's
``pending`` counts its entries, and what it asked behind them waits until they are answered.
"""

import re
from collections import deque

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from fastzk._codec cimport (
    Span, fz_load64, get_span, out_free, out_room, put_i32, put_span, put_u8, reader_init,
)
from fastzk._constants cimport (
    ERR_MARSHALLING, ERR_NOT_READ_ONLY, ERR_OK, ERR_RUNTIME_INCONSISTENCY,
    OP_CHECK, OP_CLOSE_SESSION, OP_CREATE_SESSION, OP_DELETE_CONTAINER, OP_ERROR, OP_SYNC,
)
from fastzk._log cimport LOG_HEADER_BYTES
from fastzk.server._clients cimport begin_reply, end_reply, fz_monotonic_ns, fz_wall_ms, put_reply

SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")

cdef enum:
    ROUND_MAX = 4 << 20          # payload bytes at which a round closes though the log is busy


cdef inline int64_t following(int64_t zxid) noexcept nogil:
    # The next zxid. Number 0 of an epoch is never a transaction's, so that an epoch can be named by it.
    return zxid + 1 if <uint32_t>(zxid + 1) else zxid + 2


cdef class Round:
    """A batch and the entries that belong to it."""

    def __cinit__(self) -> None:
        self.batch = Batch()

    def __dealloc__(self) -> None:
        cdef uint32_t i
        for i in range(self.size):
            free(self.entries[i].text)
            if self.entries[i].client != NULL:
                Py_DECREF(<object>self.entries[i].client)
        free(self.entries)

    cdef Entry* add(self) except NULL:
        cdef Entry* moved
        cdef uint32_t capacity
        if self.size >= self.capacity:
            capacity = self.capacity * 2 or 64
            moved = <Entry*>realloc(self.entries, capacity * sizeof(Entry))
            if moved == NULL:
                raise MemoryError("no memory for a round of requests")
            self.entries = moved
            self.capacity = capacity
        self.size += 1
        memset(&self.entries[self.size - 1], 0, sizeof(Entry))
        return &self.entries[self.size - 1]

    cdef int clear(self) except -1:
        # All entries are answered; their references went with that.
        self.size = 0
        self.batch.clear()
        return 0


cdef class Pipeline:
    """Orders, logs, applies and answers the writes of this server."""

    def __cinit__(self, loop, Clients clients, Overlay overlay, Preparer preparer, Applier applier, TxnLog log,
                  int64_t limit, on_failure) -> None:
        self.loop = loop
        self.clients = clients
        self.overlay = overlay
        self.preparer = preparer
        preparer.quotas = applier.quotas
        self.applier = applier
        self.log = log
        self.limit = limit
        self.on_failure = on_failure
        self.in_flight = deque()
        self.spare = []
        self.stalled = deque()
        self.open = Round()
        self.large_threshold = INT64_MAX
        self.next_zxid = following(applier.zxid)
        clients.zxid = applier.zxid
        self.submit_turn = self.end_of_turn

    def __dealloc__(self) -> None:
        out_free(&self.body)

    cdef Round fresh_round(self):
        return self.spare.pop() if self.spare else Round()

    # -- in -----------------------------------------------------------------------------------------------

    cdef Entry* enter(self, Client client, int32_t kind, int32_t op, int32_t xid, int64_t now_ns) except NULL:
        cdef Entry* entry = self.open.add()
        entry.kind = kind
        entry.op = op
        entry.xid = xid
        entry.began_ns = now_ns
        if client is not None:
            Py_INCREF(client)
            entry.client = <PyObject*>client
            client.pending += 1
        self.pending += 1
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.submit_turn)
        return entry

    cdef int log_txn(self) except -1:
        # The transaction that the preparer made goes into the open batch.
        cdef Batch batch = self.open.batch
        cdef size_t n = self.preparer.txn.n
        cdef uint8_t* p = batch.reserve(n + 4)
        cdef uint32_t length = <uint32_t>n
        memcpy(p, &length, 4)                        # little-endian, like everything of the log's own
        memcpy(p + 4, self.preparer.txn.p, n)
        batch.length += n + 4
        if batch.count == 0:
            batch.first_zxid = self.next_zxid
        batch.last_zxid = self.next_zxid
        batch.count += 1
        self.next_zxid = following(self.next_zxid)
        self.txns += 1
        if batch.length >= ROUND_MAX or self.next_zxid >> 32 != batch.first_zxid >> 32:
            self.submit()                            # a batch is of one epoch
        return 0

    cdef int write(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t now_ns) except -1:
        # A client's request to change something.
        cdef int32_t err
        cdef int64_t length = r.end - r.p + 8
        cdef Entry* entry
        if self.read_only:
            return self.refuse(client, op, xid, ERR_NOT_READ_ONLY, now_ns)
        err = self.preparer.prepare(client, op, r, xid, self.next_zxid, fz_wall_ms())
        if err:
            return self.refuse(client, op, xid, err, now_ns)
        if self.preparer.multi_count:
            entry = self.enter(client, KIND_MULTI_FAILED, op, xid, now_ns)
            entry.err = self.preparer.multi_error
            entry.multi_count = self.preparer.multi_count
            entry.multi_failed = self.preparer.multi_failed
            return 0
        if op == OP_CHECK:
            return self.refuse(client, op, xid, ERR_OK, now_ns)      # nothing to log: a header says it held
        entry = self.enter(client, KIND_TXN, op, xid, now_ns)
        if length > self.large_threshold:
            entry.large = length
            self.large_bytes += length
        return self.log_txn()

    cdef int refuse(self, Client client, int32_t op, int32_t xid, int32_t err, int64_t now_ns) except -1:
        # Answer with a header alone, in the client's and the changes' order.
        cdef Entry* entry
        if self.pending == 0:
            put_reply(client, xid, self.clients.zxid, err)
            self.clients.account(client, op, xid, self.clients.zxid, now_ns, fz_monotonic_ns())
            self.clients.mark(client)
            if op == OP_CLOSE_SESSION:
                client.finish()
            return 0
        entry = self.enter(client, KIND_ERROR, op, xid, now_ns)
        entry.err = err
        return 0

    cdef int sync(self, Client client, Reader* r, int32_t xid, int64_t now_ns) except -1:
        cdef Span path = get_span(r)
        cdef Entry* entry
        cdef bytes text
        if r.bad:
            return self.refuse(client, OP_SYNC, xid, ERR_MARSHALLING, now_ns)
        if path.n < 0:
            entry = self.enter(client, KIND_SYNC, OP_SYNC, xid, now_ns)
            entry.text_n = -1
            return 0
        text = path.p[:path.n]
        try:
            text.decode()
        except UnicodeDecodeError:
            # Java makes one U+FFFD of an encoded surrogate, Python three; of anything else both make the same.
            text = SURROGATE.sub(b"\xef\xbf\xbd", text).decode("utf-8", "replace").encode()
        entry = self.enter(client, KIND_SYNC, OP_SYNC, xid, now_ns)
        entry.text = <uint8_t*>malloc(len(text) + 1)
        if entry.text == NULL:
            raise MemoryError("no memory for a sync")
        memcpy(entry.text, <const uint8_t*>text, len(text))
        entry.text_n = <int32_t>len(text)
        return 0

    cdef int close_session(self, Client client, int64_t session, int32_t xid, int64_t now_ns) except -1:
        # By its client, or with `client` None because it expired.
        if self.read_only:
            self.on_close_refused([session])
            if client is not None:
                self.refuse(client, OP_CLOSE_SESSION, xid, ERR_NOT_READ_ONLY, now_ns)
            return 0
        self.preparer.close_session(session, self.next_zxid, fz_wall_ms(), xid)
        self.enter(client, KIND_TXN, OP_CLOSE_SESSION, xid, now_ns)
        return self.log_txn()

    cdef int create_session(self, Client client, int64_t session, int32_t timeout) except -1:
        # `client.opened()` follows when the session is durable, `client.refused()` if that cannot be.
        if self.read_only:
            client.refused()
            return 0
        self.preparer.create_session(session, timeout, self.next_zxid, fz_wall_ms())
        self.enter(client, KIND_TXN, OP_CREATE_SESSION, 0, fz_monotonic_ns())
        return self.log_txn()

    def expire_session(self, session: int) -> None:
        """Propose the end of a session that was not heard of for its timeout."""
        self.close_session(None, session, 0, fz_monotonic_ns())

    def reap(self, path: bytes) -> bool:
        """Propose the deletion of a container or TTL znode; whether it could be proposed."""
        cdef bytes request = len(path).to_bytes(4, "big") + path
        cdef Reader r
        if self.read_only:
            return False
        if self.overlay.find(path, <int32_t>len(path), self.preparer.tree.hash(path, <int32_t>len(path))) != NULL:
            return False                             # somebody uses it just now
        self.preparer.begin(0, 0, self.next_zxid, fz_wall_ms(), OP_DELETE_CONTAINER)
        reader_init(&r, request, len(request))
        if self.preparer.delete(None, &r, self.next_zxid, &self.preparer.txn, True):
            return False
        self.enter(None, KIND_TXN, OP_DELETE_CONTAINER, 0, fz_monotonic_ns())
        self.log_txn()
        return True

    cdef bint full(self) noexcept:
        return self.pending > self.limit

    cdef int stall(self, Client client) except -1:
        # `client.resume()` is called, once, when there is room again.
        self.stalled.append(client)
        return 0

    # -- to the disk --------------------------------------------------------------------------------------

    def end_of_turn(self) -> None:
        """Give the open round to the log, if that is free; runs once per turn of the loop that had writes."""
        self.scheduled = False
        try:
            if not self.in_flight:
                self.submit()
            if self.stalled:
                self.resume()
                self.clients.flush()
        except Exception as error:
            self.on_failure(error)

    cdef int submit(self) except -1:
        cdef Round round = self.open
        if round.size == 0:
            return 0
        if round.batch.count == 0:
            if self.in_flight:
                return 0                             # decided on what is under way: wait for it
            self.open = self.fresh_round()
            self.finish(round)
            self.clients.flush()
            return 0
        self.open = self.fresh_round()
        self.in_flight.append(round)
        self.log.submit(round.batch)
        return 0

    def on_durable(self) -> None:
        """The log's eventfd rang: answer what is durable."""
        cdef Round round
        try:
            done, refused = self.log.take_done()
            if refused:
                self.read_only = True                # what is asked while `done` is answered is refused, too
            for batch in done:
                round = self.in_flight.popleft()
                assert round.batch is batch, "the log finished a batch out of order"
                if not self.in_flight and self.open.batch.count:
                    self.submit()                    # keep the disk busy while this round is answered
                self.finish(round)
            if refused:
                self.no_space()
            if not self.in_flight:
                self.submit()
            self.resume()
            self.clients.flush()
            if self.spinner is not None:
                self.spinner.touch(fz_monotonic_ns())
        except Exception as error:
            self.on_failure(error)

    cdef int resume(self) except -1:
        # As long as there is room, clients that were made to wait go on, in the order in which they came: one that
        # asks for much more stands at the end again.
        cdef Client client
        while self.stalled and self.pending <= self.limit:
            client = self.stalled.popleft()
            client.resume()
        return 0

    # -- out ----------------------------------------------------------------------------------------------

    cdef Client release(self, Entry* entry):
        # The entry's turn has come: it is no longer under way. Who waits for its answer, or None.
        cdef Client client = None
        self.pending -= 1
        self.large_bytes -= entry.large
        if entry.client != NULL:
            client = <Client>entry.client
            Py_DECREF(client)                        # `client` has a reference of its own
            entry.client = NULL
            client.pending -= 1
        return client

    cdef int finish(self, Round round) except -1:
        # Apply the round's transactions and answer its entries.
        cdef uint32_t i
        cdef uint32_t length
        cdef Entry* entry
        cdef Client client
        cdef const uint8_t* at = round.batch.buf + LOG_HEADER_BYTES if round.batch.count else NULL
        cdef int64_t now_ns = fz_monotonic_ns()
        for i in range(round.size):
            entry = &round.entries[i]
            client = self.release(entry)
            if entry.kind == KIND_TXN:
                memcpy(&length, at, 4)
                if client is None or client.closed or entry.op == OP_CREATE_SESSION:
                    self.applier.apply(at + 4, length, NULL)
                    self.clients.zxid = self.applier.zxid
                    if client is not None and not client.closed:
                        client.opened()
                else:
                    # Events of this change go before its reply: the reply begins behind them.
                    self.reply_txn(client, entry, at + 4, length, now_ns)
                self.overlay.settle(self.applier.zxid)
                at += 4 + length
            elif client is not None and not client.closed:
                self.answer(entry, client, now_ns)
            if entry.text != NULL:
                free(entry.text)
                entry.text = NULL
            # What came with its connect request was taken up when its session opened, and waits for its own writes.
            if client is not None and not client.closed and entry.op != OP_CREATE_SESSION:
                client.drain()
        round.clear()
        if len(self.spare) < 4:
            self.spare.append(round)
        if self.pending == 0 and self.idle is not None:
            self.idle()
        return 0

    cdef int reply_txn(self, Client client, Entry* entry, const uint8_t* txn, uint32_t n, int64_t now_ns) except -1:
        cdef OutBuf* body = &self.body
        cdef size_t start
        body.n = 0
        self.applier.apply(txn, n, body)
        self.clients.zxid = self.applier.zxid
        start = begin_reply(client, entry.xid, self.applier.zxid, ERR_OK)
        if body.n:
            memcpy(out_room(&client.out, body.n), body.p, body.n)
            client.out.n += body.n
        end_reply(client, start)
        self.clients.account(client, entry.op, entry.xid, self.applier.zxid, entry.began_ns, now_ns)
        self.clients.mark(client)
        if entry.op == OP_CLOSE_SESSION:
            client.finish()
        return 0

    cdef int answer(self, Entry* entry, Client client, int64_t now_ns) except -1:
        # An entry without a transaction.
        cdef OutBuf* out = &client.out
        cdef size_t start
        cdef int32_t i
        cdef int32_t err
        if entry.kind == KIND_ERROR:
            put_reply(client, entry.xid, self.clients.zxid, entry.err)
        else:
            start = begin_reply(client, entry.xid, self.clients.zxid, ERR_OK)
            if entry.kind == KIND_SYNC:
                put_span(out, entry.text, entry.text_n)
            else:
                for i in range(entry.multi_count):
                    if i < entry.multi_failed:
                        err = ERR_OK
                    else:
                        err = entry.err if i == entry.multi_failed else ERR_RUNTIME_INCONSISTENCY
                    put_i32(out, OP_ERROR)
                    put_u8(out, 0)
                    put_i32(out, err)
                    put_i32(out, err)
                put_i32(out, OP_ERROR)
                put_u8(out, 1)
                put_i32(out, -1)
            end_reply(client, start)
        self.clients.account(client, entry.op, entry.xid, self.clients.zxid, entry.began_ns, now_ns)
        self.clients.mark(client)
        if entry.op == OP_CLOSE_SESSION:
            client.finish()
        return 0

    # -- a full disk ----------------------------------------------------------------------------------------

    cdef int abandon(self, Round round) except -1:
        # Nothing of this round happened: everybody in it is told so.
        cdef uint32_t i
        cdef uint32_t length
        cdef Entry* entry
        cdef Client client
        cdef const uint8_t* at = round.batch.buf + LOG_HEADER_BYTES if round.batch.count else NULL
        for i in range(round.size):
            entry = &round.entries[i]
            client = self.release(entry)
            if entry.kind == KIND_TXN:
                memcpy(&length, at, 4)
                if entry.op == OP_CLOSE_SESSION:     # the transaction begins with the session's id
                    self.on_close_refused([<int64_t>fz_load64(at + 4)])
                at += 4 + length
            free(entry.text)
            entry.text = NULL
            if client is None or client.closed:
                continue
            if entry.op == OP_CREATE_SESSION:
                client.refused()
            else:
                put_reply(client, entry.xid, self.clients.zxid, ERR_NOT_READ_ONLY)
                self.clients.account(
                    client, entry.op, entry.xid, self.clients.zxid, entry.began_ns, fz_monotonic_ns())
                self.clients.mark(client)
                if entry.op == OP_CLOSE_SESSION:
                    client.finish()
                else:
                    client.drain()
        round.clear()
        return 0

    def no_space(self) -> None:
        """The log could not write: what was proposed is refused, and so is every write until there is room."""
        cdef Round round
        self.read_only = True
        rounds = list(self.in_flight)
        self.in_flight.clear()
        rounds.append(self.open)
        self.open = Round()
        self.overlay.clear()
        self.next_zxid = following(self.applier.zxid)
        for round in rounds:
            self.abandon(round)
        self.log.acknowledge_refusal()

    def space_again(self) -> None:
        """There is room on the disk: take writes again."""
        self.read_only = False

    @property
    def idle_callback(self) -> object:
        """Called, while set, whenever the last pending request was answered."""
        return self.idle

    @idle_callback.setter
    def idle_callback(self, callback: object) -> None:
        self.idle = callback
