# ruff: noqa: ASYNC109, PLR0917 -- kazoo's arguments have kazoo's names and order
"""A set divided among the members of a party, each item to one of them, as in kazoo.

Layout: the members are a shallow party at ``<path>/party``, the items locks at ``<path>/locks/<item>``.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol, Self

from fastzk.client.operations import Operations
from fastzk.client.recipes.locks import LockCore
from fastzk.client.recipes.party import ShallowPartyCore
from fastzk.client.recipes.patient import PatientChildrenWatch
from fastzk.client.recipes.support import LockTimeout, Recipe, SyncFace
from fastzk.client.signals import Signal
from fastzk.client.states import State
from fastzk.errors import ZooKeeperError


class PartitionState:
    """What a partitioner is about."""

    #: The set is being divided.
    ALLOCATING: Final = "ALLOCATING"
    #: This one's part is its own.
    ACQUIRED: Final = "ACQUIRED"
    #: The members changed, or the connection broke: finish the work and call ``release_set``.
    RELEASE: Final = "RELEASE"
    #: The session is over, or ``finish`` was called: make another partitioner.
    FAILURE: Final = "FAILURE"


class Event(Protocol):
    """What is set at each change of state: a threading.Event, an asyncio.Event or the like."""

    def set(self) -> object: ...


class PartitionerCore(Recipe):
    """See :class:`SetPartitioner`."""

    def __init__(
        self,
        client: Operations,
        path: str,
        set: Iterable[Any],
        partition_func: Callable[[str, list[str], Iterable[Any]], Sequence[Any]] | None = None,
        identifier: str | None = None,
        time_boundary: float = 30,
        max_reaction_time: float = 1,
        state_change_event: Event | None = None,
    ) -> None:
        super().__init__(client, path)
        #: One of PartitionState.
        self.state: str = PartitionState.ALLOCATING
        #: Grows with each change of state.
        self.state_id = 0
        self.state_change_event: Any = state_change_event or threading.Event()
        self._set = set
        self._part: list[Any] = []
        self._divide = partition_func or divide
        self._identifier = identifier or f"{socket.getfqdn()}-{os.getpid()}"
        self._max_reaction_time = max_reaction_time
        self._locks: list[LockCore] = []
        self._party = ShallowPartyCore(client, self._below("party"), self._identifier)
        self._members = PatientChildrenWatch(client, self._below("party"), time_boundary)
        self._acquired = Signal(client)
        self._allocation: Any = None
        self._mutex = threading.RLock()

    def __iter__(self) -> Iterator[Any]:
        """This one's part of the set."""
        return iter(list(self._part))

    @property
    def failed(self) -> bool:
        """Whether the state is FAILURE."""
        return self.state == PartitionState.FAILURE

    @property
    def release(self) -> bool:
        """Whether the state is RELEASE."""
        return self.state == PartitionState.RELEASE

    @property
    def allocating(self) -> bool:
        """Whether the state is ALLOCATING."""
        return self.state == PartitionState.ALLOCATING

    @property
    def acquired(self) -> bool:
        """Whether the state is ACQUIRED."""
        return self.state == PartitionState.ACQUIRED

    def _change(self, state: str, only_from: tuple[str, ...] = ()) -> bool:
        with self._mutex:
            if self.failed or (only_from and self.state not in only_from):
                return False
            self.state = state
            self.state_id += 1
        self.state_change_event.set()
        return True

    # ---- life

    async def _begin(self) -> None:
        for path in (self.path, self._below("locks"), self._below("party")):
            await self.client.retried(self.client.ensure_path_async, path)
        await self._party._join()
        self.client.add_listener(self._on_state)
        self._allocation = self.client.compose(self._quietly(self._allocate()))

    def _on_state(self, state: State) -> bool:
        if state == State.LOST:
            self._fail_out()
            return True
        self._change(PartitionState.RELEASE, (PartitionState.ALLOCATING, PartitionState.ACQUIRED))
        return self.failed

    def _fail_out(self) -> None:
        """The end, without waiting for the server."""
        if not self._change(PartitionState.FAILURE):
            return
        self._stop_allocation()
        self.client.remove_listener(self._on_state)
        if self._party.participating:
            self._party.participating = False
            self._detach(self._party._leave())

    def _stop_allocation(self) -> None:
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            allocation.cancel()

    async def _release_set(self) -> None:
        self._stop_allocation()
        await self._release_locks()
        if self._change(PartitionState.ALLOCATING):
            self._allocation = self.client.compose(self._quietly(self._allocate()))

    async def _finish(self) -> None:
        self._stop_allocation()
        await self._quietly(self._release_locks())
        if self._party.participating:
            await self._quietly(self._party._leave())
        self._fail_out()

    async def _release_locks(self) -> None:
        self._acquired.clear()
        self._part = []
        while self._locks:
            await self._locks.pop()._release()

    # ---- allocation

    async def _allocate(self) -> None:
        """From ALLOCATING to ACQUIRED, and on to RELEASE when the members change."""
        while self.allocating:
            _, changed = await self._members._settled()
            state_id = self.state_id
            if not self.allocating:
                return
            part = list(self._divide(self._identifier, await self._party._members(), self._set))
            if not await self._lock_all(part, changed) or changed.is_set:
                await self._release_locks()
                continue
            with self._mutex:
                if not self.allocating or self.state_id != state_id:
                    return  # release_set gives the locks back
                self._part = part
                self._change(PartitionState.ACQUIRED)
            self._acquired.set()
            await changed.wait()
            self._change(PartitionState.RELEASE, (PartitionState.ACQUIRED,))

    async def _lock_all(self, part: list[Any], changed: Signal) -> bool:
        for item in part:
            lock = LockCore(self.client, f"{self._below('locks')}/{item}")
            gotten = False
            while not gotten:
                if changed.is_set or not self.allocating:
                    return False
                try:
                    # Another member may wait for this one to let go of what it has: look around now and then.
                    gotten = await lock._acquire(True, self._max_reaction_time, True)
                except LockTimeout:
                    continue
                except ZooKeeperError:
                    self._fail_out()
                    raise
            self._locks.append(lock)
        return not changed.is_set


