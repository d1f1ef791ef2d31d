"""Clients that write to an ensemble while its servers fail, and what must be true of what they were told.

Each client has a session that it takes from server to server. It writes values that nobody else ever writes, to
keys it shares with all others, and remembers when each write was sent, when it was acknowledged, with which zxid
and version. A write whose connection broke before the answer came may have happened, once, or not at all.

Of a set of writes to one key much can be told afterwards, since every write that happens raises the key's version by
one: two acknowledged with the same version, or a final version smaller than their number, and one was lost.
"""

from __future__ import annotations

import random
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from support import wire
from support.ensembles import Ensemble, Tree

#: Parents of what the clients write.
KEYS, CREATED, EPHEMERALS = "/keys", "/created", "/ephemerals"


@dataclass(slots=True)
class Write:
    """One write: ``acknowledged`` is None unless it was answered with success; times are of time.monotonic."""

    path: str
    value: bytes
    invoked: float
    acknowledged: float | None = None
    zxid: int = 0
    #: The key's version after it; -1 for a create.
    version: int = -1
    #: It was answered with an error, so it did not happen.
    failed: bool = False


@dataclass
class Shared:
    """What all clients of a load know of each other. The interpreter's lock is lock enough for each single field."""

    #: By key: the highest zxid of an acknowledged write.
    acknowledged: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    #: Reads behind a sync that missed a write acknowledged before the sync was sent.
    stale: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledge(self, key: str, zxid: int) -> None:
        with self.lock:
            self.acknowledged[key] = max(self.acknowledged[key], zxid)


