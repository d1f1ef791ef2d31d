"""SASL for clients: the mechanism DIGEST-MD5 (RFC 2831), and the JAAS file with its users.

A connection makes one ``DigestMd5`` for its negotiation: the first token from the client is empty and is
answered by a challenge; the second proves that the client knows the password, and its answer proves the same
of the server. What is sent and what is refused is that of Java's DIGEST-MD5 as ZooKeeper runs it: quality of
protection ``auth`` only, one realm. No message of this module holds a password or a token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final, Protocol

from fastzk.protocol import Error
from fastzk.server.errors import StartupError

logger = logging.getLogger(__name__)

#: The name by which ZooKeeper's clients and servers call every server in DIGEST-MD5.
REALM: Final = "zk-sasl-md5"
SERVICE: Final = "zookeeper"
DIGEST_LOGIN_MODULE: Final = "org.apache.zookeeper.server.auth.DigestLoginModule"

_MAX_TOKEN = 4096
_NONCE_BYTES = 30
_DIRECTIVE = re.compile(
    rb"[ \t\r\n]*([!#-'*+.0-9A-Z^-z|~-]+)[ \t\r\n]*=[ \t\r\n]*"
    rb"(?:\"((?:[^\"\\]|\\.)*)\"|([^\s\",]*))[ \t\r\n]*(?:,[ \t\r\n,]*|\Z)",
    re.DOTALL,
)
_ONCE = (b"username", b"nonce", b"cnonce", b"nc", b"qop", b"digest-uri", b"response", b"charset", b"authzid")


class SaslFailed(Exception):
    """The client did not prove who it is; ``str()`` says why, for the log, without secrets."""


class DigestMd5:
    """The server's side of one negotiation.

    ``password_of`` gives the password of a user, None if there is no such user. ``user`` is the one who
    proved to know it, None before that.
    """

    __slots__ = ("_nonce", "_password_of", "_step", "user")

    def __init__(self, password_of: Callable[[str], str | None]) -> None:
        self._password_of = password_of
        self._nonce = b""
        self._step = 0
        self.user: str | None = None

    def step(self, token: bytes) -> bytes:
        """The answer to the client's ``token``. Raises SaslFailed; after that every further step fails."""
        step, self._step = self._step, 2
        if step == 0:
            # The client begins with nothing to say; whatever it says is not looked at.
            self._nonce = base64.b64encode(secrets.token_bytes(_NONCE_BYTES))
            self._step = 1
            return b'realm="%b",nonce="%b",charset=utf-8,algorithm=md5-sess' % (REALM.encode(), self._nonce)
        if step == 1:
            return self._check(_directives(token))
        raise SaslFailed("the negotiation is over")

    def _check(self, given: dict[bytes, bytes]) -> bytes:
        user_raw = given.get(b"username")
        if not user_raw:
            raise SaslFailed("no user name")
        charset = given.get(b"charset")
        if charset not in (None, b"utf-8"):
            raise SaslFailed("an unknown charset")
        try:
            user = user_raw.decode("utf-8" if charset else "latin-1")
        except UnicodeDecodeError:
            raise SaslFailed("a user name that is not in its charset") from None
        if given.get(b"realm") != REALM.encode():
            raise SaslFailed("another realm")
        if not hmac.compare_digest(given.get(b"nonce", b""), self._nonce):
            raise SaslFailed("another nonce")
        client_nonce = given.get(b"cnonce")
        if not client_nonce:
            raise SaslFailed("no nonce of the client")
        if given.get(b"nc") != b"00000001":
            raise SaslFailed("a nonce count that is not 1")
        qop = given.get(b"qop", b"auth")
        if qop != b"auth":
            raise SaslFailed("a quality of protection other than auth")
        uri = given.get(b"digest-uri", b"")
        if uri.lower() != f"{SERVICE}/{REALM}".encode():
            raise SaslFailed("another digest-uri")
        response = given.get(b"response")
        if response is None:
            raise SaslFailed("no response")
        password = self._password_of(user)
        # An unknown user takes as long as a wrong password.
        known = password is not None
        secret = _secret(user, password or secrets.token_hex(8), utf8=charset is not None)
        parts = [secret, self._nonce, client_nonce, *([given[b"authzid"]] if b"authzid" in given else [])]
        shared = _hex(b":".join(parts))
        fixed = b":".join([shared, self._nonce, b"00000001", client_nonce, qop])
        right = hmac.compare_digest(response, _hex(fixed + b":" + _hex(b"AUTHENTICATE:" + uri)))
        if not known:
            raise SaslFailed("an unknown user")
        if not right:
            raise SaslFailed("a wrong password")
        self.user = user
        return b"rspauth=" + _hex(fixed + b":" + _hex(b":" + uri))


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _hex(data: bytes) -> bytes:
    return _md5(data).hex().encode("ascii")


