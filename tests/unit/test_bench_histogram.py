"""The latencies of the load generator: exact where they say so, to 0.8 % elsewhere, and readable by other tools."""

from __future__ import annotations

import base64
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastzk.bench._histogram import Histogram

LIMIT = 2**40 - 1
#: A histogram has 4352 slots, so an example takes a while; and a busy machine is no failure.
QUICK = settings(max_examples=40, deadline=None)
VALUES = st.lists(st.integers(0, LIMIT) | st.integers(0, 2000), min_size=1, max_size=60)


def made(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@QUICK
@given(VALUES, st.floats(0, 100))
def test_percentiles_are_those_of_the_sorted_values(values: list[int], percent: float) -> None:
    histogram = made(values)
    rank = min(max(math.floor(percent / 100 * len(values) + 0.5), 1), len(values))
    exact = sorted(values)[rank - 1]
    assert exact <= histogram.percentile(percent) <= exact * (1 + 1 / 128)


@QUICK
@given(VALUES)
def test_number_mean_and_extremes_are_exact(values: list[int]) -> None:
    histogram = made(values)
    assert histogram.count == len(values)
    assert histogram.least == min(values)
    assert histogram.most == max(values) == histogram.percentile(100)
    assert histogram.mean == pytest.approx(sum(values) / len(values))


@QUICK
@given(VALUES, VALUES)
def test_adding_is_recording_all(first: list[int], second: list[int]) -> None:
    sum_of_both = made(first)
    sum_of_both.add(made(second))
    assert sum_of_both == made(first + second)


@QUICK
@given(VALUES)
def test_a_copy_is_another_one(values: list[int]) -> None:
    histogram = made(values)
    copy = histogram.copy()
    histogram.record(1)
    assert copy == made(values)
    assert copy != histogram


@QUICK
@given(VALUES, st.integers(1, 10**12))
def test_it_travels_between_processes(values: list[int], times: int) -> None:
    histogram = made(values)
    histogram.record(77, times)
    back = pickle.loads(pickle.dumps(histogram))
    assert (back.count, back.least, back.most, back.mean) == (
        histogram.count,
        histogram.least,
        histogram.most,
        histogram.mean,
    )
    assert [back.percentile(p) for p in (0, 50, 99, 100)] == [histogram.percentile(p) for p in (0, 50, 99, 100)]


def test_an_empty_one_travels_too() -> None:
    assert pickle.loads(pickle.dumps(Histogram())) == Histogram()


def test_an_empty_one_is_all_zeros() -> None:
    empty = Histogram()
    assert (empty.count, empty.least, empty.most, empty.mean, empty.percentile(99)) == (0, 0, 0, 0.0, 0)


def test_what_is_too_long_counts_as_the_longest() -> None:
    assert made([2**50]).most == LIMIT


@pytest.mark.parametrize("percent", [-0.1, 100.1, math.nan])
def test_what_is_no_percentage_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="not a percentage"):
        made([1]).percentile(percent)


def test_a_negative_latency_is_refused() -> None:
    with pytest.raises(OverflowError):
        Histogram().record(-1)


def test_a_stall_is_filled_up_with_what_it_kept_from_being_measured() -> None:
    histogram = Histogram()
    histogram.record(100, 50)
    histogram.record(1000)
    # 900, 800, ... 100: what requests every 100 ns would have met
    assert histogram.corrected(100) == made([100] * 50 + [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100])
    assert histogram.count == 51


def test_nothing_is_filled_up_below_twice_the_interval() -> None:
    histogram = made([100, 150, 199])
    assert histogram.corrected(100) == histogram


def test_an_interval_is_positive() -> None:
    with pytest.raises(ValueError, match="not an interval"):
        Histogram().corrected(0)


# Written by the package hdrhistogram 0.10.8 (Python), a histogram from 1 to 2**40-1 with two digits.
FOREIGN_VALUES = {
    0: 1,
    5: 3,
    255: 1,
    256: 2,
    259: 1,
    1000: 7,
    123456: 100000,
    9876543210: 2,
    LIMIT: 1,
}
FOREIGN = "HISTFAAAADR4nJNpmSzMwMAgxgABTFCaEYj/g4D9B6gEO9tHZiYWpvfMfK95D8ziOajAcpWXCQBZiw28"


def foreign() -> Histogram:
    histogram = Histogram()
    for value, times in FOREIGN_VALUES.items():
        histogram.record(value, times)
    return histogram


def test_it_reads_what_others_wrote() -> None:
    read = Histogram.decode(FOREIGN)
    assert read.count == sum(FOREIGN_VALUES.values())
    for percent in (1, 50, 99.99, 99.999):
        assert read.percentile(percent) == foreign().percentile(percent)


def test_it_writes_what_others_write() -> None:
    # compressors differ, what they compress does not
    assert Histogram.decode(foreign().encode()) == Histogram.decode(FOREIGN)


@pytest.mark.parametrize(
    "text",
    ["", "nonsense!", "AAAA", base64.b64encode(b"\x1c\x84\x93\x14\0\0\0\x04abcd").decode(), FOREIGN[:-8]],
)
def test_what_is_no_histogram_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Histogram.decode(text)
