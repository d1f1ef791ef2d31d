"""Sessions: how many can begin in a second, what an idle one takes, and what they cost those that work.

Expected: a session begins with a durable write, so those that begin together share it: sessions a second grow with how
many at a time, until a processor is full. Memory a session: flat. The latency of the one that works: flat in the number
of those that are idle. The process that holds all the sessions shares the machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from crowd import Crowd, room
from programs import compile_program, compiler, run_zkload

from .support import MOST_SESSIONS, SECONDS, disk, figure, server, the
from .support import Measured as _Measured


class Creation(_Measured):
    """New sessions, each with a new connection, so many at the same time."""

    params = (1, 8, 64)
    param_names = ("at a time",)

    def setup_cache(self) -> dict[Any, dict[str, float]]:
        most = min(room(), max(500, MOST_SESSIONS))
        found = {}
        for together in Creation.params:
            with disk() as folder, server(folder) as running:
                crowd = Crowd(running.port)
                try:
                    crowd.grow(64, together)
                    began, before = time.perf_counter(), len(crowd)
                    while time.perf_counter() - began < SECONDS and len(crowd) + together <= most:
                        crowd.grow(len(crowd) + together, together)
                    found[together,] = {"per_second": (len(crowd) - before) / (time.perf_counter() - began)}
                finally:
                    crowd.close()
        return found

    setup_cache.timeout = 120

    track_sessions_per_second = figure("per_second", "1/s")


class Idle:
    """Beside so many sessions that do nothing."""

    params = (100, 1_000, 5_000)
    param_names = ("idle sessions",)

    def setup_cache(self) -> dict[int, dict[str, Any]]:
        most = min(room(), MOST_SESSIONS)
        found: dict[int, dict[str, Any]] = {}
        with disk() as folder, server(folder) as running:
            program = compile_program("zkload", folder) if compiler() else None
            crowd = Crowd(running.port)
            try:
                empty = running.resident()["VmRSS"]
                for sessions in Idle.params:
                    if sessions > most:
                        break
                    crowd.grow(sessions)
                    found[sessions] = {"memory": (running.resident()["VmRSS"] - empty) / sessions}
                    if program:
                        found[sessions] |= run_zkload(
                            program,
                            *("-s", f"127.0.0.1:{running.port}", "-p", f"/load-{sessions}", "-k", "100"),
                            *("-o", "get", "-c", "1", "-w", "1", "-t", str(SECONDS), "-u", str(SECONDS / 3)),
                        )
            finally:
                crowd.close()
        return found

    setup_cache.timeout = 120

    def setup(self, found: Mapping[int, Mapping[str, Any]], sessions: int) -> None:
        the(found, sessions)

    def track_memory_of_a_session(self, found: Mapping[int, Mapping[str, Any]], sessions: int) -> float:
        return found[sessions]["memory"]

    track_memory_of_a_session.unit = "bytes"

    def track_median_of_get(self, found: Mapping[int, Mapping[str, Any]], sessions: int) -> float:
        return found[sessions].get("p50_us", float("nan"))

    track_median_of_get.unit = "us"
