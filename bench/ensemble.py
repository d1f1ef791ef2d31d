"""Three servers as one: what they do together, how long they miss a leader, how soon one is back that was away.

    python bench/ensemble.py [--kind fastzk|zookeeper] [--rounds 3] [--quick] [load failover catch-up full-state]

prints what it measures of one kind of server as JSON lines; bench/compare.py uses the same to compare the two.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from servers import Failed, Fastzk, Server, ZooKeeper, free_port

#: Writes that a server misses while it is away.
MISSED: Final = 100_000
#: Seconds for a server to be as far as the others again.
PATIENCE: Final = 300.0


class Trio:
    """Three servers of one kind; ``start`` returns when each gives sessions, ``close`` ends what still runs."""

    def __init__(self, kind: type[Server], directory: Path, settings: Sequence[str] = ()) -> None:
        self.kind = kind
        self.name = kind.name
        ports = {i: (free_port(), free_port()) for i in (1, 2, 3)}
        lines = [f"server.{i}=127.0.0.1:{quorum}:{election}" for i, (quorum, election) in ports.items()]
        limits = ["initLimit=10", "syncLimit=5", "4lw.commands.whitelist=srvr"]
        self.servers = {i: kind(directory / f"server-{i}", [*limits, *lines, *settings]) for i in ports}
        for i in ports:
            self.forget(i)

    def forget(self, i: int) -> None:
        """Remove all data of a server that does not run."""
        data = self.servers[i].directory / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        (data / "myid").write_text(f"{i}\n")

    def start(self) -> None:
        for server in self.servers.values():
            server.launch()
        for server in self.servers.values():
            server.session(time.perf_counter() + 120).close()

    def stop(self) -> None:
        for server in self.servers.values():
            server.stop()

    def close(self) -> None:
        for server in self.servers.values():
            server.kill()

    def addresses(self, *first: int) -> str:
        """Of the client ports, those of the servers named and no others; of all if none is named."""
        return ",".join(f"127.0.0.1:{self.servers[i].port}" for i in first or self.servers)

    def mode(self, i: int) -> str:
        """What a server says it is: ``leader``, ``follower``; empty if it says nothing."""
        try:
            with socket.create_connection(("127.0.0.1", self.servers[i].port), timeout=2) as sock:
                sock.sendall(b"srvr")
                answer = b""
                while chunk := sock.recv(65536):
                    answer += chunk
        except OSError:
            return ""
        _, found, rest = answer.decode(errors="replace").partition("Mode: ")
        return rest.split()[0] if found else ""

    def leader(self) -> int:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            leaders = [
                i for i, server in self.servers.items() if server.process is not None and self.mode(i) == "leader"
            ]
            if len(leaders) == 1:
                return leaders[0]
            time.sleep(0.01)
        raise Failed(self.explain("have no leader"))

    def explain(self, what: str) -> str:
        return "\n".join(server.explain(what) for server in self.servers.values())

    def wait_for(self, i: int, path: str) -> None:
        """Until a server shows that znode; one session after the other, for it may break them."""
        deadline = time.perf_counter() + PATIENCE
        while True:
            session = self.servers[i].session(deadline)
            try:
                session.get(path)
                return
            except OSError:
                if time.perf_counter() > deadline:
                    raise Failed(self.explain(f"did not catch up within {PATIENCE:g} s")) from None
            finally:
                session.close()
            time.sleep(0.005)


@contextmanager
def trio(kind: type[Server], directory: Path, settings: Sequence[str] = ()) -> Iterator[Trio]:
    """Three servers that run inside the ``with``."""
    made = Trio(kind, directory, settings)
    try:
        made.start()
        yield made
    finally:
        made.close()


# ---- a leader is killed


def failover(program: Path, servers: Trio, turn: int, seconds: float = 6.0) -> dict[str, Any]:
    """Kill the leader with -9 under load, and start it again: what ``failover`` found, with ``longest_gap_ms``."""
    leader = servers.leader()
    command = [str(program), "-s", servers.addresses(), "-c", "30", "-t", str(seconds), "-p", f"/failover-{turn}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise Failed(servers.explain(f"gave no sessions to `{' '.join(command)}`"))
            time.sleep(1.5)
            killed = time.monotonic_ns()
            servers.servers[leader].kill()
            output, errors = process.communicate(timeout=seconds + 60)
        finally:
            process.kill()
    if process.returncode:
        raise Failed(servers.explain(f"failed under `{' '.join(command)}`: {errors.strip()}"))
    result: dict[str, Any] = json.loads(output)
    result["gap_after_kill_ms"] = (result["gap_began_ns"] - killed) / 1e6
    servers.servers[leader].start()
    return result


# ---- a server was away


def missing_writes(load: Callable[..., object], servers: Trio, away: int, prefix: str, count: int) -> str:
    """Write while a server does not run; returns the path that is created last."""
    others = servers.addresses(*(i for i in servers.servers if i != away))
    load(
        *("-s", others, "-o", "get", "-c", "1", "-w", "256", "-t", "0.2", "-u", "0"),
        *("-k", str(count), "-b", "128", "-p", prefix, "-r"),
    )
    return f"{prefix}/k{count - 1}"


def catch_up(load: Callable[..., object], servers: Trio, turn: int, count: int = MISSED) -> float:
    """Seconds from the start of a follower's process until it shows the last of the writes it missed."""
    leader = servers.leader()
    away = next(i for i in servers.servers if i != leader)
    servers.servers[away].kill()
    last = missing_writes(load, servers, away, f"/missed-{turn}", count)
    began = time.perf_counter()
    servers.servers[away].launch()
    servers.wait_for(away, last)
    return time.perf_counter() - began


