"""Errors that end the start of the server with one line for the person who started it."""

from __future__ import annotations


class StartupError(Exception):
    """The server cannot start for a reason outside its configuration: a port in use, a locked directory.

    ``str()`` of it is a complete sentence for a person; the command line prints it as one line, exits with 1.
    """
