from asyncio import AbstractEventLoop
from collections.abc import Callable

from fastzk._log import Batch
from fastzk.server._apply import Applier
from fastzk.server._clients import Clients
from fastzk.server._line import Line

class Following(Line):
    """Has the leader decide the writes of this server's clients, and applies what is committed.

    ``limit``: requests under way from which on clients are made to wait (``globalOutstandingLimit``).
    ``on_failure``: told of what must end the server.
    """

    #: Sends a FORWARD frame to the leader; called at most once per turn and 256 KiB. Must not call back.
    send_forward: Callable[[bytes], object]
    def __init__(
        self,
        loop: AbstractEventLoop,
        clients: Clients,
        applier: Applier,
        limit: int,
        on_failure: Callable[[BaseException], object],
    ) -> None: ...
    @property
    def active(self) -> bool:
        """Whether there is a leader to ask."""

    @property
    def unapplied(self) -> int:
        """Committed batches that wait for the answer to a sync before they can be applied."""

    def follow(self) -> None:
        """There is a leader, and everything up to its opening batch is applied: take requests from now on.

        Raises RuntimeError if there was one before and ``close`` was not called.
        """

    def outcome(self, frame: bytes | bytearray | memoryview, skip: int = 0) -> None:
        """What the leader says of the requests. One of an earlier stretch of following is ignored.

        ``skip``: so many bytes at the beginning are not of the frame.

        Raises:
            ValueError: the frame is malformed, or does not fit what was asked.
        """

    def committed(self, batch: Batch | bytes | bytearray | memoryview) -> None:
        """Apply the next batch (one of the log, or its payload), which is durable here and committed, and answer.

        The batch must not be used for anything else any more. What of it was applied before is left out.

        Raises:
            ApplyError: it is malformed, does not follow the last one, or does not fit the tree.
            ValueError: it lacks a transaction that the leader announced.
        """

    def close(self, reason: str) -> None:
        """There is no leader to ask any more: close the clients that wait for an answer, which is not known.

        What is committed is still applied; afterwards nothing is unapplied. Without a leader before, it does nothing.
        """
