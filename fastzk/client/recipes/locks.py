# ruff: noqa: ASYNC109 -- kazoo's arguments have kazoo's names
"""Locks: the contenders stand in line as sequential znodes, and each watches the one before it.

The layout is kazoo's: below the lock's znode, ``<32 hex digits>__lock__<10 digits>`` for exclusive contenders and
``__rlock__`` for readers, with the identifier as data. So programs with kazoo and with fastzk share a lock. The hex
digits are new at each attempt; they find the znode again when the connection breaks while it is created.

The order is that of the sequence numbers as text, as in kazoo. A server counts the changes of a znode's children in
32 bits: after 2^31 acquisitions of one lock the numbers turn negative and the order is lost. Delete the lock's znode
before that, while nobody uses it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import ClassVar, Self

from fastzk.client.operations import Operations
from fastzk.client.recipes.support import (
    FOREVER,
    AcquireCancelled,
    Deadline,
    Holding,
    LockTimeout,
    Recipe,
    SyncFace,
    Tenure,
    Turnstile,
    new_identifier,
    together,
    within,
)
from fastzk.client.signals import Signal
from fastzk.errors import NoNodeError, OperationTimeoutError, ZooKeeperError

_SEQUENCE = r"(-?\d{10})$"


class LockCore(Recipe, Holding):
    """See :class:`Lock`."""

    #: What stands between the hex digits and the sequence number.
    _KIND: ClassVar[str] = "__lock__"
    #: Kinds that keep this one from being acquired while they are ahead of it.
    _BEFORE: ClassVar[tuple[str, ...]] = ("__lock__",)

    def __init__(
        self,
        client: Operations,
        path: str,
        identifier: object = None,
        extra_lock_patterns: Sequence[str] = (),
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> None:
        Recipe.__init__(self, client, path)
        Holding.__init__(self, client, on_lost)
        #: What ``contenders`` shows.
        self.data = str(identifier or "").encode()
        #: The name of the znode while this contends or holds; None otherwise.
        self.node: str | None = None
        #: ``cancel`` was called, and nobody has noticed yet.
        self.cancelled = False
        kinds = [*dict.fromkeys((*self._BEFORE, *extra_lock_patterns))]
        self._ahead = re.compile(f"(?:{'|'.join(kinds)}){_SEQUENCE}")
        self._all = re.compile(f"(?:{'|'.join(dict.fromkeys((*kinds, self._KIND)))}){_SEQUENCE}")
        self._turn = Turnstile(client)
        self._signal = Signal(client)

    def cancel(self) -> None:
        """Have the acquisition that waits, or else the next one, fail with AcquireCancelled."""
        self.cancelled = True
        self._signal.set()

    # ---- acquire

    async def _acquire(self, blocking: bool, timeout: float | None, ephemeral: bool) -> bool:
        deadline = Deadline(timeout)
        if not await self._turn.enter(blocking, deadline.left):
            return False
        gotten = False
        try:
            gotten = await within(self.client, self._contend(blocking, ephemeral), deadline.left)
        except OperationTimeoutError:
            raise LockTimeout(self.path) from None
        finally:
            if not gotten:
                self._turn.leave()
        return gotten

    async def _contend(self, blocking: bool, ephemeral: bool) -> bool:
        retries = FOREVER.begin(True)
        place = _Place(ephemeral)
        try:
            while True:
                try:
                    await self._stand_in_line(place)
                    token = await self._wait_for_turn(place, blocking)
                    if token is None:
                        break
                    if self._hold(place.tenure, token):
                        return True
                except _Gone:
                    # The session ended, or somebody deleted it. One of another session is as good as gone.
                    place.leave()
                except ZooKeeperError as error:
                    if not retries.again(error):
                        raise
                    await self.client.pause(retries.delay(error))
        except Exception:
            await self._quietly(self._withdraw(place))
            raise
        except BaseException:
            self._detach(self._withdraw(place))
            raise
        await self._withdraw(place)
        return False

    async def _stand_in_line(self, place: _Place) -> None:
        """See that there is a znode for this contender."""
        if place.ephemeral and (place.tenure is None or place.tenure.over):
            # The znode went with the session that ended, if it was created in that one. A create that waited for a
            # connection, or was tried again, may have been carried out in the next: so it is looked for. Behind one
            # that was forgotten this contender would wait for as long as the session lasts.
            place.node = None
            place.tenure = self._begin_tenure()
        if place.doubtful and place.node is None:
            place.node = await self._find(place.identifier)
        if place.node is None:
            place.doubtful = True
            path = await self.client.create_identified(
                self.path, place.identifier, self._KIND, self.data, ephemeral=place.ephemeral, retry=FOREVER
            )
            place.node = path.rpartition("/")[2]
        self.node = place.node

    async def _wait_for_turn(self, place: _Place, blocking: bool) -> int | None:
        """The token when it is this contender's turn; None when it is not and it will not wait."""
        client, signal = self.client, self._signal
        node = place.node
        assert node is not None
        while True:
            signal.clear()
            if self.cancelled:
                self.cancelled = False
                raise AcquireCancelled(self.path)
            names, stat = await together((client.get_children_async(self.path), client.exists_async(self._below(node))))
            if stat is None or (place.ephemeral and stat.ephemeralOwner != client._session.session_id):
                raise _Gone
            ahead = self._next_ahead(node, names)
            if ahead is None:
                return int(stat.czxid)
            if not blocking:
                return None
            watched = self._below(ahead)
            try:
                # A read of its data sets no watch when it is gone, as `exists` would.
                await client.get_async(watched, signal)
                await signal.wait()
            except NoNodeError:
                continue
            finally:
                client._session.watches.forget(watched, signal)

    def _next_ahead(self, node: str, names: Sequence[str]) -> str | None:
        """The name of the last one ahead of ``node`` that is in its way."""
        own = self._all.search(node)
        number = node[-10:] if own is None else own[1]
        ahead = [(found[1], name) for name in names if (found := self._ahead.search(name)) and found[1] < number]
        return max(ahead)[1] if ahead else None

    async def _find(self, identifier: str) -> str | None:
        client = self.client
        try:
            _, names = await together((client.sync_async(self.path), client.get_children_async(self.path)))
        except NoNodeError:
            return None
        return next((name for name in names if identifier in name), None)

    async def _withdraw(self, place: _Place) -> None:
        """Leave the line, whether or not it is known that there is a znode."""
        self._end_tenure(place.tenure)
        if self.node == place.node:
            self.node = None
        if not place.doubtful:
            return
        node = place.node or await self.client.retried(self._find, place.identifier)
        if node is not None:
            await self._delete(node)

    async def _delete(self, node: str) -> None:
        with contextlib.suppress(NoNodeError):
            await self.client.retried(self.client.delete_async, self._below(node))

    # ---- and the rest

    async def _release(self) -> bool:
        node = self.node
        held, lost = self._let_go()
        if not held and not lost:
            return False
        self.node = None
        try:
            if held and node is not None:
                await self._delete(node)
        except BaseException as error:
            if not isinstance(error, Exception):
                self._detach(self._delete(str(node)))
            raise
        finally:
            self._turn.leave()
        return held

    async def _check(self) -> bool:
        node, token = self.node, self.fencing_token
        if not self.is_acquired or node is None:
            return False
        stat = await self.client.retried(self.client.exists_async, self._below(node))
        return stat is not None and stat.czxid == token and self.fencing_token == token

    async def _contenders(self) -> list[str]:
        client = self.client
        await client.retried(client.ensure_path_async, self.path)
        names = await client.retried(client.get_children_async, self.path)
        line = sorted((found[1], name) for name in names if (found := self._all.search(name)))
        calls = [client.get_async(self._below(name)) for _, name in line]
        contenders: list[str] = []
        for call in calls:
            try:
                data, _ = await call
            except NoNodeError:
                continue
            if data is not None:
                contenders.append(data.decode())
        return contenders


