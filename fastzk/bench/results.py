"""What a run found: per operation and in total, from one process or merged from several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fastzk.bench._histogram import Histogram
from fastzk.protocol import Error

#: Below this many nanoseconds no interval between requests is believed.
_SHORTEST_INTERVAL = 1000


def error_name(code: int) -> str:
    """What ZooKeeper calls an error code; the code itself where it has no name."""
    try:
        return Error(code).name
    except ValueError:
        return f"CODE_{code}"


@dataclass(slots=True)
class Operation:
    """What became of one operation's requests.

    :param sent: how many were sent, warm-up included.
    :param answered: how many of those were answered.
    :param finished: how many answers came while it was measured.
    :param unanswered: measured ones without an answer at the end; their latency is the age they reached.
    :param errors: how many measured ones failed, by error code.
    :param latency: of the measured ones, in nanoseconds.
    """

    sent: int = 0
    answered: int = 0
    finished: int = 0
    unanswered: int = 0
    errors: Counter[int] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)

    def add(self, other: Operation) -> None:
        """Take over all of another one."""
        self.sent += other.sent
        self.answered += other.answered
        self.finished += other.finished
        self.unanswered += other.unanswered
        self.errors.update(other.errors)
        self.latency.add(other.latency)

    @property
    def corrected(self) -> Histogram:
        """The latency with what a closed loop did not measure while it waited for slow answers.

        The interval expected between two requests of one place in the window is the median latency: what it is while
        nothing stalls. Each operation has its own, so one that is slow by nature is not taken for a stall.
        """
        if not self.latency.count:
            return Histogram()
        return self.latency.corrected(max(self.latency.percentile(50), _SHORTEST_INTERVAL))


@dataclass(slots=True)
class Results:
    """One process, or all together.

    :param operations: by name.
    :param seconds: how long was measured.
    :param opened: sessions that began or were taken up again.
    :param lost: connections that broke.
    :param expired: sessions that were gone when they were taken up again.
    :param longest_gap: the longest time without any answer in a process, in seconds.
    :param late: how much later than due requests of an open loop were looked at, in nanoseconds.
    :param cpu: processor time of each worker, in parts of the time it ran.
    :param rounds: of the watch mode: changes made.
    :param missed: of the watch mode: events that did not come.
    :param problems: what went wrong with connections last, by process.
    """

    operations: dict[str, Operation] = field(default_factory=dict)
    seconds: float = 0.0
    opened: int = 0
    lost: int = 0
    expired: int = 0
    longest_gap: float = 0.0
    late: Histogram = field(default_factory=Histogram)
    cpu: list[float] = field(default_factory=list)
    rounds: int = 0
    missed: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def total(self) -> Operation:
        """All operations together."""
        total = Operation()
        for operation in self.operations.values():
            total.add(operation)
        return total

    @property
    def total_corrected(self) -> Histogram:
        """The corrected latencies of all operations together."""
        total = Histogram()
        for operation in self.operations.values():
            total.add(operation.corrected)
        return total

    @classmethod
    def merged(cls, parts: Iterable[Results]) -> Results:
        """Those of several processes that ran at the same time."""
        merged = cls()
        for part in parts:
            for name, operation in part.operations.items():
                merged.operations.setdefault(name, Operation()).add(operation)
            merged.seconds = max(merged.seconds, part.seconds)
            merged.opened += part.opened
            merged.lost += part.lost
            merged.expired += part.expired
            merged.longest_gap = max(merged.longest_gap, part.longest_gap)
            merged.late.add(part.late)
            merged.cpu += part.cpu
            merged.rounds += part.rounds
            merged.missed += part.missed
            merged.problems += part.problems
        return merged
