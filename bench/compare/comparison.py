"""What all steps of a comparison share: the folder, the kinds of servers, the rows, and every single result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from servers import Failed, Server

from compare.peers import Peer
from compare.plan import Scale, make_rows
from compare.programs import Programs
from compare.progress import Progress
from compare.rows import Row


class Comparison:
    """``kinds`` speak ZooKeeper's protocol; ``peers`` take part where they have an equal."""

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[type[Server]],
        peers: Sequence[type[Peer]],
        scale: Scale,
        progress: Progress,
    ) -> None:
        self.folder = folder
        self.kinds = kinds
        self.peers = peers
        self.scale = scale
        self.progress = progress
        self.rows = make_rows(scale)
        #: Names of the rows that are part of this comparison, in the report's order.
        self.chosen: list[str] = []
        #: Every single result, as the programs gave it, with ``row``, ``round`` and ``column``.
        self.runs: list[dict[str, Any]] = []
        self.programs = Programs(folder)
        self._made = 0

    def say(self, text: str) -> None:
        self.progress.say(text)

    def new_folder(self, purpose: str) -> Path:
        """A path that does not exist yet: a step that failed is begun again with fresh directories."""
        self._made += 1
        return self.folder / f"{self._made}-{purpose}"

    def add(self, name: str, turn: int, column: str, value: float, **result: Any) -> None:
        """One figure of a row, and whatever else is known of that run."""
        if name not in self.chosen:
            return
        row = self.rows[name]
        row.add(column, value)
        self.runs.append({"row": name, "round": turn, "column": column, "value": value, **result})

    def row(self, name: str) -> Row:
        return self.rows[name]

    def load(self, server: Server, *arguments: str) -> dict[str, Any]:
        """zkload on one server. Raises Failed with the end of the server's log."""
        try:
            return self.programs.zkload("-s", f"127.0.0.1:{server.port}", *arguments)
        except Failed as error:
            raise Failed(server.explain(str(error))) from None


class Group:
    """Steps that share servers. ``prepare`` starts them, ``close`` ends them, and each may happen again."""

    def __init__(self, comparison: Comparison) -> None:
        self.c = comparison
        self._started: list[Server] = []

    def server(self, kind: type[Server], purpose: str, settings: Sequence[str] = ()) -> Server:
        """A started server that ends with the group."""
        server = kind(self.c.new_folder(f"{kind.__name__.lower()}-{purpose}"), settings)
        self._started.append(server)
        server.start()
        return server

    def prepare(self) -> None:
        """Start what the steps need."""

    def steps(self) -> dict[str, Callable[[], None]]:
        """What there is to do here, by name."""
        raise NotImplementedError

    def close(self) -> None:
        for server in self._started:
            server.kill()
        self._started.clear()
