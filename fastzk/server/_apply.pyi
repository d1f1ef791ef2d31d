from collections.abc import Callable

from fastzk._tree import Tree
from fastzk.server._quota import Quotas
from fastzk.server._watches import Watches

class ApplyError(Exception):
    """A logged transaction does not fit the tree: the log and the state are not of one history."""

def membership_text(payload: bytes | memoryview) -> bytes | None:
    """What the last reconfiguration in a logged batch writes to /zookeeper/config; None if there is none in it."""

class Applier:
    """Applies transactions to ``tree`` and tells the watches. ``zxid``: the last one applied before."""

    #: Told of every createSession (session id, timeout in ms) and closeSession (session id, None).
    on_session: Callable[[int, int | None], None]
    def __init__(self, tree: Tree, zxid: int) -> None: ...
    @property
    def tree(self) -> Tree: ...
    @property
    def zxid(self) -> int:
        """The last one applied."""

    @property
    def quotas(self) -> Quotas: ...
    @property
    def session(self) -> int:
        """The session of the last transaction applied."""

    def serve(self, watches: Watches) -> None:
        """From now on changes trigger watches."""

    def replay(self, txn: bytes | bytearray | memoryview) -> int:
        """Apply one logged transaction (``TxnHeader`` and record); its type.

        Raises ApplyError: it does not follow the last one, is malformed, or does not fit the tree.
        """

    def replay_batch(self, payload: bytes | bytearray | memoryview) -> int:
        """Apply a logged batch, without what was applied before; how many transactions that were.

        Raises ApplyError: as for ``replay``.
        """
