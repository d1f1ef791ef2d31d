from collections.abc import Iterator

class Client:
    """One connected client, without its socket. Times are monotonic nanoseconds, latencies nanoseconds."""

    #: When its last bytes came.
    heard_ns: int
    #: Whether its session is a local one, which only this server knows.
    local: bool
    @property
    def session_id(self) -> int:
        """0: it has no session yet."""

    @property
    def slot(self) -> int:
        """Its number in ``Clients``; 0: not registered."""

    @property
    def closed(self) -> bool: ...
    @property
    def watch_count(self) -> int:
        """The paths that it watches."""

    @property
    def outstanding(self) -> int:
        """Its requests that wait for the disk."""

    @property
    def received(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def last_op(self) -> int: ...
    @property
    def last_cxid(self) -> int: ...
    @property
    def last_zxid(self) -> int: ...
    @property
    def last_reply_ns(self) -> int: ...
    @property
    def latency_last(self) -> int: ...
    @property
    def latency_min(self) -> int: ...
    @property
    def latency_max(self) -> int: ...
    @property
    def latency_total(self) -> int: ...
    @property
    def latency_count(self) -> int: ...
    def add_identity(self, scheme: str, who: str) -> None:
        """Add an identity that the client has proven; one that it has already is not repeated."""

    def identities(self) -> list[tuple[str, str]]:
        """The (scheme, id) pairs of the client, in the order in which they came."""

    def reset_counters(self) -> None:
        """Zero what ``cons`` shows (the four-letter word ``crst``)."""

class Clients:
    """Every connected client by number, with the server's counters; latencies in nanoseconds."""

    #: The last one applied: what reply headers carry.
    zxid: int
    @property
    def count(self) -> int: ...
    @property
    def received(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def latency_min(self) -> int: ...
    @property
    def latency_max(self) -> int: ...
    @property
    def latency_total(self) -> int: ...
    @property
    def latency_count(self) -> int: ...
    def add(self, client: Client) -> None:
        """Register a client and give it its number."""

    def remove(self, client: Client) -> None:
        """Forget a client; its watches must be gone already."""

    def flush_all(self) -> None:
        """Send everything that waits to be sent."""

    def reset_counters(self) -> None:
        """Zero the server's counters (the four-letter word ``srst``)."""

    # Whoever looks at the clients of a running server finds connections; only unit tests register others.
    def __iter__(self) -> Iterator[Connection]: ...
    def __len__(self) -> int: ...

from fastzk.server._connection import Connection  # noqa: E402  # it derives from Client
