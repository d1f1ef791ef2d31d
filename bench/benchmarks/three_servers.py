"""Three fastzk-servers as an ensemble, and the load, all on this machine; and how long writes stop when a leader dies.

Expected: as in standalone.py, and every server takes its share of the processors: two cores are less than one server
each. A write waits for two disks and one round trip more. The gap after the leader's death is the time in which the
others notice (their connections break at once), elect, and take the clients.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from ensemble import failover, trio
from servers import Fastzk

from .support import Measured as _Measured
from .support import figure, measure, with_program


class Load(_Measured):
    """Of 200 znodes of 128 bytes, at random, by connections that are spread over all three."""

    params = (("get", "set", "mixed:90"), (3, 30), (1, 16))
    param_names = ("operation", "connections", "window")

    def setup_cache(self) -> dict[Any, Any]:
        keys = itertools.product(*Load.params)
        loads = {(o, c, w): ["-o", o, "-c", str(c), "-w", str(w), "-k", "200"] for o, c, w in keys}
        return measure(loads, lambda folder: trio(Fastzk, folder / "trio"))

    setup_cache.timeout = 120

    track_requests_per_second = figure("ops_per_s", "1/s")
    track_median = figure("p50_us", "us")
    track_p99 = figure("p99_us", "us")


class Failover(_Measured):
    """The longest time without an acknowledged write when the leader is killed under the load of 30 sessions."""

    def setup_cache(self) -> dict[Any, Any]:
        def median_gap(folder: Path, program: Path) -> dict[Any, Any]:
            with trio(Fastzk, folder / "trio") as servers:
                gaps = [failover(program, servers, turn, 3.0)["longest_gap_ms"] for turn in range(3)]
            return {(): {"gap": sorted(gaps)[1]}}

        return with_program("failover", median_gap)

    setup_cache.timeout = 120

    track_gap = figure("gap", "ms")
