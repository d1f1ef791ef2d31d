"""Writes in an ensemble: decided by the leader, answered wherever the client is."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from members import Ensemble, connect
from support import wire
from support.wire import Request

CLOSE = Request(wire.CLOSE_SESSION, b"")
SESSION_EXPIRED = -112
FORWARD_HEADER = struct.Struct(">qq")
REQUEST_HEADER = struct.Struct(">qqii")


@pytest.fixture
def ensemble(tmp_path: Path) -> Iterator[Ensemble]:
    with Ensemble(tmp_path) as made:
        made.start()
        yield made
        for member in made.members.values():
            member.parts.check()


def trees_are_equal(ensemble: Ensemble) -> bool:
    trees = [member.parts.tree for member in ensemble.members.values()]
    assert all(tree.digest == tree.compute_digest() for tree in trees)
    return len({tree.digest for tree in trees}) == 1


def nothing_is_left(ensemble: Ensemble) -> bool:
    return all(
        (parts.pipeline.pending, parts.pipeline.remote, parts.following.pending, parts.following.unapplied) == (0,) * 4
        and len(parts.overlay) == 0
        for parts in (member.parts for member in ensemble.members.values())
    )


@pytest.mark.parametrize("number", [1, 2])
def test_every_kind_of_answer(ensemble: Ensemble, number: int) -> None:
    """The same conversation with the leader and with a follower."""
    peer = connect(ensemble, number)
    peer.send(
        wire.create("/a", b"x"),
        wire.create("/a/s", flags=wire.SEQUENTIAL),
        wire.create("/a/s", flags=wire.SEQUENTIAL),
        wire.delete("/none"),
        wire.sync("/a"),
        wire.get_data("/a"),
        wire.multi([wire.set_data("/a", b"y"), wire.check("/none")]),
        wire.multi([wire.set_data("/a", b"z"), wire.create("/b")]),
        wire.check("/a", 1),
        wire.check("/a", 7),
        wire.get_data("/a"),
        Request(wire.SET_DATA, b""),
        wire.sync("/a"),
        wire.exists("/e"),
        wire.create("/e", flags=wire.EPHEMERAL),
        wire.exists("/e"),
        CLOSE,
    )
    ensemble.settle()
    replies = peer.replies()
    assert [reply.xid for reply in replies] == list(range(1, 18))
    assert [reply.err for reply in replies] == [
        0, 0, 0, wire.NO_NODE, 0, 0, 0, 0, 0, wire.BAD_VERSION, 0, wire.MARSHALLING, 0, wire.NO_NODE, 0, 0, 0
    ]  # fmt: skip
    assert wire.Reader(replies[2].body).string() == "/a/s0000000001"
    assert [part.err for part in wire.decode_multi(replies[6].body)] == [0, wire.NO_NODE]
    assert [wire.Reader(replies[at].body).buffer() for at in (5, 10)] == [b"x", b"z"]
    assert wire.Reader(replies[4].body).string() == "/a"
    assert peer.closed
    assert trees_are_equal(ensemble)
    assert nothing_is_left(ensemble)
    assert not ensemble.members[3].parts.tree.ephemerals
    assert all(len(member.parts.sessions) == 0 for member in ensemble.members.values())


# -- order --------------------------------------------------------------------------------------------------


def test_an_error_waits_for_what_it_was_decided_on(ensemble: Ensemble) -> None:
    first, second = connect(ensemble, 2), connect(ensemble, 3)
    two, three, leader = (ensemble.members[number] for number in (2, 3, 1))
    first.send(wire.create("/a"))
    two.turn()
    two.send()
    second.send(wire.create("/a"), wire.exists("/a"))
    three.turn()
    three.send()
    three.receive()  # the outcome: NodeExists, once /a is there
    assert second.replies() == []
    leader.turn()
    assert [kind for kind, _ in three.down] == ["batch"]
    ensemble.settle()
    assert [(reply.err, reply.zxid) for reply in second.replies()] == [
        (wire.NODE_EXISTS, three.parts.applier.zxid),
        (0, three.parts.applier.zxid),
    ]


def test_a_read_of_a_follower_sees_the_writes_before_it_and_no_later_one(ensemble: Ensemble) -> None:
    peer = connect(ensemble, 2)
    peer.send(wire.create("/a", b"0"))
    for number in range(1, 20):
        peer.send(wire.set_data("/a", b"%d" % number), wire.get_data("/a"), wire.get_data("/a"))
        if number % 5 == 0:
            ensemble.members[2].turn()
            ensemble.members[2].send()
            ensemble.members[1].turn()
    ensemble.settle()
    replies = peer.replies()
    assert [reply.xid for reply in replies] == list(range(1, 59))
    values = [wire.Reader(reply.body).buffer() for reply in replies[1:] if (reply.xid - 2) % 3]
    assert values == [b"%d" % number for number in range(1, 20) for _ in range(2)]


def test_events_of_others_changes_leave_before_the_replies_that_show_them(ensemble: Ensemble) -> None:
    watcher, writer = connect(ensemble, 3), connect(ensemble, 2)
    watcher.send(wire.exists("/a", watch=True))
    assert len(watcher.replies()) == 1
    writer.send(wire.create("/a"))
    ensemble.members[2].turn()
    ensemble.members[2].send()
    watcher.send(wire.create("/b"), wire.exists("/a"))
    ensemble.settle()
    assert [reply.xid for reply in watcher.replies()] == [-1, 2, 3]


@pytest.mark.parametrize("number", [1, 2])
def test_a_sync_waits_for_a_quorum_to_confirm_the_leader(ensemble: Ensemble, number: int) -> None:
    """And with it what its client asked behind it, but nothing of others."""
    peer, other = connect(ensemble, number), connect(ensemble, number)
    member, leader, third = ensemble.members[number], ensemble.members[1], ensemble.members[3]
    peer.send(wire.create("/a"), wire.sync("/a"), wire.exists("/b"), wire.create("/b"))
    other.send(wire.create("/c"))
    for each in (member, leader):
        each.turn()
    for _ in range(3):
        if number != 1 and member.up:
            member.send()
        leader.turn()
        while third.down and third.down[0][0] != "confirm":
            third.receive()
        for each in (leader, third):
            each.sync_disk()
        while third.up:
            third.send()
        if number != 1:
            while member.down and member.down[0][0] != "confirm":
                member.receive()
            member.sync_disk()
    done = [reply.xid for reply in peer.replies()]
    assert done in ([1], [])
    assert member.line.pending >= 3
    ensemble.settle()
    replies = peer.replies()
    assert done + [reply.xid for reply in replies] == [1, 2, 3, 4]
    assert replies[-2].err == wire.NO_NODE
    assert [reply.err for reply in other.replies()] == [0]


def test_one_confirmation_serves_all_syncs_of_a_turn(ensemble: Ensemble) -> None:
    peers = [connect(ensemble, number) for number in (1, 1, 2, 2)]
    before = ensemble.round
    for peer in peers:
        peer.send(wire.sync("/"), wire.sync("/"))
    ensemble.members[2].turn()
    ensemble.members[2].send()
    ensemble.settle()
    assert ensemble.round == before + 1
    for peer in peers:
        assert [reply.xid for reply in peer.replies()] == [1, 2]


def test_a_sync_of_a_deposed_leader_is_never_answered(ensemble: Ensemble) -> None:
    peer = connect(ensemble, 1)
    leader = ensemble.members[1]
    peer.send(wire.sync("/"), wire.get_data("/"))
    leader.turn()
    assert ensemble.round
    assert peer.replies() == []
    ensemble.lose_leader()
    leader.parts.pipeline.confirmed_to(ensemble.round)  # too late
    assert peer.replies() == []
    assert peer.closed


def test_errors_without_transactions_do_not_wait_for_the_disk(ensemble: Ensemble) -> None:
    writer, peer = connect(ensemble, 1), connect(ensemble, 1)
    leader = ensemble.members[1]
    writer.send(wire.create("/a"))
    leader.turn()
    writer.send(wire.create("/b"))  # waits for the disk
    leader.turn()
    peer.send(wire.delete("/none"))  # decided behind /b
    assert peer.replies() == []
    ensemble.settle()
    peer.send(wire.delete("/none"))
    assert [reply.err for reply in peer.replies()] == [wire.NO_NODE] * 2  # the second one at once


# -- sessions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(2, 3), (1, 2), (2, 1), (2, 2), (1, 1)])
def test_a_session_moves_and_its_former_connection_is_refused(ensemble: Ensemble, old: int, new: int) -> None:
    before = connect(ensemble, old)
    before.send(wire.create("/e", flags=wire.EPHEMERAL))
    ensemble.settle()
    session = before.connection.session_id
    claims: list[tuple[int, int, int]] = []
    ensemble.members[1].parts.pipeline.on_claim = lambda *claim: claims.append(claim)
    after = connect(ensemble, new, session_id=session, password=before.password)  # type: ignore[attr-defined]
    assert claims == [(session, new, 20_000)]
    assert after.connection.session_id == session
    assert ensemble.members[1].parts.pipeline.owners.owner(session) == new
    before.replies()
    if not before.closed:
        before.send(wire.create("/late"), wire.sync("/"), wire.get_data("/"))
        ensemble.settle()
        assert before.replies() == []
    assert before.closed
    after.send(wire.delete("/e"))
    ensemble.settle()
    assert [reply.err for reply in after.replies()] == [0]
    assert not ensemble.members[1].parts.tree.slot(b"/late")
    assert nothing_is_left(ensemble)


@pytest.mark.parametrize("number", [1, 2])
def test_a_session_that_ended_does_not_go_on_anywhere(ensemble: Ensemble, number: int) -> None:
    peer = connect(ensemble, 3)
    peer.send(wire.create("/e", flags=wire.EPHEMERAL))
    ensemble.settle()
    session = peer.connection.session_id
    leader = ensemble.members[1]
    leader.parts.pipeline.expire_session(session)  # not applied yet, nor known to anybody else
    peer.send(wire.create("/f", flags=wire.EPHEMERAL))
    again = ensemble.members[number].parts.peer()
    again.greet(session_id=session, password=peer.password)  # type: ignore[attr-defined]
    ensemble.settle()
    (greeting,) = again.frames()
    assert struct.unpack_from(">iiq", greeting)[1:] == (0, 0)
    assert again.closed
    assert peer.closed
    assert [reply.err for reply in peer.replies()][-1:] in ([SESSION_EXPIRED], [0])
    assert not leader.parts.tree.ephemerals
    assert trees_are_equal(ensemble)


def test_a_wrong_password_is_not_asked_of_the_leader(ensemble: Ensemble) -> None:
    peer = connect(ensemble, 2)
    other = ensemble.members[3].parts.peer()
    other.greet(session_id=peer.connection.session_id, password=bytes(16))
    (greeting,) = other.frames()
    assert struct.unpack_from(">iiq", greeting)[1] == 0
    assert not ensemble.members[3].parts.turns or ensemble.members[3].parts.following.pending == 0
    assert ensemble.members[1].parts.pipeline.owners.owner(peer.connection.session_id) == 2


def test_a_session_goes_on_where_it_is_not_known_yet(ensemble: Ensemble) -> None:
    """Its creation is committed, but this server has not applied it when its client comes."""
    leader, two, three = (ensemble.members[number] for number in (1, 2, 3))
    peer = two.parts.peer()
    peer.greet()
    two.turn()
    two.send()
    leader.turn()
    for _ in range(4):
        while two.down:
            two.receive()
        two.sync_disk()
        while two.up:
            two.send()
        leader.sync_disk()
    (greeting,) = peer.frames()
    again = three.parts.peer()
    again.greet(session_id=peer.connection.session_id, password=greeting[20:36])
    assert again.frames() == []
    ensemble.settle()
    (greeting,) = again.frames()
    assert struct.unpack_from(">iiq", greeting)[1] > 0


def test_owners_are_learned_by_a_new_leader(ensemble: Ensemble) -> None:
    peers = {number: connect(ensemble, number) for number in (1, 2, 3)}
    ensemble.lose_leader()
    ensemble.elect(2)
    ensemble.settle()
    owners = ensemble.members[2].parts.pipeline.owners
    for number, peer in peers.items():
        assert owners.owner(peer.connection.session_id) == 0
        peer.send(wire.create(f"/{number}"))
    ensemble.settle()
    for number, peer in peers.items():
        assert owners.owner(peer.connection.session_id) == number
        assert [reply.err for reply in peer.replies()] == [0]


# -- changes of the leader ------------------------------------------------------------------------------------


def test_without_a_leader_nobody_is_served_and_those_who_do_not_wait_stay(ensemble: Ensemble) -> None:
    for number in (1, 2):
        idle, busy = connect(ensemble, number), connect(ensemble, number)
        busy.send(wire.create(f"/b{number}"), wire.get_data("/"))
        ensemble.lose_leader()
        assert busy.closed
        assert busy.replies() == []
        assert not idle.closed
        idle.send(wire.get_data("/"), wire.create(f"/i{number}"))
        late = ensemble.members[number].parts.peer()
        late.greet()
        assert late.closed
        asking = ensemble.members[number].parts.peer()
        asking.feed(b"ruok")
        assert asking.read() == b"imok"
        assert idle.replies() == []
        ensemble.elect(2 if number == 1 else 1)
        ensemble.settle()
        idle.feed(b"")
        ensemble.settle()
        assert [reply.err for reply in idle.replies()] == [0, 0]
        assert nothing_is_left(ensemble)
    assert trees_are_equal(ensemble)


def test_nothing_is_left_of_requests_whenever_the_leader_is_lost(tmp_path: Path) -> None:
    """After every step of a write's way: no reference, no count, no proposed change; and the ensemble goes on."""
    steps = 0
    with Ensemble(tmp_path) as ensemble:
        ensemble.start()
        while True:
            peers = [connect(ensemble, number) for number in (1, 2, 3)]
            counts = [sys.getrefcount(peer.connection) for peer in peers]
            for peer in peers:
                peer.send(
                    wire.create(f"/{steps}-", flags=wire.EPHEMERAL | wire.SEQUENTIAL),
                    wire.delete("/none"),
                    wire.multi([wire.create("/m"), wire.delete("/none")]),
                    wire.sync("/"),
                    wire.set_data("/", b"x"),
                    wire.get_data("/"),
                    CLOSE,
                )
            left = steps
            at_rest = True
            for _ in range(6):
                for member in ensemble.members.values():
                    for action in (member.turn, member.receive, member.send, member.sync_disk):
                        if left == 0:
                            at_rest = False
                            break
                        left -= 1
                        action()
            leader = ensemble.leader
            assert leader is not None
            ensemble.lose_leader()
            for member, peer, count in zip(ensemble.members.values(), peers, counts, strict=True):
                assert peer.closed
                assert not peer.connection.outstanding
                assert member.parts.pipeline.pending == member.parts.pipeline.remote == 0
                assert member.parts.following.pending == 0
                assert member.parts.following.unapplied == 0
                assert len(member.parts.overlay) == 0
                peer.frames()
                references = sys.getrefcount(peer.connection)
                assert references <= count
            ensemble.elect(max(ensemble.members.values(), key=lambda member: (member.zxid, member is not leader)).id)
            ensemble.settle()
            assert trees_are_equal(ensemble)
            assert nothing_is_left(ensemble)
            if at_rest:
                break
            steps += 1
    assert steps > 60


