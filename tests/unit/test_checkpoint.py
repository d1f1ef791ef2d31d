from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from fastzk.server import checkpoint as checkpoint_module
from fastzk.server.checkpoint import Checkpointer, CheckpointerDied
from fastzk.server.store import (
    META_CHECKPOINT_ZXID,
    Page,
    Store,
    StoreError,
    StoreFull,
    StoreMapFull,
    pack_int,
)


def key_of(number: int) -> bytes:
    return number.to_bytes(8, "big")


def at(zxid: int) -> dict[bytes, bytes]:
    return {META_CHECKPOINT_ZXID: pack_int(zxid)}


class Pages:
    """A `PageSource`: pages in a dict, frozen by copying what changed."""

    def __init__(self) -> None:
        self.pages: dict[bytes, bytes] = {}
        self.changed: set[bytes] = set()
        self.frozen: list[Page] | None = None
        self.left: list[Page] = []
        self.takes: list[int] = []
        self.ends: list[bool] = []
        self.before_take: Callable[[], None] = lambda: None
        self.thread = threading.get_ident()

    def set(self, number: int, value: bytes | None) -> None:
        key = key_of(number)
        if value is None:
            self.pages.pop(key, None)
        else:
            self.pages[key] = value
        self.changed.add(key)

    def checkpoint_begin(self) -> int:
        assert threading.get_ident() == self.thread
        assert self.frozen is None
        self.frozen = [(key, self.pages.get(key)) for key in sorted(self.changed)]
        self.left = self.frozen[::-1]
        self.changed = set()
        return len(self.frozen)

    def checkpoint_take(self, max_bytes: int) -> list[Page]:
        assert threading.get_ident() == self.thread
        assert self.frozen is not None
        self.before_take()
        self.takes.append(max_bytes)
        taken: list[Page] = []
        size = 0
        while self.left and size < max_bytes:
            taken.append(self.left.pop())
            size += len(taken[-1][1] or b"")
        return taken

    def checkpoint_end(self, ok: bool) -> None:
        assert threading.get_ident() == self.thread
        assert self.frozen is not None
        if not ok:
            self.changed |= {key for key, _value in self.frozen}
        self.frozen = None
        self.left = []
        self.ends.append(ok)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(str(tmp_path / "state"), create=True)
    opened.initialise({})
    yield opened
    opened.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as opened:
        yield opened


class Failures:
    """Stands for the server's way to end itself."""

    def __init__(self) -> None:
        self.seen: list[BaseException] = []
        self.happened = asyncio.Event()

    def __call__(self, error: BaseException) -> None:
        self.seen.append(error)
        self.happened.set()


def checkpointer(store: Any, source: Pages, failures: Failures | None = None, **options: Any) -> Checkpointer:
    def unexpected(error: BaseException) -> None:
        raise AssertionError(f"unexpected failure: {error!r}")

    loop = asyncio.get_running_loop()
    return Checkpointer(loop, store, source, on_failure=failures or unexpected, **options)


async def taken(source: Pages, times: int) -> None:
    """Return once pages were taken so many times."""
    deadline = time.monotonic() + 20
    while len(source.takes) < times:
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def contents(store: Store) -> dict[bytes, bytes]:
    return {bytes(key): bytes(value) for key, value in store.pages()}


def checkpoint_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = checkpoint_threads()
    yield
    assert set(checkpoint_threads()) <= set(before)


