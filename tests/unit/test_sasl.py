"""SASL DIGEST-MD5 against the client of another implementation, and the JAAS file."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import string, vector
from puresasl.client import SASLClient

from fastzk._acl import permits
from fastzk.protocol import Error
from fastzk.server.auth import fix_acl
from fastzk.server.errors import StartupError
from fastzk.server.sasl import REALM, DigestMd5, SaslAuthenticator, SaslFailed, read_jaas, valid_name

PASSWORDS = {"bob": "bobsecret", "super": "adminsecret", "j\u00f6rg": "\u00fcber", "\u65e5": "\u672c"}
URI = b"zookeeper/zk-sasl-md5"


class Client:
    host = "10.0.0.1"
    session_id = 0x1234

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add_identity(self, scheme: str, who: str) -> None:
        self.found.append((scheme, who))


def nonce_of(challenge: bytes) -> bytes:
    match = re.fullmatch(rb'realm="zk-sasl-md5",nonce="([^"]+)",charset=utf-8,algorithm=md5-sess', challenge)
    assert match is not None, challenge
    assert len(base64.b64decode(match[1])) == 30
    return match[1]


def md5(data: bytes) -> bytes:
    return hashlib.md5(data).digest()


def answer(
    nonce: bytes,
    *,
    user: str = "bob",
    password: str = "bobsecret",
    without: str = "",
    charset: bool = True,
    authzid: bytes | None = None,
    **changed: bytes,
) -> bytes:
    """A right answer to a challenge, save for what is asked to be different."""
    encoding = "utf-8" if charset else "latin-1"
    values = {
        "username": user.encode(encoding), "realm": REALM.encode(), "nonce": nonce, "cnonce": b"c1",
        "nc": b"00000001", "qop": b"auth", "digest-uri": URI,
        **{key.replace("_", "-"): value for key, value in changed.items()},
    }  # fmt: skip

    def hashed(text: str) -> bytes:
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            return text.encode()

    a1 = b":".join(
        [md5(hashed(user) + b":" + values["realm"] + b":" + hashed(password)), nonce, values["cnonce"]]
    )
    if authzid is not None:
        values["authzid"] = authzid
        a1 += b":" + authzid
    parts = [md5(a1).hex().encode(), nonce, values["nc"], values["cnonce"], values["qop"]]
    parts.append(md5(b"AUTHENTICATE:" + values["digest-uri"]).hex().encode())
    values.setdefault("response", md5(b":".join(parts)).hex().encode())
    if charset:
        values["charset"] = b"utf-8"
    plain = ("nc", "qop", "response", "charset")
    return b",".join(
        key.encode() + (b"=" + value if key in plain else b'="' + value + b'"')
        for key, value in values.items()
        if key != without
    )


def negotiate(passwords: dict[str, str] = PASSWORDS) -> tuple[DigestMd5, bytes]:
    negotiation = DigestMd5(passwords.get)
    return negotiation, nonce_of(negotiation.step(b""))


@pytest.mark.parametrize("user", ["bob", "super"])
def test_a_client_of_another_implementation(user: str) -> None:
    client = SASLClient(REALM, "zookeeper", "DIGEST-MD5", username=user, password=PASSWORDS[user])
    negotiation = DigestMd5(PASSWORDS.get)
    challenge = negotiation.step(client.process(None) or b"")
    final = negotiation.step(client.process(challenge))
    assert negotiation.user == user
    client.process(final)  # raises if the server's proof is wrong
    assert client.complete


@pytest.mark.parametrize(
    ("user", "charset"),
    # without a charset it is Latin-1, in which the last one cannot be said
    [(user, charset) for user in PASSWORDS for charset in (True, False) if charset or user != "\u65e5"],
)
def test_character_sets(user: str, charset: bool) -> None:
    negotiation, nonce = negotiate()
    final = negotiation.step(answer(nonce, user=user, password=PASSWORDS[user], charset=charset))
    assert re.fullmatch(rb"rspauth=[0-9a-f]{32}", final)
    assert negotiation.user == user


def test_an_authorization_id_gives_nothing() -> None:
    negotiation, nonce = negotiate()
    negotiation.step(answer(nonce, authzid=b"super"))
    assert negotiation.user == "bob"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"password": "x"}, "a wrong password"),
        ({"user": "eve"}, "an unknown user"),
        ({"user": ""}, "no user name"),
        ({"realm": b"other"}, "another realm"),
        ({"without": "realm"}, "another realm"),
        ({"without": "cnonce"}, "no nonce of the client"),
        ({"without": "response"}, "no response"),
        ({"without": "digest-uri"}, "another digest-uri"),
        ({"digest_uri": b"zookeeper/other"}, "another digest-uri"),
        ({"nc": b"00000002"}, "a nonce count that is not 1"),
        ({"qop": b"auth-int"}, "a quality of protection other than auth"),
        ({"response": b""}, "a wrong password"),
    ],
)
def test_what_fails(changes: dict[str, str], reason: str) -> None:
    negotiation, nonce = negotiate()
    with pytest.raises(SaslFailed, match=reason) as caught:
        negotiation.step(answer(nonce, **changes))  # type: ignore[arg-type]
    assert negotiation.user is None
    assert "bobsecret" not in str(caught.value)
    with pytest.raises(SaslFailed, match="the negotiation is over"):
        negotiation.step(answer(nonce))
    assert negotiation.user is None


def test_a_nonce_is_good_for_one_negotiation() -> None:
    first, nonce = negotiate()
    token = answer(nonce)
    first.step(token)
    with pytest.raises(SaslFailed):
        first.step(token)
    second, other = negotiate()
    assert other != nonce
    with pytest.raises(SaslFailed, match="another nonce"):
        second.step(token)


def test_the_first_token_is_not_looked_at() -> None:
    negotiation = DigestMd5(PASSWORDS.get)
    nonce_of(negotiation.step(b"x"))
    assert negotiation.user is None


@pytest.mark.parametrize(
    "more", [b",qop=auth", b',username="eve"', b",x", b',x="', b',x=\x00"', b"," + b"a" * 5000]
)
def test_malformed_tokens(more: bytes) -> None:
    negotiation, nonce = negotiate()
    with pytest.raises(SaslFailed):
        negotiation.step(answer(nonce) + more)
    assert negotiation.user is None


@given(st.binary(max_size=300))
def test_any_bytes_fail_cleanly(token: bytes) -> None:
    negotiation = DigestMd5(PASSWORDS.get)
    negotiation.step(b"")
    with pytest.raises(SaslFailed):
        negotiation.step(token)


# ---- the server's decisions


def attempt(authenticator: SaslAuthenticator, user: str, password: str) -> tuple[Client, bytes | None, int]:
    client = Client()
    challenge, negotiation, code = authenticator.step(client, None, b"")
    assert code == Error.OK
    assert challenge is not None
    token = answer(nonce_of(challenge), user=user, password=password)
    final, _, code = authenticator.step(client, negotiation, token)
    return client, final, code


def test_identities() -> None:
    authenticator = SaslAuthenticator(PASSWORDS, super_users=["bob"])
    assert attempt(authenticator, "bob", "bobsecret")[0].found == [("sasl", "bob"), ("super", "")]
    # The user called super is no super user by that.
    assert attempt(authenticator, "super", "adminsecret")[0].found == [("sasl", "super")]


def test_failures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for options, expected in (
        ({}, Error.AUTH_FAILED),
        ({"required": True}, Error.SESSION_CLOSED_REQUIRE_SASL_AUTH),
        ({"required": True, "keep_failed": True}, Error.SESSION_CLOSED_REQUIRE_SASL_AUTH),
        ({"keep_failed": True}, Error.OK),
    ):
        client, final, code = attempt(SaslAuthenticator(PASSWORDS, **options), "bob", "not-the-secret")
        assert (client.found, final, code) == ([], None, expected)
    assert "address=10.0.0.1 session=0x1234" in caplog.text
    assert "secret" not in caplog.text


def test_without_sasl_every_token_is_answered_by_nothing() -> None:
    assert SaslAuthenticator(None).step(Client(), None, b"x") == (None, None, Error.OK)


def test_the_password_of_super() -> None:
    authenticator = SaslAuthenticator(PASSWORDS, super_password="other")
    assert attempt(authenticator, "super", "other")[2] == Error.OK
    assert attempt(authenticator, "super", "adminsecret")[2] == Error.AUTH_FAILED
    assert attempt(SaslAuthenticator({}, super_password="other"), "super", "other")[2] == Error.AUTH_FAILED


# ---- the JAAS file

MODULE = "org.apache.zookeeper.server.auth.DigestLoginModule"


def users_of(tmp_path: Path, text: str, section: str = "Server") -> dict[str, str]:
    path = tmp_path / "jaas.conf"
    path.write_text(text)
    return read_jaas(path, section)


def test_a_jaas_file(tmp_path: Path) -> None:
    text = f"""
    // the clients' section is for clients
    Client {{ com.sun.security.auth.module.Krb5LoginModule required useTicketCache=true; }};
    /* several
       lines */
    Server {{
       {MODULE} required
       debug=true
       user_super="admin \\"secret\\""
       user_bob=bobsecret   // unquoted
       user_j\u00f6rg="a//b/*c*/";
       {MODULE} optional user_eve="\\101\\t";
    }};
    """
    expected = {"super": 'admin "secret"', "bob": "bobsecret", "j\u00f6rg": "a//b/*c*/", "eve": "A\t"}
    assert users_of(tmp_path, text) == expected
    assert users_of(tmp_path, f"Other {{ {MODULE} required; }};", "Other") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the JAAS file has no section 'Server'"),
        ("Client { };", "the JAAS file has no section 'Server'"),
        ("Server {", "jaas.conf:1: the JAAS file is malformed here"),
        (f'Server {{\n {MODULE} required user_a="hush\n;}};', "jaas.conf:2: the JAAS file is malformed here"),
        (f'Server {{ {MODULE} required user_a="hush" }};', "malformed here: expected word or quoted or ;"),
        (
            f"Server {{ {MODULE} user_a=hush; }};",
            "expected one of: required, requisite, sufficient, optional",
        ),
        ("Server { com.sun.security.auth.module.Krb5LoginModule required; };", "is not supported: only"),
        (f'Server {{ {MODULE} required user_a="${{hush}}"; }};', "properties of Java"),
        (f"Server {{ {MODULE} required; }}; Server {{ {MODULE} required; }};", "a second section 'Server'"),
    ],
)
def test_what_is_wrong_with_a_jaas_file(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(StartupError) as caught:
        users_of(tmp_path, text)
    assert reason in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_jaas_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"cannot read the JAAS file .*: No such file or directory"):
        read_jaas(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        *[(name, True) for name in ("bob", "a/b", "a/b@C", "@", "")],
        *[(name, False) for name in ("a@b@c", "a/b/c@d")],
    ],
)
def test_ids_of_acls(name: str, valid: bool) -> None:
    assert valid_name(name) is valid


def test_acls_of_sasl_and_x509_need_their_providers() -> None:
    def stored(scheme: bytes, who: bytes | None, *schemes: str) -> bytes | None:
        return fix_acl(vector([(31, scheme, who)]), [], frozenset({"ip", "digest", *schemes}))

    for scheme, good, bad in ((b"sasl", b"bob", b"a@b@c"), (b"x509", b"CN=bob", b"bob")):
        assert stored(scheme, good) is None
        assert stored(scheme, good, scheme.decode()) == vector([(31, scheme, good)])
        assert stored(scheme, bad, scheme.decode()) is None
        with pytest.raises(ValueError, match="null"):
            stored(scheme, None, scheme.decode())


def test_auth_stands_for_every_proven_identity() -> None:
    identities = [("ip", "10.0.0.1"), ("super", ""), ("digest", "a:b"), ("sasl", "bob"), ("x509", "CN=bob")]
    asked = vector([(3, b"auth", b"")])
    everything = frozenset({"ip", "digest", "sasl", "x509"})
    proven = [(3, b"digest", b"a:b"), (3, b"sasl", b"bob"), (3, b"x509", b"CN=bob")]
    assert fix_acl(asked, identities, everything) == vector(proven)
    assert fix_acl(asked, identities[:2], everything) is None


def test_the_sasl_user_called_super_matches_ids_of_its_scheme_only() -> None:
    named_super = string(b"sasl") + string(b"super")
    assert permits(vector([(1, b"sasl", b"bob")]), 1, named_super)
    assert not permits(vector([(1, b"sasl", b"bob")]), 2, named_super)
    assert not permits(vector([(1, b"x509", b"CN=bob")]), 1, named_super)
    assert not permits(vector([(1, b"sasl", b"super")]), 1, string(b"sasl") + string(b"bob"))
    assert not permits(vector([(1, b"sasl", b"bob")]), 1, string(b"digest") + string(b"super"))
