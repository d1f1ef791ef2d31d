"""Which sessions there are once everything proposed is applied, and which server serves each.

Only a leader has this table. It says of every request whether its session still exists (one whose closeSession is
proposed does not, though it is not applied: an ephemeral znode made behind that would stay for ever) and whether it
comes from the server that its client is connected to. A new leader knows the sessions but not their owners: the first
server that asks for something in a session's name owns it.

Open addressing with linear probing, 16 bytes a place, at most half of them used: one cache line for nearly every
look-up, and no Python object.
"""

from libc.stdlib cimport free, malloc

from fastzk._constants cimport ERR_OK, ERR_SESSION_EXPIRED, ERR_SESSION_MOVED

cdef enum:
    FIRST_PLACES = 1024


cdef inline uint64_t place_of(int64_t session, uint64_t mask) noexcept nogil:
    # Ids differ in a counter and in their top byte: the multiplication spreads both over the upper half.
    return (<uint64_t>session * <uint64_t>0x9E3779B97F4A7C15) >> 32 & mask


cdef Owned* new_table(uint64_t places) except NULL:
    cdef Owned* table = <Owned*>malloc(places * sizeof(Owned))
    cdef uint64_t i
    if table == NULL:
        raise MemoryError("no memory for the sessions' owners")
    for i in range(places):
        table[i].server = -1
    return table


cdef class Owners:
    """Session -> server."""

    def __cinit__(self) -> None:
        self.table = new_table(FIRST_PLACES)
        self.mask = FIRST_PLACES - 1

    def __dealloc__(self) -> None:
        free(self.table)

    def __len__(self) -> int:
        return self.used

    def owner(self, session: int) -> int | None:
        """The server that serves a session; 0: none has claimed it yet; None: there is no such session."""
        cdef Owned* found = self.find(session)
        return None if found == NULL else found.server

    cdef Owned* find(self, int64_t session) noexcept:
        cdef uint64_t at = place_of(session, self.mask)
        while self.table[at].server != -1:
            if self.table[at].session == session:
                return &self.table[at]
            at = (at + 1) & self.mask
        return NULL

    cdef int put(self, int64_t session, int64_t server) except -1:
        # A new session, or one that is there already.
        cdef Owned* found = self.find(session)
        cdef Owned* before = self.table
        cdef uint64_t at, i
        cdef uint64_t places = self.mask + 1
        if found != NULL:
            found.server = server
            return 0
        if self.used * 2 >= places:
            self.table = new_table(places * 2)
            self.mask = places * 2 - 1
            for i in range(places):
                if before[i].server != -1:
                    at = place_of(before[i].session, self.mask)
                    while self.table[at].server != -1:
                        at = (at + 1) & self.mask
                    self.table[at] = before[i]
            free(before)
        at = place_of(session, self.mask)
        while self.table[at].server != -1:
            at = (at + 1) & self.mask
        self.table[at].session = session
        self.table[at].server = server
        self.used += 1
        return 0

    cdef int32_t check(self, int64_t session, int64_t server) noexcept:
        # Whether `server` may ask for something in the session's name: ERR_OK or why not.
        cdef Owned* found = self.find(session)
        if found == NULL:
            return ERR_SESSION_EXPIRED
        if found.server == 0:
            found.server = server
        return ERR_OK if found.server == server else ERR_SESSION_MOVED

    cdef int32_t move(self, int64_t session, int64_t server) noexcept:
        # Its client has connected to `server`.
        cdef Owned* found = self.find(session)
        if found == NULL:
            return ERR_SESSION_EXPIRED
        found.server = server
        return ERR_OK

    cdef void drop(self, int64_t session) noexcept:
        # Its end is proposed. What stands behind it in the probe sequence moves up, so that no gap hides it.
        cdef Owned* found = self.find(session)
        cdef uint64_t hole, at, home
        if found == NULL:
            return
        self.used -= 1
        hole = <uint64_t>(found - self.table)
        at = hole
        while True:
            at = (at + 1) & self.mask
            if self.table[at].server == -1:
                break
            home = place_of(self.table[at].session, self.mask)
            if (at - home & self.mask) >= (at - hole & self.mask):
                self.table[hole] = self.table[at]
                hole = at
        self.table[hole].server = -1

    cdef int clear(self) except -1:
        cdef Owned* table = new_table(FIRST_PLACES)
        free(self.table)
        self.table = table
        self.mask = FIRST_PLACES - 1
        self.used = 0
        return 0
