"""The servers that are compared, as processes, and a small client for what the load generator does not do."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ZOOKEEPER_JAR: Final = Path("/usr/share/java/zookeeper.jar")


class Failed(Exception):
    """Something could not be run: the text says what, for the person at the terminal."""


class Server:
    """One server process with its own directory and port. `start` and `stop` may be repeated."""

    name: str
    command: Sequence[str]

    def __init__(self, directory: Path, settings: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.port = free_port()
        self.log = directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(settings)

    def configure(self, settings: Sequence[str]) -> None:
        """Write the zoo.cfg, which is the same for fastzk and ZooKeeper; ``settings`` are further lines of it."""
        lines = [
            "tickTime=2000",
            f"dataDir={self.directory / 'data'}",
            f"clientPort={self.port}",
            "clientPortAddress=127.0.0.1",
            # ZooKeeper would open port 8080 for it.
            "admin.enableServer=false",
            *settings,
        ]
        (self.directory / "zoo.cfg").write_text("".join(f"{line}\n" for line in lines))

    def arguments(self) -> Sequence[str]:
        """The command line."""
        return [*self.command, str(self.directory / "zoo.cfg")]

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be run here, or None."""
        raise NotImplementedError

    def addresses(self) -> str:
        """Of the client port, as a load generator takes it."""
        return f"127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start the process, and wait for nothing."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=environment(),
            )

    def start(self) -> float:
        """Returns the seconds until it served."""
        began = time.perf_counter()
        self.launch()
        self.wait_until_it_serves(began + 120)
        return time.perf_counter() - began

    def wait_until_it_serves(self, deadline: float) -> None:
        """Until a session was established; ``deadline`` is one of time.perf_counter. Raises Failed."""
        self.session(deadline).close()

    def session(self, deadline: float = 0.0) -> Session:
        """A session; until `deadline` (of time.perf_counter) a server that does not answer is tried again."""
        # ZooKeeper accepts connections while it still loads, and never answers some of those.
        patience = 0.1 if deadline else 30.0
        while True:
            try:
                return Session(self.port, patience)
            except OSError as error:
                if self.process is None or self.process.poll() is not None:
                    raise Failed(self.explain("ended")) from error
                if time.perf_counter() > deadline:
                    raise Failed(self.explain(f"gives no session ({error})")) from error
            time.sleep(0.005)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(self.explain("did not stop within 60 s")) from None
        self.process = None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def explain(self, what: str) -> str:
        tail = self.log.read_text(errors="replace").splitlines()[-20:] if self.log.exists() else []
        return "\n".join([f"{self.name} {what}; the end of its log:", *tail])

    def resident(self) -> dict[str, int]:
        """Bytes of the process and its descendants: VmRSS, and how much of it is anonymous or of files."""
        total = {"VmRSS": 0, "RssAnon": 0, "RssFile": 0}
        assert self.process is not None
        for pid in descendants(self.process.pid):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in total:
                    total[key] += int(value.split()[0]) * 1024
        return total


class ZooKeeper(Server):
    """Apache ZooKeeper as Debian's package starts it, without JVM options; no logging is configured."""

    name = "Apache ZooKeeper"
    command = ("java", "-cp", str(ZOOKEEPER_JAR), "org.apache.zookeeper.server.quorum.QuorumPeerMain")

    @classmethod
    def missing(cls) -> str | None:
        if not shutil.which("java"):
            return "there is no java"
        return None if ZOOKEEPER_JAR.exists() else f"there is no {ZOOKEEPER_JAR} (Debian package: zookeeper)"


class Fastzk(Server):
    """fastzk-server in this interpreter."""

    name = "fastzk"
    command = (sys.executable, "-m", "fastzk.server.cli")

    @classmethod
    def missing(cls) -> str | None:
        done = cls.version()
        return f"{shlex.join(cls.command)} does not run: {done.stderr.strip()}" if done.returncode else None

    @classmethod
    def version(cls) -> subprocess.CompletedProcess[str]:
        command = [*cls.command, "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def allow_open_files() -> int:
    """Raise the soft limit of open files to the hard one, for this process and those it starts; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def environment() -> dict[str, str]:
    """The environment of the servers: they run the fastzk that this process would import; this checkout's if none."""
    spec = importlib.util.find_spec("fastzk")
    home = Path(spec.origin).parent.parent if spec and spec.origin else Path(__file__).resolve().parent.parent
    if str(home) in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        return dict(os.environ)  # the interpreter finds it, after its own modules
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{inherited}" if inherited else str(home)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def descendants(pid: int) -> Iterator[int]:
    """The process and all processes below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from descendants(int(child))


# ---- a client for what the load generator does not do


class Session:
    """A session of plain blocking calls. Every failure, also an error reply, is an OSError."""

    def __init__(self, port: int, patience: float = 30.0) -> None:
        """`patience` are the seconds to wait for the answer to the handshake."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=patience)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._input = self._socket.makefile("rb", 1 << 16)
            self._send(struct.pack(">iqiqi16sb", 0, 0, 30_000, 0, 16, bytes(16), 0))
            (timeout,) = struct.unpack_from(">i", self._receive(), 4)
            if timeout <= 0:
                raise ConnectionError("session refused")
            self._socket.settimeout(30)
        except BaseException:
            self._socket.close()
            raise

    def get(self, path: str) -> bytes:
        """The data of a znode."""
        name = path.encode()
        self._send(struct.pack(f">iii{len(name)}s?", 1, 4, len(name), name, False))
        reply = self._reply()
        (length,) = struct.unpack_from(">i", reply)
        return reply[4 : 4 + length]

    def set_many(self, paths: Sequence[str], data: bytes) -> None:
        """Pipelined setData; returns when the last one is answered."""
        frames = []
        for path in paths:
            name = path.encode()
            body = struct.pack(f">iii{len(name)}si{len(data)}si", 1, 5, len(name), name, len(data), data, -1)
            frames.append(struct.pack(">i", len(body)) + body)
        self._socket.sendall(b"".join(frames))
        for _ in paths:
            self._reply()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._send(struct.pack(">ii", 1, -11))
            self._reply()
        self._input.close()
        self._socket.close()

    def _send(self, body: bytes) -> None:
        self._socket.sendall(struct.pack(">i", len(body)) + body)

    def _receive(self) -> bytes:
        raw = self._input.read(4)
        if len(raw) < 4:
            raise ConnectionError("connection closed")
        (length,) = struct.unpack(">i", raw)
        body: bytes = self._input.read(length)
        return body

    def _reply(self) -> bytes:
        frame = self._receive()
        _, _, error = struct.unpack_from(">iqi", frame)
        if error:
            raise OSError(f"error reply {error}")
        return frame[16:]
