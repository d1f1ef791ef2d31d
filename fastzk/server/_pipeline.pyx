"""The way of a write where it is decided, alone or leading an ensemble: prepare, log, apply, answer.

A request that needs the log is validated and encoded at once into the *open round*: a log batch and, in the
same order, the entries of those who wait for it. Rounds close when the log becomes free, so a batch is as
large as the disk is slow: group commit without timers. While the log thread works, the next round fills. When
a batch is committed its transactions are applied one by one, each answered before the next is applied, and the
replies of one round leave in one write per client.

An error, a failed multi or a sync also takes an entry: it was decided on changes that may not be committed yet,
and its reply keeps its place in the session's order. It stands behind the last transaction proposed, in the open round
or, if that has none, in the last round under way. With nothing under way it is answered at once.

*Standalone*, a batch is committed when it is durable. *Leading*, it is when it is durable here and ``commit_to`` says
that a quorum has it, too. Then there are rounds between the disk and the commit: the log is free for the next one when
it has written the last, whether that is committed or not. What else is different for a leader:

- Its epoch begins with an *opening* batch (``begin``), which changes nothing; it serves nobody before that is applied
  (``lead``).
- Servers that follow forward their clients' writes, many in a frame (``forwarded``; the layout is in
  ``_forward.pxd``). Each is decided exactly as if its client were connected here, by way of ``proxy``, a client
  without a connection. What becomes of them is told before the batch that has them is broadcast.
- ``Owners`` says which sessions there are and where their clients are; a request from anywhere else is refused.
- A sync waits until a quorum has confirmed, after it came, that this server still leads. One confirmation serves all
  syncs of a turn of the loop; their *ticket* says which one they wait for.

What must hold: an entry of kind TXN or REMOTE has exactly one record in its round's batch, in the same order; rounds
are finished in the order in which they were submitted; nothing is applied before it is durable and committed.
"""

from collections import deque

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.ref cimport Py_DECREF
from libc.stdint cimport INT64_MAX, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from fastzk._codec cimport (
    fz_load64, fz_store32, fz_store64, get_i32, get_i64, get_span, out_free, out_room, put_i32, put_i64, put_span,
    reader_init,
)
from fastzk._constants cimport (
    ERR_CONNECTION_LOSS, ERR_MARSHALLING, ERR_NOT_READ_ONLY, ERR_OK, ERR_RECONFIG_DISABLED, ERR_UNIMPLEMENTED,
    OP_CHECK, OP_CHECK_NOT_EXISTS, OP_CLOSE_SESSION, OP_CREATE_SESSION, OP_DELETE_CONTAINER, OP_ERROR, OP_FILTERED_LIST,
    OP_MULTI, OP_RECONFIG, OP_SYNC,
)
from fastzk._log cimport LOG_HEADER_BYTES
from fastzk.server._clients cimport fz_monotonic_ns, fz_wall_ms, put_reply
from fastzk.server._forward cimport (
    FORWARD_LOCAL, OP_REVALIDATE, OUTCOME_ECHO, OUTCOME_ERROR, OUTCOME_MULTI_FAILED, OUTCOME_SYNC, OUTCOME_TXN,
    OUTCOME_TXN_PLANNED,
)
from fastzk.server._line cimport (
    KIND_ECHO, KIND_ERROR, KIND_MULTI_FAILED, KIND_REMOTE, KIND_SYNC, KIND_TXN, is_greeting,
)

cdef enum:
    ROUND_MAX = 4 << 20          # payload bytes at which a round closes though the log is busy


cdef inline int64_t following(int64_t zxid) noexcept nogil:
    # The next zxid. Number 0 of an epoch is never a transaction's, so that an epoch can be named by it.
    return zxid + 1 if <uint32_t>(zxid + 1) else zxid + 2


cdef object text_of(Span text):
    # What a client sent as a string; None is one, too.
    return None if text.n < 0 else (<const uint8_t*>text.p)[:text.n].decode("utf-8", "replace")


cdef bint are_identities(Span auth) noexcept:
    # Whether it is what ``Client.auth`` may hold.
    cdef Reader r
    reader_init(&r, auth.p, auth.n)
    while r.p < r.end:
        if get_span(&r).n < 0 or get_span(&r).n < 0:
            return False
    return not r.bad


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
        # Counted before it is filled: nothing fails between the two.
        self.size += 1
        return &self.entries[self.size - 1]

    cdef int clear(self) except -1:
        # All entries are answered; their references went with that.
        self.size = 0
        self.done = 0
        self.at = 0
        self.batch.clear()
        return 0


