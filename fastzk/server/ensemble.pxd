"""The types of ensemble.py for what is compiled."""

cimport cython
from libc.stdint cimport int64_t

from fastzk._log cimport Batch, TxnLog
from fastzk.server._apply cimport Applier
from fastzk.server._clients cimport Clients
from fastzk.server._following cimport Following
from fastzk.server._pipeline cimport Pipeline
from fastzk.server.history cimport History
from fastzk.server.peers cimport Peers
from fastzk.server.talk cimport Talk
from fastzk.server.zab.actions cimport Log, Send
from fastzk.server.zab.core cimport Core
from fastzk.server.zab.messages cimport Proposal


cdef int64_t _now_ms() except? -1


cdef class Ensemble:
    cdef object _loop
    cdef object _id
    cdef object _ensemble
    cdef object _certificates
    cdef object _epochs
    cdef History _history
    cdef TxnLog _log
    cdef object _tree
    cdef Applier _applier
    cdef object _sessions
    cdef object _service
    cdef Clients _clients
    cdef Pipeline _pipeline
    cdef Following _following
    cdef object _config
    cdef object _serving
    cdef object _on_installed
    cdef object _on_failure
    cdef bint _scheduled
    cdef bint _busy
    cdef bint _turning
    cdef bint _stopped
    cdef int64_t _handed
    cdef list _lazy
    cdef Py_ssize_t _lazy_bytes
    cdef bint _lazy_timer
    cdef object _digests
    cdef int64_t _opened
    cdef readonly Core core
    cdef Peers _peers
    cdef Talk _talk
    cdef object _full_states
    cdef object _roster

    cdef _settle_log(self)
    cdef _begin_to_serve(self)
    cdef _retire(self)
    cdef _schedule(self)

    @cython.locals(limit=int64_t)
    cdef _tell_commit(self)
    cdef _carry_out(self)

    @cython.locals(sending=Send, writing=Log, proposal=Proposal)
    cdef _act(self, object action)

    @cython.locals(proposal=Proposal, batch=Batch)
    cpdef _write_lazy(self)
    cdef _send(self, int64_t to, object message)

    @cython.locals(limit=int64_t, core=Core)
    cdef _apply(self)

    @cython.locals(limit=int64_t, core=Core)
    cdef int64_t _due(self) except -1

    @cython.locals(proposal=Proposal)
    cdef _apply_history(self, int64_t limit)
