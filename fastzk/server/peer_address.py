"""The addresses behind the names of servers: looked up anew each time, because names move."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

logger = logging.getLogger(__name__)

#: For so long an address found is good enough to check who comes from it.
FRESH_SECONDS: Final = 1.0
#: A name server that does not answer is not waited for any longer.
LOOKUP_SECONDS: Final = 4.0

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[..., Awaitable[list[tuple[Any, Any, Any, Any, Any]]]]


class Endpoint(NamedTuple):
    """Where to connect to: a family of addresses, and what ``socket.connect`` takes."""

    family: int
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        return address_text(self.sockaddr)


def address_text(sockaddr: tuple[Any, ...]) -> str:
    """An address with its port, as people write it."""
    host, port = str(sockaddr[0]), sockaddr[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ip_address(text: str) -> IpAddress:
    """The address without its zone; one of IPv4 as such, however it is written. Raises ValueError."""
    address = ipaddress.ip_address(text.split("%", 1)[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Resolver:
    """Looks names up. ``lookup`` is in place of ``loop.getaddrinfo`` in tests.

    While a name cannot be looked up, its last addresses hold: an ensemble should not need its name servers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, lookup: Lookup | None = None) -> None:
        self._loop = loop
        self._lookup: Lookup = lookup or loop.getaddrinfo
        self._last: dict[str, list[Endpoint]] = {}  # by name: what was found last
        self._failing: set[str] = set()
        self._fresh: dict[str, tuple[float, frozenset[IpAddress]]] = {}  # by name: until when, addresses
        self._running: dict[str, asyncio.Task[frozenset[IpAddress]]] = {}

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        """All addresses of ``host``, looked up now. Raises OSError if there never was one."""
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = await self._lookup(host, port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError) as error:
            reason = str(error) or "no answer in time"
            if host not in self._last:
                raise OSError(f"{host}: {reason}") from None
            if host not in self._failing:
                self._failing.add(host)
                logger.warning("name not found host=%s reason=%s; its last addresses hold", host, reason)
            return [Endpoint(family, (sockaddr[0], port, *sockaddr[2:])) for family, sockaddr in self._last[host]]
        self._failing.discard(host)
        endpoints = [Endpoint(int(family), sockaddr) for family, _, _, _, sockaddr in found]
        self._last[host] = endpoints
        return list(dict.fromkeys(endpoints))

    async def addresses(self, host: str) -> frozenset[IpAddress]:
        """All addresses of ``host``, at most ``FRESH_SECONDS`` old. Raises OSError as ``resolve`` does.

        However many ask, there is one look-up at a time for a name.
        """
        until, found = self._fresh.get(host, (0.0, frozenset[IpAddress]()))
        if self._loop.time() < until:
            return found
        running = self._running.get(host)
        if running is None:
            running = self._loop.create_task(self._refresh(host))
            self._running[host] = running
            running.add_done_callback(lambda task: self._ended(host, task))
        return await asyncio.shield(running)

    async def _refresh(self, host: str) -> frozenset[IpAddress]:
        endpoints = await self.resolve(host, 0)
        found = frozenset(ip_address(endpoint.sockaddr[0]) for endpoint in endpoints)
        self._fresh[host] = (self._loop.time() + FRESH_SECONDS, found)
        return found

    def _ended(self, host: str, task: asyncio.Task[frozenset[IpAddress]]) -> None:
        del self._running[host]
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody did, nobody needs it

    def forget(self, hosts: set[str]) -> None:
        """Keep only what concerns ``hosts``."""
        self._last = {host: found for host, found in self._last.items() if host in hosts}
        self._fresh = {host: found for host, found in self._fresh.items() if host in hosts}
        self._failing &= hosts

    def close(self) -> list[asyncio.Task[frozenset[IpAddress]]]:
        """Stop all look-ups; the tasks that are ending."""
        for task in self._running.values():
            task.cancel()
        return list(self._running.values())
