"""Three servers of an ensemble in one process, under a test's control: who leads, what arrives when, what is durable.

The broadcast between them is reduced to what the write path sees of it: batches, outcomes and the commit point travel
from the leader to each follower in order, requests and acknowledgments the other way. A batch is committed when two
of the three have it on their disk. The servers' parts and their logs are real.
"""

from __future__ import annotations

import select
import struct
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from parts import Parts, Peer

from fastzk._log import Batch, iter_records


class Logged(NamedTuple):
    """A batch as it is broadcast."""

    first: int
    last: int
    payload: bytes


class Member:
    """One server."""

    def __init__(self, ensemble: Ensemble, number: int, directory: Path) -> None:
        directory.mkdir()
        self.ensemble = ensemble
        self.id = number
        self.parts = parts = Parts(directory, server_id=number)
        self.history: list[Logged] = []  # what is in its log
        self.durable = 0
        self.commit = 0
        self.up: deque[tuple[str, Any]] = deque()  # on its way to the leader,
        self.down: deque[tuple[str, Any]] = deque()  # and from there
        self.opening = 0
        pipeline, following = parts.pipeline, parts.following
        pipeline.on_submit = self._submitted
        pipeline.send_outcome = lambda server, frame, along: ensemble.members[server].down.append(("outcome", frame))
        pipeline.confirm = self.confirm
        following.send_forward = lambda frame: self.up.append(("forward", frame))
        self.stop("nobody leads yet")

    @property
    def leads(self) -> bool:
        return self.ensemble.leader is self

    @property
    def line(self) -> Any:
        return self.parts.pipeline if self.leads else self.parts.following

    @property
    def zxid(self) -> int:
        """The last one in its log."""
        return self.history[-1].last if self.history else 0

    def stop(self, reason: str) -> None:
        """It lost its role."""
        self.parts.service.suspend(reason)
        self.parts.pipeline.close(reason)
        self.parts.following.close(reason)
        self.parts.check()

    def _submitted(self, batch: Batch) -> None:
        logged = Logged(batch.first_zxid, batch.last_zxid, batch.payload())
        self.history.append(logged)
        for other in self.ensemble.members.values():
            if other is not self:
                other.down.append(("batch", logged))

    def confirm(self) -> int:
        """Ask the others whether this one still leads."""
        self.ensemble.round += 1
        for other in self.ensemble.members.values():
            if other is not self:
                other.down.append(("confirm", self.ensemble.round))
        return self.ensemble.round

    # -- what a test lets happen ------------------------------------------------------------------------------

    def turn(self) -> None:
        """The turn of its event loop ends."""
        self.parts.turn()

    def written(self) -> list[Batch]:
        """Wait until everything given to its log is durable; what became so since the last call."""
        log = self.parts.log
        poller = select.poll()
        poller.register(log.event_fd, select.POLLIN)
        deadline = time.monotonic() + 20
        found: list[Batch] = []
        while True:
            pending = log.pending
            done, refused = log.take_done()
            assert not refused
            found += done
            if not pending:
                return found
            assert time.monotonic() < deadline, "the log does not get on"
            poller.poll(100)

    def sync_disk(self) -> None:
        """What was given to its log is durable now, and it hears of it."""
        done = self.written()
        if not done:
            return
        self.durable = done[-1].last_zxid
        if self.leads:
            self.parts.pipeline.durable_to(self.durable)
            self.ensemble.count()
            self.apply()
        else:
            self.up.append(("ack", self.durable))
            self.apply()
        self.parts.check()

    def receive(self) -> None:
        """The next message from the leader arrives."""
        if not self.down:
            return
        kind, what = self.down.popleft()
        if kind == "batch":
            batch = Batch()
            for offset, record in enumerate(iter_records(what.payload)):
                batch.append(what.first + offset, record)
            self.parts.log.submit(batch)
            self.history.append(what)
        elif kind == "outcome":
            self.parts.following.outcome(what)
        elif kind == "commit":
            self.commit = max(self.commit, what)
            self.apply()
        else:
            self.up.append(("confirmed", what))
        self.parts.check()

    def send(self) -> None:
        """Its next message arrives at the leader."""
        leader = self.ensemble.leader
        if not self.up or leader is None:
            return
        kind, what = self.up.popleft()
        if kind == "forward":
            assert leader.parts.pipeline.forwarded(self.id, what)
        elif kind == "ack":
            self.ensemble.acks[self.id] = what
            self.ensemble.count()
        else:
            leader.parts.pipeline.confirmed_to(what)  # two of three
        leader.parts.check()

    def apply(self) -> None:
        """Apply what is committed, leading also durable here."""
        parts = self.parts
        limit = min(self.commit, self.durable) if self.leads else self.commit
        if self.leads:
            for logged in self.history:
                if parts.applier.zxid < logged.last < self.opening and logged.last <= limit:
                    parts.pipeline.catch_up(logged.payload)
            parts.pipeline.commit_to(self.commit)
            if not parts.pipeline.leading and parts.applier.zxid >= self.opening:
                assert parts.pipeline.lead(self.id, [session.id for session in parts.sessions]) == []
                parts.service.serve(parts.pipeline)
            return
        if parts.following.unapplied:
            # Those before it were handed over, and wait.
            self.handed = max(self.handed, parts.applier.zxid)
        else:
            self.handed = parts.applier.zxid
        for logged in self.history:
            if self.handed < logged.last <= limit:
                self.handed = logged.last
                parts.following.committed(logged.payload)
        if not parts.following.active and self.ensemble.leader is not None and self.opening <= parts.applier.zxid:
            parts.following.follow()
            parts.service.serve(parts.following)

    handed = 0


