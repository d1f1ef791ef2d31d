from libc.stdint cimport uint8_t

from fastzk.client._call cimport Call
from fastzk.client._channel cimport Channel


cdef class Wire:
    cdef Channel channel
    # What is read, until it is decoded. Each connection has its own: a thread that still reads from a broken one must
    # not write into what comes from the next.
    cdef uint8_t* input
    cdef int fd
    cdef int poller                    # an epoll descriptor
    cdef int waker                     # an eventfd that ends a wait of the helper thread
    cdef bint reading                  # some thread reads, or is about to
    cdef unsigned long reader          # which one
    cdef bint armed                    # the helper's wait ends when something comes
    cdef bint closing                  # close the descriptors when nobody reads any more
    cdef readonly bint broken          # nothing can be sent or received any more
    cdef readonly object problem       # why

    cdef int arm(self) except -1
    cdef int disarm(self) except -1
    cdef int leave(self) except -1
    cdef int fail(self, problem) except -1
    cdef ssize_t read(self, double timeout) except -2
