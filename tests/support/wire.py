"""A minimal ZooKeeper client made of plain ``struct`` calls.

It shares no code with the server on purpose: what both sides get wrong in the same way would go unseen. It
also sends what no decent client would, and shows every frame in the order in which it arrived.

Requests are built by functions (:func:`create`, :func:`set_data`, ...) that return a :class:`Request`; a
:class:`Session` sends them one by one (``call``), or many at once (``send`` and later ``reply``).
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

CREATE, DELETE, EXISTS, GET_DATA, SET_DATA, GET_ACL, SET_ACL, GET_CHILDREN, SYNC = range(1, 10)
PING, GET_CHILDREN2, CHECK, MULTI, CREATE2 = range(11, 16)
AUTH, SET_WATCHES, CLOSE_SESSION = 100, 101, -11

XID_EVENT, XID_PING, XID_AUTH, XID_SET_WATCHES = -1, -2, -4, -8

OK, MARSHALLING, UNIMPLEMENTED, BAD_ARGUMENTS = 0, -5, -6, -8
NO_NODE, NO_AUTH, BAD_VERSION = -101, -102, -103
NO_CHILDREN_FOR_EPHEMERALS, NODE_EXISTS, NOT_EMPTY = -108, -110, -111
INVALID_ACL, AUTH_FAILED = -114, -115
RUNTIME_INCONSISTENCY, SESSION_EXPIRED = -2, -112

EPHEMERAL, SEQUENTIAL = 1, 2
CREATED, DELETED, DATA_CHANGED, CHILDREN_CHANGED = 1, 2, 3, 4
PERM_READ, PERM_WRITE, PERM_CREATE, PERM_DELETE, PERM_ADMIN, PERM_ALL = 1, 2, 4, 8, 16, 31

NO_PASSWORD = bytes(16)


class Acl(NamedTuple):
    perms: int
    scheme: str | None
    id: str | None


OPEN = (Acl(PERM_ALL, "world", "anyone"),)


class Stat(NamedTuple):
    czxid: int
    mzxid: int
    ctime: int
    mtime: int
    version: int
    cversion: int
    aversion: int
    ephemeral_owner: int
    data_length: int
    num_children: int
    pzxid: int


STAT = struct.Struct(">qqqqiiiqiiq")
HEADER = struct.Struct(">iqi")


class Request(NamedTuple):
    op: int
    body: bytes


class Reply(NamedTuple):
    xid: int
    zxid: int
    err: int
    body: bytes


class Event(NamedTuple):
    type: int
    state: int
    path: str


class ConnectReply(NamedTuple):
    protocol: int
    timeout_ms: int
    session_id: int
    password: bytes
    rest: bytes


class MultiResult(NamedTuple):
    """One result inside a multi. ``value`` is a path or a Stat, None for delete, check and errors."""

    type: int
    err: int
    value: str | Stat | None


class WireError(Exception):
    """Anything that went wrong on the connection; the text ends with the server's last log lines."""


class Closed(WireError):
    """The server closed the connection."""


class TimedOut(WireError):
    """Nothing came within the timeout."""


class Refused(WireError):
    """The server answered the connect request with an expired session."""


class ZkError(Exception):
    """A reply with an error code."""

    def __init__(self, code: int, request: Request) -> None:
        super().__init__(f"error {code} for request type {request.op}")
        self.code = code


# ---- encoding


def text(value: str | bytes | None) -> bytes:
    """A Jute string, or a Jute buffer: the two look the same. None is length -1."""
    if value is None:
        return b"\xff\xff\xff\xff"
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return struct.pack(">i", len(raw)) + raw


def strings(values: Sequence[str]) -> bytes:
    return struct.pack(">i", len(values)) + b"".join(text(v) for v in values)


def acls(entries: Iterable[Acl] | None) -> bytes:
    if entries is None:
        return b"\xff\xff\xff\xff"
    parts = [struct.pack(">i", perms) + text(scheme) + text(ident) for perms, scheme, ident in entries]
    return struct.pack(">i", len(parts)) + b"".join(parts)


def create(
    path: str | bytes | None,
    data: bytes | None = b"",
    flags: int = 0,
    acl: Iterable[Acl] | None = OPEN,
    op: int = CREATE,
) -> Request:
    return Request(op, text(path) + text(data) + acls(acl) + struct.pack(">i", flags))


def create2(
    path: str | bytes | None, data: bytes | None = b"", flags: int = 0, acl: Iterable[Acl] | None = OPEN
) -> Request:
    return create(path, data, flags, acl, CREATE2)


def _with_version(op: int, path: str | bytes | None, version: int) -> Request:
    return Request(op, text(path) + struct.pack(">i", version))


def _with_watch(op: int, path: str | bytes | None, watch: bool) -> Request:
    return Request(op, text(path) + struct.pack(">?", watch))


