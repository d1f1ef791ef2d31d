"""Thousands of sessions on one server: the memory they take, and how soon all of them know of a change."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

from servers import Failed, Server, allow_open_files

from compare.comparison import Comparison, Group
from compare.rows import number

PATH: Final = "/watched"
#: Open files of a server beside its clients' connections, with room to spare.
OTHER_FILES: Final = 500
#: Seconds in which a server becomes quiet after its start, and after the last session was opened.
SETTLE: Final = 2.0
#: Changes before those that count, for the JVM to compile what they need.
UNMEASURED: Final = 3


class Crowd:
    """The program zkmany with its sessions on one server. ``tell`` gives it a command and returns its answer."""

    def __init__(self, comparison: Comparison, server: Server) -> None:
        self.server = server
        command = [
            *(str(comparison.programs["zkmany"]), "-s", f"127.0.0.1:{server.port}"),
            *("-n", str(comparison.scale.sessions), "-p", PATH),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate(timeout=10)
            raise Failed(self.server.explain(f"failed under zkmany: {errors.strip()}"))
        result: dict[str, Any] = json.loads(line)
        return result

    def tell(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # answer() says why
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Crowds(Group):
    def __init__(self, comparison: Comparison) -> None:
        super().__init__(comparison)
        self._crowds: list[Crowd] = []

    def steps(self) -> dict[str, Callable[[], None]]:
        return {"sessions": self.run_sessions, "fan-out": self.run_fan_out}

    def prepare(self) -> None:
        needed, allowed = self.c.scale.sessions + OTHER_FILES, allow_open_files()
        if allowed < needed:
            raise Failed(f"{needed:,} open files are needed; the hard limit (ulimit -Hn) is {allowed:,}")

    def close(self) -> None:
        for crowd in self._crowds:
            crowd.close()
        self._crowds = []
        super().close()

    def run_sessions(self) -> None:
        """Each round with fresh servers; those of the last one are kept for the watches."""
        anonymous: dict[str, float] = {}
        for turn in range(self.c.scale.rounds):
            self.close()
            for kind in self.c.kinds:
                server = self.server(kind, "crowd", ["maxClientCnxns=0"])
                time.sleep(SETTLE)
                before = server.resident()
                crowd = Crowd(self.c, server)
                self._crowds.append(crowd)
                opened = crowd.answer()
                time.sleep(SETTLE)
                after = server.resident()
                added = {key: after[key] - before[key] for key in before}
                anonymous[server.name] = added["RssAnon"] / 1e6
                self.c.add("sessions", turn, server.name, added["VmRSS"] / 1e6, before=before, after=after, **opened)
                self.c.say(
                    f"sessions round {turn + 1}: {server.name} {added['VmRSS'] / 1e6:.1f} MB added,"
                    f" {opened['sessions']:,} opened in {opened['seconds']:.1f} s"
                )
        told = ", ".join(f"{name} {number(value)} MB" for name, value in anonymous.items())
        self.c.row("sessions").note = (
            "what the resident memory of a server that had just started grows by; what the kernel keeps"
            f" for the sockets is not in it. Anonymous memory alone, last round: {told}."
        )

    def run_fan_out(self) -> None:
        if not self._crowds:
            for kind in self.c.kinds:
                crowd = Crowd(self.c, self.server(kind, "crowd", ["maxClientCnxns=0"]))
                self._crowds.append(crowd)
                crowd.answer()
        for _ in range(UNMEASURED):
            for crowd in self._crowds:
                crowd.tell("watch")
                crowd.tell("change")
        for turn in range(max(self.c.scale.rounds, 5)):
            for crowd in self._crowds:
                watched = crowd.tell("watch")
                time.sleep(0.3)
                found = crowd.tell("change")
                self.c.add("fan-out", turn, crowd.server.name, found["last_ms"], watch_s=watched["seconds"], **found)
                self.c.say(
                    f"fan-out round {turn + 1}: {crowd.server.name} {found['last_ms']:.1f} ms until the last event,"
                    f" {found['median_ms']:.1f} ms until the middle one"
                )
