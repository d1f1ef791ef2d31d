"""Recovery, part by part: pages of a checkpoint into a tree, batches of the log into a tree.

Expected: both linear in the number of znodes. What a server takes in all is in many_znodes.py.
"""

from __future__ import annotations

import asyncio
import time

from material import create_batches, grown

from fastzk._log import TxnLog
from fastzk._tree import Tree
from fastzk.server._apply import Applier
from fastzk.server.checkpoint import Checkpointer
from fastzk.server.recovery import load_pages
from fastzk.server.store import META_CHECKPOINT_ZXID, META_TREE_DIGEST, Store, pack_int

from .support import disk, need_size

STORE_ID = b"store of a bench"


class Recovery:
    """Milliseconds until the tree stands, by the number of znodes, from files that are in the page cache."""

    params = (1_000, 10_000, 100_000)
    param_names = ("znodes",)

    def setup(self, leaves: int) -> None:
        need_size(leaves)

    def track_load(self, leaves: int) -> float:
        tree = grown(leaves)
        loop = asyncio.new_event_loop()
        with disk() as folder, Store.open(str(folder / "state"), create=True) as store:
            store.initialise({})
            checkpointer = Checkpointer(loop, store, tree, on_failure=print)
            checkpointer.run_now({META_CHECKPOINT_ZXID: pack_int(leaves), META_TREE_DIGEST: pack_int(tree.digest)})
            checkpointer.close()
            loop.close()
            began = time.perf_counter()
            loaded = load_pages(store)
            took = time.perf_counter() - began
            if loaded.digest != tree.digest:
                raise RuntimeError("another tree came back")
            return took * 1e3

    track_load.unit = "ms"

    def track_replay(self, leaves: int) -> float:
        with disk() as folder:
            log = TxnLog(folder, STORE_ID, segment_bytes=16 << 20)
            log.start()
            for batch in create_batches(leaves, 100):
                log.submit(batch)
            log.close()
            tree = Tree()
            tree.plant()
            applier = Applier(tree, 0)
            log = TxnLog(folder, STORE_ID, segment_bytes=16 << 20)
            began = time.perf_counter()
            for found in log.recover(0):
                applier.replay_batch(found.payload)
            took = time.perf_counter() - began
            log.close()
            if len(tree) < leaves:
                raise RuntimeError(f"{len(tree)} znodes of {leaves} came back")
            return took * 1e3

    track_replay.unit = "ms"
