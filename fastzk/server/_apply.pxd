from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from fastzk._codec cimport OutBuf, Reader
from fastzk._tree cimport Tree
from fastzk.server._quota cimport Quotas
from fastzk.server._watches cimport Watches


cdef class Applier:
    cdef readonly Tree tree
    cdef Watches watches             # None while recovering: nobody is connected
    cdef public object on_session    # (session id, timeout in ms, or None: closed)
    cdef readonly int64_t zxid       # the last one applied
    cdef readonly int64_t session    # of the last transaction
    cdef readonly Quotas quotas

    cdef int32_t apply(self, const uint8_t* p, size_t n, OutBuf* reply) except? 0
    cdef int one(self, int32_t op, Reader* r, int64_t zxid, int64_t time, OutBuf* reply) except -1
    cdef int create(self, int32_t op, Reader* r, int64_t zxid, int64_t time, OutBuf* reply) except -1
    cdef int delete(self, Reader* r, int64_t zxid) except -1
    cdef int remove(self, uint32_t slot, const uint8_t* p, int32_t n, int64_t zxid) except -1
    cdef int set_data(self, Reader* r, int64_t zxid, int64_t time, OutBuf* reply) except -1
    cdef int reconfig(self, Reader* r, int64_t zxid, int64_t time, OutBuf* reply) except -1
    cdef int set_acl(self, Reader* r, int64_t zxid, OutBuf* reply) except -1
    cdef int multi(self, Reader* r, int64_t zxid, int64_t time, OutBuf* reply) except -1
    cdef int end_session(self, int64_t zxid) except -1