def _secret(user: str, password: str, *, utf8: bool) -> bytes:
    # Both are hashed in Latin-1 where they fit into it, whatever they were sent in (RFC 2831, 2.1.2.1).
    return _md5(b":".join([_hashed(user, utf8), REALM.encode("ascii"), _hashed(password, utf8)]))


def _hashed(text: str, utf8: bool) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape") if utf8 else text.encode("latin-1", "replace")


def _directives(token: bytes) -> dict[bytes, bytes]:
    """The ``name=value`` pairs of a client's token. Raises SaslFailed."""
    if len(token) > _MAX_TOKEN:
        raise SaslFailed("a token that is too long")
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(token):
        match = _DIRECTIVE.match(token, at)
        if match is None:
            raise SaslFailed("a malformed token")
        name = match[1].lower()
        if name in found and (name in _ONCE or name == b"realm"):
            raise SaslFailed("a directive that is given twice")
        quoted = match[2]
        found[name] = match[3] if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL)
        at = match.end()
    return found


# ---- the JAAS file

_TOKEN = re.compile(
    r"""(?:\s|//[^\n]*|/\*.*?\*/)*
        (?:(?P<punctuation>[{};=])|"(?P<quoted>(?:[^"\\\n]|\\.)*)"|(?P<word>[^\s{};="/]+))""",
    re.VERBOSE | re.DOTALL,
)
_BLANKS = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*\Z", re.DOTALL)
_FLAGS = ("required", "requisite", "sufficient", "optional")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_USER = "user_"


class _Tokens:
    """The tokens of a JAAS file; errors name the line, never a value."""

    def __init__(self, text: str, path: Path) -> None:
        self._text = text
        self._path = path
        self._at = 0

    def error(self, message: str) -> StartupError:
        line = self._text.count("\n", 0, self._at) + 1
        return StartupError(f"{self._path}:{line}: {message}")

    def next(self) -> tuple[str, str] | None:
        """Kind and text of the next token, None at the end."""
        if _BLANKS.match(self._text, self._at):
            return None
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self.error("the JAAS file is malformed here")
        self._at = match.end()
        kind = match.lastgroup
        assert kind is not None  # one of the three groups has matched
        if kind != "quoted":
            return kind, match[kind]
        if "${" in match[kind]:
            raise self.error("properties of Java, written ${...}, are not known here: write the value itself")
        return kind, re.sub(
            r"\\([0-7]{1,3}|.)",
            lambda m: chr(int(m[1], 8) & 0xFF) if m[1][0] in "01234567" else _ESCAPES.get(m[1], m[1]),
            match[kind],
            flags=re.DOTALL,
        )

    def expect(self, *kinds: str) -> str:
        """The text of the next token, which must be of one of ``kinds`` (or be that punctuation)."""
        token = self.next()
        if token is None or not (token[0] in kinds or (token[0] == "punctuation" and token[1] in kinds)):
            raise self.error("the JAAS file is malformed here: expected " + " or ".join(kinds))
        return token[1]


