"""Sessions: they write, read, sync, lose their server and go to another one, and remember what they were told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .checker import demand

if TYPE_CHECKING:
    from .server import Server
    from .world import World

PATHS = [b"/k%d" % each for each in range(6)]


@dataclass(slots=True)
class Request:
    """What one session has asked for: ``kind`` is write, delete, read or sync."""

    kind: str
    session: int
    cxid: int
    path: bytes = b""
    value: bytes = b""
    #: What was acknowledged to anybody when it was asked.
    before: int = 0
    #: For a sync, the zxid to wait for; for a write, its own: 0 until that is known.
    zxid: int = 0


@dataclass(slots=True)
class Client:
    """One session after another, each with one server (a reconnection is a new one here: outcomes are unknown then)."""

    world: World
    number: int
    session: int = 0
    server: Server | None = None
    seen: int = 0
    acknowledged: int = 0
    #: How many requests may wait for answers.
    depth: int = 1
    waiting: int = 0
    _cxid: int = 0
    _asked: int = 0
    only: int | None = None
    answers: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Connect, and ask; again and again."""
        self.world.scheduler.after(self.world.random.randint(0, 20_000), self.turn)

    def turn(self) -> None:
        """The next thing to do."""
        world = self.world
        random = world.random
        if world.quiet:
            return
        if self.server is None:
            self.connect(world.servers[random.choice(sorted(world.servers))])
        elif self.waiting and world.scheduler.now - self._asked > 400_000:
            self.server.close_session(self.session)
            self.closed("no answer")
        elif self.waiting < self.depth:
            chance = random.random()
            path = random.choice(PATHS)
            if chance < 0.5:
                self.write(path)
            elif chance < 0.57:
                self.ask("delete", path)
            elif chance < 0.75 and not self.waiting:
                self.ask("sync")
                if self.server is not None:
                    self.ask("read", path)
            else:
                self.ask("read", path)
        world.scheduler.after(world.scheduler.between((1_000, 30_000)), self.turn)

    def connect(self, server: Server) -> bool:
        """Connect to `server`, which may refuse."""
        if not server.accepts(self.seen):
            return False
        self.session = self.world.new_session()
        self._cxid = 0
        self.server = server
        server.sessions[self.session] = self
        return True

    def write(self, path: bytes) -> int:
        """Write something that nobody else ever wrote; the request's number."""
        return self.ask("write", path, b"%d.%d" % (self.session, self._cxid + 1))

    def ask(self, kind: str, path: bytes = b"", value: bytes = b"") -> int:
        """Send a request; its number (only writes are numbered)."""
        assert self.server is not None
        if kind in ("write", "delete"):
            self._cxid += 1
        if not self.waiting:
            self._asked = self.world.scheduler.now
        self.waiting += 1
        request = Request(kind, self.session, self._cxid, path, value, self.world.checker.acknowledged)
        self.world.trace.add(
            self.world.scheduler.now,
            f"c{self.number}",
            "asks",
            self.server.number,
            kind,
            self.session,
            self._cxid,
            path,
        )
        self.server.happen(self.server.request, request)
        return self._cxid

    def answered(self, request: Request) -> None:
        """The server has done it, or reads now."""
        world, server = self.world, self.server
        assert server is not None
        checker = world.checker
        self.waiting -= 1
        self._asked = world.scheduler.now
        world.trace.add(world.scheduler.now, f"c{self.number}", "answer", request.kind, request.session, request.cxid)
        applied = server.machine.zxid
        demand(applied >= self.seen, "client {} saw {}, and now a server with {}", self.number, self.seen, applied)
        if request.kind in ("write", "delete"):
            self.acknowledged = checker.write_acknowledged(request.session, request.cxid, request.before)
            demand(applied >= self.acknowledged, "write {} is answered before it is applied", self.acknowledged)
            world.statistics["writes"] += 1
            self.answers.append(f"{request.kind} {request.path.decode()}")
        elif request.kind == "read":
            value = server.machine.read(request.path)
            expected = checker.value(request.path, applied)
            demand(value == expected, "server {} reads {} at {}, not {}", server.number, value, applied, expected)
            demand(
                applied >= self.acknowledged, "client {} does not see its own write {}", self.number, self.acknowledged
            )
            world.statistics["reads"] += 1
            self.answers.append(f"read {request.path.decode()} {value.decode() if value is not None else 'none'}")
        else:
            demand(
                applied >= request.before,
                "client {}: a sync is answered at {}, but {} was acknowledged before it was sent",
                self.number, applied, request.before,
            )  # fmt: skip
            world.statistics["syncs"] += 1
            self.answers.append("sync")
        self.seen = max(self.seen, applied)

    def closed(self, why: str) -> None:
        """The connection is gone; what waits has an unknown outcome."""
        self.world.trace.add(self.world.scheduler.now, f"c{self.number}", "closed", why)
        self.world.statistics["unknown"] += self.waiting
        self.server = None
        self.waiting = 0
