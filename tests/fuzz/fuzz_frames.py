"""A fuzzer of frames against a server process: seeded, over many connections, as fast as they go.

    python tests/fuzz/fuzz_frames.py --frames 1000000 --seed 1 [--tree build/checked] [--out build/fuzz]
    python tests/fuzz/fuzz_frames.py --replay build/fuzz/failure-1.frames [--tree build/checked]

``--tree``: a copy of the source tree that was built with ``FASTZK_CHECKED=1`` (``make fuzz`` does that); without it
the ordinary build runs, where only crashes, hangs and errors in the log are found.

Each connection opens a session and sends a pipeline of frames: requests of every kind, some as they are and most
of them damaged. Now and then the end of a connection is a closed socket in the middle of a frame, a closeSession,
or silence. A canary session asks all the while, and is answered in time unless the server hangs. What was sent last
on every connection is kept, and written to a file when something fails.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support import hostile, wire
from support.servers import free_port
from support.wire import Request, Session

#: Connections at a time.
WIDTH = 12
#: Frames of one connection, at most.
LENGTH = 400
#: Bytes put into one send.
PIECE = 60_000
#: Frames that are remembered for a replay.
REMEMBERED = 60_000
#: The canary's requests take this many seconds at most; a checked server is slow, and so may the machine be.
HANG_SECONDS = 20.0

#: The extensions; a server that does not have them ends the connection.
FILTERED_LIST, CHECK_NOT_EXISTS, CREATE_IF_NOT_EXISTS, REMOVE_RECURSIVE, PAGED_LIST = 500, 501, 502, 503, 0x667A0001
EXTENSIONS = (FILTERED_LIST, CHECK_NOT_EXISTS, CREATE_IF_NOT_EXISTS, REMOVE_RECURSIVE, PAGED_LIST)

INTS = (0, 1, -1, -2, 2, 4, 5, 7, 8, 16, 31, 127, 128, 255, 256, 4096, 65535, 65536, 0xFFFFF, 1 << 24, 1 << 30)
EXTREMES = (*INTS, 2**31 - 1, -(2**31), 2**31 - 5, -(2**31) + 1)
XIDS = (-1, -2, -4, -8, 0, 2**31 - 1, -(2**31))
TEXTS = (
    b"",
    b"/",
    b"//",
    b"a",
    b"/fuzz",
    b"/fuzz/a",
    b"/fuzz/a/b",
    b"/fuzz/s-",
    b"/fuzz/c",
    b"/fuzz/\xc3\xa9",
    b"/fuzz/\xff",
    b"/fuzz/\xed\xa0\x80",
    b"/fuzz/\x00",
    b"/fuzz/..",
    b"/zookeeper",
    b"/zookeeper/config",
    b"/zookeeper/quota/fuzz",
    b"/zookeeper/quota/fuzz/zookeeper_limits",
    b"/zookeeper/quota/fuzz/zookeeper_stats",
    b"count=5,bytes=1000=;byteHardLimit=2000;countHardLimit=9",
    b"world",
    b"anyone",
    b"auth",
    b"digest",
    b"ip",
    b"sasl",
    b"127.0.0.1/8",
    b"::1/64",
    b"user:password",
    b"x" * 300,
    b"/fuzz/" + b"n" * 3000,
)


#: Paths that are there, or can be made: without them most requests would end at their first check.
GOOD = (b"/fuzz", b"/fuzz", b"/fuzz/a", b"/fuzz/b", b"/fuzz/a/b", b"/fuzz/s-", b"/fuzz/c", b"/fuzz/c/d")


def a_path(rng: random.Random) -> bytes:
    return rng.choice(GOOD if rng.random() < 0.7 else TEXTS)


def names(rng: random.Random, most: int) -> list[bytes]:
    return [rng.choice(TEXTS) for _ in range(rng.randrange(most))]


def vector(values: list[bytes]) -> bytes:
    return struct.pack(">i", len(values)) + b"".join(map(wire.text, values))


def acl(rng: random.Random) -> bytes:
    if rng.random() < 0.6:
        return wire.acls(wire.OPEN)
    entries = [
        struct.pack(">i", rng.choice((0, 1, 16, 31, -1))) + wire.text(rng.choice(TEXTS)) + wire.text(rng.choice(TEXTS))
        for _ in range(rng.randrange(4))
    ]
    return struct.pack(">i", len(entries)) + b"".join(entries)


def body(rng: random.Random, op: int, path: bytes) -> bytes:
    """The valid body of a request, or as good as."""
    version = struct.pack(">i", rng.choice((-1, -1, -1, 0, 1, rng.choice(EXTREMES))))
    data = wire.text(rng.choice((b"", b"data", None, bytes(rng.randrange(300)), rng.choice(TEXTS))))
    if op in (wire.CREATE, wire.CREATE2, hostile.CREATE_CONTAINER, hostile.CREATE_TTL, CREATE_IF_NOT_EXISTS):
        flags = struct.pack(">i", rng.choice((0, 1, 2, 3, 0, 1, 4, 5, 6)))
        ttl = struct.pack(">q", rng.choice((1, 1000, -1, 2**40))) if op == hostile.CREATE_TTL else b""
        return wire.text(path) + data + acl(rng) + flags + ttl
    if op in (wire.DELETE, wire.CHECK):
        return wire.text(path) + version
    if op in (wire.EXISTS, wire.GET_DATA, wire.GET_CHILDREN, wire.GET_CHILDREN2):
        return wire.text(path) + bytes([rng.randrange(3)])
    if op == wire.SET_DATA:
        return wire.text(path) + data + version
    if op == wire.SET_ACL:
        return wire.text(path) + acl(rng) + version
    if op in (hostile.CHECK_WATCHES, hostile.REMOVE_WATCHES):
        return wire.text(path) + struct.pack(">i", rng.randrange(1, 7))
    if op == hostile.ADD_WATCH:
        return wire.text(path) + struct.pack(">i", rng.randrange(2))
    if op in (wire.MULTI, hostile.MULTI_READ):
        kinds = (1, 2, 5, 13, 15, 19, 21, 501, 503) if op == wire.MULTI else (4, 8, 3, 12, 500)
        parts = []
        for _ in range(rng.randrange(6)):
            kind = rng.choice(kinds)
            parts.append(struct.pack(">i?i", kind, False, -1) + body(rng, kind, a_path(rng)))
        return b"".join(parts) + struct.pack(">i?i", -1, True, -1)
    if op in (wire.SET_WATCHES, hostile.SET_WATCHES2):
        kinds_of_watches = 3 if op == wire.SET_WATCHES else 5
        seen = struct.pack(">q", rng.choice((0, 1, 2**62, -1)))
        return seen + b"".join(vector(names(rng, 5)) for _ in range(kinds_of_watches))
    if op == FILTERED_LIST:
        return wire.text(path) + bytes([rng.randrange(2), rng.randrange(4)])
    if op == REMOVE_RECURSIVE:
        return wire.text(path) + struct.pack(">i", rng.choice((0, 1, 100, -1)))
    if op == PAGED_LIST:
        limit_and_flags = struct.pack(">ii", rng.randrange(-1, 9), rng.randrange(8))
        return wire.text(path) + wire.text(rng.choice(TEXTS)) + limit_and_flags
    if op == wire.AUTH:
        return struct.pack(">i", 0) + wire.text(rng.choice((b"digest", b"ip", b"x"))) + wire.text(rng.choice(TEXTS))
    if op == hostile.RECONFIG:
        return wire.text("") * 3 + struct.pack(">q", -1)
    if op in (wire.PING, wire.CLOSE_SESSION, hostile.WHO_AM_I):
        return b""
    return wire.text(path)


#: Opcodes by weight: those that end a connection are rare, or little would come behind them.
OPS = [*range(1, 10), *range(11, 16), *range(17, 23), *range(103, 108), 101, 105, 16, 14, 14, 1, 1, 5, 2] * 6
OPS += [*EXTENSIONS] * 6 + [wire.AUTH, hostile.SASL, 150, 504, PAGED_LIST + 1]


def damage(rng: random.Random, frame: bytearray) -> bytearray:
    """One change of a frame (its length field included); the length is set right afterwards, mostly."""
    size = len(frame)
    if size <= 8:
        return frame + rng.randbytes(12)
    at = rng.randrange(8, size)
    kind = rng.randrange(9)
    if kind == 0:
        frame[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        frame[at] = rng.randrange(256)
    elif kind == 2:
        frame[at : at + 4] = struct.pack(">i", rng.choice(EXTREMES))
    elif kind == 3:
        del frame[at : at + rng.randrange(1, 12)]
    elif kind == 4:
        frame[at:at] = rng.randbytes(rng.randrange(1, 20))
    elif kind == 5:
        del frame[max(at, 12) :]
    elif kind == 6:
        frame += frame[at:]
    elif kind == 7:
        # a length that is nearly right
        value = struct.unpack(">i", frame[at : at + 4])[0] if at + 4 <= size else size
        frame[at : at + 4] = struct.pack(">I", (value + rng.choice((-4, -1, 1, 4, 256))) & 0xFFFFFFFF)
    else:
        frame[at:] = frame[rng.randrange(8, size) :]
    return frame


class Frames:
    """An endless supply of frames from one random generator."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.last: list[bytes] = [Session.frame(1, wire.get_data("/fuzz"))]

    def next(self) -> bytes:
        rng = self.rng
        chance = rng.random()
        if chance < 0.08:
            return rng.choice(self.last)  # again
        op = rng.choice(OPS)
        xid = rng.choice(XIDS) if rng.random() < 0.1 else rng.randrange(1 << 20)
        frame = bytearray(Session.frame(xid, Request(op, body(rng, op, a_path(rng)))))
        if chance < 0.12:
            other = rng.choice(self.last)  # spliced with one before
            frame = frame[: rng.randrange(8, len(frame) + 1)] + other[rng.randrange(len(other)) :]
        if chance < 0.6:
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                frame = damage(rng, frame)
        if rng.random() > 0.003:
            while len(frame) < 12:
                frame += b"\0"
            frame[:4] = struct.pack(">i", len(frame) - 4)
            # most keep an opcode that is answered, or the connection would end all the time
            if rng.random() > 0.02 and struct.unpack_from(">i", frame, 8)[0] not in _ANSWERED:
                frame[8:12] = struct.pack(">i", op)
        made = bytes(frame)
        if len(self.last) < 200:
            self.last.append(made)
        else:
            self.last[rng.randrange(200)] = made
        return made


