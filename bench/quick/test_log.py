"""A transaction into a batch, and batches made durable: an fdatasync each, whether with one transaction or with 128."""

from __future__ import annotations

import itertools
import select
from pathlib import Path

import pytest
from material import create_txn
from pytest_benchmark.fixture import BenchmarkFixture

from fastzk._log import Batch, TxnLog

RECORD = create_txn(1, "/services/frontend/node-17", 1)


def test_append_1000(benchmark: BenchmarkFixture) -> None:
    def turn() -> Batch:
        batch = Batch()
        for zxid in range(1, 1001):
            batch.append(zxid, RECORD)
        return batch

    assert benchmark(turn).count == 1000


@pytest.mark.parametrize("size", [1, 128])
def test_commit(benchmark: BenchmarkFixture, tmp_path: Path, size: int) -> None:
    """In pytest's temporary folder: where that is in memory, an fdatasync costs nothing."""
    log = TxnLog(tmp_path, b"store of a bench", segment_bytes=4 << 20)
    log.start()
    zxids = itertools.count(1)
    batch = Batch()

    def turn() -> None:
        batch.reset()
        for zxid in itertools.islice(zxids, size):
            batch.append(zxid, RECORD)
        log.submit(batch)
        while not log.take_done()[0]:
            assert select.select([log.event_fd], [], [], 30)[0]

    try:
        benchmark(turn)
        assert log.durable_zxid == log.last_zxid >= size
    finally:
        log.close()
