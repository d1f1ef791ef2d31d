"""The requests that ZooKeeper does not have: ClickHouse Keeper's, and pages of a children list."""

from __future__ import annotations

import json
import logging
import random
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from parts import SMALLEST_SEGMENT, STORE_ID, Parts, Peer
from support import wire
from support.wire import Acl, Request

from fastzk._log import TxnLog
from fastzk._tree import Tree
from fastzk.protocol import KeeperFeature
from fastzk.server._apply import Applier
from fastzk.server.config import load_config
from fastzk.server.extensions import KEEPER_FEATURES, NAMES, feature_flags, virtual_znodes

FILTERED_LIST, CHECK_NOT_EXISTS, CREATE_IF_NOT_EXISTS, REMOVE_RECURSIVE = range(500, 504)
PAGED_LIST = 0x667A0001
MULTI_READ = 22
ALL, PERSISTENT_ONLY, EPHEMERAL_ONLY = range(3)
WATCH, PAGE_PERSISTENT, PAGE_EPHEMERAL = 1, 2, 4
READ_ONLY = (Acl(wire.PERM_READ, "world", "anyone"),)
WRITE_ONLY = (Acl(wire.PERM_ALL - wire.PERM_READ, "world", "anyone"),)
NO_DELETE = (Acl(wire.PERM_ALL - wire.PERM_DELETE, "world", "anyone"),)
END_OF_MULTI = struct.pack(">i?i", -1, True, -1)


def extended(parts: Parts) -> Parts:
    parts.service.reads.extend(virtual_znodes())
    parts.pipeline.preparer.extensions = True
    return parts


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with Parts(tmp_path) as made:
        yield extended(made)
        made.check()


def filtered_list(path: str, kind: int, watch: bool = False) -> Request:
    return Request(FILTERED_LIST, wire.text(path) + struct.pack(">?B", watch, kind))


def check_not_exists(path: str, version: int = -1) -> Request:
    return Request(CHECK_NOT_EXISTS, wire.text(path) + struct.pack(">i", version))


def create_if_not_exists(path: str, data: bytes = b"", flags: int = 0, acl: Iterable[Acl] = wire.OPEN) -> Request:
    return Request(CREATE_IF_NOT_EXISTS, wire.create(path, data, flags, acl).body)


def remove_recursive(path: str, limit: int = 1000) -> Request:
    return Request(REMOVE_RECURSIVE, wire.text(path) + struct.pack(">I", limit))


def paged_list(path: str, after: str | None = None, limit: int = 0, flags: int = 0) -> Request:
    return Request(PAGED_LIST, wire.text(path) + wire.text(after) + struct.pack(">ii", limit, flags))


def multi_read(*requests: Request) -> Request:
    return Request(MULTI_READ, wire.multi(requests).body)


def ask(parts: Parts, peer: Peer, *requests: Request) -> list[wire.Reply]:
    """The replies to ``requests``, sent at once; without events."""
    peer.send(*requests)
    parts.settle()
    return [reply for reply in peer.replies() if reply.xid >= 0]


def errors(parts: Parts, peer: Peer, *requests: Request) -> list[int]:
    return [reply.err for reply in ask(parts, peer, *requests)]


def page_of(reply: wire.Reply) -> tuple[list[str], str, wire.Stat]:
    assert reply.err == 0
    reader = wire.Reader(reply.body)
    page = reader.strings(), reader.string(), reader.stat()
    reader.end()
    return page


def events_of(peer: Peer) -> list[wire.Event]:
    return [wire.decode_event(reply) for reply in peer.replies() if reply.xid == wire.XID_EVENT]


# -- which there are ------------------------------------------------------------------------------------------


def test_feature_flags_are_written_as_keeper_writes_them() -> None:
    assert feature_flags() == bytes([0b11111001])
    for feature in KeeperFeature:
        at = feature // 8
        bit = feature_flags()[at] >> 7 - feature % 8 & 1 if at < len(feature_flags()) else 0
        assert bit == (feature in KEEPER_FEATURES), feature


