"""What servers say to one another about leadership and history, and how that travels.

Every message carries the epoch in which it was said. Those from leader to follower and back also carry a *stream*:
the number of one attempt of the leader to bring one follower up to date, which that server never uses again. A message
of an earlier stream is ignored, so that nothing delayed, repeated or overtaken on its way can be mistaken for news.

=============  ==================  ===================================================================================
message        from -> to          says
=============  ==================  ===================================================================================
Probe          candidate -> voter  would you promise me a new epoch? (changes nothing)
ProbeReply     voter -> candidate  yes, or why not; and which membership is known to be committed
Canvass        candidate -> voter  promise me `epoch`: follow nobody of an earlier one
Promise        voter -> candidate  promised (durably), or not
NewLeader      leader -> anybody   I lead `epoch`; where does your history end?
Position       follower -> leader  the last batch end that I have at or below what you named (at first: my last one)
Match          leader -> follower  I do not have that one; do you have this?
Sync           leader -> follower  we share everything up to here: drop what is behind it, batches follow
Install        leader -> follower  my log does not reach back to you: a full state follows
Append         leader -> follower  the next batch
Ack            follower -> leader  everything up to here is on my disk
Commit         leader -> follower  everything up to here is committed
Heartbeat      leader -> follower  I still lead; with a number to answer
HeartbeatAck   follower -> leader  the number, as long as nobody else was promised a later epoch
Resync         follower -> leader  something is missing: begin a new stream
=============  ==================  ===================================================================================

Bytes: a type byte and little-endian fields; an Append is followed by its batch's payload.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Final, TypeAlias, get_args


@dataclass(frozen=True)
class Proposal:
    """A batch of transactions: the unit of logging, sending, acknowledging and committing. Never split or merged.

    ``payload`` is what the log keeps: each transaction behind its length.
    """

    first_zxid: int
    last_zxid: int
    count: int
    payload: bytes

    @property
    def epoch(self) -> int:
        """The epoch of all of its transactions."""
        return self.first_zxid >> 32


def opening_zxid(epoch: int) -> int:
    """The zxid of the first transaction of an epoch, which changes nothing."""
    return epoch << 32 | 1


def follows(before: int, after: int) -> bool:
    """Whether `after` may be the next zxid behind `before`: the next number, or the first one of a later epoch."""
    if after >> 32 == before >> 32:
        return after == before + 1
    return after > before and after & 0xFFFFFFFF == 1


@dataclass(frozen=True)
class Probe:
    """Would you promise me `epoch`? `round` names the attempt."""

    epoch: int
    round: int
    last_zxid: int


@dataclass(frozen=True)
class ProbeReply:
    """`epoch` is the one the voter has promised; `leader` the live leader it hears, -1 if none; `membership` the zxid
    of the latest membership that it knows to be committed."""

    epoch: int
    round: int
    granted: bool
    last_zxid: int
    leader: int
    membership: int


@dataclass(frozen=True)
class Canvass:
    """Promise me `epoch`. `last_zxid` is where the candidate's history ends."""

    epoch: int
    last_zxid: int


@dataclass(frozen=True)
class Promise:
    """`epoch` was asked for; `promised` is the voter's own promise, which is later if it was refused."""

    epoch: int
    promised: int
    granted: bool


@dataclass(frozen=True)
class NewLeader:
    """I lead `epoch`, and `commit` is committed."""

    epoch: int
    stream: int
    commit: int


@dataclass(frozen=True)
class Position:
    """A batch end of the follower's history, which ends at `last_zxid`; -1: its log does not reach back so far."""

    epoch: int
    stream: int
    zxid: int
    last_zxid: int


@dataclass(frozen=True)
class Match:
    """Name your last batch end at or below this one of mine."""

    epoch: int
    stream: int
    zxid: int


@dataclass(frozen=True)
class Sync:
    """Both histories are the same up to `zxid`; what the follower, whose ends at `last_zxid`, has behind it goes."""

    epoch: int
    stream: int
    zxid: int
    last_zxid: int


@dataclass(frozen=True)
class Install:
    """A full state follows, for a follower whose history ends at `last_zxid`."""

    epoch: int
    stream: int
    last_zxid: int


@dataclass(frozen=True)
class Append:
    """The batch behind `previous`; `commit` rides along. `urgent`: the commit may have to wait for this follower."""

    epoch: int
    stream: int
    previous: int
    commit: int
    urgent: bool
    proposal: Proposal


@dataclass(frozen=True)
class Ack:
    """Everything up to `zxid` is durable at the follower."""

    epoch: int
    stream: int
    zxid: int


@dataclass(frozen=True)
class Commit:
    """Everything up to `zxid` is committed."""

    epoch: int
    stream: int
    zxid: int


