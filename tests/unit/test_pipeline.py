"""The order of replies, what waits for what, full servers and full disks."""

from __future__ import annotations

import errno
import itertools
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import Parts, Peer, frame
from support import wire
from support.wire import Request

from fastzk import _log

CLOSE = Request(wire.CLOSE_SESSION, b"")
NOT_READ_ONLY = -119


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with Parts(tmp_path) as made:
        yield made
        made.check()


def data_of(reply: wire.Reply) -> bytes | None:
    return wire.Reader(reply.body).buffer()


def in_order(replies: list[wire.Reply]) -> bool:
    xids = [reply.xid for reply in replies if reply.xid >= 0]
    return xids == sorted(xids)


# -- order --------------------------------------------------------------------------------------------------


def test_a_read_behind_a_write_waits_for_it_and_others_do_not(parts: Parts) -> None:
    writer, reader = parts.session(), parts.session()
    writer.send(wire.get_data("/"), wire.create("/a", b"x"), wire.exists("/a"))
    reader.send(wire.exists("/a"))
    assert [reply.xid for reply in writer.replies()] == [1]
    assert [reply.err for reply in reader.replies()] == [wire.NO_NODE]
    parts.settle()
    assert [(reply.xid, reply.err) for reply in writer.replies()] == [(2, 0), (3, 0)]


def test_reads_see_exactly_the_writes_before_them(parts: Parts) -> None:
    peer = parts.session()
    peer.send(wire.create("/a", b"0"))
    for number in range(1, 30):
        peer.send(wire.set_data("/a", b"%d" % number), wire.get_data("/a"), wire.get_data("/a"))
        if number % 7 == 0:
            parts.turn()
            parts.durable()
    parts.settle()
    replies = peer.replies()
    assert in_order(replies)
    values = [data_of(reply) for reply in replies[1:] if (reply.xid - 2) % 3]
    assert values == [b"%d" % number for number in range(1, 30) for _ in range(2)]


def test_errors_syncs_and_checks_keep_their_places(parts: Parts) -> None:
    peer = parts.session()
    peer.send(
        wire.create("/a"),
        wire.delete("/none"),
        wire.sync("/a"),
        wire.check("/a", 0),
        wire.check("/a", 1),
        wire.multi([wire.check("/none")]),
        wire.exists("/a"),
        Request(wire.SET_DATA, b""),
        Request(16, b""),  # reconfig
        wire.delete("/a"),
        wire.exists("/a"),
    )
    parts.settle()
    replies = peer.replies()
    assert [reply.xid for reply in replies] == list(range(1, 12))
    assert [reply.err for reply in replies] == [
        0, wire.NO_NODE, 0, 0, wire.BAD_VERSION, 0, 0, wire.MARSHALLING, replies[8].err, 0, wire.NO_NODE
    ]  # fmt: skip
    assert replies[8].err < 0


def test_an_error_decided_on_somebody_elses_proposal_waits_for_it(parts: Parts) -> None:
    first, second = parts.session(), parts.session()
    first.send(wire.create("/a"))
    second.send(wire.create("/a"))
    assert second.replies() == []
    parts.turn()
    assert second.replies() == []
    parts.settle()
    assert [reply.err for reply in second.replies()] == [wire.NODE_EXISTS]


def test_events_leave_before_the_replies_that_show_the_change(parts: Parts) -> None:
    watcher, writer = parts.session(), parts.session()
    watcher.send(wire.exists("/a", watch=True), wire.get_children("/", watch=True))
    assert len(watcher.replies()) == 2
    writer.send(wire.create("/a"))
    watcher.send(wire.create("/b"), wire.exists("/a"))
    parts.settle()
    found = watcher.replies()
    assert [reply.xid for reply in found] == [-1, -1, 3, 4]
    assert {wire.decode_event(reply).path for reply in found[:2]} == {"/a", "/"}


SESSION = [
    wire.create("/a", b"0"),
    wire.get_data("/a", watch=True),
    wire.set_data("/a", b"1"),
    wire.multi([wire.check("/a", 1), wire.create("/a/b", flags=wire.SEQUENTIAL)]),
    wire.get_children2("/a"),
    wire.delete("/none"),
    wire.auth("digest", b"ada:pw"),
    wire.get_data("/a"),
    wire.sync("/"),
    CLOSE,
]


def masked(raw: bytes) -> bytes:
    """A reply whose stat, if it ends with one, has no times."""
    return raw if len(raw) < 68 + 16 else raw[:-52] + bytes(16) + raw[-36:]


