"""Clients that are busy and behave: the load beside which an attack's effect on others is measured.

``python -m support.busy --port P [--seconds S]``: pipelined reads and writes at full rate, replies read.
"""

from __future__ import annotations

import argparse
import time

from support import hostile, wire
from support.hostile import Target
from support.wire import Session


def main() -> None:
    parser = argparse.ArgumentParser(description="Load a server with clients that behave.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secure", type=int)
    parser.add_argument("--unified", type=int)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    hostile.prepare(Target(options.port))
    print("ready", flush=True)
    deadline = time.monotonic() + options.seconds
    with Session(options.port) as zk:
        while time.monotonic() < deadline:
            batch = [wire.get_data(hostile.ROOT)] * 200 + [wire.set_data(hostile.ROOT, b"x" * 100)] * 50
            zk.send(*batch)
            for _ in batch:
                zk.reply()


if __name__ == "__main__":
    main()
