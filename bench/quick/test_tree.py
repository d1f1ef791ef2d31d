"""The znode tree at two sizes, a hundred times apart: what is done to one znode should take about the same."""

from __future__ import annotations

import itertools
from functools import lru_cache

import pytest
from material import DATA, NOW, family, grown, leaf, some
from pytest_benchmark.fixture import BenchmarkFixture

from fastzk._paths import path_hash, validate

SIZES = pytest.mark.parametrize("leaves", [1_000, 100_000])
_tree = lru_cache(maxsize=2)(grown)


@SIZES
def test_lookup(benchmark: BenchmarkFixture, leaves: int) -> None:
    tree, paths = _tree(leaves), itertools.cycle([leaf(number) for number in some(leaves, 1000)])
    assert benchmark(lambda: tree.slot(next(paths)))


@SIZES
def test_create_and_delete(benchmark: BenchmarkFixture, leaves: int) -> None:
    tree, before = _tree(leaves), len(_tree(leaves))

    def turn() -> None:
        tree.create(b"/parent-0/new", DATA, zxid=leaves + 10, time=NOW)
        tree.delete(b"/parent-0/new", zxid=leaves + 10)

    benchmark(turn)
    assert len(tree) == before


@SIZES
def test_set_data(benchmark: BenchmarkFixture, leaves: int) -> None:
    tree, paths = _tree(leaves), itertools.cycle([leaf(number) for number in some(leaves, 1000)])
    benchmark(lambda: tree.set_data(next(paths), DATA, version=1, zxid=leaves + 10, time=NOW))
    assert tree.data(leaf(0)) == DATA


@pytest.mark.parametrize("children", [10, 1_000])
def test_children(benchmark: BenchmarkFixture, children: int) -> None:
    tree = family(children)
    assert len(benchmark(tree.children_encoded, b"/all")) > children


def test_validate_path(benchmark: BenchmarkFixture) -> None:
    assert benchmark(validate, "/services/frontend/node-17")


def test_hash_path(benchmark: BenchmarkFixture) -> None:
    assert benchmark(path_hash, b"/services/frontend/node-17", 17)
