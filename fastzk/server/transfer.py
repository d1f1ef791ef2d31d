"""A full state from the leader, for a server that its log does not reach back to: pages of a checkpoint.

The leader reads a snapshot of its database, in pieces, while it goes on serving; batches behind that checkpoint follow
from its log, which is kept until then. The follower writes the pages into a database of its own beside the one it
has (``state.incoming``), and then begins anew with that.

How one state replaces the other
--------------------------------
Each step is durable before the next; a crash anywhere leaves the old state or the new one, whole:

1. ``state.incoming`` is complete, committed and closed.
2. It is renamed to ``state.installed``. This is the point of no return: before it the old state counts, and the next
   start removes what is there of ``state.incoming``; from here on the next start goes on with step 3.
3. The old log becomes ``log.discarded``: it is not of the history of the new state.
4. The old ``state`` becomes ``state.discarded``, ``state.installed`` becomes ``state``.
5. What is discarded is deleted.

The new database says that it came without a log (``META_INSTALLED``), so that this is not taken for a loss.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fastzk.server.files import fsync_directory
from fastzk.server.store import (
    META_CHECKPOINT_ZXID,
    META_INSTALLED,
    META_SESSION_SECRET,
    META_SESSIONS,
    META_TREE_DIGEST,
    Snapshot,
    Store,
    StoreError,
    StoreWriter,
    unpack_int,
)

logger = logging.getLogger(__name__)

#: Bytes of pages in one frame, and frames unsent before the sender waits.
PIECE_BYTES: Final = 256 << 10
AHEAD_BYTES: Final = 4 << 20
#: Between pieces: others are served, too.
PAUSE_SECONDS: Final = 0.001
#: After the last piece, how long the log behind it is kept for the follower to ask.
HOLD_SECONDS: Final = 60.0
PROGRESS_SECONDS: Final = 5.0

_HEAD = struct.Struct("<qB")
_ITEM = struct.Struct("<II")
_COUNT = struct.Struct("<Q")
_META, _PAGES, _END = range(3)
#: What of a checkpoint goes with its pages. The rest is the receiver's own.
_SENT: Final = (META_CHECKPOINT_ZXID, META_TREE_DIGEST, META_SESSIONS, META_SESSION_SECRET)


def _pack(items: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(part for key, value in items for part in (_ITEM.pack(len(key), len(value)), key, value))


def _unpack(body: memoryview) -> list[tuple[bytes, bytes]]:
    """Raises ValueError if it is malformed."""
    items: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(body):
        try:
            key, value = _ITEM.unpack_from(body, at)
        except struct.error as error:
            raise ValueError("a part of a state is cut short") from error
        at += _ITEM.size
        if key + value > len(body) - at:
            raise ValueError("a part of a state is cut short")
        items.append((bytes(body[at : at + key]), bytes(body[at + key : at + key + value])))
        at += key + value
    return items


class StateSender:
    """Sends the newest checkpoint of `store` to one follower, over the turns of the event loop.

    ``send`` takes the buffers of one frame, ``pending`` says how many bytes were not sent yet; ``done`` is called
    once, with whether everything was sent.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        stream: int,
        *,
        send: Callable[..., object],
        pending: Callable[[], int],
        done: Callable[[bool], object],
    ) -> None:
        self._loop = loop
        self._stream = stream
        self._send = send
        self._pending = pending
        self._done = done
        self._pages = 0
        self._bytes = 0
        self._spoken = self._began = time.monotonic()
        self._closed = False
        #: Kept open, so that the log behind it is of use.
        self._snapshot: Snapshot = store.snapshot_reader()
        self.zxid = self._snapshot.zxid
        self._piece(_META, _pack([(key, self._snapshot.meta[key]) for key in _SENT]))
        loop.call_soon(self._step)

    def close(self) -> None:
        """Send no more."""
        if not self._closed:
            self._closed = True
            self._snapshot.close()

    def _piece(self, part: int, body: bytes) -> None:
        self._send(_HEAD.pack(self._stream, part), body)

    def _step(self) -> None:
        if self._closed:
            return
        if self._pending() > AHEAD_BYTES:
            self._loop.call_later(PAUSE_SECONDS, self._step)
            return
        try:
            pages = self._snapshot.read(PIECE_BYTES)
        except StoreError as error:
            logger.warning("sending the full state failed reason=%s; it begins anew", error)
            self._end(False)
            return
        if not pages:
            self._piece(_END, _COUNT.pack(self._pages))
            self._end(True)
            return
        body = _pack(pages)
        self._piece(_PAGES, body)
        self._pages += len(pages)
        self._bytes += len(body)
        if time.monotonic() - self._spoken > PROGRESS_SECONDS:
            self._spoken = time.monotonic()
            logger.info("sending the full state pages=%d of=%d", self._pages, self._snapshot.page_count)
        self._loop.call_later(PAUSE_SECONDS, self._step)

    def _end(self, ok: bool) -> None:
        self.close()
        logger.info(
            "full state sent zxid=0x%x pages=%d bytes=%d ms=%d complete=%s",
            self.zxid,
            self._pages,
            self._bytes,
            (time.monotonic() - self._began) * 1000,
            ok,
        )
        self._done(ok)


