"""Containers and TTL znodes that the server deletes itself, at short intervals."""

from __future__ import annotations

import struct
import time

from support import wire
from support.wire import Request

from .conftest import ServerFactory

CREATE_CONTAINER, DELETE_CONTAINER, CREATE_TTL = 19, 20, 21
CONTAINER_FLAG, TTL_FLAG = 4, 5
QUICK = {"znode.container.checkIntervalMs": "100", "extendedTypesEnabled": "true"}


def container(path: str) -> Request:
    return wire.create(path, b"", CONTAINER_FLAG, op=CREATE_CONTAINER)


def with_ttl(path: str, milliseconds: int) -> Request:
    return Request(CREATE_TTL, wire.create(path, b"", TTL_FLAG).body + struct.pack(">q", milliseconds))


def test_an_empty_container_goes_with_its_events(new_server: ServerFactory) -> None:
    server = new_server(QUICK)
    server.start()
    with server.session() as zk, server.session() as watcher:
        for path in ("/c", "/unused", "/full"):
            assert zk.call(container(path)).err == 0
        zk.create("/c/child")
        zk.create("/full/child")
        watcher.ask(wire.get_data("/c", True))
        watcher.ask(wire.get_children("/", True))
        before = zk.stat("/").pzxid
        zk.delete("/c/child")
        wire.poll(lambda: zk.exists("/c") is None, "the empty container is gone")
        assert zk.stat("/").pzxid > before
        assert watcher.event() == (wire.DELETED, 3, "/c")
        assert watcher.event() == (wire.CHILDREN_CHANGED, 3, "/")
        assert sorted(zk.children("/")) == ["full", "unused", "zookeeper"]
        # clients cannot do what the server does
        assert zk.call(Request(DELETE_CONTAINER, wire.text("/unused"))).err == wire.BAD_ARGUMENTS
    server.kill9()
    server.start()
    with server.session() as zk:
        assert sorted(zk.children("/")) == ["full", "unused", "zookeeper"]
        zk.delete("/full/child")
        wire.poll(lambda: zk.exists("/full") is None, "the container is known after a restart")
        assert zk.exists("/unused") is not None


def test_ttl(new_server: ServerFactory) -> None:
    server = new_server(QUICK)
    server.start()
    with server.session() as zk:
        assert zk.call(with_ttl("/short", 300)).err == 0
        assert zk.call(with_ttl("/parent", 300)).err == 0
        assert zk.call(with_ttl("/long", 3_600_000)).err == 0
        zk.create("/parent/child")
        began = time.monotonic()
        wire.poll(lambda: zk.exists("/short") is None, "its time is over")
        assert time.monotonic() - began > 0.1
        assert zk.exists("/parent") is not None
        zk.delete("/parent/child")
        wire.poll(lambda: zk.exists("/parent") is None, "its last child is gone")
        assert zk.children("/") != []
        # written again and again, it lives
        assert zk.call(with_ttl("/kept", 1500)).err == 0
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            zk.set("/kept", b"x")
            time.sleep(0.05)
        assert zk.exists("/kept") is not None
        wire.poll(lambda: zk.exists("/kept") is None, "nobody writes it any more")
        assert zk.exists("/long") is not None


def test_never_used_and_pace(new_server: ServerFactory) -> None:
    server = new_server(
        {**QUICK, "znode.container.maxNeverUsedIntervalMs": "200", "znode.container.maxPerMinute": "1200"}
    )
    server.start()
    with server.session() as zk:
        zk.create("/p")
        zk.send(*[container(f"/p/c{i}") for i in range(40)])
        assert {zk.reply().err for _ in range(40)} == {0}
        began = time.monotonic()
        wire.poll(lambda: zk.stat("/p").num_children == 0, "all are gone")
        assert time.monotonic() - began > 1.5  # 20 a second


def test_reaping_under_load(new_server: ServerFactory) -> None:
    """Children come and go in pipelined requests while the server looks: nothing is lost or half done."""
    server = new_server(
        {**QUICK, "znode.container.checkIntervalMs": "1", "znode.container.maxPerMinute": "1000000"}
    )
    server.start()
    with server.session() as zk:
        for i in range(300):
            zk.send(
                container("/c"),
                wire.create("/c/a"),
                wire.delete("/c/a"),
                wire.create("/c/b"),
                wire.exists("/c"),
            )
            first, made, gone, again, seen = (zk.reply().err for _ in range(5))
            assert first in (0, wire.NODE_EXISTS), i
            assert {made, gone} <= {0, wire.NO_NODE}
            # whoever created the child sees its parent in the next answer
            assert seen == 0 or again == wire.NO_NODE
            zk.call(wire.delete("/c/b"))
        wire.poll(lambda: zk.exists("/c") is None, "the last one is gone")
    server.restart()
    with server.session() as zk:
        assert zk.children("/") == ["zookeeper"]
