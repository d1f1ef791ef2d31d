"""One fastzk-server under load (zkload, closed loop): requests a second, and latency, on one machine.

By connections, requests in flight on each, and the mix; by the size of the data; by the number of children listed.
Writes are durable when they are answered.

Expected: reads a second grow with connections x window until a processor is full, and stay there; never fewer with
more connections. Writes share an fdatasync, so they grow about with connections x window until the processor is full,
too. The median latency is connections x window / requests a second. Small data cost nothing, from some KB on the bytes
count. A list of children is linear in their number.
"""

from __future__ import annotations

import itertools
from typing import Any

from .support import Measured as _Measured
from .support import figure, measure


class Load(_Measured):
    """Of 200 znodes of 128 bytes, at random."""

    params = (("get", "set", "mixed:90", "delete-create"), (1, 8, 32, 128), (1, 16))
    param_names = ("operation", "connections", "window")

    def setup_cache(self) -> dict[Any, dict[str, Any]]:
        keys = itertools.product(*Load.params)
        return measure({(o, c, w): ["-o", o, "-c", str(c), "-w", str(w), "-k", "200"] for o, c, w in keys})

    setup_cache.timeout = 300

    track_requests_per_second = figure("ops_per_s", "1/s")
    track_median = figure("p50_us", "us")
    track_p99 = figure("p99_us", "us")


class DataSize(_Measured):
    """32 connections x 16 in flight, by the bytes of a znode."""

    params = (("get", "set"), (16, 128, 1_024, 16_384))
    param_names = ("operation", "bytes")

    def setup_cache(self) -> dict[Any, dict[str, Any]]:
        loads = {}
        for operation, size in itertools.product(*DataSize.params):
            loads[operation, size] = ["-o", operation, "-c", "32", "-w", "16", "-k", "200", "-b", str(size)]
        return measure(loads)

    setup_cache.timeout = 120

    track_requests_per_second = figure("ops_per_s", "1/s")
    track_p99 = figure("p99_us", "us")


class Children(_Measured):
    """getChildren, 8 connections x 4 in flight, by the number of children."""

    params = (10, 100, 1_000, 10_000)
    param_names = ("children",)

    def setup_cache(self) -> dict[Any, dict[str, Any]]:
        return measure({(n,): ["-o", "children", "-c", "8", "-w", "4", "-k", str(n)] for n in Children.params})

    setup_cache.timeout = 120

    track_requests_per_second = figure("ops_per_s", "1/s")
