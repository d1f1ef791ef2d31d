"""Checkpoints: the pages of a tree that changed, durably into LMDB, as the server writes its last one when it stops.

Expected: a whole tree linear in its size. A thousand changed znodes cost what their pages cost, at most a thousand of
them, and LMDB's way to each: they grow until every change is on a page of its own, at some 30 thousand znodes, and are
flat from there.
"""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

from material import DATA, NOW, grown, leaf, some

from fastzk._tree import Tree
from fastzk.server.checkpoint import Checkpointer
from fastzk.server.store import META_CHECKPOINT_ZXID, META_TREE_DIGEST, Store, pack_int

from .support import disk, need_size

CHANGES = 1000
ROUNDS = 5


def write(tree: Tree, folder: Path, rounds: int) -> tuple[float, list[float]]:
    """Seconds for the whole tree, and each time `CHANGES` of its znodes have changed."""

    def failed(error: BaseException) -> None:
        raise error

    def meta(zxid: int) -> dict[bytes, bytes]:
        return {META_CHECKPOINT_ZXID: pack_int(zxid), META_TREE_DIGEST: pack_int(tree.digest)}

    leaves = len(tree)
    numbers = some(leaves - leaves // 1000 - 10, CHANGES * rounds)
    loop = asyncio.new_event_loop()
    with Store.open(str(folder / "state"), create=True) as store:
        store.initialise({})
        checkpointer = Checkpointer(loop, store, tree, on_failure=failed)
        try:
            whole = checkpointer.run_now(meta(leaves)).seconds
            took = []
            for turn in range(rounds):
                for number in numbers[turn * CHANGES : (turn + 1) * CHANGES]:
                    tree.set_data(leaf(number), DATA, version=turn + 1, zxid=leaves + turn + 1, time=NOW)
                took.append(checkpointer.run_now(meta(leaves + turn + 1)).seconds)
            return whole, took
        finally:
            checkpointer.close()
            loop.close()


class Checkpoint:
    """Milliseconds until it is durable, by the size of the tree."""

    params = (1_000, 10_000, 100_000, 1_000_000)
    param_names = ("znodes",)
    tree: Tree

    def setup(self, leaves: int) -> None:
        need_size(leaves)
        self.tree = grown(leaves)

    def track_everything(self, _leaves: int) -> float:
        with disk() as folder:
            return write(self.tree, folder, 0)[0] * 1e3

    track_everything.unit = "ms"

    def track_thousand_changes(self, _leaves: int) -> float:
        with disk() as folder:
            return statistics.median(write(self.tree, folder, ROUNDS)[1]) * 1e3

    track_thousand_changes.unit = "ms"
