"""Quotas as setquota and listquota use them: each expectation is checked on the real ZooKeeper, too."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest
from support import wire
from support.servers import Server, ZooKeeperServer, make_server, require
from support.wire import Session

from .conftest import ServerFactory, SharedServers

QUOTA_EXCEEDED = -125
QUOTA = "/zookeeper/quota"


def put_quota(zk: Session, path: str, limits: str, stats: bytes = b"count=0,bytes=0") -> None:
    """What zkCli's setquota does."""
    parts = path.split("/")[1:]
    for i in range(len(parts)):
        above = f"{QUOTA}/{'/'.join(parts[: i + 1])}"
        if zk.exists(above) is None:
            zk.create(above)
    zk.create(f"{QUOTA}{path}/zookeeper_limits", limits.encode())
    zk.create(f"{QUOTA}{path}/zookeeper_stats", stats)


def stats(zk: Session, path: str) -> str:
    return (zk.get(f"{QUOTA}{path}/zookeeper_stats")[0] or b"").decode()


@pytest.fixture(params=["fastzk", "zookeeper"])
def enforcing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_servers: SharedServers
) -> Iterator[Server]:
    """A server that refuses what exceeds a hard limit."""
    kind: str = request.param
    server = make_server(kind, tmp_path_factory.mktemp(f"quota-{kind}"), {"enforceQuota": "true"})
    server.start()
    yield server
    server.discard()


def test_stats_follow_silently(any_server: Server, root: str) -> None:
    with any_server.session() as zk, any_server.session() as watcher:
        zk.create(f"{root}/a", b"123")
        put_quota(zk, root, "count=1000,bytes=-1", stats=b"anything")
        assert stats(zk, root) == "count=2,bytes=3"
        path = f"{QUOTA}{root}/zookeeper_stats"
        before = zk.stat(path)
        watcher.get(path, watch=True)
        watcher.children(f"{QUOTA}{root}", watch=True)
        zk.create(f"{root}/b", b"12345")
        zk.set(f"{root}/a", b"1")
        zk.multi(wire.create(f"{root}/c", b"12"), wire.delete(f"{root}/b"), wire.set_data(root, b"1"))
        assert stats(zk, root) == "count=3,bytes=4"
        with any_server.session() as other:
            other.create(f"{root}/e", b"1234", wire.EPHEMERAL)
            assert stats(other, root) == "count=4,bytes=8"
        wire.poll(lambda: stats(zk, root) == "count=3,bytes=4", "the ephemeral znode no longer counts")
        after = zk.stat(path)
        assert after._replace(data_length=0) == before._replace(data_length=0)
        watcher.ping()
        assert watcher.pending_events() == []
        # a client's own numbers are taken as they are
        zk.set(path, b"count=10,bytes=20")
        assert watcher.event() == (wire.DATA_CHANGED, 3, path)
        zk.create(f"{root}/d", b"1")
        assert stats(zk, root) == "count=11,bytes=21"
        zk.delete(f"{QUOTA}{root}/zookeeper_limits")
        zk.delete(f"{root}/d")
        assert stats(zk, root) == "count=11,bytes=21"
        zk.delete(path)
        zk.create(path)
        assert stats(zk, root) == "count=3,bytes=4"


def test_nearest_quota_counts(any_server: Server, root: str) -> None:
    with any_server.session() as zk:
        zk.create(f"{root}/a")
        put_quota(zk, root, "count=5,bytes=5")
        put_quota(zk, f"{root}/a", "count=1,bytes=1")
        zk.create(f"{root}/a/b", b"22")
        zk.create(f"{root}/ab", b"1")
        assert stats(zk, root) == "count=3,bytes=1"
        assert stats(zk, f"{root}/a") == "count=2,bytes=2"
        put_quota(zk, "/zookeeper/config/x", "count=1")
        assert stats(zk, "/zookeeper/config/x") == "count=0,bytes=0"


def test_limits_that_are_not_enforced(any_server: Server, root: str) -> None:
    with any_server.session() as zk:
        put_quota(zk, root, "count=1,bytes=1=;byteHardLimit=1;countHardLimit=1")
        zk.create(f"{root}/a", b"123")
        zk.set(f"{QUOTA}{root}/zookeeper_limits", b"garbage")
        zk.create(f"{root}/b", b"123")
        zk.set(f"{QUOTA}{root}/zookeeper_limits", None)
        zk.create(f"{root}/c", b"123")
        assert stats(zk, root) == "count=4,bytes=9"


