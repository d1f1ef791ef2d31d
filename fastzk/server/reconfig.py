"""What a request to change the servers of the ensemble leads to: the next configuration, or an error.

The pure part of ZooKeeper's operation *reconfig* (opcode 16, on the leader only). The checks come in the order
of the real server, so that a request that is wrong twice gets the same error; 3.8.0 was asked for nearly all:

1. ``reconfigEnabled`` is not true: ReconfigDisabled (-123), whoever asks.
2. The session is closed or has moved: as for every write.
3. The server stands alone: Unimplemented (-6).
4. Another reconfiguration is proposed and not yet committed: ReconfigInProgress (-14).
5. The request names a version (other than -1) that is not the current one: BadVersion (-103).
6. The request makes no sense: BadArguments (-8); or it holds a number that is none, or cannot be:
   MarshallingError (-5), for the real server does not expect it. Which is which is odd in places: a port that is
   no number is BadArguments, one above 65535 is not; a whole configuration with observers only is
   MarshallingError, one that is empty BadArguments (if ``standaloneEnabled``).
7. Fewer than two participants are left (one if ``standaloneEnabled`` is false): BadArguments.
8. No quorum of the new participants is connected to the leader and up to date: NewConfigNoQuorum (-13).
9. The client may not write /zookeeper/config: NoAuth (-102).

1 to 4 are the caller's, ``reconfigure`` does the rest; behind them all it refuses servers whose numbers do not
fit into a session's id (BadArguments), which the real server takes.

To leave is not an error for a server that is not there, and a request that changes nothing is carried out: it
gives the configuration a new version. Who joins under a number that is taken replaces that server; so ports and
roles change. Leaving comes before joining. A hierarchical quorum can only be replaced as a whole.

*The znode.* /zookeeper/config exists in every ZooKeeper; standalone it is empty. In an ensemble it holds the text
of the current configuration (``Membership.text``), from the start on and whatever ``reconfigEnabled`` says; the
version of one that comes from files is 0 until a leader has had it acknowledged, which gives it the zxid at which
the epoch begins (``version=100000000``). Its ACL is ``world:anyone:r``: everybody may read it, and only the super
user may write it, until somebody with the right to sets another ACL; reconfig asks for WRITE there. With
``skipACL=yes`` everybody may. The transaction is a setData of the text with version -1 under the type of
reconfig: so the znode's own version is -1 after it, and its mzxid is the version of the configuration. The answer
is that of getData: the text of the configuration just committed, and the stat. The super user can also setData the
znode without changing the servers, and nobody can delete it (BadArguments).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastzk.protocol import Error
from fastzk.server.properties import ConfigError, parse_properties_text
from fastzk.server.zab.quorum import (
    Majority,
    Member,
    Membership,
    MembershipError,
    membership_from,
    parse_member,
)

CONFIG_PATH: Final = "/zookeeper/config"
_LONG = re.compile(r"[+-]?[0-9]{1,18}")


class ReconfigError(Exception):
    """The request is refused. ``code`` is what the client is told, ``str()`` a reason for the log."""

    def __init__(self, code: Error, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Change:
    """What a client asks for. With ``new_members`` the whole is replaced, and the other two do not count.

    ``joining``: server lines with commas between; ``leaving``: numbers of servers with commas between;
    ``new_members``: lines of a configuration, with commas or ends of line between; ``version``: the
    configuration it is meant for, -1 for any.
    """

    joining: str | None = None
    leaving: str | None = None
    new_members: str | None = None
    version: int = -1


def reconfigure(
    current: Membership,
    change: Change,
    *,
    zxid: int,
    synced: Callable[[int], bool],
    permitted: Callable[[], bool],
    standalone_enabled: bool = True,
    highest_id: int = 255,
) -> Membership:
    """The configuration that follows ``current``; its version is ``zxid``, that of the transaction.

    ``synced``: whether the server of this number is the leader, or connected to it and up to date.
    ``permitted``: whether the client may write /zookeeper/config; asked last, and only if all else is well.
    ``highest_id``: the highest number of a server, 254 with ``extendedTypesEnabled``.
    Raises ReconfigError.
    """
    if change.version not in (-1, current.version):
        raise ReconfigError(
            Error.BAD_VERSION, f"it is meant for version {change.version:x}, current is {current.version:x}"
        )
    try:
        if change.new_members is not None:
            changed = _replaced(change.new_members, standalone_enabled)
        else:
            changed = _changed(current, change.joining, change.leaving)
    except MembershipError as error:
        code = Error.MARSHALLING if error.unreadable else Error.BAD_ARGUMENTS
        raise ReconfigError(code, str(error)) from None
    least = 2 if standalone_enabled else 1
    if len(changed.voters) < least:
        raise ReconfigError(Error.BAD_ARGUMENTS, f"at least {least} participants must be left")
    if not changed.quorum.reached({each for each in changed.voters if synced(each)}):
        raise ReconfigError(Error.NEW_CONFIG_NO_QUORUM, "no quorum of the new participants is connected and up to date")
    if not permitted():
        raise ReconfigError(Error.NO_AUTH, f"the client may not write {CONFIG_PATH}")
    for number in changed.members:
        if not 0 <= number <= highest_id:
            raise ReconfigError(Error.BAD_ARGUMENTS, f"a server's number is 0 to {highest_id}, not {number}")
    return changed.with_version(zxid)


def _replaced(text: str, standalone_enabled: bool) -> Membership:
    """The configuration that ``text`` describes. Raises MembershipError."""
    try:
        entries = [(each.name, each.value) for each in parse_properties_text(text.replace(",", "\n"))]
    except ConfigError as error:
        raise MembershipError(str(error), unreadable=True) from None
    changed = membership_from(entries)
    if not changed.voters and not standalone_enabled:
        raise MembershipError("there is no participant", unreadable=True)
    if changed.observers and len(changed.voters) <= standalone_enabled:
        raise MembershipError("observers need an ensemble of participants", unreadable=True)
    return changed


def _changed(current: Membership, joining: str | None, leaving: str | None) -> Membership:
    """``current`` without the servers that leave and with those that join. Raises MembershipError."""
    if not isinstance(current.quorum, Majority):
        raise MembershipError("the quorum is hierarchical: only a whole configuration can replace it")
    members: dict[int, Member] = dict(current.members)
    for number in _split(leaving or "", ","):
        members.pop(_number(number), None)
    for line in _split(joining or "", ","):
        parts = _split(line, "=")
        if len(parts) != 2:
            raise MembershipError(f"{line[:60]!r} is not of the form server.N=...")
        joined = parse_member(_number(parts[0].rpartition(".")[2]), parts[1])
        if not joined.client:
            raise MembershipError(f"server {joined.id} needs a client port to join")
        for other in members.values():
            shared = joined.endpoints() & other.endpoints()
            if other.id != joined.id and shared:
                host, port = min(shared)
                raise MembershipError(f"{host}:{port} of server {joined.id} is also that of server {other.id}")
        members[joined.id] = joined
    return Membership.of(members.values())


def _split(text: str, separator: str) -> list[str]:
    """The parts that are not blank, trimmed."""
    return [part.strip() for part in text.split(separator) if part.strip()]


def _number(text: str) -> int:
    if not _LONG.fullmatch(text):
        raise MembershipError(f"{text[:60]!r} is not the number of a server", unreadable=True)
    return int(text)
