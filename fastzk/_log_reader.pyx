# cython: wraparound=True
"""Reading the transaction log: one walk that verifies every batch, and reading on from a place once verified.

The layout on disk, and how a torn tail is told from corruption, are described in ``_log.pyx``. Nothing here changes
a file, but for ``write_base``.
"""

import errno as _errno
import os
import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

from xxhash import xxh3_64_intdigest as _xxh3

from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastzk._codec cimport fz_load32, fz_load64

cdef extern from "<unistd.h>":
    int c_close "close"(int) nogil

cdef enum:
    RECYCLED = 1  # the segment's file held old batches, it was not all zeros
    BEFORE_KNOWN = 2  # the header says which zxid the segment's first one follows
    # A place to look for a zxid from is kept every so many bytes: that much is walked at most to find one.
    MARK_BYTES = 256 * 1024
    TXN_HEADER_BYTES = 32
    SMALLEST_PIECE = 64 * 1024
    READ_AHEAD = 4 * 1024 * 1024

SEGMENT_HEADER = struct.Struct("<IHH16sQqQQI4xq16x")  # all but the checksum in front
BASE_NAME = "base"
_BASE = struct.Struct("<QIHHq")
_BATCH_MARK = struct.pack("<IHH", BATCH_MAGIC, FORMAT_VERSION, LOG_HEADER_BYTES)


