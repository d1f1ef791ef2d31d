"""The connections between the servers, and what goes wrong with them.

At its best it is TCP: what is sent on a connection arrives in order, and what is lost is the end of it. Each end
learns of a new or a lost connection at its own time. A *wild* network in addition loses, repeats and delays single
messages of the broadcast (never those between the drivers), and delivers some of connections that are no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from fastzk.server.zab.messages import Message, decode, encode

from .scheduler import Scheduler
from .trace import Trace


class Endpoint(Protocol):
    """A server, as the network sees it."""

    number: int
    up: bool
    #: peer -> the number of the connection that it takes for open.
    links: dict[int, int]

    def link_up(self, peer: int, link: int) -> None: ...
    def link_down(self, peer: int, link: int) -> None: ...
    def message(self, sender: int, message: Message) -> None: ...
    def driver_message(self, sender: int, message: Any) -> None: ...
    def happen(self, call: Any, *args: Any) -> None: ...


@dataclass(slots=True)
class Weather:
    """Chances, and times in microseconds."""

    latency: tuple[int, int] = (100, 900)
    spike: float = 0.0
    spike_length: int = 40_000
    notice: tuple[int, int] = (200, 3_000)
    late_notice: float = 0.0
    reconnect: tuple[int, int] = (1_000, 15_000)
    lose: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    stale: float = 0.0


class Network:
    """Every server dials every other one, for ever."""

    def __init__(self, scheduler: Scheduler, trace: Trace, weather: Weather) -> None:
        self._scheduler = scheduler
        self._random = scheduler.random
        self._trace = trace
        self.weather = weather
        self._endpoints: dict[int, Endpoint] = {}
        #: (lower, higher) -> the number of the connection, if there is one.
        self._open: dict[tuple[int, int], int] = {}
        self._numbers = 0
        #: Directions in which nothing passes: what is sent waits there.
        self.blocked: set[tuple[int, int]] = set()
        self._held: dict[tuple[int, int], list[tuple[int, Any]]] = {}
        #: When the last thing sent in a direction arrives.
        self._queue: dict[tuple[int, int], int] = {}
        self._dead: dict[tuple[int, int], int] = {}
        #: Scenarios: kinds of messages that are kept back in a direction, and what was.
        self.filters: dict[tuple[int, int], set[str]] = {}
        self.copies: dict[tuple[int, int], set[str]] = {}
        self.kept: list[tuple[int, int, int, Any]] = []
        self.messages = 0

    def add(self, endpoint: Endpoint) -> None:
        """A server that exists, up or not."""
        for other in self._endpoints:
            self._dial(min(other, endpoint.number), max(other, endpoint.number))
        self._endpoints[endpoint.number] = endpoint

    # -- connections ----------------------------------------------------------------------------------------------

    def _dial(self, one: int, other: int) -> None:
        self._scheduler.after(self._scheduler.between(self.weather.reconnect), self._dialled, one, other)

    def _dialled(self, one: int, other: int) -> None:
        pair = (one, other)
        if pair in self._open:
            return
        free = pair not in self.blocked and (other, one) not in self.blocked
        if not (free and self._endpoints[one].up and self._endpoints[other].up):
            self._scheduler.after(20_000, self._dialled, one, other)
            return
        self._numbers += 1
        self._open[pair] = link = self._numbers
        for end, peer in (pair, (other, one)):
            self._held.pop((peer, end), None)
            self._queue[peer, end] = self._scheduler.now
            self._arrive(peer, end, self._link_up, end, peer, link)

    def _link_up(self, end: int, peer: int, link: int) -> None:
        endpoint = self._endpoints[end]
        if self._open.get((min(end, peer), max(end, peer))) == link and endpoint.up:
            if peer in endpoint.links:
                endpoint.happen(endpoint.link_down, peer, endpoint.links[peer])
            endpoint.happen(endpoint.link_up, peer, link)

    def reset(self, one: int, other: int) -> None:
        """The connection breaks; each end notices sooner or later."""
        pair = (min(one, other), max(one, other))
        link = self._open.pop(pair, None)
        if link is None:
            return
        for end, peer in (pair, pair[::-1]):
            late = self._random.random() < self.weather.late_notice
            notice = 250_000 if late else self.weather.notice[1]
            self._scheduler.after(self._random.randint(self.weather.notice[0], notice), self._notice, end, peer, link)
        self._dial(*pair)

    def _notice(self, end: int, peer: int, link: int) -> None:
        endpoint = self._endpoints[end]
        if endpoint.up:
            endpoint.happen(endpoint.link_down, peer, link)

    def gone(self, server: int) -> None:
        """A server has crashed: its connections break."""
        for other in sorted(self._endpoints):
            if other != server:
                self.reset(server, other)

    # -- cuts -----------------------------------------------------------------------------------------------------

    def block(self, sender: int, receiver: int) -> None:
        """Nothing passes in this direction; the connection stays until somebody loses patience."""
        self.blocked.add((sender, receiver))

    def unblock(self) -> None:
        """All cuts are mended: what waited goes on its way."""
        self.blocked.clear()
        for (sender, receiver), held in sorted(self._held.items()):
            for link, message in held:
                self._transmit(sender, receiver, link, message)
        self._held.clear()

    # -- messages -------------------------------------------------------------------------------------------------

    def send(self, sender: int, receiver: int, message: Any) -> None:
        """A message of the broadcast, or of the drivers'; lost if the sender knows no connection."""
        link = self._endpoints[sender].links.get(receiver)
        if link is None:
            return
        if self.filters or self.copies:
            for filtered, stays in ((self.filters, True), (self.copies, False)):
                kinds = filtered.get((sender, receiver), ())
                if "*" in kinds or type(message).__name__ in kinds:
                    self.kept.append((sender, receiver, link, message))
                    if stays:
                        return
        if (sender, receiver) in self.blocked:
            self._held.setdefault((sender, receiver), []).append((link, message))
        else:
            self._transmit(sender, receiver, link, message)

    def release(self, sender: int, receiver: int, kind: str, *, first: bool = False, again: bool = False) -> int:
        """Scenarios: send what was kept back, or the `first` (`again`: and keep it for another time); how many."""
        kept, self.kept = self.kept, []
        count = 0
        for each in kept:
            matches = each[:2] == (sender, receiver) and kind in ("*", type(each[3]).__name__)
            if matches and not (first and count):
                self._transmit(*each, True)
                count += 1
                if again:
                    self.kept.append(each)
            else:
                self.kept.append(each)
        return count

    def _transmit(self, sender: int, receiver: int, link: int, message: Any, stale: bool = False) -> None:
        weather, random = self.weather, self._random
        self.messages += 1
        if isinstance(message, tuple):
            self._arrive(sender, receiver, self._deliver_driver, sender, receiver, link, message)
            return
        head, payload = encode(message)
        frame = head + payload
        if weather.lose and random.random() < weather.lose:
            self._trace.add(self._scheduler.now, sender, "LOST", f"to {receiver}", message)
            return
        if weather.reorder and random.random() < weather.reorder:
            self._scheduler.after(
                random.randint(0, weather.spike_length), self._deliver, sender, receiver, link, frame, stale
            )
        else:
            self._arrive(sender, receiver, self._deliver, sender, receiver, link, frame, stale)
        if weather.repeat and random.random() < weather.repeat:
            delay = random.randint(0, 4 * weather.spike_length)
            self._scheduler.after(delay, self._deliver, sender, receiver, link, frame, stale)

    def _arrive(self, sender: int, receiver: int, call: Any, *args: Any) -> None:
        """Behind everything that was sent in this direction before."""
        weather, random = self.weather, self._random
        delay = self._scheduler.between(weather.latency)
        if weather.spike and random.random() < weather.spike:
            delay += random.randint(0, weather.spike_length)
        now = self._scheduler.now
        at = max(now + delay, self._queue.get((sender, receiver), 0))
        self._queue[sender, receiver] = at
        self._scheduler.after(at - now, call, *args)

    def _deliver(self, sender: int, receiver: int, link: int, frame: bytes, stale: bool) -> None:
        endpoint = self._endpoints[receiver]
        if not endpoint.up:
            return
        chance = self.weather.stale
        if not self._passes(sender, receiver, link) and not stale and (not chance or self._random.random() >= chance):
            return
        endpoint.happen(endpoint.message, sender, decode(memoryview(frame)))

    def _deliver_driver(self, sender: int, receiver: int, link: int, message: Any) -> None:
        endpoint = self._endpoints[receiver]
        if endpoint.up and self._passes(sender, receiver, link):
            endpoint.happen(endpoint.driver_message, sender, message)

    def _passes(self, sender: int, receiver: int, link: int) -> bool:
        """Whether this end still knows the connection; of a broken one some of the end is lost."""
        if self._endpoints[receiver].links.get(sender) != link or self._dead.get((sender, receiver)) == link:
            return False
        if self._open.get((min(sender, receiver), max(sender, receiver))) != link and self._random.random() < 0.2:
            self._dead[sender, receiver] = link
            return False
        return True
