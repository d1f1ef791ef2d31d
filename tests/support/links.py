"""A TCP proxy between the servers of an ensemble, whose links can be silenced and healed one direction at a time.

Each server is told to find each other server behind a port of this proxy, so the proxy knows who dialled whom. What
is silenced is held back, not lost, as by a network that swallows packets while TCP goes on repeating them: neither
side hears anything, no connection breaks by itself, and what was sent arrives late after all.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

#: (from, to): the ids of two servers.
Direction = tuple[int, int]
#: Seconds for which a server that was dialled may not listen yet.
PATIENCE = 1.0


class Links:
    """The proxy, in a thread of its own until :meth:`close`. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()
        self._silent: set[Direction] = set()
        self._refused: set[frozenset[int]] = set()
        self._changed = asyncio.Condition()
        self._writers: dict[asyncio.StreamWriter, frozenset[int]] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # ---- what tests do

    def add(self, dialler: int, acceptor: int, port: int, target: int) -> None:
        """Connections of server ``dialler`` to ``port`` go on to ``target``, a port of server ``acceptor``."""

        async def work() -> None:
            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = self._loop.create_task(self._relay(dialler, acceptor, target, reader, writer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            self._servers.append(await asyncio.start_server(connected, "127.0.0.1", port))

        self._run(work())

    def silence(self, directions: Iterable[Direction]) -> None:
        """Hold back whatever goes in these directions, also on connections that are made from now on."""
        wanted = set(directions)

        async def work() -> None:
            self._silent |= wanted

        self._run(work())

    def cut(self, a: int, b: int) -> None:
        """Neither of the two hears the other any more, and nobody tells them."""
        self.silence([(a, b), (b, a)])

    def refuse(self, a: int, b: int) -> None:
        """Break the connections between the two, and every new one at once."""
        pair = frozenset((a, b))

        async def work() -> None:
            self._refused.add(pair)
            for writer, of in list(self._writers.items()):
                if of == pair:
                    writer.transport.abort()

        self._run(work())

    def heal(self) -> None:
        """All links work again; what was held back arrives."""

        async def work() -> None:
            self._silent.clear()
            self._refused.clear()
            async with self._changed:
                self._changed.notify_all()

        self._run(work())

    def close(self) -> None:
        """End all connections and the thread; for clean-up, so it never raises."""

        async def work() -> None:
            for server in self._servers:
                server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        with contextlib.suppress(Exception):
            self._run(work())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        if not self._thread.is_alive():
            self._loop.close()

    # ---- in the loop's thread

    async def _relay(
        self,
        dialler: int,
        acceptor: int,
        target: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        pair = frozenset((dialler, acceptor))
        self._writers[writer] = pair
        onward = None
        try:
            if pair in self._refused:
                return
            # A call that nobody hears is not answered either; the kernel's own answer cannot be held back.
            await self._audible((dialler, acceptor))
            if pair in self._refused:
                return
            back, onward = await self._connect(target)
            self._writers[onward] = pair
            await asyncio.gather(
                self._pump(reader, onward, (dialler, acceptor)), self._pump(back, writer, (acceptor, dialler))
            )
        except OSError:
            pass  # broken at either end, which the other end learns below
        finally:
            for each in filter(None, (writer, onward)):
                self._writers.pop(each, None)
                each.transport.abort()

    async def _connect(self, target: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a port, more than once: a dialler takes a refused call otherwise than a broken one.

        An Apache ZooKeeper that follows tries again to reach a leader that does not listen yet, but looks for
        another leader when its connection breaks.
        """
        deadline = self._loop.time() + PATIENCE
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", target)
            except ConnectionRefusedError:
                if self._loop.time() > deadline:
                    raise
            await asyncio.sleep(0.01)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction) -> None:
        while True:
            data = await reader.read(1 << 16)
            await self._audible(way)
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    async def _audible(self, way: Direction) -> None:
        if way in self._silent:
            heard: Callable[[], bool] = lambda: way not in self._silent  # noqa: E731
            async with self._changed:
                await self._changed.wait_for(heard)
