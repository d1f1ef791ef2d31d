"""Contexts from ZooKeeper's settings and stores, names of certificates as Java writes them, identities."""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as certs
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID, ObjectIdentifier
from support import certificates
from support.certificates import PASSWORD, Files

from fastzk.server.config import Config
from fastzk.server.errors import StartupError
from fastzk.server.tls import Certificates, Contexts, build_context, openssl_suite
from fastzk.server.x509 import distinguished_name, subject_name, valid_name


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return certificates.write_files(tmp_path_factory.mktemp("tls"))


def config_of(files: Files, **settings: Any) -> Config:
    merged: dict[str, Any] = {
        "data_dir": files.directory,
        "data_log_dir": files.directory,
        "ssl_key_store_path": files.directory / "server.pem",
        "ssl_key_store_password": PASSWORD,
        "ssl_trust_store_path": files.authority_file,
        **settings,
    }
    return Config(**merged)


def client_context(files: Files, name: str | None = "client") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.authority_file)
    if name:
        context.load_cert_chain(files.certificate_of(name), files.key_of(name))
    return context


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a connection in memory. Raises ssl.SSLError if either end refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
    )
    for _ in range(10):
        done = 0
        for end in reversed(ends):
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == 2:
            return ends
    raise AssertionError("the handshake does not end")


class Client:
    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.found: list[tuple[str, str]] = []

    def add_identity(self, scheme: str, who: str) -> None:
        self.found.append((scheme, who))


def reason_of(config: Config) -> str:
    with pytest.raises(StartupError) as caught:
        build_context(config)
    text = str(caught.value)
    assert "\n" not in text
    assert PASSWORD not in text
    return text


# ---- names


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ([], ""),
        ([(NameOID.COUNTRY_NAME, "DE"), (NameOID.COMMON_NAME, "bob")], "CN=bob,C=DE"),
        ([(NameOID.COMMON_NAME, 'a,b+c"d\\e<f>g;h#i=j')], 'CN=a\\,b\\+c\\"d\\\\e\\<f\\>g\\;h\\#i\\=j'),
        ([(NameOID.COMMON_NAME, " lead and trail  ")], "CN=\\ lead and trail\\ \\ "),
        ([(NameOID.COMMON_NAME, "J\u00f6rg \U0001d11e")], "CN=J\u00f6rg \U0001d11e"),
        ([(NameOID.USER_ID, "u1"), (NameOID.DOMAIN_COMPONENT, "org")], "DC=org,UID=u1"),
        ([(NameOID.STATE_OR_PROVINCE_NAME, "s"), (NameOID.STREET_ADDRESS, "x")], "STREET=x,ST=s"),
        ([(NameOID.EMAIL_ADDRESS, "a@b")], "1.2.840.113549.1.9.1=#1603614062"),
        ([(NameOID.TITLE, "Dr")], "2.5.4.12=#0c024472"),
        ([(ObjectIdentifier("2.999.3"), "x")], "2.999.3=#0c0178"),
    ],
)
def test_names_are_written_as_java_does(
    attributes: list[tuple[ObjectIdentifier, str]], expected: str
) -> None:
    name = certs.Name([certs.NameAttribute(oid, value) for oid, value in attributes])
    assert distinguished_name(name.public_bytes()) == expected
    assert valid_name(expected)


def test_several_attributes_in_one_part_keep_their_order() -> None:
    part = certs.RelativeDistinguishedName(
        [
            certs.NameAttribute(NameOID.COMMON_NAME, "bob", _ASN1Type.PrintableString),
            certs.NameAttribute(NameOID.USER_ID, "u1"),
        ]
    )
    name = certs.Name(
        [certs.RelativeDistinguishedName([certs.NameAttribute(NameOID.ORGANIZATION_NAME, "o")]), part]
    )
    assert distinguished_name(name.public_bytes()) in ("CN=bob+UID=u1,O=o", "UID=u1+CN=bob,O=o")