class Ensemble:
    """The three of them; closes with its ``with`` block."""

    def __init__(self, directory: Path) -> None:
        self.members: dict[int, Member] = {}
        self.leader: Member | None = None
        self.epoch = 0
        self.round = 0
        self.acks: dict[int, int] = {}
        for number in (1, 2, 3):
            self.members[number] = Member(self, number, directory / str(number))

    def __enter__(self) -> Ensemble:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members.values():
            member.parts.log.close()

    @property
    def followers(self) -> list[Member]:
        return [member for member in self.members.values() if not member.leads]

    def lose_leader(self) -> None:
        """All connections between servers break, and nobody leads."""
        self.leader = None
        for member in self.members.values():
            member.up.clear()
            member.down.clear()
            member.stop("the leader is gone")

    def elect(self, number: int) -> None:
        """A member leads from now on; what the others have and it has not is dropped."""
        leader = self.members[number]
        for member in self.members.values():
            done = member.written()
            if done:
                member.durable = done[-1].last_zxid
        common = leader.zxid
        assert all(member.commit <= common for member in self.members.values())
        self.epoch += 1
        self.leader = leader
        self.acks = {}
        for member in self.members.values():
            if member is leader:
                continue
            dropped = [logged for logged in member.history if logged not in leader.history]
            if dropped:
                member.history = [logged for logged in member.history if logged in leader.history]
                member.parts.log.truncate(member.zxid)
                member.durable = member.zxid
            self.acks[member.id] = member.durable
            for logged in leader.history[len(member.history) :]:
                member.down.append(("batch", logged))
        opening = leader.parts.pipeline.begin(self.epoch)
        for member in self.members.values():
            member.opening = opening

    def count(self) -> None:
        """Commit what two of three have on their disks, once that reaches the leader's own epoch."""
        leader = self.leader
        assert leader is not None
        commit = sorted([leader.durable, *self.acks.values()])[1]
        if commit < leader.opening or commit <= leader.commit:
            return
        leader.commit = commit
        for member in self.followers:
            member.down.append(("commit", commit))
        leader.apply()

    def settle(self, *, wait: bool = True) -> None:
        """Run until nothing is under way, and with ``wait`` no batch waits for company any more either."""
        deadline = time.monotonic() + 30
        busy = True
        while busy:
            assert time.monotonic() < deadline, "the ensemble does not come to rest"
            busy = False
            for member in self.members.values():
                while member.parts.turns:
                    busy = True
                    member.turn()
                while member.down:
                    busy = True
                    member.receive()
                while member.up:
                    busy = True
                    member.send()
                if member.durable < member.zxid:
                    busy = True
                    member.sync_disk()
            if wait and not busy and self.leader is not None:
                parts = self.leader.parts
                busy = bool(parts.pipeline.pending + parts.pipeline.remote) and parts.turns.poll(0.01)

    def start(self) -> None:
        """Let the first one lead, and serve everywhere."""
        self.elect(1)
        self.settle()
        for member in self.members.values():
            assert not member.parts.service.leaderless


def connect(ensemble: Ensemble, number: int, **options: object) -> Peer:
    """A client of a server, with its session."""
    peer = ensemble.members[number].parts.peer()
    peer.greet(**options)
    ensemble.settle()
    (greeting,) = peer.frames()
    assert struct.unpack_from(">iiq", greeting)[1] > 0, "no session"
    peer.password = greeting[20:36]  # type: ignore[attr-defined]
    return peer
