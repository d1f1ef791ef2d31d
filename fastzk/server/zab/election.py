"""The role of a server that knows no leader: it looks for one, and stands for election itself.

::

    wait (a little, by chance) -> probe: a quorum would promise? -> canvass: a quorum promises -> lead
      ^                             |                                |
      +--------- retry, later and later, until a leader says so -----+

A candidate that hears of a longer history gives way to its owner, who is *hastened*; one that consented to
another *defers* its own attempt. So among equals the highest number wins, and nobody waits longer than needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastzk.server.zab.messages import Canvass, Message, Probe, ProbeReply, Promise
from fastzk.server.zab.role import Role

if TYPE_CHECKING:
    from fastzk.server.zab.core import Core

#: A candidate's pause grows with each attempt, up to so many times ``Timing.retry``.
LONGEST_PAUSE: Final = 5


class Looking(Role):
    """Nobody leads, as far as this server knows."""

    def __init__(self, core: Core, reason: str) -> None:
        super().__init__(core)
        self.reason = reason
        self._attempts = 0
        #: Names one attempt to probe.
        self._round = core.random.getrandbits(62)
        #: The epoch that is asked for, 0 while this server is no candidate; and who consented.
        self._epoch = 0
        self._canvassing = False
        self._grants: set[int] = set()
        #: The latest epoch that a refusal spoke of.
        self._seen = 0
        self._deferred = 0
        self._next = core.now + core.random.randint(0, core.timing.jitter)

    @property
    def campaigning(self) -> bool:
        """Whether this server is a candidate just now."""
        return self._epoch != 0

    def defer(self) -> None:
        """Another candidate has this server's consent: give it time."""
        self._epoch = 0
        self._grants.clear()
        self._next = self._deferred = max(self._next, self.core.now + self._pause())

    def hasten(self) -> None:
        """Somebody with a shorter history stands for election: this server is the better candidate."""
        if not self.campaigning and self.core.now >= self._deferred:
            self._next = min(self._next, self.core.now)
            self.tick()

    def tick(self) -> None:
        """Stand for election if it is time."""
        core = self.core
        if core.now < self._next or not core.electable:
            return
        if not core.quorum.reached(core.peers | {core.id}):
            self._epoch = 0  # nobody to ask; as soon as there is, ask
            self._next = core.now + core.timing.jitter
            return
        self._next = core.now + self._pause()
        self._attempts += 1
        self._epoch = max(core.promised, core.history.last_zxid >> 32, self._seen) + 1
        self._canvassing = False
        self._round += 1
        self._grants = {core.id}
        for voter in sorted(core.voters - {core.id}):
            core.send(voter, Probe(self._epoch, self._round, core.history.last_zxid))
        self._count()

    def step(self, sender: int, message: Message) -> None:
        """The votes."""
        if isinstance(message, ProbeReply):
            self._seen = max(self._seen, message.epoch)
            if self.core.learn(message.membership) and self.campaigning:
                self._count()  # fewer may be enough
            if message.granted and message.round == self._round and self.campaigning and not self._canvassing:
                self._grants.add(sender)
                self._count()
        elif isinstance(message, Promise):
            self._seen = max(self._seen, message.promised)
            if message.granted and message.epoch == self._epoch and self._canvassing:
                self._grants.add(sender)
                self._count()

    def _count(self) -> None:
        core = self.core
        if not core.quorum.reached(self._grants):
            return
        if self._canvassing:
            core.lead(self._epoch)
            return
        if self._epoch <= core.promised:
            self._epoch = 0  # another was promised that epoch while the votes were coming in
            return
        self._canvassing = True
        self._grants = {core.id}
        core.save(self._epoch, core.id)
        for voter in sorted(core.voters - {core.id}):
            core.send(voter, Canvass(self._epoch, core.history.last_zxid))
        self._count()

    def _pause(self) -> int:
        timing = self.core.timing
        factor = min(1 + self._attempts // 2, LONGEST_PAUSE)
        return timing.retry * factor // 2 + self.core.random.randint(0, timing.retry * factor // 2)
