from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable

from fastzk._log import Batch, TxnLog
from fastzk.server._apply import Applier
from fastzk.server._clients import Clients
from fastzk.server._gather import Gathering
from fastzk.server._line import Line
from fastzk.server._overlay import Overlay
from fastzk.server._owners import Owners
from fastzk.server._prepare import Preparer

class Pipeline(Line):
    """Orders, logs, applies and answers the writes of this server, and of those that follow it.

    ``limit``: requests under way from which on clients are made to wait (``globalOutstandingLimit``).
    ``on_failure``: told of what must end the server, if it happens in a callback of the loop. What the owner calls
    raises instead.

    Made standalone: ``loop`` is to call ``on_durable`` whenever ``log.event_fd`` is readable. For an ensemble it is
    closed first (``close``); its owner then calls ``TxnLog.take_done`` itself. The callables below must not call back
    into the pipeline.
    """

    #: Leading: a batch was given to the log; broadcast it. It stays as it is for as long as anybody refers to it.
    on_submit: Callable[[Batch], object] | None
    #: Leading: send an OUTCOME frame to a server (its id, the frame), ahead of what ``on_submit`` is given after it.
    #: If the third argument is True that comes soon, and the frame may go along with it.
    send_outcome: Callable[[int, bytes, bool], object]
    #: Leading: have a quorum confirm, from now on, that this server leads; the number for ``confirmed_to``, which
    #: grows. Called at most once per turn of the loop.
    confirm: Callable[[], int]
    #: Leading: a client asks for other servers: ((joining, leaving, new members, version that it is meant for), zxid of
    #: the transaction, whether the client may). Returns the text of the new membership, or the error's code. None:
    #: ``reconfigEnabled`` is false.
    reconfigure: Callable[[tuple[str | None, str | None, str | None, int], int, bool], bytes | int] | None
    #: Leading: a session's client has connected to a server (session id, server id, timeout in ms).
    on_claim: Callable[[int, int, int], object] | None
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
    def overlay(self) -> Overlay: ...
    @property
    def preparer(self) -> Preparer: ...
    @property
    def owners(self) -> Owners: ...
    @property
    def gathering(self) -> Gathering:
        """Leading: how long batches wait for company."""

    @property
    def leading(self) -> bool:
        """Whether it leads an ensemble, with its opening applied."""

    def expire_session(self, session: int) -> None:
        """Propose the end of a session that was not heard of for its timeout."""

    def reap(self, path: bytes) -> bool:
        """Propose the deletion of a container or TTL znode; whether it could be proposed."""

    # standalone

    def on_durable(self) -> None:
        """The log's eventfd rang: answer what is durable. Of a standalone server; a leader's owner is asked instead."""

    def no_space(self) -> None:
        """The log could not write: what was proposed is refused, and so is every write until there is room."""

    def space_again(self) -> None:
        """There is room on the disk: take writes again."""

    # leading

    @property
    def last_proposal(self) -> int:
        """Bytes of the last transaction, -1 before the first; in the same way the smallest and the largest one."""

    @property
    def least_proposal(self) -> int: ...
    @property
    def most_proposal(self) -> int: ...
    @property
    def pending_syncs(self) -> int:
        """Confirmations of the leadership that syncs wait for, and frames of other servers' syncs that do."""

    def seal(self) -> None:
        """It leads no more: what is in the log is still answered, and nothing goes there. ``close`` follows soon."""

    def reset_proposals(self) -> None:
        """Forget the sizes of transactions so far."""

    @property
    def inherited(self) -> int:
        """The last zxid before the opening that ``begin`` proposed last: what ``catch_up`` has to apply before that."""

    def begin(self, epoch: int, membership: bytes | None = None) -> int:
        """Propose the opening of a new epoch, which this server leads; its zxid.

        With ``membership`` it brings the first content of /zookeeper/config, otherwise it changes nothing. Everything
        in the log before it has to be applied (``catch_up``) before ``commit_to`` reaches it.

        Raises:
            RuntimeError: it is not closed.
            ValueError: the epoch is not a later one than the log's last.
        """

    def change_membership(self, make: Callable[[int], bytes]) -> None:
        """Propose a new membership, which nobody asked for; ``make`` makes its text of the transaction's zxid.

        Raises:
            RuntimeError: it does not lead.
        """

    def lead(self, server_id: int, sessions: Iterable[int]) -> list[int]:
        """The opening is applied: serve clients from now on.

        ``server_id``: this server. ``sessions``: the ids of all that there are. Returns the servers whose requests came
        already and could not be taken: they have to begin anew.

        Raises:
            RuntimeError: the opening is not applied yet, or there is none.
            ValueError: one of those frames is malformed.
        """

    def roll_epoch(self, epoch: int) -> int:
        """Go on in a new epoch: what was asked so far is proposed in the old one, then comes the opening; its zxid.

        Raises:
            RuntimeError: it does not lead.
            ValueError: the epoch is not a later one.
        """

    def durable_to(self, zxid: int) -> None:
        """The log has made everything up to ``zxid`` durable: give it the next round, answer what is committed."""

    def mark_committed(self, zxid: int) -> None:
        """Everything up to ``zxid`` is committed: give the log the next round. ``commit_to`` answers."""

    def commit_to(self, zxid: int) -> None:
        """Everything up to ``zxid`` is committed: answer what is durable here, too.

        Raises:
            RuntimeError: that includes the opening, and what is in the log before it is not applied.
        """

    def confirmed_to(self, number: int) -> None:
        """When ``confirm`` returned ``number``, nobody else could have committed anything."""

    def forwarded(self, server_id: int, frame: bytes | bytearray | memoryview, skip: int = 0) -> bool:
        """Decide the requests of a FORWARD frame, and tell the server what becomes of them.

        ``skip``: so many bytes at the beginning are not of the frame.
        False: frames before it are missing, so this one was not taken; the server has to begin a new stream.

        Raises:
            ValueError: the frame is malformed.
        """

    def forget(self, server_id: int) -> None:
        """The connection to a server is gone: what it asked is not answered any more."""

    def claim(self, session: int, server_id: int, timeout_ms: int) -> bool:
        """The session's client has connected to a server; False if it has ended, as far as is proposed."""

    def close(self, reason: str) -> None:
        """It leads no more: close the clients that wait for an answer, which is not known; forget what was proposed.

        What went to the log stays there, and becomes of it what the next leader says. Nothing is taken until the next
        ``begin``.

        Raises:
            RuntimeError: called from one of its own callbacks.
        """
