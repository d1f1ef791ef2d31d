"""The socket of the threaded client, read by whichever thread has a use for it.

At most one thread reads at a time (``reading``). A thread that waits for a reply reads itself if nobody else does,
and so does with two system calls that matter: one ``send``, one ``recv``. Otherwise it sleeps until its call is
settled. When it has what it wanted it stops reading, and from then on the helper thread is woken by what comes.

The helper waits in ``epoll_wait``, for the socket only while that is *armed*. Arming and disarming is one cheap
system call each and wakes nobody, so the helper sleeps undisturbed while other threads read.

What is sent is sent with the GIL held and without ever waiting, so a request is in the channel and on its way before
another thread can add one. What the socket does not take is left to the helper.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport strerror

from fastzk.client._channel cimport INPUT_BYTES

cdef enum:
    GATHER_BYTES = 16 << 10          # requests that nobody waits for yet are sent when so many gathered

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void* data, size_t n, int flags) noexcept
    ssize_t c_recv "recv"(int fd, void* data, size_t n, int flags) noexcept
    int c_shutdown "shutdown"(int fd, int how) noexcept
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    int SHUT_RDWR

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd) noexcept
    ssize_t c_read "read"(int fd, void* data, size_t n) noexcept
    ssize_t c_write "write"(int fd, const void* data, size_t n) noexcept

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd* fds, unsigned long n, int timeout) noexcept
    short POLLIN

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags) noexcept
    int epoll_ctl(int poller, int op, int fd, epoll_event* event) noexcept
    int epoll_wait(int poller, epoll_event* events, int n, int timeout) noexcept
    int EPOLL_CTL_ADD
    int EPOLL_CTL_MOD
    uint32_t EPOLLIN
    uint32_t EPOLLOUT
    uint32_t EPOLLONESHOT
    int EPOLL_CLOEXEC

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags) noexcept
    int EFD_CLOEXEC
    int EFD_NONBLOCK

cdef extern from *:
    """
    #include <time.h>
    static inline double fz_seconds(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
    """
    double fz_seconds() noexcept nogil


cdef inline int milliseconds(double seconds) noexcept nogil:
    # For a wait: rounded up, and an hour at most; who waits looks again then.
    return 3600000 if seconds > 3600 else <int>(seconds * 1000) + 1


def flush(Channel channel not None, int fd) -> int:
    """Send what may leave through a socket, without waiting; how many bytes it did not take.

    :raises OSError: when the connection is broken.
    """
    cdef ssize_t sent
    cdef bint head
    while channel.pending_output():
        head = channel.head_at < channel.head.n
        if head:
            sent = c_send(fd, channel.head.p + channel.head_at, channel.head.n - channel.head_at,
                          MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            sent = c_send(fd, channel.out.p + channel.out_at, channel.out.n - channel.out_at,
                          MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            if errno == EINTR:
                continue
            if errno == EAGAIN:
                break
            raise OSError(errno, strerror(errno).decode())
        channel.taken(sent, head)
        channel.sent_ns = <long long>(fz_seconds() * 1e9)
    return channel.head.n - channel.head_at + (channel.out.n - channel.out_at if channel.open else 0)


cdef class Waker:
    """Ends the helper's wait, from any thread."""

    cdef readonly int fd

    def __cinit__(self) -> None:
        self.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.fd < 0:
            raise OSError(errno, strerror(errno).decode())

    def wake(self) -> None:
        """End the wait that is under way, or the next one."""
        cdef uint64_t one = 1
        if self.fd >= 0:
            c_write(self.fd, &one, 8)

    def wait(self, double timeout) -> None:
        """Wait to be woken, at most ``timeout`` seconds."""
        cdef pollfd p
        cdef uint64_t number
        cdef int fd = self.fd
        cdef int ms = milliseconds(timeout)
        p.fd = fd
        p.events = POLLIN
        with nogil:
            c_poll(&p, 1, ms)
            c_read(fd, &number, 8)

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1


cdef class Wire:
    """One connection; owns the descriptor ``fd``."""

    def __cinit__(self, Channel channel not None, int fd, Waker waker not None) -> None:
        cdef epoll_event event
        self.poller = -1
        self.fd = fd
        self.channel = channel
        self.waker = waker.fd
        self.input = <uint8_t*>malloc(INPUT_BYTES)
        if self.input == NULL:
            raise MemoryError()
        self.poller = epoll_create1(EPOLL_CLOEXEC)
        if self.poller < 0:
            raise OSError(errno, strerror(errno).decode())
        event.events = EPOLLIN
        event.data.fd = self.waker
        epoll_ctl(self.poller, EPOLL_CTL_ADD, self.waker, &event)
        event.events = EPOLLIN | EPOLLONESHOT
        event.data.fd = fd
        epoll_ctl(self.poller, EPOLL_CTL_ADD, fd, &event)
        self.armed = True

    def __dealloc__(self) -> None:
        if self.poller >= 0:
            c_close(self.poller)
        if self.fd >= 0:
            c_close(self.fd)
        free(self.input)

    cdef int arm(self) except -1:
        cdef epoll_event event
        if not self.armed:
            event.events = EPOLLIN | EPOLLONESHOT
            event.data.fd = self.fd
            epoll_ctl(self.poller, EPOLL_CTL_MOD, self.fd, &event)
            self.armed = True
        return 0

    cdef int disarm(self) except -1:
        cdef epoll_event event
        if self.armed:
            event.events = EPOLLONESHOT
            event.data.fd = self.fd
            epoll_ctl(self.poller, EPOLL_CTL_MOD, self.fd, &event)
            self.armed = False
        return 0

    cdef int leave(self) except -1:
        # Stop reading.
        self.reading = False
        if self.closing:
            self.close()
        elif not self.broken:
            self.arm()
        return 0

    cdef int fail(self, problem) except -1:
        cdef uint64_t one = 1
        if not self.broken:
            self.broken = True
            self.problem = problem
            c_write(self.waker, &one, 8)             # the helper makes a new connection
        return 0

    cdef ssize_t read(self, double timeout) except -2:
        # Wait for bytes and feed them; 0 when the time is over. timeout < 0: for ever; 0: what is there.
        cdef ssize_t n
        cdef int fd = self.fd
        cdef int err
        cdef pollfd p
        cdef uint8_t* input = self.input
        p.fd = fd
        p.events = POLLIN
        with nogil:
            if timeout > 0 and c_poll(&p, 1, milliseconds(timeout)) <= 0:
                n = -1
                err = EAGAIN
            else:
                n = c_recv(fd, input, INPUT_BYTES, 0 if timeout < 0 else MSG_DONTWAIT)
                err = errno
        if n > 0:
            if not self.broken:
                try:
                    self.channel.feed(input, n)
                except BaseException as error:
                    # Replies may be lost now, so this connection must not go on: not even when it was only an
                    # interrupt of this thread, in Python code that was called meanwhile.
                    self.fail(error)
                    if not isinstance(error, Exception):
                        raise
            return n
        if n == 0:
            self.fail("the server closed the connection")
        elif err == EINTR:
            PyErr_CheckSignals()
        elif err != EAGAIN:
            self.fail(strerror(err).decode())
        return 0

    def send(self) -> bool:
        """Send what may leave, without waiting; False when some is left for the helper, which knows."""
        cdef uint64_t one = 1
        if self.broken:
            return True
        try:
            if flush(self.channel, self.fd) == 0:
                return True
        except OSError as error:
            self.fail(error)
            return True
        c_write(self.waker, &one, 8)
        return False

    def made(self) -> None:
        """A request was made that nobody waits for yet: send it, or leave it to go with others.

        While replies are due, whoever reads them sends what has gathered; so many small requests leave in few
        system calls, and none waits for longer than the oldest reply.
        """
        cdef Channel channel = self.channel
        if (channel.count == 0 or channel.ring[channel.first].end > channel.sent
                or channel.out.n - channel.out_at > GATHER_BYTES):
            self.send()

    def wait(self, Call call not None, steps, run_steps, double timeout) -> bool:
        """Read until ``call`` is settled or the time is over, or sleep while another thread reads.

        :param timeout: in seconds; negative for no limit.
        :param steps: what settled calls leave to be done, by ``run_steps()``.
        :returns: False when this connection is of no more use, and the caller must wait in another way.
        """
        cdef double until = -1.0 if timeout < 0 else fz_seconds() + timeout
        cdef double left = -1.0
        if self.broken:
            return False
        if self.channel.pending_output():
            self.send()
        if self.reading:
            if self.reader == PyThread_get_thread_ident():
                # This thread: the garbage collector ran a finalizer while a reply was read, and that came here.
                raise RuntimeError("a finalizer cannot wait for a request")
            # That one reads for all; when it stops, the helper does.
            call.wait_settled(timeout)
            return True
        if call.indirect:
            call.wait_settled(timeout)               # the helper reads, and does what comes next
            return True
        self.reading = True
        self.reader = PyThread_get_thread_ident()
        try:
            self.disarm()
            while call.state == 0:
                if self.broken:
                    return False
                if until >= 0:
                    left = until - fz_seconds()
                    if left <= 0:
                        return True
                self.read(left)
                if steps:
                    run_steps()
                if self.channel.out_at < self.channel.out.n:
                    self.send()
        finally:
            self.leave()
        return True

    def serve(self, double timeout) -> bool:
        """The helper's turn: wait for something to do, at most ``timeout`` seconds, and do it.

        :returns: whether something was read.
        """
        cdef epoll_event[2] events
        cdef int n, i
        cdef int poller = self.poller
        cdef int ms = milliseconds(timeout)
        cdef uint64_t number
        cdef bint readable = False
        cdef pollfd p
        cdef size_t left = 0
        if not self.broken:
            try:
                left = flush(self.channel, self.fd)
            except OSError as error:
                self.fail(error)
                return False
        if left:
            # The socket is full: its other end must read before anything else can happen.
            p.fd = self.fd
            p.events = 4                             # POLLOUT
            ms = ms if ms < 10 else 10
            with nogil:
                c_poll(&p, 1, ms)
            ms = 0
        with nogil:
            n = epoll_wait(poller, events, 2, ms)
        for i in range(n):
            if events[i].data.fd == self.waker:
                c_read(self.waker, &number, 8)
            else:
                readable = True
        if not readable:
            return False
        self.armed = False
        if self.reading or self.broken:
            return False                             # who reads arms it again
        self.reading = True
        self.reader = PyThread_get_thread_ident()
        try:
            return self.read(0) > 0
        finally:
            self.leave()

    def shut(self, problem) -> None:
        """End the connection; a thread that reads from it is woken."""
        self.fail(problem)
        c_shutdown(self.fd, SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptors back, as soon as nobody reads."""
        if self.reading:
            self.closing = True
            return
        if self.poller >= 0:
            c_close(self.poller)
            self.poller = -1
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1

    def abandon(self) -> None:
        """In a forked child: give the descriptors back without a word to the server."""
        self.broken = True
        self.reading = False
        self.close()
