"""A server's whole state is replaced by one that came from another server, crash-safely.

Two directories have to change together, perhaps on different file systems: the database and the transaction log. No
rename can do that at once, so one rename *decides*, and from then on everything goes forward, by this process or by
the next start. A process killed, or a machine that loses power, at any moment leaves the whole old state or one that
the next start makes the whole new one.

    <dataDir>/state            the database in use
    <dataDir>/state.incoming   one that is being received: worthless until it is complete
    <dataDir>/state.next       complete, verified and durable: it has been decided that this one counts
    <dataDir>/state.old        on its way out
    <dataLogDir>/log, log.next, log.old       the same of the transaction log

1.  ``state.incoming`` is written, verified (checksums, count, the tree's digest) and synced. A crash before the next
    step: it is removed at the next start, nothing has happened.
2.  ``state.incoming`` becomes ``state.next``, and the directory is synced. **This decides.** The old state is as it
    was, so up to here it is still whole; from here on it is not needed, since the new one is.
3.  ``log.next`` is made: an empty log that begins behind the zxid of the new state. It has to be complete under another
    name first, because a directory without its ``base`` would be taken for a log that was lost.
    A server whose tree has diverged gets a state that may lie within its own log, which is sound, and has what others
    count on: then the log stays as it is, and the database says so (``META_KEEP_LOG``); steps 3 and 4 are left out.
4.  ``log`` becomes ``log.old``, synced; ``log.next`` becomes ``log``, synced. In between there is no ``log``; whoever
    comes by then sees ``state.next`` and goes on. The log goes first: were it the database, a crash in between would
    leave a new database with an old log, and nothing to tell that the log is the old one.
5.  The key of the sessions' passwords, if it is in a file of its own, becomes the new state's.
6.  ``state`` becomes ``state.old``, synced; ``state.next`` becomes ``state``, synced. With that the switch is over:
    there is no ``state.next`` any more, and steps 3 to 6 do nothing when they are done again.
7.  The mark of a tree that has diverged (``diverged``), if it is there, is removed.
8.  ``state.old`` and ``log.old`` are removed. That may be interrupted; the next start removes what is left, but only
    beside a ``state`` and a ``log`` that are there.

The lock of the data directory (``fastzk.lock``) is a file beside all these and stays held throughout.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastzk._log_reader import read_base, write_base
from fastzk.server.config import Config
from fastzk.server.files import fsync_directory, replace_file
from fastzk.server.secret import KEY_FILE, load_secret, save_secret
from fastzk.server.store import META_KEEP_LOG, META_SESSION_SECRET, Store

logger = logging.getLogger(__name__)

STATE_DIRECTORY: Final = "state"
LOG_DIRECTORY: Final = "log"
_INCOMING: Final = "state.incoming"
_NEXT: Final = "state.next"
_DIVERGED: Final = "diverged"


def state_path(config: Config) -> Path:
    """Where the LMDB environment is."""
    return config.data_dir / STATE_DIRECTORY


def log_path(config: Config) -> Path:
    """Where the segments of the transaction log are."""
    return config.data_log_dir / LOG_DIRECTORY


def incoming_path(config: Config) -> Path:
    """Where a state is put together that comes from another server."""
    return config.data_dir / _INCOMING


def next_path(config: Config) -> Path:
    """Where the state is that replaces this server's, from when that is decided until it is done."""
    return config.data_dir / _NEXT


def mark_diverged(config: Config, why: str) -> None:
    """This server's tree is not what it should be. Durable when this returns: no restart makes it serve.

    Raises OSError.
    """
    replace_file(config.data_dir / _DIVERGED, f"{why}\n".encode())


def has_diverged(config: Config) -> bool:
    """Whether the state in place was marked as diverged, and no other has replaced it since."""
    return (config.data_dir / _DIVERGED).exists()


def decided(config: Config) -> bool:
    """Whether a switch was decided and is not completed."""
    return next_path(config).is_dir()


def log_begins(path: Path) -> tuple[bool, int | None]:
    """Of the log in the directory ``path``: whether it has segments, and behind which zxid it is to begin without any.

    The latter is None if nothing says so: then a log without segments is one that was lost. Raises OSError, and
    LogCorruption if what says so is damaged.
    """
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, None
    try:
        if any(name.startswith("log.") for name in os.listdir(directory)):
            return True, None
        return False, read_base(os.fspath(path), directory)
    finally:
        os.close(directory)


def make_log(path: Path, zxid: int) -> None:
    """Make a log without segments that begins behind ``zxid``, in a directory that may exist. Raises OSError."""
    path.mkdir(mode=0o700, exist_ok=True)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        write_base(directory, zxid)
    finally:
        os.close(directory)
    fsync_directory(path.parent)


def _nothing(step: str) -> None:
    """For tests, which put something here that fails."""


_reached: Callable[[str], None] = _nothing


def decide(config: Config) -> None:
    """Step 2. ``state.incoming`` is complete, durable, and closed. Raises OSError."""
    _reached("complete")
    incoming_path(config).rename(next_path(config))
    _reached("renamed")
    fsync_directory(config.data_dir)
    _reached("decided")


def complete(config: Config) -> bool:
    """Steps 3 to 8, as far as they are not done; at a start, too. Whether a switch was completed.

    Neither database nor log may be open. Raises StoreError, OSError; then it has to be tried again.
    """
    upcoming, state, log = next_path(config), state_path(config), log_path(config)
    old_state = config.data_dir / "state.old"
    old_log, next_log = log.with_name("log.old"), log.with_name("log.next")
    switched = decided(config)
    if switched:
        with Store.open(os.fspath(upcoming), create=False) as store:
            zxid, secret = store.checkpoint_zxid, store.get_meta(META_SESSION_SECRET)
            keep_log = bool(store.get_meta(META_KEEP_LOG))
        assert secret is not None
        if not keep_log and log_begins(log) != (False, zxid):
            _remove(next_log)
            make_log(next_log, zxid)
            _reached("log made")
            if log.exists():
                _remove(old_log)
                log.rename(old_log)
                fsync_directory(log.parent)
            _reached("old log away")
            next_log.rename(log)
            fsync_directory(log.parent)
        _reached("log switched")
        key = config.data_dir / KEY_FILE
        if load_secret(key) not in (None, secret):
            save_secret(key, secret)
        _reached("key switched")
        if state.exists():
            _remove(old_state)
            state.rename(old_state)
            fsync_directory(config.data_dir)
        _reached("old state away")
        upcoming.rename(state)
        fsync_directory(config.data_dir)
        _reached("state switched")
        if has_diverged(config):
            (config.data_dir / _DIVERGED).unlink()
            fsync_directory(config.data_dir)
        logger.warning("the whole state was replaced by another server's zxid=0x%x", zxid)
    _remove(incoming_path(config))
    if state.exists() and log.exists():
        for leftover in (old_state, old_log, next_log):
            if _remove(leftover):
                _reached(f"{leftover.name} removed")
    return switched


def _remove(path: Path) -> bool:
    """Whether it was there."""
    if not path.exists():
        return False
    logger.info("removing path=%s", path)
    shutil.rmtree(path)
    return True
