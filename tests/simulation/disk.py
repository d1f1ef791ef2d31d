"""What a server has on its disk, and what a power cut leaves of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastzk.server.zab.messages import Proposal, follows

from .machine import Checkpoint
from .scheduler import Scheduler


class Owner(Protocol):
    """The server."""

    def persisted(self, zxid: int) -> None:
        """The log is durable up to `zxid`."""


class Disk:
    """A log of batches, the first ``synced`` of which are durable; a promise and a checkpoint, durable when written.

    The log's own thread writes: one fdatasync at a time, for all that was appended before it began. What is not urgent
    waits for what is, or until its time has come.
    """

    #: Microseconds for which a batch waits that is not urgent.
    LAZY = 10_000

    def __init__(self, scheduler: Scheduler, delay: Callable[[], int]) -> None:
        self._scheduler = scheduler
        #: How long an fdatasync takes, in microseconds; -1: it does not return until ``release``.
        self.delay = delay
        self.promise = (0, -1)
        #: The last change of the membership that is known to be committed.
        self.membership = 0
        self.checkpoint: Checkpoint | None = None
        #: The zxid before the first batch.
        self.base = 0
        self.batches: list[Proposal] = []
        self.synced = 0
        self.owner: Owner | None = None
        self._busy = False
        #: Up to here somebody, or the time, has asked for an fdatasync.
        self._wanted = 0
        self._lazy = False
        #: fdatasyncs begun before something was dropped are of no use any more.
        self._generation = 0
        self._stuck: list[tuple[int, int]] = []

    @property
    def last_zxid(self) -> int:
        """The end of what was written."""
        return self.batches[-1].last_zxid if self.batches else self.base

    @property
    def durable(self) -> int:
        """The end of what a power cut leaves for certain."""
        return self.batches[self.synced - 1].last_zxid if self.synced else self.base

    def save(self, epoch: int, candidate: int) -> None:
        """Write a promise."""
        assert epoch > self.promise[0], f"epoch {epoch} is promised after {self.promise}"
        self.promise = (epoch, candidate)

    def adopt(self, zxid: int) -> None:
        """Write that the membership at `zxid` is committed."""
        self.membership = max(self.membership, zxid)

    def append(self, proposal: Proposal, urgent: bool = True) -> None:
        """Write a batch; the owner hears when it is durable."""
        assert follows(self.last_zxid, proposal.first_zxid), "the log gets a hole"
        self.batches.append(proposal)
        if urgent:
            self.sync_all()
        elif not self._lazy:
            self._lazy = True
            self._scheduler.after(self.LAZY, self._lazy_over, self._generation)

    def _lazy_over(self, generation: int) -> None:
        if generation == self._generation:
            self._lazy = False
            self.sync_all()

    def sync_all(self) -> None:
        """Nothing waits any longer."""
        self._wanted = self.last_zxid
        self.sync()

    def sync(self) -> None:
        """Begin an fdatasync if there is none, and something to do."""
        if self._busy or self.durable >= min(self._wanted, self.last_zxid):
            return
        self._busy = True
        delay = self.delay()
        if delay >= 0:
            self._scheduler.after(delay, self._done, self._generation, self.last_zxid)
        else:
            self._stuck.append((self._generation, self.last_zxid))

    def release(self, count: int = 1 << 30) -> None:
        """The fdatasyncs that do not return do, or the first `count`: also those for what was dropped meanwhile."""
        stuck, self._stuck = self._stuck[:count], self._stuck[count:]
        for each in stuck:
            self._done(*each)

    def _done(self, generation: int, zxid: int) -> None:
        if generation != self._generation:
            return
        self._busy = False
        while self.synced < len(self.batches) and self.batches[self.synced].last_zxid <= zxid:
            self.synced += 1
        if self.owner is not None:
            self.owner.persisted(self.durable)
        self.sync()

    def truncate(self, zxid: int) -> None:
        """Drop what is behind the batch end `zxid`, durably."""
        assert zxid == self.base or any(each.last_zxid == zxid for each in self.batches)
        while self.batches and self.batches[-1].last_zxid > zxid:
            self.batches.pop()
        self.synced = min(self.synced, len(self.batches))
        self._restart()
        self.sync_all()

    def keep(self, checkpoint: Checkpoint, tail: int) -> int:
        """Write a checkpoint, and drop batches that it covers, less `tail` of them; where the log begins now."""
        self.checkpoint = checkpoint
        covered = sum(each.last_zxid <= checkpoint.zxid for each in self.batches)
        assert covered <= self.synced, "a checkpoint covers more than is durable"
        dropped = max(0, covered - tail)
        if dropped:
            self.base = self.batches[dropped - 1].last_zxid
            del self.batches[:dropped]
            self.synced -= dropped
        return self.base

    def install(self, checkpoint: Checkpoint) -> None:
        """Another server's state takes the place of everything, in one transaction."""
        self.checkpoint = checkpoint
        self.base = checkpoint.zxid
        self.batches, self.synced = [], 0
        self._restart()

    def crash(self, lost: Callable[[int], int]) -> None:
        """The power is cut: of `n` batches that are not durable ``lost(n)`` are gone, from the end."""
        unsynced = len(self.batches) - self.synced
        if unsynced:
            del self.batches[len(self.batches) - lost(unsynced) :]
        self.synced = len(self.batches)
        self.owner = None
        self._stuck.clear()
        self._restart()

    def _restart(self) -> None:
        self._generation += 1
        self._busy = self._lazy = False
