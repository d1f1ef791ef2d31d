"""What the servers replicate: the real tree with the real applier, or something much cheaper with the same contents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from fastzk._tree import Tree
from fastzk.protocol import OpCode
from fastzk.server._apply import Applier
from fastzk.server.zab.messages import Proposal
from fastzk.server.zab.quorum import Membership

from .transactions import CONFIG, changes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state as it is kept on disk, and sent to another server."""

    zxid: int
    pages: dict[bytes, bytes]
    extra: Any


class Machine(Protocol):
    """A state."""

    zxid: int

    def apply(self, proposal: Proposal) -> None: ...
    def read(self, path: bytes) -> bytes | None: ...
    def version(self, path: bytes) -> int:
        """The version of a znode's data, -1 if there is none."""

    def created(self) -> int:
        """How many znodes were ever created below the root."""

    def digest(self) -> int: ...
    def capture(self) -> Checkpoint:
        """The state as of now. ``captured`` is called before the next time."""

    def captured(self) -> None: ...


def membership_of(machine: Machine, initial: Membership) -> Membership:
    """The committed membership."""
    text = machine.read(CONFIG)
    return Membership.parse(text.decode()) if text else initial


class HashMachine:
    """A dictionary, and the hash of all that was ever applied."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self.zxid, self._hash, self._created = 0, 0, 0
        self._values: dict[bytes, tuple[bytes, int]] = {}
        if checkpoint is not None:
            self.zxid = checkpoint.zxid
            self._hash, self._created, values = checkpoint.extra
            self._values = dict(values)

    def apply(self, proposal: Proposal) -> None:
        for change in changes(proposal.payload):
            assert change.zxid > self.zxid
            self.zxid = change.zxid
            self._hash = (self._hash * 1_000_003 + int.from_bytes(change.path + (change.value or b"-"))) % (1 << 61)
            if change.op == OpCode.CREATE:
                self._created += 1
            if change.value is not None:
                version = self._values[change.path][1] if change.path in self._values else -1
                self._values[change.path] = (change.value, version + 1)
            elif change.path:
                del self._values[change.path]

    def read(self, path: bytes) -> bytes | None:
        return self._values[path][0] if path in self._values else None

    def version(self, path: bytes) -> int:
        return self._values[path][1] if path in self._values else -1

    def created(self) -> int:
        return self._created

    def digest(self) -> int:
        return self._hash

    def capture(self) -> Checkpoint:
        return Checkpoint(self.zxid, {}, (self._hash, self._created, dict(self._values)))

    def captured(self) -> None:
        pass


class TreeMachine:
    """The server's own tree and applier; a checkpoint holds the tree's own pages."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._tree = Tree()
        self._pages: dict[bytes, bytes] = {}
        if checkpoint is None:
            self._tree.plant()
        else:
            self._pages = dict(checkpoint.pages)
            for key, page in sorted(self._pages.items()):
                self._tree.load_page(key, page)
            self._tree.load_finish()
            assert self._tree.digest == checkpoint.extra, "a checkpoint holds another tree than was captured"
        self.zxid = 0 if checkpoint is None else checkpoint.zxid
        self._applier = Applier(self._tree, self.zxid)

    def apply(self, proposal: Proposal) -> None:
        assert self._applier.replay_batch(proposal.payload) == proposal.count
        self.zxid = self._applier.zxid

    def read(self, path: bytes) -> bytes | None:
        return self._tree.data(path) if self._tree.slot(path) else None

    def version(self, path: bytes) -> int:
        return int.from_bytes(self._tree.stat(path)[32:36]) if self._tree.slot(path) else -1

    def created(self) -> int:
        return int.from_bytes(self._tree.stat(b"/")[36:40], signed=True)

    def digest(self) -> int:
        return self._tree.digest

    def capture(self) -> Checkpoint:
        self._tree.checkpoint_begin()
        while pages := self._tree.checkpoint_take(1 << 16):
            for key, page in pages:
                if page is None:
                    self._pages.pop(key, None)
                else:
                    self._pages[key] = page
        return Checkpoint(self.zxid, dict(self._pages), self._tree.digest)

    def captured(self) -> None:
        self._tree.checkpoint_end(True)
