"""The loop of a worker: all of its connections in one thread, and no Python code for a request.

The generator must cost less than what it measures, so a request is a copy of an encoded frame with a few digits
written over, into the buffer of its connection, and one ``send`` takes all that a turn made. Of a reply only the header
is looked at: a connection's replies come in the order of its requests, so a ring of what is in flight says which
request it is for. The rest of a reply is skipped as it comes and never copied.

Memory: a Connection is about 250 bytes, and has a ring of 16 bytes for each request of its window (a power of two), a
buffer for what is to be sent, and in an open loop a ring of 8 bytes for each request that is due and not sent yet.
All connections receive into one buffer, which stays in the cache; what is kept between two ``recv`` is at most the
beginning of a header, in the Connection itself. So 10,000 sessions that only watch take a few megabytes.

Time is CLOCK_MONOTONIC in nanoseconds, which is the same in all processes of a machine. A reply has come when ``recv``
returned with its last byte. A request of a closed loop begins when the reply that made room for it was there; one of an
open loop begins when it is *due*, however long it waits for room in the window, for a connection or for this loop.

Whether a request is measured depends on when it began, not on when it ended: slow ones at the end would be missing
otherwise. What is still not answered after the time allowed for that counts with the age it has reached by then.

What happens rarely (connecting, pings, giving up on a handshake) is Python code, between two stretches of the loop.
"""

import errno as errno_names
import os
import random
import socket
import struct
from collections import Counter

from fastzk.bench._histogram cimport Histogram, Tally, tally
from fastzk.bench._keys cimport KeyChooser, next_random, scaled
from fastzk.bench.plan import OPERATIONS
from fastzk.bench.results import Operation

from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport log
from libc.stdint cimport INT32_MAX, UINT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now) noexcept
    int CLOCK_MONOTONIC

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags) noexcept
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event) noexcept
    int epoll_wait(int epfd, epoll_event* events, int most, int timeout) noexcept
    enum:
        EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CLOEXEC

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd* what, unsigned long count, const timespec* timeout, const void* signals) noexcept
    int POLLIN

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void* data, size_t n, int flags) noexcept
    ssize_t c_recv "recv"(int fd, void* data, size_t n, int flags) noexcept
    int getsockopt(int fd, int level, int name, void* value, uint32_t* length) noexcept
    int MSG_NOSIGNAL, SOL_SOCKET, SO_ERROR

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, ...) noexcept
    int PR_SET_TIMERSLACK

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd) noexcept

cdef extern from "<endian.h>" nogil:
    uint32_t be32toh(uint32_t x) noexcept
    uint32_t htobe32(uint32_t x) noexcept

cdef enum:
    # what is asked, in the order of plan.OPERATIONS, and what arms a watch
    GET, SET, CREATE, DELETE, PAIR, EXISTS, CHILDREN, MULTI, SYNC, WATCH
    KINDS

cdef enum:
    # templates beyond those of the operations
    T_PAIR_DELETE = KINDS
    TEMPLATES

cdef enum:
    # life of a connection
    DOWN, CONNECTING, GREETING, READY, ENDED

cdef enum:
    # life of the load
    IDLE, WAITING, LOADING, DRAINING, CLOSING

cdef enum:
    CODES = 129                      # error codes 0..-127 by their negative, and all others in the last
    OTHER_CODE = 128
    LOSS_CODE = 4                    # CONNECTION_LOSS
    INPUT_BYTES = 256 << 10
    EVENTS = 512
    REPLY_HEAD = 20                  # length, xid, zxid, err
    GREETING_HEAD = 40               # length, version, timeout, session, length of the password, password
    MOST_REPLY = 256 << 20
    HANDSHAKES = 128                 # at a time, so that no server's backlog overflows
    XID_PING = -2
    XID_EVENT = -1

cdef uint64_t HANDSHAKE_NS = 10_000_000_000
cdef uint64_t FIRST_PAUSE_NS = 10_000_000    # before a lost connection is made again; doubles up to ...
cdef uint64_t LONGEST_PAUSE_NS = 1_000_000_000
# How often Python code looks after the connections: while all are there, and while some are to be made again.
cdef uint64_t CALM_LOOK_NS = 50_000_000
cdef uint64_t BUSY_LOOK_NS = 10_000_000

# Why a connection was lost, where it is no errno.
cdef enum:
    END_OF_STREAM = -1
    OUT_OF_ORDER = -2
    BAD_FRAME = -3
    SLOW_HANDSHAKE = -4
    SESSION_GONE = -5

