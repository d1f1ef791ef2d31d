"""One server of an ensemble: drives the broadcast, and gives the write path its place in it.

    peers (sockets) --> frames --+--> zab core: who leads, which batches, what is committed
                                 +--> talk: requests that followers forward (to the pipeline, leading), the leader's
                                            answers to them (to following), sessions, full states, digests
    log (its thread) -> durable --> core.persisted, pipeline.durable
    core.take() -> promises to the disk, messages to peers, batches to the log, full states, roles

Everything happens on the event loop, in *turns*: something arrives, the core is told, its actions are carried out in
their order, what is committed is applied, and at the end of the turn each peer gets one write.

Only what is committed is applied, so the tree never has to forget anything. A follower does not wait for its own disk
with that: a quorum has it. If nobody waits for its acknowledgment either, its log gets what came within
``LAZY_SECONDS`` at a time. What goes by the log's end (checkpoints, acknowledgments) goes by what is durable. After a
start the log may hold more than is known to be committed; that waits, in ``history``, until a leader says how far it
is.

What has a life of its own is beside this file, and knows nothing of it: ``talk.py``, what servers say besides the
broadcast; ``full_states.py``, states on their way; ``digests.py``, whether this server's tree is the leader's;
``serving.py``, as what clients are served, and how long they wait without a leader; ``roster.py``, who belongs to the
ensemble.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
import struct
from collections.abc import Callable
from random import Random
from time import monotonic_ns
from typing import Final

from fastzk._log import Batch, LogFailed
from fastzk.server._apply import membership_text
from fastzk.server._connection import Service
from fastzk.server._following import Following
from fastzk.server._pipeline import Pipeline
from fastzk.server._read_only import ReadOnly
from fastzk.server.config import Config
from fastzk.server.digests import Difference, Digests
from fastzk.server.ensemble_config import EnsembleConfig
from fastzk.server.four_letter import EnsembleView, LeaderView
from fastzk.server.full_states import FullStates
from fastzk.server.peers import Peers
from fastzk.server.recovery import Recovered
from fastzk.server.roster import Roster, recovered_memberships
from fastzk.server.serving import Serving
from fastzk.server.switch import has_diverged, mark_diverged
from fastzk.server.talk import Talk
from fastzk.server.tls import PeerContexts
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
#: The core's clock is set before a frame is handled if it is behind by so many milliseconds.
CLOCK_MS: Final = 10
#: A leader goes on in a later epoch when the counter of its zxids has come so far.
ROLL_AT: int = 0xF000_0000
#: Bytes of committed batches applied before the loop serves somebody else.
APPLY_BYTES: Final = 1 << 20
#: How long a follower's batches wait for others before they are written, if they are not urgent, and how many bytes.
LAZY_SECONDS: Final = 0.01
LAZY_BYTES: Final = 256 << 10


class Ensemble:
    """This server's part in the ensemble.

    Everything it is given belongs to the event loop's thread. ``recovered`` has the state, ``pipeline`` and
    ``following`` are the two ways of a write; ``read_only``, if it is not None, is for clients without a leader.
    ``on_role`` is told when this server begins to serve clients (with True if it leads), and when it stops to
    (None). ``on_installed`` has the server begin anew from its data directory, which a full state has replaced;
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
        self._config = config
        self._serving = Serving(service, read_only, tick=ensemble.tick_time_ms / 1000, on_role=on_role)
        self._on_installed = on_installed
        self._on_failure = on_failure
        self._scheduled = False
        #: Whether actions of the core are being carried out.
        self._busy = False
        #: Whether a turn is under way: it ends with carrying out whatever the core wants by then.
        self._turning = False
        self._stopped = False
        #: Everything up to here was given to be applied.
        self._handed = self._history.floor(self._applier.zxid)
        #: Batches that the log gets later, since they are not urgent, and their bytes.
        self._lazy: list[Proposal] = []
        self._lazy_bytes = 0
        self._lazy_timer = False
        self._digests = Digests()
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
            self._digests.note(self._applier.zxid, self._tree.digest)
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
        self._talk = Talk(
            ensemble.my_id,
            config,
            recovered,
            core=self.core,
            peers=self._peers,
            pipeline=pipeline,
            following=following,
            serving=self._serving,
            on_state=self._state_came,
            on_digest=self._digest_came,
        )
        self._full_states = FullStates(
            loop,
            config,
            recovered,
            self.core,
            send=self._talk.send_state,
            pending=self._peers.pending,
            guarded=self._guarded,
            on_installed=self._installed,
            on_failure=on_failure,
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
        self._serving.suspend("start")
        self._pipeline.close("start")
        self._loop.add_reader(self._log.event_fd, self._logged)
        self._roster.changed()
        self._peers.start()
        self._tick()

    def stop(self) -> None:
        """Take no part any more; the log goes on until it is closed."""
        if not self._stopped:
            self._stopped = True
            self._write_lazy()
            self._loop.remove_reader(self._log.event_fd)
            self._full_states.abandon()
            self._peers.close()

    def durable(self, zxid: int) -> bool:
        """Whether the log's disk has everything up to `zxid`."""
        return zxid <= self._log.durable_zxid

    def wait_durable(self) -> None:
        """Until the log has everything that is applied, once this is stopped. Raises LogFailed."""
        while not self.durable(self._applier.zxid):
            self._wait_for_log()

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
        return self._serving.leading

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
                uptime_ms=(monotonic_ns() - self._serving.since) // 1_000_000,
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
        self._guarded(self._set_clock)
        self._guarded(self._watch_over)
        self._guarded(self._serving.wait, self.core.leader, self._applier.zxid)
        self._loop.call_later(LOOKING_TICK if self.core.leader is None else TICK, self._tick)

    def _set_clock(self) -> None:
        self.core.tick(_now_ms())

    def _connected(self, peer: int) -> None:
        self._guarded(self.core.connected, peer)

    def _disconnected(self, peer: int, reason: str) -> None:
        self._full_states.stop_sending(peer)
        self._talk.forget(peer)
        self._pipeline.forget(peer)
        self._guarded(self.core.disconnected, peer)

    def _frame(self, peer: int, body: memoryview) -> None:
        if self._stopped or not body:
            return
        try:
            now_ms = _now_ms()
            if now_ms - self.core.now >= CLOCK_MS:
                self.core.tick(now_ms)  # what comes after a long pause finds the clock set
            if body[0] <= LAST_TYPE:
                self.core.step(peer, decode(body))
            else:
                self._talk.take(peer, body)
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
        if not self._busy:
            self._carry_out()  # a truncation, perhaps: what became durable of that tail is none of the core's business
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
        if self._serving.leading and self.core.leading is None and not self._busy:
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
        self._turning = self._peers.turning = True
        try:
            self._carry_out()
            self._roster.changed()
            self._tell_commit()
            self._peers.hurry()
            self._apply()
            self._begin_to_serve()
            self._carry_out()  # what those who were answered have proposed already
            self._peers.hurry()
            self._peers.turning = False  # what is sent from here on, the loop sends
            self._clients.flush_all()
            self._retire()
        except Exception as error:
            self._on_failure(error)
        finally:
            self._turning = self._peers.turning = False

    def _tell_commit(self) -> None:
        """The followers hear what is committed before it is applied and answered here."""
        if self.core.leading is not None:
            limit = self._due()
            if limit:
                self._pipeline.mark_committed(limit)
            self.core.settle()  # now, when the next batch could have carried the commit point along
            self._carry_out()

    def _carry_out(self) -> None:
        """Do what the core wants done."""
        self._busy = True
        try:
            while todo := self.core.take():
                for action in todo:
                    self._act(action)
        finally:
            self._busy = False

    def _carry_out_now(self) -> bool:
        """The same where a failure is nobody else's business; whether there was none."""
        try:
            self._carry_out()
        except Exception as error:
            self._on_failure(error)
            return False
        return True

    def _act(self, action: Action) -> None:
        if isinstance(action, Send):  # what each batch needs comes first
            sending = action
            self._send(sending.to, sending.message)
            return
        if isinstance(action, Log):
            writing = action
            proposal = writing.proposal
            self._lazy.append(proposal)
            self._lazy_bytes += len(proposal.payload)
            if writing.urgent or self._lazy_bytes >= LAZY_BYTES:
                self._write_lazy()
            elif not self._lazy_timer:
                self._lazy_timer = True
                self._loop.call_later(LAZY_SECONDS, self._time_to_write)
            return
        self._write_lazy()
        match action:
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
                self._talk.adopt_secret(leader)
            case Look(reason):
                self._lost(reason)
            case SendState(to, stream):
                self._full_states.send(to, stream)
            case ReceiveState(_, stream):
                self._full_states.receive(stream)
            case Reconfigured(zxid, membership):
                self._epochs.adopt(zxid)
                self._reconfigured(membership)

    def _write_lazy(self) -> None:
        """Give the log what it has not got yet."""
        if not self._lazy:
            return
        lazy, self._lazy, self._lazy_bytes = self._lazy, [], 0
        for proposal in lazy:
            batch = Batch()
            batch.adopt(proposal.first_zxid, proposal.last_zxid, proposal.count, proposal.payload)
            self._log.submit(batch)

    def _time_to_write(self) -> None:
        self._lazy_timer = False
        self._guarded(self._write_lazy)

    def _leads(self, epoch: int) -> bool:
        """Whether this server still leads `epoch`: what is carried out may have been overtaken by what comes behind."""
        leading = self.core.leading
        return leading is not None and leading.epoch == epoch

    def _send(self, to: int, message: Message) -> None:
        if isinstance(message, NewLeader):
            self._talk.send_secret(to)
        self._peers.post(to, encode(message))

    def _truncate(self, zxid: int) -> None:
        """Drop a tail of the log that the leader does not have. Waits for the disk: nobody is served meanwhile."""
        # The core knows of the truncation already, so it is not told what became durable of that tail.
        while self._log.pending:
            self._wait_for_log()
        self._settle_log()
        logger.warning("dropping what was never committed after=0x%x to=0x%x", zxid, self._log.last_zxid)
        self._log.truncate(zxid)

    def _wait_for_log(self) -> None:
        """Let the log make something durable. Nobody is served meanwhile."""
        select.select([self._log.event_fd], [], [])
        self._settle_log()

    # -- applying ----------------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        """Apply what is committed (leading: and on this server's disk), a slice of it at a time."""
        core = self.core
        limit = min(core.commit, core.durable) if core.leading is not None else core.commit
        if self._handed < limit:
            self._apply_history(limit)
        limit = self._due()
        if limit:
            self._pipeline.commit_to(limit)
            self._handed = max(self._handed, self._applier.zxid)

    def _due(self) -> int:
        """Up to where this server's own pipeline may apply and answer; 0: nowhere yet.

        A leader may have more of the earlier epochs to apply than goes in one slice: its own come behind that.
        """
        core = self.core
        limit = min(core.commit, core.durable)
        due = core.leading is not None and self._pipeline.inherited <= self._applier.zxid < limit
        return limit if due else 0

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
                difference = self._digests.note(self._handed, self._tree.digest)
                if difference is not None and not self.core.diverged:
                    self._diverged(difference)
                    break
        self._schedule()  # there may be more

    def _begin_to_serve(self) -> None:
        """Serve clients as soon as this server has everything that was committed when it took its role."""
        if self._serving.leading is not None or self._roster.removed:
            return
        leading, following = self.core.leading, self.core.following
        if leading is not None:
            if not leading.established or self._applier.zxid < self._opened:
                return
            self._sessions.renew()  # the time without a leader does not count
            for server in self._pipeline.lead(self._id, [session.id for session in self._sessions]):
                self._peers.drop(server, "its requests came before this server could take them")
            self._pipeline.reset_proposals()
            self._serving.begin(True, self._pipeline, self.mode, self._applier.zxid)
        elif following is not None and following.synced and self._applier.zxid >= following.serve_from:
            self._sessions.renew()
            self._following.follow()
            self._pipeline.reset_proposals()
            self._serving.begin(False, self._following, self.mode, self._applier.zxid)

    def _lost(self, reason: str) -> None:
        """Neither leading nor following any more."""
        logger.warning("looking for a leader reason=%s", reason)
        self._serving.suspend(reason)
        self._pipeline.close(reason)
        self._following.close(reason)
        self._full_states.abandon()
        # A leader may have stopped in the middle of a batch, before a sync: what it has of it is not applied again.
        self._handed = self._history.floor(self._applier.zxid)
        self._serving.end()

    def _reconfigured(self, membership: Membership) -> None:
        """A new membership is committed. If this server leads no longer with it, who asked for that hears so first."""
        if not self._serving.leading:
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
        if self._serving.leading or not self._roster.removed or self._applier.zxid < self.core.membership.version:
            return
        if self._serving.leading is False:
            self._lost("this server was removed from the ensemble")
        for client in [client for client in self._clients if client.session_id]:
            client.close()

    def _watch_over(self) -> None:
        """By the clock: who belongs to the ensemble, and whether the epoch has zxids left."""
        self._roster.tick()
        leading = self.core.leading
        if self._serving.leading and leading is not None and self._history.last_zxid & 0xFFFF_FFFF >= ROLL_AT:
            leading.roll()

    # -- the write path's side ---------------------------------------------------------------------------------------

    def _submitted(self, batch: Batch) -> None:
        """The pipeline has given a batch to the log: broadcast it."""
        self.core.propose(Proposal(batch.first_zxid, batch.last_zxid, batch.count, batch.payload()))
        if not self._turning:
            self._schedule()

    def _confirm(self) -> int:
        self._schedule()
        return self.core.confirm()

    def report(self) -> None:
        """Tell the leader which sessions were heard of, the followers the tree's digest. A few times in a tick."""
        self._talk.report()

    # -- what the leader has -----------------------------------------------------------------------------------------

    def _state_came(self, stream: int, frame: memoryview) -> None:
        """A part of a full state."""
        if self._carry_out_now():  # the first part comes on the heels of what announces it
            self._full_states.came(stream, frame)

    def _installed(self) -> None:
        """A full state is in place. What is in memory counts no more: nothing may be said of it."""
        self.stop()
        self._on_installed()

    def _digest_came(self, zxid: int, digest: int) -> None:
        """The leader's tree had this digest at `zxid`."""
        if self.core.diverged:
            return  # that is known, and a full state is on its way
        difference = self._digests.leader_has(zxid, digest, applied=self._applier.zxid)
        if difference is not None:
            self._diverged(difference)

    def _diverged(self, difference: Difference) -> None:
        """Leave the ensemble, and come back for a full state. A restart in between does not change that."""
        leader = self.core.leader
        assert leader is not None
        why = difference.told(leader)
        logger.critical("this server's tree differs from the leader's, fetching the whole state anew reason=%s", why)
        mark_diverged(self._config, why)
        self.core.disown("this server's tree has diverged")
        self._peers.drop(leader, "this server's tree has diverged")
        self._schedule()


def _now_ms() -> int:
    return monotonic_ns() // 1_000_000


def _membership_in(proposal: Proposal) -> Membership | None:
    text = membership_text(proposal.payload)
    return None if text is None else Membership.parse(text.decode())
