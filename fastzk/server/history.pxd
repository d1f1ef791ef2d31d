"""The types of history.py for what is compiled."""

cimport cython
from libc.stdint cimport int64_t

from fastzk._log cimport TxnLog
from fastzk.server.zab.messages cimport Proposal


cdef class History:
    cdef TxnLog _log
    cdef int64_t _memory_bytes
    cdef object _ends
    cdef readonly int64_t base_zxid
    cdef readonly int64_t last_zxid
    cdef list _recent
    cdef Py_ssize_t _recent_at
    cdef Py_ssize_t _gone
    cdef int64_t _recent_bytes

    cpdef int64_t floor(self, int64_t zxid) except? -1

    @cython.locals(batch=Proposal)
    cpdef list after(self, int64_t zxid, int64_t max_bytes)
    cpdef append(self, Proposal proposal)

    @cython.locals(batch=Proposal)
    cpdef truncate(self, int64_t zxid)
    cdef Py_ssize_t _position(self, int64_t zxid) except -1

    @cython.locals(batch=Proposal)
    cdef _let_go(self)

    @cython.locals(batch=Proposal)
    cdef _drop_oldest(self)
