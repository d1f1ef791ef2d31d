"""Servers as processes: ours and, to check the tests themselves, Debian's Apache ZooKeeper.

Both have one interface (:class:`Server`), so a test can be written once and run against either. Every error
text ends with the last lines of the server's log.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, ClassVar

import pytest

from support import wire

#: Below the range from which the kernel takes the local ports of outgoing connections.
_PORTS = range(15_000, 32_000)
_port_locks: list[IO[str]] = []


def free_port() -> int:
    """A TCP port nobody listens on, reserved for this process among all test processes of the machine."""
    folder = Path(tempfile.gettempdir()) / f"fastzk-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for _ in range(500):
        port = random.SystemRandom().choice(_PORTS)
        lock = (folder / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        _port_locks.append(lock)
        return port
    raise RuntimeError("no free port found")


def require(present: object, reason: str) -> None:
    """Skip the test unless ``present``; where ``CI`` is set a missing tool is a failure instead."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(f"required when CI is set: {reason}")
    pytest.skip(reason)


def _environment() -> dict[str, str]:
    """The environment of a server: the same ``fastzk`` as the tests import, from wherever it runs."""
    environment = dict(os.environ)
    spec = importlib.util.find_spec("fastzk")
    if spec is not None and spec.origin is not None:
        paths = [str(Path(spec.origin).parent.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


class ServerFailed(Exception):
    """The server process did not do what was asked; the text ends with its log."""


class Server:
    """One server process with its own directory, config file, port and log file.

    ``config`` are zoo.cfg keys; a value of None leaves out a key that would be there by default.
    """

    kind: ClassVar[str]
    #: All servers that were started, for the reports of failed tests and for the last clean-up.
    started: ClassVar[list[Server]] = []

    def __init__(
        self, directory: Path, port: int | None = None, config: Mapping[str, str | None] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = port or free_port()
        self.data_dir = directory / "data"
        self.config_path = directory / "zoo.cfg"
        self.log_path = directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        defaults: dict[str, str | None] = {
            "tickTime": "2000",
            "dataDir": str(self.data_dir),
            "clientPort": str(self.port),
            "clientPortAddress": "127.0.0.1",
            "maxClientCnxns": "0",
            "preAllocSize": "1024",
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "*",
        }
        merged = {**defaults, **(config or {})}
        self.data_dir = Path(merged["dataDir"] or self.data_dir)
        self.config_path.write_text("".join(f"{k}={v}\n" for k, v in merged.items() if v is not None))

    def command(self) -> list[str]:
        raise NotImplementedError

    # ---- life

    def launch(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the process and return at once."""
        assert not self.running, "already running"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=_environment(),
            )
        if self not in Server.started:
            Server.started.append(self)
        return self.process

    def start(self, timeout: float = 30.0) -> Server:
        """Start and wait until a session can be opened and closed. Raises ServerFailed."""
        self.launch()
        self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout: float = 30.0) -> None:
        assert self.process is not None
        deadline = time.monotonic() + timeout
        while True:
            if self.process.poll() is not None:
                raise ServerFailed(
                    self.explain(f"{self.kind} ended with exit code {self.process.returncode}")
                )
            try:
                # Four-letter words may be answered before sessions are, so open one.
                with wire.Session(self.port, timeout=2.0):
                    return
            except (wire.WireError, OSError) as error:
                if time.monotonic() > deadline:
                    what = f"{self.kind} on port {self.port} gave no session within {timeout} s: {error!r}"
                    raise ServerFailed(self.explain(what)) from error
            time.sleep(0.02)

    def run_to_end(self, *arguments: str, timeout: float = 20.0) -> tuple[int, str]:
        """Run a process that should end by itself: its exit code and what it wrote (not in the log)."""
        try:
            done = subprocess.run(
                [*self.command(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=_environment(),
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            output = (expired.stdout or b"").decode(errors="replace")
            raise ServerFailed(f"still running after {timeout} s; it wrote:\n{output}") from None
        return done.returncode, done.stdout.decode(errors="replace")

    def kill9(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def terminate(self, timeout: float = 20.0) -> tuple[int, float]:
        """SIGTERM: the exit code and the seconds it took. Raises ServerFailed after ``timeout``."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServerFailed(self.explain(f"{self.kind} ignored SIGTERM for {timeout} s")) from None
        return code, time.monotonic() - began

    def restart(self) -> Server:
        """SIGTERM if it still runs, then start on the same data."""
        if self.running:
            self.terminate()
        return self.start()

    def discard(self) -> None:
        """End the process if it still runs; for clean-up, so it never raises."""
        if self.process is not None:
            with contextlib.suppress(Exception):
                self.kill9()

    # ---- looking at it

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def rss_bytes(self) -> int:
        """VmRSS: resident memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise ServerFailed(self.explain(f"no VmRSS of process {self.pid}"))

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        tail = self.log_text().splitlines()[-lines:]
        return "\n".join([f"--- end of {self.kind}'s log {self.log_path}:", *tail])

    def explain(self, what: str) -> str:
        return f"{what}\n{self.log_tail()}"

    @property
    def hosts(self) -> str:
        return f"127.0.0.1:{self.port}"

    def session(
        self,
        *,
        timeout_ms: int = 30_000,
        session_id: int = 0,
        password: bytes = wire.NO_PASSWORD,
        last_zxid: int = 0,
        timeout: float = 20.0,
        rcvbuf: int | None = None,
    ) -> wire.Session:
        """A new session, or with ``session_id`` and ``password`` an old one attached again."""
        return wire.Session(
            self.port,
            timeout_ms=timeout_ms,
            session_id=session_id,
            password=password,
            last_zxid=last_zxid,
            timeout=timeout,
            context=self.log_tail,
            rcvbuf=rcvbuf,
        )

    def connection(self, timeout: float = 20.0) -> wire.Connection:
        """A connection without a handshake."""
        return wire.Connection(self.port, timeout, self.log_tail)

    def four_letter_word(self, word: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            sock.sendall(word.encode())
            chunks = []
            while chunk := sock.recv(65536):
                chunks.append(chunk)
        return b"".join(chunks).decode()


class FastzkServer(Server):
    """Our server. ``FASTZK_SERVER`` replaces the command, for example by an installed ``fastzk-server``."""

    kind = "fastzk"

    def command(self) -> list[str]:
        override = os.environ.get("FASTZK_SERVER")
        program = override.split() if override else [sys.executable, "-m", "fastzk.server.cli"]
        return [*program, str(self.config_path)]

    @property
    def log_files(self) -> list[Path]:
        """The segments of the transaction log, oldest first."""
        return sorted((self.data_dir / "log").glob("log.*"), key=lambda p: int(p.suffix[1:], 16))


class ZooKeeperServer(Server):
    """Debian's Apache ZooKeeper (packages ``zookeeper`` and a Java runtime)."""

    kind = "zookeeper"
    jars = Path("/usr/share/java")

    @classmethod
    def missing(cls) -> str | None:
        """What this machine lacks to run it, or None."""
        if not shutil.which("java"):
            return "no java"
        if not (cls.jars / "zookeeper.jar").exists():
            return f"no {cls.jars / 'zookeeper.jar'} (Debian package libzookeeper-java)"
        return None

    def command(self) -> list[str]:
        # slf4j takes the first backend it finds; without slf4j-simple in front nothing would be logged
        classpath = f"{self.jars / 'zookeeper.jar'}:{self.jars / 'slf4j-simple.jar'}:{self.jars}/*"
        # digest credentials are read in the JVM's default charset, and clients send UTF-8
        options = [
            "-Dfile.encoding=UTF-8",
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        ]
        main = "org.apache.zookeeper.server.ZooKeeperServerMain"
        return ["java", *options, "-cp", classpath, main, str(self.config_path)]


KINDS: dict[str, type[Server]] = {"fastzk": FastzkServer, "zookeeper": ZooKeeperServer}


def make_server(
    kind: str, directory: Path, config: Mapping[str, str | None] | None = None, port: int | None = None
) -> Server:
    """A server of that kind; skips the test where this machine cannot run it."""
    if kind == "zookeeper":
        missing = ZooKeeperServer.missing()
        require(missing is None, f"Apache ZooKeeper: {missing}")
    return KINDS[kind](directory, port, config)


def tree_of(directory: Path) -> dict[str, str]:
    """Every file below ``directory`` with a hash of its content, except lock files, which hold nothing."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and "lock" not in path.name.lower():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_dir():
            found[name] = "directory"
    return found


@atexit.register
def _discard_all() -> None:
    for server in Server.started:
        server.discard()
