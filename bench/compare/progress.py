"""Lines on standard error: what was just measured, since when, and how long the rest takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping


class Progress:
    """``costs``: of every step, about how many seconds; corrected by what the finished ones took."""

    def __init__(self, costs: Mapping[str, float]) -> None:
        self._costs = dict(costs)
        self._began = time.monotonic()
        self._done = 0.0
        self._current: tuple[str, float] | None = None

    def begin(self, step: str) -> None:
        self.end()
        self._current = (step, time.monotonic())

    def end(self) -> None:
        if self._current:
            self._done += self._costs.pop(self._current[0], 0.0)
            self._current = None

    def left(self) -> float:
        """Seconds."""
        planned = sum(self._costs.values())
        elapsed = time.monotonic() - self._began
        if self._current:
            step, since = self._current
            running = time.monotonic() - since
            planned -= min(running, self._costs.get(step, 0.0))
            elapsed -= running
        # The estimates count for as much as a minute of what was measured.
        pace = (60 + elapsed) / (60 + self._done)
        return planned * pace

    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        print(f"[{clock(self.elapsed())}, {clock(self.left())} left] {text}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
