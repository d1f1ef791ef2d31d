# cython: wraparound=True
"""The transaction log: batches of transactions, made durable by a thread that never takes the GIL.

A *batch* is a contiguous range of zxids with one checksum, written by one ``pwrite`` and made durable by one
``fdatasync`` (group commit). The event loop's thread fills the next batch while the log thread works on those
submitted; an eventfd tells the loop that something is durable.

On disk
-------
One directory, three kinds of files (mode 0600):

``log.%016x``    a segment, named by its first zxid
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
    64 u32 1: recycled, 0: was all zeros              40 u64 segment id
    68     zeros                                      48 u64 checksum of the batch before (the chain)
                                                      56 u64 durable_to
                                                      64 u64 this batch's own offset in the file

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
log thread; the loop only fills in the header. New segments come from the preparer, an ordinary Python thread.
"""

import errno as _errno
import logging
import os
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from xxhash import xxh3_64_intdigest as _xxh3

from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EDQUOT, EEXIST, EFBIG, EINTR, EIO, ENOENT, ENOSPC
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset, strncpy

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <endian.h>
    #include <fcntl.h>
    #include <pthread.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/eventfd.h>
    #include <time.h>
    #include <unistd.h>

    static inline void put16(uint8_t *p, uint16_t v) { v = htole16(v); memcpy(p, &v, 2); }
    static inline void put32(uint8_t *p, uint32_t v) { v = htole32(v); memcpy(p, &v, 4); }
    static inline void put64(uint8_t *p, uint64_t v) { v = htole64(v); memcpy(p, &v, 8); }
    static inline uint16_t get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return le16toh(v); }
    static inline uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return le32toh(v); }
    static inline uint64_t get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return le64toh(v); }

    static inline int64_t monotonic_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }

    static inline void sleep_ns(int64_t ns) {
        struct timespec t = { ns / 1000000000, ns % 1000000000 };
        nanosleep(&t, NULL);
    }

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
    void put16(uint8_t*, int) nogil
    void put32(uint8_t*, uint32_t) nogil
    void put64(uint8_t*, uint64_t) nogil
    int get16(const uint8_t*) nogil
    uint32_t get32(const uint8_t*) nogil
    uint64_t get64(const uint8_t*) nogil
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

cdef enum:
    SEGMENT_HEADER_BYTES = 96
    SEGMENT_DATA = 4096  # where the first batch of a segment starts
    FORMAT_VERSION = 1
    BATCH_MAGIC = 0x425A4B46  # "FKZB" in the file
    SEGMENT_MAGIC = 0x535A4B46  # "FKZS"
    SMALLEST_SEGMENT = 64 * 1024
    FIRST_SEGMENT = 1024 * 1024  # a new log's first segment: small, so that its first write waits less
    FIRST_CAPACITY = 16 * 1024
    KEEP_CAPACITY = 1024 * 1024
    LARGEST_PAYLOAD = 0x7FFF0000
    WINDOW = 1024 * 1024
    PREPARE_PIECE = 2 * 1024 * 1024
    SPARES = 2

_SEGMENT_HEADER = struct.Struct("<IHH16sQqQQI28x")  # all but the checksum in front
_BATCH_MARK = struct.pack("<IHH", BATCH_MAGIC, FORMAT_VERSION, LOG_HEADER_BYTES)
# What an open(), a write or a rename may say when the machine has run short of something that can come back.
_RETRYABLE = frozenset(
    (_errno.ENOSPC, _errno.EDQUOT, _errno.EFBIG, _errno.EMFILE, _errno.ENFILE, _errno.ENOMEM)
)
_CREATE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_logger = logging.getLogger("fastzk.log")

SEGMENT_BYTES = 64 * 1024 * 1024
HEADER_BYTES = LOG_HEADER_BYTES


