"""fastzk: a coordination server and clients that speak ZooKeeper's protocol.

The clients are imported when they are first used, so that the server does not load them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fastzk._version import __version__

if TYPE_CHECKING:
    from fastzk.client import (
        AsyncClient,
        Children,
        Client,
        Created,
        Credentials,
        EventType,
        ForceRetryError,
        Identity,
        KeeperState,
        NodeACL,
        NodeData,
        RetryFailedError,
        RetryPolicy,
        State,
        WatchedEvent,
        ZnodeStat,
    )

__all__ = [
    "AsyncClient",
    "Children",
    "Client",
    "Created",
    "Credentials",
    "EventType",
    "ForceRetryError",
    "Identity",
    "KeeperState",
    "NodeACL",
    "NodeData",
    "RetryFailedError",
    "RetryPolicy",
    "State",
    "WatchedEvent",
    "ZnodeStat",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("fastzk.client"), name)
    raise AttributeError(f"module 'fastzk' has no attribute {name!r}")
