"""Virtual time: what happens when, and nothing happens at the same time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any


class Scheduler:
    """Events in the order of their time, then in that of their planning. Times are in microseconds."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0
        self.events = 0
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._planned = 0

    def between(self, bounds: tuple[int, int]) -> int:
        """A whole number by chance; several times as fast as ``randint``."""
        low, high = bounds
        return low + int(self.random.random() * (high + 1 - low))

    def after(self, delay: int, call: Callable[..., object], *args: Any) -> None:
        """Have `call` called with `args` in `delay` microseconds."""
        self._planned += 1
        heapq.heappush(self._heap, (self.now + delay, self._planned, call, args))

    def run(self, until: int, stop: Callable[[], bool] | None = None) -> bool:
        """Go on until that time, or until `stop` (looked at behind every eighth event); whether it was `stop`."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call, args = heapq.heappop(heap)
            self.events += 1
            call(*args)
            if stop is not None and self.events % 8 == 0 and stop():
                return True
        self.now = max(self.now, until)
        return False
