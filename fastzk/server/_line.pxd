from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from cpython.ref cimport PyObject

from fastzk._codec cimport OutBuf, Reader
from fastzk._constants cimport OP_CREATE_SESSION
from fastzk.server._apply cimport Applier
from fastzk.server._clients cimport Client, Clients
from fastzk.server._forward cimport OP_REVALIDATE
from fastzk.server._spin cimport Spinner

cdef enum:
    KIND_TXN = 1             # has a transaction, in the same order
    KIND_ERROR = 2           # a header with `err`
    KIND_MULTI_FAILED = 3    # a multi's list of errors
    KIND_ECHO = 4            # a path: there is nothing to create
    KIND_SYNC = 5            # echoes a path once everything before it is applied, and the leader is confirmed
    KIND_REMOTE = 6          # has a transaction, for a client of another server: nobody waits for it here
    KIND_ASKED = 7           # the leader has not said yet what becomes of it,
    KIND_SYNC_ASKED = 8      # or, of a sync, that it is still the leader

cdef struct Entry:           # a request that waits for its turn
    PyObject* client         # a reference, or NULL: nobody waits for the answer
    int64_t began_ns
    int64_t zxid             # leader: of a sync, which confirmation it waits for; follower: see OUTCOME in _forward.pxd
    int32_t kind
    int32_t xid
    int32_t op
    int32_t err
    int32_t multi_count
    int32_t multi_failed
    uint8_t* text            # owned: the path to echo, or a transaction's plan of its reply
    int32_t text_n
    int64_t large            # bytes of the request, if that is a large one


cdef class Line:
    cdef readonly Clients clients
    cdef readonly Applier applier
    cdef object loop
    cdef object on_failure
    cdef public Spinner spinner      # None: the loop sleeps whenever there is nothing to do
    cdef object stalled              # deque of clients that wait for room
    cdef bint scheduled              # `turn` will be called in this turn of the loop
    cdef object turn                 # self.end_of_turn
    cdef readonly int64_t pending    # requests of this server between arrival and answer
    cdef readonly int64_t remote     # those of other servers' clients; only a leader has any
    cdef readonly int64_t limit      # globalOutstandingLimit
    cdef readonly bint read_only
    cdef readonly bint shared        # sessions may be another server's: ask before one goes on here
    cdef readonly int64_t txns       # transactions since the start
    cdef public object on_close_refused      # (session ids): these were to end, and that could not be recorded
    cdef readonly object idle        # called when nothing is pending, while shutting down
    cdef public int64_t large_threshold      # bytes above which a request is a large one,
    cdef public int64_t large_max            # and how many of such may be
    cdef readonly int64_t large_bytes        # in progress
    cdef OutBuf body

    # what connections call
    cdef int write(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t now_ns) except -1
    cdef int refuse(self, Client client, int32_t op, int32_t xid, int32_t err, int64_t now_ns) except -1
    cdef int sync(self, Client client, Reader* r, int32_t xid, int64_t now_ns) except -1
    cdef int close_session(self, Client client, int64_t session, int32_t xid, int64_t now_ns) except -1
    cdef int create_session(self, Client client, int64_t session, int32_t timeout) except -1
    cdef int revalidate(self, Client client, int64_t session, int32_t timeout) except -1
    cdef bint full(self) noexcept
    cdef int stall(self, Client client) except -1

    # what pipelines are made of
    cdef Entry* enter(self, Client client, int32_t kind, int32_t op, int32_t xid, int64_t now_ns) except NULL
    cdef Entry* enter_sync(self, Client client, int32_t xid, int64_t now_ns) except NULL
    cdef int fill(self, Entry* entry, Client client, int32_t kind, int32_t op, int32_t xid, int64_t now_ns) except -1
    cdef int keep_text(self, Entry* entry, const uint8_t* text, int32_t n) except -1
    cdef Client release(self, Entry* entry)
    cdef int carry_out(self, Entry* entry, Client client, const uint8_t* txn, uint32_t n, int64_t now_ns) except -1
    cdef int reply_txn(self, Client client, Entry* entry, const uint8_t* txn, uint32_t n, int64_t now_ns) except -1
    cdef int answer(self, Entry* entry, Client client, int64_t now_ns) except -1
    cdef int put_error(self, Client client, int32_t op, int32_t xid, int32_t err, int64_t began_ns,
                       int64_t now_ns) except -1
    cdef int put_account(self, Client client, int32_t op, int32_t xid, int64_t began_ns, int64_t now_ns) except -1
    cdef int drop(self, Entry* entry, str reason) except -1
    cdef int resume(self) except -1
    cdef int release_stalled(self) except -1
    cdef int settle(self) except -1


cdef inline bint is_greeting(int32_t op) noexcept nogil:
    # createSession and OP_REVALIDATE: a connection's first request, before which it asks for nothing.
    return op == OP_CREATE_SESSION or op == OP_REVALIDATE
