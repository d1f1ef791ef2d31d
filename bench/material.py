"""What the micro-benchmarks work on: records, trees and transactions, the same ones at every run."""

from __future__ import annotations

import random
from typing import Any, Final

from fastzk._codec import encode
from fastzk._log import Batch
from fastzk._tree import Tree
from fastzk.protocol import OpCode
from fastzk.records import BOOLEAN, BUFFER, INT, LONG, CreateTxn, Record, TxnHeader, Type, Vector

DATA: Final = b"x" * 128
#: Znodes below one parent in a tree of `grown`.
SIBLINGS: Final = 1000
#: Milliseconds since 1970, of every change.
NOW: Final = 1_700_000_000_000
_ACL: Final = [(31, ("world", "anyone"))]


def sample(kind: Type) -> Any:
    """A value for a type: small numbers, a path of 26 bytes, 128 bytes of data, three elements."""
    if isinstance(kind, Record):
        return [sample(field.type) for field in kind.fields]
    if isinstance(kind, Vector):
        return [sample(kind.element) for _ in range(3)]
    if kind is BOOLEAN:
        return True
    if kind is INT:
        return 7
    if kind is LONG:
        return NOW
    return DATA if kind is BUFFER else "/services/frontend/node-17"


def leaf(number: int) -> bytes:
    """The path of a leaf of a tree of `grown`."""
    return b"/parent-%d/k%d" % (number // SIBLINGS, number % SIBLINGS)


def grown(leaves: int) -> Tree:
    """A tree with so many znodes of 128 bytes, `SIBLINGS` below each parent."""
    tree = Tree()
    tree.plant()
    for parent in range(-(-leaves // SIBLINGS)):
        tree.create(b"/parent-%d" % parent, b"", zxid=1, time=NOW)
    for number in range(leaves):
        tree.create(leaf(number), DATA, zxid=number + 2, time=NOW)
    return tree


def family(children: int) -> Tree:
    """A tree with the znode ``/all``, and so many empty ones below it."""
    tree = Tree()
    tree.plant()
    tree.create(b"/all", b"", zxid=1, time=NOW)
    for number in range(children):
        tree.create(b"/all/member-%d" % number, b"", zxid=number + 2, time=NOW)
    return tree


def some(leaves: int, count: int) -> list[int]:
    """The numbers of ``count`` leaves, in no order, always the same."""
    return random.Random(17).choices(range(leaves), k=count)


def create_txn(zxid: int, path: str, version: int) -> bytes:
    """A transaction as it is logged; it creates the ``version``-th child of its parent, with 128 bytes."""
    return encode(TxnHeader, (1, zxid, zxid, NOW, int(OpCode.CREATE))) + encode(
        CreateTxn, (path, DATA, _ACL, False, version)
    )


def create_batches(count: int, size: int) -> list[Batch]:
    """The creation of ``count`` znodes, `SIBLINGS` below each parent, as batches of ``size`` transactions."""
    txns = []
    for number in range(count):
        parent, below = divmod(number, SIBLINGS)
        if below == 0:
            txns.append((f"/parent-{parent}", parent + 1))
        txns.append((leaf(number).decode(), below + 1))
    batches = []
    for at in range(0, len(txns), size):
        batch = Batch()
        for zxid, (path, version) in enumerate(txns[at : at + size], at + 1):
            batch.append(zxid, create_txn(zxid, path, version))
        batches.append(batch)
    return batches


def batch_of(count: int, first_zxid: int, record: bytes) -> Batch:
    """A batch with the same record so many times; what the log writes, it does not read."""
    batch = Batch()
    for zxid in range(first_zxid, first_zxid + count):
        batch.append(zxid, record)
    return batch


__all__ = [
    "DATA",
    "NOW",
    "SIBLINGS",
    "batch_of",
    "create_batches",
    "create_txn",
    "family",
    "grown",
    "leaf",
    "sample",
    "some",
]
