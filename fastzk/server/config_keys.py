"""Every configuration key of ZooKeeper: how its value is read and what becomes of it here.

The table ``KEYS`` is the only place that knows the names. config.py reads files and flags by it, and the
tables in docs/configuration.md are printed from it; this rewrites them:
``python -m fastzk.server.config_keys docs/configuration.md``.
"""

from __future__ import annotations

import difflib
import enum
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

INT_MAX = 2**31 - 1
_COMMANDS = "conf,cons,crst,dirs,dump,envi,gtmk,hash,isro,mntr,ruok,srst,srvr,stat,stmk,wchc,wchp,wchs"
FOUR_LETTER_COMMANDS = frozenset(re.findall("[a-z]+", _COMMANDS))
# ZooKeeper takes the names of Java's MessageDigest; hashlib has its own for the same functions.
DIGEST_ALGORITHMS = {
    "SHA1": "sha1",
    "SHA-1": "sha1",
    "SHA": "sha1",
    "MD5": "md5",
    "SHA-224": "sha224",
    "SHA-256": "sha256",
    "SHA-384": "sha384",
    "SHA-512": "sha512",
    "SHA3-224": "sha3_224",
    "SHA3-256": "sha3_256",
    "SHA3-384": "sha3_384",
    "SHA3-512": "sha3_512",
}


def quote(text: str) -> str:
    """``text`` in quotes for a message: not too long, and with control characters escaped, so on one line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


# ---- how values are read: each takes the trimmed text and raises ValueError(message) when it is wrong


def whole_number(low: int, high: int = INT_MAX, unit: str = "", *, hexadecimal: bool = False) -> Callable[[str], int]:
    """A reader of whole numbers from ``low`` to ``high``; ``unit`` is only for its messages."""
    of_unit = f" of {unit}" if unit else ""
    shape = re.compile(r"[+-]?[0-9]{1,20}|0[xX][0-9a-fA-F]{1,16}" if hexadecimal else r"[+-]?[0-9]{1,20}")

    def read(text: str) -> int:
        if not shape.fullmatch(text):
            raise ValueError(f"{quote(text)} is not a whole number{of_unit}")
        number = int(text, 16) if text[:2] in ("0x", "0X") else int(text)
        if not low <= number <= high:
            raise ValueError(f"{quote(text)} is out of range: choose {low} to {high}{' ' + unit if unit else ''}")
        return number

    return read


def fraction(text: str) -> float:
    """A decimal number from 0 to 1."""
    if not re.fullmatch(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", text[:40]) or len(text) > 40:
        raise ValueError(f"{quote(text)} is not a number from 0 to 1")
    if not 0 <= float(text) <= 1:
        raise ValueError(f"{quote(text)} is out of range: choose 0 to 1")
    return float(text)


def port(text: str) -> int:
    """A TCP port from 1 to 65535."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"{quote(text)} is not a port number from 1 to 65535")
    return int(text)


def port_or_any(text: str) -> int:
    """A TCP port, or 0 for any free one: on the command line only."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > 65535:
        raise ValueError(f"{quote(text)} is not a port number from 0 to 65535 (0 takes any free one)")
    return int(text)


def session_timeout(text: str) -> int:
    """Milliseconds, or -1 for the default."""
    number = whole_number(-1, unit="milliseconds")(text)
    if number == 0:
        raise ValueError(f"'0' is out of range: choose 1 to {INT_MAX} milliseconds, or -1 for the default")
    return number


def boolean(text: str) -> bool:
    """``true`` or ``false``, in upper or lower case."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{quote(text)} is neither true nor false")
    return text.lower() == "true"


def yes_or_no(text: str) -> bool:
    """Exactly ``yes`` or ``no``: ZooKeeper takes nothing else for yes, and a guess could open every znode."""
    if text not in ("yes", "no"):
        raise ValueError(f"{quote(text)} is neither yes nor no (in lower case)")
    return text == "yes"


def one_of(*choices: str) -> Callable[[str], str]:
    """A reader that accepts ``choices`` only, in upper or lower case."""

    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"{quote(text)} is not one of: {', '.join(choices)}")
        return text.lower()

    return read


def address(text: str) -> str:
    """An address or host name to listen on; ``""`` for every interface, as the two wildcards mean in Java."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not host or re.search(r"[\s\x00-\x20\[\]/;|,\x7f]", host):
        raise ValueError(f"{quote(text)} is not an address or host name")
    return "" if host in ("0.0.0.0", "::") else host


def directory(text: str) -> Path:
    """A directory's absolute path; a relative one starts where the server was started."""
    if not text or "\0" in text:
        raise ValueError(f"{quote(text)} is not a directory's path")
    return Path(text).absolute()


def file(text: str) -> Path:
    """A file's absolute path; a relative one starts where the server was started."""
    if not text or "\0" in text:
        raise ValueError(f"{quote(text)} is not a file's path")
    return Path(text).absolute()


