"""Who belongs to the ensemble, and which sets of servers may decide: members, quorums, and their text.

A ``Membership`` is one configuration of the ensemble. Its text is the data of /zookeeper/config, in
ZooKeeper's own layout::

    server.1=a.example:2888:3888:participant;0.0.0.0:2181
    server.2=b.example:2888:3888:observer
    group.1=1
    weight.1=1
    version=100000000

The real server lists the servers by the hash of their number, which is their order for numbers below 16;
here they always come in their order. The version stands last; it is the zxid of the reconfiguration, in
hexadecimal.

What makes all of this safe is that any two quorums share a voter; so ids of servers that have no vote never
count, whoever passes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{1,16}")
# What would end a host's name early in one of the texts it is written to, and blanks of any kind.
_NO_HOST = re.compile(r"[\s\x00-\x20\[\]/;|,=\\\x7f]")
_FORM = "is not of the form host:port:port[:role][;[address:]clientPort]"
_WILDCARDS = frozenset({"0.0.0.0", "::"})


class MembershipError(ValueError):
    """A text is no member or no configuration; ``str()`` says why.

    ``unreadable``: a number is none, or cannot be. ZooKeeper answers a reconfiguration with another error
    then than for what breaks a rule.
    """

    def __init__(self, message: str, *, unreadable: bool = False) -> None:
        super().__init__(message)
        self.unreadable = unreadable


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise MembershipError(f"{_quote(text)} is not a whole number", unreadable=True)
    return int(text)


# ---- members


@dataclass(frozen=True, slots=True)
class Member:
    """One server of the ensemble.

    ``host``: as it was written, without the brackets of an IPv6 address; ``0.0.0.0`` stays ``0.0.0.0``.
    ``election_port`` is only kept and shown: everything between servers goes over ``quorum_port``.
    ``client``: what stands behind the first ``;``, the client address as ``host:port``, or empty; behind
    another ``;`` that for TLS. ``others``: further addresses (host, quorum port, election port), which are
    tried in turn after the first.
    """

    id: int
    host: str
    quorum_port: int
    election_port: int
    observer: bool = False
    client: str = ""
    others: tuple[tuple[str, int, int], ...] = ()

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Every host and quorum port under which the server may be reached, the preferred one first."""
        return (self.host, self.quorum_port), *((host, port) for host, port, _ in self.others)

    @property
    def client_address(self) -> tuple[str, int] | None:
        """Host and port for clients, None if the line does not say; ``0.0.0.0`` is every interface."""
        return self._client_part(0)

    @property
    def secure_client_address(self) -> tuple[str, int] | None:
        """Host and port for clients by TLS, None if the line does not say."""
        return self._client_part(1)

    def _client_part(self, index: int) -> tuple[str, int] | None:
        parts = self.client.split(";")
        if index >= len(parts) or not parts[index]:
            return None
        host, _, port = parts[index].rpartition(":")
        return host.strip("[]"), int(port)

    def endpoints(self) -> set[tuple[str, int]]:
        """Every host (in lower case) and port of this server that no other may have, too.

        Wildcards and loopback are left out, as in ZooKeeper: they are different hosts on different machines.
        """
        found = {(host, port) for host, *ports in self._all_addresses() for port in ports}
        found |= {each for each in (self.client_address, self.secure_client_address) if each}
        return {(host.lower(), port) for host, port in found if not _is_special(host)}

    def _all_addresses(self) -> tuple[tuple[str, int, int], ...]:
        return (self.host, self.quorum_port, self.election_port), *self.others

    def text(self) -> str:
        """What stands behind ``server.N=``; ``parse_member`` makes the same member of it."""
        own = "|".join(
            f"{_in_brackets(host)}:{quorum_port}:{election_port}"
            for host, quorum_port, election_port in self._all_addresses()
        )
        role = "observer" if self.observer else "participant"
        return f"{own}:{role}{';' if self.client else ''}{self.client}"


