"""One server for all that need one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastzk import Client

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fastzk-server, which has the znode /quick."""
    from servers import Fastzk  # one of the modules of `bench/`, as all tests here use them

    server = Fastzk(tmp_path_factory.mktemp("quick") / "server")
    try:
        server.start()
        address = f"127.0.0.1:{server.port}"
        with Client(address) as client:
            client.create("/quick", b"x" * 128)
        yield address
    finally:
        server.kill()
