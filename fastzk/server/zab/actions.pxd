"""The types of actions.py for what is compiled."""

cimport cython
from libc.stdint cimport int64_t

from fastzk.server.zab.messages cimport Proposal


@cython.final
cdef class Save:
    cdef readonly int64_t epoch
    cdef readonly int64_t candidate


@cython.final
cdef class Send:
    cdef readonly int64_t to
    cdef readonly object message


@cython.final
cdef class Log:
    cdef readonly Proposal proposal
    cdef readonly bint urgent


@cython.final
cdef class Truncate:
    cdef readonly int64_t zxid


@cython.final
cdef class SendState:
    cdef readonly int64_t to
    cdef readonly int64_t stream


@cython.final
cdef class ReceiveState:
    cdef readonly int64_t leader
    cdef readonly int64_t stream


@cython.final
cdef class Lead:
    cdef readonly int64_t epoch


@cython.final
cdef class Rolled:
    cdef readonly int64_t epoch


@cython.final
cdef class Follow:
    cdef readonly int64_t leader
    cdef readonly int64_t epoch


@cython.final
cdef class Look:
    cdef readonly str reason


@cython.final
cdef class Confirmed:
    cdef readonly int64_t round


@cython.final
cdef class Reconfigured:
    cdef readonly int64_t zxid
    cdef readonly object membership
