"""The codec against itself, against bytes of a real ZooKeeper, and against kazoo."""

import pickle
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kazoo.protocol import serialization as kz
from kazoo.security import ACL as KazooACL
from kazoo.security import Id as KazooId

from fastzk import records
from fastzk._codec import (
    CodecError,
    decode,
    decode_multi_request,
    decode_multi_response,
    encode,
    encode_frame,
    encode_multi_request,
    encode_multi_response,
)
from fastzk.protocol import OpCode
from fastzk.records import (
    BOOLEAN,
    BUFFER,
    INT,
    LONG,
    MULTI_REQUEST_RECORDS,
    MULTI_RESPONSE_RECORDS,
    RECORDS,
    TXN_RECORDS,
    USTRING,
    Field,
    Primitive,
    Record,
    Type,
    Vector,
)

# A test for each of some sixty records: fewer examples of each are still many.
FEW = settings(max_examples=25)
EVERY_RECORD = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())

PRIMITIVES: dict[Primitive, st.SearchStrategy[Any]] = {
    INT: st.integers(-(2**31), 2**31 - 1),
    LONG: st.integers(-(2**63), 2**63 - 1),
    BOOLEAN: st.booleans(),
    # all that UTF-8 can hold: no lone surrogates
    USTRING: st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    BUFFER: st.none() | st.binary(max_size=20),
}


def values_of_type(type_: Type) -> st.SearchStrategy[Any]:
    if isinstance(type_, Primitive):
        return PRIMITIVES[type_]
    if isinstance(type_, Vector):
        return st.none() | st.lists(values_of_type(type_.element), max_size=4)
    return values_of(type_)


@cache
def values_of(record: Record) -> st.SearchStrategy[dict[str, Any]]:
    fields = {field.name: values_of_type(field.type) for field in record.fields}
    if record.last_optional:
        fields[record.fields[-1].name] |= st.none()
    # hypothesis draws the fields in any order; in_order() needs that of the wire
    return st.fixed_dictionaries(fields).map(lambda drawn: {name: drawn[name] for name in fields})


def in_order(values: Any) -> Any:
    """The same values with every dict turned into a tuple."""
    if isinstance(values, dict):
        return tuple(in_order(value) for value in values.values())
    if isinstance(values, list):
        return tuple(in_order(value) for value in values)
    return values


# ---- round trips, and what is not a record ---------------------------------------------------------


@EVERY_RECORD
@FEW
@given(data=st.data())
def test_round_trip(record: Record, data: st.DataObject) -> None:
    values = data.draw(values_of(record))
    encoded = encode(record, values)
    assert decode(record, encoded) == (values, len(encoded))
    assert encode(record, in_order(values)) == encoded
    assert encode(record, MappingProxyType(values)) == encoded
    if not record.last_optional:
        assert decode(record, memoryview(b"???" + encoded + b"..."), 3) == (values, 3 + len(encoded))


@EVERY_RECORD
@FEW
@given(data=st.data())
def test_every_truncation_is_reported(record: Record, data: st.DataObject) -> None:
    values = data.draw(values_of(record))
    if record.last_optional:
        values["readOnly"] = None  # test_optional_read_only tells what a cut just before it means
    encoded = encode(record, values)
    for size in range(len(encoded)):
        with pytest.raises(CodecError) as caught:
            decode(record, encoded[:size])
        assert caught.value.record == record.name
        assert caught.value.field.split(".")[0].split("[")[0] in {field.name for field in record.fields}
        assert 0 <= caught.value.offset <= size


@EVERY_RECORD
@FEW
@given(data=st.binary(max_size=120), offset=st.integers(-3, 130))
def test_arbitrary_bytes(record: Record, data: bytes, offset: int) -> None:
    try:
        values, end = decode(record, data, offset)
    except CodecError:
        return
    assert offset <= end <= len(data)
    # What was read can be written, and reads the same. The bytes may differ: booleans, bad UTF-8.
    again = encode(record, values)
    assert decode(record, again) == (values, len(again))


