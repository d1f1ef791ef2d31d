"""The types of role.py for what is compiled."""

from libc.stdint cimport int64_t


cdef class Role:
    cdef readonly object core  # a Core: those who need to be quick say so

    cpdef begin(self)
    cpdef step(self, int64_t sender, object message)
    cpdef tick(self)
    cpdef connected(self, int64_t peer)
    cpdef disconnected(self, int64_t peer)
    cpdef persisted(self)
    cpdef settle(self)
