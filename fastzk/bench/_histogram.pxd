from libc.stdint cimport uint64_t

cdef extern from *:
    int leading_zeros "__builtin_clzll"(unsigned long long) noexcept nogil

cdef enum:
    HALF_BITS = 7                    # slots of an octave, as a power of two
    HALF = 128
    WHOLE = 256                      # values below this have a slot each
    LIMIT_BITS = 40                  # values go up to 2**40 - 1 ns, 18 minutes
    SLOTS = 4352                     # (LIMIT_BITS - 8 + 2) * HALF

ctypedef struct Tally:
    uint64_t count
    uint64_t total                   # sum of the values
    uint64_t least                   # the exact extremes; UINT64_MAX and 0 while there is no value
    uint64_t most
    uint64_t slots[SLOTS]


cdef inline int slot_of(uint64_t value) noexcept nogil:
    # Halves the value until it has 8 bits: the octave is how often, the slot in it what is left.
    cdef int octave = 56 - leading_zeros(value | (WHOLE - 1))
    return (octave << HALF_BITS) + <int>(value >> octave)


cdef inline void tally(Tally* into, uint64_t value, uint64_t times) noexcept nogil:
    if value >> LIMIT_BITS:
        value = (<uint64_t>1 << LIMIT_BITS) - 1
    into.slots[slot_of(value)] += times
    into.count += times
    into.total += value * times
    if value < into.least:
        into.least = value
    if value > into.most:
        into.most = value


cdef void clear(Tally* what) noexcept nogil


cdef class Histogram:
    cdef Tally* tally
    cdef bytes counts(self)