def names(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def interval(text: str) -> timedelta:
    """Hours, or a number with a unit: ms, s, m, h or d."""
    match = re.fullmatch(r"\+?([0-9]{1,10})(ms|[smhd]?)", text, re.IGNORECASE)
    if not match:
        raise ValueError(f"{quote(text)} is not a whole number of hours, or one with ms, s, m, h or d")
    units = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "": 3_600_000, "d": 86_400_000}
    milliseconds = int(match[1]) * units[match[2].lower()]
    if milliseconds > 3_650 * units["d"]:
        raise ValueError(f"{quote(text)} is out of range: choose ten years or less")
    return timedelta(milliseconds=milliseconds)


def whitelist(text: str) -> frozenset[str]:
    """Names of four-letter words with commas between; ``*`` for all.

    ``srvr`` is always among them, as in ZooKeeper. With ``*`` the set holds every word and the ``*`` itself.
    """
    words = frozenset(word.strip() for word in text.split(",")) - {""}
    return FOUR_LETTER_COMMANDS | {"*"} if "*" in words else words | {"srvr"}


def digest_algorithm(text: str) -> str:
    """hashlib's name for one of Java's digest algorithms."""
    if text.upper() not in DIGEST_ALGORITHMS:
        raise ValueError(f"{quote(text)} is not a known digest: choose one of {', '.join(DIGEST_ALGORITHMS)}")
    return DIGEST_ALGORITHMS[text.upper()]


# ---- the table


class Effect(enum.Enum):
    """What becomes of a key."""

    NOW = "takes effect"
    ENSEMBLE = "concerns ensembles only: a single server ignores it, as ZooKeeper's does"
    LATER = "accepted, and named in a warning: the feature is not there yet"
    NEVER = "accepted, and named in a warning: it has no meaning here"


@dataclass(frozen=True, slots=True)
class Key:
    """One key: ``name`` as in a file, ``aliases`` by which files know it as well.

    ``family`` matches the names of an open-ended group, ``name`` is then only its title. ``native`` keys are
    those ZooKeeper's parser of files knows itself; every other one it passes on as the system property
    ``zookeeper.<name>``, so that people write them with that prefix too. A ``secret`` value is never shown.
    ``field``: where the value is found, from the Config on: ``tick_time_ms``, ``ensemble.init_limit``.
    """

    name: str
    effect: Effect
    text: str
    default: str = ""
    field: str | None = None
    read: Callable[[str], object] = str
    aliases: tuple[str, ...] = ()
    family: re.Pattern[str] | None = None
    native: bool = False
    secret: bool = False


def _now(
    name: str,
    field: str | None,
    read: Callable[[str], object],
    default: str,
    text: str,
    *,
    native: bool = True,
    secret: bool = False,
    family: re.Pattern[str] | None = None,
    aliases: tuple[str, ...] = (),
) -> Key:
    return Key(name, Effect.NOW, text, default, field, read, aliases, family, native, secret)


def _property(
    name: str,
    field: str | None,
    read: Callable[[str], object],
    default: str,
    text: str,
    *,
    secret: bool = False,
    family: str | None = None,
    aliases: tuple[str, ...] = (),
) -> Key:
    pattern = re.compile(family) if family else None
    return _now(name, field, read, default, text, native=False, secret=secret, family=pattern, aliases=aliases)


def _other(effect: Effect) -> Callable[..., Key]:
    def key(
        name: str,
        text: str,
        *aliases: str,
        read: Callable[[str], object] = str,
        native: bool | None = None,
        family: str | None = None,
        secret: bool = False,
    ) -> Key:
        pattern = re.compile(family) if family else None
        # ZooKeeper checks a value while it reads the file only if its parser knows the key.
        own = read is not str if native is None else native
        return Key(name, effect, text, read=read, aliases=aliases, family=pattern, native=own, secret=secret)

    return key


def _ensemble(
    name: str,
    field: str | None,
    read: Callable[[str], object],
    default: str,
    text: str,
    *,
    native: bool = True,
    secret: bool = False,
    family: str | None = None,
) -> Key:
    pattern = re.compile(family) if family else None
    where = field and f"ensemble.{field}"
    return Key(name, Effect.ENSEMBLE, text, default, where, read, (), pattern, native, secret)


_later = _other(Effect.LATER)
_never = _other(Effect.NEVER)
_any_int = whole_number(-INT_MAX - 1)
_count = whole_number(0)


def _threshold(text: str) -> int:
    number = whole_number(-1, unit="bytes")(text)
    if number == 0:
        raise ValueError(f"'0' is out of range: choose 1 to {INT_MAX} bytes, or -1 for none")
    return number


