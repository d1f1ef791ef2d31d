"""What all tests share. ``tests/support`` is importable because this file puts ``tests/`` on the path."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from support.servers import Server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the logs of the servers that are running, or ran for this test, to the report of a failure."""
    report = yield
    if report.failed:
        for server in Server.started:
            funcargs: dict[str, Any] = getattr(item, "funcargs", {})
            if server.running or server.directory.is_relative_to(funcargs.get("tmp_path", "/nonexistent")):
                report.sections.append((f"log of {server.kind}", server.log_tail(60)))
    return report
