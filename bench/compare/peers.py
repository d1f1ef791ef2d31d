"""Redis and etcd, where they are installed: how they are started, and how each is given the same work."""

from __future__ import annotations

import csv
import http.client
import json
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from servers import Failed, Server, free_port

from compare.plan import Load
from compare.rows import ETCD, ETCD_SERIALIZABLE, REDIS

#: Keys, as many as the znodes of the same load, and bytes of their values.
KEYS: Final = 1000
BYTES: Final = 128


class Peer(Server):
    """A server that does not speak ZooKeeper's protocol."""

    #: Operations of zkload that have an equal here, and under which columns it is measured.
    columns: ClassVar[Mapping[str, Sequence[str]]]

    def configure(self, settings: Sequence[str]) -> None:
        pass

    def serves(self) -> bool:
        """Whether it answers a question."""
        raise NotImplementedError

    def wait_until_it_serves(self, deadline: float) -> None:
        while not self.serves():
            if not self.runs():
                raise Failed(self.explain("ended"))
            if time.perf_counter() > deadline:
                raise Failed(self.explain("does not answer"))
            time.sleep(0.02)

    def run_load(self, column: str, load: Load, seconds: float) -> dict[str, Any]:
        """A closed loop, as zkload makes it: ``ops_per_s``, ``p50_us`` and so on."""
        raise NotImplementedError

    def run(self, command: Sequence[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not done.stdout.strip():
            raise Failed(self.explain(f"failed under `{shlex.join(command)}`: {done.stderr.strip()}"))
        return done.stdout


class Redis(Peer):
    """Redis, every write on the disk before it is answered; no snapshots, which is in its favour."""

    name = REDIS
    columns: ClassVar = {"get": (REDIS,), "set": (REDIS,)}

    def __init__(self, directory: Path, settings: Sequence[str] = ()) -> None:
        super().__init__(directory, settings)
        self._rates: dict[Load, float] = {}

    def arguments(self) -> Sequence[str]:
        return [
            *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ]

    @classmethod
    def missing(cls) -> str | None:
        absent = [name for name in ("redis-server", "redis-benchmark") if not shutil.which(name)]
        return f"there is no {' and no '.join(absent)}" if absent else None

    def serves(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def run_load(self, column: str, load: Load, seconds: float) -> dict[str, Any]:
        if load not in self._rates:
            # Every key gets a value, or GET would be asked for what is not there.
            self._benchmark(Load("set", 8, 64), 20 * KEYS)
            # redis-benchmark counts requests, not seconds: a short run says how many those are.
            self._rates[load] = self._benchmark(load, 1000 * load.connections)["ops_per_s"]
        result = self._benchmark(load, max(1000, int(self._rates[load] * seconds)))
        self._rates[load] = result["ops_per_s"]
        return result

    def _benchmark(self, load: Load, requests: int) -> dict[str, Any]:
        command = [
            *("redis-benchmark", "-h", "127.0.0.1", "-p", str(self.port), "-t", load.operation, "--csv"),
            *("-c", str(load.connections), "-P", str(load.window), "-d", str(BYTES), "-r", str(KEYS)),
            *("-n", str(requests)),
        ]
        lines = [line for line in self.run(command).splitlines() if line.startswith('"')]
        (found,) = csv.DictReader(lines)
        times = {f"{key}_us": float(found[f"{key}_latency_ms"]) * 1000 for key in ("p50", "p95", "p99", "max")}
        return {"ops_per_s": float(found["rps"]), "mean_us": float(found["avg_latency_ms"]) * 1000, **times}


class Etcd(Peer):
    """etcd, one member, with its defaults."""

    name = ETCD
    columns: ClassVar = {"get": (ETCD, ETCD_SERIALIZABLE), "set": (ETCD,)}
    #: The compiled etcdload.
    program: Path

    def configure(self, settings: Sequence[str]) -> None:
        self._peer_port = free_port()

    def arguments(self) -> Sequence[str]:
        client, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self._peer_port}"
        return [
            *("etcd", "--name", "one", "--data-dir", str(self.directory / "data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}"),
        ]

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which("etcd") else "there is no etcd"

    def serves(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def run_load(self, column: str, load: Load, seconds: float) -> dict[str, Any]:
        operation = "put" if load.operation == "set" else "serializable" if column == ETCD_SERIALIZABLE else "range"
        command = [
            *(str(self.program), "-s", f"127.0.0.1:{self.port}", "-o", operation),
            *("-c", str(load.connections), "-w", str(load.window), "-b", str(BYTES), "-k", str(KEYS)),
            *("-t", str(seconds), "-u", str(min(1.0, seconds))),
        ]
        result: dict[str, Any] = json.loads(self.run(command))
        return result


PEERS: Final[dict[str, type[Peer]]] = {"redis": Redis, "etcd": Etcd}
