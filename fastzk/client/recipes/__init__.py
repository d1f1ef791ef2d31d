"""The recipes, for threads and (``Async...``) for asyncio. Also methods of the clients: ``client.Lock(path)``."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastzk.client.recipes.barrier import AsyncBarrier, AsyncDoubleBarrier, Barrier, DoubleBarrier
    from fastzk.client.recipes.cache import AsyncTreeCache, CachedNode, TreeCache, TreeEvent
    from fastzk.client.recipes.counter import AsyncCounter, Counter
    from fastzk.client.recipes.election import AsyncElection, Election
    from fastzk.client.recipes.lease import (
        AsyncMultiNonBlockingLease,
        AsyncNonBlockingLease,
        MultiNonBlockingLease,
        NonBlockingLease,
    )
    from fastzk.client.recipes.locks import AsyncLock, AsyncReadLock, AsyncWriteLock, Lock, ReadLock, WriteLock
    from fastzk.client.recipes.partitioner import AsyncSetPartitioner, PartitionState, SetPartitioner
    from fastzk.client.recipes.party import AsyncParty, AsyncShallowParty, Party, ShallowParty
    from fastzk.client.recipes.patient import PatientChildrenWatch
    from fastzk.client.recipes.queues import AsyncLockingQueue, AsyncQueue, LockingQueue, Queue
    from fastzk.client.recipes.registry import (
        AsyncRegistration,
        AsyncServiceRegistry,
        Registration,
        ServiceInstance,
        ServiceRegistry,
    )
    from fastzk.client.recipes.semaphore import AsyncSemaphore, Semaphore
    from fastzk.client.recipes.support import AcquireCancelled, LockTimeout

__all__ = [
    "AcquireCancelled",
    "AsyncBarrier",
    "AsyncCounter",
    "AsyncDoubleBarrier",
    "AsyncElection",
    "AsyncLock",
    "AsyncLockingQueue",
    "AsyncMultiNonBlockingLease",
    "AsyncNonBlockingLease",
    "AsyncParty",
    "AsyncQueue",
    "AsyncReadLock",
    "AsyncRegistration",
    "AsyncSemaphore",
    "AsyncServiceRegistry",
    "AsyncSetPartitioner",
    "AsyncShallowParty",
    "AsyncTreeCache",
    "AsyncWriteLock",
    "Barrier",
    "CachedNode",
    "Counter",
    "DoubleBarrier",
    "Election",
    "Lock",
    "LockTimeout",
    "LockingQueue",
    "MultiNonBlockingLease",
    "NonBlockingLease",
    "PartitionState",
    "Party",
    "PatientChildrenWatch",
    "Queue",
    "ReadLock",
    "Registration",
    "Semaphore",
    "ServiceInstance",
    "ServiceRegistry",
    "SetPartitioner",
    "ShallowParty",
    "TreeCache",
    "TreeEvent",
    "WriteLock",
]

#: In which module each name is.
_HOMES: Final = {
    **dict.fromkeys(("AsyncBarrier", "AsyncDoubleBarrier", "Barrier", "DoubleBarrier"), "barrier"),
    **dict.fromkeys(("AsyncTreeCache", "CachedNode", "TreeCache", "TreeEvent"), "cache"),
    **dict.fromkeys(("AsyncCounter", "Counter"), "counter"),
    **dict.fromkeys(("AsyncElection", "Election"), "election"),
    **dict.fromkeys(
        ("AsyncMultiNonBlockingLease", "AsyncNonBlockingLease", "MultiNonBlockingLease", "NonBlockingLease"), "lease"
    ),
    **dict.fromkeys(("AsyncLock", "AsyncReadLock", "AsyncWriteLock", "Lock", "ReadLock", "WriteLock"), "locks"),
    **dict.fromkeys(("AsyncSetPartitioner", "PartitionState", "SetPartitioner"), "partitioner"),
    **dict.fromkeys(("AsyncParty", "AsyncShallowParty", "Party", "ShallowParty"), "party"),
    "PatientChildrenWatch": "patient",
    **dict.fromkeys(("AsyncLockingQueue", "AsyncQueue", "LockingQueue", "Queue"), "queues"),
    **dict.fromkeys(
        ("AsyncRegistration", "AsyncServiceRegistry", "Registration", "ServiceInstance", "ServiceRegistry"), "registry"
    ),
    **dict.fromkeys(("AsyncSemaphore", "Semaphore"), "semaphore"),
    **dict.fromkeys(("AcquireCancelled", "LockTimeout"), "support"),
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found
