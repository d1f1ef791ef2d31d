"""The types of leader.py for what is compiled."""

cimport cython
from libc.stdint cimport int64_t

from fastzk.server.zab.core cimport Core
from fastzk.server.zab.messages cimport HeartbeatAck, Promise, Proposal
from fastzk.server.zab.role cimport Role


@cython.final
cdef class Progress:
    cdef readonly int64_t stream
    cdef public object phase
    cdef public int64_t sent
    cdef public int64_t acked
    cdef public int64_t commit_told
    cdef public int64_t round
    cdef public int64_t heard
    cdef public int64_t began
    cdef readonly object in_flight
    cdef public int64_t in_flight_bytes
    cdef public int64_t late


cdef class Leading(Role):
    cdef readonly int64_t epoch
    cdef readonly int64_t round
    cdef readonly dict progress
    cdef int64_t _first_epoch
    cdef int64_t _confirmed
    cdef int64_t _contact
    cdef int64_t _streams
    cdef int64_t _beat_at
    cdef int64_t _rolling
    cdef set _promises

    @cython.locals(core=Core, progress=Progress)
    cpdef step(self, int64_t sender, object message)

    @cython.locals(core=Core, peer=int64_t, progress=Progress, previous=int64_t)
    cpdef propose(self, Proposal proposal)

    @cython.locals(core=Core, peer=int64_t, progress=Progress, commit=int64_t, told=int64_t)
    cpdef settle(self)

    @cython.locals(core=Core)
    cpdef persisted(self)
    cdef _greet(self, int64_t peer)
    cdef _positioned(self, int64_t peer, Progress progress, int64_t zxid, int64_t last_zxid)
    cdef _pump(self, int64_t peer, Progress progress)

    @cython.locals(core=Core, size=int64_t)
    cdef _append(self, int64_t peer, Progress progress, Proposal proposal)

    @cython.locals(core=Core, news=bint)
    cdef _acknowledged(self, int64_t peer, Progress progress, int64_t zxid)

    @cython.locals(core=Core)
    cdef _count(self)

    @cython.locals(core=Core, progress=Progress, acked=dict, own=int64_t, floor=int64_t, zxid=int64_t)
    cdef bint _move(self) except -1

    @cython.locals(core=Core)
    cdef _heartbeat_answered(self, int64_t peer, Progress progress, HeartbeatAck message)
    cpdef int64_t confirm(self) except -1

    @cython.locals(core=Core)
    cdef _confirm(self)
    cdef _beat(self, object peers)

    @cython.locals(core=Core)
    cdef bint _in_contact(self) except -1
    cdef int64_t _last_contact(self) except? -1
    cdef _ask_to_roll(self)
    cdef _promised(self, int64_t sender, Promise message)
    cdef _rolled(self)
