"""Names in certificates as Java writes them, since ACLs of the scheme x509 hold such names.

ZooKeeper's identity of a client with a certificate is ``X500Principal.getName()``: RFC 2253, with the few
types of attributes that RFC names and numbers for all others. Only the subject is read here; that the
certificate is good was OpenSSL's to decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_RFC2253: Final = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}
#: What Java reads in a name besides those.
_READ: Final = {
    *_RFC2253.values(),
    *("S", "T", "IP", "DNQ", "DNQUALIFIER", "SURNAME", "GIVENNAME", "INITIALS", "GENERATION"),
    *("EMAIL", "EMAILADDRESS", "SERIALNUMBER"),
}

_INTEGER, _OID, _SEQUENCE, _SET, _VERSION = 0x02, 0x06, 0x30, 0x31, 0xA0
# UTF8String, PrintableString, T61String, IA5String, GeneralString, UniversalString, BMPString
_TEXTS: Final = frozenset({0x0C, 0x13, 0x14, 0x16, 0x1B, 0x1C, 0x1E})
_ESCAPED: Final = ',=+<>#;"\\'


class _Element(NamedTuple):
    tag: int
    at: int  # where its tag stands
    start: int
    end: int


def _element(data: bytes, at: int, end: int) -> _Element:
    if at + 2 > end:
        raise ValueError("the certificate is cut off")
    tag, size, start = data[at], data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 4 or start + count > end:
            raise ValueError("the certificate is malformed")
        size = int.from_bytes(data[start : start + count], "big")
        start += count
    if start + size > end:
        raise ValueError("the certificate is cut off")
    return _Element(tag, at, start, start + size)


def _children(data: bytes, parent: _Element) -> Iterator[_Element]:
    at = parent.start
    while at < parent.end:
        child = _element(data, at, parent.end)
        yield child
        at = child.end


def subject_name(certificate: bytes) -> str:
    """The subject of a certificate in DER, in RFC 2253 form as Java writes it.

    Raises ValueError if that is not a certificate.
    """
    whole = _element(certificate, 0, len(certificate))
    inner = next(_children(certificate, whole), None)
    fields = [] if inner is None else list(_children(certificate, inner))
    if fields and fields[0].tag == _VERSION:
        del fields[0]
    # serial number, signature algorithm, issuer, validity, subject
    if len(fields) < 5 or fields[0].tag != _INTEGER or fields[4].tag != _SEQUENCE:
        raise ValueError("that is not a certificate")
    return _name(certificate, fields[4])


def distinguished_name(name: bytes) -> str:
    """A name alone, in DER, in the same form. Raises ValueError if that is not one."""
    return _name(name, _element(name, 0, len(name)))


def _name(data: bytes, name: _Element) -> str:
    parts = []
    for relative in _children(data, name):
        if relative.tag != _SET:
            raise ValueError("the name in the certificate is malformed")
        parts.append("+".join(_attribute(data, each) for each in _children(data, relative)))
    return ",".join(reversed(parts))


def _attribute(data: bytes, pair: _Element) -> str:
    parts = list(_children(data, pair))
    if len(parts) != 2 or parts[0].tag != _OID:
        raise ValueError("the name in the certificate is malformed")
    number = _dotted(data[parts[0].start : parts[0].end])
    value = parts[1]
    keyword = _RFC2253.get(number)
    if keyword is None or value.tag not in _TEXTS:
        return f"{keyword or number}=#{data[value.at : value.end].hex()}"
    # Whatever its tag says, Java takes the text for UTF-8.
    text = data[value.start : value.end].decode("utf-8", "replace")
    return f"{keyword}={_escape(text)}"


def _dotted(encoded: bytes) -> str:
    if not encoded or encoded[-1] & 0x80:
        raise ValueError("the name in the certificate is malformed")
    arcs, value = [], 0
    for byte in encoded:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    top = min(arcs[0] // 40, 2)
    return ".".join(map(str, [top, arcs[0] - 40 * top, *arcs[1:]]))


def _escape(text: str) -> str:
    escaped = "".join("\\" + c if c in _ESCAPED else "\\00" if c == "\0" else c for c in text)
    inner = escaped.strip(" \r")
    lead = len(escaped) - len(escaped.lstrip(" \r"))
    tail = escaped[lead + len(inner) :]
    return "".join("\\" + c for c in escaped[:lead]) + inner + "".join("\\" + c for c in tail)


# ---- names in ACLs

_TYPE = re.compile(r"\s*(?:OID\.)?([0-9]+(?:\.[0-9]+)+|[A-Z]+)\s*\Z", re.IGNORECASE)
_PAIR = r"""\\(?:[0-9a-fA-F]{2}|[,=+<>\#;"\\\ ])"""
_VALUE = re.compile(
    rf"""\#(?P<der>(?:[0-9a-fA-F]{{2}})+)[ ]*
      | "(?:[^"\\]|{_PAIR})*"[ \n]*
      | (?:(?:[^,+<>;"\\\#]|{_PAIR})(?:[^,+<>;"\\]|{_PAIR})*)?""",
    re.VERBOSE,
)
_PARTS = re.compile(r'(?:[^,;+"\\]|\\.|"(?:[^"\\]|\\.)*")*', re.DOTALL)


def valid_name(text: str) -> bool:
    """Whether ``text`` can be the id of an ACL of the scheme x509: a name that Java can read.

    The empty name is one, too.
    """
    if not text:
        return True
    at = 0
    while True:
        match = _PARTS.match(text, at)
        assert match is not None  # the pattern matches the empty text
        if not _valid_attribute(match[0]):
            return False
        at = match.end()
        if at == len(text):
            return True
        if text[at] not in ",;+":
            return False
        at += 1


def _valid_attribute(text: str) -> bool:
    keyword, equals, value = text.partition("=")
    kind = _TYPE.match(keyword)
    match = _VALUE.fullmatch(value.lstrip(" \n"))
    if not equals or kind is None or match is None:
        return False
    if match["der"] is not None and not _is_der(bytes.fromhex(match["der"])):
        return False
    if not kind[1][0].isdigit():
        return kind[1].upper() in _READ and "." not in keyword
    first, second = map(int, kind[1].split(".")[:2])
    return first <= 2 and (first == 2 or second < 40)


def _is_der(data: bytes) -> bool:
    try:
        return _element(data, 0, len(data)).end == len(data)
    except ValueError:
        return False
