"""Quotas: the text of limits and stats, and stats that always equal a recount."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from model import STAT, string

from fastzk._acl import OPEN_ACL
from fastzk._tree import Tree
from fastzk.protocol import OpCode
from fastzk.server._apply import Applier
from fastzk.server._quota import Quotas, parse_track

QUOTA = b"/zookeeper/quota"
SESSION = 77


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", {}),
        (b",;,", {}),
        (b"count=5,bytes=7", {"count": 5, "bytes": 7}),
        (b"count=5,bytes=-1=;byteHardLimit=9;countHardLimit=-1", None),
        (b"count=5;;count=6,", {"count": 6}),
        (b"bytes==5", {"bytes": -1}),
        (b"=5", {"": 5}),
        (b"count=+5", {"count": 5}),
        (b"count=" + b"0" * 100_000 + b"7", {"count": 7}),
        (b"count=-000", {"count": 0}),
        (b"count=-9223372036854775808", {"count": -(1 << 63)}),
        ("count=٣".encode(), {"count": 3}),
    ],
)
def test_tracks_that_zookeeper_reads(data: bytes, expected: dict[str, int] | None) -> None:
    if expected is None:
        expected = {"count": 5, "bytes": -1, "byteHardLimit": 9, "countHardLimit": -1}
    assert parse_track(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"count",
        b"count=",
        b"=",
        b",count=5",
        b"count= 5",
        b"count=5 ",
        b"count=1_0",
        b"count=5.0",
        b"count=9223372036854775808",
        b"count=0x5",
        b"count=+",
        b"count=" + b"9" * 100_000,
        b"\xff\xfe",
    ],
)
def test_tracks_that_it_does_not(data: bytes | None) -> None:
    assert parse_track(data) is None


class World:
    """A tree to which transactions are applied as a server does it."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.tree.plant()
        self.applier = Applier(self.tree, 0)
        self.applier.on_session = lambda *_: None
        self.zxid = 0
        self.pages: dict[bytes, bytes] = {}

    def apply(self, op: int, record: bytes, session: int = 0) -> None:
        self.zxid += 1
        self.applier.replay(struct.pack(">qiqqi", session, 1, self.zxid, 1000 + self.zxid, op) + record)

    def record(self, op: int, path: bytes, data: bytes | None = b"", ephemeral: bool = False) -> bytes:
        if op == OpCode.CREATE:
            return string(path) + string(data) + OPEN_ACL + struct.pack(">?i", ephemeral, 1 + self.zxid)
        if op == OpCode.SET_DATA:
            return string(path) + string(data) + struct.pack(">i", 1)
        assert op == OpCode.DELETE
        return string(path)

    def create(self, path: bytes, data: bytes | None = b"", *, session: int = 0) -> None:
        self.apply(OpCode.CREATE, self.record(OpCode.CREATE, path, data, session != 0), session)

    def set(self, path: bytes, data: bytes | None) -> None:
        self.apply(OpCode.SET_DATA, self.record(OpCode.SET_DATA, path, data))

    def delete(self, path: bytes) -> None:
        self.apply(OpCode.DELETE, self.record(OpCode.DELETE, path))

    def multi(self, steps: Iterable[tuple[int, bytes, bytes | None]]) -> None:
        records = [(op, self.record(op, path, data)) for op, path, data in steps]
        self.apply(
            OpCode.MULTI,
            struct.pack(">i", len(records))
            + b"".join(struct.pack(">i", op) + string(record) for op, record in records),
        )

    def close_session(self) -> None:
        self.apply(OpCode.CLOSE_SESSION, b"", SESSION)

    def exists(self, path: bytes) -> bool:
        return self.tree.slot(path) != 0

    def put_quota(self, path: bytes, limits: bytes = b"count=-1,bytes=-1", stats: bytes | None = b"") -> None:
        """As zkCli does it: the parents, the limits, then the stats."""
        for end in [*(match.start() for match in re.finditer(b"/", path + b"/"))][1:]:
            if not self.exists(QUOTA + path[:end]):
                self.create(QUOTA + path[:end])
        self.create(QUOTA + path + b"/zookeeper_limits", limits)
        self.create(QUOTA + path + b"/zookeeper_stats", stats)

    def stats(self, path: bytes) -> bytes | None:
        return self.tree.data(QUOTA + path + b"/zookeeper_stats")

    def recount(self, path: bytes) -> bytes:
        count = size = 0
        todo = [path]
        while todo:
            each = todo.pop()
            if self.exists(each or b"/"):
                count += 1
                size += len(self.tree.data(each or b"/") or b"")
                todo += [each + b"/" + name for name in self.tree.children(each or b"/")]
        return b"count=%d,bytes=%d" % (count, size)

    def reloaded(self) -> World:
        """What a server has that starts from a checkpoint of this one."""
        other = World()
        other.tree = Tree()
        self.tree.checkpoint_begin()
        while part := self.tree.checkpoint_take(1 << 20):
            for key, value in part:
                if value is not None:
                    self.pages[key] = value
                else:
                    self.pages.pop(key, None)
        self.tree.checkpoint_end(True)
        other.pages = dict(self.pages)
        for key, value in other.pages.items():
            other.tree.load_page(key, value)
        other.tree.load_finish()
        other.applier = Applier(other.tree, self.zxid)
        other.applier.on_session = lambda *_: None
        other.zxid = self.zxid
        return other


