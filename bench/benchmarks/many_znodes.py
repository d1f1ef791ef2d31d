"""A server with ever more znodes of 128 bytes: memory, and how soon it serves again.

Expected: memory a znode flat, and lower for many than for few (what a server takes anyway is left out, but the tables
grow in steps). A restart linear in the znodes: on a checkpoint (the server was stopped) by loading them, without one
(it was killed) by replaying the log from its beginning, which a server with its default settings would not have to do
for more than 100,000 transactions.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from programs import run_zkload
from servers import Failed

from .support import MOST, figure, server, with_program
from .support import Measured as _Measured

SIZES = (10_000, 100_000, 1_000_000)


def live(folder: Path, program: Path, znodes: int) -> dict[str, float]:
    """The life of one server: it gets its znodes, is killed, comes back, is stopped, comes back."""
    with server(folder, ["snapCount=1000000000"]) as running:
        empty = running.resident()["VmRSS"]
        run_zkload(
            program,
            *("-s", f"127.0.0.1:{running.port}", "-p", "/many", "-k", str(znodes), "-b", "128", "-r"),
            *("-o", "get", "-c", "1", "-w", "256", "-t", "0.1", "-u", "0"),
        )
        time.sleep(0.5)  # what it does behind the last write is part of its work
        found = {"bytes": (running.resident()["VmRSS"] - empty) / znodes}
        running.kill()
        for how in ("replay", "load"):
            began = time.perf_counter()
            running.start()
            session = running.session()
            data = session.get(f"/many/k{znodes - 1}")
            found[how] = time.perf_counter() - began
            session.close()
            if data != b"x" * 128:
                raise Failed(running.explain("gave other data after the restart"))
            if how == "replay":
                running.stop()
        return found


class ManyZnodes(_Measured):
    """By the number of znodes."""

    params = SIZES
    param_names = ("znodes",)

    def setup_cache(self) -> dict[Any, Any]:
        def lives(folder: Path, program: Path) -> dict[Any, Any]:
            found = {}
            for znodes in SIZES:
                if znodes <= MOST:
                    (folder / str(znodes)).mkdir()
                    found[znodes,] = live(folder / str(znodes), program, znodes)
            return found

        return with_program("zkload", lives)

    setup_cache.timeout = 300

    track_memory_of_a_znode = figure("bytes", "bytes")
    track_restart_on_a_checkpoint = figure("load", "s")
    track_restart_on_the_log = figure("replay", "s")
