"""Logging to stderr, one line an event: ``2026-11-22T15:04:05.123Z INFO  fastzk.server.app listening``.

What a client sent may appear in a message; control characters are escaped, so that nobody can forge a line.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_WORDS = {"WARNING": "WARN", "CRITICAL": "FATAL"}  # five letters at most, so that the columns stay
# C0 and C1 controls, DEL, and the separators that some viewers take for the end of a line.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def on_one_line(text: str) -> str:
    """``text`` with control characters escaped."""
    return _CONTROLS.sub(
        lambda match: _NAMED.get(match[0]) or match[0].encode("unicode_escape").decode(), text
    )


class LineFormatter(logging.Formatter):
    """One line for a record; below an error's line, and only there, the indented lines of its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        word = _WORDS.get(record.levelname, record.levelname)
        # The milliseconds come from the same number as the seconds: rounding must not carry into them.
        milliseconds = int(record.created * 1000) % 1000
        line = f"{seconds}.{milliseconds:03d}Z {word:<5} {record.name} {on_one_line(record.getMessage())}"
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line += f" error={on_one_line(f'{type(error).__name__}: {error}')!r}"
            if record.levelno >= logging.ERROR:
                trace = "".join(traceback.format_exception(error)).splitlines()
                line += "".join(f"\n    {on_one_line(each)}" for each in trace)
        return line


def setup_logging(level: str) -> None:
    """Sends the records of all loggers from ``level`` (a name in ``LEVELS``) upwards to stderr.

    Replaces what an earlier call set up; other handlers of the root logger stay. Python's own warnings are
    logged, too. Raises KeyError for an unknown level.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler.formatter, LineFormatter):
            root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    logging.captureWarnings(True)
