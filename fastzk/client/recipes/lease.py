# ruff: noqa: PLR0917 -- kazoo's arguments have kazoo's names and order
"""Leases: held for a time by the clocks of the clients, whatever becomes of their sessions.

As in kazoo: the holder and the end are JSON in ``<path>/lease_holder``, and the lock at ``path`` guards it.
"""

from __future__ import annotations

import datetime
import json
import socket
from collections.abc import Callable, Generator
from typing import Any, ClassVar, Self

from fastzk.client.operations import Operations, TransactionRequest
from fastzk.client.recipes.locks import LockCore
from fastzk.client.recipes.support import FOREVER, AcquireCancelled, Recipe, SyncFace
from fastzk.errors import NodeExistsError, NoNodeError, ZooKeeperError


def utcnow() -> datetime.datetime:
    """The time in UTC, without a zone: as the leases have it."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class LeaseCore(Recipe):
    """See :class:`NonBlockingLease`."""

    #: Of the format; who finds another leaves the lease alone.
    _version: ClassVar[int] = 1
    _FORMAT: ClassVar[str] = "%Y-%m-%dT%H:%M:%S"

    def __init__(
        self,
        client: Operations,
        path: str,
        duration: datetime.timedelta,
        identifier: str | None = None,
        utcnow: Callable[[], datetime.datetime] = utcnow,
    ) -> None:
        super().__init__(client, path)
        #: Whether this one got the lease.
        self.obtained = False
        #: The creation zxid of the znode with the lease: greater for each later one, renewals among them.
        self.fencing_token: int | None = None
        self._holder = self._below("lease_holder")
        self._duration = duration
        self._identifier = identifier or socket.gethostname()
        self._utcnow = utcnow

    def __bool__(self) -> bool:
        return self.obtained

    async def _obtain(self) -> None:
        client = self.client
        lock = LockCore(client, self.path, self._identifier)
        try:
            await lock._acquire(True, None, True)
        except AcquireCancelled:
            return
        try:
            retries = FOREVER.begin(True)
            while lock.is_acquired:
                try:
                    await self._obtain_locked()
                    return
                except ZooKeeperError as error:
                    if not retries.again(error):
                        raise
                    await client.pause(retries.delay(error))
        except BaseException as error:
            if not isinstance(error, Exception):
                self._detach(lock._release())
            raise
        finally:
            if lock.is_acquired or lock.lost:
                await lock._release()

    async def _obtain_locked(self) -> None:
        client = self.client
        now = self._utcnow()
        transaction = TransactionRequest(client)
        try:
            raw, stat = await client.get_async(self._holder)
        except NoNodeError:
            pass
        else:
            found = json.loads(raw)
            if found["version"] != self._version:
                return
            end = datetime.datetime.strptime(found["end"], self._FORMAT)
            if found["holder"] != self._identifier and now < end:
                return
            transaction.delete(self._holder, stat.version)
        lease = {
            "version": self._version,
            "holder": self._identifier,
            "end": (now + self._duration).strftime(self._FORMAT),
        }
        transaction.create(self._holder, json.dumps(lease).encode())
        problem = transaction.first_failure(await transaction.commit_async())
        if problem is not None:
            if isinstance(problem, NodeExistsError | NoNodeError):
                return  # somebody got it without the lock
            raise problem
        created = await client.exists_async(self._holder)
        self.fencing_token = None if created is None else created.czxid
        self.obtained = True


class NonBlockingLease(LeaseCore, SyncFace):
    """A lease, obtained or not: ``if client.NonBlockingLease(path, duration): ...``

    :param duration: how long it is this one's.
    :param identifier: who holds it, the host name where it is None; the same one may renew it.
    :param utcnow: the clock.
    """

    def __init__(
        self,
        client: Operations,
        path: str,
        duration: datetime.timedelta,
        identifier: str | None = None,
        utcnow: Callable[[], datetime.datetime] = utcnow,
    ) -> None:
        super().__init__(client, path, duration, identifier, utcnow)
        self._wait(self._obtain())


class AsyncNonBlockingLease(LeaseCore):
    """:class:`NonBlockingLease` for asyncio: ``if await client.NonBlockingLease(path, duration): ...``"""

    def __await__(self) -> Generator[Any, None, Self]:
        yield from self._obtain().__await__()
        return self


class _MultiLease:
    """See :class:`MultiNonBlockingLease`."""

    def __init__(self) -> None:
        #: Whether this one got one of the leases.
        self.obtained = False
        #: The one it got.
        self.lease: LeaseCore | None = None

    def __bool__(self) -> bool:
        return self.obtained

    @property
    def fencing_token(self) -> int | None:
        """See :class:`NonBlockingLease`; each of the leases has tokens of its own."""
        return None if self.lease is None else self.lease.fencing_token


class MultiNonBlockingLease(_MultiLease):
    """One of ``count`` leases, obtained or not.

    :param count: how many there are, as ``<path>/0``, ``<path>/1``, ...
    """

    def __init__(
        self,
        client: Operations,
        count: int,
        path: str,
        duration: datetime.timedelta,
        identifier: str | None = None,
        utcnow: Callable[[], datetime.datetime] = utcnow,
    ) -> None:
        super().__init__()
        for number in range(count):
            lease = NonBlockingLease(client, f"{path}/{number}", duration, identifier, utcnow)
            if lease:
                self.obtained, self.lease = True, lease
                break


class AsyncMultiNonBlockingLease(_MultiLease):
    """:class:`MultiNonBlockingLease` for asyncio; await it."""

    def __init__(
        self,
        client: Operations,
        count: int,
        path: str,
        duration: datetime.timedelta,
        identifier: str | None = None,
        utcnow: Callable[[], datetime.datetime] = utcnow,
    ) -> None:
        super().__init__()
        self._leases = (
            AsyncNonBlockingLease(client, f"{path}/{number}", duration, identifier, utcnow) for number in range(count)
        )

    async def _obtain(self) -> None:
        for lease in self._leases:
            if await lease:
                self.obtained, self.lease = True, lease
                break

    def __await__(self) -> Generator[Any, None, Self]:
        yield from self._obtain().__await__()
        return self
