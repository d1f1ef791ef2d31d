"""The znode tree against a model in plain Python, through histories of changes, checkpoints and restarts."""

from __future__ import annotations

import itertools
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model import CONTAINER, STAT, ModelTree, int32, ttl, vector

from fastzk._acl import OPEN_ACL
from fastzk._tree import Tree, TreeCorruption

READ_ONLY = vector([(1, b"world", b"anyone")])
PAGE_SLOTS = 128
KEPT_LIST = 16  # from so many children on the encoded list is kept

Disk = dict[bytes, bytes]


# -- tools ----------------------------------------------------------------------------------------------


def planted() -> Tree:
    tree = Tree()
    tree.plant()
    return tree


def write(disk: Disk, pages: Iterable[tuple[bytes, bytes | None]]) -> None:
    for key, value in pages:
        if value is None:
            disk.pop(key, None)
        else:
            disk[key] = value


def take_all(tree: Tree, max_bytes: int = 1 << 16) -> list[tuple[bytes, bytes | None]]:
    pages: list[tuple[bytes, bytes | None]] = []
    while batch := tree.checkpoint_take(max_bytes):
        pages += batch
    return pages


def checkpoint(tree: Tree, disk: Disk) -> int:
    """A whole checkpoint; the number of its pages."""
    number = tree.checkpoint_begin()
    pages = take_all(tree)
    assert len(pages) == number
    write(disk, pages)
    tree.checkpoint_end(True)
    return number


def load(disk: Mapping[bytes, bytes]) -> Tree:
    tree = Tree()
    for key in sorted(disk):
        tree.load_page(key, disk[key])
    tree.load_finish()
    return tree


def encoded_names(encoded: bytes) -> list[bytes]:
    (number,) = struct.unpack_from(">i", encoded)
    names, at = [], 4
    for _ in range(number):
        (length,) = struct.unpack_from(">i", encoded, at)
        names.append(encoded[at + 4 : at + 4 + length])
        at += 4 + length
    assert at == len(encoded)
    return names


def assert_equal(tree: Tree, model: ModelTree) -> None:
    """Everything one can see of `tree` is as `model` has it."""
    assert len(tree) == tree.count == len(model.nodes)
    slots = {}
    for path, node in model.nodes.items():
        slots[path] = tree.slot(path)
        assert slots[path] == tree.existing(path)
        assert tree.path(slots[path]) == path
        assert STAT.unpack(tree.stat(path)) == node.stat, path
        assert tree.data(path) == node.data
        assert tree.acl(path) == node.acl
        assert tree.owner(path) == node.owner
        children = tree.children(path)
        assert len(children) == len(node.children)
        assert set(children) == node.children
        # The second time a long list comes from where it was kept.
        for _ in range(2 if len(children) >= KEPT_LIST else 1):
            assert sorted(encoded_names(tree.children_encoded(path))) == sorted(node.children)
    assert len(set(slots.values())) == len(slots)
    assert 0 not in slots.values()
    assert tree.data_size == model.data_size
    assert tree.digest == tree.compute_digest() == model.digest
    assert tree.containers == {slots[path] for path in model.of_kind("container")}
    assert tree.ttls == {slots[path] for path in model.of_kind("ttl")}
    sessions = model.sessions
    assert tree.ephemerals == {
        session: {slots[path] for path in paths} for session, paths in sessions.items()
    }
    assert tree.ephemeral_count == sum(map(len, sessions.values()))
    for session, paths in sessions.items():
        assert sorted(tree.ephemeral_paths(session)) == sorted(paths)
    assert tree.ephemeral_paths(-12345) == []
    assert len(tree.acls) == len(model.acls)


class Both:
    """A tree and its model, changed together; gives out zxids and times."""

    def __init__(self) -> None:
        self.tree = planted()
        self.model = ModelTree()
        self.model.plant()
        self.zxid = 0x100000000

    def step(self) -> tuple[int, int]:
        self.zxid += 1
        return self.zxid, 1_700_000_000_000 + self.zxid % 1000 * 7

    def create(
        self,
        path: bytes,
        data: bytes | None = b"",
        acl: bytes = OPEN_ACL,
        owner: int = 0,
        parent_cversion: int | None = None,
    ) -> None:
        zxid, time = self.step()
        for tree in (self.tree, self.model):
            tree.create(path, data, acl, owner=owner, zxid=zxid, time=time, parent_cversion=parent_cversion)

    def delete(self, path: bytes) -> None:
        zxid, _ = self.step()
        self.tree.delete(path, zxid=zxid)
        self.model.delete(path, zxid=zxid)

    def set_data(self, path: bytes, data: bytes | None, version: int | None = None) -> None:
        zxid, time = self.step()
        version = int32(self.model.nodes[path].version + 1) if version is None else version
        self.tree.set_data(path, data, version=version, zxid=zxid, time=time)
        self.model.set_data(path, data, version=version, zxid=zxid, time=time)

    def set_acl(self, path: bytes, acl: bytes, version: int | None = None) -> None:
        version = int32(self.model.nodes[path].aversion + 1) if version is None else version
        self.tree.set_acl(path, acl, version=version)
        self.model.set_acl(path, acl, version=version)

    def check(self) -> None:
        assert_equal(self.tree, self.model)


