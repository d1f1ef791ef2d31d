"""One run from beginning to end: prepare znodes, start the workers, follow them, merge what they found, clean up."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from fastzk.bench import frames, worker
from fastzk.bench._histogram import Histogram
from fastzk.bench.plan import Address, Plan
from fastzk.bench.results import Operation, Results
from fastzk.client import Client
from fastzk.client._call import Call
from fastzk.errors import NodeExistsError, NoNodeError, ZooKeeperError

#: Requests of the preparation and the clean-up in flight.
_PIPELINED: Final = 256
#: From the order to start until the start, in seconds: all workers have it by then.
_LEAD: Final = 0.1
#: How long workers may take to start, and how long beyond the time allowed for answers they may take to report.
_START_SECONDS: Final = 60.0
_REPORT_SECONDS: Final = 10.0
#: How long a server may take to answer before the clean-up is given up.
_GONE_SECONDS: Final = 3.0


class BenchError(Exception):
    """The run cannot begin or go on; the text says why, in one line."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What the progress line shows: the last second.

    :param phase: ``warm-up``, ``measuring`` or ``last answers``.
    :param rate: answers a second.
    :param latency: of those.
    :param errors: of the second.
    :param lost: connections, since the beginning.
    :param left: seconds until the load ends.
    """

    phase: str
    rate: float
    latency: Histogram
    errors: int
    lost: int
    left: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run that took place.

    :param results: of all workers.
    :param interrupted: whether it was ended before its time.
    :param server_version: as far as the server tells; empty otherwise.
    :param began: UNIX time.
    """

    results: Results
    interrupted: bool
    server_version: str
    began: float


@dataclass(slots=True)
class _Member:
    # A worker process as the runner sees it.
    process: multiprocessing.process.BaseProcess
    pipe: Connection


def addresses_of(plan: Plan) -> list[Address]:
    """The servers' addresses, looked up once, so that names cost nothing later.

    Of a name with several addresses it is the first that accepts a connection.

    :raises BenchError: when a name is not known, or no server accepts a connection: the client would go on trying.
    """
    found: list[Address] = []
    accepted = False
    problem = ""
    for server in plan.target.servers:
        try:
            infos = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise BenchError(f"{server}: {error.strerror or error}") from error
        chosen: Address = (int(infos[0][0]), tuple(infos[0][4]))
        for family, kind, _, _, address in infos:
            with socket.socket(family, kind) as probe:
                probe.settimeout(plan.connect_timeout)
                try:
                    probe.connect(address)
                except OSError as error:
                    problem = f"{server}: {error.strerror or error}"
                else:
                    chosen = (int(family), tuple(address))
                    accepted = True
                    break
        found.append(chosen)
    if not accepted:
        raise BenchError(problem)
    return found


def _pipelined(calls: Iterable[Call[Any]], ignored: type[ZooKeeperError]) -> None:
    # Makes the requests as the iterator yields them, some hundred in flight.
    waiting: deque[Call[Any]] = deque()

    def settle() -> None:
        with contextlib.suppress(ignored):
            waiting.popleft().result(30)

    for call in calls:
        waiting.append(call)
        if len(waiting) >= _PIPELINED:
            settle()
    while waiting:
        settle()


