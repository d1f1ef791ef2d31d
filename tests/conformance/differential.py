"""The same random requests to Apache ZooKeeper and to fastzk, in lock-step; differences are made small.

By hand: ``python tests/conformance/differential.py --seeds 0-49 --steps 5000``. Both servers get the same
bytes; what they send back is compared frame by frame: error codes, bodies, watch events with their place
among the replies, closed connections. In the end the whole tree is compared. ``differential_compare`` says
what counts as the same and which differences are kept on purpose; ``random_steps`` makes the requests.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).resolve().parents[1:3])  # when run as a script

from support import wire  # noqa: E402
from support.servers import FastzkServer, Server, ZooKeeperServer  # noqa: E402

from conformance import random_steps as rs  # noqa: E402
from conformance.differential_compare import Comparer, Item, Pairs, names  # noqa: E402
from conformance.random_steps import Frame, Step  # noqa: E402

CONFIG = {
    "tickTime": "2000",
    "maxClientCnxns": "0",
    # no session expires during a run
    "minSessionTimeout": "600000",
    "maxSessionTimeout": "3600000",
    # containers and TTL znodes stay: no client can foresee when they are looked for
    "znode.container.checkIntervalMs": "86400000",
    "extendedTypesEnabled": "true",
    "DigestAuthenticationProvider.superDigest": rs.digest_id(rs.SUPER),
}
_TIMEOUT_MS = 1_200_000
_PATIENCE_S = 10.0
_CLOSING_OPS = {wire.CLOSE_SESSION, *rs.UNKNOWN_OPS}


class Reference(ZooKeeperServer):
    """Apache ZooKeeper without its container manager, whose rounds no client can foresee."""

    def command(self) -> list[str]:
        program, *rest = super().command()
        quick = ["-Dznode.container.checkIntervalMs=86400000", "-Dzookeeper.forceSync=no", "-XX:+UseSerialGC"]
        # a check that holds leaks one of these, see random_steps
        return [program, *quick, "-Dzookeeper.globalOutstandingLimit=1000000", *rest]


@dataclass
class Link:
    """One connection, and the number of its session in :class:`Pairs`."""

    connection: wire.Connection
    session: int
    xid: int = 0


def _nth(count: int, xid: int) -> Callable[[Item], bool]:
    """Whether an item is the reply number ``count`` with this xid."""
    left = count

    def matches(item: Item) -> bool:
        nonlocal left
        left -= item.kind == "reply" and item.xid == xid
        return left == 0

    return matches


def _item(frame: bytes) -> Item:
    if len(frame) < wire.HEADER.size:
        return Item("reply", body=frame)
    xid, zxid, err = wire.HEADER.unpack_from(frame)
    return Item("event" if xid == wire.XID_EVENT else "reply", xid, zxid, err, frame[wire.HEADER.size :])


class Side:
    """One of the two servers with its connections by slot."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.links: dict[int, Link] = {}
        #: (id, password) of the sessions by their number, None where there never was one
        self.sessions: list[tuple[int, bytes] | None] = []

    def read(self, slot: int, until: Callable[[Item], bool]) -> list[Item]:
        """Frames of a slot up to the one for which ``until`` is true, or to the end of the connection."""
        found: list[Item] = []
        connection = self.links[slot].connection
        try:
            while not found or not until(found[-1]):
                found.append(_item(connection.read_frame()))
        except wire.TimedOut:
            found.append(Item("silence"))
        except (wire.Closed, AssertionError, ConnectionError):
            found.append(Item("closed"))
        if found[-1].kind in ("closed", "silence"):
            self.forget(slot)
        return found

    def forget(self, slot: int) -> None:
        link = self.links.pop(slot, None)
        if link is not None:
            link.connection.drop()

    def send(self, slot: int, raw: bytes, end: bool = False) -> None:
        try:
            self.links[slot].connection.send_bytes(raw)
            if end:
                end_sending = socket.socket(fileno=os.dup(self.links[slot].connection.fileno()))
                with end_sending:
                    end_sending.shutdown(socket.SHUT_WR)
        except (wire.WireError, OSError):
            pass  # the server closed it, as reading will show

    def connect(self, slot: int, raw: bytes, session: int, end: bool = False) -> None:
        self.links[slot] = Link(wire.Connection(self.server.port, _PATIENCE_S), session)
        self.send(slot, raw, end)

    def connected(self, slot: int) -> Item:
        """The answer to the connect request."""
        try:
            return Item("connect", body=self.links[slot].connection.read_frame())
        except wire.TimedOut:
            self.forget(slot)
            return Item("silence")
        except (wire.Closed, AssertionError):
            self.forget(slot)
            return Item("closed")


