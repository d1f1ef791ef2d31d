"""Watches: one change told to many sessions, and what a watch takes.

Expected: telling all is linear in the watchers, one small write to each connection. The process that listens for all of
them shares the machine, so the figure is an upper bound. Memory a watch: flat, and lower for many than for few, since
tables grow in steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

from crowd import EXISTS, GET_DATA, Crowd, room, watching
from material import DATA

from fastzk import Client

from .support import MOST, MOST_SESSIONS, SECONDS, disk, server, the

ROUNDS = max(1, int(9 * SECONDS))


class FanOut:
    """One setData, and as many sessions that watch the znode."""

    params = (10, 100, 1_000, 5_000)
    param_names = ("watchers",)

    def setup_cache(self) -> dict[int, float]:
        """Median microseconds until the last one has its event."""
        most = min(room(), MOST_SESSIONS)
        found = {}
        with disk() as folder, server(folder) as running, Client(f"127.0.0.1:{running.port}") as writer:
            writer.create("/watched", DATA)
            crowd = Crowd(running.port)
            try:
                for watchers in FanOut.params:
                    if watchers > most:
                        break
                    crowd.grow(watchers)
                    took = []
                    for _ in range(ROUNDS):
                        crowd.ask(watching(GET_DATA, "/watched"))
                        began = time.perf_counter()
                        call = writer.set_async("/watched", DATA)
                        crowd.hear()
                        took.append(time.perf_counter() - began)
                        call.get()
                    found[watchers] = statistics.median(took) * 1e6
            finally:
                crowd.close()
        return found

    setup_cache.timeout = 120

    def setup(self, found: Mapping[int, float], watchers: int) -> None:
        the(found, watchers)

    def track_until_all_know(self, found: Mapping[int, float], watchers: int) -> float:
        return found[watchers]

    track_until_all_know.unit = "us"

    def track_each(self, found: Mapping[int, float], watchers: int) -> float:
        return found[watchers] / watchers

    track_each.unit = "us"


class Memory:
    """What the server takes more for each watch; ten sessions watch paths of 22 bytes at which there is nothing."""

    params = (10_000, 100_000)
    param_names = ("watches",)

    def setup_cache(self) -> dict[int, float]:
        found = {}
        with disk() as folder, server(folder) as running:
            crowd = Crowd(running.port)
            crowd.grow(10)
            try:
                empty = running.resident()["VmRSS"]
                made = 0
                for watches in Memory.params:
                    if watches > MOST:
                        break
                    while made < watches:
                        batch = min(1000, watches - made) // 10
                        # each path once for all ten sessions: a path's own entry counts a tenth
                        frames = b"".join(watching(EXISTS, f"/nothing/here-{made + n:09}") for n in range(batch))
                        crowd.ask(frames, batch)
                        made += 10 * batch
                    found[watches] = (running.resident()["VmRSS"] - empty) / watches
            finally:
                crowd.close()
        return found

    setup_cache.timeout = 60

    def setup(self, found: Mapping[int, float], watches: int) -> None:
        the(found, watches)

    def track_memory_of_a_watch(self, found: Mapping[int, float], watches: int) -> float:
        return found[watches]

    track_memory_of_a_watch.unit = "bytes"
