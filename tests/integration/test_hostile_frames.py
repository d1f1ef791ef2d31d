"""The corpus of hostile traffic (``support/hostile.py``) against a real server, and what others notice of it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import certificates, hostile, wire
from support.hostile import ATTACKS, Attack, Target
from support.servers import Server, free_port, make_server
from support.wire import Session, poll

from .conftest import KIND

pytestmark = [
    pytest.mark.skipif(KIND != "fastzk", reason="Apache ZooKeeper has other limits and another log"),
    pytest.mark.xdist_group("hostile"),
]

JAAS = """
Server {
    org.apache.zookeeper.server.auth.DigestLoginModule required user_bob="bobsecret";
};
"""
#: What an attack may leave behind: buffers that the allocator keeps, znodes that expire with their session.
KEPT_BYTES = 64 << 20
#: What it may take while it lasts: two of the largest buffers there are, a reply of 64 MiB among them.
PEAK_BYTES = 256 << 20
#: What all of them together may leave behind.
TOTAL_BYTES = 128 << 20
#: What a request of another client may take at most while the attacks go on: a few of the costliest frames behind one
#: another, on a machine whose processors the attackers share. On an idle one it is below a third of a second.
LONGEST_SECONDS = 2.0
REASON = re.compile(
    r"connection closed address=\S+.* reason=\S|connection refused address=\S+ reason=\S"
    r"|session refused address=\S+ .*reason=\S|authentication failed address=\S"
)


class Victim:
    """A server with every port and mechanism an attack may want."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        files = certificates.write_files(directory / "tls")
        jaas = directory / "jaas.conf"
        jaas.write_text(JAAS)
        secure = free_port()
        self.server: Server = make_server(
            KIND,
            directory / "server",
            {
                **files.settings(),
                "ssl.clientAuth": "none",
                "secureClientPort": str(secure),
                "secureClientPortAddress": "127.0.0.1",
                "client.portUnification": "true",
                "java.security.auth.login.config": str(jaas),
                "authProvider.sasl": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
            },
        )
        self.target = Target(self.server.port, secure=secure, unified=self.server.port, seed=1)

    def reset_peak(self) -> None:
        Path(f"/proc/{self.server.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        text = Path(f"/proc/{self.server.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) * 1024

    def reasons(self) -> int:
        """How many reasons for the end of a connection are in the log."""
        return len(REASON.findall(self.server.log_text()))


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    made = Victim(tmp_path_factory.mktemp("hostile"))
    made.server.start()
    hostile.prepare(made.target)
    yield made
    made.server.discard()


@pytest.fixture(scope="module")
def first_rss(victim: Victim) -> int:
    """Resident memory before any attack, but after a bit of work."""
    with victim.server.session() as zk:
        for number in range(2000):
            zk.get(hostile.ROOT)
            if number % 10 == 0:
                zk.set(hostile.ROOT, b"x")
    return victim.server.rss_bytes


class Drips:
    """Connections that send a byte now and then, in their handshake and in the middle of a frame; one reads nothing."""

    def __init__(self, victim: Victim) -> None:
        self.began = time.monotonic()
        body = wire.connect_request(40_000)
        self.strangers = [victim.target.connect() for _ in range(20)]
        self.pending = [bytearray(struct.pack(">i", 200_000) + body) for _ in self.strangers]
        self.sessions = [victim.server.session(timeout_ms=40_000) for _ in range(20)]
        for session in self.sessions:
            session.send_bytes(struct.pack(">iii", 100_000, 1, wire.SET_DATA))
        # Its session expires while more of its replies are unread than the kernel keeps.
        self.greedy = victim.server.session(timeout_ms=4000, rcvbuf=4096)
        self.greedy.send(*[wire.get_data(hostile.LARGE)] * 100)
        self.greedy_port: int = self.greedy._socket.getsockname()[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            for sock, rest in zip(self.strangers, self.pending, strict=True):
                with contextlib.suppress(OSError):
                    sock.sendall(rest[:1] or b"\0")
                    del rest[:1]
            for session in self.sessions:
                with contextlib.suppress(wire.WireError):
                    session.send_bytes(b"\0")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        for sock in self.strangers:
            sock.close()
        for session in [*self.sessions, self.greedy]:
            session.drop()


@pytest.fixture(scope="module")
def drips(victim: Victim) -> Iterator[Drips]:
    """They drip while the other tests of this module run."""
    made = Drips(victim)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def canary(victim: Victim, drips: Drips) -> Iterator[Session]:
    """A session that must go on undisturbed, whatever the others send."""
    with victim.server.session(timeout_ms=40_000) as session:
        session.create("/canary")
        yield session


def assert_well(victim: Victim, canary: Session) -> None:
    assert victim.server.running, victim.server.explain("the server died")
    assert victim.server.four_letter_word("ruok") == "imok"
    stat = canary.set("/canary", b"alive")
    assert canary.get("/canary") == (b"alive", stat)
    log = victim.server.log_text()
    assert "Traceback" not in log, victim.server.log_tail(60)
    assert not re.search(r"\b(?:ERROR|FATAL)\b", log), victim.server.log_tail(60)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack(victim: Victim, first_rss: int, canary: Session, attack: Attack) -> None:
    server = victim.server
    before, reasons, log_at = server.rss_bytes, victim.reasons(), len(server.log_text())
    victim.reset_peak()
    closed = attack.run(victim.target)
    assert_well(victim, canary)
    peak = victim.peak_bytes() - before
    assert peak < PEAK_BYTES, f"{peak >> 20} MiB more while it lasted"
    poll(lambda: server.rss_bytes - before < KEPT_BYTES, f"{attack.name}: memory is given back")
    if closed:
        poll(
            lambda: victim.reasons() - reasons >= closed,
            f"{attack.name}: {closed} reasons for closed connections in the log",
        )
    if attack.reason is not None:
        assert closed
        assert re.search(attack.reason, server.log_text()[log_at:]), server.log_tail()
    else:
        assert closed == 0


def test_all_of_them_twice_over(victim: Victim, first_rss: int, canary: Session) -> None:
    """What an attack leaves behind does not add up."""
    for _ in range(2):
        for attack in ATTACKS:
            attack.run(victim.target)
    assert_well(victim, canary)
    poll(
        lambda: victim.server.rss_bytes - first_rss < TOTAL_BYTES,
        f"{(victim.server.rss_bytes - first_rss) >> 20} MiB more than before all attacks",
    )


# ---- slow senders and readers


def test_slow_senders(victim: Victim, drips: Drips, canary: Session) -> None:
    """Whoever drips through a handshake is closed in time; in a frame it costs what it has sent."""
    assert_well(victim, canary)
    deadline = drips.began + 60
    for sock in drips.strangers:
        while not select.select([sock], [], [], 1.0)[0]:
            assert time.monotonic() < deadline
            canary.ping()
        hostile.drain(sock)
    assert "it has not asked for a session in time" in victim.server.log_text()
    assert time.monotonic() - drips.began > 20
    assert_well(victim, canary)


def test_last_replies_that_nobody_reads(victim: Victim, drips: Drips, canary: Session) -> None:
    """A connection whose session is over does not wait for ever for its client to read what is left."""
    server = victim.server

    def gone() -> bool:
        canary.ping()
        return f":{drips.greedy_port}[" not in server.four_letter_word("cons")

    poll(gone, "a connection that nobody reads from is closed", seconds=60, every=0.2)
    assert time.monotonic() - drips.began > 20
    assert "it has not read its last replies in time" in server.log_text()
    assert_well(victim, canary)


# ---- setWatches above jute.maxbuffer


def _set_watches_frame(paths: int, op: int = wire.SET_WATCHES, size: int = 60) -> bytes:
    names = b"".join(wire.text(b"/%0*d" % (size - 1, n)) for n in range(paths))
    vector = struct.pack(">i", paths) + names
    empty = struct.pack(">i", 0)
    body = struct.pack(">q", 0) + empty + vector + empty  # existWatches: of znodes that are not there
    if op == hostile.SET_WATCHES2:
        body += empty * 2
    return Session.frame(wire.XID_SET_WATCHES, wire.Request(op, body))


@pytest.mark.parametrize("op", [wire.SET_WATCHES, hostile.SET_WATCHES2])
def test_set_watches_above_the_limit(victim: Victim, canary: Session, op: int) -> None:
    """It keeps its session (ZOOKEEPER-706), its watches work, and the memory of the frame is given back."""
    server = victim.server
    before = server.rss_bytes
    raw = _set_watches_frame(150_000, op)
    assert 9 << 20 < len(raw) < 11 << 20
    with server.session() as zk:
        zk.send_bytes(raw)
        zk.send(wire.exists("/"))
        reply = zk.reply()
        assert (reply.xid, reply.err) == (wire.XID_SET_WATCHES, wire.OK)
        assert zk.reply().xid == zk.xid
        path = f"/{77_777:059d}"
        canary.create(path)
        canary.delete(path)
        assert zk.event() == wire.Event(wire.CREATED, 3, path)
        assert "zk_watch_count\t149999\n" in server.four_letter_word("mntr")
        # 150,000 watches are about 25 MiB, and nothing of the frame is left
        assert server.rss_bytes - before < (40 << 20) + KEPT_BYTES
    poll(lambda: server.rss_bytes - before < KEPT_BYTES, "the memory of watches is given back")
    assert_well(victim, canary)


def test_set_watches_behind_a_write(victim: Victim, canary: Session) -> None:
    """It sees the write before it, and the requests behind it see it."""
    with victim.server.session() as zk:
        path = f"/{5:059d}"
        zk.send(wire.create(path))
        zk.send_bytes(_set_watches_frame(20_000))
        zk.send(wire.delete(path))
        replies = [zk.message() for _ in range(4)]
        assert [reply.xid for reply in replies] == [1, wire.XID_EVENT, wire.XID_SET_WATCHES, 2]
        assert wire.decode_event(replies[1]) == wire.Event(wire.CREATED, 3, path)


def test_set_watches_that_does_not_end(victim: Victim, canary: Session) -> None:
    """Large ones share the memory of one: who waits is served when those before end, or are ended."""
    server = victim.server
    before = server.rss_bytes
    liars = [server.session(timeout_ms=40_000) for _ in range(3)]
    honest = server.session(timeout_ms=40_000)
    for liar in liars:
        # all three announce 60 MiB: the first may grow, two wait in line
        liar.send_bytes(struct.pack(">iii", 60 << 20, wire.XID_SET_WATCHES, wire.SET_WATCHES) + bytes(2 << 20))
    honest_thread = threading.Thread(target=honest.send_bytes, args=(_set_watches_frame(100_000),), daemon=True)
    honest_thread.start()
    assert_well(victim, canary)
    assert server.rss_bytes - before < 32 << 20
    for liar in liars[:2]:
        liar.drop()
    assert_well(victim, canary)
    # The last liar has its time; then it is closed, and the one behind it goes on.
    honest.timeout = 60
    honest._socket.settimeout(60)
    reply = honest.reply()
    assert (reply.xid, reply.err) == (wire.XID_SET_WATCHES, wire.OK)
    honest_thread.join(10)
    assert f"reason=a setWatches of {60 << 20} bytes that does not end" in server.log_text()
    liars[2].drop()
    honest.close()


# ---- other clients


def _latencies(zk: Session, seconds: float) -> list[float]:
    """Seconds that each request of a client took: a read and a write in turn, one at a time."""
    taken = []
    deadline = time.monotonic() + seconds
    while (began := time.monotonic()) < deadline:
        if len(taken) % 2:
            zk.get("/canary")
        else:
            zk.set("/canary", b"x" * 100)
        taken.append(time.monotonic() - began)
        time.sleep(0.001)
    return sorted(taken)


@contextlib.contextmanager
def _attackers(target: Target, count: int, seconds: float, module: str) -> Iterator[None]:
    """Processes that load the server: the corpus, or the same number of busy clients that behave."""
    tests = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    ports = ["--port", str(target.port), "--secure", str(target.secure), "--unified", str(target.unified)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *ports, "--seconds", str(seconds), "--seed", str(seed)],
            env=environment,
            stdout=subprocess.PIPE,
        )
        for seed in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()


def test_others_are_served(victim: Victim, canary: Session) -> None:
    """The p99 of a client beside attackers at full rate is of the order of that beside busy clients that behave.

    Both are measured in the same run, and the bounds are wide: what they catch is a server that serves nobody
    while it is busy with an attacker.
    """
    seconds = 5.0
    with _attackers(victim.target, 2, seconds + 20, "support.busy"):
        calm = _latencies(canary, seconds)
    with _attackers(victim.target, 2, seconds + 20, "support.hostile"):
        harried = _latencies(canary, seconds)
    p99_calm, p99_harried = (taken[len(taken) * 99 // 100] for taken in (calm, harried))
    print(
        f"p99 {p99_calm * 1000:.2f} ms, attacked {p99_harried * 1000:.2f} ms; longest {calm[-1] * 1000:.1f} ms, "
        f"attacked {harried[-1] * 1000:.1f} ms; requests {len(calm)}, attacked {len(harried)}"
    )
    assert p99_harried < max(20 * p99_calm, 0.2)
    assert harried[-1] < LONGEST_SECONDS
    assert_well(victim, canary)


def test_what_it_took_is_whole(victim: Victim, canary: Session) -> None:
    """What got through can be read again from the disk."""
    with socket.create_connection(("127.0.0.1", victim.server.port), timeout=10):
        pass
    victim.server.kill9()
    victim.server.start()
    with victim.server.session() as zk:
        assert zk.exists("/canary") is not None
        again = victim.server.session(session_id=canary.session_id, password=canary.password)
        again.ping()
        again.drop()
