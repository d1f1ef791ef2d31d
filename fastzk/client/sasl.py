"""The client's side of SASL with the mechanism DIGEST-MD5 (RFC 2831), as ZooKeeper's servers speak it."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final, NamedTuple

_DIRECTIVE: Final = re.compile(rb'\s*([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",\s]*))\s*(?:,|\Z)', re.DOTALL)
_COUNT: Final = b"00000001"


class SaslError(Exception):
    """The server's token makes no sense, or the server does not know the password itself."""


class Credentials(NamedTuple):
    """Who to be.

    :param service: what the server calls itself; ZooKeeper's servers are ``zookeeper``.
    """

    username: str
    password: str
    service: str = "zookeeper"


def _hex(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).hexdigest().encode()


class DigestMd5:
    """One negotiation: ``first``, then ``step`` for each of the server's tokens until it gives None."""

    #: The token to begin with.
    first: Final = b""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._expected: bytes | None = None

    def step(self, token: bytes | None) -> bytes | None:
        """The answer to a token of the server; None at the successful end.

        :raises SaslError: when the server is not to be trusted.
        """
        if self._expected is not None:
            if token is not None and token != self._expected:
                raise SaslError("the server did not prove that it knows the password")
            return None
        if not token:
            raise SaslError("the server does not offer DIGEST-MD5")
        found: dict[bytes, bytes] = {}
        for match in _DIRECTIVE.finditer(token):
            quoted = match[2]
            value = match[3] if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL)
            found.setdefault(match[1].lower(), value)
        if b"nonce" not in found:
            raise SaslError("a challenge without a nonce")
        if b"auth" not in found.get(b"qop", b"auth").split(b","):
            raise SaslError("the server wants more than authentication")
        return self._answer(found[b"nonce"], found.get(b"realm", b""), b"charset" in found)

    def _answer(self, nonce: bytes, realm: bytes, utf8: bool) -> bytes:
        user, password = self._credentials.username, self._credentials.password
        own = secrets.token_hex(16).encode()
        uri = f"{self._credentials.service}/".encode() + (realm or b"zk-sasl-md5")
        secret = b":".join([_hashed(user), realm, _hashed(password)])
        shared = hashlib.md5(secret, usedforsecurity=False).digest() + b":" + nonce + b":" + own
        proof = b":".join([_hex(shared), nonce, _COUNT, own, b"auth"]) + b":"
        self._expected = b"rspauth=" + _hex(proof + _hex(b":" + uri))
        name = user.encode() if utf8 else user.encode("latin-1", "replace")
        quoted = re.sub(rb'(["\\])', rb"\\\1", name)
        parts = [b"charset=utf-8"] if utf8 else []
        parts += [
            b'username="%b"' % quoted,
            b'realm="%b"' % realm,
            b'nonce="%b"' % nonce,
            b"nc=" + _COUNT,
            b'cnonce="%b"' % own,
            b'digest-uri="%b"' % uri,
            b"maxbuf=65536",
            b"response=" + _hex(proof + _hex(b"AUTHENTICATE:" + uri)),
            b"qop=auth",
        ]
        return b",".join(parts)


def _hashed(text: str) -> bytes:
    # The RFC hashes in Latin-1 whatever fits into it (2.1.2.1).
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
