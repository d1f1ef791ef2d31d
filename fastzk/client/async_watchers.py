"""The data or the children of a znode, now and after each change, for asyncio.

Either a function is called, or the states are iterated over::

    @client.DataWatch("/config")
    async def on_change(data, stat): ...

    async for data, stat in client.DataWatch("/config"): ...

Both tell the present state first. Of changes that come faster than they are taken only the last is seen. They go on
over lost connections and, unless told otherwise, over lost sessions.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar

from fastzk.client._channel import ZnodeStat
from fastzk.client.results import NodeData, WatchedEvent
from fastzk.client.signals import Signal
from fastzk.client.states import EventType
from fastzk.client.watchers import WatchInUse, takes
from fastzk.errors import NoNodeError, SessionExpiredError, ZooKeeperError

if TYPE_CHECKING:
    from fastzk.client.async_client import AsyncClient

T = TypeVar("T")


class DataState(NamedTuple):
    """The data of a znode; both are None while it does not exist."""

    data: bytes | None
    stat: ZnodeStat | None


class _Watch(Generic[T]):
    """What both have in common: one look at a time, again after each event and each new session."""

    def __init__(
        self, client: AsyncClient, path: str, function: Callable[..., object] | None, over_sessions: bool
    ) -> None:
        self._client = client
        self._path = path
        self._over_sessions = over_sessions
        self._changed = Signal(client)
        self._changed.is_set = True  # the first look is due
        self._event: WatchedEvent | None = None  # what made the next look due
        self._began = False
        self._session_lost = False
        self._stopped = False
        self._function: Callable[..., object] | None = None
        self._task: asyncio.Future[None] | None = None
        self._told: asyncio.Future[None] | None = None
        if function is not None:
            self(function)

    # ---- what each adds

    async def _see(self) -> T | None:
        """The present state, watched from here on; None: the watch is over."""
        raise NotImplementedError

    def _is_new(self, state: T, event: WatchedEvent | None) -> bool:
        """Whether it is to be told."""
        raise NotImplementedError

    def _arguments(self, state: T, event: WatchedEvent | None) -> tuple[object, ...]:
        """What the function is called with."""
        raise NotImplementedError

    def _prepare(self, function: Callable[..., object]) -> None:
        """Look at the function before it is first called."""

    # ---- iteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next state.

        :raises SessionExpiredError: when the session ended, and the watch was not to go on in the next one.
        :raises ConnectionClosedError: when the client was closed.
        :raises WatchInUse: when the watch has a function.
        """
        if self._function is not None:
            raise WatchInUse(self._path)
        state, _ = await self._next()
        return state

    async def _next(self) -> tuple[T, WatchedEvent | None]:
        client = self._client
        if not self._began:
            self._began = True
            if not self._over_sessions:
                client.at_session_end(self._end_with_session)
        while True:
            await self._changed.wait()
            if self._stopped:
                raise StopAsyncIteration
            if not client._session.live:
                raise client._session.refusal()
            if self._session_lost:
                self.stop()
                raise SessionExpiredError(self._path)
            event, self._event = self._event, None
            # What happens from now on makes another look due, even if this one is given up in the middle.
            self._changed.clear()
            try:
                state = await self._see()
            except BaseException:
                self._changed.is_set = True
                raise
            if self._session_lost:
                continue
            if state is None:
                self.stop()
                raise StopAsyncIteration
            if self._is_new(state, event):
                return state, event

    def _on_event(self, event: WatchedEvent) -> None:
        # NONE: the session is over, and the server's watch with it.
        self._event = event if event.type != EventType.NONE else None
        self._changed.set()

    def _end_with_session(self) -> None:
        self._session_lost = True
        self._changed.fire()

    def stop(self) -> None:
        """End the iteration; do not call the function any more."""
        self._stopped = True
        client = self._client
        client.forget_session_end(self._end_with_session)
        client._session.watches.forget(self._path, self._on_event)
        self._changed.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- a function

    def __call__(self, function: Callable[..., object]) -> Callable[..., object]:
        """Begin, with a function or coroutine function; for use as a decorator.

        A call ends before the next one begins. When it returns False there is no other; what it raises is logged.

        :raises WatchInUse: when the watch has a function, or is iterated over.
        """
        if self._function is not None or self._began or self._stopped:
            raise WatchInUse(self._path)
        self._prepare(function)
        self._told = asyncio.get_running_loop().create_future()
        self._task = self._client.compose(self._tell(function))
        self._function = function
        return function

    async def told(self) -> None:
        """Wait until the function was called for the first time.

        :raises ZooKeeperError: when the znode cannot be watched, because of its ACL for example.
        """
        if self._told is None:
            raise ValueError("the watch has no function")
        await asyncio.shield(self._told)

    async def _tell(self, function: Callable[..., object]) -> None:
        client, told = self._client, self._told
        assert told is not None
        try:
            while True:
                state, event = await self._next()
                try:
                    result = function(*self._arguments(state, event))
                    if inspect.isawaitable(result):
                        result = await result
                except Exception:
                    client.logger.exception("a listener or watcher raised an exception")
                    result = None
                if not told.done():
                    told.set_result(None)
                if result is False:
                    break
        except StopAsyncIteration:
            pass
        except ZooKeeperError as error:
            if not told.done():
                told.set_exception(error)
                told.exception()  # it need not be asked for
            if not isinstance(error, SessionExpiredError):
                client.logger.warning("a watch on %s could not be set again: %s", self._path, error)
        except asyncio.CancelledError:
            told.cancel()
            raise
        finally:
            self.stop()
            if not told.done():
                told.set_result(None)  # there is no such znode


