"""Authentication schemes, and what is stored for an ACL that a client asks for."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from model import vector
from parts import Parts, frame
from support import wire

from fastzk.server.auth import Authenticator, fix_acl, valid_digest, valid_ip

ADA = f"ada:{base64.b64encode(hashlib.sha1(b'ada:pw').digest()).decode()}"
SUPER = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="


class Client:
    host = "127.0.0.1"
    session_id = 1

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add_identity(self, scheme: str, who: str) -> None:
        self.found.append((scheme, who))

    def identities(self) -> list[tuple[str, str]]:
        return self.found


def identities(data: bytes | None, scheme: str = "digest", **options: str) -> list[tuple[str, str]] | None:
    client = Client()
    accepted = Authenticator(**options).authenticate(client, scheme, data)
    assert accepted or not client.found
    return client.found if accepted else None


def test_digest() -> None:
    assert identities(b"ada:pw") == [("digest", ADA)]
    assert identities(b"super:test", super_digest=SUPER) == [("super", ""), ("digest", SUPER)]
    assert identities(b"super:other", super_digest=SUPER) != [("super", ""), ("digest", SUPER)]
    hashed = base64.b64encode(hashlib.sha256(b"ada:pw").digest()).decode()
    assert identities(b"ada:pw", digest_algorithm="sha256") == [("digest", f"ada:{hashed}")]


@pytest.mark.parametrize("data", [b"", b"nocolon", b"a:b:c", b"\xff\xfe:x", b"a" * 10_000])
def test_digest_takes_any_bytes(data: bytes) -> None:
    found = identities(data)
    assert found is not None
    assert found[0][1].split(":")[0] == data.decode("utf-8", "replace").split(":")[0]


@pytest.mark.parametrize(
    ("scheme", "data", "accepted"),
    [
        ("ip", b"", True),
        ("ip", b"8.8.8.8", True),
        ("ip", None, True),
        ("digest", None, False),
        ("world", b"anyone", False),
        ("auth", b"", False),
        ("super", b"super:test", False),
        ("sasl", b"x", False),
        ("", b"", False),
        ("Digest", b"a:b", False),
    ],
)
def test_schemes(scheme: str, data: bytes | None, accepted: bool) -> None:
    assert (identities(data, scheme) is not None) == accepted


@pytest.mark.parametrize(
    ("who", "valid"),
    [(":b", True), ("a:b", True), ("a:b:", True), ("a:", False), ("a:b:c", False), ("", False), ("a", False)],
)
def test_digest_ids(who: str, valid: bool) -> None:
    assert valid_digest(who) == valid


@pytest.mark.parametrize(
    ("who", "valid"),
    [
        ("127.0.0.1", True),
        ("+127.0.0.1", True),
        ("10.0.0.0/8", True),
        ("10.0.0.0/0", True),
        ("10.0.0.0/32", True),
        ("10.0.0.0/33", False),
        ("10.0.0.0/-1", False),
        ("10.0.0.0/", False),
        ("10.0.0.0/x", False),
        ("10.0.0/8", False),
        ("256.0.0.1", False),
        ("1.2.3.4.5", False),
        ("a.b.c.d", False),
        ("", False),
        ("::1", True),
        ("::", True),
        ("2001:db8::/32", True),
        ("2001:db8::/129", False),
        ("1:2:3:4:5:6:7:8", True),
        ("1:2:3:4:5:6:7", False),
        ("1::2::3", False),
        ("12345::", False),
    ],
)
def test_ip_ids(who: str, valid: bool) -> None:
    assert valid_ip(who) == valid


WORLD = (31, b"world", b"anyone")


def test_ids_that_are_not_utf_8_are_stored_as_java_reads_them() -> None:
    for sent, stored in (
        (b"bob:\x80x", "bob:\ufffdx"),
        (b"bob:\xed\xa0\x80x", "bob:\ufffdx"),
        (b"bob:\xf0\x9f\x98\x80", "bob:\U0001f600"),
        ("bob:é".encode(), "bob:é"),
    ):
        assert fix_acl(vector([(1, b"digest", sent)]), []) == vector([(1, b"digest", stored.encode())])


def test_fix_acl() -> None:
    assert fix_acl(vector([WORLD]), []) == vector([WORLD])
    assert fix_acl(vector([WORLD, (1, b"ip", b"1.2.3.4"), WORLD]), []) == vector([WORLD, (1, b"ip", b"1.2.3.4")])
    for perms in (0, 63, -1, -(1 << 31)):
        assert fix_acl(vector([(perms, b"world", b"anyone")]), []) == vector([(perms, b"world", b"anyone")])
    own = [("ip", "1.2.3.4"), ("digest", "a:x"), ("digest", "b:y")]
    assert fix_acl(vector([(3, b"auth", b"whatever")]), own) == vector([(3, b"digest", b"a:x"), (3, b"digest", b"b:y")])
    assert fix_acl(vector([(3, b"auth", None)]), own[1:2]) == vector([(3, b"digest", b"a:x")])


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [(31, b"auth", b"")],
        [(31, b"world", b"somebody")],
        [(31, b"digest", b"a")],
        [(31, b"ip", b"1.2.3")],
        [(31, b"nobody", b"x")],
        [(31, None, b"x")],
        [(31, b"nobody", None)],
        [(31, b"super", b"")],
        [WORLD, (31, b"digest", b"a")],
    ],
)
def test_invalid_acls(entries: list[tuple[int, bytes | None, bytes | None]]) -> None:
    assert fix_acl(vector(entries), [("ip", "1.2.3.4")]) is None


@pytest.mark.parametrize("scheme", [b"world", b"digest", b"ip"])
def test_null_ids_are_marshalling_errors(scheme: bytes) -> None:
    with pytest.raises(ValueError, match="null id"):
        fix_acl(vector([(31, scheme, None)]), [])


SCHEMES = st.sampled_from((b"world", b"digest", b"ip", b"auth", b"x", b"\xff", None))
IDS = st.none() | st.sampled_from((b"anyone", b"a:b", b"1.2.3.4", b"::1/64", b"")) | st.binary(max_size=8)


def entries_of(acl: bytes) -> list[wire.Acl]:
    reader = wire.Reader(acl)
    entries = reader.acls()
    reader.end()
    return entries


@given(st.lists(st.tuples(st.integers(-(1 << 31), (1 << 31) - 1), SCHEMES, IDS), max_size=4))
@example([(0, b"auth", None), (0, b"auth", b"anyone")])
def test_what_is_stored_is_stored_again_unchanged(
    entries: list[tuple[int, bytes | None, bytes | None]],
) -> None:
    """Whatever is asked for: refused in one of the two ways, or fixed for good."""
    try:
        once = fix_acl(vector(entries), [("digest", "ada:x")])
    except ValueError:
        return
    if once is not None:
        # As in ZooKeeper repetitions go before "auth" stands for the client's identities, not behind that.
        again = fix_acl(once, [])
        assert again is not None
        assert fix_acl(again, []) == again
        assert entries_of(again) == list(dict.fromkeys(entries_of(once)))


# -- through a connection ---------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with Parts(tmp_path) as made:
        yield made
        made.check()


def test_identities_of_a_connection(parts: Parts) -> None:
    peer = parts.session()
    assert peer.connection.identities() == [("ip", "127.0.0.1")]
    for data in (b"ada:pw", b"ada:pw", b"super:test"):
        peer.feed(frame(wire.XID_AUTH, wire.auth("digest", data)))
        assert [reply[:3] for reply in peer.replies()] == [(wire.XID_AUTH, 0, 0)]
    assert peer.connection.identities() == [
        ("ip", "127.0.0.1"), ("digest", ADA), ("super", ""), ("digest", SUPER)
    ]  # fmt: skip


@pytest.mark.parametrize(("scheme", "data"), [("nonsense", b"x"), ("digest", None), (None, b"x")])
def test_failed_authentication_closes(parts: Parts, scheme: str | None, data: bytes | None) -> None:
    peer = parts.session()
    peer.feed(frame(wire.XID_AUTH, wire.auth(scheme, data)))
    assert [reply.err for reply in peer.replies()] == [wire.AUTH_FAILED]
    assert peer.closed


def test_malformed_authentication_closes_without_a_word(parts: Parts) -> None:
    whole = wire.auth("digest", b"ada:pw").body
    for size in range(len(whole)):
        peer = parts.session()
        peer.feed(frame(wire.XID_AUTH, wire.Request(wire.AUTH, whole[:size])))
        assert peer.replies() == []
        assert peer.closed
        parts.turn()


def test_acls_that_depend_on_the_client_are_not_remembered_for_others(parts: Parts) -> None:
    auth = (wire.Acl(wire.PERM_ALL, "auth", ""),)
    peers = []
    for name in ("a", "b"):
        peer = parts.session()
        peer.feed(frame(wire.XID_AUTH, wire.auth("digest", name.encode() + b":pw")))
        peer.send(wire.create(f"/{name}", acl=auth))
        peers.append(peer)
    nobody = parts.session()
    nobody.send(wire.create("/c", acl=auth))
    parts.settle()
    assert [reply.err for reply in nobody.replies()] == [wire.INVALID_ACL]
    stored = {parts.tree.acl(b"/a"), parts.tree.acl(b"/b")}
    assert len(stored) == 2
    peers[0].send(wire.get_data("/a"), wire.get_data("/b"))
    assert [reply.err for reply in peers[0].replies()][-2:] == [0, wire.NO_AUTH]
