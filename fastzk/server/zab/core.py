"""The atomic broadcast of one server: a state machine without sockets, files, clock or randomness of its own.

Read this first, then ``election.py`` (nobody leads), ``leader.py`` and ``follower.py``: a server is always in one of
these three roles, and ``Core`` holds what outlives a change of role. ``messages.py`` lists what servers say.

The story
---------
A zxid is ``epoch << 32 | counter``. The leader of an epoch begins it with an *opening* batch: one transaction that
changes nothing, number 1. Behind it numbers follow one another without a gap. An epoch has at most one leader, so a
zxid names one transaction for ever, two logs that share a zxid share everything before it, and of two histories the
one with the greater last zxid is the more recent. That is all that servers compare: there is no second number that
could advance without the log, or lag behind it.

*Election.* A candidate first probes: would you promise me a new epoch? That changes nothing, so a server that was
cut off cannot disturb a leader the others still hear. With the consent of a quorum it canvasses for promises. A
voter promises an epoch once, durably, and only to a candidate whose history is at least as recent as its own.

*Synchronisation.* With the promises of a quorum it leads, and finds with each follower the last batch that both
have. What the follower has behind that was never committed, and is dropped; what the leader has behind it follows,
or, if its log does not reach back so far, a full state.

*Broadcast.* Batches are sent while earlier ones are under way. A follower acknowledges what is on its disk. A
batch is committed when a quorum has acknowledged it *and* it is of the leader's own epoch; what is before it is
committed with it. So is everything that a new leader found in its log, by its opening batch; and only then it
serves clients.

The way of using it
-------------------
The owner calls ``step``, ``tick``, ``connected``, ``disconnected``, ``persisted``, ``propose`` and so on, and then
carries out what ``take()`` returns, in order; when nothing more is to be proposed in a turn, it calls ``settle`` and
takes what that adds. That a promise is durable before it is sent, and an acknowledgment is sent after ``fdatasync``,
depends on that. ``history`` is the core's to append and to truncate (in memory); the owner does the same to the disk
when it is told to.

What must hold is checked where it could break, in production, too: ``InvariantViolation`` ends the server.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fastzk.server.zab.actions import Action, Look, Reconfigured, Save, Send, Truncate
from fastzk.server.zab.election import Looking
from fastzk.server.zab.follower import Following
from fastzk.server.zab.leader import Leading
from fastzk.server.zab.messages import (
    Canvass,
    HeartbeatAck,
    Message,
    NewLeader,
    Probe,
    ProbeReply,
    Promise,
    Proposal,
    follows,
)
from fastzk.server.zab.quorum import Joint, Membership, Quorum
from fastzk.server.zab.role import Diverged, History, InvariantViolation, Role, Timing, require


class Core:
    """The broadcast's state that outlives a role.

    Args:
        my_id: this server.
        membership: the committed one.
        history: the log, whose content is durable.
        commit: known to be committed (what the state was loaded with).
        promise: the last (epoch, candidate) of ``Save``; (0, -1) for a new server.
        pending: (zxid, membership) of a reconfiguration in the log behind `commit`, or None; also None if the last
            ``Reconfigured`` said that it is committed: then it is `membership`.
        inspect: the membership that a batch's reconfiguration brings, None if there is none in it.
        timing: durations.
        random: the only source of chance.
        now_ms: the time, by any monotonic clock.
    """

    def __init__(
        self,
        my_id: int,
        membership: Membership,
        history: History,
        *,
        commit: int,
        promise: tuple[int, int],
        pending: tuple[int, Membership] | None,
        inspect: Callable[[Proposal], Membership | None],
        timing: Timing,
        random: Random,
        now_ms: int,
    ) -> None:
        self.id = my_id
        self.membership = membership
        self.pending = pending
        self.history = history
        self.inspect = inspect
        self.timing = timing
        self.random = random
        self.now = now_ms
        #: The latest epoch promised, and to whom.
        self.promised, self.candidate = promise
        #: Everything up to here is on this server's disk, is committed.
        self.durable = history.last_zxid
        self.commit = commit
        #: Servers that messages can be sent to.
        self.peers: set[int] = set()
        self._actions: list[Action] = []
        #: The state is not what the log's committed part makes of it, so it is good for nothing: this server neither
        #: leads nor follows before it got a full state. Its log is as good as before: it goes on to vote by that, and
        #: must not forget what it acknowledged.
        self.diverged = False
        self.role: Role
        #: The role again, if this server leads, or follows.
        self.leading: Leading | None
        self.following: Following | None
        self.take_role(Looking(self, "start"))

    # -- what the owner looks at ----------------------------------------------------------------------------------

    @property
    def leader(self) -> int | None:
        """Who leads as far as this server knows; None while it looks for a leader."""
        if self.leading is not None:
            return self.id
        return self.following.leader if self.following is not None else None

    @property
    def voter(self) -> bool:
        """Whether this server votes."""
        return self.id in self.membership.voters or (self.pending is not None and self.id in self.pending[1].voters)

    @property
    def electable(self) -> bool:
        """Whether this server may lead: not if it is a voter whose vote weighs nothing, or its state is worthless."""
        return not self.diverged and (
            self.id in self.membership.electable
            or (self.pending is not None and self.id in self.pending[1].electable)
        )

    @property
    def quorum(self) -> Quorum:
        """Whose consent is needed: while a reconfiguration is pending, that of both memberships."""
        if self.pending is None:
            return self.membership.quorum
        return Joint(self.membership.quorum, self.pending[1].quorum)

    @property
    def voters(self) -> frozenset[int]:
        """Everybody whose vote counts in ``quorum``."""
        if self.pending is None:
            return self.membership.quorum.voters
        return self.membership.quorum.voters | self.pending[1].quorum.voters

    def take(self) -> list[Action]:
        """What is to be done, in this order; called until it returns nothing."""
        actions, self._actions = self._actions, []
        return actions

    # -- what happens to it ---------------------------------------------------------------------------------------

    def settle(self) -> None:
        """The owner's turn ends: have said what nothing that was proposed in it could carry along."""
        self.role.settle()

    def tick(self, now_ms: int) -> None:
        """The time is `now_ms`. A few times in ``Timing.jitter`` while nobody leads, else in ``heartbeat``."""
        self.now = max(self.now, now_ms)
        self.role.tick()

    def connected(self, peer: int) -> None:
        """Messages can be sent to `peer`."""
        self.peers.add(peer)
        self.role.connected(peer)

    def disconnected(self, peer: int) -> None:
        """The connection to `peer` is gone."""
        self.peers.discard(peer)
        self.role.disconnected(peer)

    def persisted(self, zxid: int) -> None:
        """The log is durable up to `zxid`."""
        zxid = min(zxid, self.history.last_zxid)
        if zxid > self.durable:
            self.durable = zxid
            self.role.persisted()

    def step(self, sender: int, message: Message) -> None:
        """A message has arrived.

        Raises:
            InvariantViolation, Diverged: the server has to stop.
        """
        if isinstance(message, Probe):
            self._probed(sender, message)
        elif isinstance(message, Canvass):
            self._canvassed(sender, message)
        elif isinstance(message, NewLeader):
            self._new_leader(sender, message)
        else:
            self.role.step(sender, message)

    def propose(self, proposal: Proposal) -> None:
        """Broadcast a batch, which the owner has given to its own log. Only while leading."""
        leading = self.leading
        require(leading is not None, "only a leader proposes")
        assert leading is not None
        leading.propose(proposal)

    def confirm(self) -> int:
        """Ask the quorum whether this server still leads; ``Confirmed`` says so. Only while leading."""
        leading = self.leading
        require(leading is not None, "only a leader can be confirmed")
        assert leading is not None
        return leading.confirm()

    def installed(self, zxid: int, membership: Membership) -> None:
        """A full state up to `zxid` has replaced what this server had; ``history`` begins anew there."""
        require(self.history.last_zxid == zxid == self.history.base_zxid, "an installed state is the whole history")
        require(zxid >= self.commit, "a full state does not go back")
        self.durable = self.commit = zxid
        self.membership = membership
        self.pending = None
        self.diverged = False
        following = self.following
        if following is not None:
            following.installed()

    def disown(self, reason: str) -> None:
        """The state has diverged: see ``diverged``."""
        self.diverged = True
        if not isinstance(self.role, Looking):
            self.look(reason)

    # -- votes: the same in every role ----------------------------------------------------------------------------
    # Whether this server is a voter is for the candidate to say: it may know a membership that is news here.

    def _probed(self, sender: int, message: Probe) -> None:
        leader = self.role.live_leader
        last = self.history.last_zxid
        granted = leader is None and message.epoch > self.promised and message.last_zxid >= last
        if isinstance(self.role, Looking):
            if granted:
                # Of two candidates the one with the longer history wins, then the one with the higher number.
                granted = not self.role.campaigning or (message.last_zxid, sender) > (last, self.id)
            if granted:
                self.role.defer()
            elif (last, self.id) > (message.last_zxid, sender):
                self.role.hasten()
        known = self.membership.version
        self.send(
            sender,
            ProbeReply(self.promised, message.round, granted, last, -1 if leader is None else leader, known),
        )
        if self.leading is not None and leader == self.id:
            self.leading.sought(sender)

    def _canvassed(self, sender: int, message: Canvass) -> None:
        leader = self.role.live_leader
        renewed = message.epoch == self.promised and self.candidate == sender
        # The leader itself asks if it wants a later epoch to go on in. But it may also have crashed and lost the end
        # of its log, and this server does not know it yet: its history counts like anybody's.
        granted = (
            (leader is None or leader == sender)
            and (message.epoch > self.promised or renewed)
            and message.last_zxid >= self.history.last_zxid
        )
        if granted:
            if not renewed:
                self.save(message.epoch, sender)
            if leader != sender:
                if isinstance(self.role, Looking):
                    self.role.defer()
                else:
                    self.look(f"promised epoch {message.epoch} to server {sender}")
        self.send(sender, Promise(message.epoch, self.promised, granted))

    def _new_leader(self, sender: int, message: NewLeader) -> None:
        if message.epoch < self.promised and not self._rolling_with(sender):
            self.send(sender, HeartbeatAck(message.epoch, 0, self.promised))
            return
        if self.leading is not None:
            require(message.epoch != self.leading.epoch, f"two leaders of epoch {message.epoch}: {sender} and this one")
            if message.epoch < self.leading.epoch:
                return
        following = self.following
        if following is not None and following.leader == sender and message.epoch == following.epoch:
            if message.stream > following.stream:
                following.restart(message.stream, message.commit)
            return
        if following is not None:
            require(
                message.epoch != following.epoch,
                f"two leaders of epoch {message.epoch}: {sender} and {following.leader}",
            )
            if message.epoch < following.epoch:
                return
        if self.leading is not None or following is not None:
            self.look(f"server {sender} leads epoch {message.epoch}")
        if message.epoch > self.promised:
            self.save(message.epoch, sender)
        self.take_role(Following(self, sender, message.epoch, message.stream, message.commit))

    def _rolling_with(self, sender: int) -> bool:
        """Whether the later epoch that was promised is the live leader's own."""
        following = self.following
        return following is not None and following.leader == sender == self.candidate

    # -- for the roles --------------------------------------------------------------------------------------------

    def act(self, action: Action) -> None:
        """Have the owner do something."""
        self._actions.append(action)

    def send(self, to: int, message: Message) -> None:
        """Have a message sent, if that is possible now."""
        if to in self.peers:
            self._actions.append(Send(to, message))

    def save(self, epoch: int, candidate: int) -> None:
        """Promise an epoch."""
        require(epoch > self.promised, f"epoch {epoch} is promised after {self.promised}")
        self.promised, self.candidate = epoch, candidate
        self.act(Save(epoch, candidate))

    def take_role(self, role: Role) -> None:
        """Change the role."""
        self.role = role
        self.leading = role if isinstance(role, Leading) else None
        self.following = role if isinstance(role, Following) else None
        role.begin()

    def lead(self, epoch: int) -> None:
        """A quorum has promised `epoch` to this server."""
        require(self.candidate == self.id and self.promised == epoch, f"epoch {epoch} is not this server's own")
        self.take_role(Leading(self, epoch))

    def look(self, reason: str) -> None:
        """Give up leading or following."""
        self.act(Look(reason))
        self.take_role(Looking(self, reason))

    def appended(self, proposal: Proposal) -> None:
        """Append a batch to the history, and note the membership that it may bring."""
        if not follows(self.history.last_zxid, proposal.first_zxid):
            last = self.history.last_zxid
            raise InvariantViolation(f"batch 0x{proposal.first_zxid:x} does not follow 0x{last:x}")
        self.history.append(proposal)
        membership = self.inspect(proposal)
        if membership is not None:
            if self.pending is not None:
                # Its leader had committed the one before, or it would not have proposed another.
                self._adopt()
            self.pending = (proposal.last_zxid, membership)

    def truncated(self, zxid: int) -> None:
        """Drop what the leader does not have."""
        if zxid < self.commit:
            raise Diverged(
                f"the leader's history leaves this server's at zxid 0x{zxid:x}, before 0x{self.commit:x}, "
                "which is known to be committed"
            )
        self.history.truncate(zxid)
        self.durable = min(self.durable, zxid)
        if self.pending is not None and self.pending[0] > zxid:
            self.pending = None
        self.act(Truncate(zxid))

    def advance(self, commit: int) -> bool:
        """Everything up to `commit` is committed. Whether that is news."""
        if commit <= self.commit:
            return False
        if commit > self.history.last_zxid:
            raise InvariantViolation(f"0x{commit:x} is committed but not in the history")
        self.commit = commit
        if self.pending is not None and commit >= self.pending[0]:
            self._adopt()
        return True

    def learn(self, membership: int) -> bool:
        """Another server knows that the membership of this zxid is committed. Whether that is news.

        It is this server's pending one, then, since a zxid names one transaction for ever. Those that it leaves behind
        stand for no election, and their longer histories would be in the way of those that it is made of.
        """
        if self.pending is None or self.pending[0] != membership:
            return False
        self._adopt()
        return True

    def _adopt(self) -> None:
        assert self.pending is not None
        zxid, self.membership = self.pending
        self.pending = None
        self.act(Reconfigured(zxid, self.membership))
