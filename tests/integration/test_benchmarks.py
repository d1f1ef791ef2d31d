"""The benchmarks run and give figures. How good the figures are is not looked at here: everything is far too short.

asv measures the interpreter that runs the tests, so it neither builds nor installs anything; what it is told by
``asv.conf.json`` is kept but for where it writes.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.servers import require

ROOT = Path(__file__).resolve().parents[2]
#: Some of each file; the sizes are bounded by the environment variables below.
SELECTION = (
    r"codec\.",
    r"znode_tree\.",
    r"transaction_log\.Append",
    r"transaction_log\.GroupCommit\.track_commit",
    r"checkpoint\.Checkpoint\.track_thousand",
    r"recovery\.",
    r"standalone\.Children\.",
    r"three_servers\.Load\.track_median",
    r"many_znodes\.ManyZnodes\.track_restart_on_a_checkpoint",
    r"watches\.FanOut\.track_each",
    r"sessions\.",
    r"client_library\.Library\.track_get",
)
SMALL = {"FASTZK_BENCH_SECONDS": "0.03", "FASTZK_BENCH_ZNODES": "10000"}

pytestmark = pytest.mark.benchmarks


def run(*command: str | Path, environment: Mapping[str, str], seconds: float) -> str:
    """The output of a command that ends in time with exit code 0. What it started ends with it in any case."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        # As from a terminal: under pytest-xdist pytest-benchmark measures nothing.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as late:
            os.killpg(process.pid, signal.SIGTERM)
            output, _ = process.communicate(timeout=30)
            pytest.fail(f"{late}\n{output[-6000:]}")
    assert process.returncode == 0, output[-6000:]
    return output


def test_asv(tmp_path: Path) -> None:
    require(importlib.util.find_spec("asv"), "asv (extra `bench`)")
    require((ROOT / ".git").exists(), "asv needs the project's git repository")
    settings: dict[str, Any] = json.loads((ROOT / "asv.conf.json").read_text())
    settings |= {"repo": str(ROOT), "benchmark_dir": str(ROOT / settings["benchmark_dir"]), "branches": ["HEAD"]}
    settings |= {name: str(tmp_path / name) for name in ("env_dir", "results_dir", "html_dir")}
    configuration = tmp_path / "asv.conf.json"
    configuration.write_text(json.dumps(settings))
    # HOME: where asv keeps what it knows of the machine, which it would ask for. It drops PYTHONPATH.
    environment = {**SMALL, "HOME": str(tmp_path), "ASV_PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    asv = (sys.executable, "-m", "asv", "--config", configuration)
    run(*asv, "machine", "--yes", environment=environment, seconds=60)
    selection = [argument for each in SELECTION for argument in ("--bench", each)]
    # Shorter than --quick would be no use: with that asv does not look at the settings of what is timed.
    short = ("--attribute", "rounds=1", "--attribute", "warmup_time=0", "--attribute", "sample_time=0.0001")
    run(
        *(*asv, "run", *short, "--show-stderr", "--environment", f"existing:{sys.executable}"),
        *("--set-commit-hash", "HEAD", *selection),
        environment=environment,
        seconds=400,
    )
    figures = {}
    (file,) = (path for path in (tmp_path / "results_dir").glob("*/*.json") if path.name != "machine.json")
    stored = json.loads(file.read_text())
    for name, values in stored["results"].items():
        results = dict(zip(stored["result_columns"], values, strict=False))["result"]
        assert results is not None, f"{name} failed"
        figures[name] = [value for value in results if value is not None and not math.isnan(value)]
        assert None not in results, f"{name} failed for some of its parameters"
        assert figures[name], f"{name} gave no figure"
        assert min(figures[name]) >= 0, f"{name} gave {figures[name]}"
    for each in SELECTION:
        assert any(name.startswith(re.sub(r"\\\..*", ".", each)) for name in figures), f"nothing ran of {each}"
    run(*asv, "publish", environment=environment, seconds=120)
    pages = tmp_path / "html_dir"
    assert (pages / "index.html").exists()
    published = json.loads((pages / "index.json").read_text())["benchmarks"]
    assert set(figures) <= set(published)  # the others are there without figures


def test_quick(tmp_path: Path) -> None:
    require(importlib.util.find_spec("pytest_benchmark"), "pytest-benchmark (extra `bench`)")
    found = tmp_path / "found.json"
    run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", tmp_path / "base"),
        *("--benchmark-max-time=0.005", "--benchmark-min-rounds=1", "--benchmark-warmup=off"),
        *(f"--benchmark-json={found}", "bench/quick"),
        environment={},
        seconds=300,
    )
    figures = {each["fullname"]: each["stats"]["median"] for each in json.loads(found.read_text())["benchmarks"]}
    assert min(figures.values()) > 0
    modules = {name.partition("::")[0] for name in figures}
    assert modules == {f"bench/quick/{path.name}" for path in (ROOT / "bench/quick").glob("test_*.py")}
