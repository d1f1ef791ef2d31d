"""The load generators in C, compiled when they are first needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from programs import compile_program, run_zkload


class Programs:
    """The programs of ``bench/``, compiled into one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> Path:
        """The path of a program. Raises Failed with what the compiler says."""
        target = self._folder / name
        return target if target.exists() else compile_program(name, self._folder)

    def zkload(self, *arguments: str) -> dict[str, Any]:
        """What zkload found. Raises Failed, without a server's log."""
        return run_zkload(self["zkload"], *arguments)
