"""zoo.cfg, flags and defaults become one frozen ``Config``, checked as a whole; nothing on disk is changed.

A file has the syntax of Java's properties and the keys of ZooKeeper (config_keys.py). What stops the start is
a ``ConfigError`` that names file and line, or the flag; what is merely odd is one of ``Config.warnings``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from fastzk.protocol import DEFAULT_MAX_FRAME
from fastzk.server.config_keys import (
    DIGEST_ALGORITHMS,
    FOUR_LETTER_COMMANDS,
    KEYS,
    Effect,
    Key,
    address,
    quote,
)
from fastzk.server.ensemble_config import (
    EnsembleConfig,
    ServerLine,
    build_ensemble,
    check_limits,
    is_ensemble,
    own_line,
    read_myid,
    read_server_lines,
)
from fastzk.server.errors import StartupError
from fastzk.server.files import fsync_directory
from fastzk.server.logs import LEVELS
from fastzk.server.properties import JAVA_BLANKS, ConfigError, Where, escape_value
from fastzk.server.settings import Settings
from fastzk.server.zab.quorum import Hierarchical

__all__ = [
    "FLAGS",
    "LOG_LEVEL_FLAG",
    "Config",
    "ConfigError",
    "Where",
    "create_data_directories",
    "effective_lines",
    "load_config",
]

# The flags that stand for a key. Other overrides come from --set and are called by their key.
FLAGS = {"--data-dir": "dataDir", "--client-port": "clientPort", "--client-address": "clientPortAddress"}
LOG_LEVEL_FLAG = "--log-level"
LOG_LEVEL_VARIABLE = "FASTZK_LOG_LEVEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the server runs with. Times are in the unit of their name; paths are absolute.

    ``client_address``, ``secure_client_address``: ``""`` means every interface.
    ``client_port``: 0 means any free port, None that only ``secure_client_port`` is served.
    ``max_client_cnxns`` (from one address), ``max_cnxns``: 0 means no limit.
    ``min_session_timeout_ms``, ``max_session_timeout_ms``, ``max_reply_bytes``: resolved, never -1.
    ``max_reply_bytes``: zero means no limit.
    ``listen_backlog``: -1 leaves the choice to the server.
    ``four_letter_whitelist``: every word that may be answered; ``*`` is in it, too, if all may.
    ``autopurge_purge_interval``: zero means never.
    ``super_digest``: ``user:digest``, a secret; None if there is no super user.
    ``digest_alg``: hashlib's name.
    ``server_id``: from ``myid``, only if there are server lines; ``servers``: their numbers and texts.
    ``ensemble``: None if the server stands alone.
    ``warnings``: lines to log at the start.
    """

    data_dir: Path
    data_log_dir: Path
    client_address: str = "127.0.0.1"
    client_port: int | None = 2181
    secure_client_port: int | None = None
    secure_client_address: str | None = None
    listen_backlog: int = -1
    tick_time_ms: int = 3000
    min_session_timeout_ms: int = 6000
    max_session_timeout_ms: int = 60000
    max_client_cnxns: int = 60
    max_cnxns: int = 0
    jute_maxbuffer: int = 0xFFFFF
    max_reply_bytes: int = 0xFFFFF
    keeper_extensions: bool = True
    global_outstanding_limit: int = 1000
    four_letter_whitelist: frozenset[str] = frozenset({"srvr"})
    extended_types_enabled: bool = False
    container_check_interval_ms: int = 60_000
    container_max_per_minute: int = 10_000
    container_max_never_used_ms: int = 0
    large_request_threshold: int = -1
    large_request_max_bytes: int = 100 << 20
    request_throttle_limit: int = 0
    connection_max_tokens: int = 0
    connection_fill_time_ms: int = 1
    connection_fill_count: int = 1
    connection_freeze_time_ms: int = -1
    connection_drop_increase: float = 0.02
    connection_drop_decrease: float = 0.002
    connection_decrease_ratio: float = 0.0
    connection_weight_enabled: bool = False
    connection_global_weight: int = 3
    connection_local_weight: int = 1
    connection_renew_weight: int = 2
    snap_count: int = 100_000
    pre_alloc_size_kb: int = 65536
    autopurge_snap_retain_count: int = 3
    autopurge_purge_interval: timedelta = timedelta(0)
    data_dir_autocreate: bool = True
    enforce_quota: bool = False
    skip_acl: bool = False
    super_digest: str | None = field(default=None, repr=False)
    digest_alg: str = "sha1"
    client_port_unification: bool = False
    client_cert_reload: bool = False
    outstanding_handshake_limit: int = -1
    ssl_key_store_path: Path | None = None
    ssl_key_store_password: str | None = field(default=None, repr=False)
    ssl_key_store_password_path: Path | None = None
    ssl_key_store_type: str | None = None
    ssl_trust_store_path: Path | None = None
    ssl_trust_store_password: str | None = field(default=None, repr=False)
    ssl_trust_store_password_path: Path | None = None
    ssl_trust_store_type: str | None = None
    ssl_protocol: str | None = None
    ssl_enabled_protocols: tuple[str, ...] = ()
    ssl_ciphersuites: tuple[str, ...] = ()
    ssl_hostname_verification: bool = True
    ssl_client_hostname_verification: bool = False
    ssl_crl: bool = False
    ssl_ocsp: bool = False
    ssl_client_auth: str = "need"
    ssl_detection_timeout_ms: int = 5000
    auth_providers: tuple[tuple[str, str], ...] = ()
    x509_super_user: str | None = None
    jaas_path: Path | None = None
    jaas_section: str = "Server"
    super_users: tuple[tuple[str, str], ...] = ()
    sasl_super_password: str | None = field(default=None, repr=False)
    allow_sasl_failed_clients: bool = False
    session_require_sasl: bool = False
    enforce_auth_enabled: bool = False
    enforce_auth_schemes: tuple[str, ...] = ()
    server_id: int | None = None
    servers: tuple[tuple[int, str], ...] = ()
    standalone_enabled: bool = True
    reconfig_enabled: bool = False
    ensemble: EnsembleConfig | None = None
    log_level: str = "info"
    config_path: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def serves_tls(self) -> bool:
        """Whether clients can come by TLS."""
        return self.secure_client_port is not None or (self.client_port_unification and self.client_port is not None)

    @property
    def auth_schemes(self) -> frozenset[str]:
        """The authentication schemes that exist, world and auth aside."""
        schemes = {"ip", "digest", *(_PROVIDERS.get(provider, "") for _, provider in self.auth_providers)}
        return frozenset(schemes | ({"x509"} if self.serves_tls else set())) - {""}

    @property
    def required_schemes(self) -> tuple[str, ...]:
        """The schemes of which a client needs one before its requests are served; empty: it needs none."""
        if self.session_require_sasl:
            return ("sasl",)
        return self.enforce_auth_schemes if self.enforce_auth_enabled else ()


