# cython: wraparound=True
"""The transaction log: batches of transactions, made durable by a thread that never takes the GIL.

A *batch* is a contiguous range of zxids with one checksum, written by one ``pwrite`` and made durable by one
``fdatasync`` (group commit). The event loop's thread fills the next batch while the log thread works on those
submitted; an eventfd tells the loop that something is durable.

On disk
-------
One directory, these kinds of files (mode 0600):

``log.%016x``    a segment, named by its first zxid
``base``         which zxid a log without segments is to begin behind: what tells an empty log from a lost one. Gone
                 as soon as the first batch is durable
``spare.%016x``  a file of zeros, or a recycled segment, which waits to become the next segment
``*.tmp``        being prepared; worthless after a crash

Segments are written over from end to end *before* they are used, so a live ``fdatasync`` never has block
allocation or a file size to record. A recycled one still contains old batches that look valid: what tells
them apart is the segment's random id, which every batch repeats, and the hash chain.

All numbers are little-endian. Each checksum is xxh3-64 and stands first, so that what it covers is one
contiguous range and is hashed without a copy.

::

    segment header, 96 bytes at 0                     batch header, 72 bytes, 8-byte aligned, from 4096 on
     0 u64 checksum of bytes 8..96                     0 u64 checksum of bytes 8..72 and the payload
     8 u32 magic                                       8 u32 magic
    12 u16 format version                             12 u16 format version
    14 u16 header bytes (96)                          14 u16 header bytes (72)
    16     store id, 16 bytes                         16 u32 payload bytes
    32 u64 segment id, random                         20 u32 count of transactions
    40 i64 first zxid                                 24 i64 first zxid
    48 u64 checksum of the last batch before          32 u32 epoch (first zxid >> 32)
    56 u64 file bytes                                 36 u32 0
    64 u32 flags, see below                           40 u64 segment id
    68     zeros                                      48 u64 checksum of the batch before (the chain)
    72 i64 the zxid before the first one              56 u64 durable_to
                                                      64 u64 this batch's own offset in the file

Flags: 1, the file held old batches (it is recycled) instead of zeros; 2, the zxid before is known.

The payload holds, for each transaction, a u32 length and that many bytes, which the log does not look into.

What a crash can leave, and what it cannot
------------------------------------------
``durable_to`` says up to which offset of its segment everything was known durable when the batch was stamped.
A bad place with a good batch behind it whose ``durable_to`` is greater was durable once and is now damaged:
*corruption*. A bad place without such a witness is a *torn tail*, which ``start()`` cuts off. (Only the very
last batch, once durable, has no witness of its own. For it there is the zxid that ``recover()`` is given: a
log that ends before it is refused.) A segment gets its final name only after everything in the segment before
it, and its own header, are durable; so a bad place in any segment but the newest is always corruption.

In memory
---------
::

    loop's thread                                   log thread (C only)
    Batch -> Batch -> Batch -> Batch                takes everything from `todo` to `tail`, writes, syncs,
      ^first            ^Shared.todo  ^Shared.tail  raises `durable_count`, writes the eventfd

A Batch in flight has one extra reference, dropped by ``take_done()``: its buffer outlives the write whatever
the garbage collector thinks. Moving to a new segment (header, rename, directory fsync) is also done by the
log thread; the loop only fills in the header. New segments come from the preparer (``_log_preparer.py``), an ordinary
Python thread.

Reading (``_log_reader.pyx``) is one walk from end to end at the start, and ``read()`` on the running log: for
followers that were away, and for what is to be applied behind a checkpoint. It finds its place by the marks that each
segment keeps every 256 KiB, and remembers where the last readers stopped. It runs on the thread that submits and
purges, and looks only at segments that the log still counts as its own; so the preparer, which recycles the others,
cannot pull a file from under it.
"""

import errno as _errno
import logging
import os
import struct
from collections import deque
from weakref import WeakSet

from xxhash import xxh3_64_intdigest as _xxh3

from fastzk import _log_preparer
from fastzk._log_reader import (
    BASE_NAME,
    SEGMENT_HEADER,
    LogCorruption,
    LogReport,
    RecoveredBatch,
    SegmentInfo,
    iter_records,
    scan,
    segment_header,
    txns_of_type,
    write_base,
)

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EDQUOT, EEXIST, EFBIG, EINTR, EIO, ENOENT, ENOSPC
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset, strncpy

