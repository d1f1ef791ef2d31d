# ruff: noqa: ASYNC109, PLR0917 -- every call takes a timeout, and kazoo's arguments have kazoo's order
"""The client for asyncio, on any event loop.

Requests made in one turn of the loop leave in one write; nobody waits for an earlier reply first. Replies come in
the order of the requests. A call that is cancelled leaves no trace but, perhaps, what the server did.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import ssl as ssl_module
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from fastzk.acl import ACL
from fastzk.client._channel import ZnodeStat
from fastzk.client._wire import flush
from fastzk.client.hosts import Attempt, Server
from fastzk.client.interfaces import Observer
from fastzk.client.operations import TransactionRequest
from fastzk.client.recipes.methods import AsyncRecipes
from fastzk.client.results import Children, Created, Identity, NodeACL, NodeData, WatchedEvent
from fastzk.client.retry import RetryPolicy, is_repeatable
from fastzk.client.sasl import Credentials
from fastzk.client.session import Dropped
from fastzk.client.signals import Signal
from fastzk.client.states import State
from fastzk.client.watches import Watcher
from fastzk.client.writable import QUESTION, YES, Search
from fastzk.errors import (
    ConnectionLossError,
    OperationTimeoutError,
    SessionExpiredError,
    ZooKeeperError,
)
from fastzk.protocol import WatcherType

if TYPE_CHECKING:
    from fastzk.client import async_watchers

T = TypeVar("T")


class AsyncClient(AsyncRecipes):
    """A session with a ZooKeeper service, for asyncio.

    Every operation takes ``timeout=`` (seconds; OperationTimeoutError when they are over; what was sent may still be
    carried out), and has a twin ``*_async`` that sends the request at once and returns a future.

    :param hosts: a connection string, a URL or a list of servers; see :mod:`fastzk.client.hosts`.
    :param timeout: of the session, in seconds, unless a URL says another; the server may give another.
    :param client_id: session id and password, to take over a session.
    :param default_acl: for znodes created without one; everybody may do everything where it is None.
    :param auth_data: pairs of scheme and credentials to present on each connection.
    :param sasl: user and password for SASL (DIGEST-MD5).
    :param read_only: whether a server that is cut off from its quorum will do, for reads.
    :param randomize_hosts: whether to begin with any of the servers.
    :param ssl: for TLS; ``zks://`` alone uses the system's certificate authorities.
    :param retry: how :meth:`retry` goes about it.
    :param observer: called as ``observer(opcode, path, error code, seconds)`` for each request that ended; or a
        :class:`~fastzk.client.interfaces.Tracer`.
    :param connection_retry: the pauses between one round of all servers and the next; it has no end.
    :param logger: where to say what happens, instead of ``fastzk.client``.
    """

    def __init__(
        self,
        hosts: str | Sequence[str] = "127.0.0.1:2181",
        timeout: float = 10.0,
        *,
        client_id: tuple[int, bytes] | None = None,
        default_acl: Sequence[ACL] | None = None,
        auth_data: Iterable[tuple[str, str | bytes]] = (),
        sasl: Credentials | None = None,
        read_only: bool = False,
        randomize_hosts: bool = True,
        ssl: ssl_module.SSLContext | None = None,
        retry: RetryPolicy | None = None,
        observer: Observer | None = None,
        connection_retry: RetryPolicy | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__(
            hosts,
            timeout,
            client_id,
            default_acl,
            auth_data,
            sasl,
            read_only,
            randomize_hosts,
            retry,
            observer,
            connection_retry,
            logger,
        )
        self._ssl = ssl or (ssl_module.create_default_context() if self._session.target.tls else None)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._create_future: Callable[[], asyncio.Future[Any]] = self._refuse
        self._keeper: asyncio.Task[None] | None = None
        self._protocol: _Connection | None = None
        self._ready = asyncio.Event()
        self._flush_due = False
        self._timer: asyncio.Handle | None = None
        # uvloop's handle of a timer that is due at once does not tell when that is.
        self._timer_due = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._searching: asyncio.Task[None] | None = None

    # ---- life

    async def start(self, timeout: float | None = 15.0) -> AsyncClient:
        """Connect.

        :param timeout: seconds to wait for a session; None for no limit.
        :raises OperationTimeoutError: when there is none by then; the client is closed again.
        :raises AuthFailedError: when the server refuses the credentials.
        """
        self.start_soon()
        waiting = asyncio.ensure_future(self._ready.wait())
        assert self._keeper is not None
        try:
            await asyncio.wait({waiting, self._keeper}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.close()
            raise
        finally:
            waiting.cancel()
        if not self.connected:
            error = OperationTimeoutError() if self._session.live else self._session.refusal()
            await self.close()
            raise error
        return self

    def start_soon(self) -> None:
        """Begin to connect and return at once; requests made from now on wait for the session."""
        if self._keeper is not None and not self._keeper.done():
            return
        self._loop = asyncio.get_running_loop()
        self._create_future = self._loop.create_future
        self._session.begin()
        self._keeper = self._loop.create_task(self._keep_connected())

    async def close(self) -> None:
        """End the session: its ephemeral znodes go, requests under way fail with ConnectionClosedError."""
        keeper = self._keeper
        if keeper is None or self._loop is None:
            return
        said = self._loop.create_future()
        self._create_future = self._refuse
        was_live = self._session.live
        self._session.close(said)
        self._flush()
        if was_live and not said.done():
            await asyncio.wait({said}, timeout=min(5.0, self.session_timeout))
        if said.done() and not said.cancelled():
            said.exception()
        self._keeper = None
        keeper.cancel()
        await asyncio.wait({keeper})
        self._session.closed()
        self._wake_waiting()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Listeners and watchers hear of it before this returns.
        await asyncio.sleep(0)
        tasks = self._tasks - {cast(asyncio.Task[Any], asyncio.current_task())}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=1.0)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def stop(self) -> None:
        """The same as :meth:`close`."""
        await self.close()

    async def restart(self) -> None:
        """Close, and start with a new session."""
        await self.close()
        await self.start()

    async def __aenter__(self) -> AsyncClient:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # ---- the connection

    async def _keep_connected(self) -> None:
        session = self._session
        try:
            while session.live:
                attempt = session.next_attempt()
                self._set_timer()
                if attempt.delay:
                    await asyncio.sleep(attempt.delay)
                connection = await self._connect(attempt)
                if connection is None:
                    continue
                self._protocol = connection
                session.connected()
                self._flush()
                self._tick()
                try:
                    reason = await connection.lost
                finally:
                    self._protocol = None
                    connection.abort()
                    if self._searching is not None:
                        self._searching.cancel()
                        self._searching = None
                    self._ready.clear()
                    session.lost("the client was closed" if not connection.lost.done() else connection.lost.result())
                del reason
        except asyncio.CancelledError:
            raise
        except Exception:  # nothing that is known: do not leave callers waiting
            self.logger.exception("the client stopped because of an error of its own")
            session.closed()
            raise

    async def _connect(self, attempt: Attempt) -> _Connection | None:
        assert self._loop is not None
        host, port = attempt.server
        limit = self._session.connect_timeout
        try:
            async with asyncio.timeout(limit):
                found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError) as error:
            self.logger.info("no address host=%s reason=%r", host, error)
            return None
        for family, _, _, _, address in found:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with asyncio.timeout(limit):
                    await self._loop.sock_connect(sock, address)
                    _, protocol = await self._loop.create_connection(
                        lambda: _Connection(self),
                        sock=sock,
                        ssl=self._ssl,
                        server_hostname=host if self._ssl is not None else None,
                    )
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError | TimeoutError):
                    raise
                self.logger.info("no connection server=%s reason=%r", attempt.server, error)
                continue
            return protocol
        return None

    async def _search(self, connection: _Connection) -> None:
        """While the server is read-only: look for another one, and move there."""
        rotation = self._session.rotation
        search = Search(rotation.servers)
        while self._protocol is connection:
            await asyncio.sleep(search.left)
            server = search.next()
            if await self._takes_writes(server):
                rotation.prefer(server)
                connection.drop("another server takes writes")
                return

    async def _takes_writes(self, server: Server) -> bool:
        name = server.host if self._ssl is not None else None
        try:
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection(*server, ssl=self._ssl, server_hostname=name)
                try:
                    writer.write(QUESTION)
                    return await reader.readexactly(len(YES)) == YES
                finally:
                    writer.close()
        except (OSError, TimeoutError, EOFError, UnicodeError):
            return False

    def _refuse(self) -> asyncio.Future[Any]:
        raise self._session.refusal()

    def _new(self) -> asyncio.Future[Any]:
        return self._create_future()

    def _made(self, sink: asyncio.Future[Any], timeout: float | None, path: str | None) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)  # type: ignore[union-attr]
        if timeout is not None:
            self._session.expire_at(time.monotonic() + timeout, sink, path)
            self._set_timer(timeout)

    def _flush(self) -> None:
        self._flush_due = False
        if self._protocol is not None:
            self._protocol.flush()

    def _set_timer(self, seconds: float = 0.0) -> None:
        """Have a tick come in so many seconds, or before."""
        assert self._loop is not None
        when = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer_due <= when:
                return
            self._timer.cancel()
        self._timer_due = when
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._keeper is None:
            return
        try:
            left = self._session.tick()
        except Dropped as error:
            if self._protocol is not None:
                self._protocol.drop(error)
            left = 1.0
        else:
            self._flush()
        self._set_timer(left)

    # ---- what the session tells

    def on_state(self, state: State) -> None:
        """See fastzk.client.session.Face."""
        if not self._session.live:
            self._create_future = self._refuse
        if state == State.LOST:
            self._session_ended()
        for listener in list(self._listeners):
            self._call_soon(self._tell_listener, listener, state)

    def on_ready(self) -> None:
        """See fastzk.client.session.Face."""
        self._ready.set()
        if self._session.wants_another and self._searching is None and self._protocol is not None:
            self._searching = self._run(self._search(self._protocol))
        if not self._flush_due and self._loop is not None:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def notify(self, watcher: Watcher, event: WatchedEvent) -> object:
        """See fastzk.client.session.Face."""
        if isinstance(watcher, Signal):
            watcher.fire()
        else:
            self._call_soon(self._call, watcher, event)
        return None

    def _call_soon(self, function: Callable[..., object], *arguments: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon(function, *arguments)

    def _tell_listener(self, listener: Callable[[State], object], state: State) -> None:
        if listener in self._listeners and self._call(listener, state) is True:
            self.remove_listener(listener)

    def _call(self, function: Callable[..., object], *arguments: object) -> object:
        """Call a listener or watcher; one that is a coroutine runs as a task."""
        try:
            result = function(*arguments)
            if inspect.isawaitable(result):
                return self._run(_logged(result, self.logger))
        except Exception:
            self.logger.exception("a listener or watcher raised an exception")
            return None
        return result

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        assert self._loop is not None
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def compose(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> asyncio.Future[T]:
        """Run a coroutine that takes several requests, as a task."""
        if self._keeper is None:
            coroutine.close()
            raise self._session.refusal()
        if timeout is not None:
            return self._run(_limited(coroutine, timeout))
        return self._run(coroutine)

    def pause(self, seconds: float) -> Awaitable[None]:
        """Something to await that long."""
        return asyncio.sleep(seconds)

    def promise(self, timeout: float | None = None) -> asyncio.Future[Any]:
        """See Operations."""
        if self._loop is None or self._keeper is None:
            raise self._session.refusal()
        future = self._loop.create_future()
        if timeout is not None:
            timer = self._loop.call_later(timeout, _settle, future)
            future.add_done_callback(lambda _: timer.cancel())
        return future

    def take_steps(self) -> None:
        """See Operations: the loop goes on by itself."""

    def tell(self, function: Callable[..., object], *arguments: object) -> None:
        """See Operations."""
        self._call_soon(self._call, function, *arguments)

    # ---- operations

    async def exists(
        self,
        path: str,
        watch: Watcher | None = None,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> ZnodeStat | None:
        """The stat of a znode; None where there is none.

        :param watch: called once, with a :class:`WatchedEvent`, when the znode is created, changed or deleted.
        :param linearizable: see every change acknowledged to any client before this call; see docs/client.md.
        """
        result: ZnodeStat | None = await self.exists_async(path, watch, linearizable=linearizable, timeout=timeout)
        return result

    async def get(
        self,
        path: str,
        watch: Watcher | None = None,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> NodeData:
        """The data and the stat of a znode.

        :param watch: called once when the data are set or the znode is deleted.
        :param linearizable: see every change acknowledged to any client before this call; see docs/client.md.
        :raises NoNodeError: when it does not exist.
        """
        result: NodeData = await self.get_async(path, watch, linearizable=linearizable, timeout=timeout)
        return result

    @overload
    async def get_children(
        self,
        path: str,
        watch: Watcher | None = None,
        include_data: Literal[False] = False,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> list[str]: ...
    @overload
    async def get_children(
        self,
        path: str,
        watch: Watcher | None = None,
        *,
        include_data: Literal[True],
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Children: ...
    async def get_children(
        self,
        path: str,
        watch: Watcher | None = None,
        include_data: bool = False,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> list[str] | Children:
        """The names of a znode's children, in no particular order.

        :param watch: called once when a child is created or deleted, or the znode itself is deleted.
        :param include_data: the result is a :class:`Children`, with the stat of the znode.
        :param linearizable: see every change acknowledged to any client before this call; see docs/client.md.
        :raises NoNodeError: when it does not exist.
        """
        result: list[str] | Children = await self.get_children_async(
            path, watch, include_data, linearizable=linearizable, timeout=timeout
        )
        return result

    @overload
    async def create(
        self,
        path: str,
        value: bytes | None = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
        makepath: bool = False,
        include_data: Literal[False] = False,
        *,
        container: bool = False,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> str: ...
    @overload
    async def create(
        self,
        path: str,
        value: bytes | None = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
        makepath: bool = False,
        *,
        include_data: Literal[True],
        container: bool = False,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Created: ...
    async def create(
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
    ) -> str | Created:
        """Create a znode and return its path.

        :param acl: who may do what; the client's default where it is None.
        :param ephemeral: it goes when the session ends.
        :param sequence: the server appends a number of ten digits to its name.
        :param makepath: create missing parents too, with the same ACL.
        :param include_data: the result is a :class:`Created`, with the stat.
        :param container: the server deletes it some time after its last child went.
        :param ttl: the server deletes it after so many seconds without a change or a child.
        :raises NodeExistsError: when it exists.
        :raises NoNodeError: when its parent does not.
        :raises NoChildrenForEphemeralsError: when its parent is ephemeral.
        """
        result: str | Created = await self.create_async(
            path,
            value,
            acl,
            ephemeral,
            sequence,
            makepath,
            include_data,
            container=container,
            ttl=ttl,
            timeout=timeout,
        )
        return result

    async def ensure_path(self, path: str, acl: Sequence[ACL] | None = None, *, timeout: float | None = None) -> bool:
        """Create a znode and its ancestors, as far as they are missing."""
        result: bool = await self.ensure_path_async(path, acl, timeout=timeout)
        return result

    async def set(
        self, path: str, value: bytes | None, version: int = -1, *, timeout: float | None = None
    ) -> ZnodeStat:
        """Set the data of a znode.

        :param version: the version it must have; -1: any.
        :raises BadVersionError: when it has another.
        :raises NoNodeError: when it does not exist.
        """
        result: ZnodeStat = await self.set_async(path, value, version, timeout=timeout)
        return result

    async def delete(
        self, path: str, version: int = -1, recursive: bool = False, *, timeout: float | None = None
    ) -> bool:
        """Delete a znode.

        :param version: the version it must have; -1: any.
        :param recursive: with all below it, whatever their versions; then it need not exist.
        :raises NotEmptyError: when it has children.
        """
        result: bool = await self.delete_async(path, version, recursive, timeout=timeout)
        return result

    async def get_acls(self, path: str, *, timeout: float | None = None) -> NodeACL:
        """The ACL and the stat of a znode."""
        result: NodeACL = await self.get_acls_async(path, timeout=timeout)
        return result

    async def set_acls(
        self, path: str, acls: Sequence[ACL], version: int = -1, *, timeout: float | None = None
    ) -> ZnodeStat:
        """Set the ACL of a znode.

        :param version: the ``aversion`` it must have; -1: any.
        """
        result: ZnodeStat = await self.set_acls_async(path, acls, version, timeout=timeout)
        return result

    async def sync(self, path: str = "/", *, timeout: float | None = None) -> str:
        """Wait until the server knows everything that was committed before this call."""
        result: str = await self.sync_async(path, timeout=timeout)
        return result

    async def check(self, path: str, version: int, *, timeout: float | None = None) -> bool:
        """Whether a znode has this version: True or an error."""
        result: bool = await self.check_async(path, version, timeout=timeout)
        return result

    async def multi_read(
        self,
        reads: Iterable[tuple[Literal["get", "children"], str]],
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> list[NodeData | list[str] | ZooKeeperError]:
        """Several reads of one state of the tree; what failed is an error in the list.

        :param linearizable: see every change acknowledged to any client before this call; see docs/client.md.
        """
        result: list[NodeData | list[str] | ZooKeeperError] = await self.multi_read_async(
            reads, linearizable=linearizable, timeout=timeout
        )
        return result

    async def get_ephemerals(self, prefix: str = "/", *, timeout: float | None = None) -> list[str]:
        """The session's ephemeral znodes whose path begins with ``prefix``."""
        result: list[str] = await self.get_ephemerals_async(prefix, timeout=timeout)
        return result

    async def get_all_children_number(self, path: str, *, timeout: float | None = None) -> int:
        """How many znodes there are below a znode, at any depth."""
        result: int = await self.get_all_children_number_async(path, timeout=timeout)
        return result

    async def who_am_i(self, *, timeout: float | None = None) -> list[Identity]:
        """The identities of the session."""
        result: list[Identity] = await self.who_am_i_async(timeout=timeout)
        return result

    async def get_config(self, *, timeout: float | None = None) -> NodeData:
        """The configuration of the ensemble."""
        result: NodeData = await self.get_config_async(timeout=timeout)
        return result

    async def reconfig(
        self,
        joining: str | None,
        leaving: str | None,
        new_members: str | None,
        from_config: int = -1,
        *,
        timeout: float | None = None,
    ) -> NodeData:
        """Change the members of the ensemble; the result is the new configuration.

        :param joining: servers to add, as in ``server.5=host:2888:3888;2181``, with commas between them.
        :param leaving: ids of servers to remove, with commas between them.
        :param new_members: all servers, instead of the two.
        :param from_config: the version the configuration must have; -1: any.
        """
        result: NodeData = await self.reconfig_async(joining, leaving, new_members, from_config, timeout=timeout)
        return result

    async def add_auth(self, scheme: str, credential: str | bytes, *, timeout: float | None = None) -> bool:
        """Present credentials, now and on each later connection.

        :raises AuthFailedError: when the server refuses them; the session is lost then.
        """
        result: bool = await self.add_auth_async(scheme, credential, timeout=timeout)
        return result

    async def check_watches(
        self, path: str, kind: WatcherType = WatcherType.ANY, *, timeout: float | None = None
    ) -> bool:
        """Whether the server watches a path for this session."""
        result: bool = await self.check_watches_async(path, kind, timeout=timeout)
        return result

    async def remove_watches(
        self, path: str, kind: WatcherType = WatcherType.ANY, *, timeout: float | None = None
    ) -> None:
        """Remove the session's watches on a path; those who waited for them hear nothing more.

        :raises NoWatcherError: when there is none.
        """
        await self.remove_watches_async(path, kind, timeout=timeout)

    def watch(self, path: str, recursive: bool = False) -> EventStream:
        """The events at a znode, with ``recursive`` also at all below it.

        The znode need not exist. Use it as a context manager, so that the server's watch is removed at its end::

            async with client.watch("/jobs", recursive=True) as events:
                async for event in events:
                    ...

        When the session expires, the loop ends with SessionExpiredError: changes may have been missed.

        :raises ValueError: when this client watches the path in the other mode already.
        """
        return EventStream(self, path, recursive)

    def DataWatch(self, path: str, func: Callable[..., object] | None = None) -> async_watchers.DataWatch:
        """The data of a znode, now and after each change; see :class:`fastzk.client.async_watchers.DataWatch`."""
        from fastzk.client import async_watchers

        return async_watchers.DataWatch(self, path, func)

    def ChildrenWatch(
        self,
        path: str,
        func: Callable[..., object] | None = None,
        allow_session_lost: bool = True,
        send_event: bool = False,
    ) -> async_watchers.ChildrenWatch:
        """The children of a znode, likewise; see :class:`fastzk.client.async_watchers.ChildrenWatch`."""
        from fastzk.client import async_watchers

        return async_watchers.ChildrenWatch(self, path, func, allow_session_lost, send_event)

    def transaction(self) -> AsyncTransaction:
        """Operations that take effect together; commits at the end of an ``async with``."""
        return AsyncTransaction(self)

    async def retry(self, function: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Call a function until it succeeds, or fails in a way that forbids to call it again.

        See :mod:`fastzk.client.retry` for what is repeated. A function of your own is repeated after any loss of
        connection, so it must be one that can be.
        """
        retries = self._retry_policy.begin(is_repeatable(self, function, arguments, options))
        while True:
            try:
                return await function(*arguments, **options)
            except ZooKeeperError as error:
                if not retries.again(error):
                    raise
                await asyncio.sleep(retries.delay(error))

    if TYPE_CHECKING:

        def exists_async(
            self,
            path: str,
            watch: Watcher | None = None,
            *,
            linearizable: bool = False,
            timeout: float | None = None,
        ) -> asyncio.Future[ZnodeStat | None]: ...
        def get_async(
            self,
            path: str,
            watch: Watcher | None = None,
            *,
            linearizable: bool = False,
            timeout: float | None = None,
        ) -> asyncio.Future[NodeData]: ...
        def get_children_async(
            self,
            path: str,
            watch: Watcher | None = None,
            include_data: bool = False,
            *,
            linearizable: bool = False,
            timeout: float | None = None,
        ) -> asyncio.Future[Any]: ...
        def get_acls_async(self, path: str, *, timeout: float | None = None) -> asyncio.Future[NodeACL]: ...
        def set_acls_async(
            self, path: str, acls: Sequence[ACL], version: int = -1, *, timeout: float | None = None
        ) -> asyncio.Future[ZnodeStat]: ...
        def set_async(
            self, path: str, value: bytes | None, version: int = -1, *, timeout: float | None = None
        ) -> asyncio.Future[ZnodeStat]: ...
        def delete_async(
            self, path: str, version: int = -1, recursive: bool = False, *, timeout: float | None = None
        ) -> asyncio.Future[bool]: ...
        def check_async(self, path: str, version: int, *, timeout: float | None = None) -> asyncio.Future[bool]: ...
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
        ) -> asyncio.Future[Any]: ...
        def get_all_children_number_async(self, path: str, *, timeout: float | None = None) -> asyncio.Future[int]: ...
        def get_config_async(self, *, timeout: float | None = None) -> asyncio.Future[NodeData]: ...
        def get_ephemerals_async(
            self, prefix: str = "/", *, timeout: float | None = None
        ) -> asyncio.Future[list[str]]: ...
        def multi_read_async(
            self,
            reads: Iterable[tuple[Literal["get", "children"], str]],
            *,
            linearizable: bool = False,
            timeout: float | None = None,
        ) -> asyncio.Future[list[NodeData | list[str] | ZooKeeperError]]: ...
        def reconfig_async(
            self,
            joining: str | None,
            leaving: str | None,
            new_members: str | None,
            from_config: int = -1,
            *,
            timeout: float | None = None,
        ) -> asyncio.Future[NodeData]: ...
        def check_watches_async(
            self, path: str, kind: WatcherType = WatcherType.ANY, *, timeout: float | None = None
        ) -> asyncio.Future[bool]: ...
        def remove_watches_async(
            self, path: str, kind: WatcherType = WatcherType.ANY, *, timeout: float | None = None
        ) -> asyncio.Future[None]: ...
        def who_am_i_async(self, *, timeout: float | None = None) -> asyncio.Future[list[Identity]]: ...
        def sync_async(self, path: str = "/", *, timeout: float | None = None) -> asyncio.Future[str]: ...
        def ensure_path_async(
            self, path: str, acl: Sequence[ACL] | None = None, *, timeout: float | None = None
        ) -> asyncio.Future[bool]: ...
        def add_auth_async(
            self, scheme: str, credential: str | bytes, *, timeout: float | None = None
        ) -> asyncio.Future[bool]: ...


class AsyncTransaction(TransactionRequest):
    """See :meth:`AsyncClient.transaction`."""

    async def commit(self, *, timeout: float | None = None) -> list[Any]:
        """Send it; one result for each operation, all of them errors where one failed."""
        results: list[Any] = await self.commit_async(timeout=timeout)
        return results

    async def __aenter__(self) -> AsyncTransaction:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, unless the block failed or did.

        :raises ZooKeeperError: when an operation failed; nothing was carried out then.
        """
        if kind is None and not self.committed:
            problem = self.first_failure(await self.commit())
            if problem is not None:
                raise problem


class EventStream:
    """The events of a persistent watch, in order. See :meth:`AsyncClient.watch`."""

    def __init__(self, client: AsyncClient, path: str, recursive: bool) -> None:
        self.path = path
        self.recursive = recursive
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._events: deque[WatchedEvent] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._ended: WatchedEvent | None = None
        self._closed = False
        self._opened: asyncio.Future[Any] | None = client._open_stream(path, self)

    def put(self, event: WatchedEvent) -> None:
        """See fastzk.client.watches.Stream."""
        self._events.append(event)
        self._wake()

    def end(self, event: WatchedEvent) -> None:
        """See fastzk.client.watches.Stream."""
        self._ended = event
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def opened(self) -> EventStream:
        """Wait until the server watches: no change behind this is missed."""
        if self._opened is not None:
            try:
                await asyncio.shield(self._opened)
            except ConnectionLossError:
                # The next connection sets it again with the other watches.
                if self._ended is not None:
                    raise
            except ZooKeeperError:
                await self.aclose()
                raise
            self._opened = None
        return self

    async def __aenter__(self) -> EventStream:
        return await self.opened()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[WatchedEvent]:
        return self

    async def __anext__(self) -> WatchedEvent:
        await self.opened()
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            if self._ended is not None:
                raise SessionExpiredError(self.path)
            if self._waiting is None:
                self._waiting = self._loop.create_future()
            await asyncio.shield(self._waiting)
        return self._events.popleft()

    async def aclose(self) -> None:
        """Let go; the server's watch is removed with the last stream on the path."""
        if not self._closed:
            self._closed = True
            self._wake()
            await self._client._close_stream(self.path, self, self.recursive)

    def __del__(self) -> None:
        # Dropped without aclose(). This may run anywhere, even in another thread.
        if not getattr(self, "_closed", True) and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_let_go, self._client, self.path, self.recursive)


