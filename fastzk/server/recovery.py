"""From the disk to a running state: load the checkpoint, replay the log behind it.

Nothing is changed on disk until everything has been verified; only then is a torn tail of the log cut off. What
does not fit together (a lost log, a lost database, damage in the middle) stops the start with what an operator
needs to know: losing acknowledged writes in silence is worse than not serving. (One thing comes before all that: a
switch to another server's state that was decided before a crash is completed, see ``switch.py``.)

A log that is lost is told from one that is empty by the file ``base`` in its directory, which is there from the log's
making until its first batch is durable. A database without either is refused, and so is a log without a database.

A standalone server applies the whole log and, if it is new, begins its history with a first transaction. A member of an
ensemble does neither: what lies behind the checkpoint may not be committed, so it is verified and kept in ``History``
until a leader says how far to apply it; and the first transaction of a history is its first leader's. The same
directory serves for both. A standalone server on the directory of a member begins an epoch of its own first: what it
writes must not bear zxids that the ensemble gives to something else.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import select
import time
from dataclasses import dataclass, field

from fastzk import records
from fastzk._codec import decode, encode
from fastzk._log import Batch, LogCorruption, LogFailed, TxnLog, txns_of_type
from fastzk._tree import Tree, TreeCorruption
from fastzk.protocol import Error, OpCode
from fastzk.server._apply import Applier, ApplyError
from fastzk.server.config import Config, create_data_directories
from fastzk.server.epochs import NOBODY, PROMISE_FILE, EpochFile, promise_lost
from fastzk.server.errors import StartupError
from fastzk.server.history import History
from fastzk.server.secret import KEY_FILE, load_secret, save_secret
from fastzk.server.sessions import Sessions
from fastzk.server.store import (
    META_CHECKPOINT_ZXID,
    META_MEMBER,
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
from fastzk.server.switch import complete, has_diverged, log_begins, log_path, make_log, state_path

__all__ = [
    "LOCK_FILE",
    "Recovered",
    "adopt_secret",
    "checkpoint_meta",
    "finish_tree",
    "load_pages",
    "lock_data_directory",
    "recover",
]

logger = logging.getLogger(__name__)

LOCK_FILE = "fastzk.lock"
_PROGRESS_SECONDS = 5.0


@dataclass(slots=True)
class Recovered:
    """What a server runs on. ``lock`` is the file descriptor that holds the data directory.

    Only a member of an ensemble has the rest: ``history``, all batches of the log; ``epochs``, its promise, loaded;
    ``secret``, the key of the sessions' passwords; ``memberships``, the zxid and the new text of ``/zookeeper/config``
    of each reconfiguration in the log behind ``applier.zxid``, which may or may not be committed.
    """

    lock: int
    store: Store
    log: TxnLog
    tree: Tree
    applier: Applier
    sessions: Sessions
    secret: bytes
    history: History | None = None
    epochs: EpochFile | None = None
    memberships: list[tuple[int, bytes]] = field(default_factory=list)


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


def recover(config: Config, *, ensemble: bool = False, apply_tail: bool = True) -> Recovered:
    """Open the data directory, making it if there is none, and bring the state up to the end of the log.

    ``ensemble``: for a member of an ensemble (see above). ``apply_tail``: apply what the log has behind the checkpoint;
    without, it is verified only, and ``applier.zxid`` is that of the checkpoint.

    Raises:
        StartupError: the directory is in use, cannot be used, or its parts do not fit together.
    """
    if not (ensemble or apply_tail):
        raise ValueError("a standalone server applies the whole log")
    create_data_directories(config)
    lock = lock_data_directory(config)
    try:
        complete(config)
        if has_diverged(config) and not ensemble:
            raise StartupError(
                f"the tree in {state_path(config)} differs from that of the ensemble it belongs to. Start this server "
                "as a member, and it fetches the state anew; or run alone on the data of another member"
            )
        return _open_state(config, lock, _open_store(config), ensemble=ensemble, apply_tail=apply_tail)
    except (StoreError, LogCorruption, LogFailed, TreeCorruption, ApplyError) as error:
        os.close(lock)
        raise StartupError(f"the data cannot be used: {error}") from error
    except OSError as error:
        os.close(lock)
        raise StartupError(f"the data cannot be read: {error.filename or config.data_dir}: {error.strerror}") from error
    except BaseException:
        os.close(lock)
        raise


def adopt_secret(config: Config, current: bytes, secret: bytes) -> bool:
    """Keep the ensemble's key of the sessions' passwords instead of ``current``, durably when this returns.

    Whether it is another one; if so, the caller has ``Sessions`` use it. Raises OSError.
    """
    if secret == current:
        return False
    save_secret(config.data_dir / KEY_FILE, secret)
    return True


def _open_state(config: Config, lock: int, store: Store, *, ensemble: bool, apply_tail: bool) -> Recovered:
    """What ``recover`` does once the database is open.

    Closes ``store`` if it fails. Raises StartupError, StoreError, LogCorruption, TreeCorruption, ApplyError, OSError.
    """
    began = time.monotonic()
    log: TxnLog | None = None
    try:
        epochs = EpochFile(config.data_dir / PROMISE_FILE)
        epochs.load()
        member = bool(store.get_meta(META_MEMBER))
        if member and epochs.missing:
            raise promise_lost(epochs.path)
        store_id = store.get_meta(META_STORE_ID)
        secret = load_secret(config.data_dir / KEY_FILE) or store.get_meta(META_SESSION_SECRET)
        if store_id is None or secret is None:
            raise StoreError(f"{state_path(config)}: the database has no identity")
        sessions = Sessions(
            secret,
            server_id=config.server_id or 0,
            tick_ms=config.tick_time_ms,
            min_timeout_ms=config.min_session_timeout_ms,
            max_timeout_ms=config.max_session_timeout_ms,
        )
        tree = load_pages(store)
        sessions.load(store.get_meta(META_SESSIONS) or b"")
        loaded = time.monotonic()
        checkpoint_zxid = store.checkpoint_zxid
        applier = Applier(tree, checkpoint_zxid)
        applier.on_session = sessions.on_transaction
        log = TxnLog(os.fspath(log_path(config)), store_id, segment_bytes=_segment_bytes(config))
        replayed, memberships = _read_log(log, applier, apply_tail)
        history = None
        if ensemble:
            history = History(log)
            empty, base = len(history) == 0, history.base_zxid
        else:
            base, ends = log.take_index()
            empty = not ends
        if empty and base != checkpoint_zxid:
            raise _log_lost(config)
        if member and epochs.promise.epoch < log.last_zxid >> 32:
            raise promise_lost(epochs.path, f"is older than this server's log, which has epoch {log.last_zxid >> 32}")
        sessions.renew()
        log.start()
        if ensemble:
            _become_member(store, log, epochs)
        elif member:
            _begin_epoch(config, log, applier, epochs)
        elif applier.zxid == 0:
            _begin_history(store, log, tree, applier, sessions)
    except BaseException:
        if log is not None:
            log.close()
        store.close()
        raise
    logger.info(
        "recovered zxid=0x%x checkpoint=0x%x log=0x%x znodes=%d sessions=%d replayed=%d load_ms=%d replay_ms=%d",
        applier.zxid,
        checkpoint_zxid,
        log.last_zxid,
        len(tree),
        len(sessions),
        replayed,
        (loaded - began) * 1000,
        (time.monotonic() - loaded) * 1000,
    )
    return Recovered(
        lock, store, log, tree, applier, sessions, secret, history, epochs if ensemble else None, memberships
    )


def _segment_bytes(config: Config) -> int:
    return max(config.pre_alloc_size_kb << 10, 64 << 10) + 4095 & ~4095


def _log_lost(config: Config) -> StartupError:
    return StartupError(
        f"the database {state_path(config)} is there but its transaction log in {log_path(config)} is missing; restore "
        "it: starting without it would lose every write since the last checkpoint"
    )


def _open_store(config: Config) -> Store:
    """The database, made anew if neither it nor a log exists."""
    path, log_dir = state_path(config), log_path(config)
    has_segments, base = log_begins(log_dir)
    try:
        store = Store.open(os.fspath(path), create=False)
    except StoreMissing as error:
        if has_segments or base:
            raise StartupError(
                f"{log_dir} holds a transaction log but the database {path} is missing or empty; restore it: "
                "starting without it would lose every znode older than the log"
            ) from error
    else:
        if not has_segments and base is None:
            store.close()
            raise _log_lost(config)
        return store
    logger.info("new data directory path=%s", config.data_dir)
    # The log first: a database without one is taken for one that has lost it.
    make_log(log_dir, 0)
    store = Store.open(os.fspath(path), create=True)
    try:
        store.initialise({META_SESSION_SECRET: secrets.token_bytes(32)})
    except BaseException:
        store.close()
        raise
    return store


def load_pages(store: Store) -> Tree:
    """The tree of the checkpoint in ``store``; that of a new server if it has none.

    Raises StoreError, and TreeCorruption if the pages are not those of the digest stored with them.
    """
    tree = Tree()
    if store.checkpoint_zxid == 0 and len(store) == 0:
        tree.plant()
        return tree
    for key, value in store.pages():
        tree.load_page(bytes(key), value)
    finish_tree(tree, store.get_meta(META_TREE_DIGEST))
    store.release_memory()
    return tree


def finish_tree(tree: Tree, digest: bytes | None) -> None:
    """All pages are loaded: make a tree of them, and compare it with the stored digest. Raises TreeCorruption."""
    tree.load_finish()
    if digest is None or unpack_int(digest) != tree.digest:
        raise TreeCorruption("the digest of the loaded tree is not the one stored with the checkpoint")


def _become_member(store: Store, log: TxnLog, epochs: EpochFile) -> None:
    """Note that this is an ensemble's member: from now on its promise has to be there."""
    if epochs.missing:
        epochs.save(log.last_zxid >> 32, NOBODY)
    if not store.get_meta(META_MEMBER):
        store.write((), {META_CHECKPOINT_ZXID: pack_int(store.checkpoint_zxid), META_MEMBER: b"1"})


