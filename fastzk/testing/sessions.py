"""Ending a client's session behind its back."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Final

from fastzk._codec import encode, encode_frame
from fastzk.protocol import OpCode
from fastzk.records import ConnectRequest, RequestHeader

if TYPE_CHECKING:
    from fastzk.client.operations import Operations

#: Seconds for all attempts, and for one: where the client was quicker, a server may leave the connection unanswered.
PATIENCE: Final = 30.0
ATTEMPT: Final = 3.0


def expire_session(client: Operations, host: str | None = None, port: int | None = None) -> None:
    """Have the server end the session of a client, as if it had expired.

    Works with both clients, and with any server. The client finds out as it would otherwise: its connection breaks,
    and when it connects again, the server does not know the session any more.

    :param client: it must be connected.
    :param host: the server to tell; the client's first one where it is None.
    :param port: of that server.
    :raises ValueError: when the client is not connected.
    :raises TimeoutError: when the server does not do it.
    """
    identity = client.client_id
    if identity is None:
        raise ValueError("the client has no session")
    server = (host or client.hosts[0][0], port or client.hosts[0][1])
    session_id, password = identity
    take_over = encode(ConnectRequest, (0, 0, round(client.session_timeout * 1000), session_id, password, False))
    close = encode(RequestHeader, (1, OpCode.CLOSE_SESSION))
    until = time.monotonic() + PATIENCE
    while not _ended(server, encode_frame(take_over) + encode_frame(close)):
        if time.monotonic() >= until:
            raise TimeoutError("the server does not end the session")


def _ended(server: tuple[str, int], frames: bytes) -> bool:
    """Whether the server has closed the session, or did not know it any more."""
    received = b""
    try:
        with socket.create_connection(server, timeout=ATTEMPT) as sock:
            # In one go; but the client may still take its session back before the second frame is read.
            sock.sendall(frames)
            while chunk := sock.recv(65536):
                received += chunk
    except OSError:
        pass
    if len(received) < 12:
        return False
    length: int
    timeout_ms: int
    length, _, timeout_ms = struct.unpack_from(">iii", received)
    return timeout_ms <= 0 or len(received) > 4 + length
