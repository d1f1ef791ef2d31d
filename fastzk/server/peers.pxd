"""The types of peers.py for what is compiled."""

cimport cython

from fastzk.server._peer_link cimport PeerLink


cdef class Peers:
    cdef object _loop
    cdef object _my_id
    cdef object _listener
    cdef object _on_frame
    cdef public object _on_connected
    cdef object _on_disconnected
    cdef object _on_failure
    cdef object _credentials
    cdef object _tls
    cdef bint _check_address
    cdef double _keep_alive
    cdef double _silence
    cdef double _connect_seconds
    cdef Py_ssize_t _max_pending
    cdef Py_ssize_t _max_strangers
    cdef object _resolver
    cdef dict _members
    cdef dict _dialers
    cdef readonly dict _links
    cdef dict _gone
    cdef list _unsent
    cdef bint _hurried
    cdef public bint turning
    cdef readonly set _tasks
    cdef readonly dict _strangers
    cdef readonly object _accepted
    cdef dict _newest
    cdef object _refused
    cdef public double _refused_until
    cdef bint _running
    cdef bint _closed
    cdef object _timer
    cdef double _checked_at

    @cython.locals(link=PeerLink)
    cpdef post(self, object peer_id, tuple buffers, bint along=*)
    cpdef hurry(self)

    @cython.locals(link=PeerLink)
    cpdef flush(self)
