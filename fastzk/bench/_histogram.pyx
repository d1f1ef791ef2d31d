"""Latencies as counts: what a histogram of constant relative precision needs, and no more.

A value is noted once for each request, in the loop that also sends and receives, without the GIL. That rules out a
histogram that is a Python library: the one on the package index notes a value in Python code, holding the GIL, in
about the time in which the loop handles ten requests. So counting is done here, in four instructions or so, in the
memory layout of HdrHistogram with two significant digits; and what is written out is HdrHistogram's own format, so
that its tools, in whichever language, read, merge and plot it.

Layout: values below 256 have a slot each. Above, each octave (a doubling) has 128 slots of equal width, so a slot is
at most 1/128 of its values wide. 4352 slots of 8 bytes are 34 KiB, of which a run of similar latencies touches a few
hundred bytes. The smallest and the largest value, the number and the sum are kept exactly.
"""

import base64
import struct
import zlib

from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

#: HdrHistogram's marks of format V2 and of its compressed form.
PLAIN_MARK = 0x1C849313
COMPRESSED_MARK = 0x1C849314
#: mark, bytes of counts, offset, digits, lowest and highest value, ratio to integers
PLAIN_HEAD = struct.Struct(">iiiiqqd")
COMPRESSED_HEAD = struct.Struct(">ii")
HIGHEST = 0xFF_FFFF_FFFF  # LIMIT_BITS of them


cdef void clear(Tally* what) noexcept nogil:
    memset(what, 0, sizeof(Tally))
    what.least = UINT64_MAX


cdef inline uint64_t highest_of(int slot) noexcept nogil:
    # The largest value that is counted in this slot.
    cdef int octave
    if slot < WHOLE:
        return <uint64_t>slot
    octave = (slot >> HALF_BITS) - 1
    return ((<uint64_t>(slot - (octave << HALF_BITS)) + 1) << octave) - 1


cdef inline uint64_t middle_of(int slot) noexcept nogil:
    # A value that stands for all of the slot.
    cdef int octave = 0 if slot < WHOLE else (slot >> HALF_BITS) - 1
    return highest_of(slot) - ((<uint64_t>1 << octave) >> 1)


