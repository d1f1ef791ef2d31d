"""Servers join and leave a running ensemble: the operation reconfig, against real processes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support import wire
from support.ensemble_load import EnsembleLoad
from support.ensembles import Ensemble, eventually
from support.servers import free_port
from support.wire import Request, Session, ZkError

RECONFIG = 16
CONFIG = "/zookeeper/config"

UNIMPLEMENTED, BAD_ARGUMENTS, NEW_CONFIG_NO_QUORUM = -6, -8, -13
NO_AUTH, BAD_VERSION, RECONFIG_DISABLED = -102, -103, -123

PASSWORD = "super:test"  # noqa: S105
SUPER = "super:" + base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
SETTINGS = {"reconfigEnabled": "true", "DigestAuthenticationProvider.superDigest": SUPER}


def request(
    joining: str | None = None, leaving: str | None = None, members: str | None = None, version: int = -1
) -> Request:
    body = wire.text(joining) + wire.text(leaving) + wire.text(members) + struct.pack(">q", version)
    return Request(RECONFIG, body)


def reconfig(session: Session, **asked: str) -> str:
    """The text of the new membership, after a look at the rest of the answer. Raises ZkError."""
    reader = session.ask(request(**asked))
    data, stat = reader.string(), reader.stat()
    reader.end()
    assert stat.version == -1
    assert stat.mzxid == version_of(data)
    return data


def refused(session: Session, **asked: str | int) -> int:
    with pytest.raises(ZkError) as error:
        session.ask(request(**asked))  # type: ignore[arg-type]
    return error.value.code


def version_of(text: str) -> int:
    return int(text.rpartition("version=")[2], 16)


def servers_in(text: str) -> list[int]:
    return [int(line[7:].partition("=")[0]) for line in text.splitlines() if line.startswith("server.")]


class Growing(Ensemble):
    """An ensemble whose other servers' files say nothing of those that join."""

    def line(self, member: int, *, observer: bool = False) -> str:
        """As it stands in a reconfiguration."""
        quorum, election = self.peer_ports[member]
        role = "observer" if observer else "participant"
        return f"server.{member}=127.0.0.1:{quorum}:{election}:{role};127.0.0.1:{self[member].port}"

    def prepare(self, member: int, *, observer: bool = False, config: Mapping[str, str | None] | None = None) -> None:
        """Files for a server more: it knows the others and itself."""
        self.peer_ports[member] = free_port(), free_port()
        self.ids.append(member)
        (self.observers if observer else self.voters).append(member)
        self._make(member, config or {})

    def grow(self, session: Session, member: int) -> None:
        """Start a server more, which joins by that session as a participant; returns when it serves."""
        self.prepare(member)
        self.launch(member)
        reconfig(session, joining=self.line(member))
        self.wait_serving(member)

    def forget(self, member: int) -> None:
        """It is not expected to serve any more."""
        for group in (self.ids, self.voters, self.observers):
            if member in group:
                group.remove(member)

    def admin(self, member: int) -> Session:
        session = self.session(member)
        assert session.add_auth("digest", PASSWORD.encode()).err == 0
        return session


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Growing]:
    with Growing("fastzk", tmp_path, 3, config=SETTINGS) as ensemble:
        ensemble.start()
        yield ensemble


def test_the_first_leader_writes_what_the_files_say(three: Growing) -> None:
    for member in three.ids:
        with three.session(member) as session:
            data, stat = session.get(CONFIG)
            acl, _ = session.get_acl(CONFIG)
        text = (data or b"").decode()
        assert servers_in(text) == [1, 2, 3]
        assert version_of(text) == 1 << 32
        assert (stat.version, stat.mzxid) == (-1, 1 << 32 | 1)
        assert acl == [wire.Acl(1, "world", "anyone")]
    three.assert_same_trees()


def test_wrong_requests(three: Growing) -> None:
    three.prepare(4, observer=True)
    line = three.line(4, observer=True)
    for member in (three.leader(), three.followers()[0]):
        with three.session(member) as session:
            before = session.get(CONFIG)
            assert refused(session, joining=line) == NO_AUTH
            assert refused(session, joining="some thing") == BAD_ARGUMENTS
            assert refused(session, joining=line, version=1 << 32 | 1) == BAD_VERSION
            assert refused(session, leaving="1,2") == BAD_ARGUMENTS
            unknown = ",".join(f"server.{i}=127.0.0.1:{100 + i}:{200 + i};{300 + i}" for i in (5, 6, 7, 8))
            assert refused(session, joining=unknown) == NEW_CONFIG_NO_QUORUM
            assert session.get(CONFIG) == before
        with three.admin(member) as session:
            assert session.error(wire.set_data(CONFIG, b"server.9=else:1:2")) == BAD_ARGUMENTS
            assert session.error(wire.multi([wire.set_data(CONFIG, b"")])) == 0
            assert session.error(wire.delete(CONFIG)) == BAD_ARGUMENTS
            assert session.get(CONFIG) == before


def test_who_may_reconfigure_is_in_the_acl(three: Growing) -> None:
    with three.admin(three.followers()[0]) as session:
        session.set_acl(CONFIG, [wire.Acl(3, "world", "anyone")])
    with three.session(three.leader()) as session:
        assert servers_in(reconfig(session, leaving="77")) == [1, 2, 3]


