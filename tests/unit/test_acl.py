"""ACLs: who may do what, by ZooKeeperServer.checkACL's rules and by ipaddress; and the table of lists."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model import string, vector

from fastzk._acl import OPEN_ACL, AclTable, permits

READ, WRITE, CREATE, DELETE, ADMIN, ALL = 1, 2, 4, 8, 16, 31
Identity = tuple[bytes | None, bytes | None]


def identities(*pairs: Identity) -> bytes:
    return b"".join(string(scheme) + string(who) for scheme, who in pairs)


NOBODY = identities()
ALICE = identities((b"ip", b"10.0.0.1"), (b"digest", b"alice:hash"))
SUPER = identities((b"ip", b"10.0.0.1"), (b"super", b""))


# -- who may do what ------------------------------------------------------------------------------------


@pytest.mark.parametrize("perm", [READ, WRITE, CREATE, DELETE, ADMIN])
def test_the_open_acl_permits_everything_to_everyone(perm: int) -> None:
    assert permits(OPEN_ACL, perm, NOBODY)
    assert permits(OPEN_ACL, perm, ALICE)


@pytest.mark.parametrize("perm", [READ, WRITE, CREATE, DELETE, ADMIN])
@pytest.mark.parametrize("granted", [0, READ, WRITE | CREATE, ADMIN, ALL, -1, 63])
def test_world_gives_its_own_permissions_only(perm: int, granted: int) -> None:
    acl = vector([(granted, b"world", b"anyone")])
    assert permits(acl, perm, NOBODY) == bool(granted & perm)


def test_one_of_several_permissions_is_enough() -> None:
    acl = vector([(WRITE, b"world", b"anyone")])
    assert permits(acl, READ | WRITE, NOBODY)
    assert not permits(acl, READ | ADMIN, NOBODY)


def test_entries_add_up() -> None:
    world = b"world", b"anyone"
    acl = vector([(READ, *world), (WRITE, b"digest", b"alice:hash"), (DELETE, *world)])
    assert [perm for perm in (1, 2, 4, 8, 16) if permits(acl, perm, NOBODY)] == [READ, DELETE]
    assert [perm for perm in (1, 2, 4, 8, 16) if permits(acl, perm, ALICE)] == [READ, WRITE, DELETE]


def test_only_anyone_is_the_world() -> None:
    for who in (b"", b"anyon", b"anyone ", b"ANYONE", None):
        assert not permits(vector([(ALL, b"world", who)]), READ, ALICE)
    assert not permits(vector([(ALL, b"worl", b"anyone")]), READ, ALICE)


def test_digest_needs_scheme_and_id() -> None:
    acl = vector([(ALL, b"digest", b"alice:hash")])
    assert permits(acl, READ, ALICE)
    assert not permits(acl, READ, NOBODY)
    for other in [
        (b"digest", b"alice:other"),
        (b"digest", b"alice:hash2"),
        (b"digest", b"alice:has"),
        (b"digest", b""),
        (b"sasl", b"alice:hash"),
        (b"digestx", b"alice:hash"),
        (b"", b"alice:hash"),
    ]:
        assert not permits(acl, READ, identities(other)), other


def test_any_of_several_identities_will_do() -> None:
    acl = vector([(READ, b"digest", b"bob:x"), (WRITE, b"digest", b"carol:y"), (ADMIN, b"ip", b"10.0.0.0/8")])
    users: list[Identity] = [(b"digest", b"user%d:z" % number) for number in range(50)]
    many = identities(*users, (b"digest", b"carol:y"), (b"ip", b"10.9.9.9"))
    assert [perm for perm in (1, 2, 4, 8, 16) if permits(acl, perm, many)] == [WRITE, ADMIN]


def test_the_super_identity_may_do_everything() -> None:
    for acl in (vector([]), vector([(0, b"world", b"anyone")]), vector([(READ, b"digest", b"bob:x")])):
        assert permits(acl, ADMIN, SUPER)
        assert not permits(acl, ADMIN, ALICE)
    # The name of the scheme counts, not an id that says so.
    assert not permits(vector([]), READ, identities((b"digest", b"super")))


# -- addresses ------------------------------------------------------------------------------------------


def by_ip(client: str, pattern: str) -> bool:
    return permits(vector([(READ, b"ip", pattern.encode())]), READ, identities((b"ip", client.encode())))


v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.tuples(v4, v4), st.tuples(v6, v6)), st.data())
def test_prefixes_against_ipaddress(
    pair: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ipaddress.IPv4Address | ipaddress.IPv6Address],
    data: st.DataObject,
) -> None:
    pattern, other = pair
    width = pattern.max_prefixlen
    prefix = data.draw(st.integers(0, width), label="prefix")
    # A client that shares `shared` leading bits with the pattern: the borders of the prefix matter.
    borders = {0, width, prefix, max(prefix - 1, 0), min(prefix + 1, width)}
    shared = data.draw(st.sampled_from(sorted(borders)), label="shared")
    mask = ((1 << shared) - 1) << (width - shared)
    client = type(pattern)((int(pattern) & mask) | (int(other) & ~mask & ((1 << width) - 1)))
    network = ipaddress.ip_network(f"{pattern}/{prefix}", strict=False)
    forms = [pattern.exploded]
    if (
        width == 128 and "." not in pattern.compressed
    ):  # newer Pythons print v4-mapped addresses in a mixed form
        forms += [pattern.compressed, pattern.compressed.upper()]
    for form in forms:
        assert by_ip(client.exploded, f"{form}/{prefix}") == (client in network)
        assert by_ip(client.exploded, form) == (client == pattern)


@pytest.mark.parametrize(
    ("client", "pattern"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1/32"),
        ("127.0.0.1", "0.0.0.0/0"),
        ("127.0.0.1", "+127.0.0.1"),  # Java's Integer.parseInt takes the sign
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("::", "0::"),
        ("fe80::1", "fe80::/10"),
        ("1::", "1:0::"),
        ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
        ("::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"),
        ("ABCD::ef", "abcd::EF"),
        ("::1", "::/0"),
    ],
)
def test_addresses_that_match(client: str, pattern: str) -> None:
    assert by_ip(client, pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "/",
        "/0",
        "127.0.0.1/",
        "127.0.0.1/33",
        "127.0.0.1/-1",
        "127.0.0.1/1x",
        "127.0.0.1/4294967296",
        "127.0.0.1/0/0",
        "127.0.0",
        "127.0.0.1.1",
        "127.0.0.1.",
        ".127.0.0.1",
        "127..0.1",
        "127.0.0.256",
        "127.0.0.1 ",
        "localhost",
        "::1",
        "::/0",
        "::127.0.0.1/0",
    ],
)
def test_patterns_that_do_not_match_127_0_0_1(pattern: str) -> None:
    assert not by_ip("127.0.0.1", pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        ":",
        ":::",
        ":1/0",
        "1:/0",
        "::1::/0",
        "1:2:3:4:5:6:7/0",
        "1:2:3:4:5:6:7:8:9/0",
        "1:2:3:4:5:6:7:8::/0",
        "::1:2:3:4:5:6:7:8/0",
        "1:::2/0",
        "12345::/0",
        "g::/0",
        "::%eth0/0",
        "::/129",
        "::/",
        "0.0.0.0/0",
    ],
)
def test_patterns_that_do_not_match_an_ipv6_address(pattern: str) -> None:
    assert not by_ip("2001:db8::1", pattern)


# -- lists that are no lists ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "acl",
    [
        b"",
        b"\0",
        struct.pack(">i", -1),
        struct.pack(">i", 0),
        struct.pack(">i", 0x7FFFFFFF),
        struct.pack(">ii", 1, ALL),
        struct.pack(">iii", 1, ALL, 1 << 30),
        struct.pack(">iii", 1, ALL, -2),
        vector([(ALL, b"digest", b"alice:hash")])[:-1],
        vector([(ALL, None, None)]),
        vector([(ALL, b"digest", None)]),
        vector([(ALL, None, b"alice:hash")]),
        vector([(ALL, b"ip", None)]),
    ],
)
@pytest.mark.parametrize(
    "who",
    [NOBODY, ALICE, identities((None, None)), identities((b"digest", None), (b"ip", None)), b"\0\0\0\5"],
)
def test_malformed_lists_permit_nothing(acl: bytes, who: bytes) -> None:
    assert not permits(acl, ALL, who)


def test_what_follows_a_list_is_ignored() -> None:
    assert permits(OPEN_ACL + b"junk", READ, NOBODY)


pieces = st.lists(
    st.one_of(
        st.binary(max_size=6),
        st.sampled_from([b"world", b"anyone", b"ip", b"super", b"digest", b"::1/64", b"\xff" * 4]),
        st.sampled_from([b"world", b"anyone", b"ip", b"digest", b"::1/64", b"1.2.3.4/8", None]).map(string),
        st.integers(-2, 7).map(lambda n: struct.pack(">i", n)),
    ),
    max_size=10,
).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(pieces, st.integers(-(1 << 31), (1 << 31) - 1), pieces)
def test_arbitrary_bytes_are_answered(acl: bytes, perm: int, who: bytes) -> None:
    answer = permits(acl, perm, who)
    if perm == 0:
        # No permission is asked for: only the super identity "has" one.
        assert not answer or b"super" in who
    if b"world" not in acl and not who:
        assert not answer


# -- the table ------------------------------------------------------------------------------------------


def test_a_new_table_has_the_open_acl() -> None:
    table = AclTable()
    assert len(table) == 1
    assert table.vector(0) == OPEN_ACL
    assert table.take_changed() == {}
    for number in (1, -1, -(10**7), 1 << 31, 1 << 70):
        with pytest.raises(KeyError):
            table.vector(number)


def test_loading_refuses_numbers_and_lists_that_are_there() -> None:
    table = AclTable()
    acl = vector([(READ, b"digest", b"alice:hash")])
    table.load(3, acl)
    new = b"other"
    for number, other in [(3, new), (4, acl), (0, new), (5, OPEN_ACL), (1 << 31, new), ((1 << 32) - 1, new)]:
        with pytest.raises(ValueError, match="ACL"):
            table.load(number, other)
    assert table.vector(3) == acl
    assert table.vector(0) == OPEN_ACL


def test_loaded_lists_without_a_user_are_removed_by_the_next_checkpoint() -> None:
    table = AclTable()
    table.load(2, b"two")
    table.load(5, b"five")
    table.load_finish()
    assert len(table) == 1
    assert table.take_changed() == {2: None, 5: None}
    assert table.take_changed() == {}
    table.mark_changed({5})
    assert table.take_changed() == {5: None}


def test_loading_a_sparse_table_takes_linear_time() -> None:
    # With a search of the free numbers for every free number this would take minutes.
    table = AclTable()
    table.load(300_000, b"last")
    table.load_finish()
    assert len(table) == 1
