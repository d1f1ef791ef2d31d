"""What a server must expect from clients that mean no good, or are broken: the corpus of hostile traffic.

An :class:`Attack` runs against a :class:`Target` and returns how many connections the server closed *of its own
accord*, so that the caller can check that the log has a reason for each. It does not judge the server beyond
what only the attacker can see (an answer that must come, a connection that must stay or end).

As a program it runs the corpus in a loop at full rate: ``python -m support.hostile --port P [--seconds S]``.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from support import wire
from support.wire import Acl, Request, Session

#: jute.maxbuffer as ZooKeeper has it.
MAX_FRAME = 0xFFFFF
#: The longest setWatches that fastzk takes.
MAX_SET_WATCHES = 64 << 20

SASL, GET_EPHEMERALS, ALL_CHILDREN_NUMBER, SET_WATCHES2, ADD_WATCH, WHO_AM_I = 102, 103, 104, 105, 106, 107
MULTI_READ, RECONFIG, CHECK_WATCHES, REMOVE_WATCHES, CREATE_CONTAINER, CREATE_TTL = 22, 16, 17, 18, 19, 21
INT_MAX, INT_MIN = 2**31 - 1, -(2**31)
#: What lying length and count fields say.
LIES = (-1, -2, INT_MIN, INT_MAX, INT_MAX - 3, 1 << 30, MAX_FRAME, 65536, 1000)

#: Paths that exist on every server, or are made by :func:`prepare`.
ROOT = "/hostile"
LARGE = "/hostile/large"
LARGE_BYTES = 200_000


@dataclass(frozen=True)
class Target:
    """A server: its ports on 127.0.0.1. ``secure``: TLS; ``unified``: both TLS and plain text on one."""

    port: int
    secure: int | None = None
    unified: int | None = None
    seed: int = 0

    @property
    def random(self) -> random.Random:
        return random.Random(self.seed)

    def connect(self, port: int | None = None) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=20)

    @contextlib.contextmanager
    def raw(self, port: int | None = None) -> Iterator[socket.socket]:
        """A plain connection; what the server does to it while bytes are sent is no error."""
        with self.connect(port) as sock, contextlib.suppress(ConnectionError):
            yield sock

    @contextlib.contextmanager
    def session(self, timeout_ms: int = 4000) -> Iterator[Session]:
        """A session, dropped without a word at the end."""
        session = Session(self.port, timeout_ms=timeout_ms)
        try:
            yield session
        finally:
            session.drop()


@dataclass(frozen=True)
class Attack:
    """``reason``: what the log must say if the server closed a connection; None: it closes none."""

    name: str
    run: Callable[[Target], int]
    reason: str | None = None


ATTACKS: list[Attack] = []


def attack(reason: str | None = None) -> Callable[[Callable[[Target], int]], Callable[[Target], int]]:
    def register(run: Callable[[Target], int]) -> Callable[[Target], int]:
        ATTACKS.append(Attack(run.__name__, run, reason))
        return run

    return register


def prepare(target: Target) -> None:
    """Make the znodes that the attacks name."""
    with Session(target.port) as zk:
        for path, data in ((ROOT, b""), (LARGE, bytes(LARGE_BYTES))):
            with contextlib.suppress(wire.ZkError):
                zk.create(path, data)


def drain(sock: socket.socket, seconds: float = 20.0) -> int:
    """Read until the server closes; 1. Fails if it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while True:
            sock.settimeout(max(0.01, deadline - time.monotonic()))
            if not sock.recv(1 << 18):
                break
    return 1