def test_an_observer_joins_and_becomes_a_participant(three: Growing) -> None:
    leader = three.leader()
    three.prepare(4, observer=True)
    with three.admin(three.followers()[0]) as session:
        text = reconfig(session, joining=three.line(4, observer=True))
        assert servers_in(text) == [1, 2, 3, 4]
        assert session.get(CONFIG)[0] == text.encode()
        three.launch(4)
        three.wait_serving(4)
        assert three.mode(4) == "observer"
        session.create("/seen")
        text = reconfig(session, joining=three.line(4))
        assert ":observer" not in text
    eventually(lambda: three.mode(4) == "follower", "server 4 votes", three)
    three.assert_same_trees()
    # Its vote counts: of four servers three are a quorum.
    others = [i for i in (1, 2, 3) if i != leader]
    three.kill9(others[0])
    with three.session(4) as session:
        session.create("/with-three")
    three.launch(others[0])
    three.wait_serving(others[0])
    # And it can be elected.
    three.kill9(leader)
    three.leader(other_than=leader)
    three.launch(leader)
    three.wait_serving()
    three.assert_same_trees()


def test_a_participant_joins_that_was_started_first(three: Growing) -> None:
    load = EnsembleLoad(three, 1)
    load.start()
    three.prepare(4)
    three.launch(4)
    load.wait_for_writes(100)
    with three.admin(three.leader()) as session:
        reconfig(session, joining=three.line(4))
    three.wait_serving(4)
    load.wait_for_writes(100)
    load.stop()
    load.verify()
    assert three.mode(4) == "follower"


def test_a_follower_leaves(three: Growing) -> None:
    leaver = three.followers()[0]
    with three.admin(leaver) as session:
        text = reconfig(session, leaving=str(leaver))  # it is told the outcome although it is its own end
        assert leaver not in servers_in(text)
    eventually(lambda: three.mode(leaver) is None, "the server that left serves nobody", three)
    eventually(lambda: "does not belong to the ensemble" in three[leaver].log_text(), "it says so", three)
    three.forget(leaver)
    three.wait_serving()
    # Both that are left are needed now, and the one that left does not disturb them, not even after a restart.
    three.kill9(leaver)
    three.launch(leaver)
    with three.session(three.leader()) as session:
        session.create("/two-left")
    eventually(lambda: "serving address" in three[leaver].log_text(), "it is started", three)
    assert three.mode(leaver) is None
    leader = three.leader()
    # It may come back.
    with three.admin(leader) as session:
        three.ids.append(leaver)
        three.voters.append(leaver)
        reconfig(session, joining=three.line(leaver))
    three.wait_serving(leaver)
    assert three.leader() == leader
    three.assert_same_trees()


def test_the_leader_leaves_under_load(three: Growing) -> None:
    leader = three.leader()
    with three.admin(leader) as session:
        three.grow(session, 4)
    load = EnsembleLoad(three, 1)
    load.start()
    load.wait_for_writes(200)
    with three.admin(leader) as session:
        assert leader not in servers_in(reconfig(session, leaving=str(leader)))
    load.wait_for_writes(200)
    load.stop()
    eventually(lambda: three.mode(leader) is None, "the former leader serves nobody", three)
    three.terminate(leader)
    three.forget(leader)
    assert three.leader(other_than=leader) != leader
    load.verify()


def test_everything_is_still_there_after_a_restart_of_all(three: Growing) -> None:
    with three.admin(1) as session:
        text = reconfig(session, leaving="1")
    three.kill9(1, 2, 3)
    three.forget(1)
    three.start()
    with three.session(2) as session:
        assert session.get(CONFIG)[0] == text.encode()


def test_who_is_left_does_not_ask_those_that_left(three: Growing) -> None:
    leader = three.leader()
    with three.admin(leader) as session:
        three.grow(session, 4)
        gone = three.followers()[:2]
        text = reconfig(session, leaving=",".join(map(str, gone)))
    # Nobody has made a checkpoint since: the log has the change, and does not say that it was committed.
    three.kill9(1, 2, 3, 4)
    for server in gone:
        three.forget(server)
    three.start()
    with three.session(leader) as session:
        assert session.get(CONFIG)[0] == text.encode()
        session.create("/two-left")


def test_a_whole_membership(three: Growing) -> None:
    with three.admin(2) as session:
        lines = ",".join([three.line(3), three.line(2), three.line(1, observer=True)])
        # If server 1 leads it may stop to before its answer is here: then the connection is closed, as after every
        # loss of a leader, and what became of the request shows below.
        with contextlib.suppress(wire.Closed):
            assert servers_in(reconfig(session, members=lines)) == [1, 2, 3]
    eventually(lambda: three.mode(1) == "observer", "server 1 observes", three)
    assert refused_by_all(three, RECONFIG_DISABLED) == []


def refused_by_all(ensemble: Growing, code: int) -> list[int]:
    """The servers that answer a reconfiguration with that error."""
    found = []
    for member in ensemble.ids:
        with ensemble.session(member) as session:
            if refused(session, joining="some thing") == code:
                found.append(member)
    return found


def test_without_reconfig_the_files_count(tmp_path: Path) -> None:
    settings = {**SETTINGS, "reconfigEnabled": "false"}
    with Growing("fastzk", tmp_path, 3, config=settings) as ensemble:
        ensemble.start()
        assert refused_by_all(ensemble, RECONFIG_DISABLED) == [1, 2, 3]
        with ensemble.session(1) as session:
            session.create("/before")
        # An operator adds a fourth server: to its own files, then to the others', which are restarted one by one.
        ensemble.prepare(4)
        ensemble.launch(4)
        for member in (1, 2, 3):
            ensemble.terminate(member)
            with ensemble[member].config_path.open("a") as file:
                file.write(f"server.4={ensemble.server_lines(member)['server.4']}\n")
            ensemble.launch(member)
            ensemble.wait_serving(member)
        ensemble.wait_serving(4)
        with ensemble.session(4) as session:
            assert servers_in((session.get(CONFIG)[0] or b"").decode()) == [1, 2, 3, 4]
            assert session.exists("/before") is not None
        ensemble.assert_same_trees()