class Run:
    """One run of a plan.

    :param plan: what to do.
    :param show: called about once a second with what happened in it.
    :param tell: called with a line for the user, for what takes a while besides the load.
    """

    def __init__(
        self,
        plan: Plan,
        show: Callable[[Tick], None] = lambda tick: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.plan = plan
        self.show = show
        self.tell = tell
        self._members: list[_Member] = []
        self._created: dict[int, tuple[int, int]] = {}

    def execute(self) -> Outcome:
        """Do it. A KeyboardInterrupt while there is load ends the load, and what was found so far is returned.

        :raises BenchError: when no server can be reached, or a worker fails.
        :raises KeyboardInterrupt: before there is load.
        """
        addresses = addresses_of(self.plan)
        servers = ",".join(str(server) for server in self.plan.target.servers)
        # without the chroot, which may not exist yet
        client = Client(servers, timeout=self.plan.session_timeout)
        try:
            client.start(self.plan.connect_timeout)
        except ZooKeeperError as error:
            raise BenchError(f"no session with {servers} within {self.plan.connect_timeout:g} s: {error}") from error
        try:
            version = _version_of(client)
            began = time.time()
            try:
                self._prepare(client)
                self._start(addresses)
                results, interrupted = self._rounds(client) if self.plan.watches else self._load()
            finally:
                self._end_workers()
                self._clean_up(client)
            return Outcome(results, interrupted, version, began)
        except ZooKeeperError as error:
            raise BenchError(f"{servers}: {error}") from error
        finally:
            client.stop()

    # ---- znodes

    def _prepare(self, client: Client) -> None:
        plan, root = self.plan, self.plan.root
        value = b"x" * plan.value_size
        client.ensure_path(root)
        if plan.watches:
            _pipelined([client.create_async(frames.watched_path(root), value)], NodeExistsError)
            return
        if plan.keys > 100_000:
            self.tell(f"making {plan.keys} znodes")
        stat = client.exists(root)
        paths = [frames.key_path(root, key, plan.keys) for key in range(plan.keys)]
        _pipelined((client.create_async(path, value) for path in paths), NodeExistsError)
        if stat is not None and stat.numChildren:
            # what is there from another run may have data of another size
            _pipelined((client.set_async(path, value) for path in paths), NoNodeError)
        if plan.mix.makes:
            names = (frames.connection_path(root, number) for number in range(plan.connections))
            _pipelined((client.create_async(name) for name in names), NodeExistsError)

    def _clean_up(self, client: Client) -> None:
        plan, root = self.plan, self.plan.root
        if plan.keep:
            return
        left = sum(end - first for first, end in self._created.values())
        if left > 100_000:
            self.tell(f"removing {left} znodes")
        try:
            # a server that is gone is noticed here, once, and not by each of many requests
            client.exists(root, timeout=_GONE_SECONDS)
            _pipelined((client.delete_async(path) for path in self._paths_made()), NoNodeError)
            client.delete(root)
        except ZooKeeperError as error:
            # the server may be gone, or others may have put something below
            self.tell(f"{root} was not removed: {error}")

    def _paths_made(self) -> Iterator[str]:
        plan, root = self.plan, self.plan.root
        if plan.watches:
            yield frames.watched_path(root)
            return
        for connection, (first, end) in self._created.items():
            for number in range(first, end):
                yield frames.made_path(root, connection, number)
        if plan.mix.makes:
            for connection in range(plan.connections):
                yield frames.pair_path(root, connection)
                yield frames.connection_path(root, connection)
        for key in range(plan.keys):
            yield frames.key_path(root, key, plan.keys)

    # ---- workers

    def _start(self, addresses: list[Address]) -> None:
        context = multiprocessing.get_context("spawn")
        for number in range(self.plan.processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=worker.run,
                args=(self.plan, number, addresses, theirs),
                name=f"fastzk-bench-{number}",
                daemon=True,
            )
            # Ctrl-C reaches every process of a terminal, also one that has not got so far as to ignore it; so it
            # inherits a mask. The tracker is started before, since its start would undo the mask.
            resource_tracker.ensure_running()
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
            self._members.append(_Member(process, ours))
        deadline = time.monotonic() + _START_SECONDS + self.plan.connect_timeout
        for member in self._members:
            answer = self._answer(member, deadline)
            if not isinstance(answer, worker.Connected):
                raise BenchError(f"a worker said {answer!r} instead of being connected")

    def _answer(self, member: _Member, deadline: float) -> worker.Answer:
        # The next answer of one worker.
        try:
            if not member.pipe.poll(max(0.0, deadline - time.monotonic())):
                raise BenchError(f"{member.process.name} does not answer")
            answer: worker.Answer = member.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            member.process.join(5)
            raise BenchError(f"{member.process.name} ended with exit code {member.process.exitcode}") from error
        if isinstance(answer, worker.Failed):
            raise BenchError(answer.why)
        return answer

    def _order(self, command: worker.Command) -> None:
        for member in self._members:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                member.pipe.send(command)

    def _end_workers(self) -> None:
        for member in self._members:
            member.pipe.close()  # which ends those that still run
        for member in self._members:
            member.process.join(10)
            if member.process.is_alive():
                member.process.kill()
                member.process.join()

    # ---- the mix

    def _load(self) -> tuple[Results, bool]:
        plan = self.plan
        start = time.monotonic_ns() + round(_LEAD * 1e9)
        measured_from = start + round(plan.warmup * 1e9)
        measured_to = measured_from + round(plan.duration * 1e9)
        self._order(worker.Go(start, measured_from, measured_to))
        done: dict[int, worker.Done] = {}
        interrupted = False
        deadline = measured_to / 1e9 + plan.drain + _REPORT_SECONDS
        seconds = _Seconds(len(self._members))
        while len(done) < len(self._members):
            try:
                waiting = {m.pipe: i for i, m in enumerate(self._members) if i not in done}
                ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise BenchError(f"{len(waiting)} of the workers do not report")
                for pipe in ready:
                    assert isinstance(pipe, Connection)
                    number = waiting[pipe]
                    answer = self._answer(self._members[number], deadline)
                    if isinstance(answer, worker.Done):
                        done[number] = answer
                        self._created |= answer.created
                    elif isinstance(answer, worker.Progress):
                        whole = seconds.add(number, answer)
                        if whole is not None:
                            self._show(whole, measured_from, measured_to)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                self._order(worker.Stop())
                deadline = time.monotonic() + _REPORT_SECONDS
        return Results.merged(each.results for each in done.values()), interrupted

    def _show(self, second: worker.Progress, measured_from: int, measured_to: int) -> None:
        now = time.monotonic_ns()
        phase = "warm-up" if now <= measured_from else "measuring" if now <= measured_to else "last answers"
        left = max(0.0, (measured_to - now) / 1e9)
        self.show(Tick(phase, second.answered, second.latency, second.errors, second.lost, left))

    # ---- the watch mode

    def _rounds(self, client: Client) -> tuple[Results, bool]:
        # One round: all sessions watch the znode, this process changes it, all are told.
        plan = self.plan
        total = Results(operations={name: Operation() for name in ("set", "event", "last event")})
        path, value = frames.watched_path(plan.root), b"x" * plan.value_size
        interrupted = False
        began = time.monotonic()
        measured_from = began + plan.warmup
        end = measured_from + plan.duration
        shown, tick, rounds = began, Operation(), 0
        try:
            while time.monotonic() < end:
                self._order(worker.Arm())
                deadline = time.monotonic() + plan.connect_timeout
                for member in self._members:
                    self._answer(member, deadline)
                changed = time.monotonic_ns()
                client.set(path, value, timeout=plan.drain)
                replied = time.monotonic_ns()
                measured = changed >= measured_from * 1e9
                last = 0
                deadline = time.monotonic() + plan.drain
                for member in self._members:
                    if not member.pipe.poll(max(0.0, deadline - time.monotonic())):
                        raise BenchError(f"not all events of a change came within {plan.drain:g} s (--drain)")
                    answer = self._answer(member, deadline)
                    assert isinstance(answer, worker.Arrived)
                    for came in array("Q", answer.times):
                        tick.latency.record(came - changed)
                        last = max(last, came)
                        if measured:
                            total.operations["event"].latency.record(came - changed)
                    if measured:
                        total.missed += answer.missed
                if measured:
                    total.rounds += 1
                    total.operations["set"].latency.record(replied - changed)
                    if last:
                        total.operations["last event"].latency.record(last - changed)
                rounds += 1
                now = time.monotonic()
                if now - shown >= 1:
                    rate = tick.latency.count / (now - shown)
                    phase = "measuring" if measured else "warm-up"
                    self.show(Tick(phase, rate, tick.latency, 0, 0, max(0.0, end - now)))
                    shown, tick = now, Operation()
        except KeyboardInterrupt:
            interrupted = True
        total.seconds = max(time.monotonic() - measured_from, 0.0)
        self._order(worker.Stop())
        deadline = time.monotonic() + _REPORT_SECONDS
        parts = []
        for member in self._members:
            answer = self._answer(member, deadline)
            while not isinstance(answer, worker.Done):
                answer = self._answer(member, deadline)
            # their own requests are how watches are set, which is not what is measured
            answer.results.operations.clear()
            parts.append(answer.results)
        for operation in total.operations.values():
            operation.sent = operation.answered = operation.finished = operation.latency.count
        return Results.merged([total, *parts]), interrupted


class _Seconds:
    # Puts the reports of the workers for the same second together.

    def __init__(self, workers: int) -> None:
        self._queues: list[deque[worker.Progress]] = [deque() for _ in range(workers)]

    def add(self, number: int, report: worker.Progress) -> worker.Progress | None:
        """The whole second, once all workers reported it."""
        self._queues[number].append(report)
        if not all(self._queues):
            return None
        parts = [queue.popleft() for queue in self._queues]
        latency = Histogram()
        for part in parts:
            latency.add(part.latency)
        return worker.Progress(
            sum(part.answered for part in parts),
            sum(part.errors for part in parts),
            sum(part.lost for part in parts),
            latency,
        )


def _version_of(client: Client) -> str:
    # Servers need not tell, and not every one is asked in the same way.
    try:
        return ".".join(str(part) for part in client.server_version())
    except (ZooKeeperError, OSError, ValueError):
        return ""