#: The beginning of a key's field that is one of EnsembleConfig.
_ENSEMBLE = "ensemble."
#: Scheme by class of ZooKeeper.
_PROVIDERS = {
    f"org.apache.zookeeper.server.auth.{name}AuthenticationProvider": scheme
    for name, scheme in (("SASL", "sasl"), ("X509", "x509"), ("Digest", "digest"), ("IP", "ip"))
}


class _Endpoint(NamedTuple):
    label: str
    host: str
    port: int
    where: Where


# ---- the whole


def load_config(
    path: Path | None,
    overrides: Sequence[tuple[str, str]],
    environ: Mapping[str, str],
    *,
    read_only: bool = False,
) -> Config:
    """Reads the file ``path`` (None: defaults only), then ``overrides``, and checks the result as a whole.

    ``overrides``: pairs of a file's key, or a flag (``--client-port``), and its value; the last one wins.
    ``environ``: only FASTZK_LOG_LEVEL is read. ``read_only``: the directories need not be writable.
    Reads ``path``, the file of the servers, ``myid`` and that of the servers' secret; writes nothing.
    Raises ConfigError.
    """
    settings = Settings()
    log_level = _log_level(environ.get(LOG_LEVEL_VARIABLE) or "info", LOG_LEVEL_VARIABLE)
    if path is not None:
        settings.read_file(path)
    port_in_file = "clientPort" in settings
    for name, text in overrides:
        if name == LOG_LEVEL_FLAG:
            log_level = _log_level(text, name)
        elif name in FLAGS:
            settings.put(FLAGS[name], text.strip(JAVA_BLANKS), Where(flag=name))
        else:
            bare = name.strip(JAVA_BLANKS)
            settings.put(bare, text.strip(JAVA_BLANKS), Where(flag=f"--set {bare}"))
    lines = read_server_lines(settings)
    ensemble = is_ensemble(settings, lines)
    read = {name: setting.value() for name, setting in settings.items()}
    values: dict[str, Any] = {setting.key.field: read[name] for name, setting in settings.items() if setting.key.field}
    for_ensemble = {name: values.pop(name) for name in list(values) if name.startswith(_ENSEMBLE)}
    _resolve_directories(values, settings, path, read_only)
    server = lines[0] if lines else None
    if lines:
        highest = 254 if values.get("extended_types_enabled") else 255
        values["server_id"] = read_myid(values["data_dir"], highest)
        values["servers"] = tuple((line.member.id, line.setting.text) for line in lines)
        if ensemble:
            check_limits(settings, path)
            server = own_line(lines, values["server_id"], values["data_dir"])
    _resolve_client_port(values, settings, server, port_in_file)
    if path is not None and "client_port" not in values:
        settings.warnings.append(f"{Where(path)}: clientPort is not set: serving 127.0.0.1:2181")
    _resolve_authentication(values, settings)
    _resolve_session_timeouts(values, settings)
    if values.get("max_reply_bytes", -1) == -1:
        values["max_reply_bytes"] = values.get("jute_maxbuffer", DEFAULT_MAX_FRAME)
    _raise_to_minimum(values, settings, "snapCount", 2)
    _raise_to_minimum(values, settings, "autopurge.snapRetainCount", 3)
    if server and values["server_id"] not in (None, server.member.id):
        settings.warnings.append(
            f"{server.setting.where}: {server.setting.name}: myid says {values['server_id']}; "
            "a single server does without"
        )
    values["super_digest"] = values.get("super_digest") or None
    if values["super_digest"] and ":" not in values["super_digest"]:
        digest = settings["DigestAuthenticationProvider.superDigest"]
        settings.warnings.append(f"{digest.where}: {digest.name}: is not user:digest, so nobody can use it")
    unknown = values.get("four_letter_whitelist", frozenset()) - FOUR_LETTER_COMMANDS - {"*"}
    if unknown:
        words = settings["4lw.commands.whitelist"]
        named = ", ".join(quote(word) for word in sorted(unknown))
        settings.warnings.append(f"{words.where}: {words.name}: no such four-letter word: {named}")
    if ensemble and server:
        own = {name.removeprefix(_ENSEMBLE): value for name, value in for_ensemble.items()}
        for name, default in (("standalone_enabled", True), ("reconfig_enabled", False), ("tick_time_ms", 3000)):
            own[name] = values.get(name, default)
        values["ensemble"] = build_ensemble(settings, lines, server, own)
    config = Config(**values, log_level=log_level, config_path=path)
    _refuse_shared_ports(config, settings, read, server)
    _check_required_schemes(config, settings)
    settings.name_what_is_ignored()
    object.__setattr__(config, "warnings", tuple(settings.warnings))
    return config


