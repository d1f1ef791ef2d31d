"""The records of ZooKeeper's client protocol and transaction log, as one table.

Each record is plain data: its name and its fields in the order in which they stand on the wire, as ZooKeeper
3.9 defines them in ``zookeeper.jute``. Records and fields keep the names they have there, so both can be
looked up in ZooKeeper's own sources. What turns them into bytes and back is :mod:`fastzk._codec`.

Left out are the records spoken between ZooKeeper's servers only, and those without an opcode
(``GetMaxChildrenRequest`` and its kin), which nobody sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from fastzk.protocol import OpCode


class Primitive(Enum):
    """The types of Jute that hold no other type."""

    INT = "int"  #: 32 bits, signed, big-endian
    LONG = "long"  #: 64 bits, signed, big-endian
    BOOLEAN = "boolean"  #: one byte
    USTRING = "ustring"  #: a length and UTF-8; length -1 is null
    BUFFER = "buffer"  #: a length and bytes; length -1 is null


@dataclass(frozen=True, slots=True)
class Vector:
    """A count (-1 is null) and that many elements.

    :param element: the type of each element. It must take at least one byte on the wire.
    :raises ValueError: for elements that take no byte; a count would then promise any number of them.
    """

    element: Type

    def __post_init__(self) -> None:
        if isinstance(self.element, Record) and (not self.element.fields or self.element.last_optional):
            raise ValueError(f"{self.element.name} cannot be the element of a vector")


class Field(NamedTuple):
    """One field of a record."""

    name: str
    type: Type


# eq=False: a record is equal to itself only, which makes it a cheap key for what is compiled from it.
@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """The schema of one record.

    :param name: its name in ``zookeeper.jute``.
    :param fields: its fields in wire order.
    :param last_optional: whether the sender may leave out the last field, which old clients do with
        ``readOnly``. Only for a field that has no null of its own.
    :raises ValueError: when a field's name occurs twice, or an optional field stands where the reader could
        not tell whether it is there, or a field is a record without fields.
    """

    name: str
    fields: tuple[Field, ...]
    last_optional: bool = False

    def __post_init__(self) -> None:
        if len({field.name for field in self.fields}) != len(self.fields):
            raise ValueError(f"{self.name} has two fields of the same name")
        for field in self.fields:
            if isinstance(field.type, Record) and (not field.type.fields or field.type.last_optional):
                raise ValueError(f"{field.type.name} cannot be a field of {self.name}")
        if self.last_optional and (not self.fields or self.fields[-1].type not in (INT, LONG, BOOLEAN)):
            raise ValueError(f"the last field of {self.name} cannot be optional")


Type: TypeAlias = Primitive | Vector | Record

INT: Final = Primitive.INT
LONG: Final = Primitive.LONG
BOOLEAN: Final = Primitive.BOOLEAN
USTRING: Final = Primitive.USTRING
BUFFER: Final = Primitive.BUFFER


def _record(record_name: str, /, **fields: Type) -> Record:
    return Record(record_name, tuple(Field(name, type_) for name, type_ in fields.items()))


#: Not one of Jute's: stands for requests and replies that are a header alone.
Empty: Final = _record("Empty")

# ---- data ----------------------------------------------------------------------------------------

Id: Final = _record("Id", scheme=USTRING, id=USTRING)
ACL: Final = _record("ACL", perms=INT, id=Id)
Stat: Final = _record(
    "Stat",
    czxid=LONG,
    mzxid=LONG,
    ctime=LONG,
    mtime=LONG,
    version=INT,
    cversion=INT,
    aversion=INT,
    ephemeralOwner=LONG,
    dataLength=INT,
    numChildren=INT,
    pzxid=LONG,
)
StatPersisted: Final = _record(
    "StatPersisted",
    czxid=LONG,
    mzxid=LONG,
    ctime=LONG,
    mtime=LONG,
    version=INT,
    cversion=INT,
    aversion=INT,
    ephemeralOwner=LONG,
    pzxid=LONG,
)
ClientInfo: Final = _record("ClientInfo", authScheme=USTRING, user=USTRING)

# ---- handshake and headers -----------------------------------------------------------------------

ConnectRequest: Final = Record(
    "ConnectRequest",
    (
        Field("protocolVersion", INT),
        Field("lastZxidSeen", LONG),
        Field("timeOut", INT),
        Field("sessionId", LONG),
        Field("passwd", BUFFER),
        Field("readOnly", BOOLEAN),
    ),
    last_optional=True,
)
ConnectResponse: Final = Record(
    "ConnectResponse",
    (
        Field("protocolVersion", INT),
        Field("timeOut", INT),
        Field("sessionId", LONG),
        Field("passwd", BUFFER),
        Field("readOnly", BOOLEAN),
    ),
    last_optional=True,
)
RequestHeader: Final = _record("RequestHeader", xid=INT, type=INT)
ReplyHeader: Final = _record("ReplyHeader", xid=INT, zxid=LONG, err=INT)
MultiHeader: Final = _record("MultiHeader", type=INT, done=BOOLEAN, err=INT)
WatcherEvent: Final = _record("WatcherEvent", type=INT, state=INT, path=USTRING)
ErrorResponse: Final = _record("ErrorResponse", err=INT)

# ---- authentication ------------------------------------------------------------------------------

AuthPacket: Final = _record("AuthPacket", type=INT, scheme=USTRING, auth=BUFFER)
GetSASLRequest: Final = _record("GetSASLRequest", token=BUFFER)
SetSASLRequest: Final = _record("SetSASLRequest", token=BUFFER)
SetSASLResponse: Final = _record("SetSASLResponse", token=BUFFER)
WhoAmIResponse: Final = _record("WhoAmIResponse", clientInfo=Vector(ClientInfo))

# ---- requests that change the tree ---------------------------------------------------------------

CreateRequest: Final = _record("CreateRequest", path=USTRING, data=BUFFER, acl=Vector(ACL), flags=INT)
CreateTTLRequest: Final = _record(
    "CreateTTLRequest", path=USTRING, data=BUFFER, acl=Vector(ACL), flags=INT, ttl=LONG
)
CreateResponse: Final = _record("CreateResponse", path=USTRING)
Create2Response: Final = _record("Create2Response", path=USTRING, stat=Stat)
DeleteRequest: Final = _record("DeleteRequest", path=USTRING, version=INT)
SetDataRequest: Final = _record("SetDataRequest", path=USTRING, data=BUFFER, version=INT)
SetDataResponse: Final = _record("SetDataResponse", stat=Stat)
SetACLRequest: Final = _record("SetACLRequest", path=USTRING, acl=Vector(ACL), version=INT)
SetACLResponse: Final = _record("SetACLResponse", stat=Stat)
CheckVersionRequest: Final = _record("CheckVersionRequest", path=USTRING, version=INT)
SyncRequest: Final = _record("SyncRequest", path=USTRING)
SyncResponse: Final = _record("SyncResponse", path=USTRING)
ReconfigRequest: Final = _record(
    "ReconfigRequest", joiningServers=USTRING, leavingServers=USTRING, newMembers=USTRING, curConfigId=LONG
)

# ---- requests that read the tree -----------------------------------------------------------------

ExistsRequest: Final = _record("ExistsRequest", path=USTRING, watch=BOOLEAN)
ExistsResponse: Final = _record("ExistsResponse", stat=Stat)
GetDataRequest: Final = _record("GetDataRequest", path=USTRING, watch=BOOLEAN)
GetDataResponse: Final = _record("GetDataResponse", data=BUFFER, stat=Stat)
GetACLRequest: Final = _record("GetACLRequest", path=USTRING)
GetACLResponse: Final = _record("GetACLResponse", acl=Vector(ACL), stat=Stat)
GetChildrenRequest: Final = _record("GetChildrenRequest", path=USTRING, watch=BOOLEAN)
GetChildrenResponse: Final = _record("GetChildrenResponse", children=Vector(USTRING))
GetChildren2Request: Final = _record("GetChildren2Request", path=USTRING, watch=BOOLEAN)
GetChildren2Response: Final = _record("GetChildren2Response", children=Vector(USTRING), stat=Stat)
GetAllChildrenNumberRequest: Final = _record("GetAllChildrenNumberRequest", path=USTRING)
GetAllChildrenNumberResponse: Final = _record("GetAllChildrenNumberResponse", totalNumber=INT)
GetEphemeralsRequest: Final = _record("GetEphemeralsRequest", prefixPath=USTRING)
GetEphemeralsResponse: Final = _record("GetEphemeralsResponse", ephemerals=Vector(USTRING))

# ---- extensions (docs/extensions.md) -------------------------------------------------------------

RemoveRecursiveRequest: Final = _record("RemoveRecursiveRequest", path=USTRING, limit=INT)
PagedListRequest: Final = _record("PagedListRequest", path=USTRING, after=USTRING, limit=INT, flags=INT)
PagedListResponse: Final = _record("PagedListResponse", children=Vector(USTRING), next=USTRING, stat=Stat)

# ---- watches -------------------------------------------------------------------------------------

SetWatches: Final = _record(
    "SetWatches",
    relativeZxid=LONG,
    dataWatches=Vector(USTRING),
    existWatches=Vector(USTRING),
    childWatches=Vector(USTRING),
)
SetWatches2: Final = _record(
    "SetWatches2",
    relativeZxid=LONG,
    dataWatches=Vector(USTRING),
    existWatches=Vector(USTRING),
    childWatches=Vector(USTRING),
    persistentWatches=Vector(USTRING),
    persistentRecursiveWatches=Vector(USTRING),
)
AddWatchRequest: Final = _record("AddWatchRequest", path=USTRING, mode=INT)
CheckWatchesRequest: Final = _record("CheckWatchesRequest", path=USTRING, type=INT)
RemoveWatchesRequest: Final = _record("RemoveWatchesRequest", path=USTRING, type=INT)

# ---- transaction log -----------------------------------------------------------------------------

FileHeader: Final = _record("FileHeader", magic=INT, version=INT, dbid=LONG)
TxnDigest: Final = _record("TxnDigest", version=INT, treeDigest=LONG)
TxnHeader: Final = _record("TxnHeader", clientId=LONG, cxid=INT, zxid=LONG, time=LONG, type=INT)
CreateTxnV0: Final = _record("CreateTxnV0", path=USTRING, data=BUFFER, acl=Vector(ACL), ephemeral=BOOLEAN)
CreateTxn: Final = _record(
    "CreateTxn", path=USTRING, data=BUFFER, acl=Vector(ACL), ephemeral=BOOLEAN, parentCVersion=INT
)
CreateTTLTxn: Final = _record(
    "CreateTTLTxn", path=USTRING, data=BUFFER, acl=Vector(ACL), parentCVersion=INT, ttl=LONG
)
CreateContainerTxn: Final = _record(
    "CreateContainerTxn", path=USTRING, data=BUFFER, acl=Vector(ACL), parentCVersion=INT
)
DeleteTxn: Final = _record("DeleteTxn", path=USTRING)
SetDataTxn: Final = _record("SetDataTxn", path=USTRING, data=BUFFER, version=INT)
CheckVersionTxn: Final = _record("CheckVersionTxn", path=USTRING, version=INT)
SetACLTxn: Final = _record("SetACLTxn", path=USTRING, acl=Vector(ACL), version=INT)
CreateSessionTxn: Final = _record("CreateSessionTxn", timeOut=INT)
CloseSessionTxn: Final = _record("CloseSessionTxn", paths2Delete=Vector(USTRING))
ErrorTxn: Final = _record("ErrorTxn", err=INT)
#: One operation of a multi: `data` holds the record that TXN_RECORDS names for `type`.
Txn: Final = _record("Txn", type=INT, data=BUFFER)
MultiTxn: Final = _record("MultiTxn", txns=Vector(Txn))

# ---- which record goes with which opcode ---------------------------------------------------------

#: Every record above, by its name.
RECORDS: Final[Mapping[str, Record]] = MappingProxyType(
    {value.name: value for value in list(globals().values()) if isinstance(value, Record)}
)

#: What follows a RequestHeader. Multis (see `fastzk._codec.encode_multi_request`) and deleteContainer, a bare
#: path that only servers send, have no record.
REQUEST_RECORDS: Final[Mapping[OpCode, Record]] = MappingProxyType(
    {
        OpCode.CREATE: CreateRequest,
        OpCode.CREATE2: CreateRequest,
        OpCode.CREATE_CONTAINER: CreateRequest,
        OpCode.CREATE_TTL: CreateTTLRequest,
        OpCode.DELETE: DeleteRequest,
        OpCode.EXISTS: ExistsRequest,
        OpCode.GET_DATA: GetDataRequest,
        OpCode.SET_DATA: SetDataRequest,
        OpCode.GET_ACL: GetACLRequest,
        OpCode.SET_ACL: SetACLRequest,
        OpCode.GET_CHILDREN: GetChildrenRequest,
        OpCode.GET_CHILDREN2: GetChildren2Request,
        OpCode.SYNC: SyncRequest,
        OpCode.CHECK: CheckVersionRequest,
        OpCode.PING: Empty,
        OpCode.RECONFIG: ReconfigRequest,
        OpCode.CHECK_WATCHES: CheckWatchesRequest,
        OpCode.REMOVE_WATCHES: RemoveWatchesRequest,
        OpCode.AUTH: AuthPacket,
        OpCode.SET_WATCHES: SetWatches,
        OpCode.SET_WATCHES2: SetWatches2,
        OpCode.SASL: GetSASLRequest,
        OpCode.GET_EPHEMERALS: GetEphemeralsRequest,
        OpCode.GET_ALL_CHILDREN_NUMBER: GetAllChildrenNumberRequest,
        OpCode.ADD_WATCH: AddWatchRequest,
        OpCode.WHO_AM_I: Empty,
        OpCode.CLOSE_SESSION: Empty,
    }
)

#: What follows a ReplyHeader whose err is 0; behind any other err there is nothing.
RESPONSE_RECORDS: Final[Mapping[OpCode, Record]] = MappingProxyType(
    {
        OpCode.NOTIFICATION: WatcherEvent,
        OpCode.CREATE: CreateResponse,
        OpCode.CREATE2: Create2Response,
        OpCode.CREATE_CONTAINER: Create2Response,
        OpCode.CREATE_TTL: Create2Response,
        OpCode.DELETE: Empty,
        OpCode.EXISTS: ExistsResponse,
        OpCode.GET_DATA: GetDataResponse,
        OpCode.SET_DATA: SetDataResponse,
        OpCode.GET_ACL: GetACLResponse,
        OpCode.SET_ACL: SetACLResponse,
        OpCode.GET_CHILDREN: GetChildrenResponse,
        OpCode.GET_CHILDREN2: GetChildren2Response,
        OpCode.SYNC: SyncResponse,
        OpCode.CHECK: Empty,
        OpCode.PING: Empty,
        OpCode.RECONFIG: GetDataResponse,
        OpCode.CHECK_WATCHES: Empty,
        OpCode.REMOVE_WATCHES: Empty,
        OpCode.AUTH: Empty,
        OpCode.SET_WATCHES: Empty,
        OpCode.SET_WATCHES2: Empty,
        OpCode.SASL: SetSASLResponse,
        OpCode.GET_EPHEMERALS: GetEphemeralsResponse,
        OpCode.GET_ALL_CHILDREN_NUMBER: GetAllChildrenNumberResponse,
        OpCode.ADD_WATCH: ErrorResponse,
        OpCode.WHO_AM_I: WhoAmIResponse,
        OpCode.CLOSE_SESSION: Empty,
    }
)

#: The operations a multi or multiRead may hold.
MULTI_REQUEST_RECORDS: Final[Mapping[OpCode, Record]] = MappingProxyType(
    {
        op: REQUEST_RECORDS[op]
        for op in (
            OpCode.CREATE,
            OpCode.CREATE2,
            OpCode.CREATE_CONTAINER,
            OpCode.CREATE_TTL,
            OpCode.DELETE,
            OpCode.SET_DATA,
            OpCode.CHECK,
            OpCode.GET_CHILDREN,
            OpCode.GET_DATA,
        )
    }
)

#: The results a multi or multiRead may hold. Containers and TTL nodes answer as create2, failures as error.
MULTI_RESPONSE_RECORDS: Final[Mapping[OpCode, Record]] = MappingProxyType(
    {
        OpCode.CREATE: CreateResponse,
        OpCode.CREATE2: Create2Response,
        OpCode.DELETE: Empty,
        OpCode.SET_DATA: SetDataResponse,
        OpCode.CHECK: Empty,
        OpCode.GET_CHILDREN: GetChildrenResponse,
        OpCode.GET_DATA: GetDataResponse,
        OpCode.ERROR: ErrorResponse,
    }
)

#: What follows a TxnHeader in the log, or stands in Txn.data (CHECK occurs only there).
TXN_RECORDS: Final[Mapping[OpCode, Record]] = MappingProxyType(
    {
        OpCode.CREATE: CreateTxn,
        OpCode.CREATE2: CreateTxn,
        OpCode.CREATE_CONTAINER: CreateContainerTxn,
        OpCode.CREATE_TTL: CreateTTLTxn,
        OpCode.DELETE: DeleteTxn,
        OpCode.DELETE_CONTAINER: DeleteTxn,
        OpCode.SET_DATA: SetDataTxn,
        OpCode.RECONFIG: SetDataTxn,
        OpCode.SET_ACL: SetACLTxn,
        OpCode.CHECK: CheckVersionTxn,
        OpCode.MULTI: MultiTxn,
        OpCode.ERROR: ErrorTxn,
        OpCode.CREATE_SESSION: CreateSessionTxn,
        OpCode.CLOSE_SESSION: CloseSessionTxn,
    }
)
