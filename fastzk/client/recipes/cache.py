"""A copy of a subtree in memory that follows the changes.

One recursive watch of the server tells of every change (Apache ZooKeeper has those since 3.6). After a connection
broke, the whole subtree is read again: changes made meanwhile are not told.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, TypeVar

from fastzk.client._channel import ZnodeStat
from fastzk.client.operations import Operations
from fastzk.client.recipes.support import FOREVER, Recipe, SyncFace
from fastzk.client.results import WatchedEvent
from fastzk.client.signals import Signal
from fastzk.client.states import EventType, State
from fastzk.errors import ConnectionClosedError, NoNodeError, ZooKeeperError

F = TypeVar("F", bound=Callable[..., Any])

#: Znodes that are read at once.
_WINDOW: Final = 512


class CachedNode(NamedTuple):
    """A znode in the cache."""

    path: str
    data: bytes | None
    stat: ZnodeStat


class _TreeEvent(NamedTuple):
    event_type: int
    #: The znode; as it was last, when it was removed. None for what happened to the connection.
    event_data: CachedNode | None


class TreeEvent(_TreeEvent):
    """A change of the cache, or of the connection: ``event_type`` is one of the numbers below."""

    __slots__ = ()

    NODE_ADDED = 0
    NODE_UPDATED = 1
    NODE_REMOVED = 2
    CONNECTION_SUSPENDED = 3
    CONNECTION_RECONNECTED = 4
    CONNECTION_LOST = 5
    INITIALIZED = 6


class _Events:
    """The stream of the server's watch; see fastzk.client.watches.Stream."""

    recursive = True

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self.events: deque[WatchedEvent] = deque()
        self.ended = False

    def put(self, event: WatchedEvent) -> None:
        self.events.append(event)
        self._signal.fire()

    def end(self, event: WatchedEvent) -> None:
        self.ended = True
        self._signal.fire()


