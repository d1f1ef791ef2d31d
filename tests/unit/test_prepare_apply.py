"""Writes from request to tree: random histories of several clients against the oracle, and single traps."""

from __future__ import annotations

import base64
import hashlib
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model import STAT
from oracle import ADD_WATCH, CREATE_CONTAINER, REMOVE_WATCHES, Frame, Line, Op, Oracle, decode, masked
from parts import STORE_ID, Parts, Peer, frame
from support import wire
from support.wire import Acl

from fastzk._log import TxnLog
from fastzk._tree import Tree
from fastzk.server._apply import Applier

ADA = f"ada:{base64.b64encode(hashlib.sha1(b'ada:pw').digest()).decode()}"
ACLS = (
    wire.OPEN,
    wire.OPEN,
    (Acl(wire.PERM_READ, "world", "anyone"),),
    (Acl(wire.PERM_ALL, "digest", ADA),),
    (Acl(wire.PERM_ALL, "auth", ""), Acl(wire.PERM_READ | wire.PERM_CREATE, "world", "anyone")),
    (Acl(wire.PERM_ALL, "ip", "127.0.0.1"), Acl(wire.PERM_ALL, "ip", "127.0.0.1")),
    (Acl(wire.PERM_ALL, "world", "nobody"),),
    None,
)
PATHS = ("/a", "/b", "/a/c", "/a/d", "/a/c/e", "/b/", "/zookeeper", "/", "rel")
DATA = st.sampled_from((None, b"", b"x", b"data" * 5))
VERSIONS = st.sampled_from((-1, -1, -1, 0, 1, 2))
PATH = st.sampled_from(PATHS[:5] * 3 + PATHS)
PROPER = st.sampled_from(PATHS[:5] * 3 + ("/zookeeper", "/"))

CREATES = st.builds(
    Op,
    st.sampled_from((wire.CREATE, wire.CREATE, wire.CREATE2, CREATE_CONTAINER)),
    PATH,
    DATA,
    st.sampled_from((0, 0, 1, 2, 3)),
    acl=st.sampled_from(ACLS),
)
DELETES = st.builds(Op, st.just(wire.DELETE), PATH, version=VERSIONS)
SETS = st.builds(Op, st.just(wire.SET_DATA), PROPER, DATA, version=VERSIONS)
CHECKS = st.builds(Op, st.just(wire.CHECK), PROPER, version=VERSIONS)
SET_ACLS = st.builds(Op, st.just(wire.SET_ACL), PROPER, version=VERSIONS, acl=st.sampled_from(ACLS))
# inside a multi the flags say what is made; 4 is a container
CREATES_INSIDE = CREATES | st.builds(Op, st.just(CREATE_CONTAINER), PATH, DATA, st.just(4))
MULTIS = st.builds(
    Op, st.just(wire.MULTI), parts=st.lists(CREATES_INSIDE | DELETES | SETS | CHECKS, max_size=5).map(tuple)
)
READS = st.builds(
    Op,
    st.sampled_from((wire.EXISTS, wire.GET_DATA, wire.GET_CHILDREN, wire.GET_CHILDREN2, wire.GET_ACL)),
    PROPER,
    watch=st.booleans(),
)
SYNCS = st.builds(Op, st.just(wire.SYNC), PROPER)
WATCHES = st.builds(Op, st.just(ADD_WATCH), PROPER, flags=st.integers(0, 1)) | st.builds(
    Op, st.just(REMOVE_WATCHES), PROPER, flags=st.integers(1, 3)
)
CLOSE = st.just(Op(wire.CLOSE_SESSION))
REQUESTS = st.one_of(CREATES, CREATES, DELETES, SETS, SETS, CHECKS, SET_ACLS, MULTIS, READS, READS, SYNCS, WATCHES)


