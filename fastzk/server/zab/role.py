"""What the three roles of a server have in common, and what they need from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fastzk.server.zab.messages import Message, Proposal

if TYPE_CHECKING:
    from fastzk.server.zab.core import Core


class InvariantViolation(AssertionError):
    """Something that must always hold does not: the server has to stop before it does harm."""


class Diverged(Exception):
    """A leader does not have what this server knows to be committed: they are not of one ensemble's history."""


def require(condition: bool, what: str) -> None:
    """An assertion that stays on. Raises InvariantViolation."""
    if not condition:
        raise InvariantViolation(what)


class History(Protocol):
    """The log as the core sees it: batch ends, and the batches behind one."""

    @property
    def last_zxid(self) -> int:
        """The end of the log, durable or not; ``base_zxid`` if there is nothing behind that."""

    @property
    def base_zxid(self) -> int:
        """Everything after this one can be had."""

    def floor(self, zxid: int) -> int:
        """The greatest batch end, or ``base_zxid``, that is not above `zxid`; -1 if `zxid` is below all."""

    def after(self, zxid: int, max_bytes: int) -> Sequence[Proposal]:
        """Batches behind the batch end `zxid`, at least one unless it is the last one."""

    def append(self, proposal: Proposal) -> None:
        """Add a batch at the end."""

    def truncate(self, zxid: int) -> None:
        """Drop everything behind the batch end `zxid`."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in milliseconds.

    ``sync_limit``: how long a leader and a follower may hear nothing of each other, ``init_limit``: the same while
    they synchronise. ``retry``: how long a candidate waits for answers. ``jitter``: candidates start that much apart.
    """

    heartbeat: int
    sync_limit: int
    init_limit: int
    retry: int = 200
    jitter: int = 15


class Role:
    """What the three roles have in common: nothing happens unless a role says so."""

    def __init__(self, core: Core) -> None:
        self.core = core

    @property
    def live_leader(self) -> int | None:
        """The leader that this server hears, itself included."""
        return None

    def begin(self) -> None:
        """The role was taken."""

    def step(self, sender: int, message: Message) -> None:
        """A message that is neither a Probe, nor a Canvass, nor the first NewLeader of an epoch."""

    def tick(self) -> None:
        """Time has passed."""

    def connected(self, peer: int) -> None:
        """Messages can be sent to `peer` from now on."""

    def disconnected(self, peer: int) -> None:
        """Messages to `peer` are lost from now on; some before may be, too."""

    def persisted(self) -> None:
        """More of the log is durable."""

    def settle(self) -> None:
        """The turn ends: say what can ride on nothing else."""
