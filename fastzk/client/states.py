"""The states of a client and the types of watch events, under the names and values of kazoo."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from fastzk import protocol


class State(StrEnum):
    """What a program has to know of the connection."""

    #: Connected to a server, the session is alive.
    CONNECTED = "CONNECTED"
    #: The connection broke; the session may live on. Nobody knows whether ephemeral znodes are still there.
    SUSPENDED = "SUSPENDED"
    #: No session: it expired, or was closed, or did not begin yet. Its ephemeral znodes are gone.
    LOST = "LOST"


class KeeperState(StrEnum):
    """The state of the session in more detail."""

    CONNECTING = "CONNECTING"
    CONNECTED = "CONNECTED"
    #: Connected to a server that is cut off from its quorum and answers reads only.
    CONNECTED_RO = "CONNECTED_RO"
    AUTH_FAILED = "AUTH_FAILED"
    EXPIRED_SESSION = "EXPIRED_SESSION"
    CLOSED = "CLOSED"


class EventType(StrEnum):
    """What happened to a znode."""

    NONE = "NONE"
    CREATED = "CREATED"
    DELETED = "DELETED"
    CHANGED = "CHANGED"
    CHILD = "CHILD"
    #: The server removed the watch, because this client asked for it.
    REMOVED = "REMOVED"


#: The event of each number on the wire.
EVENTS: Final = {
    int(protocol.EventType.NONE): EventType.NONE,
    int(protocol.EventType.CREATED): EventType.CREATED,
    int(protocol.EventType.DELETED): EventType.DELETED,
    int(protocol.EventType.DATA_CHANGED): EventType.CHANGED,
    int(protocol.EventType.CHILDREN_CHANGED): EventType.CHILD,
    int(protocol.EventType.DATA_WATCH_REMOVED): EventType.REMOVED,
    int(protocol.EventType.CHILD_WATCH_REMOVED): EventType.REMOVED,
    int(protocol.EventType.PERSISTENT_WATCH_REMOVED): EventType.REMOVED,
}
