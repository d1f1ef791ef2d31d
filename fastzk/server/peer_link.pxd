"""The types of peer_link.py for what is compiled."""

cimport cython


cdef class PeerLink:
    cdef object _loop
    cdef public object _sock
    cdef object _on_closed
    cdef object _on_failure
    cdef object _transport
    cdef bint _direct
    cdef readonly object lost
    cdef readonly str reason
    cdef public object peer_id
    cdef public object source
    # reading
    cdef Py_ssize_t _limit
    cdef object _on_frame
    cdef object _receiver
    cdef readonly object _view
    cdef object _frames
    cdef Py_ssize_t _start
    cdef readonly Py_ssize_t _end
    cdef bint _large
    cdef double _heard_at
    cdef Py_ssize_t _progress
    # writing
    cdef list _parts
    cdef bytearray _tail
    cdef readonly Py_ssize_t queued
    cdef readonly bint backlog
    cdef double _sent_at

    cpdef drop(self, str reason)
    cdef _end_life(self, str reason)
    cdef _new_buffer(self, Py_ssize_t size)
    cdef _resize(self, Py_ssize_t size)

    @cython.locals(start=Py_ssize_t, end=Py_ssize_t, first=Py_ssize_t, stop=Py_ssize_t, length=Py_ssize_t)
    cdef _cut(self)

    @cython.locals(start=Py_ssize_t, size=Py_ssize_t, left=Py_ssize_t, needed=Py_ssize_t)
    cdef _make_room(self)

    @cython.locals(length=Py_ssize_t)
    cpdef send(self, tuple buffers)
    cpdef flush(self)
