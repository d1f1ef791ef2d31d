"""The transaction log's next segments: written over ahead of need, and recycled when they have been purged.

An ordinary thread, since preparing waits for the disk and is never urgent, except for a new log's first segment. Why
segments are written over before they are used is told in ``_log.pyx``.
"""

from __future__ import annotations

import errno as _errno
import logging
import os
import threading
import time
from collections import deque
from typing import Final, NamedTuple

#: Segments kept ready or recycled at most.
SPARES: Final = 2
#: A new log's first segment is small, so that its first write waits less.
FIRST_SEGMENT: Final = 1024 * 1024
_PIECE: Final = 2 * 1024 * 1024
#: And written by one call. The page cache keeps a file in the units in which it was written, and ext4 walks over all
#: blocks of such a unit for each small write into it: in units of 2 MiB a batch takes 17 us and more, in these 7.
_WRITE: Final = 64 * 1024
# What an open(), a write or a rename may say when the machine has run short of something that can come back.
_RETRYABLE: Final = frozenset((_errno.ENOSPC, _errno.EDQUOT, _errno.EFBIG, _errno.EMFILE, _errno.ENFILE, _errno.ENOMEM))
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_logger = logging.getLogger("fastzk.log")

#: For tests: not 0, preparing a segment fails with this errno (set by ``fastzk._log._inject``).
fail_errno = 0


class Spare(NamedTuple):
    """A file ready to become a segment; `recycled`: it still holds old batches instead of zeros."""

    name: str
    fd: int
    size: int
    recycled: bool


class _Stopping(Exception):
    """The log is being closed while a segment is half prepared."""


