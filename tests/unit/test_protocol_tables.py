"""The tables of numbers and of exceptions: complete, without clashes, and the same as kazoo's."""

import copy
import enum
import pickle

import pytest
from kazoo import exceptions as kazoo_exceptions
from kazoo.protocol import serialization as kz
from kazoo.protocol.states import EVENT_TYPE_MAP
from kazoo.security import Permissions

from fastzk import errors, protocol, records
from fastzk.errors import ERRORS, ZooKeeperError, from_code
from fastzk.protocol import C_PREFIXES, Error, EventType, OpCode, Perm

TABLES = {
    name: table
    for name, table in vars(protocol).items()
    if isinstance(table, type)
    and issubclass(table, enum.IntEnum | enum.IntFlag)
    and table.__module__ == protocol.__name__
}


def test_every_table_has_a_prefix() -> None:
    assert set(C_PREFIXES) == set(TABLES)


def test_c_names_are_unique() -> None:
    names = [prefix + member for name, prefix in C_PREFIXES.items() for member in TABLES[name].__members__]
    assert len(names) == len(set(names))
    assert all(name.isidentifier() and name.isupper() for name in names)


def test_numbers_are_unique_and_fit_a_c_int() -> None:
    for table in TABLES.values():
        # an alias would be a number that is taken already, under another name
        assert len(table.__members__) == len({int(member) for member in table.__members__.values()}), table
        assert all(-(2**31) <= member < 2**31 for member in table.__members__.values())


def test_each_error_code_has_an_exception() -> None:
    assert set(ERRORS) == set(Error) - {Error.OK}
    classes = {
        value
        for value in vars(errors).values()
        # What is derived from one of these says more about the same code; an operation of a multi that was rolled back
        # because of another one has no code of its own.
        if isinstance(value, type) and ZooKeeperError in value.__bases__ and value is not errors.RolledBackError
    }
    assert classes == set(ERRORS.values())
    assert len(classes) == len(ERRORS)


@pytest.mark.parametrize("code", [code for code in Error if code], ids=lambda code: code.name)
def test_exceptions_from_codes(code: Error) -> None:
    error = from_code(int(code), "/some/path")
    assert type(error) is ERRORS[code]
    assert error.code == code
    assert error.path == "/some/path"
    assert str(error) == f"{code.name.lower().replace('_', ' ')} ({int(code)}): /some/path"
    assert str(from_code(code)) == f"{code.name.lower().replace('_', ' ')} ({int(code)})"
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(again), again.code, again.path) == (type(error), code, "/some/path")
    # the class's name is the code's, with Error behind it
    expected = code.name.replace("_", "").removesuffix("ERROR") + "ERROR"
    assert type(error).__name__.upper() == {"SYSTEMERROR": "SYSTEMZOOKEEPERERROR"}.get(expected, expected)


def test_unknown_codes() -> None:
    error = from_code(-9999, "/a")
    assert type(error) is ZooKeeperError
    assert (error.code, error.path, str(error)) == (-9999, "/a", "unknown error (-9999): /a")
    assert pickle.loads(pickle.dumps(error)).code == -9999
    with pytest.raises(ValueError, match="no error"):
        from_code(0)


def test_error_codes_are_those_of_kazoo() -> None:
    # kazoo has an exception of its own for code 0
    theirs = {code: cls.__name__ for code, cls in kazoo_exceptions.EXCEPTIONS.items() if code}
    assert set(theirs) == set(ERRORS)
    # where kazoo chose another name than ours
    differently = {
        "SystemZookeeperError": "SystemZooKeeperError",
        "RuntimeInconsistency": "RuntimeInconsistencyError",
        "DataInconsistency": "DataInconsistencyError",
        "ConnectionLoss": "ConnectionLossError",
        "ReconfigInProcessError": "ReconfigInProgressError",
        "NotReadOnlyCallError": "NotReadOnlyError",
        "SessionClosedRequireSaslError": "SessionClosedRequireSASLAuthError",
    }
    assert {code: differently.get(name, name) for code, name in theirs.items()} == {
        code: cls.__name__ for code, cls in ERRORS.items()
    }


def test_opcodes_are_those_of_kazoo() -> None:
    theirs = {
        name: number
        for name, cls in vars(kz).items()
        if isinstance(cls, type) and isinstance(number := getattr(cls, "type", None), int)
    }
    ours = {
        "Close": OpCode.CLOSE_SESSION,
        "Ping": OpCode.PING,
        "Create": OpCode.CREATE,
        "Delete": OpCode.DELETE,
        "Exists": OpCode.EXISTS,
        "GetData": OpCode.GET_DATA,
        "SetData": OpCode.SET_DATA,
        "GetACL": OpCode.GET_ACL,
        "SetACL": OpCode.SET_ACL,
        "GetChildren": OpCode.GET_CHILDREN,
        "Sync": OpCode.SYNC,
        "GetChildren2": OpCode.GET_CHILDREN2,
        "CheckVersion": OpCode.CHECK,
        "Transaction": OpCode.MULTI,
        "Create2": OpCode.CREATE2,
        "Reconfig": OpCode.RECONFIG,
        "Auth": OpCode.AUTH,
        "SASL": OpCode.SASL,
    }
    assert ours.items() <= theirs.items()


def test_permissions_and_events_are_those_of_kazoo() -> None:
    theirs = {name: value for name, value in vars(Permissions).items() if name.isupper()}
    assert {perm: int(member) for perm, member in Perm.__members__.items()} == theirs
    names = {
        "NONE": EventType.NONE,
        "CREATED": EventType.CREATED,
        "DELETED": EventType.DELETED,
        "CHANGED": EventType.DATA_CHANGED,
        "CHILD": EventType.CHILDREN_CHANGED,
    }
    assert {names[theirs]: code for code, theirs in EVENT_TYPE_MAP.items()} == {
        EventType(code): code for code in EVENT_TYPE_MAP
    }


def test_records_are_found_under_their_own_names() -> None:
    found = {name: value for name, value in vars(records).items() if isinstance(value, records.Record)}
    assert found == dict(records.RECORDS)
    with pytest.raises(TypeError):
        records.RECORDS["Id"] = records.ACL  # type: ignore[index]


def test_each_opcode_has_its_records() -> None:
    multis = {OpCode.MULTI, OpCode.MULTI_READ}
    # what only servers send to each other, or what is no request
    internal = {OpCode.CREATE_SESSION, OpCode.DELETE_CONTAINER, OpCode.ERROR}
    assert set(records.REQUEST_RECORDS) == set(OpCode) - multis - internal - {OpCode.NOTIFICATION}
    assert set(records.RESPONSE_RECORDS) == set(OpCode) - multis - internal
