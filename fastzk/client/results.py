"""What operations return, as named tuples: they compare and unpack like the plain tuples other clients return."""

from __future__ import annotations

from typing import NamedTuple

from fastzk.acl import ACL
from fastzk.client._channel import ZnodeStat, use_results
from fastzk.client.states import EventType, KeeperState


class NodeData(NamedTuple):
    """The data of a znode; None where it was created with none."""

    data: bytes | None
    stat: ZnodeStat


class Children(NamedTuple):
    """The names of a znode's children, in no particular order, and its own stat."""

    children: list[str]
    stat: ZnodeStat


class Created(NamedTuple):
    """The path of a new znode, with its sequence number where one was asked for."""

    path: str
    stat: ZnodeStat


class NodeACL(NamedTuple):
    """The ACL of a znode."""

    acl: list[ACL]
    stat: ZnodeStat


class Identity(NamedTuple):
    """One identity of the session, as the server sees it."""

    scheme: str
    id: str


class WatchedEvent(NamedTuple):
    """What a watch tells.

    ``type`` is NONE when it tells no change but the end of the watch: the session expired or was closed.
    """

    type: EventType
    state: KeeperState
    path: str


use_results(NodeData, Children, Created, NodeACL)
