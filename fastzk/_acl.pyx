"""ACLs: each distinct list is stored once and znodes name it by a number.

An entry keeps the list in wire form (``vector<ACL>``), which is what getACL answers and what transactions
carry, and the permissions it gives to everyone: nearly every check ends at that one mask. Entry 0 is
``world:anyone`` with all permissions and is never freed. A caller's identities are a buffer of
(scheme, id) string pairs in wire form, so a check makes no Python object.
"""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from fastzk._codec cimport OutBuf, Reader, Span, get_i32, get_span, reader_init
from fastzk._paths cimport fz_hash

cdef enum:
    MAX_ACLS = 1 << 26       # distinct lists: keeps the arithmetic in 32 bits, whatever a checkpoint says

#: ``world:anyone`` with every permission, as a vector<ACL> on the wire.
OPEN_ACL = b"\x00\x00\x00\x01\x00\x00\x00\x1f\x00\x00\x00\x05world\x00\x00\x00\x06anyone"

cdef bytes _open = OPEN_ACL
cdef const uint8_t* OPEN_PTR = _open
cdef int32_t OPEN_LEN = <int32_t>len(_open)


cdef int is_open_acl(const uint8_t* p, int32_t n) noexcept nogil:
    return n == OPEN_LEN and memcmp(p, OPEN_PTR, n) == 0


cdef inline bint same(Span a, const char* text, int32_t n) noexcept nogil:
    return a.n == n and memcmp(a.p, text, n) == 0


cdef int32_t world_perms(const uint8_t* p, int32_t n) noexcept nogil:
    cdef Reader r
    cdef int32_t count
    cdef int32_t perms
    cdef int32_t mask = 0
    cdef Span scheme
    cdef Span who
    reader_init(&r, p, n)
    count = get_i32(&r)
    while count > 0 and not r.bad:
        perms = get_i32(&r)
        scheme = get_span(&r)
        who = get_span(&r)
        if not r.bad and same(scheme, b"world", 5) and same(who, b"anyone", 6):
            mask |= perms
        count -= 1
    return mask


cdef int parse_ip(const uint8_t* p, int32_t n, uint8_t* out) noexcept nogil:
    # The address in p[:n] as 4 or 16 bytes; 0 when it is neither. Used for prefix matching only, on text
    # that was validated when the ACL was accepted or that the server itself wrote.
    cdef int32_t i = 0
    cdef int part = 0
    cdef int value = 0
    cdef int digits = 0
    cdef int gap = -1
    cdef int used = 0
    cdef uint8_t c
    cdef bint v6 = False
    cdef bint signed = False
    cdef bint minus = False
    for i in range(n):
        if p[i] == 58:
            v6 = True
    if not v6:
        for i in range(n + 1):
            c = p[i] if i < n else 46
            if c == 46:
                if part == 4 or digits == 0:
                    return 0
                out[part] = <uint8_t>value
                part += 1
                value = digits = 0
                signed = minus = False
            elif 48 <= c <= 57:
                value = value * 10 + (c - 48)
                digits += 1
                if value > (0 if minus else 255):
                    return 0
            elif (c == 43 or c == 45) and digits == 0 and not signed:
                signed = True                   # Java's parser takes signs; of the negative numbers -0 is valid
                minus = c == 45
            else:
                return 0
        return 4 if part == 4 else 0
    memset(out, 0, 16)
    i = 0
    if n >= 2 and p[0] == 58 and p[1] == 58:
        gap = 0
        i = 2
    while i < n:
        value = digits = 0
        while i < n and p[i] != 58:
            c = p[i] | 0x20
            if 48 <= p[i] <= 57:
                value = value * 16 + (p[i] - 48)
            elif 97 <= c <= 102:
                value = value * 16 + (c - 87)
            else:
                return 0
            digits += 1
            if digits > 4:
                return 0
            i += 1
        if digits == 0 or used >= 8:
            return 0
        out[2 * used] = <uint8_t>(value >> 8)
        out[2 * used + 1] = <uint8_t>value
        used += 1
        if i < n:
            i += 1                              # the colon
            if i < n and p[i] == 58:
                if gap >= 0:
                    return 0
                gap = used
                i += 1
            elif i == n:
                return 0
    if gap < 0:
        return 16 if used == 8 else 0
    if used >= 8:
        return 0
    for i in range(used - gap):
        out[15 - 2 * i] = out[2 * (used - 1 - i) + 1]
        out[14 - 2 * i] = out[2 * (used - 1 - i)]
    memset(out + 2 * gap, 0, 2 * (8 - used))
    return 16