def converse(directory: Path, cuts: list[int]) -> list[bytes]:
    """The whole answer to SESSION, sent in pieces; after each the server gets on by a random amount."""
    directory.mkdir()
    rng = random.Random(repr(cuts))
    greeting = wire.connect_request()
    stream = struct.pack(">i", len(greeting)) + greeting
    stream += b"".join(frame(xid, request) for xid, request in enumerate(SESSION, 1))
    with Parts(directory) as parts:
        peer = parts.peer()
        for start, stop in itertools.pairwise([0, *cuts, len(stream)]):
            peer.feed(stream[start:stop])
            if rng.random() < 0.5:
                parts.turn()
            if rng.random() < 0.3:
                parts.durable()
        parts.settle()
        peer.feed(b"")  # what waited in the kernel while the session was made
        parts.settle()
        found = peer.frames()
        assert peer.closed
    # the session's id and password differ, and so do the places of the auth reply, which waits for nothing
    return [found[0][:8], *(masked(raw) for raw in found[1:] if raw[:4] != b"\0\0\0\7")]


def test_frames_cut_at_every_byte_give_the_same_replies(tmp_path: Path) -> None:
    whole = converse(tmp_path / "whole", [])
    assert len(whole) == len(SESSION) + 1  # the greeting and an event more, the auth reply less
    size = 49 + sum(len(frame(0, request)) for request in SESSION)
    for cut in range(1, size):
        assert converse(tmp_path / f"cut{cut}", [cut]) == whole, cut
    assert converse(tmp_path / "bytes", list(range(1, size))) == whole


# -- too much at once -----------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_is_blocked_and_costs_no_more(parts: Parts) -> None:
    peer, other = parts.session(), parts.session()
    other.send(wire.create("/big", b"x" * 100_000))
    parts.settle()
    other.replies()
    peer.send(*[wire.get_data("/big")] * 1000)
    assert peer.transport.paused
    assert not peer.connection.is_reading
    assert peer.connection.queued < 2 << 20
    other.send(wire.get_data("/big"))
    assert len(other.replies()) == 1
    count = 0
    while count < 1000:
        found = peer.replies()
        assert found
        assert [reply.xid for reply in found] == list(range(count + 1, count + 1 + len(found)))
        count += len(found)
        peer.feed(b"")
    assert peer.connection.queued == 0
    assert peer.connection.is_reading


def test_large_replies_that_waited_for_a_write_do_not_end_a_client_that_reads(parts: Parts) -> None:
    peer = parts.session()
    peer.send(wire.create("/big", b"x" * 1_000_000))
    parts.settle()
    peer.replies()
    peer.send(wire.set_data("/big", b"y" * 1_000_000), *[wire.get_data("/big")] * 100)
    parts.turn()
    parts.durable()
    assert not peer.closed
    assert peer.connection.queued < 8 << 20
    peer.send(wire.exists("/big"))
    count = 0
    while count < 102:
        found = peer.replies()
        assert found
        assert [reply.xid for reply in found] == list(range(count + 2, count + 2 + len(found)))
        count += len(found)
        peer.feed(b"")
        parts.settle()


def test_a_client_buried_in_events_is_cut_off(parts: Parts) -> None:
    """Memory for those who do not read is bounded even for what they did not ask for just now."""
    watcher, writer = parts.session(), parts.session()
    name = "/" + "n" * 200_000
    watcher.send(Request(106, wire.text("/") + struct.pack(">i", 1)))
    assert [reply.err for reply in watcher.replies()] == [0]
    for _ in range(250):
        writer.send(wire.create(name), wire.delete(name))
        parts.settle()
        assert {reply.err for reply in writer.replies()} == {0}
        if watcher.closed:
            break
        assert watcher.connection.queued < 80 << 20
    assert watcher.closed
    parts.turn()
    assert len(parts.watches) == 0


def test_many_reads_behind_a_write_are_bounded(parts: Parts) -> None:
    peer = parts.session()
    peer.send(wire.create("/a"))
    for _ in range(40):
        peer.send(*[wire.exists("/" + "p" * 1000)] * 100)
    assert peer.transport.paused
    parts.settle()
    peer.feed(b"")
    parts.settle()
    while True:
        found = peer.replies()
        if not found:
            break
    assert peer.xid == 4001
    assert peer.connection.sent == 4002  # and the session's


def limited(tmp_path: Path, limit: int) -> Parts:
    return Parts(tmp_path, limit=limit)


