"""TLS for clients and between servers: an ``ssl.SSLContext`` from ZooKeeper's settings, and what a client's
certificate proves.

Key stores and trust stores are files of the types PEM, PKCS12 and JKS. PEM needs nothing but the standard
library; the other two need the packages of the extra ``tls``, which are imported when such a file is read.

OpenSSL reads keys from files only. A key that comes out of PKCS12 or JKS is handed over by a file in memory
(memfd), so that it never touches a disk.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from fastzk.server.config import Config
from fastzk.server.ensemble_config import EnsembleConfig, QuorumTls
from fastzk.server.errors import StartupError
from fastzk.server.peers import PeerTls
from fastzk.server.x509 import subject_name

logger = logging.getLogger(__name__)

#: The settings ``ssl.*`` for clients, or ``ssl.quorum.*``: their fields are called the same.
TlsSettings: TypeAlias = Config | QuorumTls
Built = TypeVar("Built")

PEM, PKCS12, JKS = "PEM", "PKCS12", "JKS"
_ENDINGS: Final = {".pem": PEM, ".p12": PKCS12, ".jks": JKS}
_JKS_MAGIC = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERIFY: Final = {"none": ssl.CERT_NONE, "want": ssl.CERT_OPTIONAL, "need": ssl.CERT_REQUIRED}
#: Java's names of versions. Those before 1.2 are not offered, whoever asks for them.
_VERSIONS: Final = {"tlsv1.2": ssl.TLSVersion.TLSv1_2, "tlsv1.3": ssl.TLSVersion.TLSv1_3}
_OLD_VERSIONS: Final = frozenset({"sslv2hello", "sslv3", "tlsv1", "tlsv1.1"})
#: The suites of TLS 1.3 that OpenSSL offers; the module ssl cannot choose among them.
_SUITES_13: Final = frozenset(
    {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
)


# ---- stores


@dataclass(frozen=True, slots=True)
class Store:
    """A key store or trust store: where it is, its type (None: by the ending of its name), its password.

    ``key`` is the beginning of the names of its settings (``ssl.keyStore``), for messages. A password in the
    file ``password_path`` counts more than ``password``.
    """

    key: str
    path: Path
    kind: str | None
    password: str | None
    password_path: Path | None

    def error(self, message: str) -> StartupError:
        return StartupError(f"{self.key}.location: {str(self.path)!r} {message}")

    def read_kind(self) -> str:
        """PEM, PKCS12 or JKS. Raises StartupError."""
        if self.kind:
            kind = self.kind.upper()
            if kind not in _ENDINGS.values():
                raise StartupError(f"{self.key}.type: {self.kind!r} is not one of PEM, PKCS12, JKS")
            return kind
        kind_by_name = _ENDINGS.get(self.path.suffix)
        if kind_by_name is None:
            raise self.error(f"does not end in {', '.join(_ENDINGS)}: set {self.key}.type")
        return kind_by_name

    def read_password(self) -> str:
        """The password, empty if there is none. Raises StartupError."""
        if self.password_path is None:
            return self.password or ""
        try:
            return self.password_path.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not in UTF-8"
            raise StartupError(
                f"{self.key}.passwordPath: cannot read {str(self.password_path)!r}: {reason}"
            ) from None

    def read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror}") from None


def _key_store(config: TlsSettings, prefix: str) -> Store | None:
    if config.ssl_key_store_path is None:
        return None
    return Store(
        f"{prefix}.keyStore",
        config.ssl_key_store_path,
        config.ssl_key_store_type,
        config.ssl_key_store_password,
        config.ssl_key_store_password_path,
    )


def _trust_store(config: TlsSettings, prefix: str) -> Store | None:
    if config.ssl_trust_store_path is None:
        return None
    return Store(
        f"{prefix}.trustStore",
        config.ssl_trust_store_path,
        config.ssl_trust_store_type,
        config.ssl_trust_store_password,
        config.ssl_trust_store_password_path,
    )


def _load_key(context: ssl.SSLContext, store: Store) -> None:
    """Give the context the server's key and certificates. Raises StartupError."""
    kind, password = store.read_kind(), store.read_password()
    if kind == PEM:
        store.read()  # for a clear reason if it is not there
        _load_chain(context, str(store.path), password, store)
        return
    data = store.read()
    # Java writes PKCS12 into files of either type.
    by_content = _key_of_jks if data[:4] in _JKS_MAGIC else _key_of_pkcs12
    pem = by_content(data, password, store)
    file = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(file, pem)
        _load_chain(context, f"/proc/self/fd/{file}", "", store)
    finally:
        os.close(file)


