"""The history of batches: the same answers from memory, from the disk, and after a restart."""

from __future__ import annotations

import os
import select
import struct
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastzk import _log
from fastzk._log import Batch, TxnLog, write_base
from fastzk.server.history import History
from fastzk.server.zab.messages import Proposal

STORE = b"store of the tst"
SMALL = 64 * 1024


def proposal(first: int, count: int = 1, size: int = 40) -> Proposal:
    records = []
    for zxid in range(first, first + count):
        records.append(struct.pack(">qiqqi", 1, 2, zxid, 3, 5) + zxid.to_bytes(8, "big") * (size // 8))
    payload = b"".join(struct.pack("<I", len(each)) + each for each in records)
    return Proposal(first, first + count - 1, count, payload)


def submit(log: TxnLog, batch: Proposal) -> None:
    filled = Batch()
    filled.adopt(batch.first_zxid, batch.last_zxid, batch.count, batch.payload)
    log.submit(filled)


def settle(log: TxnLog) -> None:
    deadline = time.monotonic() + 10
    while log.pending:
        assert time.monotonic() < deadline, "never durable"
        select.select([log.event_fd], [], [], 1)
        log.take_done()
    log.take_done()


def begin(directory: Path, base: int) -> None:
    """Make an empty log there."""
    descriptor = os.open(directory, os.O_RDONLY)
    write_base(descriptor, base)
    os.close(descriptor)


class Parts:
    """A log with its history."""

    def __init__(self, directory: Path, memory_bytes: int = 1 << 20, base: int = 0) -> None:
        if not any(directory.iterdir()):
            begin(directory, base)
        self.log = TxnLog(directory, STORE, segment_bytes=SMALL)
        for _ in self.log.recover(base):
            pass
        self.history = History(self.log, memory_bytes=memory_bytes)
        self.log.start()

    def append(self, batch: Proposal) -> Proposal:
        self.history.append(batch)
        submit(self.log, batch)
        return batch

    def truncate(self, zxid: int) -> None:
        self.history.truncate(zxid)
        self.log.truncate(zxid)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Parts]]:
    made: list[Parts] = []

    def open_it(memory_bytes: int = 1 << 20, base: int = 0) -> Parts:
        for parts in made:
            parts.log.close()
        made.append(Parts(tmp_path, memory_bytes, base))
        return made[-1]

    yield open_it
    for parts in made:
        parts.log.close()


def everything(history: History, after: int, max_bytes: int = 5000) -> list[Proposal]:
    found = []
    while batches := history.after(after, max_bytes):
        found += batches
        after = batches[-1].last_zxid
    return found


@pytest.mark.parametrize("memory", [0, 3000, 1 << 20])
def test_memory_disk_and_restart_agree(opened: Callable[..., Parts], memory: int) -> None:
    parts = opened(memory)
    batches = []
    first = 1
    for number in range(120):
        count = number % 5 + 1
        batches.append(parts.append(proposal(first, count, 400)))
        first += count
        if number % 10 == 9:
            settle(parts.log)
        if number % 40 == 39:
            first = ((first >> 32) + 2) << 32 | 1
    ends = [0, *(batch.last_zxid for batch in batches)]
    for _ in range(2):
        history = parts.history
        assert (history.base_zxid, history.last_zxid, len(history)) == (0, ends[-1], 120)
        for i, end in enumerate(ends):
            assert history.is_end(end)
            assert everything(history, end) == batches[i:]
            for zxid in (end - 1, end, end + 1, end + (1 << 32)):
                assert history.floor(zxid) == (ends[bisect_right(ends, zxid) - 1] if zxid >= 0 else -1)
                if zxid not in ends:
                    assert not history.is_end(zxid)
                    with pytest.raises(KeyError):
                        history.after(zxid, 1)
        assert len(history.after(0, 0)) == 1
        settle(parts.log)
        parts = opened(memory)


def test_memory_is_bounded_but_holds_what_is_not_durable(opened: Callable[..., Parts]) -> None:
    parts = opened(20_000)
    _log._inject(fsync_delay_ns=200_000_000)
    try:
        batches = [parts.append(proposal(zxid, 1, 2000)) for zxid in range(1, 31)]
        assert parts.history.memory > 50_000
        assert everything(parts.history, 0) == batches
    finally:
        _log._inject()
    settle(parts.log)
    batches.append(parts.append(proposal(31)))
    assert parts.history.memory <= 20_000
    assert everything(parts.history, 0) == batches
    assert everything(parts.history, 29) == batches[29:]
    huge = parts.append(proposal(32, 1, 100_000))
    assert everything(parts.history, 31) == [huge]


def test_only_what_follows_is_appended(opened: Callable[..., Parts]) -> None:
    history = opened().history
    history.append(proposal(1, 3))
    for wrong in (3, 5, 1 << 32, 1 << 32 | 2):
        with pytest.raises(ValueError, match="follow"):
            history.append(proposal(wrong))
    history.append(proposal(4))
    history.append(proposal(5 << 32 | 1, 2))
    with pytest.raises(ValueError, match="follow"):
        history.append(proposal(4 << 32 | 1))
    assert history.last_zxid == 5 << 32 | 2


