# ruff: noqa: ASYNC109 -- kazoo's arguments have kazoo's names
"""Queues: entries are znodes whose names sort by priority and then by age, as in kazoo."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fastzk.client.operations import Operations, TransactionRequest
from fastzk.client.recipes.support import (
    FOREVER,
    Deadline,
    Recipe,
    SyncFace,
    new_identifier,
    together,
    within,
)
from fastzk.client.signals import Signal
from fastzk.errors import (
    MaybeApplied,
    NodeExistsError,
    NoNodeError,
    NotSent,
    OperationTimeoutError,
    ZooKeeperError,
)


def _check(value: object, priority: object) -> None:
    if not isinstance(value, bytes):
        raise TypeError("an entry is bytes")
    if not isinstance(priority, int):
        raise TypeError("a priority is an int")
    if not 0 <= priority <= 999:
        raise ValueError("a priority is between 0 and 999")


class _Entries(Recipe):
    """What both queues have in common."""

    def __init__(self, client: Operations, path: str) -> None:
        super().__init__(client, path)
        self._entries_path = self.path
        self._ensured = False

    def _folders(self) -> Sequence[str]:
        return (self._entries_path,)

    async def _ensure(self) -> None:
        if not self._ensured:
            for path in self._folders():
                await self.client.retried(self.client.ensure_path_async, path)
            self._ensured = True

    async def _size(self) -> int:
        await self._ensure()
        _, stat = await self.client.retried(self.client.get_async, self._entries_path)
        return int(stat.numChildren)

    async def _put(self, value: bytes, priority: int) -> None:
        _check(value, priority)
        await self._ensure()
        retries = FOREVER.begin(False)
        while True:
            try:
                await self.client.create_async(f"{self._entries_path}/entry-{priority:03d}-", value, sequence=True)
            except NotSent as error:
                await self.client.pause(retries.delay(error))
            else:
                return


class QueueCore(_Entries):
    """See :class:`Queue`."""

    def __init__(self, client: Operations, path: str) -> None:
        super().__init__(client, path)
        self._names: deque[str] = deque()

    async def _get(self) -> bytes | None:
        client = self.client
        await self._ensure()
        while True:
            if not self._names:
                names = await client.retried(client.get_children_async, self.path)
                if not names:
                    return None
                self._names.extend(sorted(names))
            try:
                path = self._below(self._names.popleft())
            except IndexError:  # another thread took it
                continue
            retries = FOREVER.begin(True)
            while True:
                try:
                    (data, _), _ = await together((client.get_async(path), client.delete_async(path)))
                except NoNodeError:
                    break  # somebody else was faster
                except ZooKeeperError as error:
                    if not retries.again(error):
                        raise
                    # Whoever finds the entry still there has not taken it.
                    sent = not isinstance(error, NotSent)
                    if sent and await client.retried(client.exists_async, path) is None:
                        raise MaybeApplied(path) from error
                    await client.pause(retries.delay(error))
                else:
                    return data or b""


class Queue(QueueCore, SyncFace):
    """Entries are taken out in the order of priority, then of age.

    ``get`` removes the entry it returns: who fails while working on it must put it back. LockingQueue does not lose
    it.
    """

    def put(self, value: bytes, priority: int = 100) -> None:
        """Add an entry.

        :param priority: 0 to 999; the smallest comes out first.
        :raises MaybeApplied: when the connection broke and nobody knows whether the entry was added.
        """
        self._wait(self._put(value, priority))

    def get(self) -> bytes | None:
        """Take the first entry out; None when there is none.

        :raises MaybeApplied: when the connection broke meanwhile and the entry is gone: this one took it, or another.
        """
        return self._wait(self._get())

    def __len__(self) -> int:
        return self._wait(self._size())

    def __bool__(self) -> bool:
        return True


class AsyncQueue(QueueCore):
    """:class:`Queue` for asyncio."""

    async def put(self, value: bytes, priority: int = 100) -> None:
        """See :meth:`Queue.put`."""
        await self._put(value, priority)

    async def get(self) -> bytes | None:
        """See :meth:`Queue.get`."""
        return await self._get()

    async def size(self) -> int:
        """How many entries there are."""
        return await self._size()


class LockingQueueCore(_Entries):
    """See :class:`LockingQueue`."""

    def __init__(self, client: Operations, path: str) -> None:
        super().__init__(client, path)
        #: The data of this consumer's locks.
        self.id = new_identifier().encode()
        #: Name and value of the entry that is locked now.
        self.processing_element: tuple[str, bytes] | None = None
        self._entries_path = self._below("entries")
        self._taken_path = self._below("taken")

    def _folders(self) -> Sequence[str]:
        return (self._taken_path, self._entries_path)

    async def _put_all(self, values: list[bytes], priority: int) -> None:
        if not isinstance(values, list):
            raise TypeError("entries are a list of bytes")
        _check(b"", priority)
        for value in values:
            _check(value, priority)
        await self._ensure()
        retries = FOREVER.begin(False)
        while True:
            transaction = TransactionRequest(self.client)
            for value in values:
                transaction.create(f"{self._entries_path}/entry-{priority:03d}-", value, sequence=True)
            try:
                await _commit(transaction)
            except NotSent as error:
                await self.client.pause(retries.delay(error))
            else:
                return

    async def _get(self, timeout: float | None) -> bytes | None:
        if self.processing_element is None:
            deadline = Deadline(timeout)
            await self._ensure()
            if timeout is not None and timeout <= 0:
                self.processing_element = await self._try_one(Signal(self.client))
            else:
                try:
                    self.processing_element = await within(self.client, self._wait_for_one(), deadline.left)
                except OperationTimeoutError:
                    return None
        return None if self.processing_element is None else self.processing_element[1]

    async def _wait_for_one(self) -> tuple[str, bytes]:
        signal = Signal(self.client)
        while True:
            signal.clear()
            taken = await self._try_one(signal)
            if taken is not None:
                return taken
            await signal.wait()

    async def _try_one(self, signal: Signal) -> tuple[str, bytes] | None:
        client = self.client
        forget = client._session.watches.forget
        retries = FOREVER.begin(True)
        while True:
            try:
                names, locked = await together(
                    (
                        client.get_children_async(self._entries_path, signal),
                        client.get_children_async(self._taken_path, signal),
                    )
                )
                for name in sorted(set(names) - set(locked)):
                    value = await self._take(name)
                    if value is not None:
                        return name, value
                return None
            except ZooKeeperError as error:
                if not retries.again(error):
                    raise
                await client.pause(retries.delay(error))
            except BaseException:
                forget(self._entries_path, signal)
                forget(self._taken_path, signal)
                raise

    async def _take(self, name: str) -> bytes | None:
        """Lock an entry; its value, or None when another has it."""
        client = self.client
        lock = f"{self._taken_path}/{name}"
        try:
            try:
                await client.create_async(lock, self.id, None, True)
            except NodeExistsError:
                owner, _ = await client.get_async(lock)
                if owner != self.id:  # otherwise it is from before the connection broke
                    return None
            value, _ = await client.get_async(f"{self._entries_path}/{name}")
        except NoNodeError:
            # It was consumed between the two looks, or its lock went.
            await self._quietly(client.retried(client.delete_async, lock))
            return None
        except BaseException as error:
            if not isinstance(error, ZooKeeperError):
                self._detach(client.retried(client.delete_async, lock))
            raise
        return value or b""

    async def _holds_lock(self) -> bool:
        if self.processing_element is None:
            return False
        client = self.client
        lock = f"{self._taken_path}/{self.processing_element[0]}"
        try:
            await client.retried(client.sync_async, lock)
            value, _ = await client.retried(client.get_async, lock)
        except NoNodeError:
            return False
        return bool(value == self.id)

    async def _finish(self, consume: bool) -> bool:
        """Take the lock away, with ``consume`` the entry too."""
        client = self.client
        retries = FOREVER.begin(True)
        while self.processing_element is not None and await self._holds_lock():
            name = self.processing_element[0]
            transaction = TransactionRequest(client)
            if consume:
                transaction.delete(f"{self._entries_path}/{name}")
            transaction.delete(f"{self._taken_path}/{name}")
            identity = client.client_id
            try:
                await _commit(transaction)
            except ZooKeeperError as error:
                if not retries.again(error):
                    raise
                await client.pause(retries.delay(error))
                held = await self._holds_lock()
                # The lock was this session's; while that lives nobody else takes it away.
                if not held and identity is not None and client.client_id == identity:
                    break
            else:
                break
        else:
            return False
        self.processing_element = None
        return True


async def _commit(transaction: TransactionRequest) -> None:
    problem = transaction.first_failure(await transaction.commit_async())
    if problem is not None:
        raise problem


class LockingQueue(LockingQueueCore, SyncFace):
    """A queue whose entries are locked while they are worked on: ``get``, then ``consume`` or ``release``.

    When a consumer's session ends its entry is there for others again.
    """

    def put(self, value: bytes, priority: int = 100) -> None:
        """See :meth:`Queue.put`."""
        self._wait(self._put(value, priority))

    def put_all(self, values: list[bytes], priority: int = 100) -> None:
        """Add several entries, or none of them."""
        self._wait(self._put_all(values, priority))

    def get(self, timeout: float | None = None) -> bytes | None:
        """Lock the first entry that is not locked; the same again until it is consumed or released.

        :param timeout: seconds to wait for one; None is returned then.
        """
        return self._wait(self._get(timeout))

    def holds_lock(self) -> bool:
        """Ask the server whether this one still has the entry it got."""
        return self._wait(self._holds_lock())

    def consume(self) -> bool:
        """Remove the entry this one has; False when it has none any more."""
        return self._wait(self._finish(True))

    def release(self) -> bool:
        """Leave the entry to others; False when this one has none any more."""
        return self._wait(self._finish(False))

    def __len__(self) -> int:
        return self._wait(self._size())

    def __bool__(self) -> bool:
        return True


class AsyncLockingQueue(LockingQueueCore):
    """:class:`LockingQueue` for asyncio."""

    async def put(self, value: bytes, priority: int = 100) -> None:
        """See :meth:`Queue.put`."""
        await self._put(value, priority)

    async def put_all(self, values: list[bytes], priority: int = 100) -> None:
        """See :meth:`LockingQueue.put_all`."""
        await self._put_all(values, priority)

    async def get(self, timeout: float | None = None) -> bytes | None:
        """See :meth:`LockingQueue.get`."""
        return await self._get(timeout)

    async def holds_lock(self) -> bool:
        """See :meth:`LockingQueue.holds_lock`."""
        return await self._holds_lock()

    async def consume(self) -> bool:
        """See :meth:`LockingQueue.consume`."""
        return await self._finish(True)

    async def release(self) -> bool:
        """See :meth:`LockingQueue.release`."""
        return await self._finish(False)

    async def size(self) -> int:
        """How many entries there are, locked ones among them."""
        return await self._size()
