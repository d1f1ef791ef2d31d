"""Something a coroutine of a recipe waits for, that a watch, a timer or another thread sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastzk.client.operations import Operations


class Signal:
    """A flag that coroutines can wait for.

    It can be given as a watcher. The client then sets it as soon as the event is read, past the callback thread, so
    what waits for it goes on even while a program's own callbacks are slow, or wait for it themselves.
    """

    __slots__ = ("__weakref__", "_client", "_promises", "is_set")

    def __init__(self, client: Operations) -> None:
        self._client = client
        self._promises: list[Any] = []
        self.is_set = False

    def fire(self) -> None:
        """Set it; for the thread that reads, which goes on with the coroutine by itself."""
        self.is_set = True
        for promise in list(self._promises):
            if not promise.done():
                promise.set_result(True)

    def set(self) -> None:
        """Set it; for everybody else."""
        self.fire()
        self._client.take_steps()

    def __call__(self, event: object) -> None:
        """As a watcher."""
        self.fire()

    def clear(self) -> None:
        """Wait for the next event."""
        self.is_set = False

    async def wait(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Wait until it is set, at most ``timeout`` seconds; whether it is.

        It is set, too, when the client is stopped.
        """
        if not self.is_set:
            client = self._client
            promise = client.promise(timeout)
            self._promises.append(promise)
            client.waiting.add(self)
            if not client._session.live:
                self.is_set = True  # the client is stopped, and may have looked through `waiting` before this was there
            try:
                # It may have been set before there was a promise to settle.
                if not self.is_set:
                    await promise
                else:
                    promise.cancel()
            finally:
                self._promises.remove(promise)
                if not self._promises:
                    client.waiting.discard(self)
                    if self._promises:  # another thread has come meanwhile
                        client.waiting.add(self)
        return self.is_set
