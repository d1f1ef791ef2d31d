"""One server of an ensemble: drives the broadcast, and gives the write path its place in it.

    peers (sockets) --> frames --+--> zab core: who leads, which batches, what is committed
                                 +--> pipeline (leading): requests that followers forward
                                 +--> following: the leader's answers to them
    log (its thread) -> durable --> core.persisted, pipeline.durable
    core.take() -> promises to the disk, messages to peers, batches to the log, roles

Everything happens on the event loop, in *turns*: something arrives, the core is told, its actions are carried out in
their order, what is committed and durable here is applied, and at the end of the turn each peer gets one write.

Only what is committed is applied, so the tree never has to forget anything. After a start the log may hold more than
is known to be committed; that waits, in ``history``, until a leader says how far it is.

A server that knows no leader keeps its clients, paused, for a moment: after most changes of the leader they go on
where they were, but for those that wait for an answer. Their connections are closed: whether what they asked for
happened is for them to find out. When no leader comes, all connections are closed, so that clients try other servers.
With ``readonlymode.enabled`` clients that accept it are served even so: they may read what this server has applied.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from fastzk._log import Batch, LogFailed, LogHold
from fastzk.server._apply import membership_text
from fastzk.server._connection import Service
from fastzk.server._following import Following
from fastzk.server._line import Line
from fastzk.server._pipeline import Pipeline
from fastzk.server._read_only import ReadOnly
from fastzk.server.config import Config
from fastzk.server.ensemble_config import EnsembleConfig
from fastzk.server.four_letter import EnsembleView, LeaderView
from fastzk.server.peers import Peers
from fastzk.server.recovery import Recovered, adopt_secret
from fastzk.server.roster import Roster, recovered_memberships
from fastzk.server.store import StoreError
from fastzk.server.switch import has_diverged, mark_diverged
from fastzk.server.tls import PeerContexts
from fastzk.server.transfer import StatePump, StateReceiver, StateSender, TransferError
from fastzk.server.zab.actions import (
    Action,
    Confirmed,
    Follow,
    Lead,
    Log,
    Look,
    ReceiveState,
    Reconfigured,
    Rolled,
    Save,
    Send,
    SendState,
    Truncate,
)
from fastzk.server.zab.core import Core
from fastzk.server.zab.messages import LAST_TYPE, Message, NewLeader, Proposal, decode, encode
from fastzk.server.zab.quorum import Membership
from fastzk.server.zab.role import Timing

logger = logging.getLogger(__name__)

#: Seconds between looks at the clock: while nobody leads, and otherwise.
LOOKING_TICK: Final = 0.005
TICK: Final = 0.05
#: How long clients wait for a leader, in seconds, unless a tick is longer: many times what it takes to elect one, and
#: less than the silence after which clients give a server up. ZooKeeper's read-only mode begins after as long.
PATIENCE: Final = 2.0
#: A leader goes on in a later epoch when the counter of its zxids has come so far.
ROLL_AT: int = 0xF000_0000
#: Batches whose digest is remembered, to be compared with the leader's.
DIGESTS_KEPT: Final = 4096
#: How long the log behind a full state is kept for the follower that was sent it.
HOLD_SECONDS: Final = 60.0
#: Bytes of committed batches applied before the loop serves somebody else.
APPLY_BYTES: Final = 1 << 20

# What servers say to one another besides the broadcast's messages.
FORWARD: Final = 0x40  # follower -> leader: requests of its clients
OUTCOME: Final = 0x41  # leader -> follower: what becomes of them
HEARD: Final = 0x42  # follower -> leader: sessions it heard of
MOVED: Final = 0x43  # leader -> follower: this session goes on elsewhere
STATE: Final = 0x44  # leader -> follower: a part of a full state
DIGEST: Final = 0x45  # leader -> follower: the digest of the tree at a zxid
SECRET: Final = 0x46  # leader -> follower: the key of the sessions' passwords
assert LAST_TYPE < FORWARD

_MOVED = struct.Struct("<Bq")
_DIGEST = struct.Struct("<BqQ")
_STATE = struct.Struct("<Bq")


class Ensemble:
    """This server's part in the ensemble.

    Everything it is given belongs to the event loop's thread. ``recovered`` has the state, ``pipeline`` and
    ``following`` are the two ways of a write; ``read_only``, if it is not None, is for clients without a leader.
    ``on_role`` is told when this server begins to serve clients (with True if it leads), and when it stops to
    (None). ``on_restart`` has the server begin anew from its data directory, which a full state has replaced;
    ``on_failure`` ends it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        ensemble: EnsembleConfig,
        recovered: Recovered,
        *,
        service: Service,
        pipeline: Pipeline,
        following: Following,
        read_only: ReadOnly | None,
        listener: socket.socket | None,
        certificates: PeerContexts | None,
        on_role: Callable[[bool | None], object],
        on_installed: Callable[[], object],
        on_failure: Callable[[BaseException], object],
    ) -> None:
        self._loop = loop
        assert recovered.history is not None
        assert recovered.epochs is not None  # a member's
        self._id = ensemble.my_id
        self._ensemble = ensemble
        self._certificates = certificates
        self._epochs = recovered.epochs
        self._history = recovered.history
        self._log = recovered.log
        self._tree = recovered.tree
        self._applier = recovered.applier
        self._sessions = recovered.sessions
        self._service = service
        self._clients = service.clients
        self._pipeline = pipeline
        self._following = following
        #: How clients are served without a leader; None: not at all.
        self._read_only = read_only
        self._patience = max(PATIENCE, ensemble.tick_time_ms / 1000)
        #: Since when clients wait for a leader (monotonic); None: they do not.
        self._waiting: float | None = time.monotonic()
        self._config = config
        self._store = recovered.store
        #: The keys that servers named before they said that they lead.
        self._secrets: dict[int, bytes] = {}
        #: Full states on their way: to followers, and (its stream) from the leader.
        self._pumps: dict[int, StatePump] = {}
        self._receiving: tuple[int, StateReceiver] | None = None
        self._kept: LogHold | None = None
        self._on_role = on_role
        self._on_installed = on_installed
        self._on_failure = on_failure
        self._scheduled = False
        #: Whether actions of the core are being carried out.
        self._busy = False
        self._stopped = False
        #: What clients are served as: True leading, False following, None not at all.
        self._serving: bool | None = None
        #: Since when (monotonic nanoseconds).
        self._role_since = 0
        #: Everything up to here was given to be applied.
        self._handed = self._history.floor(self._applier.zxid)
        self._heard_since = time.monotonic_ns()
        self._digests: deque[tuple[int, int]] = deque(maxlen=DIGESTS_KEPT)
        #: What the leader said of a zxid that this server has not applied yet.
        self._expected: tuple[int, int] | None = None
        self._opened = 0
        membership, pending = recovered_memberships(ensemble, recovered)
        self.core = Core(
            ensemble.my_id,
            membership,
            self._history,
            commit=self._applier.zxid,
            promise=self._epochs.load(),
            pending=pending,
            inspect=_membership_in,
            timing=Timing(
                heartbeat=max(ensemble.tick_time_ms // 4, 10),
                sync_limit=ensemble.sync_limit_ms,
                init_limit=ensemble.init_limit_ms,
            ),
            random=Random(),
            now_ms=_now_ms(),
        )
        if has_diverged(config):
            logger.error("this server's tree has diverged, the whole state has to be fetched anew")
            self.core.disown("this server's tree has diverged")
        else:
            self._digests.append((self._applier.zxid, self._tree.digest))
        self._peers = Peers(
            loop,
            ensemble.my_id,
            listener,
            on_frame=self._frame,
            on_connected=self._connected,
            on_disconnected=self._disconnected,
            on_failure=on_failure,
            secret=ensemble.quorum_secret,
            tls=certificates.current if certificates is not None else None,
            keep_alive_ms=max(min(ensemble.sync_limit_ms // 4, 500), 10),
            silence_ms=ensemble.sync_limit_ms,
        )
        self._roster = Roster(
            loop,
            ensemble,
            core=self.core,
            peers=self._peers,
            pipeline=pipeline,
            stored=membership is not ensemble.membership,
            highest_id=254 if config.extended_types_enabled else 255,
        )

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look for the others. Clients are not served until there is a leader."""
        pipeline = self._pipeline
        pipeline.on_submit = self._submitted
        pipeline.confirm = self._confirm
        pipeline.send_outcome = self._send_outcome
        pipeline.on_claim = self._claimed
        self._following.send_forward = self._send_forward
        self._service.suspend("start")
        self._pipeline.close("start")
        self._loop.add_reader(self._log.event_fd, self._logged)
        self._roster.changed()
        self._peers.start()
        self._tick()

    def stop(self) -> None:
        """Take no part any more; the log goes on until it is closed."""
        if not self._stopped:
            self._stopped = True
            self._loop.remove_reader(self._log.event_fd)
            self._abandon_transfers()
            self._peers.close()

    async def wait_stopped(self) -> None:
        """Until the connections to the other servers are closed."""
        await self._peers.wait_closed()

    async def refresh_certificates(self) -> None:
        """Use the certificates for connections between servers that are in the files now, if that is wanted."""
        certificates = self._certificates
        if certificates is not None:
            before = certificates.current
            await certificates.refresh()
            if certificates.current is not before:
                self._peers.set_tls(certificates.current)

    @property
    def serving(self) -> bool | None:
        """True: as the leader, False: as a follower; None: clients are not served now."""
        return self._serving

    @property
    def read_only(self) -> bool:
        """Whether clients are served without a leader."""
        return self._service.read_only

    @property
    def mode(self) -> str:
        """What four-letter words call this server: leader, follower, observer, read-only or looking."""
        if self._service.read_only:
            return "read-only"
        if self.core.leading is not None:
            return "leader"
        if self.core.following is None:
            return "looking"
        return "follower" if self.core.voter else "observer"

    def view(self) -> EnsembleView:
        """What four-letter words tell of it."""
        core, leading, config = self.core, self.core.leading, self._ensemble
        own = core.membership.members.get(self._id, config.me)
        leader = None
        if leading is not None:
            synced = leading.synced - {self._id}
            pipeline = self._pipeline
            leader = LeaderView(
                learners=len(core.peers),
                synced_followers=len(synced - core.membership.observers),
                synced_non_voting=len(synced - core.membership.members.keys()),
                synced_observers=len(synced & core.membership.observers),
                pending_syncs=pipeline.pending_syncs,
                uptime_ms=(time.monotonic_ns() - self._role_since) // 1_000_000,
                proposal_bytes=(pipeline.last_proposal, pipeline.least_proposal, pipeline.most_proposal),
            )
        doing = {"leader": "leading", "follower": "following", "observer": "observing"}.get(self.mode)
        return EnsembleView(
            peer_state="looking" if doing is None else f"{doing} - broadcast",
            quorum_size=len(core.voters),
            membership=core.membership.text(),
            observer=own.observer,
            limits=(config.init_limit, config.sync_limit),
            quorum_ports=(own.quorum_port, *(port for _, port, _ in own.others)),
            election_ports=(own.election_port, *(port for _, _, port in own.others)),
            leader=leader,
            master_id=core.leader if self.mode == "observer" else None,
        )

    # -- what happens: each of these ends with a turn ----------------------------------------------------------------

    def _tick(self) -> None:
        if self._stopped:
            return
        self._guarded(self.core.tick, _now_ms())
        self._guarded(self._watch_over)
        self._guarded(self._without_leader)
        self._loop.call_later(LOOKING_TICK if self.core.leader is None else TICK, self._tick)

    def _connected(self, peer: int) -> None:
        self._guarded(self.core.connected, peer)

    def _disconnected(self, peer: int, reason: str) -> None:
        self._stop_sending(peer)
        self._secrets.pop(peer, None)
        self._pipeline.forget(peer)
        self._guarded(self.core.disconnected, peer)

    def _frame(self, peer: int, body: memoryview) -> None:
        if self._stopped or not body:
            return
        try:
            self.core.tick(_now_ms())  # what comes after a long pause finds the clock set
            if body[0] <= LAST_TYPE:
                self.core.step(peer, decode(body))
            else:
                self._talk(peer, body[0], body)
        except (ValueError, struct.error) as error:
            logger.warning("connection to a server closed server=%d reason=%s", peer, error)
            self._peers.drop(peer, str(error))
        except Exception as error:
            self._on_failure(error)
        else:
            self._schedule()

    def _logged(self) -> None:
        """The log's eventfd rang."""
        self._guarded(self._take_done)

    def _settle_log(self) -> None:
        """Take back the batches that the log is done with."""
        _, refused = self._log.take_done()
        if refused:
            # A follower that cannot write is of no use to the others, a leader is in the way of a better one.
            raise LogFailed(self._log.errno or errno.ENOSPC, f"writing the transaction log in {self._log.directory}")

    def _take_done(self) -> None:
        self._settle_log()
        self.core.persisted(self._log.durable_zxid)
        if self.core.leading is not None:
            self._pipeline.durable_to(self._log.durable_zxid)

    def _guarded(self, what: Callable[..., object], *arguments: object) -> None:
        if self._stopped:
            return
        try:
            what(*arguments)
        except Exception as error:
            self._on_failure(error)
        else:
            self._schedule()

    def _schedule(self) -> None:
        if self._serving and self.core.leading is None and not self._busy:
            # Not a moment longer: what the pipeline gave to the log now, nobody would broadcast.
            self._pipeline.seal()
            self._carry_out_now()
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    # -- a turn ------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        try:
            self._carry_out()
            self._roster.changed()
            self._apply()
            self._begin_to_serve()
            self._clients.flush_all()
            self._retire()
        except Exception as error:
            self._on_failure(error)

    def _carry_out(self) -> None:
        """Do what the core wants done."""
        self._busy = True
        try:
            while todo := self.core.take():
                for action in todo:
                    self._act(action)
        finally:
            self._busy = False

    def _carry_out_now(self) -> None:
        try:
            self._carry_out()
        except Exception as error:
            self._on_failure(error)

    def _act(self, action: Action) -> None:
        match action:
            case Send(to, message):
                self._send(to, message)
            case Log(proposal):
                batch = Batch()
                batch.adopt(proposal.first_zxid, proposal.last_zxid, proposal.count, proposal.payload)
                self._log.submit(batch)
            case Confirmed(number):
                self._pipeline.confirmed_to(number)
            case Save(epoch, candidate):
                self._epochs.save(epoch, candidate)
            case Truncate(zxid):
                self._truncate(zxid)
            case Lead(epoch) if self._leads(epoch):
                logger.info("leading epoch=%d zxid=0x%x", epoch, self._history.last_zxid)
                self._opened = self._pipeline.begin(epoch, self._roster.opening(epoch))
            case Rolled(epoch) if self._leads(epoch):
                logger.info("leading on in a later epoch epoch=%d", epoch)
                self._pipeline.roll_epoch(epoch)
            case Follow(leader, epoch):
                logger.info("following leader=%d epoch=%d zxid=0x%x", leader, epoch, self._history.last_zxid)
                self._adopt_secret(self._secrets.get(leader))
            case Look(reason):
                self._lost(reason)
            case SendState(to, stream):
                self._send_state(to, stream)
            case ReceiveState(_, stream):
                self._receive_state(stream)
            case Reconfigured(membership):
                self._reconfigured(membership)

    def _leads(self, epoch: int) -> bool:
        """Whether this server still leads `epoch`: what is carried out may have been overtaken by what comes behind."""
        leading = self.core.leading
        return leading is not None and leading.epoch == epoch

    def _send(self, to: int, message: Message) -> None:
        if isinstance(message, NewLeader):
            self._peers.send(to, bytes([SECRET]), self._sessions.secret)
        head, payload = encode(message)
        if payload:
            self._peers.send(to, head, payload)
        else:
            self._peers.send(to, head)

    def _truncate(self, zxid: int) -> None:
        """Drop a tail of the log that the leader does not have. Waits for the disk: nobody is served meanwhile."""
        # The core knows of the truncation already, so it is not told what became durable of that tail.
        while self._log.pending:
            select.select([self._log.event_fd], [], [])
            self._settle_log()
        self._settle_log()
        logger.warning("dropping what was never committed after=0x%x to=0x%x", zxid, self._log.last_zxid)
        self._log.truncate(zxid)

    # -- applying ----------------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        """Apply what is committed and on this server's disk, a slice of it at a time."""
        core = self.core
        limit = min(core.commit, core.durable)
        if self._handed < limit:
            self._apply_history(limit)
        if core.leading is not None and self._applier.zxid < limit:
            self._pipeline.commit_to(limit)
            self._handed = max(self._handed, self._applier.zxid)

    def _apply_history(self, limit: int) -> None:
        """Hand on the batches that this server's own pipeline did not make."""
        leading = self.core.leading
        if leading is not None:
            limit = min(limit, self._opened - 1)
        if self._handed >= limit:
            return
        for proposal in self._history.after(self._handed, APPLY_BYTES):
            if proposal.last_zxid > limit:
                return
            if self.core.following is not None:
                self._following.committed(proposal.payload)
            else:
                self._pipeline.catch_up(proposal.payload)
            self._handed = proposal.last_zxid
            if self._applier.zxid == self._handed:
                self._digests.append((self._handed, self._tree.digest))
                if self._expected is not None and self._expected[0] <= self._handed:
                    expected, self._expected = self._expected, None
                    self._compare(*expected)
                    if self.core.diverged:
                        break
        self._schedule()  # there may be more

    def _begin_to_serve(self) -> None:
        """Serve clients as soon as this server has everything that was committed when it took its role."""
        if self._serving is not None or self._roster.removed:
            return
        leading, following = self.core.leading, self.core.following
        if leading is not None:
            if not leading.established or self._applier.zxid < self._opened:
                return
            self._sessions.renew()  # the time without a leader does not count
            for server in self._pipeline.lead(self._id, [session.id for session in self._sessions]):
                self._peers.drop(server, "its requests came before this server could take them")
            self._serve(True, self._pipeline)
        elif following is not None and following.synced and self._applier.zxid >= following.serve_from:
            self._sessions.renew()
            self._following.follow()
            self._serve(False, self._following)

    def _serve(self, leading: bool, line: Line) -> None:
        self._serving = leading
        self._waiting = None
        self._role_since = time.monotonic_ns()
        self._pipeline.reset_proposals()
        logger.info("serving as=%s zxid=0x%x", self.mode, self._applier.zxid)
        self._service.serve(line)
        self._on_role(leading)

    def _lost(self, reason: str) -> None:
        """Neither leading nor following any more."""
        logger.warning("looking for a leader reason=%s", reason)
        if not self._service.read_only:
            self._service.suspend(reason)
        self._pipeline.close(reason)
        self._following.close(reason)
        self._abandon_transfers()
        # A leader may have stopped in the middle of a batch, before a sync: what it has of it is not applied again.
        self._handed = self._history.floor(self._applier.zxid)
        if self._serving is not None:
            self._serving = None
            self._waiting = time.monotonic()
            self._on_role(None)

    def _without_leader(self) -> None:
        """No leader has come, or this server is not as far as it: clients need not wait here any longer."""
        if self._serving is not None or self._service.read_only:
            return
        if self._waiting is not None and time.monotonic() >= self._waiting + self._patience:
            self._waiting = None
            gone = self._service.dismiss()
            if gone:
                logger.warning("no leader, connections closed count=%d", gone)
        if self._waiting is None and self._read_only is not None and self.core.leader is None:
            logger.warning("no leader, serving read-only zxid=0x%x", self._applier.zxid)
            self._service.serve_read_only(self._read_only)

    def _reconfigured(self, membership: Membership) -> None:
        """A new membership is committed. If this server leads no longer with it, who asked for that hears so first."""
        if not self._serving:
            return
        if self.core.leading is None:
            # The others may have been quicker than this server's disk, and afterwards it is too late to answer.
            while self._log.durable_zxid < membership.version:
                select.select([self._log.event_fd], [], [])
                self._take_done()
            self._pipeline.durable_to(self._log.durable_zxid)
        self._pipeline.commit_to(membership.version)

    def _retire(self) -> None:
        """Serve nobody any more if this server does not belong to the ensemble, once it has applied that."""
        if self._serving or not self._roster.removed or self._applier.zxid < self.core.membership.version:
            return
        if self._serving is False:
            self._lost("this server was removed from the ensemble")
        for client in [client for client in self._clients if client.session_id]:
            client.close()

    def _watch_over(self) -> None:
        """By the clock: who belongs to the ensemble, and whether the epoch has zxids left."""
        self._roster.tick()
        leading = self.core.leading
        if self._serving and leading is not None and self._history.last_zxid & 0xFFFF_FFFF >= ROLL_AT:
            leading.roll()

    # -- the write path's side ---------------------------------------------------------------------------------------

    def _submitted(self, batch: Batch) -> None:
        """The pipeline has given a batch to the log: broadcast it."""
        self.core.propose(Proposal(batch.first_zxid, batch.last_zxid, batch.count, batch.payload()))
        self._schedule()

    def _confirm(self) -> int:
        self._schedule()
        return self.core.confirm()

    def _send_forward(self, frame: bytes) -> None:
        leader = self.core.leader
        if leader is not None:
            self._peers.send(leader, bytes([FORWARD]), frame)

    def _send_outcome(self, server: int, frame: bytes) -> None:
        self._peers.send(server, bytes([OUTCOME]), frame)

    # -- sessions ----------------------------------------------------------------------------------------------------

    def _claimed(self, session: int, server: int, timeout_ms: int) -> None:
        """A session's client has connected to `server`: its connections elsewhere are over."""
        self._sessions.claimed(session, timeout_ms)
        if server != self._id:
            self._sessions.moved(session)
        moved = _MOVED.pack(MOVED, session)
        for peer in self.core.peers - {server}:
            self._peers.send(peer, moved)

    def report(self) -> None:
        """Tell the leader which sessions were heard of, the followers the tree's digest. A few times in a tick."""
        if self._serving:
            digest = _DIGEST.pack(DIGEST, self._applier.zxid, self._tree.digest)
            for peer in self.core.peers:
                self._peers.send(peer, digest)
        elif self._serving is False:
            since, self._heard_since = self._heard_since, time.monotonic_ns()
            heard = self._sessions.heard_since(since)
            leader = self.core.leader
            if heard and leader is not None:
                self._peers.send(leader, struct.pack(f"<B{len(heard)}q", HEARD, *heard))

    # -- what servers say besides the broadcast ------------------------------------------------------------------------

    def _talk(self, peer: int, kind: int, body: memoryview) -> None:
        if kind == FORWARD:
            if self.core.leading is not None and not self._pipeline.forwarded(peer, body[1:]):
                raise ValueError("requests are missing")
        elif kind == HEARD:
            if self._serving:
                for (session,) in struct.iter_unpack("<q", body[1:]):
                    self._sessions.heard(session)
        elif kind == SECRET:
            secret = bytes(body[1:])
            if not 16 <= len(secret) <= 64:
                raise ValueError(f"a key of {len(secret)} bytes for the sessions' passwords")
            self._secrets[peer] = secret
        elif peer != self.core.leader:
            return  # it leads no more, or not yet, as far as this server knows
        elif kind == OUTCOME:
            self._following.outcome(body[1:])
        elif kind == MOVED:
            self._sessions.moved(_MOVED.unpack(body)[1])
        elif kind == STATE:
            self._state_came(_STATE.unpack_from(body)[1], body[_STATE.size :])
        elif kind == DIGEST:
            self._compare(*_DIGEST.unpack(body)[1:])
        else:
            raise ValueError(f"a frame of the unknown kind 0x{kind:x}")

    # -- full states -------------------------------------------------------------------------------------------------

    def _send_state(self, to: int, stream: int) -> None:
        self._stop_sending(to)
        sender = StateSender(self._store, self._log, self._sessions.secret)
        head = _STATE.pack(STATE, stream)

        def done(ok: bool) -> None:
            leading = self.core.leading
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
            send=lambda frame: self._peers.send(to, head, frame),
            pending=lambda: self._peers.pending(to),
            done=done,
        )

    def _stop_sending(self, to: int) -> None:
        pump = self._pumps.pop(to, None)
        if pump is not None:
            pump.close()

    def _receive_state(self, stream: int) -> None:
        logger.info("receiving the full state from=%s", self.core.leader)
        self._stop_receiving()
        try:
            self._receiving = (stream, StateReceiver(self._config, self._log.store_id))
        except (StoreError, OSError) as error:
            self._cannot_receive(error)

    def _state_came(self, stream: int, frame: memoryview) -> None:
        """A part of the full state."""
        try:
            self._carry_out()  # the first part comes on the heels of what announces it
        except Exception as error:
            self._on_failure(error)
            return
        following = self.core.following
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
        # acknowledged must not be forgotten.
        keep_log = self.core.diverged and self._history.is_end(receiver.zxid)
        self._kept = self._history.hold(receiver.zxid)
        sealed = self._loop.run_in_executor(None, partial(receiver.seal, keep_log=keep_log))
        sealed.add_done_callback(partial(self._state_sealed, receiver))

    def _state_sealed(self, receiver: StateReceiver, sealed: asyncio.Future[None]) -> None:
        """All of the full state is on the disk, or it is not good."""
        error = sealed.exception()
        if self._stopped or self._receiving is None or self._receiving[1] is not receiver:
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
            # What is in memory counts no more: nothing may be said of it.
            self._receiving = None
            self.stop()
            self._on_installed()

    def _cannot_receive(self, reason: BaseException) -> None:
        logger.error("receiving the full state failed reason=%s; it begins anew", reason)
        self.core.look("the full state could not be taken over")

    def _stop_receiving(self) -> None:
        if self._receiving is not None:
            receiver, self._receiving = self._receiving[1], None
            if not self._let_go():
                receiver.close()  # else another thread is at it: `_state_sealed` will

    def _let_go(self) -> bool:
        """Have the log keep nothing any more for a state that was received; whether it did."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.release()
        return kept is not None

    def _abandon_transfers(self) -> None:
        for peer in list(self._pumps):
            self._stop_sending(peer)
        self._stop_receiving()

    def _adopt_secret(self, secret: bytes | None) -> None:
        """Sessions have one key in the whole ensemble, that of its first leader."""
        if secret is not None and adopt_secret(self._config, self._sessions.secret, secret):
            self._sessions.secret = secret

    # -- the tree's digests -------------------------------------------------------------------------------------

    def _compare(self, zxid: int, digest: int) -> None:
        """The leader had this digest at `zxid`."""
        if self.core.diverged:
            return  # that is known, and a full state is on its way
        if zxid > self._applier.zxid:
            if self._expected is None:
                self._expected = (zxid, digest)
            return
        for known, own in reversed(self._digests):
            if known <= zxid:
                if known == zxid and own != digest:
                    self._diverged(zxid, own, digest)
                return

    def _diverged(self, zxid: int, own: int, leaders: int) -> None:
        """Leave the ensemble, and come back for a full state. A restart in between does not change that."""
        leader = self.core.leader
        assert leader is not None
        why = f"at zxid 0x{zxid:x} the tree's digest is {own:x}, that of leader {leader} is {leaders:x}"
        logger.critical("this server's tree differs from the leader's, fetching the whole state anew reason=%s", why)
        mark_diverged(self._config, why)
        self.core.disown("this server's tree has diverged")
        self._peers.drop(leader, "this server's tree has diverged")
        self._schedule()


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _membership_in(proposal: Proposal) -> Membership | None:
    text = membership_text(proposal.payload)
    return None if text is None else Membership.parse(text.decode())
