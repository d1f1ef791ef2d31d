"""Seeded random requests, valid and not, for the differential test.

A :class:`Step` is plain data and refers to nothing that a server answered: sessions are named by the
*slot* (one of a few client connections) that had them last, zxids by a fraction of those seen so far. So
any subset of a sequence of steps can be played as well, which is what makes a difference shrinkable.

Left out because Apache ZooKeeper 3.8 ends or hangs on them: ``createTTL`` with a flag that is not a TTL's
and a negative ttl, znodes named ``zookeeper_limits`` or ``zookeeper_stats``, null paths built into a
``multi``. Left out because 3.8.0 has bugs there that later releases fixed: one-shot and persistent watches
of one connection on one path (each slot has a kind of its own), IPv6 addresses in ACLs. Left out because
fastzk differs there (see ``docs/compatibility.md``): the types 4 and 5 of ``checkWatches`` and
``removeWatches``, and the extensions (in a ``multiRead``: ``exists`` and the like).
"""

from __future__ import annotations

import base64
import hashlib
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from support import wire
from support.wire import Acl

(
    *_,
    RECONFIG,
    CHECK_WATCHES,
    REMOVE_WATCHES,
    CREATE_CONTAINER,
    DELETE_CONTAINER,
    CREATE_TTL,
    MULTI_READ,
) = range(23)
GET_EPHEMERALS, GET_ALL_CHILDREN_NUMBER, SET_WATCHES2, ADD_WATCH, WHO_AM_I = range(103, 108)

_REGULAR = (
    "create delete exists getData setData getACL setACL getChildren sync - ping getChildren2 check multi create2 "
    "reconfig checkWatches removeWatches createContainer deleteContainer createTTL multiRead"
)
_LATE = "auth setWatches sasl getEphemerals getAllChildrenNumber setWatches2 addWatch whoAmI"
NAMES = {
    **dict(enumerate(_REGULAR.split(), 1)),
    **dict(enumerate(_LATE.split(), 100)),
    wire.CLOSE_SESSION: "closeSession",
}

#: Slots with one-shot watches only, with persistent ones only, and with recursive ones only.
ONE_SHOT, PERSISTENT, RECURSIVE = (0, 1, 2), (3,), (4,)
SLOTS = len(ONE_SHOT + PERSISTENT + RECURSIVE)

SUPER = b"super:secret"


def digest_id(credentials: bytes) -> str:
    user = credentials.split(b":")[0].decode()
    return f"{user}:{base64.b64encode(hashlib.sha1(credentials).digest()).decode()}"


def shown(raw: bytes) -> str:
    """Bytes in hex, the middle of long ones left out."""
    if len(raw) > 400:
        return f"{raw[:200].hex(' ', 4)} ... {len(raw) - 300} bytes ... {raw[-100:].hex(' ', 4)}"
    return raw.hex(" ", 4) or "empty"


@dataclass(frozen=True)
class Frame:
    """One request. ``seen``: its first 8 bytes become the zxid at this fraction of those seen so far.

    ``parts``: the operations of an unspoiled multi, each with its note; ``body`` is these and an end mark.
    """

    op: int
    body: bytes
    note: str
    xid: int | None = None
    seen: float | None = None
    parts: tuple[tuple[bytes, str], ...] = ()

    def smaller(self) -> Iterator[Frame]:
        """The same multi without one of its operations."""
        end = self.body[sum(len(raw) for raw, _ in self.parts) :]
        for at in range(len(self.parts)):
            parts = self.parts[:at] + self.parts[at + 1 :]
            body = b"".join(raw for raw, _ in parts) + end
            yield replace(self, body=body, note="; ".join(note for _, note in parts), parts=parts)

    def __str__(self) -> str:
        name = NAMES.get(self.op, f"type {self.op}")
        seen = "" if self.seen is None else f" relativeZxid=at {self.seen:.3f} of those seen"
        xid = "" if self.xid is None else f" xid={self.xid}"
        return f"{name}{xid}{seen} {self.note}\n        body {shown(self.body)}"