WHY = {
    END_OF_STREAM: "the server closed the connection",
    OUT_OF_ORDER: "a reply that is not for the next request",
    BAD_FRAME: "something that is no ZooKeeper protocol",
    SLOW_HANDSHAKE: "no answer to the handshake",
    SESSION_GONE: "the session expired",
}
CONNECT_REQUEST = struct.Struct(">iiqiqi16s?")  # with its length, and without wanting a read-only server
cdef bytes CLOSE_REQUEST = struct.pack(">iii", 8, 0, -11)


ctypedef struct InFlight:
    uint64_t began
    int32_t xid
    int32_t kind

ctypedef struct Frame:
    uint8_t* data
    uint32_t size
    uint32_t places                  # of keys
    uint32_t* place
    int connection                   # where their digits begin, or -1
    int number

ctypedef struct Connection:
    int fd
    int state
    uint32_t index                   # in this process
    uint32_t number                  # in the whole run
    InFlight* ring                   # what is in flight: ``inflight`` entries from ``first`` on
    uint32_t first
    uint32_t inflight
    int32_t xid
    uint32_t wants_out               # EPOLLOUT is asked for
    uint8_t* out
    size_t out_from
    size_t out_to
    size_t out_room
    uint8_t head[GREETING_HEAD]      # the beginning of a frame whose rest has not come yet
    uint32_t have
    uint32_t touched                 # is on the list of those that have something to send
    uint64_t skip                    # bytes of the frame that are still to come and of no interest
    uint64_t created                 # numbers of the znodes it made: those from ``deleted`` to here are there
    uint64_t deleted
    uint64_t pairs                   # odd while the znode of create-delete is there
    int64_t session
    uint8_t password[16]
    uint32_t server
    uint64_t last_sent
    uint64_t since                   # of the attempt to connect
    uint64_t retry_at
    uint64_t pause
    uint64_t* due                    # open loop: when each request that waits was to begin
    uint32_t due_first
    uint32_t due_count
    uint32_t due_room
    uint64_t arrived                 # watch mode: when this round's event came, 0 before that


cdef inline uint64_t clock() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


cdef inline uint32_t u32(const uint8_t* at) noexcept nogil:
    cdef uint32_t raw
    memcpy(&raw, at, 4)
    return be32toh(raw)


cdef inline void put_u32(uint8_t* at, uint32_t value) noexcept nogil:
    value = htobe32(value)
    memcpy(at, &value, 4)


cdef inline void put_digits(uint8_t* at, int width, uint64_t value) noexcept nogil:
    while width > 0:
        width -= 1
        at[width] = 48 + value % 10
        value //= 10


cdef inline int code_slot(int32_t code) noexcept nogil:
    return -code if -OTHER_CODE < code <= 0 else OTHER_CODE


