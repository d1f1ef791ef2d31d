from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from typing_extensions import Buffer

from fastzk.records import Record

#: What `encode` takes for a record: its fields by name, or all of them in order.
Values: TypeAlias = Mapping[str, Any] | Sequence[Any]

class CodecError(ValueError):
    """Bytes that are not the record they should be, or values that do not fit a record."""

    message: str
    #: Name of the record that was to be read or written.
    record: str
    #: Where in it, as in ``acl[2].id.scheme``; empty for the record as a whole.
    field: str
    #: Of that field, in bytes from the start of the input or of the output.
    offset: int
    def __init__(self, message: str, record: str, field: str, offset: int) -> None: ...

def encode(record: Record, values: Values) -> bytes: ...
def encode_frame(*parts: Buffer) -> bytes: ...
def decode(record: Record, data: Buffer, offset: int = 0) -> tuple[dict[str, Any], int]: ...
def encode_multi_request(ops: Iterable[tuple[int, Values]]) -> bytes: ...
def decode_multi_request(data: Buffer, offset: int = 0) -> tuple[list[tuple[int, dict[str, Any]]], int]: ...
def encode_multi_response(results: Iterable[tuple[int, Values]]) -> bytes: ...
def decode_multi_response(data: Buffer, offset: int = 0) -> tuple[list[tuple[int, dict[str, Any]]], int]: ...