def test_an_epoch_rolls_over_under_load(ensemble: Ensemble) -> None:
    peers = [connect(ensemble, number) for number in (1, 2)]
    pipeline = ensemble.members[1].parts.pipeline
    for peer in peers:
        peer.send(*[wire.create(f"/{peer.connection.session_id}-", flags=wire.SEQUENTIAL)] * 5)
    ensemble.members[2].turn()
    ensemble.members[2].send()
    ensemble.epoch += 1
    opening = pipeline.roll_epoch(ensemble.epoch)
    assert opening == ensemble.epoch << 32 | 1
    for peer in peers:
        peer.send(wire.create(f"/{peer.connection.session_id}+"))
    ensemble.settle()
    for peer in peers:
        replies = peer.replies()
        assert [reply.err for reply in replies] == [0] * 6
        assert replies[-1].zxid > opening > replies[-2].zxid
    assert trees_are_equal(ensemble)
    with pytest.raises(ValueError, match="does not follow"):
        pipeline.roll_epoch(ensemble.epoch)


def test_a_sealed_pipeline_answers_what_is_in_the_log_and_adds_nothing(ensemble: Ensemble) -> None:
    leader = ensemble.members[1]
    first, second = connect(ensemble, 1), connect(ensemble, 1)
    logged = leader.parts.log.last_zxid
    first.send(wire.create("/logged"))
    leader.turn()
    assert leader.parts.log.last_zxid == logged + 1
    second.send(wire.create("/open"))  # waits for the log to be free
    leader.parts.pipeline.seal()
    ensemble.settle()
    assert [reply.err for reply in first.replies()] == [0]
    second.send(wire.create("/late"))
    ensemble.settle()
    assert second.replies() == []
    assert leader.parts.log.last_zxid == logged + 1
    leader.parts.pipeline.close("it leads no more")
    assert second.connection.closed


