"""The fixed pieces of work: deterministic, in one process, without a network, without looking at the clock.

A workload's ``setup`` makes what it needs and returns a function ``prepare(rounds)``, which returns the function that
is counted. Only the latter is counted, so all that can be made before (requests, replies, paths) is made in
``prepare``.

The server's workloads go through the real ``Connection``, ``Reads`` and ``Pipeline``: a client's bytes arrive by
``buffer_updated`` as the event loop would tell, and replies leave by ``send`` into one end of a socket pair. What is
left out is the event loop's own work, and the log's thread, which writes to a real file beside it: callgrind counts
threads apart. ``tests/unit/parts.py`` is what puts the server together.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fastzk import records
from fastzk._codec import decode, encode
from fastzk._tree import Tree
from fastzk.client import ZnodeStat
from fastzk.client._call import Call
from fastzk.client._channel import Channel
from fastzk.client.results import NodeData
from fastzk.protocol import OpCode

TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "unit")]

import parts  # noqa: E402
from support import wire  # noqa: E402

Run: TypeAlias = Callable[[], None]
Prepare: TypeAlias = Callable[[int], Run]
Setup: TypeAlias = Callable[[Path, ExitStack], Prepare]

ZNODES = 10_000
DATA = bytes(range(128))
#: Bytes of a segment of the log. No workload writes as much, so none is begun while it is counted.
SEGMENT = 1 << 20
ACL = [{"perms": 31, "id": {"scheme": "world", "id": "anyone"}}]
STAT = tuple(range(1, 12))


@dataclass(frozen=True)
class Workload:
    """One of the fixed pieces of work.

    ``operations``: how many one round has. ``rounds``: N of what is counted, N and 2 N times.
    """

    what: str
    rounds: int
    operations: int
    setup: Setup


WORKLOADS: dict[str, Workload] = {}


def workload(name: str, what: str, *, rounds: int, operations: int = 1) -> Callable[[Setup], Setup]:
    """Register ``setup`` under a name."""

    def register(setup: Setup) -> Setup:
        WORKLOADS[name] = Workload(what, rounds, operations, setup)
        return setup

    return register


def repeated(action: Run) -> Prepare:
    """For what is the same in each round, and leaves nothing behind."""

    def prepare(rounds: int) -> Run:
        def run() -> None:
            for _ in range(rounds):
                action()

        return run

    return prepare


# ---- codec --------------------------------------------------------------------------------------------------

_MESSAGES = (
    (records.GetDataRequest, {"path": "/app/workers/worker-0000000017", "watch": False}),
    (records.SetDataRequest, {"path": "/app/workers/worker-0000000017", "data": DATA, "version": -1}),
    (records.CreateRequest, {"path": "/app/workers/worker-", "data": DATA, "acl": ACL, "flags": 3}),
    (records.GetDataResponse, {"data": DATA, "stat": STAT}),
)


@workload("codec-encode", "encode() of three requests and a reply, each", rounds=200, operations=len(_MESSAGES))
def codec_encode(directory: Path, stack: ExitStack) -> Prepare:
    def action() -> None:
        for record, values in _MESSAGES:
            encode(record, values)

    return repeated(action)


@workload("codec-decode", "decode() of the same", rounds=200, operations=len(_MESSAGES))
def codec_decode(directory: Path, stack: ExitStack) -> Prepare:
    encoded = [(record, encode(record, values)) for record, values in _MESSAGES]

    def action() -> None:
        for record, data in encoded:
            decode(record, data)

    return repeated(action)


# ---- tree ---------------------------------------------------------------------------------------------------


def paths(first: int, count: int) -> list[bytes]:
    """Paths of znodes, a hundred below each of the parents that ``grow`` makes."""
    return [b"/bench/group-%03d/znode-%06d" % (number // 100 % 100, number) for number in range(first, first + count)]


def grow(tree: Tree) -> list[bytes]:
    """Give a tree 10^4 znodes, and one more with 1000 children; the paths of the former."""
    if not tree.count:
        tree.plant()
    for parent in [b"/bench", *(b"/bench/group-%03d" % number for number in range(100)), b"/many"]:
        tree.create(parent, None, zxid=1, time=1)
    found = paths(0, ZNODES)
    for path in found:
        tree.create(path, DATA, zxid=1, time=1)
    for number in range(1000):
        tree.create(b"/many/child-%04d" % number, None, zxid=1, time=1)
    return found


@workload("tree-find", "find a znode among 10^4 by its path", rounds=40, operations=100)
def tree_find(directory: Path, stack: ExitStack) -> Prepare:
    tree = Tree()
    some = grow(tree)[::100]

    def action() -> None:
        for path in some:
            tree.slot(path)

    return repeated(action)


@workload("tree-set", "replace the data of a znode among 10^4", rounds=40, operations=100)
def tree_set(directory: Path, stack: ExitStack) -> Prepare:
    tree = Tree()
    some = grow(tree)[::100]

    def action() -> None:
        for path in some:
            tree.set_data(path, DATA, version=2, zxid=2, time=2)

    return repeated(action)


@workload("tree-insert", "create a znode among 10^4", rounds=1000)
def tree_insert(directory: Path, stack: ExitStack) -> Prepare:
    tree = Tree()
    grow(tree)

    def prepare(rounds: int) -> Run:
        for path in paths(ZNODES, tree.count - grown):
            tree.delete(path, zxid=3)
        fresh = paths(ZNODES, rounds)

        def run() -> None:
            for path in fresh:
                tree.create(path, DATA, zxid=2, time=2)

        return run

    grown = tree.count
    return prepare


@workload("tree-delete", "delete a znode among 10^4", rounds=1000)
def tree_delete(directory: Path, stack: ExitStack) -> Prepare:
    tree = Tree()
    grow(tree)
    grown = tree.count

    def prepare(rounds: int) -> Run:
        assert tree.count == grown
        condemned = paths(ZNODES, rounds)
        for path in condemned:
            tree.create(path, DATA, zxid=2, time=2)

        def run() -> None:
            for path in condemned:
                tree.delete(path, zxid=3)

        return run

    return prepare


@workload("tree-children", "the encoded list of 1000 children, unchanged since the last time", rounds=200)
def tree_children(directory: Path, stack: ExitStack) -> Prepare:
    tree = Tree()
    grow(tree)

    def action() -> None:
        tree.children_encoded(b"/many")

    return repeated(action)


@workload("tree-children-changed", "a child more, a child less, and the list after each", rounds=20)
def tree_children_changed(directory: Path, stack: ExitStack) -> Prepare:
    tree = Tree()
    grow(tree)

    def action() -> None:
        tree.create(b"/many/one-more", None, zxid=2, time=2)
        tree.children_encoded(b"/many")
        tree.delete(b"/many/one-more", zxid=3)
        tree.children_encoded(b"/many")

    return repeated(action)


@workload("tree-page", "a page of 128 znodes of a checkpoint, one of them changed", rounds=3, operations=ZNODES // 128)
def tree_page(directory: Path, stack: ExitStack) -> Prepare:
    tree = Tree()
    changed = grow(tree)[::128][: ZNODES // 128]
    tree.checkpoint_begin()
    while tree.checkpoint_take(1 << 20):
        pass
    tree.checkpoint_end(True)

    def action() -> None:
        for path in changed:
            tree.set_data(path, DATA, version=2, zxid=2, time=2)
        assert tree.checkpoint_begin() == len(changed)
        while tree.checkpoint_take(64 << 10):
            pass
        tree.checkpoint_end(True)

    return repeated(action)


# ---- server -------------------------------------------------------------------------------------------------


class Serving:
    """A server with 10^4 znodes and one client, without a network."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        parts.SMALLEST_SEGMENT = SEGMENT
        self.parts = stack.enter_context(parts.Parts(directory))
        self.paths = [path.decode() for path in grow(self.parts.tree)]
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._socket = stack.enter_context(ours)
        stack.enter_context(theirs)
        self.connection = self.parts.service.connection()
        transport: Any = parts.Transport(self.parts.turns, theirs, self.connection)
        self.connection.connection_made(transport)
        self._input = bytearray(4 << 20)
        self._poller = select.poll()
        self._poller.register(self.parts.log.event_fd, select.POLLIN)
        hello = wire.connect_request()
        self.feed(struct.pack(">i", len(hello)) + hello)
        self.finish()
        assert self.take()
        # The log prepares its next segment in a thread that takes the GIL: let it come to an end.
        deadline = time.monotonic() + 60
        while not list(directory.glob("spare.*")) or list(directory.glob("*.tmp")):
            assert time.monotonic() < deadline, "the log does not prepare its next segment"
            time.sleep(0.01)

    def feed(self, data: bytes) -> None:
        """Bytes arrive, in one callback of the event loop."""
        view = memoryview(self.connection.get_buffer(-1))
        view[: len(data)] = data
        self.connection.buffer_updated(len(data))

    def finish(self) -> None:
        """The turn of the event loop ends; wait for the log, answer."""
        pipeline = self.parts.pipeline
        self.parts.turns.run()
        while pipeline.pending:
            self._poller.poll()
            pipeline.on_durable()

    def take(self) -> int:
        """How many bytes of replies have come."""
        return self._socket.recv_into(self._input)

    def rounds(self, requests: list[wire.Request], *, at_once: int, writes: bool) -> Prepare:
        """Ask the same each round, ``at_once`` requests in a callback, and take the replies."""
        frames = [parts.frame(number, request) for number, request in enumerate(requests, 1)]
        callbacks = [b"".join(frames[at : at + at_once]) for at in range(0, len(frames), at_once)]
        feed, finish, take = self.feed, self.finish, self.take
        expected = None
        for _ in range(2):  # the first time may say something else, as of a znode that is not there yet
            expected = []
            for data in callbacks:
                feed(data)
                finish()
                expected.append(take())
        self.check(len(requests), expected[-1])

        def prepare(rounds: int) -> Run:
            self.parts.check()

            def run() -> None:
                for _ in range(rounds):
                    for data, size in zip(callbacks, expected, strict=True):
                        feed(data)
                        if writes:
                            finish()
                        if take() != size:
                            raise AssertionError("replies of another size than before")

            return run

        return prepare

    def check(self, requests: int, size: int) -> None:
        """The last callback's replies, of ``size`` bytes, have no error in them."""
        at = 0
        while at < size:
            length, _, _, err = struct.unpack_from(">iiqi", self._input, at)
            assert err == 0, f"error {err} from the server"
            at += 4 + length


