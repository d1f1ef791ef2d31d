"""A server with a million znodes: its memory, and how soon it serves again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from servers import Failed, Server

from compare.comparison import Comparison, Group
from compare.rows import number

PREFIX: Final = "/million"


class Millions(Group):
    def __init__(self, comparison: Comparison) -> None:
        super().__init__(comparison)
        self._servers: list[Server] = []

    def steps(self) -> dict[str, Callable[[], None]]:
        return {"memory": self.run_memory, "restart": self.run_restart}

    def close(self) -> None:
        super().close()
        self._servers = []

    def run_memory(self) -> None:
        anonymous = []
        for kind in self.c.kinds:
            server = self._filled(kind)
            self._servers.append(server)
            time.sleep(2)  # what the server still does behind the last write is part of its work
            resident = server.resident()
            self.c.add("memory", 0, server.name, resident["VmRSS"] / 1e6, **resident)
            anonymous.append(f"{server.name} {number(resident['RssAnon'] / 1e6)} MB")
            self.c.say(f"memory: {server.name} {resident['VmRSS'] / 1e6:.0f} MB")
        self.c.row("memory").note = (
            f"includes pages of mapped files, which the system can take back; without them: {', '.join(anonymous)}."
        )

    def run_restart(self) -> None:
        if not self._servers:
            self._servers = [self._filled(kind) for kind in self.c.kinds]
        for turn in range(self.c.scale.rounds):
            for server in self._servers:
                server.stop()
                began = time.perf_counter()
                server.start()
                session = server.session()
                data = session.get(f"{PREFIX}/k{self.c.scale.znodes - 1 - turn}")
                seconds = time.perf_counter() - began
                session.close()
                if data != b"x" * 128:
                    raise Failed(server.explain("gave other data after the restart"))
                self.c.add("restart", turn, server.name, seconds)
                self.c.say(f"restart round {turn + 1}: {server.name} {seconds:.2f} s")

    def _filled(self, kind: type[Server]) -> Server:
        server = self.server(kind, "million")
        self.c.load(
            server,
            *("-o", "get", "-c", "1", "-w", "256", "-t", "1", "-u", "0"),
            *("-k", str(self.c.scale.znodes), "-b", "128", "-p", PREFIX, "-r"),
        )
        self.c.say(f"{self.c.scale.znodes:,} znodes: {server.name}")
        return server
