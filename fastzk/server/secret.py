"""The key of the sessions' passwords, as an ensemble agreed on it.

Every server makes a key of its own when it is new; in an ensemble all use the leader's, so that a client can go on with
its session anywhere. A server that takes over another's key keeps it in a file of its own, which counts instead of the
one in the database: that cannot be written while a checkpoint is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_hexdigest

from fastzk.server.errors import StartupError
from fastzk.server.files import replace_file

KEY_FILE: Final = "session.key"
_LINE: Final = re.compile(rb"(fastzk-session-key 1 ([0-9a-f]{2,256})) xxh3=([0-9a-f]{16})\n")


def load_secret(path: Path) -> bytes | None:
    """The key in the file ``path``; None if there is no such file.

    Raises:
        StartupError: it is damaged, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}") from error
    line = _LINE.fullmatch(content)
    if line is None or len(line[2]) % 2 or xxh3_64_hexdigest(line[1]) != line[3].decode():
        raise StartupError(
            f"{path}, the key of the sessions' passwords, is damaged. Remove it: this server gets the key again from "
            "the leader; without an ensemble, clients have to begin new sessions"
        )
    return bytes.fromhex(line[2].decode())


def save_secret(path: Path, secret: bytes) -> None:
    """Put the key into the file ``path``, durably. Raises OSError."""
    text = f"fastzk-session-key 1 {secret.hex()}".encode()
    replace_file(path, text + f" xxh3={xxh3_64_hexdigest(text)}\n".encode())