def join(parent: bytes, name: bytes) -> bytes:
    return (b"" if parent == b"/" else parent) + b"/" + name


# -- any history ----------------------------------------------------------------------------------------

int32s = st.integers(-(1 << 31), (1 << 31) - 1)
names = st.one_of(
    st.sampled_from([b"a", b"b", b"aa", b"zookeeper", b"lock-0000000000", b"lock-0000000001", b"."]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8).map(
        str.encode
    ),
    st.integers(200, 5000).map(lambda length: b"n" * length),
)
datas = st.one_of(
    st.none(),
    st.just(b""),
    st.binary(max_size=40),
    st.integers(100, 70_000).map(lambda length: b"\xda" * length),
)
acls = st.one_of(
    st.just(OPEN_ACL),
    st.just(READ_ONLY),
    st.integers(0, 30).map(
        lambda user: vector([(31, b"digest", b"user%d:hash" % user), (1, b"world", b"anyone")])
    ),
)
owners = st.one_of(
    st.just(0),
    st.sampled_from([0x10000150C100001, 0x10000150C100002, 3, -2, (1 << 63) - 1, 1 - (1 << 63)]),
    st.just(CONTAINER),
    st.integers(1, (1 << 40) - 1).map(ttl),
)
# Picks one of the znodes there are; small numbers are the older ones.
picks = st.integers(0, 1 << 16)
places = st.tuples(picks, names)
cversions = st.one_of(st.none(), st.integers(-(1 << 31), (1 << 31) - 100_000))