cdef class Pipeline(Line):
    """Orders, logs, applies and answers the writes of this server, and of those that follow it."""

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
        self.open = Round()
        self.next_zxid = following(applier.zxid)
        self.proposed = self.submitted = self.durable = applier.zxid
        self.committed = INT64_MAX
        clients.zxid = applier.zxid
        self.owners = Owners()
        self.confirming = deque()
        self.held = deque()
        self.streams = {}
        self.early = []
        self.proxy = Client()
        self.ticket = 1
        self.gathering = Gathering(loop, self.turn)
        self.reset_proposals()

    def __dealloc__(self) -> None:
        out_free(&self.outcomes)
        out_free(&self.syncs)

    cdef Round fresh_round(self):
        return self.spare.pop() if self.spare else Round()

    # -- in -----------------------------------------------------------------------------------------------

    cdef Entry* enter(self, Client client, int32_t kind, int32_t op, int32_t xid, int64_t now_ns) except NULL:
        # What has no transaction need not wait for those to come.
        cdef Round round = self.open
        cdef Entry* entry
        if self.last is not None and kind != KIND_TXN and kind != KIND_REMOTE and round.size == 0:
            round = self.last
        entry = round.add()
        self.fill(entry, client, kind, op, xid, now_ns)
        return entry

    cdef Entry* enter_sync(self, Client client, int32_t xid, int64_t now_ns) except NULL:
        cdef Entry* entry = self.enter(client, KIND_SYNC, OP_SYNC, xid, now_ns)
        if self.mode != MODE_STANDALONE:
            entry.zxid = self.ticket
            self.asking = True
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
        self.last_proposal = <int64_t>n
        if self.most_proposal < <int64_t>n:
            self.most_proposal = <int64_t>n
        if self.least_proposal > <int64_t>n or self.least_proposal < 0:
            self.least_proposal = <int64_t>n
        if batch.count == 0:
            batch.first_zxid = self.next_zxid
        batch.last_zxid = self.proposed = self.next_zxid
        batch.count += 1
        self.next_zxid = following(self.next_zxid)
        self.txns += 1
        if self.next_zxid >> 32 != batch.first_zxid >> 32:
            self.exhausted = self.mode != MODE_STANDALONE
            self.submit()                            # a batch is of one epoch
        elif batch.length >= ROUND_MAX:
            self.submit()
        return 0

    cdef int32_t may(self, int64_t session, int64_t server, bint local) noexcept:
        # Whether a server's client may ask for something now; not asked of a standalone one. A local session is in no
        # table but its server's.
        if self.mode != MODE_LEADING or self.exhausted:
            return ERR_CONNECTION_LOSS
        return ERR_OK if local else self.owners.check(session, server)

    cdef int32_t decide(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t wall_ms) except? 0:
        # What becomes of a request: the kind of its entry. `err` goes with KIND_ERROR, the details of the others are
        # the preparer's.
        if op == OP_RECONFIG:
            self.err = self.reconfig(client, r, xid, wall_ms)
            return KIND_ERROR if self.err else KIND_TXN
        self.err = self.preparer.prepare(client, op, r, xid, self.next_zxid, wall_ms)
        if self.err:
            return KIND_ERROR
        if self.preparer.multi_count:
            return KIND_MULTI_FAILED
        if op == OP_CHECK:
            return KIND_ERROR                        # nothing to log: a header says it held
        if op >= OP_FILTERED_LIST and self.preparer.unlogged:
            return KIND_ERROR if op == OP_CHECK_NOT_EXISTS else KIND_ECHO
        return KIND_TXN

    cdef int32_t reconfig(self, Client client, Reader* r, int32_t xid, int64_t wall_ms) except? 1:
        # A request to change the servers: ERR_OK with the transaction in the preparer, or the error to answer.
        cdef Span joining = get_span(r)
        cdef Span leaving = get_span(r)
        cdef Span members = get_span(r)
        cdef int64_t version = get_i64(r)
        if r.bad:
            return ERR_MARSHALLING
        if self.reconfigure is None:
            return ERR_RECONFIG_DISABLED
        if self.mode == MODE_STANDALONE:
            return ERR_UNIMPLEMENTED
        answer = self.reconfigure(
            (text_of(joining), text_of(leaving), text_of(members), version), self.next_zxid,
            self.preparer.may_reconfigure(client))
        if not isinstance(answer, bytes):
            return answer
        self.preparer.reconfig(client.session_id, xid, self.next_zxid, wall_ms, answer)
        return ERR_OK

    cdef int write(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t now_ns) except -1:
        cdef int32_t err, kind
        cdef int64_t length = r.end - r.p + 8
        cdef Entry* entry
        if self.read_only:
            return self.refuse(client, op, xid, ERR_NOT_READ_ONLY, now_ns)
        if self.mode != MODE_STANDALONE:
            err = self.may(client.session_id, self.server_id, client.local)
            if err:
                return self.refuse(client, op, xid, err, now_ns)
        kind = self.decide(client, op, r, xid, fz_wall_ms())
        if kind == KIND_ERROR:
            return self.refuse(client, op, xid, self.err, now_ns)
        entry = self.enter(client, kind, op, xid, now_ns)
        if kind == KIND_MULTI_FAILED:
            entry.err = self.preparer.multi_error
            entry.multi_count = self.preparer.multi_count
            entry.multi_failed = self.preparer.multi_failed
            return 0
        if kind == KIND_ECHO:                        # the path is the answer
            return self.keep_text(entry, self.preparer.found.p, self.preparer.found.n)
        if op == OP_MULTI and self.preparer.plan.n:
            self.keep_text(entry, self.preparer.plan.p, <int32_t>self.preparer.plan.n)
        if length > self.large_threshold:
            entry.large = length
            self.large_bytes += length
        if self.mode == MODE_LEADING:
            self.gathering.came(client.session_id)
        self.log_txn()
        return self.submit() if op == OP_RECONFIG else 0     # from here on the new servers have a say, too

    cdef int sync(self, Client client, Reader* r, int32_t xid, int64_t now_ns) except -1:
        cdef int32_t err
        if self.mode != MODE_STANDALONE:
            err = self.may(client.session_id, self.server_id, client.local)
            if err:
                return self.refuse(client, OP_SYNC, xid, err, now_ns)
        return Line.sync(self, client, r, xid, now_ns)

    cdef int close_session(self, Client client, int64_t session, int32_t xid, int64_t now_ns) except -1:
        if self.read_only or self.mode == MODE_OPENING or self.mode == MODE_CLOSED or self.exhausted:
            self.on_close_refused([session])
            if client is not None:
                self.refuse(
                    client, OP_CLOSE_SESSION, xid, ERR_NOT_READ_ONLY if self.read_only else ERR_CONNECTION_LOSS, now_ns)
            return 0
        if self.mode == MODE_LEADING:
            self.owners.drop(session)
        self.preparer.close_session(session, self.next_zxid, fz_wall_ms(), xid)
        self.enter(client, KIND_TXN, OP_CLOSE_SESSION, xid, now_ns)
        return self.log_txn()

    cdef int create_session(self, Client client, int64_t session, int32_t timeout) except -1:
        if self.read_only or self.mode == MODE_OPENING or self.mode == MODE_CLOSED or self.exhausted:
            client.refused()
            return 0
        if self.mode == MODE_LEADING:
            self.owners.put(session, self.server_id)
        self.preparer.create_session(session, timeout, self.next_zxid, fz_wall_ms())
        self.enter(client, KIND_TXN, OP_CREATE_SESSION, 0, fz_monotonic_ns())
        return self.log_txn()

    cdef int revalidate(self, Client client, int64_t session, int32_t timeout) except -1:
        # It stands in line, because the session may be proposed and not be applied yet.
        return self.refuse(
            client, OP_REVALIDATE, 0, self.move(session, self.server_id, timeout), fz_monotonic_ns())

    cdef int32_t move(self, int64_t session, int64_t server, int32_t timeout) except? 1:
        cdef int32_t err = ERR_CONNECTION_LOSS if self.mode != MODE_LEADING else self.owners.move(session, server)
        if err == ERR_OK and self.on_claim is not None:
            self.on_claim(session, server, timeout)
        return err

    def expire_session(self, session: int) -> None:
        """Propose the end of a session that was not heard of for its timeout."""
        self.close_session(None, session, 0, fz_monotonic_ns())

    def reap(self, path: bytes) -> bool:
        """Propose the deletion of a container or TTL znode; whether it could be proposed."""
        cdef bytes request = len(path).to_bytes(4, "big") + path
        cdef Reader r
        if self.read_only or self.mode == MODE_OPENING or self.mode == MODE_CLOSED or self.exhausted:
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

    # -- to the disk --------------------------------------------------------------------------------------

    def end_of_turn(self) -> None:
        """Give the open round to the log, if that is free; runs once per turn of the loop that had writes."""
        self.scheduled = False
        try:
            if self.asking:
                self.asking = False
                number = self.confirm()
                self.confirming.append((number, self.ticket))
                self.ticket += 1
                if number <= self.confirmed_round:
                    self.confirmed_to(number)
            if self.log_free():
                self.submit()
            if self.stalled:
                self.resume()
            self.clients.flush()
        except Exception as error:
            self.on_failure(error)

    cdef bint log_free(self) except -1:
        # Whether the open round goes to the log now. While one is on its way to the disk it grows; a leader's may wait
        # for more than that.
        if self.submitted > self.durable:
            return False
        if self.mode != MODE_LEADING:
            return self.submitted <= self.committed
        return self.gathering.enough(self.open.batch.count, self.submitted - self.committed)

    cdef int submit(self) except -1:
        cdef Round round = self.open
        if round.size == 0 or self.sealed:
            return 0
        if self.outcomes.n:
            self.tell()                              # before the batch is
        self.open = self.fresh_round()
        self.in_flight.append(round)
        self.last = round
        if round.batch.count == 0:
            return self.advance()                    # nothing to log
        self.submitted = round.batch.last_zxid
        if self.mode == MODE_LEADING:
            self.gathering.sent(self.submitted)
        self.log.submit(round.batch)
        if self.mode != MODE_STANDALONE and self.on_submit is not None:
            self.on_submit(round.batch)
        return 0

    def on_durable(self) -> None:
        """The log's eventfd rang: answer what is durable. Of a standalone server; a leader's owner is asked instead."""
        try:
            done, refused = self.log.take_done()
            if refused:
                self.read_only = True                # what is asked while `done` is answered is refused, too
            for batch in done:
                assert (<Round>self.in_flight[0]).batch is batch, "the log finished a batch out of order"
                self.durable = (<Batch>batch).last_zxid
                if self.open.batch.count and self.log_free():
                    self.submit()                    # keep the disk busy while this round is answered
                self.advance()
            if refused:
                self.no_space()
            if self.log_free():
                self.submit()
            self.settle()
        except Exception as error:
            self.on_failure(error)

    # -- out ----------------------------------------------------------------------------------------------

    cdef int advance(self) except -1:
        # Finish the rounds that are durable and committed.
        cdef Round round
        if self.advancing:
            return 0                                 # what is answered just now led here
        self.advancing = True
        try:
            while self.in_flight:
                round = <Round>self.in_flight[0]
                if round.batch.count and (
                    round.batch.last_zxid > self.durable or round.batch.last_zxid > self.committed
                ):
                    break
                if self.mode == MODE_OPENING and self.applier.zxid < self.inherited:
                    raise RuntimeError(f"0x{self.inherited:x} has to be applied before the opening of an epoch")
                # Nobody joins a round while it is being finished.
                self.in_flight.popleft()
                if not self.in_flight:
                    self.last = None
                if not self.finish(round):
                    self.in_flight.appendleft(round)
                    if self.last is None:
                        self.last = round
                    break
        finally:
            self.advancing = False
        return 0

    cdef bint finish(self, Round round) except -1:
        # Apply the round's transactions and answer its entries. False: it comes to a sync that has to wait.
        cdef uint32_t length
        cdef Entry* entry
        cdef Client client
        cdef const uint8_t* batch = round.batch.buf + LOG_HEADER_BYTES if round.batch.count else NULL
        cdef int64_t now_ns = fz_monotonic_ns()
        while round.done < round.size:
            entry = &round.entries[round.done]
            if entry.kind == KIND_SYNC and entry.zxid > self.confirmed:
                return False
            round.done += 1
            client = self.release(entry)
            if entry.kind == KIND_TXN or entry.kind == KIND_REMOTE:
                memcpy(&length, batch + round.at, 4)
                self.carry_out(entry, client, batch + round.at + 4, length, now_ns)
                self.overlay.settle(self.applier.zxid)
                round.at += 4 + length
            elif client is not None and not client.closed:
                self.answer(entry, client, now_ns)
            if entry.text != NULL:
                free(entry.text)
                entry.text = NULL
            # What came with its connect request was taken up when its session opened, and waits for its own writes.
            if client is not None and not client.closed and not is_greeting(entry.op):
                client.drain()
        if self.mode != MODE_STANDALONE and round.batch.count:
            round.batch = Batch()                    # the other one is the broadcast's
        round.clear()
        if len(self.spare) < 4:
            self.spare.append(round)
        if self.pending == 0 and self.idle is not None:
            self.idle()
        return True

    # -- a full disk ----------------------------------------------------------------------------------------

    cdef int abandon(self, Round round) except -1:
        # Nothing of this round happened: everybody in it is told so.
        cdef uint32_t length
        cdef Entry* entry
        cdef Client client
        cdef const uint8_t* batch = round.batch.buf + LOG_HEADER_BYTES if round.batch.count else NULL
        while round.done < round.size:
            entry = &round.entries[round.done]
            round.done += 1
            client = self.release(entry)
            if entry.kind == KIND_TXN:
                memcpy(&length, batch + round.at, 4)
                if entry.op == OP_CLOSE_SESSION:     # the transaction begins with the session's id
                    self.on_close_refused([<int64_t>fz_load64(batch + round.at + 4)])
                round.at += 4 + length
            free(entry.text)
            entry.text = NULL
            if client is None or client.closed:
                continue
            if entry.op == OP_CREATE_SESSION:
                client.refused()
            else:
                put_reply(client, entry.xid, self.clients.zxid, ERR_NOT_READ_ONLY)
                self.put_account(client, entry.op, entry.xid, entry.began_ns, fz_monotonic_ns())
                if entry.op != OP_CLOSE_SESSION:
                    client.drain()
        round.clear()
        return 0

    def no_space(self) -> None:
        """The log could not write: what was proposed is refused, and so is every write until there is room."""
        cdef Round round
        self.read_only = True
        rounds = list(self.in_flight)
        self.in_flight.clear()
        self.last = None
        rounds.append(self.open)
        self.open = Round()
        self.overlay.clear()
        self.next_zxid = following(self.applier.zxid)
        self.proposed = self.submitted = self.durable = self.applier.zxid
        for round in rounds:
            self.abandon(round)
        self.log.acknowledge_refusal()

    def space_again(self) -> None:
        """There is room on the disk: take writes again."""
        self.read_only = False

    # -- leading --------------------------------------------------------------------------------------------

    @property
    def leading(self) -> bool:
        """Whether it leads an ensemble, with its opening applied."""
        return self.mode == MODE_LEADING

    @property
    def pending_syncs(self) -> int:
        """Confirmations of the leadership that syncs wait for, and frames of other servers' syncs that do."""
        return len(self.confirming) + len(self.held)

    def seal(self) -> None:
        """It leads no more: what is in the log is still answered, and nothing goes there. ``close`` follows soon."""
        self.sealed = self.exhausted = True

    def reset_proposals(self) -> None:
        """Forget the sizes of transactions so far."""
        self.last_proposal = self.least_proposal = self.most_proposal = -1

    def begin(self, epoch: int, membership: bytes | None = None) -> int:
        """Propose the opening of a new epoch, which this server leads; its zxid.

        With ``membership`` it brings the first content of /zookeeper/config, otherwise it changes nothing. Everything
        in the log before it has to be applied (``catch_up``) before ``commit_to`` reaches it.

        Raises:
            RuntimeError: it is not closed.
            ValueError: the epoch is not a later one than the log's last.
        """
        cdef int64_t zxid = epoch << 32 | 1
        if self.mode != MODE_CLOSED:
            raise RuntimeError("only a closed pipeline can begin an epoch")
        self.inherited = max(<int64_t>self.log.last_zxid, self.applier.zxid)
        if zxid <= self.inherited:
            raise ValueError(f"epoch {epoch} does not follow 0x{self.inherited:x}")
        self.mode = MODE_OPENING
        self.sealed = False
        self.opening = zxid
        self.submitted = self.durable = self.committed = self.applier.zxid
        self.confirmed_round = -1
        self.confirmed = self.ticket
        self.ticket += 1
        self.propose_opening(epoch, membership)
        return zxid

    def roll_epoch(self, epoch: int) -> int:
        """Go on in a new epoch: what was asked so far is proposed in the old one, then comes the opening; its zxid.

        Raises:
            RuntimeError: it does not lead.
            ValueError: the epoch is not a later one.
        """
        cdef int64_t zxid = epoch << 32 | 1
        if self.mode != MODE_LEADING:
            raise RuntimeError("only a leader can roll its epoch over")
        if zxid <= self.proposed:
            raise ValueError(f"epoch {epoch} does not follow 0x{self.proposed:x}")
        self.submit()
        self.propose_opening(epoch, None)
        return zxid

    def change_membership(self, make) -> None:
        """Propose a new membership, which nobody asked for; ``make`` makes its text of the transaction's zxid.

        Raises:
            RuntimeError: it does not lead.
        """
        if self.mode != MODE_LEADING or self.exhausted:
            raise RuntimeError("only a leader can change the membership")
        self.preparer.reconfig(0, 0, self.next_zxid, fz_wall_ms(), make(self.next_zxid))
        self.enter(None, KIND_TXN, OP_RECONFIG, 0, fz_monotonic_ns())
        self.log_txn()
        self.submit()

    cdef int propose_opening(self, int64_t epoch, bytes membership) except -1:
        # One transaction, in a round of its own.
        cdef int32_t op = OP_ERROR if membership is None else OP_RECONFIG
        self.exhausted = False
        self.next_zxid = epoch << 32 | 1
        if membership is None:
            self.preparer.begin(0, 0, self.next_zxid, fz_wall_ms(), OP_ERROR)
            put_i32(&self.preparer.txn, ERR_OK)
        else:
            self.preparer.reconfig(0, 0, self.next_zxid, fz_wall_ms(), membership)
        self.enter(None, KIND_TXN, op, 0, fz_monotonic_ns())
        self.log_txn()
        return self.submit()

    def lead(self, server_id: int, sessions) -> list[int]:
        """The opening is applied: serve clients from now on.

        ``server_id``: this server. ``sessions``: the ids of all that there are. Returns the servers whose requests came
        already and could not be taken: they have to begin anew.

        Raises:
            RuntimeError: the opening is not applied yet, or there is none.
        """
        if self.mode != MODE_OPENING or self.applier.zxid < self.opening:
            raise RuntimeError("the opening of the epoch is not applied yet")
        self.mode = MODE_LEADING
        self.shared = True
        self.server_id = server_id
        self.owners.clear()
        for session in sessions:
            self.owners.put(session, 0)
        early = self.early
        self.early = []
        return [server for server, frame in early if not self.forwarded(server, frame)]

    def commit_to(self, zxid: int) -> None:
        """Everything up to ``zxid`` is committed: answer what is durable here, too."""
        self.mark_committed(zxid)
        self.advance()
        self.settle()

    def mark_committed(self, zxid: int) -> None:
        """Everything up to ``zxid`` is committed: give the log the next round. ``commit_to`` answers."""
        if zxid > self.committed:
            if self.mode == MODE_LEADING:
                self.gathering.committed(zxid, self.open.batch.count)
            self.committed = zxid
            if self.log_free():
                self.submit()

    def durable_to(self, zxid: int) -> None:
        """The log has made everything up to ``zxid`` durable: give it the next round, answer what is committed."""
        if zxid > self.durable:
            self.durable = zxid
            if self.log_free():
                self.submit()
            self.advance()
            self.settle()

    def confirmed_to(self, number: int) -> None:
        """When ``confirm`` returned ``number``, nobody else could have committed anything."""
        if self.mode != MODE_LEADING:
            return
        self.confirmed_round = max(self.confirmed_round, number)
        while self.confirming and self.confirming[0][0] <= self.confirmed_round:
            self.confirmed = self.confirming.popleft()[1]
        while self.held and self.held[0][0] <= self.confirmed:
            _, server, frame = self.held.popleft()
            self.send_outcome(server, frame, False)
        self.advance()
        self.settle()

    def claim(self, session: int, server_id: int, timeout_ms: int) -> bool:
        """The session's client has connected to a server; False if it has ended, as far as is proposed."""
        return self.move(session, server_id, timeout_ms) == ERR_OK

    def forget(self, server_id: int) -> None:
        """The connection to a server is gone: what it asked is not answered any more."""
        self.streams.pop(server_id, None)
        self.held = deque(item for item in self.held if item[1] != server_id)
        self.early = [item for item in self.early if item[0] != server_id]

    cpdef bint forwarded(self, server_id, frame, Py_ssize_t skip=0) except -1:
        """Decide the requests of a FORWARD frame, and tell the server what becomes of them."""
        cdef Py_buffer view
        PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
        try:
            if view.len <= skip:
                raise ValueError("an empty frame of requests")
            return self.take_forward(server_id, <const uint8_t*>view.buf + skip, view.len - skip)
        finally:
            PyBuffer_Release(&view)

    cdef bint take_forward(self, server_id, const uint8_t* p, Py_ssize_t n) except -1:
        cdef Reader r
        cdef int64_t stream, number, seq, session
        cdef int32_t xid, op
        cdef Span auth, body
        cdef int64_t now_ns = fz_monotonic_ns()
        cdef int64_t wall_ms = fz_wall_ms()
        if self.mode == MODE_OPENING:
            self.early.append((server_id, p[:n]))
            return True
        reader_init(&r, p, n)
        stream = get_i64(&r)
        number = get_i64(&r)
        if r.bad:
            raise ValueError("a frame of requests is cut short")
        known = self.streams.get(server_id)
        if known is not None and stream < known[0]:
            return False
        if self.mode != MODE_LEADING or number != (known[1] + 1 if known is not None and known[0] == stream else 1):
            return False
        if number == 1:
            self.forget(server_id)
        self.streams[server_id] = (stream, number)
        self.asker = server_id
        self.stream = stream
        try:
            while r.p < r.end:
                seq = get_i64(&r)
                session = get_i64(&r)
                xid = get_i32(&r)
                op = get_i32(&r)
                auth = get_span(&r)
                body = get_span(&r)
                if r.bad or auth.n < 0 or body.n < 0 or not are_identities(auth):
                    raise ValueError("a forwarded request is malformed")
                self.asked(seq, session, xid, op, auth, body, now_ns, wall_ms)
            self.tell()
            if self.syncs.n:
                self.held.append((self.ticket, server_id, (<const uint8_t*>self.syncs.p)[:self.syncs.n]))
                self.asking = True
        finally:
            self.outcomes.n = self.syncs.n = 0
            self.proxy.auth.p = NULL                 # it was the frame's
            self.proxy.auth.n = 0
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.turn)
        return True

    cdef int asked(self, int64_t seq, int64_t session, int32_t xid, int32_t op, Span auth, Span body, int64_t now_ns,
                   int64_t wall_ms) except -1:
        # One forwarded request.
        cdef Reader r
        cdef int32_t kind, timeout
        cdef bint local = op > 0 and op & FORWARD_LOCAL
        if local:
            op ^= FORWARD_LOCAL
        reader_init(&r, body.p, body.n)
        self.err = ERR_OK
        kind = KIND_TXN
        if op == OP_CREATE_SESSION:
            timeout = get_i32(&r)
            if r.bad:
                raise ValueError("a forwarded createSession is malformed")
            if self.exhausted:
                self.err = ERR_CONNECTION_LOSS
            else:
                self.owners.put(session, self.asker)
                self.preparer.create_session(session, timeout, self.next_zxid, wall_ms)
        elif op == OP_REVALIDATE:
            timeout = get_i32(&r)
            if r.bad:
                raise ValueError("a question for a session is malformed")
            self.err = self.move(session, self.asker, timeout)
            kind = KIND_ERROR
        elif op == OP_CLOSE_SESSION:
            if self.exhausted:
                self.err = ERR_CONNECTION_LOSS
            else:
                self.owners.drop(session)
                self.preparer.close_session(session, self.next_zxid, wall_ms, xid)
        else:
            self.err = self.may(session, self.asker, local)
            if self.err == ERR_OK and op == OP_SYNC:
                if self.syncs.n == 0:
                    put_i64(&self.syncs, self.stream)
                put_i64(&self.syncs, seq)
                put_i32(&self.syncs, OUTCOME_SYNC)
                return put_i64(&self.syncs, self.proposed)
            if self.err == ERR_OK:
                self.proxy.session_id = session
                self.proxy.local = local
                self.proxy.auth.p = <uint8_t*>auth.p
                self.proxy.auth.n = auth.n
                kind = self.decide(self.proxy, op, &r, xid, wall_ms)
        if self.err or kind == KIND_ERROR:
            self.put_outcome(seq, OUTCOME_ERROR, self.proposed)
            return put_i32(&self.outcomes, self.err)
        if kind == KIND_MULTI_FAILED:
            self.put_outcome(seq, OUTCOME_MULTI_FAILED, self.proposed)
            put_i32(&self.outcomes, self.preparer.multi_count)
            put_i32(&self.outcomes, self.preparer.multi_failed)
            return put_i32(&self.outcomes, self.preparer.multi_error)
        if kind == KIND_ECHO:
            self.put_outcome(seq, OUTCOME_ECHO, self.proposed)
            return put_span(&self.outcomes, self.preparer.found.p, self.preparer.found.n)
        if op == OP_MULTI and self.preparer.plan.n:
            self.put_outcome(seq, OUTCOME_TXN_PLANNED, self.next_zxid)
            put_span(&self.outcomes, self.preparer.plan.p, <int32_t>self.preparer.plan.n)
        else:
            self.put_outcome(seq, OUTCOME_TXN, self.next_zxid)
        self.enter(None, KIND_REMOTE, op, xid, now_ns)
        self.gathering.came(session)
        self.log_txn()
        return self.submit() if op == OP_RECONFIG else 0

    cdef int put_outcome(self, int64_t seq, int32_t status, int64_t zxid) except -1:
        cdef uint8_t* p
        if self.outcomes.n == 0:
            put_i64(&self.outcomes, self.stream)
        p = out_room(&self.outcomes, 20)
        fz_store64(p, <uint64_t>seq)
        fz_store32(p + 8, <uint32_t>status)
        fz_store64(p + 12, <uint64_t>zxid)
        self.outcomes.n += 20
        return 0

    cdef int tell(self) except -1:
        # What is decided of the frame so far.
        if self.outcomes.n:
            frame = (<const uint8_t*>self.outcomes.p)[:self.outcomes.n]
            self.outcomes.n = 0
            self.send_outcome(self.asker, frame, self.open.batch.count > 0)
        return 0

    def close(self, reason: str) -> None:
        """It leads no more: close the clients that wait for an answer, which is not known; forget what was proposed.

        What went to the log stays there, and becomes of it what the next leader says. Nothing is taken until the next
        ``begin``.

        Raises:
            RuntimeError: called from one of its own callbacks.
        """
        cdef Round round
        cdef Entry* entry
        cdef uint32_t length
        if self.advancing:
            raise RuntimeError("a pipeline cannot be closed while it answers")
        self.mode = MODE_CLOSED
        self.gathering.forget()
        self.shared = False
        self.asking = False
        rounds = list(self.in_flight)
        self.in_flight.clear()
        self.last = None
        rounds.append(self.open)
        self.open = Round()
        self.overlay.clear()
        self.applier.quotas.rewind(self.applier.zxid + 1)
        self.owners.clear()
        self.streams.clear()
        self.early.clear()
        self.held.clear()
        self.confirming.clear()
        ending = []
        for round in rounds:
            while round.done < round.size:
                entry = &round.entries[round.done]
                round.done += 1
                if entry.kind == KIND_TXN or entry.kind == KIND_REMOTE:
                    memcpy(&length, round.batch.buf + LOG_HEADER_BYTES + round.at, 4)
                    if entry.op == OP_CLOSE_SESSION:
                        ending.append(<int64_t>fz_load64(round.batch.buf + LOG_HEADER_BYTES + round.at + 4))
                    round.at += 4 + length
                self.drop(entry, reason)
        if ending:
            self.on_close_refused(ending)            # should it not come to that
        self.release_stalled()
        self.clients.flush()
        if self.pending == 0 and self.idle is not None:
            self.idle()