class LogCorruption(Exception):
    """The log on disk is damaged where it once was durable. Nothing was changed.

    ``path``: the file; ``offset``: the byte in it where what is good ends; ``reason``: what is wrong there.
    """

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: at byte {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


class LogFailed(Exception):
    """The log can make nothing durable any more; the server has to end. ``errno`` and ``what`` failed."""

    def __init__(self, errno: int, what: str) -> None:
        super().__init__(f"{what}: {os.strerror(errno)}")
        self.errno = errno
        self.what = what


class RecoveredBatch(NamedTuple):
    """One verified batch as read back; ``payload`` stays valid for as long as it is referred to."""

    first_zxid: int
    count: int
    epoch: int
    payload: memoryview
    path: str
    offset: int


class SegmentInfo(NamedTuple):
    """One segment of the open log; ``last_zxid`` is below ``first_zxid`` while it is empty."""

    path: str
    first_zxid: int
    last_zxid: int
    size: int


@dataclass
class LogReport:
    """What ``scan()`` found. ``torn_tail`` is (path, offset). Nothing is wrong if ``corruption`` is None."""

    directory: str
    store_id: bytes | None = None
    segments: int = 0
    batches: int = 0
    txns: int = 0
    first_zxid: int = 0
    last_zxid: int = 0
    bytes: int = 0
    torn_tail: tuple[str, int] | None = None
    corruption: LogCorruption | None = None


# --- Faults, for tests. Costs one comparison per system call when unset. ------------------------------------

cdef struct Faults:
    int fail_fsync_at  # counts down; the one that reaches 0 fails
    int fail_fsync_errno
    int fail_write_at
    int fail_write_errno
    int fail_rename_errno
    int fail_prepare_errno
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
    faults.fail_prepare_errno = fail_prepare_errno
    faults.fsync_delay_ns = fsync_delay_ns


# --- The log thread. Nothing in this part may touch a Python object. ----------------------------------------

cdef struct Shared:
    pthread_mutex_t lock  # held for a few instructions only, by either side
    pthread_cond_t work
    pthread_cond_t settled
    pthread_t thread
    int event_fd
    int dir_fd
    bint stop
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

cdef inline size_t _aligned(size_t n) noexcept nogil:
    return (n + 7) & ~<size_t> 7


cdef uint64_t _digest(const uint8_t* data, Py_ssize_t size) except? 0:
    return <uint64_t> _xxh3(PyMemoryView_FromMemory(<char*> data, size, PyBUF_READ))


cdef class Batch:
    """A contiguous range of transactions on its way into the log.

    Fill it (``append`` from Python; ``reserve`` and the fields from Cython), ``submit`` it, and leave it
    alone until ``take_done`` hands it back; then ``reset`` makes it ready for the next.
    """

    def __dealloc__(self):
        free(self.buf)

    cdef uint8_t* reserve(self, size_t n) except NULL:
        """Where `n` more payload bytes may be written; the caller adds them to ``length`` when it did.

        Pointers from earlier calls are void. Raises MemoryError, and RuntimeError while submitted.
        """
        cdef size_t wanted = self.length + n, capacity
        cdef uint8_t* grown
        if self.submitted:
            raise RuntimeError("the batch is being written")
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
        if self.submitted:
            raise RuntimeError("the batch is being written")
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

    def adopt(self, int64_t first_zxid, int64_t last_zxid, uint32_t count, const uint8_t[::1] payload not None):
        """Fill it, while empty, with transactions that another server has put into a batch.

        Raises ValueError if the numbers do not fit each other or the records do not fill `payload`.
        """
        cdef size_t n = payload.shape[0], at = 0
        cdef uint32_t records = 0
        cdef uint8_t* to
        if self.count or self.submitted:
            raise ValueError("the batch is not empty")
        if count == 0 or last_zxid - first_zxid != <int64_t> count - 1 or first_zxid >> 32 != last_zxid >> 32:
            raise ValueError(f"{count} transactions from {first_zxid:#x} to {last_zxid:#x}")
        while n - at >= 4 and get32(&payload[at]) <= n - at - 4:
            at += 4 + get32(&payload[at])
            records += 1
        if at != n or records != count:
            raise ValueError(f"{records} records in {at} of {n} bytes, not {count}")
        to = self.reserve(n)
        memcpy(to, &payload[0], n)
        self.length = n
        self.first_zxid = first_zxid
        self.last_zxid = last_zxid
        self.count = count

    def reset(self):
        """Empty it for reuse. Raises RuntimeError while submitted."""
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

    def __repr__(self):
        return f"<Batch {self.first_zxid:#x}..{self.last_zxid:#x}, {self.length} bytes>"


def iter_records(payload):
    """The transactions of a batch's `payload`, as views into it. Raises ValueError if it is malformed."""
    view = memoryview(payload).cast("B")
    cdef Py_ssize_t size = len(view), at = 0, n
    while at < size:
        if size - at < 4:
            raise ValueError(f"record length cut off at byte {at} of {size}")
        n = int.from_bytes(view[at:at + 4], "little")
        at += 4
        if n > size - at:
            raise ValueError(f"record of {n} bytes at byte {at} of {size}")
        yield view[at:at + n]
        at += n


# --- Reading ------------------------------------------------------------------------------------------------

cdef class _Segment:
    """What is known of one segment."""

    cdef str name
    cdef int64_t first_zxid
    cdef int64_t last_zxid
    cdef int64_t size
    cdef uint64_t segment_id

    def __init__(self, str name, int64_t first_zxid, int64_t last_zxid, int64_t size, uint64_t segment_id):
        self.name = name
        self.first_zxid = first_zxid
        self.last_zxid = last_zxid
        self.size = size
        self.segment_id = segment_id


cdef class _Window:
    """A segment file read in large pieces. Each piece is a bytes object, so views of it stay valid."""

    cdef int fd
    cdef readonly str path
    cdef readonly int64_t size
    cdef int64_t start
    cdef bytes data

    def __cinit__(self):
        self.fd = -1

    def __init__(self, str directory, str name, int dir_fd):
        self.path = os.path.join(directory, name)
        self.data = b""
        try:
            self.fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
            self.size = os.fstat(self.fd).st_size
        except OSError as error:
            raise LogCorruption(self.path, 0, f"cannot be opened: {error.strerror}") from error

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)

    cdef const uint8_t* look(self, int64_t offset, int64_t n) except NULL:
        """`n` bytes at `offset`, which must lie within the file; valid until the next call."""
        cdef int64_t wanted
        if offset < self.start or offset + n > self.start + <int64_t> len(self.data):
            assert offset >= 0 and offset + n <= self.size
            wanted = min(max(n, <int64_t> WINDOW), self.size - offset)
            try:
                data = os.pread(self.fd, wanted, offset)
                while len(data) < wanted:
                    more = os.pread(self.fd, wanted - len(data), offset + len(data))
                    if not more:
                        raise OSError(_errno.EIO, "the file became shorter")
                    data += more
            except OSError as error:
                raise LogCorruption(self.path, offset, f"cannot be read: {error.strerror}") from error
            self.data = data
            self.start = offset
        return <const uint8_t*> PyBytes_AS_STRING(self.data) + (offset - self.start)

    cdef object view(self, int64_t offset, int64_t n):
        self.look(offset, n)
        return memoryview(self.data)[offset - self.start:offset - self.start + n]

    cdef list find(self, bytes needle, int64_t begin):
        """Every offset from `begin` on where `needle` stands."""
        cdef int64_t at = begin, n, overlap = len(needle) - 1
        cdef Py_ssize_t hit
        found = []
        while at + overlap < self.size:
            n = min(<int64_t> WINDOW, self.size - at)
            self.look(at, n)
            hit = self.data.find(needle, at - self.start, at - self.start + n)
            while hit >= 0:
                found.append(self.start + hit)
                hit = self.data.find(needle, hit + 1, at - self.start + n)
            at += max(n - overlap, <int64_t> 1)
        return found


