"""Polling before sleeping: while events come quickly, and never for long."""

from __future__ import annotations

import time
from pathlib import Path

from parts import Parts
from support import wire

from fastzk.server._spin import Spinner


def test_a_busy_loop_polls_for_a_moment_and_then_sleeps(tmp_path: Path) -> None:
    with Parts(tmp_path) as parts:
        client = parts.session()
        parts.pipeline.spinner = Spinner(parts.turns, 500_000)  # type: ignore[arg-type]
        for _ in range(200):
            client.send(wire.get_data("/"))
        assert parts.turns, "nothing is scheduled: the loop would sleep"
        deadline = time.monotonic() + 20
        while parts.turns:
            assert time.monotonic() < deadline, "it polls for ever"
            parts.turn()
        assert len(client.replies()) == 200


def test_it_can_be_off(tmp_path: Path) -> None:
    with Parts(tmp_path) as parts:
        client = parts.session()
        parts.pipeline.spinner = Spinner(parts.turns, 0)  # type: ignore[arg-type]
        for _ in range(200):
            client.send(wire.get_data("/"))
        assert not parts.turns
