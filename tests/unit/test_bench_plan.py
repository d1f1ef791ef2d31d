"""What the load generator is asked to do: read, checked, divided among processes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastzk.bench import frames
from fastzk.bench.plan import OPERATIONS, KeyDistribution, Mix, Plan


def test_a_mix_is_read_with_its_shares() -> None:
    mix = Mix.parse("get=90, set=10")
    assert mix.shares == {"get": 0.9, "set": 0.1}
    assert str(mix) == "get=90,set=10"
    assert not mix.makes


def test_a_mix_may_leave_out_weights() -> None:
    assert Mix.parse("get,create-delete=3").shares == {"get": 0.25, "create-delete": 0.75}
    assert Mix.parse("get,create-delete=3").makes


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("frobnicate=1", "no operation 'frobnicate'"),
        ("", "no operation ''"),
        ("get=1,get=2", "twice"),
        ("get=0", "above 0"),
        ("get=-1", "above 0"),
        ("get=much", "the weight of get is a number, not 'much'"),
        ("get=nan", "is a number"),
        ("get=inf", "is a number"),
    ],
)
def test_a_wrong_mix_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Mix.parse(text)


@pytest.mark.parametrize("text", ["uniform", "sequential", "zipf:0.99", "zipf:2", "hot:0.1:0.9"])
def test_a_distribution_reads_back_as_it_was_written(text: str) -> None:
    assert str(KeyDistribution.parse(text)) == text


def test_distributions_have_defaults() -> None:
    assert str(KeyDistribution.parse("zipf")) == "zipf:0.99"
    assert str(KeyDistribution.parse("hot")) == "hot:0.1:0.9"


@pytest.mark.parametrize(
    "text", ["", "normal", "uniform:1", "zipf:-1", "zipf:11", "zipf:x", "zipf:1:2", "hot:0.1", "hot:0:1", "hot:0.5:1.1"]
)
def test_a_wrong_distribution_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"distribution|zipf|hot"):
        KeyDistribution.parse(text)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"connections": 0}, "--connections is from 1"),
        ({"window": 0}, "--window is from 1"),
        ({"keys": 0}, "--keys is from 1"),
        ({"value_size": -1}, "--value-size is from 0"),
        ({"duration": 0.0}, "--duration is at least"),
        ({"warmup": -1.0}, "--warmup is at least"),
        ({"rate": 0.0}, "--rate is from"),
        ({"connections": 2, "processes": 3}, "3 processes need as many connections"),
        ({"poisson": True}, "needs --rate"),
        ({"watches": 5, "rate": 10.0}, "exclude each other"),
        ({"prefix": "bench"}, "--prefix is the path"),
        ({"prefix": "/"}, "--prefix is the path"),
        ({"hosts": "zks://127.0.0.1"}, "TLS is not supported"),
        ({"hosts": "127.0.0.1:x"}, "not a port"),
    ],
)
def test_a_wrong_plan_is_explained(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Plan(**values)


def test_the_root_is_below_the_chroot() -> None:
    assert Plan("127.0.0.1:2181/a/b").root == "/a/b/fastzk-bench"


@settings(max_examples=40, deadline=None)
@given(connections=st.integers(1, 500), processes=st.integers(1, 20))
def test_the_processes_share_all_connections(connections: int, processes: int) -> None:
    processes = min(processes, connections)
    plan = Plan(connections=connections, processes=processes)
    numbers: list[int] = []
    for process in range(processes):
        first, count = plan.share(process)
        assert count > 0
        numbers += range(first, first + count)
    assert numbers == list(range(connections))


def test_templates_say_where_their_digits_are() -> None:
    made = frames.templates("/root", keys=500, value_size=10, multi_size=4)
    assert made.keys() == {*OPERATIONS, "pair-create", "pair-delete", "watch"} - {"create-delete"}
    for name, template in made.items():
        frame = template.frame
        assert int.from_bytes(frame[:4]) == len(frame) - 4
        for place in template.keys:
            assert frame[place - 7 : place + 3] == b"/root/k000"
        if template.connection >= 0:
            assert frame[template.connection - 1 : template.connection + 7] == b"c000000/"
        if template.number >= 0:
            assert frame[template.number - 1 : template.number + 10] == b"n0000000000"
        expected = {"get": 1, "set": 1, "exists": 1, "multi": 4}
        assert len(template.keys) == expected.get(name, 0)


@pytest.mark.parametrize(("keys", "last"), [(1, "/r/k0"), (10, "/r/k9"), (11, "/r/k10"), (1000, "/r/k999")])
def test_key_paths_have_one_width(keys: int, last: str) -> None:
    assert frames.key_path("/r", keys - 1, keys) == last
    assert len(frames.key_path("/r", 0, keys)) == len(last)
