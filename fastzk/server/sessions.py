"""Sessions: creation, touch, expiry, re-attach.

A session exists once its createSession transaction is applied and until its closeSession is; the table here is
part of the replicated state and goes into checkpoints. Who is connected, and when a session was last heard of,
is this server's own knowledge. Requests do not touch the table: a connection notes when it last received
bytes, and the expiry check asks it when the session's turn comes.

*Local* sessions are known to one server only: they begin and end there without a transaction, and are lost when that
server ends. With its createSession transaction a local session becomes one of all servers, on the connection that it
has. Those that a server without a leader opens to read-only clients are local, too, and end when there is a leader.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import struct
import time
from collections.abc import Iterator
from typing import Protocol

from fastzk.protocol import PASSWORD_BYTES

logger = logging.getLogger(__name__)

_SESSION = struct.Struct(">qi")


class SessionConnection(Protocol):
    """What sessions need of a client's connection."""

    heard_ns: int
    #: Whether its session is a local one.
    local: bool

    def end(self) -> None:
        """Close: the session is over or lives on another connection."""


class Session:
    """One session.

    ``timeout_ms``: how long it may be silent. ``deadline_ns``: monotonic time of its expiry as known when it was
    last looked at; its connection may have heard of it since. ``local``: only this server knows it. ``read_only``: it
    was opened while there was no leader.
    """

    __slots__ = ("bucket", "closing", "connection", "deadline_ns", "id", "local", "read_only", "timeout_ms")

    def __init__(self, session_id: int, timeout_ms: int, *, local: bool = False, read_only: bool = False) -> None:
        self.id = session_id
        self.timeout_ms = timeout_ms
        self.local = local
        self.read_only = read_only
        self.connection: SessionConnection | None = None
        self.closing = False
        self.deadline_ns = 0
        self.bucket = 0


