"""The types of messages.py for what is compiled: fields that C code reads where they are."""

cimport cython
from libc.stdint cimport int64_t

cdef int _APPEND
cdef int _ACK
cdef int _COMMIT
cdef Py_ssize_t _APPEND_BYTES


@cython.final
cdef class Proposal:
    cdef readonly int64_t first_zxid
    cdef readonly int64_t last_zxid
    cdef readonly int64_t count
    cdef readonly bytes payload


@cython.final
cdef class Probe:
    cdef readonly int64_t epoch
    cdef readonly int64_t round
    cdef readonly int64_t last_zxid


@cython.final
cdef class ProbeReply:
    cdef readonly int64_t epoch
    cdef readonly int64_t round
    cdef readonly bint granted
    cdef readonly int64_t last_zxid
    cdef readonly int64_t leader
    cdef readonly int64_t membership


@cython.final
cdef class Canvass:
    cdef readonly int64_t epoch
    cdef readonly int64_t last_zxid


@cython.final
cdef class Promise:
    cdef readonly int64_t epoch
    cdef readonly int64_t promised
    cdef readonly bint granted


@cython.final
cdef class NewLeader:
    cdef readonly int64_t epoch
    cdef readonly int64_t stream
    cdef readonly int64_t commit


@cython.final
cdef class Position:
    cdef readonly int64_t epoch
    cdef readonly int64_t stream
    cdef readonly int64_t zxid
    cdef readonly int64_t last_zxid


@cython.final
cdef class Match:
    cdef readonly int64_t epoch
    cdef readonly int64_t stream
    cdef readonly int64_t zxid


@cython.final
cdef class Sync:
    cdef readonly int64_t epoch
    cdef readonly int64_t stream
    cdef readonly int64_t zxid
    cdef readonly int64_t last_zxid


@cython.final
cdef class Install:
    cdef readonly int64_t epoch
    cdef readonly int64_t stream
    cdef readonly int64_t last_zxid


@cython.final
cdef class Append:
    cdef readonly int64_t epoch
    cdef readonly int64_t stream
    cdef readonly int64_t previous
    cdef readonly int64_t commit
    cdef readonly bint urgent
    cdef readonly Proposal proposal


@cython.final
cdef class Ack:
    cdef readonly int64_t epoch
    cdef readonly int64_t stream
    cdef readonly int64_t zxid


@cython.final
cdef class Commit:
    cdef readonly int64_t epoch
    cdef readonly int64_t stream
    cdef readonly int64_t zxid


@cython.final
cdef class Heartbeat:
    cdef readonly int64_t epoch
    cdef readonly int64_t stream
    cdef readonly int64_t round
    cdef readonly int64_t commit


@cython.final
cdef class HeartbeatAck:
    cdef readonly int64_t epoch
    cdef readonly int64_t round
    cdef readonly int64_t promised


@cython.final
cdef class Resync:
    cdef readonly int64_t epoch
    cdef readonly int64_t stream


cpdef int64_t opening_zxid(int64_t epoch)
cpdef bint follows(int64_t before, int64_t after)


@cython.locals(append=Append, batch=Proposal, ack=Ack, commit=Commit)
cpdef tuple encode(object message)


@cython.locals(size=Py_ssize_t, code=int)
cpdef object decode(object frame)


cdef bint _sound(int64_t epoch, int64_t first, int64_t last, int64_t count) except -1
