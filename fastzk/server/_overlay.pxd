from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastzk._index cimport Index
from fastzk._tree cimport Tree

cdef struct Change:              # a znode as it will be once everything proposed is applied
    uint64_t hash
    uint8_t* path
    int32_t n
    int32_t room                 # bytes allocated for path
    int64_t zxid                 # the last proposed transaction that touches it
    int64_t owner
    bint exists
    int32_t version
    int32_t cversion             # creates, as the tree counts them
    int32_t aversion
    int32_t children
    int32_t data_len             # of the data, 0 for none
    uint32_t acl                 # holds a reference in the ACL table

cdef struct Touch:
    uint32_t change
    int64_t zxid

cdef struct Undo:
    uint32_t change
    bint fresh                   # there was no record before
    Change before


cdef class Overlay:
    cdef Tree tree
    cdef Index index
    cdef Change** changes
    cdef uint32_t size
    cdef uint32_t capacity
    cdef uint32_t* spare         # numbers of unused records
    cdef uint32_t spares
    cdef Touch* touches          # a ring: which record each proposed transaction touched, in order
    cdef uint64_t touch_mask
    cdef uint64_t touch_head
    cdef uint64_t touch_tail
    cdef Undo* undo
    cdef uint32_t undo_size
    cdef uint32_t undo_capacity
    cdef bint recording
    cdef uint64_t mark

    cdef Change* find(self, const uint8_t* p, int32_t n, uint64_t h) noexcept
    cdef Change* view(self, const uint8_t* p, int32_t n, uint64_t h, Change* room) noexcept
    cdef Change* touch(self, const uint8_t* p, int32_t n, uint64_t h, const Change* now, int64_t zxid) except NULL
    cdef int settle(self, int64_t zxid) except -1
    cdef int clear(self) except -1
    cdef void begin(self) noexcept
    cdef int commit(self) except -1
    cdef int rollback(self) except -1
    cdef int release(self, uint32_t number) except -1
    cdef int push(self, uint32_t number, int64_t zxid) except -1
    cdef uint32_t number_of(self, const uint8_t* p, int32_t n, uint64_t h) noexcept