def _log_level(text: str, flag: str) -> str:
    if text.lower() not in LEVELS:
        raise ConfigError(f"{quote(text)} is not one of: {', '.join(LEVELS)}", Where(flag=flag))
    return text.lower()


def _resolve_directories(values: dict[str, Any], settings: Settings, path: Path | None, read_only: bool) -> None:
    if "data_dir" not in values:
        if path is not None:
            raise ConfigError("dataDir is not set: add a line dataDir=/where/the/data/lives", Where(path))
        values["data_dir"] = Path("data").absolute()
    data_dir = values["data_dir"]
    log_dir = values.setdefault("data_log_dir", data_dir)
    create = values.get("data_dir_autocreate", True)
    for name, directory, other in (("dataDir", data_dir, log_dir), ("dataLogDir", log_dir, data_dir)):
        problem = _problem_of_directory(directory, other, create, read_only)
        if problem:
            raise ConfigError(problem, settings.place(name), name)


def _problem_of_directory(directory: Path, other: Path, create: bool, read_only: bool) -> str | None:
    """What keeps the server from using ``directory``; one inside ``other`` may wait until that exists."""
    name, parent = repr(str(directory)), repr(str(directory.parent))
    needed = os.R_OK | os.X_OK | (0 if read_only else os.W_OK)
    try:
        if directory.is_dir():
            return None if os.access(directory, needed) else f"no permission to use {name}: change its owner or mode"
        if os.path.lexists(directory):
            return f"{name} is not a directory"
        if not create:
            return f"{name} does not exist and datadir.autocreate is false: create it"
        if not directory.parent.is_dir():
            return None if directory.parent == other else f"{name} cannot be created: create {parent} first"
        if not read_only and not os.access(directory.parent, os.W_OK | os.X_OK):
            return f"{name} cannot be created: no permission to write in {parent}"
    except OSError as error:
        return f"{name} cannot be used: {error.strerror}"
    return None


