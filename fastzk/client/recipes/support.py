# ruff: noqa: ASYNC109 -- kazoo's arguments have kazoo's names
"""What recipes are made of.

The logic of each recipe is written once, as coroutines in a *core* class, against the ``*_async`` methods of either
client. They await nothing but that client's requests, its ``pause`` and signals. Two thin classes give a core its
faces: one for threads, which waits for the coroutines, and one for asyncio, which awaits them.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from fastzk.client._channel import normal_path
from fastzk.client.operations import Operations
from fastzk.client.retry import RetryPolicy
from fastzk.client.signals import Signal
from fastzk.errors import ConnectionClosedError, OperationTimeoutError, ZooKeeperError

T = TypeVar("T")

#: Recipes try again for as long as their caller lets them.
FOREVER: Final = RetryPolicy(max_delay=2.0)


class LockTimeout(OperationTimeoutError):
    """A lock or semaphore was not to be had in time; this contender has left the line."""

    what = "not acquired in time"


class AcquireCancelled(ZooKeeperError):
    """Another thread or task called ``cancel``."""

    what = "the acquisition was cancelled"


def new_identifier() -> str:
    """A name no other contender has."""
    return uuid.uuid4().hex


class Recipe:
    """A recipe at a path.

    :param client: the client that makes the requests.
    :param path: the znode whose children are the recipe's.
    """

    def __init__(self, client: Operations, path: str) -> None:
        self.client = client
        self.path = normal_path(path)

    def _below(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path != "/" else f"/{name}"

    async def _quietly(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        with contextlib.suppress(ZooKeeperError):
            await coroutine

    def _detach(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Let a coroutine clean up by itself: the one that calls this may not wait any more."""
        quiet = self._quietly(coroutine)
        try:
            self.client.compose(quiet)
        except ZooKeeperError:  # the client is closed
            quiet.close()
            coroutine.close()


class SyncFace:
    """For threads."""

    client: Operations

    def _wait(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine of the core to its end. An interrupt of the thread ends the coroutine, too."""
        call = self.client.compose(coroutine, timeout)
        try:
            result: T = call.result()
        except BaseException:
            call.cancel()
            raise
        return result


async def within(client: Operations, coroutine: Coroutine[Any, Any, T], timeout: float | None) -> T:
    """In a coroutine: another one, for so many seconds at most.

    :raises OperationTimeoutError: when they are over; the other one has ended then.
    """
    if timeout is None:
        return await coroutine
    result: T = await client.compose(coroutine, timeout)
    return result


async def together(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """The results of requests that were made at once; the first error, if one failed."""
    results: list[Any] = []
    problem: ZooKeeperError | None = None
    for call in calls:
        try:
            results.append(await call)
        except ZooKeeperError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return results


class Deadline:
    """A moment, from now on."""

    __slots__ = ("_until",)

    def __init__(self, seconds: float | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """Seconds until then, not below 0; None: there is no such moment."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())


class Turnstile:
    """One at a time, in the order of arrival, among the threads or tasks that share an object."""

    def __init__(self, client: Operations) -> None:
        self._client = client
        self._mutex = threading.Lock()
        self._taken = False
        self._line: deque[Signal] = deque()

    async def enter(self, blocking: bool, timeout: float | None) -> bool:
        """Whether it is this one's turn now; who got it must ``leave`` later."""
        signal = Signal(self._client)
        with self._mutex:
            if not self._taken:
                self._taken = True
                return True
            if not blocking:
                return False
            self._line.append(signal)
        try:
            await signal.wait(timeout)
            if not self._client._session.live:
                raise self._client._session.refusal()
        except BaseException:
            if not self._withdraw(signal):
                self.leave()
            raise
        if not self._withdraw(signal):
            return True
        if signal.is_set:  # not by who left: the client was stopped, and has been started again meanwhile
            raise ConnectionClosedError()
        return False

    def _withdraw(self, signal: Signal) -> bool:
        """Whether it was still in the line: who is not has been given the turn."""
        with self._mutex:
            if signal in self._line:
                self._line.remove(signal)
                return True
        return False

    def leave(self) -> None:
        """The turn is the next one's."""
        with self._mutex:
            if not self._line:
                self._taken = False
                return
            signal = self._line.popleft()
        signal.set()


class Holding:
    """Whether something that depends on the session is held, and what it is told when the session ends.

    :param on_lost: called without arguments, once, where the program's callbacks run; may be a coroutine function
        with an AsyncClient.
    """

    def __init__(self, client: Operations, on_lost: Callable[[], object] | None) -> None:
        self._holding_client = client
        self.on_lost = on_lost
        #: Whether it is held, as far as this client knows.
        self.is_acquired = False
        #: It was held when the session ended, and is not any more. Stays True until it is released or acquired.
        self.lost = False
        #: The creation zxid of the znode that stands for it: greater for each later holder. None when it is not held.
        self.fencing_token: int | None = None
        self._tenure: Tenure | None = None
        # The session ends in one thread while another one releases.
        self._changing = threading.Lock()

    def _begin_tenure(self) -> Tenure:
        tenure = Tenure(self)
        self._holding_client.at_session_end(tenure.end)
        return tenure

    def _end_tenure(self, tenure: Tenure | None) -> None:
        if tenure is not None:
            self._holding_client.forget_session_end(tenure.end)

    def _hold(self, tenure: Tenure | None, token: int) -> bool:
        """It is held from now on; False when the session has ended meanwhile.

        :param tenure: None for what outlives the session.
        """
        with self._changing:
            self.lost = False
            self.fencing_token = token
            self._tenure = tenure
            self.is_acquired = True
        if tenure is not None and tenure.over:
            self._let_go()
            return False
        return True

    def _let_go(self) -> tuple[bool, bool]:
        """Neither held nor lost from now on; whether it was held, and whether it was lost."""
        with self._changing:
            held, lost, tenure = self.is_acquired, self.lost, self._tenure
            self.is_acquired = self.lost = False
            self.fencing_token = None
            self._tenure = None
        self._end_tenure(tenure)
        return held, lost

    def _session_over(self, tenure: Tenure) -> None:
        with self._changing:
            if self._tenure is not tenure:
                return
            self.is_acquired, self.lost = False, True
            self.fencing_token = None
            self._tenure = None
        if self.on_lost is not None:
            self._holding_client.tell(self.on_lost)


class Tenure:
    """The part of one session in which something is held, or about to be."""

    __slots__ = ("_holding", "over")

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self.over = False

    def end(self) -> None:
        """The session is over."""
        self.over = True
        self._holding._session_over(self)
