"""The command ``fastzk-server``: reads the arguments and the configuration, then hands over to app.py."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fastzk._version import __version__
from fastzk.server.config import FLAGS, LOG_LEVEL_FLAG, ConfigError, Where, effective_lines, load_config
from fastzk.server.errors import StartupError
from fastzk.server.logs import LEVELS, on_one_line, setup_logging

PROGRAM = "fastzk-server"
EXIT_FAILED = 1
EXIT_WRONG_CONFIG = 2

log = logging.getLogger("fastzk.server.cli")


class _Parser(argparse.ArgumentParser):
    """argparse prints a usage text before its errors; here every error is one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {PROGRAM} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Serves ZooKeeper's clients; without arguments on 127.0.0.1:2181, data in ./data.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="zoo.cfg", help="configuration, as ZooKeeper's"
    )
    parser.add_argument("--data-dir", metavar="D", help="directory of the data (dataDir)")
    parser.add_argument(
        "--client-port", metavar="N", help="port for clients, 0 for any free one (clientPort)"
    )
    parser.add_argument("--client-address", metavar="A", help="address to listen on (clientPortAddress)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="key=value",
        help="any key of the configuration; repeatable",
    )
    parser.add_argument(LOG_LEVEL_FLAG, metavar="L", help=f"{', '.join(LEVELS)} (or FASTZK_LOG_LEVEL)")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument(
        "--check-config", action="store_true", help="print the configuration in effect and exit"
    )
    doing.add_argument(
        "--verify-data", action="store_true", help="check log and database, changing nothing, and exit"
    )
    return parser


def _overrides(options: argparse.Namespace) -> list[tuple[str, str]]:
    """What the flags say, for ``load_config``; the flags of their own win over --set."""
    overrides = []
    for each in options.set:
        name, equals, value = each.partition("=")
        if not equals or not name.strip():
            # The text is not shown: it could be a secret with a typing error in front.
            raise ConfigError("write key=value", Where(flag="--set"))
        overrides.append((name, value))
    for flag in (*FLAGS, LOG_LEVEL_FLAG):
        value = getattr(options, flag.removeprefix("--").replace("-", "_"))
        if value is not None:
            overrides.append((flag, value))
    return overrides


def _complain(message: object) -> None:
    print(f"{PROGRAM}: {on_one_line(str(message))}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; ``arguments`` are those of the process if None.

    Returns the exit code: 0; 1 if the server could not start; 2 if arguments or configuration are wrong.
    """
    try:
        options = _parser().parse_args(arguments)
        if options.version:
            print(f"{PROGRAM} {__version__}")
            return 0
        config = load_config(options.config, _overrides(options), os.environ, read_only=options.verify_data)
    except SystemExit:  # --help
        return 0
    except ConfigError as error:
        _complain(error)
        return EXIT_WRONG_CONFIG
    if options.check_config:
        for warning in config.warnings:
            _complain(f"warning: {warning}")
        print("\n".join(effective_lines(config)))
        return 0
    setup_logging(config.log_level)
    for warning in config.warnings:
        log.warning("%s", warning)
    # Imported late, so that a wrong configuration is reported without waiting for uvloop, LMDB and the rest.
    try:
        if options.verify_data:
            from fastzk.server.verify import verify_data

            return verify_data(config)
        from fastzk.server.app import serve

        return serve(config)
    except StartupError as error:
        _complain(error)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
