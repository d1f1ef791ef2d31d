"""A leader goes on in a later epoch: what the broadcast takes from its owner meanwhile."""

from __future__ import annotations

from random import Random

import pytest
from simulation.history import ListHistory

from fastzk.server.zab.actions import Lead, Rolled
from fastzk.server.zab.core import Core
from fastzk.server.zab.messages import Proposal
from fastzk.server.zab.quorum import Membership
from fastzk.server.zab.role import InvariantViolation, Timing


def batch(epoch: int, counter: int) -> Proposal:
    zxid = epoch << 32 | counter
    return Proposal(zxid, zxid, 1, b"")


def alone() -> Core:
    """A server that is a quorum, and leads."""
    core = Core(
        1,
        Membership.parse("server.1=a:1:2"),
        ListHistory(0, []),
        commit=0,
        promise=(0, -1),
        pending=None,
        inspect=lambda _: None,
        timing=Timing(heartbeat=50, sync_limit=1000, init_limit=2000),
        random=Random(1),
        now_ms=0,
    )
    for now in range(0, 100, 5):
        core.tick(now)
    assert Lead(1) in core.take()
    core.propose(batch(1, 1))
    core.persisted(1 << 32 | 1)
    return core


def test_batches_made_before_the_owner_knows_go_before_the_opening() -> None:
    core = alone()
    leading = core.leading
    assert leading is not None
    leading.roll()
    assert leading.epoch == 2
    core.propose(batch(1, 2))  # `Rolled` is not carried out yet
    assert Rolled(2) in core.take()
    core.propose(batch(2, 1))
    core.persisted(2 << 32 | 1)
    assert core.commit == 2 << 32 | 1


def test_nothing_of_the_former_epoch_comes_behind_the_opening() -> None:
    core = alone()
    assert core.leading is not None
    core.leading.roll()
    core.take()
    core.propose(batch(2, 1))
    with pytest.raises(InvariantViolation):
        core.propose(batch(1, 2))
    with pytest.raises(InvariantViolation):
        core.propose(batch(3, 1))