def test_znodes_that_tell_of_extensions(parts: Parts) -> None:
    peer = parts.session()
    for path, data in virtual_znodes().items():
        got, there = ask(parts, peer, wire.get_data(path), wire.exists(path))
        reader = wire.Reader(got.body)
        assert reader.buffer() == data
        stat = reader.stat()
        assert stat == wire.Stat(0, 0, 0, 0, 0, 0, 0, 0, len(data), 0, 0)
        assert wire.Reader(there.body).stat() == stat
        assert (
            errors(parts, peer, wire.get_children(path), wire.get_acl(path.decode()), wire.delete(path))
            == [wire.NO_NODE] * 3
        )
        (reply,) = ask(parts, peer, multi_read(wire.get_data(path)))
        assert reply.body == struct.pack(">i?i", 4, False, 0) + got.body + END_OF_MULTI
    assert virtual_znodes()[b"/keeper/api_version"] == b"3"
    features = json.loads(virtual_znodes()[b"/zookeeper/features"])
    assert features == {name: int(op) for name, op in NAMES.items()}
    assert features["pagedList"] == PAGED_LIST
    (root, zookeeper) = ask(parts, peer, wire.get_children("/"), wire.get_children("/zookeeper"))
    assert wire.Reader(root.body).strings() == ["zookeeper"]
    assert sorted(wire.Reader(zookeeper.body).strings()) == ["config", "quota"]
    # neighbours of the same length
    assert (
        errors(parts, peer, wire.exists("/keeper/api_versio_"), wire.exists("/keeper/feature_flag_"))
        == [wire.NO_NODE] * 2
    )


def test_a_real_znode_goes_before_a_made_up_one(parts: Parts) -> None:
    peer = parts.session()
    replies = ask(
        parts,
        peer,
        wire.exists("/zookeeper/features", watch=True),
        wire.create("/zookeeper/features", b"mine"),
        wire.get_data("/zookeeper/features"),
    )
    assert [reply.err for reply in replies] == [0, 0, 0]
    assert wire.Reader(replies[2].body).buffer() == b"mine"


def test_a_watch_on_a_made_up_znode_tells_of_a_real_one(parts: Parts) -> None:
    peer = parts.session()
    ask(parts, peer, wire.get_data("/zookeeper/features", watch=True))
    peer.send(wire.create("/zookeeper/features"))
    parts.settle()
    assert events_of(peer) == [wire.Event(wire.CREATED, 3, "/zookeeper/features")]


@pytest.mark.parametrize(
    "request_",
    [
        filtered_list("/", ALL),
        check_not_exists("/a"),
        create_if_not_exists("/a"),
        remove_recursive("/a"),
        paged_list("/"),
    ],
    ids=lambda request: str(request.op),
)
def test_without_extensions_they_are_unknown_requests(tmp_path: Path, request_: Request) -> None:
    with Parts(tmp_path) as parts:
        peer = parts.session()
        peer.send(request_)
        parts.settle()
        (reply,) = peer.replies()
        assert (reply.err, reply.zxid, reply.body) == (wire.UNIMPLEMENTED, -1, b"")
        assert peer.closed
        peer = parts.session()
        assert errors(parts, peer, wire.exists("/keeper/api_version")) == [wire.NO_NODE]
        if request_.op in (CHECK_NOT_EXISTS, CREATE_IF_NOT_EXISTS, REMOVE_RECURSIVE):
            (reply,) = ask(parts, peer, wire.multi([request_]))
            assert (reply.err, reply.body) == (wire.MARSHALLING, b"")
        (reply,) = ask(parts, peer, multi_read(wire.exists("/")))
        assert (reply.err, reply.body) == (wire.MARSHALLING, b"")


# -- filteredList ---------------------------------------------------------------------------------------------


def test_filtered_list(parts: Parts) -> None:
    peer = parts.session()
    made = [wire.create("/p"), wire.create("/p/a"), wire.create("/p/b", flags=1), wire.create("/p/c", flags=1)]
    made.append(Request(19, wire.create("/p/d", flags=4).body))  # a container persists
    made.append(Request(21, wire.create("/p/e", flags=5).body + struct.pack(">q", 100_000)))
    assert errors(parts, peer, *made) == [0] * 6
    whole = ask(parts, peer, wire.get_children2("/p"))[0]
    for kind, names in ((ALL, "abcde"), (PERSISTENT_ONLY, "ade"), (EPHEMERAL_ONLY, "bc")):
        (reply,) = ask(parts, peer, filtered_list("/p", kind))
        reader = wire.Reader(reply.body)
        assert sorted(reader.strings()) == list(names)
        assert reader.stat() == wire.Stat(*wire.STAT.unpack(whole.body[-68:]))
        reader.end()
        result = multi_read(filtered_list("/p", kind))
        assert ask(parts, peer, result)[0].body == struct.pack(">i?i", 12, False, 0) + reply.body + END_OF_MULTI
    cut = Request(FILTERED_LIST, wire.text("/p") + b"\0")
    secret = wire.create("/secret", acl=WRITE_ONLY)
    assert errors(
        parts, peer, filtered_list("/p", 3), cut, filtered_list("/x", ALL), secret, filtered_list("/secret", ALL)
    ) == [wire.BAD_ARGUMENTS, wire.MARSHALLING, wire.NO_NODE, 0, wire.NO_AUTH]


