"""A member of an ensemble that lost its data, whose tree is wrong, or that does not fit its own files."""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import wire
from support.ensembles import Ensemble, Tree, eventually
from support.servers import FastzkServer, Server, ServerFailed, tree_of

from fastzk import _codec, records
from fastzk.protocol import OpCode
from fastzk.server._apply import Applier
from fastzk.server.ensemble import APPLY_BYTES
from fastzk.server.recovery import load_pages
from fastzk.server.store import META_CHECKPOINT_ZXID, META_TREE_DIGEST, Store, pack_int

#: Checkpoints and purges happen within a few thousand writes.
CONFIG: dict[str, str | None] = {"snapCount": "500", "preAllocSize": "64"}


@pytest.fixture
def make_ensemble(tmp_path: Path) -> Iterator[Callable[..., Ensemble]]:
    made: list[Ensemble] = []

    def make(**config: str | None) -> Ensemble:
        made.append(Ensemble("fastzk", tmp_path / "ensemble", 3, config={**CONFIG, **config}).start())
        return made[-1]

    yield make
    for ensemble in made:
        ensemble.discard()


def write(ensemble: Ensemble, member: int, prefix: str, count: int, size: int = 100) -> None:
    """So many znodes with the prefix, by a session on that server, 200 requests in flight."""
    with ensemble.session(member) as session:
        sent = taken = 0
        while taken < count:
            requests = [wire.create(f"{prefix}{i}", os.urandom(size)) for i in range(sent, min(sent + 200, count))]
            session.send(*requests)
            sent += len(requests)
            for _ in requests:
                reply = session.reply()
                assert reply.err == 0, reply
                taken += 1


def count_of(server: Server, pattern: str) -> int:
    return len(re.findall(pattern, server.log_text()))


def settle(ensemble: Ensemble, member: int) -> Tree:
    """Wait until that server serves and everybody has the same tree, which must not change by that."""
    ensemble.wait_serving(member)
    return ensemble.assert_same_trees()


def tamper(data_dir: Path, path: str, data: bytes) -> None:
    """Change a znode behind the back of a server that does not run, in a way that nothing in its files shows."""
    with Store.open(os.fspath(data_dir / "state"), create=False) as store:
        tree, zxid = load_pages(store), store.checkpoint_zxid
        header = _codec.encode(records.TxnHeader, (0, 0, zxid, 1_700_000_000_000, int(OpCode.SET_DATA)))
        record = header + _codec.encode(records.SetDataTxn, (path, data, 7))
        Applier(tree, zxid - 1).replay_batch(len(record).to_bytes(4, "little") + record)
        tree.checkpoint_begin()
        pages = []
        while taken := tree.checkpoint_take(1 << 20):
            pages += taken
        store.write(pages, {META_CHECKPOINT_ZXID: pack_int(zxid), META_TREE_DIGEST: pack_int(tree.digest)})
        tree.checkpoint_end(True)


def descriptors(server: Server) -> list[str]:
    """What the process has open, without the numbers that differ each time."""
    found = []
    for each in Path(f"/proc/{server.pid}/fd").iterdir():
        try:
            found.append(re.sub(r"\[\d+\]|/log/.*|[0-9a-f]{16}", "", os.readlink(each)))
        except FileNotFoundError:
            continue
    return sorted(found)


