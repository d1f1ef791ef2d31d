"""Running some of kazoo's own tests, which its wheel carries, in a process of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

#: Seconds after which a single test shows where all of its threads are. None of kazoo's takes half as long.
STACKS_SECONDS = 120


class Outcome(NamedTuple):
    """How many tests passed and were skipped, and what pytest said."""

    passed: int
    skipped: int
    report: str


def environment(*paths: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """This process's, less what would have kazoo's tests behave differently: options of the outer run, an ensemble of
    somebody's own, and ``CI``, with which kazoo compares the server's version with ``ZOOKEEPER_VERSION``."""
    left_out = ("PYTEST_", "ZOOKEEPER_", *without)
    found = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    found.pop("CI", None)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [*map(str, paths), *sys.path]))
    return found


def run(
    modules: Sequence[str], options: Sequence[str], *, cwd: Path, env: Mapping[str, str], seconds: float
) -> Outcome:
    """Run modules of kazoo.tests. The calling test fails if they do, or are not done in time."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rfEsX", "--tb=short"]
    command += ["-o", f"faulthandler_timeout={STACKS_SECONDS}", *options]
    # A session of its own, so that the servers it starts can be ended with it should it hang.
    process = subprocess.Popen(
        [*command, "--pyargs", *(f"kazoo.tests.{module}" for module in modules)],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"kazoo's tests hang: {' '.join(modules)}\n{output[-40_000:]}")
    report = output[-20_000:]
    assert process.returncode == 0, report
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|skipped)", output)}
    return Outcome(counts.get("passed", 0), counts.get("skipped", 0), report)
