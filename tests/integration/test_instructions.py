"""The regression guard: fixed pieces of work take no more instructions than the committed baseline says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import require

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "bench" / "instructions" / "baseline.json"
#: The cheapest one, to test the comparison itself.
ONE = "tree-find"

pytestmark = pytest.mark.benchmarks


def guard(*arguments: object) -> subprocess.CompletedProcess[str]:
    require(Path("/usr/include/valgrind/callgrind.h").exists(), "valgrind is not installed")
    return subprocess.run(
        [sys.executable, "-m", "bench.instructions", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=1800,  # a minute, unless others want the processors, too
        check=False,
    )


def test_no_workload_takes_more_instructions_than_before() -> None:
    done = guard()
    print(done.stdout)  # a run that is green shows how far from its limits it is
    assert done.returncode == 0, f"\n{done.stdout}\n{done.stderr}"


def test_what_the_guard_would_say(tmp_path: Path) -> None:
    """A count five percent above its baseline is an error with the same versions, and is not with others."""
    path = tmp_path / "baseline.json"
    done = guard("--baseline", path, "--update", ONE)
    assert done.returncode == 0, done.stderr
    made = json.loads(path.read_text())
    assert list(made["workloads"]) == [ONE]
    made["workloads"][ONE] /= 1.05
    path.write_text(json.dumps(made))
    done = guard("--baseline", path, ONE)
    assert done.returncode == 1
    assert f"more than allowed: {ONE}" in done.stdout
    assert "_tree.Tree.slot" in done.stdout, "it says where the instructions went"
    made["versions"]["cython"] = "0.1"
    path.write_text(json.dumps(made))
    done = guard("--baseline", path, ONE)
    assert done.returncode == 0, done.stdout
    assert "other versions than the baseline's (cython 0.1 -> " in done.stdout