def test_the_subject_of_a_certificate(files: Files) -> None:
    der = files.client.der
    assert subject_name(der) == "CN=client,O=Tests"
    for cut in (0, 1, 5, 40, len(der) // 2):
        with pytest.raises(ValueError, match="certificate"):
            subject_name(der[:cut])
    with pytest.raises(ValueError, match="certificate"):
        subject_name(b"\x30\x03\x02\x01\x01")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "CN=bob",
        "cn=bob, o=x; ou = y+l=z",
        "2.5.4.3=a",
        "OID.1.2.3=",
        'CN="a,b"',
        "CN=a\\,b",
        "CN=#0c0161",
        "DNQ=",
    ],
)
def test_names_that_java_reads(name: str) -> None:
    assert valid_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "bob",
        "=x",
        "CN",
        "CN=a,",
        "XX=a",
        "CN=a<b",
        "CN=#12",
        "CN=#zz",
        "CN=a\\z",
        'CN="a',
        "3.1=a",
        "1.40.1=a",
        ",",
    ],
)
def test_names_that_java_does_not_read(name: str) -> None:
    assert not valid_name(name)


# ---- stores


def test_pem(files: Files) -> None:
    server, client = shake_hands(build_context(config_of(files)), client_context(files))
    assert client.version() == "TLSv1.3"
    assert server.getpeercert(binary_form=True) == files.client.der


