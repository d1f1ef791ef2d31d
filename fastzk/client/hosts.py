"""Where the servers are: connection strings and URLs, and which server is tried next.

Understood are ZooKeeper's connection strings, ``host:port,host:port/chroot``, with IPv6 addresses in brackets, and
URLs: ``zk://host,host/chroot?timeout=10`` (seconds), ``zks://`` for TLS. The port is 2181 where none is given.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import parse_qs

from fastzk.client._channel import normal_path

DEFAULT_PORT: Final = 2181
#: Between rounds, in seconds: servers that refuse connections are not to be asked without end.
_MIN_DELAY: Final = 0.001


class Server(NamedTuple):
    """One server by name or address; names are looked up at each attempt to connect."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a connection string says.

    :param servers: at least one.
    :param chroot: the znode all paths are below; empty for none.
    :param timeout: of the session in seconds, where the URL has one.
    :param tls: whether the scheme is ``zks``.
    """

    servers: tuple[Server, ...]
    chroot: str = ""
    timeout: float | None = None
    tls: bool = False


def _server(text: str) -> Server:
    host, port = text.strip(), ""
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"not a server: {text!r}")
        port = rest[1:]
    elif host.count(":") == 1:
        host, port = host.split(":")
    elif ":" in host:
        raise ValueError(f"an IPv6 address belongs into brackets: {text!r}")
    if not host:
        raise ValueError(f"a server without a name: {text!r}")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"not a port: {text!r}")
    return Server(host, int(port) if port else DEFAULT_PORT)


def parse(hosts: str | Sequence[str]) -> Target:
    """What a connection string, a URL or a list of servers says.

    A list may end with the chroot as an element of its own.

    :raises ValueError: when it names no server or one that makes no sense.
    """
    if not isinstance(hosts, str):
        parts = [part.strip() for part in hosts]
        chroot = parts.pop() if parts and parts[-1].startswith("/") else ""
        hosts = ",".join(parts) + chroot
    scheme, separator, rest = hosts.partition("://")
    timeout = None
    tls = False
    if separator:
        if scheme not in ("zk", "zks"):
            raise ValueError(f"the scheme of a URL is zk or zks, not {scheme!r}")
        tls = scheme == "zks"
        hosts, _, query = rest.partition("?")
        options = parse_qs(query, keep_blank_values=True, strict_parsing=bool(query))
        unknown = options.keys() - {"timeout"}
        if unknown:
            raise ValueError(f"unknown options in a URL: {', '.join(sorted(unknown))}")
        if "timeout" in options:
            timeout = float(options["timeout"][-1])
            if not 0 < timeout < 1e6:
                raise ValueError(f"not a timeout in seconds: {options['timeout'][-1]!r}")
    names, slash, below = hosts.partition("/")
    chroot = normal_path("/" + below) if slash else ""
    servers = tuple(_server(name) for name in names.split(",") if name.strip())
    if not servers:
        raise ValueError(f"no server in {hosts!r}")
    return Target(servers, "" if chroot == "/" else chroot, timeout, tls)


class Attempt(NamedTuple):
    """Which server to try, and how many seconds to wait before."""

    server: Server
    delay: float


class Rotation:
    """The order in which servers are tried.

    Each is tried once before any is tried again; between one round and the next there is a pause that grows, with
    jitter, so that the clients of a server that died do not come back in step.

    :param servers: at least one.
    :param shuffle: whether to begin with any of them, so that clients spread over the servers.
    :param first_delay: the pause after the first round, in seconds.
    :param max_delay: the longest pause, in seconds.
    :param backoff: by what the pause grows with each round.
    :param jitter: the least and the most a pause is multiplied by, by chance.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        shuffle: bool = True,
        *,
        first_delay: float = 0.05,
        max_delay: float = 2.0,
        backoff: float = 2.0,
        jitter: tuple[float, float] = (0.5, 1.0),
        rng: random.Random | None = None,
    ) -> None:
        self._rng = rng or random.Random()
        self._shuffle = shuffle
        self._first_delay = first_delay
        self._max_delay = max_delay
        self._backoff = backoff
        self._jitter = jitter
        self._failed_rounds = 0
        self._tried = 0
        self.servers: list[Server] = []
        self.replace(servers)

    def replace(self, servers: Sequence[Server]) -> None:
        """Use other servers from the next attempt on."""
        self.servers = list(servers)
        self._next = 0
        self._tried = 0
        if self._shuffle:
            self._rng.shuffle(self.servers)

    def next(self) -> Attempt:
        """The next server."""
        delay = 0.0
        if self._tried >= len(self.servers):
            self._tried = 0
            delay = min(self._max_delay, self._first_delay * self._backoff ** min(self._failed_rounds, 30))
            delay = max(_MIN_DELAY, delay * self._rng.uniform(*self._jitter))
            self._failed_rounds += 1
        server = self.servers[self._next % len(self.servers)]
        self._next += 1
        self._tried += 1
        return Attempt(server, delay)

    def prefer(self, server: Server) -> None:
        """Try this one next, without a pause."""
        if server in self.servers:
            self._next = self.servers.index(server)
            self._tried = 0

    def succeeded(self) -> None:
        """The last one took the session: the next attempt, whenever it is, comes without a pause."""
        self._failed_rounds = 0
        self._tried = 0
