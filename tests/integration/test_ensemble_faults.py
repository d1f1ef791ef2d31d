"""Ensembles of three and five real servers under load, while servers are killed, paused and cut off.

``FASTZK_FAULT_ROUNDS=10`` repeats every fault (one round otherwise), ``FASTZK_FAULT_SEED`` chooses other servers and
moments, ``FASTZK_TEST_SERVER=zookeeper`` runs all of it against Apache ZooKeeper, to check the tests. There the checks
of what ZooKeeper does not promise, or does wrong, are left out: see ``FASTZK_ONLY``.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import wire
from support.ensemble_load import EnsembleLoad
from support.ensembles import SYNC_LIMIT, Ensemble, eventually
from support.servers import ServerFailed
from support.wire import EPHEMERAL, Closed, Session, WireError, ZkError

KIND = os.environ.get("FASTZK_TEST_SERVER", "fastzk")
ROUNDS = int(os.environ.get("FASTZK_FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("FASTZK_FAULT_SEED", "1"))
#: Apache ZooKeeper answers a sync without asking a quorum whether it leads, and knows no quiet candidates.
FASTZK_ONLY = KIND == "fastzk"

SESSION_MOVED = -118

Fault = Callable[[Ensemble, EnsembleLoad, random.Random], None]


# ---- faults, each of which ends with all servers running and connected


def kill_follower(ensemble: Ensemble, load: EnsembleLoad, rnd: random.Random) -> None:
    victim = rnd.choice(ensemble.followers())
    ensemble.kill9(victim)
    load.wait_for_writes(200)
    ensemble.launch(victim)


def kill_leader(ensemble: Ensemble, load: EnsembleLoad, rnd: random.Random) -> None:
    victim = ensemble.leader()
    ensemble.kill9(victim)
    load.wait_for_writes(200)
    ensemble.launch(victim)


def kill_leader_and_minority(ensemble: Ensemble, load: EnsembleLoad, rnd: random.Random) -> None:
    """As many as an ensemble survives, the leader among them, and they are back before they are missed."""
    followers = ensemble.followers()
    victims = [ensemble.leader(), *rnd.sample(followers, len(ensemble.voters) - ensemble.quorum - 1)]
    ensemble.kill9(*victims)
    if rnd.random() < 0.5:
        load.wait_for_writes(200)
    ensemble.launch(*victims)


def kill_all(ensemble: Ensemble, load: EnsembleLoad, rnd: random.Random) -> None:
    ensemble.kill9(*ensemble.ids)
    order = list(ensemble.ids)
    rnd.shuffle(order)
    ensemble.launch(*order)


def pause_leader(ensemble: Ensemble, load: EnsembleLoad, rnd: random.Random) -> None:
    """Longer than the sync limit, so that another one leads when it wakes up."""
    victim = ensemble.leader()
    ensemble.pause(victim)
    ensemble.leader(other_than=victim)
    load.wait_for_writes(200)
    ensemble.resume(victim)


def cut_follower(ensemble: Ensemble, load: EnsembleLoad, rnd: random.Random) -> None:
    leader, victim = ensemble.leader(), rnd.choice(ensemble.followers())
    ensemble.cut(leader, victim)
    time.sleep(SYNC_LIMIT + 0.5)
    load.wait_for_writes(200)
    ensemble.heal()


def deafen_follower(ensemble: Ensemble, load: EnsembleLoad, rnd: random.Random) -> None:
    """It hears nothing from the leader, who hears it."""
    leader, victim = ensemble.leader(), rnd.choice(ensemble.followers())
    ensemble.cut_one_way(leader, victim)
    time.sleep(SYNC_LIMIT + 0.5)
    load.wait_for_writes(200)
    ensemble.heal()


def mute_follower(ensemble: Ensemble, load: EnsembleLoad, rnd: random.Random) -> None:
    """The leader hears nothing from it, but it hears the leader."""
    leader, victim = ensemble.leader(), rnd.choice(ensemble.followers())
    ensemble.cut_one_way(victim, leader)
    time.sleep(SYNC_LIMIT + 0.5)
    load.wait_for_writes(200)
    ensemble.heal()


def isolate_leader(ensemble: Ensemble, load: EnsembleLoad, rnd: random.Random) -> None:
    victim = ensemble.leader()
    ensemble.isolate(victim)
    eventually(lambda: ensemble.mode(victim) != "leader", "a leader that is cut off gives up", ensemble)
    load.wait_for_writes(200)
    ensemble.heal()


def rolling_restart(ensemble: Ensemble, load: EnsembleLoad, rnd: random.Random) -> None:
    leader = ensemble.leader()
    for i in [*(i for i in ensemble.ids if i != leader), leader]:
        ensemble.terminate(i)
        ensemble.launch(i)
        ensemble.wait_serving(i)
        load.wait_for_writes(50)


ON_LINKS: list[Fault] = [cut_follower, deafen_follower, mute_follower, isolate_leader]
FAULTS: list[Fault] = [
    *(kill_follower, kill_leader, kill_leader_and_minority, kill_all, pause_leader, rolling_restart),
    *ON_LINKS,
]


#: After these the leader leads on, in the same epoch: a server that comes back disturbs nobody.
QUIET: list[Fault] = [cut_follower, deafen_follower, mute_follower]
#: With one round, five servers meet only what is something else to them than to three.
CASES = [(fault, 3) for fault in FAULTS]
CASES += [
    (fault, 5)
    for fault in FAULTS
    if ROUNDS > 1 or fault in {kill_leader_and_minority, kill_all, pause_leader, cut_follower, isolate_leader}
]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "size"), CASES, ids=[f"{fault.__name__}-{size}" for fault, size in CASES])
def test_nothing_acknowledged_is_lost(fault: Fault, size: int, tmp_path: Path) -> None:
    rnd = random.Random(f"{SEED} {fault.__name__} {size}")
    with Ensemble(KIND, tmp_path, size, proxied=fault in ON_LINKS) as ensemble:
        ensemble.start()
        for turn in range(ROUNDS):
            load = EnsembleLoad(ensemble, seed=SEED * 1000 + turn)
            load.start()
            load.wait_for_writes(rnd.randint(20, 400))
            before = leadership(ensemble)
            fault(ensemble, load, rnd)
            ensemble.wait_serving()
            if fault in QUIET and FASTZK_ONLY:
                assert leadership(ensemble) == before, ensemble.explain("another leader, or another epoch")
            load.wait_for_writes(200)
            load.stop()
            load.verify(fresh_syncs=FASTZK_ONLY)
            load.close()
            print(
                f"{fault.__name__}: {load.acknowledged} writes, longest gap {load.longest_gap() * 1000:.0f} ms,"
                f" {sum(c.attached for c in load.clients)} sessions attached elsewhere"
            )


def leadership(ensemble: Ensemble) -> tuple[int, int]:
    """Who leads, and the epoch."""
    leader = ensemble.leader()
    with ensemble.session(leader) as session:
        return leader, session.set("/keys", b"").mzxid >> 32


# ---- sessions, watches, and what a client may see


class SharedEnsemble:
    """Three servers for many tests, replaced by three others should a test leave them in a bad state."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._ensemble: Ensemble | None = None

    def get(self) -> Ensemble:
        """All in good health."""
        if self._ensemble is None:
            self._ensemble = Ensemble(KIND, self._factory.mktemp("shared"), 3, proxied=True)
        ensemble = self._ensemble
        try:
            ensemble.heal()
            for i in list(ensemble.paused):
                ensemble.resume(i)
            ensemble.launch()
            ensemble.wait_serving()
        except ServerFailed:
            self.discard()
            raise
        return ensemble

    def discard(self) -> None:
        if self._ensemble is not None:
            self._ensemble.discard()
            self._ensemble = None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedEnsemble]:
    ensemble = SharedEnsemble(tmp_path_factory)
    yield ensemble
    ensemble.discard()