class Histories(RuleBasedStateMachine):
    """Changes, checkpoints in pieces with changes in between, failures, restarts from what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.both = Both()
        self.disk: Disk = {}
        self.stored: ModelTree | None = None  # what a load of `disk` must give
        self.frozen: ModelTree | None = None  # the state as of the running checkpoint's beginning
        self.pending: list[tuple[bytes, bytes | None]] = []
        self.expected_pages = 0

    def pick(self, number: int) -> bytes:
        paths = list(self.both.model.nodes)
        return paths[number % len(paths)]

    @initialize(fill=st.integers(0, 150))
    def some_znodes(self, fill: int) -> None:
        for number in range(fill):
            self.both.create(b"/fill-%d" % number, b"x" * (number % 50), owner=number % 3)

    @rule(place=places, data=datas, acl=acls, owner=owners, cversion=cversions)
    def create(
        self, place: tuple[int, bytes], data: bytes | None, acl: bytes, owner: int, cversion: int | None
    ) -> None:
        path = join(self.pick(place[0]), place[1])
        if path in self.both.model.nodes:
            with pytest.raises(ValueError, match="exists"):
                self.both.tree.create(path, data, acl, owner=owner, zxid=1, time=1)
        else:
            self.both.create(path, data, acl, owner, cversion)

    @rule(at=picks, number=st.integers(1, 70), data=st.binary(max_size=10), acl=acls, owner=owners)
    def create_many(self, at: int, number: int, data: bytes, acl: bytes, owner: int) -> None:
        parent = self.pick(at)
        creates = self.both.model.nodes[parent].creates % 1_000_000
        for sequence in range(creates, creates + number):
            path = join(parent, b"many-%010d" % sequence)
            if path not in self.both.model.nodes:
                self.both.create(path, data, acl, owner)

    @rule(at=picks, depth=st.integers(1, 40))
    def create_deep(self, at: int, depth: int) -> None:
        path = self.pick(at)
        for _ in range(depth):
            path = join(path, b"d")
            if path not in self.both.model.nodes:
                self.both.create(path, path[-5:])

    @rule(at=picks)
    def delete(self, at: int) -> None:
        path = self.pick(at)
        if path == b"/" or self.both.model.nodes[path].children:
            with pytest.raises(ValueError, match="cannot be removed"):
                self.both.tree.delete(path, zxid=1)
        else:
            self.both.delete(path)

    @rule(at=picks)
    def delete_subtree(self, at: int) -> None:
        path = self.pick(at)
        below = [other for other in self.both.model.nodes if other.startswith(path.rstrip(b"/") + b"/")]
        for other in sorted(below, key=len, reverse=True):
            if other != b"/":
                self.both.delete(other)

    @rule(at=picks, data=datas, version=st.one_of(st.none(), int32s))
    def set_data(self, at: int, data: bytes | None, version: int | None) -> None:
        self.both.set_data(self.pick(at), data, version)

    @rule(at=picks, acl=acls, version=st.one_of(st.none(), int32s))
    def set_acl(self, at: int, acl: bytes, version: int | None) -> None:
        self.both.set_acl(self.pick(at), acl, version)

    @rule(at=picks)
    def list_children(self, at: int) -> None:
        path = self.pick(at)
        found = encoded_names(self.both.tree.children_encoded(path))
        assert sorted(found) == sorted(self.both.model.nodes[path].children)

    @rule(at=picks, name=names)
    def look_for_what_is_not_there(self, at: int, name: bytes) -> None:
        tree = self.both.tree
        path = join(join(self.pick(at), b"no"), name)
        assert tree.slot(path) == 0
        for look in (
            tree.existing,
            tree.stat,
            tree.data,
            tree.acl,
            tree.owner,
            tree.children,
            tree.children_encoded,
        ):
            with pytest.raises(KeyError):
                look(path)
        with pytest.raises(KeyError):
            tree.delete(path, zxid=1)
        with pytest.raises(KeyError):
            tree.create(path, b"", zxid=1, time=1)

    @precondition(lambda self: self.frozen is None)
    @rule()
    def checkpoint_begins(self) -> None:
        self.frozen = self.both.model.copy()
        self.expected_pages = self.both.tree.checkpoint_begin()
        with pytest.raises(RuntimeError):
            self.both.tree.checkpoint_begin()

    @precondition(lambda self: self.frozen is not None)
    @rule(max_bytes=st.sampled_from([0, 1, 500, 5000]))
    def checkpoint_goes_on(self, max_bytes: int) -> None:
        self.pending += self.both.tree.checkpoint_take(max_bytes)

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def checkpoint_succeeds(self) -> None:
        self.pending += take_all(self.both.tree)
        assert len(self.pending) == self.expected_pages
        assert len({key for key, _ in self.pending}) == self.expected_pages
        write(self.disk, self.pending)
        self.both.tree.checkpoint_end(True)
        assert self.frozen is not None
        assert_equal(load(self.disk), self.frozen)
        self.stored, self.frozen, self.pending = self.frozen, None, []

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def checkpoint_fails(self) -> None:
        self.both.tree.checkpoint_end(False)
        self.frozen, self.pending = None, []

    @precondition(lambda self: self.stored is not None)
    @rule()
    def restart(self) -> None:
        # As after a crash with an empty log: back to the last checkpoint, whatever was going on.
        assert self.stored is not None
        self.both.tree, self.both.model = load(self.disk), self.stored.copy()
        self.frozen, self.pending = None, []
        assert self.both.tree.changed_pages == 0
        self.both.check()

    @invariant()
    def counts(self) -> None:
        assert len(self.both.tree) == len(self.both.model.nodes)
        assert self.both.tree.digest == self.both.tree.compute_digest()

    def teardown(self) -> None:
        self.both.check()
        if self.frozen is not None:
            self.checkpoint_succeeds()
        # Whatever happened, one more checkpoint makes the disk equal to the tree.
        checkpoint(self.both.tree, self.disk)
        assert_equal(load(self.disk), self.both.model)
        assert self.both.tree.changed_pages == 0
        assert checkpoint(self.both.tree, self.disk) == 0
        self.both.check()


def test_any_history() -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


# -- the znodes of a new server -------------------------------------------------------------------------


def test_a_planted_tree_is_what_a_new_zookeeper_has() -> None:
    both = Both()
    both.check()
    tree = both.tree
    cversion, aversion, children = 5, 6, 9
    assert [STAT.unpack(tree.stat(b"/"))[field] for field in (cversion, children)] == [-1, 1]
    assert [STAT.unpack(tree.stat(b"/zookeeper"))[field] for field in (cversion, children)] == [-2, 2]
    assert STAT.unpack(tree.stat(b"/zookeeper/config"))[aversion] == -1
    assert tree.acl(b"/zookeeper/config") == READ_ONLY
    assert tree.acl(b"/") == OPEN_ACL
    assert tree.slot(b"") == tree.slot(b"/") == 1
    with pytest.raises(ValueError, match="not empty"):
        tree.plant()


def test_an_empty_tree_answers() -> None:
    tree = Tree()
    assert len(tree) == tree.digest == tree.compute_digest() == tree.changed_pages == 0
    assert tree.slot(b"/") == tree.slot(b"/a") == 0
    for look in (
        tree.existing,
        tree.stat,
        tree.data,
        tree.acl,
        tree.owner,
        tree.children,
        tree.children_encoded,
    ):
        with pytest.raises(KeyError):
            look(b"/")
    with pytest.raises(KeyError):
        tree.create(b"/a", b"", zxid=1, time=1)
    with pytest.raises(KeyError):
        tree.delete(b"/", zxid=1)
    with pytest.raises(KeyError):
        tree.set_data(b"/", b"", version=1, zxid=1, time=1)
    with pytest.raises(KeyError):
        tree.set_acl(b"/", OPEN_ACL, version=1)
    assert tree.checkpoint_begin() == 0
    assert tree.checkpoint_take(1000) == []
    tree.checkpoint_end(True)
    tree.plant()
    assert tree.count == 4


def test_slots_that_hold_nothing_have_no_path() -> None:
    tree = planted()
    tree.create(b"/a", b"", zxid=1, time=1)
    slot = tree.slot(b"/a")
    tree.delete(b"/a", zxid=2)
    for empty in (slot, 0, -1, 5000, 1 << 40):
        with pytest.raises(KeyError):
            tree.path(empty)


# -- lookup ---------------------------------------------------------------------------------------------


def test_the_table_grows_and_shrinks_exactly() -> None:
    tree = planted()
    rng = random.Random(7)
    there: dict[bytes, bytes] = {}
    for number in range(40_000):
        path = b"/t%d" % rng.randrange(1 << 40)
        tree.create(path, b"%d" % number, zxid=number, time=0)
        there[path] = b"%d" % number
    assert len(there) == 40_000
    paths = list(there)
    rng.shuffle(paths)
    gone = []
    # Deleting moves entries back into the holes: each must still be found afterwards, and nothing else.
    for path in paths[:30_000]:
        tree.delete(path, zxid=50_000)
        del there[path]
        gone.append(path)
    for path, data in there.items():
        assert tree.data(path) == data
    assert not any(map(tree.slot, gone))
    for path in gone[:20_000]:
        tree.create(path, b"again", zxid=60_000, time=0)
        there[path] = b"again"
    for path, data in there.items():
        assert tree.data(path) == data
    assert not any(map(tree.slot, gone[20_000:]))
    assert len(tree) == len(there) + 4
    assert tree.digest == tree.compute_digest()
    # Slots are used again: no more of them than there ever were znodes.
    assert max(map(tree.slot, there)) <= 40_000 + 4


def test_similar_paths_are_not_confused() -> None:
    both = Both()
    for path in (b"/a", b"/a/b", b"/a/b/c", b"/b", b"/b/c", b"/ab", b"/c", b"/a/bb", b"/a/b/cc"):
        both.create(path, path)
    both.check()
    for path in (b"/a/c", b"/a/b/", b"//a", b"a", b"/a//b", b"/", b"/a/bc", b"/bb", b"/a/b/c/c"):
        assert both.tree.slot(path) == (1 if path == b"/" else 0)


def test_long_and_deep_paths() -> None:
    both = Both()
    path = b""
    for _ in range(1500):
        path += b"/d"
        both.create(path, b"")
    both.create(b"/" + b"n" * 500_000, None)
    both.create(path + b"/" + b"m" * 100_000, b"x")
    assert both.tree.path(both.tree.slot(path)) == path
    disk: Disk = {}
    checkpoint(both.tree, disk)
    loaded = load(disk)
    assert loaded.digest == loaded.compute_digest() == both.tree.digest == both.model.digest
    assert loaded.slot(path + b"/" + b"m" * 100_000)


# -- children lists -------------------------------------------------------------------------------------


def test_kept_lists_follow_every_change() -> None:
    both = Both()
    both.create(b"/p")
    for number in range(KEPT_LIST + 5):
        both.create(b"/p/c%d" % number)
        both.check()
    both.set_data(b"/p/c3", b"not a change of the list")
    both.check()
    for number in range(KEPT_LIST + 5):
        both.delete(b"/p/c%d" % number)
        both.check()
    both.delete(b"/p")
    both.create(b"/q")  # in the slot of /p
    assert both.tree.children_encoded(b"/q") == bytes(4)
    both.check()


def test_more_lists_than_are_kept() -> None:
    # Lists are kept in 1,024 places by slot: parents 1,024 slots apart push each other out.
    tree = planted()
    parents = {}
    for number in range(100):
        parent = b"/p%d" % number
        tree.create(parent, b"", zxid=1, time=0)
        parents[parent] = {b"c%d-%d" % (number, child) for child in range(KEPT_LIST + number % 5)}
        for child in parents[parent]:
            tree.create(parent + b"/" + child, b"", zxid=1, time=0)
    for number in range(3000):
        tree.create(b"/z%d" % number, b"", zxid=1, time=0)
    slots: dict[int, list[bytes]] = {}
    for parent in parents:
        slots.setdefault(tree.slot(parent) % 1024, []).append(parent)
    assert any(len(same) > 1 for same in slots.values())
    for _ in range(2):
        for parent, expected in parents.items():
            assert set(encoded_names(tree.children_encoded(parent))) == expected
    for same in slots.values():
        for parent in same * 2:
            assert set(encoded_names(tree.children_encoded(parent))) == parents[parent]
            gone = parents[parent].pop()
            tree.delete(parent + b"/" + gone, zxid=2)
        for parent in same:
            assert set(encoded_names(tree.children_encoded(parent))) == parents[parent]


# -- digest ---------------------------------------------------------------------------------------------


def test_digest_does_not_depend_on_how_the_tree_came_about() -> None:
    rng = random.Random(3)
    one, other = Both(), Both()
    # The other server has lived before: its slots, tables and lists are different, so is its ACL numbering.
    for number in range(200):
        other.create(b"/old%d" % number, b"old", vector([(1, b"digest", b"u%d" % number)]), number % 4)
    for number in rng.sample(range(200), 200):
        other.delete(b"/old%d" % number)
    other.set_data(b"/", b"")
    one.set_data(b"/", b"")
    one.zxid = other.zxid = 1 << 33
    creates: dict[bytes, int] = {}
    for number in range(400):
        parent = rng.choice([path for path in one.model.nodes if one.model.nodes[path].owner == 0])
        creates[parent] = creates.get(parent, 0) + 1
        acl = vector([(number % 32, b"digest", b"v%d" % (number % 7))])
        for both in (one, other):
            both.create(join(parent, b"n%d" % number), b"%d" % number, acl, number % 3, creates[parent])
        if number == 200:
            disk: Disk = {}
            checkpoint(other.tree, disk)
            other.tree = load(disk)
    creates[b"/"] = creates.get(b"/", 0) + 1
    for both in (one, other):
        both.create(b"/last", None, parent_cversion=creates[b"/"])
        both.set_data(b"/", b"root", 1)
        both.model.nodes[b"/"].version = 1
        both.check()
    for path in (b"/zookeeper", b"/zookeeper/quota", b"/zookeeper/config"):
        assert one.tree.stat(path) == other.tree.stat(path)
    slots = [(one.tree.slot(path), other.tree.slot(path)) for path in one.model.nodes]
    assert any(mine != theirs for mine, theirs in slots)
    assert one.tree.digest == other.tree.digest != planted().digest


def test_digest_sees_every_field() -> None:
    def variant(**changes: object) -> int:
        both = Both()
        both.create(
            changes.get("path", b"/x"),  # type: ignore[arg-type]
            changes.get("data", b"data"),  # type: ignore[arg-type]
            OPEN_ACL,
            changes.get("owner", 0),  # type: ignore[arg-type]
            changes.get("parent_cversion", 1),  # type: ignore[arg-type]
        )
        if "version" in changes:
            both.set_data(b"/x", b"data", 7)
        if "aversion" in changes:
            both.set_acl(b"/x", OPEN_ACL, 7)
        if "zxid" in changes:
            both.set_data(b"/x", b"data", 0)
        both.check()
        return both.tree.digest

    digests = [
        variant(),
        variant(path=b"/y"),
        variant(data=b"dat"),
        variant(data=b"datA"),
        variant(data=b""),
        variant(data=None),
        variant(owner=1),
        variant(owner=CONTAINER),
        variant(parent_cversion=2),
        variant(version=True),
        variant(aversion=True),
        variant(zxid=True),
    ]
    assert len(set(digests)) == len(digests)


# -- checkpoints ----------------------------------------------------------------------------------------


def test_a_checkpoint_is_exact_while_everything_changes() -> None:
    both = Both()
    for number in range(500):
        both.create(
            b"/n%d" % number, b"%d" % number, vector([(31, b"digest", b"u%d" % (number % 40))]), number % 2
        )
    frozen = both.model.copy()
    disk: Disk = {}
    pages = both.tree.checkpoint_begin()
    # Every page changes while the checkpoint runs, and so many new znodes come that slots, slabs and page
    # states are enlarged under it.
    rng = random.Random(11)
    todo = rng.sample(range(500), 500)
    taken: list[tuple[bytes, bytes | None]] = []
    for step, number in enumerate(todo):
        path = b"/n%d" % number
        match step % 4:
            case 0:
                both.delete(path)
            case 1:
                both.set_data(path, b"changed" * (step % 9))
            case 2:
                both.set_acl(path, vector([(1, b"digest", b"w%d" % step)]))
            case _:
                both.create(b"/new%d" % step, b"new")
        if step % 100 == 50:
            taken += both.tree.checkpoint_take(2000)
    for number in range(5000):
        both.create(b"/more%d" % number, None)
    taken += take_all(both.tree, 3000)
    assert len(taken) == pages
    write(disk, taken)
    both.tree.checkpoint_end(True)
    assert_equal(load(disk), frozen)
    both.check()
    assert checkpoint(both.tree, disk) >= 5000 // PAGE_SLOTS
    assert_equal(load(disk), both.model)


def test_checkpoints_write_what_changed_only() -> None:
    both = Both()
    for number in range(PAGE_SLOTS * 50):
        both.create(b"/n%d" % number, b"x")
    disk: Disk = {}
    assert both.tree.changed_pages == both.tree.checkpoint_begin() - 1  # the ACL of /zookeeper/config
    assert both.tree.changed_pages == 0
    write(disk, take_all(both.tree))
    both.tree.checkpoint_end(True)
    assert checkpoint(both.tree, disk) == 0
    both.set_data(b"/n700", b"y")
    assert both.tree.changed_pages == 1
    assert checkpoint(both.tree, disk) == 1
    both.set_acl(b"/n700", vector([(31, b"digest", b"somebody")]))
    assert checkpoint(both.tree, disk) == 2
    assert_equal(load(disk), both.model)


def test_pages_without_znodes_are_removed() -> None:
    both = Both()
    disk: Disk = {}
    checkpoint(both.tree, disk)
    before = set(disk)
    acl = vector([(31, b"digest", b"somebody")])
    for number in range(PAGE_SLOTS * 10):
        both.create(b"/n%d" % number, b"x", acl)
    checkpoint(both.tree, disk)
    assert len(disk) >= len(before) + 10
    for number in range(PAGE_SLOTS * 10):
        both.delete(b"/n%d" % number)
    checkpoint(both.tree, disk)
    assert set(disk) == before
    both.tree = load(disk)
    both.check()
    both.create(b"/again", b"x", acl)
    both.check()


def test_a_failed_checkpoint_is_made_up_for() -> None:
    both = Both()
    disk: Disk = {}
    for number in range(100):
        both.create(b"/n%d" % number, b"x", vector([(31, b"digest", b"u%d" % number)]))
    for taken in (0, 1, 1 << 20):
        begun = both.tree.checkpoint_begin()
        if taken:
            both.tree.checkpoint_take(taken)
        both.set_data(b"/n50", b"%d" % taken)
        both.tree.checkpoint_end(False)
        assert both.tree.changed_pages == begun - 101  # the ACLs
    both.delete(b"/n3")
    both.set_acl(b"/n4", OPEN_ACL)
    checkpoint(both.tree, disk)
    assert_equal(load(disk), both.model)
    # One that fails after deletions must still remove them from the disk the next time.
    for number in range(5, 100):
        both.delete(b"/n%d" % number)
    both.tree.checkpoint_begin()
    take_all(both.tree)
    both.tree.checkpoint_end(False)
    checkpoint(both.tree, disk)
    assert_equal(load(disk), both.model)


def test_checkpoints_are_used_in_order() -> None:
    tree = planted()
    with pytest.raises(RuntimeError, match="no checkpoint"):
        tree.checkpoint_take(1)
    with pytest.raises(RuntimeError, match="no checkpoint"):
        tree.checkpoint_end(True)
    pages = tree.checkpoint_begin()
    assert pages == 2
    # Calling it done with pages left would lose them.
    for _ in range(pages):
        with pytest.raises(RuntimeError, match="not all been taken"):
            tree.checkpoint_end(True)
        assert len(tree.checkpoint_take(0)) == 1
    assert tree.checkpoint_take(0) == []
    tree.checkpoint_end(True)
    tree.set_data(b"/", b"", version=1, zxid=1, time=1)
    tree.checkpoint_begin()
    tree.set_data(b"/", b"", version=2, zxid=2, time=2)  # captured
    with pytest.raises(RuntimeError, match="not all been taken"):
        tree.checkpoint_end(True)
    tree.checkpoint_end(False)


def test_acls_stored_without_a_user_do_not_come_back() -> None:
    # A checkpoint may hold ACLs of requests that were under way. After a crash nobody uses them; they must
    # leave the disk before the same list gets another number.
    both = Both()
    disk: Disk = {}
    checkpoint(both.tree, disk)
    lists = [vector([(31, b"digest", b"u%d" % number)]) for number in range(10)]
    for number, acl in enumerate(lists):
        disk[b"a" + (number + 5).to_bytes(4, "big")] = acl
    for round_ in range(3):
        both.tree = load(disk)
        both.check()
        for number in (3, 0, 8):
            both.create(b"/r%d-%d" % (round_, number), b"", lists[number])
        checkpoint(both.tree, disk)
        stored = [value for key, value in disk.items() if key.startswith(b"a")]
        assert sorted(stored) == sorted({READ_ONLY, lists[3], lists[0], lists[8]})
    both.tree = load(disk)
    for path in [path for path in both.model.nodes if path.startswith(b"/r")]:
        both.delete(path)
        both.check()


def test_root_data_counts_after_a_load() -> None:
    both = Both()
    both.set_data(b"/", b"some data of the root")
    disk: Disk = {}
    checkpoint(both.tree, disk)
    both.tree = load(disk)
    both.check()
    both.set_data(b"/", None)
    both.check()


def test_views_can_be_loaded() -> None:
    disk: Disk = {}
    checkpoint(planted(), disk)
    tree = Tree()
    for key, value in disk.items():
        buffer = bytearray(value)
        tree.load_page(key, memoryview(buffer))
        buffer[:] = bytes(len(buffer))  # it was copied
        buffer += b"and may be resized: no view of it is left"
    tree.load_finish()
    assert tree.digest == planted().digest


# -- damaged checkpoints --------------------------------------------------------------------------------

RECORD = struct.Struct(
    "<B6q3iiIII"
)  # slot, zxids, times, owner, versions, data length, name length, parent, ACL
ROOT_PAGE = b"n\0\0\0\0"


def rich_disk() -> Disk:
    both = Both()
    rng = random.Random(5)
    for number in range(150):
        parent = rng.choice([path for path in both.model.nodes if path.count(b"/") < 6])
        both.create(
            join(parent, b"n%d" % number),
            rng.choice([None, b"", b"x" * number]),
            vector([(31, b"digest", b"u%d" % (number % 9))]),
            rng.choice([0, 0, 5, CONTAINER, ttl(1000)]),
        )
    for path in [path for path, node in both.model.nodes.items() if not node.children and b"n1" in path]:
        both.delete(path)
    disk: Disk = {}
    checkpoint(both.tree, disk)
    return disk


RICH = rich_disk()


def load_and_use(disk: Mapping[bytes, bytes]) -> bool:
    """Load what may be damaged. If it is taken for a tree, then it must be one and work; whether it was."""
    try:
        tree = load(disk)
    except TreeCorruption:
        return False
    paths, unseen = [], [b"/"]
    while unseen:
        path = unseen.pop()
        paths.append(path)
        below = tree.children(path)
        assert sorted(encoded_names(tree.children_encoded(path))) == sorted(below)
        unseen += [join(path, name) for name in below]
    assert len(set(paths)) == len(paths) == len(tree)
    assert tree.digest == tree.compute_digest()
    for path in paths:
        assert tree.path(tree.slot(path)) == path
        tree.stat(path)
        tree.data(path)
        tree.acl(path)
    for number, path in enumerate(sorted(paths, key=len, reverse=True)):
        tree.set_data(path, b"new", version=1, zxid=1, time=1)
        tree.set_acl(path, OPEN_ACL, version=1)
        if path != b"/" and number % 3:
            if not tree.children(path):
                tree.delete(path, zxid=2)
        elif not tree.slot(join(path, b"made later")):
            tree.create(join(path, b"made later"), b"", READ_ONLY, zxid=2, time=2)
    assert tree.digest == tree.compute_digest()
    again: Disk = {}
    take = tree.checkpoint_begin()
    pages = take_all(tree)
    assert len(pages) == take
    write(again, pages)
    tree.checkpoint_end(True)
    return True


def damage(rng: random.Random, disk: Disk) -> None:
    """Change something, as a disk, a bug or an adversary might."""
    key = rng.choice(sorted(disk))
    value = bytearray(disk[key])
    match rng.randrange(9):
        case 0 if value:
            value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
        case 1 if value:
            value[rng.randrange(len(value))] = rng.choice([0, 1, 0x1F, 0x20, 0x7F, 0x80, 0xFF])
        case 2:
            del value[rng.randrange(len(value) + 1) :]
        case 3:
            value += rng.randbytes(rng.choice([1, 76, 77, 78, 200]))
        case 4:
            del disk[key]
            return
        case 5:
            other = rng.choice(sorted(disk))
            disk[key], disk[other] = disk[other], disk[key]
            return
        case 6:
            # The same page under another number; large ones are tested one by one.
            disk[rng.choice(b"na").to_bytes(1, "big") + rng.randrange(3000).to_bytes(4, "big")] = bytes(value)
            return
        case 7 if key.startswith(b"n") and len(value) > RECORD.size:
            # A field of a record: lengths, parents and ACLs are the dangerous ones.
            at = 1
            for _ in range(rng.randrange(20)):
                if at + RECORD.size < len(value):
                    data, name = struct.unpack_from("<iI", value, at + 61)
                    after = at + RECORD.size + name + max(data, 0)
                    at = after if after + RECORD.size <= len(value) else at
            special = [
                0,
                1,
                2,
                31,
                32,
                77,
                0x7FFFFFFF,
                0x80000000,
                0xFFFFFFB2,
                0xFFFFFFB3,
                0xFFFFFFFE,
                0xFFFFFFFF,
            ]
            struct.pack_into("<I", value, at + rng.choice([61, 65, 69, 73]), rng.choice(special))
        case _:
            start = rng.randrange(len(value) + 1)
            value[start : start + rng.randrange(100)] = rng.randbytes(rng.randrange(100))
    disk[key] = bytes(value)


def damaged_loads(seed: int, rounds: int) -> tuple[int, int]:
    """Refused and accepted loads of `rounds` damaged checkpoints."""
    rng = random.Random(seed)
    accepted = 0
    for _ in range(rounds):
        disk = dict(RICH)
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            damage(rng, disk)
        accepted += load_and_use(disk)
    return rounds - accepted, accepted


def test_damaged_checkpoints_never_crash() -> None:
    # In a process of its own: a crash must not take the other tests with it. An address space limit turns an
    # attempt to allocate by a damaged length into an error.
    code = "import resource, test_tree; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)); "
    code += f"print(*test_tree.damaged_loads({random.Random(1).randrange(1 << 30)}, 1500))"
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([here, os.path.dirname(here), os.path.dirname(os.path.dirname(here))])
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        env={**os.environ, "PYTHONPATH": path, "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    refused, accepted = map(int, done.stdout.split())
    assert refused > 300
    assert accepted > 100


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([key for key in sorted(RICH) if key.startswith(b"n")]),
    st.integers(0, 1 << 20),
    st.integers(1, 255),
)
def test_no_single_flip_passes_unseen(key: bytes, at: int, flip: int) -> None:
    # The digest is kept with a checkpoint: a damaged page is refused, or the digest tells (but for ACLs).
    value = bytearray(RICH[key])
    value[at % len(value)] ^= flip
    whole = load(RICH)
    try:
        tree = load({**RICH, key: bytes(value)})
    except TreeCorruption:
        return
    if tree.digest == whole.digest:
        paths = [tree.path(slot) for slot in range(1, 400) if has_slot(tree, slot)]
        assert sorted(paths) == sorted(whole.path(slot) for slot in range(1, 400) if has_slot(whole, slot))
        assert all(
            tree.stat(path) == whole.stat(path) and tree.data(path) == whole.data(path) for path in paths
        )


def has_slot(tree: Tree, slot: int) -> bool:
    try:
        tree.path(slot)
    except KeyError:
        return False
    return True


def record(
    slot: int = 2,
    *,
    name: bytes = b"name",
    data: bytes | None = b"data",
    parent: int = 1,
    acl: int = 0,
    name_len: int | None = None,
    data_len: int | None = None,
) -> bytes:
    data_len = (-1 if data is None else len(data)) if data_len is None else data_len
    name_len = len(name) if name_len is None else name_len
    numbers = (1, 1, 1, 1, 1, 0, 0, 0, 0)
    return RECORD.pack(slot, *numbers, data_len, name_len, parent, acl) + name + (data or b"")


ROOT_RECORD = record(1, name=b"", data=b"", parent=0)


def test_records_made_by_hand_load() -> None:
    tree = load({ROOT_PAGE: b"\1" + ROOT_RECORD + record(2) + record(7, name=b"x", data=None, parent=2)})
    assert tree.data(b"/name") == b"data"
    assert tree.data(b"/name/x") is None
    assert len(tree) == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"", b"\1"),
        (b"n", b"\1"),
        (b"n\0\0\0", b"\1"),
        (b"n\0\0\0\0\0\0\0\0\0\0", b"\1"),
        (b"x\0\0\0\0", b"\1"),
        (b"n\0\0\0\1", b""),
        (b"n\0\0\0\1", b"\0"),
        (b"n\0\0\0\1", b"\2" + record()),
        (b"n\x08\0\0\0", b"\1" + record()),
        (b"n\x07\xff\xff\xff", b"\1" + record()),
        (b"n\xff\xff\xff\xff", b"\1" + record()),
        (b"a\0\0\0\0", READ_ONLY),
        (b"a\xff\xff\xff\xff", READ_ONLY),
        (b"a\x80\0\0\0", READ_ONLY),
        (b"a\0\0\0\1", OPEN_ACL),
        (b"n\0\0\0\0", b"\1" + record(0)),
        (b"n\0\0\0\0", b"\1" + record(PAGE_SLOTS)),
        (b"n\0\0\0\0", b"\1" + record(255)),
        (b"n\0\0\0\0", b"\1" + record() + record()),
        (b"n\0\0\0\0", b"\1" + record()[:-1]),
        (b"n\0\0\0\0", b"\1" + record()[:70]),
        (b"n\0\0\0\0", b"\1" + record(data_len=-2)),
        (b"n\0\0\0\0", b"\1" + record(data_len=0x7FFFFFFF)),
        (b"n\0\0\0\0", b"\1" + record(data_len=-0x80000000)),
        (b"n\0\0\0\0", b"\1" + record(name_len=0xFFFFFFFF)),
        (b"n\0\0\0\0", b"\1" + record(name_len=0xFFFFFFFF - 76)),
        (b"n\0\0\0\0", b"\1" + record(name_len=0xFFFFFFFF - 76, data_len=0x7FFFFFFF)),
    ],
)
def test_pages_that_do_not_decode(key: bytes, value: bytes) -> None:
    tree = Tree()
    with pytest.raises(TreeCorruption):
        tree.load_page(key, value)


@pytest.mark.parametrize(
    "records",
    [
        b"",
        record(),
        ROOT_RECORD + record(parent=0),
        ROOT_RECORD + record(parent=2),
        ROOT_RECORD + record(parent=3),
        ROOT_RECORD + record(parent=0xFFFFFFFF),
        ROOT_RECORD + record(2, parent=3) + record(3, parent=2),
        ROOT_RECORD + record(2, parent=1) + record(3, parent=4, name=b"b"),
        ROOT_RECORD + record(acl=1),
        ROOT_RECORD + record(acl=0xFFFFFFFF),
        ROOT_RECORD + record(name=b""),
        ROOT_RECORD + record(name=b"a/b"),
        ROOT_RECORD + record(2) + record(3),
        record(1, name=b"root", parent=0),
        record(1, name=b"", parent=0, acl=1),
        record(1, name=b"", parent=0, acl=0x0FFFFFFF),
    ],
)
def test_pages_that_do_not_form_a_tree(records: bytes) -> None:
    tree = Tree()
    tree.load_page(ROOT_PAGE, b"\1" + records)
    with pytest.raises(TreeCorruption):
        tree.load_finish()


def test_a_lost_acl_is_noticed() -> None:
    key = next(key for key in sorted(RICH, reverse=True) if key.startswith(b"a"))
    with pytest.raises(TreeCorruption, match="unknown ACL"):
        load({other: value for other, value in RICH.items() if other != key})


def test_pages_are_not_loaded_over_znodes() -> None:
    tree = planted()
    with pytest.raises(TreeCorruption, match="twice"):
        tree.load_page(ROOT_PAGE, b"\1" + ROOT_RECORD)


# -- memory ---------------------------------------------------------------------------------------------


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_used_again() -> None:
    tree = planted()
    sizes = []
    for round_ in range(4):
        acls = itertools.cycle([vector([(31, b"digest", b"r%d-%d" % (round_, n))]) for n in range(100)])
        tree.create(b"/p", b"", zxid=1, time=0)
        for number in range(100_000):
            tree.create(b"/p/%d" % number, b"x" * 100, next(acls), owner=number % 5, zxid=1, time=0)
        assert len(tree.children_encoded(b"/p")) > 800_000
        for number in range(100_000):
            path = b"/p/%d" % number
            tree.set_data(path, b"y" * 150, version=1, zxid=1, time=0)
            tree.delete(path, zxid=1)
        tree.delete(b"/p", zxid=1)
        sizes.append(resident())
    assert len(tree) == 4
    assert len(tree.acls) == 2
    assert tree.ephemerals == {}
    # One round's znodes alone are 25 MB and more.
    assert sizes[-1] - sizes[0] < 8 << 20, sizes


def test_dropped_trees_give_their_memory_back() -> None:
    disk: Disk = {}
    both = Both()
    for number in range(5000):
        both.create(b"/n%d" % number, b"x" * 500, vector([(31, b"digest", b"u%d" % number)]))
    checkpoint(both.tree, disk)
    sizes = []
    for _ in range(30):
        tree = load(disk)
        tree.children_encoded(b"/")
        tree.checkpoint_begin()
        tree.set_data(b"/n1", b"", version=1, zxid=1, time=1)
        # A load that fails half-way gives back what it had.
        broken = Tree()
        for key in sorted(disk, reverse=True):
            broken.load_page(key, disk[key])
        with pytest.raises(TreeCorruption):
            broken.load_page(ROOT_PAGE, disk[ROOT_PAGE])
        sizes.append(resident())
    # Each of the sixty trees is about 4 MB.
    assert sizes[-1] - sizes[5] < 16 << 20, sizes
