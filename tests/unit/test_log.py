"""The transaction log: what was made durable comes back, nothing else does, and damage is not a torn end."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import select
import shutil
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastzk import _log
from fastzk._log import HEADER_BYTES, Batch, LogCorruption, LogFailed, TxnLog, iter_records, scan

STORE = b"store of the tst"
SMALL = 64 * 1024
DATA = 4096  # where the first batch of a segment starts
DEADLINE = 10.0  # seconds


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    _log._inject()
    yield
    _log._inject()


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[Callable[..., TxnLog]]:
    """Opens and starts the log of `tmp_path`; whatever is still open at the end is closed."""
    opened = []

    def open_it(directory: Path = tmp_path, store_id: bytes = STORE) -> TxnLog:
        log = TxnLog(directory, store_id, segment_bytes=SMALL)
        opened.append(log)
        log.start()
        return log

    yield open_it
    _log._inject()
    for log in opened:
        log.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def record(zxid: int, size: int = 40) -> bytes:
    """A record which names its zxid, so that a wrong one cannot go unnoticed."""
    return (f"{zxid:016x}".encode() * (size // 16 + 1))[:size]


def make(first: int, count: int = 1, size: int = 40) -> Batch:
    batch = Batch()
    for zxid in range(first, first + count):
        batch.append(zxid, record(zxid, size))
    return batch


def wait_events(log: TxnLog) -> tuple[list[Batch], list[Batch]]:
    """Wait for the eventfd, as the event loop does, then ask."""
    ready, _, _ = select.select([log.event_fd], [], [], DEADLINE)
    assert ready, "the eventfd was never written"
    return log.take_done()


def finish(log: TxnLog, count: int = 1) -> list[Batch]:
    """Wait until `count` batches are reported durable."""
    done: list[Batch] = []
    while len(done) < count:
        more, refused = wait_events(log)
        assert not refused
        done += more
    return done


def put(log: TxnLog, first: int, count: int = 1, size: int = 40) -> None:
    """Log one batch and wait for it."""
    log.submit(make(first, count, size))
    finish(log)


def fill(log: TxnLog, first: int, last: int, count: int = 4, size: int = 1000) -> None:
    """Log zxids `first` to `last` in batches of `count`, each made durable before the next."""
    for zxid in range(first, last + 1, count):
        put(log, zxid, min(count, last + 1 - zxid), size)


def read(directory: Path, after: int = 0, store_id: bytes = STORE) -> dict[int, bytes]:
    """zxid -> record of everything recovered; batches must be in order."""
    found: dict[int, bytes] = {}
    for batch in TxnLog(directory, store_id).recover(after):
        records = list(iter_records(batch.payload))
        assert len(records) == batch.count
        assert batch.epoch == batch.first_zxid >> 32
        for zxid, content in enumerate(records, batch.first_zxid):
            assert not found or zxid > max(found)
            found[zxid] = bytes(content)
    return found


def expected(first: int, last: int, size: int = 1000) -> dict[int, bytes]:
    return {zxid: record(zxid, size) for zxid in range(first, last + 1)}


def segment_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("log.*"))


def spare_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("spare.*"))


def batches_of(path: Path) -> list[tuple[int, int]]:
    """(offset, whole length with header) of each batch of the segment, by their headers."""
    content = path.read_bytes()
    segment_id = content[32:40]
    at, found = DATA, []
    while content[at + 40 : at + 48] == segment_id:
        length = HEADER_BYTES + struct.unpack_from("<I", content, at + 16)[0]
        found.append((at, length))
        at += (length + 7) & ~7
    return found


def patch(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def picture(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    """Everything a reader could have changed."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(directory.iterdir())
    } | {".": (b"", directory.stat().st_mtime_ns, 0)}


# --- batches and records


def test_a_batch_takes_consecutive_zxids_only() -> None:
    batch = make(7, 3)
    with pytest.raises(ValueError, match="does not follow"):
        batch.append(11, b"x")
    assert (batch.first_zxid, batch.last_zxid, batch.count) == (7, 9, 3)
    assert [bytes(r) for r in iter_records(batch.payload())] == [record(7), record(8), record(9)]
    batch.reset()
    assert (batch.count, batch.nbytes, batch.payload()) == (0, 0, b"")


def test_a_batch_survives_growth_and_reuse_after_a_huge_record() -> None:
    batch = Batch()
    for size in (0, 1, 20_000, 3_000_000, 5):
        batch.reset()
        batch.append(1, b"a" * size)
        batch.append(2, b"b" * size)
        assert [bytes(r) for r in iter_records(batch.payload())] == [b"a" * size, b"b" * size]


@given(st.binary(max_size=60))
def test_iter_records_never_reads_past_the_end(payload: bytes) -> None:
    try:
        records = [bytes(r) for r in iter_records(payload)]
    except ValueError:
        return
    assert b"".join(struct.pack("<I", len(r)) + r for r in records) == payload


@pytest.mark.parametrize("payload", [b"\x01", b"\x01\0\0\0", b"\xff\xff\xff\xffabc", b"\0\0\0\0\x02\0\0\0a"])
def test_iter_records_refuses_malformed_payloads(payload: bytes) -> None:
    with pytest.raises(ValueError, match="record"):
        list(iter_records(payload))


# --- appending and reading back