def _begin_epoch(config: Config, log: TxnLog, applier: Applier, epochs: EpochFile) -> None:
    """Log the opening transaction of an epoch that nobody else has."""
    epoch = max(log.last_zxid >> 32, epochs.promise.epoch) + 1
    epochs.save(epoch, config.server_id or 0)
    applier.replay_batch(_log_opening(log, epoch << 32 | 1))
    logger.warning("a member of an ensemble runs alone: what is written now is not the ensemble's epoch=%d", epoch)


def _log_opening(log: TxnLog, zxid: int) -> bytes:
    """Log a transaction that changes nothing, and wait for it; the batch's payload."""
    header = encode(records.TxnHeader, (0, 0, zxid, int(time.time() * 1000), int(OpCode.ERROR)))
    batch = Batch()
    batch.append(zxid, header + encode(records.ErrorTxn, (int(Error.OK),)))
    log.submit(batch)
    done: list[Batch] = []
    while not done:
        select.select([log.event_fd], [], [])
        done, refused = log.take_done()
        if refused:
            raise OSError(log.errno or errno.ENOSPC, os.strerror(log.errno or errno.ENOSPC), log.directory)
    return batch.payload()


def _begin_history(store: Store, log: TxnLog, tree: Tree, applier: Applier, sessions: Sessions) -> None:
    """Log a first transaction, which changes nothing, and write a first checkpoint behind it."""
    applier.replay_batch(_log_opening(log, 1))
    pages: list[tuple[bytes, bytes | None]] = []
    tree.checkpoint_begin()
    while taken := tree.checkpoint_take(1 << 20):
        pages += taken
    store.write(pages, checkpoint_meta(applier, tree, sessions))
    tree.checkpoint_end(True)


