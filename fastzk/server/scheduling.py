"""Whether threads of this server that wake up interrupt who is running: under which of Linux's policies they are.

A thread that wakes up under SCHED_OTHER takes the processor from whoever runs there. Where a server, its clients and
perhaps other servers share a few processors, what it interrupts is most often a part of the same work: a leader in the
middle of answering, for what only comes next. SCHED_BATCH waits until the other one sleeps; that saves a fifth of the
switches, and made 1.05 to 1.1 times the writes.

But who computes without end does not sleep, and under SCHED_BATCH is run behind only when the clock's tick comes round:
milliseconds, for each of the steps that a write takes. The kernel counts for each thread how often it got a processor,
and how long it waited for that. So the loop's thread and the log's are under SCHED_BATCH as long as these waits are
short. When they are not, they go back to SCHED_OTHER for a while, which is twice as long each time.

Nothing is done where the operator chose a policy, nor where the kernel does not count.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from fastzk._log import TxnLog

logger = logging.getLogger(__name__)

#: Seconds between looks at what the kernel counted.
LOOK_SECONDS: Final = 0.25
#: A thread that waited for so long on average, each time it got a processor, and for so long in all, shares it with
#: somebody who does not sleep. With a computing thread on each processor 2 to 3.5 ms were measured. Beside servers and
#: clients that sleep, the log's thread waits for 0.03 to 0.2 ms (0.3 with a computing thread on one of two processors);
#: the loop's for 0.07 to 0.2 ms with writes, but up to 1.8 where three servers are asked for more than they can read.
LOOP_WAIT_NS: Final = 2_000_000
LOG_WAIT_NS: Final = 800_000
LEAST_NS: Final = 3_000_000
#: Seconds under SCHED_OTHER before the first attempt and after the first that did not go well, and at most.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 256.0
#: An attempt that lasted for so many of the pauses before it went well.
WELL: Final = 8


class Waits(NamedTuple):
    """What the kernel counted for one thread: how long it waited for a processor, and how often it got one."""

    ns: int
    runs: int

    @classmethod
    def of(cls, thread: int) -> Waits:
        """Those of a thread of this process. Raises OSError or ValueError if they are not counted."""
        path = Path(f"/proc/self/task/{thread}/schedstat")
        _, ns, runs = path.read_text().split()
        if int(runs) == 0:
            raise ValueError(f"{path}: a thread that runs, and is said to have never done so")
        return cls(int(ns), int(runs))

    def longer_since(self, before: Waits, limit_ns: int) -> bool:
        """Whether the waits since ``before`` were longer than ``limit_ns`` on average."""
        ns = self.ns - before.ns
        return ns >= LEAST_NS and ns > limit_ns * (self.runs - before.runs)


class Scheduling:
    """Chooses the policy of the calling thread, the loop's, and of ``log``'s. ``start`` once, ``stop`` once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: TxnLog) -> None:
        self._loop = loop
        self._log = log
        self._own = threading.get_native_id()
        self._waits: dict[int, Waits] = {}
        self._pause = FIRST_PAUSE
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to choose."""
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            self._timer = self._loop.call_later(self._pause, self._attempt)

    def stop(self) -> None:
        """Leave the threads as they were before ``start``."""
        if self._timer is not None:
            self._timer.cancel()
            self._use(os.SCHED_OTHER)

    def _attempt(self) -> None:
        self._since = self._loop.time()
        self._waits = self._count()
        if self._waits.keys() == self._limits().keys() and self._use(os.SCHED_BATCH):
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
        else:
            self._use(os.SCHED_OTHER)

    def _look(self) -> None:
        before, self._waits = self._waits, self._count()
        limits = self._limits()
        if not any(
            now.longer_since(before[thread], limits[thread]) for thread, now in self._waits.items() if thread in before
        ):
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
            return
        self._use(os.SCHED_OTHER)
        lasted = self._loop.time() - self._since
        self._pause = FIRST_PAUSE if lasted > WELL * self._pause else min(2 * self._pause, LONGEST_PAUSE)
        logger.debug("somebody else computes, scheduling as usual lasted=%.1f seconds=%.0f", lasted, self._pause)
        self._timer = self._loop.call_later(self._pause, self._attempt)

    def _limits(self) -> dict[int, int]:
        """The threads, and how long each may wait."""
        limits = {self._own: LOOP_WAIT_NS}
        if self._log.thread_id:
            limits[self._log.thread_id] = LOG_WAIT_NS
        return limits

    def _count(self) -> dict[int, Waits]:
        """By thread; what is not counted, or has ended, is not there."""
        waits = {}
        for thread in self._limits():
            with suppress(OSError, ValueError):
                waits[thread] = Waits.of(thread)
        return waits

    def _use(self, policy: int) -> bool:
        """Whether the threads are under ``policy`` now."""
        try:
            for thread in self._limits():
                os.sched_setscheduler(thread, policy, os.sched_param(0))
        except OSError as error:
            logger.debug("scheduling left as it is policy=%d reason=%s", policy, error)
            return False
        return True
