"""What the broadcast wants done: the core decides, its owner acts, in this order and without leaving anything out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from fastzk.server.zab.messages import Message, Proposal
from fastzk.server.zab.quorum import Membership


@dataclass(frozen=True)
class Save:
    """Make the promise durable before doing anything that comes after."""

    epoch: int
    candidate: int


@dataclass(frozen=True)
class Send:
    """Send a message to another server. It may get lost."""

    to: int
    message: Message


@dataclass(frozen=True)
class Log:
    """Append a batch from the leader to the log, and call ``persisted`` when it is durable.

    Unless it is `urgent`, nobody waits for that: it may be written and synced with those that follow.
    """

    proposal: Proposal
    urgent: bool


@dataclass(frozen=True)
class Truncate:
    """Drop everything after `zxid` from the log, durably, before doing anything that comes after."""

    zxid: int


@dataclass(frozen=True)
class SendState:
    """Send a full state to a follower, then call ``state_sent``."""

    to: int
    stream: int


@dataclass(frozen=True)
class ReceiveState:
    """The leader is about to send a full state: take it, then call ``installed``."""

    leader: int
    stream: int


@dataclass(frozen=True)
class Lead:
    """This server leads: propose the opening batch of `epoch` now."""

    epoch: int


@dataclass(frozen=True)
class Rolled:
    """The leader's epoch is a later one now: propose its opening batch as the next one."""

    epoch: int


@dataclass(frozen=True)
class Follow:
    """This server follows. It may serve clients when `serve_from` is applied (see ``Core.serve_from``)."""

    leader: int
    epoch: int


@dataclass(frozen=True)
class Look:
    """This server neither leads nor follows any more."""

    reason: str


@dataclass(frozen=True)
class Confirmed:
    """When `round` was asked for, nobody else could have committed anything."""

    round: int


@dataclass(frozen=True)
class Reconfigured:
    """A new membership is committed, by the batch that ends with `zxid`. Note that durably before anything that comes
    after: once the servers that have left are gone, nobody else may be there to say so."""

    zxid: int
    membership: Membership


Action: TypeAlias = (
    Save | Send | Log | Truncate | SendState | ReceiveState | Lead | Rolled | Follow | Look | Confirmed | Reconfigured
)
