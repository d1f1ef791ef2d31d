"""Reads while fastzk writes a checkpoint, beside reads of a few quiet seconds before."""

from __future__ import annotations

import signal
import subprocess
import time
from array import array
from collections.abc import Callable
from typing import Final

from servers import Failed, Fastzk, Server

from compare.comparison import Group
from compare.plan import SNAP_COUNT
from compare.rows import BEFORE, FASTZK

PREFIX: Final = "/checkpointed"
#: More znodes than a checkpoint needs changes: each change below is of another one.
KEYS: Final = SNAP_COUNT + 50_000


class Checkpoints(Group):
    def steps(self) -> dict[str, Callable[[], None]]:
        return {"checkpoint": self.run}

    def run(self) -> None:
        if Fastzk not in self.c.kinds:
            return
        server = self.server(Fastzk, "checkpoint", [f"snapCount={SNAP_COUNT}"])
        self.c.load(
            server,
            *("-o", "get", "-c", "1", "-w", "256", "-t", "1", "-u", "0"),
            *("-k", str(KEYS), "-b", "128", "-p", PREFIX, "-r"),
        )
        next_key = 0
        for turn in range(self.c.scale.rounds):
            wait_for_checkpoints(server)
            samples_file = server.directory / "samples"
            with samples_file.open("wb") as out:
                probe = subprocess.Popen(
                    [str(self.c.programs["zkprobe"]), str(server.port), "32", str(KEYS), PREFIX, "120"], stdout=out
                )
                try:
                    time.sleep(0.5)
                    quiet_from = time.monotonic_ns()
                    time.sleep(self.c.scale.seconds)
                    quiet_to = time.monotonic_ns()
                    changed, busy_from = set_off(server, next_key)
                    next_key += changed
                    wait_for_checkpoints(server)
                    busy_to = time.monotonic_ns()
                finally:
                    probe.send_signal(signal.SIGTERM)
                    failed = probe.wait(30)
            if failed:
                raise Failed(server.explain("failed under zkprobe"))
            samples = array("Q")
            samples.frombytes(samples_file.read_bytes())
            before = percentile_us(samples, quiet_from, quiet_to, 0.99)
            during = percentile_us(samples, busy_from, busy_to, 0.99)
            if before is None or during is None:
                raise Failed(server.explain("answered nothing, or its checkpoint was too short to measure"))
            seconds = (busy_to - busy_from) / 1e9
            self.c.add("checkpoint", turn, BEFORE, before)
            self.c.add("checkpoint", turn, FASTZK, during, changed=changed, seconds=seconds)
            self.c.say(
                f"checkpoint round {turn + 1}: {changed:,} changes, {seconds:.2f} s,"
                f" p99 {before:.0f} µs before, {during:.0f} µs during"
            )
        self.c.row(
            "checkpoint"
        ).note = "ZooKeeper's snapshots are something else, so fastzk is compared with its own reads just before."


def set_off(server: Server, next_key: int) -> tuple[int, int]:
    """Change znodes until a checkpoint starts; how many, and when it was not yet seen (time.monotonic_ns)."""
    started, _ = checkpoints(server)
    session = server.session()
    changed, busy_from, patience = 0, time.monotonic_ns(), time.monotonic() + 60
    while checkpoints(server)[0] == started:
        busy_from = time.monotonic_ns()
        if changed > KEYS:
            # Enough of them; the server may still let the checkpoint before rest for a while.
            if time.monotonic() > patience:
                raise Failed(server.explain(f"began no checkpoint after {changed} changes"))
            time.sleep(0.02)
            continue
        paths = [f"{PREFIX}/k{(next_key + changed + i) % KEYS}" for i in range(250)]
        session.set_many(paths, b"y" * 128)
        changed += len(paths)
    session.close()
    return changed, busy_from


def checkpoints(server: Server) -> tuple[int, int]:
    """How many checkpoints the log says were started and done."""
    text = server.log.read_text(errors="replace")
    return text.count("checkpoint start"), text.count("checkpoint done")


def wait_for_checkpoints(server: Server) -> None:
    """Until none is under way."""
    deadline = time.monotonic() + 60
    while len(set(checkpoints(server))) != 1:
        if time.monotonic() > deadline:
            raise Failed(server.explain("did not end its checkpoints within 60 s"))
        time.sleep(0.002)


def percentile_us(samples: array[int], since: int, until: int, part: float) -> float | None:
    """Of the latencies seen between two times (nanoseconds); None when there are too few to tell."""
    times, latencies = samples[0::2], samples[1::2]
    chosen = sorted(latency for at, latency in zip(times, latencies, strict=True) if since <= at < until)
    return chosen[int(part * len(chosen))] / 1000 if len(chosen) >= 200 else None
