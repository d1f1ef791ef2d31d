import asyncio
import ssl
from collections.abc import Callable

from fastzk.server._clients import Client, Clients
from fastzk.server._line import Line
from fastzk.server._reads import Reads
from fastzk.server._watches import Watches
from fastzk.server.sasl import DigestMd5
from fastzk.server.sessions import Sessions

class Service:
    """What the connections of a server share. Made once, by ``app``.

    ``authenticate``: (connection, scheme, data) -> whether it proves an identity. ``four_letter``: the answer to a
    four-letter word, or None. ``on_failure``: told of what must end the server. ``max_frame``: jute.maxbuffer, in
    bytes. ``max_per_host``, ``max_clients``: connections at once; 0: as many as come.
    """

    def __init__(
        self,
        clients: Clients,
        watches: Watches,
        pipeline: Line,
        reads: Reads,
        sessions: Sessions,
        authenticate: Callable[[Connection, str, bytes | None], bool],
        four_letter: Callable[[bytes], bytes | None],
        on_failure: Callable[[BaseException], object],
        *,
        max_frame: int,
        max_per_host: int,
        max_clients: int,
    ) -> None: ...
    @property
    def clients(self) -> Clients: ...
    @property
    def watches(self) -> Watches: ...
    @property
    def pipeline(self) -> Line:
        """Where writes go: a ``Pipeline`` (alone or leading), a ``Following``, or, without a leader, a ``ReadOnly``."""

    @property
    def leaderless(self) -> bool:
        """Whether nobody is served, because there is no leader."""

    @property
    def read_only(self) -> bool:
        """Whether only clients are served that accept a server without a leader."""

    @property
    def reads(self) -> Reads: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def hosts(self) -> dict[str, int]:
        """Connections by address."""

    @property
    def newcomers(self) -> set[Connection]:
        """Connections without a session."""

    @property
    def leaving(self) -> set[Connection]:
        """Connections that end when their last replies are taken."""

    @property
    def large_bytes(self) -> int:
        """Bytes of setWatches above jute.maxbuffer that are under way, as announced."""

    @property
    def stopping(self) -> bool: ...
    @property
    def max_per_host(self) -> int: ...
    @property
    def max_clients(self) -> int: ...

    identify: Callable[[Connection, ssl.SSLObject], bool] | None
    """Gives a TLS client its identities; False refuses the connection. Needed before the first one."""
    sasl: Callable[[Connection, DigestMd5 | None, bytes], tuple[bytes | None, DigestMd5 | None, int]] | None
    """A step of a SASL negotiation: (connection, the negotiation, token) -> (answer, negotiation, error)."""
    throttle: Callable[[bool], bool] | None
    """Whether a client may open a session (False), or go on with one (True); None: without limit."""
    required: frozenset[str] | None
    """Schemes of which a client needs one before its requests are served; None: it needs none."""

    local_sessions: bool
    """Whether new sessions are this server's own (``localSessionsEnabled``),"""
    upgrade_sessions: bool
    """until they create an ephemeral znode, which they cannot otherwise (``localSessionsUpgradingEnabled``)."""

    def connection(self) -> Connection:
        """A protocol for one accepted connection."""

    #: How long one client is served before others have their turn, in nanoseconds.
    turn_ns: int
    def stop(self) -> None:
        """Take no more frames; what is under way is still answered."""

    def suspend(self, reason: str) -> None:
        """There is no leader: nobody is served until ``serve``. Clients that wait for an answer are closed.

        The others stay and are not read; who connects is closed, unless it has a four-letter word to say. Closes the
        line that was in use (``Pipeline.close``, ``Following.close``).
        """

    def serve(self, pipeline: Line) -> None:
        """There is a leader, this server or another: go on, with writes going through ``pipeline``.

        That has to be ready: ``Pipeline.lead`` or ``Following.follow`` comes first. Read-only connections are closed,
        so that their clients come again for a session that can write.
        """

    def dismiss(self) -> int:
        """Close the connections of all clients that have a session or ask for one; how many those were."""

    def serve_read_only(self, pipeline: Line) -> None:
        """There is still no leader: serve clients that accept this, with a ``ReadOnly``, until ``serve``."""

    def close_late(self, limit_ns: int) -> None:
        """Close those who take their time: to ask for a session, to take their last replies (both ``limit_ns``
        nanoseconds), and to send a large setWatches. Called by the clock."""

    def admit(self) -> None:
        """Let those who wait to send a large setWatches go on, as far as there is room."""

class Connection(Client, asyncio.BufferedProtocol):
    """The protocol object of one client's socket."""

    def __init__(self, service: Service) -> None: ...
    @property
    def service(self) -> Service: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def began_ns(self) -> int:
        """When it was accepted, in monotonic nanoseconds."""

    @property
    def began_wall_ms(self) -> int:
        """The same in milliseconds of the epoch."""

    @property
    def timeout_ms(self) -> int:
        """The session's timeout as negotiated."""

    @property
    def is_open(self) -> bool:
        """Whether the connection has a session."""

    @property
    def is_reading(self) -> bool:
        """Whether the server takes more of it."""

    @property
    def queued(self) -> int:
        """Bytes of replies that the client has not taken."""

    def go_on(self) -> None:
        """It has given way to others, and goes on."""

    def close(self) -> None:
        """Close once everything given to the transport is sent."""

    def abort(self) -> None:
        """Close now; unsent replies are lost."""

    def end(self) -> None:
        """The session ended otherwise than by this connection's own request: close."""
