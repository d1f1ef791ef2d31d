"""Records to bytes and back, for the most frequent of them; a request and a reply of the client. Constant time."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from material import sample
from pytest_benchmark.fixture import BenchmarkFixture

from fastzk._codec import decode, encode
from fastzk.client._call import Call
from fastzk.client._channel import Channel
from fastzk.protocol import OpCode
from fastzk.records import RECORDS

FREQUENT = (
    *("RequestHeader", "ReplyHeader", "CreateRequest", "GetDataRequest", "GetDataResponse", "SetDataRequest"),
    *("SetDataResponse", "GetChildrenResponse", "WatcherEvent", "TxnHeader", "CreateTxn", "SetDataTxn", "MultiTxn"),
)


@pytest.mark.parametrize("name", FREQUENT)
def test_encode(benchmark: BenchmarkFixture, name: str) -> None:
    record = RECORDS[name]
    assert decode(record, benchmark(encode, record, sample(record)))[0]


@pytest.mark.parametrize("name", FREQUENT)
def test_decode(benchmark: BenchmarkFixture, name: str) -> None:
    record = RECORDS[name]
    data = encode(record, sample(record))
    assert benchmark(decode, record, data)[1] == len(data)


class Nobody:
    """Is told what the channel says, and does not listen."""

    def on_handshake(self, *_: Any) -> None: ...
    def on_event(self, *_: Any) -> None: ...
    def on_control(self, *_: Any) -> None: ...
    def on_sasl(self, *_: Any) -> None: ...
    def on_watch(self, *_: Any) -> None: ...


def frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def test_client_get(benchmark: BenchmarkFixture) -> None:
    """A getData leaves the client, and its reply settles the call; without a socket."""
    channel = Channel(Nobody())
    channel.connect(frame(b"hello"))
    channel.receive(frame(struct.pack(">iiqi16s?", 0, 10_000, 77, 16, bytes(16), False)))
    channel.release()
    channel.take()
    body = encode(RECORDS["GetDataResponse"], sample(RECORDS["GetDataResponse"]))
    operation, path = int(OpCode.GET_DATA), "/services/frontend/node-17"

    def turn() -> Any:
        call: Call[Any] = Call()
        channel.read(operation, path, None, call)
        sent = channel.take()
        channel.receive(struct.pack(">i4sqi", 16 + len(body), sent[4:8], 100, 0) + body)
        return call.result()

    assert benchmark(turn).data == b"x" * 128
