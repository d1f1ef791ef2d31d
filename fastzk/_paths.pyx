"""The rules for a znode's path, over UTF-8 bytes (ZooKeeper's ``PathUtils.validatePath``)."""


from libc.stdint cimport uint32_t


cdef bint valid_path(const uint8_t* p, int32_t n) noexcept nogil:
    cdef int32_t i = 1
    cdef int32_t start
    cdef uint32_t c
    cdef uint8_t b
    cdef int more
    if n <= 0 or p[0] != 47:
        return False
    if n == 1:
        return True
    if p[n - 1] == 47:
        return False
    start = 1                        # where the current name begins
    while i <= n:
        if i == n or p[i] == 47:
            if i == start:
                return False                                     # an empty name
            if p[start] == 46 and (i - start == 1 or (i - start == 2 and p[start + 1] == 46)):
                return False                                     # "." or ".."
            i += 1
            start = i
            continue
        b = p[i]
        if b < 0x80:
            if b < 0x20 or b == 0x7F:
                return False
            i += 1
            continue
        # One code point of two or three bytes; longer ones are surrogate pairs to ZooKeeper, which refuses them.
        if b >= 0xC2 and b < 0xE0:
            more = 1
            c = b & 0x1F
        elif b >= 0xE0 and b < 0xF0:
            more = 2
            c = b & 0x0F
        else:
            return False
        if i + more > n - 1:
            return False
        while more:
            i += 1
            more -= 1
            if p[i] & 0xC0 != 0x80:
                return False
            c = (c << 6) | (p[i] & 0x3F)
        i += 1
        if b >= 0xE0 and c < 0x800:
            return False                                         # overlong
        if c < 0xA0 or (c >= 0xD800 and c <= 0xF8FF) or c >= 0xFFF0:
            return False
    return True


def validate(path: str | bytes) -> bool:
    """Whether ZooKeeper accepts ``path`` (text, or its UTF-8 bytes) as the path of a znode to be created."""
    cdef bytes raw
    if isinstance(path, bytes):
        raw = path
    else:
        try:
            raw = path.encode()
        except UnicodeEncodeError:
            return False
    return valid_path(raw, <int32_t>len(raw))


def path_hash(data: bytes, seed: int) -> int:
    """The keyed 64-bit hash of the lookup tables and of the tree digest, for tests and tools."""
    return fz_hash(data, len(data), seed)
