"""A process that enters a lock again and again: ``contender.py (kazoo|fastzk) HOSTS FILE SECONDS``.

Inside, it makes FILE, which must not exist, and removes it. Prints how often it was inside; ends with code 3 as soon
as another one is inside, too.
"""

from __future__ import annotations

import os
import random
import sys
import time
from typing import Any


def make_client(kind: str, hosts: str) -> Any:
    if kind == "kazoo":
        from kazoo.client import KazooClient

        retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.2}
        client: Any = KazooClient(hosts, timeout=30, connection_retry=retry)
    else:
        from fastzk import Client

        client = Client(hosts, timeout=30)
    client.start(60)
    return client


def main() -> int:
    kind, hosts, path, seconds = sys.argv[1:]
    until = time.monotonic() + float(seconds)
    times = 0
    client = make_client(kind, hosts)
    lock = client.Lock("/contended", kind)
    while time.monotonic() < until:
        try:
            if not lock.acquire(timeout=20):
                continue
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                print("another one is inside", flush=True)
                return 3
            time.sleep(random.uniform(0.0, 0.003))
            os.unlink(path)
            times += 1
            lock.release()
        except Exception as error:
            print(f"again, after {error!r}", file=sys.stderr, flush=True)
            # A new session, so that no znode of this one is in the way.
            client.stop()
            client.close()
            client = make_client(kind, hosts)
            lock = client.Lock("/contended", kind)
    client.stop()
    print(times, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