cdef class Load:
    """The connections of one process, and the loop that keeps them busy. Not for several threads.

    :param plan: of the run.
    :param process: which of its processes this is.
    :param addresses: of the servers, each with its family; connections are spread over them.
    :param templates: what :func:`fastzk.bench.frames.templates` made.
    :raises OSError: when the kernel gives no epoll.
    """

    cdef Connection* connections
    cdef uint32_t n
    cdef uint32_t mask                       # of the rings
    cdef uint32_t window
    cdef int epfd
    cdef uint8_t* input
    cdef epoll_event* events
    cdef uint32_t* touched
    cdef uint32_t touches
    cdef Frame frames[TEMPLATES]
    cdef uint64_t thresholds[KINDS]          # of a random number, in 1/2**32: the mix, added up
    cdef KeyChooser keys
    cdef int digits
    cdef uint64_t random
    # the load
    cdef int phase
    cdef bint open_loop
    cdef bint poisson
    cdef double interval                     # of an open loop, in nanoseconds
    cdef double next_due
    cdef double first_due
    cdef uint64_t arrivals_made
    cdef uint64_t start
    cdef uint64_t since                      # what began from here ...
    cdef uint64_t until                      # ... to here is measured
    cdef bint attention                      # Python code has something to do
    cdef uint64_t outstanding
    cdef uint64_t backlog
    # what was found
    cdef Tally* latencies[KINDS]
    cdef list histograms
    cdef Histogram late
    cdef Histogram fresh
    cdef uint64_t sent[KINDS]
    cdef uint64_t answered[KINDS]
    cdef uint64_t finished[KINDS]            # answered while it was measured, whenever they began
    cdef uint64_t unanswered[KINDS]
    cdef uint64_t errors[KINDS][CODES]
    cdef uint64_t fresh_answered
    cdef uint64_t fresh_errors
    cdef uint64_t last_reply
    cdef uint64_t gap
    cdef readonly uint32_t ready
    cdef readonly uint64_t lost
    cdef readonly uint64_t expired
    cdef readonly uint64_t opened
    cdef uint32_t connecting
    cdef int why
    cdef str where
    cdef uint32_t waited_for                 # watch mode: events of this round that have not come
    cdef list addresses
    cdef int timeout_ms
    cdef uint64_t ping_ns

    def __cinit__(self, plan, int process, addresses, templates):
        cdef uint32_t i, ring = 1
        cdef Connection* c
        first, self.n = plan.share(process)
        self.window = 1 if plan.watches else plan.window
        while ring < self.window:
            ring *= 2
        self.mask = ring - 1
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise OSError(errno, os.strerror(errno))
        self.connections = <Connection*>calloc(self.n, sizeof(Connection))
        self.input = <uint8_t*>malloc(INPUT_BYTES)
        self.events = <epoll_event*>malloc(EVENTS * sizeof(epoll_event))
        self.touched = <uint32_t*>malloc(self.n * sizeof(uint32_t))
        if self.connections is NULL or self.input is NULL or self.events is NULL or self.touched is NULL:
            raise MemoryError()
        for i in range(self.n):
            c = &self.connections[i]
            c.fd = -1
            c.index = i
            c.number = first + i
            c.server = (first + i) % len(addresses)
            c.pause = FIRST_PAUSE_NS
            c.ring = <InFlight*>malloc(ring * sizeof(InFlight))
            if c.ring is NULL:
                raise MemoryError()
        self.addresses = list(addresses)
        self.timeout_ms = round(plan.session_timeout * 1000)
        self.ping_ns = round(plan.session_timeout * 1e9 / 3)
        seed = random.Random(f"{plan.seed} {process}").getrandbits(64)
        self.random = seed
        position = process * plan.keys // plan.processes
        self.keys = KeyChooser(plan.key_distribution, plan.keys, seed ^ 0x5DEECE66D, position)
        self.digits = len(str(plan.keys - 1))
        self.open_loop = plan.rate is not None
        self.poisson = plan.poisson
        if self.open_loop:
            self.interval = 1e9 * plan.processes / plan.rate
            # the processes take turns
            self.first_due = self.interval * process / plan.processes
            # the kernel may be 50 us late by default, which would be found as latency
            prctl(PR_SET_TIMERSLACK, <unsigned long>1, <unsigned long>0, <unsigned long>0, <unsigned long>0)
        self.copy_templates(templates)
        total = 0.0
        shares = plan.mix.shares
        for i, name in enumerate(OPERATIONS):
            total += shares.get(name, 0.0)
            self.thresholds[i] = round(total * 2.0**32)
        self.histograms = [Histogram() for _ in range(KINDS)]
        for i in range(KINDS):
            self.latencies[i] = (<Histogram>self.histograms[i]).tally
        self.late = Histogram()
        self.fresh = Histogram()

    cdef int copy_templates(self, templates) except -1:
        cdef Frame* frame
        cdef uint32_t j
        names = {name: kind for kind, name in enumerate(OPERATIONS)}
        names |= {"pair-create": PAIR, "pair-delete": T_PAIR_DELETE, "watch": WATCH}
        for name, template in templates.items():
            frame = &self.frames[names[name]]
            frame.size = len(template.frame)
            frame.places = len(template.keys)
            frame.data = <uint8_t*>malloc(frame.size)
            frame.place = <uint32_t*>malloc((frame.places + 1) * sizeof(uint32_t))
            if frame.data is NULL or frame.place is NULL:
                raise MemoryError()
            memcpy(frame.data, <const uint8_t*><const char*>template.frame, frame.size)
            for j in range(frame.places):
                frame.place[j] = template.keys[j]
            frame.connection = template.connection
            frame.number = template.number
        return 0

    def __dealloc__(self):
        cdef uint32_t i
        cdef Connection* c
        if self.connections is not NULL:
            for i in range(self.n):
                c = &self.connections[i]
                if c.fd >= 0:
                    c_close(c.fd)
                free(c.ring)
                free(c.out)
                free(c.due)
        for i in range(TEMPLATES):
            free(self.frames[i].data)
            free(self.frames[i].place)
        free(self.connections)
        free(self.input)
        free(self.events)
        free(self.touched)
        if self.epfd >= 0:
            c_close(self.epfd)

    # ---- what Python code sees

    @property
    def problem(self):
        """Why a connection was lost the last time; empty while none was."""
        if self.why == 0:
            return ""
        what = WHY[self.why] if self.why < 0 else os.strerror(self.why)
        return f"{self.where}: {what}"

    @property
    def longest_gap(self):
        """The longest time without any reply while it was measured, in nanoseconds."""
        return self.gap

    @property
    def lateness(self):
        """How much later than due this loop looked at each request of an open loop."""
        return self.late

    @property
    def drained(self):
        return self.phase == DRAINING and not self.outstanding and not self.backlog

    @property
    def created(self):
        """For each connection's number: which znodes it left, as the first number and the one behind the last."""
        cdef uint32_t i
        return {
            self.connections[i].number: (self.connections[i].deleted, self.connections[i].created)
            for i in range(self.n)
            if self.connections[i].created
        }

    def begin(self, start, measured_from, measured_to):
        """Have the load begin at ``start``; all times are CLOCK_MONOTONIC in nanoseconds."""
        self.start = start
        self.since = measured_from
        self.until = measured_to
        self.last_reply = measured_from
        self.first_due += start
        self.next_due = self.first_due
        self.phase = WAITING

    def end(self):
        """End the load now, though its time is not up; what is in flight can still be answered."""
        cdef uint64_t now = clock()
        if self.phase == WAITING or self.phase == LOADING:
            self.until = max(min(self.until, now), self.since)
            self.finish_load()

    cdef void finish_load(self) noexcept nogil:
        self.phase = DRAINING
        self.attention = True
        if self.until > self.last_reply:
            self.gap = max(self.gap, self.until - self.last_reply)

    def step(self, until):
        """Go on until that time, or until ``drained``, or in the watch mode until a round is complete."""
        cdef uint64_t end = until, now = clock()
        while True:
            self.look_after(now)
            self.attention = False
            with nogil:
                self.turn(min(end, now + (CALM_LOOK_NS if self.ready == self.n else BUSY_LOOK_NS)))
            now = clock()
            if now >= end or self.drained or (self.attention and self.phase != LOADING and not self.connecting):
                return

    def recent(self):
        """What was answered since the last call, measured or not: how many, how many errors, the latencies."""
        seen = self.fresh_answered, self.fresh_errors, self.fresh
        self.fresh = Histogram()
        self.fresh_answered = self.fresh_errors = 0
        return seen

    def results(self):
        """What became of the requests of each operation that there were any of.

        To be called once, when nothing is waited for any more: what was not answered is counted with its age.
        """
        cdef uint32_t i, j
        cdef uint64_t now = clock()
        cdef Connection* c
        cdef InFlight* request
        for i in range(self.n):
            c = &self.connections[i]
            for j in range(c.inflight):
                request = &c.ring[(c.first + j) & self.mask]
                if request.kind >= 0:
                    self.give_up(request.kind, request.began, now)
            for j in range(c.due_count):
                self.give_up(self.choose(), c.due[(c.due_first + j) & (c.due_room - 1)], now)
        return {
            name: Operation(
                self.sent[i],
                self.answered[i],
                self.finished[i],
                self.unanswered[i],
                Counter({-code: self.errors[i][code] for code in range(1, CODES) if self.errors[i][code]}),
                self.histograms[i],
            )
            for i, name in enumerate(OPERATIONS)
            if self.sent[i] or self.unanswered[i]
        }

    cdef void give_up(self, int kind, uint64_t began, uint64_t now) noexcept:
        if self.since <= began < self.until:
            self.unanswered[kind] += 1
            tally(self.latencies[kind], now - began, 1)

    # ---- watch mode

    def arm(self):
        """Have every connection that is there read the watched znode and watch it."""
        cdef uint32_t i
        cdef uint64_t now = clock()
        cdef Connection* c
        self.waited_for = 0
        for i in range(self.n):
            c = &self.connections[i]
            c.arrived = 0
            if c.state == READY and c.inflight == 0:
                self.waited_for += 1
                self.issue(c, WATCH, now)
                self.flush(c, now)
            else:
                c.arrived = UINT64_MAX

    @property
    def arming(self):
        """How many have not been answered since ``arm``."""
        return self.outstanding

    @property
    def awaited(self):
        """How many have not had their event."""
        return self.waited_for

    @property
    def arrivals(self):
        """When each event of the round came, as 8 bytes each in the machine's order."""
        cdef uint32_t i
        times = [self.connections[i].arrived for i in range(self.n)]
        came = [time for time in times if 0 < time < UINT64_MAX]
        return struct.pack(f"={len(came)}Q", *came)

    # ---- connections

    cdef int look_after(self, uint64_t now) except -1:
        cdef uint32_t i
        cdef Connection* c
        for i in range(self.n):
            c = &self.connections[i]
            if c.state == READY:
                if now > c.last_sent + self.ping_ns and c.out_to == c.out_from and self.phase != CLOSING:
                    self.put_ping(c)
                    self.flush(c, now)
            elif c.state == DOWN:
                if now >= c.retry_at and self.connecting < HANDSHAKES and self.phase != CLOSING:
                    self.connect(c, now)
            elif c.state != ENDED and now > c.since + HANDSHAKE_NS:
                self.lose(c, SLOW_HANDSHAKE, now)
        return 0

    cdef int connect(self, Connection* c, uint64_t now) except -1:
        cdef epoll_event event
        family, address = self.addresses[c.server]
        c.since = now
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            c.state = CONNECTING
            self.connecting += 1
            self.lose(c, error.errno, now)
            return 0
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        problem = sock.connect_ex(address)
        c.fd = sock.detach()
        c.state = CONNECTING
        self.connecting += 1
        if problem not in (0, errno_names.EINPROGRESS):
            self.lose(c, problem, now)
            return 0
        event.events = EPOLLIN | EPOLLOUT
        event.data.u32 = c.index
        c.wants_out = 1
        if epoll_ctl(self.epfd, EPOLL_CTL_ADD, c.fd, &event) < 0:
            self.lose(c, errno, now)
        return 0

    cdef int greet(self, Connection* c, uint64_t now) except -1 with gil:
        password = (<char*>c.password)[:16]
        greeting = CONNECT_REQUEST.pack(CONNECT_REQUEST.size - 4, 0, 0, self.timeout_ms, c.session, 16, password, False)
        self.room(c, len(greeting))
        memcpy(c.out + c.out_to, <const char*>greeting, len(greeting))
        c.out_to += len(greeting)
        c.state = GREETING
        self.flush(c, now)
        return 0

    cdef void lose(self, Connection* c, int why, uint64_t now) noexcept nogil:
        # The connection is gone: what was in flight has failed, what is due waits for the next one.
        cdef InFlight* request
        if c.fd >= 0:
            c_close(c.fd)  # epoll forgets it by itself
            c.fd = -1
        if c.state == CONNECTING or c.state == GREETING:
            self.connecting -= 1
        elif c.state == READY:
            self.ready -= 1
            if self.phase != CLOSING:
                self.lost += 1
        if c.arrived == 0 and self.waited_for and self.phase == IDLE:
            self.waited_for -= 1
            c.arrived = UINT64_MAX
        while c.inflight:
            request = &c.ring[c.first & self.mask]
            c.first += 1
            c.inflight -= 1
            if request.kind >= 0:
                self.outstanding -= 1
                if self.since <= request.began < self.until:
                    self.errors[request.kind][LOSS_CODE] += 1
                self.fresh_errors += 1
        c.out_from = c.out_to = 0
        c.have = 0
        c.skip = 0
        c.xid = 0
        c.state = ENDED if self.phase == CLOSING else DOWN
        c.retry_at = now + c.pause
        c.pause = min(2 * c.pause, LONGEST_PAUSE_NS)
        if self.phase != CLOSING:
            self.why = why
            self.name_server(c)
            c.server = (c.server + 1) % <uint32_t>self.server_count()
        self.attention = True

    cdef void name_server(self, Connection* c) noexcept with gil:
        address = self.addresses[c.server][1]
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        self.where = f"{host}:{address[1]}"

    cdef int server_count(self) noexcept with gil:
        return len(self.addresses)

    def close(self, grace=1.0):
        """End all sessions, so that the server need not wait for them to expire.

        :param grace: seconds to wait for the servers to hang up.
        """
        cdef uint32_t i
        cdef Connection* c
        cdef uint64_t now = clock(), end
        end = now + <uint64_t>(grace * 1e9)
        self.phase = CLOSING
        for i in range(self.n):
            c = &self.connections[i]
            if c.state != READY:
                self.lose(c, 0, now)
                continue
            self.room(c, len(CLOSE_REQUEST) + 4)
            memcpy(c.out + c.out_to, <const char*>CLOSE_REQUEST, len(CLOSE_REQUEST))
            put_u32(c.out + c.out_to + 4, <uint32_t>self.next_xid(c))
            c.out_to += len(CLOSE_REQUEST)
            # its reply is of no interest, and so are those of requests in flight
            self.outstanding -= c.inflight
            c.inflight = 0
            self.flush(c, now)
        while self.ready and now < end:
            self.attention = False
            with nogil:
                self.turn(min(end, now + CALM_LOOK_NS))
            now = clock()
        for i in range(self.n):
            self.lose(&self.connections[i], 0, now)

    # ---- the loop, without the GIL

    cdef void turn(self, uint64_t end) noexcept nogil:
        # One stretch: until ``end``, or until Python code has something to do.
        cdef uint64_t now = clock(), wake
        cdef int n, i
        cdef timespec pause
        cdef pollfd poll
        while now < end and not self.attention:
            if self.phase == WAITING and now >= self.start:
                self.phase = LOADING
                if not self.open_loop:
                    for i in range(<int>self.n):
                        if self.connections[i].state == READY:
                            self.fill(&self.connections[i], now)
                            self.flush(&self.connections[i], now)
            if self.phase == LOADING:
                if self.open_loop:
                    self.arrive(now)
                if now >= self.until:
                    self.finish_load()
                    return
            wake = end
            if self.phase == WAITING:
                wake = min(wake, self.start)
            elif self.phase == LOADING:
                wake = min(wake, self.until)
                if self.open_loop:
                    wake = min(wake, <uint64_t>self.next_due + 1)
            if wake > now:
                # epoll's own timeout has milliseconds, which is too coarse for a schedule
                pause.tv_sec = (wake - now) // 1_000_000_000
                pause.tv_nsec = (wake - now) % 1_000_000_000
                if self.open_loop or self.phase == WAITING:
                    poll.fd = self.epfd
                    poll.events = POLLIN
                    ppoll(&poll, 1, &pause, NULL)
                    n = epoll_wait(self.epfd, self.events, EVENTS, 0)
                else:
                    n = epoll_wait(self.epfd, self.events, EVENTS, 1 + <int>((wake - now) // 1_000_000))
            else:
                n = epoll_wait(self.epfd, self.events, EVENTS, 0)
            for i in range(n):
                self.serve(&self.connections[self.events[i].data.u32], self.events[i].events)
            now = clock()

    cdef void arrive(self, uint64_t now) noexcept nogil:
        # Hands the requests that are due to connections, whether those have room or not.
        cdef Connection* c
        cdef uint64_t due
        cdef uint32_t i
        while self.next_due <= <double>now and self.next_due < <double>self.until:
            due = <uint64_t>self.next_due
            if self.poisson:
                c = &self.connections[scaled(next_random(&self.random), self.n)]
                self.next_due -= log(((next_random(&self.random) >> 11) + 1) / 9007199254740993.0) * self.interval
            else:
                c = &self.connections[self.arrivals_made % self.n]
                self.arrivals_made += 1
                self.next_due = self.first_due + self.arrivals_made * self.interval
            if due >= self.since:
                tally(self.late.tally, now - due, 1)
            self.put_due(c, due)
            if not c.touched:
                c.touched = 1
                self.touched[self.touches] = c.index
                self.touches += 1
        for i in range(self.touches):
            c = &self.connections[self.touched[i]]
            c.touched = 0
            if c.state == READY:
                self.fill(c, now)
                self.flush(c, now)
        self.touches = 0

    cdef void put_due(self, Connection* c, uint64_t due) noexcept nogil:
        cdef uint64_t* bigger
        cdef uint32_t i
        if c.due_count == c.due_room:
            bigger = <uint64_t*>malloc((2 * c.due_room if c.due_room else 16) * sizeof(uint64_t))
            if bigger is NULL:
                return  # no memory: the request is lost, as the process is about to be
            for i in range(c.due_count):
                bigger[i] = c.due[(c.due_first + i) & (c.due_room - 1)]
            free(c.due)
            c.due = bigger
            c.due_first = 0
            c.due_room = 2 * c.due_room if c.due_room else 16
        c.due[(c.due_first + c.due_count) & (c.due_room - 1)] = due
        c.due_count += 1
        self.backlog += 1

    cdef void fill(self, Connection* c, uint64_t now) noexcept nogil:
        # As many requests as the window, the memory and, in an open loop, the schedule allow.
        cdef uint64_t due
        if self.open_loop:
            if self.phase != LOADING and self.phase != DRAINING:
                return
            while c.inflight < self.window and c.due_count:
                due = c.due[c.due_first & (c.due_room - 1)]
                c.due_first += 1
                c.due_count -= 1
                self.backlog -= 1
                if not self.issue(c, self.choose(), due):
                    return
        elif self.phase == LOADING and now < self.until:
            while c.inflight < self.window:
                if not self.issue(c, self.choose(), now):
                    return

    cdef int choose(self) noexcept nogil:
        cdef uint32_t drawn = <uint32_t>(next_random(&self.random) >> 32)
        cdef int kind = 0
        while drawn >= self.thresholds[kind] and kind < SYNC:
            kind += 1
        return kind

    cdef int32_t next_xid(self, Connection* c) noexcept nogil:
        c.xid = 1 if c.xid == INT32_MAX else c.xid + 1
        return c.xid

    cdef bint room(self, Connection* c, size_t bytes) noexcept nogil:
        cdef uint8_t* bigger
        if c.out_to + bytes > c.out_room:
            bigger = <uint8_t*>realloc(c.out, 2 * (c.out_to + bytes))
            if bigger is NULL:
                return False
            c.out = bigger
            c.out_room = 2 * (c.out_to + bytes)
        return True

    cdef void put_ping(self, Connection* c) noexcept nogil:
        if self.room(c, 12):
            put_u32(c.out + c.out_to, 8)
            put_u32(c.out + c.out_to + 4, <uint32_t>XID_PING)
            put_u32(c.out + c.out_to + 8, 11)
            c.out_to += 12

    cdef bint issue(self, Connection* c, int kind, uint64_t began) noexcept nogil:
        cdef Frame* frame
        cdef uint8_t* at
        cdef InFlight* request
        cdef uint64_t number = 0
        cdef uint32_t i
        if kind == DELETE and c.deleted == c.created:
            kind = CREATE  # there is nothing to delete
        frame = &self.frames[kind]
        if kind == DELETE:
            number = c.deleted
            c.deleted += 1
        elif kind == CREATE:
            number = c.created
            c.created += 1
        elif kind == PAIR:
            if c.pairs & 1:
                frame = &self.frames[T_PAIR_DELETE]
            c.pairs += 1
        if not self.room(c, frame.size):
            return False
        at = c.out + c.out_to
        memcpy(at, frame.data, frame.size)
        c.out_to += frame.size
        for i in range(frame.places):
            put_digits(at + frame.place[i], self.digits, self.keys.next())
        if frame.connection >= 0:
            put_digits(at + frame.connection, 6, c.number)
        if frame.number >= 0:
            put_digits(at + frame.number, 10, number)
        put_u32(at + 4, <uint32_t>self.next_xid(c))
        request = &c.ring[(c.first + c.inflight) & self.mask]
        request.began = began
        request.xid = c.xid
        request.kind = kind
        c.inflight += 1
        self.outstanding += 1
        self.sent[kind] += 1
        return True

    cdef void flush(self, Connection* c, uint64_t now) noexcept nogil:
        cdef ssize_t n
        cdef epoll_event event
        cdef uint32_t wants_out
        if c.fd < 0:
            return
        while c.out_from < c.out_to:
            n = c_send(c.fd, c.out + c.out_from, c.out_to - c.out_from, MSG_NOSIGNAL)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    self.lose(c, errno, now)
                    return
                break
            c.out_from += n
            c.last_sent = now
        if c.out_from == c.out_to:
            c.out_from = c.out_to = 0
        wants_out = c.out_to > 0
        if wants_out != c.wants_out:
            event.events = EPOLLIN | EPOLLOUT if wants_out else EPOLLIN
            event.data.u32 = c.index
            epoll_ctl(self.epfd, EPOLL_CTL_MOD, c.fd, &event)
            c.wants_out = wants_out

    cdef void serve(self, Connection* c, uint32_t events) noexcept nogil:
        # The socket is ready for something.
        cdef ssize_t n
        cdef uint64_t now
        cdef int problem = 0
        cdef uint32_t length = sizeof(int)
        cdef uint64_t answered = self.fresh_answered
        if c.fd < 0:
            return
        if c.state == CONNECTING:
            now = clock()
            if getsockopt(c.fd, SOL_SOCKET, SO_ERROR, &problem, &length) < 0:
                problem = errno
            if problem:
                self.lose(c, problem, now)
            elif events & EPOLLOUT:
                self.greet(c, now)
            return
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR):
            n = c_recv(c.fd, self.input, INPUT_BYTES, 0)
            now = clock()
            if n > 0:
                problem = self.take(c, self.input, self.input + n, now)
                if problem:
                    self.lose(c, problem, now)
                    return
                if self.fresh_answered != answered and self.since <= now < self.until:
                    self.gap = max(self.gap, now - self.last_reply)
                    self.last_reply = now
                if c.state == READY:
                    self.fill(c, now)
            elif n == 0:
                self.lose(c, END_OF_STREAM, now)
                return
            elif errno != EAGAIN and errno != EINTR:
                self.lose(c, errno, now)
                return
        else:
            now = clock()
        self.flush(c, now)

    cdef int take(self, Connection* c, const uint8_t* at, const uint8_t* end, uint64_t now) noexcept nogil:
        # All that came. Returns 0, or why the connection cannot be used further.
        cdef size_t n
        cdef uint32_t need, length
        cdef const uint8_t* head
        cdef int problem
        while at < end:
            if c.skip:
                n = min(c.skip, <uint64_t>(end - at))
                at += n
                c.skip -= n
                if c.skip:
                    return 0
                c.have = 0
                problem = self.whole(c, c.head, now)
            else:
                need = REPLY_HEAD if c.state == READY else GREETING_HEAD
                if c.have == 0 and end - at >= need:
                    head = at
                    at += need
                else:
                    n = min(<size_t>(need - c.have), <size_t>(end - at))
                    memcpy(c.head + c.have, at, n)
                    c.have += n
                    at += n
                    if c.have < need:
                        return 0
                    head = c.head
                length = u32(head)
                if length < need - 4 or length > MOST_REPLY:
                    return BAD_FRAME
                n = length + 4 - need
                if <size_t>(end - at) < n:
                    # the head is looked at when all is there: a reply has come when its last byte has
                    if head is not c.head:
                        memcpy(c.head, head, need)
                    c.have = need
                    c.skip = n - <size_t>(end - at)
                    return 0
                at += n
                c.have = 0
                problem = self.whole(c, head, now)
            if problem:
                return problem
        return 0

    cdef int whole(self, Connection* c, const uint8_t* head, uint64_t now) noexcept nogil:
        # A frame is complete.
        cdef InFlight* request
        cdef int32_t xid, code
        cdef int kind
        cdef uint64_t took
        if c.state == GREETING:
            if u32(head + 8) == 0:  # the timeout: there is no session of this id
                c.session = 0
                memset(c.password, 0, 16)
                self.expired += 1
                return SESSION_GONE
            c.session = (<int64_t>u32(head + 12) << 32) | u32(head + 16)
            memcpy(c.password, head + 24, 16)
            c.state = READY
            c.pause = FIRST_PAUSE_NS
            self.connecting -= 1
            self.ready += 1
            self.opened += 1
            # room for another handshake; but each look goes over all connections, so not for one at a time
            if 2 * self.connecting < HANDSHAKES:
                self.attention = True
            # the server may give a shorter time than asked for
            self.ping_ns = min(self.ping_ns, <uint64_t>u32(head + 8) * 1_000_000 // 3)
            return 0
        xid = <int32_t>u32(head + 4)
        if xid == XID_PING:
            return 0
        if xid == XID_EVENT:
            if c.arrived == 0 and self.waited_for:
                c.arrived = now
                self.waited_for -= 1
                if self.waited_for == 0:
                    self.attention = True
            return 0
        if self.phase == CLOSING:
            return 0
        request = &c.ring[c.first & self.mask]
        if c.inflight == 0 or request.xid != xid:
            return OUT_OF_ORDER
        c.first += 1
        c.inflight -= 1
        self.outstanding -= 1
        kind = request.kind
        code = <int32_t>u32(head + 16)
        took = now - request.began
        self.answered[kind] += 1
        self.fresh_answered += 1
        tally(self.fresh.tally, took, 1)
        if code:
            self.fresh_errors += 1
        if self.since <= now < self.until:
            self.finished[kind] += 1
        if self.since <= request.began < self.until:
            tally(self.latencies[kind], took, 1)
            if code:
                self.errors[kind][code_slot(code)] += 1
        if self.outstanding == 0 and (self.phase == IDLE or self.phase == DRAINING):
            self.attention = True
        return 0