def test_filtered_list_sets_a_watch_on_the_children(parts: Parts) -> None:
    peer = parts.session()
    ask(parts, peer, filtered_list("/", EPHEMERAL_ONLY, watch=True))
    peer.send(wire.create("/a"), wire.create("/b"))
    parts.settle()
    assert events_of(peer) == [wire.Event(wire.CHILDREN_CHANGED, 3, "/")]


# -- multiRead ------------------------------------------------------------------------------------------------


def test_a_multi_read_takes_what_keepers_clients_put_into_it(parts: Parts) -> None:
    peer = parts.session()
    ask(parts, peer, wire.create("/a", b"1"), wire.create("/a/b"))
    asked = [read("/a") for read in (wire.exists, wire.get_children2, wire.get_data, wire.get_children)]
    asked.append(wire.exists("/x"))
    alone = ask(parts, peer, *asked)
    (together,) = ask(parts, peer, multi_read(*asked))
    expected = b""
    for request, reply in zip(asked, alone, strict=True):
        if reply.err:
            expected += struct.pack(">i?ii", -1, False, reply.err, reply.err)
        else:
            expected += struct.pack(">i?i", request.op, False, 0) + reply.body
    assert together.body == expected + END_OF_MULTI
    (reply,) = ask(parts, peer, multi_read(wire.get_data("/a"), filtered_list("/a", 7)))
    assert reply.body.endswith(struct.pack(">i?ii", -1, False, -8, -8) + END_OF_MULTI)


# -- checkNotExists, createIfNotExists ------------------------------------------------------------------------


def test_check_not_exists(parts: Parts) -> None:
    peer = parts.session()
    assert errors(
        parts,
        peer,
        check_not_exists("/a"),
        check_not_exists("/a/b/c", 3),
        wire.create("/a"),
        check_not_exists("/a"),  # of a znode that is only proposed yet
        check_not_exists("/a", 0),
        check_not_exists("/a", 1),
        check_not_exists("/"),
        check_not_exists("a"),
        Request(CHECK_NOT_EXISTS, wire.text("/a")),
        wire.create("/secret", acl=WRITE_ONLY),
        check_not_exists("/secret", 7),
        wire.delete("/a"),
        check_not_exists("/a"),
    ) == [0, 0, 0, -110, -110, 0, -110, -8, -5, 0, -102, 0, 0]


def test_create_if_not_exists(parts: Parts) -> None:
    peer = parts.session()
    before = parts.pipeline.txns
    replies = ask(
        parts,
        peer,
        create_if_not_exists("/a", b"1"),
        create_if_not_exists("/a", b"2"),
        wire.get_data("/a"),
        create_if_not_exists("/e", flags=1),
        create_if_not_exists("/a", flags=2),
        create_if_not_exists("/s-", flags=3),
        create_if_not_exists("/x/y"),
        create_if_not_exists("/e/y"),
        create_if_not_exists("a"),
        create_if_not_exists("/a", flags=9),
        Request(CREATE_IF_NOT_EXISTS, wire.text("/a")),
    )
    assert [reply.err for reply in replies] == [0, 0, 0, 0, -8, -8, -101, -108, -8, -8, -5]
    assert replies[0].body == replies[1].body == wire.text("/a")
    assert replies[3].body == wire.text("/e")
    assert replies[2].body.startswith(wire.text(b"1"))
    assert parts.pipeline.txns - before == 2
    assert parts.tree.owner(b"/e") == peer.connection.session_id
    # nothing under way: the reply is the same
    (reply,) = ask(parts, peer, create_if_not_exists("/a"))
    assert (reply.err, reply.body, reply.zxid) == (0, wire.text("/a"), parts.applier.zxid)
    assert errors(parts, peer, wire.set_acl("/a", READ_ONLY), create_if_not_exists("/a/b")) == [0, wire.NO_AUTH]


# -- removeRecursive ------------------------------------------------------------------------------------------


def grow(parts: Parts, peer: Peer, *paths: str) -> None:
    assert errors(parts, peer, *(wire.create(path) for path in paths)) == [0] * len(paths)


