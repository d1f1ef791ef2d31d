"""The client against a server of its own process: one call at a time, and a hundred in flight."""

from __future__ import annotations

import asyncio

import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from fastzk import AsyncClient, Client

DATA = b"x" * 128


def test_get(benchmark: BenchmarkFixture, hosts: str) -> None:
    with Client(hosts) as client:
        assert benchmark(client.get, "/quick").data == DATA


def test_set(benchmark: BenchmarkFixture, hosts: str) -> None:
    """Durable when it returns."""
    with Client(hosts) as client:
        assert benchmark(client.set, "/quick", DATA).version > 0


def test_get_100(benchmark: BenchmarkFixture, hosts: str) -> None:
    with Client(hosts) as client:

        def turn() -> bytes | None:
            return [client.get_async("/quick") for _ in range(100)][-1].get().data

        assert benchmark(turn) == DATA


def test_get_100_async(benchmark: BenchmarkFixture, hosts: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        client = runner.run(_started(hosts))

        async def turn() -> bytes | None:
            return [await call for call in [client.get_async("/quick") for _ in range(100)]][-1].data

        assert benchmark(lambda: runner.run(turn())) == DATA
        runner.run(client.close())


async def _started(hosts: str) -> AsyncClient:
    return await AsyncClient(hosts).start()
