"""Reading the transaction log: the layout on disk as C sees it, and what one walk over the segments knows."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <endian.h>
    #include <string.h>

    static inline void put16(uint8_t *p, uint16_t v) { v = htole16(v); memcpy(p, &v, 2); }
    static inline void put32(uint8_t *p, uint32_t v) { v = htole32(v); memcpy(p, &v, 4); }
    static inline void put64(uint8_t *p, uint64_t v) { v = htole64(v); memcpy(p, &v, 8); }
    static inline uint16_t get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return le16toh(v); }
    static inline uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return le32toh(v); }
    static inline uint64_t get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return le64toh(v); }
    """
    void put16(uint8_t*, int) nogil
    void put32(uint8_t*, uint32_t) nogil
    void put64(uint8_t*, uint64_t) nogil
    int get16(const uint8_t*) nogil
    uint32_t get32(const uint8_t*) nogil
    uint64_t get64(const uint8_t*) nogil

cdef enum:
    LOG_HEADER_BYTES = 72  # in front of every batch's payload, in memory as on disk
    SEGMENT_HEADER_BYTES = 96
    SEGMENT_DATA = 4096  # where the first batch of a segment starts
    FORMAT_VERSION = 1
    BATCH_MAGIC = 0x425A4B46  # "FKZB" in the file
    SEGMENT_MAGIC = 0x535A4B46  # "FKZS"
    BASE_MAGIC = 0x4C5A4B46  # "FKZL"
    WINDOW = 1024 * 1024


cdef inline size_t aligned(size_t n) noexcept nogil:
    return (n + 7) & ~<size_t> 7


cdef inline bint new_epoch(int64_t first, int64_t before) noexcept nogil:
    """`first` is number 1 of an epoch that is newer than that of `before`."""
    return <uint32_t> first == 1 and (first >> 32) > (before >> 32)


cdef inline bint follows(int64_t first, int64_t before) noexcept nogil:
    """A batch that starts with `first` may stand behind one that ends with `before`."""
    return first == before + 1 or new_epoch(first, before)


cdef uint64_t digest(const uint8_t* data, Py_ssize_t size) except? 0


cdef class Segment:
    """What is known of one segment."""

    cdef str name
    cdef int64_t before  # the zxid that its first one follows
    cdef bint before_known  # not just assumed
    cdef int64_t first_zxid
    cdef int64_t last_zxid  # below first_zxid while it has no batch
    cdef int64_t size
    cdef uint64_t segment_id
    cdef int64_t end  # offset behind its last batch
    cdef int64_t txns
    # Where to start looking for a zxid: at `offsets[i]` stands the batch that follows zxid `befores[i]`.
    cdef object befores  # array('q')
    cdef object offsets  # array('q')

    cdef int note(self, int64_t before, int64_t last, int64_t count, int64_t offset, int64_t end) except -1
    cdef int take_back(self, int64_t last, int64_t count, int64_t end) except -1


cdef class Window:
    cdef int fd
    cdef readonly str path
    cdef readonly int64_t size
    cdef int64_t start
    cdef bytes data

    cdef const uint8_t* look(self, int64_t offset, int64_t n) except NULL
    cdef object view(self, int64_t offset, int64_t n)
    cdef list find(self, bytes needle, int64_t begin)


cdef class Walk:
    cdef str directory
    cdef bytes store_id  # None: that of the first segment
    cdef int dir_fd
    cdef list segments  # of Segment, those with batches
    cdef list empty  # names of newest segments without any
    cdef object ends  # array('q'): the last zxid of every batch
    cdef object base  # the zxid that the first batch follows, or would; None: not known, the log is empty
    cdef int64_t last_zxid
    cdef uint64_t chain
    cdef int64_t durable_to  # what the last batch says
    cdef object torn
    cdef int64_t first_zxid
    cdef int64_t batches
    cdef int64_t txns
    cdef int64_t payload_bytes

    cdef Segment enter(self, Window window, str name, bint newest)
    cdef bint holds_batches(self, Window window, int64_t named) except -1
    cdef str problem(self, Window window, Segment segment, int64_t at)
    cdef join(self, Window window, int64_t at, str reason, str following)
    cdef judge_tail(self, Window window, Segment segment, int64_t at, str reason)


cdef list read_batches(str directory, int dir_fd, Segment segment, int64_t offset, int64_t current, int64_t after,
                       int64_t end, int64_t max_bytes, int64_t* stopped)
cdef int64_t start_of(Segment segment, int64_t after, int64_t* current) except -1
cdef int check_txns(const uint8_t* payload, size_t size, int64_t first_zxid, int64_t count) except -1
