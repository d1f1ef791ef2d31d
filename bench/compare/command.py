"""The command line of bench/compare.py: which rows, on which servers, and where the report goes."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from servers import Failed, Fastzk, Server, ZooKeeper, allow_open_files

from compare.checkpoints import Checkpoints
from compare.clients import Clients
from compare.comparison import Comparison, Group
from compare.crowds import Crowds
from compare.ensembles import Ensembles, FullStates
from compare.machine import disk_folder, machine, versions
from compare.millions import Millions
from compare.peers import PEERS, Etcd, Peer
from compare.plan import ROWS, Scale, chosen_rows, cost, steps
from compare.progress import Progress, clock
from compare.report import summary, write_report
from compare.results import Results
from compare.standalone import Standalone

GROUPS: Final[tuple[type[Group], ...]] = (Standalone, Checkpoints, Crowds, Millions, Ensembles, FullStates, Clients)
#: What may go wrong with a row without an end to the comparison.
ERRORS: Final = (Failed, OSError, ValueError, KeyError, subprocess.SubprocessError)


class Run:
    """One comparison: goes through the steps, and saves what is known after each."""

    def __init__(self, comparison: Comparison, results: Results, json_file: Path | None) -> None:
        self._comparison = comparison
        self._results = results
        self._json_file = json_file
        self._groups = [kind(comparison) for kind in GROUPS]
        self._prepared: Group | None = None
        self._unprepared: dict[Group, str] = {}

    def go(self, todo: Sequence[str]) -> None:
        try:
            for step in todo:
                self._comparison.progress.begin(step)
                if not step.endswith("warm-up"):  # that is what the first step of a group does anyway
                    self._step(step)
                    self._save()
        finally:
            for group in self._groups:
                group.close()

    def _step(self, step: str) -> None:
        group = next(group for group in self._groups if step in group.steps())
        prepared = False
        try:
            if group in self._unprepared:
                raise Failed(self._unprepared[group])
            if self._prepared is not group:
                if self._prepared:
                    self._prepared.close()
                self._prepared = group
                group.prepare()
            prepared = True
            group.steps()[step]()
        except ERRORS as error:
            reason = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            self._comparison.say(f"{step} failed: {reason}")
            for name in self._comparison.chosen:
                if filled_by(name, step):
                    self._comparison.row(name).failure = reason
            # The next step of these servers begins with new ones, unless those do not even start.
            group.close()
            self._prepared = None
            if not prepared:
                self._unprepared[group] = reason

    def _save(self) -> None:
        names = self._comparison.chosen
        self._results.rows = [row for name in names if (row := self._comparison.row(name)).values or row.failure]
        self._results.runs = self._comparison.runs
        self._results.took = round(self._comparison.progress.elapsed(), 1)
        if self._json_file:
            self._results.write(self._json_file)


def filled_by(row: str, step: str) -> bool:
    return (
        row == step
        or (step == "full-state" and row == "full-state-reads")
        or (step == "clients" and row.startswith("client-"))
    )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/compare.py", description="fastzk beside Apache ZooKeeper, Redis and etcd, on this machine."
    )
    parser.add_argument("--rounds", type=int, default=None, help="turns of each server (default 3, quick 1)")
    parser.add_argument(
        "--quick", action="store_true", help="a second each, fewer znodes and sessions: a check, no verdict"
    )
    parser.add_argument("--rows", help=f"comma-separated, of: {', '.join(ROWS)}; get and set name three each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single result, after each row")
    parser.add_argument(
        "--report", type=Path, metavar="FOLDER", help="write report.md, its plots (SVG and PNG) and results.json there"
    )
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="given", help="measure nothing: render what --json or --report wrote"
    )
    parser.add_argument("--dir", metavar="FOLDER", help="where the data goes; must not be in memory")
    parser.add_argument(
        "--peers", default=",".join(PEERS), metavar="NAMES", help=f"of {', '.join(PEERS)}, or none (default: all)"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--zookeeper-only", action="store_true", help="without fastzk, without the peers")
    only.add_argument("--fastzk-only", action="store_true", help="without ZooKeeper, without the peers")
    return parser


def chosen_servers(options: argparse.Namespace) -> tuple[list[type[Server]], list[type[Peer]]]:
    """Those that take part, because they are wanted and can be run. Raises Failed without any."""
    kinds: list[type[Server]] = []
    wanted: list[type[Server]] = [] if options.fastzk_only else [ZooKeeper]
    wanted += [] if options.zookeeper_only else [Fastzk]
    for kind in wanted:
        if not (reason := kind.missing()):
            kinds.append(kind)
        elif kind is Fastzk or options.zookeeper_only:
            raise Failed(reason)
        else:
            say(f"without Apache ZooKeeper: {reason}")
    peers: list[type[Peer]] = []
    names = "none" if options.zookeeper_only or options.fastzk_only else options.peers
    for name in [] if names == "none" else names.split(","):
        if name not in PEERS:
            raise Failed(f"no server {name!r}; there are {', '.join(PEERS)}")
        if reason := PEERS[name].missing():
            say(f"without {PEERS[name].name}: {reason}")
        else:
            peers.append(PEERS[name])
    return kinds, peers


def measure(options: argparse.Namespace) -> Results:
    """Run the comparison. Raises Failed when it cannot begin."""
    scale = Scale.make(options.quick, options.rounds)
    rows = chosen_rows(options.rows)
    kinds, peers = chosen_servers(options)
    json_file = options.json or (options.report / "results.json" if options.report else None)
    parent = disk_folder(options.dir)
    if options.report and importlib.util.find_spec("matplotlib") is None:
        say("without plots: there is no matplotlib (pip install 'fastzk[bench]')")
    allow_open_files()
    todo = steps(rows)
    with tempfile.TemporaryDirectory(prefix="fastzk-bench-", dir=parent) as name:
        folder = Path(name)
        progress = Progress({step: cost(step, scale, columns(step, kinds, peers)) for step in todo})
        comparison = Comparison(folder, kinds, peers, scale, progress)
        comparison.chosen = [row for row in ROWS if row in rows]
        if Etcd in peers:
            Etcd.program = comparison.programs["etcdload"]
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        facts = {**machine(parent), **versions([*kinds, *peers])}
        results = Results(now, scale.rounds, scale.seconds, scale.quick, facts)
        progress.say(f"{len(rows)} rows with {', '.join(kind.name for kind in [*kinds, *peers])}")
        Run(comparison, results, json_file).go(todo)
    return results


def columns(step: str, kinds: Sequence[type[Server]], peers: Sequence[type[Peer]]) -> int:
    """How many turns a round of a closed loop has."""
    operation = step.partition("-")[0]
    return len(kinds) + sum(len(peer.columns.get(operation, ())) for peer in peers)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 when something could not be run, though the report then has all the rest."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    # A terminated comparison must not leave its servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        results = Results.read(options.given) if options.given else measure(options)
        print(summary(results))
        if options.report:
            for path in write_report(results, options.report):
                say(f"written: {path}")
            results.write(options.report / "results.json")
    except Failed as error:
        say(f"compare.py: {error}")
        return 1
    say(f"took {clock(results.took)}")
    return 1 if any(row.failure for row in results.rows) and not options.given else 0
