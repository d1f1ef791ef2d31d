"""ZooKeeper's four-letter words: `ruok`, `srvr`, `mntr` and the others.

A client that sends four ASCII letters where the length of its first frame belongs gets plain text back,
and then the end of the connection. Scripts and monitoring agents take that text apart with regular
expressions, so every word keeps ZooKeeper's keys, their order and its separators.

The module only renders. What there is to tell comes from a `ServerView`; the caller recognises the word
on the wire (`COMMANDS`), asks `answer` for the bytes, writes them and closes the connection.
"""

from __future__ import annotations

import os
import platform
import pwd
import resource
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Protocol

from fastzk.protocol import OpCode

#: The release of Apache ZooKeeper whose protocol and layouts this server follows. It stands in front of our
#: own version, because clients and agents read the leading digits as a version of ZooKeeper.
ZOOKEEPER_VERSION: Final = "3.9.3"

_NOT_SERVING: Final = "This ZooKeeper instance is not currently serving requests\n"
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class ServerConf:
    """What `conf` shows: the settings in force, under ZooKeeper's names.

    Times are milliseconds; a port or a backlog of -1 means unset.
    """

    client_port: int
    data_dir: str
    data_log_dir: str
    tick_time: int
    max_client_cnxns: int
    min_session_timeout: int
    max_session_timeout: int
    secure_client_port: int = -1
    client_port_listen_backlog: int = -1
    server_id: int = 0


@dataclass(frozen=True, slots=True)
class LeaderView:
    """What a leader tells of its ensemble. Servers are *synced* when they take transactions as they are made.

    ``synced_followers`` counts the ``synced_non_voting``, too: those that no membership names as participants.
    ``proposal_bytes``: the last transaction proposed, the smallest and the largest; -1 if there was none.
    """

    learners: int
    synced_followers: int
    synced_non_voting: int
    synced_observers: int
    pending_syncs: int
    uptime_ms: int
    proposal_bytes: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class EnsembleView:
    """A server's place in its ensemble, for the words that show it.

    ``quorum_size``: the number of participants. ``leader``: only if this server leads. ``master_id``: only of an
    observer, the server that it follows. ``limits``: ``initLimit`` and ``syncLimit`` in ticks.
    ``quorum_ports``, ``election_ports``: one for each of this server's addresses.
    """

    peer_state: str
    quorum_size: int
    membership: str
    observer: bool
    limits: tuple[int, int]
    quorum_ports: tuple[int, ...]
    election_ports: tuple[int, ...]
    leader: LeaderView | None = None
    master_id: int | None = None


