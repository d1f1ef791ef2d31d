"""What this server has promised in elections: the one thing besides the log that an ensemble rests on.

A voter promises an epoch to at most one candidate, ever. If it forgot a promise, two leaders could begin the same epoch
and give the same zxids to different transactions. So the promise is durable before it is sent, in a file of its own in
the data directory: the database will not do, since a checkpoint that is being written holds its only write transaction
for as long as it takes.

Beside it stands which change of the membership is known to be committed. The log does not say so, and where the others
are gone that such a change has left behind, a server that forgot it would ask them for ever.

The file is one line, for people too::

    fastzk-promise 2 epoch=7 promised_to=2 membership=0x60000001f xxh3=0f3c5e0a9b7d1234

It is replaced by a rename, so a crash leaves the old line or the new one and never a part of one. Anything else in it
is damage; and since nobody can know what was promised then, the server does not start. Recovery writes the first line
when a server becomes a member of an ensemble and notes that in the database, so that a file that was lost later is not
taken for a new server's.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from xxhash import xxh3_64_hexdigest

from fastzk.server.errors import StartupError
from fastzk.server.files import replace_file

PROMISE_FILE: Final = "promise"
#: ``promised_to`` when the epoch was not promised to anybody.
NOBODY: Final = -1
_LARGEST_EPOCH: Final = (1 << 31) - 1
_LINE: Final = re.compile(
    rb"(fastzk-promise (?:1|2) epoch=(\d{1,10}) promised_to=(-?\d{1,10})(?: membership=0x([0-9a-f]{1,16}))?)"
    rb" xxh3=([0-9a-f]{16})\n"
)
_HELP: Final = (
    "Restore it from this server's own disk if you can. If not, remove this server's data directory and transaction "
    "log, so that it joins as a new one and fetches the state; never do that to more than a minority of the voters, "
    "and never copy another server's file"
)


class Promise(NamedTuple):
    """The newest epoch promised, and the id of the server it was promised to (or ``NOBODY``)."""

    epoch: int
    promised_to: int


class EpochFile:
    """The promise on disk.

    ``promise``: what ``load`` found or ``save`` wrote last; epoch 0, promised to nobody, while ``missing``: while there
    is no file. ``membership``: the zxid of the last change of the membership that ``adopt`` was told of; 0: of none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.promise = Promise(0, NOBODY)
        self.membership = 0
        self.missing = True
        self._loaded = False
        self._failed = False

    def load(self) -> Promise:
        """What is on disk; see ``missing``.

        Raises:
            StartupError: the file is damaged or cannot be read; the text says what to do.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = None
        except OSError as error:
            raise StartupError(f"cannot read {self.path}: {error.strerror}") from error
        self.promise = Promise(0, NOBODY)
        self.membership = 0
        self.missing = content is None
        if content is not None:
            line = _LINE.fullmatch(content)
            if line is None or xxh3_64_hexdigest(line[1]) != line[5].decode() or int(line[2]) > _LARGEST_EPOCH:
                raise StartupError(
                    f"{self.path}, which holds what this server promised in elections, is damaged. {_HELP}"
                )
            self.promise = Promise(int(line[2]), int(line[3]))
            self.membership = int(line[4] or b"0", 16)
        self._loaded = True
        return self.promise

    def save(self, epoch: int, promised_to: int) -> None:
        """Make the promise durable; when this returns it survives a power cut. Waits for the disk.

        Raises:
            ValueError: it takes an earlier promise back: an older epoch, or the same one to somebody else.
            OSError: it may be durable or not; nothing can be saved any more and the server has to end.
        """
        self._check()
        promise, before = Promise(epoch, promised_to), self.promise
        if promise == before and not self.missing:
            return
        if not 0 <= epoch <= _LARGEST_EPOCH or promised_to < NOBODY:
            raise ValueError(f"not a promise: {promise}")
        if epoch < before.epoch or (epoch == before.epoch and before.promised_to not in (NOBODY, promised_to)):
            raise ValueError(f"{promise} would take {before} back")
        self._write(promise, self.membership)

    def adopt(self, zxid: int) -> None:
        """Make durable that the change of the membership at `zxid`, and each before it, is committed.

        Raises OSError as ``save`` does.
        """
        self._check()
        if zxid > self.membership:
            self._write(self.promise, zxid)

    def _check(self) -> None:
        if not self._loaded or self._failed:
            raise RuntimeError(f"{self.path} was not loaded, or could not be written")

    def _write(self, promise: Promise, membership: int) -> None:
        text = (
            f"fastzk-promise 2 epoch={promise.epoch} promised_to={promise.promised_to} membership=0x{membership:x}"
        ).encode()
        self._failed = True
        replace_file(self.path, text + f" xxh3={xxh3_64_hexdigest(text)}\n".encode())
        self._failed = self.missing = False
        self.promise, self.membership = promise, membership


def promise_lost(
    path: Path, how: str = "is missing, although this server has been a member of an ensemble"
) -> StartupError:
    """The error for a member of an ensemble whose file is gone, or (``how``) cannot be the last one it had."""
    return StartupError(f"{os.fspath(path)}, which holds what this server promised in elections, {how}. {_HELP}")