def test_a_password_in_a_file_counts_more(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    build_context(config_of(files, ssl_key_store_password="wrong", ssl_key_store_password_path=path))
    assert "ssl.keyStore.passwordPath: cannot read" in reason_of(
        config_of(files, ssl_key_store_password_path=tmp_path / "none")
    )


@pytest.mark.parametrize(("ending", "kind"), [(".p12", None), (".store", "pkcs12"), (".jks", None)])
def test_pkcs12_also_under_the_name_of_jks(
    files: Files, tmp_path: Path, ending: str, kind: str | None
) -> None:
    keys = tmp_path / f"keys{ending}"
    keys.write_bytes(files.server.pkcs12(others=[files.authority]))
    trust = tmp_path / f"trust{ending}"
    trust.write_bytes(
        certificates.pkcs12.serialize_key_and_certificates(
            None, None, None, [files.authority.certificate],
            certificates.serialization.BestAvailableEncryption(PASSWORD.encode()),
        )
    )  # fmt: skip
    before = os.listdir("/proc/self/fd")
    config = config_of(
        files, ssl_key_store_path=keys, ssl_key_store_type=kind, ssl_trust_store_path=trust,
        ssl_trust_store_type=kind, ssl_trust_store_password=PASSWORD,
    )  # fmt: skip
    shake_hands(build_context(config), client_context(files))
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert "ssl.keyStore.location: " in reason_of(
        config_of(files, ssl_key_store_path=keys, ssl_key_store_type=kind, ssl_key_store_password="wrong")
    )


def test_jks(files: Files, tmp_path: Path) -> None:
    jks = pytest.importorskip("jks")
    key = files.server.key.private_bytes(
        certificates.serialization.Encoding.DER,
        certificates.serialization.PrivateFormat.PKCS8,
        certificates.serialization.NoEncryption(),
    )
    entry = jks.PrivateKeyEntry.new("server", [files.server.der, files.authority.der], key)
    keys, trust = tmp_path / "keys.jks", tmp_path / "trust.jks"
    jks.KeyStore.new("jks", [entry]).save(str(keys), PASSWORD)
    jks.KeyStore.new("jks", [jks.TrustedCertEntry.new("ca", files.authority.der)]).save(str(trust), PASSWORD)
    config = config_of(
        files, ssl_key_store_path=keys, ssl_trust_store_path=trust, ssl_trust_store_password=PASSWORD
    )
    shake_hands(build_context(config), client_context(files))
    assert "is the password right?" in reason_of(
        config_of(files, ssl_key_store_path=keys, ssl_key_store_password="wrong")
    )
    assert "holds no certificate to trust" in reason_of(
        config_of(files, ssl_trust_store_path=keys, ssl_trust_store_password=PASSWORD)
    )
    assert "holds no key with a certificate" in reason_of(config_of(files, ssl_key_store_path=trust))


@pytest.mark.parametrize(("ending", "package"), [(".p12", "cryptography"), (".jks", "pyjks")])
def test_what_is_not_installed_is_named(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, package: str
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".", 1)[0] in ("cryptography", "jks"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    build_context(config_of(files))  # PEM needs neither
    path = tmp_path / f"keys{ending}"
    path.write_bytes(b"\xfe\xed\xfe\xed" if ending == ".jks" else b"0")
    assert f"needs the package {package}: pip install fastzk[tls]" in reason_of(
        config_of(files, ssl_key_store_path=path)
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ssl_key_store_path": None}, "ssl.keyStore.location is not set"),
        ({"ssl_trust_store_path": None}, "ssl.trustStore.location is not set"),
        ({"ssl_key_store_path": Path("/no/such.pem")}, "cannot be read: No such file or directory"),
        ({"ssl_trust_store_path": Path("/no/such.pem")}, "cannot be read: No such file or directory"),
        ({"ssl_key_store_password": "wrong"}, "gives no key and certificate"),
        ({"ssl_key_store_password": None}, "gives no key and certificate"),
        ({"ssl_key_store_password": "x" * 5000}, "gives no key and certificate"),
        ({"ssl_key_store_type": "BCFKS"}, "ssl.keyStore.type: 'BCFKS' is not one of PEM, PKCS12, JKS"),
        ({"ssl_key_store_path": Path("/x/y.crt")}, "does not end in .pem, .p12, .jks: set ssl.keyStore.type"),
        ({"ssl_crl": True}, "ssl.crl: revocation checks are not supported"),
        ({"ssl_ocsp": True}, "ssl.ocsp: revocation checks are not supported"),
        ({"ssl_protocol": "SSLv4"}, "ssl.protocol: 'SSLv4' is not a version of TLS"),
        ({"ssl_enabled_protocols": ("TLSv1", "TLSv1.1")}, "versions of TLS before 1.2 are not offered"),
        ({"ssl_ciphersuites": ("NONSENSE",)}, "ssl.ciphersuites: 'NONSENSE' is not known, or too weak"),
        (
            {"ssl_ciphersuites": ("TLS_AES_128_GCM_SHA256",), "ssl_protocol": "TLSv1.2"},
            "none of the suites belongs to a version of TLS that is offered",
        ),
    ],
)
def test_what_stops_the_start(files: Files, settings: dict[str, Any], reason: str) -> None:
    assert reason in reason_of(config_of(files, **settings))


# ---- what is offered


@pytest.mark.parametrize(
    ("settings", "newest", "oldest"),
    [
        ({}, "TLSv1.3", "TLSv1.2"),
        ({"ssl_protocol": "TLS"}, "TLSv1.3", "TLSv1.2"),
        ({"ssl_protocol": "TLSv1.2"}, "TLSv1.2", "TLSv1.2"),
        ({"ssl_enabled_protocols": ("TLSv1.3",), "ssl_protocol": "TLSv1.2"}, "TLSv1.3", "TLSv1.3"),
        ({"ssl_enabled_protocols": ("TLSv1.1", "TLSv1.2")}, "TLSv1.2", "TLSv1.2"),
        ({"ssl_ciphersuites": ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",)}, "TLSv1.2", "TLSv1.2"),
        ({"ssl_ciphersuites": ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384")}, "TLSv1.3", "TLSv1.3"),
    ],
)
def test_versions(files: Files, settings: dict[str, Any], newest: str, oldest: str) -> None:
    server = build_context(config_of(files, **settings))
    assert shake_hands(server, client_context(files))[0].version() == newest
    older = client_context(files)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    if oldest == "TLSv1.3":
        with pytest.raises(ssl.SSLError):
            shake_hands(server, older)
    else:
        assert shake_hands(server, older)[0].version() == "TLSv1.2"
    oldest_client = client_context(files)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        oldest_client.minimum_version = oldest_client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        shake_hands(server, oldest_client)


def test_the_cipher_suite_is_the_one_named(files: Files) -> None:
    server = build_context(
        config_of(files, ssl_ciphersuites=("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",))
    )
    cipher = shake_hands(server, client_context(files))[0].cipher()
    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"


@pytest.mark.parametrize(
    ("java", "openssl"),
    [
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", "ECDHE-RSA-AES128-SHA256"),
        ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384", "ECDHE-ECDSA-AES256-SHA384"),
        ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", "ECDHE-RSA-AES256-SHA"),
        ("TLS_DHE_RSA_WITH_AES_256_GCM_SHA384", "DHE-RSA-AES256-GCM-SHA384"),
        ("TLS_RSA_WITH_AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
        ("AES256-SHA", "AES256-SHA"),
    ],
)
def test_names_of_suites(java: str, openssl: str) -> None:
    assert openssl_suite(java) == openssl
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(openssl)


# ---- who the client is


def test_need_want_none(files: Files) -> None:
    contexts = {
        auth: build_context(config_of(files, ssl_client_auth=auth)) for auth in ("need", "want", "none")
    }
    identify = Certificates().identify
    for auth, name, expected in (
        ("need", "client", [("x509", "CN=client,O=Tests")]),
        ("want", "client", [("x509", "CN=client,O=Tests")]),
        ("want", None, []),
        ("none", "client", []),
        ("none", "stranger", []),
    ):
        client = Client()
        assert identify(client, shake_hands(contexts[auth], client_context(files, name))[0])
        assert client.found == expected
    for auth, name in (("need", None), ("need", "stranger"), ("want", "stranger")):
        with pytest.raises(ssl.SSLError):
            shake_hands(contexts[auth], client_context(files, name))


def test_a_certificate_itself_can_be_trusted(files: Files) -> None:
    path = Path(files.certificate_of("stranger"))
    server = build_context(config_of(files, ssl_trust_store_path=path))
    shake_hands(server, client_context(files, "stranger"))
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client_context(files, "client"))


def test_the_super_user(files: Files) -> None:
    connection = shake_hands(build_context(config_of(files)), client_context(files))[0]
    client = Client()
    assert Certificates(super_user="CN=client,O=Tests").identify(client, connection)
    assert client.found == [("super", "CN=client,O=Tests"), ("x509", "CN=client,O=Tests")]


def test_the_host_of_a_client(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    connection = shake_hands(build_context(config_of(files)), client_context(files))[0]
    identify = Certificates(verify_host=True).identify
    assert identify(Client("127.0.0.1"), connection)
    stranger = Client("127.0.0.2")
    assert not identify(stranger, connection)
    assert stranger.found == []
    assert "is not for this address" in caplog.text


# ---- reading again


def test_contexts_follow_the_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    files = certificates.write_files(tmp_path)
    contexts = Contexts(config_of(files, client_cert_reload=True))
    first = contexts.current
    asyncio.run(contexts.refresh())
    assert contexts.current is first
    old_client = client_context(files)
    good = (tmp_path / "server.pem").read_bytes()
    (tmp_path / "server.pem").write_bytes(b"half a file")
    asyncio.run(contexts.refresh())
    assert contexts.current is first
    assert "certificates not read again" in caplog.text
    (tmp_path / "server.pem").write_bytes(good)
    asyncio.run(contexts.refresh())
    assert contexts.current is not first
    shake_hands(contexts.current, old_client)
    others = certificates.write_files(tmp_path)
    asyncio.run(contexts.refresh())
    shake_hands(contexts.current, client_context(others))
    with pytest.raises(ssl.SSLError):
        shake_hands(contexts.current, old_client)
    assert PASSWORD not in caplog.text


def test_contexts_stay_without_the_setting(tmp_path: Path) -> None:
    files = certificates.write_files(tmp_path)
    contexts = Contexts(config_of(files))
    first = contexts.current
    certificates.write_files(tmp_path)
    asyncio.run(contexts.refresh())
    assert contexts.current is first


def test_secrets_are_not_shown(files: Files) -> None:
    settings: Mapping[str, Any] = {"ssl_trust_store_password": PASSWORD, "sasl_super_password": PASSWORD}
    assert PASSWORD not in repr(config_of(files, **settings))