class StateReceiver:
    """Takes a full state into ``state.incoming`` beside the database at `state`."""

    def __init__(self, state: Path, stream: int) -> None:
        self.stream = stream
        self._state = state
        self._incoming = state.with_name(state.name + ".incoming")
        _remove(self._incoming)
        self._store: Store | None = Store.open(os.fspath(self._incoming), create=True)
        self._writer: StoreWriter | None = None
        self._meta: dict[bytes, bytes] = {}
        self._pages = 0

    def take(self, body: memoryview) -> bool:
        """The next part (without the stream's number); whether it was the last one and the state is durable.

        Raises:
            ValueError: it is malformed, or parts are missing.
            StoreError: it cannot be written.
        """
        part, body = body[0], body[1:]
        if part == _META:
            self._begin(dict(_unpack(body)))
        elif self._writer is None or self._store is None:
            raise ValueError("a part of a state without its beginning")
        elif part == _PAGES:
            pages = _unpack(body)
            self._writer.put(pages)
            self._pages += len(pages)
        elif part == _END:
            if _COUNT.unpack(body)[0] != self._pages:
                raise ValueError("parts of a state are missing")
            self._writer.commit(self._meta)
            self._writer = None
            self._store.close()
            self._store = None
            return True
        else:
            raise ValueError(f"a part of a state of the unknown kind {part}")
        return False

    @property
    def zxid(self) -> int:
        """Up to where the state goes."""
        return unpack_int(self._meta[META_CHECKPOINT_ZXID])

    def close(self) -> None:
        """Give up, unless it is complete."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
        if self._store is not None:
            self._store.close()
            self._store = None
            _remove(self._incoming)

    def _begin(self, meta: Mapping[bytes, bytes]) -> None:
        if self._writer is not None or self._store is None or not set(_SENT) <= meta.keys():
            raise ValueError("a state that begins twice, or without its description")
        self._meta = {key: meta[key] for key in _SENT}
        self._store.initialise({META_SESSION_SECRET: meta[META_SESSION_SECRET]})
        self._meta[META_INSTALLED] = meta[META_CHECKPOINT_ZXID]
        self._writer = self._store.begin_write()


def install(state: Path) -> None:
    """Step 2: from here on the received state is the one that counts. The next start puts it into place.

    Raises:
        OSError: it could not be renamed.
    """
    incoming, installed = state.with_name(state.name + ".incoming"), state.with_name(state.name + ".installed")
    fsync_directory(incoming)
    incoming.rename(installed)
    fsync_directory(state.parent)


def complete_installation(state: Path, log: Path) -> None:
    """At a start: finish what ``install`` began, and remove what a crash has left.

    Raises:
        OSError: a file cannot be renamed or removed.
    """
    installed = state.with_name(state.name + ".installed")
    discarded_state = state.with_name(state.name + ".discarded")
    discarded_log = log.with_name(log.name + ".discarded")
    _remove(state.with_name(state.name + ".incoming"))
    if installed.is_dir():
        logger.info("putting a received state into place path=%s", installed)
        if log.is_dir():
            _remove(discarded_log)
            log.rename(discarded_log)
            fsync_directory(log.parent)
        if state.is_dir():
            _remove(discarded_state)
            state.rename(discarded_state)
            fsync_directory(state.parent)
        installed.rename(state)
        fsync_directory(state.parent)
    _remove(discarded_state)
    _remove(discarded_log)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
