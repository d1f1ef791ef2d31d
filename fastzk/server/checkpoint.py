"""Checkpoints while the server goes on serving: from the tree, on the loop, through one thread, into the
store.

    loop thread                                       writer thread
    -----------                                       -------------
    start: checkpoint_begin (the point in time)
    slice: checkpoint_take -> list of pages  ----->   put, put, put ...
      ... pause, requests go first ...       <-----   so many bytes written
    slice ...
    last slice, then the meta values         ----->   commit (durable)
    checkpoint_end(True), future resolved    <-----   committed

Taking pages is memory copying and happens in slices well under a millisecond with a pause between them.
Everything that may wait for the disk happens in the thread. Pages on their way are bounded (`queue_bytes`):
when the disk is slower than the tree, the loop side stops taking until the thread reports progress.

The thread competes with the loop for the GIL, and a thread that gives the GIL up for a few microseconds at a
time (which is what putting pages into LMDB looks like) can lock the other one out for milliseconds. So it
naps after every list of pages, which hands the GIL over to a waiting loop.

A checkpoint that finds no room (`StoreFull`) is an expected failure: its future fails, the tree keeps its
changes, the owner tries again later (at once for `StoreMapFull`). Anything else that goes wrong, in a slice
or in the thread, reaches `on_failure` as well: the server cannot go on without checkpoints and must say so.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .store import META_CHECKPOINT_ZXID, Page, Store, StoreFull, StoreMapFull, unpack_int

logger = logging.getLogger(__name__)

SLICE_BYTES = 64 << 10
QUEUE_BYTES = 4 << 20
PAUSE_SECONDS = 0.003
PROGRESS_SECONDS = 5.0
# A slice that took longer than this halves the next one, one of less than a quarter doubles it again.
SLICE_SECONDS = 0.0004
_MIN_SLICE_BYTES = 4 << 10
# Long enough for a waiting loop thread to wake up and take the GIL, short beside the putting itself.
_NAP_SECONDS = 50e-6
_MAP_RETRIES = 8


class PageSource(Protocol):
    """What the checkpointer needs of the znode tree. All three are called on the loop's thread."""

    def checkpoint_begin(self) -> int:
        """Freeze the set of changed pages as of now; returns how many there are."""

    def checkpoint_take(self, max_bytes: int) -> list[Page]:
        """The next frozen pages, about `max_bytes` of them and at least one; [] when all are taken.

        Values are those at `checkpoint_begin`, however the tree changed since. None removes the key.
        """

    def checkpoint_end(self, ok: bool) -> None:
        """The checkpoint is durable, or (not `ok`) was not written: the frozen pages count as changed
        again."""


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """A durable checkpoint: what it cost. `seconds` is all of it, `commit_seconds` the last, durable step."""

    zxid: int
    pages: int
    bytes: int
    seconds: float
    commit_seconds: float
    slices: int
    longest_slice_seconds: float
    peak_queue_bytes: int


class CheckpointerDied(Exception):
    """The writer thread is gone."""


@dataclass(slots=True, eq=False)
class _Job:
    """One checkpoint on its way. The thread touches only `orders`, `page_count`, `naps` and
    `commit_seconds`."""

    meta: dict[bytes, bytes]
    zxid: int
    page_count: int
    done: asyncio.Future[CheckpointResult]
    # To the thread: a list of pages and its size, the meta values (then commit), or None (give up).
    orders: queue.SimpleQueue[tuple[list[Page], int] | dict[bytes, bytes] | None] = field(
        default_factory=queue.SimpleQueue
    )
    started: float = field(default_factory=time.monotonic)
    naps: bool = True
    commit_seconds: float = 0.0
    # All pages are taken and the thread has been told to commit.
    committing: bool = False
    # A slice failed with this; the thread has been told to give up.
    error: BaseException | None = None
    queued_bytes: int = 0
    peak_queue_bytes: int = 0
    pages: int = 0
    bytes: int = 0
    slices: int = 0
    longest_slice: float = 0.0


