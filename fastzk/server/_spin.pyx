"""Look once more before going to sleep.

Waking a sleeping thread costs tens of microseconds, on a virtual machine often more than a request itself. When
events come in quick succession the event loop therefore polls for a moment instead of sleeping: it schedules a
turn of nothing, which makes the loop's next poll return at once. A server with little to do sleeps as before:
polling begins only when the mean time between events is shorter than what it may poll. Between two polls whoever
else wants the processor gets it, and if somebody took it the loop goes to sleep: where several servers share a few
processors, polling would only keep those waiting that have work to do.
"""

from fastzk.server._clients cimport fz_monotonic_ns

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef int64_t TAKEN_NS = 20_000  # sched_yield itself takes a microsecond


cdef class Spinner:
    """Keeps ``loop`` polling for at most ``microseconds`` after an event; 0 turns it off."""

    def __cinit__(self, loop, int64_t microseconds) -> None:
        self.loop = loop
        self.limit_ns = microseconds * 1000
        self.gap_ns = 8 * self.limit_ns
        self.again = self.turn

    cdef int touch(self, int64_t now_ns) except -1:
        # Something happened. Cheap, because it is called for everything that happens.
        cdef int64_t gap = now_ns - self.last_ns
        if self.limit_ns == 0:
            return 0
        self.last_ns = now_ns
        if gap > 8 * self.limit_ns:
            gap = 8 * self.limit_ns              # one long pause is forgotten after a few events
        self.gap_ns += (gap - self.gap_ns) >> 3
        if self.gap_ns >= self.limit_ns:
            return 0
        self.until_ns = now_ns + self.limit_ns
        if not self.active:
            self.active = True
            self.loop.call_soon(self.again)
        return 0

    def turn(self) -> None:
        """Called by the event loop: go on polling, or stop."""
        cdef int64_t now_ns
        if self.served_ns != self.last_ns:
            # Whatever is to be done about what came is in the loop's queue by now: that goes before others get the
            # processor.
            self.served_ns = self.last_ns
            self.loop.call_soon(self.again)
            return
        now_ns = fz_monotonic_ns()
        self.active = False
        if now_ns < self.until_ns:
            sched_yield()
            if fz_monotonic_ns() - now_ns < TAKEN_NS:
                self.active = True
                self.loop.call_soon(self.again)
