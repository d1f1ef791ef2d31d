"""How long a leader's next batch waits for company.

A batch costs every server of an ensemble the same, however small it is: a dozen times somebody is woken, and an
``fdatasync`` each. When one is committed, those who waited for it are answered, and who does nothing but write has its
next change on the way at once; but the clients of other servers hear of it later than those here. A batch that leaves
with the first of them makes the others wait for the batch after it, and so on for ever: three small batches by turns
instead of a large one.

So a batch waits until the one before it is committed, and then until most of those are back who were just answered
(all but one, or but an eighth), but for this twice as long at most as batches lately took to be committed, nor longer
than four milliseconds. It does not wait at all if it has ``MANY`` writes already, and only where waiting is of use:
where at least half of those who were answered came back before the next commit lately. Where they do not, a batch
leaves when nothing is under way, or when it is as large as all that is. One client alone never waits for another, nor
do clients that have other things to do between two writes.
"""

from fastzk.server._clients cimport fz_monotonic_ns

cdef extern from "<sys/timerfd.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec

    cdef struct itimerspec:
        timespec it_interval
        timespec it_value

    int timerfd_create(int clockid, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* new_value, itimerspec* old_value)
    int TFD_NONBLOCK
    int TFD_CLOEXEC

cdef extern from "<time.h>" nogil:
    int CLOCK_MONOTONIC

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void* buf, size_t count)
    int c_close "close"(int fd)

cdef enum:
    ALL = 256                        # a loyalty of one
    HALF = ALL // 2


cdef class Gathering:
    """Says when the next batch is to leave; ``wake`` is called in ``loop`` when one has waited for long enough."""

    def __cinit__(self, loop, wake) -> None:
        self.loop = loop
        self.wake = wake
        self.fd = -1
        self.most_ns = 4_000_000

    def __dealloc__(self) -> None:
        if self.fd >= 0:
            c_close(self.fd)

    cdef int forget(self) noexcept:
        # What was being filled, or was under way, is lost, and so are the clients.
        self.coming.count = self.answered.count = self.answered_count = 0
        self.first = self.next
        self.crowd = self.loyalty = 0
        return 0

    cdef int came(self, int64_t session) noexcept:
        # A write of the session is in the batch that is being filled.
        cdef int64_t i
        if self.coming.count < MANY:
            self.coming.sessions[self.coming.count] = session
            self.coming.count += 1
        for i in range(self.answered.count):
            if self.answered.sessions[i] == session:
                self.answered.count -= 1
                self.answered.sessions[i] = self.answered.sessions[self.answered.count]
                break
        return 0

    cdef bint enough(self, int64_t waiting, int64_t ahead) except -1:
        # Whether a batch of so many writes leaves now, behind `ahead` that are not committed yet. If not, it is asked
        # again when these are, or `wake` is called.
        cdef int64_t left
        if waiting >= MANY:
            return True
        if self.loyalty < HALF:
            return waiting >= ahead
        if ahead > 0:
            return False
        if waiting == 0 or waiting >= self.crowd * 7 // 8:
            return True
        left = self.free_ns + min(2 * self.cycle_ns, self.most_ns) - fz_monotonic_ns()
        return left <= 0 or not (self.armed or self.arm(left))

    cdef int sent(self, int64_t last_zxid) except -1:
        # The batch is given to the log.
        self.sent_ns = fz_monotonic_ns()
        if self.armed:
            self.arm(0)                      # to be woken for nothing costs more
        if self.next - self.first < IN_FLIGHT:
            self.coming.last_zxid = last_zxid
            self.under_way[self.next % IN_FLIGHT] = self.coming
            self.next += 1
        self.coming.count = 0
        return 0

    cdef int committed(self, int64_t zxid, int64_t waiting) noexcept:
        # What is not after `zxid` is committed; so many writes wait for the next batch.
        cdef int64_t i, back = self.answered_count - self.answered.count
        cdef Writers* writers
        if self.answered_count:
            self.loyalty += (ALL * back // self.answered_count - self.loyalty) >> 2
        self.answered.count = 0
        while self.first != self.next and self.under_way[self.first % IN_FLIGHT].last_zxid <= zxid:
            writers = &self.under_way[self.first % IN_FLIGHT]
            self.first += 1
            for i in range(min(writers.count, MANY - self.answered.count)):
                self.answered.sessions[self.answered.count] = writers.sessions[i]
                self.answered.count += 1
        self.answered_count = self.answered.count
        self.crowd = self.answered_count + waiting
        self.free_ns = fz_monotonic_ns()
        self.cycle_ns += (self.free_ns - self.sent_ns - self.cycle_ns) >> 3
        return 0

    cdef bint arm(self, int64_t ns) except -1:
        # Whether `wake` is going to be called in so many nanoseconds (0: never): there may be no file descriptor left
        # for a timer.
        cdef itimerspec when
        if self.fd < 0:
            self.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
            if self.fd < 0:
                return False
            self.loop.add_reader(self.fd, self.expired)
        when.it_interval.tv_sec = when.it_interval.tv_nsec = 0
        when.it_value.tv_sec = ns // 1_000_000_000
        when.it_value.tv_nsec = ns % 1_000_000_000
        self.armed = timerfd_settime(self.fd, 0, &when, NULL) == 0 and ns > 0
        return self.armed

    def expired(self) -> None:
        """Called by the event loop."""
        cdef char buffer[8]
        c_read(self.fd, buffer, 8)
        self.armed = False
        self.wake()
