"""Ways in which a caller of the threaded client, or of a recipe, could wait for ever: one wake-up that is lost.

Each test brings about the order of things that would lose it.
"""

from __future__ import annotations

import fcntl
import queue
import socket
import struct
import sys
import termios
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from support import wire as zk
from support.wire import poll

from fastzk import Client, KeeperState, State
from fastzk.client._call import Call
from fastzk.client._channel import Channel
from fastzk.client._wire import Waker, Wire
from fastzk.client.hosts import parse
from fastzk.client.recipes.locks import LockCore
from fastzk.client.recipes.semaphore import SemaphoreCore
from fastzk.client.recipes.support import AcquireCancelled, Turnstile
from fastzk.client.session import Session
from fastzk.client.watches import Watches
from fastzk.errors import ConnectionClosedError, ConnectionLossError
from fastzk.protocol import EventType, OpCode, Xid

GET = int(OpCode.GET_DATA)
CREATED = int(EventType.CREATED)
#: How long another thread may take for something that should have to wait, in seconds.
A_WHILE = 0.2


@pytest.fixture
def client() -> Iterator[Client]:
    """One that never gets a connection."""
    client = Client("127.0.0.1:1")
    client.start_async()
    yield client
    client.stop()


def frame(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


HANDSHAKE = frame(struct.pack(">iiqi16s?", 0, 6000, 5, 16, b"s" * 16, False))


def event(path: str) -> bytes:
    return frame(zk.HEADER.pack(-1, -1, 0) + struct.pack(">ii", CREATED, 3) + zk.text(path))


def data_of(xid: int) -> bytes:
    return frame(zk.HEADER.pack(xid, 9, 0) + struct.pack(">i", 0) + bytes(68))


def meanwhile(function: Callable[[], object]) -> threading.Thread:
    """Another thread does something here, if it can."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(A_WHILE)
    return thread


def finish(coroutine: Coroutine[Any, Any, Any]) -> object:
    """The result of a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("it waits")


# ---- requests and the end of the client


def test_a_request_made_while_the_client_stops(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client stops after it was asked whether requests are taken, and before the request is there."""
    new = client._new

    def taken_and_stopped() -> Call[Any]:
        call = new()
        client.stop()
        return call

    monkeypatch.setattr(client, "_new", taken_and_stopped)
    assert isinstance(client.get_async("/").exception(5), ConnectionClosedError)


def test_a_request_made_while_the_client_fails(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same when credentials turn out to be wrong: the helper ends by itself."""
    made = client._made

    def failed_and_made(*arguments: Any) -> None:
        client._session.live = False
        helper = client._helper
        assert helper is not None
        helper.join(10)
        made(*arguments)

    monkeypatch.setattr(client, "_made", failed_and_made)
    assert client.get_async("/").exception(5) is not None


def test_waiting_begins_when_the_client_has_stopped(client: Client) -> None:
    turnstile = Turnstile(client)
    assert client.compose(turnstile.enter(True, None)).result(5)
    client.stop()
    assert isinstance(client.compose(turnstile.enter(True, None)).exception(5), ConnectionClosedError)


def test_a_client_that_stopped_and_started_gives_no_turn(client: Client) -> None:
    """Whoever waits without a limit gets its turn or an error; with False it would go on as if it had the lock."""
    turnstile = Turnstile(client)
    assert client.compose(turnstile.enter(True, None)).result(5)
    waits = client.compose(turnstile.enter(True, None))
    client._wake_waiting()  # by stop(); and the client was started again before anybody looked
    client.run_steps()
    assert isinstance(waits.exception(5), ConnectionClosedError)
    assert not client.compose(turnstile.enter(True, 0.01)).result(5)


# ---- watches


class Watcher:
    """Calls a function once, when it is put into a table."""

    def __init__(self, function: Callable[[], object] | None = None) -> None:
        self.function = function

    def __hash__(self) -> int:
        function, self.function = self.function, None
        if function is not None:
            function()
        return 5

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(self, event: object) -> None:
        """Nothing."""


def test_a_watch_does_not_go_with_the_last_other_one() -> None:
    told: list[object] = []
    watches = Watches(lambda watcher, _: told.append(watcher))
    first = Watcher()
    watches.add(GET, False, "/x", first)
    threads: list[threading.Thread] = []
    second = Watcher(lambda: threads.append(meanwhile(lambda: watches.forget("/x", first))))
    watches.add(GET, False, "/x", second)
    threads[0].join(5)
    watches.event(int(EventType.DATA_CHANGED), "/x")
    assert told == [second]


def test_letting_go_of_a_watch_that_was_told() -> None:
    """The event comes, and another watch is set, while the first is being let go of."""
    told: list[object] = []
    watches = Watches(lambda watcher, _: told.append(watcher))
    first, second = Watcher(), Watcher()
    watches.add(GET, False, "/x", first)
    threads: list[threading.Thread] = []

    def tell_and_add() -> None:
        watches.event(CREATED, "/x")
        watches.add(GET, False, "/x", second)

    first.function = lambda: threads.append(meanwhile(tell_and_add))
    watches.forget("/x", first)
    threads[0].join(5)
    told.clear()
    watches.event(CREATED, "/x")
    assert told == [second]


def test_a_session_ends_while_watches_are_let_go_of() -> None:
    told: list[object] = []
    gone, ended = threading.Event(), threading.Event()
    watchers = [Watcher() for _ in range(3)]

    def notify(watcher: object, _: object) -> None:
        told.append(watcher)
        assert gone.wait(5)

    def end() -> None:
        watches.end(KeeperState.CLOSED)
        ended.set()

    watches = Watches(notify)
    for watcher in watchers:
        watches.add(GET, False, "/x", watcher)
    watchers[1].function = lambda: meanwhile(end)
    watches.forget("/x", watchers[1])
    gone.set()
    assert ended.wait(5)
    assert told == [watchers[0], watchers[2]]


def test_a_watcher_that_cannot_be_told_from_others(client: Client) -> None:
    class Unhashable(list[int]):
        def __call__(self, event: object) -> None:
            """Nothing."""

    with pytest.raises(TypeError, match="hashable"):
        client.get_async("/", Unhashable())


# ---- what is read


class Delegate:
    """Of a channel."""

    def __init__(self, hook: Callable[[str], object]) -> None:
        self.hook = hook

    def on_handshake(self, *_: object) -> None:
        self.channel.release()

    def on_watch(self, op: int, missing: bool, path: str, watch: object) -> None:
        self.hook(path)

    def on_event(self, kind: int, state: int, path: str) -> None:
        self.hook(path)

    def on_control(self, *_: object) -> None: ...
    def on_sasl(self, *_: object) -> None: ...

    channel: Channel


class Line:
    """A channel and a connection."""

    def __init__(self, hook: Callable[[str], object] = lambda path: None, channel: Channel | None = None) -> None:
        if channel is None:
            delegate = Delegate(hook)
            channel = delegate.channel = Channel(delegate)
            channel.connect(frame(b"hello"))
            channel.take()
            channel.receive(HANDSHAKE)
        self.channel = channel
        self.waker = Waker()
        self.server, ours = socket.socketpair()
        self.fd = ours.detach()
        self.wire = Wire(self.channel, self.fd, self.waker)

    def wait(self, call: Call[Any], timeout: float = 5.0) -> bool:
        return self.wire.wait(call, deque(), lambda: None, timeout)

    def close(self) -> None:
        self.wire.close()
        self.waker.close()
        self.server.close()


def test_the_helper_survives_a_connection_that_breaks_when_it_sends() -> None:
    line = Line()
    line.server.close()
    line.channel.ping()
    assert not line.wire.serve(0.0)
    assert line.wire.broken
    assert "pipe" in str(line.wire.problem)
    line.close()


def test_an_error_while_a_watch_is_added_settles_the_call() -> None:
    def fail(path: str) -> None:
        raise TypeError(path)

    line = Line(fail)
    call: Call[Any] = Call()
    line.channel.read(GET, "/x", print, call)
    line.server.sendall(data_of(1))
    line.wait(call)
    assert isinstance(call.exception(0), TypeError)
    assert line.wire.broken
    line.close()


def test_an_interrupt_while_replies_are_read_ends_the_connection() -> None:
    """What was received is lost with it, so whoever waits must hear that from the end of the connection."""

    def interrupt(path: str) -> None:
        raise KeyboardInterrupt

    line = Line(interrupt)
    calls: list[Call[Any]] = [Call(), Call()]
    for call in calls:
        line.channel.read(GET, "/x", print, call)
    line.server.sendall(data_of(1) + data_of(2))
    with pytest.raises(KeyboardInterrupt):
        line.wait(calls[0])
    assert isinstance(calls[0].exception(0), ConnectionLossError)
    assert line.wire.broken
    line.channel.disconnected()
    assert isinstance(calls[1].exception(0), ConnectionLossError)
    line.close()


def test_a_thread_that_still_reads_from_a_broken_connection() -> None:
    """What it receives must not get into what another one decodes."""
    paths: list[str] = []

    def hook(path: str) -> None:
        paths.append(path)
        if path == "/first":
            old.server.sendall(b"\xff" * 4096)
            poll(lambda: unread(old.fd) == 0 or old.wire.broken, "it is received", 5)

    line = Line(hook)
    old = Line(channel=line.channel)
    call: Call[Any] = Call()
    reader = threading.Thread(target=old.wait, args=(call, 10.0), daemon=True)
    line.server.sendall(event("/first") + event("/second"))
    reader.start()
    # With the request in front of it, so that it is seen to read.
    line.wire.serve(5.0)
    reader.join(10)
    assert (paths, line.wire.broken, old.wire.broken) == (["/first", "/second"], False, True)
    line.close()
    old.close()


def unread(fd: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))
    return int(count)


# ---- time, steps and callbacks


class Face:
    def on_state(self, state: State) -> None: ...
    def on_ready(self) -> None: ...
    def notify(self, watcher: object, event: object) -> object: ...


def begun() -> Session:
    session = Session(Face(), parse("a:1"), 9.0)
    session.begin()
    return session


def test_a_deadline_that_comes_while_others_are_forgotten() -> None:
    session = begun()
    due: list[str] = []

    class Settled(Call):  # type: ignore[type-arg]
        """Another thread adds a deadline when somebody asks whether this is settled."""

        def done(self) -> bool:
            if not asked:
                asked.append(True)
                meanwhile(lambda: session.call_at(0.0, lambda: due.append("added meanwhile"))).join(5)
            return True

    asked: list[bool] = []
    sink = Settled()
    sink.set_result(None)
    for _ in range(1100):
        session.call_at(1.0, lambda: due.append("settled"), sink)
    session.call_at(0.5, lambda: due.append("not settled"), Call())
    if not asked:
        session.call_at(0.0, lambda: due.append("added meanwhile"))
    session.tick()
    assert due[:2] == ["added meanwhile", "not settled"]
    assert len(due) < 200


def test_credentials_that_come_while_a_connection_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    session = begun()
    sink: Call[Any] = Call()

    def frames(*_: object) -> list[bytes]:
        session.add_auth("digest", "late", sink)
        return []

    monkeypatch.setattr(session.watches, "frames", frames)
    session.connected()
    session.channel.take()
    session.channel.receive(HANDSHAKE)
    assert b"late" in session.channel.take()
    session.channel.receive(frame(zk.HEADER.pack(int(Xid.AUTH), 0, 0)))
    assert sink.result(0) is True


def test_who_is_interrupted_in_the_steps_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("127.0.0.1:1")  # not started: no other thread takes steps
    promises = [client.promise(), client.promise()]
    done: list[int] = []

    async def work(number: int) -> None:
        await promises[number]
        if number == 0:
            raise KeyboardInterrupt
        done.append(number)

    calls = [client.compose(work(number)) for number in range(2)]
    for promise in promises:
        promise.set_result(None)
    with pytest.raises(KeyboardInterrupt):
        client.run_steps()
    client.run_steps()
    assert done == [1]
    assert all(call.done() for call in calls)
    assert calls[0].cancelled()


def test_a_callback_that_exits_its_thread(client: Client) -> None:
    client.dispatch(sys.exit)
    called = threading.Event()
    client.dispatch(called.set)
    assert called.wait(10)


def test_one_thread_calls_back(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads have the first callbacks at once."""
    made: list[object] = []
    called = [threading.Event(), threading.Event()]
    simple_queue = queue.SimpleQueue

    def make() -> Any:
        made.append(None)
        if len(made) == 1:
            meanwhile(lambda: client.dispatch(called[1].set))
        return simple_queue()

    monkeypatch.setattr(queue, "SimpleQueue", make)
    client.dispatch(called[0].set)
    assert all(each.wait(10) for each in called)
    assert len(made) == 1


# ---- recipes


class Quiet:
    """As much of a client as a recipe needs that makes no requests."""

    client_id = (1, b"")

    def __init__(self) -> None:
        self.waiting: set[object] = set()

    def at_session_end(self, function: object) -> None: ...
    def forget_session_end(self, function: object) -> None: ...
    def take_steps(self) -> None: ...


def test_a_lock_released_while_the_session_ends() -> None:
    """Either release, or whoever comes later, must let the next thread of the same object have its turn."""
    threads: list[threading.Thread] = []

    class Probed(LockCore):
        probed: bool

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "is_acquired" and value is False and self.__dict__.get("probed"):
                self.probed = False
                threads.append(meanwhile(lambda: finish(self._release())))

    quiet: Any = Quiet()
    lock = Probed(quiet, "/lock")
    assert finish(lock._turn.enter(False, None))
    tenure = lock._begin_tenure()
    assert lock._hold(tenure, 1)
    lock.probed = True
    tenure.end()
    threads[0].join(5)
    assert (lock.is_acquired, lock.lost) == (False, False)
    assert finish(lock._turn.enter(False, None)), "nobody gave the turn back"


def test_a_semaphore_cancelled_before_it_stands_in_line() -> None:
    class Cancels(Quiet):
        def exists_async(self, path: str) -> Call[None]:
            semaphore.cancel()
            call: Call[None] = Call()
            call.set_result(None)
            return call

    cancels: Any = Cancels()
    semaphore = SemaphoreCore(cancels, "/semaphore")
    with pytest.raises(AcquireCancelled):
        finish(semaphore._contend(semaphore._begin_tenure(), True))