cdef bint _plausible(_Window window, int64_t at) except -1:
    """A complete, intact batch stands at `at` and was written there, whatever its place in the chain."""
    cdef const uint8_t* h
    cdef int64_t n
    if at & 7 or at < SEGMENT_DATA or at + LOG_HEADER_BYTES > window.size:
        return False
    h = window.look(at, LOG_HEADER_BYTES)
    if get32(h + 8) != BATCH_MAGIC or get64(h + 64) != <uint64_t> at:
        return False
    n = get32(h + 16)
    if n > window.size - at - LOG_HEADER_BYTES:
        return False
    h = window.look(at, LOG_HEADER_BYTES + n)
    return _digest(h + 8, LOG_HEADER_BYTES - 8 + n) == get64(h)


def _segment_header(bytes store_id, uint64_t segment_id, int64_t first_zxid, uint64_t chain, int64_t size,
                    bint recycled):
    cdef bytes fields = _SEGMENT_HEADER.pack(SEGMENT_MAGIC, FORMAT_VERSION, SEGMENT_HEADER_BYTES, store_id,
                                             segment_id, first_zxid, chain, size, recycled)
    return struct.pack("<Q", _xxh3(fields)) + fields


def _segment_names(dir_fd):
    """The segments of a directory, oldest first."""
    names = []
    for name in os.listdir(dir_fd):
        if len(name) == 20 and name.startswith("log."):
            try:
                if name == f"log.{int(name[4:], 16):016x}":
                    names.append(name)
            except ValueError:
                continue
    return sorted(names)


class _Torn(NamedTuple):
    """A tail that never was complete, at `offset` of segment `name`; `headers`: the batches begun there."""

    name: str
    offset: int
    headers: list[int]


