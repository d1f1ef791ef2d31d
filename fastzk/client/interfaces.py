"""What the parts of a client expect of each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias


class Tracer(Protocol):
    """An observer that hears of the beginning of a request, too. Neither method may raise, block or make requests."""

    def began(self, opcode: int, /) -> object:
        """A request is made: called by who makes it. What it returns is handed to ``ended``."""

    def ended(self, token: Any, opcode: int, path: str | None, error: int, seconds: float, /) -> object:
        """It ended, with an error code or 0: called by who read the reply."""


#: Called as (opcode, path, error code or 0, seconds) for each request that ended. Must not raise, block or make
#: requests.
Observer: TypeAlias = Callable[[int, str | None, int, float], object] | Tracer


class Sink(Protocol):
    """Who waits for a reply: a Call or an asyncio future."""

    def done(self) -> bool: ...
    def set_result(self, value: Any, /) -> object: ...
    def set_exception(self, error: Any, /) -> object: ...


class Delegate(Protocol):
    """What a channel tells while it reads; none of it may block or read.

    What the handshake, a control reply or SASL raises goes through to who gave the bytes, who drops the connection.
    """

    def on_handshake(self, timeout_ms: int, session_id: int, password: bytes, read_only: bool, /) -> None: ...
    def on_event(self, kind: int, state: int, path: str, /) -> None: ...
    def on_control(self, xid: int, err: int, /) -> None: ...
    def on_sasl(self, err: int, token: bytes | None, /) -> None: ...
    def on_watch(self, op: int, missing: bool, path: str, watch: Any, /) -> None: ...
