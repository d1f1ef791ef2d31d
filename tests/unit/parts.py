"""All parts of a server that stand behind its sockets, wired as ``app`` wires them, and under a test's control.

A test decides what arrives when (``Peer.feed``), when a turn of the event loop ends (``Parts.turn``) and when the
server learns that the log is durable (``Parts.durable``). Only the log's thread is real, and so are the socket
pairs by which replies leave: a connection sends past its transport.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from support import wire
from support.wire import Request

from fastzk._log import TxnLog
from fastzk._tree import Tree
from fastzk.server._apply import Applier
from fastzk.server._clients import Clients
from fastzk.server._connection import Connection, Service
from fastzk.server._following import Following
from fastzk.server._overlay import Overlay
from fastzk.server._pipeline import Pipeline
from fastzk.server._prepare import Preparer
from fastzk.server._reads import Reads
from fastzk.server._watches import Watches
from fastzk.server.auth import Authenticator, fix_acl
from fastzk.server.sessions import Sessions

STORE_ID = bytes(range(16))
SECRET = b"s" * 32
SMALLEST_SEGMENT = 64 << 10
ADDRESS = "127.0.0.1"


class Turns:
    """The part of an event loop that the server's parts call."""

    def __init__(self) -> None:
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._readers: dict[int, Callable[[], object]] = {}

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._soon.append((callback, args))

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        self._readers[fd] = callback

    def run(self) -> None:
        """One turn: what was scheduled before it, not what that schedules."""
        if self._readers:  # instructions of workloads that have none are counted
            self.poll(0)
        for _ in range(len(self._soon)):
            callback, args = self._soon.popleft()
            callback(*args)

    def poll(self, seconds: float) -> bool:
        """Call for what becomes readable by then, timers for instance; whether anything did."""
        ready = select.select(list(self._readers), [], [], seconds)[0]
        for fd in ready:
            self._readers[fd]()
        return bool(ready)

    def __bool__(self) -> bool:
        return bool(self._soon)


class Transport:
    """A socket's transport as ``Connection`` uses it: keeps what the socket does not take."""

    def __init__(self, turns: Turns, sock: socket.socket, protocol: Connection) -> None:
        self._turns = turns
        self._socket = sock
        self._protocol = protocol
        self.kept = bytearray()
        self.paused = False
        self.closing = False
        self.aborted = False

    def get_extra_info(self, name: str) -> object:
        return {"peername": (ADDRESS, 40_000), "socket": self._socket}.get(name)

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return len(self.kept)

    def write(self, data: bytes) -> None:
        assert not self.aborted
        assert not self.kept, "written to before resume_writing"
        self.kept += data
        self._protocol.pause_writing()

    def push(self) -> None:
        """The client has read: hand on what was kept."""
        if self.kept and not self.aborted:
            try:
                del self.kept[: self._socket.send(self.kept)]
            except BlockingIOError:
                return
            if not self.kept:
                if self.closing:
                    self._lose()
                else:
                    self._protocol.resume_writing()

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.kept:
                self._lose()

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = self.closing = True
            self._lose()

    def _lose(self) -> None:
        self._turns.call_soon(self._lost)

    def _lost(self) -> None:
        self._protocol.connection_lost(None)
        self._socket.close()


