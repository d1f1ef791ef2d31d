"""Limits for kazoo's tests where they have none, so that what goes wrong there is a failure with a reason.

Many of kazoo's tests have threads that wait for ever for an event of the test, and join them when it is over. When
such a test fails, for whatever reason, nobody sets the event: the run hangs and does not even say what failed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

#: Seconds that nothing in kazoo's tests takes, on a busy machine either.
LIMIT = 60.0


class Late(AssertionError):
    """Nothing came of a wait without a limit, or of one with a long limit that would begin again."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} for {LIMIT:.0f} s")


class Event(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        if super().wait(LIMIT if timeout is None else timeout):
            return True
        if timeout is None:
            raise Late("an event was not set")
        return False


class Condition(threading.Condition):
    def wait(self, timeout: float | None = None) -> bool:
        if super().wait(LIMIT if timeout is None else timeout):
            return True
        # The election's test waits for a leader in a loop, 45 s at a time.
        if timeout is None or timeout > 30:
            raise Late("nobody told of a change")
        return False


class Thread(threading.Thread):
    def join(self, timeout: float | None = None) -> None:
        super().join(LIMIT if timeout is None else timeout)
        if timeout is None and self.is_alive():
            raise Late(f"{self.name} did not end")


class Barrier:
    """In the place of ``SleepBarrier``.

    kazoo's counts who is there at the moment: a thread that looks only after the first has gone through, and left,
    waits for ever. With a client as fast as ours that is a hundredth of a second later.
    """

    def __init__(self, wait_for: int, _: Callable[[float], None]) -> None:
        self._barrier = threading.Barrier(wait_for, timeout=LIMIT)

    def __enter__(self) -> Barrier:
        return self

    def __exit__(self, *_: object) -> None:
        """Who has gone through counts as having been there."""

    def wait(self) -> None:
        self._barrier.wait()


def limit(module: ModuleType) -> None:
    """Give a module of kazoo's tests these instead of those without a limit."""
    name = module.__name__.rpartition(".")[2]
    tests: Any = module
    if name == "test_lock":
        tests.SleepBarrier = Barrier
        for case in (tests.KazooLockTests, tests.TestSemaphore):
            case.make_event = staticmethod(Event)
            case.make_condition = staticmethod(Condition)
            case.make_thread = _make_thread
    elif name == "test_election":
        tests.threading = SimpleNamespace(Thread=Thread, Condition=Condition, Event=Event)


def _make_thread(case: Any, *args: Any, **options: Any) -> Thread:
    thread = Thread(*args, daemon=True, **options)
    case.threads_made.append(thread)
    return thread