def test_remove_recursive(parts: Parts) -> None:
    peer = parts.session()
    grow(parts, peer, "/a", "/a/b", "/a/b/c", "/a/d", "/ab", "/z")
    before, zxid = parts.pipeline.txns, parts.applier.zxid
    assert errors(parts, peer, remove_recursive("/a", 3), remove_recursive("/a", 0)) == [wire.NOT_EMPTY] * 2
    assert parts.applier.zxid == zxid
    (reply,) = ask(parts, peer, remove_recursive("/a", 4))
    assert (reply.err, reply.body, reply.zxid) == (0, b"", zxid + 1)
    assert parts.pipeline.txns == before + 1
    assert sorted(parts.tree.children(b"/")) == [b"ab", b"z", b"zookeeper"]
    assert len(parts.overlay) == 0
    assert errors(
        parts,
        peer,
        remove_recursive("/a"),
        remove_recursive("/"),
        remove_recursive("/zookeeper"),
        remove_recursive("/zookeeper/quota"),
        remove_recursive("z"),
        Request(REMOVE_RECURSIVE, wire.text("/z")),
        remove_recursive("/z", 0xFFFFFFFF),
        remove_recursive("/ab/x/y"),
    ) == [wire.NO_NODE, -8, -8, -8, -8, -5, 0, wire.NO_NODE]


def test_remove_recursive_sees_what_is_proposed(parts: Parts) -> None:
    peer = parts.session()
    grow(parts, peer, "/a", "/a/old", "/a/gone", "/a/again")
    replies = errors(
        parts,
        peer,
        wire.create("/a/new"),
        wire.create("/a/new/below"),
        wire.create("/ab"),
        wire.delete("/a/gone"),
        wire.delete("/a/again"),
        wire.create("/a/again"),
        remove_recursive("/a", 4),  # /a, old, new, new/below, again
        remove_recursive("/a", 5),
        wire.create("/a/x"),
        wire.create("/a"),
        wire.create("/a/x"),
        remove_recursive("/a", 2),
        remove_recursive("/a", 2),
    )
    assert replies == [0] * 6 + [wire.NOT_EMPTY, 0, wire.NO_NODE, 0, 0, 0, wire.NO_NODE]
    assert sorted(parts.tree.children(b"/")) == [b"ab", b"zookeeper"]
    assert parts.tree.digest == parts.tree.compute_digest()


def test_remove_recursive_asks_for_delete_on_every_parent(parts: Parts) -> None:
    peer = parts.session()
    grow(parts, peer, "/a", "/a/b", "/a/b/c")
    ask(parts, peer, wire.set_acl("/a/b", NO_DELETE))
    assert errors(parts, peer, remove_recursive("/a")) == [wire.NO_AUTH]
    assert len(parts.overlay) == 0
    assert errors(parts, peer, wire.delete("/a/b/c"), wire.set_acl("/a/b", wire.OPEN)) == [wire.NO_AUTH, 0]
    assert errors(parts, peer, remove_recursive("/a")) == [0]


def test_remove_recursive_tells_watchers_children_first(parts: Parts) -> None:
    peer, watcher = parts.session(), parts.session()
    grow(parts, peer, "/a", "/a/b", "/a/b/c")
    for path in ("/a", "/a/b", "/a/b/c"):
        ask(parts, watcher, wire.exists(path, watch=True))
    ask(parts, watcher, wire.get_children("/", watch=True))
    ask(parts, peer, remove_recursive("/a"))
    assert events_of(watcher) == [
        wire.Event(wire.DELETED, 3, "/a/b/c"),
        wire.Event(wire.DELETED, 3, "/a/b"),
        wire.Event(wire.DELETED, 3, "/a"),
        wire.Event(wire.CHILDREN_CHANGED, 3, "/"),
    ]


def test_remove_recursive_makes_no_transaction_that_zookeeper_could_not_read(parts: Parts) -> None:
    peer = parts.session()
    parts.pipeline.preparer.max_removal = 500
    grow(parts, peer, "/a", *(f"/a/{number:020}" for number in range(20)))
    digest = parts.tree.digest
    assert errors(parts, peer, remove_recursive("/a")) == [wire.NOT_EMPTY]
    assert (parts.tree.digest, len(parts.overlay)) == (digest, 0)
    parts.pipeline.preparer.max_removal = 5000
    assert errors(parts, peer, remove_recursive("/a")) == [0]


def test_ephemerals_go_with_it(parts: Parts) -> None:
    peer, owner = parts.session(), parts.session()
    grow(parts, peer, "/a")
    ask(parts, owner, wire.create("/a/e", flags=1))
    assert errors(parts, peer, remove_recursive("/a")) == [0]
    assert parts.tree.ephemeral_count == 0
    assert errors(parts, owner, Request(wire.CLOSE_SESSION, b"")) == [0]


# -- in a multi -----------------------------------------------------------------------------------------------


