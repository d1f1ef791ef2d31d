"""Servers in processes of their own, with data in temporary directories, that end with the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fastzk.client.client import Client
from fastzk.errors import ZooKeeperError

_DEFAULTS: Final[Mapping[str, str]] = {
    "tickTime": "500",  # sessions may be as short as a second
    "minSessionTimeout": "1000",
    "maxSessionTimeout": "60000",
    "clientPortAddress": "127.0.0.1",
    "maxClientCnxns": "0",
    "preAllocSize": "1024",
    "admin.enableServer": "false",
    "4lw.commands.whitelist": "*",
}


class ServerFailed(Exception):
    """A server did not start; the text ends with its log."""


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EphemeralServer:
    """A fastzk-server on 127.0.0.1, with data of its own; use as a context manager.

    :param config: keys of zoo.cfg, in addition to or instead of those for tests; None leaves a key out.
    :param directory: where its files go, and stay; a temporary directory that is removed, where it is None.
    :param port: to serve; any free one where it is None. It stays the same over restarts.
    """

    def __init__(
        self,
        config: Mapping[str, str | None] | None = None,
        *,
        directory: Path | None = None,
        port: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="fastzk-test-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data = self.directory / "data"
        self.data.mkdir(exist_ok=True)
        settings: dict[str, str | None] = {
            **_DEFAULTS,
            "dataDir": str(self.data),
            "clientPort": str(self.port),
            **(config or {}),
        }
        self._config = self.directory / "zoo.cfg"
        self._config.write_text("".join(f"{key}={value}\n" for key, value in settings.items() if value is not None))
        self._log = self.directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def hosts(self) -> str:
        """For a client."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process lives; it may be paused."""
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def launch(self) -> None:
        """Start the process and return at once."""
        if self.running:
            return
        # The same fastzk as this process has, from wherever it was imported.
        package = Path(__file__).parents[2]
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastzk.server.cli", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )

    def start(self, timeout: float = 60.0) -> Self:
        """Start it and wait until it serves clients.

        :raises ServerFailed: when it does not within ``timeout`` seconds.
        """
        self.launch()
        self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until it serves clients.

        :raises ServerFailed: when it does not within ``timeout`` seconds.
        """
        until = time.monotonic() + timeout
        while True:
            if not self.running:
                raise ServerFailed(f"the server ended\n{self.log()[-8000:]}")
            client = Client(self.hosts, timeout=4.0)
            try:
                client.start(2.0)
                return
            except ZooKeeperError as error:
                if time.monotonic() >= until:
                    raise ServerFailed(f"no session within {timeout} s\n{self.log()[-8000:]}") from error
            finally:
                client.stop()

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        if self.process is not None and self.running:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(30)

    def stop(self, timeout: float = 20.0) -> None:
        """End the process in order; what it knows is there when it starts again."""
        if self.process is not None and self.running:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()

    def restart(self) -> None:
        """Stop it and start it again, with its data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop the process where it is: connections stay, but nothing is answered until ``resume``."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def command(self, word: bytes) -> str:
        """The answer to a four-letter word."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as sock:
            sock.sendall(word)
            chunks = []
            while chunk := sock.recv(65536):
                chunks.append(chunk)
        return b"".join(chunks).decode(errors="replace")

    def close(self) -> None:
        """End it and remove its temporary directory."""
        self.kill()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class EphemeralEnsemble:
    """Several servers that form an ensemble; use as a context manager.

    :param size: how many.
    :param config: as for :class:`EphemeralServer`, for all of them.
    """

    def __init__(self, size: int = 3, config: Mapping[str, str | None] | None = None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="fastzk-test-"))
        members = {
            f"server.{number}": f"127.0.0.1:{free_port()}:{free_port()}" for number in range(1, size + 1)
        }
        settings: dict[str, str | None] = {"initLimit": "20", "syncLimit": "10", **members, **(config or {})}
        self.servers: list[EphemeralServer] = []
        for number in range(1, size + 1):
            server = EphemeralServer(settings, directory=self._directory / str(number))
            (server.data / "myid").write_text(f"{number}\n")
            self.servers.append(server)

    @property
    def hosts(self) -> str:
        """For a client: all servers."""
        return ",".join(server.hosts for server in self.servers)

    def start(self, timeout: float = 60.0) -> Self:
        """Start all of them and wait until each serves clients.

        :raises ServerFailed: when one does not within ``timeout`` seconds.
        """
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_ready(timeout)
        return self

    def leader(self, timeout: float = 30.0) -> EphemeralServer:
        """The server that leads.

        :raises ServerFailed: when none does within ``timeout`` seconds.
        """
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            for server in self.servers:
                with contextlib.suppress(OSError):
                    if server.running and "Mode: leader" in server.command(b"srvr"):
                        return server
            time.sleep(0.05)
        raise ServerFailed("no server leads")

    def close(self) -> None:
        """End them and remove their files."""
        for server in self.servers:
            server.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
