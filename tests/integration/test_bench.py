"""``fastzk-bench`` against a real server: it counts what the server counts, keeps its rate, and ends when it should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.servers import Server, free_port

from fastzk.bench import cli
from fastzk.bench._histogram import Histogram

from .conftest import SharedServers


@pytest.fixture
def hosts(any_server: Server, root: str) -> str:
    """A connection string with a znode of its own as chroot, on a server that other tests use too."""
    return any_server.hosts + root


@pytest.fixture
def shared(shared_servers: SharedServers) -> Server:
    """A running fastzk-server that other tests use too."""
    return shared_servers.get("fastzk")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fastzk.bench.cli", *arguments]


def environment() -> dict[str, str]:
    import fastzk

    assert fastzk.__file__ is not None
    folder = str(Path(fastzk.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH", "")]))}


def run(*arguments: str, code: int = 0) -> tuple[str, str]:
    """The command to its end: stdout and stderr."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, check=False, env=environment()
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def found_by(hosts: str, *arguments: str) -> dict[str, Any]:
    """The JSON of a short run that leaves its znodes behind, checked for what must hold of every run."""
    stdout, _ = run(hosts, "--json", "-", "-d", "0.4", "--warmup", "0.1", "--keep", *arguments)
    found: dict[str, Any] = json.loads(stdout)
    for name, operation in [*found["operations"].items(), ("total", found["total"])]:
        assert operation["answered"] == operation["sent"] > 0, name
        assert operation["unanswered"] == 0, name
        assert operation["errors"] == {}, name
        latency = operation["latency_us"]
        assert latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"], name
        assert Histogram.decode(operation["histogram"]).count == operation["measured"], name
    assert found["connections"]["lost"] == 0
    return found


def sent(found: dict[str, Any], name: str) -> int:
    number: int = found["operations"][name]["sent"]
    return number


def packets_received(server: Server) -> int:
    return int(server.four_letter_word("mntr").partition("zk_packets_received\t")[2].split()[0])


def test_every_operation_counts_what_the_server_counted(any_server: Server, hosts: str, root: str) -> None:
    mix = "get=3,set=2,create=2,delete=1,create-delete=1,exists=1,children=1,multi=1,sync=1"
    before = packets_received(any_server)
    found = found_by(hosts, "-c", "6", "-w", "4", "-p", "2", "-k", "20", "--multi-size", "3", "-m", mix)
    # besides the load: handshakes, the preparation, pings
    others = packets_received(any_server) - before - found["total"]["sent"]
    assert 20 + 6 <= others < 150
    assert set(found["operations"]) == {part.partition("=")[0] for part in mix.split(",")}
    with any_server.session() as zk:
        versions = [zk.stat(f"{root}/fastzk-bench/k{key:02d}").version for key in range(20)]
        assert sum(versions) == sent(found, "set") + 3 * sent(found, "multi")
        parents = [f"{root}/fastzk-bench/c{number:06d}" for number in range(6)]
        stats = [zk.stat(parent) for parent in parents]
        changes = sent(found, "create") + sent(found, "delete") + sent(found, "create-delete")
        assert sum(stat.cversion for stat in stats) == changes
        pairs = sum(zk.exists(f"{parent}/pair") is not None for parent in parents)
        left = sent(found, "create") - sent(found, "delete")
        assert sum(stat.num_children for stat in stats) == left + pairs


def test_a_run_leaves_nothing_behind_and_prints_a_table(shared: Server) -> None:
    hosts = f"{shared.hosts}/some/where"
    stdout, stderr = run(hosts, "-d", "1.2", "--warmup", "0", "-m", "get,create=0.5,create-delete")
    lines = stdout.splitlines()
    assert shared.hosts in lines[0]
    assert "closed loop" in lines[0]
    columns = ["ops/s", "measured", "errors", "mean", "p50", "p90", "p99", "p99.9", "max"]
    assert lines[2].split() == columns
    assert [line.split()[0] for line in lines[3:8]] == ["get", "create", "create-delete", "all", "corrected"]
    assert "ops/s, p50" in stderr
    with shared.session() as zk:
        assert zk.exists("/some/where") is not None
        assert zk.exists("/some/where/fastzk-bench") is None


def test_an_open_loop_keeps_its_rate(shared: Server) -> None:
    hosts = f"{shared.hosts}/rate"
    found = found_by(hosts, "-c", "4", "-p", "2", "--rate", "1000", "-m", "get=9,set=1", "-d", "1")
    # 0.1 s of warm-up before
    assert found["total"]["measured"] == 1000
    assert found["total"]["sent"] == 1100
    assert found["generator"]["late_us"]["max"] > 0
    assert "corrected_latency_us" not in found["total"]


def test_every_watching_session_is_told_of_every_change(any_server: Server, hosts: str, root: str) -> None:
    stdout, _ = run(hosts, "--watches", "60", "-p", "2", "-d", "0.4", "--warmup", "0.1", "--json", "-")
    found = json.loads(stdout)
    assert found["changes"] > 0
    assert found["missed_events"] == 0
    operations = found["operations"]
    assert operations["event"]["measured"] == 60 * found["changes"]
    assert operations["last event"]["measured"] == operations["set"]["measured"] == found["changes"]
    assert operations["event"]["latency_us"]["max"] == operations["last event"]["latency_us"]["max"]
    with any_server.session() as zk:
        assert zk.exists(f"{root}/fastzk-bench") is None


def started(hosts: str, *arguments: str) -> subprocess.Popen[str]:
    """A run under way: its first progress line was there."""
    process = subprocess.Popen(
        command(hosts, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "ops/s" in line, line + process.stderr.read()
    return process


def test_a_killed_server_does_not_hang_it(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    process = started(
        server.hosts, "-c", "4", "-w", "2", "-d", "1.5", "--warmup", "0", "--drain", "0.5", "--json", str(target)
    )
    server.kill9()
    killed = time.monotonic()
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert time.monotonic() - killed < 15
    found = json.loads(target.read_text())
    assert found["connections"]["lost"] == 4
    assert 0 < found["total"]["errors"]["CONNECTION_LOSS"] <= 8
    assert "connections lost: 4" in stdout
    assert "was not removed" in stderr


def test_ctrl_c_shows_what_was_found_so_far(shared: Server) -> None:
    process = started(f"{shared.hosts}/interrupted", "-d", "600", "--warmup", "0", "-p", "2", "-m", "create")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "interrupted" in stdout.splitlines()[0]
    assert "Traceback" not in stderr
    with shared.session() as zk:
        assert zk.exists("/interrupted/fastzk-bench") is None


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--mix", "fly"], 2, "no operation 'fly'"),
        (["--connections", "many"], 2, "invalid int value"),
        (["--window", "0"], 2, "--window is from 1"),
        (["--json", "/nonexistent/x.json"], 2, "/nonexistent/x.json: No such file"),
        (["PORT"], 1, "Connection refused"),
        (["no-such-host.invalid"], 1, "no-such-host.invalid:2181: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, complaint: str
) -> None:
    assert cli.main([f"127.0.0.1:{free_port()}" if word == "PORT" else word for word in arguments]) == code
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("fastzk-bench: ")
    assert stderr.count("\n") == 1
    assert complaint in stderr