class DataWatch(_Watch[DataState]):
    """Tells the data of a znode, whether it exists or not.

    Iterated over it gives :class:`DataState`, which unpacks into data and stat. A function is called as
    ``function(data, stat)`` or, if it takes that many, ``function(data, stat, event)``; the event is None the first
    time and after a lost session.

    :param func: may be given later, by using the watch as a decorator.
    """

    def __init__(self, client: AsyncClient, path: str, func: Callable[..., object] | None = None) -> None:
        self._seen: object = ...
        self._with_event = False
        super().__init__(client, path, func, True)

    def _prepare(self, function: Callable[..., object]) -> None:
        self._with_event = takes(function, 3)

    async def _see(self) -> DataState:
        client = self._client
        while True:
            try:
                node: NodeData = await client.retried(client.get_async, self._path, self._on_event)
                return DataState(*node)
            except NoNodeError:
                # If it was created meanwhile, `exists` watches it, and its data are still to be read.
                if await client.retried(client.exists_async, self._path, self._on_event) is None:
                    return DataState(None, None)

    def _is_new(self, state: DataState, event: WatchedEvent | None) -> bool:
        # The znode may have gone and come back: its mzxid is another one then.
        seen, self._seen = self._seen, None if state.stat is None else state.stat.mzxid
        return seen != self._seen

    def _arguments(self, state: DataState, event: WatchedEvent | None) -> tuple[object, ...]:
        return (*state, event) if self._with_event else tuple(state)


class ChildrenWatch(_Watch[list[str]]):
    """Tells the names of a znode's children. It ends when the znode is deleted, or does not exist.

    A function is called as ``function(children)``, with ``send_event`` as ``function(children, event)``; the event is
    None the first time and after a lost session.

    :param func: may be given later, by using the watch as a decorator.
    :param allow_session_lost: whether it goes on with the next session when one is lost.
    :param send_event: whether the function takes the event.
    """

    def __init__(
        self,
        client: AsyncClient,
        path: str,
        func: Callable[..., object] | None = None,
        allow_session_lost: bool = True,
        send_event: bool = False,
    ) -> None:
        self._send_event = send_event
        self._seen: list[str] | None = None
        super().__init__(client, path, func, allow_session_lost)

    async def _see(self) -> list[str] | None:
        client = self._client
        try:
            names: list[str] = await client.retried(client.get_children_async, self._path, self._on_event)
        except NoNodeError:
            return None
        return names

    def _is_new(self, state: list[str], event: WatchedEvent | None) -> bool:
        seen, self._seen = self._seen, sorted(state)
        return event is not None or seen != self._seen

    def _arguments(self, state: list[str], event: WatchedEvent | None) -> tuple[object, ...]:
        return (state, event) if self._send_event else (state,)
