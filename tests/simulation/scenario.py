"""Scenarios: texts that a person can read, one situation a file, replayed step by step on whole servers.

Each line is a command below (its pattern stands in its decorator); ``#`` begins a comment. Nothing goes wrong by
itself here: times are fixed, and only the servers named by ``elect`` or ``stands`` become candidates. At the end the
network is mended and all servers run again; then they have to agree, as in every other run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fastzk.server.zab.core import Core

from .clients import Client
from .network import Weather
from .server import Server
from .trace import zxid_text
from .transactions import changes
from .world import World, membership

LIMIT: Final = 4_000_000
COMMANDS: list[tuple[re.Pattern[str], Callable[..., None]]] = []


class ScenarioError(AssertionError):
    """A line did not come out as it says, or cannot be read."""


def command(pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A method that carries out the lines of this form: N is a server, L are several, W is a word."""
    for name, form in (("N", r"(\d+)"), ("L", r"([\d ]+)"), ("W", r"(\S+)"), ("Z", r"(\d+:\d+)")):
        pattern = re.sub(rf"\b{name}\b", lambda _, form=form: form, pattern)  # type: ignore[misc]

    def register(method: Callable[..., None]) -> Callable[..., None]:
        COMMANDS.append((re.compile(pattern), method))
        return method

    return register


def numbers(text: str | None) -> list[int]:
    return [int(each) for each in (text or "").split()]