cdef class _Walk:
    """One read-only pass over all segments. After it ended, its fields describe the log's end."""

    cdef str directory
    cdef bytes store_id  # None: that of the first segment
    cdef int dir_fd
    cdef list segments  # of _Segment, those with batches
    cdef list empty  # names of newest segments without any
    cdef int64_t last_zxid
    cdef uint64_t chain
    cdef int64_t end  # offset behind the last batch of the last segment
    cdef int64_t durable_to  # what that batch says
    cdef object torn
    cdef int64_t first_zxid
    cdef int64_t batches
    cdef int64_t txns
    cdef int64_t payload_bytes

    def __init__(self, str directory, store_id, int dir_fd):
        self.directory = directory
        self.store_id = store_id
        self.dir_fd = dir_fd
        self.segments = []
        self.empty = []

    def run(self, after, bint records=False):
        """Yield the batches that reach beyond zxid `after`; None: all, wherever they start.

        `records`: also check that each payload divides into as many records as the batch counts.
        """
        cdef _Window window
        cdef _Segment segment
        cdef int64_t at, n, first, last, beyond = -1 if after is None else after
        cdef const uint8_t* h
        cdef bint newest
        cdef str reason
        names = _segment_names(self.dir_fd)
        checked = after is None
        for i, name in enumerate(names):
            newest = i == len(names) - 1
            window = _Window(self.directory, name, self.dir_fd)
            segment = self._enter(window, name, newest)
            if segment is None:
                self.empty.append(name)
                break
            at = SEGMENT_DATA
            while True:
                reason = self._problem(window, segment, at)
                if reason is not None:
                    break
                h = window.look(at, LOG_HEADER_BYTES)
                n = get32(h + 16)
                first = <int64_t> get64(h + 24)
                last = first + get32(h + 20) - 1
                self.chain = get64(h)
                self.durable_to = <int64_t> get64(h + 56)
                if self.batches == 0:
                    self.first_zxid = first
                self.last_zxid = last
                segment.last_zxid = last
                self.batches += 1
                self.txns += last - first + 1
                self.payload_bytes += n
                if last > beyond:
                    payload = window.view(at + LOG_HEADER_BYTES, n)
                    if records:
                        self._count_records(window, at, payload, last - first + 1)
                    if not checked:
                        checked = True
                        if first > beyond + 1 and not _new_epoch(first, beyond):
                            raise LogCorruption(
                                window.path, at, f"missing transactions: the log continues with zxid "
                                f"{first:#x}, wanted was what follows {beyond:#x}")
                    yield RecoveredBatch(first, last - first + 1, first >> 32, payload, window.path, at)
                at += _aligned(LOG_HEADER_BYTES + n)
            if newest:
                self._judge_tail(window, segment, at, reason)
            elif segment.last_zxid < segment.first_zxid:
                raise LogCorruption(window.path, at, f"no good batch in an older segment: {reason}")
            else:
                self._join(window, at, reason, names[i + 1])
            if segment.last_zxid < segment.first_zxid:
                self.empty.append(name)
            else:
                self.segments.append(segment)
                self.end = at
        if self.batches and after is not None and beyond > self.last_zxid:
            segment = self.segments[-1]
            raise LogCorruption(
                os.path.join(self.directory, segment.name), self.end,
                f"the log ends with zxid {self.last_zxid:#x}, but {beyond:#x} was durable once")

    cdef _Segment _enter(self, _Window window, str name, bint newest):
        """Check a segment's header. None: a torn creation, which holds nothing."""
        cdef int64_t named = int(name[4:], 16), first
        cdef uint64_t chain
        if named < 0:
            raise LogCorruption(window.path, 0, "not the name of a zxid")
        head = b""
        if window.size >= SEGMENT_HEADER_BYTES:
            head = bytes(window.view(0, SEGMENT_HEADER_BYTES))
        if not head or _xxh3(head[8:]) != int.from_bytes(head[:8], "little"):
            if newest and not self._holds_batches(window, named):
                return None
            raise LogCorruption(window.path, 0, "the segment's header is damaged")
        magic, version, length, store_id, segment_id, first, chain, _size, _recycled = \
            _SEGMENT_HEADER.unpack_from(head, 8)
        if magic != SEGMENT_MAGIC:
            raise LogCorruption(window.path, 0, "not a segment of a transaction log")
        if version != FORMAT_VERSION or length != SEGMENT_HEADER_BYTES:
            raise LogCorruption(window.path, 0, f"format version {version}, not {FORMAT_VERSION}")
        if self.store_id is None:
            self.store_id = store_id
        if store_id != self.store_id:
            raise LogCorruption(window.path, 0, f"belongs to another store: {store_id.hex()}, "
                                f"not {self.store_id.hex()}")
        if first != named:
            raise LogCorruption(window.path, 0, f"the segment of zxid {first:#x} under another's name")
        if self.segments:
            if chain != self.chain:
                raise LogCorruption(window.path, 0, "does not continue the segment before it: one is missing")
        else:
            self.chain = chain
        return _Segment(name, first, first - 1, window.size, segment_id)

    cdef bint _holds_batches(self, _Window window, int64_t named) except -1:
        cdef int64_t at
        for hit in window.find(_BATCH_MARK, SEGMENT_DATA + 8):
            at = hit - 8
            # a recycled file is full of older batches
            if _plausible(window, at) and <int64_t> get64(window.look(at, LOG_HEADER_BYTES) + 24) >= named:
                return True
        return False

    cdef str _problem(self, _Window window, _Segment segment, int64_t at):
        """Why what stands at `at` is not the next batch, or None if it is."""
        cdef const uint8_t* h
        cdef int64_t n, first, count
        cdef bint follows
        if at + LOG_HEADER_BYTES > window.size:
            return "end of the file"
        h = window.look(at, LOG_HEADER_BYTES)
        if get32(h + 8) != BATCH_MAGIC:
            return "no batch here"
        if get64(h + 40) != segment.segment_id:
            return "a batch of another segment"
        if get16(h + 12) != FORMAT_VERSION or get16(h + 14) != LOG_HEADER_BYTES:
            return f"format version {get16(h + 12)} in a batch"
        n = get32(h + 16)
        if n > window.size - at - LOG_HEADER_BYTES:
            return "the batch reaches beyond the end of the file"
        if get64(h + 48) != self.chain:
            return "the batch does not continue the one before it"
        if get64(h + 64) != <uint64_t> at:
            return "a batch that was written elsewhere"
        h = window.look(at, LOG_HEADER_BYTES + n)
        if _digest(h + 8, LOG_HEADER_BYTES - 8 + n) != get64(h):
            return "wrong checksum"
        # From here on the batch is as it was written: what does not fit was never a torn write.
        first = <int64_t> get64(h + 24)
        count = get32(h + 20)
        if count == 0 or first < 0 or get32(h + 32) != <uint64_t> first >> 32 \
                or (first + count - 1) >> 32 != first >> 32 or get64(h + 56) > <uint64_t> at:
            raise LogCorruption(window.path, at, "a batch with impossible numbers")
        follows = not self.batches or first == self.last_zxid + 1 or _new_epoch(first, self.last_zxid)
        if segment.last_zxid < segment.first_zxid:
            follows = follows and first == segment.first_zxid
        if not follows:
            raise LogCorruption(window.path, at, f"zxid {first:#x} does not follow {self.last_zxid:#x}")
        return None

    def _count_records(self, _Window window, at, payload, count):
        try:
            found = sum(1 for _ in iter_records(payload))
        except ValueError as error:
            raise LogCorruption(window.path, at, str(error)) from error
        if found != count:
            raise LogCorruption(window.path, at, f"{found} records in a batch of {count}")

    cdef _join(self, _Window window, int64_t at, str reason, str following):
        """The chain must lead from the end of this segment into the following one."""
        cdef _Window next_window = _Window(self.directory, following, self.dir_fd)
        cdef bytes head
        if next_window.size < SEGMENT_HEADER_BYTES:
            return  # for _enter() to judge
        head = bytes(next_window.view(0, SEGMENT_HEADER_BYTES))
        if _xxh3(head[8:]) != int.from_bytes(head[:8], "little"):
            return
        if head[16:32] != self.store_id or int.from_bytes(head[40:48], "little") != int(following[4:], 16):
            return
        if int.from_bytes(head[48:56], "little") != self.chain:
            raise LogCorruption(window.path, at, f"{reason}; {following} continues from another batch: one "
                                "here is damaged, or a segment is missing")

    cdef _judge_tail(self, _Window window, _Segment segment, int64_t at, str reason):
        """Is what stands behind the last good batch of the newest segment nothing, torn, or damage?"""
        cdef int64_t start
        cdef bytes mark = (<object> segment.segment_id).to_bytes(8, "little")
        headers = []
        for hit in window.find(mark, at + 40):
            start = hit - 40
            if start & 7:
                continue
            headers.append(start)
            if _plausible(window, start) and \
                    <int64_t> get64(window.look(start, LOG_HEADER_BYTES) + 56) > at:
                raise LogCorruption(window.path, at, f"{reason}; yet the batch at {start} was made durable")
        n = max(0, min(<int64_t> LOG_HEADER_BYTES, window.size - at))
        fresh = not window.look(64, 4)[0]
        remains = bytes(window.view(at, n)) if n else b""
        if headers or (fresh and any(remains)) \
                or <int64_t> get64(window.look(0, SEGMENT_HEADER_BYTES) + 56) > window.size:
            self.torn = _Torn(segment.name, at, headers)


