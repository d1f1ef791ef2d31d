"""Servers for the integration tests: one of its own for a test, or one shared by many."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
from support.servers import Server, make_server

#: The superuser's password is "test". ZooKeeper takes any key of zoo.cfg that it does not know as a property.
SUPER_DIGEST = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="
#: Short ticks, so that tests of expiry take seconds: sessions last 2 to 20 s.
SHARED_CONFIG = {"tickTime": "1000", "DigestAuthenticationProvider.superDigest": SUPER_DIGEST}


#: The server under test. "zookeeper" runs what ZooKeeper can pass too against it, to check the tests.
KIND = os.environ.get("FASTZK_TEST_SERVER", "fastzk")


class ServerFactory(Protocol):
    def __call__(self, config: Mapping[str, str | None] | None = None, name: str = "server") -> Server: ...


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[ServerFactory]:
    """Makes servers (not yet started) for this test alone, and ends them with it."""
    made: list[Server] = []

    def make(config: Mapping[str, str | None] | None = None, name: str = "server") -> Server:
        made.append(make_server(KIND, tmp_path / name, config))
        return made[-1]

    yield make
    for server in made:
        server.discard()


@pytest.fixture
def server(new_server: ServerFactory) -> Server:
    """A started server that belongs to this test alone."""
    return new_server().start()


class SharedServers:
    """At most one server of each kind for a whole session of tests; started again should one have died."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._servers: dict[str, Server] = {}

    def get(self, kind: str) -> Server:
        server = self._servers.get(kind)
        if server is None:
            config = dict(SHARED_CONFIG)
            if kind == "zookeeper":
                # without it flags 5 and 6 would be unimplemented instead of out of place
                config["extendedTypesEnabled"] = "true"
            server = make_server(kind, self._factory.mktemp(kind), config)
            self._servers[kind] = server
        if not server.running:
            server.start()
        return server

    def stop(self) -> None:
        for server in self._servers.values():
            server.discard()


@pytest.fixture(scope="session")
def shared_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServers]:
    servers = SharedServers(tmp_path_factory)
    yield servers
    servers.stop()


@pytest.fixture(params=["fastzk", "zookeeper"])
def any_server(request: pytest.FixtureRequest, shared_servers: SharedServers) -> Server:
    """A running server that other tests use too; so each expectation is checked on the real ZooKeeper."""
    kind: str = request.param
    return shared_servers.get(kind)


_roots = itertools.count()


@pytest.fixture
def root(any_server: Server) -> str:
    """A fresh znode on ``any_server`` for this test."""
    path = f"/t{next(_roots)}"
    with any_server.session() as session:
        session.create(path)
    return path