def results_of(reply: wire.Reply) -> list[tuple[int, int, bytes | None]]:
    """Type, error and path of each result."""
    assert reply.err == 0
    reader = wire.Reader(reply.body)
    found: list[tuple[int, int, bytes | None]] = []
    while True:
        kind, done, err = reader.unpack(struct.Struct(">i?i"))
        if done:
            reader.end()
            return found
        path = None
        if kind == -1:
            assert reader.int() == err
        elif kind in (1, 15, CREATE_IF_NOT_EXISTS):
            path = reader.buffer()
        if kind in (5, 15):
            reader.stat()
        found.append((kind, err, path))


def test_extensions_in_a_multi(parts: Parts) -> None:
    peer = parts.session()
    grow(parts, peer, "/a", "/a/b", "/a/c", "/old")
    before = parts.pipeline.txns
    (reply,) = ask(
        parts,
        peer,
        wire.multi(
            [
                wire.set_data("/old", b"1"),
                create_if_not_exists("/old", b"2"),
                remove_recursive("/a", 3),
                check_not_exists("/a"),
                create_if_not_exists("/a", b"3"),
                create_if_not_exists("/a", b"4"),
                Request(19, wire.create("/a/k", flags=4).body),
                wire.check("/old", 1),
                wire.delete("/old"),
            ]
        ),
    )
    assert results_of(reply) == [
        (5, 0, None),
        (CREATE_IF_NOT_EXISTS, 0, b"/old"),
        (REMOVE_RECURSIVE, 0, None),
        (CHECK_NOT_EXISTS, 0, None),
        (CREATE_IF_NOT_EXISTS, 0, b"/a"),
        (CREATE_IF_NOT_EXISTS, 0, b"/a"),
        (15, 0, b"/a/k"),
        (13, 0, None),
        (2, 0, None),
    ]
    assert parts.pipeline.txns == before + 1
    assert parts.tree.data(b"/a") == b"3"
    assert parts.tree.children(b"/a") == [b"k"]
    assert sorted(parts.tree.children(b"/")) == [b"a", b"zookeeper"]
    # a multi in which nothing changes
    (reply,) = ask(parts, peer, wire.multi([check_not_exists("/x"), create_if_not_exists("/a")]))
    assert results_of(reply) == [(CHECK_NOT_EXISTS, 0, None), (CREATE_IF_NOT_EXISTS, 0, b"/a")]
    # and one of ZooKeeper's requests behind it has its own shape again
    (reply,) = ask(parts, peer, wire.multi([wire.check("/a")]))
    assert results_of(reply) == [(13, 0, None)]


def test_a_multi_with_an_extension_that_fails_changes_nothing(parts: Parts) -> None:
    peer = parts.session()
    grow(parts, peer, "/a", "/a/b", "/c")
    digest, zxid = parts.tree.digest, parts.applier.zxid
    for last, err in (
        (check_not_exists("/c"), wire.NODE_EXISTS),
        (remove_recursive("/none"), wire.NO_NODE),
        (remove_recursive("/c", 0), wire.NOT_EMPTY),
        (create_if_not_exists("/q/m"), wire.NO_NODE),
        (create_if_not_exists("/n", flags=2), wire.BAD_ARGUMENTS),
    ):
        asked = [remove_recursive("/a"), create_if_not_exists("/n"), last, check_not_exists("/x")]
        (reply,) = ask(parts, peer, wire.multi(asked))
        assert results_of(reply) == [(-1, 0, None), (-1, 0, None), (-1, err, None), (-1, -2, None)]
        assert len(parts.overlay) == 0
    assert (parts.tree.digest, parts.applier.zxid) == (digest, zxid)


def test_random_multis_leave_one_history(tmp_path: Path) -> None:
    """Whatever is mixed and pipelined, the log replays to the same tree, and the overlay ends empty."""
    r = random.Random(5)
    paths = ["/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f", "/g"]
    with Parts(tmp_path) as parts:
        extended(parts)
        peer = parts.session()
        answered = 0
        for _ in range(300):
            requests = []
            for _ in range(r.randrange(1, 5)):
                inner = [
                    r.choice(
                        [
                            wire.create(path),
                            wire.delete(path),
                            wire.set_data(path, b"x" * r.randrange(9)),
                            create_if_not_exists(path, flags=r.choice((0, 0, 1))),
                            remove_recursive(path, r.choice((1, 2, 9))),
                            check_not_exists(path, r.choice((-1, 1))),
                        ]
                    )
                    for path in r.choices(paths, k=r.randrange(1, 5))
                ]
                requests += [wire.multi(inner)] if r.random() < 0.6 else inner
            peer.send(*requests)
            answered += len(requests)
            if r.random() < 0.5:
                parts.turn()
            if r.random() < 0.3:
                parts.settle()
        parts.settle()
        replies = [reply for reply in peer.replies() if reply.xid >= 0]
        assert [reply.xid for reply in replies] == list(range(1, answered + 1))
        assert {0, -101, -110, -111} <= {reply.err for reply in replies}
        assert len(parts.overlay) == 0
        digest = parts.tree.digest
        assert digest == parts.tree.compute_digest()
    again = Tree()
    again.plant()
    applier = Applier(again, 0)
    applier.on_session = lambda session, timeout: None
    log = TxnLog(tmp_path, STORE_ID, segment_bytes=SMALLEST_SEGMENT)
    for batch in log.recover(0):
        applier.replay_batch(batch.payload)
    log.close()
    assert again.digest == digest


