"""One server of each kind, all up at once and loaded by turns: requests a second and latencies."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from servers import Failed, Server

from compare.comparison import Comparison, Group
from compare.peers import Peer
from compare.plan import BACKGROUND, LOADS, Load
from compare.rows import number


class Standalone(Group):
    def __init__(self, comparison: Comparison) -> None:
        super().__init__(comparison)
        self._servers: list[Server] = []
        self._peers: list[Peer] = []
        #: Why some take no part any more. The figures of the others are worth having without them.
        self._failed_peers: dict[type[Peer], str] = {}

    def steps(self) -> dict[str, Callable[[], None]]:
        loads = {name: partial(self.run_load, name) for name in LOADS}
        return {**loads, "background": self.run_background}

    def prepare(self) -> None:
        seconds = self.c.scale.seconds
        self._servers = [self.server(kind, "load") for kind in self.c.kinds]
        for server in self._servers:
            # A JVM is several times slower before its hot code is compiled; nobody wants to know that figure.
            for operation in ("mixed:50", "delete-create", "children"):
                length = ("-c", "32", "-w", "4", "-t", str(seconds), "-u", "0")
                self.c.load(server, "-o", operation, *length, "-p", f"/warm-up-{operation[:5]}")
            self.c.say(f"warmed up: {server.name}")
        self._peers = []
        self._failed_peers.clear()
        for kind in self.c.peers:
            try:
                peer = self.server(kind, "load")
                assert isinstance(peer, Peer)
                # Reads alone: no burst of writes that etcd still buffers is to weigh on the rows of reads, the first.
                peer.run_load(peer.name, Load("get", 32, 4), min(1.0, seconds))
            except Failed as error:
                self._failed_peers[kind] = f"{kind.name}: {error}"
                self.c.say(f"without {kind.name}: {error}")
            else:
                self._peers.append(peer)
                self.c.say(f"warmed up: {peer.name}")

    def close(self) -> None:
        super().close()
        self._servers = []
        self._peers = []

    # ---- closed loops

    def run_load(self, name: str) -> None:
        load = LOADS[name]
        for turn in range(self.c.scale.rounds):
            for server in self._servers:
                # Its own prefix each time: a run of delete-create may leave znodes behind.
                self._told(name, turn, server.name, load, self._zkload(server, load, f"/{name}-{turn}"))
            for peer in list(self._peers):
                for column in peer.columns.get(load.operation, ()):
                    try:
                        result = peer.run_load(column, load, self.c.scale.seconds)
                    except Failed as error:
                        self._failed_peers[type(peer)] = f"{column}: {error}"
                        self.c.say(f"{name}: without {peer.name} from here on: {error}")
                        self._peers.remove(peer)
                        peer.kill()
                        break
                    self._told(name, turn, column, load, result)
        reasons = [reason for kind, reason in self._failed_peers.items() if load.operation in kind.columns]
        self.c.row(name).failure = "; ".join(reasons)

    def _zkload(self, server: Server, load: Load, prefix: str) -> dict[str, Any]:
        seconds = self.c.scale.seconds
        return self.c.load(
            server,
            *("-o", load.operation, "-c", str(load.connections), "-w", str(load.window)),
            *("-t", str(seconds), "-u", str(min(1.0, seconds)), "-k", "1000", "-p", prefix),
        )

    def _told(self, name: str, turn: int, column: str, load: Load, result: dict[str, Any]) -> None:
        self.c.add(name, turn, column, result[load.key], **result)
        self.c.say(f"{name} round {turn + 1}: {column} {result['ops_per_s']:,.0f} /s, p50 {result['p50_us']} µs")

    # ---- reads beside writes

    def run_background(self) -> None:
        """The p99.9 of reads while another program writes at a fixed pace, whatever becomes of it."""
        done: dict[str, list[float]] = {}
        for turn in range(self.c.scale.rounds):
            for server in self._servers:
                result, writes = self._beside_writes(server, f"/background-{turn}")
                done.setdefault(server.name, []).append(writes["done_per_s"])
                self.c.add("background", turn, server.name, result["p999_us"], **result, writes=writes)
                self.c.say(
                    f"background round {turn + 1}: {server.name} p99.9 {result['p999_us']} µs,"
                    f" {writes['done_per_s']:,} writes a second beside it"
                )
        rates = ", ".join(f"{name} {number(median(rates))}" for name, rates in done.items())
        wanted = f"writes a second that were done beside the reads, of {BACKGROUND:,} that were wanted"
        self.c.row("background").note = f"{wanted}: {rates}."

    def _beside_writes(self, server: Server, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
        command = [
            *(str(self.c.programs["zkpaced"]), "-s", f"127.0.0.1:{server.port}", "-r", str(BACKGROUND)),
            *("-t", "300", "-p", f"{prefix}-writes"),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    assert process.stderr is not None
                    raise Failed(server.explain(f"took no writes at a fixed pace: {process.stderr.read().strip()}"))
                # Left behind, so that the pace is not measured over the clean-up of the reader.
                length = ("-t", str(self.c.scale.seconds), "-u", str(min(1.0, self.c.scale.seconds)))
                result = self.c.load(server, "-o", "get", "-c", "32", "-w", "1", *length, "-p", prefix, "-r")
                process.send_signal(signal.SIGTERM)
                output, errors = process.communicate(timeout=60)
            finally:
                process.kill()
        if process.returncode:
            raise Failed(server.explain(f"failed under `{' '.join(command)}`: {errors.strip()} {output.strip()}"))
        writes: dict[str, Any] = json.loads(output)
        return result, writes
