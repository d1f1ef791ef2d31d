"""What a server must answer, worked out in plain Python: requests in the order of their arrival against two models
of the tree, one with everything proposed and one with everything applied.

The order in which requests finish is that of their arrival, so the oracle only has to be told how many are still
under way; then it knows every byte of every connection's stream but the times in stats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from model import CONTAINER, ModelNode, ModelTree, parent_of, vector
from support import wire
from support.wire import Acl, Request

CREATE_CONTAINER, ADD_WATCH, REMOVE_WATCHES = 19, 106, 18
DATA, CHILD, PERSISTENT, RECURSIVE = "data", "child", "persistent", "recursive"
SPECIAL = {b"/", b"", b"/zookeeper", b"/zookeeper/quota", b"/zookeeper/config"}

Frame = tuple[Any, ...]  # (xid, zxid, error, body) with a decoded body
Identity = tuple[str, str]


@dataclass(frozen=True)
class Op:
    """One request. ``acl``: None is Jute's null; ``parts``: of a multi."""

    op: int
    path: str = "/"
    data: bytes | None = b""
    flags: int = 0
    version: int = -1
    acl: tuple[Acl, ...] | None = wire.OPEN
    watch: bool = False
    parts: tuple[Op, ...] = ()

    @property
    def request(self) -> Request:
        if self.op in {wire.CREATE, wire.CREATE2, CREATE_CONTAINER}:
            return wire.create(self.path, self.data, self.flags, self.acl, self.op)
        if self.op == wire.DELETE:
            return wire.delete(self.path, self.version)
        if self.op == wire.CHECK:
            return wire.check(self.path, self.version)
        if self.op == wire.SET_DATA:
            return wire.set_data(self.path, self.data, self.version)
        if self.op == wire.SET_ACL:
            return wire.set_acl(self.path, self.acl, self.version)
        if self.op in {wire.EXISTS, wire.GET_DATA, wire.GET_CHILDREN, wire.GET_CHILDREN2}:
            return Request(self.op, wire.exists(self.path, self.watch).body)
        if self.op == wire.MULTI:
            return wire.multi([part.request for part in self.parts])
        if self.op in {ADD_WATCH, REMOVE_WATCHES}:
            return Request(self.op, wire.delete(self.path, self.flags).body)
        if self.op == wire.CLOSE_SESSION:
            return Request(self.op, b"")
        assert self.op in {wire.GET_ACL, wire.SYNC}
        return Request(self.op, wire.text(self.path))

    @property
    def is_write(self) -> bool:
        return self.op in {
            wire.CREATE, wire.CREATE2, CREATE_CONTAINER, wire.DELETE, wire.CHECK, wire.SET_DATA, wire.SET_ACL,
            wire.MULTI, wire.SYNC, wire.CLOSE_SESSION,
        }  # fmt: skip


@dataclass
class Line:
    """What the oracle knows of one connection. ``expected``: every frame it must get, in order."""

    session: int = 0
    identities: tuple[Identity, ...] = (("ip", "127.0.0.1"),)
    open: bool = True
    pending: int = 0
    waiting: deque[tuple[str, Any]] = field(default_factory=deque)  # reads, and marks of writes, behind a write
    watches: dict[bytes, set[str]] = field(default_factory=dict)
    expected: list[Frame] = field(default_factory=list)
    ops: dict[int, Op] = field(default_factory=dict)  # by xid


@dataclass
class Entry:
    """A request under way."""

    line: Line | None
    xid: int
    error: int = 0
    body: Any = None
    effects: list[Callable[[], None]] | None = None  # None: it has no transaction
    result: Callable[[], Any] | None = None  # the body, once it is applied
    closes: bool = False


def masked(stat: tuple[int, ...]) -> tuple[int, ...]:
    """A stat without its times."""
    return (*stat[:2], 0, 0, *stat[4:])


def has(node: ModelNode, perm: int, acls: dict[bytes, tuple[Acl, ...]], line: Line) -> bool:
    """Whether a connection has one of these permissions."""
    held = {("world", "anyone"), *line.identities}
    return any(entry.perms & perm and (entry.scheme, entry.id) in held for entry in acls[node.acl])


