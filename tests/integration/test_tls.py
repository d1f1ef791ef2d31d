"""TLS on secureClientPort and on a shared port: kazoo, certificates as identities, bad handshakes."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import InvalidACLError, NoAuthError
from kazoo.security import ACL, Id, Permissions
from support import certificates, wire
from support.certificates import PASSWORD, Files
from support.servers import Server, free_port
from support.wire import poll

from .conftest import KIND, ServerFactory

pytestmark = pytest.mark.skipif(
    KIND != "fastzk", reason="Apache ZooKeeper would need Netty and its own stores"
)

NAME = "CN=client,O=Tests"


class Secure:
    """A server with TLS and what clients need for it."""

    def __init__(self, new_server: ServerFactory, files: Files, **settings: str | None) -> None:
        self.files = files
        self.port = free_port()
        self.server: Server = new_server(
            {
                **files.settings(),
                "secureClientPort": str(self.port),
                "secureClientPortAddress": "127.0.0.1",
                **{name.replace("__", "."): value for name, value in settings.items()},
            }
        )

    def context(self, name: str | None = "client") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.files.authority_file)
        if name:
            context.load_cert_chain(self.files.certificate_of(name), self.files.key_of(name))
        return context

    def connect(
        self, name: str | None = "client", port: int | None = None, timeout: float = 20
    ) -> ssl.SSLSocket:
        """A connection after the client's part of the handshake."""
        plain = socket.create_connection(("127.0.0.1", port or self.port), timeout=timeout)
        try:
            return self.context(name).wrap_socket(plain, server_hostname="127.0.0.1")
        except BaseException:
            plain.close()
            raise

    def session(self, name: str | None = "client") -> Session:
        return Session(self.connect(name))