def _load_chain(context: ssl.SSLContext, path: str, password: str, store: Store) -> None:
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(path, password=password)
    except (ssl.SSLError, ValueError) as error:
        # The password's own text is in none of these.
        reason = error.reason if isinstance(error, ssl.SSLError) else "password too long"
        raise store.error(
            f"gives no key and certificate ({reason}): is the password right, and do the two belong together?"
        ) from None


def _load_trust(context: ssl.SSLContext, store: Store) -> None:
    """Give the context the certificates that are trusted. Raises StartupError."""
    kind, data = store.read_kind(), store.read()
    if kind == PEM:
        trusted = b"\n".join(_CERTIFICATE.findall(data))
    else:
        password = store.read_password()
        by_kind = _trusted_of_jks if data[:4] in _JKS_MAGIC else _trusted_of_pkcs12
        trusted = b"".join(ssl.DER_cert_to_PEM_cert(each).encode() for each in by_kind(data, password, store))
    if not trusted:
        raise store.error("holds no certificate to trust")
    try:
        context.load_verify_locations(cadata=trusted.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise store.error(f"holds a malformed certificate ({error.reason})") from None


def _missing(package: str, store: Store) -> StartupError:
    return store.error(f"needs the package {package}: pip install fastzk[tls], or use a store of type PEM")


def _load_pkcs12(data: bytes, password: str, store: Store) -> Any:
    try:
        from cryptography.hazmat.primitives.serialization import pkcs12
    except ImportError:
        raise _missing("cryptography", store) from None
    try:
        return pkcs12.load_pkcs12(data, password.encode())
    except ValueError:
        raise store.error("cannot be opened: it is not PKCS12, or the password is wrong") from None


def _key_of_pkcs12(data: bytes, password: str, store: Store) -> bytes:
    """The key and its certificates as PEM."""
    content = _load_pkcs12(data, password, store)
    if content.key is None or content.cert is None:
        raise store.error("holds no key with a certificate")
    from cryptography.hazmat.primitives import serialization

    key: bytes = content.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificates = [content.cert, *content.additional_certs]
    return key + b"".join(each.certificate.public_bytes(serialization.Encoding.PEM) for each in certificates)


def _trusted_of_pkcs12(data: bytes, password: str, store: Store) -> list[bytes]:
    content = _load_pkcs12(data, password, store)
    from cryptography.hazmat.primitives import serialization

    found = list(content.additional_certs)
    if content.key is not None:
        # Those without a name belong to the issuers of that key: nobody chose to trust them.
        found = [each for each in found if each.friendly_name is not None]
    elif content.cert is not None:
        found.append(content.cert)
    return [each.certificate.public_bytes(serialization.Encoding.DER) for each in found]


def _load_jks(data: bytes, password: str, store: Store) -> Any:
    try:
        import jks
    except ImportError:
        raise _missing("pyjks", store) from None
    try:
        return jks.KeyStore.loads(data, password)
    except Exception as error:
        # A damaged file makes it raise anything; of the message nothing is shown, the data could be in it.
        raise store.error(f"cannot be opened ({type(error).__name__}): is the password right?") from None


def _key_of_jks(data: bytes, password: str, store: Store) -> bytes:
    """The key and its certificates as PEM: of several keys the first by name."""
    keys = sorted(_load_jks(data, password, store).private_keys.items())
    if not keys:
        raise store.error("holds no key with a certificate")
    entry = keys[0][1]
    if not entry.is_decrypted():
        raise store.error("holds a key under a password of its own: give it that of the store")
    key = ssl.DER_cert_to_PEM_cert(entry.pkey_pkcs8).replace("CERTIFICATE", "PRIVATE KEY")
    return (key + "".join(ssl.DER_cert_to_PEM_cert(der) for _, der in entry.cert_chain)).encode()


def _trusted_of_jks(data: bytes, password: str, store: Store) -> list[bytes]:
    return [entry.cert for _, entry in sorted(_load_jks(data, password, store).certs.items())]


# ---- the context


def build_context(config: TlsSettings, prefix: str = "ssl", *, dials: bool = False) -> ssl.SSLContext:
    """The context for accepted connections, or with ``dials`` for those to servers, whose names the caller checks.

    ``prefix``: how the names of the settings begin, for messages.

    Raises StartupError: a store is missing, cannot be opened or holds not what it should, a setting has a
    value that cannot be honoured.
    """
    key_store, trust_store = _key_store(config, prefix), _trust_store(config, prefix)
    if key_store is None:
        raise StartupError(f"{prefix}.keyStore.location is not set: TLS needs the server's key and certificate")
    if trust_store is None and config.ssl_client_auth == "need":
        raise StartupError(
            f"{prefix}.trustStore.location is not set, so no client could get in: set it, or {prefix}.clientAuth=none"
        )
    for name, wanted in (("crl", config.ssl_crl), ("ocsp", config.ssl_ocsp)):
        if wanted:
            raise StartupError(f"{prefix}.{name}: revocation checks are not supported: leave it out")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if dials else ssl.PROTOCOL_TLS_SERVER)
    context.check_hostname = False
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _set_versions(context, config, prefix)
    _set_suites(context, config.ssl_ciphersuites, prefix)
    _load_key(context, key_store)
    context.verify_mode = _VERIFY[config.ssl_client_auth]
    if trust_store is not None and context.verify_mode is not ssl.CERT_NONE:
        # As in Java, whatever is in the trust store is trusted, be it a root or not.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        _load_trust(context, trust_store)
    return context


