from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastzk._codec cimport OutBuf, fz_store32, fz_store64, out_room

cdef enum:
    # A client that lets more than this pile up unread is cut off: it cannot be served without taking
    # memory from everybody else.
    OUT_LIMIT = 64 << 20


cdef class Client:
    # What the request handlers see of one connected client.
    cdef readonly int64_t session_id       # 0: no session yet
    cdef OutBuf out                        # replies and events not handed to the socket yet
    cdef OutBuf auth                       # identities: (scheme, id) strings in wire form
    cdef readonly uint32_t slot            # number in Clients; 0: not registered
    cdef bint marked                       # is in the list of those to flush
    cdef readonly bint closed
    cdef bint overrun                      # an event was left out, for want of room: it has to go
    cdef uint64_t event_stamp              # the last trigger that sent it an event
    cdef uint32_t first_watch
    cdef readonly uint32_t watch_count
    cdef uint32_t pending                  # its requests in the pipeline
    cdef public int64_t heard_ns           # monotonic time of its last bytes
    cdef public bint local                 # only this server knows its session
    # what `cons` shows
    cdef readonly int64_t received
    cdef readonly int64_t sent
    cdef readonly int32_t last_op
    cdef readonly int32_t last_cxid
    cdef readonly int64_t last_zxid
    cdef readonly int64_t last_reply_ns
    cdef readonly int64_t latency_last
    cdef readonly int64_t latency_min
    cdef readonly int64_t latency_max
    cdef readonly int64_t latency_total
    cdef readonly int64_t latency_count

    cdef int flush(self) except -1
    cdef int drain(self) except -1
    cdef int resume(self) except -1
    cdef int opened(self) except -1
    cdef int refused(self) except -1
    cdef int revalidated(self, bint valid) except -1
    cdef int finish(self) except -1
    cdef int cut(self, str reason) except -1


cdef class Clients:
    # Every connected client by number, the counters of the server, and who has something to send.
    cdef list table
    cdef list free_slots
    cdef list marked
    cdef readonly int count
    cdef public int64_t zxid               # the last one applied: what reply headers carry
    cdef readonly int64_t received
    cdef readonly int64_t sent
    cdef readonly int64_t latency_min
    cdef readonly int64_t latency_max
    cdef readonly int64_t latency_total
    cdef readonly int64_t latency_count

    cdef Client get(self, uint32_t slot)
    cdef int mark(self, Client client) except -1
    cdef int flush(self) except -1
    cdef void account(self, Client client, int32_t op, int32_t xid, int64_t zxid, int64_t began_ns,
                      int64_t now) noexcept


cdef extern from * nogil:
    """
    #include <time.h>
    static inline int64_t fz_monotonic_ns(void) {
        struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ll + t.tv_nsec;
    }
    static inline int64_t fz_wall_ms(void) {
        struct timespec t; clock_gettime(CLOCK_REALTIME, &t); return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
    }
    """
    int64_t fz_monotonic_ns() noexcept
    int64_t fz_wall_ms() noexcept


cdef inline size_t begin_reply(Client client, int32_t xid, int64_t zxid, int32_t err) except? 0:
    # Opens a reply frame; end_reply closes it. Returns where it starts.
    cdef uint8_t* p = out_room(&client.out, 20)
    cdef size_t start = client.out.n
    fz_store32(p + 4, <uint32_t>xid)
    fz_store64(p + 8, <uint64_t>zxid)
    fz_store32(p + 16, <uint32_t>err)
    client.out.n += 20
    return start


cdef inline void end_reply(Client client, size_t start) noexcept nogil:
    fz_store32(client.out.p + start, <uint32_t>(client.out.n - start - 4))


cdef inline int put_reply(Client client, int32_t xid, int64_t zxid, int32_t err) except -1:
    # A reply that is a header only.
    end_reply(client, begin_reply(client, xid, zxid, err))
    return 0
