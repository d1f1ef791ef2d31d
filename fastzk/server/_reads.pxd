from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from fastzk._codec cimport OutBuf, Reader, Span
from fastzk._tree cimport Tree
from fastzk.server._clients cimport Client, Clients
from fastzk.server._watches cimport Watches


cdef class Reads:
    cdef Tree tree
    cdef Watches watches
    cdef Clients clients

    cdef int serve(self, Client client, int32_t xid, int32_t op, Reader* r) except -1
    cdef int32_t answer(self, Client client, int32_t op, Reader* r) except? 1
    cdef int32_t node_for(self, Client client, Span path, int32_t perm, uint32_t* slot) except? 1
    cdef int32_t get_acl(self, Client client, Reader* r) except? 1
    cdef int32_t set_watches(self, Client client, Reader* r, bint both) except? 1
    cdef int32_t multi_read(self, Client client, Reader* r) except? 1
    cdef int32_t get_ephemerals(self, Client client, Reader* r) except? 1
    cdef int32_t who_am_i(self, Client client) except? 1


cdef bint is_read(int32_t op) noexcept nogil
