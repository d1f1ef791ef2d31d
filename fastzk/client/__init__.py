"""The clients: :class:`Client` for threads, :class:`AsyncClient` for asyncio.

Each name is imported when it is first used: a program with threads need not load asyncio, and the other way round.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastzk.client._channel import ZnodeStat
    from fastzk.client.async_client import AsyncClient
    from fastzk.client.client import Client
    from fastzk.client.results import Children, Created, Identity, NodeACL, NodeData, WatchedEvent
    from fastzk.client.retry import ForceRetryError, RetryFailedError, RetryPolicy
    from fastzk.client.sasl import Credentials
    from fastzk.client.states import EventType, KeeperState, State

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
]

#: In which module of this package each name is.
_HOMES: Final = {
    "AsyncClient": "async_client",
    "Client": "client",
    "Credentials": "sasl",
    "ZnodeStat": "_channel",
    **dict.fromkeys(("Children", "Created", "Identity", "NodeACL", "NodeData", "WatchedEvent"), "results"),
    **dict.fromkeys(("ForceRetryError", "RetryFailedError", "RetryPolicy"), "retry"),
    **dict.fromkeys(("EventType", "KeeperState", "State"), "states"),
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found