_ANSWERED = frozenset([*range(1, 10), *range(11, 23), 101, *range(103, 108), *EXTENSIONS])


class Failure(Exception):
    """The server failed; the text says how."""


class Victim:
    """The server process under test."""

    def __init__(self, directory: Path, tree: Path | None) -> None:
        self.directory = directory
        self.port = free_port()
        self.log_path = directory / "server.log"
        self.reports = directory / "sanitizer"
        self._tree = tree
        self._process: subprocess.Popen[bytes] | None = None
        jaas = directory / "jaas.conf"
        jaas.write_text(
            "Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_bob=\"secret\"; };\n"
        )
        settings = {
            "tickTime": "1000",
            "dataDir": directory / "data",
            "clientPort": self.port,
            "clientPortAddress": "127.0.0.1",
            "maxClientCnxns": "0",
            "4lw.commands.whitelist": "*",
            "extendedTypesEnabled": "true",
            "enforceQuota": "true",
            "snapCount": "20000",
            "znode.container.checkIntervalMs": "500",
            "java.security.auth.login.config": jaas,
            "authProvider.sasl": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        }
        (directory / "zoo.cfg").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def start(self) -> None:
        environment = dict(os.environ)
        root = self._tree or Path(__file__).resolve().parent.parent.parent
        environment["PYTHONPATH"] = str(root)
        if self._tree is not None:
            libraries = [
                subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
                for name in ("libasan.so", "libubsan.so")
            ]
            environment["LD_PRELOAD"] = " ".join(done.stdout.strip() for done in libraries)
            # Python leaves memory to the end of the process; its own allocator would hide objects from the sanitizer.
            environment["ASAN_OPTIONS"] = f"detect_leaks=0:log_path={self.reports}:malloc_context_size=12"
            environment["UBSAN_OPTIONS"] = f"print_stacktrace=1:log_path={self.reports}"
            environment["PYTHONMALLOC"] = "malloc"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fastzk.server.cli", str(self.directory / "zoo.cfg")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=environment,
            )
        deadline = time.monotonic() + 60
        while True:
            self.check()
            with contextlib.suppress(wire.WireError, OSError), Session(self.port, timeout=5) as zk:
                with contextlib.suppress(wire.ZkError):
                    zk.create("/fuzz")
                return
            if time.monotonic() > deadline:
                raise Failure("the server does not start")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def check(self) -> None:
        """Raises Failure if the process has ended or a sanitizer has reported something."""
        assert self._process is not None
        code = self._process.poll()
        reports = sorted(self.directory.glob("sanitizer*"))
        if code is None and not reports:
            return
        if code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)  # until its report is whole
        text = "\n".join(path.read_text(errors="replace") for path in reports)
        raise Failure(f"the server ended with code {self._process.poll()}\n{text}\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-40:])

    def check_log(self) -> None:
        """Raises Failure if the log has a traceback or an error; then empties it."""
        text = self.log_path.read_text(errors="replace")
        if "Traceback" in text or " ERROR " in text or " FATAL " in text:
            raise Failure(f"an error in the log\n{self.log_tail()}")
        os.truncate(self.log_path, 0)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(60)


class Line:
    """One connection of the fuzzer: sends a pipeline of frames, takes whatever comes back."""

    def __init__(self, port: int, frames: Frames, log: collections.deque[tuple[int, bytes]], number: int) -> None:
        rng = frames.rng
        self.number = number
        self.sent = 0
        self.done = False
        self._frames = frames
        self._log = log
        self._left = rng.randrange(1, LENGTH)
        self._rest = b""
        self._end = rng.choice(("close", "cut", "reset", "wait"))
        self._end_at = 0.0
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if rng.random() < 0.02:
            raw = bytearray(wire.connect_request(rng.choice((0, 4000, *EXTREMES))))
            for _ in range(rng.randrange(3)):
                raw = damage(rng, raw)
            raw = bytearray(struct.pack(">i", len(raw))) + raw
        else:
            raw = bytearray(hostile.frame(wire.connect_request(4000)))
        self._note(bytes(raw))
        self._rest = bytes(raw)
        self.socket.setblocking(False)

    def _note(self, raw: bytes) -> None:
        self._log.append((self.number, raw))

    def write(self) -> None:
        """The socket takes more."""
        rng = self._frames.rng
        if not self._rest and self._left <= 0:
            self._finish()
            return
        if self._left > 0 and len(self._rest) < PIECE:
            gathered = [self._rest]
            size = len(self._rest)
            while self._left > 0 and size < PIECE:
                made = self._frames.next()
                self._note(made)
                gathered.append(made)
                size += len(made)
                self._left -= 1
                self.sent += 1
            self._rest = b"".join(gathered)
        # sometimes in small pieces, which ends in the middle of a frame
        piece = self._rest if rng.random() < 0.8 else self._rest[: rng.randrange(1, 200)]
        self._rest = self._rest[self.socket.send(piece) :]

    def _finish(self) -> None:
        if self._end == "wait" and self._end_at == 0.0:
            self._end_at = time.monotonic() + 0.3
            self.socket.shutdown(socket.SHUT_WR)
        elif self._end == "close" and self._end_at == 0.0:
            self._end_at = time.monotonic() + 0.3
            self._rest = Session.frame(1, Request(wire.CLOSE_SESSION, b""))
            self._note(self._rest)
        elif time.monotonic() >= self._end_at:
            if self._end == "reset":
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.done = True

    @property
    def wants_to_write(self) -> bool:
        return bool(self._rest) or self._left > 0 or time.monotonic() >= self._end_at

    def read(self) -> None:
        """Something came."""
        if not self.socket.recv(1 << 18):
            self.done = True


def fuzz(victim: Victim, frames: int, seed: int, log: collections.deque[tuple[int, bytes]]) -> None:
    """Send ``frames`` frames. Raises Failure. ``log``: what was sent last, with the number of its connection."""
    supply = Frames(random.Random(seed))
    lines: dict[int, Line] = {}
    sent = number = told = 0
    began = checked = time.monotonic()
    canary = Session(victim.port, timeout_ms=20_000, timeout=HANG_SECONDS)
    canary.create("/canary")
    longest = 0.0
    first_rss = rss = _rss(victim.pid)
    try:
        while sent < frames or lines:
            while len(lines) < WIDTH and sent < frames:
                number += 1
                line = Line(victim.port, supply, log, number)
                lines[line.socket.fileno()] = line
            poller = select.poll()
            for fd, line in lines.items():
                poller.register(fd, select.POLLIN | (select.POLLOUT if line.wants_to_write else 0))
            for fd, what in poller.poll(50):
                line = lines[fd]
                before = line.sent
                try:
                    if what & (select.POLLIN | select.POLLHUP | select.POLLERR):
                        line.read()
                    if what & select.POLLOUT and not line.done:
                        line.write()
                except BlockingIOError:
                    pass
                except OSError:
                    line.done = True
                sent += line.sent - before
                if line.done:
                    del lines[fd]
                    line.socket.close()
            now = time.monotonic()
            if now - checked > 0.5:
                checked = now
                victim.check()
                try:
                    asked = time.monotonic()
                    canary.set("/canary", b"alive")
                    canary.get("/canary")
                    longest = max(longest, time.monotonic() - asked)
                except wire.TimedOut:
                    raise Failure(f"the server hangs: no answer in {HANG_SECONDS} s\n{victim.log_tail()}") from None
                except wire.Closed as closed:
                    victim.check()
                    raise Failure(f"the canary's connection was closed: {closed}\n{victim.log_tail()}") from None
                if sent - told >= 50_000:
                    told = sent
                    victim.check_log()
                    rss = _rss(victim.pid)
                    print(
                        f"{sent} frames, {sent / (now - began):.0f} a second, {number} connections, "
                        f"{rss >> 20} MiB, canary {longest * 1000:.0f} ms",
                        flush=True,
                    )
    except OSError as error:
        victim.check()
        raise Failure(f"no connection: {error}\n{victim.log_tail()}") from None
    finally:
        for line in lines.values():
            line.socket.close()
        canary.drop()
    victim.check()
    victim.check_log()
    took = time.monotonic() - began
    print(
        f"{sent} frames on {number} connections in {took:.1f} s: {sent / took:.0f} a second; "
        f"longest request of the canary {longest * 1000:.0f} ms; memory {first_rss >> 20} to {rss >> 20} MiB",
        flush=True,
    )


def _rss(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) * 1024


def read_frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """The connections' numbers and what each sent, as ``write_frames`` wrote them."""
    raw = path.read_bytes()
    at = 0
    while at < len(raw):
        number, size = struct.unpack_from(">ii", raw, at)
        yield number, raw[at + 8 : at + 8 + size]
        at += 8 + size


def write_frames(path: Path, log: collections.deque[tuple[int, bytes]]) -> None:
    """Write what was sent last: for each send the connection's number, the length, the bytes."""
    path.write_bytes(b"".join(struct.pack(">ii", number, len(raw)) + raw for number, raw in log))


def replay(victim: Victim, path: Path) -> None:
    """Send what a failed run sent last, in its order. Connections without their handshake get one first."""
    sockets: dict[int, socket.socket] = {}
    for number, raw in read_frames(path):
        sock = sockets.get(number)
        with contextlib.suppress(OSError):
            if sock is None:
                sock = sockets[number] = socket.create_connection(("127.0.0.1", victim.port), timeout=10)
                if struct.unpack_from(">ii", raw)[1:] != (0,):
                    sock.sendall(hostile.frame(wire.connect_request(4000)))
            while select.select([sock], [], [], 0)[0] and sock.recv(1 << 18):
                pass
            sock.sendall(raw)
        if number % 100 == 0:
            victim.check()
    time.sleep(1)
    victim.check()
    with Session(victim.port, timeout=HANG_SECONDS) as zk:
        zk.exists("/fuzz")  # the frames may have deleted it
    victim.check_log()


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 if nothing was found."""
    parser = argparse.ArgumentParser(description="Fuzz a fastzk server with frames.")
    parser.add_argument("--frames", type=int, default=100_000, help="how many frames to send")
    parser.add_argument("--seed", type=int, default=1, help="of the random generator")
    parser.add_argument("--tree", type=Path, help="a source tree built with FASTZK_CHECKED=1")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()), help="where failures are written to")
    parser.add_argument("--replay", type=Path, help="a file with the last frames of a failure")
    options = parser.parse_args(arguments)
    tree = options.tree.resolve() if options.tree else None
    options.out.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="fastzk-fuzz-"))
    log: collections.deque[tuple[int, bytes]] = collections.deque(maxlen=REMEMBERED)
    victim = Victim(directory, tree)
    try:
        victim.start()
        if options.replay:
            replay(victim, options.replay)
        else:
            fuzz(victim, options.frames, options.seed, log)
        code = victim.stop()
        victim.check_log()
        if code != 0:
            raise Failure(f"the server ended with code {code}\n{victim.log_tail()}")
        # What got through can be read again.
        victim.start()
        victim.check_log()
        victim.stop()
    except Failure as failure:
        frames_path = options.out / f"failure-{options.seed}.frames"
        text_path = options.out / f"failure-{options.seed}.txt"
        if not options.replay:
            write_frames(frames_path, log)
        text_path.write_text(str(failure))
        print(failure)
        print(f"FAILED seed={options.seed}; the last frames are in {frames_path}, the report in {text_path}")
        return 1
    finally:
        with contextlib.suppress(Exception):
            victim.stop(signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)
    print(f"nothing found seed={options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
