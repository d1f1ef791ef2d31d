"""Records to bytes and back: every record of the protocol and of the log, in 1000 turns, and lists by their length.

Expected: some hundred nanoseconds a record, by the number of its fields; lists linear in their length.
"""

from __future__ import annotations

import itertools  # not `repeat` from it: asv would take a module's for its own setting of that name

from material import sample

from fastzk._codec import decode, decode_multi_request, encode, encode_multi_request
from fastzk.protocol import OpCode
from fastzk.records import RECORDS, CreateRequest, GetChildrenResponse

_VALUES = {name: sample(record) for name, record in RECORDS.items()}
_BYTES = {name: encode(record, _VALUES[name]) for name, record in RECORDS.items()}


class Records:
    """1000 records of one kind."""

    params = sorted(RECORDS)
    param_names = ("record",)

    def time_encode_1000(self, name: str) -> None:
        record, values = RECORDS[name], _VALUES[name]
        for _ in itertools.repeat(None, 1000):
            encode(record, values)

    def time_decode_1000(self, name: str) -> None:
        record, data = RECORDS[name], _BYTES[name]
        for _ in itertools.repeat(None, 1000):
            decode(record, data)


class Children:
    """One answer to getChildren, by the number of children: linear."""

    params = (10, 100, 1_000, 10_000, 100_000)
    param_names = ("children",)

    def setup(self, count: int) -> None:
        self.values = [[f"member-{number}" for number in range(count)]]
        self.data = encode(GetChildrenResponse, self.values)

    def time_encode(self, _count: int) -> None:
        encode(GetChildrenResponse, self.values)

    def time_decode(self, _count: int) -> None:
        decode(GetChildrenResponse, self.data)


class Multi:
    """One multi request, by the number of its operations: linear."""

    params = (1, 10, 100, 1_000)
    param_names = ("operations",)

    def setup(self, count: int) -> None:
        self.ops = [(int(OpCode.CREATE), sample(CreateRequest))] * count
        self.data = encode_multi_request(self.ops)

    def time_encode(self, _count: int) -> None:
        encode_multi_request(self.ops)

    def time_decode(self, _count: int) -> None:
        decode_multi_request(self.data)
