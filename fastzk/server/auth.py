"""Authentication schemes: who a client is, and which ACLs may be stored.

Checks of permissions are in ``fastzk/_acl.pyx``; here is what happens once per ``addAuth`` or per new ACL.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import struct
from typing import Final, Protocol

from fastzk.server import sasl, x509

logger = logging.getLogger(__name__)

Identity = tuple[str, str]

#: Schemes that every server has.
BASIC_SCHEMES: Final = frozenset({"digest", "ip"})

#: Permissions, scheme and id of an ACL's entry, as they were sent.
_Entry = tuple[int, str | None, str | None]

_INT = struct.Struct(">i")
_DECIMAL = re.compile(r"[+-]?[0-9]+\Z")
_HEX = re.compile(r"[+-]?[0-9a-fA-F]{1,4}\Z")


class Identified(Protocol):
    """What authentication needs of a client's connection."""

    @property
    def host(self) -> str: ...
    @property
    def session_id(self) -> int: ...
    def add_identity(self, scheme: str, who: str) -> None: ...
    def identities(self) -> list[Identity]: ...


class Authenticator:
    """Decides addAuth requests.

    ``super_digest``: ``user:base64`` of the user who may do everything, or None; ``digest_algorithm``: hashlib's
    name of the digest scheme's hash.
    """

    def __init__(self, *, super_digest: str | None = None, digest_algorithm: str = "sha1") -> None:
        self._super_digest = super_digest
        self._algorithm = digest_algorithm

    def authenticate(self, client: Identified, scheme: str, data: bytes | None) -> bool:
        """Whether ``data`` proves an identity of ``scheme``; if so the client has it from now on."""
        if scheme == "digest" and data is not None:
            digest = self.digest(data)
            if self._super_digest is not None and hmac.compare_digest(
                digest.encode("utf-8", "surrogateescape"), self._super_digest.encode("utf-8", "surrogateescape")
            ):
                client.add_identity("super", "")
            client.add_identity("digest", digest)
            accepted = True
        elif scheme == "x509":
            # The certificate has been judged when the connection began.
            accepted = any(known == "x509" for known, _ in client.identities())
        else:
            # Every connection has its address as an identity from the start; asking for it again is allowed, with
            # whatever data.
            accepted = scheme == "ip"
        if not accepted:
            logger.warning(
                "authentication failed address=%s session=0x%x scheme=%r", client.host, client.session_id, scheme[:32]
            )
        return accepted

    def digest(self, user_password: bytes) -> str:
        """``user:base64(hash(user:password))``, as ZooKeeper's DigestAuthenticationProvider makes it."""
        text = user_password.decode("utf-8", "replace")
        hashed = hashlib.new(self._algorithm, text.encode(), usedforsecurity=False).digest()
        return f"{text.split(':', 1)[0]}:{base64.b64encode(hashed).decode('ascii')}"


def fix_acl(
    vector: bytes, identities: list[Identity], schemes: frozenset[str] = BASIC_SCHEMES
) -> bytes | None:
    """The ACL that is stored for one that a client asked for (ZooKeeper's ``PrepRequestProcessor.fixupACL``).

    Duplicates are dropped, ``auth`` becomes the client's authenticated identities. ``vector`` is a
    vector<ACL> in wire form, and so is the result; ``schemes`` are those that exist, besides world and auth.
    Returns None for an ACL that ZooKeeper refuses with InvalidACL; raises ValueError where it answers
    MarshallingError.
    """
    fixed: list[tuple[int, str, str]] = []
    for perms, scheme, who in _without_duplicates(_entries(vector)):
        if scheme is None:
            return None
        if scheme == "auth":
            proven = schemes - {"ip"}
            own = [(perms, *identity) for identity in identities if identity[0] in proven]
            if not own:
                return None
            fixed += own
            continue
        if who is None:
            if scheme == "world" or scheme in schemes:
                raise ValueError("an ACL with a null id")
            return None
        if not (who == "anyone" if scheme == "world" else scheme in schemes and _VALID[scheme](who)):
            return None
        fixed.append((perms, scheme, who))
    if not fixed:
        return None
    return _INT.pack(len(fixed)) + b"".join(
        _INT.pack(perms) + _string(scheme) + _string(who) for perms, scheme, who in fixed
    )


def valid_digest(who: str) -> bool:
    """Whether ``who`` has the two parts of a digest id; Java's split drops empty ones at the end."""
    return who.rstrip(":").count(":") == 1


def valid_ip(who: str) -> bool:
    """Whether ``who`` is an IPv4 or IPv6 address with an optional ``/bits``."""
    address, slash, bits = who.partition("/")
    size = _ipv6_bits(address) if ":" in address else _ipv4_bits(address)
    if not size:
        return False
    return not slash or (_DECIMAL.match(bits) is not None and 0 <= int(bits) <= size)


_VALID: Final = {
    "digest": valid_digest,
    "ip": valid_ip,
    "sasl": sasl.valid_name,
    "x509": x509.valid_name,
}


def _ipv4_bits(address: str) -> int:
    parts = address.split(".")
    good = len(parts) == 4 and all(_DECIMAL.match(part) and 0 <= int(part) <= 255 for part in parts)
    return 32 if good else 0


def _ipv6_bits(address: str) -> int:
    halves = address.split("::")
    if len(halves) > 2:
        return 0
    groups = [half.split(":") if half else [] for half in halves]
    count = sum(map(len, groups))
    if (count != 8) if len(halves) == 1 else (count >= 8):
        return 0
    return 128 if all(_HEX.match(group) for half in groups for group in half) else 0


def _without_duplicates(entries: list[_Entry]) -> list[_Entry]:
    """The distinct entries. Raises ValueError where the nulls of one keep ZooKeeper from comparing it to another."""
    kept: list[_Entry] = []
    for entry in entries:
        perms, scheme, who = entry
        for other in kept:
            if other[0] == perms and (scheme is None or (other[1] == scheme and who is None)):
                raise ValueError("an ACL with a null scheme or id")
            if other == entry:
                break
        else:
            kept.append(entry)
    return kept


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return _INT.pack(len(raw)) + raw


def _entries(vector: bytes) -> list[_Entry]:
    at = 4
    entries: list[_Entry] = []

    def string() -> str | None:
        nonlocal at
        (length,) = _INT.unpack_from(vector, at)
        at += 4
        if length < 0:
            return None
        at += length
        return vector[at - length : at].decode("utf-8", "surrogateescape")

    for _ in range(_INT.unpack_from(vector, 0)[0]):
        (perms,) = _INT.unpack_from(vector, at)
        at += 4
        entries.append((perms, string(), string()))
    return entries
