"""A counter that many processes change: its value is the data of a znode, as text (or as Curator's SharedCount)."""

from __future__ import annotations

import struct
from typing import Any, Generic, Self, TypeVar

from fastzk.client.operations import Operations
from fastzk.client.recipes.support import FOREVER, Recipe, SyncFace
from fastzk.errors import BadVersionError, MaybeApplied, ZooKeeperError

N = TypeVar("N", int, float)


class CounterCore(Recipe, Generic[N]):
    """See :class:`Counter`."""

    def __init__(self, client: Operations, path: str, default: N | None = None, support_curator: bool = False) -> None:
        super().__init__(client, path)
        self.default: Any = 0 if default is None else default
        self.default_type: type[Any] = type(self.default)
        self.support_curator = support_curator
        #: The values before and after the last change by this object.
        self.pre_value: N | None = None
        self.post_value: N | None = None
        self._ensured = False
        if support_curator and not isinstance(self.default, int):
            raise TypeError("Curator's counters are ints")

    def _encode(self, value: N) -> bytes:
        return struct.pack(">i", value) if self.support_curator else repr(value).encode("ascii")

    async def _read(self) -> tuple[N, int]:
        client = self.client
        if not self._ensured:
            await client.retried(client.ensure_path_async, self.path)
            self._ensured = True
        data, stat = await client.retried(client.get_async, self.path)
        value: Any = self.default
        if data:
            value = struct.unpack(">i", data)[0] if self.support_curator else data.decode("ascii")
        return self.default_type(value), stat.version

    async def _value(self) -> N:
        return (await self._read())[0]

    async def _change(self, value: N) -> N:
        if not isinstance(value, self.default_type):
            raise TypeError(f"this counter changes by {self.default_type.__name__}s")
        retries = FOREVER.begin(True)
        while True:
            before, version = await self._read()
            after: N = before + value
            data = self._encode(after)
            try:
                await self.client.set_async(self.path, data, version)
            except BadVersionError:
                continue
            except MaybeApplied:
                # The version tells whether it was done, unless exactly one change was made that looks like it.
                found, now = await self.client.retried(self.client.get_async, self.path)
                if now.version == version or (now.version == version + 1 and found != data):
                    continue
                self.post_value = None
                raise
            except ZooKeeperError as error:
                if not retries.again(error):
                    raise
                await self.client.pause(retries.delay(error))
                continue
            self.pre_value, self.post_value = before, after
            return after


class Counter(CounterCore[N], SyncFace):
    """A shared counter: ``counter += 2``, ``counter.value``.

    :param default: the value of a new counter; its type, int or float, is the counter's.
    :param support_curator: use the format of Curator's SharedCount (ints of 32 bits).
    :raises TypeError: for ``support_curator`` with a default that is no int.
    """

    @property
    def value(self) -> N:
        """The present value."""
        return self._wait(self._value())

    def add(self, value: N) -> N:
        """Add; the value after that.

        :raises TypeError: when it has another type than the default.
        :raises MaybeApplied: when the connection broke and it cannot be told whether it was added.
        """
        return self._wait(self._change(value))

    def __add__(self, value: N) -> Self:
        self.add(value)
        return self

    def __sub__(self, value: N) -> Self:
        self.add(-value)
        return self


class AsyncCounter(CounterCore[N]):
    """:class:`Counter` for asyncio."""

    async def value(self) -> N:
        """The present value."""
        return await self._value()

    async def add(self, value: N) -> N:
        """See :meth:`Counter.add`."""
        return await self._change(value)
