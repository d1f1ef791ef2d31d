# ruff: noqa: PLR0917 -- kazoo's arguments have kazoo's names and order
"""The recipes as methods of the clients: ``client.Lock(path)``. A recipe's module is imported at its first use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from fastzk.client.operations import Operations

if TYPE_CHECKING:
    from fastzk.client.recipes import (
        barrier,
        cache,
        counter,
        election,
        lease,
        locks,
        partitioner,
        party,
        patient,
        queues,
        registry,
        semaphore,
    )


class Recipes(Operations):
    """Recipes for the client for threads. The arguments are explained at the classes in fastzk.client.recipes."""

    def Lock(
        self,
        path: str,
        identifier: object = None,
        extra_lock_patterns: Sequence[str] = (),
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> locks.Lock:
        """A lock."""
        from fastzk.client.recipes import locks

        return locks.Lock(self, path, identifier, extra_lock_patterns, on_lost=on_lost)

    def ReadLock(
        self,
        path: str,
        identifier: object = None,
        extra_lock_patterns: Sequence[str] = (),
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> locks.ReadLock:
        """The shared side of a lock for readers and writers."""
        from fastzk.client.recipes import locks

        return locks.ReadLock(self, path, identifier, extra_lock_patterns, on_lost=on_lost)

    def WriteLock(
        self,
        path: str,
        identifier: object = None,
        extra_lock_patterns: Sequence[str] = (),
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> locks.WriteLock:
        """The exclusive side of a lock for readers and writers."""
        from fastzk.client.recipes import locks

        return locks.WriteLock(self, path, identifier, extra_lock_patterns, on_lost=on_lost)

    def Semaphore(
        self, path: str, identifier: object = None, max_leases: int = 1, *, on_lost: Callable[[], object] | None = None
    ) -> semaphore.Semaphore:
        """A semaphore."""
        from fastzk.client.recipes import semaphore

        return semaphore.Semaphore(self, path, identifier, max_leases, on_lost=on_lost)

    def Election(
        self, path: str, identifier: object = None, *, on_lost: Callable[[], object] | None = None
    ) -> election.Election:
        """An election."""
        from fastzk.client.recipes import election

        return election.Election(self, path, identifier, on_lost=on_lost)

    def Counter(self, path: str, default: Any = 0, support_curator: bool = False) -> counter.Counter[Any]:
        """A counter; the type of ``default`` is its type."""
        from fastzk.client.recipes import counter

        return counter.Counter(self, path, default, support_curator)

    def Barrier(self, path: str) -> barrier.Barrier:
        """A barrier."""
        from fastzk.client.recipes import barrier

        return barrier.Barrier(self, path)

    def DoubleBarrier(self, path: str, num_clients: int, identifier: str | None = None) -> barrier.DoubleBarrier:
        """A double barrier."""
        from fastzk.client.recipes import barrier

        return barrier.DoubleBarrier(self, path, num_clients, identifier)

    def Queue(self, path: str) -> queues.Queue:
        """A queue."""
        from fastzk.client.recipes import queues

        return queues.Queue(self, path)

    def LockingQueue(self, path: str) -> queues.LockingQueue:
        """A queue whose entries are locked while they are worked on."""
        from fastzk.client.recipes import queues

        return queues.LockingQueue(self, path)

    def Party(self, path: str, identifier: object = None) -> party.Party:
        """A party."""
        from fastzk.client.recipes import party

        return party.Party(self, path, identifier)

    def ShallowParty(self, path: str, identifier: object = None) -> party.ShallowParty:
        """A party with the identifiers in the names."""
        from fastzk.client.recipes import party

        return party.ShallowParty(self, path, identifier)

    def NonBlockingLease(
        self,
        path: str,
        duration: timedelta,
        identifier: str | None = None,
        utcnow: Callable[[], datetime] | None = None,
    ) -> lease.NonBlockingLease:
        """A lease."""
        from fastzk.client.recipes import lease

        return lease.NonBlockingLease(self, path, duration, identifier, utcnow or lease.utcnow)

    def MultiNonBlockingLease(
        self,
        count: int,
        path: str,
        duration: timedelta,
        identifier: str | None = None,
        utcnow: Callable[[], datetime] | None = None,
    ) -> lease.MultiNonBlockingLease:
        """One of several leases."""
        from fastzk.client.recipes import lease

        return lease.MultiNonBlockingLease(self, count, path, duration, identifier, utcnow or lease.utcnow)

    def SetPartitioner(
        self,
        path: str,
        set: Iterable[Any],
        partition_func: Callable[[str, list[str], Iterable[Any]], Sequence[Any]] | None = None,
        identifier: str | None = None,
        time_boundary: float = 30,
        max_reaction_time: float = 1,
        state_change_event: partitioner.Event | None = None,
    ) -> partitioner.SetPartitioner:
        """A part of a set."""
        from fastzk.client.recipes import partitioner

        return partitioner.SetPartitioner(
            self, path, set, partition_func, identifier, time_boundary, max_reaction_time, state_change_event
        )

    def TreeCache(self, path: str) -> cache.TreeCache:
        """A subtree in memory."""
        from fastzk.client.recipes import cache

        return cache.TreeCache(self, path)

    def ServiceRegistry(self, path: str) -> registry.ServiceRegistry:
        """A registry of services."""
        from fastzk.client.recipes import registry

        return registry.ServiceRegistry(self, path)

    def PatientChildrenWatch(self, path: str, time_boundary: float = 30) -> patient.PatientChildrenWatch:
        """The children of a znode, once they have not changed for a while."""
        from fastzk.client.recipes import patient

        return patient.PatientChildrenWatch(self, path, time_boundary)


class AsyncRecipes(Operations):
    """Recipes for the client for asyncio. The arguments are explained at the classes in fastzk.client.recipes."""

    def Lock(
        self,
        path: str,
        identifier: object = None,
        extra_lock_patterns: Sequence[str] = (),
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> locks.AsyncLock:
        """A lock."""
        from fastzk.client.recipes import locks

        return locks.AsyncLock(self, path, identifier, extra_lock_patterns, on_lost=on_lost)

    def ReadLock(
        self,
        path: str,
        identifier: object = None,
        extra_lock_patterns: Sequence[str] = (),
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> locks.AsyncReadLock:
        """The shared side of a lock for readers and writers."""
        from fastzk.client.recipes import locks

        return locks.AsyncReadLock(self, path, identifier, extra_lock_patterns, on_lost=on_lost)

    def WriteLock(
        self,
        path: str,
        identifier: object = None,
        extra_lock_patterns: Sequence[str] = (),
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> locks.AsyncWriteLock:
        """The exclusive side of a lock for readers and writers."""
        from fastzk.client.recipes import locks

        return locks.AsyncWriteLock(self, path, identifier, extra_lock_patterns, on_lost=on_lost)

    def Semaphore(
        self, path: str, identifier: object = None, max_leases: int = 1, *, on_lost: Callable[[], object] | None = None
    ) -> semaphore.AsyncSemaphore:
        """A semaphore."""
        from fastzk.client.recipes import semaphore

        return semaphore.AsyncSemaphore(self, path, identifier, max_leases, on_lost=on_lost)

    def Election(
        self, path: str, identifier: object = None, *, on_lost: Callable[[], object] | None = None
    ) -> election.AsyncElection:
        """An election."""
        from fastzk.client.recipes import election

        return election.AsyncElection(self, path, identifier, on_lost=on_lost)

    def Counter(self, path: str, default: Any = 0, support_curator: bool = False) -> counter.AsyncCounter[Any]:
        """A counter; the type of ``default`` is its type."""
        from fastzk.client.recipes import counter

        return counter.AsyncCounter(self, path, default, support_curator)

    def Barrier(self, path: str) -> barrier.AsyncBarrier:
        """A barrier."""
        from fastzk.client.recipes import barrier

        return barrier.AsyncBarrier(self, path)

    def DoubleBarrier(self, path: str, num_clients: int, identifier: str | None = None) -> barrier.AsyncDoubleBarrier:
        """A double barrier."""
        from fastzk.client.recipes import barrier

        return barrier.AsyncDoubleBarrier(self, path, num_clients, identifier)

    def Queue(self, path: str) -> queues.AsyncQueue:
        """A queue."""
        from fastzk.client.recipes import queues

        return queues.AsyncQueue(self, path)

    def LockingQueue(self, path: str) -> queues.AsyncLockingQueue:
        """A queue whose entries are locked while they are worked on."""
        from fastzk.client.recipes import queues

        return queues.AsyncLockingQueue(self, path)

    def Party(self, path: str, identifier: object = None) -> party.AsyncParty:
        """A party."""
        from fastzk.client.recipes import party

        return party.AsyncParty(self, path, identifier)

    def ShallowParty(self, path: str, identifier: object = None) -> party.AsyncShallowParty:
        """A party with the identifiers in the names."""
        from fastzk.client.recipes import party

        return party.AsyncShallowParty(self, path, identifier)

    def NonBlockingLease(
        self,
        path: str,
        duration: timedelta,
        identifier: str | None = None,
        utcnow: Callable[[], datetime] | None = None,
    ) -> lease.AsyncNonBlockingLease:
        """A lease."""
        from fastzk.client.recipes import lease

        return lease.AsyncNonBlockingLease(self, path, duration, identifier, utcnow or lease.utcnow)

    def MultiNonBlockingLease(
        self,
        count: int,
        path: str,
        duration: timedelta,
        identifier: str | None = None,
        utcnow: Callable[[], datetime] | None = None,
    ) -> lease.AsyncMultiNonBlockingLease:
        """One of several leases."""
        from fastzk.client.recipes import lease

        return lease.AsyncMultiNonBlockingLease(self, count, path, duration, identifier, utcnow or lease.utcnow)

    def SetPartitioner(
        self,
        path: str,
        set: Iterable[Any],
        partition_func: Callable[[str, list[str], Iterable[Any]], Sequence[Any]] | None = None,
        identifier: str | None = None,
        time_boundary: float = 30,
        max_reaction_time: float = 1,
        state_change_event: partitioner.Event | None = None,
    ) -> partitioner.AsyncSetPartitioner:
        """A part of a set."""
        from fastzk.client.recipes import partitioner

        return partitioner.AsyncSetPartitioner(
            self, path, set, partition_func, identifier, time_boundary, max_reaction_time, state_change_event
        )

    def TreeCache(self, path: str) -> cache.AsyncTreeCache:
        """A subtree in memory."""
        from fastzk.client.recipes import cache

        return cache.AsyncTreeCache(self, path)

    def ServiceRegistry(self, path: str) -> registry.AsyncServiceRegistry:
        """A registry of services."""
        from fastzk.client.recipes import registry

        return registry.AsyncServiceRegistry(self, path)

    def PatientChildrenWatch(self, path: str, time_boundary: float = 30) -> patient.PatientChildrenWatch:
        """The children of a znode, once they have not changed for a while."""
        from fastzk.client.recipes import patient

        return patient.PatientChildrenWatch(self, path, time_boundary)