from fastzk._log_reader cimport (
    BATCH_MAGIC,
    FORMAT_VERSION,
    LOG_HEADER_BYTES,
    SEGMENT_DATA,
    SEGMENT_HEADER_BYTES,
    WINDOW,
    Segment,
    Walk,
    Window,
    aligned,
    check_txns,
    digest,
    follows,
    get32,
    get64,
    put16,
    put32,
    put64,
    read_batches,
    start_of,
)

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <pthread.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/eventfd.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    static inline int64_t monotonic_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }

    static inline void sleep_ns(int64_t ns) {
        struct timespec t = { ns / 1000000000, ns % 1000000000 };
        nanosleep(&t, NULL);
    }

    static inline int this_thread(void) { return (int)syscall(SYS_gettid); }

    /* The thread must not run signal handlers: one would interrupt its system calls. */
    static inline int start_thread(pthread_t *thread, void *(*run)(void *), void *argument) {
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        int error = pthread_create(thread, NULL, run, argument);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    #ifdef __linux__
        if (!error) pthread_setname_np(*thread, "fastzk-log");
    #endif
        return error;
    }
    """
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t*, void*) nogil
    int pthread_mutex_destroy(pthread_mutex_t*) nogil
    int pthread_mutex_lock(pthread_mutex_t*) nogil
    int pthread_mutex_unlock(pthread_mutex_t*) nogil
    int pthread_cond_init(pthread_cond_t*, void*) nogil
    int pthread_cond_destroy(pthread_cond_t*) nogil
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*) nogil
    int pthread_cond_signal(pthread_cond_t*) nogil
    int pthread_cond_broadcast(pthread_cond_t*) nogil
    int pthread_join(pthread_t, void**) nogil
    int start_thread(pthread_t*, void* (*)(void*) noexcept nogil, void*)
    int this_thread() nogil
    int64_t monotonic_ns() nogil
    void sleep_ns(int64_t) nogil
    int c_pwrite "pwrite"(int, const void*, size_t, int64_t) nogil
    int c_write "write"(int, const void*, size_t) nogil
    int c_read "read"(int, void*, size_t) nogil
    int c_close "close"(int) nogil
    int c_fdatasync "fdatasync"(int) nogil
    int c_fsync "fsync"(int) nogil
    int c_faccessat "faccessat"(int, const char*, int, int) nogil
    int c_renameat "renameat"(int, const char*, int, const char*) nogil
    int c_unlinkat "unlinkat"(int, const char*, int) nogil

cdef enum:
    SMALLEST_SEGMENT = 64 * 1024
    FIRST_CAPACITY = 16 * 1024
    KEEP_CAPACITY = 1024 * 1024
    LARGEST_PAYLOAD = 0x7FFF0000
    READERS = 16  # places remembered where a reader stopped

__all__ = [
    "HEADER_BYTES",
    "SEGMENT_BYTES",
    "Batch",
    "LogCorruption",
    "LogFailed",
    "LogHold",
    "LogReport",
    "RecoveredBatch",
    "SegmentInfo",
    "TxnLog",
    "iter_records",
    "scan",
    "txns_of_type",
    "write_base",
]

_logger = logging.getLogger("fastzk.log")

SEGMENT_BYTES = 64 * 1024 * 1024
HEADER_BYTES = LOG_HEADER_BYTES


class LogFailed(Exception):
    """The log can make nothing durable any more; the server has to end. ``errno`` and ``what`` failed."""

    def __init__(self, errno: int, what: str) -> None:
        super().__init__(f"{what}: {os.strerror(errno)}")
        self.errno = errno
        self.what = what


# --- Faults, for tests. Costs one comparison per system call when unset. ------------------------------------

cdef struct Faults:
    int fail_fsync_at  # counts down; the one that reaches 0 fails
    int fail_fsync_errno
    int fail_write_at
    int fail_write_errno
    int fail_rename_errno
    int64_t fsync_delay_ns

cdef Faults faults
memset(&faults, 0, sizeof(Faults))


def _inject(*, int fail_fsync_at=0, int fail_fsync_errno=EIO, int fail_write_at=0, int fail_write_errno=EIO,
            int fail_rename_errno=0, int fail_prepare_errno=0, int64_t fsync_delay_ns=0):
    """Set the faults of every log of this process; without arguments, none. For tests only."""
    faults.fail_fsync_at = fail_fsync_at
    faults.fail_fsync_errno = fail_fsync_errno
    faults.fail_write_at = fail_write_at
    faults.fail_write_errno = fail_write_errno
    faults.fail_rename_errno = fail_rename_errno
    _log_preparer.fail_errno = fail_prepare_errno
    faults.fsync_delay_ns = fsync_delay_ns


# --- The log thread. Nothing in this part may touch a Python object. ----------------------------------------

cdef struct Shared:
    pthread_mutex_t lock  # held for a few instructions only, by either side
    pthread_cond_t work
    pthread_cond_t settled
    pthread_t thread
    int thread_id  # the kernel's; 0 until it runs
    int event_fd
    int dir_fd
    bint stop
    bint has_base  # the file `base` is there: to be removed when a batch is durable
    # the queue: the loop appends at `tail`, the thread takes all of it and leaves todo NULL
    Job* todo
    Job* tail
    int64_t pushed  # jobs ever queued (less those refused)
    # the last durable state; the thread writes it, the loop reads it
    int64_t durable_count
    int64_t durable_zxid
    int64_t durable_end
    uint64_t durable_chain
    int live_fd
    uint64_t live_id
    int refused_errno  # not 0: the thread rests until the loop has taken all unwritten jobs back
    int fatal_errno
    const char* fatal_what
    int64_t bytes_written
    int64_t fsyncs
    int64_t fsync_ns_total
    int64_t fsync_ns_max


cdef inline bint _out_of_space(int error) noexcept nogil:
    return error == ENOSPC or error == EDQUOT or error == EFBIG


cdef void _ring(int event_fd) noexcept nogil:
    cdef uint64_t one = 1
    # EAGAIN would mean 2**64 - 1 unread rings: the loop will wake anyway
    c_write(event_fd, &one, 8)


cdef int _pwrite_all(int fd, const uint8_t* data, size_t size, int64_t offset) noexcept nogil:
    """0, or the errno."""
    cdef int n
    cdef size_t piece
    while size:
        piece = min(size, <size_t>0x40000000)
        n = c_pwrite(fd, data, piece, offset)
        if n < 0:
            if c_errno == EINTR:
                continue
            return c_errno
        if n == 0:
            return EIO
        data += n
        size -= n
        offset += n
    return 0


cdef int _write_job(Shared* s, Job* job) noexcept nogil:
    if faults.fail_write_at:
        faults.fail_write_at -= 1
        if faults.fail_write_at == 0:
            # the worst case: everything but the last byte got there
            _pwrite_all(s.live_fd, job.data, job.size - 1, job.offset)
            return faults.fail_write_errno
    return _pwrite_all(s.live_fd, job.data, job.size, job.offset)


cdef int _fail(Shared* s, int error, const char* what) noexcept nogil:
    """Fatal: note why, for ever, and tell the loop."""
    pthread_mutex_lock(&s.lock)
    if s.fatal_errno == 0:
        s.fatal_errno = error if error else EIO
        s.fatal_what = what
    pthread_cond_broadcast(&s.settled)
    pthread_mutex_unlock(&s.lock)
    _ring(s.event_fd)
    return -1


cdef int _refuse(Shared* s, int error) noexcept nogil:
    """No space: rest, with this job and all behind it unwritten, until the loop took them back."""
    pthread_mutex_lock(&s.lock)
    s.refused_errno = error
    pthread_cond_broadcast(&s.settled)
    pthread_mutex_unlock(&s.lock)
    _ring(s.event_fd)
    return 0


cdef int _sync(Shared* s, Job* last, int64_t count, int64_t size) noexcept nogil:
    """Make `count` written jobs up to `last` durable and say so. They belong to the loop afterwards."""
    cdef int64_t began = monotonic_ns(), taken
    cdef int error = 0
    if faults.fsync_delay_ns:
        sleep_ns(faults.fsync_delay_ns)
    if c_fdatasync(s.live_fd) != 0:
        error = c_errno
    if faults.fail_fsync_at:
        faults.fail_fsync_at -= 1
        if faults.fail_fsync_at == 0:
            error = faults.fail_fsync_errno
    if error:
        # Never again: the kernel has dropped the pages it could not write, a second call would report
        # success.
        return _fail(s, error, b"fdatasync of the transaction log")
    taken = monotonic_ns() - began
    if s.has_base:
        # Not synced: beside a segment it says nothing. Before anybody knows of the batch, who might truncate it again.
        c_unlinkat(s.dir_fd, b"base", 0)
        s.has_base = False
    pthread_mutex_lock(&s.lock)
    s.durable_count += count
    s.durable_zxid = last.last_zxid
    s.durable_end = last.offset + last.size
    s.durable_chain = last.checksum
    s.bytes_written += size
    s.fsyncs += 1
    s.fsync_ns_total += taken
    if taken > s.fsync_ns_max:
        s.fsync_ns_max = taken
    pthread_cond_broadcast(&s.settled)
    pthread_mutex_unlock(&s.lock)
    _ring(s.event_fd)
    return 0


cdef int _enter_segment(Shared* s, Rotation* r) noexcept nogil:
    """Header, fdatasync, rename, fsync of the directory: in this order, so a named segment is a whole one."""
    cdef int error = _pwrite_all(r.fd, r.header, SEGMENT_HEADER_BYTES, 0)
    if error:
        if _out_of_space(error):
            _refuse(s, error)
            return 1
        return _fail(s, error, b"write of a log segment's header")
    if c_fdatasync(r.fd) != 0:
        return _fail(s, c_errno, b"fdatasync of a log segment's header")
    if c_faccessat(s.dir_fd, r.new_name, 0, 0) == 0:
        return _fail(s, EEXIST, b"naming of a log segment")
    if c_errno != ENOENT:
        return _fail(s, c_errno, b"naming of a log segment")
    if faults.fail_rename_errno:
        error = faults.fail_rename_errno
    elif c_renameat(s.dir_fd, r.old_name, s.dir_fd, r.new_name) != 0:
        error = c_errno
    if error:
        if _out_of_space(error):
            _refuse(s, error)
            return 1
        return _fail(s, error, b"rename of a log segment")
    if c_fsync(s.dir_fd) != 0:
        return _fail(s, c_errno, b"fsync of the log directory")
    if s.live_fd >= 0:
        c_close(s.live_fd)
    pthread_mutex_lock(&s.lock)
    s.live_fd = r.fd
    s.live_id = r.segment_id
    s.durable_end = SEGMENT_DATA
    r.fd = -1
    pthread_mutex_unlock(&s.lock)
    return 0


cdef int _write_jobs(Shared* s, Job* job, Job* until) noexcept nogil:
    """Write the jobs from `job` to `until` and sync them; -1: fatal, the thread has to end."""
    cdef Job* last = NULL
    cdef int64_t count = 0, size = 0
    cdef int error
    cdef uint8_t zeros[LOG_HEADER_BYTES]
    while True:
        if job.rotation != NULL:
            # whatever is in the old segment must be durable before a newer one exists
            if last != NULL:
                if _sync(s, last, count, size) != 0:
                    return -1
                last = NULL
                count = 0
                size = 0
            error = _enter_segment(s, job.rotation)
            if error:
                return -1 if error < 0 else 0
        error = _write_job(s, job)
        if error:
            if not _out_of_space(error) or job.offset == SEGMENT_DATA:
                # (a segment without a batch must not become an older one, so its first is not taken back)
                return _fail(s, error, b"write of the transaction log")
            if last != NULL and _sync(s, last, count, size) != 0:
                return -1
            # Part of the batch may be there, and what is missing may be equal to what the file held before.
            memset(zeros, 0, LOG_HEADER_BYTES)
            error = _pwrite_all(s.live_fd, zeros, LOG_HEADER_BYTES, job.offset)
            if error:
                return _fail(s, error, b"taking back a batch of the transaction log")
            if c_fdatasync(s.live_fd) != 0:
                return _fail(s, c_errno, b"fdatasync of the transaction log")
            return _refuse(s, ENOSPC)
        last = job
        count += 1
        size += job.size
        if job == until:
            return _sync(s, last, count, size)
        job = job.next


cdef void* _run(void* argument) noexcept nogil:
    # It sleeps as soon as there is nothing to do: spinning for 15 us first was measured, and only took the
    # processor from the loop.
    cdef Shared* s = <Shared*> argument
    cdef Job* job
    cdef Job* until
    s.thread_id = this_thread()
    while True:
        pthread_mutex_lock(&s.lock)
        while (s.todo == NULL or s.refused_errno) and not s.stop:
            pthread_cond_wait(&s.work, &s.lock)
        job = s.todo
        until = s.tail
        s.todo = NULL
        if job == NULL or s.refused_errno:
            pthread_mutex_unlock(&s.lock)
            return NULL
        pthread_mutex_unlock(&s.lock)
        if _write_jobs(s, job, until) != 0:
            return NULL


# --- Batches ------------------------------------------------------------------------------------------------

cdef class Batch:
    """A contiguous range of transactions on its way into the log.

    Fill it (``append`` from Python; ``reserve`` and the fields from Cython), ``submit`` it, and leave it
    alone until ``take_done`` hands it back; then ``reset`` makes it ready for the next. ``adopt`` fills it with what
    another server's batch held. While a view of its payload lives (``payload_view``) it cannot change: ``exports``
    counts them, and ``reset``, ``append`` and ``adopt`` raise BufferError.
    """

    def __dealloc__(self):
        free(self.buf)

    def __getbuffer__(self, Py_buffer* view, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("a batch's payload is read-only")
        if self.length == 0:
            raise BufferError("the batch is empty")
        PyBuffer_FillInfo(view, self, self.buf + LOG_HEADER_BYTES, self.length, True, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.exports -= 1

    cdef int writable(self) except -1:
        if self.submitted:
            raise RuntimeError("the batch is being written")
        if self.exports:
            raise BufferError("a view of the batch's payload is still in use")
        return 0

    cdef uint8_t* reserve(self, size_t n) except NULL:
        """Where `n` more payload bytes may be written; the caller adds them to ``length`` when it did.

        Pointers from earlier calls are void. Raises MemoryError, RuntimeError while submitted, and BufferError while
        a view of the payload lives.
        """
        cdef size_t wanted = self.length + n, capacity
        cdef uint8_t* grown
        self.writable()
        if self.buf == NULL or wanted > self.capacity:
            if wanted > LARGEST_PAYLOAD:
                raise MemoryError("a batch of the log holds at most 2 GiB")
            capacity = max(self.capacity * 2, wanted, <size_t> FIRST_CAPACITY)
            grown = <uint8_t*> realloc(self.buf, LOG_HEADER_BYTES + capacity + 8)
            if grown == NULL:
                raise MemoryError()
            self.buf = grown
            self.capacity = capacity
        return self.buf + LOG_HEADER_BYTES + self.length

    cdef int clear(self) except -1:
        """Empty it for reuse. A large buffer is given back: a huge transaction must not cost it for ever."""
        self.writable()
        self.length = 0
        self.first_zxid = 0
        self.last_zxid = 0
        self.count = 0
        if self.capacity > KEEP_CAPACITY:
            free(self.buf)
            self.buf = NULL
            self.capacity = 0
        return 0

    def append(self, int64_t zxid, const uint8_t[::1] record not None):
        """Add one transaction. Raises ValueError if `zxid` does not follow the last one."""
        cdef size_t n = record.shape[0]
        cdef uint8_t* to
        if self.count and zxid != self.last_zxid + 1:
            raise ValueError(f"zxid {zxid:#x} does not follow {self.last_zxid:#x}")
        to = self.reserve(4 + n)
        put32(to, <uint32_t> n)
        if n:
            memcpy(to + 4, &record[0], n)
        self.length += 4 + n
        if self.count == 0:
            self.first_zxid = zxid
        self.last_zxid = zxid
        self.count += 1

    def adopt(self, int64_t first_zxid, int64_t last_zxid, int64_t count, const uint8_t[::1] payload not None):
        """Become the batch that another server made, of which these are the numbers and the bytes.

        Raises ValueError if `payload` is not exactly `count` transactions with the zxids from `first_zxid` to
        `last_zxid`, all of one epoch; the batch is empty then. RuntimeError and BufferError as for ``reset``.
        """
        cdef size_t n = payload.shape[0]
        self.clear()
        if n == 0 or count < 1 or first_zxid < 0 or <uint32_t> first_zxid == 0 \
                or last_zxid != first_zxid + count - 1 or first_zxid >> 32 != last_zxid >> 32:
            raise ValueError(f"not a batch: zxids {first_zxid:#x} to {last_zxid:#x}, count {count}, {n} bytes")
        check_txns(&payload[0], n, first_zxid, count)
        memcpy(self.reserve(n), &payload[0], n)
        self.length = n
        self.first_zxid = first_zxid
        self.last_zxid = last_zxid
        self.count = <uint32_t> count

    def reset(self):
        """Empty it for reuse. Raises RuntimeError while submitted, BufferError while a view of it lives."""
        self.clear()

    @property
    def nbytes(self):
        """Payload bytes so far."""
        return self.length

    def payload(self):
        """A copy of the payload."""
        if self.length == 0:
            return b""
        return PyBytes_FromStringAndSize(<char*> self.buf + LOG_HEADER_BYTES, self.length)

    def payload_view(self):
        """The payload without a copy. It keeps the batch as it is until it is released: see ``exports``."""
        return memoryview(self) if self.length else memoryview(b"")

    def __repr__(self):
        return f"<Batch {self.first_zxid:#x}..{self.last_zxid:#x}, {self.length} bytes>"


# --- The log ------------------------------------------------------------------------------------------------

class LogHold:
    """Keeps what follows ``zxid`` in the log: ``purge()`` goes around it until ``release()``, or this is forgotten."""

    def __init__(self, holds, zxid):
        self.zxid = zxid
        self._holds = holds
        holds.add(self)

    def release(self):
        """The log may go. Releasing twice is allowed."""
        self._holds.discard(self)


cdef class TxnLog:
    """The transaction log in one directory, which must exist and belong to this process alone.

    ``recover()`` (read-only), then ``start()``, then ``submit()`` and ``take_done()``, then ``close()``; all
    by one thread. `store_id`: 16 random bytes that name the store the log belongs to. `segment_bytes`: size
    of a segment, at least 64 KiB. Raises ValueError, and OSError if the directory cannot be opened.
    """

    def __cinit__(self):
        self.event_fd = -1
        self.dir_fd = -1
        self.shared = <Shared*> calloc(1, sizeof(Shared))
        if self.shared == NULL:
            raise MemoryError()
        self.shared.event_fd = -1
        self.shared.live_fd = -1
        pthread_mutex_init(&self.shared.lock, NULL)
        pthread_cond_init(&self.shared.work, NULL)
        pthread_cond_init(&self.shared.settled, NULL)

    def __init__(self, directory, bytes store_id not None, *, int64_t segment_bytes=SEGMENT_BYTES):
        if self.dir_fd >= 0:
            raise RuntimeError("a log is made once")
        if len(store_id) != 16:
            raise ValueError("store_id must have 16 bytes")
        if segment_bytes < SMALLEST_SEGMENT or segment_bytes & 4095:
            raise ValueError("segment_bytes must be at least 65536 and a multiple of 4096")
        self.directory = os.fspath(directory)
        self.store_id = store_id
        self.segment_bytes = segment_bytes
        self._segments = []
        self.held = deque()
        self.holds = WeakSet()
        self.cursors = {}
        self.owner_pid = os.getpid()
        self.dir_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.shared.event_fd = self.event_fd
        self.shared.dir_fd = self.dir_fd

    def __del__(self):
        if self.owner_pid == os.getpid():
            self._stop_threads()

    def __dealloc__(self):
        cdef Job* job = self.first
        cdef Job* following
        # Not in a forked child, where the log thread never was: there, what it may hold is simply kept.
        if self.shared == NULL or self.running:
            return
        while job != NULL:
            following = job.next
            free(job.rotation)
            job.rotation = NULL
            Py_DECREF(<object> job.owner)
            job = following
        if self.shared.live_fd >= 0:
            c_close(self.shared.live_fd)
        if self.event_fd >= 0:
            c_close(self.event_fd)
        if self.dir_fd >= 0:
            c_close(self.dir_fd)
        pthread_cond_destroy(&self.shared.settled)
        pthread_cond_destroy(&self.shared.work)
        pthread_mutex_destroy(&self.shared.lock)
        free(self.shared)

    # Opening

    def recover(self, after_zxid):
        """Yield, as RecoveredBatch in order, every batch that reaches beyond `after_zxid`; changes nothing.

        The first may begin at or before `after_zxid`. All batches are verified, also those not yielded. A
        torn tail ends the iteration in silence; ``start()`` cuts it. Raises LogCorruption for damage, and if
        transactions are missing behind `after_zxid`, or it lies beyond the log's end. (Where an empty directory's log
        ends is not known, unless the file `base` says so.)
        """
        cdef Walk walk
        if self.running or self.closed:
            raise RuntimeError("the log was started already")
        walk = Walk(self.directory, self.store_id, self.dir_fd)
        self.walk = None
        yield from walk.run(int(after_zxid))
        self.walk = walk

    def start(self):
        """Cut a torn tail, make what is left durable, open for appending.

        Verifies the log first unless ``recover()`` has done so to its end. Raises LogCorruption, OSError.
        """
        cdef Walk walk
        cdef Segment live
        cdef int64_t began, end, size
        cdef int fd
        if self.running or self.closed:
            raise RuntimeError("the log was started already")
        walk = self.walk
        if walk is None:
            walk = Walk(self.directory, self.store_id, self.dir_fd)
            for _ in walk.run(None):
                pass
        self.walk = None
        spares = []
        for name in os.listdir(self.dir_fd):
            if name.startswith("spare.") or name in ("prepare.tmp", "truncate.tmp", "base.tmp"):
                size = os.stat(name, dir_fd=self.dir_fd).st_size
                if name.startswith("spare.") and size == self.segment_bytes and len(spares) < _log_preparer.SPARES:
                    spares.append(name)
                else:
                    os.unlink(name, dir_fd=self.dir_fd)
        if walk.torn is not None and walk.torn.name not in walk.empty:
            _cut(self.directory, self.dir_fd, walk.torn)
        for name in walk.empty:
            _logger.warning("%s: removed: a crash left it without a single whole batch",
                            os.path.join(self.directory, name))
            os.unlink(name, dir_fd=self.dir_fd)
        if BASE_NAME in os.listdir(self.dir_fd):
            if walk.segments:
                os.unlink(BASE_NAME, dir_fd=self.dir_fd)
            else:
                self.shared.has_base = True
        os.fsync(self.dir_fd)
        end = 0
        if walk.segments:
            live = walk.segments[-1]
            end = live.end
            fd = os.open(live.name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self.dir_fd)
            try:
                # What no batch witnesses as durable may be in memory only, and if an fdatasync failed before
                # the restart, memory would pass for clean: write it again, so that this fdatasync means
                # something.
                began = max(walk.durable_to, <int64_t> SEGMENT_DATA)
                data = os.pread(fd, end - began, began)
                with memoryview(data) as view:
                    size = 0
                    while size < len(data):
                        size += os.pwrite(fd, view[size:], began + size)
                os.fdatasync(fd)
            except BaseException:
                os.close(fd)
                raise
            self.shared.live_fd = fd
        self._segments = walk.segments
        self.ends = walk.ends
        self.based = walk.base is not None
        self.base = walk.base or 0
        self._set_end(end, walk.chain if walk.segments else 0, walk.last_zxid)
        if start_thread(&self.shared.thread, _run, self.shared) != 0:
            raise OSError(_errno.EAGAIN, "cannot start the log thread")
        self.running = True
        self.preparer = _log_preparer.Preparer(self.dir_fd, self.event_fd, self.segment_bytes, spares,
                                               not self._segments and not spares)

    def _set_end(self, int64_t end, uint64_t chain, int64_t zxid):
        """All of the log is durable and ends here. The log thread must be idle."""
        cdef Segment live
        self.live_size = 0
        self.live_id = 0
        self.position = 0
        if self._segments:
            live = self._segments[-1]
            self.live_size = live.size
            self.live_id = live.segment_id
            self.position = end
        self.chain = chain
        self.stamped_zxid = zxid
        self.submitted_zxid = zxid
        pthread_mutex_lock(&self.shared.lock)
        self.shared.live_id = self.live_id
        self.shared.durable_end = self.position
        self.shared.durable_chain = chain
        self.shared.durable_zxid = zxid
        pthread_mutex_unlock(&self.shared.lock)

    # Appending

    cpdef submit(self, Batch batch):
        """Queue `batch` for the log thread; never waits for the disk. Leave it alone until it is handed back.

        Raises ValueError if it is empty, submitted already, or does not follow the batch before it (its first
        zxid is the next one, or number 1 of a newer epoch; an empty log that has no base may start anywhere);
        RuntimeError if the log is not started.
        """
        cdef int64_t first = batch.first_zxid
        if not self.running:
            raise RuntimeError("the log is not open for appending")
        if batch.submitted:
            raise ValueError("the batch was submitted already")
        if batch.count == 0 or batch.length == 0 or first < 0 or batch.last_zxid != first + batch.count - 1 \
                or first >> 32 != batch.last_zxid >> 32:
            raise ValueError(f"not a batch to log: {batch!r}, count {batch.count}")
        if not self.refusing:
            if not follows(first, self.submitted_zxid) \
                    and (self._segments or self.held or self.based):
                raise ValueError(f"zxid {first:#x} does not follow {self.submitted_zxid:#x}")
            self.submitted_zxid = batch.last_zxid
            if not self.held and self._place(batch):
                return
        batch.submitted = True
        self.held.append(batch)
        if self.refusing or self.preparer.errno:
            _ring(self.event_fd)

    cdef bint _place(self, Batch batch) except -1:
        """Give `batch` its place in the log, and to the log thread. False: there is no segment for it yet."""
        cdef int64_t need = aligned(LOG_HEADER_BYTES + batch.length), durable_to
        cdef Rotation* rotation = NULL
        cdef Job* job = &batch.job
        cdef Shared* s = self.shared
        cdef Segment live
        if self.position + need > self.live_size:
            spare = self.preparer.take(SEGMENT_DATA + need)
            if spare is None:
                return False
            self._rotate(batch.first_zxid, &rotation, spare)
        pthread_mutex_lock(&s.lock)
        durable_to = s.durable_end if s.live_id == self.live_id else 0
        pthread_mutex_unlock(&s.lock)
        self._stamp(batch, durable_to)
        job.next = NULL
        job.owner = <void*> batch
        job.data = batch.buf
        job.size = need
        job.offset = self.position
        job.last_zxid = batch.last_zxid
        job.checksum = self.chain
        job.rotation = rotation
        live = self._segments[-1]
        live.note(self.stamped_zxid, batch.last_zxid, batch.count, self.position, self.position + need)
        self.position += need
        self.stamped_zxid = batch.last_zxid
        batch.submitted = True
        Py_INCREF(batch)
        if self.last == NULL:
            self.first = job
        else:
            self.last.next = job
        self.last = job
        pthread_mutex_lock(&s.lock)
        if s.todo == NULL:
            s.todo = job
        s.tail = job
        s.pushed += 1
        pthread_mutex_unlock(&s.lock)
        # After the unlock: a thread woken before it would run into the mutex and sleep again.
        pthread_cond_signal(&s.work)
        return True

    cdef int _stamp(self, Batch batch, int64_t durable_to) except -1:
        cdef uint8_t* h = batch.buf
        put32(h + 8, BATCH_MAGIC)
        put16(h + 12, FORMAT_VERSION)
        put16(h + 14, LOG_HEADER_BYTES)
        put32(h + 16, <uint32_t> batch.length)
        put32(h + 20, batch.count)
        put64(h + 24, <uint64_t> batch.first_zxid)
        put32(h + 32, <uint32_t> (batch.first_zxid >> 32))
        put32(h + 36, 0)
        put64(h + 40, self.live_id)
        put64(h + 48, self.chain)
        put64(h + 56, <uint64_t> durable_to)
        put64(h + 64, <uint64_t> self.position)
        self.chain = digest(h + 8, LOG_HEADER_BYTES - 8 + batch.length)
        put64(h, self.chain)
        memset(h + LOG_HEADER_BYTES + batch.length, 0, 8)
        return 0

    cdef int _rotate(self, int64_t first_zxid, Rotation** result, object spare) except -1:
        """Make `spare` the live segment, as far as the loop is concerned."""
        cdef uint64_t segment_id = int.from_bytes(os.urandom(8), "little")
        cdef str name = f"log.{first_zxid:016x}"
        cdef Segment live
        cdef bint known = bool(self._segments) or self.based
        cdef int64_t before = self.stamped_zxid if known else first_zxid - 1
        cdef bytes header = segment_header(self.store_id, segment_id, first_zxid, self.chain, spare.size,
                                           spare.recycled, before if known else None)
        cdef bytes old_name = os.fsencode(spare.name), new_name = os.fsencode(name)
        cdef Rotation* rotation = <Rotation*> calloc(1, sizeof(Rotation))
        if rotation == NULL:
            raise MemoryError()
        rotation.fd = spare.fd
        rotation.segment_id = segment_id
        memcpy(rotation.header, PyBytes_AS_STRING(header), SEGMENT_HEADER_BYTES)
        strncpy(rotation.old_name, PyBytes_AS_STRING(old_name), sizeof(rotation.old_name) - 1)
        strncpy(rotation.new_name, PyBytes_AS_STRING(new_name), sizeof(rotation.new_name) - 1)
        live = Segment(name, before, first_zxid, spare.size, segment_id)
        live.before_known = known
        self._segments.append(live)
        self.live_id = segment_id
        self.live_size = spare.size
        self.position = SEGMENT_DATA
        result[0] = rotation
        return 0

    cpdef tuple take_done(self):
        """Drain the eventfd; return (durable, refused): two lists of batches, each in order of submission.

        Refused batches were not written for want of space, and nothing of them will ever be read back. The
        log then ends with the last durable batch, and refuses everything until ``acknowledge_refusal()``.
        Raises LogFailed, for ever, once an error has left the disk's content in doubt.
        """
        cdef uint64_t rings
        cdef Shared* s = self.shared
        cdef int64_t durable, in_flight
        cdef int fatal, refused_errno
        cdef Job* job
        cdef Batch batch
        cdef list done = [], refused = []
        if self.event_fd >= 0:
            c_read(self.event_fd, &rings, 8)
        preparer = self.preparer
        if preparer is not None and preparer.failed is not None:
            _fail(s, preparer.failed[0], b"preparing the next segment of the transaction log")
        pthread_mutex_lock(&s.lock)
        durable = s.durable_count
        in_flight = s.pushed - durable
        fatal = s.fatal_errno
        refused_errno = s.refused_errno
        pthread_mutex_unlock(&s.lock)
        if fatal:
            raise LogFailed(fatal, (<bytes> s.fatal_what).decode())
        while self.taken < durable:
            job = self.first
            self.first = job.next
            if self.first == NULL:
                self.last = NULL
            self.taken += 1
            batch = <Batch> job.owner
            free(job.rotation)
            job.rotation = NULL
            batch.submitted = False
            done.append(batch)
            Py_DECREF(batch)
        if refused_errno:
            refused = self._roll_back()
        if self.held:
            if not refused and not self.refusing:
                while self.held and self.running and self._place(self.held[0]):
                    self.held.popleft()
                    in_flight += 1
            # not before all ahead of them are durable, so that "the last durable batch" is where the log ends
            if self.held and (refused or self.refusing or (preparer.errno and in_flight == 0)):
                for batch in self.held:
                    batch.submitted = False
                    refused.append(batch)
                self.held.clear()
        if refused:
            preparer.forget_wish()
            self.refusing = True
            self.submitted_zxid = self.stamped_zxid
        return done, refused

    cdef list _roll_back(self):
        """Take back what the log thread did not write, and let the log end with the last durable batch."""
        cdef Shared* s = self.shared
        cdef Job* job = self.first
        cdef Job* following
        cdef Batch batch
        cdef Segment live
        cdef int error
        cdef int64_t count = 0  # of the transactions refused in the segment that is live then
        cdef bint counting = True
        cdef list refused = []
        pthread_mutex_lock(&s.lock)
        error = s.refused_errno
        s.todo = NULL
        s.tail = NULL
        s.pushed = s.durable_count
        s.refused_errno = 0
        self.position = s.durable_end
        self.chain = s.durable_chain
        self.stamped_zxid = s.durable_zxid
        self.live_id = s.live_id
        pthread_mutex_unlock(&s.lock)
        self.first = NULL
        self.last = NULL
        self.preparer.put_back("", error)
        while job != NULL:
            following = job.next
            batch = <Batch> job.owner
            if job.rotation != NULL:
                if job.rotation.fd >= 0:
                    counting = False
                    c_close(job.rotation.fd)
                    self._segments.pop()
                    self.preparer.put_back((<bytes> job.rotation.old_name).decode(), error)
                free(job.rotation)
                job.rotation = NULL
            if counting:
                count += batch.count
            batch.submitted = False
            refused.append(batch)
            Py_DECREF(batch)
            job = following
        self.live_size = 0
        if self._segments:
            live = self._segments[-1]
            self.live_size = live.size
            live.take_back(max(live.first_zxid - 1, self.stamped_zxid), count, self.position)
        return refused

    def acknowledge_refusal(self):
        """Submit again from here on: what was refused is known, the next zxid follows ``durable_zxid``.

        Raises RuntimeError if batches were submitted since and ``take_done()`` has not handed them back yet.
        """
        if self.refusing and self.held:
            raise RuntimeError("refused batches were not taken yet")
        self.refusing = False

    cdef bint busy(self):
        """True while anything is submitted but not durable."""
        cdef bint result
        pthread_mutex_lock(&self.shared.lock)
        result = self.shared.pushed != self.shared.durable_count
        pthread_mutex_unlock(&self.shared.lock)
        return result or bool(self.held)

    # Reading back

    def take_index(self):
        """(zxid before the first batch, array('q') of every batch's last zxid), as found by ``recover()``; once.

        Raises RuntimeError if the log was not read yet, or this was taken before.
        """
        cdef Walk walk = self.walk
        if walk is not None:
            ends, walk.ends = walk.ends, None
            return walk.base or 0, ends
        ends, self.ends = self.ends, None
        if ends is None:
            raise RuntimeError("the log has no index to give")
        return self.base_zxid, ends

    def read(self, int64_t after_zxid, int64_t max_bytes):
        """The durable batches that follow zxid `after_zxid`, as RecoveredBatch, each verified; [] behind the last.

        Whole batches, of about `max_bytes` together (headers included) and at least one. `after_zxid` is the last
        zxid of a batch, or ``base_zxid``. From the disk, if the page cache has it no more: the caller waits for that.
        Raises KeyError if it is no such zxid, RuntimeError if the log is not started, LogCorruption, OSError.
        """
        cdef Segment segment
        cdef Shared* s = self.shared
        cdef int64_t durable_zxid, durable_end, offset, current, stopped = 0, after = after_zxid, left = max_bytes
        cdef uint64_t live_id
        cdef list found = [], batches
        if not self.running:
            raise RuntimeError("the log is not open")
        pthread_mutex_lock(&s.lock)
        durable_zxid = s.durable_zxid
        durable_end = s.durable_end
        live_id = s.live_id
        pthread_mutex_unlock(&s.lock)
        if after > durable_zxid:
            raise KeyError(after)
        while after != durable_zxid and (left > 0 or not found):
            for segment in reversed(self._segments):
                if segment.before <= after:
                    break
            else:
                raise KeyError(after)
            cursor = self.cursors.pop(after, None)
            if cursor is not None:
                current, offset = after, cursor
            else:
                offset = start_of(segment, after, &current)
            batches = read_batches(self.directory, self.dir_fd, segment, offset, current, after,
                                   durable_end if segment.segment_id == live_id else segment.end, left, &stopped)
            found += batches
            after = batches[-1].last_zxid
            left -= stopped - <int64_t> batches[0].offset
            if after != segment.last_zxid:
                if len(self.cursors) >= READERS:
                    del self.cursors[next(iter(self.cursors))]
                self.cursors[after] = stopped
        return found

    def hold(self, int64_t zxid):
        """Keep every transaction after `zxid` until the LogHold returned is released, or nobody refers to it."""
        return LogHold(self.holds, zxid)

    # Keeping house

    def purge(self, int64_t covered_zxid, *, int keep_segments=0, int64_t keep_txns=0, int64_t keep_bytes=0):
        """Recycle or remove, in the background, segments with no transaction after `covered_zxid`.

        Of these, what stays: the live segment; the newest `keep_segments` others; as many of the newest as it takes
        for the log to have `keep_txns` transactions, but no more than it takes for `keep_bytes` (0: no such bound);
        what is behind the zxid of a ``hold()``. Returns the names of those that go.
        """
        cdef Segment segment
        cdef int64_t limit = min(covered_zxid, self.shared.durable_zxid), txns = 0, used = 0
        cdef Py_ssize_t going, i
        if not self.running:
            raise RuntimeError("the log is not open for appending")
        for hold in self.holds:
            limit = min(limit, <int64_t> hold.zxid)
        going = 0
        for segment in self._segments[:-1]:
            if segment.last_zxid > limit:
                break
            going += 1
        if keep_segments > 0:
            going = max(0, going - keep_segments)
        for i in range(len(self._segments) - 1, -1, -1):
            if txns >= keep_txns or (keep_bytes and used >= keep_bytes):
                break
            segment = self._segments[i]
            txns += segment.txns
            used += segment.end
            going = min(going, i)
        names = [(<Segment> segment).name for segment in self._segments[:going]]
        if names:
            self.cursors.clear()
            del self._segments[:going]
            self.preparer.retire(names)
        return names

    def truncate(self, int64_t zxid):
        """Drop every transaction after `zxid`, durably; waits for the disk.

        A crash on the way leaves a log that ends somewhere between `zxid` and its former end. What was not touched
        is not read again: it costs as much as what goes, and at most one segment that stays. Raises RuntimeError
        while anything is in flight, ValueError if `zxid` lies before ``base_zxid``, LogCorruption, OSError (which
        leaves the log unusable: restart).
        """
        cdef Segment segment
        cdef Walk walk
        cdef int64_t base = self.base_zxid
        cdef int fd
        if not self.running or self.busy() or self.first != NULL or self.refusing:
            raise RuntimeError("the log is not idle")
        if zxid >= self.stamped_zxid:
            return
        if zxid < base:
            raise ValueError(f"zxid {zxid:#x} lies before {base:#x}, where the log begins")
        self.preparer.settle()
        self.cursors.clear()
        if self.shared.live_fd >= 0:
            c_close(self.shared.live_fd)
            self.shared.live_fd = -1
        segment = self._segments[0]
        if segment.first_zxid > zxid:
            write_base(self.dir_fd, base)
            self.shared.has_base = True
        # the newest first, each for good before the next: what remains has no gap at any time
        while self._segments:
            segment = self._segments[-1]
            if segment.first_zxid <= zxid:
                break
            os.unlink(segment.name, dir_fd=self.dir_fd)
            os.fsync(self.dir_fd)
            self._segments.pop()
        if not self._segments:
            self.based = True
            self.base = base
            self._set_end(0, 0, base)
            return
        segment = self._segments.pop()
        if segment.last_zxid > zxid:
            self._shorten(segment, zxid)
        # Read it again, rather than trust what was just done.
        walk = Walk(self.directory, self.store_id, self.dir_fd)
        for _ in walk.run(None, False, [segment.name]):
            pass
        self._segments += walk.segments
        segment = self._segments[-1]
        fd = os.open(segment.name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self.dir_fd)
        self.shared.live_fd = fd
        self._set_end(segment.end, walk.chain, walk.last_zxid)

    def _shorten(self, Segment segment, int64_t zxid):
        """Replace a segment by a copy that ends with `zxid`; renamed into place: it is one or the other."""
        cdef Window window = Window(self.directory, segment.name, self.dir_fd)
        cdef const uint8_t* h
        cdef int64_t at = SEGMENT_DATA, n, first, count, size, keep
        cdef bytearray last
        cdef bytes head
        while True:
            h = window.look(at, LOG_HEADER_BYTES)
            n = get32(h + 16)
            first = <int64_t> get64(h + 24)
            count = get32(h + 20)
            if first + count - 1 > zxid:
                break
            at += aligned(LOG_HEADER_BYTES + n)
        last = bytearray()
        if first <= zxid:
            # the cut goes through a batch: keep its first transactions
            last += window.view(at, LOG_HEADER_BYTES)
            keep = 0
            for i, record in enumerate(iter_records(window.view(at + LOG_HEADER_BYTES, n))):
                if first + i > zxid:
                    break
                keep += 4 + len(record)
            last += window.view(at + LOG_HEADER_BYTES, keep)
            struct.pack_into("<II", last, 16, keep, zxid - first + 1)
            struct.pack_into("<Q", last, 0, _xxh3(memoryview(last)[8:]))
        size = (at + len(last) + 4095) & ~4095
        head = bytes(window.view(0, SEGMENT_HEADER_BYTES))
        fields = SEGMENT_HEADER.unpack_from(head, 8)
        head = segment_header(fields[3], fields[4], fields[5], fields[6], size, False,
                              segment.before if segment.before_known else None)
        fd = os.open("truncate.tmp", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self.dir_fd)
        with os.fdopen(fd, "wb") as copy:
            copy.write(head)
            copy.write(bytes(SEGMENT_DATA - len(head)))
            n = SEGMENT_DATA
            while n < at:
                keep = min(at - n, <int64_t> WINDOW)
                copy.write(window.view(n, keep))
                n += keep
            copy.write(last)
            copy.write(bytes(size - at - len(last)))
            copy.flush()
            os.fsync(copy.fileno())
        os.rename("truncate.tmp", segment.name, src_dir_fd=self.dir_fd, dst_dir_fd=self.dir_fd)
        os.fsync(self.dir_fd)

    def close(self):
        """Wait until all that was submitted is durable, or cannot be, and stop the threads.

        Remove the event loop's reader of ``event_fd`` first. ``take_done()`` still hands over what is left.
        Closing twice is allowed.
        """
        cdef Shared* s = self.shared
        if self.closed:
            return
        self.closed = True
        if self.running:
            while True:
                with nogil:
                    pthread_mutex_lock(&s.lock)
                    while s.pushed != s.durable_count and not s.fatal_errno and not s.refused_errno:
                        pthread_cond_wait(&s.settled, &s.lock)
                    pthread_mutex_unlock(&s.lock)
                if s.fatal_errno or s.refused_errno or not self.held or self.refusing:
                    break
                while self.held and self._place(self.held[0]):
                    self.held.popleft()
                if self.held and s.pushed == s.durable_count:
                    if self.preparer.errno or self.preparer.failed is not None:
                        break
                    self.preparer.wait(0.1)
            self._stop_threads()
        if self.event_fd >= 0:
            os.close(self.event_fd)
            self.event_fd = -1
            s.event_fd = -1

    def _stop_threads(self):
        cdef Shared* s = self.shared
        if not self.running:
            return
        with nogil:
            pthread_mutex_lock(&s.lock)
            s.stop = True
            pthread_cond_signal(&s.work)
            pthread_mutex_unlock(&s.lock)
            pthread_join(s.thread, NULL)
        self.running = False
        if self.preparer is not None:
            self.preparer.stop()

    # What there is to know

    @property
    def last_zxid(self):
        """The last zxid submitted and not refused; an empty log's base. From recover() to start(): found."""
        cdef Walk walk
        if self.walk is not None:
            walk = self.walk
            return walk.last_zxid
        return self.submitted_zxid

    @property
    def base_zxid(self):
        """Everything after this zxid is in the log: the last one purged, or the state's that the log began behind."""
        cdef Segment segment
        if self._segments:
            segment = self._segments[0]
            return segment.before
        return self.base

    @property
    def durable_zxid(self):
        """The last zxid known durable, whether or not ``take_done`` reported it yet."""
        return self.shared.durable_zxid

    @property
    def pending(self):
        """True while anything is submitted but not durable."""
        return self.busy()

    @property
    def no_space(self):
        """True while no next segment can be prepared. Batches are taken while the live one has room."""
        return self.preparer is not None and self.preparer.errno != 0

    @property
    def errno(self):
        """Why there is ``no_space``, or 0."""
        return 0 if self.preparer is None else self.preparer.errno

    @property
    def thread_id(self):
        """The log thread's id, as the kernel names it; 0 before it runs."""
        return self.shared.thread_id

    @property
    def bytes_written(self):
        """Bytes made durable, headers and padding included."""
        return self.shared.bytes_written

    @property
    def fsyncs(self):
        """Calls of fdatasync for batches."""
        return self.shared.fsyncs

    @property
    def fsync_ns_total(self):
        """Nanoseconds spent in them."""
        return self.shared.fsync_ns_total

    @property
    def fsync_ns_max(self):
        """Nanoseconds of the slowest since ``reset_metrics``."""
        return self.shared.fsync_ns_max

    def reset_metrics(self):
        """Forget the slowest fdatasync and the sums."""
        pthread_mutex_lock(&self.shared.lock)
        self.shared.bytes_written = 0
        self.shared.fsyncs = 0
        self.shared.fsync_ns_total = 0
        self.shared.fsync_ns_max = 0
        pthread_mutex_unlock(&self.shared.lock)

    @property
    def segments(self):
        """The segments as SegmentInfo, oldest first; the last one is live."""
        cdef Segment s
        return [SegmentInfo(os.path.join(self.directory, s.name), s.first_zxid, s.last_zxid, s.size)
                for s in self._segments]


def _cut(directory, dir_fd, torn):
    """Make a torn tail unreadable for ever, also as part of what will be written around it."""
    fd = os.open(torn.name, os.O_RDWR | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        size = os.fstat(fd).st_size
        _logger.warning("%s: cut at byte %d: a crash left an incomplete batch behind it",
                        os.path.join(directory, torn.name), torn.offset)
        # From the end to the front: the place where the log ends is the last to change.
        for start in sorted({torn.offset, *torn.headers}, reverse=True):
            n = min(LOG_HEADER_BYTES, size - start)
            if n > 0:
                os.pwrite(fd, bytes(n), start)
        os.fdatasync(fd)
    finally:
        os.close(fd)
