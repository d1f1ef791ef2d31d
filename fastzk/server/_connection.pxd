from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from fastzk._codec cimport OutBuf, Reader
from fastzk.server._clients cimport Client, Clients
from fastzk.server._line cimport Line
from fastzk.server._reads cimport Reads
from fastzk.server._watches cimport Watches

cdef enum:
    STATE_NEW = 0            # nothing received yet: a handshake or a four-letter word
    STATE_CONNECTING = 1     # the session is being made durable
    STATE_OPEN = 2
    STATE_CLOSING = 3        # its last replies are being sent
    STATE_CLOSED = 4

    BLOCK_CONNECT = 1        # why no frames are taken: the session is not durable yet,
    BLOCK_FULL = 2           # the server has too many requests under way,
    BLOCK_UNREAD = 4         # the client does not read its replies,
    BLOCK_BACKLOG = 8        # too many reads wait behind its own writes,
    BLOCK_STOPPING = 16      # the server is stopping,
    BLOCK_TURN = 32          # others have their turn,
    BLOCK_LARGE = 64         # other large setWatches are under way,
    BLOCK_LEADERLESS = 128   # or there is no leader


cdef class Service:
    # What all connections share.
    cdef readonly Clients clients
    cdef readonly Watches watches
    cdef readonly Line pipeline            # alone, leading or following; or there is no leader
    cdef readonly bint leaderless          # nobody is served,
    cdef readonly bint read_only           # or only those who say that they want to read no matter what
    cdef public bint local_sessions        # new sessions are this server's own
    cdef public bint upgrade_sessions      # until they make an ephemeral znode
    cdef readonly Reads reads
    cdef readonly object sessions
    cdef readonly object authenticate      # (client, scheme, data) -> bool
    cdef readonly object four_letter       # (command) -> bytes or None
    cdef readonly object on_failure
    cdef readonly int64_t max_frame
    cdef readonly int max_per_host
    cdef readonly int max_clients
    cdef readonly dict hosts               # connections by address
    cdef readonly set newcomers            # connections without a session
    cdef readonly set leaving              # connections that end when their last replies are taken
    cdef set large                         # connections that are sending a setWatches above jute.maxbuffer,
    cdef readonly int64_t large_bytes      # how many bytes those are together,
    cdef public int64_t turn_ns            # how long one client is served before others have their turn
    cdef object large_queue                # and who waits to go on with one: a deque
    cdef readonly bint stopping
    cdef public object identify            # (connection, ssl.SSLObject) -> bool: False refuses the connection
    cdef public object sasl                # (connection, negotiation, token) -> (token, negotiation, error)
    cdef public frozenset required         # schemes of which a client needs one; None: it needs none
    cdef public object throttle            # (renewing a session) -> bool: False refuses it; None: no limit
    cdef OutBuf input                      # every connection reads into this
    cdef object input_view

    cdef int end_read_only(self) except -1
    cdef bint reserve(self, Connection client) except -1
    cdef int give_back(self, Connection client) except -1


cdef class Connection(Client):
    cdef readonly Service service
    cdef object transport
    cdef bint unproven                     # it lacks a required scheme: its requests are refused
    cdef object negotiation                # of SASL; None before its first token
    cdef int fd                            # -1: send through the transport (TLS)
    cdef readonly str host
    cdef readonly int port
    cdef readonly int64_t began_ns
    cdef readonly int64_t began_wall_ms
    cdef int state
    cdef int blocked
    cdef bint reading
    cdef readonly int32_t timeout_ms
    cdef bint has_read_only
    cdef bint closing_session              # its closeSession is under way
    cdef OutBuf inbox                      # bytes received and not used yet
    cdef OutBuf backlog                    # reads that wait for writes of their own session
    cdef size_t backlog_at
    cdef int64_t large_bytes               # length of the setWatches above jute.maxbuffer that is under way; 0: none
    cdef int64_t since_ns                  # when that was let in, or when the connection began to close

    cdef size_t consume(self, const uint8_t* p, size_t n) except? 0xFFFFFFFFFFFFFFFF
    cdef bint is_large(self, const uint8_t* p, size_t n, int64_t length) noexcept
    cdef bint may_grow(self, int64_t length) except -1
    cdef int give_way(self) except -1
    cdef int forget_watches(self) except -1
    cdef int take(self, const uint8_t* p, size_t n) except -1
    cdef int use_inbox(self) except -1
    cdef int frame(self, const uint8_t* p, size_t n) except -1
    cdef int handshake(self, const uint8_t* p, size_t n) except -1
    cdef int add_auth(self, int32_t xid, Reader* r) except -1
    cdef int sasl(self, int32_t xid, Reader* r) except -1
    cdef bint prove(self, int32_t xid) except -1
    cdef int block(self, int why) except -1
    cdef int unblock(self, int why) except -1
    cdef int put_session(self, bint valid) except -1
    cdef int go_on_with(self, int64_t session, bytes proof) except -1
    cdef int open_local(self) except -1
    cdef int leave(self) except -1
    cdef int defer(self, const uint8_t* p, uint32_t n) except -1
    cdef int reject(self, str reason) except -1