def test_life_of_a_quota() -> None:
    world = World()
    world.create(b"/a", b"12345")
    world.create(b"/a/b", None)
    world.create(b"/other", b"xx")
    world.put_quota(b"/a", stats=b"whatever the client wrote")
    assert world.stats(b"/a") == b"count=2,bytes=5"
    before = world.tree.stat(QUOTA + b"/a/zookeeper_stats")
    world.create(b"/a/b/c", b"123")
    assert world.stats(b"/a") == b"count=3,bytes=8"
    world.set(b"/a/b", b"1234567")
    assert world.stats(b"/a") == b"count=3,bytes=15"
    world.set(b"/a", None)
    assert world.stats(b"/a") == b"count=3,bytes=10"
    world.set(b"/other", b"")
    world.create(b"/ab", b"not below it")
    world.delete(b"/a/b/c")
    assert world.stats(b"/a") == b"count=2,bytes=7"
    # nothing of its stat has changed but the length of the data
    length = STAT.size - 16  # dataLength, numChildren and pzxid come last
    after = world.tree.stat(QUOTA + b"/a/zookeeper_stats")
    assert after[:length] + after[length + 4 :] == before[:length] + before[length + 4 :]
    world.delete(b"/a/b")
    world.delete(b"/a")
    assert world.stats(b"/a") == b"count=0,bytes=0"
    world.create(b"/a", b"again")
    assert world.stats(b"/a") == b"count=1,bytes=5"
    world.delete(QUOTA + b"/a/zookeeper_limits")
    assert world.applier.quotas.active == 0
    world.set(b"/a", b"without limits nobody counts")
    assert world.stats(b"/a") == b"count=1,bytes=5"
    assert world.tree.digest == world.tree.compute_digest()


def test_nearest_quota_only() -> None:
    world = World()
    world.create(b"/a", b"1")
    world.create(b"/a/b", b"22")
    world.put_quota(b"/a")
    world.put_quota(b"/a/b")
    assert (world.stats(b"/a"), world.stats(b"/a/b")) == (b"count=2,bytes=3", b"count=1,bytes=2")
    world.create(b"/a/b/c", b"333")
    assert (world.stats(b"/a"), world.stats(b"/a/b")) == (b"count=2,bytes=3", b"count=2,bytes=5")
    world.create(b"/a/d", b"4444")
    assert (world.stats(b"/a"), world.stats(b"/a/b")) == (b"count=3,bytes=7", b"count=2,bytes=5")


def test_stats_written_by_a_client() -> None:
    """ZooKeeper goes on from a number, and dies of what is none; here that is put right at once."""
    world = World()
    world.put_quota(b"/a")
    world.create(b"/a", b"1")
    stats = QUOTA + b"/a/zookeeper_stats"
    world.set(stats, b"count=100,bytes=1000")
    assert world.stats(b"/a") == b"count=100,bytes=1000"
    world.create(b"/a/b", b"22")
    assert world.stats(b"/a") == b"count=101,bytes=1002"
    world.set(stats, b"count=100")
    assert world.stats(b"/a") == b"count=100"
    world.set(b"/a/b", b"33")
    assert world.stats(b"/a") == b"count=100,bytes=-1"
    world.set(stats, b"count=9223372036854775807,bytes=0")
    world.create(b"/a/c", b"")
    assert world.stats(b"/a") == b"count=-9223372036854775808,bytes=0"
    for garbage in (b"garbage", None, b"count=x"):
        world.set(stats, garbage)
        assert world.stats(b"/a") == b"count=3,bytes=3"
    world.delete(stats)
    world.set(b"/a/b", b"444")
    world.create(stats, None)
    assert world.stats(b"/a") == b"count=3,bytes=4"
    world.delete(b"/a/c")
    assert world.stats(b"/a") == b"count=2,bytes=4"
    assert world.tree.digest == world.tree.compute_digest()


