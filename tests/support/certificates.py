"""Certificates and stores for the tests of TLS, made when they are needed and never kept."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

PASSWORD = "top-secret-of-the-store"  # noqa: S105


@dataclass(frozen=True)
class Identity:
    """A key with its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def key_pem(self, password: str | None = None) -> bytes:
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password.encode())
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    def pkcs12(self, password: str = PASSWORD, others: Sequence[Identity] = ()) -> bytes:
        return pkcs12.serialize_key_and_certificates(
            b"server",
            self.key,
            self.certificate,
            [other.certificate for other in others] or None,
            serialization.BestAvailableEncryption(password.encode()),
        )


def subject(name: str) -> x509.Name:
    """CN of ``name`` in an organisation; its RFC 2253 form is ``CN=<name>,O=Tests``."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def make(
    name: x509.Name | str,
    issuer: Identity | None = None,
    *,
    authority: bool = False,
    address: str = "127.0.0.1",
) -> Identity:
    """A new key with a certificate signed by ``issuer``, or by itself. Valid for a day, for ``address``."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = subject(name) if isinstance(name, str) else name
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(issuer.certificate.subject if issuer else own)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        alternatives = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(address))]
        )
        builder = builder.add_extension(alternatives, critical=False)
    return Identity(key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))


@dataclass(frozen=True)
class Files:
    """A set of files in one directory: an authority, a server and a client under it, and a stranger."""

    directory: Path
    authority: Identity
    server: Identity
    client: Identity
    stranger: Identity

    @property
    def authority_file(self) -> Path:
        return self.directory / "ca.pem"

    def key_of(self, name: str) -> str:
        return str(self.directory / f"{name}.key.pem")

    def certificate_of(self, name: str) -> str:
        return str(self.directory / f"{name}.cert.pem")

    def settings(self) -> dict[str, str]:
        """zoo.cfg keys for a server with stores of type PEM."""
        return {
            "ssl.keyStore.location": str(self.directory / "server.pem"),
            "ssl.keyStore.password": PASSWORD,
            "ssl.trustStore.location": str(self.authority_file),
        }


def write_files(directory: Path) -> Files:
    """A new set of identities, as files: ``server.pem`` (encrypted key and chain), ``NAME.key.pem``, ..."""
    directory.mkdir(parents=True, exist_ok=True)
    authority = make("authority", authority=True)
    files = Files(
        directory, authority, make("server", authority), make("client", authority), make("stranger")
    )
    files.authority_file.write_bytes(authority.certificate_pem)
    (directory / "server.pem").write_bytes(
        files.server.key_pem(PASSWORD) + files.server.certificate_pem + authority.certificate_pem
    )
    for name, identity in (("client", files.client), ("stranger", files.stranger)):
        Path(files.key_of(name)).write_bytes(identity.key_pem())
        Path(files.certificate_of(name)).write_bytes(identity.certificate_pem)
    return files