@workload("server-get", "getData, 64 in a callback", rounds=40, operations=64)
def server_get(directory: Path, stack: ExitStack) -> Prepare:
    serving = Serving(directory, stack)
    return serving.rounds([wire.get_data(path) for path in serving.paths[::100][:64]], at_once=64, writes=False)


@workload("server-get-single", "getData, one in a callback", rounds=20, operations=64)
def server_get_single(directory: Path, stack: ExitStack) -> Prepare:
    serving = Serving(directory, stack)
    return serving.rounds([wire.get_data(path) for path in serving.paths[::100][:64]], at_once=1, writes=False)


@workload("server-exists", "exists, 64 in a callback", rounds=40, operations=64)
def server_exists(directory: Path, stack: ExitStack) -> Prepare:
    serving = Serving(directory, stack)
    return serving.rounds([wire.exists(path) for path in serving.paths[::100][:64]], at_once=64, writes=False)


@workload("server-children", "getChildren of 1000, 8 in a callback", rounds=20, operations=8)
def server_children(directory: Path, stack: ExitStack) -> Prepare:
    serving = Serving(directory, stack)
    return serving.rounds([wire.get_children("/many")] * 8, at_once=8, writes=False)


@workload("server-set", "setData, 64 in a callback and a batch of the log", rounds=12, operations=64)
def server_set(directory: Path, stack: ExitStack) -> Prepare:
    serving = Serving(directory, stack)
    return serving.rounds([wire.set_data(path, DATA) for path in serving.paths[::100][:64]], at_once=64, writes=True)


