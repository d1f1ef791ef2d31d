from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from cpython.ref cimport PyObject

from fastzk._codec cimport OutBuf, Reader
from fastzk._log cimport Batch, TxnLog
from fastzk.server._apply cimport Applier
from fastzk.server._clients cimport Client, Clients
from fastzk.server._overlay cimport Overlay
from fastzk.server._prepare cimport Preparer
from fastzk.server._spin cimport Spinner

cdef enum:
    KIND_TXN = 1             # has a transaction in the batch, in the same order
    KIND_ERROR = 2           # a header with `err`
    KIND_MULTI_FAILED = 3    # a multi's list of errors
    KIND_SYNC = 4            # echoes a path once everything before it is applied

cdef struct Entry:           # a request that waits for its turn
    PyObject* client         # a reference, or NULL: nobody waits for the answer
    int64_t began_ns
    int32_t kind
    int32_t xid
    int32_t op
    int32_t err
    int32_t multi_count
    int32_t multi_failed
    uint8_t* text            # owned
    int32_t text_n
    int64_t large            # bytes of the request, if that is a large one


cdef class Round:
    # A batch for the log, and who is answered when it is durable.
    cdef Batch batch
    cdef Entry* entries
    cdef uint32_t size
    cdef uint32_t capacity

    cdef Entry* add(self) except NULL
    cdef int clear(self) except -1


cdef class Pipeline:
    cdef readonly Clients clients
    cdef readonly Overlay overlay
    cdef readonly Preparer preparer
    cdef readonly Applier applier
    cdef TxnLog log
    cdef object loop
    cdef object on_failure
    cdef public Spinner spinner      # None: the loop sleeps whenever there is nothing to do
    cdef Round open
    cdef object in_flight            # deque of Rounds given to the log
    cdef list spare                  # Rounds to use again
    cdef object stalled              # deque of clients that wait for room
    cdef bint scheduled
    cdef object submit_turn
    cdef int64_t next_zxid
    cdef readonly int64_t pending    # requests between arrival and answer
    cdef readonly int64_t limit      # globalOutstandingLimit
    cdef readonly bint read_only
    cdef public object on_close_refused    # (session ids): these were to end, and that could not be recorded
    cdef readonly int64_t txns       # since the start
    cdef readonly object idle        # called when nothing is pending, while shutting down

    cdef int write(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t now_ns) except -1
    cdef int sync(self, Client client, Reader* r, int32_t xid, int64_t now_ns) except -1
    cdef int close_session(self, Client client, int64_t session, int32_t xid, int64_t now_ns) except -1
    cdef int create_session(self, Client client, int64_t session, int32_t timeout) except -1
    cdef bint full(self) noexcept
    cdef int stall(self, Client client) except -1
    cdef int resume(self) except -1

    cdef Entry* enter(self, Client client, int32_t kind, int32_t op, int32_t xid, int64_t now_ns) except NULL
    cdef int log_txn(self) except -1
    cdef int refuse(self, Client client, int32_t op, int32_t xid, int32_t err, int64_t now_ns) except -1
    cdef int submit(self) except -1
    cdef Client release(self, Entry* entry)
    cdef int finish(self, Round round) except -1
    cdef int answer(self, Entry* entry, Client client, int64_t now_ns) except -1
    cdef int abandon(self, Round round) except -1
    cdef int reply_txn(self, Client client, Entry* entry, const uint8_t* txn, uint32_t n, int64_t now_ns) except -1
    cdef Round fresh_round(self)
    cdef public int64_t large_threshold      # bytes above which a request is a large one,
    cdef public int64_t large_max            # and how many of such may be
    cdef readonly int64_t large_bytes        # in progress
    cdef OutBuf body