def build_peer_tls(settings: QuorumTls) -> PeerTls:
    """What servers need for TLS between them, from the settings ``ssl.quorum.*``. Raises StartupError."""
    prefix = "ssl.quorum"
    if settings.ssl_trust_store_path is None:
        raise StartupError(f"{prefix}.trustStore.location is not set, so no other server could get in: set it")
    if settings.ssl_client_auth != "need":
        raise StartupError(f"{prefix}.clientAuth: servers without a certificate are not let in: leave it at need")
    return PeerTls(
        server=build_context(settings, prefix),
        client=build_context(settings, prefix, dials=True),
        verify_host=settings.ssl_hostname_verification,
        verify_dialers=settings.ssl_hostname_verification and settings.ssl_client_hostname_verification,
    )


def _set_versions(context: ssl.SSLContext, config: TlsSettings, prefix: str) -> None:
    """Offer the versions of ``ssl.enabledProtocols``, else that of ``ssl.protocol``, else 1.2 and 1.3."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    name, asked = f"{prefix}.enabledProtocols", config.ssl_enabled_protocols
    if not asked and config.ssl_protocol and config.ssl_protocol.lower() != "tls":
        name, asked = f"{prefix}.protocol", (config.ssl_protocol,)
    if not asked:
        return
    unknown = [each for each in asked if each.lower() not in _VERSIONS.keys() | _OLD_VERSIONS]
    if unknown:
        raise StartupError(f"{name}: {unknown[0]!r} is not a version of TLS: choose TLSv1.2 or TLSv1.3")
    versions = sorted(_VERSIONS[each.lower()] for each in asked if each.lower() in _VERSIONS)
    if not versions:
        raise StartupError(f"{name}: versions of TLS before 1.2 are not offered: add TLSv1.2 or TLSv1.3")
    context.minimum_version, context.maximum_version = versions[0], versions[-1]


def _set_suites(context: ssl.SSLContext, names: tuple[str, ...], prefix: str) -> None:
    """Offer only the suites ``names``, by Java's names or OpenSSL's."""
    if not names:
        return
    newer = [name for name in names if name.upper() in _SUITES_13]
    older = [name for name in names if name.upper() not in _SUITES_13]
    if older:
        for name in older:
            try:
                context.set_ciphers(openssl_suite(name))
            except ssl.SSLError:
                raise StartupError(f"{prefix}.ciphersuites: {name!r} is not known, or too weak") from None
        context.set_ciphers(":".join(map(openssl_suite, older)))
    else:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if not newer:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    elif len(newer) < len(_SUITES_13):
        logger.warning("%s.ciphersuites names some suites of TLS 1.3: all of them are offered", prefix)
    if context.minimum_version > context.maximum_version > 0:
        raise StartupError(f"{prefix}.ciphersuites: none of the suites belongs to a version of TLS that is offered")


def openssl_suite(name: str) -> str:
    """OpenSSL's name of a cipher suite that may have Java's (``TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256``)."""
    match = re.fullmatch(r"TLS_(?:(\w+)_)?WITH_(\w+)", name.upper())
    if match is None:
        return name
    exchange = (match[1] or "").replace("_", "-")
    cipher = re.sub(r"AES_(128|256)_", r"AES\1_", match[2]).replace("CBC_", "").removesuffix("_SHA256_SHA256")
    if cipher.startswith("CHACHA20"):
        cipher = cipher.removesuffix("_SHA256")
    prefix = "" if exchange in ("RSA", "") else exchange + "-"
    return prefix + cipher.replace("_", "-")


# ---- who a client is


class Identified(Protocol):
    """What is needed of a client's connection."""

    @property
    def host(self) -> str: ...
    def add_identity(self, scheme: str, who: str) -> None: ...


