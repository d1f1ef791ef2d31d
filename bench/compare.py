"""fastzk beside Apache ZooKeeper: the same work on the same machine and disk, by turns. Prints Markdown.

    python bench/compare.py [--rounds 3] [--quick] [--rows get,set,...] [--json FILE] [--dir FOLDER]

Both servers get the same zoo.cfg with nothing tuned, write to fresh directories on a real disk, and are up
at the same time, but only one of them is loaded at a time: A B A B, so that whatever else the machine does
meets both. README.md in this folder says what the rows mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from ensemble import MISSED, Trio, catch_up, failover, full_state, trio
from servers import ZOOKEEPER_JAR, Failed, Fastzk, Server, ZooKeeper

HERE: Final = Path(__file__).resolve().parent
MILLION: Final = "/million"
CHECKPOINTED: Final = "/checkpointed"
#: Changed znodes that set off a checkpoint in the last row.
SNAP_COUNT: Final = 100_000


# ---- what is measured


@dataclass
class Row:
    """A line of the table. `required` bounds the ratio fastzk to ZooKeeper, from below if `higher`.

    `limit` bounds fastzk's own values instead, every one of them, from above.
    """

    title: str
    unit: str
    required: float | None
    higher: bool = True
    values: dict[str, list[float]] = field(default_factory=dict)
    #: For the row that compares fastzk with itself, the ratios of its rounds.
    own_ratios: list[float] = field(default_factory=list)
    note: str = ""
    limit: float | None = None

    def add(self, server: type[Server], value: float) -> None:
        self.values.setdefault(server.name, []).append(value)

    def ratios(self) -> list[float]:
        theirs, ours = self.values.get(ZooKeeper.name, []), self.values.get(Fastzk.name, [])
        return self.own_ratios or [b / a for a, b in zip(theirs, ours, strict=False) if a]

    def ratio(self) -> float | None:
        if self.own_ratios:
            return median(self.own_ratios)
        theirs, ours = self.values.get(ZooKeeper.name), self.values.get(Fastzk.name)
        return median(ours) / median(theirs) if ours and theirs and median(theirs) else None

    def met(self) -> bool | None:
        if self.limit is not None:
            ours = self.values.get(Fastzk.name)
            return max(ours) < self.limit if ours else None
        ratio = self.ratio()
        if ratio is None or self.required is None:
            return None
        return ratio >= self.required if self.higher else ratio <= self.required

    def cells(self) -> list[str]:
        def shown(server: type[Server]) -> str:
            values = self.values.get(server.name)
            if not values:
                return "-"
            worst = f", worst {number(max(values))}" if self.limit is not None and len(values) > 1 else ""
            return f"{number(median(values))}{worst} {self.unit}"

        ratio, ratios, met = self.ratio(), self.ratios(), self.met()
        spread = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratio is not None else "-"
        required = f"{'≥' if self.higher else '≤'} {self.required:g}" if self.required is not None else "-"
        if self.limit is not None:
            required = f"< {number(self.limit)} {self.unit}"
        verdict = {True: "yes", False: "**no**", None: "-"}[met]
        return [self.title, shown(ZooKeeper), shown(Fastzk), spread, required, verdict]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass
class Load:
    """A load zkload can make, and the lines of the table it fills: (title, key in zkload's answer)."""

    operation: str
    connections: int
    window: int
    lines: Sequence[tuple[str, str]]
    required: float | None


LOADS: Final[dict[str, Load]] = {
    "get-32x16": Load("get", 32, 16, [("getData, 32 x 16", "ops_per_s")], 8),
    "get-32x1": Load("get", 32, 1, [("getData, 32 x 1", "ops_per_s")], 2),
    "get-1x1": Load(
        "get", 1, 1, [("getData, 1 x 1, median", "p50_us"), ("getData, 1 x 1, mean", "mean_us")], 0.6
    ),
    "set-32x16": Load("set", 32, 16, [("setData durable, 32 x 16", "ops_per_s")], 4),
    "set-32x1": Load("set", 32, 1, [("setData durable, 32 x 1", "ops_per_s")], 1.5),
    "set-1x1": Load(
        "set", 1, 1, [("setData durable, 1 x 1, median", "p50_us"), ("setData, 1 x 1, mean", "mean_us")], None
    ),
    "delete-create": Load("delete-create", 32, 16, [("delete + create durable, 32 x 16", "ops_per_s")], 3),
    "mixed": Load("mixed:90", 32, 16, [("90 % getData, 10 % setData, 32 x 16", "ops_per_s")], None),
    "children": Load("children", 8, 4, [("getChildren of 1000, 8 x 4", "ops_per_s")], 4),
    "ensemble-set-30x16": Load("set", 30, 16, [("3 servers: setData, 30 x 16", "ops_per_s")], 6),
    "ensemble-set-30x1": Load("set", 30, 1, [("3 servers: setData, 30 x 1", "ops_per_s")], 3),
    "ensemble-get-30x16": Load("get", 30, 16, [("3 servers: getData, 30 x 16", "ops_per_s")], 8),
    "ensemble-mixed": Load("mixed:90", 30, 16, [("3 servers: 90 % getData, 30 x 16", "ops_per_s")], 6),
}
ENSEMBLE_LOADS: Final = tuple(name for name in LOADS if name.startswith("ensemble-"))
ENSEMBLE: Final = (*ENSEMBLE_LOADS, "failover", "catch-up", "full-state")
ROWS: Final = (*(name for name in LOADS if name not in ENSEMBLE), "memory", "restart", "checkpoint", *ENSEMBLE)


class Comparison:
    """The programs, the folder, the servers to compare, and the rows filled so far."""

    def __init__(self, folder: Path, kinds: Sequence[type[Server]], rounds: int, quick: bool) -> None:
        self.folder = folder
        self.kinds = kinds
        self.rounds = rounds
        self.quick = quick
        self.seconds = 1.0 if quick else 5.0
        self.znodes = 100_000 if quick else 1_000_000
        self.missed = MISSED // 10 if quick else MISSED
        self.rows: list[Row] = []
        self.raw: list[dict[str, Any]] = []
        self.zkload = compile_program("zkload", folder)
        self.zkprobe = compile_program("zkprobe", folder)
        self.failover_program = compile_program("failover", folder)
        self._started: list[Server] = []
        self._used: dict[str, int] = {}

    def server(self, kind: type[Server], purpose: str, settings: Sequence[str] = ()) -> Server:
        server = kind(self.folder / f"{kind.__name__.lower()}-{purpose}", settings)
        self._started.append(server)
        server.start()
        return server

    def close(self) -> None:
        for server in self._started:
            server.kill()

    def load(self, server: Server, *arguments: str) -> dict[str, Any]:
        try:
            return self.run_zkload("-s", f"127.0.0.1:{server.port}", *arguments)
        except Failed as error:
            raise Failed(server.explain(str(error))) from None

    def run_zkload(self, *arguments: str) -> dict[str, Any]:
        """What zkload found. Raises Failed, without a server's log."""
        done = subprocess.run([str(self.zkload), *arguments], capture_output=True, text=True, check=False)
        if not done.stdout.strip():
            raise Failed(f"failed under `zkload {shlex.join(arguments)}`: {done.stderr.strip()}")
        result: dict[str, Any] = json.loads(done.stdout)
        if done.returncode or result["errors"]:
            raise Failed(f"answered {result['errors']} errors to `zkload {shlex.join(arguments)}`")
        return result

    # ---- requests a second, and latency

    def run_loads(self, names: Sequence[str]) -> None:
        servers = [self.server(kind, "load") for kind in self.kinds]
        for server in servers:
            # A JVM is several times slower before its hot code is compiled; nobody wants to know that figure.
            for operation in ("mixed:50", "delete-create", "children"):
                length = ("-c", "32", "-w", "4", "-t", str(self.seconds * 0.8), "-u", "0")
                self.load(server, "-o", operation, *length, "-p", f"/warm-up-{operation[:5]}")
            say(f"warmed up: {server.name}")
        for name in names:
            load = LOADS[name]
            rows = [
                Row(title, "/s" if key == "ops_per_s" else "µs", load.required, key == "ops_per_s")
                for title, key in load.lines
            ]
            self.rows += rows
            for turn in range(self.rounds):
                for server in servers:
                    # Its own prefix each time: a run of delete-create may leave znodes behind.
                    prefix = f"/{name}-{turn}"
                    result = self.load(
                        server,
                        *("-o", load.operation, "-c", str(load.connections), "-w", str(load.window)),
                        *(
                            "-t",
                            str(self.seconds),
                            "-u",
                            str(min(1.0, self.seconds)),
                            "-k",
                            "1000",
                            "-p",
                            prefix,
                        ),
                    )
                    self.raw.append({"row": name, "round": turn, "server": server.name, **result})
                    for row, (_, key) in zip(rows, load.lines, strict=True):
                        row.add(type(server), result[key])
                    say(
                        f"{name} round {turn + 1}: {server.name} {result['ops_per_s']:,} /s,"
                        f" p50 {result['p50_us']} µs"
                    )
        for server in servers:
            server.stop()

    # ---- three servers

    def load_ensemble(self, servers: Trio, load: Load, prefix: str) -> dict[str, Any]:
        """One run of zkload over the client ports of all three."""
        try:
            return self.run_zkload(
                *("-s", servers.addresses(), "-o", load.operation, "-c", str(load.connections)),
                *("-w", str(load.window), "-t", str(self.seconds), "-u", str(min(1.0, self.seconds))),
                *("-k", "1000", "-p", prefix),
            )
        except Failed as error:
            raise Failed(servers.explain(str(error))) from None

    def run_ensembles(self, names: Sequence[str]) -> None:
        """Both ensembles are up at the same time and loaded by turns, like the single servers."""
        with ExitStack() as stack:
            both = [stack.enter_context(trio(k, self.folder / f"{k.__name__.lower()}-trio")) for k in self.kinds]
            for servers in both:
                warm_up = Load("mixed:50", 30, 16, [], None)
                self.load_ensemble(servers, warm_up, "/warm-up")
                say(f"warmed up: three of {servers.name}")
            for name in (name for name in ENSEMBLE_LOADS if name in names):
                load = LOADS[name]
                rows = [Row(title, "/s", load.required) for title, _ in load.lines]
                self.rows += rows
                for turn in range(self.rounds):
                    for servers in both:
                        result = self.load_ensemble(servers, load, f"/{name}-{turn}")
                        self.raw.append({"row": name, "round": turn, "server": servers.name, **result})
                        for row, (_, key) in zip(rows, load.lines, strict=True):
                            row.add(servers.kind, result[key])
                        say(f"{name} round {turn + 1}: {servers.name} {result['ops_per_s']:,} /s")
            if "failover" in names:
                row = Row("3 servers: longest gap between writes, leader killed", "ms", None, False, limit=300)
                self.rows.append(row)
                for turn in range(max(self.rounds, 5) if not self.quick else 1):
                    for servers in both:
                        result = failover(self.failover_program, servers, turn)
                        self.raw.append({"row": "failover", "round": turn, "server": servers.name, **result})
                        row.add(servers.kind, result["longest_gap_ms"])
                        say(f"failover round {turn + 1}: {servers.name} {result['longest_gap_ms']:.0f} ms")
            if "catch-up" in names:
                row = Row(f"3 servers: back after {self.missed:,} writes, until in sync", "s", None, False, limit=3)
                self.rows.append(row)
                for turn in range(self.rounds):
                    for servers in both:
                        seconds = catch_up(self.run_zkload, servers, turn, self.missed)
                        self.raw.append(
                            {"row": "catch-up", "round": turn, "server": servers.name, "seconds": seconds}
                        )
                        row.add(servers.kind, seconds)
                        say(f"catch-up round {turn + 1}: {servers.name} {seconds:.2f} s")
            for servers in both:
                servers.stop()

    def run_full_state(self) -> None:
        """One ensemble after the other: with a million znodes each, six servers would fight for the memory."""
        title = f"3 servers: a follower without data, {self.znodes:,} znodes"
        row = Row(f"{title}, until in sync", "s", None, False, limit=15)
        reads = Row(f"{title}: the leader's p99 of getData, 32 x 1, meanwhile", "µs", 2.0, False)
        self.rows += [row, reads]
        for kind in self.kinds:
            with trio(kind, self.folder / f"{kind.__name__.lower()}-whole") as servers:
                sizes: dict[str, Any] = {"znodes": self.znodes, "rounds": self.rounds, "quiet": self.seconds}
                for turn, state in enumerate(full_state(self.run_zkload, self.zkprobe, servers, **sizes)):
                    row.add(kind, state.seconds)
                    reads.add(kind, state.during_us)
                    if kind is Fastzk:
                        reads.own_ratios.append(state.during_us / state.before_us)
                    self.raw.append({"row": "full-state", "round": turn, "server": servers.name, **asdict(state)})
                    say(
                        f"full-state round {turn + 1}: {servers.name} {state.seconds:.2f} s,"
                        f" p99 {state.before_us:.0f} µs before, {state.during_us:.0f} µs during"
                    )
        reads.note = "The ratio of the leader's p99 is to fastzk's own just before."

    # ---- many znodes

    def run_million(self, names: Sequence[str]) -> None:
        title = f"{self.znodes:,} znodes of 128 bytes"
        memory = Row(f"{title}: resident memory", "MB", 0.4, higher=False)
        restart = Row(f"{title}: restart to serving", "s", 0.5, higher=False)
        self.rows += [row for row, name in ((memory, "memory"), (restart, "restart")) if name in names]
        servers = [self.server(kind, "million") for kind in self.kinds]
        for server in servers:
            began = time.perf_counter()
            self.load(
                server,
                *("-o", "get", "-c", "1", "-w", "256", "-t", "1", "-u", "0"),
                *("-k", str(self.znodes), "-b", "128", "-p", MILLION, "-r"),
            )
            time.sleep(2)  # what the server still does behind the last write is part of its work
            resident = server.resident()
            memory.add(type(server), resident["VmRSS"] / 1e6)
            self.raw.append({"row": "memory", "server": server.name, **resident})
            say(
                f"memory: {server.name} {resident['VmRSS'] / 1e6:.0f} MB, of which anonymous"
                f" {resident['RssAnon'] / 1e6:.0f} MB; created in {time.perf_counter() - began:.1f} s"
            )
        anonymous = ", ".join(
            f"{entry['server']} {entry['RssAnon'] / 1e6:.0f} MB"
            for entry in self.raw
            if entry["row"] == "memory"
        )
        memory.note = f"Resident memory includes pages of mapped files; without them: {anonymous}."
        if "restart" in names:
            for turn in range(self.rounds):
                for server in servers:
                    server.stop()
                    began = time.perf_counter()
                    server.start()
                    session = server.session()
                    data = session.get(f"{MILLION}/k{self.znodes - 1 - turn}")
                    seconds = time.perf_counter() - began
                    session.close()
                    if data != b"x" * 128:
                        raise Failed(server.explain("gave other data after the restart"))
                    restart.add(type(server), seconds)
                    self.raw.append(
                        {"row": "restart", "round": turn, "server": server.name, "seconds": seconds}
                    )
                    say(f"restart round {turn + 1}: {server.name} {seconds:.2f} s")
        for server in servers:
            server.stop()

    # ---- reads while a checkpoint is written

    def run_checkpoint(self) -> None:
        """The p99 of getData while fastzk writes a checkpoint, against that of the quiet second before it."""
        row = Row(
            f"getData, 32 x 1, p99 while a checkpoint of {SNAP_COUNT:,} changed znodes runs", "µs", 2.0, False
        )
        self.rows.append(row)
        server = self.server(Fastzk, "checkpoint", [f"snapCount={SNAP_COUNT}"])
        keys = SNAP_COUNT + 50_000  # more than a checkpoint needs: each change below is of another znode
        self.load(
            server,
            *("-o", "get", "-c", "1", "-w", "256", "-t", "1", "-u", "0"),
            *("-k", str(keys), "-b", "128", "-p", CHECKPOINTED, "-r"),
        )
        next_key = 0
        quiet: list[float] = []
        durations: list[float] = []
        for turn in range(self.rounds):
            self._wait_for_checkpoints(server)
            samples_file = self.folder / "samples"
            with samples_file.open("wb") as out:
                probe = subprocess.Popen(
                    [str(self.zkprobe), str(server.port), "32", str(keys), CHECKPOINTED, "120"], stdout=out
                )
                try:
                    time.sleep(0.5)
                    quiet_from = time.monotonic_ns()
                    time.sleep(self.seconds)
                    quiet_to = time.monotonic_ns()
                    started, _ = self._checkpoints(server)
                    session = server.session()
                    changed = busy_from = 0
                    patience = time.monotonic() + 60
                    while self._checkpoints(server)[0] == started:
                        if changed > keys:
                            # Enough of them; the server may still let the checkpoint before rest for a while.
                            if time.monotonic() > patience:
                                raise Failed(server.explain(f"began no checkpoint after {changed} changes"))
                            time.sleep(0.02)
                            busy_from = time.monotonic_ns()
                            continue
                        busy_from = time.monotonic_ns()
                        paths = [f"{CHECKPOINTED}/k{(next_key + i) % keys}" for i in range(250)]
                        session.set_many(paths, b"y" * 128)
                        next_key += len(paths)
                        changed += len(paths)
                    self._wait_for_checkpoints(server)
                    busy_to = time.monotonic_ns()
                    session.close()
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
            row.add(Fastzk, during)
            row.own_ratios.append(during / before)
            quiet.append(before)
            durations.append((busy_to - busy_from) / 1e9)
            self.raw.append(
                {
                    **{"row": "checkpoint", "round": turn, "server": server.name, "changed": changed},
                    **{"seconds": durations[-1], "p99_us_quiet": before, "p99_us_during": during},
                }
            )
            say(
                f"checkpoint round {turn + 1}: {changed:,} changes, {durations[-1]:.2f} s,"
                f" p99 {before:.0f} µs before, {during:.0f} µs during"
            )
        row.note = (
            f"The checkpoint's ratio is to fastzk's own p99 without one, {number(median(quiet))} µs;"
            f" it took {number(median(durations))} s."
        )
        server.stop()

    @staticmethod
    def _checkpoints(server: Server) -> tuple[int, int]:
        """How many checkpoints the log says were started and done."""
        text = server.log.read_text(errors="replace")
        return text.count("checkpoint start"), text.count("checkpoint done")

    def _wait_for_checkpoints(self, server: Server) -> None:
        self._wait_until(server, "end its checkpoints", lambda: len(set(self._checkpoints(server))) == 1)

    @staticmethod
    def _wait_until(server: Server, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                raise Failed(server.explain(f"did not {what} within 60 s"))
            time.sleep(0.002)


def percentile_us(samples: array[int], since: int, until: int, part: float) -> float | None:
    """Of the latencies seen between two times (nanoseconds); None when there are too few to tell."""
    times, latencies = samples[0::2], samples[1::2]
    chosen = sorted(latency for at, latency in zip(times, latencies, strict=True) if since <= at < until)
    return chosen[int(part * len(chosen))] / 1000 if len(chosen) >= 200 else None


def compile_program(name: str, folder: Path) -> Path:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise Failed("no C compiler (cc, gcc or $CC): the load generator is written in C")
    target = folder / name
    command = [*shlex.split(compiler), "-O2", "-o", str(target), str(HERE / f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{shlex.join(command)}:\n{done.stderr}")
    return target


# ---- where it runs


def file_system(folder: Path) -> tuple[str, str]:
    """The device and the type of the file system a folder is on."""
    best, found = "", ("unknown", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, mount, kind = line.split()[:3]
        mount = mount.encode().decode("unicode_escape")
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, found = mount, (device, kind)
    return found


def disk_folder(wanted: str | None) -> Path:
    """A folder on a real disk. Raises Failed when there is none: a disk in memory makes fdatasync free."""
    candidates = [wanted] if wanted else [tempfile.gettempdir(), "/var/tmp", os.getcwd()]
    for candidate in candidates:
        if os.access(candidate, os.W_OK) and file_system(Path(candidate))[1] not in {"tmpfs", "ramfs"}:
            return Path(candidate)
    raise Failed(f"not a writable folder on a real disk: {', '.join(candidates)}; name one with --dir")


def machine(folder: Path) -> list[str]:
    device, kind = file_system(folder)
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return [
        f"{os.cpu_count()} x {model}, Linux {platform.release()}, data on {device} ({kind})",
        f"Python {platform.python_version()}",
    ]


def first_line(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return ((done.stdout or done.stderr).strip().splitlines() or ["unknown"])[0]


def versions(kinds: Sequence[type[Server]]) -> list[str]:
    found = []
    if ZooKeeper in kinds:
        package = (
            first_line(["dpkg-query", "-W", "-f", "${Version}", "zookeeper"])
            if shutil.which("dpkg-query")
            else ""
        )
        java = first_line(["java", "-version"])
        found.append(f"Apache ZooKeeper {package or ZOOKEEPER_JAR.resolve().name}, {java}")
    if Fastzk in kinds:
        found.append(Fastzk.version().stdout.strip())
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def markdown(comparison: Comparison, facts: Sequence[str]) -> str:
    head = ["work", ZooKeeper.name, Fastzk.name, "ratio (spread)", "required", "met"]
    lines = [head, ["---", "---:", "---:", "---:", "---:", "---"], *(row.cells() for row in comparison.rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    how = (
        f"rounds: {comparison.rounds} of {comparison.seconds:g} s; medians, and the ratio's spread over them."
    )
    quick = " Quick: too short for a verdict." if comparison.quick else ""
    notes = [row.note for row in comparison.rows if row.note]
    return "\n".join([*(f"- {fact}" for fact in facts), f"- {how}{quick}", "", table, "", *notes]).rstrip()


def chosen_rows(text: str | None) -> list[str]:
    """`get` stands for `get-32x16`, `get-32x1` and `get-1x1`, and so on; `ensemble` for all its loads."""
    if text is None:
        return list(ROWS)
    rows: list[str] = []
    for word in text.split(","):
        found = [row for row in ROWS if row == word or row.startswith(f"{word}-")]
        if not found:
            raise Failed(f"no row {word!r}; there are {', '.join(ROWS)}")
        rows += [row for row in found if row not in rows]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare fastzk with Apache ZooKeeper on this machine.")
    parser.add_argument("--rounds", type=int, default=None, help="turns of each server (default 3, quick 1)")
    parser.add_argument(
        "--quick", action="store_true", help="a second each and fewer znodes: a check, no verdict"
    )
    parser.add_argument("--rows", help=f"comma-separated, of: {', '.join(ROWS)}; get and set name three each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single result")
    parser.add_argument("--dir", metavar="FOLDER", help="where the data goes; must not be in memory")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--zookeeper-only", action="store_true")
    only.add_argument("--fastzk-only", action="store_true")
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    # A terminated comparison must not leave its servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        rows = chosen_rows(options.rows)
        kinds: list[type[Server]] = []
        wanted: list[type[Server]] = [ZooKeeper] if not options.fastzk_only else []
        wanted += [Fastzk] if not options.zookeeper_only else []
        for kind in wanted:
            if reason := kind.missing():
                if kind is Fastzk or options.zookeeper_only:
                    raise Failed(reason)
                say(f"without Apache ZooKeeper: {reason}")
            else:
                kinds.append(kind)
        parent = disk_folder(options.dir)
        with tempfile.TemporaryDirectory(prefix="fastzk-bench-", dir=parent) as name:
            comparison = Comparison(
                Path(name), kinds, options.rounds or (1 if options.quick else 3), options.quick
            )
            try:
                if loads := [row for row in rows if row in LOADS and row not in ENSEMBLE]:
                    comparison.run_loads(loads)
                if many := [row for row in rows if row in {"memory", "restart"}]:
                    comparison.run_million(many)
                if "checkpoint" in rows and Fastzk in kinds:
                    comparison.run_checkpoint()
                if together := [row for row in rows if row in ENSEMBLE and row != "full-state"]:
                    comparison.run_ensembles(together)
                if "full-state" in rows:
                    comparison.run_full_state()
                facts = [*machine(parent), *versions(kinds)]
            finally:
                comparison.close()
    except Failed as error:
        say(f"compare.py: {error}")
        return 1
    print(markdown(comparison, facts))
    if options.json:
        rows_found = [{**asdict(row), "ratio": row.ratio(), "met": row.met()} for row in comparison.rows]
        report = {"machine": facts, "rows": rows_found, "runs": comparison.raw}
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
