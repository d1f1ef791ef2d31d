# The wire layout of Jute, as inline C: big-endian integers, a bool as one byte, a buffer or string as a
# length (-1: null) and its bytes, a vector as a count and its elements.
#
# Readers never run past `end`: the first short read sets `bad`, after which everything reads as zero, so a
# handler reads all its fields and checks `bad` once. Nothing is copied: a Span points into the frame.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint32_t fz_load32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
    static inline uint64_t fz_load64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }
    static inline void fz_store32(uint8_t *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
    static inline void fz_store64(uint8_t *p, uint64_t v) { v = __builtin_bswap64(v); memcpy(p, &v, 8); }
    """
    uint32_t fz_load32(const uint8_t* p) noexcept
    uint64_t fz_load64(const uint8_t* p) noexcept
    void fz_store32(uint8_t* p, uint32_t v) noexcept
    void fz_store64(uint8_t* p, uint64_t v) noexcept


cdef struct Span:
    # Bytes inside somebody else's buffer. n == -1 is Jute's null; then p is NULL.
    const uint8_t* p
    int32_t n


cdef struct Reader:
    const uint8_t* p
    const uint8_t* end
    bint bad


cdef inline void reader_init(Reader* r, const uint8_t* p, size_t n) noexcept nogil:
    r.p = p
    r.end = p + n
    r.bad = False


cdef inline int32_t get_i32(Reader* r) noexcept nogil:
    cdef int32_t v
    if r.end - r.p < 4:
        r.bad = True
        r.p = r.end
        return 0
    v = <int32_t>fz_load32(r.p)
    r.p += 4
    return v


cdef inline int64_t get_i64(Reader* r) noexcept nogil:
    cdef int64_t v
    if r.end - r.p < 8:
        r.bad = True
        r.p = r.end
        return 0
    v = <int64_t>fz_load64(r.p)
    r.p += 8
    return v


cdef inline bint get_bool(Reader* r) noexcept nogil:
    # Any byte but zero is true, as in Java's DataInput.readBoolean.
    cdef uint8_t v
    if r.p >= r.end:
        r.bad = True
        return False
    v = r.p[0]
    r.p += 1
    return v != 0


cdef inline Span get_span(Reader* r) noexcept nogil:
    # A buffer or ustring. Lengths below -1 or beyond the frame are malformed.
    cdef Span s
    s.p = NULL
    s.n = get_i32(r)
    if r.bad or s.n == -1:
        s.n = -1
        return s
    if s.n < 0 or s.n > r.end - r.p:
        r.bad = True
        r.p = r.end
        s.n = -1
        return s
    s.p = r.p
    r.p += s.n
    return s


cdef inline Span get_acls(Reader* r) noexcept nogil:
    # A vector<ACL> (permissions, scheme and id each) as one span, its count included. n == -1: null or without
    # elements. The strings in it may be null.
    cdef Span s
    cdef int32_t count
    s.p = r.p
    s.n = -1
    count = get_i32(r)
    if count > 0:
        while count > 0 and not r.bad:
            get_i32(r)
            get_span(r)
            get_span(r)
            count -= 1
        s.n = <int32_t>(r.p - s.p)
    return s


cdef struct OutBuf:
    # A growing output buffer. `n` bytes are used; the owner frees it with out_free.
    uint8_t* p
    size_t n
    size_t cap


cdef inline int out_grow(OutBuf* o, size_t more) except -1 nogil:
    cdef size_t cap = o.cap * 2 if o.cap else 256
    cdef uint8_t* p
    while cap < o.n + more:
        cap *= 2
    p = <uint8_t*>realloc(o.p, cap)
    if p == NULL:
        with gil:
            raise MemoryError(f"no memory for a buffer of {cap} bytes")
    o.p = p
    o.cap = cap
    return 0


cdef inline uint8_t* out_room(OutBuf* o, size_t more) except NULL nogil:
    # A pointer to `more` writable bytes behind the used ones; the caller adds what it wrote to o.n.
    if o.cap - o.n < more or o.p == NULL:
        out_grow(o, more)
    return o.p + o.n


cdef inline void out_free(OutBuf* o) noexcept nogil:
    free(o.p)
    o.p = NULL
    o.n = 0
    o.cap = 0


cdef inline int put_i32(OutBuf* o, int32_t v) except -1 nogil:
    fz_store32(out_room(o, 4), <uint32_t>v)
    o.n += 4
    return 0


cdef inline int put_i64(OutBuf* o, int64_t v) except -1 nogil:
    fz_store64(out_room(o, 8), <uint64_t>v)
    o.n += 8
    return 0


cdef inline int put_u8(OutBuf* o, uint8_t v) except -1 nogil:
    out_room(o, 1)[0] = v
    o.n += 1
    return 0


cdef inline int put_bytes(OutBuf* o, const void* p, size_t n) except -1 nogil:
    memcpy(out_room(o, n + 1), p, n)
    o.n += n
    return 0


cdef inline int put_span(OutBuf* o, const uint8_t* p, int32_t n) except -1 nogil:
    # n == -1 writes a null.
    cdef uint8_t* at = out_room(o, 4 + (n if n > 0 else 0))
    fz_store32(at, <uint32_t>n)
    if n > 0:
        memcpy(at + 4, p, n)
        o.n += 4 + n
    else:
        o.n += 4
    return 0