@pytest.fixture
def ensemble(shared: SharedEnsemble) -> Ensemble:
    return shared.get()


@pytest.fixture
def root(ensemble: Ensemble, request: pytest.FixtureRequest) -> str:
    """A fresh znode for this test, which every server has."""
    path = f"/{request.node.name.replace('/', '-')}-{time.monotonic_ns()}"
    with ensemble.session(ensemble.leader()) as session:
        session.create(path)
    for i in ensemble.ids:
        with ensemble.session(i) as session:
            session.sync(path)
    return path


def seen(ensemble: Ensemble, member: int, path: str) -> wire.Stat | None:
    """What the server knows of a znode, behind a sync."""
    with ensemble.session(member) as session:
        session.sync(path)
        return session.exists(path)


def test_a_session_outlives_its_server(ensemble: Ensemble, root: str) -> None:
    victim, leader = ensemble.followers()[0], ensemble.leader()
    session = ensemble.session(victim)
    session.create(f"{root}/mine", b"", EPHEMERAL)
    ensemble.kill9(victim)
    again = ensemble.attach_soon(session, leader)
    assert again.session_id == session.session_id
    assert again.stat(f"{root}/mine").ephemeral_owner == session.session_id
    again.set(f"{root}/mine", b"still here")
    again.drop()
    # and once more, to a server that is new to the session, after the death of the leader that knows it
    ensemble.launch(victim)
    ensemble.wait_serving(victim)
    ensemble.kill9(leader)
    ensemble.leader(other_than=leader)
    third = ensemble.attach_soon(again, victim)
    assert third.get(f"{root}/mine")[0] == b"still here"
    third.create(f"{root}/second", b"", EPHEMERAL)
    ensemble.launch(leader)
    ensemble.wait_serving()
    for i in ensemble.ids:
        stat = seen(ensemble, i, f"{root}/second")
        assert stat is not None
        assert stat.ephemeral_owner == session.session_id
    third.close()
    for i in ensemble.ids:
        assert seen(ensemble, i, f"{root}/mine") is None
        assert seen(ensemble, i, f"{root}/second") is None
    with pytest.raises(wire.Refused):
        ensemble.attach(session, victim)


