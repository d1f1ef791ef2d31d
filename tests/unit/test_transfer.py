"""A whole state goes from one server to another: all of it, verified, and never half of it, whenever a crash comes."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import os
import random
import select
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastzk import _codec, records
from fastzk._log import Batch, LogCorruption, TxnLog
from fastzk.protocol import OpCode
from fastzk.server import switch
from fastzk.server.config import Config
from fastzk.server.errors import StartupError
from fastzk.server.recovery import Recovered, adopt_secret, checkpoint_meta, recover
from fastzk.server.store import META_MEMBER, META_STORE_ID
from fastzk.server.transfer import StatePump, StateReceiver, StateSender, TransferError
from fastzk.server.verify import verify_data

ACL = [{"perms": 31, "id": {"scheme": "world", "id": "anyone"}}]


def config(directory: Path, **others: Any) -> Config:
    made = Config(data_dir=directory, data_log_dir=directory, client_port=2181, pre_alloc_size_kb=64)
    return dataclasses.replace(made, **others)


def txn(zxid: int, kind: OpCode, body: bytes, session: int = 0) -> bytes:
    return _codec.encode(records.TxnHeader, (session, 0, zxid, 1_700_000_000_000, int(kind))) + body


def create(zxid: int, path: str, data: bytes) -> bytes:
    return txn(zxid, OpCode.CREATE, _codec.encode(records.CreateTxn, (path, data, ACL, False, -1)))


def set_data(zxid: int, path: str, data: bytes, version: int) -> bytes:
    return txn(zxid, OpCode.SET_DATA, _codec.encode(records.SetDataTxn, (path, data, version)))


def opening(epoch: int) -> bytes:
    return txn(epoch << 32 | 1, OpCode.ERROR, _codec.encode(records.ErrorTxn, (0,)))


def write(parts: Recovered, transactions: list[bytes], *, apply: bool = True) -> int:
    """Log one batch, wait for it, and apply it; its last zxid."""
    batch = Batch()
    for each in transactions:
        batch.append(struct.unpack_from(">q", each, 12)[0], each)
    parts.log.submit(batch)
    deadline = time.monotonic() + 10
    while parts.log.pending:
        assert time.monotonic() < deadline
        select.select([parts.log.event_fd], [], [], 1)
        parts.log.take_done()
    parts.log.take_done()
    if apply:
        parts.applier.replay_batch(batch.payload())
    return batch.last_zxid


def checkpoint(parts: Recovered) -> None:
    parts.tree.checkpoint_begin()
    pages = []
    while taken := parts.tree.checkpoint_take(1 << 20):
        pages += taken
    parts.store.write(pages, checkpoint_meta(parts.applier, parts.tree, parts.sessions))
    parts.tree.checkpoint_end(True)


def close(parts: Recovered) -> None:
    parts.log.close()
    parts.store.close()
    os.close(parts.lock)


def fill(parts: Recovered, epoch: int = 1, count: int = 300, size: int = 300) -> int:
    """An epoch with so many znodes and a session, and a checkpoint of it; its last zxid."""
    zxid = epoch << 32 | 1
    write(parts, [opening(epoch)])
    rng = random.Random(epoch)
    session = txn(zxid + 1, OpCode.CREATE_SESSION, _codec.encode(records.CreateSessionTxn, (30_000,)), session=77)
    write(parts, [session])
    created = [create(zxid + 2 + i, f"/n{epoch}-{i}", rng.randbytes(rng.randrange(size))) for i in range(count)]
    last = write(parts, created)
    checkpoint(parts)
    return last


def transfer(sender: StateSender, receiver: StateReceiver) -> None:
    done = False
    while (frame := sender.frame()) is not None:
        assert not done
        assert len(frame) <= 256 << 10
        done = receiver.feed(frame)
    assert done


def store_id(parts: Recovered) -> bytes:
    found = parts.store.get_meta(META_STORE_ID)
    assert found is not None
    return found


def switch_to(receiver: StateReceiver, old: Recovered, where: Config) -> Recovered:
    """Decide for what was received, end, and start again, as a server does."""
    receiver.install(old.log.last_zxid)
    close(old)
    return recover(where, ensemble=True, apply_tail=False)


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Callable[..., Recovered]]:
    """Opens (again) a member's directory; whatever is still open at the end is closed."""
    opened: list[Recovered] = []

    def open_it(name: str, promised: int = 3, **others: object) -> Recovered:
        opened.append(recover(config(tmp_path / name, **others), ensemble=True, apply_tail=False))
        epochs = opened[-1].epochs
        assert epochs is not None
        if promised and epochs.promise.epoch == 0:
            epochs.save(promised, 1)  # as it would have before it had anything of a leader's
        return opened[-1]

    yield open_it
    for parts in opened:
        parts.log.close()
        parts.store.close()


