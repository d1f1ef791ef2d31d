"""The leader's role: bring the followers in line, send batches, count acknowledgments, commit.

For each server that is connected there is a ``Progress``::

    GREETED  -> MATCHING -> STREAMING             batches, as many under way as the window allows
             -> INSTALLING (a full state) -> GREETED

A follower whose acknowledgments have come too late to matter is told that its next ones are not urgent: it syncs
several batches at a time then, which spares its disk and its processor. The first one that does matter makes it urgent
again.

What was acknowledged in one stream does not count in the next until it is acknowledged again: a server that comes
back says itself what it has.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Final

from fastzk.server.zab.actions import Confirmed, Lead, Rolled, SendState
from fastzk.server.zab.messages import (
    Ack,
    Append,
    Canvass,
    Commit,
    Heartbeat,
    HeartbeatAck,
    Install,
    Match,
    Message,
    NewLeader,
    Position,
    Promise,
    Proposal,
    Resync,
    Sync,
    opening_zxid,
)
from fastzk.server.zab.role import InvariantViolation, Role

if TYPE_CHECKING:
    from fastzk.server.zab.core import Core

#: Bytes of batches that may be on their way to one follower.
WINDOW_BYTES: Final = 16 << 20
#: Bytes that are read from the history at a time.
PIECE_BYTES: Final = 1 << 20
#: After so many acknowledgments in a row for what was committed already, a follower's next ones are not urgent.
LATE: Final = 4


class Phase(enum.Enum):
    """What the leader is about to do with a follower."""

    GREETED = enum.auto()
    MATCHING = enum.auto()
    INSTALLING = enum.auto()
    STREAMING = enum.auto()


#: What is asked for all the time; an enumeration's members take their time to be found.
_STREAMING: Final = Phase.STREAMING


class Progress:
    """One follower as the leader knows it."""

    def __init__(self, stream: int, now: int) -> None:
        self.stream = stream
        self.phase = Phase.GREETED
        #: The last zxid sent, and the last one known to be on its disk.
        self.sent = 0
        self.acked = 0
        self.commit_told = 0
        #: The last round of heartbeats that it answered.
        self.round = 0
        self.heard = now
        #: When this stream, or the oldest batch that is not acknowledged, began to wait.
        self.began = now
        #: (last zxid, bytes) of batches that it has not acknowledged.
        self.in_flight: deque[tuple[int, int]] = deque()
        self.in_flight_bytes = 0
        #: How many acknowledgments in a row came for what the others had committed without it.
        self.late = 0


class Leading(Role):
    """This server leads `epoch`."""

    def __init__(self, core: Core, epoch: int) -> None:
        super().__init__(core)
        self.epoch = self._first_epoch = epoch
        self.progress: dict[int, Progress] = {}
        self.round = 0
        self._confirmed = 0
        #: When each server of some quorum had been heard since, at least: it is worked out when it matters.
        self._contact = core.now
        #: Streams are numbered on from here, so that no two of this server's have the same number.
        self._streams = epoch << 32
        self._beat_at = core.now
        #: The later epoch that this leader wants for itself, and who promised it.
        self._rolling = 0
        self._promises: set[int] = set()

    # -- what the owner looks at ----------------------------------------------------------------------------------

    @property
    def opening(self) -> int:
        """The zxid that has to be committed before anything may be, and before clients are served."""
        return opening_zxid(self.epoch)

    @property
    def established(self) -> bool:
        """Whether this epoch's opening is committed."""
        return self.core.commit >= self.opening

    @property
    def synced(self) -> set[int]:
        """The servers that take batches as they are made, this one included."""
        return {self.core.id} | {peer for peer, progress in self.progress.items() if progress.phase is _STREAMING}

    @property
    def live_leader(self) -> int | None:
        """This server, as long as it hears a quorum."""
        return self.core.id if self._in_contact() else None

    # -- the role -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Tell everybody."""
        self.core.act(Lead(self.epoch))
        for peer in sorted(self.core.peers):
            self._greet(peer)

    def connected(self, peer: int) -> None:
        """Find out what it has."""
        self._greet(peer)

    def disconnected(self, peer: int) -> None:
        """What it has is not known any more; that it was heard is."""
        self._contact = self._last_contact()
        self.progress.pop(peer, None)
        for progress in self.progress.values():
            progress.late = 0  # it may be one of them that is needed now

    def tick(self) -> None:
        """Heartbeats; give up if too few answer."""
        core = self.core
        if not self._in_contact():
            core.look(f"no quorum was heard for {core.timing.sync_limit} ms")
            return
        if core.now < self._beat_at:
            return
        self._beat_at = core.now + core.timing.heartbeat
        self._beat(core.peers)
        if self._rolling:
            self._ask_to_roll()
        for peer, progress in sorted(self.progress.items()):
            if progress.phase in (Phase.GREETED, Phase.MATCHING):
                lost = core.now - progress.began > core.timing.heartbeat * 2
            elif progress.phase is _STREAMING:
                # A follower acknowledges at once that it shares the history.
                since = progress.began if progress.in_flight or not progress.acked else progress.heard
                lost = core.now - since > core.timing.sync_limit
            else:
                lost = False
            if lost:
                self._greet(peer)  # something was lost on the way, or it has given this leader up

    def step(self, sender: int, message: Message) -> None:
        """An answer of a follower."""
        core = self.core
        if isinstance(message, Promise):
            self._promised(sender, message)
            return
        progress = self.progress.get(sender)
        if progress is None or not self._first_epoch <= message.epoch <= self.epoch:
            return  # or it was said to this server when it led before
        if isinstance(message, HeartbeatAck):
            self._heartbeat_answered(sender, progress, message)
            return
        if not isinstance(message, Position | Ack | Resync) or message.stream != progress.stream:
            return
        progress.heard = core.now
        if isinstance(message, Ack):
            self._acknowledged(sender, progress, message.zxid)
        elif isinstance(message, Resync):
            self._greet(sender)
        elif progress.phase is not _STREAMING:
            self._positioned(sender, progress, message.zxid, message.last_zxid)

    def sought(self, peer: int) -> None:
        """A server that was taken for a follower looks for a leader: it has given this one up."""
        progress = self.progress.get(peer)
        if progress is not None and progress.phase in (_STREAMING, Phase.INSTALLING):
            self._greet(peer)

    def propose(self, proposal: Proposal) -> None:
        """Broadcast a batch of this epoch, or of the one before if the owner has not carried out ``Rolled`` yet."""
        core = self.core
        # One that was made before its maker knew of the later epoch still goes before the opening of that.
        if not self._first_epoch <= proposal.epoch <= self.epoch:
            raise InvariantViolation(f"a batch of epoch {proposal.epoch} is proposed in epoch {self.epoch}")
        previous = core.history.last_zxid
        core.appended(proposal)
        for peer, progress in self.progress.items():
            if (
                progress.phase is _STREAMING
                and progress.sent == previous
                and progress.in_flight_bytes < WINDOW_BYTES
            ):
                self._append(peer, progress, proposal)

    def persisted(self) -> None:
        """This server's own disk counts like any other."""
        core = self.core
        if core.durable > core.commit:
            self._count()

    def settle(self) -> None:
        """Tell the commit point to those whom no batch told it in this turn."""
        core = self.core
        commit = core.commit
        for peer, progress in self.progress.items():
            told = min(commit, progress.sent)
            if progress.phase is _STREAMING and progress.commit_told < told:
                progress.commit_told = told
                core.send(peer, Commit(self.epoch, progress.stream, commit))

    # -- synchronisation ------------------------------------------------------------------------------------------

    def state_sent(self, peer: int, stream: int, ok: bool) -> None:
        """The full state was sent, or could not be: then begin anew."""
        progress = self.progress.get(peer)
        if progress is None or progress.stream != stream or progress.phase is not Phase.INSTALLING:
            return
        progress.began = self.core.now
        if ok:
            progress.phase = Phase.GREETED  # it says where it is once it has installed it
            progress.began += self.core.timing.init_limit
        else:
            self._greet(peer)

    def _greet(self, peer: int) -> None:
        self._streams += 1
        before = self.progress.get(peer)
        progress = self.progress[peer] = Progress(self._streams, self.core.now)
        if before is not None:
            progress.heard, progress.round = before.heard, before.round
        self.core.send(peer, NewLeader(self.epoch, progress.stream, self.core.commit))

    def _positioned(self, peer: int, progress: Progress, zxid: int, last_zxid: int) -> None:
        """Find the last common batch end, or see that there is none that could be used."""
        core = self.core
        if progress.phase is Phase.INSTALLING:
            return
        progress.began = core.now
        shared = core.history.floor(zxid) if zxid >= 0 else -1
        if shared < 0:
            progress.phase = Phase.INSTALLING
            core.send(peer, Install(self.epoch, progress.stream, last_zxid))
            core.act(SendState(peer, progress.stream))
        elif shared != zxid:
            progress.phase = Phase.MATCHING
            core.send(peer, Match(self.epoch, progress.stream, shared))
        else:
            progress.phase = _STREAMING
            progress.sent = zxid
            core.send(peer, Sync(self.epoch, progress.stream, zxid, last_zxid))
            self._pump(peer, progress)

    def _pump(self, peer: int, progress: Progress) -> None:
        """Send what it lacks, as far as the window allows."""
        history = self.core.history
        while progress.sent < history.last_zxid and progress.in_flight_bytes < WINDOW_BYTES:
            if history.floor(progress.sent) != progress.sent:
                self._greet(peer)  # the log was purged meanwhile
                return
            for proposal in history.after(progress.sent, PIECE_BYTES):
                self._append(peer, progress, proposal)

    def _append(self, peer: int, progress: Progress, proposal: Proposal) -> None:
        core = self.core
        if not progress.in_flight:
            progress.began = core.now
        urgent = progress.late < LATE
        core.send(peer, Append(self.epoch, progress.stream, progress.sent, core.commit, urgent, proposal))
        progress.sent = proposal.last_zxid
        progress.commit_told = min(core.commit, progress.sent)
        size = len(proposal.payload)
        progress.in_flight.append((proposal.last_zxid, size))
        progress.in_flight_bytes += size

    # -- counting -------------------------------------------------------------------------------------------------

    def _acknowledged(self, peer: int, progress: Progress, zxid: int) -> None:
        if progress.phase is not _STREAMING or zxid <= progress.acked:
            return
        if zxid > progress.sent:
            raise InvariantViolation(f"server {peer} acknowledges 0x{zxid:x}, sent was 0x{progress.sent:x}")
        core = self.core
        progress.acked = zxid
        progress.began = core.now
        while progress.in_flight and progress.in_flight[0][0] <= zxid:
            progress.in_flight_bytes -= progress.in_flight.popleft()[1]
        news = zxid > core.commit
        progress.late = 0 if news and peer in core.voters else progress.late + 1
        if news:
            self._count()
        if core.role is self and progress.sent < core.history.last_zxid:
            self._pump(peer, progress)

    def _count(self) -> None:
        """Move the commit point to the last zxid of this epoch that a quorum has on its disks."""
        core = self.core
        while self._move():
            pass  # a new membership may have been committed by that, and its quorum may have more
        self._confirm()
        if self.established and core.id not in core.voters:
            self.settle()
            core.look("the committed membership has this server vote no more")

    def _move(self) -> bool:
        """Move the commit point as far as the membership allows that is in force; whether another one is now."""
        core = self.core
        pending, quorum = core.pending, core.quorum
        own, floor = core.durable, max(core.commit + 1, self.opening)
        acked = {}  # what the servers have that could be committed
        if own >= floor:
            acked[core.id] = own
        for peer, progress in self.progress.items():
            if progress.acked >= floor:
                acked[peer] = progress.acked
        # What all of them have, then what is left if those go who have the least. Observers count for no quorum.
        zxid = 0
        while acked and quorum.reached(acked.keys()):
            zxid = min(acked.values())
            acked = {peer: each for peer, each in acked.items() if each > zxid}
        if zxid:
            core.advance(zxid)
        return core.pending is not pending

    def _heartbeat_answered(self, peer: int, progress: Progress, message: HeartbeatAck) -> None:
        core = self.core
        if message.promised > max(self.epoch, self._rolling):
            if peer in core.voters:
                core.look(f"server {peer} has promised epoch {message.promised}")
            return
        if message.promised > self.epoch:
            return  # what this leader wants to roll over to: it promises that in its own way
        progress.heard = core.now
        if message.epoch == self.epoch and message.round > progress.round:
            progress.round = message.round
            self._confirm()

    # -- leadership -----------------------------------------------------------------------------------------------

    def confirm(self) -> int:
        """Have a quorum confirm that this server leads; the number that ``Confirmed`` will carry."""
        self.round += 1
        self._beat(self.core.voters & self.core.peers)
        self._confirm()
        return self.round

    def _confirm(self) -> None:
        core = self.core
        # Before its first batch is committed a leader may not know all that its predecessors had committed.
        if self._confirmed == self.round or core.commit < opening_zxid(self._first_epoch):
            return
        rounds = {peer: each.round for peer, each in self.progress.items() if peer in core.voters}
        rounds[core.id] = self.round
        for number in sorted(set(rounds.values()), reverse=True):
            if number <= self._confirmed:
                return
            if core.quorum.reached({peer for peer, each in rounds.items() if each >= number}):
                self._confirmed = number
                core.act(Confirmed(number))
                return

    def _beat(self, peers: set[int] | frozenset[int]) -> None:
        for peer in sorted(peers):
            if peer in self.progress:
                self.core.send(peer, Heartbeat(self.epoch, self.progress[peer].stream, self.round, self.core.commit))

    def _in_contact(self) -> bool:
        """Whether a quorum was heard within the limit."""
        core = self.core
        limit = core.timing.sync_limit
        if core.now - self._contact > limit:
            self._contact = self._last_contact()
        return core.now - self._contact <= limit

    def _last_contact(self) -> int:
        """When each server of some quorum had been heard since."""
        core = self.core
        voters = core.voters
        heard = {peer: progress.heard for peer, progress in self.progress.items() if peer in voters}
        heard[core.id] = core.now
        for since in sorted(set(heard.values()), reverse=True):
            if since <= self._contact:
                break
            if core.quorum.reached({peer for peer, each in heard.items() if each >= since}):
                return since
        return self._contact

    def roll(self) -> None:
        """Ask for a later epoch while leading on: the counter of this one comes to its end. ``Rolled`` follows."""
        if not self._rolling:
            core = self.core
            self._rolling = core.promised + 1
            self._promises = {core.id}
            core.save(self._rolling, core.id)
            self._ask_to_roll()

    def _ask_to_roll(self) -> None:
        core = self.core
        for voter in sorted((core.voters & core.peers) - self._promises):
            core.send(voter, Canvass(self._rolling, core.history.last_zxid))
        self._rolled()

    def _promised(self, sender: int, message: Promise) -> None:
        core = self.core
        if not self._rolling or message.epoch != self._rolling:
            return
        if not message.granted:
            if message.promised > self._rolling and sender in core.voters:
                core.look(f"server {sender} has promised epoch {message.promised}")
            return
        self._promises.add(sender)
        self._rolled()

    def _rolled(self) -> None:
        if self._rolling and self.core.quorum.reached(self._promises):
            self.epoch, self._rolling = self._rolling, 0
            self.core.act(Rolled(self.epoch))
