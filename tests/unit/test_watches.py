"""Watches of all kinds, through connections: who is told what, how they are counted, and that none is left over."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import Parts, Peer
from support import wire
from support.wire import Acl, Request

ADD_WATCH, CHECK_WATCHES, REMOVE_WATCHES, SET_WATCHES2 = 106, 17, 18, 105
PERSISTENT, RECURSIVE = 0, 1
TYPE_CHILDREN, TYPE_DATA, TYPE_ANY, TYPE_PERSISTENT, TYPE_RECURSIVE = 1, 2, 3, 4, 5
NO_WATCHER = -121
CREATED, DELETED, CHANGED, CHILDREN = 1, 2, 3, 4


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with Parts(tmp_path) as made:
        yield made
        made.check()


def add_watch(path: str, mode: int) -> Request:
    return Request(ADD_WATCH, wire.text(path) + struct.pack(">i", mode))


def watch_request(op: int, path: str, kind: int) -> Request:
    return Request(op, wire.text(path) + struct.pack(">i", kind))


def do(parts: Parts, peer: Peer, *requests: Request) -> list[int]:
    """Send and wait; the error codes. Events that come with the replies are thrown away."""
    peer.send(*requests)
    parts.settle()
    return [reply.err for reply in peer.replies() if reply.xid != wire.XID_EVENT]


def events(peer: Peer) -> list[tuple[int, str]]:
    found = []
    for reply in peer.replies():
        assert reply.xid == wire.XID_EVENT
        event = wire.decode_event(reply)
        assert event.state == 3
        found.append((event.type, event.path))
    return found


WATCHERS: dict[str, Request] = {
    "data": wire.get_data("/a", watch=True),
    "exists": wire.exists("/a", watch=True),
    "child": wire.get_children("/a", watch=True),
    "persistent": add_watch("/a", PERSISTENT),
    "recursive": add_watch("/a", RECURSIVE),
    "above": add_watch("/", RECURSIVE),
}
CHANGES: dict[str, Request] = {
    "set": wire.set_data("/a", b"x"),
    "acl": wire.set_acl("/a", wire.OPEN),
    "create below": wire.create("/a/c"),
    "set below": wire.set_data("/a/b", b"x"),
    "delete below": wire.delete("/a/b"),
    "delete": wire.multi([wire.delete("/a/b"), wire.delete("/a")]),
}
TOLD: dict[str, dict[str, list[tuple[int, str]]]] = {
    "set": {
        "data": [(CHANGED, "/a")],
        "exists": [(CHANGED, "/a")],
        "persistent": [(CHANGED, "/a")],
        "recursive": [(CHANGED, "/a")],
        "above": [(CHANGED, "/a")],
    },
    "acl": {},
    "create below": {
        "child": [(CHILDREN, "/a")],
        "persistent": [(CHILDREN, "/a")],
        "recursive": [(CREATED, "/a/c")],
        "above": [(CREATED, "/a/c")],
    },
    "set below": {"recursive": [(CHANGED, "/a/b")], "above": [(CHANGED, "/a/b")]},
    "delete below": {
        "child": [(CHILDREN, "/a")],
        "persistent": [(CHILDREN, "/a")],
        "recursive": [(DELETED, "/a/b")],
        "above": [(DELETED, "/a/b")],
    },
    "delete": {
        "data": [(DELETED, "/a")],
        "exists": [(DELETED, "/a")],
        "child": [(CHILDREN, "/a")],
        "persistent": [(CHILDREN, "/a"), (DELETED, "/a")],
        "recursive": [(DELETED, "/a/b"), (DELETED, "/a")],
        "above": [(DELETED, "/a/b"), (DELETED, "/a")],
    },
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", WATCHERS)
def test_who_is_told(parts: Parts, kind: str, change: str) -> None:
    watcher, writer = parts.session(), parts.session()
    assert do(parts, writer, wire.create("/a"), wire.create("/a/b")) == [0, 0]
    assert do(parts, watcher, WATCHERS[kind]) == [0]
    assert do(parts, writer, CHANGES[change]) == [0]
    told = TOLD[change].get(kind, [])
    assert events(watcher) == told
    fired = bool(told) and kind in {"data", "exists", "child"}
    assert (len(parts.watches) == 0) == fired
    # The second time only those that stay are told.
    assert do(parts, writer, wire.create("/a")) in ([0], [wire.NODE_EXISTS])
    events(watcher)
    assert do(parts, writer, wire.set_data("/a", b"again")) == [0]
    stays = kind in {"persistent", "recursive", "above"} or (not fired and kind in {"data", "exists"})
    assert events(watcher) == ([(CHANGED, "/a")] if stays else [])


def test_one_event_however_many_watches_it_meets(parts: Parts) -> None:
    watcher, writer = parts.session(), parts.session()
    assert do(parts, writer, wire.create("/a")) == [0]
    assert do(parts, watcher, *WATCHERS.values()) == [0] * 6
    assert parts.watches.path_count == 2
    assert do(parts, writer, wire.set_data("/a", b"x")) == [0]
    assert events(watcher) == [(CHANGED, "/a")]
    assert do(parts, writer, wire.delete("/a")) == [0]
    assert events(watcher) == [(DELETED, "/a")]


def test_those_who_may_not_read_are_not_told(parts: Parts) -> None:
    watcher, writer = parts.session(), parts.session()
    hidden = (Acl(wire.PERM_WRITE | wire.PERM_DELETE, "world", "anyone"),)
    assert do(parts, watcher, add_watch("/", RECURSIVE), wire.exists("/a", watch=True)) == [0, wire.NO_NODE]
    requests = [wire.create("/a", acl=hidden), wire.set_data("/a", b"x"), wire.delete("/a"), wire.create("/b")]
    assert do(parts, writer, *requests) == [0] * 4
    assert events(watcher) == [(CREATED, "/b")]


def test_counts_and_lists(parts: Parts) -> None:
    first, second = parts.session(), parts.session()
    assert do(parts, first, wire.create("/a"), *WATCHERS.values()) == [0] * 7
    assert do(parts, second, wire.get_data("/a", watch=True), wire.get_data("/a", watch=True)) == [0, 0]
    # As ZooKeeper counts: (data or exists or persistent or recursive) + (child or persistent), for each path.
    assert len(parts.watches) == parts.watches.count == 2 + 1 + 1
    assert parts.watches.recursive_count == 2
    assert parts.watches.path_count == 2
    assert first.connection.watch_count == 2
    assert sorted(parts.watches.of_client(first.connection)) == [b"/", b"/a"]
    assert parts.watches.of_client(second.connection) == [b"/a"]
    by_path = dict(parts.watches.by_path())
    assert set(by_path) == {b"/", b"/a"}
    assert by_path[b"/"] == [first.connection]
    assert set(by_path[b"/a"]) == {first.connection, second.connection}


def test_check_and_remove(parts: Parts) -> None:
    peer, other = parts.session(), parts.session()
    assert do(parts, other, wire.create("/a")) == [0]
    kinds = (TYPE_CHILDREN, TYPE_DATA, TYPE_ANY, TYPE_PERSISTENT, TYPE_RECURSIVE)
    for kind in kinds:
        assert do(parts, peer, watch_request(REMOVE_WATCHES, "/a", kind)) == [NO_WATCHER]
        assert do(parts, peer, watch_request(CHECK_WATCHES, "/a", kind)) == [NO_WATCHER]
    assert do(parts, peer, *WATCHERS.values()) == [0] * 6
    for kind in kinds:
        assert do(parts, peer, watch_request(CHECK_WATCHES, "/a", kind)) == [0]
    assert do(parts, peer, watch_request(REMOVE_WATCHES, "/a", TYPE_DATA)) == [0]
    assert do(parts, peer, watch_request(CHECK_WATCHES, "/a", TYPE_DATA)) == [NO_WATCHER]
    assert do(parts, peer, watch_request(REMOVE_WATCHES, "/a", TYPE_ANY)) == [0]
    assert parts.watches.of_client(peer.connection) == [b"/"]
    assert do(parts, peer, watch_request(REMOVE_WATCHES, "/a", 9)) == [wire.MARSHALLING]
    assert do(parts, other, wire.set_data("/a", b"x")) == [0]
    assert events(peer) == [(CHANGED, "/a")]  # by the recursive one on /
    assert do(parts, peer, watch_request(REMOVE_WATCHES, "/", TYPE_RECURSIVE)) == [0]
    assert len(parts.watches) == parts.watches.path_count == parts.watches.recursive_count == 0


def test_set_watches_tells_what_was_missed_and_sets_the_rest(parts: Parts) -> None:
    writer, peer = parts.session(), parts.session()
    assert do(parts, writer, wire.create("/a"), wire.create("/b"), wire.create("/p")) == [0] * 3
    seen = parts.clients.zxid
    assert do(parts, writer, wire.set_data("/a", b"x"), wire.create("/p/c"), wire.create("/new")) == [0] * 3
    lists = [["/a", "/b", "/gone"], ["/new", "/later"], ["/p", "/b", "/gone"], ["/b"], ["/p"]]
    peer.send(Request(SET_WATCHES2, struct.pack(">q", seen) + b"".join(wire.strings(names) for names in lists)))
    found = peer.replies()
    assert found[-1].err == 0
    assert [(reply.xid, reply.zxid) for reply in found[:-1]] == [(-1, -1)] * 5
    told = [wire.decode_event(reply) for reply in found[:-1]]
    assert [(event.type, event.path) for event in told] == [
        (CHANGED, "/a"), (DELETED, "/gone"), (CREATED, "/new"), (CHILDREN, "/p"), (DELETED, "/gone")
    ]  # fmt: skip
    assert sorted(parts.watches.of_client(peer.connection)) == [b"/b", b"/later", b"/p"]
    assert do(parts, writer, wire.set_data("/p/c", b"x"), wire.delete("/b"), wire.create("/later")) == [0] * 3
    assert events(peer) == [(CHANGED, "/p/c"), (DELETED, "/b"), (CREATED, "/later")]


def test_a_lost_connection_takes_its_watches_along(parts: Parts) -> None:
    peers = [parts.session() for _ in range(4)]
    rng = random.Random(5)
    for peer in peers:
        for number in rng.sample(range(2000), 800):
            peer.send(wire.exists(f"/n{number}", watch=True), add_watch(f"/n{number}", rng.randrange(2)))
            assert len(peer.replies()) == 2
    assert parts.watches.path_count > 1000
    for peer in peers[:3]:
        kept = {path: len(clients) for path, clients in parts.watches.by_path()}
        for path in parts.watches.of_client(peer.connection):
            kept[path] -= 1
        connection = peer.connection
        peer.drop()
        assert connection.watch_count == 0
        assert {path: len(clients) for path, clients in parts.watches.by_path()} == {
            path: count for path, count in kept.items() if count
        }
    assert len(parts.watches.of_client(peers[3].connection)) == parts.watches.path_count == 800
    assert peers[3].connection.watch_count == 800
    peers[3].drop()
    assert len(parts.watches) == parts.watches.path_count == parts.watches.recursive_count == 0


def test_ten_thousand_paths(parts: Parts) -> None:
    watcher, writer = parts.session(), parts.session()
    for number in range(10_000):
        watcher.send(wire.exists(f"/w{number}", watch=True))
        assert len(watcher.replies()) == 1
    assert len(parts.watches) == 10_000
    told = []
    for start in range(0, 10_000, 100):
        assert do(parts, writer, *(wire.create(f"/w{number}") for number in range(start, start + 100))) == [0] * 100
        told += events(watcher)
    assert told == [(CREATED, f"/w{number}") for number in range(10_000)]
    assert len(parts.watches) == 0
