from libc.stdint cimport int64_t

cdef enum:
    MANY = 64                        # writes in a batch that make it worth sending at once


cdef struct Writers:
    # Whose writes a batch has, as far as there is room; no session twice as often as it wrote.
    int64_t count
    int64_t sessions[MANY]


cdef class Gathering:
    cdef object loop
    cdef object wake                 # () -> None: look again
    cdef int fd                      # a timerfd; -1 before it is needed
    cdef bint armed
    cdef Writers coming              # of the batch that is being filled,
    cdef Writers under_way           # of the one that was given to the log last,
    cdef Writers answered            # and of the one that was committed last, less those who are back
    cdef int64_t answered_count      # how many these were
    cdef int64_t crowd               # these, and those who were waiting already
    cdef int64_t loyalty             # which part of the answered was back by the next commit lately, of 256
    cdef public int64_t cycle_ns     # what a batch took lately, from the log to its commit
    cdef public int64_t most_ns      # no batch waits for longer
    cdef int64_t sent_ns             # when the last one was given to the log
    cdef int64_t free_ns             # when the last one was committed

    cdef int forget(self) noexcept
    cdef int came(self, int64_t session) noexcept
    cdef bint enough(self, int64_t waiting, int64_t ahead) except -1
    cdef int sent(self) noexcept
    cdef int committed(self, int64_t waiting) noexcept
    cdef int arm(self, int64_t ns) except -1
