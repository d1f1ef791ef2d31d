"""SASL DIGEST-MD5 over the wire: kazoo with pure-sasl, failures, and what servers may require of clients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError, NoAuthError
from kazoo.security import ACL, Id, Permissions
from puresasl.client import SASLClient
from support import wire
from support.servers import Server
from support.wire import Reply, Request

from .conftest import KIND, ServerFactory

pytestmark = pytest.mark.skipif(
    KIND != "fastzk", reason="Apache ZooKeeper takes the JAAS file from Java's options"
)

SASL, NEEDS_SASL = 102, -124
PROVIDER = {"authProvider.sasl": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"}
JAAS = """
Server {
    org.apache.zookeeper.server.auth.DigestLoginModule required
    user_super="adminsecret"
    user_bob="bobsecret";
};
"""


@pytest.fixture
def make(new_server: ServerFactory, tmp_path: Path) -> Callable[..., Server]:
    def build(**settings: str) -> Server:
        path = tmp_path / "jaas.conf"
        path.write_text(JAAS)
        more = {name.replace("__", "."): value for name, value in settings.items()}
        return new_server({"java.security.auth.login.config": str(path), **PROVIDER, **more}).start()

    return build


@pytest.fixture
def kazoo() -> Iterator[Callable[..., KazooClient]]:
    clients: list[KazooClient] = []

    def start(server: Server, user: str | None, password: str = "") -> KazooClient:
        options = {"mechanism": "DIGEST-MD5", "username": user, "password": password} if user else None
        client = KazooClient(server.hosts, sasl_options=options)
        clients.append(client)
        client.start(timeout=10)
        return client

    yield start
    for client in clients:
        client.stop()
        client.close()


def token(session: wire.Session, data: bytes | None) -> Reply:
    return session.call(Request(SASL, wire.text(data)))


def negotiate(session: wire.Session, user: str, password: str) -> Reply:
    """The last reply of a negotiation."""
    client = SASLClient("zk-sasl-md5", "zookeeper", "DIGEST-MD5", username=user, password=password)
    first = token(session, b"")
    assert (first.zxid, first.err) == (0, 0)
    challenge = wire.Reader(first.body).buffer()
    assert challenge is not None
    assert re.fullmatch(rb'realm="zk-sasl-md5",nonce="[^"]+",charset=utf-8,algorithm=md5-sess', challenge)
    client.process(None)
    return token(session, client.process(challenge))


def test_kazoo(make: Callable[..., Server], kazoo: Callable[..., KazooClient]) -> None:
    server = make()
    bob, nobody = kazoo(server, "bob", "bobsecret"), kazoo(server, None)
    bob.create("/mine", b"x", acl=[ACL(Permissions.ALL, Id("auth", ""))])
    assert bob.get_acls("/mine")[0] == [ACL(Permissions.ALL, Id("sasl", "bob"))]
    with pytest.raises(NoAuthError):
        nobody.get("/mine")
    assert bob.get("/mine")[0] == b"x"
    nobody.create("/for-bob", b"y", acl=[ACL(Permissions.READ, Id("sasl", "bob"))])
    assert bob.get("/for-bob")[0] == b"y"
    # In the scheme sasl the user called super matches every id; that is no right to anything else.
    named_super = kazoo(server, "super", "adminsecret")
    assert named_super.get("/mine")[0] == b"x"
    nobody.create("/closed", b"z", acl=[ACL(Permissions.ALL, Id("ip", "10.9.9.9"))])
    with pytest.raises(NoAuthError):
        named_super.get("/closed")


def test_a_wrong_password(make: Callable[..., Server], kazoo: Callable[..., KazooClient]) -> None:
    server = make()
    for user, password in (("bob", "bobsecre"), ("eve", "bobsecret"), ("bob", "adminsecret")):
        with pytest.raises(AuthFailedError):
            kazoo(server, user, password).get("/")
    with server.session() as session:
        reply = negotiate(session, "bob", "wrong")
        assert (reply.zxid, reply.err, reply.body) == (0, wire.AUTH_FAILED, b"\xff\xff\xff\xff")
        session.assert_closed()
    with server.session() as session:
        assert negotiate(session, "bob", "bobsecret").err == 0
        # a second negotiation on one connection
        reply = token(session, b"")
        assert (reply.zxid, reply.err, reply.body) == (0, wire.AUTH_FAILED, b"\xff\xff\xff\xff")
        session.assert_closed()
    log = server.log_text()
    assert "scheme='sasl' reason=a wrong password" in log
    for secret in ("bobsecret", "adminsecret", "bobsecre"):
        assert secret not in log


def test_success_on_the_wire(make: Callable[..., Server]) -> None:
    with make().session() as session:
        session.send(wire.exists("/"))
        reply = session.reply()
        reply = negotiate(session, "bob", "bobsecret")
        assert (reply.zxid, reply.err) == (0, 0)
        assert re.fullmatch(rb"rspauth=[0-9a-f]{32}", wire.Reader(reply.body).buffer() or b"")
        session.create("/a", acl=[wire.Acl(wire.PERM_ALL, "sasl", "bob")])
        assert session.get("/a")[0] == b""
        assert (
            session.error(wire.create("/b", acl=[wire.Acl(wire.PERM_ALL, "sasl", "a@b@c")]))
            == wire.INVALID_ACL
        )


def test_malformed_requests_close_the_connection(make: Callable[..., Server]) -> None:
    server = make()
    for body in (b"", b"\0\0\0\x05abc", b"\x7f\xff\xff\xff", wire.text(None)):
        with server.session() as session:
            session.send(Request(SASL, body))
            session.assert_closed()
    with server.session() as session:
        assert session.exists("/") is not None


def test_a_failed_client_may_stay(make: Callable[..., Server]) -> None:
    with make(allowSaslFailedClients="true").session() as session:
        reply = negotiate(session, "bob", "wrong")
        assert (reply.zxid, reply.err, reply.body) == (0, 0, b"\xff\xff\xff\xff")
        assert session.exists("/") is not None
        acl = [wire.Acl(wire.PERM_ALL, "auth", "")]
        assert session.error(wire.create("/a", acl=acl)) == wire.INVALID_ACL


def test_super_users(make: Callable[..., Server]) -> None:
    server = make(superUser="bob", SASLAuthenticationProvider__superPassword="another")
    with server.session() as plain, server.session() as bob, server.session() as named_super:
        plain.create("/closed", b"x", acl=[wire.Acl(wire.PERM_ALL, "ip", "10.9.9.9")])
        assert negotiate(bob, "bob", "bobsecret").err == 0
        assert bob.get("/closed")[0] == b"x"
        assert negotiate(named_super, "super", "another").err == 0
        assert named_super.error(wire.get_data("/closed")) == wire.NO_AUTH
    code, shown = server.run_to_end("--check-config")
    assert code == 0
    assert "SASLAuthenticationProvider.superPassword=***" in shown
    assert "another" not in shown + server.log_text()


@pytest.mark.parametrize(
    "request_",
    [wire.get_data("/"), wire.create("/a"), Request(wire.PING, b""), Request(wire.CLOSE_SESSION, b"")],
)
def test_sasl_is_required(make: Callable[..., Server], request_: Request) -> None:
    # The server is asked by hand: a session by itself needs nothing.
    server = make_required(make)
    session = server.session()
    reply = session.call(request_)
    assert (reply.zxid, reply.err, reply.body) == (0, NEEDS_SASL, b"")
    session.assert_closed()
    session.drop()


def make_required(make: Callable[..., Server]) -> Server:
    return make(sessionRequireClientSASLAuth="true")


def test_what_the_required_sasl_lets_through(make: Callable[..., Server]) -> None:
    server = make_required(make)
    with server.session() as session:
        assert session.add_auth("digest", b"a:b").err == 0
        assert negotiate(session, "bob", "bobsecret").err == 0
        session.create("/a", b"x")
        assert session.get("/a")[0] == b"x"
    session = server.session()
    reply = negotiate(session, "bob", "wrong")
    assert (reply.err, reply.body) == (NEEDS_SASL, b"\xff\xff\xff\xff")
    session.assert_closed()
    session.drop()
    # The address alone, or digest, is not enough.
    session = server.session()
    assert session.add_auth("digest", b"a:b").err == 0
    assert session.call(wire.exists("/")).err == NEEDS_SASL
    session.drop()
    assert "it has authenticated by ip, digest only, needed is sasl" in server.log_text()


def test_other_required_schemes(new_server: ServerFactory) -> None:
    provider = "org.apache.zookeeper.server.auth.X509AuthenticationProvider"
    settings = {"enforce.auth.enabled": "true", "enforce.auth.schemes": "digest, x509"}
    server = new_server({**settings, "authProvider.1": provider})
    server.start()
    session = server.session()
    assert session.call(wire.exists("/")).err == NEEDS_SASL
    session.assert_closed()
    session.drop()
    with server.session() as session:
        assert session.add_auth("digest", b"a:b").err == 0
        assert session.exists("/") is not None


def test_without_sasl(new_server: ServerFactory) -> None:
    with new_server().start().session() as session:
        reply = token(session, b"")
        assert (reply.zxid, reply.err, reply.body) == (0, 0, b"\xff\xff\xff\xff")
        request = wire.create("/a", acl=[wire.Acl(wire.PERM_ALL, "sasl", "bob")])
        assert session.error(request) == wire.INVALID_ACL


def test_a_wrong_jaas_file_stops_the_start(new_server: ServerFactory, tmp_path: Path) -> None:
    path = tmp_path / "jaas.conf"
    path.write_text(JAAS.replace(";", ""))
    server = new_server({"java.security.auth.login.config": str(path)})
    code, output = server.run_to_end()
    assert code == 1
    assert "the JAAS file is malformed here" in output
    assert "bobsecret" not in output
    assert not server.data_dir.exists()