# -- pagedList ------------------------------------------------------------------------------------------------


def read_pages(parts: Parts, peer: Peer, path: str, limit: int, flags: int = 0) -> list[list[str]]:
    pages = []
    after = ""
    while True:
        names, after, _ = page_of(ask(parts, peer, paged_list(path, after, limit, flags))[0])
        pages.append(names)
        if not after:
            return pages
        assert after == names[-1]


def test_pages_of_a_short_list(parts: Parts) -> None:
    peer = parts.session()
    names = ["b", "a", "c", "ab", "é", "A", "a b"]
    grow(parts, peer, "/p", *(f"/p/{name}" for name in names))
    ordered = sorted(names, key=str.encode)
    assert read_pages(parts, peer, "/p", 0) == [ordered]
    assert read_pages(parts, peer, "/p", 7) == [ordered]
    assert read_pages(parts, peer, "/p", 1) == [[name] for name in ordered]
    assert read_pages(parts, peer, "/p", 3) == [ordered[:3], ordered[3:6], ordered[6:]]
    (reply, whole) = ask(parts, peer, paged_list("/p", "zz", 2), wire.exists("/p"))
    assert page_of(reply) == (["é"], "", wire.Reader(whole.body).stat())
    assert page_of(ask(parts, peer, paged_list("/p", "é"))[0])[:2] == ([], "")
    assert page_of(ask(parts, peer, paged_list("/p/a", None, -1))[0])[:2] == ([], "")
    # the cursor need not be a child's name
    assert page_of(ask(parts, peer, paged_list("/p", "aa", 1))[0])[:2] == (["ab"], "ab")


def test_what_is_no_page(parts: Parts) -> None:
    peer = parts.session()
    cut = Request(PAGED_LIST, wire.text("/") + wire.text("") + b"\0\0\0\1")
    assert errors(
        parts,
        peer,
        wire.create("/secret", acl=WRITE_ONLY),
        paged_list("/none"),
        paged_list("/secret"),
        paged_list("/", flags=8),
        paged_list("/", flags=PAGE_PERSISTENT | PAGE_EPHEMERAL),
        Request(PAGED_LIST, b""),
        cut,
        Request(PAGED_LIST, wire.text(None) + cut.body[5:] + bytes(8)),
    ) == [0, wire.NO_NODE, wire.NO_AUTH, -8, -8, -5, -5, -5]


def test_pages_of_some_of_the_children_and_a_watch(parts: Parts) -> None:
    peer = parts.session()
    grow(parts, peer, "/p", "/p/a", "/p/c")
    ask(parts, peer, wire.create("/p/b", flags=1))
    assert read_pages(parts, peer, "/p", 1, PAGE_PERSISTENT) == [["a"], ["c"]]
    assert read_pages(parts, peer, "/p", 9, PAGE_EPHEMERAL) == [["b"]]
    ask(parts, peer, paged_list("/p", flags=WATCH))
    peer.send(wire.delete("/p/a"))
    parts.settle()
    assert events_of(peer) == [wire.Event(wire.CHILDREN_CHANGED, 3, "/p")]


@pytest.mark.parametrize("shape", ["counted up", "counted down", "shuffled", "few alike", "prefixes"])
def test_pages_of_a_list_that_needs_several_searches(parts: Parts, shape: str) -> None:
    r = random.Random(shape)
    count = 150_000
    if shape == "few alike":
        names = {bytes(r.choices(b"abcdefgh", k=r.randrange(1, 14))) for _ in range(count)}
        ordered = sorted(names)
    elif shape == "prefixes":
        ordered = sorted(b"%s%d" % (r.choice((b"", b"n", b"node-", b"node-000000")), number) for number in range(count))
    else:
        ordered = [b"node-%010d" % number for number in range(count)]
    names_in_order = list(ordered)
    if shape == "counted down":
        names_in_order.reverse()
    elif shape != "counted up":
        r.shuffle(names_in_order)
    parts.tree.create(b"/p", None, zxid=1, time=0)
    for number, name in enumerate(names_in_order, 2):
        parts.tree.create(b"/p/" + name, None, zxid=number, time=0)
    peer = parts.session()
    searches = parts.service.reads.pages.searches
    pages = read_pages(parts, peer, "/p", 10_000)
    assert [name.encode() for page in pages for name in page] == ordered
    # 65,536 names a search, and the page at the end of one is shorter
    assert {len(page) for page in pages[:-1]} == {10_000, 5_536}
    assert parts.service.reads.pages.searches - searches <= len(ordered) // 65_536 + 1


