"""The token bucket of connections and its drop chance. Time and chance are the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastzk.server.config import Config
from fastzk.server.throttle import ConnectionThrottle, TokenBucket, connection_throttle


class Clock:
    def __init__(self) -> None:
        self.ms = 5_000_000

    def __call__(self) -> float:
        return self.ms / 1000


def bucket(
    clock: Clock, max_tokens: int, chance: Callable[[], float] = lambda: 0.0, **rest: Any
) -> TokenBucket:
    return TokenBucket(max_tokens, clock=clock, chance=chance, **rest)


def admitted(tokens: TokenBucket, attempts: int, need: int = 1) -> int:
    return sum(tokens.admit(need) for _ in range(attempts))


def test_a_burst_and_the_rate_behind_it() -> None:
    clock = Clock()
    tokens = bucket(clock, 10, fill_ms=100, fill_count=2)
    assert admitted(tokens, 20) == 10
    assert tokens.deficit == 10
    clock.ms += 100
    assert admitted(tokens, 20) == 0  # more than the fill time has to pass
    clock.ms += 1
    assert admitted(tokens, 20) == 2
    clock.ms += 250
    assert admitted(tokens, 20) == 5
    clock.ms += 10_000_000
    assert admitted(tokens, 20) == 10


def test_a_request_takes_all_it_needs_or_nothing() -> None:
    clock = Clock()
    tokens = bucket(clock, 5)
    assert admitted(tokens, 3, need=3) == 1
    assert tokens.deficit == 3
    assert admitted(tokens, 3, need=2) == 1
    assert tokens.deficit == 5


@given(
    st.integers(1, 50), st.integers(1, 200), st.integers(1, 20), st.lists(st.integers(0, 500), max_size=60)
)
def test_never_more_than_burst_and_rate(
    max_tokens: int, fill_ms: int, fill_count: int, waits: list[int]
) -> None:
    clock = Clock()
    tokens = bucket(clock, max_tokens, fill_ms=fill_ms, fill_count=fill_count)
    total = passed = 0
    for wait in waits:
        clock.ms += wait
        passed += wait
        total += admitted(tokens, 5)
        assert 0 <= tokens.deficit <= max_tokens
        assert total <= max_tokens + passed * fill_count / fill_ms


def test_drop_chance_rises_and_falls() -> None:
    clock = Clock()
    tokens = bucket(
        clock,
        4,
        chance=lambda: 0.5,
        fill_ms=1000,
        freeze_ms=10,
        drop_increase=0.3,
        drop_decrease=0.2,
        decrease_ratio=0.5,
    )
    assert admitted(tokens, 9) == 4
    assert tokens.drop_chance == 0
    for expected in (0.3, 0.6, 0.9, 1.0, 1.0):
        clock.ms += 11
        assert not tokens.admit()
        assert not tokens.admit()  # frozen: nothing changes before the time has passed
        assert tokens.drop_chance == pytest.approx(expected)
    clock.ms += 2001  # two tokens: as many missing as may be
    assert not tokens.admit()
    assert tokens.drop_chance == pytest.approx(0.8)
    assert tokens.deficit == 2  # who is dropped takes no token
    for expected in (0.6, 0.4):
        clock.ms += 11
        passed = tokens.admit()
        assert tokens.drop_chance == pytest.approx(expected)
    assert passed
    assert tokens.deficit == 3
    clock.ms += 11
    assert tokens.admit()  # one token is left, which changes nothing
    assert tokens.drop_chance == pytest.approx(0.4)


def config(**settings: Any) -> Config:
    return Config(data_dir=Path("/d"), data_log_dir=Path("/d"), **settings)


def test_no_limit_by_default() -> None:
    assert connection_throttle(config()) is None


def test_weights() -> None:
    plain = connection_throttle(config(connection_max_tokens=4, connection_fill_time_ms=10**9))
    assert plain is not None
    assert [plain(renewing) for renewing in (True, False, True, False, True)] == [True] * 4 + [False]
    weighted = {
        "connection_max_tokens": 4,
        "connection_fill_time_ms": 10**9,
        "connection_weight_enabled": True,
    }
    throttle = connection_throttle(config(**weighted))
    assert throttle is not None  # 12 tokens, 3 for a new session, 2 for an old one
    assert [throttle(renewing) for renewing in (False, True, True, True, False)] == [True] * 5
    assert not throttle(True)
    throttle = connection_throttle(config(**weighted, connection_local_weight=5))
    assert throttle is not None
    assert [throttle(renewing) for renewing in (True, False, True, False, True)] == [True] * 4 + [False]


def test_refusals_are_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    throttle = ConnectionThrottle(bucket(clock, 1, fill_ms=10**9), clock=clock)
    assert throttle(False)
    for _ in range(100):
        assert not throttle(False)
    clock.ms += 1000
    assert not throttle(True)
    assert [record.getMessage().split()[2] for record in caplog.records] == ["count=1", "count=100"]
    assert throttle.drop_chance == 0
