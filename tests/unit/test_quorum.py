"""Members, quorums and configurations of an ensemble: that quorums meet, and that texts are read back."""

from __future__ import annotations

import dataclasses
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastzk.server.zab.quorum import (
    Hierarchical,
    Joint,
    Majority,
    Member,
    Membership,
    MembershipError,
    Quorum,
    parse_member,
)

unhurried = settings(deadline=None)


def subsets(ids: frozenset[int]) -> list[frozenset[int]]:
    return [frozenset(each) for each in chain.from_iterable(combinations(sorted(ids), n) for n in range(len(ids) + 1))]


@st.composite
def quorums(draw: st.DrawFn) -> Quorum:
    voters = draw(st.frozensets(st.integers(0, 9), max_size=7))
    if draw(st.booleans()):
        return Majority(voters)
    # Some of those in the groups have no vote.
    listed = sorted(voters | draw(st.frozensets(st.integers(10, 12))))
    groups = {each: draw(st.integers(1, 4)) for each in listed}
    weights = {each: draw(st.integers(0, 3)) for each in listed}
    return Hierarchical(voters, groups, weights)


# ---- quorums


@unhurried
@given(quorums())
def test_any_two_quorums_have_a_voter_in_common(quorum: Quorum) -> None:
    reached = [each for each in subsets(quorum.voters) if quorum.reached(each)]
    assert all(one & other for one in reached for other in reached)


@unhurried
@given(quorums(), quorums())
def test_a_joint_quorum_meets_those_before_and_after(old: Quorum, new: Quorum) -> None:
    joint = Joint(old, new)
    assert joint.voters == old.voters | new.voters
    for each in subsets(joint.voters)[:300]:
        assert joint.reached(each) == (old.reached(each) and new.reached(each))
        if joint.reached(each):
            assert all(
                each & other for quorum in (old, new) for other in subsets(quorum.voters) if quorum.reached(other)
            )


@unhurried
@given(quorums(), st.sets(st.integers(-3, 40)), st.sets(st.integers(0, 12)))
def test_a_quorum_grows_and_strangers_do_not_count(quorum: Quorum, ids: set[int], more: set[int]) -> None:
    assert quorum.reached(ids) == quorum.reached(ids & quorum.voters)
    if quorum.reached(ids):
        assert quorum.reached(ids | more)