def _is_special(host: str) -> bool:
    return host in _WILDCARDS or host.lower() == "localhost" or host.startswith("127.") or host == "::1"


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parts(text: str) -> list[str]:
    """``host:a:b`` cut at its colons; an IPv6 address stands in brackets."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    if bracketed:
        return [bracketed[1], *(bracketed[2].split(":") if bracketed[2] else [])]
    return text.split(":")


def _host(text: str) -> str:
    if not text or _NO_HOST.search(text):
        raise MembershipError(f"{_quote(text)} is not an address or host name")
    return text


def _port(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise MembershipError(f"{_quote(text)} is not a whole number")
    if not 1 <= int(text) <= 65535:
        raise MembershipError(f"{_quote(text)} is out of range: choose 1 to 65535", unreadable=True)
    return int(text)


def parse_member(number: int, text: str) -> Member:
    """The server ``number`` that is described by ``text``, the value of its line.

    The form is ``host:port:port[:role][;[address:]clientPort[;[address:]secureClientPort]]``; there may be
    several addresses, with ``|`` between. Raises MembershipError.
    """
    own, *clients = text.strip().split(";")
    addresses: list[tuple[str, int, int]] = []
    role: str | None = None
    for each in own.split("|"):
        host, *rest = _parts(each.strip())
        if not host or len(rest) not in (2, 3):
            raise MembershipError(f"{_quote(text)} {_FORM}")
        quorum_port, election_port = _port(rest[0]), _port(rest[1])
        if quorum_port == election_port:
            raise MembershipError(f"port {quorum_port} is named twice: the two ports of a server must differ")
        addresses.append((_host(host), quorum_port, election_port))
        if len(rest) == 3:
            own_role = rest[2].strip().lower()
            if own_role not in ("participant", "observer"):
                raise MembershipError(f"{_quote(text)} {_FORM}, with role participant or observer")
            if role not in (None, own_role):
                raise MembershipError(f"{_quote(text)} gives one server two roles")
            role = own_role
    if len(clients) > 2:
        raise MembershipError(f"{_quote(text)} {_FORM}")
    client = ";".join(_client(each.strip(), text) for each in clients).rstrip(";")
    first, *others = addresses
    # Twice the same address is one.
    distinct = tuple(dict.fromkeys(each for each in others if each != first))
    return Member(number, *first, role == "observer", client, distinct)


def _client(part: str, text: str) -> str:
    if not part:
        return ""
    *hosts, port = _parts(part)
    if len(hosts) > 1:
        raise MembershipError(f"{_quote(text)} {_FORM}")
    return f"{_in_brackets(_host(hosts[0]) if hosts else '0.0.0.0')}:{_port(port)}"


# ---- quorums


class Quorum(Protocol):
    """Which sets of servers may decide. Any two of them have a voter in common."""

    @property
    def voters(self) -> frozenset[int]:
        """The participants, also those whose vote weighs nothing."""
        ...

    def reached(self, ids: Set[int]) -> bool:
        """Whether ``ids`` hold a quorum; those of servers that are no voters count nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Majority:
    """More than half of the voters."""

    voters: frozenset[int]

    def reached(self, ids: Set[int]) -> bool:
        return 2 * len(self.voters & ids) > len(self.voters)