# The longest session timeout is 20 ticks by default, and must fit the int of the protocol.
_tick = whole_number(1, INT_MAX // 20, unit="milliseconds")


#: What a TLS key says of servers, where that differs from what it says of clients.
_BETWEEN_SERVERS = {
    "clientHostnameVerification": "whether the certificate of a server that connects must name its address",
    "hostnameVerification": "whether the certificate of the server that is connected to must name its host; "
    "false: `clientHostnameVerification` has no effect either",
    "clientAuth": "whether servers that connect must show a certificate: none, want, need",
}


def _tls_keys() -> Iterator[Key]:
    """The TLS keys exist twice: ``ssl.*`` for clients, ``ssl.quorum.*`` between servers."""
    millis = whole_number(1, unit="milliseconds")
    stores = "PEM, PKCS12 or JKS; by default as its name ends: .pem, .p12, .jks"
    keys: tuple[tuple[str, str | None, Callable[[str], object], str, str], ...] = (
        ("keyStore.location", "ssl_key_store_path", file, "", "file with the server's key and certificate"),
        ("keyStore.password", "ssl_key_store_password", str, "", "password of the key store"),
        ("keyStore.passwordPath", "ssl_key_store_password_path", file, "", "file with that password"),
        ("keyStore.type", "ssl_key_store_type", str, "", f"type of the key store: {stores}"),
        ("trustStore.location", "ssl_trust_store_path", file, "", "file with the trusted certificates"),
        ("trustStore.password", "ssl_trust_store_password", str, "", "password of the trust store"),
        ("trustStore.passwordPath", "ssl_trust_store_password_path", file, "", "file with that password"),
        ("trustStore.type", "ssl_trust_store_type", str, "", f"type of the trust store: {stores}"),
        ("protocol", "ssl_protocol", str, "", "the version of TLS that is offered, without enabledProtocols"),
        (
            "enabledProtocols",
            "ssl_enabled_protocols",
            names,
            "",
            "versions of TLS that are offered, by default TLSv1.2 and TLSv1.3; none before them ever is",
        ),
        ("ciphersuites", "ssl_ciphersuites", names, "", "cipher suites, by Java's names or OpenSSL's"),
        (
            "hostnameVerification",
            "ssl_hostname_verification",
            boolean,
            "true",
            "false: `clientHostnameVerification` has no effect either",
        ),
        (
            "clientHostnameVerification",
            "ssl_client_hostname_verification",
            boolean,
            "false",
            "whether a client's certificate must name the address it comes from",
        ),
        ("allowReverseDnsLookup", None, str, "", "whether host names are looked up by address for that"),
        ("crl", "ssl_crl", boolean, "false", "certificate revocation lists: true stops the start"),
        ("ocsp", "ssl_ocsp", boolean, "false", "revocation checks by OCSP: true stops the start"),
        (
            "clientAuth",
            "ssl_client_auth",
            one_of("none", "want", "need"),
            "need",
            "whether clients must show a certificate: none, want, need",
        ),
        (
            "handshakeDetectionTimeoutMillis",
            "ssl_detection_timeout_ms",
            millis,
            "5000",
            "milliseconds for a client to show whether it speaks TLS, with `client.portUnification`",
        ),
    )
    for suffix, name, read, default, text in keys:
        secret = suffix.endswith(".password")
        if name is None:
            yield _later(f"ssl.{suffix}", f"TLS: {text}")
        else:
            yield _property(f"ssl.{suffix}", name, read, default, f"TLS: {text}", secret=secret)
        between = f"TLS between servers: {_BETWEEN_SERVERS.get(suffix, text)}"
        if name is None:
            yield _later(f"ssl.quorum.{suffix}", between)
        elif suffix == "handshakeDetectionTimeoutMillis":
            yield _never(f"ssl.quorum.{suffix}", "TLS between servers: a port has TLS or none")
        else:
            # Here the servers check each other's names, by default as in ZooKeeper.
            own_default = "true" if suffix == "clientHostnameVerification" else default
            yield _ensemble(
                f"ssl.quorum.{suffix}", f"tls.{name}", read, own_default, between, native=False, secret=secret
            )
    for name in ("ssl.context.supplier.class", "ssl.quorum.context.supplier.class"):
        yield _never(name, "names a Java class that builds the TLS context")
    yield _never("ssl.sslProvider", "chooses between TLS libraries of Java", "ssl.provider")
    yield _later("ssl.authProvider", "authentication scheme of TLS clients")


KEYS: tuple[Key, ...] = (
    # -- files and directories
    _now(
        "dataDir",
        "data_dir",
        directory,
        "data",
        "directory of the checkpoints and `myid`; created with mode 0700",
    ),
    _now("dataLogDir", "data_log_dir", directory, "dataDir", "directory of the transaction log"),
    _property("datadir.autocreate", "data_dir_autocreate", boolean, "true", "false: never create a directory"),
    # -- clients
    _now("clientPort", "client_port", port, "2181", "port for clients; on the command line 0: any free one"),
    _now(
        "clientPortAddress",
        "client_address",
        address,
        "every interface if the file has clientPort, else 127.0.0.1",
        "address or host name to listen on",
    ),
    _now(
        "clientPortListenBacklog",
        "listen_backlog",
        whole_number(-1),
        "-1",
        "connections the kernel holds until they are accepted; -1 leaves the choice to the server",
    ),
    _now("tickTime", "tick_time_ms", _tick, "3000", "milliseconds of a tick, a unit of other times"),
    _now(
        "minSessionTimeout",
        "min_session_timeout_ms",
        session_timeout,
        "2 ticks",
        "shortest session timeout a client can get, in milliseconds; -1 for the default",
    ),
    _now(
        "maxSessionTimeout",
        "max_session_timeout_ms",
        session_timeout,
        "20 ticks",
        "longest session timeout a client can get, in milliseconds; -1 for the default",
    ),
    _now("maxClientCnxns", "max_client_cnxns", _count, "60", "connections from one address; 0 for no limit"),
    _property("maxCnxns", "max_cnxns", _count, "0", "connections of all clients together; 0 for no limit"),
    _property(
        "jute.maxbuffer",
        "jute_maxbuffer",
        # 16 bytes is the smallest frame that can carry a request at all.
        whole_number(16, unit="bytes", hexadecimal=True),
        "1048575",
        "bytes of the largest request (0x... is understood); ZooKeeper takes it on Java's command line only",
    ),
    _property(
        "maxReplyBytes",
        "max_reply_bytes",
        whole_number(-1, unit="bytes"),
        "jute.maxbuffer",
        "bytes of the largest list in a reply, above which the answer is `MarshallingError`; 0: no limit, as in "
        "ZooKeeper; -1 for the default. fastzk's own key",
    ),
    _property(
        "keeperExtensions",
        "keeper_extensions",
        boolean,
        "true",
        "false: only ZooKeeper's requests are answered, none of [extensions.md](extensions.md). fastzk's own key",
    ),
    _property(
        "globalOutstandingLimit",
        "global_outstanding_limit",
        whole_number(1),
        "1000",
        "requests in progress at which clients are slowed down",
    ),
    _property(
        "4lw.commands.whitelist",
        "four_letter_whitelist",
        whitelist,
        "srvr",
        "four-letter words that are answered, with commas between; `*` for all; srvr always is",
    ),
    _property("extendedTypesEnabled", "extended_types_enabled", boolean, "false", "TTL znodes"),
    _property(
        "znode.container.checkIntervalMs",
        "container_check_interval_ms",
        whole_number(1, unit="milliseconds"),
        "60000",
        "milliseconds between two searches for empty containers and outlived TTL znodes",
    ),
    _property(
        "znode.container.maxPerMinute",
        "container_max_per_minute",
        whole_number(1),
        "10000",
        "containers and TTL znodes deleted in a minute",
    ),
    _property(
        "znode.container.maxNeverUsedIntervalMs",
        "container_max_never_used_ms",
        whole_number(0, 2**63 - 1, "milliseconds"),
        "0",
        "milliseconds after which a container goes that never had a child; 0: it stays",
    ),
    # -- limits
    _property(
        "largeRequestThreshold",
        "large_request_threshold",
        _threshold,
        "-1",
        "bytes above which a request is large; -1: none is",
    ),
    _property(
        "largeRequestMaxBytes",
        "large_request_max_bytes",
        whole_number(1, unit="bytes"),
        "104857600",
        "bytes of large requests in progress; a client that exceeds them is disconnected",
    ),
    _property(
        "requestThrottleLimit",
        "request_throttle_limit",
        _count,
        "0",
        "as `globalOutstandingLimit`: the lower of the two counts; 0: only that does",
        aliases=("request_throttle_max_requests",),
    ),
    _property(
        "connectionMaxTokens",
        "connection_max_tokens",
        _count,
        "0",
        "connect requests that may come at once; 0: connections are not throttled",
        aliases=("connection_throttle_tokens",),
    ),
    _property(
        "connectionTokenFillTime",
        "connection_fill_time_ms",
        whole_number(1, unit="milliseconds"),
        "1",
        "milliseconds until there are `connectionTokenFillCount` tokens more",
        aliases=("connection_throttle_fill_time",),
    ),
    _property(
        "connectionTokenFillCount",
        "connection_fill_count",
        whole_number(1),
        "1",
        "tokens added in `connectionTokenFillTime`",
        aliases=("connection_throttle_fill_count",),
    ),
    _property(
        "connectionFreezeTime",
        "connection_freeze_time_ms",
        whole_number(-1, unit="milliseconds"),
        "-1",
        "milliseconds between changes of the drop chance; -1: there is none",
        aliases=("connection_throttle_freeze_time",),
    ),
    _property(
        "connectionDropIncrease",
        "connection_drop_increase",
        fraction,
        "0.02",
        "what the drop chance gains when there is no token left",
        aliases=("connection_throttle_drop_increase",),
    ),
    _property(
        "connectionDropDecrease",
        "connection_drop_decrease",
        fraction,
        "0.002",
        "what it loses when there are tokens again",
        aliases=("connection_throttle_drop_decrease",),
    ),
    _property(
        "connectionDecreaseRatio",
        "connection_decrease_ratio",
        fraction,
        "0.0",
        "part of the tokens that may be missing then",
        aliases=("connection_throttle_decrease_ratio",),
    ),
    _property(
        "connection_throttle_weight_enabled",
        "connection_weight_enabled",
        boolean,
        "false",
        "tokens are counted by the weights that follow",
    ),
    _property(
        "connection_throttle_global_session_weight",
        "connection_global_weight",
        whole_number(1, 1000),
        "3",
        "weight of a new session",
    ),
    _property(
        "connection_throttle_local_session_weight",
        "connection_local_weight",
        whole_number(1, 1000),
        "1",
        "weight of a local session: the least that the others have",
    ),
    _property(
        "connection_throttle_renew_session_weight",
        "connection_renew_weight",
        whole_number(1, 1000),
        "2",
        "weight of a client that goes on with its session",
    ),
    # -- TLS
    _now("secureClientPort", "secure_client_port", port, "", "TLS port; without clientPort the only one"),
    _now(
        "secureClientPortAddress",
        "secure_client_address",
        address,
        "every interface if the file has secureClientPort, else 127.0.0.1",
        "address or host name to listen on for TLS",
    ),
    _property("client.portUnification", "client_port_unification", boolean, "false", "TLS on the client port, too"),
    _property("client.certReload", "client_cert_reload", boolean, "false", "read the stores again when they change"),
    _property(
        "netty.server.outstandingHandshake.limit",
        "outstanding_handshake_limit",
        whole_number(-1),
        "-1",
        "TLS handshakes at once; -1 or 0 for no limit",
    ),
    *_tls_keys(),
    # -- who clients are
    _property(
        "authProvider.NAME",
        None,
        str,
        "",
        "class of a further authentication scheme: ZooKeeper's SASLAuthenticationProvider or "
        "X509AuthenticationProvider (there without asking if TLS is)",
        family=r"authProvider\..+",
    ),
    _property(
        "X509AuthenticationProvider.superUser",
        "x509_super_user",
        str,
        "",
        "subject of the super user's certificate, in RFC 2253 form",
    ),
    _now(
        "java.security.auth.login.config",
        "jaas_path",
        file,
        "",
        "JAAS file with the users of SASL DIGEST-MD5; ZooKeeper takes it on Java's command line only",
    ),
    _property("sasl.serverconfig", "jaas_section", str, "Server", "section of the JAAS file"),
    _property("superUser.NAME", None, str, "", "SASL name of a super user", family=r"superUser(\..+)?"),
    _property(
        "SASLAuthenticationProvider.superPassword",
        "sasl_super_password",
        str,
        "",
        "password of the SASL user `super`, instead of that in the JAAS file",
        secret=True,
    ),
    _property("allowSaslFailedClients", "allow_sasl_failed_clients", boolean, "false", "keep those who fail in SASL"),
    _property(
        "sessionRequireClientSASLAuth",
        "session_require_sasl",
        boolean,
        "false",
        "refuse requests of clients without SASL",
    ),
    _property(
        "enforce.auth.enabled",
        "enforce_auth_enabled",
        boolean,
        "false",
        "refuse requests of clients without one of `enforce.auth.schemes`",
    ),
    _property("enforce.auth.schemes", "enforce_auth_schemes", names, "", "schemes, with commas between"),
    # -- log and checkpoints
    _property("snapCount", "snap_count", _any_int, "100000", "transactions between checkpoints; at least 2"),
    _property(
        "preAllocSize",
        "pre_alloc_size_kb",
        whole_number(1, 16 * 1024 * 1024, "kilobytes"),
        "65536",
        "kilobytes of log space prepared at a time",
    ),
    _now(
        "autopurge.snapRetainCount",
        "autopurge_snap_retain_count",
        _any_int,
        "3",
        "checkpoints whose log is kept; at least 3",
    ),
    _now(
        "autopurge.purgeInterval",
        "autopurge_purge_interval",
        interval,
        "0",
        "hours between two purges, or a number with ms, s, m, h or d; 0 for none",
    ),
    # -- who may do what
    _property(
        "enforceQuota",
        "enforce_quota",
        boolean,
        "false",
        "true: refuse writes above a hard quota, else log them",
    ),
    _property("skipACL", "skip_acl", yes_or_no, "no", "yes: access rights are not checked"),
    _now(
        "DigestAuthenticationProvider.superDigest",
        "super_digest",
        str,
        "",
        "`user:` and the digest of `user:password`; who knows them may do everything",
        native=False,
        secret=True,
    ),
    _property(
        "DigestAuthenticationProvider.digestAlg",
        "digest_alg",
        digest_algorithm,
        "SHA1",
        "digest of passwords: SHA1, SHA-224 to SHA-512, SHA3-224 to SHA3-512, MD5",
    ),
    # -- servers
    _now(
        "server.N",
        None,
        str,
        "",
        "`host:port:port[:role][;[address:]clientPort]`: see above; the second port is only shown, not used",
        family=re.compile(r"server\..*"),
    ),
    _now("dynamicConfigFile", None, str, "", "file with the server lines"),
    _now(
        "standaloneEnabled",
        "standalone_enabled",
        boolean,
        "true",
        "false: a single server line is an ensemble of one, which can grow",
    ),
    _now("reconfigEnabled", "reconfig_enabled", boolean, "false", "change the servers while they run"),
    # ---- ensembles only
    _ensemble("group.N", None, str, "", "numbers of the servers of a group, with `:` between", family=r"group\..*"),
    _ensemble("weight.N", None, str, "1", "weight of a participant's vote", family=r"weight\..*"),
    _ensemble(
        "initLimit", "init_limit", _count, "", "ticks a server may take to connect to the leader and catch up; required"
    ),
    _ensemble(
        "syncLimit",
        "sync_limit",
        _count,
        "",
        "ticks a server and the leader may hear nothing of each other; required",
    ),
    _ensemble(
        "connectToLearnerMasterLimit",
        "connect_to_learner_master_limit",
        _count,
        "0",
        "ticks to reach the leader after an election; 0: as many as `initLimit`",
    ),
    _ensemble("electionAlg", None, whole_number(3, 3), "3", "only 3 is accepted, and changes nothing"),
    _ensemble(
        "peerType",
        None,
        one_of("participant", "observer"),
        "",
        "role of this server: only a warning if the server line says otherwise, which counts",
    ),
    _ensemble(
        "quorumListenOnAllIPs",
        "quorum_listen_on_all_ips",
        boolean,
        "false",
        "true: the quorum port listens on every interface, not only on the host of the own server line",
    ),
    _ensemble(
        "quorumSecretFile",
        "quorum_secret_path",
        file,
        "",
        "file with a secret of 16 bytes or more that all servers of the ensemble share and prove to know; "
        "its mode must be 0600 or less. fastzk's own key",
    ),
    _ensemble("sslQuorum", "ssl_quorum", boolean, "false", "TLS between servers", native=False),
    _ensemble(
        "sslQuorumReloadCertFiles",
        "ssl_quorum_reload_cert_files",
        boolean,
        "false",
        "read the stores for TLS between servers again when they change",
    ),
    _ensemble("portUnification", None, boolean, "false", "TLS and plain text on the quorum port: true stops the start"),
    _ensemble(
        "quorum.auth.enableSasl",
        None,
        boolean,
        "false",
        "SASL between servers: true stops the start; see `quorumSecretFile` and `sslQuorum`",
    ),
    _ensemble(
        "localSessionsEnabled",
        "local_sessions_enabled",
        boolean,
        "false",
        "new sessions are known to their server only: no "
        "transaction, but they go on nowhere else",
    ),
    _ensemble(
        "localSessionsUpgradingEnabled",
        "local_sessions_upgrading_enabled",
        boolean,
        "false",
        "a local session becomes one of all servers with its first ephemeral znode; otherwise it can make none",
    ),
    _ensemble(
        "readonlymode.enabled",
        "read_only_mode_enabled",
        boolean,
        "false",
        "a server without a leader for 2 s (or a tick, if that is longer) serves reads to clients that ask for it; "
        "ZooKeeper takes it on Java's command line only",
        native=False,
    ),
    _ensemble("leaderServes", "leader_serves", yes_or_no, "yes", "no: the leader accepts no clients", native=False),
    _ensemble(
        "commitLogCount",
        "commit_log_count",
        _any_int,
        "500",
        "committed transactions kept in memory for servers that fell behind; at least 500",
        native=False,
    ),
    # ---- later
    _later("netty.server.earlyDropSecureConnectionHandshakes", "refuse TLS handshakes during the start"),
    _later("DigestAuthenticationProvider.enabled", "whether the digest scheme exists; it does"),
    _later("IPAuthenticationProvider.usexforwardedfor", "client addresses from an HTTP header"),
    _later("ensembleAuthName", "names of the ensemble a client may ask for"),
    _later("kerberos.removeHostFromPrincipal", "SASL names without the host"),
    _later("kerberos.removeRealmFromPrincipal", "SASL names without the realm"),
    _later("kerberos.canonicalizeHostNames", "canonical host names in SASL names"),
    _later("letAnySaslUserDoX", "SASL name that may do everything"),
    _later("security.auth_to_local", "rules from Kerberos to local names"),
    _later("enableEagerACLCheck", "check access rights before the leader does"),
    _later("admin.enableServer", "the admin server, over HTTP"),
    _later("admin.serverAddress", "address of the admin server"),
    _later("admin.serverPort", "port of the admin server", read=port, native=False),
    _later("admin.commandURL", "path of the admin server's commands"),
    _later("admin.idleTimeout", "idle time of admin connections"),
    _later("admin.httpVersion", "HTTP version of the admin server"),
    _later("admin.portUnification", "HTTP and HTTPS on the admin port"),
    _later("admin.forceHttps", "HTTPS only on the admin port"),
    _later("admin.needClientAuth", "admin clients must show a certificate"),
    _later("admin.rateLimiterIntervalInMS", "shortest time between two snapshots or restores"),
    _later("admin.snapshot.enabled", "the admin command snapshot"),
    _later("admin.restore.enabled", "the admin command restore"),
    _later("metricsProvider.httpPort", "port of the metrics", read=port),
    _later("metricsProvider.httpsPort", "TLS port of the metrics", read=port),
    _later("metricsProvider.NAME", "metrics for Prometheus", family=r"metricsProvider\..+", native=True),
    _later("audit.enable", "audit log"),
    _later("pathStats.NAME", "counts of the paths used most", family=r"pathStats\..+"),
    _later("clientTcpKeepAlive", "keep-alive on clients' connections"),
    _later("snapSizeLimitInKb", "log size that starts a checkpoint"),
    _later("txnLogSizeLimitInKb", "log size that starts a new segment"),
    _later("fsync.warningthresholdms", "duration of an fsync that is worth a warning"),
    _later("db.autocreate", "false: never start with an empty database"),
    _later("emulate353TTLNodes", "TTL znodes as version 3.5.3 wrote them"),
    # ---- never
    _never("syncEnabled", "observers always write to disk", "observer.syncEnabled", read=boolean, native=False),
    _never("observerMasterPort", "observers connect as every server does", read=whole_number(-INT_MAX, 65535)),
    _never("observerMaster.sizeLimit", "observers connect as every server does"),
    _never("observer.reconnectDelayMs", "servers reconnect by themselves, at growing intervals"),
    _never("observer.election.DelayMs", "observers take no part in elections and are told their result"),
    _never("oraclePath", "no outsider breaks the tie of two servers: have a third", native=True),
    _never("cnxTimeout", "elections have no connections of their own"),
    _never("quorumCnxnTimeoutMs", "elections have no connections of their own"),
    _never("electionPortBindRetry", "elections have no port of their own"),
    _never("tcpKeepAlive", "servers always hear of each other within `syncLimit`"),
    _never("leader.nodelay", "messages between servers are never held back"),
    _never("follower.nodelay", "messages between servers are never held back"),
    _never("leader.maxTimeToWaitForEpoch", "a candidate tries again by itself", "maxTimeToWaitForEpoch"),
    _never("leader.maxConcurrentSnapSyncs", "transfers give way to requests", "maxConcurrentSnapSyncs"),
    _never("leader.maxConcurrentDiffSyncs", "transfers give way to requests", "maxConcurrentDiffSyncs"),
    _never("leader.closeSocketAsync", "closing a connection never blocks"),
    _never("leader.ackLoggingFrequency", "acknowledgments are not logged"),
    _never("learner.closeSocketAsync", "closing a connection never blocks"),
    _never("learner.asyncSending", "sending never blocks"),
    _never("leaderConnectDelayDuringRetryMs", "servers reconnect by themselves, at growing intervals"),
    _never("fastleader.minNotificationInterval", "elections are timed by `tickTime`"),
    _never("fastleader.maxNotificationInterval", "elections are timed by `tickTime`"),
    _never("snapshotSizeFactor", "a server gets the log as long as the leader has it"),
    _never("forceSnapshotSync", "a server gets the log as long as the leader has it"),
    _never("multiAddress.enabled", "several addresses of a server are always accepted", read=boolean, native=False),
    _never("multiAddress.reachabilityCheckEnabled", "several addresses are tried in turn", read=boolean, native=False),
    _never(
        "multiAddress.reachabilityCheckTimeoutMs",
        "several addresses are tried in turn",
        read=_any_int,
        native=False,
    ),
    _never("quorum.auth.serverRequireSasl", "SASL between servers is not supported", read=boolean),
    _never("quorum.auth.learnerRequireSasl", "SASL between servers is not supported", read=boolean),
    _never("quorum.auth.learner.saslLoginContext", "SASL between servers is not supported", native=True),
    _never("quorum.auth.server.saslLoginContext", "SASL between servers is not supported", native=True),
    _never("quorum.auth.kerberos.servicePrincipal", "SASL between servers is not supported", native=True),
    _never("quorum.cnxn.threads.size", "SASL between servers is not supported", read=_any_int),
    _never("messageTracker.BufferSize", "belongs to the diagnosis of Java's server"),
    _never("messageTracker.Enabled", "belongs to the diagnosis of Java's server"),
    _never("follower.skipLearnerRequestToNextProcessor", "concerns the order of Java's processors"),
    _never("forward_learner_requests_to_commit_processor_disabled", "concerns the order of Java's processors"),
    _never("forceSync", "an acknowledged write is always on disk"),
    _never("digest.enabled", "log, checkpoints and tree always carry their checksums"),
    _never("serializeLastProcessedZxid.enabled", "a checkpoint always carries its zxid"),
    _never("closeSessionTxn.enabled", "the end of a session always lists its znodes in the log"),
    _never("snapshot.compression.method", "checkpoints are pages of LMDB, not files to compress"),
    _never("snapshot.trust.empty", "a log without its checkpoint is never taken for a new server"),
    _never("jute.maxbuffer.extrasize", "the limit is for requests; what is on disk is always read"),
    _never("flushDelay", "a batch is written as soon as the log is free, without timers"),
    _never("maxWriteQueuePollTime", "a batch is written as soon as the log is free, without timers"),
    _never("maxBatchSize", "a batch is written as soon as the log is free"),
    _never("maxResponseCacheSize", "replies are made from the tree directly"),
    _never("maxGetChildrenResponseCacheSize", "replies are made from the tree directly"),
    _never("watchManagerName", "there is one watch manager"),
    _never("watcherCleanThreadsNum", "watches end with their connection, without threads"),
    _never("watcherCleanThreshold", "watches end with their connection, without threads"),
    _never("watcherCleanIntervalInSeconds", "watches end with their connection, without threads"),
    _never("maxInProcessingDeadWatchers", "watches end with their connection, without threads"),
    _never("bitHashCacheSize", "belongs to a data structure of Java's watch manager"),
    _never("requestThrottleStallTime", "requests wait in their connections", "request_throttle_stall_time"),
    _never("requestThrottleDropStale", "requests wait in their connections", "request_throttle_drop_stale"),
    _never("requestStaleLatencyCheck", "requests wait in their connections", "request_stale_latency_check"),
    _never("requestStaleConnectionCheck", "requests wait in their connections", "request_stale_connection_check"),
    _never("throttledOpWaitTime", "requests wait in their connections", "throttled_op_wait_time"),
    _never("request_throttler.shutdownTimeout", "the end of the server is bounded as a whole"),
    _never("serverCnxnFactory", "names a Java class"),
    _never("audit.impl.class", "names a Java class"),
    _never("advancedFlowControlEnabled", "concerns Netty", "netty.advancedFlowControl.enabled"),
    _never("nio.numSelectorThreads", "one event loop serves all connections"),
    _never("nio.numWorkerThreads", "one event loop serves all connections"),
    _never("nio.directBufferBytes", "concerns Java's buffers"),
    _never("nio.shutdownTimeout", "there are no such threads to wait for"),
    _never("nio.sessionlessCnxnTimeout", "belongs to Java's connection threads"),
    _never("intBufferStartingSizeBytes", "concerns Java's buffers"),
    _never("commitProcessor.numWorkerThreads", "there are no such threads"),
    _never("commitProcessor.maxReadBatchSize", "reads never wait for writes of other sessions"),
    _never("commitProcessor.maxCommitBatchSize", "writes are applied in the batches of the log"),
    _never("commitProcessor.shutdownTimeout", "there are no such threads to wait for"),
    _never("jvm.pause.monitor", "concerns Java's garbage collection", read=boolean),
    _never("jvm.pause.warn-threshold.ms", "concerns Java's garbage collection", read=_any_int),
    _never("jvm.pause.info-threshold.ms", "concerns Java's garbage collection", read=_any_int),
    _never("jvm.pause.sleep.time.ms", "concerns Java's garbage collection", read=_any_int),
    _never("jmx.log4j.disable", "concerns Java's logging"),
    _never("kinit", "renews tickets for Java's Kerberos"),
    _never("requireKerberosConfig", "concerns Java's Kerberos"),
    _never("fips-mode", "chooses between TLS classes of Java"),
)

BY_NAME: dict[str, Key] = {name: key for key in KEYS for name in (key.name, *key.aliases) if not key.family}
FAMILIES: tuple[Key, ...] = tuple(key for key in KEYS if key.family)
PREFIX = "zookeeper."


def find_key(name: str) -> Key | None:
    """The key called ``name`` in a file or after ``--set``; None if there is none."""
    key = BY_NAME.get(name)
    if key is None:
        key = next((each for each in FAMILIES if each.family and each.family.fullmatch(name)), None)
    if key is None and name.startswith(PREFIX):
        bare = find_key(name.removeprefix(PREFIX))
        key = bare if bare and not bare.native else None
    return key


def nearest_name(name: str) -> str | None:
    """The known key that looks most like ``name``, whatever its case; None if none does."""
    known = {known.lower(): known for known in BY_NAME}
    found = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), known, n=1, cutoff=0.7)
    return known[found[0]] if found else None


