from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    UNIFORM = 0
    SEQUENTIAL = 1
    HOT = 2
    WEIGHTED = 3


cdef inline uint64_t next_random(uint64_t* state) noexcept nogil:
    # SplitMix64: a counter, well mixed. One word of state, and any seed is a good one.
    cdef uint64_t mixed
    state[0] += <uint64_t>0x9E3779B97F4A7C15
    mixed = state[0]
    mixed = (mixed ^ (mixed >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * <uint64_t>0x94D049BB133111EB
    return mixed ^ (mixed >> 31)


cdef inline uint32_t scaled(uint64_t random, uint32_t below) noexcept nogil:
    # A number below ``below`` from the upper half of a random one, without a division.
    return <uint32_t>(((random >> 32) * below) >> 32)


cdef class KeyChooser:
    cdef int kind
    cdef uint32_t keys
    cdef uint32_t hot                # keys that are hot: the first ones
    cdef uint32_t hot_share          # of the requests, in 1/2**32
    cdef uint32_t position           # the next one in turn
    cdef uint64_t state
    cdef uint32_t* share             # WEIGHTED: the chance of the column's own key, in 1/2**32 ...
    cdef uint32_t* alias             # ... and whose key the rest of the column belongs to

    cdef int weigh(self, double exponent) except -1

    cdef inline uint32_t next(self) noexcept nogil:
        cdef uint64_t random
        cdef uint32_t key
        if self.kind == SEQUENTIAL:
            key = self.position
            self.position = 0 if key + 1 == self.keys else key + 1
            return key
        random = next_random(&self.state)
        if self.kind == UNIFORM:
            return scaled(random, self.keys)
        if self.kind == HOT:
            # the lower half says which part, the upper half which key of it
            if <uint32_t>random < self.hot_share or self.hot == self.keys:
                return scaled(random, self.hot)
            return self.hot + scaled(random, self.keys - self.hot)
        key = scaled(random, self.keys)
        return key if <uint32_t>random < self.share[key] else self.alias[key]
