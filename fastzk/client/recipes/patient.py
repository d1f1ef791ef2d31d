"""The children of a znode, once they have not changed for a while."""

from __future__ import annotations

from typing import Any

from fastzk.client.operations import Operations
from fastzk.client.recipes.support import Recipe
from fastzk.client.signals import Signal


class PatientChildrenWatch(Recipe):
    """Tells the children of a znode when they have been the same for ``time_boundary`` seconds.

    With either client; ``start`` returns what that client's ``*_async`` methods return.
    """

    def __init__(self, client: Operations, path: str, time_boundary: float = 30) -> None:
        super().__init__(client, path)
        self.time_boundary = time_boundary

    def start(self) -> Any:
        """Begin to look. The result is the list of children and another result, of the next change to them.

        :raises NoNodeError: as the result, when there is no such znode.
        """
        return self.client.compose(self._settled_and_next())

    async def _settled_and_next(self) -> tuple[list[str], Any]:
        names, changed = await self._settled()
        return names, self.client.compose(changed.wait())

    async def _settled(self) -> tuple[list[str], Signal]:
        """The children, and a signal that is set when they change."""
        client = self.client
        changed = Signal(client)
        try:
            while True:
                changed.clear()
                names = await client.retried(client.get_children_async, self.path, changed)
                if not await changed.wait(self.time_boundary):
                    return names, changed
        except BaseException:
            client._session.watches.forget(self.path, changed)
            raise
