"""The broadcast's messages as they travel."""

from __future__ import annotations

import dataclasses
import struct
from typing import get_args

import pytest

from fastzk.server.zab.messages import LAST_TYPE, Ack, Append, Commit, Message, Proposal, decode, encode

EPOCH = 5
FIRST, LAST = EPOCH << 32 | 7, EPOCH << 32 | 9
BATCH = Proposal(FIRST, LAST, 3, b"the payload")
KINDS = get_args(Message)


def example(kind: type) -> Message:
    """A message of this kind; no two of its fields are the same."""
    values: list[object] = []
    for number, field in enumerate(dataclasses.fields(kind)):
        if field.name == "proposal":
            values.append(BATCH)
        else:
            values.append(True if field.name == "granted" else EPOCH + (number << 33) * (-1) ** number)
    message: Message = kind(*values)
    return message


def frame_of(message: Message) -> bytes:
    return b"".join(encode(message))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_arrives_as_it_was_sent(kind: type) -> None:
    message = example(kind)
    frame = frame_of(message)
    assert frame[0] == KINDS.index(kind) + 1
    got = decode(memoryview(frame))
    assert type(got) is kind
    assert got == message
    payload = encode(message)[1]
    assert payload == (BATCH.payload if kind is Append else b"")


def test_the_layout_of_what_there_is_of_each_batch() -> None:
    codes = {kind: code for code, kind in enumerate(KINDS, 1)}
    assert encode(Ack(1, -2, 3)) == (struct.pack("<Bqqq", codes[Ack], 1, -2, 3), b"")
    assert encode(Commit(1, 2, 1 << 62)) == (struct.pack("<Bqqq", codes[Commit], 1, 2, 1 << 62), b"")
    head = encode(Append(EPOCH, 1 << 40, FIRST - 1, FIRST - 2, True, BATCH))[0]
    assert head.startswith(struct.pack("<Bqqqq", codes[Append], EPOCH, 1 << 40, FIRST - 1, FIRST - 2))
    assert head.endswith(struct.pack("<qqI", FIRST, LAST, 3))


def test_what_is_no_message_is_refused() -> None:
    for frame in (b"", b"\0", bytes([LAST_TYPE + 1]), b"\xff" * 30):
        with pytest.raises(ValueError, match="unknown type"):
            decode(memoryview(frame))
    for kind in KINDS:
        whole = frame_of(example(kind))
        if kind is Append:
            whole = whole[: -len(BATCH.payload)]
            for size in range(1, len(whole) + 1):
                with pytest.raises(ValueError, match="a proposal is cut short"):
                    decode(memoryview(whole[:size]))
        else:
            for frame in (whole + b"x", *(whole[:size] for size in range(1, len(whole)))):
                with pytest.raises(ValueError, match=rf"^a {kind.__name__} of {len(frame)} bytes$"):
                    decode(memoryview(frame))


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [
        (FIRST, LAST, 2),
        (FIRST, LAST, 4),
        (FIRST, FIRST - 1, 0),
        (LAST, FIRST, 3),
        (EPOCH << 32 | 0xFFFFFFFF, (EPOCH + 1) << 32, 2),
        (FIRST + (1 << 32), LAST + (1 << 32), 3),
        (-1 << 63, (1 << 63) - 1, 0),
    ],
)
def test_a_proposal_that_cannot_be_is_refused(first: int, last: int, count: int) -> None:
    frame = frame_of(Append(EPOCH, 1, 2, 3, False, Proposal(first, last, count, b"x")))
    with pytest.raises(ValueError, match="a proposal of"):
        decode(memoryview(frame))


def test_a_message_does_not_refer_to_its_frame() -> None:
    memory = bytearray(frame_of(example(Append)))
    got = decode(memoryview(memory))
    memory[:] = bytes(len(memory))
    memory.append(0)
    assert got == example(Append)
