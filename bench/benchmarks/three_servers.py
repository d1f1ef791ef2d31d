"""Three fastzk-servers as an ensemble, and the load, all on this machine; and how long writes stop when a leader dies.

Expected: as in standalone.py, and every server takes its share of the processors: two cores are less than one server
each. A write waits for two disks and one round trip more. The gap after the leader's death is the time in which the
others notice (their connections break at once), elect, and take the clients.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from ensemble import failover, trio
from programs import compile_program, run_zkload
from servers import Failed, Fastzk

from .support import SECONDS, disk, need_compiler, the

Found = Mapping[Any, Mapping[str, float]]


class Load:
    """Of 200 znodes of 128 bytes, at random, by connections that are spread over all three."""

    params = (("get", "set", "mixed:90"), (3, 30), (1, 16))
    param_names = ("operation", "connections", "window")

    def setup_cache(self) -> dict[Any, Any]:
        try:
            need_compiler()
        except NotImplementedError as why:
            return {"skipped": str(why)}
        found = {}
        with disk() as folder, trio(Fastzk, folder / "trio") as servers:
            program = compile_program("zkload", folder)
            for number, (operation, connections, window) in enumerate(itertools.product(*Load.params)):
                try:
                    found[operation, connections, window] = run_zkload(
                        program,
                        *("-s", servers.addresses(), "-p", f"/load-{number}", "-k", "200", "-r", "-t", str(SECONDS)),
                        *("-u", str(SECONDS / 3), "-o", operation, "-c", str(connections), "-w", str(window)),
                    )
                except Failed as error:
                    raise Failed(servers.explain(str(error))) from None
        return found

    setup_cache.timeout = 120

    def setup(self, found: Found, *key: Any) -> None:
        the(found, key)

    def track_requests_per_second(self, found: Found, *key: Any) -> float:
        return found[key]["ops_per_s"]

    track_requests_per_second.unit = "1/s"

    def track_median(self, found: Found, *key: Any) -> float:
        return found[key]["p50_us"]

    track_median.unit = "us"

    def track_p99(self, found: Found, *key: Any) -> float:
        return found[key]["p99_us"]

    track_p99.unit = "us"


class Failover:
    """The longest time without an acknowledged write when the leader is killed under the load of 30 sessions."""

    timeout = 120

    def setup(self) -> None:
        need_compiler()

    def track_gap(self) -> float:
        with disk() as folder, trio(Fastzk, folder / "trio") as servers:
            program = compile_program("failover", folder)
            gaps = [failover(program, servers, turn, 3.0)["longest_gap_ms"] for turn in range(3)]
        return sorted(gaps)[1]

    track_gap.unit = "ms"
