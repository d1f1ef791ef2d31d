# What a follower and its leader say to each other about the requests of the follower's clients: two kinds of frames,
# each the whole body of one message between servers. Integers are big-endian; a span is an i32 length and its bytes.
#
# FORWARD, from the follower: all requests of one turn of its event loop, in the order of their arrival.
#
#     i64 stream          this stretch of following; a greater one begins it anew
#     i64 number          of the frame in its stream: 1, 2, 3, ... A gap would let a session's later request overtake
#                         one that was lost
#     for each request, to the end of the frame:
#         i64 seq         what the answer names it by; grows, not always by one
#         i64 session
#         i32 xid
#         i32 op          the client protocol's, createSession and closeSession included, or OP_REVALIDATE;
#                         with FORWARD_LOCAL if the session is local: the follower answers for it
#         span auth       the client's identities as Client.auth holds them: (scheme, id) pairs of spans
#         span body       the request behind its header; createSession and OP_REVALIDATE: i32 timeout in ms;
#                         sync and closeSession: empty
#
# OUTCOME, from the leader: what becomes of some of them. It is sent before the batch with their transactions, over
# the same connection, and in the order in which they were asked, except for syncs.
#
#     i64 stream          as in the FORWARD frame
#     for each request, to the end of the frame:
#         i64 seq
#         i32 status
#         i64 zxid        TXN, TXN_PLANNED: of its transaction; the others: answer once this one is applied
#         and then        TXN: nothing more
#                         ERROR: i32 err (0 for a check that held, or a session that may go on). SESSION_MOVED and
#                         CONNECTION_LOSS mean that the client's connection is to be closed without an answer
#                         MULTI_FAILED: i32 operations, i32 which of them was refused, i32 err
#                         SYNC: nothing more; sent once a quorum has confirmed the leader
#                         TXN_PLANNED: span, how the reply is made (see Preparer)
#                         ECHO: span, the path to answer with; nothing changes
#
# Whoever reads a frame checks every length, and raises ValueError for what does not fit.

cdef enum:
    FORWARD_HEADER_BYTES = 16
    FORWARD_LOCAL = 1 << 16

    OP_REVALIDATE = -12          # may this session go on, over a connection of mine? No client's request type

    OUTCOME_TXN = 1
    OUTCOME_ERROR = 2
    OUTCOME_MULTI_FAILED = 3
    OUTCOME_SYNC = 4
    OUTCOME_TXN_PLANNED = 5
    OUTCOME_ECHO = 6
