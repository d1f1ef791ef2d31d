"""The same random requests to Apache ZooKeeper and to fastzk, in lock-step; any difference is made small and shown.

By hand: ``python tests/conformance/differential.py --seeds 0-49 --steps 5000``. Both servers get the same bytes; what
they send back is compared frame by frame: error codes, bodies, watch events with their place among the replies,
closed connections. In the end the whole tree is compared. Not compared are times (only whether they are 0), ids
of sessions (each is matched with its counterpart), the order of names in a list, and zxids as numbers: ZooKeeper
spends one on each refused write. Those must come in the same order on both sides, and a header's must lie between
the same two changes.

:func:`excuse` knows the differences kept on purpose, which ``docs/compatibility.md`` explains.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).resolve().parents[1:3])  # when run as a script

from conformance import random_steps as rs
from conformance.random_steps import Frame, Step
from support import wire
from support.servers import FastzkServer, Server, ZooKeeperServer

CONFIG = {
    "tickTime": "2000",
    "maxClientCnxns": "0",
    # no session expires during a run
    "minSessionTimeout": "600000",
    "maxSessionTimeout": "3600000",
    "extendedTypesEnabled": "true",
    "DigestAuthenticationProvider.superDigest": rs.digest_id(rs.SUPER),
}
_TIMEOUT_MS = 1_200_000
_PATIENCE_S = 10.0
_CLOSING_OPS = {wire.CLOSE_SESSION, *rs._UNKNOWN_OPS}


class Reference(ZooKeeperServer):
    """Apache ZooKeeper without its container manager, whose rounds no client can foresee."""

    def command(self) -> list[str]:
        program, *rest = super().command()
        quick = ["-Dznode.container.checkIntervalMs=86400000", "-Dzookeeper.forceSync=no", "-XX:+UseSerialGC"]
        # a check that holds leaks one of these, see random_steps
        return [program, *quick, "-Dzookeeper.globalOutstandingLimit=1000000", *rest]


@dataclass(frozen=True)
class Item:
    """What came from a server: a ``reply``, an ``event``, the answer to a ``connect``, ``closed`` or ``silence``."""

    kind: str
    xid: int = 0
    zxid: int = 0
    err: int = 0
    body: bytes = b""

    def __str__(self) -> str:
        if self.kind == "event":
            try:
                return f"event {wire.decode_event(wire.Reply(-1, 0, 0, self.body))}"
            except Exception:
                return f"event {self.body!r}"
        if self.kind == "reply":
            return f"reply xid={self.xid} zxid=0x{self.zxid:x} err={self.err} body={self.body.hex(' ', 4) or 'empty'}"
        return f"{self.kind} {self.body.hex(' ', 4)}"


@dataclass
class Link:
    """One connection, and the number of its session in :class:`Pairs`."""

    connection: wire.Connection
    session: int
    xid: int = 0


def _item(frame: bytes) -> Item:
    if len(frame) < wire.HEADER.size:
        return Item("reply", body=frame)
    xid, zxid, err = wire.HEADER.unpack_from(frame)
    return Item("event" if xid == wire.XID_EVENT else "reply", xid, zxid, err, frame[wire.HEADER.size :])


class Side:
    """One of the two servers with its connections by slot."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.links: dict[int, Link] = {}
        #: (id, password) of the sessions by their number, None where there never was one
        self.sessions: list[tuple[int, bytes] | None] = []

    def read(self, slot: int, until: Callable[[Item], bool]) -> list[Item]:
        """Frames of a slot up to the one for which ``until`` is true, or to the end of the connection."""
        found: list[Item] = []
        connection = self.links[slot].connection
        try:
            while not found or not until(found[-1]):
                found.append(_item(connection.read_frame()))
        except wire.TimedOut:
            found.append(Item("silence"))
        except (wire.Closed, AssertionError, ConnectionError):
            found.append(Item("closed"))
        if found[-1].kind in ("closed", "silence"):
            self.forget(slot)
        return found

    def forget(self, slot: int) -> None:
        link = self.links.pop(slot, None)
        if link is not None:
            link.connection.drop()

    def send(self, slot: int, raw: bytes, end: bool = False) -> None:
        try:
            self.links[slot].connection.send_bytes(raw)
            if end:
                self.links[slot].connection._socket.shutdown(1)
        except (wire.WireError, OSError):
            pass  # the server closed it, as reading will show

    def connect(self, slot: int, raw: bytes, session: int, end: bool = False) -> None:
        self.links[slot] = Link(wire.Connection(self.server.port, _PATIENCE_S), session)
        self.send(slot, raw, end)

    def connected(self, slot: int) -> Item:
        """The answer to the connect request."""
        try:
            return Item("connect", body=self.links[slot].connection.read_frame())
        except wire.TimedOut:
            self.forget(slot)
            return Item("silence")
        except (wire.Closed, AssertionError):
            self.forget(slot)
            return Item("closed")


