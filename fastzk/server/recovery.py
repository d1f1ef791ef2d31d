"""From the disk to a running state: load the checkpoint, replay the log behind it.

Nothing is changed on disk until everything has been verified; only then is a torn tail of the log cut off. What
does not fit together (a lost log, a lost database, damage in the middle) stops the start with what an operator
needs to know: losing acknowledged writes in silence is worse than not serving.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import select
import time
from dataclasses import dataclass
from pathlib import Path

from fastzk import records
from fastzk._codec import encode
from fastzk._log import Batch, LogCorruption, LogFailed, TxnLog
from fastzk._tree import Tree, TreeCorruption
from fastzk.protocol import Error, OpCode
from fastzk.server._apply import Applier, ApplyError, membership_text
from fastzk.server.config import Config, create_data_directories
from fastzk.server.errors import StartupError
from fastzk.server.files import fsync_directory
from fastzk.server.history import History
from fastzk.server.sessions import Sessions
from fastzk.server.store import (
    META_CHECKPOINT_ZXID,
    META_INSTALLED,
    META_SESSION_SECRET,
    META_SESSIONS,
    META_STORE_ID,
    META_TREE_DIGEST,
    Store,
    StoreError,
    StoreMissing,
    pack_int,
    unpack_int,
)
from fastzk.server.transfer import complete_installation
from fastzk.server.zab.messages import follows

logger = logging.getLogger(__name__)

STATE_DIRECTORY = "state"
LOG_DIRECTORY = "log"
LOCK_FILE = "fastzk.lock"
_PROGRESS_SECONDS = 5.0


@dataclass(slots=True)
class Recovered:
    """What a server runs on. ``lock`` is the file descriptor that holds the data directory."""

    lock: int
    store: Store
    log: TxnLog
    tree: Tree
    applier: Applier
    sessions: Sessions
    history: History
    #: Texts of memberships in the log behind what is applied, with the end of their batch.
    memberships: list[tuple[int, bytes]]


def state_path(config: Config) -> Path:
    """Where the LMDB environment is."""
    return config.data_dir / STATE_DIRECTORY


def log_path(config: Config) -> Path:
    """Where the segments of the transaction log are."""
    return config.data_log_dir / LOG_DIRECTORY


def checkpoint_meta(applier: Applier, tree: Tree, sessions: Sessions) -> dict[bytes, bytes]:
    """What is stored with a checkpoint of the state as it is now."""
    return {
        META_CHECKPOINT_ZXID: pack_int(applier.zxid),
        META_TREE_DIGEST: pack_int(tree.digest),
        META_SESSIONS: sessions.encode(),
    }


def lock_data_directory(config: Config) -> int:
    """Hold the data directory for this process; the lock goes with the process.

    Raises:
        StartupError: another server holds it, or it cannot be written.
    """
    path = config.data_dir / LOCK_FILE
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(f"cannot write to the data directory {config.data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StartupError(
            f"another fastzk-server is running on the data directory {config.data_dir} (it holds {path.name})"
        ) from None
    return lock


def recover(config: Config) -> Recovered:
    """Open the data directory, making it if there is none, and bring the state up to the end of the log.

    Raises:
        StartupError: the directory is in use, cannot be used, or its parts do not fit together.
    """
    create_data_directories(config)
    lock = lock_data_directory(config)
    try:
        return _recover(config, lock)
    except (StoreError, LogCorruption, LogFailed, TreeCorruption, ApplyError) as error:
        os.close(lock)
        raise StartupError(f"the data cannot be used: {error}") from error
    except OSError as error:
        os.close(lock)
        raise StartupError(f"the data cannot be read: {error.filename or config.data_dir}: {error.strerror}") from error
    except BaseException:
        os.close(lock)
        raise


def _recover(config: Config, lock: int) -> Recovered:
    began = time.monotonic()
    log_dir = log_path(config)
    complete_installation(state_path(config), log_dir)
    store = _open_store(config, log_dir)
    try:
        if not log_dir.is_dir():
            log_dir.mkdir(mode=0o700)
            fsync_directory(log_dir.parent)
        store_id = store.get_meta(META_STORE_ID)
        secret = store.get_meta(META_SESSION_SECRET)
        if store_id is None or secret is None:
            raise StoreError(f"{state_path(config)}: the database has no identity")
        sessions = Sessions(
            secret,
            server_id=config.server_id or 0,
            tick_ms=config.tick_time_ms,
            min_timeout_ms=config.min_session_timeout_ms,
            max_timeout_ms=config.max_session_timeout_ms,
        )
        tree = _load_tree(store, sessions)
        loaded = time.monotonic()
        checkpoint_zxid = store.checkpoint_zxid
        applier = Applier(tree, checkpoint_zxid)
        applier.on_session = sessions.on_transaction
        log = TxnLog(os.fspath(log_dir), store_id, segment_bytes=_segment_bytes(config))
        memberships: list[tuple[int, bytes]] = []
        if config.ensemble is None:
            ends: list[int] = []
            replayed = _replay(log, applier)
            base = applier.zxid
        else:
            replayed = 0
            base, ends = _survey(log, log_dir, checkpoint_zxid, memberships)
        sessions.renew()
        log.start()
        if config.ensemble is None and applier.zxid == 0:
            _begin_history(store, log, tree, applier, sessions)
        history = History(log, base, ends)
    except BaseException:
        store.close()
        raise
    logger.info(
        "recovered zxid=0x%x checkpoint=0x%x znodes=%d sessions=%d replayed=%d load_ms=%d replay_ms=%d",
        applier.zxid,
        checkpoint_zxid,
        len(tree),
        len(sessions),
        replayed,
        (loaded - began) * 1000,
        (time.monotonic() - loaded) * 1000,
    )
    return Recovered(lock, store, log, tree, applier, sessions, history, memberships)


def _segment_bytes(config: Config) -> int:
    return max(config.pre_alloc_size_kb << 10, 64 << 10) + 4095 & ~4095


def _open_store(config: Config, log_dir: Path) -> Store:
    """The database, made anew if neither it nor a log exists."""
    path = state_path(config)
    has_log = log_dir.is_dir() and any(name.startswith("log.") for name in os.listdir(log_dir))
    try:
        store = Store.open(os.fspath(path), create=False)
    except StoreMissing as error:
        if has_log:
            raise StartupError(
                f"{log_dir} holds a transaction log but the database {path} is missing or empty; restore it: "
                "starting without it would lose every znode older than the log"
            ) from error
    else:
        if not has_log and store.checkpoint_zxid > 0 and store.get_int(META_INSTALLED) != store.checkpoint_zxid:
            store.close()
            raise StartupError(
                f"the database {path} is there but its transaction log in {log_dir} is missing; restore it: "
                "starting without it would lose every write since the last checkpoint"
            )
        return store
    logger.info("new data directory path=%s", config.data_dir)
    store = Store.open(os.fspath(path), create=True)
    try:
        store.initialise({META_SESSION_SECRET: secrets.token_bytes(32)})
    except BaseException:
        store.close()
        raise
    return store


def _load_tree(store: Store, sessions: Sessions) -> Tree:
    tree = Tree()
    if store.checkpoint_zxid == 0 and len(store) == 0:
        tree.plant()
        return tree
    for key, value in store.pages():
        tree.load_page(bytes(key), value)
    tree.load_finish()
    store.release_memory()
    digest = store.get_meta(META_TREE_DIGEST)
    if digest is None or unpack_int(digest) != tree.digest:
        raise TreeCorruption("the digest of the loaded tree is not the one stored with the checkpoint")
    sessions.load(store.get_meta(META_SESSIONS) or b"")
    return tree


def _begin_history(store: Store, log: TxnLog, tree: Tree, applier: Applier, sessions: Sessions) -> None:
    """Log a first transaction, which changes nothing, and write a first checkpoint behind it.

    From here on a database without a log, and a log without a database, are each known to have lost the other.
    """
    header = encode(records.TxnHeader, (0, 0, 1, int(time.time() * 1000), int(OpCode.ERROR)))
    batch = Batch()
    batch.append(1, header + encode(records.ErrorTxn, (int(Error.OK),)))
    log.submit(batch)
    done: list[Batch] = []
    while not done:
        select.select([log.event_fd], [], [])
        done, refused = log.take_done()
        if refused:
            raise OSError(log.errno or errno.ENOSPC, os.strerror(log.errno or errno.ENOSPC), log.directory)
    applier.replay_batch(batch.payload())
    pages: list[tuple[bytes, bytes | None]] = []
    tree.checkpoint_begin()
    while taken := tree.checkpoint_take(1 << 20):
        pages += taken
    store.write(pages, checkpoint_meta(applier, tree, sessions))
    tree.checkpoint_end(True)


def _survey(
    log: TxnLog, log_dir: Path, checkpoint_zxid: int, memberships: list[tuple[int, bytes]]
) -> tuple[int, list[int]]:
    """Verify the log of an ensemble's member without applying anything: where it begins, and its batches end.

    What is behind the checkpoint may never have been committed: the leader will say.
    """
    names = sorted(name for name in os.listdir(log_dir) if name.startswith("log."))
    if not names:
        return checkpoint_zxid, []
    first = int(names[0][4:], 16)
    base = first - 1
    if base > checkpoint_zxid:
        if not follows(checkpoint_zxid, first):
            raise LogCorruption(str(log_dir / names[0]), 0, f"transactions behind 0x{checkpoint_zxid:x} are missing")
        base = checkpoint_zxid
    ends: list[int] = []
    for batch in log.recover(base):
        ends.append(batch.first_zxid + batch.count - 1)
        if ends[-1] > checkpoint_zxid:
            text = membership_text(batch.payload)
            if text is not None:
                memberships.append((ends[-1], text))
    if (ends[-1] if ends else base) < checkpoint_zxid:
        raise LogCorruption(str(log_dir), 0, f"the log ends before the checkpoint at 0x{checkpoint_zxid:x}")
    return base, ends


def _replay(log: TxnLog, applier: Applier) -> int:
    replayed = 0
    spoken = time.monotonic()
    for batch in log.recover(applier.zxid):
        try:
            replayed += applier.replay_batch(batch.payload)
        except ApplyError as error:
            raise LogCorruption(batch.path, batch.offset, str(error)) from error
        if time.monotonic() - spoken > _PROGRESS_SECONDS:
            spoken = time.monotonic()
            logger.info("replaying zxid=0x%x transactions=%d", applier.zxid, replayed)
    return replayed