@dataclass
class Difference:
    """Where two answers to one step differ."""

    step: int
    what: str
    zookeeper: list[Item] = field(default_factory=list)
    fastzk: list[Item] = field(default_factory=list)

    def show(self, steps: Sequence[Step]) -> str:
        lines = [f"difference: {self.what}"]
        for number, step in enumerate(steps[: self.step + 1]):
            lines.append(f"  {number:4} {step}")
        for name, items in (("zookeeper", self.zookeeper), ("fastzk", self.fastzk)):
            lines += [f"  {name} sent:", *(f"      {item}" for item in items)]
        return "\n".join(lines)


class ServerDied(Exception):
    """A server process ended: that is not a difference of answers."""


class Run:
    """One sequence of steps against two servers that are in the same state."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.sides = [Side(server) for server in servers]
        self.pairs = Pairs()
        self.comparer = Comparer(self.pairs)
        self.last_session: dict[int, int] = {}  # by slot

    # ---- playing

    def play(self, steps: Iterable[Step]) -> Difference | None:
        for number, step in enumerate(steps):
            difference = self.step(number, step)
            if difference is not None:
                for side in self.sides:
                    if not side.server.running:
                        raise ServerDied(side.server.explain(f"{side.server.kind} ended at step {number}: {step}"))
                return difference
        return None

    def step(self, number: int, step: Step) -> Difference | None:
        slot = step.slot
        if step.kind == "drop":
            return self.drop(number, slot)
        if step.kind == "attach":
            return self.drop(number, slot) or self.attach(number, step)
        if step.kind == "greet":
            return self.drop(number, slot) or self.greet(number, step)
        if slot not in self.sides[0].links:
            difference = self.open(number, slot)
            if difference is not None:
                return difference
        if step.kind == "bytes":
            (size,) = struct.unpack_from(">i", step.raw)
            for side in self.sides:
                side.send(slot, step.raw, end=len(step.raw) - 4 < size)
            return self.compare(number, {}, [side.read(slot, lambda _: False) for side in self.sides])
        return self.send(number, slot, step.frames)

    def compare(
        self, number: int, frames: dict[int, Frame], items: list[list[Item]], unordered: bool = False
    ) -> Difference | None:
        what = self.comparer.items(frames, items[0], items[1], unordered)
        return Difference(number, what, *items) if what else None

    def send(self, number: int, slot: int, requests: Sequence[Frame]) -> Difference | None:
        frames: dict[int, Frame] = {}
        raws: list[list[bytes]] = [[], []]
        xids: list[int] = []
        xid = self.sides[0].links[slot].xid
        for frame in requests:
            xid += 1
            last = xid if frame.xid is None else frame.xid
            xids.append(last)
            frames[last] = frame
            for raw, zxid in zip(raws, self.pairs.at(frame.seen or 0.0), strict=True):
                body = frame.body if frame.seen is None else struct.pack(">q", zxid) + frame.body[8:]
                raw.append(struct.pack(">iii", len(body) + 8, last, frame.op) + body)
        for side, raw in zip(self.sides, raws, strict=True):
            side.links[slot].xid = xid
            side.send(slot, b"".join(raw))
        items = [side.read(slot, _nth(xids.count(last), last)) for side in self.sides]
        closing = requests[-1].op in _CLOSING_OPS or any(
            item.err == -115 and item.xid == wire.XID_AUTH for side in items for item in side
        )
        if closing:
            for index, side in enumerate(self.sides):
                if slot in side.links:
                    items[index] += side.read(slot, lambda _: False)
        unordered = requests[-1].op == wire.CLOSE_SESSION
        difference = self.compare(number, frames, items, unordered)
        if difference is None and self.comparer.watches_differ:
            self.comparer.watches_differ = False
            return self.drop(number, slot)
        if difference is None and unordered:
            # the events of one closeSession come in any order on every connection
            for other in list(self.sides[0].links):
                difference = difference or self.compare(number, {}, self.ping(other), unordered=True)
        return difference

    def ping(self, slot: int) -> list[list[Item]]:
        """What waits on a connection, up to the answer to a ping."""
        for side in self.sides:
            if slot in side.links:
                side.send(slot, wire.Session.frame(wire.XID_PING, wire.Request(wire.PING, b"")))
        return [
            side.read(slot, lambda item: item.xid == wire.XID_PING) if slot in side.links else [] for side in self.sides
        ]

    def open(self, number: int, slot: int) -> Difference | None:
        raw = wire.connect_request(_TIMEOUT_MS)
        return self.connect(number, slot, [struct.pack(">i", len(raw)) + raw] * 2, new=True)

    def connect(
        self,
        number: int,
        slot: int,
        raws: Sequence[bytes],
        *,
        new: bool,
        session: int = -1,
        end: bool = False,
    ) -> Difference | None:
        for side, raw in zip(self.sides, raws, strict=True):
            side.connect(slot, raw, session, end)
        items = [[side.connected(slot)] for side in self.sides]
        difference = self.compare(number, {}, items)
        if difference is None and slot in self.sides[0].links:
            ids = [struct.unpack_from(">q", got[0].body, 8)[0] for got in items]
            if ids[0] == 0:  # refused
                rest = [side.read(slot, lambda _: False) for side in self.sides]
                return self.compare(number, {}, rest)
            if new:
                session = len(self.sides[0].sessions)
                for side, got, session_id in zip(self.sides, items, ids, strict=True):
                    side.sessions.append((session_id, got[0].body[20:36]))
                self.pairs.owners[ids[0]] = ids[1]
            for side in self.sides:
                side.links[slot].session = session
            self.last_session[slot] = session
        return difference

    def drop(self, number: int, slot: int) -> Difference | None:
        """Send no more, and read until the server has noticed: then its watches are gone."""
        if slot not in self.sides[0].links:
            return None
        for side in self.sides:
            side.send(slot, b"", end=True)
        return self.compare(number, {}, [side.read(slot, lambda _: False) for side in self.sides])

    def attach(self, number: int, step: Step) -> Difference | None:
        session = self.last_session.get(step.source)
        raws = []
        for side in self.sides:
            known = side.sessions[session] if session is not None else None
            session_id, password = known or (0x1234567, bytes(16))
            changed = {"wrong": bytes(16), "short": password[:15], "none": None}
            body = wire.connect_request(
                _TIMEOUT_MS,
                session_id,
                changed.get(step.variant, password),
                last_zxid=2**62 if step.variant == "ahead" else 0,
                read_only=None if step.variant == "without the readOnly byte" else False,
            )
            raws.append(struct.pack(">i", len(body)) + body)
        before = {slot for slot, link in self.sides[0].links.items() if link.session == session}
        difference = self.connect(number, step.slot, raws, new=False, session=-1 if session is None else session)
        for slot in before:
            difference = difference or self.compare(number, {}, self.ping(slot))
        return difference

    def greet(self, number: int, step: Step) -> Difference | None:
        (size,) = struct.unpack_from(">i", step.raw)
        difference = self.connect(number, step.slot, [step.raw] * 2, new=True, end=len(step.raw) - 4 < size)
        if difference is None and step.slot in self.sides[0].links:
            return self.send(number, step.slot, (Frame(wire.CLOSE_SESSION, b"", ""),))
        return difference

    # ---- the end

    def finish(self, number: int) -> Difference | None:
        """Compare what is left: events that nobody asked for yet, and the whole tree."""
        for slot in list(self.sides[0].links):
            difference = self.compare(number, {}, self.ping(slot))
            if difference is not None:
                return difference
        slot = rs.SLOTS
        login = Frame(wire.AUTH, bytes(4) + wire.text("digest") + wire.text(rs.SUPER), "super", wire.XID_AUTH)
        difference = self.open(number, slot) or self.send(number, slot, (login,))
        waiting = ["/"]
        while waiting and difference is None:
            path = waiting.pop()
            frames = tuple(
                Frame(op, wire.text(path) + rest, f"{path!r} when all steps were done")
                for op, rest in ((wire.GET_ACL, b""), (wire.GET_DATA, b"\0"), (wire.GET_CHILDREN, b"\0"))
            )
            children, difference = self.looked(number, slot, frames)
            waiting += [f"{path.rstrip('/')}/{name}" for name in children]
        return difference

    def looked(self, number: int, slot: int, frames: tuple[Frame, ...]) -> tuple[list[str], Difference | None]:
        children: list[str] = []
        for frame in frames:
            xid = self.sides[0].links[slot].xid + 1
            raw = wire.Session.frame(xid, wire.Request(frame.op, frame.body))
            for side in self.sides:
                side.links[slot].xid = xid
                side.send(slot, raw)
            items = [side.read(slot, lambda item: item.kind == "reply") for side in self.sides]
            difference = self.compare(number, {xid: frame}, items)
            if difference is not None:
                difference.what += f" in the tree at the end: {frame}"
                return [], difference
            if frame.op == wire.GET_CHILDREN:
                children = [name.decode() for name in names(wire.Reader(items[0][-1].body))]
        return children, None


def clean(sides: Sequence[Side]) -> bool:
    """Close every session and remove every znode; False if the servers are not in the same state then."""
    states = []
    for side in sides:
        for slot in list(side.links):
            side.forget(slot)
        for known in side.sessions:
            if known is not None:
                with contextlib.suppress(wire.Refused):
                    side.server.session(session_id=known[0], password=known[1], timeout_ms=_TIMEOUT_MS).close()
        with side.server.session(timeout_ms=_TIMEOUT_MS) as session:
            session.add_auth("digest", rs.SUPER)
            doomed = _below(session, "/")
            for path in sorted(doomed, key=lambda p: -p.count("/")):
                if path not in ("/zookeeper", "/zookeeper/quota", "/zookeeper/config"):
                    session.delete(path)
            state: list[object] = []
            for path in ("/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"):
                data, stat = session.get(path)
                state += [data, stat.version, stat.cversion, stat.aversion, session.get_acl(path)[0]]
            states.append(state)
    return states[0] == states[1]


def _below(session: wire.Session, path: str) -> list[str]:
    found = []
    for name in session.children(path):
        child = f"{path.rstrip('/')}/{name}"
        found += [child, *_below(session, child)]
    return found


class Differential:
    """Two running servers. ``directory`` takes their files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.starts = 0
        self.servers: list[Server] = []
        self.excused: Counter[str] = Counter()

    def start(self) -> None:
        """Both servers anew, without data."""
        self.stop()
        self.starts += 1
        home = self.directory / str(self.starts)
        self.servers = [
            Reference(home / "zookeeper", config=CONFIG),
            FastzkServer(home / "fastzk", config=CONFIG),
        ]
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_ready(60)

    def stop(self) -> None:
        for server in self.servers:
            server.discard()
            shutil.rmtree(server.directory, ignore_errors=True)
        self.servers = []

    def play(self, steps: Sequence[Step]) -> Difference | None:
        """The first difference, from two servers without znodes. Raises ServerDied."""
        if not self.servers:
            self.start()
        run = Run(self.servers)
        try:
            difference = run.play(steps) or run.finish(len(steps))
            self.excused += run.comparer.excused
        except ServerDied:
            self.stop()
            raise
        try:
            usable = clean(run.sides)
        except (wire.WireError, wire.ZkError, OSError):
            usable = False
        if not usable:
            self.stop()
        return difference

    def shrink(self, steps: Sequence[Step], seconds: float) -> tuple[list[Step], Difference]:
        """A short sequence that still shows a difference: delta debugging over steps, then over requests."""
        deadline = time.monotonic() + seconds
        self.stop()
        first = self.play(steps)
        if first is None:
            raise ValueError("the difference does not come again from two new servers")
        steps, best = list(steps[: first.step + 1]), first

        def still(candidate: list[Step]) -> bool:
            nonlocal best, steps
            try:
                found = self.play(candidate)
            except ServerDied:
                return False
            if found is None:
                return False
            steps, best = candidate[: found.step + 1], found
            return True

        size = max(len(steps) // 2, 1)
        while time.monotonic() < deadline:
            at, shorter = 0, False
            while at < len(steps) and time.monotonic() < deadline:
                if still(steps[:at] + steps[at + size :]):
                    shorter = True
                else:
                    at += size
            if size > 1:
                size = max(size // 2, 1)
            elif not shorter:
                break
        shorter = True
        while shorter and time.monotonic() < deadline:
            shorter = any(still(candidate) for candidate in _simpler(steps))
        return steps, best

    def check(self, seed: int, count: int, shrink_seconds: float) -> str | None:
        """None if a seed shows no difference, else a shrunk one in words."""
        steps = rs.Generator(seed).steps(count)
        difference = self.play(steps)
        if difference is None:
            return None
        try:
            short, small = self.shrink(steps, shrink_seconds)
        except ValueError as error:
            return f"seed {seed}, step {difference.step}: {error}\n{difference.show(steps[-1:])}"
        return f"seed {seed}, step {difference.step}, shrunk to {len(short)} steps:\n{small.show(short)}"


def _simpler(steps: list[Step]) -> Iterator[list[Step]]:
    """The same steps with one request, or one operation of a multi, left out."""
    for at, step in enumerate(steps):
        for index, frame in enumerate(step.frames):
            before, after = step.frames[:index], step.frames[index + 1 :]
            if before or after:
                yield [*steps[:at], replace(step, frames=before + after), *steps[at + 1 :]]
            for smaller in frame.smaller():
                yield [*steps[:at], replace(step, frames=(*before, smaller, *after)), *steps[at + 1 :]]


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A directory for both servers, in memory where there is such: nothing here is about disks."""
    shm = Path("/dev/shm")
    where = shm if shm.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fastzk-differential-", dir=where) as directory:
        yield Path(directory)


def _seeds(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare fastzk with Apache ZooKeeper under random requests.")
    parser.add_argument("--seeds", type=_seeds, default=[0], help="for example 0-49 or 3,7")
    parser.add_argument("--steps", type=int, default=5000, help="steps of each seed")
    parser.add_argument("--shrink", type=float, default=120.0, help="seconds spent on making a difference small")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first seed with a difference")
    options = parser.parse_args()
    missing = ZooKeeperServer.missing()
    if missing:
        parser.error(f"Apache ZooKeeper: {missing}")
    failed = 0
    with workplace() as directory:
        differential = Differential(directory)
        try:
            for seed in options.seeds:
                began = time.monotonic()
                try:
                    found = differential.check(seed, options.steps, options.shrink)
                except ServerDied as death:
                    found = f"seed {seed}: {death}"
                print(f"seed {seed}: {found or 'no difference'} ({time.monotonic() - began:.1f} s)", flush=True)
                failed += found is not None
                if found and not options.keep_going:
                    break
        finally:
            differential.stop()
    for reason, count in differential.excused.most_common():
        print(f"kept on purpose, {count} times: {reason}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
