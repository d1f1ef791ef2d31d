"""The waiting line: requests between their arrival and their answer, and how they are answered.

Every request that cannot be answered at once takes an *entry*, and entries are answered in the order of their
arrival. This is the base of the two ways a write can go: ``_pipeline.Pipeline`` decides it here (standalone, or
leading), ``_following.Following`` has the leader decide it. A connection knows neither: it calls ``service.pipeline``,
a ``Line``, and is called back through its base class ``Client``.

What must hold: a client's ``pending`` counts its entries, and what it asked behind them waits until they are
answered; an entry holds a reference to its client, and gives it back exactly once.
"""

import re
from collections import deque

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastzk._codec cimport Span, get_span, out_free, out_room, put_i32, put_span, put_u8
from fastzk._constants cimport (
    ERR_CONNECTION_LOSS, ERR_MARSHALLING, ERR_OK, ERR_RUNTIME_INCONSISTENCY, ERR_SESSION_MOVED,
    OP_CLOSE_SESSION, OP_CREATE_SESSION, OP_ERROR, OP_REMOVE_RECURSIVE, OP_SYNC,
)
from fastzk.server._clients cimport begin_reply, end_reply, fz_monotonic_ns, put_reply
from fastzk.server._forward cimport OP_REVALIDATE
from fastzk.server._prepare cimport put_planned

SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")


