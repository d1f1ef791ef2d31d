"""fastzk.Client and fastzk.AsyncClient against one server: the same work as bench/client.py does.

Expected: no growth to see here. One call at a time takes a round trip and, for a set, an fdatasync; pipelined calls
take what the client itself needs for each.
"""

from __future__ import annotations

from collections.abc import Mapping

from client import DATA, PATH, fastzk_async, fastzk_client

from fastzk import Client

from .support import SECONDS, disk, server

Found = Mapping[str, Mapping[str, float]]


class Library:
    """Of some thousand calls."""

    params = ("Client", "AsyncClient")
    param_names = ("client",)

    def setup_cache(self) -> dict[str, dict[str, float]]:
        with disk() as folder, server(folder) as running:
            hosts, scale = f"127.0.0.1:{running.port}", max(0.05, SECONDS)
            with Client(hosts) as client:
                client.create(PATH, DATA)
            return {"Client": fastzk_client(hosts, scale), "AsyncClient": fastzk_async(hosts, scale)}

    setup_cache.timeout = 120

    def track_get(self, found: Found, client: str) -> float:
        """Median of calls made one after the other."""
        return found[client]["get"]

    track_get.unit = "us"

    def track_set(self, found: Found, client: str) -> float:
        """Median of calls made one after the other, each durable when it is answered."""
        return found[client]["set"]

    track_set.unit = "us"

    def track_pipelined_gets_per_second(self, found: Found, client: str) -> float:
        """1000 calls in flight."""
        return found[client]["pipelined"]

    track_pipelined_gets_per_second.unit = "1/s"

    def track_calls_of_many_per_second(self, found: Found, client: str) -> float:
        """Hundreds of threads, or tasks, that read and write by turns."""
        return found[client]["tasks"]

    track_calls_of_many_per_second.unit = "1/s"
