"""fastzk.AsyncClient against a server: operations, pipelining, cancellation, watches, and what breaks."""

from __future__ import annotations

import asyncio
import gc
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support import certificates
from support.proxy import Proxy
from support.servers import Server, free_port
from support.wire import poll

from fastzk import AsyncClient, Client, Credentials, EventType, RetryPolicy, State, WatchedEvent
from fastzk.acl import make_digest_acl
from fastzk.client import ZnodeStat
from fastzk.client.async_client import EventStream
from fastzk.client.watchers import WatchInUse
from fastzk.errors import (
    AuthFailedError,
    BadVersionError,
    ConnectionClosedError,
    ConnectionLossError,
    MaybeApplied,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotSent,
    OperationTimeoutError,
    SessionExpiredError,
)

from .conftest import KIND, ServerFactory

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a loop of either kind, for at most a minute; no task may be left."""

    async def limited(main: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(60):
            await main
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, others

    def runner(main: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as each:
            each.run(limited(main))

    return runner


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until it is true, at most 20 s."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"still not so: {what}")


@asynccontextmanager
async def proxied(server: Server, **options: Any) -> AsyncIterator[tuple[Proxy, AsyncClient]]:
    with Proxy(server.port) as proxy:
        async with AsyncClient(proxy.hosts, **options) as zk:
            yield proxy, zk


# ---- operations


def test_operations(run: Run, any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            assert await zk.create("/a", b"1") == "/a"
            with pytest.raises(NodeExistsError):
                await zk.create("/a")
            assert (await zk.get("/a")).data == b"1"
            assert (await zk.set("/a", b"2")).version == 1
            with pytest.raises(BadVersionError):
                await zk.set("/a", b"3", version=0)
            assert await zk.exists("/nope") is None
            assert await zk.create("/x/y/z", makepath=True) == "/x/y/z"
            assert await zk.create("/x/s-", sequence=True, ephemeral=True) == "/x/s-0000000001"
            assert await zk.get_ephemerals("/x") == ["/x/s-0000000001"]
            children, stat = await zk.get_children("/", include_data=True)
            assert (sorted(children), stat.numChildren) == (["a", "x"], 2)
            await zk.ensure_path("/p/q")
            assert await zk.get_all_children_number("/p") == 1
            assert await zk.sync() == "/"
            assert await zk.check("/a", 1)
            assert (await zk.who_am_i())[0].scheme == "ip"
            acl = [make_digest_acl("bob", "secret", all=True)]
            assert (await zk.set_acls("/a", acl)).acl_version == 1
            with pytest.raises(NoAuthError):
                await zk.get("/a")
            await zk.add_auth("digest", "bob:secret")
            assert (await zk.get_acls("/a")).acl == acl
            async with zk.transaction() as t:
                t.create("/t")
                t.set("/a", b"4")
            assert t.results is not None
            assert t.results[0] == "/t"
            with pytest.raises(NoNodeError):  # noqa: PT012 -- it is the end that raises
                async with zk.transaction() as t:
                    t.create("/u")
                    t.delete("/nope")
            assert await zk.exists("/u") is None
            found = await zk.multi_read([("get", "/a"), ("children", "/p")])
            assert found == [await zk.get("/a"), ["q"]]
            assert await zk.delete("/x", recursive=True)
            assert await zk.delete("/a")
            assert zk.connected
        assert not zk.connected
        with pytest.raises(ConnectionClosedError):
            await zk.get("/")

    run(main())


def test_requests_are_pipelined_and_answered_in_order(run: Run, any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            order: list[int] = []
            calls: list[asyncio.Future[Any]] = []
            for n in range(500):
                calls.append(zk.create_async(f"/{n}", b"x" * (n % 50)))
                calls.append(zk.get_async(f"/{n}"))
            for n, call in enumerate(calls):
                call.add_done_callback(lambda _, n=n: order.append(n))
            results = await asyncio.gather(*calls)
            assert [len(each.data) for each in results[1::2]] == [n % 50 for n in range(500)]
            assert order == sorted(order)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(zk.get(f"/{n}")) for n in range(500)]
            assert all(len(task.result().data or b"") == n % 50 for n, task in enumerate(tasks))

    run(main())


def test_large_data_and_slow_sockets(run: Run, server: Server) -> None:
    async def main() -> None:
        async with AsyncClient(server.hosts) as zk:
            await zk.create("/big", b"")
            data = [bytes([n]) * 700_000 for n in range(30)]
            stats = await asyncio.gather(*[zk.set_async("/big", each) for each in data])
            assert [stat.version for stat in stats] == list(range(1, 31))
            found = await asyncio.gather(*[zk.get_async("/big") for _ in range(10)])
            assert all(each.data == data[-1] for each in found)

    run(main())


class Model:
    """What a tree must look like to the one client that changes it."""

    def __init__(self) -> None:
        self.nodes: dict[str, tuple[bytes, int]] = {}

    def create(self, path: str, data: bytes) -> object:
        if path in self.nodes:
            return NodeExistsError
        self.nodes[path] = (data, 0)
        return path

    def set(self, path: str, data: bytes) -> object:
        if path not in self.nodes:
            return NoNodeError
        self.nodes[path] = (data, self.nodes[path][1] + 1)
        return self.nodes[path][1]

    def delete(self, path: str) -> object:
        return NoNodeError if self.nodes.pop(path, None) is None else True

    def get(self, path: str) -> object:
        return self.nodes.get(path, NoNodeError)

    def exists(self, path: str) -> object:
        return self.nodes[path][1] if path in self.nodes else None

    def children(self) -> object:
        return sorted(path[1:] for path in self.nodes)


async def outcome(call: Awaitable[Any], read: Callable[[Any], object]) -> object:
    try:
        return read(await call)
    except (NoNodeError, NodeExistsError) as error:
        return type(error)


@pytest.mark.parametrize("seed", range(6))
def test_pipelined_requests_behave_like_a_tree(run: Run, any_server: Server, root: str, seed: int) -> None:
    """Random operations, many in flight, some given up: each answer is what a tree in memory gives."""

    async def main() -> None:
        rng = random.Random(seed)
        model = Model()
        async with AsyncClient(any_server.hosts + root) as zk:
            checks: list[tuple[asyncio.Task[object], object]] = []
            for number in range(1500):
                path = f"/{rng.randrange(6)}"
                data = bytes([number % 256]) * rng.randrange(300)
                kind = rng.choice(["create", "set", "delete", "get", "exists", "children"])
                call: asyncio.Future[Any]
                read: Callable[[Any], object]
                if kind == "create":
                    call, expected = zk.create_async(path, data), model.create(path, data)
                    read = str
                elif kind == "set":
                    call, expected = zk.set_async(path, data), model.set(path, data)
                    read = lambda stat: stat.version  # noqa: E731
                elif kind == "delete":
                    call, expected, read = zk.delete_async(path), model.delete(path), bool
                elif kind == "get":
                    call, expected = zk.get_async(path), model.get(path)
                    read = lambda node: (node.data, node.stat.version)  # noqa: E731
                elif kind == "exists":
                    call, expected = zk.exists_async(path), model.exists(path)
                    read = lambda stat: stat and stat.version  # noqa: E731
                else:
                    call, expected, read = zk.get_children_async("/"), model.children(), sorted
                if rng.random() < 0.1:
                    call.cancel()
                else:
                    checks.append((asyncio.ensure_future(outcome(call, read)), expected))
                if rng.random() < 0.02:
                    await asyncio.sleep(0)
                if rng.random() < 0.01:
                    await rng.choice(checks)[0]
            for task, expected in checks:
                assert await task == expected

    run(main())


# ---- cancellation and deadlines


def test_cancelled_calls_do_not_disturb_others(run: Run, any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            for n in range(20):
                await zk.create(f"/{n}", str(n).encode())
            rng = random.Random(1)
            wrong: list[object] = []

            async def work() -> None:
                for _ in range(30):
                    n = rng.randrange(20)
                    if (data := (await zk.get(f"/{n}")).data) != str(n).encode():
                        wrong.append((n, data))

            tasks = [asyncio.ensure_future(work()) for _ in range(100)]
            while not all(task.done() for task in tasks):
                rng.choice(tasks).cancel()
                await asyncio.sleep(0.0005)
            assert wrong == []
            assert (await zk.get("/7")).data == b"7"

    run(main())


def test_deadlines(run: Run, server: Server) -> None:
    async def main() -> None:
        async with proxied(server) as (proxy, zk):
            proxy.hold_replies = True
            for call in (
                zk.get("/", timeout=0.05),
                zk.ensure_path("/a/b", timeout=0.05),
                zk.create("/c/d", makepath=True, timeout=0.05),
            ):
                with pytest.raises(OperationTimeoutError):
                    await call
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await zk.get("/")
            proxy.hold_replies = False
            assert await zk.exists("/", timeout=10) is not None

    run(main())


def test_deadlines_that_are_over_at_once(run: Run, server: Server) -> None:
    """Several in one turn of the loop, the next one later: each is a timer of its own kind."""

    async def main() -> None:
        async with AsyncClient(server.hosts) as zk:
            calls = [zk.get_async("/", timeout=seconds) for seconds in (0.0, 0.0001, 0.0, 20.0)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(each, tuple | OperationTimeoutError) for each in results), results
            assert isinstance(results[-1], tuple)
            assert await zk.exists("/", timeout=20.0) is not None

    run(main())


# ---- watches


def test_watch_callbacks(run: Run, any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            heard: list[WatchedEvent] = []

            async def later(event: WatchedEvent) -> None:
                await zk.exists("/")
                heard.append(event)

            await zk.exists("/w", heard.append)
            await zk.create("/w")
            # An event comes before the reply that shows the change.
            assert [e.type for e in heard] == [EventType.CREATED]
            await zk.get("/w", later)
            await zk.delete("/w")
            await until(lambda: len(heard) == 2, "a coroutine may watch too")

    run(main())


def test_events_of_a_tree(run: Run, any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            got: list[tuple[str, str]] = []
            async with zk.watch("/jobs", recursive=True) as events:
                await zk.create("/jobs/1", makepath=True)
                await zk.delete("/jobs", recursive=True)
                async for event in events:
                    got.append((event.type, event.path))
                    if len(got) == 4:
                        break
            assert got == [
                ("CREATED", "/jobs"),
                ("CREATED", "/jobs/1"),
                ("DELETED", "/jobs/1"),
                ("DELETED", "/jobs"),
            ]
            await zk.create("/jobs")
            async with zk.watch("/jobs") as first, zk.watch("/jobs") as second:
                await zk.create("/jobs/2")
                assert (await anext(first)).type == (await anext(second)).type == EventType.CHILD
                await first.aclose()
                with pytest.raises(StopAsyncIteration):
                    await anext(first)
                await zk.set("/jobs", b"x")
                assert (await anext(second)).type == EventType.CHANGED

    run(main())


def watches_in(server: Server) -> int:
    for line in server.four_letter_word("mntr").splitlines():
        if line.startswith("zk_watch_count"):
            return int(line.split()[1])
    raise AssertionError("no zk_watch_count")


def test_a_stream_that_is_dropped_gives_its_watch_back(run: Run, server: Server) -> None:
    async def main() -> None:
        async with AsyncClient(server.hosts) as zk:
            before = watches_in(server)
            stream: EventStream | None = zk.watch("/a", recursive=True)
            assert stream is not None
            await stream.opened()
            assert watches_in(server) > before
            del stream
            gc.collect()
            await until(lambda: watches_in(server) == before, "removed")

    run(main())


def test_a_data_watch_with_a_function(run: Run, any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            seen: list[object] = []

            @zk.DataWatch("/d")
            async def on_change(data: bytes | None, stat: ZnodeStat | None, event: WatchedEvent | None) -> object:
                await zk.exists("/")  # it may make requests
                seen.append((data, None if stat is None else stat.version, event and event.type))
                return False if data == b"last" else None

            await until(lambda: seen == [(None, None, None)], "the state at the beginning")
            await zk.create("/d", b"1")
            await until(lambda: seen[1:] == [(b"1", 0, "CREATED")], "created")
            await zk.set("/d", b"2")
            await until(lambda: seen[2:] == [(b"2", 1, "CHANGED")], "changed")
            await zk.delete("/d")
            await until(lambda: seen[3:] == [(None, None, "DELETED")], "deleted")
            await zk.create("/d", b"last")
            await until(lambda: len(seen) == 5, "created again")
            await zk.set("/d", b"3")
            plain: list[object] = []
            watch = zk.DataWatch("/d", lambda data, stat: plain.append(data))
            await watch.told()
            assert plain == [b"3"]
            with pytest.raises(WatchInUse):
                watch(print)
            with pytest.raises(WatchInUse):
                await anext(watch)
            watch.stop()
            await zk.set("/d", b"4")
            await zk.exists("/")
            assert plain == [b"3"]
            assert len(seen) == 5  # it returned False

    run(main())


def test_a_data_watch_as_an_iterator(run: Run, any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            states = []
            async with zk.DataWatch("/d") as watch:
                async for data, stat in watch:
                    states.append(data)
                    if data is None:
                        assert stat is None
                        # Of changes that come faster than they are taken the last is seen.
                        await zk.create("/d", b"1")
                        await zk.set("/d", b"2")
                    elif data == b"2":
                        await zk.set("/d", b"3")
                    else:
                        break
            assert states == [None, b"2", b"3"]
            with pytest.raises(StopAsyncIteration):
                await anext(watch)
            again = zk.DataWatch("/d")
            assert (await anext(again)).data == b"3"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(again)
            await zk.set("/d", b"4")
            assert (await anext(again)).data == b"4"

    run(main())


def test_children_watches(run: Run, any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            await zk.create("/c")
            seen: list[object] = []

            @zk.ChildrenWatch("/c", send_event=True)
            def on_change(children: list[str], event: WatchedEvent | None) -> None:
                seen.append((sorted(children), event and event.type))

            watch = zk.ChildrenWatch("/c")
            assert await anext(watch) == []
            await zk.create("/c/1")
            assert await anext(watch) == ["1"]
            await until(lambda: seen == [([], None), (["1"], "CHILD")], "both are told")
            await zk.delete("/c", recursive=True)
            async for children in watch:  # ends when the znode goes
                assert children == []
            async for children in zk.ChildrenWatch("/nope"):
                raise AssertionError(children)
            await zk.ChildrenWatch("/nope", print).told()

    run(main())


def test_watches_go_on_over_connections_and_sessions(run: Run, server: Server) -> None:
    async def main() -> None:
        async with proxied(server) as (proxy, zk), AsyncClient(server.hosts) as other:
            await zk.create("/w", b"0")
            told: list[bytes | None] = []
            watch = zk.DataWatch("/w", lambda data, stat: told.append(data))
            await watch.told()
            data, children = zk.DataWatch("/w"), zk.ChildrenWatch("/w")
            ending = zk.ChildrenWatch("/w", allow_session_lost=False)
            assert ((await anext(data)).data, await anext(children), await anext(ending)) == (b"0", [], [])
            # A change while there is no connection.
            proxy.refusing = True
            proxy.cut()
            await other.set("/w", b"1")
            await other.create("/w/1")
            proxy.refusing = False
            assert ((await anext(data)).data, await anext(children), await anext(ending)) == (b"1", ["1"], ["1"])
            # And one while there is no session.
            assert zk.client_id is not None
            session, password = zk.client_id
            proxy.refusing = True
            proxy.cut()
            server.session(session_id=session, password=password).close()
            await other.set("/w", b"2")
            await other.create("/w/2")
            proxy.refusing = False
            assert (await anext(data)).data == b"2"
            assert sorted(await anext(children)) == ["1", "2"]
            with pytest.raises(SessionExpiredError):
                await anext(ending)
            await until(lambda: told == [b"0", b"1", b"2"], "the function, too")
            waiting = asyncio.ensure_future(anext(data))
            await asyncio.sleep(0)
            await zk.close()
            with pytest.raises(ConnectionClosedError):
                await waiting

    run(main())


def test_a_watch_that_may_not_be_set(run: Run, any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            await zk.create("/secret", acl=[make_digest_acl("bob", "secret", all=True)])
            with pytest.raises(NoAuthError):
                await anext(zk.DataWatch("/secret"))
            with pytest.raises(NoAuthError):
                await zk.DataWatch("/secret", print).told()

    run(main())


# ---- the session


def test_a_lost_connection(run: Run, server: Server) -> None:
    async def main() -> None:
        async with proxied(server) as (proxy, zk):
            states: list[State] = []
            seen: list[object] = []

            async def listener(state: State) -> None:
                seen.append((state, await zk.exists("/") is not None))

            zk.add_listener(states.append)
            zk.add_listener(listener)
            session = zk.client_id
            await zk.create("/e", b"", ephemeral=True)
            async with zk.watch("/e") as events:
                proxy.cut()
                await until(lambda: len(states) == 2, "connected again")
                assert states == [State.SUSPENDED, State.CONNECTED]
                assert zk.client_id == session
                await until(lambda: len(seen) == 2, "listeners may call")
                await zk.set("/e", b"x")
                assert (await anext(events)).type == EventType.CHANGED

    run(main())


def test_what_was_sent_is_in_doubt_and_what_was_not_is_kept(run: Run, server: Server) -> None:
    async def main() -> None:
        async with proxied(server) as (proxy, zk):
            await zk.create("/a")
            proxy.hold_replies = True
            write, read = zk.set_async("/a", b"1"), zk.get_async("/a")
            await asyncio.sleep(0.05)
            proxy.refusing = True
            proxy.cut()
            with pytest.raises(MaybeApplied):
                await write
            with pytest.raises(ConnectionLossError) as caught:
                await read
            assert not isinstance(caught.value, MaybeApplied)
            later = zk.set_async("/a", b"2")
            given_up = zk.set_async("/a", b"3")
            await asyncio.sleep(0)
            given_up.cancel()
            proxy.hold_replies = proxy.refusing = False
            assert (await later).version >= 1
            assert (await zk.get("/a")).data == b"2"

    run(main())


def test_a_server_that_stays_away(run: Run, server: Server) -> None:
    async def main() -> None:
        async with AsyncClient(server.hosts, timeout=4.0) as zk:
            server.kill9()
            await until(lambda: zk.state == State.SUSPENDED, "suspended")
            with pytest.raises(NotSent):
                await zk.get("/")
            server.start()
            await until(lambda: zk.connected, "connected")
            assert await zk.exists("/") is not None

    run(main())


def test_an_expired_session(run: Run, server: Server) -> None:
    async def main() -> None:
        async with AsyncClient(server.hosts) as zk:
            states: list[State] = []
            zk.add_listener(states.append)
            assert zk.client_id is not None
            session, password = zk.client_id
            await zk.create("/e", ephemeral=True)
            stream = zk.watch("/x")
            await stream.opened()
            server.session(session_id=session, password=password).close()
            # The client may have had its session back for a moment before it ended.
            await until(lambda: states[-2:] == [State.LOST, State.CONNECTED], "a new session")
            with pytest.raises(SessionExpiredError):
                await anext(stream)
            assert await zk.exists("/e") is None
            assert zk.client_id[0] != session

    run(main())


def test_closing_settles_everything(run: Run, server: Server) -> None:
    async def main() -> None:
        with Proxy(server.port) as proxy:
            zk = AsyncClient(proxy.hosts, timeout=4.0)
            await zk.start()
            stream = zk.watch("/x")
            await stream.opened()
            waiting = asyncio.ensure_future(anext(stream))
            proxy.hold_replies = True
            calls = [zk.get_async("/") for _ in range(10)]
            await asyncio.sleep(0.05)
            await zk.close()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(each, ConnectionLossError | ConnectionClosedError) for each in results)
            with pytest.raises(SessionExpiredError):
                await waiting
            assert not zk.connected

    run(main())


def test_no_server(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(OperationTimeoutError):
            await AsyncClient("127.0.0.1:1").start(timeout=0.3)

    run(main())


def test_wrong_credentials(run: Run, server: Server) -> None:
    async def main() -> None:
        async with AsyncClient(server.hosts) as zk:
            with pytest.raises(AuthFailedError):
                await zk.add_auth("nosuchscheme", "x")
            with pytest.raises(AuthFailedError):
                await zk.get("/")

    run(main())


def test_writers_over_broken_connections(run: Run, server: Server) -> None:
    """A thousand tasks and a connection that breaks: every call ends, and acknowledged writes are there."""

    async def main() -> None:
        async with proxied(server, retry=RetryPolicy(delay=0.01, max_delay=0.1)) as (proxy, zk):
            acknowledged: dict[str, int] = {}
            doubtful: dict[str, int] = {}

            async def work(number: int) -> None:
                path = f"/{number}"
                await zk.retry(zk.ensure_path, path)
                acknowledged[path] = doubtful[path] = 0
                for _ in range(5):
                    try:
                        await zk.set(path, b"x")
                        acknowledged[path] += 1
                    except NotSent:
                        pass
                    except ConnectionLossError:
                        doubtful[path] += 1

            tasks = [asyncio.ensure_future(work(number)) for number in range(1000)]
            while not all(task.done() for task in tasks):
                proxy.cut()
                await asyncio.sleep(0.02)
                # A server may take longer than that to take the session back.
                await until(lambda: zk.connected, "connected again")
                await asyncio.sleep(0.05)
            for task in tasks:
                task.result()
            for path, count in acknowledged.items():
                version = (await zk.retry(zk.get, path)).stat.version
                assert count <= version <= count + doubtful[path]

    run(main())


@pytest.mark.parametrize("limit", [50, 200, 1000])
def test_connections_cut_in_the_middle_of_a_frame(run: Run, server: Server, limit: int) -> None:
    async def main() -> None:
        async with proxied(server) as (proxy, zk):
            await zk.create("/a", b"")
            proxy.limit = limit
            proxy.cut()
            calls = [zk.set_async("/a", bytes(200)) for _ in range(40)]
            results = await asyncio.gather(*calls, return_exceptions=True) if limit == 1000 else []
            proxy.limit = None
            results = results or await asyncio.gather(*calls, return_exceptions=True)
            proxy.cut()
            stats = [each for each in results if not isinstance(each, BaseException)]
            errors = [each for each in results if isinstance(each, BaseException)]
            assert all(isinstance(each, ConnectionLossError) for each in errors)
            version = (await zk.retry(zk.get, "/a")).stat.version
            certain = sum(not isinstance(each, NotSent) for each in errors)
            assert len(stats) <= version <= len(stats) + certain

    run(main())


# ---- TLS and SASL, with both clients


def test_tls(run: Run, new_server: ServerFactory, tmp_path: Path) -> None:
    if KIND != "fastzk":
        pytest.skip("Apache ZooKeeper takes its settings for this from options of Java")
    files = certificates.write_files(tmp_path / "tls")
    port = free_port()
    settings = {**files.settings(), "secureClientPort": str(port), "secureClientPortAddress": "127.0.0.1"}
    server = new_server(settings).start()
    context = ssl.create_default_context(cafile=str(files.authority_file))
    context.load_cert_chain(files.certificate_of("client"), files.key_of("client"))
    url = f"zks://127.0.0.1:{port}"

    async def main() -> None:
        async with AsyncClient(url, ssl=context) as zk:
            await zk.ensure_path("/a")
            data = bytes(300_000)
            await asyncio.gather(*[zk.set_async("/a", data) for _ in range(20)])
            found = await asyncio.gather(*[zk.get_async("/a") for _ in range(20)])
            assert all(each.data == data for each in found)
            assert "x509" in {identity.scheme for identity in await zk.who_am_i()}
        with pytest.raises(OperationTimeoutError):
            await AsyncClient(url).start(1.0)  # an authority the system does not know

    run(main())
    with Client(url, ssl=context) as client:
        assert len(client.get("/a").data or b"") == 300_000
        for call in [client.set_async("/a", bytes(300_000)) for _ in range(20)]:
            call.get(timeout=20)
        heard: list[WatchedEvent] = []
        client.get("/a", heard.append)
        with server.session() as other:
            other.set("/a", b"x")
        poll(lambda: bool(heard), "an event over TLS")
        assert client.command(b"ruok") == "imok"
    options = {"certfile": files.certificate_of("client"), "keyfile": files.key_of("client")}
    with Client(f"127.0.0.1:{port}", use_ssl=True, ca=str(files.authority_file), **options) as client:  # type: ignore[arg-type]
        assert client.get("/a").data == b"x"


SASL = {"authProvider.sasl": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"}
JAAS = 'Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_bob="bobsecret"; };'


def test_sasl(run: Run, new_server: ServerFactory, tmp_path: Path) -> None:
    if KIND != "fastzk":
        pytest.skip("Apache ZooKeeper takes its settings for this from options of Java")
    path = tmp_path / "jaas.conf"
    path.write_text(JAAS)
    server = new_server({"java.security.auth.login.config": str(path), **SASL}).start()

    async def main() -> None:
        async with AsyncClient(server.hosts, sasl=Credentials("bob", "bobsecret")) as zk:
            assert ("sasl", "bob") in await zk.who_am_i()
        with pytest.raises(AuthFailedError):
            await AsyncClient(server.hosts, sasl=Credentials("bob", "wrong")).start()

    run(main())
    options = {"mechanism": "DIGEST-MD5", "username": "bob", "password": "bobsecret"}
    with Client(server.hosts, sasl_options=options) as client:
        assert ("sasl", "bob") in client.who_am_i()
    with pytest.raises(AuthFailedError):
        Client(server.hosts, sasl_options={**options, "password": "wrong"}).start()