@dataclass(frozen=True)
class Heartbeat:
    """I lead; `round` is to be answered."""

    epoch: int
    stream: int
    round: int
    commit: int


@dataclass(frozen=True)
class HeartbeatAck:
    """`promised` is later than `epoch` if the follower no longer follows."""

    epoch: int
    round: int
    promised: int


@dataclass(frozen=True)
class Resync:
    """Begin a new stream."""

    epoch: int
    stream: int


Message: TypeAlias = (
    Probe
    | ProbeReply
    | Canvass
    | Promise
    | NewLeader
    | Position
    | Match
    | Sync
    | Install
    | Append
    | Ack
    | Commit
    | Heartbeat
    | HeartbeatAck
    | Resync
)

#: What stands behind the type byte of each message; of an Append, what stands before the payload. The type byte is a
#: message's place in this list, from 1 on: add at the end only.
_LAYOUTS: Final[dict[type[Message], str]] = {
    Probe: "qqq",
    ProbeReply: "qq?qqq",
    Canvass: "qq",
    Promise: "qq?",
    NewLeader: "qqq",
    Position: "qqqq",
    Match: "qqq",
    Sync: "qqqq",
    Install: "qqq",
    Append: "qqqq?qqI",
    Ack: "qqq",
    Commit: "qqq",
    Heartbeat: "qqqq",
    HeartbeatAck: "qqq",
    Resync: "qq",
}
_TYPES: Final = tuple(_LAYOUTS)
assert get_args(Message) == _TYPES
_CODES: Final = {kind: code for code, kind in enumerate(_TYPES, 1)}
_FIELDS: Final = {kind: attrgetter(*(each.name for each in fields(kind) if each.name != "proposal")) for kind in _TYPES}
_WRITERS: Final = {kind: struct.Struct("<B" + layout) for kind, layout in _LAYOUTS.items()}
#: In the order of the type bytes, which these skip.
_READERS: Final = tuple(struct.Struct("<x" + layout) for layout in _LAYOUTS.values())
#: Type bytes above this one are not for the broadcast: the server's own traffic between servers.
LAST_TYPE: Final = len(_TYPES)

# What there is of every batch is asked for by name: that is quicker than the tables.
_APPEND: Final = _CODES[Append]
_ACK: Final = _CODES[Ack]
_COMMIT: Final = _CODES[Commit]
_write_append: Final = _WRITERS[Append].pack
_write_ack: Final = _WRITERS[Ack].pack
_write_commit: Final = _WRITERS[Commit].pack
_read_append: Final = _READERS[_APPEND - 1].unpack_from
_APPEND_BYTES: Final = _READERS[_APPEND - 1].size


def encode(message: Message) -> tuple[bytes, bytes]:
    """A message as it travels: its head, and an Append's payload (else nothing) to follow it."""
    if isinstance(message, Append):
        append = message
        batch = append.proposal
        head = _write_append(
            _APPEND,
            append.epoch,
            append.stream,
            append.previous,
            append.commit,
            append.urgent,
            batch.first_zxid,
            batch.last_zxid,
            batch.count,
        )
        return head, batch.payload
    if isinstance(message, Ack):
        ack = message
        return _write_ack(_ACK, ack.epoch, ack.stream, ack.zxid), b""
    if isinstance(message, Commit):
        commit = message
        return _write_commit(_COMMIT, commit.epoch, commit.stream, commit.zxid), b""
    kind = type(message)
    return _WRITERS[kind].pack(_CODES[kind], *_FIELDS[kind](message)), b""


def decode(frame: memoryview) -> Message:
    """The message in `frame`, which is not referred to afterwards.

    Raises:
        ValueError: it is none.
    """
    size = len(frame)
    code = frame[0] if size else 0
    if code == _APPEND:
        if size <= _APPEND_BYTES:
            raise ValueError("a proposal is cut short")
        epoch, stream, previous, commit, urgent, first, last, count = _read_append(frame)
        if not _sound(epoch, first, last, count):
            raise ValueError(f"a proposal of {count} transactions from 0x{first:x} to 0x{last:x}")
        batch = Proposal(first, last, count, frame[_APPEND_BYTES:].tobytes())
        return Append(epoch, stream, previous, commit, urgent, batch)
    if not 1 <= code <= LAST_TYPE:
        raise ValueError(f"a message of an unknown type ({code if size else 'empty'})")
    reader, kind = _READERS[code - 1], _TYPES[code - 1]
    if size != reader.size:
        raise ValueError(f"a {kind.__name__} of {size} bytes")
    return kind(*reader.unpack(frame))


def _sound(epoch: int, first: int, last: int, count: int) -> bool:
    """Whether these can be the zxids of one batch in `epoch`."""
    return first <= last and first >> 32 == last >> 32 <= epoch and count == last - first + 1