@dataclass(frozen=True, slots=True)
class _Written:
    job: _Job
    bytes: int


@dataclass(frozen=True, slots=True)
class _Ended:
    """The thread is done with a job: committed if `error` is None."""

    job: _Job
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class _Died:
    error: BaseException


class Checkpointer:
    """Writes checkpoints of `source` into `store`, one at a time. Made and used on the loop's thread only.

    `slice_bytes`: about how much one slice takes at most (less while slices turn out slow).
    `queue_bytes`: how much may be on its way to the disk before taking stops.
    `pause`: seconds between slices.
    `durable`: whether the log has everything up to a zxid. Before that no checkpoint of it is committed: the next start
    would find a log that ends before the state.
    `on_failure`: called on the loop's thread with whatever should end the process; `StoreFull` does not get
    there.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        source: PageSource,
        *,
        on_failure: Callable[[BaseException], None],
        durable: Callable[[int], bool] = lambda _: True,
        slice_bytes: int = SLICE_BYTES,
        queue_bytes: int = QUEUE_BYTES,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._loop = loop
        self._store = store
        self._source = source
        self._on_failure = on_failure
        self._durable = durable
        self._slice_bytes = self._slice_now = slice_bytes
        self._queue_bytes = queue_bytes
        self._pause = pause
        self._job: _Job | None = None
        self._next_slice: asyncio.Handle | None = None
        self._next_progress: asyncio.TimerHandle | None = None
        self._closed = False
        self._dead = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Everything the thread has to say. The loop is nudged to look; `run_now`, with no loop running, just
        # waits.
        self._replies: queue.SimpleQueue[_Written | _Ended | _Died] = queue.SimpleQueue()
        # A daemon: a server that ends for another reason must not hang in the interpreter's exit.
        self._thread = threading.Thread(target=self._run_thread, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether a checkpoint is on its way."""
        return self._job is not None

    def start(self, meta: Mapping[bytes, bytes]) -> asyncio.Future[CheckpointResult]:
        """Begin a checkpoint of the tree as it is now; `meta` are the values to store with it, its zxid among
        them.

        The future resolves when the checkpoint is durable, or fails: with `StoreFull` (try again later; at
        once for `StoreMapFull`), or with what `on_failure` is called with too. It need not be awaited. Raises
        RuntimeError when one is running, or after `close`.
        """
        job = self._begin(meta)
        self._schedule(0.0)
        self._next_progress = self._loop.call_later(PROGRESS_SECONDS, self._progress)
        return job.done

    def run_now(self, meta: Mapping[bytes, bytes]) -> CheckpointResult:
        """Finish a running checkpoint, then write a complete one, without the loop; for the shutdown.

        Returns when it is durable. A running checkpoint that ends with `StoreFull` is passed over. Raises
        `StoreFull` or whatever else went wrong with the last one; `on_failure` hears nothing of it.
        """
        if self._closed:
            raise RuntimeError("the checkpointer is closed")
        if self._job is not None:
            try:
                self._finish(self._job)
            except StoreFull as error:
                logger.warning("checkpoint failed before the last one reason=%s", error)
        # The tree stands still meanwhile, so the same meta values are right for another attempt.
        for _ in range(_MAP_RETRIES):
            try:
                return self._finish(self._begin(meta))
            except StoreMapFull:
                continue
        return self._finish(self._begin(meta))

    def close(self) -> None:
        """Give up a running checkpoint (one being committed is finished) and end the thread."""
        if self._closed:
            return
        self._closed = True
        job = self._job
        if job is not None:
            try:
                if not job.committing:
                    self._give_up(job, asyncio.CancelledError())
                self._wait_for(job)
            except BaseException as error:
                logger.warning("checkpoint given up zxid=0x%x reason=%r", job.zxid, error)
        self._jobs.put(None)
        self._thread.join()

    # ---- on the loop's thread

    def _begin(self, meta: Mapping[bytes, bytes]) -> _Job:
        if self._closed:
            raise RuntimeError("the checkpointer is closed")
        if self._job is not None:
            raise RuntimeError("a checkpoint is running")
        if self._dead or not self._thread.is_alive():
            raise CheckpointerDied("the checkpoint thread is gone")
        zxid = unpack_int(meta[META_CHECKPOINT_ZXID])
        pages = self._source.checkpoint_begin()
        job = self._job = _Job(dict(meta), zxid, pages, self._loop.create_future())
        logger.info("checkpoint start zxid=0x%x pages=%d", zxid, pages)
        self._jobs.put(job)
        return job

    def _schedule(self, delay: float) -> None:
        self._next_slice = (
            self._loop.call_later(delay, self._slice) if delay else self._loop.call_soon(self._slice)
        )

    def _slice(self) -> None:
        """One turn: take a list of pages and hand it to the thread."""
        self._next_slice = None
        job = self._job
        if job is None or job.committing or job.error is not None:
            return
        try:
            self._take(job)
        except BaseException as error:
            self._give_up(job, error)
            return
        # Else `_hear` goes on, once the thread has caught up.
        if not job.committing and job.queued_bytes < self._queue_bytes:
            self._schedule(self._pause)

    def _take(self, job: _Job) -> None:
        start = time.perf_counter()
        pages = self._source.checkpoint_take(self._slice_now)
        if pages:
            size = sum(len(key) + (len(value) if value is not None else 0) for key, value in pages)
            job.orders.put((pages, size))
            job.pages += len(pages)
            job.bytes += size
            job.queued_bytes += size
            job.peak_queue_bytes = max(job.peak_queue_bytes, job.queued_bytes)
            job.slices += 1
        elif self._durable(job.zxid):
            job.committing = True
            job.orders.put(job.meta)
        took = time.perf_counter() - start
        job.longest_slice = max(job.longest_slice, took)
        if took > SLICE_SECONDS:
            self._slice_now = max(_MIN_SLICE_BYTES, self._slice_now // 2)
        elif took < SLICE_SECONDS / 4:
            self._slice_now = min(self._slice_bytes, self._slice_now * 2)

    def _give_up(self, job: _Job, error: BaseException) -> None:
        """Have the thread drop the transaction; its answer ends the job with `error`."""
        job.error = error
        job.orders.put(None)

    def _hear(self) -> None:
        """The loop was nudged: the thread has said something (or `run_now` has heard it already)."""
        while True:
            try:
                reply = self._replies.get_nowait()
            except queue.Empty:
                return
            try:
                error = self._handle(reply)
            except BaseException as failure:
                error = failure
            if error is not None and not isinstance(error, (StoreFull, asyncio.CancelledError)):
                self._on_failure(error)

    def _handle(self, reply: _Written | _Ended | _Died) -> BaseException | None:
        """Take note of what the thread said; returns what went wrong, if something did."""
        job = self._job
        if isinstance(reply, _Written):
            reply.job.queued_bytes -= reply.bytes
            if (
                reply.job is job
                and self._next_slice is None
                and not (job.committing or job.error is not None or self._closed)
                and job.queued_bytes < self._queue_bytes
            ):
                self._schedule(0.0)
            return None
        if isinstance(reply, _Died):
            self._dead = True
            return self._end(job, reply.error) if job is not None else reply.error
        return self._end(reply.job, reply.job.error or reply.error)

    def _end(self, job: _Job, error: BaseException | None) -> BaseException | None:
        """The thread is done with `job`. Returns `error`, or what went wrong here."""
        self._job = None
        for handle in (self._next_slice, self._next_progress):
            if handle is not None:
                handle.cancel()
        self._next_slice = self._next_progress = None
        seconds = time.monotonic() - job.started
        try:
            self._source.checkpoint_end(error is None)
        except BaseException as failure:
            error = error or failure
        if error is None:
            result = CheckpointResult(
                zxid=job.zxid,
                pages=job.pages,
                bytes=job.bytes,
                seconds=seconds,
                commit_seconds=job.commit_seconds,
                slices=job.slices,
                longest_slice_seconds=job.longest_slice,
                peak_queue_bytes=job.peak_queue_bytes,
            )
            logger.info(
                "checkpoint done zxid=0x%x pages=%d bytes=%d ms=%d commit_ms=%d slices=%d slice_us=%d",
                job.zxid,
                job.pages,
                job.bytes,
                seconds * 1e3,
                job.commit_seconds * 1e3,
                job.slices,
                job.longest_slice * 1e6,
            )
            if not job.done.done():
                job.done.set_result(result)
            return None
        logger.error(
            "checkpoint failed zxid=0x%x pages=%d ms=%d reason=%r", job.zxid, job.pages, seconds * 1e3, error
        )
        if not job.done.done():
            if isinstance(error, asyncio.CancelledError):
                job.done.cancel()
            else:
                job.done.set_exception(error)
                # The owner need not look: asyncio should not complain about that.
                job.done.exception()
        return error

    def _progress(self) -> None:
        job = self._job
        if job is None:
            return
        logger.info(
            "checkpoint progress zxid=0x%x pages=%d of=%d bytes=%d queued=%d ms=%d committing=%s",
            job.zxid,
            job.pages,
            job.page_count,
            job.bytes,
            job.queued_bytes,
            (time.monotonic() - job.started) * 1e3,
            job.committing,
        )
        self._next_progress = self._loop.call_later(PROGRESS_SECONDS, self._progress)

    # ---- without the loop

    def _finish(self, job: _Job) -> CheckpointResult:
        """Drive `job` to its end on this thread, waiting for the writer thread where the loop would turn."""
        if self._next_slice is not None:
            self._next_slice.cancel()
            self._next_slice = None
        # Nobody waits for the GIL here but the thread itself.
        job.naps = False
        try:
            while self._job is job and not job.committing and job.error is None:
                if job.queued_bytes < self._queue_bytes:
                    self._take(job)
                else:
                    self._wait_for_reply()
        except BaseException as error:
            if self._job is job:
                self._give_up(job, error)
                self._wait_for(job)
            raise
        self._wait_for(job)
        return job.done.result()

    def _wait_for(self, job: _Job) -> None:
        while self._job is job:
            self._wait_for_reply()

    def _wait_for_reply(self) -> None:
        """Handle one reply of the thread; raises what went wrong, if something did."""
        while True:
            try:
                reply = self._replies.get(timeout=1.0)
                break
            except queue.Empty:
                # It says so when it dies; this is for a death that could not be told.
                if not self._thread.is_alive() and self._replies.empty():
                    reply = _Died(CheckpointerDied("the checkpoint thread is gone"))
                    break
        error = self._handle(reply)
        # `_handle` may have set the loop to work, which `run_now` does itself.
        if self._next_slice is not None:
            self._next_slice.cancel()
            self._next_slice = None
        if error is not None:
            raise error

    # ---- on the writer thread

    def _run_thread(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                error: BaseException | None = None
                try:
                    self._write(job)
                except Exception as failure:
                    error = failure
                self._tell(_Ended(job, error))
        except BaseException as error:
            self._tell(_Died(error))

    def _write(self, job: _Job) -> None:
        with self._store.begin_write(job.page_count) as writer:
            while (order := job.orders.get()) is not None:
                if isinstance(order, dict):
                    start = time.monotonic()
                    writer.commit(order)
                    job.commit_seconds = time.monotonic() - start
                    return
                pages, size = order
                writer.put(pages)
                self._tell(_Written(job, size))
                if job.naps:
                    time.sleep(_NAP_SECONDS)

    def _tell(self, reply: _Written | _Ended | _Died) -> None:
        self._replies.put(reply)
        try:
            self._loop.call_soon_threadsafe(self._hear)
        except RuntimeError:
            # The loop is closed; `run_now` and `close` read the replies themselves.
            logger.debug("checkpoint reply without a loop reply=%s", type(reply).__name__)
