# ruff: noqa: PLR0917 -- kazoo's arguments have kazoo's order
"""The client for threads, under the names of kazoo.

The thread that calls sends its request and reads the reply itself, if nobody else reads; see
:mod:`fastzk.client._wire`. Two threads stand behind it: the *helper* keeps the session alive, connects again, and
reads when nobody else does; the *callback thread*, which begins with the first callback, calls listeners, watchers
and callbacks. Those may therefore use the client as they like, and block.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import re
import socket
import ssl as ssl_module
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from fastzk.acl import ACL
from fastzk.client._call import Call
from fastzk.client._channel import ZnodeStat
from fastzk.client._wire import Waker, Wire
from fastzk.client.hosts import Attempt
from fastzk.client.interfaces import Observer
from fastzk.client.operations import TransactionRequest
from fastzk.client.recipes.methods import Recipes
from fastzk.client.results import Children, Created, Identity, NodeACL, NodeData, WatchedEvent
from fastzk.client.retry import RetryPolicy, is_repeatable, policy
from fastzk.client.sasl import Credentials
from fastzk.client.session import Dropped
from fastzk.client.signals import Signal
from fastzk.client.states import State
from fastzk.client.stream_wire import SocketWaker, StreamWire, ready
from fastzk.client.watchers import ChildrenWatch, DataWatch
from fastzk.client.watches import Watcher
from fastzk.client.writable import Search, ask
from fastzk.errors import (
    ConnectionLossError,
    ForkedError,
    OperationTimeoutError,
    SessionExpiredError,
    ZooKeeperError,
)
from fastzk.protocol import WatcherType

T = TypeVar("T")

_VERSION = re.compile(r"zookeeper\.version=(\d+(?:\.\d+)+)")
_clients: weakref.WeakSet[Client] = weakref.WeakSet()


class Client(Recipes):
    """A session with a ZooKeeper service, for threads.

    Every operation takes ``timeout=`` (seconds; OperationTimeoutError when they are over; what was sent may still be
    carried out), and has a twin ``*_async`` that returns a :class:`~fastzk.client._call.Call` at once.

    :param hosts: a connection string, a URL or a list of servers; see :mod:`fastzk.client.hosts`.
    :param timeout: of the session, in seconds, unless a URL says another; the server may give another.
    :param client_id: session id and password, to take over a session.
    :param default_acl: for znodes created without one; everybody may do everything where it is None.
    :param auth_data: pairs of scheme and credentials to present on each connection.
    :param sasl_options: ``{"mechanism": "DIGEST-MD5", "username": ..., "password": ...}``, or Credentials.
    :param read_only: whether a server that is cut off from its quorum will do, for reads.
    :param randomize_hosts: whether to begin with any of the servers.
    :param command_retry: how :meth:`retry` goes about it: a policy, or its parameters as a dict.
    :param connection_retry: the pauses between one round of all servers and the next, likewise; it has no end.
    :param handler: one of kazoo's may stand here where it says what holds anyway: callbacks run in a thread, or in a
        greenlet where gevent or eventlet has patched the standard library.
    :param logger: where to say what happens, instead of ``fastzk.client``.
    :param use_ssl: TLS, with a context made of ``ca``, ``certfile``, ``keyfile``, ``keyfile_password``,
        ``verify_certs`` and ``check_hostname``.
    :param ssl: TLS with this context.
    :param observer: called as ``observer(opcode, path, error code, seconds)`` for each request that ended; or a
        :class:`~fastzk.client.interfaces.Tracer`.
    :raises TypeError: for an argument of the wrong kind.
    :raises ValueError: for one that makes no sense; the text names what to use instead.
    """

    def __init__(
        self,
        hosts: str | Sequence[str] = "127.0.0.1:2181",
        timeout: float = 10.0,
        client_id: tuple[int, bytes] | None = None,
        *,
        default_acl: Sequence[ACL] | None = None,
        auth_data: Iterable[tuple[str, str | bytes]] | None = None,
        sasl_options: Mapping[str, str] | Credentials | None = None,
        read_only: bool | None = None,
        randomize_hosts: bool = True,
        connection_retry: RetryPolicy | Mapping[str, Any] | None = None,
        command_retry: RetryPolicy | Mapping[str, Any] | None = None,
        handler: object = None,
        logger: logging.Logger | None = None,
        keyfile: str | None = None,
        keyfile_password: str | None = None,
        certfile: str | None = None,
        ca: str | None = None,
        use_ssl: bool = False,
        verify_certs: bool = True,
        check_hostname: bool = False,
        ssl: ssl_module.SSLContext | None = None,
        observer: Observer | None = None,
    ) -> None:
        _check_handler(handler)
        if isinstance(sasl_options, Mapping):
            sasl_options = _credentials(sasl_options)
        auths = list(auth_data or ())
        if any(scheme == "sasl" for scheme, _ in auths):
            raise ValueError("user and password for SASL go into sasl_options, not into auth_data")
        super().__init__(
            hosts,
            timeout,
            client_id,
            default_acl,
            auths,
            sasl_options,
            bool(read_only),
            randomize_hosts,
            policy("command_retry", command_retry),
            observer,
            connection_retry,
            logger,
        )
        self._ssl = ssl
        if ssl is None and (use_ssl or self._session.target.tls):
            self._ssl = context = ssl_module.create_default_context(cafile=ca)
            # a URL with zks:// alone is as strict as Python's default
            context.check_hostname = verify_certs and (check_hostname or not use_ssl)
            if not verify_certs:
                context.verify_mode = ssl_module.CERT_NONE
            if certfile is not None:
                context.load_cert_chain(certfile, keyfile, keyfile_password)
        #: What settled calls leave to be done by the thread that read their replies.
        self.steps: deque[Callable[[], None]] = deque()
        self._taking = False
        self._wire: Wire | StreamWire | None = None  # requests may leave by it
        self._next_wire: Wire | StreamWire | None = None
        self._waker: Waker | SocketWaker | None = None
        self._helper: threading.Thread | None = None
        self._stopping = False
        self._asleep_until = 0.0  # when the helper looks at its deadlines again, if nothing wakes it
        self._live = threading.Event()
        self._life = threading.RLock()  # start and stop one at a time
        self._callbacks: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] | None = None
        self._callback_thread: threading.Thread | None = None
        self._callbacks_mutex = threading.RLock()  # a finalizer may come while its owner starts the thread
        self._forked = False
        self._peer: tuple[str, int] | None = None
        self.DataWatch = partial(DataWatch, self)
        self.ChildrenWatch = partial(ChildrenWatch, self)
        _clients.add(self)

    # ---- life

    def start(self, timeout: float | None = 15.0) -> None:
        """Connect.

        :param timeout: seconds to wait for a session; None for no limit.
        :raises OperationTimeoutError: when there is none by then; the client is stopped again.
        :raises AuthFailedError: when the server refuses the credentials.
        """
        self.start_async()
        until = None if timeout is None else time.monotonic() + timeout
        while not self._live.wait(0.1 if until is None else max(0.0, min(0.1, until - time.monotonic()))):
            if not self._session.live or (until is not None and time.monotonic() >= until):
                error = OperationTimeoutError() if self._session.live else self._session.refusal()
                self.stop()
                raise error

    def start_async(self) -> threading.Event:
        """Begin to connect; the event is set while there is a session.

        Requests made from now on wait for it.
        """
        if self._forked:
            raise ForkedError()
        with self._life:
            if self._helper is not None and self._session.live:
                return self._live
            self._end()
            self._stopping = False
            self._waker = SocketWaker() if self._by_stream() else Waker()
            self._session.begin()
            self._taking = True
            self._helper = threading.Thread(target=self._run, name="fastzk-helper", daemon=True)
            self._helper.start()
        return self._live

    def stop(self) -> None:
        """End the session: its ephemeral znodes go, requests under way fail with ConnectionClosedError."""
        if self._forked:  # another thread of the parent may have held the lock
            return
        with self._life:
            if self._helper is None:
                return
            self._taking = False
            if self._session.live:
                said: Call[None] = Call(self)
                self._session.close(said)
                if not said.done():
                    self.wait(said, min(5.0, self.session_timeout))
            self._end()

    def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is None:
            return
        self._stopping = True
        assert self._waker is not None
        self._waker.wake()
        if helper is not threading.current_thread():
            helper.join()
        self._session.closed()
        self._wake_waiting()
        self._session.call_all()
        self.run_steps()
        self._waker.close()
        self._waker = None
        with self._callbacks_mutex:
            callbacks, thread = self._callbacks, self._callback_thread
            self._callbacks = self._callback_thread = None
        if callbacks is not None and thread is not None:
            callbacks.put(None)
            if thread is not threading.current_thread():
                thread.join(5.0)

    def close(self) -> None:
        """The same as :meth:`stop`."""
        self.stop()

    def restart(self) -> None:
        """Stop, and start with a new session."""
        self.stop()
        self.start()

    def __enter__(self) -> Client:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _by_stream(self) -> bool:
        # gevent and eventlet put classes of their own in the place of socket.socket.
        return self._ssl is not None or socket.socket.__module__ != "socket"

    def _after_fork(self) -> None:
        """In the child: this client is the parent's."""
        self._forked = True
        self._taking = False
        for wire in (self._wire, self._next_wire):
            if wire is not None:
                wire.abandon()
        self._wire = self._next_wire = None

    # ---- the helper

    def _run(self) -> None:
        session = self._session
        try:
            while session.live and not self._stopping:
                attempt = session.next_attempt()
                self._idle(attempt.delay)
                wire = self._connect(attempt)
                if wire is not None:
                    self._serve(wire)
        except Exception:  # nothing that is known: do not leave callers waiting
            self.logger.exception("the client stopped because of an error of its own")
            self._taking = False
            session.closed()
        self._live.clear()
        if not session.live:
            # Closed, or beyond help because of wrong credentials.
            session.refuse()
            self._wake_waiting()
            session.call_all()
        self.run_steps()

    def _serve(self, wire: Wire | StreamWire) -> None:
        session = self._session
        search: Search | None = None
        self._next_wire = wire
        session.connected()
        try:
            while not wire.broken and not self._stopping:
                try:
                    left = session.tick()
                except Dropped as error:
                    wire.shut(error)
                    break
                self.run_steps()
                if session.wants_another:
                    search = search or Search(session.rotation.servers)
                    if not search.left and ask(server := search.next(), self._ssl):
                        session.rotation.prefer(server)
                        wire.shut("another server takes writes")
                        break
                    left = min(left, search.left)
                # From here on a new deadline wakes it; one that came before that is looked for once more.
                self._asleep_until = time.monotonic() + left
                if self._session.due_before(self._asleep_until):
                    continue
                wire.serve(left)
                self._asleep_until = 0.0
                self.run_steps()
        finally:
            self._wire = self._next_wire = None
            self._live.clear()
            wire.shut("the client was closed")
            wire.close()
            session.lost(wire.problem)
            self.run_steps()

    def _idle(self, seconds: float) -> None:
        """Without a connection: wait, and do what is due meanwhile."""
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(Dropped):
                self._session.tick()
            self.run_steps()
            left = until - time.monotonic()
            if left <= 0 or self._stopping:
                return
            assert self._waker is not None
            self._waker.wait(min(left, 0.2))

    def _connect(self, attempt: Attempt) -> Wire | StreamWire | None:
        host, port = attempt.server
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self.logger.info("no address host=%s reason=%r", host, error)
            return None
        for family, _, _, _, address in found:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # of descriptors, for example, there may be some again later
                self.logger.info("no socket reason=%r", error)
                continue
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._reach(sock, address)
                self._peer = (str(address[0]), port)
                if isinstance(self._waker, Waker):
                    sock.setblocking(True)
                    return Wire(self._channel, sock.detach(), self._waker)
                assert self._waker is not None
                if self._ssl is not None:
                    sock.settimeout(self._session.connect_timeout)
                    sock = self._ssl.wrap_socket(sock, server_hostname=host)
                return StreamWire(self._channel, sock, self._waker)
            except OSError as error:
                sock.close()
                self.logger.info("no connection server=%s reason=%r", attempt.server, error)
            if self._stopping:
                break
        return None

    def _reach(self, sock: socket.socket, address: Any) -> None:
        """Connect, doing what is due while that takes its time."""
        sock.setblocking(False)
        code = sock.connect_ex(address)
        until = time.monotonic() + self._session.connect_timeout
        while code in (errno.EINPROGRESS, errno.EALREADY, errno.EINTR):
            if self._stopping or time.monotonic() >= until:
                raise TimeoutError("no answer in time")
            if ready([sock.fileno()], 0.05, sock.fileno()):
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._idle(0.0)
        if code:
            raise OSError(code, os.strerror(code))

    # ---- requests

    def _new(self) -> Call[Any]:
        if not self._taking:
            raise ForkedError() if self._forked else self._session.refusal()
        if not self._session.live:
            raise self._session.refusal()
        return Call(self)

    def _made(self, sink: Call[Any], timeout: float | None, path: str | None) -> None:
        wire = self._wire
        if wire is not None:
            wire.made()
        elif not self._session.live:
            # The client was stopped since `_new`, and may have settled what it knew before this request was there.
            sink.set_exception(self._session.refusal())
        if timeout is not None:
            self._expire(sink, timeout, path)

    def _expire(self, sink: Call[Any], timeout: float, path: str | None) -> None:
        sink.indirect = True
        when = time.monotonic() + timeout
        self._session.expire_at(when, sink, path)
        self._be_there(when)

    def _be_there(self, when: float) -> None:
        """Something is due: see that the helper does not sleep past it."""
        if when < self._asleep_until and self._waker is not None:
            self._waker.wake()

    def wait(self, call: Call[Any], timeout: float) -> None:
        """Wait until ``call`` is settled, at most ``timeout`` seconds (negative: for ever)."""
        wire = self._wire
        if wire is None:
            if self._forked:  # the answer goes to the parent
                raise ForkedError()
            call.wait_settled(timeout)
            return
        began = time.monotonic() if timeout >= 0 else 0.0
        if not wire.wait(call, self.steps, self.run_steps, timeout):
            call.wait_settled(max(0.0, timeout - (time.monotonic() - began)) if timeout >= 0 else -1.0)

    def _value(self, call: Call[T], timeout: float | None, path: str | None = None) -> T:
        if timeout is not None and not call.wait(timeout):
            call.cancel()
            raise OperationTimeoutError(path)
        return call.result()

    def run_steps(self) -> None:
        """Go on with composed operations whose requests were answered."""
        steps = self.steps
        while steps:
            try:
                step = steps.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                step()
            except BaseException:
                # An interrupt of this thread, which goes on elsewhere: the step is another one's, and not lost.
                steps.appendleft(step)
                if self._waker is not None:
                    self._waker.wake()
                raise

    def compose(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> Call[T]:
        """Run a coroutine that awaits nothing but calls of this client; the threads that read take its steps.

        When the result is cancelled, or the time is over, the coroutine is closed where it stands.
        """
        result = Composed(self, coroutine)
        result.step()
        if timeout is not None and not result.done():
            when = time.monotonic() + timeout
            self._session.call_at(when, result.expire, result)
            self._be_there(when)
        return result

    def pause(self, seconds: float) -> Call[None]:
        """Something to await that long."""
        return self.promise(seconds)

    def promise(self, timeout: float | None = None) -> Call[Any]:
        """See Operations."""
        call: Call[Any] = Call(self)
        call.indirect = True
        if timeout is not None:
            when = time.monotonic() + timeout
            self._session.call_at(when, partial(call.set_result, False), call)
            self._be_there(when)
            if not self._session.live:  # nobody will look at deadlines any more
                call.set_result(False)
        return call

    def take_steps(self) -> None:
        """See Operations."""
        self.run_steps()

    def tell(self, function: Callable[..., object], *arguments: object) -> None:
        """See Operations."""
        self.dispatch(function, *arguments)

    # ---- callbacks

    def on_state(self, state: State) -> None:
        """See fastzk.client.session.Face."""
        if state == State.LOST:
            self._session_ended()
        for listener in list(self._listeners):
            self.dispatch(self._tell_listener, listener, state)

    def on_ready(self) -> None:
        """See fastzk.client.session.Face."""
        self._wire = self._next_wire
        self._live.set()

    def notify(self, watcher: Watcher, event: WatchedEvent) -> object:
        """See fastzk.client.session.Face."""
        if isinstance(watcher, Signal):
            watcher.fire()
        else:
            self.dispatch(watcher, event)
        return None

    def _tell_listener(self, listener: Callable[[State], object], state: State) -> None:
        if listener in self._listeners and listener(state) is True:
            self.remove_listener(listener)

    def dispatch(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the callback thread call a function; never blocks."""
        callbacks = self._callbacks
        if callbacks is None:
            with self._callbacks_mutex:
                callbacks = self._callbacks
                if callbacks is None:
                    callbacks = queue.SimpleQueue()
                    self._callback_thread = threading.Thread(
                        target=_call_back, args=(callbacks, self.logger), name="fastzk-callbacks", daemon=True
                    )
                    self._callback_thread.start()
                    self._callbacks = callbacks
        callbacks.put((function, arguments))

    # ---- operations

    def exists(
        self,
        path: str,
        watch: Watcher | None = None,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> ZnodeStat | None:
        """The stat of a znode; None where there is none.

        :param watch: called once, with a :class:`WatchedEvent`, when the znode is created, changed or deleted.
        :param linearizable: see every change acknowledged to any client before this call; see docs/client.md.
        """
        return self._value(self.exists_async(path, watch, linearizable=linearizable), timeout, path)

    def get(
        self,
        path: str,
        watch: Watcher | None = None,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> NodeData:
        """The data and the stat of a znode.

        :param watch: called once when the data are set or the znode is deleted.
        :param linearizable: see every change acknowledged to any client before this call; see docs/client.md.
        :raises NoNodeError: when it does not exist.
        """
        return self._value(self.get_async(path, watch, linearizable=linearizable), timeout, path)

    @overload
    def get_children(
        self,
        path: str,
        watch: Watcher | None = None,
        include_data: Literal[False] = False,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> list[str]: ...
    @overload
    def get_children(
        self,
        path: str,
        watch: Watcher | None = None,
        *,
        include_data: Literal[True],
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Children: ...
    def get_children(
        self,
        path: str,
        watch: Watcher | None = None,
        include_data: bool = False,
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> list[str] | Children:
        """The names of a znode's children, in no particular order.

        :param watch: called once when a child is created or deleted, or the znode itself is deleted.
        :param include_data: the result is a :class:`Children`, with the stat of the znode.
        :param linearizable: see every change acknowledged to any client before this call; see docs/client.md.
        :raises NoNodeError: when it does not exist.
        """
        call: Call[list[str] | Children] = self.get_children_async(
            path, watch, include_data, linearizable=linearizable
        )
        return self._value(call, timeout, path)

    @overload
    def create(
        self,
        path: str,
        value: bytes | None = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
        makepath: bool = False,
        include_data: Literal[False] = False,
        *,
        container: bool = False,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> str: ...
    @overload
    def create(
        self,
        path: str,
        value: bytes | None = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
        makepath: bool = False,
        *,
        include_data: Literal[True],
        container: bool = False,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Created: ...
    def create(
        self,
        path: str,
        value: bytes | None = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
        makepath: bool = False,
        include_data: bool = False,
        *,
        container: bool = False,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> str | Created:
        """Create a znode and return its path.

        :param acl: who may do what; the client's default where it is None.
        :param ephemeral: it goes when the session ends.
        :param sequence: the server appends a number of ten digits to its name.
        :param makepath: create missing parents too, with the same ACL.
        :param include_data: the result is a :class:`Created`, with the stat.
        :param container: the server deletes it some time after its last child went.
        :param ttl: the server deletes it after so many seconds without a change or a child.
        :raises NodeExistsError: when it exists.
        :raises NoNodeError: when its parent does not.
        :raises NoChildrenForEphemeralsError: when its parent is ephemeral.
        """
        call: Call[str | Created] = self.create_async(
            path, value, acl, ephemeral, sequence, makepath, include_data, container=container, ttl=ttl
        )
        return self._value(call, timeout, path)

    def ensure_path(self, path: str, acl: Sequence[ACL] | None = None, *, timeout: float | None = None) -> bool:
        """Create a znode and its ancestors, as far as they are missing."""
        return self._value(self.ensure_path_async(path, acl), timeout, path)

    def set(self, path: str, value: bytes | None, version: int = -1, *, timeout: float | None = None) -> ZnodeStat:
        """Set the data of a znode.

        :param version: the version it must have; -1: any.
        :raises BadVersionError: when it has another.
        :raises NoNodeError: when it does not exist.
        """
        return self._value(self.set_async(path, value, version), timeout, path)

    def delete(self, path: str, version: int = -1, recursive: bool = False, *, timeout: float | None = None) -> bool:
        """Delete a znode.

        :param version: the version it must have; -1: any.
        :param recursive: with all below it, whatever their versions; then it need not exist.
        :raises NotEmptyError: when it has children.
        """
        return self._value(self.delete_async(path, version, recursive), timeout, path)

    def get_acls(self, path: str, *, timeout: float | None = None) -> NodeACL:
        """The ACL and the stat of a znode."""
        return self._value(self.get_acls_async(path), timeout, path)

    def set_acls(self, path: str, acls: Sequence[ACL], version: int = -1, *, timeout: float | None = None) -> ZnodeStat:
        """Set the ACL of a znode.

        :param version: the ``aversion`` it must have; -1: any.
        """
        return self._value(self.set_acls_async(path, acls, version), timeout, path)

    def sync(self, path: str = "/", *, timeout: float | None = None) -> str:
        """Wait until the server knows everything that was committed before this call."""
        return self._value(self.sync_async(path), timeout, path)

    def check(self, path: str, version: int, *, timeout: float | None = None) -> bool:
        """Whether a znode has this version: True or an error."""
        return self._value(self.check_async(path, version), timeout, path)

    def multi_read(
        self,
        reads: Iterable[tuple[Literal["get", "children"], str]],
        *,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> list[NodeData | list[str] | ZooKeeperError]:
        """Several reads of one state of the tree; what failed is an error in the list.

        :param linearizable: see every change acknowledged to any client before this call; see docs/client.md.
        """
        return self._value(self.multi_read_async(reads, linearizable=linearizable), timeout)

    def get_ephemerals(self, prefix: str = "/", *, timeout: float | None = None) -> list[str]:
        """The session's ephemeral znodes whose path begins with ``prefix``."""
        return self._value(self.get_ephemerals_async(prefix), timeout, prefix)

    def get_all_children_number(self, path: str, *, timeout: float | None = None) -> int:
        """How many znodes there are below a znode, at any depth."""
        return self._value(self.get_all_children_number_async(path), timeout, path)

    def who_am_i(self, *, timeout: float | None = None) -> list[Identity]:
        """The identities of the session."""
        return self._value(self.who_am_i_async(), timeout)

    def get_config(self, *, timeout: float | None = None) -> NodeData:
        """The configuration of the ensemble."""
        return self._value(self.get_config_async(), timeout)

    def reconfig(
        self,
        joining: str | None,
        leaving: str | None,
        new_members: str | None,
        from_config: int = -1,
        *,
        timeout: float | None = None,
    ) -> NodeData:
        """Change the members of the ensemble; the result is the new configuration.

        :param joining: servers to add, as in ``server.5=host:2888:3888;2181``, with commas between them.
        :param leaving: ids of servers to remove, with commas between them.
        :param new_members: all servers, instead of the two.
        :param from_config: the version the configuration must have; -1: any.
        """
        return self._value(self.reconfig_async(joining, leaving, new_members, from_config), timeout)

    def add_auth(self, scheme: str, credential: str | bytes, *, timeout: float | None = None) -> bool:
        """Present credentials, now and on each later connection.

        :raises AuthFailedError: when the server refuses them; the session is lost then.
        """
        return self._value(self.add_auth_async(scheme, credential), timeout)

    def check_watches(self, path: str, kind: WatcherType = WatcherType.ANY, *, timeout: float | None = None) -> bool:
        """Whether the server watches a path for this session."""
        return self._value(self.check_watches_async(path, kind), timeout, path)

    def remove_watches(self, path: str, kind: WatcherType = WatcherType.ANY, *, timeout: float | None = None) -> None:
        """Remove the session's watches on a path; those who waited for them hear nothing more.

        :raises NoWatcherError: when there is none.
        """
        return self._value(self.remove_watches_async(path, kind), timeout, path)

    def watch(self, path: str, recursive: bool = False) -> Events:
        """The events at a znode, with ``recursive`` also at all below it, to be iterated over.

        The znode need not exist. Use it as a context manager, so that the server's watch is removed at its end::

            with client.watch("/jobs", recursive=True) as events:
                for event in events:
                    ...

        When the session expires, the loop ends with SessionExpiredError: changes may have been missed.

        :raises ValueError: when this client watches the path in the other mode already.
        """
        return Events(self, path, recursive)

    def transaction(self) -> Transaction:
        """Operations that take effect together; commits at the end of a ``with``."""
        return Transaction(self)

    def retry(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call a function until it succeeds, or fails in a way that forbids to call it again.

        See :mod:`fastzk.client.retry` for what is repeated. A function of your own is repeated after any loss of
        connection, so it must be one that can be.
        """
        retries = self._retry_policy.begin(is_repeatable(self, function, arguments, options))
        while True:
            try:
                return function(*arguments, **options)
            except ZooKeeperError as error:
                if not retries.again(error):
                    raise
                time.sleep(retries.delay(error))

    # ---- the server

    def command(self, cmd: bytes = b"ruok") -> str:
        """The answer to a four-letter word of the server this client is connected to.

        :raises ConnectionLossError: without a connection.
        """
        if self._peer is None or not self.connected:
            raise ConnectionLossError()
        sock = socket.create_connection(self._peer, timeout=self.session_timeout)
        with sock if self._ssl is None else self._ssl.wrap_socket(sock, server_hostname=self._peer[0]) as stream:
            stream.sendall(cmd)
            chunks = []
            while chunk := stream.recv(65536):
                chunks.append(chunk)
        return b"".join(chunks).decode("utf-8", "replace")

    def server_version(self, retries: int = 3) -> tuple[int, ...]:
        """The version of the server, as in ``(3, 8, 0)``.

        :raises ZooKeeperError: when it does not say it; the word ``envi`` must be among those it answers.
        """
        for _ in range(1 + max(0, retries)):
            found = _VERSION.search(self.command(b"envi"))
            if found is not None:
                return tuple(int(part) for part in found[1].split("."))
        raise ZooKeeperError()

    if TYPE_CHECKING:

        def exists_async(
            self,
            path: str,
            watch: Watcher | None = None,
            *,
            linearizable: bool = False,
            timeout: float | None = None,
        ) -> Call[ZnodeStat | None]: ...
        def get_async(
            self,
            path: str,
            watch: Watcher | None = None,
            *,
            linearizable: bool = False,
            timeout: float | None = None,
        ) -> Call[NodeData]: ...
        def get_children_async(
            self,
            path: str,
            watch: Watcher | None = None,
            include_data: bool = False,
            *,
            linearizable: bool = False,
            timeout: float | None = None,
        ) -> Call[Any]: ...
        def get_acls_async(self, path: str, *, timeout: float | None = None) -> Call[NodeACL]: ...
        def set_acls_async(
            self, path: str, acls: Sequence[ACL], version: int = -1, *, timeout: float | None = None
        ) -> Call[ZnodeStat]: ...
        def set_async(
            self, path: str, value: bytes | None, version: int = -1, *, timeout: float | None = None
        ) -> Call[ZnodeStat]: ...
        def delete_async(
            self, path: str, version: int = -1, recursive: bool = False, *, timeout: float | None = None
        ) -> Call[bool]: ...
        def check_async(self, path: str, version: int, *, timeout: float | None = None) -> Call[bool]: ...
        def create_async(
            self,
            path: str,
            value: bytes | None = b"",
            acl: Sequence[ACL] | None = None,
            ephemeral: bool = False,
            sequence: bool = False,
            makepath: bool = False,
            include_data: bool = False,
            *,
            container: bool = False,
            ttl: float | None = None,
            timeout: float | None = None,
        ) -> Call[Any]: ...
        def get_all_children_number_async(self, path: str, *, timeout: float | None = None) -> Call[int]: ...
        def get_config_async(self, *, timeout: float | None = None) -> Call[NodeData]: ...
        def get_ephemerals_async(self, prefix: str = "/", *, timeout: float | None = None) -> Call[list[str]]: ...
        def multi_read_async(
            self,
            reads: Iterable[tuple[Literal["get", "children"], str]],
            *,
            linearizable: bool = False,
            timeout: float | None = None,
        ) -> Call[list[NodeData | list[str] | ZooKeeperError]]: ...
        def reconfig_async(
            self,
            joining: str | None,
            leaving: str | None,
            new_members: str | None,
            from_config: int = -1,
            *,
            timeout: float | None = None,
        ) -> Call[NodeData]: ...
        def check_watches_async(
            self, path: str, kind: WatcherType = WatcherType.ANY, *, timeout: float | None = None
        ) -> Call[bool]: ...
        def remove_watches_async(
            self, path: str, kind: WatcherType = WatcherType.ANY, *, timeout: float | None = None
        ) -> Call[None]: ...
        def who_am_i_async(self, *, timeout: float | None = None) -> Call[list[Identity]]: ...
        def sync_async(self, path: str = "/", *, timeout: float | None = None) -> Call[str]: ...
        def ensure_path_async(
            self, path: str, acl: Sequence[ACL] | None = None, *, timeout: float | None = None
        ) -> Call[bool]: ...
        def add_auth_async(
            self, scheme: str, credential: str | bytes, *, timeout: float | None = None
        ) -> Call[bool]: ...


class Composed(Call):  # type: ignore[type-arg]
    """The result of a coroutine that takes several requests. ``step`` goes on with it after each."""

    def __new__(cls, client: Client, coroutine: Coroutine[Any, Any, Any]) -> Composed:
        return super().__new__(cls, client)

    def __init__(self, client: Client, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._awaited: Call[Any] | None = None
        self.indirect = True

    def step(self) -> None:
        """The call it waits for is settled: run it up to the next one."""
        coroutine = self._coroutine
        try:
            while not self.done():
                awaited = coroutine.send(None)
                if awaited.done():
                    continue
                self._awaited = awaited
                # Looked at again behind the assignment: who cancels settles this first and reads `_awaited` then.
                if self.done():
                    awaited.cancel()
                    break
                awaited.then(self.step)
                return
            coroutine.close()
        except StopIteration as end:
            self.set_result(end.value)
        except Exception as error:
            self.set_exception(error)
        except BaseException:
            # The thread that took this step was interrupted, and the coroutine has ended. Its own thread must not wait.
            Call.cancel(self)
            raise

    def cancel(self) -> bool:
        """Give it up: the coroutine ends where it waits. What was sent may be carried out all the same."""
        if not super().cancel():
            return False
        self._leave()
        self.owner.run_steps()
        return True

    def expire(self) -> None:
        """The time is over."""
        if self.set_exception(OperationTimeoutError()):
            self._leave()

    def _leave(self) -> None:
        awaited = self._awaited
        if awaited is not None:
            awaited.cancel()


class Transaction(TransactionRequest):
    """See :meth:`Client.transaction`."""

    def commit(self, *, timeout: float | None = None) -> list[Any]:
        """Send it; one result for each operation, all of them errors where one failed."""
        results: list[Any] = self.commit_async().result(timeout)
        return results

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit, unless the block failed or did.

        :raises ZooKeeperError: when an operation failed; nothing was carried out then.
        """
        if kind is None and not self.committed:
            problem = self.first_failure(self.commit())
            if problem is not None:
                raise problem


class Events:
    """The events of a persistent watch, in order. See :meth:`Client.watch`."""

    def __init__(self, client: Client, path: str, recursive: bool) -> None:
        self.path = path
        self.recursive = recursive
        self._client = client
        self._events: queue.SimpleQueue[WatchedEvent | None] = queue.SimpleQueue()
        self._ended = False
        self._closed = False
        call = client._open_stream(path, self)
        try:
            call.result()
        except ConnectionLossError:
            # The next connection sets it again with the other watches.
            pass
        except BaseException:
            self.close()
            raise

    def put(self, event: WatchedEvent) -> None:
        """See fastzk.client.watches.Stream."""
        self._events.put(event)

    def end(self, event: WatchedEvent) -> None:
        """See fastzk.client.watches.Stream."""
        self._ended = True
        self._events.put(None)

    def next(self, timeout: float | None = None) -> WatchedEvent:
        """The next event.

        :param timeout: seconds to wait for it; None for no limit.
        :raises OperationTimeoutError: when there was none.
        :raises SessionExpiredError: when the session ended.
        """
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            raise OperationTimeoutError(self.path) from None
        if event is None:
            self._events.put(None)  # for who asks again
            if self._closed:
                raise StopIteration
            raise SessionExpiredError(self.path)
        return event

    def __iter__(self) -> Iterator[WatchedEvent]:
        return self

    def __next__(self) -> WatchedEvent:
        return self.next()

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go; the server's watch is removed with the last of the kind on the path."""
        if not self._closed:
            self._closed = True
            self._events.put(None)
            with contextlib.suppress(ZooKeeperError):
                self._client.compose(self._client._close_stream(self.path, self, self.recursive)).result()

    def __del__(self) -> None:
        # Dropped without close(). This may run anywhere, so the helper does the rest.
        if not getattr(self, "_closed", True):
            client = self._client
            client._session.call_at(0.0, partial(_let_go, client, self.path, self.recursive))
            client._be_there(0.0)


def _check_handler(handler: object) -> None:
    """Refuse a handler that would have the client run in another way than it does."""
    if handler is None:
        return
    if isinstance(handler, type):
        raise TypeError(f"a handler is an object, not the class {handler.__name__}")
    names = {each.__name__ for each in type(handler).__mro__}
    if "SequentialThreadingHandler" in names:
        return
    for package, name in (("gevent", "SequentialGeventHandler"), ("eventlet", "SequentialEventletHandler")):
        if name in names:
            if socket.socket.__module__.partition(".")[0] == package:
                return
            patch = f"{package}.monkey.patch_all()" if package == "gevent" else f"{package}.monkey_patch()"
            raise ValueError(f"no {name} is needed under {package}, but a patched standard library: call {patch} first")
    raise TypeError(
        f"{type(handler).__name__} is of no use: there are no handlers but threads, and greenlets where gevent or "
        "eventlet has patched the standard library; leave the argument out"
    )


def _credentials(options: Mapping[str, str]) -> Credentials:
    mechanism = options.get("mechanism", "DIGEST-MD5")
    if mechanism != "DIGEST-MD5":
        raise ValueError(f"the SASL mechanism {mechanism!r} is not supported, only DIGEST-MD5 is")
    try:
        return Credentials(options["username"], options["password"], options.get("service", "zookeeper"))
    except KeyError as missing:
        raise ValueError(f"sasl_options lack {missing}") from None


def _let_go(client: Client, path: str, recursive: bool) -> None:
    with contextlib.suppress(ZooKeeperError):
        client.compose(client._close_stream(path, None, recursive))


def _call_back(
    callbacks: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None], log: logging.Logger
) -> None:
    """The callback thread."""
    while (item := callbacks.get()) is not None:
        function, arguments = item
        try:
            function(*arguments)
        except BaseException:  # of sys.exit(), too: the others are still to be called
            log.exception("a listener or watcher raised an exception")
        del item, function, arguments


def _after_fork() -> None:
    for client in list(_clients):
        if client._helper is not None:
            client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