cdef class Histogram:
    """How often each latency occurred, in nanoseconds, to 0.8 %.

    Values beyond 18 minutes count as 18 minutes.
    """

    def __cinit__(self):
        self.tally = <Tally*>malloc(sizeof(Tally))
        if self.tally is NULL:
            raise MemoryError()
        clear(self.tally)

    def __dealloc__(self):
        free(self.tally)

    @property
    def count(self):
        return self.tally.count

    @property
    def least(self):
        return self.tally.least if self.tally.count else 0

    @property
    def most(self):
        return self.tally.most

    @property
    def mean(self):
        return self.tally.total / <double>self.tally.count if self.tally.count else 0.0

    def record(self, value, times=1):
        """Note a value.

        :param value: nanoseconds.
        :param times: how often it occurred.
        :raises OverflowError: for a negative one.
        """
        if times:
            tally(self.tally, value, times)

    def add(self, Histogram other not None):
        """Take over all values of another one."""
        cdef int slot
        for slot in range(SLOTS):
            self.tally.slots[slot] += other.tally.slots[slot]
        self.tally.count += other.tally.count
        self.tally.total += other.tally.total
        self.tally.least = min(self.tally.least, other.tally.least)
        self.tally.most = max(self.tally.most, other.tally.most)

    def copy(self):
        """Another one with the same values."""
        cdef Histogram twin = Histogram()
        memcpy(twin.tally, self.tally, sizeof(Tally))
        return twin

    def percentile(self, double percent):
        """The value that ``percent`` of all values do not exceed, in nanoseconds; 0 while there is none.

        :param percent: 0 to 100.
        :raises ValueError: outside of that.
        """
        cdef uint64_t wanted, seen = 0
        cdef int slot
        if not 0 <= percent <= 100:
            raise ValueError(f"not a percentage: {percent}")
        if not self.tally.count:
            return 0
        wanted = <uint64_t>(percent / 100 * self.tally.count + 0.5)
        wanted = min(max(wanted, <uint64_t>1), self.tally.count)
        for slot in range(SLOTS):
            seen += self.tally.slots[slot]
            if seen >= wanted:
                return max(min(highest_of(slot), self.tally.most), self.tally.least)
        raise AssertionError("the slots hold fewer values than were counted")

    def corrected(self, expected):
        """A copy with the values that were not measured because a slow one was waited for.

        Who sends the next request only after the reply measures one slow reply where, at the pace kept otherwise,
        several requests would have met the same delay. For each value of at least twice the expected interval those
        are added: the value less one interval, less two, and so on down to one.

        :param expected: nanoseconds from one request to the next while nothing stalls.
        :raises ValueError: when that is not positive.
        """
        cdef Histogram fuller = self.copy()
        cdef uint64_t interval, missing
        cdef int slot
        if expected <= 0:
            raise ValueError(f"not an interval: {expected}")
        interval = expected
        for slot in range(SLOTS):
            if self.tally.slots[slot]:
                missing = min(middle_of(slot), self.tally.most)
                while missing >= 2 * interval:
                    missing -= interval
                    tally(fuller.tally, missing, self.tally.slots[slot])
        return fuller

    cdef bytes counts(self):
        # Each count doubled, in 7 bits a byte with the lowest first; several empty slots as their negative number.
        written = bytearray()
        cdef int slot = 0, empty, last = slot_of(self.tally.most) if self.tally.count else -1
        cdef uint64_t number
        while slot <= last:
            empty = 0
            while slot <= last and not self.tally.slots[slot]:
                empty += 1
                slot += 1
            if empty:
                number = 2 * <uint64_t>empty - 1 if empty > 1 else 0
            else:
                number = 2 * self.tally.slots[slot]
                slot += 1
            while number >= 128:
                written.append(number & 127 | 128)
                number >>= 7
            written.append(number)
        return bytes(written)

    def encode(self):
        """The values in HdrHistogram's compressed format V2, as base64; its tools in any language read it."""
        counts = self.counts()
        plain = PLAIN_HEAD.pack(PLAIN_MARK, len(counts), 0, 2, 1, HIGHEST, 1.0) + counts
        packed = zlib.compress(plain)
        return base64.b64encode(COMPRESSED_HEAD.pack(COMPRESSED_MARK, len(packed)) + packed).decode("ascii")

    @classmethod
    def decode(cls, text):
        """The histogram that ``encode`` wrote; what was exact is now as precise as the slots.

        :raises ValueError: when the text is nothing of the kind, or has other bounds or another precision.
        """
        cdef Histogram made = cls()
        try:
            packed = base64.b64decode(text, validate=True)
            mark, length = COMPRESSED_HEAD.unpack_from(packed)
            plain = zlib.decompress(packed[COMPRESSED_HEAD.size : COMPRESSED_HEAD.size + length])
            head = PLAIN_HEAD.unpack_from(plain)
        except (struct.error, zlib.error) as error:
            raise ValueError(f"not an encoded histogram: {error}") from error
        counts = plain[PLAIN_HEAD.size :]
        if mark != COMPRESSED_MARK or head != (PLAIN_MARK, len(counts), 0, 2, 1, HIGHEST, 1.0):
            raise ValueError("not a histogram of two digits and 2**40 - 1 at most")
        cdef int slot = 0, shift = 0
        cdef uint64_t number = 0
        for byte in counts:
            number |= <uint64_t>(byte & 127) << shift
            shift += 7
            if byte & 128:
                if shift > 63:
                    raise ValueError("a count that is too long")
                continue
            if number & 1:
                if number // 2 + 1 > <uint64_t>(SLOTS - slot):
                    raise ValueError("more counts than there are slots")
                slot += <int>(number // 2 + 1)
            else:
                if slot >= SLOTS:
                    raise ValueError("more counts than there are slots")
                if number:
                    tally(made.tally, middle_of(slot), number // 2)
                slot += 1
            number = 0
            shift = 0
        return made

    def __reduce__(self):
        return restore, (self.encode(), self.tally.total, self.tally.least, self.tally.most)

    def __eq__(self, other):
        if not isinstance(other, Histogram):
            return NotImplemented
        return memcmp(self.tally, (<Histogram>other).tally, sizeof(Tally)) == 0

    def __hash__(self):
        raise TypeError("a histogram changes, so it has no hash")

    def __repr__(self):
        return f"Histogram(count={self.count}, p50={self.percentile(50)}, p99={self.percentile(99)}, most={self.most})"


def restore(text, total, least, most):
    """What pickle calls: a histogram with its exact figures."""
    cdef Histogram made = Histogram.decode(text)
    made.tally.total = total
    made.tally.least = least
    made.tally.most = most
    return made
