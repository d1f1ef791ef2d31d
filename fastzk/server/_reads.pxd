from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from fastzk._codec cimport OutBuf, Reader, Span
from fastzk._tree cimport Tree
from fastzk.server._clients cimport Client, Clients
from fastzk.server._paging cimport Pages
from fastzk.server._watches cimport Watches


cdef class Reads:
    cdef Tree tree
    cdef Watches watches
    cdef Clients clients
    cdef readonly Pages pages
    cdef readonly bint extensions    # whether requests beyond ZooKeeper's are answered
    cdef dict virtual                # path -> data of znodes that are in no tree
    cdef int64_t max_reply           # bytes of a frame: of a list,
    cdef int64_t max_page            # and of a page of one
    cdef int64_t warned_ns

    cdef int serve(self, Client client, int32_t xid, int32_t op, Reader* r) except -1
    cdef int32_t answer(self, Client client, int32_t op, Reader* r) except? 1
    cdef int32_t node_for(self, Client client, Span path, int32_t perm, uint32_t* slot) except? 1
    cdef int32_t get_acl(self, Client client, Reader* r) except? 1
    cdef int32_t set_watches(self, Client client, Reader* r, bint both) except? 1
    cdef bint put_virtual(self, OutBuf* out, int32_t op, Span path) except -1
    cdef int32_t too_large(self, const uint8_t* path, int32_t n, int64_t size) except? 1
    cdef int32_t put_list(self, OutBuf* out, int32_t op, Span path, uint32_t slot, int32_t kind) except? 1
    cdef int put_filtered(self, OutBuf* out, uint32_t slot, int32_t kind) except -1
    cdef int32_t filtered_list(self, Client client, Span path, bint watch, Reader* r) except? 1
    cdef int32_t paged_list(self, Client client, Span path, Reader* r) except? 1
    cdef int32_t check_multi_read(self, Reader r, bint* writes) except? 1
    cdef int32_t multi_read(self, Client client, Reader* r) except? 1
    cdef int32_t get_ephemerals(self, Client client, Reader* r) except? 1
    cdef int32_t who_am_i(self, Client client) except? 1


cdef bint is_read(int32_t op) noexcept nogil
