from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from fastzk._codec cimport OutBuf, Reader, Span
from fastzk._log cimport Batch, TxnLog
from fastzk.server._apply cimport Applier
from fastzk.server._clients cimport Client, Clients
from fastzk.server._gather cimport Gathering
from fastzk.server._line cimport Entry, Line
from fastzk.server._overlay cimport Overlay
from fastzk.server._owners cimport Owners
from fastzk.server._prepare cimport Preparer

cdef enum:
    MODE_STANDALONE = 0      # nobody else has a say: what is durable is committed
    MODE_OPENING = 1         # it leads, and its opening batch is not applied yet
    MODE_LEADING = 2
    MODE_CLOSED = 3          # somebody else leads, or nobody


cdef class Round:
    # A batch for the log, and who is answered when it is committed.
    cdef Batch batch
    cdef Entry* entries
    cdef uint32_t size
    cdef uint32_t capacity
    cdef uint32_t done               # entries that are answered,
    cdef size_t at                   # and where in the batch the next one's transaction begins

    cdef Entry* add(self) except NULL
    cdef int clear(self) except -1


cdef class Pipeline(Line):
    cdef readonly Overlay overlay
    cdef readonly Preparer preparer
    cdef TxnLog log
    cdef Round open
    cdef object in_flight            # deque of Rounds given to the log and not finished
    cdef Round last                  # the last of them, or None
    cdef list spare                  # Rounds to use again
    cdef bint advancing              # rounds are being finished
    cdef int64_t next_zxid
    cdef int64_t proposed            # the last zxid given to a transaction,
    cdef int64_t submitted           # to a batch of the log,
    cdef int64_t durable             # of a batch that is durable here,
    cdef int64_t committed           # and that is committed
    cdef readonly int64_t last_proposal      # bytes of the last transaction, the smallest
    cdef readonly int64_t least_proposal     # and the largest one; -1 before the first
    cdef readonly int64_t most_proposal
    cdef int32_t err                 # of the request that `decide` refused

    # leading
    cdef int mode
    cdef int64_t server_id
    cdef int64_t opening             # zxid of the epoch's first transaction
    cdef readonly int64_t inherited  # what has to be applied before it
    cdef readonly Gathering gathering
    cdef bint exhausted              # the epoch has no zxids left
    cdef bint sealed                 # the log is given nothing more
    cdef readonly Owners owners
    cdef public object on_submit     # (Batch): it goes to the disk; broadcast it
    cdef public object send_outcome  # (server id, OUTCOME frame, whether a batch follows soon)
    cdef public object confirm       # () -> number of a round that confirms the leader
    cdef public object reconfigure   # see Pipeline.reconfigure in the .pyi; None: reconfigEnabled is false
    cdef public object on_claim      # (session, server id, timeout in ms): its client has connected there
    cdef bint asking                 # a sync of this turn waits for a confirmation to be asked for,
    cdef int64_t ticket              # which will have this ticket
    cdef object confirming           # deque of (number, ticket): asked for
    cdef int64_t confirmed           # the last ticket that is confirmed
    cdef int64_t confirmed_round
    cdef object held                 # deque of (ticket, server id, OUTCOME frame): other servers' syncs
    cdef dict streams                # server id -> (stream, number of its last FORWARD frame)
    cdef list early                  # (server id, FORWARD frame) that came while opening
    cdef Client proxy                # stands for a client of another server
    cdef OutBuf outcomes             # of the FORWARD frame that is being worked on
    cdef OutBuf syncs                # the same of its syncs
    cdef int64_t asker               # whose frame that is
    cdef int64_t stream

    cdef int log_txn(self) except -1
    cdef int submit(self) except -1
    cdef bint log_free(self) except -1
    cdef int advance(self) except -1
    cdef bint finish(self, Round round) except -1
    cdef int abandon(self, Round round) except -1
    cdef Round fresh_round(self)
    cdef int32_t decide(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t wall_ms) except? 0
    cdef int32_t may(self, int64_t session, int64_t server, bint local) noexcept
    cdef int propose_opening(self, int64_t epoch, bytes membership) except -1
    cdef int32_t reconfig(self, Client client, Reader* r, int32_t xid, int64_t wall_ms) except? 1
    cpdef bint forwarded(self, server_id, frame, Py_ssize_t skip=*) except -1
    cdef bint take_forward(self, server_id, const uint8_t* p, Py_ssize_t n) except -1
    cdef int asked(self, int64_t seq, int64_t session, int32_t xid, int32_t op, Span auth, Span body, int64_t now_ns,
                   int64_t wall_ms) except -1
    cdef int put_outcome(self, int64_t seq, int32_t status, int64_t zxid) except -1
    cdef int tell(self) except -1
    cdef int32_t move(self, int64_t session, int64_t server, int32_t timeout) except? 1
