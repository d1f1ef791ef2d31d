import asyncio
import ssl
from collections.abc import Callable

from fastzk.server._clients import Client, Clients
from fastzk.server._pipeline import Pipeline
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
        pipeline: Pipeline,
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
    def pipeline(self) -> Pipeline: ...
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

    def connection(self) -> Connection:
        """A protocol for one accepted connection."""

    def stop(self) -> None:
        """Take no more frames; what is under way is still answered."""

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

    def close(self) -> None:
        """Close once everything given to the transport is sent."""

    def abort(self) -> None:
        """Close now; unsent replies are lost."""

    def end(self) -> None:
        """The session ended otherwise than by this connection's own request: close."""
