# An open-addressing hash index from a 64-bit hash to small numbers (u32, never 0). A bucket holds the number in
# its low half and the hash's high half above it: that half is the probe's start and a filter, so that the
# index grows without looking at what it indexes. The owner verifies each candidate that a probe yields.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free


cdef struct Index:
    uint64_t* buckets
    uint64_t mask
    uint64_t used


cdef inline int index_resize(Index* index, uint64_t buckets) except -1 nogil:
    cdef uint64_t* fresh = <uint64_t*>calloc(buckets, sizeof(uint64_t))
    cdef uint64_t i, at
    if fresh == NULL:
        with gil:
            raise MemoryError(f"no memory for an index of {buckets} buckets")
    if index.buckets != NULL:
        for i in range(index.mask + 1):
            if index.buckets[i]:
                at = (index.buckets[i] >> 32) & (buckets - 1)
                while fresh[at]:
                    at = (at + 1) & (buckets - 1)
                fresh[at] = index.buckets[i]
        free(index.buckets)
    index.buckets = fresh
    index.mask = buckets - 1
    return 0


cdef inline int index_reserve(Index* index) except -1 nogil:
    # Room for one more: call it before index_put, where failing is still harmless.
    if (index.used + 1) * 4 > (index.mask + 1) * 3:
        index_resize(index, (index.mask + 1) * 2)
    return 0


cdef inline void index_put(Index* index, uint64_t h, uint32_t number) noexcept nogil:
    cdef uint64_t at = (h >> 32) & index.mask
    while index.buckets[at]:
        at = (at + 1) & index.mask
    index.buckets[at] = (h & 0xFFFFFFFF00000000ULL) | number
    index.used += 1


cdef inline void index_remove(Index* index, uint64_t h, uint32_t number) noexcept nogil:
    # Backward-shift deletion: no tombstones, so a lookup's cost depends only on what is there now.
    cdef uint64_t hole = (h >> 32) & index.mask
    cdef uint64_t at, home
    while <uint32_t>index.buckets[hole] != number:
        hole = (hole + 1) & index.mask
    at = hole
    while True:
        at = (at + 1) & index.mask
        if index.buckets[at] == 0:
            break
        home = (index.buckets[at] >> 32) & index.mask
        if ((at - home) & index.mask) >= ((at - hole) & index.mask):
            index.buckets[hole] = index.buckets[at]
            hole = at
    index.buckets[hole] = 0
    index.used -= 1


cdef inline uint64_t index_start(const Index* index, uint64_t h) noexcept nogil:
    return (h >> 32) & index.mask


cdef inline uint32_t index_next(const Index* index, uint64_t h, uint64_t* at) noexcept nogil:
    # The next candidate with this hash from bucket `at` on, which moves behind it; 0: no more.
    cdef uint64_t bucket
    while True:
        bucket = index.buckets[at[0]]
        if bucket == 0:
            return 0
        at[0] = (at[0] + 1) & index.mask
        if bucket >> 32 == h >> 32:
            return <uint32_t>bucket
