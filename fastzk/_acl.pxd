from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastzk._codec cimport OutBuf

cdef struct AclEntry:
    uint8_t* data          # the vector<ACL> as it travels: count, then perms, scheme, id each
    int32_t n
    int32_t world          # permissions that world:anyone has in it: answers nearly every check
    uint64_t hash          # of data, the same on every server: part of the tree's digest
    uint32_t refs          # znodes and overlay records that use it


cdef class AclTable:
    cdef AclEntry* entries
    cdef uint32_t size      # entries in use or free, the first is OPEN_ACL
    cdef uint32_t capacity
    cdef list free_ids
    cdef dict ids           # vector bytes -> id
    cdef set changed        # ids that differ from the last checkpoint
    cdef public bint skip_checks

    cdef int64_t intern(self, const uint8_t* p, int32_t n) except -1
    cdef void ref(self, uint32_t acl_id) noexcept nogil
    cdef int unref(self, uint32_t acl_id) except -1
    cdef int grow(self, uint32_t size) except -1
    cdef int put(self, uint32_t acl_id, bytes vector) except -1


cdef bint acl_permits(AclTable table, uint32_t acl_id, int32_t perm, const OutBuf* auth) noexcept nogil
cdef int32_t world_perms(const uint8_t* p, int32_t n) noexcept nogil
cdef int is_open_acl(const uint8_t* p, int32_t n) noexcept nogil