class SlowStore:
    """A store whose puts wait until the test lets them go on, and that notes what it was asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.go = threading.Event()
        self.fail_put: BaseException | None = None
        self.fail_commit: BaseException | None = None

    def begin_write(self, page_count: int) -> Any:
        outer, writer = self, self._store.begin_write(page_count)

        class Writer:
            def __enter__(self) -> Writer:
                return self

            def __exit__(self, *reason: object) -> None:
                writer.abort()

            def put(self, pages: list[Page]) -> None:
                assert outer.go.wait(20)
                if outer.fail_put is not None:
                    raise outer.fail_put
                writer.put(pages)

            def commit(self, meta: dict[bytes, bytes]) -> None:
                if outer.fail_commit is not None:
                    raise outer.fail_commit
                writer.commit(meta)

        return Writer()


# ---- what it is for


def test_checkpoints_are_exact_while_the_tree_changes(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source, dice = Pages(), random.Random(2)
        made = checkpointer(store, source, slice_bytes=8192)
        for zxid in range(1, 11):
            for _ in range(300):
                value = None if dice.random() < 0.2 else os.urandom(dice.randrange(2000))
                source.set(dice.randrange(500), value)
            expected = dict(source.pages)
            future = made.start({**at(zxid), b"tree-digest": key_of(zxid)})
            assert made.running
            # The tree goes on changing, in every turn of the loop.
            turns = 0
            while not future.done():
                source.set(dice.randrange(500), os.urandom(10))
                turns += 1
                await asyncio.sleep(0)
            result = future.result()
            assert not made.running
            assert turns > 3
            assert contents(store) == expected
            assert store.checkpoint_zxid == zxid == result.zxid
            assert store.get_meta(b"tree-digest") == key_of(zxid)
            assert result.pages > 100
            assert result.slices > 3
        made.close()

    runner.run(run())


def test_an_empty_checkpoint_still_stores_its_zxid(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        made = checkpointer(store, Pages())
        result = await made.start(at(9))
        assert (result.pages, result.bytes, result.slices) == (0, 0, 0)
        assert store.checkpoint_zxid == 9
        made.close()

    runner.run(run())


def test_the_point_in_time_is_the_call_of_start(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source = Pages()
        made = checkpointer(store, source)
        source.set(1, b"before")
        future = made.start(at(1))
        source.set(1, b"after")
        with pytest.raises(RuntimeError, match="is running"):
            made.start(at(2))
        await future
        assert contents(store) == {key_of(1): b"before"}
        await made.start(at(2))
        assert contents(store) == {key_of(1): b"after"}
        made.close()
        made.close()
        with pytest.raises(RuntimeError, match="closed"):
            made.start(at(3))
        with pytest.raises(RuntimeError, match="closed"):
            made.run_now(at(3))

    runner.run(run())


def test_the_loop_turns_between_the_slices(runner: asyncio.Runner, store: Store) -> None:
    """3,000 pages of 6 KB: many slices, each small, with turns of the loop between them, and a bounded
    queue."""

    async def run() -> None:
        source = Pages()
        for number in range(3000):
            source.set(number, os.urandom(6000))
        made = checkpointer(store, source, slice_bytes=64 << 10, queue_bytes=256 << 10)
        turns_at_takes: list[int] = []
        turns = 0
        source.before_take = lambda: turns_at_takes.append(turns)
        future = made.start(at(1))
        while not future.done():
            turns += 1
            await asyncio.sleep(0)
        result = future.result()
        assert (result.pages, result.bytes) == (3000, 3000 * 6008)
        assert result.slices >= result.bytes // ((64 << 10) + 6008)
        assert max(source.takes) <= 64 << 10
        # Slices do not follow one another without a turn. (Two may fall between two runs of this task, before
        # and after the loop looked for requests.)
        assert 2 * len(set(turns_at_takes)) >= len(turns_at_takes)
        assert 0 < result.peak_queue_bytes <= (256 << 10) + (64 << 10) + 6008
        assert contents(store) == source.pages
        made.close()

    runner.run(run())


def test_a_slow_disk_stops_the_taking(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source = Pages()
        for number in range(1000):
            source.set(number, bytes(6000))
        slow = SlowStore(store)
        made = checkpointer(slow, source, slice_bytes=16 << 10, queue_bytes=100 << 10, pause=0.0)
        future = made.start(at(1))
        deadline = time.monotonic() + 20
        while (1000 - len(source.left)) * 6008 < 100 << 10 or not source.frozen:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        # Nothing is being written, so nothing more may be taken, however long the loop turns.
        for _ in range(200):
            await asyncio.sleep(0)
        takes = len(source.takes)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(source.takes) == takes
        assert 1000 - len(source.left) < 40
        slow.go.set()
        result = await future
        assert result.pages == 1000
        assert result.peak_queue_bytes < (100 << 10) + (16 << 10) + 6008
        made.close()

    runner.run(run())


def test_slow_slices_become_smaller(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source = Pages()
        for number in range(200):
            source.set(number, bytes(6000))
        source.before_take = lambda: time.sleep(0.002)
        made = checkpointer(store, source, slice_bytes=64 << 10)
        result = await made.start(at(1))
        assert source.takes[:3] == [64 << 10, 32 << 10, 16 << 10]
        assert min(source.takes) == 4 << 10
        assert result.longest_slice_seconds >= 0.002
        source.before_take = lambda: None
        for number in range(200):
            source.set(number, bytes(6000))
        await made.start(at(2))
        assert max(source.takes[-8:]) > 4 << 10
        made.close()

    runner.run(run())


def test_what_it_logs(
    runner: asyncio.Runner, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "PROGRESS_SECONDS", 0.01)
    caplog.set_level(logging.INFO, logger="fastzk.server.checkpoint")

    async def run() -> None:
        source, slow = Pages(), SlowStore(store)
        source.set(1, b"x")
        made = checkpointer(slow, source)
        future = made.start(at(0xABC))
        deadline = time.monotonic() + 20
        while "checkpoint progress" not in caplog.text:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        slow.go.set()
        await future
        made.close()

    runner.run(run())
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "checkpoint start zxid=0xabc pages=1"
    assert lines[1].startswith("checkpoint progress zxid=0xabc pages=1 of=1 bytes=9 queued=9 ms=")
    assert re.fullmatch(
        r"checkpoint done zxid=0xabc pages=1 bytes=9 ms=\d+ commit_ms=\d+ slices=1 slice_us=\d+", lines[-1]
    )
    assert sum("done" in line for line in lines) == 1


# ---- failures


def test_a_full_store_is_expected_and_tried_again(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source = Pages()
        made = checkpointer(store, source)
        source.set(0, b"small")
        await made.start(at(1))
        for number in range(1000):
            source.set(number, os.urandom(6000))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, limits[1]))
        try:
            with pytest.raises(StoreFull):
                await made.start(at(2))
            with pytest.raises(StoreFull):
                made.run_now(at(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert source.ends == [True, False, False]
        assert contents(store) == {key_of(0): b"small"}
        assert store.checkpoint_zxid == 1
        source.set(1000, b"meanwhile")
        result = await made.start(at(3))
        assert result.pages == 1001
        assert contents(store) == source.pages
        made.close()

    runner.run(run())


def test_a_map_too_small_is_grown_for_the_next_attempt(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def run(now: bool) -> None:
        with Store.open(str(tmp_path / str(now)), create=True, map_size=1 << 20) as store:
            store.initialise({})
            source = Pages()
            # Larger than what is assumed of a page that was never stored.
            for number in range(40):
                source.set(number, os.urandom(300_000))
            made = checkpointer(store, source)
            if now:
                made.run_now(at(1))
                assert False in source.ends
            else:
                with pytest.raises(StoreMapFull):
                    await made.start(at(1))
                for _ in range(5):
                    try:
                        await made.start(at(1))
                        break
                    except StoreMapFull:
                        continue
            assert source.ends[-1]
            assert contents(store) == source.pages
            made.close()

    runner.run(run(False))
    runner.run(run(True))


@pytest.mark.parametrize("where", ["put", "commit"])
def test_another_error_of_the_store_ends_the_server(runner: asyncio.Runner, store: Store, where: str) -> None:
    async def run() -> None:
        source, slow, failures = Pages(), SlowStore(store), Failures()
        source.set(1, b"x")
        slow.go.set()
        error = StoreError("the disk is gone")
        setattr(slow, f"fail_{where}", error)
        made = checkpointer(slow, source, failures)
        # Nobody awaits this one.
        made.start(at(1))
        await asyncio.wait_for(failures.happened.wait(), 20)
        assert failures.seen == [error]
        assert source.ends == [False]
        assert store.checkpoint_zxid == 0
        with pytest.raises(StoreError, match="gone"):
            made.run_now(at(1))
        assert failures.seen == [error]
        made.close()

    runner.run(run())


def test_an_error_in_a_slice_ends_the_server(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source, failures = Pages(), Failures()
        for number in range(100):
            source.set(number, bytes(6000))

        def fail() -> None:
            if len(source.takes) == 3:
                raise ZeroDivisionError("in the tree")

        source.before_take = fail
        made = checkpointer(store, source, failures, slice_bytes=8192)
        future = made.start(at(1))
        with pytest.raises(ZeroDivisionError):
            await future
        assert [type(error) for error in failures.seen] == [ZeroDivisionError]
        assert source.ends == [False]
        assert contents(store) == {}
        source.takes.clear()
        with pytest.raises(ZeroDivisionError):
            made.run_now(at(1))
        assert source.ends == [False, False]
        source.before_take = lambda: None
        assert made.run_now(at(1)).pages == 100
        made.close()

    runner.run(run())


def test_an_error_at_the_end_ends_the_server(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source, failures = Pages(), Failures()

        def fail(ok: bool) -> None:
            raise ZeroDivisionError("in the tree")

        source.checkpoint_end = fail  # type: ignore[method-assign]
        made = checkpointer(store, source, failures)
        with pytest.raises(ZeroDivisionError):
            await made.start(at(1))
        assert [type(error) for error in failures.seen] == [ZeroDivisionError]
        made.close()

    runner.run(run())


class Poison:
    """A job that ends the thread at its first touch."""

    @property
    def page_count(self) -> int:
        raise SystemExit("somebody ended this thread")


@pytest.mark.parametrize("idle", [True, False])
def test_the_death_of_the_thread_ends_the_server(runner: asyncio.Runner, store: Store, idle: bool) -> None:
    async def run() -> None:
        source, slow, failures = Pages(), SlowStore(store), Failures()
        source.set(1, b"x")
        slow.go.set()
        slow.fail_put = SystemExit("somebody ended this thread")
        made = checkpointer(slow, source, failures)
        if idle:
            made._jobs.put(cast(Any, Poison()))
        else:
            future = made.start(at(1))
        await asyncio.wait_for(failures.happened.wait(), 20)
        assert len(failures.seen) == 1
        if not idle:
            assert future.exception() is failures.seen[0]
            assert isinstance(failures.seen[0], SystemExit)
            assert source.ends == [False]
        with pytest.raises(CheckpointerDied):
            made.start(at(2))
        with pytest.raises(CheckpointerDied):
            made.run_now(at(2))
        made.close()

    runner.run(run())


# ---- the shutdown


def test_nothing_is_committed_that_the_log_does_not_have(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source, durable = Pages(), 6
        source.set(1, b"x")
        made = checkpointer(store, source, durable=lambda zxid: zxid <= durable, pause=0.001)
        future = made.start(at(7))
        await taken(source, 5)
        assert not future.done()
        assert store.checkpoint_zxid != 7
        durable = 7
        assert (await future).zxid == 7
        assert contents(store) == {key_of(1): b"x"}
        made.close()

    runner.run(run())


def test_run_now_finishes_what_is_running_first(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source = Pages()
        for number in range(500):
            source.set(number, os.urandom(6000))
        made = checkpointer(store, source, slice_bytes=16 << 10, queue_bytes=64 << 10)
        first = made.start(at(1))
        await taken(source, 3)
        source.set(7, b"changed")
        source.set(8, None)
        result = made.run_now(at(2))
        assert (result.zxid, result.pages) == (2, 2)
        assert first.result().pages == 500
        assert source.ends == [True, True]
        assert contents(store) == source.pages
        assert store.checkpoint_zxid == 2
        # What the thread told the loop meanwhile is stale and harmless.
        for _ in range(10):
            await asyncio.sleep(0)
        source.set(9, b"later")
        assert (await made.start(at(3))).pages == 1
        made.close()

    runner.run(run())


def test_run_now_while_committing(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source, slow = Pages(), SlowStore(store)
        source.set(1, b"x")
        made = checkpointer(slow, source)
        first = made.start(at(1))
        await taken(source, 2)
        asyncio.get_running_loop().call_soon(lambda: None)
        threading.Timer(0.05, slow.go.set).start()
        assert made.run_now(at(2)).pages == 0
        assert first.result().zxid == 1
        made.close()

    runner.run(run())


def test_run_now_without_a_running_loop(store: Store) -> None:
    loop = uvloop.new_event_loop()
    source = Pages()
    failures: list[BaseException] = []
    made = Checkpointer(loop, store, source, on_failure=failures.append, queue_bytes=64 << 10)
    for number in range(300):
        source.set(number, os.urandom(6000))
    assert made.run_now(at(1)).pages == 300
    loop.close()
    source.set(1, b"after the loop")
    assert made.run_now(at(2)).pages == 1
    made.close()
    assert contents(store) == source.pages
    assert failures == []


def test_close_gives_up_what_is_running(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source = Pages()
        for number in range(500):
            source.set(number, bytes(6000))
        made = checkpointer(store, source)
        future = made.start(at(1))
        await asyncio.sleep(0)
        made.close()
        assert future.cancelled()
        assert source.ends == [False]
        assert len(source.changed) == 500
        assert contents(store) == {}
        assert store.checkpoint_zxid == 0
        # The next one, by another checkpointer, is complete.
        again = checkpointer(store, source)
        assert (await again.start(at(2))).pages == 500
        again.close()

    runner.run(run())


def test_close_lets_a_commit_finish(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source, slow = Pages(), SlowStore(store)
        source.set(1, b"x")
        made = checkpointer(slow, source)
        future = made.start(at(1))
        await taken(source, 2)
        threading.Timer(0.05, slow.go.set).start()
        made.close()
        assert future.result().zxid == 1
        assert contents(store) == {key_of(1): b"x"}

    runner.run(run())


def test_a_future_that_was_cancelled_disturbs_nothing(runner: asyncio.Runner, store: Store) -> None:
    async def run() -> None:
        source = Pages()
        source.set(1, b"x")
        made = checkpointer(store, source)
        future = made.start(at(1))
        future.cancel()
        deadline = time.monotonic() + 20
        while made.running:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        assert contents(store) == {key_of(1): b"x"}
        assert source.ends == [True]
        made.close()

    runner.run(run())
