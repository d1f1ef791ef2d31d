"""The types of core.py for what is compiled."""

from libc.stdint cimport int64_t

from fastzk.server.zab.messages cimport Canvass, NewLeader, Probe, Proposal
from fastzk.server.zab.role cimport Role


cdef class Core:
    cdef readonly int64_t id
    cdef readonly object membership
    cdef readonly tuple pending
    cdef readonly object history
    cdef readonly object inspect
    cdef readonly object timing
    cdef readonly object random
    cdef readonly int64_t now
    cdef readonly int64_t promised
    cdef readonly int64_t candidate
    cdef readonly int64_t durable
    cdef readonly int64_t commit
    cdef readonly set peers
    cdef readonly bint diverged
    cdef readonly Role role
    cdef readonly Role leading
    cdef readonly Role following
    cdef list _actions

    cpdef list take(self)
    cpdef settle(self)
    cpdef tick(self, int64_t now_ms)
    cpdef persisted(self, int64_t zxid)
    cpdef step(self, int64_t sender, object message)
    cpdef propose(self, Proposal proposal)
    cdef _probed(self, int64_t sender, Probe message)
    cdef _canvassed(self, int64_t sender, Canvass message)
    cdef _new_leader(self, int64_t sender, NewLeader message)
    cdef bint _rolling_with(self, int64_t sender)
    cpdef act(self, object action)
    cpdef send(self, int64_t to, object message)
    cpdef save(self, int64_t epoch, int64_t candidate)
    cpdef take_role(self, Role role)
    cpdef lead(self, int64_t epoch)
    cpdef look(self, str reason)
    cpdef appended(self, Proposal proposal)
    cpdef truncated(self, int64_t zxid)
    cpdef bint advance(self, int64_t commit) except -1
    cpdef bint learn(self, int64_t membership) except -1
    cdef _adopt(self)
