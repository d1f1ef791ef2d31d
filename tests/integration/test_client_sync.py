"""fastzk.Client against a server: operations, threads, callbacks, and what survives when things break."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.proxy import Proxy
from support.servers import Server
from support.wire import poll

from fastzk import AsyncClient, Client, EventType, KeeperState, RetryPolicy, State, WatchedEvent
from fastzk.acl import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE, make_digest_acl
from fastzk.errors import (
    AuthFailedError,
    BadVersionError,
    ConnectionClosedError,
    ConnectionLossError,
    ForkedError,
    InvalidACLError,
    MaybeApplied,
    NoAuthError,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    NotSent,
    NoWatcherError,
    OperationTimeoutError,
    RolledBackError,
    RuntimeInconsistencyError,
    SessionExpiredError,
    ZooKeeperError,
)
from fastzk.protocol import WatcherType
from fastzk.testing import expire_session

from .conftest import ServerFactory

Make = Callable[..., Client]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes clients, started unless told otherwise, and stops them."""
    made: list[Client] = []

    def build(hosts: str, *, start: bool = True, **options: object) -> Client:
        client = Client(hosts, **options)  # type: ignore[arg-type]
        made.append(client)
        if start:
            client.start(20)
        return client

    yield build
    for client in made:
        client.stop()


@pytest.fixture
def zk(any_server: Server, root: str, make: Make) -> Client:
    """A client below a znode of its own, on fastzk and on Apache ZooKeeper."""
    return make(any_server.hosts + root)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def states_of(client: Client) -> list[State]:
    states: list[State] = []
    client.add_listener(states.append)
    return states


# ---- operations


def test_the_life_of_a_znode(zk: Client) -> None:
    assert zk.create("/a", b"1") == "/a"
    with pytest.raises(NodeExistsError) as caught:
        zk.create("/a")
    assert caught.value.path == "/a"
    data, stat = zk.get("/a")
    assert (data, stat.version, stat.data_length) == (b"1", 0, 1)
    assert zk.set("/a", b"22").version == 1
    with pytest.raises(BadVersionError):
        zk.set("/a", b"", version=0)
    assert zk.exists("/a") == zk.get("/a").stat
    assert zk.exists("/b") is None
    with pytest.raises(NoNodeError):
        zk.get("/b")
    with pytest.raises(BadVersionError):
        zk.delete("/a", version=5)
    assert zk.delete("/a", version=1) is True
    assert zk.exists("/a") is None


def test_kinds_of_znodes(zk: Client) -> None:
    path, stat = zk.create("/e", ephemeral=True, include_data=True)
    assert path == "/e"
    assert zk.client_id is not None
    assert stat.owner_session_id == zk.client_id[0] == zk.get("/e").stat.ephemeralOwner
    with pytest.raises(NoChildrenForEphemeralsError):
        zk.create("/e/x")
    assert zk.create("/s-", sequence=True) == "/s-0000000001"
    assert zk.create("/dir/", sequence=True, makepath=True) == "/dir/0000000000"
    assert zk.create("/c", container=True) == "/c"
    assert zk.create("/x/y/z", b"deep", makepath=True) == "/x/y/z"
    assert zk.get_ephemerals() == ["/e"]
    with pytest.raises(ValueError, match="container"):
        zk.create("/c2", container=True, ephemeral=True)
    with pytest.raises(ValueError, match="ephemeral"):
        zk.create("/c2", ttl=1.0, ephemeral=True)


def test_ttl(new_server: ServerFactory, make: Make) -> None:
    zk = make(new_server({"extendedTypesEnabled": "true"}).start().hosts)
    assert zk.create("/t", b"x", ttl=100.0) == "/t"
    assert zk.get("/t").stat.ephemeralOwner == 0


def test_children(zk: Client) -> None:
    for name in "abc":
        zk.create(f"/{name}")
    assert sorted(zk.get_children("/")) == ["a", "b", "c"]
    children, stat = zk.get_children("/", include_data=True)
    assert (len(children), stat.children_count) == (3, 3)
    zk.ensure_path("/a/b/c/d")
    zk.ensure_path("/a/b/c/d")
    assert zk.get_all_children_number("/a") == 3
    with pytest.raises(NotEmptyError):
        zk.delete("/a")
    assert zk.delete("/a", recursive=True) is True
    assert zk.delete("/a", recursive=True) is True
    assert sorted(zk.get_children("/")) == ["b", "c"]


