from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastzk._tree cimport Tree

cdef enum:
    QUOTA_ROOT_BYTES = 16        # of "/zookeeper/quota"


cdef class Quota:
    # One path that has a zookeeper_limits znode. A limit of -1 is none.
    cdef bytes path
    cdef bytes stats_path
    cdef int64_t count_limit
    cdef int64_t size_limit
    cdef int64_t count_hard
    cdef int64_t size_hard
    cdef bint broken             # its limits cannot be read
    cdef bint has_stats          # there is a zookeeper_stats znode, and it says:
    cdef int64_t count
    cdef int64_t size
    cdef bint normal             # in the form in which the server writes it
    cdef int64_t open_count      # what proposed transactions will add to that
    cdef int64_t open_size
    cdef int64_t warned_ns

    cdef int read_limits(self, const uint8_t* data, int32_t n) except -1


cdef class Quotas:
    cdef Tree tree
    cdef dict table              # path -> Quota
    cdef object proposed         # deque of (zxid, Quota, znodes, bytes), by zxid
    cdef readonly int active     # quotas; writes look at nothing but this while it is 0
    cdef int32_t shortest        # bytes of their paths
    cdef int32_t longest
    cdef readonly int open       # length of `proposed`
    cdef public bint enforce     # refuse what exceeds a hard limit

    cdef Quota nearest(self, const uint8_t* p, int32_t n)
    cdef int created(self, const uint8_t* p, int32_t n, const uint8_t* data, int32_t data_len) except -1
    cdef int deleted(self, const uint8_t* p, int32_t n, int32_t data_len) except -1
    cdef int changed(self, const uint8_t* p, int32_t n, const uint8_t* data, int32_t data_len,
                     int32_t before) except -1
    cdef int32_t ask(self, const uint8_t* p, int32_t n, int64_t znodes, int64_t size, int64_t zxid) except? 1
    cdef int propose(self, const uint8_t* p, int32_t n, int64_t znodes, int64_t size, int64_t zxid) except -1
    cdef int settle(self, int64_t zxid) except -1
    cdef int rewind(self, int64_t zxid) except -1

    cdef int note(self, Quota quota, int64_t znodes, int64_t size, int64_t zxid) except -1
    cdef int32_t check(self, Quota quota, int64_t znodes, int64_t size) except? 1
    cdef int warn(self, Quota quota, str what, bint hard, int64_t found, int64_t limit) except -1
    cdef int add(self, const uint8_t* p, int32_t n, int64_t znodes, int64_t size) except -1
    cdef int read_stats(self, Quota quota) except -1
    cdef int write_stats(self, bytes stats_path, int64_t count, int64_t size) except -1
    cdef int recount(self, bytes path, int64_t* count, int64_t* size) except -1
    cdef int count_paths(self) except -1
    cdef int learn(self, bytes path, uint32_t slot) except -1


cdef inline bint is_below_quota(const uint8_t* p, int32_t n) noexcept nogil:
    return n > QUOTA_ROOT_BYTES and p[1] == 122 and memcmp(p, b"/zookeeper/quota/", QUOTA_ROOT_BYTES + 1) == 0


cdef inline bint concerns(Quotas quotas, const uint8_t* p, int32_t n) noexcept:
    # Whether a change to the znode at p[:n] has anything to do with quotas.
    return quotas.active != 0 or is_below_quota(p, n)
