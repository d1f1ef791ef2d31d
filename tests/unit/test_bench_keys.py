"""Keys are drawn as their distribution says. Seeds are fixed, so the bounds either hold always or never."""

from __future__ import annotations

from collections import Counter

import pytest

from fastzk.bench._keys import KeyChooser
from fastzk.bench.plan import KeyDistribution

DRAWS = 200_000


def drawn(distribution: str, keys: int, seed: int = 1) -> Counter[int]:
    return Counter(KeyChooser(KeyDistribution.parse(distribution), keys, seed).draw(DRAWS))


def chi_square(found: Counter[int], shares: list[float]) -> float:
    """Pearson's statistic; for many keys it is about their number, give or take its square root."""
    return sum((found[key] - share * DRAWS) ** 2 / (share * DRAWS) for key, share in enumerate(shares))


def assert_distributed(found: Counter[int], shares: list[float]) -> None:
    assert sum(found.values()) == DRAWS
    assert set(found) <= set(range(len(shares)))
    freedom = len(shares) - 1
    assert abs(chi_square(found, shares) - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("keys", [2, 10, 1000])
def test_uniform(keys: int) -> None:
    assert_distributed(drawn("uniform", keys), [1 / keys] * keys)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.99, 1.5])
def test_zipf(exponent: float) -> None:
    weights = [rank**-exponent for rank in range(1, 501)]
    assert_distributed(drawn(f"zipf:{exponent}", 500), [weight / sum(weights) for weight in weights])


def test_hot() -> None:
    assert_distributed(drawn("hot:0.1:0.9", 100), [0.9 / 10] * 10 + [0.1 / 90] * 90)


def test_hot_with_all_keys_hot_has_no_others() -> None:
    assert_distributed(drawn("hot:1:0.5", 10), [0.1] * 10)


def test_hot_with_the_whole_share_leaves_nothing_to_others() -> None:
    assert set(drawn("hot:0.5:1", 10)) == set(range(5))


def test_sequential_takes_each_in_turn_from_its_position_on() -> None:
    chooser = KeyChooser(KeyDistribution.parse("sequential"), 5, position=3)
    assert chooser.draw(7) == [3, 4, 0, 1, 2, 3, 4]


def test_the_same_seed_draws_the_same() -> None:
    uniform = KeyDistribution.parse("uniform")
    first, again, other = (KeyChooser(uniform, 1000, seed).draw(100) for seed in (7, 7, 8))
    assert first == again
    assert first != other


@pytest.mark.parametrize("distribution", ["uniform", "sequential", "zipf:0.99", "hot:0.1:0.9"])
def test_one_key_is_always_that_key(distribution: str) -> None:
    assert set(KeyChooser(KeyDistribution.parse(distribution), 1).draw(50)) == {0}


def test_no_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="not a number of keys"):
        KeyChooser(KeyDistribution.parse("uniform"), 0)
