from asyncio import AbstractEventLoop
from collections.abc import Callable

from fastzk._log import TxnLog
from fastzk.server._apply import Applier
from fastzk.server._clients import Clients
from fastzk.server._overlay import Overlay
from fastzk.server._prepare import Preparer
from fastzk.server._spin import Spinner

class Pipeline:
    """Orders, logs, applies and answers the writes of this server.

    ``limit``: requests under way from which on clients are made to wait (``globalOutstandingLimit``).
    ``on_failure``: told of what must end the server. ``loop`` is to call ``on_durable`` whenever ``log.event_fd``
    is readable.
    """

    #: Called, while set, whenever the last pending request was answered.
    idle_callback: Callable[[], object] | None
    #: Told of sessions that were to end, when that could not be recorded.
    on_close_refused: Callable[[list[int]], object]
    #: Bytes above which a request counts as large, and how many bytes of such may be in progress.
    large_threshold: int
    large_max: int
    def __init__(
        self,
        loop: AbstractEventLoop,
        clients: Clients,
        overlay: Overlay,
        preparer: Preparer,
        applier: Applier,
        log: TxnLog,
        limit: int,
        on_failure: Callable[[BaseException], object],
    ) -> None: ...
    @property
    def clients(self) -> Clients: ...
    @property
    def overlay(self) -> Overlay: ...
    @property
    def preparer(self) -> Preparer: ...
    @property
    def applier(self) -> Applier: ...
    spinner: Spinner | None
    @property
    def pending(self) -> int:
        """Requests between arrival and answer."""

    @property
    def limit(self) -> int: ...
    @property
    def large_bytes(self) -> int:
        """Bytes of large requests between arrival and answer."""

    @property
    def read_only(self) -> bool:
        """Whether writes are refused for want of space on the disk."""

    @property
    def txns(self) -> int:
        """Transactions proposed since the start."""

    def expire_session(self, session: int) -> None:
        """Propose the end of a session that was not heard of for its timeout."""

    def reap(self, path: bytes) -> bool:
        """Propose the deletion of a container or TTL znode; whether it could be proposed."""

    def end_of_turn(self) -> None:
        """Give what was proposed to the log, if that is free; the pipeline has the loop call it."""

    def on_durable(self) -> None:
        """The log's eventfd rang: answer what is durable."""

    def space_again(self) -> None:
        """There is room on the disk: take writes again."""
