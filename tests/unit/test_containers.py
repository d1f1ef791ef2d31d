"""The container manager: what is reaped, when, and how fast. Time is the test's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from model import CONTAINER, ttl

from fastzk._tree import Tree
from fastzk.server.containers import ContainerManager

NOW = 1_700_000_000_000


class Clock:
    """An event loop that knows ``call_later`` only; ``run`` makes time pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.made = 0

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> Clock.Handle:
        assert delay >= 0
        self.made += 1
        timer = (self.now + delay, self.made, call)
        self.timers.append(timer)
        return Clock.Handle(self, timer)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.timers and min(self.timers)[0] <= until:
            timer = min(self.timers)
            self.timers.remove(timer)
            self.now = timer[0]
            timer[2]()
        self.now = until

    class Handle:
        def __init__(self, clock: Clock, timer: tuple[float, int, Callable[[], None]]) -> None:
            self._clock, self._timer = clock, timer

        def cancel(self) -> None:
            if self._timer in self._clock.timers:
                self._clock.timers.remove(self._timer)


class FakePipeline:
    """Deletes at once what it is told to reap, and notes when."""

    def __init__(self, tree: Tree, clock: Clock) -> None:
        self.tree, self.clock = tree, clock
        self.pending, self.limit = 0, 1000
        self.refused: set[bytes] = set()
        self.reaped: list[bytes] = []
        self.times: list[float] = []
        self.zxid = 1000

    def reap(self, path: bytes) -> bool:
        if path in self.refused:
            return False
        self.zxid += 1
        self.tree.delete(path, zxid=self.zxid)
        self.reaped.append(path)
        self.times.append(self.clock.now)
        return True


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: int) -> None:
        self.tree = Tree()
        self.tree.plant()
        self.zxid = 0
        self.clock = Clock()
        self.pipeline = FakePipeline(self.tree, self.clock)
        self.errors: list[BaseException] = []
        settings = {"check_interval_ms": 60_000, "max_per_minute": 10_000, "max_never_used_ms": 0, **options}
        self.manager = ContainerManager(
            cast(asyncio.AbstractEventLoop, self.clock),
            self.tree,
            self.pipeline,
            on_failure=self.errors.append,
            **settings,
        )
        monkeypatch.setattr("fastzk.server.containers.time.time", lambda: NOW / 1000 + self.clock.now)
        self.manager.start()

    def create(self, path: bytes, owner: int = 0, created: int = 0) -> None:
        self.zxid += 1
        self.tree.create(path, b"", owner=owner, zxid=self.zxid, time=NOW + created)

    def used_container(self, path: bytes) -> None:
        self.create(path, CONTAINER)
        self.create(path + b"/child")
        self.zxid += 1
        self.tree.delete(path + b"/child", zxid=self.zxid)

    def write(self, path: bytes, at: int) -> None:
        self.zxid += 1
        self.tree.set_data(path, b"x", version=1, zxid=self.zxid, time=NOW + at)


@pytest.fixture
def make_world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    def make(**options: Any) -> World:
        return World(monkeypatch, **options)

    return make


