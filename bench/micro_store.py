"""Why the store keeps pages of many znodes (here 32) and not one record per znode.

Writes the same znodes into LMDB twice, once as single records and once as pages, from a background thread, as
the server's checkpoints do, and reads both back. py-lmdb takes and releases the GIL for every put, so each
put is a chance to wait for whatever else runs Python. Every write is done alone, and beside a thread that
runs Python in short turns with a system call between them (what an event loop under load looks like). That
thread's 99th percentile and longest turn are reported: what the writer costs the loop, as the puts per second
are what the loop costs the writer.

    python bench/micro_store.py [--znodes 1000000] [--bytes 200] [--seconds 20] [--dir DIR]

A write that is not done after --seconds is cut off and extrapolated ("all in s").
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator

import lmdb

ZNODES_PER_PAGE = 32


def records(count: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """`count` records of `size` bytes, keys in ascending order, no two values alike."""
    filler = os.urandom(size)
    for number in range(count):
        key = number.to_bytes(8, "big")
        yield key, key + filler[8:]


class Turns(threading.Thread):
    """Stands for the event loop: turns of about 100 us of Python, each ended by a call that drops the GIL."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stop = False
        self.times: list[float] = []
        self._read, self._write = os.pipe()

    def run(self) -> None:
        while not self.stop:
            start = time.perf_counter()
            while time.perf_counter() - start < 100e-6:
                pass
            os.write(self._write, b"x")
            os.read(self._read, 1)
            self.times.append(time.perf_counter() - start)
        os.close(self._read)
        os.close(self._write)


def write(path: str, count: int, size: int, deadline: float) -> tuple[int, float, float]:
    """Put `count` records in one transaction; returns records put in time, put and commit seconds."""
    env = lmdb.open(path, map_size=8 << 30, readahead=False, max_dbs=2)
    pages = env.open_db(b"pages")
    txn = env.begin(write=True, db=pages)
    start = time.perf_counter()
    done = 0
    for key, value in records(count, size):
        txn.put(key, value)
        done += 1
        if not done & 255 and time.perf_counter() - start > deadline:
            break
    put = time.perf_counter() - start
    txn.commit()
    commit = time.perf_counter() - start - put
    env.close()
    return done, put, commit


def load(path: str) -> tuple[int, float]:
    """Walk everything once, touching every value; returns records and seconds."""
    env = lmdb.open(path, map_size=8 << 30, readahead=False, max_dbs=2)
    pages = env.open_db(b"pages")
    start = time.perf_counter()
    number = 0
    with env.begin(db=pages, buffers=True) as txn:
        for _key, value in txn.cursor():
            value[-1]
            number += 1
    took = time.perf_counter() - start
    env.close()
    return number, took


def one(name: str, count: int, size: int, busy: bool, arguments: argparse.Namespace) -> None:
    path = tempfile.mkdtemp(dir=arguments.dir)
    turns = Turns()
    result: list[tuple[int, float, float]] = []
    try:
        if busy:
            turns.start()
        writer = threading.Thread(target=lambda: result.append(write(path, count, size, arguments.seconds)))
        writer.start()
        writer.join()
        turns.stop = True
        if busy:
            turns.join()
        done, put, commit = result[0]
        number, took = load(path)
        assert number == done, (number, done)
    finally:
        shutil.rmtree(path)
    times = sorted(turns.times) or [0.0]
    print(
        f"{name:8} {'busy' if busy else 'idle':5} {done:9,} of {count:9,} {done / put:12,.0f} {put:8.2f}"
        f" {count / (done / put):9.1f} {commit:8.2f} {took:8.3f}"
        f" {times[int(len(times) * 0.99)] * 1e3:9.2f} {times[-1] * 1e3:9.2f}",
        flush=True,
    )


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--znodes", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=200, help="of one znode's record")
    parser.add_argument("--seconds", type=float, default=20.0, help="cut a write off after so long")
    parser.add_argument("--dir", default=None, help="where to write (default: the temporary directory)")
    arguments = parser.parse_args()
    print(
        f"{'records':8} {'loop':5} {'put':>9} of {'wanted':>9} {'puts/s':>12} {'put s':>8} {'all in s':>9}"
        f" {'commit s':>8} {'load s':>8} {'p99 ms':>9} {'max ms':>9}"
    )
    for busy in (False, True):
        one("single", arguments.znodes, arguments.bytes, busy, arguments)
        one("pages", arguments.znodes // ZNODES_PER_PAGE, arguments.bytes * ZNODES_PER_PAGE, busy, arguments)


if __name__ == "__main__":
    main()