def test_a_large_subtree_is_deleted(zk: Client) -> None:
    zk.create("/big")
    calls = [zk.create_async(f"/big/{n}") for n in range(1500)]
    calls += [zk.create_async(f"/big/7/{n}") for n in range(50)]
    for call in calls:
        call.get()
    zk.delete("/big", recursive=True)
    assert zk.exists("/big") is None


def test_acls(zk: Client, any_server: Server, root: str, make: Make) -> None:
    acl = make_digest_acl("bob", "secret", all=True)
    zk.create("/private", b"x", acl=[acl])
    with pytest.raises(NoAuthError):
        zk.get("/private")
    assert zk.add_auth("digest", "bob:secret") is True
    assert zk.get("/private").data == b"x"
    acls, stat = zk.get_acls("/private")
    assert (acls, stat.aversion) == ([acl], 0)
    assert zk.set_acls("/private", READ_ACL_UNSAFE).aversion == 1
    with pytest.raises(NoAuthError):
        zk.set("/private", b"")
    with pytest.raises(InvalidACLError):
        zk.create("/none", acl=[])
    zk.create("/mine", acl=CREATOR_ALL_ACL)
    other = make(any_server.hosts + root, auth_data=[("digest", "bob:secret")], default_acl=CREATOR_ALL_ACL)
    assert other.get("/mine").data == b""
    other.create("/theirs")
    assert other.get_acls("/theirs").acl[0].id.scheme == "digest"
    assert OPEN_ACL_UNSAFE[0].acl_list == ["ALL"]
    assert {identity.scheme for identity in zk.who_am_i()} == {"ip", "digest"}


def test_transactions(zk: Client) -> None:
    with zk.transaction() as t:
        t.create("/t", b"1")
        t.create("/t/s", sequence=True)
        t.set_data("/t", b"2")
        t.check("/t", 1)
        t.delete("/t/s0000000000")
    assert t.results is not None
    assert t.results[:2] == ["/t", "/t/s0000000000"]
    assert (t.results[2].version, t.results[3:]) == (1, [True, True])
    failing = zk.transaction()
    failing.create("/u")
    failing.check("/t", 99)
    failing.delete("/t")
    results = failing.commit()
    assert [type(each) for each in results] == [RolledBackError, BadVersionError, RuntimeInconsistencyError]
    assert results[1].path == "/t"
    with pytest.raises(ValueError, match="committed"):
        failing.commit()
    with pytest.raises(BadVersionError), zk.transaction() as t:  # noqa: PT012 -- it is the end that raises
        t.create("/u")
        t.check("/t", 99)
    assert zk.exists("/u") is None
    with pytest.raises(KeyError), zk.transaction() as t:  # noqa: PT012
        t.create("/u")
        raise KeyError
    assert zk.exists("/u") is None
    assert zk.check("/t", 1) is True
    with pytest.raises(BadVersionError):
        zk.check("/t", 7)


def test_several_reads_at_once(zk: Client) -> None:
    zk.create("/m", b"data")
    data, children, missing = zk.multi_read([("get", "/m"), ("children", "/"), ("get", "/n")])
    assert data == zk.get("/m")
    assert children == ["m"]
    assert isinstance(missing, NoNodeError)
    with pytest.raises(ValueError, match="multi_read"):
        zk.multi_read([("exists", "/m")])  # type: ignore[list-item]


def test_odds_and_ends(zk: Client, any_server: Server) -> None:
    assert zk.sync("/") == "/"
    assert zk.command(b"ruok") == "imok"
    assert zk.server_version()[0] >= 3
    assert zk.hosts == [("127.0.0.1", any_server.port)]
    assert zk.unchroot(zk.chroot + "/x") == "/x"
    with pytest.raises(ValueError, match="chroot"):
        zk.set_hosts(any_server.hosts + "/other")
    with pytest.raises(ZooKeeperError):
        zk.reconfig("server.9=127.0.0.1:1:2;3", None, None)


