"""Applying transactions: the one place where the tree of a running server changes.

The same code runs for a client's write, for a transaction from the leader and for the log's replay. It
depends on the transaction and the tree only, so that servers that apply the same transactions are equal.
Watch events go out before the reply that shows the change, because they are queued here and the reply's
body is written behind them.
"""

from libc.string cimport memcpy

from fastzk._codec cimport (
    fz_load32, fz_load64, get_acls, get_bool, get_i32, get_i64, get_span, put_i32, put_span, put_u8, reader_init, Span,
)
from fastzk._constants cimport (
    ERR_OK, OP_CHECK, OP_CLOSE_SESSION, OP_CREATE, OP_CREATE2, OP_CREATE_CONTAINER, OP_CREATE_SESSION, OP_CREATE_TTL,
    OP_DELETE, OP_DELETE_CONTAINER, OP_ERROR, OP_MULTI, OP_RECONFIG, OP_SET_ACL, OP_SET_DATA,
)
from fastzk._paths cimport parent_length
from fastzk._tree cimport ttl_owner
from fastzk.server._quota cimport concerns

cdef int64_t CONTAINER_OWNER = <int64_t>0x8000000000000000ULL


class ApplyError(Exception):
    """A logged transaction does not fit the tree: the log and the state are not of one history."""


def membership_text(payload) -> bytes | None:
    """What the last reconfiguration in a logged batch writes to /zookeeper/config; None if there is none in it."""
    cdef const uint8_t[::1] view = payload
    cdef size_t at = 0
    cdef size_t n = view.shape[0]
    cdef uint32_t length
    cdef Reader r
    cdef Span data
    found = None
    while n - at >= 4:
        memcpy(&length, &view[at], 4)
        at += 4
        if length > n - at:
            break
        if length > 32 and <int32_t>fz_load32(&view[at + 28]) == OP_RECONFIG:
            reader_init(&r, &view[at + 32], length - 32)
            get_span(&r)
            data = get_span(&r)
            if not r.bad and data.n >= 0:
                found = <bytes>(<const uint8_t*>data.p)[:data.n]
        at += length
    return found