@workload("server-set-single", "setData, one in a callback and a batch of the log", rounds=3, operations=64)
def server_set_single(directory: Path, stack: ExitStack) -> Prepare:
    serving = Serving(directory, stack)
    return serving.rounds([wire.set_data(path, DATA) for path in serving.paths[::100][:64]], at_once=1, writes=True)


@workload("server-create-delete", "create and delete by turns, 64 in a callback", rounds=12, operations=64)
def server_create_delete(directory: Path, stack: ExitStack) -> Prepare:
    serving = Serving(directory, stack)
    requests = [
        request
        for number in range(32)
        for request in (wire.create(f"/bench/new-{number}", DATA), wire.delete(f"/bench/new-{number}"))
    ]
    return serving.rounds(requests, at_once=64, writes=True)


@workload("server-mixed", "one setData, then nine getData that wait for it, 60 in a callback", rounds=40, operations=60)
def server_mixed(directory: Path, stack: ExitStack) -> Prepare:
    serving = Serving(directory, stack)
    some = serving.paths[::100][:60]
    requests = [wire.get_data(path) if number % 10 else wire.set_data(path, DATA) for number, path in enumerate(some)]
    return serving.rounds(requests, at_once=60, writes=True)


@workload("server-watch", "getData with a watch, setData that triggers it, 32 in a callback", rounds=20, operations=32)
def server_watch(directory: Path, stack: ExitStack) -> Prepare:
    serving = Serving(directory, stack)
    some = serving.paths[::100][:32]
    requests = [wire.get_data(path, watch=True) for path in some] + [wire.set_data(path, DATA) for path in some]
    return serving.rounds(requests, at_once=64, writes=True)


