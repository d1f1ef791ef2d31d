"""The vocabulary of ZooKeeper's client protocol: one table each for what has a number.

The numbers are those of Apache ZooKeeper 3.9 (``ZooDefs.java``, ``KeeperException.java``,
``Watcher.java``, ``zookeeper.jute``), and of the extensions beyond it. ``setup.py`` renders the same tables
as C enumerations for the Cython modules, so this file is the only place where they are written down.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final


class OpCode(IntEnum):
    """Request types."""

    NOTIFICATION = 0
    CREATE = 1
    DELETE = 2
    EXISTS = 3
    GET_DATA = 4
    SET_DATA = 5
    GET_ACL = 6
    SET_ACL = 7
    GET_CHILDREN = 8
    SYNC = 9
    PING = 11
    GET_CHILDREN2 = 12
    CHECK = 13
    MULTI = 14
    CREATE2 = 15
    RECONFIG = 16
    CHECK_WATCHES = 17
    REMOVE_WATCHES = 18
    CREATE_CONTAINER = 19
    DELETE_CONTAINER = 20
    CREATE_TTL = 21
    MULTI_READ = 22
    AUTH = 100
    SET_WATCHES = 101
    SASL = 102
    GET_EPHEMERALS = 103
    GET_ALL_CHILDREN_NUMBER = 104
    SET_WATCHES2 = 105
    ADD_WATCH = 106
    WHO_AM_I = 107
    CREATE_SESSION = -10
    CLOSE_SESSION = -11
    ERROR = -1


class ExtensionOpCode(IntEnum):
    """Request types that Apache ZooKeeper does not have (``docs/extensions.md``).

    From 500 on they are ClickHouse Keeper's, with its numbers; ours begin with the letters ``fz``.
    """

    FILTERED_LIST = 500
    CHECK_NOT_EXISTS = 501
    CREATE_IF_NOT_EXISTS = 502
    REMOVE_RECURSIVE = 503
    PAGED_LIST = 0x667A0001


class Error(IntEnum):
    """Error codes of reply headers and of the results inside a multi."""

    OK = 0
    SYSTEM_ERROR = -1
    RUNTIME_INCONSISTENCY = -2
    DATA_INCONSISTENCY = -3
    CONNECTION_LOSS = -4
    MARSHALLING = -5
    UNIMPLEMENTED = -6
    OPERATION_TIMEOUT = -7
    BAD_ARGUMENTS = -8
    NEW_CONFIG_NO_QUORUM = -13
    RECONFIG_IN_PROGRESS = -14
    UNKNOWN_SESSION = -12
    API_ERROR = -100
    NO_NODE = -101
    NO_AUTH = -102
    BAD_VERSION = -103
    NO_CHILDREN_FOR_EPHEMERALS = -108
    NODE_EXISTS = -110
    NOT_EMPTY = -111
    SESSION_EXPIRED = -112
    INVALID_CALLBACK = -113
    INVALID_ACL = -114
    AUTH_FAILED = -115
    SESSION_MOVED = -118
    NOT_READ_ONLY = -119
    EPHEMERAL_ON_LOCAL_SESSION = -120
    NO_WATCHER = -121
    REQUEST_TIMEOUT = -122
    RECONFIG_DISABLED = -123
    SESSION_CLOSED_REQUIRE_SASL_AUTH = -124
    QUOTA_EXCEEDED = -125
    THROTTLED_OP = -127


class Perm(IntFlag):
    """Permissions of an ACL entry."""

    READ = 1
    WRITE = 2
    CREATE = 4
    DELETE = 8
    ADMIN = 16
    ALL = 31


class CreateMode(IntEnum):
    """The flags field of a create request (``CreateMode.java``)."""

    PERSISTENT = 0
    EPHEMERAL = 1
    PERSISTENT_SEQUENTIAL = 2
    EPHEMERAL_SEQUENTIAL = 3
    CONTAINER = 4
    PERSISTENT_WITH_TTL = 5
    PERSISTENT_SEQUENTIAL_WITH_TTL = 6


class EventType(IntEnum):
    """What a watch event tells."""

    NONE = -1
    CREATED = 1
    DELETED = 2
    DATA_CHANGED = 3
    CHILDREN_CHANGED = 4
    DATA_WATCH_REMOVED = 5
    CHILD_WATCH_REMOVED = 6
    PERSISTENT_WATCH_REMOVED = 7


class KeeperState(IntEnum):
    """The state field of a watch event."""

    DISCONNECTED = 0
    SYNC_CONNECTED = 3
    AUTH_FAILED = 4
    CONNECTED_READ_ONLY = 5
    SASL_AUTHENTICATED = 6
    EXPIRED = -112
    CLOSED = 7


class WatcherType(IntEnum):
    """Which watches a checkWatches or removeWatches means (``Watcher.WatcherType``)."""

    CHILDREN = 1
    DATA = 2
    ANY = 3
    PERSISTENT = 4
    PERSISTENT_RECURSIVE = 5


class AddWatchMode(IntEnum):
    """The mode of an addWatch request."""

    PERSISTENT = 0
    PERSISTENT_RECURSIVE = 1


class ListFilter(IntEnum):
    """Which children a filteredList request wants."""

    ALL = 0
    PERSISTENT_ONLY = 1
    EPHEMERAL_ONLY = 2


class PageFlag(IntFlag):
    """The flags of a pagedList request."""

    #: Set a one-time watch on the children, as getChildren does.
    WATCH = 1
    PERSISTENT_ONLY = 2
    EPHEMERAL_ONLY = 4


class KeeperFeature(IntEnum):
    """Bits of ``/keeper/feature_flags``, counted from the first byte's highest one."""

    FILTERED_LIST = 0
    MULTI_READ = 1
    CHECK_NOT_EXISTS = 2
    CREATE_IF_NOT_EXISTS = 3
    REMOVE_RECURSIVE = 4
    MULTI_WATCHES = 5
    CHECK_STAT = 6
    PERSISTENT_WATCHES = 7
    CREATE_WITH_STATS = 8
    TRY_REMOVE = 9
    LIST_WITH_STAT_AND_DATA = 10


class Xid(IntEnum):
    """Reserved xids of request and reply headers."""

    NOTIFICATION = -1
    PING = -2
    AUTH = -4
    SET_WATCHES = -8


#: The prefix under which each table is known to the Cython modules (``OP_CREATE``, ``ERR_NO_NODE``, ...).
C_PREFIXES: Final[dict[str, str]] = {
    "OpCode": "OP_",
    "ExtensionOpCode": "OP_",
    "Error": "ERR_",
    "Perm": "PERM_",
    "CreateMode": "MODE_",
    "EventType": "EVENT_",
    "KeeperState": "STATE_",
    "WatcherType": "WATCHER_",
    "AddWatchMode": "ADDWATCH_",
    "ListFilter": "LIST_",
    "PageFlag": "PAGE_",
    "KeeperFeature": "FEATURE_",
    "Xid": "XID_",
}

#: ``jute.maxbuffer``: the largest frame accepted, in bytes, without its length field.
DEFAULT_MAX_FRAME: Final = 0xFFFFF
#: Bytes of a session's password.
PASSWORD_BYTES: Final = 16