# -- frames ---------------------------------------------------------------------------------------------------


def forward_frame(ensemble: Ensemble, number: int) -> bytes:
    """The next FORWARD frame of a server, which does not arrive."""
    member = ensemble.members[number]
    member.turn()
    kind, frame = member.up.popleft()
    assert kind == "forward"
    return bytes(frame)


def test_the_layout_of_a_forward_frame(ensemble: Ensemble) -> None:
    peer = connect(ensemble, 2)
    peer.send(wire.set_data("/", b"x"), wire.sync("/"), CLOSE)
    frame = forward_frame(ensemble, 2)
    stream, number = FORWARD_HEADER.unpack_from(frame)
    assert stream > 0
    assert number == 2  # the session was in the first one
    reader = wire.Reader(frame[FORWARD_HEADER.size :])
    found = []
    for _ in range(3):
        seq, session, xid, op = reader.unpack(REQUEST_HEADER)
        assert session == peer.connection.session_id
        assert reader.buffer() == wire.text("ip") + wire.text("127.0.0.1")
        found.append((seq, xid, op, reader.buffer()))
    reader.end()
    first = found[0][0]
    assert found == [
        (first, 1, wire.SET_DATA, wire.set_data("/", b"x").body),
        (first + 1, 2, wire.SYNC, b""),
        (first + 2, 3, wire.CLOSE_SESSION, b""),
    ]