@dataclass(frozen=True, slots=True)
class Hierarchical:
    """A majority of the groups that have any weight, each with more than half of its weight.

    ``groups``: each server's group; ``weights``: each server's weight, 0 or more. A group may list servers
    that do not vote (observers, or servers that do not exist): as in ZooKeeper, their weight, if they are
    given one, counts in the weight of the group, of which a quorum needs more than half.
    """

    voters: frozenset[int]
    groups: Mapping[int, int]
    weights: Mapping[int, int]
    # The weight of each group that has any.
    _totals: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises MembershipError: a voter has no group, a server of a group no weight, or less than none."""
        weights = dict.fromkeys(self.voters, 1) | dict(self.weights)
        for server in sorted(self.voters - self.groups.keys()):
            raise MembershipError(f"server {server} is in no group")
        totals: dict[int, int] = {}
        for server, group in self.groups.items():
            if server not in weights:
                raise MembershipError(f"server {server} is in group {group} but no participant", unreadable=True)
            totals[group] = totals.get(group, 0) + weights[server]
        for server, weight in weights.items():
            if weight < 0:
                raise MembershipError(f"the weight of server {server} is less than 0")
        object.__setattr__(self, "groups", MappingProxyType(dict(sorted(self.groups.items()))))
        object.__setattr__(self, "weights", MappingProxyType(dict(sorted(weights.items()))))
        object.__setattr__(self, "_totals", {group: total for group, total in totals.items() if total})

    def reached(self, ids: Set[int]) -> bool:
        gained = dict.fromkeys(self._totals, 0)
        for server in self.voters & ids:
            group = self.groups[server]
            if group in gained:
                gained[group] += self.weights[server]
        won = sum(2 * gained[group] > total for group, total in self._totals.items())
        return 2 * won > len(self._totals)


@dataclass(frozen=True, slots=True)
class Joint:
    """Both a quorum of ``old`` and one of ``new``: what counts while a reconfiguration is under way."""

    old: Quorum
    new: Quorum

    @property
    def voters(self) -> frozenset[int]:
        return self.old.voters | self.new.voters

    def reached(self, ids: Set[int]) -> bool:
        return self.old.reached(ids) and self.new.reached(ids)


# ---- the whole


@dataclass(frozen=True, slots=True)
class Membership:
    """One configuration of the ensemble. Make it with ``of`` or ``parse``, which choose the quorum.

    ``version``: the zxid of the reconfiguration that made it; 0 if it is one from the servers' files.
    ``members``: every server by its number, read-only and in the order of the numbers.
    """

    version: int
    members: Mapping[int, Member]
    quorum: Quorum

    def __post_init__(self) -> None:
        members = dict(sorted(self.members.items()))
        assert all(number == member.id for number, member in members.items()), "filed under another number"
        assert self.quorum.voters == {each.id for each in members.values() if not each.observer}
        object.__setattr__(self, "members", MappingProxyType(members))

    def __hash__(self) -> int:
        return hash((self.version, tuple(self.members.values())))

    @classmethod
    def of(
        cls,
        members: Iterable[Member],
        version: int = 0,
        groups: Mapping[int, int] | None = None,
        weights: Mapping[int, int] | None = None,
    ) -> Membership:
        """The configuration of ``members``: with a majority quorum if there are neither ``groups`` (server to
        group) nor ``weights`` (server to weight). Raises MembershipError."""
        by_number = {each.id: each for each in members}
        voters = frozenset(each.id for each in by_number.values() if not each.observer)
        if not groups and not weights:
            return cls(version, by_number, Majority(voters))
        return cls(version, by_number, Hierarchical(voters, groups or {}, weights or {}))

    @property
    def voters(self) -> frozenset[int]:
        return self.quorum.voters

    @property
    def observers(self) -> frozenset[int]:
        return frozenset(each.id for each in self.members.values() if each.observer)

    @property
    def electable(self) -> frozenset[int]:
        """The voters that may lead: as in ZooKeeper, not those whose vote weighs nothing."""
        if isinstance(self.quorum, Hierarchical):
            return frozenset(each for each in self.voters if self.quorum.weights[each] > 0)
        return self.voters

    def with_version(self, version: int) -> Membership:
        return replace(self, version=version)

    def text(self) -> str:
        """The data of /zookeeper/config; ``parse`` makes the same configuration of it."""
        lines = [f"server.{number}={member.text()}" for number, member in self.members.items()]
        if isinstance(self.quorum, Hierarchical):
            servers_of: dict[int, list[str]] = {}
            for server, group in self.quorum.groups.items():
                servers_of.setdefault(group, []).append(str(server))
            lines += [f"group.{group}={':'.join(servers)}" for group, servers in sorted(servers_of.items())]
            lines += [f"weight.{server}={weight}" for server, weight in self.quorum.weights.items()]
        lines.append(f"version={self.version:x}")
        return "\n".join(lines)

    @classmethod
    def parse(cls, text: str) -> Membership:
        """The configuration that ``text`` describes, one ``key=value`` a line. Raises MembershipError."""
        entries = []
        for line in text.split("\n"):
            key, equals, value = line.partition("=")
            if not equals and line.strip():
                raise MembershipError(f"{_quote(line)} has no '='")
            if equals:
                entries.append((key, value))
        return membership_from(entries)


def membership_from(entries: Iterable[tuple[str, str]]) -> Membership:
    """The configuration that pairs of key and value describe; of a key given twice the last one counts.

    Raises MembershipError, first for keys that do not belong here.
    """
    last = {key.strip(): value.strip() for key, value in entries}
    for key in last:
        if not key.startswith(("server.", "group", "weight")) and key != "version":
            raise MembershipError(f"{_quote(key)} does not belong to a configuration of servers")
    members: dict[int, Member] = {}
    groups: dict[int, int] = {}
    weights: dict[int, int] = {}
    hierarchical, version = False, 0
    for key, value in last.items():
        if key == "version":
            if not _HEXADECIMAL.fullmatch(value):
                raise MembershipError(f"the version {_quote(value)} is not hexadecimal", unreadable=True)
            version = int(value, 16)
            continue
        kind, _, name = key.partition(".")
        number = _number(name)
        if kind == "server":
            members[number] = parse_member(number, value)
            continue
        hierarchical = True
        if kind == "group":
            put_group(groups, number, value)
        elif kind == "weight":
            weights[number] = _number(value)
        else:
            raise MembershipError(f"{_quote(key)} does not belong to a configuration of servers", unreadable=True)
    if hierarchical:
        return Membership.of(members.values(), version, groups, weights)
    return Membership.of(members.values(), version)


def put_group(groups: dict[int, int], group: int, text: str) -> None:
    """Put the servers that ``text`` lists, with ``:`` between, into ``group``. Raises MembershipError."""
    for each in text.split(":"):
        server = _number(each.strip())
        if server in groups:
            raise MembershipError(f"server {server} is in more than one group")
        groups[server] = group
