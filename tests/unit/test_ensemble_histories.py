"""Random histories of three servers and their clients against the oracle: what is decided, in which order it is
answered where, and what is left of it when the leader is lost.

Every server has a replica of the oracle. All of them are told each decision of the leader, in its order; each works
out for itself when a transaction is applied on its server and when an entry's turn has come. The oracle is told how
far the real server has applied, and how many requests it still has under way; then it knows every byte that its
clients must get.
"""

from __future__ import annotations

import random
import struct
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from members import Ensemble, Member
from model import STAT, ModelTree
from oracle import CREATE_CONTAINER, Entry, Frame, Line, Op, Oracle, decode, masked
from parts import Peer, frame
from support import wire
from test_prepare_apply import ACLS, ADA, PATHS

READS = (wire.EXISTS, wire.GET_DATA, wire.GET_CHILDREN, wire.GET_CHILDREN2, wire.GET_ACL)
SESSION_EXPIRED, SESSION_MOVED = -112, -118
CREATE_SESSION, CLAIM = Op(-10), Op(-12)
FORWARD, REQUEST = struct.Struct(">qq"), struct.Struct(">qqii")
OUTCOME = struct.Struct(">qiq")


@dataclass
class Asked:
    """A request under way on its client's server."""

    client: Client
    xid: int
    op: Op
    seq: int = 0
    entry: Entry | None = None  # once it is decided
    zxid: int = 0  # of its transaction, or that it waits for
    delivered: bool = False  # the server knows what becomes of it
    round: int = 0  # of a sync: the confirmation that it waits for

    @property
    def has_txn(self) -> bool:
        return self.entry is not None and self.entry.effects is not None


class Replica(Oracle):
    """One server as its clients must see it."""

    def __init__(self, world: World, member: Member) -> None:
        super().__init__()
        self.world = world
        self.member = member
        self.queue: deque[Asked] = deque()
        self.entries = deque([Entry(None, 0)])  # never empty: nothing is answered at once

    def run(self) -> None:
        """Come to where the real server is."""
        while self.step():
            pass
        line = self.member.line
        assert self.zxid == self.member.parts.applier.zxid
        assert len(self.queue) == line.pending

    def step(self) -> bool:
        line, applied = self.member.line, self.member.parts.applier.zxid
        if self.queue and len(self.queue) > line.pending:
            asked = self.queue[0]
            if asked.delivered and not asked.has_txn and asked.zxid <= self.zxid:
                self.queue.popleft()
                self.reply(asked)
                return True
        if self.zxid == applied:
            return False
        zxid, effects = next(each for each in self.world.txns if each[0] > self.zxid)
        own = None
        for asked in self.queue:
            if asked.has_txn and asked.delivered:
                own = asked
                break
            if not asked.delivered and asked.op.op != wire.SYNC:
                break
        mine = own is not None and own.zxid == zxid
        assert not mine or own is self.queue[0], "applied before what its server owes to those before it"
        for effect in effects[self.member.id]:
            effect()
        self.zxid = zxid
        if mine:
            self.reply(self.queue.popleft())
        return True

    def reply(self, asked: Asked) -> None:
        line, entry = asked.client.line, asked.entry
        assert entry is not None
        line.pending -= 1
        if not line.open:
            return
        if entry.error == SESSION_MOVED:
            raise AssertionError("only a dropped connection's session moves here")
        if asked.op in (CREATE_SESSION, CLAIM):
            asked.client.valid = entry.error == 0
            return
        body = entry.result() if entry.result is not None else entry.body
        line.expected.append((asked.xid, self.zxid, entry.error, body))
        if entry.closes:
            line.open = False
            line.watches.clear()
            return
        self.drain(line)