def test_frames_that_are_missing_end_a_stream(ensemble: Ensemble) -> None:
    peer = connect(ensemble, 2)
    pipeline = ensemble.members[1].parts.pipeline
    peer.send(wire.create("/lost"))
    lost = forward_frame(ensemble, 2)
    peer.send(wire.create("/behind"))
    behind = forward_frame(ensemble, 2)
    assert not pipeline.forwarded(2, behind)
    assert pipeline.forwarded(2, lost)
    assert not pipeline.forwarded(2, lost)
    assert pipeline.forwarded(2, behind)
    pipeline.forget(2)
    peer.send(wire.create("/more"))
    assert not pipeline.forwarded(2, forward_frame(ensemble, 2))  # its beginning is not known any more
    ensemble.settle()
    assert [reply.err for reply in peer.replies()] == [0, 0]


def test_malformed_frames_are_refused(ensemble: Ensemble) -> None:
    """Whatever is missing: a ValueError, and the pipeline goes on."""
    peer = connect(ensemble, 2)
    pipeline = ensemble.members[1].parts.pipeline
    following = ensemble.members[2].parts.following
    peer.send(wire.sync("/"))
    frame = forward_frame(ensemble, 2)
    stream = FORWARD_HEADER.unpack_from(frame)[0]
    for size in range(len(frame)):
        if size == FORWARD_HEADER.size:
            continue  # a frame without requests
        stream += 1
        cut = FORWARD_HEADER.pack(stream, 1) + frame[FORWARD_HEADER.size :]
        with pytest.raises(ValueError, match=r"frame|malformed"):
            pipeline.forwarded(3, cut[:size])
    for auth in (b"\xff\xff\xff\xff", b"\0\0\0\1xq", b"\0", wire.text("ip")):
        stream += 1
        body = REQUEST_HEADER.pack(1, peer.connection.session_id, 1, wire.SET_DATA)
        body += struct.pack(">i", len(auth)) + auth
        with pytest.raises(ValueError, match="malformed"):
            pipeline.forwarded(3, FORWARD_HEADER.pack(stream, 1) + body + wire.text("x"))
    for nothing in (b"", b"@"):
        with pytest.raises(ValueError, match="an empty frame of requests"):
            pipeline.forwarded(3, memoryview(nothing), 1)
        with pytest.raises(ValueError, match="an empty frame of outcomes"):
            following.outcome(memoryview(nothing), 1)
    assert pipeline.forwarded(2, memoryview(b"@" + frame), 1)  # as it comes, behind its kind
    ensemble.members[1].turn()
    ensemble.members[3].receive()
    ensemble.members[3].send()
    frames = [what for kind, what in ensemble.members[2].down if kind == "outcome"]
    assert len(frames) == 1
    outcome = frames[0]
    for size in range(len(outcome)):
        if 0 < size < 8:
            following.outcome(outcome[:size])  # of no stream: ignored
            continue
        with pytest.raises(ValueError, match="outcome"):
            following.outcome(outcome[:size])
    for seq, status in ((0, 4), (1 << 40, 4), (None, 1), (None, 3), (None, 9)):
        found = struct.unpack_from(">q", outcome, 8)[0] if seq is None else seq
        with pytest.raises(ValueError, match="outcome"):
            following.outcome(outcome[:8] + struct.pack(">qiq", found, status, 1 << 40) + bytes(12))
    following.outcome(struct.pack(">q", 1) + outcome[8:])  # of an earlier stream
    following.outcome(memoryview(b"A" + struct.pack(">q", 1) + outcome[8:]), 1)
    assert following.pending == 1
    ensemble.settle()
    assert [reply.err for reply in peer.replies()] == [0]
    with pytest.raises(ValueError, match="outcome"):
        following.outcome(outcome)  # twice