class Pairs:
    """What is the same thing on both sides under different numbers: zxids and sessions."""

    def __init__(self) -> None:
        self.zxids: tuple[list[int], list[int]] = ([0], [0])
        self.owners: dict[int, int] = {0: 0}

    def same_zxid(self, a: int, b: int) -> bool:
        """Whether both are the same change; changes not seen before must lie between the same ones."""
        left, right = bisect_left(self.zxids[0], a), bisect_left(self.zxids[1], b)
        if left != right:
            return False
        known_a = left < len(self.zxids[0]) and self.zxids[0][left] == a
        known_b = right < len(self.zxids[1]) and self.zxids[1][right] == b
        if known_a or known_b:
            return known_a and known_b
        self.zxids[0].insert(left, a)
        self.zxids[1].insert(right, b)
        return True

    def same_rank(self, a: int, b: int) -> bool:
        """Whether the same known changes are before both."""
        return bisect_right(self.zxids[0], a) == bisect_right(self.zxids[1], b)

    def at(self, fraction: float) -> tuple[int, int]:
        place = int(fraction * (len(self.zxids[0]) - 1))
        return self.zxids[0][place], self.zxids[1][place]


@dataclass
class Difference:
    """Where two answers to one step differ."""

    step: int
    what: str
    zookeeper: list[Item] = field(default_factory=list)
    fastzk: list[Item] = field(default_factory=list)

    def show(self, steps: Sequence[Step]) -> str:
        lines = [f"difference: {self.what}"]
        for number, step in enumerate(steps[: self.step + 1]):
            lines.append(f"  {number:4} {step}")
        for name, items in (("zookeeper", self.zookeeper), ("fastzk", self.fastzk)):
            lines += [f"  {name} sent:", *(f"      {item}" for item in items)]
        return "\n".join(lines)


class ServerDied(Exception):
    """A server process ended: that is not a difference of answers."""


def excuse(frame: Frame, zookeeper: Item, fastzk: Item) -> str | None:
    """Why these two replies may differ, or None."""
    if frame.op == rs.CHECK_WATCHES and fastzk.err == -121 and zookeeper.err in (0, -5):
        return "checkWatches counts this connection's watches only, and needs no slash (ZOOKEEPER-4471)"
    return None


