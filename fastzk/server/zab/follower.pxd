"""The types of follower.py for what is compiled."""

cimport cython
from libc.stdint cimport int64_t

from fastzk.server.zab.core cimport Core
from fastzk.server.zab.messages cimport Append
from fastzk.server.zab.role cimport Role


cdef class Following(Role):
    cdef readonly int64_t leader
    cdef readonly int64_t epoch
    cdef readonly int64_t stream
    cdef readonly int64_t serve_from
    cdef readonly bint synced
    cdef readonly bint installing
    cdef bint _resync_sent
    cdef int64_t _heard
    cdef int64_t _began

    @cython.locals(core=Core)
    cpdef step(self, int64_t sender, object message)

    @cython.locals(core=Core)
    cdef _in_stream(self, object message)
    cpdef persisted(self)

    @cython.locals(core=Core)
    cdef _append(self, Append message)

    @cython.locals(core=Core)
    cdef _commit(self, int64_t zxid)

    @cython.locals(core=Core)
    cdef _acknowledge(self)
    cdef _say_first_position(self)
    cdef _say_position(self, int64_t zxid)
    cdef _roll(self, int64_t epoch)
    cdef int64_t _patience(self) except -1
