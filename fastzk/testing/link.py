"""A network that can be broken: a proxy between clients and a server."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 65536
#: Makes `close` send a reset: linger for 0 seconds.
_RESET: Final = b"\1\0\0\0\0\0\0\0"


class Link:
    """Forwards connections to a server; use as a context manager.

    :param port: of the server, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        #: Nothing passes in this direction; connections stay.
        self.hold_requests = False
        self.hold_replies = False
        #: New connections are closed at once.
        self.refuse = False
        self._ends: dict[socket.socket, tuple[socket.socket, bool]] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="fastzk-link", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where clients connect to."""
        return int(self._listener.getsockname()[1])

    @property
    def hosts(self) -> str:
        """For a client."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._ends) // 2

    def cut(self) -> None:
        """Break all connections; clients may connect again."""
        with self._lock:
            for sock in list(self._ends):
                self._drop(sock)

    def half_close(self) -> None:
        """Tell the clients that nothing more will come, and go on taking what they send."""
        with self._lock:
            for sock, (_, from_client) in self._ends.items():
                if from_client:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Break all connections and take no more."""
        self._stopped = True
        self._thread.join(10.0)
        self.cut()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stopped:
            with selectors.PollSelector() as selector:  # needs no descriptor, which tests may count
                with self._lock:
                    selector.register(self._listener, selectors.EVENT_READ)
                    for sock, (_, from_client) in self._ends.items():
                        if not (self.hold_requests if from_client else self.hold_replies):
                            selector.register(sock, selectors.EVENT_READ)
                # What to listen to may change at any time; so look again soon.
                ready = selector.select(0.01)
            with self._lock:
                for key, _ in ready:
                    ready_socket = key.fileobj
                    assert isinstance(ready_socket, socket.socket)
                    if ready_socket is self._listener:
                        self._accept()
                    elif ready_socket in self._ends:
                        self._forward(ready_socket)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.refuse:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=5.0)
        except OSError:
            client.close()
            return
        for sock in (client, server):
            sock.settimeout(5.0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ends[client] = (server, True)
        self._ends[server] = (client, False)

    def _forward(self, sock: socket.socket) -> None:
        other, _ = self._ends[sock]
        try:
            data = sock.recv(_CHUNK)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        other, _ = self._ends.pop(sock, (None, False))
        if other is None:
            return
        self._ends.pop(other, None)
        for each in (sock, other):
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            each.close()
