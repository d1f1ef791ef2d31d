cdef enum:
    CALL_PENDING = 0
    CALL_DONE = 1
    CALL_FAILED = 2
    CALL_CANCELLED = 3


cdef class Call:
    cdef readonly object owner         # see fastzk.client.client.Client: wait, dispatch, and the list `steps`
    cdef object outcome                # the value, or the exception
    cdef int state
    cdef object lock                   # held until the call is settled; None while nobody waits
    cdef public bint indirect          # it may be settled by something else than a reply
    cdef list callbacks
    cdef object step                   # what the thread that settles does next: the rest of a composed operation

    cdef bint settle(self, int state, object outcome) except -1
