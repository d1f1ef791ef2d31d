from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastzk._codec cimport OutBuf, Reader

cdef enum:
    INPUT_BYTES = 256 << 10

    ENTRY_CHANGES = 1          # it may change the tree, so losing it after it was sent leaves a doubt
    ENTRY_STAT = 2             # the reply's stat is wanted too
    ENTRY_GENERIC = 4          # `extra` decodes the reply


cdef struct Entry:
    int32_t xid
    int32_t op
    uint32_t flags
    uint32_t size              # of the frame, with its length field
    uint64_t end               # where the frame ends in the stream of all requests
    int64_t began_ns           # when it was made; only with an observer
    PyObject* sink             # owned, all four
    PyObject* path             # as the caller gave it; NULL: none
    PyObject* extra            # who watches, or what decodes the reply; NULL: none
    PyObject* token            # what the observer's `began` gave; NULL: it has none


cdef class ZnodeStat:
    cdef readonly int64_t czxid
    cdef readonly int64_t mzxid
    cdef readonly int64_t ctime
    cdef readonly int64_t mtime
    cdef readonly int64_t ephemeralOwner
    cdef readonly int64_t pzxid
    cdef readonly int32_t version
    cdef readonly int32_t cversion
    cdef readonly int32_t aversion
    cdef readonly int32_t dataLength
    cdef readonly int32_t numChildren


cdef class Channel:
    cdef readonly object delegate
    cdef object watching               # the observer; None: nobody looks
    cdef object on_begin               # its `began` and `ended`; None: it has none and is called itself
    cdef object on_end
    cdef object token                  # what `began` gave for the frame being written, until `commit` takes it
    cdef readonly str chroot           # "" or "/some/path"
    cdef bytes chroot_raw
    cdef readonly int64_t max_frame

    cdef OutBuf head                   # what must reach the server before any request: handshake, auth, watches
    cdef size_t head_at
    cdef OutBuf out                    # requests; out[:out_at] is sent
    cdef size_t out_at
    cdef uint64_t sent                 # bytes of requests sent since the beginning: where out[out_at] stands
    cdef size_t mark                   # where the frame being written began

    cdef Entry* ring                   # ring[(first + i) & (slots - 1)], i < count: oldest first
    cdef uint32_t slots
    cdef uint32_t first
    cdef readonly uint32_t count
    cdef int32_t xid

    cdef uint8_t* input                # where the socket is read to
    cdef readonly object input_view    # the same for an event loop
    cdef OutBuf inbox                  # the beginning of a frame whose end did not come yet

    cdef bint shaken                   # the handshake is answered
    cdef readonly bint open            # requests may leave
    cdef public int64_t last_zxid
    cdef public int64_t heard_ns       # when something last came, and last left
    cdef public int64_t sent_ns

    cdef int feed(self, const uint8_t* p, size_t n) except -1
    cdef size_t consume(self, const uint8_t* p, size_t n) except? 0xFFFFFFFFFFFFFFFF
    cdef int handshake(self, const uint8_t* p, size_t n) except -1
    cdef int reply(self, const uint8_t* p, size_t n) except -1
    cdef object value(self, Entry* entry, Reader* r)
    cdef int finish(self, Entry* entry, int32_t err, Reader* r) except -1
    cdef int observe(self, token, int32_t op, path, int32_t err, double seconds) except -1
    cdef str clean(self, path)
    cdef int begin(self, int32_t op, size_t more) except -1
    cdef object ask(self, int32_t op)
    cdef int put_path(self, str path) except -1
    cdef int commit(self, int32_t op, uint32_t flags, sink, path, extra) except -1
    cdef int push(self, Entry* entry) except -1
    cdef bint pending_output(self) noexcept
    cdef int taken(self, size_t n, bint from_head) except -1