class Client:
    """A session that writes and reads in small batches until it is stopped, whatever becomes of the servers.

    ``timeout``: seconds without an answer after which it turns to another server.
    """

    BATCH = 8

    def __init__(
        self,
        name: str,
        ports: Sequence[int],
        shared: Shared,
        *,
        keys: Sequence[str],
        seed: int,
        timeout: float = 3.0,
    ) -> None:
        self.name = name
        self.random = random.Random(seed)
        self.writes: list[Write] = []
        #: Reconnects that kept the session, and sessions that expired.
        self.attached = 0
        self.expired = 0
        self.reads = 0
        self.session_id = 0
        self.problem: BaseException | None = None
        self._ports = list(ports)
        self._shared = shared
        self._keys = keys
        self._timeout = timeout
        self._password = wire.NO_PASSWORD
        self._last_zxid = 0
        self._seen: dict[str, int] = defaultdict(int)
        self._serial = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # ---- running

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to finish its batch; its session stays."""
        self._stop.set()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), f"{self.name} hangs"
        if self.problem is not None:
            raise self.problem

    def close(self) -> None:
        """End the session, behind ``join``."""
        wire.poll(self._close_once, f"the session of {self.name} can be closed")

    def _close_once(self) -> bool:
        session = self._connect()
        if session is not None:
            session.close()
        return session is not None

    def _run(self) -> None:
        session: wire.Session | None = None
        try:
            while not self._stop.is_set():
                try:
                    if session is None:
                        session = self._connect()
                    else:
                        self._batch(session)
                except (wire.WireError, OSError, struct.error):
                    if session is not None:
                        self._last_zxid = session.last_zxid
                        session.drop()
                        session = None
        except BaseException as problem:
            self.problem = problem
        finally:
            if session is not None:
                session.drop()

    def _connect(self) -> wire.Session | None:
        """One try with one server, at random; None if that came to nothing."""
        try:
            session = wire.Session(
                self.random.choice(self._ports),
                timeout_ms=60_000,
                session_id=self.session_id,
                password=self._password,
                last_zxid=self._last_zxid,
                timeout=self._timeout,
            )
        except wire.Refused:
            # only expired sessions are refused, and these live longer than any fault
            self.expired += 1
            self.session_id, self._password = 0, wire.NO_PASSWORD
            return None
        except (wire.WireError, OSError, struct.error):
            time.sleep(0.01)
            return None
        if self.session_id:
            self.attached += 1
        fresh = session.session_id != self.session_id
        self.session_id, self._password = session.session_id, session.password
        if fresh:
            # again after an answer that was lost, so it may be there already
            error = session.error(wire.create(f"{EPHEMERALS}/{self.name}", b"", wire.EPHEMERAL))
            assert error in {wire.OK, wire.NODE_EXISTS}, f"{self.name}: error {error} for its ephemeral"
        return session

    def _batch(self, session: wire.Session) -> None:
        """Some writes and reads in one go; then a read behind a sync."""
        sent: list[tuple[Write | None, str]] = []
        requests: list[wire.Request] = []
        for _ in range(self.BATCH):
            roll = self.random.random()
            key = self.random.choice(self._keys)
            if roll < 0.2:
                requests.append(wire.get_data(key))
                sent.append((None, key))
                continue
            self._serial += 1
            value = f"{self.name}:{self._serial}".encode()
            if roll < 0.5:
                write = Write(f"{CREATED}/{self.name}/{self._serial}", value, 0.0)
                requests.append(wire.create(write.path, value))
            else:
                write = Write(key, value, 0.0)
                requests.append(wire.set_data(key, value))
            sent.append((write, write.path))
        checked = self.random.choice(self._keys)
        floor = self._shared.acknowledged[checked]
        requests += [wire.sync(checked), wire.get_data(checked)]
        now = time.monotonic()
        for write, _ in sent:
            if write is not None:
                write.invoked = now
                self.writes.append(write)
        xids = session.send(*requests)
        for xid, (write, path) in zip(xids, sent, strict=False):
            reply = session.reply()
            assert reply.xid == xid, f"{self.name}: reply {reply.xid} instead of {xid}"
            if write is None:
                self._take_read(session, path, reply)
            else:
                self._take_write(write, reply)
        reply = session.reply()
        if reply.err:
            raise wire.Closed(f"sync was answered with {reply.err}")
        reply = session.reply()
        mzxid = self._take_read(session, checked, reply)
        if mzxid < floor:
            self._shared.stale.append(
                f"{self.name} read {checked} of 0x{mzxid:x} behind a sync, though 0x{floor:x} was acknowledged"
            )

    def _take_write(self, write: Write, reply: wire.Reply) -> None:
        if reply.err:
            if reply.err in {wire.NODE_EXISTS, wire.NO_NODE}:
                raise AssertionError(f"{self.name}: {write} was answered with {reply.err}")
            write.failed = reply.err not in {CONNECTION_LOSS, OPERATION_TIMEOUT}
            raise wire.Closed(f"answered with {reply.err}")
        write.zxid = reply.zxid
        if write.path.startswith(KEYS):
            stat = wire.Reader(reply.body).stat()
            assert stat.mzxid == reply.zxid, f"{write}: {stat}, in a reply of 0x{reply.zxid:x}"
            write.version = stat.version
        write.acknowledged = time.monotonic()
        if write.version >= 0:
            self._shared.acknowledge(write.path, write.zxid)
            self._see(write.path, write.zxid)

    def _take_read(self, session: wire.Session, path: str, reply: wire.Reply) -> int:
        assert reply.err == 0, f"{self.name}: error {reply.err} reading {path}"
        reader = wire.Reader(reply.body)
        reader.buffer()
        mzxid = reader.stat().mzxid
        self._see(path, mzxid)
        self.reads += 1
        return mzxid

    def _see(self, path: str, zxid: int) -> None:
        """A session never sees a key go back, on whatever servers."""
        assert zxid >= self._seen[path], (
            f"{self.name} saw {path} of 0x{self._seen[path]:x}, and then of 0x{zxid:x}"
        )
        self._seen[path] = zxid


CONNECTION_LOSS, OPERATION_TIMEOUT = -4, -7


class EnsembleLoad:
    """``clients`` sessions, each beginning anywhere, on the client ports of an ensemble.

    ``keys``: how many znodes they all write to. Two loads of different seeds have nothing in common.
    """

    def __init__(self, ensemble: Ensemble, seed: int, clients: int = 6, keys: int = 12) -> None:
        self.ensemble = ensemble
        self.shared = Shared()
        self._keys = [f"{KEYS}/{seed}-{i}" for i in range(keys)]
        self.clients = [
            Client(f"c{seed}-{i}", ensemble.ports, self.shared, keys=self._keys, seed=seed * 1000 + i)
            for i in range(clients)
        ]

    def start(self) -> None:
        """Make the parents where they are missing, and start the clients."""
        with self.ensemble.session(self.ensemble.awake[0]) as session:
            # A folder for each client: after many loads one list of all would be larger than a reply may be.
            folders = [f"{CREATED}/{client.name}" for client in self.clients]
            for path in (KEYS, CREATED, EPHEMERALS, *self._keys, *folders):
                assert session.error(wire.create(path)) in {wire.OK, wire.NODE_EXISTS}
        for i in self.ensemble.awake:
            with self.ensemble.session(i) as session:
                session.sync("/")  # so that every server has the parents before anybody writes below them
        for client in self.clients:
            client.start()

    @property
    def acknowledged(self) -> int:
        """How many writes were acknowledged so far."""
        return sum(write.acknowledged is not None for client in self.clients for write in client.writes)

    def wait_for_writes(self, more: int, seconds: float = 30.0) -> None:
        """Until so many more writes were acknowledged; fails after that time, or if a client failed."""
        goal = self.acknowledged + more
        deadline = time.monotonic() + seconds
        while self.acknowledged < goal:
            for client in self.clients:
                if client.problem is not None:
                    raise client.problem
            assert time.monotonic() < deadline, self.ensemble.explain(
                f"{goal - self.acknowledged} of {more} writes were not acknowledged in {seconds} s"
            )
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the clients; their sessions stay, unattended."""
        for client in self.clients:
            client.stop()
        for client in self.clients:
            client.join()

    def close(self) -> None:
        """End the sessions, lest they expire under another load's eyes. All servers have to serve."""
        for client in self.clients:
            client.close()

    def longest_gap(self) -> float:
        """The longest time in which no write was acknowledged, in seconds."""
        times = sorted(w.acknowledged for c in self.clients for w in c.writes if w.acknowledged is not None)
        return max((b - a for a, b in pairwise(times)), default=0.0)

    def verify(self, *, fresh_syncs: bool = True) -> Tree:
        """Compare all trees with each other, and with what was acknowledged. Call it behind ``stop``.

        ``fresh_syncs``: whether a read behind a sync has to see every write acknowledged before the sync.
        """
        tree = self.ensemble.assert_same_trees()
        wrong = [
            *self._lost(tree),
            *(f"{c.name}: its session expired" for c in self.clients if c.expired),
            *(self.shared.stale if fresh_syncs else ()),
        ]
        for client in self.clients:
            node = tree.get(f"{EPHEMERALS}/{client.name}")
            if node is None or node.stat is None or node.stat.ephemeral_owner != client.session_id:
                wrong.append(f"{client.name}: session 0x{client.session_id:x} has lost its ephemeral: {node}")
        assert not wrong, self.ensemble.explain("\n".join([f"{len(wrong)} things are wrong:", *wrong[:40]]))
        return tree

    def _lost(self, tree: Tree) -> list[str]:
        wrong: list[str] = []
        of_key: dict[str, list[Write]] = defaultdict(list)
        created: dict[str, Write] = {}
        for client in self.clients:
            for write in client.writes:
                if write.path.startswith(KEYS):
                    of_key[write.path].append(write)
                else:
                    created[write.path] = write
        for path, write in created.items():
            node = tree.get(path)
            if node is None:
                if write.acknowledged is not None:
                    wrong.append(f"lost: {write}")
            elif node.stat is not None and (
                node.data != write.value
                or write.failed
                or (write.acknowledged is not None and node.stat.czxid != write.zxid)
            ):
                wrong.append(f"{write} but found is {node}")
        prefixes = tuple(f"{CREATED}/{client.name}/" for client in self.clients)
        wrong += [
            f"{path}: nobody created it" for path in tree if path.startswith(prefixes) and path not in created
        ]
        for path, writes in of_key.items():
            wrong += check_key(path, tree, writes)
        return wrong