class Comparer:
    """Compares what both servers sent, reading bodies by the request that they answer."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.excused: Counter[str] = Counter()

    def items(
        self, frames: dict[int, Frame], zookeeper: list[Item], fastzk: list[Item], unordered: bool = False
    ) -> str | None:
        """What differs, or None. ``unordered``: events may come in any order."""
        zookeeper, fastzk = self.without_checks(frames, zookeeper, fastzk)
        if unordered:
            zookeeper, fastzk = (sorted(x, key=lambda i: (i.kind != "event", i.body)) for x in (zookeeper, fastzk))
        for a, b in zip(zookeeper, fastzk, strict=False):
            what = self.item(frames, a, b)
            if what:
                return what
        if len(zookeeper) != len(fastzk):
            return f"{len(zookeeper)} frames of zookeeper, {len(fastzk)} of fastzk"
        return None

    def without_checks(
        self, frames: dict[int, Frame], zookeeper: list[Item], fastzk: list[Item]
    ) -> tuple[list[Item], list[Item]]:
        answered = {item.xid for item in zookeeper if item.kind == "reply"}
        kept = []
        for item in fastzk:
            frame = frames.get(item.xid) if item.kind == "reply" else None
            if frame and frame.op == wire.CHECK and item.err == 0 and item.xid not in answered:
                self.excused["a check that holds is answered"] += 1
            else:
                kept.append(item)
        return zookeeper, kept

    def item(self, frames: dict[int, Frame], a: Item, b: Item) -> str | None:
        if a.kind != b.kind:
            return f"{a.kind} of zookeeper, {b.kind} of fastzk"
        if a.kind == "event":
            # 3.8 writes zxid -1; since 3.9 it is the change's own
            return None if (a.body, a.err) == (b.body, b.err) else "another event"
        if a.kind == "connect":
            return self.connect(a.body, b.body)
        if a.kind != "reply":
            return None
        if a.xid != b.xid:
            return f"reply to {a.xid} of zookeeper, to {b.xid} of fastzk"
        frame = frames.get(a.xid)
        if a.err != b.err:
            reason = excuse(frame, a, b) if frame else None
            if reason is None:
                return f"err {a.err} of zookeeper, {b.err} of fastzk"
            self.excused[reason] += 1
            return None
        body = self.body(frame, a, b) if frame and a.err == 0 else a.body == b.body
        if not body:
            return "another body"
        if a.zxid in (0, -1) or b.zxid in (0, -1):
            return None if a.zxid == b.zxid else "another zxid in the header"
        if frame and a.err == 0 and frame.op in _CHANGES and not _failed_multi(frame, a):
            same = self.pairs.same_zxid(a.zxid, b.zxid)
        else:
            same = self.pairs.same_rank(a.zxid, b.zxid)
        return None if same else "the header's zxid has another place among the changes"

    def connect(self, a: bytes, b: bytes) -> str | None:
        if len(a) != len(b) or a[:8] != b[:8] or a[36:] != b[36:]:
            return "another connect reply"
        zeros = [(x[8:16] == bytes(8), x[20:36] == bytes(16)) for x in (a, b)]
        return None if zeros[0] == zeros[1] else "another connect reply"

    def body(self, frame: Frame, a: Item, b: Item) -> bool:
        reader = _BODIES.get(frame.op)
        if reader is None:
            return a.body == b.body
        shapes = []
        for item in (a, b):
            r = wire.Reader(item.body)
            try:
                shape = reader(r)
                r.end()
            except Exception:
                return a.body == b.body
            shapes.append(shape)
        return self.same(shapes[0], shapes[1])

    def same(self, a: object, b: object) -> bool:
        if isinstance(a, wire.Stat) and isinstance(b, wire.Stat):
            return self.stat(a, b)
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(self.same(x, y) for x, y in zip(a, b, strict=True))
        return a == b

    def stat(self, a: wire.Stat, b: wire.Stat) -> bool:
        zeros = [(s.ctime == 0, s.mtime == 0) for s in (a, b)]
        masked = [s._replace(czxid=0, mzxid=0, pzxid=0, ctime=0, mtime=0, ephemeral_owner=0) for s in (a, b)]
        return (
            zeros[0] == zeros[1]
            and masked[0] == masked[1]
            and self.pairs.owners.get(a.ephemeral_owner, -1) == b.ephemeral_owner
            and all(
                self.pairs.same_zxid(x, y)
                for x, y in ((a.czxid, b.czxid), (a.mzxid, b.mzxid), (a.pzxid, b.pzxid))
            )
        )


# ---- bodies by operation; lists whose order is that of a hash table are sorted


def _names(r: wire.Reader) -> list[bytes]:
    return sorted(r.buffer() or b"" for _ in range(r.int()))


def _acls(r: wire.Reader) -> list[tuple[int, bytes, bytes]]:
    return sorted((r.int(), r.buffer() or b"", r.buffer() or b"") for _ in range(r.int()))


def _clients(r: wire.Reader) -> list[tuple[bytes | None, bytes | None]]:
    return sorted(((r.buffer(), r.buffer()) for _ in range(r.int())), key=repr)


def _multi(r: wire.Reader) -> list[object]:
    results: list[object] = []
    header = struct.Struct(">i?i")
    while True:
        kind, done, err = r.unpack(header)
        results.append((kind, done, err))
        if done:
            return results
        if kind == -1:
            results.append(r.int())
        elif kind == wire.CREATE:
            results.append(r.buffer())
        elif kind == wire.CREATE2:
            results += (r.buffer(), r.stat())
        elif kind == wire.SET_DATA:
            results.append(r.stat())
        elif kind == wire.GET_DATA:
            results += (r.buffer(), r.stat())
        elif kind == wire.GET_CHILDREN:
            results.append(_names(r))


def _failed_multi(frame: Frame, reply: Item) -> bool:
    return frame.op == wire.MULTI and reply.body[:4] == b"\xff\xff\xff\xff"


_BODIES: dict[int, Callable[[wire.Reader], object]] = {
    **{op: lambda r: (r.buffer(), r.stat()) for op in (15, rs.CREATE_CONTAINER, rs.CREATE_TTL, wire.GET_DATA)},
    **{op: lambda r: r.stat() for op in (wire.EXISTS, wire.SET_DATA, wire.SET_ACL)},
    wire.GET_ACL: lambda r: (_acls(r), r.stat()),
    wire.GET_CHILDREN: _names,
    wire.GET_CHILDREN2: lambda r: (_names(r), r.stat()),
    wire.MULTI: _multi,
    rs.MULTI_READ: _multi,
    rs.GET_EPHEMERALS: _names,
    rs.WHO_AM_I: _clients,
}
_CHANGES = {1, 2, 5, 7, 14, 15, rs.CREATE_CONTAINER, rs.CREATE_TTL, wire.CLOSE_SESSION}


class Run:
    """One sequence of steps against two servers that are in the same state."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.sides = [Side(server) for server in servers]
        self.pairs = Pairs()
        self.comparer = Comparer(self.pairs)
        self.last_session: dict[int, int] = {}  # by slot

    # ---- playing

    def play(self, steps: Iterable[Step]) -> Difference | None:
        for number, step in enumerate(steps):
            difference = self.step(number, step)
            if difference is not None:
                for side in self.sides:
                    if not side.server.running:
                        raise ServerDied(side.server.explain(f"{side.server.kind} ended at step {number}: {step}"))
                return difference
        return None

    def step(self, number: int, step: Step) -> Difference | None:
        slot = step.slot
        if step.kind == "drop":
            return self.drop(number, slot)
        if step.kind == "attach":
            return self.drop(number, slot) or self.attach(number, step)
        if step.kind == "greet":
            return self.drop(number, slot) or self.greet(number, step)
        if slot not in self.sides[0].links:
            difference = self.open(number, slot)
            if difference is not None:
                return difference
        if step.kind == "bytes":
            (size,) = struct.unpack_from(">i", step.raw)
            for side in self.sides:
                side.send(slot, step.raw, end=len(step.raw) - 4 < size)
            return self.compare(number, {}, [side.read(slot, lambda _: False) for side in self.sides])
        return self.send(number, slot, step.frames)

    def compare(
        self, number: int, frames: dict[int, Frame], items: list[list[Item]], unordered: bool = False
    ) -> Difference | None:
        what = self.comparer.items(frames, *items, unordered=unordered)
        return Difference(number, what, *items) if what else None

    def send(self, number: int, slot: int, requests: Sequence[Frame]) -> Difference | None:
        frames: dict[int, Frame] = {}
        raws: list[list[bytes]] = [[], []]
        last = 0
        xid = self.sides[0].links[slot].xid
        for frame in requests:
            xid += 1
            last = xid if frame.xid is None else frame.xid
            frames[last] = frame
            for raw, zxid in zip(raws, self.pairs.at(frame.seen or 0.0), strict=True):
                body = frame.body if frame.seen is None else struct.pack(">q", zxid) + frame.body[8:]
                raw.append(struct.pack(">iii", len(body) + 8, last, frame.op) + body)
        for side, raw in zip(self.sides, raws, strict=True):
            side.links[slot].xid = xid
            side.send(slot, b"".join(raw))
        items = [side.read(slot, lambda item: item.kind == "reply" and item.xid == last) for side in self.sides]
        closing = requests[-1].op in _CLOSING_OPS or any(
            item.err == -115 and item.xid == wire.XID_AUTH for side in items for item in side
        )
        if closing:
            for side, got in zip(self.sides, items, strict=True):
                if slot in side.links:
                    got += side.read(slot, lambda _: False)
        unordered = requests[-1].op == wire.CLOSE_SESSION
        difference = self.compare(number, frames, items, unordered)
        if difference is None and slot not in self.sides[0].links:
            return None
        if difference is None and unordered:
            # the events of one closeSession come in any order on every connection
            for other in list(self.sides[0].links):
                got = self.ping(other)
                difference = difference or self.compare(number, {}, got, unordered=True)
        return difference

    def ping(self, slot: int) -> list[list[Item]]:
        """What waits on a connection, up to the answer to a ping."""
        for side in self.sides:
            if slot in side.links:
                side.send(slot, wire.Session.frame(wire.XID_PING, wire.Request(wire.PING, b"")))
        return [
            side.read(slot, lambda item: item.xid == wire.XID_PING) if slot in side.links else []
            for side in self.sides
        ]

    def open(self, number: int, slot: int) -> Difference | None:
        raw = wire.connect_request(_TIMEOUT_MS)
        return self.connect(number, slot, [struct.pack(">i", len(raw)) + raw] * 2, new=True)

    def connect(
        self, number: int, slot: int, raws: Sequence[bytes], *, new: bool, session: int = -1, end: bool = False
    ) -> Difference | None:
        for side, raw in zip(self.sides, raws, strict=True):
            side.connect(slot, raw, session, end)
        items = [[side.connected(slot)] for side in self.sides]
        difference = self.compare(number, {}, items)
        if difference is None and slot in self.sides[0].links:
            ids = [struct.unpack_from(">q", got[0].body, 8)[0] for got in items]
            if ids[0] == 0:  # refused
                rest = [side.read(slot, lambda _: False) for side in self.sides]
                return self.compare(number, {}, rest)
            if new:
                session = len(self.sides[0].sessions)
                for side, got, session_id in zip(self.sides, items, ids, strict=True):
                    side.sessions.append((session_id, got[0].body[20:36]))
                self.pairs.owners[ids[0]] = ids[1]
            for side in self.sides:
                side.links[slot].session = session
            self.last_session[slot] = session
        return difference

    def drop(self, number: int, slot: int) -> Difference | None:
        """Send no more, and read until the server has noticed: then its watches are gone."""
        if slot not in self.sides[0].links:
            return None
        for side in self.sides:
            side.send(slot, b"", end=True)
        return self.compare(number, {}, [side.read(slot, lambda _: False) for side in self.sides])

    def attach(self, number: int, step: Step) -> Difference | None:
        session = self.last_session.get(step.source)
        raws = []
        for side in self.sides:
            known = side.sessions[session] if session is not None else None
            session_id, password = known or (0x1234567, bytes(16))
            changed = {"wrong": bytes(16), "short": password[:15], "none": None}
            body = wire.connect_request(
                _TIMEOUT_MS,
                session_id,
                changed.get(step.variant, password),
                last_zxid=2**62 if step.variant == "ahead" else 0,
                read_only=None if step.variant == "without the readOnly byte" else False,
            )
            raws.append(struct.pack(">i", len(body)) + body)
        before = {slot for slot, link in self.sides[0].links.items() if link.session == session}
        difference = self.connect(number, step.slot, raws, new=False, session=-1 if session is None else session)
        for slot in before:
            difference = difference or self.compare(number, {}, self.ping(slot))
        return difference

    def greet(self, number: int, step: Step) -> Difference | None:
        (size,) = struct.unpack_from(">i", step.raw)
        difference = self.connect(number, step.slot, [step.raw] * 2, new=True, end=len(step.raw) - 4 < size)
        if difference is None and step.slot in self.sides[0].links:
            return self.send(number, step.slot, (Frame(wire.CLOSE_SESSION, b"", ""),))
        return difference

    # ---- the end

    def finish(self, number: int) -> Difference | None:
        """Compare what is left: events that nobody asked for yet, and the whole tree."""
        for slot in list(self.sides[0].links):
            difference = self.compare(number, {}, self.ping(slot))
            if difference is not None:
                return difference
        slot = rs.SLOTS
        login = Frame(wire.AUTH, bytes(4) + wire.text("digest") + wire.text(rs.SUPER), "super", wire.XID_AUTH)
        difference = self.open(number, slot) or self.send(number, slot, (login,))
        waiting = ["/"]
        while waiting and difference is None:
            path = waiting.pop()
            frames = tuple(
                Frame(op, wire.text(path) + rest, f"{path!r} when all steps were done")
                for op, rest in ((wire.GET_ACL, b""), (wire.GET_DATA, b"\0"), (wire.GET_CHILDREN, b"\0"))
            )
            for side, zxid in zip(self.sides, self.pairs.at(1.0), strict=True):
                del side, zxid
            children, difference = self.looked(number, slot, frames)
            waiting += [f"{path.rstrip('/')}/{name}" for name in children]
        return difference

    def looked(self, number: int, slot: int, frames: tuple[Frame, ...]) -> tuple[list[str], Difference | None]:
        children: list[str] = []
        for frame in frames:
            xid = self.sides[0].links[slot].xid + 1
            raw = wire.Session.frame(xid, wire.Request(frame.op, frame.body))
            for side in self.sides:
                side.links[slot].xid = xid
                side.send(slot, raw)
            items = [side.read(slot, lambda item: item.kind == "reply") for side in self.sides]
            difference = self.compare(number, {xid: frame}, items)
            if difference is not None:
                difference.what += f" in the tree at the end: {frame}"
                return [], difference
            if frame.op == wire.GET_CHILDREN:
                children = [name.decode() for name in _names(wire.Reader(items[0][-1].body))]
        return children, None


