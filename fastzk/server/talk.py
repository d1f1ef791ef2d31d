"""What the servers of an ensemble say to one another besides the broadcast's messages.

A frame is its kind, one byte, and a body; integers are little-endian::

    FORWARD  follower -> leader  requests of its clients, as ``Following`` makes them and ``Pipeline`` reads them
    OUTCOME  leader -> follower  what becomes of them; precedes the batch that it speaks of
    HEARD    follower -> leader  i64 each: sessions it heard of
    MOVED    leader -> follower  i64: this session goes on elsewhere
    STATE    leader -> follower  i64 stream, a frame of a full state (``transfer.py``)
    DIGEST   leader -> follower  i64 zxid, u64: the tree's digest there
    SECRET   leader -> follower  the key of the sessions' passwords; precedes ``NewLeader``

They come on the same connections as the broadcast's messages, so in one order with them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Final

from fastzk.server._following import Following
from fastzk.server._pipeline import Pipeline
from fastzk.server.config import Config
from fastzk.server.peers import Peers
from fastzk.server.recovery import Recovered, adopt_secret
from fastzk.server.serving import Serving
from fastzk.server.zab.core import Core
from fastzk.server.zab.messages import LAST_TYPE

FORWARD: Final = 0x40
OUTCOME: Final = 0x41
HEARD: Final = 0x42
MOVED: Final = 0x43
STATE: Final = 0x44
DIGEST: Final = 0x45
SECRET: Final = 0x46
assert LAST_TYPE < FORWARD

_FORWARD = bytes([FORWARD])
_OUTCOME = bytes([OUTCOME])
_MOVED = struct.Struct("<Bq")
_DIGEST = struct.Struct("<BqQ")
_STATE = struct.Struct("<Bq")


class Talk:
    """Sends these frames for server ``my_id``, and hands those that came to whom they are for.

    The ways of a write, ``pipeline`` and ``following``, have theirs sent by it from now on.

    ``on_state`` (stream, frame) gets the parts of full states, ``on_digest`` (zxid, digest) the leader's digests.
    """

    def __init__(
        self,
        my_id: int,
        config: Config,
        recovered: Recovered,
        *,
        core: Core,
        peers: Peers,
        pipeline: Pipeline,
        following: Following,
        serving: Serving,
        on_state: Callable[[int, memoryview], object],
        on_digest: Callable[[int, int], object],
    ) -> None:
        self._id = my_id
        self._config = config
        self._core = core
        self._peers = peers
        self._pipeline = pipeline
        self._following = following
        self._serving = serving
        self._applier = recovered.applier
        self._tree = recovered.tree
        self._sessions = recovered.sessions
        self._on_state = on_state
        self._on_digest = on_digest
        #: The keys that servers named before they said that they lead.
        self._secrets: dict[int, bytes] = {}
        self._heard_since = time.monotonic_ns()
        pipeline.send_outcome = self._send_outcome
        pipeline.on_claim = self._claimed
        following.send_forward = self._forward

    def take(self, peer: int, body: memoryview) -> None:
        """A frame of `peer`, which is not of the broadcast. Raises ValueError or struct.error if it is not good."""
        kind = body[0]
        if kind == FORWARD:
            if self._core.leading is not None and not self._pipeline.forwarded(peer, body, 1):
                raise ValueError("requests are missing")
        elif kind == HEARD:
            if self._serving.leading:
                for (session,) in struct.iter_unpack("<q", body[1:]):
                    self._sessions.heard(session)
        elif kind == SECRET:
            secret = bytes(body[1:])
            if not 16 <= len(secret) <= 64:
                raise ValueError(f"a key of {len(secret)} bytes for the sessions' passwords")
            self._secrets[peer] = secret
        elif peer != self._core.leader:
            return  # it leads no more, or not yet, as far as this server knows
        elif kind == OUTCOME:
            self._following.outcome(body, 1)
        elif kind == MOVED:
            self._sessions.moved(_MOVED.unpack(body)[1])
        elif kind == STATE:
            self._on_state(_STATE.unpack_from(body)[1], body[_STATE.size :])
        elif kind == DIGEST:
            self._on_digest(*_DIGEST.unpack(body)[1:])
        else:
            raise ValueError(f"a frame of the unknown kind 0x{kind:x}")

    # -- requests of followers' clients ------------------------------------------------------------------------------

    def _forward(self, frame: bytes) -> None:
        """Requests for the leader; nothing happens if there is none."""
        leader = self._core.leader
        if leader is not None:
            self._peers.post(leader, (_FORWARD, frame), True)
            self._peers.flush()  # these are all of this turn of the loop: nothing is won by waiting for its end

    def _send_outcome(self, server: int, frame: bytes, along: bool) -> None:
        """What becomes of requests of `server`; `along`: it may go with the batch that is about to be made of them."""
        self._peers.post(server, (_OUTCOME, frame), along)

    # -- full states -------------------------------------------------------------------------------------------------

    def send_state(self, server: int, stream: int, frame: bytes) -> None:
        """A part of a full state."""
        self._peers.send(server, _STATE.pack(STATE, stream), frame)

    # -- sessions ----------------------------------------------------------------------------------------------------

    def _claimed(self, session: int, server: int, timeout_ms: int) -> None:
        """A session's client has connected to `server`: its connections elsewhere are over."""
        self._sessions.claimed(session, timeout_ms)
        if server != self._id:
            self._sessions.moved(session)
        moved = _MOVED.pack(MOVED, session)
        for peer in self._core.peers - {server}:
            self._peers.send(peer, moved)

    def report(self) -> None:
        """Tell the leader which sessions were heard of, the followers the tree's digest. A few times in a tick."""
        if self._serving.leading:
            digest = _DIGEST.pack(DIGEST, self._applier.zxid, self._tree.digest)
            for peer in self._core.peers:
                self._peers.send(peer, digest)
        elif self._serving.leading is False:
            since, self._heard_since = self._heard_since, time.monotonic_ns()
            heard = self._sessions.heard_since(since)
            leader = self._core.leader
            if heard and leader is not None:
                self._peers.send(leader, struct.pack(f"<B{len(heard)}q", HEARD, *heard))

    # -- the key of the sessions' passwords: one in the whole ensemble, that of its first leader ----------------------

    def send_secret(self, server: int) -> None:
        """Tell it to a server that is about to hear that this one leads."""
        self._peers.send(server, bytes([SECRET]), self._sessions.secret)

    def adopt_secret(self, leader: int) -> None:
        """This server follows `leader`: its key counts. Raises OSError."""
        secret = self._secrets.get(leader)
        if secret is not None and adopt_secret(self._config, self._sessions.secret, secret):
            self._sessions.secret = secret

    def forget(self, server: int) -> None:
        """The connection to `server` is over, and what it said of its key with it."""
        self._secrets.pop(server, None)