def test_odd_places() -> None:
    world = World()
    world.create(QUOTA + b"/zookeeper_limits", b"count=1")
    assert world.applier.quotas.active == 0
    world.create(QUOTA + b"/zookeeper_stats", b"")
    assert world.tree.data(QUOTA + b"/zookeeper_stats") == b"count=6,bytes=7"
    world.create(b"/zookeeper/quotax")
    world.create(b"/zookeeper/quotax/zookeeper_limits", b"count=1")
    world.create(b"/zookeeper_limits", b"count=1")
    world.create(QUOTA + b"/a")
    world.create(QUOTA + b"/a/zookeeper_limitsx")
    world.create(QUOTA + b"/a/xzookeeper_limits")
    assert world.applier.quotas.active == 0
    world.create(QUOTA + b"/a/zookeeper_limits", b"garbage")
    assert world.applier.quotas.usage() == {b"/a": None}
    world.create(b"/a")  # limits without stats: nothing to keep
    world.create(QUOTA + b"/a/zookeeper_limits/zookeeper_limits")  # a quota on /a/zookeeper_limits
    assert set(world.applier.quotas.usage()) == {b"/a", b"/a/zookeeper_limits"}
    assert Quotas(world.tree).usage() == world.applier.quotas.usage()
    # a quota on /zookeeper itself, whose stats are below it
    world.put_quota(b"/zookeeper")
    world.create(b"/zookeeper/x")
    world.delete(b"/zookeeper/x")
    world.delete(QUOTA + b"/zookeeper/zookeeper_stats")
    world.delete(QUOTA + b"/zookeeper/zookeeper_limits")
    assert set(world.applier.quotas.usage()) == {b"/a", b"/a/zookeeper_limits"}
    assert world.tree.digest == world.tree.compute_digest()
    assert Quotas(Tree()).active == 0


PARENTS = [b"", b"/a", b"/a/b", b"/a/b/c", b"/q", b"/q/x"]
PATHS = [above + b"/" + name for above in PARENTS for name in (b"a", b"b", b"c", b"q", b"x")]
DATA = st.one_of(st.none(), st.binary(max_size=40))
QUOTA_PATHS = [b"/a", b"/q/x", b"/b"]


class Stats(RuleBasedStateMachine):
    """Random changes; after each the stats are those of a recount, here and in a server that started anew."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.known: dict[bytes, bytes] = {}

    @rule(path=st.sampled_from(PATHS), data=DATA, ephemeral=st.booleans())
    def create(self, path: bytes, data: bytes | None, ephemeral: bool) -> None:
        parent = path[: path.rindex(b"/")] or b"/"
        if self.world.exists(parent) and not self.world.exists(path) and self.world.tree.owner(parent) == 0:
            self.world.create(path, data, session=SESSION if ephemeral else 0)

    @rule(path=st.sampled_from(PATHS), data=DATA)
    def set(self, path: bytes, data: bytes | None) -> None:
        if self.world.exists(path):
            self.world.set(path, data)

    @rule(path=st.sampled_from(PATHS))
    def delete(self, path: bytes) -> None:
        if self.world.exists(path) and not self.world.tree.children(path):
            self.world.delete(path)

    @rule(data=DATA, other=DATA)
    def several(self, data: bytes | None, other: bytes | None) -> None:
        if self.world.exists(b"/a") and not self.world.exists(b"/a/m"):
            self.world.multi(
                [
                    (OpCode.CREATE, b"/a/m", data),
                    (OpCode.SET_DATA, b"/a/m", other),
                    (OpCode.CREATE, b"/a/m/n", data),
                    (OpCode.DELETE, b"/a/m/n", None),
                    (OpCode.DELETE, b"/a/m", None),
                    (OpCode.SET_DATA, b"/a", other),
                ]
            )

    @rule()
    def close_session(self) -> None:
        self.world.close_session()

    @rule(path=st.sampled_from(QUOTA_PATHS))
    def put_quota(self, path: bytes) -> None:
        if not self.world.exists(QUOTA + path + b"/zookeeper_limits"):
            self.world.put_quota(path)
            self.known[path] = self.world.tree.stat(QUOTA + path + b"/zookeeper_stats")

    @rule(path=st.sampled_from(QUOTA_PATHS), limits=st.sampled_from([b"", b"count=2", b"garbage"]))
    def change_limits(self, path: bytes, limits: bytes) -> None:
        if path in self.known:
            self.world.set(QUOTA + path + b"/zookeeper_limits", limits)

    @rule(path=st.sampled_from(QUOTA_PATHS))
    def drop_quota(self, path: bytes) -> None:
        if path in self.known:
            self.world.delete(QUOTA + path + b"/zookeeper_limits")
            self.world.delete(QUOTA + path + b"/zookeeper_stats")
            del self.known[path]

    @rule()
    def start_anew(self) -> None:
        digest = self.world.tree.digest
        self.world = self.world.reloaded()
        assert self.world.tree.digest == digest

    @invariant()
    def equal_to_a_recount(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        for path, stat in self.known.items():
            assert world.stats(path) == world.recount(path), path
            now = world.tree.stat(QUOTA + path + b"/zookeeper_stats")
            assert now[: STAT.size - 16] == stat[: STAT.size - 16]
        usage = world.applier.quotas.usage()
        assert set(usage) == set(self.known)
        assert Quotas(world.tree).usage() == usage
        assert world.tree.digest == world.tree.compute_digest()
        total = sum(len(path) for path in self.all_paths()) + sum(
            len(world.tree.data(path) or b"") for path in self.all_paths()
        )
        assert world.tree.data_size == total + len(world.tree.data(b"/") or b"")

    def all_paths(self) -> list[bytes]:
        found, todo = [], [b""]
        while todo:
            each = todo.pop()
            below = [each + b"/" + name for name in self.world.tree.children(each or b"/")]
            found += below
            todo += below
        return found


TestStats = Stats.TestCase
TestStats.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