cdef class Applier:
    """Applies transactions to ``tree`` and tells ``watches``."""

    def __cinit__(self, Tree tree, int64_t zxid) -> None:
        self.tree = tree
        self.zxid = zxid
        self.quotas = Quotas(tree)

    def serve(self, Watches watches) -> None:
        """From now on changes trigger watches."""
        self.watches = watches

    def replay(self, txn) -> int:
        """Apply one logged transaction and return its type.

        Raises:
            ApplyError: it does not fit the tree.
        """
        cdef const uint8_t[::1] view = txn
        return self.apply(&view[0], view.shape[0], NULL)

    def replay_batch(self, payload) -> int:
        """Apply a logged batch, without what was applied before; how many transactions that were.

        Raises:
            ApplyError: the batch is malformed or does not fit the tree.
        """
        cdef const uint8_t[::1] view = payload
        cdef size_t at = 0
        cdef size_t n = view.shape[0]
        cdef uint32_t length
        cdef int applied = 0
        while at < n:
            if n - at < 4:
                raise ApplyError("a logged batch is cut short")
            memcpy(&length, &view[at], 4)
            at += 4
            if length < 32 or n - at < length:
                raise ApplyError("a logged batch is cut short")
            if <int64_t>fz_load64(&view[at + 12]) > self.zxid:
                self.apply(&view[at], length, NULL)
                applied += 1
            at += length
        return applied

    cdef int32_t apply(self, const uint8_t* p, size_t n, OutBuf* reply) except? 0:
        # TxnHeader + record. The body of the reply, if it has one, is appended to `reply`.
        cdef Reader r
        cdef int64_t zxid, time
        cdef int32_t op
        reader_init(&r, p, n)
        self.session = get_i64(&r)
        get_i32(&r)
        zxid = get_i64(&r)
        time = get_i64(&r)
        op = get_i32(&r)
        if r.bad or zxid <= self.zxid:
            raise ApplyError(f"transaction 0x{zxid:x} of {n} bytes does not follow 0x{self.zxid:x}")
        if op == OP_MULTI:
            self.multi(&r, zxid, time, reply)
        else:
            self.one(op, &r, zxid, time, reply)
        if r.bad:
            raise ApplyError(f"transaction 0x{zxid:x} of type {op} is cut short")
        self.zxid = zxid
        if self.quotas.open:
            self.quotas.settle(zxid)
        return op

    cdef int one(self, int32_t op, Reader* r, int64_t zxid, int64_t time, OutBuf* reply) except -1:
        cdef int32_t timeout
        if op == OP_SET_DATA:
            return self.set_data(r, zxid, time, reply)
        if op == OP_RECONFIG:
            return self.reconfig(r, zxid, time, reply)
        if op == OP_CREATE or op == OP_CREATE2 or op == OP_CREATE_CONTAINER or op == OP_CREATE_TTL:
            return self.create(op, r, zxid, time, reply)
        if op == OP_DELETE or op == OP_DELETE_CONTAINER:
            return self.delete(r, zxid)
        if op == OP_SET_ACL:
            return self.set_acl(r, zxid, reply)
        if op == OP_CHECK:
            get_span(r)
            get_i32(r)
            return 0
        if op == OP_CREATE_SESSION:
            timeout = get_i32(r)
            self.on_session(self.session, timeout)
            return 0
        if op == OP_CLOSE_SESSION:
            self.end_session(zxid)
            self.on_session(self.session, None)
            return 0
        if op == OP_ERROR:
            get_i32(r)                                  # a transaction that changes nothing
            return 0
        raise ApplyError(f"transaction 0x{zxid:x} has the unknown type {op}")

    cdef int create(self, int32_t op, Reader* r, int64_t zxid, int64_t time, OutBuf* reply) except -1:
        cdef Span path = get_span(r)
        cdef Span data = get_span(r)
        cdef Span acl = get_acls(r)
        cdef int32_t above, cversion
        cdef uint32_t parent, slot, acl_id
        cdef int64_t owner = 0
        if op == OP_CREATE_CONTAINER:
            owner = CONTAINER_OWNER
            cversion = get_i32(r)
        elif op == OP_CREATE_TTL:
            cversion = get_i32(r)
            owner = ttl_owner(get_i64(r))
        else:
            if get_bool(r):
                owner = self.session
            cversion = get_i32(r)
        above = parent_length(path.p, path.n)
        if r.bad or above < 0 or acl.n < 0:
            raise ApplyError(f"transaction 0x{zxid:x} is malformed")
        parent = self.tree.lookup(path.p, above)
        if parent == 0 or self.tree.lookup(path.p, path.n):
            raise ApplyError(f"transaction 0x{zxid:x} creates {path.p[:path.n]!r}, which exists or has no parent")
        acl_id = <uint32_t>self.tree.acls.intern(acl.p, acl.n)
        slot = self.tree.insert(parent, path.p, path.n, data.p, data.n, acl_id, owner, zxid, time, cversion)
        if concerns(self.quotas, path.p, path.n):
            self.quotas.created(path.p, path.n, data.p, data.n)
        if self.watches is not None:
            self.watches.created(path.p, path.n, zxid, acl_id, self.tree.node(parent).acl)
        if reply != NULL:
            put_span(reply, path.p, path.n)
            if op != OP_CREATE:
                self.tree.put_stat(reply, slot)
        return 0

    cdef int delete(self, Reader* r, int64_t zxid) except -1:
        cdef Span path = get_span(r)
        cdef uint32_t slot
        slot = self.tree.lookup(path.p, path.n) if not r.bad and path.n > 0 else 0
        if slot <= 1 or self.tree.node(slot).num_children:
            raise ApplyError(f"transaction 0x{zxid:x} deletes a znode that is not there or has children")
        return self.remove(slot, path.p, path.n, zxid)

    cdef int remove(self, uint32_t slot, const uint8_t* p, int32_t n, int64_t zxid) except -1:
        cdef uint32_t acl = self.tree.node(slot).acl
        cdef int32_t data_len = self.tree.node(slot).data_len
        cdef uint32_t parent_acl = self.tree.node(self.tree.node(slot).parent).acl
        self.tree.acls.ref(acl)                     # the events still ask whether the watcher may read it
        try:
            self.tree.remove(slot, p, n, zxid)
            if concerns(self.quotas, p, n):
                self.quotas.deleted(p, n, data_len)
            if self.watches is not None:
                self.watches.deleted(p, n, zxid, acl, parent_acl)
        finally:
            self.tree.acls.unref(acl)
        return 0

    cdef int set_data(self, Reader* r, int64_t zxid, int64_t time, OutBuf* reply) except -1:
        cdef Span path = get_span(r)
        cdef Span data = get_span(r)
        cdef int32_t version = get_i32(r)
        cdef int32_t before
        cdef uint32_t slot
        slot = self.tree.lookup(path.p, path.n) if not r.bad and path.n >= 0 else 0
        if slot == 0:
            raise ApplyError(f"transaction 0x{zxid:x} sets a znode that is not there")
        before = self.tree.node(slot).data_len
        self.tree.assign(slot, path.p, path.n, data.p, data.n, version, zxid, time)
        if concerns(self.quotas, path.p, path.n):
            self.quotas.changed(path.p, path.n, data.p, data.n, before)
        if self.watches is not None:
            self.watches.changed(path.p, path.n, zxid, self.tree.node(slot).acl)
        if reply != NULL:
            self.tree.put_stat(reply, slot)
        return 0

    cdef int reconfig(self, Reader* r, int64_t zxid, int64_t time, OutBuf* reply) except -1:
        # A setData of the membership's text, which is the answer, too.
        cdef Reader again = r[0]
        cdef Span data
        get_span(&again)
        data = get_span(&again)
        if reply != NULL:
            put_span(reply, data.p, data.n)
        return self.set_data(r, zxid, time, reply)

    cdef int set_acl(self, Reader* r, int64_t zxid, OutBuf* reply) except -1:
        cdef Span path = get_span(r)
        cdef Span acl = get_acls(r)
        cdef int32_t version = get_i32(r)
        cdef uint32_t slot
        slot = self.tree.lookup(path.p, path.n) if not r.bad and path.n >= 0 and acl.n >= 0 else 0
        if slot == 0:
            raise ApplyError(f"transaction 0x{zxid:x} sets the ACL of a znode that is not there")
        self.tree.assign_acl(slot, path.p, path.n, <uint32_t>self.tree.acls.intern(acl.p, acl.n), version)
        if reply != NULL:
            self.tree.put_stat(reply, slot)
        return 0

    cdef int multi(self, Reader* r, int64_t zxid, int64_t time, OutBuf* reply) except -1:
        cdef int32_t count = get_i32(r)
        cdef int32_t op
        cdef Span record
        cdef Reader sub
        while count > 0 and not r.bad:
            op = get_i32(r)
            record = get_span(r)
            if r.bad or record.n < 0:
                raise ApplyError(f"transaction 0x{zxid:x} is malformed")
            reader_init(&sub, record.p, record.n)
            if reply != NULL:
                # A multi's result shows containers and TTL znodes as create2, which has the stat with it.
                put_i32(reply, OP_CREATE2 if op == OP_CREATE_CONTAINER or op == OP_CREATE_TTL else op)
                put_u8(reply, 0)
                put_i32(reply, ERR_OK)
            self.one(op, &sub, zxid, time, reply)
            if sub.bad:
                raise ApplyError(f"transaction 0x{zxid:x} is malformed")
            count -= 1
        if reply != NULL:
            put_i32(reply, OP_ERROR)
            put_u8(reply, 1)
            put_i32(reply, -1)
        return 0

    cdef int end_session(self, int64_t zxid) except -1:
        # Every ephemeral of the session goes. In path order, so that each server does the same.
        cdef bytes path
        cdef uint32_t slot
        cdef list doomed = []
        for slot in self.tree.ephemerals.get(self.session, ()):
            doomed.append((self.tree.path_of(slot), slot))
        doomed.sort()
        for item in doomed:
            path = item[0]
            slot = item[1]
            self.remove(slot, path, <int32_t>len(path), zxid)
        return 0
