"""What a comparison found, as one JSON file: written after every row, and read again to render the report."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from servers import Failed

from compare.rows import Row

FORMAT: Final = 2


@dataclass
class Results:
    """``facts``: machine, disk, versions, by name. ``runs``: every single result, as the programs gave it."""

    date: str
    rounds: int
    seconds: float
    quick: bool
    facts: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    #: How long the comparison took, in seconds, so far.
    took: float = 0.0

    def columns(self) -> Sequence[str]:
        """Every column any row has a figure in."""
        return list(dict.fromkeys(column for row in self.rows for column in row.values))

    def write(self, path: Path) -> None:
        """In one step, so that a comparison which is ended leaves a whole file."""
        content = {**vars(self), "format": FORMAT, "rows": [row.to_json() for row in self.rows]}
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        os.replace(draft, path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises Failed when it is no such file."""
        try:
            content = json.loads(path.read_text())
            if content.pop("format", None) != FORMAT:
                raise Failed(f"{path} was not written by this version of compare.py")
            rows = [Row.from_json(row) for row in content.pop("rows")]
            return cls(rows=rows, **content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failed(f"{path} holds no results: {error}") from error
