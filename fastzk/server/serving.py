"""As what a server of an ensemble serves its clients, and how long they wait when it is nothing.

A server that knows no leader keeps its clients, paused, for a moment: after most changes of the leader they go on
where they were, but for those that wait for an answer. Their connections are closed: whether what they asked for
happened is for them to find out. When no leader comes, all connections are closed, so that clients try other servers.
With ``readonlymode.enabled`` clients that accept it are served even so: they may read what this server has applied.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from fastzk.server._connection import Service
from fastzk.server._line import Line
from fastzk.server._read_only import ReadOnly

logger = logging.getLogger(__name__)

#: How long clients wait for a leader, in seconds, unless a tick is longer: many times what it takes to elect one, and
#: less than the silence after which clients give a server up. ZooKeeper's read-only mode begins after as long.
PATIENCE: Final = 2.0


class Serving:
    """Begins, suspends and ends what ``service`` does for clients.

    ``read_only``: how clients are served without a leader; None: not at all. ``tick``: ``tickTime`` in seconds.
    ``on_role`` is told when clients begin to be served (with True by a leader, with False by a follower), and when
    they are not any more (None).
    """

    def __init__(
        self, service: Service, read_only: ReadOnly | None, *, tick: float, on_role: Callable[[bool | None], object]
    ) -> None:
        self._service = service
        self._read_only = read_only
        self._patience = max(PATIENCE, tick)
        self._on_role = on_role
        #: True: as the leader, False: as a follower, None: clients are not served now, or only without a leader.
        self.leading: bool | None = None
        #: Since when (monotonic nanoseconds) it is one of the first two.
        self.since = 0
        #: Since when clients wait for a leader (monotonic); None: they do not.
        self._waiting: float | None = time.monotonic()

    def begin(self, leading: bool, line: Line, mode: str, zxid: int) -> None:
        """Serve clients, with writes going through ``line``; ``mode`` and ``zxid`` are for the log."""
        self.leading = leading
        self._waiting = None
        self.since = time.monotonic_ns()
        logger.info("serving as=%s zxid=0x%x", mode, zxid)
        self._service.serve(line)
        self._on_role(leading)

    def suspend(self, reason: str) -> None:
        """There is no leader any more: have the clients wait. ``end`` has to follow."""
        if not self._service.read_only:
            self._service.suspend(reason)

    def end(self) -> None:
        """Clients are suspended, and so is everything else that served them."""
        if self.leading is not None:
            self.leading = None
            self._waiting = time.monotonic()
            self._on_role(None)

    def wait(self, leader: int | None, zxid: int) -> None:
        """By the clock. No leader has come, or this server is not as far as ``leader``: do clients still wait?"""
        if self.leading is not None or self._service.read_only:
            return
        if self._waiting is not None and time.monotonic() >= self._waiting + self._patience:
            self._waiting = None
            gone = self._service.dismiss()
            if gone:
                logger.warning("no leader, connections closed count=%d", gone)
        if self._waiting is None and self._read_only is not None and leader is None:
            logger.warning("no leader, serving read-only zxid=0x%x", zxid)
            self._service.serve_read_only(self._read_only)