def delete(path: str | bytes | None, version: int = -1) -> Request:
    return _with_version(DELETE, path, version)


def check(path: str | bytes | None, version: int = -1) -> Request:
    return _with_version(CHECK, path, version)


def set_data(path: str | bytes | None, data: bytes | None, version: int = -1) -> Request:
    return Request(SET_DATA, text(path) + text(data) + struct.pack(">i", version))


def set_acl(path: str, acl: Iterable[Acl] | None, version: int = -1) -> Request:
    return Request(SET_ACL, text(path) + acls(acl) + struct.pack(">i", version))


def exists(path: str | bytes | None, watch: bool = False) -> Request:
    return _with_watch(EXISTS, path, watch)


def get_data(path: str | bytes | None, watch: bool = False) -> Request:
    return _with_watch(GET_DATA, path, watch)


def get_children(path: str | bytes | None, watch: bool = False) -> Request:
    return _with_watch(GET_CHILDREN, path, watch)


def get_children2(path: str | bytes | None, watch: bool = False) -> Request:
    return _with_watch(GET_CHILDREN2, path, watch)


def get_acl(path: str) -> Request:
    return Request(GET_ACL, text(path))


def sync(path: str | bytes) -> Request:
    return Request(SYNC, text(path))


def multi(requests: Iterable[Request]) -> Request:
    parts = [struct.pack(">i?i", r.op, False, -1) + r.body for r in requests]
    return Request(MULTI, b"".join(parts) + struct.pack(">i?i", -1, True, -1))


def auth(scheme: str | None, data: bytes | None) -> Request:
    return Request(AUTH, struct.pack(">i", 0) + text(scheme) + text(data))


def set_watches(
    relative_zxid: int, data: Sequence[str] = (), exist: Sequence[str] = (), child: Sequence[str] = ()
) -> Request:
    return Request(
        SET_WATCHES, struct.pack(">q", relative_zxid) + strings(data) + strings(exist) + strings(child)
    )


def connect_request(
    timeout_ms: int = 30_000,
    session_id: int = 0,
    password: bytes | None = NO_PASSWORD,
    *,
    last_zxid: int = 0,
    read_only: bool | None = False,
    protocol: int = 0,
) -> bytes:
    """The body of a connect request; ``read_only=None`` leaves its last byte out, as old clients do."""
    body = struct.pack(">iqiq", protocol, last_zxid, timeout_ms, session_id) + text(password)
    return body if read_only is None else body + struct.pack(">?", read_only)


# ---- decoding