class Client:
    """A client, its connection, and the oracle's line beside it."""

    def __init__(self, world: World, member: Member, before: Client | None = None) -> None:
        self.world = world
        self.member = member
        self.line = Line(session=before.line.session if before else 0)
        self.peer: Peer = member.parts.peer()
        self.replica = world.replicas[member.id]
        self.replica.lines.append(self.line)
        self.password = before.password if before else b""
        self.valid: bool | None = None  # what its connect request is answered
        self.greeted = False
        self.closing = False
        self.got: list[Frame] = []
        if before is None:
            self.peer.greet()
        else:
            self.peer.greet(session_id=before.line.session, password=before.password)
        self.line.session = self.peer.connection.session_id
        self.ask(0, CLAIM if before else CREATE_SESSION)

    def ask(self, xid: int, op: Op) -> None:
        """A request arrived that the leader has to decide."""
        asked = Asked(self, xid, op)
        self.line.ops[xid] = op
        if self.line.pending and op not in (CREATE_SESSION, CLAIM):
            self.line.waiting.append(("mark", None))
        self.line.pending += 1
        self.replica.queue.append(asked)
        if self.member.leads:
            self.world.decide(self.member.id, asked)
            asked.delivered = op.op != wire.SYNC or asked.entry.error != 0  # type: ignore[union-attr]

    def send(self, op: Op) -> None:
        self.peer.xid += 1
        xid = self.peer.xid
        if op.is_write:
            self.peer.feed(frame(xid, op.request))
            self.ask(xid, op)
        else:
            self.peer.feed(frame(xid, op.request))
            self.line.ops[xid] = op
            if self.line.pending:
                self.line.waiting.append(("read", (xid, op)))
            else:
                self.replica.read(self.line, xid, op)
        self.closing = self.closing or op.op == wire.CLOSE_SESSION
        self.world.run()

    def prove(self) -> None:
        self.peer.feed(frame(wire.XID_AUTH, wire.auth("digest", b"ada:pw")))
        assert [reply[:3] for reply in self.peer.replies()] == [(wire.XID_AUTH, 0, 0)]
        self.line.identities += (("digest", ADA),)

    def collect(self) -> None:
        if not self.greeted:
            frames = self.peer.frames()
            assert bool(frames) == (self.valid is not None), (self.valid, self.peer.closed)
            if not frames:
                return
            (greeting,) = frames
            assert (struct.unpack_from(">ii", greeting)[1] > 0) == self.valid
            self.greeted = True
            if self.valid:
                self.password = greeting[20:36]
                if self.world.prove_next:
                    self.prove()
            else:
                self.line.open = False
            self.world.prove_next = not self.world.prove_next
            return
        for reply in self.peer.replies():
            if reply.xid == wire.XID_EVENT:
                self.got.append((-1, reply.zxid, reply.err, tuple(wire.decode_event(reply))))
            else:
                self.got.append(decode(self.line.ops[reply.xid], reply))
            at = len(self.got) - 1
            assert at < len(self.line.expected), f"unexpected: {self.got[-1]}"
            assert self.got[at] == self.line.expected[at], self.line.ops.get(reply.xid)
        if self.line.open:
            assert len(self.got) == len(self.line.expected)

    def collect_the_end(self) -> None:
        """The server has closed the connection: every reply up to then is there."""
        self.collect()
        if self.greeted:
            assert len(self.got) == len(self.line.expected)

    def drop(self) -> None:
        self.collect()
        self.peer.drop()
        self.line.open = False
        self.line.watches.clear()
        self.line.waiting.clear()