cdef class Line:
    """What ``Pipeline`` and ``Following`` share."""

    def __cinit__(self, *args) -> None:
        self.stalled = deque()
        self.large_threshold = INT64_MAX
        self.turn = self.end_of_turn

    def __dealloc__(self) -> None:
        out_free(&self.body)

    # -- in -----------------------------------------------------------------------------------------------

    cdef int write(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t now_ns) except -1:
        # A client's request to change something.
        raise NotImplementedError

    cdef int close_session(self, Client client, int64_t session, int32_t xid, int64_t now_ns) except -1:
        # By its client, or with `client` None because it expired.
        raise NotImplementedError

    cdef int create_session(self, Client client, int64_t session, int32_t timeout) except -1:
        # `client.opened()` follows when the session is durable, `client.refused()` if that cannot be.
        raise NotImplementedError

    cdef int revalidate(self, Client client, int64_t session, int32_t timeout) except -1:
        # Its client wants to go on with a session over this connection, and knows its password.
        # `client.revalidated()` follows. Asked only of lines that are `shared`.
        raise NotImplementedError

    cdef Entry* enter(self, Client client, int32_t kind, int32_t op, int32_t xid, int64_t now_ns) except NULL:
        # The last place in the line. The pointer is good until the next call.
        raise NotImplementedError

    cdef Entry* enter_sync(self, Client client, int32_t xid, int64_t now_ns) except NULL:
        raise NotImplementedError

    def end_of_turn(self) -> None:
        """Hand on what came in this turn of the event loop; the line has the loop call it."""
        raise NotImplementedError

    def close(self, reason: str) -> None:
        """Nobody leads: close the clients that wait for an answer, which is not known, and take nothing more."""
        raise NotImplementedError

    cdef int fill(self, Entry* entry, Client client, int32_t kind, int32_t op, int32_t xid, int64_t now_ns) except -1:
        memset(entry, 0, sizeof(Entry))
        entry.kind = kind
        entry.op = op
        entry.xid = xid
        entry.began_ns = now_ns
        if client is not None:
            Py_INCREF(client)
            entry.client = <PyObject*>client
            client.pending += 1
        if kind == KIND_REMOTE:
            self.remote += 1
        else:
            self.pending += 1
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.turn)
        return 0

    cdef int refuse(self, Client client, int32_t op, int32_t xid, int32_t err, int64_t now_ns) except -1:
        # Answer with a header alone, in the client's and the changes' order.
        cdef Entry* entry
        if self.pending == 0 and self.remote == 0:
            return self.put_error(client, op, xid, err, now_ns, fz_monotonic_ns())
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
            entry = self.enter_sync(client, xid, now_ns)
            entry.text_n = -1
            return 0
        text = path.p[:path.n]
        try:
            text.decode()
        except UnicodeDecodeError:
            # Java makes one U+FFFD of an encoded surrogate, Python three; of anything else both make the same.
            text = SURROGATE.sub(b"\xef\xbf\xbd", text).decode("utf-8", "replace").encode()
        entry = self.enter_sync(client, xid, now_ns)
        return self.keep_text(entry, text, <int32_t>len(text))

    cdef int keep_text(self, Entry* entry, const uint8_t* text, int32_t n) except -1:
        entry.text = <uint8_t*>malloc(n + 1)
        if entry.text == NULL:
            raise MemoryError("no memory for a request under way")
        memcpy(entry.text, text, n)
        entry.text_n = n
        return 0

    cdef bint full(self) noexcept:
        return self.pending > self.limit

    cdef int stall(self, Client client) except -1:
        # `client.resume()` is called, once, when there is room again.
        self.stalled.append(client)
        return 0

    cdef int resume(self) except -1:
        # As long as there is room, clients that were made to wait go on, in the order in which they came: one that
        # asks for much more stands at the end again.
        cdef Client client
        while self.stalled and self.pending <= self.limit:
            client = self.stalled.popleft()
            client.resume()
        return 0

    cdef int release_stalled(self) except -1:
        # The line takes nothing any more: nobody is left standing in front of it.
        cdef Client client
        while self.stalled:
            client = self.stalled.popleft()
            client.resume()
        return 0

    cdef int settle(self) except -1:
        # The end of whatever answered requests: who waited goes on, and everything is sent.
        self.resume()
        self.clients.flush()
        if self.spinner is not None:
            self.spinner.touch(fz_monotonic_ns())
        return 0

    # -- out ----------------------------------------------------------------------------------------------

    cdef Client release(self, Entry* entry):
        # The entry's turn has come: it is no longer under way. Who waits for its answer, or None.
        cdef Client client = None
        if entry.kind == KIND_REMOTE:
            self.remote -= 1
            return None
        self.pending -= 1
        self.large_bytes -= entry.large
        if entry.client != NULL:
            client = <Client>entry.client
            Py_DECREF(client)                        # `client` has a reference of its own
            entry.client = NULL
            client.pending -= 1
        return client

    cdef int carry_out(self, Entry* entry, Client client, const uint8_t* txn, uint32_t n, int64_t now_ns) except -1:
        # An entry with a transaction: apply it and answer.
        if client is None or client.closed or entry.op == OP_CREATE_SESSION:
            self.applier.apply(txn, n, NULL)
            self.clients.zxid = self.applier.zxid
            if client is not None and not client.closed:
                client.opened()
            return 0
        # Events of this change go before its reply: the reply begins behind them.
        return self.reply_txn(client, entry, txn, n, now_ns)

    cdef int reply_txn(self, Client client, Entry* entry, const uint8_t* txn, uint32_t n, int64_t now_ns) except -1:
        cdef OutBuf* body = &self.body
        cdef size_t start
        body.n = 0
        self.applier.apply(txn, n, body)
        self.clients.zxid = self.applier.zxid
        start = begin_reply(client, entry.xid, self.applier.zxid, ERR_OK)
        if entry.text != NULL:
            put_planned(&client.out, entry.text, entry.text_n, body.p, body.n)
        elif body.n and entry.op != OP_REMOVE_RECURSIVE:
            memcpy(out_room(&client.out, body.n), body.p, body.n)
            client.out.n += body.n
        end_reply(client, start)
        return self.put_account(client, entry.op, entry.xid, entry.began_ns, now_ns)

    cdef int answer(self, Entry* entry, Client client, int64_t now_ns) except -1:
        # An entry without a transaction.
        cdef OutBuf* out = &client.out
        cdef size_t start
        cdef int32_t i
        cdef int32_t err
        if entry.kind == KIND_ERROR:
            return self.put_error(client, entry.op, entry.xid, entry.err, entry.began_ns, now_ns)
        start = begin_reply(client, entry.xid, self.clients.zxid, ERR_OK)
        if entry.kind == KIND_SYNC or entry.kind == KIND_ECHO:
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
        return self.put_account(client, entry.op, entry.xid, entry.began_ns, now_ns)

    cdef int put_error(self, Client client, int32_t op, int32_t xid, int32_t err, int64_t began_ns,
                       int64_t now_ns) except -1:
        if err == ERR_SESSION_MOVED:
            # An error code would not do: a client that has just moved here, while its former server's word for it
            # was on the way, could not tell. Without a connection it moves again, and then it is right.
            return client.cut("its session has moved to another server")
        if err == ERR_CONNECTION_LOSS:
            return client.cut("its request could not be taken")
        if op == OP_REVALIDATE:
            return client.revalidated(err == ERR_OK)
        if op == OP_CREATE_SESSION:
            return client.refused()
        put_reply(client, xid, self.clients.zxid, err)
        return self.put_account(client, op, xid, began_ns, now_ns)

    cdef int put_account(self, Client client, int32_t op, int32_t xid, int64_t began_ns, int64_t now_ns) except -1:
        # Behind every reply.
        self.clients.account(client, op, xid, self.clients.zxid, began_ns, now_ns)
        self.clients.mark(client)
        if op == OP_CLOSE_SESSION:
            client.finish()
        return 0

    cdef int drop(self, Entry* entry, str reason) except -1:
        # What becomes of it will not be known here: who waits for the answer has to find out elsewhere.
        cdef Client client = self.release(entry)
        free(entry.text)
        entry.text = NULL
        if client is not None and not client.closed:
            client.cut(reason)
        return 0

    def catch_up(self, payload) -> int:
        """Apply a committed batch that nobody here waits for; how many of its transactions were not applied yet.

        Raises:
            ApplyError: the batch is malformed or does not fit the tree.
        """
        applied = self.applier.replay_batch(payload)
        self.clients.zxid = self.applier.zxid
        self.txns += applied
        self.clients.flush()
        return applied

    @property
    def idle_callback(self) -> object:
        """Called, while set, whenever the last pending request was answered."""
        return self.idle

    @idle_callback.setter
    def idle_callback(self, callback: object) -> None:
        self.idle = callback