def test_only_containers_that_were_used_and_are_empty(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.used_container(b"/used")
    world.create(b"/new", CONTAINER)
    world.create(b"/full", CONTAINER)
    world.create(b"/full/child")
    world.create(b"/plain")
    world.create(b"/plain/child")
    world.tree.delete(b"/plain/child", zxid=99)
    world.create(b"/ephemeral", 0x1234)
    world.clock.run(59.9)
    assert world.pipeline.reaped == []
    world.clock.run(0.2)
    assert world.pipeline.reaped == [b"/used"]
    world.tree.delete(b"/full/child", zxid=100)
    world.clock.run(120)
    assert world.pipeline.reaped == [b"/used", b"/full"]
    assert world.errors == []


def test_a_container_in_a_container_goes_one_search_later(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.create(b"/outer", CONTAINER)
    world.used_container(b"/outer/inner")
    world.clock.run(60.5)
    assert world.pipeline.reaped == [b"/outer/inner"]
    world.clock.run(60)
    assert world.pipeline.reaped == [b"/outer/inner", b"/outer"]


def test_never_used(make_world: Callable[..., World]) -> None:
    world = make_world(max_never_used_ms=90_000)
    world.create(b"/new", CONTAINER)
    world.clock.run(61)
    assert world.pipeline.reaped == []
    world.clock.run(60)
    assert world.pipeline.reaped == [b"/new"]


def test_ttl(make_world: Callable[..., World]) -> None:
    world = make_world(check_interval_ms=1000)
    world.create(b"/short", ttl(5000))
    world.create(b"/written", ttl(5000))
    world.create(b"/parent", ttl(5000))
    world.create(b"/parent/child")
    world.clock.run(4.9)
    world.write(b"/written", 4900)
    assert world.pipeline.reaped == []
    world.clock.run(1.6)
    assert world.pipeline.reaped == [b"/short"]
    world.clock.run(3)
    assert world.pipeline.reaped == [b"/short"]
    world.clock.run(2)
    assert world.pipeline.reaped == [b"/short", b"/written"]
    world.tree.delete(b"/parent/child", zxid=99)
    world.clock.run(1.1)
    assert world.pipeline.reaped == [b"/short", b"/written", b"/parent"]


@pytest.mark.parametrize("per_minute", [1, 60, 599, 10_000, 2**31 - 1])
def test_pace(make_world: Callable[..., World], per_minute: int) -> None:
    world = make_world(max_per_minute=per_minute, check_interval_ms=1000)
    count = min(per_minute * 3, 20_000)
    for i in range(count):
        world.create(b"/t%d" % i, ttl(1))
    world.clock.run(1 + 60 * 3 + 1)
    times = world.pipeline.times
    assert len(times) == count
    for i in range(per_minute, count):
        assert times[i] - times[i - per_minute] >= 59.9
    assert len(world.tree) == 4
    assert world.errors == []


def test_it_waits_while_clients_wait(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.used_container(b"/used")
    world.pipeline.pending = 1001
    world.clock.run(100)
    assert world.pipeline.reaped == []
    world.pipeline.pending = 1000
    world.clock.run(1)
    assert world.pipeline.reaped == [b"/used"]


def test_what_was_refused_is_tried_again_at_the_next_search(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.used_container(b"/used")
    world.pipeline.refused.add(b"/used")
    world.clock.run(61)
    assert world.pipeline.reaped == []
    world.pipeline.refused.clear()
    world.clock.run(58)
    assert world.pipeline.reaped == []
    world.clock.run(2)
    assert world.pipeline.reaped == [b"/used"]


def test_found_but_used_again_before_its_turn(make_world: Callable[..., World]) -> None:
    world = make_world(max_per_minute=60, check_interval_ms=1000)
    for i in range(4):
        world.create(b"/t%d" % i, ttl(1))
    world.clock.run(1.5)
    assert len(world.pipeline.reaped) == 1
    left = [b"/t%d" % i for i in range(4) if b"/t%d" % i not in world.pipeline.reaped]
    world.write(left[0], 10**9)
    world.create(left[1] + b"/child")
    world.tree.delete(left[2], zxid=500)
    world.create(b"/plain")  # takes the slot that became free
    world.clock.run(60)
    assert len(world.pipeline.reaped) == 1
    assert world.errors == []


def test_stop_and_errors(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.used_container(b"/used")
    world.manager.stop()
    world.clock.run(200)
    assert world.pipeline.reaped == []
    world.manager.start()

    def broken(path: bytes) -> bool:
        raise MemoryError

    world.pipeline.reap = broken  # type: ignore[method-assign]
    world.clock.run(200)
    assert [type(error) for error in world.errors] == [MemoryError]


def test_expired_of_slots_that_are_nothing() -> None:
    tree = Tree()
    tree.plant()
    now = int(time.time() * 1000)
    assert tree.expired([0, 1, 2, 3, 4, 5, 100, 2**31], now, 1) == []