class World:
    """The ensemble and what it must do."""

    def __init__(self, directory: Path) -> None:
        self.ensemble = Ensemble(directory)
        self.replicas = {number: Replica(self, member) for number, member in self.ensemble.members.items()}
        self.txns: list[tuple[int, dict[int, list[Any]]]] = []
        self.owners: dict[int, int] = {}  # session -> server, as proposed
        self.proposed: dict[int, tuple[ModelTree, set[int]]] = {0: (self.replicas[1].proposed.copy(), set())}
        self.clients: list[Client] = []
        self.orphans: list[Client] = []  # whose connections are gone
        self.prove_next = True
        for member in self.ensemble.members.values():
            member.parts.pipeline.confirm = partial(self.confirming, member)
            member.parts.following.send_forward = partial(self.forwarding, member)

    @property
    def zxid(self) -> int:
        """The last one given out."""
        return self.txns[-1][0] if self.txns else 0

    def log(self, zxid: int, effects: dict[int, list[Any]]) -> None:
        self.txns.append((zxid, effects))
        self.proposed[zxid] = (self.replicas[1].proposed.copy(), set(self.owners))

    def decide(self, number: int, asked: Asked) -> None:
        """The leader has come to a request."""
        op, line = asked.op, asked.client.line
        session = line.session
        asked.zxid = self.zxid
        if op is CLAIM:
            asked.entry = Entry(line, 0, error=0 if session in self.owners else SESSION_EXPIRED)
            if session in self.owners:
                self.owners[session] = number
            return
        if op not in (CREATE_SESSION,) and op.op != wire.CLOSE_SESSION:
            if session not in self.owners:
                asked.entry = Entry(line, asked.xid, error=SESSION_EXPIRED)
                return
            self.owners[session] = self.owners[session] or number
            if self.owners[session] != number:
                assert not line.open
                asked.entry = Entry(line, asked.xid, error=SESSION_MOVED)
                return
        zxid = self.zxid + 1
        effects: dict[int, list[Any]] = {}
        for replica in self.replicas.values():
            replica.next_zxid = zxid
            if op is CREATE_SESSION:
                entry: Entry | None = Entry(line, 0, effects=[])
            else:
                entry = replica.propose(line, asked.xid, op)
            assert entry is not None
            if entry.effects is not None:
                effects[replica.member.id] = entry.effects
            if replica.member.id == number:
                asked.entry = entry
        if effects:
            if op is CREATE_SESSION:
                self.owners[session] = number
            elif op.op == wire.CLOSE_SESSION:
                self.owners.pop(session, None)
            self.log(zxid, effects)
            asked.zxid = zxid

    def run(self) -> None:
        for replica in self.replicas.values():
            replica.run()
        for client in self.clients:
            client.collect()

    # -- actions ----------------------------------------------------------------------------------------------

    def confirming(self, member: Member) -> int:
        """The leader has its syncs confirmed."""
        number = member.confirm()
        for replica in self.replicas.values():
            for asked in replica.queue:
                if asked.op.op == wire.SYNC and asked.entry is not None and not asked.round:
                    asked.round = number
        return number

    def forwarding(self, member: Member, raw: bytes) -> None:
        """A frame leaves; its requests have numbers now."""
        fresh = iter(asked for asked in self.replicas[member.id].queue if not asked.seq)
        for seq, session, xid, op in requests_in(raw):
            asked = next(fresh)
            assert (asked.client.line.session, asked.xid, asked.op.op) == (session, xid, op)
            asked.seq = seq
        member.up.append(("forward", raw))

    def send(self, member: Member) -> None:
        if not member.up or self.ensemble.leader is None:
            return
        kind, what = member.up[0]
        if kind == "forward":
            waiting = {asked.seq: asked for asked in self.replicas[member.id].queue}
            for seq, *_ in requests_in(what):
                self.decide(member.id, waiting[seq])
        elif kind == "confirmed":
            for asked in self.replicas[self.ensemble.leader.id].queue:
                if asked.round and asked.round <= what:
                    asked.delivered = True
        member.send()

    def receive(self, member: Member) -> None:
        if member.down and member.down[0][0] == "outcome":
            raw = member.down[0][1]
            waiting = {asked.seq: asked for asked in self.replicas[member.id].queue}
            for seq, zxid in outcomes_in(raw):
                asked = waiting[seq]
                assert asked.zxid == zxid
                asked.delivered = True
        member.receive()

    def fail_over(self, to: int) -> None:
        self.ensemble.lose_leader()
        for replica in self.replicas.values():
            for asked in replica.queue:
                client = asked.client
                assert client.peer.closed
                if client.line.open:
                    client.line.open = False
                    client.collect_the_end()
            replica.queue.clear()
        self.lost(lambda client: not client.line.open)
        self.run()
        best = max(member.zxid for member in self.ensemble.members.values())
        if self.ensemble.members[to].zxid < max(member.commit for member in self.ensemble.members.values()):
            to = next(member.id for member in self.ensemble.members.values() if member.zxid == best)
        kept = self.ensemble.members[to].zxid
        self.txns = [each for each in self.txns if each[0] <= kept]
        tree, sessions = self.proposed[kept]
        for replica in self.replicas.values():
            replica.proposed = tree.copy()
        self.owners = dict.fromkeys(sessions, 0)
        self.elect(to)

    def elect(self, number: int) -> None:
        self.ensemble.elect(number)
        opening = self.ensemble.members[number].opening
        self.log(opening, {each: [] for each in self.replicas})
        self.replicas[number].queue.append(nobodys(opening))

    def lost(self, which: Any) -> None:
        """Connections that the servers have closed."""
        for client in [client for client in self.clients if which(client)]:
            self.clients.remove(client)
            client.line.watches.clear()
            client.line.waiting.clear()
            if client.greeted and client.valid and not client.closing:
                self.orphans.append(client)

    def settle(self) -> None:
        """Until nothing is under way."""
        members = self.ensemble.members.values()
        while any(member.parts.turns or member.up or member.down or member.durable < member.zxid for member in members):
            for member in members:
                member.turn()
                while member.down:
                    self.receive(member)
                    self.run()
                while member.up:
                    self.send(member)
                    self.run()
                member.sync_disk()
                self.run()


