"""Extensions and large lists against a server as a process, with its configuration, its disk and other clients."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import MarshallingError, NoNodeError
from support import wire
from support.servers import Server
from support.wire import Request, Session

from .conftest import ServerFactory

CREATE_IF_NOT_EXISTS, REMOVE_RECURSIVE, PAGED_LIST = 502, 503, 0x667A0001


def remove_recursive(path: str, limit: int = 100_000) -> Request:
    return Request(REMOVE_RECURSIVE, wire.text(path) + struct.pack(">I", limit))


def paged_list(path: str, after: str, limit: int = 0) -> Request:
    return Request(PAGED_LIST, wire.text(path) + wire.text(after) + struct.pack(">ii", limit, 0))


def fill(zk: Session, parent: str, count: int, width: int = 40) -> list[str]:
    """Children with long names."""
    names = [f"{number:0{width}}" for number in range(count)]
    for at in range(0, count, 1000):
        zk.send(*(wire.create(f"{parent}/{name}") for name in names[at : at + 1000]))
        for _ in names[at : at + 1000]:
            assert zk.reply().err == 0
    return names


def pages(zk: Session, path: str, limit: int = 0) -> Iterator[list[str]]:
    after = ""
    while True:
        reply = zk.call(paged_list(path, after, limit))
        assert reply.err == 0
        reader = wire.Reader(reply.body)
        yield reader.strings()
        after = reader.string()
        if not after:
            return


@contextmanager
def kazoo(server: Server) -> Iterator[KazooClient]:
    client = KazooClient(hosts=f"127.0.0.1:{server.port}")
    client.start(timeout=20)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def test_a_list_that_is_too_large_costs_nobody_the_session(new_server: ServerFactory) -> None:
    server = new_server({"jute.maxbuffer": "100000"}).start()
    with server.session() as zk, kazoo(server) as client:
        zk.create("/p")
        names = fill(zk, "/p", 2300)
        session = client.client_id
        with pytest.raises(MarshallingError):
            client.get_children("/p")
        with pytest.raises(MarshallingError):
            client.get_children("/p", include_data=True)
        assert client.exists("/p").numChildren == 2300
        assert client.client_id == session
        found = list(pages(zk, "/p"))
        assert [name for page in found for name in page] == names
        assert len(found) == 2
    assert "reply refused path=/p bytes=" in server.log_text()


def test_without_a_limit_a_list_has_any_length(new_server: ServerFactory) -> None:
    server = new_server({"jute.maxbuffer": "100000", "maxReplyBytes": "0"}).start()
    with server.session() as zk:
        zk.create("/p")
        names = fill(zk, "/p", 2300)
        assert sorted(zk.children("/p")) == names
        assert max(len(page) for page in pages(zk, "/p")) * 44 < 100_000  # a page still has one


def test_what_extensions_write_is_there_after_a_restart(new_server: ServerFactory) -> None:
    server = new_server().start()
    with server.session() as zk:
        for path in ("/a", "/a/b", "/a/b/c", "/keep"):
            zk.create(path)
        made = Request(CREATE_IF_NOT_EXISTS, wire.create("/new", b"1").body)
        assert zk.call(made).body == zk.call(made).body == wire.text("/new")
        assert zk.call(remove_recursive("/a")).err == 0
        inside = wire.multi([remove_recursive("/keep"), Request(CREATE_IF_NOT_EXISTS, wire.create("/keep", b"2").body)])
        assert zk.call(inside).err == 0
    server.kill9()
    server.start()
    with server.session() as zk:
        assert sorted(zk.children("/")) == ["keep", "new", "zookeeper"]
        assert zk.get("/keep")[0] == b"2"


def test_a_large_removal_is_one_transaction(new_server: ServerFactory) -> None:
    server = new_server().start()
    with server.session() as zk, server.session() as other:
        zk.create("/p")
        fill(zk, "/p", 15_000, width=20)
        before = zk.last_zxid
        assert zk.call(remove_recursive("/p", 15_000)).err == wire.NOT_EMPTY
        reply = zk.call(remove_recursive("/p", 15_001))
        assert (reply.err, reply.zxid) == (0, before + 1)
        assert other.children("/") == ["zookeeper"]
        # 30,000 deletes would not fit jute.maxbuffer: ZooKeeper could not read them back
        zk.create("/p")
        fill(zk, "/p", 30_000, width=30)
        assert zk.call(remove_recursive("/p")).err == wire.NOT_EMPTY
        assert zk.stat("/p").num_children == 30_000


def test_kazoo_meets_no_extension_unless_it_looks(new_server: ServerFactory) -> None:
    server = new_server().start()
    with kazoo(server) as client:
        assert client.get_children("/") == ["zookeeper"]
        assert client.exists("/keeper") is None
        assert client.get("/keeper/api_version")[0] == b"3"
        assert client.get("/keeper/feature_flags")[1].dataLength == 1
        client.ensure_path("/keeper/mine")
        assert client.get("/keeper/api_version")[0] == b"3"
        client.delete("/keeper", recursive=True)


def test_extensions_can_be_turned_off(new_server: ServerFactory) -> None:
    server = new_server({"keeperExtensions": "false"}).start()
    with kazoo(server) as client, pytest.raises(NoNodeError):
        client.get("/keeper/api_version")
    with server.session() as zk:
        assert zk.call(remove_recursive("/a"))[1:] == (-1, wire.UNIMPLEMENTED, b"")
        zk.assert_closed()
