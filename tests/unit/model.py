"""A model of the znode tree in plain Python: what the real one must be equal to after any history.

It follows ZooKeeper's rules as literally as possible and keeps every znode under its whole path, so that
nothing in it can go wrong in the way a hash table, a free list or a linked list can.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from fastzk._acl import OPEN_ACL
from fastzk._paths import path_hash

CONTAINER = -(1 << 63)
DIGEST_SEED = 0x666173747A6B2D31
U64 = (1 << 64) - 1
STAT = struct.Struct(">qqqqiiiqiiq")


def vector(entries: Iterable[tuple[int, bytes | None, bytes | None]]) -> bytes:
    """A ``vector<ACL>`` on the wire, from (permissions, scheme, id)."""
    entries = list(entries)
    return struct.pack(">i", len(entries)) + b"".join(
        struct.pack(">i", perms) + string(scheme) + string(who) for perms, scheme, who in entries
    )


def string(text: bytes | None) -> bytes:
    """A string on the wire; None is Jute's null."""
    return struct.pack(">i", -1) if text is None else struct.pack(">i", len(text)) + text


def ttl(milliseconds: int) -> int:
    """The ephemeralOwner of a znode with a time to live, as the signed number it is on the wire."""
    return milliseconds - (1 << 56)


def int32(number: int) -> int:
    """What remains of `number` in a Java int."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


def parent_of(path: bytes) -> bytes:
    return path[: path.rindex(b"/")] or b"/"


@dataclass(slots=True)
class ModelNode:
    czxid: int = 0
    mzxid: int = 0
    pzxid: int = 0
    ctime: int = 0
    mtime: int = 0
    owner: int = 0
    data: bytes | None = b""
    acl: bytes = OPEN_ACL
    version: int = 0
    creates: int = 0
    aversion: int = 0
    children: set[bytes] = field(default_factory=set)

    @property
    def kind(self) -> str:
        """Java's EphemeralType of the owner, with extended types switched on."""
        if self.owner == 0:
            return "plain"
        if self.owner == CONTAINER:
            return "container"
        return "ttl" if (self.owner & U64) >> 56 == 0xFF else "ephemeral"

    @property
    def stat(self) -> tuple[int, ...]:
        """The fields of a Stat in their order on the wire."""
        return (
            self.czxid,
            self.mzxid,
            self.ctime,
            self.mtime,
            self.version,
            int32(2 * self.creates - len(self.children)),
            self.aversion,
            self.owner if self.kind == "ephemeral" else 0,
            len(self.data or b""),
            len(self.children),
            self.pzxid,
        )


class ModelTree:
    """The tree as a dict of paths. The root is ``b"/"``; arguments are those of the real tree's methods."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, ModelNode] = {}

    def plant(self) -> None:
        """What a new server has."""
        self.nodes = {b"/": ModelNode()}
        for path in (b"/zookeeper", b"/zookeeper/quota", b"/zookeeper/config"):
            self.create(path, b"", zxid=0, time=0, parent_cversion=0)
        self.set_acl(b"/zookeeper/config", vector([(1, b"world", b"anyone")]), version=-1)

    def copy(self) -> ModelTree:
        """An independent copy."""
        other = ModelTree()
        other.nodes = {path: replace(node, children=set(node.children)) for path, node in self.nodes.items()}
        return other

    def create(
        self,
        path: bytes,
        data: bytes | None,
        acl: bytes = OPEN_ACL,
        *,
        owner: int = 0,
        zxid: int,
        time: int,
        parent_cversion: int | None = None,
    ) -> None:
        above = self.nodes[parent_of(path)]
        assert path not in self.nodes
        self.nodes[path] = ModelNode(zxid, zxid, zxid, time, time, owner, data, acl)
        above.children.add(path.rsplit(b"/", 1)[1])
        above.creates = above.creates + 1 if parent_cversion is None else parent_cversion
        above.pzxid = zxid

    def delete(self, path: bytes, *, zxid: int) -> None:
        assert not self.nodes[path].children
        del self.nodes[path]
        above = self.nodes[parent_of(path)]
        above.children.remove(path.rsplit(b"/", 1)[1])
        above.pzxid = zxid

    def set_data(self, path: bytes, data: bytes | None, *, version: int, zxid: int, time: int) -> None:
        node = self.nodes[path]
        node.data, node.version, node.mzxid, node.mtime = data, version, zxid, time

    def set_acl(self, path: bytes, acl: bytes, *, version: int) -> None:
        node = self.nodes[path]
        node.acl, node.aversion = acl, version

    @property
    def data_size(self) -> int:
        """Bytes of all paths and data, without the root's path."""
        paths = sum(len(path) for path in self.nodes if path != b"/")
        return paths + sum(len(node.data or b"") for node in self.nodes.values())

    def of_kind(self, kind: str) -> set[bytes]:
        """The paths of the "container", "ttl", "ephemeral" or "plain" znodes."""
        return {path for path, node in self.nodes.items() if node.kind == kind}

    @property
    def sessions(self) -> dict[int, set[bytes]]:
        """Session id -> the paths of its ephemeral znodes."""
        sessions: dict[int, set[bytes]] = {}
        for path in self.of_kind("ephemeral"):
            sessions.setdefault(self.nodes[path].owner, set()).add(path)
        return sessions

    @property
    def acls(self) -> set[bytes]:
        """The distinct ACLs in use, the open one always among them."""
        return {OPEN_ACL} | {node.acl for node in self.nodes.values()}

    @property
    def digest(self) -> int:
        """The digest by its definition: servers of different versions must agree on it."""
        total = 0
        for path, node in self.nodes.items():
            seed = path_hash(b"" if path == b"/" else path, DIGEST_SEED)
            length = -1 if node.data is None else len(node.data)
            meta = struct.pack(
                "<6qiiiiQ",
                node.czxid,
                node.mzxid,
                node.pzxid,
                node.ctime,
                node.mtime,
                node.owner,
                node.creates,
                node.version,
                length,
                node.aversion,
                path_hash(node.acl, 0),
            )
            total += path_hash(meta, seed) + (path_hash(node.data, seed) if node.data else 0)
        return total & U64
