"""A run by seed: an ensemble under fire, then peace, in which everything has to come to a good end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from fastzk.server.zab.quorum import Membership

from .checker import Violation
from .network import Weather
from .server import Server
from .world import World, membership

#: After this time in peace everybody has to agree.
PATIENCE = 6_000_000


class Failed(Exception):
    """A seed has found something; ``str()`` is the whole story."""


class Simulation:
    """What a seed makes of the world."""

    def __init__(self, seed: int, *, trace: int | None = 250) -> None:
        self.seed = seed
        # What kind of world it is does not depend on what happens there.
        random = self._random = Random(seed * 7919 + 13)
        wild = random.random() < 0.3
        spiky = random.random() < 0.5
        weather = Weather(
            latency=random.choice(((50, 400), (100, 2_000), (500, 8_000))),
            spike=random.choice((0.005, 0.03)) if spiky else 0.0,
            late_notice=random.choice((0.0, 0.0, 0.2, 0.6)),
            lose=random.choice((0.0, 0.01, 0.05)) if wild else 0.0,
            repeat=random.choice((0.0, 0.02, 0.1)) if wild else 0.0,
            reorder=random.choice((0.0, 0.02, 0.2)) if wild else 0.0,
            stale=random.choice((0.0, 0.5)) if wild else 0.0,
        )
        world = self.world = World(seed, real_tree=random.random() < 0.4, weather=weather, trace=trace)
        statistics = world.statistics
        statistics["seeds"] = 1
        statistics["wild seeds"] = int(wild)
        statistics["real tree seeds"] = int(world.real_tree)
        world.fragility = random.choice((0.0, 0.0, 0.0005, 0.002))
        world.fsync = random.choice(((50, 300), (100, 2_000), (200, 12_000)))
        if random.random() < 0.6:
            world.checkpoint_every = random.choice((2, 4, 10))
            world.keep_tail = random.choice((0, 1, 5))
        if random.random() < 0.3:
            world.roll_at = random.choice((4, 8, 20))
        world.slow_opening = random.choice((0, 0, 30_000))
        world.transfer_pages = random.choice((1, 3, 8))
        world.transfer_breaks = random.choice((0.0, 0.0, 0.1, 0.3))
        self._reconfigures = random.random() < 0.4
        self._first, joiners = self._ensemble(random)
        for number in sorted(self._first.members):
            world.add_server(number, self._first)
        for number in joiners:
            # As its operator writes it: the ensemble as it is, and itself without a vote.
            world.add_server(number, membership(self._first.voters, [*self._first.observers, number]))
        skewed = random.random() < 0.4
        for number, server in world.servers.items():
            if skewed:
                server.clock_rate = random.choice((0.8, 0.95, 1.0, 1.05, 1.3))
            server.clock_offset = random.randint(0, 1_000_000)
            if random.random() < 0.15:
                world.slow_disks[number] = 8
        for _ in range(random.randint(2, 4)):
            world.add_client(random.choice((1, 1, 4)))
        faults: list[tuple[Callable[[], None], float]] = [
            (self._crash, 0.7),
            (self._crash_all, 0.15),
            (self._crash_leader, 0.5),
            (self._cut, 0.5),
            (self._cut_one_way, 0.3),
            (self._cut_leader, 0.4),
            (self._reset, 0.4),
            (self._pause, 0.4),
            (self._mend, 1.0),
            (self._restart, 1.0),
        ]
        self._faults = [fault for fault, chance in faults if random.random() < chance]
        if self._reconfigures:
            self._faults += [self._reconfigure] * random.choice((1, 3))
        self._pace = random.choice((20_000, 60_000, 120_000))
        self._length = random.choice((900_000, 1_800_000))
        self._raging = True

    def _ensemble(self, random: Random) -> tuple[Membership, list[int]]:
        size = random.choice((3, 3, 3, 4, 5))
        voters = list(range(1, size + 1))
        observers = [size + 1] if random.random() < 0.25 else []
        joiners = [size + 2] if self._reconfigures and random.random() < 0.6 else []
        groups: dict[int, int] | None = None
        weights: dict[int, int] | None = None
        if size >= 4 and random.random() < 0.3:
            self.world.statistics["hierarchical seeds"] = 1
            groups = {each: 1 + each % 2 if size == 4 else 1 + each % 3 for each in voters}
            weights = {each: random.choice((1, 1, 2)) for each in voters}
        return membership(voters, observers, groups, weights), joiners

    # -- the run --------------------------------------------------------------------------------------------------

    def run(self) -> Counter[str]:
        """From the first boot to the good end. Raises Failed."""
        world = self.world
        try:
            for server in world.servers.values():
                world.scheduler.after(world.random.randint(0, 10_000), server.boot)
            for client in world.clients:
                client.begin()
            world.scheduler.after(100_000, self._rage)
            world.scheduler.run(self._length)
            self._raging = False
            self._peace()
            world.statistics["events"] = world.scheduler.events
            world.statistics["epochs"] = len(world.checker.leaders)
            world.statistics["batches"] = len(world.checker.committed)
        except Exception as error:
            kind = type(error).__name__
            raise Failed(
                f"seed {self.seed}: {kind}: {error}\n{world.trace.text()}\nseed {self.seed}: {kind}: {error}\n"
                f"replay: python -m tests.simulation --seed {self.seed} --trace"
            ) from error
        return world.statistics

    def _peace(self) -> None:
        """Faults are over: there is a leader, everybody is in sync, all trees are equal, and a write succeeds."""
        world = self.world
        world.quiet = True
        world.fragility = 0.0
        world.transfer_breaks = 0.0
        world.slow_disks.clear()
        world.network.weather = Weather()
        world.network.unblock()
        world.trace.add(world.scheduler.now, "", "PEACE")
        for server in world.servers.values():
            if not server.up:
                server.boot()
        deadline = world.scheduler.now + PATIENCE
        began = world.scheduler.now
        self._last = world.add_client()
        # Stragglers of the storm may still disturb; what counts is that it gets quiet, and stays so for a write.
        if not world.scheduler.run(deadline, world.settled):
            raise Violation("the servers do not get together: " + self._positions())
        if not world.scheduler.run(deadline, self._writes):
            raise Violation("no write succeeds in peace: " + self._positions())
        if not world.scheduler.run(deadline, world.settled):
            raise Violation("the servers do not stay together: " + self._positions())
        world.statistics["longest peace"] = (world.scheduler.now - began) // 1000
        digests = {server.machine.digest() for server in world.servers.values()}
        assert len(digests) == 1
        latest = world.checker.acknowledged
        assert all(server.machine.zxid >= latest for server in world.servers.values()), "an acknowledged write is gone"

    def _writes(self) -> bool:
        """Have a write done at some server; whether it was acknowledged."""
        world = self.world
        client = self._last
        if client.server is None:
            up = [each for each in world.servers.values() if each.accepts(client.seen)]
            if up and client.connect(world.random.choice(up)):
                client.write(b"/k0")
        return bool(client.answers)

    def _positions(self) -> str:
        return "; ".join(
            f"{each.number} {type(each.core.role).__name__} promised {each.core.promised} "
            f"applied {each.machine.zxid:#x} log to {each.core.history.last_zxid:#x} leader {each.core.leader}"
            for each in self.world.servers.values()
            if each.up
        )

    # -- faults ---------------------------------------------------------------------------------------------------

    def _rage(self) -> None:
        if self._raging:
            if self._faults:
                self._random.choice(self._faults)()
            self.world.scheduler.after(self._random.randint(1_000, self._pace), self._rage)

    def _any(self, up: bool = True) -> Server | None:
        found = [each for each in self.world.servers.values() if each.up is up]
        return self._random.choice(found) if found else None

    def _say(self, what: str, *args: object) -> None:
        self.world.trace.add(self.world.scheduler.now, "", what, *args)
        self.world.statistics[what] += 1

    def _down(self, server: Server) -> None:
        server.crash()
        if self._random.random() < 0.7:
            self.world.scheduler.after(self._random.choice((1_000, 30_000, 200_000)), self._up, server)

    def _up(self, server: Server) -> None:
        if not server.up:
            server.boot()

    def _crash(self) -> None:
        server = self._any()
        if server is not None:
            self._down(server)

    def _crash_leader(self) -> None:
        leaders = [each for each in self.world.servers.values() if each.up and each.core.leading is not None]
        if leaders:
            self._down(self._random.choice(leaders))

    def _crash_all(self) -> None:
        self._say("CRASH ALL")
        for server in self.world.servers.values():
            if server.up:
                self._down(server)

    def _restart(self) -> None:
        for server in self.world.servers.values():
            self._up(server)

    def _cut(self) -> None:
        """Two sides."""
        numbers = sorted(self.world.servers)
        side = set(self._random.sample(numbers, self._random.randint(1, len(numbers) - 1)))
        self._say("CUT OFF", sorted(side))
        for one in numbers:
            for other in numbers:
                if (one in side) != (other in side):
                    self.world.network.block(one, other)

    def _cut_leader(self) -> None:
        leader = self.world.leader()
        if leader is not None:
            self._say("CUT LEADER", leader.number)
            for other in self.world.servers:
                if other != leader.number:
                    self.world.network.block(leader.number, other)
                    self.world.network.block(other, leader.number)

    def _cut_one_way(self) -> None:
        one, other = self._random.sample(sorted(self.world.servers), 2)
        self._say("CUT ONE WAY", one, other)
        self.world.network.block(one, other)

    def _reset(self) -> None:
        one, other = self._random.sample(sorted(self.world.servers), 2)
        self._say("RESET", one, other)
        self.world.network.reset(one, other)

    def _pause(self) -> None:
        server = self._any()
        if server is not None:
            leader = self.world.leader()
            if leader is not None and self._random.random() < 0.5:
                server = leader
            self.world.statistics["pauses"] += 1
            server.pause(self._random.choice((50_000, 200_000, 500_000)))

    def _mend(self) -> None:
        self._say("MEND")
        self.world.network.unblock()

    def _reconfigure(self) -> None:
        """Add, remove or promote a server, often the leader."""
        world, random = self.world, self._random
        leader = world.leader()
        if leader is None:
            return
        now = leader.core.membership
        voters, observers = set(now.voters), set(now.observers)
        choice = random.choice([*sorted(world.servers), leader.number])
        if choice in voters and len(voters) > 2:
            voters.discard(choice)
            if random.random() < 0.5:
                observers.add(choice)
        elif choice not in voters:
            observers.discard(choice)
            voters.add(choice)
        if random.random() < 0.3:
            other = random.choice(sorted(world.servers))
            if other in voters and len(voters) > 2:
                voters.discard(other)
            else:
                voters.add(other)
                observers.discard(other)
        groups = weights = None
        if len(voters) > 3 and random.random() < 0.2:
            groups = {each: 1 + each % 3 for each in voters}
            weights = dict.fromkeys(voters, 1)
        self._say("RECONFIGURE", sorted(voters), sorted(observers))
        leader.happen(leader.reconfigure, membership(voters, observers, groups, weights))
