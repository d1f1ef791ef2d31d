"""Three servers of each kind: loads by turns, a leader killed, a follower that was away or has no data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from ensemble import Trio, catch_up, failover, full_state
from servers import Failed

from compare.comparison import Comparison, Group
from compare.plan import ENSEMBLE_LOADS, Load
from compare.programs import Programs
from compare.rows import BEFORE, FASTZK


def load_ensemble(programs: Programs, servers: Trio, load: Load, seconds: float, prefix: str) -> dict[str, Any]:
    """One run of zkload over the client ports of all three."""
    try:
        return programs.zkload(
            *("-s", servers.addresses(), "-o", load.operation, "-c", str(load.connections), "-w", str(load.window)),
            *("-t", str(seconds), "-u", str(min(1.0, seconds)), "-k", "1000", "-p", prefix),
        )
    except Failed as error:
        raise Failed(servers.explain(str(error))) from None


class Ensembles(Group):
    """Both ensembles are up at the same time and are loaded by turns, like the single servers."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(comparison)
        self._trios: list[Trio] = []

    def steps(self) -> dict[str, Callable[[], None]]:
        loads = {name: partial(self.run_load, name) for name in ENSEMBLE_LOADS}
        return {**loads, "failover": self.run_failover, "catch-up": self.run_catch_up}

    def prepare(self) -> None:
        for kind in self.c.kinds:
            servers = Trio(kind, self.c.new_folder(f"{kind.__name__.lower()}-trio"))
            self._trios.append(servers)
            servers.start()
            warm_up = Load("mixed:50", 30, 16)
            load_ensemble(self.c.programs, servers, warm_up, self.c.scale.seconds, "/warm-up")
            self.c.say(f"warmed up: three of {servers.name}")

    def close(self) -> None:
        for servers in self._trios:
            servers.close()
        self._trios = []
        super().close()

    def run_load(self, name: str) -> None:
        load = ENSEMBLE_LOADS[name]
        for turn in range(self.c.scale.rounds):
            for servers in self._trios:
                prefix = f"/{name}-{turn}"
                result = load_ensemble(self.c.programs, servers, load, self.c.scale.seconds, prefix)
                self.c.add(name, turn, servers.name, result[load.key], **result)
                self.c.say(f"{name} round {turn + 1}: {servers.name} {result['ops_per_s']:,} /s")

    def run_failover(self) -> None:
        for turn in range(1 if self.c.scale.quick else max(self.c.scale.rounds, 5)):
            for servers in self._trios:
                result = failover(self.c.programs["failover"], servers, turn, 5.0)
                self.c.add("failover", turn, servers.name, result["longest_gap_ms"], **result)
                self.c.say(f"failover round {turn + 1}: {servers.name} {result['longest_gap_ms']:.0f} ms")

    def run_catch_up(self) -> None:
        for turn in range(self.c.scale.rounds):
            for servers in self._trios:
                seconds = catch_up(self.c.programs.zkload, servers, turn, self.c.scale.missed)
                self.c.add("catch-up", turn, servers.name, seconds)
                self.c.say(f"catch-up round {turn + 1}: {servers.name} {seconds:.2f} s")


class FullStates(Group):
    """One ensemble after the other: with a million znodes each, six servers would fight for the memory."""

    def steps(self) -> dict[str, Callable[[], None]]:
        return {"full-state": self.run}

    def run(self) -> None:
        scale = self.c.scale
        sizes: dict[str, Any] = {"znodes": scale.znodes, "rounds": scale.rounds, "quiet": scale.seconds}
        for kind in self.c.kinds:
            servers = Trio(kind, self.c.new_folder(f"{kind.__name__.lower()}-whole"))
            try:
                servers.start()
                states = full_state(self.c.programs.zkload, self.c.programs["zkprobe"], servers, **sizes)
                for turn, state in enumerate(states):
                    self.c.add("full-state", turn, kind.name, state.seconds, **asdict(state))
                    if kind.name == FASTZK:
                        self.c.add("full-state-reads", turn, BEFORE, state.before_us)
                    self.c.add("full-state-reads", turn, kind.name, state.during_us)
                    self.c.say(
                        f"full-state round {turn + 1}: {servers.name} {state.seconds:.2f} s,"
                        f" p99 {state.before_us:.0f} µs before, {state.during_us:.0f} µs during"
                    )
            finally:
                servers.close()