def read_jaas(path: Path, section: str = "Server") -> dict[str, str]:
    """The users and passwords of ``section`` of a JAAS file: its options ``user_NAME="password"``.

    Raises StartupError: the file cannot be read, is malformed, lacks the section, or asks for another
    mechanism (Kerberos).
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise StartupError(f"cannot read the JAAS file {str(path)!r}: {error.strerror}") from None
    users: dict[str, str] | None = None
    tokens = _Tokens(text, path)
    while (token := tokens.next()) is not None:
        if token[0] == "punctuation":
            raise tokens.error("the JAAS file is malformed here: expected the name of a section")
        options = _section(tokens, token[1] == section)
        if token[1] == section:
            if users is not None:
                raise tokens.error(f"a second section {section!r}")
            users = options
    if users is None:
        raise StartupError(f"{path}: the JAAS file has no section {section!r}")
    return users


def _section(tokens: _Tokens, ours: bool) -> dict[str, str]:
    """What stands in the braces of a section; only that of this server is judged."""
    users: dict[str, str] = {}
    tokens.expect("{")
    while (module := tokens.expect("word", "quoted", "}")) != "}":
        if ours and module != DIGEST_LOGIN_MODULE:
            raise tokens.error(f"the login module {module!r} is not supported: only {DIGEST_LOGIN_MODULE} is")
        if tokens.expect("word").lower() not in _FLAGS:
            raise tokens.error(f"expected one of: {', '.join(_FLAGS)}")
        while (name := tokens.expect("word", "quoted", ";")) != ";":
            tokens.expect("=")
            value = tokens.expect("word", "quoted")
            if name.startswith(_USER):
                users[name.removeprefix(_USER)] = value
    tokens.expect(";")
    return users


# ---- the server's part


class Identified(Protocol):
    """What is needed of a client's connection."""

    @property
    def host(self) -> str: ...
    @property
    def session_id(self) -> int: ...
    def add_identity(self, scheme: str, who: str) -> None: ...


class SaslAuthenticator:
    """Decides the SASL requests of clients (``ZooKeeperServer.processSasl``).

    ``passwords``: by user; None if the server has no SASL. ``super_password`` replaces that of a user called
    ``super``; ``super_users``: who may do everything. ``keep_failed``: a client that fails stays connected.
    ``required``: clients must have the scheme sasl; those that fail are told so, and go.
    """

    def __init__(
        self,
        passwords: Mapping[str, str] | None,
        *,
        super_password: str | None = None,
        super_users: Collection[str] = (),
        keep_failed: bool = False,
        required: bool = False,
    ) -> None:
        self._passwords = None if passwords is None else dict(passwords)
        if self._passwords is not None and super_password is not None and "super" in self._passwords:
            self._passwords["super"] = super_password
        self._super_users = frozenset(super_users)
        self._keep_failed = keep_failed and not required
        self._error = Error.SESSION_CLOSED_REQUIRE_SASL_AUTH if required else Error.AUTH_FAILED

    def step(
        self, client: Identified, negotiation: DigestMd5 | None, token: bytes
    ) -> tuple[bytes | None, DigestMd5 | None, int]:
        """One token of a client: the answer, the negotiation to pass with its next token, the error code.

        Without SASL every token is answered by None, as ZooKeeper does. A client that succeeds gets its
        identity.
        """
        if self._passwords is None:
            return None, None, Error.OK
        if negotiation is None:
            negotiation = DigestMd5(self._passwords.get)
        try:
            answer = negotiation.step(token)
        except SaslFailed as error:
            logger.warning(
                "authentication failed address=%s session=0x%x scheme='sasl' reason=%s",
                client.host,
                client.session_id,
                error,
            )
            return None, negotiation, Error.OK if self._keep_failed else self._error
        if negotiation.user is not None:
            client.add_identity("sasl", negotiation.user)
            if negotiation.user in self._super_users:
                client.add_identity("super", "")
        return answer, negotiation, Error.OK


# ---- names in ACLs

_KERBEROS = re.compile(r"[^/@]*(?:/[^/@]*)?@[^/@]*")


def valid_name(text: str) -> bool:
    """Whether ``text`` can be the id of an ACL of the scheme sasl: a Kerberos principal or a plain name."""
    return "@" not in text or _KERBEROS.fullmatch(text) is not None