@EVERY_RECORD
@FEW
@given(data=st.data())
def test_flipped_bits(record: Record, data: st.DataObject) -> None:
    encoded = bytearray(encode(record, data.draw(values_of(record))))
    if not encoded:
        return
    for place in data.draw(st.lists(st.integers(0, 8 * len(encoded) - 1), min_size=1, max_size=4)):
        encoded[place // 8] ^= 1 << place % 8
    try:
        _, end = decode(record, encoded)
    except CodecError as error:
        end = error.offset
    assert 0 <= end <= len(encoded)


@given(data=st.binary(max_size=200), offset=st.integers(-3, 210))
@pytest.mark.parametrize("decoder", [decode_multi_request, decode_multi_response])
def test_arbitrary_bytes_as_multi(decoder: Callable[[bytes, int], Any], data: bytes, offset: int) -> None:
    try:
        _, end = decoder(data, offset)
    except CodecError:
        return
    assert offset + 9 <= end <= len(data)


def test_huge_counts_and_lengths_allocate_nothing() -> None:
    frames = {
        "dataWatches": (records.SetWatches, bytes(8) + b"\x7f\xff\xff\xff" + bytes(64)),
        "acl": (records.GetACLResponse, b"\x7f\xff\xff\xff" + bytes(64)),
        "data": (records.GetDataResponse, b"\x7f\xff\xff\xff" + bytes(64)),
        "path": (records.SyncRequest, b"\x7f\xff\xff\xff" + bytes(64)),
    }
    tracemalloc.start()
    try:
        for field, (record, frame) in frames.items():
            with pytest.raises(CodecError, match="2147483647") as caught:
                decode(record, frame)
            assert caught.value.field == field
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("record", "data", "values"),
    [
        pytest.param(records.SyncRequest, "ffffffff", {"path": None}, id="null string"),
        pytest.param(records.SyncRequest, "00000000", {"path": ""}, id="empty string"),
        pytest.param(records.SyncRequest, "0000000461ff62c3", {"path": "a\ufffdb\ufffd"}, id="not UTF-8"),
        # Java's encoder writes U+1F600 as two surrogates of three bytes each; neither is UTF-8
        pytest.param(records.SyncRequest, "00000006eda0bdedb880", {"path": "\ufffd" * 6}, id="surrogates"),
        pytest.param(records.GetSASLRequest, "ffffffff", {"token": None}, id="null buffer"),
        pytest.param(records.GetSASLRequest, "00000000", {"token": b""}, id="empty buffer"),
        pytest.param(records.CloseSessionTxn, "ffffffff", {"paths2Delete": None}, id="null vector"),
        pytest.param(records.CloseSessionTxn, "fffffffe", {"paths2Delete": []}, id="negative count"),
        pytest.param(records.CloseSessionTxn, "80000000", {"paths2Delete": []}, id="most negative count"),
        pytest.param(records.ExistsRequest, "0000000061", None, id="any byte is true"),
    ],
)
def test_edges_of_decoding(record: Record, data: str, values: dict[str, Any] | None) -> None:
    encoded = bytes.fromhex(data)
    expected = {"path": "", "watch": True} if values is None else values
    assert decode(record, encoded) == (expected, len(encoded))


@pytest.mark.parametrize("length", ["fffffffe", "80000000", "00000001"])
@pytest.mark.parametrize("record", [records.SyncRequest, records.GetSASLRequest], ids=["ustring", "buffer"])
def test_impossible_lengths(record: Record, length: str) -> None:
    with pytest.raises(CodecError, match="length"):
        decode(record, bytes.fromhex(length))


def test_error_says_where() -> None:
    acl = [(31, ("world", "anyone")), (1, ("digest", "user:hash"))]
    encoded = encode(records.CreateRequest, ("/a", b"", acl, 0))
    # cut inside the last string
    with pytest.raises(CodecError) as caught:
        decode(records.CreateRequest, encoded[:-8])
    error = caught.value
    assert (error.record, error.field) == ("CreateRequest", "acl[1].id.id")
    assert error.offset == len(encoded) - 4 - len("user:hash") - 4
    assert str(error) == (f"CreateRequest.acl[1].id.id at offset {error.offset}: length 9, but 5 bytes left")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.field, copy.offset) == (str(error), error.field, error.offset)


