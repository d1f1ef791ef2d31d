from libc.stdint cimport uint8_t

from fastzk._codec cimport OutBuf


cdef class Window:
    # Memory, as Python's buffers show it.
    cdef bytes owner                 # whose the memory is: who takes a buffer keeps it alive
    cdef const uint8_t* p
    cdef Py_ssize_t n


cdef class PeerLink:
    cdef object loop
    cdef object sock
    cdef object on_closed
    cdef object on_failure
    cdef readonly object transport
    cdef readonly object lost
    cdef readonly str reason
    cdef public object peer_id
    cdef public object source
    cdef bint direct                 # whether to send past the transport is right: not with TLS
    cdef int fd                      # of the socket, as long as this may send past the transport; else -1
    # reading
    cdef Py_ssize_t limit
    cdef object on_frame
    cdef object receiver             # a Future of who waits for a frame of the handshake
    cdef bytes memory                # the buffer: `size` bytes at `p`
    cdef uint8_t* p
    cdef readonly Py_ssize_t size
    cdef object frames               # a view of it, of which those of frames are cut
    cdef Window room                 # what is free at its end
    cdef Py_ssize_t taken            # where what is in no delivered frame begins
    cdef Py_ssize_t end              # behind the last byte received
    cdef bint large                  # whether the size of the buffer was needed since the last check
    cdef double heard_at
    cdef Py_ssize_t progress         # bytes of the incomplete frame that were taken for a sign of life
    # writing
    cdef list parts                  # large buffers, and what goes before each; bytes stay as they are
    cdef OutBuf tail                 # small buffers behind the parts
    cdef readonly Py_ssize_t queued  # bytes of both
    cdef readonly bint backlog
    cdef double sent_at

    cpdef drop(self, str reason)
    cpdef send(self, tuple buffers)
    cpdef flush(self)
    cdef int end_life(self, str reason) except -1
    cdef int new_buffer(self, Py_ssize_t size) except -1
    cdef int resize(self, Py_ssize_t size) except -1
    cdef int cut(self) except -1
    cdef int make_room(self) except -1
    cdef int send_large(self, tuple buffers, Py_ssize_t length) except -1
    cdef int tail_to_parts(self) except -1
    cdef int flush_parts(self, Py_ssize_t sent, bint direct) except -1
    cdef int forget_queued(self) except -1
