"""The transaction log on a real disk: transactions into a batch, and batches made durable.

Expected: appending linear in the bytes. A commit costs one fdatasync, whatever the batch holds, until writing the bytes
takes as long as that: so transactions a second grow about with the size of the batch, and level off at what the disk
writes. With more batches in flight than one the log thread never waits for this one. The size of what is in the log
already plays no part.
"""

from __future__ import annotations

import select
import statistics
import time

from material import create_txn

from fastzk._log import Batch, TxnLog

from .support import SECONDS, disk

RECORD = create_txn(1, "/services/frontend/node-17", 1)
COMMITS = max(20, int(500 * SECONDS))


class Append:
    """1000 transactions into a batch, in memory."""

    params = (64, 256, 1_024, 16_384)
    param_names = ("bytes",)

    def setup(self, size: int) -> None:
        self.batch = Batch()
        self.record = bytes(size)

    def time_append_1000(self, _size: int) -> None:
        append, record = self.batch.append, self.record
        for zxid in range(1, 1001):
            append(zxid, record)


def commit(size: int, in_flight: int) -> tuple[float, float]:
    """Make `COMMITS` batches durable: (seconds of the median commit, transactions a second)."""
    with disk() as folder:
        log = TxnLog(folder, b"store of a bench", segment_bytes=16 << 20)
        log.start()
        try:
            took: list[float] = []
            began: dict[int, float] = {}
            free = [Batch() for _ in range(in_flight)]
            zxid, first = 1, time.perf_counter()
            while len(took) < COMMITS:
                while free and len(took) + len(began) < COMMITS:
                    batch = free.pop()
                    batch.reset()
                    for number in range(zxid, zxid + size):
                        batch.append(number, RECORD)
                    zxid += size
                    began[id(batch)] = time.perf_counter()
                    log.submit(batch)
                if not select.select([log.event_fd], [], [], 30)[0]:
                    raise RuntimeError("nothing became durable within 30 s")
                durable, refused = log.take_done()
                if refused:
                    raise RuntimeError("the disk is full")
                now = time.perf_counter()
                took += [now - began.pop(id(batch)) for batch in durable]
                free += durable
            return statistics.median(took), COMMITS * size / (time.perf_counter() - first)
        finally:
            log.close()


class GroupCommit:
    """Batches of so many transactions of some 250 bytes, so many in flight."""

    params = ((1, 16, 128, 1_024), (1, 4))
    param_names = ("transactions", "in flight")

    def track_commit(self, size: int, in_flight: int) -> float:
        return commit(size, in_flight)[0] * 1e6

    track_commit.unit = "us"

    def track_transactions_per_second(self, size: int, in_flight: int) -> float:
        return commit(size, in_flight)[1]

    track_transactions_per_second.unit = "1/s"
