"""What the benchmarks have in common: a folder on a disk, servers that end with them, loads and what they found."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from ensemble import Trio
from programs import compile_program, compiler, run_zkload
from servers import Failed, Fastzk

#: Seconds of one load on a server; a tenth of it shows that everything runs, not how fast it is.
SECONDS: Final = float(os.environ.get("FASTZK_BENCH_SECONDS", "0.6"))
#: The most znodes a server, or a tree, is given: the sizes above are skipped.
MOST: Final = int(os.environ.get("FASTZK_BENCH_ZNODES", "1000000"))
MOST_SESSIONS: Final = MOST // 100
#: What `setup_cache` found, by the parameters, each with its figures; or the reason under "skipped".
Found = Mapping[Any, Mapping[str, float]]


def need_size(size: int) -> None:
    """Skip a size beyond FASTZK_BENCH_ZNODES, as asv does at NotImplementedError."""
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
    # asv ends what takes too long with SIGTERM: let every `with` end what it began. Only a `setup_cache` is given a
    # second for that before SIGKILL, so whatever starts processes does it there.
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


def with_program(name: str, run: Callable[[Path, Path], dict[Any, Any]]) -> dict[Any, Any]:
    """What ``run`` finds, given a new folder and that program, compiled; without a compiler, why it is skipped."""
    if compiler() is None:
        return {"skipped": "no C compiler (cc, gcc or $CC): the load generator is written in C"}
    with disk() as folder:
        return run(folder, compile_program(name, folder))


def measure(
    loads: Mapping[Any, Sequence[str]], start: Callable[[Path], AbstractContextManager[Fastzk | Trio]] = server
) -> dict[Any, Any]:
    """What zkload says of each load, given by its options, one after the other on what ``start`` runs in a folder.

    Raises Failed: a load did not run, or was answered with errors.
    """

    def all_of_them(folder: Path, program: Path) -> dict[Any, Any]:
        found = {}
        with start(folder) as running:
            common = ("-s", running.addresses(), "-t", str(SECONDS), "-u", str(SECONDS / 3), "-r")
            for number, (key, options) in enumerate(loads.items()):
                try:
                    found[key] = run_zkload(program, *common, "-p", f"/load-{number}", *options)
                except Failed as error:
                    raise Failed(running.explain(str(error))) from None
        return found

    return with_program("zkload", all_of_them)


class Measured:
    """The base of benchmarks whose ``setup_cache`` has found everything, under the tuple of the parameters.

    Import it as ``_Measured``: asv takes every public class of a benchmark's module for one. And leave ``setup_cache``
    to each class: asv keeps what it returns by file and line, so all heirs of one would be given the same.
    """

    def setup(self, found: Found, *key: Any) -> None:
        the(found, key)


def figure(name: str, unit: str) -> Callable[..., float]:
    """One of the figures found, as a ``track_`` method of a `Measured`."""

    def track(_self: Measured, found: Found, *key: Any) -> float:
        return found[key][name]

    track.unit = unit  # type: ignore[attr-defined]
    return track
