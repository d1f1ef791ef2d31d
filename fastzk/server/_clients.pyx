"""The connected clients as the rest of the server sees them, and the list of those with unsent replies.

``Client`` is the base of ``_connection.Connection``: identity, reply buffer and counters, without a socket.
Handlers append to ``client.out`` and ``mark`` the client; whoever drives the turn (bytes arrived, a batch
became durable) calls ``Clients.flush`` once, which is one write per client however many replies it got.
"""

from libc.string cimport memcmp

from fastzk._codec cimport Reader, Span, get_span, out_free, put_span, reader_init


cdef class Client:
    """One connected client. See the ``.pxd`` for its fields."""

    def __dealloc__(self) -> None:
        out_free(&self.out)
        out_free(&self.auth)

    cdef int flush(self) except -1:
        """Hand ``out`` to the socket."""
        return 0

    cdef int drain(self) except -1:
        """The oldest of its requests in the pipeline was answered: go on with what waited behind it."""
        return 0

    cdef int resume(self) except -1:
        """It was made to wait because the server had too much to do, and there is room again."""
        return 0

    cdef int opened(self) except -1:
        """Its session is durable."""
        return 0

    cdef int refused(self) except -1:
        """Its session could not be made durable."""
        return 0

    cdef int revalidated(self, bint valid) except -1:
        """Whether the session that it wants to go on with may."""
        return 0

    cdef int finish(self) except -1:
        """Close once everything is sent."""
        return 0

    cdef int cut(self, str reason) except -1:
        """What it asked is not answered: close, behind what it was answered before."""
        return 0

    def add_identity(self, scheme: str, who: str) -> None:
        """Add an identity that the client has proven; one that it has already is not repeated."""
        cdef bytes scheme_raw = scheme.encode()
        cdef bytes who_raw = who.encode("utf-8", "surrogateescape")
        cdef Reader r
        cdef Span known
        cdef Span name
        reader_init(&r, self.auth.p, self.auth.n)
        while r.p < r.end:
            known = get_span(&r)
            name = get_span(&r)
            if (known.n == len(scheme_raw) and memcmp(known.p, <const uint8_t*>scheme_raw, known.n) == 0
                    and name.n == len(who_raw) and memcmp(name.p, <const uint8_t*>who_raw, name.n) == 0):
                return
        put_span(&self.auth, scheme_raw, <int32_t>len(scheme_raw))
        put_span(&self.auth, who_raw, <int32_t>len(who_raw))

    def identities(self) -> list[tuple[str, str]]:
        """The (scheme, id) pairs of the client, in the order in which they came."""
        cdef Reader r
        cdef Span scheme
        cdef Span who
        found = []
        reader_init(&r, self.auth.p, self.auth.n)
        while r.p < r.end:
            scheme = get_span(&r)
            who = get_span(&r)
            found.append((
                (<const uint8_t*>scheme.p)[:scheme.n].decode("utf-8", "surrogateescape"),
                (<const uint8_t*>who.p)[:who.n].decode("utf-8", "surrogateescape"),
            ))
        return found

    @property
    def outstanding(self) -> int:
        """Its requests that wait for the disk."""
        return self.pending

    def reset_counters(self) -> None:
        """Zero what ``cons`` shows (the four-letter word ``crst``)."""
        self.received = self.sent = 0
        self.latency_last = self.latency_min = self.latency_max = 0
        self.latency_total = self.latency_count = 0
        self.last_op = self.last_cxid = 0
        self.last_reply_ns = 0
        self.last_zxid = -1


cdef class Clients:
    """Every connected client by number, with the server's counters."""

    def __cinit__(self) -> None:
        self.table = [None]
        self.free_slots = []
        self.marked = []

    def add(self, client: Client) -> None:
        """Register a client and give it its number."""
        if self.free_slots:
            client.slot = self.free_slots.pop()
            self.table[client.slot] = client
        else:
            client.slot = <uint32_t>len(self.table)
            self.table.append(client)
        self.count += 1

    def remove(self, client: Client) -> None:
        """Forget a client; its watches must be gone already."""
        if client.slot:
            self.table[client.slot] = None
            self.free_slots.append(client.slot)
            client.slot = 0
            self.count -= 1

    cdef Client get(self, uint32_t slot):
        return <Client>self.table[slot]

    cdef int mark(self, Client client) except -1:
        if not client.marked:
            client.marked = True
            self.marked.append(client)
        return 0

    cdef int flush(self) except -1:
        cdef Client client
        cdef list marked
        while self.marked:
            marked = self.marked
            self.marked = []
            for item in marked:
                client = <Client>item
                client.marked = False
                client.flush()
        return 0

    def flush_all(self) -> None:
        """Send everything that waits to be sent."""
        self.flush()

    cdef void account(self, Client client, int32_t op, int32_t xid, int64_t zxid, int64_t began_ns,
                      int64_t now) noexcept:
        # One request was answered; latencies are kept in nanoseconds.
        cdef int64_t spent = now - began_ns
        self.sent += 1
        self.latency_total += spent
        self.latency_count += 1
        if spent > self.latency_max:
            self.latency_max = spent
        if spent < self.latency_min or self.latency_count == 1:
            self.latency_min = spent
        client.sent += 1
        client.last_op = op
        client.last_cxid = xid
        client.last_zxid = zxid
        client.last_reply_ns = now
        client.latency_last = spent
        client.latency_total += spent
        client.latency_count += 1
        if spent > client.latency_max:
            client.latency_max = spent
        if spent < client.latency_min or client.latency_count == 1:
            client.latency_min = spent

    def __iter__(self):
        return iter([client for client in self.table if client is not None])

    def __len__(self) -> int:
        return self.count

    def reset_counters(self) -> None:
        """Zero the server's counters (the four-letter word ``srst``)."""
        self.received = self.sent = 0
        self.latency_min = self.latency_max = self.latency_total = self.latency_count = 0