def _read_log(log: TxnLog, applier: Applier, apply_tail: bool) -> tuple[int, list[tuple[int, bytes]]]:
    """Verify the whole log, and apply what lies behind the checkpoint or look for reconfigurations in it.

    Returns how many transactions were applied, and the reconfigurations that were not.
    """
    replayed = 0
    memberships: list[tuple[int, bytes]] = []
    spoken = time.monotonic()
    checkpoint_zxid = applier.zxid
    for batch in log.recover(checkpoint_zxid):
        try:
            if apply_tail:
                replayed += applier.replay_batch(batch.payload)
            else:
                for zxid, record in txns_of_type(batch.payload, int(OpCode.RECONFIG)):
                    if zxid > checkpoint_zxid:
                        memberships.append((zxid, _reconfig_data(record)))
        except (ApplyError, ValueError) as error:
            raise LogCorruption(batch.path, batch.offset, str(error)) from error
        if time.monotonic() - spoken > _PROGRESS_SECONDS:
            spoken = time.monotonic()
            logger.info("reading the log zxid=0x%x applied=%d", batch.last_zxid, replayed)
    return replayed, memberships


def _reconfig_data(record: bytes) -> bytes:
    _, offset = decode(records.TxnHeader, record)
    txn, _ = decode(records.SetDataTxn, record, offset)
    return bytes(txn["data"] or b"")