def error(zk: Session, request: wire.Request) -> int:
    return zk.call(request).err


def test_hard_limits(enforcing: Server) -> None:
    with enforcing.session() as zk:
        for path in ("/count", "/bytes", "/soft", "/broken"):
            zk.create(path, b"12")
        put_quota(zk, "/count", "count=1,bytes=-1=;byteHardLimit=-1;countHardLimit=3")
        put_quota(zk, "/bytes", "count=-1,bytes=1=;byteHardLimit=10;countHardLimit=-1")
        put_quota(zk, "/soft", "count=1,bytes=1")
        put_quota(zk, "/broken", "garbage")
        zk.create("/count/a")
        assert error(zk, wire.create("/count/a")) == wire.NODE_EXISTS
        zk.create("/count/b", bytes(1000))
        assert error(zk, wire.create("/count/c")) == QUOTA_EXCEEDED
        assert error(zk, wire.create2("/count/b/c")) == QUOTA_EXCEEDED
        assert error(zk, wire.create("/count/missing/c")) == wire.NO_NODE
        zk.set("/count", b"any")
        zk.delete("/count/a")
        zk.create("/count/c")
        assert stats(zk, "/count") == "count=3,bytes=1003"
        # bytes: a change of nothing passes, one that leaves too many does not, not even if they become fewer
        zk.create("/bytes/a", bytes(8))
        assert error(zk, wire.create("/bytes/b", b"1")) == QUOTA_EXCEEDED
        zk.create("/bytes/b", b"")
        assert error(zk, wire.set_data("/bytes/b", b"1")) == QUOTA_EXCEEDED
        # the quota is checked before the version, and access before the quota
        assert error(zk, wire.set_data("/bytes/b", b"1", 77)) == QUOTA_EXCEEDED
        assert error(zk, wire.set_data("/bytes/b", b"", 77)) == wire.BAD_VERSION
        assert error(zk, wire.set_data("/bytes/none", b"1")) == wire.NO_NODE
        zk.set(f"{QUOTA}/bytes/zookeeper_limits", b"byteHardLimit=5")
        assert error(zk, wire.set_data("/bytes/a", bytes(7))) == QUOTA_EXCEEDED
        zk.set("/bytes/a", bytes(3))
        assert stats(zk, "/bytes") == "count=3,bytes=5"
        zk.create("/soft/a", bytes(100))
        # limits that nobody can read: nothing passes, until they are mended
        assert error(zk, wire.create("/broken/a")) == wire.MARSHALLING
        assert error(zk, wire.set_data("/broken", b"1")) == wire.MARSHALLING
        zk.delete("/broken")
        zk.set(f"{QUOTA}/broken/zookeeper_limits", b"")
        zk.create("/broken")
        # a quota without stats limits nothing
        zk.delete(f"{QUOTA}/count/zookeeper_stats")
        zk.create("/count/d")
        results = zk.multi(wire.create("/x"), wire.set_data("/bytes/a", bytes(100)), wire.create("/y"))
        assert [result.err for result in results] == [0, QUOTA_EXCEEDED, wire.RUNTIME_INCONSISTENCY]
        assert zk.exists("/x") is None


