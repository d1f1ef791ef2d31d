"""One test for each published vulnerability of ZooKeeper that a server of this kind could have too.

CVE-2023-44981 (an unchecked name when servers authenticate each other by SASL) concerns an ensemble; one
server alone accepts no other servers, so there is nothing to test for it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError
from support import certificates, wire
from support.servers import Server, free_port, make_server, tree_of
from support.wire import Acl, Event, Request

PERSISTENT, RECURSIVE = 0, 1
SECRET = "the-password-of-bob"  # noqa: S105
#: The identity of ``bob`` with that password: base64(sha1("bob:the-password-of-bob")).
BOB = "bob:1Y4jbtnPuLywUv2QSUpmQcnxfjM="
SUPER_DIGEST = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="  # the password is "test"

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers of ours and ends them with the test. The arguments go to the command line."""
    made: list[Server] = []

    def launch(config: Mapping[str, str | None] | None = None, *arguments: str) -> Server:
        server = make_server("fastzk", tmp_path / f"server{len(made)}", config)
        made.append(server)
        server.launch(*arguments)
        server.wait_ready()
        return server

    yield launch
    for server in made:
        server.discard()


def as_bob(server: Server) -> wire.Session:
    session = server.session()
    assert session.add_auth("digest", f"bob:{SECRET}".encode()).err == 0
    return session


def add_watch(path: str, mode: int) -> Request:
    return Request(106, wire.text(path) + struct.pack(">i", mode))


