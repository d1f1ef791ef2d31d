"""The composition root: builds every part of the server once, wires it, runs it, stops it. Read this first.

    bytes -> _connection -> _reads ----------------------------> reply       (a read: from memory, at once)
                         \\-> _pipeline -> _prepare, _overlay                 (a write: validate, encode)
                                  |-> _log (its own thread) -> the disk
                                  \\-> _apply -> _tree, _watches -> reply    (once it is durable)

    checkpoint (a slice a turn, a thread) -> store (LMDB)
    recovery: store + _log -> _tree, sessions                                (before all this begins)

Everything but the log thread and the checkpoint thread happens on one event loop. Whatever fails there in an
unforeseen way ends the process with its reason: a server that limps on could lose what it acknowledged.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple

import uvloop

from fastzk._log import LogFailed
from fastzk._version import __version__
from fastzk.server._clients import Clients
from fastzk.server._connection import Service
from fastzk.server._following import Following
from fastzk.server._line import Line
from fastzk.server._overlay import Overlay
from fastzk.server._pipeline import Pipeline
from fastzk.server._prepare import Preparer
from fastzk.server._read_only import ReadOnly
from fastzk.server._reads import Reads
from fastzk.server._spin import Spinner
from fastzk.server._watches import Watches
from fastzk.server.acceptor import TlsAcceptor
from fastzk.server.auth import Authenticator, fix_acl
from fastzk.server.checkpoint import Checkpointer, CheckpointResult
from fastzk.server.config import Config
from fastzk.server.containers import ContainerManager
from fastzk.server.ensemble import Ensemble
from fastzk.server.extensions import virtual_znodes
from fastzk.server.four_letter import COMMANDS, answer
from fastzk.server.ports import bind
from fastzk.server.recovery import Recovered, checkpoint_meta, recover
from fastzk.server.sasl import SaslAuthenticator, read_jaas
from fastzk.server.scheduling import Scheduling
from fastzk.server.stats import ServerStats
from fastzk.server.store import StoreFull
from fastzk.server.throttle import connection_throttle
from fastzk.server.tls import Certificates, Contexts, PeerContexts

logger = logging.getLogger(__name__)

DEFAULT_BACKLOG: Final = 4096
#: How long a connection may take to ask for a session, however it drips in, and to take its last replies.
LATE_SECONDS: Final = 30.0
#: How often the server looks after checkpoints and the disk.
HOUSEKEEPING_SECONDS: Final = 1.0
#: At a stop, how long requests under way may take.
DRAIN_SECONDS: Final = 2.0
#: Checkpoints may take at most one part in so many of the time.
CHECKPOINT_SHARE: Final = 4
#: How long a busy event loop looks for more work before it sleeps.
SPIN_MICROSECONDS: Final = 150
#: Covered log segments kept beside the live one.
KEEP_SEGMENTS: Final = 1
#: Not an exit code: the data directory has a new content, which a new start has to load.
BEGIN_ANEW: Final = -1


def serve(config: Config) -> int:
    """Run the server until SIGTERM or SIGINT.

    Returns the process's exit code: 0 after an orderly stop, 1 if it had to give up.

    Raises:
        StartupError: it cannot start; nothing was changed on disk unless the data directory was usable.
    """
    while (code := _serve_once(config)) == BEGIN_ANEW:
        # The state that was replaced is garbage, in cycles and exempt from collection: see ``Server.run``.
        gc.unfreeze()
        gc.collect()
    return code


def _serve_once(config: Config) -> int:
    # First what may be wrong and changes nothing: certificates, the users of SASL, the ports.
    contexts = Contexts(config) if config.serves_tls else None
    ensemble = config.ensemble
    peer_contexts = PeerContexts(ensemble) if ensemble is not None and ensemble.ssl_quorum else None
    passwords = read_jaas(config.jaas_path, config.jaas_section) if config.jaas_path else None
    with ExitStack() as bound:
        ports = Ports(*(place and bound.enter_context(bind(*place)) for place in _places(config)))
        recovered = recover(config, ensemble=config.ensemble is not None, apply_tail=config.ensemble is None)
        bound.pop_all()
    loop = uvloop.new_event_loop()
    try:
        return Server(
            config, loop, recovered, ports, contexts=contexts, peer_contexts=peer_contexts, passwords=passwords
        ).run()
    finally:
        loop.close()
        os.close(recovered.lock)


class Ports(NamedTuple):
    """The sockets that the server listens on; None for what it does not serve."""

    clients: socket.socket | None
    secure_clients: socket.socket | None
    servers: socket.socket | None


def _places(config: Config) -> tuple[tuple[str, int] | None, ...]:
    """Address and port of each of the ``Ports``."""
    ensemble = config.ensemble
    return (
        None if config.client_port is None else (config.client_address, config.client_port),
        None if config.secure_client_port is None else (config.secure_client_address or "", config.secure_client_port),
        None if ensemble is None else ensemble.listen_addresses(ensemble.me)[0],
    )


def _port(listener: socket.socket | None) -> int | None:
    return None if listener is None else int(listener.getsockname()[1])


class Server:
    """One running server: alone, or a member of an ensemble."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        recovered: Recovered,
        ports: Ports,
        *,
        contexts: Contexts | None,
        peer_contexts: PeerContexts | None,
        passwords: dict[str, str] | None,
    ) -> None:
        self._config = config
        self._loop = loop
        self._ports = ports
        self._contexts = contexts
        self._refreshing: list[asyncio.Task[None]] = []
        self._lock = recovered.lock
        self._store = recovered.store
        self._log = recovered.log
        self._history = recovered.history
        self._tree = tree = recovered.tree
        self._applier = recovered.applier
        self._sessions = recovered.sessions
        self._exit_code = 0
        self._stopping = self._ended = False
        self._acceptors: list[asyncio.Server | TlsAcceptor] = []

        tree.acls.skip_checks = config.skip_acl
        self._clients = clients = Clients()
        self._watches = watches = Watches(clients, tree.acls)
        overlay = Overlay(tree)
        preparer = Preparer(tree, overlay)
        preparer.fix_acl = partial(fix_acl, schemes=config.auth_schemes)
        preparer.ttl_enabled = config.extended_types_enabled
        self._applier.serve(watches)
        self._applier.quotas.enforce = config.enforce_quota
        limit = min(
            config.global_outstanding_limit, config.request_throttle_limit or config.global_outstanding_limit
        )
        self._pipeline = pipeline = Pipeline(
            loop, clients, overlay, preparer, self._applier, self._log, limit, self._fail
        )
        self._lines: list[Line] = [pipeline]
        reads = Reads(tree, watches, clients)
        reads.limit(config.max_reply_bytes, config.jute_maxbuffer)
        preparer.max_removal = config.jute_maxbuffer
        if config.keeper_extensions:
            reads.extend(virtual_znodes())
            preparer.extensions = True
        authenticator = Authenticator(super_digest=config.super_digest, digest_algorithm=config.digest_alg)
        self._service = Service(
            clients,
            watches,
            pipeline,
            reads,
            self._sessions,
            authenticator.authenticate,
            self._four_letter,
            self._fail,
            max_frame=config.jute_maxbuffer,
            max_per_host=config.max_client_cnxns,
            max_clients=config.max_cnxns,
        )
        self._service.identify = Certificates(
            super_user=config.x509_super_user,
            verify_host=config.ssl_hostname_verification and config.ssl_client_hostname_verification,
        ).identify
        self._service.sasl = SaslAuthenticator(
            passwords,
            super_password=config.sasl_super_password,
            super_users=[user for _, user in config.super_users],
            keep_failed=config.allow_sasl_failed_clients,
            required="sasl" in config.required_schemes,
        ).step
        self._service.required = frozenset(config.required_schemes) or None
        self._service.throttle = throttle = connection_throttle(config)
        self._ensemble: Ensemble | None = None
        following: Following | None = None
        if config.ensemble is not None:
            following = Following(loop, clients, self._applier, limit, self._fail)
            self._lines.append(following)
            read_only = ReadOnly(loop, clients, self._applier) if config.ensemble.read_only_mode_enabled else None
            if read_only is not None:
                self._lines.append(read_only)
            self._service.local_sessions = config.ensemble.local_sessions_enabled
            self._service.upgrade_sessions = config.ensemble.local_sessions_upgrading_enabled
            self._ensemble = Ensemble(
                loop,
                config,
                config.ensemble,
                recovered,
                service=self._service,
                pipeline=pipeline,
                following=following,
                read_only=read_only,
                listener=ports.servers,
                certificates=peer_contexts,
                on_role=self._role_changed,
                on_installed=self._begin_anew,
                on_failure=self._fail,
            )
        spinner = Spinner(loop, SPIN_MICROSECONDS)
        for line in self._lines:
            line.spinner = spinner
            if config.large_request_threshold != -1:
                line.large_threshold = config.large_request_threshold
                line.large_max = config.large_request_max_bytes
        self._containers = ContainerManager(
            loop,
            tree,
            pipeline,
            check_interval_ms=config.container_check_interval_ms,
            max_per_minute=config.container_max_per_minute,
            max_never_used_ms=config.container_max_never_used_ms,
            on_failure=self._fail,
        )
        self._checkpointer = Checkpointer(loop, self._store, tree, on_failure=self._fail, durable=self._durable)
        self._scheduling = Scheduling(loop, self._log)
        self._checkpoint_txns = 0  # pipeline.txns when the last checkpoint began
        self._checkpoint_began = time.monotonic()
        self._checkpoint_pause = 0.0  # not before so many seconds after the last one began
        self._stats = ServerStats(
            config,
            _port(ports.clients),
            _port(ports.secure_clients),
            tree=tree,
            clients=clients,
            watches=watches,
            pipeline=pipeline,
            sessions=self._sessions,
            log=self._log,
            throttle=throttle,
            member=self._ensemble,
            following=following,
        )

    def run(self) -> int:
        """Serve until told to stop; the exit code."""
        loop = self._loop
        loop.set_exception_handler(self._unhandled)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, signal.Signals(number).name)
        self._listen()
        if self._ensemble is None:
            loop.add_reader(self._log.event_fd, self._pipeline.on_durable)
            self._containers.start()
        else:
            self._ensemble.start()
        self._expire_sessions()
        self._keep_house()
        self._scheduling.start()
        # What was built so far lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        if self._ports.secure_clients is not None:
            logger.info("serving TLS address=%s port=%d", *self._ports.secure_clients.getsockname()[:2])
        listener = self._ports.clients or self._ports.secure_clients
        assert listener is not None  # a configuration has one of the two ports
        address, port = listener.getsockname()[:2]
        logger.info("serving address=%s port=%d version=%s pid=%d", address, port, __version__, os.getpid())
        loop.run_forever()
        if self._exit_code != 1:
            self._close()
        if self._exit_code == BEGIN_ANEW and self._stopping:
            return 0  # told to stop meanwhile: the next start goes on with it
        return self._exit_code

    def _listen(self) -> None:
        """Let clients come."""
        config, loop, contexts = self._config, self._loop, self._contexts
        backlog = config.listen_backlog if config.listen_backlog > 0 else DEFAULT_BACKLOG
        detection: float | None = None
        secure = [(self._ports.secure_clients, detection)]
        if config.client_port_unification:
            secure.append((self._ports.clients, config.ssl_detection_timeout_ms / 1000))
        elif self._ports.clients is not None:
            plain = loop.create_server(self._service.connection, sock=self._ports.clients, backlog=backlog)
            self._acceptors.append(loop.run_until_complete(plain))
        for listener, detection in secure:
            if listener is not None and contexts is not None:
                acceptor = TlsAcceptor(
                    loop,
                    listener,
                    self._service,
                    lambda: contexts.current,
                    self._fail,
                    detection_seconds=detection,
                    handshake_limit=max(config.outstanding_handshake_limit, 0),
                )
                acceptor.start(backlog)
                self._acceptors.append(acceptor)

    # -- what ends the server ---------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """Something failed that must not be lived with: say why and end at once, without a checkpoint."""
        if self._exit_code == 0:
            self._exit_code = 1
            if isinstance(error, LogFailed | OSError):
                logger.critical(
                    "stopping reason=%s; what was not acknowledged may be lost, check the disk before a restart",
                    error,
                )
            else:
                logger.critical("stopping because of an internal error: %r", error, exc_info=error)
        self._loop.stop()

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """What the event loop could not hand to anybody."""
        error = context.get("exception")
        if isinstance(error, OSError):
            # A peer's fault: the transport has closed the connection.
            logger.info("connection error message=%s error=%r", context.get("message"), error)
            return
        self._fail(error if isinstance(error, BaseException) else RuntimeError(str(context.get("message"))))

    def _stop(self, why: str) -> None:
        """Stop accepting and reading; end when what is under way is answered."""
        if self._stopping:
            return
        self._stopping = True
        logger.info(
            "stopping reason=%s outstanding=%d connections=%d",
            why,
            self._pending,
            len(self._clients),
        )
        for acceptor in self._acceptors:
            acceptor.close()
        self._service.stop()
        self._containers.stop()
        if self._pending == 0:
            self._loop.call_soon(self._end)
            return
        for line in self._lines:
            line.idle_callback = self._idle
        self._loop.call_later(DRAIN_SECONDS, self._end)

    @property
    def _pending(self) -> int:
        """Requests of clients between arrival and answer."""
        return sum(line.pending for line in self._lines)

    def _end(self) -> None:
        """Leave ``run_forever``, once: what is to be done then runs the loop again."""
        if not self._ended:
            self._ended = True
            self._loop.stop()

    def _idle(self) -> None:
        if self._pending == 0:
            self._loop.call_soon(self._end)

    def _begin_anew(self) -> None:
        """The data directory holds a full state of the leader's: load it as at a start."""
        if self._exit_code == 0:
            self._exit_code = BEGIN_ANEW
        self._loop.stop()

    def _close(self) -> None:
        """Everything is answered: write a last checkpoint and close."""
        began = time.monotonic()
        self._scheduling.stop()
        for acceptor in self._acceptors:
            acceptor.close()
        self._clients.flush_all()
        for client in list(self._clients):
            client.close()
        if self._ensemble is None:
            self._loop.remove_reader(self._log.event_fd)
        else:
            self._ensemble.stop()
            self._loop.run_until_complete(self._ensemble.wait_stopped())
        self._loop.run_until_complete(asyncio.sleep(0.01))
        try:
            if self._exit_code == 0 and self._applier.zxid != self._store.checkpoint_zxid and self._between_batches:
                if self._ensemble is not None:
                    self._ensemble.wait_durable()
                self._checkpointer.run_now(checkpoint_meta(self._applier, self._tree, self._sessions))
        except (StoreFull, LogFailed) as error:
            logger.warning(
                "no last checkpoint reason=%s; the next start goes on from the one before", error
            )
        self._checkpointer.close()
        self._log.close()
        self._store.close()
        logger.info("stopped zxid=0x%x ms=%d", self._applier.zxid, (time.monotonic() - began) * 1000)

    # -- what happens by the clock ------------------------------------------------------------------------------

    def _expire_sessions(self) -> None:
        if self._stopping:
            return
        try:
            if self._ensemble is not None:
                self._ensemble.report()
            # The leader's business: it hears from the others which sessions are alive.
            expired = self._sessions.expired() if self._ensemble is None or self._ensemble.serving else []
            if self._pipeline.read_only:
                self._sessions.reopen(expired)
                expired = []
            for session in expired:
                logger.info("session expired session=0x%x", session & 0xFFFF_FFFF_FFFF_FFFF)
                self._pipeline.expire_session(session)
            if not self._service.leaderless:
                for session in self._sessions.expire_local():
                    logger.info("local session expired session=0x%x", session & 0xFFFF_FFFF_FFFF_FFFF)
            self._service.close_late(int(LATE_SECONDS * 1e9))
        except Exception as error:
            self._fail(error)
        pause = self._config.tick_time_ms / 1000
        self._loop.call_later(pause if self._ensemble is None else pause / 2, self._expire_sessions)

    def _role_changed(self, leading: bool | None) -> None:
        """This server of an ensemble serves clients from now on (``leading`` or not), or does not any more (None)."""
        if leading:
            self._containers.start()
        else:
            self._containers.stop()

    def _keep_house(self) -> None:
        if self._stopping:
            return
        try:
            if self._pipeline.read_only and not self._log.no_space:
                logger.warning("the disk has room again, taking writes")
                self._pipeline.space_again()
            elif self._log.no_space:
                logger.error(
                    "no space for the transaction log path=%s error=%s read_only=%s",
                    self._log.directory,
                    os.strerror(self._log.errno),
                    self._pipeline.read_only,
                )
            if self._checkpoint_due():
                self._start_checkpoint()
            refreshing = [self._contexts.refresh()] if self._contexts is not None else []
            if self._ensemble is not None:
                refreshing.append(self._ensemble.refresh_certificates())
            self._refreshing = [self._loop.create_task(each) for each in refreshing]
        except Exception as error:
            self._fail(error)
        self._loop.call_later(HOUSEKEEPING_SECONDS, self._keep_house)

    def _checkpoint_due(self) -> bool:
        fresh = self._txns - self._checkpoint_txns
        if self._checkpointer.running or fresh == 0 or not self._between_batches:
            return False
        if fresh < self._config.snap_count:
            return False
        return time.monotonic() - self._checkpoint_began >= self._checkpoint_pause

    @property
    def _between_batches(self) -> bool:
        """Not in the middle of a batch, as a leader may be while a sync waits: states begin where batches end."""
        return self._history is None or self._history.is_end(self._applier.zxid)

    def _durable(self, zxid: int) -> bool:
        """Whether the log reaches up to `zxid`, so that it can be continued behind a checkpoint of that."""
        return self._ensemble is None or self._ensemble.durable(zxid)

    @property
    def _txns(self) -> int:
        """Transactions since the start."""
        return sum(line.txns for line in self._lines)

    def _start_checkpoint(self) -> None:
        self._checkpoint_txns = self._txns
        self._checkpoint_began = time.monotonic()
        future = self._checkpointer.start(checkpoint_meta(self._applier, self._tree, self._sessions))
        future.add_done_callback(self._checkpoint_done)

    def _checkpoint_done(self, future: asyncio.Future[CheckpointResult]) -> None:
        took = time.monotonic() - self._checkpoint_began
        self._checkpoint_pause = took * CHECKPOINT_SHARE
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            covered = future.result().zxid
            if self._history is None:
                gone = self._log.purge(covered, keep_segments=KEEP_SEGMENTS)
            else:
                gone = self._history.purge(covered)
            if gone:
                logger.info("log purged covered=0x%x segments=%d", future.result().zxid, len(gone))
        elif isinstance(error, StoreFull):
            # Its pages count as changed again; the next one is due when the pause is over.
            self._checkpoint_txns -= self._config.snap_count

    # -- four-letter words --------------------------------------------------------------------------------------

    def _four_letter(self, word: bytes) -> bytes | None:
        try:
            command = word[:4].decode("ascii")
        except UnicodeDecodeError:
            return None
        if command not in COMMANDS:
            return None
        return answer(command, self._stats, self._config.four_letter_whitelist, word[4:])
