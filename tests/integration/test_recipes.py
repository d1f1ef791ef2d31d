# ruff: noqa: ASYNC110 -- tests look again and again
"""The recipes with both clients, beside kazoo's where they share znodes, over broken connections and lost sessions."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any

import pytest
import uvloop
from kazoo.client import KazooClient
from support.proxy import Proxy
from support.servers import Server
from support.wire import poll

from fastzk import AsyncClient, Client
from fastzk.client.recipes import (
    AcquireCancelled,
    LockTimeout,
    PartitionState,
    TreeCache,
    TreeEvent,
)
from fastzk.errors import ConnectionClosedError, OperationTimeoutError, ZooKeeperError
from fastzk.testing import expire_session

Make = Callable[..., Client]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes started clients, and stops them."""
    made: list[Client] = []

    def build(hosts: str, **options: Any) -> Client:
        made.append(Client(hosts, **options))
        made[-1].start(30)
        return made[-1]

    yield build
    for client in made:
        client.stop()


@pytest.fixture
def zk(any_server: Server, root: str, make: Make) -> Client:
    """A client below a znode of its own, on fastzk and on Apache ZooKeeper."""
    return make(any_server.hosts + root)


@pytest.fixture
def other(any_server: Server, root: str, make: Make) -> Client:
    """Another one, below the same znode."""
    return make(any_server.hosts + root)


