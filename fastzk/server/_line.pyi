from collections.abc import Callable

from fastzk.server._apply import Applier
from fastzk.server._clients import Clients
from fastzk.server._spin import Spinner

class Line:
    """The waiting line for writes: what ``Pipeline`` and ``Following`` share."""

    spinner: Spinner | None
    #: Called, while set, whenever the last pending request was answered.
    idle_callback: Callable[[], object] | None
    #: Told of sessions that were to end, when that could not be recorded.
    on_close_refused: Callable[[list[int]], object]
    #: Bytes above which a request counts as large, and how many bytes of such may be in progress.
    large_threshold: int
    large_max: int
    @property
    def clients(self) -> Clients: ...
    @property
    def applier(self) -> Applier: ...
    @property
    def pending(self) -> int:
        """Requests of this server's clients between arrival and answer."""

    @property
    def remote(self) -> int:
        """Transactions proposed for other servers' clients and not applied; only a leader has any."""

    @property
    def limit(self) -> int: ...
    @property
    def large_bytes(self) -> int:
        """Bytes of large requests between arrival and answer."""

    @property
    def read_only(self) -> bool:
        """Whether writes are refused for want of space on the disk."""

    @property
    def shared(self) -> bool:
        """Whether sessions may be another server's, so that the leader is asked before one goes on here."""

    @property
    def txns(self) -> int:
        """Transactions since the start: proposed by a ``Pipeline``, applied by a ``Following``."""

    def catch_up(self, payload: bytes | bytearray | memoryview) -> int:
        """Apply a committed batch that nobody here waits for; how many of its transactions were not applied yet.

        Raises:
            ApplyError: the batch is malformed or does not fit the tree.
        """

    def end_of_turn(self) -> None:
        """Hand on what came in this turn of the event loop; the line has the loop call it."""

    def close(self, reason: str) -> None:
        """Nobody leads: close the clients that wait for an answer, which is not known, and take nothing more.

        Raises:
            RuntimeError: called from one of the line's own callbacks.
        """
