"""Dials one other server, for ever: looks its name up, tries every address, waits a little longer each time."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from fastzk.server._peer_link import PeerLink, tune
from fastzk.server.peer_address import Endpoint, IpAddress, Resolver, ip_address
from fastzk.server.peer_auth import Refused

logger = logging.getLogger(__name__)

#: The pause after the first failure, and the longest one; each is drawn from half to all of its length.
FIRST_PAUSE_SECONDS: Final = 0.020
LONGEST_PAUSE_SECONDS: Final = 1.0
#: A link that lived for less counts as one more failure: two servers with one id would displace each other busily.
LASTING_SECONDS: Final = 1.0
#: The same failure of the same server is logged again after so long.
REPEAT_SECONDS: Final = 60.0


class Backoff:
    """Pauses that double from the first to the longest one."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE_SECONDS

    def reset(self) -> None:
        """Begin again with the first one."""
        self._next = FIRST_PAUSE_SECONDS

    def next(self) -> float:
        """Seconds to wait now."""
        pause = self._next
        self._next = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return pause * random.uniform(0.5, 1.0)  # so that servers started together do not go on in step


class Dialer:
    """Keeps a link to server ``peer_id`` at ``host``, ``port`` until ``stop``.

    ``shake_hands`` (socket) makes the link on a connected socket, or raises; it owns the socket.
    ``own_host``: the name of this server, if connections must come from one of its addresses.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        resolver: Resolver,
        *,
        peer_id: int,
        host: str,
        port: int,
        shake_hands: Callable[[socket.socket], Awaitable[PeerLink]],
        own_host: str | None,
        connect_seconds: float,
    ) -> None:
        self._loop = loop
        self._resolver = resolver
        self._peer_id = peer_id
        self._host = host
        self._port = port
        self._shake_hands = shake_hands
        self._own_host = own_host
        self._connect_seconds = connect_seconds
        self._stopping = False
        self._logged = ("", 0.0)  # the failure logged last, and when
        self._linked = False
        self.task: asyncio.Task[None] = loop.create_task(self._run())

    def stop(self) -> None:
        """Dial no more. A link that stands is its owner's to end, and the task ends with it."""
        self._stopping = True
        if not self._linked:
            self.task.cancel()

    async def _run(self) -> None:
        backoff = Backoff()
        while not self._stopping:
            began = self._loop.time()
            if await self._attempt() and self._loop.time() - began >= LASTING_SECONDS:
                backoff.reset()
                self._logged = ("", 0.0)
            if not self._stopping:
                await asyncio.sleep(backoff.next())

    async def _attempt(self) -> bool:
        """Try every address until one is the server; True after its link is over."""
        try:
            endpoints = await self._resolver.resolve(self._host, self._port)
            sources = await self._sources()
        except OSError as error:
            self._failed(f"{self._host}:{self._port}", str(error))
            return False
        for endpoint in endpoints:
            try:
                sock = await self._connect(endpoint, sources)
                link = await self._shake_hands(sock)
            except TimeoutError:
                self._failed(str(endpoint), "no answer in time")
            except (OSError, Refused) as error:
                self._failed(str(endpoint), str(error) or type(error).__name__)
            else:
                self._linked = True
                try:
                    await link.lost
                finally:
                    self._linked = False
                return True
        return False

    async def _sources(self) -> list[IpAddress]:
        """This server's own addresses, as far as they are known."""
        if self._own_host is None:
            return []
        try:
            return sorted(await self._resolver.addresses(self._own_host), key=int)
        except OSError:
            return []

    async def _connect(self, endpoint: Endpoint, sources: list[IpAddress]) -> socket.socket:
        sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
        try:
            tune(sock)
            self._bind(sock, endpoint, sources)
            async with asyncio.timeout(self._connect_seconds):
                await self._loop.sock_connect(sock, endpoint.sockaddr)
            if sock.getsockname() == sock.getpeername():
                # Nobody listens on a port of the range for outgoing connections, and it was given to us.
                raise ConnectionRefusedError("connected to itself")
        except BaseException:
            sock.close()
            raise
        return sock

    def _bind(self, sock: socket.socket, endpoint: Endpoint, sources: list[IpAddress]) -> None:
        """Come from the address that this server is known by, if it is one of this machine."""
        target = ip_address(endpoint.sockaddr[0])
        for source in sources:
            # A loopback address reaches only loopback addresses, and none of the others reaches one.
            if source.version == target.version and source.is_loopback == target.is_loopback:
                try:
                    sock.bind((str(source), 0))
                except OSError:
                    continue  # behind a translation of addresses, for instance: as the kernel chooses
                return

    def _failed(self, address: str, reason: str) -> None:
        text = f"{address} {reason}"
        now = self._loop.time()
        if text == self._logged[0] and now < self._logged[1] + REPEAT_SECONDS:
            return
        self._logged = (text, now)
        logger.warning("server not reached server=%d address=%s reason=%s", self._peer_id, address, reason)
