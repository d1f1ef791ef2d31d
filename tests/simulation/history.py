"""The log as the core sees it, in memory."""

from __future__ import annotations

from bisect import bisect_right

from fastzk.server.zab.messages import Proposal


class ListHistory:
    """``History`` of the broadcast: batches behind ``base_zxid``."""

    def __init__(self, base_zxid: int, batches: list[Proposal]) -> None:
        self.base_zxid = base_zxid
        self._batches = list(batches)
        self._ends = [each.last_zxid for each in batches]

    @property
    def last_zxid(self) -> int:
        return self._ends[-1] if self._ends else self.base_zxid

    def floor(self, zxid: int) -> int:
        if zxid < self.base_zxid:
            return -1
        at = bisect_right(self._ends, zxid)
        return self._ends[at - 1] if at else self.base_zxid

    def after(self, zxid: int, max_bytes: int) -> list[Proposal]:
        if self.floor(zxid) != zxid:
            raise KeyError(zxid)
        at = bisect_right(self._ends, zxid)
        found = self._batches[at : at + 1]
        size = len(found[0].payload) if found else 0
        for batch in self._batches[at + 1 :]:
            size += len(batch.payload)
            if size > max_bytes:
                break
            found.append(batch)
        return found

    def append(self, proposal: Proposal) -> None:
        self._batches.append(proposal)
        self._ends.append(proposal.last_zxid)

    def truncate(self, zxid: int) -> None:
        if self.floor(zxid) != zxid:
            raise KeyError(zxid)
        at = bisect_right(self._ends, zxid)
        del self._batches[at:], self._ends[at:]

    def purge(self, zxid: int) -> None:
        """Forget the batches up to the batch end `zxid`."""
        if zxid > self.base_zxid:
            assert self.floor(zxid) == zxid
            at = bisect_right(self._ends, zxid)
            del self._batches[:at], self._ends[:at]
            self.base_zxid = zxid

    def reset(self, zxid: int) -> None:
        """A full state up to `zxid` has taken its place."""
        self.base_zxid = zxid
        self._batches, self._ends = [], []
