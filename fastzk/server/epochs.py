"""The promise: the latest epoch that this server has promised, and to whom. A small file of its own.

It has to be durable before the promise is given, also while a checkpoint keeps the database busy. A server that
forgot a promise could help two leaders into one epoch, so a file that cannot be read stops the start.

Layout: one line of text, ``fastzk-promise 1 EPOCH SERVER CHECKSUM``, the checksum (xxh3-64, hexadecimal) of what
stands before it.
"""

from __future__ import annotations

import os
from pathlib import Path

from xxhash import xxh3_64_hexdigest

from fastzk.server.errors import StartupError
from fastzk.server.files import fsync_directory

_MAGIC = "fastzk-promise 1"


class EpochFile:
    """The file at ``path``, whose directory must exist."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[int, int]:
        """The last promise saved: epoch and server; (0, -1) if there never was one.

        Raises:
            StartupError: the file is damaged or cannot be read.
        """
        try:
            text = self._path.read_text("ascii", "replace")
        except FileNotFoundError:
            return 0, -1
        except OSError as error:
            raise StartupError(f"cannot read {self._path}: {error.strerror}") from error
        body, _, checksum = text.strip().rpartition(" ")
        words = body.split(" ")
        if xxh3_64_hexdigest(body.encode()) != checksum or " ".join(words[:2]) != _MAGIC or len(words) != 4:
            raise StartupError(
                f"{self._path} is damaged: it says which leader this server may follow, and without it another could "
                "be followed as well; restore it, or remove the whole data directory so that this server fetches "
                "everything anew from the others"
            )
        return int(words[2]), int(words[3])

    def save(self, epoch: int, server: int) -> None:
        """Replace the promise; it is durable when this returns.

        Raises:
            OSError: it could not be written. What is on the disk is the promise before, or this one.
        """
        body = f"{_MAGIC} {epoch} {server}"
        fresh = self._path.with_suffix(".tmp")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{body} {xxh3_64_hexdigest(body.encode())}\n".encode("ascii"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(fresh, self._path)
        fsync_directory(self._path.parent)