def serve(parts: Recovered) -> tuple[int, int, int, int, bytes]:
    """What must be equal on two servers with the same state."""
    return len(parts.tree), parts.tree.digest, parts.applier.zxid, len(parts.sessions), parts.sessions.password(77)


class TestTransfer:
    def test_all_of_it(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        leader, follower = member("leader"), member("follower", promised=9)
        last = fill(leader)
        old_last = fill(follower, epoch=1, count=5)
        own = store_id(follower)
        write(leader, [create(last + 1, "/behind", b"the checkpoint")])
        sender = StateSender(leader.store, leader.log, leader.secret)
        receiver = StateReceiver(config(tmp_path / "follower"), own)
        assert sender.zxid == last
        transfer(sender, receiver)
        assert receiver.pages == sender.pages > 2
        assert (stat.S_IMODE((tmp_path / "follower" / "state.incoming").stat().st_mode)) == 0o700
        receiver.seal()
        for file in (tmp_path / "follower" / "state.incoming").iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert old_last < last
        new = switch_to(receiver, follower, config(tmp_path / "follower"))
        try:
            assert (new.applier.zxid, new.log.last_zxid, new.store.checkpoint_zxid) == (last, last, last)
            assert new.history is not None
            assert (new.history.base_zxid, new.history.last_zxid) == (last, last)
            assert store_id(new) == own
            assert store_id(new) != store_id(leader)
            assert new.secret == leader.secret
            assert new.tree.slot(b"/behind") == 0
            # the batches behind the checkpoint: from the leader's log to this one's
            assert leader.history is not None
            [batch] = leader.log.read(sender.zxid, 1 << 20)
            sender.close()
            follow = Batch()
            follow.adopt(batch.first_zxid, batch.last_zxid, batch.count, batch.payload)
            new.log.submit(follow)
            new.applier.replay_batch(batch.payload)
            assert serve(new) == serve(leader)
            assert new.tree.digest == new.tree.compute_digest()
            write(new, [opening(9)])
            write(leader, [opening(9)])
            checkpoint(new)
            assert sorted(path.name for path in (tmp_path / "follower").iterdir()) == [
                "fastzk.lock",
                "log",
                "promise",
                "state",
            ]
        finally:
            close(new)
        again = member("follower")
        assert serve(again) == serve(leader)

    def test_the_snapshot_stays_while_checkpoints_and_purges_go_on(
        self, member: Callable[..., Recovered], tmp_path: Path
    ) -> None:
        leader, follower = member("leader"), member("follower")
        last = fill(leader, count=2000, size=1000)
        digest = leader.tree.digest
        sender = StateSender(leader.store, leader.log, leader.secret, frame_bytes=20_000)
        receiver = StateReceiver(config(tmp_path / "follower"), store_id(follower))
        zxid, version, steps = last, 0, 0
        while (frame := sender.frame()) is not None:
            assert len(frame) <= 20_000
            receiver.feed(frame)
            steps += 1
            if steps % 5 == 0:
                changes = []
                for i in range(0, 2000, 7):
                    zxid += 1
                    changes.append(set_data(zxid, f"/n1-{i}", os.urandom(500), version + 1))
                version += 1
                write(leader, changes)
                checkpoint(leader)
                assert leader.history is not None
                leader.log.purge(zxid)
        assert steps > 30
        assert leader.log.base_zxid <= sender.zxid == last
        assert leader.log.read(last, 1)[0].first_zxid == last + 1
        sender.close()
        leader.log.purge(zxid)
        assert leader.log.base_zxid > last
        receiver.seal()
        new = switch_to(receiver, follower, config(tmp_path / "follower"))
        assert (new.tree.digest, new.applier.zxid) == (digest, last)
        close(new)

    def test_a_page_larger_than_a_frame_and_many_sessions(
        self, member: Callable[..., Recovered], tmp_path: Path
    ) -> None:
        leader, follower = member("leader"), member("follower")
        write(leader, [opening(1)])
        zxid = 1 << 32 | 2
        write(leader, [create(zxid + i, f"/big{i}", bytes([i]) * 900_000) for i in range(5)])
        zxid += 5
        body = _codec.encode(records.CreateSessionTxn, (30_000,))
        write(leader, [txn(zxid + i, OpCode.CREATE_SESSION, body, session=i + 1) for i in range(40_000)])
        checkpoint(leader)
        receiver = StateReceiver(config(tmp_path / "follower"), store_id(follower))
        transfer(StateSender(leader.store, leader.log, leader.secret), receiver)
        receiver.seal()
        new = switch_to(receiver, follower, config(tmp_path / "follower"))
        assert serve(new) == serve(leader)
        assert len(new.sessions) == 40_000
        assert new.tree.data(b"/big3") == bytes([3]) * 900_000
        close(new)

    def test_a_leader_without_any_checkpoint(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        leader, follower = member("leader"), member("follower")
        receiver = StateReceiver(config(tmp_path / "follower"), store_id(follower))
        transfer(StateSender(leader.store, leader.log, leader.secret), receiver)
        receiver.seal()
        new = switch_to(receiver, follower, config(tmp_path / "follower"))
        assert (new.applier.zxid, new.tree.digest, new.secret) == (0, leader.tree.digest, leader.secret)
        close(new)

    def test_no_step_is_long(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        leader = member("leader")
        fill(leader, count=20_000, size=300)
        taken = []
        for _ in range(3):
            sender = StateSender(leader.store, leader.log, leader.secret)
            while True:
                began = time.perf_counter()
                frame = sender.frame()
                taken.append(time.perf_counter() - began)
                if frame is None:
                    break
            sender.close()
        assert sorted(taken)[len(taken) // 2] < 0.001

    def test_it_ends_in_time(self, member: Callable[..., Recovered]) -> None:
        leader = member("leader")
        fill(leader)
        now = [100.0]
        sender = StateSender(leader.store, leader.log, leader.secret, limit_seconds=5, clock=lambda: now[0])
        assert sender.frame() is not None
        now[0] += 5.1
        with pytest.raises(TransferError, match="in time"):
            sender.frame()
        assert not leader.store._snapshots
        sender.close()
        sender.close()

    def test_closing_lets_go(self, member: Callable[..., Recovered]) -> None:
        leader = member("leader")
        fill(leader, count=2000)
        sender = StateSender(leader.store, leader.log, leader.secret)
        sender.frame()
        sender.close()
        assert sender.frame() is None
        assert not leader.store._snapshots


class TestPump:
    """The sender over an event loop."""

    def run(self, leader: Recovered, unsent: list[int], limit_seconds: float = 60) -> tuple[list[bytes], list[bool]]:
        frames: list[bytes] = []
        ended: list[bool] = []
        loop = asyncio.new_event_loop()

        def pending() -> int:
            return unsent.pop() if unsent else 0

        def done(ok: bool) -> None:
            ended.append(ok)
            loop.stop()

        sender = StateSender(leader.store, leader.log, leader.secret, limit_seconds=limit_seconds)
        pump = StatePump(loop, sender, send=frames.append, pending=pending, done=done)
        watchdog = loop.call_later(20, loop.stop)
        loop.run_forever()
        watchdog.cancel()
        pump.close()
        loop.close()
        return frames, ended

    def test_it_sends_all_and_waits_for_a_slow_peer(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        leader, follower = member("leader"), member("follower")
        fill(leader, count=3000)
        unsent = [9 << 20, 5 << 20, 0, 5 << 20]
        frames, ended = self.run(leader, unsent)
        assert (ended, unsent) == ([True], [])
        receiver = StateReceiver(config(tmp_path / "follower"), store_id(follower))
        assert [receiver.feed(frame) for frame in frames] == [False] * (len(frames) - 1) + [True]
        receiver.seal()
        # the other way to take it over: decide, end, and start again
        with pytest.raises(TransferError, match="take back"):
            receiver.install(9 << 32)
        receiver.install(follower.log.last_zxid)
        close(follower)
        again = member("follower")
        assert serve(again) == serve(leader)

    def test_it_says_that_it_failed(self, member: Callable[..., Recovered]) -> None:
        leader = member("leader")
        fill(leader)
        assert self.run(leader, [], limit_seconds=-1) == ([], [False])
        assert not leader.store._snapshots


class TestDamage:
    @pytest.fixture
    def frames(self, member: Callable[..., Recovered]) -> list[bytes]:
        leader = member("leader")
        fill(leader, count=300)
        sender = StateSender(leader.store, leader.log, leader.secret, frame_bytes=10_000)
        found = list(iter(sender.frame, None))
        sender.close()
        assert len(found) > 5
        return found

    @pytest.fixture
    def receive(self, member: Callable[..., Recovered], tmp_path: Path) -> Callable[[list[bytes]], None]:
        follower = member("follower")

        def run(frames: list[bytes]) -> None:
            receiver = StateReceiver(config(tmp_path / "follower"), store_id(follower))
            try:
                for frame in frames:
                    receiver.feed(frame)
                receiver.seal()
            finally:
                receiver.close()
                assert not (tmp_path / "follower" / "state.incoming").exists()

        return run

    def test_good(self, frames: list[bytes], receive: Callable[[list[bytes]], None]) -> None:
        receive(frames)

    @pytest.mark.parametrize(
        "change",
        [
            lambda f: f[1:],
            lambda f: f[:-1],
            lambda f: f[:2] + f[3:],
            lambda f: [*f[:3], f[3], *f[3:]],
            lambda f: [*f[:2], f[3], f[2], *f[4:]],
            lambda f: [f[0], *f],
            lambda f: [*f, f[-1]],
            lambda f: [*f, f[1]],
            lambda f: [f[0], f[-1]],
            lambda f: [b"", *f],
            lambda f: [f[0], b"\x09abc", *f[1:]],
            lambda f: [f[0][:-1], *f[1:]],
            lambda f: [f[0][:1] + b"\x02\x00" + f[0][3:], *f[1:]],
            lambda f: [f[0][:-8] + struct.pack("<Q", 10_000), *f[1:]],
            lambda f: [f[0], *f[1:-2], f[-2] + b"x", f[-1]],
            lambda f: [*f[:-1], f[-1][:-1] + b"\x00"],
        ],
    )
    def test_frames_that_are_not_what_was_sent(
        self,
        frames: list[bytes],
        receive: Callable[[list[bytes]], None],
        change: Callable[[list[bytes]], list[bytes]],
    ) -> None:
        with pytest.raises(TransferError):
            receive(change(frames))

    def test_flipped_bits(self, frames: list[bytes], receive: Callable[[list[bytes]], None]) -> None:
        rng = random.Random(5)
        for _ in range(60):
            number = rng.randrange(1, len(frames))
            at, bit = rng.randrange(len(frames[number])), 1 << rng.randrange(8)
            bad = bytearray(frames[number])
            bad[at] ^= bit
            with pytest.raises(TransferError):
                receive([*frames[:number], bytes(bad), *frames[number + 1 :]])

    def test_a_digest_that_is_not_the_trees(
        self, member: Callable[..., Recovered], receive: Callable[[list[bytes]], None]
    ) -> None:
        leader = member("other")
        fill(leader, count=10)
        meta = checkpoint_meta(leader.applier, leader.tree, leader.sessions)
        meta[b"tree-digest"] = bytes(8)
        leader.store.write((), meta)
        sender = StateSender(leader.store, leader.log, leader.secret)
        with pytest.raises(TransferError, match="digest"):
            receive(list(iter(sender.frame, None)))

    def test_what_was_not_sealed_is_no_state(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        follower = member("follower")
        receiver = StateReceiver(config(tmp_path / "follower"), store_id(follower))
        with pytest.raises(TransferError, match="not complete"):
            receiver.seal()
        with pytest.raises(TransferError, match="not complete"):
            receiver.install(follower.log.last_zxid)
        assert (tmp_path / "follower" / "state.incoming").is_dir()
        receiver.close()
        receiver.close()

    def test_a_state_older_than_the_log(
        self, member: Callable[..., Recovered], tmp_path: Path, frames: list[bytes]
    ) -> None:
        """It would take back what was acknowledged."""
        follower = member("follower")
        last = fill(follower, epoch=2, count=3)
        receiver = StateReceiver(config(tmp_path / "follower"), store_id(follower))
        for frame in frames:
            receiver.feed(frame)
        receiver.seal()
        with pytest.raises(TransferError, match="take back"):
            receiver.install(last)
        receiver.close()
        write(follower, [opening(3)])
        close(follower)
        assert member("follower").log.last_zxid == 3 << 32 | 1


STEPS = [
    "complete",
    "renamed",
    "decided",
    "log made",
    "old log away",
    "log switched",
    "key switched",
    "old state away",
    "state switched",
    "state.old removed",
    "log.old removed",
]


def _crash_at(directory: Path, log_directory: Path, leader: Path, wanted: str, again: str | None) -> None:
    """In a child process: receive a state and end at step `wanted`; or start, and end at step `again`."""

    def reached(step: str) -> None:
        if step == (again or wanted):
            os._exit(33)

    where = config(directory, data_log_dir=log_directory)
    switch._reached = reached
    if again is not None:
        recover(where, ensemble=True, apply_tail=False)
        os._exit(0)
    source = recover(config(leader), ensemble=True, apply_tail=False)
    follower = recover(where, ensemble=True, apply_tail=False)
    receiver = StateReceiver(where, store_id(follower))
    transfer(StateSender(source.store, source.log, source.secret), receiver)
    receiver.seal()
    switch_to(receiver, follower, where)
    os._exit(0)


@pytest.mark.parametrize("separate_log", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_leaves_one_state(
    member: Callable[..., Recovered],
    tmp_path: Path,
    step: str,
    separate_log: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The old one before it is decided, the new one from then on; and the same if the next start crashes, too."""
    directory, log_directory = tmp_path / "follower", tmp_path / ("txns" if separate_log else "follower")
    leader, follower = member("leader"), member("follower", data_log_dir=log_directory)
    new_last, old_last = fill(leader, epoch=3), fill(follower, epoch=2, count=20)
    adopt_secret(config(directory), follower.secret, b"another key".ljust(32))
    states = {False: serve(follower)[:4], True: serve(leader)[:4]}
    secret = leader.secret
    own = store_id(follower)
    close(leader)
    close(follower)
    spawn = multiprocessing.get_context("spawn")

    def crash(again: str | None) -> int | None:
        child = spawn.Process(target=_crash_at, args=(directory, log_directory, tmp_path / "leader", step, again))
        child.start()
        child.join(60)
        return child.exitcode

    assert crash(None) == 33
    decided = STEPS.index(step) >= STEPS.index("renamed")
    assert verify_data(config(directory, data_log_dir=log_directory)) == 0, capsys.readouterr().out
    if step == "decided":
        # every start that goes on with it crashes one step later
        for later in STEPS[3:]:
            assert crash(later) == 33
            assert verify_data(config(directory, data_log_dir=log_directory)) == 0, capsys.readouterr().out
    final = member("follower", data_log_dir=log_directory)
    assert serve(final)[:4] == states[decided]
    assert final.applier.zxid == (new_last if decided else old_last)
    assert store_id(final) == own
    assert final.secret == (secret if decided else b"another key".ljust(32))
    assert final.epochs is not None
    assert not final.epochs.missing
    left = {path.name for path in directory.iterdir()} | {path.name for path in log_directory.iterdir()}
    assert left == {"fastzk.lock", "log", "promise", "session.key", "state"}
    write(final, [opening(9)])
    close(final)


def test_an_incomplete_state_is_removed(member: Callable[..., Recovered], tmp_path: Path) -> None:
    follower = member("follower")
    last = fill(follower)
    receiver = StateReceiver(config(tmp_path / "follower"), store_id(follower))
    close(follower)
    receiver._writer.abort()
    assert receiver._store is not None
    receiver._store.close()
    follower = member("follower")
    assert not (tmp_path / "follower" / "state.incoming").exists()
    assert follower.applier.zxid == last


class TestMembers:
    """Recovery for an ensemble."""

    def test_a_new_member_writes_nothing_of_its_own(self, member: Callable[..., Recovered]) -> None:
        parts = member("a", promised=0)
        assert (parts.applier.zxid, parts.log.last_zxid, parts.log.segments) == (0, 0, [])
        assert parts.epochs is not None
        assert parts.epochs.promise == (0, -1)
        close(parts)
        parts = member("a", promised=0)
        assert parts.history is not None
        assert (parts.history.base_zxid, parts.history.last_zxid, parts.memberships) == (0, 0, [])
        write(parts, [opening(1)])

    def test_the_tail_is_kept_but_not_applied(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        parts = member("a")
        last = fill(parts)
        digest = parts.tree.digest
        body = _codec.encode(records.SetDataTxn, ("/zookeeper/config", b"server.1=...", 1))
        write(parts, [create(last + 1, "/tail", b""), txn(last + 2, OpCode.RECONFIG, body)], apply=False)
        write(parts, [create(last + 3, "/more", b"")], apply=False)
        close(parts)
        parts = member("a")
        assert (parts.applier.zxid, parts.tree.digest, parts.log.last_zxid) == (last, digest, last + 3)
        assert parts.memberships == [(last + 2, b"server.1=...")]
        assert parts.history is not None
        assert parts.history.last_zxid == last + 3
        assert [batch.last_zxid for batch in parts.history.after(last, 1 << 20)] == [last + 2, last + 3]
        assert parts.history.floor(last) == last

    def test_a_lost_log_is_noticed_before_the_first_checkpoint(
        self, member: Callable[..., Recovered], tmp_path: Path
    ) -> None:
        parts = member("a")
        write(parts, [opening(1)])
        close(parts)
        for path in (tmp_path / "a" / "log").iterdir():
            path.unlink()
        with pytest.raises(StartupError, match="log"):
            member("a")
        (tmp_path / "a" / "log").rmdir()
        with pytest.raises(StartupError, match="log"):
            member("a")

    def test_a_log_lost_behind_a_state_is_noticed(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        leader, follower = member("leader"), member("a")
        last = fill(leader)
        receiver = StateReceiver(config(tmp_path / "a"), store_id(follower))
        transfer(StateSender(leader.store, leader.log, leader.secret), receiver)
        receiver.seal()
        parts = switch_to(receiver, follower, config(tmp_path / "a"))
        write(parts, [create(last + 1, "/x", b"")])
        close(parts)
        for path in (tmp_path / "a" / "log").glob("log.*"):
            path.unlink()
        with pytest.raises(StartupError, match="log"):
            member("a")

    def test_a_lost_database_is_noticed(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        parts = member("a")
        write(parts, [opening(1)])
        close(parts)
        (tmp_path / "a" / "state").rename(tmp_path / "a" / "elsewhere")
        with pytest.raises(StartupError, match="database"):
            member("a")

    def test_a_lost_or_damaged_promise_is_noticed(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        parts = member("a")
        assert parts.epochs is not None
        parts.epochs.save(4, 2)
        close(parts)
        promise = tmp_path / "a" / "promise"
        content = promise.read_bytes()
        promise.write_bytes(content[:-3])
        with pytest.raises(StartupError, match="damaged"):
            member("a")
        promise.unlink()
        with pytest.raises(StartupError, match="missing"):
            member("a")
        assert verify_data(config(tmp_path / "a")) == 1
        promise.write_bytes(content)
        parts = member("a")
        assert parts.epochs is not None
        assert parts.epochs.promise == (4, 2)

    def test_from_standalone_to_member_and_back(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        alone = recover(config(tmp_path / "a"))
        assert (alone.applier.zxid, alone.history, alone.epochs) == (1, None, None)
        write(alone, [create(2, "/alone", b"")])
        close(alone)
        parts = member("a")
        assert parts.applier.zxid == 1
        assert parts.history is not None
        assert parts.history.last_zxid == 2
        assert parts.store.get_meta(META_MEMBER)
        assert parts.epochs is not None
        parts.epochs.save(7, 3)
        parts.applier.replay_batch(parts.history.after(1, 1)[0].payload)
        write(parts, [opening(7)])
        close(parts)
        alone = recover(config(tmp_path / "a", server_id=5))
        # what it writes alone bears no zxid that the ensemble may give to something else
        assert alone.applier.zxid == alone.log.last_zxid == 8 << 32 | 1
        assert alone.tree.slot(b"/alone")
        write(alone, [create(8 << 32 | 2, "/again", b"")])
        close(alone)
        parts = member("a")
        assert parts.epochs is not None
        assert parts.epochs.promise == (8, 5)
        assert parts.log.last_zxid == 8 << 32 | 2

    def test_the_ensembles_key(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        parts = member("a")
        where = config(tmp_path / "a")
        assert not adopt_secret(where, parts.secret, parts.secret)
        assert not (tmp_path / "a" / "session.key").exists()
        assert adopt_secret(where, parts.secret, b"k" * 32)
        own = parts.sessions.password(1)
        close(parts)
        parts = member("a")
        assert parts.secret == b"k" * 32
        assert parts.sessions.password(1) != own

    def test_a_damaged_tail_of_a_member(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        """A reconfiguration that does not decode is damage, not a reason to go on without it."""
        parts = member("a")
        write(parts, [opening(1)])
        write(parts, [txn(1 << 32 | 2, OpCode.RECONFIG, b"\x7f\xff\xff\xff")], apply=False)
        close(parts)
        with pytest.raises(StartupError, match="cannot be used"):
            member("a")


def test_a_log_of_another_store_is_refused_after_a_switch(member: Callable[..., Recovered], tmp_path: Path) -> None:
    leader, follower = member("leader"), member("a")
    last = fill(leader)
    receiver = StateReceiver(config(tmp_path / "a"), store_id(follower))
    transfer(StateSender(leader.store, leader.log, leader.secret), receiver)
    receiver.seal()
    parts = switch_to(receiver, follower, config(tmp_path / "a"))
    write(parts, [create(last + 1, "/x", b"")])
    close(parts)
    with pytest.raises(LogCorruption, match="another store"):
        list(TxnLog(tmp_path / "a" / "log", store_id(leader)).recover(last))


class TestDiverged:
    """A server whose tree is wrong gets another one; its log, which is right, stays if it reaches beyond that."""

    def prepared(self, member: Callable[..., Recovered], tmp_path: Path) -> tuple[StateReceiver, int, int]:
        """A state for a follower whose log goes on behind it, sealed; its zxid, and the end of that log."""
        leader, follower = member("leader"), member("follower")
        last = fill(leader)
        assert fill(follower) == last
        end = write(follower, [create(last + 1, "/acknowledged", b"here")])
        switch.mark_diverged(config(tmp_path / "follower"), "it differs")
        sender = StateSender(leader.store, leader.log, leader.secret)
        receiver = StateReceiver(config(tmp_path / "follower"), store_id(follower))
        transfer(sender, receiver)
        sender.close()
        receiver.seal(keep_log=True)
        close(follower)
        return receiver, last, end

    def check(self, parts: Recovered, last: int, end: int) -> None:
        assert (parts.applier.zxid, parts.log.last_zxid) == (last, end)
        assert parts.history is not None
        assert parts.history.is_end(last)
        behind = parts.history.after(last, 1 << 20)
        assert [batch.last_zxid for batch in behind] == [end]
        parts.applier.replay_batch(behind[0].payload)
        assert parts.tree.slot(b"/acknowledged")

    def test_the_log_stays(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        receiver, last, end = self.prepared(member, tmp_path)
        assert switch.has_diverged(config(tmp_path / "follower"))
        receiver.install(end)
        parts = member("follower")
        self.check(parts, last, end)
        assert not switch.has_diverged(config(tmp_path / "follower"))
        # and it goes on as any other
        write(parts, [create(end + 1, "/more", b"")])
        checkpoint(parts)
        close(parts)
        assert member("follower").applier.zxid == end + 1

    @pytest.mark.parametrize(
        "wanted", ["complete", "renamed", "decided", "log switched", "key switched", "old state away", "state switched"]
    )
    def test_a_failure_at_any_step(
        self, member: Callable[..., Recovered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
    ) -> None:
        receiver, last, end = self.prepared(member, tmp_path)

        def reached(step: str) -> None:
            if step == wanted:
                raise KeyboardInterrupt

        monkeypatch.setattr(switch, "_reached", reached)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # in either of the two
            receiver.install(end)
            member("follower")
        monkeypatch.undo()
        parts = member("follower")
        if wanted == "complete":  # before it is decided
            assert switch.has_diverged(config(tmp_path / "follower"))
            assert parts.log.last_zxid == end
        else:
            self.check(parts, last, end)

    def test_a_state_beyond_the_log_replaces_it(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        leader, follower = member("leader"), member("follower")
        fill(follower, count=5)
        last = fill(leader)
        switch.mark_diverged(config(tmp_path / "follower"), "it differs")
        receiver = StateReceiver(config(tmp_path / "follower"), store_id(follower))
        transfer(StateSender(leader.store, leader.log, leader.secret), receiver)
        receiver.seal()
        receiver.install(follower.log.last_zxid)
        close(follower)
        parts = member("follower")
        assert (parts.applier.zxid, parts.log.last_zxid, parts.log.segments) == (last, last, [])
        assert not switch.has_diverged(config(tmp_path / "follower"))

    def test_alone_it_does_not_start(self, member: Callable[..., Recovered], tmp_path: Path) -> None:
        close(member("a"))
        switch.mark_diverged(config(tmp_path / "a"), "it differs")
        with pytest.raises(StartupError, match="differs from that of the ensemble"):
            recover(config(tmp_path / "a"))


def test_a_promise_older_than_the_log_is_noticed(member: Callable[..., Recovered], tmp_path: Path) -> None:
    """From a backup, for instance: what was promised since is not known."""
    parts = member("a")
    promise = tmp_path / "a" / "promise"
    before = promise.read_bytes()
    assert parts.epochs is not None
    parts.epochs.save(5, 2)
    write(parts, [opening(5)])
    close(parts)
    promise.write_bytes(before)
    with pytest.raises(StartupError, match="older than this server's log"):
        member("a")
