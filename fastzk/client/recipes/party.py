"""Parties: who is there. Each member is an ephemeral znode, with the identifier as data or in the name, as in kazoo."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import ClassVar

from fastzk.client.operations import Operations
from fastzk.client.recipes.support import Recipe, SyncFace, new_identifier
from fastzk.errors import NodeExistsError, NoNodeError


class PartyCore(Recipe):
    """See :class:`Party`."""

    _MARK: ClassVar[str] = "__party__"

    def __init__(self, client: Operations, path: str, identifier: object = None) -> None:
        super().__init__(client, path)
        self.data = str(identifier or "").encode()
        #: Whether this one has joined, and not left.
        self.participating = False
        self.node = self._name()
        self.create_path = self._below(self.node)
        self._ensured = False

    def _name(self) -> str:
        return new_identifier() + self._MARK

    async def _ensure(self) -> None:
        if not self._ensured:
            await self.client.retried(self.client.ensure_path_async, self.path)
            self._ensured = True

    async def _join(self) -> None:
        client = self.client
        self.participating = True
        client.at_session_end(self._session_over)
        with contextlib.suppress(NodeExistsError):  # from before a connection broke
            await client.retried(client.create_async, self.create_path, self.data, None, True, makepath=True)

    def _session_over(self) -> None:
        if self.participating:
            self.client.tell(self._join_again)

    def _join_again(self) -> None:
        if self.participating and self.client._session.live:
            self._detach(self._join())

    async def _leave(self) -> bool:
        self.participating = False
        self.client.forget_session_end(self._session_over)
        try:
            await self.client.retried(self.client.delete_async, self.create_path)
        except NoNodeError:
            return False
        return True

    async def _names(self) -> list[str]:
        await self._ensure()
        names = await self.client.retried(self.client.get_children_async, self.path)
        return [name for name in names if self._MARK in name]

    async def _members(self) -> list[str]:
        client = self.client
        names = await self._names()
        members: list[str] = []
        for name in names:
            with contextlib.suppress(NoNodeError):
                data, _ = await client.retried(client.get_async, self._below(name))
                members.append((data or b"").decode())
        return members

    async def _count(self) -> int:
        return len(await self._names())


class ShallowPartyCore(PartyCore):
    """See :class:`ShallowParty`."""

    _MARK = "-"

    def _name(self) -> str:
        return f"{new_identifier()}-{self.data.decode()}"

    async def _members(self) -> list[str]:
        return [name.partition("-")[2] for name in await self._names()]


class Party(PartyCore, SyncFace):
    """Who takes part: iterate over it for the members' identifiers.

    A member whose session ended joins again with the next one.
    """

    def join(self) -> None:
        """Become a member."""
        self._wait(self._join())

    def leave(self) -> bool:
        """Be one no more; False when the server did not know this one."""
        return self._wait(self._leave())

    def __iter__(self) -> Iterator[str]:
        return iter(self._wait(self._members()))

    def __len__(self) -> int:
        return self._wait(self._count())

    def __bool__(self) -> bool:
        return True


class ShallowParty(ShallowPartyCore, Party):
    """A party whose identifiers are in the znodes' names: one request tells them all."""


class AsyncParty(PartyCore):
    """:class:`Party` for asyncio: ``async for identifier in party``."""

    async def join(self) -> None:
        """Become a member."""
        await self._join()

    async def leave(self) -> bool:
        """See :meth:`Party.leave`."""
        return await self._leave()

    async def members(self) -> list[str]:
        """The identifiers of all members."""
        return await self._members()

    async def count(self) -> int:
        """How many members there are."""
        return await self._count()

    async def __aiter__(self) -> AsyncIterator[str]:
        for member in await self._members():
            yield member


class AsyncShallowParty(ShallowPartyCore, AsyncParty):
    """:class:`ShallowParty` for asyncio."""