class Oracle:
    """One server as its clients must see it."""

    def __init__(self) -> None:
        self.proposed = ModelTree()
        self.proposed.plant()
        self.applied = self.proposed.copy()
        self.next_zxid = 1
        self.zxid = 0  # the last one applied
        self.entries: deque[Entry] = deque()
        self.lines: list[Line] = []
        self.acls: dict[bytes, tuple[Acl, ...]] = {}
        for node in self.proposed.nodes.values():
            self.acls[node.acl] = (Acl(31, "world", "anyone"),)
        self.acls[self.proposed.nodes[b"/zookeeper/config"].acl] = (Acl(1, "world", "anyone"),)

    # -- what arrives -----------------------------------------------------------------------------------------

    def new_session(self, line: Line) -> None:
        """A connect request arrived; ``line.session`` is set by the time it is applied."""
        self.next_zxid += 1
        self.entries.append(Entry(line, 0, effects=[], result=lambda: "session"))
        line.pending += 1
        self.lines.append(line)

    def arrives(self, line: Line, xid: int, op: Op) -> None:
        """A whole request of an open session arrived."""
        line.ops[xid] = op
        waiting = line.pending > 0
        if not op.is_write:
            if waiting:
                line.waiting.append(("read", (xid, op)))
            else:
                self.read(line, xid, op)
            return
        entry = self.propose(line, xid, op)
        if entry is not None:
            if waiting:
                line.waiting.append(("mark", None))
            line.pending += 1
            self.entries.append(entry)

    def expires(self, session: int) -> None:
        """The end of a session that has no connection is proposed."""
        self.next_zxid += 1
        self.entries.append(Entry(None, 0, effects=self.end(session, self.next_zxid - 1)))

    def lost(self, line: Line) -> None:
        """A connection broke."""
        line.open = False
        line.watches.clear()
        line.waiting.clear()

    def progress(self, pending: int) -> None:
        """All but the last ``pending`` requests under way are finished."""
        while len(self.entries) > pending:
            self.finish(self.entries.popleft())

    # -- proposing --------------------------------------------------------------------------------------------

    def propose(self, line: Line, xid: int, op: Op) -> Entry | None:
        """Decide a request; None if it was answered at once."""
        zxid = self.next_zxid
        if op.op == wire.SYNC:
            return Entry(line, xid, body=op.path)
        if op.op == wire.CLOSE_SESSION:
            self.next_zxid += 1
            return Entry(line, xid, effects=self.end(line.session, zxid), closes=True)
        if op.op == wire.MULTI:
            return self.propose_multi(line, xid, op, zxid)
        error, effect, result = self.decide(line, op, zxid, self.proposed)
        if error or op.op == wire.CHECK:
            if not self.entries:
                line.expected.append((xid, self.zxid, error, None))
                return None
            return Entry(line, xid, error=error)
        self.next_zxid += 1
        return Entry(line, xid, effects=[effect], result=result)

    def propose_multi(self, line: Line, xid: int, op: Op, zxid: int) -> Entry:
        before = self.proposed.copy()
        effects: list[Callable[[], None]] = []
        results: list[Callable[[], Any]] = []
        for number, part in enumerate(op.parts):
            error, effect, result = self.decide(line, part, zxid, self.proposed, inside=True)
            if error:
                self.proposed = before
                errors = [0] * number + [error] + [wire.RUNTIME_INCONSISTENCY] * (len(op.parts) - number - 1)
                return Entry(line, xid, body=[(-1, code, None) for code in errors])
            effects.append(self.recording(effect, results, part, result))
        self.next_zxid += 1
        return Entry(line, xid, effects=effects, result=lambda: [result() for result in results])

    def recording(
        self, effect: Callable[[], None], results: list[Callable[[], Any]], part: Op, result: Callable[[], Any]
    ) -> Callable[[], None]:
        """Each part's result shows the tree as it is just behind that part."""

        def run() -> None:
            effect()
            value = result()
            kind = part.op
            if kind in {wire.CREATE, wire.CREATE2, CREATE_CONTAINER}:
                # By the flags, not by the operation; the decoder drops the stat of a container.
                kind = wire.CREATE2 if part.flags == 4 else wire.CREATE
                value = value if isinstance(value, str) else value[0]
            results.append(lambda: (kind, 0, value))

        return run

    def end(self, session: int, zxid: int) -> list[Callable[[], None]]:
        doomed = sorted(self.proposed.sessions.get(session, ()))
        for path in doomed:
            self.proposed.delete(path, zxid=zxid)
        return [lambda path=path: self.apply_delete(path, zxid) for path in doomed]  # type: ignore[misc]

    def decide(
        self, line: Line, op: Op, zxid: int, tree: ModelTree, inside: bool = False
    ) -> tuple[int, Callable[[], None], Callable[[], Any]]:
        """(error, what applying it does, what its reply shows then); changes ``tree`` if there is no error."""
        path = op.path.encode()
        nothing = (lambda: None, lambda: None)
        nodes = tree.nodes
        if op.op in {wire.CREATE, wire.CREATE2, CREATE_CONTAINER}:
            return self.decide_create(line, op, zxid, tree, inside)
        node = nodes.get(path)
        if op.op == wire.DELETE:
            if path in SPECIAL or not path.startswith(b"/"):
                return (wire.BAD_ARGUMENTS, *nothing)
            above = nodes.get(parent_of(path))
            if above is None:
                return (wire.NO_NODE, *nothing)
            if not has(above, wire.PERM_DELETE, self.acls, line):
                return (wire.NO_AUTH, *nothing)
            if node is None:
                return (wire.NO_NODE, *nothing)
            if op.version not in {-1, node.version}:
                return (wire.BAD_VERSION, *nothing)
            if node.children:
                return (wire.NOT_EMPTY, *nothing)
            tree.delete(path, zxid=zxid)
            return 0, lambda: self.apply_delete(path, zxid), lambda: None
        if op.op == wire.SET_DATA:
            error = self.common(line, node, wire.PERM_WRITE, op.version, node.version if node else 0)
            if error:
                return (error, *nothing)
            assert node is not None
            version = node.version + 1
            tree.set_data(path, op.data, version=version, zxid=zxid, time=0)

            def apply_set() -> None:
                self.applied.set_data(path, op.data, version=version, zxid=zxid, time=0)
                self.fire(path, 3, zxid, {DATA, PERSISTENT, RECURSIVE})

            return 0, apply_set, lambda: masked(self.applied.nodes[path].stat)
        if op.op == wire.SET_ACL:
            fixed = self.fixed(line, op.acl)
            if fixed is None:
                return (wire.INVALID_ACL, *nothing)
            error = self.common(line, node, wire.PERM_ADMIN, op.version, node.aversion if node else 0)
            if error:
                return (error, *nothing)
            assert node is not None
            aversion = node.aversion + 1
            tree.set_acl(path, fixed, version=aversion)
            return (
                0,
                lambda: self.applied.set_acl(path, fixed, version=aversion),
                lambda: masked(self.applied.nodes[path].stat),
            )
        assert op.op == wire.CHECK
        return (self.common(line, node, wire.PERM_READ, op.version, node.version if node else 0), *nothing)

    def common(self, line: Line, node: ModelNode | None, perm: int, asked: int, version: int) -> int:
        if node is None:
            return wire.NO_NODE
        if not has(node, perm, self.acls, line):
            return wire.NO_AUTH
        return 0 if asked in {-1, version} else wire.BAD_VERSION

    def fixed(self, line: Line, asked: tuple[Acl, ...] | None) -> bytes | None:
        """The ACL that is stored."""
        entries: list[Acl] = []
        for entry in dict.fromkeys(asked or ()):
            if entry.scheme == "auth":
                own = [Acl(entry.perms, scheme, who) for scheme, who in line.identities if scheme == "digest"]
                if not own:
                    return None
                entries += own
            elif (entry.scheme, entry.id) == ("world", "anyone") or entry.scheme in {"digest", "ip"}:
                entries.append(entry)
            else:
                return None
        if not entries:
            return None
        encoded = vector((e.perms, str(e.scheme).encode(), str(e.id).encode()) for e in entries)
        self.acls[encoded] = tuple(entries)
        return encoded

    def decide_create(
        self, line: Line, op: Op, zxid: int, tree: ModelTree, inside: bool
    ) -> tuple[int, Callable[[], None], Callable[[], Any]]:
        nothing = (lambda: None, lambda: None)
        path = op.path.encode()
        if not path.startswith(b"/"):
            return (wire.BAD_ARGUMENTS, *nothing)
        acl = self.fixed(line, op.acl)
        if acl is None:
            return (wire.INVALID_ACL, *nothing)
        above = tree.nodes.get(parent_of(path))
        if above is None:
            return (wire.NO_NODE, *nothing)
        if not has(above, wire.PERM_CREATE, self.acls, line):
            return (wire.NO_AUTH, *nothing)
        parent = parent_of(path)
        container = op.flags == 4 if inside else op.op == CREATE_CONTAINER
        if op.flags in {2, 3}:
            path += b"%010d" % above.creates
        if path == b"/":
            return (wire.NODE_EXISTS, *nothing)
        if path.endswith((b"/", b"/.", b"/..")):
            return (wire.BAD_ARGUMENTS, *nothing)
        if path in tree.nodes:
            return (wire.NODE_EXISTS, *nothing)
        if above.kind == "ephemeral":
            return (wire.NO_CHILDREN_FOR_EPHEMERALS, *nothing)
        owner = CONTAINER if container else line.session if op.flags in {1, 3} else 0
        creates = above.creates + 1
        tree.create(path, op.data, acl, owner=owner, zxid=zxid, time=0, parent_cversion=creates)

        def apply() -> None:
            self.applied.create(path, op.data, acl, owner=owner, zxid=zxid, time=0, parent_cversion=creates)
            self.fire(path, 1, zxid, {DATA, PERSISTENT, RECURSIVE})
            self.fire(parent, 4, zxid, {CHILD, PERSISTENT})

        shows_stat = op.op in {wire.CREATE2, CREATE_CONTAINER}

        def result() -> Any:
            name = path.decode()
            return (name, masked(self.applied.nodes[path].stat)) if shows_stat else name

        return 0, apply, result

    # -- applying ---------------------------------------------------------------------------------------------

    def apply_delete(self, path: bytes, zxid: int) -> None:
        acl = self.applied.nodes[path]
        self.applied.delete(path, zxid=zxid)
        self.fire(path, 2, zxid, {DATA, CHILD, PERSISTENT, RECURSIVE}, acl)
        self.fire(parent_of(path), 4, zxid, {CHILD, PERSISTENT})

    def fire(self, path: bytes, event: int, zxid: int, modes: set[str], node: ModelNode | None = None) -> None:
        """One event to each connection that watches ``path`` so, or recursively anything above it."""
        node = self.applied.nodes[path] if node is None else node
        for line in self.lines:
            hit = False
            own = line.watches.get(path, set())
            if own & modes:
                hit = True
                own -= modes & {DATA, CHILD}
                if not own:
                    del line.watches[path]
            if RECURSIVE in modes and path != b"/":
                above = path
                while above != b"/":
                    above = parent_of(above)
                    hit = hit or RECURSIVE in line.watches.get(above, set())
            if hit and has(node, wire.PERM_READ, self.acls, line):
                line.expected.append((-1, zxid, 0, (event, 3, path.decode())))

    def finish(self, entry: Entry) -> None:
        if entry.effects is not None:
            for effect in entry.effects:
                effect()
            self.zxid += 1
        line = entry.line
        if line is None:
            return
        line.pending -= 1
        if not line.open:
            return
        body = entry.result() if entry.result is not None else entry.body
        line.expected.append((entry.xid, self.zxid, entry.error, body))
        if entry.closes:
            line.open = False
            line.watches.clear()
            return
        self.drain(line)

    def drain(self, line: Line) -> None:
        while line.waiting:
            kind, what = line.waiting.popleft()
            if kind == "mark":
                return
            self.read(line, *what)

    # -- reads ------------------------------------------------------------------------------------------------

    def read(self, line: Line, xid: int, op: Op) -> None:
        """Answered now, from what is applied."""
        line.expected.append((xid, self.zxid, *self.answer(line, op)))

    def answer(self, line: Line, op: Op) -> tuple[int, Any]:
        path = op.path.encode()
        if op.op == ADD_WATCH:
            line.watches.setdefault(path, set()).add(RECURSIVE if op.flags else PERSISTENT)
            return 0, 0
        if op.op == REMOVE_WATCHES:
            modes = {1: {CHILD}, 2: {DATA}, 3: {DATA, CHILD, PERSISTENT, RECURSIVE}}[op.flags]
            own = line.watches.get(path, set())
            if not own & modes:
                return -121, None
            own -= modes
            if not own:
                del line.watches[path]
            return 0, None
        node = self.applied.nodes.get(path)
        perm = wire.PERM_READ | (wire.PERM_ADMIN if op.op == wire.GET_ACL else 0)
        error = wire.NO_NODE if node is None else 0 if has(node, perm, self.acls, line) else wire.NO_AUTH
        if op.watch and op.op != wire.GET_ACL and (not error or (op.op == wire.EXISTS and error == wire.NO_NODE)):
            kind = DATA if op.op in {wire.EXISTS, wire.GET_DATA} else CHILD
            line.watches.setdefault(path, set()).add(kind)
        if error:
            return error, None
        assert node is not None
        stat = masked(node.stat)
        if op.op == wire.EXISTS:
            return 0, stat
        if op.op == wire.GET_DATA:
            return 0, (node.data, stat)
        if op.op == wire.GET_ACL:
            admin = has(node, wire.PERM_ADMIN, self.acls, line)
            return 0, ([entry if admin else hidden(entry) for entry in self.acls[node.acl]], stat)
        names = sorted(name.decode() for name in node.children)
        return 0, names if op.op == wire.GET_CHILDREN else (names, stat)