def test_round_trip(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    log.submit(batch := make(1, 3, 0))
    assert finish(log) == [batch]
    put(log, 4, 1, 1)
    put(log, 5, 10, 333)
    assert log.durable_zxid == log.last_zxid == 14
    assert not log.pending
    assert log.fsyncs == 3
    assert log.fsync_ns_total >= log.fsync_ns_max > 0
    wanted = expected(1, 3, 0) | expected(4, 4, 1) | expected(5, 14, 333)
    assert read(tmp_path) == wanted
    log.close()
    assert read(tmp_path) == wanted
    report = scan(tmp_path)
    assert report.corruption is None
    assert report.torn_tail is None
    assert (report.store_id, report.segments, report.batches, report.txns) == (STORE, 1, 3, 14)
    assert (report.first_zxid, report.last_zxid, report.bytes) == (1, 14, 14 * 4 + 1 + 3330)


def test_an_empty_directory(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    assert read(tmp_path) == {}
    assert scan(tmp_path).segments == 0
    log = open_log()
    log.close()
    assert segment_files(tmp_path) == []
    assert read(tmp_path) == {}


def test_it_goes_on_after_restarts(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    for zxid in range(100, 110):
        log = open_log()
        assert log.last_zxid == (zxid - 1 if zxid > 100 else 0)
        put(log, zxid)
        log.close()
    assert read(tmp_path, 99) == expected(100, 109, 40)
    assert len(segment_files(tmp_path)) == 1


def test_recovered_batches_say_where_they_stand(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, (3 << 32) + 1, 2)
    put(log, (3 << 32) + 3, 1)
    put(log, (5 << 32) + 1, 1)
    found = list(TxnLog(tmp_path, STORE).recover((3 << 32) + 1))
    assert [(b.first_zxid, b.count, b.epoch) for b in found] == [
        ((3 << 32) + 1, 2, 3),
        ((3 << 32) + 3, 1, 3),
        ((5 << 32) + 1, 1, 5),
    ]
    (path,) = segment_files(tmp_path)
    assert {b.path for b in found} == {str(path)}
    assert [b.offset for b in found] == [at for at, _ in batches_of(path)]


def test_group_commit(open_log: Callable[..., TxnLog], tmp_path: Path) -> None:
    log = open_log()
    put(log, 1)
    before = log.fsyncs
    _log._inject(fsync_delay_ns=20_000_000)
    batches = [make(zxid) for zxid in range(2, 42)]
    for batch in batches:
        log.submit(batch)
    assert log.pending
    assert finish(log, 40) == batches
    assert log.fsyncs - before <= 4
    assert read(tmp_path) == expected(1, 41, 40)


def test_submit_refuses_nonsense(open_log: Callable[..., TxnLog], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        TxnLog(tmp_path, STORE).submit(make(1))
    log = open_log()
    with pytest.raises(ValueError, match="not a batch"):
        log.submit(Batch())
    odd = make(5)
    odd.last_zxid = 6
    with pytest.raises(ValueError, match="not a batch"):
        log.submit(odd)
    with pytest.raises(ValueError, match="not a batch"):
        log.submit(make(0xFFFFFFFF, 2))
    put(log, 5)
    for first in (5, 7, 4, (1 << 32) + 2):
        with pytest.raises(ValueError, match="does not follow"):
            log.submit(make(first))
    _log._inject(fsync_delay_ns=50_000_000)
    log.submit(batch := make((1 << 32) + 1))
    with pytest.raises(ValueError, match="submitted already"):
        log.submit(batch)
    with pytest.raises(RuntimeError):
        batch.append((1 << 32) + 2, b"")
    with pytest.raises(RuntimeError):
        batch.reset()
    finish(log)
    batch.reset()
    assert log.last_zxid == (1 << 32) + 1


@pytest.mark.parametrize(
    ("store_id", "size"), [(b"short", SMALL), (STORE, SMALL - 4096), (STORE, SMALL + 1)]
)
def test_bad_arguments(tmp_path: Path, store_id: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="must"):
        TxnLog(tmp_path, store_id, segment_bytes=size)
    with pytest.raises(FileNotFoundError):
        TxnLog(tmp_path / "none", STORE)


def test_files_are_private_and_prewritten(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 0x1F)
    until(lambda: spare_files(tmp_path))
    assert [p.name for p in segment_files(tmp_path)] == ["log.000000000000001f"]
    for path in tmp_path.iterdir():
        status = path.stat()
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_size == SMALL
        assert status.st_blocks * 512 >= SMALL


def test_durable_to_never_says_too_much(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1)
    _log._inject(fsync_delay_ns=2_000_000)
    durable_after = {}  # what was durable at most when the batch was stamped
    for zxid in range(2, 60):
        log.submit(make(zxid))
        durable_after[zxid] = log.durable_zxid
        if zxid % 3 == 0:
            time.sleep(0.001)
    finish(log, 58)
    (path,) = segment_files(tmp_path)
    content, placed = path.read_bytes(), batches_of(path)
    ends = {zxid: at + ((n + 7) & ~7) for zxid, (at, n) in enumerate(placed, 1)}
    claims = [struct.unpack_from("<Q", content, at + 56)[0] for at, _ in placed]
    for zxid in range(2, 60):
        assert claims[zxid - 1] <= ends[durable_after[zxid]]
    assert claims[-1] > DATA
    assert claims == sorted(claims)


def test_the_log_thread_needs_no_gil(open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        log.submit(make(2))
        deadline = time.monotonic() + DEADLINE
        while log.durable_zxid != 2 and time.monotonic() < deadline:
            pass  # pure Python that never lets go of the GIL
        assert log.durable_zxid == 2
    finally:
        sys.setswitchinterval(interval)
    assert len(log.take_done()[0]) == 1


def test_batches_in_flight_outlive_their_owners(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1)
    _log._inject(fsync_delay_ns=20_000_000)
    for zxid in range(2, 12):
        log.submit(make(zxid, 1, 3000))
        gc.collect()
    junk = [bytes(3100) for _ in range(1000)]
    finish(log, 10)
    assert len(junk) == 1000
    assert read(tmp_path, 1) == expected(2, 11, 3000)


def test_close_waits_and_leaves_the_rest_to_take(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    _log._inject(fsync_delay_ns=5_000_000)
    batches = [make(zxid, 1, 9000) for zxid in range(1, 30)]  # over several segments
    for batch in batches:
        log.submit(batch)
    log.close()
    assert log.durable_zxid == 29
    assert log.take_done() == (batches, [])
    assert log.take_done() == ([], [])
    log.close()
    with pytest.raises(RuntimeError):
        log.submit(make(30))
    assert read(tmp_path) == expected(1, 29, 9000)


def test_a_log_that_is_dropped_open_ends_well(tmp_path: Path) -> None:
    gc.collect()  # what other tests have left
    fds = len(os.listdir("/proc/self/fd"))
    for first in range(1, 30, 3):
        log = TxnLog(tmp_path, STORE, segment_bytes=SMALL)
        log.start()
        for zxid in range(first, first + 3):
            log.submit(make(zxid))
        finish(log, 2)  # the third may still be in flight
        del log
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == fds
    assert read(tmp_path) == expected(1, 30, 40)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_leaves_the_log_alone(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1)
    child = os.fork()
    if child == 0:
        log = None  # type: ignore[assignment]
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    put(log, 2)
    assert read(tmp_path) == expected(1, 2, 40)


# --- segments


def test_rotation(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 300)
    names = [p.name for p in segment_files(tmp_path)]
    assert len(names) >= 5
    assert [os.path.basename(s.path) for s in log.segments] == names
    assert log.segments[-1].last_zxid == 300
    for one, following in itertools.pairwise(log.segments):
        assert following.first_zxid == one.last_zxid + 1
        assert os.path.basename(one.path) == f"log.{one.first_zxid:016x}"
    log.close()
    for after in (0, 1, 3, 4, 57, 150, 299, 300):
        found = read(tmp_path, after)
        assert {z: r for z, r in found.items() if z > after} == expected(after + 1, 300)
        assert min(found, default=301) > after - 4  # whole batches that are known already are not yielded


def test_rotation_while_many_batches_are_queued(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    batches = [make(zxid, 1, 5000) for zxid in range(1, 101)]
    for batch in batches:
        log.submit(batch)
    assert finish(log, 100) == batches
    assert len(log.segments) > 7
    assert read(tmp_path) == expected(1, 100, 5000)


def test_a_batch_larger_than_a_segment(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1)
    put(log, 2, 1, 3 * SMALL)
    put(log, 3)
    put(log, 4, 2, SMALL)
    put(log, 6)
    wanted = {1: record(1), 3: record(3), 6: record(6)} | expected(2, 2, 3 * SMALL) | expected(4, 5, SMALL)
    assert read(tmp_path) == wanted
    log.close()
    log = open_log()
    fill(log, 7, 100)
    assert read(tmp_path) == wanted | expected(7, 100)


def test_a_batch_that_fills_a_segment_exactly(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    exact = SMALL - DATA - HEADER_BYTES - 4
    put(log, 1, 1, exact)
    put(log, 2, 1, exact)
    put(log, 3, 1, exact + 1)
    assert [os.stat(s.path).st_size for s in log.segments] == [SMALL, SMALL, SMALL + 4096]
    assert read(tmp_path) == expected(1, 2, exact) | expected(3, 3, exact + 1)


def test_purge_and_recycling(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    last = 0
    inodes: set[int] = set()
    reused = 0
    for _ in range(6):
        fill(log, last + 1, last + 200)
        last += 200
        inodes |= {p.stat().st_ino for p in segment_files(tmp_path)}
        gone = log.purge(last - 50)
        assert gone
        until(lambda: not any((tmp_path / name).exists() for name in gone))  # noqa: B023
        first = log.segments[0].first_zxid
        assert first <= last - 50 + 1
        assert read(tmp_path, first - 1) == expected(first, last)
        until(lambda: spare_files(tmp_path))
        assert len(spare_files(tmp_path)) <= 2
        reused += len({p.stat().st_ino for p in spare_files(tmp_path)} & inodes)
    assert reused > 0
    log.close()
    assert {p.name[:4] for p in tmp_path.iterdir()} <= {"log.", "spar"}
    report = scan(tmp_path)
    assert report.corruption is None
    assert report.torn_tail is None
    log = open_log()
    put(log, last + 1)
    with pytest.raises(LogCorruption, match="missing transactions"):
        read(tmp_path)


def test_purge_keeps_what_it_must(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 300)
    names = [os.path.basename(s.path) for s in log.segments]
    assert log.purge(0) == []
    assert log.purge(log.segments[0].last_zxid - 1) == []
    assert log.purge(10**9, keep_segments=len(names)) == []
    assert log.purge(log.segments[0].last_zxid) == names[:1]
    assert log.purge(10**9, keep_segments=1) == names[1:-2]
    assert log.purge(10**9) == names[-2:-1]
    assert log.purge(10**9) == []
    until(lambda: [p.name for p in segment_files(tmp_path)] == names[-1:])
    put(log, 301)


@pytest.mark.parametrize("zxid", [1, 2, 4, 5, 61, 62, 120, 149, 150, 151, 0])
def test_truncate(tmp_path: Path, open_log: Callable[..., TxnLog], zxid: int) -> None:
    log = open_log()
    fill(log, 1, 150)
    log.truncate(200)
    assert log.last_zxid == 150
    log.truncate(zxid)
    kept = min(zxid, 150)
    assert log.last_zxid == log.durable_zxid == kept
    assert read(tmp_path) == expected(1, kept)
    put(log, kept + 1, 3, 7)
    wanted = expected(1, kept) | expected(kept + 1, kept + 3, 7)
    assert read(tmp_path) == wanted
    log.close()
    log = open_log()
    fill(log, kept + 4, kept + 200)
    assert read(tmp_path) == wanted | expected(kept + 4, kept + 200)
    assert scan(tmp_path).torn_tail is None


def test_truncate_needs_an_idle_log(open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1, 5)
    _log._inject(fsync_delay_ns=50_000_000)
    log.submit(make(6))
    with pytest.raises(RuntimeError, match="idle"):
        log.truncate(3)
    finish(log)
    _log._inject()
    log.truncate(3)
    assert log.durable_zxid == 3


def test_truncate_does_not_reach_behind_a_purge(open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 200)
    log.purge(100)
    with pytest.raises(ValueError, match="where the log begins"):
        log.truncate(20)
    log.truncate(150)
    put(log, 151)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_history_reads_back(tmp_path: Path, data: st.DataObject) -> None:
    """A log put through anything an owner may do holds what a dictionary put through the same does."""
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    log = TxnLog(tmp_path, STORE, segment_bytes=SMALL)
    log.start()
    model: dict[int, bytes] = {}
    last = 0
    steps = st.sampled_from(["put", "put", "put", "many", "restart", "purge", "truncate", "epoch"])
    try:
        for step in data.draw(st.lists(steps, max_size=25)):
            if step == "put":
                count, size = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 4000))
                put(log, last + 1, count, size)
                model |= expected(last + 1, last + count, size)
                last += count
            elif step == "many":
                for zxid in range(last + 1, last + 21):
                    log.submit(make(zxid, 1, 2000))
                finish(log, 20)
                model |= expected(last + 1, last + 20, 2000)
                last += 20
            elif step == "restart":
                log.close()
                log = TxnLog(tmp_path, STORE, segment_bytes=SMALL)
                log.start()
                assert log.last_zxid == last
            elif step == "purge" and model:
                covered = data.draw(st.sampled_from(sorted(model)))
                log.purge(covered)
                first = log.segments[0].first_zxid
                assert all(zxid <= covered for zxid in model if zxid < first)
                model = {zxid: content for zxid, content in model.items() if zxid >= first}
            elif step == "truncate" and model:
                last = data.draw(st.sampled_from(sorted(model)))
                log.truncate(last)
                model = {zxid: content for zxid, content in model.items() if zxid <= last}
            elif step == "epoch":
                last = ((last >> 32) + 1 << 32) + 1
                put(log, last, 1, 5)
                model[last] = record(last, 5)
    finally:
        log.close()
    first = min(model, default=1)
    found = read(tmp_path, first - 1)
    assert {zxid: content for zxid, content in found.items() if zxid >= first} == model
    assert scan(tmp_path).torn_tail is None


# --- torn tails


@pytest.fixture
def three_batches(tmp_path: Path, open_log: Callable[..., TxnLog]) -> tuple[Path, bytes, int, int]:
    """A log of three batches: its segment, the content, offset and length of the last."""
    log = open_log()
    put(log, 1, 2)
    put(log, 3, 1)
    put(log, 4, 1, 13)
    log.close()
    (path,) = segment_files(tmp_path)
    at, length = batches_of(path)[-1]
    return path, path.read_bytes(), at, length


@pytest.mark.parametrize("damage", ["cut", "garbage", "zeros"])
def test_a_torn_tail_at_every_byte(
    tmp_path: Path, three_batches: tuple[Path, bytes, int, int], damage: str
) -> None:
    path, content, at, length = three_batches
    for torn in range(at, at + length):
        if damage == "cut":
            path.write_bytes(content[:torn])
        elif damage == "garbage":
            garbage = bytes(b ^ 0xA5 for b in content[torn : at + length + 50])
            path.write_bytes(content[:torn] + garbage + bytes(3000))
        else:
            path.write_bytes(content[:torn] + bytes(len(content) - torn))
        whole = path.read_bytes()[at : at + length] == content[at : at + length]
        wanted = expected(1, 3, 40) | (expected(4, 4, 13) if whole else {})
        assert read(tmp_path) == wanted
        log = TxnLog(tmp_path, STORE, segment_bytes=SMALL)
        log.start()
        assert log.last_zxid == max(wanted)
        put(log, log.last_zxid + 1, 1, 21)
        log.close()
        assert read(tmp_path) == wanted | expected(max(wanted) + 1, max(wanted) + 1, 21)
        for newer in segment_files(tmp_path)[1:]:
            newer.unlink()


def test_a_torn_tail_is_reported_and_cut(
    tmp_path: Path, three_batches: tuple[Path, bytes, int, int], caplog: pytest.LogCaptureFixture
) -> None:
    path, content, at, length = three_batches
    patch(path, at + length - 1, bytes([content[at + length - 1] ^ 1]))
    report = scan(tmp_path)
    assert report.torn_tail == (str(path), at)
    assert (report.corruption, report.last_zxid) == (None, 3)
    log = TxnLog(tmp_path, STORE, segment_bytes=SMALL)
    assert [b.first_zxid for b in log.recover(0)] == [1, 3]
    assert not caplog.records
    log.start()
    assert str(path) in caplog.text
    assert f"byte {at}" in caplog.text
    log.close()
    assert path.read_bytes()[at : at + HEADER_BYTES] == bytes(HEADER_BYTES)
    assert scan(tmp_path).torn_tail is None


def test_what_follows_a_torn_batch_stays_dead(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    """Two batches under one fdatasync; the first is lost. Writing it again must not revive the second."""
    log = open_log()
    put(log, 1)
    _log._inject(fsync_delay_ns=30_000_000)
    for zxid in (2, 3, 4):  # 3 and 4 wait together while 2 is synced
        log.submit(make(zxid))
    finish(log, 3)
    log.close()
    _log._inject()
    (path,) = segment_files(tmp_path)
    content = path.read_bytes()
    (third, length), (fourth, _) = batches_of(path)[2:]
    assert struct.unpack_from("<Q", content, fourth + 56)[0] <= third
    patch(path, third + 80, b"\0")
    assert read(tmp_path) == expected(1, 2, 40)
    log = open_log()
    assert log.last_zxid == 2
    log.close()
    # the same bytes at the same place, as bad luck could have it
    patch(path, third, content[third : third + length])
    assert read(tmp_path) == expected(1, 3, 40)
    assert scan(tmp_path).last_zxid == 3


def test_a_new_segment_that_was_never_completed_is_removed(
    tmp_path: Path, open_log: Callable[..., TxnLog], caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log()
    fill(log, 1, 80)
    log.close()
    stale = segment_files(tmp_path)[0].read_bytes()
    newest = tmp_path / f"log.{81:016x}"
    # nothing, zeros, and a recycled file with a half written header and old batches
    for content in (b"", bytes(SMALL), b"\x11" * 40 + stale[40:]):
        newest.write_bytes(content)
        before = picture(tmp_path)
        assert read(tmp_path) == expected(1, 80)
        assert picture(tmp_path) == before
        assert scan(tmp_path).torn_tail == (str(newest), 0)
        log = open_log()
        assert log.last_zxid == 80
        log.close()
        assert str(newest) in caplog.text
        caplog.clear()
        assert not newest.exists()
    log = open_log()
    put(log, 81, 1, 1000)
    assert read(tmp_path) == expected(1, 81)


# --- damage


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of several segments, closed, whose tests put back whatever they change."""
    directory = tmp_path_factory.mktemp("long")
    log = TxnLog(directory, STORE, segment_bytes=SMALL)
    log.start()
    fill(log, 1, 200)
    log.close()
    for path in spare_files(directory):
        path.unlink()
    assert len(segment_files(directory)) >= 4
    return directory


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_never_yields_a_wrong_batch(long_log: Path, data: st.DataObject) -> None:
    files = segment_files(long_log)
    index = data.draw(st.integers(0, len(files) - 1))
    path = files[index]
    placed = batches_of(path)
    content = path.read_bytes()
    starts = [at for at, _ in placed]
    near = st.sampled_from([0, *starts]).flatmap(lambda at: st.integers(at, at + HEADER_BYTES - 1))
    offset = data.draw(st.one_of(near, st.integers(0, len(content) - 1)))
    bit = data.draw(st.integers(0, 7))
    within = [i for i, (at, n) in enumerate(placed) if at <= offset < at + n]
    newest = path == files[-1]
    last = newest and within == [len(placed) - 1]
    must_fail = (bool(within) or offset < 96) and not last
    patch(path, offset, bytes([content[offset] ^ 1 << bit]))
    try:
        if must_fail:
            with pytest.raises(LogCorruption) as caught:
                read(long_log)
            assert caught.value.path == str(path)
            assert caught.value.offset == (placed[within[0]][0] if within else 0)
            report = scan(long_log)
            assert report.corruption is not None
            assert report.corruption.offset == caught.value.offset
        else:
            assert read(long_log) == expected(1, 200 - (4 if last else 0))
            assert scan(long_log).corruption is None
    finally:
        patch(path, offset, content[offset : offset + 1])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arbitrary_damage_never_yields_a_wrong_batch(long_log: Path, data: st.DataObject) -> None:
    """Overwrite, cut, or exchange pieces anywhere: recovery yields a prefix of the truth or refuses."""
    files = segment_files(long_log)
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    kind = data.draw(st.sampled_from(["overwrite", "cut", "copy"]))
    offset = data.draw(st.integers(0, len(content) - 1))
    if kind == "overwrite":
        changed = bytearray(content)
        piece = data.draw(st.binary(min_size=1, max_size=300))
        changed[offset : offset + len(piece)] = piece
    elif kind == "cut":
        changed = bytearray(content[:offset])
    else:
        source = data.draw(st.sampled_from(files)).read_bytes()
        begin = data.draw(st.sampled_from([at for at, _ in batches_of(path)]))
        length = data.draw(st.integers(1, 20_000))
        changed = bytearray(content)
        changed[offset & ~7 : (offset & ~7) + length] = source[begin : begin + length]
        del changed[len(content) :]
    path.write_bytes(changed)
    try:
        found: dict[int, bytes] = {}
        try:
            found = read(long_log)
        except LogCorruption:
            assert scan(long_log).corruption is not None
        else:
            assert scan(long_log).corruption is None
        assert found == expected(1, max(found, default=0))
        if path != files[-1]:
            assert not found or len(found) == 200
    finally:
        path.write_bytes(content)


def test_a_batch_from_another_place(long_log: Path) -> None:
    path = segment_files(long_log)[-1]
    content, placed = path.read_bytes(), batches_of(path)
    (first, length), (last, _) = placed[0], placed[-1]
    assert len(placed) > 3
    for target, torn in ((placed[1][0], False), (last, True), (last + length, True)):
        patch(path, target, content[first : first + length])
        try:
            if torn:
                assert read(long_log) == expected(1, 196 if target == last else 200)
                assert scan(long_log).torn_tail == (str(path), target)
            else:
                with pytest.raises(LogCorruption, match="durable") as caught:
                    read(long_log)
                assert caught.value.offset == target
        finally:
            path.write_bytes(content)


def test_a_segment_from_another_log(tmp_path: Path, long_log: Path, open_log: Callable[..., TxnLog]) -> None:
    copy, twin, stranger = tmp_path / "copy", tmp_path / "twin", tmp_path / "stranger"
    shutil.copytree(long_log, copy)
    for other, store_id in ((twin, STORE), (stranger, b"another store...")):
        other.mkdir()
        log = open_log(other, store_id)
        fill(log, 1, 200)
        log.close()
    names = [p.name for p in segment_files(copy)]
    assert names == [p.name for p in segment_files(twin)]
    for name in names:
        # what the twin holds is the same, its checksums are not: segment ids are random
        for other, reason in ((twin, "another batch"), (stranger, "another store")):
            shutil.copy(other / name, copy / name)
            with pytest.raises(LogCorruption, match=reason):
                read(copy)
            shutil.copy(long_log / name, copy / name)
    assert read(copy) == expected(1, 200)
    with pytest.raises(LogCorruption, match="another store"):
        read(copy, store_id=b"another store...")


def test_a_segment_under_another_name(tmp_path: Path, long_log: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(long_log, copy)
    files = segment_files(copy)
    shutil.copy(files[0], copy / f"log.{201:016x}")
    with pytest.raises(LogCorruption, match="another's name"):
        read(copy)
    log = TxnLog(copy, STORE, segment_bytes=SMALL)
    before = picture(copy)
    with pytest.raises(LogCorruption):
        log.start()
    assert picture(copy) == before


def test_a_missing_segment(tmp_path: Path, long_log: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(long_log, copy)
    files = segment_files(copy)
    for path in files[1:-1]:
        path.rename(tmp_path / "away")
        with pytest.raises(LogCorruption, match="missing"):
            read(copy)
        assert scan(copy).corruption is not None
        (tmp_path / "away").rename(path)
    files[0].unlink()
    first = int(files[1].name[4:], 16)
    with pytest.raises(LogCorruption, match="missing transactions"):
        read(copy)
    with pytest.raises(LogCorruption, match="missing transactions"):
        read(copy, first - 2)
    assert read(copy, first - 1) == expected(first, 200)


def test_a_hole_behind_the_checkpoint(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 10, 5)
    put(log, 15, 5)
    log.close()
    for after in (0, 5, 8):
        with pytest.raises(LogCorruption, match="missing transactions"):
            read(tmp_path, after)
    for after in (9, 10, 14, 15, 19):
        assert max(read(tmp_path, after), default=after) == 19
    with pytest.raises(LogCorruption, match="ends with zxid 0x13"):
        read(tmp_path, 20)


def test_a_new_epoch_may_follow_the_checkpoint(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, (2 << 32) + 1)
    log.close()
    assert set(read(tmp_path, 77)) == {(2 << 32) + 1}
    with pytest.raises(LogCorruption, match="ends with"):
        read(tmp_path, (2 << 32) + 2)


def test_a_newer_format_is_refused(tmp_path: Path, long_log: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(long_log, copy)
    path = segment_files(copy)[-1]
    header = bytearray(path.read_bytes()[8:96])
    struct.pack_into("<H", header, 4, 2)
    from xxhash import xxh3_64_intdigest

    patch(path, 0, struct.pack("<Q", xxh3_64_intdigest(bytes(header))) + header)
    with pytest.raises(LogCorruption, match="format version 2"):
        read(copy)


def test_reading_changes_nothing(tmp_path: Path, long_log: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(long_log, copy)
    files = segment_files(copy)
    last, length = batches_of(files[-1])[-1]
    places = ((files[-1], DATA - 1), (files[-1], last + length - 1), (files[0], DATA + 90), (files[1], 3))
    for path, offset in places:
        patch(path, offset, bytes([path.read_bytes()[offset] ^ 4]))
        before = picture(copy)
        try:
            read(copy)
        except LogCorruption:
            with pytest.raises(LogCorruption):
                TxnLog(copy, STORE, segment_bytes=SMALL).start()
        scan(copy)
        assert picture(copy) == before


# --- no space, and failing disks


def test_no_space_for_the_next_segment(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1)
    until(lambda: spare_files(tmp_path))
    _log._inject(fail_prepare_errno=errno.ENOSPC)
    last = 1
    refused: list[Batch] = []
    while not refused:  # two segments are there already
        batches = [make(zxid, 1, 9000) for zxid in range(last + 1, last + 4)]
        for batch in batches:
            log.submit(batch)
        done: list[Batch] = []
        while len(done) + len(refused) < 3:
            more, back = wait_events(log)
            assert not (more and refused)
            done += more
            refused += back
        assert done + refused == batches
        last += len(done)
        assert last < 40
    assert log.no_space
    assert log.errno == errno.ENOSPC
    assert log.durable_zxid == log.last_zxid == last
    assert not log.pending
    assert read(tmp_path, 1) == expected(2, last, 9000)
    # whatever was on its way before the owner knew is refused, too, even if it would fit
    late = make(last + 4)
    log.submit(late)
    with pytest.raises(RuntimeError, match="not taken"):
        log.acknowledge_refusal()
    assert wait_events(log) == ([], [late])
    log.acknowledge_refusal()
    # what still fits is taken: nothing is wrong with the live segment
    put(log, last + 1)
    last += 1
    log.submit(again := make(last + 1, 1, 9000))
    assert wait_events(log) == ([], [again])
    log.acknowledge_refusal()
    # and when there is space again, it notices by itself
    _log._inject()
    until(lambda: not log.no_space)
    log.submit(again)
    assert finish(log) == [again]
    log.close()
    found = read(tmp_path)
    assert found[last + 1] == record(last + 1, 9000)
    assert set(found) == set(range(1, last + 2))


def test_no_space_for_the_very_first_segment(tmp_path: Path) -> None:
    _log._inject(fail_prepare_errno=errno.EDQUOT)
    log = TxnLog(tmp_path, STORE, segment_bytes=SMALL)
    log.start()
    log.submit(batch := make(1))
    refused: list[Batch] = []
    while not refused:
        done, refused = wait_events(log)
        assert not done
    assert refused == [batch]
    log.acknowledge_refusal()
    log.submit(batch)
    log.close()  # does not wait for what cannot be
    assert log.take_done() == ([], [batch])
    assert list(tmp_path.iterdir()) == []


def test_purging_makes_room(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 100)
    until(lambda: spare_files(tmp_path))
    for path in spare_files(tmp_path):
        assert path.stat().st_size == SMALL
    _log._inject(fail_prepare_errno=errno.ENOSPC)
    last = 100
    while not log.no_space:
        put(log, last + 1, 1, 9000)
        last += 1
        time.sleep(0.02)  # the thread that prepares segments has to find out before the spare ones are full
    log.purge(last)
    # the purged segments are taken for new ones, which needs no space
    until(lambda: not log.no_space)
    last_before = last
    for _ in range(10):
        put(log, last + 1, 1, 9000)
        last += 1
    assert read(tmp_path, last_before) == expected(last_before + 1, last, 9000)


def test_a_write_without_space_is_taken_back(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1)
    _log._inject(fsync_delay_ns=20_000_000, fail_write_at=3, fail_write_errno=errno.ENOSPC)
    # the last byte of a record of zeros is on disk before it is written
    batches = [make(zxid) for zxid in (2, 3)]
    for zxid in (4, 5, 6):
        batch = Batch()
        batch.append(zxid, bytes(50))
        batches.append(batch)
    for batch in batches:
        log.submit(batch)
    done: list[Batch] = []
    refused: list[Batch] = []
    while len(done) + len(refused) < 5:
        more, back = wait_events(log)
        done += more
        refused += back
    assert done == batches[:2]
    assert refused == batches[2:]
    assert log.durable_zxid == log.last_zxid == 3
    assert read(tmp_path) == expected(1, 3, 40)
    log.acknowledge_refusal()
    put(log, 4)
    log.close()
    assert read(tmp_path) == expected(1, 4, 40)


def test_no_space_for_a_name(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1, 1, 40_000)
    until(lambda: spare_files(tmp_path))
    _log._inject(fail_rename_errno=errno.ENOSPC, fsync_delay_ns=10_000_000)
    batches = [make(2), make(3, 1, 40_000), make(4)]
    for batch in batches:
        log.submit(batch)
    done: list[Batch] = []
    refused: list[Batch] = []
    while len(done) + len(refused) < 3:
        more, back = wait_events(log)
        done += more
        refused += back
    assert done == batches[:1]
    assert refused == batches[1:]
    assert len(log.segments) == len(segment_files(tmp_path)) == 1
    log.acknowledge_refusal()
    _log._inject()
    put(log, 3)
    until(lambda: not log.no_space)
    put(log, 4, 1, 40_000)
    assert len(log.segments) == len(segment_files(tmp_path)) == 2
    log.close()
    assert set(read(tmp_path)) == {1, 2, 3, 4}


@pytest.mark.parametrize("fault", ["fsync", "write", "prepare", "rename"])
def test_a_failing_disk_is_the_end(tmp_path: Path, open_log: Callable[..., TxnLog], fault: str) -> None:
    log = open_log()
    put(log, 1, 1, 40_000)
    until(lambda: spare_files(tmp_path))
    if fault == "fsync":
        _log._inject(fail_fsync_at=1)
    elif fault == "write":
        _log._inject(fail_write_at=1)
    elif fault == "rename":
        _log._inject(fail_rename_errno=errno.EIO)
    else:
        _log._inject(fail_prepare_errno=errno.EIO)
    log.submit(make(2, 1, 40_000))
    log.submit(make(3))
    with pytest.raises(LogFailed) as caught:  # noqa: PT012
        while True:
            wait_events(log)
    assert caught.value.errno == errno.EIO
    assert caught.value.what
    durable = log.durable_zxid
    if fault != "prepare":
        assert durable == 1
    log.submit(make(4))
    for _ in range(3):
        with pytest.raises(LogFailed):
            log.take_done()
    if fault != "prepare":
        assert log.durable_zxid == 1
        assert log.pending
    log.close()
    with pytest.raises(LogFailed):
        log.take_done()
    _log._inject()
    assert {1} <= set(read(tmp_path))
    log = open_log()
    put(log, log.last_zxid + 1)


def test_fsync_is_not_tried_again(open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1)
    _log._inject(fail_fsync_at=1, fail_fsync_errno=errno.EIO)
    for zxid in range(2, 10):
        log.submit(make(zxid))
    with pytest.raises(LogFailed, match="fdatasync"):  # noqa: PT012
        while True:
            wait_events(log)
    # the next fdatasync would succeed; nothing may become of that
    time.sleep(0.02)
    assert log.durable_zxid == 1
    assert log.fsyncs == 1


# --- What an ensemble asks of the log -----------------------------------------------------------------------


def txn(zxid: int, size: int = 40, kind: int = 5) -> bytes:
    """A record with a real transaction's header."""
    return struct.pack(">qiqqi", 1, 2, zxid, 3, kind) + record(zxid, size)


def txns(first: int, count: int = 1, size: int = 40) -> bytes:
    records = [txn(zxid, size) for zxid in range(first, first + count)]
    return b"".join(struct.pack("<I", len(each)) + each for each in records)


def read_on(log: TxnLog, after: int, max_bytes: int = 10_000) -> dict[int, bytes]:
    """Everything behind `after`, in many reads."""
    found: dict[int, bytes] = {}
    while batches := log.read(after, max_bytes):
        assert sum(len(batch.payload) for batch in batches[:-1]) <= max_bytes
        for batch in batches:
            assert batch.first_zxid == after + 1 or (
                batch.first_zxid & 0xFFFFFFFF == 1 and batch.first_zxid >> 32 > after >> 32
            )
            found.update(enumerate(map(bytes, iter_records(batch.payload)), batch.first_zxid))
            after = batch.last_zxid
    return found


def test_read_finds_every_batch_of_a_running_log(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    assert log.read(0, 1) == []
    fill(log, 1, 400)
    assert len(log.segments) > 5
    for max_bytes in (1, 5000, 1 << 20):
        assert read_on(log, 0, max_bytes) == expected(1, 400)
    for after in range(0, 404, 4):
        batch = log.read(after, 1)[0] if after < 400 else None
        assert (batch.first_zxid, batch.last_zxid) == (after + 1, after + 4) if batch else log.read(after, 1) == []
    for wrong in (1, 2, 399, 401, 1 << 40):
        with pytest.raises(KeyError):
            log.read(wrong, 1)
    log.close()
    with pytest.raises(RuntimeError):
        log.read(0, 1)


def test_read_after_a_restart_and_across_epochs(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 40)
    log.close()
    log = open_log()
    second = 2 << 32 | 1
    fill(log, second, second + 39)
    wanted = expected(1, 40) | expected(second, second + 39)
    assert read_on(log, 0) == wanted
    assert min(read_on(log, 40)) == second
    with pytest.raises(KeyError):
        log.read(1 << 32 | 7, 1)
    log.close()
    assert read_on(open_log(), 0) == wanted


def test_read_starts_near_its_place_in_a_large_segment(tmp_path: Path) -> None:
    log = TxnLog(tmp_path, STORE, segment_bytes=8 << 20)
    log.start()
    try:
        for zxid in range(1, 3001, 4):
            log.submit(make(zxid, 4, 600))
        done = 0
        while done < 750:
            done += len(wait_events(log)[0])
        assert read_on(log, 0, 100_000) == expected(1, 3000, 600)
        assert [log.read(after, 1)[0].first_zxid for after in range(2996, 0, -4)] == list(range(2997, 4, -4))
    finally:
        log.close()


def test_read_gives_only_what_is_durable(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    put(log, 1)
    _log._inject(fsync_delay_ns=300_000_000)
    log.submit(make(2))
    assert log.read(1, 1) == []
    with pytest.raises(KeyError):
        log.read(2, 1)
    finish(log)
    assert [batch.first_zxid for batch in log.read(1, 1)] == [2]


def test_read_says_what_is_damaged_since(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 20)
    path = segment_files(tmp_path)[0]
    (at, length) = batches_of(path)[2]
    patch(path, at + length - 3, b"?")
    assert [batch.last_zxid for batch in log.read(0, 5000)] == [4, 8]
    with pytest.raises(LogCorruption, match="checksum") as caught:
        log.read(8, 1)
    assert (caught.value.path, caught.value.offset) == (str(path), at)


def test_read_never_sees_a_recycled_segment(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 200)
    assert log.read(0, 1)[0].first_zxid == 1
    assert log.purge(100)
    base = log.base_zxid
    assert base > 4
    for gone in (0, 4, base - 4):
        with pytest.raises(KeyError):
            log.read(gone, 1)
    for zxid in range(201, 400, 4):  # into the recycled files
        put(log, zxid, 4, 1000)
        assert log.read(base, 1)[0].first_zxid == base + 1
    assert read_on(log, base) == expected(base + 1, 400)


def test_base_zxid_is_known_after_a_restart(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    """Also where an epoch begins a segment: the zxid before cannot be told from the first one there."""
    log = open_log()
    fill(log, 1, 40)
    epoch = 3 << 32 | 1
    while len(log.segments) < 3:
        put(log, epoch, 1, 40_000)
        epoch += 1 << 32
    before = log.segments[-1].first_zxid - (1 << 32)
    log.purge(before)
    assert log.base_zxid == before
    until(lambda: segment_files(tmp_path) == [Path(log.segments[0].path)])
    log.close()
    log = open_log()
    assert log.base_zxid == before
    assert log.take_index()[0] == before
    with pytest.raises(RuntimeError):
        log.take_index()
    with pytest.raises(LogCorruption, match="missing"):
        list(TxnLog(tmp_path, STORE).recover(before - (1 << 32)))


def test_purge_keeps_transactions_for_followers(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 400)
    assert log.purge(400, keep_txns=500) == []
    assert log.purge(400, keep_txns=250)
    assert 50 < log.base_zxid <= 150
    assert log.purge(400, keep_txns=250) == []
    assert log.purge(400, keep_txns=250, keep_bytes=3 * SMALL)
    assert 150 < log.base_zxid <= 250
    assert log.purge(400)
    assert len(log.segments) == 1


def test_a_hold_keeps_the_log_behind_it(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 400)
    hold, other = log.hold(200), log.hold(300)
    log.purge(400)
    assert 100 < log.base_zxid <= 200
    assert read_on(log, log.base_zxid)[201] == record(201, 1000)
    hold.release()
    hold.release()
    log.purge(400)
    assert 200 < log.base_zxid <= 300
    del other
    gc.collect()
    log.purge(400)
    assert log.base_zxid > 300


@pytest.mark.parametrize("restart", [False, True])
def test_truncate_to_the_base_then_a_newer_epoch(
    tmp_path: Path, open_log: Callable[..., TxnLog], restart: bool
) -> None:
    """Several segments go, the log is empty, and what comes next need not follow what went."""
    _log.write_base(os.open(tmp_path, os.O_RDONLY), 7 << 32 | 9)
    log = open_log()
    base = 7 << 32 | 9
    assert (log.base_zxid, log.last_zxid, log.durable_zxid) == (base, base, base)
    with pytest.raises(ValueError, match="does not follow"):
        log.submit(make(5))
    fill(log, base + 1, base + 100)
    until(lambda: not (tmp_path / "base").exists())
    assert len(log.segments) > 1
    log.truncate(base)
    assert segment_files(tmp_path) == []
    assert (log.base_zxid, log.last_zxid, log.durable_zxid) == (base, base, base)
    assert log.read(base, 1) == []
    if restart:
        log.close()
        assert list(TxnLog(tmp_path, STORE).recover(base)) == []
        with pytest.raises(LogCorruption, match="was durable once"):
            list(TxnLog(tmp_path, STORE).recover(base + 1))
        with pytest.raises(LogCorruption, match="missing"):
            list(TxnLog(tmp_path, STORE).recover(base - 1))
        log = open_log()
        assert log.take_index()[0] == base
    newer = 9 << 32 | 1
    with pytest.raises(ValueError, match="does not follow"):
        log.submit(make(newer + 1))
    put(log, newer, 3)
    assert (log.base_zxid, log.last_zxid, log.durable_zxid) == (base, newer + 2, newer + 2)
    assert sorted(read_on(log, base)) == [newer, newer + 1, newer + 2]
    log.truncate(base)  # nothing of the first epoch comes back
    assert log.read(base, 1) == []
    put(log, newer, 1, 100)
    log.close()
    assert read(tmp_path, base) == expected(newer, newer, 100)


def test_truncate_within_several_segments_then_a_newer_epoch(
    tmp_path: Path, open_log: Callable[..., TxnLog]
) -> None:
    log = open_log()
    fill(log, 1, 400)
    log.truncate(200)
    assert (log.last_zxid, log.durable_zxid) == (200, 200)
    assert read_on(log, 0) == expected(1, 200)
    newer = 1 << 32 | 1
    fill(log, newer, newer + 99)
    wanted = expected(1, 200) | expected(newer, newer + 99)
    assert read_on(log, 0) == wanted
    log.close()
    assert read(tmp_path) == wanted
    assert read_on(open_log(), 0) == wanted


@pytest.mark.parametrize("fault", ["first batch torn", "power lost before the first batch"])
def test_a_base_outlives_a_first_segment_that_does_not_count(
    tmp_path: Path, open_log: Callable[..., TxnLog], fault: str
) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    base = 3 << 32 | 5
    _log.write_base(directory, base)
    log = open_log()
    put(log, base + 1)
    log.close()
    _log.write_base(directory, base)  # its removal is not synced: it may come back
    os.close(directory)
    path = segment_files(tmp_path)[0]
    if fault == "first batch torn":
        patch(path, DATA + 20, b"????")
    else:
        patch(path, DATA, bytes(4096))
    assert list(TxnLog(tmp_path, STORE).recover(base)) == []
    log = open_log()
    assert segment_files(tmp_path) == []
    assert log.last_zxid == base
    put(log, base + 1)
    until(lambda: not (tmp_path / "base").exists())


def test_a_damaged_base(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    _log.write_base(directory, 5)
    os.close(directory)
    assert stat.S_IMODE((tmp_path / "base").stat().st_mode) == 0o600
    patch(tmp_path / "base", 18, b"?")
    with pytest.raises(LogCorruption, match="base"):
        list(TxnLog(tmp_path, STORE).recover(5))


def test_the_index_names_every_batch(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 103)
    log.close()
    log = TxnLog(tmp_path, STORE)
    with pytest.raises(RuntimeError):
        log.take_index()
    assert len(list(log.recover(90))) == 4
    base, ends = log.take_index()
    assert (base, list(ends)) == (0, [*range(4, 101, 4), 103])


def test_adopt_takes_what_another_server_sent(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    batch = Batch()
    payload = txns(5 << 32 | 1, 3)
    batch.adopt(5 << 32 | 1, 5 << 32 | 3, 3, memoryview(payload))
    log.submit(batch)
    with pytest.raises(RuntimeError):
        batch.adopt(5 << 32 | 1, 5 << 32 | 3, 3, payload)
    finish(log)
    assert batch.payload() == payload
    assert list(read(tmp_path).values()) == [txn(5 << 32 | number) for number in (1, 2, 3)]


GOOD = txns(9, 3)


@pytest.mark.parametrize(
    ("first", "last", "count", "payload"),
    [
        (9, 11, 3, b""),
        (9, 11, 3, GOOD[:-1]),
        (9, 11, 3, GOOD + b"\0\0\0"),
        (9, 11, 3, GOOD[:-4] + b"\0\0\0\0" + GOOD[-4:]),
        (9, 10, 2, GOOD),
        (9, 12, 4, GOOD),
        (9, 11, 2, GOOD),
        (8, 10, 3, GOOD),
        (9, 11, 3, txns(9, 2) + txns(12)),
        (9, 11, 3, txns(9, 2) + struct.pack("<I", 31) + txn(11)[:31]),
        (9, 11, 3, txns(9, 2) + struct.pack("<I", 0xFFFFFFFF) + txn(11)),
        (-1, 1, 3, txns(-1, 3)),
        (1 << 32, 1 << 32, 1, txns(1 << 32)),
        (0xFFFFFFFF, 1 << 32, 2, txns(0xFFFFFFFF, 2)),
        (9, 8, 0, GOOD),
    ],
)
def test_adopt_refuses_what_is_no_batch(first: int, last: int, count: int, payload: bytes) -> None:
    batch = Batch()
    batch.append(77, b"old")
    with pytest.raises(ValueError, match=r"not a batch|not a transaction|transactions in|announced"):
        batch.adopt(first, last, count, payload)
    assert (batch.nbytes, batch.count) == (0, 0)
    batch.adopt(9, 11, 3, GOOD)
    assert batch.payload() == GOOD


def test_a_view_of_the_payload_keeps_the_batch_as_it_is(open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    assert bytes(Batch().payload_view()) == b""
    batch = Batch()
    batch.adopt(1, 3, 3, txns(1, 3))
    view = batch.payload_view()
    assert view.readonly
    assert view == txns(1, 3)
    log.submit(batch)
    more = view[8:]
    assert batch.exports == 1
    finish(log)
    for change in (batch.reset, lambda: batch.append(4, b""), lambda: batch.adopt(1, 3, 3, txns(1, 3))):
        with pytest.raises(BufferError):
            change()
    assert view == txns(1, 3)
    view.release()
    with pytest.raises(BufferError):
        batch.reset()
    more.release()
    assert batch.exports == 0
    batch.reset()
    again = Batch()
    again.adopt(1, 1, 1, txns(1))
    view = again.payload_view()
    del again
    gc.collect()
    assert view == txns(1)


def test_txns_of_type_finds_what_it_is_asked_for() -> None:
    records = [txn(1), txn(2, 10, 16), txn(3, 0), txn(4, 7, 16)]
    payload = b"".join(struct.pack("<I", len(each)) + each for each in records)
    assert _log.txns_of_type(payload, 16) == [(2, records[1]), (4, records[3])]
    assert _log.txns_of_type(payload, 99) == []
    with pytest.raises(ValueError, match="not a transaction"):
        _log.txns_of_type(payload[:-1], 16)


def test_refused_batches_leave_no_trace_for_readers(tmp_path: Path, open_log: Callable[..., TxnLog]) -> None:
    log = open_log()
    fill(log, 1, 20)
    _log._inject(fail_write_at=2, fail_write_errno=errno.ENOSPC)
    for zxid in (21, 22, 23):
        log.submit(make(zxid))
    done: list[Batch] = []
    refused: list[Batch] = []
    while not refused:
        more, refused = wait_events(log)
        done += more
    _log._inject()
    log.acknowledge_refusal()
    last = log.durable_zxid
    assert [batch.first_zxid for batch in refused] == list(range(last + 1, 24))
    assert max(read_on(log, 0)) == last
    put(log, last + 1, 1, 1000)
    assert read_on(log, 20) | {} == {
        zxid: record(zxid, 1000 if zxid == last + 1 else 40) for zxid in range(21, last + 2)
    }
