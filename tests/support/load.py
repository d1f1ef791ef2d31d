"""Writers that know what must be there after a crash.

Every writer owns a subtree, sends its writes pipelined and keeps a plain model of the subtree as far as the
server acknowledged. A crash may have stopped the server anywhere between the last acknowledged and the last
sent write, and a session's writes are done in order: so what is found afterwards must equal the model after
*some* number of the pending writes. That is checked to the last znode, data, version and sequence number,
not only "my key is there".
"""

from __future__ import annotations

import random
import threading
from collections import Counter, deque
from dataclasses import dataclass, field

from support import wire
from support.servers import Server
from support.wire import EPHEMERAL, SEQUENTIAL, MultiResult, Reply, Request, Session


@dataclass
class Node:
    data: bytes
    version: int = 0
    ephemeral: bool = False
    #: How many children were ever created: the next sequence number, and half of cversion.
    creates: int = 0
    #: The zxid of the last change of the data, once acknowledged.
    mzxid: int | None = None

    def copy(self) -> Node:
        return Node(self.data, self.version, self.ephemeral, self.creates, self.mzxid)


@dataclass(frozen=True)
class Step:
    """One request of a writer: what it does is computed by :meth:`Model.apply`."""

    kind: str
    path: str = ""
    data: bytes = b""
    flags: int = 0
    version: int = -1
    parts: tuple[Step, ...] = ()

    def request(self) -> Request:
        if self.kind == "create":
            return wire.create(self.path, self.data, self.flags)
        if self.kind == "set":
            return wire.set_data(self.path, self.data, self.version)
        if self.kind == "delete":
            return wire.delete(self.path, self.version)
        if self.kind == "check":
            return wire.check(self.path, self.version)
        return wire.multi([part.request() for part in self.parts])


@dataclass
class Outcome:
    """The expected reply: an error code, and what its body says (path, version, results of a multi)."""

    err: int
    value: str | int | None = None
    results: list[MultiResult] = field(default_factory=list)