class Driven:
    """One connection of the random test: the real one and the oracle's line beside it."""

    def __init__(self, parts: Parts, oracle: Oracle) -> None:
        self.parts = parts
        self.oracle = oracle
        self.peer: Peer = parts.peer()
        self.line = Line()
        self.sent: list[tuple[int, int, Op]] = []  # (bytes up to its end, xid, op), not arrived yet
        self.bytes_sent = 0
        self.bytes_taken = 0
        self.got: list[Frame] = []

    def connect(self, digest: bool) -> None:
        self.peer.greet()
        self.line.session = self.peer.connection.session_id
        self.oracle.new_session(self.line)
        self.parts.settle()
        self.oracle.progress(0)
        (greeting,) = self.peer.frames()
        self.password = greeting[20:36]
        assert self.line.expected.pop()[3] == "session"
        if digest:
            self.peer.feed(frame(wire.XID_AUTH, wire.auth("digest", b"ada:pw")))
            assert [reply[:3] for reply in self.peer.replies()] == [(wire.XID_AUTH, 0, 0)]
            self.line.identities += (("digest", ADA),)

    def send(self, op: Op) -> bytes:
        self.peer.xid += 1
        raw = frame(self.peer.xid, op.request)
        self.bytes_sent += len(raw)
        self.sent.append((self.bytes_sent, self.peer.xid, op))
        return raw

    def feed(self, raw: bytes) -> None:
        """Let bytes arrive; the oracle sees the requests that are whole with them."""
        self.bytes_taken += self.peer.feed(raw)
        while self.sent and self.sent[0][0] <= self.bytes_taken and self.line.open:
            _, xid, op = self.sent.pop(0)
            closing = any(entry.line is self.line and entry.closes for entry in self.oracle.entries)
            if not closing:
                self.oracle.arrives(self.line, xid, op)
        assert len(self.oracle.entries) == self.parts.pipeline.pending

    def collect(self) -> None:
        for reply in self.peer.replies():
            if reply.xid == wire.XID_EVENT:
                self.got.append((-1, reply.zxid, reply.err, tuple(wire.decode_event(reply))))
            else:
                self.got.append(decode(self.line.ops[reply.xid], reply))
            at = len(self.got) - 1
            assert at < len(self.line.expected), f"unexpected: {self.got[-1]}"
            assert self.got[at] == self.line.expected[at], self.line.ops.get(reply.xid)

    def drop(self) -> None:
        self.collect()
        del self.line.expected[len(self.got) :]  # what was not sent yet is lost with the connection
        self.peer.drop()
        self.oracle.lost(self.line)


def assert_same(tree: Tree, oracle: Oracle) -> None:
    """The real tree is as the oracle's, but for its times."""
    assert len(tree) == len(oracle.applied.nodes)
    for path, node in oracle.applied.nodes.items():
        assert masked(STAT.unpack(tree.stat(path))) == masked(node.stat), path
        assert tree.data(path) == node.data
        assert tree.acl(path) == node.acl
        assert tree.owner(path) == node.owner
        assert set(tree.children(path)) == node.children
    assert tree.digest == tree.compute_digest()
    assert len(tree.acls) == len(oracle.applied.acls)


@settings(max_examples=100, deadline=None, report_multiple_bugs=False)
@given(st.data())
def test_random_histories(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name, Parts(Path(name)) as parts:
        oracle = Oracle()
        clients: list[Driven] = []
        for number in range(data.draw(st.integers(1, 3), "clients")):
            clients.append(Driven(parts, oracle))
            clients[-1].connect(digest=number == 0)
        everybody = list(clients)
        orphans: list[Driven] = []
        for _ in range(data.draw(st.integers(1, 25), "steps")):
            action = data.draw(st.sampled_from(("send",) * 6 + ("turn", "durable", "drop", "close", "expire")))
            if action == "turn":
                parts.turn()
            elif action == "durable":
                parts.turn()
                parts.durable()
            elif action == "expire" and orphans:
                orphan = orphans.pop()
                oracle.expires(orphan.line.session)
                parts.pipeline.expire_session(orphan.line.session)
            elif clients and action in {"send", "drop", "close"}:
                client = data.draw(st.sampled_from(clients))
                if action == "drop":
                    client.drop()
                    clients.remove(client)
                    orphans.append(client)
                else:
                    requests = data.draw(st.lists(REQUESTS, min_size=1, max_size=8))
                    if action == "close":
                        requests.append(Op(wire.CLOSE_SESSION))
                        clients.remove(client)
                    raw = b"".join(client.send(op) for op in requests)
                    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=4), "cuts"))
                    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
                        client.feed(raw[start:stop])
            oracle.progress(parts.pipeline.pending)
            for client in clients:
                client.collect()
        parts.settle()
        oracle.progress(0)
        for client in everybody:
            client.collect()
            assert len(client.got) == len(client.line.expected), client.line.expected[len(client.got) :]
        assert len(parts.overlay) == 0
        assert_same(parts.tree, oracle)
        assert parts.applier.zxid == oracle.next_zxid - 1
        digest = parts.tree.digest
        acls = len(parts.tree.acls)
        parts.log.close()
        # And what the log tells makes the same tree.
        again = Tree()
        again.plant()
        applier = Applier(again, 0)
        applier.on_session = lambda session, timeout: None
        log = TxnLog(name, STORE_ID, segment_bytes=64 << 10)
        for batch in log.recover(0):
            applier.replay_batch(batch.payload)
        assert (again.digest, len(again.acls)) == (digest, acls)