def _resolve_client_port(
    values: dict[str, Any], settings: Settings, server: ServerLine | None, port_in_file: bool
) -> None:
    """Port and address, from their own keys or a server line; beyond loopback only if these ask for it."""
    own_address = settings.get("clientPortAddress")
    if server:
        _take_client_part(values, settings, server, secure=False)
        _take_client_part(values, settings, server, secure=True)
    if own_address and own_address.where.path and "client_port" not in values:
        raise own_address.error("is set, but clientPort is not: add it")
    values.setdefault("client_address", "" if port_in_file else "127.0.0.1")
    secure, secure_address = settings.get("secureClientPort"), settings.get("secureClientPortAddress")
    if "secure_client_port" in values:
        values.setdefault("secure_client_address", "" if secure and secure.where.path else "127.0.0.1")
        # Whoever asks for TLS alone does not get plain text beside it.
        values.setdefault("client_port", None)
    elif secure_address:
        raise secure_address.error("is set, but secureClientPort is not: add it")


def _take_client_part(values: dict[str, Any], settings: Settings, server: ServerLine, *, secure: bool) -> None:
    """Port and address for clients from the server line, which the other keys of a file must agree with."""
    part = server.member.secure_client_address if secure else server.member.client_address
    if part is None:
        return
    prefix, field_prefix = ("secureClientPort", "secure_client") if secure else ("clientPort", "client")
    own_port, own_address = settings.get(prefix), settings.get(f"{prefix}Address")
    host, port = address(part[0]), part[1]
    line = server.setting
    if own_port and own_port.where.path and values[f"{field_prefix}_port"] != port:
        raise own_port.error(f"{values[f'{field_prefix}_port']} differs from port {port} of {line.name} ({line.where})")
    if own_address and own_address.where.path and values[f"{field_prefix}_address"] not in ("", host):
        raise own_address.error(f"{own_address.text} differs from the address of {line.name} ({line.where})")
    values.setdefault(f"{field_prefix}_port", port)
    if not own_address or own_address.where.path:
        values[f"{field_prefix}_address"] = host


def _resolve_authentication(values: dict[str, Any], settings: Settings) -> None:
    """The open-ended groups of keys: ``authProvider.NAME`` and ``superUser.NAME``."""
    providers, users = [], []
    for name, setting in settings.items():
        if setting.key.name == "authProvider.NAME":
            providers.append((name, setting.text))
            if setting.text not in _PROVIDERS:
                settings.warnings.append(
                    f"{setting.where}: {name}: no authentication provider known here: {quote(setting.text)}"
                )
        elif setting.key.name == "superUser.NAME" and setting.text:
            users.append((name, setting.text))
    values["auth_providers"], values["super_users"] = tuple(providers), tuple(users)


def _check_required_schemes(config: Config, settings: Settings) -> None:
    """Whether clients can have what they must have. Raises ConfigError."""
    name = "sessionRequireClientSASLAuth" if config.session_require_sasl else "enforce.auth.schemes"
    if config.enforce_auth_enabled and not config.session_require_sasl and not config.enforce_auth_schemes:
        raise settings["enforce.auth.enabled"].error("is true, but enforce.auth.schemes is not set: add it")
    missing = [scheme for scheme in config.required_schemes if scheme not in config.auth_schemes]
    if missing:
        raise settings[name].error(
            f"the authentication scheme {quote(missing[0])} is not available: add its authProvider.NAME"
        )
    if config.required_schemes == ("sasl",) and config.jaas_path is None:
        raise settings[name].error("no client could have the scheme 'sasl': set java.security.auth.login.config")


def _resolve_session_timeouts(values: dict[str, Any], settings: Settings) -> None:
    tick = values.get("tick_time_ms", 3000)
    shown = {}
    for name, key, ticks in (
        ("min_session_timeout_ms", "minSessionTimeout", 2),
        ("max_session_timeout_ms", "maxSessionTimeout", 20),
    ):
        if values.get(name, -1) == -1:
            values[name] = ticks * tick
            tick_place = f", {settings.place('tickTime')}" if "tickTime" in settings else ""
            shown[key] = f"{key} {values[name]} ({ticks} ticks of {tick} ms{tick_place})"
        else:
            shown[key] = f"{key} {values[name]} ({settings.place(key)})"
    low, high = values["min_session_timeout_ms"], values["max_session_timeout_ms"]
    if low > high:
        # One of the two is set: by default they are 2 and 20 ticks.
        blamed = settings.get("minSessionTimeout")
        if blamed and blamed.value() != -1:
            raise blamed.error(f"{low} is greater than {shown['maxSessionTimeout']}")
        raise settings["maxSessionTimeout"].error(f"{high} is less than {shown['minSessionTimeout']}")


def _raise_to_minimum(values: dict[str, Any], settings: Settings, name: str, least: int) -> None:
    """ZooKeeper mends these two numbers instead of refusing them."""
    setting = settings.get(name)
    if setting and setting.key.field and values[setting.key.field] < least:
        settings.warnings.append(f"{setting.where}: {name}: {values[setting.key.field]} is too small, {least} it is")
        values[setting.key.field] = least