class Reader:
    """Reads one reply's body from front to back; :meth:`end` fails when bytes are left over."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        values = layout.unpack_from(self.raw, self.at)
        self.at += layout.size
        return values

    def int(self) -> int:
        return self.unpack(struct.Struct(">i"))[0]

    def buffer(self) -> bytes | None:
        size = self.int()
        if size < 0:
            assert size == -1, f"length {size} in a reply"
            return None
        value = self.raw[self.at : self.at + size]
        assert len(value) == size, "a reply shorter than its own lengths"
        self.at += size
        return value

    def string(self) -> str:
        raw = self.buffer()
        assert raw is not None, "null string in a reply"
        return raw.decode()

    def strings(self) -> list[str]:
        return [self.string() for _ in range(self.int())]

    def stat(self) -> Stat:
        return Stat(*self.unpack(STAT))

    def acls(self) -> list[Acl]:
        return [Acl(self.int(), self.string(), self.string()) for _ in range(self.int())]

    def end(self) -> None:
        assert self.at == len(self.raw), f"{len(self.raw) - self.at} bytes left over in a reply"


def decode_event(reply: Reply) -> Event:
    reader = Reader(reply.body)
    event = Event(reader.int(), reader.int(), reader.string())
    reader.end()
    return event


def decode_multi(body: bytes) -> list[MultiResult]:
    reader = Reader(body)
    results: list[MultiResult] = []
    while True:
        kind, done, err = reader.unpack(struct.Struct(">i?i"))
        if done:
            assert (kind, err) == (-1, -1)
            reader.end()
            return results
        value: str | Stat | None = None
        if kind == -1:
            assert reader.int() == err, "the two error fields of a multi's result differ"
        elif kind in {CREATE, CREATE2}:
            value = reader.string()
            if kind == CREATE2:
                reader.stat()
        elif kind == SET_DATA:
            value = reader.stat()
        else:
            assert kind in {DELETE, CHECK}, f"result type {kind} in a multi"
        results.append(MultiResult(kind, err, value))


# ---- connections


class Connection:
    """One TCP connection that speaks in frames. ``context`` supplies the lines added to every error."""

    def __init__(
        self,
        port: int,
        timeout: float = 20.0,
        context: Callable[[], str] | None = None,
        rcvbuf: int | None = None,
    ) -> None:
        self.timeout = timeout
        self._context = context
        self._buffer = bytearray()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if rcvbuf is not None:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            self._socket.settimeout(timeout)
            self._socket.connect(("127.0.0.1", port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self._socket.close()
            raise

    def explain(self, what: str) -> str:
        return f"{what}\n{self._context()}" if self._context else what

    def fileno(self) -> int:
        return self._socket.fileno()

    def send_bytes(self, raw: bytes) -> None:
        try:
            self._socket.sendall(raw)
        except TimeoutError:
            raise TimedOut(
                self.explain(f"the server did not take {len(raw)} bytes in {self.timeout} s")
            ) from None
        except OSError as error:
            raise Closed(self.explain(f"connection broke while sending: {error}")) from None

    def send_frame(self, payload: bytes) -> None:
        self.send_bytes(struct.pack(">i", len(payload)) + payload)

    def _fill(self) -> None:
        try:
            chunk = self._socket.recv(1 << 18)
        except TimeoutError:
            raise TimedOut(self.explain(f"nothing came in {self.timeout} s")) from None
        except OSError as error:
            raise Closed(self.explain(f"connection broke while reading: {error}")) from None
        if not chunk:
            raise Closed(self.explain("the server closed the connection"))
        self._buffer += chunk

    def read_frame(self) -> bytes:
        while len(self._buffer) < 4:
            self._fill()
        size = int.from_bytes(self._buffer[:4], "big", signed=True)
        assert 0 <= size < 1 << 28, f"the server sent a frame of {size} bytes"
        while len(self._buffer) < 4 + size:
            self._fill()
        frame = bytes(self._buffer[4 : 4 + size])
        del self._buffer[: 4 + size]
        return frame

    def has_input(self, wait: float = 0.0) -> bool:
        """True when a frame, or the end of the stream, can be read within ``wait`` seconds."""
        if self._buffer:
            return True
        poller = select.poll()  # select() takes no descriptor above 1023
        poller.register(self._socket, select.POLLIN)
        return bool(poller.poll(wait * 1000))

    def assert_closed(self) -> None:
        """Fails unless the server closes the connection without sending another byte."""
        try:
            frame = self.read_frame()
        except Closed:
            return
        raise AssertionError(self.explain(f"expected a closed connection, got the frame {frame!r}"))

    def finish(self) -> int:
        """Send nothing more, read until the server closes too; the number of bytes that came."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        total = len(self._buffer)
        while True:
            self._buffer.clear()
            try:
                self._fill()
            except Closed:
                return total
            total += len(self._buffer)

    def drop(self) -> None:
        """Close the socket without a closeSession: the session lives on until it expires."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def handshake(self, body: bytes | None = None) -> ConnectReply:
        self.send_frame(connect_request() if body is None else body)
        raw = self.read_frame()
        protocol, timeout_ms, session_id, size = struct.unpack_from(">iiqi", raw)
        assert size == 16, f"a password of {size} bytes"
        return ConnectReply(protocol, timeout_ms, session_id, raw[20:36], raw[36:])


class Session(Connection):
    """A connection with a session on it. Events that arrive before an awaited reply gather in ``events``."""

    def __init__(
        self,
        port: int,
        *,
        timeout_ms: int = 30_000,
        session_id: int = 0,
        password: bytes = NO_PASSWORD,
        last_zxid: int = 0,
        timeout: float = 20.0,
        context: Callable[[], str] | None = None,
        rcvbuf: int | None = None,
        read_only: bool = False,
    ) -> None:
        super().__init__(port, timeout, context, rcvbuf)
        self.events: deque[Event] = deque()
        self.xid = 0
        self.last_zxid = last_zxid
        try:
            reply = self.handshake(
                connect_request(timeout_ms, session_id, password, last_zxid=last_zxid, read_only=read_only)
            )
        except BaseException:
            self.drop()
            raise
        if reply.timeout_ms == 0:
            self.drop()
            raise Refused(self.explain(f"session 0x{session_id:x} was refused as expired"))
        self.session_id = reply.session_id
        self.password = reply.password
        self.timeout_ms = reply.timeout_ms
        #: What the server said of itself.
        self.read_only = reply.rest == b"\x01"

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session, waiting for the server's answer where it still gives one."""
        try:
            self.call(Request(CLOSE_SESSION, b""))
        except (WireError, ZkError, ValueError):
            pass
        finally:
            self.drop()

    @staticmethod
    def frame(xid: int, request: Request) -> bytes:
        return struct.pack(">iii", len(request.body) + 8, xid, request.op) + request.body

    def send(self, *requests: Request) -> list[int]:
        """Send all of them in one write; returns their xids."""
        xids = range(self.xid + 1, self.xid + 1 + len(requests))
        self.xid += len(requests)
        self.send_bytes(b"".join(self.frame(x, r) for x, r in zip(xids, requests, strict=True)))
        return list(xids)

    def message(self) -> Reply:
        """The next frame of any kind, in the order of arrival."""
        raw = self.read_frame()
        xid, zxid, err = HEADER.unpack_from(raw)
        if xid >= 0:
            self.last_zxid = max(self.last_zxid, zxid)
        return Reply(xid, zxid, err, raw[HEADER.size :])

    def reply(self) -> Reply:
        """The next frame that is not an event."""
        while True:
            message = self.message()
            if message.xid != XID_EVENT:
                return message
            self.events.append(decode_event(message))

    def event(self) -> Event:
        """The next event; fails if a reply comes first."""
        if self.events:
            return self.events.popleft()
        message = self.message()
        assert message.xid == XID_EVENT, f"expected an event, got {message}"
        return decode_event(message)

    def pending_events(self) -> list[Event]:
        """All events sent so far: a ping behind them makes sure none is still on its way."""
        self.ping()
        found = list(self.events)
        self.events.clear()
        return found

    def call(self, request: Request) -> Reply:
        (xid,) = self.send(request)
        reply = self.reply()
        assert reply.xid == xid, self.explain(f"reply {reply.xid} to request {xid}: order of replies broken")
        return reply

    def ask(self, request: Request) -> Reader:
        reply = self.call(request)
        if reply.err:
            raise ZkError(reply.err, request)
        return Reader(reply.body)

    def error(self, request: Request) -> int:
        """The error code of a request; fails if an error came with a body."""
        reply = self.call(request)
        assert not (reply.err and reply.body), f"error reply with a body: {reply}"
        return reply.err

    def create(
        self, path: str, data: bytes | None = b"", flags: int = 0, acl: Iterable[Acl] | None = OPEN
    ) -> str:
        return self.ask(create(path, data, flags, acl)).string()

    def create2(
        self, path: str, data: bytes | None = b"", flags: int = 0, acl: Iterable[Acl] | None = OPEN
    ) -> tuple[str, Stat]:
        reader = self.ask(create2(path, data, flags, acl))
        return reader.string(), reader.stat()

    def delete(self, path: str, version: int = -1) -> None:
        self.ask(delete(path, version))

    def exists(self, path: str, watch: bool = False) -> Stat | None:
        reply = self.call(exists(path, watch))
        if reply.err == NO_NODE:
            return None
        if reply.err:
            raise ZkError(reply.err, exists(path, watch))
        return Reader(reply.body).stat()

    def get(self, path: str, watch: bool = False) -> tuple[bytes | None, Stat]:
        reader = self.ask(get_data(path, watch))
        return reader.buffer(), reader.stat()

    def set(self, path: str, data: bytes | None, version: int = -1) -> Stat:
        return self.ask(set_data(path, data, version)).stat()

    def stat(self, path: str) -> Stat:
        return self.ask(exists(path)).stat()

    def get_acl(self, path: str) -> tuple[list[Acl], Stat]:
        reader = self.ask(get_acl(path))
        return reader.acls(), reader.stat()

    def set_acl(self, path: str, acl: Iterable[Acl], version: int = -1) -> Stat:
        return self.ask(set_acl(path, acl, version)).stat()

    def children(self, path: str, watch: bool = False) -> list[str]:
        return self.ask(get_children(path, watch)).strings()

    def children2(self, path: str, watch: bool = False) -> tuple[list[str], Stat]:
        reader = self.ask(get_children2(path, watch))
        return reader.strings(), reader.stat()

    def sync(self, path: str) -> str:
        return self.ask(sync(path)).string()

    def multi(self, *requests: Request) -> list[MultiResult]:
        return decode_multi(self.ask(multi(requests)).raw)

    def reserved(self, xid: int, request: Request) -> Reply:
        """Send a request under one of the reserved xids and return its reply."""
        self.send_bytes(self.frame(xid, request))
        reply = self.reply()
        assert reply.xid == xid, self.explain(f"reply {reply.xid} to request {xid}")
        return reply

    def ping(self) -> Reply:
        return self.reserved(XID_PING, Request(PING, b""))

    def add_auth(self, scheme: str | None, data: bytes | None) -> Reply:
        return self.reserved(XID_AUTH, auth(scheme, data))

    def set_watches(
        self,
        relative_zxid: int,
        data: Sequence[str] = (),
        exist: Sequence[str] = (),
        child: Sequence[str] = (),
    ) -> Reply:
        return self.reserved(XID_SET_WATCHES, set_watches(relative_zxid, data, exist, child))


def poll(condition: Callable[[], bool], what: str, seconds: float = 10.0, every: float = 0.02) -> None:
    """Wait until ``condition()`` is true; fails with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not so: {what}"
        time.sleep(every)
