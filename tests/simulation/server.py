"""One server: the broadcast's real core, and around it what the server's driver does with what the core decides.

The power can be cut between any two of the things it does (``_boundary``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastzk.server.zab import actions
from fastzk.server.zab.core import Core
from fastzk.server.zab.messages import Ack, Append, Message, Proposal, opening_zxid
from fastzk.server.zab.quorum import Joint, Membership

from . import transactions
from .checker import demand
from .clients import Client, Request
from .disk import Disk
from .history import ListHistory
from .machine import Checkpoint, HashMachine, Machine, TreeMachine, membership_of

if TYPE_CHECKING:
    from .world import World


class PowerCut(Exception):
    """The server crashes here."""


class Server:
    """A server, through all its lives."""

    core: Core
    machine: Machine

    def __init__(self, world: World, number: int, membership: Membership) -> None:
        self.world = world
        self.number = number
        self.initial = membership
        self.disk = Disk(world.scheduler, lambda: world.fsync_delay(number))
        self.up = False
        self.life = 0
        self.paused_until = 0
        #: Scenarios: the clock and everything else stands still.
        self.frozen = False
        #: Local milliseconds for each 1000 microseconds of the world's, and how far ahead it began.
        self.clock_rate = 1.0
        self.clock_offset = 0
        self.links: dict[int, int] = {}
        self._postponed: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        #: Scenarios: crash before or behind an action of this kind.
        self.fuse: tuple[str, str] | None = None
        self._busy = False

    # -- life and death -------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Recover what the disk has, and begin."""
        world, disk = self.world, self.disk
        self.up = True
        self.life += 1
        self.paused_until = 0
        self.frozen = False
        self._postponed.clear()
        self.links = {}
        self.machine = self._load(disk.checkpoint)
        commit = self.machine.zxid
        membership = membership_of(self.machine, self.initial)
        pending: tuple[int, Membership] | None = None
        for batch in disk.batches:
            found = transactions.inspect(batch) if batch.last_zxid > commit else None
            if found is not None:
                if pending is not None:
                    membership = pending[1]  # there is never but one that is not committed
                pending = (batch.last_zxid, found)
        if pending is not None and pending[0] <= disk.membership:
            membership, pending = pending[1], None
        self._history = ListHistory(disk.base, disk.batches)
        #: The committed sequence was compared up to here.
        self._compared = commit
        self.sessions: dict[int, Client] = {}
        self._queues: dict[int, deque[Request]] = {}
        self._written: dict[tuple[int, int], int] = {}
        self._forget()
        self._transfer: tuple[int, int] | None = None
        self._capturing = False
        disk.owner = self
        world.checker.promised(self.number, disk.promise[0])
        if disk.checkpoint is not None:
            world.checker.applied(self)
        world.trace.add(world.scheduler.now, self.number, "BOOT", disk.promise, disk.base, disk.last_zxid, commit)
        self.core = world.core_type(
            self.number,
            membership,
            self._history,
            commit=commit,
            promise=disk.promise,
            pending=pending,
            inspect=transactions.inspect,
            timing=world.timing,
            random=world.random,
            now_ms=self.clock(),
        )
        self._tick(self.life)

    def _load(self, checkpoint: Checkpoint | None) -> Machine:
        return TreeMachine(checkpoint) if self.world.real_tree else HashMachine(checkpoint)

    def crash(self) -> None:
        """The power is cut."""
        world = self.world
        if not self.up:
            return
        self.up = False
        world.statistics["crashes"] += 1
        if self.core.following is not None and not self.core.following.synced:
            world.statistics["crashes in sync"] += 1
        elif self.core.leading is not None and not self.core.leading.established:
            world.statistics["crashes of a new leader"] += 1
        unsynced = len(self.disk.batches) - self.disk.synced
        self.disk.crash(world.lost_tail)
        lost = unsynced - (len(self.disk.batches) - self.disk.synced)
        if unsynced:
            world.statistics["crashes with an unsynced tail"] += 1
        world.trace.add(
            world.scheduler.now, self.number, "CRASH", f"unsynced {unsynced}", lost, "log to", self.disk.last_zxid
        )
        for client in list(self.sessions.values()):
            client.closed("its server crashed")
        world.network.gone(self.number)

    def clock(self) -> int:
        """Milliseconds by this server's own clock."""
        return self.clock_offset + int(self.world.scheduler.now * self.clock_rate) // 1000

    def happen(self, call: Callable[..., object], *args: Any) -> None:
        """Something happens to the server: now, or when it wakes up."""
        if not self.up:
            return
        if self.frozen or self.paused_until > self.world.scheduler.now or self._postponed:
            self._postponed.append((call, args))
            return
        self._run(call, args)

    def pause(self, duration: int) -> None:
        """Stand still for so many microseconds."""
        self.paused_until = self.world.scheduler.now + duration
        self.world.trace.add(self.world.scheduler.now, self.number, "PAUSE", duration)
        self.world.scheduler.after(duration, self._wake, self.life)

    def wake(self) -> None:
        """Scenarios: go on, with what came meanwhile before a look at the clock."""
        self.frozen = False
        self._work_off()

    def _wake(self, life: int) -> None:
        if self.up and life == self.life and self.paused_until <= self.world.scheduler.now and not self.frozen:
            # What became of the time it learns from its clock, and that is looked at first in half of the cases.
            if self._postponed and self.world.random.random() < 0.5:
                self._postponed.appendleft((self._look_at_clock, ()))
            self._work_off()

    def _work_off(self) -> None:
        while self._postponed and self.up:
            self._run(*self._postponed.popleft())

    def _look_at_clock(self) -> None:
        self.core.tick(self.clock())

    def _run(self, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        if self._busy:  # a client that is answered asks again
            self.world.scheduler.after(0, self._later, self.life, call, args)
            return
        self._busy = True
        try:
            call(*args)
            self._turn()
        except PowerCut:
            self.crash()
        finally:
            self._busy = False

    def _later(self, life: int, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        if life == self.life:
            self.happen(call, *args)

    def _after(self, delay: int, call: Callable[..., object], *args: Any) -> None:
        """Something of this life is to happen later."""
        self.world.scheduler.after(delay, self._later, self.life, call, args)

    def _boundary(self, weight: int = 1) -> None:
        if self.world.fragility and self.world.cut_power(weight):
            raise PowerCut

    # -- what arrives ---------------------------------------------------------------------------------------------

    def _tick(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        if not self.frozen and self.paused_until <= self.world.scheduler.now:
            self.happen(self._look_at_clock)
        quick = self.up and self.core.leader is None
        self.world.scheduler.after(self.world.tick_quick if quick else self.world.tick_slow, self._tick, life)

    def link_up(self, peer: int, link: int) -> None:
        self.links[peer] = link
        self.core.connected(peer)

    def link_down(self, peer: int, link: int) -> None:
        if self.links.get(peer) == link:
            del self.links[peer]
            self.core.disconnected(peer)

    def message(self, sender: int, message: Message) -> None:
        self.world.trace.add(self.world.scheduler.now, self.number, "receive", f"from {sender}", message)
        self.core.step(sender, message)

    def persisted(self, zxid: int) -> None:
        """The disk's word for it."""
        self.happen(self._persisted, zxid)

    def _persisted(self, zxid: int) -> None:
        # What was said before something was dropped says nothing any more.
        self.core.persisted(min(zxid, self.disk.durable))

    # -- what the core wants --------------------------------------------------------------------------------------

    def _turn(self) -> None:
        again = True
        while again:
            if self._open or self._inbox or self._reconfiguration is not None:
                self._propose()
            again = False
            # What is rare is where a crash is the most interesting.
            weight = 1
            todo = self.core.take()
            for action in todo:
                if type(action) is actions.Send:
                    self._boundary(weight)
                    self._send(action)
                    continue
                weight = 1 if type(action) is actions.Log else 20
                again = True
                self._boundary(weight)
                if self.fuse == ("before", type(action).__name__):
                    raise PowerCut
                self._perform(action)
                if self.fuse == ("behind", type(action).__name__):
                    raise PowerCut
            if todo:
                self._boundary(weight)
            core = self.core
            if core.commit > self._compared or core.commit > self.machine.zxid:
                again = self._commit() or again
        self.core.settle()
        for action in self.core.take():
            assert isinstance(action, actions.Send)
            self._boundary(1)
            self._send(action)

    def _perform(self, action: actions.Action) -> None:
        world = self.world
        world.trace.add(world.scheduler.now, self.number, "does", action)
        if not isinstance(action, actions.Log):
            self.disk.sync_all()
        if isinstance(action, actions.Save):
            self.disk.save(action.epoch, action.candidate)
            world.checker.promised(self.number, action.epoch)
        elif isinstance(action, actions.Log):
            self.disk.append(action.proposal, action.urgent)
            world.statistics["batches that were not urgent"] += not action.urgent
        elif isinstance(action, actions.Truncate):
            if self.disk.last_zxid > action.zxid:
                world.statistics["truncations"] += 1
            self.disk.truncate(action.zxid)
        elif isinstance(action, actions.Lead):
            self._lead(action.epoch)
        elif isinstance(action, actions.Rolled):
            world.statistics["rolls"] += 1
            world.checker.leads(self, action.epoch)
            if self.core.leading is not None and self.core.leading.epoch == action.epoch:
                self._broadcast(opening_zxid(action.epoch), [transactions.opening(opening_zxid(action.epoch))])
        elif isinstance(action, actions.Look):
            self._lose_role(action.reason)
        elif isinstance(action, actions.SendState):
            self._send_state(action.to, action.stream)
        elif isinstance(action, actions.Confirmed):
            self._confirmed(action.round)
        elif isinstance(action, actions.Reconfigured):
            self.disk.adopt(action.zxid)
            world.statistics["memberships adopted"] += 1

    def _send(self, action: actions.Send) -> None:
        message = action.message
        if isinstance(message, Ack):
            demand(
                message.zxid <= self.disk.durable,
                "server {} acknowledges {}, its disk has {}", self.number, message.zxid, self.disk.durable,
            )  # fmt: skip
        elif isinstance(message, Append):
            self.world.statistics["appends"] += 1
        self.world.network.send(self.number, action.to, message)

    def _lead(self, epoch: int) -> None:
        world = self.world
        world.statistics["leaders"] += 1
        world.checker.leads(self, epoch)
        leading = self.core.leading
        if leading is None or leading.epoch != epoch:
            return  # that is over already
        if self.core.pending is not None:
            world.statistics["leaders with a pending membership"] += 1
        self._first_epoch = epoch
        if world.slow_opening:
            self._after(world.scheduler.between((0, world.slow_opening)), self._open_epoch, leading)
        else:
            self._open_epoch(leading)

    def _open_epoch(self, leading: object) -> None:
        if self.core.leading is leading and self.core.leading is not None:
            zxid = self.core.leading.opening
            self._broadcast(zxid, [transactions.opening(zxid)])

    def _forget(self) -> None:
        """What belongs to a role."""
        self._first_epoch = 0
        self._inbox: deque[tuple[int, int, Request]] = deque()
        self._open: list[Request] = []
        self._reconfiguration: Membership | None = None
        self._overlay: dict[bytes, int] = {}
        self._created = 0
        self._next = 0
        self._confirming: list[tuple[int, int, Request]] = []

    def _lose_role(self, reason: str) -> None:
        self._forget()
        for session in sorted(self.sessions):
            self.sessions[session].closed(reason)
        self.sessions.clear()
        self._queues.clear()
        self._written.clear()

    # -- the leader's writes --------------------------------------------------------------------------------------

    def _broadcast(self, first: int, payloads: list[bytes]) -> None:
        proposal = Proposal(first, first + len(payloads) - 1, len(payloads), b"".join(payloads))
        self._next = proposal.last_zxid + 1
        self.world.trace.add(self.world.scheduler.now, self.number, "proposes", proposal)
        self._boundary()
        self.disk.append(proposal)
        self._boundary()
        self.core.propose(proposal)

    @property
    def leads(self) -> bool:
        """Whether it leads and may serve clients."""
        opened = self._first_epoch > 0 and opening_zxid(self._first_epoch) <= self.machine.zxid
        return self.core.leading is not None and opened

    @property
    def serves(self) -> bool:
        """Whether clients may be connected here."""
        if not self.up:
            return False
        if self.core.leading is not None:
            return self.leads
        following = self.core.following
        return following is not None and self.machine.zxid >= following.serve_from and not following.installing

    def accepts(self, seen: int) -> bool:
        """Whether a client that has seen `seen` may connect."""
        return (
            self.serves
            and seen <= self.machine.zxid
            and not self.frozen
            and self.paused_until <= self.world.scheduler.now
        )

    def _propose(self) -> None:
        """Close the open batch, if this server leads and may."""
        if not self.leads:
            return
        core = self.core
        leading = core.leading
        assert leading is not None
        while self._inbox:
            _, tag, request = self._inbox.popleft()
            if not self._first_epoch <= tag <= leading.epoch:
                continue
            if request.kind == "sync":
                self._confirm(_, request)
            else:
                self._open.append(request)
        if self._next & 0xFFFFFFFF > self.world.roll_at:
            leading.roll()
            if self._next & 0xFFFFFFFF > 3 * self.world.roll_at:
                return  # out of numbers until it is rolled
        if self._next >> 32 != leading.epoch:
            return  # the opening of the next epoch comes first
        if self._open:
            open_, self._open = self._open, []
            if len(open_) > 1 and self.world.random.random() < 0.3:
                half = len(open_) // 2
                self._write(open_[:half])
                open_ = open_[half:]
            self._write(open_)
        if self._reconfiguration is not None:
            membership, self._reconfiguration = self._reconfiguration, None
            if core.pending is None:
                self.world.statistics["reconfigurations"] += 1
                text = membership.with_version(self._next).text().encode()
                self._broadcast(
                    self._next,
                    [
                        transactions.set_data(
                            0, 0, self._next, transactions.CONFIG, text, self._version(transactions.CONFIG) + 1
                        )
                    ],
                )
                self._overlay[transactions.CONFIG] = self._version(transactions.CONFIG) + 1

    def _version(self, path: bytes) -> int:
        return self._overlay[path] if path in self._overlay else self.machine.version(path)

    def _write(self, requests: list[Request]) -> None:
        payloads = []
        first = zxid = self._next
        for request in requests:
            version = self._version(request.path)
            if version < 0:
                created = self._created = max(self._created, self.machine.created()) + 1
                payloads.append(
                    transactions.create(
                        request.session, request.cxid, zxid, request.path, request.value or b"again", created
                    )
                )
                self._overlay[request.path] = 0
            elif request.kind == "delete":
                payloads.append(transactions.delete(request.session, request.cxid, zxid, request.path))
                self._overlay[request.path] = -1
            else:
                self._overlay[request.path] = version + 1
                payloads.append(
                    transactions.set_data(request.session, request.cxid, zxid, request.path, request.value, version + 1)
                )
            zxid += 1
        self._broadcast(first, payloads)

    def reconfigure(self, membership: Membership) -> bool:
        """Ask this server, which must lead, for another membership; whether it tries."""
        core = self.core
        if not self.leads or core.leading is None or core.pending is not None or not core.leading.established:
            return False
        if not membership.quorum.reached(core.leading.synced):
            return False
        self._reconfiguration = membership
        return True

    # -- applying -------------------------------------------------------------------------------------------------

    def _commit(self) -> bool:
        """Apply what is committed, leading also on this server's disk; whether there was anything."""
        core, machine = self.core, self.machine
        if core.commit > self._compared:
            quorum = None
            if core.leading is not None:
                quorum = Joint(core.quorum, core.membership.quorum)
            self.world.checker.commits(self, self._compared, core.commit, quorum)
            self._compared = core.history.floor(core.commit)
        target = core.commit if core.leading is None else min(core.commit, core.durable)
        if target <= machine.zxid:
            return False
        served = self.serves
        for batch in core.history.after(machine.zxid, 1 << 30):
            if batch.last_zxid > target:
                break
            self._boundary()
            self._apply(batch)
        if not served and self.serves and self.core.leading is not None:
            self.world.statistics["leaders that served"] += 1
        self._maybe_checkpoint()
        self._answer_all()
        return True

    def _apply(self, batch: Proposal) -> None:
        demand(
            self.core.leading is None or batch.last_zxid <= self.disk.durable,
            "leader {} applies {}, which is not on its disk",
            self.number,
            batch.last_zxid,
        )
        self.machine.apply(batch)
        self.world.checker.applied(self)
        if self._queues:
            for change in transactions.changes(batch.payload):
                if change.session in self._queues:
                    self._written[change.session, change.cxid] = change.zxid

    def _answer_all(self) -> None:
        for session in list(self._queues):
            self._answer(session)

    def _answer(self, session: int) -> None:
        """Answer what is at the head of a session's requests, as far as it is done."""
        queue = self._queues.get(session)
        while queue:
            head = queue[0]
            if head.kind in ("write", "delete"):
                if self._written.pop((session, head.cxid), None) is None:
                    return
            elif head.kind == "sync" and not 0 < head.zxid <= self.machine.zxid:
                return
            queue.popleft()
            self._boundary()
            self.sessions[session].answered(head)

    # -- clients --------------------------------------------------------------------------------------------------

    def request(self, request: Request) -> None:
        """A client asks for something."""
        if request.session not in self.sessions:
            return
        self._queues.setdefault(request.session, deque()).append(request)
        if request.kind == "read":
            self._answer(request.session)
        elif self.core.leading is not None:
            if request.kind == "sync":
                self._confirm(self.number, request)
            else:
                self._open.append(request)
        else:
            following = self.core.following
            assert following is not None, "a server that knows no leader has clients"
            self.world.network.send(self.number, following.leader, ("request", following.epoch, request))

    def close_session(self, session: int) -> None:
        """A client has lost its patience."""
        self.sessions.pop(session, None)
        self._queues.pop(session, None)

    def driver_message(self, sender: int, message: Any) -> None:
        """Something from another server's driver."""
        if message[0] == "request":
            if self.core.leading is not None:
                self._inbox.append((sender, message[1], message[2]))
        elif message[0] == "synced":
            _, request, zxid = message
            if request.session in self.sessions:
                request.zxid = zxid
                self._answer(request.session)
        else:
            self._receive_page(sender, *message[1:])

    # -- sync -----------------------------------------------------------------------------------------------------

    def _confirm(self, origin: int, request: Request) -> None:
        leading = self.core.leading
        if leading is not None:
            self._confirming.append((self.core.confirm(), origin, request))

    def _confirmed(self, number: int) -> None:
        if self.core.leading is None:
            return
        ready = [each for each in self._confirming if each[0] <= number]
        self._confirming = [each for each in self._confirming if each[0] > number]
        for _, origin, request in ready:
            if origin == self.number:
                request.zxid = self.core.commit
                self._answer(request.session)
            else:
                self.world.network.send(self.number, origin, ("synced", request, self.core.commit))

    # -- checkpoints and full states ------------------------------------------------------------------------------

    def holds(self, batch: Proposal) -> bool:
        """Whether a batch is on this server's disk, whatever happens to it."""
        disk = self.disk
        if disk.checkpoint is not None and batch.last_zxid <= disk.checkpoint.zxid:
            return True
        return batch.last_zxid <= disk.durable and batch in disk.batches[: disk.synced]

    def _maybe_checkpoint(self) -> None:
        world = self.world
        if self._capturing or not world.checkpoint_every:
            return
        behind = self.disk.checkpoint.zxid if self.disk.checkpoint is not None else 0
        if world.checker.places[self.machine.zxid] - world.checker.places[behind] >= world.checkpoint_every:
            self.take_checkpoint(world.random.randint(500, 30_000))

    def take_checkpoint(self, delay: int, tail: int | None = None) -> None:
        """Write a checkpoint, which takes so many microseconds."""
        self._capturing = True
        self._after(delay, self._checkpointed, self.machine, self.machine.capture(), tail)

    def _checkpointed(self, machine: Machine, checkpoint: Checkpoint, tail: int | None) -> None:
        if machine is not self.machine:
            return  # another state was installed meanwhile
        if checkpoint.zxid > self.disk.durable:
            self._after(500, self._checkpointed, machine, checkpoint, tail)
            return
        self._capturing = False
        if tail is None:
            tail = self.world.random.randint(0, self.world.keep_tail)
        self._history.purge(self.disk.keep(checkpoint, tail))
        machine.captured()
        self.world.statistics["checkpoints"] += 1

    def _send_state(self, to: int, stream: int) -> None:
        checkpoint = self.disk.checkpoint
        if checkpoint is None:
            if self.core.leading is not None:
                self.core.leading.state_sent(to, stream, False)
            return
        self.world.statistics["full states begun"] += 1
        self._after(
            self.world.random.randint(100, 5_000),
            self._send_page,
            to,
            stream,
            self.links.get(to),
            checkpoint,
            self.world.pages(),
        )

    def _send_page(self, to: int, stream: int, link: int | None, checkpoint: Checkpoint, left: int) -> None:
        leading = self.core.leading
        if leading is None or to not in leading.progress or leading.progress[to].stream != stream:
            return
        if link is None or self.links.get(to) != link or self.world.break_transfer():
            leading.state_sent(to, stream, False)
            return
        self.world.network.send(self.number, to, ("page", leading.epoch, stream, checkpoint, left == 1))
        if left > 1:
            self._after(self.world.random.randint(100, 10_000), self._send_page, to, stream, link, checkpoint, left - 1)
        else:
            leading.state_sent(to, stream, True)

    def _receive_page(self, sender: int, epoch: int, stream: int, checkpoint: Checkpoint, last: bool) -> None:
        following = self.core.following
        if following is None or following.leader != sender or following.stream != stream or not following.installing:
            return
        following.heard()
        if last:
            self._after(self.world.random.randint(500, 10_000), self._install, following, stream, checkpoint)

    def _install(self, following: object, stream: int, checkpoint: Checkpoint) -> None:
        role = self.core.following
        if role is not following or role is None or role.stream != stream or not role.installing:
            return  # it was for nothing
        world = self.world
        world.statistics["full states"] += 1
        self._boundary(50)
        self.disk.install(checkpoint)
        self._boundary(50)
        world.trace.add(world.scheduler.now, self.number, "INSTALL", checkpoint.zxid)
        for session in sorted(self.sessions):
            self.sessions[session].closed("a full state replaces the one that it saw")
        self.sessions.clear()
        self._queues.clear()
        self._written.clear()
        self.machine = self._load(checkpoint)
        self._capturing = False
        self._history.reset(checkpoint.zxid)
        self._compared = checkpoint.zxid
        world.checker.applied(self)
        self.core.installed(checkpoint.zxid, membership_of(self.machine, self.initial))
