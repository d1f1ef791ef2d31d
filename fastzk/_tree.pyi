from fastzk._acl import OPEN_ACL, AclTable

class TreeCorruption(ValueError):
    """A page of a checkpoint that does not decode, or pages that do not form a tree."""

class Tree:
    """All znodes of a server, in memory.

    These are the methods for recovery, checkpoints, administration and tests; requests use C methods (see the
    ``.pxd``). Paths are UTF-8 bytes; the root is ``b""`` or ``b"/"``. Paths are not validated here. A *slot*
    is the number of a znode, stable for its life and through checkpoints, and used again after its deletion.

    Not safe for several threads, and the collections below change with every create and delete: copy before
    looping over one of them while znodes are removed.
    """

    #: Every ACL in use.
    @property
    def acls(self) -> AclTable: ...
    #: Znodes, the root included.
    @property
    def count(self) -> int: ...
    #: Bytes of all paths and all data, without the root's path.
    @property
    def data_size(self) -> int: ...
    #: Session id -> slots of its ephemeral znodes. No session has an empty set.
    @property
    def ephemerals(self) -> dict[int, set[int]]: ...
    #: Ephemeral znodes of all sessions.
    @property
    def ephemeral_count(self) -> int: ...
    #: Slots of the containers.
    @property
    def containers(self) -> set[int]: ...
    #: Slots of the znodes with a time to live.
    @property
    def ttls(self) -> set[int]: ...
    @property
    def digest(self) -> int:
        """The digest of the whole tree, equal on every server with the same znodes.

        Of an ACL it holds the version, not the list.
        """

    def compute_digest(self) -> int:
        """The digest worked out from every znode anew; slow, to check ``digest`` against."""

    def __len__(self) -> int: ...
    def plant(self) -> None:
        """Make the znodes that every new server has: ``/``, ``/zookeeper``, ``quota`` and ``config`` in it.

        Raises ValueError when the tree is not empty.
        """
    # ---- looking
    def slot(self, path: bytes) -> int:
        """The slot of the znode at ``path``; 0 when there is none."""

    def path(self, slot: int) -> bytes:
        """The path of the znode in ``slot``. Raises KeyError when there is none."""

    def expired(self, slots: list[int], now_ms: int, never_used_ms: int) -> list[int]:
        """Those of ``slots`` that hold a container or TTL znode whose time is over.

        That is a container that had children and has none, or never had one for ``never_used_ms``
        milliseconds (0: such a one stays); and a TTL znode without children that was not written for its
        ttl. ``now_ms`` is in milliseconds of the epoch. Slots that were freed, or used again for another
        kind, are left out.
        """

    def existing(self, path: bytes) -> int:
        """The slot at ``path``. Raises KeyError when there is no znode."""

    def data(self, path: bytes) -> bytes | None:
        """The data at ``path``; None is ZooKeeper's null. Raises KeyError when there is no znode."""

    def stat(self, path: bytes) -> bytes:
        """The stat at ``path`` as it travels, 68 bytes. Raises KeyError when there is no znode."""

    def acl(self, path: bytes) -> bytes:
        """The ACL at ``path`` in wire form. Raises KeyError when there is no znode."""

    def owner(self, path: bytes) -> int:
        """The raw ephemeralOwner at ``path``, signed: a session, or ZooKeeper's mark of a container or a TTL.

        Raises KeyError when there is no znode.
        """

    def children(self, path: bytes) -> list[bytes]:
        """The names of the children, in no particular order. Raises KeyError when there is no znode."""

    def children_encoded(self, path: bytes) -> bytes:
        """The children as getChildren answers them (``vector<ustring>``).

        Raises KeyError when there is no znode.
        """

    def ephemeral_paths(self, session: int) -> list[bytes]:
        """The paths of the ephemeral znodes of a session."""
    # ---- changing
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
        """Add a znode, as a create transaction does.

        ``acl`` is a ``vector<ACL>`` on the wire, ``owner`` a signed 64-bit ephemeralOwner, ``time``
        milliseconds since 1970, ``parent_cversion`` how many znodes have been created below the parent
        (None: one more than before). Raises KeyError (no parent) or ValueError (exists).
        """

    def delete(self, path: bytes, *, zxid: int) -> None:
        """Remove a znode. Raises KeyError (none there) or ValueError (it has children, or is the root)."""

    def set_data(self, path: bytes, data: bytes | None, *, version: int, zxid: int, time: int) -> None:
        """Replace a znode's data; ``version`` is the new one. Raises KeyError when there is no znode."""

    def set_acl(self, path: bytes, acl: bytes, *, version: int) -> None:
        """Replace a znode's ACL; ``version`` is the new aversion. Raises KeyError when there is no znode."""
    # ---- checkpoints
    @property
    def changed_pages(self) -> int:
        """Pages that differ from the last checkpoint."""

    def checkpoint_begin(self) -> int:
        """Freeze what has changed since the last checkpoint, as of now; the number of pages to take.

        Raises RuntimeError when a checkpoint is running already.
        """

    def checkpoint_take(self, max_bytes: int) -> list[tuple[bytes, bytes | None]]:
        """The next pages of the running checkpoint, about ``max_bytes`` of them; empty when all are taken.

        Each is a key and its new value; None removes the key. Raises RuntimeError when no checkpoint is
        running.
        """

    def checkpoint_end(self, ok: bool) -> None:
        """The running checkpoint is durable (``ok``), or its pages count as changed again.

        Raises RuntimeError when no checkpoint is running, or with ``ok`` when not all its pages were taken.
        """

    def load_page(self, key: bytes, value: bytes | bytearray | memoryview) -> None:
        """Restore one page of a checkpoint into an empty tree; ``value`` is copied.

        Raises:
            TreeCorruption: the page does not decode.
        """

    def load_finish(self) -> None:
        """All pages are loaded: link the znodes, index them, count what is counted.

        Raises:
            TreeCorruption: the pages do not form a tree. The tree is of no use then.
        """
