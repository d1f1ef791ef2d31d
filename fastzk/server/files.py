"""Directories that survive a power cut."""

from __future__ import annotations

import os


def fsync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in a directory durable: after a file was made, renamed or removed there. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