def send_all(sock: socket.socket, raw: bytes) -> None:
    """Send what the server takes; it may close before all is sent."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(raw)


def answered(zk: Session) -> None:
    """The session is alive, and all that was asked before is answered."""
    zk.send_bytes(Session.frame(wire.XID_PING, Request(wire.PING, b"")))
    while zk.message().xid != wire.XID_PING:  # events name paths that need not be UTF-8
        pass


def int32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}i", *values)


def frame(body: bytes) -> bytes:
    return int32(len(body)) + body


# ---- lengths


@attack("a frame of")
def lengths_of_frames(target: Target) -> int:
    closed = 0
    for length in (-1, INT_MIN, 0, 1, 7, MAX_FRAME + 1, 1 << 24, INT_MAX):
        with target.session() as zk:
            # the opcode is there, so that nobody can hope for a setWatches
            send_all(zk._socket, int32(length, 1, wire.GET_DATA) + bytes(50))
            closed += drain(zk._socket)
    return closed


@attack("a frame of")
def lengths_of_first_frames(target: Target) -> int:
    closed = 0
    for length in (-1, INT_MIN, 0, 7, MAX_FRAME + 1, 1 << 26, INT_MAX):
        with target.raw() as sock:
            sock.sendall(int32(length) + wire.connect_request())
            closed += drain(sock)
    return closed


@attack()
def lengths_inside_frames(target: Target) -> int:
    """Every length and count field of every kind of request lies; each is answered, and the session stays."""
    requests = [
        wire.create(ROOT + "/a", b"data"),
        wire.create2(ROOT + "/a", b"data"),
        wire.delete(ROOT + "/a"),
        wire.exists(ROOT),
        wire.get_data(ROOT),
        wire.set_data(ROOT, b"data"),
        wire.get_acl(ROOT),
        wire.set_acl(ROOT + "/a", wire.OPEN),
        wire.get_children(ROOT),
        wire.sync(ROOT),
        wire.check(ROOT),
        wire.multi([wire.create(ROOT + "/m"), wire.set_data(ROOT + "/m", b"x"), wire.delete(ROOT + "/m")]),
        wire.set_watches(0, [ROOT], [ROOT + "/none"], [ROOT]),
        Request(SET_WATCHES2, struct.pack(">q", 0) + wire.strings([ROOT]) * 5),
        Request(MULTI_READ, wire.multi([wire.get_data(ROOT), wire.get_children(ROOT)]).body),
        Request(RECONFIG, wire.text("") * 3 + struct.pack(">q", -1)),
        Request(CHECK_WATCHES, wire.text(ROOT) + int32(2)),
        Request(REMOVE_WATCHES, wire.text(ROOT) + int32(3)),
        Request(CREATE_TTL, wire.create(ROOT + "/t", b"", 5).body + struct.pack(">q", 1000)),
        Request(GET_EPHEMERALS, wire.text(ROOT)),
        Request(ALL_CHILDREN_NUMBER, wire.text(ROOT)),
        Request(ADD_WATCH, wire.text(ROOT) + int32(1)),
    ]
    with target.session() as zk:
        for request in requests:
            for at in range(0, len(request.body) - 3):
                for lie in (LIES if at < 16 else LIES[:4]):
                    body = request.body[:at] + int32(lie) + request.body[at + 4 :]
                    zk.send(Request(request.op, body))
            answered(zk)
    return 0


# ---- multis


@attack()
def long_multis(target: Target) -> int:
    operation = struct.pack(">i?i", wire.CHECK, False, -1) + wire.check("/").body
    failing = struct.pack(">i?i", wire.CHECK, False, -1) + wire.check("/none").body
    end = struct.pack(">i?i", -1, True, -1)
    room = MAX_FRAME - 100
    with target.session() as zk:
        for body in (
            operation * (room // len(operation)) + end,
            operation * (room // len(operation)),  # never ends
            failing * (room // len(failing)) + end,
            end,
            b"",
        ):
            zk.call(Request(wire.MULTI, body))
        answered(zk)
    return 0


@attack()
def multis_that_lie(target: Target) -> int:
    header = struct.Struct(">i?i")
    good = header.pack(wire.CREATE, False, -1) + wire.create(ROOT + "/m").body
    with target.session() as zk:
        for kind in (wire.MULTI, wire.AUTH, wire.CLOSE_SESSION, MULTI_READ, 0, -1, INT_MAX, INT_MIN):
            nested = header.pack(kind, False, -1) + wire.multi([wire.create(ROOT + "/n")]).body
            zk.send(Request(wire.MULTI, good + nested * 100 + header.pack(-1, True, -1)))
        for lie in LIES:
            # the length of the path, and that of the data
            zk.send(Request(wire.MULTI, good + header.pack(wire.CREATE, False, -1) + int32(lie) + b"/x" * 50))
            zk.send(
                Request(wire.MULTI, header.pack(wire.SET_DATA, False, -1) + wire.text(ROOT) + int32(lie) * 3)
            )
        zk.send(Request(wire.MULTI, header.pack(wire.CHECK, False, -1) * 1000))
        answered(zk)
    return 0


@attack()
def reads_that_multiply(target: Target) -> int:
    """A short request for much: the same large znode thousands of times."""
    part = struct.pack(">i?i", wire.GET_DATA, False, -1) + wire.get_data(LARGE).body
    with target.session() as zk:
        reply = zk.call(Request(MULTI_READ, part * 20_000 + struct.pack(">i?i", -1, True, -1)))
        assert reply.err == wire.MARSHALLING, reply.err
        answered(zk)
    return 0


@attack()
def walks_through_everything(target: Target) -> int:
    with target.session() as zk:
        zk.send(*[Request(ALL_CHILDREN_NUMBER, wire.text("/"))] * 2000)
        zk.send(*[Request(GET_EPHEMERALS, wire.text("/none"))] * 2000)
        zk.send(wire.set_data(ROOT, b""), *[Request(ALL_CHILDREN_NUMBER, wire.text("/"))] * 2000)
        answered(zk)
    return 0


# ---- vectors, ACLs, identities


@attack()
def endless_vectors(target: Target) -> int:
    entry = int32(31) + wire.text("world") + wire.text("anyone")
    tail = int32(0)
    with target.session() as zk:
        for count in LIES:
            path = wire.text(ROOT + "/v") + wire.text(b"")
            zk.send(Request(wire.CREATE, path + int32(count) + entry * 3 + tail))
            zk.send(Request(wire.SET_ACL, wire.text(ROOT) + int32(count) + entry))
            for op in (wire.SET_WATCHES, SET_WATCHES2):
                zk.send(Request(op, struct.pack(">q", 0) + int32(count)))
                zk.send(Request(op, struct.pack(">q", 0) + int32(count) * 6))
                zk.send(Request(op, struct.pack(">q", 0) + int32(0, 0, count) + wire.text("/a") * 1000))
        answered(zk)
    return 0


@attack()
def long_acls(target: Target) -> int:
    """All that fits into a frame: distinct entries, equal ones, and such that each stand for others."""

    def request(entries: Iterable[bytes]) -> Request:
        body = wire.text(ROOT) + b"".join([int32(len(kept := list(entries))), *kept]) + int32(-7)
        return Request(wire.SET_ACL, body)

    address = wire.text("ip") + wire.text("10.0.0.1")
    with target.session() as zk:
        for name in range(20):
            zk.add_auth("digest", b"user%d:password" % name)
        zk.send(request(int32(perms) + address for perms in range(40_000)))
        zk.send(request(int32(31) + address for _ in range(40_000)))
        zk.send(request(int32(perms) + wire.text("auth") + wire.text("") for perms in range(60_000)))
        zk.send(request(int32(perms) + wire.text("ip") + wire.text(None) for perms in range(40_000)))
        many = wire.create(ROOT + "/none/x", b"", acl=[Acl(31, "auth", "")])
        zk.send(wire.multi([many] * 10_000))
        answered(zk)
    return 0


@attack()
def costly_acl_checks(target: Target) -> int:
    """A znode with the longest ACL that fits, none of which is the reader's, and thousands of reads of it."""
    path = f"{ROOT}/acl{random.getrandbits(64):x}"
    entries = [Acl(31, "world", "anyone")] + [
        Acl(16, "ip", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32") for n in range(25_000)
    ]
    with target.session() as zk:
        zk.create(path, b"", wire.EPHEMERAL)
        assert zk.call(wire.set_acl(path, [Acl(4, "world", "anyone"), *entries[1:]])).err == wire.OK
        zk.send(*[wire.get_data(path)] * 300)
        zk.send(wire.set_data(ROOT, b""), *[wire.get_data(path)] * 300)
        answered(zk)
        zk.close()
    return 0


@attack("bytes of identities")
def endless_identities(target: Target) -> int:
    with target.session() as zk:
        send_all(
            zk._socket,
            b"".join(
                Session.frame(wire.XID_AUTH, wire.auth("digest", b"user%d:x" % n)) for n in range(3000)
            ),
        )
        return drain(zk._socket)


@attack("authentication failed|a malformed auth request")
def rubbish_auth(target: Target) -> int:
    closed = 0
    for request in (
        wire.auth("nonsense", b"x"),
        wire.auth("digest", None),
        wire.auth(None, None),
        wire.auth("\ud800" * 1000, bytes(range(256))),
        Request(wire.AUTH, b""),
        Request(wire.AUTH, int32(0, INT_MAX)),
    ):
        with target.session() as zk:
            send_all(zk._socket, Session.frame(wire.XID_AUTH, request))
            closed += drain(zk._socket)
    return closed


@attack("authentication failed|a malformed SASL request")
def rubbish_sasl(target: Target) -> int:
    random_bytes = target.random.randbytes
    closed = 0
    for token in (None, random_bytes(50), random_bytes(100_000), b'username="' + b"\\" * 2000, b"=," * 1000, b"a=b"):
        with target.session() as zk:
            zk.call(Request(SASL, wire.text(b"")))
            send_all(zk._socket, Session.frame(3, Request(SASL, wire.text(token))))
            closed += drain(zk._socket)
    with target.session() as zk:
        send_all(zk._socket, Session.frame(3, Request(SASL, int32(INT_MAX))))
        return closed + drain(zk._socket)


# ---- handshakes


@attack("a malformed connect request|a frame of")
def truncated_handshakes(target: Target) -> int:
    body = wire.connect_request()
    closed = 0
    for size in range(len(body) - 1):  # the last byte is one that old clients leave out
        with target.raw() as sock:
            sock.sendall(frame(body[:size]))
            closed += drain(sock)
    return closed


@attack("a malformed connect request")
def handshakes_that_lie(target: Target) -> int:
    closed = 0
    for lie in LIES:
        if lie == -1:
            continue  # a null password is one
        with target.raw() as sock:
            sock.sendall(frame(struct.pack(">iqiqi", 0, 0, 10_000, 0, lie) + bytes(16)))
            closed += drain(sock)
    return closed


@attack()
def absurd_timeouts(target: Target) -> int:
    for timeout_ms in (0, -1, 1, INT_MAX, INT_MIN):
        with target.session(timeout_ms) as zk:
            assert 0 < zk.timeout_ms < 1_000_000, zk.timeout_ms
            answered(zk)
    return 0


@attack("expired, closed or wrong password")
def odd_passwords(target: Target) -> int:
    closed = 0
    with target.session() as victim:
        for size in (None, 0, 1, 15, 17, 255, 1000, 500_000):
            # of a session that does not exist, so the victim's connection stays
            password = None if size is None else bytes(size)
            for session in (victim.session_id ^ 1, -1, INT_MIN, 2**63 - 1):
                with target.raw() as sock:
                    sock.sendall(frame(wire.connect_request(4000, session, password)))
                    closed += drain(sock)
        answered(victim)
        with target.raw() as sock:  # of one that does: the victim's connection goes, as with ZooKeeper
            sock.sendall(frame(wire.connect_request(4000, victim.session_id, bytes(15))))
            closed += drain(sock)
        drain(victim._socket)
    return closed


@attack("the client has seen zxid")
def clients_from_the_future(target: Target) -> int:
    with target.raw() as sock:
        sock.sendall(frame(wire.connect_request(last_zxid=2**63 - 1)))
        return drain(sock)


# ---- half frames


@attack()
def half_frames(target: Target) -> int:
    """A header and no more, a frame byte by byte, and ends in the middle of one."""
    request = Session.frame(7, wire.get_data(ROOT))
    for size in range(1, len(request)):
        with target.session() as zk:
            zk.send_bytes(request[:size])
    with target.session() as zk:
        for at in range(len(request)):
            zk.send_bytes(request[at : at + 1])
        assert zk.reply().xid == 7
    return 0


@attack()
def frames_that_stop(target: Target) -> int:
    """Many connections with all but the last byte of the longest frame."""
    held = []
    try:
        for _ in range(20):
            sock = target.connect()
            held.append(sock)
            sock.sendall(frame(wire.connect_request(4000)))
            sock.recv(100)
            sock.sendall(int32(MAX_FRAME, 1, wire.SET_DATA) + bytes(MAX_FRAME - 9))
    finally:
        for sock in held:
            sock.close()
    return 0


# ---- setWatches above jute.maxbuffer


@attack("a frame of")
def large_frames_that_are_no_set_watches(target: Target) -> int:
    closed = 0
    for length, op in (
        (MAX_FRAME + 1, wire.SET_DATA),
        (60 << 20, wire.MULTI),
        (60 << 20, ADD_WATCH),
        (MAX_SET_WATCHES + 1, wire.SET_WATCHES),
        (INT_MAX, SET_WATCHES2),
    ):
        with target.session() as zk:
            send_all(zk._socket, int32(length, 1, op))
            closed += drain(zk._socket)
    with target.raw() as sock:
        sock.sendall(int32(60 << 20, wire.XID_SET_WATCHES, wire.SET_WATCHES))
        return closed + drain(sock)


@attack()
def large_set_watches_that_are_lies(target: Target) -> int:
    """Announced and not sent, or only a part of it; and one that is sent, but is not what it should be."""
    for _ in range(20):
        with target.session() as zk:
            zk.send_bytes(int32(60 << 20, wire.XID_SET_WATCHES, wire.SET_WATCHES))
    with target.session() as zk:
        zk.send_bytes(int32(60 << 20, wire.XID_SET_WATCHES, SET_WATCHES2) + bytes(3 << 20))
    with target.session() as zk:
        body = struct.pack(">q", 0) + int32(INT_MAX) + bytes(4 << 20)
        zk.send_bytes(Session.frame(wire.XID_SET_WATCHES, Request(wire.SET_WATCHES, body)))
        assert zk.reply().err == wire.MARSHALLING
        answered(zk)
    return 0


# ---- texts


@attack()
def odd_paths(target: Target) -> int:
    paths = [
        b"",
        b"/",
        b"//",
        b"a",
        b"/\0",
        b"/\xff\xfe",
        b"/\xed\xa0\x80",
        b"/\xf0\x9f\x98\x80",
        b"/.",
        b"/..",
        b"/a/",
        None,
        b"/" + b"x" * 1_000_000,
        b"/x" * 500_000,
        b"/" * 1_000_000,
    ]
    with target.session() as zk:
        for path in paths:
            for request in (
                wire.create(path),
                wire.delete(path),
                wire.exists(path, True),
                wire.get_data(path, True),
                wire.get_children(path, True),
                wire.set_data(path, b""),
                Request(wire.SYNC, wire.text(path)),
                Request(ADD_WATCH, wire.text(path) + int32(1)),
                Request(GET_EPHEMERALS, wire.text(path)),
                Request(ALL_CHILDREN_NUMBER, wire.text(path)),
                wire.multi([wire.create(path)]),
            ):
                if request.op == wire.SYNC and path and len(path) > 1000:
                    continue
                zk.call(request)
        answered(zk)
    return 0


@attack("a frame of")
def words_with_rubbish(target: Target) -> int:
    """Four-letter words, whole and torn, with something behind them; and what only looks like one."""
    rubbish = target.random.randbytes
    for word in (b"ruok", b"srvr", b"mntr", b"cons", b"stat", b"conf", b"envi", b"isro", b"wchs", b"stmk", b"gtmk"):
        for behind in (b"", b"\0", rubbish(8), rubbish(5000)):
            with target.raw() as sock:
                sock.sendall(word + behind)
                drain(sock)
    closed = 0
    for raw in (b"zzzz", b"GET / HTTP/1.1\r\n\r\n", b"\x80\0\0\0", b"ruo\xff" + rubbish(100)):
        with target.raw() as sock:
            sock.sendall(raw)
            closed += drain(sock)
    return closed


# ---- order of things


@attack()
def reserved_xids(target: Target) -> int:
    requests = [wire.get_data(ROOT), wire.set_data(ROOT, b""), wire.sync(ROOT), Request(WHO_AM_I, b""), wire.multi([])]
    with target.session() as zk:
        for xid in (-1, -2, -4, -8, INT_MIN, INT_MAX, 0):
            for request in requests:
                zk.send_bytes(Session.frame(xid, request))
        for _ in requests * 7:
            zk.message()
        answered(zk)
    return 0


@attack()
def bytes_behind_the_end(target: Target) -> int:
    """A closeSession with requests, and with rubbish, behind it: it is answered, and nothing else."""
    for behind in (Session.frame(9, wire.create(ROOT + "/late")) * 1000, target.random.randbytes(300_000), b"\0"):
        with target.session() as zk:
            send_all(zk._socket, Session.frame(1, Request(wire.CLOSE_SESSION, b"")) + behind)
            with contextlib.suppress(wire.Closed):
                assert zk.message().xid == 1
                zk.assert_closed()
    return 0


@attack("unknown request type")
def unknown_requests(target: Target) -> int:
    closed = 0
    for op in (0, 10, 23, 99, 108, 1000, INT_MAX, INT_MIN, -1, -10, -12):
        with target.session() as zk:
            send_all(zk._socket, Session.frame(1, Request(op, bytes(20))))
            closed += drain(zk._socket)
    return closed


@attack()
def nothing_is_read(target: Target) -> int:
    """Pipelined requests, small and with large answers, of clients that never read."""
    held = []
    try:
        for request in (wire.get_data(LARGE), wire.exists("/"), wire.set_data(ROOT, b"")):
            sock = target.connect()
            held.append(sock)
            sock.sendall(frame(wire.connect_request(4000)))
            raw = b"".join(Session.frame(xid, request) for xid in range(20_000))
            sock.setblocking(False)
            deadline = time.monotonic() + 1.0
            while raw and time.monotonic() < deadline:
                if select.select([], [sock], [], 0.1)[1]:
                    raw = raw[sock.send(raw) :]
        time.sleep(0.05)
    finally:
        for sock in held:
            sock.close()
    return 0


@attack()
def a_storm_of_connections(target: Target) -> int:
    """Opened and dropped: in silence, in the middle of a handshake, by a reset, and behind a first write."""
    raw = frame(wire.connect_request(4000))
    for number in range(300):
        with target.raw() as sock:
            sock.sendall((b"", raw[:9], raw, raw + Session.frame(1, wire.set_data(ROOT, b"")))[number % 4])
            if number % 3 == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return 0


@attack()
def silence(target: Target) -> int:
    held = [target.connect() for _ in range(100)]
    for sock in held:
        sock.close()
    return 0


# ---- TLS


def _tls(sock: socket.socket) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


@attack("TLS handshake failed|UNEXPECTED_EOF|Connection reset|a frame of|a malformed connect")
def rubbish_before_tls(target: Target) -> int:
    closed = 0
    for port in filter(None, (target.secure, target.unified)):
        for raw in (b"\x16\x03\x01\x02\0", b"\x16", b"\x16" * 500, b"\x80\0\0\0", target.random.randbytes(3000)):
            with target.raw(port) as sock:
                sock.sendall(raw)
                sock.shutdown(socket.SHUT_WR)
                drain(sock)
    if target.secure:
        with target.raw(target.secure) as sock:
            sock.sendall(frame(wire.connect_request()))
            closed += drain(sock)
    return closed


@attack("a frame of|a malformed connect request")
def rubbish_inside_tls(target: Target) -> int:
    closed = 0
    for port in filter(None, (target.secure, target.unified)):
        for raw in (b"\xff" * 5000, b"zzzz", frame(wire.connect_request()[:20])):
            with target.connect(port) as sock, _tls(sock) as tls:
                tls.sendall(raw)
                closed += drain(tls)
        with target.connect(port) as sock, _tls(sock) as tls:
            tls.sendall(frame(wire.connect_request(4000)))
            tls.recv(100)
            tls.sendall(Session.frame(1, wire.get_data(LARGE)) * 500)  # and nothing is read
    return closed


@attack()
def rubbish_after_tls(target: Target) -> int:
    """Bytes that are no TLS record, on a connection that has come through its handshake."""
    for port in filter(None, (target.secure, target.unified)):
        for first in (False, True):
            with target.connect(port) as sock:
                raw = sock.dup()
                tls = _tls(sock)
                if first:
                    tls.sendall(frame(wire.connect_request(4000)))
                    tls.recv(100)
                send_all(raw, target.random.randbytes(20_000))
                drain(raw)
                raw.close()
                tls.close()
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the corpus of hostile traffic against a server, in a loop.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secure", type=int)
    parser.add_argument("--unified", type=int)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    target = Target(options.port, options.secure, options.unified, options.seed)
    prepare(target)
    print("ready", flush=True)
    order = random.Random(options.seed)
    deadline = time.monotonic() + options.seconds
    rounds = 0
    while time.monotonic() < deadline:
        with contextlib.suppress(wire.WireError, OSError):  # two attackers may be in each other's way
            order.choice(ATTACKS).run(target)
        rounds += 1
    print(f"rounds {rounds}", flush=True)


if __name__ == "__main__":
    main()