@pytest.mark.parametrize("memory", [0, 2000, 1 << 20])
@pytest.mark.parametrize("to", [0, 4, 100, 196, 200])
def test_truncate(opened: Callable[..., Parts], memory: int, to: int) -> None:
    parts = opened(memory)
    batches = [parts.append(proposal(zxid, 4, 1000)) for zxid in range(1, 201, 4)]
    settle(parts.log)
    with pytest.raises(KeyError):
        parts.history.truncate(to + 1)
    parts.history.truncate(to)
    kept = batches[: to // 4]
    # before the log itself is cut, and with a newer epoch begun
    assert everything(parts.history, 0) == kept
    assert (parts.history.last_zxid, len(parts.history)) == (to, len(kept))
    newer = proposal(9 << 32 | 1, 2)
    parts.history.append(newer)
    assert everything(parts.history, 0) == [*kept, newer]
    parts.log.truncate(to)
    submit(parts.log, newer)
    settle(parts.log)
    assert everything(parts.history, 0) == [*kept, newer]
    assert (parts.log.last_zxid, parts.log.durable_zxid) == (newer.last_zxid, newer.last_zxid)
    parts = opened(memory)
    assert everything(parts.history, 0) == [*kept, newer]


def test_purge_keeps_history_and_log_together(opened: Callable[..., Parts]) -> None:
    parts = opened(3000)
    batches = [parts.append(proposal(zxid, 4, 1000)) for zxid in range(1, 401, 4)]
    settle(parts.log)
    assert parts.history.purge(400) == []  # fewer than what is kept for followers
    hold = parts.history.hold(300)
    assert parts.history.purge(400, keep_txns=200)
    base = parts.history.base_zxid
    assert base == parts.log.base_zxid
    assert 100 < base <= 200
    assert parts.history.floor(base - 1) == -1
    assert everything(parts.history, base) == batches[base // 4 :]
    with pytest.raises(KeyError):
        parts.history.after(base - 4, 1)
    parts.history.purge(400, keep_txns=0)
    assert base < parts.history.base_zxid <= 300
    hold.release()
    parts.history.purge(400, keep_txns=0)
    assert parts.history.base_zxid > 300
    base = parts.history.base_zxid
    assert everything(parts.history, base) == batches[base // 4 :]
    with pytest.raises(ValueError, match="begins"):
        parts.log.truncate(base - 4)
    parts = opened(base=base)
    assert parts.history.base_zxid <= base  # segments that were not removed yet are there again
    assert everything(parts.history, parts.history.base_zxid) == batches[parts.history.base_zxid // 4 :]


def test_a_log_that_begins_behind_a_state(opened: Callable[..., Parts], tmp_path: Path) -> None:
    base = 7 << 32 | 5
    begin(tmp_path, base)
    for number in range(3):
        parts = opened(base=base)
        assert (parts.history.base_zxid, len(parts.history)) == (base, number)
        parts.append(proposal((8 + number) << 32 | 1))
        settle(parts.log)
        epochs = [batch.first_zxid >> 32 for batch in everything(parts.history, base)]
        assert epochs == list(range(8, 9 + number))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sequence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Against a plain list of all batches."""
    directory = tmp_path_factory.mktemp("history")
    parts = Parts(directory, data.draw(st.sampled_from([0, 2000, 1 << 20])))
    model: list[Proposal] = []
    purged: list[Proposal] = []
    base = 0
    try:
        for _ in range(data.draw(st.integers(1, 12))):
            last = model[-1].last_zxid if model else base
            step = data.draw(st.sampled_from(["append", "append", "epoch", "truncate", "purge", "restart"]))
            if step in ("append", "epoch"):
                first = last + 1 if step == "append" and last else ((last >> 32) + 1) << 32 | 1
                for _ in range(data.draw(st.integers(1, 8))):
                    batch = proposal(first, data.draw(st.integers(1, 3)), data.draw(st.sampled_from([8, 8000])))
                    model.append(parts.append(batch))
                    first = batch.last_zxid + 1
            settle(parts.log)
            ends = [base, *(batch.last_zxid for batch in model)]
            if step == "truncate":
                keep = data.draw(st.integers(0, len(model)))
                parts.truncate(ends[keep])
                del model[keep:]
            elif step == "purge":
                parts.history.purge(data.draw(st.sampled_from(ends)), keep_txns=0)
                assert parts.history.base_zxid in ends
                gone = ends.index(parts.history.base_zxid)
                purged += model[:gone]
                del model[:gone]
                base = parts.history.base_zxid
            elif step == "restart":
                parts.log.close()
                parts = Parts(directory, 2000, base)
                # what was purged, but not removed yet, is there again
                base = parts.history.base_zxid
                whole = [*purged, *model]
                model = [batch for batch in whole if batch.last_zxid > base]
                purged = [batch for batch in whole if batch.last_zxid <= base]
            ends = [base, *(batch.last_zxid for batch in model)]
            assert parts.history.base_zxid == base
            assert parts.history.last_zxid == ends[-1]
            start = data.draw(st.integers(0, len(model)))
            assert everything(parts.history, ends[start]) == model[start:]
    finally:
        parts.log.close()