def test_wrong_arguments_are_refused_before_anything_is_sent(zk: Client) -> None:
    with pytest.raises(TypeError):
        zk.create("/a", "text")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        zk.get(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        zk.create("/a", acl=OPEN_ACL_UNSAFE[0])
    with pytest.raises(TypeError):
        zk.add_listener(5)  # type: ignore[arg-type]
    assert zk.get_children("/") == []


# ---- futures and threads


def test_futures(zk: Client) -> None:
    zk.create("/a", b"x")
    calls = [zk.get_async("/a") for _ in range(2000)]
    assert all(call.get().data == b"x" for call in calls)
    call = zk.get_async("/missing")
    assert isinstance(call.exception(), NoNodeError)
    assert call.ready()
    assert not call.successful()
    done = threading.Event()
    heard: list[object] = []

    def linked(call: object) -> None:
        heard.append(zk.get("/a").data)  # a callback may call
        done.set()

    zk.get_async("/a").rawlink(linked)
    assert done.wait(10)
    assert heard == [b"x"]
    made = zk.create_async("/p/q/r", b"", makepath=True)
    assert made.result(10) == "/p/q/r"
    assert zk.ensure_path_async("/k/l").get(timeout=10) is True
    assert zk.delete_async("/p", recursive=True).result(10) is True


def test_futures_with_a_deadline(proxy: Proxy, make: Make) -> None:
    client = make(proxy.hosts, timeout=30.0)
    proxy.hold_replies = True
    began = time.monotonic()
    calls = [
        client.get_async("/", timeout=0.2),
        client.ensure_path_async("/a/b", timeout=0.1),
        client.get_async("/", timeout=0.3),
    ]
    for call in calls:
        with pytest.raises(OperationTimeoutError):
            call.get(timeout=20)
    with pytest.raises(OperationTimeoutError):
        client.get("/", timeout=0.1)
    assert time.monotonic() - began < 5
    proxy.hold_replies = False
    assert client.get("/", timeout=20).stat is not None
    # Deadlines of requests that were answered are forgotten.
    for _ in range(3):
        for answered in [client.exists_async("/", timeout=1000.0) for _ in range(2000)]:
            answered.get()
    assert len(client._session._deadlines) < 4500


def test_many_threads(zk: Client) -> None:
    """Every thread gets its own answers, whoever reads them."""
    for n in range(20):
        zk.create(f"/{n}", str(n).encode())
    wrong: list[object] = []

    def work(n: int) -> None:
        try:
            for i in range(100):
                if i % 10 == 0:
                    zk.set(f"/{n}", str(n).encode())
                data = zk.get(f"/{n}", timeout=30).data
                if data != str(n).encode():
                    wrong.append((n, data))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n % 20,)) for n in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []


# ---- watches


def test_one_shot_watches(zk: Client) -> None:
    heard: list[WatchedEvent] = []
    assert zk.exists("/w", heard.append) is None
    zk.create("/w")
    poll(lambda: len(heard) == 1, "created")
    zk.get("/w", heard.append)
    zk.get_children("/w", heard.append)
    zk.set("/w", b"x")
    poll(lambda: len(heard) == 2, "changed")
    zk.create("/w/child")
    poll(lambda: len(heard) == 3, "child")
    assert [(e.type, e.path) for e in heard] == [
        (EventType.CREATED, "/w"),
        (EventType.CHANGED, "/w"),
        (EventType.CHILD, "/w"),
    ]
    assert heard[0].type == "CREATED"
    zk.set("/w", b"y")
    zk.sync("/")
    assert len(heard) == 3


def test_the_same_function_watching_twice_is_called_once(zk: Client) -> None:
    heard: list[WatchedEvent] = []
    watch = heard.append
    zk.create("/w")
    zk.get("/w", watch)
    zk.exists("/w", watch)
    zk.get_children("/w", watch)
    zk.delete("/w")
    poll(lambda: bool(heard), "deleted")
    zk.sync("/")
    assert [e.type for e in heard] == [EventType.DELETED]


