"""Reaping: empty containers and TTL znodes whose time is over are deleted by the server itself.

A search looks through both kinds, a slice of slots a turn of the loop, so that a million of them stall
nobody. What it finds is proposed at a bounded pace, as an ordinary deleteContainer transaction: the pipeline
validates it in its place among the clients' writes, so a child that is created meanwhile saves its parent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from fastzk._tree import Tree

logger = logging.getLogger(__name__)

#: Slots looked at in one turn of the loop: well below a millisecond.
SEARCH_SLICE: Final = 5_000
#: Deletions proposed in one turn are those of this part of a minute, but not more than `REAP_SLICE`.
TURNS_A_MINUTE: Final = 600
REAP_SLICE: Final = 500


class Reaper(Protocol):
    """What a container manager needs of the pipeline."""

    @property
    def pending(self) -> int: ...
    @property
    def limit(self) -> int: ...
    def reap(self, path: bytes) -> bool:
        """Propose the deletion; whether that was possible."""


class ContainerManager:
    """Finds what is to be reaped in ``tree`` and has ``pipeline`` delete it.

    ``check_interval_ms``: from the beginning of one search to that of the next, at the least.
    ``max_per_minute``: deletions. ``max_never_used_ms``: age at which a container goes that never had a
    child; 0: never.
    ``on_failure`` is told of an unforeseen error.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tree: Tree,
        pipeline: Reaper,
        *,
        check_interval_ms: int,
        max_per_minute: int,
        max_never_used_ms: int,
        on_failure: Callable[[BaseException], object],
    ) -> None:
        self._loop = loop
        self._tree = tree
        self._pipeline = pipeline
        self._interval = check_interval_ms / 1000
        self._chunk = min(max(max_per_minute // TURNS_A_MINUTE, 1), REAP_SLICE)
        self._pause = self._chunk * 60 / max_per_minute
        self._max_never_used_ms = max_never_used_ms
        self._on_failure = on_failure
        self._began = 0.0
        self._unseen: list[int] = []
        self._due: list[int] = []
        self._reaped = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Search for the first time when the interval has passed."""
        self._began = self._loop.time()
        self._again(self._interval)

    def stop(self) -> None:
        """Propose nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._turn)

    def _turn(self) -> None:
        try:
            self._again(self._step())
        except Exception as error:
            self._on_failure(error)

    def _step(self) -> float:
        """Do a slice of what is to do; the seconds until the next one."""
        if self._unseen:
            slots = self._take(self._unseen, SEARCH_SLICE)
            self._due += self._expired(slots)
            if self._unseen or self._due:
                return 0.0
        elif self._due:
            if self._pipeline.pending > self._pipeline.limit:
                return self._pause  # clients are being slowed down: this can wait
            # Looked at again: the slot may have been used anew since, or the znode written.
            for slot in self._expired(self._take(self._due, self._chunk)):
                path = self._tree.path(slot)
                if self._pipeline.reap(path):
                    self._reaped += 1
                    logger.debug("reaping path=%r", path)
            if self._due:
                return self._pause
            if self._reaped:
                logger.info("containers and TTL znodes reaped count=%d", self._reaped)
                self._reaped = 0
        else:
            self._began = self._loop.time()
            self._unseen = [*self._tree.containers, *self._tree.ttls]
            return 0.0 if self._unseen else self._interval
        return max(self._began + self._interval - self._loop.time(), 0.0)

    def _expired(self, slots: list[int]) -> list[int]:
        return self._tree.expired(slots, int(time.time() * 1000), self._max_never_used_ms)

    @staticmethod
    def _take(slots: list[int], count: int) -> list[int]:
        """The last ``count`` of ``slots``, which loses them."""
        taken = slots[-count:]
        del slots[-count:]
        return taken
