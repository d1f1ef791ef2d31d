"""A leader's batch waits for those who were just answered, where that is of use, and for nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from members import Ensemble, connect
from parts import Peer
from support import wire

WRITE = wire.set_data("/", b"x")


@pytest.fixture
def ensemble(tmp_path: Path) -> Iterator[Ensemble]:
    with Ensemble(tmp_path) as made:
        made.start()
        yield made


def clients(ensemble: Ensemble, number: int, count: int) -> list[Peer]:
    """Clients of a server, with their sessions."""
    return [connect(ensemble, number) for _ in range(count)]


def let_wait(ensemble: Ensemble, *, seconds: float) -> None:
    """Have a batch that waits do so for as long, however slow the test is."""
    assert ensemble.leader is not None
    gathering = ensemble.leader.parts.pipeline.gathering
    gathering.cycle_ns = gathering.most_ns = int(seconds * 1e9)


def sizes(ensemble: Ensemble) -> list[int]:
    """How many writes each batch has."""
    assert ensemble.leader is not None
    return [batch.last - batch.first + 1 for batch in ensemble.leader.history]


def rounds(ensemble: Ensemble, peers: list[Peer], count: int) -> None:
    """All write, wait for their answers, and write again."""
    for _ in range(count):
        for peer in peers:
            peer.send(WRITE)
        for member in ensemble.followers:
            member.turn()
            member.send()
        ensemble.settle()
        assert all(len(peer.replies()) == 1 for peer in peers)


def test_a_batch_waits_until_those_are_back_who_were_answered(ensemble: Ensemble) -> None:
    near, far = clients(ensemble, 1, 4), clients(ensemble, 2, 4)
    rounds(ensemble, near + far, 8)
    let_wait(ensemble, seconds=1000)
    leader, follower = ensemble.members[1], ensemble.members[2]
    before = sizes(ensemble)
    for peer in near:
        peer.send(WRITE)
    leader.turn()
    assert sizes(ensemble) == before
    for peer in far:
        peer.send(WRITE)
    follower.turn()
    follower.send()
    leader.turn()
    assert sizes(ensemble) == [*before, 8]
    ensemble.settle()
    assert all(len(peer.replies()) == 1 for peer in near + far)


def test_it_does_not_wait_for_ever(ensemble: Ensemble) -> None:
    near, far = clients(ensemble, 1, 4), clients(ensemble, 2, 4)
    rounds(ensemble, near + far, 8)
    let_wait(ensemble, seconds=0.002)
    before = sizes(ensemble)
    for peer in near:
        peer.send(WRITE)
    ensemble.settle()
    assert sum(sizes(ensemble)[len(before) :]) == 4
    assert all(len(peer.replies()) == 1 for peer in near)


def test_one_that_does_not_come_back_is_not_waited_for(ensemble: Ensemble) -> None:
    peers = clients(ensemble, 1, 4) + clients(ensemble, 2, 4)
    rounds(ensemble, peers, 8)
    let_wait(ensemble, seconds=1000)
    before = sizes(ensemble)
    for peer in peers[:-1]:
        peer.send(WRITE)
    ensemble.settle(wait=False)
    assert sum(sizes(ensemble)[len(before) :]) == 7


def test_one_client_alone_never_waits(ensemble: Ensemble) -> None:
    (peer,) = clients(ensemble, 1, 1)
    let_wait(ensemble, seconds=1000)
    for _ in range(20):
        peer.send(WRITE)
        ensemble.settle(wait=False)
        assert len(peer.replies()) == 1
    assert sizes(ensemble)[-20:] == [1] * 20


def test_nobody_waits_for_clients_that_have_other_things_to_do(ensemble: Ensemble) -> None:
    peers = clients(ensemble, 1, 8)
    rounds(ensemble, peers, 8)
    for _ in range(4):  # two by two, each with pauses of four batches
        for at in range(0, 8, 2):
            rounds(ensemble, peers[at : at + 2], 1)
    let_wait(ensemble, seconds=1000)
    for at in range(0, 8, 2):
        peers[at].send(WRITE)
        peers[at + 1].send(WRITE)
        ensemble.settle(wait=False)
        assert len(peers[at].replies()) == len(peers[at + 1].replies()) == 1


def test_batches_that_overlap_come_together(ensemble: Ensemble) -> None:
    """One leaves with its first writer, and the others write meanwhile: as a crowd begins."""
    peers = clients(ensemble, 1, 6)
    let_wait(ensemble, seconds=0.002)
    leader = ensemble.members[1]
    for _ in range(8):
        for group in (peers[:1], peers[1:]):  # the second batch leaves before the first is committed
            for peer in group:
                peer.send(WRITE)
            leader.turn()
            leader.sync_disk()
            leader.turn()
        ensemble.settle()
        assert all(len(peer.replies()) == 1 for peer in peers)
    let_wait(ensemble, seconds=1000)
    before = sizes(ensemble)
    for peer in peers[:3]:
        peer.send(WRITE)
        leader.turn()
    assert sizes(ensemble) == before


def test_many_writes_do_not_wait(ensemble: Ensemble) -> None:
    peers = clients(ensemble, 1, 8)
    rounds(ensemble, peers, 8)
    let_wait(ensemble, seconds=1000)
    before = sizes(ensemble)
    for _ in range(64):
        peers[0].send(WRITE)
    ensemble.settle(wait=False)
    assert sum(sizes(ensemble)[len(before) :]) == 64


def test_a_new_leader_knows_nothing_of_the_old_ones_clients(ensemble: Ensemble) -> None:
    near = clients(ensemble, 1, 8)
    rounds(ensemble, near, 8)
    let_wait(ensemble, seconds=1000)
    for peer in near:
        peer.send(WRITE)
    ensemble.lose_leader()
    ensemble.elect(1)
    ensemble.settle()
    (peer,) = clients(ensemble, 1, 1)
    peer.send(WRITE)
    ensemble.settle(wait=False)
    assert len(peer.replies()) == 1
