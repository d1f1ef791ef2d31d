from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastzk._acl cimport AclTable
from fastzk._codec cimport OutBuf
from fastzk._index cimport Index
from fastzk.server._clients cimport Client, Clients

cdef enum:
    WATCH_DATA = 1               # one-shot, of data or existence
    WATCH_CHILD = 2              # one-shot, of the list of children
    WATCH_PERSISTENT = 4
    WATCH_RECURSIVE = 8

cdef struct Watched:             # a path somebody watches
    uint64_t hash
    uint8_t* path
    int32_t n
    uint32_t first               # its watches
    uint32_t count

cdef struct Watch:               # one client's watches on one path
    uint32_t path                # number of the Watched; 0: a free record, `next` the next one
    uint32_t client
    uint32_t modes
    uint32_t next                # along the path
    uint32_t prev
    uint32_t client_next         # along the client
    uint32_t client_prev


cdef class Watches:
    cdef Clients clients
    cdef AclTable acls
    cdef Index paths
    cdef Index pairs             # (path, client) -> Watch
    cdef Watched* watched
    cdef uint32_t watched_size
    cdef uint32_t watched_capacity
    cdef uint32_t watched_free
    cdef Watch* watches
    cdef uint32_t watches_size
    cdef uint32_t watches_capacity
    cdef uint32_t watches_free
    cdef uint64_t seed
    cdef uint64_t stamp
    cdef readonly int64_t recursive_count
    cdef readonly int64_t count  # as ZooKeeper counts: data and child watches apart
    cdef OutBuf frame

    cdef int add(self, const uint8_t* path, int32_t n, Client client, uint32_t modes) except -1
    cdef uint32_t drop(self, const uint8_t* path, int32_t n, Client client, uint32_t modes) except? 0xFFFFFFFF
    cdef uint32_t modes_of(self, const uint8_t* path, int32_t n, Client client) noexcept
    cdef uint32_t modes_of_any(self, const uint8_t* path, int32_t n) noexcept
    cdef int created(self, const uint8_t* path, int32_t n, int64_t zxid, uint32_t acl, uint32_t parent_acl) except -1
    cdef int deleted(self, const uint8_t* path, int32_t n, int64_t zxid, uint32_t acl, uint32_t parent_acl) except -1
    cdef int changed(self, const uint8_t* path, int32_t n, int64_t zxid, uint32_t acl) except -1
    cdef int send(self, Client client, const uint8_t* path, int32_t n, int32_t event, int64_t zxid) except -1

    cdef int fire(self, const uint8_t* path, int32_t n, int32_t event, int64_t zxid, uint32_t acl,
                  uint32_t modes) except -1
    cdef int fire_at(self, const uint8_t* at, int32_t at_n, const uint8_t* path, int32_t n, int32_t event, int64_t zxid,
                     uint32_t acl, uint32_t modes) except -1
    cdef uint32_t find_path(self, const uint8_t* path, int32_t n, uint64_t h) noexcept
    cdef uint32_t find(self, uint32_t path, uint32_t client) noexcept
    cdef int unlink(self, uint32_t number) except -1
    cdef void count_modes(self, uint32_t modes, int64_t sign) noexcept
    cdef uint64_t pair_hash(self, uint32_t path, uint32_t client) noexcept
    cdef bytes path_bytes(self, uint32_t number)