def test_a_watcher_may_use_the_client_and_raise(zk: Client) -> None:
    heard: list[bytes | None] = []

    def watch(event: WatchedEvent) -> None:
        heard.append(zk.get("/w", watch).data)
        raise RuntimeError("this is logged")

    zk.create("/w", b"0")
    zk.get("/w", watch)
    for n in range(1, 4):
        zk.set("/w", str(n).encode())
        poll(lambda n=n: len(heard) == n, "the watch is set again")  # type: ignore[misc]
    assert heard == [b"1", b"2", b"3"]


def test_persistent_watches(zk: Client) -> None:
    with zk.watch("/jobs", recursive=True) as events:
        zk.create("/jobs/1/a", makepath=True)
        zk.set("/jobs/1/a", b"x")
        zk.delete("/jobs", recursive=True)
        got = [events.next(10) for _ in range(7)]
        assert [(e.type, e.path) for e in got] == [
            (EventType.CREATED, "/jobs"),
            (EventType.CREATED, "/jobs/1"),
            (EventType.CREATED, "/jobs/1/a"),
            (EventType.CHANGED, "/jobs/1/a"),
            (EventType.DELETED, "/jobs/1/a"),
            (EventType.DELETED, "/jobs/1"),
            (EventType.DELETED, "/jobs"),
        ]
        with pytest.raises(OperationTimeoutError):
            events.next(0.05)
        with pytest.raises(ValueError, match="mode"):
            zk.watch("/jobs")
    assert list(events) == []
    with zk.watch("/jobs") as events:
        zk.create("/jobs")
        zk.create("/jobs/1")
        assert [events.next(10).type for _ in range(2)] == [EventType.CREATED, EventType.CHILD]


def watches_in(server: Server) -> int:
    for line in server.four_letter_word("mntr").splitlines():
        if line.startswith("zk_watch_count"):
            return int(line.split()[1])
    raise AssertionError("no zk_watch_count")


def test_watches_go_from_the_server_with_their_owner(server: Server, make: Make) -> None:
    zk = make(server.hosts)
    before = watches_in(server)
    with zk.watch("/a") as first, zk.watch("/a") as second:
        assert watches_in(server) > before
        first.close()
        zk.create("/a")
        assert second.next(10).type == EventType.CREATED
    assert watches_in(server) == before
    dropped = zk.watch("/b", recursive=True)
    assert watches_in(server) > before
    del dropped
    gc.collect()
    poll(lambda: watches_in(server) == before, "a watch nobody holds is removed")
    heard: list[WatchedEvent] = []
    zk.get("/a", heard.append)
    assert zk.check_watches("/a", WatcherType.DATA)
    zk.remove_watches("/a", WatcherType.DATA)
    assert not zk.check_watches("/a", WatcherType.DATA)
    with pytest.raises(NoWatcherError):
        zk.remove_watches("/a")
    zk.set("/a", b"")
    zk.sync()
    assert heard == []


def test_data_and_children_watches(zk: Client) -> None:
    data: list[tuple[bytes | None, int | None]] = []
    children: list[list[str]] = []
    events: list[WatchedEvent | None] = []

    @zk.DataWatch("/d")
    def on_data(value, stat):  # type: ignore[no-untyped-def]
        data.append((value, stat and stat.version))
        return value != b"stop"

    zk.create("/d", b"0")
    poll(lambda: data[-1] == (b"0", 0), "created")

    def on_children(names: list[str], event: WatchedEvent | None) -> None:
        children.append(names)
        events.append(event)

    zk.ChildrenWatch("/d", on_children, send_event=True)
    zk.create("/d/x")
    poll(lambda: children == [[], ["x"]], "child")
    assert events[0] is None
    assert events[1] is not None
    zk.delete("/d", recursive=True)
    poll(lambda: data[-1] == (None, None), "deleted")
    zk.create("/d", b"stop")
    poll(lambda: data[-1] == (b"stop", 0), "created again")
    zk.set("/d", b"more")
    zk.sync()
    assert data[0] == (None, None)
    assert data[-1] == (b"stop", 0)


