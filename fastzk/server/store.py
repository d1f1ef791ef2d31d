"""The materialised state on disk: an LMDB environment that holds one checkpoint of the znode tree.

Nothing else in the server touches LMDB.

    <dataDir>/state/data.mdb     named database `pages`: what the tree cut itself into; opaque keys and values
                                 named database `meta`:  checkpoint zxid, tree digest, sessions, ...
    <dataDir>/state/lock.mdb     LMDB's own lock table

What always holds:

* Pages and meta change together. `Store.begin_write` is the only way to write either: one LMDB transaction
  that ends with the meta values (the zxid among them), durable when `StoreWriter.commit` returns. A process
  killed at any moment leaves the old checkpoint or the new one.
* Every value, page or meta, carries a checksum over key and value, since LMDB 0.9 has none: 8 bytes of
  xxh3-64 before the value. It is verified whenever a value is read.
* The memory map is replaced only when nothing points into it. Growing it closes the read transactions of
  snapshots under `_lock` and reopens them on the same LMDB snapshot if that still is the newest; if a
  checkpoint was committed since, the snapshot ends with `SnapshotInterrupted` and its user starts over.
  Loading (`Store.pages`) hands out views into the map and so excludes writing.
* An environment is opened once in a process and never used across a fork: LMDB's POSIX locks allow neither.

Memory is given back while loading and writing and afterwards. Mapped file pages are the page cache's business
and would otherwise count as this process's, the whole state a second time; and the blocks in which LMDB
collects a transaction (about as much as is written, until the commit) would stay with the allocator.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import mmap
import os
import resource
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import lmdb
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from fastzk.server.files import fsync_directory

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CHECKSUM_BYTES = 8

# Keys of the meta database. Integers are 8 bytes, big-endian, unsigned.
META_FORMAT = b"format"
META_STORE_ID = b"store-id"
META_CHECKPOINT_ZXID = b"checkpoint-zxid"
META_TREE_DIGEST = b"tree-digest"
META_SESSIONS = b"sessions"
META_SESSION_SECRET = b"session-secret"
# Not empty: this server has been a member of an ensemble, so its promise file has to be there.
META_MEMBER = b"ensemble-member"
# Not empty, in a state that came from another server: it lies within this server's own log, which stays.
META_KEEP_LOG = b"keep-log"

# Address space, not memory and not disk: a generous map costs nothing and growing one under readers may cost
# a state transfer, so it starts where a million small znodes fit several times over.
DEFAULT_MAP_SIZE = 1 << 30
MAX_MAP_SIZE = 1 << 42
# How often all pages may be replaced while a snapshot is open, without the map having to grow.
SNAPSHOT_ROOM = 16
_HEADROOM = 64 << 20
# A page is assumed to need at least this much when room is made ahead of a checkpoint.
_PAGE_ESTIMATE = 16 << 10
# While loading and writing, mapped file pages are given back each time so many bytes have gone by.
_RELEASE_EVERY = 32 << 20
_FULL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Page = tuple[bytes, bytes | None]


class StoreError(Exception):
    """LMDB or the file system failed, or the store was used in a way that LMDB does not allow."""


class StoreMissing(StoreError):
    """There is no store at this path, or one that was never initialised."""


class StoreCorruption(StoreError):
    """What is stored is not what was written."""


class StoreFull(StoreError):
    """No room for the checkpoint. The previous one is intact, and trying again later is allowed."""


class StoreMapFull(StoreFull):
    """The memory map was too small for the checkpoint and has been grown: trying again now is worth it."""


class SnapshotInterrupted(StoreError):
    """The map grew while a snapshot older than the newest checkpoint was being read: take a new one."""


def pack_int(value: int) -> bytes:
    """`value` (0 <= value < 2**64) as a meta value."""
    return value.to_bytes(8, "big")


def unpack_int(value: bytes) -> int:
    """The inverse of `pack_int`. Raises `StoreCorruption` when `value` is not 8 bytes."""
    if len(value) != 8:
        raise StoreCorruption(f"an integer of {len(value)} bytes in the store's meta data")
    return int.from_bytes(value, "big")


def _checksum(key: bytes | memoryview, value: bytes | memoryview) -> bytes:
    # The key's hash seeds the value's: a value under the wrong key does not verify.
    return xxh3_64_digest(value, xxh3_64_intdigest(key))


def _unseal(path: str, kind: str, key: bytes | memoryview, stored: memoryview) -> memoryview:
    """The value inside `stored`, a view into the same memory. Raises `StoreCorruption` naming the key."""
    value = stored[CHECKSUM_BYTES:]
    if stored[:CHECKSUM_BYTES] != _checksum(key, value):
        raise StoreCorruption(f"{path}: checksum mismatch in {kind} {bytes(key).hex()} ({len(stored)} bytes)")
    return value


_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def _trim_heap() -> None:
    """Have the allocator give its free memory back to the system, where it can (glibc)."""
    with contextlib.suppress(AttributeError):
        _libc.malloc_trim(ctypes.c_size_t(0))


# Real paths of the environments open in this process.
_open_paths: set[str] = set()
_open_paths_lock = threading.Lock()


@dataclass(slots=True)
class StoreReport:
    """What `verify` found. `problems` is empty when the store is sound."""

    path: str
    format: int | None = None
    zxid: int | None = None
    pages: int = 0
    page_bytes: int = 0
    file_bytes: int = 0
    meta_keys: list[str] = field(default_factory=list)
    meta: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    structure_checked: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


class Store:
    """One open environment. Made by `Store.open`, not by the constructor.

    Any thread may call any method; a `StoreWriter` belongs to the thread that made it.
    """

    def __init__(self, path: str, real_path: str, create: bool, map_size: int, lazy: bool) -> None:
        self.path = path
        self._real_path = real_path
        self._pid = os.getpid()
        self._closed = False
        # Guards the fields below and every use of a snapshot's transaction: its holder may replace the map.
        self._lock = threading.Lock()
        self._writing = False
        self._loading = 0
        self._snapshots: set[Snapshot] = set()
        self._meta: dict[bytes, bytes] = {}
        self._map_size = map_size
        try:
            # The mode is that of LMDB's files; the directory exists already.
            self._env = lmdb.open(
                path, map_size=map_size, max_dbs=2, mode=0o600, create=False, readahead=False, sync=not lazy
            )
            try:
                self._env.reader_check()
                self._pages_db = self._env.open_db(b"pages", create=create)
                self._meta_db = self._env.open_db(b"meta", create=create)
                self._map_size = int(self._env.info()["map_size"])
                self._meta = self._read_meta()
            except BaseException:
                self._env.close()
                raise
        except lmdb.NotFoundError as error:
            raise StoreMissing(f"{path}: this store was never initialised") from error
        except (lmdb.Error, OSError) as error:
            raise self._translate(error, "cannot open", 1 << 20) from error

    @classmethod
    def open(
        cls, path: str, *, create: bool, map_size: int = DEFAULT_MAP_SIZE, lazy: bool = False
    ) -> Store:
        """Open the environment in directory `path`; with `create`, make directory and files if missing.

        `map_size` (bytes of address space) is where the map starts; it grows as needed. `lazy`: nothing is durable,
        and a crash may leave anything, until `sync` returns: for a store that nobody uses before that.

        Raises `StoreMissing` without `create` when there is no initialised store, `StoreCorruption` when its
        meta data do not verify or are of an unknown format, `StoreFull` when it cannot be made for want of
        room, and `StoreError` when it is open in this process already or LMDB refuses it.
        """
        data_file = os.path.join(path, "data.mdb")
        fresh = not os.path.exists(data_file) or os.path.getsize(data_file) == 0
        if fresh and not create:
            raise StoreMissing(f"{path}: there is no store here (data.mdb is missing or empty)")
        real_path = os.path.realpath(path)
        with _open_paths_lock:
            if real_path in _open_paths:
                raise StoreError(f"{path}: this store is open already in this process")
            _open_paths.add(real_path)
        try:
            if fresh:
                try:
                    os.makedirs(path, mode=0o700, exist_ok=True)
                except OSError as error:
                    raise StoreError(f"{path}: cannot make the directory: {error}") from error
            store = cls(path, real_path, create, map_size, lazy)
            try:
                if fresh:
                    # The names of the new files and of their directory have to survive a power cut as well.
                    fsync_directory(path)
                    fsync_directory(os.path.dirname(real_path))
                if not store.initialised and not create:
                    raise StoreMissing(f"{path}: this store was never initialised")
                store._check_format()
            except BaseException:
                store._env.close()
                raise
        except BaseException:
            with _open_paths_lock:
                _open_paths.discard(real_path)
            raise
        return store

    def close(self) -> None:
        """Close the environment; open snapshots end. Closing twice, or in a forked child, does nothing."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._closed:
                return
            if self._writing or self._loading:
                raise StoreError(f"{self.path}: cannot be closed while it is written or loaded")
            for snapshot in self._snapshots:
                snapshot._end()
            self._snapshots.clear()
            self._env.close()
            self._closed = True
        with _open_paths_lock:
            _open_paths.discard(self._real_path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- meta

    @property
    def initialised(self) -> bool:
        """Whether `initialise` was ever completed on this store."""
        return META_FORMAT in self._meta

    @property
    def map_size(self) -> int:
        """Bytes of address space the map has now."""
        return self._map_size

    def meta(self) -> dict[bytes, bytes]:
        """A copy of the meta values of the last committed checkpoint. No disk access."""
        self._check()
        return dict(self._meta)

    def get_meta(self, key: bytes) -> bytes | None:
        """One meta value of the last committed checkpoint. No disk access."""
        self._check()
        return self._meta.get(key)

    def get_int(self, key: bytes) -> int | None:
        """One meta value as an integer. Raises `StoreCorruption` when it is not one."""
        value = self.get_meta(key)
        return None if value is None else unpack_int(value)

    @property
    def checkpoint_zxid(self) -> int:
        """The zxid up to which the stored tree is complete. Raises `StoreMissing` before `initialise`."""
        zxid = self.get_int(META_CHECKPOINT_ZXID)
        if zxid is None:
            raise StoreMissing(f"{self.path}: this store was never initialised")
        return zxid

    def initialise(self, meta: Mapping[bytes, bytes]) -> None:
        """Make a new store valid, durably: `meta`, a format version, a random store id, zxid 0 if none is
        given.

        Raises `StoreError` when it is initialised already.
        """
        if self.initialised:
            raise StoreError(f"{self.path}: this store is initialised already")
        self.write(
            (),
            {
                META_FORMAT: pack_int(FORMAT_VERSION),
                META_STORE_ID: secrets.token_bytes(16),
                META_CHECKPOINT_ZXID: pack_int(0),
                **meta,
            },
        )

    # ---- reading

    def __len__(self) -> int:
        """How many pages are stored."""
        self._check()
        with self._lock, self._translated("cannot read"), self._env.begin() as txn:
            return int(txn.stat(self._pages_db)["entries"])

    def pages(self) -> Iterator[tuple[memoryview, memoryview]]:
        """All pages in the order of their keys, as views into the map, of one checkpoint.

        Both views die when the next page is asked for: copy what has to live longer. Nothing can be written
        while this iterator is open. Raises `StoreCorruption` naming the key of a page that does not verify,
        or when pages are missing; `StoreError` when a checkpoint is being written.
        """
        with self._lock:
            self._check()
            if self._writing:
                raise StoreError(f"{self.path}: cannot be loaded while a checkpoint is being written")
            self._loading += 1
        try:
            self._read_ahead()
            with self._translated("cannot read"), self._env.begin(db=self._pages_db, buffers=True) as txn:
                expected = txn.stat(self._pages_db)["entries"]
                number = unreleased = 0
                for key, stored in txn.cursor():
                    value = _unseal(self.path, "page", key, stored)
                    number += 1
                    unreleased += len(stored)
                    try:
                        yield key, value
                    finally:
                        # A view kept beyond its time would point into freed memory once the map is replaced;
                        # releasing makes that a ValueError (or a BufferError here, if it is still exported).
                        value.release()
                        stored.release()
                        key.release()
                    if unreleased >= _RELEASE_EVERY:
                        self.release_memory()
                        unreleased = 0
                if number != expected:
                    raise StoreCorruption(f"{self.path}: {number} pages found where {expected} are recorded")
        finally:
            with self._lock:
                self._loading -= 1
            self.release_memory()

    def snapshot_reader(self) -> Snapshot:
        """A consistent view of the newest checkpoint that stays as it is while later ones are written.

        Use it as a context manager. While it is open LMDB cannot reuse what later checkpoints replace, so the
        file grows: do not keep one open for longer than it takes to send it. Unless a checkpoint is being written
        just now, the map is made so large first that it will not have to grow before all pages were replaced
        `SNAPSHOT_ROOM` times: only growth could end the snapshot early.
        """
        self._check()
        with self._lock, self._translated("cannot read"):
            if not (self._writing or self._loading or self._snapshots):
                used = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
                size = self._map_size
                while size < used * (SNAPSHOT_ROOM + 1) and size < MAX_MAP_SIZE:
                    size *= 2
                if size > self._map_size:
                    self._replace_map(size)
            snapshot = Snapshot(self)
            self._snapshots.add(snapshot)
            return snapshot

    # ---- writing

    def begin_write(self, page_count: int = 0) -> StoreWriter:
        """Begin the transaction of one checkpoint, of about `page_count` pages, on the thread that writes it.

        Grows the map ahead so that the pages should fit. Raises `StoreError` when a checkpoint is being
        written or the store is being loaded; `StoreFull` when the map cannot grow any further.
        """
        with self._lock:
            self._check()
            if self._writing or self._loading:
                raise StoreError(f"{self.path}: cannot be written while it is written or loaded already")
            self._writing = True
        try:
            with self._translated("cannot begin a checkpoint"):
                self._make_room(page_count)
                return StoreWriter(self, self._env.begin(write=True))
        except BaseException:
            self._write_ended()
            raise

    def write(self, pages: Iterable[Page], meta: Mapping[bytes, bytes]) -> None:
        """One whole checkpoint at once: see `StoreWriter.put` and `StoreWriter.commit`."""
        with self.begin_write() as writer:
            writer.put(pages)
            writer.commit(meta)

    def sync(self) -> None:
        """Make everything committed durable, in a `lazy` store. Waits for the disk. Raises `StoreError`."""
        self._check()
        try:
            self._env.sync(True)
        except (lmdb.Error, OSError) as error:
            raise self._translate(error, "cannot be made durable", 1 << 20) from error

    def release_memory(self) -> None:
        """Give mapped file pages back to the system, whose page cache keeps them. At worst does nothing."""
        data_file = os.fsencode(os.path.join(self._real_path, "data.mdb"))
        # With the lock: were the map replaced in between, its old addresses could be somebody else's memory.
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._closed:
                return
            with open("/proc/self/maps", "rb") as maps:
                for line in maps:
                    # address-range permissions offset device inode path
                    fields = line.rstrip(b"\n").split(maxsplit=5)
                    if len(fields) == 6 and fields[5] == data_file:
                        start, end = (int(address, 16) for address in fields[0].split(b"-"))
                        # A shared file mapping loses nothing: the next touch maps the page again.
                        _libc.madvise(start, end - start, mmap.MADV_DONTNEED)

    # ---- inside

    def _read_ahead(self) -> None:
        """Have the system read the whole file in large pieces: the map itself is set up for random access."""
        with contextlib.suppress(OSError):
            descriptor = os.open(os.path.join(self._real_path, "data.mdb"), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise StoreError(
                f"{self.path}: opened by process {self._pid}, used by {os.getpid()} after a fork"
            )
        if self._closed:
            raise StoreError(f"{self.path}: used after it was closed")

    def _check_format(self) -> None:
        version = self.get_int(META_FORMAT)
        if version not in (None, FORMAT_VERSION):
            raise StoreCorruption(
                f"{self.path}: format version {version}, but this server knows version {FORMAT_VERSION} only"
            )

    def _read_meta(self) -> dict[bytes, bytes]:
        with self._env.begin(db=self._meta_db, buffers=True) as txn:
            return _meta_of(self.path, txn)

    def _make_room(self, page_count: int) -> None:
        """Grow the map so that `page_count` changed pages should fit behind everything that is in the file.

        Free space inside the file is not counted: saving address space is not worth a walk of the free list.
        """
        info, block = self._env.info(), self._env.stat()["psize"]
        with self._env.begin() as txn:
            stat = txn.stat(self._pages_db)
        stored = (stat["leaf_pages"] + stat["overflow_pages"] + stat["branch_pages"]) * block
        estimate = max(_PAGE_ESTIMATE, 2 * stored // max(stat["entries"], 1))
        need = (info["last_pgno"] + 1) * block + page_count * estimate
        if page_count:
            need += min(_HEADROOM, info["map_size"] // 4)
        size = int(info["map_size"])
        while size < need and size < MAX_MAP_SIZE:
            size = min(size * 2, MAX_MAP_SIZE)
        if size > self._map_size:
            self._grow(size)

    def _grow(self, size: int) -> None:
        """Replace the map by one of `size` bytes, with no write transaction open; carries snapshots over."""
        if size <= self._map_size:
            raise StoreFull(f"{self.path}: the store has reached its largest size, {MAX_MAP_SIZE} bytes")
        with self._lock:
            self._replace_map(size)

    def _replace_map(self, size: int) -> None:
        """With the lock held, and no transaction open but those of snapshots."""
        for snapshot in self._snapshots:
            snapshot._end()
        before = self._map_size
        self._env.set_mapsize(size)
        self._map_size = size
        for snapshot in self._snapshots:
            snapshot._reopen()
        logger.info(
            "store map grown path=%s from=%d to=%d snapshots=%d", self.path, before, size, len(self._snapshots)
        )

    def _write_ended(self) -> None:
        with self._lock:
            self._writing = False

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            raise self._translate(error, what, 0) from error

    def _translate(self, error: lmdb.Error | OSError, what: str, wanted: int) -> StoreError:
        """The exception to raise for `error`; `wanted` is how many bytes were to be written (0: none)."""
        message = f"{self.path}: {what}: {error}"
        if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)):
            return StoreCorruption(message)
        code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
        # LMDB reports a write that the file system cut short as EIO; older bindings have the code's text
        # only.
        full = code in _FULL_ERRORS or any(os.strerror(number) in str(error) for number in _FULL_ERRORS)
        short = wanted and (code == errno.EIO or os.strerror(errno.EIO) in str(error))
        if full or (short and self._room() < wanted):
            return StoreFull(f"{message} (no room left for the checkpoint; the previous one is intact)")
        return StoreError(message)

    def _room(self) -> int:
        """Bytes by which the data file could still grow: free blocks, or this process's file size limit."""
        try:
            system = os.statvfs(self._real_path)
            room = system.f_bavail * system.f_frsize
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            if limit != resource.RLIM_INFINITY:
                room = min(room, limit - os.path.getsize(os.path.join(self._real_path, "data.mdb")))
        except OSError:
            return 1 << 62
        return room


class StoreWriter:
    """The one transaction of one checkpoint: any number of `put`, then `commit`.

    Leaving the `with` block without `commit` drops it. Made by `Store.begin_write`; belongs to that thread.
    """

    def __init__(self, store: Store, txn: lmdb.Transaction[bytes]) -> None:
        self._store = store
        self._txn: lmdb.Transaction[bytes] | None = txn
        self.pages = 0
        self.bytes = 0
        self._released = 0

    def put(self, pages: Iterable[Page]) -> None:
        """Store pages; a value of None removes the key.

        Raises `StoreMapFull`, `StoreFull` or `StoreError`; then the transaction is dropped.
        """
        txn, database = self._open_txn(), self._store._pages_db
        try:
            for key, value in pages:
                if value is None:
                    txn.delete(key, db=database)
                    self.bytes += len(key)
                else:
                    txn.put(key, _checksum(key, value) + value, db=database)
                    self.bytes += len(key) + len(value)
                self.pages += 1
                if self.bytes - self._released >= _RELEASE_EVERY:
                    # Replacing a page touches the old one in the map.
                    self._store.release_memory()
                    self._released = self.bytes
        except (lmdb.Error, OSError) as error:
            self._failed(error)

    def put_aside(self) -> None:
        """Commit the pages put so far, without making them a checkpoint, and go on.

        Only in a store that was never initialised: it stays so until `commit`, and nobody takes it for one. What
        it is for: a state that arrives from another server must not wait in memory as a whole. Raises as `put`
        does.
        """
        store, txn = self._store, self._open_txn()
        if store.initialised:
            raise StoreError(f"{store.path}: only a new store is filled in parts")
        try:
            self._txn = None
            txn.commit()
            info, block = store._env.info(), store._env.stat()["psize"]
            if (info["last_pgno"] + 1) * block * 2 > store._map_size:
                store._grow(min(store._map_size * 4, MAX_MAP_SIZE))
            self._txn = store._env.begin(write=True)
        except (lmdb.Error, OSError) as error:
            self._failed(error, txn)
        store.release_memory()

    def commit(self, meta: Mapping[bytes, bytes]) -> None:
        """Add `meta` to what is stored (values not named stay as they are) and make all of it durable.

        `meta` has to hold the checkpoint's zxid. When this returns the checkpoint survives a power cut.
        Raises as `put` does.
        """
        if META_CHECKPOINT_ZXID not in meta:
            raise ValueError("a checkpoint without its zxid")
        unpack_int(meta[META_CHECKPOINT_ZXID])
        store, txn = self._store, self._open_txn()
        try:
            for key, value in meta.items():
                txn.put(key, _checksum(key, value) + value, db=store._meta_db)
            self._txn = None
            txn.commit()
        except (lmdb.Error, OSError) as error:
            self._failed(error, txn)
        store._meta = {**store._meta, **meta}
        store._write_ended()
        store.release_memory()
        if self.bytes >= _RELEASE_EVERY:
            _trim_heap()

    def abort(self) -> None:
        """Drop the transaction. Does nothing after `commit` or a failure."""
        txn, self._txn = self._txn, None
        if txn is not None:
            txn.abort()
            self._store._write_ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _open_txn(self) -> lmdb.Transaction[bytes]:
        self._store._check()
        if self._txn is None:
            raise StoreError(f"{self._store.path}: this checkpoint has ended")
        return self._txn

    def _failed(self, error: lmdb.Error | OSError, txn: lmdb.Transaction[bytes] | None = None) -> None:
        """Drop the transaction and raise what `error` means; a full map is grown first."""
        store = self._store
        txn, self._txn = self._txn or txn, None
        try:
            if txn is not None:
                txn.abort()
            if isinstance(error, lmdb.MapFullError):
                # Fourfold, since what was put is lost and has to be put again: better once than twice.
                with store._translated("cannot grow the map"):
                    store._grow(min(store._map_size * 4, MAX_MAP_SIZE))
                raise StoreMapFull(
                    f"{store.path}: the checkpoint did not fit; the map has now {store._map_size} bytes"
                ) from error
            # Twice: every page may need a second file block and a new path of the tree above it.
            raise store._translate(error, "cannot write a checkpoint", 2 * self.bytes + (1 << 20)) from error
        finally:
            store._write_ended()


class Snapshot:
    """A consistent view of one checkpoint. Made by `Store.snapshot_reader`; a context manager.

    `meta` holds that checkpoint's meta values. Any thread may read, one at a time.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last_key: bytes | None = None
        self._txn: lmdb.Transaction[memoryview] | None = store._env.begin(db=store._pages_db, buffers=True)
        self._id = self._txn.id()
        self.meta: dict[bytes, bytes] = {}
        try:
            self.meta = _meta_of(store.path, self._txn, store._meta_db)
            self.page_count = int(self._txn.stat(store._pages_db)["entries"])
        except BaseException:
            self._end()
            raise

    @property
    def zxid(self) -> int:
        """The zxid of this checkpoint."""
        return unpack_int(self.meta[META_CHECKPOINT_ZXID])

    def read(self, max_bytes: int) -> list[tuple[bytes, bytes]]:
        """The next pages in the order of their keys, at least one, about `max_bytes`; [] after the last.

        Raises `SnapshotInterrupted` when the snapshot was closed or could not be kept while the map grew, and
        `StoreCorruption` naming a page that does not verify.
        """
        store = self._store
        store._check()
        batch: list[tuple[bytes, bytes]] = []
        size = 0
        with store._lock, store._translated("cannot read"):
            if self._txn is None:
                raise SnapshotInterrupted(f"{store.path}: the snapshot has ended; start over with a new one")
            with self._txn.cursor() as cursor:
                if self._last_key is None:
                    found = cursor.first()
                else:
                    found = cursor.set_range(self._last_key)
                    if found and cursor.key() == self._last_key:
                        found = cursor.next()
                while found and size < max_bytes:
                    key = bytes(cursor.key())
                    batch.append((key, bytes(_unseal(store.path, "page", key, cursor.value()))))
                    size += len(key) + len(batch[-1][1])
                    self._last_key = key
                    found = cursor.next()
        if not batch:
            store.release_memory()
        return batch

    def pages(self, max_bytes: int = 256 << 10) -> Iterator[tuple[bytes, bytes]]:
        """All pages not read yet, one by one; raises as `read` does."""
        while batch := self.read(max_bytes):
            yield from batch

    def close(self) -> None:
        """End the snapshot. Closing twice does nothing."""
        store = self._store
        if store._pid == os.getpid():
            with store._lock:
                self._end()
                store._snapshots.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Both with the store's lock held.

    def _end(self) -> None:
        txn, self._txn = self._txn, None
        if txn is not None:
            txn.abort()

    def _reopen(self) -> None:
        """After the map was replaced: the same LMDB snapshot, if no checkpoint was committed since."""
        txn = self._store._env.begin(db=self._store._pages_db, buffers=True)
        if txn.id() == self._id:
            self._txn = txn
        else:
            txn.abort()


def _meta_of(
    path: str, txn: lmdb.Transaction[memoryview], database: lmdb._Database | None = None
) -> dict[bytes, bytes]:
    with txn.cursor(db=database) as cursor:
        return {bytes(key): bytes(_unseal(path, "meta", key, stored)) for key, stored in cursor}


def verify(
    path: str, max_problems: int = 20, visit: Callable[[bytes, memoryview], None] | None = None
) -> StoreReport:
    """Walk the store in directory `path` read-only and report; for `fastzk-server --verify-data`.

    `visit` is called with each sound page in key order; what it raises is raised.

    Takes no lock and writes nothing, so it works on a copy or a read-only medium; a server must not be
    writing to it meanwhile. Never raises for what it finds: that is in `StoreReport.problems`, `max_problems`
    at most.
    """
    report = StoreReport(path)
    data_file = os.path.join(path, "data.mdb")
    try:
        report.file_bytes = os.path.getsize(data_file)
    except OSError as error:
        report.problems.append(f"{data_file}: {error.strerror}")
        return report
    if report.file_bytes == 0:
        report.problems.append(f"{data_file}: empty")
        return report
    _verify_structure(path, report)
    if report.ok:
        # With a broken structure LMDB itself might read outside the file, so it gets only what passed.
        _verify_contents(path, report, max_problems, visit)
    del report.problems[max_problems:]
    return report


def _verify_structure(path: str, report: StoreReport) -> None:
    """Every block of the file, by a walker that py-lmdb brings along since 3.0."""
    try:
        from lmdb.verify import VerifyError
        from lmdb.verify import verify as verify_structure
    except ImportError:
        return
    try:
        found: list[str] = verify_structure(path)  # type: ignore[no-untyped-call,unused-ignore]
        report.problems += [f"{path}: {problem}" for problem in found]
    except (VerifyError, OSError) as error:
        report.problems.append(f"{path}: {error}")
    report.structure_checked = True


def _verify_contents(
    path: str, report: StoreReport, max_problems: int, visit: Callable[[bytes, memoryview], None] | None
) -> None:
    """Checksums of all values, format version and zxid."""
    problems = report.problems
    try:
        with lmdb.open(path, readonly=True, lock=False, create=False, readahead=False, max_dbs=2) as env:
            pages_db = env.open_db(b"pages", create=False)
            meta_db = env.open_db(b"meta", create=False)
            meta: dict[bytes, bytes] = {}
            with env.begin(buffers=True) as txn:
                for kind, database in (("meta", meta_db), ("page", pages_db)):
                    with txn.cursor(db=database) as cursor:
                        for key, stored in cursor:
                            if kind == "page":
                                report.pages += 1
                                report.page_bytes += len(stored)
                            try:
                                value = _unseal(path, kind, key, stored)
                            except StoreCorruption as error:
                                problems.append(str(error))
                                if len(problems) >= max_problems:
                                    return
                                continue
                            if kind == "meta":
                                meta[bytes(key)] = bytes(value)
                            elif visit is not None:
                                visit(bytes(key), value)
        report.meta = meta
        report.meta_keys = sorted(key.decode("ascii", "backslashreplace") for key in meta)
        for name in (META_FORMAT, META_STORE_ID, META_CHECKPOINT_ZXID):
            if name not in meta:
                problems.append(f"{path}: no {name.decode()} in its meta data")
        if META_FORMAT in meta:
            report.format = unpack_int(meta[META_FORMAT])
            if report.format != FORMAT_VERSION:
                problems.append(f"{path}: unknown format version {report.format}")
        if META_CHECKPOINT_ZXID in meta:
            report.zxid = unpack_int(meta[META_CHECKPOINT_ZXID])
    except (lmdb.Error, OSError, StoreCorruption) as error:
        problems.append(f"{path}: {error}")
