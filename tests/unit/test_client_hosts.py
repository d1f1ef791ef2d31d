"""Connection strings, and the order in which servers are tried."""

from __future__ import annotations

import random

import pytest

from fastzk.client.hosts import Rotation, Server, Target, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", Target((Server("a", 2181),))),
        ("a:1,b:2", Target((Server("a", 1), Server("b", 2)))),
        (" a:1 , b ", Target((Server("a", 1), Server("b", 2181)))),
        ("a:1/x/y", Target((Server("a", 1),), "/x/y")),
        ("a:1/", Target((Server("a", 1),))),
        ("a:1//x//", Target((Server("a", 1),), "/x")),
        ("[::1]:5,[fe80::2]", Target((Server("::1", 5), Server("fe80::2", 2181)))),
        ("zk://a,b:3/x?timeout=2.5", Target((Server("a", 2181), Server("b", 3)), "/x", 2.5)),
        ("zks://[::1]:5", Target((Server("::1", 5),), "", None, True)),
        (["a:1", "b:2"], Target((Server("a", 1), Server("b", 2)))),
        (["a:1", "/x"], Target((Server("a", 1),), "/x")),
    ],
)
def test_parse(text: str | list[str], expected: Target) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "/x",
        "a:0",
        "a:65536",
        "a:x",
        "::1",
        "[::1",
        "[::1]5",
        ":2181",
        "http://a",
        "zk://a?timeout=0",
        "zk://a?timeout=x",
        "zk://a?colour=red",
        "a/../b",
    ],
)
def test_what_is_not_a_connection_string(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_servers_as_text() -> None:
    assert (str(Server("a", 1)), str(Server("::1", 2))) == ("a:1", "[::1]:2")


def test_every_server_is_tried_before_a_pause() -> None:
    servers = [Server(name, 1) for name in "abcd"]
    rotation = Rotation(servers, rng=random.Random(1), first_delay=0.1, max_delay=1.0)
    first = [rotation.next() for _ in range(4)]
    assert sorted(each.server for each in first) == servers
    assert [each.delay for each in first] == [0.0] * 4
    pauses = []
    for _ in range(8):
        attempt = rotation.next()
        assert 0 < attempt.delay <= 1.0
        pauses.append(attempt.delay)
        assert [rotation.next().delay for _ in range(3)] == [0.0] * 3
    assert pauses[0] <= 0.1
    assert max(pauses) > 0.5


def test_no_pause_after_a_success() -> None:
    rotation = Rotation([Server("a", 1)])
    assert rotation.next().delay == 0
    assert rotation.next().delay > 0
    rotation.succeeded()
    assert rotation.next().delay == 0


def test_a_server_that_is_preferred_comes_next() -> None:
    servers = [Server(name, 1) for name in "abc"]
    rotation = Rotation(servers, shuffle=False)
    for _ in range(3):
        rotation.next()
    rotation.prefer(servers[1])
    assert [rotation.next() for _ in range(3)] == [(servers[1], 0.0), (servers[2], 0.0), (servers[0], 0.0)]
    rotation.prefer(Server("gone", 1))
    assert rotation.next().server == servers[1]


def test_clients_begin_with_different_servers() -> None:
    servers = [Server(name, 1) for name in "abcdefgh"]
    assert len({Rotation(servers, rng=random.Random(seed)).next().server for seed in range(50)}) > 4
    assert {Rotation(servers, shuffle=False).next().server for _ in range(5)} == {servers[0]}
