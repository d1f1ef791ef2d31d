"""Whether threads of this server that wake up interrupt who is running: under which of Linux's policies they are.

A thread that wakes up under SCHED_OTHER takes the processor from whoever runs there. Where a server, its clients and
perhaps other servers share a few processors, what it interrupts is most often a part of the same work: a leader in the
middle of answering, for what only comes next. SCHED_BATCH waits until the other one sleeps; that saves a fifth of the
switches, and made 1.05 to 1.1 times the writes.

But who computes without end does not sleep, and under SCHED_BATCH is run behind only when the clock's tick comes round:
milliseconds, for each of the steps that a write takes. The kernel counts for each thread how often it got a processor,
and how long it waited for that. So while there is much to do the loop's thread and the log's are under SCHED_BATCH as
long as these waits are short. When they are not, they go back to SCHED_OTHER for a while, which is twice as long each
time. With little to do they are under SCHED_OTHER, too: a lone request gains nothing, and could wait.

Nothing is done where the operator chose a policy, nor where the kernel does not count.
"""

from __future__ import annotations

import asyncio
import logging
import math
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
#: There is much to do if the loop's thread ran for a twentieth of the time between two looks.
BUSY_NS: Final = int(LOOK_SECONDS * 1e9) // 20
#: Seconds under SCHED_OTHER after the first attempt that did not go well, and at most.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 16.0
#: If nothing went wrong after a pause for so many times its length, the next is the first again.
WELL: Final = 7


class Times(NamedTuple):
    """What the kernel counted for one thread: how long it ran, how long it waited to, and how often it came to run."""

    ran_ns: int
    waited_ns: int
    runs: int

    @classmethod
    def of(cls, thread: int) -> Times:
        """Those of a thread of this process. Raises OSError or ValueError if they are not counted."""
        path = Path(f"/proc/self/task/{thread}/schedstat")
        ran, waited, runs = map(int, path.read_text().split())
        if runs == 0:
            raise ValueError(f"{path}: a thread that runs, and is said to have never done so")
        return cls(ran, waited, runs)

    def since(self, before: Times) -> Times:
        """What came to it after ``before``."""
        return Times(self.ran_ns - before.ran_ns, self.waited_ns - before.waited_ns, self.runs - before.runs)

    def waited_longer_than(self, limit_ns: int) -> bool:
        """Whether each wait was longer than ``limit_ns``, on average."""
        return self.waited_ns >= LEAST_NS and self.waited_ns > limit_ns * self.runs


class Scheduling:
    """Chooses the policy of the calling thread, the loop's, and of ``log``'s. ``start`` once, ``stop`` once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: TxnLog) -> None:
        self._loop = loop
        self._log = log
        self._own = threading.get_native_id()
        self._times: dict[int, Times] = {}
        self._batch = False
        self._pause = 0.0
        self._again_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to choose."""
        self._times = self._count()
        if os.sched_getscheduler(0) == os.SCHED_OTHER and self._times.keys() == self._limits().keys():
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Leave the threads as they were before ``start``."""
        if self._timer is not None:
            self._timer.cancel()
            self._use(False)

    def _look(self) -> None:
        now, limits = self._loop.time(), self._limits()
        before, self._times = self._times, self._count()
        if self._times.keys() != limits.keys():
            self._use(False)  # one has ended
            return
        since = {thread: times.since(before.get(thread, times)) for thread, times in self._times.items()}
        if self._batch and any(times.waited_longer_than(limits[thread]) for thread, times in since.items()):
            self._use(False)
            recently = now - self._again_at < WELL * self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE) if recently else FIRST_PAUSE
            self._again_at = now + self._pause
            logger.debug("somebody else computes, scheduling as usual seconds=%.0f", self._pause)
        elif now >= self._again_at:
            self._use(since[self._own].ran_ns >= BUSY_NS)
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _limits(self) -> dict[int, int]:
        """The threads, and how long each may wait."""
        limits = {self._own: LOOP_WAIT_NS}
        if self._log.thread_id:
            limits[self._log.thread_id] = LOG_WAIT_NS
        return limits

    def _count(self) -> dict[int, Times]:
        """By thread; what is not counted, or has ended, is not there."""
        times = {}
        for thread in self._limits():
            with suppress(OSError, ValueError):
                times[thread] = Times.of(thread)
        return times

    def _use(self, batch: bool) -> None:
        if batch == self._batch:
            return
        self._batch = batch
        try:
            for thread in self._limits():
                os.sched_setscheduler(thread, os.SCHED_BATCH if batch else os.SCHED_OTHER, os.sched_param(0))
        except OSError as error:
            logger.debug("scheduling left as it is batch=%s reason=%s", batch, error)
            self._again_at = math.inf
            self._use(False)
