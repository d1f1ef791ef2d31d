"""What the benchmarks have in common: a folder on a disk, servers that end with them, the seconds of a load."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from programs import compiler
from servers import Fastzk

#: Seconds of one load on a server; a tenth of it shows that everything runs, not how fast it is.
SECONDS: Final = float(os.environ.get("FASTZK_BENCH_SECONDS", "0.6"))
#: The most znodes a server, or a tree, is given: the sizes above are skipped.
MOST: Final = int(os.environ.get("FASTZK_BENCH_ZNODES", "1000000"))
MOST_SESSIONS: Final = MOST // 100


def need_compiler() -> None:
    """Skip the benchmark (asv does at NotImplementedError) where the load generator cannot be compiled."""
    if compiler() is None:
        raise NotImplementedError("no C compiler (cc, gcc or $CC): the load generator is written in C")


def need_size(size: int) -> None:
    """Skip a size beyond FASTZK_BENCH_ZNODES."""
    if size > MOST:
        raise NotImplementedError(f"beyond FASTZK_BENCH_ZNODES={MOST}")


def the(found: Mapping[Any, Any], key: Any) -> Any:
    """What `setup_cache` found under a key; the benchmark is skipped where it found nothing, with its reason."""
    if key not in found:
        raise NotImplementedError(found.get("skipped", f"{key!r} was not measured here"))
    return found[key]


def on_disk(folder: str) -> bool:
    """Whether a folder is on a file system that is not in memory, where fdatasync would cost nothing."""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, its_kind = line.split()[:3]
        mount = mount.encode().decode("unicode_escape")
        if Path(folder).resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, its_kind
    return kind not in {"tmpfs", "ramfs"}


@contextmanager
def disk() -> Iterator[Path]:
    """A new folder on a real disk: in asv's temporary directory, or where that is in memory in /var/tmp."""
    # asv ends a benchmark that takes too long with SIGTERM: let every `with` end what it began.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parent = next((each for each in (os.getcwd(), "/var/tmp") if os.access(each, os.W_OK) and on_disk(each)), None)
    if parent is None:
        raise RuntimeError("no writable folder on a real disk: set TMPDIR to one")
    try:
        with tempfile.TemporaryDirectory(prefix="fastzk-", dir=parent) as name:
            yield Path(name)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def server(folder: Path, settings: Sequence[str] = ()) -> Iterator[Fastzk]:
    """A fastzk-server that runs inside the ``with``, for any number of connections."""
    made = Fastzk(folder / "server", ["maxClientCnxns=0", *settings])
    try:
        made.start()
        yield made
    finally:
        made.kill()
