"""A follower whose acknowledgments nobody waits for syncs several batches at a time, for as long as that is so."""

from __future__ import annotations

import time
from pathlib import Path

from support import wire
from support.ensembles import Ensemble

WRITES = 300


def syncs(ensemble: Ensemble) -> dict[int, int]:
    """How often each server that is awake has synced its log."""
    counts = {}
    for i in ensemble.awake:
        (line,) = (each for each in ensemble.word(i, "mntr").splitlines() if each.startswith("zk_fsync_count\t"))
        counts[i] = int(float(line.split("\t")[1]))
    return counts


def write(ensemble: Ensemble, session: wire.Session, writes: int) -> tuple[dict[int, int], float]:
    """So many writes, one after the other: how often each server synced, and how long the longest took, in seconds."""
    before, longest = syncs(ensemble), 0.0
    for number in range(writes):
        began = time.monotonic()
        session.set("/a", b"%d" % number)
        longest = max(longest, time.monotonic() - began)
    return {i: count - before[i] for i, count in syncs(ensemble).items()}, longest


def test_one_of_two_followers_takes_its_time_until_it_is_needed(tmp_path: Path) -> None:
    with Ensemble("fastzk", tmp_path, 3) as ensemble:
        ensemble.start()
        leader = ensemble.leader()
        with ensemble.session(leader) as session:
            session.create("/a", b"")
            write(ensemble, session, 50)
            counts, _ = write(ensemble, session, WRITES)
            lazy, prompt = sorted(ensemble.followers(), key=lambda i: counts[i])
            assert counts[leader] >= WRITES
            # On a busy machine they take turns: whoever was slower lately may take its time.
            assert WRITES <= counts[lazy] + counts[prompt] < WRITES * 2 * 9 // 10, counts

            # What it had not written when it was killed it gets again, and its clients see what they have seen.
            with ensemble.session(lazy) as reader:
                seen = reader.get("/a")
                ensemble.kill9(lazy)
            ensemble.launch(lazy)
            ensemble.wait_serving(lazy)
            with ensemble.session(lazy) as reader:
                assert reader.get("/a") == seen

            # The one that was waited for hangs: the other is, from the next write on.
            write(ensemble, session, 50)
            ensemble.pause(prompt)
            counts, longest = write(ensemble, session, 50)
            assert counts[lazy] >= 49, counts
            assert longest < 1.0
            ensemble.resume(prompt)

            # One that is told to stop has all of it on its disk, and a checkpoint.
            write(ensemble, session, 50)
            ensemble.terminate(lazy)
            ensemble.launch(lazy)
        ensemble.wait_serving()
        ensemble.assert_same_trees()
