"""The servers of an ensemble in the configuration: server lines, ``myid`` and the keys for ensembles.

Several server lines, or one with ``standaloneEnabled=false``, make this server a member of an ensemble; then
``Config.ensemble`` is an ``EnsembleConfig``. Without server lines, or with only one, it stands alone.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastzk.server.config_keys import quote, whole_number
from fastzk.server.properties import ConfigError, Where
from fastzk.server.settings import Setting, Settings
from fastzk.server.zab.quorum import Hierarchical, Member, Membership, MembershipError, parse_member, put_group

#: Bytes of the shortest secret that is accepted: shorter ones can be guessed by trying.
LEAST_SECRET = 16
_MOST_SECRET = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumTls:
    """The keys ``ssl.quorum.*``. The fields are called as those of Config for clients (``ssl.*``)."""

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
    ssl_client_hostname_verification: bool = True
    ssl_crl: bool = False
    ssl_ocsp: bool = False
    ssl_client_auth: str = "need"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleConfig:
    """What a member of an ensemble runs with. Limits are in ticks; the properties have milliseconds.

    ``membership``: the servers of the configuration's files, with version 0 unless the name of the file of
    the servers, or the file, says another. What a reconfiguration made is in the data, not here.
    ``quorum_secret``: what the servers prove to each other to know, at least 16 bytes; None if there is none.
    ``commit_log_count``: committed transactions kept in memory for servers that fell behind.
    """

    my_id: int
    membership: Membership
    init_limit: int
    sync_limit: int
    connect_to_learner_master_limit: int = 0
    tick_time_ms: int = 3000
    quorum_listen_on_all_ips: bool = False
    standalone_enabled: bool = True
    reconfig_enabled: bool = False
    dynamic_config_path: Path | None = None
    local_sessions_enabled: bool = False
    local_sessions_upgrading_enabled: bool = False
    read_only_mode_enabled: bool = False
    leader_serves: bool = True
    commit_log_count: int = 500
    ssl_quorum: bool = False
    ssl_quorum_reload_cert_files: bool = False
    tls: QuorumTls = QuorumTls()
    quorum_secret_path: Path | None = None
    quorum_secret: bytes | None = field(default=None, repr=False)

    @property
    def me(self) -> Member:
        """This server, as the files describe it."""
        return self.membership.members[self.my_id]

    @property
    def init_limit_ms(self) -> int:
        """How long a server may take to connect to the leader and catch up."""
        return self.init_limit * self.tick_time_ms

    @property
    def sync_limit_ms(self) -> int:
        """How long a server and its leader may hear nothing of each other."""
        return self.sync_limit * self.tick_time_ms

    @property
    def connect_limit_ms(self) -> int:
        """How long a server may try to reach a leader before it looks for another one."""
        return (self.connect_to_learner_master_limit or self.init_limit) * self.tick_time_ms

    def listen_addresses(self, member: Member) -> tuple[tuple[str, int], ...]:
        """Host and port to listen on for other servers when this server is ``member``; ``""``: every interface.

        As in ZooKeeper: the addresses of its own line, unless ``quorumListenOnAllIPs``.
        """
        everywhere = ("0.0.0.0", "::")
        return tuple(
            dict.fromkeys(
                ("" if self.quorum_listen_on_all_ips or host in everywhere else host, port)
                for host, port in member.addresses
            )
        )


@dataclass(frozen=True, slots=True)
class ServerLine:
    """One server line of the files."""

    member: Member
    setting: Setting


# ---- server lines


def read_server_lines(settings: Settings) -> list[ServerLine]:
    """Every server line, in their order, after reading the file that dynamicConfigFile names.

    Raises ConfigError.
    """
    dynamic = settings.get("dynamicConfigFile")
    if dynamic:
        for setting in settings.values():
            if setting.key.family and setting.name.startswith(("server.", "group.", "weight.")):
                raise setting.error(f"must stand in the file that dynamicConfigFile names ({dynamic.where})")
        if not dynamic.text or "\0" in dynamic.text:
            raise dynamic.error(f"{quote(dynamic.text)} is not a file's path")
        settings.read_file(Path(dynamic.text), dynamic.where)
    lines: dict[int, ServerLine] = {}
    for name, setting in settings.items():
        if name.startswith("server."):
            line = _read_server(setting)
            earlier = lines.setdefault(line.member.id, line)
            if earlier is not line:
                raise setting.error(f"is the same server as {earlier.setting.name} ({earlier.setting.where})")
    return list(lines.values())


def _read_server(setting: Setting) -> ServerLine:
    try:
        number = whole_number(0, 255)(setting.name.partition(".")[2])
    except ValueError:
        raise setting.error("a server's number is a whole number from 0 to 255") from None
    try:
        return ServerLine(parse_member(number, setting.text), setting)
    except MembershipError as error:
        raise setting.error(str(error)) from None


def is_ensemble(settings: Settings, lines: list[ServerLine]) -> bool:
    """Whether the server lines make an ensemble, as in ZooKeeper. Raises ConfigError."""
    switch = settings.get("standaloneEnabled")
    standalone_enabled = switch is None or switch.value()
    participants = [line for line in lines if not line.member.observer]
    if switch and not standalone_enabled and not participants:
        raise switch.error("is false, but no server line names a participant: add them")
    if len(lines) == 1 and not participants:
        raise lines[0].setting.error("an observer needs other servers: a single one is a participant")
    if lines and not participants:
        raise lines[0].setting.error("only observers: an ensemble needs participants")
    if len(lines) > 1 and len(participants) == 1 and standalone_enabled:
        observer = next(line for line in lines if line.member.observer)
        raise observer.setting.error(
            "an observer needs an ensemble: add participants, or standaloneEnabled=false for an ensemble of one"
        )
    return len(lines) > 1 or (len(lines) == 1 and not standalone_enabled)


def check_limits(settings: Settings, path: Path | None) -> None:
    """Whether the keys are there that an ensemble cannot do without. Raises ConfigError, with ``path`` (zoo.cfg)."""
    for name, example in (("initLimit", 10), ("syncLimit", 5)):
        if name not in settings:
            raise ConfigError(f"{name} is not set: add a line {name}={example}", Where(path))
        if not settings[name].value():
            raise settings[name].error("is 0: an ensemble needs at least 1 tick")


def read_myid(data_dir: Path, highest: int) -> int | None:
    """The number in the file ``myid``, from 0 to ``highest``; None without that file. Raises ConfigError."""
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


def own_line(lines: list[ServerLine], my_id: int | None, data_dir: Path) -> ServerLine:
    """The line of this server in an ensemble. Raises ConfigError if ``myid`` is missing or names none."""
    if my_id is None:
        raise ConfigError(
            "the file is missing: write this server's number into it, that of its server line",
            Where(data_dir / "myid"),
        )
    for line in lines:
        if line.member.id == my_id:
            return line
    known = ", ".join(f"server.{line.member.id}" for line in lines)
    raise ConfigError(f"there is no line server.{my_id} among {known}", Where(data_dir / "myid", 1))


# ---- the whole


def build_ensemble(
    settings: Settings,
    lines: list[ServerLine],
    own: ServerLine,
    values: Mapping[str, Any],
) -> EnsembleConfig:
    """The part of the configuration for ensembles, checked as a whole; odd things become warnings.

    ``own``: this server's line. ``values``: what was read for the fields of EnsembleConfig, those of its
    ``tls`` with ``tls.`` before them. Raises ConfigError.
    """
    _refuse_what_would_be_less_safe(settings)
    _refuse_shared_addresses(lines)
    membership = _read_membership(settings, lines)
    _warn_of_odd_members(settings, own, membership)
    own_values = {name: value for name, value in values.items() if not name.startswith("tls.")}
    tls = {name.removeprefix("tls."): value for name, value in values.items() if name.startswith("tls.")}
    secret_path = own_values.get("quorum_secret_path")
    if own_values.get("commit_log_count", 500) < 500:
        count = settings["commitLogCount"]
        settings.warnings.append(f"{count.where}: {count.name}: {count.text} is too small, 500 it is")
        own_values["commit_log_count"] = 500
    dynamic = settings.get("dynamicConfigFile")
    ensemble = EnsembleConfig(
        **own_values,
        my_id=own.member.id,
        membership=membership,
        dynamic_config_path=Path(dynamic.text).absolute() if dynamic else None,
        tls=QuorumTls(**tls),
        quorum_secret=_read_secret(secret_path, settings["quorumSecretFile"]) if secret_path else None,
    )
    if ensemble.ssl_quorum and ensemble.tls.ssl_key_store_path is None:
        raise settings["sslQuorum"].error("is true, but ssl.quorum.keyStore.location is not set: add it")
    _warn_of_open_doors(settings, ensemble)
    return ensemble


def _refuse_what_would_be_less_safe(settings: Settings) -> None:
    """Keys that protect the servers in ZooKeeper, or open them: to pass over them could let strangers in."""
    for name, message in (
        ("quorum.auth.enableSasl", "SASL between servers is not supported: use quorumSecretFile or sslQuorum"),
        ("portUnification", "plain text beside TLS between servers is not supported: set it to false"),
    ):
        if name in settings and settings[name].value():
            raise settings[name].error(message)


def _refuse_shared_addresses(lines: Iterable[ServerLine]) -> None:
    """One address and port for two servers: they would take each other for themselves."""
    taken: dict[tuple[str, int], ServerLine] = {}
    for line in lines:
        member = line.member
        own = {(member.host, port) for port in (member.quorum_port, member.election_port)}
        own |= {(host, port) for host, *ports in member.others for port in ports}
        for host, port in sorted(own):
            # What a wildcard means depends on the machine.
            if host in ("0.0.0.0", "::"):
                continue
            other = taken.setdefault((host.lower(), port), line)
            if other is not line:
                name, place = other.setting.name, other.setting.where
                raise line.setting.error(f"port {port} of {host} is also that of {name} ({place})")


def _read_membership(settings: Settings, lines: list[ServerLine]) -> Membership:
    groups: dict[int, int] = {}
    weights: dict[int, int] = {}
    first: Setting | None = None
    for name, setting in settings.items():
        kind, _, number_text = name.partition(".")
        if kind not in ("group", "weight") or not setting.key.family:
            continue
        first = first or setting
        try:
            number = whole_number(0)(number_text)
        except ValueError:
            raise setting.error(f"{quote(number_text)} is not the number of a {_NUMBERED[kind]}") from None
        try:
            if kind == "weight":
                weights[number] = whole_number(0)(setting.text)
            else:
                put_group(groups, number, setting.text)
        except ValueError as error:
            raise setting.error(str(error)) from None
    members = [line.member for line in lines]
    version = _version(settings)
    if first is None:
        return Membership.of(members, version)
    try:
        membership = Membership.of(members, version, groups, weights)
    except MembershipError as error:
        raise first.error(str(error)) from None
    if not membership.quorum.reached(membership.voters):
        raise first.error("no participant's vote has any weight")
    return membership


_NUMBERED = {"group": "group", "weight": "server"}


def _version(settings: Settings) -> int:
    """The version of the file of the servers: in hexadecimal behind the last dot of its name, else in it."""
    dynamic = settings.get("dynamicConfigFile")
    if dynamic is None:
        return 0
    _, dot, suffix = dynamic.text.rpartition(".")
    if dot and re.fullmatch("[0-9a-fA-F]{1,15}", suffix):
        return int(suffix, 16)
    if settings.servers_version is None:
        return 0
    text, where = settings.servers_version
    if not re.fullmatch("[0-9a-fA-F]{1,15}", text):
        raise ConfigError(f"{quote(text)} is not a hexadecimal number", where, "version")
    return int(text, 16)


def _warn_of_odd_members(settings: Settings, own: ServerLine, membership: Membership) -> None:
    peer_type = settings.get("peerType")
    role = "observer" if own.member.observer else "participant"
    if peer_type and peer_type.value() != role:
        settings.warnings.append(
            f"{peer_type.where}: peerType: the line {own.setting.name} says {role} ({own.setting.where}), "
            "and that counts"
        )
    if len(membership.voters) == 2:
        settings.warnings.append("with two participants the ensemble stands still when either is away: have 3")
    elif len(membership.voters) % 2 == 0 and not isinstance(membership.quorum, Hierarchical):
        count = len(membership.voters)
        settings.warnings.append(f"{count} participants survive the loss of no more servers than {count - 1} do")


def _warn_of_open_doors(settings: Settings, ensemble: EnsembleConfig) -> None:
    """Name it if anybody who reaches the quorum port could pass for a server of the ensemble."""
    if ensemble.quorum_secret or (ensemble.ssl_quorum and ensemble.tls.ssl_client_auth == "need"):
        return
    addresses = ensemble.listen_addresses(ensemble.me)
    if all(host in {"localhost", "::1"} or host.startswith("127.") for host, _ in addresses):
        return
    settings.warnings.append(
        "who reaches the quorum port may pass for a server of the ensemble: set quorumSecretFile, or sslQuorum"
    )


def _read_secret(path: Path, setting: Setting) -> bytes:
    """The content of the file, without a line's end at its end."""
    try:
        # Not to hang on a pipe.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise setting.error(f"cannot read {str(path)!r}: {error.strerror}") from None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise setting.error(f"{str(path)!r} is not a file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise setting.error(f"{str(path)!r} has mode {mode:04o}: nobody else may read it, set 0600")
        secret = os.read(file, _MOST_SECRET + 1)
    except OSError as error:
        raise setting.error(f"cannot read {str(path)!r}: {error.strerror}") from None
    finally:
        os.close(file)
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if not LEAST_SECRET <= len(secret) <= _MOST_SECRET:
        raise setting.error(
            f"the secret in {str(path)!r} has {len(secret)} bytes: choose {LEAST_SECRET} to {_MOST_SECRET} random ones"
        )
    return secret
