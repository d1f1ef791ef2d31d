from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastzk._acl cimport AclTable
from fastzk._codec cimport OutBuf
from fastzk._index cimport Index

cdef enum:
    SLAB_BITS = 10
    PAGE_BITS = 7
    ROOT = 1
    OWNER_PERSISTENT = 0
    OWNER_EPHEMERAL = 1
    OWNER_CONTAINER = 2
    OWNER_TTL = 3
    STAT_BYTES = 68

cdef struct Node:
    int64_t czxid
    int64_t mzxid
    int64_t pzxid
    int64_t ctime
    int64_t mtime
    int64_t owner          # session id, or ZooKeeper's marks for containers and TTL; see owner_kind
    uint8_t* blob          # the name, then the data
    int32_t version
    int32_t cversion       # creates below this znode; what clients see is 2 * cversion - num_children
    int32_t aversion
    int32_t data_len       # -1: null data
    uint32_t name_len
    uint32_t parent        # slot; in a free slot: the next free one
    uint32_t first_child
    uint32_t next_sibling
    uint32_t prev_sibling
    uint32_t num_children
    uint32_t acl           # number in the ACL table
    uint32_t flags


cdef struct ChildList:
    uint32_t slot          # whose list this is, 0: nobody's
    OutBuf body            # vector<ustring> as getChildren answers it


cdef class Tree:
    cdef readonly AclTable acls
    cdef Node** slabs
    cdef uint32_t slab_count
    cdef uint32_t next_slot         # slots handed out so far, free ones included
    cdef uint32_t free_head
    cdef readonly uint32_t count    # znodes, the root included
    cdef Index index                # path -> slot
    cdef uint64_t seed
    cdef uint64_t digest_value
    cdef readonly int64_t data_size
    cdef readonly dict ephemerals   # session id -> set of slots
    cdef readonly set containers
    cdef readonly set ttls
    cdef readonly int64_t ephemeral_count
    cdef ChildList* lists
    cdef size_t lists_bytes
    cdef uint8_t* page_state
    cdef uint8_t* page_frozen
    cdef uint32_t page_capacity
    cdef list captured
    cdef dict frozen_acls
    cdef list acl_pages
    cdef uint32_t scan_page
    cdef uint32_t scan_end
    cdef bint checkpointing

    cdef inline Node* node(self, uint32_t slot) noexcept nogil:
        return &self.slabs[slot >> SLAB_BITS][slot & ((1 << SLAB_BITS) - 1)]

    cdef uint64_t hash(self, const uint8_t* p, int32_t n) noexcept nogil
    cdef uint32_t find(self, const uint8_t* p, int32_t n, uint64_t h) noexcept nogil
    cdef uint32_t lookup(self, const uint8_t* p, int32_t n) noexcept nogil
    cdef bint matches(self, uint32_t slot, const uint8_t* p, int32_t n) noexcept nogil
    cdef uint32_t insert(self, uint32_t parent, const uint8_t* path, int32_t n, const uint8_t* data, int32_t data_len,
                         uint32_t acl, int64_t owner, int64_t zxid, int64_t time, int32_t parent_cversion) except 0
    cdef int remove(self, uint32_t slot, const uint8_t* path, int32_t n, int64_t zxid) except -1
    cdef int assign(self, uint32_t slot, const uint8_t* path, int32_t n, const uint8_t* data, int32_t data_len,
                    int32_t version, int64_t zxid, int64_t time) except -1
    cdef int assign_acl(self, uint32_t slot, const uint8_t* path, int32_t n, uint32_t acl, int32_t version) except -1
    cdef int put_stat(self, OutBuf* out, uint32_t slot) except -1
    cdef int put_children(self, OutBuf* out, uint32_t slot) except -1
    cdef int put_path(self, OutBuf* out, uint32_t slot) except -1
    cdef bytes path_of(self, uint32_t slot)

    cdef uint32_t new_slot(self) except 0
    cdef int reserve_slots(self, uint32_t slots) except -1
    cdef void link(self, uint32_t slot, uint32_t parent) noexcept nogil
    cdef void list_drop(self, uint32_t slot) noexcept nogil
    cdef uint64_t meta_digest(self, Node* node, uint64_t path_hash) noexcept nogil
    cdef uint64_t data_digest(self, Node* node, uint64_t path_hash) noexcept nogil
    cdef int touch(self, uint32_t slot) except -1
    cdef int own(self, uint32_t slot, int64_t owner) except -1
    cdef int disown(self, uint32_t slot, int64_t owner) except -1
    cdef bytes encode_page(self, uint32_t page)


cdef inline int owner_kind(int64_t owner) noexcept nogil:
    # How ZooKeeper's EphemeralType reads the ephemeralOwner field.
    if owner == 0:
        return OWNER_PERSISTENT
    if owner == <int64_t>0x8000000000000000ULL:
        return OWNER_CONTAINER
    if ((<uint64_t>owner) >> 56) == 0xFF:
        return OWNER_TTL
    return OWNER_EPHEMERAL


cdef inline int64_t ttl_owner(int64_t ttl) noexcept nogil:
    return <int64_t>(<uint64_t>0xFF00000000000000ULL | (<uint64_t>ttl & 0xFFFFFFFFFFULL))


cdef inline int64_t owner_ttl(int64_t owner) noexcept nogil:
    return owner & 0xFFFFFFFFFFLL