def test_optional_read_only() -> None:
    with_it = encode(records.ConnectRequest, (0, 5, 10_000, 7, b"p" * 16, True))
    without = encode(records.ConnectRequest, (0, 5, 10_000, 7, b"p" * 16))
    assert with_it == without + b"\x01"
    values, end = decode(records.ConnectRequest, without)
    assert values["readOnly"] is None
    assert end == len(without) == 44
    assert encode(records.ConnectRequest, values) == without
    del values["readOnly"]
    assert encode(records.ConnectRequest, values) == without
    assert decode(records.ConnectRequest, with_it)[0]["readOnly"] is True


@pytest.mark.parametrize(
    ("record", "values", "field", "message"),
    [
        (records.Id, {"scheme": "world"}, "id", "missing"),
        (records.Id, {"scheme": "world", "id": "", "more": 1}, "", "no such field: 'more'"),
        (records.Id, ("world",), "", "2 values needed, 1 given"),
        (records.Id, ("world", "", ""), "", "2 values needed, 3 given"),
        (records.Id, "ab", "", "a mapping or a sequence is needed, not str"),
        (records.Id, None, "", "a mapping or a sequence is needed, not NoneType"),
        (records.Id, ("world", b""), "id", "a str or None is needed, not bytes"),
        (records.Id, ("world", "\ud800"), "id", "surrogates not allowed"),
        (records.ACL, (2**31, ("", "")), "perms", "does not fit"),
        (records.ACL, (-(2**31) - 1, ("", "")), "perms", "does not fit"),
        (records.ACL, (2**70, ("", "")), "perms", "does not fit"),
        (records.ACL, (None, ("", "")), "perms", "an int is needed, not NoneType"),
        (records.ACL, (1.0, ("", "")), "perms", "an int is needed, not float"),
        (records.ACL, (1, None), "id", "a mapping or a sequence is needed"),
        (records.ACL, (1, ("", 1)), "id.id", "a str or None is needed, not int"),
        (records.FileHeader, (0, 0, 2**63), "dbid", "does not fit"),
        (records.ExistsRequest, ("/", 1), "watch", "a bool is needed, not int"),
        (records.GetSASLRequest, ("text",), "token", "a bytes-like object or None is needed, not str"),
        (records.GetSASLRequest, (memoryview(b"abcd")[::2],), "token", "a bytes-like object"),
        (records.CloseSessionTxn, ("abc",), "paths2Delete", "a sequence or None is needed, not str"),
        (records.CloseSessionTxn, (["/a", 7],), "paths2Delete[1]", "a str or None is needed"),
        (records.MultiTxn, ([(1, b""), (1, 2)],), "txns[1].data", "a bytes-like object"),
        (records.GetDataResponse, (b"", {"czxid": 1}), "stat.mzxid", "missing"),
    ],
)
def test_values_that_do_not_fit(record: Record, values: Any, field: str, message: str) -> None:
    with pytest.raises(CodecError, match=message) as caught:
        encode(record, values)
    assert (caught.value.record, caught.value.field) == (record.name, field)


def test_values_of_other_kinds() -> None:
    acl = [OrderedDict(perms=OpCode.CREATE, id=["world", "anyone"])]
    plain = encode(records.SetACLRequest, ("/", [(1, ("world", "anyone"))], 3))
    assert encode(records.SetACLRequest, {"path": "/", "acl": acl, "version": 3}) == plain
    for buffer in (b"xyz", bytearray(b"xyz"), memoryview(b"xyz")):
        assert encode(records.GetSASLRequest, (buffer,)) == b"\0\0\0\3xyz"