def check_key(path: str, tree: Tree, writes: Sequence[Write]) -> list[str]:
    """What is wrong with one key, of which ``writes`` are all setData that were ever sent."""
    node = tree.get(path)
    if node is None or node.stat is None:
        return [f"{path} is gone: {node}"]
    wrong: list[str] = []
    stat = node.stat
    done = sorted((w for w in writes if w.acknowledged is not None), key=lambda w: w.zxid)
    possible = [w for w in writes if not w.failed]
    if not len(done) <= stat.version <= len(possible):
        wrong.append(
            f"{path}: version {stat.version}, but {len(done)} writes were acknowledged of {len(possible)}"
        )
    if stat.version and not any(w.value == node.data for w in possible):
        wrong.append(f"{path}: nobody wrote {node.data!r}")
    if done:
        last = done[-1]
        if stat.mzxid < last.zxid or (stat.mzxid == last.zxid and node.data != last.value):
            wrong.append(f"{path}: lost: {last} but found is {node}")
    for a, b in pairwise(done):
        if not (a.zxid < b.zxid and a.version < b.version):
            wrong.append(f"{path}: of the writes {a} and {b} one was lost")
    # Real-time order: a write that was sent when another one was acknowledged has the higher zxid.
    latest = 0
    by_end: Callable[[Write], float] = lambda w: w.acknowledged or 0.0  # noqa: E731
    ends = sorted(done, key=by_end)
    at = 0
    for write in sorted(done, key=lambda w: w.invoked):
        while at < len(ends) and by_end(ends[at]) < write.invoked:
            latest = max(latest, ends[at].zxid)
            at += 1
        if write.zxid <= latest:
            wrong.append(f"{path}: {write} came later than zxid 0x{latest:x} was acknowledged")
    return wrong
