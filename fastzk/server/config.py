"""zoo.cfg, flags and defaults become one frozen ``Config``, checked as a whole; nothing on disk is changed.

A file has the syntax of Java's properties and the keys of ZooKeeper (config_keys.py). What stops the start is
a ``ConfigError`` that names file and line, or the flag; what is merely odd is one of ``Config.warnings``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from fastzk.server.config_keys import (
    DIGEST_ALGORITHMS,
    FOUR_LETTER_COMMANDS,
    KEYS,
    PREFIX,
    Effect,
    Key,
    address,
    find_key,
    nearest_name,
    port_or_any,
    quote,
    whole_number,
)
from fastzk.server.errors import StartupError
from fastzk.server.files import fsync_directory
from fastzk.server.logs import LEVELS

# The flags that stand for a key. Other overrides come from --set and are called by their key.
FLAGS = {"--data-dir": "dataDir", "--client-port": "clientPort", "--client-address": "clientPortAddress"}
LOG_LEVEL_FLAG = "--log-level"
LOG_LEVEL_VARIABLE = "FASTZK_LOG_LEVEL"
_JAVA_BLANKS = "".join(map(chr, range(33)))  # what Java's String.trim removes


@dataclass(frozen=True, slots=True)
class Where:
    """Where a setting comes from: a file's line, or a flag (``--client-port``, ``--set tickTime``)."""

    path: Path | None = None
    line: int | None = None
    flag: str | None = None

    def __str__(self) -> str:
        if self.flag or not self.path:
            return self.flag or "default"
        # A file's name may hold anything but NUL: escaped, the message stays one line.
        path = (
            str(self.path).encode("unicode_escape").decode()
            if not str(self.path).isprintable()
            else self.path
        )
        return f"{path}:{self.line}" if self.line else str(path)

    def __bool__(self) -> bool:
        return bool(self.path or self.flag)


DEFAULT = Where()