# ---- the tables of the documentation

BEGIN, END = "<!-- keys: begin -->\n", "<!-- keys: end -->\n"


def keys_as_markdown() -> str:
    """``KEYS`` as one Markdown table for each effect."""
    parts = []
    for effect in Effect:
        keys = [key for key in KEYS if key.effect is effect]
        with_default = effect in (Effect.NOW, Effect.ENSEMBLE)
        parts.append(f"## {effect.value[0].upper()}{effect.value[1:]}\n")
        parts.append("| key | default | meaning |" if with_default else "| key | meaning |")
        parts.append("| --- | --- | --- |" if with_default else "| --- | --- |")
        for key in keys if with_default else sorted(keys, key=lambda each: each.name.lower()):
            names = ", ".join(f"`{name}`" for name in (key.name, *key.aliases))
            text = key.text.replace("|", r"\|")
            parts.append(f"| {names} | {key.default} | {text} |" if with_default else f"| {names} | {text} |")
        parts.append("")
    return "\n".join(parts)


def with_current_tables(document: str) -> str:
    """``document`` with what stands between its two markers replaced by the tables of ``KEYS``.

    Raises ValueError if a marker is missing.
    """
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("the document lacks the marks of the tables")
    return f"{head}{begin}\n{keys_as_markdown()}\n{end}{tail}"


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(with_current_tables(document.read_text()))