class _Gone(Exception):
    """The znode of the contender is not there any more."""


class _Place:
    """One attempt's place in the line."""

    __slots__ = ("doubtful", "ephemeral", "identifier", "node", "tenure")

    def __init__(self, ephemeral: bool) -> None:
        self.ephemeral = ephemeral
        self.identifier = new_identifier()
        self.node: str | None = None
        #: Whether there may be a znode with this identifier.
        self.doubtful = False
        self.tenure: Tenure | None = None

    def leave(self) -> None:
        """The znode is gone: the next one gets another name."""
        self.identifier = new_identifier()
        self.node = None
        self.doubtful = False


class Lock(LockCore, SyncFace):
    """An exclusive lock between processes.

        with client.Lock("/locks/report", "worker 7"):
            ...

    It is not re-entrant: while it is held, ``acquire`` of the same object waits, in any thread.

    When the session ends the lock is lost: ``is_acquired`` turns False, ``lost`` True, and ``on_lost`` is called. Give
    ``fencing_token`` to what the lock protects, so that it can refuse a holder that is late.

    :param identifier: what ``contenders`` shows for this one.
    :param extra_lock_patterns: regular expressions for the ends of names, before the number, that other programs give
        to contenders of the same lock.
    :param on_lost: called without arguments when the session ends while the lock is held.
    """

    def acquire(self, blocking: bool = True, timeout: float | None = None, ephemeral: bool = True) -> bool:
        """Get the lock.

        :param blocking: whether to wait for it.
        :param timeout: seconds to wait at most.
        :param ephemeral: whether it goes with the session; otherwise it is held until somebody deletes the znode.
        :returns: whether it is held now. False, too, when this object held it for the whole ``timeout``.
        :raises LockTimeout: when another contender held it for the whole ``timeout``.
        :raises AcquireCancelled: when ``cancel`` was called.
        """
        return self._wait(self._acquire(blocking, timeout, ephemeral))

    def release(self, *, timeout: float | None = None) -> bool:
        """Let go; False when it was not held, or was lost.

        :param timeout: seconds until OperationTimeoutError; the znode is deleted later, then.
        """
        return self._wait(self._release(), timeout)

    def check(self) -> bool:
        """Ask the server whether the lock is held. After a connection broke, nobody else knows."""
        return self._wait(self._check())

    def contenders(self) -> list[str]:
        """The identifiers of all in the line, the holder first; empty texts for those without."""
        return self._wait(self._contenders())

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class AsyncLock(LockCore):
    """:class:`Lock` for asyncio: ``async with client.Lock("/locks/report"): ...``"""

    async def acquire(self, blocking: bool = True, timeout: float | None = None, ephemeral: bool = True) -> bool:
        """See :meth:`Lock.acquire`. A cancelled one leaves the line."""
        return await self._acquire(blocking, timeout, ephemeral)

    async def release(self) -> bool:
        """See :meth:`Lock.release`."""
        return await self._release()

    async def check(self) -> bool:
        """See :meth:`Lock.check`."""
        return await self._check()

    async def contenders(self) -> list[str]:
        """See :meth:`Lock.contenders`."""
        return await self._contenders()

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()


class WriteLock(Lock):
    """The exclusive side of a lock for readers and writers: waits for all who are ahead. See :class:`Lock`."""

    _BEFORE = ("__lock__", "__rlock__")


class ReadLock(Lock):
    """The shared side: waits only for writers who are ahead. See :class:`Lock`."""

    _KIND = "__rlock__"


class AsyncWriteLock(AsyncLock):
    """:class:`WriteLock` for asyncio."""

    _BEFORE = ("__lock__", "__rlock__")


class AsyncReadLock(AsyncLock):
    """:class:`ReadLock` for asyncio."""

    _KIND = "__rlock__"