# ---- the session


def test_states_and_listeners(proxy: Proxy, make: Make) -> None:
    client = make(proxy.hosts, start=False)
    states = states_of(client)
    assert (client.state, client.connected, client.client_id) == (State.LOST, False, None)
    with pytest.raises(ConnectionClosedError):
        client.get("/")
    client.start(10)
    first = client.client_id
    # A listener may make requests of any kind, even while there is no connection.
    seen: list[object] = []
    client.add_listener(lambda state: seen.append((state, client.exists("/", timeout=10) is not None)))
    once: list[State] = []
    client.add_listener(lambda state: once.append(state) or True)
    proxy.cut()
    poll(lambda: len(seen) == 2, "suspended and connected")
    assert client.client_id == first
    client.stop()
    poll(lambda: len(states) == 4, "lost")
    assert states == [State.CONNECTED, State.SUSPENDED, State.CONNECTED, State.LOST]
    assert seen[:2] == [(State.SUSPENDED, True), (State.CONNECTED, True)]
    assert once == [State.SUSPENDED]
    assert client.client_state == KeeperState.CLOSED
    client.start(10)
    assert client.get_children("/") == ["zookeeper"]


def test_requests_made_without_a_connection_wait_for_it(proxy: Proxy, make: Make) -> None:
    client = make(proxy.hosts)
    client.create("/a", b"x")
    proxy.refusing = True
    proxy.cut()
    poll(lambda: client.state == State.SUSPENDED, "suspended")
    calls = [client.get_async("/a") for _ in range(10)]
    with pytest.raises(OperationTimeoutError):
        client.set("/a", b"never", timeout=0.1)
    with pytest.raises(OperationTimeoutError):
        client.create_async("/b/c", makepath=True, timeout=0.1).result(10)
    proxy.refusing = False
    assert all(call.get(timeout=10).data == b"x" for call in calls)
    # What was given up before it left was not carried out.
    assert client.get("/a").stat.version == 0
    assert client.exists("/b") is None


def test_a_request_that_was_sent_is_in_doubt(proxy: Proxy, make: Make) -> None:
    client = make(proxy.hosts)
    client.create("/a", b"x")
    proxy.hold_replies = True
    write, read = client.set_async("/a", b"y"), client.get_async("/a")
    poll(lambda: proxy_passed(server_of(proxy), "/a") == b"y", "the write arrived")
    proxy.cut()
    proxy.hold_replies = False
    error = write.exception(10)
    assert isinstance(error, MaybeApplied)
    assert error.path == "/a"
    assert isinstance(read.exception(10), ConnectionLossError) or read.successful()
    assert client.retry(client.get, "/a").data == b"y"


def server_of(proxy: Proxy) -> int:
    return proxy.target


def proxy_passed(port: int, path: str) -> bytes | None:
    from support import wire

    with wire.Session(port) as session:
        return session.get(path)[0]


def test_requests_fail_when_the_connection_does_not_come_back(server: Server, make: Make) -> None:
    client = make(server.hosts, timeout=4.0)
    server.kill9()
    poll(lambda: client.state == State.SUSPENDED, "suspended")
    began = time.monotonic()
    with pytest.raises(NotSent):
        client.get("/")
    assert time.monotonic() - began < client.session_timeout + 2
    server.start()
    poll(lambda: client.connected, "connected")
    assert client.get_children("/") == ["zookeeper"]


def test_a_restarted_server_gets_session_watches_and_credentials_back(server: Server, make: Make) -> None:
    client = make(server.hosts)
    session = client.client_id
    heard: list[WatchedEvent] = []
    client.add_auth("digest", "bob:secret")
    client.create("/private", b"", acl=[make_digest_acl("bob", "secret", all=True)])
    client.create("/e", ephemeral=True)
    client.create("/data")
    client.create("/children")
    client.get("/data", heard.append)
    client.exists("/missing", heard.append)
    client.get_children("/children", heard.append)
    with client.watch("/tree", recursive=True) as events:
        server.kill9()
        poll(lambda: not client.connected, "suspended")
        server.start()
        poll(lambda: client.connected, "connected", 20)
        assert client.client_id == session
        client.get("/private")
        with server.session() as other:
            other.set("/data", b"x")
            other.create("/missing")
            other.create("/children/x")
            other.create("/tree")
            other.create("/tree/x")
        poll(lambda: len(heard) == 3, "the watches work on")
        assert [events.next(10).path for _ in range(2)] == ["/tree", "/tree/x"]
    assert {(e.type, e.path) for e in heard} == {
        (EventType.CHANGED, "/data"),
        (EventType.CREATED, "/missing"),
        (EventType.CHILD, "/children"),
    }
    assert client.get_ephemerals() == ["/e"]