class Session(wire.Session):
    """A session on a TLS connection that is there already."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.timeout = 20.0
        self._context = None
        self._buffer = bytearray()
        self._socket = connection
        self.events = wire.deque()
        self.xid = 0
        self.last_zxid = 0
        reply = self.handshake()
        self.session_id, self.password, self.timeout_ms = reply.session_id, reply.password, reply.timeout_ms


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return certificates.write_files(tmp_path / "tls")


@pytest.fixture
def make(new_server: ServerFactory, files: Files) -> Callable[..., Secure]:
    def build(**settings: str | None) -> Secure:
        return Secure(new_server, files, **settings)

    return build


@pytest.fixture
def secure(make: Callable[..., Secure]) -> Secure:
    made = make(X509AuthenticationProvider__superUser="CN=admin,O=Tests")
    made.server.start()
    return made


@pytest.fixture
def kazoo() -> Iterator[Callable[..., KazooClient]]:
    clients: list[KazooClient] = []

    def start(secure: Secure, name: str | None = "client", port: int | None = None) -> KazooClient:
        options: dict[str, Any] = {}
        if name:
            options = {"certfile": secure.files.certificate_of(name), "keyfile": secure.files.key_of(name)}
        client = KazooClient(
            f"127.0.0.1:{port or secure.port}", use_ssl=True, ca=str(secure.files.authority_file), **options
        )
        clients.append(client)
        client.start(timeout=15)
        return client

    yield start
    for client in clients:
        client.stop()
        client.close()


def refused(connect: Callable[[], ssl.SSLSocket]) -> bool:
    """Whether the server ends the connection at the handshake or right after it, without any data."""
    try:
        connection = connect()
    except (ssl.SSLError, ConnectionError):
        return True
    with connection:
        try:
            # With TLS 1.3 the client learns of a refusal when it reads.
            connection.sendall(b"\0\0\0\x2d" + wire.connect_request())
            return connection.recv(1) == b""
        except (ssl.SSLError, ConnectionError):
            return True


def test_everyday_calls(secure: Secure, kazoo: Callable[..., KazooClient]) -> None:
    zk = kazoo(secure)
    events = []
    zk.create("/a", b"1")
    zk.get("/a", watch=events.append)
    zk.set("/a", b"2")
    poll(lambda: len(events) == 1, "the watch fires")
    assert zk.get("/a")[0] == b"2"
    transaction = zk.transaction()
    for number in range(100):
        transaction.create(f"/a/{number}", b"x" * 1000)
    assert len(transaction.commit()) == 100
    assert len(zk.get_children("/a")) == 100
    # the same tree through the plain port
    with secure.server.session() as plain:
        assert plain.get("/a")[0] == b"2"
        assert "secureClientPort=" + str(secure.port) in secure.server.four_letter_word("conf")


def test_large_data_and_a_slow_reader(secure: Secure) -> None:
    big = bytes(range(256)) * 4000
    with secure.session() as zk:
        zk.create("/big", big)
        zk.send(*[wire.get_data("/big")] * 40)  # 40 MB of replies before one of them is read
        with secure.session() as other:
            assert other.exists("/big") is not None
        for _ in range(40):
            assert wire.Reader(zk.reply().body).buffer() == big
        # many small requests in few writes
        zk.send(*[wire.exists("/big")] * 5000)
        for _ in range(5000):
            assert zk.reply().err == 0


def test_a_certificate_is_an_identity(secure: Secure, kazoo: Callable[..., KazooClient]) -> None:
    zk = kazoo(secure)
    zk.create("/mine", b"x", acl=[ACL(Permissions.ALL, Id("auth", ""))])
    assert zk.get_acls("/mine")[0] == [ACL(Permissions.ALL, Id("x509", NAME))]
    zk.create("/others", b"x", acl=[ACL(Permissions.READ, Id("x509", "CN=somebody"))])
    with pytest.raises(NoAuthError):
        zk.set("/others", b"y")
    with pytest.raises(InvalidACLError):
        zk.create("/bad", b"x", acl=[ACL(Permissions.ALL, Id("x509", "not a name"))])
    assert zk.get("/mine")[0] == b"x"
    zk.add_auth("x509", "")
    with secure.server.session() as plain:
        assert plain.error(wire.get_data("/mine")) == wire.NO_AUTH
        assert plain.add_auth("x509", b"").err == wire.AUTH_FAILED


def test_x509_acls_need_tls(new_server: ServerFactory) -> None:
    with new_server().start().session() as zk:
        request = wire.create("/a", b"", acl=[wire.Acl(wire.PERM_ALL, "x509", NAME)])
        assert zk.error(request) == wire.INVALID_ACL


def test_the_super_user_of_x509(make: Callable[..., Secure]) -> None:
    secure = make(X509AuthenticationProvider__superUser=NAME)
    secure.server.start()
    with secure.server.session() as plain, secure.session() as admin:
        plain.create("/closed", b"x", acl=[wire.Acl(wire.PERM_READ, "ip", "10.9.9.9")])
        assert plain.error(wire.get_data("/closed")) == wire.NO_AUTH
        assert admin.get("/closed")[0] == b"x"


def test_who_may_come(make: Callable[..., Secure]) -> None:
    secure = make(ssl__clientAuth="want")
    secure.server.start()
    with secure.session(None) as zk:
        acl = [wire.Acl(wire.PERM_ALL, "auth", "")]
        assert zk.error(wire.create("/a", b"", acl=acl)) == wire.INVALID_ACL
    assert refused(lambda: secure.connect("stranger"))
    with secure.session("client") as zk:
        zk.create("/b", b"", acl=acl)


def test_need_refuses_those_without_a_certificate(secure: Secure) -> None:
    assert refused(lambda: secure.connect(None))
    assert refused(lambda: secure.connect("stranger"))
    with secure.session():
        pass
    assert "TLS handshake failed" in secure.server.log_text()


def test_tls_alone(make: Callable[..., Secure]) -> None:
    secure = make(clientPort=None, clientPortAddress=None)
    secure.server.launch()
    poll(lambda: "serving address" in secure.server.log_text(), "the server serves", 20)
    with secure.session() as zk:
        zk.create("/a")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", secure.server.port), timeout=5)
    connection = secure.connect()
    connection.sendall(b"ruok")
    assert connection.recv(100) == b"imok"
    assert connection.recv(100) == b""
    # Plain text is no TLS: that connection is closed, with no more than an alert of TLS.
    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=10) as plain,
        contextlib.suppress(OSError),
    ):
        plain.sendall(b"\0\0\0\x2d" + wire.connect_request())
        received = plain.recv(1000)
        assert received == b"" or received[0] == 0x15
    assert secure.server.terminate()[0] == 0


def test_one_port_for_both(make: Callable[..., Secure], kazoo: Callable[..., KazooClient]) -> None:
    secure = make(secureClientPort=None, secureClientPortAddress=None, client__portUnification="true",
                  ssl__handshakeDetectionTimeoutMillis="1000")  # fmt: skip
    server = secure.server.start()
    assert server.four_letter_word("ruok") == "imok"
    zk = kazoo(secure, port=server.port)
    zk.create("/a", b"x", acl=[ACL(Permissions.ALL, Id("x509", NAME))])
    with server.session() as plain:
        assert plain.error(wire.get_data("/a")) == wire.NO_AUTH
        plain.create("/b", bytes(500_000))
        assert len(plain.get("/b")[0] or b"") == 500_000
    # one that says nothing is closed
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as silent:
        assert silent.recv(1) == b""
    assert "it did not show in time" in server.log_text()


def test_bad_handshakes_close_only_themselves(secure: Secure) -> None:
    seeded = random.Random(7)
    with secure.session() as zk:
        zk.create("/a", b"x")
        hello = ssl.MemoryBIO()
        client = secure.context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        greeting = hello.read()
        for turn in range(60):
            with socket.create_connection(("127.0.0.1", secure.port), timeout=10) as sock:
                if turn % 3 == 0:
                    raw = seeded.randbytes(seeded.randrange(1, 3000))
                elif turn % 3 == 1:
                    raw = greeting[: seeded.randrange(1, len(greeting))]
                else:
                    damaged = bytearray(greeting)
                    for _ in range(5):
                        damaged[seeded.randrange(len(damaged))] = seeded.randrange(256)
                    raw = bytes(damaged)
                with contextlib.suppress(OSError):
                    sock.sendall(raw)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
            assert zk.get("/a")[0] == b"x"


def test_random_bytes_after_a_handshake(secure: Secure) -> None:
    seeded = random.Random(8)
    with secure.session() as zk:
        zk.create("/a", b"x")
        for turn in range(60):
            with secure.connect() as connection:
                raw = seeded.randbytes(seeded.randrange(4, 3000))
                with contextlib.suppress(OSError):
                    if turn % 2:
                        connection.sendall(raw)
                    else:
                        # garbage where records of TLS should be
                        with socket.socket(fileno=connection.detach()) as beneath:
                            beneath.settimeout(10)
                            beneath.sendall(raw)
                            beneath.shutdown(socket.SHUT_WR)
                            while beneath.recv(65536):
                                pass
            assert zk.get("/a")[0] == b"x"
        lengths = (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0")
        for raw in lengths:
            with secure.connect() as connection:
                connection.sendall(raw + bytes(100))
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    assert connection.recv(1) == b""
        assert zk.get("/a")[0] == b"x"
    assert secure.server.running


def test_unfinished_handshakes_are_limited(make: Callable[..., Secure]) -> None:
    secure = make(netty__server__outstandingHandshake__limit="5")
    server = secure.server.start()
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", secure.port), timeout=10))
        poll(lambda: refused(lambda: secure.connect(timeout=2)), "a sixth handshake is refused")
        assert "netty.server.outstandingHandshake.limit=5 reached" in server.log_text()

    def welcome() -> bool:
        try:
            secure.session().close()
        except (OSError, wire.WireError):
            return False
        return True

    poll(welcome, "there is room again")


def test_the_limit_of_an_address_counts_handshakes(make: Callable[..., Secure]) -> None:
    secure = make(maxClientCnxns="3")
    secure.server.start()
    with contextlib.ExitStack() as stack:
        stack.enter_context(secure.session())
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", secure.port), timeout=10))
        poll(lambda: refused(lambda: secure.connect(timeout=2)), "a fourth connection is refused")
    assert "maxClientCnxns=3 reached for this address" in secure.server.log_text()


def test_certificates_are_read_again(make: Callable[..., Secure]) -> None:
    secure = make(client__certReload="true")
    server = secure.server.start()
    before = secure.session()
    certificates.write_files(secure.files.directory)

    def changed() -> bool:
        try:
            secure.session().close()
        except (OSError, wire.WireError):
            return False
        return True

    poll(changed, "the new certificates are in use", 15)
    assert "certificates read again" in server.log_text()
    before.create("/still-there")
    before.close()


def test_the_start_fails_without_a_key(make: Callable[..., Secure]) -> None:
    for settings, reason in (
        ({"ssl__keyStore__password": "hush-wrong"}, "gives no key and certificate"),
        ({"ssl__keyStore__location": "/no/such.pem"}, "cannot be read: No such file or directory"),
        ({"ssl__trustStore__location": None}, "ssl.trustStore.location is not set"),
    ):
        secure = make(**settings)
        code, output = secure.server.run_to_end()
        assert code == 1
        assert reason in output
        assert "hush" not in output
        assert not secure.server.data_dir.exists()


def test_no_secret_is_logged(secure: Secure) -> None:
    with secure.session() as zk:
        zk.create("/a")
    assert refused(lambda: secure.connect("stranger"))
    code, shown = secure.server.run_to_end("--check-config")
    assert code == 0
    assert "ssl.keyStore.password=***" in shown
    for text in (shown, secure.server.log_text()):
        assert PASSWORD not in text
        assert "PRIVATE" not in text


def test_many_at_once(secure: Secure) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with secure.session() as zk:
                zk.create(f"/n{number}", bytes(10_000))
                for _ in range(50):
                    assert zk.get(f"/n{number}")[0] == bytes(10_000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
