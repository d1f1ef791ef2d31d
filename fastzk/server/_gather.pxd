from libc.stdint cimport int64_t, uint32_t

cdef enum:
    MANY = 64                        # writes in a batch that make it worth sending at once
    IN_FLIGHT = 8                    # batches under way whose writers are known; a power of two


cdef struct Writers:
    # Whose writes a batch has, as far as there is room.
    int64_t last_zxid                # its last transaction's
    int64_t count
    int64_t sessions[MANY]


cdef class Gathering:
    cdef object loop
    cdef object wake                 # () -> None: look again
    cdef int fd                      # a timerfd; -1 before it is needed
    cdef bint armed
    cdef Writers coming              # of the batch that is being filled,
    cdef Writers[IN_FLIGHT] under_way  # of those that were given to the log: `first` to `next`, modulo IN_FLIGHT,
    cdef uint32_t first
    cdef uint32_t next
    cdef Writers answered            # and of what was committed last, less those who are back
    cdef int64_t answered_count      # how many there were
    cdef int64_t crowd               # these, and those who were waiting already
    cdef int64_t loyalty             # which part of the answered was back by the next commit lately, of 256
    cdef public int64_t cycle_ns     # what a batch took lately, from the log to its commit
    cdef public int64_t most_ns      # no batch waits for longer
    cdef int64_t sent_ns             # when the last one was given to the log
    cdef int64_t free_ns             # since when the last one is committed

    cdef int forget(self) noexcept
    cdef int came(self, int64_t session) noexcept
    cdef bint enough(self, int64_t waiting, int64_t ahead) except -1
    cdef int sent(self, int64_t last_zxid) except -1
    cdef int committed(self, int64_t zxid, int64_t waiting) noexcept
    cdef bint arm(self, int64_t ns) except -1
