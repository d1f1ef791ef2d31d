"""The log as the broadcast sees it: where batches end, and the batches behind any of these ends.

The newest batches are in memory, so that followers and the application of what is committed need no disk; older
ones are read back from the log. Of those only the ends are here, 8 bytes each.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import Final

from fastzk._log import TxnLog
from fastzk.server.zab.messages import Proposal
from fastzk.server.zab.role import require

#: Payload bytes of the newest batches that are kept in memory.
MEMORY_BYTES: Final = 32 << 20


class History:
    """What is in ``log`` behind ``base_zxid``: batches that end at ``ends``."""

    def __init__(self, log: TxnLog, base_zxid: int, ends: Iterable[int] = ()) -> None:
        self._log = log
        self._base = base_zxid
        self._ends = array("q", ends)
        self._recent: deque[Proposal] = deque()
        self._recent_bytes = 0

    @property
    def base_zxid(self) -> int:
        """Everything after this one can be had."""
        return self._base

    @property
    def last_zxid(self) -> int:
        """The end of the log, durable or not; ``base_zxid`` if there is nothing behind that."""
        return self._ends[-1] if self._ends else self._base

    def floor(self, zxid: int) -> int:
        """The greatest batch end, or ``base_zxid``, that is not above `zxid`; -1 if `zxid` is below all."""
        if zxid < self._base:
            return -1
        at = bisect_right(self._ends, zxid)
        return self._ends[at - 1] if at else self._base

    def after(self, zxid: int, max_bytes: int) -> list[Proposal]:
        """The batches behind the batch end `zxid`: about `max_bytes` of them, at least one unless it is the last.

        Raises:
            KeyError: `zxid` is no batch end.
            LogCorruption: an older one cannot be read back.
        """
        if self.floor(zxid) != zxid:
            raise KeyError(f"no batch ends at 0x{zxid:x}")
        if zxid == self.last_zxid:
            return []
        following = self._ends[bisect_right(self._ends, zxid)]
        if not self._recent or following < self._recent[0].last_zxid:
            return [
                Proposal(batch.first_zxid, batch.first_zxid + batch.count - 1, batch.count, bytes(batch.payload))
                for batch in self._log.read(zxid, max_bytes)
            ]
        # What is asked for is nearly always at the end.
        found: list[Proposal] = []
        for proposal in reversed(self._recent):
            if proposal.last_zxid <= zxid:
                break
            found.append(proposal)
        found.reverse()
        size = 0
        for count, proposal in enumerate(found, 1):
            size += len(proposal.payload)
            if size >= max_bytes:
                return found[:count]
        return found

    def append(self, proposal: Proposal) -> None:
        """Add a batch at the end; the log gets it, too."""
        self._ends.append(proposal.last_zxid)
        self._recent.append(proposal)
        self._recent_bytes += len(proposal.payload)
        while self._recent_bytes > MEMORY_BYTES and self._recent[0].last_zxid <= self._log.durable_zxid:
            self._recent_bytes -= len(self._recent.popleft().payload)

    def truncate(self, zxid: int) -> None:
        """Drop everything behind the batch end `zxid`; the log does, too."""
        require(self.floor(zxid) == zxid, f"the history cannot be cut at 0x{zxid:x}")
        del self._ends[bisect_right(self._ends, zxid) :]
        while self._recent and self._recent[-1].last_zxid > zxid:
            self._recent_bytes -= len(self._recent.pop().payload)

    def trim(self, zxid: int) -> None:
        """The log was purged up to a batch end, `zxid`."""
        if zxid > self._base:
            require(self.floor(zxid) == zxid, f"the history cannot begin at 0x{zxid:x}")
            del self._ends[: bisect_right(self._ends, zxid)]
            self._base = zxid
            while self._recent and self._recent[0].last_zxid <= zxid:
                self._recent_bytes -= len(self._recent.popleft().payload)

    def keep_from(self, covered_zxid: int, count: int) -> int:
        """The batch end up to which the log may be purged: at most `covered_zxid`, and `count` batches stay."""
        at = min(bisect_right(self._ends, covered_zxid), max(len(self._ends) - count, 0))
        return self._ends[at - 1] if at else self._base