@pytest.mark.parametrize(("voters", "least"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_majority(voters: int, least: int) -> None:
    quorum = Majority(frozenset(range(voters)))
    assert quorum.reached(set(range(least)))
    assert not quorum.reached(set(range(least - 1)))


def test_nobody_is_no_quorum() -> None:
    assert not Majority(frozenset()).reached({1, 2})
    assert not Hierarchical(frozenset({1}), {1: 1}, {1: 0}).reached({1})


def test_hierarchical_as_in_zookeepers_example() -> None:
    voters = frozenset(range(1, 10))
    quorum = Hierarchical(voters, {each: (each + 2) // 3 for each in voters}, {})
    assert quorum.reached({1, 2, 4, 5})
    assert not quorum.reached({1, 2, 3, 4})
    assert not quorum.reached({1, 4, 7})
    assert quorum.reached({1, 2, 5, 6, 7})


def test_groups_and_servers_without_weight() -> None:
    groups = {1: 1, 2: 2, 3: 3, 4: 3}
    quorum = Hierarchical(frozenset(groups), groups, {1: 1, 2: 1, 3: 0, 4: 0})
    # The third group counts nothing, so both others are needed.
    assert quorum.reached({1, 2})
    assert not quorum.reached({1, 3, 4})
    weighted = Hierarchical(frozenset({1, 2, 3}), dict.fromkeys((1, 2, 3), 1), {1: 3, 2: 1, 3: 0})
    assert weighted.reached({1})
    assert not weighted.reached({2, 3})


def test_weight_of_one_without_a_vote_counts_in_its_group() -> None:
    quorum = Hierarchical(frozenset({1}), {1: 1, 9: 1}, {9: 1})
    assert not quorum.reached({1, 9})
    assert Hierarchical(frozenset({1}), {1: 1, 9: 1}, {9: 0}).reached({1})


@pytest.mark.parametrize(
    ("groups", "weights", "message", "unreadable"),
    [
        ({}, {}, "server 1 is in no group", False),
        ({1: 1, 2: 1}, {}, "server 2 is in group 1 but no participant", True),
        ({1: 1}, {1: -1}, "the weight of server 1 is less than 0", False),
    ],
)
def test_groups_that_make_no_sense(
    groups: dict[int, int], weights: dict[int, int], message: str, unreadable: bool
) -> None:
    with pytest.raises(MembershipError, match=f"^{message}$") as caught:
        Hierarchical(frozenset({1}), groups, weights)
    assert caught.value.unreadable == unreadable


# ---- members

HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True), st.sampled_from(["10.1.2.3", "::1", "0.0.0.0", "fe80::2"])
)
PORTS = st.integers(1, 65535)


@st.composite
def members(draw: st.DrawFn) -> Member:
    def address() -> tuple[str, int, int]:
        ports = draw(st.lists(PORTS, min_size=2, max_size=2, unique=True))
        return draw(HOSTS), ports[0], ports[1]

    def part() -> str:
        host = draw(HOSTS)
        return f"{f'[{host}]' if ':' in host else host}:{draw(PORTS)}"

    first, *others = dict.fromkeys(address() for _ in range(draw(st.integers(1, 3))))
    client = draw(st.sampled_from([[], ["plain"], ["", "tls"], ["plain", "tls"]]))
    text = ";".join(part() if each else "" for each in client)
    return Member(draw(st.integers(0, 255)), *first, draw(st.booleans()), text, tuple(others))


@unhurried
@given(members())
def test_a_member_is_read_back(member: Member) -> None:
    assert parse_member(member.id, member.text()) == member


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("localhost:2888:3888", "localhost:2888:3888:participant"),
        ("a:1:2;2181", "a:1:2:participant;0.0.0.0:2181"),
        (" a:1:2:OBSERVER ; b:3 ", "a:1:2:observer;b:3"),
        ("0.0.0.0:1:2:observer;0.0.0.0:3", "0.0.0.0:1:2:observer;0.0.0.0:3"),
        ("[::1]:1:2;[::1]:3", "[::1]:1:2:participant;[::1]:3"),
        ("a:1:2;;4", "a:1:2:participant;;0.0.0.0:4"),
        ("a:1:2;3;4", "a:1:2:participant;0.0.0.0:3;0.0.0.0:4"),
        ("a:1:2;", "a:1:2:participant"),
        ("a:1:2|b:3:4:observer", "a:1:2|b:3:4:observer"),
        ("a:1:2|a:1:2", "a:1:2:participant"),
    ],
)
def test_a_member_is_written_as_by_zookeeper(text: str, written: str) -> None:
    assert parse_member(7, text).text() == written


def test_the_parts_of_a_member() -> None:
    member = parse_member(3, "a:1:2|[::2]:3:4;[::1]:5;6")
    assert (member.id, member.host, member.quorum_port, member.election_port) == (3, "a", 1, 2)
    assert member.addresses == (("a", 1), ("::2", 3))
    assert member.client_address == ("::1", 5)
    assert member.secure_client_address == ("0.0.0.0", 6)
    assert member.endpoints() == {("a", 1), ("a", 2), ("::2", 3), ("::2", 4)}
    assert parse_member(3, "127.0.0.1:1:2;A:3").endpoints() == {("a", 3)}
    bare = parse_member(3, "a:1:2")
    assert bare.client_address is bare.secure_client_address is None


@pytest.mark.parametrize(
    ("text", "message", "unreadable"),
    [
        ("a", "is not of the form", False),
        ("a:1:2:3:4", "is not of the form", False),
        ("[::1]", "is not of the form", False),
        ("a:1:2:boss", "with role participant or observer", False),
        ("a:1:2;3;4;5", "is not of the form", False),
        ("a:1:2;b:c:3", "is not of the form", False),
        ("a:1:1", "port 1 is named twice", False),
        ("a:1:2:observer|b:1:2:participant", "two roles", False),
        ("a:1:x", "'x' is not a whole number", False),
        ("a:1:65536", "'65536' is out of range", True),
        ("a:0:1", "'0' is out of range", True),
        ("a:1:2;-1", "'-1' is out of range", True),
        ("a b:1:2", "'a b' is not an address or host name", False),
        ("a=b:1:2", "'a=b' is not an address or host name", False),
        ("a:1:2;:3", "'' is not an address or host name", False),
    ],
)
def test_texts_that_are_no_member(text: str, message: str, unreadable: bool) -> None:
    with pytest.raises(MembershipError) as caught:
        parse_member(1, text)
    assert message in str(caught.value)
    assert caught.value.unreadable == unreadable


