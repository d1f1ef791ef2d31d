"""``fastzk-server --verify-data``: walk database and log, rebuild the tree in memory, report, change nothing."""

from __future__ import annotations

import os

from fastzk._log import LogCorruption, TxnLog, scan
from fastzk._tree import Tree, TreeCorruption
from fastzk.server._apply import Applier, ApplyError
from fastzk.server.config import Config
from fastzk.server.epochs import PROMISE_FILE, EpochFile, promise_lost
from fastzk.server.errors import StartupError
from fastzk.server.recovery import finish_tree
from fastzk.server.secret import KEY_FILE, load_secret
from fastzk.server.store import META_MEMBER, META_STORE_ID, META_TREE_DIGEST, StoreReport, verify
from fastzk.server.switch import decided, log_begins, log_path, next_path, state_path


def verify_data(config: Config) -> int:
    """Print what was found in the data directory, a line each.

    Returns 0 if the server could start on it, 1 if something is damaged or missing. A torn tail of the log is
    what a crash leaves: it is reported and is no damage.
    """
    tree = Tree()
    problems: list[str] = []
    path = state_path(config)
    if decided(config):
        path = next_path(config)
        print(f"another server's state replaces this one's at the next start path={path}")
    try:
        state = verify(os.fspath(path), visit=tree.load_page)
    except TreeCorruption as error:
        state = StoreReport(os.fspath(path))
        problems.append(f"{path}: {error}")
    print(f"database path={path} pages={state.pages} bytes={state.file_bytes} zxid=0x{state.zxid or 0:x}")
    problems += state.problems
    problems += _verify_files(config, state)
    if not decided(config):
        problems += _verify_log(config, state)
    if not problems:
        problems += _rebuild(config, state, tree)
    for problem in problems:
        print(f"problem {problem}")
    print("bad" if problems else "ok")
    return 1 if problems else 0


def _verify_files(config: Config, state: StoreReport) -> list[str]:
    """The small files beside the database."""
    problems = []
    epochs = EpochFile(config.data_dir / PROMISE_FILE)
    try:
        promise = epochs.load()
        if not epochs.missing:
            print(f"promise epoch={promise.epoch} to={promise.promised_to}")
        elif state.meta.get(META_MEMBER):
            problems.append(str(promise_lost(epochs.path)))
    except StartupError as error:
        problems.append(str(error))
    try:
        load_secret(config.data_dir / KEY_FILE)
    except StartupError as error:
        problems.append(str(error))
    return problems


def _verify_log(config: Config, state: StoreReport) -> list[str]:
    path = log_path(config)
    try:
        log = scan(os.fspath(path))
        base = log_begins(path)[1]
    except LogCorruption as error:
        return [str(error)]
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    print(
        f"log path={path} segments={log.segments} batches={log.batches} transactions={log.txns} "
        f"first=0x{log.first_zxid:x} last=0x{log.last_zxid:x} bytes={log.bytes}"
    )
    if log.torn_tail is not None:
        print(f"log torn tail file={log.torn_tail[0]} offset={log.torn_tail[1]} (cut off at the next start)")
    if log.corruption is not None:
        return [str(log.corruption)]
    if log.segments or (base is not None and base == state.zxid):
        return []
    return [f"{path}: no segment of the transaction log"]


def _rebuild(config: Config, state: StoreReport, tree: Tree) -> list[str]:
    """Whether checkpoint and log make one history: what a start would do, in memory.

    Of an ensemble's member this applies what may not be committed, too: that has to fit just the same.
    """
    try:
        if state.pages:
            finish_tree(tree, state.meta.get(META_TREE_DIGEST))
        else:
            tree.plant()
        applier = Applier(tree, state.zxid or 0)
        applier.on_session = lambda session, timeout: None
        if not decided(config):
            log = TxnLog(os.fspath(log_path(config)), state.meta[META_STORE_ID])
            for batch in log.recover(applier.zxid):
                applier.replay_batch(batch.payload)
    except (TreeCorruption, LogCorruption, ApplyError, OSError) as error:
        return [f"{state.path}: {error}"]
    print(f"tree znodes={len(tree)} zxid=0x{applier.zxid:x} digest=0x{tree.digest:x}")
    return []
