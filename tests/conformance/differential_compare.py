"""What counts as the same answer of two servers, for the differential test.

Bodies are read by the request that they answer. Not compared are times (only whether they are 0), ids of
sessions (each is matched with its counterpart), the order of names in a list, and zxids as numbers:
ZooKeeper spends one on each refused write. Those must come in the same order on both sides, and a header's
must lie between the same two changes.

:func:`excuse` knows the differences kept on purpose, which ``docs/compatibility.md`` explains.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from support import wire

from conformance import random_steps as rs
from conformance.random_steps import Frame


@dataclass(frozen=True)
class Item:
    """What came: a ``reply``, an ``event``, the answer to a ``connect``, ``closed`` or ``silence``."""

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
            return f"reply xid={self.xid} zxid=0x{self.zxid:x} err={self.err} body={rs.shown(self.body)}"
        return f"{self.kind} {rs.shown(self.body)}"


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


def excuse(frame: Frame, zookeeper: Item, fastzk: Item) -> str | None:
    """Why these two replies may differ, or None."""
    if frame.op == rs.CHECK_WATCHES and (
        (fastzk.err == -121 and zookeeper.err in {0, -5})
        or (fastzk.err == 0 and zookeeper.err == -5 and not frame.body[4:].startswith(b"/"))
        or (fastzk.err == 0 and zookeeper.err == -121 and frame.body.startswith(wire.text("")))
    ):
        return "checkWatches counts this connection's watches only, and needs no slash (ZOOKEEPER-4471)"
    if frame.op == wire.EXISTS and fastzk.err == -102 and zookeeper.err == 0:
        return "exists needs the READ permission (ZOOKEEPER-2590)"
    return None


class Comparer:
    """Compares what both servers sent, reading bodies by the request that they answer."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.excused: Counter[str] = Counter()
        #: an excused request left a watch on one side only
        self.watches_differ = False

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
        if a.kind == "silence":
            return "neither answers nor closes"
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
            self.watches_differ |= frame is not None and frame.op == wire.EXISTS
            return None
        # of errors only that of a multiRead has a body
        body = self.body(frame, a, b) if frame and (a.err == 0 or a.body) else a.body == b.body
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
            and all(self.pairs.same_zxid(x, y) for x, y in ((a.czxid, b.czxid), (a.mzxid, b.mzxid), (a.pzxid, b.pzxid)))
        )


# ---- bodies by operation; lists whose order is that of a hash table are sorted


def names(r: wire.Reader) -> list[bytes]:
    return sorted(r.buffer() or b"" for _ in range(r.int()))


def _text(raw: bytes | None) -> str | None:
    """A string; ZooKeeper writes each half of a surrogate pair by itself."""
    if raw is None:
        return None
    return raw.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16")


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
            results.append(names(r))


def _failed_multi(frame: Frame, reply: Item) -> bool:
    return frame.op == wire.MULTI and reply.body[:4] == b"\xff\xff\xff\xff"


_BODIES: dict[int, Callable[[wire.Reader], object]] = {
    **{op: lambda r: (r.buffer(), r.stat()) for op in (15, rs.CREATE_CONTAINER, rs.CREATE_TTL, wire.GET_DATA)},
    **{op: lambda r: r.stat() for op in (wire.EXISTS, wire.SET_DATA, wire.SET_ACL)},
    wire.GET_ACL: lambda r: (_acls(r), r.stat()),
    wire.GET_CHILDREN: names,
    wire.GET_CHILDREN2: lambda r: (names(r), r.stat()),
    wire.MULTI: _multi,
    rs.MULTI_READ: _multi,
    rs.GET_EPHEMERALS: names,
    wire.SYNC: lambda r: _text(r.buffer()),
    rs.WHO_AM_I: _clients,
}
_CHANGES = {1, 2, 5, 7, 14, 15, rs.CREATE_CONTAINER, rs.CREATE_TTL, wire.CLOSE_SESSION}