@pytest.mark.parametrize("clients", [1, 2, 7])
@pytest.mark.parametrize("limit", [0, 1, 5, 30])
def test_a_full_server_goes_on_in_order(tmp_path: Path, limit: int, clients: int) -> None:
    """Far more writes than may be under way, reads between them: nobody is forgotten, nothing overtakes."""
    rng = random.Random(limit * 100 + clients)
    with Parts(tmp_path, limit=limit) as parts:
        peers = [parts.session() for _ in range(clients)]
        asked: list[list[int]] = []
        for number, peer in enumerate(peers):
            requests = [wire.create(f"/{number}", b"0")]
            values = [0]
            while len(requests) < 300:
                kind = rng.random()
                if kind < 0.5:
                    values.append(values[-1] + 1)
                    requests.append(wire.set_data(f"/{number}", b"%d" % values[-1]))
                elif kind < 0.6:
                    requests.append(wire.delete(f"/none{number}"))
                    values.append(values[-1])
                elif kind < 0.7:
                    requests.append(wire.sync("/"))
                    values.append(values[-1])
                else:
                    requests.append(wire.get_data(f"/{number}"))
                    values.append(values[-1])
            asked.append(values)
            peer.send(*requests)
            assert parts.pipeline.pending <= limit + clients
        for _ in range(5000):
            if all(peer.connection.sent == 301 for peer in peers):
                break
            parts.turn()
            parts.durable()
            assert parts.pipeline.pending <= limit + clients
            for peer in peers:
                peer.feed(b"")
        for values, peer in zip(asked, peers, strict=True):
            replies = peer.replies()
            assert [reply.xid for reply in replies] == list(range(1, 301))
            for value, reply in zip(values, replies, strict=True):
                if reply.err == 0 and len(reply.body) in range(73, 79):  # getData
                    assert data_of(reply) == b"%d" % value
            assert peer.connection.is_reading
        assert len(parts.overlay) == 0
        assert parts.pipeline.pending == 0


def test_a_full_server_of_errors_and_syncs_goes_on(tmp_path: Path) -> None:
    """None of these needs the log, whose readiness therefore wakes nobody."""
    with Parts(tmp_path, limit=3) as parts:
        peers = [parts.session() for _ in range(3)]
        for peer in peers:
            peer.send(*[wire.sync("/"), wire.delete("/none")] * 20)
        for _ in range(200):
            parts.turn()
            for peer in peers:
                peer.feed(b"")
        for peer in peers:
            assert [reply.xid for reply in peer.replies()] == list(range(1, 41))


def test_a_greedy_client_does_not_starve_another(tmp_path: Path) -> None:
    with Parts(tmp_path, limit=4) as parts:
        greedy, modest = parts.session(), parts.session()
        greedy.send(*[wire.set_data("/", b"x")] * 2000)
        modest.send(wire.sync("/"), wire.set_data("/", b"y"))
        for _ in range(20):
            parts.turn()
            parts.durable()
            greedy.feed(b"")
            modest.feed(b"")
        assert [reply.err for reply in modest.replies()] == [0, 0]


# -- a full disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def faults() -> Iterator[None]:
    yield
    _log._inject()


def fill(parts: Parts, peer: Peer, number: Iterator[int]) -> None:
    """Write until the disk is full."""
    for _ in range(100):
        peer.send(*[wire.create(f"/fill{next(number)}", b"x" * 5000) for _ in range(3)])
        parts.settle()
        if parts.pipeline.read_only:
            return
    raise AssertionError("the disk does not fill")


@pytest.mark.usefixtures("faults")
def test_a_refused_batch_is_answered_in_order_and_leaves_nothing(parts: Parts) -> None:
    peer, other = parts.session(), parts.session()
    number = itertools.count()
    _log._inject(fail_prepare_errno=errno.ENOSPC)
    for _ in range(100):
        before = next(number)
        peer.send(
            *[wire.create(f"/n{before}-{i}", b"x" * 5000) for i in range(3)],
            wire.exists(f"/n{before}-2"),
            wire.delete("/none"),
            wire.multi([wire.create("/m"), wire.delete("/m")]),
            wire.get_children("/"),
        )
        other.send(wire.create(f"/o{before}", b"x" * 5000), wire.exists(f"/o{before}"))
        parts.turn()
        if parts.pipeline.read_only:
            break
        other.send(wire.set_data("/", b"z" * 5000), wire.sync("/"))  # behind the batch in flight
        parts.settle()
        if parts.pipeline.read_only:
            break
    assert parts.pipeline.read_only
    replies = peer.replies()
    assert [reply.xid for reply in replies] == list(range(1, peer.xid + 1))
    others = other.replies()
    assert [reply.xid for reply in others] == list(range(1, other.xid + 1))
    assert {reply.err for reply in replies[-7:-4]} == {NOT_READ_ONLY}
    assert replies[-4].err == wire.NO_NODE  # the read shows that nothing was made
    assert NOT_READ_ONLY in {reply.err for reply in others[-4:]}
    made = {name for name in parts.tree.children(b"/") if name.startswith((b"n", b"o"))}
    told = {
        wire.Reader(reply.body).string()[1:].encode()
        for reply in replies + others
        if not reply.err and len(reply.body) < 20 and reply.body[4:6] in {b"/n", b"/o"}
    }
    assert made == told
    assert len(parts.overlay) == 0
    assert parts.tree.digest == parts.tree.compute_digest()
    assert parts.pipeline.pending == 0

    peer.send(wire.create("/no"), wire.exists("/"), wire.sync("/"), wire.check("/"), CLOSE)
    parts.settle()
    assert [reply.err for reply in peer.replies()][:3] == [NOT_READ_ONLY, 0, 0]
    _log._inject()
    wire.poll(lambda: not parts.log.no_space, "the log finds room")
    parts.pipeline.space_again()
    other.send(wire.create("/yes"), wire.exists("/yes"))
    parts.settle()
    assert [reply.err for reply in other.replies()] == [0, 0]
    assert parts.tree.digest == parts.tree.compute_digest()


