# ruff: noqa: ASYNC109 -- kazoo's arguments have kazoo's names
"""A semaphore: at most so many holders at once.

As in kazoo, the znode's data are the number of leases, each child is a holder, and who wants to become one takes the
lock ``<path>-__lock__`` first; so only one contender at a time looks at the children.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

from fastzk.client.operations import Operations
from fastzk.client.recipes.locks import LockCore
from fastzk.client.recipes.support import (
    FOREVER,
    AcquireCancelled,
    Holding,
    LockTimeout,
    Recipe,
    SyncFace,
    Tenure,
    new_identifier,
    together,
    within,
)
from fastzk.client.signals import Signal
from fastzk.errors import NodeExistsError, NoNodeError, OperationTimeoutError, ZooKeeperError


class SemaphoreCore(Recipe, Holding):
    """See :class:`Semaphore`."""

    def __init__(
        self,
        client: Operations,
        path: str,
        identifier: object = None,
        max_leases: int = 1,
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> None:
        Recipe.__init__(self, client, path)
        Holding.__init__(self, client, on_lost)
        self.data = str(identifier or "").encode()
        self.max_leases = max_leases
        #: The znode of this holder.
        self.create_path = self._below(new_identifier())
        self.lock_path = path + "-__lock__"
        self.cancelled = False
        self._signal = Signal(client)
        self._lock: LockCore | None = None

    def cancel(self) -> None:
        """Have the acquisition that waits fail with AcquireCancelled."""
        self.cancelled = True
        self._signal.set()
        lock = self._lock
        if lock is not None and not lock.is_acquired:
            lock.cancel()

    async def _acquire(self, blocking: bool, timeout: float | None) -> bool:
        self.cancelled = False
        try:
            return await within(self.client, self._try(blocking), timeout)
        except OperationTimeoutError:
            raise LockTimeout(self.path) from None

    async def _try(self, blocking: bool) -> bool:
        retries = FOREVER.begin(True)
        tenure: Tenure | None = None
        gotten = False
        try:
            while True:
                if tenure is None or tenure.over:
                    tenure = self._begin_tenure()
                try:
                    await self._compare_leases()
                    gotten = await self._contend(tenure, blocking)
                    if gotten or not blocking:
                        return gotten
                except ZooKeeperError as error:
                    if not retries.again(error):
                        raise
                    await self.client.pause(retries.delay(error))
        except Exception:
            await self._quietly(self._give_back())
            raise
        except BaseException:
            self._detach(self._give_back())
            raise
        finally:
            if not gotten:
                self._end_tenure(tenure)

    async def _compare_leases(self) -> None:
        """See that the znode is there, and says what this one says.

        :raises ValueError: when it says another number of leases.
        """
        client = self.client
        try:
            data, _ = await client.get_async(self.path)
        except NoNodeError:
            with contextlib.suppress(NodeExistsError):
                await client.create_async(self.path, str(self.max_leases).encode(), makepath=True)
                return
            data, _ = await client.get_async(self.path)
        try:
            leases = int(data or b"")
        except ValueError:
            return  # the data serve another purpose
        if leases != self.max_leases:
            raise ValueError(f"{self.path} has {leases} leases, not {self.max_leases}")

    async def _contend(self, tenure: Tenure, blocking: bool) -> bool:
        own = await self._own()
        if own is not None:
            return self._hold(tenure, own)
        lock = self._lock = LockCore(self.client, self.lock_path, self.data.decode())
        try:
            if self.cancelled:  # before there was a lock to cancel
                raise AcquireCancelled(self.path)
            if not await lock._acquire(blocking, None, True):
                return False
            return await self._wait_for_lease(lock, tenure, blocking)
        except BaseException as error:
            if not isinstance(error, Exception):
                self._detach(lock._release())
            raise
        finally:
            self._lock = None
            if lock.is_acquired or lock.lost:
                await self._quietly(lock._release())

    async def _wait_for_lease(self, lock: LockCore, tenure: Tenure, blocking: bool) -> bool:
        client, signal = self.client, self._signal
        while lock.is_acquired and not tenure.over:
            signal.clear()
            if self.cancelled:
                raise AcquireCancelled(self.path)
            holders = await client.get_children_async(self.path, signal)
            try:
                if len(holders) < self.max_leases:
                    with contextlib.suppress(NodeExistsError):
                        await client.create_async(self.create_path, self.data, ephemeral=True)
                    own = await self._own()
                    if own is not None:
                        return self._hold(tenure, own)
                if not blocking:
                    return False
                await signal.wait()
            finally:
                client._session.watches.forget(self.path, signal)
        return False

    async def _own(self) -> int | None:
        """The token of this one's znode; None when there is none, or it is a dead session's."""
        stat = await self.client.exists_async(self.create_path)
        identity = self.client.client_id
        if stat is None or identity is None or stat.ephemeralOwner != identity[0]:
            return None
        return int(stat.czxid)

    async def _give_back(self) -> None:
        with contextlib.suppress(NoNodeError):
            await self.client.retried(self.client.delete_async, self.create_path)

    async def _release(self) -> bool:
        held, _ = self._let_go()
        if held:
            try:
                await self._give_back()
            except BaseException as error:
                if not isinstance(error, Exception):
                    self._detach(self._give_back())
                raise
        return held

    async def _lease_holders(self) -> list[str]:
        client = self.client
        try:
            names = await client.retried(client.get_children_async, self.path)
        except NoNodeError:
            return []
        holders: list[str] = []
        for call in [client.get_async(self._below(name)) for name in names]:
            with contextlib.suppress(NoNodeError):
                ((data, _),) = await together((call,))
                holders.append((data or b"").decode())
        return holders


class Semaphore(SemaphoreCore, SyncFace):
    """At most ``max_leases`` holders at once, in any process.

    When the session ends the lease is lost, as with :class:`~fastzk.client.recipes.locks.Lock`.

    :param identifier: what ``lease_holders`` shows for this one.
    :param max_leases: the same for all; the first one writes it into the znode.
    :param on_lost: called without arguments when the session ends while a lease is held.
    """

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Get a lease; at once where this object has one.

        :raises ValueError: when the znode says another ``max_leases``.
        :raises LockTimeout: when there was none for ``timeout`` seconds.
        :raises AcquireCancelled: when ``cancel`` was called.
        """
        return self._wait(self._acquire(blocking, timeout))

    def release(self) -> bool:
        """Give it back; False when there was none."""
        return self._wait(self._release())

    def lease_holders(self) -> list[str]:
        """The identifiers of the holders, in no particular order."""
        return self._wait(self._lease_holders())

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class AsyncSemaphore(SemaphoreCore):
    """:class:`Semaphore` for asyncio."""

    async def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """See :meth:`Semaphore.acquire`."""
        return await self._acquire(blocking, timeout)

    async def release(self) -> bool:
        """See :meth:`Semaphore.release`."""
        return await self._release()

    async def lease_holders(self) -> list[str]:
        """See :meth:`Semaphore.lease_holders`."""
        return await self._lease_holders()

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()