def test_an_expired_session_is_gone_everywhere(ensemble: Ensemble, root: str) -> None:
    session = ensemble.session(ensemble.followers()[0], timeout_ms=2000)
    assert session.timeout_ms == 2000
    session.create(f"{root}/mine", b"", EPHEMERAL)
    dropped = time.monotonic()
    session.drop()
    with ensemble.session(ensemble.leader()) as watcher:
        assert watcher.exists(f"{root}/mine", watch=True) is not None
        assert watcher.event() == (wire.DELETED, 3, f"{root}/mine")
    lasted = time.monotonic() - dropped
    # it was heard of, at the latest, half a tick before it was dropped
    assert 1.4 < lasted < 6, ensemble.explain(f"expired {lasted:.2f} s after its connection")
    for i in ensemble.ids:
        assert seen(ensemble, i, f"{root}/mine") is None
        with pytest.raises(wire.Refused):
            ensemble.attach(session, i)


def test_a_session_in_use_does_not_expire(ensemble: Ensemble, root: str) -> None:
    """Pings to a follower reach the leader's clock, too."""
    sessions = [ensemble.session(i, timeout_ms=2000) for i in ensemble.ids]
    for i, session in enumerate(sessions):
        session.create(f"{root}/{i}", b"", EPHEMERAL)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        for session in sessions:
            session.ping()
        time.sleep(0.3)
    for i, session in enumerate(sessions):
        assert session.stat(f"{root}/{i}").ephemeral_owner == session.session_id
        session.close()


def test_a_new_leader_gives_sessions_their_full_timeout(ensemble: Ensemble, root: str) -> None:
    leader, survivor = ensemble.leader(), ensemble.followers()[0]
    session = ensemble.session(survivor, timeout_ms=4000)
    session.create(f"{root}/mine", b"", EPHEMERAL)
    session.drop()
    time.sleep(2.5)
    ensemble.kill9(leader)
    ensemble.leader(other_than=leader)
    leads_since = time.monotonic()
    ensemble.wait_serving(survivor)
    with ensemble.session(survivor) as watcher:
        assert watcher.exists(f"{root}/mine", watch=True) is not None
        assert watcher.event() == (wire.DELETED, 3, f"{root}/mine")
    assert time.monotonic() - leads_since > 3.0, ensemble.explain("expired before its timeout")
    ensemble.launch(leader)
    ensemble.wait_serving()
    for i in ensemble.ids:
        assert seen(ensemble, i, f"{root}/mine") is None


