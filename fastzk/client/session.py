"""The life of a session, without sockets, threads or an event loop.

Both clients drive one :class:`Session` each. They move bytes and time: connect to where :meth:`Session.next_attempt`
says, tell :meth:`Session.connected` and :meth:`Session.lost`, hand what is received to the channel, send what it has
to send, and call :meth:`Session.tick` when it wants to be called. Everything else is decided here: what a new
connection begins with (handshake, SASL, credentials, watches, in this order), when to ping, when a silent server is
given up, what becomes of requests when a connection or the session ends.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from fastzk._codec import encode, encode_frame
from fastzk.client import hosts
from fastzk.client._call import forget_settled
from fastzk.client._channel import Channel
from fastzk.client.interfaces import Observer, Sink
from fastzk.client.results import WatchedEvent
from fastzk.client.retry import RetryPolicy
from fastzk.client.sasl import Credentials, DigestMd5, SaslError
from fastzk.client.states import KeeperState, State
from fastzk.client.watches import Watcher, Watches
from fastzk.errors import (
    AuthFailedError,
    ConnectionClosedError,
    NotSent,
    OperationTimeoutError,
    SessionExpiredError,
    ZooKeeperError,
    from_code,
)
from fastzk.protocol import PASSWORD_BYTES, OpCode, Xid
from fastzk.records import AuthPacket, ConnectRequest, GetSASLRequest, RequestHeader

logger = logging.getLogger("fastzk.client")

_NS: Final = 1_000_000_000
_SASL_XID: Final = -16
_NO_PASSWORD: Final = bytes(PASSWORD_BYTES)


class Dropped(Exception):
    """The connection must be closed; ``str()`` says why."""


class Face(Protocol):
    """What a session needs of the client that drives it. None of it may block or make requests."""

    def on_state(self, state: State) -> None:
        """Listeners are to be told."""

    def on_ready(self) -> None:
        """Requests may leave."""

    def notify(self, watcher: Watcher, event: WatchedEvent) -> object:
        """A watcher is to be called."""


class _Auth:
    """Credentials, and who waits to hear whether a server took them."""

    __slots__ = ("data", "scheme", "sink")

    def __init__(self, scheme: str, data: bytes, sink: Sink | None) -> None:
        self.scheme = scheme
        self.data = data
        self.sink = sink

    def frame(self) -> bytes:
        header = encode(RequestHeader, (Xid.AUTH, OpCode.AUTH))
        return encode_frame(header, encode(AuthPacket, (0, self.scheme, self.data)))


class Session:
    """One session after the other: when one expires the next begins.

    :param target: the servers and the chroot.
    :param timeout: to ask for, in seconds; the server may give another.
    :param client_id: session id and password of a session to take over.
    :param read_only: whether a server without a quorum will do.
    :param auths: (scheme, credentials) to present on each connection.
    :param sasl: who to be for SASL.
    :param pauses: between one round of all servers and the next.
    :param log: where to say what happens.
    """

    def __init__(
        self,
        face: Face,
        target: hosts.Target,
        timeout: float,
        *,
        client_id: tuple[int, bytes] | None = None,
        read_only: bool = False,
        auths: Iterable[tuple[str, str | bytes]] = (),
        sasl: Credentials | None = None,
        shuffle: bool = True,
        observer: Observer | None = None,
        pauses: RetryPolicy | None = None,
        log: logging.Logger = logger,
    ) -> None:
        self._face = face
        self.log = log
        self.target = target
        if pauses is None:
            self.rotation = hosts.Rotation(target.servers, shuffle)
        else:
            self.rotation = hosts.Rotation(
                target.servers,
                shuffle,
                first_delay=pauses.delay,
                max_delay=pauses.max_delay,
                backoff=pauses.backoff,
                jitter=(1.0 - pauses.max_jitter, 1.0 + pauses.max_jitter),
            )
        self.channel = Channel(self, target.chroot)
        self.channel.observer = observer
        self.watches = Watches(face.notify)
        self.state = State.LOST
        self.keeper_state = KeeperState.CLOSED
        self.requested_timeout = timeout
        #: What the server gave, in seconds.
        self.timeout = timeout
        self.session_id, self.password = client_id or (0, _NO_PASSWORD)
        self._real_session = self.session_id != 0
        self._read_only = read_only
        self._auths = [_Auth(scheme, _raw(data), None) for scheme, data in auths]
        self._auth_replies: deque[_Auth] = deque()
        self._sasl = sasl
        self._negotiation: DigestMd5 | None = None
        #: Neither closed nor beyond help; requests are taken.
        self.live = False
        self._closing = False
        self._connected = False  # a transport is there
        self._lost_at = 0.0
        self._deadlines: list[tuple[float, int, Callable[[], object], Sink | None]] = []
        self._tidy_at = 1024
        self._numbers = itertools.count()

    # ---- beginning and end

    def begin(self) -> None:
        """Take requests; the face starts to connect."""
        self.live = True
        self._closing = False
        self._lost_at = time.monotonic()
        self.keeper_state = KeeperState.CONNECTING

    def refusal(self) -> ZooKeeperError:
        """Why requests are not taken, when ``live`` is False."""
        return AuthFailedError() if self.keeper_state == KeeperState.AUTH_FAILED else ConnectionClosedError()

    def close(self, sink: Sink) -> None:
        """Ask the server to end the session; ``sink`` hears of it. Nothing else is sent after that."""
        self.live = False
        self._closing = True
        if self.channel.open:
            self.channel.request(OpCode.CLOSE_SESSION, b"", False, None, None, sink)
        else:
            sink.set_result(None)

    def closed(self) -> None:
        """The session is over for this client, whether the server heard of it or not."""
        self.live = False  # before requests are settled: one that comes later must not be waited for
        self._end(KeeperState.CLOSED, ConnectionClosedError)
        self._reset()

    def refuse(self) -> None:
        """Settle requests that were made while the session came to its end: no server will answer them."""
        if not self.live:
            self.channel.fail(type(self.refusal()))

    def _reset(self) -> None:
        self.session_id, self.password = 0, _NO_PASSWORD
        self._real_session = False
        self.channel.last_zxid = 0

    def _end(self, state: KeeperState, error: Callable[[str | None], ZooKeeperError]) -> None:
        self._connected = False
        self.channel.disconnected()
        self.keeper_state = state
        self.channel.fail(error)
        for auth in self._auths:
            self._settle(auth, error(None))
        self._auth_replies.clear()
        self.watches.end(state)
        self._become(State.LOST)

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._face.on_state(state)

    # ---- connections

    @property
    def connect_timeout(self) -> float:
        """How long one server may take to accept a connection, and then to answer the handshake, in seconds."""
        return max(1.0, self.timeout / max(1, len(self.rotation.servers)))

    def next_attempt(self) -> hosts.Attempt:
        """Which server to connect to, and after how many seconds."""
        return self.rotation.next()

    @property
    def wants_another(self) -> bool:
        """Whether this server is read-only and there are others, which may not be."""
        return self.keeper_state == KeeperState.CONNECTED_RO and len(self.rotation.servers) > 1

    def connected(self) -> None:
        """A connection is there: the channel has the handshake to send."""
        self._connected = True
        request = encode(
            ConnectRequest,
            (
                0,
                self.channel.last_zxid,
                round(self.requested_timeout * 1000),
                # the id a read-only server gave is known to nobody else
                self.session_id if self._real_session else 0,
                self.password if self._real_session else _NO_PASSWORD,
                self._read_only,
            ),
        )
        self.channel.connect(encode_frame(request))

    def lost(self, reason: object) -> None:
        """The connection broke, or could not be made."""
        self.log.info("connection lost session=0x%x reason=%s", self.session_id, reason)
        if not self._connected:
            return
        self._connected = False
        for auth in self._auth_replies:
            if auth not in self._auths:
                self._auths.append(auth)
        self._auth_replies.clear()
        self._negotiation = None
        self.channel.disconnected()
        if self.state == State.CONNECTED:
            self._lost_at = time.monotonic()
        if self.live:
            self.keeper_state = KeeperState.CONNECTING
            if self.state == State.CONNECTED:
                self._become(State.SUSPENDED)

    # ---- what the channel tells

    def on_handshake(self, timeout_ms: int, session_id: int, password: bytes, read_only: bool) -> None:
        """The server answered the handshake."""
        if timeout_ms <= 0 or session_id == 0:
            self._expired()
            raise Dropped("the session has expired")
        self.timeout = timeout_ms / 1000
        # A session that a read-only server begins is its own; one that it goes on with is known elsewhere as well.
        self._real_session = not read_only or (self._real_session and session_id == self.session_id)
        self.session_id, self.password = session_id, password
        self.keeper_state = KeeperState.CONNECTED_RO if read_only else KeeperState.CONNECTED
        self.rotation.succeeded()
        if self._sasl is not None:
            self._negotiation = DigestMd5(self._sasl)
            self._send_token(self._negotiation.first)
        else:
            self._ready()

    def _ready(self) -> None:
        channel = self.channel
        auths = list(self._auths)
        self._auth_replies = deque(auths)
        for auth in auths:
            channel.control(auth.frame())
        for frame in self.watches.frames(channel.last_zxid, self.target.chroot):
            channel.control(frame)
        channel.release()
        for auth in list(self._auths):
            if auth not in auths and auth not in self._auth_replies:  # another thread added it meanwhile
                self._present(auth)
        self._become(State.CONNECTED)
        self._face.on_ready()

    def _expired(self) -> None:
        self.log.warning("session expired session=0x%x", self.session_id)
        self._end(KeeperState.EXPIRED_SESSION, SessionExpiredError)
        self._reset()
        self._lost_at = time.monotonic()

    def _auth_failed(self, error: ZooKeeperError) -> None:
        self.live = False
        self._end(KeeperState.AUTH_FAILED, AuthFailedError)
        raise Dropped(f"authentication failed: {error}")

    def _send_token(self, token: bytes) -> None:
        header = encode(RequestHeader, (_SASL_XID, OpCode.SASL))
        self.channel.control(encode_frame(header, encode(GetSASLRequest, (token,))))

    def on_sasl(self, err: int, token: bytes | None) -> None:
        """The server answered a SASL token."""
        negotiation = self._negotiation
        if negotiation is None:
            return
        if err:
            self._auth_failed(from_code(err))
        try:
            answer = negotiation.step(token)
        except SaslError as error:
            self._auth_failed(AuthFailedError(str(error)))
            return
        if answer is None:
            self._negotiation = None
            self._ready()
        else:
            self._send_token(answer)

    def on_control(self, xid: int, err: int) -> None:
        """The server answered credentials or watches."""
        if xid == Xid.SET_WATCHES:
            if err:
                raise Dropped(f"the server refused to set watches again: error {err}")
            return
        if not self._auth_replies:
            raise Dropped("an answer to credentials that were not sent")
        auth = self._auth_replies.popleft()
        if not err:
            if auth.sink is not None and not auth.sink.done():
                auth.sink.set_result(True)
            auth.sink = None
            return
        self._auths.remove(auth)
        self._settle(auth, from_code(err))
        self._auth_failed(from_code(err))

    def on_event(self, kind: int, state: int, path: str) -> None:
        """The server sent a watch event."""
        self.watches.event(kind, path)

    def on_watch(self, op: int, missing: bool, path: str, watch: Any) -> None:
        """The server watches a path for a request that asked for it."""
        self.watches.add(op, missing, path, watch)

    # ---- credentials

    def add_auth(self, scheme: str, data: str | bytes, sink: Sink) -> None:
        """Present credentials now and on each later connection; ``sink`` hears what the server says."""
        auth = _Auth(scheme, _raw(data), sink)
        for known in self._auths:
            if (known.scheme, known.data) == (auth.scheme, auth.data):
                self._auths.remove(known)  # presented again at its new place
                break
        self._auths.append(auth)
        if self.channel.open:
            self._present(auth)

    def _present(self, auth: _Auth) -> None:
        frame = auth.frame()
        self._auth_replies.append(auth)
        self.channel.control(frame)

    @staticmethod
    def _settle(auth: _Auth, error: ZooKeeperError) -> None:
        sink, auth.sink = auth.sink, None
        if sink is not None and not sink.done():
            sink.set_exception(error)

    # ---- time

    def call_at(self, when: float, function: Callable[[], object], sink: Sink | None = None) -> None:
        """Have a tick call ``function`` at ``when``, of time.monotonic(); it must neither block nor raise.

        :param sink: it need not be called once this is settled.
        """
        deadline = (when, next(self._numbers), function, sink)
        # Made before the list is looked up, which may be another one by then.
        heapq.heappush(self._deadlines, deadline)
        if len(self._deadlines) > self._tidy_at:
            # Most deadlines are those of requests that were answered long before.
            self._tidy_at = max(1024, 2 * forget_settled(self._deadlines))

    def expire_at(self, when: float, sink: Sink, path: str | None) -> None:
        """Settle ``sink`` by OperationTimeoutError at ``when``, if nothing did before."""

        def expire() -> None:
            if not sink.done():
                sink.set_exception(OperationTimeoutError(path))

        self.call_at(when, expire, sink)

    def call_all(self) -> None:
        """The client stops: what waits for a moment that no tick will tell is called now."""
        deadlines, self._deadlines = self._deadlines, []
        for deadline in sorted(deadlines):
            deadline[2]()

    def due_before(self, when: float) -> bool:
        """Whether a deadline is earlier than ``when``."""
        return bool(self._deadlines) and self._deadlines[0][0] < when - 0.001

    def tick(self) -> float:
        """Do what is due; how many seconds until something is again.

        :raises Dropped: when the server was silent for too long.
        """
        now = time.monotonic()
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            heapq.heappop(deadlines)[2]()
        due = now + 60.0 if not deadlines else deadlines[0][0]
        channel = self.channel
        if not self._connected:
            # Requests do not wait longer for a connection than the session would.
            give_up = self._lost_at + self.timeout
            if channel.count and now >= give_up:
                channel.fail(NotSent)
            elif channel.count:
                due = min(due, give_up)
            else:
                due = min(due, now + 1.0)
            return max(0.0, due - now)
        now_ns = time.monotonic_ns()
        silence = self.timeout * 2 / 3 if channel.open else min(self.connect_timeout, self.timeout * 2 / 3)
        left = silence - (now_ns - channel.heard_ns) / _NS
        if left <= 0:
            raise Dropped(f"nothing came from the server for {silence:.1f} s")
        due = min(due, now + left)
        if channel.open:
            left = self.timeout / 3 - (now_ns - channel.sent_ns) / _NS
            if left <= 0:
                channel.ping()
                left = self.timeout / 3
            due = min(due, now + left)
        return max(0.0, due - now)


def _raw(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)
