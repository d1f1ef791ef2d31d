# ruff: noqa: ASYNC109 -- kazoo's arguments have kazoo's names
"""Barriers: processes wait until others let them go on, or until enough of them have come."""

from __future__ import annotations

import contextlib
import os
import socket
from types import TracebackType
from typing import Self

from fastzk.client.operations import Operations
from fastzk.client.recipes.support import (
    FOREVER,
    Recipe,
    SyncFace,
    new_identifier,
    together,
    within,
)
from fastzk.client.signals import Signal
from fastzk.errors import (
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    OperationTimeoutError,
    ZooKeeperError,
)


class BarrierCore(Recipe):
    """See :class:`Barrier`."""

    async def _create(self) -> None:
        await self.client.retried(self.client.ensure_path_async, self.path)

    async def _remove(self) -> bool:
        try:
            await self.client.retried(self.client.delete_async, self.path)
        except NoNodeError:
            return False
        return True

    async def _wait_for_end(self) -> bool:
        client = self.client
        signal = Signal(client)
        while await client.retried(client.exists_async, self.path, signal) is not None:
            try:
                await signal.wait()
            finally:
                client._session.watches.forget(self.path, signal)
            signal.clear()
        client._session.watches.forget(self.path, signal)
        return True

    async def _cleared(self, timeout: float | None) -> bool:
        if timeout is not None and timeout <= 0:
            return await self.client.retried(self.client.exists_async, self.path) is None
        try:
            return await within(self.client, self._wait_for_end(), timeout)
        except OperationTimeoutError:
            return False


class Barrier(BarrierCore, SyncFace):
    """Closed while its znode exists."""

    def create(self) -> None:
        """Close it."""
        self._wait(self._create())

    def remove(self) -> bool:
        """Open it; False when it was open."""
        return self._wait(self._remove())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is open, at most ``timeout`` seconds; whether it is."""
        return self._wait(self._cleared(timeout))


class AsyncBarrier(BarrierCore):
    """:class:`Barrier` for asyncio."""

    async def create(self) -> None:
        """Close it."""
        await self._create()

    async def remove(self) -> bool:
        """Open it; False when it was open."""
        return await self._remove()

    async def wait(self, timeout: float | None = None) -> bool:
        """See :meth:`Barrier.wait`."""
        return await self._cleared(timeout)


class DoubleBarrierCore(Recipe):
    """See :class:`DoubleBarrier`."""

    def __init__(self, client: Operations, path: str, num_clients: int, identifier: str | None = None) -> None:
        super().__init__(client, path)
        self.num_clients = num_clients
        self._data = (identifier or f"{socket.getfqdn()}-{os.getpid()}").encode()
        #: Whether this one is between ``enter`` and ``leave``.
        self.participating = False
        self.node_name = new_identifier()
        self.create_path = self._below(self.node_name)
        self._ready = self._below("ready")

    async def _enter(self, timeout: float | None) -> bool:
        try:
            await within(self.client, self._until_all_are_in(), timeout)
        except OperationTimeoutError:
            self._detach(self._take_away())
            raise
        except ZooKeeperError as error:
            # As with kazoo the caller looks at `participating`.
            self.client.logger.warning("a barrier could not be entered path=%s: %s", self.path, error)
            await self._quietly(self._take_away())
            self.participating = False
        except BaseException:
            self._detach(self._take_away())
            raise
        else:
            self.participating = True
        return self.participating

    async def _until_all_are_in(self) -> None:
        client = self.client
        signal = Signal(client)
        retries = FOREVER.begin(True)
        try:
            while True:
                signal.clear()
                try:
                    with contextlib.suppress(NodeExistsError):
                        await client.create_async(self.create_path, self._data, None, True, makepath=True)
                    ready, names = await together(
                        (client.exists_async(self._ready, signal), client.get_children_async(self.path))
                    )
                    if ready is not None:
                        return
                    if len(names) >= self.num_clients:
                        await client.ensure_path_async(self._ready)
                        return
                    await signal.wait()
                except ZooKeeperError as error:
                    if not retries.again(error):
                        raise
                    await client.pause(retries.delay(error))
        finally:
            client._session.watches.forget(self._ready, signal)

    async def _leave(self, timeout: float | None) -> None:
        try:
            await within(self.client, self._until_all_are_out(), timeout)
        except OperationTimeoutError:
            self._detach(self._take_away())
            raise
        except ZooKeeperError as error:
            self.client.logger.warning("a barrier could not be left in order path=%s: %s", self.path, error)
            await self._quietly(self._take_away())
        except BaseException:
            self._detach(self._take_away())
            raise
        finally:
            self.participating = False

    async def _until_all_are_out(self) -> None:
        client = self.client
        with contextlib.suppress(NoNodeError, NotEmptyError):
            await client.retried(client.delete_async, self._ready)
        while True:
            try:
                names = sorted(await client.retried(client.get_children_async, self.path))
            except NoNodeError:
                return
            names = [name for name in names if name != "ready"]
            if not names:
                return
            if names == [self.node_name]:
                await self._take_away()
                return
            # The first waits for the last to go, everybody else goes and waits for the first.
            awaited = names[0]
            if awaited == self.node_name:
                awaited = names[-1]
            elif self.node_name in names:
                await self._take_away()
            await self._until_gone(self._below(awaited))

    async def _until_gone(self, path: str) -> None:
        client = self.client
        signal = Signal(client)
        try:
            if await client.retried(client.exists_async, path, signal) is not None:
                await signal.wait()
        finally:
            client._session.watches.forget(path, signal)

    async def _take_away(self) -> None:
        with contextlib.suppress(NoNodeError):
            await self.client.retried(self.client.delete_async, self.create_path)


class DoubleBarrier(DoubleBarrierCore, SyncFace):
    """Work that a number of processes begin together and end together.

    :param num_clients: how many.
    :param identifier: the data of this one's znode; host name and process id where it is None.
    """

    def enter(self, timeout: float | None = None) -> bool:
        """Wait until all are there; whether that worked. If not, ``participating`` is False and the log says why.

        :raises OperationTimeoutError: when it took longer than ``timeout`` seconds.
        """
        return self._wait(self._enter(timeout))

    def leave(self, timeout: float | None = None) -> None:
        """Wait until all are done.

        :raises OperationTimeoutError: when it took longer than ``timeout`` seconds; this one has left then.
        """
        self._wait(self._leave(timeout))

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class AsyncDoubleBarrier(DoubleBarrierCore):
    """:class:`DoubleBarrier` for asyncio."""

    async def enter(self, timeout: float | None = None) -> bool:
        """See :meth:`DoubleBarrier.enter`."""
        return await self._enter(timeout)

    async def leave(self, timeout: float | None = None) -> None:
        """See :meth:`DoubleBarrier.leave`."""
        await self._leave(timeout)

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()
