"""Scheduling: SCHED_BATCH while there is much to do and nobody makes these threads wait, and pauses that grow."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastzk._log import TxnLog
from fastzk.server import scheduling
from fastzk.server.scheduling import FIRST_PAUSE, LONGEST_PAUSE, LOOK_SECONDS, Scheduling, Times

pytestmark = pytest.mark.skipif(
    os.sched_getscheduler(0) != os.SCHED_OTHER, reason="these tests run under a policy of somebody's choice"
)
MS = 1_000_000


class Timer:
    """What ``Clock`` gives for a call."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """An event loop of which only the clock is used: ``pass_by`` lets the next call's time come."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[float, Callable[[], object], Timer]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], object]) -> Timer:
        self.calls.append((delay, call, Timer()))
        return self.calls[-1][2]

    def pass_by(self) -> float:
        """Make the one call that is due next; how long that took."""
        ((delay, call, timer),) = self.calls
        self.calls.clear()
        self.now += delay
        if not timer.cancelled:
            call()
        return delay


class Counts:
    """What the kernel says it counted: for the thread that runs the test, and for the log's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_thread: dict[int, Times] = {}
        self.missing = False
        monkeypatch.setattr(scheduling.Times, "of", self.of)

    def of(self, thread: int) -> Times:
        if self.missing:
            raise FileNotFoundError(thread)
        return self.by_thread.get(thread, Times(0, 0, 0))

    def add(self, thread: int, *, ran: int = 0, waited: int = 0, runs: int = 0) -> None:
        before = self.of(thread)
        self.by_thread[thread] = Times(before.ran_ns + ran, before.waited_ns + waited, before.runs + runs)

    def work(self) -> None:
        """The loop has much to do, and nobody else has."""
        self.add(threading.get_native_id(), ran=100 * MS, waited=70 * MS, runs=500)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TxnLog]:
    log = TxnLog(tmp_path, b"scheduling tests")
    log.start()
    while not log.thread_id:
        pass
    yield log
    log.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    return Counts(monkeypatch)


@pytest.fixture
def chosen(log: TxnLog, clock: Clock, counts: Counts) -> Iterator[Scheduling]:
    made = Scheduling(clock, log)  # type: ignore[arg-type]
    made.start()
    yield made
    made.stop()


def policies(log: TxnLog) -> tuple[int, int]:
    return os.sched_getscheduler(0), os.sched_getscheduler(log.thread_id)


OTHER, BATCH = (os.SCHED_OTHER,) * 2, (os.SCHED_BATCH,) * 2


def test_both_threads_are_under_batch_while_there_is_much_to_do(
    chosen: Scheduling, counts: Counts, clock: Clock, log: TxnLog
) -> None:
    assert policies(log) == OTHER
    for _ in range(100):
        counts.work()
        counts.add(log.thread_id, waited=2 * MS, runs=1)  # long, but once
        assert clock.pass_by() == LOOK_SECONDS
        assert policies(log) == BATCH
    counts.add(threading.get_native_id(), ran=5 * MS, waited=MS, runs=20)
    clock.pass_by()
    assert policies(log) == OTHER
    counts.work()
    clock.pass_by()
    assert policies(log) == BATCH


@pytest.mark.parametrize("whose", ["loop", "log"])
def test_long_waits_of_either_thread_end_it(
    chosen: Scheduling, counts: Counts, clock: Clock, log: TxnLog, whose: str
) -> None:
    counts.work()
    clock.pass_by()
    assert policies(log) == BATCH
    counts.add(log.thread_id if whose == "log" else threading.get_native_id(), ran=100 * MS, waited=12 * MS, runs=4)
    clock.pass_by()
    assert policies(log) == OTHER


def test_waits_under_other_are_not_judged(chosen: Scheduling, counts: Counts, clock: Clock, log: TxnLog) -> None:
    counts.add(log.thread_id, waited=12 * MS, runs=4)  # somebody else's work, while there was nothing to do
    counts.work()
    clock.pass_by()
    assert policies(log) == BATCH


def seconds_without(counts: Counts, clock: Clock, log: TxnLog) -> float:
    """Make it fail once; how long it is under SCHED_OTHER, with much to do."""
    counts.work()
    while policies(log) != BATCH:
        clock.pass_by()
        counts.work()
    counts.add(log.thread_id, waited=12 * MS, runs=4)
    clock.pass_by()
    assert policies(log) == OTHER
    since = clock.now
    while policies(log) == OTHER:
        counts.work()
        clock.pass_by()
    return clock.now - since


def test_pauses_grow_up_to_a_limit_and_begin_anew_after_a_good_time(
    chosen: Scheduling, counts: Counts, clock: Clock, log: TxnLog
) -> None:
    clock.now = 1000.0
    pauses = [seconds_without(counts, clock, log) for _ in range(8)]
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    clock.now += 10 * LONGEST_PAUSE
    assert seconds_without(counts, clock, log) == FIRST_PAUSE


def test_without_counts_nothing_is_changed(counts: Counts, clock: Clock, log: TxnLog) -> None:
    counts.missing = True
    Scheduling(clock, log).start()  # type: ignore[arg-type]
    assert policies(log) == OTHER
    assert not clock.calls


def test_a_log_that_has_ended_is_no_reason_to_go_on_blindly(
    chosen: Scheduling, counts: Counts, clock: Clock, log: TxnLog
) -> None:
    log.close()
    counts.work()
    clock.pass_by()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    counts.work()
    clock.pass_by()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_stop_leaves_the_threads_as_they_were(
    chosen: Scheduling, counts: Counts, clock: Clock, log: TxnLog
) -> None:
    counts.work()
    clock.pass_by()
    assert policies(log) == BATCH
    chosen.stop()
    assert policies(log) == OTHER
    counts.work()
    clock.pass_by()
    assert policies(log) == OTHER


def test_an_operators_choice_is_left_alone(clock: Clock, log: TxnLog) -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        chosen = Scheduling(clock, log)  # type: ignore[arg-type]
        chosen.start()
        assert not clock.calls
        chosen.stop()
        assert policies(log) == (os.SCHED_BATCH, os.SCHED_OTHER)
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_what_the_kernel_counts() -> None:
    before = Times.of(threading.get_native_id())
    os.sched_yield()
    since = Times.of(threading.get_native_id()).since(before)
    assert before.runs > 0
    assert min(since) >= 0
    with pytest.raises(OSError, match="No such file"):
        Times.of(2**31 - 1)


def test_a_kernel_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "0 0 0\n")
    with pytest.raises(ValueError, match="schedstat"):
        Times.of(threading.get_native_id())