class Peer:
    """A client at the other end of a connection."""

    def __init__(self, parts: Parts, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
        self._turns = parts.turns
        ours, theirs = socket.socketpair(type=kind)
        for end in (ours, theirs):
            end.setblocking(False)
        self._socket = ours
        self.connection = parts.service.connection()
        self.transport = Transport(parts.turns, theirs, self.connection)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        self._unsent = bytearray()
        self._received = bytearray()
        self.xid = 0

    @property
    def closed(self) -> bool:
        """The server has closed the connection, or is about to."""
        return self.transport.closing

    def feed(self, data: bytes) -> int:
        """Let bytes arrive; how many the server has taken of these and earlier ones: the rest waits in the kernel."""
        self._unsent += data
        taken = 0
        while self._unsent and not self.transport.paused and not self.transport.closing:
            view = memoryview(self.connection.get_buffer(-1))
            n = min(len(view), len(self._unsent))
            view[:n] = self._unsent[:n]
            del self._unsent[:n]
            self.connection.buffer_updated(n)
            taken += n
        return taken

    def send(self, *requests: Request) -> None:
        """Let whole requests arrive at once."""
        frames = []
        for request in requests:
            self.xid += 1
            frames.append(frame(self.xid, request))
        self.feed(b"".join(frames))

    def greet(self, **options: Any) -> None:
        """Ask for a session (see ``wire.connect_request``)."""
        body = wire.connect_request(**options)
        self.feed(struct.pack(">i", len(body)) + body)

    def read(self, limit: int = 1 << 30) -> bytes:
        """What the server has sent, at most about ``limit`` bytes."""
        found = bytearray()
        while len(found) < limit and self._socket.fileno() >= 0:
            try:
                chunk = self._socket.recv(1 << 16)
            except BlockingIOError:
                if not self.transport.kept:
                    break
                self.transport.push()
                continue
            if not chunk:
                break
            found += chunk
        return bytes(found)

    def writes(self) -> list[bytes]:
        """What each of the server's writes carried; of a connection whose socket keeps them apart (SOCK_SEQPACKET)."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(1 << 20))
            except BlockingIOError:
                return found

    def frames(self) -> list[bytes]:
        """The whole frames that came since the last call."""
        self._received += self.read()
        found = []
        while len(self._received) >= 4:
            size = int.from_bytes(self._received[:4], "big")
            if len(self._received) < 4 + size:
                break
            found.append(bytes(self._received[4 : 4 + size]))
            del self._received[: 4 + size]
        return found

    def replies(self) -> list[wire.Reply]:
        """The replies and events that came since the last call."""
        found = []
        for raw in self.frames():
            xid, zxid, err = wire.HEADER.unpack_from(raw)
            found.append(wire.Reply(xid, zxid, err, raw[wire.HEADER.size :]))
        return found

    def drop(self) -> None:
        """The connection breaks."""
        self.transport.abort()
        self._turns.run()
        self._socket.close()


class Parts:
    """One server without sockets; closes with its ``with`` block."""

    def __init__(
        self,
        directory: Path,
        *,
        limit: int = 1 << 30,
        max_frame: int = (1 << 20) - 1,
        tick_ms: int = 1000,
        max_per_host: int = 0,
        max_clients: int = 0,
        server_id: int = 1,
    ) -> None:
        self.failures: list[BaseException] = []
        self.turns = Turns()
        self.tree = tree = Tree()
        tree.plant()
        self.sessions = Sessions(
            SECRET, server_id=server_id, tick_ms=tick_ms, min_timeout_ms=2 * tick_ms, max_timeout_ms=20 * tick_ms
        )
        self.applier = Applier(tree, 0)
        self.applier.on_session = self.sessions.on_transaction
        self.log = TxnLog(directory, STORE_ID, segment_bytes=SMALLEST_SEGMENT)
        assert not list(self.log.recover(0))
        self.log.start()
        self.clients = clients = Clients()
        self.watches = watches = Watches(clients, tree.acls)
        self.overlay = overlay = Overlay(tree)
        preparer = Preparer(tree, overlay)
        preparer.fix_acl = fix_acl
        preparer.ttl_enabled = True
        self.applier.serve(watches)
        self.pipeline = Pipeline(
            self.turns,  # type: ignore[arg-type]
            clients,
            overlay,
            preparer,
            self.applier,
            self.log,
            limit,
            self.failures.append,
        )
        self.following = Following(
            self.turns,  # type: ignore[arg-type]
            clients,
            self.applier,
            limit,
            self.failures.append,
        )
        self.service = Service(
            clients,
            watches,
            self.pipeline,
            Reads(tree, watches, clients),
            self.sessions,
            Authenticator(super_digest="super:D/InIHSb7yEEbrWz8b9l71RjZJU=").authenticate,
            lambda word: b"imok" if word == b"ruok" else None,
            self.failures.append,
            max_frame=max_frame,
            max_per_host=max_per_host,
            max_clients=max_clients,
        )
        self.service.turn_ns = 1 << 62  # what a request leads to does not depend on how fast this machine is

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.log.close()

    def peer(self) -> Peer:
        """A new connection, without a session."""
        return Peer(self)

    def session(self, kind: socket.SocketKind = socket.SOCK_STREAM, **options: Any) -> Peer:
        """A new connection with a session."""
        peer = Peer(self, kind)
        peer.greet(**options)
        self.settle()
        (reply,) = peer.frames()
        assert struct.unpack_from(">iiq", reply)[1] > 0, "no session"
        return peer

    def turn(self) -> None:
        """The turn of the event loop ends."""
        self.turns.run()
        self.check()

    def durable(self) -> None:
        """Wait until everything given to the log is durable or refused, then tell the pipeline."""
        poller = select.poll()
        poller.register(self.log.event_fd, select.POLLIN)
        deadline = time.monotonic() + 20
        while self.log.pending:
            assert time.monotonic() < deadline, "the log does not get on"
            if poller.poll(100):
                self.pipeline.on_durable()
                self.check()
        self.pipeline.on_durable()
        self.check()

    def settle(self) -> None:
        """Run until nothing is under way."""
        deadline = time.monotonic() + 20
        while self.pipeline.pending or self.turns:
            assert time.monotonic() < deadline, f"{self.pipeline.pending} requests are not answered"
            self.turn()
            self.durable()

    def check(self) -> None:
        """Fail if something reported that it cannot go on."""
        if self.failures:
            raise AssertionError("the server would have stopped") from self.failures[0]


def frame(xid: int, request: Request) -> bytes:
    """A request as it travels."""
    return struct.pack(">iii", len(request.body) + 8, xid, request.op) + request.body
