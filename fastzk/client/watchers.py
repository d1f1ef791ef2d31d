"""Functions that are told the data or the children of a znode, now and after each change.

They go on over lost connections and, unless told otherwise, over lost sessions. A function that returns False is not
called again.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastzk.client.results import WatchedEvent
from fastzk.client.states import EventType, State
from fastzk.errors import ConnectionClosedError, NoNodeError, ZooKeeperError

if TYPE_CHECKING:
    from fastzk.client.client import Client

class WatchInUse(ZooKeeperError, ValueError):
    """A DataWatch or ChildrenWatch has one function; make another one."""

    what = "the watch has a function already"


class _Watch:
    """What both have in common: one look at a time, again after each event and each new session."""

    def __init__(self, client: Client, path: str, function: Callable[..., object] | None, over_sessions: bool) -> None:
        self._client = client
        self._path = path
        self._function: Callable[..., object] | None = None
        self._over_sessions = over_sessions
        self._run_lock = threading.RLock()
        self._stopped = False
        self._lost = False
        if function is not None:
            self(function)

    def __call__(self, function: Callable[..., object]) -> Callable[..., object]:
        """Begin; for use as a decorator.

        :raises WatchInUse: when there is a function already.
        """
        if self._function is not None or self._stopped:
            raise WatchInUse(self._path)
        self._function = function
        self._prepare(function)
        self._client.add_listener(self._on_state)
        try:
            self._look(None)
        except BaseException:
            self.stop()
            raise
        return function

    def stop(self) -> None:
        """Do not call the function any more."""
        self._stopped = True
        self._client.remove_listener(self._on_state)
        self._client._session.watches.forget(self._path, self._on_event)

    def _prepare(self, function: Callable[..., object]) -> None:
        raise NotImplementedError

    def _tell(self, event: WatchedEvent | None) -> object:
        raise NotImplementedError

    def _look(self, event: WatchedEvent | None) -> None:
        with self._run_lock:
            if not self._stopped and self._tell(event) is False:
                self.stop()

    def _again(self, event: WatchedEvent | None) -> None:
        try:
            self._look(event)
        except ConnectionClosedError:
            pass
        except ZooKeeperError as error:
            self._client.logger.warning("a watch on %s could not be set again: %s", self._path, error)

    def _on_event(self, event: WatchedEvent) -> None:
        if event.type != EventType.NONE:
            self._again(event)

    def _on_state(self, state: State) -> object:
        if state == State.LOST:
            self._lost = True
        elif state == State.CONNECTED and self._lost:
            # The server's watch went with the session.
            self._lost = False
            if not self._over_sessions:
                self.stop()
            else:
                self._again(None)
        return None


class DataWatch(_Watch):
    """Tells a function the data of a znode: ``function(data, stat)`` or ``function(data, stat, event)``.

    Both are None while the znode does not exist. The event is None the first time and after a lost session.

    :param func: may be given later, by using the watch as a decorator.
    """

    def __init__(self, client: Client, path: str, func: Callable[..., object] | None = None) -> None:
        self._seen: object = ...
        self._with_event = False
        super().__init__(client, path, func, True)

    def _prepare(self, function: Callable[..., object]) -> None:
        self._with_event = takes(function, 3)

    def _tell(self, event: WatchedEvent | None) -> object:
        client, function = self._client, self._function
        data: bytes | None
        stat: Any
        while True:
            try:
                data, stat = client.retry(client.get, self._path, self._on_event)
                break
            except NoNodeError:
                data, stat = None, client.retry(client.exists, self._path, self._on_event)
                if stat is None:
                    break
        seen = None if stat is None else stat.mzxid
        if seen == self._seen or function is None:
            return None
        self._seen = seen
        return function(data, stat, event) if self._with_event else function(data, stat)


class ChildrenWatch(_Watch):
    """Tells a function the children of a znode: ``function(children)``, with ``send_event`` also the event.

    It ends when the znode is deleted.

    :param func: may be given later, by using the watch as a decorator.
    :param allow_session_lost: whether it goes on with the next session when one is lost.
    :param send_event: whether the function takes the event; it is None the first time and after a lost session.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        func: Callable[..., object] | None = None,
        allow_session_lost: bool = True,
        send_event: bool = False,
    ) -> None:
        self._send_event = send_event
        self._seen: list[str] | None = None
        super().__init__(client, path, func, allow_session_lost)

    def _prepare(self, function: Callable[..., object]) -> None:
        pass

    def _tell(self, event: WatchedEvent | None) -> object:
        function = self._function
        try:
            children = self._client.retry(self._client.get_children, self._path, self._on_event)
        except NoNodeError:
            self.stop()
            return None
        if function is None or (event is None and children == self._seen):
            return None
        self._seen = children
        return function(children, event) if self._send_event else function(children)


def takes(function: Callable[..., object], count: int) -> bool:
    """Whether a function can be called with so many arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # no signature, as with some functions in C
        return True
    return True