def divide(identifier: str, members: list[str], items: Iterable[Any]) -> list[Any]:
    """The part of a member: every n-th item."""
    workers = sorted(members)
    return sorted(items)[workers.index(identifier) :: len(workers)]


class SetPartitioner(PartitionerCore, SyncFace):
    """A part of a set for this process alone, as long as the members stay the same.

        partitioner = client.SetPartitioner("/work", set=("a", "b", "c"))
        while not partitioner.failed:
            if partitioner.release:
                partitioner.release_set()
            elif partitioner.acquired:
                for item in partitioner: ...
            else:
                partitioner.wait_for_acquire()

    :param set: the items; the same for all.
    :param partition_func: ``(identifier, members, items)`` to the part of ``identifier``.
    :param identifier: a name no other member has; host name and process id where it is None.
    :param time_boundary: how many seconds the members must have been the same before the set is divided.
    :param max_reaction_time: how many seconds a member may take to notice that the members changed.
    :param state_change_event: set at each change of state.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._wait(self._begin())

    def wait_for_acquire(self, timeout: float | None = 30) -> bool:
        """Wait at most so many seconds; whether this one's part is its own now."""
        return self._wait(self._acquired.wait(timeout))

    def release_set(self) -> None:
        """Give this one's part back, so that the set can be divided again."""
        self._wait(self._release_set())

    def finish(self) -> None:
        """Give it back and leave the party."""
        self._wait(self._finish())


class AsyncSetPartitioner(PartitionerCore):
    """:class:`SetPartitioner` for asyncio: ``partitioner = await client.SetPartitioner(path, set=...)``"""

    def __await__(self) -> Generator[Any, None, Self]:
        yield from self._begin().__await__()
        return self

    async def wait_for_acquire(self, timeout: float | None = 30) -> bool:
        """See :meth:`SetPartitioner.wait_for_acquire`."""
        return await self._acquired.wait(timeout)

    async def release_set(self) -> None:
        """See :meth:`SetPartitioner.release_set`."""
        await self._release_set()

    async def finish(self) -> None:
        """See :meth:`SetPartitioner.finish`."""
        await self._finish()
