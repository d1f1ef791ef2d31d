"""The transaction log; see ``_log.pyx`` for how it works, ``_log.pxd`` for what Cython code may use."""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Final, NamedTuple

SEGMENT_BYTES: Final[int]
HEADER_BYTES: Final[int]

class LogCorruption(Exception):
    """The log on disk is damaged where it once was durable. Nothing was changed."""

    path: str
    offset: int
    reason: str
    def __init__(self, path: str, offset: int, reason: str) -> None: ...

class LogFailed(Exception):
    """The log can make nothing durable any more; the server has to end."""

    errno: int
    what: str
    def __init__(self, errno: int, what: str) -> None: ...

class RecoveredBatch(NamedTuple):
    """One verified batch as read back; ``payload`` stays valid for as long as it is referred to."""

    first_zxid: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
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

class Batch:
    """A contiguous range of transactions on its way into the log."""

    first_zxid: int
    last_zxid: int
    count: int
    @property
    def nbytes(self) -> int:
        """Payload bytes so far."""
    def append(self, zxid: int, record: bytes | bytearray | memoryview) -> None:
        """Add one transaction. Raises ValueError if `zxid` does not follow the last one."""
    def adopt(
        self, first_zxid: int, last_zxid: int, count: int, payload: bytes | bytearray | memoryview
    ) -> None:
        """Fill it, while empty, with transactions that another server has put into a batch.

        Raises ValueError if the numbers do not fit each other or the records do not fill `payload`.
        """
    def reset(self) -> None:
        """Empty it for reuse. Raises RuntimeError while submitted."""
    def payload(self) -> bytes:
        """A copy of the payload."""

def iter_records(payload: bytes | bytearray | memoryview) -> Iterator[memoryview]:
    """The transactions of a batch's `payload`, as views into it. Raises ValueError if it is malformed."""

def scan(directory: str | PathLike[str], store_id: bytes | None = None) -> LogReport:
    """Read the log in `directory` from end to end and report; changes nothing, never raises for bad content.

    `store_id`: what every segment must carry; None: what the first one does. Raises OSError if the directory
    cannot be read.
    """

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
        transactions are missing behind `after_zxid` (or it lies beyond the end of a log that is not empty).
        """
    def start(self) -> None:
        """Cut a torn tail, make what is left durable, open for appending.

        Verifies the log first unless ``recover()`` has done so to its end. Raises LogCorruption, OSError.
        """
    def submit(self, batch: Batch) -> None:
        """Queue `batch` for the log thread; never waits for the disk. Leave it alone until it is handed back.

        Raises ValueError if it is empty, submitted already, or does not follow the batch before it (its first
        zxid is the next one, or number 1 of a newer epoch; an empty log may start anywhere); RuntimeError if
        the log is not started.
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
    def purge(self, covered_zxid: int, *, keep_segments: int = 0) -> list[str]:
        """Recycle or remove, in the background, segments with no transaction after `covered_zxid`.

        The live segment stays, and of the others the newest `keep_segments` covered ones. Returns the names
        of those that go.
        """
    def read(self, after_zxid: int, max_bytes: int) -> list[RecoveredBatch]:
        """Read batches back that are durable: those behind the batch end `after_zxid`, about `max_bytes` of payload
        and at least one, if there is one. Each is verified. Reading on where the last call ended costs no search.

        Raises LogCorruption if one cannot be read as it was written, KeyError if `after_zxid` was purged.
        """
    def truncate(self, zxid: int) -> None:
        """Drop every transaction after `zxid`, durably; waits for the disk.

        A crash on the way leaves a log that ends somewhere between `zxid` and its former end. Raises
        RuntimeError while anything is in flight, ValueError if purged transactions would have to go,
        LogCorruption, OSError (which leaves the log unusable: restart).
        """
    def close(self) -> None:
        """Wait until all that was submitted is durable, or cannot be, and stop the threads.

        Remove the event loop's reader of ``event_fd`` first. ``take_done()`` still hands over what is left.
        """
    @property
    def last_zxid(self) -> int:
        """The last zxid submitted and not refused; 0 in an empty log. From recover() to start(): found."""
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
