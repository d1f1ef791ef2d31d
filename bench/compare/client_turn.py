"""One turn of one client library, in a process of its own: ``python client_turn.py HOSTS CLIENT SCALE``.

Prints what bench/client.py measures, as JSON. The client ``prepare`` makes the znode that all of them use, and tells
which of the others are there.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import client  # bench/client.py


def turn_of(hosts: str, name: str, scale: float) -> dict[str, float]:
    if name == "prepare":
        from fastzk import Client

        with Client(hosts) as session:
            session.ensure_path(client.PATH)
            session.set(client.PATH, client.DATA)
        return {"C client": client.has_c_client(), "kazoo": importlib.util.find_spec("kazoo") is not None}
    found: dict[str, float] = client.CLIENTS[name](hosts, scale)
    return found


if __name__ == "__main__":
    print(json.dumps(turn_of(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
