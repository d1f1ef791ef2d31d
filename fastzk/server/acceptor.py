"""The listener of connections that are, or may be, TLS.

The plain client port is served by the event loop's own listener. This one exists because with TLS there is
work before a connection counts as one: limits hold already then, a client that never ends its handshake must
cost little, and with port unification the first byte decides between TLS and plain text. That byte is peeked
at and stays in the socket, so both ways go on as if nobody had looked.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final

from fastzk.server._connection import Service

logger = logging.getLogger(__name__)

#: A handshake that takes longer is given up.
TLS_HANDSHAKE_SECONDS: Final = 10.0
#: How long a client may take to say goodbye in TLS's own way.
TLS_SHUTDOWN_SECONDS: Final = 2.0
#: Without file descriptors or memory, the pause until the next attempt to accept.
PAUSE_SECONDS: Final = 1.0
#: Connections accepted in one turn of the loop, so that those who are connected are served in between.
ACCEPTS_A_TURN: Final = 64

_TLS_HANDSHAKE = 0x16  # the first byte of every TLS connection; no frame of ZooKeeper's begins with it


class TlsAcceptor:
    """Accepts connections on ``listener`` (bound, not listening), from ``start`` to ``close``.

    ``context`` gives the TLS context for the next connection. ``detection_seconds``: None means all are TLS;
    a number that plain ones are served as well, and how long a client may take to show which it is.
    ``handshake_limit``: handshakes at once, 0 for no limit.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        service: Service,
        context: Callable[[], ssl.SSLContext],
        on_failure: Callable[[BaseException], object],
        *,
        detection_seconds: float | None = None,
        handshake_limit: int = 0,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._service = service
        self._context = context
        self._on_failure = on_failure
        self._detection_seconds = detection_seconds
        self._handshake_limit = handshake_limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._hosts: Counter[str] = Counter()  # of connections that are not the service's yet
        self._closed = False

    @property
    def handshakes(self) -> int:
        """Connections accepted that are not clients yet."""
        return len(self._tasks)

    def start(self, backlog: int) -> None:
        """Listen and accept."""
        self._listener.listen(backlog)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more; connections without a finished handshake are dropped."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            for _ in range(ACCEPTS_A_TURN):
                try:
                    sock, peer = self._listener.accept()
                except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                    return
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        raise
                    logger.error("cannot accept connections reason=%s", error.strerror)
                    self._loop.remove_reader(self._listener)
                    self._loop.call_later(PAUSE_SECONDS, self._resume)
                    return
                host = _host(peer[0])
                reason = self._refusal(host)
                if reason is not None:
                    logger.warning("connection refused address=%s reason=%s", host, reason)
                    sock.close()
                    continue
                task = self._loop.create_task(self._serve(sock, host))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except Exception as error:
            self._on_failure(error)

    def _refusal(self, host: str) -> str | None:
        service, waiting = self._service, len(self._tasks)
        if self._handshake_limit and waiting >= self._handshake_limit:
            return f"netty.server.outstandingHandshake.limit={self._handshake_limit} reached"
        if service.max_clients and len(service.clients) + waiting >= service.max_clients:
            return f"maxCnxns={service.max_clients} reached"
        if service.max_per_host and service.hosts.get(host, 0) + self._hosts[host] >= service.max_per_host:
            return f"maxClientCnxns={service.max_per_host} reached for this address"
        return None

    async def _serve(self, sock: socket.socket, host: str) -> None:
        self._hosts[host] += 1
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure = True
            if self._detection_seconds is not None:
                secure = await asyncio.wait_for(self._is_tls(sock), self._detection_seconds)
            if secure:
                await self._loop.connect_accepted_socket(
                    self._service.connection,
                    sock,
                    ssl=self._context(),
                    ssl_handshake_timeout=TLS_HANDSHAKE_SECONDS,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
                )
            else:
                await self._loop.connect_accepted_socket(self._service.connection, sock)
        except asyncio.CancelledError:
            sock.close()
        except (OSError, TimeoutError) as error:
            logger.info("connection closed address=%s reason=%s", host, _reason(error))
            sock.close()
        except Exception as error:
            sock.close()
            self._on_failure(error)
        finally:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    async def _is_tls(self, sock: socket.socket) -> bool:
        """Whether the client speaks TLS; its bytes stay in the socket."""
        readable = self._loop.create_future()

        def ready() -> None:
            if not readable.done():
                readable.set_result(None)

        # A socket of its own for the wait: the loop refuses to take over one that it watches.
        watched = sock.dup()
        try:
            self._loop.add_reader(watched, ready)
            try:
                await readable
            finally:
                self._loop.remove_reader(watched)
        finally:
            watched.close()
        first = sock.recv(1, socket.MSG_PEEK)
        if not first:
            raise ConnectionResetError(errno.ECONNRESET, "it was closed before it began")
        return first[0] == _TLS_HANDSHAKE


def _host(address: str) -> str:
    """The address as the connections of the service name it."""
    host = address.split("%", 1)[0]
    return host[7:] if host.startswith("::ffff:") and "." in host else host


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        # Its text would add the line of OpenSSL's source.
        return f"TLS handshake failed: {error.reason or error.strerror or 'no reason given'}"
    if isinstance(error, TimeoutError):
        return "it did not show in time whether it speaks TLS"
    return str(error) or type(error).__name__