# ---- client -------------------------------------------------------------------------------------------------

_PATHS = [f"/app/workers/worker-{number:010d}" for number in range(64)]


class Silent:
    """A channel's delegate that is told nothing but the handshake."""

    def on_handshake(self, *_: Any) -> None:
        pass


class Talking:
    """A client's channel with scripted bytes instead of a server."""

    def __init__(self) -> None:
        delegate: Any = Silent()
        self.channel = Channel(delegate)
        self.channel.connect(b"")
        self.channel.take()
        body = struct.pack(">iiqi16s?", 0, 10_000, 77, 16, bytes(16), False)
        self.channel.receive(struct.pack(">i", len(body)) + body)
        self.channel.release()
        self.xid = 0
        self.sinks: list[Call[Any]] = []

    def replies(self, count: int, body: bytes) -> bytes:
        """Replies to the next ``count`` requests that have none."""
        header = struct.pack(">i", 16 + len(body))
        first = self.xid + 1
        self.xid += count
        return b"".join(header + struct.pack(">iqi", xid, 7, 0) + body for xid in range(first, first + count))

    def ask(self, op: int, asked: list[str]) -> list[Call[Any]]:
        """Requests that do nothing but read; what they are settled by."""
        calls: list[Call[Any]] = []
        for path in asked:
            call: Call[Any] = Call()
            self.channel.read(op, path, None, call)
            calls.append(call)
        self.channel.take()
        return calls

    def decoding(self, op: int, asked: list[str], body: bytes) -> Prepare:
        """The replies to ``asked`` arrive, a read of the socket for each round."""
        channel = self.channel

        def prepare(rounds: int) -> Run:
            assert all(call.done() for call in self.sinks)
            assert channel.count == 0
            self.sinks = []
            arriving = []
            for _ in range(rounds):
                self.sinks += self.ask(op, asked)
                arriving.append(self.replies(len(asked), body))

            def run() -> None:
                view, received = channel.input_view, channel.received
                for data in arriving:
                    size = len(data)
                    view[:size] = data
                    received(size)

            return run

        return prepare


@workload("client-encode-get", "a getData in the client's channel", rounds=20, operations=len(_PATHS))
def client_encode_get(directory: Path, stack: ExitStack) -> Prepare:
    talking = Talking()
    channel = talking.channel
    get = int(OpCode.GET_DATA)
    body = encode(records.GetDataResponse, {"data": DATA, "stat": STAT})

    def prepare(rounds: int) -> Run:
        channel.receive(talking.replies(channel.count, body))

        def run() -> None:
            for _ in range(rounds):
                for path in _PATHS:
                    channel.read(get, path, None, Call())
                channel.take()

        return run

    return prepare


@workload("client-encode-set", "a setData in the client's channel", rounds=20, operations=len(_PATHS))
def client_encode_set(directory: Path, stack: ExitStack) -> Prepare:
    talking = Talking()
    channel = talking.channel
    body = encode(records.Stat, STAT)

    def prepare(rounds: int) -> Run:
        channel.receive(talking.replies(channel.count, body))

        def run() -> None:
            for _ in range(rounds):
                for path in _PATHS:
                    channel.set(path, DATA, -1, Call())
                channel.take()

        return run

    return prepare


@workload("client-decode-get", "a getData's reply in the client's channel", rounds=20, operations=len(_PATHS))
def client_decode_get(directory: Path, stack: ExitStack) -> Prepare:
    talking = Talking()
    (call,) = talking.ask(OpCode.GET_DATA, ["/"])
    body = encode(records.GetDataResponse, {"data": DATA, "stat": STAT})
    talking.channel.receive(talking.replies(1, body))
    assert call.result() == NodeData(DATA, ZnodeStat(*STAT))
    return talking.decoding(OpCode.GET_DATA, _PATHS, body)


@workload("client-decode-children", "a reply with 1000 children in the client's channel", rounds=10)
def client_decode_children(directory: Path, stack: ExitStack) -> Prepare:
    body = encode(records.GetChildrenResponse, {"children": [f"child-{number:04d}" for number in range(1000)]})
    return Talking().decoding(OpCode.GET_CHILDREN, ["/many"], body)
