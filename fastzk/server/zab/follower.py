"""The role of a server that has a leader: bring the history in line with the leader's, then take batches.

::

    Position (where my history ends) -> Match (do you have this?) -> Position ... -> Sync: drop what is behind
                                     -> Install: a full state                      -> Append, Append, ...

An acknowledgment says: all that I share with the leader up to here is on my disk. So none leaves before Sync, and
none for what was only received. Observers follow in the same way; their acknowledgments are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastzk.server.zab.actions import Follow, Log, ReceiveState
from fastzk.server.zab.messages import (
    Ack,
    Append,
    Commit,
    Heartbeat,
    HeartbeatAck,
    Install,
    Match,
    Message,
    Position,
    Resync,
    Sync,
    opening_zxid,
)
from fastzk.server.zab.role import Role, require

if TYPE_CHECKING:
    from fastzk.server.zab.core import Core

_IN_STREAM: Final = (Append, Commit, Match, Sync, Install)
_FROM_LEADER: Final = (*_IN_STREAM, Heartbeat)


class Following(Role):
    """`leader` leads `epoch`."""

    def __init__(self, core: Core, leader: int, epoch: int, stream: int, commit: int) -> None:
        super().__init__(core)
        self.leader = leader
        self.epoch = epoch
        self.stream = stream
        #: This server may serve clients when it has applied up to here: all that was committed when it joined.
        self.serve_from = max(opening_zxid(epoch), commit)
        #: The history is the leader's, as far as it goes.
        self.synced = False
        #: A full state is coming; batches are of no use until it is here.
        self.installing = False
        self._resync_sent = False
        self._heard = core.now
        self._began = core.now

    @property
    def live_leader(self) -> int | None:
        """The leader, as long as it is heard."""
        core = self.core
        alive = self.leader in core.peers and core.now - self._heard <= self._patience()
        return self.leader if alive else None

    def begin(self) -> None:
        """Say where this server's history ends."""
        self.core.act(Follow(self.leader, self.epoch))
        self._say_first_position()

    def restart(self, stream: int, commit: int) -> None:
        """The leader begins anew to bring this server up to date."""
        self.stream = stream
        self.synced = self.installing = self._resync_sent = False
        self._heard = self._began = self.core.now
        if commit > self.core.commit:
            self.serve_from = max(self.serve_from, commit)
        self._say_first_position()

    def heard(self) -> None:
        """The leader gave a sign of life otherwise, such as a part of a full state."""
        self._heard = self.core.now

    def installed(self) -> None:
        """The full state is in place."""
        require(self.installing, "a full state was installed that nobody sent")
        self.installing = False
        self._began = self._heard = self.core.now
        self._say_position(self.core.history.last_zxid)

    def step(self, sender: int, message: Message) -> None:
        """A message of the leader."""
        if sender != self.leader or message.epoch < self.epoch:
            return
        # Only in this stream: the same server may have lost the leadership meanwhile, and won it again with another
        # history; its NewLeader says so then.
        if isinstance(message, _FROM_LEADER) and message.epoch > self.epoch and message.stream == self.stream:
            self._roll(message.epoch)
        if message.epoch != self.epoch:
            return
        core = self.core
        self._heard = core.now
        if isinstance(message, Heartbeat):
            self._commit(message.commit)
            if core.role is not self:
                return
            promised = self.epoch if core.candidate == self.leader else core.promised
            core.send(sender, HeartbeatAck(self.epoch, message.round, promised))
        elif isinstance(message, _IN_STREAM) and message.stream == self.stream and not self.installing:
            self._in_stream(message)

    def _in_stream(self, message: Append | Commit | Match | Sync | Install) -> None:
        core = self.core
        if isinstance(message, Append):
            if self.synced:
                self._append(message)
        elif isinstance(message, Commit):
            self._commit(message.zxid)
        elif isinstance(message, Match):
            if not self.synced:
                self._say_position(core.history.floor(message.zxid))
        elif self.synced or message.last_zxid != core.history.last_zxid:
            return  # that was said of another history than there is now
        elif isinstance(message, Sync):
            require(core.history.floor(message.zxid) == message.zxid, f"0x{message.zxid:x} is no common batch end")
            if message.zxid < core.history.last_zxid:
                core.truncated(message.zxid)
            self.synced = True
            self._acknowledge()
        else:
            self.installing = True
            core.act(ReceiveState(self.leader, self.stream))

    def tick(self) -> None:
        """Give up a leader that is not heard, or does not get this server in sync."""
        core = self.core
        if core.now - self._heard > self._patience():
            core.look(f"nothing heard of leader {self.leader} for {core.now - self._heard} ms")
        elif not self.synced and not self.installing and core.now - self._began > core.timing.init_limit:
            core.look(f"leader {self.leader} did not bring this server in sync")

    def disconnected(self, peer: int) -> None:
        """Without a connection there is no leader."""
        if peer == self.leader:
            self.core.look(f"the connection to leader {self.leader} is lost")

    def persisted(self) -> None:
        """Tell the leader."""
        if self.synced:
            self._acknowledge()

    def _append(self, message: Append) -> None:
        core = self.core
        if message.previous == core.history.last_zxid:
            core.appended(message.proposal)
            # A membership that is committed is noted before there is a log that the servers it leaves behind lack.
            self._commit(message.commit)
            core.act(Log(message.proposal, message.urgent))
        elif message.previous > core.history.last_zxid and not self._resync_sent:
            self._resync_sent = True
            core.send(self.leader, Resync(self.epoch, self.stream))

    def _commit(self, zxid: int) -> None:
        core = self.core
        if not self.synced or self.installing:
            return
        # The leader can leave with a membership that is pending only.
        voted = core.pending is not None and self.leader in core.voters
        if core.advance(min(zxid, core.history.last_zxid)) and voted and self.leader not in core.voters:
            # It gives up, too, and may not be able to say so. One that is news here is none that has left.
            core.look(f"leader {self.leader} has left the ensemble")

    def _acknowledge(self) -> None:
        core = self.core
        core.send(self.leader, Ack(self.epoch, self.stream, core.durable))

    def _say_first_position(self) -> None:
        self._say_position(-1 if self.core.diverged else self.core.history.last_zxid)

    def _say_position(self, zxid: int) -> None:
        self.core.send(self.leader, Position(self.epoch, self.stream, zxid, self.core.history.last_zxid))

    def _roll(self, epoch: int) -> None:
        """The leader goes on in a later epoch, which a quorum has promised it."""
        core = self.core
        if epoch < core.promised:
            return
        if epoch > core.promised:
            core.save(epoch, self.leader)
        self.epoch = epoch

    def _patience(self) -> int:
        timing = self.core.timing
        return timing.sync_limit if self.synced else max(timing.init_limit, timing.sync_limit)