def test_values_that_change_while_they_are_written() -> None:
    class Clearing(Mapping[str, Any]):
        """Empties the list it stands in as soon as it is read."""

        def __getitem__(self, key: str) -> Any:
            entries.clear()
            return {"perms": 1, "id": ("world", "anyone")}[key]

        def __iter__(self) -> Any:
            return iter(("perms", "id"))

        def __len__(self) -> int:
            return 2

    entries: list[Any] = [Clearing(), (2, ("ip", "127.0.0.1"))]
    encoded = encode(records.SetACLRequest, ("/", entries, 0))
    assert entries == []
    assert [entry["perms"] for entry in decode(records.SetACLRequest, encoded)[0]["acl"]] == [1, 2]


def test_only_records_are_schemas() -> None:
    for wrong in (None, "CreateRequest", ("path", USTRING)):
        with pytest.raises(TypeError):
            encode(wrong, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        decode(records.Id, "text")  # type: ignore[arg-type]


def test_schemas_are_validated() -> None:
    optional = Record("Optional", (Field("a", INT),), last_optional=True)
    for wrong in (
        lambda: Vector(records.Empty),
        lambda: Vector(optional),
        lambda: Record("R", (Field("a", optional), Field("b", INT))),
        lambda: Record("R", (Field("a", records.Empty),)),
        lambda: Record("R", (Field("a", INT), Field("a", INT))),
        lambda: Record("R", (Field("a", USTRING),), last_optional=True),
    ):
        with pytest.raises(ValueError, match=r"R|Empty|Optional"):
            wrong()
    deep: Type = INT
    for _ in range(8):
        deep = Vector(deep)
    with pytest.raises(ValueError, match="deep"):
        encode(Record("Deep", (Field("a", deep),)), ([],))
    wide = Record("Wide", tuple(Field(f"f{i}", INT) for i in range(33)))
    with pytest.raises(ValueError, match="too many fields"):
        encode(wide, range(33))


def test_vectors_of_vectors() -> None:
    matrix = Record("Matrix", (Field("rows", Vector(Vector(INT))), Field("end", BOOLEAN)))
    values = {"rows": [[1, 2], [], None, [3]], "end": True}
    encoded = encode(matrix, values)
    assert decode(matrix, encoded) == (values, len(encoded))
    with pytest.raises(CodecError) as caught:
        encode(matrix, ([[1], [2, "x"]], True))
    assert caught.value.field == "rows[1][1]"


@given(st.lists(st.binary(max_size=30), max_size=5))
@example([])
@example([b"abc"])
def test_encode_frame(parts: list[bytes]) -> None:
    body = b"".join(parts)
    assert encode_frame(*parts) == len(body).to_bytes(4, "big") + body
    assert encode_frame(*[memoryview(part) for part in parts]) == len(body).to_bytes(4, "big") + body


# ---- multi ------------------------------------------------------------------------------------------


def multi_of(table: Mapping[OpCode, Record]) -> st.SearchStrategy[list[tuple[int, dict[str, Any]]]]:
    kinds = [st.tuples(st.just(int(op)), values_of(record)) for op, record in table.items()]
    return st.lists(st.one_of(kinds), max_size=5)


@given(multi_of(MULTI_REQUEST_RECORDS))
def test_multi_request_round_trip(ops: list[tuple[int, dict[str, Any]]]) -> None:
    encoded = encode_multi_request(ops)
    assert decode_multi_request(encoded) == (ops, len(encoded))
    assert decode_multi_request(b"??" + encoded + b".", 2) == (ops, 2 + len(encoded))
    for size in range(len(encoded)):
        with pytest.raises(CodecError):
            decode_multi_request(encoded[:size])


@given(multi_of(MULTI_RESPONSE_RECORDS))
def test_multi_response_round_trip(results: list[tuple[int, dict[str, Any]]]) -> None:
    encoded = encode_multi_response(results)
    assert decode_multi_response(encoded) == (results, len(encoded))
    for size in range(len(encoded)):
        with pytest.raises(CodecError):
            decode_multi_response(encoded[:size])


def test_multi_refuses_other_operations() -> None:
    with pytest.raises(CodecError, match="type 9 does not belong into a multi's request"):
        encode_multi_request([(OpCode.SYNC, ("/",))])
    with pytest.raises(CodecError, match="type 19 does not belong into a multi's response"):
        encode_multi_response([(OpCode.CREATE_CONTAINER, ("/",))])
    good = encode(records.MultiHeader, (2, False, -1)) + encode(records.DeleteRequest, ("/a", 1))
    with pytest.raises(CodecError) as caught:
        decode_multi_request(good + encode(records.MultiHeader, (9, False, -1)))
    assert (caught.value.record, caught.value.field, caught.value.offset) == (
        "MultiHeader",
        "type",
        len(good),
    )


# ---- bytes of Apache ZooKeeper 3.8.0 ----------------------------------------------------------------

WORLD = {"perms": 31, "id": {"scheme": "world", "id": "anyone"}}
SESSION = 0x1000020006C0000
STAT_OF_A = {
    "czxid": 2,
    "mzxid": 6,
    "ctime": 1795362890494,
    "mtime": 1795362890527,
    "version": 1,
    "cversion": 0,
    "aversion": 1,
    "ephemeralOwner": 0,
    "dataLength": 3,
    "numChildren": 0,
    "pzxid": 2,
}
STAT_OF_A_HEX = (
    "0000000000000002 0000000000000006 000001a203f7a2fe 000001a203f7a31f"
    "00000001 00000000 00000001 0000000000000000 00000003 00000000 0000000000000002"
)
REAL_REPLIES = [
    (
        records.ConnectResponse,
        "00000000 00002710 01000020006c0000 00000010762bef82cbb63ed2440213128c57736a 00",
        {
            "protocolVersion": 0,
            "timeOut": 10000,
            "sessionId": SESSION,
            "passwd": bytes.fromhex("762bef82cbb63ed2440213128c57736a"),
            "readOnly": False,
        },
    ),
    (records.ReplyHeader, "0000000b 0000000000000006 ffffff9b", {"xid": 11, "zxid": 6, "err": -101}),
    (records.ReplyHeader, "fffffffe 0000000000000007 00000000", {"xid": -2, "zxid": 7, "err": 0}),
    (records.WatcherEvent, "00000003 00000003 00000002 2f61", {"type": 3, "state": 3, "path": "/a"}),
    (
        records.WhoAmIResponse,
        "00000002 00000002 6970 00000009 3132372e302e302e31 00000006 646967657374 00000001 75",
        {
            "clientInfo": [
                {"authScheme": "ip", "user": "127.0.0.1"},
                {"authScheme": "digest", "user": "u"},
            ]
        },
    ),
    (records.GetDataResponse, "00000003 627965" + STAT_OF_A_HEX, {"data": b"bye", "stat": STAT_OF_A}),
    (
        records.GetACLResponse,
        "00000002 0000001f 00000005 776f726c64 00000006 616e796f6e65"
        "00000001 00000006 646967657374 00000003 753a78" + STAT_OF_A_HEX,
        {"acl": [WORLD, {"perms": 1, "id": {"scheme": "digest", "id": "u:x"}}], "stat": STAT_OF_A},
    ),
    (
        records.GetChildrenResponse,
        "00000003 00000001 61 00000001 62 00000009 7a6f6f6b6565706572",
        {"children": ["a", "b", "zookeeper"]},
    ),
    (records.GetAllChildrenNumberResponse, "00000007", {"totalNumber": 7}),
    (records.GetEphemeralsResponse, "00000001 00000002 2f62", {"ephemerals": ["/b"]}),
    (
        records.FileHeader,
        "5a4b4c47 00000002 0000000000000000",
        {"magic": 0x5A4B4C47, "version": 2, "dbid": 0},
    ),
]


@pytest.mark.parametrize(
    ("record", "data", "values"), [pytest.param(*reply, id=reply[0].name) for reply in REAL_REPLIES]
)
def test_bytes_of_a_real_server(record: Record, data: str, values: dict[str, Any]) -> None:
    encoded = bytes.fromhex(data)
    assert decode(record, encoded) == (values, len(encoded))
    assert encode(record, values) == encoded


ACL_HEX = "00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65"
REAL_TXNS = [
    (
        "01000020006c0000 00000000 0000000000000001 000001a203f7a2dc fffffff6"
        "00002710 00000002 0000000051c6d660",
        (0, 1, OpCode.CREATE_SESSION),
        {"timeOut": 10000},
    ),
    (
        "01000020006c0000 00000004 0000000000000002 000001a203f7a2fe 00000001"
        "00000002 2f61 00000005 68656c6c6f" + ACL_HEX + "00 00000001 00000002 000000007bc0ab4c",
        (4, 2, OpCode.CREATE),
        {"path": "/a", "data": b"hello", "acl": [WORLD], "ephemeral": False, "parentCVersion": 1},
    ),
    (
        "01000020006c0000 00000005 0000000000000003 000001a203f7a30d 0000000f"
        "00000002 2f62 ffffffff" + ACL_HEX + "01 00000002 00000002 000000015cf5d276",
        (5, 3, OpCode.CREATE2),
        {"path": "/b", "data": None, "acl": [WORLD], "ephemeral": True, "parentCVersion": 2},
    ),
    (
        "01000020006c0000 00000006 0000000000000004 000001a203f7a310 00000013"
        "00000005 2f636f6e74 00000000" + ACL_HEX + "00000003 00000002 000000026aa6bbd7",
        (6, 4, OpCode.CREATE_CONTAINER),
        {"path": "/cont", "data": b"", "acl": [WORLD], "parentCVersion": 3},
    ),
    (
        "01000020006c0000 00000007 0000000000000005 000001a203f7a31b 00000015"
        "00000004 2f74746c 00000000" + ACL_HEX + "00000004 00000000000f4240 00000002 000000020d9730bc",
        (7, 5, OpCode.CREATE_TTL),
        {"path": "/ttl", "data": b"", "acl": [WORLD], "parentCVersion": 4, "ttl": 1_000_000},
    ),
    (
        "01000020006c0000 00000008 0000000000000006 000001a203f7a31f 00000005"
        "00000002 2f61 00000003 627965 00000001 00000002 0000000253ae5fca",
        (8, 6, OpCode.SET_DATA),
        {"path": "/a", "data": b"bye", "version": 1},
    ),
    (
        "01000020006c0000 0000000c 0000000000000007 000001a203f7a329 00000007"
        "00000002 2f61" + ACL_HEX + "00000001 00000002 0000000249154c0d",
        (12, 7, OpCode.SET_ACL),
        {"path": "/a", "acl": [WORLD], "version": 1},
    ),
    (
        "01000020006c0000 00000019 0000000000000009 000001a203f7a366 0000000e"
        "00000003 0000000d 0000000a 00000002 2f61 00000002 ffffffff 00000004 ffffff9b"
        "ffffffff 00000004 fffffffe 00000002 0000000455098cd0",
        (25, 9, OpCode.MULTI),
        {
            "txns": [
                {"type": 13, "data": b"\0\0\0\2/a\0\0\0\2"},
                {"type": -1, "data": b"\xff\xff\xff\x9b"},
                {"type": -1, "data": b"\xff\xff\xff\xfe"},
            ]
        },
    ),
    (
        "01000020006c0000 0000001b 000000000000000a 000001a203f7a36b 00000002"
        "00000002 2f61 00000002 00000003c40374c6",
        (27, 10, OpCode.DELETE),
        {"path": "/a"},
    ),
]


@pytest.mark.parametrize(
    ("data", "header", "values"), [pytest.param(*txn, id=txn[1][2].name) for txn in REAL_TXNS]
)
def test_log_entries_of_a_real_server(
    data: str, header: tuple[int, int, OpCode], values: dict[str, Any]
) -> None:
    encoded = bytes.fromhex(data)
    found, offset = decode(records.TxnHeader, encoded)
    assert (found["clientId"], found["cxid"], found["zxid"], found["type"]) == (SESSION, *header)
    txn, offset = decode(TXN_RECORDS[header[2]], encoded, offset)
    assert txn == values
    digest, offset = decode(records.TxnDigest, encoded, offset)
    assert digest["version"] == 2
    assert offset == len(encoded)
    again = (
        encode(records.TxnHeader, found),
        encode(TXN_RECORDS[header[2]], txn),
        encode(records.TxnDigest, digest),
    )
    assert b"".join(again) == encoded


def test_multi_of_a_real_server() -> None:
    failed = bytes.fromhex(
        "ffffffff 00 00000000 00000000 ffffffff 00 ffffff9b ffffff9b"
        "ffffffff 00 fffffffe fffffffe ffffffff 01 ffffffff"
    )
    results: list[tuple[int, dict[str, Any]]] = [(-1, {"err": 0}), (-1, {"err": -101}), (-1, {"err": -2})]
    assert decode_multi_response(failed) == (results, len(failed))
    assert encode_multi_response(results) == failed
    done = bytes.fromhex(
        "00000001 00 00000000 00000002 2f6d 00000005 00 00000000"
        + STAT_OF_A_HEX
        + "0000000d 00 00000000 00000002 00 00000000 ffffffff 01 ffffffff"
    )
    results = [(1, {"path": "/m"}), (5, {"stat": STAT_OF_A}), (13, {}), (2, {})]
    assert decode_multi_response(done) == (results, len(done))
    assert encode_multi_response(results) == done


# ---- kazoo says the same ----------------------------------------------------------------------------

# kazoo writes "" as null, and no request needs an empty path
kazoo_path = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
kazoo_data = st.none() | st.binary(max_size=20)
kazoo_acls = st.lists(
    st.builds(KazooACL, PRIMITIVES[INT], st.builds(KazooId, kazoo_path, kazoo_path)), max_size=3
)
version = PRIMITIVES[INT]
#: opcode: kazoo's class of the request, and what it is built from
KAZOO_REQUESTS: dict[OpCode, tuple[Any, tuple[st.SearchStrategy[Any], ...]]] = {
    OpCode.CREATE: (kz.Create, (kazoo_path, kazoo_data, kazoo_acls, version)),
    OpCode.CREATE2: (kz.Create2, (kazoo_path, kazoo_data, kazoo_acls, version)),
    OpCode.DELETE: (kz.Delete, (kazoo_path, version)),
    OpCode.EXISTS: (kz.Exists, (kazoo_path, st.booleans())),
    OpCode.GET_DATA: (kz.GetData, (kazoo_path, st.booleans())),
    OpCode.SET_DATA: (kz.SetData, (kazoo_path, kazoo_data, version)),
    OpCode.GET_ACL: (kz.GetACL, (kazoo_path,)),
    OpCode.SET_ACL: (kz.SetACL, (kazoo_path, kazoo_acls, version)),
    OpCode.GET_CHILDREN: (kz.GetChildren, (kazoo_path, st.booleans())),
    OpCode.GET_CHILDREN2: (kz.GetChildren2, (kazoo_path, st.booleans())),
    OpCode.SYNC: (kz.Sync, (kazoo_path,)),
    OpCode.CHECK: (kz.CheckVersion, (kazoo_path, version)),
    OpCode.RECONFIG: (kz.Reconfig, (kazoo_path, kazoo_path, kazoo_path, PRIMITIVES[LONG])),
    OpCode.SASL: (kz.SASL, (kazoo_data,)),
}


@pytest.mark.parametrize("op", KAZOO_REQUESTS, ids=lambda op: op.name)
@given(data=st.data())
def test_requests_as_kazoo_writes_them(op: OpCode, data: st.DataObject) -> None:
    cls, parts = KAZOO_REQUESTS[op]
    request = cls(*(data.draw(part) for part in parts))
    assert cls.type == op
    # kazoo's requests, ACLs and Ids are named tuples with the fields in wire order
    assert encode(records.REQUEST_RECORDS[op], request) == bytes(request.serialize())


@given(st.tuples(version, PRIMITIVES[LONG], version, PRIMITIVES[LONG], kazoo_data, st.booleans()))
def test_connect_as_kazoo_writes_it(fields: tuple[Any, ...]) -> None:
    assert encode(records.ConnectRequest, fields) == bytes(kz.Connect(*fields).serialize())


@given(version, kazoo_path, kazoo_path)
def test_auth_as_kazoo_writes_it(kind: int, scheme: str, auth: str) -> None:
    assert (
        encode(records.AuthPacket, (kind, scheme, auth.encode())) == kz.Auth(kind, scheme, auth).serialize()
    )


@given(st.data())
def test_multi_as_kazoo_writes_it(data: st.DataObject) -> None:
    ops = [OpCode.CREATE, OpCode.DELETE, OpCode.SET_DATA, OpCode.CHECK]
    chosen = [
        KAZOO_REQUESTS[op][0](*(data.draw(part) for part in KAZOO_REQUESTS[op][1]))
        for op in data.draw(st.lists(st.sampled_from(ops), max_size=5))
    ]
    expected = bytes(kz.Transaction(chosen).serialize())
    assert encode_multi_request([(request.type, request) for request in chosen]) == expected


def kazoo_value(value: Any) -> Any:
    """A decoded value in the form kazoo gives it."""
    if isinstance(value, dict) and "perms" in value:
        return KazooACL(value["perms"], KazooId(*value["id"].values()))
    if isinstance(value, dict):
        return tuple(value.values())
    if isinstance(value, list):
        return [kazoo_value(element) for element in value]
    return value


@pytest.mark.parametrize(
    "op", [op for op in KAZOO_REQUESTS if op not in (OpCode.DELETE, OpCode.CHECK)], ids=lambda op: op.name
)
@given(data=st.data())
def test_responses_as_kazoo_reads_them(op: OpCode, data: st.DataObject) -> None:
    record = records.RESPONSE_RECORDS[op]
    values = data.draw(values_of(record))
    lists = [field.name for field in record.fields if isinstance(field.type, Vector)]
    if any(values[name] is None for name in lists):
        return  # kazoo takes a null list for the end of the reply
    encoded = encode(record, values)
    read = KAZOO_REQUESTS[op][0].deserialize(encoded, 0)
    if op == OpCode.CREATE2:
        # kazoo reads the stat from behind the path
        assert tuple(read) == (values["path"], tuple(values["stat"].values()))
    elif op == OpCode.SASL:
        assert read == (values["token"], len(encoded))
    elif op == OpCode.EXISTS and values["stat"]["czxid"] == -1:
        assert read is None
    elif len(record.fields) == 1:
        assert read == kazoo_value(next(iter(values.values())))
    else:
        assert tuple(read) == tuple(kazoo_value(value) for value in values.values())


@given(values_of(records.ReplyHeader), values_of(records.WatcherEvent), values_of(records.ConnectResponse))
def test_headers_as_kazoo_reads_them(
    header: dict[str, Any], event: dict[str, Any], connected: dict[str, Any]
) -> None:
    encoded = encode(records.ReplyHeader, header)
    assert kz.ReplyHeader.deserialize(encoded, 0) == (tuple(header.values()), len(encoded))
    encoded = encode(records.WatcherEvent, event)
    assert kz.Watch.deserialize(encoded, 0) == (tuple(event.values()), len(encoded))
    encoded = encode(records.ConnectResponse, connected)
    read, end = kz.Connect.deserialize(encoded, 0)
    assert end == len(encoded)
    assert (read.time_out, read.session_id, read.passwd) == (
        connected["timeOut"],
        connected["sessionId"],
        connected["passwd"],
    )
    assert read.read_only == bool(connected["readOnly"])