class Preparer:
    """Keeps the next segment ready and takes purged ones out of the way, in a thread of its own.

    ``errno`` is not 0 while no segment can be prepared for want of space (tried again every second);
    ``failed`` is set once, for ever, by any other error. Every change rings the log's eventfd.
    """

    RETRY_SECONDS = 1.0

    def __init__(self, dir_fd: int, event_fd: int, segment_bytes: int, spares: list[str], quick: bool) -> None:
        self.dir_fd = os.dup(dir_fd)
        self.event_fd = os.dup(event_fd)
        self.segment_bytes = segment_bytes
        self.spares = spares
        self.retired: deque[str] = deque()
        self.ready: Spare | None = None
        self.wanted = min(FIRST_SEGMENT, segment_bytes) if quick else segment_bytes
        self.urgent = quick
        self.errno = 0
        self.failed: tuple[int, str] | None = None
        self.retry_at = 0.0
        self.stopping = False
        self.changed = threading.Condition(threading.Lock())
        self.thread = threading.Thread(target=self.run, name="fastzk-log-preparer", daemon=True)
        self.thread.start()

    # called by the loop's thread

    def take(self, minimum: int) -> Spare | None:
        """The prepared segment if it has at least `minimum` bytes, or None; either way the next is begun."""
        with self.changed:
            spare = self.ready
            self.wanted = self.segment_bytes
            self.ready = None
            if spare is not None and spare.size < minimum:
                os.close(spare.fd)
                self.retired.append(spare.name)
                spare = None
            if spare is None:
                self.wanted = max(self.wanted, (minimum + 4095) & ~4095)
                self.urgent = True
            self.changed.notify_all()
            return spare

    def forget_wish(self) -> None:
        """The batch that needed an unusual size was refused."""
        with self.changed:
            self.wanted = self.segment_bytes

    def put_back(self, name: str, errno: int) -> None:
        """A segment that could not be entered for want of space."""
        with self.changed:
            if name:
                self.retired.append(name)
            self.errno = errno
            self.retry_at = time.monotonic() + self.RETRY_SECONDS
            self.changed.notify_all()

    def retire(self, names: list[str]) -> None:
        """Recycle or remove these, in this order: a crash in between must not leave a gap."""
        with self.changed:
            self.retired.extend(names)
            self.retry_at = 0.0
            self.changed.notify_all()

    def settle(self) -> None:
        """Wait until all that was retired is gone. Raises OSError if that does not come to pass."""
        with self.changed:
            if not self.changed.wait_for(lambda: not self.retired or self.failed is not None, 30):
                raise OSError(_errno.ETIMEDOUT, "log segments are still being recycled")

    def wait(self, seconds: float) -> None:
        """Until a segment is ready or cannot be had, or so many seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.ready or self.errno or self.failed, seconds)

    def stop(self) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        if threading.current_thread() is not self.thread:
            self.thread.join()

    # in the thread

    def run(self) -> None:
        warned = 0
        while self._wait_for_work():
            try:
                if self.retired:
                    self._retire(self.retired[0])
                elif self.ready is None:
                    self._prepare()
                error = 0
            except OSError as problem:
                error = problem.errno or _errno.EIO
                if error not in _RETRYABLE:
                    self.failed = (error, "preparing a log segment")
                    self._announce(error)
                    break
                if error != warned:
                    _logger.warning(
                        "no log segment can be prepared: %s; trying again every %g s",
                        os.strerror(error),
                        self.RETRY_SECONDS,
                    )
            except _Stopping:
                break
            except BaseException:
                # the thread must not die in silence
                self.failed = (_errno.EIO, "preparing a log segment (a defect, see the traceback)")
                _logger.exception("the preparer of log segments failed")
                self._announce(_errno.EIO)
                break
            if not error and self.ready is None:
                with self.changed:
                    self.retry_at = 0.0  # a segment was retired: whether that is room enough is to be seen
                    self.changed.notify_all()
                continue
            if warned and not error:
                _logger.warning("log segments can be prepared again")
            warned = error
            self._announce(error)
        if self.ready is not None:
            os.close(self.ready.fd)
        os.close(self.dir_fd)
        os.close(self.event_fd)

    def _wait_for_work(self) -> bool:
        with self.changed:
            while not self.stopping:
                left = self.retry_at - time.monotonic()
                if self.retired or self.ready is None or self.errno:
                    if left <= 0:
                        return True
                    self.changed.wait(left)
                else:
                    self.changed.wait()
            return False

    def _announce(self, error: int) -> None:
        with self.changed:
            self.errno = error
            self.retry_at = time.monotonic() + self.RETRY_SECONDS if error else 0.0
            self.changed.notify_all()
        os.eventfd_write(self.event_fd, 1)

    def _retire(self, name: str) -> None:
        try:
            size = os.stat(name, dir_fd=self.dir_fd).st_size
        except FileNotFoundError:
            size = -1
        if size == self.segment_bytes and len(self.spares) + (self.ready is not None) < SPARES:
            spare = name
            if not name.startswith("spare."):
                spare = f"spare.{os.urandom(8).hex()}"
                os.rename(name, spare, src_dir_fd=self.dir_fd, dst_dir_fd=self.dir_fd)
                os.fsync(self.dir_fd)
            self.spares.append(spare)
        elif size >= 0:
            os.unlink(name, dir_fd=self.dir_fd)
            os.fsync(self.dir_fd)
        with self.changed:
            self.retired.popleft()
            self.changed.notify_all()

    def _prepare(self) -> None:
        size = self.wanted
        if self.spares and size <= self.segment_bytes:
            name = self.spares.pop(0)
            fd = os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self.dir_fd)
            # a batch that starts within a block has to read that block first, if it is not in memory
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
            spare = Spare(name, fd, os.fstat(fd).st_size, True)
        else:
            spare = self._create(size)
        with self.changed:
            self.ready = spare
            self.urgent = False

    def _create(self, size: int) -> Spare:
        name = f"spare.{os.urandom(8).hex()}"
        if fail_errno:
            raise OSError(fail_errno, "injected")
        fd = os.open("prepare.tmp", _CREATE, 0o600, dir_fd=self.dir_fd)
        try:
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError as problem:
                if problem.errno not in (_errno.EOPNOTSUPP, _errno.EINVAL):
                    raise
            zeros = memoryview(bytes(_WRITE))
            at = 0
            while at < size:
                if self.stopping:
                    raise _Stopping
                began = time.monotonic()
                end = min(size, at + _PIECE)
                while at < end:
                    at += os.pwrite(fd, zeros[: end - at], at)
                os.fdatasync(fd)
                with self.changed:
                    if not self.urgent and not self.stopping:
                        # leave the disk to the live log for as long as this piece has used it
                        self.changed.wait(min(time.monotonic() - began, 0.05))
            os.fsync(fd)
            os.rename("prepare.tmp", name, src_dir_fd=self.dir_fd, dst_dir_fd=self.dir_fd)
            os.fsync(self.dir_fd)
        except BaseException:
            os.close(fd)
            os.unlink("prepare.tmp", dir_fd=self.dir_fd)  # at once: it may be what fills the disk
            raise
        return Spare(name, fd, size, False)