class Nobody:
    """Who waits for the end of a session that expired."""

    def __init__(self) -> None:
        self.line = Line(open=False)
        self.peer = type("Closed", (), {"closed": True})()


def nobodys(zxid: int) -> Asked:
    """The leader's own entry for the end of a session."""
    asked = Asked(Nobody(), 0, Op(wire.CLOSE_SESSION), zxid=zxid, delivered=True)  # type: ignore[arg-type]
    asked.entry = Entry(None, 0, effects=[])
    return asked


def requests_in(raw: bytes) -> list[tuple[int, ...]]:
    """(seq, session, xid, op) of each request in a FORWARD frame."""
    reader = wire.Reader(raw)
    reader.unpack(FORWARD)
    found = []
    while reader.at < len(raw):
        found.append(reader.unpack(REQUEST))
        reader.buffer()
        reader.buffer()
    return found


def outcomes_in(raw: bytes) -> list[tuple[int, int]]:
    """(seq, zxid) of each outcome in an OUTCOME frame."""
    reader = wire.Reader(raw)
    reader.unpack(struct.Struct(">q"))
    found = []
    while reader.at < len(raw):
        seq, status, zxid = reader.unpack(OUTCOME)
        found.append((seq, zxid))
        for _ in range({2: 1, 3: 3}.get(status, 0)):
            reader.int()
    return found


def assert_same(member: Member, oracle: Oracle) -> None:
    """The server's tree is as the oracle's, but for its times."""
    tree = member.parts.tree
    assert len(tree) == len(oracle.applied.nodes)
    for path, node in oracle.applied.nodes.items():
        assert masked(STAT.unpack(tree.stat(path))) == masked(node.stat), path
        assert tree.data(path) == node.data
        assert tree.acl(path) == node.acl
        assert tree.owner(path) == node.owner
    assert tree.digest == tree.compute_digest()


ACTIONS = ("send",) * 8 + ("turn", "receive", "pass", "disk") * 5
ACTIONS += ("connect", "drop", "again", "again", "close", "expire")