def hidden(entry: Acl) -> Acl:
    """A digest's hash is shown to those with ADMIN only."""
    if entry.scheme != "digest":
        return entry
    return Acl(entry.perms, entry.scheme, str(entry.id).split(":", 1)[0] + ":x")


def decode(op: Op, reply: wire.Reply) -> Frame:
    """A reply in the oracle's words."""
    head = (reply.xid, reply.zxid, reply.err)
    if reply.err:
        assert not reply.body
        return (*head, None)
    reader = wire.Reader(reply.body)
    body: Any = None
    if op.op == wire.MULTI:
        return (*head, [decode_part(part) for part in wire.decode_multi(reply.body)])
    if op.op in {wire.CREATE, wire.SYNC}:
        body = reader.string()
    elif op.op in {wire.CREATE2, CREATE_CONTAINER}:
        body = (reader.string(), masked(reader.stat()))
    elif op.op in {wire.SET_DATA, wire.SET_ACL, wire.EXISTS}:
        body = masked(reader.stat())
    elif op.op == wire.GET_DATA:
        body = (reader.buffer(), masked(reader.stat()))
    elif op.op == wire.GET_ACL:
        body = (reader.acls(), masked(reader.stat()))
    elif op.op == wire.GET_CHILDREN:
        body = sorted(reader.strings())
    elif op.op == wire.GET_CHILDREN2:
        body = (sorted(reader.strings()), masked(reader.stat()))
    elif op.op == ADD_WATCH:
        body = reader.int()
    reader.end()
    return (*head, body)


def decode_part(part: wire.MultiResult) -> tuple[Any, ...]:
    value = masked(part.value) if isinstance(part.value, wire.Stat) else part.value
    return (part.type, part.err, value)
