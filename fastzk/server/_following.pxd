from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastzk._codec cimport OutBuf, Reader
from fastzk.server._apply cimport Applier
from fastzk.server._clients cimport Client, Clients
from fastzk.server._line cimport Entry, Line


cdef class Following(Line):
    cdef readonly bint active        # there is a leader to ask
    cdef public object send_forward  # (FORWARD frame): to the leader
    # the entries, in a ring: number `seq` is at ring[seq & mask]
    cdef Entry* ring
    cdef uint64_t mask
    cdef uint64_t head               # the oldest one's number; it only grows
    cdef uint64_t tail               # the next one's
    cdef uint64_t next_own           # no entry before this one has a transaction
    # what is asked of the leader in this turn
    cdef OutBuf frame
    cdef int64_t stream
    cdef int64_t number              # of the last frame
    # committed batches that are not applied, because a sync before one of their transactions is not answered
    cdef object batches              # deque of them, without the one
    cdef object batch                # that `at` and `left` are inside of
    cdef const uint8_t[::1] view
    cdef const uint8_t* at
    cdef size_t left
    cdef bint advancing

    cdef int ask(self, int64_t session, int32_t xid, int32_t op, const OutBuf* auth, const uint8_t* body,
                 size_t n) except -1
    cdef int send(self) except -1
    cdef int advance(self) except -1
    cdef int pop(self, const uint8_t* txn, uint32_t n, int64_t now_ns) except -1
    cdef bint next_batch(self) except -1
    cdef const uint8_t* peek(self, uint32_t* n, int64_t* zxid) except? NULL
    cpdef outcome(self, frame, Py_ssize_t skip=*)
    cdef int take_outcomes(self, const uint8_t* p, Py_ssize_t n) except -1
    cdef int take(self, Reader* r) except -1
