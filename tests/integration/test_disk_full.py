"""A full disk: clear errors, reads go on, nothing acknowledged is lost, writes work again with more room."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import wire
from support.servers import Server
from support.wire import Session

from .conftest import ServerFactory

DATA = bytes(50_000)


class SmallDisk:
    """A tmpfs whose size can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def mount(self, megabytes: int, *, again: bool = False) -> None:
        options = f"{'remount,' if again else ''}size={megabytes}m"
        command = ["mount", "-t", "tmpfs", "-o", options, "fastzk-test", str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")

    def umount(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    disk = SmallDisk(tmp_path / "disk")
    disk.mount(24)
    yield disk
    disk.umount()


@pytest.fixture
def full(disk: SmallDisk, new_server: ServerFactory) -> tuple[Server, Session, Session, set[str], set[str]]:
    """A server on a full disk, a writing and a reading session, and the names acknowledged and refused."""
    server = new_server({"dataDir": str(disk.path / "data"), "snapCount": "200"})
    server.start()
    writer, reader = server.session(), server.session()
    acknowledged: set[str] = set()
    refused: set[str] = set()
    deadline = time.monotonic() + 60
    number = 0
    while len(refused) < 20:
        assert time.monotonic() < deadline, server.explain(
            f"not full after {number} writes of {len(DATA)} bytes"
        )
        names = [f"n{number + i}" for i in range(8)]
        number += 8
        writer.send(*[wire.create(f"/{name}", DATA) for name in names])
        for name in names:
            reply = writer.reply()
            (refused if reply.err else acknowledged).add(name)
    assert acknowledged
    return server, writer, reader, acknowledged, refused


Full = tuple[Server, Session, Session, set[str], set[str]]


def names_on(zk: Session) -> set[str]:
    return set(zk.children("/")) - {"zookeeper"}


@pytest.mark.slow
def test_errors_and_reads(full: Full) -> None:
    server, writer, reader, acknowledged, refused = full
    assert server.running
    assert re.search(r"(?i)no space|disk.*full|full.*disk|ENOSPC", server.log_text()), server.log_tail()
    assert "Traceback" not in server.log_text()
    assert names_on(reader) == acknowledged
    for name in acknowledged:
        assert reader.get(f"/{name}")[0] == DATA
    # a refused write changed nothing, for nobody
    assert not names_on(writer) & refused
    for zk in (writer, reader):
        began = time.monotonic()
        assert zk.call(wire.create(f"/{'x' * 10}", DATA)).err != 0
        assert time.monotonic() - began < 5
        zk.ping()


@pytest.mark.slow
def test_service_resumes_when_there_is_room(full: Full, disk: SmallDisk) -> None:
    server, writer, reader, acknowledged, _ = full
    disk.mount(200, again=True)

    def works() -> bool:
        return writer.call(wire.set_data("/n0", b"room")).err == 0

    wire.poll(works, "a write succeeds on a disk with room", 15, 0.1)
    for i in range(20):
        writer.create(f"/after{i}", DATA)
    expected = acknowledged | {f"after{i}" for i in range(20)}
    assert names_on(reader) == expected
    with server.session() as fresh:
        fresh.create("/by-a-new-session")
    server.kill9()
    server.start()
    with server.session() as zk:
        assert names_on(zk) == expected | {"by-a-new-session"}
        assert zk.get("/n0")[0] == b"room"


@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "terminated"])
def test_nothing_acknowledged_is_lost(full: Full, disk: SmallDisk, kill: bool) -> None:
    server, _, _, acknowledged, _ = full
    if kill:
        server.kill9()
    else:
        server.terminate()
    disk.mount(200, again=True)
    server.start()
    with server.session() as zk:
        assert names_on(zk) == acknowledged
        for name in acknowledged:
            assert zk.get(f"/{name}")[0] == DATA
        zk.create("/after", DATA)
