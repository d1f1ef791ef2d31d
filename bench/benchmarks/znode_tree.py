"""The znode tree in memory: 1000 operations at 10^3 to 10^6 znodes, and on parents with 10 to 10^5 children.

Expected: lookup, insert and delete flat in the size of the tree (a hash of the whole path), but for the caches of the
processor, which a tree of more than some 10^4 znodes leaves; insert and delete flat in the number of siblings; listing
children linear in their number; the digest of everything linear in the size. Memory a znode: flat.
"""

from __future__ import annotations

from functools import lru_cache

from material import DATA, NOW, family, grown, leaf, some

from fastzk._tree import Tree

from .support import need_size

_tree = lru_cache(maxsize=1)(grown)
_family = lru_cache(maxsize=1)(family)
TURNS = 1000


class Look:
    """1000 znodes of a tree, at random."""

    params = (1_000, 10_000, 100_000, 1_000_000)
    param_names = ("znodes",)
    repeat = (5, 20, 2.0)

    def setup(self, leaves: int) -> None:
        need_size(leaves)
        self.tree = _tree(leaves)
        self.paths = [leaf(number) for number in some(leaves, TURNS)]

    def time_lookup_1000(self, _leaves: int) -> None:
        slot = self.tree.slot
        for path in self.paths:
            slot(path)

    def time_missing_1000(self, _leaves: int) -> None:
        slot = self.tree.slot
        for path in self.paths:
            slot(path + b"-")

    def time_set_data_1000(self, leaves: int) -> None:
        set_data = self.tree.set_data
        for path in self.paths:
            set_data(path, DATA, version=1, zxid=leaves + 10, time=NOW)

    def time_data_and_stat_1000(self, _leaves: int) -> None:
        tree = self.tree
        for path in self.paths:
            tree.data(path)
            tree.stat(path)


class _Fresh:
    """A tree, and 1000 paths below its parents at which there is nothing yet."""

    params = (1_000, 10_000, 100_000, 1_000_000)
    param_names = ("znodes",)
    repeat = (5, 20, 2.0)
    paths: tuple[bytes, ...] = ()

    def setup(self, leaves: int) -> None:
        need_size(leaves)
        self.tree = _tree(leaves)
        self.paths = tuple(leaf(number) + b"-%d" % turn for turn, number in enumerate(some(leaves, TURNS)))
        self.zxid = leaves + 10

    def teardown(self, _leaves: int) -> None:
        for path in self.paths:
            if self.tree.slot(path):
                self.tree.delete(path, zxid=self.zxid)


class Insert(_Fresh):
    """1000 znodes more, anywhere."""

    def time_insert_1000(self, _leaves: int) -> None:
        create, zxid = self.tree.create, self.zxid
        for path in self.paths:
            create(path, DATA, zxid=zxid, time=NOW)


class Delete(_Fresh):
    """1000 znodes less: those that were made just before."""

    def setup(self, leaves: int) -> None:
        super().setup(leaves)
        for path in self.paths:
            self.tree.create(path, DATA, zxid=self.zxid, time=NOW)

    def time_delete_1000(self, _leaves: int) -> None:
        delete, zxid = self.tree.delete, self.zxid
        for path in self.paths:
            delete(path, zxid=zxid)


class Siblings:
    """A parent with ever more children."""

    params = (10, 100, 1_000, 10_000, 100_000)
    param_names = ("children",)
    repeat = (5, 20, 2.0)

    def setup(self, children: int) -> None:
        need_size(children)
        self.tree = _family(children)

    def time_children(self, _children: int) -> None:
        self.tree.children(b"/all")

    def time_children_encoded(self, _children: int) -> None:
        self.tree.children_encoded(b"/all")

    def time_insert_and_delete_1000(self, children: int) -> None:
        tree, zxid = self.tree, children + 10
        for _ in range(TURNS):
            tree.create(b"/all/another", b"", zxid=zxid, time=NOW)
            tree.delete(b"/all/another", zxid=zxid)


class Digest:
    """The digest of the whole tree, from every znode."""

    params = (1_000, 10_000, 100_000, 1_000_000)
    param_names = ("znodes",)
    repeat = (2, 5, 2.0)

    def setup(self, leaves: int) -> None:
        need_size(leaves)
        self.tree = _tree(leaves)

    def time_digest(self, _leaves: int) -> None:
        self.tree.compute_digest()


class Memory:
    """The most memory a process takes that makes such a tree, some 25 MB of Python among it."""

    params = (1_000, 10_000, 100_000, 1_000_000)
    param_names = ("znodes",)

    def setup(self, leaves: int) -> None:
        need_size(leaves)

    def peakmem_tree(self, leaves: int) -> Tree:
        return grown(leaves)
