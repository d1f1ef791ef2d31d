"""Ensembles of real server processes on loopback: ours or, to check the tests themselves, Debian's Apache ZooKeeper.

    with Ensemble("fastzk", tmp_path, 3) as ensemble:
        leader = ensemble.leader()
        ensemble.kill9(leader)
        ...
        ensemble.assert_same_trees()

Servers are called by their ids, from 1; observers have the highest ones. Every error text ends with the last lines of
every server's log, and all servers are stopped at the end, whatever happens.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from support import wire
from support.links import Links
from support.servers import FastzkServer, Server, ServerFailed, ZooKeeperServer, free_port, require

#: Short ticks, so that limits are reached in seconds; sessions may still last long.
DEFAULTS: dict[str, str | None] = {
    "tickTime": "500",
    "initLimit": "20",
    "syncLimit": "4",
    "maxSessionTimeout": "60000",
}
#: Seconds of silence after which servers give each other up, with the settings above.
SYNC_LIMIT = 2.0

#: What servers may have each in their own way: the times in its stat are those of each server's start.
LOCAL = "/zookeeper/config"

SERVING = frozenset({"leader", "follower", "observer"})


class ZooKeeperMember(ZooKeeperServer):
    """An Apache ZooKeeper as a member: another main class, and no more memory than five of them may have."""

    def command(self) -> list[str]:
        command = super().command()
        command[-2] = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        return [command[0], "-Xmx256m", "-XX:+UseSerialGC", *command[1:]]

    def log_text(self) -> str:
        # without what the logging says of itself
        lines = super().log_text().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(("SLF4J", "log4j")))


class FastzkMember(FastzkServer):
    """One of our servers as a member."""


MEMBERS: dict[str, type[Server]] = {"fastzk": FastzkMember, "zookeeper": ZooKeeperMember}


class Znode(NamedTuple):
    """All that a client can see of a znode. Without permission, ``error`` is what it was told instead."""

    data: bytes | None
    stat: wire.Stat | None
    acl: tuple[wire.Acl, ...]
    error: int = 0


Tree = dict[str, Znode]


class Ensemble:
    """``participants`` voting servers and ``observers`` more.

    ``kind``: a key of ``MEMBERS``. ``config``: zoo.cfg keys of all servers, a value of None leaves out a default.
    ``own_config``: of one server, by its id. ``proxied``: servers reach one another through ``links``.
    """

    def __init__(
        self,
        kind: str,
        directory: Path,
        participants: int = 3,
        *,
        observers: int = 0,
        config: Mapping[str, str | None] | None = None,
        own_config: Mapping[int, Mapping[str, str | None]] | None = None,
        proxied: bool = False,
    ) -> None:
        if kind == "zookeeper":
            missing = ZooKeeperServer.missing()
            require(missing is None, f"Apache ZooKeeper: {missing}")
        self.kind = kind
        self.directory = directory
        self.links = Links() if proxied else None
        self.voters = list(range(1, participants + 1))
        self.observers = list(range(participants + 1, participants + observers + 1))
        self.ids = [*self.voters, *self.observers]
        self.quorum = participants // 2 + 1
        self.paused: set[int] = set()
        #: (quorum port, election port) on which each one listens.
        self.peer_ports = {i: (free_port(), free_port()) for i in self.ids}
        self.members: dict[int, Server] = {}
        self._config = dict(config or {})
        for i in self.ids:
            self._make(i, (own_config or {}).get(i, {}))

    def _make(self, me: int, own: Mapping[str, str | None]) -> Server:
        settings: dict[str, str | None] = {**DEFAULTS, **self._config, **own}
        if me in self.observers and self.kind == "zookeeper":
            settings["peerType"] = "observer"
        settings.update(self.server_lines(me))
        server = MEMBERS[self.kind](self.directory / f"server-{me}", None, settings)
        self.members[me] = server
        server.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (server.data_dir / "myid").write_text(f"{me}\n")
        return server

    def server_lines(self, me: int) -> dict[str, str]:
        """The ``server.N`` lines as server ``me`` has them: through the proxy, all but its own differ."""
        lines = {}
        for i in self.ids:
            quorum, election = self.peer_ports[i]
            if self.links is not None and i != me:
                behind = quorum, election
                quorum, election = free_port(), free_port()
                for port, target in zip((quorum, election), behind, strict=True):
                    self.links.add(me, i, port, target)
            role = ":observer" if i in self.observers else ""
            lines[f"server.{i}"] = f"127.0.0.1:{quorum}:{election}{role}"
        return lines

    def __getitem__(self, member: int) -> Server:
        return self.members[member]

    def __enter__(self) -> Ensemble:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    # ---- life

    def launch(self, *members: int) -> None:
        """Start those processes (all that do not run, if none is named) and return at once."""
        for i in members or self.ids:
            if not self.members[i].running:
                self.members[i].launch()

    def start(self, timeout: float = 30.0) -> Ensemble:
        """Start all and wait until every one serves. Raises ServerFailed."""
        self.launch()
        self.wait_serving(timeout=timeout)
        return self

    def kill9(self, *members: int) -> None:
        """SIGKILL to all of them before waiting for any."""
        for i in members:
            process = self.members[i].process
            assert process is not None
            process.kill()
        for i in members:
            self.members[i].kill9()
            self.paused.discard(i)

    def pause(self, member: int) -> None:
        """SIGSTOP, and wait until it has stopped indeed."""
        pid = self.members[member].pid
        self.paused.add(member)
        os.kill(pid, signal.SIGSTOP)
        wire.poll(lambda: _state(pid) == "T", f"server {member} stops", 5, 0.002)

    def resume(self, member: int) -> None:
        """SIGCONT."""
        os.kill(self.members[member].pid, signal.SIGCONT)
        self.paused.discard(member)

    def terminate(self, member: int) -> float:
        """SIGTERM, and wait; returns the seconds it took. Fails for another exit code than that of a clean end."""
        code, seconds = self.members[member].terminate()
        wanted = 0 if self.kind == "fastzk" else 143
        assert code == wanted, self.explain(f"server {member} ended with exit code {code}")
        return seconds

    def wipe(self, member: int) -> None:
        """Remove all data of a server that does not run, but its ``myid``."""
        server = self.members[member]
        assert not server.running
        shutil.rmtree(server.data_dir)
        server.data_dir.mkdir(mode=0o700)
        (server.data_dir / "myid").write_text(f"{member}\n")

    def discard(self) -> None:
        """End everything that still runs; for clean-up, so it never raises."""
        for server in self.members.values():
            if server.process is not None and server.running:
                with contextlib.suppress(OSError):
                    server.process.kill()
        for server in self.members.values():
            server.discard()
        self.paused.clear()
        if self.links is not None:
            self.links.close()

    # ---- looking at it

    @property
    def awake(self) -> list[int]:
        """Those that run and are not paused."""
        return [i for i in self.ids if self.members[i].running and i not in self.paused]

    @property
    def ports(self) -> list[int]:
        """The client ports, in the order of the ids."""
        return [self.members[i].port for i in self.ids]

    def word(self, member: int, word: str, timeout: float = 2.0) -> str:
        """The answer to a four-letter word; empty if there is none in time."""
        try:
            with socket.create_connection(("127.0.0.1", self.members[member].port), timeout=timeout) as sock:
                sock.sendall(word.encode())
                chunks = []
                while chunk := sock.recv(65536):
                    chunks.append(chunk)
        except OSError:
            return ""
        return b"".join(chunks).decode(errors="replace")

    def mode(self, member: int) -> str | None:
        """``leader``, ``follower``, ``observer``, ``read-only``, or None if it does not serve."""
        for line in self.word(member, "srvr").splitlines():
            if line.startswith("Mode: "):
                return line.removeprefix("Mode: ").strip()
        return None

    def modes(self, members: Iterable[int] | None = None) -> dict[int, str | None]:
        return {i: self.mode(i) for i in (self.awake if members is None else members)}

    def wait_serving(self, *members: int, timeout: float = 30.0) -> None:
        """Wait until those (all, if none is named) serve sessions that can write. Raises ServerFailed."""
        deadline = time.monotonic() + timeout
        for i in members or self.ids:
            server = self.members[i]
            while True:
                if not server.running:
                    code = server.process.poll() if server.process else None
                    raise ServerFailed(self.explain(f"server {i} ended with exit code {code}"))
                mode = self.mode(i)
                if mode in SERVING:
                    with contextlib.suppress(wire.WireError, OSError), self.session(i, timeout=2.0):
                        break
                if time.monotonic() > deadline:
                    raise ServerFailed(self.explain(f"server {i} does not serve after {timeout} s: {mode}"))
                time.sleep(0.02)

    def leader(self, timeout: float = 20.0, *, other_than: int | None = None) -> int:
        """The id of the one that leads. With ``other_than`` wait until it is another one. Raises ServerFailed.

        Two may call themselves leaders for a moment, one of them deposed: then it is waited until one does.
        """
        deadline = time.monotonic() + timeout
        while True:
            modes = self.modes()
            leaders = [i for i, mode in modes.items() if mode == "leader"]
            if len(leaders) == 1 and leaders[0] != other_than:
                return leaders[0]
            if time.monotonic() > deadline:
                raise ServerFailed(self.explain(f"no leader after {timeout} s: {modes}"))
            time.sleep(0.02)

    def followers(self) -> list[int]:
        """Those that follow now, observers not among them."""
        return [i for i, mode in self.modes(self.voters).items() if mode == "follower"]

    def session(
        self,
        member: int,
        *,
        timeout_ms: int = 30_000,
        session_id: int = 0,
        password: bytes = wire.NO_PASSWORD,
        last_zxid: int = 0,
        timeout: float = 20.0,
        read_only: bool = False,
    ) -> wire.Session:
        """A session on that server; see :meth:`Server.session`. ``read_only``: a server without a leader will do."""
        return wire.Session(
            self.members[member].port,
            timeout_ms=timeout_ms,
            session_id=session_id,
            password=password,
            last_zxid=last_zxid,
            timeout=timeout,
            context=self.logs,
            read_only=read_only,
        )

    def attach(self, session: wire.Session, member: int, *, timeout: float = 20.0) -> wire.Session:
        """The same session on that server, as a client does that lost its connection. One try."""
        return self.session(
            member,
            session_id=session.session_id,
            password=session.password,
            last_zxid=session.last_zxid,
            timeout_ms=session.timeout_ms,
            timeout=timeout,
        )

    def attach_soon(self, session: wire.Session, member: int, seconds: float = 20.0) -> wire.Session:
        """As :meth:`attach`, again and again while the server is not there or not yet as far as the client."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.attach(session, member, timeout=2.0)
            except wire.Refused:
                raise
            except (wire.WireError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def logs(self, lines: int = 15) -> str:
        return "\n".join(self.members[i].log_tail(lines) for i in self.ids)

    def explain(self, what: str) -> str:
        return f"{what}\n{self.logs()}"

    # ---- links

    def _proxy(self) -> Links:
        assert self.links is not None, "made without proxied=True"
        return self.links

    def cut(self, a: int, b: int) -> None:
        """Silence the link of two servers, both ways."""
        self._proxy().cut(a, b)

    def cut_one_way(self, source: int, target: int) -> None:
        """``target`` hears nothing more from ``source``, which still hears ``target``."""
        self._proxy().silence([(source, target)])

    def isolate(self, member: int) -> None:
        """Silence all links of a server."""
        for other in self.ids:
            if other != member:
                self._proxy().cut(member, other)

    def heal(self) -> None:
        """All links work again."""
        self._proxy().heal()

    # ---- trees

    def tree(self, member: int, root: str = "/") -> Tree:
        """Every znode at and below ``root``, as that server shows them."""
        with self.session(member) as session:
            return dump(session, root)

    def trees(self, members: Iterable[int] | None = None) -> dict[int, Tree]:
        return {i: self.tree(i) for i in (self.awake if members is None else members)}

    def digests(self, members: Iterable[int] | None = None) -> dict[int, str]:
        """The answers to the word ``hash``."""
        return {i: self.word(i, "hash") for i in (self.awake if members is None else members)}

    def assert_same_trees(self, timeout: float = 20.0) -> Tree:
        """Wait until all running servers show the same tree, which is returned; nothing may be writing.

        Raises ServerFailed with the differences if they still differ after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        for attempt in itertools.count(1):
            ids = self.awake
            trees = self.trees(ids)
            wrong = [f"{i} and {ids[0]}: {each}" for i in ids[1:] for each in differences(trees[ids[0]], trees[i])]
            digests = self.digests(ids)
            if not wrong and agree(digests.values()):
                return trees[ids[0]]
            # What the first look saw may have been under way, and a look may take longer than there is time.
            if time.monotonic() > deadline and attempt > 2:
                head = "\n".join([*wrong[:30], f"digests: {digests}"])
                raise ServerFailed(self.explain(f"trees differ after {timeout} s:\n{head}"))
            time.sleep(0.1)
        raise AssertionError("counts for ever")


def _state(pid: int) -> str:
    """The state of a process: a letter, as in /proc."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def agree(digests: Iterable[str]) -> bool:
    """Whether answers to ``hash``, lines ``zxid: digest``, say the same of each zxid that several of them name."""
    known: dict[str, str] = {}
    lines = [line.split(": ") for answer in digests for line in answer.splitlines() if ": " in line]
    return all(known.setdefault(zxid, digest) == digest for zxid, digest in lines)


def dump(session: wire.Session, root: str = "/") -> Tree:
    """Every znode at and below ``root``, read with many requests in flight."""
    found: Tree = {}
    waiting = [root]
    while waiting:
        paths, waiting = waiting[:500], waiting[500:]
        session.send(
            *(r for path in paths for r in (wire.get_data(path), wire.get_acl(path), wire.get_children(path)))
        )
        for path in paths:
            data, acl, children = (session.reply() for _ in range(3))
            if wire.NO_NODE in {data.err, acl.err, children.err}:
                continue  # gone since it was listed, a session's ephemeral perhaps
            if data.err or acl.err or children.err:
                found[path] = Znode(None, None, (), data.err or acl.err or children.err)
                continue
            reader = wire.Reader(data.body)
            content = reader.buffer()
            found[path] = Znode(content, reader.stat(), tuple(wire.Reader(acl.body).acls()))
            below = path if path.endswith("/") else f"{path}/"
            waiting += [below + name for name in wire.Reader(children.body).strings()]
    return found


def differences(one: Tree, two: Tree) -> Iterator[str]:
    """What the second tree has otherwise than the first."""
    for path in sorted(one.keys() | two.keys()):
        if path != LOCAL and one.get(path) != two.get(path):
            yield f"{path}: {two.get(path)} instead of {one.get(path)}"


def eventually(
    condition: Callable[[], bool], what: str, ensemble: Ensemble, seconds: float = 20.0, every: float = 0.02
) -> None:
    """Wait until ``condition()`` is true; fails with ``what`` and the logs after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, ensemble.explain(f"after {seconds} s still not so: {what}")
        time.sleep(every)
