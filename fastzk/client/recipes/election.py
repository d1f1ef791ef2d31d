"""Elections: who holds the lock leads."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fastzk.client.operations import Operations
from fastzk.client.recipes.locks import AsyncLock, Lock, LockCore
from fastzk.client.recipes.support import AcquireCancelled


class ElectionCore:
    """See :class:`Election`."""

    lock: LockCore

    @property
    def fencing_token(self) -> int | None:
        """While this one leads: greater than that of every leader before."""
        return self.lock.fencing_token

    @property
    def lost(self) -> bool:
        """Whether the leadership ended with the session, though the leader's function still runs."""
        return self.lock.lost

    def cancel(self) -> None:
        """Stand back from the election; a leader's function that runs is not ended."""
        self.lock.cancel()


class Election(ElectionCore):
    """One leader at a time.

    :param identifier: what ``contenders`` shows for this one.
    :param on_lost: called without arguments when the session ends while this one leads: another one may, now.
    """

    lock: Lock

    def __init__(
        self,
        client: Operations,
        path: str,
        identifier: object = None,
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> None:
        self.lock = Lock(client, path, identifier, on_lost=on_lost)

    def run(self, func: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Wait to be elected, then call ``func``; returns when that has returned, or after ``cancel``.

        :raises ValueError: when it cannot be called.
        """
        if not callable(func):
            raise ValueError("what a leader does is a function")
        try:
            self.lock.acquire()
        except AcquireCancelled:
            return
        try:
            func(*args, **kwargs)
        finally:
            self.lock.release()

    def contenders(self) -> list[str]:
        """The identifiers of all candidates, the leader first."""
        return self.lock.contenders()


class AsyncElection(ElectionCore):
    """:class:`Election` for asyncio."""

    lock: AsyncLock

    def __init__(
        self,
        client: Operations,
        path: str,
        identifier: object = None,
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> None:
        self.lock = AsyncLock(client, path, identifier, on_lost=on_lost)

    async def run(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """See :meth:`Election.run`; ``func`` may be a coroutine function."""
        if not callable(func):
            raise ValueError("what a leader does is a function")
        try:
            await self.lock.acquire()
        except AcquireCancelled:
            return
        try:
            result = func(*args, **kwargs)
            if inspect.isawaitable(result):
                await result
        finally:
            await self.lock.release()

    async def contenders(self) -> list[str]:
        """See :meth:`Election.contenders`."""
        return await self.lock.contenders()
