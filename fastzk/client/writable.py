"""A client that is connected to a read-only server looks for one that takes writes.

Which server is asked and when is decided here; each client asks in its own way, by the word ``isro``, on a connection
of its own that carries no session.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Final

from fastzk.client.hosts import Server

#: Between one question and the next, in seconds.
_FIRST: Final = 0.25
_LONGEST: Final = 15.0
#: How long the helper thread may be away for a question; it has pings and deadlines to see to.
PATIENCE: Final = 0.25
QUESTION: Final = b"isro"
YES: Final = b"rw"


class Search:
    """One search, from the moment a connection turned out to be read-only.

    :param servers: to ask in turn, the one that is connected among them.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = itertools.cycle(servers)
        self._delay = _FIRST
        self._due = time.monotonic() + _FIRST

    @property
    def left(self) -> float:
        """Seconds until the next question."""
        return max(0.0, self._due - time.monotonic())

    def next(self) -> Server:
        """Whom to ask now; the next question is due later than the one before."""
        self._delay = min(_LONGEST, self._delay * 1.3)
        self._due = time.monotonic() + self._delay
        return next(self._servers)


def ask(server: Server, context: ssl.SSLContext | None) -> bool:
    """Whether a server says that it takes writes; blocks for ``PATIENCE`` at most with each step."""
    try:
        sock = socket.create_connection(server, timeout=PATIENCE)
        with sock if context is None else context.wrap_socket(sock, server_hostname=server.host) as stream:
            stream.sendall(QUESTION)
            return stream.recv(16).startswith(YES)
    except (OSError, UnicodeError):
        return False