# ---- the whole


@st.composite
def memberships(draw: st.DrawFn) -> Membership:
    chosen = draw(st.lists(members(), max_size=6, unique_by=lambda each: each.id))
    version = draw(st.integers(0, 2**63 - 1))
    if draw(st.booleans()):
        return Membership.of(chosen, version)
    groups = {each.id: draw(st.integers(0, 3)) for each in chosen if not each.observer or draw(st.booleans())}
    weights = {each: draw(st.integers(0, 3)) for each in groups}
    return Membership.of(chosen, version, groups, weights)


@unhurried
@given(memberships())
def test_a_configuration_is_read_back(membership: Membership) -> None:
    again = Membership.parse(membership.text())
    assert again == membership
    assert hash(again) == hash(membership)
    assert again.voters | again.observers == set(membership.members)
    assert not again.voters & again.observers
    assert again.electable <= again.voters


def test_the_text_is_that_of_the_real_server() -> None:
    # As a ZooKeeper 3.8 wrote it.
    text = (
        "server.1=localhost:23289:23389:participant\nserver.3=localhost:23291:23391:observer\n"
        "server.20=localhost:23290:23390:observer\ngroup.1=1\nweight.1=1\nversion=100000000"
    )
    membership = Membership.parse(text)
    assert membership.text() == text
    assert membership.version == 1 << 32
    assert (membership.voters, membership.observers) == ({1}, {3, 20})
    assert isinstance(membership.quorum, Hierarchical)


def test_members_come_in_their_order_and_cannot_be_changed() -> None:
    a, b = parse_member(2, "a:1:2"), parse_member(10, "b:1:2:observer")
    membership = Membership.of([b, a], 7)
    assert list(membership.members) == [2, 10]
    assert membership.quorum == Majority(frozenset({2}))
    assert membership.with_version(8) == dataclasses.replace(membership, version=8)
    with pytest.raises(TypeError):
        membership.members[3] = a  # type: ignore[index]
    with pytest.raises(AssertionError):
        Membership(0, {2: a}, Majority(frozenset({2, 3})))
    with pytest.raises(AssertionError):
        Membership(0, {3: a}, Majority(frozenset({2})))


def test_who_may_lead() -> None:
    servers = [parse_member(each, f"h{each}:1:2") for each in (1, 2, 3)]
    assert Membership.of(servers).electable == {1, 2, 3}
    assert Membership.of(servers, 0, dict.fromkeys((1, 2, 3), 1), {2: 0}).electable == {1, 3}


@pytest.mark.parametrize(
    ("text", "message", "unreadable"),
    [
        ("hello", "'hello' has no '='", False),
        ("tickTime=5", "'tickTime' does not belong", False),
        ("server.x=a:1:2", "'x' is not a whole number", True),
        ("server.1=a", "is not of the form", False),
        ("server.1=a:1:2\ngroup.1=1:1", "server 1 is in more than one group", False),
        ("server.1=a:1:2\ngroup.1=", "'' is not a whole number", True),
        ("server.1=a:1:2\nweight.1=1", "server 1 is in no group", False),
        ("server.1=a:1:2\ngroups.1=1", "'groups.1' does not belong", True),
        ("version=xyz", "the version 'xyz' is not hexadecimal", True),
    ],
)
def test_texts_that_are_no_configuration(text: str, message: str, unreadable: bool) -> None:
    with pytest.raises(MembershipError) as caught:
        Membership.parse(text)
    assert message in str(caught.value)
    assert caught.value.unreadable == unreadable


@unhurried
@given(st.text(max_size=80))
def test_any_text_is_a_configuration_or_an_error(text: str) -> None:
    try:
        membership = Membership.parse("server.1=" + text)
    except MembershipError:
        return
    assert Membership.parse(membership.text()) == membership
