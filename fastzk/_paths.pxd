# Paths of znodes as bytes: their hash and their rules. Inline C, shared by tree, overlay and watches.

from libc.stdint cimport int32_t, uint8_t, uint64_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    /* A keyed 64-bit hash in the fold-multiply family: 16 bytes a round, one 64x64 multiply each. Not
       cryptographic; the lookup tables key it with random bits of the process so that nobody can prepare
       colliding paths, and compare whole paths anyway. The seed is in both factors of every round: text equal
       to a known factor would make the product zero and wipe out all that came before it. */
    static inline uint64_t fz_fold(uint64_t a, uint64_t b) {
        __uint128_t r = (__uint128_t)a * b;
        return (uint64_t)r ^ (uint64_t)(r >> 64);
    }
    static inline uint64_t fz_raw64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
    static inline uint64_t fz_raw32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
    static inline uint64_t fz_hash(const uint8_t *p, size_t n, uint64_t seed) {
        const uint64_t k0 = 0x9ae16a3b2f90404full, k1 = 0xc3a5c85c97cb3127ull, k2 = 0xb492b66fbe98f273ull;
        const uint64_t secret = seed ^ k1;
        uint64_t h = fz_fold(seed ^ k0, n ^ k1), a, b;
        while (n > 16) {
            h = fz_fold(fz_raw64(p) ^ secret, fz_raw64(p + 8) ^ h);
            p += 16; n -= 16;
        }
        if (n >= 8) { a = fz_raw64(p); b = fz_raw64(p + n - 8); }
        else if (n >= 4) { a = fz_raw32(p); b = fz_raw32(p + n - 4); }
        else if (n) { a = ((uint64_t)p[0] << 16) | ((uint64_t)p[n >> 1] << 8) | p[n - 1]; b = 0; }
        else { a = b = 0; }
        return fz_fold(a ^ k2 ^ h, b ^ k1 ^ (h << 32 | h >> 32));
    }
    """
    uint64_t fz_hash(const uint8_t* p, size_t n, uint64_t seed) noexcept


cdef inline int32_t parent_length(const uint8_t* p, int32_t n) noexcept nogil:
    # The length of the parent's path ("" is the root), or -1 when there is no slash at all.
    cdef int32_t i = n - 1
    while i >= 0 and p[i] != 47:
        i -= 1
    return i


cdef bint valid_path(const uint8_t* p, int32_t n) noexcept nogil
