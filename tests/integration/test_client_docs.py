"""The examples of docs/client.md and docs/from-kazoo.md run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import Server

ROOT = Path(__file__).parents[2]
TEXT = "".join((ROOT / "docs" / name).read_text() for name in ("client.md", "from-kazoo.md"))
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
#: Modules of tests that use the fixtures.
TEST_EXAMPLES = re.findall(r"^```python test\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(any_server: Server, number: int) -> None:
    assert "127.0.0.1:2181" in EXAMPLES[number]
    if "opentelemetry" in EXAMPLES[number] and not os.environ.get("CI"):
        pytest.importorskip("opentelemetry.sdk")
    code = EXAMPLES[number].replace("127.0.0.1:2181", any_server.hosts)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    # An example that ends a session has the client say so.
    said = [line for line in done.stderr.splitlines() if not line.startswith("session expired ")]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("number", range(len(TEST_EXAMPLES)))
def test_example_of_tests(tmp_path: Path, number: int) -> None:
    (tmp_path / "test_example.py").write_text(TEST_EXAMPLES[number])
    # Where the tests run from a checkout that is not installed, the plugin is named.
    plugins = ["-p", "no:fastzk", "-p", "fastzk.testing.plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ.get("PATH", "")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