def test_changes_made_while_disconnected_are_told(server: Server, proxy: Proxy, make: Make) -> None:
    client = make(proxy.hosts)
    heard: list[WatchedEvent] = []
    for n in range(50):
        client.create(f"/{n}")
        client.get(f"/{n}", heard.append)
    proxy.refusing = True
    proxy.cut()
    poll(lambda: not client.connected, "suspended")
    with server.session() as other:
        for n in range(0, 50, 2):
            other.set(f"/{n}", b"x")
    proxy.refusing = False
    poll(lambda: len(heard) == 25, "all changes are told")
    client.set("/1", b"x")
    poll(lambda: len(heard) == 26, "and later ones")


def test_watches_that_need_several_frames(server: Server, proxy: Proxy, make: Make) -> None:
    client = make(proxy.hosts)
    names = [f"/{n:04d}{'n' * 200}" for n in range(2000)]  # some 400 kB of paths
    heard: list[WatchedEvent] = []
    for call in [client.exists_async(name, heard.append) for name in names]:
        assert call.get() is None
    proxy.cut()
    poll(lambda: proxy.accepted == 2 and client.connected, "connected again")
    for call in [client.create_async(name) for name in names[::100]]:
        call.get()
    poll(lambda: len(heard) == 20, "watches from all frames work")


def expire(server: Server, client: Client) -> None:
    """End a client's session behind its back."""
    # Where the client is quick it takes its session back before it ends; so this may take several tries.
    expire_session(client, "127.0.0.1", server.port)


def test_an_expired_session(server: Server, make: Make) -> None:
    client = make(server.hosts)
    states = states_of(client)
    heard: list[WatchedEvent] = []
    client.create("/e", ephemeral=True)
    client.get("/e", heard.append)
    data: list[bytes | None] = []
    client.DataWatch("/d", lambda value, stat: data.append(value))
    events = client.watch("/x")
    first = client.client_id
    expire(server, client)
    # The client may have had its session back for a moment before it ended.
    poll(lambda: states[-2:] == [State.LOST, State.CONNECTED], "a new session", 20)
    assert client.client_id != first
    assert client.exists("/e") is None
    with pytest.raises(SessionExpiredError):
        events.next(10)
    assert [e.type for e in heard][-1:] in ([EventType.NONE], [EventType.DELETED])
    client.create("/d", b"new")
    poll(lambda: data[-1] == b"new", "a DataWatch goes on in the new session")


def test_a_session_moves_to_another_client(server: Server, make: Make) -> None:
    first = make(server.hosts)
    first.create("/e", ephemeral=True)
    session = first.client_id
    first.set_hosts("127.0.0.1:1")  # else it would fight to get the session back
    second = make(server.hosts, client_id=session)
    assert second.client_id == session
    assert second.exists("/e") is not None
    poll(lambda: first.state == State.SUSPENDED, "the first lost it")


def test_a_silent_server_is_given_up(proxy: Proxy, make: Make) -> None:
    client = make(proxy.hosts, timeout=4.0)
    states = states_of(client)
    proxy.hold_replies = True
    began = time.monotonic()
    with pytest.raises(ConnectionLossError):
        client.set("/", b"")
    assert time.monotonic() - began < client.session_timeout
    proxy.hold_replies = False
    poll(lambda: client.connected, "connected again")
    assert client.get_children("/") == ["zookeeper"]
    poll(lambda: states[:2] == [State.SUSPENDED, State.CONNECTED], "states")