def clean(sides: Sequence[Side]) -> bool:
    """Close every session and remove every znode; False if the servers are not in the same state after that."""
    states = []
    for side in sides:
        for slot in list(side.links):
            side.forget(slot)
        for known in side.sessions:
            if known is not None:
                try:
                    side.server.session(session_id=known[0], password=known[1], timeout_ms=_TIMEOUT_MS).close()
                except wire.Refused:
                    pass
        with side.server.session(timeout_ms=_TIMEOUT_MS) as session:
            session.add_auth("digest", rs.SUPER)
            doomed = _below(session, "/")
            for path in sorted(doomed, key=lambda p: -p.count("/")):
                if path not in ("/zookeeper", "/zookeeper/quota", "/zookeeper/config"):
                    session.delete(path)
            state: list[object] = []
            for path in ("/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"):
                data, stat = session.get(path)
                state += [data, stat.version, stat.cversion, stat.aversion, session.get_acl(path)[0]]
            states.append(state)
    return states[0] == states[1]


def _below(session: wire.Session, path: str) -> list[str]:
    found = []
    for name in session.children(path):
        child = f"{path.rstrip('/')}/{name}"
        found += [child, *_below(session, child)]
    return found


class Differential:
    """Two running servers. ``directory`` takes their files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.starts = 0
        self.servers: list[Server] = []
        self.excused: Counter[str] = Counter()

    def start(self) -> None:
        """Both servers anew, without data."""
        self.stop()
        self.starts += 1
        home = self.directory / str(self.starts)
        self.servers = [Reference(home / "zookeeper", config=CONFIG), FastzkServer(home / "fastzk", config=CONFIG)]
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_ready(60)

    def stop(self) -> None:
        for server in self.servers:
            server.discard()
            shutil.rmtree(server.directory, ignore_errors=True)
        self.servers = []

    def play(self, steps: Sequence[Step]) -> Difference | None:
        """The first difference, from two servers without znodes. Raises ServerDied."""
        if not self.servers:
            self.start()
        run = Run(self.servers)
        try:
            difference = run.play(steps) or run.finish(len(steps))
            self.excused += run.comparer.excused
        except ServerDied:
            self.stop()
            raise
        try:
            usable = clean(run.sides)
        except (wire.WireError, wire.ZkError, OSError):
            usable = False
        if not usable:
            self.stop()
        return difference

    def shrink(self, steps: Sequence[Step], seconds: float) -> tuple[list[Step], Difference]:
        """A short sequence that still shows a difference: delta debugging over steps, then over their requests."""
        deadline = time.monotonic() + seconds
        self.stop()
        first = self.play(steps)
        if first is None:
            raise ValueError("the difference does not come again from two new servers")
        steps, best = list(steps[: first.step + 1]), first

        def still(candidate: list[Step]) -> bool:
            nonlocal best, steps
            try:
                found = self.play(candidate)
            except ServerDied:
                return False
            if found is None:
                return False
            steps, best = candidate[: found.step + 1], found
            return True

        size = max(len(steps) // 2, 1)
        while time.monotonic() < deadline:
            at, shorter = 0, False
            while at < len(steps) and time.monotonic() < deadline:
                if still(steps[:at] + steps[at + size :]):
                    shorter = True
                else:
                    at += size
            if size > 1:
                size = max(size // 2, 1)
            elif not shorter:
                break
        for number in reversed(range(len(steps))):
            for index in reversed(range(len(steps[number].frames) if number < len(steps) else 0)):
                step = steps[number]
                frames = step.frames[:index] + step.frames[index + 1 :]
                if frames and time.monotonic() < deadline:
                    still([*steps[:number], replace(step, frames=frames), *steps[number + 1 :]])
                if number >= len(steps):
                    break
        return steps, best

    def check(self, seed: int, count: int, shrink_seconds: float) -> str | None:
        """None if a seed shows no difference, else a shrunk one in words."""
        steps = rs.Generator(seed).steps(count)
        difference = self.play(steps)
        if difference is None:
            return None
        try:
            short, small = self.shrink(steps, shrink_seconds)
        except ValueError as error:
            return f"seed {seed}, step {difference.step}: {error}\n{difference.show(steps[-1:])}"
        return f"seed {seed}, step {difference.step}, shrunk to {len(short)} steps:\n{small.show(short)}"


def workplace() -> tempfile.TemporaryDirectory[str]:
    """A directory for both servers, in memory where there is such: nothing here is about disks."""
    shm = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="fastzk-differential-", dir=shm if shm.is_dir() else None)


def _seeds(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare fastzk with Apache ZooKeeper under random requests.")
    parser.add_argument("--seeds", type=_seeds, default=[0], help="for example 0-49 or 3,7")
    parser.add_argument("--steps", type=int, default=5000, help="steps of each seed")
    parser.add_argument("--shrink", type=float, default=120.0, help="seconds spent on making a difference small")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first seed with a difference")
    options = parser.parse_args()
    missing = ZooKeeperServer.missing()
    if missing:
        parser.error(f"Apache ZooKeeper: {missing}")
    failed = 0
    with workplace() as directory:
        differential = Differential(Path(directory))
        try:
            for seed in options.seeds:
                began = time.monotonic()
                try:
                    found = differential.check(seed, options.steps, options.shrink)
                except ServerDied as death:
                    found = f"seed {seed}: {death}"
                print(f"seed {seed}: {found or 'no difference'} ({time.monotonic() - began:.1f} s)", flush=True)
                failed += found is not None
                if found and not options.keep_going:
                    break
        finally:
            differential.stop()
    for reason, count in differential.excused.most_common():
        print(f"kept on purpose, {count} times: {reason}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
