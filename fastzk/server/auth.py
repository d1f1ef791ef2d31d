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

#: What entries of the scheme auth may become, together: each stands for all identities of the client.
_EXPANDED_BYTES: Final = 1 << 20

_NULL: Final = b"\xff\xff\xff\xff"

_INT = struct.Struct(">i")
_DECIMAL = re.compile(r"[+-]?[0-9]+\Z")
_BYTE = r"(?:\+?0*(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[0-9]{1,2})|-0+)"  # Java's parser takes signs
_IPV4 = re.compile(rf"{_BYTE}(?:\.{_BYTE}){{3}}")
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_HEX = re.compile(r"[+-]?[0-9a-fA-F]{1,4}\Z")


class Identified(sasl.Identified, Protocol):
    """What authentication needs of a client's connection."""

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
    fixed: list[bytes] = []
    room = max(len(vector), _EXPANDED_BYTES)
    judged: dict[bytes, list[bytes] | None] = {}  # by scheme and id: what stands for them, without permissions
    for entry in _without_duplicates([_as_java_reads(entry) for entry in _entries(vector)]):
        perms, named = entry[:4], entry[4:]
        if named not in judged:
            judged[named] = _judge(named, identities, schemes)
        accepted = judged[named]
        if accepted is None:
            return None
        if accepted == [named]:
            fixed.append(entry)
            continue
        room -= sum(4 + len(own) for own in accepted)
        if room < 0:
            return None
        fixed += [perms + own for own in accepted]
    if not fixed:
        return None
    return _INT.pack(len(fixed)) + b"".join(fixed)


def _as_java_reads(entry: bytes) -> bytes:
    """The entry with U+FFFD for what is not UTF-8. Java makes one of an encoded surrogate, Python three."""
    if entry.isascii():
        return entry
    scheme, at = _string_at(entry, 4)
    who, _ = _string_at(entry, at)
    parts = [entry[:4]]
    for text in (scheme, who):
        if text is None:
            parts.append(_NULL)
        else:
            raw = _SURROGATE.sub(b"\xef\xbf\xbd", text.encode("utf-8", "surrogateescape"))
            parts.append(_string(raw.decode("utf-8", "replace")))
    return b"".join(parts)


def _judge(named: bytes, identities: list[Identity], schemes: frozenset[str]) -> list[bytes] | None:
    """What an ACL entry's scheme and id are stored as, each as scheme and id; None if they are invalid.

    Raises ValueError where ZooKeeper answers MarshallingError.
    """
    scheme, at = _string_at(named, 0)
    who, _ = _string_at(named, at)
    if scheme is None:
        return None
    if scheme == "auth":
        proven = schemes - {"ip"}
        return [_string(name) + _string(own) for name, own in identities if name in proven] or None
    if who is None:
        if scheme == "world" or scheme in schemes:
            raise ValueError("an ACL with a null id")
        return None
    good = who == "anyone" if scheme == "world" else scheme in schemes and _VALID[scheme](who)
    return [named] if good else None


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
    return 32 if _IPV4.fullmatch(address) else 0


def _ipv6_bits(address: str) -> int:
    halves = address.split("::")
    if len(halves) > 2:
        return 0
    groups = [half.split(":") if half else [] for half in halves]
    count = sum(map(len, groups))
    if (count != 8) if len(halves) == 1 else (count >= 8):
        return 0
    return 128 if all(_HEX.match(group) for half in groups for group in half) else 0


def _without_duplicates(entries: list[bytes]) -> list[bytes]:
    """The distinct entries. Raises ValueError where the nulls of one keep ZooKeeper from comparing it to another.

    ZooKeeper compares each with all before it, which takes it seconds for the longest list that fits into a
    request. Only what those comparisons can find is looked for here.
    """
    kept = list(dict.fromkeys(entries))
    if not any(entry.find(_NULL, 4) > 0 for entry in kept):
        return kept
    with_perms: set[bytes] = set()
    with_scheme: set[bytes] = set()  # permissions and scheme
    for entry in entries:
        scheme, at = _string_at(entry, 4)
        if entry[:4] in with_perms if scheme is None else entry[at:] == _NULL and entry[:at] in with_scheme:
            raise ValueError("an ACL with a null scheme or id")
        with_perms.add(entry[:4])
        with_scheme.add(entry[:at])
    return kept


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return _INT.pack(len(raw)) + raw


def _string_at(raw: bytes, at: int) -> tuple[str | None, int]:
    """The string that begins there, or None for a null, and where it ends."""
    (length,) = _INT.unpack_from(raw, at)
    at += 4
    if length < 0:
        return None, at
    return raw[at : at + length].decode("utf-8", "surrogateescape"), at + length


def _entries(vector: bytes) -> list[bytes]:
    """The entries of a vector<ACL>, each as it was sent: permissions, scheme, id."""
    length_at = _INT.unpack_from
    entries: list[bytes] = []
    start = 4
    for _ in range(length_at(vector, 0)[0]):
        (length,) = length_at(vector, start + 4)
        at = start + 8 + (length if length > 0 else 0)
        (length,) = length_at(vector, at)
        at += 4 + (length if length > 0 else 0)
        entries.append(vector[start:at])
        start = at
    return entries