cdef bint ip_matches(Span client, Span pattern) noexcept nogil:
    # `pattern` is an address with an optional /prefix; `client` a plain address.
    cdef uint8_t mine[16]
    cdef uint8_t theirs[16]
    cdef int32_t slash = 0
    cdef int32_t i
    cdef int bits = 0
    cdef int size
    cdef bint minus = False
    while slash < pattern.n and pattern.p[slash] != 47:
        slash += 1
    size = parse_ip(pattern.p, slash, theirs)
    if size == 0 or parse_ip(client.p, client.n, mine) != size:
        return False
    if slash == pattern.n:
        bits = size * 8
    else:
        i = slash + 1
        if i < pattern.n and (pattern.p[i] == 43 or pattern.p[i] == 45):
            minus = pattern.p[i] == 45
            i += 1
        if i == pattern.n:
            return False                        # "/" without a number is not "/0", which matches everybody
        while i < pattern.n and bits <= 128:
            if not 48 <= pattern.p[i] <= 57:
                return False
            bits = bits * 10 + (pattern.p[i] - 48)
            i += 1
    if bits > (0 if minus else size * 8):
        return False
    if memcmp(mine, theirs, bits // 8) != 0:
        return False
    if bits % 8 == 0:
        return True
    return (mine[bits // 8] ^ theirs[bits // 8]) >> (8 - bits % 8) == 0


cdef bint acl_permits(AclTable table, uint32_t acl_id, int32_t perm, const OutBuf* auth) noexcept nogil:
    # Whether somebody with the identities `auth` has one of the permissions `perm`
    # (ZooKeeperServer.checkACL; the super identity may do everything).
    cdef AclEntry* entry = &table.entries[acl_id]
    cdef Reader acl
    cdef Reader ids
    cdef int32_t count
    cdef int32_t perms
    cdef Span scheme
    cdef Span who
    cdef Span my_scheme
    cdef Span my_id
    if entry.world & perm or table.skip_checks:
        return True
    reader_init(&ids, auth.p, auth.n)
    while ids.p < ids.end:
        my_scheme = get_span(&ids)
        my_id = get_span(&ids)
        if same(my_scheme, b"super", 5):
            return True
    reader_init(&acl, entry.data, entry.n)
    count = get_i32(&acl)
    while count > 0 and not acl.bad:
        perms = get_i32(&acl)
        scheme = get_span(&acl)
        who = get_span(&acl)
        count -= 1
        if not perms & perm:
            continue
        reader_init(&ids, auth.p, auth.n)
        while ids.p < ids.end:
            my_scheme = get_span(&ids)
            my_id = get_span(&ids)
            # Lengths below 0 are nulls, which match nothing.
            if scheme.n < 0 or my_scheme.n != scheme.n or memcmp(my_scheme.p, scheme.p, scheme.n) != 0:
                continue
            if same(scheme, b"ip", 2):
                if ip_matches(my_id, who):
                    return True
            elif who.n >= 0 and my_id.n == who.n and memcmp(my_id.p, who.p, who.n) == 0:
                return True
            elif same(my_id, b"super", 5) and same(scheme, b"sasl", 4):
                return True                     # SASLAuthenticationProvider.matches
    return False


cdef class AclTable:
    """Every distinct ACL list in use, by number, with reference counts."""

    def __cinit__(self) -> None:
        self.free_ids = []
        self.ids = {}
        self.changed = set()
        self.put(0, OPEN_ACL)
        self.entries[0].refs = 1
        self.changed.clear()

    def __dealloc__(self) -> None:
        cdef uint32_t i
        if self.entries != NULL:
            for i in range(self.size):
                free(self.entries[i].data)
            free(self.entries)

    cdef int grow(self, uint32_t size) except -1:
        cdef uint32_t capacity = self.capacity or 16
        cdef AclEntry* moved
        if size > MAX_ACLS:
            raise MemoryError(f"more than {MAX_ACLS} distinct ACLs")
        while capacity < size:
            capacity *= 2
        if capacity != self.capacity:
            moved = <AclEntry*>realloc(self.entries, capacity * sizeof(AclEntry))
            if moved == NULL:
                raise MemoryError("no memory for the ACL table")
            memset(moved + self.capacity, 0, (capacity - self.capacity) * sizeof(AclEntry))
            self.entries = moved
            self.capacity = capacity
        if size > self.size:
            self.size = size
        return 0

    cdef int put(self, uint32_t acl_id, bytes vector) except -1:
        cdef int32_t n = <int32_t>len(vector)
        cdef AclEntry* entry
        self.grow(acl_id + 1)
        entry = &self.entries[acl_id]
        entry.data = <uint8_t*>malloc(n + 1)
        if entry.data == NULL:
            raise MemoryError("no memory for an ACL")
        memcpy(entry.data, <const uint8_t*>vector, n)
        entry.n = n
        entry.world = world_perms(entry.data, n)
        entry.hash = fz_hash(entry.data, n, 0)
        entry.refs = 0
        self.ids[vector] = acl_id
        self.changed.add(acl_id)
        return 0

    cdef int64_t intern(self, const uint8_t* p, int32_t n) except -1:
        # The number of the list p[:n], with one reference added for the caller.
        cdef bytes vector
        cdef uint32_t acl_id
        if is_open_acl(p, n):
            return 0
        vector = p[:n]
        found = self.ids.get(vector)
        if found is None:
            acl_id = self.free_ids.pop() if self.free_ids else self.size
            self.put(acl_id, vector)
        else:
            acl_id = found
        self.entries[acl_id].refs += 1
        return acl_id

    cdef void ref(self, uint32_t acl_id) noexcept nogil:
        if acl_id:
            self.entries[acl_id].refs += 1

    cdef int unref(self, uint32_t acl_id) except -1:
        cdef AclEntry* entry
        if acl_id == 0:
            return 0
        entry = &self.entries[acl_id]
        entry.refs -= 1
        if entry.refs == 0:
            del self.ids[(<const uint8_t*>entry.data)[:entry.n]]
            free(entry.data)
            entry.data = NULL
            entry.n = 0
            self.free_ids.append(acl_id)
            self.changed.add(acl_id)
        return 0

    # -- checkpoints ------------------------------------------------------------------------------------

    def take_changed(self) -> dict[int, bytes | None]:
        """The lists that appeared (bytes) or went (None) since the last call."""
        cdef uint32_t acl_id
        changed = {}
        for acl_id in self.changed:
            if self.entries[acl_id].data == NULL:
                changed[acl_id] = None
            else:
                changed[acl_id] = (<const uint8_t*>self.entries[acl_id].data)[:self.entries[acl_id].n]
        self.changed.clear()
        return changed

    def mark_changed(self, ids: set[int]) -> None:
        """A checkpoint failed: ``ids`` still have to be written."""
        self.changed |= ids

    def load(self, acl_id: int, vector: bytes) -> None:
        """Restore one list under its number; loading the znodes adds the references.

        Raises ValueError when the number or the list is there already, or the number is out of range.
        """
        if not 0 < acl_id < MAX_ACLS or (acl_id < self.size and self.entries[<uint32_t>acl_id].data != NULL):
            raise ValueError(f"ACL number {acl_id} is out of range or there already")
        if vector in self.ids:
            raise ValueError(f"ACL {acl_id} is the same as ACL {self.ids[vector]}")
        self.put(acl_id, vector)

    def load_finish(self) -> None:
        """Make the numbers that nobody uses free again.

        Lists stored without a user (a request had them when the checkpoint was taken, and was never applied) stay
        marked as changed: unless the next checkpoint removes them, the same list may get a second number.
        """
        cdef uint32_t i
        self.changed.clear()
        self.free_ids.clear()
        for i in range(1, self.size):
            if self.entries[i].data != NULL and self.entries[i].refs == 0:
                self.entries[i].refs = 1
                self.unref(i)
            elif self.entries[i].data == NULL:
                self.free_ids.append(i)

    def __len__(self) -> int:
        return self.size - len(self.free_ids)

    def vector(self, acl_id: int) -> bytes:
        """The list with this number, in wire form."""
        if not 0 <= acl_id < self.size or self.entries[<uint32_t>acl_id].data == NULL:
            raise KeyError(acl_id)
        return (<const uint8_t*>self.entries[<uint32_t>acl_id].data)[:self.entries[<uint32_t>acl_id].n]


def permits(vector: bytes, perm: int, identities: bytes) -> bool:
    """Whether ``identities`` (wire form) hold ``perm`` under the ACL ``vector`` (wire form)."""
    cdef AclTable table = AclTable()
    cdef OutBuf auth
    cdef int64_t acl_id = table.intern(vector, <int32_t>len(vector))
    auth.p = <uint8_t*><const uint8_t*>identities
    auth.n = len(identities)
    return acl_permits(table, <uint32_t>acl_id, perm, &auth)