class Certificates:
    """Gives clients the identity that their certificate proves.

    ``super_user``: the subject that may do everything, or None. ``verify_host``: whether a certificate must
    name the address that its client comes from.
    """

    def __init__(self, *, super_user: str | None = None, verify_host: bool = False) -> None:
        self._super_user = super_user
        self._verify_host = verify_host

    def identify(self, client: Identified, connection: ssl.SSLObject) -> bool:
        """Add the identity of a client whose handshake succeeded; False if it must not be served."""
        certificate = connection.getpeercert(binary_form=True)
        # OpenSSL has verified it; without ssl.clientAuth none was asked for, and a wanted one may be missing.
        if not certificate or connection.context.verify_mode is ssl.CERT_NONE:
            return True
        try:
            subject = subject_name(certificate)
        except ValueError as error:
            logger.warning("certificate refused address=%s reason=%s", client.host, error)
            return False
        if self._verify_host and not _names(connection.getpeercert() or {}, client.host):
            reason = f"{subject!r} is not for this address"
            logger.warning("certificate refused address=%s reason=%s", client.host, reason)
            return False
        if subject == self._super_user:
            client.add_identity("super", subject)
        client.add_identity("x509", subject)
        return True


def _names(certificate: Mapping[str, Any], address: str) -> bool:
    """Whether the certificate (in the form of ``SSLObject.getpeercert``) is for this address."""
    alternatives = certificate.get("subjectAltName", ())
    if alternatives:
        named = [name for kind, name in alternatives if kind == "IP Address"]
    else:
        named = [value for part in certificate["subject"] for key, value in part if key == "commonName"][-1:]
    return any(_same_address(name, address) for name in named)


def _same_address(one: str, two: str) -> bool:
    try:
        return ipaddress.ip_address(one.strip()) == ipaddress.ip_address(two)
    except ValueError:
        return False


# ---- reading the stores again


class Reloaded(Generic[Built]):
    """What ``build`` makes of the stores, for new connections; if ``enabled`` made anew when a store has changed.

    Connections that are open keep what they have.
    """

    def __init__(self, config: TlsSettings, build: Callable[[], Built], *, enabled: bool) -> None:
        self._build = build
        self._enabled = enabled
        self._files = [
            path
            for path in (
                config.ssl_key_store_path,
                config.ssl_key_store_password_path,
                config.ssl_trust_store_path,
                config.ssl_trust_store_password_path,
            )
            if path is not None
        ]
        self._seen = self._state()
        self._busy = False
        self.current = build()

    def _state(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in self._files:
            try:
                state = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((state.st_ino, state.st_size, state.st_mtime_ns))
        return found

    async def refresh(self) -> None:
        """Read the stores again if one has changed; if something is wrong with them the old ones stay."""
        if self._busy or not self._enabled:
            return
        state = self._state()
        if state == self._seen:
            return
        self._busy = True
        try:
            # Not on the loop: opening a store is slow on purpose.
            self.current = await asyncio.get_running_loop().run_in_executor(None, self._build)
            logger.info("certificates read again")
        except Exception as error:
            # Also what a library makes of a half-written file: the next change is the next attempt.
            logger.error("certificates not read again reason=%s; those before stay", error)
        finally:
            self._seen = state
            self._busy = False


class Contexts(Reloaded[ssl.SSLContext]):
    """The context for clients; with ``client.certReload`` a new one when a store has changed."""

    def __init__(self, config: Config, build: Callable[[Config], ssl.SSLContext] = build_context) -> None:
        super().__init__(config, lambda: build(config), enabled=config.client_cert_reload)


class PeerContexts(Reloaded[PeerTls]):
    """The same for connections between servers, with ``sslQuorumReloadCertFiles``."""

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__(
            config.tls, lambda: build_peer_tls(config.tls), enabled=config.ssl_quorum_reload_cert_files
        )
