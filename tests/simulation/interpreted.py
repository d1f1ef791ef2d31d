"""Importing this first has the broadcast's modules interpreted from their sources, instead of compiled.

A compiled function cannot be changed, and ``mutations.py`` lives by that. Nothing of ``fastzk.server.zab`` may have
been imported before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGE = "fastzk.server.zab."
FOLDER = Path(__file__).parents[2] / "fastzk" / "server" / "zab"


class _Sources(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PACKAGE):
            return None
        return spec_from_file_location(fullname, FOLDER / f"{fullname.removeprefix(PACKAGE)}.py")


assert not any(name.startswith(PACKAGE) for name in sys.modules), "the broadcast was imported already"
sys.meta_path.insert(0, _Sources())