@dataclass
class FullState:
    """A follower without data joins: ``seconds`` until it shows the last of the ``znodes``.

    ``before_us`` and ``during_us`` are the 99th percentiles of the leader's getData, 32 x 1.
    """

    znodes: int
    seconds: float
    before_us: float
    during_us: float


def full_state(
    load: Callable[..., object], probe: Path, servers: Trio, *, znodes: int, rounds: int, quiet: float
) -> Iterator[FullState]:
    """Give the ensemble so many znodes; then, again and again, have a follower begin with nothing.

    ``quiet``: seconds of reads before the follower starts.
    """
    leader = servers.leader()
    away = next(i for i in servers.servers if i != leader)
    prefix = "/whole"
    last = missing_writes(load, servers, away, prefix, znodes)
    servers.wait_for(away, last)
    for _ in range(rounds):
        servers.servers[away].stop()
        servers.forget(away)
        time.sleep(1.0)
        samples_file = servers.servers[leader].directory / "samples"
        with samples_file.open("wb") as out:
            command = [str(probe), str(servers.servers[leader].port), "32", str(znodes), prefix, "600"]
            process = subprocess.Popen(command, stdout=out)
            try:
                time.sleep(0.5)
                quiet_from = time.monotonic_ns()
                time.sleep(quiet)
                busy_from = time.monotonic_ns()
                servers.servers[away].launch()
                servers.wait_for(away, last)
                busy_to = time.monotonic_ns()
            finally:
                process.send_signal(signal.SIGTERM)
                failed = process.wait(60)
        if failed:
            raise Failed(servers.explain("failed under zkprobe"))
        samples = array("Q")
        samples.frombytes(samples_file.read_bytes())
        yield FullState(
            znodes,
            (busy_to - busy_from) / 1e9,
            p99_us(samples, quiet_from, busy_from),
            p99_us(samples, busy_from, busy_to),
        )


def p99_us(samples: array[int], since: int, until: int) -> float:
    """Of the pairs (time, latency), both in ns, those between two times."""
    chosen = sorted(latency for at, latency in zip(samples[::2], samples[1::2], strict=True) if since <= at < until)
    if len(chosen) < 200:
        raise Failed(f"only {len(chosen)} answers came while they were to be measured")
    return chosen[int(0.99 * len(chosen))] / 1000


# ---- on its own


def main(arguments: Sequence[str] | None = None) -> int:
    # here, for they import this
    from compare.ensembles import load_ensemble
    from compare.machine import disk_folder
    from compare.plan import ENSEMBLE_LOADS, Scale
    from compare.programs import Programs

    parser = argparse.ArgumentParser(description="Measure three servers of one kind.")
    parser.add_argument("what", nargs="*", help="load, failover, catch-up, full-state; all if none is named")
    parser.add_argument("--kind", choices=["fastzk", "zookeeper"], default="fastzk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dir", metavar="FOLDER")
    options = parser.parse_args(arguments)
    kind: type[Server] = Fastzk if options.kind == "fastzk" else ZooKeeper
    what = options.what or ["load", "failover", "catch-up", "full-state"]

    def tell(**result: Any) -> None:
        print(json.dumps(result), flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory(prefix="fastzk-bench-", dir=disk_folder(options.dir)) as name:
            programs, scale = Programs(Path(name)), Scale.make(options.quick, options.rounds)
            with trio(kind, Path(name) / "trio") as servers:
                for turn in range(options.rounds if "load" in what else 0):
                    for row, load in ENSEMBLE_LOADS.items():
                        result = load_ensemble(programs, servers, load, scale.seconds, f"/{row}-{turn}")
                        tell(row=row, **result)
                for turn in range(options.rounds if "failover" in what else 0):
                    tell(row="failover", **failover(programs["failover"], servers, turn))
                for turn in range(options.rounds if "catch-up" in what else 0):
                    tell(row="catch-up", seconds=catch_up(programs.zkload, servers, turn, scale.missed))
            if "full-state" in what:
                with trio(kind, Path(name) / "whole") as servers:
                    sizes: dict[str, Any] = {"znodes": scale.znodes, "rounds": scale.rounds, "quiet": scale.seconds}
                    for state in full_state(programs.zkload, programs["zkprobe"], servers, **sizes):
                        tell(row="full-state", **vars(state))
    except Failed as error:
        print(f"ensemble.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
