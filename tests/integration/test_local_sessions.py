"""Local sessions: they live on one server, until they need more. Real processes.

``FASTZK_TEST_SERVER=zookeeper`` runs it against Apache ZooKeeper, but for what that does otherwise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from support import wire
from support.ensembles import Ensemble, eventually
from support.wire import Closed, Refused, Session

KIND = os.environ.get("FASTZK_TEST_SERVER", "fastzk")
FASTZK_ONLY = KIND == "fastzk"
EPHEMERAL_ON_LOCAL_SESSION = -120
RUNTIME_INCONSISTENCY = -2


def started(factory: pytest.TempPathFactory, **config: str) -> Iterator[Ensemble]:
    with Ensemble(KIND, factory.mktemp("local"), 3, config={"localSessionsEnabled": "true", **config}) as ensemble:
        yield ensemble.start()


@pytest.fixture(scope="module")
def upgrading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    yield from started(tmp_path_factory, localSessionsUpgradingEnabled="true")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    yield from started(tmp_path_factory)


def zxid(ensemble: Ensemble, member: int) -> int:
    return int(ensemble.word(member, "srvr").split("Zxid: ")[1].split()[0], 16)


def sessions(ensemble: Ensemble, member: int) -> tuple[int, int]:
    """How many are local and how many global, as that server counts."""
    values = dict(line.split("\t") for line in ensemble.word(member, "mntr").splitlines() if "_sessions\t" in line)
    return int(values["zk_local_sessions"]), int(values["zk_global_sessions"])


def moved(ensemble: Ensemble, session: Session, member: int) -> Session:
    return ensemble.attach(session, member)


def test_beginning_and_end_cost_no_transaction(upgrading: Ensemble) -> None:
    for member in upgrading.ids:
        before, counted = zxid(upgrading, member), sessions(upgrading, member)
        with upgrading.session(member) as session:
            assert session.session_id >> 56 == member
            assert sessions(upgrading, member) == (counted[0] + 1, counted[1])
            assert f"\t0x{session.session_id:x}\n" in upgrading.word(member, "dump").partition("Global Session")[0]
            assert session.exists("/none") is None
        assert zxid(upgrading, member) == before
        assert sessions(upgrading, member) == counted


def test_writes_and_reads(upgrading: Ensemble) -> None:
    for member in upgrading.ids:
        with upgrading.session(member) as session:
            session.create(f"/w{member}", b"1")
            session.send(
                wire.set_data(f"/w{member}", b"2"),
                wire.get_data(f"/w{member}"),
                wire.create(f"/w{member}"),
                wire.sync("/"),
                wire.multi([wire.set_data(f"/w{member}", b"3"), wire.create(f"/w{member}/c")]),
                wire.get_data(f"/w{member}"),
                wire.delete(f"/w{member}/c"),
                wire.set_acl(f"/w{member}", wire.OPEN),
                wire.Request(wire.CLOSE_SESSION, b""),
            )
            replies = [session.reply() for _ in range(9)]
            assert [reply.err for reply in replies] == [0, 0, wire.NODE_EXISTS, 0, 0, 0, 0, 0, 0]
            assert [wire.Reader(replies[at].body).buffer() for at in (1, 5)] == [b"2", b"3"]
            session.assert_closed()


def test_going_on_elsewhere(upgrading: Ensemble) -> None:
    """Another server does not know it, and says so; where it lives it goes on."""
    session = upgrading.session(1)
    for member in (2, 3):
        with pytest.raises(Refused):
            moved(upgrading, session, member)
    assert session.exists("/none") is None
    again = moved(upgrading, session, 1)
    assert again.session_id == session.session_id
    session.assert_closed()
    again.create("/again")
    wrong = wire.Connection(upgrading[1].port).handshake(
        wire.connect_request(30_000, session.session_id, b"wrong".ljust(16))
    )
    assert (wrong.session_id, wrong.timeout_ms) == (0, 0)
    moved(upgrading, session, 1).close()
    with pytest.raises(Refused):
        moved(upgrading, session, 1)


@pytest.mark.skipif(not FASTZK_ONLY, reason="ZooKeeper 3.8 may leave requests around an upgrade unanswered")
@pytest.mark.parametrize("multi", [False, True])
def test_an_upgrade(upgrading: Ensemble, multi: bool) -> None:
    for member in upgrading.ids:
        path = f"/u{member}{multi}"
        counted = sessions(upgrading, member)
        session = upgrading.session(member)
        session.create(path)
        ephemeral = wire.create(f"{path}/e", flags=wire.EPHEMERAL)
        # with requests before and behind it under way
        session.send(
            wire.set_data(path, b"1"),
            wire.exists(f"{path}/e"),
            wire.multi([wire.check(path), ephemeral]) if multi else ephemeral,
            wire.exists(f"{path}/e"),
            wire.set_data(path, b"2"),
            wire.get_data(path),
        )
        replies = [session.reply() for _ in range(6)]
        assert [reply.err for reply in replies] == [0, wire.NO_NODE, 0, 0, 0, 0]
        assert wire.Reader(replies[3].body).stat().ephemeral_owner == session.session_id
        assert wire.Reader(replies[5].body).buffer() == b"2"
        assert sessions(upgrading, member) == (counted[0], counted[1] + 1)
        session.create(f"{path}/s", flags=wire.EPHEMERAL | wire.SEQUENTIAL)
        # from now on it may live anywhere
        other = member % 3 + 1
        elsewhere = upgrading.attach_soon(session, other)
        session.assert_closed()
        assert elsewhere.session_id == session.session_id
        assert sorted(elsewhere.children(path)) == ["e", "s0000000001"]
        before = zxid(upgrading, other)
        elsewhere.close()
        assert zxid(upgrading, other) > before
        with upgrading.session(other) as witness:
            witness.sync(path)
            assert witness.children(path) == []


def test_ephemerals_of_an_upgraded_session_go_when_it_expires(upgrading: Ensemble) -> None:
    session = upgrading.session(2, timeout_ms=1000)
    session.create("/gone", flags=wire.EPHEMERAL)
    with upgrading.session(3) as witness:
        for _ in range(20):  # touched for twice its timeout
            session.ping()
            time.sleep(0.1)
        witness.sync("/")
        assert witness.exists("/gone", watch=True) is not None
        session.drop()
        assert witness.event().path == "/gone"


@pytest.mark.parametrize("connected", [True, False])
def test_expiry(upgrading: Ensemble, connected: bool) -> None:
    before = zxid(upgrading, 3)
    session = upgrading.session(3, timeout_ms=1000)
    counted = sessions(upgrading, 3)
    for _ in range(15):  # touched for longer than its timeout
        session.ping()
        time.sleep(0.1)
    began = time.monotonic()
    if connected:
        session.assert_closed()
        assert time.monotonic() - began > 0.9
    else:
        session.drop()
        eventually(lambda: sessions(upgrading, 3)[0] == counted[0] - 1, "it expires", upgrading)
    with pytest.raises(Refused):
        moved(upgrading, session, 3)
    assert zxid(upgrading, 3) == before
    if FASTZK_ONLY:
        assert f"local session expired session=0x{session.session_id:x}" in upgrading[3].log_text()


def test_without_upgrading(strict: Ensemble) -> None:
    for member in strict.ids:
        with strict.session(member) as session:
            counted = sessions(strict, member)
            path = f"/s{member}"
            session.create(path)
            for flags in (wire.EPHEMERAL, wire.EPHEMERAL | wire.SEQUENTIAL):
                assert session.error(wire.create(f"{path}/e", flags=flags)) == EPHEMERAL_ON_LOCAL_SESSION
                assert session.error(wire.create2(f"{path}/e", flags=flags)) == EPHEMERAL_ON_LOCAL_SESSION
                assert session.error(wire.create("/none/e", flags=flags)) == EPHEMERAL_ON_LOCAL_SESSION
            result = session.multi(wire.set_data(path, b"x"), wire.create(f"{path}/e", flags=wire.EPHEMERAL))
            if FASTZK_ONLY:  # ZooKeeper says SessionExpired here, which would mislead
                assert [part.err for part in result] == [0, EPHEMERAL_ON_LOCAL_SESSION]
            assert session.get(path)[0] == b""
            assert session.children(path) == []
            assert sessions(strict, member) == counted


def test_a_local_session_is_lost_with_its_server(strict: Ensemble) -> None:
    member = strict.followers()[0]
    session = strict.session(member)
    strict.kill9(member)
    strict.launch(member)
    strict.wait_serving(member)
    for each in strict.ids:
        with pytest.raises(Refused):
            moved(strict, session, each)


@pytest.mark.skipif(not FASTZK_ONLY, reason="ZooKeeper's do not outlive a change of the leader")
def test_local_sessions_outlive_a_change_of_the_leader(upgrading: Ensemble) -> None:
    leader = upgrading.leader()
    upgraded, follower, *_ = [upgrading.session(member) for member in upgrading.followers() for _ in range(2)]
    upgraded.create("/upgraded", flags=wire.EPHEMERAL)
    at = [member for member in upgrading.ids if member != leader]
    other = upgrading.session(at[1])
    upgrading.kill9(leader)
    try:
        upgrading.leader(other_than=leader)
        for session in (upgraded, follower, other):
            try:
                session.create(f"/{session.session_id}")
            except Closed:  # it had to be asked just then
                upgrading.attach_soon(session, at[1] if session is other else at[0]).close()
                continue
            assert session.exists("/upgraded") is not None or session is other
        with upgrading.session(at[1]) as witness:
            witness.sync("/")
            assert witness.exists("/upgraded") is not None
    finally:
        upgrading.launch(leader)
        upgrading.wait_serving()
    upgrading.assert_same_trees()