class ConfigError(Exception):
    """The configuration is wrong; ``str()`` is one line that says where, which key, and what to do.

    ``path`` and ``line`` are None if a flag is to blame, ``flag`` is None if a file is. ``key`` may be empty.
    """

    def __init__(self, message: str, where: Where = DEFAULT, key: str = "") -> None:
        self.message, self.path, self.line, self.flag, self.key = (
            message,
            where.path,
            where.line,
            where.flag,
            key,
        )
        # A flag names its key already.
        named = [str(where)] if where else []
        if key and not where.flag:
            named.append(key)
        super().__init__(": ".join([*named, message]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the server runs with. Times are in the unit of their name; paths are absolute.

    ``client_address``, ``secure_client_address``: ``""`` means every interface.
    ``client_port``: 0 means any free port, None that only ``secure_client_port`` is served.
    ``max_client_cnxns`` (from one address), ``max_cnxns``: 0 means no limit.
    ``min_session_timeout_ms``, ``max_session_timeout_ms``: resolved, never -1.
    ``listen_backlog``: -1 leaves the choice to the server.
    ``four_letter_whitelist``: every word that may be answered; ``*`` is in it, too, if all may.
    ``autopurge_purge_interval``: zero means never.
    ``super_digest``: ``user:digest``, a secret; None if there is no super user.
    ``digest_alg``: hashlib's name.
    ``server_id``: from ``myid``, only if there are server lines; ``servers``: their numbers and texts.
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
    log_level: str = "info"
    config_path: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def serves_tls(self) -> bool:
        """Whether clients can come by TLS."""
        return self.secure_client_port is not None or (
            self.client_port_unification and self.client_port is not None
        )

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


#: Scheme by class of ZooKeeper.
_PROVIDERS = {
    f"org.apache.zookeeper.server.auth.{name}AuthenticationProvider": scheme
    for name, scheme in (("SASL", "sasl"), ("X509", "x509"), ("Digest", "digest"), ("IP", "ip"))
}


# ---- Java's properties


class Property(NamedTuple):
    """One entry of a file; ``line`` counts from 1 and is that of its beginning."""

    line: int
    name: str
    value: str


def parse_properties(content: bytes, path: Path) -> Iterator[Property]:
    """The entries of a file in the syntax of ``java.util.Properties``, duplicates included, in their order.

    Values keep their trailing blanks, as in Java. The file is taken as UTF-8 if it is valid UTF-8, else as
    the Latin-1 that Java expects. Raises ConfigError for a bad unicode escape, naming ``path`` and the line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = re.split("\r\n|\r|\n", text)
    index = 0
    while index < len(lines):
        number, logical = index + 1, lines[index].lstrip(" \t\f")
        index += 1
        if logical[:1] in ("#", "!"):
            continue
        # A backslash at the end that is not itself escaped joins the next line, even one like a comment.
        while (len(logical) - len(logical.rstrip("\\"))) % 2:
            logical = logical[:-1]
            # A backslash alone on its line joins nothing: what follows may be a comment again.
            if not logical or index == len(lines):
                break
            logical += lines[index].lstrip(" \t\f")
            index += 1
        if not logical:
            continue
        where = Where(path, number)
        name = re.match(r"(?:\\.|[^\\=: \t\f])*", logical, re.DOTALL)
        assert name is not None  # the pattern matches the empty text
        separator = re.compile(r"[ \t\f]*[=:]?[ \t\f]*").match(logical, name.end())
        assert separator is not None
        yield Property(number, _unescape(name[0], where), _unescape(logical[separator.end() :], where))


def _unescape(text: str, where: Where) -> str:
    if "\\" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        escaped = match[1]
        if escaped[0] != "u":
            return {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}.get(escaped, escaped)
        if len(escaped) == 1:
            raise ConfigError(
                "\\u must be followed by four hexadecimal digits; write \\\\ for a backslash", where
            )
        return chr(int(escaped[1:], 16))

    units = re.sub(r"\\(u[0-9a-fA-F]{4}|.)", replace, text, flags=re.DOTALL)
    try:
        # Java writes a character beyond U+FFFF as two escapes.
        return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ConfigError("a \\u escape is half of a character: its other half is missing", where) from None


def escape_value(value: str) -> str:
    """``value`` as it stands in a properties file, in ASCII: Java and ``parse_properties`` read it back."""
    escapes = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}
    escaped = []
    for index, character in enumerate(value):
        if character in escapes:
            escaped.append(escapes[character])
        elif character in " =:" and not index:
            escaped.append("\\" + character)
        elif " " <= character <= "~":
            escaped.append(character)
        else:
            units = character.encode("utf-16-be", "surrogatepass")
            escaped += [f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)]
    return "".join(escaped)


# ---- settings: names and texts, before their values are read


@dataclass(frozen=True, slots=True)
class _Setting:
    key: Key
    name: str
    text: str
    where: Where

    def error(self, message: str) -> ConfigError:
        return ConfigError(message, self.where, self.name)

    def value(self) -> Any:
        read = port_or_any if self.key.name == "clientPort" and self.where.flag else self.key.read
        try:
            return read(self.text)
        except ValueError as error:
            message = "the value is empty" if not self.text else str(error)
            raise self.error("the value is wrong" if self.key.secret else message) from None


#: Fields of keys that give access: a line that ZooKeeper ignores must not do so here.
_OPENING = ("skip_acl", "super_digest", "x509_super_user", "sasl_super_password")


class _Settings(dict[str, _Setting]):
    """The last setting of each key, by its name in the table (of a family's key: by its own)."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def put(self, name: str, text: str, where: Where) -> None:
        key = find_key(name)
        if key is None:
            nearest = nearest_name(name)
            hint = f" (did you mean {nearest!r}?)" if nearest else ""
            place = "--set" if where.flag else where
            self.warnings.append(f"{place}: unknown key {quote(name)}{hint}")
            return
        bare = name
        if name.startswith(PREFIX) and not key.native:
            bare = name.removeprefix(PREFIX)
            if where.path and (key.field in _OPENING or key.name == "superUser.NAME"):
                # ZooKeeper ignores such a line: one that slept in a file for years must not open the data.
                self.warnings.append(
                    f"{where}: {name}: ignored, as by ZooKeeper: its name in a file is {bare}"
                )
                return
            if where.path:
                self.warnings.append(f"{where}: {name}: taken as {bare}, which is its name in a file")
        known = bare if key.family else key.name
        earlier = self.get(known)
        if earlier and earlier.where.path and where.path:
            self.warnings.append(f"{where}: {name}: set again, replaces the value of {earlier.where}")
        # A family's key is called by its bare name: server.1, whatever its prefix.
        self[known] = _Setting(key, bare, text, where)

    def read_file(self, path: Path, blame: Where | None = None) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            if blame:
                raise ConfigError(
                    f"cannot read {str(path)!r}: {reason}", blame, "dynamicConfigFile"
                ) from None
            raise ConfigError(f"cannot read the file: {reason}", Where(path)) from None
        for entry in parse_properties(content, path):
            name, where = entry.name.strip(_JAVA_BLANKS), Where(path, entry.line)
            if blame and not name.startswith(("server.", "group.", "weight.")) and name != "version":
                raise ConfigError("has no place in the file of the servers: move it to zoo.cfg", where, name)
            if not (blame and name == "version"):
                self.put(name, entry.value.strip(_JAVA_BLANKS), where)

    def name_what_is_ignored(self) -> None:
        for effect, words in (
            (Effect.LATER, "accepted, without effect yet"),
            (Effect.NEVER, "accepted, without meaning here"),
        ):
            names = [setting.name for setting in self.values() if setting.key.effect is effect]
            if names:
                self.warnings.append(f"{words}: {', '.join(names)}")


# ---- server lines


class _Endpoint(NamedTuple):
    label: str
    host: str
    port: int
    where: Where


class _ServerLine(NamedTuple):
    number: int
    setting: _Setting
    addresses: list[tuple[str, int, int]]
    observer: bool
    client: tuple[str, int] | None


_SERVER_FORM = "is not of the form host:port:port[:role][;[address:]clientPort]"


def _host_and_rest(text: str) -> list[str]:
    """``host:a:b`` cut at its colons; an IPv6 address stands in brackets."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    if bracketed:
        return [bracketed[1], *((bracketed[2] or "").split(":") if bracketed[2] else [])]
    return text.split(":")


def _server_port(text: str) -> int:
    return whole_number(1, 65535)(text)


def _read_server(setting: _Setting) -> _ServerLine:
    """The parts of a server line. Raises ConfigError."""
    try:
        number = whole_number(0, 255)(setting.name.partition(".")[2])
    except ValueError:
        raise setting.error("a server's number is a whole number from 0 to 255") from None
    own, *clients = setting.text.split(";")
    try:
        addresses, roles = [], set()
        for each in own.split("|"):
            host, *rest = _host_and_rest(each)
            if not host or len(rest) not in (2, 3):
                raise ValueError(f"{quote(setting.text)} {_SERVER_FORM}")
            quorum_port, election_port = _server_port(rest[0]), _server_port(rest[1])
            if quorum_port == election_port:
                raise ValueError(f"port {quorum_port} is named twice: the two ports of a server must differ")
            addresses.append((address(host), quorum_port, election_port))
            roles.add(rest[2].strip().lower() if len(rest) == 3 else "participant")
        if not roles <= {"participant", "observer"} or len(clients) > 2:
            raise ValueError(f"{quote(setting.text)} {_SERVER_FORM}, with role participant or observer")
        client = None
        if clients and clients[0]:
            *hosts, client_port = _host_and_rest(clients[0])
            if len(hosts) > 1:
                raise ValueError(f"{quote(setting.text)} {_SERVER_FORM}")
            client = (address(hosts[0]) if hosts else "", _server_port(client_port))
    except ValueError as error:
        raise setting.error(str(error)) from None
    return _ServerLine(number, setting, addresses, "observer" in roles, client)


def _read_server_lines(settings: _Settings) -> _ServerLine | None:
    """The only server line, None if there is none. Raises ConfigError for an ensemble."""
    dynamic = settings.get("dynamicConfigFile")
    if dynamic:
        for setting in settings.values():
            if setting.key.family and setting.name.startswith(("server.", "group.", "weight.")):
                raise setting.error(f"must stand in the file that dynamicConfigFile names ({dynamic.where})")
        if not dynamic.text or "\0" in dynamic.text:
            raise dynamic.error(f"{quote(dynamic.text)} is not a file's path")
        settings.read_file(Path(dynamic.text), dynamic.where)
    lines = [_read_server(each) for name, each in settings.items() if name.startswith("server.")]
    if len(lines) > 1:
        message = "ensembles are not supported by this version: keep one server line, or none"
        raise lines[1].setting.error(message)
    if lines and lines[0].observer:
        raise lines[0].setting.error("an observer needs other servers: a single one is a participant")
    return lines[0] if lines else None


def _read_myid(data_dir: Path, highest: int) -> int | None:
    path = data_dir / "myid"
    try:
        with path.open("rb") as file:
            text = file.readline(100).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read the file: {error.strerror}", Where(path)) from None
    try:
        return whole_number(0, highest)(text)
    except ValueError:
        because = " when extendedTypesEnabled is true" if highest < 255 else ""
        message = f"{quote(text)} is not a server's number: write a whole number from 0 to {highest}{because}"
        raise ConfigError(message, Where(path, 1)) from None


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
    Reads ``path``, the file of the servers and ``myid``; writes nothing. Raises ConfigError.
    """
    settings = _Settings()
    log_level = _log_level(environ.get(LOG_LEVEL_VARIABLE) or "info", LOG_LEVEL_VARIABLE)
    if path is not None:
        settings.read_file(path)
    port_in_file = "clientPort" in settings
    for name, text in overrides:
        if name == LOG_LEVEL_FLAG:
            log_level = _log_level(text, name)
        elif name in FLAGS:
            settings.put(FLAGS[name], text.strip(_JAVA_BLANKS), Where(flag=name))
        else:
            bare = name.strip(_JAVA_BLANKS)
            settings.put(bare, text.strip(_JAVA_BLANKS), Where(flag=f"--set {bare}"))
    server = _read_server_lines(settings)
    read = {name: setting.value() for name, setting in settings.items()}
    values: dict[str, Any] = {
        setting.key.field: read[name] for name, setting in settings.items() if setting.key.field
    }
    _resolve_directories(values, settings, path, read_only)
    _resolve_client_port(values, settings, server, port_in_file)
    if path is not None and "client_port" not in values:
        settings.warnings.append(f"{Where(path)}: clientPort is not set: serving 127.0.0.1:2181")
    _resolve_authentication(values, settings)
    _resolve_session_timeouts(values, settings)
    _raise_to_minimum(values, settings, "snapCount", 2)
    _raise_to_minimum(values, settings, "autopurge.snapRetainCount", 3)
    if server:
        highest = 254 if values.get("extended_types_enabled") else 255
        values["server_id"] = _read_myid(values["data_dir"], highest)
        values["servers"] = ((server.number, server.setting.text),)
        if values["server_id"] not in (None, server.number):
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


def _place(settings: _Settings, name: str) -> Where:
    setting = settings.get(name)
    return setting.where if setting else DEFAULT


def _resolve_directories(
    values: dict[str, Any], settings: _Settings, path: Path | None, read_only: bool
) -> None:
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
            raise ConfigError(problem, _place(settings, name), name)


def _problem_of_directory(directory: Path, other: Path, create: bool, read_only: bool) -> str | None:
    """What keeps the server from using ``directory``; one inside ``other`` may wait until that exists."""
    name, parent = repr(str(directory)), repr(str(directory.parent))
    needed = os.R_OK | os.X_OK | (0 if read_only else os.W_OK)
    try:
        if directory.is_dir():
            return (
                None
                if os.access(directory, needed)
                else f"no permission to use {name}: change its owner or mode"
            )
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
    values: dict[str, Any], settings: _Settings, server: _ServerLine | None, port_in_file: bool
) -> None:
    """Port and address, from their own keys or a server line; beyond loopback only if these ask for it."""
    own_port, own_address = settings.get("clientPort"), settings.get("clientPortAddress")
    if server and server.client:
        host, port = server.client
        line = server.setting
        if own_port and own_port.where.path and values["client_port"] != port:
            raise own_port.error(
                f"{values['client_port']} differs from port {port} of {line.name} ({line.where})"
            )
        if own_address and own_address.where.path and values["client_address"] not in ("", host):
            raise own_address.error(
                f"{own_address.text} differs from the address of {line.name} ({line.where})"
            )
        values.setdefault("client_port", port)
        if not own_address or own_address.where.path:
            values["client_address"] = host
    if own_address and own_address.where.path and "client_port" not in values:
        raise own_address.error("is set, but clientPort is not: add it")
    values.setdefault("client_address", "" if port_in_file else "127.0.0.1")
    secure, secure_address = settings.get("secureClientPort"), settings.get("secureClientPortAddress")
    if secure:
        values.setdefault("secure_client_address", "" if secure.where.path else "127.0.0.1")
        # Whoever asks for TLS alone does not get plain text beside it.
        values.setdefault("client_port", None)
    elif secure_address:
        raise secure_address.error("is set, but secureClientPort is not: add it")


def _resolve_authentication(values: dict[str, Any], settings: _Settings) -> None:
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


def _check_required_schemes(config: Config, settings: _Settings) -> None:
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
        raise settings[name].error(
            "no client could have the scheme 'sasl': set java.security.auth.login.config"
        )


def _resolve_session_timeouts(values: dict[str, Any], settings: _Settings) -> None:
    tick = values.get("tick_time_ms", 3000)
    shown = {}
    for name, key, ticks in (
        ("min_session_timeout_ms", "minSessionTimeout", 2),
        ("max_session_timeout_ms", "maxSessionTimeout", 20),
    ):
        if values.get(name, -1) == -1:
            values[name] = ticks * tick
            tick_place = f", {_place(settings, 'tickTime')}" if "tickTime" in settings else ""
            shown[key] = f"{key} {values[name]} ({ticks} ticks of {tick} ms{tick_place})"
        else:
            shown[key] = f"{key} {values[name]} ({_place(settings, key)})"
    low, high = values["min_session_timeout_ms"], values["max_session_timeout_ms"]
    if low > high:
        # One of the two is set: by default they are 2 and 20 ticks.
        blamed = settings.get("minSessionTimeout")
        if blamed and blamed.value() != -1:
            raise blamed.error(f"{low} is greater than {shown['maxSessionTimeout']}")
        raise settings["maxSessionTimeout"].error(f"{high} is less than {shown['minSessionTimeout']}")


def _raise_to_minimum(values: dict[str, Any], settings: _Settings, name: str, least: int) -> None:
    """ZooKeeper mends these two numbers instead of refusing them."""
    setting = settings.get(name)
    if setting and setting.key.field and values[setting.key.field] < least:
        settings.warnings.append(
            f"{setting.where}: {name}: {values[setting.key.field]} is too small, {least} it is"
        )
        values[setting.key.field] = least


def _refuse_shared_ports(
    config: Config, settings: _Settings, read: Mapping[str, Any], server: _ServerLine | None
) -> None:
    """Two listeners of this server on one port of one address: an error that names both."""
    client_place = _place(settings, "clientPort")
    client_label = "clientPort"
    if server and server.client and not client_place:
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
            found.append(_Endpoint(name, read.get(host_name, ""), read[name], _place(settings, name)))
    if server:
        for host, quorum_port, election_port in server.addresses:
            for kind, port in (("quorum", quorum_port), ("election", election_port)):
                label = f"the {kind} port of {server.setting.name}"
                found.append(_Endpoint(label, host, port, server.setting.where))
    for first, second in combinations(found, 2):
        if first.port == second.port != 0 and _same_host(first.host, second.host):
            at, other = (second, first) if second.where else (first, second)
            raise ConfigError(
                f"port {at.port} is also that of {other.label} ({other.where})", at.where, at.label
            )


def _same_host(one: str, two: str) -> bool:
    wildcards, names = ("", "0.0.0.0", "::"), {"localhost": "127.0.0.1"}
    return one in wildcards or two in wildcards or names.get(one, one).lower() == names.get(two, two).lower()


# ---- what the server will run with, and where


def effective_lines(config: Config) -> list[str]:
    """``config`` as lines ``key=value`` of a zoo.cfg that would lead to it again; secrets as ``***``."""
    lines = []
    for key in KEYS:
        if key.field:
            value = getattr(config, key.field)
            if key.field == "client_address" and config.client_port is None:
                continue
            if value is not None and value != ():
                lines.append(f"{key.name}={'***' if key.secret else escape_value(_written(key, value))}")
    lines += [f"{name}={escape_value(text)}" for name, text in (*config.auth_providers, *config.super_users)]
    lines += [f"server.{number}={escape_value(text)}" for number, text in config.servers]
    return lines


def _written(key: Key, value: Any) -> str:
    if isinstance(value, bool):
        words = ("no", "yes") if key.name == "skipACL" else ("false", "true")
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
