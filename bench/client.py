"""kazoo, fastzk.Client and fastzk.AsyncClient beside each other, on one server, by turns.

    python bench/client.py                      # against a fastzk-server it starts
    python bench/client.py --hosts 127.0.0.1:2181
    python bench/client.py --quick

Prints Markdown: for each kind of work the median of some rounds, and its ratio to kazoo. The C client takes part
when there is a C compiler and ZooKeeper's library (Debian package libzookeeper-mt-dev).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
DATA = b"x" * 128
PATH = "/bench"


def median_us(work: Callable[[], object], count: int) -> float:
    """The median latency of one call, in microseconds."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def rate(work: Callable[[], int]) -> float:
    """Operations a second; ``work`` returns how many it did."""
    began = time.perf_counter()
    return work() / (time.perf_counter() - began)


def pipelined(client: Any, count: int) -> int:
    window = 1000
    for _ in range(max(1, count // window)):
        for call in [client.get_async(PATH) for _ in range(window)]:
            call.get()
    return max(1, count // window) * window


def threaded(client: Any, threads: int, each: int) -> int:
    """Threads that each read and write by turns."""

    def work() -> None:
        for _ in range(each // 2):
            client.get(PATH)
            client.set(PATH, DATA)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return threads * (each // 2) * 2


def threads_client(client: Any, scale: float) -> dict[str, float]:
    """Every kind of work with a client that has kazoo's methods."""
    return {
        "get": median_us(lambda: client.get(PATH), int(3000 * scale)),
        "set": median_us(lambda: client.set(PATH, DATA), int(500 * scale)),
        "pipelined": rate(lambda: pipelined(client, int(20_000 * scale))),
        "tasks": rate(lambda: threaded(client, int(1000 * scale), 10)),
    }


def kazoo(hosts: str, scale: float) -> dict[str, float]:
    from kazoo.client import KazooClient

    client = KazooClient(hosts)
    client.start()
    try:
        return threads_client(client, scale)
    finally:
        client.stop()
        client.close()


def fastzk_client(hosts: str, scale: float) -> dict[str, float]:
    from fastzk import Client

    with Client(hosts) as client:
        return threads_client(client, scale)


def fastzk_async(hosts: str, scale: float) -> dict[str, float]:
    return uvloop.run(_async(hosts, scale))


async def _async(hosts: str, scale: float) -> dict[str, float]:
    from fastzk import AsyncClient

    async def latency(make: Callable[[], Any], count: int) -> float:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            await make()
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1e6

    async def work(client: AsyncClient) -> None:
        for _ in range(5):
            await client.get(PATH)
            await client.set(PATH, DATA)

    async with AsyncClient(hosts) as client:
        found = {
            "get": await latency(lambda: client.get(PATH), int(3000 * scale)),
            "set": await latency(lambda: client.set(PATH, DATA), int(500 * scale)),
        }
        rounds = max(1, int(20 * scale))
        began = time.perf_counter()
        for _ in range(rounds):
            for call in [client.get_async(PATH) for _ in range(1000)]:
                await call
        found["pipelined"] = rounds * 1000 / (time.perf_counter() - began)
        tasks = int(1000 * scale)
        began = time.perf_counter()
        await asyncio.gather(*[work(client) for _ in range(tasks)])
        found["tasks"] = tasks * 10 / (time.perf_counter() - began)
    return found


def c_client(hosts: str, scale: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "cclient"
        source = HERE / "cclient.c"
        flags = ["-O2", "-DTHREADED", "-o", str(program), str(source), "-lzookeeper_mt"]
        subprocess.run(["cc", *flags], check=True, capture_output=True)
        counts = [str(int(3000 * scale)), str(int(500 * scale)), str(int(20_000 * scale))]
        done = subprocess.run([program, hosts, PATH, *counts], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def has_c_client() -> bool:
    return bool(shutil.which("cc")) and Path("/usr/include/zookeeper/zookeeper.h").exists()


CLIENTS = {"kazoo": kazoo, "C client": c_client, "Client": fastzk_client, "AsyncClient": fastzk_async}
ROWS = {
    "get": ("get, one at a time, p50", "us", False),
    "set": ("set, one at a time, p50", "us", False),
    "pipelined": ("get, 1000 in flight", "/s", True),
    "tasks": ("1000 threads or tasks, get and set", "/s", True),
}


def report(results: dict[str, list[dict[str, float]]]) -> str:
    names = list(results)
    lines = [f"| work | {' | '.join(names)} |", f"| --- | {' | '.join('---' for _ in names)} |"]
    for key, (title, unit, more_is_better) in ROWS.items():
        middle = {
            name: statistics.median(each[key] for each in rounds) if key in rounds[0] else None
            for name, rounds in results.items()
        }
        base = middle.get("kazoo")
        cells = []
        for value in middle.values():
            if value is None:
                cells.append("")
                continue
            ratio = f" ({value / base if more_is_better else base / value:.1f}x)" if base else ""
            cells.append(f"{value:,.0f} {unit}{ratio}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(hosts: str, clients: list[str], rounds: int, scale: float) -> dict[str, list[dict[str, float]]]:
    from fastzk import Client

    with Client(hosts) as client:
        client.ensure_path(PATH)
        client.set(PATH, DATA)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
    for number in range(rounds):
        for name in clients:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            results[name].append(CLIENTS[name](hosts, scale))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", help="a server that runs already; its znode /bench is overwritten")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="shows that everything runs, not how fast it is")
    parser.add_argument("--clients", default=",".join(CLIENTS), help="with commas between them")
    arguments = parser.parse_args()
    clients = [name for name in arguments.clients.split(",") if name != "C client" or has_c_client()]
    rounds, scale = (1, 0.1) if arguments.quick else (arguments.rounds, 1.0)
    if arguments.hosts:
        print(report(measure(arguments.hosts, clients, rounds, scale)))
        return
    from servers import Fastzk

    with tempfile.TemporaryDirectory() as directory:
        server = Fastzk(Path(directory) / "server")
        server.start()
        try:
            print(report(measure(f"127.0.0.1:{server.port}", clients, rounds, scale)))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