@pytest.mark.usefixtures("faults")
def test_a_session_whose_end_was_refused_still_ends(parts: Parts) -> None:
    """Neither a closeSession nor an expiry that the disk had no room for may leave ephemerals for ever."""
    closing, expiring, late, filler = (parts.session(timeout_ms=2000) for _ in range(4))
    ids = [peer.connection.session_id for peer in (closing, expiring, late)]
    number = itertools.count()
    for peer, name in ((closing, "/c"), (expiring, "/e"), (late, "/l")):
        peer.send(wire.create(name, flags=wire.EPHEMERAL))
    parts.settle()
    _log._inject(fail_prepare_errno=errno.ENOSPC)
    fill(parts, filler, number)
    _log._inject()
    wire.poll(lambda: not parts.log.no_space, "the log finds room")
    parts.pipeline.space_again()
    _log._inject(fail_prepare_errno=errno.ENOSPC)
    segments = len(parts.log.segments)
    for _ in range(100):
        filler.send(wire.create(f"/fill{next(number)}", b"x" * 5000))
        parts.settle()
        if len(parts.log.segments) > segments:
            break
    else:
        raise AssertionError("the live segment does not fill")
    wire.poll(lambda: parts.log.no_space, "there is none behind the one that is live now")
    assert not parts.pipeline.read_only
    filler.send(wire.create(f"/fill{next(number)}"))
    parts.turn()
    filler.send(wire.create("/big", b"x" * 60_000))  # this one will be refused with everything behind it
    closing.send(CLOSE)
    expiring.drop()
    parts.sessions.closing(ids[1])  # as Sessions.expired() does
    parts.pipeline.expire_session(ids[1])
    parts.settle()
    assert parts.pipeline.read_only
    late.send(CLOSE)  # and this one is refused at the door
    parts.settle()
    assert [reply.err for reply in closing.replies()][-1] == NOT_READ_ONLY
    assert [reply.err for reply in late.replies()][-1] == NOT_READ_ONLY
    for session in ids:
        found = parts.sessions.get(session)
        assert found is not None
        assert not found.closing
    _log._inject()
    wire.poll(lambda: not parts.log.no_space, "the log finds room")
    parts.pipeline.space_again()
    for session in ids:
        parts.pipeline.expire_session(session)
    parts.settle()
    assert not parts.tree.ephemerals
    assert {parts.sessions.get(session) for session in ids} == {None}


# -- stopping -------------------------------------------------------------------------------------------------


def test_stop_answers_what_is_under_way_and_takes_no_more(parts: Parts) -> None:
    peer = parts.session()
    called = []
    peer.send(wire.create("/a"), wire.get_data("/a"))
    parts.pipeline.idle_callback = lambda: called.append(parts.pipeline.pending)
    parts.service.stop()
    peer.send(wire.create("/b"), wire.get_data("/a"))
    parts.settle()
    assert [reply.xid for reply in peer.replies()] == [1, 2]
    assert called == [0]
    assert parts.tree.slot(b"/b") == 0
    assert parts.service.stopping


def test_replies_leave_in_one_write_per_client_and_callback(parts: Parts) -> None:
    """Whatever the event loop's own policy for writes: replies are gathered before they are sent."""
    first, second = (parts.session(socket.SOCK_SEQPACKET) for _ in range(2))
    first.send(wire.create("/a", b"x"), *[wire.get_data("/zookeeper")] * 50)
    second.send(wire.get_data("/", watch=True), wire.get_children("/", watch=True))
    assert first.writes() == []  # its reads wait for its write
    assert [len(frames_in(data)) for data in second.writes()] == [2]
    parts.settle()
    assert [len(frames_in(data)) for data in first.writes()] == [51]
    assert [len(frames_in(data)) for data in second.writes()] == [1]  # the event
    first.send(*[wire.set_data("/a", b"y")] * 100, wire.exists("/a"))
    second.send(*[wire.set_data("/a", b"z")] * 100)
    parts.settle()
    assert [len(frames_in(data)) for data in first.writes()] == [101]
    assert [len(frames_in(data)) for data in second.writes()] == [100]


def frames_in(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found