def test_watches_are_set_again_elsewhere(ensemble: Ensemble, root: str) -> None:
    """What changed in between is told at once, what changes later, later; nothing is told twice."""
    victim, other = ensemble.followers()[0], ensemble.leader()
    session = ensemble.session(victim)
    for name in ("changed", "same", "deleted", "parent"):
        session.create(f"{root}/{name}")
    for name in ("changed", "same", "deleted"):
        session.get(f"{root}/{name}", watch=True)
    assert session.exists(f"{root}/created", watch=True) is None
    assert session.exists(f"{root}/never", watch=True) is None
    session.children(f"{root}/parent", watch=True)
    session.ping()
    ensemble.kill9(victim)
    with ensemble.session(other) as writer:
        writer.set(f"{root}/changed", b"new")
        writer.delete(f"{root}/deleted")
        writer.create(f"{root}/created")
        writer.create(f"{root}/parent/child")
    again = ensemble.attach_soon(session, other)
    again.set_watches(
        session.last_zxid,
        [f"{root}/changed", f"{root}/same", f"{root}/deleted"],
        [f"{root}/created", f"{root}/never"],
        [f"{root}/parent"],
    )
    assert {event[::2] for event in again.pending_events()} == {
        (wire.DATA_CHANGED, f"{root}/changed"),
        (wire.DELETED, f"{root}/deleted"),
        (wire.CREATED, f"{root}/created"),
        (wire.CHILDREN_CHANGED, f"{root}/parent"),
    }
    third = next(i for i in ensemble.followers() if i != victim)
    with ensemble.session(third) as writer:
        writer.set(f"{root}/same", b"now")
        writer.create(f"{root}/never")
        writer.set(f"{root}/changed", b"again")
    again.sync(root)
    assert [event[::2] for event in again.pending_events()] == [
        (wire.DATA_CHANGED, f"{root}/same"),
        (wire.CREATED, f"{root}/never"),
    ]
    again.close()


def test_session_moved(ensemble: Ensemble, root: str) -> None:
    """The connection that a session has left can change nothing any more."""
    one, two = ensemble.followers()
    for source, target in ((one, two), (two, ensemble.leader()), (ensemble.leader(), one)):
        old = ensemble.session(source)
        path = old.create(f"{root}/{source}-{target}", b"")
        new = ensemble.attach_soon(old, target)
        new.set(path, b"new")
        try:
            error = old.error(wire.set_data(path, b"old"))
        except Closed:
            error = SESSION_MOVED
        assert error == SESSION_MOVED
        assert new.get(path)[0] == b"new"
        old.drop()
        # the end of the old connection is not the end of the session
        new.set(path, b"newer")
        new.close()


def test_a_read_behind_a_sync_sees_every_write(ensemble: Ensemble, root: str) -> None:
    """On every server, many times, with three changes of the leader in between."""
    rnd = random.Random(SEED)
    path = f"{root}/counter"
    with ensemble.session(ensemble.leader()) as session:
        session.create(path)
    counter = 0
    for turn in range(4 * ROUNDS):
        sessions = {i: ensemble.session(i, timeout=10) for i in ensemble.ids}
        for _ in range(50):
            writer, reader = rnd.choice(ensemble.ids), rnd.choice(ensemble.ids)
            counter += 1
            sessions[writer].set(path, str(counter).encode())
            xids = sessions[reader].send(wire.sync(path), wire.get_data(path))
            replies = [sessions[reader].reply() for _ in xids]
            value = wire.Reader(replies[1].body).buffer()
            assert value is not None
            assert int(value) == counter, f"server {reader} behind server {writer}, turn {turn}"
        for session in sessions.values():
            session.close()
        if turn % 4 < 3:
            leader = ensemble.leader()
            ensemble.kill9(leader)
            ensemble.leader(other_than=leader)
            ensemble.launch(leader)
            ensemble.wait_serving()


def replies_of(session: Session, count: int) -> list[wire.Reply]:
    """Up to so many replies, fewer if the connection ends."""
    found = []
    with contextlib.suppress(WireError, struct.error):
        found.extend(session.reply() for _ in range(count))
    return found


