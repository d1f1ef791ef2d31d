"""The transaction log; see ``_log.pyx`` for how it works, ``_log.pxd`` for what Cython code may use."""

from array import array
from collections.abc import Iterator
from os import PathLike
from typing import Final
from weakref import WeakSet

from fastzk._log_reader import LogCorruption as LogCorruption
from fastzk._log_reader import LogReport as LogReport
from fastzk._log_reader import RecoveredBatch as RecoveredBatch
from fastzk._log_reader import SegmentInfo as SegmentInfo
from fastzk._log_reader import iter_records as iter_records
from fastzk._log_reader import scan as scan
from fastzk._log_reader import txns_of_type as txns_of_type
from fastzk._log_reader import write_base as write_base

SEGMENT_BYTES: Final[int]
HEADER_BYTES: Final[int]

class LogFailed(Exception):
    """The log can make nothing durable any more; the server has to end."""

    errno: int
    what: str
    def __init__(self, errno: int, what: str) -> None: ...

class Batch:
    """A contiguous range of transactions on its way into the log."""

    first_zxid: int
    last_zxid: int
    count: int
    @property
    def exports(self) -> int:
        """Views of the payload that live. Until all are released the batch cannot change: use another meanwhile."""
    def adopt(
        self, first_zxid: int, last_zxid: int, count: int, payload: bytes | bytearray | memoryview
    ) -> None:
        """Become the batch that another server made, of which these are the numbers and the bytes.

        Raises ValueError if `payload` is not exactly `count` transactions with the zxids from `first_zxid` to
        `last_zxid`, all of one epoch; the batch is empty then. RuntimeError and BufferError as for ``reset``.
        """
    def payload_view(self) -> memoryview:
        """The payload without a copy. It keeps the batch as it is until it is released: see ``exports``."""
    @property
    def nbytes(self) -> int:
        """Payload bytes so far."""
    def append(self, zxid: int, record: bytes | bytearray | memoryview) -> None:
        """Add one transaction. Raises ValueError if `zxid` does not follow the last one."""
    def reset(self) -> None:
        """Empty it for reuse. Raises RuntimeError while submitted, BufferError while a view of it lives."""
    def payload(self) -> bytes:
        """A copy of the payload."""

class LogHold:
    """Keeps what follows ``zxid`` in the log: ``purge()`` goes around it until ``release()``, or this is forgotten."""

    zxid: int
    def __init__(self, holds: WeakSet[LogHold], zxid: int) -> None: ...
    def release(self) -> None:
        """The log may go. Releasing twice is allowed."""

