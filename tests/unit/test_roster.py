"""Which membership a server begins with, and who may stand for election."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastzk.server.ensemble_config import EnsembleConfig
from fastzk.server.errors import StartupError
from fastzk.server.recovery import Recovered
from fastzk.server.roster import recovered_memberships
from fastzk.server.zab.core import Core
from fastzk.server.zab.quorum import Membership
from fastzk.server.zab.role import Timing


def membership(*servers: int, version: int = 0, more: str = "") -> Membership:
    lines = [f"server.{i}=h{i}:1:2" for i in servers]
    return Membership.parse("\n".join([*lines, more, f"version={version:x}"]))


FILES = membership(1, 2, 3)


def begin(
    stored: bytes, *logged: Membership, committed: int = 0
) -> tuple[Membership, tuple[int, Membership] | None]:
    config = EnsembleConfig(my_id=1, membership=FILES, init_limit=10, sync_limit=5)
    memberships = [(each.version, each.text().encode()) for each in logged]
    recovered = SimpleNamespace(
        tree=SimpleNamespace(data={b"/zookeeper/config": stored}.get),
        epochs=SimpleNamespace(membership=committed),
        memberships=memberships,
    )
    return recovered_memberships(config, cast(Recovered, recovered))


def test_a_new_server_begins_with_its_files() -> None:
    assert begin(b"") == (FILES, None)


def test_what_is_stored_counts_more_than_files() -> None:
    stored = membership(1, 2, 3, 4, version=7)
    assert begin(stored.text().encode()) == (stored, None)


def test_one_in_the_log_may_not_be_committed() -> None:
    stored, logged = membership(1, 2, 3, version=7), membership(1, 2, version=9)
    assert begin(stored.text().encode(), logged) == (stored, (9, logged))
    assert begin(b"", logged) == (FILES, (9, logged))


def test_of_two_in_the_log_the_first_was_committed() -> None:
    stored, first, second = (membership(1, 2, 3, i, version=i) for i in (7, 8, 9))
    assert begin(stored.text().encode(), first, second) == (first, (9, second))


def test_one_in_the_log_is_known_to_be_committed() -> None:
    stored, first, second = (membership(1, 2, 3, i, version=i) for i in (7, 8, 9))
    assert begin(stored.text().encode(), first, committed=8) == (first, None)
    assert begin(stored.text().encode(), first, committed=7) == (stored, (8, first))
    assert begin(stored.text().encode(), first, second, committed=8) == (first, (9, second))


@pytest.mark.parametrize("stored", [b"nonsense", b"server.1=h:1:2\nversion=zz", b"\xff\xfe"])
def test_something_else_in_the_znode_stops_the_start(stored: bytes) -> None:
    with pytest.raises(StartupError, match="/zookeeper/config"):
        begin(stored)


class NoHistory:
    """A log without anything in it."""

    last_zxid = base_zxid = 0


@pytest.mark.parametrize(("server", "electable"), [(1, True), (4, False)])
def test_a_vote_without_weight_does_not_stand_for_election(server: int, electable: bool) -> None:
    groups = "group.1=1:2:3:4\nweight.1=1\nweight.2=1\nweight.3=1\nweight.4=0"
    core = Core(
        server,
        membership(1, 2, 3, 4, more=groups),
        cast(Any, NoHistory()),
        commit=0,
        promise=(0, -1),
        pending=None,
        inspect=lambda _: None,
        timing=Timing(heartbeat=50, sync_limit=1000, init_limit=2000),
        random=Random(1),
        now_ms=0,
    )
    assert core.voter
    assert core.electable is electable
    for peer in {1, 2, 3, 4} - {server}:
        core.connected(peer)
    for now in range(0, 1000, 10):
        core.tick(now)
    assert bool(core.take()) is electable
