"""The way of a write on a server that has no leader and serves those who only want to read: there is none.

The third ``Line``, beside ``_pipeline.Pipeline`` and ``_following.Following``. Nothing ever waits in it, so whatever a
client asks is answered at once. Sessions are local ones (``sessions.py``); their end needs no transaction.
"""

from libc.stdint cimport int32_t, int64_t

from fastzk._codec cimport Reader
from fastzk._constants cimport ERR_NOT_READ_ONLY, OP_SYNC
from fastzk.server._apply cimport Applier
from fastzk.server._clients cimport Client, Clients
from fastzk.server._line cimport Line


cdef class ReadOnly(Line):
    """Refuses every write and every sync."""

    def __cinit__(self, loop, Clients clients, Applier applier) -> None:
        self.loop = loop
        self.clients = clients
        self.applier = applier

    cdef int write(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t now_ns) except -1:
        return self.refuse(client, op, xid, ERR_NOT_READ_ONLY, now_ns)

    cdef int sync(self, Client client, Reader* r, int32_t xid, int64_t now_ns) except -1:
        return self.refuse(client, OP_SYNC, xid, ERR_NOT_READ_ONLY, now_ns)

    cdef int close_session(self, Client client, int64_t session, int32_t xid, int64_t now_ns) except -1:
        self.on_close_refused([session])             # a session of the others; none of those is served here
        if client is not None:
            client.cut("there is no leader")
        return 0

    cdef int create_session(self, Client client, int64_t session, int32_t timeout) except -1:
        return client.refused()

    def end_of_turn(self) -> None:
        """There is nothing to hand on."""
        self.scheduled = False

    def close(self, reason: str) -> None:
        """Nobody waits for an answer."""