def _refuse_shared_ports(
    config: Config, settings: Settings, read: Mapping[str, Any], server: ServerLine | None
) -> None:
    """Two listeners of this server on one port of one address: an error that names both."""
    client_place = settings.place("clientPort")
    client_label = "clientPort"
    if server and server.member.client_address and not client_place:
        client_label, client_place = f"the client port of {server.setting.name}", server.setting.where
    found = []
    if config.client_port is not None:
        found.append(_Endpoint(client_label, config.client_address, config.client_port, client_place))
    for name, host_name, switch in (
        ("secureClientPort", "secureClientPortAddress", ""),
        ("observerMasterPort", "", ""),
        ("admin.serverPort", "admin.serverAddress", "admin.enableServer"),
        ("metricsProvider.httpPort", "metricsProvider.httpHost", ""),
        ("metricsProvider.httpsPort", "metricsProvider.httpHost", ""),
    ):
        off = switch in read and str(read[switch]).lower() == "false"
        if name in read and read[name] > 0 and not off:
            found.append(_Endpoint(name, read.get(host_name, ""), read[name], settings.place(name)))
    if server:
        member = server.member
        for host, *ports in ((member.host, member.quorum_port, member.election_port), *member.others):
            for kind, port in zip(("quorum", "election"), ports, strict=True):
                label = f"the {kind} port of {server.setting.name}"
                found.append(_Endpoint(label, host, port, server.setting.where))
    for first, second in combinations(found, 2):
        if first.port == second.port != 0 and _same_host(first.host, second.host):
            at, other = (second, first) if second.where else (first, second)
            raise ConfigError(f"port {at.port} is also that of {other.label} ({other.where})", at.where, at.label)


def _same_host(one: str, two: str) -> bool:
    wildcards, names = ("", "0.0.0.0", "::"), {"localhost": "127.0.0.1"}
    return one in wildcards or two in wildcards or names.get(one, one).lower() == names.get(two, two).lower()


# ---- what the server will run with, and where


def effective_lines(config: Config) -> list[str]:
    """``config`` as lines ``key=value`` of a zoo.cfg that would lead to it again; secrets as ``***``."""
    lines = []
    for key in KEYS:
        if key.field and (config.ensemble or key.effect is not Effect.ENSEMBLE):
            value = attrgetter(key.field)(config)
            if key.field == "client_address" and config.client_port is None:
                continue
            if value is not None and value != ():
                lines.append(f"{key.name}={'***' if key.secret else escape_value(_written(key, value))}")
    lines += [f"{name}={escape_value(text)}" for name, text in (*config.auth_providers, *config.super_users)]
    lines += [f"server.{number}={escape_value(text)}" for number, text in config.servers]
    if config.ensemble and isinstance(config.ensemble.membership.quorum, Hierarchical):
        # The lines of the groups and weights; those of the servers and the version are not of interest here.
        text = config.ensemble.membership.text()
        lines += [line for line in text.split("\n") if line.startswith(("group.", "weight."))]
    return lines


def _written(key: Key, value: Any) -> str:
    if isinstance(value, bool):
        words = ("no", "yes") if key.name in ("skipACL", "leaderServes") else ("false", "true")
        return words[value]
    if isinstance(value, frozenset):
        return "*" if "*" in value else ",".join(sorted(value))
    if isinstance(value, timedelta):
        milliseconds = value // timedelta(milliseconds=1)
        hours, rest = divmod(milliseconds, 3_600_000)
        return str(hours) if not rest else f"{milliseconds}ms"
    if key.field == "digest_alg":
        return next(java for java, name in DIGEST_ALGORITHMS.items() if name == value)
    if isinstance(value, tuple):
        return ",".join(value)
    if key.field in ("client_address", "secure_client_address"):
        return value or "0.0.0.0"
    return str(value)


def create_data_directories(config: Config) -> None:
    """Creates ``data_dir`` and ``data_log_dir`` where they are missing, for this user only, durably.

    Call it when nothing else can stop the start any more (the port is bound). Raises StartupError.
    """
    # The shorter path first: one may lie inside the other.
    for directory in sorted({config.data_dir, config.data_log_dir}, key=lambda path: len(path.parts)):
        try:
            if directory.is_dir():
                continue
            directory.mkdir(mode=0o700)
            fsync_directory(directory.parent)
        except OSError as error:
            raise StartupError(f"cannot create the directory {str(directory)!r}: {error.strerror}") from error
