from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastzk._codec cimport OutBuf, Reader, Span
from fastzk._tree cimport Tree
from fastzk.server._clients cimport Client
from fastzk.server._overlay cimport Overlay
from fastzk.server._quota cimport Quotas


cdef class Preparer:
    cdef Tree tree
    cdef Overlay overlay
    cdef OutBuf txn                  # the transaction of the last request that passed
    cdef OutBuf sub
    cdef dict fixed                  # ACL as asked for -> as stored, for those that depend on nobody
    cdef public object fix_acl       # (vector bytes, identities) -> vector bytes, or None: invalid
    cdef public bint ttl_enabled     # extendedTypesEnabled
    cdef public bint keeps_membership        # /zookeeper/config changes by reconfig only
    cdef int32_t multi_count         # of a refused multi: its operations,
    cdef int32_t multi_failed        # the one that was refused,
    cdef int32_t multi_error         # and why
    cdef public bint extensions      # whether a multi may hold requests beyond ZooKeeper's
    cdef public int64_t max_removal  # bytes of a transaction that a removeRecursive may become
    cdef bint unlogged               # the last extension changes nothing,
    cdef Span found                  # because this znode exists
    cdef OutBuf plan                 # of the last multi: how its reply is made; empty: as always

    cdef int32_t prepare(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t zxid, int64_t now) except? 1
    cdef int begin(self, int64_t session, int32_t xid, int64_t zxid, int64_t now, int32_t op) except -1
    cdef int32_t create(self, Client client, int32_t op, Reader* r, int64_t zxid, OutBuf* out,
                        int32_t* txn_type) except? 1
    cdef int32_t delete(self, Client client, Reader* r, int64_t zxid, OutBuf* out, bint reap) except? 1
    cdef int32_t set_data(self, Client client, Reader* r, int64_t zxid, OutBuf* out) except? 1
    cdef int32_t set_acl(self, Client client, Reader* r, int64_t zxid, OutBuf* out) except? 1
    cdef int32_t check(self, Client client, Reader* r, OutBuf* out) except? 1
    cdef int32_t extension(self, Client client, int32_t op, Reader* r, int64_t zxid) except? 1
    cdef int32_t create_if_not_exists(self, Client client, Reader* r, int64_t zxid, OutBuf* out) except? 1
    cdef int32_t check_not_exists(self, Client client, Reader* r) except? 1
    cdef int32_t remove_recursive(self, Client client, Reader* r, int64_t zxid, int32_t* records) except? 1
    cdef list subtree(self, bytes top, int64_t limit)
    cdef int32_t multi(self, Client client, Reader* r, int64_t zxid) except? 1
    cdef int32_t one(self, Client client, int32_t op, Reader* r, int64_t zxid, OutBuf* out, int32_t* txn_type) except? 1
    cdef int32_t accept_acl(self, Client client, Span asked, Span* accepted) except? 1
    cdef bytes kept_acl
    cdef Quotas quotas               # the applier's; set by the pipeline
    cdef int close_session(self, int64_t session, int64_t zxid, int64_t now, int32_t xid) except -1
    cdef int create_session(self, int64_t session, int32_t timeout, int64_t zxid, int64_t now) except -1
    cdef int reconfig(self, int64_t session, int32_t xid, int64_t zxid, int64_t now, bytes text) except -1
    cdef bint may_reconfigure(self, Client client) except -1
    cdef int gone(self, const uint8_t* p, int32_t n, int64_t session, int64_t zxid) except -1


cdef bint asks_for_ephemeral(int32_t op, Reader r) noexcept

cdef int put_planned(OutBuf* out, const uint8_t* plan, int32_t plan_n, const uint8_t* body, size_t n) except -1
