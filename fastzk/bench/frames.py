"""The requests of a run, encoded once: the loop copies them and writes over what differs.

Paths have numbers of fixed width in them, so the length of a frame is known, and a key is some digits at a known place.
Below the root of the run are:

    k000..k999               the keys, as many digits as the largest has
    c000000/                 one znode for each connection that creates ...
    c000000/n0000000000      ... and what it created, numbered
    c000000/pair             what create-delete creates and deletes
    watched                  the znode of the watch mode
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fastzk._codec import encode, encode_frame, encode_multi_request
from fastzk.protocol import OpCode, Perm
from fastzk.records import REQUEST_RECORDS, RequestHeader

CONNECTION_DIGITS: Final = 6
NUMBER_DIGITS: Final = 10
_OPEN_ACL: Final = [{"perms": int(Perm.ALL), "id": {"scheme": "world", "id": "anyone"}}]


class Template(NamedTuple):
    """A frame with its length field; its xid, at offset 4, is written when it is sent.

    :param frame: the bytes.
    :param keys: where the digits of keys begin.
    :param connection: where the digits of the connection begin, or -1.
    :param number: where the digits of a running number begin, or -1.
    """

    frame: bytes
    keys: tuple[int, ...] = ()
    connection: int = -1
    number: int = -1


def key_digits(keys: int) -> int:
    """How many digits the largest of so many keys has."""
    return len(str(keys - 1))


def key_path(root: str, key: int, keys: int) -> str:
    """The path of a key."""
    return f"{root}/k{key:0{key_digits(keys)}d}"


def connection_path(root: str, connection: int) -> str:
    """The znode below which a connection creates others."""
    return f"{root}/c{connection:0{CONNECTION_DIGITS}d}"


def made_path(root: str, connection: int, number: int) -> str:
    """The path of a znode that a connection created."""
    return f"{connection_path(root, connection)}/n{number:0{NUMBER_DIGITS}d}"


def pair_path(root: str, connection: int) -> str:
    """The path of the znode that a connection creates and deletes in turn."""
    return f"{connection_path(root, connection)}/pair"


def watched_path(root: str) -> str:
    """The path of the znode of the watch mode."""
    return f"{root}/watched"


def _frame(opcode: OpCode, body: bytes) -> bytes:
    return encode_frame(encode(RequestHeader, {"xid": 0, "type": int(opcode)}), body)


def _request(opcode: OpCode, **values: object) -> bytes:
    return _frame(opcode, encode(REQUEST_RECORDS[opcode], values))


def _places(frame: bytes, path: str, back: int) -> tuple[int, ...]:
    # Where ``path`` is in the frame, less ``back`` bytes from its end. Data is all "x", so nothing else matches.
    sought = path.encode()
    found = []
    at = frame.find(sought)
    while at >= 0:
        found.append(at + len(sought) - back)
        at = frame.find(sought, at + 1)
    return tuple(found)


def templates(root: str, keys: int, value_size: int, multi_size: int) -> dict[str, Template]:
    """The frames of all operations, by name; ``create-delete`` has two, ``pair-create`` and ``pair-delete``.

    :param root: the path of the run's znode, as the server sees it.
    :param keys: how many there are.
    :param value_size: bytes of data.
    :param multi_size: setData in one multi.
    """
    value = b"x" * value_size
    key, digits = key_path(root, 0, keys), key_digits(keys)
    made, pair = made_path(root, 0, 0), pair_path(root, 0)

    def keyed(frame: bytes) -> Template:
        return Template(frame, _places(frame, key, digits))

    def numbered(frame: bytes) -> Template:
        (number,) = _places(frame, made, NUMBER_DIGITS)
        return Template(frame, connection=number - CONNECTION_DIGITS - len("/n"), number=number)

    def paired(frame: bytes) -> Template:
        (end,) = _places(frame, pair, 0)
        return Template(frame, connection=end - CONNECTION_DIGITS - len("/pair"))

    def create(path: str) -> bytes:
        return _request(OpCode.CREATE, path=path, data=value, acl=_OPEN_ACL, flags=0)

    multi = encode_multi_request([(OpCode.SET_DATA, {"path": key, "data": value, "version": -1})] * multi_size)
    return {
        "get": keyed(_request(OpCode.GET_DATA, path=key, watch=False)),
        "set": keyed(_request(OpCode.SET_DATA, path=key, data=value, version=-1)),
        "create": numbered(create(made)),
        "delete": numbered(_request(OpCode.DELETE, path=made, version=-1)),
        "pair-create": paired(create(pair)),
        "pair-delete": paired(_request(OpCode.DELETE, path=pair, version=-1)),
        "exists": keyed(_request(OpCode.EXISTS, path=key, watch=False)),
        "children": Template(_request(OpCode.GET_CHILDREN, path=root, watch=False)),
        "multi": keyed(_frame(OpCode.MULTI, multi)),
        "sync": Template(_request(OpCode.SYNC, path=root)),
        "watch": Template(_request(OpCode.GET_DATA, path=watched_path(root), watch=True)),
    }