@dataclass(frozen=True)
class Step:
    """What one client does before the next one gets its turn.

    ``kind``: ``send`` the frames in one write; ``drop`` the connection; ``attach`` to the session that
    ``source`` had last; ``greet`` on a new connection with ``raw`` as the connect request, then close the
    session; ``bytes``: send ``raw``, then no more. A slot without a connection gets one, with a new
    session, when it needs one.
    """

    kind: str
    slot: int
    frames: tuple[Frame, ...] = ()
    source: int = 0
    variant: str = ""
    raw: bytes = b""

    def __str__(self) -> str:
        head = f"slot {self.slot}: {self.kind}"
        if self.kind == "attach":
            return f"{head} to the last session of slot {self.source}, {self.variant}"
        if self.kind in {"greet", "bytes"}:
            return f"{head} {self.variant} {self.raw.hex(' ', 4)}"
        return "\n      ".join([head, *map(str, self.frames)])


_PLAIN = ("/a", "/b", "/a/a", "/a/b", "/b/a", "/a/a/a", "/a/a/b", "/b/b", "/b/a/a", "/c")
_SYSTEM = (
    "/",
    "/zookeeper",
    "/zookeeper/quota",
    "/zookeeper/config",
    "/zookeeper/a",
    "/zookeeperx",
    "/zookeeper/",
)
_WEIRD: tuple[str | bytes | None, ...] = (
    *(
        "",
        "a",
        "a/b",
        "//",
        "//a",
        "/a/",
        "/a//b",
        "/a/.",
        "/a/..",
        "/a/../b",
        "/./a",
        "/../a",
        "/.",
        "/..",
        "/...",
    ),
    *(
        "/.a",
        "/a.",
        "/a b",
        "/a/\x00",
        "\x00",
        "/a\x00b",
        "/\x01",
        "/\x1f",
        "/ ",
        "/\x7f",
        "/\x80",
        "/\x9f",
        "/\xa0",
    ),
    *("/é", "/a/ß", "/日本", "/\ud7ff", "/\ue000", "/\uf8ff", "/\uf900", "/\uffef", "/\ufff0", "/\uffff"),
    *("/\U0001f600", "/missing/a", "/missing/../a", "/missing//a", "/a/missing/b", " /a", "/a/b/c/d/e/f"),
    *(
        b"/\xff",
        b"/\xc3",
        b"/\xed\xa0\x80",
        b"/\xc0\x80",
        b"/a\xe6\x97",
        b"/\xf0\x9f\x98",
        b"/a\xffb/c",
        b"\xff",
    ),
    *("/" + "n" * 300, "/a/" + "long/" * 60 + "x", None, "/a/a/", "./a", "/zookeeper/../a"),
)
_USERS = (b"amy:one", b"bob:two", b"amy:three")
_ACLS: tuple[tuple[Acl, ...], ...] = (
    (Acl(31, "auth", ""),),
    (Acl(31, "auth", "anything"), Acl(1, "world", "anyone")),
    (Acl(1, "world", "anyone"),),
    (Acl(3, "world", "anyone"),),
    (Acl(30, "world", "anyone"),),
    (Acl(15, "world", "anyone"),),
    (Acl(16, "world", "anyone"),),
    (Acl(0, "world", "anyone"),),
    (Acl(-1, "world", "anyone"),),
    (Acl(63, "world", "anyone"),),
    (Acl(31, "world", "anyone"), Acl(31, "world", "anyone")),
    (Acl(1, "world", "anyone"), Acl(4, "world", "anyone"), Acl(1, "world", "anyone")),
    (Acl(31, "digest", digest_id(_USERS[0])),),
    (Acl(31, "digest", digest_id(_USERS[1])), Acl(1, "world", "anyone")),
    (Acl(1, "digest", digest_id(_USERS[0])), Acl(2, "digest", digest_id(_USERS[1])), Acl(16, "auth", "")),
    (Acl(31, "ip", "127.0.0.1"),),
    (Acl(31, "ip", "127.0.0.0/8"),),
    (Acl(31, "ip", "127.0.0.1/0"),),
    (Acl(31, "ip", "126.0.0.0/7"), Acl(1, "ip", "10.0.0.0/8")),
    (Acl(1, "ip", "10.1.2.3"),),
    (Acl(31, "ip", "+127.0.0.1"),),
    (Acl(31, "ip", "127.0.0.1/-0"),),
    (Acl(31, "ip", "0127.-0.+0.000001/+032"),),
)
_BAD_IDS = (
    *((scheme, who) for scheme in ("digest", "ip") for who in ("", ":", "a:", ":b", "a:b", "a:b:", "a:b:c", "a")),
    *(
        ("world", "everyone"),
        ("world", ""),
        ("world", None),
        (None, "anyone"),
        (None, None),
        ("digest", None),
        ("ip", None),
    ),
    *(
        ("", ""),
        ("nobody", "x"),
        ("super", ""),
        ("sasl", "amy"),
        ("x509", "CN=amy"),
        ("auth", None),
        ("World", "anyone"),
    ),
    *(("ip", who) for who in ("1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.-4", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/-1")),
    *(("ip", who) for who in ("1.2.3.4/8/8", "1.2.3.4/+8", "01.2.3.4", "1.2.3.4 ", "a.b.c.d", "1..2.3", "1.2.3.4.")),
    *(("digest", "::b"), ("digest", "amy:"), ("digest", "ä:b"), ("ip", "1.2.3.4/ 8"), ("digest", "a\x00:b")),
)
_VERSIONS = (0, 0, 1, 1, 2, 3, 4, -2, 2**31 - 1, -(2**31))
_DATA: tuple[bytes | None, ...] = (None, b"", b"x", b"value", b"\x00\xff", b"y" * 40, b"z" * 200)
_AUTH: tuple[tuple[str | bytes | None, bytes | None], ...] = (
    *(("digest", user) for user in _USERS * 3),
    *(
        ("digest", data)
        for data in (SUPER, b"nocolon", b"", b":", b"a:b:c", b"amy:", b":x", b"\xff:\xfe", "ä:ö".encode())
    ),
    *(("ip", b"1.2.3.4"), ("ip", b""), ("digest", None), ("ip", None), ("world", b"anyone"), ("super", b"x")),
    *(
        ("nobody", b"x"),
        ("", b""),
        (None, b"x"),
        ("x509", b"x"),
        ("auth", b""),
        ("Digest", b"a:b"),
        (b"\xff", b"x"),
    ),
)
UNKNOWN_OPS = (0, 10, 23, 50, 99, 108, 1000, -1, -2, -12, 2**31 - 1, -(2**31))


class Generator:
    """Makes the steps of one seed."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)

    def steps(self, count: int) -> list[Step]:
        return [self.step() for _ in range(count)]

    def step(self) -> Step:
        r = self.r
        slot = r.randrange(SLOTS)
        kind = r.random()
        if kind < 0.008:
            return Step("drop", slot)
        if kind < 0.020:
            variants = (
                "right",
                "right",
                "right",
                "wrong",
                "short",
                "none",
                "ahead",
                "without the readOnly byte",
            )
            return Step("attach", slot, source=r.randrange(SLOTS), variant=r.choice(variants))
        if kind < 0.026:
            return self.greet(slot)
        if kind < 0.030:
            raw = b"".join(r.choice((self.number(), r.randbytes(r.randrange(1, 9)))) for _ in range(r.randrange(1, 4)))
            size = r.choice((0, 1, 4, 7, -1, -(2**31), 1 << 20, 2**31 - 1, len(raw) + 100))
            return Step("bytes", slot, raw=struct.pack(">i", size) + raw)
        if kind < 0.036:
            return Step("send", slot, (Frame(wire.CLOSE_SESSION, b"", ""),))
        if kind < 0.038:
            return Step("send", slot, (self.frame(r.choice(UNKNOWN_OPS), self.number() * r.randrange(4), "unknown"),))
        if kind < 0.055:
            return Step("send", slot, (self.auth(),))
        count = 1 if r.random() < 0.8 else r.randrange(2, 7)
        frames: list[Frame] = []
        while len(frames) < count:
            frames.append(self.request(slot))
            # What is pipelined behind a setACL ZooKeeper checks by the old ACL or the new one, as it
            # happens. A watch of exists is on one side only if the client may not read the znode.
            if frames[-1].op in {wire.SET_ACL, wire.EXISTS}:
                break
        if any(frame.op == wire.CHECK for frame in frames):
            # A check that holds gets no answer of ZooKeeper 3.8; the ping shows that it was passed over.
            frames.append(Frame(wire.PING, b"", "", wire.XID_PING))
        return Step("send", slot, tuple(frames))

    # ---- what requests are made of

    def number(self) -> bytes:
        return struct.pack(">i", self.r.choice((-1, -2, 0, 1, 2, 5, 255, 65536, 2**24 - 1, 2**31 - 1, -(2**31))))

    def path(self, nulls: bool = True) -> str | bytes | None:
        r = self.r
        kind = r.random()
        if kind < 0.80:
            return r.choice(_PLAIN)
        if kind < 0.88:
            return f"{r.choice(_PLAIN)}{r.choice(('', '/', '/s'))}{r.randrange(6):010d}"
        if kind < 0.92:
            return r.choice(_SYSTEM)
        while True:
            path = r.choice(_WEIRD)
            if nulls or path is not None:
                return path

    def watched(self) -> str:
        return self.r.choice(_PLAIN) if self.r.random() < 0.93 else self.r.choice(("/", "/é", "a", "", "/zookeeper"))

    def new_path(self, nulls: bool = True) -> str | bytes | None:
        path = self.path(nulls)
        return "/a" if path == "/zookeeper/quota" else path

    def version(self) -> int:
        return -1 if self.r.random() < 0.7 else self.r.choice(_VERSIONS)

    def data(self) -> bytes | None:
        return self.r.choice(_DATA)

    def acl(self) -> tuple[Acl, ...] | None:
        r = self.r
        kind = r.random()
        if kind < 0.80:
            return wire.OPEN
        if kind < 0.95:
            return r.choice(_ACLS)
        if kind < 0.99:
            bad = Acl(r.choice((31, 1, 0)), *r.choice(_BAD_IDS))
            return (bad,) if r.random() < 0.6 else (Acl(31, "world", "anyone"), bad)
        return r.choice((None, ()))

    def flags(self) -> int:
        r = self.r
        return r.choice((0, 0, 0, 1, 1, 2, 3)) if r.random() < 0.93 else r.choice((4, 5, 6, 7, -1, 100, -(2**31)))

    def flag(self, likely: float) -> bytes:
        """A watch flag: any byte but 0 is true."""
        value = int(self.r.random() < likely)
        return bytes([self.r.choice((2, 255)) if value and self.r.random() < 0.05 else value])

    # ---- requests

    def frame(self, op: int, body: bytes, note: str, seen: float | None = None) -> Frame:
        r = self.r
        kind = r.random()
        if kind < 0.015 and body:
            body = body[: r.randrange(len(body))]
            note += ", cut short"
        elif kind < 0.025:
            body += r.randbytes(r.randrange(1, 12))
            note += ", with trailing bytes"
        elif kind < 0.040 and len(body) >= 4 and op not in (CREATE_TTL, MULTI_READ):
            at = r.randrange(len(body) - 3)
            body = body[:at] + self.number() + body[at + 4 :]
            note += f", spoiled at {at}"
        return Frame(op, body, note, seen=seen if seen is not None and len(body) >= 8 else None)

    def auth(self) -> Frame:
        scheme, data = self.r.choice(_AUTH)
        body = self.r.choice((b"\x00\x00\x00\x00", self.number())) + wire.text(scheme) + wire.text(data)
        return replace(self.frame(wire.AUTH, body, f"{scheme!r} {data!r}"), xid=wire.XID_AUTH)

    def create_body(self, op: int, nulls: bool = True) -> tuple[bytes, str]:
        r = self.r
        path, data, acl, flags = self.new_path(nulls), self.data(), self.acl(), self.flags()
        if op == CREATE_CONTAINER and r.random() < 0.9:
            flags = 4
        ttl = b""
        note = ""
        if op == CREATE_TTL:
            if r.random() < 0.9:
                flags = r.choice((5, 6))
            life = r.choice((10**9, 10**10, 2**40 - 1, 2**40, 0, -2, 2**62, -(2**63), -1))
            if life < 0 and flags not in (5, 6):
                life = 10**9
            ttl = struct.pack(">q", life)
            note = f" ttl={life}"
        body = wire.create(path, data, flags, acl).body + ttl
        acls = "open" if acl == wire.OPEN else acl
        return body, f"{path!r} data={data if data is None else data[:12]!r} acl={acls} flags={flags}{note}"

    def request(self, slot: int) -> Frame:
        r = self.r
        one_shot = slot in ONE_SHOT
        op = r.choices(*_WEIGHTS)[0]
        path = self.path()
        note = repr(path)
        if op in (wire.CREATE, wire.CREATE2, CREATE_CONTAINER, CREATE_TTL):
            return self.frame(op, *self.create_body(op))
        if op in (wire.EXISTS, wire.GET_DATA, wire.GET_CHILDREN, wire.GET_CHILDREN2):
            flag = self.flag(0.4 if one_shot else 0.0)
            if flag != b"\x00":
                note += " watch"
            elif not one_shot:
                # must stay as it is: a spoiled one might set the other kind of watch
                return Frame(op, wire.text(path) + flag, note)
            return self.frame(op, wire.text(path) + flag, note)
        if op in (wire.DELETE, wire.CHECK):
            version = self.version()
            return self.frame(op, wire.text(path) + struct.pack(">i", version), f"{note} version={version}")
        if op == wire.SET_DATA:
            version, data = self.version(), self.data()
            body = wire.text(path) + wire.text(data) + struct.pack(">i", version)
            return self.frame(op, body, f"{note} version={version} data={data if data is None else data[:12]!r}")
        if op == wire.SET_ACL:
            version, acl = self.version(), self.acl()
            if path == "/" and r.random() < 0.9:
                acl = wire.OPEN
            body = wire.text(path) + wire.acls(acl) + struct.pack(">i", version)
            return self.frame(op, body, f"{note} version={version} acl={acl}")
        if op in (wire.GET_ACL, wire.SYNC, GET_ALL_CHILDREN_NUMBER, GET_EPHEMERALS, DELETE_CONTAINER):
            if op == GET_EPHEMERALS and r.random() < 0.5:
                path = r.choice((None, "", "/", " ", " / ", "/a", "/a/", "a", "/A", "\t"))
            return self.frame(op, wire.text(path), repr(path))
        if op == wire.MULTI:
            return self.multi()
        if op == MULTI_READ:
            return self.multi_read()
        if op in (wire.SET_WATCHES, SET_WATCHES2):
            return self.set_watches(slot)
        if op == ADD_WATCH:
            mode = 0 if slot in PERSISTENT else 1
            if one_shot or r.random() < 0.1:
                mode = r.choice((2, -1, 100))
            base = self.watched()
            return Frame(op, wire.text(base) + struct.pack(">i", mode), f"{base!r} mode={mode}")
        if op in (CHECK_WATCHES, REMOVE_WATCHES):
            kind = r.choice((1, 2, 3)) if one_shot else 3
            if r.random() < 0.05:
                kind = r.choice((0, -1, 6, 100))
            where: str | bytes | None = self.watched() if r.random() < 0.9 else path
            return Frame(op, wire.text(where) + struct.pack(">i", kind), f"{where!r} type={kind}")
        if op == RECONFIG:
            body = b"".join(wire.text(r.choice((None, b"", b"server.1=a:1:2"))) for _ in range(3))
            return self.frame(op, body + struct.pack(">q", -1), "")
        if op == wire.PING:
            return Frame(op, b"", "", wire.XID_PING)
        return self.frame(op, b"", "")

    def multi(self) -> Frame:
        r = self.r
        parts: list[bytes] = []
        notes: list[str] = []
        for _ in range(r.choice((0, 1, 1, 2, 2, 2, 3, 3, 4, 6))):
            op = r.choice((1, 1, 1, 15, CREATE_CONTAINER, CREATE_TTL, 2, 2, 5, 5, 13, 13))
            if op in (1, 15, CREATE_CONTAINER, CREATE_TTL):
                body, note = self.create_body(op, nulls=False)
            else:
                path, version = self.path(nulls=False), self.version()
                data = wire.text(self.data()) if op == wire.SET_DATA else b""
                body = wire.text(path) + data + struct.pack(">i", version)
                note = f"{path!r} version={version}"
            if r.random() < 0.01:
                op = r.choice((3, 6, 7, 9, 16, 20, 14, 0, -1, 99, 4, 8))
            head = (op, False, -1) if r.random() < 0.97 else (op, False, r.choice((0, 7)))
            parts.append(struct.pack(">i?i", *head) + body)
            notes.append(f"{NAMES.get(op, op)} {note}")
        end = struct.pack(">i?i", -1, True, -1) if r.random() < 0.97 else struct.pack(">i?i", r.choice((0, 1)), True, 0)
        if r.random() < 0.01:
            end = b""
        return self.with_parts(wire.MULTI, parts, notes, end)

    def multi_read(self) -> Frame:
        r = self.r
        parts: list[bytes] = []
        notes: list[str] = []
        # Writes are refused, in one way if there are only such, in another among reads.
        kind = r.random()
        reads, writes = (wire.GET_DATA, wire.GET_CHILDREN), (1, 2, 5, 13, 15, CREATE_CONTAINER, CREATE_TTL)
        ops = reads if kind < 0.8 else writes if kind < 0.93 else (*reads, *writes)
        for _ in range(r.randrange(5)):
            op, path = r.choice(ops), self.path()
            note = f"{path!r}"
            if op in reads:
                body = wire.text(path) + b"\x00"
            elif op in (wire.DELETE, wire.CHECK):
                body = wire.text(path) + struct.pack(">i", -1)
            elif op == wire.SET_DATA:
                body = wire.text(path) + wire.text(self.data()) + struct.pack(">i", -1)
            else:
                body, note = self.create_body(op, nulls=False)
            parts.append(struct.pack(">i?i", op, False, -1) + body)
            notes.append(f"{NAMES[op]} {note}")
        return self.with_parts(MULTI_READ, parts, notes, struct.pack(">i?i", -1, True, -1))

    def with_parts(self, op: int, parts: list[bytes], notes: list[str], end: bytes) -> Frame:
        frame = self.frame(op, b"".join(parts) + end, "; ".join(notes))
        if frame.body == b"".join(parts) + end:
            return replace(frame, parts=tuple(zip(parts, notes, strict=True)))
        return frame

    def set_watches(self, slot: int) -> Frame:
        r = self.r
        op = r.choice((wire.SET_WATCHES, SET_WATCHES2)) if slot in ONE_SHOT else SET_WATCHES2
        lists: list[list[str]] = [[self.watched() for _ in range(r.choice((0, 0, 1, 2, 3)))] for _ in range(5)]
        for kind, slots in enumerate((ONE_SHOT, ONE_SHOT, ONE_SHOT, PERSISTENT, RECURSIVE)):
            if slot not in slots:
                lists[kind] = []
        if op == wire.SET_WATCHES:
            del lists[3:]
        spoiled = r.randrange(len(lists)) if r.random() < 0.03 else -1
        relative = struct.pack(">q", r.choice((0, -1, 2**62)))
        vectors = b"".join(self.number() if i == spoiled else wire.strings(x) for i, x in enumerate(lists))
        seen = r.choice((None, 1.0, r.random()))
        frame = Frame(op, relative + vectors, repr(lists), seen=seen)
        return replace(frame, xid=wire.XID_SET_WATCHES) if r.random() < 0.5 else frame

    def greet(self, slot: int) -> Step:
        r = self.r
        body = wire.connect_request(
            r.choice((0, -1, 1, 30_000, 10**6, 2**31 - 1, -(2**31))),
            r.choice((0, 0, 0, 0, 1, -1, 2**62)),
            r.choice((wire.NO_PASSWORD, None, b"", b"x" * 15, b"y" * 17)),
            last_zxid=r.choice((0, 0, 0, -1, 2**62)),
            read_only=r.choice((False, False, None, True)),
            protocol=r.choice((0, 0, 1, -1)),
        )
        if r.random() < 0.15:
            body = body[: r.randrange(8, len(body))]
        size = len(body) if r.random() < 0.93 else r.choice((0, 3, 7, -1, 1 << 20, len(body) + 50))
        return Step("greet", slot, raw=struct.pack(">i", size) + body)


_WEIGHTS: tuple[list[int], list[int]] = tuple(  # type: ignore[assignment]
    map(
        list,
        zip(
            *(
                (wire.CREATE, 16),
                (wire.CREATE2, 6),
                (CREATE_CONTAINER, 3),
                (CREATE_TTL, 3),
                (wire.DELETE, 14),
                (wire.SET_DATA, 9),
                (wire.SET_ACL, 4),
                (wire.CHECK, 1),
                (wire.MULTI, 9),
                (wire.EXISTS, 6),
                (wire.GET_DATA, 6),
                (wire.GET_CHILDREN, 4),
                (wire.GET_CHILDREN2, 4),
                (wire.GET_ACL, 3),
                (wire.SYNC, 1),
                (GET_ALL_CHILDREN_NUMBER, 2),
                (GET_EPHEMERALS, 2),
                (DELETE_CONTAINER, 1),
                (MULTI_READ, 3),
                (wire.SET_WATCHES, 4),
                (ADD_WATCH, 4),
                (CHECK_WATCHES, 2),
                (REMOVE_WATCHES, 3),
                (RECONFIG, 1),
                (wire.PING, 1),
                (WHO_AM_I, 1),
            ),
            strict=True,
        ),
    )
)
