# ruff: noqa: PLR0917 -- kazoo's arguments have kazoo's order
"""The operations, once for both clients.

Each ``*_async`` method makes its request and returns what the client waits with: a :class:`~fastzk.client._call.Call`
or an asyncio future. Both can be awaited, so what takes several requests is a coroutine here too; the asyncio client
runs it as a task, the threaded client step by step as the replies come (see ``Operations.compose``).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from fastzk._codec import decode, decode_multi_response, encode, encode_multi_request
from fastzk.acl import ACL, OPEN_ACL_UNSAFE
from fastzk.client import hosts as _hosts
from fastzk.client._channel import ZnodeStat, normal_path
from fastzk.client.interfaces import Observer, Sink
from fastzk.client.results import Created, Identity, NodeData, WatchedEvent
from fastzk.client.retry import RetryPolicy, connection_policy
from fastzk.client.sasl import Credentials
from fastzk.client.session import Session
from fastzk.client.signals import Signal
from fastzk.client.states import KeeperState, State
from fastzk.client.watches import Stream, Watcher
from fastzk.errors import (
    ConnectionLossError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    NotSent,
    NoWatcherError,
    RolledBackError,
    ZooKeeperError,
    from_code,
)
from fastzk.protocol import AddWatchMode, CreateMode, OpCode, WatcherType
from fastzk.records import (
    ACL as ACL_RECORD,
)
from fastzk.records import (
    AddWatchRequest,
    CheckWatchesRequest,
    Field,
    GetAllChildrenNumberRequest,
    GetAllChildrenNumberResponse,
    GetDataRequest,
    GetDataResponse,
    GetEphemeralsRequest,
    GetEphemeralsResponse,
    ReconfigRequest,
    Record,
    RemoveWatchesRequest,
    Vector,
    WhoAmIResponse,
)

T = TypeVar("T")

_CREATE: Final = int(OpCode.CREATE)
_CREATE2: Final = int(OpCode.CREATE2)
_CONTAINER: Final = int(OpCode.CREATE_CONTAINER)
_TTL: Final = int(OpCode.CREATE_TTL)
_EXISTS: Final = int(OpCode.EXISTS)
_GET: Final = int(OpCode.GET_DATA)
_CHILDREN: Final = int(OpCode.GET_CHILDREN)
_CHILDREN2: Final = int(OpCode.GET_CHILDREN2)
_GET_ACL: Final = int(OpCode.GET_ACL)
_SYNC: Final = int(OpCode.SYNC)
_MULTI_READ: Final = int(OpCode.MULTI_READ)

_ACL_VECTOR: Final = Record("ACLVector", (Field("acl", Vector(ACL_RECORD)),))
#: Paths that are deleted or created at once by the operations on whole subtrees.
_WINDOW: Final = 512


def encode_acl(acl: Sequence[ACL]) -> bytes:
    """The bytes of an ACL.

    :raises TypeError: when it is not a list or tuple of ACLs (a single ACL is a tuple too, but not of ACLs).
    """
    if isinstance(acl, ACL) or not isinstance(acl, list | tuple):
        raise TypeError("an acl is a list or tuple of ACLs")
    return encode(_ACL_VECTOR, ([(entry[0], tuple(entry[1])) for entry in acl],))


_OPEN_ACL: Final = encode_acl(OPEN_ACL_UNSAFE)


def decode_stat_after_data(data: bytes) -> NodeData:
    """The reply of getData and reconfig, where it is read in Python."""
    fields, _ = decode(GetDataResponse, data)
    return NodeData(fields["data"], ZnodeStat(*fields["stat"].values()))


class Leading:
    """The sink of a sync that goes in front of a read, in the same write: a read without it must not succeed.

    Both are answered in their order. Should the connection break between the two, the read may be sent again by the
    next one: no server takes a session over that has seen less than the reply to the sync said.
    """

    __slots__ = ("_read",)

    def __init__(self, read: Sink) -> None:
        self._read = read

    def done(self) -> bool:
        return self._read.done()

    def set_result(self, value: object, /) -> None:
        """The server is up to date; the read behind this tells."""

    def set_exception(self, error: ZooKeeperError, /) -> None:
        if not self._read.done():
            self._read.set_exception(error)


class Operations:
    """What both clients can do; each adds how it waits.

    The parameters are those of the clients.
    """

    def __init__(
        self,
        hosts: str | Sequence[str],
        timeout: float,
        client_id: tuple[int, bytes] | None,
        default_acl: Sequence[ACL] | None,
        auth_data: Iterable[tuple[str, str | bytes]],
        sasl: Credentials | None,
        read_only: bool,
        randomize_hosts: bool,
        retry: RetryPolicy | None,
        observer: Observer | None,
        connection_retry: RetryPolicy | Mapping[str, Any] | None,
        log: logging.Logger | None,
    ) -> None:
        target = _hosts.parse(hosts)
        if target.timeout is not None:
            timeout = target.timeout
        self._session = Session(
            self,
            target,
            timeout,
            client_id=client_id,
            read_only=read_only,
            auths=auth_data,
            sasl=sasl,
            shuffle=randomize_hosts,
            observer=observer,
            pauses=connection_policy(connection_retry),
            log=log or logging.getLogger("fastzk.client"),
        )
        self._channel = self._session.channel
        #: Where the client says what happens.
        self.logger = self._session.log
        self.default_acl = default_acl
        self._retry_policy = retry or RetryPolicy()
        self._listeners: list[Callable[[State], object]] = []
        #: What coroutines of recipes wait for at the moment.
        self.waiting: set[Signal] = set()
        self._endings: dict[Callable[[], None], None] = {}

    # ---- what each client adds

    def _new(self) -> Any:
        """A sink for one request. Raises when no requests are taken."""
        raise NotImplementedError

    def _made(self, sink: Any, timeout: float | None, path: str | None) -> None:
        """The request of ``sink`` is in the channel: see that it leaves."""
        raise NotImplementedError

    def compose(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> Any:
        """Run a coroutine that awaits nothing but this client's requests and ``pause``; its result comes later."""
        raise NotImplementedError

    def pause(self, seconds: float) -> Awaitable[None]:
        """Something to await that long."""
        raise NotImplementedError

    def promise(self, timeout: float | None = None) -> Any:
        """A future that no request settles; after ``timeout`` seconds it is settled by False."""
        raise NotImplementedError

    def take_steps(self) -> None:
        """A promise was settled by a thread that does not read: go on with what waited for it."""
        raise NotImplementedError

    def tell(self, function: Callable[..., object], *arguments: object) -> None:
        """Have a function of the program's called where its callbacks run; never blocks."""
        raise NotImplementedError

    def on_state(self, state: State) -> None:
        """See fastzk.client.session.Face."""
        raise NotImplementedError

    def on_ready(self) -> None:
        """See fastzk.client.session.Face."""
        raise NotImplementedError

    def notify(self, watcher: Watcher, event: WatchedEvent) -> object:
        """See fastzk.client.session.Face."""
        raise NotImplementedError

    # ---- state

    @property
    def connected(self) -> bool:
        """Whether there is a connection with a session."""
        return self._session.state == State.CONNECTED

    @property
    def state(self) -> State:
        """CONNECTED, SUSPENDED or LOST."""
        return self._session.state

    @property
    def client_state(self) -> KeeperState:
        """The state in more detail."""
        return self._session.keeper_state

    @property
    def client_id(self) -> tuple[int, bytes] | None:
        """Session id and password; None without a connection."""
        session = self._session
        return (session.session_id, session.password) if self.connected else None

    @property
    def auth_data(self) -> list[tuple[str, str]]:
        """(scheme, credentials) as they are presented on each connection."""
        return [(auth.scheme, auth.data.decode(errors="replace")) for auth in self._session._auths]

    @property
    def session_timeout(self) -> float:
        """What the server gave, in seconds; before that what will be asked for."""
        return self._session.timeout

    @property
    def chroot(self) -> str:
        """The znode all paths are below; empty for none."""
        return self._session.target.chroot

    @property
    def last_zxid(self) -> int:
        """The newest change this session has seen."""
        return self._channel.last_zxid

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """The servers, in the order in which they are tried."""
        return [(server.host, server.port) for server in self._session.rotation.servers]

    def set_hosts(self, hosts: str | Sequence[str], randomize_hosts: bool | None = None) -> None:
        """Use other servers, from the next connection on.

        :raises ValueError: when the chroot is another.
        """
        target = _hosts.parse(hosts)
        if target.chroot != self.chroot:
            raise ValueError("the chroot of a client cannot change")
        if randomize_hosts is not None:
            self._session.rotation._shuffle = randomize_hosts
        self._session.rotation.replace(target.servers)

    def unchroot(self, path: str) -> str:
        """A path of the server as this client names it."""
        return self._channel.below(path)

    def add_listener(self, listener: Callable[[State], object]) -> None:
        """Have ``listener(state)`` called whenever the state changes. It may make requests of any kind.

        A listener that returns True is not called again.

        :raises TypeError: when it cannot be called.
        """
        if not callable(listener):
            raise TypeError("a listener is a function")
        if listener not in self._listeners:
            self._listeners.append(listener)

    def remove_listener(self, listener: Callable[[State], object]) -> None:
        """Do not call it any more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    # ---- the end of a session, for recipes

    def at_session_end(self, function: Callable[[], None]) -> None:
        """Have ``function()`` called once, when this session is over: by who notices, so it only takes note."""
        self._endings[function] = None

    def forget_session_end(self, function: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._endings.pop(function, None)

    def _session_ended(self) -> None:
        endings, self._endings = self._endings, {}
        for function in endings:
            function()

    def _wake_waiting(self) -> None:
        """The client is stopped: whoever waits for a signal finds that out by its next request."""
        for signal in list(self.waiting):
            signal.fire()

    async def retried(self, function: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """In a coroutine of a recipe: call a ``*_async`` method until the connection does not break.

        For what may be done twice.
        """
        retries = RetryPolicy(max_delay=2.0).begin(True)
        while True:
            try:
                return await function(*arguments, **options)
            except ZooKeeperError as error:
                if not retries.again(error):
                    raise
                await self.pause(retries.delay(error))

    # ---- requests that read

    def exists_async(
        self,
        path: str,
        watch: Watcher | None = None,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Any:
        if watch is not None:
            _check_watch(watch)
        sink = self._new()
        if linearizable:
            self._channel.about(_SYNC, path, Leading(sink))
        self._channel.read(_EXISTS, path, watch, sink)
        self._made(sink, timeout, path)
        return sink

    def get_async(
        self,
        path: str,
        watch: Watcher | None = None,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Any:
        if watch is not None:
            _check_watch(watch)
        sink = self._new()
        if linearizable:
            self._channel.about(_SYNC, path, Leading(sink))
        self._channel.read(_GET, path, watch, sink)
        self._made(sink, timeout, path)
        return sink

    def get_children_async(
        self,
        path: str,
        watch: Watcher | None = None,
        include_data: bool = False,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Any:
        if watch is not None:
            _check_watch(watch)
        _check_flags(include_data)
        sink = self._new()
        if linearizable:
            self._channel.about(_SYNC, path, Leading(sink))
        self._channel.read(_CHILDREN2 if include_data else _CHILDREN, path, watch, sink)
        self._made(sink, timeout, path)
        return sink

    def get_acls_async(self, path: str, *, timeout: float | None = None) -> Any:
        sink = self._new()
        self._channel.about(_GET_ACL, path, sink)
        self._made(sink, timeout, path)
        return sink

    def sync_async(self, path: str = "/", *, timeout: float | None = None) -> Any:
        sink = self._new()
        self._channel.about(_SYNC, path, sink)
        self._made(sink, timeout, path)
        return sink

    def get_all_children_number_async(self, path: str, *, timeout: float | None = None) -> Any:
        def number(data: bytes) -> int:
            total: int = decode(GetAllChildrenNumberResponse, data)[0]["totalNumber"]
            return total

        body = encode(GetAllChildrenNumberRequest, (self._full(path),))
        return self._request(OpCode.GET_ALL_CHILDREN_NUMBER, body, False, path, number, timeout)

    def get_ephemerals_async(self, prefix: str = "/", *, timeout: float | None = None) -> Any:
        def paths(data: bytes) -> list[str]:
            found = decode(GetEphemeralsResponse, data)[0]["ephemerals"] or []
            return [self.unchroot(path) for path in found]

        body = encode(GetEphemeralsRequest, (self._full(prefix),))
        return self._request(OpCode.GET_EPHEMERALS, body, False, prefix, paths, timeout)

    def who_am_i_async(self, *, timeout: float | None = None) -> Any:
        def identities(data: bytes) -> list[Identity]:
            found = decode(WhoAmIResponse, data)[0]["clientInfo"] or []
            return [Identity(each["authScheme"] or "", each["user"] or "") for each in found]

        return self._request(OpCode.WHO_AM_I, b"", False, None, identities, timeout)

    def get_config_async(self, *, timeout: float | None = None) -> Any:
        body = encode(GetDataRequest, ("/zookeeper/config", False))
        return self._request(OpCode.GET_DATA, body, False, "/zookeeper/config", decode_stat_after_data, timeout)

    def multi_read_async(
        self,
        reads: Iterable[tuple[Literal["get", "children"], str]],
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Any:
        ops: list[tuple[int, tuple[str, bool]]] = []
        paths: list[str] = []
        for kind, path in reads:
            if kind not in ("get", "children"):
                raise ValueError(f"a multi_read reads 'get' or 'children', not {kind!r}")
            ops.append((_GET if kind == "get" else _CHILDREN, (self._full(path), False)))
            paths.append(path)

        def results(data: bytes) -> list[NodeData | list[str] | ZooKeeperError]:
            found: list[NodeData | list[str] | ZooKeeperError] = []
            for path, (op, fields) in zip(paths, decode_multi_response(data)[0], strict=True):
                if op == _GET:
                    found.append(NodeData(fields["data"], ZnodeStat(*fields["stat"].values())))
                elif op == _CHILDREN:
                    found.append(fields["children"] or [])
                else:
                    found.append(_failure(fields["err"], path))
            return found

        body = encode_multi_request(ops)
        sink = self._new()
        if linearizable:
            self._channel.about(_SYNC, "/", Leading(sink))
        self._channel.request(_MULTI_READ, body, False, None, results, sink)
        self._made(sink, timeout, None)
        return sink

    # ---- requests that change something

    def set_async(self, path: str, value: bytes | None, version: int = -1, *, timeout: float | None = None) -> Any:
        sink = self._new()
        self._channel.set(path, value, version, sink)
        self._made(sink, timeout, path)
        return sink

    def set_acls_async(self, path: str, acls: Sequence[ACL], version: int = -1, *, timeout: float | None = None) -> Any:
        raw = encode_acl(acls)
        sink = self._new()
        self._channel.set_acl(path, raw, version, sink)
        self._made(sink, timeout, path)
        return sink

    def delete_async(
        self, path: str, version: int = -1, recursive: bool = False, *, timeout: float | None = None
    ) -> Any:
        if recursive:
            _check_flags(recursive)
            return self.compose(self._delete_tree(path), timeout)
        sink = self._new()
        self._channel.delete(path, version, sink)
        self._made(sink, timeout, path)
        return sink

    def create_async(
        self,
        path: str,
        value: bytes | None = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
        makepath: bool = False,
        include_data: bool = False,
        *,
        container: bool = False,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Any:
        if acl is None:
            acl = self.default_acl
        raw = _OPEN_ACL if acl is None or acl is OPEN_ACL_UNSAFE else encode_acl(acl)
        op, flags, milliseconds = _kind_of_create(ephemeral, sequence, container, ttl, include_data)
        if makepath:
            _check_flags(makepath)
            request = (op, path, value, raw, flags, milliseconds, include_data)
            return self.compose(self._create_below(request, acl), timeout)
        sink = self._new()
        self._channel.create(op, path, value, raw, flags, milliseconds, include_data, sink)
        self._made(sink, timeout, path)
        return sink

    def reconfig_async(
        self,
        joining: str | None,
        leaving: str | None,
        new_members: str | None,
        from_config: int = -1,
        *,
        timeout: float | None = None,
    ) -> Any:
        body = encode(ReconfigRequest, (joining, leaving, new_members, from_config))
        return self._request(OpCode.RECONFIG, body, True, None, decode_stat_after_data, timeout)

    def check_async(self, path: str, version: int, *, timeout: float | None = None) -> Any:
        # Apache ZooKeeper never answers a check that stands alone.
        transaction = TransactionRequest(self)
        transaction.check(path, version)

        async def check() -> bool:
            (result,) = await transaction.commit_async()
            if isinstance(result, ZooKeeperError):
                raise result
            return True

        return self.compose(check(), timeout)

    def add_auth_async(self, scheme: str, credential: str | bytes, *, timeout: float | None = None) -> Any:
        if not isinstance(scheme, str):
            raise TypeError("a scheme is a str")
        if not isinstance(credential, str | bytes):
            raise TypeError("a credential is a str or bytes")
        sink = self._new()
        self._session.add_auth(scheme, credential, sink)
        self._made(sink, timeout, None)
        return sink

    # ---- watches

    def add_watch_async(self, path: str, recursive: bool = False, *, timeout: float | None = None) -> Any:
        """Have the server watch ``path`` until the watch is removed."""
        mode = AddWatchMode.PERSISTENT_RECURSIVE if recursive else AddWatchMode.PERSISTENT
        body = encode(AddWatchRequest, (self._full(path), mode))
        return self._request(OpCode.ADD_WATCH, body, False, path, None, timeout)

    def check_watches_async(
        self, path: str, kind: WatcherType = WatcherType.ANY, *, timeout: float | None = None
    ) -> Any:
        async def check() -> bool:
            body = encode(CheckWatchesRequest, (self._full(path), kind))
            try:
                await self._request(OpCode.CHECK_WATCHES, body, False, path, None, None)
            except NoWatcherError:
                return False
            return True

        return self.compose(check(), timeout)

    def remove_watches_async(
        self, path: str, kind: WatcherType = WatcherType.ANY, *, timeout: float | None = None
    ) -> Any:
        kinds = {
            WatcherType.CHILDREN: ("child",),
            WatcherType.DATA: ("data", "exist"),
            WatcherType.ANY: ("data", "exist", "child"),
        }.get(kind, ())

        async def remove() -> None:
            body = encode(RemoveWatchesRequest, (self._full(path), kind))
            await self._request(OpCode.REMOVE_WATCHES, body, False, path, None, None)
            self._session.watches.clear(normal_path(path), kinds)

        return self.compose(remove(), timeout)

    def _open_stream(self, path: str, stream: Stream) -> Any:
        """Send the stream what happens at and below ``path``; the result comes when the server watches."""
        watches = self._session.watches
        path = normal_path(path)
        others = watches.streams(path)
        if any(other.recursive != stream.recursive for other in others):
            raise ValueError(f"{path} is watched in the other mode already: a server keeps one for each client")
        sink = self.add_watch_async(path, stream.recursive)
        watches.add_stream(path, stream)
        return sink

    async def _close_stream(self, path: str, stream: Stream | None, recursive: bool) -> None:
        """Let go of a stream, and of the server's watch with the last one."""
        watches = self._session.watches
        path = normal_path(path)
        if not watches.remove_stream(path, stream, recursive) or not self._session.live or not self.connected:
            return
        # Servers before 3.9 know no type for persistent watches alone.
        exact = WatcherType.PERSISTENT_RECURSIVE if recursive else WatcherType.PERSISTENT
        for kind in (exact,) if watches.has_once(path) else (exact, WatcherType.ANY):
            try:
                body = encode(RemoveWatchesRequest, (self._full(path), kind))
                await self._request(OpCode.REMOVE_WATCHES, body, False, path, None, None)
            except NoWatcherError:
                return
            except ZooKeeperError:
                continue
            return

    # ---- operations of several requests

    def ensure_path_async(self, path: str, acl: Sequence[ACL] | None = None, *, timeout: float | None = None) -> Any:
        return self.compose(self._ensure_path(path, acl), timeout)

    async def _ensure_path(self, path: str, acl: Sequence[ACL] | None) -> bool:
        path = normal_path(path)
        if await self.exists_async(path) is not None:
            return True
        # Ancestors are looked for before any is created: creating what exists may be forbidden.
        names = path.split("/")[1:] if path != "/" else []
        paths = ["/"] if self.chroot else []
        paths += ["/" + "/".join(names[: i + 1]) for i in range(len(names))]
        found = [self.exists_async(each) for each in paths]
        missing = [each for each, stat in zip(paths, [await f for f in found], strict=True) if stat is None]
        problem: ZooKeeperError | None = None
        for each in [self.create_async(each, b"", acl) for each in missing]:
            try:
                await each
                problem = None
            except NodeExistsError:
                problem = None
            except ZooKeeperError as error:
                problem = problem or error
        if problem is not None:
            raise problem
        return True

    async def _create_below(
        self, request: tuple[int, str, bytes | None, bytes, int, int, bool], acl: Sequence[ACL] | None
    ) -> str | Created:
        path = request[1]
        while True:
            sink = self._new()
            self._channel.create(*request, sink)
            self._made(sink, None, path)
            try:
                result: str | Created = await sink
            except NoNodeError:
                parent = path.rstrip("/") if path.endswith("/") else path.rpartition("/")[0]
                if not parent and not self.chroot:
                    raise
                await self._ensure_path(parent or "/", acl)
            else:
                return result

    async def _subtree(self, path: str) -> list[str]:
        """All paths at and below ``path``, parents first; those that go away meanwhile are left out."""
        found: list[str] = []
        level = [path]
        while level:
            below: list[str] = []
            for start in range(0, len(level), _WINDOW):
                window = level[start : start + _WINDOW]
                for parent, sink in [(each, self.get_children_async(each)) for each in window]:
                    try:
                        names = await sink
                    except NoNodeError:
                        continue
                    found.append(parent)
                    prefix = "/" if parent == "/" else parent + "/"
                    below += [prefix + name for name in names]
            level = below
        return found

    async def _delete_tree(self, path: str) -> bool:
        path = normal_path(path)
        for tries in range(4):
            paths = await self._subtree(path)
            problem: ZooKeeperError | None = None
            while paths:
                # A child stands behind its parent in the list, and requests are carried out in order.
                window = [paths.pop() for _ in range(min(_WINDOW, len(paths)))]
                for sink in [self.delete_async(each) for each in window]:
                    try:
                        await sink
                    except NoNodeError:
                        pass
                    except ZooKeeperError as error:
                        problem = problem or error
            if problem is None:
                return True
            if not isinstance(problem, NotEmptyError) or tries == 3:
                raise problem
        return True

    async def create_identified(
        self,
        parent: str,
        identifier: str,
        suffix: str = "",
        value: bytes | None = b"",
        acl: Sequence[ACL] | None = None,
        *,
        prefix: str = "",
        ephemeral: bool = True,
        retry: RetryPolicy | None = None,
    ) -> str:
        """Create ``parent/prefix+identifier+suffix+sequence number`` exactly once, whatever happens to connections.

        What a lock or a queue needs: when the connection breaks in the middle, the children of ``parent`` tell by the
        identifier whether the znode is there.

        :param identifier: a text no other znode below ``parent`` has in its name, a UUID for example.
        :param retry: how often to try, where the client's own policy is not the right one.
        :returns: the path.
        :raises SessionExpiredError: when the session ends before; an ephemeral znode is gone then.
        """
        retries = (retry or self._retry_policy).begin(True)
        base = f"{parent.rstrip('/')}/{prefix}{identifier}{suffix}"
        doubtful = False
        while True:
            try:
                if doubtful:
                    await self.sync_async(parent)
                    for name in await self.get_children_async(parent):
                        if identifier in name:
                            return f"{parent.rstrip('/')}/{name}"
                    doubtful = False
                path: str = await self.create_async(base, value, acl, ephemeral, True, True)
            except ZooKeeperError as error:
                if not isinstance(error, ConnectionLossError):
                    raise
                doubtful = doubtful or not isinstance(error, NotSent)
                await self.pause(retries.delay(error))
            else:
                return path

    # ---- inside

    def _full(self, path: str) -> str:
        """The path with the chroot."""
        if not isinstance(path, str):
            raise TypeError(f"a path is a str, not {type(path).__name__}")
        path = normal_path(path)
        return (self.chroot + path if path != "/" else self.chroot) if self.chroot else path

    def _request(
        self,
        op: OpCode,
        body: bytes,
        changes: bool,
        path: str | None,
        decoder: Callable[[bytes], object] | None,
        timeout: float | None,
    ) -> Any:
        sink = self._new()
        self._channel.request(int(op), body, changes, path, decoder, sink)
        self._made(sink, timeout, path)
        return sink