class TreeCacheCore(Recipe):
    """See :class:`TreeCache`."""

    def __init__(self, client: Operations, path: str) -> None:
        super().__init__(client, path)
        self._client = client
        self._nodes: dict[str, CachedNode] = {}
        self._children: dict[str, set[str]] = {}
        self._listeners: list[Callable[[TreeEvent], object]] = []
        self._fault_listeners: list[Callable[[Exception], object]] = []
        self._changed = Signal(client)
        self._stale = False
        self._started = self._closed = False
        self._follower: Any = None

    # ---- what the program asks

    def listen(self, listener: F) -> F:
        """Have ``listener(event)`` called with each TreeEvent; for use as a decorator, too."""
        self._listeners.append(listener)
        return listener

    def listen_fault(self, listener: F) -> F:
        """Have ``listener(error)`` called with each exception that a listener, or following the tree, raised."""
        self._fault_listeners.append(listener)
        return listener

    def get_data(self, path: str, default: Any = None) -> Any:
        """The :class:`CachedNode` of a path, or ``default``.

        :raises ValueError: when the path is not in this subtree.
        """
        return self._nodes.get(self._inside(path), default)

    def get_children(self, path: str, default: Any = None) -> Any:
        """The names of the children, as a frozenset, or ``default`` where there is no such znode.

        :raises ValueError: when the path is not in this subtree.
        """
        path = self._inside(path)
        return frozenset(self._children.get(path, ())) if path in self._nodes else default

    def _inside(self, path: str) -> str:
        path = path.rstrip("/") or "/"
        if path != self.path and not path.startswith(self.path.rstrip("/") + "/"):
            raise ValueError(f"{path} is not below {self.path}")
        return path

    # ---- life

    def _begin(self) -> None:
        if self._closed:
            raise ZooKeeperError(self.path)
        if self._started:
            raise ZooKeeperError(self.path)
        self._started = True
        self._client.add_listener(self._on_state)

    async def _run(self) -> None:
        await self._client.retried(self._client.ensure_path_async, self.path)
        self._follower = self._client.compose(self._follow())

    def _end(self) -> None:
        if self._started and not self._closed:
            self._client.remove_listener(self._on_state)
            if self._follower is not None:
                self._follower.cancel()
        self._closed = True
        self._nodes.clear()
        self._children.clear()

    def _on_state(self, state: State) -> None:
        if state == State.SUSPENDED:
            self._publish(TreeEvent.CONNECTION_SUSPENDED)
        elif state == State.LOST:
            self._publish(TreeEvent.CONNECTION_LOST)
        else:
            self._publish(TreeEvent.CONNECTION_RECONNECTED)
            self._stale = True
            self._changed.set()

    # ---- following

    async def _follow(self) -> None:
        stream: _Events | None = None
        initialized = False
        retries = FOREVER.begin(True)
        try:
            while not self._closed:
                self._changed.clear()
                try:
                    if stream is None or stream.ended:
                        stream = _Events(self._changed)
                        self._stale = True
                        await self._client._open_stream(self.path, stream)
                    if self._stale:
                        self._stale = False
                        stream.events.clear()
                        await self._read_tree()
                        if not initialized:
                            initialized = True
                            self._publish(TreeEvent.INITIALIZED)
                    await self._take_events(stream)
                    if not stream.ended and not self._stale and not stream.events:
                        await self._changed.wait()
                        if not self._client._session.live:
                            return
                except ConnectionClosedError:
                    return
                except ZooKeeperError as error:
                    self._stale = True
                    if not retries.again(error):
                        self._fault(error)
                        return
                    await self._client.pause(retries.delay(error))
        finally:
            if stream is not None:
                self._detach(self._client._close_stream(self.path, stream, True))

    async def _read_tree(self) -> None:
        """Compare the whole subtree with what is here."""
        client = self._client
        seen: set[str] = set()
        level = [self.path]
        while level:
            below: list[str] = []
            for start in range(0, len(level), _WINDOW):
                calls = [
                    (path, client.get_async(path), client.get_children_async(path))
                    for path in level[start : start + _WINDOW]
                ]
                problem: ZooKeeperError | None = None
                for path, node, children in calls:
                    try:
                        data, stat = await node
                        names = await children
                    except NoNodeError:
                        continue
                    except ZooKeeperError as error:
                        problem = problem or error
                        continue
                    seen.add(path)
                    self._store(CachedNode(path, data, stat))
                    prefix = path if path != "/" else ""
                    below += [f"{prefix}/{name}" for name in sorted(names)]
                if problem is not None:
                    raise problem
            level = below
        for path in sorted(self._nodes.keys() - seen, reverse=True):
            self._remove(path)

    async def _take_events(self, stream: _Events) -> None:
        events = [stream.events.popleft() for _ in range(min(len(stream.events), _WINDOW))]
        reads: list[tuple[WatchedEvent, Any]] = []
        for event in events:
            gone = event.type == EventType.DELETED
            reads.append((event, None if gone else self._client.get_async(event.path)))
        problem: ZooKeeperError | None = None
        for event, read in reads:
            if read is None:
                self._remove(event.path)
                continue
            try:
                data, stat = await read
            except NoNodeError:
                continue  # that it was deleted is an event of its own
            except ZooKeeperError as error:
                problem = problem or error
            else:
                self._store(CachedNode(event.path, data, stat))
        if problem is not None:
            raise problem

    def _store(self, node: CachedNode) -> None:
        known = self._nodes.get(node.path)
        self._nodes[node.path] = node
        if known is not None and known.stat.czxid == node.stat.czxid:
            if known.stat.mzxid != node.stat.mzxid:
                self._publish(TreeEvent.NODE_UPDATED, node)
            return
        if known is not None:
            self._publish(TreeEvent.NODE_REMOVED, known)
        if node.path != self.path:
            parent, _, name = node.path.rpartition("/")
            self._children.setdefault(parent or "/", set()).add(name)
        self._publish(TreeEvent.NODE_ADDED, node)

    def _remove(self, path: str) -> None:
        node = self._nodes.pop(path, None)
        if node is None:
            return
        self._children.pop(path, None)
        parent, _, name = path.rpartition("/")
        self._children.get(parent or "/", set()).discard(name)
        self._publish(TreeEvent.NODE_REMOVED, node)

    # ---- telling

    def _publish(self, kind: int, node: CachedNode | None = None) -> None:
        event = TreeEvent(kind, node)
        for listener in self._listeners:
            self._client.tell(self._tell, listener, event)

    def _tell(self, listener: Callable[[TreeEvent], object], event: TreeEvent) -> Coroutine[Any, Any, None] | None:
        if self._closed:
            return None
        try:
            result = listener(event)
        except Exception as error:
            self._fault(error)
            return None
        return self._tell_later(result) if inspect.isawaitable(result) else None

    async def _tell_later(self, result: Any) -> None:
        try:
            await result
        except Exception as error:
            self._fault(error)

    def _fault(self, error: Exception) -> None:
        if not self._fault_listeners:
            self.client.logger.error("a tree cache or its listener failed path=%s", self.path, exc_info=error)
        for listener in self._fault_listeners:
            self._client.tell(listener, error)


class TreeCache(TreeCacheCore, SyncFace):
    """The znodes at and below ``path``, in memory.

        cache = client.TreeCache("/config")
        cache.listen(print)
        cache.start()
        cache.get_data("/config/limits")

    Listeners run in the client's callback thread.
    """

    def start(self) -> None:
        """Begin; the znode is created where it is missing. The INITIALIZED event says when all has been read.

        :raises ZooKeeperError: when it was started before.
        """
        self._begin()
        self._wait(self._run())

    def close(self) -> None:
        """Let go of everything."""
        self._end()


class AsyncTreeCache(TreeCacheCore):
    """:class:`TreeCache` for asyncio; listeners may be coroutine functions."""

    async def start(self) -> None:
        """See :meth:`TreeCache.start`."""
        self._begin()
        await self._run()

    async def close(self) -> None:
        """Let go of everything."""
        self._end()