def a_write(rng: random.Random, inside: bool = False) -> Op:
    """A request that changes something, or may; ``inside`` a multi."""
    kind = rng.randrange(5 if inside else 7)
    path = rng.choice(PATHS[:5] * 3 + PATHS)
    proper = rng.choice((*PATHS[:5] * 3, "/zookeeper", "/"))
    content = rng.choice((None, b"", b"x", b"data" * 5))
    version = rng.choice((-1, -1, -1, 0, 1, 2))
    if kind < 2:
        if inside and rng.random() < 0.2:
            return Op(CREATE_CONTAINER, path, content, 4, acl=rng.choice(ACLS))
        op = rng.choice((wire.CREATE, wire.CREATE, wire.CREATE2, CREATE_CONTAINER))
        return Op(op, path, content, rng.choice((0, 0, 1, 2, 3)), acl=rng.choice(ACLS))
    if kind == 2:
        return Op(wire.DELETE, path, version=version)
    if kind == 3:
        return Op(wire.SET_DATA, proper, content, version=version)
    if kind == 4:
        return Op(wire.CHECK, proper, version=version)
    if kind == 5:
        return Op(wire.SET_ACL, proper, version=version, acl=rng.choice(ACLS))
    return Op(wire.MULTI, parts=tuple(a_write(rng, inside=True) for _ in range(rng.randrange(6))))


def a_request(rng: random.Random) -> Op:
    kind = rng.random()
    if kind < 0.6:
        return a_write(rng)
    path = rng.choice((*PATHS[:5] * 3, "/zookeeper", "/"))
    if kind < 0.75:
        return Op(wire.SYNC, path)
    return Op(rng.choice(READS), path, watch=rng.random() < 0.5)


@pytest.mark.parametrize("seed", range(60))
def test_random_histories(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    world = World(tmp_path)
    with world.ensemble as ensemble:
        world.elect(rng.randint(1, 3))
        world.settle()
        members = list(ensemble.members.values())
        for _ in range(rng.randint(1, 4)):
            world.clients.append(Client(world, rng.choice(members)))
        world.settle()
        actions = ACTIONS + ("fail",) * rng.choice((0, 0, 1, 3))
        for _ in range(rng.randint(5, 150)):
            step(world, rng, rng.choice(actions))
            world.run()
            world.lost(lambda client: client.greeted and not client.line.open)
        world.settle()
        for number, member in ensemble.members.items():
            assert member.parts.applier.zxid == world.zxid
            assert not member.parts.following.unapplied
            assert len(member.parts.overlay) == 0
            assert_same(member, world.replicas[number])
        assert len({member.parts.tree.digest for member in members}) == 1
        leader = ensemble.leader
        assert leader is not None
        for session, owner in world.owners.items():
            assert leader.parts.pipeline.owners.owner(session) == owner
        assert {session.id for session in leader.parts.sessions} == set(world.owners)


def step(world: World, rng: random.Random, action: str) -> None:
    """Something happens, if it can."""
    ensemble = world.ensemble
    member = ensemble.members[rng.randint(1, 3)]
    served = [
        client for client in world.clients
        if client.greeted and client.line.open and not client.closing
        and not client.member.parts.service.leaderless
    ]  # fmt: skip
    if action == "turn":
        member.turn()
    elif action == "disk":
        member.sync_disk()
    elif action in {"receive", "pass"}:
        for _ in range(rng.randint(1, 4)):
            (world.receive if action == "receive" else world.send)(member)
            world.run()
    elif action in {"send", "close"} and served:
        client = rng.choice(served)
        for _ in range(rng.randint(1, 6)):
            client.send(a_request(rng))
        if action == "close":
            client.send(Op(wire.CLOSE_SESSION))
    elif action == "drop" and served:
        gone = rng.choice(served)
        gone.drop()
        world.lost(lambda client: client is gone)
    elif action == "connect" and not member.parts.service.leaderless:
        world.clients.append(Client(world, member))
    elif action == "again" and world.orphans and not member.parts.service.leaderless:
        world.clients.append(Client(world, member, world.orphans.pop()))
    elif action == "expire" and world.orphans and ensemble.leader and ensemble.leader.parts.pipeline.leading:
        session = world.orphans.pop().line.session
        zxid = world.zxid + 1
        world.owners.pop(session, None)
        world.log(zxid, {number: each.end(session, zxid) for number, each in world.replicas.items()})
        world.replicas[ensemble.leader.id].queue.append(nobodys(zxid))
        ensemble.leader.parts.pipeline.expire_session(session)
    elif action == "fail":
        world.fail_over(rng.randint(1, 3))