def test_a_deposed_leader_acknowledges_nothing(ensemble: Ensemble, root: str) -> None:
    """It sleeps while another one takes its place; what lies in its sockets it reads as if nothing had happened."""
    path = f"{root}/value"
    with ensemble.session(ensemble.leader()) as session:
        session.create(path, b"first")
    for turn in range(ROUNDS):
        old = ensemble.leader()
        sessions = [ensemble.session(old, timeout=15) for _ in range(4)]
        for session in sessions:
            session.ping()
        ensemble.pause(old)
        new = ensemble.leader(other_than=old)
        with ensemble.session(new) as session:
            newest = session.set(path, f"new {turn}".encode()).mzxid
        sessions[0].send(wire.set_data(path, b"from the past"), wire.sync(path), wire.get_data(path))
        sessions[1].send(wire.sync(path), wire.get_data(path))
        sessions[2].send(wire.create(f"{root}/late-{turn}"))
        sessions[3].send(wire.get_data(path), wire.sync(path), wire.get_data(path))
        ensemble.resume(old)
        writes, reads = replies_of(sessions[0], 3), replies_of(sessions[1], 2)
        creates, both = replies_of(sessions[2], 1), replies_of(sessions[3], 3)
        ensemble.wait_serving(old)
        with ensemble.session(ensemble.leader()) as session:
            if writes and not writes[0].err:
                # It may become a follower quickly enough to hand the write on: then it has happened.
                assert writes[0].zxid > newest
                assert session.get(path)[0] == b"from the past"
            elif not writes:
                assert session.get(path)[0] in {b"from the past", f"new {turn}".encode()}
            if creates and not creates[0].err:
                assert creates[0].zxid > newest
                assert session.exists(f"{root}/late-{turn}") is not None
        if FASTZK_ONLY:
            for synced in (writes[1:], reads, both[1:]):
                if len(synced) == 2 and not synced[0].err:
                    reader = wire.Reader(synced[1].body)
                    data = reader.buffer()
                    assert reader.stat().mzxid >= newest, f"a read behind a sync gave {data!r}, turn {turn}"
        for session in sessions:
            session.drop()
    ensemble.assert_same_trees()


def test_a_lagging_server_refuses_who_has_seen_more(ensemble: Ensemble, root: str) -> None:
    leader, lagging = ensemble.leader(), ensemble.followers()[0]
    session = ensemble.session(leader)
    session.create(f"{root}/before")
    assert seen(ensemble, lagging, f"{root}/before") is not None
    ensemble.cut_one_way(leader, lagging)
    session.create(f"{root}/after")
    try:
        attached = ensemble.attach(session, lagging, timeout=0.8)
    except WireError:
        pass
    else:
        # it may have caught up in some other way, but never show less than the client has seen
        assert attached.exists(f"{root}/after") is not None
        attached.drop()
    ensemble.heal()
    again = ensemble.attach_soon(session, lagging)
    assert again.exists(f"{root}/after") is not None
    again.close()


def test_without_a_quorum_nothing_is_acknowledged(ensemble: Ensemble, root: str) -> None:
    leader = ensemble.leader()
    session = ensemble.session(leader, timeout=SYNC_LIMIT + 4)
    ensemble.kill9(*ensemble.followers())
    with pytest.raises((WireError, ZkError)):
        session.create(f"{root}/unheard")
    session.drop()
    eventually(lambda: ensemble.mode(leader) not in {"leader", "follower"}, "no quorum, no service", ensemble)
    ensemble.launch()
    ensemble.wait_serving()
    # now it may be there or not, but on all servers alike
    assert len({seen(ensemble, i, f"{root}/unheard") for i in ensemble.ids}) == 1
    ensemble.assert_same_trees()


def test_observers(tmp_path: Path) -> None:
    """They serve reads and writes, and do not count for the quorum."""
    with Ensemble(KIND, tmp_path, 3, observers=1) as ensemble:
        ensemble.start()
        (observer,) = ensemble.observers
        assert ensemble.mode(observer) == "observer"
        with ensemble.session(observer) as session:
            session.create("/a", b"by the observer")
            session.create("/ephemeral", b"", EPHEMERAL)
            assert session.get("/a")[0] == b"by the observer"
        tree = ensemble.assert_same_trees()
        assert "/a" in tree
        assert "/ephemeral" not in tree
        leader = ensemble.leader()
        ensemble.kill9(leader)
        ensemble.leader(other_than=leader)
        ensemble.wait_serving(observer)
        with ensemble.session(observer) as session:
            session.set("/a", b"under a new leader")
            ensemble.kill9(ensemble.followers()[0])
            with pytest.raises((WireError, ZkError)):
                session.set("/a", b"by one participant and an observer")
        ensemble.launch()
        ensemble.wait_serving()
        ensemble.assert_same_trees()
