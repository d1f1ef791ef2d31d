"""The transaction log as the atomic broadcast sees it: batches, named by the zxid they end with.

Three layers, each holding less of the past at more bytes for each batch:

* the log's segments on disk: everything after ``base_zxid``;
* an index: the last zxid of each of these batches, 8 bytes each, in one array. Every question about positions ("what
  do we have in common?") is a binary search in it;
* the newest batches in memory, ``MEMORY_BYTES`` of them at most, plus what is not durable yet. That is what goes to
  followers while all is well; whoever is further behind is served from the disk.

::

      base_zxid                                                       last_zxid
      |  [ends of batches .............................................]
      |                                  | <- recent batches, in memory |
      |  <- TxnLog.read() -------------->|

A batch is known from when it is appended, durable or not. What is kept is the immutable ``Proposal`` that the broadcast
made of it, so its bytes may be referred to by anything for as long as it takes (frames on their way to slow followers,
for one), while the log's own Batch goes back to the pipeline.

The log itself is not changed from here, but for ``purge``: the owner submits, and truncates, in the order in which the
broadcast says so. Between a ``truncate`` here and the log's own, what is to go is not seen any more.

How much log is kept for followers behind a checkpoint: 250,000 transactions, so that one that was away for some ten
seconds at full speed catches up from the log, but of at most 256 MiB, beyond which a full state is usually the
shorter way. Both count whole segments, and the live one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Final

from fastzk._log import LogHold, TxnLog
from fastzk.server.zab.messages import Proposal, follows

MEMORY_BYTES: Final = 32 << 20
KEEP_TXNS: Final = 250_000
KEEP_BYTES: Final = 256 << 20
# What a batch in memory costs beside its payload: a bytes object, a Proposal, three ints.
_OVERHEAD: Final = 240


class History:
    """The batches of ``log``, from what the log found at its start to what is appended from then on.

    Made between the log's ``recover()`` and its first ``submit()``; one for each log. ``base_zxid``: everything after
    it can be had. ``last_zxid``: the end as appended, durable or not; ``base_zxid`` if there is nothing behind that.
    ``memory_bytes``: how much of the newest may be kept in memory.
    """

    def __init__(self, log: TxnLog, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._log = log
        self._memory_bytes = memory_bytes
        self._ends: array[int]
        self.base_zxid: int
        self.base_zxid, self._ends = log.take_index()
        self.last_zxid: int = self._ends[-1] if self._ends else self.base_zxid
        # The newest batches. `_recent[i]` ends with `_ends[_recent_at + i]`; those below `_gone` were let go.
        self._recent: list[Proposal | None] = []
        self._recent_at = len(self._ends)
        self._gone = 0
        self._recent_bytes = 0

    def __len__(self) -> int:
        """How many batches it has."""
        return len(self._ends)

    @property
    def memory(self) -> int:
        """Bytes taken by the batches in memory."""
        return self._recent_bytes

    # -- looking --------------------------------------------------------------------------------------------

    def is_end(self, zxid: int) -> bool:
        """Whether ``zxid`` is where a batch ends, or ``base_zxid``."""
        return zxid >= self.base_zxid and self.floor(zxid) == zxid

    def floor(self, zxid: int) -> int:
        """The greatest batch end that is not after ``zxid``, or ``base_zxid``; -1 if ``zxid`` lies before that."""
        if zxid < self.base_zxid:
            return -1
        i = bisect_right(self._ends, zxid)
        return self._ends[i - 1] if i else self.base_zxid

    def after(self, zxid: int, max_bytes: int) -> list[Proposal]:
        """The batches behind the one that ends with ``zxid``: about ``max_bytes``, one at least; [] behind the last.

        Raises:
            KeyError: no batch ends with ``zxid``, and it is not ``base_zxid``.
            LogCorruption, OSError: what is on disk cannot be read any more.
        """
        i = self._position(zxid)
        if i == len(self._ends):
            return []
        at = i - self._recent_at
        if at < self._gone:
            # What the log has beyond may be waiting to be truncated.
            limit = self._ends[self._recent_at + self._gone - 1]
            return [
                Proposal(each.first_zxid, each.last_zxid, each.count, bytes(each.payload))
                for each in self._log.read(zxid, max_bytes)
                if each.last_zxid <= limit
            ]
        found: list[Proposal] = []
        while at < len(self._recent) and (max_bytes > 0 or not found):
            batch = self._recent[at]
            assert batch is not None
            found.append(batch)
            max_bytes -= len(batch.payload)
            at += 1
        return found

    # -- changing -------------------------------------------------------------------------------------------

    def append(self, proposal: Proposal) -> None:
        """The history goes on with this batch, which is, or is about to be, submitted to the log.

        Raises ValueError if it does not follow ``last_zxid``.
        """
        if not follows(self.last_zxid, proposal.first_zxid):
            raise ValueError(f"zxid {proposal.first_zxid:#x} does not follow {self.last_zxid:#x}")
        self._ends.append(proposal.last_zxid)
        self.last_zxid = proposal.last_zxid
        self._recent.append(proposal)
        self._recent_bytes += len(proposal.payload) + _OVERHEAD
        if self._recent_bytes > self._memory_bytes:
            self._let_go()

    def truncate(self, zxid: int) -> None:
        """Drop every batch after the one that ends with ``zxid``; ``TxnLog.truncate`` has to follow.

        Also for batches that the log refused for want of space. Raises KeyError if no batch ends there.
        """
        i = self._position(zxid)
        first = max(i - self._recent_at, self._gone)
        for batch in self._recent[first:]:
            assert batch is not None
            self._recent_bytes -= len(batch.payload) + _OVERHEAD
        if i <= self._recent_at + self._gone:
            self._recent.clear()
            self._recent_at, self._gone = i, 0
        else:
            del self._recent[first:]
        del self._ends[i:]
        self.last_zxid = zxid

    def trim(self, base_zxid: int) -> None:
        """The log begins behind ``base_zxid`` now. Does nothing if it did already. Raises KeyError: no batch ends
        there."""
        if base_zxid <= self.base_zxid:
            return
        i = self._position(base_zxid)
        while self._recent_at + self._gone < i and self._gone < len(self._recent):
            self._drop_oldest()
        del self._ends[:i]
        del self._recent[: self._gone]
        self._recent_at = max(self._recent_at + self._gone - i, 0)
        self._gone = 0
        self.base_zxid = base_zxid

    # -- keeping house --------------------------------------------------------------------------------------

    def purge(self, covered_zxid: int, *, keep_txns: int = KEEP_TXNS, keep_bytes: int = KEEP_BYTES) -> list[str]:
        """A checkpoint covers ``covered_zxid``: let old segments go, less what followers may need (see above).

        Returns the names of those that go.
        """
        gone = self._log.purge(covered_zxid, keep_txns=keep_txns, keep_bytes=keep_bytes)
        self.trim(self._log.base_zxid)
        return gone

    def hold(self, zxid: int) -> LogHold:
        """Keep everything after ``zxid`` in the log for as long as this is not released."""
        return self._log.hold(zxid)

    # -- inside ---------------------------------------------------------------------------------------------

    def _position(self, zxid: int) -> int:
        """How many batches end with ``zxid`` or before it. Raises KeyError unless one ends with it."""
        if zxid == self.base_zxid:
            return 0
        i = bisect_left(self._ends, zxid)
        if i == len(self._ends) or self._ends[i] != zxid:
            raise KeyError(zxid)
        return i + 1

    def _let_go(self) -> None:
        """Drop the oldest batches from memory, but none that could not be read from the disk yet."""
        durable = self._log.durable_zxid
        while self._recent_bytes > self._memory_bytes and self._gone < len(self._recent) - 1:
            batch = self._recent[self._gone]
            assert batch is not None
            if batch.last_zxid > durable:
                break
            self._drop_oldest()
        if self._gone > 1024 and self._gone > len(self._recent) // 2:
            del self._recent[: self._gone]
            self._recent_at += self._gone
            self._gone = 0

    def _drop_oldest(self) -> None:
        batch = self._recent[self._gone]
        assert batch is not None
        self._recent_bytes -= len(batch.payload) + _OVERHEAD
        self._recent[self._gone] = None
        self._gone += 1