class Model:
    """A subtree in plain Python with the semantics of create, set, delete, check and multi."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.nodes: dict[str, Node] = {root: Node(b"")}

    def copy(self) -> Model:
        twin = Model(self.root)
        twin.nodes = {path: node.copy() for path, node in self.nodes.items()}
        return twin

    def has_children(self, path: str) -> bool:
        below = path + "/"
        return any(other.startswith(below) for other in self.nodes)

    def apply(self, step: Step, zxid: int | None) -> Outcome:
        if step.kind != "multi":
            return self._apply(step, zxid)
        saved = self.copy().nodes
        outcomes: list[Outcome] = []
        for part in step.parts:
            outcomes.append(self._apply(part, zxid))
            if outcomes[-1].err:
                self.nodes = saved
                codes = [0] * (len(outcomes) - 1) + [outcomes[-1].err]
                codes += [wire.RUNTIME_INCONSISTENCY] * (len(step.parts) - len(codes))
                return Outcome(0, results=[MultiResult(-1, code, None) for code in codes])
        kinds = {"create": wire.CREATE, "set": wire.SET_DATA, "delete": wire.DELETE, "check": wire.CHECK}
        results = [
            MultiResult(kinds[part.kind], 0, outcome.value if isinstance(outcome.value, str) else None)
            for part, outcome in zip(step.parts, outcomes, strict=True)
        ]
        return Outcome(0, results=results)

    def _apply(self, step: Step, zxid: int | None) -> Outcome:
        if step.kind == "create":
            parent = self.nodes.get(step.path.rpartition("/")[0])
            if parent is None:
                return Outcome(wire.NO_NODE)
            path = f"{step.path}{parent.creates:010d}" if step.flags & SEQUENTIAL else step.path
            if path in self.nodes:
                return Outcome(wire.NODE_EXISTS)
            parent.creates += 1
            self.nodes[path] = Node(step.data, ephemeral=bool(step.flags & EPHEMERAL), mzxid=zxid)
            return Outcome(0, path)
        node = self.nodes.get(step.path)
        if node is None:
            return Outcome(wire.NO_NODE)
        if step.version not in {-1, node.version}:
            return Outcome(wire.BAD_VERSION)
        if step.kind == "set":
            node.data, node.version, node.mzxid = step.data, node.version + 1, zxid
            return Outcome(0, node.version)
        if step.kind == "delete":
            if self.has_children(step.path):
                return Outcome(wire.NOT_EMPTY)
            del self.nodes[step.path]
        return Outcome(0)

    def differences(self, found: dict[str, tuple[bytes | None, wire.Stat]]) -> list[str]:
        """What a dump of the subtree has otherwise than this model; empty when they agree."""
        wrong = [f"{path} is missing" for path in self.nodes.keys() - found.keys()]
        wrong += [f"{path} should not be there" for path in found.keys() - self.nodes.keys()]
        counts = Counter(path.rpartition("/")[0] for path in self.nodes)
        for path in self.nodes.keys() & found.keys():
            node, (data, stat) = self.nodes[path], found[path]
            children = counts[path]
            expected = (node.data, node.version, 2 * node.creates - children, children, len(node.data))
            actual = (data, stat.version, stat.cversion, stat.num_children, stat.data_length)
            if expected != actual:
                wrong.append(
                    f"{path}: (data, version, cversion, children, length) {actual}, expected {expected}"
                )
            if node.mzxid is not None and node.mzxid != stat.mzxid:
                wrong.append(f"{path}: mzxid 0x{stat.mzxid:x}, acknowledged with 0x{node.mzxid:x}")
            if node.ephemeral != bool(stat.ephemeral_owner):
                wrong.append(f"{path}: ephemeralOwner 0x{stat.ephemeral_owner:x}")
            if not stat.czxid <= stat.mzxid:
                wrong.append(f"{path}: czxid 0x{stat.czxid:x} after mzxid 0x{stat.mzxid:x}")
        return wrong


def dump(session: Session, root: str) -> dict[str, tuple[bytes | None, wire.Stat]]:
    """Everything at and below ``root``."""
    found = {}
    waiting = [root]
    while waiting:
        path = waiting.pop()
        found[path] = session.get(path)
        waiting += [f"{path}/{name}" for name in session.children(path)]
    return found


class Writer:
    """One session that writes to its own subtree until the connection breaks, and again after a restart.

    The session is kept over restarts, so its ephemerals have to be there again as well.
    """

    #: Writes in flight at once.
    WINDOW = 32
    #: Above this it only changes and deletes, so that the checks stay quick.
    MAX_NODES = 250

    def __init__(self, name: str, seed: int) -> None:
        self.root = f"/{name}"
        self.random = random.Random(seed)
        self.acknowledged = Model(self.root)
        #: The model with everything that was sent: what the next step is chosen from.
        self.ahead = self.acknowledged.copy()
        self.pending: deque[Step] = deque()
        self.count = 0
        self.acks = 0
        self.problem: BaseException | None = None
        self.last_zxid = 0
        self.session_id = 0
        self.password = wire.NO_PASSWORD
        self._serial = 0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def create_root(self, server: Server) -> None:
        with server.session() as session:
            reply = session.call(wire.create(self.root))
            assert reply.err == 0
            for model in (self.acknowledged, self.ahead):
                model.nodes[self.root].mzxid = reply.zxid

    # ---- choosing

    def _single(self) -> Step:
        rnd, nodes = self.random, self.ahead.nodes
        self._serial += 1
        data = f"{self._serial}:".encode() + b"x" * rnd.choice((0, 0, 10, 100, 1000))
        path = rnd.choice(list(nodes))
        node = nodes[path]
        roll = rnd.random()
        if len(nodes) < 4 or (roll < 0.35 and len(nodes) < self.MAX_NODES):
            if node.ephemeral or path.count("/") > 3:
                path = self.root
            flags = rnd.choice((0, 0, 0, SEQUENTIAL, SEQUENTIAL, EPHEMERAL, EPHEMERAL | SEQUENTIAL))
            return Step("create", f"{path}/n{'-' if flags & SEQUENTIAL else self._serial}", data, flags)
        if roll < 0.75:
            return Step("set", path, data, version=rnd.choice((-1, -1, node.version, node.version + 7)))
        if path == self.root or (len(nodes) < 60 and roll < 0.8):
            return Step("create", f"{path if not node.ephemeral else self.root}/n{self._serial}", data)
        return Step("delete", path, version=rnd.choice((-1, node.version)))

    def _choose(self) -> Step:
        if self.random.random() > 0.15:
            return self._single()
        parts = [self._single() for _ in range(self.random.randint(1, 5))]
        checked = self.random.choice(list(self.ahead.nodes))
        parts.insert(0, Step("check", checked, version=self.ahead.nodes[checked].version))
        return Step("multi", parts=tuple(parts))

    # ---- running

    def start(self, server: Server) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(server,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask it to send nothing more and take the outstanding answers."""
        self._stop.set()

    def join(self) -> None:
        assert self._thread is not None
        self._thread.join(30)
        assert not self._thread.is_alive(), "writer hangs"
        if self.problem is not None:
            raise self.problem

    def _run(self, server: Server) -> None:
        try:
            self._write(server)
        except (wire.Closed, ConnectionError):
            pass  # the crash
        except BaseException as problem:
            self.problem = problem

    def attach(self, server: Server) -> Session:
        session = server.session(
            session_id=self.session_id, password=self.password, last_zxid=self.last_zxid, timeout_ms=40_000
        )
        self.session_id, self.password = session.session_id, session.password
        return session

    def _write(self, server: Server) -> None:
        session = self.attach(server)
        try:
            xids: deque[int] = deque()
            while not (self._stop.is_set() and not self.pending):
                if not self._stop.is_set() and len(self.pending) <= self.WINDOW // 2:
                    steps = [self._advance() for _ in range(self.WINDOW - len(self.pending))]
                    xids += session.send(*[step.request() for step in steps])
                self._take(session.reply(), xids.popleft())
        finally:
            session.drop()

    def _advance(self) -> Step:
        step = self._choose()
        self.ahead.apply(step, None)
        self.pending.append(step)
        return step

    def _take(self, reply: Reply, xid: int) -> None:
        assert reply.xid == xid, f"reply {reply.xid} instead of {xid}"
        step = self.pending.popleft()
        expected = self.acknowledged.apply(step, reply.zxid)
        assert reply.err == expected.err, f"{step}: error {reply.err}, expected {expected.err}"
        if not reply.err:
            self._compare(step, reply, expected)
            assert reply.zxid >= self.last_zxid, (
                f"zxid went back from 0x{self.last_zxid:x} to 0x{reply.zxid:x}"
            )
            self.last_zxid = reply.zxid
        self.acks += 1

    def _compare(self, step: Step, reply: Reply, expected: Outcome) -> None:
        reader = wire.Reader(reply.body)
        if step.kind == "create":
            assert reader.string() == expected.value, step
        elif step.kind == "set":
            stat = reader.stat()
            assert (stat.version, stat.mzxid) == (expected.value, reply.zxid), step
        elif step.kind == "multi":
            results = [
                r._replace(value=r.value if isinstance(r.value, str) else None)
                for r in wire.decode_multi(reply.body)
            ]
            assert results == expected.results, step

    # ---- after the crash

    def verify(self, server: Server) -> None:
        """Compare the tree with what was acknowledged and sent, and take what is found as the new start."""
        with server.session() as session:
            found = dump(session, self.root)
        model = self.acknowledged
        first = model.differences(found)
        differences = first
        done = 0
        while differences and self.pending:
            model.apply(self.pending.popleft(), None)
            done += 1
            differences = model.differences(found)
        assert not differences, server.explain(
            f"{self.root}: {self.acks} writes were acknowledged; the tree matches none of the states "
            f"between the last acknowledged and the last sent write ({done} more). "
            f"Against the acknowledged state:\n"
            + "\n".join(first[:20])
        )
        self.pending.clear()
        for path, node in model.nodes.items():
            node.mzxid = found[path][1].mzxid
        self.ahead = model.copy()


class Load:
    """Several writers against one server."""

    def __init__(self, seed: int, writers: int = 4) -> None:
        self.writers = [Writer(f"w{i}", seed * 1000 + i) for i in range(writers)]

    @property
    def acks(self) -> int:
        return sum(writer.acks for writer in self.writers)

    def create_roots(self, server: Server) -> None:
        for writer in self.writers:
            writer.create_root(server)

    def start(self, server: Server) -> None:
        for writer in self.writers:
            writer.start(server)

    def wait_for_acks(self, more: int, seconds: float = 20.0) -> None:
        goal = self.acks + more
        problem = next((w.problem for w in self.writers if w.problem), None)
        wire.poll(
            lambda: self.acks >= goal or any(w.problem for w in self.writers),
            f"{more} more acknowledged writes (have {self.acks}, {problem})",
            seconds,
            0.002,
        )

    def stop(self) -> None:
        for writer in self.writers:
            writer.stop()

    def join(self) -> None:
        for writer in self.writers:
            writer.join()

    def verify(self, server: Server) -> None:
        for writer in self.writers:
            writer.verify(server)
