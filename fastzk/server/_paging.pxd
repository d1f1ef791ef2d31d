from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastzk._codec cimport OutBuf
from fastzk._tree cimport Tree

cdef struct Ranked:
    uint64_t key             # of the name: orders most names without a look at them
    uint32_t slot


cdef class Window:
    # The names of one parent's children behind `after`, in byte order: as many as one search found.
    cdef uint32_t parent
    cdef uint32_t owners         # which children: flags of the request
    cdef int64_t pzxid           # as of which change of the children,
    cdef uint32_t children       # and of how many
    cdef bytes after
    cdef uint32_t* slots
    cdef uint32_t count
    cdef bint last               # no child comes behind these


cdef class Pages:
    cdef Tree tree
    cdef list windows            # the one used last stands last
    cdef const uint8_t* shared   # what most names begin with, while a search runs
    cdef int32_t shared_n
    cdef uint64_t random         # state of a generator; never 0
    cdef readonly int64_t searches

    cdef int put_page(self, OutBuf* out, uint32_t parent, const uint8_t* after, int32_t after_n, uint32_t owners,
                      int32_t limit, int64_t room) except -1
    cdef Window find(self, uint32_t parent, const uint8_t* after, int32_t after_n, uint32_t owners)
    cdef Window search(self, uint32_t parent, const uint8_t* after, int32_t after_n, uint32_t owners)
    cdef uint32_t start_in(self, Window window, const uint8_t* after, int32_t after_n) noexcept nogil
    cdef int compare(self, uint32_t slot, const uint8_t* p, int32_t n) noexcept nogil
    cdef uint64_t key_of(self, const uint8_t* p, int32_t n) noexcept nogil
    cdef bint less(self, const Ranked* a, const Ranked* b) noexcept nogil
    cdef void select(self, Ranked* a, int64_t n, int64_t keep) noexcept nogil
    cdef void sort(self, Ranked* a, int64_t n) noexcept nogil
    cdef int learn_shared(self, uint32_t parent) except -1
