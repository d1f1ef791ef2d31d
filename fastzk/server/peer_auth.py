"""How two servers prove to each other who they are, before anything else is said on a connection.

    acceptor                                       dialer
    CHALLENGE: 32 random bytes             ->
                                           <-      HELLO: versions, both ids, 32 random bytes, proof
    WELCOME: the version chosen, proof     ->

Each proof is an HMAC-SHA256 over everything said so far, the sender's part in it and the name of the ensemble;
the key is the secret that all servers share. Both sides' random bytes are in it, so nothing that was recorded
helps later. The acceptor says nothing but its random bytes before it has verified the dialer's proof.

Without a secret the proofs are made with an empty key. They then prove nothing, and only find mistakes (wrong
server, wrong ensemble); who the dialer is has to be known by other means, which the caller's ``check`` is for:
its certificate, or its address.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

#: Versions of what is said on a link after the handshake; the handshake itself stays as it is for ever. 2: an Append
#: says whether it is urgent.
VERSIONS: Final = (2, 2)
#: A secret shorter than this could be guessed.
MIN_SECRET_BYTES: Final = 16

_NONCE_BYTES: Final = 32
_MAGIC: Final = b"fzkP"
_HELLO: Final = struct.Struct("<4sHHqq32s")  # magic, lowest and highest version, dialer, acceptor, random bytes
_WELCOME: Final = struct.Struct("<4sHHH")  # magic, the version chosen (0: there is none), lowest and highest
_PROOF_BYTES: Final = 32


class Refused(Exception):
    """The other side is not who it should be; ``str()`` of it says why, for this server's log only."""


class Wire(Protocol):
    """What the handshake needs of a connection."""

    async def receive(self) -> bytes: ...
    def send(self, buffers: tuple[bytes]) -> None: ...
    def flush(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who this server is.

    ``secret``: what all servers of the ensemble share, None for none. ``ensemble``: any name; servers with
    different ones do not talk to each other. ``versions``: lowest and highest that this server speaks.
    """

    my_id: int
    secret: bytes | None = field(default=None, repr=False)
    ensemble: str = ""
    versions: tuple[int, int] = VERSIONS

    def __post_init__(self) -> None:
        if self.secret is not None and len(self.secret) < MIN_SECRET_BYTES:
            raise ValueError(f"a secret of {len(self.secret)} bytes: it needs {MIN_SECRET_BYTES} at least")
        if not 1 <= self.versions[0] <= self.versions[1] <= 0xFFFF:
            raise ValueError(f"versions {self.versions[0]} to {self.versions[1]}")

    def proof(self, role: bytes, said: bytes) -> bytes:
        """The proof of one side (``role``), for all that was said before it."""
        return hmac.digest(self.secret or b"", b"fastzk peers: %s\0" % role + said + self.ensemble.encode(), "sha256")


class Proven(NamedTuple):
    """Who is on the other side, and the version of what is said from here on."""

    peer_id: int
    version: int


async def accept(wire: Wire, own: Credentials, check: Callable[[int], Awaitable[None]]) -> Proven:
    """The handshake on the side that was dialled.

    ``check`` raises Refused if the server with this id must not come by this connection. Raises Refused;
    ConnectionError if the connection ends.
    """
    challenge = secrets.token_bytes(_NONCE_BYTES)
    wire.send((challenge,))
    wire.flush()
    said = await wire.receive()
    if len(said) != _HELLO.size + _PROOF_BYTES or not said.startswith(_MAGIC):
        raise Refused("not a server's handshake")
    hello, proof = said[: _HELLO.size], said[_HELLO.size :]
    _, low, high, dialer, acceptor, _ = _HELLO.unpack(hello)
    if not hmac.compare_digest(proof, own.proof(b"dialer", challenge + hello)):
        raise Refused(f"it claims to be server {dialer}, but its secret or its ensemble is another one")
    if acceptor != own.my_id:
        raise Refused(f"server {dialer} looks for server {acceptor} here")
    await check(dialer)
    version = min(high, own.versions[1])
    if version < max(low, own.versions[0]):
        version = 0
    welcome = _WELCOME.pack(_MAGIC, version, *own.versions)
    wire.send((welcome + own.proof(b"acceptor", challenge + said + welcome),))
    wire.flush()
    if not version:
        raise Refused(_no_version(dialer, (low, high), own))
    return Proven(dialer, version)


async def dial(wire: Wire, own: Credentials, peer_id: int) -> Proven:
    """The handshake on the side that dialled server ``peer_id``. Raises as ``accept``."""
    challenge = await wire.receive()
    if len(challenge) != _NONCE_BYTES:
        raise Refused("not a server's handshake")
    hello = _HELLO.pack(_MAGIC, *own.versions, own.my_id, peer_id, secrets.token_bytes(_NONCE_BYTES))
    said = hello + own.proof(b"dialer", challenge + hello)
    wire.send((said,))
    wire.flush()
    answer = await wire.receive()
    if len(answer) != _WELCOME.size + _PROOF_BYTES or not answer.startswith(_MAGIC):
        raise Refused("not a server's handshake")
    welcome, proof = answer[: _WELCOME.size], answer[_WELCOME.size :]
    if not hmac.compare_digest(proof, own.proof(b"acceptor", challenge + said + welcome)):
        raise Refused(f"not server {peer_id}, or its secret or its ensemble is another one")
    _, version, low, high = _WELCOME.unpack(welcome)
    if not version:
        raise Refused(_no_version(peer_id, (low, high), own))
    if not own.versions[0] <= version <= own.versions[1]:
        raise Refused(f"server {peer_id} chose version {version}, which was not offered")
    return Proven(peer_id, version)


def _no_version(peer_id: int, theirs: tuple[int, int], own: Credentials) -> str:
    return (
        f"no common version: server {peer_id} speaks {theirs[0]} to {theirs[1]},"
        f" this server {own.versions[0]} to {own.versions[1]}"
    )


def certificate_names(certificate: Mapping[str, Any], host: str) -> bool:
    """Whether a certificate (in the form of ``SSLObject.getpeercert``) is for ``host``, a name or an address."""
    alternatives = certificate.get("subjectAltName", ())
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        names = [name for kind, name in alternatives if kind == "DNS"]
        if not alternatives:
            names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        return any(_name_matches(name, host) for name in names)
    for kind, name in alternatives:
        if kind == "IP Address":
            try:
                if ipaddress.ip_address(name.strip()) == address:
                    return True
            except ValueError:
                continue
    return False


def _name_matches(pattern: str, host: str) -> bool:
    """``*`` stands for a whole first label, and never for the one before a top level domain."""
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    first, _, rest = pattern.partition(".")
    if first == "*" and "." in rest:
        return host.partition(".")[2] == rest
    return pattern == host