def test_what_is_proposed_counts(new_server: ServerFactory) -> None:
    """Requests in flight cannot slip past a limit together, nor be refused for what is being deleted."""
    server = new_server({"enforceQuota": "true"})
    server.start()
    with server.session() as zk, server.session() as other:
        zk.create("/q")
        put_quota(zk, "/q", "countHardLimit=11;byteHardLimit=100")
        for session, name in ((zk, "a"), (other, "b")):
            session.send(*[wire.create(f"/q/{name}{i}", b"") for i in range(50)])
        errors = [session.reply().err for session in (zk, other) for _ in range(50)]
        assert sorted(errors, reverse=True) == [0] * 10 + [QUOTA_EXCEEDED] * 90
        assert stats(zk, "/q") == "count=11,bytes=0"
        zk.sync("/")
        names = zk.children("/q")
        for _ in range(20):
            steps = [
                request
                for name in names
                for request in (
                    wire.delete(f"/q/{name}"),
                    wire.create(f"/q/{name}", bytes(10)),
                    wire.set_data(f"/q/{name}", b"", 5),  # a wrong version: what it would free is not free
                    wire.create("/q/one-too-many"),
                )
            ]
            zk.send(*steps)
            expected = [0, 0, wire.BAD_VERSION, QUOTA_EXCEEDED] * len(names)
            assert [zk.reply().err for _ in steps] == expected
        assert stats(zk, "/q") == "count=11,bytes=100"
        # a multi counts its own steps, and one that fails leaves nothing behind
        zk.delete(f"/q/{names[0]}")
        two = [wire.create("/q/x", bytes(5)), wire.create("/q/y", b"")]
        for _ in range(3):
            zk.send(
                wire.multi(two),
                wire.multi([two[0], wire.check("/none")]),
                wire.set_data(f"/q/{names[1]}", b""),
            )
            failed, also, third = zk.reply(), zk.reply(), zk.reply()
            assert [result.err for result in wire.decode_multi(failed.body)] == [0, QUOTA_EXCEEDED]
            assert [result.err for result in wire.decode_multi(also.body)] == [0, wire.NO_NODE]
            assert third.err == 0
        zk.multi(two[0], wire.delete("/q/x"), *two[1:])
        assert stats(zk, "/q") == "count=11,bytes=80"
        # ephemerals of a session that ends make room at once
        zk.delete("/q/y")
        third_one = server.session()
        third_one.create("/q/e", b"", wire.EPHEMERAL)
        assert error(zk, wire.create("/q/z")) == QUOTA_EXCEEDED
        third_one.close()
        zk.create("/q/z")
    warnings = [line for line in server.log_text().splitlines() if "quota exceeded" in line]
    assert warnings
    assert len(warnings) < 20  # at most one a second
    server.kill9()
    server.start()
    with server.session() as zk:
        assert stats(zk, "/q") == "count=11,bytes=80"
        assert error(zk, wire.create("/q/more")) == QUOTA_EXCEEDED
        zk.delete("/q/z")
        assert stats(zk, "/q") == "count=10,bytes=80"


def test_what_ends_the_real_server(server: Server) -> None:
    with server.session() as zk:
        limits = f"{QUOTA}/zookeeper_limits"
        assert error(zk, wire.create(limits)) == wire.BAD_ARGUMENTS
        assert error(zk, wire.multi([wire.create(limits)])) == 0
        assert error(zk, wire.delete(limits)) == wire.NO_NODE
        zk.create(f"{QUOTA}/zookeeper_stats")  # this one counts everything, once
        assert stats(zk, "") == "count=5,bytes=0"
        zk.create("/zookeeper/zookeeper_limits")
        assert error(zk, wire.delete("/zookeeper/zookeeper_limits")) == wire.BAD_ARGUMENTS
        zk.create("/q")
        put_quota(zk, "/q", "count=5")
        for garbage in (b"garbage", None, b"count=many"):
            zk.set(f"{QUOTA}/q/zookeeper_stats", garbage)
            assert stats(zk, "/q") == "count=1,bytes=0"
        zk.create("/q/a", b"123")
        assert stats(zk, "/q") == "count=2,bytes=3"


def test_zkcli(server: Server) -> None:
    require(ZooKeeperServer.missing() is None, f"Apache ZooKeeper: {ZooKeeperServer.missing()}")
    java = shutil.which("java")
    assert java
    jars = ZooKeeperServer.jars

    def cli(*words: str) -> str:
        command = [java, "-cp", f"{jars / 'zookeeper.jar'}:{jars / 'slf4j-simple.jar'}:{jars}/*"]
        command += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "org.apache.zookeeper.ZooKeeperMain"]
        command += ["-server", server.hosts, *words]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        return (done.stdout + done.stderr).decode()

    with server.session() as zk:
        zk.create("/q", b"123")
        output = cli("setquota", "-n", "7", "/q")
        output += cli("setquota", "-B", "100", "/q")
        zk.create("/q/a", b"45")
        output += cli("listquota", "/q")
        assert "Output quota for /q" in output, output
        assert "count=2,bytes=5" in output, output
        output = cli("delquota", "/q")
        assert zk.exists(f"{QUOTA}/q/zookeeper_stats") is None, output