def threads(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def test_a_leader_has_more_to_apply_than_goes_in_one_slice(make_ensemble: Callable[..., Ensemble]) -> None:
    """Its epoch's opening is committed long before it has applied all that its log has of the epochs before."""
    ensemble = make_ensemble(snapCount="1000000")
    count = 4 * APPLY_BYTES // 1000
    write(ensemble, ensemble.leader(), "/n", count, 1000)
    before = ensemble.assert_same_trees()
    ensemble.kill9(*ensemble.ids)
    ensemble.launch(*ensemble.ids)
    ensemble.wait_serving()
    recovered = re.search(r"zxid=0x0 checkpoint=0x0 log=0x1\d+", ensemble[ensemble.leader()].log_text())
    assert recovered, ensemble.explain("the leader had applied a part of it already")
    assert ensemble.assert_same_trees() == before


class TestDivergence:
    def test_a_server_whose_tree_differs_fetches_it_anew(self, make_ensemble: Callable[..., Ensemble]) -> None:
        ensemble = make_ensemble()
        victim = ensemble.followers()[0]
        write(ensemble, victim, "/a", 700)
        ensemble.terminate(victim)
        tamper(ensemble[victim].data_dir, "/a13", b"not what was written")
        write(ensemble, ensemble.leader(), "/b", 50)
        ensemble.launch(victim)
        eventually(
            lambda: count_of(ensemble[victim], "FATAL .*differs from the leader's") == 1,
            "the difference is noticed",
            ensemble,
        )
        tree = settle(ensemble, victim)
        assert tree["/a13"].data != b"not what was written"
        assert len(tree["/a13"].data or b"") == 100
        assert count_of(ensemble[victim], "full state") >= 1
        assert not (ensemble[victim].data_dir / "diverged").exists()
        assert ensemble[victim].running, "it goes on in the same process"
        # and once more from its own disk, with what it was sent and what its log has behind that
        write(ensemble, victim, "/c", 50)
        ensemble.kill9(victim)
        ensemble.launch(victim)
        assert settle(ensemble, victim).keys() >= {"/b49", "/c49"}
        assert count_of(ensemble[victim], "FATAL ") == 1

    def test_no_restart_makes_it_serve(self, make_ensemble: Callable[..., Ensemble]) -> None:
        """Killed at any moment after it noticed: it neither serves nor leads before it has another state."""
        ensemble = make_ensemble()
        victim = ensemble.followers()[0]
        write(ensemble, victim, "/a", 700)
        ensemble.terminate(victim)
        tamper(ensemble[victim].data_dir, "/a13", b"not what was written")
        (ensemble[victim].data_dir / "diverged").write_text("noticed before a crash\n")
        leader = ensemble.leader()
        other = ({1, 2, 3} - {leader, victim}).pop()
        ensemble.kill9(leader, other)
        # Alone with one other: that one has to lead, whatever the numbers are, and both have a quorum.
        ensemble.launch(victim, other)
        assert ensemble.leader() == other
        ensemble.wait_serving(victim)
        ensemble.launch(leader)
        ensemble.wait_serving()
        tree = ensemble.assert_same_trees()
        assert len(tree["/a13"].data or b"") == 100
        assert not (ensemble[victim].data_dir / "diverged").exists()

    def test_what_it_acknowledged_is_kept(self, make_ensemble: Callable[..., Ensemble]) -> None:
        """The state that it gets is older than its log's end: it must not forget what a quorum rests on."""
        ensemble = make_ensemble(snapCount="100000")
        leader, victim = ensemble.leader(), ensemble.followers()[0]
        write(ensemble, victim, "/a", 300)
        with ensemble.session(victim) as session:
            last = session.stat("/a299").czxid
        ensemble.kill9(victim)
        (ensemble[victim].data_dir / "diverged").write_text("noticed before a crash\n")
        ensemble.launch(victim)
        ensemble.wait_serving(victim)
        text = ensemble[victim].log_text()
        state = re.findall(r"taking over a state zxid=0x([0-9a-f]+)", text)
        assert int(state[-1], 16) < last, ensemble.explain("the state was to be older than the log")
        begun = re.findall(r"recovered zxid=0x([0-9a-f]+) checkpoint=0x\1 log=0x([0-9a-f]+)", text)[-1]
        assert int(begun[1], 16) >= last, "the log was to stay"
        # Those two have it; the third one, which was left behind, must not win.
        ensemble.kill9(leader)
        ensemble.leader(other_than=leader)
        ensemble.wait_serving(*({1, 2, 3} - {leader}))
        assert ensemble.assert_same_trees().keys() >= {f"/a{i}" for i in range(300)}

    def test_alone_it_does_not_start(self, make_ensemble: Callable[..., Ensemble]) -> None:
        ensemble = make_ensemble()
        victim = ensemble.followers()[0]
        ensemble.terminate(victim)
        data = ensemble[victim].data_dir
        (data / "diverged").write_text("noticed before a crash\n")
        alone = FastzkServer(ensemble.directory / "alone", None, {})
        shutil.rmtree(alone.data_dir, ignore_errors=True)
        shutil.copytree(data, alone.data_dir)
        before = tree_of(alone.data_dir)
        code, output = alone.run_to_end()
        assert code == 1, output
        assert "differs from that of the ensemble" in output
        assert tree_of(alone.data_dir) == before


class TestFullState:
    def test_again_and_again_with_nothing_left_open(self, make_ensemble: Callable[..., Ensemble]) -> None:
        """The same process takes over several states: no socket, file or thread of the former life remains."""
        ensemble = make_ensemble()
        victim = ensemble.followers()[0]
        write(ensemble, victim, "/a", 3000, 1000)
        ensemble.wait_serving(victim)
        before, were = descriptors(ensemble[victim]), threads(ensemble[victim])
        ensemble.terminate(victim)
        ensemble.wipe(victim)
        ensemble.launch(victim)
        # purged beyond its reach or not: with an empty log and a mark it needs the whole state
        (ensemble[victim].data_dir / "diverged").write_text("asks for a state\n")
        ensemble.kill9(victim)
        ensemble.launch(victim)
        settle(ensemble, victim)
        assert count_of(ensemble[victim], "whole state was replaced") == 1
        eventually(lambda: threads(ensemble[victim]) <= were + 1, "threads end", ensemble)  # an executor's may stay
        assert descriptors(ensemble[victim]) == before

    def test_killed_in_the_middle(self, make_ensemble: Callable[..., Ensemble]) -> None:
        """kill -9 at any moment of a transfer: it begins anew, or goes on with what is complete."""
        ensemble = make_ensemble()
        rnd = random.Random(4)
        victim = ensemble.followers()[0]
        write(ensemble, victim, "/a", 4000, 2000)
        for _ in range(6):
            ensemble.terminate(victim) if ensemble[victim].running else None
            ensemble.wipe(victim)
            ensemble.launch(victim)
            eventually(
                lambda: "serving address" in ensemble[victim].log_text().rpartition("new data directory")[2],
                "it starts",
                ensemble,
            )
            (ensemble[victim].data_dir / "diverged").write_text("asks for a state\n")
            ensemble.kill9(victim)
            seen = count_of(ensemble[victim], "receiving the full state from")
            ensemble.launch(victim)
            eventually(
                lambda seen=seen: count_of(ensemble[victim], "receiving the full state from") > seen,  # type: ignore[misc]
                "a transfer begins",
                ensemble,
            )
            time.sleep(rnd.random() * 0.15)
            ensemble.kill9(victim)
            ensemble.launch(victim)
            ensemble.wait_serving(victim)
        settle(ensemble, victim)
        for leftover in ("state.incoming", "state.next", "state.old", "log.old", "log.next", "diverged"):
            assert not (ensemble[victim].data_dir / leftover).exists(), leftover

    def test_the_leader_is_killed_in_the_middle(self, make_ensemble: Callable[..., Ensemble]) -> None:
        ensemble = make_ensemble()
        victim, leader = ensemble.followers()[0], ensemble.leader()
        write(ensemble, victim, "/a", 4000, 2000)
        ensemble.kill9(victim)
        (ensemble[victim].data_dir / "diverged").write_text("asks for a state\n")
        ensemble.launch(victim)
        eventually(
            lambda: count_of(ensemble[victim], "receiving the full state from") == 1, "a transfer begins", ensemble
        )
        ensemble.kill9(leader)
        ensemble.wait_serving(*({1, 2, 3} - {leader}))
        ensemble.launch(leader)
        ensemble.wait_serving()
        assert ensemble.assert_same_trees().keys() >= {f"/a{i}" for i in range(4000)}


def test_away_for_many_writes(make_ensemble: Callable[..., Ensemble]) -> None:
    """The log reaches back far enough, over checkpoints and purges: no full state."""
    ensemble = make_ensemble()
    victim = ensemble.followers()[0]
    ensemble.kill9(victim)
    write(ensemble, ensemble.leader(), "/a", 20_000)
    began = time.monotonic()
    ensemble.launch(victim)
    ensemble.wait_serving(victim)
    assert time.monotonic() - began < 10
    assert "receiving the full state" not in ensemble[victim].log_text()
    assert ensemble.assert_same_trees().keys() >= {f"/a{i}" for i in range(20_000)}


def test_a_tail_that_was_never_committed_goes(make_ensemble: Callable[..., Ensemble]) -> None:
    """A leader's last batches reached nobody: they are dropped, while the disk may still be busy with them."""
    ensemble = make_ensemble()
    leader = ensemble.leader()
    others = sorted({1, 2, 3} - {leader})
    write(ensemble, leader, "/a", 100)
    session = ensemble.session(leader)
    ensemble.kill9(*others)  # the leader goes on until the sync limit has passed
    session.send(*(wire.create(f"/lost{i}", b"") for i in range(50)))
    log = ensemble[leader].data_dir / "log"
    eventually(
        lambda: any(b"/lost49" in each.read_bytes() for each in log.glob("log.*")), "it is in the log", ensemble
    )
    ensemble.kill9(leader)
    ensemble.launch(*others)
    ensemble.wait_serving(*others)
    write(ensemble, others[0], "/b", 100)
    ensemble.launch(leader)
    tree = settle(ensemble, leader)
    assert not [path for path in tree if path.startswith("/lost")]
    assert "dropping what was never committed" in ensemble[leader].log_text()
    ensemble.kill9(leader)
    ensemble.launch(leader)
    assert settle(ensemble, leader) == tree


def _lose_log(data: Path) -> None:
    shutil.rmtree(data / "log")


def _lose_segments(data: Path) -> None:
    for each in (data / "log").glob("log.*"):
        each.unlink()


def _lose_database(data: Path) -> None:
    shutil.rmtree(data / "state")


def _lose_promise(data: Path) -> None:
    (data / "promise").unlink()


def _cut_promise(data: Path) -> None:
    (data / "promise").write_bytes((data / "promise").read_bytes()[:-5])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_lose_log, "log"),
        (_lose_segments, "log"),
        (_lose_database, "database"),
        (_lose_promise, "promise.* is missing"),
        (_cut_promise, "promise.* is damaged"),
    ],
)
def test_a_member_that_lost_a_part_does_not_start(
    make_ensemble: Callable[..., Ensemble], harm: Callable[[Path], None], words: str
) -> None:
    """It could forget what it acknowledged or promised. It says what is missing, and changes nothing."""
    ensemble = make_ensemble()
    victim = ensemble.followers()[0]
    write(ensemble, victim, "/a", 20)
    ensemble.kill9(victim)
    harm(ensemble[victim].data_dir)
    before = tree_of(ensemble[victim].data_dir)
    code, output = ensemble[victim].run_to_end()
    assert code == 1, output
    assert re.search(words, output), output
    assert "Traceback" not in output
    assert tree_of(ensemble[victim].data_dir) == before
    # as a new one it comes back
    ensemble.wipe(victim)
    ensemble.launch(victim)
    assert "/a19" in settle(ensemble, victim)


def test_interrupted_promises_and_transfers_are_cleared_away(make_ensemble: Callable[..., Ensemble]) -> None:
    """What a crash may leave beside the files that count."""
    ensemble = make_ensemble()
    victim = ensemble.followers()[0]
    write(ensemble, victim, "/a", 20)
    ensemble.kill9(victim)
    data = ensemble[victim].data_dir
    (data / "promise.tmp").write_bytes(b"fastzk-prom")
    (data / "state.incoming").mkdir()
    (data / "state.incoming" / "data.mdb").write_bytes(b"half a state")
    (data / "log" / "truncate.tmp").write_bytes(bytes(5000))
    ensemble.launch(victim)
    assert "/a19" in settle(ensemble, victim)
    assert not (data / "state.incoming").exists()
    assert not (data / "log" / "truncate.tmp").exists()


def test_server_failed_is_what_a_missing_ensemble_says(make_ensemble: Callable[..., Ensemble]) -> None:
    """A check of these tests: a member without a quorum does not pass for one that serves."""
    ensemble = make_ensemble()
    ensemble.kill9(1, 2)
    with pytest.raises(ServerFailed):
        ensemble.wait_serving(3, timeout=3)
