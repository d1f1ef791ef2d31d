"""A TCP proxy in front of a server, for faults of the network: connections cut, data held back, nobody there."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType

from support.servers import free_port


class Proxy:
    """Forwards connections on ``port`` to 127.0.0.1:``target``; use as a context manager.

    ``limit``: bytes from clients to forward on each connection before it is cut; None for no limit.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.limit: int | None = None
        #: Hold back what comes from servers, from clients.
        self.hold_replies = False
        self.hold_requests = False
        #: Accept nobody: connections are closed at once.
        self.refusing = False
        #: How many connections were made.
        self.accepted = 0
        self._pairs: dict[socket.socket, tuple[socket.socket, bool]] = {}  # to the other end; from a client?
        self._passed: dict[socket.socket, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def hosts(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        with self._lock:
            return len(self._pairs) // 2

    def cut(self) -> None:
        """Close all connections, with a reset."""
        with self._lock:
            for sock in list(self._pairs):
                self._close(sock)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.cut()
        self._listener.close()

    def _close(self, sock: socket.socket) -> None:
        other, _ = self._pairs.pop(sock, (None, False))
        for each in (sock, other):
            if each is not None:
                self._pairs.pop(each, None)
                self._passed.pop(each, None)
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                each.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock, selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                for sock, (_, from_client) in self._pairs.items():
                    if not (self.hold_requests if from_client else self.hold_replies):
                        selector.register(sock, selectors.EVENT_READ)
                ready = [key.fileobj for key, _ in selector.select(0.002)]
                for sock in ready:
                    assert isinstance(sock, socket.socket)
                    if sock is self._listener:
                        self._accept()
                    else:
                        self._forward(sock)
            self._stop.wait(0.0005)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.accepted += 1
        if self.refusing:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=2)
        except OSError:
            client.close()
            return
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(2)
        self._pairs[client] = (server, True)
        self._pairs[server] = (client, False)

    def _forward(self, sock: socket.socket) -> None:
        if sock not in self._pairs:
            return
        other, from_client = self._pairs[sock]
        try:
            data = sock.recv(65536)
            if from_client and self.limit is not None:
                passed = self._passed.get(sock, 0)
                data, over = data[: max(0, self.limit - passed)], len(data) > self.limit - passed
                self._passed[sock] = passed + len(data)
                other.sendall(data)
                if over:
                    data = b""
            elif data:
                other.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(sock)
