"""Reads that see what was acknowledged before, at whichever server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support.servers import Server

from fastzk import AsyncClient, Client
from fastzk.errors import NoNodeError
from fastzk.testing import EphemeralEnsemble

ROUNDS = 500


@pytest.fixture(scope="module")
def three() -> Iterator[EphemeralEnsemble]:
    with EphemeralEnsemble(3) as ensemble:
        yield ensemble


def apart(ensemble: EphemeralEnsemble) -> tuple[str, str]:
    """The hosts of the leader and of one that follows: what the one acknowledged the other may not know yet."""
    leader = ensemble.leader()
    return leader.hosts, next(server.hosts for server in ensemble.servers if server is not leader)


@pytest.mark.parametrize("writer_leads", [True, False])
def test_what_one_server_acknowledged_another_shows(three: EphemeralEnsemble, writer_leads: bool) -> None:
    hosts = apart(three)
    write_to, read_from = hosts if writer_leads else hosts[::-1]
    with Client(write_to) as writer, Client(read_from) as reader:
        root = writer.create("/r-", sequence=True)
        for number in range(ROUNDS):
            path = f"{root}/{number}"
            if number % 5 == 4:
                writer.create(path)
                assert reader.exists(path, linearizable=True) is not None, number
                continue
            version = writer.set(root, str(number).encode()).version
            if number % 5 == 0:
                assert reader.get(root, linearizable=True).stat.version == version, number
            elif number % 5 == 1:
                stat = reader.exists(root, linearizable=True)
                assert stat is not None
                assert stat.version == version, number
            elif number % 5 == 2:
                children = reader.get_children(root, include_data=True, linearizable=True)
                assert children.stat.version == version, number
            else:
                (node,) = reader.multi_read([("get", root)], linearizable=True)
                assert not isinstance(node, Exception)
                assert node[0] == str(number).encode(), number


def test_the_same_with_many_tasks(three: EphemeralEnsemble) -> None:
    write_to, read_from = apart(three)

    async def main() -> None:
        async with AsyncClient(write_to) as writer, AsyncClient(read_from) as reader:
            root = await writer.create("/t-", sequence=True)

            async def work(number: int) -> None:
                path = f"{root}/{number}"
                await writer.create(path)
                for _ in range(ROUNDS // 20):
                    version = (await writer.set(path, b"x")).version
                    assert (await reader.get(path, linearizable=True)).stat.version == version
                assert str(number) in await reader.get_children(root, linearizable=True)

            await asyncio.gather(*[work(number) for number in range(20)])

    asyncio.run(main())


def test_results_errors_and_watches_are_those_of_the_read(any_server: Server, root: str) -> None:
    with Client(any_server.hosts + root) as zk:
        zk.create("/a", b"x")
        assert zk.get("/a", linearizable=True) == zk.get("/a")
        assert zk.get_children("/", linearizable=True) == ["a"]
        assert zk.exists("/nope", linearizable=True) is None
        with pytest.raises(NoNodeError) as caught:
            zk.get("/nope", linearizable=True)
        assert caught.value.path == "/nope"
        (failed,) = zk.multi_read([("get", "/nope")], linearizable=True)
        assert isinstance(failed, NoNodeError)
        events: list[str] = []
        zk.get("/a", lambda event: events.append(event.path), linearizable=True)
        zk.set("/a", b"y")
        zk.stop()  # ends the callbacks
        assert events == ["/a"]


def test_one_round_trip(server: Server) -> None:
    """Both requests leave in one write: neither waits for the reply to the other."""
    with Client(server.hosts) as zk:
        call = zk.get_async("/", linearizable=True)
        assert zk._channel.count == 2
        assert call.result(20).stat is not None
