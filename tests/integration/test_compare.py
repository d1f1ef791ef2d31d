"""bench/compare.py from end to end: two cheap rows, in its quick mode."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import ZooKeeperServer, require

COMPARE = Path(__file__).resolve().parents[2] / "bench" / "compare.py"


def run_compare(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """``path``: a folder whose programs come first."""
    environment = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else None
    command = [sys.executable, str(COMPARE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)


@pytest.mark.benchmarks
def test_two_rows_end_in_results_and_a_report_that_has_them(tmp_path: Path) -> None:
    require(ZooKeeperServer.missing() is None, ZooKeeperServer.missing() or "")
    require(shutil.which("cc") or shutil.which("gcc"), "no C compiler")
    first = tmp_path / "first"

    done = run_compare("--quick", "--rows", "get-32x16,set-1x1", "--peers", "none", "--report", str(first))

    assert done.returncode == 0, done.stderr
    results = json.loads((first / "results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert set(rows) == {"get-32x16", "set-1x1"}
    for row in rows.values():
        assert all(value > 0 for value in row["values"]["fastzk"] + row["values"]["Apache ZooKeeper"])
        assert row["ratio"] == row["values"]["fastzk"][0] / row["values"]["Apache ZooKeeper"][0]
    text = (first / "report.md").read_text()
    assert "getData, 32 x 16 |" in text
    assert "setData durable, 1 x 1: median latency |" in text
    assert "| ≥ 10 |" in text
    assert "| ≤ 0.625 |" in text
    assert results["facts"]["machine"] in text
    assert " left] get-32x16 round 1: fastzk" in done.stderr

    # The same results give the same report again, without a server.
    again = run_compare("--from", str(first / "results.json"), "--report", str(tmp_path / "second"))

    assert again.returncode == 0, again.stderr
    assert (tmp_path / "second" / "report.md").read_text() == text
    assert again.stdout == done.stdout


@pytest.mark.benchmarks
def test_a_server_that_does_not_start_costs_the_others_nothing(tmp_path: Path) -> None:
    require(ZooKeeperServer.missing() is None, ZooKeeperServer.missing() or "")
    require(shutil.which("cc") or shutil.which("gcc"), "no C compiler")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("redis-server", "redis-benchmark"):
        (programs / name).write_text("#!/bin/sh\necho 'no way'\nexit 3\n")
        (programs / name).chmod(0o755)
    found = tmp_path / "found.json"

    done = run_compare(*("--quick", "--rows", "get-1x1", "--peers", "redis", "--json", str(found)), path=str(programs))

    assert done.returncode == 1
    (row,) = json.loads(found.read_text())["rows"]
    assert set(row["values"]) == {"Apache ZooKeeper", "fastzk"}
    assert row["failure"].startswith("Redis: Redis ended")
    assert "no way" in row["failure"]
    assert "**not measured to the end**: Redis: Redis ended" in done.stdout


def test_results_of_something_else_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"format": 1, "rows": []}')

    done = run_compare("--from", str(other), "--report", str(tmp_path / "report"))

    assert done.returncode == 1
    assert "was not written by this version" in done.stderr
    assert not (tmp_path / "report").exists()


def test_a_row_that_does_not_exist_is_named_with_those_that_do() -> None:
    done = run_compare("--rows", "get,fly")

    assert done.returncode == 1
    assert "no row 'fly'" in done.stderr
    assert "get-32x16" in done.stderr
