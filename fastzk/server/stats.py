"""The server as four-letter words see it: names and units of `four_letter`, values from the running parts."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from fastzk._log import TxnLog
from fastzk._tree import Tree
from fastzk._version import __version__
from fastzk.server._clients import Clients
from fastzk.server._connection import Connection
from fastzk.server._following import Following
from fastzk.server._line import Line
from fastzk.server._pipeline import Pipeline
from fastzk.server._watches import Watches
from fastzk.server.config import Config
from fastzk.server.ensemble import Ensemble
from fastzk.server.four_letter import OPERATION_NAMES, EnsembleView, ServerConf, process_environment
from fastzk.server.sessions import Session, Sessions
from fastzk.server.switch import log_path, state_path
from fastzk.server.throttle import ConnectionThrottle

_MS = 1_000_000


class ConnectionStats:
    """One connection, for ``cons``, ``stat`` and ``dump``."""

    __slots__ = ("_connection", "_sessions")

    def __init__(self, connection: Connection, sessions: Sessions) -> None:
        self._connection = connection
        self._sessions = sessions

    @property
    def peer_ip(self) -> str:
        return self._connection.host

    @property
    def peer_port(self) -> int:
        return self._connection.port

    @property
    def interest_ops(self) -> int:
        # The connection that asks has sent something and has no session: ZooKeeper has stopped reading it.
        connection = self._connection
        return 1 if connection.is_reading and (connection.is_open or not connection.received) else 0

    @property
    def queued(self) -> int:
        return self._connection.outstanding

    @property
    def received(self) -> int:
        return self._connection.received

    @property
    def sent(self) -> int:
        return self._connection.sent

    @property
    def session_id(self) -> int:
        return self._connection.session_id

    @property
    def last_operation(self) -> str | None:
        if not self._connection.sent:
            return None
        return OPERATION_NAMES.get(self._connection.last_op)

    @property
    def established_ms(self) -> int:
        return self._connection.began_wall_ms

    @property
    def expires_ms(self) -> int:
        session = self._sessions.get(self._connection.session_id)
        return 0 if session is None else self._sessions.expiry_ms(session)

    @property
    def timeout_ms(self) -> int:
        return self._connection.timeout_ms

    @property
    def last_cxid(self) -> int:
        return self._connection.last_cxid if self._connection.last_cxid else -1

    @property
    def last_zxid(self) -> int:
        return self._connection.last_zxid

    @property
    def last_response_time(self) -> int:
        # ZooKeeper shows milliseconds of its monotonic clock here.
        return self._connection.last_reply_ns // _MS

    @property
    def last_latency(self) -> int:
        return self._connection.latency_last // _MS

    @property
    def min_latency(self) -> int:
        return self._connection.latency_min // _MS

    @property
    def avg_latency(self) -> int:
        count = self._connection.latency_count
        return self._connection.latency_total // count // _MS if count else 0

    @property
    def max_latency(self) -> int:
        return self._connection.latency_max // _MS


class ServerStats:
    """The whole server. ``port`` and ``secure_port`` are those it listens on, not those asked for."""

    version = __version__
    built_on = "2026-11-22 00:00 UTC"
    trace_mask = 0x132  # ZooKeeper's default

    def __init__(
        self,
        config: Config,
        port: int | None,
        secure_port: int | None = None,
        *,
        tree: Tree,
        clients: Clients,
        watches: Watches,
        pipeline: Pipeline,
        sessions: Sessions,
        log: TxnLog,
        throttle: ConnectionThrottle | None = None,
        member: Ensemble | None = None,
        following: Following | None = None,
    ) -> None:
        self._config = config
        self._port = port
        self._secure_port = secure_port
        self._tree = tree
        self._clients = clients
        self._watches = watches
        self._pipeline = pipeline
        self._sessions = sessions
        self._log = log
        self._throttle = throttle
        self._member = member
        self._lines: tuple[Line, ...] = (pipeline,) if following is None else (pipeline, following)
        self._began = time.monotonic()

    @property
    def serving(self) -> bool:
        return self._member is None or self._member.serving is not None or self._member.read_only

    @property
    def mode(self) -> str:
        return "standalone" if self._member is None else self._member.mode

    @property
    def read_only(self) -> bool:
        return self._pipeline.read_only or (self._member is not None and self._member.read_only)

    @property
    def connection_drop_chance(self) -> float:
        return self._throttle.drop_chance if self._throttle is not None else 0.0

    @property
    def uptime_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)

    @property
    def latency_ms(self) -> tuple[int, float, int]:
        clients = self._clients
        mean = clients.latency_total / clients.latency_count / _MS if clients.latency_count else 0.0
        return clients.latency_min // _MS, mean, clients.latency_max // _MS

    @property
    def packets_received(self) -> int:
        return self._clients.received

    @property
    def packets_sent(self) -> int:
        return self._clients.sent

    @property
    def connection_count(self) -> int:
        return len(self._clients)

    @property
    def outstanding(self) -> int:
        return sum(line.pending for line in self._lines)

    @property
    def zxid(self) -> int:
        return self._clients.zxid

    @property
    def znode_count(self) -> int:
        return len(self._tree)

    @property
    def watch_count(self) -> int:
        return len(self._watches)

    @property
    def ephemerals_count(self) -> int:
        return self._tree.ephemeral_count

    @property
    def session_count(self) -> int:
        return len(self._sessions)

    @property
    def local_session_count(self) -> int:
        return self._sessions.local_count

    @property
    def approximate_data_size(self) -> int:
        return self._tree.data_size

    @property
    def open_file_descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    @property
    def max_file_descriptors(self) -> int:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def connections(self) -> Iterator[ConnectionStats]:
        return (ConnectionStats(connection, self._sessions) for connection in self._clients)

    def ephemerals(self) -> Iterator[tuple[int, Collection[str]]]:
        for session in list(self._tree.ephemerals):
            yield session, [_text(path) for path in self._tree.ephemeral_paths(session)]

    def session_expiries(self) -> Iterable[tuple[int, Collection[int]]]:
        return self._expiries(self._sessions)

    def local_session_expiries(self) -> Iterable[tuple[int, Collection[int]]] | None:
        ensemble = self._config.ensemble
        if ensemble is None or not (ensemble.local_sessions_enabled or self.read_only):
            return None
        return self._expiries(self._sessions.local_sessions())

    def _expiries(self, sessions: Iterable[Session]) -> Iterable[tuple[int, Collection[int]]]:
        sets: dict[int, list[int]] = {}
        for session in sessions:
            sets.setdefault(self._sessions.expiry_ms(session), []).append(session.id)
        return sorted(sets.items())

    def watches_by_path(self) -> Iterator[tuple[str, Collection[int]]]:
        for path, watchers in self._watches.by_path():
            yield _text(path), [client.session_id for client in watchers]

    def watches_by_session(self) -> Iterator[tuple[int, Collection[str]]]:
        for client in self._clients:
            paths = self._watches.of_client(client)
            if paths:
                yield client.session_id, [_text(path) for path in paths]

    def watch_summary(self) -> tuple[int, int, int]:
        # Of data watches only: that is what ZooKeeper counts here.
        watched = self._watches.by_path()
        watching = {client for _, watchers in watched for client in watchers}
        return len(watching), len(watched), sum(len(watchers) for _, watchers in watched)

    def conf(self) -> ServerConf:
        config = self._config
        return ServerConf(
            client_port=-1 if self._port is None else self._port,
            secure_client_port=-1 if self._secure_port is None else self._secure_port,
            data_dir=str(config.data_dir),
            data_log_dir=str(config.data_log_dir),
            tick_time=config.tick_time_ms,
            max_client_cnxns=config.max_client_cnxns,
            min_session_timeout=config.min_session_timeout_ms,
            max_session_timeout=config.max_session_timeout_ms,
            client_port_listen_backlog=config.listen_backlog,
            server_id=config.server_id or 0,
        )

    def session_timeouts(self) -> Iterator[tuple[int, int]]:
        return ((session.id, session.timeout_ms) for session in self._sessions)

    def ensemble(self) -> EnsembleView | None:
        return None if self._member is None else self._member.view()

    def data_dir_size(self) -> int:
        return _size(state_path(self._config))

    def log_dir_size(self) -> int:
        return _size(log_path(self._config))

    def digests(self) -> Iterator[tuple[int, int]]:
        yield self._clients.zxid, self._tree.digest

    def environment(self) -> Iterable[tuple[str, str]]:
        return process_environment()

    def metrics(self) -> Iterator[tuple[str, int | float]]:
        log = self._log
        yield "txns", sum(line.txns for line in self._lines)
        yield "log_bytes_written", log.bytes_written
        yield "fsync_count", log.fsyncs
        yield "fsync_avg_ms", round(log.fsync_ns_total / log.fsyncs / _MS, 4) if log.fsyncs else 0.0
        yield "fsync_max_ms", round(log.fsync_ns_max / _MS, 4)

    def reset_connection_stats(self) -> None:
        for client in self._clients:
            client.reset_counters()

    def reset_server_stats(self) -> None:
        self._clients.reset_counters()
        self._pipeline.reset_proposals()


def _text(path: bytes) -> str:
    return path.decode("utf-8", "replace")


def _size(directory: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(directory) if entry.is_file())