def test_close_session_spares_what_was_its_own_and_is_now_anothers(tmp_path: Path) -> None:
    """In one batch: an ephemeral is deleted, its path used by another client, and then its first owner closes."""
    with Parts(tmp_path) as parts:
        first, second = parts.session(), parts.session()
        first.send(wire.create("/e", flags=wire.EPHEMERAL))
        parts.settle()
        second.send(wire.delete("/e"), wire.create("/e", b"second"))
        first.send(wire.Request(wire.CLOSE_SESSION, b""))
        second.send(wire.create("/e"), wire.set_data("/e", b"third"))
        parts.settle()
        assert [reply.err for reply in second.replies()] == [0, 0, wire.NODE_EXISTS, 0]
        assert parts.tree.data(b"/e") == b"third"
        assert len(parts.overlay) == 0


def test_a_failed_multi_leaves_no_trace_in_what_is_proposed(tmp_path: Path) -> None:
    with Parts(tmp_path) as parts:
        peer = parts.session()
        peer.send(
            wire.create("/a", b"one"),
            wire.multi(
                [
                    wire.set_data("/a", b"two"),
                    wire.create("/a/s", flags=wire.SEQUENTIAL, acl=[Acl(wire.PERM_READ, "world", "anyone")]),
                    wire.delete("/a/s0000000000"),
                    wire.create("/b"),
                    wire.check("/missing"),
                ]
            ),
            wire.set_data("/a", b"three", version=0),
            wire.create("/a/s", flags=wire.SEQUENTIAL),
            wire.create("/b"),
        )
        parts.settle()
        replies = peer.replies()
        assert [reply.err for reply in replies] == [0] * 5
        assert [part.err for part in wire.decode_multi(replies[1].body)] == [0, 0, 0, 0, wire.NO_NODE]
        assert wire.Reader(replies[3].body).string() == "/a/s0000000000"
        assert parts.tree.data(b"/a") == b"three"
        assert len(parts.tree.acls) == 2  # the open one and that of /zookeeper/config
        assert len(parts.overlay) == 0


@pytest.mark.parametrize("rounds", [1, 40])
def test_many_proposed_changes(tmp_path: Path, rounds: int) -> None:
    """More records and touches than the overlay begins with, and its memory used again and again."""
    with Parts(tmp_path) as parts:
        peer = parts.session()
        rng = random.Random(rounds)
        for _ in range(rounds):
            names = [f"/n{number}" for number in rng.sample(range(5000), 1500 // rounds)]
            peer.send(*(wire.create(name, b"v") for name in names))
            peer.send(*(wire.set_data(name, b"w", version=0) for name in names))
            peer.send(*(wire.delete(name, version=1) for name in names))
            assert len(parts.overlay) == len(names) + 1  # and the root
            parts.settle()
            assert {reply.err for reply in peer.replies()} == {0}
            assert len(parts.overlay) == 0
        assert len(parts.tree) == 4
        assert parts.tree.digest == parts.tree.compute_digest()


def test_every_byte_missing_from_a_multi_is_a_marshalling_error(tmp_path: Path) -> None:
    whole = wire.multi([wire.create("/a", b"data"), wire.set_data("/a", b"x"), wire.delete("/a"), wire.check("/")])
    with Parts(tmp_path) as parts:
        peer = parts.session()
        for size in range(len(whole.body)):
            peer.send(wire.Request(wire.MULTI, whole.body[:size]))
        peer.send(whole)
        parts.settle()
        replies = peer.replies()
        assert {reply.err for reply in replies[:-1]} == {wire.MARSHALLING}
        assert [part.err for part in wire.decode_multi(replies[-1].body)] == [0, 0, 0, 0]
        assert parts.applier.zxid == 2  # the session and this
