"""fastzk's client library beside ZooKeeper's C client and kazoo, all on one fastzk server, by turns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from servers import Failed, Fastzk, Server, environment

from compare.comparison import Group
from compare.rows import C_CLIENT, FASTZK, KAZOO

PROGRAM: Final = Path(__file__).resolve().parent / "client_turn.py"
#: Column, and what bench/client.py calls it.
NAMES: Final = {KAZOO: "kazoo", C_CLIENT: "C client", FASTZK: "Client"}


class Clients(Group):
    def steps(self) -> dict[str, Callable[[], None]]:
        return {"clients": self.run}

    def run(self) -> None:
        if Fastzk not in self.c.kinds:
            return
        server = self.server(Fastzk, "clients")
        present = self._turn(server, "prepare")
        columns = [name for name in NAMES if present.get(NAMES[name], True)]
        for turn in range(self.c.scale.rounds):
            for column in columns:
                found = self._turn(server, NAMES[column])
                self.c.add("client-get", turn, column, found["get"], **found)
                self.c.add("client-pipelined", turn, column, found["pipelined"])
                self.c.say(
                    f"clients round {turn + 1}: {column} get {found['get']:.0f} µs,"
                    f" {found['pipelined']:,.0f} /s with 1000 in flight"
                )
        if C_CLIENT not in columns:
            self.c.row("client-get").note = "The C client needs ZooKeeper's headers (libzookeeper-mt-dev)."
        if KAZOO not in columns:
            self.c.row("client-pipelined").note = "kazoo is not installed (pip install 'fastzk[bench]')."

    def _turn(self, server: Server, name: str) -> dict[str, Any]:
        hosts, scale = f"127.0.0.1:{server.port}", 0.1 if self.c.scale.quick else 1.0
        command = [sys.executable, str(PROGRAM), hosts, name, str(scale)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
        if done.returncode:
            raise Failed(server.explain(f"failed under the client {name}: {done.stderr.strip()[-2000:]}"))
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result