def answer_to(port: int, raw: bytes) -> bytes:
    """All that the server sends on a new connection until it closes it."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(raw)
        while chunk := sock.recv(65536):
            received += chunk
    return received


def http(method: str, path: str, **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Length: 0"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def test_cve_2019_0201_hashes_of_passwords_are_not_shown(start: Start) -> None:
    """getACL without the right to change the ACL does not give away what digest identities are made of."""
    server = start({"DigestAuthenticationProvider.superDigest": SUPER_DIGEST})
    anyone = Acl(wire.PERM_READ, "world", "anyone")
    with as_bob(server) as bob, server.session() as stranger, server.session() as admin:
        bob.create("/readable", b"", acl=[Acl(wire.PERM_ALL, "digest", BOB), anyone])
        bob.create("/closed", b"", acl=[Acl(wire.PERM_ALL, "auth", "")])
        bob.create("/reader", b"", acl=[Acl(wire.PERM_READ, "digest", BOB)])
        assert stranger.get_acl("/readable")[0] == [Acl(wire.PERM_ALL, "digest", "bob:x"), anyone]
        assert stranger.error(wire.get_acl("/closed")) == wire.NO_AUTH
        # the identity itself is no reason either: ADMIN is what counts
        assert bob.get_acl("/reader")[0] == [Acl(wire.PERM_READ, "digest", "bob:x")]
        assert bob.get_acl("/closed")[0] == [Acl(wire.PERM_ALL, "digest", BOB)]
        assert admin.add_auth("digest", b"super:test").err == 0
        assert admin.get_acl("/readable")[0] == [Acl(wire.PERM_ALL, "digest", BOB), anyone]


def test_cve_2024_23944_no_event_about_a_znode_that_may_not_be_read(start: Start) -> None:
    """Watches, above all those of many znodes, tell nothing about znodes the watcher has no right to read."""
    server = start()
    closed = [Acl(wire.PERM_ALL, "auth", "")]
    with as_bob(server) as bob, server.session() as stranger, as_bob(server) as friend:
        bob.create("/top")
        bob.create("/top/known", b"", acl=closed)
        for watcher in (stranger, friend):
            watcher.ask(add_watch("/top", RECURSIVE))
            watcher.ask(add_watch("/top/later", PERSISTENT))
            watcher.ask(add_watch("/top/known", PERSISTENT))
            assert watcher.exists("/top/once", watch=True) is None
        for name in ("later", "once", "other"):
            bob.create(f"/top/{name}", b"1", acl=closed)
            bob.create(f"/top/{name}/child", b"1", acl=closed)
            bob.set(f"/top/{name}", b"2")
        bob.set("/top/known", b"3")
        bob.multi(wire.create("/top/multi", b"", 0, closed), wire.delete("/top/multi"))
        bob.create("/top/open")
        bob.set("/top/open", b"4")
        for name in ("later", "once", "other"):
            bob.delete(f"/top/{name}/child")
            bob.delete(f"/top/{name}")
        bob.delete("/top/known")
        bob.delete("/top/open")
        told = [event for event in stranger.pending_events() if event.path != "/top"]
        assert told == [
            Event(wire.CREATED, 3, "/top/open"),
            Event(wire.DATA_CHANGED, 3, "/top/open"),
            Event(wire.DELETED, 3, "/top/open"),
        ]
        seen = {(event.type, event.path) for event in friend.pending_events()}
        for name in ("later", "once", "other"):
            for kind in (wire.CREATED, wire.DELETED):
                assert {(kind, f"/top/{name}"), (kind, f"/top/{name}/child")} <= seen
        assert {(wire.CREATED, "/top/multi"), (wire.DATA_CHANGED, "/top/known")} <= seen


def test_cve_2024_23944_watches_set_again(start: Start) -> None:
    """A client that comes back and sets its watches again learns no more than one that stayed."""
    server = start()
    closed = [Acl(wire.PERM_ALL, "auth", "")]
    with as_bob(server) as bob, server.session() as stranger:
        bob.create("/top")
        stranger.ask(add_watch("/top", RECURSIVE))
        since = stranger.last_zxid
        stranger.drop()
        with server.session(session_id=stranger.session_id, password=stranger.password, last_zxid=since) as back:
            vectors = wire.strings(()) * 4 + wire.strings(("/top",))
            assert back.reserved(-8, Request(105, struct.pack(">q", since) + vectors)).err == 0
            bob.create("/top/secret", b"", acl=closed)
            bob.delete("/top/secret")
            bob.create("/top/open")
            assert back.pending_events() == [Event(wire.CREATED, 3, "/top/open")]


def test_cve_2024_51504_no_header_changes_the_address(start: Start) -> None:
    """There is no HTTP server whose headers could claim an address, and nothing else a client says can."""
    admin_port = free_port()
    server = start({"admin.enableServer": "true", "admin.serverPort": str(admin_port)})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", admin_port), timeout=5)
    with server.session() as local, server.session() as other:
        local.create("/local", b"x", acl=[Acl(wire.PERM_ALL, "ip", "127.0.0.1")])
        local.create("/distant", b"y", acl=[Acl(wire.PERM_ALL, "ip", "10.9.9.9")])
        for path in ("/", "/commands", "/commands/dump", "/distant"):
            for method in ("GET", "POST", "HEAD"):
                request = http(method, path, X_Forwarded_For="10.9.9.9", Forwarded="for=10.9.9.9")
                assert answer_to(server.port, request) == b""
        # the protocol that proxies put in front of a connection is not believed either
        prefix = b"PROXY TCP4 10.9.9.9 127.0.0.1 4000 2181\r\n"
        hello = struct.pack(">i", 45) + wire.connect_request()
        assert answer_to(server.port, prefix + hello) == b""
        other.add_auth("ip", b"10.9.9.9")
        assert other.error(wire.get_data("/distant")) == wire.NO_AUTH
        assert other.get("/local")[0] == b"x"


def test_cve_2025_58457_no_command_takes_or_restores_a_snapshot(start: Start) -> None:
    """The commands that skipped their check of rights do not exist, whatever the white list allows."""
    server = start({"4lw.commands.whitelist": "*"})
    with server.session() as session:
        session.create("/kept", b"x")
        before = {name for name in tree_of(server.data_dir) if "snap" in name.lower()}
        for word in ("snap", "rest", "snps", "rstr", "SNAP"):
            assert answer_to(server.port, word.encode()) == b"", word
        for method, command in (("GET", "snapshot?streaming=true"), ("POST", "restore"), ("GET", "snap")):
            request = http(method, f"/commands/{command}", Authorization="digest super:test")
            assert answer_to(server.port, request) == b"", command
        assert session.get("/kept")[0] == b"x"
        assert {name for name in tree_of(server.data_dir) if "snap" in name.lower()} == before
    assert server.four_letter_word("ruok") == "imok"


class Tls:
    """A server's files and settings for TLS, and handshakes with it."""

    def __init__(self, folder: Path) -> None:
        self.files = certificates.write_files(folder)
        self.port = free_port()
        self.settings = {
            **self.files.settings(),
            "secureClientPort": str(self.port),
            "secureClientPortAddress": "127.0.0.1",
        }

    def add(self, name: str, identity: certificates.Identity) -> None:
        Path(self.files.key_of(name)).write_bytes(identity.key_pem())
        Path(self.files.certificate_of(name)).write_bytes(identity.certificate_pem)

    def welcomes(self, name: str) -> bool:
        """Whether a client with that certificate gets a session."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.files.authority_file)
        context.load_cert_chain(self.files.certificate_of(name), self.files.key_of(name))
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
            ):
                secure.sendall(struct.pack(">i", 45) + wire.connect_request())
                return secure.recv(1) != b""
        except (ssl.SSLError, ConnectionError):
            return False


def test_cve_2026_24281_no_reverse_dns_in_the_check_of_a_certificate(start: Start, tmp_path: Path) -> None:
    """A certificate for the name that the address resolves to is not one for the address.

    Whoever controls the reverse zone of an address could otherwise pass any certificate off as fitting.
    """
    tls = Tls(tmp_path / "tls")
    authority = tls.files.authority
    # all of them name "localhost", which is what 127.0.0.1 resolves to
    tls.add("elsewhere", certificates.make("localhost", authority, address="10.9.9.9"))
    tls.add("six", certificates.make("localhost", authority, address="::1"))
    tls.add("nameless", certificates.make("localhost", authority, authority=True))
    tls.add("here", certificates.make("whoever", authority, address="127.0.0.1"))
    server = start({**tls.settings, "ssl.clientHostnameVerification": "true"})
    for name in ("elsewhere", "six", "nameless"):
        assert not tls.welcomes(name), name
    assert tls.welcomes("here")
    refusals = [line for line in server.log_text().splitlines() if "is not for this address" in line]
    assert len(refusals) == 3
    server.terminate()
    # without the check any certificate of the authority will do: it was the address that was wrong
    start(tls.settings)
    for name in ("elsewhere", "six", "nameless", "here"):
        assert tls.welcomes(name), name


def test_cve_2026_24308_no_secret_in_the_log(start: Start, tmp_path: Path) -> None:
    """Neither the values of secret settings nor what clients send as credentials is logged, at any level."""
    tls = Tls(tmp_path / "tls")
    jaas = tmp_path / "jaas.conf"
    jaas.write_text(
        "Server { org.apache.zookeeper.server.auth.DigestLoginModule required\n"
        '  user_super="sasl-secret-of-super"\n  user_jane="sasl-secret-of-jane"; };\n'
    )
    settings = {
        **tls.settings,
        "ssl.trustStore.password": "secret-of-the-trust-store",
        "DigestAuthenticationProvider.superDigest": SUPER_DIGEST,
        "java.security.auth.login.config": str(jaas),
        "authProvider.sasl": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
    }
    server = start(settings, "--log-level", "debug")
    assert tls.welcomes("client")
    assert not tls.welcomes("stranger")
    sessions = []
    for scheme, data in (
        ("digest", b"super:test"),
        ("digest", b"super:wrong-secret-of-super"),
        ("digest", f"bob:{SECRET}".encode()),
        ("unknown", b"secret-of-an-unknown-scheme"),
        ("x509", b"secret-of-no-certificate"),
    ):
        session = server.session()
        session.add_auth(scheme, data)
        sessions.append(session)
    sessions[2].create("/closed", b"", acl=[Acl(wire.PERM_ALL, "auth", "")])
    for password, good in (("sasl-secret-of-jane", True), ("wrong-sasl-secret", False)):
        client = KazooClient(
            server.hosts,
            sasl_options={"mechanism": "DIGEST-MD5", "username": "jane", "password": password},
        )
        with contextlib.nullcontext() if good else pytest.raises(AuthFailedError):
            client.start(timeout=10)
            assert client.exists("/") is not None  # kazoo tells of the failure at the next request at the latest
        client.stop()
        client.close()
    for session in sessions:
        session.close()
    server.terminate()
    output = server.log_text() + server.run_to_end("--check-config")[1]
    assert "authentication failed" in output  # the failures are there, so what they wrote was looked through
    secrets = [certificates.PASSWORD, "secret-of", "wrong-s", "BEGIN", "PRIVATE"]
    secrets += [SECRET, BOB.split(":")[1], SUPER_DIGEST.split(":")[1], "super:test"]
    secrets += [form(each.password) for each in sessions for form in (bytes.hex, repr)]
    for secret in secrets:
        assert secret not in output, secret
