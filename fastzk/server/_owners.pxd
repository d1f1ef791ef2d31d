from libc.stdint cimport int32_t, int64_t, uint64_t

cdef struct Owned:
    int64_t session
    int64_t server           # whose client it is; 0: nobody has claimed it yet; -1: this place is free


cdef class Owners:
    cdef Owned* table
    cdef uint64_t mask
    cdef uint64_t used

    cdef Owned* find(self, int64_t session) noexcept
    cdef int put(self, int64_t session, int64_t server) except -1
    cdef int32_t check(self, int64_t session, int64_t server) noexcept
    cdef int32_t move(self, int64_t session, int64_t server) noexcept
    cdef void drop(self, int64_t session) noexcept
    cdef int clear(self) except -1
