"""One process of a run: its share of the connections, told by a pipe what to do.

The runner sends :class:`Go` once all workers said :class:`Connected`, and may send :class:`Stop` at any time; in the
watch mode it sends :class:`Arm` for each round. A worker whose pipe breaks ends, so none outlives the runner.
"""

from __future__ import annotations

import resource
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

from fastzk.bench._histogram import Histogram
from fastzk.bench._load import Load
from fastzk.bench.frames import templates
from fastzk.bench.plan import Address, Plan
from fastzk.bench.results import Results

#: How often the pipe is looked at, in nanoseconds.
_LOOK: Final = 20_000_000
#: How often progress is reported.
_REPORT: Final = 1_000_000_000
#: Files a process has open besides its connections.
_OTHER_FILES: Final = 32


@dataclass(frozen=True, slots=True)
class Connected:
    """All sessions of this worker are there."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot go on, and says why."""

    why: str


@dataclass(frozen=True, slots=True)
class Go:
    """When the load begins, and from when to when it is measured: CLOCK_MONOTONIC in nanoseconds."""

    start: int
    measured_from: int
    measured_to: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End the load now, and report."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Watch the znode."""


@dataclass(frozen=True, slots=True)
class Armed:
    """All sessions watch it."""

    sessions: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """The events of a round came at these times, 8 bytes each, and some did not come."""

    times: bytes
    missed: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Since the last of these."""

    answered: int
    errors: int
    lost: int
    latency: Histogram


@dataclass(frozen=True, slots=True)
class Done:
    """The end of the load. ``created``: what each connection left, as first number and the one behind the last."""

    results: Results
    created: dict[int, tuple[int, int]]


Command = Go | Stop | Arm
Answer = Connected | Failed | Armed | Arrived | Progress | Done


def make_room_for(connections: int) -> None:
    """Raise this process's limit of open files.

    :raises ValueError: when the system does not allow that many.
    """
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(
            f"{connections} connections in one process need {wanted} open files, and {hard} are allowed"
            " (ulimit -Hn): use more --processes"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(plan: Plan, process: int, addresses: list[Address], pipe: Connection) -> None:
    """The life of a worker process."""
    # Ctrl-C reaches all processes of a terminal; what follows from it is the runner's decision
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Worker(plan, process, addresses, pipe).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the runner is gone
    except (OSError, ValueError) as error:
        pipe.send(Failed(str(error)))


class Worker:
    """What a worker process does, from connecting to reporting."""

    def __init__(self, plan: Plan, process: int, addresses: list[Address], pipe: Connection) -> None:
        self.plan = plan
        self.pipe = pipe
        self.sessions = plan.share(process)[1]
        make_room_for(self.sessions)
        frames = templates(plan.root, plan.keys, plan.value_size, plan.multi_size)
        self.load = Load(plan, process, addresses, frames)
        self.stopped = False

    def run(self) -> None:
        """Connect, do what the runner says, report."""
        if not self._connect():
            return
        self.pipe.send(Connected())
        command = self._await_command()
        if self.plan.watches:
            self._watch_rounds(command)
        elif isinstance(command, Go):
            self._carry_load(command)
        else:
            self.pipe.send(Done(Results(), {}))
        self.load.close()

    def _connect(self) -> bool:
        deadline = time.monotonic_ns() + round(self.plan.connect_timeout * 1e9)
        while self.load.ready < self.sessions:
            now = time.monotonic_ns()
            if now >= deadline:
                why = self.load.problem or "no answer"
                self.pipe.send(Failed(f"{self.load.ready} of {self.sessions} sessions were opened; {why}"))
                return False
            self.load.step(min(deadline, now + _LOOK))
            if self.pipe.poll():
                self.pipe.recv()  # only Stop comes this early
                return False
        return True

    def _await_command(self) -> Command:
        # While waiting, sessions are kept alive.
        while not self.pipe.poll():
            self.load.step(time.monotonic_ns() + _LOOK)
        command: Command = self.pipe.recv()
        return command

    def _carry_load(self, times: Go) -> None:
        usage, began = _cpu_seconds(), time.monotonic_ns()
        self.load.begin(times.start, times.measured_from, times.measured_to)
        end = times.measured_to
        give_up = end + round(self.plan.drain * 1e9)
        report_at = times.start + _REPORT
        used: float | None = None
        while not self.load.drained:
            now = time.monotonic_ns()
            if now >= give_up:
                break
            if now >= end and used is None:
                used = (_cpu_seconds() - usage) / ((now - began) / 1e9)
            self.load.step(min(give_up, report_at, now + _LOOK))
            if time.monotonic_ns() >= report_at:
                self._report_progress()
                report_at += _REPORT
            if not self.stopped and self.pipe.poll():
                self.pipe.recv()  # Stop
                self.stopped = True
                self.load.end()
                end = min(end, max(time.monotonic_ns(), times.measured_from))
                give_up = min(give_up, time.monotonic_ns() + 1_000_000_000)
        if used is None:
            used = (_cpu_seconds() - usage) / max((time.monotonic_ns() - began) / 1e9, 1e-9)
        results = self._results()
        results.seconds = (end - times.measured_from) / 1e9
        results.cpu = [used]
        self.pipe.send(Done(results, self.load.created))

    def _results(self) -> Results:
        return Results(
            operations=self.load.results(),
            opened=self.load.opened,
            lost=self.load.lost,
            expired=self.load.expired,
            longest_gap=self.load.longest_gap / 1e9,
            late=self.load.lateness,
            problems=[self.load.problem] if self.load.problem else [],
        )

    def _report_progress(self) -> None:
        answered, errors, latency = self.load.recent()
        self.pipe.send(Progress(answered, errors, self.load.lost, latency))

    def _watch_rounds(self, command: Command) -> None:
        usage, began = _cpu_seconds(), time.monotonic()
        while isinstance(command, Arm):
            self.load.arm()
            sessions = self.load.awaited
            if not self._step_while("arming"):
                break
            self.pipe.send(Armed(sessions))
            if not self._step_while("awaited"):
                break
            times = self.load.arrivals
            self.pipe.send(Arrived(times, sessions - len(times) // 8))
            command = self._await_command()
        results = self._results()
        results.cpu = [(_cpu_seconds() - usage) / max(time.monotonic() - began, 1e-9)]
        self.pipe.send(Done(results, {}))

    def _step_while(self, waits: str) -> bool:
        # Until nothing is waited for; False when the runner wants an end before that.
        while getattr(self.load, waits):
            self.load.step(time.monotonic_ns() + _LOOK)
            if self.pipe.poll():
                self.pipe.recv()  # Stop
                return False
        return True


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