def test_a_change_between_two_pages(parts: Parts) -> None:
    """What stays is seen once, whatever comes and goes."""
    r = random.Random(1)
    peer = parts.session()
    stays = {f"s{number:04}" for number in range(0, 600, 2)}
    grow(parts, peer, "/p", *(f"/p/{name}" for name in stays))
    seen: list[str] = []
    after = ""
    other = set[str]()
    while True:
        names, after, _ = page_of(ask(parts, peer, paged_list("/p", after, 17))[0])
        seen += names
        if not after:
            break
        for _ in range(5):
            name = f"s{r.randrange(1, 600, 2):04}"
            request = wire.delete(f"/p/{name}") if name in other else wire.create(f"/p/{name}")
            other ^= {name}
            assert errors(parts, peer, request) == [0]
    assert seen == sorted(set(seen))
    assert stays <= set(seen)


def test_more_lists_than_windows(parts: Parts) -> None:
    peer = parts.session()
    grow(parts, peer, *(f"/{a}" for a in "abcdefghijklmnop"))
    grow(parts, peer, *(f"/{a}/{number}" for a in "abcdefghijklmnop" for number in range(5)))
    for limit in (1, 2, 3):
        cursors = dict.fromkeys("abcdefghijklmnop", "")
        found: dict[str, list[str]] = {a: [] for a in cursors}
        while cursors:
            for a in list(cursors):
                names, cursors[a], _ = page_of(ask(parts, peer, paged_list(f"/{a}", cursors[a], limit))[0])
                found[a] += names
                if not cursors[a]:
                    del cursors[a]
        assert set(map(tuple, found.values())) == {("0", "1", "2", "3", "4")}


def test_a_page_fits_the_limit_of_replies(parts: Parts) -> None:
    peer = parts.session()
    grow(parts, peer, "/p", *(f"/p/{number:040}" for number in range(100)))
    for limit in (1000, 1001, 1023, 1050):
        parts.service.reads.limit(limit, 1 << 20)
        after, seen = "", []
        while True:
            (reply,) = ask(parts, peer, paged_list("/p", after))
            assert 16 + len(reply.body) <= limit
            names, after, _ = page_of(reply)
            seen += names
            if not after:
                break
            assert 16 + len(reply.body) + 2 * 44 > limit
        assert seen == [f"{number:040}" for number in range(100)]
    parts.service.reads.limit(0, 1000)
    names, after, _ = page_of(ask(parts, peer, paged_list("/p"))[0])
    assert len(names) < 25
    # a name that is itself too large comes all the same: a list must end
    parts.service.reads.limit(50, 1000)
    assert [len(page) for page in read_pages(parts, peer, "/p", 0)] == [1] * 100


# -- large replies --------------------------------------------------------------------------------------------