def test_an_idle_session_is_kept_alive(server: Server, make: Make) -> None:
    client = make(server.hosts, timeout=8.0)
    states = states_of(client)
    session = client.client_id
    deadline = time.monotonic() + 1.5 * client.session_timeout
    poll(lambda: time.monotonic() > deadline or bool(states), "time passes", 30)
    assert (states, client.client_id) == ([], session)


def test_garbage_from_the_server_ends_the_connection(make: Make, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = threading.Event()

        def garble() -> None:
            for _ in range(3):
                sock, _ = listener.accept()
                sock.recv(100)
                sock.sendall(b"\0\0\0\x05hello")
                sock.close()
            ended.set()

        threading.Thread(target=garble, daemon=True).start()
        client = make(f"127.0.0.1:{port}", start=False)
        client.start_async()
        assert ended.wait(20)
        client.set_hosts(server.hosts)
        poll(lambda: client.connected, "connected")
        assert client.exists("/") is not None


def test_the_next_server_is_tried(server: Server, make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, and says nothing
        hosts = f"127.0.0.1:1,127.0.0.1:{mute.getsockname()[1]},{server.hosts}"
        client = make(hosts, timeout=4.0, randomize_hosts=False)
        assert client.exists("/") is not None


def test_no_server(make: Make) -> None:
    client = make("127.0.0.1:1", start=False)
    began = time.monotonic()
    with pytest.raises(OperationTimeoutError):
        client.start(0.5)
    assert time.monotonic() - began < 5
    with pytest.raises(ConnectionClosedError):
        client.get("/")


def test_wrong_credentials(server: Server, make: Make) -> None:
    client = make(server.hosts)
    with pytest.raises(AuthFailedError):
        client.add_auth("nosuchscheme", "x")
    poll(lambda: client.state == State.LOST, "lost")
    with pytest.raises(AuthFailedError):
        client.get("/")
    client.stop()
    client.start(10)
    assert client.exists("/") is not None


def test_stop_with_requests_under_way(proxy: Proxy, make: Make) -> None:
    client = make(proxy.hosts, timeout=4.0)
    proxy.hold_replies = True
    calls = [client.get_async("/") for _ in range(10)]
    client.stop()
    assert all(isinstance(call.exception(0), ConnectionLossError | ConnectionClosedError) for call in calls)


def test_no_thread_and_no_descriptor_is_left(server: Server) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with Client(server.hosts) as client:
        client.get("/")
    threads, files = set(threading.enumerate()), descriptors()
    for _ in range(5):
        with Client(server.hosts) as client:
            client.get("/", lambda event: None)
            client.create("/x", ephemeral=True)
            client.get("/x", lambda event: None)
            with client.watch("/y") as events:
                client.create("/y")
                events.next(5)
            client.delete("/y")
    poll(lambda: set(threading.enumerate()) <= threads, "threads end")
    assert descriptors() <= files


def test_a_fork_is_noticed(server: Server, make: Make) -> None:
    client = make(server.hosts)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            client.get("/")
        except ForkedError:
            os.write(write, b"refused")
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"refused"
    os.close(read)
    os.close(write)
    assert client.exists("/") is not None


# ---- retry, and create exactly once


def test_retry(proxy: Proxy, make: Make) -> None:
    client = make(proxy.hosts, command_retry=RetryPolicy(max_tries=50, delay=0.02))
    tries: list[int] = []

    def fails_twice() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionLossError
        return "done"

    assert client.retry(fails_twice) == "done"
    with pytest.raises(NoNodeError):
        client.retry(client.get, "/missing")
    assert client.retry(client.set, "/", b"x").version >= 0


@pytest.mark.parametrize("replies", [False, True], ids=["lost before it arrived", "lost after it was done"])
def test_create_with_an_identifier_happens_once(server: Server, proxy: Proxy, make: Make, replies: bool) -> None:
    client = make(proxy.hosts)
    client.create("/locks")
    proxy.hold_replies = replies
    proxy.hold_requests = not replies
    call = client.compose(client.create_identified("/locks", "abc123", "-lock-", b"me"))
    if replies:
        poll(lambda: children_of(server, "/locks") == 1, "the create arrived")
    else:
        poll(lambda: client._channel.unsent() == 0, "the create left")
    proxy.cut()
    proxy.hold_replies = proxy.hold_requests = False
    path = call.result(20)
    assert path.startswith("/locks/abc123-lock-")
    assert client.get_children("/locks") == [path.removeprefix("/locks/")]


def children_of(server: Server, path: str) -> int:
    with server.session() as session:
        return len(session.children(path))


def test_threads_over_broken_connections(server: Server, proxy: Proxy, make: Make) -> None:
    """Counters that are written with their version: nothing acknowledged is lost, nothing is done twice unseen."""
    client = make(proxy.hosts)
    acknowledged = [0] * 8
    doubtful = [0] * 8
    stop = threading.Event()
    failed: list[BaseException] = []

    def work(n: int) -> None:
        path = f"/counter{n}"
        try:
            client.retry(client.ensure_path, path)
            while not stop.is_set():
                try:
                    client.set(path, b"x", timeout=20)
                    acknowledged[n] += 1
                except NotSent:
                    pass
                except ConnectionLossError:
                    doubtful[n] += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        accepted = proxy.accepted
        time.sleep(0.05)
        proxy.cut()
        poll(lambda a=accepted: proxy.accepted > a, "connected again")  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert failed == []
    assert sum(acknowledged) > 0
    for n in range(8):
        version = client.retry(client.get, f"/counter{n}").stat.version
        assert acknowledged[n] <= version <= acknowledged[n] + doubtful[n]


def test_both_clients_read_what_the_other_wrote(server: Server, make: Make) -> None:
    import asyncio

    client = make(server.hosts)
    client.create("/a", b"sync")

    async def other() -> bytes | None:
        async with AsyncClient(server.hosts) as zk:
            await zk.set("/a", b"async", version=0)
            return (await zk.get("/a")).data

    assert asyncio.run(other()) == b"async"
    client.sync()
    assert client.get("/a").data == b"async"


# ---- what must not wait for ever


@pytest.mark.parametrize("recipe", ["Lock", "Semaphore"])
def test_a_contender_does_not_stand_behind_itself(zk: Client, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session ends while its place in the line is about to be created, which then happens in the next session."""
    create_identified = zk.create_identified
    tries: list[str] = []

    async def late(*arguments: Any, **options: Any) -> str:
        tries.append("")
        if len(tries) == 1:
            zk._session_ended()
        return await create_identified(*arguments, **options)

    monkeypatch.setattr(zk, "create_identified", late)
    lock = getattr(zk, recipe)("/x")
    assert lock.acquire(timeout=10)
    assert lock.is_acquired
    names = zk.get_children("/x") + (zk.get_children("/x-__lock__") if recipe == "Semaphore" else [])
    assert len(names) == 1
    assert lock.release()
    assert zk.get_children("/x") == []


def test_a_place_of_another_session_is_not_taken_for_its_own(zk: Client, any_server: Server, make: Make) -> None:
    """It will go with that session, and whoever counts on it would be inside with another."""
    other = make(any_server.hosts + zk.chroot)
    lock = zk.Lock("/x")
    place_of_another: list[str] = []
    create_identified = zk.create_identified

    async def taken_for_its_own(parent: str, identifier: str, *arguments: Any, **options: Any) -> str:
        if not place_of_another:
            path = await create_identified(parent, identifier, *arguments, **options)
            await zk.delete_async(path)
            # What a server that is behind would still show of a session that has ended.
            zk.create_async(path, b"")
            place_of_another.append(path)
            return path
        return await create_identified(parent, identifier, *arguments, **options)

    zk.create_identified = taken_for_its_own  # type: ignore[method-assign]
    held = threading.Event()
    thread = threading.Thread(target=lambda: lock.acquire(timeout=20) and held.set())
    thread.start()
    poll(lambda: len(other.get_children("/x")) == 2 if other.exists("/x") else False, "it stands behind that", 10)
    assert not lock.is_acquired
    other.delete(place_of_another[0])
    assert held.wait(20)
    thread.join(20)
    assert lock.release()