def _let_go(client: AsyncClient, path: str, recursive: bool) -> None:
    if client._keeper is not None:
        client._run(_logged(client._close_stream(path, None, recursive), client.logger))


def _settle(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(False)


async def _logged(awaitable: Awaitable[object], log: logging.Logger) -> None:
    try:
        await awaitable
    except ZooKeeperError as error:
        log.info("a background task ended: %s", error)
    except Exception:
        log.exception("a listener or watcher raised an exception")


async def _limited(coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
    try:
        async with asyncio.timeout(timeout):
            return await coroutine
    except TimeoutError:
        raise OperationTimeoutError() from None


class _Connection(asyncio.BufferedProtocol):
    """One connection of an AsyncClient: bytes between a transport and the channel."""

    def __init__(self, client: AsyncClient) -> None:
        assert client._loop is not None
        self._client = client
        self._channel = client._channel
        self._transport: asyncio.Transport | None = None
        self._fd = -1  # -1: TLS, or earlier bytes are still in the transport
        self._plain_fd = -1
        self._paused = False
        #: Why the connection ended.
        self.lost: asyncio.Future[object] = client._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's derive from nothing
        if transport.get_extra_info("sslcontext") is None:
            # Bytes go to the socket past the transport, unless that holds earlier ones; see flush().
            transport.set_write_buffer_limits(high=0)
            self._fd = self._plain_fd = transport.get_extra_info("socket").fileno()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._channel.input_view

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._channel.received(nbytes)
        except Exception as error:
            self.drop(error)
        else:
            if self._channel.unsent():
                self.flush()  # what the session itself has to say

    def pause_writing(self) -> None:
        self._paused = True
        self._fd = -1

    def resume_writing(self) -> None:
        self._paused = False
        self._fd = self._plain_fd
        self.flush()

    def flush(self) -> None:
        transport = self._transport
        if self._paused or transport is None or self.lost.done():
            return
        try:
            if self._fd >= 0 and flush(self._channel, self._fd) == 0:
                return
        except OSError as error:
            self.drop(error)
            return
        data = self._channel.take()
        if data:
            transport.write(data)

    def drop(self, reason: object) -> None:
        """Give the connection up."""
        if not self.lost.done():
            self.lost.set_result(reason)
        self.abort()

    def abort(self) -> None:
        self._fd = self._plain_fd = -1
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_lost(self, error: Exception | None) -> None:
        self._fd = self._plain_fd = -1
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(error or "the server closed the connection")
