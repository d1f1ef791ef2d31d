"""Very many sessions of one process, each with next to no work: for watches, idle connections, and their opening."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

from servers import Failed

EXISTS: Final = 3
GET_DATA: Final = 4
CLOSE: Final = -11
_CONNECT: Final = struct.pack(">iiqiqi16s?", 45, 0, 0, 30_000, 0, 16, bytes(16), False)
#: Seconds for all sessions together to get what they wait for.
PATIENCE: Final = 30.0


def watching(op: int, path: str) -> bytes:
    """The frame of a read with a watch."""
    name = path.encode()
    body = struct.pack(f">iii{len(name)}s?", 1, op, len(name), name, True)
    return struct.pack(">i", len(body)) + body


def room() -> int:
    """How many sessions this process, and a server it starts, may have; the soft limit of open files is raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return (1 << 20 if hard == resource.RLIM_INFINITY else hard) - 200


class Crowd:
    """Sessions on one server, without a word between them. ``close`` ends them all."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sockets: list[socket.socket] = []
        self._poll = select.epoll()
        self._by_fd: dict[int, socket.socket] = {}
        self._input: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.sockets)

    def grow(self, count: int, wave: int = 64) -> None:
        """Have ``count`` sessions; ``wave`` of them connect and shake hands at the same time."""
        while len(self.sockets) < count:
            new = [self._dial() for _ in range(min(wave, count - len(self.sockets)))]
            for sock in new:
                sock.sendall(_CONNECT)
            self.hear(new)

    def _dial(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(sock)
        self._by_fd[sock.fileno()] = sock
        self._input[sock.fileno()] = b""
        self._poll.register(sock.fileno(), select.EPOLLIN)
        return sock

    def ask(self, frames: bytes, count: int = 1) -> None:
        """Every session sends these ``count`` frames and takes their answers, some hundred sessions at a time."""
        for at in range(0, len(self.sockets), 500):
            chosen = self.sockets[at : at + 500]
            for sock in chosen:
                sock.sendall(frames)
            self.hear(chosen, count)

    def hear(self, sockets: Sequence[socket.socket] | None = None, frames: int = 1) -> None:
        """Until each of the sockets (all of them if none is named) was sent so many frames, and no more."""
        chosen = self.sockets if sockets is None else sockets
        waiting = {sock.fileno(): frames for sock in chosen}
        deadline = time.monotonic() + PATIENCE
        while waiting:
            ready = self._poll.poll(1.0, 4096)
            if not ready and time.monotonic() > deadline:
                raise Failed(f"{len(waiting)} of {len(self.sockets)} sessions were told nothing within {PATIENCE:g} s")
            for fd, _ in ready:
                got = self._by_fd[fd].recv(65536)
                if not got:
                    raise Failed("the server closed a connection")
                data = self._input[fd] + got
                while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4], "big")):
                    if fd not in waiting:
                        raise Failed("a session was told something it did not ask for")
                    waiting[fd] -= 1
                    if waiting[fd] == 0:
                        del waiting[fd]
                    data = data[4 + size :]
                self._input[fd] = data

    def close(self) -> None:
        """End every session, and wait until the server says so."""
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.sendall(struct.pack(">iii", 8, 1, CLOSE))
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.settimeout(1.0)
                while sock.recv(4096):
                    pass
            sock.close()
        self._poll.close()
        self.sockets.clear()
