"""One ensemble, its network and its clients. A seed decides everything; nothing else does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random

from fastzk.server.zab.core import Core
from fastzk.server.zab.quorum import Member, Membership
from fastzk.server.zab.role import Timing

from .checker import Checker
from .clients import Client
from .network import Network, Weather
from .scheduler import Scheduler
from .server import Server
from .trace import Trace

TIMING = Timing(heartbeat=40, sync_limit=160, init_limit=320, retry=50, jitter=10)


def member(number: int, observer: bool = False) -> Member:
    """Server `number`, at an address that nobody ever dials."""
    return Member(number, f"s{number}", 2888, 3888, observer, "")


def membership(
    voters: Iterable[int],
    observers: Iterable[int] = (),
    groups: dict[int, int] | None = None,
    weights: dict[int, int] | None = None,
) -> Membership:
    """A membership of servers by their numbers."""
    members = [member(each) for each in voters] + [member(each, True) for each in observers]
    return Membership.of(members, 0, groups, weights)


class World:
    """Everything that exists. The attributes are what a seed, or a scenario, may choose; times in microseconds."""

    def __init__(
        self, seed: int, *, real_tree: bool = False, weather: Weather | None = None, trace: int | None = 250
    ) -> None:
        self.scheduler = Scheduler(seed)
        self.trace = Trace(trace)
        self.network = Network(self.scheduler, self.trace, weather or Weather())
        self.checker = Checker()
        self.statistics: Counter[str] = Counter()
        self.servers: dict[int, Server] = {}
        self.clients: list[Client] = []
        self.timing = TIMING
        self.real_tree = real_tree
        self.tick_quick, self.tick_slow = 5_000, 20_000
        #: The chance that the power is cut between two things that a server does.
        self.fragility = 0.0
        self.fsync: tuple[int, int] = (100, 800)
        self.slow_disks: dict[int, int] = {}
        #: Scenarios: servers whose fdatasync does not return.
        self.stopped_disks: set[int] = set()
        #: Scenarios: what a crash leaves of the tail that is not durable.
        self.keep_unsynced: bool | None = None
        self.checkpoint_every = 0
        self.keep_tail = 0
        self.roll_at = 1 << 30
        self.transfer_pages = 1
        self.transfer_breaks = 0.0
        self.fixed_pages = 0
        #: A leader may be that slow to propose its first batch; followers get what it has behind that meanwhile.
        self.slow_opening = 0
        #: Scenarios: one whose servers do not all stand for election.
        self.core_type = Core
        #: Clients have nothing more to ask.
        self.quiet = False
        self._sessions = 0

    @property
    def random(self) -> Random:
        """The only source of chance."""
        return self.scheduler.random

    def add_server(self, number: int, initial: Membership) -> Server:
        """A server that is not running yet."""
        server = self.servers[number] = Server(self, number, initial)
        self.network.add(server)
        return server

    def add_client(self, depth: int = 1) -> Client:
        """A client that does nothing by itself before ``begin``."""
        client = Client(self, len(self.clients) + 1, depth=depth)
        self.clients.append(client)
        return client

    def new_session(self) -> int:
        """The number of another session."""
        self._sessions += 1
        return self._sessions

    # -- chance ---------------------------------------------------------------------------------------------------

    def cut_power(self, weight: int) -> bool:
        """Whether this is where a server crashes."""
        return self.fragility > 0 and self.random.random() < self.fragility * weight

    def lost_tail(self, unsynced: int) -> int:
        """How many of the batches that were not durable are gone."""
        if self.keep_unsynced is not None:
            return 0 if self.keep_unsynced else unsynced
        return self.random.choice((0, unsynced, self.random.randint(0, unsynced)))

    def fsync_delay(self, server: int) -> int:
        """How long an fdatasync takes."""
        if server in self.stopped_disks:
            return -1
        return self.scheduler.between(self.fsync) * self.slow_disks.get(server, 1)

    def pages(self) -> int:
        """Of how many pages a full state is."""
        return self.fixed_pages or self.random.randint(1, self.transfer_pages)

    def break_transfer(self) -> bool:
        """Whether a full state is given up half way."""
        return self.transfer_breaks > 0 and self.random.random() < self.transfer_breaks

    # -- looking at it --------------------------------------------------------------------------------------------

    def leader(self) -> Server | None:
        """The one that serves as leader of the latest epoch."""
        leading = [each for each in self.servers.values() if each.up and each.leads]
        return max(leading, key=lambda each: each.core.promised, default=None)

    def settled(self) -> bool:
        """Whether every server is up, follows the one leader, and has applied all that any other has."""
        leader = self.leader()
        if leader is None or leader.core.leading is None:
            return False
        last = leader.core.history.last_zxid
        for server in self.servers.values():
            if not server.up or not server.serves or server.machine.zxid != last:
                return False
            if server is not leader:
                following = server.core.following
                if following is None or following.leader != leader.number or not following.synced:
                    return False
        return True
