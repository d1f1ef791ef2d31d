"""Reading the transaction log; see ``_log_reader.pyx``. What is for the whole server is exported by ``fastzk._log``."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Final, NamedTuple

BASE_NAME: Final[str]
SEGMENT_HEADER: Final[struct.Struct]

class LogCorruption(Exception):
    """The log on disk is damaged where it once was durable. Nothing was changed."""

    path: str
    offset: int
    reason: str
    def __init__(self, path: str, offset: int, reason: str) -> None: ...

class RecoveredBatch(NamedTuple):
    """One verified batch as read back; ``payload`` stays valid for as long as it is referred to."""

    first_zxid: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    epoch: int
    payload: memoryview
    path: str
    offset: int
    @property
    def last_zxid(self) -> int:
        """The zxid of its last transaction."""

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

def iter_records(payload: bytes | bytearray | memoryview) -> Iterator[memoryview]:
    """The transactions of a batch's `payload`, as views into it. Raises ValueError if it is malformed."""

def scan(directory: str | PathLike[str], store_id: bytes | None = None) -> LogReport:
    """Read the log in `directory` from end to end and report; changes nothing, never raises for bad content.

    `store_id`: what every segment must carry; None: what the first one does. Raises OSError if the directory
    cannot be read.
    """

def txns_of_type(payload: bytes | bytearray | memoryview, kind: int) -> list[tuple[int, bytes]]:
    """[(zxid, record)] of the transactions of type `kind` in a batch's payload; each record is a copy.

    Raises ValueError if the payload is malformed.
    """

def write_base(dir_fd: int, zxid: int) -> None:
    """Say, durably, that the log without segments in this directory is to begin behind `zxid`.

    Without it, a directory without segments is a log that was lost. The log removes it when its first batch is
    durable. Raises OSError.
    """

def read_base(directory: str, dir_fd: int) -> int | None:
    """What ``write_base`` said, or None if there is no such file. Raises LogCorruption, OSError."""

def segment_header(
    store_id: bytes,
    segment_id: int,
    first_zxid: int,
    chain: int,
    size: int,
    recycled: bool,
    before: int | None,
) -> bytes:
    """The bytes in front of a segment; `before`: the zxid that `first_zxid` follows, None if that is not known."""