def _kind_of_create(
    ephemeral: bool, sequence: bool, container: bool, ttl: float | None, include_data: bool
) -> tuple[int, int, int]:
    """Opcode, flags and milliseconds of a create."""
    _check_flags(ephemeral, sequence, include_data)
    if container:
        if ephemeral or sequence or ttl is not None:
            raise ValueError("a container is neither ephemeral nor sequential, and has no ttl")
        return _CONTAINER, int(CreateMode.CONTAINER), 0
    if ttl is not None:
        if ephemeral:
            raise ValueError("an ephemeral znode has no ttl")
        mode = CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL if sequence else CreateMode.PERSISTENT_WITH_TTL
        return _TTL, int(mode), round(ttl * 1000)
    return _CREATE2 if include_data else _CREATE, (1 if ephemeral else 0) | (2 if sequence else 0), 0


def _failure(code: int, path: str | None) -> ZooKeeperError:
    return RolledBackError(path) if code == 0 else from_code(code, path)


class TransactionRequest:
    """Operations that take effect all together or not at all.

    Not for several threads at once.
    """

    def __init__(self, client: Operations) -> None:
        self._client = client
        self._operations: list[tuple[int, tuple[Any, ...]]] = []
        self._paths: list[str] = []
        #: Whether it was sent.
        self.committed = False
        #: One for each operation, once it is committed: what ``commit`` returns.
        self.results: list[Any] | None = None

    @property
    def operations(self) -> list[tuple[int, tuple[Any, ...]]]:
        """(opcode, fields) of each operation."""
        return self._operations

    def _add(self, op: int, path: str, fields: tuple[Any, ...]) -> None:
        if self.committed:
            raise ValueError("the transaction is committed already")
        self._operations.append((op, fields))
        self._paths.append(path)

    def create(
        self,
        path: str,
        value: bytes = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
        include_data: bool = False,
        *,
        container: bool = False,
        ttl: float | None = None,
    ) -> None:
        """Add a create; its result is the path, with ``include_data`` (path, stat) from servers that give it."""
        client = self._client
        if acl is None:
            acl = client.default_acl or OPEN_ACL_UNSAFE
        _check_bytes(value)
        encode_acl(acl)
        op, flags, milliseconds = _kind_of_create(ephemeral, sequence, container, ttl, include_data)
        full = client._full(path)
        if sequence and path.endswith("/") and not full.endswith("/"):
            full += "/"
        fields: tuple[Any, ...] = (full, value, [(entry[0], tuple(entry[1])) for entry in acl], flags)
        self._add(op, path, (*fields, milliseconds) if op == _TTL else fields)

    def delete(self, path: str, version: int = -1) -> None:
        """Add a delete; its result is True."""
        _check_int(version)
        self._add(OpCode.DELETE, path, (self._client._full(path), version))

    def set_data(self, path: str, value: bytes, version: int = -1) -> None:
        """Add a set; its result is the stat."""
        _check_bytes(value)
        _check_int(version)
        self._add(OpCode.SET_DATA, path, (self._client._full(path), value, version))

    set = set_data

    def check(self, path: str, version: int) -> None:
        """Add a condition: the znode has this version; its result is True."""
        _check_int(version)
        self._add(OpCode.CHECK, path, (self._client._full(path), version))

    def commit_async(self, *, timeout: float | None = None) -> Any:
        """Send it. The result has one element for each operation; where one failed, all are errors.

        :raises ValueError: when it was sent before.
        """
        if self.committed:
            raise ValueError("the transaction is committed already")
        self.committed = True
        body = encode_multi_request(self._operations)
        return self._client._request(OpCode.MULTI, body, True, None, self._decode, timeout)

    def _decode(self, data: bytes) -> list[Any]:
        results: list[Any] = []
        for path, (op, fields) in zip(self._paths, decode_multi_response(data)[0], strict=True):
            if op == OpCode.ERROR:
                results.append(_failure(fields["err"], path))
            elif op == OpCode.CREATE:
                results.append(self._client.unchroot(fields["path"]))
            elif op == OpCode.CREATE2:
                created = self._client.unchroot(fields["path"])
                results.append(Created(created, ZnodeStat(*fields["stat"].values())))
            elif op == OpCode.SET_DATA:
                results.append(ZnodeStat(*fields["stat"].values()))
            else:
                results.append(True)
        self.results = results
        return results

    @staticmethod
    def first_failure(results: Sequence[object]) -> ZooKeeperError | None:
        """The error that made a transaction fail: the first that is not just a consequence of another."""
        errors = [result for result in results if isinstance(result, ZooKeeperError)]
        for error in errors:
            if not isinstance(error, RolledBackError) and error.code != -2:
                return error
        return errors[0] if errors else None


def _check_bytes(value: object) -> None:
    if value is not None and not isinstance(value, bytes):
        raise TypeError(f"data are bytes, not {type(value).__name__}")


def _check_flags(*flags: object) -> None:
    for flag in flags:
        if flag is not True and flag is not False:
            raise TypeError(f"a flag is True or False, not {flag!r}")


def _check_watch(watch: object) -> None:
    if not callable(watch):
        raise TypeError(f"a watch is a function, not {watch!r}")
    try:
        hash(watch)
    except TypeError:
        raise TypeError(f"a watch must be hashable, which a {type(watch).__name__} is not") from None


def _check_int(version: object) -> None:
    if not isinstance(version, int):
        raise TypeError(f"a version is an int, not {type(version).__name__}")