class LogCorruption(Exception):
    """The log on disk is damaged where it once was durable. Nothing was changed.

    ``path``: the file; ``offset``: the byte in it where what is good ends; ``reason``: what is wrong there.
    """

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: at byte {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


class RecoveredBatch(NamedTuple):
    """One verified batch as read back; ``payload`` stays valid for as long as it is referred to."""

    first_zxid: int
    count: int
    epoch: int
    payload: memoryview
    path: str
    offset: int

    @property
    def last_zxid(self) -> int:
        """The zxid of its last transaction."""
        return self.first_zxid + self.count - 1


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


cdef uint64_t digest(const uint8_t* data, Py_ssize_t size) except? 0:
    return <uint64_t> _xxh3(PyMemoryView_FromMemory(<char*> data, size, PyBUF_READ))


# --- Records ------------------------------------------------------------------------------------------------

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


def txns_of_type(const uint8_t[::1] payload not None, int32_t kind):
    """[(zxid, record)] of the transactions of type `kind` in a batch's payload; each record is a copy.

    Raises ValueError if the payload is malformed.
    """
    cdef size_t size = payload.shape[0], at = 0
    cdef uint32_t n
    found = []
    while at < size:
        n = get32(&payload[at]) if size - at >= 4 else 0
        if n < TXN_HEADER_BYTES or n > size - at - 4:
            raise ValueError(f"not a transaction at byte {at} of {size}")
        if <int32_t> fz_load32(&payload[at + 4 + 28]) == kind:
            found.append((<int64_t> fz_load64(&payload[at + 4 + 12]), bytes(payload[at + 4:at + 4 + n])))
        at += 4 + n
    return found


cdef int check_txns(const uint8_t* payload, size_t size, int64_t first_zxid, int64_t count) except -1:
    """Raise ValueError unless `payload` is `count` transactions whose zxids run from `first_zxid` on."""
    cdef size_t at = 0
    cdef uint32_t n
    cdef int64_t zxid = first_zxid
    while at < size:
        n = get32(payload + at) if size - at >= 4 else 0
        if n < TXN_HEADER_BYTES or n > size - at - 4:
            raise ValueError(f"not a transaction at byte {at} of {size}")
        if <int64_t> fz_load64(payload + at + 4 + 12) != zxid:
            raise ValueError(f"zxid {<int64_t> fz_load64(payload + at + 4 + 12):#x} where {zxid:#x} was announced")
        zxid += 1
        at += 4 + n
    if zxid - first_zxid != count:
        raise ValueError(f"{zxid - first_zxid} transactions in a batch of {count}")
    return 0


# --- The base of a log without segments ---------------------------------------------------------------------

def write_base(dir_fd, int64_t zxid):
    """Say, durably, that the log without segments in this directory is to begin behind `zxid`.

    Without it, a directory without segments is a log that was lost. The log removes it when its first batch is
    durable. Raises OSError.
    """
    content = _BASE.pack(0, BASE_MAGIC, FORMAT_VERSION, _BASE.size, zxid)
    content = struct.pack("<Q", _xxh3(content[8:])) + content[8:]
    fd = os.open("base.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    try:
        os.write(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename("base.tmp", BASE_NAME, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    os.fsync(dir_fd)


def read_base(str directory, dir_fd):
    """What ``write_base`` said, or None if there is no such file. Raises LogCorruption, OSError."""
    try:
        fd = os.open(BASE_NAME, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    try:
        content = os.read(fd, 4096)
    finally:
        os.close(fd)
    if len(content) == _BASE.size:
        checksum, magic, version, _length, zxid = _BASE.unpack(content)
        if magic == BASE_MAGIC and version == FORMAT_VERSION and checksum == _xxh3(content[8:]):
            return zxid
    raise LogCorruption(os.path.join(directory, BASE_NAME), 0, "damaged")


# --- Segments -----------------------------------------------------------------------------------------------

cdef class Segment:

    def __init__(self, str name, int64_t before, int64_t first_zxid, int64_t size, uint64_t segment_id):
        self.name = name
        self.before = before
        self.first_zxid = first_zxid
        self.last_zxid = first_zxid - 1
        self.size = size
        self.segment_id = segment_id
        self.end = SEGMENT_DATA
        self.befores = array("q", [before])
        self.offsets = array("q", [SEGMENT_DATA])

    cdef int note(self, int64_t before, int64_t last, int64_t count, int64_t offset, int64_t end) except -1:
        """The batch behind zxid `before` fills the segment from `offset` to `end`."""
        if offset - <int64_t> self.offsets[-1] >= MARK_BYTES:
            self.befores.append(before)
            self.offsets.append(offset)
        self.last_zxid = last
        self.txns += count
        self.end = end
        return 0

    cdef int take_back(self, int64_t last, int64_t count, int64_t end) except -1:
        """Its last `count` transactions were not written: it ends with zxid `last`, at offset `end`."""
        self.txns -= count
        self.last_zxid = last
        self.end = end
        while <int64_t> self.offsets[-1] > end:
            self.befores.pop()
            self.offsets.pop()
        return 0


cdef class Window:
    """A segment file read in large pieces. Each piece is a bytes object, so views of it stay valid."""

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


cdef bint _plausible(Window window, int64_t at) except -1:
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
    return digest(h + 8, LOG_HEADER_BYTES - 8 + n) == get64(h)


def segment_header(bytes store_id, uint64_t segment_id, int64_t first_zxid, uint64_t chain, int64_t size,
                   bint recycled, before):
    """The bytes in front of a segment; `before`: the zxid that `first_zxid` follows, None if that is not known."""
    cdef bytes fields = SEGMENT_HEADER.pack(
        SEGMENT_MAGIC, FORMAT_VERSION, SEGMENT_HEADER_BYTES, store_id, segment_id, first_zxid, chain, size,
        (RECYCLED if recycled else 0) | (0 if before is None else BEFORE_KNOWN), before or 0)
    return struct.pack("<Q", _xxh3(fields)) + fields


def segment_names(dir_fd):
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


class Torn(NamedTuple):
    """A tail that never was complete, at `offset` of segment `name`; `headers`: the batches begun there."""

    name: str
    offset: int
    headers: list[int]


cdef class Walk:
    """One read-only pass over all segments. After it ended, its fields describe the log's end."""

    def __init__(self, str directory, store_id, int dir_fd):
        self.directory = directory
        self.store_id = store_id
        self.dir_fd = dir_fd
        self.segments = []
        self.empty = []
        self.ends = array("q")

    def run(self, after, bint records=False, names=None):
        """Yield the batches that reach beyond zxid `after`; None: all, wherever they start.

        `records`: also check that each payload divides into as many records as the batch counts. `names`: only these
        segments, which follow one another and end with the newest.
        """
        cdef Window window
        cdef Segment segment
        cdef int64_t at, n, first, last, end, beyond = -1 if after is None else after
        cdef const uint8_t* h
        cdef bint newest
        cdef str reason
        if names is None:
            names = segment_names(self.dir_fd)
        checked = after is None
        for i, name in enumerate(names):
            newest = i == len(names) - 1
            window = Window(self.directory, name, self.dir_fd)
            segment = self.enter(window, name, newest)
            if segment is None:
                self.empty.append(name)
                break
            at = SEGMENT_DATA
            while True:
                reason = self.problem(window, segment, at)
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
                    self.base = self.last_zxid = segment.before
                end = at + aligned(LOG_HEADER_BYTES + n)
                segment.note(self.last_zxid, last, last - first + 1, at, end)
                self.last_zxid = last
                self.ends.append(last)
                self.batches += 1
                self.txns += last - first + 1
                self.payload_bytes += n
                if last > beyond:
                    payload = window.view(at + LOG_HEADER_BYTES, n)
                    if records:
                        self._count_records(window, at, payload, last - first + 1)
                    if not checked:
                        checked = True
                        if (self.batches == 1 and segment.before_known and segment.before > beyond) \
                                or (first > beyond + 1 and not new_epoch(first, beyond)):
                            raise LogCorruption(
                                window.path, at, f"missing transactions: the log continues with zxid "
                                f"{first:#x}, wanted was what follows {beyond:#x}")
                    yield RecoveredBatch(first, last - first + 1, first >> 32, payload, window.path, at)
                at = end
            if newest:
                self.judge_tail(window, segment, at, reason)
            elif segment.last_zxid < segment.first_zxid:
                raise LogCorruption(window.path, at, f"no good batch in an older segment: {reason}")
            else:
                self.join(window, at, reason, names[i + 1])
            if segment.last_zxid < segment.first_zxid:
                self.empty.append(name)
            else:
                self.segments.append(segment)
        path, at = os.path.join(self.directory, BASE_NAME), 0
        if self.batches:
            segment = self.segments[-1]
            path, at = os.path.join(self.directory, segment.name), segment.end
        else:
            self.base = read_base(self.directory, self.dir_fd)
            if self.base is not None:
                self.last_zxid = self.base
                if after is not None and beyond < <int64_t> self.base:
                    raise LogCorruption(path, 0, f"missing transactions: the log begins behind zxid "
                                        f"{self.last_zxid:#x}, wanted was what follows {beyond:#x}")
        if self.base is not None and after is not None and beyond > self.last_zxid:
            raise LogCorruption(
                path, at, f"the log ends with zxid {self.last_zxid:#x}, but {beyond:#x} was durable once")

    cdef Segment enter(self, Window window, str name, bint newest):
        """Check a segment's header. None: a torn creation, which holds nothing."""
        cdef int64_t named = int(name[4:], 16), first
        cdef uint64_t chain
        cdef Segment segment
        if named < 0:
            raise LogCorruption(window.path, 0, "not the name of a zxid")
        head = b""
        if window.size >= SEGMENT_HEADER_BYTES:
            head = bytes(window.view(0, SEGMENT_HEADER_BYTES))
        if not head or _xxh3(head[8:]) != int.from_bytes(head[:8], "little"):
            if newest and not self.holds_batches(window, named):
                return None
            raise LogCorruption(window.path, 0, "the segment's header is damaged")
        magic, version, length, store_id, segment_id, first, chain, _size, flags, before = \
            SEGMENT_HEADER.unpack_from(head, 8)
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
            if flags & BEFORE_KNOWN and before != self.last_zxid:
                raise LogCorruption(window.path, 0, f"follows zxid {before:#x}, not {self.last_zxid:#x}")
            before = self.last_zxid
        else:
            self.chain = chain
            if not flags & BEFORE_KNOWN:
                # Either right or, where an epoch begins, nobody's zxid, so that nothing is ever taken to follow it.
                before = first - 1
        segment = Segment(name, before, first, window.size, segment_id)
        segment.before_known = flags & BEFORE_KNOWN or bool(self.segments)
        return segment

    cdef bint holds_batches(self, Window window, int64_t named) except -1:
        cdef int64_t at
        for hit in window.find(_BATCH_MARK, SEGMENT_DATA + 8):
            at = hit - 8
            # a recycled file is full of older batches
            if _plausible(window, at) and <int64_t> get64(window.look(at, LOG_HEADER_BYTES) + 24) >= named:
                return True
        return False

    cdef str problem(self, Window window, Segment segment, int64_t at):
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
        if digest(h + 8, LOG_HEADER_BYTES - 8 + n) != get64(h):
            return "wrong checksum"
        # From here on the batch is as it was written: what does not fit was never a torn write.
        first = <int64_t> get64(h + 24)
        count = get32(h + 20)
        if count == 0 or first < 0 or get32(h + 32) != <uint64_t> first >> 32 \
                or (first + count - 1) >> 32 != first >> 32 or get64(h + 56) > <uint64_t> at:
            raise LogCorruption(window.path, at, "a batch with impossible numbers")
        follows = not self.batches or first == self.last_zxid + 1 or new_epoch(first, self.last_zxid)
        if segment.last_zxid < segment.first_zxid:
            follows = follows and first == segment.first_zxid
        if not follows:
            raise LogCorruption(window.path, at, f"zxid {first:#x} does not follow {self.last_zxid:#x}")
        return None

    def _count_records(self, Window window, at, payload, count):
        try:
            found = sum(1 for _ in iter_records(payload))
        except ValueError as error:
            raise LogCorruption(window.path, at, str(error)) from error
        if found != count:
            raise LogCorruption(window.path, at, f"{found} records in a batch of {count}")

    cdef join(self, Window window, int64_t at, str reason, str following):
        """The chain must lead from the end of this segment into the following one."""
        cdef Window next_window = Window(self.directory, following, self.dir_fd)
        cdef bytes head
        if next_window.size < SEGMENT_HEADER_BYTES:
            return  # for enter() to judge
        head = bytes(next_window.view(0, SEGMENT_HEADER_BYTES))
        if _xxh3(head[8:]) != int.from_bytes(head[:8], "little"):
            return
        if head[16:32] != self.store_id or int.from_bytes(head[40:48], "little") != int(following[4:], 16):
            return
        if int.from_bytes(head[48:56], "little") != self.chain:
            raise LogCorruption(window.path, at, f"{reason}; {following} continues from another batch: one "
                                "here is damaged, or a segment is missing")

    cdef judge_tail(self, Window window, Segment segment, int64_t at, str reason):
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
        fresh = not window.look(64, 4)[0] & RECYCLED
        remains = bytes(window.view(at, n)) if n else b""
        if headers or (fresh and any(remains)) \
                or <int64_t> get64(window.look(0, SEGMENT_HEADER_BYTES) + 56) > window.size:
            self.torn = Torn(segment.name, at, headers)


def scan(directory, bytes store_id=None):
    """Read the log in `directory` from end to end and report; changes nothing, never raises for bad content.

    `store_id`: what every segment must carry; None: what the first one does. Raises OSError if the directory
    cannot be read.
    """
    cdef Walk walk
    directory = os.fspath(directory)
    report = LogReport(directory)
    dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        walk = Walk(directory, store_id, dir_fd)
        try:
            for _ in walk.run(None, True):
                pass
        except LogCorruption as error:
            report.corruption = error
        report.segments = len(segment_names(dir_fd))
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


cdef list read_batches(str directory, int dir_fd, Segment segment, int64_t offset, int64_t current, int64_t after,
                       int64_t end, int64_t max_bytes, int64_t* stopped):
    """The batches of `segment` behind the one that ends with zxid `after`: `max_bytes` of payload, or one batch.

    `offset` is where the batch that follows `current` stands, which is `after` or before it; `end`: how far the
    segment is durable. `stopped` becomes the offset behind the last batch returned. Raises KeyError if no batch ends
    with `after`, LogCorruption, OSError.
    """
    cdef const uint8_t* data
    cdef const uint8_t* h
    cdef bytes piece
    cdef int64_t at = offset, start, filled, n, need, first, last, taken = 0
    cdef int64_t wanted = max(max_bytes, <int64_t> SMALLEST_PIECE)
    path = os.path.join(directory, segment.name)
    found = []
    fd = os.open(segment.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        # Whoever reads here will come back for what follows, with a file descriptor that knows nothing of this one.
        os.posix_fadvise(fd, at, READ_AHEAD, os.POSIX_FADV_WILLNEED)
        while at < end and taken < max(max_bytes, <int64_t> 1):
            start = at
            piece = os.pread(fd, min(wanted, end - at), at)
            data = <const uint8_t*> PyBytes_AS_STRING(piece)
            filled = len(piece)
            view = memoryview(piece)
            need = LOG_HEADER_BYTES
            while start + filled - at >= LOG_HEADER_BYTES and taken < max(max_bytes, <int64_t> 1):
                h = data + (at - start)
                n = get32(h + 16)
                need = aligned(LOG_HEADER_BYTES + n)
                if get32(h + 8) != BATCH_MAGIC or get64(h + 40) != segment.segment_id \
                        or get64(h + 64) != <uint64_t> at or need > end - at:
                    raise LogCorruption(path, at, "no batch here, where one was durable")
                if need > start + filled - at:
                    break
                first = <int64_t> get64(h + 24)
                last = first + get32(h + 20) - 1
                if current < after:
                    if last > after:
                        raise KeyError(after)
                else:
                    if digest(h + 8, LOG_HEADER_BYTES - 8 + n) != get64(h):
                        raise LogCorruption(path, at, "wrong checksum, where a batch was durable")
                    if not follows(first, current):
                        raise LogCorruption(path, at, f"zxid {first:#x} does not follow {current:#x}")
                    n += at - start + LOG_HEADER_BYTES
                    found.append(RecoveredBatch(
                        first, last - first + 1, first >> 32, view[at - start + LOG_HEADER_BYTES:n], path, at))
                    taken += need
                current = last
                at += need
            if at == start:
                if filled < min(wanted, end - at) or filled < LOG_HEADER_BYTES:
                    raise LogCorruption(path, at + filled, "the file became shorter")
                wanted = max(need, wanted)  # a large batch
    finally:
        os.close(fd)
    if current < after:
        raise KeyError(after)
    stopped[0] = at
    return found


cdef int64_t start_of(Segment segment, int64_t after, int64_t* current) except -1:
    """Where in `segment` to start looking for what follows `after`; `current`: the zxid before that place."""
    cdef Py_ssize_t i = bisect_right(segment.befores, after) - 1
    current[0] = segment.befores[i]
    return segment.offsets[i]
