"""The socket of the threaded client where it cannot be read past Python: TLS, and gevent or eventlet.

Here the helper alone reads, and threads that wait for a reply sleep. It has the methods of
:class:`fastzk.client._wire.Wire`, which says what they are for.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Any

from fastzk.client._call import Call
from fastzk.client._channel import Channel


class SocketWaker:
    """Ends the helper's wait, by a byte through a pair of sockets."""

    def __init__(self) -> None:
        self._in, self._out = socket.socketpair()
        self._in.setblocking(False)
        self._out.setblocking(False)

    def fileno(self) -> int:
        """What the helper waits for."""
        return self._in.fileno()

    def wake(self) -> None:
        """End the wait that is under way, or the next one."""
        with contextlib.suppress(OSError):
            self._out.send(b"\0")

    def clear(self) -> None:
        """Forget earlier calls of ``wake``."""
        with contextlib.suppress(OSError):
            while self._in.recv(4096):
                pass

    def wait(self, timeout: float) -> None:
        """Wait to be woken, at most ``timeout`` seconds."""
        ready([self._in.fileno()], timeout)
        self.clear()

    def close(self) -> None:
        """Give the descriptors back."""
        self._in.close()
        self._out.close()


def ready(read: list[int], timeout: float, write: int = -1) -> set[int]:
    """Those of the descriptors that can be used."""
    # gevent and eventlet replace these functions by their own.
    if hasattr(select, "poll"):
        poller = select.poll()
        for fd in read:
            poller.register(fd, select.POLLIN | (select.POLLOUT if fd == write else 0))
        return {fd for fd, _ in poller.poll(int(timeout * 1000) + 1)}
    found = select.select(read, [write] if write >= 0 else [], [], timeout)
    return {*found[0], *found[1]}


class StreamWire:
    """One connection; owns the socket."""

    def __init__(self, channel: Channel, sock: socket.socket, waker: SocketWaker) -> None:
        sock.setblocking(False)
        self._channel = channel
        self._socket = sock
        self._waker = waker
        # A TLS object must not be used by two threads at once; and bytes must leave in their order.
        self._lock = Lock()
        self._unsent = b""
        self.broken = False
        self.problem: object = None

    def send(self) -> bool:
        """Send what may leave, without waiting; False when some is left for the helper."""
        with self._lock:
            return self._send()

    def _send(self) -> bool:
        while not self.broken:
            if not self._unsent:
                self._unsent = self._channel.take()
                if not self._unsent:
                    return True
            try:
                sent = self._socket.send(self._unsent)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                self._waker.wake()
                return False
            except OSError as error:
                self.fail(error)
                return True
            self._unsent = self._unsent[sent:]
        return True

    def made(self) -> None:
        """A request was made that nobody waits for yet."""
        if self._channel.unsent() > 16384:
            self.send()
        else:
            self._waker.wake()

    def wait(
        self,
        call: Call[Any],
        steps: deque[Callable[[], None]],
        run_steps: Callable[[], None],
        timeout: float,
    ) -> bool:
        """Wait until the call is settled or the time is over."""
        self.send()
        call.wait_settled(timeout)
        return True

    def serve(self, timeout: float) -> bool:
        """The helper's turn: wait for something to do, at most ``timeout`` seconds, and do it."""
        fd = self._socket.fileno()
        done = self.send()
        pending = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()
        if not pending and not self.broken:
            found = ready([fd, self._waker.fileno()], timeout, -1 if done else fd)
            self._waker.clear()
            if fd not in found:
                return False
        with self._lock:
            try:
                n = self._socket.recv_into(self._channel.input_view)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                return False
            except OSError as error:
                self.fail(error)
                return False
        if n == 0:
            self.fail("the server closed the connection")
            return False
        try:
            self._channel.received(n)
        except Exception as error:
            self.fail(error)
        return True

    def fail(self, problem: object) -> None:
        """Give the connection up."""
        if not self.broken:
            self.broken = True
            self.problem = problem
            self._waker.wake()

    def shut(self, problem: object) -> None:
        """End the connection."""
        self.fail(problem)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back."""
        self.broken = True
        self._socket.close()

    def abandon(self) -> None:
        """In a forked child: give the descriptor back without a word to the server."""
        self.broken = True
        with contextlib.suppress(OSError):
            socket.close(self._socket.detach())
