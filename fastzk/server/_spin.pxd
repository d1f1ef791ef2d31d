from libc.stdint cimport int64_t


cdef class Spinner:
    cdef object loop
    cdef object again                # bound once: a method object per turn would be garbage per turn
    cdef int64_t limit_ns            # how long to look for work before sleeping; 0: not at all
    cdef int64_t last_ns             # when something happened last,
    cdef int64_t served_ns           # and whether that has been served
    cdef int64_t gap_ns              # running mean of the time between events
    cdef int64_t until_ns
    cdef bint active

    cdef int touch(self, int64_t now_ns) except -1
