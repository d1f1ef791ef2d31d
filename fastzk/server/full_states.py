"""Full states under way: from a leader to its followers, and from the leader to this server.

``transfer.py`` knows how one is sent and taken in; here is when: who is sent one now, what is received, what is given
up when a connection or a role ends, and what the core is told of all that.

::

    SendState    --> send    --> StateSender, StatePump --> frames, between others --> core: leading.state_sent
    ReceiveState --> receive --> StateReceiver
    frames       --> came    --> feed ... the last one: seal, in another thread --> install --> begin anew

A leader keeps the log behind a state until its follower has had time to come back for it; a follower keeps its own
behind a state that is being sealed, which may have to be the base of that log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from fastzk._log import LogHold
from fastzk.server.config import Config
from fastzk.server.recovery import Recovered
from fastzk.server.store import StoreError
from fastzk.server.transfer import StatePump, StateReceiver, StateSender, TransferError
from fastzk.server.zab.core import Core

logger = logging.getLogger(__name__)

#: How long the log behind a full state is kept for the follower that was sent it.
HOLD_SECONDS: Final = 60.0


class FullStates:
    """All transfers of full states of one server.

    ``send`` (server, stream, frame) sends a part of a state, of which ``pending`` (server) bytes are not sent yet.
    ``guarded`` calls what it is given as something that happened to the core. ``on_installed``: a state has replaced
    what is on the disk, so what is in memory counts no more. ``on_failure``: gets what must end the server.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        recovered: Recovered,
        core: Core,
        *,
        send: Callable[[int, int, bytes], object],
        pending: Callable[[int], int],
        guarded: Callable[..., object],
        on_installed: Callable[[], object],
        on_failure: Callable[[BaseException], object],
    ) -> None:
        assert recovered.history is not None  # a member's
        self._loop = loop
        self._config = config
        self._core = core
        self._history = recovered.history
        self._log = recovered.log
        self._store = recovered.store
        self._sessions = recovered.sessions
        self._send = send
        self._pending = pending
        self._guarded = guarded
        self._on_installed = on_installed
        self._on_failure = on_failure
        #: To followers, by server.
        self._pumps: dict[int, StatePump] = {}
        #: From the leader, with its stream.
        self._receiving: tuple[int, StateReceiver] | None = None
        #: What keeps this server's log while another thread seals the state that was received.
        self._kept: LogHold | None = None

    # -- to a follower -----------------------------------------------------------------------------------------------

    def send(self, to: int, stream: int) -> None:
        """Send `to` the newest checkpoint, instead of what may be on its way there. Raises StoreError."""
        self.stop_sending(to)
        sender = StateSender(self._store, self._log, self._sessions.secret)

        def done(ok: bool) -> None:
            leading = self._core.leading
            if leading is not None:
                self._guarded(leading.state_sent, to, stream, ok)
            # The log behind that state is kept until the follower has had time to come back for it: it begins anew,
            # so its connection ends meanwhile.
            self._pumps.pop(to, None)
            self._loop.call_later(HOLD_SECONDS if ok else 0, sender.close)

        logger.info("sending the full state to=%d zxid=0x%x pages=%d", to, sender.zxid, sender.pages)
        self._pumps[to] = StatePump(
            self._loop,
            sender,
            send=partial(self._send, to, stream),
            pending=partial(self._pending, to),
            done=done,
        )

    def stop_sending(self, to: int) -> None:
        """Send `to` no more of a state, if one is on its way there."""
        pump = self._pumps.pop(to, None)
        if pump is not None:
            pump.close()

    # -- from the leader ---------------------------------------------------------------------------------------------

    def receive(self, stream: int) -> None:
        """Get ready for the state that the leader has announced; it comes in this stream."""
        logger.info("receiving the full state from=%s", self._core.leader)
        self._stop_receiving()
        try:
            self._receiving = (stream, StateReceiver(self._config, self._log.store_id))
        except (StoreError, OSError) as error:
            self._cannot_receive(error)

    def came(self, stream: int, frame: memoryview) -> None:
        """Take in a part of the leader's state, unless it is of a stream that is over."""
        following = self._core.following
        if following is None or self._receiving is None or not self._receiving[0] == following.stream == stream:
            return
        following.heard()
        receiver = self._receiving[1]
        try:
            if not receiver.feed(frame):
                return
        except (TransferError, StoreError) as error:
            self._cannot_receive(error)
            return
        # With a tree that has diverged the log is sound. It may reach beyond that state, and what this server has
        # acknowledged must not be forgotten. If the disk does not have it up to there, nothing behind is acknowledged.
        known = self._core.diverged and self._history.is_end(receiver.zxid)
        keep_log = known and self._log.durable_zxid >= receiver.zxid
        self._kept = self._history.hold(receiver.zxid)
        sealed = self._loop.run_in_executor(None, partial(receiver.seal, keep_log=keep_log))
        sealed.add_done_callback(partial(self._sealed, receiver))

    def _sealed(self, receiver: StateReceiver, sealed: asyncio.Future[None]) -> None:
        """All of the full state is on the disk, or it is not good."""
        error = sealed.exception()
        if self._receiving is None or self._receiving[1] is not receiver:
            receiver.close()
            return
        try:
            if error is not None:
                raise error
            receiver.install(self._log.last_zxid)
        except (TransferError, StoreError) as reason:
            self._let_go()
            self._guarded(self._cannot_receive, reason)
        except Exception as failure:
            self._on_failure(failure)
        else:
            self._receiving = None
            self._on_installed()

    def _cannot_receive(self, reason: BaseException) -> None:
        logger.error("receiving the full state failed reason=%s; it begins anew", reason)
        self._core.look("the full state could not be taken over")

    def _stop_receiving(self) -> None:
        if self._receiving is not None:
            receiver, self._receiving = self._receiving[1], None
            if not self._let_go():
                receiver.close()  # else another thread is at it: `_sealed` will

    def _let_go(self) -> bool:
        """Have the log keep nothing any more for a state that was received; whether it did."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.release()
        return kept is not None

    # -- both --------------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """This server has lost its role, or ends: nothing that is under way is of use."""
        for peer in list(self._pumps):
            self.stop_sending(peer)
        self._stop_receiving()