def test_a_list_that_is_too_large_is_an_error(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    peer = parts.session()
    grow(parts, peer, "/p", *(f"/p/{number:010}" for number in range(100)))
    asked = [
        wire.get_children("/p"),
        wire.get_children2("/p"),
        filtered_list("/p", ALL),
        filtered_list("/p", PERSISTENT_ONLY),
    ]
    sizes = [16 + len(reply.body) for reply in ask(parts, peer, *asked)]
    assert sizes == [1420, 1488, 1488, 1488]
    for request, size in zip(asked, sizes, strict=True):
        parts.service.reads.limit(size, 1)
        assert errors(parts, peer, request) == [0]
        parts.service.reads.limit(size - 1, 1)
        assert [(reply.err, reply.body) for reply in ask(parts, peer, request)] == [(wire.MARSHALLING, b"")]
    # a fifth of that is known from the number of children
    parts.service.reads.limit(300, 1)
    assert errors(parts, peer, *asked, wire.get_data("/p"), wire.exists("/p")) == [-5] * 4 + [0, 0]
    assert errors(parts, peer, filtered_list("/p", EPHEMERAL_ONLY), wire.get_children("/p")) == [0, -5]
    assert len(caplog.records) == 1  # at most once a minute
    parts.service.reads.limit(0, 1)
    assert errors(parts, peer, *asked) == [0] * 4


def test_a_refused_list_is_logged_with_its_size(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    peer = parts.session()
    grow(parts, peer, "/p", "/p/abcdefghij")
    parts.service.reads.limit(30, 1)
    with caplog.at_level(logging.WARNING, "fastzk.server.reads"):
        assert errors(parts, peer, wire.get_children("/p")) == [wire.MARSHALLING]
    (record,) = caplog.records
    assert "path=/p bytes=34 " in record.getMessage()
    assert "pagedList" in record.getMessage()


def test_a_refused_list_sets_no_watch(parts: Parts) -> None:
    peer = parts.session()
    grow(parts, peer, "/p", "/p/abcdefghij")
    parts.service.reads.limit(30, 1)
    ask(parts, peer, wire.get_children("/p", watch=True), filtered_list("/p", ALL, watch=True))
    assert peer.connection.watch_count == 0


def test_other_replies_that_are_too_large(parts: Parts) -> None:
    peer = parts.session()
    grow(parts, peer, "/p")
    ask(parts, peer, *(wire.create(f"/p/{number:030}", flags=1) for number in range(10)))
    acl = [Acl(1, "ip", f"10.0.0.{number}") for number in range(20)]
    ask(parts, peer, wire.create("/acl", b"x" * 1000, acl=[*wire.OPEN, *acl]))
    asked = [
        Request(103, wire.text("/p")),
        wire.get_acl("/acl"),
        multi_read(wire.get_data("/acl"), wire.get_data("/acl")),
        multi_read(wire.get_children("/p"), wire.get_data("/acl")),
    ]
    for request, reply in zip(asked, ask(parts, peer, *asked), strict=True):
        size = 16 + len(reply.body)
        parts.service.reads.limit(size, 1)
        assert ask(parts, peer, request)[0][2:] == reply[2:]
        parts.service.reads.limit(size - 1, 1)
        assert [(got.err, got.body) for got in ask(parts, peer, request)] == [(wire.MARSHALLING, b"")]
    parts.service.reads.limit(400, 1)
    assert errors(parts, peer, wire.get_data("/acl")) == [0]  # no longer than what was written


# -- a multiRead of what it may not hold ----------------------------------------------------------------------


@pytest.mark.parametrize("with_extensions", [False, True])
def test_a_multi_read_of_writes(tmp_path: Path, with_extensions: bool) -> None:
    """As Apache ZooKeeper answers them: an error with an empty list behind it, unless the kinds are mixed."""
    with Parts(tmp_path) as parts:
        if with_extensions:
            extended(parts)
        peer = parts.session()
        writes = [
            wire.delete("/none"),
            wire.set_data("/none", b"x"),
            wire.create("/q"),
            wire.check("/none"),
            wire.create2("/q"),
            Request(19, wire.create("/q", flags=4).body),
            Request(21, wire.create("/q", flags=5).body + struct.pack(">q", 1000)),
            wire.create("bad//", flags=99, acl=None),
            wire.delete(None),
        ]
        read = wire.get_data("/")
        for write in writes:
            for asked in ([write], [write, write]):
                (reply,) = ask(parts, peer, multi_read(*asked))
                assert (reply.err, reply.body) == (wire.MARSHALLING, END_OF_MULTI), write
            for asked in ([write, read], [read, write], [read, write, read]):
                (reply,) = ask(parts, peer, multi_read(*asked))
                assert (reply.err, reply.body) == (wire.MARSHALLING, b""), write
        assert parts.tree.children(b"/") == [b"zookeeper"]
        (reply,) = ask(parts, peer, multi_read(read, wire.get_data(None), read))
        (single,) = ask(parts, peer, multi_read(read))
        assert (reply.err, reply.body) == (wire.MARSHALLING, single.body)
        for asked in ([Request(99, b"")], [writes[0], Request(99, b"")], [Request(2, wire.text("/none"))]):
            (reply,) = ask(parts, peer, multi_read(*asked))
            assert (reply.err, reply.body) == (wire.MARSHALLING, b"")


# -- configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", (0xFFFFF, True)),
        ("jute.maxbuffer=4194304", (4194304, True)),
        ("jute.maxbuffer=4194304\nmaxReplyBytes=-1", (4194304, True)),
        ("jute.maxbuffer=4194304\nmaxReplyBytes=1000", (1000, True)),
        ("maxReplyBytes=0\nkeeperExtensions=false", (0, False)),
    ],
)
def test_configuration(tmp_path: Path, lines: str, expected: tuple[int, bool]) -> None:
    file = tmp_path / "zoo.cfg"
    file.write_text(f"dataDir={tmp_path}/data\nclientPort=2181\n{lines}\n")
    config = load_config(file, [], {})
    assert (config.max_reply_bytes, config.keeper_extensions) == expected
    assert config.warnings == ()
