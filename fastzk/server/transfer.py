"""A whole state from one server to another: the leader's newest checkpoint, while both go on.

The sender reads the pages of an LMDB snapshot, a piece at a time, and cuts them into frames; the tree is not touched.
What the log has behind that checkpoint follows afterwards, as batches, so it is held meanwhile. The receiver puts the
pages into a new database and into a new tree as they arrive; when all are there and verified it decides for them, and
the next start switches to them, by the steps that ``switch.py`` tells.

What travels
------------
Frames of up to 256 KiB, in order, over a connection that has its own checksums. Integers are little-endian::

    begin   u8 1, u16 version, i64 zxid of the checkpoint, u64 pages
    data    u8 2, a piece of the stream of items
    end     u8 3, u64 items, u64 bytes of the stream, u64 xxh3-64 of the stream

    item    u8 kind (1 meta, 2 page), u16 bytes of the key, u32 bytes of the value,
            u64 xxh3-64 of the value seeded with that of the key, the key, the value

The stream is cut anywhere, since a page may be larger than a frame. Each item's checksum is the one that is stored with
it in either database, so nothing between the two disks goes unnoticed.

The meta items: the tree's digest, the table of sessions, and the key of their passwords, which is the ensemble's. The
receiver's identity (its store id, its promise) stays its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import struct
import threading
import time
from collections.abc import Callable
from typing import Final

from xxhash import xxh3_64, xxh3_64_intdigest

from fastzk._log import LogHold, TxnLog
from fastzk._tree import Tree, TreeCorruption
from fastzk.server.config import Config
from fastzk.server.recovery import finish_tree
from fastzk.server.store import (
    META_CHECKPOINT_ZXID,
    META_KEEP_LOG,
    META_MEMBER,
    META_SESSION_SECRET,
    META_SESSIONS,
    META_STORE_ID,
    META_TREE_DIGEST,
    Page,
    Snapshot,
    Store,
    StoreError,
    StoreMapFull,
    pack_int,
)
from fastzk.server.switch import decide, incoming_path

logger = logging.getLogger(__name__)

VERSION: Final = 1
FRAME_BYTES: Final = 256 << 10
#: How long a transfer may take: while it does, the sender's database cannot use its free space again.
LIMIT_SECONDS: Final = 300.0
#: Between frames, and how many bytes may be unsent before no more are read.
PAUSE_SECONDS: Final = 0.001
AHEAD_BYTES: Final = 4 << 20
# Pages read from the snapshot at a time: their checksums and copies take some 50 microseconds.
_READ_BYTES: Final = 128 << 10
_READ_AHEAD_BYTES: Final = 4 << 20
# The receiver commits pages each time so many bytes were put, to keep LMDB from holding all of them in memory.
_ASIDE_BYTES: Final = 16 << 20
_LARGEST_VALUE: Final = 1 << 30

_BEGIN_KIND: Final = 1
_DATA_KIND: Final = 2
_END_KIND: Final = 3
_META: Final = 1
_PAGE: Final = 2
_BEGIN = struct.Struct("<BHqQ")
_END = struct.Struct("<BQQQ")
_ITEM = struct.Struct("<BHIQ")
_SENT_META: Final = (META_TREE_DIGEST, META_SESSIONS)


class TransferError(Exception):
    """A state cannot be sent or taken over. Nothing has changed; another attempt is allowed."""


class StateSender:
    """Sends the newest checkpoint of ``store``: the frames, one by one, from ``frame()``.

    ``zxid``: the checkpoint's. ``secret``: the key of the sessions' passwords. ``log``: what it has behind ``zxid`` is
    held until ``close()``, so call that when the other server has been sent it, or is gone. ``limit_seconds``: for all
    of the transfer; then ``frame`` raises. Raises StoreError.
    """

    def __init__(
        self,
        store: Store,
        log: TxnLog,
        secret: bytes,
        *,
        frame_bytes: int = FRAME_BYTES,
        limit_seconds: float = LIMIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # In this order, and without a pause: no checkpoint can end, and purge, in between.
        self._snapshot: Snapshot | None = store.snapshot_reader()
        self.zxid = self._snapshot.zxid
        self._hold: LogHold = log.hold(self.zxid)
        self.pages = self._snapshot.page_count
        self._frame_bytes = frame_bytes
        self._clock = clock
        self._deadline = clock() + limit_seconds
        self._digest = xxh3_64()
        self._items = 0
        self.bytes_sent = 0
        self._begun = self._drained = False
        self._buffer = bytearray()
        for key in _SENT_META:
            value = self._snapshot.meta.get(key)
            if value is not None:
                self._put(_META, key, value)
        self._put(_META, META_SESSION_SECRET, secret)
        # Reading what is not in memory would stall the loop: have it read by somebody who may wait.
        threading.Thread(
            target=_read_ahead, args=(os.path.join(store.path, "data.mdb"),), name="state-read-ahead", daemon=True
        ).start()

    def frame(self) -> bytes | None:
        """The next frame; None after the last. Takes well under a millisecond, unless one page is very large.

        Raises:
            TransferError: the transfer took too long.
            SnapshotInterrupted: begin anew. StoreError: the database cannot be read.
        """
        snapshot = self._snapshot
        if snapshot is None:
            return None
        if self._clock() > self._deadline:
            self._end_snapshot()
            raise TransferError(f"the state of zxid 0x{self.zxid:x} was not sent in time")
        if not self._begun:
            self._begun = True
            return _BEGIN.pack(_BEGIN_KIND, VERSION, self.zxid, self.pages)
        room = self._frame_bytes - 1
        while len(self._buffer) < room and not self._drained:
            pages = snapshot.read(min(_READ_BYTES, room))
            for key, value in pages:
                self._put(_PAGE, key, value)
            self._drained = not pages
        if not self._buffer:
            self._end_snapshot()
            return _END.pack(_END_KIND, self._items, self.bytes_sent, self._digest.intdigest())
        with memoryview(self._buffer) as view:
            piece = bytes(view[:room])
        del self._buffer[: len(piece)]
        self._digest.update(piece)
        self.bytes_sent += len(piece)
        return bytes([_DATA_KIND]) + piece

    def close(self) -> None:
        """The other server has what it needs, or is gone: let go of the snapshot and the log. Twice is allowed."""
        self._end_snapshot()
        self._hold.release()

    def _end_snapshot(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    def _put(self, kind: int, key: bytes, value: bytes) -> None:
        checksum = xxh3_64_intdigest(value, xxh3_64_intdigest(key))
        self._buffer += _ITEM.pack(kind, len(key), len(value), checksum)
        self._buffer += key
        self._buffer += value
        self._items += 1


class StatePump:
    """Has ``sender`` send over the turns of the event loop: a frame, a pause in which others are served, and so on.

    ``send`` takes a frame; ``pending`` says how many bytes were not sent yet: beyond ``AHEAD_BYTES`` it waits. ``done``
    is called once, unless ``close`` was before: with whether everything was sent. The sender stays open: ``close`` it,
    or this, when what its log holds is not needed any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sender: StateSender,
        *,
        send: Callable[[bytes], object],
        pending: Callable[[], int],
        done: Callable[[bool], object],
    ) -> None:
        self._loop = loop
        self._sender = sender
        self._send = send
        self._pending = pending
        self._done = done
        self._began = time.monotonic()
        self._next: asyncio.Handle | None = loop.call_soon(self._step)

    def close(self) -> None:
        """Send no more, and close the sender."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._sender.close()

    def _step(self) -> None:
        self._next = None
        ok = True
        try:
            frame = b"" if self._pending() > AHEAD_BYTES else self._sender.frame()
        except (TransferError, StoreError) as error:
            logger.warning("sending the full state failed zxid=0x%x reason=%s", self._sender.zxid, error)
            frame, ok = None, False
        if frame is not None:
            if frame:
                self._send(frame)
            self._next = self._loop.call_later(PAUSE_SECONDS, self._step)
            return
        logger.info(
            "full state sent zxid=0x%x pages=%d bytes=%d ms=%d complete=%s",
            self._sender.zxid,
            self._sender.pages,
            self._sender.bytes_sent,
            (time.monotonic() - self._began) * 1000,
            ok,
        )
        self._done(ok)


def _read_ahead(path: str) -> None:
    """Bring the file into the page cache. Nothing depends on it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for offset in range(0, os.fstat(descriptor).st_size, _READ_AHEAD_BYTES):
                os.posix_fadvise(descriptor, offset, _READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
    except OSError as error:
        logger.info("no read-ahead path=%s error=%s", path, error.strerror)


class StateReceiver:
    """Takes over the state that a ``StateSender`` sends: ``feed`` every frame, then ``seal``, then ``install``.

    ``store_id``: this server's own. Until ``install`` nothing of what this server has is touched. Removes what an
    earlier attempt left. Raises OSError, StoreError.
    """

    def __init__(self, config: Config, store_id: bytes) -> None:
        self._config = config
        self._store_id = store_id
        self.zxid = -1  # of the checkpoint, known from the first frame on
        self.pages = 0
        self.pages_expected = 0
        self._items = 0
        self._bytes = 0
        self._digest = xxh3_64()
        self._buffer = bytearray()
        self._meta: dict[bytes, bytes] = {}
        self._tree = Tree()
        self._waiting: list[Page] = []
        self._aside = 0
        self._begun = self._ended = self._sealed = self._keep_log = False
        path = incoming_path(config)
        if path.exists():
            shutil.rmtree(path)
        self._store: Store | None = Store.open(os.fspath(path), create=True, lazy=True)
        self._writer = self._store.begin_write()

    def feed(self, frame: bytes | memoryview) -> bool:
        """Take in the next frame; True when it was the last.

        Raises:
            TransferError: a frame out of place, or damage. StoreError (StoreFull): it cannot be stored. Then
            ``close`` it and ask for the state again.
        """
        kind = frame[0] if len(frame) else 0
        try:
            if self._ended or (kind == _BEGIN_KIND) == self._begun:
                raise TransferError(f"a frame of kind {kind} out of place")
            if kind == _DATA_KIND:
                self._data(memoryview(frame)[1:])
            elif kind == _BEGIN_KIND:
                _, version, self.zxid, self.pages_expected = _BEGIN.unpack(frame)
                if version != VERSION or self.zxid < 0:
                    raise TransferError(f"a state of version {version} and zxid {self.zxid}")
                self._begun = True
            elif kind == _END_KIND:
                _, items, size, checksum = _END.unpack(frame)
                if (items, size, checksum) != (self._items, self._bytes, self._digest.intdigest()):
                    raise TransferError("the state that arrived is not the one that was sent")
                if self._buffer or self.pages != self.pages_expected:
                    raise TransferError(f"{self.pages} pages arrived of {self.pages_expected}")
                self._ended = True
                self._write()
                self._writer.abort()  # it belongs to this thread, unlike what `seal` does
            else:
                raise TransferError(f"a frame of the unknown kind {kind}")
        except (struct.error, TreeCorruption) as error:
            raise TransferError(f"the state that arrives is damaged: {error}") from error
        return self._ended

    def seal(self, *, keep_log: bool = False) -> None:
        """Everything is there: make a tree of it, compare its digest, and make it durable. Waits for the disk.

        ``keep_log``: this server's own log has ``zxid`` as a batch's end, and stays. May run in another thread, while
        nothing else here is called. Raises TransferError, StoreError.
        """
        if not self._ended or self._store is None:
            raise TransferError("the state is not complete")
        if META_SESSION_SECRET not in self._meta:
            raise TransferError("the state has no key for the sessions' passwords")
        if self.zxid == 0 and self.pages == 0:
            self._tree.plant()
        else:
            try:
                finish_tree(self._tree, self._meta.get(META_TREE_DIGEST))
            except TreeCorruption as error:
                raise TransferError(f"the state that arrived is damaged: {error}") from error
        stored = sum(1 for _ in self._store.pages())  # which verifies each of them
        if stored != self.pages:
            raise TransferError(f"{stored} pages were stored of {self.pages}")
        self._store.initialise(
            {
                **self._meta,
                META_CHECKPOINT_ZXID: pack_int(self.zxid),
                META_STORE_ID: self._store_id,
                META_MEMBER: b"1",
                META_KEEP_LOG: b"1" if keep_log else b"",
            }
        )
        self._store.sync()
        self._keep_log = keep_log
        self._sealed = True

    def install(self, last_zxid: int) -> None:
        """Decide that this state counts. The server has to begin anew now: its ``recover`` puts the state in place.

        ``last_zxid``: the end of this server's log. A state older than that is refused, unless the log stays: it would
        take back what this server has acknowledged. Raises TransferError, OSError.
        """
        if not self._sealed or self._store is None:
            raise TransferError("the state is not complete")
        if self.zxid < last_zxid and not self._keep_log:
            raise TransferError(
                f"a state of zxid 0x{self.zxid:x} would take back what was logged up to 0x{last_zxid:x}"
            )
        self._store.close()
        self._store = None
        decide(self._config)
        logger.info("taking over a state zxid=0x%x pages=%d bytes=%d", self.zxid, self.pages, self._bytes)

    def close(self) -> None:
        """Give up: nothing stays of it. Does nothing after ``install``."""
        store, self._store = self._store, None
        if store is not None:
            self._writer.abort()
            store.close()
            shutil.rmtree(incoming_path(self._config), ignore_errors=True)

    # -- inside ---------------------------------------------------------------------------------------------

    def _data(self, piece: memoryview) -> None:
        self._digest.update(piece)
        self._bytes += len(piece)
        buffer = self._buffer
        buffer += piece
        at = 0
        with memoryview(buffer) as view:
            while len(buffer) - at >= _ITEM.size:
                kind, key_bytes, value_bytes, checksum = _ITEM.unpack_from(buffer, at)
                start = at + _ITEM.size
                end = start + key_bytes + value_bytes
                if value_bytes > _LARGEST_VALUE:
                    raise TransferError(f"a value of {value_bytes} bytes")
                if end > len(buffer):
                    break
                key = bytes(view[start : start + key_bytes])
                value = bytes(view[start + key_bytes : end])
                if xxh3_64_intdigest(value, xxh3_64_intdigest(key)) != checksum:
                    raise TransferError(f"checksum mismatch in {key.hex()}")
                self._item(kind, key, value)
                at = end
        del buffer[:at]
        self._write()

    def _item(self, kind: int, key: bytes, value: bytes) -> None:
        self._items += 1
        if kind == _PAGE:
            self._tree.load_page(key, value)
            self._waiting.append((key, value))
            self.pages += 1
            self._aside += len(value)
        elif kind == _META and (key in _SENT_META or key == META_SESSION_SECRET):
            self._meta[key] = value
        else:
            raise TransferError(f"an item of kind {kind}, key {key.hex()}")

    def _write(self) -> None:
        if self._store is None:
            raise TransferError("it was given up")
        try:
            self._writer.put(self._waiting)
            if self._aside >= _ASIDE_BYTES or self._ended:
                self._writer.put_aside()
                self._aside = 0
        except StoreMapFull as error:
            raise TransferError(f"the state does not fit: {error}") from error
        self._waiting = []
