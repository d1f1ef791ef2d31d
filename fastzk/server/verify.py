"""``fastzk-server --verify-data``: walk database and log, rebuild the tree in memory, report, change nothing."""

from __future__ import annotations

import os

from fastzk._log import LogCorruption, TxnLog, scan
from fastzk._tree import Tree, TreeCorruption
from fastzk.server._apply import Applier, ApplyError
from fastzk.server.config import Config
from fastzk.server.recovery import log_path, state_path
from fastzk.server.store import META_STORE_ID, META_TREE_DIGEST, StoreReport, unpack_int, verify


def verify_data(config: Config) -> int:
    """Print what was found in the data directory, a line each.

    Returns 0 if the server could start on it, 1 if something is damaged or missing. A torn tail of the log is
    what a crash leaves: it is reported and is no damage.
    """
    tree = Tree()
    problems: list[str] = []
    try:
        state = verify(os.fspath(state_path(config)), visit=tree.load_page)
    except TreeCorruption as error:
        state = StoreReport(os.fspath(state_path(config)))
        problems.append(f"{state_path(config)}: {error}")
    print(f"database path={state_path(config)} pages={state.pages} bytes={state.file_bytes} zxid=0x{state.zxid or 0:x}")
    problems += state.problems
    problems += _verify_log(config)
    if not problems:
        problems += _rebuild(config, state, tree)
    for problem in problems:
        print(f"problem {problem}")
    print("bad" if problems else "ok")
    return 1 if problems else 0


def _verify_log(config: Config) -> list[str]:
    path = log_path(config)
    try:
        log = scan(os.fspath(path))
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
    return [] if log.segments else [f"{path}: no segment of the transaction log"]


def _rebuild(config: Config, state: StoreReport, tree: Tree) -> list[str]:
    """Whether checkpoint and log make one history: what a start would do, in memory."""
    try:
        if state.pages:
            tree.load_finish()
            if unpack_int(state.meta.get(META_TREE_DIGEST, b"")) != tree.digest:
                return [f"{state_path(config)}: the digest of the tree is not the one stored with the checkpoint"]
        else:
            tree.plant()
        applier = Applier(tree, state.zxid or 0)
        applier.on_session = lambda session, timeout: None
        log = TxnLog(os.fspath(log_path(config)), state.meta[META_STORE_ID])
        for batch in log.recover(applier.zxid):
            applier.replay_batch(batch.payload)
    except (TreeCorruption, LogCorruption, ApplyError, OSError) as error:
        return [str(error)]
    print(f"tree znodes={len(tree)} zxid=0x{applier.zxid:x} digest=0x{tree.digest:x}")
    return []