@pytest.fixture
def kazoo(any_server: Server, root: str) -> Iterator[KazooClient]:
    """kazoo's client, below the same znode."""
    client = KazooClient(any_server.hosts + root, timeout=20)
    client.start(30)
    yield client
    client.stop()
    client.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def spawn(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop, for at most a minute; no task may be left."""

    async def limited() -> None:
        async with asyncio.timeout(60):
            await main
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, others

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(limited())


async def until(condition: Callable[[], object], what: str) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"still not so: {what}")


# ---- locks


def test_lock(zk: Client, other: Client) -> None:
    lock, second = zk.Lock("/lock", "first"), other.Lock("/lock", "second")
    with lock as held:
        assert held is lock
        assert lock.is_acquired
        assert lock.check()
        assert lock.node is not None
        assert lock.node[32:] == "__lock__0000000000"
        assert lock.fencing_token == zk.get(f"/lock/{lock.node}").stat.czxid
        assert second.acquire(blocking=False) is False
        began = time.monotonic()
        with pytest.raises(LockTimeout) as caught:
            second.acquire(timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 10
        assert caught.value.path == "/lock"
        poll(lambda: lock.contenders() == ["first"], "the second has left the line", 30)
        assert lock.acquire(timeout=0.1) is False  # not re-entrant
    assert not lock.is_acquired
    assert lock.fencing_token is None
    assert lock.release() is False
    assert zk.get_children("/lock") == []


def test_contenders_get_the_lock_in_their_order_with_growing_tokens(zk: Client, other: Client) -> None:
    lock = zk.Lock("/lock", "0")
    lock.acquire()
    order: list[tuple[str, int]] = []

    def contend(name: str) -> None:
        client = zk if int(name) % 2 else other
        with client.Lock("/lock", name) as mine:
            assert mine.fencing_token is not None
            order.append((name, mine.fencing_token))

    threads = []
    for name in ("1", "2", "3", "4"):
        threads.append(spawn(lambda name=name: contend(name)))  # type: ignore[misc]
        poll(lambda name=name: name in lock.contenders(), "it stands in line", 30)  # type: ignore[misc]
    token = lock.fencing_token
    assert token is not None
    lock.release()
    for thread in threads:
        thread.join(30)
    assert [name for name, _ in order] == ["1", "2", "3", "4"]
    tokens = [token, *(each for _, each in order)]
    assert tokens == sorted(set(tokens))


def test_threads_share_a_lock_object(zk: Client) -> None:
    lock = zk.Lock("/lock")
    inside: list[int] = []
    seen: list[int] = []

    def enter() -> None:
        with lock:
            inside.append(1)
            seen.append(len(inside))
            inside.pop()

    threads = [spawn(enter) for _ in range(10)]
    for thread in threads:
        thread.join(60)
    assert seen == [1] * 10


def test_cancel(zk: Client, other: Client) -> None:
    problems: list[BaseException] = []
    with zk.Lock("/lock", "a") as held:
        waiting = other.Lock("/lock", "b")

        def wait() -> None:
            try:
                waiting.acquire()
            except AcquireCancelled as error:
                problems.append(error)

        thread = spawn(wait)
        poll(lambda: held.contenders() == ["a", "b"], "b waits", 30)
        waiting.cancel()
        thread.join(30)
        assert len(problems) == 1
        poll(lambda: held.contenders() == ["a"], "b has left the line", 30)
    assert waiting.acquire(timeout=10)
    waiting.release()


def test_a_lock_that_outlives_its_session(any_server: Server, root: str, make: Make, zk: Client) -> None:
    first = make(any_server.hosts + root)
    lock = first.Lock("/lock")
    assert lock.acquire(ephemeral=False)
    node = lock.node
    first.stop()
    assert zk.get_children("/lock") == [node]


def test_readers_and_writers(zk: Client, other: Client) -> None:
    with zk.ReadLock("/lock", "r1"):
        with other.ReadLock("/lock", "r2"):
            assert not other.WriteLock("/lock", "w").acquire(blocking=False)
        writer = other.WriteLock("/lock", "w")
        thread = spawn(writer.acquire)
        poll(lambda: "w" in writer.contenders(), "the writer waits", 30)
        # A reader behind a waiting writer waits, too.
        assert not zk.ReadLock("/lock", "r3").acquire(blocking=False)
    thread.join(30)
    assert writer.is_acquired
    assert not zk.ReadLock("/lock").acquire(blocking=False)
    writer.release()
    with zk.ReadLock("/lock"):
        pass


def test_kazoo_and_fastzk_share_locks(zk: Client, kazoo: KazooClient) -> None:
    theirs = kazoo.Lock("/lock", "kazoo")
    assert theirs.acquire()
    ours = zk.Lock("/lock", "fastzk")
    assert not ours.acquire(blocking=False)
    thread = spawn(ours.acquire)
    poll(lambda: theirs.contenders() == ["kazoo", "fastzk"], "both see both", 30)
    assert ours.contenders() == ["kazoo", "fastzk"]
    theirs.release()
    thread.join(30)
    assert ours.is_acquired
    assert not theirs.acquire(blocking=False)
    ours.release()
    reader = kazoo.ReadLock("/rw")
    assert reader.acquire()
    assert not zk.WriteLock("/rw").acquire(blocking=False)
    with zk.ReadLock("/rw"):
        pass
    reader.release()


def test_a_lock_lost_with_its_session_is_told(server: Server, make: Make) -> None:
    zk, other = make(server.hosts, timeout=5), make(server.hosts)
    told = threading.Event()
    lock = zk.Lock("/lock", on_lost=told.set)
    lock.acquire()
    token = lock.fencing_token
    assert token is not None
    second = other.Lock("/lock")
    thread = spawn(second.acquire)
    poll(lambda: len(second.contenders()) == 2, "the second waits", 30)
    expire_session(zk)
    thread.join(30)
    assert second.is_acquired
    assert second.fencing_token is not None
    assert second.fencing_token > token
    assert told.wait(30)
    assert lock.lost
    assert not lock.is_acquired
    assert not lock.check()
    assert lock.release() is False
    second.release()
    with lock:
        assert not lock.lost


def test_a_waiting_contender_survives_its_session(server: Server, make: Make) -> None:
    zk, other = make(server.hosts, timeout=5), make(server.hosts)
    held = other.Lock("/lock", "held")
    held.acquire()
    lock = zk.Lock("/lock", "waits")
    thread = spawn(lock.acquire)
    poll(lambda: len(held.contenders()) == 2, "it waits", 30)
    before = set(other.get_children("/lock"))
    expire_session(zk)
    poll(lambda: len(set(other.get_children("/lock")) - before) == 1, "it stands in line again", 30)
    held.release()
    thread.join(30)
    assert lock.is_acquired
    lock.release()


@pytest.mark.parametrize("replies", [True, False])
def test_a_lock_is_created_once_over_a_broken_connection(
    server: Server, proxy: Proxy, make: Make, replies: bool
) -> None:
    """The connection breaks when the create has been carried out, or before it arrived."""
    zk, other = make(proxy.hosts), make(server.hosts)
    zk.ensure_path("/lock")
    proxy.hold_replies, proxy.hold_requests = replies, not replies
    lock = zk.Lock("/lock", "x")
    thread = spawn(lock.acquire)
    if replies:
        poll(lambda: len(other.get_children("/lock")) == 1, "it was created", 30)
    else:
        time.sleep(0.2)
    proxy.hold_replies = proxy.hold_requests = False
    proxy.cut()
    thread.join(30)
    assert lock.is_acquired
    assert other.get_children("/lock") == [lock.node]
    lock.release()
    assert other.get_children("/lock") == []


def test_a_timeout_holds_while_the_server_is_silent(server: Server, proxy: Proxy, make: Make) -> None:
    zk, other = make(proxy.hosts, timeout=20), make(server.hosts)
    zk.ensure_path("/lock")
    proxy.hold_replies = True
    began = time.monotonic()
    with pytest.raises(LockTimeout):
        zk.Lock("/lock").acquire(timeout=0.5)
    assert time.monotonic() - began < 5
    proxy.hold_replies = False
    poll(lambda: other.get_children("/lock") == [], "its znode goes", 30)


def test_stopping_the_client_ends_what_waits(any_server: Server, root: str, make: Make, zk: Client) -> None:
    second = make(any_server.hosts + root)
    shared = zk.Lock("/lock")
    shared.acquire()
    ended: list[BaseException] = []

    def contend(function: Callable[[], object]) -> None:
        try:
            function()
        except ConnectionClosedError as error:
            ended.append(error)

    own = second.Lock("/own")
    own.acquire()
    queue, barrier, double = second.LockingQueue("/queue"), second.Barrier("/barrier"), second.DoubleBarrier("/d", 2)
    barrier.create()
    waits = [second.Lock("/lock").acquire, own.acquire, queue.get, barrier.wait]
    threads = [spawn(lambda wait=wait: contend(wait)) for wait in waits]  # type: ignore[misc]
    threads.append(spawn(double.enter))
    poll(lambda: len(shared.contenders()) == 2, "the lock is waited for", 30)
    time.sleep(0.2)
    second.stop()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(ended) == len(waits)
    assert not double.participating


def test_a_lock_in_a_listener(server: Server, make: Make) -> None:
    """What a listener or a watcher waits for may need the thread that runs it: recipes do not."""
    zk, other = make(server.hosts), make(server.hosts)
    held = other.Lock("/lock")
    held.acquire()
    done = threading.Event()

    def watcher(event: object) -> None:
        threading.Timer(0.2, held.release).start()
        with zk.Lock("/lock"):
            done.set()

    zk.create("/x")
    zk.get("/x", watcher)
    zk.set("/x", b"1")
    assert done.wait(30)


def test_async_lock(any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk, AsyncClient(any_server.hosts + root) as other:
            lock = zk.Lock("/lock", "a")
            async with lock:
                assert lock.fencing_token
                assert await lock.check()
                with pytest.raises(LockTimeout):
                    await other.Lock("/lock", "b").acquire(timeout=0.2)
                waiting = asyncio.create_task(other.Lock("/lock", "c").acquire())
                while await lock.contenders() != ["a", "c"]:
                    await asyncio.sleep(0.01)
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting
                while await lock.contenders() != ["a"]:
                    await asyncio.sleep(0.01)
                cancelled = other.Lock("/lock", "d")
                waiting = asyncio.create_task(cancelled.acquire())
                while await lock.contenders() != ["a", "d"]:
                    await asyncio.sleep(0.01)
                cancelled.cancel()
                with pytest.raises(AcquireCancelled):
                    await waiting
            assert await zk.get_children("/lock") == []
            inside = 0

            async def enter() -> None:
                nonlocal inside
                async with zk.Lock("/lock"):
                    inside += 1
                    assert inside == 1
                    await asyncio.sleep(0)
                    inside -= 1

            await asyncio.gather(*[enter() for _ in range(20)])
            async with zk.ReadLock("/rw"), other.ReadLock("/rw"):
                assert not await zk.WriteLock("/rw").acquire(blocking=False)

    run(main())


def test_async_lock_lost(server: Server) -> None:
    async def main() -> None:
        async with AsyncClient(server.hosts, timeout=5) as zk:
            told = asyncio.Event()
            lock = zk.Lock("/lock", on_lost=told.set)
            await lock.acquire()
            await asyncio.to_thread(expire_session, zk)
            async with asyncio.timeout(30):
                await told.wait()
            assert lock.lost
            assert not await lock.release()

    run(main())


# ---- semaphores, elections


def test_semaphore(zk: Client, other: Client, kazoo: KazooClient) -> None:
    first, second = zk.Semaphore("/s", "1", 2), other.Semaphore("/s", "2", 2)
    assert first.acquire()
    assert first.acquire()  # it has one already
    assert second.acquire()
    assert first.fencing_token is not None
    third = other.Semaphore("/s", "3", 2)
    assert not third.acquire(blocking=False)
    with pytest.raises(LockTimeout):
        third.acquire(timeout=0.2)
    assert not kazoo.Semaphore("/s", "k", 2).acquire(blocking=False)
    assert sorted(third.lease_holders()) == ["1", "2"]
    thread = spawn(third.acquire)
    first.release()
    thread.join(30)
    assert third.is_acquired
    second.release()
    with kazoo.Semaphore("/s", "k", 2):
        assert sorted(zk.Semaphore("/s", max_leases=2).lease_holders()) == ["3", "k"]
    third.release()
    with pytest.raises(ValueError, match="leases"):
        zk.Semaphore("/s", max_leases=3).acquire()
    assert zk.get("/s").data == b"2"


def test_semaphore_lost(server: Server, make: Make) -> None:
    zk = make(server.hosts, timeout=5)
    told = threading.Event()
    semaphore = zk.Semaphore("/s", on_lost=told.set)
    semaphore.acquire()
    expire_session(zk)
    assert told.wait(30)
    assert semaphore.lost
    assert not semaphore.release()
    with semaphore:
        assert not semaphore.lost


def test_election(zk: Client, other: Client) -> None:
    led: list[str] = []
    end = threading.Event()

    def lead(name: str) -> None:
        led.append(name)
        assert end.wait(30)

    first, second, third = zk.Election("/e", "a"), other.Election("/e", "b"), other.Election("/e", "c")
    threads = []
    for election, name in ((first, "a"), (second, "b"), (third, "c")):
        threads.append(spawn(lambda election=election, name=name: election.run(lead, name)))  # type: ignore[misc]
        poll(lambda name=name: name in first.contenders(), "it is a candidate", 30)  # type: ignore[misc]
    poll(lambda: led == ["a"], "the first leads", 30)
    assert first.fencing_token
    second.cancel()
    end.set()
    for thread in threads:
        thread.join(30)
    assert led == ["a", "c"]
    with pytest.raises(ValueError, match="function"):
        first.run("not a function")  # type: ignore[arg-type]


def test_async_semaphore_and_election(any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            async with zk.Semaphore("/s", "1", 2) as semaphore:
                assert await semaphore.lease_holders() == ["1"]
                async with zk.Semaphore("/s", "2", 2):
                    with pytest.raises(LockTimeout):
                        await zk.Semaphore("/s", "3", 2).acquire(timeout=0.2)
            election = zk.Election("/e", "me")
            led: list[int] = []

            async def lead(number: int) -> None:
                led.append(number)
                assert await election.contenders() == ["me"]

            await election.run(lead, 7)
            assert led == [7]

    run(main())


# ---- counters, barriers, queues, parties


def test_counter(zk: Client, other: Client, kazoo: KazooClient) -> None:
    counter = zk.Counter("/c")
    counter += 5
    counter -= 2
    assert (counter.value, counter.pre_value, counter.post_value) == (3, 5, 3)
    theirs = kazoo.Counter("/c")
    theirs += 4
    assert counter.value == 7
    with pytest.raises(TypeError):
        counter.add(1.5)
    half = zk.Counter("/f", default=0.5)
    assert half.add(0.25) == 0.75
    curator = zk.Counter("/curator", support_curator=True)
    curator += 258
    assert zk.get("/curator").data == b"\0\0\1\2"

    def count(client: Client) -> None:
        for _ in range(20):
            client.Counter("/many").add(1)

    threads = [spawn(lambda client=client: count(client)) for client in (zk, zk, other, other)]  # type: ignore[misc]
    for thread in threads:
        thread.join(60)
    assert zk.Counter("/many").value == 80


def test_barriers(zk: Client, other: Client) -> None:
    barrier = zk.Barrier("/b")
    assert barrier.wait()
    barrier.create()
    assert not barrier.wait(0)
    assert not barrier.wait(0.1)
    passed: list[bool] = []
    thread = spawn(lambda: passed.append(other.Barrier("/b").wait(30)))
    assert barrier.remove()
    thread.join(30)
    assert passed == [True]
    assert not barrier.remove()

    steps: list[str] = []
    go = threading.Event()

    def work(client: Client) -> None:
        with client.DoubleBarrier("/d", 2):
            steps.append("in")
            assert go.wait(30)
        steps.append("out")

    first = spawn(lambda: work(zk))
    poll(lambda: len((zk.exists("/d") and zk.get_children("/d")) or ()) == 1, "one is there", 30)
    assert steps == []
    second = spawn(lambda: work(other))
    poll(lambda: steps == ["in", "in"], "both are in", 30)
    go.set()
    first.join(30)
    second.join(30)
    assert steps == ["in", "in", "out", "out"]
    assert zk.get_children("/d") == []
    with pytest.raises(OperationTimeoutError):
        zk.DoubleBarrier("/d", 2).enter(timeout=0.2)


def test_queue(zk: Client, other: Client, kazoo: KazooClient) -> None:
    queue = zk.Queue("/q")
    assert queue.get() is None
    queue.put(b"b")
    kazoo.Queue("/q").put(b"c")
    queue.put(b"a", priority=5)
    assert len(queue) == 3
    assert zk.get_children("/q") != []
    assert queue.get() == b"a"
    assert kazoo.Queue("/q").get() == b"b"
    assert queue.get() == b"c"
    for wrong in ("text", 5):
        with pytest.raises(TypeError):
            queue.put(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="priority"):
        queue.put(b"", 1000)
    for n in range(100):
        queue.put(b"%d" % n)
    taken: list[bytes] = []

    def take(client: Client) -> None:
        mine = client.Queue("/q")
        while (entry := mine.get()) is not None:
            taken.append(entry)

    threads = [spawn(lambda client=client: take(client)) for client in (zk, zk, other)]  # type: ignore[misc]
    for thread in threads:
        thread.join(60)
    assert sorted(map(int, taken)) == list(range(100))


def test_locking_queue(zk: Client, other: Client, kazoo: KazooClient) -> None:
    queue, second = zk.LockingQueue("/q"), other.LockingQueue("/q")
    assert queue.get(0) is None
    assert queue.get(0.1) is None
    queue.put(b"b")
    queue.put_all([b"c", b"d"])
    assert queue.get() == b"b" == queue.get()
    assert queue.holds_lock()
    assert second.get(30) == b"c"
    theirs = kazoo.LockingQueue("/q")
    assert theirs.get(30) == b"d"
    assert zk.LockingQueue("/q").get(0.1) is None
    assert theirs.consume()
    assert queue.release()
    assert not queue.holds_lock()
    assert second.consume()
    assert not second.consume()
    assert len(second) == 1
    waiting: list[bytes | None] = []
    assert second.get(30) == b"b"
    thread = spawn(lambda: waiting.append(queue.get(30)))
    second.put(b"e")
    thread.join(30)
    assert waiting == [b"e"]


def test_an_entry_of_a_lost_consumer_comes_back(server: Server, make: Make) -> None:
    zk, other = make(server.hosts, timeout=5), make(server.hosts)
    queue = zk.LockingQueue("/q")
    queue.put(b"x")
    assert queue.get() == b"x"
    expire_session(zk)
    second = other.LockingQueue("/q")
    assert second.get(30) == b"x"
    poll(lambda: zk.retry(zk.exists, "/q") is not None, "connected again", 30)
    assert not queue.holds_lock()
    assert not queue.consume()
    assert second.consume()


def test_parties(zk: Client, other: Client, kazoo: KazooClient) -> None:
    party, second = zk.Party("/p", "a"), other.Party("/p", "b")
    party.join()
    second.join()
    theirs = kazoo.Party("/p", "k")
    theirs.join()
    assert sorted(party) == ["a", "b", "k"] == sorted(theirs)
    assert len(party) == 3
    assert second.leave()
    assert not second.leave()
    assert sorted(party) == ["a", "k"]
    shallow = zk.ShallowParty("/sp", "x-y")
    shallow.join()
    assert list(kazoo.ShallowParty("/sp")) == ["x-y"] == list(shallow)


def test_members_and_services_come_again_with_the_next_session(server: Server, make: Make) -> None:
    zk, other = make(server.hosts, timeout=5), make(server.hosts)
    zk.Party("/p", "a").join()
    registration = zk.ServiceRegistry("/services").register("web", "10.0.0.1", 80, {"zone": 1})
    before = registration.fencing_token
    registry = other.ServiceRegistry("/services")
    assert before is not None
    expire_session(zk)
    poll(lambda: list(other.Party("/p")) == ["a"] and zk.connected, "the member is back", 30)
    poll(lambda: (registration.fencing_token or 0) > before, "the service is back", 30)
    assert registry.instances("web") == [registration.instance]
    assert registration.unregister()
    assert registry.instances("web") == []


def test_service_registry(zk: Client, other: Client) -> None:
    registry, others = zk.ServiceRegistry("/services"), other.ServiceRegistry("/services")
    assert registry.services() == registry.instances("web") == []
    changes = others.changes("web")
    assert next(changes) == []
    with registry.register("web", "10.0.0.1", 80, {"zone": 1}, "one") as registration:
        assert registration.fencing_token
        (instance,) = next(changes)
        assert (instance.id, instance.address, instance.port, instance.payload) == ("one", "10.0.0.1", 80, {"zone": 1})
        assert others.services() == ["web"]
    assert next(changes) == []
    with pytest.raises(ValueError, match="names of znodes"):
        registry.register("a/b", "h")


def test_async_data_structures(any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            counter = zk.Counter("/c")
            assert await counter.add(2) == 2 == await counter.value()
            barrier = zk.Barrier("/b")
            await barrier.create()
            assert not await barrier.wait(0.05)
            waiting = asyncio.create_task(barrier.wait())
            await asyncio.sleep(0.05)
            assert await barrier.remove()
            assert await waiting
            async with zk.DoubleBarrier("/d", 1) as double:
                assert double.participating
            queue = zk.Queue("/q")
            await asyncio.gather(*[queue.put(b"x") for _ in range(10)])
            assert await queue.size() == 10
            assert await queue.get() == b"x"
            locking = zk.LockingQueue("/lq")
            assert await locking.get(0.05) is None
            await locking.put_all([b"1", b"2"])
            assert await locking.get() == b"1"
            assert await locking.holds_lock()
            assert await locking.consume()
            party = zk.Party("/p", "me")
            await party.join()
            assert [member async for member in party] == ["me"] == await party.members()
            assert await party.count() == 1
            await party.leave()
            registry = zk.ServiceRegistry("/services")
            async with await registry.register("web", "h", 1):
                assert len(await registry.instances("web")) == 1
                assert await registry.services() == ["web"]

    run(main())


# ---- leases, partitions, caches


def test_leases(zk: Client, kazoo: KazooClient) -> None:
    lease = zk.NonBlockingLease("/lease", timedelta(minutes=5), "a")
    assert lease
    assert lease.fencing_token is not None
    assert not zk.NonBlockingLease("/lease", timedelta(minutes=5), "b")
    assert not kazoo.NonBlockingLease("/lease", timedelta(minutes=5), "k")
    again = zk.NonBlockingLease("/lease", timedelta(seconds=-5), "a")
    assert again
    assert again.fencing_token is not None
    assert again.fencing_token > lease.fencing_token
    assert kazoo.NonBlockingLease("/lease", timedelta(minutes=5), "k")
    assert not zk.NonBlockingLease("/lease", timedelta(minutes=5), "a")
    multi = [zk.MultiNonBlockingLease(2, "/multi", timedelta(minutes=5), name) for name in "abc"]
    assert [each.obtained for each in multi] == [True, True, False]
    assert multi[0].fencing_token


def test_async_leases(any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            assert await zk.NonBlockingLease("/lease", timedelta(minutes=5), "a")
            assert not await zk.NonBlockingLease("/lease", timedelta(minutes=5), "b")
            assert await zk.MultiNonBlockingLease(1, "/multi", timedelta(minutes=5), "a")
            assert not await zk.MultiNonBlockingLease(1, "/multi", timedelta(minutes=5), "b")

    run(main())


def test_set_partitioner(zk: Client, other: Client, kazoo: KazooClient) -> None:
    items = list(range(6))
    first = zk.SetPartitioner("/part", set=items, identifier="a", time_boundary=0.3)
    assert first.wait_for_acquire(30)
    assert list(first) == items
    second = other.SetPartitioner("/part", set=items, identifier="b", time_boundary=0.3)
    poll(lambda: first.release, "the first is to give its part back", 30)
    first.release_set()
    assert first.wait_for_acquire(30)
    assert second.wait_for_acquire(30)
    assert sorted([*first, *second]) == items
    assert len(list(first)) == 3
    theirs = kazoo.SetPartitioner("/part", set=items, identifier="k", time_boundary=0.3)
    poll(lambda: first.release and second.release, "a third one came", 30)
    first.release_set()
    second.release_set()
    for each in (first, second, theirs):
        each.wait_for_acquire(30)
    poll(lambda: theirs.acquired, "kazoo has its part", 30)
    assert sorted([*first, *second, *theirs]) == items
    theirs.finish()
    first.finish()
    assert first.state == PartitionState.FAILURE
    assert list(first) == []
    poll(lambda: second.release, "the second is to divide anew", 30)
    second.finish()
    assert zk.get_children("/part/party") == []


def test_a_partitioner_fails_with_its_session(server: Server, make: Make) -> None:
    zk = make(server.hosts, timeout=5)
    partitioner = zk.SetPartitioner("/part", set=[1], time_boundary=0.1)
    assert partitioner.wait_for_acquire(30)
    expire_session(zk)
    poll(lambda: partitioner.failed, "it failed", 30)


def test_async_set_partitioner(any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            partitioner = await zk.SetPartitioner("/part", set="abc", time_boundary=0.1)
            assert await partitioner.wait_for_acquire(30)
            assert list(partitioner) == ["a", "b", "c"]
            await partitioner.finish()
            assert partitioner.failed

    run(main())


def test_tree_cache(zk: Client, other: Client) -> None:
    events: list[TreeEvent] = []
    other.create("/t/a", b"1", makepath=True)
    cache = zk.TreeCache("/t")
    cache.listen(events.append)
    cache.start()
    poll(lambda: bool(events) and events[-1].event_type == TreeEvent.INITIALIZED, "it has read the tree", 30)
    assert cache.get_data("/t/a").data == b"1"
    assert cache.get_children("/t") == {"a"}
    assert cache.get_data("/t/none") is cache.get_children("/t/none") is None
    with pytest.raises(ValueError, match="not below"):
        cache.get_data("/tt")
    events.clear()
    other.create("/t/a/b", b"2")
    other.set("/t/a/b", b"3")
    other.delete("/t/a", recursive=True)
    wanted = [
        (TreeEvent.NODE_REMOVED, "/t/a/b"),
        (TreeEvent.NODE_REMOVED, "/t/a"),
    ]
    told = lambda: [(event.event_type, event.event_data.path) for event in events if event.event_data]  # noqa: E731
    poll(lambda: told()[-2:] == wanted, "it followed", 30)
    assert cache.get_children("/t") == frozenset()
    with pytest.raises(ZooKeeperError):
        cache.start()
    cache.close()
    other.create("/t/c")
    zk.sync("/t")
    assert cache.get_data("/t/c") is None
    faults: list[Exception] = []
    broken = TreeCache(zk, "/t")
    broken.listen(lambda event: 1 / 0)
    broken.listen_fault(faults.append)
    broken.start()
    poll(lambda: any(isinstance(each, ZeroDivisionError) for each in faults), "the error is told", 30)
    broken.close()


def test_a_tree_cache_catches_up(server: Server, proxy: Proxy, make: Make) -> None:
    zk, other = make(proxy.hosts, timeout=5), make(server.hosts)
    other.create("/t/keep", b"1", makepath=True)
    other.create("/t/gone")
    cache = zk.TreeCache("/t")
    cache.start()
    poll(lambda: cache.get_children("/t") == {"keep", "gone"}, "it has read the tree", 30)
    proxy.refusing = True
    proxy.cut()
    other.set("/t/keep", b"2")
    other.delete("/t/gone")
    other.create("/t/new")
    proxy.refusing = False
    poll(lambda: cache.get_children("/t") == {"keep", "new"}, "it caught up", 30)
    poll(lambda: cache.get_data("/t/keep").data == b"2", "the new value", 30)
    expire_session(zk, port=server.port)
    other.create("/t/after")
    poll(lambda: "after" in cache.get_children("/t"), "it follows in the next session", 30)
    cache.close()


def test_async_tree_cache(any_server: Server, root: str) -> None:
    async def main() -> None:
        async with AsyncClient(any_server.hosts + root) as zk:
            events: list[TreeEvent] = []
            cache = zk.TreeCache("/t")

            async def listen(event: TreeEvent) -> None:
                events.append(event)

            cache.listen(listen)
            await cache.start()
            await zk.create("/t/x", b"1")
            await until(lambda: cache.get_data("/t/x") is not None, "it follows")
            await until(lambda: len(events) >= 3, "the listener is told")
            await cache.close()

    run(main())


def test_patient_children_watch(zk: Client) -> None:
    zk.ensure_path("/p")
    settled = zk.PatientChildrenWatch("/p", 0.3).start()
    time.sleep(0.1)
    zk.create("/p/a")
    assert not settled.done()
    children, changed = settled.result(30)
    assert children == ["a"]
    assert not changed.done()
    zk.create("/p/b")
    assert changed.result(30)