class ConnectionView(Protocol):
    """One client connection, as `stat`, `cons` and `dump` show it. Latencies are whole milliseconds."""

    @property
    def peer_ip(self) -> str: ...
    @property
    def peer_port(self) -> int: ...
    @property
    def interest_ops(self) -> int:
        """Java's selection keys: 1 reading, 4 writing, 5 both, 0 neither (paused, or a four-letter word)."""

    @property
    def queued(self) -> int:
        """Requests taken from the connection and not answered yet."""

    @property
    def received(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def session_id(self) -> int:
        """0 before the session is established."""

    @property
    def last_operation(self) -> str | None:
        """The short name of `OPERATION_NAMES`; None before the first request (shown as `NA`)."""

    @property
    def established_ms(self) -> int:
        """When the connection was accepted, milliseconds since the epoch."""

    @property
    def expires_ms(self) -> int:
        """When the server closes it if the client stays silent, milliseconds since the epoch."""

    @property
    def timeout_ms(self) -> int:
        """The session timeout that was negotiated."""

    @property
    def last_cxid(self) -> int:
        """The xid of the last request that was not a ping, an authentication or the like; -1: none yet."""

    @property
    def last_zxid(self) -> int:
        """The zxid in the last reply; -1: none yet."""

    @property
    def last_response_time(self) -> int:
        """When the last reply left, milliseconds of the server's monotonic clock; 0: none yet."""

    @property
    def last_latency(self) -> int: ...
    @property
    def min_latency(self) -> int: ...
    @property
    def avg_latency(self) -> int: ...
    @property
    def max_latency(self) -> int: ...


class ServerView(Protocol):
    """What the four-letter words need to know of a server, the resets they can ask for, and the value they set.

    Every member is read at most once an answer, and only by the words that show it.
    """

    #: What `stmk` sets and `gtmk` shows; nothing is traced by it.
    trace_mask: int

    @property
    def connection_drop_chance(self) -> float:
        """The part of connect requests that is refused by chance, from 0 to 1."""

    @property
    def version(self) -> str:
        """fastzk's own version, such as `0.1.0`."""

    @property
    def built_on(self) -> str:
        """The date of the build, as `2024-10-17 23:21 UTC`."""

    @property
    def serving(self) -> bool:
        """False while the server starts, stops or has lost its quorum."""

    @property
    def read_only(self) -> bool:
        """True while it serves read-only clients only."""

    @property
    def mode(self) -> str:
        """`standalone`, `leader`, `follower`, `observer` or `read-only`."""

    @property
    def uptime_ms(self) -> int: ...
    @property
    def latency_ms(self) -> tuple[int, float, int]:
        """Minimum, mean and maximum over the requests since the last reset; zeros when there were none."""

    @property
    def packets_received(self) -> int: ...
    @property
    def packets_sent(self) -> int: ...
    @property
    def connection_count(self) -> int: ...
    @property
    def outstanding(self) -> int:
        """Requests read from clients and not answered yet."""

    @property
    def zxid(self) -> int:
        """The last one applied."""

    @property
    def znode_count(self) -> int: ...
    @property
    def watch_count(self) -> int:
        """Watches of every kind."""

    @property
    def ephemerals_count(self) -> int: ...
    @property
    def session_count(self) -> int: ...
    @property
    def local_session_count(self) -> int:
        """Sessions that only this server knows; ``session_count`` is without them."""

    @property
    def approximate_data_size(self) -> int:
        """Bytes of all paths and all data."""

    @property
    def open_file_descriptors(self) -> int: ...
    @property
    def max_file_descriptors(self) -> int: ...

    def connections(self) -> Iterable[ConnectionView]: ...

    def ephemerals(self) -> Iterable[tuple[int, Collection[str]]]:
        """Session ids, each with the paths of its ephemeral znodes; sessions without any are left out."""

    def session_expiries(self) -> Iterable[tuple[int, Collection[int]]]:
        """Times in milliseconds since the epoch, each with the ids of the sessions that expire then."""

    def local_session_expiries(self) -> Iterable[tuple[int, Collection[int]]] | None:
        """The same of the sessions that only this server knows; None if it has no such sessions."""

    def watches_by_path(self) -> Iterable[tuple[str, Collection[int]]]:
        """Paths with data or exists watches, each with the ids of the sessions watching.

        ZooKeeper leaves watches set by getChildren out of `wchs`, `wchc` and `wchp`; the figures must agree.
        """

    def watches_by_session(self) -> Iterable[tuple[int, Collection[str]]]:
        """The same watches the other way round."""

    def watch_summary(self) -> tuple[int, int, int]:
        """Of the same watches: how many connections, how many paths, how many watches."""

    def conf(self) -> ServerConf: ...

    def session_timeouts(self) -> Iterable[tuple[int, int]]:
        """The ids of all sessions with their timeouts in milliseconds: all that a server knows that follows."""

    def ensemble(self) -> EnsembleView | None:
        """Its place in the ensemble; None if it stands alone."""

    def data_dir_size(self) -> int:
        """Bytes of the files below the directory of the checkpoints."""

    def log_dir_size(self) -> int:
        """Bytes of the files below the directory of the transaction log."""

    def digests(self) -> Iterable[tuple[int, int]]:
        """The recorded digests of the tree, each with the zxid it belongs to, oldest first."""

    def environment(self) -> Iterable[tuple[str, str]]:
        """What `envi` tells below the version: see `process_environment`."""

    def metrics(self) -> Iterable[tuple[str, int | float]]:
        """Further figures for `mntr`, under ZooKeeper's names less the `zk_` (`auth_failed_count`, ...)."""

    def reset_connection_stats(self) -> None:
        """Set the counters and latencies of every connection back to nothing."""

    def reset_server_stats(self) -> None:
        """Set the latencies, the packet counters and the further figures of the server back to nothing."""


#: Opcodes and the names under which `cons` shows them as a connection's last operation.
OPERATION_NAMES: Final[dict[int, str]] = {
    OpCode.CREATE: "CREA",
    OpCode.DELETE: "DELE",
    OpCode.EXISTS: "EXIS",
    OpCode.GET_DATA: "GETD",
    OpCode.SET_DATA: "SETD",
    OpCode.GET_ACL: "GETA",
    OpCode.SET_ACL: "SETA",
    OpCode.GET_CHILDREN: "GETC",
    OpCode.SYNC: "SYNC",
    OpCode.PING: "PING",
    OpCode.GET_CHILDREN2: "GETC",
    OpCode.CHECK: "CHEC",
    OpCode.MULTI: "MULT",
    OpCode.CREATE2: "CREA",
    OpCode.RECONFIG: "RECO",
    OpCode.CHECK_WATCHES: "CHKW",
    OpCode.REMOVE_WATCHES: "REMW",
    OpCode.CREATE_CONTAINER: "CREA",
    OpCode.DELETE_CONTAINER: "DELE",
    OpCode.CREATE_TTL: "CREA",
    OpCode.MULTI_READ: "MLTR",
    OpCode.SET_WATCHES: "SETW",
    OpCode.GET_EPHEMERALS: "GETE",
    OpCode.GET_ALL_CHILDREN_NUMBER: "GETACN",
    OpCode.SET_WATCHES2: "STW2",
    OpCode.ADD_WATCH: "ADDW",
    OpCode.WHO_AM_I: "HOMI",
    OpCode.CREATE_SESSION: "SESS",
    OpCode.CLOSE_SESSION: "CLOS",
}


def full_version(view: ServerView) -> str:
    """The version as ZooKeeper words it: its own release, the build, the date of the build."""
    return f"{ZOOKEEPER_VERSION}-fastzk-{view.version}, built on {view.built_on}"


def process_environment() -> tuple[tuple[str, str], ...]:
    """The host, the interpreter and the memory of this process, under ZooKeeper's names for `envi`.

    A view may return it as it is. There is no Java to speak of, so ZooKeeper's `java.*` lines have `python.*`
    lines in their place. `os.memory.*` is the machine's free memory, its whole memory, and what the process
    has occupied at its peak.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    megabyte = 1 << 20
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's made-up user id
        user = str(os.getuid())
    return (
        ("host.name", platform.node() or "<NA>"),
        ("python.version", platform.python_version()),
        ("python.vendor", platform.python_implementation()),
        ("python.home", sys.prefix),
        ("os.name", platform.system()),
        ("os.arch", platform.machine()),
        ("os.version", platform.release()),
        ("user.name", user),
        ("user.home", os.path.expanduser("~")),
        ("user.dir", os.getcwd()),
        ("os.memory.free", f"{os.sysconf('SC_AVPHYS_PAGES') * page // megabyte}MB"),
        ("os.memory.max", f"{os.sysconf('SC_PHYS_PAGES') * page // megabyte}MB"),
        ("os.memory.total", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}MB"),
    )


def answer(command: str, view: ServerView, whitelist: frozenset[str], argument: bytes = b"") -> bytes | None:
    """The answer to a four-letter word.

    `whitelist` holds the words that may be used, or `*` for all of them; `srvr` is always allowed, as in
    ZooKeeper, whose own scripts depend on it. `argument` is what came behind the word; only `stmk` has one,
    of eight bytes. Returns None when `command` is not one of `COMMANDS`. Only `crst`, `srst` and `stmk`
    change anything, through the view.
    """
    render = _RENDERERS.get(command)
    if render is None:
        return None
    if command != "srvr" and command not in whitelist and "*" not in whitelist:
        return f"{command} is not executed because it is not in the whitelist.\n".encode()
    if command == "stmk":
        if len(argument) < 8:
            return b""
        view.trace_mask = int.from_bytes(argument[:8], "big", signed=True)
    if not view.serving and command not in _ANSWERED_WHEN_NOT_SERVING:
        return _NOT_SERVING.encode()
    # "replace" only guards against lone surrogates: a word must never end in an exception.
    return render(view).encode("utf-8", "replace")


def _ruok(view: ServerView) -> str:
    return "imok"


def _isro(view: ServerView) -> str:
    if not view.serving:
        return "null"
    return "ro" if view.read_only else "rw"


def _envi(view: ServerView) -> str:
    lines = [f"{key}={value}\n" for key, value in view.environment()]
    return f"Environment:\nzookeeper.version={full_version(view)}\n{''.join(lines)}"


def _conf(view: ServerView) -> str:
    conf = view.conf()
    return (
        f"clientPort={conf.client_port}\n"
        f"secureClientPort={conf.secure_client_port}\n"
        f"dataDir={conf.data_dir}\n"
        f"dataDirSize={view.data_dir_size()}\n"
        f"dataLogDir={conf.data_log_dir}\n"
        f"dataLogSize={view.log_dir_size()}\n"
        f"tickTime={conf.tick_time}\n"
        f"maxClientCnxns={conf.max_client_cnxns}\n"
        f"minSessionTimeout={conf.min_session_timeout}\n"
        f"maxSessionTimeout={conf.max_session_timeout}\n"
        f"clientPortListenBacklog={conf.client_port_listen_backlog}\n"
        f"serverId={conf.server_id}\n"
        f"{_ensemble_conf(view)}"
    )


def _ensemble_conf(view: ServerView) -> str:
    ensemble = view.ensemble()
    if ensemble is None:
        return ""
    init_limit, sync_limit = ensemble.limits
    return (
        f"initLimit={init_limit}\n"
        f"syncLimit={sync_limit}\n"
        "electionAlg=3\n"
        f"electionPort={'|'.join(map(str, ensemble.election_ports))}\n"
        f"quorumPort={'|'.join(map(str, ensemble.quorum_ports))}\n"
        f"peerType={int(ensemble.observer)}\n"
        f"membership: \n{ensemble.membership}"
    )


def _dirs(view: ServerView) -> str:
    return f"datadir_size: {view.data_dir_size()}\nlogdir_size: {view.log_dir_size()}\n"


def _header(view: ServerView) -> str:
    version = f"Zookeeper version: {full_version(view)}\n"
    return version + "READ-ONLY mode; serving only read-only clients\n" if view.read_only else version


def _statistics(view: ServerView) -> str:
    shortest, mean, longest = view.latency_ms
    return (
        f"Latency min/avg/max: {shortest}/{_java_double(mean)}/{longest}\n"
        f"Received: {view.packets_received}\n"
        f"Sent: {view.packets_sent}\n"
        f"Connections: {view.connection_count}\n"
        f"Outstanding: {view.outstanding}\n"
        f"Zxid: 0x{view.zxid & _U64:x}\n"
        f"Mode: {view.mode}\n"
        f"Node count: {view.znode_count}\n"
        f"{_proposals(view)}"
    )


def _proposals(view: ServerView) -> str:
    ensemble = view.ensemble()
    if ensemble is None or ensemble.leader is None:
        return ""
    return "Proposal sizes last/min/max: {}/{}/{}\n".format(*ensemble.leader.proposal_bytes)


def _srvr(view: ServerView) -> str:
    return _header(view) + _statistics(view)


def _stat(view: ServerView) -> str:
    clients = "".join([f"{_brief(c)})\n" for c in view.connections()])
    return f"{_header(view)}Clients:\n{clients}\n{_statistics(view)}"


def _cons(view: ServerView) -> str:
    return "".join([*map(_connection, view.connections()), "\n"])


def _connection(c: ConnectionView) -> str:
    """A line of `cons`."""
    brief = _brief(c)
    if not (session := c.session_id):
        return f"{brief})\n"
    cxid = c.last_cxid
    return (
        f"{brief},sid=0x{session & _U64:x},lop={c.last_operation or 'NA'}"
        f",est={c.established_ms},to={c.timeout_ms}"
        f"{f',lcxid=0x{cxid:x}' if cxid >= 0 else ''}"
        f",lzxid=0x{c.last_zxid & _U64:x},lresp={c.last_response_time}"
        f",llat={c.last_latency},minlat={c.min_latency},avglat={c.avg_latency},maxlat={c.max_latency})\n"
    )


def _brief(c: ConnectionView) -> str:
    """What `stat` and `cons` have in common, up to the closing parenthesis."""
    return (
        f" /{_host(c.peer_ip)}:{c.peer_port}[{c.interest_ops:x}]"
        f"(queued={c.queued},recved={c.received},sent={c.sent}"
    )


def _dump(view: ServerView) -> str:
    by_expiry: dict[int, list[str]] = {}
    for c in view.connections():
        line = f"ip: /{_host(c.peer_ip)}:{c.peer_port} sessionId: 0x{c.session_id & _U64:x}"
        by_expiry.setdefault(c.expires_ms, []).append(line)
    owners = [
        f"0x{session & _U64:x}:\n" + "".join([f"\t{path}\n" for path in paths])
        for session, paths in view.ephemerals()
    ]
    return (
        f"SessionTracker dump:\n{_sessions(view)}"
        f"ephemeral nodes dump:\nSessions with Ephemerals ({len(owners)}):\n{''.join(owners)}"
        f"Connections dump:\nConnections {_expiry_sets(by_expiry.items())}"
    )


def _sessions(view: ServerView) -> str:
    """When sessions expire; a server that follows knows their timeouts only."""
    ensemble = view.ensemble()
    expiries = view.local_session_expiries()
    local = "" if expiries is None else f"Local Session {_expiry_sets(_named(expiries))}"
    if ensemble is not None and ensemble.leader is None:
        known = sorted(view.session_timeouts())
        lines = [f"0x{session & _U64:x}\t{timeout}ms\n" for session, timeout in known]
        return f"{local}Global Sessions({len(known)}):\n{''.join(lines)}"
    return f"{local}{'Global ' if local else ''}Session {_expiry_sets(_named(view.session_expiries()))}"


def _named(expiries: Iterable[tuple[int, Collection[int]]]) -> list[tuple[int, list[str]]]:
    return [(expiry, [f"0x{session & _U64:x}" for session in ids]) for expiry, ids in expiries]


def _expiry_sets(sets: Iterable[tuple[int, list[str]]]) -> str:
    """The members of an expiry queue, soonest first: (when in milliseconds since the epoch, who)."""
    ordered = sorted(sets)
    total = sum(len(members) for _, members in ordered)
    out = [f"Sets ({len(ordered)})/({total}):\n"]
    for expiry, members in ordered:
        out.append(f"{len(members)} expire at {_java_date(expiry)}:\n")
        out += [f"\t{member}\n" for member in members]
    return "".join(out)


def _wchs(view: ServerView) -> str:
    connections, paths, watches = view.watch_summary()
    return f"{connections} connections watching {paths} paths\nTotal watches:{watches}\n"


def _wchc(view: ServerView) -> str:
    out: list[str] = []
    for session, paths in view.watches_by_session():
        out.append(f"0x{session & _U64:x}\n")
        out += [f"\t{path}\n" for path in paths]
    out.append("\n")
    return "".join(out)


def _wchp(view: ServerView) -> str:
    out: list[str] = []
    for path, sessions in view.watches_by_path():
        out.append(f"{path}\n")
        out += [f"\t0x{session & _U64:x}\n" for session in sessions]
    out.append("\n")
    return "".join(out)


def _hash(view: ServerView) -> str:
    return "".join([f"{zxid & _U64:x}: {digest}\n" for zxid, digest in view.digests()])


def _crst(view: ServerView) -> str:
    view.reset_connection_stats()
    return "Connection stats reset.\n"


def _srst(view: ServerView) -> str:
    view.reset_server_stats()
    return "Server stats reset.\n"


def _trace_mask(view: ServerView) -> str:
    return str(view.trace_mask)


def _mntr(view: ServerView) -> str:
    return "".join([f"zk_{key}\t{value}\n" for key, value in _monitor_values(view)])


def _monitor_values(view: ServerView) -> Iterator[tuple[str, str]]:
    """Keys without `zk_`, in the order in which ZooKeeper's hash table of gauges lists them."""
    shortest, mean, longest = view.latency_ms
    ensemble = view.ensemble()
    leader = ensemble.leader if ensemble is not None else None
    last_size, least_size, most_size = leader.proposal_bytes if leader is not None else (-1, -1, -1)
    yield "version", full_version(view)
    yield "server_state", view.mode
    if ensemble is not None:
        yield "peer_state", ensemble.peer_state
        if ensemble.master_id is not None:
            yield "observer_master_id", str(ensemble.master_id)
    gauges: tuple[tuple[str, int | float | None], ...] = (
        ("ephemerals_count", view.ephemerals_count),
        ("num_alive_connections", view.connection_count),
        ("avg_latency", float(mean)),
        ("min_proposal_size", least_size if leader else None),
        ("outstanding_requests", view.outstanding),
        ("znode_count", view.znode_count),
        ("global_sessions", view.session_count),
        ("packets_sent", view.packets_sent),
        ("packets_received", view.packets_received),
        ("max_proposal_size", most_size if leader else None),
        ("synced_followers", leader.synced_followers if leader else None),
        ("connection_drop_probability", view.connection_drop_chance),
        ("watch_count", view.watch_count),
        ("synced_non_voting_followers", leader.synced_non_voting if leader else None),
        ("synced_observers", leader.synced_observers if leader else None),
        ("min_latency", shortest),
        ("max_file_descriptor_count", view.max_file_descriptors),
        ("approximate_data_size", view.approximate_data_size),
        ("open_file_descriptor_count", view.open_file_descriptors),
        ("last_proposal_size", last_size if leader else None),
        ("pending_syncs", leader.pending_syncs if leader else None),
        ("leader_uptime", leader.uptime_ms if leader else None),
        ("local_sessions", view.local_session_count),
        ("uptime", view.uptime_ms),
        ("max_latency", longest),
        ("learners", leader.learners if leader else None),
        ("quorum_size", ensemble.quorum_size if ensemble is not None else None),
        *view.metrics(),
    )
    for key, value in gauges:
        if value is not None:
            yield key, _java_double(value) if isinstance(value, float) else str(value)


def _host(ip: str) -> str:
    """An address as Java writes it: IPv6 in brackets, with all eight groups."""
    if ":" not in ip:
        return ip
    address, percent, zone = ip.partition("%")
    if "." in address:  # the last two groups of an embedded IPv4 address
        address, _, v4 = address.rpartition(":")
        a, b, c, d = map(int, v4.split("."))
        address += f":{a << 8 | b:x}:{c << 8 | d:x}"
    head, gap, tail = address.partition("::")
    before, after = head.split(":") if head else [], tail.split(":") if tail else []
    zeros = ["0"] * (8 - len(before) - len(after)) if gap else []
    groups = [f"{int(group, 16):x}" for group in (*before, *zeros, *after)]
    return f"[{':'.join(groups)}{percent}{zone}]"


def _java_double(value: float) -> str:
    """A number as ZooKeeper prints its means: at most four decimals, in the notation of `Double.toString`."""
    value = round(value, 4)
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value + 0.0)
    mantissa, _, exponent = f"{Decimal(repr(value)).normalize():E}".partition("E")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}E{int(exponent)}"


def _java_date(milliseconds: int) -> str:
    """A time as `java.util.Date` prints it, in the server's time zone."""
    local = time.localtime(milliseconds / 1000)
    # Not strftime's %a and %b: they would follow the locale.
    weekday, month = time.asctime(local).split()[:2]
    return f"{weekday} {month} {time.strftime('%d %H:%M:%S %Z %Y', local)}"


_ANSWERED_WHEN_NOT_SERVING: Final = frozenset({"ruok", "isro", "envi", "gtmk", "stmk"})

_RENDERERS: Final[dict[str, Callable[[ServerView], str]]] = {
    "conf": _conf,
    "cons": _cons,
    "crst": _crst,
    "dirs": _dirs,
    "dump": _dump,
    "envi": _envi,
    "gtmk": _trace_mask,
    "hash": _hash,
    "isro": _isro,
    "mntr": _mntr,
    "ruok": _ruok,
    "srst": _srst,
    "srvr": _srvr,
    "stat": _stat,
    "stmk": _trace_mask,
    "wchc": _wchc,
    "wchp": _wchp,
    "wchs": _wchs,
}

#: The words this server knows, in or out of the whitelist.
COMMANDS: Final[frozenset[str]] = frozenset(_RENDERERS)