cdef inline bint _new_epoch(int64_t first, int64_t before) noexcept nogil:
    return <uint32_t> first == 1 and (first >> 32) > (before >> 32)


def scan(directory, bytes store_id=None):
    """Read the log in `directory` from end to end and report; changes nothing, never raises for bad content.

    `store_id`: what every segment must carry; None: what the first one does. Raises OSError if the directory
    cannot be read.
    """
    cdef _Walk walk
    directory = os.fspath(directory)
    report = LogReport(directory)
    dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        walk = _Walk(directory, store_id, dir_fd)
        try:
            for _ in walk.run(None, True):
                pass
        except LogCorruption as error:
            report.corruption = error
        report.segments = len(_segment_names(dir_fd))
    finally:
        os.close(dir_fd)
    report.store_id = walk.store_id
    report.batches = walk.batches
    report.txns = walk.txns
    report.first_zxid = walk.first_zxid
    report.last_zxid = walk.last_zxid
    report.bytes = walk.payload_bytes
    if walk.torn is not None:
        report.torn_tail = (os.path.join(directory, walk.torn.name), walk.torn.offset)
    elif walk.empty:
        report.torn_tail = (os.path.join(directory, walk.empty[0]), 0)
    return report


# --- Preparing and recycling segments -----------------------------------------------------------------------

class _Spare(NamedTuple):
    name: str
    fd: int
    size: int
    recycled: bool


class _Stopping(Exception):
    """The log is being closed while a segment is half prepared."""