class TxnLog:
    """The transaction log in one directory, which must exist and belong to this process alone.

    ``recover()`` (read-only), then ``start()``, then ``submit()`` and ``take_done()``, then ``close()``; all
    by one thread. `store_id`: 16 random bytes that name the store the log belongs to. `segment_bytes`: size
    of a segment, at least 64 KiB and a multiple of 4096. Raises ValueError, and OSError if the directory
    cannot be opened.
    """

    def __init__(
        self, directory: str | PathLike[str], store_id: bytes, *, segment_bytes: int = ...
    ) -> None: ...
    @property
    def directory(self) -> str: ...
    @property
    def store_id(self) -> bytes: ...
    @property
    def segment_bytes(self) -> int: ...
    @property
    def event_fd(self) -> int:
        """Readable when ``take_done()`` has something to say; -1 once closed."""
    def recover(self, after_zxid: int) -> Iterator[RecoveredBatch]:
        """Yield, in order, every batch that reaches beyond `after_zxid`; changes nothing.

        The first may begin at or before `after_zxid`. All batches are verified, also those not yielded. A
        torn tail ends the iteration in silence; ``start()`` cuts it. Raises LogCorruption for damage, and if
        transactions are missing behind `after_zxid`, or it lies beyond the log's end. (Where an empty directory's log
        ends is not known, unless the file `base` says so.)
        """
    def start(self) -> None:
        """Cut a torn tail, make what is left durable, open for appending.

        Verifies the log first unless ``recover()`` has done so to its end. Raises LogCorruption, OSError.
        """
    def submit(self, batch: Batch) -> None:
        """Queue `batch` for the log thread; never waits for the disk. Leave it alone until it is handed back.

        Raises ValueError if it is empty, submitted already, or does not follow the batch before it (its first
        zxid is the next one, or number 1 of a newer epoch; an empty log that has no base may start anywhere);
        RuntimeError if the log is not started.
        """
    def take_done(self) -> tuple[list[Batch], list[Batch]]:
        """Drain the eventfd; return (durable, refused): two lists of batches, each in order of submission.

        Refused batches were not written for want of space, and nothing of them will ever be read back. The
        log then ends with the last durable batch, and refuses everything until ``acknowledge_refusal()``.
        Raises LogFailed, for ever, once an error has left the disk's content in doubt.
        """
    def acknowledge_refusal(self) -> None:
        """Submit again from here on: what was refused is known, the next zxid follows ``durable_zxid``.

        Raises RuntimeError if batches were submitted since and ``take_done()`` has not handed them back yet.
        """
    def take_index(self) -> tuple[int, array[int]]:
        """(zxid before the first batch, array('q') of every batch's last zxid), as found by ``recover()``; once.

        Raises RuntimeError if the log was not read yet, or this was taken before.
        """
    def read(self, after_zxid: int, max_bytes: int) -> list[RecoveredBatch]:
        """The durable batches that follow zxid `after_zxid`, as RecoveredBatch, each verified; [] behind the last.

        Whole batches, of about `max_bytes` together (headers included) and at least one. `after_zxid` is the last
        zxid of a batch, or ``base_zxid``. From the disk, if the page cache has it no more: the caller waits for that.
        Raises KeyError if it is no such zxid, RuntimeError if the log is not started, LogCorruption, OSError.
        """
    def hold(self, zxid: int) -> LogHold:
        """Keep every transaction after `zxid` until the LogHold returned is released, or nobody refers to it."""
    def purge(
        self, covered_zxid: int, *, keep_segments: int = 0, keep_txns: int = 0, keep_bytes: int = 0
    ) -> list[str]:
        """Recycle or remove, in the background, segments with no transaction after `covered_zxid`.

        Of these, what stays: the live segment; the newest `keep_segments` others; as many of the newest as it takes
        for the log to have `keep_txns` transactions, but no more than it takes for `keep_bytes` (0: no such bound);
        what is behind the zxid of a ``hold()``. Returns the names of those that go.
        """
    def truncate(self, zxid: int) -> None:
        """Drop every transaction after `zxid`, durably; waits for the disk.

        A crash on the way leaves a log that ends somewhere between `zxid` and its former end. What was not touched
        is not read again: it costs as much as what goes, and at most one segment that stays. Raises RuntimeError
        while anything is in flight, ValueError if `zxid` lies before ``base_zxid``, LogCorruption, OSError (which
        leaves the log unusable: restart).
        """
    def close(self) -> None:
        """Wait until all that was submitted is durable, or cannot be, and stop the threads.

        Remove the event loop's reader of ``event_fd`` first. ``take_done()`` still hands over what is left.
        """
    @property
    def base_zxid(self) -> int:
        """Everything after this zxid is in the log: the last one purged, or the state's that the log began behind."""
    @property
    def last_zxid(self) -> int:
        """The last zxid submitted and not refused; an empty log's base. From recover() to start(): found."""
    @property
    def durable_zxid(self) -> int:
        """The last zxid known durable, whether or not ``take_done`` reported it yet."""
    @property
    def pending(self) -> bool:
        """True while anything is submitted but not durable."""
    @property
    def no_space(self) -> bool:
        """True while no next segment can be prepared. Batches are taken while the live one has room."""
    @property
    def errno(self) -> int:
        """Why there is ``no_space``, or 0."""
    @property
    def thread_id(self) -> int:
        """The log thread's id, as the kernel names it; 0 before it runs."""
    @property
    def bytes_written(self) -> int:
        """Bytes made durable, headers and padding included."""
    @property
    def fsyncs(self) -> int:
        """Calls of fdatasync for batches."""
    @property
    def fsync_ns_total(self) -> int:
        """Nanoseconds spent in them."""
    @property
    def fsync_ns_max(self) -> int:
        """Nanoseconds of the slowest since ``reset_metrics``."""
    def reset_metrics(self) -> None:
        """Forget the slowest fdatasync and the sums."""
    @property
    def segments(self) -> list[SegmentInfo]:
        """The segments, oldest first; the last one is live."""

def _inject(
    *,
    fail_fsync_at: int = 0,
    fail_fsync_errno: int = ...,
    fail_write_at: int = 0,
    fail_write_errno: int = ...,
    fail_rename_errno: int = 0,
    fail_prepare_errno: int = 0,
    fsync_delay_ns: int = 0,
) -> None:
    """Set the faults of every log of this process; without arguments, none. For tests only."""