class _Deadlines:
    """Sessions by the tick in which they have to be looked at."""

    def __init__(self, tick_ns: int) -> None:
        self._tick_ns = tick_ns
        self._buckets: dict[int, set[Session]] = {}
        self._checked = time.monotonic_ns() // tick_ns

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def file(self, session: Session) -> None:
        """Look at the session when its deadline has come. Rounded up: a session never expires early."""
        bucket = max(session.deadline_ns // self._tick_ns, self._checked) + 1
        if bucket != session.bucket:
            self.remove(session)
            self._buckets.setdefault(bucket, set()).add(session)
            session.bucket = bucket

    def remove(self, session: Session) -> None:
        """Do not look at it any more."""
        bucket = self._buckets.get(session.bucket)
        if bucket is not None:
            bucket.discard(session)
            if not bucket:
                del self._buckets[session.bucket]
        session.bucket = 0

    def due(self, now_ns: int) -> Iterator[Session]:
        """Those whose turn has come, which are no longer filed."""
        while self._checked < now_ns // self._tick_ns:
            self._checked += 1
            for session in self._buckets.pop(self._checked, ()):
                session.bucket = 0
                yield session


class Sessions:
    """All sessions of the ensemble, those connected here, and this server's local ones.

    ``min_timeout_ms`` and ``max_timeout_ms`` bound what clients may ask for; ``tick_ms`` is the grain of expiry.
    ``secret`` keys the passwords: the same on every server and for ever, so that a client can re-attach
    anywhere.
    """

    def __init__(
        self, secret: bytes, *, server_id: int, tick_ms: int, min_timeout_ms: int, max_timeout_ms: int
    ) -> None:
        self._secret = secret
        self._table: dict[int, Session] = {}
        self._local: dict[int, Session] = {}
        self._deadlines = _Deadlines(tick_ms * 1_000_000)
        self._local_deadlines = _Deadlines(tick_ms * 1_000_000)
        #: The ids of the read-only sessions are among these: (from, before).
        self._read_only_ids = (0, 0)
        self._min_timeout_ms = min_timeout_ms
        self._max_timeout_ms = max_timeout_ms
        # ZooKeeper's own scheme: the server's id in the top byte, then 40 bits of the time, then a counter.
        self._next_id = (server_id & 0xFF) << 56 | (int(time.time() * 1000) << 24 & (1 << 64) - 1) >> 8
        if self._next_id >= 1 << 63:
            self._next_id -= 1 << 64

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._table.values())

    def get(self, session_id: int) -> Session | None:
        """The session with this id, a local one or not, or None."""
        return self._table.get(session_id) or self._local.get(session_id)

    # -- for connections ------------------------------------------------------------------------------------

    def new_id(self) -> int:
        """An id that no session ever had."""
        while self._next_id in self._table or self._next_id in self._local:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def negotiate(self, timeout_ms: int) -> int:
        """The timeout that a client gets for the one it asked for, in milliseconds."""
        return max(self._min_timeout_ms, min(timeout_ms, self._max_timeout_ms))

    def password(self, session_id: int) -> bytes:
        """The 16 bytes that prove that a client owns the session."""
        key = struct.pack(">q", session_id)
        return hashlib.blake2b(key, key=self._secret, digest_size=PASSWORD_BYTES).digest()

    def attach(self, session_id: int, password: bytes, connection: SessionConnection) -> bool:
        """Move a session to a new connection; its previous one is closed, even if the password is wrong.

        Returns False if there is no such session or the password is wrong.
        """
        session = self.get(session_id)
        if session is None:
            return False
        previous, session.connection = session.connection, None
        if previous is not None and previous is not connection:
            self._touch(session, previous.heard_ns)
            previous.end()
        if session.closing or not hmac.compare_digest(password, self.password(session_id)):
            return False
        session.timeout_ms = connection.timeout_ms  # type: ignore[attr-defined]
        self.attached(session_id, connection)
        return True

    def attached(self, session_id: int, connection: SessionConnection) -> None:
        """The session is served by ``connection`` from now on."""
        session = self.get(session_id)
        if session is not None:
            session.connection = connection
            connection.local = session.local
            self._touch(session, connection.heard_ns)

    def detached(self, session_id: int, connection: SessionConnection) -> None:
        """``connection`` is gone; the session lives on until its timeout has passed since it was heard of."""
        session = self.get(session_id)
        if session is not None and session.connection is connection:
            session.connection = None
            self._touch(session, connection.heard_ns)

    # -- in an ensemble ---------------------------------------------------------------------------------------

    @property
    def secret(self) -> bytes:
        """What keys the passwords: the leader's, for every server."""
        return self._secret

    @secret.setter
    def secret(self, secret: bytes) -> None:
        self._secret = secret

    def heard_since(self, since_ns: int) -> list[int]:
        """The sessions whose connections here received something after `since_ns` (monotonic)."""
        return [
            session.id
            for session in self._table.values()
            if session.connection is not None and session.connection.heard_ns >= since_ns
        ]

    def heard(self, session_id: int) -> None:
        """Another server has heard of the session."""
        session = self._table.get(session_id)
        if session is not None:
            self._touch(session, time.monotonic_ns())

    def claimed(self, session_id: int, timeout_ms: int) -> None:
        """The session goes on over a new connection, perhaps at another server."""
        session = self._table.get(session_id)
        if session is not None:
            session.timeout_ms = timeout_ms
            self._touch(session, time.monotonic_ns())

    def moved(self, session_id: int) -> None:
        """The session goes on at another server: close its connection here, if it has one."""
        session = self._table.get(session_id)
        if session is not None and session.connection is not None:
            connection, session.connection = session.connection, None
            self._touch(session, connection.heard_ns)
            connection.end()

    def closing(self, session_id: int) -> None:
        """Its closeSession is proposed: nobody attaches to it any more."""
        session = self._table.get(session_id)
        if session is not None:
            session.closing = True

    # -- local sessions ---------------------------------------------------------------------------------------

    @property
    def local_count(self) -> int:
        """How many sessions are this server's alone."""
        return len(self._local)

    def local_sessions(self) -> Iterator[Session]:
        """Those."""
        return iter(self._local.values())

    def open_local(self, timeout_ms: int, *, read_only: bool = False) -> int:
        """Begin a local session; its id. ``read_only``: there is no leader."""
        session = Session(self.new_id(), timeout_ms, local=True, read_only=read_only)
        self._local[session.id] = session
        self._touch(session, time.monotonic_ns())
        if read_only:
            first, end = self._read_only_ids
            self._read_only_ids = (first if first < end else session.id, session.id + 1)
        return session.id

    def end_local(self, session_id: int) -> None:
        """A local session is over; its connection, if it has one, is closed by whoever ended it."""
        session = self._local.pop(session_id, None)
        if session is not None:
            self._local_deadlines.remove(session)

    def end_read_only(self) -> None:
        """There is a leader: what was opened without one ends."""
        for session in [session for session in self._local.values() if session.read_only]:
            if session.connection is not None:
                session.connection.end()
            self.end_local(session.id)
        self._read_only_ids = (0, 0)

    def expire_local(self) -> list[int]:
        """End the local sessions whose timeout has passed; which ones those were."""
        due = self._expired(self._local_deadlines)
        for session_id in due:
            self.end_local(session_id)
        return due

    def may_be_elsewhere(self, session_id: int) -> bool:
        """For a server without a leader: whether a session that it does not serve may be alive somewhere."""
        first, end = self._read_only_ids
        return session_id not in self._local and not first <= session_id < end

    # -- replicated state -------------------------------------------------------------------------------------

    def on_transaction(self, session_id: int, timeout_ms: int | None) -> None:
        """A createSession (with its timeout) or closeSession (None) was applied."""
        if timeout_ms is not None:
            session = self._upgraded(session_id) or self._table.get(session_id) or Session(session_id, timeout_ms)
            session.timeout_ms = timeout_ms
            self._table[session_id] = session
            self._touch(session, time.monotonic_ns())
            return
        gone = self._table.pop(session_id, None)
        if gone is not None:
            self._deadlines.remove(gone)
            if gone.connection is not None:
                gone.connection.end()

    def _upgraded(self, session_id: int) -> Session | None:
        """A session that was local here and is not any more."""
        session = self._local.pop(session_id, None)
        if session is not None:
            self._local_deadlines.remove(session)
            session.local = False
            if session.connection is not None:
                session.connection.local = False
        return session

    def encode(self) -> bytes:
        """The table for a checkpoint."""
        return b"".join(_SESSION.pack(session.id, session.timeout_ms) for session in self._table.values())

    def load(self, blob: bytes) -> None:
        """Restore the table of a checkpoint. Raises ValueError if it is malformed."""
        if len(blob) % _SESSION.size:
            raise ValueError(f"a table of sessions of {len(blob)} bytes")
        for session_id, timeout_ms in _SESSION.iter_unpack(blob):
            self.on_transaction(session_id, timeout_ms)

    def renew(self) -> None:
        """Give every session its full timeout again: the server was away, not the clients."""
        now = time.monotonic_ns()
        for session in (*self._table.values(), *self._local.values()):
            self._touch(session, now)

    # -- expiry -----------------------------------------------------------------------------------------------

    def expired(self) -> list[int]:
        """The sessions whose timeout has passed, but for local ones; they count as closing from now on."""
        return self._expired(self._deadlines)

    def _expired(self, deadlines: _Deadlines) -> list[int]:
        now = time.monotonic_ns()
        due: list[int] = []
        for session in deadlines.due(now):
            connection = session.connection
            if connection is not None:
                deadline = connection.heard_ns + session.timeout_ms * 1_000_000
                session.deadline_ns = max(session.deadline_ns, deadline)
            if session.deadline_ns > now:
                deadlines.file(session)
            elif not session.closing:
                session.closing = True
                due.append(session.id)
                if connection is not None:
                    # What came now would be proposed behind the end of its session.
                    connection.end()
        return due

    def reopen(self, session_ids: list[int]) -> None:
        """These could not be expired after all (no space to record it): try again at the next tick."""
        for session_id in session_ids:
            session = self._table.get(session_id)
            if session is not None:
                session.closing = False
                self._touch(session, time.monotonic_ns() - session.timeout_ms * 1_000_000)

    def expiry_ms(self, session: Session) -> int:
        """When the session will expire if nothing is heard of it, in milliseconds of the epoch."""
        heard = session.connection.heard_ns if session.connection is not None else 0
        deadline = max(session.deadline_ns, heard + session.timeout_ms * 1_000_000)
        return int(time.time() * 1000) + (deadline - time.monotonic_ns()) // 1_000_000

    def _touch(self, session: Session, heard_ns: int) -> None:
        session.deadline_ns = max(session.deadline_ns, heard_ns + session.timeout_ms * 1_000_000)
        (self._local_deadlines if session.local else self._deadlines).file(session)