class _Preparer:
    """Keeps the next segment ready and takes purged ones out of the way, in a thread of its own.

    ``errno`` is not 0 while no segment can be prepared for want of space (tried again every second);
    ``failed`` is set once, for ever, by any other error. Every change rings the log's eventfd.
    """

    RETRY_SECONDS = 1.0

    def __init__(
        self, dir_fd: int, event_fd: int, segment_bytes: int, spares: list[str], quick: bool
    ) -> None:
        self.dir_fd = os.dup(dir_fd)
        self.event_fd = os.dup(event_fd)
        self.segment_bytes = segment_bytes
        self.spares = spares
        self.retired = deque()
        self.ready = None
        self.wanted = min(FIRST_SEGMENT, segment_bytes) if quick else segment_bytes
        self.urgent = quick
        self.errno = 0
        self.failed = None
        self.retry_at = 0.0
        self.stopping = False
        self.changed = threading.Condition(threading.Lock())
        self.thread = threading.Thread(target=self.run, name="fastzk-log-preparer", daemon=True)
        self.thread.start()

    # called by the loop's thread

    def take(self, minimum: int) -> _Spare | None:
        """The prepared segment if it has at least `minimum` bytes, or None; either way the next is begun."""
        with self.changed:
            spare = self.ready
            self.wanted = self.segment_bytes
            self.ready = None
            if spare is not None and spare.size < minimum:
                os.close(spare.fd)
                self.retired.append(spare.name)
                spare = None
            if spare is None:
                self.wanted = max(self.wanted, (minimum + 4095) & ~4095)
                self.urgent = True
            self.changed.notify_all()
            return spare

    def forget_wish(self) -> None:
        """The batch that needed an unusual size was refused."""
        with self.changed:
            self.wanted = self.segment_bytes

    def put_back(self, name: str, errno: int) -> None:
        """A segment that could not be entered for want of space."""
        with self.changed:
            if name:
                self.retired.append(name)
            self.errno = errno
            self.retry_at = time.monotonic() + self.RETRY_SECONDS
            self.changed.notify_all()

    def retire(self, names: list[str]) -> None:
        """Recycle or remove these, in this order: a crash in between must not leave a gap."""
        with self.changed:
            self.retired.extend(names)
            self.retry_at = 0.0
            self.changed.notify_all()

    def settle(self) -> None:
        """Wait until all that was retired is gone. Raises OSError if that does not come to pass."""
        with self.changed:
            if not self.changed.wait_for(lambda: not self.retired or self.failed is not None, 30):
                raise OSError(_errno.ETIMEDOUT, "log segments are still being recycled")

    def wait(self, seconds: float) -> None:
        """Until a segment is ready or cannot be had, or so many seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.ready or self.errno or self.failed, seconds)

    def stop(self) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        if threading.current_thread() is not self.thread:
            self.thread.join()

    # in the thread

    def run(self) -> None:
        warned = 0
        while self._wait_for_work():
            try:
                if self.retired:
                    self._retire(self.retired[0])
                elif self.ready is None:
                    self._prepare()
                error = 0
            except OSError as problem:
                error = problem.errno or _errno.EIO
                if error not in _RETRYABLE:
                    self.failed = (error, "preparing a log segment")
                    self._announce(error)
                    break
                if error != warned:
                    _logger.warning("no log segment can be prepared: %s; trying again every %g s",
                                    os.strerror(error), self.RETRY_SECONDS)
            except _Stopping:
                break
            except BaseException:
                # the thread must not die in silence
                self.failed = (_errno.EIO, "preparing a log segment (a defect, see the traceback)")
                _logger.exception("the preparer of log segments failed")
                self._announce(_errno.EIO)
                break
            if not error and self.ready is None:
                with self.changed:
                    self.retry_at = 0.0  # a segment was retired: whether that is room enough is to be seen
                    self.changed.notify_all()
                continue
            if warned and not error:
                _logger.warning("log segments can be prepared again")
            warned = error
            self._announce(error)
        if self.ready is not None:
            os.close(self.ready.fd)
        os.close(self.dir_fd)
        os.close(self.event_fd)

    def _wait_for_work(self) -> bool:
        with self.changed:
            while not self.stopping:
                left = self.retry_at - time.monotonic()
                if self.retired or self.ready is None or self.errno:
                    if left <= 0:
                        return True
                    self.changed.wait(left)
                else:
                    self.changed.wait()
            return False

    def _announce(self, error: int) -> None:
        with self.changed:
            self.errno = error
            self.retry_at = time.monotonic() + self.RETRY_SECONDS if error else 0.0
            self.changed.notify_all()
        os.eventfd_write(self.event_fd, 1)

    def _retire(self, name: str) -> None:
        try:
            size = os.stat(name, dir_fd=self.dir_fd).st_size
        except FileNotFoundError:
            size = -1
        if size == self.segment_bytes and len(self.spares) + (self.ready is not None) < SPARES:
            spare = name
            if not name.startswith("spare."):
                spare = f"spare.{os.urandom(8).hex()}"
                os.rename(name, spare, src_dir_fd=self.dir_fd, dst_dir_fd=self.dir_fd)
                os.fsync(self.dir_fd)
            self.spares.append(spare)
        elif size >= 0:
            os.unlink(name, dir_fd=self.dir_fd)
            os.fsync(self.dir_fd)
        with self.changed:
            self.retired.popleft()
            self.changed.notify_all()

    def _prepare(self) -> None:
        size = self.wanted
        if self.spares and size <= self.segment_bytes:
            name = self.spares.pop(0)
            fd = os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self.dir_fd)
            # a batch that starts within a block has to read that block first, if it is not in memory
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
            spare = _Spare(name, fd, os.fstat(fd).st_size, True)
        else:
            spare = self._create(size)
        with self.changed:
            self.ready = spare
            self.urgent = False

    def _create(self, size: int) -> _Spare:
        name = f"spare.{os.urandom(8).hex()}"
        if faults.fail_prepare_errno:
            raise OSError(faults.fail_prepare_errno, "injected")
        fd = os.open("prepare.tmp", _CREATE, 0o600, dir_fd=self.dir_fd)
        try:
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError as problem:
                if problem.errno not in (_errno.EOPNOTSUPP, _errno.EINVAL):
                    raise
            zeros = memoryview(bytes(PREPARE_PIECE))
            at = 0
            while at < size:
                if self.stopping:
                    raise _Stopping
                began = time.monotonic()
                end = min(size, at + PREPARE_PIECE)
                while at < end:
                    at += os.pwrite(fd, zeros[:end - at], at)
                os.fdatasync(fd)
                with self.changed:
                    if not self.urgent and not self.stopping:
                        # leave the disk to the live log for as long as this piece has used it
                        self.changed.wait(min(time.monotonic() - began, 0.05))
            os.fsync(fd)
            os.rename("prepare.tmp", name, src_dir_fd=self.dir_fd, dst_dir_fd=self.dir_fd)
            os.fsync(self.dir_fd)
        except BaseException:
            os.close(fd)
            os.unlink("prepare.tmp", dir_fd=self.dir_fd)  # at once: it may be what fills the disk
            raise
        return _Spare(name, fd, size, False)


# --- The log ------------------------------------------------------------------------------------------------

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
        transactions are missing behind `after_zxid` (or it lies beyond the end of a log that is not empty).
        """
        cdef _Walk walk
        if self.running or self.closed:
            raise RuntimeError("the log was started already")
        walk = _Walk(self.directory, self.store_id, self.dir_fd)
        self.walk = None
        yield from walk.run(int(after_zxid))
        self.walk = walk

    def start(self):
        """Cut a torn tail, make what is left durable, open for appending.

        Verifies the log first unless ``recover()`` has done so to its end. Raises LogCorruption, OSError.
        """
        cdef _Walk walk
        cdef _Segment live
        cdef int64_t began, size
        cdef int fd
        if self.running or self.closed:
            raise RuntimeError("the log was started already")
        walk = self.walk
        if walk is None:
            walk = _Walk(self.directory, self.store_id, self.dir_fd)
            for _ in walk.run(None):
                pass
        self.walk = None
        spares = []
        for name in os.listdir(self.dir_fd):
            if name.startswith("spare.") or name in ("prepare.tmp", "truncate.tmp"):
                size = os.stat(name, dir_fd=self.dir_fd).st_size
                if name.startswith("spare.") and size == self.segment_bytes and len(spares) < SPARES:
                    spares.append(name)
                else:
                    os.unlink(name, dir_fd=self.dir_fd)
        if walk.torn is not None and walk.torn.name not in walk.empty:
            _cut(self.directory, self.dir_fd, walk.torn)
        for name in walk.empty:
            _logger.warning("%s: removed: a crash left it without a single whole batch",
                            os.path.join(self.directory, name))
            os.unlink(name, dir_fd=self.dir_fd)
        os.fsync(self.dir_fd)
        if walk.segments:
            live = walk.segments[-1]
            fd = os.open(live.name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self.dir_fd)
            try:
                # What no batch witnesses as durable may be in memory only, and if an fdatasync failed before
                # the restart, memory would pass for clean: write it again, so that this fdatasync means
                # something.
                began = max(walk.durable_to, <int64_t> SEGMENT_DATA)
                data = os.pread(fd, walk.end - began, began)
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
        self._set_end(walk.end, walk.chain if walk.segments else 0, walk.last_zxid)
        if start_thread(&self.shared.thread, _run, self.shared) != 0:
            raise OSError(_errno.EAGAIN, "cannot start the log thread")
        self.running = True
        self.preparer = _Preparer(self.dir_fd, self.event_fd, self.segment_bytes, spares,
                                  not self._segments and not spares)

    def _set_end(self, int64_t end, uint64_t chain, int64_t zxid):
        """All of the log is durable and ends here. The log thread must be idle."""
        cdef _Segment live
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
        zxid is the next one, or number 1 of a newer epoch; an empty log may start anywhere); RuntimeError if
        the log is not started.
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
            if first != self.submitted_zxid + 1 and not _new_epoch(first, self.submitted_zxid) \
                    and (self._segments or self.held):
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
        cdef int64_t need = _aligned(LOG_HEADER_BYTES + batch.length), durable_to
        cdef Rotation* rotation = NULL
        cdef Job* job = &batch.job
        cdef Shared* s = self.shared
        cdef _Segment live
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
        self.position += need
        self.stamped_zxid = batch.last_zxid
        live = self._segments[-1]
        live.last_zxid = batch.last_zxid
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
        self.chain = _digest(h + 8, LOG_HEADER_BYTES - 8 + batch.length)
        put64(h, self.chain)
        memset(h + LOG_HEADER_BYTES + batch.length, 0, 8)
        return 0

    cdef int _rotate(self, int64_t first_zxid, Rotation** result, object spare) except -1:
        """Make `spare` the live segment, as far as the loop is concerned."""
        cdef uint64_t segment_id = int.from_bytes(os.urandom(8), "little")
        cdef str name = f"log.{first_zxid:016x}"
        cdef bytes header = _segment_header(self.store_id, segment_id, first_zxid, self.chain, spare.size,
                                            spare.recycled)
        cdef bytes old_name = os.fsencode(spare.name), new_name = os.fsencode(name)
        cdef Rotation* rotation = <Rotation*> calloc(1, sizeof(Rotation))
        if rotation == NULL:
            raise MemoryError()
        rotation.fd = spare.fd
        rotation.segment_id = segment_id
        memcpy(rotation.header, PyBytes_AS_STRING(header), SEGMENT_HEADER_BYTES)
        strncpy(rotation.old_name, PyBytes_AS_STRING(old_name), sizeof(rotation.old_name) - 1)
        strncpy(rotation.new_name, PyBytes_AS_STRING(new_name), sizeof(rotation.new_name) - 1)
        self._segments.append(_Segment(name, first_zxid, first_zxid - 1, spare.size, segment_id))
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
        cdef _Segment live
        cdef int error
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
                    c_close(job.rotation.fd)
                    self._segments.pop()
                    self.preparer.put_back((<bytes> job.rotation.old_name).decode(), error)
                free(job.rotation)
                job.rotation = NULL
            batch.submitted = False
            refused.append(batch)
            Py_DECREF(batch)
            job = following
        self.live_size = 0
        if self._segments:
            live = self._segments[-1]
            self.live_size = live.size
            live.last_zxid = max(live.first_zxid - 1, self.stamped_zxid)
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

    # Keeping house

    def purge(self, int64_t covered_zxid, *, int keep_segments=0):
        """Recycle or remove, in the background, segments with no transaction after `covered_zxid`.

        The live segment stays, and of the others the newest `keep_segments` covered ones. Returns the names
        of those that go.
        """
        cdef _Segment segment
        cdef int64_t limit = min(covered_zxid, self.shared.durable_zxid)
        if not self.running:
            raise RuntimeError("the log is not open for appending")
        covered = []
        for segment in self._segments[:-1]:
            if segment.last_zxid > limit:
                break
            covered.append(segment)
        if keep_segments > 0:
            covered = covered[:-keep_segments]
        if covered:
            segment = covered[-1]
            self.purged_zxid = segment.last_zxid
            del self._segments[:len(covered)]
        names = [(<_Segment> segment).name for segment in covered]
        if names:
            self.preparer.retire(names)
        return names

    def read(self, int64_t after_zxid, int64_t max_bytes):
        """Read batches back that are durable: those behind the batch end `after_zxid`, about `max_bytes` of payload
        and at least one, if there is one. Each is verified. Reading on where the last call ended costs no search.

        Raises LogCorruption if one cannot be read as it was written, KeyError if `after_zxid` was purged.
        """
        cdef _Segment segment
        cdef _Window window
        cdef const uint8_t* h
        cdef int64_t at, n, first, count, taken = 0
        cdef Py_ssize_t i = 0
        cdef int64_t end = self.shared.durable_zxid
        if after_zxid < self.purged_zxid:
            raise KeyError(f"zxid {after_zxid:#x} lies before the purged {self.purged_zxid:#x}")
        found = []
        at = 0
        if self.cursor is not None and self.cursor[0] == after_zxid:
            _, name, at = self.cursor
            while i < len(self._segments) and (<_Segment> self._segments[i]).name != name:
                i += 1
            if i == len(self._segments):
                i = at = 0
        if at == 0:
            at = SEGMENT_DATA
            while i + 1 < len(self._segments) and (<_Segment> self._segments[i + 1]).first_zxid <= after_zxid:
                i += 1
        while i < len(self._segments) and taken < max_bytes:
            segment = self._segments[i]
            window = _Window(self.directory, segment.name, self.dir_fd)
            while taken < max_bytes and after_zxid < end and after_zxid < segment.last_zxid:
                if not _plausible(window, at):
                    raise LogCorruption(window.path, at, "a batch that was durable cannot be read any more")
                h = window.look(at, LOG_HEADER_BYTES)
                n = get32(h + 16)
                count = get32(h + 20)
                first = <int64_t> get64(h + 24)
                if first + count - 1 > after_zxid:
                    if get64(h + 40) != segment.segment_id:
                        raise LogCorruption(window.path, at, "a batch of another segment stands there")
                    after_zxid = first + count - 1
                    found.append(RecoveredBatch(first, count, first >> 32, window.view(at + LOG_HEADER_BYTES, n),
                                                window.path, at))
                    taken += n
                at += _aligned(LOG_HEADER_BYTES + n)
            if after_zxid >= end:
                break
            if after_zxid >= segment.last_zxid:
                i += 1
                if i < len(self._segments):
                    at = SEGMENT_DATA
                else:
                    break
        if found:
            if i < len(self._segments):
                self.cursor = (after_zxid, (<_Segment> self._segments[i]).name, at)
        return found

    def truncate(self, int64_t zxid):
        """Drop every transaction after `zxid`, durably; waits for the disk.

        A crash on the way leaves a log that ends somewhere between `zxid` and its former end. Raises
        RuntimeError while anything is in flight, ValueError if purged transactions would have to go,
        LogCorruption, OSError (which leaves the log unusable: restart).
        """
        cdef _Segment segment
        cdef _Walk walk
        cdef int fd
        if not self.running or self.busy() or self.first != NULL or self.refusing:
            raise RuntimeError("the log is not idle")
        if zxid >= self.stamped_zxid:
            return
        self.cursor = None
        if zxid < self.purged_zxid:
            raise ValueError(f"zxid {zxid:#x} lies before the purged {self.purged_zxid:#x}")
        self.preparer.settle()
        if self.shared.live_fd >= 0:
            c_close(self.shared.live_fd)
            self.shared.live_fd = -1
        # the newest first, each for good before the next: what remains has no gap at any time
        while self._segments:
            segment = self._segments[-1]
            if segment.first_zxid <= zxid:
                break
            os.unlink(segment.name, dir_fd=self.dir_fd)
            os.fsync(self.dir_fd)
            self._segments.pop()
        if self._segments:
            segment = self._segments[-1]
            if segment.last_zxid > zxid:
                self._shorten(segment, zxid)
        # Read it all again, rather than trust what was just done.
        walk = _Walk(self.directory, self.store_id, self.dir_fd)
        for _ in walk.run(None):
            pass
        walk.segments = [s for s in walk.segments if (<_Segment> s).first_zxid > self.purged_zxid]
        self._segments = walk.segments
        if self._segments:
            segment = self._segments[-1]
            fd = os.open(segment.name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self.dir_fd)
            self.shared.live_fd = fd
            self._set_end(walk.end, walk.chain, walk.last_zxid)
        else:
            self._set_end(0, 0, 0)

    def _shorten(self, _Segment segment, int64_t zxid):
        """Replace a segment by a copy that ends with `zxid`; renamed into place: it is one or the other."""
        cdef _Window window = _Window(self.directory, segment.name, self.dir_fd)
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
            at += _aligned(LOG_HEADER_BYTES + n)
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
        fields = _SEGMENT_HEADER.unpack_from(head, 8)
        head = _segment_header(fields[3], fields[4], fields[5], fields[6], size, False)
        fd = os.open("truncate.tmp", _CREATE, 0o600, dir_fd=self.dir_fd)
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
        """The last zxid submitted and not refused; 0 in an empty log. From recover() to start(): found."""
        cdef _Walk walk
        if self.walk is not None:
            walk = self.walk
            return walk.last_zxid
        return self.submitted_zxid

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
        cdef _Segment s
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
