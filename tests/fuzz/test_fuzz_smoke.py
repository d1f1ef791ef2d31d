"""A few seconds of the fuzzer on the ordinary build; ``make fuzz`` runs it for long on a checked one."""

from __future__ import annotations

import os
from pathlib import Path

import fuzz_frames
import pytest

pytestmark = pytest.mark.skipif(
    os.environ.get("FASTZK_TEST_SERVER", "fastzk") != "fastzk", reason="this fuzzer starts fastzk itself"
)


@pytest.mark.parametrize("seed", [1, 2])
def test_fuzz(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = fuzz_frames.main(["--frames", "40000", "--seed", str(seed), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "frames on" in printed


def test_a_failure_is_found_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that dies fails the run, and what was sent last can be sent again."""
    real = fuzz_frames.Line.write
    count = 0

    def write(line: fuzz_frames.Line) -> None:
        nonlocal count
        count += 1
        if count == 300:
            os.kill(victims[0].pid, 9)
        real(line)

    victims: list[fuzz_frames.Victim] = []
    start = fuzz_frames.Victim.start

    def started(victim: fuzz_frames.Victim) -> None:
        victims.append(victim)
        start(victim)

    monkeypatch.setattr(fuzz_frames.Victim, "start", started)
    monkeypatch.setattr(fuzz_frames.Line, "write", write)
    assert fuzz_frames.main(["--frames", "100000", "--seed", "7", "--out", str(tmp_path)]) == 1
    assert "ended with code -9" in (tmp_path / "failure-7.txt").read_text()
    frames = list(fuzz_frames.read_frames(tmp_path / "failure-7.frames"))
    assert len(frames) > 100
    monkeypatch.undo()
    again = ["--replay", str(tmp_path / "failure-7.frames"), "--out", str(tmp_path)]
    assert fuzz_frames.main(again) == 0  # the frames were innocent
