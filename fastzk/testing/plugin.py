"""The pytest plugin. It is found by itself where fastzk is installed.

- ``zk``: a started :class:`fastzk.Client`, below a znode of its own; what it left is removed after the test.
- ``zk_async``: a :class:`fastzk.AsyncClient`, likewise, not started: ``async with zk_async as zk: ...``
- ``zk_server``: the :class:`EphemeralServer` they connect to, one for the whole run.
- ``zk_link``: a :class:`Link` to that server, to cut connections: ``Client(zk_link.hosts)``.
- ``zk_ensemble``: an :class:`EphemeralEnsemble` of three servers, for one test.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    # Not before a fixture asks for them: most runs of pytest do not.
    from fastzk import AsyncClient, Client
    from fastzk.testing import EphemeralEnsemble, EphemeralServer, Link

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def zk_server() -> Iterator[EphemeralServer]:
    """A server on a free port, with data in a temporary directory."""
    from fastzk.testing import EphemeralServer

    with EphemeralServer() as server:
        yield server


@pytest.fixture
def _zk_root(zk_server: EphemeralServer) -> Iterator[str]:
    from fastzk import Client

    if not zk_server.running:  # a test before this one killed it
        zk_server.start()
    root = f"/test-{next(_numbers)}"
    with Client(zk_server.hosts) as client:
        client.create(root)
    yield root
    if not zk_server.running:
        zk_server.start()
    zk_server.resume()
    with Client(zk_server.hosts) as client:
        client.delete(root, recursive=True)


@pytest.fixture
def zk(zk_server: EphemeralServer, _zk_root: str) -> Iterator[Client]:
    """A started client."""
    from fastzk import Client

    with Client(zk_server.hosts + _zk_root) as client:
        yield client


@pytest.fixture
def zk_async(zk_server: EphemeralServer, _zk_root: str) -> AsyncClient:
    """A client for asyncio, to be started by ``async with``."""
    from fastzk import AsyncClient

    return AsyncClient(zk_server.hosts + _zk_root)


@pytest.fixture
def zk_link(zk_server: EphemeralServer) -> Iterator[Link]:
    """A proxy in front of ``zk_server``."""
    from fastzk.testing import Link

    with Link(zk_server.port) as link:
        yield link


@pytest.fixture
def zk_ensemble() -> Iterator[EphemeralEnsemble]:
    """Three servers that form an ensemble."""
    from fastzk.testing import EphemeralEnsemble

    with EphemeralEnsemble(3) as ensemble:
        yield ensemble
