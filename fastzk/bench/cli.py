"""The command ``fastzk-bench``: reads the arguments, has the run made, prints what was found."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn, TextIO

from fastzk._version import __version__
from fastzk.bench.plan import OPERATIONS, KeyDistribution, Mix, Plan

PROGRAM: Final = "fastzk-bench"
EXIT_FAILED: Final = 1
EXIT_WRONG_ARGUMENTS: Final = 2
EXIT_INTERRUPTED: Final = 130

#: In flight on a connection of an open loop: enough that the schedule is kept while the server answers at all.
_OPEN_WINDOW: Final = 1024


class WrongArguments(Exception):
    """What is wrong with them, in one line."""


class _Parser(argparse.ArgumentParser):
    """argparse prints a usage text before its errors; here every error is one line."""

    def error(self, message: str) -> NoReturn:
        raise WrongArguments(f"{message} (see {PROGRAM} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Puts load on a server that speaks ZooKeeper's protocol, and shows how long its answers took.",
        epilog=f"Operations of a mix: {', '.join(OPERATIONS)}. docs/benchmarking.md says how to read the figures.",
        allow_abbrev=False,
    )
    usual = Plan()
    add = parser.add_argument
    add("hosts", nargs="?", default=usual.hosts, help=f"host:port,host:port/chroot or zk://... ({usual.hosts})")
    add("--connections", "-c", type=int, default=usual.connections, metavar="N", help="sessions (%(default)s)")
    add("--window", "-w", type=int, metavar="N", help=f"requests in flight on each (1; with --rate {_OPEN_WINDOW})")
    add("--mix", "-m", default="get", metavar="OP=WEIGHT,...", help="what is asked, as in get=90,set=10 (get)")
    add("--keys", "-k", type=int, default=usual.keys, metavar="N", help="znodes it is about (%(default)s)")
    add(
        "--key-distribution",
        default=str(usual.key_distribution),
        metavar="D",
        help="uniform, sequential, zipf:EXPONENT, or hot:FRACTION:SHARE of the requests (%(default)s)",
    )
    add("--value-size", "-s", type=int, default=usual.value_size, metavar="N", help="bytes of data (%(default)s)")
    add("--multi-size", type=int, default=usual.multi_size, metavar="N", help="setData in a multi (%(default)s)")
    add("--duration", "-d", type=float, default=usual.duration, metavar="S", help="seconds measured (%(default)g)")
    add("--warmup", type=float, default=usual.warmup, metavar="S", help="seconds of load before (%(default)g)")
    add("--processes", "-p", type=int, default=usual.processes, metavar="N", help="that share it (%(default)s)")
    add("--rate", "-r", type=float, metavar="N", help="open loop: requests a second, whatever the answers do")
    add("--arrivals", choices=("even", "poisson"), default="even", help="of an open loop (%(default)s)")
    add("--watches", type=int, default=0, metavar="N", help="instead of a mix: N sessions watch one changing znode")
    add("--prefix", default=usual.prefix, metavar="PATH", help="znode to work below (%(default)s)")
    add("--keep", action="store_true", help="leave the znodes behind")
    add("--session-timeout", type=float, default=usual.session_timeout, metavar="S", help="(%(default)g)")
    add("--connect-timeout", type=float, default=usual.connect_timeout, metavar="S", help="(%(default)g)")
    add("--drain", type=float, default=usual.drain, metavar="S", help="wait for last answers (%(default)g)")
    add("--seed", type=int, default=usual.seed, metavar="N", help="of all that is random (%(default)s)")
    add("--json", metavar="FILE", help="write everything there; - for stdout, instead of the table")
    add("--quiet", "-q", action="store_true", help="no progress line")
    add("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def read_arguments(arguments: Sequence[str] | None) -> tuple[Plan, argparse.Namespace]:
    """The plan, and all options for what the plan does not say.

    :raises WrongArguments: with a text for the user.
    """
    options = _parser().parse_args(arguments)
    window = options.window
    if window is None:
        window = 1 if options.rate is None else _OPEN_WINDOW
    try:
        mix = Mix.parse(options.mix)
        distribution = KeyDistribution.parse(options.key_distribution)
        plan = Plan(
            hosts=options.hosts,
            connections=options.connections,
            window=window,
            mix=mix,
            keys=options.keys,
            key_distribution=distribution,
            value_size=options.value_size,
            multi_size=options.multi_size,
            duration=options.duration,
            warmup=options.warmup,
            processes=options.processes,
            rate=options.rate,
            poisson=options.arrivals == "poisson",
            watches=options.watches,
            prefix=options.prefix,
            keep=options.keep,
            session_timeout=options.session_timeout,
            connect_timeout=options.connect_timeout,
            drain=options.drain,
            seed=options.seed,
        )
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    return plan, options


class ProgressLine:
    """One line on a terminal, written over each second; one line a second where the output is no terminal."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self._over = stream.isatty()
        self._width = 0

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._quiet:
            return
        if self._over:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def tell(self, text: str) -> None:
        """A line that stays."""
        self.end()
        self._stream.write(f"{PROGRAM}: {text}\n")
        self._stream.flush()

    def end(self) -> None:
        """What follows begins on a line of its own."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; ``arguments`` are those of the process if None.

    Returns the exit code: 0; 1 if there was no run, or it failed; 2 if the arguments are wrong; 130 after Ctrl-C.
    """
    line = ProgressLine(sys.stderr, quiet=False)
    try:
        plan, options = read_arguments(arguments)
    except SystemExit:  # --help, --version
        return 0
    except WrongArguments as error:
        line.tell(str(error))
        return EXIT_WRONG_ARGUMENTS
    # Imported late, so that --help and a wrong argument are answered at once.
    from fastzk.bench import report
    from fastzk.bench.runner import BenchError, Run

    line = ProgressLine(sys.stderr, options.quiet)
    if options.json not in (None, "-"):
        try:
            # before the run and not after it
            Path(options.json).touch()
        except OSError as error:
            line.tell(f"{options.json}: {error.strerror}")
            return EXIT_WRONG_ARGUMENTS
    run = Run(plan, lambda tick: line.show(report.progress_text(tick)), line.tell)
    try:
        outcome = run.execute()
    except BenchError as error:
        line.tell(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        line.tell("interrupted")
        return EXIT_INTERRUPTED
    line.end()
    if options.json != "-":
        print(report.table(plan, outcome))
    if options.json is not None:
        text = json.dumps(report.as_json(plan, outcome), indent=1)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text + "\n")
    return EXIT_INTERRUPTED if outcome.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