class Scenario:
    """One file, played."""

    def __init__(self, path: Path, *, real_tree: bool = True) -> None:
        self.path = path
        self.world = World(
            1, real_tree=real_tree, weather=Weather(latency=(500, 500), notice=(1_000, 1_000), reconnect=(5_000, 5_000))
        )
        self.world.fsync = (300, 300)
        self.clients: dict[str, Client] = {}
        #: Who may stand for election.
        self.standing: set[int] = set()
        standing = self.standing

        class ObedientCore(Core):
            """It votes, but is a candidate only if it is told to."""

            @property
            def electable(self) -> bool:
                return self.id in standing and super().electable

        self.world.core_type = ObedientCore

    def play(self) -> None:
        """All of it. Raises ScenarioError, with the trace; or whatever a server or the checker found."""
        where = ""
        try:
            for number, line in enumerate(self.path.read_text().splitlines(), 1):
                text = line.partition("#")[0].strip()
                where = f"{self.path.name}:{number}: {text}"
                if text:
                    self.world.trace.add(self.world.scheduler.now, "", f">>> {text}")
                    self._do(text)
            where = f"{self.path.name}: the peace at the end"
            self._end()
        except Exception as error:
            raise ScenarioError(f"{self.world.trace.text()}\n{where}\n{type(error).__name__}: {error}") from error

    def _do(self, text: str) -> None:
        for pattern, method in COMMANDS:
            found = pattern.fullmatch(text)
            if found:
                method(self, *found.groups())
                return
        raise ScenarioError("this is no command")

    def _end(self) -> None:
        world = self.world
        world.network.unblock()
        world.network.filters.clear()
        world.network.kept.clear()
        world.keep_unsynced = None
        for number in sorted(world.stopped_disks):
            self.disk_goes_on(str(number))
        for server in world.servers.values():
            server.fuse = None
            if server.frozen:
                server.wake()
            if not server.up:
                server.boot()
        self.expect_settled()

    def _until(self, what: Callable[[], bool], why: str) -> None:
        # `what` is looked at behind every eighth event only.
        if not what() and not self.world.scheduler.run(self.world.scheduler.now + LIMIT, what):
            raise ScenarioError(f"it does not come to pass: {why}")

    def _server(self, number: str) -> Server:
        return self.world.servers[int(number)]

    def _settled(self, only: list[int]) -> bool:
        servers = [self.world.servers[each] for each in only]
        leaders = [each for each in servers if each.leads]
        if len(leaders) != 1:
            return False
        last = leaders[0].core.history.last_zxid
        return all(
            each.serves and each.machine.zxid == last and each.core.leader == leaders[0].number for each in servers
        )

    def _running(self) -> list[int]:
        return [each.number for each in self.world.servers.values() if each.up and not each.frozen]

    # -- the ensemble ---------------------------------------------------------------------------------------------

    @command(r"servers L(?:observers L)?(?:groups (.*))?")
    def servers(self, voters: str, observers: str | None, groups: str | None) -> None:
        of: dict[int, int] | None = None
        if groups:
            of = {each: at for at, group in enumerate(groups.split("|"), 1) for each in numbers(group)}
        self.first = membership(numbers(voters), numbers(observers), of)
        for number in sorted(self.first.members):
            self.world.add_server(number, self.first)
        self.standing.clear()

    @command(r"outsider N")
    def outsider(self, number: str) -> None:
        """A server that is not in the membership, and knows who is."""
        self.world.add_server(int(number), membership(self.first.voters, [*self.first.observers, int(number)]))
        self._server(number).boot()

    @command(r"boot(?: L)?")
    def boot(self, which: str | None) -> None:
        for number in numbers(which) or sorted(self.world.servers):
            self.world.servers[number].boot()
        self.world.scheduler.run(self.world.scheduler.now + 8_000)

    @command(r"elect N(?: with L)?")
    def elect(self, number: str, others: str | None) -> None:
        """Have a server elected, and all that run (or these) in sync."""
        self.stands(number)
        only = [int(number), *numbers(others)] if others else self._running()
        self._until(lambda: self._server(number).leads and self._settled(only), f"{number} leads {only}")
        self.standing.clear()

    @command(r"stands N")
    def stands(self, number: str) -> None:
        """From now on this server may stand for election."""
        self.standing.add(int(number))

    @command(r"run N ms")
    def run(self, time: str) -> None:
        self.world.scheduler.run(self.world.scheduler.now + int(time) * 1000)

    @command(r"(?:reconfigure) N voters L(?:observers L)?( untested)?")
    def reconfigure(self, number: str, voters: str, observers: str | None, untested: str | None) -> None:
        leader = self._server(number)
        asked = membership(numbers(voters), numbers(observers))
        if untested:
            leader._reconfiguration = asked
            leader.happen(lambda: None)
        else:
            leader.happen(leader.reconfigure, asked)

    @command(r"roll N")
    def roll(self, number: str) -> None:
        leading = self._server(number).core.leading
        assert leading is not None
        self._server(number).happen(leading.roll)

    @command(r"counter limit N")
    def counter_limit(self, limit: str) -> None:
        self.world.roll_at = int(limit)

    # -- faults ---------------------------------------------------------------------------------------------------

    @command(r"crash L(?:(keeping|losing) what was not durable)?")
    def crash(self, which: str, tail: str | None) -> None:
        self.world.keep_unsynced = tail == "keeping"
        for number in numbers(which):
            self.world.servers[number].crash()
        self.world.keep_unsynced = None

    @command(r"restart L")
    def restart(self, which: str) -> None:
        for number in numbers(which):
            self.world.servers[number].boot()

    @command(r"crash N (before|behind) its next W")
    def fuse(self, number: str, when: str, action: str) -> None:
        self._server(number).fuse = (when, action)

    @command(r"wait until N has crashed")
    def wait_crash(self, number: str) -> None:
        self._until(lambda: not self._server(number).up, "it crashes")
        self._server(number).fuse = None

    @command(r"freeze N")
    def freeze(self, number: str) -> None:
        self._server(number).frozen = True

    @command(r"wake N")
    def wake(self, number: str) -> None:
        self._server(number).wake()

    @command(r"disk N stops")
    def disk_stops(self, number: str) -> None:
        """An fdatasync that begins from now on does not return."""
        self.world.stopped_disks.add(int(number))

    @command(r"disk N goes on")
    def disk_goes_on(self, number: str) -> None:
        self.world.stopped_disks.discard(int(number))
        self._server(number).disk.release()

    @command(r"one fdatasync of N returns")
    def returns(self, number: str) -> None:
        self._server(number).disk.release(1)
        self.run("5")

    @command(r"expect N durable to Z")
    def expect_durable(self, number: str, zxid: str) -> None:
        """As far as the broadcast knows."""
        if zxid_text(self._server(number).core.durable) != zxid:
            raise ScenarioError(f"it is {zxid_text(self._server(number).core.durable)}")

    @command(r"cut L\| L")
    def cut(self, one: str, other: str) -> None:
        for a in numbers(one):
            for b in numbers(other):
                self.world.network.block(a, b)
                self.world.network.block(b, a)

    @command(r"cut N -> N")
    def cut_one_way(self, one: str, other: str) -> None:
        self.world.network.block(int(one), int(other))

    @command(r"mend")
    def mend(self) -> None:
        self.world.network.unblock()

    @command(r"reset N N")
    def reset(self, one: str, other: str) -> None:
        self.world.network.reset(int(one), int(other))

    @command(r"keep W from N to N")
    def keep(self, kinds: str, sender: str, receiver: str) -> None:
        """Messages of these kinds (commas between, * is any) do not leave before ``deliver``."""
        self.world.network.filters[int(sender), int(receiver)] = set(kinds.split(","))

    @command(r"copy W from N to N")
    def copy(self, kinds: str, sender: str, receiver: str) -> None:
        """Messages of these kinds pass, and a copy of each is kept for ``deliver``."""
        self.world.network.copies[int(sender), int(receiver)] = set(kinds.split(","))

    @command(r"pass from N to N")
    def let_pass(self, sender: str, receiver: str) -> None:
        """Keep nothing back any more; what was kept stays so."""
        self.world.network.filters.pop((int(sender), int(receiver)), None)
        self.world.network.copies.pop((int(sender), int(receiver)), None)

    @command(r"deliver (the first )?W from N to N( again)?")
    def deliver(self, first: str | None, kind: str, sender: str, receiver: str, again: str | None) -> None:
        """Send what was kept (`again`: as often as asked for), even if the connection is another one meanwhile."""
        network = self.world.network
        if not network.release(int(sender), int(receiver), kind, first=bool(first), again=bool(again)):
            raise ScenarioError("there is nothing to deliver")
        self.world.scheduler.run(self.world.scheduler.now + 5_000)

    @command(r"forget what was kept")
    def forget(self) -> None:
        self.world.network.kept.clear()

    @command(r"checkpoint N(?: keeping N)?")
    def checkpoint(self, number: str, tail: str | None) -> None:
        """Write one, and purge the log behind it (but for so many batches)."""
        self._server(number).take_checkpoint(0, int(tail or 0))
        self.world.scheduler.run(self.world.scheduler.now + 1_000)

    @command(r"full states have N pages")
    def pages(self, pages: str) -> None:
        self.world.fixed_pages = int(pages)

    # -- clients --------------------------------------------------------------------------------------------------

    @command(r"client W at N")
    def client(self, name: str, number: str) -> None:
        client = self.clients.get(name) or self.world.add_client()
        self.clients[name] = client
        if not client.connect(self._server(number)):
            raise ScenarioError("the server refuses it")

    @command(r"refused: client W at N")
    def refused(self, name: str, number: str) -> None:
        client = self.clients.get(name) or self.world.add_client()
        if client.connect(self._server(number)):
            raise ScenarioError("the server takes it")

    @command(r"W writes W = W")
    def writes(self, name: str, path: str, value: str) -> None:
        """Ask for it; the answer comes when it comes."""
        self.clients[name].ask("write", b"/" + path.encode(), value.encode())

    @command(r"W has written W = W")
    def has_written(self, name: str, path: str, value: str) -> None:
        """Ask for it, and wait for the answer."""
        client = self.clients[name]
        before = len(client.answers)
        client.ask("write", b"/" + path.encode(), value.encode())
        self._until(lambda: len(client.answers) > before, "the write is answered")

    @command(r"W syncs")
    def syncs(self, name: str) -> None:
        self.clients[name].ask("sync")

    @command(r"W reads W")
    def reads(self, name: str, path: str) -> None:
        self.clients[name].ask("read", b"/" + path.encode())

    @command(r"expect W got (.*)")
    def expect_answers(self, name: str, what: str) -> None:
        """All answers since the last time, in order, commas between; or ``nothing``."""
        self.run("20")
        client = self.clients[name]
        found = ", ".join(each.replace("/", "") for each in client.answers) or "nothing"
        client.answers.clear()
        if found != what:
            raise ScenarioError(f"it got: {found}")

    @command(r"expect W lost its server")
    def expect_lost(self, name: str) -> None:
        if self.clients[name].server is not None:
            raise ScenarioError(f"it has server {self.clients[name].server.number}")  # type: ignore[union-attr]

    # -- what is -------------------------------------------------------------------------------------------------

    @command(r"expect N (looks|follows|leads)(?: epoch N)?")
    def expect_role(self, number: str, role: str, epoch: str | None) -> None:
        core = self._server(number).core
        found = {"Looking": "looks", "Following": "follows", "Leading": "leads"}[type(core.role).__name__]
        now = core.leading or core.following
        if found != role or (epoch is not None and (now is None or now.epoch != int(epoch))):
            raise ScenarioError(f"it {found}, epoch {now.epoch if now else None}")

    @command(r"wait until N (looks|follows|leads)(?: epoch N)?")
    def wait_role(self, number: str, role: str, epoch: str | None) -> None:
        def reached() -> bool:
            try:
                self.expect_role(number, role, epoch)
            except ScenarioError:
                return False
            return True

        self._until(reached, f"{number} {role}")

    @command(r"expect N promised epoch N")
    def expect_promised(self, number: str, epoch: str) -> None:
        if self._server(number).core.promised != int(epoch):
            raise ScenarioError(f"it has promised {self._server(number).core.promised}")

    @command(r"expect N has W = W")
    def expect_value(self, number: str, path: str, value: str) -> None:
        """What a read there would show; `none`: no such znode."""
        found = self._server(number).machine.read(b"/" + path.encode())
        if (found.decode() if found is not None else "none") != value:
            raise ScenarioError(f"it has {found!r}")

    @command(r"expect N log ends at Z")
    def expect_log(self, number: str, zxid: str) -> None:
        if zxid_text(self._server(number).disk.last_zxid) != zxid:
            raise ScenarioError(f"it ends at {zxid_text(self._server(number).disk.last_zxid)}")

    @command(r"wait until N log ends at Z")
    def wait_log(self, number: str, zxid: str) -> None:
        self._until(lambda: zxid_text(self._server(number).disk.last_zxid) == zxid, f"the log ends at {zxid}")

    @command(r"expect N commit is Z")
    def expect_commit(self, number: str, zxid: str) -> None:
        if zxid_text(self._server(number).core.commit) != zxid:
            raise ScenarioError(f"it is {zxid_text(self._server(number).core.commit)}")

    @command(r"expect (never )?committed W = W")
    def expect_committed(self, never: str | None, path: str, value: str) -> None:
        found = any(
            (each.path, each.value) == (b"/" + path.encode(), value.encode())
            for batch in self.world.checker.committed
            for each in changes(batch.payload)
        )
        if found == bool(never):
            raise ScenarioError("it was committed" if found else "it was not committed")

    @command(r"expect N voters are L")
    def expect_voters(self, number: str, voters: str) -> None:
        found = sorted(self._server(number).core.voters)
        if found != numbers(voters):
            raise ScenarioError(f"they are {found}")

    @command(r"expect (truncations|full states|full states begun|rolls|leaders) N")
    def expect_count(self, what: str, count: str) -> None:
        if self.world.statistics[what] != int(count):
            raise ScenarioError(f"{self.world.statistics[what]}")

    @command(r"expect settled")
    def expect_settled(self) -> None:
        """Everything that runs is in sync with one leader, and all trees are equal."""
        if not any(self.world.servers[each].core.leading for each in self._running()):
            self.standing.update(self.world.servers)
        running = self._running()
        self._until(lambda: self._settled(running), "all agree")
        digests = {self.world.servers[each].machine.digest() for each in running}
        if len(digests) != 1:
            raise ScenarioError("the trees differ")
        self.standing.clear()


def play(path: Path, **options: Any) -> Scenario:
    """Play a file. Raises ScenarioError."""
    scenario = Scenario(path, **options)
    scenario.play()
    return scenario
