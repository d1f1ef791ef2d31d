"""The types of talk.py for what is compiled."""

cimport cython

from fastzk.server._apply cimport Applier
from fastzk.server._following cimport Following
from fastzk.server._pipeline cimport Pipeline
from fastzk.server.peers cimport Peers
from fastzk.server.zab.core cimport Core

cdef int FORWARD
cdef int OUTCOME
cdef int HEARD
cdef int MOVED
cdef int STATE
cdef int DIGEST
cdef int SECRET


cdef class Talk:
    cdef object _id
    cdef object _config
    cdef Core _core
    cdef Peers _peers
    cdef Pipeline _pipeline
    cdef Following _following
    cdef object _serving
    cdef Applier _applier
    cdef object _tree
    cdef object _sessions
    cdef object _on_state
    cdef object _on_digest
    cdef dict _secrets
    cdef object _heard_since

    @cython.locals(kind=int)
    cpdef take(self, peer, body)
