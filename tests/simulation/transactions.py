"""Batches as the log keeps them: ZooKeeper's own transaction records, each behind its length."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fastzk._acl import OPEN_ACL
from fastzk._codec import encode
from fastzk.protocol import OpCode
from fastzk.records import ErrorTxn, SetDataTxn
from fastzk.server.zab.messages import Proposal
from fastzk.server.zab.quorum import Membership

CONFIG = b"/zookeeper/config"
_LENGTH = struct.Struct("<I")
_HEADER = struct.Struct(">qiqqi")
_SIZE = struct.Struct(">i")


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction as it is read back: the client's connection and the number of its request, and what it did.

    ``value`` is None if the znode was deleted, ``path`` is empty if nothing was changed.
    """

    session: int
    cxid: int
    zxid: int
    op: int
    path: bytes
    value: bytes | None


def opening(zxid: int) -> bytes:
    """The transaction that changes nothing."""
    return _framed(_HEADER.pack(0, 0, zxid, 0, OpCode.ERROR) + encode(ErrorTxn, (0,)))


def set_data(session: int, cxid: int, zxid: int, path: bytes, value: bytes, version: int) -> bytes:  # noqa: PLR0917
    """A znode's data is replaced; its new version is `version`."""
    return _framed(
        _HEADER.pack(session, cxid, zxid, zxid & 0xFFFF, OpCode.SET_DATA)
        + encode(SetDataTxn, (path.decode(), value, version))
    )


def create(session: int, cxid: int, zxid: int, path: bytes, value: bytes, cversion: int) -> bytes:  # noqa: PLR0917
    """A znode of the root's comes to be, as the root's `cversion`-th."""
    record = (
        _SIZE.pack(len(path)) + path + _SIZE.pack(len(value)) + value + OPEN_ACL + struct.pack(">?i", False, cversion)
    )
    return _framed(_HEADER.pack(session, cxid, zxid, zxid & 0xFFFF, OpCode.CREATE) + record)


def delete(session: int, cxid: int, zxid: int, path: bytes) -> bytes:
    """A znode goes."""
    return _framed(_HEADER.pack(session, cxid, zxid, zxid & 0xFFFF, OpCode.DELETE) + _SIZE.pack(len(path)) + path)


def _framed(transaction: bytes) -> bytes:
    return _LENGTH.pack(len(transaction)) + transaction


def changes(payload: bytes) -> list[Change]:
    """The transactions of a batch."""
    found = []
    at = 0
    while at < len(payload):
        (length,) = _LENGTH.unpack_from(payload, at)
        at += 4
        session, cxid, zxid, _, op = _HEADER.unpack_from(payload, at)
        record = at + _HEADER.size
        path, value = b"", None
        if op != OpCode.ERROR:
            path, record = _buffer(payload, record)
            if op != OpCode.DELETE:
                value, record = _buffer(payload, record)
        found.append(Change(session, cxid, zxid, op, path, value))
        at += length
    return found


def _buffer(payload: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _SIZE.unpack_from(payload, at)
    at += 4
    return payload[at : at + length], at + length


def inspect(proposal: Proposal) -> Membership | None:
    """The membership that a batch brings, if it does."""
    if CONFIG not in proposal.payload:
        return None
    (found,) = [each for each in changes(proposal.payload) if each.path == CONFIG]
    assert found.value is not None
    return Membership.parse(found.value.decode())
