# ruff: noqa: PLR0917 -- kazoo's arguments have kazoo's order
"""Access control lists: who may do what with a znode.

A znode's ACL is a list of :class:`ACL`; each grants permissions to one identity. An identity is a scheme and an id
that this scheme understands: ``digest`` with ``user:hash``, ``ip`` with an address or network, ``world`` with
``anyone``, ``auth`` with nothing (whatever identities the session has when it creates the znode).
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final, NamedTuple

from fastzk.protocol import Perm


class Id(NamedTuple):
    """An identity."""

    scheme: str
    id: str


class ACL(NamedTuple):
    """Permissions for one identity."""

    perms: int
    id: Id

    @property
    def acl_list(self) -> list[str]:
        """The names of the permissions; ``["ALL"]`` for all of them."""
        if self.perms == Perm.ALL:
            return ["ALL"]
        single = (Perm.READ, Perm.WRITE, Perm.CREATE, Perm.DELETE, Perm.ADMIN)
        return [str(perm.name) for perm in single if self.perms & perm]


class Permissions:
    """The permissions by name, as plain numbers."""

    READ: Final = 1
    WRITE: Final = 2
    CREATE: Final = 4
    DELETE: Final = 8
    ADMIN: Final = 16
    ALL: Final = 31


ANYONE_ID_UNSAFE: Final = Id("world", "anyone")
AUTH_IDS: Final = Id("auth", "")

#: Everybody may do everything.
OPEN_ACL_UNSAFE: Final = [ACL(Permissions.ALL, ANYONE_ID_UNSAFE)]
#: Who created it may do everything, others nothing.
CREATOR_ALL_ACL: Final = [ACL(Permissions.ALL, AUTH_IDS)]
#: Everybody may read it.
READ_ACL_UNSAFE: Final = [ACL(Permissions.READ, ANYONE_ID_UNSAFE)]


def make_digest_acl_credential(username: str, password: str) -> str:
    """The id of the scheme ``digest``: the name, and a hash (SHA-1, Base64) of name and password.

    :param username: without a colon.
    :param password: in clear; it cannot be read back from the id.
    """
    hashed = hashlib.sha1(f"{username}:{password}".encode(), usedforsecurity=False).digest()
    return f"{username}:{base64.b64encode(hashed).decode()}"


def make_acl(
    scheme: str,
    credential: str,
    read: bool = False,
    write: bool = False,
    create: bool = False,
    delete: bool = False,
    admin: bool = False,
    all: bool = False,
) -> ACL:
    """An ACL entry from single permissions.

    :param scheme: as in :class:`Id`.
    :param credential: the id under that scheme; for ``digest`` see :func:`make_digest_acl_credential`.
    :param all: every permission, whatever the others say.
    """
    if all:
        return ACL(Permissions.ALL, Id(scheme, credential))
    perms = (
        (Permissions.READ if read else 0)
        | (Permissions.WRITE if write else 0)
        | (Permissions.CREATE if create else 0)
        | (Permissions.DELETE if delete else 0)
        | (Permissions.ADMIN if admin else 0)
    )
    return ACL(perms, Id(scheme, credential))


def make_digest_acl(
    username: str,
    password: str,
    read: bool = False,
    write: bool = False,
    create: bool = False,
    delete: bool = False,
    admin: bool = False,
    all: bool = False,
) -> ACL:
    """An ACL entry for a user with a password; the parameters are those of :func:`make_acl`."""
    credential = make_digest_acl_credential(username, password)
    return make_acl("digest", credential, read, write, create, delete, admin, all)
